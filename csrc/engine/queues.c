/* SPDX-License-Identifier: Apache-2.0
 *
 * The books of contexts, completion queues and queue pairs: made and ended by the control thread. Each lives in a sealed
 * memfd whose geometry the engine keeps for itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

#ifndef F_ADD_SEALS
#include <linux/fcntl.h>
#endif

#define NEW_MEMFD (0x0001U | 0x0002U) /* MFD_CLOEXEC | MFD_ALLOW_SEALING */

int sealed_memfd(const char *name, uint64_t bytes)
{
	int fd = (int)syscall(SYS_memfd_create, name, NEW_MEMFD);
	int err;

	if (fd < 0)
		return -errno;
	if (bytes > INT64_MAX || ftruncate(fd, (off_t)bytes) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		err = bytes > INT64_MAX ? -EINVAL : -errno;
		close(fd);
		return err;
	}
	return fd;
}

int emu_memfd(const char *name, uint64_t bytes)
{
	return bytes ? sealed_memfd(name, bytes) : -EINVAL;
}

/* A sealed segment, mapped, its header written. Returns the descriptor. */
static int segment_new(const char *name, uint64_t bytes, uint32_t magic, uint32_t id, void **out)
{
	int fd = sealed_memfd(name, bytes);
	struct emu_seg_header *head;

	if (fd < 0)
		return fd;
	head = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (head == MAP_FAILED) {
		int err = -errno;

		close(fd);
		return err;
	}
	*head = (struct emu_seg_header){ magic, EMU_RING_VERSION, (uint32_t)bytes, id };
	*out = head;
	return fd;
}

static uint32_t power_of_two_above(uint32_t n)
{
	uint32_t p = 1;

	while (p < n)
		p *= 2;
	return p;
}

/* ---- contexts */

static struct emu_thread *least_loaded(struct emu_engine *e)
{
	struct emu_thread *best = &e->threads[0];

	for (unsigned i = 1; i < e->n_threads; i++)
		if (e->threads[i].contexts < best->contexts)
			best = &e->threads[i];
	return best;
}

static int free_ctx(struct emu_engine *e)
{
	for (uint32_t i = 0; i < MAX_CTXS; i++) {
		uint32_t slot = (e->next_ctx + i) % MAX_CTXS;

		if (!e->ctxs[slot]) {
			e->next_ctx = slot + 1;
			return (int)slot;
		}
	}
	return -ENOSPC;
}

int emu_ctx_add(struct emu_engine *e, int *ctx_fd, int *bell_fd)
{
	int slot = free_ctx(e), fd, bell;
	struct emu_ctx *ctx;
	void *page = NULL;

	if (slot < 0)
		return slot;
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	ctx->thread = least_loaded(e);
	fd = segment_new("emu-ctx", EMU_SEG_HEADER, EMU_MAGIC_CTX, (uint32_t)slot, &page);
	bell = fd < 0 ? fd : fcntl(ctx->thread->bell_fd, F_DUPFD_CLOEXEC, 0);
	if (bell < 0) {
		if (fd >= 0) {
			bell = -errno;
			munmap(page, EMU_SEG_HEADER);
			close(fd);
		}
		free(ctx);
		return bell;
	}
	ctx->slot = (uint32_t)slot;
	ctx->page = page;
	ctx->thread->contexts++;
	e->n_ctxs++;
	emu_publish(&e->ctxs[slot], ctx);
	*ctx_fd = fd;
	*bell_fd = bell;
	return slot;
}

void ctx_free(struct emu_engine *e, void *object)
{
	struct emu_ctx *ctx = object;

	(void)e;
	munmap(ctx->page, EMU_SEG_HEADER);
	free(ctx);
}

static struct emu_ctx *ctx_find(struct emu_engine *e, uint32_t slot)
{
	return slot < MAX_CTXS ? e->ctxs[slot] : NULL;
}

int emu_ctx_remove(struct emu_engine *e, uint32_t slot)
{
	struct emu_ctx *ctx = ctx_find(e, slot);
	struct grace *g;

	if (!ctx)
		return -ENOENT;
	if (emu_observe(&ctx->queues))
		return -EBUSY;
	g = grace_new(0, 0, ctx_free, ctx);
	if (!g)
		return -ENOMEM;
	emu_publish(&e->ctxs[slot], (struct emu_ctx *)NULL);
	ctx->thread->contexts--;
	e->n_ctxs--;
	grace_start(e, g);
	return 0;
}

/* ---- completion queues */

