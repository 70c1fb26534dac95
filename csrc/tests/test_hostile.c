/* SPDX-License-Identifier: Apache-2.0
 * A client scribbles over everything it has mapped: its queue pair goes to error at worst, and a neighbour on the same engine
 * thread, over the same bell page, notices nothing. Seeded: the argument, or 1.
 */
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

#define HALF (512u << 10)
#define DEPTH 16u

static struct world w;

/* What a client that ignores the library holds. */
struct hostile {
	uint32_t qp_num, qp_bytes, cq_bytes; /* kept apart: the segments' own words get scribbled over */
	uint32_t slot;
	struct emu_ctx_page *ctx;
	struct emu_bell_page *bell;
	struct emu_cq_seg *cq;
	struct emu_qp_seg *qp;
	struct end n;
};

static void *map(int fd, uint32_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED);
	close(fd);
	return p;
}

static uint32_t size_of(int fd)
{
	struct emu_seg_header head;

	CHECK_EQ(pread(fd, &head, sizeof(head), 0), sizeof(head));
	return head.bytes;
}

static void hostile_open(struct hostile *h)
{
	int ctx_fd, bell_fd, cq_fd, qp_fd, got;
	struct emu_qp_desc d = { .pd = PD, .max_send_wr = DEPTH, .max_recv_wr = DEPTH, .max_send_sge = 4, .max_recv_sge = 4,
		.type = 2 };

	CHECK((got = emu_ctx_add(w.e, &ctx_fd, &bell_fd)) >= 0);
	h->n = (struct end){ .w = &w, .ctx = (uint32_t)got };
	d.ctx = (uint32_t)got;
	CHECK((got = emu_cq_add(w.e, d.ctx, 64, &cq_fd)) >= 0);
	d.send_cq = d.recv_cq = h->n.cq_num = (uint32_t)got;
	CHECK((got = emu_qp_add(w.e, &d, &qp_fd)) >= 0);
	h->qp_num = h->n.qp_num = (uint32_t)got;
	h->ctx = map(ctx_fd, EMU_SEG_HEADER);
	h->bell = map(bell_fd, EMU_SEG_HEADER);
	h->cq_bytes = size_of(cq_fd);
	h->qp_bytes = size_of(qp_fd);
	h->cq = map(cq_fd, h->cq_bytes);
	h->qp = map(qp_fd, h->qp_bytes);
	h->slot = h->qp->slot;
}

static void ring(struct hostile *h)
{
	emu_handshake();
	__atomic_fetch_or(&h->ctx->qp_bits[h->slot / 64], ~0ull, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&h->ctx->qp_summary, ~0ull, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&h->bell->ctx_bits[h->n.ctx / 64], 1ull << h->n.ctx % 64, __ATOMIC_SEQ_CST);
	__atomic_fetch_or(&h->bell->ctx_summary, ~0ull, __ATOMIC_SEQ_CST);
	emu_publish(&h->bell->sleeping, 0);
}

static void scribble(void *at, uint64_t bytes, uint64_t *seed)
{
	uint64_t *p = at;

	for (uint64_t i = 0; i < bytes / 8; i++)
		p[i] = random_next(seed);
}

static uint32_t state_of(uint32_t qp_num)
{
	struct emu_qp_rules r;

	CHECK_EQ(emu_qp_query(w.e, qp_num, &r), 0);
	return r.state;
}

static void close_hostile(struct hostile *h)
{
	munmap(h->qp, h->qp_bytes);
	munmap(h->cq, h->cq_bytes);
	munmap(h->ctx, EMU_SEG_HEADER);
	munmap(h->bell, EMU_SEG_HEADER);
}

/* One that can be mistaken for nothing else: the producer index jumps. */
static void a_jumped_index_is_an_error(uint32_t jump, int of_receives)
{
	struct emu_engine_event event;
	struct hostile h;
	struct end peer;

	hostile_open(&h);
	end_open(&w, &peer, &(struct end_config){ 0 });
	end_connect(&h.n, &peer);
	if (of_receives) {
		emu_publish(&h.qp->rq_prod, jump);
		post(&peer, wqe_of(EMU_WR_SEND, 1, 0, 8, 0x100));
	} else {
		emu_publish(&h.qp->sq_prod, jump);
		ring(&h);
	}
	event = next_event(&w, EMU_ENG_ASYNC);
	CHECK_EQ(event.id, h.qp_num);
	CHECK_EQ(event.code, EMU_EVENT_QP_FATAL);
	CHECK_EQ(state_of(h.qp_num), EMU_QPS_ERR);
	if (of_receives)
		expect_wc(&peer, 1, EMU_WC_RETRY_EXC_ERR);
	else
		CHECK_EQ(state_of(peer.qp_num), EMU_QPS_RTS);
	close_hostile(&h);
	end_close(&peer);
}

