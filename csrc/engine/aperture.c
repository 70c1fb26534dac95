/* SPDX-License-Identifier: Apache-2.0
 *
 * Apertures: the only memory that DMA touches, each one mmap'd file behind a pointer that can be swapped. And the CPU's side of
 * the same memory: what file operations and the allocator do, in the control thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/* ---- mappings */

void mapping_free(struct emu_engine *e, void *object)
{
	struct mapping *m = object;

	(void)e;
	if (m->base)
		munmap(m->base, m->bytes);
	if (m->gens)
		munmap(m->gens, m->gens_bytes + sizeof(uint32_t));
	if (m->gens_file)
		munmap(m->gens_file, m->gens_bytes);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
}

/* The file, and behind it memory that is nobody's, in one range. */
static int map_with_scratch(struct mapping *m, int fd, uint64_t bytes, uint64_t scratch)
{
	char *p = mmap(NULL, bytes + scratch, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	m->base = p;
	m->bytes = bytes + scratch;
	return mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ? -errno : 0;
}

static int map_memory(struct mapping *m, int fd, uint64_t bytes, uint64_t scratch)
{
	void *p;

	m->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (m->fd < 0)
		return -errno;
	if (scratch)
		return map_with_scratch(m, fd, bytes, scratch);
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED && errno == EACCES) {
		m->readonly = 1;
		p = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	}
	if (p == MAP_FAILED)
		return -errno;
	m->base = p;
	m->bytes = bytes;
	return 0;
}

/* The engine's threads read a copy in memory of the engine's own: the file may be truncated under them. It has a word more than the
 * file: the scratch block's, 0 for ever. */