static int free_cq(struct emu_engine *e)
{
	for (uint32_t i = 0; i < MAX_CQS; i++) {
		uint32_t number = (e->next_cq + i) % MAX_CQS;

		if (!e->cqs[number]) {
			e->next_cq = number + 1;
			return (int)number;
		}
	}
	return -ENOSPC;
}

int emu_cq_add(struct emu_engine *e, uint32_t ctx, uint32_t depth, int *fd)
{
	struct emu_ctx *c = ctx_find(e, ctx);
	int number = free_cq(e), err;
	struct emu_cq *cq;
	void *seg = NULL;

	if (!c)
		return -ENOENT;
	if (number < 0)
		return number;
	if (depth == 0 || depth > MAX_DEPTH)
		return -EINVAL;
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		return -ENOMEM;
	depth = power_of_two_above(depth);
	cq->bytes = EMU_SEG_HEADER + (size_t)depth * sizeof(struct emu_cqe);
	err = segment_new("emu-cq", cq->bytes, EMU_MAGIC_CQ, (uint32_t)number, &seg);
	if (err < 0) {
		free(cq);
		return err;
	}
	*fd = err;
	cq->seg = seg;
	cq->ring = (void *)((char *)seg + EMU_SEG_HEADER);
	cq->number = (uint32_t)number;
	cq->depth = cq->seg->depth = depth;
	cq->order = (uint32_t)__builtin_ctz(depth);
	cq->seg->off = EMU_SEG_HEADER;
	cq->ctx = c;
	pthread_mutex_init(&cq->lock, NULL);
	emu_count(&c->queues, 1);
	e->cqs[number] = cq;
	e->n_cqs++;
	return number;
}

void cq_free(struct emu_cq *cq)
{
	munmap(cq->seg, cq->bytes);
	pthread_mutex_destroy(&cq->lock);
	free(cq);
}

/* Only queue pairs reach a CQ, and none is left that uses it. */
int emu_cq_remove(struct emu_engine *e, uint32_t number)
{
	struct emu_cq *cq = number < MAX_CQS ? e->cqs[number] : NULL;

	if (!cq)
		return -ENOENT;
	if (emu_observe(&cq->users))
		return -EBUSY;
	e->cqs[number] = NULL;
	e->n_cqs--;
	emu_count(&cq->ctx->queues, -1);
	cq_free(cq);
	return 0;
}

/* ---- queue pairs */

static int free_qp(struct emu_engine *e)
{
	for (uint32_t i = 0; i < MAX_QPS - FIRST_QP; i++) {
		uint32_t index = FIRST_QP + (e->next_qp + i) % (MAX_QPS - FIRST_QP);

		if (!e->qps[index]) {
			e->next_qp = index - FIRST_QP + 1;
			return (int)index;
		}
	}
	return -ENOSPC;
}

static int free_slot(struct emu_ctx *ctx)
{
	for (unsigned w = 0; w < EMU_CTX_QPS / 64; w++) {
		uint64_t used = emu_observe(&ctx->used[w]);

		if (~used)
			return (int)(w * 64) + __builtin_ctzll(~used);
	}
	return -ENOSPC;
}

static uint64_t extra_bytes(const struct wq *q)
{
	return ((uint64_t)q->depth * (q->max_sge - 1) * sizeof(struct emu_sge) + 63) / 64 * 64;
}

static void size_queue(struct wq *q, uint32_t wr, uint32_t sge)
{
	q->depth = power_of_two_above(wr ? wr : 1);
	q->max_sge = sge ? sge : 1;
}

/* header | send ring | receive ring | extra SGEs of send | of receive */
static int place_queues(struct emu_qp *qp)
{
	uint64_t sq = EMU_SEG_HEADER, rq = sq + qp->sq.depth * sizeof(struct emu_wqe);
	uint64_t sq_sge = rq + qp->rq.depth * sizeof(struct emu_wqe), rq_sge = sq_sge + extra_bytes(&qp->sq);
	struct emu_qp_seg *s;
	void *seg = NULL;
	int fd;

	qp->bytes = (rq_sge + extra_bytes(&qp->rq) + 4095) / 4096 * 4096;
	fd = segment_new("emu-qp", qp->bytes, EMU_MAGIC_QP, qp->num, &seg);
	if (fd < 0)
		return fd;
	qp->seg = s = seg;
	s->slot = qp->slot;
	s->sq_depth = qp->sq.depth;
	s->rq_depth = qp->rq.depth;
	s->sq_max_sge = qp->sq.max_sge;
	s->rq_max_sge = qp->rq.max_sge;
	s->sq_off = (uint32_t)sq;
	s->rq_off = (uint32_t)rq;
	s->sq_sge_off = (uint32_t)sq_sge;
	s->rq_sge_off = (uint32_t)rq_sge;
	s->need_bell = 1;
	qp->sq.ring = (void *)((char *)seg + sq);
	qp->rq.ring = (void *)((char *)seg + rq);
	qp->sq.extra = (void *)((char *)seg + sq_sge);
	qp->rq.extra = (void *)((char *)seg + rq_sge);
	qp->sq.shared_prod = &s->sq_prod;
	qp->rq.shared_prod = &s->rq_prod;
	return fd;
}

