/* SPDX-License-Identifier: Apache-2.0
 *
 * One work request of an RC send queue, from WQE to CQE:
 *
 *   take -> [hold op-start] -> begin -> quantum, quantum, ... -> [hold completion] -> end
 *             ^                  |         |                                           |
 *             +------ timer -----+---------+---- not ready, no answer: wait -----------+
 *                                    +-> no memory under a dynamic key: parked (park.c) -> the same quantum again
 *
 * begin, each quantum and end are one section each, and look up QP, peer and keys anew: nothing found in one section is
 * used in the next. Between two quanta the thread may serve other queue pairs; the progress is kept here.
 */
#include <errno.h>

#include "internal.h"

/* Beyond enum emu_outcome. */
#define OUT_VOID 100u   /* the QP has moved on, this operation is nobody's any more */
#define OUT_PARKED 101u /* it waits for memory */
#define OUT_AGAIN 102u  /* something has changed: look again */

void op_take(struct emu_qp *qp)
{
	struct emu_thread *t = qp->thread;
	struct op *op = &qp->op;

	wq_copy(&qp->sq, qp->sq.cons, &op->wqe, op->sge, &op->n_sge);
	op->phase = OP_BEGIN;
	op->gen = emu_peek(&qp->gen);
	op->peer_num = qp->rules.attr.dest_qpn;
	op->number = ++t->ops * MAX_THREADS + t->number;
	op->epoch = emu_observe(&t->e->epoch);
	op->time = op->fresh_time = now_ns();
	op->claimed = 0;
	op->n_refs = 0;
	op->total = 0;
}

static void drop_refs(struct emu_qp *qp)
{
	struct op *op = &qp->op;

	for (uint32_t i = 0; i < op->n_refs; i++) {
		struct emu_mr *mr = mr_find(qp->thread->e, op->refs[i].key);

		if (mr && mr->serial == op->refs[i].serial)
			emu_count(&mr->inflight, -1);
	}
	op->n_refs = 0;
}

void op_forget(struct emu_qp *qp)
{
	section_enter(qp->thread);
	park_leave(qp);
	respond_release(qp);
	drop_refs(qp);
	section_leave(qp->thread);
	qp->op.phase = OP_NONE;
}

/* ---- begin */

static int known(uint32_t opcode)
{
	return opcode <= EMU_WR_RDMA_READ;
}

static uint32_t check_shape(struct op *op)
{
	uint64_t total = 0;

	if (!known(op->wqe.opcode) || op->n_sge > EMU_MAX_SGE || (op->wqe.flags & EMU_SEND_INLINE))
		return EMU_OUT_LOC_QP_OP;
	for (uint32_t i = 0; i < op->n_sge; i++)
		total += op->sge[i].length;
	op->total = total;
	return total > MAX_MESSAGE ? EMU_OUT_LOC_LEN : EMU_OUT_OK;
}

static uint32_t check_local(struct emu_qp *qp, uint32_t rights)
{
	struct op *op = &qp->op;
	struct emu_mr *mr;

	for (uint32_t i = 0; i < op->n_sge; i++) {
		struct emu_sge *s = &op->sge[i];

		if (s->length == 0)
			continue;
		if (mr_check(qp->thread->e, s->lkey, qp->pd, s->addr, s->length, rights, &mr) < 0)
			return EMU_OUT_LOC_PROT;
		emu_count(&mr->inflight, 1);
		op->refs[op->n_refs++] = (struct ref){ mr->key, mr->serial };
	}
	return EMU_OUT_OK;
}

/* In a section. A READ's own buffer is looked at when its answer arrives, as on hardware. */
static uint32_t begin(struct emu_qp *qp)
{
	int reads = qp->op.wqe.opcode == EMU_WR_RDMA_READ;
	uint32_t outcome = EMU_OUT_OK;

	if (emu_observe(&qp->gen) != qp->op.gen)
		return OUT_VOID;
	if (!reads)
		outcome = check_local(qp, 0);
	if (outcome == EMU_OUT_OK)
		outcome = respond_begin(qp);
	if (outcome == EMU_OUT_OK && reads)
		outcome = check_local(qp, EMU_ACCESS_LOCAL_WRITE);
	return outcome;
}

