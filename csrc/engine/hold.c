/* SPDX-License-Identifier: Apache-2.0
 *
 * Hold points: one thread stops at a named point until it is released, so that a race can be set up in a test, or a failure
 * shown at leisure. Where none is armed a point costs one load.
 */
#include <errno.h>

#include "internal.h"

static const char *const names[EMU_HOLD_POINTS] = {
	[EMU_HOLD_NONE] = "none",
	[EMU_HOLD_OP_START] = "op-start",
	[EMU_HOLD_QUANTUM_FIRST] = "quantum-first",
	[EMU_HOLD_QUANTUM_HALF] = "quantum-half",
	[EMU_HOLD_QUANTUM_LAST] = "quantum-last",
	[EMU_HOLD_COMPLETION] = "completion",
	[EMU_HOLD_QUANTUM_NEXT] = "quantum-next",
};

const char *emu_hold_name(uint32_t point)
{
	return point < EMU_HOLD_POINTS ? names[point] : NULL;
}

static int concerns(const struct hold *h, const uint32_t *keys, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (keys[i] == h->key)
			return 1;
	return h->key == 0;
}

/* Precondition: hold_lock. */
static void hint(struct emu_engine *e)
{
	uint32_t armed = 0;

	for (unsigned i = 1; i < EMU_HOLD_POINTS; i++)
		armed |= (uint32_t)!!e->holds[i].armed << i;
	emu_publish(&e->holds_armed, armed);
}

/* section_leave may miss a mark, which the loop makes good; a thread that stops before it gets there delays whoever set it. From
 * here on a period that begins finds an even section. */
static void look_for_marks(struct emu_thread *t)
{
	if (t->section & 1)
		return;
	emu_handshake_at(EMU_AT_HOLD); /* with grace_start */
	if (emu_peek(&t->mark))
		grace_look(t);
}

void hold_stop(struct emu_thread *t, uint32_t point, const uint32_t *keys, unsigned n, uint64_t wr_id)
{
	struct emu_engine *e = t->e;
	struct hold *h = &e->holds[point];

	look_for_marks(t);
	pthread_mutex_lock(&e->hold_lock);
	if (h->armed && concerns(h, keys, n) && h->skip-- == 0) {
		uint64_t releases = h->releases;

		h->armed = 0;
		h->held = 1;
		hint(e);
		events_tell(&e->events, &(struct emu_engine_event){ .kind = EMU_ENG_HELD, .id = t->number,
			.code = point, .cookie = h->key ? h->key : n ? keys[0] : 0, .offset = wr_id });
		while (h->releases == releases)
			pthread_cond_wait(&e->hold_change, &e->hold_lock);
	}
	pthread_mutex_unlock(&e->hold_lock);
}

int emu_hold_arm(struct emu_engine *e, uint32_t point, uint32_t key, uint32_t skip)
{
	struct hold *h;
	int err = 0;

	if (point == EMU_HOLD_NONE || point >= EMU_HOLD_POINTS)
		return -EINVAL;
	h = &e->holds[point];
	pthread_mutex_lock(&e->hold_lock);
	if (h->armed || h->held) {
		err = -EBUSY;
	} else {
		h->armed = 1;
		h->key = key;
		h->skip = skip;
		hint(e);
	}
	pthread_mutex_unlock(&e->hold_lock);
	return err;
}

/* Precondition: hold_lock. */
static void release(struct hold *h)
{
	h->armed = h->held = 0;
	h->releases++;
}

int emu_hold_release(struct emu_engine *e, uint32_t point)
{
	if (point == EMU_HOLD_NONE || point >= EMU_HOLD_POINTS)
		return -EINVAL;
	pthread_mutex_lock(&e->hold_lock);
	release(&e->holds[point]);
	hint(e);
	pthread_cond_broadcast(&e->hold_change);
	pthread_mutex_unlock(&e->hold_lock);
	return 0;
}

void hold_release_all(struct emu_engine *e)
{
	for (unsigned i = 1; i < EMU_HOLD_POINTS; i++)
		emu_hold_release(e, i);
}
