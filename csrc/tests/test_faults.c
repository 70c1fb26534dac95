/* SPDX-License-Identifier: Apache-2.0
 * Page faults under dynamic keys: who waits, for what, what lets it go on; judged by the bytes. And keys that are given other memory.
 */
#include <errno.h>
#include <pthread.h>

#include "check.h"

#define SRC 0u
#define OLD (256u << 10)
#define NEW (512u << 10)
#define LEN 8192u
#define LKEY 0x100u
#define RKEY 0x200u
#define OTHER 0x300u

static struct world w;
static struct end a, b, c;

static int dynamic_add(uint32_t key, const struct emu_extent *x, uint32_t n, uint64_t length)
{
	struct emu_mr_desc d = { .key = key, .pd = PD, .access = ALL_RIGHTS, .importer = EMU_IMP_DYNAMIC,
		.aperture = (uint32_t)w.aperture, .n_extents = n, .iova = IOVA, .length = length, .extents = x };

	return emu_mr_install(w.e, &d);
}

static void dynamic_at(uint32_t key, uint64_t offset)
{
	CHECK_EQ(dynamic_add(key, &(struct emu_extent){ offset, LEN }, 1, LEN), 0);
}

static int remap(uint32_t key, uint64_t sequence, uint64_t offset)
{
	return emu_remap(w.e, key, sequence, (uint32_t)w.aperture, &(struct emu_extent){ offset, LEN }, 1);
}

static void invalidate(uint32_t key)
{
	static uint64_t cookie = 5000;

	CHECK_EQ(emu_invalidate(w.e, &key, 1, ++cookie, 1), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, cookie);
}

static void unmap(uint32_t key)
{
	static uint64_t cookie = 7000;

	CHECK_EQ(emu_unmap(w.e, &key, 1, ++cookie), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, cookie);
}

static struct emu_engine_event fault(uint32_t key, uint64_t sequence, uint64_t offset, uint32_t bytes, uint32_t write)
{
	struct emu_engine_event event = next_event(&w, EMU_ENG_FAULT);

	CHECK_EQ(event.id, key);
	CHECK_EQ(event.cookie, sequence);
	CHECK_EQ(event.offset, offset);
	CHECK_EQ(event.bytes, bytes);
	CHECK_EQ(event.code, write);
	return event;
}

static uint64_t parked(void)
{
	struct emu_engine_stats s;

	emu_engine_stats(w.e, &s);
	return s.parked;
}

/* One thread: whoever waits must not hold it up. */
static void fresh(const char *oplog)
{
	world_open(&w, &(struct world_config){ .quantum = 4096, .oplog = oplog });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_open(&w, &c, &(struct end_config){ 0 });
	end_connect(&a, &b);
	end_connect(&c, &c);
	mr_add(&w, LKEY, SRC, LEN);
	mr_add(&w, OTHER, LEN, LEN);
	dynamic_at(RKEY, OLD);
	memset(w.mem + SRC, 1, LEN);
}

static void done(void)
{
	end_close(&a);
	end_close(&b);
	end_close(&c);
	world_close(&w);
}

static struct emu_wqe write_to(uint64_t id, uint64_t offset, uint32_t bytes)
{
	return rdma(EMU_WR_RDMA_WRITE, id, SRC, bytes, LKEY, offset, RKEY);
}

static int all_are(uint64_t offset, uint64_t bytes, char value)
{
	for (uint64_t i = 0; i < bytes; i++)
		if (w.mem[offset + i] != value)
			return 0;
	return 1;
}

static void only_the_queue_pair_waits(void)
{
	fresh(NULL);
	invalidate(RKEY);
	CHECK_EQ(emu_mr_state(w.e, RKEY), EMU_MR_PARKED);
	unmap(RKEY);
	CHECK_EQ(emu_mr_state(w.e, RKEY), EMU_MR_ABSENT);
	post(&a, write_to(1, 0, LEN));
	post(&a, rdma(EMU_WR_RDMA_WRITE, 2, SRC, 64, LKEY, LEN, OTHER)); /* behind it, and elsewhere */
	fault(RKEY, 1, 0, LEN, 1);
	for (unsigned i = 0; i < 100; i++) { /* the thread goes on with others */
		post(&c, rdma(EMU_WR_RDMA_WRITE, i, SRC, 64, LKEY, LEN + 4096, OTHER));
		expect_wc(&c, i, EMU_WC_SUCCESS);
	}
	CHECK(no_wc(&a) && all_are(LEN, 64, 0) && all_are(OLD, LEN, 0));
	CHECK_EQ(parked(), 1);
	CHECK_EQ(emu_mr_inflight(w.e, (uint32_t[]){ RKEY }, 1), 1);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK(all_are(NEW, LEN, 1) && all_are(OLD, LEN, 0) && all_are(LEN, 64, 1));
	CHECK_EQ(parked(), 0);
	CHECK_EQ(emu_mr_inflight(w.e, (uint32_t[]){ RKEY }, 1), 0);
	done();
}

