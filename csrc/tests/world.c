/* SPDX-License-Identifier: Apache-2.0
 *
 * check.h, the world.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "../engine/internal.h"
#include "../ring_attach.h"
#include "check.h"

int64_t clock_ns(void)
{
	return (int64_t)now_ns();
}

uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static int memory_fd(uint64_t bytes)
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	CHECK(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	return fd;
}

void world_open(struct world *w, const struct world_config *c)
{
	struct emu_engine_config config = { c->threads ? c->threads : 1, c->quantum ? c->quantum : 65536, c->spin,
		c->time_scale ? c->time_scale : 1.0 };

	*w = (struct world){ .bytes = c->bytes ? c->bytes : 1 << 20 };
	CHECK_EQ(emu_engine_new(&config, &w->e), 0);
	for (unsigned t = 0; c->oplog && t < config.threads; t++) {
		char path[256];

		snprintf(path, sizeof(path), "%s-%u", c->oplog, t);
		CHECK_EQ(emu_oplog_open(w->e, t, path, c->oplog_capacity ? c->oplog_capacity : 4096), 0);
	}
	w->fd = memory_fd(w->bytes);
	w->gens_fd = memory_fd(w->bytes / 4096 * 4);
	w->aperture = emu_aperture_add(w->e, w->fd, w->bytes, 4096, w->gens_fd, 0);
	CHECK(w->aperture >= 0);
	w->mem = w->e->apertures[w->aperture]->map->base;
	w->gens = w->e->apertures[w->aperture]->map->gens;
	if (!c->idle)
		CHECK_EQ(emu_engine_start(w->e), 0);
}

void world_close(struct world *w)
{
	emu_engine_free(w->e);
	close(w->fd);
	close(w->gens_fd);
}

static void rings_open(struct end *n, int ctx_fd, int bell_fd, int cq_fd, int qp_fd)
{
	CHECK_EQ(emu_ring_ctx_open(ctx_fd, bell_fd, &n->ctx_ring), 0);
	CHECK_EQ(emu_ring_cq_open(cq_fd, &n->cq), 0);
	CHECK_EQ(emu_ring_qp_open(n->ctx_ring, qp_fd, &n->qp), 0);
}

static void rings_attach(struct end *n)
{
	struct emu_ctx *ctx = n->w->e->ctxs[n->ctx];
	struct emu_cq *cq = n->w->e->cqs[n->cq_num];
	struct emu_qp *qp = qp_find(n->w->e, n->qp_num);

	CHECK_EQ(emu_ring_ctx_attach(ctx->page, ctx->thread->bell, &n->ctx_ring), 0);
	CHECK_EQ(emu_ring_cq_attach(cq->seg, cq->bytes, &n->cq), 0);
	CHECK_EQ(emu_ring_qp_attach(n->ctx_ring, qp->seg, qp->bytes, &n->qp), 0);
}

void end_open(struct world *w, struct end *n, const struct end_config *c)
{
	uint32_t depth = c->depth ? c->depth : 16, sge = c->sge ? c->sge : 4;
	int ctx_fd, bell_fd, cq_fd, qp_fd, got;
	struct emu_qp_desc d;

	*n = (struct end){ .w = w };
	CHECK((got = emu_ctx_add(w->e, &ctx_fd, &bell_fd)) >= 0);
	n->ctx = (uint32_t)got;
	CHECK((got = emu_cq_add(w->e, n->ctx, c->cq_depth ? c->cq_depth : 4 * depth, &cq_fd)) >= 0);
	n->cq_num = (uint32_t)got;
	d = (struct emu_qp_desc){ n->ctx, c->pd ? c->pd : PD, n->cq_num, n->cq_num, depth, depth, sge, sge,
		(uint32_t)c->sig_all, 2 };
	CHECK((got = emu_qp_add(w->e, &d, &qp_fd)) >= 0);
	n->qp_num = (uint32_t)got;
	if (c->own_mapping)
		rings_open(n, ctx_fd, bell_fd, cq_fd, qp_fd);
	else
		rings_attach(n);
	close(ctx_fd);
	close(bell_fd);
	close(cq_fd);
	close(qp_fd);
}

void end_close(struct end *n)
{
	emu_ring_qp_close(n->qp);
	emu_ring_cq_close(n->cq);
	emu_ring_ctx_close(n->ctx_ring);
}

/* ---- states */

void to_init(struct end *n)
{
	struct emu_qp_attr a = { .mask = EMU_QP_STATE | EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_ACCESS_FLAGS,
		.state = EMU_QPS_INIT, .port = 1, .access = ALL_RIGHTS };

	CHECK_EQ(emu_qp_modify(n->w->e, n->qp_num, &a), 0);
}

void to_rtr(struct end *n, uint32_t dest)
{
	struct emu_qp_attr a = { .mask = EMU_QP_STATE | EMU_QP_AV | EMU_QP_PATH_MTU | EMU_QP_DEST_QPN | EMU_QP_RQ_PSN |
			EMU_QP_MAX_DEST_RD_ATOMIC | EMU_QP_MIN_RNR_TIMER,
		.state = EMU_QPS_RTR, .path_mtu = 5, .dest_qpn = dest, .min_rnr_timer = 1, .max_dest_rd_atomic = 1 };

	CHECK_EQ(emu_qp_modify(n->w->e, n->qp_num, &a), 0);
}

