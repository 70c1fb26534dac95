/* SPDX-License-Identifier: Apache-2.0
 * Quiesce and unmap: after the answer no byte changes, judged by the bytes; many keys cost one period; who is not concerned
 * goes on.
 */
#include <errno.h>
#include <pthread.h>

#include "check.h"

#define CLIENTS 4u
#define SLICE (64u << 10)
#define SRC(i) ((uint64_t)(i) * SLICE)
#define DST(i) ((uint64_t)(CLIENTS + (i)) * SLICE)
#define LKEY(i) (0x1000u + ((i) << 8))
#define RKEY(i) (0x9000u + ((i) << 8))

static struct world w;

struct client {
	struct end a, b;
	unsigned i;
	pthread_t thread;
	uint64_t good, first_error;
	uint32_t error;
};

/* Writes a new pattern over its slice until it is refused. */
static void *writer(void *arg)
{
	struct client *c = arg;

	for (uint64_t n = 1;; n++) {
		struct emu_cqe cqe;

		memset(w.mem + SRC(c->i), (int)n, SLICE);
		post(&c->a, rdma(EMU_WR_RDMA_WRITE, n, SRC(c->i), SLICE, LKEY(c->i), DST(c->i), RKEY(c->i)));
		cqe = next_wc(&c->a);
		if (cqe.status != EMU_WC_SUCCESS) {
			c->error = cqe.status;
			return NULL;
		}
		emu_poke(&c->good, n);
	}
}

static void clients_start(struct client *c, uint32_t quantum, uint32_t threads)
{
	world_open(&w, &(struct world_config){ .threads = threads, .quantum = quantum, .bytes = 2 * CLIENTS * SLICE });
	for (unsigned i = 0; i < CLIENTS; i++) {
		c[i] = (struct client){ .i = i };
		end_open(&w, &c[i].a, &(struct end_config){ 0 });
		end_open(&w, &c[i].b, &(struct end_config){ 0 });
		end_connect(&c[i].a, &c[i].b);
		mr_add(&w, LKEY(i), SRC(i), SLICE);
		mr_add(&w, RKEY(i), DST(i), SLICE);
		CHECK_EQ(pthread_create(&c[i].thread, NULL, writer, &c[i]), 0);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		while (emu_peek(&c[i].good) < 20)
			emu_pause();
}

static void client_end(struct client *c)
{
	pthread_join(c->thread, NULL);
	end_close(&c->a);
	end_close(&c->b);
}

static void no_byte_changes_after_the_answer(uint32_t quantum, uint32_t threads)
{
	struct client c[CLIENTS];
	char *before = malloc(SLICE);
	uint64_t goes_on;

	clients_start(c, quantum, threads);
	for (unsigned i = 0; i < CLIENTS - 1; i++) {
		uint32_t key = i % 2 ? LKEY(i) : RKEY(i);

		quiesce(&w, &key, 1);
		CHECK_EQ(emu_mr_state(w.e, key), EMU_MR_FENCED);
		memcpy(before, w.mem + DST(i), SLICE);
		goes_on = emu_peek(&c[CLIENTS - 1].good);
		while (emu_peek(&c[CLIENTS - 1].good) < goes_on + 20) /* the others are not disturbed */
			emu_pause();
		CHECK_EQ(memcmp(before, w.mem + DST(i), SLICE), 0);
		client_end(&c[i]);
		CHECK_EQ(c[i].error, i % 2 ? EMU_WC_LOC_PROT_ERR : EMU_WC_REM_ACCESS_ERR);
		CHECK_EQ(memcmp(before, w.mem + DST(i), SLICE), 0);
		CHECK_EQ(emu_mr_inflight(w.e, &key, 1), 0);
	}
	quiesce(&w, (uint32_t[]){ RKEY(CLIENTS - 1) }, 1);
	client_end(&c[CLIENTS - 1]);
	free(before);
	world_close(&w);
}

static void many_keys_are_one_period(void)
{
	struct client c[CLIENTS];
	uint32_t keys[1000 + CLIENTS];
	unsigned n = 0;

	clients_start(c, 4096, 2);
	for (; n < 1000; n++) {
		keys[n] = 0x100000 + (n << 8);
		mr_add(&w, keys[n], 0, 4096);
	}
	for (unsigned i = 0; i < CLIENTS; i++)
		keys[n++] = RKEY(i);
	quiesce(&w, keys, n);
	for (unsigned i = 0; i < n; i++)
		CHECK_EQ(emu_mr_state(w.e, keys[i]), EMU_MR_FENCED);
	for (unsigned i = 0; i < CLIENTS; i++) {
		client_end(&c[i]);
		CHECK_EQ(c[i].error, EMU_WC_REM_ACCESS_ERR);
	}
	CHECK(!event_pending(&w) || next_event(&w, EMU_ENG_ASYNC).code == EMU_EVENT_QP_ACCESS_ERR);
	CHECK_EQ(emu_unmap(w.e, keys, n, 5), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, 5);
	for (unsigned i = 0; i < n; i++) {
		CHECK_EQ(emu_mr_state(w.e, keys[i]), EMU_MR_UNMAPPED);
		CHECK_EQ(emu_mr_remove(w.e, keys[i]), 0);
		CHECK_EQ(emu_mr_state(w.e, keys[i]), -ENOENT);
	}
	world_close(&w);
}

static void the_steps_keep_their_order(void)
{
	uint32_t keys[2] = { 0x100, 0x200 };

	world_open(&w, &(struct world_config){ 0 });
	mr_add(&w, 0x100, 0, 4096);
	mr_add(&w, 0x200, 4096, 4096);
	CHECK_EQ(emu_unmap(w.e, keys, 2, 1), -EBUSY);
	CHECK_EQ(emu_mr_remove(w.e, 0x100), -EBUSY);
	quiesce(&w, keys, 1);
	CHECK_EQ(emu_unmap(w.e, keys, 2, 1), -EBUSY); /* one of them still lives: no change */
	CHECK_EQ(emu_mr_state(w.e, 0x100), EMU_MR_FENCED);
	quiesce(&w, keys, 2);
	quiesce(&w, keys, 2); /* twice is as good as once */
	CHECK_EQ(emu_mr_remove(w.e, 0x100), -EBUSY);
	CHECK_EQ(emu_aperture_drop(w.e, (uint32_t)w.aperture), -EBUSY);
	CHECK_EQ(emu_unmap(w.e, keys, 2, 1), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, 1);
	CHECK_EQ(emu_unmap(w.e, keys, 2, 2), 0);
	CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, 2);
	CHECK_EQ(emu_mr_remove(w.e, 0x100), 0);
	CHECK_EQ(emu_mr_remove(w.e, 0x100), -ENOENT);
	CHECK_EQ(emu_mr_remove(w.e, 0x200), 0);
	quiesce(&w, keys, 2); /* unknown keys are skipped */
	CHECK_EQ(emu_aperture_drop(w.e, (uint32_t)w.aperture), 0);
	CHECK_EQ(emu_aperture_drop(w.e, (uint32_t)w.aperture), -ENOENT);
	world_close(&w);
}

