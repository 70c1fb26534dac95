/* SPDX-License-Identifier: Apache-2.0
 * What the NIC answers, code by code: each row of the table of errors, on both sides, and what it leaves behind.
 */
#include <errno.h>

#include "check.h"

static struct world w;
static struct end a, b;

#define HALF (512u << 10)
#define OTHER_PD 8u

static uint32_t state_of(struct end *n)
{
	struct emu_qp_rules r;

	CHECK_EQ(emu_qp_query(w.e, n->qp_num, &r), 0);
	return r.state;
}

static void fresh(void)
{
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	memset(w.mem, 1, HALF);
	memset(w.mem + HALF, 2, HALF);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
}

static void untouched(void)
{
	for (unsigned i = 0; i < HALF; i++)
		CHECK(w.mem[i] == 1 && w.mem[HALF + i] == 2);
}

/* A remote access error: 10 for the one, 5 for the rest, QP_ACCESS_ERR at the responder, whose receives are flushed. */
static void remote_access_error(struct emu_wqe bad)
{
	struct emu_engine_event event;

	fresh();
	post_recv(&b, 50, HALF, 100, 0x200);
	post_recv(&b, 51, HALF, 100, 0x200);
	bad.wr_id = 1;
	post(&a, bad);
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	event = next_event(&w, EMU_ENG_ASYNC);
	CHECK_EQ(event.id, b.qp_num);
	CHECK_EQ(event.code, EMU_EVENT_QP_ACCESS_ERR);
	expect_wc(&b, 50, EMU_WC_WR_FLUSH_ERR);
	expect_wc(&b, 51, EMU_WC_WR_FLUSH_ERR);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 2, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 2, EMU_WC_WR_FLUSH_ERR);
	CHECK_EQ(state_of(&a), EMU_QPS_ERR);
	CHECK_EQ(state_of(&b), EMU_QPS_ERR);
	untouched();
	done();
}

static void local_protection_error(struct emu_wqe bad)
{
	fresh();
	bad.wr_id = 1;
	post(&a, bad);
	expect_wc(&a, 1, EMU_WC_LOC_PROT_ERR);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 2, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 2, EMU_WC_WR_FLUSH_ERR);
	CHECK_EQ(state_of(&b), EMU_QPS_RTS);
	untouched();
	done();
}

static void operation_error(struct emu_wqe bad, uint32_t status)
{
	fresh();
	bad.wr_id = 1;
	post(&a, bad);
	expect_wc(&a, 1, status);
	CHECK_EQ(state_of(&a), EMU_QPS_ERR);
	CHECK_EQ(state_of(&b), EMU_QPS_RTS);
	untouched();
	done();
}

static void keys(void)
{
	struct emu_wqe wr = rdma(EMU_WR_RDMA_WRITE, 1, 0, 100, 0x100, HALF, 0x200), bad;

	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
	CHECK_EQ(mr_add_as(&w, 0x300, OTHER_PD, ALL_RIGHTS, HALF, HALF), 0);
	CHECK_EQ(mr_add_as(&w, 0x400, PD, EMU_ACCESS_LOCAL_WRITE | EMU_ACCESS_REMOTE_READ, HALF, HALF), 0);
	CHECK_EQ(mr_add_as(&w, 0x500, PD, EMU_ACCESS_LOCAL_WRITE | EMU_ACCESS_REMOTE_WRITE, HALF, HALF), 0);
	CHECK_EQ(mr_add_as(&w, 0x600, PD, EMU_ACCESS_REMOTE_READ, 0, HALF), 0);
	CHECK_EQ(mr_add_as(&w, 0x200, PD, ALL_RIGHTS, 0, 64), -EEXIST);
	remote_access_error((bad = wr, bad.rkey = 0x201, bad));      /* generation */
	remote_access_error((bad = wr, bad.rkey = 0xffffff00, bad)); /* index */
	remote_access_error((bad = wr, bad.rkey = 0x300, bad));      /* protection domain */
	remote_access_error((bad = wr, bad.rkey = 0x400, bad));      /* no REMOTE_WRITE */
	remote_access_error((bad = wr, bad.rkey = 0x500, bad.opcode = EMU_WR_RDMA_READ, bad));
	remote_access_error((bad = wr, bad.remote_addr = IOVA + HALF - 1, bad));
	remote_access_error((bad = wr, bad.remote_addr = IOVA + 2 * HALF - 99, bad));
	remote_access_error((bad = wr, bad.remote_addr = IOVA + 2 * HALF + 1, bad));
	remote_access_error((bad = wr, bad.remote_addr = UINT64_MAX - 10, bad));
	local_protection_error((bad = wr, bad.lkey = 0x101, bad));
	local_protection_error((bad = wr, bad.lkey = 0x300, bad.addr = IOVA + HALF, bad));
	local_protection_error((bad = wr, bad.addr = IOVA - 1, bad));
	local_protection_error((bad = wr, bad.addr = IOVA + HALF - 99, bad));
	local_protection_error((bad = wr, bad.length = HALF + 1, bad));
	local_protection_error((bad = wr, bad.addr = UINT64_MAX - 50, bad));
	local_protection_error((bad = wr, bad.lkey = 0x600, bad.opcode = EMU_WR_RDMA_READ, bad)); /* no LOCAL_WRITE */
}