/* ---- the log */

static void describe(struct emu_qp *qp, struct emu_oplog_record *r)
{
	struct op *op = &qp->op;

	*r = (struct emu_oplog_record){ .qp_num = qp->num, .peer_qp_num = op->peer_num, .opcode = op->wqe.opcode,
		.quanta = 1, .wr_id = op->wqe.wr_id, .op = op->number, .op_epoch = op->epoch, .op_time = op->time,
		.lkey = op->n_sge ? op->sge[0].lkey : 0, .rkey = op->wqe.rkey,
		.epoch_first = emu_observe(&qp->thread->e->epoch),
		.time_first = op->fresh_time ? op->fresh_time : now_ns() };
	op->fresh_time = 0;
}

static uint32_t status_of(uint32_t outcome)
{
	static const uint8_t status[] = {
		[EMU_OUT_LOC_PROT] = EMU_WC_LOC_PROT_ERR, [EMU_OUT_LOC_LEN] = EMU_WC_LOC_LEN_ERR,
		[EMU_OUT_LOC_QP_OP] = EMU_WC_LOC_QP_OP_ERR, [EMU_OUT_REM_ACCESS] = EMU_WC_REM_ACCESS_ERR,
		[EMU_OUT_REM_INV_REQ] = EMU_WC_REM_INV_REQ_ERR, [EMU_OUT_REM_OP] = EMU_WC_REM_OP_ERR,
	};

	return outcome < sizeof(status) ? status[outcome] : 0;
}

static void log_end(struct emu_qp *qp, struct emu_oplog_record *r, uint32_t outcome)
{
	r->epoch_last = emu_observe(&qp->thread->e->epoch);
	r->time_last = now_ns();
	r->status = status_of(outcome);
	if (r->epoch_last != r->epoch_first)
		r->flags |= EMU_LOG_EPOCH_MOVED;
	oplog_add(qp->thread, &qp->log, r);
}

static void log_cut(struct emu_qp *qp, uint32_t outcome)
{
	struct emu_oplog_record r;

	if (!status_of(outcome))
		return;
	describe(qp, &r);
	r.flags = EMU_LOG_CUT;
	log_end(qp, &r, outcome);
}

/* ---- block generations */

struct sight { /* of one side; the block that is told about: the first that mismatched, else the first */
	int found;
	uint64_t index;
	uint32_t translated, first, last, flags;
};

#define FREED 1u
#define FOREIGN 2u
#define LACKING 4u

static uint32_t judge(uint32_t translated, uint32_t now)
{
	return now == translated ? 0 : now == translated + 1 ? FREED : FOREIGN;
}

static int failed(const struct place *p, uint64_t offset)
{
	return emu_observe(&p->map->gens[offset / p->aperture->block]) == FAILED;
}

/* Of n bytes, as many as are there, or as many as are not: a quantum meets either. */
static uint64_t alike(struct place *p, uint64_t n)
{
	uint64_t end = p->offset + n, at = p->offset;

	if (!p->map->gens || !emu_observe(&p->map->failed))
		return n;
	p->gone |= failed(p, at);
	for (at += p->aperture->block - at % p->aperture->block; at < end; at += p->aperture->block)
		if (failed(p, at) != p->gone)
			return at - p->offset;
	return n;
}

/* Compare the generations of all blocks under [offset, offset + n) with those at translation. */
static void look_at_blocks(const struct place *p, uint64_t n, struct sight *s, int after)
{
	const uint32_t *now = p->map->gens, *then = p->translation->gens;
	uint64_t first = p->extent->offset / p->aperture->block;
	uint64_t b = p->offset / p->aperture->block, last = (p->offset + n - 1) / p->aperture->block;

	if (p->map->base && p->map->instance != p->translation->instance)
		s->flags |= FOREIGN;
	if (!now || !then)
		return;
	if (!s->found && !after)
		s->index = b;
	for (; b <= last; b++) {
		uint32_t old = then[p->extent->first_gen + b - first], g = emu_observe(&now[b]);
		uint32_t verdict;

		if (g == FAILED) { /* nobody has it: it is not there, and its generation is told as it was */
			s->flags |= LACKING;
			continue;
		}
		verdict = judge(old, g);

		s->flags |= verdict;
		if (verdict && !s->found) {
			s->found = 1;
			s->index = b;
			s->first = after ? old : g;
		}
	}
	s->translated = then[p->extent->first_gen + s->index - first];
	if (!s->found && !after)
		s->first = s->translated;
	s->last = emu_observe(&now[s->index]);
	if (s->last == FAILED)
		s->last = s->translated;
}