static void a_stale_answer_is_refused_and_asked_for_again(void)
{
	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post(&a, write_to(1, 4096, 100));
	fault(RKEY, 1, 4096, 100, 1);
	invalidate(RKEY);
	CHECK_EQ(emu_mr_sequence(w.e, RKEY), 2);
	CHECK_EQ(remap(RKEY, 1, NEW), -ESTALE);
	CHECK_EQ(emu_mr_state(w.e, RKEY), EMU_MR_ABSENT);
	fault(RKEY, 2, 4096, 100, 1);
	CHECK(no_wc(&a));
	CHECK_EQ(remap(RKEY, 2, NEW), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(NEW + 4096, 100, 1));
	CHECK_EQ(emu_mr_sequence(w.e, 0x7700), -ENOENT);
	done();
}

/* An invalidation that is not followed by an unmap (its reclaim was interrupted) leaves the same way out. */
static void a_parked_key_can_be_given_back(void)
{
	fresh(NULL);
	invalidate(RKEY);
	post(&a, write_to(1, 0, 64));
	fault(RKEY, 1, 0, 64, 1);
	CHECK_EQ(remap(RKEY, 1, OLD), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(OLD, 64, 1));
	done();
}

/* Half of it is memory, then nothing: the first half is written, then it fails. Who comes later asks again. */
static void what_is_gone_fails(void)
{
	struct emu_extent half[2] = { { NEW, 4096 }, { EMU_GONE, 4096 } };

	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post(&a, write_to(1, 0, LEN));
	fault(RKEY, 1, 0, LEN, 1);
	CHECK_EQ(emu_remap(w.e, RKEY, 1, (uint32_t)w.aperture, half, 2), 0);
	fault(RKEY, 1, 4096, 4096, 1); /* of its second half nothing was said since it was asked for */
	CHECK_EQ(emu_remap(w.e, RKEY, 1, (uint32_t)w.aperture, half, 2), 0);
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	CHECK(all_are(NEW, 4096, 1) && all_are(NEW + 4096, 4096, 0));
	CHECK_EQ(next_event(&w, EMU_ENG_ASYNC).code, EMU_EVENT_QP_ACCESS_ERR);
	post(&c, rdma(EMU_WR_RDMA_WRITE, 2, SRC, 64, LKEY, 4096, RKEY));
	fault(RKEY, 1, 4096, 64, 1);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&c, 2, EMU_WC_SUCCESS);
	CHECK(all_are(NEW + 4096, 64, 1));
	done();
}

/* The thread has been round, and has looked at whoever was kicked before. */
static void the_thread_goes_round(void)
{
	for (unsigned i = 0; i < 100; i++) {
		post(&c, rdma(EMU_WR_RDMA_WRITE, i, SRC, 64, LKEY, LEN + 4096, OTHER));
		expect_wc(&c, i, EMU_WC_SUCCESS);
	}
}

/* What is vacant does not fail: the answer was about other bytes. Nor is it asked for twice. */
static void what_is_vacant_is_asked_for(void)
{
	struct emu_extent half[2] = { { EMU_VACANT, 4096 }, { NEW, 4096 } };

	fresh(NULL);
	CHECK_EQ(emu_remap(w.e, RKEY, 0, (uint32_t)w.aperture, half, 2), 0); /* it lives: the same sequence */
	post(&a, write_to(1, 4096, 64));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	post(&a, write_to(2, 0, 64));
	fault(RKEY, 0, 0, 64, 1);
	CHECK_EQ(emu_remap(w.e, RKEY, 0, (uint32_t)w.aperture, half, 2), 0);
	the_thread_goes_round();
	CHECK(!event_pending(&w) && no_wc(&a));
	CHECK_EQ(remap(RKEY, 0, NEW), 0);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	done();
}