static int map_generations(struct mapping *m, int fd, uint64_t blocks)
{
	uint64_t bytes = blocks * sizeof(uint32_t);
	const void *fault;
	struct stat st;
	void *p;

	if (fstat(fd, &st))
		return -errno;
	if ((uint64_t)st.st_size < bytes)
		return -EINVAL;
	m->gens_bytes = bytes;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->gens_file = p;
	p = mmap(NULL, bytes + sizeof(uint32_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->gens = p;
	return guarded_copy(m->gens, m->gens_file, bytes, 0, &fault);
}

/* A device must be there in full; a host file may have shrunk already, which each quantum finds out. */
static int big_enough(int fd, uint64_t bytes, uint32_t flags)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	return (flags & EMU_AP_HOST) || (uint64_t)st.st_size >= bytes ? 0 : -EINVAL;
}

static int mapping_new(const struct emu_aperture *a, int fd, int gens_fd, uint32_t instance, struct mapping **out)
{
	struct mapping *m = calloc(1, sizeof(*m));
	int err = 0;

	if (!m)
		return -ENOMEM;
	m->fd = -1;
	m->instance = instance;
	if (fd >= 0) {
		err = big_enough(fd, a->bytes, a->flags);
		if (!err)
			err = map_memory(m, fd, a->bytes, a->scratch);
		if (!err && gens_fd >= 0)
			err = map_generations(m, gens_fd, (a->bytes + a->block - 1) / a->block);
	}
	if (err)
		mapping_free(NULL, m);
	else
		*out = m;
	return err;
}

/* ---- apertures */

static int free_number(struct emu_engine *e)
{
	for (uint32_t i = 0; i < MAX_APERTURES; i++) {
		uint32_t number = (e->next_aperture + i) % MAX_APERTURES;

		if (!e->apertures[number]) {
			e->next_aperture = number + 1;
			return (int)number;
		}
	}
	return -ENOSPC;
}

int emu_aperture_add(struct emu_engine *e, int fd, uint64_t bytes, uint32_t block, int gens_fd, uint32_t flags)
{
	int number = free_number(e);
	struct emu_aperture *a;
	int err;

	if (number < 0)
		return number;
	if (fd < 0 || bytes == 0 || bytes > INT64_MAX || (gens_fd >= 0 && block == 0))
		return -EINVAL;
	if ((flags & EMU_AP_SCRATCH) && ((flags & EMU_AP_HOST) || block == 0 || block % 4096 || bytes % block))
		return -EINVAL;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	*a = (struct emu_aperture){ .number = (uint32_t)number, .block = block ? block : 4096, .flags = flags, .bytes = bytes,
		.scratch = flags & EMU_AP_SCRATCH ? block : 0 };
	err = mapping_new(a, fd, gens_fd, 0, &a->map);
	if (err) {
		free(a);
		return err;
	}
	emu_publish(&e->apertures[number], a);
	e->n_apertures++;
	return number;
}

static struct emu_aperture *find(struct emu_engine *e, uint32_t number)
{
	return number < MAX_APERTURES ? e->apertures[number] : NULL;
}

int emu_aperture_swap(struct emu_engine *e, uint32_t number, int fd, int gens_fd)
{
	struct emu_aperture *a = find(e, number);
	struct mapping *m, *old;
	struct grace *g;
	int err;

	if (!a)
		return -ENOENT;
	old = a->map;
	err = mapping_new(a, fd, gens_fd, a->instances + 1, &m);
	if (err)
		return err;
	g = grace_new(0, 0, mapping_free, old);
	if (!g) {
		mapping_free(e, m);
		return -ENOMEM;
	}
	a->instances++;
	emu_publish(&a->map, m);
	grace_start(e, g);
	return 0;
}

void aperture_discard(struct emu_engine *e, void *object)
{
	struct emu_aperture *a = object;

	mapping_free(e, a->map);
	free(a);
}

int emu_aperture_drop(struct emu_engine *e, uint32_t number)
{
	struct emu_aperture *a = find(e, number);
	struct grace *g;

	if (!a)
		return -ENOENT;
	if (a->mrs)
		return -EBUSY;
	g = grace_new(0, 0, aperture_discard, a);
	if (!g)
		return -ENOMEM;
	emu_publish(&e->apertures[number], (struct emu_aperture *)NULL);
	e->n_apertures--;
	grace_start(e, g);
	return 0;
}

int emu_aperture_page_out(struct emu_engine *e, uint32_t number)
{
	struct emu_aperture *a = find(e, number);

	if (!a)
		return -ENOENT;
	if (!a->map->base)
		return -ENODEV;
	return madvise(a->map->base, a->bytes, MADV_PAGEOUT) ? -errno : 0;
}

/* ---- host files that shrink */

/* One word that another size, or the same size reached anew, changes; never 0. The time of change tells a file that was
 * truncated, extended and truncated again while nobody looked. */
static uint64_t latch_of(const struct stat *st)
{
	uint64_t changed = (uint64_t)st->st_ctim.tv_sec * 1000000000u + (uint64_t)st->st_ctim.tv_nsec;

	return ((uint64_t)st->st_size * 0x9e3779b97f4a7c15ull ^ changed) | 1;
}

static void tell_fault(struct emu_engine *e, struct emu_aperture *a, uint64_t offset, const struct stat *st)
{
	uint64_t latch = latch_of(st);

	if (emu_swap(&a->latched, latch) == latch)
		return;
	events_tell(&e->events,
		    &(struct emu_engine_event){ .kind = EMU_ENG_SIGBUS, .id = a->number, .offset = offset });
}

int aperture_reaches(struct emu_engine *e, struct emu_aperture *a, const struct mapping *m, uint64_t end)
{
	struct stat st;

	if (!(a->flags & EMU_AP_HOST) || !m->base)
		return 0;
	if (fstat(m->fd, &st))
		return -EFAULT;
	if ((uint64_t)st.st_size >= end) {
		if (emu_peek(&a->latched) && emu_peek(&a->latched) != latch_of(&st))
			emu_poke(&a->latched, 0); /* it has grown, or shrunk to where this still fits */
		return 0;
	}
	tell_fault(e, a, (uint64_t)st.st_size, &st);
	return -EFAULT;
}

void aperture_faulted(struct emu_engine *e, struct emu_aperture *a, const struct mapping *m, uint64_t offset)
{
	struct stat st = { 0 };

	fstat(m->fd, &st); /* should it fail, the latch is that of an empty file */
	tell_fault(e, a, offset, &st);
}

/* ---- the CPU's side */

static int reach(struct emu_engine *e, uint32_t number, uint64_t offset, uint64_t bytes, struct emu_aperture **out)
{
	struct emu_aperture *a = find(e, number);

	if (!a)
		return -ENOENT;
	if (offset > a->bytes || bytes > a->bytes - offset)
		return -EINVAL;
	if (!a->map->base)
		return -ENODEV;
	*out = a;
	return aperture_reaches(e, a, a->map, offset + bytes);
}

static int touch(struct emu_engine *e, struct emu_aperture *a, void *to, const void *from, uint64_t bytes)
{
	const void *fault;
	int err = guarded_copy(to, from, bytes, 0, &fault);

	if (err)
		aperture_faulted(e, a, a->map, (uint64_t)((const char *)fault - a->map->base));
	return err;
}

int emu_cpu_read(struct emu_engine *e, uint32_t aperture, uint64_t offset, void *to, uint64_t bytes)
{
	struct emu_aperture *a;
	int err = reach(e, aperture, offset, bytes, &a);

	return err ? err : touch(e, a, to, a->map->base + offset, bytes);
}

static int writable(struct emu_engine *e, uint32_t number, uint64_t offset, uint64_t bytes, struct emu_aperture **out)
{
	int err = reach(e, number, offset, bytes, out);

	return err ? err : (*out)->map->readonly ? -EACCES : 0;
}

int emu_cpu_write(struct emu_engine *e, uint32_t aperture, uint64_t offset, const void *from, uint64_t bytes)
{
	struct emu_aperture *a;
	int err = writable(e, aperture, offset, bytes, &a);

	return err ? err : touch(e, a, a->map->base + offset, from, bytes);
}

int emu_cpu_zero(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes)
{
	struct emu_aperture *a;
	int err = writable(e, aperture, offset, bytes, &a);

	return err ? err : touch(e, a, a->map->base + offset, NULL, bytes);
}

/* Which of the two the fault is in, its address says. */
int emu_cpu_copy(struct emu_engine *e, uint32_t source, uint64_t from, uint32_t target, uint64_t to, uint64_t bytes)
{
	struct emu_aperture *s, *t;
	const char *fault, *base;
	int err = reach(e, source, from, bytes, &s);

	if (!err)
		err = writable(e, target, to, bytes, &t);
	if (err)
		return err;
	err = guarded_copy(t->map->base + to, s->map->base + from, bytes, 0, (const void **)&fault);
	if (err) {
		base = t->map->base;
		if (fault < base || (uint64_t)(fault - base) >= t->bytes)
			t = s;
		aperture_faulted(e, t, t->map, (uint64_t)(fault - t->map->base));
	}
	return err;
}

/* ---- the allocator's generations: even = allocated, odd = free */

/* The next number of the parity, strictly larger unless `recover`. */
static uint32_t next_generation(uint32_t g, uint32_t parity, int recover)
{
	if (recover && (g & 1) == parity)
		return g;
	g += 1 + ((g + 1) % 2 != parity);
	return g == FAILED ? 1 : g;
}

static void file_follows(struct emu_engine *e, const struct mapping *m, uint64_t first, uint64_t n)
{
	const void *fault;

	if (guarded_copy(m->gens_file + first, m->gens + first, n * sizeof(uint32_t), 0, &fault))
		e->gens_lost += n;
}

enum step { TO_FREE, TO_ALLOCATED, TO_SHARED, TO_FAILED };

static uint32_t stepped(uint32_t g, enum step step, int recover)
{
	switch (step) {
	case TO_FREE:
		return next_generation(g, 1, recover);
	case TO_ALLOCATED:
		return next_generation(g, 0, recover);
	case TO_SHARED:
		return next_generation(next_generation(g, 1, 0), 0, 0);
	default:
		return FAILED;
	}
}

static int blocks_step(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes, enum step step,
		       int recover, struct emu_aperture **a)
{
	int err = writable(e, aperture, offset, bytes, a);
	uint64_t first, end;

	if (err)
		return err;
	if (!(*a)->map->gens || offset % (*a)->block || bytes % (*a)->block)
		return -EINVAL;
	first = offset / (*a)->block;
	end = (offset + bytes) / (*a)->block;
	for (uint64_t b = first; b < end; b++) {
		uint32_t *g = &(*a)->map->gens[b];

		emu_publish(g, stepped(emu_peek(g), step, recover));
	}
	emu_handshake(); /* with a quantum's look after its last byte: bytes that land later are seen to be late */
	if (end > first)
		file_follows(e, (*a)->map, first, end - first);
	return 0;
}

int emu_blocks_allocate(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes, int recover)
{
	struct emu_aperture *a;
	int err = blocks_step(e, aperture, offset, bytes, TO_ALLOCATED, recover, &a);

	return err || recover ? err : touch(e, a, a->map->base + offset, NULL, bytes);
}

int emu_blocks_release(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes, int recover)
{
	struct emu_aperture *a;

	return blocks_step(e, aperture, offset, bytes, TO_FREE, recover, &a);
}

int emu_blocks_share(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes)
{
	struct emu_aperture *a;

	return blocks_step(e, aperture, offset, bytes, TO_SHARED, 0, &a);
}

int emu_blocks_fail(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes)
{
	struct emu_aperture *a;
	int err = blocks_step(e, aperture, offset, bytes, TO_FAILED, 0, &a);

	if (!err)
		emu_publish(&a->map->failed, 1u);
	return err;
}
