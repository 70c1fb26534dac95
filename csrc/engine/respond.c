/* SPDX-License-Identifier: Apache-2.0
 *
 * The responder's half of an operation. It is carried out by the requester's thread, inside a section, under the
 * responder's lock for each decision and without it while bytes move. A SEND or WRITE_WITH_IMM claims the head receive
 * WQE at its start (`inbound`), and completes it, or gives it back, at its end.
 */
#include <errno.h>

#include "internal.h"

int op_uses_recv(uint32_t opcode)
{
	return opcode == EMU_WR_SEND || opcode == EMU_WR_SEND_WITH_IMM || opcode == EMU_WR_RDMA_WRITE_WITH_IMM;
}

static int is_send(uint32_t opcode)
{
	return opcode == EMU_WR_SEND || opcode == EMU_WR_SEND_WITH_IMM;
}

struct emu_qp *respond_peer(struct emu_qp *qp)
{
	struct emu_qp *peer = qp_find(qp->thread->e, qp->op.peer_num);

	return peer && emu_observe(&peer->gen) == qp->op.peer_gen ? peer : NULL;
}

/* ---- checks. Precondition: peer's lock */

static void note_ref(struct op *op, struct emu_mr *mr)
{
	emu_count(&mr->inflight, 1);
	op->refs[op->n_refs++] = (struct ref){ mr->key, mr->serial };
}

static uint32_t check_scatter(struct emu_qp *qp, struct emu_qp *peer)
{
	struct op *op = &qp->op;
	uint64_t room = 0;
	struct emu_mr *mr;

	if (op->n_rsge > EMU_MAX_SGE)
		return EMU_OUT_LOC_QP_OP;
	for (uint32_t i = 0; i < op->n_rsge; i++)
		room += op->rsge[i].length;
	if (room < op->total)
		return EMU_OUT_LOC_LEN;
	for (uint32_t i = 0; i < op->n_rsge; i++) {
		struct emu_sge *s = &op->rsge[i];

		if (s->length == 0)
			continue;
		if (mr_check(qp->thread->e, s->lkey, peer->pd, s->addr, s->length, EMU_ACCESS_LOCAL_WRITE, &mr) < 0)
			return EMU_OUT_LOC_PROT;
		note_ref(op, mr);
	}
	return EMU_OUT_OK;
}

static uint32_t check_remote(struct emu_qp *qp, struct emu_qp *peer)
{
	uint32_t right = qp->op.wqe.opcode == EMU_WR_RDMA_READ ? EMU_ACCESS_REMOTE_READ : EMU_ACCESS_REMOTE_WRITE;
	struct op *op = &qp->op;
	struct emu_mr *mr;

	if (op->total == 0) /* the specification does not look at the key of an empty message */
		return EMU_OUT_OK;
	if (mr_check(qp->thread->e, op->wqe.rkey, peer->pd, op->wqe.remote_addr, op->total, right, &mr) < 0)
		return EMU_OUT_REM_ACCESS;
	note_ref(op, mr);
	return EMU_OUT_OK;
}

static int is_ready(const struct emu_qp *qp)
{
	return qp->rules.state == EMU_QPS_RTR || qp->rules.state == EMU_QPS_RTS || qp->rules.state == EMU_QPS_SQD;
}

/* Look at the head receive WQE. 1: copied. 0: none free. -1: the ring is garbage. */
static int copy_recv(struct op *op, struct emu_qp *peer)
{
	int64_t pending = wq_pending(&peer->rq);
	struct emu_wqe wqe;

	if (pending <= 0)
		return (int)pending;
	if (peer->inbound)
		return 0;
	wq_copy(&peer->rq, peer->rq.cons, &wqe, op->rsge, &op->n_rsge);
	op->recv_wr_id = wqe.wr_id;
	return 1;
}

static void peer_broken(struct emu_qp *peer)
{
	struct emu_rule_in in = { .event = EMU_EV_BROKEN };
	struct emu_rule_out out;

	qp_apply_step(peer, &in, &out);
}

static uint32_t check(struct emu_qp *qp, struct emu_qp *peer, uint32_t *uses_recv)
{
	uint32_t opcode = qp->op.wqe.opcode;

	if (!is_ready(peer))
		return EMU_OUT_OK; /* the rules know the answer */
	if (op_uses_recv(opcode)) {
		int got = copy_recv(&qp->op, peer);

		if (got < 0)
			peer_broken(peer);
		if (got <= 0)
			return EMU_OUT_RNR;
		*uses_recv = 1;
	}
	return is_send(opcode) ? check_scatter(qp, peer) : check_remote(qp, peer);
}

