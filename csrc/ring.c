/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.h, the client's half: map what the door handed over, post, ring, poll, sleep. No thread, no signal handler,
 * no allocation after the open calls.
 *
 * Each object keeps its own free-running indexes in private memory; the shared words are only ever told, so a
 * second process that maps the same segment cannot make this one step outside it.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <emu/barrier.h>
#include <emu/ring.h>
#include <emu/rules.h>

#include "ring_attach.h"

#define SPINS_BEFORE_SLEEP 100

struct emu_ring_ctx {
	struct emu_ctx_page *page;
	struct emu_bell_page *bell;
	size_t page_bytes, bell_bytes; /* 0: not ours to unmap; the same below */
	uint32_t slot;
};

/* One work queue: `prod` published, `tail` = entries below it are free again. */
struct queue {
	struct emu_wqe *ring;
	struct emu_sge *extra;
	uint32_t *shared_prod;
	uint32_t depth, max_sge, prod, tail;
};

struct emu_ring_qp {
	struct emu_qp_seg *seg;
	size_t bytes;
	struct emu_ring_ctx *ctx;
	uint32_t slot;
	struct queue send, recv;
};

struct emu_ring_cq {
	struct emu_cq_seg *seg;
	size_t bytes;
	struct emu_cqe *ring;
	uint32_t depth, order, cons;
};

/* ---- mapping */

/* The whole segment behind fd, checked to be ours and of the size it claims. */
static int map_segment(int fd, uint32_t magic, size_t least, void **out, size_t *bytes)
{
	const struct emu_seg_header *head;
	struct stat st;
	void *p = NULL;

	if (fstat(fd, &st))
		return -errno;
	if (st.st_size < (off_t)least || st.st_size > UINT32_MAX)
		return -EINVAL;
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	head = p;
	if (head->magic != magic || head->version != EMU_RING_VERSION || head->bytes != (uint64_t)st.st_size) {
		munmap(p, (size_t)st.st_size);
		return -EPROTO;
	}
	*out = p;
	*bytes = (size_t)st.st_size;
	return 0;
}

int emu_ring_ctx_attach(struct emu_ctx_page *page, struct emu_bell_page *bell, struct emu_ring_ctx **out)
{
	struct emu_ring_ctx *ctx;

	if (page->head.id >= EMU_BELL_CTXS)
		return -EINVAL;
	ctx = calloc(1, sizeof(*ctx));
	if (!ctx)
		return -ENOMEM;
	*ctx = (struct emu_ring_ctx){ .page = page, .bell = bell, .slot = page->head.id };
	*out = ctx;
	return 0;
}

int emu_ring_ctx_open(int ctx_fd, int bell_fd, struct emu_ring_ctx **out)
{
	size_t page_bytes = 0, bell_bytes = 0;
	void *page = NULL, *bell = NULL;
	int err;

	err = map_segment(ctx_fd, EMU_MAGIC_CTX, sizeof(struct emu_ctx_page), &page, &page_bytes);
	if (err)
		return err;
	err = map_segment(bell_fd, EMU_MAGIC_BELL, sizeof(struct emu_bell_page), &bell, &bell_bytes);
	if (err)
		goto out_page;
	err = emu_ring_ctx_attach(page, bell, out);
	if (err)
		goto out_bell;
	(*out)->page_bytes = page_bytes;
	(*out)->bell_bytes = bell_bytes;
	return 0;
out_bell:
	munmap(bell, bell_bytes);
out_page:
	munmap(page, page_bytes);
	return err;
}

void emu_ring_ctx_close(struct emu_ring_ctx *ctx)
{
	if (ctx->page_bytes) {
		munmap(ctx->bell, ctx->bell_bytes);
		munmap(ctx->page, ctx->page_bytes);
	}
	free(ctx);
}

static int power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

static int fits(size_t segment, uint32_t offset, uint64_t bytes)
{
	return offset >= EMU_SEG_HEADER && offset % 64 == 0 && offset <= segment && bytes <= segment - offset;
}

