/* SPDX-License-Identifier: Apache-2.0
 *
 * Sections and grace periods: how the control thread learns that no engine thread can still be using what it took away.
 *
 *   thread                              control thread (or a thread that retires a QP)
 *   section = odd                       key state = FENCED, pointer = NULL, ...
 *   --- handshake ---                   mark = 1 for every thread
 *   reads state, uses it                --- handshake ---
 *   section = even                      reads section of every thread: odd = must end first
 *   mark? -> grace_look                 all even: ended at once
 *
 * The two handshakes are a store-load pair: if the control thread reads `even` although the thread is about to enter, then
 * the thread reads the new state. If it reads `odd`, the thread finds the mark, at the end of its section or at the latest
 * in its loop, and ends the period. A thread that sleeps or is held outside a section has an even number and
 * holds nobody up; one that is held inside a section holds up every period that began since, as it must.
 *
 * One period serves any number of keys. Periods end in the order in which they began, since a later one waits at least
 * for the sections that an earlier one waits for.
 */
#include <stdlib.h>

#include "internal.h"

struct grace *grace_new(uint32_t kind, uint64_t cookie, void (*done)(struct emu_engine *, void *), void *object)
{
	struct grace *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	g->done = done;
	g->object = object;
	if (!kind)
		return g;
	g->note = calloc(1, sizeof(*g->note));
	if (!g->note) {
		free(g);
		return NULL;
	}
	g->note->event.kind = kind;
	g->note->event.cookie = cookie;
	return g;
}

void grace_drop(struct grace *g)
{
	free(g->note);
	free(g);
}

/* Periods that have ended, taken off the list. Precondition: lock. */
static struct grace *take_ended(struct graces *all)
{
	struct grace *ended = NULL, **tail = &ended;

	while (all->first && all->first->waiting == 0) {
		struct grace *g = all->first;

		all->first = g->next;
		if (!all->first)
			all->last = &all->first;
		emu_publish(&all->ended, g->ticket);
		g->next = NULL;
		*tail = g;
		tail = &g->next;
	}
	return ended;
}

/* Free first, then tell: whoever was told finds it done. Without the lock: unmapping may take long. */
static void answer(struct emu_engine *e, struct grace *ended)
{
	while (ended) {
		struct grace *g = ended;

		ended = g->next;
		if (g->done)
			g->done(e, g->object);
		if (g->note)
			events_put(&e->events, g->note);
		free(g);
	}
}

uint64_t grace_start(struct emu_engine *e, struct grace *g)
{
	struct graces *all = &e->graces;
	struct grace *ended;
	uint64_t ticket;

	pthread_mutex_lock(&all->lock);
	ticket = g->ticket = ++all->issued;
	for (unsigned i = 0; i < e->n_threads; i++)
		emu_publish(&e->threads[i].mark, 1);
	emu_handshake(); /* with section_enter */
	for (unsigned i = 0; i < e->n_threads; i++) {
		uint64_t section = emu_observe(&e->threads[i].section);

		g->want[i] = section & 1 ? section : 0;
		g->waiting += section & 1;
	}
	g->next = NULL;
	*all->last = g;
	all->last = &g->next;
	ended = take_ended(all);
	pthread_mutex_unlock(&all->lock);
	answer(e, ended);
	return ticket;
}

void grace_look(struct emu_thread *t)
{
	struct graces *all = &t->e->graces;
	struct grace *ended;

	pthread_mutex_lock(&all->lock);
	emu_poke(&t->mark, 0);
	for (struct grace *g = all->first; g; g = g->next) {
		if (g->want[t->number] && g->want[t->number] != t->section) {
			g->want[t->number] = 0;
			g->waiting--;
		}
	}
	ended = take_ended(all);
	pthread_mutex_unlock(&all->lock);
	answer(t->e, ended);
}

int grace_ended(struct emu_engine *e, uint64_t ticket)
{
	return emu_observe(&e->graces.ended) >= ticket;
}
