/* SPDX-License-Identifier: Apache-2.0
 * The store-load handshakes, one by one: two threads run the two real functions of a pair against each other, millions of times, and
 * after each round it is judged whether both have missed the other's store. `litmus SITE` has to find that never; `litmus SITE
 * weakened` takes the fence at that place away and has to find it, or the test itself is blind. It cannot tell (77) where the machine is
 * too busy for two threads at once, so that the time is up before the rounds are.
 *
 * No engine thread runs: this program is the engine's thread and the client. A system call of thread.c becomes a note of what it
 * would have done.
 */
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long noted_syscall(long number, uint32_t *word, int op, uint32_t value, const struct timespec *limit, void *word2, int value3);
#define syscall noted_syscall
#include "../engine/thread.c"
#undef syscall
#include "check.h"

#define ROUNDS 1500000u      /* with every fence in place, or one second */
#define ROUNDS_TO_FIND 8000000u /* with one taken away: most are found in the first ten thousand */
#define SECONDS_TO_FIND 7
#define LINES 8u
#define SPINS_BEFORE_YIELD 2000u

unsigned emu_weakened;

static struct world w;
static struct end a, b;
static struct emu_thread *t;
static struct emu_qp *qp;

/* ---- two threads in step */

static uint32_t arrived __attribute__((aligned(64)));
static uint32_t finished __attribute__((aligned(64)));
static uint32_t over;
static uint32_t clutter[LINES][16] __attribute__((aligned(64)));

static void await(const uint32_t *word, uint32_t value)
{
	for (unsigned spins = 0; (int32_t)(emu_observe(word) - value) < 0;)
		if (++spins % SPINS_BEFORE_YIELD == 0)
			sched_yield();
}

/* Both go on within a few nanoseconds of each other, now this one first and now the other. Their stores wait behind some to lines
 * that the other has just written, so that what follows is late where no fence makes it wait. */
static void meet(uint32_t round, unsigned delay)
{
	emu_fetch_add(&arrived, 1);
	await(&arrived, 2 * round + 2);
	for (volatile unsigned i = 0; i < delay; i++)
		;
	for (unsigned i = 0; i < LINES; i++)
		emu_poke(&clutter[i][0], round);
}

struct pair {
	const char *name;
	void (*prepare)(void);      /* nobody else runs */
	void (*engine)(void);       /* the engine thread's side */
	void (*other)(void);        /* the client's or the control thread's */
	int (*both_missed)(void);   /* nobody else runs */
};

static const struct pair *pair;

static void *other_side(void *unused)
{
	uint64_t seed = 88172645463325252ull;

	for (uint32_t round = 0;; round++) {
		meet(round, (unsigned)(random_next(&seed) % 60));
		if (emu_observe(&over))
			return unused;
		pair->other();
		emu_publish(&finished, round + 1);
	}
}

/* ---- section_enter against quiesce: state seen LIVE inside a section that the period did not wait for */

static uint32_t state, saw, ended, told;
static struct grace *period;
static uint64_t ticket;

static void prepare_section(void)
{
	CHECK((period = grace_new(0, 0, NULL, NULL)));
	state = saw = ended = told = 0;
}

static void enter_and_look(void)
{
	section_enter(t);
	saw = emu_observe(&state);
	await(&told, 1); /* inside all along */
	section_leave(t);
}

static void fence_and_wait(void)
{
	emu_publish(&state, EMU_MR_FENCED);
	ticket = grace_start(w.e, period);
	ended = (uint32_t)grace_ended(w.e, ticket);
	emu_publish(&told, 1);
}

static int used_after_the_answer(void)
{
	find_work(t);
	CHECK(grace_ended(w.e, ticket));
	return saw != EMU_MR_FENCED && ended;
}

/* ---- a thread held outside a section against grace_start: a period that waits for the release */

static void leave_and_be_held(void)
{
	section_enter(t);
	section_leave(t);
	hold_stop(t, EMU_HOLD_COMPLETION, NULL, 0, 0);
}

static int waits_for_the_held(void)
{
	int waits = !grace_ended(w.e, ticket);

	find_work(t);
	return waits;
}

/* ---- poll_stop, go_to_sleep against post_send: work that nobody will look at */

static int stopped, slept;

static void take_bells(void)
{
	w.e->ctxs[a.ctx]->page->qp_summary = 0;
	w.e->ctxs[a.ctx]->page->qp_bits[qp->slot / 64] = 0;
	t->bell->ctx_summary = 0;
	t->bell->ctx_bits[a.ctx / 64] = 0;
}

static void consume(void)
{
	qp->sq.cons = qp->sq.seen = qp->seg->sq_prod;
	emu_ring_qp_release(a.qp, 0, qp->sq.cons);
}

static void prepare_post(void)
{
	take_bells();
	consume();
	poll_start(t, qp);
	qp->attention = 0;
	stopped = 0;
}

static void stop_looking(void)
{
	stopped = poll_stop(t, qp);
}

