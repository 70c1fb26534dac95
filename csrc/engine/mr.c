/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys: a flat table by index, entries made and taken away by the control thread, read by engine threads inside sections.
 *
 *   install: LIVE | quiesce: FENCED, then a grace period | unmap: UNMAPPED, translation freed after another | remove: freed
 *   dynamic:      | invalidate: PARKED, then as above     | unmap: ABSENT                                  | remap: LIVE
 *   others:       | invalidate, where it says so: PARKED  | unmap: UNMAPPED                                | remap: LIVE
 *
 * A translation is published before the state that lets it be used, and taken away behind a grace period of the state that
 * forbids it; so who has read LIVE in a section has a translation in it, this one or a newer one.
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

/* ---- the engine threads' side */

int mr_check(struct emu_engine *e, uint32_t key, uint32_t pd, uint64_t addr, uint64_t bytes, uint32_t rights,
	     struct emu_mr **out)
{
	struct emu_mr *mr = mr_find(e, key);
	uint32_t state = mr ? emu_observe(&mr->state) : EMU_MR_FREE;

	if (state != EMU_MR_LIVE && state != EMU_MR_PARKED && state != EMU_MR_ABSENT)
		return -EACCES;
	if (mr->pd != pd || (mr->access & rights) != rights)
		return -EACCES;
	if (addr < mr->iova || addr - mr->iova > mr->length || bytes > mr->length - (addr - mr->iova))
		return -EACCES;
	*out = mr;
	return state == EMU_MR_LIVE ? HERE : VACANT;
}

/* The last extent that starts at or before `at`. */
static const struct extent *find_extent(const struct translation *tr, uint64_t at)
{
	uint32_t low = 0, high = tr->n;

	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;

		if (tr->extents[middle].start <= at)
			low = middle;
		else
			high = middle;
	}
	return &tr->extents[low];
}

static int present(uint64_t offset)
{
	return offset < EMU_VACANT;
}

enum whereabouts mr_place(const struct emu_mr *mr, uint64_t addr, struct place *out)
{
	const struct translation *tr = emu_observe(&mr->translation);
	uint64_t at = addr - mr->iova;
	const struct extent *x = find_extent(tr, at);

	if (__builtin_expect(!present(x->offset), 0))
		return x->offset == EMU_GONE ? GONE : VACANT;
	out->mr = (struct emu_mr *)mr;
	out->aperture = tr->aperture;
	out->map = emu_observe(&tr->aperture->map);
	out->translation = tr;
	out->extent = x;
	out->offset = x->offset + (at - x->start);
	out->bytes = x->bytes - (at - x->start);
	out->gone = !out->map->base;
	return HERE;
}

enum whereabouts mr_look(const struct emu_mr *mr, uint64_t addr)
{
	uint32_t state = emu_observe(&mr->state);
	struct place place;

	if (state == EMU_MR_LIVE)
		return mr_place(mr, addr, &place);
	return state == EMU_MR_PARKED || state == EMU_MR_ABSENT ? VACANT : HERE;
}

/* ---- registration */

static int reaches_memory(const struct emu_mr_desc *d)
{
	for (uint32_t i = 0; i < d->n_extents; i++)
		if (present(d->extents[i].offset))
			return 1;
	return 0;
}

static int aperture_of(struct emu_engine *e, const struct emu_mr_desc *d, struct emu_aperture **out)
{
	uint32_t writes = d->access & (EMU_ACCESS_LOCAL_WRITE | EMU_ACCESS_REMOTE_WRITE | EMU_ACCESS_REMOTE_ATOMIC);

	if (d->aperture >= MAX_APERTURES || !e->apertures[d->aperture])
		return -ENODEV;
	*out = e->apertures[d->aperture];
	if (!reaches_memory(d))
		return 0;
	if (!(*out)->map->base)
		return -ENODEV;
	return writes && (*out)->map->readonly ? -EACCES : 0;
}

