/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine's rooms share. One room a file:
 *
 *   engine.c    making and ending, epoch, figures        mr.c       keys and translations
 *   thread.c    a thread's loop: bells, turns, sleep     aperture.c memory that DMA may touch, and the CPU's side of it
 *   grace.c     sections, grace periods, quiesce         copy.c     moving bytes under a SIGBUS guard
 *   queues.c    contexts, CQs, QPs: the books            oplog.c    the operation log
 *   qp.c        a queue pair's state, flush, completions hold.c     hold points
 *   op.c        one work request, from WQE to CQE        events.c   what the control thread is told
 *   respond.c   its other half, at the responder          park.c     operations that wait for memory
 *
 * Who may touch what: fields marked [control] belong to the control thread, [owner] to the QP's engine thread, [lock] are
 * under the struct's own lock, [section] are read by any engine thread inside a section and freed after a grace period.
 * Locks nest only so: qp -> cq -> events, qp -> parks -> kicks, parks -> events, graces -> events. No lock is held at a hold point or over a copy.
 */
#ifndef EMU_ENGINE_INTERNAL_H
#define EMU_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdint.h>

#include <emu/barrier.h>
#include <emu/engine.h>

#define MAX_THREADS 8u
#define MAX_APERTURES 65536u
#define MAX_KEYS (1u << 24)
#define MAX_QPS 65536u
#define MAX_CQS 65536u
#define MAX_CTXS EMU_BELL_CTXS
#define MAX_DEPTH 65536u
#define FIRST_QP 16u /* 0 and 1 are special on every fabric */
#define LOSSY_EVENTS 1024u
#define MAX_MESSAGE (1ull << 31)
#define MAX_REFS (2 * EMU_MAX_SGE + 1)

/* ---- events.c */

enum note_kind { NOTE_ASKED, NOTE_POOLED, NOTE_KEPT }; /* whose memory it is: events_take's, the pool's, its owner's */

struct note {
	struct note *next;
	struct emu_engine_event event;
	enum note_kind kind;
	int queued; /* [lock] of a kept one */
};

struct events {
	pthread_mutex_t lock;
	struct note *first, **last; /* [lock] */
	struct note *free;          /* [lock] notes for events that may be lost */
	struct note *pool;
	int fd;
	uint64_t lost;
};

int events_open(struct events *q);
void events_close(struct events *q);
/* Never lost: the note was allocated by whoever asked; events_take frees it. */
void events_put(struct events *q, struct note *note);
void events_tell(struct events *q, const struct emu_engine_event *event);
/* Never lost either: a note that its owner keeps. Once more while it is still there: it says the new thing. */
void events_keep(struct events *q, struct note *note, const struct emu_engine_event *event);
void events_withdraw(struct events *q, struct note *note);
int events_take(struct events *q, struct emu_engine_event *out, unsigned n);

/* ---- grace.c */

struct grace {
	struct grace *next;
	uint64_t want[MAX_THREADS]; /* [lock of graces] the odd section number that must end, or 0 */
	unsigned waiting;
	uint64_t ticket;
	struct note *note;                                /* the answer, or NULL */
	void (*done)(struct emu_engine *e, void *object); /* frees what nobody can see any more, or NULL */
	void *object;
};

struct graces {
	pthread_mutex_t lock;
	struct grace *first, **last; /* [lock] in order of their tickets, in which they also end */
	uint64_t issued, ended;
};

/* kind 0: no event. NULL when there is no memory. */
struct grace *grace_new(uint32_t kind, uint64_t cookie, void (*done)(struct emu_engine *, void *), void *object);
void grace_drop(struct grace *g);
/* Precondition: what the period is about has been unpublished. Any thread; a section of one's own counts too. Returns the ticket. */
uint64_t grace_start(struct emu_engine *e, struct grace *g);
int grace_ended(struct emu_engine *e, uint64_t ticket);

/* ---- oplog.c */

struct oplog {
	struct emu_oplog_header *header;
	struct emu_oplog_record *records;
	uint64_t capacity, written;
	size_t bytes;
	int broken, mute; /* the file is gone in part; its header too */
	uint64_t lost;    /* records that were not noted, since */
};