static int open_queue(struct queue *q, char *seg, size_t bytes, uint32_t depth, uint32_t max_sge, uint32_t off,
		      uint32_t extra_off, uint32_t *shared_prod)
{
	if (!power_of_two(depth) || !max_sge || max_sge > EMU_MAX_SGE)
		return -EINVAL;
	if (!fits(bytes, off, (uint64_t)depth * sizeof(struct emu_wqe)) ||
	    !fits(bytes, extra_off, (uint64_t)depth * (max_sge - 1) * sizeof(struct emu_sge)))
		return -EINVAL;
	q->ring = (void *)(seg + off);
	q->extra = (void *)(seg + extra_off);
	q->shared_prod = shared_prod;
	q->depth = depth;
	q->max_sge = max_sge;
	q->prod = q->tail = emu_peek(shared_prod);
	return 0;
}

int emu_ring_qp_attach(struct emu_ring_ctx *ctx, struct emu_qp_seg *s, size_t bytes, struct emu_ring_qp **out)
{
	struct emu_ring_qp *qp = calloc(1, sizeof(*qp));
	char *p = (char *)s;
	int err;

	if (!qp)
		return -ENOMEM;
	*qp = (struct emu_ring_qp){ .seg = s, .ctx = ctx, .slot = s->slot };
	err = open_queue(&qp->send, p, bytes, s->sq_depth, s->sq_max_sge, s->sq_off, s->sq_sge_off, &s->sq_prod);
	if (!err)
		err = open_queue(&qp->recv, p, bytes, s->rq_depth, s->rq_max_sge, s->rq_off, s->rq_sge_off, &s->rq_prod);
	if (!err && qp->slot >= EMU_CTX_QPS)
		err = -EINVAL;
	if (err)
		free(qp);
	else
		*out = qp;
	return err;
}

int emu_ring_qp_open(struct emu_ring_ctx *ctx, int qp_fd, struct emu_ring_qp **out)
{
	size_t bytes = 0;
	void *p = NULL;
	int err = map_segment(qp_fd, EMU_MAGIC_QP, EMU_SEG_HEADER, &p, &bytes);

	if (err)
		return err;
	err = emu_ring_qp_attach(ctx, p, bytes, out);
	if (err)
		munmap(p, bytes);
	else
		(*out)->bytes = bytes;
	return err;
}

void emu_ring_qp_close(struct emu_ring_qp *qp)
{
	if (qp->bytes)
		munmap(qp->seg, qp->bytes);
	free(qp);
}

int emu_ring_cq_attach(struct emu_cq_seg *seg, size_t bytes, struct emu_ring_cq **out)
{
	uint32_t depth = seg->depth, off = seg->off;
	struct emu_ring_cq *cq;

	if (!power_of_two(depth) || !fits(bytes, off, (uint64_t)depth * sizeof(struct emu_cqe)))
		return -EINVAL;
	cq = calloc(1, sizeof(*cq));
	if (!cq)
		return -ENOMEM;
	*cq = (struct emu_ring_cq){ .seg = seg, .ring = (void *)((char *)seg + off), .depth = depth,
		.order = (uint32_t)__builtin_ctz(depth), .cons = emu_peek(&seg->cons) };
	*out = cq;
	return 0;
}

int emu_ring_cq_open(int cq_fd, struct emu_ring_cq **out)
{
	size_t bytes = 0;
	void *p = NULL;
	int err = map_segment(cq_fd, EMU_MAGIC_CQ, EMU_SEG_HEADER, &p, &bytes);

	if (err)
		return err;
	err = emu_ring_cq_attach(p, bytes, out);
	if (err)
		munmap(p, bytes);
	else
		(*out)->bytes = bytes;
	return err;
}

void emu_ring_cq_close(struct emu_ring_cq *cq)
{
	if (cq->bytes)
		munmap(cq->seg, cq->bytes);
	free(cq);
}

/* ---- posting */

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *timeout)
{
	return syscall(SYS_futex, word, op, value, timeout, NULL, 0);
}

/* Precondition: the new prod is published. Other party: the engine's thread, which before it stops looking at this ring
 * stores need_bell = 1, handshakes and looks at prod once more; so one of us sees the other's store. */
