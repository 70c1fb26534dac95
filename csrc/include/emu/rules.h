/* SPDX-License-Identifier: Apache-2.0
 *
 * What a queue pair does next: one pure function, (state, event) -> actions. No clock, no I/O, no memory but its
 * arguments, so that the engine, the simulator and the explorer call the very same code. Times appear as the encoded
 * attributes (timeout, min_rnr_timer); whoever calls turns them into nanoseconds and reports expiry as an event.
 *
 * Sources: the verbs man pages of rdma-core 44, the InfiniBand state diagram. This file covers RC; other transports
 * are added here, never in the engine.
 */
#ifndef EMU_RULES_H
#define EMU_RULES_H

#include <stdint.h>

enum emu_qp_state { /* IBV_QPS_* */
	EMU_QPS_RESET = 0,
	EMU_QPS_INIT = 1,
	EMU_QPS_RTR = 2,
	EMU_QPS_RTS = 3,
	EMU_QPS_SQD = 4,
	EMU_QPS_SQE = 5,
	EMU_QPS_ERR = 6,
};

enum emu_qp_attr_mask { /* IBV_QP_* */
	EMU_QP_STATE = 1 << 0,
	EMU_QP_CUR_STATE = 1 << 1,
	EMU_QP_EN_SQD_ASYNC_NOTIFY = 1 << 2,
	EMU_QP_ACCESS_FLAGS = 1 << 3,
	EMU_QP_PKEY_INDEX = 1 << 4,
	EMU_QP_PORT = 1 << 5,
	EMU_QP_QKEY = 1 << 6,
	EMU_QP_AV = 1 << 7,
	EMU_QP_PATH_MTU = 1 << 8,
	EMU_QP_TIMEOUT = 1 << 9,
	EMU_QP_RETRY_CNT = 1 << 10,
	EMU_QP_RNR_RETRY = 1 << 11,
	EMU_QP_RQ_PSN = 1 << 12,
	EMU_QP_MAX_QP_RD_ATOMIC = 1 << 13,
	EMU_QP_ALT_PATH = 1 << 14,
	EMU_QP_MIN_RNR_TIMER = 1 << 15,
	EMU_QP_SQ_PSN = 1 << 16,
	EMU_QP_MAX_DEST_RD_ATOMIC = 1 << 17,
	EMU_QP_PATH_MIG_STATE = 1 << 18,
	EMU_QP_CAP = 1 << 19,
	EMU_QP_DEST_QPN = 1 << 20,
};

struct emu_qp_attr {
	uint32_t mask; /* which of the following are set, enum emu_qp_attr_mask */
	uint32_t state, cur_state;
	uint32_t access; /* IBV_ACCESS_* that inbound operations may use */
	uint32_t pkey_index, port, path_mtu, dest_qpn, rq_psn, sq_psn;
	uint32_t timeout, retry_cnt, rnr_retry, min_rnr_timer;
	uint32_t max_rd_atomic, max_dest_rd_atomic;
	uint32_t dlid;
};

/* All that the rules remember of a queue pair. */
struct emu_qp_rules {
	uint32_t state;
	struct emu_qp_attr attr; /* mask unused: the current values */
	uint32_t retries_left, rnr_left;
	uint32_t sq_waiting;   /* the head WR waits for a timer: enum emu_wait */
	uint32_t sq_busy;      /* 1: the head WR has been started and has not ended */
	uint32_t drain_notify; /* 1: SQ_DRAINED is owed when the head WR ends (state SQD) */
};

enum emu_wait {
	EMU_WAIT_NONE = 0,
	EMU_WAIT_ACK = 1, /* no answer came */
	EMU_WAIT_RNR = 2, /* the responder was not ready */
};

enum emu_rule_event {
	EMU_EV_MODIFY,    /* attr: what modify_qp asked for */
	EMU_EV_HEAD,      /* the head of the send queue wants to start */
	EMU_EV_OUTCOME,   /* the head WR's attempt ended: outcome */
	EMU_EV_TIMER,     /* the armed timer ran out */
	EMU_EV_INBOUND,   /* a request arrived: opcode, check = what the memory and receive queue checks said */
	EMU_EV_BROKEN,    /* the client's ring is garbage (index jumped, bad geometry) */
	EMU_EV_CQ_ERROR,  /* one of its CQs overflowed */
	EMU_EV_PEER_DEAD, /* device or context of this QP goes away */
	EMU_EV_PROGRESS,  /* a part of the head WR was acknowledged: the counts of retries start anew */
};