struct log_state { /* [owner] of a queue pair */
	struct emu_oplog_record *sum; /* open SUM, updated in place, or NULL */
	uint64_t sum_seq;
	uint32_t flags;  /* of the quantum before */
	uint32_t closes; /* of the thread, when the SUM was opened */
};

/* ---- threads */

struct emu_qp;

struct emu_thread {
	uint64_t section; /* odd: inside. Writer: the thread; reader: grace_start */
	uint32_t mark;    /* a grace period wants to be looked at */
	uint32_t asleep;
	struct emu_engine *e;
	unsigned number;
	pthread_t id;
	int running;
	struct emu_bell_page *bell;
	int bell_fd;
	uint32_t contexts; /* [control] */
	uint32_t closes;   /* bumped to end all open SUMs */

	pthread_mutex_t kick_lock;
	struct emu_qp *kicks; /* [kick_lock] */
	uint32_t kicked;

	/* [owner] */
	struct emu_qp *first, *last; /* queue pairs that are polled directly */
	unsigned polled;
	struct emu_qp *timers;
	uint64_t ops, last_rescan, spin_limit, switches;
	uint32_t loops, quiet_sleeps;
	struct oplog log;
	/* figures, read by anybody */
	uint64_t n_ops, n_bytes, n_errors, n_quanta, n_sleeps, n_bells, n_faults;
};

/* ---- apertures */

struct mapping { /* [section] */
	char *base; /* NULL: absent */
	uint64_t bytes;
	uint32_t *gens;       /* or NULL; the engine's own memory, which nobody can take away */
	uint32_t *gens_file;  /* [control] the same in the file, which follows */
	uint64_t gens_bytes;
	int fd;
	int readonly;
	uint32_t instance; /* grows when another namespace appears */
	uint32_t failed;   /* the memory of some block has: its generation is FAILED */
};

#define FAILED UINT32_MAX /* odd: nobody's; no other generation is ever that */

struct emu_aperture {
	uint32_t number, block, flags;
	uint64_t bytes, scratch; /* in the file, and behind it */
	struct mapping *map;
	uint32_t instances; /* [control] */
	uint32_t mrs;       /* [control] */
	uint64_t latched;   /* size and time of change of the file at the last SIGBUS event, in one word; 0: none since it grew */
};

/* ---- memory regions */

struct extent {
	uint64_t offset, bytes; /* in the aperture */
	uint64_t start;         /* bytes of the extents before it */
	uint64_t first_gen;     /* index in gens of its first block */
};

struct translation { /* [section] */
	uint32_t n;
	uint32_t instance;
	struct emu_aperture *aperture;
	uint32_t *gens; /* at registration, one a block, extent by extent */
	struct extent extents[];
};

struct emu_mr { /* [section] */
	uint32_t key, pd, access, importer;
	uint64_t iova, length, serial;
	struct emu_aperture *aperture; /* [control] that of its translation, or of its last one */
	struct translation *translation;
	uint32_t state;
	uint32_t inflight;
	uint64_t ticket;   /* [control] of the grace period that fenced or parked it */
	uint64_t sequence; /* invalidations. Writer: control, before the state */
};

/* One contiguous piece of memory, as a quantum sees it. */
struct place {
	struct emu_mr *mr;
	struct emu_aperture *aperture;
	struct mapping *map;
	const struct translation *translation;
	const struct extent *extent;
	uint64_t offset; /* in the aperture */
	uint64_t bytes;  /* contiguous from there */
	int gone;        /* its memory is not there: none of the device is, or this block's has failed */
};

enum whereabouts { HERE = 0, VACANT = 1, GONE = 2 }; /* memory is there, has to be asked for, was said to be gone */

/* In a section. HERE, VACANT (of a dynamic importer: no translation now), or -EACCES: unknown, other PD, right missing, out of
 * range, revoked. */
int mr_check(struct emu_engine *e, uint32_t key, uint32_t pd, uint64_t addr, uint64_t bytes, uint32_t rights,
	     struct emu_mr **out);
