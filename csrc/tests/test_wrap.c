/* SPDX-License-Identifier: Apache-2.0
 * The free-running u32 indexes of rings go past their largest value: nothing is lost, repeated or taken for garbage.
 */
#include "../engine/internal.h"
#include "../ring_attach.h"
#include "check.h"

#define BEFORE 0xfffffff0u /* entries until they wrap: 16 */

static struct world w;
static struct end a, b;

/* As a completion ring is left by one that has gone all the way: each slot has the number of its last turn. */
static void age_completions(struct emu_cq *cq)
{
	cq->prod = cq->seg->prod = cq->seg->cons = BEFORE;
	for (uint32_t i = BEFORE - cq->depth; i != BEFORE; i++)
		cq->ring[i & (cq->depth - 1)].seq = 1 + (i >> cq->order);
}

static void age(struct end *n)
{
	struct emu_qp *qp = qp_find(w.e, n->qp_num);
	struct emu_cq *cq = w.e->cqs[n->cq_num];

	qp->sq.cons = qp->sq.seen = qp->rq.cons = qp->rq.seen = BEFORE;
	qp->seg->sq_prod = qp->seg->rq_prod = BEFORE;
	age_completions(cq);
	emu_ring_qp_close(n->qp);
	emu_ring_cq_close(n->cq);
	CHECK_EQ(emu_ring_cq_attach(cq->seg, cq->bytes, &n->cq), 0);
	CHECK_EQ(emu_ring_qp_attach(n->ctx_ring, qp->seg, qp->bytes, &n->qp), 0);
}

static void fresh(void)
{
	world_open(&w, &(struct world_config){ 0 });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	age(&a);
	age(&b);
	end_connect(&a, &b);
	mr_add(&w, 0x100, 0, 4096);
	mr_add(&w, 0x200, 4096, 4096);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

static void requests_and_receives_go_on(void)
{
	fresh();
	for (uint32_t i = 0; i < 200; i++) {
		w.mem[0] = (char)i;
		post_recv(&b, 1000 + i, 4096, 64, 0x200);
		post(&a, wqe_of(EMU_WR_SEND, i, 0, 64, 0x100));
		expect_wc(&b, 1000 + i, EMU_WC_SUCCESS);
		expect_wc(&a, i, EMU_WC_SUCCESS);
		CHECK_EQ(w.mem[4096], (char)i);
	}
	done();
}

/* The rings full across the wrap, then flushed and purged. */
static void a_full_queue_is_flushed_once(void)
{
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, 99, 0, 64, 0x100, 4096, 0x200);
	unsigned bad;

	fresh();
	for (uint32_t i = 0; i < 10; i++) {
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 64, 0x100, 4096, 0x200));
		expect_wc(&a, i, EMU_WC_SUCCESS);
	}
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_OP_START, 0x100, 0), 0);
	for (uint32_t i = 0; i < 16; i++)
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 64, 0x100, 4096, 0x200));
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, NULL, &bad), -12); /* full: ENOMEM */
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_OP_START), 0);
	for (uint32_t i = 0; i < 16; i++)
		expect_wc(&a, i, EMU_WC_WR_FLUSH_ERR);
	CHECK(no_wc(&a));
	for (uint32_t i = 0; i < 16; i++)
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 64, 0x100, 4096, 0x200));
	while (emu_observe(&w.e->cqs[a.cq_num]->seg->prod) != BEFORE + 10 + 32)
		emu_pause();
	CHECK_EQ(emu_ring_cq_purge(a.cq, a.qp_num), 16);
	CHECK(no_wc(&a));
	done();
}

int main(void)
{
	requests_and_receives_go_on();
	a_full_queue_is_flushed_once();
	return 0;
}
