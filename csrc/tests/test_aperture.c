/* SPDX-License-Identifier: Apache-2.0
 * Memory that goes away, comes back as another, or changes hands under a translation: what DMA does, and what the log says.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../engine/internal.h"
#include "check.h"

#define HALF (512u << 10)

static struct world w;
static struct end a, b;
static char log_path[64], log_file[80];
static uint32_t quantum = 4096;

static void fresh(uint64_t capacity)
{
	snprintf(log_path, sizeof(log_path), "/tmp/emu-test-oplog-%d", (int)getpid());
	snprintf(log_file, sizeof(log_file), "%s-0", log_path);
	world_open(&w, &(struct world_config){ .quantum = quantum, .oplog = log_path, .oplog_capacity = capacity });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, 0, 2 * HALF, 0), 0);
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
	world_close(&w);
	unlink(log_file);
}

static void write_one(uint64_t wr_id, uint32_t n, uint32_t status)
{
	post(&a, rdma(EMU_WR_RDMA_WRITE, wr_id, 0, n, 0x100, HALF, 0x200));
	expect_wc(&a, wr_id, status);
}

static void generations_step(void)
{
	uint32_t ap;

	fresh(100);
	ap = (uint32_t)w.aperture;
	CHECK_EQ(w.gens[0], 2); /* a fresh table says 0 */
	CHECK_EQ(emu_blocks_release(w.e, ap, 0, 8192, 0), 0);
	CHECK_EQ(w.gens[0], 3);
	CHECK_EQ(w.gens[1], 3);
	CHECK_EQ(w.gens[2], 2);
	CHECK_EQ(emu_blocks_release(w.e, ap, 0, 4096, 1), 0);
	CHECK_EQ(w.gens[0], 3);
	w.mem[5] = 9;
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 0, 4096, 0), 0);
	CHECK_EQ(w.gens[0], 4);
	CHECK_EQ(w.mem[5], 0); /* overwritten before anybody sees it */
	w.mem[5] = 9;
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 0, 4096, 1), 0);
	CHECK_EQ(w.gens[0], 4);
	CHECK_EQ(w.mem[5], 9);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 0, 100, 0), -EINVAL);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 100, 4096, 0), -EINVAL);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 2 * HALF, 4096, 0), -EINVAL);
	CHECK_EQ(emu_blocks_allocate(w.e, ap + 1, 0, 4096, 0), -ENOENT);
	done();
}

static void the_cpu_reads_and_writes(void)
{
	char text[6] = "hello", got[6];
	uint32_t ap;

	fresh(100);
	ap = (uint32_t)w.aperture;
	CHECK_EQ(emu_cpu_write(w.e, ap, 10, text, 6), 0);
	CHECK_EQ(emu_cpu_read(w.e, ap, 10, got, 6), 0);
	CHECK_EQ(memcmp(got, text, 6), 0);
	CHECK_EQ(emu_cpu_zero(w.e, ap, 11, 2), 0);
	CHECK_EQ(memcmp(w.mem + 10, "h\0\0lo", 6), 0);
	CHECK_EQ(emu_cpu_read(w.e, ap, 2 * HALF - 3, got, 6), -EINVAL);
	CHECK_EQ(emu_cpu_read(w.e, ap, UINT64_MAX, got, 6), -EINVAL);
	CHECK_EQ(emu_aperture_swap(w.e, ap, -1, -1), 0);
	CHECK_EQ(emu_cpu_read(w.e, ap, 10, got, 6), -ENODEV);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, 0, 4096, 0), -ENODEV);
	CHECK_EQ(mr_add_as(&w, 0x900, PD, ALL_RIGHTS, 0, 4096), -ENODEV);
	done();
}

