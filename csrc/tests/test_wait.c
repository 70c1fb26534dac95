/* SPDX-License-Identifier: Apache-2.0
 * Requests posted behind one that waits for a timer: they cost no processor meanwhile, and are carried out when the wait ends.
 */
#include "check.h"

#define HALF (512u << 10)
#define LATE 3u /* requests behind the one that waits */

static struct world w;
static struct end a, b;

/* a retries for ever; b asks for `rnr_timer` between two tries. */
static void fresh(double time_scale, uint32_t rnr_timer)
{
	struct emu_qp_attr patient = { .mask = EMU_QP_STATE | EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY |
			EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC,
		.state = EMU_QPS_RTS, .timeout = 8, .retry_cnt = 3, .rnr_retry = 7, .max_rd_atomic = 1 };
	struct emu_qp_attr answer = { .mask = EMU_QP_MIN_RNR_TIMER, .min_rnr_timer = rnr_timer };

	world_open(&w, &(struct world_config){ .spin = 10, .time_scale = time_scale });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	to_init(&a);
	to_init(&b);
	to_rtr(&a, b.qp_num);
	to_rtr(&b, a.qp_num);
	CHECK_EQ(emu_qp_modify(w.e, a.qp_num, &patient), 0);
	to_rts(&b);
	CHECK_EQ(emu_qp_modify(w.e, b.qp_num, &answer), 0);
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

static uint64_t sleeps(void)
{
	struct emu_engine_stats s;

	emu_engine_stats(w.e, &s);
	return s.sleeps;
}

/* Fails after a while: a thread that never sleeps again cannot be told otherwise from one that has not yet. */
static void expect_sleeps(uint64_t more)
{
	int64_t deadline = clock_ns() + 20000000000ll;
	uint64_t before = sleeps();

	while (sleeps() - before < more) {
		CHECK(clock_ns() < deadline);
		emu_pause();
	}
}

static void send_and_be_told_to_wait(void)
{
	post(&a, wqe_of(EMU_WR_SEND, 0, 0, 64, 0x100));
	expect_sleeps(3);
	CHECK(no_wc(&a));
}

static void the_thread_sleeps_while_requests_queue_up(void)
{
	fresh(1e6, 0); /* the timer never ends in a test */
	send_and_be_told_to_wait();
	for (unsigned i = 1; i <= LATE; i++) {
		post(&a, wqe_of(EMU_WR_SEND, i, 0, 64, 0x100));
		expect_sleeps(20);
	}
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0); /* a change of state ends the wait at once */
	for (unsigned i = 0; i <= LATE; i++)
		expect_wc(&a, i, EMU_WC_WR_FLUSH_ERR);
	done();
}

static void they_are_carried_out_when_the_wait_ends(void)
{
	for (unsigned round = 0; round < LOAD(40u); round++) {
		fresh(1, 1 + round % 20); /* 10 us and up */
		post(&a, wqe_of(EMU_WR_SEND, 0, 0, 64, 0x100));
		for (unsigned i = 1; i <= LATE; i++)
			post(&a, wqe_of(EMU_WR_SEND, i, 0, 64, 0x100));
		if (round % 2)
			expect_sleeps(1);
		for (unsigned i = 0; i <= LATE; i++)
			post_recv(&b, 100 + i, HALF, 64, 0x200);
		for (unsigned i = 0; i <= LATE; i++) {
			expect_wc(&a, i, EMU_WC_SUCCESS);
			expect_wc(&b, 100 + i, EMU_WC_SUCCESS);
		}
		done();
	}
}

int main(void)
{
	the_thread_sleeps_while_requests_queue_up();
	they_are_carried_out_when_the_wait_ends();
	return 0;
}