static void ring_bell(struct emu_ring_qp *qp)
{
	struct emu_ring_ctx *ctx = qp->ctx;

	emu_fetch_or(&ctx->page->qp_bits[qp->slot / 64], 1ull << qp->slot % 64);
	emu_fetch_or(&ctx->page->qp_summary, 1ull << qp->slot / 64);
	emu_fetch_or(&ctx->bell->ctx_bits[ctx->slot / 64], 1ull << ctx->slot % 64);
	emu_fetch_or(&ctx->bell->ctx_summary, 1ull << ctx->slot / 64);
	emu_handshake();
	if (emu_peek(&ctx->bell->sleeping) && emu_swap(&ctx->bell->sleeping, 0) == 1)
		futex(&ctx->bell->sleeping, FUTEX_WAKE, INT_MAX, NULL);
}

/* Precondition: one thread at a time for this queue. Returns how many of the n were put, *err says why not all. */
static unsigned put(struct queue *q, const struct emu_wqe *wqe, unsigned n, const struct emu_sge *extra, int *err)
{
	unsigned i;

	*err = 0;
	for (i = 0; i < n; i++) {
		uint32_t slot = (q->prod + i) & (q->depth - 1);
		uint32_t more = wqe[i].num_sge > 1 ? wqe[i].num_sge - 1u : 0;

		if (wqe[i].num_sge > q->max_sge || (more && !extra))
			*err = -EINVAL;
		else if (q->prod + i - q->tail >= q->depth)
			*err = -ENOMEM;
		if (*err)
			break;
		q->ring[slot] = wqe[i];
		for (uint32_t k = 0; k < more; k++)
			q->extra[slot * (q->max_sge - 1) + k] = *extra++;
	}
	q->prod += i;
	emu_publish(q->shared_prod, q->prod);
	return i;
}

static int posted(unsigned done, unsigned n, int err, unsigned *bad)
{
	if (done < n && bad)
		*bad = done;
	return err;
}

int emu_ring_post_send(struct emu_ring_qp *qp, const struct emu_wqe *wqe, unsigned n, const struct emu_sge *extra,
		       unsigned *bad)
{
	uint32_t state = emu_peek(&qp->seg->state);
	unsigned done;
	int err;

	if (state < EMU_QPS_RTS)
		return posted(0, 1, -EINVAL, bad);
	done = put(&qp->send, wqe, n, extra, &err);
	if (done) {
		emu_handshake_at(EMU_AT_POST_SEND);
		if (emu_peek(&qp->seg->need_bell))
			ring_bell(qp);
	}
	return posted(done, n, err, bad);
}

int emu_ring_post_recv(struct emu_ring_qp *qp, const struct emu_wqe *wqe, unsigned n, const struct emu_sge *extra,
		       unsigned *bad)
{
	unsigned done;
	int err;

	if (emu_peek(&qp->seg->state) == EMU_QPS_RESET)
		return posted(0, 1, -EINVAL, bad);
	done = put(&qp->recv, wqe, n, extra, &err);
	/* Other party: the engine, which stores state = ERR, handshakes and then flushes what it finds. */
	emu_handshake_at(EMU_AT_POST_RECV);
	if (done && emu_peek(&qp->seg->state) == EMU_QPS_ERR)
		ring_bell(qp);
	return posted(done, n, err, bad);
}

void emu_ring_qp_reset(struct emu_ring_qp *qp)
{
	qp->send.tail = qp->send.prod;
	qp->recv.tail = qp->recv.prod;
}

void emu_ring_qp_release(struct emu_ring_qp *qp, int is_recv, uint32_t head)
{
	struct queue *q = is_recv ? &qp->recv : &qp->send;

	if (q->prod - head <= q->depth && (int32_t)(head - q->tail) > 0)
		q->tail = head;
}

/* ---- polling */

static uint32_t seq_of(const struct emu_ring_cq *cq, uint32_t index)
{
	return 1 + (index >> cq->order);
}