/* The answer to one is silent about the other, and may come before that one has looked at its own. */
static void who_was_told_that_it_is_gone_fails(void)
{
	struct emu_extent gone[2] = { { EMU_GONE, 4096 }, { EMU_VACANT, 4096 } };
	struct emu_extent half[2] = { { EMU_VACANT, 4096 }, { NEW, 4096 } };

	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post(&a, write_to(1, 0, 64));
	fault(RKEY, 1, 0, 64, 1);
	post(&c, write_to(2, 4096, 64));
	fault(RKEY, 1, 4096, 64, 1);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_NEXT, RKEY, 0), 0); /* outside: nobody looks, nothing is held up */
	CHECK_EQ(emu_remap(w.e, RKEY, 1, (uint32_t)w.aperture, gone, 2), 0);
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_remap(w.e, RKEY, 1, (uint32_t)w.aperture, half, 2), 0);
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_NEXT), 0);
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	expect_wc(&c, 2, EMU_WC_SUCCESS);
	CHECK(all_are(NEW, 64, 1) && all_are(NEW + 64, LEN - 64, 0));
	done();
}

/* Both sides of one message lie under one key: two questions, at the same byte of the message. */
static void both_sides_under_one_key_are_asked_for(void)
{
	struct emu_extent half[2] = { { NEW, 4096 }, { EMU_VACANT, 4096 } };

	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, 0, 64, RKEY, 4096, RKEY));
	fault(RKEY, 1, 0, 64, 0);
	CHECK_EQ(emu_remap(w.e, RKEY, 1, (uint32_t)w.aperture, half, 2), 0);
	fault(RKEY, 1, 4096, 64, 1);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	done();
}

#define HERD 128u
#define HERD_AT (1u << 20)

/* Answered one by one, with an invalidation in the middle: none asks more often than it has to, and none is left. */
static void a_herd_under_one_key_asks_once_each(void)
{
	static struct end herd[HERD];
	struct emu_extent x[HERD];
	struct emu_engine_event event;
	unsigned reports = 0, filled = 0;

	world_open(&w, &(struct world_config){ .quantum = 4096, .bytes = 2 * HERD_AT });
	mr_add(&w, LKEY, SRC, LEN);
	memset(w.mem + SRC, 1, LEN);
	for (unsigned i = 0; i < HERD; i++)
		x[i] = (struct emu_extent){ EMU_VACANT, 4096 };
	CHECK_EQ(dynamic_add(RKEY, x, HERD, HERD * 4096), 0);
	for (unsigned i = 0; i < HERD; i++) {
		end_open(&w, &herd[i], &(struct end_config){ 0 });
		end_connect(&herd[i], &herd[i]);
		post(&herd[i], write_to(i, (uint64_t)i * 4096, 64));
	}
	while (filled < HERD) {
		event = next_event(&w, EMU_ENG_FAULT);
		reports++;
		if (reports == HERD / 2)
			CHECK_EQ(emu_invalidate(w.e, (uint32_t[]){ RKEY }, 1, 1, 0), 0);
		x[event.offset / 4096].offset = HERD_AT + event.offset;
		if (emu_remap(w.e, RKEY, event.cookie, (uint32_t)w.aperture, x, HERD) < 0) {
			x[event.offset / 4096].offset = EMU_VACANT;
			continue;
		}
		expect_wc(&herd[event.offset / 4096], event.offset / 4096, EMU_WC_SUCCESS);
		CHECK(all_are(HERD_AT + event.offset, 64, 1));
		filled++;
	}
	CHECK(reports <= 3 * HERD);
	CHECK_EQ(parked(), 0);
	for (unsigned i = 0; i < HERD; i++)
		end_close(&herd[i]);
	world_close(&w);
}

static void reads_and_local_memory_wait_too(void)
{
	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	memset(w.mem + NEW, 3, LEN);
	post(&a, rdma(EMU_WR_RDMA_READ, 1, SRC, 64, LKEY, 0, RKEY));
	fault(RKEY, 1, 0, 64, 0);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(SRC, 64, 3));
	invalidate(RKEY);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 2, 0, 64, RKEY, LEN, OTHER)); /* its own buffer, to be read */
	fault(RKEY, 2, 0, 64, 0);
	CHECK_EQ(remap(RKEY, 2, NEW), 0);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK(all_are(LEN, 64, 3));
	invalidate(RKEY);
	post(&a, rdma(EMU_WR_RDMA_READ, 3, 0, 64, RKEY, LEN + 128, OTHER)); /* its own buffer, to be written */
	fault(RKEY, 3, 0, 64, 1);
	CHECK_EQ(emu_remap(w.e, RKEY, 3, (uint32_t)w.aperture, &(struct emu_extent){ EMU_GONE, LEN }, 1), 0);
	expect_wc(&a, 3, EMU_WC_LOC_PROT_ERR);
	done();
}

