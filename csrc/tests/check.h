/* SPDX-License-Identifier: Apache-2.0
 *
 * What every test program needs: CHECK, and a small world of an engine with memory and connected queue pairs. Exit status
 * 0 passed, 1 failed, 77 cannot run here.
 *
 * Clients in this world use the engine's own mappings, so that TSan sees both ends of every ring and of the memory.
 */
#ifndef EMU_TESTS_CHECK_H
#define EMU_TESTS_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <emu/barrier.h>
#include <emu/engine.h>
#include <emu/ring.h>

#define CHECK(condition)                                                                        \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition);   \
			exit(1);                                                                \
		}                                                                               \
	} while (0)

#define CHECK_EQ(a, b)                                                                          \
	do {                                                                                    \
		long long a_ = (long long)(a), b_ = (long long)(b);                             \
		if (a_ != b_) {                                                                 \
			fprintf(stderr, "%s:%d: %s is %lld, expected %s = %lld\n", __FILE__,    \
				__LINE__, #a, a_, #b, b_);                                      \
			exit(1);                                                                \
		}                                                                               \
	} while (0)

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define LOAD(n) ((n) / 8 ? (n) / 8 : 1) /* sanitized builds do an eighth of the work */
#else
#define LOAD(n) (n)
#endif

#define PD 7u
#define ALL_RIGHTS (EMU_ACCESS_LOCAL_WRITE | EMU_ACCESS_REMOTE_WRITE | EMU_ACCESS_REMOTE_READ)
#define PATIENCE_NS 60000000000ll /* the only deadline: past it a test has hung */

struct world {
	struct emu_engine *e;
	int aperture, fd, gens_fd;
	char *mem; /* the engine's mapping */
	uint32_t *gens;
	uint64_t bytes;
};

/* One client: context, one CQ, one QP. */
struct end {
	struct world *w;
	uint32_t ctx, cq_num, qp_num;
	struct emu_ring_ctx *ctx_ring;
	struct emu_ring_cq *cq;
	struct emu_ring_qp *qp;
};

struct world_config {
	uint32_t threads, quantum, spin;
	uint64_t bytes;
	double time_scale;
	const char *oplog; /* path pattern with one %u, or NULL */
	uint64_t oplog_capacity;
	int idle; /* its threads are not started */
};

void world_open(struct world *w, const struct world_config *config);
void world_close(struct world *w);

struct end_config {
	uint32_t depth, cq_depth, sge, pd;
	int own_mapping; /* map rings anew, as another process does */
	int sig_all;
};

void end_open(struct world *w, struct end *n, const struct end_config *config);
void end_close(struct end *n);

/* Both to RTS, pointing at each other. */
void end_connect(struct end *a, struct end *b);
void to_init(struct end *n);
void to_rtr(struct end *n, uint32_t dest);
void to_rts(struct end *n);
int modify(struct end *n, uint32_t state); /* RESET, ERR, SQD, RTS without attributes */

/* Register [offset, offset + bytes) of the aperture; its iova is the offset plus IOVA. */
#define IOVA 0x100000000ull
void mr_add(struct world *w, uint32_t key, uint64_t offset, uint64_t bytes);
int mr_add_as(struct world *w, uint32_t key, uint32_t pd, uint32_t access, uint64_t offset, uint64_t bytes);

struct emu_wqe wqe_of(uint8_t opcode, uint64_t wr_id, uint64_t from, uint32_t length, uint32_t lkey);
struct emu_wqe rdma(uint8_t opcode, uint64_t wr_id, uint64_t from, uint32_t length, uint32_t lkey, uint64_t to, uint32_t rkey);
void post(struct end *n, struct emu_wqe wqe);
void post_recv(struct end *n, uint64_t wr_id, uint64_t at, uint32_t length, uint32_t lkey);

/* The next completion; gives its ring slot back. */
struct emu_cqe next_wc(struct end *n);
void expect_wc(struct end *n, uint64_t wr_id, uint32_t status);
int no_wc(struct end *n);

/* The next event of this kind; others are dropped. */
struct emu_engine_event next_event(struct world *w, uint32_t kind);
void quiesce(struct world *w, const uint32_t *keys, unsigned n);
int event_pending(struct world *w);

/* A copy of one oplog file. */
struct log {
	struct emu_oplog_header header;
	struct emu_oplog_record *records;
};
void log_read(const char *path, struct log *log);

uint64_t random_next(uint64_t *state);
int64_t clock_ns(void);

#endif