static int fits(const struct emu_extent *x, const struct emu_aperture *a, int may_miss)
{
	if (!present(x->offset))
		return may_miss && x->bytes != 0;
	return x->bytes != 0 && x->offset <= a->bytes + a->scratch && x->bytes <= a->bytes + a->scratch - x->offset;
}

static int extents_fit(const struct emu_mr_desc *d, const struct emu_aperture *a)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < d->n_extents; i++) {
		if (!fits(&d->extents[i], a, d->importer == EMU_IMP_DYNAMIC) || d->extents[i].bytes > d->length - sum)
			return 0;
		sum += d->extents[i].bytes;
	}
	return d->length && sum == d->length && d->iova + (d->length - 1) >= d->iova;
}

static uint64_t blocks_of(const struct emu_aperture *a, uint64_t offset, uint64_t bytes)
{
	return (offset + bytes - 1) / a->block - offset / a->block + 1;
}

static int continues(const struct extent *last, const struct emu_extent *next)
{
	return last->offset == next->offset ? !present(next->offset)
					    : present(next->offset) && last->offset + last->bytes == next->offset;
}

/* Neighbours become one extent, so that a quantum is not cut where the file is not. */
static struct translation *copy_extents(const struct emu_mr_desc *d)
{
	struct translation *tr = calloc(1, sizeof(*tr) + d->n_extents * sizeof(tr->extents[0]));
	uint64_t start = 0;

	for (uint32_t i = 0; tr && i < d->n_extents; i++) {
		struct extent *last = tr->n ? &tr->extents[tr->n - 1] : NULL;

		if (last && continues(last, &d->extents[i]))
			last->bytes += d->extents[i].bytes;
		else
			tr->extents[tr->n++] = (struct extent){ d->extents[i].offset, d->extents[i].bytes, start, 0 };
		start += d->extents[i].bytes;
	}
	return tr;
}

static uint64_t blocks_in(const struct translation *tr)
{
	uint64_t total = 0;

	for (uint32_t i = 0; i < tr->n; i++)
		if (present(tr->extents[i].offset))
			total += blocks_of(tr->aperture, tr->extents[i].offset, tr->extents[i].bytes);
	return total;
}

static int note_generations(struct translation *tr)
{
	const struct emu_aperture *a = tr->aperture;
	uint64_t total = 0;

	tr->instance = a->map->instance;
	if (!a->map->gens)
		return 0;
	tr->gens = malloc(blocks_in(tr) * sizeof(uint32_t) + 1);
	if (!tr->gens)
		return -ENOMEM;
	for (uint32_t i = 0; i < tr->n; i++) {
		struct extent *x = &tr->extents[i];

		if (!present(x->offset))
			continue;
		x->first_gen = total;
		for (uint64_t k = 0; k < blocks_of(a, x->offset, x->bytes); k++)
			tr->gens[total++] = emu_observe(&a->map->gens[x->offset / a->block + k]);
	}
	return 0;
}

static void translation_free(struct translation *tr)
{
	if (tr)
		free(tr->gens);
	free(tr);
}

/* What an MR of this description reaches, its generations noted. */
static int translate(struct emu_engine *e, const struct emu_mr_desc *d, struct translation **out)
{
	struct emu_aperture *a;
	struct translation *tr;
	int err = aperture_of(e, d, &a);

	if (err)
		return err;
	if (!extents_fit(d, a))
		return -EINVAL;
	tr = copy_extents(d);
	if (!tr)
		return -ENOMEM;
	tr->aperture = a;
	err = note_generations(tr);
	if (err)
		translation_free(tr);
	else
		*out = tr;
	return err;
}

int emu_mr_install(struct emu_engine *e, const struct emu_mr_desc *d)
{
	struct translation *tr;
	struct emu_mr *mr;
	int err;

	if (e->mrs[d->key >> 8])
		return -EEXIST;
	err = translate(e, d, &tr);
	if (err)
		return err;
	mr = calloc(1, sizeof(*mr));
	if (!mr) {
		translation_free(tr);
		return -ENOMEM;
	}
	*mr = (struct emu_mr){ .key = d->key, .pd = d->pd, .access = d->access, .importer = d->importer, .iova = d->iova,
		.length = d->length, .serial = ++e->serial, .aperture = tr->aperture, .translation = tr,
		.state = EMU_MR_LIVE };
	mr->aperture->mrs++;
	e->n_mrs++;
	emu_publish(&e->mrs[d->key >> 8], mr);
	return 0;
}