static void post_one(void)
{
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 64, 0x100, 4096, 0x200));
}

static int unseen(void)
{
	return stopped && !w.e->ctxs[a.ctx]->page->qp_summary;
}

static void prepare_sleep(void)
{
	take_bells();
	consume();
	qp->seg->need_bell = 1;
	slept = 0;
}

static long noted_syscall(long number, uint32_t *word, int op, uint32_t value, const struct timespec *limit, void *word2, int value3)
{
	(void)word2;
	(void)value3;
	if (number == SYS_futex && op == FUTEX_WAIT) {
		CHECK(limit);
		await(&finished, emu_peek(&arrived) / 2); /* whoever was to wake us has done so by now */
		slept = emu_observe(word) == value;
	}
	return 0;
}

static void fall_asleep(void)
{
	go_to_sleep(t, UINT64_MAX);
}

static int slept_on_work(void)
{
	return slept;
}

/* ---- post_recv against a queue pair that goes to ERR: a receive that is never flushed */

static int64_t flushable;

static void prepare_recv(void)
{
	take_bells();
	qp->rules.state = EMU_QPS_RTS;
	emu_publish(&qp->seg->state, EMU_QPS_RTS);
	qp->rq.cons = qp->seg->rq_prod;
	emu_ring_qp_release(a.qp, 1, qp->rq.cons);
}

static void go_to_error(void)
{
	struct emu_rule_out out = { .actions = EMU_ACT_FLUSH_RECV };

	pthread_mutex_lock(&qp->lock);
	qp->rules.state = EMU_QPS_ERR;
	qp_apply(qp, &out);
	flushable = wq_pending(&qp->rq);
	pthread_mutex_unlock(&qp->lock);
}

static void post_receive(void)
{
	post_recv(&a, 1, 0, 64, 0x100);
}

static int never_flushed(void)
{
	take_kicks(t);
	return !flushable && !w.e->ctxs[a.ctx]->page->qp_summary;
}

/* ---- all of it */

static const struct pair pairs[EMU_HANDSHAKE_SITES] = {
	[EMU_AT_SECTION_ENTER] = { "section-enter", prepare_section, enter_and_look, fence_and_wait, used_after_the_answer },
	[EMU_AT_POLL_STOP] = { "poll-stop", prepare_post, stop_looking, post_one, unseen },
	[EMU_AT_POST_SEND] = { "post-send", prepare_post, stop_looking, post_one, unseen },
	[EMU_AT_SLEEP] = { "sleep", prepare_sleep, fall_asleep, post_one, slept_on_work },
	[EMU_AT_POST_RECV] = { "post-recv", prepare_recv, go_to_error, post_receive, never_flushed },
	[EMU_AT_HOLD] = { "hold", prepare_section, leave_and_be_held, fence_and_wait, waits_for_the_held },
};

static void open_world(void)
{
	world_open(&w, &(struct world_config){ .idle = 1 });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	t = &w.e->threads[0];
	qp = qp_find(w.e, a.qp_num);
	take_kicks(t);
}

/* Returns whether both sides have missed each other's store, and after how many rounds. */
static int run(uint32_t most, int64_t deadline, uint32_t *rounds)
{
	uint64_t seed = 7;
	pthread_t thread;
	int found = 0;

	CHECK_EQ(pthread_create(&thread, NULL, other_side, NULL), 0);
	for (*rounds = 0; *rounds < most && !found; ++*rounds) {
		if (*rounds % 1024 == 0 && clock_ns() > deadline)
			break;
		pair->prepare();
		meet(*rounds, (unsigned)(random_next(&seed) % 60));
		pair->engine();
		await(&finished, *rounds + 1);
		found = pair->both_missed();
	}
	emu_publish(&over, 1);
	emu_fetch_add(&arrived, 1);
	pthread_join(thread, NULL);
	printf("%s: %u rounds, %s\n", pair->name, *rounds, found ? "both missed the other's store" : "held");
	return found;
}

int main(int argc, char **argv)
{
	int weakened = argc == 3 && !strcmp(argv[2], "weakened");
	uint32_t rounds;
	cpu_set_t cores;
	int found;

	for (unsigned i = 1; argc > 1 && i < EMU_HANDSHAKE_SITES; i++)
		if (!strcmp(argv[1], pairs[i].name))
			pair = &pairs[i];
	CHECK(pair && (weakened || argc == 2));
	if (sched_getaffinity(0, sizeof(cores), &cores) || CPU_COUNT(&cores) < 2)
		return 77;
	emu_weakened = weakened ? (unsigned)(pair - pairs) : EMU_AT_NONE;
	open_world();
	found = run(weakened ? ROUNDS_TO_FIND : ROUNDS, clock_ns() + (weakened ? SECONDS_TO_FIND : 1) * 1000000000ll, &rounds);
	end_close(&a);
	end_close(&b);
	world_close(&w);
	if (weakened && !found)
		return rounds < ROUNDS_TO_FIND ? 77 : 1;
	return !weakened && found;
}
