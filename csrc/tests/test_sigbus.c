/* SPDX-License-Identifier: Apache-2.0
 * A host file is truncated under full DMA: error completions, one event a size, and the process lives; a SIGBUS that is not
 * ours goes to whoever had the handler before.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "check.h"

#define FILE_BYTES (1u << 20)

static struct world w;
static char path[64];
static int host;
static uint32_t aperture;

static void host_add(uint32_t key)
{
	struct emu_extent x = { 0, FILE_BYTES };
	struct emu_mr_desc d = { .key = key, .pd = PD, .access = ALL_RIGHTS, .n_extents = 1, .iova = IOVA,
		.length = FILE_BYTES, .extents = &x };
	int got;

	snprintf(path, sizeof(path), "/tmp/emu-test-host-%d", (int)getpid());
	host = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	unlink(path);
	CHECK(host >= 0 && ftruncate(host, FILE_BYTES) == 0);
	CHECK((got = emu_aperture_add(w.e, host, FILE_BYTES, 4096, -1, EMU_AP_HOST)) >= 0);
	d.aperture = aperture = (uint32_t)got;
	CHECK_EQ(emu_mr_install(w.e, &d), 0);
}

struct client {
	struct end a, b;
	uint8_t opcode;
	uint64_t good;
	uint32_t status;
	pthread_t thread;
};

static void *driver(void *arg)
{
	struct client *c = arg;

	for (uint64_t n = 0;; n++) {
		struct emu_cqe cqe;

		post(&c->a, rdma(c->opcode, n, 0, FILE_BYTES, 0x100, 0, 0x800));
		cqe = next_wc(&c->a);
		c->status = cqe.status;
		if (cqe.status != EMU_WC_SUCCESS)
			return NULL;
		emu_poke(&c->good, n + 1);
	}
}

static void truncate_under_dma(uint8_t opcode, off_t size)
{
	struct client c[2];
	struct emu_engine_event event;

	world_open(&w, &(struct world_config){ .threads = 2, .quantum = 16384, .bytes = FILE_BYTES });
	host_add(0x800);
	mr_add(&w, 0x100, 0, FILE_BYTES);
	for (int i = 0; i < 2; i++) {
		c[i] = (struct client){ .opcode = opcode };
		end_open(&w, &c[i].a, &(struct end_config){ 0 });
		end_open(&w, &c[i].b, &(struct end_config){ 0 });
		end_connect(&c[i].a, &c[i].b);
		CHECK_EQ(pthread_create(&c[i].thread, NULL, driver, &c[i]), 0);
	}
	while (emu_peek(&c[0].good) < 3 || emu_peek(&c[1].good) < 3)
		emu_pause();
	CHECK_EQ(ftruncate(host, size), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(c[i].thread, NULL);
		CHECK_EQ(c[i].status, EMU_WC_REM_ACCESS_ERR);
		end_close(&c[i].a);
		end_close(&c[i].b);
	}
	event = next_event(&w, EMU_ENG_SIGBUS);
	CHECK_EQ(event.id, aperture);
	CHECK(event.offset >= (uint64_t)size);
	close(host);
	world_close(&w);
}

/* A fault on the requester's own side is the requester's error. */
static void the_local_side_faults(void)
{
	struct end a, b;

	world_open(&w, &(struct world_config){ .bytes = FILE_BYTES });
	host_add(0x800);
	mr_add(&w, 0x100, 0, FILE_BYTES);
	CHECK_EQ(ftruncate(host, 100), 0);
	for (int i = 0; i < 2; i++) {
		end_open(&w, &a, &(struct end_config){ 0 });
		end_open(&w, &b, &(struct end_config){ 0 });
		end_connect(&a, &b);
		post(&a, rdma(i ? EMU_WR_RDMA_READ : EMU_WR_RDMA_WRITE, 1, 64, 64, 0x800, 0, 0x100));
		expect_wc(&a, 1, EMU_WC_LOC_PROT_ERR);
		end_close(&a);
		end_close(&b);
	}
	end_open(&w, &a, &(struct end_config){ 0 }); /* what is left of the file works */
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 100, 0x800, 0, 0x100));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	end_close(&a);
	end_close(&b);
	next_event(&w, EMU_ENG_SIGBUS);
	CHECK(!event_pending(&w)); /* latched: once for this change */
	close(host);
	world_close(&w);
}

/* The device's own image shrinks (nobody should): the copy faults for real, and is caught. */
static void a_real_fault_is_caught(void)
{
	struct end a, b;
	char byte;

	world_open(&w, &(struct world_config){ .bytes = FILE_BYTES });
	mr_add(&w, 0x100, 0, FILE_BYTES / 2);
	mr_add(&w, 0x200, FILE_BYTES / 2, FILE_BYTES / 2);
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	CHECK_EQ(ftruncate(w.fd, FILE_BYTES / 2 + 8192), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 65536, 0x100, FILE_BYTES / 2, 0x200));
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	CHECK(next_event(&w, EMU_ENG_SIGBUS).offset >= FILE_BYTES / 2 + 8192);
	CHECK_EQ(emu_cpu_read(w.e, (uint32_t)w.aperture, FILE_BYTES - 1, &byte, 1), -EFAULT);
	CHECK_EQ(emu_cpu_zero(w.e, (uint32_t)w.aperture, FILE_BYTES - 4096, 4096), -EFAULT);
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