static void a_receive_waits_too(void)
{
	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post_recv(&b, 9, 0, LEN, RKEY);
	post(&a, wqe_of(EMU_WR_SEND, 1, SRC, LEN, LKEY));
	fault(RKEY, 1, 0, LEN, 1);
	CHECK(no_wc(&b));
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&b, 9, EMU_WC_SUCCESS);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(NEW, LEN, 1));
	done();
}

static void parked_at(uint64_t id)
{
	fresh(NULL);
	invalidate(RKEY);
	unmap(RKEY);
	post(&a, write_to(id, 0, 64));
	fault(RKEY, 1, 0, 64, 1);
}

static void who_waits_can_go(void)
{
	uint32_t key = RKEY;

	parked_at(1); /* its key is taken away for good */
	quiesce(&w, &key, 1);
	expect_wc(&a, 1, EMU_WC_REM_ACCESS_ERR);
	CHECK_EQ(remap(RKEY, 1, NEW), -EBUSY);
	unmap(RKEY);
	CHECK_EQ(emu_mr_state(w.e, RKEY), EMU_MR_UNMAPPED);
	CHECK_EQ(remap(RKEY, 1, NEW), -ENOENT);
	CHECK_EQ(emu_mr_remove(w.e, RKEY), 0);
	CHECK_EQ(remap(RKEY, 1, NEW), -ENOENT);
	done();

	parked_at(7); /* the same, while there is nothing to unmap */
	CHECK_EQ(emu_mr_remove(w.e, RKEY), 0);
	expect_wc(&a, 7, EMU_WC_REM_ACCESS_ERR);
	CHECK_EQ(emu_mr_state(w.e, RKEY), -ENOENT);
	done();

	parked_at(2); /* its queue pair is reset, and used again */
	CHECK_EQ(modify(&a, EMU_QPS_ERR), 0);
	expect_wc(&a, 2, EMU_WC_WR_FLUSH_ERR);
	CHECK_EQ(parked(), 0);
	CHECK_EQ(emu_mr_inflight(w.e, &key, 1), 0);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	CHECK(all_are(NEW, 64, 0));
	done();

	parked_at(3); /* its queue pair is destroyed */
	CHECK_EQ(emu_qp_remove(w.e, a.qp_num, 77), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QP_GONE).cookie, 77);
	CHECK_EQ(parked(), 0);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	done();

	parked_at(4); /* its peer goes to ERR: no answer, until the retries are over */
	CHECK_EQ(modify(&b, EMU_QPS_ERR), 0);
	expect_wc(&a, 4, EMU_WC_RETRY_EXC_ERR);
	done();

	parked_at(5); /* its peer is destroyed */
	CHECK_EQ(emu_qp_remove(w.e, b.qp_num, 78), 0);
	expect_wc(&a, 5, EMU_WC_RETRY_EXC_ERR);
	done();

	parked_at(6); /* the engine goes, with somebody parked, and a report that nobody has taken */
	CHECK_EQ(remap(RKEY, 0, NEW), -ESTALE);
	done();
}

static void a_drain_waits_for_bytes_under_way(void)
{
	uint32_t key = RKEY;

	fresh(NULL);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_HALF, RKEY, 0), 0);
	post(&a, write_to(1, 0, LEN));
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_invalidate(w.e, &key, 1, 9, 0), 0);
	CHECK_EQ(emu_unmap(w.e, &key, 1, 10), -EBUSY);
	CHECK(!event_pending(&w));
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_HALF), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, 9);
	CHECK(all_are(OLD, 4096, 1) && all_are(OLD + 4096, 4096, 0));
	fault(RKEY, 1, 4096, 4096, 1); /* the rest waits */
	unmap(RKEY);
	CHECK_EQ(remap(RKEY, 1, NEW), 0);
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(OLD + 4096, 4096, 0) && all_are(NEW + 4096, 4096, 1) && all_are(NEW, 4096, 0));
	done();
}