static void wrong_extents_are_refused(void)
{
	struct emu_extent x[2] = { { 0, 4096 }, { 8192, 4096 } };
	struct emu_mr_desc d, good;

	fresh(100);
	good = (struct emu_mr_desc){ .key = 0x900, .pd = PD, .access = ALL_RIGHTS, .aperture = (uint32_t)w.aperture,
		.n_extents = 2, .iova = 1, .length = 8192, .extents = x };
	CHECK_EQ(emu_mr_install(w.e, (d = good, d.length = 8191, &d)), -EINVAL);
	CHECK_EQ(emu_mr_install(w.e, (d = good, d.n_extents = 0, d.length = 0, &d)), -EINVAL);
	CHECK_EQ(emu_mr_install(w.e, (d = good, d.iova = UINT64_MAX - 100, &d)), -EINVAL);
	CHECK_EQ(emu_mr_install(w.e, (d = good, d.aperture = 77, &d)), -ENODEV);
	CHECK_EQ(emu_mr_install(w.e, (d = good, d.aperture = UINT32_MAX, &d)), -ENODEV);
	x[1].offset = 2 * HALF - 4095;
	CHECK_EQ(emu_mr_install(w.e, &good), -EINVAL);
	x[1].offset = UINT64_MAX;
	CHECK_EQ(emu_mr_install(w.e, &good), -EINVAL);
	CHECK_EQ(emu_mr_state(w.e, 0x900), -ENOENT);
	done();
}

static const struct emu_oplog_record *find(const struct log *log, uint64_t wr_id, unsigned nth)
{
	for (uint64_t i = 0; i < log->header.written; i++)
		if (log->records[i].wr_id == wr_id && nth-- == 0)
			return &log->records[i];
	fprintf(stderr, "no record of request %llu\n", (unsigned long long)wr_id);
	exit(1);
}

static void the_log_tells_freed_and_foreign(void)
{
	const struct emu_oplog_record *r;
	uint32_t ap;
	struct log log;

	fresh(1000);
	ap = (uint32_t)w.aperture;
	write_one(1, 12288, EMU_WC_SUCCESS);
	CHECK_EQ(emu_blocks_release(w.e, ap, HALF + 4096, 4096, 0), 0);
	emu_epoch_advance(w.e);
	write_one(2, 12288, EMU_WC_SUCCESS);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, HALF + 4096, 4096, 0), 0);
	emu_epoch_advance(w.e);
	write_one(3, 12288, EMU_WC_SUCCESS);
	CHECK_EQ(emu_blocks_release(w.e, ap, 0, 4096, 0), 0);
	write_one(4, 4096, EMU_WC_SUCCESS);
	quiesce(&w, (uint32_t[]){ 0x200 }, 1);
	write_one(5, 4096, EMU_WC_REM_ACCESS_ERR);
	log_read(log_file, &log);
	r = find(&log, 1, 0); /* three quanta, nothing to tell: one sum */
	CHECK_EQ(r->kind, EMU_LOG_SUM);
	CHECK_EQ(r->quanta, 3);
	CHECK_EQ(r->bytes, 12288);
	CHECK_EQ(r->op_done, 1);
	CHECK_EQ(r->flags, 0);
	CHECK_EQ(r->qp_num, a.qp_num);
	CHECK_EQ(r->peer_qp_num, b.qp_num);
	CHECK_EQ(r->lkey, 0x100);
	CHECK_EQ(r->rkey, 0x200);
	CHECK_EQ(r->dst_offset, HALF);
	CHECK(r->time_first <= r->time_last && r->op_time <= r->time_first);
	r = find(&log, 2, 1); /* its second quantum met the freed block */
	CHECK_EQ(r->kind, EMU_LOG_QUANTUM);
	CHECK_EQ(r->flags, EMU_LOG_DST_FREED);
	CHECK_EQ(r->dst_offset, HALF + 4096);
	CHECK_EQ(r->gen_translated, 2);
	CHECK_EQ(r->gen_first, 3);
	CHECK_EQ(r->gen_last, 3);
	CHECK_EQ(r->epoch_first, 1);
	CHECK_EQ(r->op_epoch, 1);
	r = find(&log, 3, 1);
	CHECK_EQ(r->flags, EMU_LOG_DST_FOREIGN);
	CHECK_EQ(r->gen_first, 4);
	r = find(&log, 4, 0);
	CHECK_EQ(r->flags, EMU_LOG_SRC_FREED);
	r = find(&log, 5, 0);
	CHECK_EQ(r->flags, EMU_LOG_CUT);
	CHECK_EQ(r->bytes, 0);
	CHECK_EQ(r->status, EMU_WC_REM_ACCESS_ERR);
	free(log.records);
	done();
}