static struct emu_cqe *slot_of(const struct emu_ring_cq *cq, uint32_t index)
{
	return &cq->ring[index & (cq->depth - 1)];
}

/* The completion with this index has been written: `seq` goes last, so all of it is visible. */
static int is_there(const struct emu_ring_cq *cq, uint32_t index)
{
	return emu_observe(&slot_of(cq, index)->seq) == seq_of(cq, index);
}

int emu_ring_poll(struct emu_ring_cq *cq, struct emu_cqe *out, unsigned n)
{
	unsigned i;

	for (i = 0; i < n && is_there(cq, cq->cons + i); i++)
		out[i] = *slot_of(cq, cq->cons + i);
	if (i) {
		cq->cons += i;
		emu_publish(&cq->seg->cons, cq->cons);
	}
	return (int)i;
}

/* Entries from cons on that are written are the client's alone, until cons moves past them: those that stay are moved
 * up towards the newest, and cons skips the room that is left at the bottom. */
int emu_ring_cq_purge(struct emu_ring_cq *cq, uint32_t qp_num)
{
	uint32_t end = cq->cons, kept;

	while (end - cq->cons < cq->depth && is_there(cq, end))
		end++;
	kept = end;
	for (uint32_t i = end; i != cq->cons; i--) {
		struct emu_cqe cqe = *slot_of(cq, i - 1);

		if (cqe.qp_num == qp_num)
			continue;
		cqe.seq = seq_of(cq, --kept);
		*slot_of(cq, kept) = cqe;
	}
	end = kept - cq->cons;
	cq->cons = kept;
	emu_publish(&cq->seg->cons, cq->cons);
	return (int)end;
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* Other party: the engine's completion, which stores prod, handshakes and reads waiters. Counted, since threads may share a
 * CQ: whoever leaves must not speak for those that sleep on. */
static int sleep_on(struct emu_ring_cq *cq, uint32_t seen, int64_t left_ns)
{
	struct timespec t = { left_ns / 1000000000, left_ns % 1000000000 };
	long rc = 0;

	emu_fetch_add(&cq->seg->waiters, 1);
	emu_handshake();
	if (!is_there(cq, cq->cons))
		rc = futex(&cq->seg->prod, FUTEX_WAIT, seen, left_ns < 0 ? NULL : &t);
	emu_fetch_add(&cq->seg->waiters, -1);
	return rc < 0 && errno == EINTR ? -EINTR : 0;
}

int emu_ring_wait(struct emu_ring_cq *cq, int64_t timeout_ns)
{
	int64_t deadline = timeout_ns < 0 ? -1 : now_ns() + timeout_ns;

	for (int i = 0; i < SPINS_BEFORE_SLEEP; i++) {
		if (is_there(cq, cq->cons))
			return 1;
		emu_pause();
	}
	for (;;) {
		uint32_t seen = emu_observe(&cq->seg->prod);
		int64_t left = -1;
		int err;

		if (is_there(cq, cq->cons))
			return 1;
		if (deadline >= 0 && (left = deadline - now_ns()) <= 0)
			return 0;
		err = sleep_on(cq, seen, left);
		if (err)
			return is_there(cq, cq->cons) ? 1 : err;
	}
}

/* ---- address space */

int emu_ring_reserve(size_t bytes, void **addr)
{
	void *p = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	*addr = p;
	return 0;
}

int emu_ring_map(void *addr, size_t bytes, int fd, const uint64_t *offset_bytes_pairs, unsigned n, int writable)
{
	int prot = PROT_READ | (writable ? PROT_WRITE : 0);
	size_t at = 0;

	for (unsigned i = 0; i < n; i++) {
		uint64_t offset = offset_bytes_pairs[2 * i], length = offset_bytes_pairs[2 * i + 1];

		if (length > bytes - at || offset > INT64_MAX)
			return -EINVAL;
		if (mmap((char *)addr + at, length, prot, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
			return -errno;
		at += length;
	}
	return 0;
}

int emu_ring_unreserve(void *addr, size_t bytes)
{
	return munmap(addr, bytes) ? -errno : 0;
}
