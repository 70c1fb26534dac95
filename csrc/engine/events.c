/* SPDX-License-Identifier: Apache-2.0
 *
 * What the control thread is told: one queue, one descriptor. Answers that somebody waits for bring their own note and
 * are never lost; news (asynchronous events, faults, holds) take one of a fixed number of notes or are counted as lost.
 * Nothing here allocates once the engine runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "internal.h"

int events_open(struct events *q)
{
	pthread_mutex_init(&q->lock, NULL);
	q->last = &q->first;
	q->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->fd < 0)
		return -errno;
	q->pool = calloc(LOSSY_EVENTS, sizeof(*q->pool));
	if (!q->pool)
		return -ENOMEM;
	for (unsigned i = 0; i < LOSSY_EVENTS; i++) {
		q->pool[i].kind = NOTE_POOLED;
		q->pool[i].next = q->free;
		q->free = &q->pool[i];
	}
	return 0;
}

void events_close(struct events *q)
{
	while (q->first) {
		struct note *note = q->first;

		q->first = note->next;
		if (note->kind == NOTE_ASKED)
			free(note);
	}
	free(q->pool);
	if (q->fd >= 0)
		close(q->fd);
	pthread_mutex_destroy(&q->lock);
}

/* Precondition: lock. The descriptor is made readable when the queue was empty; events_take clears it when it is again. */
static void append(struct events *q, struct note *note)
{
	int was_empty = !q->first;

	note->next = NULL;
	*q->last = note;
	q->last = &note->next;
	if (was_empty)
		eventfd_write(q->fd, 1);
}

void events_put(struct events *q, struct note *note)
{
	pthread_mutex_lock(&q->lock);
	append(q, note);
	pthread_mutex_unlock(&q->lock);
}

void events_tell(struct events *q, const struct emu_engine_event *event)
{
	struct note *note;

	pthread_mutex_lock(&q->lock);
	note = q->free;
	if (note) {
		q->free = note->next;
		note->event = *event;
		append(q, note);
	} else {
		emu_count(&q->lost, 1);
	}
	pthread_mutex_unlock(&q->lock);
}

void events_keep(struct events *q, struct note *note, const struct emu_engine_event *event)
{
	pthread_mutex_lock(&q->lock);
	note->event = *event;
	if (!note->queued) {
		note->kind = NOTE_KEPT;
		note->queued = 1;
		append(q, note);
	}
	pthread_mutex_unlock(&q->lock);
}

void events_withdraw(struct events *q, struct note *note)
{
	pthread_mutex_lock(&q->lock);
	for (struct note **link = &q->first; note->queued && *link; link = &(*link)->next) {
		if (*link != note)
			continue;
		*link = note->next;
		if (q->last == &note->next)
			q->last = link;
		note->queued = 0;
		break;
	}
	pthread_mutex_unlock(&q->lock);
}

/* Precondition: lock. */
static void recycle(struct events *q, struct note *note)
{
	if (note->kind == NOTE_ASKED) {
		free(note);
	} else if (note->kind == NOTE_POOLED) {
		note->next = q->free;
		q->free = note;
	} else {
		note->queued = 0;
	}
}

int events_take(struct events *q, struct emu_engine_event *out, unsigned n)
{
	unsigned taken = 0;
	eventfd_t value;

	pthread_mutex_lock(&q->lock);
	while (taken < n && q->first) {
		struct note *note = q->first;

		q->first = note->next;
		out[taken++] = note->event;
		recycle(q, note);
	}
	if (!q->first) {
		q->last = &q->first;
		eventfd_read(q->fd, &value);
	}
	pthread_mutex_unlock(&q->lock);
	return (int)taken;
}