static int desc_fits(struct emu_engine *e, const struct emu_qp_desc *d)
{
	if (d->type != 2)
		return -EOPNOTSUPP;
	if (!ctx_find(e, d->ctx) || d->send_cq >= MAX_CQS || d->recv_cq >= MAX_CQS || !e->cqs[d->send_cq] ||
	    !e->cqs[d->recv_cq])
		return -ENOENT;
	if (d->max_send_wr > MAX_DEPTH / 2 || d->max_recv_wr > MAX_DEPTH / 2 || d->max_send_sge > EMU_MAX_SGE ||
	    d->max_recv_sge > EMU_MAX_SGE)
		return -EINVAL;
	return 0;
}

int emu_qp_add(struct emu_engine *e, const struct emu_qp_desc *d, int *fd)
{
	int err = desc_fits(e, d), index, slot;
	struct emu_qp *qp;

	if (err)
		return err;
	index = free_qp(e);
	slot = free_slot(e->ctxs[d->ctx]);
	if (index < 0 || slot < 0)
		return -ENOSPC;
	qp = calloc(1, sizeof(*qp));
	if (!qp)
		return -ENOMEM;
	qp->num = (uint32_t)index | (uint32_t)e->qp_generation[index] << 16;
	qp->slot = (uint32_t)slot;
	qp->pd = d->pd;
	qp->sig_all = d->sq_sig_all;
	qp->ctx = e->ctxs[d->ctx];
	qp->thread = qp->ctx->thread;
	qp->send_cq = e->cqs[d->send_cq];
	qp->recv_cq = e->cqs[d->recv_cq];
	size_queue(&qp->sq, d->max_send_wr, d->max_send_sge);
	size_queue(&qp->rq, d->max_recv_wr, d->max_recv_sge);
	*fd = place_queues(qp);
	if (*fd < 0) {
		free(qp);
		return *fd;
	}
	pthread_mutex_init(&qp->lock, NULL);
	e->qp_generation[index]++;
	emu_count(&qp->ctx->queues, 1);
	emu_count(&qp->send_cq->users, 1);
	emu_count(&qp->recv_cq->users, 1);
	emu_count(&e->n_qps, 1);
	emu_fetch_or(&qp->ctx->used[slot / 64], 1ull << slot % 64);
	emu_publish(&e->qps[index], qp);
	emu_publish(&qp->ctx->qps[slot], qp);
	return (int)qp->num;
}

/* The grace period of its end is over. Any thread. */
void qp_free(struct emu_engine *e, void *object)
{
	struct emu_qp *qp = object;

	emu_count(&e->n_qps, -1);
	events_withdraw(&e->events, &qp->parking.note);
	emu_fetch_add(&qp->send_cq->users, -1);
	emu_fetch_add(&qp->recv_cq->users, -1);
	emu_fetch_and(&qp->ctx->used[qp->slot / 64], ~(1ull << qp->slot % 64));
	munmap(qp->seg, qp->bytes);
	pthread_mutex_destroy(&qp->lock);
	emu_fetch_add(&qp->ctx->queues, -1);
	free(qp);
}

int emu_qp_remove(struct emu_engine *e, uint32_t qp_num, uint64_t cookie)
{
	struct emu_qp *qp = qp_find(e, qp_num);
	struct grace *g;

	if (!qp)
		return -ENOENT;
	g = grace_new(EMU_ENG_QP_GONE, cookie, qp_free, qp);
	if (!g)
		return -ENOMEM;
	emu_publish(&e->qps[qp_num % MAX_QPS], (struct emu_qp *)NULL);
	emu_publish(&qp->ctx->qps[qp->slot], (struct emu_qp *)NULL);
	qp->goodbye = g;
	emu_count(&qp->gen, 1);
	park_wake_peers(e, qp_num);
	thread_remove(qp);
	return 0;
}