static void malformed(void)
{
	struct emu_wqe wr = rdma(EMU_WR_RDMA_WRITE, 1, 0, 100, 0x100, HALF, 0x200), bad;
	struct emu_sge more = { IOVA, UINT32_MAX, 0x100 };
	unsigned which;

	for (unsigned opcode = EMU_WR_RDMA_READ + 1; opcode < 256; opcode += 50)
		operation_error((bad = wr, bad.opcode = (uint8_t)opcode, bad), EMU_WC_LOC_QP_OP_ERR);
	fresh();
	bad = wr;
	bad.num_sge = 2;
	bad.length = UINT32_MAX;
	CHECK_EQ(emu_ring_post_send(a.qp, &bad, 1, &more, &which), 0);
	expect_wc(&a, 1, EMU_WC_LOC_LEN_ERR);
	done();
}

static void the_queue_pair_denies(void)
{
	struct emu_qp_attr attr = { .mask = EMU_QP_ACCESS_FLAGS, .access = EMU_ACCESS_REMOTE_READ };

	fresh();
	CHECK_EQ(emu_qp_modify(w.e, b.qp_num, &attr), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 1, EMU_WC_REM_INV_REQ_ERR);
	CHECK_EQ(next_event(&w, EMU_ENG_ASYNC).code, EMU_EVENT_QP_REQ_ERR);
	untouched();
	done();
}

static void send_errors(void)
{
	fresh(); /* longer than the buffer */
	post_recv(&b, 9, HALF, 99, 0x200);
	post(&a, wqe_of(EMU_WR_SEND, 1, 0, 100, 0x100));
	expect_wc(&a, 1, EMU_WC_REM_INV_REQ_ERR);
	expect_wc(&b, 9, EMU_WC_LOC_LEN_ERR);
	untouched();
	done();
	fresh(); /* the buffer's key is dead */
	post_recv(&b, 9, HALF, 100, 0x2ff);
	post_recv(&b, 10, HALF, 100, 0x200);
	post(&a, wqe_of(EMU_WR_SEND, 1, 0, 100, 0x100));
	expect_wc(&a, 1, EMU_WC_REM_OP_ERR);
	expect_wc(&b, 9, EMU_WC_LOC_PROT_ERR);
	expect_wc(&b, 10, EMU_WC_WR_FLUSH_ERR);
	untouched();
	done();
	fresh(); /* WRITE_WITH_IMM on a dead rkey fits a receive */
	post_recv(&b, 9, HALF, 0, 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE_WITH_IMM, 1, 0, 100, 0x100, HALF, 0x2ff));
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	expect_wc(&b, 9, EMU_WC_LOC_ACCESS_ERR);
	untouched();
	done();
}

static void not_ready(void)
{
	int64_t start;

	fresh(); /* three retries of 10 us, then error */
	post(&a, wqe_of(EMU_WR_SEND, 1, 0, 100, 0x100));
	expect_wc(&a, 1, EMU_WC_RNR_RETRY_EXC_ERR);
	CHECK_EQ(state_of(&b), EMU_QPS_RTS);
	done();
	fresh(); /* a buffer that comes in time is used */
	{
		struct emu_qp_attr slow = { .mask = EMU_QP_MIN_RNR_TIMER, .min_rnr_timer = 28 }; /* 163 ms */

		CHECK_EQ(emu_qp_modify(w.e, b.qp_num, &slow), 0);
	}
	start = clock_ns();
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_OP_START, 0x100, 0), 0);
	post(&a, wqe_of(EMU_WR_SEND, 1, 0, 100, 0x100));
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_OP_START), 0);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_OP_START, 0x100, 0), 0); /* the retry comes here again */
	next_event(&w, EMU_ENG_HELD);
	CHECK(clock_ns() - start > 100000000);
	post_recv(&b, 9, HALF, 100, 0x200);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_OP_START), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	expect_wc(&b, 9, EMU_WC_SUCCESS);
	done();
}

static void no_answer(void)
{
	struct end c;
	int64_t start;

	fresh(); /* the peer is in ERR: 4 tries of 1.05 ms each */
	CHECK_EQ(modify(&b, EMU_QPS_ERR), 0);
	start = clock_ns();
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 1, EMU_WC_RETRY_EXC_ERR);
	CHECK(clock_ns() - start >= 4 * 1048576);
	done();
	fresh(); /* the peer is gone */
	CHECK_EQ(emu_qp_remove(w.e, b.qp_num, 3), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QP_GONE).cookie, 3);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 1, EMU_WC_RETRY_EXC_ERR);
	done();
	fresh(); /* the peer talks to somebody else */
	end_open(&w, &c, &(struct end_config){ 0 });
	to_init(&c);
	to_rtr(&c, b.qp_num);
	to_rts(&c);
	post(&c, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&c, 1, EMU_WC_RETRY_EXC_ERR);
	CHECK_EQ(state_of(&b), EMU_QPS_RTS);
	untouched();
	end_close(&c);
	done();
}