static void sharing_changes_hands_and_keeps_the_bytes(void)
{
	uint32_t ap;

	fresh(100);
	ap = (uint32_t)w.aperture;
	w.mem[4100] = 7;
	CHECK_EQ(emu_blocks_share(w.e, ap, 4096, 4096), 0);
	CHECK_EQ(w.gens[0], 2);
	CHECK_EQ(w.gens[1], 4);
	CHECK_EQ(w.mem[4100], 7);
	CHECK_EQ(emu_blocks_share(w.e, ap, 1, 4096), -EINVAL);
	CHECK_EQ(emu_cpu_copy(w.e, ap, 4096, ap, HALF, 4096), 0);
	CHECK_EQ(w.mem[HALF + 4], 7);
	CHECK_EQ(emu_cpu_copy(w.e, ap, 4096, ap, 2 * HALF, 4096), -EINVAL);
	done();
}

/* A quantum of several blocks is cut at the one that is gone, so that what is counted as absent is that one alone. */
static void failed_memory_is_absent_block_by_block(void)
{
	const struct emu_oplog_record *r;
	struct log log;
	uint32_t ap;

	quantum = 65536;
	fresh(1000);
	quantum = 4096;
	ap = (uint32_t)w.aperture;
	memset(w.mem, 'S', HALF);
	CHECK_EQ(emu_blocks_fail(w.e, ap, HALF + 4096, 4096), 0);
	CHECK_EQ(w.gens[HALF / 4096 + 1], UINT32_MAX);
	write_one(1, 12288, EMU_WC_SUCCESS);
	CHECK_EQ(w.mem[HALF], 'S');
	CHECK_EQ(w.mem[HALF + 4096], 0);
	CHECK_EQ(w.mem[HALF + 8191], 0);
	CHECK_EQ(w.mem[HALF + 8192], 'S');
	post(&a, rdma(EMU_WR_RDMA_READ, 2, 0, 12288, 0x100, HALF, 0x200));
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK_EQ((unsigned char)w.mem[4096], 0xff);
	CHECK_EQ(w.mem[8192], 'S');
	CHECK_EQ(emu_blocks_release(w.e, ap, HALF + 4096, 4096, 1), 0); /* a start: nobody's, and it stays so */
	CHECK_EQ(w.gens[HALF / 4096 + 1], UINT32_MAX);
	quiesce(&w, (uint32_t[]){ 0x200 }, 1);
	log_read(log_file, &log);
	r = find(&log, 1, 1);
	CHECK_EQ(r->flags, EMU_LOG_DST_ABSENT);
	CHECK_EQ(r->bytes, 4096);
	CHECK_EQ(r->gen_translated, 2);
	CHECK_EQ(r->gen_last, 2);
	r = find(&log, 2, 1);
	CHECK_EQ(r->flags, EMU_LOG_SRC_ABSENT);
	free(log.records);
	done();
}

static void a_change_under_the_copy_is_seen(void)
{
	const struct emu_oplog_record *r;
	struct log log;

	fresh(1000);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_HALF, 0x200, 0), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 7, 0, 4096, 0x100, HALF, 0x200));
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_blocks_release(w.e, (uint32_t)w.aperture, HALF, 4096, 0), 0);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, HALF, 4096, 0), 0);
	emu_epoch_advance(w.e);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_HALF), 0);
	expect_wc(&a, 7, EMU_WC_SUCCESS);
	log_read(log_file, &log);
	r = find(&log, 7, 0);
	CHECK_EQ(r->kind, EMU_LOG_QUANTUM);
	CHECK_EQ(r->flags, EMU_LOG_DST_FOREIGN | EMU_LOG_EPOCH_MOVED);
	CHECK_EQ(r->gen_translated, 2);
	CHECK_EQ(r->gen_first, 2);
	CHECK_EQ(r->gen_last, 4);
	CHECK_EQ(r->epoch_first, 0);
	CHECK_EQ(r->epoch_last, 1);
	free(log.records);
	done();
}

