/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared-memory format between a client and the engine, and the client's half of it.
 *
 * Every segment is a memfd made and sized by the broker, then sealed (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), so
 * that a client cannot truncate it under the engine. A client maps what it was handed; whatever it writes there is
 * hostile input: the engine copies an entry once, checks the copy and uses the copy. The geometry (depths, offsets)
 * is kept by the engine in private memory; the header's copy is for the client only and is never read back.
 *
 *   context page (one a context)     bell page (one an engine thread, mapped by all of its contexts)
 *   +-------------------------+      +--------------------------------+
 *   | header                  |      | header                         |
 *   | qp_summary, qp_bits[64] |      | sleeping, ctx_summary, ctx_bits|
 *   +-------------------------+      +--------------------------------+
 *
 *   QP segment                                              CQ segment
 *   +--------+--------------+--------------+------------+   +--------+---------------+
 *   | header | send ring    | receive ring | extra SGEs |   | header | completion ring|
 *   +--------+--------------+--------------+------------+   +--------+---------------+
 *
 * Way of a doorbell. A client publishes sq_prod, handshakes, and reads need_bell. Zero: the engine is looking at this
 * ring anyway and will see it. One: set the QP's bit in the context page, then the context's bit in the bell page,
 * handshake, and wake the engine's futex if `sleeping` says so. The engine finds work by words of bits, so idle queue
 * pairs cost nothing. Bits are hints: a client that clears another's bit in the bell page only delays it until the
 * engine's rescan (EMU_RESCAN_MS, also before it sleeps); a bit too many costs one look.
 *
 * Indexes are free-running u32 counters; entry i lives at slot i % depth, depth is a power of two. Multi-byte fields
 * are in host order: both parties run on one machine.
 *
 * If you change a struct here, raise EMU_RING_VERSION. Python's view is made from this very file (csrc/cdef.py).
 * What survives a crash: nothing is meant to. A ring dies with its context.
 */
#ifndef EMU_RING_H
#define EMU_RING_H

#include <stddef.h>
#include <stdint.h>

#define EMU_RING_VERSION 1u
#define EMU_MAGIC_CTX 0x43554d45u  /* "EMUC" */
#define EMU_MAGIC_BELL 0x42554d45u /* "EMUB" */
#define EMU_MAGIC_QP 0x51554d45u   /* "EMUQ" */
#define EMU_MAGIC_CQ 0x4b554d45u   /* "EMUK" */
#define EMU_CTX_QPS 4096u          /* queue pairs a context */
#define EMU_BELL_CTXS 4096u        /* contexts an engine thread */
#define EMU_MAX_SGE 16u
#define EMU_RESCAN_MS 2u
#define EMU_SEG_HEADER 4096u       /* rings start on the second page */

/* Opcodes of a work request, IBV_WR_* of the verbs specification. */
enum emu_wr_opcode {
	EMU_WR_RDMA_WRITE = 0,
	EMU_WR_RDMA_WRITE_WITH_IMM = 1,
	EMU_WR_SEND = 2,
	EMU_WR_SEND_WITH_IMM = 3,
	EMU_WR_RDMA_READ = 4,
	EMU_WR_ATOMIC_CMP_AND_SWP = 5,
	EMU_WR_ATOMIC_FETCH_AND_ADD = 6,
};

/* IBV_SEND_* */
enum emu_send_flags {
	EMU_SEND_FENCE = 1 << 0,
	EMU_SEND_SIGNALED = 1 << 1,
	EMU_SEND_SOLICITED = 1 << 2,
	EMU_SEND_INLINE = 1 << 3,
};

/* IBV_WC_* */
enum emu_wc_status {
	EMU_WC_SUCCESS = 0,
	EMU_WC_LOC_LEN_ERR = 1,
	EMU_WC_LOC_QP_OP_ERR = 2,
	EMU_WC_LOC_EEC_OP_ERR = 3,
	EMU_WC_LOC_PROT_ERR = 4,
	EMU_WC_WR_FLUSH_ERR = 5,
	EMU_WC_MW_BIND_ERR = 6,
	EMU_WC_BAD_RESP_ERR = 7,
	EMU_WC_LOC_ACCESS_ERR = 8,
	EMU_WC_REM_INV_REQ_ERR = 9,
	EMU_WC_REM_ACCESS_ERR = 10,
	EMU_WC_REM_OP_ERR = 11,
	EMU_WC_RETRY_EXC_ERR = 12,
	EMU_WC_RNR_RETRY_EXC_ERR = 13,
	EMU_WC_LOC_RDD_VIOL_ERR = 14,
	EMU_WC_REM_INV_RD_REQ_ERR = 15,
	EMU_WC_REM_ABORT_ERR = 16,
	EMU_WC_INV_EECN_ERR = 17,
	EMU_WC_INV_EEC_STATE_ERR = 18,
	EMU_WC_FATAL_ERR = 19,
	EMU_WC_RESP_TIMEOUT_ERR = 20,
	EMU_WC_GENERAL_ERR = 21,
};

