/* SPDX-License-Identifier: Apache-2.0
 * Each operation moves the right bytes to the right place and completes on both sides as verbs say.
 */
#include "check.h"

static struct world w;
static struct end a, b;

#define HALF (512u << 10)

static void fill(uint64_t seed, uint64_t at, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		w.mem[at + i] = (char)(random_next(&seed) >> 32);
}

static void write_moves_bytes(uint32_t n)
{
	struct emu_cqe cqe;

	fill(n, 0, n);
	post(&a, rdma(EMU_WR_RDMA_WRITE, n, 0, n, 0x100, HALF, 0x200));
	cqe = next_wc(&a);
	CHECK_EQ(cqe.status, EMU_WC_SUCCESS);
	CHECK_EQ(cqe.opcode, EMU_WC_RDMA_WRITE);
	CHECK_EQ(cqe.wr_id, n);
	CHECK_EQ(memcmp(w.mem, w.mem + HALF, n), 0);
	CHECK(no_wc(&b));
}

static void read_moves_bytes(uint32_t n)
{
	struct emu_cqe cqe;

	fill(n + 1, HALF, n);
	post(&a, rdma(EMU_WR_RDMA_READ, n, 0, n, 0x100, HALF, 0x200));
	cqe = next_wc(&a);
	CHECK_EQ(cqe.status, EMU_WC_SUCCESS);
	CHECK_EQ(cqe.opcode, EMU_WC_RDMA_READ);
	CHECK_EQ(cqe.byte_len, n);
	CHECK_EQ(memcmp(w.mem, w.mem + HALF, n), 0);
}

static void send_fills_the_receive_buffer(uint32_t n, uint8_t opcode)
{
	struct emu_wqe wqe = wqe_of(opcode, 5, 0, n, 0x100);
	struct emu_cqe cqe;

	fill(n + 2, 0, n);
	w.mem[HALF + n] = 77;
	post_recv(&b, 6, HALF, n + 100, 0x200);
	wqe.imm_data = 0xabcd;
	post(&a, wqe);
	expect_wc(&a, 5, EMU_WC_SUCCESS);
	cqe = next_wc(&b);
	CHECK_EQ(cqe.wr_id, 6);
	CHECK_EQ(cqe.status, EMU_WC_SUCCESS);
	CHECK_EQ(cqe.opcode, EMU_WC_RECV);
	CHECK_EQ(cqe.byte_len, n);
	CHECK_EQ(cqe.src_qp, a.qp_num);
	CHECK_EQ(cqe.wc_flags, opcode == EMU_WR_SEND ? 0 : EMU_WC_WITH_IMM);
	CHECK_EQ(cqe.imm_data, opcode == EMU_WR_SEND ? 0 : 0xabcd);
	CHECK_EQ(memcmp(w.mem, w.mem + HALF, n), 0);
	CHECK_EQ(w.mem[HALF + n], 77);
}

static void write_with_imm_completes_a_receive(void)
{
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE_WITH_IMM, 7, 0, 100, 0x100, HALF, 0x200);
	struct emu_cqe cqe;

	fill(9, 0, 100);
	post_recv(&b, 8, HALF, 0, 0);
	wqe.imm_data = 99;
	post(&a, wqe);
	expect_wc(&a, 7, EMU_WC_SUCCESS);
	cqe = next_wc(&b);
	CHECK_EQ(cqe.wr_id, 8);
	CHECK_EQ(cqe.opcode, EMU_WC_RECV_RDMA_WITH_IMM);
	CHECK_EQ(cqe.imm_data, 99);
	CHECK_EQ(cqe.byte_len, 100);
	CHECK_EQ(memcmp(w.mem, w.mem + HALF, 100), 0);
}