/* How an attempt, or the check of an inbound request, ended. */
enum emu_outcome {
	EMU_OUT_OK,
	EMU_OUT_LOC_PROT,  /* local key: unknown, other PD, right missing, out of range, revoked */
	EMU_OUT_LOC_LEN,   /* message longer than allowed */
	EMU_OUT_LOC_QP_OP, /* opcode that this queue pair cannot do, malformed WQE */
	EMU_OUT_REM_ACCESS,
	EMU_OUT_REM_INV_REQ,
	EMU_OUT_REM_OP,
	EMU_OUT_RNR,       /* no receive WQE, or a fault at the responder */
	EMU_OUT_NO_ANSWER, /* peer QP missing, not ready or in ERR */
};

enum emu_rule_action {
	EMU_ACT_EXECUTE = 1 << 0,       /* start (or start again) the head WR */
	EMU_ACT_COMPLETE = 1 << 1,      /* complete the head WR with .status; in a success only if signaled */
	EMU_ACT_FLUSH_SEND = 1 << 2,    /* complete everything behind it with WR_FLUSH_ERR */
	EMU_ACT_FLUSH_RECV = 1 << 3,
	EMU_ACT_ARM_ACK = 1 << 4,       /* arm the timer from attr.timeout */
	EMU_ACT_ARM_RNR = 1 << 5,       /* arm the timer from .rnr_timer */
	EMU_ACT_EVENT = 1 << 6,         /* raise asynchronous event .event */
	EMU_ACT_ACK = 1 << 7,           /* inbound: carry it out and answer */
	EMU_ACT_NAK = 1 << 8,           /* inbound: refuse, the requester gets .outcome */
	EMU_ACT_RECV_ERROR = 1 << 9,    /* inbound: the receive WQE in use completes with .status */
	EMU_ACT_RESET = 1 << 10,        /* forget both queues, purge CQEs */
	EMU_ACT_HOLD = 1 << 11,         /* do nothing now (not ready, draining, waiting for the timer) */
	EMU_ACT_DISARM = 1 << 12,
};

enum emu_async_event { /* IBV_EVENT_* */
	EMU_EVENT_CQ_ERR = 0,
	EMU_EVENT_QP_FATAL = 1,
	EMU_EVENT_QP_REQ_ERR = 2,
	EMU_EVENT_QP_ACCESS_ERR = 3,
	EMU_EVENT_COMM_EST = 4,
	EMU_EVENT_SQ_DRAINED = 5,
	EMU_EVENT_DEVICE_FATAL = 8,
};

struct emu_rule_in {
	uint32_t event;   /* enum emu_rule_event */
	uint32_t outcome; /* OUTCOME and INBOUND: enum emu_outcome */
	uint32_t opcode;  /* INBOUND: enum emu_wr_opcode */
	uint32_t uses_recv; /* INBOUND: a receive WQE was taken for it */
	uint32_t peer_min_rnr; /* OUTCOME RNR: the responder's min_rnr_timer */
	struct emu_qp_attr attr; /* MODIFY */
};

struct emu_rule_out {
	uint32_t actions; /* bits of enum emu_rule_action */
	uint32_t status;  /* enum emu_wc_status */
	uint32_t event;   /* enum emu_async_event */
	uint32_t outcome; /* enum emu_outcome, for NAK */
	uint32_t rnr_timer;
};

/* Apply one event. Returns 0, or -EINVAL for an illegal MODIFY (then nothing has changed and out->actions is 0). */
int emu_qp_step(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out);

/* The encoded times of the specification, in nanoseconds, unscaled. timeout 0 = for ever = 0. */
uint64_t emu_ack_timeout_ns(uint32_t timeout);
uint64_t emu_rnr_timer_ns(uint32_t min_rnr_timer);

#endif
