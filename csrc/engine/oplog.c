/* SPDX-License-Identifier: Apache-2.0
 *
 * oplog.h, the writer. A record lies in the mapped file from its first quantum on; an open SUM is brought up to date there,
 * in place, so that a kill -9 loses at most the quantum that was being noted. A SUM is one queue pair's, and is left alone
 * once its group has ended, its slot has been used again, or a flush was asked for.
 *
 * The file may be truncated behind the mapping, so each touch is guarded. After the first that fails nothing more is noted: what
 * would have been is counted, in the figures and, while its header can be reached, in the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "internal.h"

#define SIDES (EMU_LOG_SRC_FREED | EMU_LOG_SRC_FOREIGN | EMU_LOG_SRC_ABSENT | EMU_LOG_DST_FREED | EMU_LOG_DST_FOREIGN | \
	       EMU_LOG_DST_ABSENT)

int emu_oplog_open(struct emu_engine *e, unsigned thread, const char *path, uint64_t capacity)
{
	size_t bytes = EMU_OPLOG_HEADER + capacity * sizeof(struct emu_oplog_record);
	struct emu_oplog_header header;
	const void *fault;
	struct oplog *log;
	void *p;
	int fd, err;

	if (thread >= e->n_threads || capacity == 0 || capacity > 1u << 26)
		return -EINVAL;
	log = &e->threads[thread].log;
	if (e->started || log->header)
		return -EBUSY;
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	/* Really there, not sparse: a disk that fills up later must not end a thread that notes what it did. */
	err = posix_fallocate(fd, 0, (off_t)bytes);
	if (err) {
		close(fd);
		unlink(path);
		return -err;
	}
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED)
		return -errno;
	*log = (struct oplog){ .header = p, .records = (void *)((char *)p + EMU_OPLOG_HEADER), .capacity = capacity, .bytes = bytes };
	header = (struct emu_oplog_header){ .magic = EMU_OPLOG_MAGIC, .version = EMU_OPLOG_VERSION,
		.record_bytes = sizeof(struct emu_oplog_record), .capacity = capacity, .thread = thread,
		.quantum = e->config.quantum };
	if (!guarded_copy(p, &header, sizeof(header), 0, &fault))
		return 0;
	oplog_close(log);
	return -EIO;
}

/* The space that was taken for records that never came goes back; the file keeps its length. Where that cannot be done (the
 * file system knows no holes) it stays. */
static void give_back(const struct oplog *log)
{
	size_t used = EMU_OPLOG_HEADER + log->written * sizeof(struct emu_oplog_record);
	size_t page = (size_t)sysconf(_SC_PAGESIZE), from = (used + page - 1) / page * page;

	if (from < log->bytes)
		(void)madvise((char *)log->header + from, log->bytes - from, MADV_REMOVE);
}

void oplog_close(struct oplog *log)
{
	if (log->header) {
		give_back(log);
		munmap(log->header, log->bytes);
	}
	log->header = NULL;
}

int emu_oplog_flush(struct emu_engine *e)
{
	for (unsigned i = 0; i < e->n_threads; i++)
		emu_count(&e->threads[i].closes, 1);
	return 0;
}

static int is_telling(const struct log_state *state, const struct emu_oplog_record *r)
{
	if (r->epoch_first != r->epoch_last || r->status || (r->flags & (EMU_LOG_CUT | EMU_LOG_SIGBUS)))
		return 1;
	return (r->flags & SIDES) && r->flags != state->flags;
}

static int continues(const struct emu_thread *t, const struct log_state *state, const struct emu_oplog_record *r)
{
	const struct emu_oplog_record *s = state->sum;

	return s && t->log.written - state->sum_seq <= t->log.capacity && state->closes == emu_peek(&t->closes) &&
	       s->lkey == r->lkey && s->rkey == r->rkey && s->opcode == r->opcode && s->flags == r->flags &&
	       s->epoch_last == r->epoch_first && s->op_epoch == r->op_epoch && s->peer_qp_num == r->peer_qp_num &&
	       s->src_aperture == r->src_aperture && s->dst_aperture == r->dst_aperture;
}

static void add_to_sum(struct emu_oplog_record *s, const struct emu_oplog_record *r)
{
	s->quanta++;
	s->bytes += r->bytes;
	s->op_done += r->op_done;
	s->gen_last = r->gen_last;
	s->time_last = r->time_last;
}

struct addition {
	struct emu_thread *t;
	struct log_state *state;
	struct emu_oplog_record *record;
};

/* Under the guard. */
static void add(void *argument)
{
	struct addition *a = argument;
	struct emu_thread *t = a->t;
	struct log_state *state = a->state;
	struct emu_oplog_record *r = a->record, *slot;
	struct oplog *log = &t->log;
	int telling = is_telling(state, r);

	if (!telling && continues(t, state, r)) {
		add_to_sum(state->sum, r);
		return;
	}
	slot = &log->records[log->written % log->capacity];
	r->kind = telling ? EMU_LOG_QUANTUM : EMU_LOG_SUM;
	r->seq = log->written;
	*slot = *r;
	*state = (struct log_state){ telling ? NULL : slot, log->written, r->flags, emu_peek(&t->closes) };
	emu_land(&log->header->written, ++log->written);
}

/* Under the guard. */
static void tell_lost(void *argument)
{
	struct oplog *log = argument;

	emu_land(&log->header->lost, emu_peek(&log->lost));
}

static void lose(struct oplog *log)
{
	log->broken = 1;
	figures_add(&log->lost, 1);
	if (!log->mute && guarded_call(log->header, EMU_OPLOG_HEADER, tell_lost, log))
		log->mute = 1;
}

void oplog_add(struct emu_thread *t, struct log_state *state, struct emu_oplog_record *r)
{
	struct addition a = { t, state, r };
	struct oplog *log = &t->log;

	if (!log->header)
		return;
	if (log->broken || guarded_call(log->header, log->bytes, add, &a))
		lose(log);
}