static uint32_t side_flags(const struct place *p, const struct sight *s)
{
	uint32_t f = p->gone || (s->flags & LACKING) ? EMU_LOG_SRC_ABSENT : 0;

	if (s->flags & FOREIGN)
		return f | EMU_LOG_SRC_FOREIGN;
	return f | (s->flags & FREED ? EMU_LOG_SRC_FREED : 0);
}

static void log_sides(struct emu_oplog_record *r, const struct place *src, const struct place *dst, const struct sight *from,
		      const struct sight *to)
{
	const struct sight *s = !to->found && from->found ? from : to;

	r->flags |= side_flags(src, from) | side_flags(dst, to) << 4;
	r->src_aperture = src->aperture->number;
	r->dst_aperture = dst->aperture->number;
	r->src_offset = src->offset;
	r->dst_offset = dst->offset;
	r->gen_translated = s->translated;
	r->gen_first = s->first;
	r->gen_last = s->last;
}

/* ---- a quantum */

struct quantum {
	struct place local, remote;
	uint64_t n;
	struct emu_qp *peer;
	struct emu_sge mine, theirs; /* what is left of the current elements */
	uint32_t keys[2];
	struct emu_oplog_record r;
};

/* The element in which byte `at` of the message lies, cut to begin there. */
static struct emu_sge element_at(const struct emu_sge *sge, uint64_t at)
{
	while (at >= sge->length)
		at -= sge++->length;
	return (struct emu_sge){ sge->addr + at, sge->length - (uint32_t)at, sge->lkey };
}

static void aim(const struct emu_qp *qp, struct quantum *q)
{
	const struct op *op = &qp->op;
	uint64_t left = op->total - op->done;

	q->mine = element_at(op->sge, op->done);
	if (op->wqe.opcode == EMU_WR_SEND || op->wqe.opcode == EMU_WR_SEND_WITH_IMM)
		q->theirs = element_at(op->rsge, op->done);
	else
		q->theirs = (struct emu_sge){ op->wqe.remote_addr + op->done, (uint32_t)left, op->wqe.rkey };
	q->n = qp->thread->e->config.quantum;
	if (q->n > left)
		q->n = left;
	if (q->n > q->mine.length)
		q->n = q->mine.length;
	if (q->n > q->theirs.length)
		q->n = q->theirs.length;
	q->keys[0] = q->mine.lkey;
	q->keys[1] = q->theirs.lkey;
}

static uint32_t remote_rights(uint32_t opcode)
{
	switch (opcode) {
	case EMU_WR_RDMA_READ:
		return EMU_ACCESS_REMOTE_READ;
	case EMU_WR_RDMA_WRITE:
	case EMU_WR_RDMA_WRITE_WITH_IMM:
		return EMU_ACCESS_REMOTE_WRITE;
	default:
		return EMU_ACCESS_LOCAL_WRITE;
	}
}

static uint32_t refused(struct emu_qp *qp, struct quantum *q)
{
	int scatters = remote_rights(qp->op.wqe.opcode) == EMU_ACCESS_LOCAL_WRITE;

	return respond_refuse(qp, q->peer, scatters ? EMU_OUT_LOC_PROT : EMU_OUT_REM_ACCESS);
}

/* Rights are in order, the memory is not there. */
static uint32_t missed(struct emu_qp *qp, struct emu_mr *mr, const struct emu_sge *wanted, int write)
{
	switch (park(qp, mr, &(struct miss){ wanted->addr, wanted->length, write })) {
	case PARK_LOOK_AGAIN:
		return OUT_AGAIN;
	case PARK_WAITS:
		qp->op.fresh_time = 0;
		return OUT_PARKED;
	case PARK_FAILED:
		break;
	}
	return EMU_OUT_LOC_PROT;
}