/* ---- decisions */

static void recv_error(struct emu_qp *qp, struct emu_qp *peer, uint32_t status)
{
	struct emu_cqe cqe = { .wr_id = qp->op.recv_wr_id, .status = status };

	qp->op.claimed = 0;
	qp_complete_recv(peer, &cqe);
}

/* Precondition: peer's lock. Returns the outcome that the requester sees. */
static uint32_t decide(struct emu_qp *qp, struct emu_qp *peer, uint32_t outcome, uint32_t uses_recv)
{
	struct emu_rule_in in = { .event = EMU_EV_INBOUND, .outcome = outcome, .opcode = qp->op.wqe.opcode,
		.uses_recv = uses_recv };
	struct emu_rule_out out;

	emu_qp_step(&peer->rules, &in, &out);
	if (out.actions & EMU_ACT_RECV_ERROR)
		recv_error(qp, peer, out.status);
	qp_apply(peer, &out);
	qp->op.peer_min_rnr = out.rnr_timer;
	return out.actions & EMU_ACT_ACK ? EMU_OUT_OK : out.outcome;
}

uint32_t respond_begin(struct emu_qp *qp)
{
	struct emu_qp *peer = qp_find(qp->thread->e, qp->op.peer_num);
	uint32_t outcome = EMU_OUT_NO_ANSWER, uses_recv = 0;
	struct op *op = &qp->op;

	if (!peer)
		return EMU_OUT_NO_ANSWER;
	pthread_mutex_lock(&peer->lock);
	if (peer->rules.attr.dest_qpn == qp->num) {
		outcome = check(qp, peer, &uses_recv);
		outcome = decide(qp, peer, outcome, uses_recv);
	}
	if (outcome == EMU_OUT_OK) {
		op->peer_gen = emu_peek(&peer->gen);
		op->claimed = (int)uses_recv;
		if (uses_recv)
			peer->inbound = op->number;
	}
	pthread_mutex_unlock(&peer->lock);
	return outcome;
}

uint32_t respond_refuse(struct emu_qp *qp, struct emu_qp *peer, uint32_t outcome)
{
	uint32_t answer = EMU_OUT_NO_ANSWER;

	pthread_mutex_lock(&peer->lock);
	if (emu_peek(&peer->gen) == qp->op.peer_gen)
		answer = decide(qp, peer, outcome, (uint32_t)qp->op.claimed);
	pthread_mutex_unlock(&peer->lock);
	return answer;
}

uint32_t respond_end(struct emu_qp *qp)
{
	struct op *op = &qp->op;
	struct emu_qp *peer = respond_peer(qp);
	int has_imm = op->wqe.opcode != EMU_WR_SEND;
	struct emu_cqe cqe = { .wr_id = op->recv_wr_id, .byte_len = (uint32_t)op->total, .src_qp = qp->num,
		.opcode = is_send(op->wqe.opcode) ? EMU_WC_RECV : EMU_WC_RECV_RDMA_WITH_IMM,
		.imm_data = has_imm ? op->wqe.imm_data : 0, .wc_flags = has_imm ? EMU_WC_WITH_IMM : 0 };
	uint32_t outcome = EMU_OUT_NO_ANSWER;

	if (!op->claimed)
		return EMU_OUT_OK;
	if (!peer)
		return outcome;
	pthread_mutex_lock(&peer->lock);
	if (emu_peek(&peer->gen) == op->peer_gen && peer->inbound == op->number) {
		op->claimed = 0;
		qp_complete_recv(peer, &cqe);
		outcome = EMU_OUT_OK;
	}
	pthread_mutex_unlock(&peer->lock);
	return outcome;
}

void respond_release(struct emu_qp *qp)
{
	struct emu_qp *peer = qp->op.claimed ? qp_find(qp->thread->e, qp->op.peer_num) : NULL;

	qp->op.claimed = 0;
	if (!peer)
		return;
	pthread_mutex_lock(&peer->lock);
	if (peer->inbound == qp->op.number) {
		peer->inbound = 0;
		if (peer->rules.state == EMU_QPS_ERR)
			thread_kick(peer); /* its flush waited for us */
	}
	pthread_mutex_unlock(&peer->lock);
}
