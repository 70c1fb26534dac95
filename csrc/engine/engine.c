/* SPDX-License-Identifier: Apache-2.0
 *
 * Making and ending an engine, its epoch and its figures.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void figures_add(uint64_t *counter, uint64_t n)
{
	emu_poke(counter, emu_peek(counter) + n);
}

/* ---- tables: address space for the largest case, memory only where it is used */

static void *table_new(uint64_t entries, size_t size)
{
	void *p = mmap(NULL, entries * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static void table_free(void *table, uint64_t entries, size_t size)
{
	if (table)
		munmap(table, entries * size);
}

static int tables_open(struct emu_engine *e)
{
	e->mrs = table_new(MAX_KEYS, sizeof(*e->mrs));
	e->qps = table_new(MAX_QPS, sizeof(*e->qps));
	e->cqs = table_new(MAX_CQS, sizeof(*e->cqs));
	e->ctxs = table_new(MAX_CTXS, sizeof(*e->ctxs));
	e->apertures = table_new(MAX_APERTURES, sizeof(*e->apertures));
	e->qp_generation = table_new(MAX_QPS, 1);
	return e->mrs && e->qps && e->cqs && e->ctxs && e->apertures && e->qp_generation ? 0 : -ENOMEM;
}

static void tables_close(struct emu_engine *e)
{
	table_free(e->mrs, MAX_KEYS, sizeof(*e->mrs));
	table_free(e->qps, MAX_QPS, sizeof(*e->qps));
	table_free(e->cqs, MAX_CQS, sizeof(*e->cqs));
	table_free(e->ctxs, MAX_CTXS, sizeof(*e->ctxs));
	table_free(e->apertures, MAX_APERTURES, sizeof(*e->apertures));
	table_free(e->qp_generation, MAX_QPS, 1);
}

/* ---- making */

static int config_fits(const struct emu_engine_config *c)
{
	return c->threads >= 1 && c->threads <= MAX_THREADS && c->quantum >= 4096 && c->quantum <= 16u << 20 &&
	       c->quantum % 64 == 0 && c->time_scale > 0 && c->time_scale <= 1e6;
}

static unsigned usable_cores(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : (unsigned)CPU_COUNT(&set);
}

static int bell_open(struct emu_thread *t)
{
	void *p;

	t->bell_fd = sealed_memfd("emu-bell", EMU_SEG_HEADER);
	if (t->bell_fd < 0)
		return t->bell_fd;
	p = mmap(NULL, EMU_SEG_HEADER, PROT_READ | PROT_WRITE, MAP_SHARED, t->bell_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	t->bell = p;
	t->bell->head = (struct emu_seg_header){ EMU_MAGIC_BELL, EMU_RING_VERSION, EMU_SEG_HEADER, t->number };
	return 0;
}

static int threads_prepare(struct emu_engine *e)
{
	int err = 0;

	for (unsigned i = 0; i < e->n_threads && !err; i++) {
		struct emu_thread *t = &e->threads[i];

		t->e = e;
		t->number = i;
		pthread_mutex_init(&t->kick_lock, NULL);
		err = bell_open(t);
	}
	return err;
}

int emu_engine_new(const struct emu_engine_config *config, struct emu_engine **out)
{
	struct emu_engine *e;
	int err;

	if (!config_fits(config))
		return -EINVAL;
	e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->config = *config;
	e->n_threads = config->threads;
	e->cores = usable_cores();
	for (unsigned i = 0; i < MAX_THREADS; i++)
		e->threads[i].bell_fd = -1;
	pthread_mutex_init(&e->graces.lock, NULL);
	e->graces.last = &e->graces.first;
	pthread_mutex_init(&e->parks.lock, NULL);
	pthread_mutex_init(&e->hold_lock, NULL);
	pthread_cond_init(&e->hold_change, NULL);
	err = events_open(&e->events);
	if (!err)
		err = tables_open(e);
	if (!err)
		err = threads_prepare(e);
	if (!err)
		err = guard_install();
	if (err) {
		e->stop = 2; /* the guard is not ours to remove */
		emu_engine_free(e);
		return err;
	}
	*out = e;
	return 0;
}

int emu_engine_start(struct emu_engine *e)
{
	char name[16];

	if (e->started)
		return -EBUSY;
	e->started = 1;
	for (unsigned i = 0; i < e->n_threads; i++) {
		struct emu_thread *t = &e->threads[i];
		int err = pthread_create(&t->id, NULL, thread_main, t);

		if (err)
			return -err;
		t->running = 1;
		snprintf(name, sizeof(name), "emu-engine-%u", i % MAX_THREADS);
		pthread_setname_np(t->id, name);
	}
	return 0;
}

/* ---- ending */

static void threads_stop(struct emu_engine *e)
{
	emu_fetch_or(&e->stop, 1);
	for (unsigned i = 0; i < e->n_threads; i++)
		if (e->threads[i].running)
			thread_wake(&e->threads[i]);
	for (unsigned i = 0; i < e->n_threads; i++) {
		while (e->threads[i].running) { /* whoever reaches a hold point after a release is let go by the next */
			struct timespec soon;

			hold_release_all(e);
			clock_gettime(CLOCK_REALTIME, &soon);
			soon.tv_nsec += 10000000;
			soon.tv_sec += soon.tv_nsec / 1000000000;
			soon.tv_nsec %= 1000000000;
			if (!pthread_timedjoin_np(e->threads[i].id, NULL, &soon))
				e->threads[i].running = 0;
		}
	}
}

/* No thread runs: every period ends now. */
static void graces_finish(struct emu_engine *e)
{
	while (e->graces.first) {
		struct grace *g = e->graces.first;

		e->graces.first = g->next;
		if (g->done)
			g->done(e, g->object);
		grace_drop(g);
	}
}

/* Queue pairs that were removed and not yet retired by their thread. */
static void kicks_finish(struct emu_engine *e)
{
	for (unsigned i = 0; i < e->n_threads; i++) {
		for (struct emu_qp *qp = e->threads[i].kicks, *next; qp; qp = next) {
			next = qp->kick_next;
			if (qp->removed) {
				grace_drop(qp->goodbye);
				qp_free(e, qp);
			}
		}
	}
}

static void contents_free(struct emu_engine *e)
{
	for (uint32_t i = 0; i < MAX_QPS; i++)
		if (e->qps[i])
			qp_free(e, e->qps[i]);
	for (uint32_t i = 0; i < MAX_CQS; i++)
		if (e->cqs[i])
			cq_free(e->cqs[i]);
	for (uint32_t i = 0; i < MAX_CTXS; i++)
		if (e->ctxs[i])
			ctx_free(e, e->ctxs[i]);
	for (uint32_t i = 0; e->n_mrs; i++) {
		if (e->mrs[i]) {
			mr_discard(e, e->mrs[i]);
			e->n_mrs--;
		}
	}
	for (uint32_t i = 0; i < MAX_APERTURES; i++)
		if (e->apertures[i])
			aperture_discard(e, e->apertures[i]);
}

static void threads_free(struct emu_engine *e)
{
	for (unsigned i = 0; i < e->n_threads; i++) {
		struct emu_thread *t = &e->threads[i];

		oplog_close(&t->log);
		if (t->bell)
			munmap(t->bell, EMU_SEG_HEADER);
		if (t->bell_fd >= 0)
			close(t->bell_fd);
		if (t->e)
			pthread_mutex_destroy(&t->kick_lock);
	}
}

void emu_engine_free(struct emu_engine *e)
{
	int guarded = e->stop != 2;

	threads_stop(e);
	kicks_finish(e);
	graces_finish(e);
	if (e->qps && e->cqs && e->ctxs && e->mrs && e->apertures)
		contents_free(e);
	threads_free(e);
	tables_close(e);
	events_close(&e->events);
	if (guarded)
		guard_remove();
	pthread_cond_destroy(&e->hold_change);
	pthread_mutex_destroy(&e->hold_lock);
	pthread_mutex_destroy(&e->graces.lock);
	pthread_mutex_destroy(&e->parks.lock);
	free(e);
}

/* ---- events, epoch, figures */

int emu_engine_eventfd(struct emu_engine *e)
{
	return e->events.fd;
}

int emu_events_take(struct emu_engine *e, struct emu_engine_event *out, unsigned n)
{
	return events_take(&e->events, out, n);
}

uint64_t emu_epoch_advance(struct emu_engine *e)
{
	uint64_t epoch = emu_fetch_add(&e->epoch, 1) + 1;

	emu_handshake(); /* with the end of a quantum */
	return epoch;
}

uint64_t emu_epoch(struct emu_engine *e)
{
	return emu_observe(&e->epoch);
}

void emu_engine_stats(struct emu_engine *e, struct emu_engine_stats *out)
{
	*out = (struct emu_engine_stats){ .events_lost = emu_peek(&e->events.lost), .mrs = e->n_mrs,
		.qps = emu_peek(&e->n_qps), .cqs = e->n_cqs, .contexts = e->n_ctxs, .apertures = e->n_apertures,
		.gens_lost = e->gens_lost, .parked = emu_peek(&e->parks.count) };
	for (unsigned i = 0; i < e->n_threads; i++) {
		struct emu_thread *t = &e->threads[i];

		out->ops += emu_peek(&t->n_ops);
		out->bytes += emu_peek(&t->n_bytes);
		out->errors += emu_peek(&t->n_errors);
		out->quanta += emu_peek(&t->n_quanta);
		out->sleeps += emu_peek(&t->n_sleeps);
		out->bells += emu_peek(&t->n_bells);
		out->log_lost += emu_peek(&t->log.lost);
		out->faults += emu_peek(&t->n_faults);
		out->sections += emu_peek(&t->section) / 2;
	}
}