static uint32_t find_local(struct emu_qp *qp, struct quantum *q, uint32_t rights)
{
	struct emu_mr *mr;
	int where = mr_check(qp->thread->e, q->mine.lkey, qp->pd, q->mine.addr, q->n, rights, &mr);

	if (where < 0)
		return EMU_OUT_LOC_PROT;
	if (where == HERE)
		where = (int)mr_place(mr, q->mine.addr, &q->local);
	if (__builtin_expect(where != HERE, 0))
		return missed(qp, mr, &q->mine, rights != 0);
	return rights && q->local.map->readonly ? EMU_OUT_LOC_PROT : EMU_OUT_OK;
}

static uint32_t find_remote(struct emu_qp *qp, struct quantum *q, uint32_t rights)
{
	struct emu_mr *mr;
	int where = mr_check(qp->thread->e, q->theirs.lkey, q->peer->pd, q->theirs.addr, q->n, rights, &mr);

	if (where < 0)
		return refused(qp, q);
	if (where == HERE)
		where = (int)mr_place(mr, q->theirs.addr, &q->remote);
	if (__builtin_expect(where != HERE, 0)) {
		uint32_t outcome = missed(qp, mr, &q->theirs, rights != EMU_ACCESS_REMOTE_READ);

		return outcome == EMU_OUT_LOC_PROT ? refused(qp, q) : outcome;
	}
	return rights != EMU_ACCESS_REMOTE_READ && q->remote.map->readonly ? refused(qp, q) : EMU_OUT_OK;
}

/* Both keys are looked at inside this very section, the remote one first for a READ. */
static uint32_t find_places(struct emu_qp *qp, struct quantum *q)
{
	uint32_t rights = remote_rights(qp->op.wqe.opcode), outcome = EMU_OUT_OK;

	if (rights != EMU_ACCESS_REMOTE_READ)
		outcome = find_local(qp, q, 0);
	if (outcome == EMU_OUT_OK)
		outcome = find_remote(qp, q, rights);
	if (outcome == EMU_OUT_OK && rights == EMU_ACCESS_REMOTE_READ)
		outcome = find_local(qp, q, EMU_ACCESS_LOCAL_WRITE);
	if (outcome != EMU_OUT_OK)
		return outcome;
	if (q->n > q->local.bytes)
		q->n = q->local.bytes;
	if (q->n > q->remote.bytes)
		q->n = q->remote.bytes;
	q->n = alike(&q->remote, alike(&q->local, q->n));
	return EMU_OUT_OK;
}

static void stop_at(struct emu_qp *qp, struct quantum *q, uint32_t point)
{
	if (hold_wanted(qp->thread->e, point))
		hold_stop(qp->thread, point, q->keys, 2, qp->op.wqe.wr_id);
}

/* Absent memory: stores vanish, loads give all ones. */
static int copy_part(const struct place *src, const struct place *dst, uint64_t from, uint64_t n, const void **fault)
{
	if (dst->gone || !n)
		return 0;
	return guarded_copy(dst->map->base + dst->offset + from,
			    src->gone ? NULL : src->map->base + src->offset + from, n, 0xff, fault);
}

static int copy(struct emu_qp *qp, struct quantum *q, const struct place *src, const struct place *dst, const void **fault)
{
	uint64_t half = hold_wanted(qp->thread->e, EMU_HOLD_QUANTUM_HALF) ? q->n / 2 : 0;
	int err = copy_part(src, dst, 0, half, fault);

	if (half && !err)
		stop_at(qp, q, EMU_HOLD_QUANTUM_HALF);
	return err ? err : copy_part(src, dst, half, q->n - half, fault);
}

static int within(const struct place *p, const void *address)
{
	const char *at = address;

	return p->map->base && at >= p->map->base && at < p->map->base + p->map->bytes;
}

/* A copy met SIGBUS at `fault`: whose memory was it? */
static uint32_t faulted(struct emu_qp *qp, struct quantum *q, const void *fault)
{
	int theirs = within(&q->remote, fault);
	const struct place *p = theirs ? &q->remote : &q->local;
	uint64_t offset = (uint64_t)((const char *)fault - p->map->base);

	q->r.flags |= EMU_LOG_SIGBUS;
	aperture_faulted(qp->thread->e, p->aperture, p->map, offset);
	return theirs ? refused(qp, q) : EMU_OUT_LOC_PROT;
}