static void refused_and_told(uint8_t opcode, uint32_t bytes, uint64_t size)
{
	struct emu_engine_event event;
	struct end a, b;

	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	post(&a, rdma(opcode, 1, 0, bytes, 0x100, 0, 0x800));
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	event = next_event(&w, EMU_ENG_SIGBUS);
	CHECK_EQ(event.id, aperture);
	CHECK(event.offset >= size);
	end_close(&a);
	end_close(&b);
}

/* The time of change may be as coarse as the timer's tick. */
static void resize(off_t size)
{
	struct stat before, after;

	CHECK_EQ(fstat(host, &before), 0);
	do
		CHECK(ftruncate(host, size) == 0 && fstat(host, &after) == 0);
	while (before.st_ctim.tv_sec == after.st_ctim.tv_sec && before.st_ctim.tv_nsec == after.st_ctim.tv_nsec);
}

/* Each time anew, also to the same size, whether or not somebody used the file while it was whole. */
static void every_truncation_is_told(int used_between)
{
	struct end a, b;
	char byte = 1;

	world_open(&w, &(struct world_config){ .bytes = FILE_BYTES });
	host_add(0x800);
	mr_add(&w, 0x100, 0, FILE_BYTES);
	for (int i = 0; i < 6; i++) {
		resize(i < 3 ? 0 : 8192);
		refused_and_told(i % 2 ? EMU_WR_RDMA_READ : EMU_WR_RDMA_WRITE, 65536, i < 3 ? 0 : 8192);
		CHECK_EQ(emu_cpu_write(w.e, aperture, FILE_BYTES - 1, &byte, 1), -EFAULT); /* and only once for all of these */
		CHECK_EQ(emu_cpu_read(w.e, aperture, FILE_BYTES / 2, &byte, 1), -EFAULT);
		for (struct emu_engine_event e; emu_events_take(w.e, &e, 1);)
			CHECK(e.kind != EMU_ENG_SIGBUS);
		resize(FILE_BYTES);
		if (used_between) {
			end_open(&w, &a, &(struct end_config){ 0 });
			end_open(&w, &b, &(struct end_config){ 0 });
			end_connect(&a, &b);
			post(&a, rdma(EMU_WR_RDMA_WRITE, 2, 0, FILE_BYTES, 0x100, 0, 0x800));
			expect_wc(&a, 2, EMU_WC_SUCCESS);
			end_close(&a);
			end_close(&b);
		}
	}
	close(host);
	world_close(&w);
}

/* The same for memory that is not looked at before it is touched. */
static void every_fault_of_a_device_is_told(void)
{
	world_open(&w, &(struct world_config){ .bytes = FILE_BYTES });
	for (int i = 1; i < 4; i++) {
		char byte;

		CHECK_EQ(ftruncate(w.fd, FILE_BYTES / 2 - i * 8192), 0);
		CHECK_EQ(emu_cpu_read(w.e, (uint32_t)w.aperture, FILE_BYTES / 2, &byte, 1), -EFAULT);
		CHECK_EQ(next_event(&w, EMU_ENG_SIGBUS).offset, FILE_BYTES / 2);
		CHECK_EQ(emu_cpu_read(w.e, (uint32_t)w.aperture, FILE_BYTES / 2 + 4096, &byte, 1), -EFAULT);
		CHECK(!event_pending(&w));
	}
	world_close(&w);
}

static uint32_t stop;

static void *steady(void *arg)
{
	struct client *c = arg;

	for (uint64_t n = 0; !emu_peek(&stop); n++) {
		post(&c->a, rdma(EMU_WR_RDMA_WRITE, n, 0, 65536, 0x100, FILE_BYTES / 2, 0x200));
		expect_wc(&c->a, n, EMU_WC_SUCCESS);
		emu_poke(&c->good, n + 1);
	}
	return NULL;
}

static void goes_on(const struct client *c)
{
	uint64_t before = emu_peek(&c->good);

	while (emu_peek(&c->good) < before + 20)
		emu_pause();
}

/* One client writes all the while; the device keeps all of its memory. */
static void load_start(struct client *c, const char *oplog)
{
	world_open(&w, &(struct world_config){ .bytes = FILE_BYTES, .quantum = 16384, .oplog = oplog, .oplog_capacity = 1000 });
	*c = (struct client){ 0 };
	end_open(&w, &c->a, &(struct end_config){ 0 });
	end_open(&w, &c->b, &(struct end_config){ 0 });
	end_connect(&c->a, &c->b);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, 0, FILE_BYTES, 0), 0);
	mr_add(&w, 0x100, 0, FILE_BYTES / 2);
	mr_add(&w, 0x200, FILE_BYTES / 2, FILE_BYTES / 2);
	emu_poke(&stop, 0);
	CHECK_EQ(pthread_create(&c->thread, NULL, steady, c), 0);
	goes_on(c);
}

