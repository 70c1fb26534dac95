/* SPDX-License-Identifier: Apache-2.0
 *
 * Figures of the data path from C, one line each: name value unit. Post to completion of one small WRITE, small WRITEs
 * pipelined, large WRITEs against memcpy of the same bytes between the same places.
 */
#include "check.h"

#define BYTES (16u << 20)
#define DEPTH 64u

static struct world w;
static struct end a, b;

static void one_at_a_time(const char *name, uint8_t opcode, uint32_t bytes, unsigned rounds)
{
	struct emu_cqe cqe;
	int64_t start = clock_ns();

	for (unsigned i = 0; i < rounds; i++) {
		post(&a, rdma(opcode, i, 0, bytes, 0x100, BYTES / 2, 0x200));
		while (emu_ring_poll(a.cq, &cqe, 1) == 0)
			emu_pause();
		CHECK_EQ(cqe.status, EMU_WC_SUCCESS);
		emu_ring_qp_release(a.qp, 0, cqe.wq_head);
	}
	printf("%-28s %9.3f us\n", name, (double)(clock_ns() - start) / rounds / 1000);
}

/* Polls and sleeps in place of spinning. */
static void one_at_a_time_asleep(unsigned rounds)
{
	int64_t start = clock_ns();

	for (unsigned i = 0; i < rounds; i++) {
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 8, 0x100, BYTES / 2, 0x200));
		CHECK_EQ(next_wc(&a).status, EMU_WC_SUCCESS);
	}
	printf("%-28s %9.3f us\n", "write 8 B, ring_wait", (double)(clock_ns() - start) / rounds / 1000);
}

static double pipelined(uint32_t bytes, uint64_t total)
{
	uint64_t posted = 0, done = 0;
	int64_t start = clock_ns();

	while (done < total) {
		struct emu_wqe batch[16];
		struct emu_cqe cqe[16];
		unsigned n = 0, bad;
		int got;

		while (n < 16 && posted + n < total && posted + n - done < DEPTH)
			batch[n] = rdma(EMU_WR_RDMA_WRITE, posted + n, 0, bytes, 0x100, BYTES / 2, 0x200), n++;
		if (n)
			CHECK_EQ(emu_ring_post_send(a.qp, batch, n, NULL, &bad), 0);
		posted += n;
		got = emu_ring_poll(a.cq, cqe, 16);
		for (int i = 0; i < got; i++)
			emu_ring_qp_release(a.qp, 0, cqe[i].wq_head);
		done += (uint64_t)got;
		if (!got)
			emu_pause();
	}
	return (double)(clock_ns() - start);
}

static double copied(uint32_t bytes, uint64_t total)
{
	int64_t start = clock_ns();

	for (uint64_t i = 0; i < total; i++) {
		memcpy(w.mem + BYTES / 2, w.mem, bytes);
		__asm__ __volatile__("" ::: "memory");
	}
	return (double)(clock_ns() - start);
}

static void bandwidth(uint32_t bytes)
{
	uint64_t total = (4ull << 30) / bytes;
	double moved = (double)bytes * (double)total;
	double copy = copied(bytes, total), dma = pipelined(bytes, total);

	printf("write %7u B, pipelined   %9.2f GB/s   memcpy %.2f GB/s   ratio %.2f\n", bytes, moved / dma, moved / copy, copy / dma);
}

int main(void)
{
	world_open(&w, &(struct world_config){ .bytes = BYTES, .oplog = "/tmp/emu-bench-oplog", .oplog_capacity = 1 << 16 });
	remove("/tmp/emu-bench-oplog-0");
	end_open(&w, &a, &(struct end_config){ .depth = DEPTH, .own_mapping = 1 });
	end_open(&w, &b, &(struct end_config){ .depth = DEPTH, .own_mapping = 1 });
	end_connect(&a, &b);
	memset(w.mem, 1, BYTES);
	mr_add(&w, 0x100, 0, BYTES / 2);
	mr_add(&w, 0x200, BYTES / 2, BYTES / 2);
	one_at_a_time("warm up", EMU_WR_RDMA_WRITE, 8, 20000);
	one_at_a_time("write 8 B", EMU_WR_RDMA_WRITE, 8, 200000);
	one_at_a_time("read 8 B", EMU_WR_RDMA_READ, 8, 200000);
	one_at_a_time("write 4 KiB", EMU_WR_RDMA_WRITE, 4096, 100000);
	one_at_a_time_asleep(50000);
	printf("%-28s %9.3f M/s\n", "write 8 B, pipelined", 1e9 / (pipelined(8, 1000000) / 1e6) / 1e6);
	bandwidth(4096);
	bandwidth(65536);
	bandwidth(1 << 20);
	end_close(&a);
	end_close(&b);
	world_close(&w);
	return 0;
}