static uint32_t reaches(struct emu_qp *qp, struct quantum *q)
{
	struct emu_engine *e = qp->thread->e;

	if (aperture_reaches(e, q->local.aperture, q->local.map, q->local.offset + q->n)) {
		q->r.flags |= EMU_LOG_SIGBUS;
		return EMU_OUT_LOC_PROT;
	}
	if (aperture_reaches(e, q->remote.aperture, q->remote.map, q->remote.offset + q->n)) {
		q->r.flags |= EMU_LOG_SIGBUS;
		return refused(qp, q);
	}
	return EMU_OUT_OK;
}

/* The bytes of one quantum, between two looks at generations and epoch. */
static uint32_t move_bytes(struct emu_qp *qp, struct quantum *q)
{
	int reads = qp->op.wqe.opcode == EMU_WR_RDMA_READ;
	const struct place *src = reads ? &q->remote : &q->local, *dst = reads ? &q->local : &q->remote;
	struct sight from = { 0 }, to = { 0 };
	uint32_t outcome;
	const void *fault;
	int err;

	look_at_blocks(src, q->n, &from, 0);
	look_at_blocks(dst, q->n, &to, 0);
	err = copy(qp, q, src, dst, &fault);
	emu_handshake(); /* with blocks_step and emu_epoch_advance: our bytes have landed before we look again */
	look_at_blocks(src, q->n, &from, 1);
	look_at_blocks(dst, q->n, &to, 1);
	log_sides(&q->r, src, dst, &from, &to);
	q->r.bytes = q->n;
	outcome = err ? faulted(qp, q, fault) : reaches(qp, q);
	q->r.op_done = outcome != EMU_OUT_OK || qp->op.done + q->n == qp->op.total;
	log_end(qp, &q->r, outcome);
	stop_at(qp, q, EMU_HOLD_QUANTUM_LAST);
	return outcome;
}

/* In a section. */
static uint32_t carry(struct emu_qp *qp, struct quantum *q)
{
	uint32_t outcome;

	if (emu_observe(&qp->gen) != qp->op.gen)
		return OUT_VOID;
	q->peer = respond_peer(qp);
	if (!q->peer)
		return EMU_OUT_NO_ANSWER;
	aim(qp, q);
	outcome = find_places(qp, q);
	if (outcome != EMU_OUT_OK) {
		log_cut(qp, outcome);
		return outcome;
	}
	stop_at(qp, q, EMU_HOLD_QUANTUM_FIRST);
	describe(qp, &q->r);
	q->r.lkey = q->mine.lkey;
	outcome = reaches(qp, q);
	if (outcome != EMU_OUT_OK) {
		q->r.op_done = 1;
		log_end(qp, &q->r, outcome);
		return outcome;
	}
	return move_bytes(qp, q);
}

static void stop_outside(struct emu_qp *qp, uint32_t point)
{
	uint32_t keys[2] = { qp->op.n_sge ? qp->op.sge[0].lkey : 0, qp->op.wqe.rkey };

	if (hold_wanted(qp->thread->e, point))
		hold_stop(qp->thread, point, keys, 2, qp->op.wqe.wr_id);
}

static uint32_t quantum(struct emu_qp *qp, int64_t *left)
{
	struct emu_thread *t = qp->thread;
	struct quantum q;
	uint32_t outcome;

	stop_outside(qp, EMU_HOLD_QUANTUM_NEXT);
	section_enter(t);
	outcome = carry(qp, &q);
	section_leave(t);
	if (outcome == EMU_OUT_OK) {
		park_leave(qp);
		qp->op.done += q.n;
		*left -= (int64_t)q.n;
		figures_add(&t->n_bytes, q.n);
		figures_add(&t->n_quanta, 1);
	}
	return outcome;
}

/* ---- end */

