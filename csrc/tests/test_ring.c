/* SPDX-License-Identifier: Apache-2.0
 * Rings go round many times between a client's thread and the engine's, over one mapping, and nothing is lost, doubled or
 * torn; and what a client is handed must be what it claims to be.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <emu/barrier.h>

#include "../engine/internal.h"
#include "check.h"

#define HALF (512u << 10)
#define ROUNDS LOAD(40000u)

static struct world w;

/* A writer that keeps its ring as full as it can, in batches of changing size. */
static void *poster(void *arg)
{
	struct end *n = arg;
	uint64_t to = HALF + 64 * (n->qp_num % 2), next = 0, seen = 0, seed = 1;

	while (seen < ROUNDS) {
		struct emu_wqe batch[8];
		unsigned want = (unsigned)(random_next(&seed) >> 33) % 8 + 1, bad = want;
		struct emu_cqe cqe[8];
		int got;

		for (unsigned i = 0; i < want; i++)
			batch[i] = rdma(EMU_WR_RDMA_WRITE, next + i, 0, 8, 0x100, to, 0x200);
		if (next + want > ROUNDS)
			want = bad = (unsigned)(ROUNDS - next);
		if (want && emu_ring_post_send(n->qp, batch, want, NULL, &bad))
			CHECK(bad < want);
		next += bad;
		if (seen < next)
			CHECK_EQ(emu_ring_wait(n->cq, PATIENCE_NS), 1);
		got = emu_ring_poll(n->cq, cqe, 8);
		for (int i = 0; i < got; i++) {
			CHECK_EQ(cqe[i].wr_id, seen++);
			CHECK_EQ(cqe[i].status, EMU_WC_SUCCESS);
			emu_ring_qp_release(n->qp, 0, cqe[i].wq_head);
		}
	}
	return NULL;
}

static void rings_wrap(uint32_t depth, int own_mapping)
{
	struct end_config config = { .depth = depth, .cq_depth = depth * 2, .own_mapping = own_mapping };
	struct end a, b;
	pthread_t thread;

	end_open(&w, &a, &config);
	end_open(&w, &b, &config);
	end_connect(&a, &b);
	CHECK_EQ(pthread_create(&thread, NULL, poster, &a), 0);
	poster(&b);
	pthread_join(thread, NULL);
	end_close(&a);
	end_close(&b);
}

/* A message passed to and fro: each waits for the other's bytes, asleep where it must. */
struct player {
	struct end *n;
	uint64_t mine, theirs;
	int first;
};

static void *player(void *arg)
{
	struct player *p = arg;

	for (uint64_t i = 0; i < LOAD(4000u); i++) {
		post_recv(p->n, i, p->theirs, 64, p->first ? 0x100 : 0x200);
		if (p->first) {
			memset(w.mem + p->mine, (int)i, 64);
			post(p->n, wqe_of(EMU_WR_SEND, i, p->mine, 64, 0x100));
		}
		for (int k = 0; k < (p->first ? 2 : 1); k++)
			CHECK_EQ(next_wc(p->n).status, EMU_WC_SUCCESS);
		CHECK_EQ((unsigned char)w.mem[p->theirs + 63], (unsigned char)i);
		if (!p->first) {
			memset(w.mem + p->mine, (int)i, 64);
			post(p->n, wqe_of(EMU_WR_SEND, i, p->mine, 64, 0x200));
			CHECK_EQ(next_wc(p->n).status, EMU_WC_SUCCESS);
		}
	}
	return NULL;
}

static void messages_go_to_and_fro(void)
{
	struct end a, b;
	struct player pa = { &a, 0, 4096, 1 }, pb = { &b, HALF, HALF + 4096, 0 };
	pthread_t thread;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	to_init(&a);
	to_init(&b);
	to_rtr(&a, b.qp_num);
	to_rtr(&b, a.qp_num);
	for (int i = 0; i < 2; i++) {
		struct emu_qp_attr at = { .mask = EMU_QP_STATE | EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY |
				EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC,
			.state = EMU_QPS_RTS, .timeout = 14, .retry_cnt = 7, .rnr_retry = 7 };

		CHECK_EQ(emu_qp_modify(w.e, i ? b.qp_num : a.qp_num, &at), 0);
	}
	CHECK_EQ(pthread_create(&thread, NULL, player, &pb), 0);
	player(&pa);
	pthread_join(thread, NULL);
	end_close(&a);
	end_close(&b);
}

