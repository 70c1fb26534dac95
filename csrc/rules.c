/* SPDX-License-Identifier: Apache-2.0
 *
 * rules.h: the RC queue pair as tables plus the few functions that run them.
 *
 *   RESET --> INIT --> RTR --> RTS <--> SQD        any --> ERR, any --> RESET
 *
 * A requester's head WR:   idle --EXECUTE--> busy --OUTCOME--> done, or waiting for a timer --TIMER--> busy again
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include <emu/ring.h>
#include <emu/rules.h>

#define STATES 7
#define MAX_24_BIT 0xffffffu

/* ---- which steps are legal: mandatory and optional attributes, besides EMU_QP_STATE itself */

struct step {
	uint8_t legal;
	uint32_t required, optional;
};

static const struct step steps[STATES][STATES] = {
	[EMU_QPS_RESET][EMU_QPS_INIT] = { 1, EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_ACCESS_FLAGS, 0 },
	[EMU_QPS_INIT][EMU_QPS_INIT] = { 1, 0, EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_ACCESS_FLAGS },
	[EMU_QPS_INIT][EMU_QPS_RTR] = { 1,
		EMU_QP_AV | EMU_QP_PATH_MTU | EMU_QP_DEST_QPN | EMU_QP_RQ_PSN | EMU_QP_MAX_DEST_RD_ATOMIC |
			EMU_QP_MIN_RNR_TIMER,
		EMU_QP_ALT_PATH | EMU_QP_ACCESS_FLAGS | EMU_QP_PKEY_INDEX },
	[EMU_QPS_RTR][EMU_QPS_RTS] = { 1,
		EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY | EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC,
		EMU_QP_ALT_PATH | EMU_QP_ACCESS_FLAGS | EMU_QP_MIN_RNR_TIMER | EMU_QP_PATH_MIG_STATE },
	[EMU_QPS_RTS][EMU_QPS_RTS] = { 1, 0,
		EMU_QP_ACCESS_FLAGS | EMU_QP_ALT_PATH | EMU_QP_PATH_MIG_STATE | EMU_QP_MIN_RNR_TIMER },
	[EMU_QPS_RTS][EMU_QPS_SQD] = { 1, 0, EMU_QP_EN_SQD_ASYNC_NOTIFY },
	[EMU_QPS_SQD][EMU_QPS_SQD] = { 1, 0,
		EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_AV | EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY |
			EMU_QP_MAX_QP_RD_ATOMIC | EMU_QP_MAX_DEST_RD_ATOMIC | EMU_QP_ALT_PATH | EMU_QP_ACCESS_FLAGS |
			EMU_QP_MIN_RNR_TIMER | EMU_QP_PATH_MIG_STATE },
	[EMU_QPS_SQD][EMU_QPS_RTS] = { 1, 0,
		EMU_QP_ALT_PATH | EMU_QP_ACCESS_FLAGS | EMU_QP_MIN_RNR_TIMER | EMU_QP_PATH_MIG_STATE },
};

/* ---- which values an attribute may have, and where it is kept */

struct domain {
	uint32_t bit;
	size_t offset;
	uint32_t least, most;
};

#define FIELD(name) offsetof(struct emu_qp_attr, name)

static const struct domain domains[] = {
	{ EMU_QP_ACCESS_FLAGS, FIELD(access), 0, UINT32_MAX },
	{ EMU_QP_PKEY_INDEX, FIELD(pkey_index), 0, 0 },
	{ EMU_QP_PORT, FIELD(port), 1, 1 },
	{ EMU_QP_AV, FIELD(dlid), 0, 0xffff },
	{ EMU_QP_PATH_MTU, FIELD(path_mtu), 1, 5 },
	{ EMU_QP_TIMEOUT, FIELD(timeout), 0, 31 },
	{ EMU_QP_RETRY_CNT, FIELD(retry_cnt), 0, 7 },
	{ EMU_QP_RNR_RETRY, FIELD(rnr_retry), 0, 7 },
	{ EMU_QP_RQ_PSN, FIELD(rq_psn), 0, MAX_24_BIT },
	{ EMU_QP_MAX_QP_RD_ATOMIC, FIELD(max_rd_atomic), 0, 255 },
	{ EMU_QP_MIN_RNR_TIMER, FIELD(min_rnr_timer), 0, 31 },
	{ EMU_QP_SQ_PSN, FIELD(sq_psn), 0, MAX_24_BIT },
	{ EMU_QP_MAX_DEST_RD_ATOMIC, FIELD(max_dest_rd_atomic), 0, 255 },
	{ EMU_QP_DEST_QPN, FIELD(dest_qpn), 0, MAX_24_BIT },
};

