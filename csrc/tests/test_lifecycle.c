/* SPDX-License-Identifier: Apache-2.0
 * Queues come and go under load; threads fall asleep and wake; what is asked of a removed object is refused.
 */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "check.h"

#define HALF (512u << 10)

static struct world w;

struct client {
	struct end a, b;
	pthread_t thread;
	uint64_t completed;
	int drains; /* written before `stop` is published */
	uint32_t stop;
	uint64_t to; /* a place of its own */
};

/* Posts and polls until told to stop or until its queue pair has gone. */
static void *busy(void *arg)
{
	struct client *c = arg;
	uint64_t next = 0;

	while (!emu_observe(&c->stop) || (c->drains && c->completed < next)) {
		struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, next, 0, 8192, 0x100, c->to, 0x200);
		struct emu_cqe cqe;
		unsigned bad;

		if (!emu_observe(&c->stop) && emu_ring_post_send(c->a.qp, &wqe, 1, NULL, &bad) == 0)
			next++;
		while (emu_ring_poll(c->a.cq, &cqe, 1) == 1) {
			emu_ring_qp_release(c->a.qp, (int)cqe.is_recv, cqe.wq_head);
			emu_poke(&c->completed, c->completed + 1);
		}
	}
	return NULL;
}

static void client_start(struct client *c, uint64_t to)
{
	*c = (struct client){ .to = to };
	end_open(&w, &c->a, &(struct end_config){ 0 });
	end_open(&w, &c->b, &(struct end_config){ 0 });
	end_connect(&c->a, &c->b);
	CHECK_EQ(pthread_create(&c->thread, NULL, busy, c), 0);
	while (emu_peek(&c->completed) < 10)
		emu_pause();
}

static void client_stop(struct client *c)
{
	emu_publish(&c->stop, 1);
	pthread_join(c->thread, NULL);
	end_close(&c->a);
	end_close(&c->b);
}

/* The queue pair stays in the engine: it must have worked off what was posted, or it goes on writing under whoever comes next. */
static void client_finish(struct client *c)
{
	c->drains = 1;
	client_stop(c);
}

/* The client's mapping must outlive it here: rings are attached to the engine's. So the poster is stopped first, with work
 * still queued. */
static void removal_under_load(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		struct client c, d;

		client_start(&c, HALF);
		client_start(&d, HALF + 8192);
		CHECK_EQ(modify(&c.a, i % 2 ? EMU_QPS_ERR : EMU_QPS_RESET), 0);
		client_stop(&c);
		CHECK_EQ(emu_cq_remove(w.e, c.a.cq_num), -EBUSY);
		CHECK_EQ(emu_ctx_remove(w.e, c.a.ctx), -EBUSY);
		CHECK_EQ(emu_qp_remove(w.e, c.b.qp_num, 1), 0);
		CHECK_EQ(emu_qp_remove(w.e, c.a.qp_num, 2), 0);
		CHECK_EQ(emu_qp_remove(w.e, c.a.qp_num, 2), -ENOENT);
		next_event(&w, EMU_ENG_QP_GONE);
		next_event(&w, EMU_ENG_QP_GONE);
		CHECK_EQ(emu_cq_remove(w.e, c.a.cq_num), 0);
		CHECK_EQ(emu_cq_remove(w.e, c.b.cq_num), 0);
		CHECK_EQ(emu_ctx_remove(w.e, c.a.ctx), 0);
		CHECK_EQ(emu_ctx_remove(w.e, c.b.ctx), 0);
		CHECK_EQ(emu_ctx_remove(w.e, c.b.ctx), -ENOENT);
		client_finish(&d);
	}
}

static void states_change_under_load(unsigned rounds)
{
	struct client c;

	client_start(&c, HALF);
	for (unsigned i = 0; i < rounds; i++) {
		uint64_t seen;

		CHECK_EQ(modify(&c.a, EMU_QPS_SQD), 0);
		CHECK_EQ(modify(&c.a, EMU_QPS_RTS), 0);
		seen = emu_peek(&c.completed);
		while (emu_peek(&c.completed) == seen)
			emu_pause();
	}
	client_finish(&c);
}

static void figures_add_up(void)
{
	struct emu_engine_stats s;

	emu_engine_stats(w.e, &s);
	CHECK(s.ops > 0 && s.bytes > 0 && s.quanta > 0 && s.sections > 0);
	CHECK_EQ(s.mrs, 2);
	CHECK_EQ(s.apertures, 1);
	CHECK_EQ(s.events_lost, 0);
}

