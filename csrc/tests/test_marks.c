/* SPDX-License-Identifier: Apache-2.0
 * A mark that a thread missed when it left its section, set up by hand: the period ends in the thread's loop, and before the thread
 * stops at a hold point, not at the next section or at the release.
 */
#include <pthread.h>

#include "../engine/internal.h"
#include "check.h"

#define NEVER UINT64_MAX

static struct emu_engine *e;
static uint64_t ended_at; /* section number of the thread when the period ended */

static void note(struct emu_engine *of, void *object)
{
	(void)object;
	emu_publish(&ended_at, of->threads[0].section);
}

/* As if grace_start had come between the thread's store of an even number and its look at the mark. */
static void miss_a_mark(void)
{
	struct emu_engine_config config = { 1, 65536, 0, 1.0 };
	struct emu_thread *t;
	struct grace *g;

	CHECK_EQ(emu_engine_new(&config, &e), 0);
	t = &e->threads[0];
	ended_at = NEVER;
	t->section = 1;
	CHECK((g = grace_new(0, 0, note, NULL)));
	grace_start(e, g);
	t->section = 2;
	CHECK_EQ(ended_at, NEVER);
	CHECK_EQ(t->mark, 1);
}

static void the_loop_makes_it_good(void)
{
	miss_a_mark();
	CHECK_EQ(emu_engine_start(e), 0);
	while (emu_observe(&ended_at) == NEVER)
		emu_pause();
	CHECK_EQ(ended_at, 2); /* without another section */
	emu_engine_free(e);
}

static void *stop_here(void *thread)
{
	hold_stop(thread, EMU_HOLD_COMPLETION, NULL, 0, 0);
	return NULL;
}

static void nobody_waits_for_a_held_thread(void)
{
	struct emu_engine_event event = { 0 };
	pthread_t thread;

	miss_a_mark();
	CHECK_EQ(emu_hold_arm(e, EMU_HOLD_COMPLETION, 0, 0), 0);
	CHECK_EQ(pthread_create(&thread, NULL, stop_here, &e->threads[0]), 0);
	while (event.kind != EMU_ENG_HELD)
		emu_events_take(e, &event, 1);
	CHECK_EQ(emu_observe(&ended_at), 2);
	CHECK_EQ(emu_hold_release(e, EMU_HOLD_COMPLETION), 0);
	pthread_join(thread, NULL);
	emu_engine_free(e);
}

/* Inside its section a held thread keeps the period waiting, mark or no mark. */
static void everybody_waits_for_a_thread_held_inside(void)
{
	struct emu_engine_event event = { 0 };
	pthread_t thread;

	miss_a_mark();
	e->threads[0].section = 1;
	CHECK_EQ(emu_hold_arm(e, EMU_HOLD_COMPLETION, 0, 0), 0);
	CHECK_EQ(pthread_create(&thread, NULL, stop_here, &e->threads[0]), 0);
	while (event.kind != EMU_ENG_HELD)
		emu_events_take(e, &event, 1);
	CHECK_EQ(emu_observe(&ended_at), NEVER);
	CHECK_EQ(emu_hold_release(e, EMU_HOLD_COMPLETION), 0);
	pthread_join(thread, NULL);
	emu_engine_free(e);
}

int main(void)
{
	the_loop_makes_it_good();
	nobody_waits_for_a_held_thread();
	everybody_waits_for_a_thread_held_inside();
	return 0;
}