/* In a section, the range checked and HERE, bytes > 0. HERE, or what else the byte at addr is. */
enum whereabouts mr_place(const struct emu_mr *mr, uint64_t addr, struct place *out);
/* In a section. The same looked at anew; HERE also for a key that has no access any more, which whoever looks at it finds out. */
enum whereabouts mr_look(const struct emu_mr *mr, uint64_t addr);

/* ---- queues */

struct emu_ctx {
	uint32_t slot;
	struct emu_thread *thread;
	struct emu_ctx_page *page;
	struct emu_qp *qps[EMU_CTX_QPS]; /* [section] */
	uint64_t used[EMU_CTX_QPS / 64]; /* slots that must not be given out: cleared when the QP is gone */
	uint32_t queues;
};

struct emu_cq {
	uint32_t number, depth, order;
	struct emu_ctx *ctx;
	struct emu_cq_seg *seg;
	size_t bytes;
	struct emu_cqe *ring;
	pthread_mutex_t lock;
	uint32_t prod;  /* [lock] */
	uint32_t error; /* entries were lost */
	uint32_t users;
};

struct wq {
	struct emu_wqe *ring;
	struct emu_sge *extra;
	uint32_t *shared_prod;
	uint32_t depth, max_sge;
	uint32_t cons; /* [lock of the QP] */
	uint32_t seen; /* [owner] producer index at the last look */
	int broken;    /* [lock of the QP] the producer index jumped */
};

struct ref {
	uint32_t key;
	uint64_t serial;
};

enum op_phase { OP_NONE, OP_BEGIN, OP_MOVING, OP_MOVED, OP_WAITING, OP_PARKED };

/* The head work request of a send queue while it is carried out. [owner] */
struct op {
	enum op_phase phase;
	uint32_t gen;      /* of the QP when it was taken: differs = forget it */
	uint32_t peer_num, peer_gen, peer_min_rnr;
	int claimed;       /* the peer's head receive WQE is ours */
	uint64_t number, epoch, time, fresh_time;
	uint64_t total, done;
	struct emu_wqe wqe;
	uint32_t n_sge, n_rsge, n_refs;
	struct emu_sge sge[EMU_MAX_SGE], rsge[EMU_MAX_SGE];
	uint64_t recv_wr_id;
	struct ref refs[MAX_REFS];
};

/* Where an operation waits for memory. [owner], the links under the lock of parks */
struct parking {
	struct emu_qp *prev, *next;
	int linked;
	uint32_t key;
	uint64_t serial, done, at;  /* of the key, of the message, and in the key: what was asked for */
	uint64_t sequence;         /* of the key, when it was */
	int gone;                  /* [lock of parks] the answer: there is nothing */
	struct note note;
};

struct emu_qp { /* [section] */
	uint32_t num, slot, pd, sig_all;
	struct emu_ctx *ctx;
	struct emu_thread *thread;
	struct emu_cq *send_cq, *recv_cq;
	struct emu_qp_seg *seg;
	size_t bytes;
	struct wq sq, rq;

	pthread_mutex_t lock;
	struct emu_qp_rules rules; /* [lock] */
	uint32_t gen;              /* written under lock; grows when all that is under way becomes void */
	uint64_t inbound;          /* [lock] number of the operation that has claimed the head receive WQE, or 0 */

	struct grace *goodbye;      /* [control] until removed is set, then [owner] */
	struct emu_qp *kick_next;   /* [kick_lock of the thread] */
	int kicked, removed, dead; /* [kick_lock of the thread]; dead: its thread has seen it removed, and links it no more */

	/* [owner] */
	struct emu_qp *prev, *next; /* polled list */
	int polled, attention;
	struct emu_qp *timer_next;
	uint64_t deadline;
	int armed, due;
	struct op op;
	struct log_state log;
	struct parking parking;
};

/* ---- holds */

struct hold {
	uint32_t armed, held, key, skip;
	uint64_t releases;
};

/* ---- operations that wait for memory */