static void what_makes_no_sense_is_refused(void)
{
	uint32_t plain = LKEY, gone = 0x7700;
	struct emu_extent bad[2] = { { OLD, 4096 }, { w.bytes, 4096 } };

	fresh(NULL);
	CHECK_EQ(emu_invalidate(w.e, &plain, 1, 1, 0), -EINVAL);
	CHECK_EQ(emu_mr_state(w.e, LKEY), EMU_MR_LIVE);
	CHECK_EQ(emu_invalidate(w.e, &gone, 1, 2, 0), 0); /* unknown keys are skipped */
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, 2);
	bad[1].offset = w.bytes;
	CHECK_EQ(emu_remap(w.e, RKEY, 0, (uint32_t)w.aperture, bad, 2), -EINVAL);
	CHECK_EQ(emu_remap(w.e, RKEY, 0, (uint32_t)w.aperture, bad, 1), -EINVAL);
	CHECK_EQ(emu_remap(w.e, RKEY, 0, 999, bad, 1), -ENODEV);
	CHECK_EQ(dynamic_add(0x800, &(struct emu_extent){ EMU_GONE, LEN }, 1, LEN), 0);
	CHECK_EQ(emu_mr_install(w.e, &(struct emu_mr_desc){ .key = 0x900, .pd = PD, .aperture = (uint32_t)w.aperture,
		.n_extents = 1, .length = LEN, .extents = &(struct emu_extent){ EMU_VACANT, LEN } }), -EINVAL);
	CHECK_EQ(remap(LKEY, 0, NEW), -EBUSY); /* it lives, and it is not dynamic */
	CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)w.aperture, -1, -1), 0);
	CHECK_EQ(remap(RKEY, 0, NEW), -ENODEV);
	CHECK_EQ(emu_remap(w.e, RKEY, 0, (uint32_t)w.aperture, &(struct emu_extent){ EMU_GONE, LEN }, 1), 0);
	done();
}

/* A key of another kind, quiesced, lives again: its second half now in a page that it shares with itself. */
static void a_quiesced_key_is_retargeted(void)
{
	uint32_t key = OTHER;
	struct emu_extent x[3] = { { LEN, 4096 }, { NEW, 2048 }, { NEW, 2048 } };

	fresh(NULL);
	quiesce(&w, &key, 1);
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, x, 3), 0);
	CHECK_EQ(emu_mr_state(w.e, OTHER), EMU_MR_LIVE);
	memset(w.mem + SRC + 6144, 5, 2048);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, SRC, LEN, LKEY, LEN, OTHER));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(LEN, 4096, 1) && all_are(LEN + 4096, 4096, 0) && all_are(NEW, 2048, 5) && all_are(NEW + 2048, 2048, 0));
	quiesce(&w, &key, 1);
	unmap(OTHER);
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, x, 3), -ENOENT);
	CHECK_EQ(emu_mr_remove(w.e, OTHER), 0);
	done();
}

