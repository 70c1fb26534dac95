/* SPDX-License-Identifier: Apache-2.0
 * A planted mistake: a completion handed over without release and acquire. The race detector must report it, or it sees
 * nothing in the other programs either. Built and run in TSan builds only; see expect_race.sh.
 */
#include <pthread.h>

#include "check.h"

static struct emu_cqe slot;

static void *producer(void *arg)
{
	(void)arg;
	slot.wr_id = 42;
	emu_poke(&slot.seq, 1); /* emu_publish would be right */
	return NULL;
}

int main(void)
{
	pthread_t thread;
	uint64_t wr_id;

	CHECK_EQ(pthread_create(&thread, NULL, producer, NULL), 0);
	while (emu_peek(&slot.seq) != 1) /* emu_observe would be right */
		emu_pause();
	wr_id = slot.wr_id;
	pthread_join(thread, NULL);
	return wr_id == 42 ? 0 : 1;
}