static void a_sum_ends_with_its_epoch(void)
{
	const struct emu_oplog_record *r;
	struct log log;

	fresh(1000);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_LAST, 0x200, 0), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 7, 0, 12288, 0x100, HALF, 0x200));
	next_event(&w, EMU_ENG_HELD);
	emu_epoch_advance(w.e);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_LAST), 0);
	expect_wc(&a, 7, EMU_WC_SUCCESS);
	log_read(log_file, &log);
	r = find(&log, 7, 0);
	CHECK_EQ(r->quanta, 1);
	CHECK_EQ(r->epoch_last, 0);
	r = find(&log, 7, 1);
	CHECK_EQ(r->kind, EMU_LOG_SUM);
	CHECK_EQ(r->quanta, 2);
	CHECK_EQ(r->epoch_first, 1);
	CHECK_EQ(r->op_epoch, 0);
	free(log.records);
	done();
}

static void absent_memory_swallows_and_gives_ones(void)
{
	int fd = memfd_create("next", 0), gens = memfd_create("gens", 0), other;
	const struct emu_oplog_record *r;
	struct emu_extent x = { 0, 8192 };
	struct emu_mr_desc d = { .key = 0x300, .pd = PD, .access = ALL_RIGHTS, .n_extents = 1, .iova = 0, .length = 8192,
		.extents = &x };
	struct emu_wqe wqe;
	unsigned char got[4096];
	struct log log;

	fresh(1000);
	CHECK(ftruncate(fd, 2 * HALF) == 0 && ftruncate(gens, 2 * HALF / 4096 * 4) == 0);
	other = memfd_create("other", 0);
	CHECK_EQ(ftruncate(other, 8192), 0);
	CHECK((d.aperture = (uint32_t)emu_aperture_add(w.e, other, 8192, 4096, -1, 0)) > 0);
	CHECK_EQ(emu_mr_install(w.e, &d), 0);
	CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)w.aperture, -1, -1), 0);
	quiesce(&w, NULL, 0);
	wqe = rdma(EMU_WR_RDMA_READ, 1, 0, 4096, 0x300, HALF, 0x200);
	wqe.addr = 0;
	post(&a, wqe);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK_EQ(emu_cpu_read(w.e, d.aperture, 0, got, 4096), 0);
	for (unsigned i = 0; i < 4096; i++)
		CHECK_EQ(got[i], 0xff);
	wqe = rdma(EMU_WR_RDMA_WRITE, 2, 0, 4096, 0x300, HALF, 0x200);
	wqe.addr = 0;
	post(&a, wqe);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)w.aperture, fd, gens), 0); /* another namespace, same addresses */
	wqe.wr_id = 3;
	post(&a, wqe);
	expect_wc(&a, 3, EMU_WC_SUCCESS);
	CHECK_EQ(pread(fd, got, 1, HALF), 1);
	CHECK_EQ(got[0], 0xff);
	log_read(log_file, &log);
	r = find(&log, 1, 0);
	CHECK_EQ(r->flags, EMU_LOG_SRC_ABSENT);
	r = find(&log, 2, 0);
	CHECK_EQ(r->flags, EMU_LOG_DST_ABSENT);
	CHECK_EQ(r->bytes, 4096);
	r = find(&log, 3, 0);
	CHECK_EQ(r->flags, EMU_LOG_DST_FOREIGN);
	free(log.records);
	close(fd);
	close(gens);
	close(other);
	done();
}

static void a_full_log_keeps_the_newest(void)
{
	struct log log;

	fresh(16);
	for (uint64_t i = 0; i < 100; i++) {
		emu_epoch_advance(w.e);
		write_one(i, 64, EMU_WC_SUCCESS);
	}
	log_read(log_file, &log);
	CHECK_EQ(log.header.written, 100);
	CHECK_EQ(log.records[99 % 16].wr_id, 99);
	CHECK_EQ(log.records[99 % 16].seq, 99);
	CHECK_EQ(log.records[84 % 16].wr_id, 84);
	free(log.records);
	done();
}

/* 16 kept runs of 16 MiB each were a quarter of a gigabyte of zeros. */
static void a_log_keeps_no_empty_space(void)
{
	struct stat st;
	struct log log;

	fresh(100000);
	write_one(1, 64, EMU_WC_SUCCESS);
	emu_epoch_advance(w.e);
	write_one(2, 64, EMU_WC_SUCCESS);
	end_close(&a);
	end_close(&b);
	world_close(&w);
	CHECK_EQ(stat(log_file, &st), 0);
	CHECK_EQ(st.st_size, EMU_OPLOG_HEADER + 100000 * (off_t)sizeof(struct emu_oplog_record));
	CHECK(st.st_blocks * 512 <= 65536);
	log_read(log_file, &log);
	CHECK_EQ(log.header.written, 2);
	CHECK_EQ(log.records[1].wr_id, 2);
	free(log.records);
	unlink(log_file);
}

