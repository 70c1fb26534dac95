/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine thread: find work, give every queue pair its bounded turn, sleep when there is none.
 *
 *   bells ----> polled list <---- kicks (control thread, peers), timers
 *                  | turn, round robin
 *                  v
 *          idle: stays polled while few are, else need_bell = 1 and off the list
 *
 * Sleep. First every polled QP gets need_bell = 1, handshake, one more look at its ring; then sleeping = 1, handshake, one
 * more look at bells, kicks and marks; then a futex with a time limit. Whoever publishes work does the opposite: publish,
 * handshake, look at need_bell or sleeping. So nobody sleeps on work, and should a hostile neighbour on the shared
 * bell page have wiped a bit, the rescan after each timed sleep (and every EMU_RESCAN_MS while busy) finds it.
 *
 * Spin. Long only while cores are free: a thread that was switched away against its will shortens its spinning to
 * almost nothing, one that was not doubles it.
 */
#include <linux/futex.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

#define POLLED_WHILE_IDLE 8u
#define SPIN_LEAST 50u
#define SPIN_MOST 4000u
#define LOOPS_A_CLOCK 256u
#define QUIET_SLEEPS 64u /* empty timed sleeps before the interval grows */
#define LONGEST_SLEEP_MS 64u

/* ---- kicks */

static long futex(uint32_t *word, int op, uint32_t value, const struct timespec *limit)
{
	return syscall(SYS_futex, word, op, value, limit, NULL, 0);
}

void thread_wake(struct emu_thread *t)
{
	emu_handshake(); /* with go_to_sleep */
	if (emu_observe(&t->asleep)) {
		emu_publish(&t->bell->sleeping, 0);
		futex(&t->bell->sleeping, FUTEX_WAKE, 1, NULL);
	}
}

/* Precondition: kick_lock. */
static void link_kick(struct emu_thread *t, struct emu_qp *qp)
{
	if (qp->kicked || qp->dead)
		return;
	qp->kicked = 1;
	qp->kick_next = t->kicks;
	t->kicks = qp;
	emu_publish(&t->kicked, 1);
}

void thread_kick(struct emu_qp *qp)
{
	struct emu_thread *t = qp->thread;

	pthread_mutex_lock(&t->kick_lock);
	link_kick(t, qp);
	pthread_mutex_unlock(&t->kick_lock);
	thread_wake(t);
}

/* `removed` and the link under one hold: once its thread can see it removed, the queue pair may be freed at any moment. */
void thread_remove(struct emu_qp *qp)
{
	struct emu_thread *t = qp->thread;

	pthread_mutex_lock(&t->kick_lock);
	qp->removed = 1;
	link_kick(t, qp);
	pthread_mutex_unlock(&t->kick_lock);
	thread_wake(t);
}

/* ---- the polled list */

static void poll_start(struct emu_thread *t, struct emu_qp *qp)
{
	qp->attention = 1;
	if (qp->polled)
		return;
	qp->polled = 1;
	qp->next = NULL;
	qp->prev = t->last;
	*(t->last ? &t->last->next : &t->first) = qp;
	t->last = qp;
	t->polled++;
	emu_poke(&qp->seg->need_bell, 0);
}

static void unlink_polled(struct emu_thread *t, struct emu_qp *qp)
{
	*(qp->prev ? &qp->prev->next : &t->first) = qp->next;
	*(qp->next ? &qp->next->prev : &t->last) = qp->prev;
	qp->polled = 0;
	t->polled--;
}

/* What is posted behind a request that waits is no news: nothing can be done about it, and whoever ends the wait looks at the
 * ring again. `seen` stays as it was until then, so that such a post is not lost, bell or none. */
static int has_news(const struct emu_qp *qp)
{
	if (qp->attention)
		return 1;
	if (qp->op.phase == OP_PARKED)
		return 0; /* who brings memory kicks */
	return qp->op.phase == OP_WAITING ? qp->due : emu_observe(qp->sq.shared_prod) != qp->sq.seen;
}

/* 1: off the list. 0: something has come at the last moment. */
static int poll_stop(struct emu_thread *t, struct emu_qp *qp)
{
	emu_publish(&qp->seg->need_bell, 1);
	emu_handshake_at(EMU_AT_POLL_STOP); /* with emu_ring_post_send */
	if (has_news(qp)) {
		emu_poke(&qp->seg->need_bell, 0);
		return 0;
	}
	unlink_polled(t, qp);
	return 1;
}

/* ---- timers */