static void a_wild_cons_is_an_overrun(void)
{
	struct hostile h;
	struct end peer;

	hostile_open(&h);
	end_open(&w, &peer, &(struct end_config){ 0 });
	end_connect(&h.n, &peer);
	emu_publish(&h.cq->cons, 1u << 31);
	emu_publish(&h.qp->sq_prod, 1); /* a zeroed request: an empty WRITE, unsignaled ... */
	((struct emu_wqe *)((char *)h.qp + h.qp->sq_off))->flags = EMU_SEND_SIGNALED; /* ... or not */
	ring(&h);
	CHECK_EQ(next_event(&w, EMU_ENG_ASYNC).code, EMU_EVENT_CQ_ERR);
	CHECK_EQ(next_event(&w, EMU_ENG_ASYNC).code, EMU_EVENT_QP_FATAL);
	CHECK_EQ(state_of(h.qp_num), EMU_QPS_ERR);
	close_hostile(&h);
	end_close(&peer);
}

static uint32_t stop;
static uint64_t good;

static void *neighbour(void *arg)
{
	struct end *n = arg;

	for (uint64_t i = 0; !emu_observe(&stop); i++) {
		post(n, rdma(EMU_WR_RDMA_WRITE, i, 0, 64, 0x100, HALF, 0x200));
		expect_wc(n, i, EMU_WC_SUCCESS);
		emu_poke(&good, i);
	}
	return NULL;
}

/* Back to RTS as far as it goes: with a CQ in error the queue pair falls down again at once. */
static void revive(struct hostile *h, uint32_t peer)
{
	struct emu_qp_attr a = { .mask = EMU_QP_STATE, .state = EMU_QPS_RESET };

	CHECK_EQ(emu_qp_modify(w.e, h->qp_num, &a), 0);
	a = (struct emu_qp_attr){ .mask = EMU_QP_STATE | EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_ACCESS_FLAGS,
		.state = EMU_QPS_INIT, .port = 1, .access = ALL_RIGHTS };
	if (emu_qp_modify(w.e, h->qp_num, &a))
		return;
	a = (struct emu_qp_attr){ .mask = EMU_QP_STATE | EMU_QP_AV | EMU_QP_PATH_MTU | EMU_QP_DEST_QPN | EMU_QP_RQ_PSN |
			EMU_QP_MAX_DEST_RD_ATOMIC | EMU_QP_MIN_RNR_TIMER,
		.state = EMU_QPS_RTR, .path_mtu = 5, .dest_qpn = peer, .min_rnr_timer = 1 };
	if (emu_qp_modify(w.e, h->qp_num, &a))
		return;
	a = (struct emu_qp_attr){ .mask = EMU_QP_STATE | EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY |
			EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC,
		.state = EMU_QPS_RTS, .timeout = 8, .retry_cnt = 1 };
	emu_qp_modify(w.e, h->qp_num, &a);
}

/* Anything at all, in all that is mapped, while the broker goes on with its own business. */
static void fuzz(uint64_t seed, struct end *peer)
{
	struct hostile h;
	uint64_t seen;

	hostile_open(&h);
	to_init(&h.n);
	to_rtr(&h.n, peer->qp_num);
	to_rts(&h.n);
	for (unsigned round = 0; round < 40; round++) {
		unsigned what = (unsigned)(random_next(&seed) >> 40) % 6;

		if (what == 0)
			scribble(h.ctx, EMU_SEG_HEADER, &seed);
		else if (what == 1)
			scribble(h.bell, EMU_SEG_HEADER, &seed);
		else if (what == 2)
			scribble(h.cq, 4096, &seed);
		else
			scribble((char *)h.qp + EMU_SEG_HEADER, h.qp_bytes - EMU_SEG_HEADER, &seed);
		if (what == 5)
			scribble(h.qp, EMU_SEG_HEADER, &seed);
		emu_publish(&h.qp->sq_prod, what == 4 ? (uint32_t)random_next(&seed) : emu_peek(&h.qp->sq_prod) + 3);
		ring(&h);
		seen = emu_peek(&good);
		while (emu_peek(&good) == seen) /* the neighbour still gets its turns */
			emu_pause();
		if (state_of(h.qp_num) == EMU_QPS_ERR && what & 1)
			revive(&h, peer->qp_num);
	}
	CHECK_EQ(emu_qp_remove(w.e, h.qp_num, seed), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QP_GONE).cookie, seed);
	CHECK_EQ(emu_cq_remove(w.e, h.n.cq_num), 0);
	CHECK_EQ(emu_ctx_remove(w.e, h.n.ctx), 0);
	close_hostile(&h);
}

int main(int argc, char **argv)
{
	uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : 1;
	struct end a, b, peer;
	pthread_t thread;

	world_open(&w, &(struct world_config){ 0 });
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
	a_jumped_index_is_an_error(1u << 31, 0);
	a_jumped_index_is_an_error(DEPTH + 1, 0);
	a_jumped_index_is_an_error(UINT32_MAX, 0);
	a_jumped_index_is_an_error(1u << 31, 1);
	a_wild_cons_is_an_overrun();
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_open(&w, &peer, &(struct end_config){ 0 });
	end_connect(&a, &b);
	CHECK_EQ(pthread_create(&thread, NULL, neighbour, &a), 0);
	for (unsigned i = 0; i < LOAD(40u); i++) {
		printf("seed %llu\n", (unsigned long long)seed);
		fuzz(random_next(&seed), &peer);
	}
	emu_publish(&stop, 1);
	pthread_join(thread, NULL);
	end_close(&a);
	end_close(&b);
	end_close(&peer);
	world_close(&w);
	return 0;
}
