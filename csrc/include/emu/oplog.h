/* SPDX-License-Identifier: Apache-2.0
 *
 * The operation log: what the engine's threads did to memory, written by C into a mmap'd file per thread, so that it
 * costs no Python and survives a kill -9 of the broker. Readers: emu/history/oplog.py, and whoever wants to recount.
 *
 *   file = one header (EMU_OPLOG_HEADER bytes), then `capacity` records of 192 bytes, used as a ring.
 *
 * A quantum (a copy of at most `quantum` bytes that looks at the keys' state and the block generations before its first
 * and after its last byte) is written out as a record of its own (kind QUANTUM) when it is telling: the epoch moved while
 * it ran, a flag below is set and differs from the quantum before it, or it failed. All others are summed up in a record
 * of kind SUM per (qp, lkey, rkey, opcode, flags, epoch). A SUM is flushed when its group ends, and before any
 * record that must come after it. So the log is complete in bytes, and exact in time wherever hands changed.
 *
 * Writer: the thread. `written` is published after the record. The ring is bounded: a reader that finds
 * written > capacity knows that written - capacity of the oldest records are gone; the checker says "unknown" there. A file that
 * was truncated behind the engine takes no more records, wherever it is extended again.
 */
#ifndef EMU_OPLOG_H
#define EMU_OPLOG_H

#include <stdint.h>

#define EMU_OPLOG_MAGIC 0x474f4c4f554d45ull /* "EMUOLOG" */
#define EMU_OPLOG_VERSION 1u
#define EMU_OPLOG_HEADER 4096u

enum emu_oplog_kind {
	EMU_LOG_QUANTUM = 1,
	EMU_LOG_SUM = 2,
};

/* What was seen in the blocks of a side; SRC is the side that was read, DST the side that was written. A block's generation
 * is even while it is allocated and odd while it is free; it grows by one at each change. FREED: translated at g, now
 * g + 1. FOREIGN: now g + 2 or later: memory that had changed hands. ABSENT: the aperture was not there, or the
 * memory of these blocks has failed: a quantum that finds it so meets nothing else, and tells their generation as it was. */
enum emu_oplog_flags {
	EMU_LOG_SRC_FREED = 1 << 0,
	EMU_LOG_SRC_FOREIGN = 1 << 1,
	EMU_LOG_SRC_ABSENT = 1 << 2,
	EMU_LOG_DST_FREED = 1 << 4,
	EMU_LOG_DST_FOREIGN = 1 << 5,
	EMU_LOG_DST_ABSENT = 1 << 6,
	EMU_LOG_SIGBUS = 1 << 8,       /* a host file shrank under the copy; `bytes` counts what was asked for */
	EMU_LOG_EPOCH_MOVED = 1 << 9,
	EMU_LOG_CUT = 1 << 10,         /* refused: the key's state forbade it; no byte moved, bytes = 0 */
};

struct emu_oplog_header {
	uint64_t magic;
	uint32_t version;
	uint32_t record_bytes; /* 192 */
	uint64_t capacity;     /* records */
	uint64_t written;      /* records ever written */
	uint32_t thread;
	uint32_t quantum;      /* bytes */
	uint64_t lost;         /* quanta not noted since the file was truncated under the engine; 0 in a whole log */
};

struct emu_oplog_record {
	uint32_t kind;
	uint32_t flags;
	uint64_t seq;           /* index of this record, from 0 */
	uint64_t epoch_first;   /* before the first byte */
	uint64_t epoch_last;    /* after the last byte */
	uint64_t time_first;    /* CLOCK_MONOTONIC, ns; of a SUM the first and the last member's */
	uint64_t time_last;
	uint32_t qp_num;        /* the requester's */
	uint32_t peer_qp_num;
	uint32_t opcode;        /* enum emu_wr_opcode */
	uint32_t quanta;        /* 1, or the members of a SUM */
	uint64_t wr_id;         /* first member's */
	uint64_t op;            /* the engine's number of the operation that the (first) quantum belongs to */
	uint64_t op_epoch;      /* epoch when that operation started */
	uint64_t bytes;         /* moved; of a SUM the total */
	uint32_t lkey, rkey;
	uint32_t src_aperture, dst_aperture;
	uint64_t src_offset, dst_offset; /* of the first byte, in the aperture */
	uint32_t gen_translated; /* of the first block that mismatched, else of the first block written */
	uint32_t gen_first;      /* its generation before the first byte */
	uint32_t gen_last;       /* and after the last byte */
	uint32_t status;         /* enum emu_wc_status that this quantum leads to, 0 while good */
	uint32_t op_done;        /* 1: last quantum of its operation (of a SUM: how many were) */
	uint32_t reserved0;
	uint64_t op_time;        /* ns when the operation started */
	uint64_t reserved[4];
};

_Static_assert(sizeof(struct emu_oplog_record) == 192, "format");
_Static_assert(sizeof(struct emu_oplog_header) <= EMU_OPLOG_HEADER, "format");

#endif