struct parks {
	pthread_mutex_t lock;
	struct emu_qp *first; /* [lock] */
	uint64_t count;       /* [lock] */
};

/* ---- all of it */

struct emu_engine {
	struct emu_engine_config config;
	int started;
	uint32_t stop;
	uint64_t epoch;
	unsigned n_threads, cores;
	struct emu_thread threads[MAX_THREADS];
	struct events events;
	struct graces graces;
	struct parks parks;

	pthread_mutex_t hold_lock;
	pthread_cond_t hold_change;
	struct hold holds[EMU_HOLD_POINTS]; /* [hold_lock] */
	uint32_t holds_armed;               /* bit a point, a hint */

	/* tables of pointers [section], reserved address space, touched only where used */
	struct emu_mr **mrs;
	struct emu_qp **qps;
	struct emu_cq **cqs; /* [control] */
	struct emu_ctx **ctxs;
	struct emu_aperture **apertures;
	uint8_t *qp_generation; /* [control] */
	uint32_t next_qp, next_cq, next_ctx, next_aperture; /* [control] where to look for a free index */
	uint64_t serial;                                    /* [control] */
	uint64_t n_mrs, n_qps, n_cqs, n_ctxs, n_apertures;
	uint64_t gens_lost; /* [control] */
};

/* ---- grace.c: sections. Inlined: every quantum goes through them. */

void grace_look(struct emu_thread *t);

/* Other party: grace_start, which unpublishes, handshakes and reads `section`. Either it sees us inside, or we see what it did. */
static inline void section_enter(struct emu_thread *t)
{
	emu_publish(&t->section, t->section + 1);
	emu_handshake_at(EMU_AT_SECTION_ENTER);
}

/* No handshake here: should the mark be missed, the thread looks again in its loop, and before it stops at a hold point. */
static inline void section_leave(struct emu_thread *t)
{
	emu_publish(&t->section, t->section + 1);
	if (emu_peek(&t->mark))
		grace_look(t);
}

static inline struct emu_qp *qp_find(struct emu_engine *e, uint32_t num)
{
	struct emu_qp *qp = emu_observe(&e->qps[num % MAX_QPS]);

	return qp && qp->num == num ? qp : NULL;
}

static inline struct emu_mr *mr_find(struct emu_engine *e, uint32_t key)
{
	struct emu_mr *mr = emu_observe(&e->mrs[key >> 8]);

	return mr && mr->key == key ? mr : NULL;
}

/* ---- engine.c */

uint64_t now_ns(void);
void figures_add(uint64_t *counter, uint64_t n); /* one writer */

/* ---- thread.c */

void *thread_main(void *thread);
/* Make the QP's thread look at it. Any thread, with or without the QP's lock. */
void thread_kick(struct emu_qp *qp);
/* [control] Make the QP's thread retire it. Precondition: unpublished, with its goodbye. Touch it no more. */
void thread_remove(struct emu_qp *qp);
void thread_wake(struct emu_thread *t);
/* [owner] Report `due` when `ns` (unscaled) have passed; 0: never. */
void timer_arm(struct emu_qp *qp, uint64_t ns);

/* ---- qp.c */

void qp_free(struct emu_engine *e, void *qp);
/* Precondition: the QP's lock. Carries out what is common to all steps: events, void of what is under way, state hint. */
void qp_apply(struct emu_qp *qp, const struct emu_rule_out *out);
int qp_apply_step(struct emu_qp *qp, const struct emu_rule_in *in, struct emu_rule_out *out);
/* Precondition: the QP's lock. */
void qp_complete_send(struct emu_qp *qp, uint32_t status);
void qp_complete_recv(struct emu_qp *qp, const struct emu_cqe *cqe);
/* Entries published and not consumed; -1: garbage. Precondition: the QP's lock. */
int64_t wq_pending(struct wq *q);
void wq_copy(const struct wq *q, uint32_t index, struct emu_wqe *wqe, struct emu_sge *sge, uint32_t *n);
/* [owner] Carry out a bounded piece of what this QP has to do. 1: there is more. */
int qp_turn(struct emu_qp *qp);