enum emu_wc_opcode {
	EMU_WC_SEND = 0,
	EMU_WC_RDMA_WRITE = 1,
	EMU_WC_RDMA_READ = 2,
	EMU_WC_COMP_SWAP = 3,
	EMU_WC_FETCH_ADD = 4,
	EMU_WC_RECV = 128,
	EMU_WC_RECV_RDMA_WITH_IMM = 129,
};

enum emu_wc_flags {
	EMU_WC_GRH = 1 << 0,
	EMU_WC_WITH_IMM = 1 << 1,
};

/* A work request, send or receive. Written by the client, read once by the engine. */
struct emu_wqe {
	uint64_t wr_id;       /* returned untouched in the completion */
	uint8_t opcode;       /* enum emu_wr_opcode; unused in a receive */
	uint8_t flags;        /* enum emu_send_flags */
	uint16_t num_sge;     /* 0..max_sge of the queue; entry 0 below, the others in the extra SGE table */
	uint32_t imm_data;
	uint64_t remote_addr; /* RDMA and atomics */
	uint32_t rkey;
	uint32_t length;      /* of SGE 0, bytes */
	uint64_t addr;        /* of SGE 0, in the MR's iova space */
	uint32_t lkey;        /* of SGE 0 */
	uint32_t reserved;    /* 0 */
	uint64_t compare_add; /* atomics */
	uint64_t swap;
};

/* A further scatter-gather element; slot (ring index % depth) * (max_sge - 1) + (i - 1). */
struct emu_sge {
	uint64_t addr;
	uint32_t length;
	uint32_t lkey;
};

/* A completion. Written by the engine, `seq` last (release); read by the client, `seq` first (acquire). One cache
 * line travels. seq = 1 + completion index / depth, so that a zeroed ring holds nothing. */
struct emu_cqe {
	uint64_t wr_id;
	uint32_t status;   /* enum emu_wc_status; unless SUCCESS only wr_id, status, qp_num, vendor_err hold */
	uint32_t opcode;   /* enum emu_wc_opcode */
	uint32_t byte_len;
	uint32_t imm_data;
	uint32_t qp_num;
	uint32_t src_qp;
	uint32_t wc_flags;
	uint32_t vendor_err;
	uint32_t wq_head;  /* the work queue's entries below this index are free again (covers unsignaled ones) */
	uint32_t is_recv;  /* which work queue of qp_num wq_head speaks of */
	uint32_t reserved[3];
	uint32_t seq;
};

struct emu_seg_header {
	uint32_t magic;
	uint32_t version;
	uint32_t bytes; /* of the whole segment */
	uint32_t id;    /* qp number, cq number, context slot, engine thread */
};

struct emu_ctx_page {
	struct emu_seg_header head;
	uint32_t pad0[12];
	uint64_t qp_summary;                /* bit w: qp_bits[w] has bits. Client sets, engine swaps with 0 */
	uint64_t pad1[7];
	uint64_t qp_bits[EMU_CTX_QPS / 64]; /* bit s: QP slot s of this context has work */
};

struct emu_bell_page {
	struct emu_seg_header head;
	uint32_t pad0[12];
	uint32_t sleeping; /* futex. Engine: 1 before it sleeps, 0 after. Client: swaps with 0 and wakes when it was 1 */
	uint32_t pad1[15];
	uint64_t ctx_summary; /* bit w: ctx_bits[w] has bits */
	uint64_t pad2[7];
	uint64_t ctx_bits[EMU_BELL_CTXS / 64];
};

struct emu_qp_seg {
	struct emu_seg_header head;
	uint32_t slot;       /* bit of this QP in the context page */
	uint32_t sq_depth, rq_depth;
	uint32_t sq_max_sge, rq_max_sge;
	uint32_t sq_off, rq_off, sq_sge_off, rq_sge_off; /* bytes from the segment's start */
	uint32_t pad0[3];
	/* client -> engine */
	uint32_t sq_prod;    /* send entries published */
	uint32_t pad1[15];
	uint32_t rq_prod;    /* receive entries published */
	uint32_t pad2[15];
	/* engine -> client */
	uint32_t need_bell;  /* 1: ring after publishing */
	uint32_t state;      /* enum of QP states; a hint for the client's post_send check */
	uint32_t pad3[14];
};

struct emu_cq_seg {
	struct emu_seg_header head;
	uint32_t depth;
	uint32_t off; /* of the completion ring */
	uint32_t pad0[10];
	/* client -> engine */
	uint32_t cons;     /* completions taken; the engine sees an overflow by it */
	uint32_t waiters;  /* threads of the client that sleep on `prod`, or are about to */
	uint32_t pad1[14];
	/* engine -> client */
	uint32_t prod;     /* futex; completions written */
	uint32_t overrun;  /* 1: CQ is in error, entries were lost */
	uint32_t pad2[14];
};