static int64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* A thread that sleeps is woken by a bell, and an idle engine costs next to nothing. Judged by sleeps counted, not by time:
 * whoever spun would not have counted them. */
static void sleepers_wake(void)
{
	struct emu_engine_stats s;
	struct end a, b;
	uint64_t sleeps;
	int64_t cpu;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	for (uint64_t i = 0; i < 20; i++) {
		emu_engine_stats(w.e, &s);
		sleeps = s.sleeps;
		do {
			struct timespec pause = { 0, 1000000 };

			nanosleep(&pause, NULL);
			emu_engine_stats(w.e, &s);
		} while (s.sleeps == sleeps);
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, HALF, 0x200));
		expect_wc(&a, i, EMU_WC_SUCCESS);
	}
	cpu = cpu_ns();
	for (int i = 0; i < 10; i++) {
		struct timespec pause = { 0, 100000000 };

		nanosleep(&pause, NULL);
	}
	cpu = cpu_ns() - cpu;
	printf("idle for a second: %lld us of CPU\n", (long long)cpu / 1000);
	end_close(&a);
	end_close(&b);
}

static void configurations_that_make_no_sense(void)
{
	struct emu_engine_config good = { 1, 65536, 0, 1.0 }, c;
	struct emu_engine *e;

	CHECK_EQ(emu_engine_new((c = good, c.threads = 0, &c), &e), -EINVAL);
	CHECK_EQ(emu_engine_new((c = good, c.threads = 9, &c), &e), -EINVAL);
	CHECK_EQ(emu_engine_new((c = good, c.quantum = 4095, &c), &e), -EINVAL);
	CHECK_EQ(emu_engine_new((c = good, c.quantum = 1u << 30, &c), &e), -EINVAL);
	CHECK_EQ(emu_engine_new((c = good, c.time_scale = 0, &c), &e), -EINVAL);
	CHECK_EQ(emu_engine_new(&good, &e), 0); /* never started, with things in it */
	w.e = e;
	emu_engine_free(e);
}

static void many_queue_pairs_are_served_in_turn(void)
{
	enum { MANY = 40 };
	struct end a[MANY], b[MANY];

	for (int i = 0; i < MANY; i++) {
		end_open(&w, &a[i], &(struct end_config){ 0 });
		end_open(&w, &b[i], &(struct end_config){ 0 });
		end_connect(&a[i], &b[i]);
	}
	for (uint64_t round = 0; round < LOAD(200u); round++) {
		for (int i = 0; i < MANY; i++)
			post(&a[i], rdma(EMU_WR_RDMA_WRITE, round, 0, 8, 0x100, HALF + 64u * (unsigned)i, 0x200));
		for (int i = 0; i < MANY; i++)
			expect_wc(&a[i], round, EMU_WC_SUCCESS);
	}
	for (int i = 0; i < MANY; i++) {
		end_close(&a[i]);
		end_close(&b[i]);
	}
}

/* A large operation does not keep a small one waiting: with the first held in its second quantum's turn the other QP had its. */
static void a_large_operation_starves_nobody(void)
{
	struct end a, b, c, d;
	struct emu_cqe cqe;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_open(&w, &c, &(struct end_config){ 0 });
	end_open(&w, &d, &(struct end_config){ 0 });
	end_connect(&a, &b);
	end_connect(&c, &d);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_FIRST, 0x200, 0), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, HALF - 64, 0x100, HALF, 0x200));
	next_event(&w, EMU_ENG_HELD);
	post(&c, rdma(EMU_WR_RDMA_WRITE, 2, 0, 8, 0x100, 2 * HALF - 64, 0x200));
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_LAST, 0x200, 4), 0); /* the large one has 128 */
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_FIRST), 0);
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_ring_poll(c.cq, &cqe, 1), 1);
	CHECK_EQ(cqe.wr_id, 2);
	CHECK(no_wc(&a));
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_LAST), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	end_close(&a);
	end_close(&b);
	end_close(&c);
	end_close(&d);
}

static void run(uint32_t threads, uint32_t spin)
{
	world_open(&w, &(struct world_config){ .threads = threads, .spin = spin, .quantum = 4096 });
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
	removal_under_load(LOAD(40u));
	states_change_under_load(LOAD(400u));
	many_queue_pairs_are_served_in_turn();
	if (threads == 1)
		a_large_operation_starves_nobody();
	sleepers_wake();
	figures_add_up();
	world_close(&w);
}

int main(void)
{
	run(1, 0);
	run(3, 1);
	configurations_that_make_no_sense();
	return 0;
}