/* Four pieces gathered, three pieces scattered, no boundary in common. */
static void pieces_are_gathered_and_scattered(void)
{
	struct emu_sge more[3] = { { IOVA + 5000, 1, 0x100 }, { IOVA + 6000, 0, 0x100 }, { IOVA + 7000, 300, 0x100 } };
	struct emu_sge further[2] = { { IOVA + HALF + 9000, 290, 0x200 }, { IOVA + HALF + 12000, 400, 0x200 } };
	struct emu_wqe s = wqe_of(EMU_WR_SEND, 1, 0, 250, 0x100), r = wqe_of(0, 2, HALF, 10, 0x200);
	char sent[551], got[551];
	unsigned bad;

	fill(3, 0, 8000);
	s.num_sge = 4;
	r.num_sge = 3;
	CHECK_EQ(emu_ring_post_recv(b.qp, &r, 1, further, &bad), 0);
	CHECK_EQ(emu_ring_post_send(a.qp, &s, 1, more, &bad), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK_EQ(next_wc(&b).byte_len, 551);
	memcpy(sent, w.mem, 250);
	memcpy(sent + 250, w.mem + 5000, 1);
	memcpy(sent + 251, w.mem + 7000, 300);
	memcpy(got, w.mem + HALF, 10);
	memcpy(got + 10, w.mem + HALF + 9000, 290);
	memcpy(got + 300, w.mem + HALF + 12000, 251);
	CHECK_EQ(memcmp(sent, got, 551), 0);
}

static void sixteen_pieces_work(void)
{
	struct emu_wqe s = rdma(EMU_WR_RDMA_WRITE, 1, 0, 10, 0x100, HALF, 0x200);
	struct emu_sge more[15];
	unsigned bad;

	fill(4, 0, 16000);
	for (unsigned i = 0; i < 15; i++)
		more[i] = (struct emu_sge){ IOVA + 1000 * (i + 1), 10, 0x100 };
	s.num_sge = 16;
	CHECK_EQ(emu_ring_post_send(a.qp, &s, 1, more, &bad), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	for (unsigned i = 0; i < 16; i++)
		CHECK_EQ(memcmp(w.mem + 1000 * i, w.mem + HALF + 10 * i, 10), 0);
}

static void an_empty_message_needs_no_key(void)
{
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, 3, 0, 0, 0xdead, 0, 0xbeef);

	wqe.num_sge = 0;
	post(&a, wqe);
	expect_wc(&a, 3, EMU_WC_SUCCESS);
	wqe.num_sge = 1;
	post(&a, wqe);
	expect_wc(&a, 3, EMU_WC_SUCCESS);
}

static void unsignaled_requests_complete_in_silence(void)
{
	struct emu_cqe cqe;

	for (int i = 0; i < 1000; i++) {
		struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, (uint64_t)i, 0, 8, 0x100, HALF, 0x200);

		if (i % 10 != 9)
			wqe.flags = 0;
		post(&a, wqe);
		if (i % 10 == 9) {
			cqe = next_wc(&a);
			CHECK_EQ(cqe.wr_id, i);
		}
	}
	CHECK(no_wc(&a));
}

/* Extents out of order in the aperture: the region is contiguous to those who use it. */
static void extents_are_followed(void)
{
	struct emu_extent x[4] = { { 40960, 4096 }, { 8192, 8192 }, { 16384, 4096 }, { 0, 4096 } };
	struct emu_mr_desc d = { .key = 0x300, .pd = PD, .access = ALL_RIGHTS, .aperture = (uint32_t)w.aperture,
		.n_extents = 4, .iova = 0x5000, .length = 20480, .extents = x };
	struct emu_wqe wqe = rdma(EMU_WR_RDMA_WRITE, 1, HALF, 10000, 0x200, 0, 0x300);

	CHECK_EQ(emu_mr_install(w.e, &d), 0);
	fill(6, HALF, 10000);
	wqe.remote_addr = 0x5000 + 4000; /* 96 bytes of the first, all of the second, then the third */
	post(&a, wqe);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK_EQ(memcmp(w.mem + 40960 + 4000, w.mem + HALF, 96), 0);
	CHECK_EQ(memcmp(w.mem + 8192, w.mem + HALF + 96, 8192), 0);
	CHECK_EQ(memcmp(w.mem + 16384, w.mem + HALF + 96 + 8192, 10000 - 96 - 8192), 0);
}

static void loopback_works(void)
{
	struct end c;

	end_open(&w, &c, &(struct end_config){ 0 });
	end_connect(&c, &c);
	post_recv(&c, 2, HALF, 64, 0x200);
	fill(7, 0, 64);
	post(&c, wqe_of(EMU_WR_SEND, 1, 0, 64, 0x100));
	expect_wc(&c, 2, EMU_WC_SUCCESS);
	expect_wc(&c, 1, EMU_WC_SUCCESS);
	CHECK_EQ(memcmp(w.mem, w.mem + HALF, 64), 0);
	end_close(&c);
}

static void run(uint32_t threads)
{
	world_open(&w, &(struct world_config){ .threads = threads });
	end_open(&w, &a, &(struct end_config){ .sge = 16 });
	end_open(&w, &b, &(struct end_config){ .sge = 16 });
	end_connect(&a, &b);
	mr_add(&w, 0x100, 0, HALF);
	mr_add(&w, 0x200, HALF, HALF);
	for (uint32_t n = 1; n < 300000; n = n * 3 + 1) {
		write_moves_bytes(n);
		read_moves_bytes(n);
		send_fills_the_receive_buffer(n, EMU_WR_SEND);
		send_fills_the_receive_buffer(n, EMU_WR_SEND_WITH_IMM);
	}
	write_with_imm_completes_a_receive();
	pieces_are_gathered_and_scattered();
	sixteen_pieces_work();
	an_empty_message_needs_no_key();
	unsignaled_requests_complete_in_silence();
	extents_are_followed();
	loopback_works();
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

int main(void)
{
	run(1);
	run(2);
	return 0;
}