/* A key of another importer that its owner has parked: who comes waits, nobody is asked, and each way out. */
static void a_parked_key_of_another_importer_waits_for_its_owner(void)
{
	uint32_t key = OTHER;
	struct emu_extent x[2] = { { LEN, 4096 }, { NEW, 4096 } };

	fresh(NULL);
	CHECK_EQ(emu_hold_arm(w.e, EMU_HOLD_QUANTUM_HALF, OTHER, 0), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, SRC, LEN, LKEY, LEN, OTHER));
	next_event(&w, EMU_ENG_HELD);
	CHECK_EQ(emu_invalidate(w.e, &key, 1, 9, 1), 0);
	CHECK_EQ(emu_mr_state(w.e, OTHER), EMU_MR_PARKED);
	CHECK_EQ(emu_unmap(w.e, &key, 1, 10), -EBUSY);
	CHECK(!event_pending(&w));
	CHECK_EQ(emu_hold_release(w.e, EMU_HOLD_QUANTUM_HALF), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_QUIESCED).cookie, 9);
	for (unsigned i = 0; i < 100; i++) { /* its thread goes on with others */
		post(&c, rdma(EMU_WR_RDMA_WRITE, i, SRC, 64, LKEY, 0, LKEY));
		expect_wc(&c, i, EMU_WC_SUCCESS);
	}
	CHECK(no_wc(&a) && !event_pending(&w));
	CHECK_EQ(parked(), 1);
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, x, 2), 0); /* its second half is elsewhere now */
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(LEN, 4096, 1) && all_are(LEN + 4096, 4096, 0) && all_are(NEW, 4096, 1));
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, x, 2), -EBUSY); /* it lives */

	invalidate(OTHER);
	post(&a, rdma(EMU_WR_RDMA_READ, 2, LEN, 64, OTHER, 0, LKEY)); /* as its own memory */
	while (parked() != 1)
		emu_pause();
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, &(struct emu_extent){ NEW, LEN }, 1), 0);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK(!event_pending(&w));

	invalidate(OTHER); /* its registration ends: refused */
	post(&a, rdma(EMU_WR_RDMA_WRITE, 3, SRC, 64, LKEY, LEN, OTHER));
	while (parked() != 1)
		emu_pause();
	quiesce(&w, &key, 1);
	expect_wc(&a, 3, EMU_WC_REM_ACCESS_ERR);
	unmap(OTHER);
	CHECK_EQ(emu_mr_state(w.e, OTHER), EMU_MR_UNMAPPED);
	CHECK_EQ(emu_mr_remove(w.e, OTHER), 0);
	done();

	fresh(NULL); /* it is unmapped as it is: refused, and no page fault */
	invalidate(OTHER);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 4, SRC, 64, LKEY, LEN, OTHER));
	while (parked() != 1)
		emu_pause();
	unmap(OTHER);
	expect_wc(&a, 4, EMU_WC_REM_ACCESS_ERR);
	CHECK_EQ(emu_mr_state(w.e, OTHER), EMU_MR_UNMAPPED);
	CHECK_EQ(emu_mr_remove(w.e, OTHER), 0);
	CHECK_EQ(parked(), 0);
	done();
}

/* The page behind a device: DMA may be led there, nothing else comes there, and it goes with the memory. */
static void a_scratch_page_takes_what_is_nobodys(void)
{
	struct emu_extent x[2] = { { LEN, 4096 }, { 0, 4096 } }, beyond;
	uint32_t key = OTHER;
	int scratch;
	char byte = 0;

	fresh(NULL);
	CHECK_EQ(emu_aperture_add(w.e, w.fd, w.bytes, 0, -1, EMU_AP_SCRATCH), -EINVAL);
	CHECK_EQ(emu_aperture_add(w.e, w.fd, w.bytes - 64, 4096, -1, EMU_AP_SCRATCH), -EINVAL);
	scratch = emu_aperture_add(w.e, w.fd, w.bytes, 4096, w.gens_fd, EMU_AP_SCRATCH);
	CHECK(scratch > 0);
	quiesce(&w, &key, 1);
	beyond = (struct emu_extent){ w.bytes + 4096, LEN };
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)scratch, &beyond, 1), -EINVAL);
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)w.aperture, &(struct emu_extent){ w.bytes - 4096, LEN }, 1), -EINVAL);
	x[1].offset = w.bytes;
	CHECK_EQ(emu_remap(w.e, OTHER, 0, (uint32_t)scratch, x, 2), 0);
	post(&a, rdma(EMU_WR_RDMA_WRITE, 1, SRC, LEN, LKEY, LEN, OTHER));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	CHECK(all_are(LEN, 4096, 1) && all_are(LEN + 4096, 4096, 0));
	CHECK_EQ(emu_cpu_read(w.e, (uint32_t)scratch, w.bytes, &byte, 1), -EINVAL);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)scratch, w.bytes, 4096, 0), -EINVAL);
	post(&a, rdma(EMU_WR_RDMA_READ, 2, SRC, 64, LKEY, LEN + 4096, OTHER)); /* what was written there last */
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	CHECK(all_are(SRC, 64, 1));
	CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)scratch, -1, -1), 0);
	post(&a, rdma(EMU_WR_RDMA_READ, 3, SRC, 64, LKEY, LEN + 4096, OTHER));
	expect_wc(&a, 3, EMU_WC_SUCCESS);
	CHECK(all_are(SRC, 64, (char)0xff));
	CHECK_EQ(emu_aperture_swap(w.e, (uint32_t)scratch, w.fd, w.gens_fd), 0);
	quiesce(&w, &key, 1);
	unmap(OTHER);
	CHECK_EQ(emu_mr_remove(w.e, OTHER), 0);
	CHECK_EQ(emu_aperture_drop(w.e, (uint32_t)scratch), 0);
	done();
}