/* ---- op.c */

/* [owner] Precondition: QP's lock; the head may be executed. */
void op_take(struct emu_qp *qp);
/* [owner] One step of the operation; *left is the turn's budget in bytes. 0: it waits for a timer. */
int op_push(struct emu_qp *qp, int64_t *left);
/* [owner] Forget it: its QP has moved on. */
void op_forget(struct emu_qp *qp);

/* ---- respond.c. All in a section, no lock held. */

/* The peer, if it answers this QP and has not been restarted since the operation began. */
struct emu_qp *respond_peer(struct emu_qp *qp);
/* A request arrives: checks, claims the receive WQE. Returns enum emu_outcome, as the requester sees it. */
uint32_t respond_begin(struct emu_qp *qp);
/* The responder's memory refused in mid-operation. */
uint32_t respond_refuse(struct emu_qp *qp, struct emu_qp *peer, uint32_t outcome);
/* All bytes are there: the receive completes. */
uint32_t respond_end(struct emu_qp *qp);
/* Give the claimed receive WQE back. */
void respond_release(struct emu_qp *qp);
int op_uses_recv(uint32_t opcode);

/* ---- park.c */

struct miss {
	uint64_t addr;
	uint32_t bytes; /* wanted from there */
	int write;
};

enum parked { PARK_LOOK_AGAIN, PARK_WAITS, PARK_FAILED };

/* [owner] In a section. Wait for memory under this key, unless something has changed (LOOK_AGAIN), or the answer is here and there
 * is none (FAILED). */
enum parked park(struct emu_qp *qp, struct emu_mr *mr, const struct miss *miss);
/* [owner] It waits no more. */
void park_leave(struct emu_qp *qp);
/* [control] A remap of this key was accepted, or refused, or the key is on its way out. Precondition: published. */
void park_wake(struct emu_engine *e, struct emu_mr *mr, int accepted);
/* Precondition: the QP's lock, or it is unpublished; its gen has grown. Whoever waits in an operation with it looks again. */
void park_wake_peers(struct emu_engine *e, uint32_t qp_num);

/* ---- copy.c */

int guard_install(void);
void guard_remove(void);
/* touch(argument), which may touch [start, start + n). 0, or -EFAULT: a part of that is gone, and touch ended in the middle. */
int guarded_call(const void *start, uint64_t n, void (*touch)(void *), void *argument);
/* Move n bytes, the last 8 of them last (programs poll the last byte). from NULL: fill with `fill`. 0, or -EFAULT and
 * the address in *fault. */
int guarded_copy(void *to, const void *from, uint64_t n, int fill, const void **fault);

/* ---- aperture.c */

void mapping_free(struct emu_engine *e, void *mapping);
/* A host file must reach up to `end`; else the event is raised (once a change of the file) and -EFAULT returned. */
int aperture_reaches(struct emu_engine *e, struct emu_aperture *a, const struct mapping *m, uint64_t end);
/* A touch of this mapping met SIGBUS at `offset`: the same event, the same latch. */
void aperture_faulted(struct emu_engine *e, struct emu_aperture *a, const struct mapping *m, uint64_t offset);

void aperture_discard(struct emu_engine *e, void *aperture);

/* ---- mr.c */

void mr_discard(struct emu_engine *e, void *mr);

/* ---- oplog.c */

void oplog_close(struct oplog *log);
void oplog_add(struct emu_thread *t, struct log_state *state, struct emu_oplog_record *record);

/* ---- hold.c */

void hold_stop(struct emu_thread *t, uint32_t point, const uint32_t *keys, unsigned n, uint64_t wr_id);
void hold_release_all(struct emu_engine *e);

static inline int hold_wanted(const struct emu_engine *e, uint32_t point)
{
	return __builtin_expect(emu_peek(&e->holds_armed) >> point & 1, 0);
}

/* ---- queues.c */

int sealed_memfd(const char *name, uint64_t bytes);
void ctx_free(struct emu_engine *e, void *ctx);
void cq_free(struct emu_cq *cq);

#endif
