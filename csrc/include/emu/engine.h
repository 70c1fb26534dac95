/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine: threads in the broker that carry out work requests, from doorbell to completion, without Python.
 *
 *   doorbell -> WQE (copied once) -> local key -> remote QP -> remote key -> copy in quanta -> CQE
 *
 * The copy is cut in quanta (64 KiB by default). A thread carries out each quantum inside a *section*: it enters
 * (publishes an odd section number, handshakes), looks at the state of both keys, copies, leaves. Quiesce marks keys, and
 * is done when every thread that was inside a section at that moment has left it: one grace period, however many keys.
 * From then on no byte moves under these keys. Translations, mappings and queue pairs are freed after a grace period
 * too, so a thread may use what it found for as long as its section lasts.
 *
 *   MR state:  LIVE --quiesce--> FENCED --unmap--> UNMAPPED --remove--> (slot free)
 *   dynamic:   LIVE --invalidate--> PARKED --unmap--> ABSENT --remap--> LIVE      (and quiesce from any of them)
 *   others:    LIVE --invalidate--> PARKED --remap--> LIVE, where their owner asks for it; from PARKED also as from FENCED
 *
 * Under a key of a dynamic importer an access whose memory is not there waits: its queue pair's operation is parked, the
 * thread goes on with others, and EMU_ENG_FAULT asks for the memory. emu_remap answers (park.c).
 *
 * Threads: the functions below are called from one control thread (the broker's loop) and never wait for an engine
 * thread: what takes time is answered by an event (emu_events_take, readable descriptor emu_engine_eventfd).
 * All return 0 or a value >= 0, or -errno.
 */
#ifndef EMU_ENGINE_H
#define EMU_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#include <emu/oplog.h>
#include <emu/ring.h>
#include <emu/rules.h>

struct emu_engine;

struct emu_engine_config {
	uint32_t threads;       /* 1..8 */
	uint32_t quantum;       /* bytes a quantum, 4096..16 MiB, multiple of 64 */
	uint32_t spin;          /* most pauses before a thread sleeps; 0: the engine's own judgement */
	double time_scale;      /* of ACK and RNR timers */
};

enum emu_engine_event_kind {
	EMU_ENG_QUIESCED = 1, /* cookie */
	EMU_ENG_UNMAPPED = 2, /* cookie */
	EMU_ENG_QP_GONE = 3,  /* cookie: nothing refers to the removed QP any more */
	EMU_ENG_ASYNC = 4,    /* id = qp or cq number, code = enum emu_async_event */
	EMU_ENG_SIGBUS = 5,   /* id = aperture, offset = byte that faulted (latched: once an aperture and change of its file) */
	EMU_ENG_HELD = 6,     /* id = thread, code = enum emu_hold_point, cookie = key, offset = wr_id */
	EMU_ENG_FAULT = 7,    /* id = key, code = 1: a write, cookie = sequence of the key, offset = in the MR, bytes from there */
};

struct emu_engine_event {
	uint32_t kind, id, code, bytes;
	uint64_t cookie, offset;
};

int emu_engine_new(const struct emu_engine_config *config, struct emu_engine **out);
int emu_engine_start(struct emu_engine *e);
/* Ends the threads (held ones are released), unmaps everything. */
void emu_engine_free(struct emu_engine *e);
int emu_engine_eventfd(struct emu_engine *e);
/* Up to n events; QUIESCED, UNMAPPED, QP_GONE and FAULT are never lost, the others are counted in stats.events_lost when nobody
 * takes them. */
int emu_events_take(struct emu_engine *e, struct emu_engine_event *out, unsigned n);

/* One counter orders core and engine: the broker advances it at each change of phase, threads read it at each quantum's
 * ends. Returns the new value. */
uint64_t emu_epoch_advance(struct emu_engine *e);
uint64_t emu_epoch(struct emu_engine *e);

/* Log thread t's operations to this file (made, sized, mapped); -EBUSY after start. capacity in records. */
int emu_oplog_open(struct emu_engine *e, unsigned thread, const char *path, uint64_t capacity);
/* Ask every thread to flush its open SUM; done when the next quiesce is answered. */
int emu_oplog_flush(struct emu_engine *e);

/* ---- apertures: memory that DMA may touch */

enum emu_aperture_flags {
	EMU_AP_HOST = 1 << 0, /* a host file: its size is looked at before each quantum, since the last page's tail takes
	                       * stores without a signal */
	EMU_AP_SCRATCH = 1 << 1, /* one block more than `bytes`, behind them and in no file: translations may lead there, and what is
	                          * written there is nowhere. Its generation never changes; it goes and comes with the memory. */
};

/* Map `bytes` of fd (dup'ed). gens_fd >= 0: the table of block generations, one u32 a block of `block` bytes. The engine works
 * on its own copy, and the file follows each change, for whoever reads it and for the next start: should it be truncated
 * meanwhile, that is counted in stats.gens_lost and nothing else. Returns the aperture's number. */
int emu_aperture_add(struct emu_engine *e, int fd, uint64_t bytes, uint32_t block, int gens_fd, uint32_t flags);
/* The memory goes away (fd = -1: DMA finds it absent, writes vanish, reads give all ones) or another namespace
 * appears at the same addresses. The old mapping is given up after a grace period. */
int emu_aperture_swap(struct emu_engine *e, uint32_t aperture, int fd, int gens_fd);
/* No MR may refer to it any more (-EBUSY). */
int emu_aperture_drop(struct emu_engine *e, uint32_t aperture);
/* Ask the kernel to write this memory to swap: advice, the bytes stay what they are. -EINVAL: this kernel does not know it. */
int emu_aperture_page_out(struct emu_engine *e, uint32_t aperture);

/* The CPU's side: file operations and the allocator. -ENODEV: absent; -EFAULT: the file shrank (SIGBUS). */
int emu_cpu_read(struct emu_engine *e, uint32_t aperture, uint64_t offset, void *to, uint64_t bytes);
int emu_cpu_write(struct emu_engine *e, uint32_t aperture, uint64_t offset, const void *from, uint64_t bytes);
int emu_cpu_zero(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes);
/* From `from` of the source to `to` of the target, which may be the same aperture; the ranges do not overlap. */
int emu_cpu_copy(struct emu_engine *e, uint32_t source, uint64_t from, uint32_t target, uint64_t to, uint64_t bytes);
/* Whole blocks. allocate: generation to the next even number, then zero the block. release: to the next odd number. Both
 * leave a generation of the right parity as it is only at recovery (recover = 1). */
int emu_blocks_allocate(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes, int recover);
int emu_blocks_release(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes, int recover);
/* Allocated blocks that other files have from now on: the next even generation, two further; what they hold stays. */
int emu_blocks_share(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes);
/* The memory of these blocks has failed, for good: DMA finds it absent. Their generation is 0xffffffff from now on. */
int emu_blocks_fail(struct emu_engine *e, uint32_t aperture, uint64_t offset, uint64_t bytes);

/* ---- memory regions. A key is (index << 8 | generation); the core issues keys, the engine only stores them. */

enum emu_importer { /* CONTRACT: what the importer of this memory promises */
	EMU_IMP_SYNC_REVOCABLE = 0,
	EMU_IMP_DEFERRED_UNMAP = 1,
	EMU_IMP_DYNAMIC = 2,
	EMU_IMP_NON_REVOCABLE = 3,
};

enum emu_access { /* IBV_ACCESS_* */
	EMU_ACCESS_LOCAL_WRITE = 1 << 0,
	EMU_ACCESS_REMOTE_WRITE = 1 << 1,
	EMU_ACCESS_REMOTE_READ = 1 << 2,
	EMU_ACCESS_REMOTE_ATOMIC = 1 << 3,
};

enum emu_mr_state {
	EMU_MR_FREE = 0,
	EMU_MR_LIVE = 1,
	EMU_MR_FENCED = 2,
	EMU_MR_UNMAPPED = 3,
	EMU_MR_PARKED = 4, /* drained, or about to be; new work waits */
	EMU_MR_ABSENT = 5, /* and its translation is gone; the next access asks for another */
};

/* In place of an extent's offset, under the key of a dynamic importer. */
#define EMU_GONE UINT64_MAX           /* no memory: whoever waits for it fails; who comes later asks again */
#define EMU_VACANT (UINT64_MAX - 1)   /* not there yet: an access asks for it */

struct emu_extent {
	uint64_t offset, bytes; /* in the aperture */
};

struct emu_mr_desc {
	uint32_t key, pd, access, importer, aperture, n_extents;
	uint64_t iova, length;
	const struct emu_extent *extents; /* their bytes add up to `length` */
};

/* Block generations are noted here, at translation. -EEXIST: slot in use, -ENODEV, -EINVAL: extents wrong. */
int emu_mr_install(struct emu_engine *e, const struct emu_mr_desc *desc);
/* Operations begun and not completed under these keys (as local or remote key), now. */
int emu_mr_inflight(struct emu_engine *e, const uint32_t *keys, unsigned n);
/* State and counts; -ENOENT. */
int emu_mr_state(struct emu_engine *e, uint32_t key);
/* No new work starts under the keys; EMU_ENG_QUIESCED(cookie) when no byte will ever be moved under them again. Idempotent; keys
 * that are unknown are skipped; n = 0 is a plain grace period. */
int emu_quiesce(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie);
/* The same for keys of dynamic importers, but work that comes from now on waits (PARKED) in place of failing, and the key's
 * sequence grows by one. -EINVAL and no change when one of them is of another importer, unless `others`: then these are parked too. No
 * EMU_ENG_FAULT tells of who waits under them: whoever has parked them remaps, unmaps or quiesces them. */
int emu_invalidate(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie, int others);
/* Forget the translations; -EBUSY and no change unless all are FENCED or PARKED and quiesced (or without one already). A dynamic key
 * that was PARKED is ABSENT then, every other UNMAPPED. */
int emu_unmap(struct emu_engine *e, const uint32_t *keys, unsigned n, uint64_t cookie);
/* A new translation, generations noted now; whoever waits for it goes on, or fails where it says GONE.
 *
 * Dynamic: LIVE, PARKED or ABSENT -> LIVE. sequence is that of the fault which is answered: -ESTALE and no change when an
 * invalidation came in between; the faults that wait are then reported again. Other importers: PARKED, or FENCED and quiesced -> LIVE,
 * all extents present, sequence ignored: that the drain was answered before other memory comes is for the caller. -ENODEV, -EACCES, -EINVAL as for install; -ENOENT: unknown, or
 * unmapped; -EBUSY: it is fenced (dynamic), or it is not, or not yet quiesced (others). */
int emu_remap(struct emu_engine *e, uint32_t key, uint64_t sequence, uint32_t aperture, const struct emu_extent *extents,
	      uint32_t n_extents);
/* Invalidations so far; -ENOENT. */
int64_t emu_mr_sequence(struct emu_engine *e, uint32_t key);
/* Give the slot back: -EBUSY unless UNMAPPED, or ABSENT: nothing is there to unmap. */
int emu_mr_remove(struct emu_engine *e, uint32_t key);

/* ---- contexts, completion queues, queue pairs. Descriptors returned belong to the caller. */

/* Returns the context's slot. */
int emu_ctx_add(struct emu_engine *e, int *ctx_fd, int *bell_fd);
/* -EBUSY while it has QPs or CQs. */
int emu_ctx_remove(struct emu_engine *e, uint32_t ctx);

/* Returns the CQ number. depth is rounded up to a power of two, at most 65536. */
int emu_cq_add(struct emu_engine *e, uint32_t ctx, uint32_t depth, int *fd);
/* -EBUSY while a QP uses it. */
int emu_cq_remove(struct emu_engine *e, uint32_t cq);

struct emu_qp_desc {
	uint32_t ctx, pd, send_cq, recv_cq;
	uint32_t max_send_wr, max_recv_wr, max_send_sge, max_recv_sge; /* rounded up; the segment holds the real ones */
	uint32_t sq_sig_all;
	uint32_t type; /* 2 = RC */
};

/* Returns the QP number. */
int emu_qp_add(struct emu_engine *e, const struct emu_qp_desc *desc, int *fd);
/* Through emu_qp_step; -EINVAL and no change for an illegal step. */
int emu_qp_modify(struct emu_engine *e, uint32_t qp_num, const struct emu_qp_attr *attr);
int emu_qp_query(struct emu_engine *e, uint32_t qp_num, struct emu_qp_rules *out);
/* Nothing of it starts any more; EMU_ENG_QP_GONE(cookie) when nothing of it runs. Peers of it get no answer. */
int emu_qp_remove(struct emu_engine *e, uint32_t qp_num, uint64_t cookie);

/* ---- hold points: a thread stops there until released */

enum emu_hold_point {
	EMU_HOLD_NONE = 0,
	EMU_HOLD_OP_START = 1,      /* WQE taken, keys not yet looked at; outside a section */
	EMU_HOLD_QUANTUM_FIRST = 2, /* in the section, keys looked at, before the first byte */
	EMU_HOLD_QUANTUM_HALF = 3,  /* in the section, half of the bytes copied */
	EMU_HOLD_QUANTUM_LAST = 4,  /* in the section, after the last byte */
	EMU_HOLD_COMPLETION = 5,    /* before the CQE is written; outside a section */
	EMU_HOLD_QUANTUM_NEXT = 6,  /* before each quantum, keys not yet looked at; outside a section */
	EMU_HOLD_POINTS = 7,
};

/* Stop the next thread that comes to `point`, having skipped `skip` visits, with this key as local or remote key (0: any). One hold at
 * a point at a time (-EBUSY). EMU_ENG_HELD tells. */
int emu_hold_arm(struct emu_engine *e, uint32_t point, uint32_t key, uint32_t skip);
/* Disarm, and let go whoever is held there. */
int emu_hold_release(struct emu_engine *e, uint32_t point);
const char *emu_hold_name(uint32_t point); /* "op-start", "quantum-first", ... NULL past the last */

/* ---- figures */

struct emu_engine_stats {
	uint64_t ops, bytes, errors, quanta;
	uint64_t sleeps, bells, sections, events_lost;
	uint64_t mrs, qps, cqs, contexts, apertures;
	uint64_t gens_lost; /* changes of generations that a truncated file could not take */
	uint64_t log_lost;  /* quanta that a truncated operation log could not take */
	uint64_t faults;    /* reported */
	uint64_t parked;    /* operations that wait for memory now */
};

void emu_engine_stats(struct emu_engine *e, struct emu_engine_stats *out);

/* An anonymous memfd, sealed against resizing: a client's own memory. Returns the descriptor. */
int emu_memfd(const char *name, uint64_t bytes);

#endif