void to_rts(struct end *n)
{
	struct emu_qp_attr a = { .mask = EMU_QP_STATE | EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY |
			EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC,
		.state = EMU_QPS_RTS, .timeout = 8, .retry_cnt = 3, .rnr_retry = 3, .max_rd_atomic = 1 };

	CHECK_EQ(emu_qp_modify(n->w->e, n->qp_num, &a), 0);
}

int modify(struct end *n, uint32_t state)
{
	struct emu_qp_attr a = { .mask = EMU_QP_STATE, .state = state };

	return emu_qp_modify(n->w->e, n->qp_num, &a);
}

void end_connect(struct end *a, struct end *b)
{
	to_init(a);
	to_rtr(a, b->qp_num);
	if (a != b) {
		to_init(b);
		to_rtr(b, a->qp_num);
		to_rts(b);
	}
	to_rts(a);
}

/* ---- memory and work */

int mr_add_as(struct world *w, uint32_t key, uint32_t pd, uint32_t access, uint64_t offset, uint64_t bytes)
{
	struct emu_extent x = { offset, bytes };
	struct emu_mr_desc d = { .key = key, .pd = pd, .access = access, .aperture = (uint32_t)w->aperture, .n_extents = 1,
		.iova = IOVA + offset, .length = bytes, .extents = &x };

	return emu_mr_install(w->e, &d);
}

void mr_add(struct world *w, uint32_t key, uint64_t offset, uint64_t bytes)
{
	CHECK_EQ(mr_add_as(w, key, PD, ALL_RIGHTS, offset, bytes), 0);
}

struct emu_wqe wqe_of(uint8_t opcode, uint64_t wr_id, uint64_t from, uint32_t length, uint32_t lkey)
{
	return (struct emu_wqe){ .wr_id = wr_id, .opcode = opcode, .flags = EMU_SEND_SIGNALED, .num_sge = 1,
		.length = length, .addr = IOVA + from, .lkey = lkey };
}

struct emu_wqe rdma(uint8_t opcode, uint64_t wr_id, uint64_t from, uint32_t length, uint32_t lkey, uint64_t to, uint32_t rkey)
{
	struct emu_wqe wqe = wqe_of(opcode, wr_id, from, length, lkey);

	wqe.remote_addr = IOVA + to;
	wqe.rkey = rkey;
	return wqe;
}

void post(struct end *n, struct emu_wqe wqe)
{
	unsigned bad;

	CHECK_EQ(emu_ring_post_send(n->qp, &wqe, 1, NULL, &bad), 0);
}

void post_recv(struct end *n, uint64_t wr_id, uint64_t at, uint32_t length, uint32_t lkey)
{
	struct emu_wqe wqe = wqe_of(0, wr_id, at, length, lkey);
	unsigned bad;

	CHECK_EQ(emu_ring_post_recv(n->qp, &wqe, 1, NULL, &bad), 0);
}

struct emu_cqe next_wc(struct end *n)
{
	struct emu_cqe cqe;

	CHECK_EQ(emu_ring_wait(n->cq, PATIENCE_NS), 1);
	CHECK_EQ(emu_ring_poll(n->cq, &cqe, 1), 1);
	emu_ring_qp_release(n->qp, (int)cqe.is_recv, cqe.wq_head);
	return cqe;
}

void expect_wc(struct end *n, uint64_t wr_id, uint32_t status)
{
	struct emu_cqe cqe = next_wc(n);

	CHECK_EQ(cqe.wr_id, wr_id);
	CHECK_EQ(cqe.status, status);
	CHECK_EQ(cqe.qp_num, n->qp_num);
}

int no_wc(struct end *n)
{
	struct emu_cqe cqe;

	return emu_ring_poll(n->cq, &cqe, 1) == 0;
}

/* ---- events */

int event_pending(struct world *w)
{
	struct pollfd p = { .fd = emu_engine_eventfd(w->e), .events = POLLIN };

	return poll(&p, 1, 0);
}

struct emu_engine_event next_event(struct world *w, uint32_t kind)
{
	struct pollfd p = { .fd = emu_engine_eventfd(w->e), .events = POLLIN };
	struct emu_engine_event event;

	for (;;) {
		CHECK_EQ(poll(&p, 1, (int)(PATIENCE_NS / 1000000)), 1);
		if (emu_events_take(w->e, &event, 1) == 1 && event.kind == kind)
			return event;
	}
}

void quiesce(struct world *w, const uint32_t *keys, unsigned n)
{
	static uint64_t cookie = 1000;

	CHECK_EQ(emu_quiesce(w->e, keys, n, ++cookie), 0);
	CHECK_EQ(next_event(w, EMU_ENG_QUIESCED).cookie, cookie);
}

/* ---- logs */

void log_read(const char *path, struct log *log)
{
	uint64_t n;
	FILE *f = fopen(path, "r");

	CHECK(f);
	CHECK_EQ(fread(&log->header, sizeof(log->header), 1, f), 1);
	CHECK_EQ(log->header.magic, EMU_OPLOG_MAGIC);
	CHECK_EQ(log->header.record_bytes, sizeof(struct emu_oplog_record));
	n = log->header.written < log->header.capacity ? log->header.written : log->header.capacity;
	log->records = calloc(n ? n : 1, sizeof(*log->records));
	CHECK(log->records && !fseek(f, EMU_OPLOG_HEADER, SEEK_SET));
	CHECK_EQ(fread(log->records, sizeof(*log->records), n, f), n);
	fclose(f);
}