#define DOMAINS (sizeof(domains) / sizeof(domains[0]))

static uint32_t *field(struct emu_qp_attr *attr, const struct domain *d)
{
	return (uint32_t *)((char *)attr + d->offset);
}

static int values_fit(const struct emu_qp_attr *attr)
{
	struct emu_qp_attr copy = *attr;

	for (size_t i = 0; i < DOMAINS; i++) {
		uint32_t value = *field(&copy, &domains[i]);

		if ((attr->mask & domains[i].bit) && (value < domains[i].least || value > domains[i].most))
			return 0;
	}
	return 1;
}

static void take_values(struct emu_qp_rules *qp, const struct emu_qp_attr *attr)
{
	struct emu_qp_attr copy = *attr;

	for (size_t i = 0; i < DOMAINS; i++)
		if (attr->mask & domains[i].bit)
			*field(&qp->attr, &domains[i]) = *field(&copy, &domains[i]);
}

static int step_is_legal(const struct emu_qp_rules *qp, const struct emu_qp_attr *attr, uint32_t target)
{
	uint32_t mask = attr->mask & ~(uint32_t)(EMU_QP_STATE | EMU_QP_CUR_STATE);
	const struct step *step;

	if (target >= STATES)
		return 0;
	if ((attr->mask & EMU_QP_CUR_STATE) && attr->cur_state != qp->state)
		return 0;
	if (target == EMU_QPS_RESET || target == EMU_QPS_ERR)
		return mask == 0 && (attr->mask & EMU_QP_STATE);
	step = &steps[qp->state][target];
	if (!step->legal || (mask & step->required) != step->required || (mask & ~(step->required | step->optional)))
		return 0;
	return values_fit(attr);
}

/* ---- transitions */

static void refill(struct emu_qp_rules *qp)
{
	qp->retries_left = qp->attr.retry_cnt;
	qp->rnr_left = qp->attr.rnr_retry;
}

static void to_reset(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	memset(qp, 0, sizeof(*qp));
	out->actions |= EMU_ACT_RESET | EMU_ACT_DISARM;
}

/* Everything that is queued is flushed; whoever was in ERR already has nothing more to say. */
static void to_error(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	if (qp->state == EMU_QPS_ERR)
		return;
	qp->state = qp->attr.state = EMU_QPS_ERR;
	qp->sq_waiting = EMU_WAIT_NONE;
	qp->sq_busy = qp->drain_notify = 0;
	out->actions |= EMU_ACT_FLUSH_SEND | EMU_ACT_FLUSH_RECV | EMU_ACT_DISARM;
}

static void raise_event(struct emu_rule_out *out, uint32_t event)
{
	out->actions |= EMU_ACT_EVENT;
	out->event = event;
}

static void drained(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	if (qp->drain_notify && !qp->sq_busy && !qp->sq_waiting) {
		qp->drain_notify = 0;
		raise_event(out, EMU_EVENT_SQ_DRAINED);
	}
}

static int modify(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	uint32_t from = qp->state;
	uint32_t target = in->attr.mask & EMU_QP_STATE ? in->attr.state : from;

	if (!step_is_legal(qp, &in->attr, target))
		return -EINVAL;
	if (target == EMU_QPS_RESET) {
		to_reset(qp, out);
		return 0;
	}
	if (target == EMU_QPS_ERR) {
		to_error(qp, out);
		return 0;
	}
	take_values(qp, &in->attr);
	qp->state = qp->attr.state = target;
	if (target == EMU_QPS_RTS && from == EMU_QPS_RTR)
		refill(qp);
	qp->drain_notify = target == EMU_QPS_SQD && (qp->drain_notify || (in->attr.mask & EMU_QP_EN_SQD_ASYNC_NOTIFY));
	drained(qp, out);
	return 0;
}

/* ---- the requester */