int emu_mr_inflight(struct emu_engine *e, const uint32_t *keys, unsigned n)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		sum += mr ? emu_peek(&mr->inflight) : 0;
	}
	return (int)sum;
}

int emu_mr_state(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = mr_find(e, key);

	return mr ? (int)emu_peek(&mr->state) : -ENOENT;
}

int64_t emu_mr_sequence(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = mr_find(e, key);

	return mr ? (int64_t)mr->sequence : -ENOENT;
}

/* ---- taking it back */

/* One period for all of them. A key that is parked already has had its own, or waits for it. */
static void drain(struct emu_engine *e, const uint32_t *keys, unsigned n, struct grace *g)
{
	uint64_t ticket = grace_start(e, g);

	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (mr && mr->ticket == UINT64_MAX)
			mr->ticket = ticket;
	}
}

int emu_quiesce(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie)
{
	struct grace *g = grace_new(EMU_ENG_QUIESCED, cookie, NULL, NULL);

	if (!g)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);
		uint32_t state = mr ? emu_peek(&mr->state) : EMU_MR_FREE;

		if (state == EMU_MR_LIVE)
			mr->ticket = UINT64_MAX;
		if (state == EMU_MR_LIVE || state == EMU_MR_PARKED || state == EMU_MR_ABSENT)
			emu_publish(&mr->state, EMU_MR_FENCED);
		if (state == EMU_MR_PARKED || state == EMU_MR_ABSENT)
			park_wake(e, mr, 0); /* who waits is refused */
	}
	drain(e, keys, n, g);
	return 0;
}

static int all_dynamic(struct emu_engine *e, const uint32_t *keys, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (mr && mr->importer != EMU_IMP_DYNAMIC)
			return 0;
	}
	return 1;
}

int emu_invalidate(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie, int others)
{
	struct grace *g;

	if (!others && !all_dynamic(e, keys, n))
		return -EINVAL;
	g = grace_new(EMU_ENG_QUIESCED, cookie, NULL, NULL);
	if (!g)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (!mr)
			continue;
		emu_publish(&mr->sequence, mr->sequence + 1);
		if (emu_peek(&mr->state) == EMU_MR_LIVE) {
			mr->ticket = UINT64_MAX;
			emu_publish(&mr->state, EMU_MR_PARKED);
		}
	}
	drain(e, keys, n, g);
	return 0;
}

static int has_translation(uint32_t state)
{
	return state == EMU_MR_FENCED || state == EMU_MR_PARKED;
}

static int may_unmap(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = mr_find(e, key);
	uint32_t state = mr ? emu_peek(&mr->state) : EMU_MR_UNMAPPED;

	return state == EMU_MR_UNMAPPED || state == EMU_MR_ABSENT ||
	       (has_translation(state) && grace_ended(e, mr->ticket));
}

struct doomed { /* translations that nobody can find any more */
	unsigned n;
	struct translation *each[];
};

static void doomed_free(struct emu_engine *e, void *object)
{
	struct doomed *d = object;

	(void)e;
	for (unsigned i = 0; i < d->n; i++)
		translation_free(d->each[i]);
	free(d);
}

/* A dynamic key that was parked is of use still; who waits under any other is refused. */
static void forget(struct emu_engine *e, struct emu_mr *mr)
{
	int parked = emu_peek(&mr->state) == EMU_MR_PARKED, stays = parked && mr->importer == EMU_IMP_DYNAMIC;

	emu_publish(&mr->state, stays ? EMU_MR_ABSENT : EMU_MR_UNMAPPED);
	if (parked && !stays)
		park_wake(e, mr, 0);
}

