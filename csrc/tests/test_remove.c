/* SPDX-License-Identifier: Apache-2.0
 * Queue pairs removed in the very moment in which their thread looks at them: each is told of once, and touched by nobody after that.
 * The sanitizers judge the second half.
 */
#include <errno.h>
#include <unistd.h>

#include "check.h"

#define MANY 64u
#define ROUNDS LOAD(800u)

static struct world w;
static uint32_t ctx, cq;

static uint32_t add(void)
{
	struct emu_qp_desc d = { ctx, PD, cq, cq, 4, 4, 1, 1, 0, 2 };
	int fd, got = emu_qp_add(w.e, &d, &fd);

	CHECK(got >= 0);
	close(fd);
	return (uint32_t)got;
}

/* A change of state kicks the queue pair, so that its thread is about to look at it when it is removed. */
static void kick_and_remove(uint32_t qp_num, uint64_t cookie)
{
	struct emu_qp_attr error = { .mask = EMU_QP_STATE, .state = EMU_QPS_ERR };

	CHECK_EQ(emu_qp_modify(w.e, qp_num, &error), 0);
	CHECK_EQ(emu_qp_remove(w.e, qp_num, cookie), 0);
	CHECK_EQ(emu_qp_remove(w.e, qp_num, cookie), -ENOENT);
}

static void each_is_told_of_once(void)
{
	int told[MANY] = { 0 };

	for (unsigned i = 0; i < MANY; i++) {
		uint64_t cookie = next_event(&w, EMU_ENG_QP_GONE).cookie;

		CHECK(cookie < MANY);
		CHECK_EQ(told[cookie]++, 0);
	}
}

static void removed_while_kicked(unsigned rounds)
{
	for (unsigned round = 0; round < rounds; round++) {
		uint32_t qps[MANY];
		struct emu_engine_stats s;

		for (unsigned i = 0; i < MANY; i++)
			qps[i] = add();
		for (unsigned i = 0; i < MANY; i++)
			kick_and_remove(qps[i], i);
		each_is_told_of_once();
		emu_engine_stats(w.e, &s);
		CHECK_EQ(s.qps, 0);
	}
}

static void world_with_queues(const struct world_config *config)
{
	int ctx_fd, bell_fd, cq_fd, got;

	world_open(&w, config);
	CHECK((got = emu_ctx_add(w.e, &ctx_fd, &bell_fd)) >= 0);
	ctx = (uint32_t)got;
	CHECK((got = emu_cq_add(w.e, ctx, MANY, &cq_fd)) >= 0);
	cq = (uint32_t)got;
	close(ctx_fd);
	close(bell_fd);
	close(cq_fd);
}

/* The engine ends with some that no thread has looked at. */
static void removed_and_never_retired(void)
{
	world_with_queues(&(struct world_config){ .idle = 1 });
	for (unsigned i = 0; i < MANY; i++)
		kick_and_remove(add(), i);
	world_close(&w);
}

int main(void)
{
	world_with_queues(&(struct world_config){ 0 });
	removed_while_kicked(ROUNDS);
	world_close(&w);
	removed_and_never_retired();
	return 0;
}