static void head(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	if (qp->state == EMU_QPS_ERR) {
		out->actions |= EMU_ACT_FLUSH_SEND;
	} else if (qp->state != EMU_QPS_RTS || qp->sq_busy || qp->sq_waiting) {
		out->actions |= EMU_ACT_HOLD;
	} else {
		qp->sq_busy = 1;
		out->actions |= EMU_ACT_EXECUTE;
	}
}

static void complete(struct emu_qp_rules *qp, struct emu_rule_out *out, uint32_t status)
{
	out->actions |= EMU_ACT_COMPLETE;
	out->status = status;
	if (status == EMU_WC_SUCCESS) {
		refill(qp);
		drained(qp, out);
	} else {
		to_error(qp, out);
	}
}

static void wait_for(struct emu_qp_rules *qp, struct emu_rule_out *out, uint32_t wait)
{
	qp->sq_waiting = wait;
	out->actions |= wait == EMU_WAIT_RNR ? EMU_ACT_ARM_RNR : EMU_ACT_ARM_ACK;
}

static void not_ready(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	if (qp->attr.rnr_retry != 7 && qp->rnr_left == 0) {
		complete(qp, out, EMU_WC_RNR_RETRY_EXC_ERR);
		return;
	}
	if (qp->attr.rnr_retry != 7)
		qp->rnr_left--;
	out->rnr_timer = in->peer_min_rnr;
	wait_for(qp, out, EMU_WAIT_RNR);
}

static const uint32_t status_of[] = {
	[EMU_OUT_OK] = EMU_WC_SUCCESS,
	[EMU_OUT_LOC_PROT] = EMU_WC_LOC_PROT_ERR,
	[EMU_OUT_LOC_LEN] = EMU_WC_LOC_LEN_ERR,
	[EMU_OUT_LOC_QP_OP] = EMU_WC_LOC_QP_OP_ERR,
	[EMU_OUT_REM_ACCESS] = EMU_WC_REM_ACCESS_ERR,
	[EMU_OUT_REM_INV_REQ] = EMU_WC_REM_INV_REQ_ERR,
	[EMU_OUT_REM_OP] = EMU_WC_REM_OP_ERR,
};

static void outcome(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	if (!qp->sq_busy) { /* flushed or reset meanwhile: the flush speaks for it */
		out->actions |= EMU_ACT_HOLD;
		return;
	}
	qp->sq_busy = 0;
	if (in->outcome == EMU_OUT_RNR)
		not_ready(qp, in, out);
	else if (in->outcome >= EMU_OUT_NO_ANSWER)
		wait_for(qp, out, EMU_WAIT_ACK);
	else
		complete(qp, out, status_of[in->outcome]);
}

/* A long message is many packets; what is counted is how often *nothing* came through. */
static void progress(struct emu_qp_rules *qp)
{
	if (qp->sq_busy)
		refill(qp);
}

static void timer(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	uint32_t wait = qp->sq_waiting;

	qp->sq_waiting = EMU_WAIT_NONE;
	if (wait == EMU_WAIT_NONE) {
		out->actions |= EMU_ACT_HOLD;
	} else if (wait == EMU_WAIT_ACK && qp->retries_left == 0) {
		complete(qp, out, EMU_WC_RETRY_EXC_ERR);
	} else {
		qp->retries_left -= wait == EMU_WAIT_ACK;
		qp->sq_busy = 1;
		out->actions |= EMU_ACT_EXECUTE;
	}
}

/* ---- the responder */

/* What the QP itself must allow for this opcode; SEND needs nothing. */
static const uint32_t right_of[] = {
	[EMU_WR_RDMA_WRITE] = 1 << 1,
	[EMU_WR_RDMA_WRITE_WITH_IMM] = 1 << 1,
	[EMU_WR_SEND] = 0,
	[EMU_WR_SEND_WITH_IMM] = 0,
	[EMU_WR_RDMA_READ] = 1 << 2,
	[EMU_WR_ATOMIC_CMP_AND_SWP] = 1 << 3,
	[EMU_WR_ATOMIC_FETCH_AND_ADD] = 1 << 3,
};

static int right_missing(const struct emu_qp_rules *qp, uint32_t opcode)
{
	if (opcode >= sizeof(right_of) / sizeof(right_of[0]))
		return 1;
	return (qp->attr.access & right_of[opcode]) != right_of[opcode];
}

/* How each refusal looks on the three sides: to the requester, in the receive WQE that was in use, as an event. */
struct refusal {
	uint32_t answer, recv_status, event;
};