static void a_peer_that_becomes_ready_is_reached(void)
{
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	to_init(&a);
	to_rtr(&a, b.qp_num);
	to_rts(&a);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_OP_START, 0x100, 1), 0); /* the second try */
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	next_event(&w, EMU_ENG_HELD);
	to_init(&b);
	to_rtr(&b, a.qp_num);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_OP_START), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	done();
}

static void states_that_cannot_post(void)
{
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200);
	unsigned bad = 9;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, NULL, &bad), -EINVAL);
	CHECK_EQ(bad, 0);
	CHECK_EQ(emu_ring_post_recv(a.qp, &wqe, 1, NULL, &bad), -EINVAL);
	to_init(&a);
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, NULL, &bad), -EINVAL);
	CHECK_EQ(emu_ring_post_recv(a.qp, &wqe, 1, NULL, &bad), 0);
	to_rtr(&a, b.qp_num);
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, NULL, &bad), -EINVAL);
	CHECK_EQ(modify(&a, EMU_QPS_SQD), -EINVAL);
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0);
	expect_wc(&a, 1, EMU_WC_WR_FLUSH_ERR); /* the receive */
	CHECK_EQ(emu_ring_post_send(a.qp, &wqe, 1, NULL, &bad), 0);
	expect_wc(&a, 1, EMU_WC_WR_FLUSH_ERR);
	CHECK_EQ(emu_ring_post_recv(a.qp, &wqe, 1, NULL, &bad), 0);
	expect_wc(&a, 1, EMU_WC_WR_FLUSH_ERR);
	done();
}

static void reset_forgets_and_works_again(void)
{
	fresh();
	CHECK_EQ(modify(&a, EMU_QPS_SQD), 0);
	for (uint64_t i = 0; i < 5; i++)
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, HALF, 0x200));
	post_recv(&a, 99, 0, 8, 0x100);
	CHECK_EQ(modify(&a, EMU_QPS_RESET), 0);
	CHECK_EQ(modify(&b, EMU_QPS_RESET), 0);
	emu_ring_qp_reset(a.qp);
	emu_ring_qp_reset(b.qp);
	quiesce(&w, NULL, 0);
	CHECK_EQ(emu_ring_cq_purge(a.cq, a.qp_num), 0);
	end_connect(&a, &b);
	untouched();
	post(&a, rdma(EMU_WR_RDMA_WRITE, 77, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&a, 77, EMU_WC_SUCCESS);
	CHECK(no_wc(&a));
	done();
}

static void a_full_completion_queue_is_an_error_of_its_own(void)
{
	struct emu_engine_event event;
	struct end c;

	end_open(&w, &a, &(struct end_config){ .cq_depth = 4 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	for (uint64_t i = 0; i < 6; i++)
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, HALF, 0x200));
	event = next_event(&w, EMU_ENG_ASYNC);
	CHECK_EQ(event.code, EMU_EVENT_CQ_ERR);
	CHECK_EQ(event.id, a.cq_num);
	event = next_event(&w, EMU_ENG_ASYNC);
	CHECK_EQ(event.code, EMU_EVENT_QP_FATAL);
	CHECK_EQ(event.id, a.qp_num);
	for (uint64_t i = 0; i < 4; i++)
		expect_wc(&a, i, EMU_WC_SUCCESS);
	CHECK(no_wc(&a));
	done();
	fresh(); /* nobody else notices */
	c = a;
	post(&c, rdma(EMU_WR_RDMA_WRITE, 1, 0, 8, 0x100, HALF, 0x200));
	expect_wc(&c, 1, EMU_WC_SUCCESS);
	done();
}

static void a_full_send_ring_says_so(void)
{
	struct emu_wqe wqe[20];
	unsigned bad = 99;

	fresh();
	CHECK_EQ(modify(&a, EMU_QPS_SQD), 0);
	for (unsigned i = 0; i < 20; i++)
		wqe[i] = rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, HALF, 0x200);
	CHECK_EQ(emu_ring_post_send(a.qp, wqe, 20, NULL, &bad), -ENOMEM);
	CHECK_EQ(bad, 16);
	CHECK(no_wc(&a)); /* draining: nothing starts */
	CHECK_EQ(modify(&a, EMU_QPS_RTS), 0);
	for (unsigned i = 0; i < 16; i++)
		expect_wc(&a, i, EMU_WC_SUCCESS);
	CHECK_EQ(emu_ring_post_send(a.qp, wqe, 16, NULL, &bad), 0);
	for (unsigned i = 0; i < 16; i++)
		expect_wc(&a, i, EMU_WC_SUCCESS);
	done();
}

int main(void)
{
	world_open(&w, &(struct world_config){ 0 });
	keys();
	malformed();
	the_queue_pair_denies();
	send_errors();
	not_ready();
	no_answer();
	a_peer_that_becomes_ready_is_reached();
	states_that_cannot_post();
	reset_forgets_and_works_again();
	a_full_completion_queue_is_an_error_of_its_own();
	a_full_send_ring_says_so();
	world_close(&w);
	return 0;
}