/* Precondition: lock, section. What the rules say about the head. */
static void settle(struct emu_qp *qp, const struct emu_rule_out *out)
{
	struct op *op = &qp->op;

	op->phase = OP_NONE;
	if (out->actions & EMU_ACT_EXECUTE) {
		op->phase = OP_BEGIN;
		op->fresh_time = 0;
	} else if (out->actions & EMU_ACT_COMPLETE) {
		figures_add(&qp->thread->n_ops, 1); /* first: who has seen the completion finds it counted */
		figures_add(&qp->thread->n_errors, out->status != EMU_WC_SUCCESS);
		qp_complete_send(qp, out->status);
	} else if (out->actions & (EMU_ACT_ARM_ACK | EMU_ACT_ARM_RNR)) {
		op->phase = OP_WAITING;
		timer_arm(qp, out->actions & EMU_ACT_ARM_RNR ? emu_rnr_timer_ns(out->rnr_timer)
							     : emu_ack_timeout_ns(qp->rules.attr.timeout));
	}
	qp_apply(qp, out);
}

/* Precondition: section. Feed the rules, unless the QP has moved on. Returns 0 when the operation waits. */
static int advance(struct emu_qp *qp, const struct emu_rule_in *in)
{
	struct op *op = &qp->op;
	struct emu_rule_out out;

	pthread_mutex_lock(&qp->lock);
	if (op->gen == emu_peek(&qp->gen)) {
		emu_qp_step(&qp->rules, in, &out);
		settle(qp, &out);
	} else {
		op->phase = OP_NONE;
	}
	pthread_mutex_unlock(&qp->lock);
	return op->phase != OP_WAITING;
}

static int waits(uint32_t outcome)
{
	return outcome == EMU_OUT_RNR || outcome == EMU_OUT_NO_ANSWER;
}

static int end(struct emu_qp *qp, uint32_t outcome)
{
	struct emu_rule_in in = { .event = EMU_EV_OUTCOME };
	int more;

	if (outcome == OUT_VOID) {
		op_forget(qp);
		return 1;
	}
	park_leave(qp);
	if (!waits(outcome))
		stop_outside(qp, EMU_HOLD_COMPLETION);
	section_enter(qp->thread);
	if (outcome == EMU_OUT_OK)
		outcome = respond_end(qp);
	respond_release(qp);
	in.outcome = outcome;
	in.peer_min_rnr = qp->op.peer_min_rnr;
	drop_refs(qp); /* before the completion: who has seen that finds nothing in flight */
	more = advance(qp, &in);
	section_leave(qp->thread);
	return more;
}

/* ---- all of it */

#define AGAIN_COSTS 64 /* of a turn's budget: memory that comes and goes holds up nobody else */

static uint32_t start(struct emu_qp *qp)
{
	struct op *op = &qp->op;
	uint32_t outcome;

	if (hold_wanted(qp->thread->e, EMU_HOLD_OP_START)) {
		stop_outside(qp, EMU_HOLD_OP_START);
		op->fresh_time = 0;
	}
	op->done = 0;
	outcome = check_shape(op);
	if (outcome != EMU_OUT_OK)
		return outcome;
	section_enter(qp->thread);
	outcome = begin(qp);
	if (outcome != EMU_OUT_OK && outcome != OUT_VOID)
		log_cut(qp, outcome);
	section_leave(qp->thread);
	op->phase = OP_MOVING;
	return outcome;
}

static int resume(struct emu_qp *qp)
{
	struct emu_rule_in in = { .event = EMU_EV_TIMER };

	qp->due = 0;
	section_enter(qp->thread);
	advance(qp, &in);
	section_leave(qp->thread);
	return 1;
}

int op_push(struct emu_qp *qp, int64_t *left)
{
	struct op *op = &qp->op;
	uint32_t outcome = EMU_OUT_OK;

	if (op->phase == OP_WAITING)
		return qp->due ? resume(qp) : 0;
	if (op->phase == OP_BEGIN)
		outcome = start(qp);
	while (outcome == EMU_OUT_OK && op->done < op->total) {
		op->phase = OP_MOVING;
		if (*left <= 0)
			return 1;
		outcome = quantum(qp, left);
		if (outcome == OUT_AGAIN) {
			*left -= AGAIN_COSTS;
			outcome = EMU_OUT_OK;
		}
	}
	if (outcome != OUT_PARKED)
		return end(qp, outcome);
	op->phase = OP_PARKED;
	return 0;
}