static void segments_that_are_none_are_refused(void)
{
	int fds[6], got, plain = memfd_create("plain", 0), zero = memfd_create("zero", 0);
	struct emu_qp_desc d;
	struct emu_ring_ctx *ctx;
	struct emu_ring_cq *cq;
	struct emu_ring_qp *qp;

	CHECK_EQ(ftruncate(plain, 8192), 0);
	CHECK((got = emu_ctx_add(w.e, &fds[0], &fds[1])) >= 0);
	d = (struct emu_qp_desc){ .ctx = (uint32_t)got, .pd = PD, .max_send_wr = 3, .max_recv_wr = 5, .type = 2 };
	CHECK((got = emu_cq_add(w.e, d.ctx, 5, &fds[2])) >= 0);
	d.send_cq = d.recv_cq = (uint32_t)got;
	CHECK(emu_qp_add(w.e, &d, &fds[3]) >= 0);
	CHECK_EQ(emu_ring_ctx_open(plain, fds[1], &ctx), -EPROTO);
	CHECK_EQ(emu_ring_ctx_open(fds[0], fds[0], &ctx), -EPROTO);
	CHECK_EQ(emu_ring_ctx_open(zero, fds[1], &ctx), -EINVAL);
	CHECK_EQ(emu_ring_ctx_open(-1, fds[1], &ctx), -EBADF);
	CHECK_EQ(emu_ring_ctx_open(fds[0], fds[1], &ctx), 0);
	CHECK_EQ(emu_ring_cq_open(fds[3], &cq), -EPROTO);
	CHECK_EQ(emu_ring_qp_open(ctx, fds[2], &qp), -EPROTO);
	CHECK_EQ(ftruncate(fds[2], 0), -1); /* sealed */
	CHECK_EQ(errno, EPERM);
	CHECK_EQ(ftruncate(fds[3], 1 << 20), -1);
	CHECK_EQ(emu_ring_qp_open(ctx, fds[3], &qp), 0);
	emu_ring_qp_close(qp);
	emu_ring_ctx_close(ctx);
	d.type = 3;
	CHECK_EQ(emu_qp_add(w.e, &d, &fds[4]), -EOPNOTSUPP);
	d.type = 2;
	d.max_send_sge = 17;
	CHECK_EQ(emu_qp_add(w.e, &d, &fds[4]), -EINVAL);
	CHECK_EQ(emu_cq_add(w.e, d.ctx, 0, &fds[4]), -EINVAL);
	CHECK_EQ(emu_cq_add(w.e, d.ctx, 1 << 20, &fds[4]), -EINVAL);
	for (int i = 0; i < 4; i++)
		close(fds[i]);
	close(plain);
	close(zero);
}

static void purged_completions_are_gone_and_others_stay(void)
{
	struct end a, b;
	struct emu_cqe cqe;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	for (uint64_t i = 0; i < 6; i++)
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, HALF, 0x200));
	for (uint64_t i = 0; i < 3; i++) {
		CHECK_EQ(emu_ring_wait(a.cq, PATIENCE_NS), 1);
		CHECK_EQ(emu_ring_poll(a.cq, &cqe, 1), 1);
		CHECK_EQ(cqe.wr_id, i);
	}
	CHECK_EQ(modify(&b, EMU_QPS_RESET), 0); /* no more answers */
	CHECK_EQ(emu_qp_remove(w.e, a.qp_num, 4), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QP_GONE).cookie, 4);
	CHECK_EQ(emu_ring_cq_purge(a.cq, a.qp_num + 1), 0);
	CHECK(emu_ring_cq_purge(a.cq, a.qp_num) <= 3);
	CHECK(no_wc(&a));
	end_close(&a);
	end_close(&b);
}

static void a_wait_ends_at_its_time(void)
{
	struct end a;
	int64_t start = clock_ns();

	end_open(&w, &a, &(struct end_config){ 0 });
	CHECK_EQ(emu_ring_wait(a.cq, 20000000), 0);
	CHECK(clock_ns() - start >= 20000000);
	CHECK_EQ(emu_ring_wait(a.cq, 0), 0);
	end_close(&a);
}

static void *sleep_for_ever(void *arg)
{
	struct emu_ring_cq *cq = arg;

	CHECK_EQ(emu_ring_wait(cq, -1), 1);
	return NULL;
}

/* A thread whose time is up, and one that takes nothing, leave the others of the same CQ asleep, and to be woken. */
static void waiting_threads_share_a_queue(void)
{
	struct timespec hung = { .tv_sec = time(NULL) + PATIENCE_NS / 1000000000 };
	pthread_t sleepers[2];
	struct end a, b;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	for (uint64_t round = 0; round < 5; round++) {
		struct emu_cq_seg *seg = w.e->cqs[a.cq_num]->seg;

		for (int i = 0; i < 2; i++)
			CHECK_EQ(pthread_create(&sleepers[i], NULL, sleep_for_ever, a.cq), 0);
		while (!emu_observe(&seg->waiters))
			emu_pause();
		CHECK_EQ(emu_ring_wait(a.cq, 20000000), 0);
		post(&a, rdma(EMU_WR_RDMA_WRITE, round, 0, 8, 0x100, HALF, 0x200));
		for (int i = 0; i < 2; i++)
			CHECK_EQ(pthread_timedjoin_np(sleepers[i], NULL, &hung), 0);
		CHECK_EQ(emu_peek(&seg->waiters), 0);
		expect_wc(&a, round, EMU_WC_SUCCESS);
	}
	end_close(&a);
	end_close(&b);
}

int main(void)
{
	for (uint32_t threads = 1; threads <= 2; threads++) {
		world_open(&w, &(struct world_config){ .threads = threads });
		mr_add(&w, 0x100, 0, HALF);
		mr_add(&w, 0x200, HALF, HALF);
		rings_wrap(1, 0);
		rings_wrap(8, 0);
		rings_wrap(64, 1);
		messages_go_to_and_fro();
		segments_that_are_none_are_refused();
		purged_completions_are_gone_and_others_stay();
		a_wait_ends_at_its_time();
		waiting_threads_share_a_queue();
		world_close(&w);
	}
	return 0;
}