/* The generation that counts is the one at the new translation: blocks that changed hands before it are no news. */
static void the_log_knows_the_new_translation(void)
{
	struct emu_oplog_record *r;
	struct log log;

	fresh("test-faults-log");
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, OLD, LEN, 0), 0);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, NEW, LEN, 0), 0);
	CHECK_EQ(remap(RKEY, 0, OLD), 0);
	post(&a, write_to(1, 0, 64));
	expect_wc(&a, 1, EMU_WC_SUCCESS);
	invalidate(RKEY);
	unmap(RKEY);
	CHECK_EQ(emu_blocks_release(w.e, (uint32_t)w.aperture, OLD, LEN, 0), 0);
	CHECK_EQ(emu_blocks_allocate(w.e, (uint32_t)w.aperture, OLD, LEN, 0), 0); /* generation 4: other hands */
	post(&a, write_to(2, 0, 64));
	fault(RKEY, 1, 0, 64, 1);
	CHECK_EQ(remap(RKEY, 1, OLD), 0);
	expect_wc(&a, 2, EMU_WC_SUCCESS);
	done();
	log_read("test-faults-log-0", &log);
	CHECK_EQ(log.header.written, 2); /* a sum ends with its translation, and a wait is no record */
	r = log.records;
	CHECK_EQ(r[0].flags | r[1].flags, 0);
	CHECK_EQ(r[0].gen_translated, 2);
	CHECK_EQ(r[1].gen_translated, 4);
	CHECK_EQ(r[1].dst_offset, OLD);
	free(log.records);
	remove("test-faults-log-0");
}

/* ---- all at once: writers and readers against a key that goes, moves and comes back */

#define CLIENTS 4u
#define SLICE 16384u
#define PLACES 4u
#define PLACE(i) (CLIENTS * SLICE + (uint64_t)(i) * CLIENTS * SLICE)

struct client {
	struct end a, b;
	unsigned i;
	pthread_t thread;
	uint64_t good, last;
};

static uint32_t stop;

static void *client_main(void *arg)
{
	struct client *me = arg;

	for (uint64_t n = 1; !emu_peek(&stop); n++) {
		uint64_t at = (uint64_t)me->i * SLICE;

		memset(w.mem + at, (int)n, SLICE);
		post(&me->a, rdma(EMU_WR_RDMA_WRITE, n, at, SLICE, LKEY, at, RKEY));
		expect_wc(&me->a, n, EMU_WC_SUCCESS);
		me->last = n;
		emu_poke(&me->good, n);
	}
	return NULL;
}

static void answer_faults(unsigned place, uint64_t *random, uint64_t *refused)
{
	struct emu_extent x = { PLACE(place), CLIENTS * SLICE };
	struct emu_engine_event event;

	while (emu_events_take(w.e, &event, 1) == 1) {
		int err;

		if (event.kind != EMU_ENG_FAULT)
			continue;
		if (random_next(random) % 4 == 0 && event.cookie) { /* who waits is kicked for nothing */
			CHECK_EQ(emu_remap(w.e, RKEY, event.cookie - 1, (uint32_t)w.aperture, &x, 1), -ESTALE);
			++*refused;
		}
		err = emu_remap(w.e, RKEY, event.cookie, (uint32_t)w.aperture, &x, 1);
		CHECK(err == 0 || err == -ESTALE);
		*refused += err == -ESTALE;
	}
}

/* Whether a fault was dropped on the way. If it is older than the last invalidation it comes again when an answer is refused; if not, somebody
 * owes it one. */
static int wait_for(uint32_t kind)
{
	struct emu_engine_event event;
	int dropped = 0;

	do {
		while (emu_events_take(w.e, &event, 1) != 1)
			emu_pause();
		dropped |= event.kind == EMU_ENG_FAULT;
	} while (event.kind != kind);
	return dropped;
}