static const struct refusal refusals[] = {
	[EMU_OUT_LOC_PROT] = { EMU_OUT_REM_OP, EMU_WC_LOC_PROT_ERR, EMU_EVENT_QP_FATAL },
	[EMU_OUT_LOC_LEN] = { EMU_OUT_REM_INV_REQ, EMU_WC_LOC_LEN_ERR, EMU_EVENT_QP_REQ_ERR },
	[EMU_OUT_LOC_QP_OP] = { EMU_OUT_REM_OP, EMU_WC_LOC_QP_OP_ERR, EMU_EVENT_QP_FATAL },
	[EMU_OUT_REM_ACCESS] = { EMU_OUT_REM_ACCESS, EMU_WC_LOC_ACCESS_ERR, EMU_EVENT_QP_ACCESS_ERR },
	[EMU_OUT_REM_INV_REQ] = { EMU_OUT_REM_INV_REQ, EMU_WC_LOC_QP_OP_ERR, EMU_EVENT_QP_REQ_ERR },
	[EMU_OUT_REM_OP] = { EMU_OUT_REM_OP, EMU_WC_LOC_QP_OP_ERR, EMU_EVENT_QP_FATAL },
};

static void refuse(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out, uint32_t why)
{
	const struct refusal *r = &refusals[why];

	out->actions |= EMU_ACT_NAK;
	out->outcome = r->answer;
	if (in->uses_recv) {
		out->actions |= EMU_ACT_RECV_ERROR;
		out->status = r->recv_status;
	} else {
		raise_event(out, r->event);
	}
	to_error(qp, out);
}

static void inbound(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	if (qp->state != EMU_QPS_RTR && qp->state != EMU_QPS_RTS && qp->state != EMU_QPS_SQD) {
		out->actions |= EMU_ACT_HOLD;
		out->outcome = EMU_OUT_NO_ANSWER;
	} else if (right_missing(qp, in->opcode)) {
		refuse(qp, in, out, EMU_OUT_REM_INV_REQ);
	} else if (in->outcome == EMU_OUT_OK) {
		out->actions |= EMU_ACT_ACK;
	} else if (in->outcome == EMU_OUT_RNR) {
		out->actions |= EMU_ACT_NAK;
		out->outcome = EMU_OUT_RNR;
		out->rnr_timer = qp->attr.min_rnr_timer;
	} else if (in->outcome >= EMU_OUT_NO_ANSWER) {
		out->actions |= EMU_ACT_HOLD;
		out->outcome = EMU_OUT_NO_ANSWER;
	} else {
		refuse(qp, in, out, in->outcome);
	}
}

/* The ring is garbage or a CQ lost entries: nothing can be reported through them, so an event does. */
static void broken(struct emu_qp_rules *qp, struct emu_rule_out *out)
{
	if (qp->state == EMU_QPS_ERR)
		return;
	raise_event(out, EMU_EVENT_QP_FATAL);
	to_error(qp, out);
}

int emu_qp_step(struct emu_qp_rules *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	memset(out, 0, sizeof(*out));
	switch (in->event) {
	case EMU_EV_MODIFY:
		return modify(qp, in, out);
	case EMU_EV_HEAD:
		head(qp, out);
		return 0;
	case EMU_EV_OUTCOME:
		outcome(qp, in, out);
		return 0;
	case EMU_EV_TIMER:
		timer(qp, out);
		return 0;
	case EMU_EV_INBOUND:
		inbound(qp, in, out);
		return 0;
	case EMU_EV_BROKEN:
	case EMU_EV_CQ_ERROR:
		broken(qp, out);
		return 0;
	case EMU_EV_PEER_DEAD:
		to_error(qp, out);
		return 0;
	case EMU_EV_PROGRESS:
		progress(qp);
		return 0;
	}
	return -EINVAL;
}

/* ---- encoded times */

uint64_t emu_ack_timeout_ns(uint32_t timeout)
{
	return timeout ? 4096ull << (timeout & 31) : 0;
}

uint64_t emu_rnr_timer_ns(uint32_t min_rnr_timer)
{
	static const uint32_t hundredths_of_ms[32] = {
		65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192,
		256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
	};

	return hundredths_of_ms[min_rnr_timer & 31] * 10000ull;
}