static uint64_t scaled(const struct emu_engine *e, uint64_t ns)
{
	return (uint64_t)((double)ns * e->config.time_scale);
}

void timer_arm(struct emu_qp *qp, uint64_t ns)
{
	struct emu_thread *t = qp->thread;

	qp->due = 0;
	if (!ns)
		return;
	qp->deadline = now_ns() + scaled(t->e, ns);
	if (qp->armed)
		return;
	qp->armed = 1;
	qp->timer_next = t->timers;
	t->timers = qp;
}

static void timer_forget(struct emu_thread *t, struct emu_qp *qp)
{
	struct emu_qp **link = &t->timers;

	while (*link && *link != qp)
		link = &(*link)->timer_next;
	if (*link)
		*link = qp->timer_next;
	qp->armed = 0;
}

/* Returns the nanoseconds until the next one, UINT64_MAX for none. */
static uint64_t run_timers(struct emu_thread *t)
{
	uint64_t now, next = UINT64_MAX;

	if (!t->timers)
		return next;
	now = now_ns();
	for (struct emu_qp **link = &t->timers; *link;) {
		struct emu_qp *qp = *link;

		if (qp->deadline <= now) {
			*link = qp->timer_next;
			qp->armed = 0;
			qp->due = 1;
			poll_start(t, qp);
		} else {
			if (qp->deadline - now < next)
				next = qp->deadline - now;
			link = &qp->timer_next;
		}
	}
	return next;
}

/* ---- finding work */

/* Precondition: `dead`, so nobody links it any more. */
static void retire(struct emu_thread *t, struct emu_qp *qp)
{
	if (qp->op.phase != OP_NONE)
		op_forget(qp);
	if (qp->polled)
		unlink_polled(t, qp);
	if (qp->armed)
		timer_forget(t, qp);
	grace_start(t->e, qp->goodbye);
}

static void take_kicks(struct emu_thread *t)
{
	struct emu_qp *list;

	pthread_mutex_lock(&t->kick_lock);
	emu_poke(&t->kicked, 0);
	list = t->kicks;
	t->kicks = NULL;
	pthread_mutex_unlock(&t->kick_lock);
	while (list) { /* `kicked` stays set until we look, so nobody links it elsewhere */
		struct emu_qp *qp = list;
		int dead;

		pthread_mutex_lock(&t->kick_lock); /* one hold: between `kicked` and `dead` somebody would link it again */
		list = qp->kick_next;
		qp->kicked = 0;
		dead = qp->dead = qp->removed;
		pthread_mutex_unlock(&t->kick_lock);
		if (dead)
			retire(t, qp);
		else
			poll_start(t, qp);
	}
}

/* In a section: contexts and queue pairs found here cannot be freed meanwhile. */
static int scan_context(struct emu_thread *t, struct emu_ctx *ctx)
{
	uint64_t words = emu_observe(&ctx->page->qp_summary) ? emu_swap(&ctx->page->qp_summary, 0) : 0;
	int found = 0;

	for (; words; words &= words - 1) {
		unsigned w = (unsigned)__builtin_ctzll(words);

		for (uint64_t bits = emu_swap(&ctx->page->qp_bits[w], 0); bits; bits &= bits - 1) {
			struct emu_qp *qp = emu_observe(&ctx->qps[w * 64 + (unsigned)__builtin_ctzll(bits)]);

			if (qp)
				poll_start(t, qp);
			found |= !!qp;
		}
	}
	return found;
}

static void scan_bells(struct emu_thread *t)
{
	uint64_t words = emu_swap(&t->bell->ctx_summary, 0);

	section_enter(t);
	figures_add(&t->n_bells, 1);
	for (; words; words &= words - 1) {
		unsigned w = (unsigned)__builtin_ctzll(words);

		for (uint64_t bits = emu_swap(&t->bell->ctx_bits[w], 0); bits; bits &= bits - 1) {
			struct emu_ctx *ctx = emu_observe(&t->e->ctxs[w * 64 + (unsigned)__builtin_ctzll(bits)]);

			if (ctx && ctx->thread == t)
				scan_context(t, ctx);
		}
	}
	section_leave(t);
}

/* All contexts of this thread, whatever the shared bell page says. */
static int rescan(struct emu_thread *t)
{
	int found = 0;

	section_enter(t);
	for (uint32_t i = 0; i < MAX_CTXS; i++) {
		struct emu_ctx *ctx = emu_observe(&t->e->ctxs[i]);

		if (ctx && ctx->thread == t)
			found |= scan_context(t, ctx);
	}
	section_leave(t);
	return found;
}

