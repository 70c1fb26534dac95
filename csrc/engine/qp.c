/* SPDX-License-Identifier: Apache-2.0
 *
 * A queue pair between operations: its rules' answers carried out, completions written, queues flushed.
 *
 * The rules and both consumer indexes are under the QP's lock, so that the control thread (modify), the owner (its own
 * requests) and a peer's owner (requests that arrive) each see a whole state. `gen` grows whenever everything under way
 * becomes void; whoever moves bytes for this QP compares it inside each section.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

#define WRS_A_TURN 16
#define FLUSHES_A_TURN 64

/* ---- completions */

static void wake_waiters(struct emu_cq *cq)
{
	emu_handshake(); /* with emu_ring_wait, which stores waiters, handshakes and looks for a completion */
	if (emu_peek(&cq->seg->waiters))
		syscall(SYS_futex, &cq->seg->prod, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Precondition: cq lock. Whatever the client wrote as `cons`: unless there is room by it, the queue has overrun. */
static int room(struct emu_cq *cq)
{
	if (!cq->error && cq->prod - emu_observe(&cq->seg->cons) >= cq->depth) {
		emu_publish(&cq->error, 1);
		emu_publish(&cq->seg->overrun, 1);
		events_tell(&cq->ctx->thread->e->events, &(struct emu_engine_event){ .kind = EMU_ENG_ASYNC,
			.id = cq->number, .code = EMU_EVENT_CQ_ERR });
	}
	return !cq->error;
}

static int cq_put(struct emu_cq *cq, const struct emu_cqe *cqe)
{
	struct emu_cqe *slot;
	int ok;

	pthread_mutex_lock(&cq->lock);
	ok = room(cq);
	if (ok) {
		slot = &cq->ring[cq->prod & (cq->depth - 1)];
		memcpy(slot, cqe, offsetof(struct emu_cqe, seq));
		emu_publish(&slot->seq, 1 + (cq->prod >> cq->order));
		emu_publish(&cq->seg->prod, ++cq->prod);
	}
	pthread_mutex_unlock(&cq->lock);
	wake_waiters(cq);
	return ok ? 0 : -EOVERFLOW;
}

static void cq_failed(struct emu_qp *qp)
{
	struct emu_rule_in in = { .event = EMU_EV_CQ_ERROR };
	struct emu_rule_out out;

	qp_apply_step(qp, &in, &out);
}

static const uint8_t wc_opcode[] = {
	[EMU_WR_RDMA_WRITE] = EMU_WC_RDMA_WRITE,
	[EMU_WR_RDMA_WRITE_WITH_IMM] = EMU_WC_RDMA_WRITE,
	[EMU_WR_SEND] = EMU_WC_SEND,
	[EMU_WR_SEND_WITH_IMM] = EMU_WC_SEND,
	[EMU_WR_RDMA_READ] = EMU_WC_RDMA_READ,
	[EMU_WR_ATOMIC_CMP_AND_SWP] = EMU_WC_COMP_SWAP,
	[EMU_WR_ATOMIC_FETCH_AND_ADD] = EMU_WC_FETCH_ADD,
};

void qp_complete_send(struct emu_qp *qp, uint32_t status)
{
	const struct op *op = &qp->op;
	uint8_t opcode = op->wqe.opcode;
	struct emu_cqe cqe = { .wr_id = op->wqe.wr_id, .status = status, .qp_num = qp->num,
		.opcode = opcode < sizeof(wc_opcode) ? wc_opcode[opcode] : 0, .byte_len = (uint32_t)op->total,
		.wq_head = ++qp->sq.cons };

	if (status == EMU_WC_SUCCESS && !qp->sig_all && !(op->wqe.flags & EMU_SEND_SIGNALED))
		return;
	if (cq_put(qp->send_cq, &cqe))
		cq_failed(qp);
}

void qp_complete_recv(struct emu_qp *qp, const struct emu_cqe *cqe)
{
	struct emu_cqe mine = *cqe;

	mine.qp_num = qp->num;
	mine.is_recv = 1;
	mine.wq_head = ++qp->rq.cons;
	qp->inbound = 0;
	if (cq_put(qp->recv_cq, &mine))
		cq_failed(qp);
}

/* ---- work queues */

int64_t wq_pending(struct wq *q)
{
	uint32_t n = emu_observe(q->shared_prod) - q->cons;

	if (n > q->depth)
		q->broken = 1;
	return q->broken ? -1 : (int64_t)n;
}

typedef uint64_t __attribute__((may_alias)) word;

/* From memory that the client may be writing to: word by word, each read exactly once whatever the compiler thinks of it. */
static void copy_once(void *to, const void *from, size_t bytes)
{
	const word *source = from;
	word *target = to;

	for (size_t i = 0; i < bytes / sizeof(word); i++)
		target[i] = emu_peek(&source[i]);
}

/* The only look at what the client wrote: the copy is checked, and the copy is used. *n > EMU_MAX_SGE: malformed. */
void wq_copy(const struct wq *q, uint32_t index, struct emu_wqe *wqe, struct emu_sge *sge, uint32_t *n)
{
	uint32_t slot = index & (q->depth - 1);

	copy_once(wqe, &q->ring[slot], sizeof(*wqe));
	*n = wqe->num_sge;
	if (*n > q->max_sge) {
		*n = UINT32_MAX;
		return;
	}
	sge[0] = (struct emu_sge){ wqe->addr, wqe->length, wqe->lkey };
	for (uint32_t i = 1; i < *n; i++)
		copy_once(&sge[i], &q->extra[slot * (q->max_sge - 1) + i - 1], sizeof(sge[i]));
}

/* One entry of a queue in error. */
static int flush_one(struct emu_qp *qp, struct wq *q, struct emu_cq *cq, int is_recv)
{
	struct emu_cqe cqe = { .status = EMU_WC_WR_FLUSH_ERR, .qp_num = qp->num, .is_recv = (uint32_t)is_recv };

	if (wq_pending(q) <= 0)
		return 0;
	cqe.wr_id = emu_peek(&q->ring[q->cons & (q->depth - 1)].wr_id);
	cqe.wq_head = ++q->cons;
	cq_put(cq, &cqe);
	return 1;
}

/* Precondition: lock, state ERR. A receive WQE that a peer has claimed waits until the peer has let go of its memory.
 * Returns 1 when there is more. */
static int flush(struct emu_qp *qp)
{
	int n = 0;

	while (n < FLUSHES_A_TURN && flush_one(qp, &qp->sq, qp->send_cq, 0))
		n++;
	while (n < FLUSHES_A_TURN && !qp->inbound && flush_one(qp, &qp->rq, qp->recv_cq, 1))
		n++;
	return n == FLUSHES_A_TURN;
}

/* ---- rules carried out */

#define VOIDS (EMU_ACT_RESET | EMU_ACT_FLUSH_SEND | EMU_ACT_FLUSH_RECV)

static void empty(struct wq *q)
{
	q->cons = emu_observe(q->shared_prod);
	q->broken = 0;
}

void qp_apply(struct emu_qp *qp, const struct emu_rule_out *out)
{
	if (out->actions & EMU_ACT_EVENT)
		events_tell(&qp->thread->e->events, &(struct emu_engine_event){ .kind = EMU_ENG_ASYNC, .id = qp->num,
			.code = out->event });
	if (out->actions & EMU_ACT_RESET) {
		empty(&qp->sq);
		empty(&qp->rq);
		qp->inbound = 0;
	}
	if (emu_peek(&qp->seg->state) != qp->rules.state)
		emu_publish(&qp->seg->state, qp->rules.state);
	if (out->actions & VOIDS) {
		emu_count(&qp->gen, 1);
		emu_handshake(); /* with emu_ring_post_recv: publishes, handshakes, looks at state */
		thread_kick(qp);
		park_wake_peers(qp->thread->e, qp->num);
	}
}

int qp_apply_step(struct emu_qp *qp, const struct emu_rule_in *in, struct emu_rule_out *out)
{
	int err = emu_qp_step(&qp->rules, in, out);

	if (!err && out->actions)
		qp_apply(qp, out);
	return err;
}

/* ---- the owner's turn */

static void check_health(struct emu_qp *qp)
{
	struct emu_rule_in in = { .event = EMU_EV_BROKEN };
	struct emu_rule_out out;

	if (qp->rules.state == EMU_QPS_RESET)
		return;
	if (emu_peek(&qp->send_cq->error) || emu_peek(&qp->recv_cq->error))
		cq_failed(qp);
	if (wq_pending(&qp->sq) < 0)
		qp_apply_step(qp, &in, &out);
}

/* Precondition: no operation. Take the head, or flush. 1: something was there. */
static int look(struct emu_qp *qp)
{
	struct emu_rule_in in = { .event = EMU_EV_HEAD };
	struct emu_rule_out out;
	int found = 0;

	pthread_mutex_lock(&qp->lock);
	qp->sq.seen = emu_observe(qp->sq.shared_prod);
	qp->rq.seen = emu_observe(qp->rq.shared_prod);
	check_health(qp);
	if (qp->rules.state == EMU_QPS_ERR) {
		found = flush(qp);
	} else if (wq_pending(&qp->sq) > 0) {
		emu_qp_step(&qp->rules, &in, &out);
		found = !!(out.actions & EMU_ACT_EXECUTE);
		if (found)
			op_take(qp);
	}
	pthread_mutex_unlock(&qp->lock);
	return found;
}

int qp_turn(struct emu_qp *qp)
{
	int64_t left = qp->thread->e->config.quantum;

	qp->attention = 0;
	for (int wrs = 0; wrs < WRS_A_TURN && left > 0; wrs++) {
		if (qp->op.phase != OP_NONE && qp->op.gen != emu_observe(&qp->gen))
			op_forget(qp);
		if (qp->op.phase == OP_NONE && !look(qp))
			return 0;
		if (qp->op.phase != OP_NONE && !op_push(qp, &left))
			return 0;
	}
	return 1;
}

/* ---- the control thread */

int emu_qp_modify(struct emu_engine *e, uint32_t qp_num, const struct emu_qp_attr *attr)
{
	struct emu_rule_in in = { .event = EMU_EV_MODIFY, .attr = *attr };
	struct emu_qp *qp = qp_find(e, qp_num);
	struct emu_rule_out out;
	int err;

	if (!qp)
		return -ENOENT;
	pthread_mutex_lock(&qp->lock);
	err = emu_qp_step(&qp->rules, &in, &out);
	if (!err)
		qp_apply(qp, &out);
	pthread_mutex_unlock(&qp->lock);
	if (!err)
		thread_kick(qp);
	return err;
}

int emu_qp_query(struct emu_engine *e, uint32_t qp_num, struct emu_qp_rules *out)
{
	struct emu_qp *qp = qp_find(e, qp_num);

	if (!qp)
		return -ENOENT;
	pthread_mutex_lock(&qp->lock);
	*out = qp->rules;
	pthread_mutex_unlock(&qp->lock);
	return 0;
}