static void storm(uint32_t quantum, uint32_t threads, unsigned rounds)
{
	uint64_t random = 88172645463325252ull, refused = 0, goes_on;
	struct client all[CLIENTS];
	uint32_t key = RKEY;
	char *before = malloc(CLIENTS * SLICE);
	unsigned place = 0;

	CHECK(before);
	stop = 0;
	world_open(&w, &(struct world_config){ .threads = threads, .quantum = quantum, .bytes = PLACE(PLACES) });
	mr_add(&w, LKEY, 0, CLIENTS * SLICE);
	CHECK_EQ(dynamic_add(RKEY, &(struct emu_extent){ PLACE(0), CLIENTS * SLICE }, 1, CLIENTS * SLICE), 0);
	for (unsigned i = 0; i < CLIENTS; i++) {
		all[i] = (struct client){ .i = i };
		end_open(&w, &all[i].a, &(struct end_config){ 0 });
		end_open(&w, &all[i].b, &(struct end_config){ 0 });
		end_connect(&all[i].a, &all[i].b);
		CHECK_EQ(pthread_create(&all[i].thread, NULL, client_main, &all[i]), 0);
	}
	for (unsigned round = 1; round <= rounds; round++) {
		unsigned was = place;
		int owed;

		CHECK_EQ(emu_invalidate(w.e, &key, 1, round, 0), 0);
		owed = wait_for(EMU_ENG_QUIESCED);
		memcpy(before, w.mem + PLACE(was), CLIENTS * SLICE);
		if (random_next(&random) % 2) {
			CHECK_EQ(emu_unmap(w.e, &key, 1, round), 0);
			owed |= wait_for(EMU_ENG_UNMAPPED);
		}
		place = (was + 1) % PLACES;
		if (random_next(&random) % 8 == 0)
			CHECK_EQ(emu_invalidate(w.e, &key, 1, round, 0), 0);
		/* Older faults that were dropped above are answered by a stale remap: whoever waits asks again. Newer ones by another. */
		CHECK_EQ(emu_remap(w.e, RKEY, (uint64_t)emu_mr_sequence(w.e, RKEY) - 1, (uint32_t)w.aperture,
				   &(struct emu_extent){ PLACE(place), CLIENTS * SLICE }, 1), -ESTALE);
		if (owed)
			CHECK_EQ(emu_remap(w.e, RKEY, (uint64_t)emu_mr_sequence(w.e, RKEY), (uint32_t)w.aperture,
					   &(struct emu_extent){ PLACE(place), CLIENTS * SLICE }, 1), 0);
		goes_on = emu_peek(&all[round % CLIENTS].good);
		while (emu_peek(&all[round % CLIENTS].good) < goes_on + 3) {
			answer_faults(place, &random, &refused);
			emu_pause();
		}
		CHECK_EQ(memcmp(before, w.mem + PLACE(was), CLIENTS * SLICE), 0); /* nobody came back to the old place */
	}
	/* Everybody once more to the last place: who slept meanwhile has its last bytes elsewhere. The one under way may be an old one. */
	for (unsigned i = 0; i < CLIENTS; i++) {
		goes_on = emu_peek(&all[i].good);
		while (emu_peek(&all[i].good) < goes_on + 2) {
			answer_faults(place, &random, &refused);
			emu_pause();
		}
	}
	emu_poke(&stop, 1);
	for (unsigned i = 0; i < CLIENTS; i++) {
		while (pthread_tryjoin_np(all[i].thread, NULL)) {
			answer_faults(place, &random, &refused);
			emu_pause();
		}
		CHECK_EQ(w.mem[PLACE(place) + i * SLICE], (char)all[i].last);
		CHECK_EQ(w.mem[PLACE(place) + (i + 1) * SLICE - 1], (char)all[i].last);
		end_close(&all[i].a);
		end_close(&all[i].b);
	}
	CHECK(refused > 0);
	CHECK_EQ(parked(), 0);
	free(before);
	world_close(&w);
}

int main(void)
{
	only_the_queue_pair_waits();
	a_stale_answer_is_refused_and_asked_for_again();
	a_parked_key_can_be_given_back();
	what_is_gone_fails();
	what_is_vacant_is_asked_for();
	who_was_told_that_it_is_gone_fails();
	both_sides_under_one_key_are_asked_for();
	a_herd_under_one_key_asks_once_each();
	reads_and_local_memory_wait_too();
	a_receive_waits_too();
	who_waits_can_go();
	a_drain_waits_for_bytes_under_way();
	what_makes_no_sense_is_refused();
	a_quiesced_key_is_retargeted();
	a_parked_key_of_another_importer_waits_for_its_owner();
	a_scratch_page_takes_what_is_nobodys();
	the_log_knows_the_new_translation();
	storm(4096, 1, LOAD(400u));
	storm(65536, 2, LOAD(400u));
	return 0;
}