static void load_end(struct client *c)
{
	emu_poke(&stop, 1);
	pthread_join(c->thread, NULL);
	end_close(&c->a);
	end_close(&c->b);
	world_close(&w);
}

/* The file of generations goes away under DMA and under the allocator: both go on, by the engine's own copy. */
static void the_table_of_generations_is_truncated(void)
{
	struct emu_engine_stats s;
	uint32_t ap, on_file;
	struct client c;

	load_start(&c, NULL);
	ap = (uint32_t)w.aperture;
	CHECK_EQ(emu_blocks_release(w.e, ap, FILE_BYTES - 4096, 4096, 0), 0);
	CHECK_EQ(pread(w.gens_fd, &on_file, 4, FILE_BYTES / 4096 * 4 - 4), 4);
	CHECK_EQ(on_file, 3); /* it follows */
	CHECK_EQ(ftruncate(w.gens_fd, 0), 0);
	goes_on(&c);
	mr_add(&w, 0x300, 0, FILE_BYTES); /* notes generations */
	CHECK_EQ(emu_blocks_allocate(w.e, ap, FILE_BYTES - 4096, 4096, 0), 0);
	CHECK_EQ(emu_blocks_release(w.e, ap, FILE_BYTES - 4096, 4096, 0), 0);
	CHECK_EQ(w.gens[FILE_BYTES / 4096 - 1], 5);
	goes_on(&c);
	emu_engine_stats(w.e, &s);
	CHECK_EQ(s.gens_lost, 2);
	CHECK_EQ(s.errors, 0);
	CHECK_EQ(ftruncate(w.gens_fd, FILE_BYTES / 4096 * 4), 0);
	CHECK_EQ(emu_blocks_allocate(w.e, ap, FILE_BYTES - 4096, 4096, 0), 0);
	CHECK_EQ(pread(w.gens_fd, &on_file, 4, FILE_BYTES / 4096 * 4 - 4), 4);
	CHECK_EQ(on_file, 6); /* and it follows again */
	load_end(&c);
}

static void expect_lost(void)
{
	struct emu_engine_stats s;

	do
		emu_engine_stats(w.e, &s);
	while (!s.log_lost);
	CHECK_EQ(s.errors, 0);
}

/* The operation log goes away under the thread that writes it: work goes on, and what was not noted is counted. */
static void the_operation_log_is_truncated(off_t size)
{
	char pattern[64], file[80];
	struct client c;
	struct log log;

	snprintf(pattern, sizeof(pattern), "/tmp/emu-test-sigbus-log-%d", (int)getpid());
	snprintf(file, sizeof(file), "%s-0", pattern);
	load_start(&c, pattern);
	CHECK_EQ(truncate(file, size), 0);
	for (unsigned i = 0; i < 40; i++) { /* each epoch begins a record: the log grows past any page */
		emu_epoch_advance(w.e);
		goes_on(&c);
	}
	expect_lost();
	CHECK_EQ(truncate(file, EMU_OPLOG_HEADER + 1000 * (off_t)sizeof(struct emu_oplog_record)), 0);
	goes_on(&c);
	load_end(&c);
	if (size) {
		log_read(file, &log);
		CHECK(log.header.lost > 0);
		free(log.records);
	}
	unlink(file);
}

static sigjmp_buf away;

static void elder(int signal)
{
	(void)signal;
	siglongjmp(away, 1);
}

static void other_faults_go_to_the_elder_handler(void)
{
	struct sigaction mine = { .sa_handler = elder, .sa_flags = SA_NODEFER }, now;
	int fd = memfd_create("short", 0), passed_on = 0;
	volatile char *p;

	CHECK_EQ(sigaction(SIGBUS, &mine, NULL), 0);
	world_open(&w, &(struct world_config){ 0 });
	CHECK_EQ(ftruncate(fd, 4096), 0);
	p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(p != MAP_FAILED && ftruncate(fd, 0) == 0);
	if (sigsetjmp(away, 1))
		passed_on = 1;
	else
		(void)p[0];
	CHECK(passed_on);
	world_close(&w);
	CHECK_EQ(sigaction(SIGBUS, NULL, &now), 0);
	CHECK(now.sa_handler == elder); /* and it is put back */
	munmap((void *)p, 4096);
	close(fd);
}

int main(void)
{
	for (unsigned i = 0; i < LOAD(16u); i++) {
		truncate_under_dma(EMU_WR_RDMA_WRITE, 0);
		truncate_under_dma(EMU_WR_RDMA_WRITE, 500001);
		truncate_under_dma(EMU_WR_RDMA_READ, 0);
	}
	the_local_side_faults();
	a_real_fault_is_caught();
	every_truncation_is_told(0);
	every_truncation_is_told(1);
	every_fault_of_a_device_is_told();
	the_table_of_generations_is_truncated();
	the_operation_log_is_truncated(0);
	the_operation_log_is_truncated(EMU_OPLOG_HEADER);
	other_faults_go_to_the_elder_handler();
	return 0;
}
