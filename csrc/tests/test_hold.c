/* SPDX-License-Identifier: Apache-2.0
 * Hold points: who is held where, what a quiesce says meanwhile, and that a held thread never blocks the control thread.
 */
#include <errno.h>

#include "check.h"

#define HALF (512u << 10)
#define N 8192u

static struct world w;
static struct end a, b;

static void fresh_with(uint32_t threads)
{
	world_open(&w, &(struct world_config){ .quantum = 4096, .threads = threads });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
	memset(w.mem, 1, HALF);
	memset(w.mem + HALF, 2, HALF);
}

static void fresh(void)
{
	fresh_with(1);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

static unsigned written(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < N; i++)
		n += w.mem[HALF + i] == 1;
	return n;
}

static void hold(uint32_t point, uint32_t skip)
{
	struct emu_engine_event event;

	CHECK_EQ(emu_hold_arm(w.e, point, 0x200, skip), 0);
	CHECK_EQ(emu_hold_arm(w.e, point, 0x200, 0), -EBUSY);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 42, 0, N, 0x100, HALF, 0x200));
	event = next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(event.code, point);
	CHECK_EQ(event.cookie, 0x200);
	CHECK_EQ(event.offset, 42);
	CHECK_EQ(emu_hold_arm(w.e, point, 0, 0), -EBUSY);
}

/* Held inside a section: the quiesce is not answered until the thread goes on. */
static void inside(uint32_t point, uint32_t skip, unsigned bytes_held, unsigned bytes_after)
{
	uint32_t key = 0x200;

	fresh();
	hold(point, skip);
	CHECK_EQ(written(), bytes_held);
	CHECK_EQ(emu_mr_inflight(w.e, &key, 1), 1);
	CHECK_EQ(emu_quiesce(w.e, &key, 1, 9), 0);
	CHECK_EQ(emu_unmap(w.e, &key, 1, 10), -EBUSY);
	CHECK(!event_pending(&w));
	CHECK_EQ(emu_hold_release(w.e, point), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, 9);
	CHECK_EQ(written(), bytes_after);
	expect_wc(&a, 42, EMU_WC_REM_ACCESS_ERR);
	CHECK_EQ(written(), bytes_after);
	CHECK_EQ(emu_mr_inflight(w.e, &key, 1), 0);
	done();
}

/* Held between sections: the quiesce is answered, and no byte follows. */
static void outside(uint32_t point, unsigned bytes, uint32_t status)
{
	uint32_t key = 0x200;

	fresh();
	hold(point, 0);
	quiesce(&w, &key, 1);
	CHECK_EQ(emu_unmap(w.e, &key, 1, 10), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, 10);
	CHECK_EQ(emu_mr_remove(w.e, key), 0);
	CHECK_EQ(written(), bytes);
	CHECK_EQ(emu_hold_release(w.e, point), 0);
	expect_wc(&a, 42, status);
	CHECK_EQ(written(), bytes);
	done();
}

static void the_control_thread_never_waits(uint32_t point)
{
	fresh();
	hold(point, 0);
	CHECK_EQ(modify(&b, EMU_QPS_ERR), 0);
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0);
	CHECK_EQ(modify(&a, EMU_QPS_RESET), 0);
	CHECK_EQ(emu_qp_remove(w.e, a.qp_num, 5), 0);
	CHECK_EQ(emu_qp_remove(w.e, b.qp_num, 6), 0);
	CHECK(!event_pending(&w));
	CHECK_EQ(emu_hold_release(w.e, point), 0);
	next_event(&w, EMU_ENG_QP_GONE);
	next_event(&w, EMU_ENG_QP_GONE);
	CHECK(no_wc(&a));
	done();
}