static void a_key_can_be_installed_anew(void)
{
	struct end a, b;

	world_open(&w, &(struct world_config){ 0 });
	end_open(&w, &a, &(struct end_config){ 0 });
	end_open(&w, &b, &(struct end_config){ 0 });
	end_connect(&a, &b);
	mr_add(&w, 0x900, 0, 4096);
	for (uint32_t i = 0; i < LOAD(2000u); i++) {
		uint32_t key = 0x100 | (i & 0xff);

		mr_add(&w, key, 4096, 4096);
		w.mem[0] = (char)i;
		post(&a, rdma(EMU_WR_RDMA_WRITE, i, 0, 1, 0x900, 4096, key));
		expect_wc(&a, i, EMU_WC_SUCCESS);
		CHECK_EQ(w.mem[4096], (char)i);
		quiesce(&w, &key, 1);
		CHECK_EQ(emu_unmap(w.e, &key, 1, i), 0);
		CHECK_EQ(next_event(&w, EMU_ENG_UNMAPPED).cookie, i);
		CHECK_EQ(emu_mr_remove(w.e, key), 0);
	}
	end_close(&a);
	end_close(&b);
	world_close(&w);
}

int main(void)
{
	for (unsigned round = 0; round < LOAD(8u); round++) {
		no_byte_changes_after_the_answer(4096, 1);
		no_byte_changes_after_the_answer(65536, 2);
		many_keys_are_one_period();
	}
	the_steps_keep_their_order();
	a_key_can_be_installed_anew();
	return 0;
}