int emu_unmap(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie)
{
	struct doomed *d;
	struct grace *g;

	for (unsigned i = 0; i < n; i++)
		if (!may_unmap(e, keys[i]))
			return -EBUSY;
	d = calloc(1, sizeof(*d) + n * sizeof(d->each[0]));
	g = d ? grace_new(EMU_ENG_UNMAPPED, cookie, doomed_free, d) : NULL;
	if (!g) {
		free(d);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (!mr || !has_translation(emu_peek(&mr->state)))
			continue;
		forget(e, mr);
		d->each[d->n++] = mr->translation;
		emu_publish(&mr->translation, (struct translation *)NULL);
	}
	grace_start(e, g);
	return 0;
}

/* ---- giving it anew */

static int may_remap(struct emu_engine *e, const struct emu_mr *mr, uint64_t sequence)
{
	uint32_t state = emu_peek(&mr->state);

	if (state == EMU_MR_UNMAPPED)
		return -ENOENT;
	if (mr->importer != EMU_IMP_DYNAMIC)
		return state == EMU_MR_PARKED || (state == EMU_MR_FENCED && grace_ended(e, mr->ticket)) ? 0 : -EBUSY;
	if (state == EMU_MR_FENCED)
		return -EBUSY;
	return mr->sequence == sequence ? 0 : -ESTALE;
}

static void replaced_free(struct emu_engine *e, void *object)
{
	(void)e;
	translation_free(object);
}

/* SUMs end first: none holds quanta of two translations. */
static int replace(struct emu_engine *e, struct emu_mr *mr, struct translation *tr)
{
	struct grace *g = grace_new(0, 0, replaced_free, mr->translation);

	if (!g)
		return -ENOMEM;
	emu_oplog_flush(e);
	mr->aperture->mrs--;
	mr->aperture = tr->aperture;
	mr->aperture->mrs++;
	emu_publish(&mr->translation, tr);
	emu_publish(&mr->state, EMU_MR_LIVE);
	grace_start(e, g);
	return 0;
}

static int remap(struct emu_engine *e, struct emu_mr *mr, uint64_t sequence, const struct emu_mr_desc *d)
{
	int err = may_remap(e, mr, sequence);
	struct translation *tr;

	if (!err)
		err = translate(e, d, &tr);
	if (err)
		return err;
	err = replace(e, mr, tr);
	if (err)
		translation_free(tr);
	return err;
}

int emu_remap(struct emu_engine *e, uint32_t key, uint64_t sequence, uint32_t aperture, const struct emu_extent *extents,
	      uint32_t n_extents)
{
	struct emu_mr *mr = mr_find(e, key);
	struct emu_mr_desc d = { .key = key, .aperture = aperture, .extents = extents, .n_extents = n_extents };
	int err;

	if (!mr)
		return -ENOENT;
	d.access = mr->access;
	d.importer = mr->importer;
	d.iova = mr->iova;
	d.length = mr->length;
	err = remap(e, mr, sequence, &d);
	if (!err || mr->importer == EMU_IMP_DYNAMIC)
		park_wake(e, mr, !err);
	return err;
}

void mr_discard(struct emu_engine *e, void *object)
{
	struct emu_mr *mr = object;

	(void)e;
	translation_free(mr->translation);
	free(mr);
}

int emu_mr_remove(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = mr_find(e, key);
	struct grace *g;

	if (!mr)
		return -ENOENT;
	if (emu_peek(&mr->state) != EMU_MR_UNMAPPED && emu_peek(&mr->state) != EMU_MR_ABSENT)
		return -EBUSY;
	g = grace_new(0, 0, mr_discard, mr);
	if (!g)
		return -ENOMEM;
	emu_publish(&e->mrs[key >> 8], (struct emu_mr *)NULL);
	emu_publish(&mr->state, EMU_MR_UNMAPPED);
	if (mr->importer == EMU_IMP_DYNAMIC)
		park_wake(e, mr, 0); /* who waits is refused */
	mr->aperture->mrs--;
	e->n_mrs--;
	grace_start(e, g);
	return 0;
}
