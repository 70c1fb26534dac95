/* SPDX-License-Identifier: Apache-2.0
 *
 * Keys: a flat table by index, entries made and taken away by the control thread, read by engine threads inside sections.
 *
 *   install: LIVE | quiesce: FENCED, then a grace period | unmap: UNMAPPED, translation freed after another | remove: freed
 */
#include <errno.h>
#include <stdlib.h>

#include "internal.h"

/* ---- the engine threads' side */

int mr_check(struct emu_engine *e, uint32_t key, uint32_t pd, uint64_t addr, uint64_t bytes, uint32_t rights,
	     struct emu_mr **out)
{
	struct emu_mr *mr = mr_find(e, key);

	if (!mr || emu_observe(&mr->state) != EMU_MR_LIVE)
		return -EACCES;
	if (mr->pd != pd || (mr->access & rights) != rights)
		return -EACCES;
	if (addr < mr->iova || addr - mr->iova > mr->length || bytes > mr->length - (addr - mr->iova))
		return -EACCES;
	*out = mr;
	return 0;
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

void mr_place(const struct emu_mr *mr, uint64_t addr, struct place *out)
{
	const struct translation *tr = emu_observe(&mr->translation);
	uint64_t at = addr - mr->iova;
	const struct extent *x = find_extent(tr, at);

	out->mr = (struct emu_mr *)mr;
	out->aperture = mr->aperture;
	out->map = emu_observe(&mr->aperture->map);
	out->translation = tr;
	out->extent = x;
	out->offset = x->offset + (at - x->start);
	out->bytes = x->bytes - (at - x->start);
}

/* ---- registration */

static int aperture_of(struct emu_engine *e, const struct emu_mr_desc *d, struct emu_aperture **out)
{
	uint32_t writes = d->access & (EMU_ACCESS_LOCAL_WRITE | EMU_ACCESS_REMOTE_WRITE | EMU_ACCESS_REMOTE_ATOMIC);

	if (d->aperture >= MAX_APERTURES || !e->apertures[d->aperture])
		return -ENODEV;
	*out = e->apertures[d->aperture];
	if (!(*out)->map->base)
		return -ENODEV;
	return writes && (*out)->map->readonly ? -EACCES : 0;
}

static int extents_fit(const struct emu_mr_desc *d, const struct emu_aperture *a)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < d->n_extents; i++) {
		const struct emu_extent *x = &d->extents[i];

		if (x->bytes == 0 || x->offset > a->bytes || x->bytes > a->bytes - x->offset)
			return 0;
		sum += x->bytes;
	}
	return d->length && sum == d->length && d->iova + (d->length - 1) >= d->iova;
}

static uint64_t blocks_of(const struct emu_aperture *a, uint64_t offset, uint64_t bytes)
{
	return (offset + bytes - 1) / a->block - offset / a->block + 1;
}

/* Neighbours become one extent, so that a quantum is not cut where the file is not. */
static struct translation *copy_extents(const struct emu_mr_desc *d)
{
	struct translation *tr = calloc(1, sizeof(*tr) + d->n_extents * sizeof(tr->extents[0]));
	uint64_t start = 0;

	for (uint32_t i = 0; tr && i < d->n_extents; i++) {
		struct extent *last = tr->n ? &tr->extents[tr->n - 1] : NULL;

		if (last && last->offset + last->bytes == d->extents[i].offset)
			last->bytes += d->extents[i].bytes;
		else
			tr->extents[tr->n++] = (struct extent){ d->extents[i].offset, d->extents[i].bytes, start, 0 };
		start += d->extents[i].bytes;
	}
	return tr;
}

static int note_generations(struct translation *tr, const struct emu_aperture *a)
{
	uint64_t total = 0;

	tr->instance = a->map->instance;
	if (!a->map->gens)
		return 0;
	for (uint32_t i = 0; i < tr->n; i++)
		total += blocks_of(a, tr->extents[i].offset, tr->extents[i].bytes);
	tr->gens = malloc(total * sizeof(uint32_t));
	if (!tr->gens)
		return -ENOMEM;
	total = 0;
	for (uint32_t i = 0; i < tr->n; i++) {
		struct extent *x = &tr->extents[i];

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

int emu_mr_install(struct emu_engine *e, const struct emu_mr_desc *d)
{
	struct emu_aperture *a;
	struct emu_mr *mr;
	int err;

	if (e->mrs[d->key >> 8])
		return -EEXIST;
	err = aperture_of(e, d, &a);
	if (err)
		return err;
	if (!extents_fit(d, a))
		return -EINVAL;
	mr = calloc(1, sizeof(*mr));
	if (!mr)
		return -ENOMEM;
	*mr = (struct emu_mr){ .key = d->key, .pd = d->pd, .access = d->access, .importer = d->importer, .iova = d->iova,
		.length = d->length, .serial = ++e->serial, .aperture = a, .translation = copy_extents(d),
		.state = EMU_MR_LIVE };
	if (!mr->translation || note_generations(mr->translation, a)) {
		translation_free(mr->translation);
		free(mr);
		return -ENOMEM;
	}
	a->mrs++;
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

/* ---- taking it back */

int emu_quiesce(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie)
{
	struct grace *g = grace_new(EMU_ENG_QUIESCED, cookie, NULL, NULL);
	uint64_t ticket;

	if (!g)
		return -ENOMEM;
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (mr && emu_peek(&mr->state) == EMU_MR_LIVE) {
			mr->ticket = UINT64_MAX;
			emu_publish(&mr->state, EMU_MR_FENCED);
		}
	}
	ticket = grace_start(e, g);
	for (unsigned i = 0; i < n; i++) {
		struct emu_mr *mr = mr_find(e, keys[i]);

		if (mr && mr->ticket == UINT64_MAX)
			mr->ticket = ticket;
	}
	return 0;
}

static int may_unmap(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = mr_find(e, key);
	uint32_t state = mr ? emu_peek(&mr->state) : EMU_MR_UNMAPPED;

	return state == EMU_MR_UNMAPPED || (state == EMU_MR_FENCED && grace_ended(e, mr->ticket));
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

		if (!mr || emu_peek(&mr->state) != EMU_MR_FENCED)
			continue;
		emu_publish(&mr->state, EMU_MR_UNMAPPED);
		d->each[d->n++] = mr->translation;
		emu_publish(&mr->translation, (struct translation *)NULL);
	}
	grace_start(e, g);
	return 0;
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
	if (emu_peek(&mr->state) != EMU_MR_UNMAPPED)
		return -EBUSY;
	g = grace_new(0, 0, mr_discard, mr);
	if (!g)
		return -ENOMEM;
	emu_publish(&e->mrs[key >> 8], (struct emu_mr *)NULL);
	mr->aperture->mrs--;
	e->n_mrs--;
	grace_start(e, g);
	return 0;
}