_Static_assert(sizeof(struct emu_wqe) == 64, "a work request is one cache line");
_Static_assert(sizeof(struct emu_cqe) == 64, "a completion is one cache line");
_Static_assert(sizeof(struct emu_sge) == 16, "format");
_Static_assert(offsetof(struct emu_cqe, seq) == 60, "the last word hands over");
_Static_assert(offsetof(struct emu_ctx_page, qp_summary) == 64, "format");
_Static_assert(offsetof(struct emu_bell_page, sleeping) == 64, "format");
_Static_assert(offsetof(struct emu_bell_page, ctx_summary) == 128, "format");
_Static_assert(offsetof(struct emu_qp_seg, sq_prod) == 64, "format");
_Static_assert(offsetof(struct emu_qp_seg, rq_prod) == 128, "format");
_Static_assert(offsetof(struct emu_qp_seg, need_bell) == 192, "format");
_Static_assert(offsetof(struct emu_cq_seg, cons) == 64, "format");
_Static_assert(offsetof(struct emu_cq_seg, prod) == 128, "format");
_Static_assert(sizeof(struct emu_ctx_page) <= EMU_SEG_HEADER, "one page");
_Static_assert(sizeof(struct emu_bell_page) <= EMU_SEG_HEADER, "one page");

/* ---------------------------------------------------------------- the client's half (csrc/ring.c)
 *
 * A library of its own: no Python, no libzmq, no thread, no signal handler. All functions return 0 or a count, or
 * -errno. One thread at a time per object, as verbs programs that lock do; posting and polling different objects
 * from different threads is free.
 */

struct emu_ring_ctx; /* the mapped context page and bell page */
struct emu_ring_qp;
struct emu_ring_cq;

/* Map what the door handed over; the descriptors may be closed afterwards. -EPROTO: wrong magic or version,
 * -EINVAL: geometry that does not fit the segment. */
int emu_ring_ctx_open(int ctx_fd, int bell_fd, struct emu_ring_ctx **out);
void emu_ring_ctx_close(struct emu_ring_ctx *ctx);
int emu_ring_qp_open(struct emu_ring_ctx *ctx, int qp_fd, struct emu_ring_qp **out);
void emu_ring_qp_close(struct emu_ring_qp *qp);
int emu_ring_cq_open(int cq_fd, struct emu_ring_cq **out);
void emu_ring_cq_close(struct emu_ring_cq *cq);

/* Put n work requests into the send ring and ring once. wqe->length, addr, lkey hold SGE 0; `extra` holds the others
 * of all requests in order (NULL when every num_sge <= 1). Returns 0; -ENOMEM: ring full, -EINVAL: too many SGEs or a state
 * in which posting fails (RESET, INIT, RTR); *bad is the index of the first that was not posted. */
int emu_ring_post_send(struct emu_ring_qp *qp, const struct emu_wqe *wqe, unsigned n, const struct emu_sge *extra,
		       unsigned *bad);
/* The same for the receive ring; no bell: a receive is looked at when a message arrives (and on a flush: the bell is rung
 * when the hinted state is ERR). */
int emu_ring_post_recv(struct emu_ring_qp *qp, const struct emu_wqe *wqe, unsigned n, const struct emu_sge *extra,
		       unsigned *bad);
/* The broker moved this QP to RESET: both rings are empty again. */
void emu_ring_qp_reset(struct emu_ring_qp *qp);
/* A completion of this QP was polled: entries below head are free. is_recv picks the queue. */
void emu_ring_qp_release(struct emu_ring_qp *qp, int is_recv, uint32_t head);

/* A QP went to RESET or is gone: drop its completions that were not polled. Returns how many. */
int emu_ring_cq_purge(struct emu_ring_cq *cq, uint32_t qp_num);

/* Take up to n completions. Returns the count (0: none). */
int emu_ring_poll(struct emu_ring_cq *cq, struct emu_cqe *out, unsigned n);
/* Sleep until there is a completion or timeout_ns has passed (< 0: for ever): spin a little, then futex. 1: there is
 * one, 0: time out, -EINTR: a signal came. */
int emu_ring_wait(struct emu_ring_cq *cq, int64_t timeout_ns);

/* Address space for an MR. reserve: PROT_NONE of `bytes`. map: place n extents (file offset, bytes; page multiples) of
 * fd over it one behind the other. unreserve: give it back. */
int emu_ring_reserve(size_t bytes, void **addr);
int emu_ring_map(void *addr, size_t bytes, int fd, const uint64_t *offset_bytes_pairs, unsigned n, int writable);
int emu_ring_unreserve(void *addr, size_t bytes);

#endif