static void a_queue_pair_in_error_moves_no_more(void)
{
	fresh();
	hold(EMU_HOLD_QUANTUM_LAST, 0);
	CHECK_EQ(modify(&b, EMU_QPS_ERR), 0);
	CHECK_EQ(emu_quiesce(w.e, NULL, 0, 8), 0);
	CHECK(!event_pending(&w));
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_LAST), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, 8);
	expect_wc(&a, 42, EMU_WC_RETRY_EXC_ERR);
	CHECK_EQ(written(), 4096);
	done();
}

/* Two threads: the responder's own is free to flush while the requester's is held in the middle of the message. */
static void a_message_under_way_is_flushed_once(void)
{
	fresh_with(2);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_HALF, 0, 0), 0);
	post_recv(&b, 7, HALF, N, 0x200);
	post_recv(&b, 8, HALF, N, 0x200);
	post(&a, wqe_of(EMU_WR_SEND, 42, 0, N, 0x100));
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(modify(&b, EMU_QPS_ERR), 0);
	post(&b, wqe_of(EMU_WR_SEND, 99, 0, N, 0x100));
	expect_wc(&b, 99, EMU_WC_WR_FLUSH_ERR);
	post(&b, wqe_of(EMU_WR_SEND, 98, 0, N, 0x100));
	expect_wc(&b, 98, EMU_WC_WR_FLUSH_ERR);
	CHECK(no_wc(&b)); /* its buffer is being written: not flushed yet */
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_HALF), 0);
	expect_wc(&b, 7, EMU_WC_WR_FLUSH_ERR);
	expect_wc(&b, 8, EMU_WC_WR_FLUSH_ERR);
	expect_wc(&a, 42, EMU_WC_RETRY_EXC_ERR);
	CHECK(no_wc(&b));
	done();
}

/* Two pieces in one turn, the queue pair to ERR between them: the second is not written. */
static void a_requester_in_error_stops_between_pieces(void)
{
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, 42, 0, 10, 0x100, HALF, 0x200);
	struct emu_sge more = { IOVA + 100, 10, 0x100 };
	unsigned bad;

	fresh();
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_LAST, 0x200, 0), 0);
	wqe.num_sge = 2;
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, &more, &bad), 0);
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_LAST), 0);
	expect_wc(&a, 42, EMU_WC_WR_FLUSH_ERR);
	CHECK_EQ(written(), 10);
	done();
}

static void only_its_key_is_held(void)
{
	fresh();
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_OP_START, 0x300, 0), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, N, 0x100, HALF, 0x200));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_OP_START), 0);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_NONE, 0, 0), -EINVAL);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_POINTS, 0, 0), -EINVAL);
	CHECK(!emu_hold_name(EMU_HOLD_POINTS));
	done();
}

static void ending_lets_go(void)
{
	fresh();
	hold(EMU_HOLD_QUANTUM_HALF, 0);
	CHECK_EQ(emu_quiesce(w.e, (uint32_t[]){ 0x200 }, 1, 8), 0);
	CHECK_EQ(emu_qp_remove(w.e, a.qp_num, 9), 0);
	done();
}

int main(void)
{
	inside(EMU_HOLD_QUANTUM_FIRST, 0, 0, 4096);
	inside(EMU_HOLD_QUANTUM_HALF, 0, 2048, 4096);
	inside(EMU_HOLD_QUANTUM_LAST, 0, 4096, 4096);
	outside(EMU_HOLD_OP_START, 0, EMU_WC_REM_ACCESS_ERR);
	outside(EMU_HOLD_COMPLETION, N, EMU_WC_SUCCESS);
	outside(EMU_HOLD_QUANTUM_NEXT, 0, EMU_WC_REM_ACCESS_ERR);
	for (uint32_t point = EMU_HOLD_OP_START; point < EMU_HOLD_POINTS; point++)
		the_control_thread_never_waits(point);
	a_queue_pair_in_error_moves_no_more();
	a_message_under_way_is_flushed_once();
	a_requester_in_error_stops_between_pieces();
	only_its_key_is_held();
	ending_lets_go();
	return 0;
}