/* b listens to this one from now on. */
static void answer_to(struct end *n)
{
	CHECK_EQ(modify(&b, EMU_QPS_RESET), 0);
	to_init(&b);
	to_rtr(&b, n->qp_num);
	to_rts(&b);
}

/* A sum whose slot another queue pair's has taken is left alone, however alike the two are. */
static void a_slot_that_was_used_again_is_not_added_to(void)
{
	struct end c;
	struct log log;

	fresh(2);
	end_open(&w, &c, &(struct end_config){ 0 });
	to_init(&c);
	to_rtr(&c, b.qp_num);
	to_rts(&c);
	write_one(1, 64, EMU_WC_SUCCESS); /* sequence 0 */
	answer_to(&c);
	for (uint64_t i = 2; i < 4; i++) { /* 1, and 2 in the slot of 0 */
		emu_epoch_advance(w.e);
		post(&c, rdma(EMU_WR_RDMA_WRITE, i, 0, 64, 0x100, HALF, 0x200));
		expect_wc(&c, i, EMU_WC_SUCCESS);
	}
	answer_to(&a);
	write_one(4, 64, EMU_WC_SUCCESS); /* 3, in the epoch of 2 */
	log_read(log_file, &log);
	CHECK_EQ(log.header.written, 4);
	CHECK_EQ(log.records[0].seq, 2);
	CHECK_EQ(log.records[0].qp_num, c.qp_num);
	CHECK_EQ(log.records[0].quanta, 1);
	CHECK_EQ(log.records[1].qp_num, a.qp_num);
	CHECK_EQ(log.records[1].wr_id, 4);
	free(log.records);
	end_close(&c);
	done();
}

static void a_flush_ends_the_sums(void)
{
	struct log log;

	fresh(100);
	write_one(1, 64, EMU_WC_SUCCESS);
	write_one(2, 64, EMU_WC_SUCCESS);
	CHECK_EQ(emu_oplog_flush(w.e), 0);
	write_one(3, 64, EMU_WC_SUCCESS);
	log_read(log_file, &log);
	CHECK_EQ(log.header.written, 2);
	CHECK_EQ(log.records[0].quanta, 2);
	CHECK_EQ(log.records[1].wr_id, 3);
	CHECK_EQ(emu_oplog_open(w.e, 0, log_file, 10), -EBUSY);
	free(log.records);
	done();
}

static uint32_t stop;

static void *writer(void *arg)
{
	uint64_t n = 0;

	(void)arg;
	while (!emu_observe(&stop))
		write_one(n++, 65536, EMU_WC_SUCCESS);
	return NULL;
}

/* Old mappings are given up while threads copy into them: nobody crashes, and the answer to a grace period means it. */
static void swaps_under_load(void)
{
	pthread_t thread;

	fresh(100);
	stop = 0;
	CHECK_EQ(pthread_create(&thread, NULL, writer, NULL), 0);
	for (unsigned i = 0; i < LOAD(400u); i++) {
		CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)w.aperture, i % 2 ? w.fd : -1, i % 2 ? w.gens_fd : -1), 0);
		quiesce(&w, NULL, 0);
	}
	emu_publish(&stop, 1);
	pthread_join(thread, NULL);
	done();
}

int main(void)
{
	generations_step();
	the_cpu_reads_and_writes();
	wrong_extents_are_refused();
	the_log_tells_freed_and_foreign();
	a_change_under_the_copy_is_seen();
	sharing_changes_hands_and_keeps_the_bytes();
	failed_memory_is_absent_block_by_block();
	a_sum_ends_with_its_epoch();
	absent_memory_swallows_and_gives_ones();
	a_full_log_keeps_the_newest();
	a_slot_that_was_used_again_is_not_added_to();
	a_log_keeps_no_empty_space();
	a_flush_ends_the_sums();
	swaps_under_load();
	return 0;
}