static void find_work(struct emu_thread *t)
{
	if (emu_peek(&t->kicked))
		take_kicks(t);
	if (emu_peek(&t->bell->ctx_summary))
		scan_bells(t);
	if (emu_peek(&t->mark))
		grace_look(t);
	if (++t->loops % LOOPS_A_CLOCK == 0) {
		uint64_t now = now_ns();

		if (now - t->last_rescan > EMU_RESCAN_MS * 1000000ull) {
			t->last_rescan = now;
			rescan(t);
		}
	}
}

/* One round over the polled queue pairs. 1: somebody had work. */
static int serve(struct emu_thread *t)
{
	int worked = 0;

	for (struct emu_qp *qp = t->first, *next; qp; qp = next) {
		next = qp->next;
		if (qp->op.phase == OP_NONE || qp->op.phase == OP_WAITING || qp->op.phase == OP_PARKED) {
			if (!has_news(qp)) {
				if (t->polled > POLLED_WHILE_IDLE)
					poll_stop(t, qp);
				continue;
			}
		}
		worked = 1;
		if (qp_turn(qp))
			qp->attention = 1;
	}
	return worked;
}

/* ---- sleep */

static void adapt_spin(struct emu_thread *t)
{
	uint64_t most = t->e->cores > 1 ? SPIN_MOST : SPIN_LEAST;
	struct rusage usage;

	if (t->e->config.spin) {
		t->spin_limit = t->e->config.spin;
		return;
	}
	if (getrusage(RUSAGE_THREAD, &usage))
		return;
	if ((uint64_t)usage.ru_nivcsw != t->switches)
		t->spin_limit = SPIN_LEAST;
	else if (t->spin_limit < most)
		t->spin_limit *= 2;
	t->switches = (uint64_t)usage.ru_nivcsw;
}

static int stop_polling(struct emu_thread *t)
{
	for (struct emu_qp *qp = t->first, *next; qp; qp = next) {
		next = qp->next;
		if (!poll_stop(t, qp))
			return 0;
	}
	return 1;
}

static uint64_t sleep_ns(const struct emu_thread *t, uint64_t next_timer)
{
	uint64_t ms = EMU_RESCAN_MS, ns;

	if (t->quiet_sleeps > QUIET_SLEEPS)
		ms = t->quiet_sleeps > 2 * QUIET_SLEEPS ? LONGEST_SLEEP_MS : 4 * EMU_RESCAN_MS;
	ns = ms * 1000000;
	return next_timer < ns ? next_timer : ns;
}

/* Returns 1 when something woke us, 0 when the time was up and the rescan found nothing. */
static int go_to_sleep(struct emu_thread *t, uint64_t next_timer)
{
	uint64_t ns = sleep_ns(t, next_timer);
	struct timespec limit = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
	long rc = 0;

	emu_publish(&t->asleep, 1);
	emu_publish(&t->bell->sleeping, 1);
	emu_handshake_at(EMU_AT_SLEEP); /* with ring_bell and thread_wake */
	if (!emu_peek(&t->bell->ctx_summary) && !emu_peek(&t->kicked) && !emu_peek(&t->mark) && !emu_peek(&t->e->stop)) {
		figures_add(&t->n_sleeps, 1);
		rc = futex(&t->bell->sleeping, FUTEX_WAIT, 1, &limit);
	}
	emu_publish(&t->bell->sleeping, 0);
	emu_publish(&t->asleep, 0);
	return rc == 0 || rescan(t);
}

static void idle(struct emu_thread *t, uint32_t *spins, uint64_t next_timer)
{
	if (++*spins < t->spin_limit) {
		emu_pause();
		return;
	}
	adapt_spin(t);
	if (!stop_polling(t)) {
		*spins = 0;
		return;
	}
	if (go_to_sleep(t, next_timer)) {
		*spins = 0;
		t->quiet_sleeps = 0;
	} else {
		t->quiet_sleeps++;
	}
}

static void keep_signals_away(void)
{
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGFPE);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGABRT);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
}

void *thread_main(void *thread)
{
	struct emu_thread *t = thread;
	uint32_t spins = 0;

	keep_signals_away();
	t->spin_limit = t->e->config.spin ? t->e->config.spin : SPIN_LEAST;
	while (!emu_observe(&t->e->stop)) {
		uint64_t next_timer;

		find_work(t);
		next_timer = run_timers(t);
		if (serve(t))
			spins = 0;
		else
			idle(t, &spins, next_timer);
	}
	return NULL;
}
