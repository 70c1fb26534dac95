/* SPDX-License-Identifier: Apache-2.0
 * The link's rules, without a queue pair: what is sent, sent again, answered, carried out; then both ends over a channel that
 * loses, repeats and reorders.
 */
#include <errno.h>

#include <emu/link.h>
#include <emu/rules.h>

#include "check.h"

#define LAST 0xffffffu

static struct emu_link opened(uint32_t psn, uint32_t expected, uint32_t window)
{
	struct emu_link_in in = { .event = EMU_LINK_OPEN, .psn = psn, .expected = expected, .count = window };
	struct emu_link link = { 0 };
	struct emu_link_out out;

	CHECK_EQ(emu_link_step(&link, &in, &out), 0);
	CHECK_EQ(out.actions, 0);
	return link;
}

static uint32_t give(struct emu_link *link, struct emu_link_in in, struct emu_link_out *out)
{
	CHECK_EQ(emu_link_step(link, &in, out), 0);
	return out->actions;
}

static uint32_t post_message(struct emu_link *link, uint32_t count, struct emu_link_out *out)
{
	return give(link, (struct emu_link_in){ .event = EMU_LINK_POST, .count = count }, out);
}

static uint32_t plain(struct emu_link *link, uint32_t event, struct emu_link_out *out)
{
	return give(link, (struct emu_link_in){ .event = event }, out);
}

static uint32_t answer(struct emu_link *link, uint32_t kind, uint32_t psn, uint32_t outcome, struct emu_link_out *out)
{
	return give(link, (struct emu_link_in){ .event = EMU_LINK_ANSWER, .answer = kind, .psn = psn, .outcome = outcome }, out);
}

static uint32_t request(struct emu_link *link, uint32_t psn, uint32_t asks, struct emu_link_out *out)
{
	return give(link, (struct emu_link_in){ .event = EMU_LINK_REQUEST, .psn = psn, .asks = asks }, out);
}

static uint32_t ran(struct emu_link *link, uint32_t outcome, struct emu_link_out *out)
{
	return give(link, (struct emu_link_in){ .event = EMU_LINK_RAN, .outcome = outcome }, out);
}

static void refused(struct emu_link before, struct emu_link_in in)
{
	struct emu_link link = before;
	struct emu_link_out out;

	CHECK_EQ(emu_link_step(&link, &in, &out), -EINVAL);
	CHECK_EQ(memcmp(&link, &before, sizeof(link)), 0);
	CHECK_EQ(out.actions, 0);
}

static void nonsense_is_refused_and_changes_nothing(void)
{
	struct emu_link link = opened(1, 1, 0);
	struct emu_link_out out;

	refused(link, (struct emu_link_in){ .event = EMU_LINK_OPEN, .psn = LAST + 1 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_OPEN, .expected = LAST + 1 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_OPEN, .count = EMU_LINK_MOST + 1 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_POST, .count = 0 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_POST, .count = EMU_LINK_MOST + 1 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_ANSWER, .psn = LAST + 1 });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_REQUEST, .psn = UINT32_MAX });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_RAN });
	refused(link, (struct emu_link_in){ .event = EMU_LINK_RAN + 1 });
	refused((struct emu_link){ 0 }, (struct emu_link_in){ .event = EMU_LINK_POST, .count = 1 });
	post_message(&link, 2, &out);
	refused(link, (struct emu_link_in){ .event = EMU_LINK_POST, .count = 1 });
}

/* ---- the requester */

static void a_message_is_sent_whole_without_a_window(void)
{
	struct emu_link link = opened(LAST, 0, 0);
	struct emu_link_out out;

	CHECK_EQ(post_message(&link, 3, &out), EMU_LACT_SEND | EMU_LACT_ARM);
	CHECK_EQ(out.psn, LAST);
	CHECK_EQ(out.count, 3);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 1, 0, &out), EMU_LACT_DONE | EMU_LACT_DISARM);
	CHECK_EQ(post_message(&link, 1, &out), EMU_LACT_SEND | EMU_LACT_ARM);
	CHECK_EQ(out.psn, 2);
}

static void the_window_opens_with_each_acknowledgement(void)
{
	struct emu_link link = opened(10, 0, 2);
	struct emu_link_out out;

	post_message(&link, 4, &out);
	CHECK_EQ(out.count, 2);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 10, 0, &out), EMU_LACT_PROGRESS | EMU_LACT_ARM | EMU_LACT_SEND);
	CHECK_EQ(out.psn, 12);
	CHECK_EQ(out.count, 1);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 12, 0, &out), EMU_LACT_PROGRESS | EMU_LACT_ARM | EMU_LACT_SEND);
	CHECK_EQ(out.psn, 13);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 13, 0, &out), EMU_LACT_DONE | EMU_LACT_DISARM);
}

static void silence_goes_back_to_the_oldest_without_an_answer(void)
{
	struct emu_link link = opened(5, 0, 0);
	struct emu_link_out out;

	post_message(&link, 4, &out);
	answer(&link, EMU_ANSWER_ACK, 5, 0, &out);
	CHECK_EQ(plain(&link, EMU_LINK_TIMER, &out), EMU_LACT_RETRY);
	CHECK_EQ(plain(&link, EMU_LINK_AGAIN, &out), EMU_LACT_SEND | EMU_LACT_ARM);
	CHECK_EQ(out.psn, 6);
	CHECK_EQ(out.count, 3);
}

static void a_gap_acknowledges_what_is_before_it_and_goes_back(void)
{
	struct emu_link link = opened(5, 0, 0);
	struct emu_link_out out;

	post_message(&link, 4, &out);
	CHECK_EQ(answer(&link, EMU_ANSWER_SEQUENCE, 7, 0, &out), EMU_LACT_PROGRESS | EMU_LACT_RETRY);
	CHECK_EQ(answer(&link, EMU_ANSWER_SEQUENCE, 7, 0, &out), EMU_LACT_RETRY);
	CHECK_EQ(answer(&link, EMU_ANSWER_SEQUENCE, 6, 0, &out), EMU_LACT_DROP);
	plain(&link, EMU_LINK_AGAIN, &out);
	CHECK_EQ(out.psn, 7);
	CHECK_EQ(out.count, 2);
}

static void answers_to_the_first_sending_count_after_going_back(void)
{
	struct emu_link link = opened(0, 0, 2);
	struct emu_link_out out;

	post_message(&link, 4, &out);
	plain(&link, EMU_LINK_TIMER, &out);
	plain(&link, EMU_LINK_AGAIN, &out);
	CHECK_EQ(out.psn, 0);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 1, 0, &out), EMU_LACT_PROGRESS | EMU_LACT_ARM | EMU_LACT_SEND);
	CHECK_EQ(out.psn, 2);
	CHECK_EQ(out.count, 2);
}

static void what_was_never_sent_cannot_be_answered(void)
{
	struct emu_link link = opened(0, 0, 2), before;
	struct emu_link_out out;

	post_message(&link, 4, &out);
	before = link;
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 2, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 2, EMU_OUT_REM_ACCESS, &out), EMU_LACT_DROP);
	CHECK_EQ(memcmp(&link, &before, sizeof(link)), 0);
}

static void half_of_the_numbers_are_older(void)
{
	struct emu_link link = opened(0, 5, 0);
	struct emu_link_out out;

	CHECK_EQ(request(&link, 5 + (LAST + 1) / 2, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(request(&link, 4 + (LAST + 1) / 2, 0, &out), EMU_LACT_REPLY);
	CHECK_EQ(out.answer, EMU_ANSWER_SEQUENCE);
}

static void old_foreign_and_meaningless_answers_are_dropped(void)
{
	struct emu_link link = opened(5, 0, 0), before;
	struct emu_link_out out;

	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 4, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 5, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(plain(&link, EMU_LINK_TIMER, &out), EMU_LACT_DROP);
	post_message(&link, 2, &out);
	before = link;
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 4, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 7, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, EMU_OUT_OK, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, EMU_OUT_LOC_PROT, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, EMU_OUT_NO_ANSWER, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, UINT32_MAX, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, UINT32_MAX, 5, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(memcmp(&link, &before, sizeof(link)), 0);
}

static void a_refusal_is_handed_on(void)
{
	struct emu_link link = opened(5, 0, 0);
	struct emu_link_out out;

	post_message(&link, 2, &out);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 6, EMU_OUT_REM_ACCESS, &out),
		 EMU_LACT_PROGRESS | EMU_LACT_REFUSED | EMU_LACT_DISARM);
	CHECK_EQ(out.outcome, EMU_OUT_REM_ACCESS);
}

static void not_ready_pauses_until_again(void)
{
	struct emu_link link = opened(5, 0, 0);
	struct emu_link_out out;

	post_message(&link, 2, &out);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, EMU_OUT_RNR, &out), EMU_LACT_REFUSED | EMU_LACT_DISARM);
	CHECK_EQ(answer(&link, EMU_ANSWER_NAK, 5, EMU_OUT_RNR, &out), EMU_LACT_DROP);
	CHECK_EQ(plain(&link, EMU_LINK_TIMER, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 5, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(plain(&link, EMU_LINK_AGAIN, &out), EMU_LACT_SEND | EMU_LACT_ARM);
	CHECK_EQ(out.psn, 6);
	answer(&link, EMU_ANSWER_NAK, 6, EMU_OUT_RNR, &out);
	answer(&link, EMU_ANSWER_ACK, 6, 0, &out);
	CHECK_EQ(plain(&link, EMU_LINK_AGAIN, &out), EMU_LACT_DONE | EMU_LACT_DISARM);
}

/* ---- the responder */

static void numbers_are_carried_out_in_order_and_once(void)
{
	struct emu_link link = opened(0, LAST, 0);
	struct emu_link_out out;

	CHECK_EQ(request(&link, LAST, 0, &out), EMU_LACT_ACCEPT);
	CHECK_EQ(request(&link, 0, 1, &out), EMU_LACT_HOLD);
	CHECK_EQ(ran(&link, EMU_OUT_OK, &out), 0);
	CHECK_EQ(request(&link, LAST, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(request(&link, 0, 1, &out), EMU_LACT_ACCEPT);
	CHECK_EQ(ran(&link, EMU_OUT_OK, &out), EMU_LACT_REPLY);
	CHECK_EQ(out.answer, EMU_ANSWER_ACK);
	CHECK_EQ(out.psn, 0);
}

static void a_repeated_packet_is_acknowledged_and_not_carried_out(void)
{
	struct emu_link link = opened(0, 3, 0), before;
	struct emu_link_out out;

	request(&link, 3, 1, &out);
	ran(&link, EMU_OUT_OK, &out);
	before = link;
	CHECK_EQ(request(&link, 3, 1, &out), EMU_LACT_REPLY);
	CHECK_EQ(out.answer, EMU_ANSWER_ACK);
	CHECK_EQ(out.psn, 3);
	CHECK_EQ(give(&link, (struct emu_link_in){ .event = EMU_LINK_REQUEST, .psn = 3, .asks = 1, .replays = 1 }, &out),
		 EMU_LACT_REPLAY);
	CHECK_EQ(memcmp(&link, &before, sizeof(link)), 0);
}

static void a_gap_is_told_once_until_it_is_filled(void)
{
	struct emu_link link = opened(0, 3, 0);
	struct emu_link_out out;

	CHECK_EQ(request(&link, 4, 1, &out), EMU_LACT_REPLY);
	CHECK_EQ(out.answer, EMU_ANSWER_SEQUENCE);
	CHECK_EQ(out.psn, 3);
	CHECK_EQ(request(&link, 5, 1, &out), EMU_LACT_DROP);
	request(&link, 3, 0, &out);
	ran(&link, EMU_OUT_OK, &out);
	CHECK_EQ(request(&link, 5, 1, &out), EMU_LACT_REPLY);
	CHECK_EQ(out.psn, 4);
}

static void what_was_not_carried_out_is_expected_still(void)
{
	static const uint32_t outcomes[] = { EMU_OUT_RNR, EMU_OUT_REM_ACCESS, EMU_OUT_REM_INV_REQ, EMU_OUT_REM_OP };
	struct emu_link_out out;

	for (unsigned i = 0; i < 4; i++) {
		struct emu_link link = opened(0, 3, 0);

		request(&link, 3, 1, &out);
		CHECK_EQ(ran(&link, outcomes[i], &out), EMU_LACT_REPLY);
		CHECK_EQ(out.answer, EMU_ANSWER_NAK);
		CHECK_EQ(out.outcome, outcomes[i]);
		CHECK_EQ(out.psn, 3);
		CHECK_EQ(request(&link, 4, 1, &out), EMU_LACT_DROP);
		CHECK_EQ(request(&link, 3, 1, &out), EMU_LACT_ACCEPT);
	}
}

static void a_closed_link_says_nothing(void)
{
	struct emu_link link = opened(3, 3, 0);
	struct emu_link_out out;

	post_message(&link, 2, &out);
	request(&link, 3, 1, &out);
	CHECK_EQ(plain(&link, EMU_LINK_CLOSE, &out), EMU_LACT_DISARM);
	CHECK_EQ(ran(&link, EMU_OUT_OK, &out), EMU_LACT_DROP);
	CHECK_EQ(request(&link, 0, 1, &out), EMU_LACT_DROP);
	CHECK_EQ(answer(&link, EMU_ANSWER_ACK, 3, 0, &out), EMU_LACT_DROP);
	CHECK_EQ(plain(&link, EMU_LINK_TIMER, &out), EMU_LACT_DROP);
	CHECK_EQ(plain(&link, EMU_LINK_AGAIN, &out), EMU_LACT_DROP);
}

static void no_answer_leaves_no_trace(void)
{
	struct emu_link link = opened(0, 3, 0), before = link;
	struct emu_link_out out;

	request(&link, 3, 1, &out);
	CHECK_EQ(ran(&link, EMU_OUT_NO_ANSWER, &out), EMU_LACT_DROP);
	CHECK_EQ(memcmp(&link, &before, sizeof(link)), 0);
}

/* ---- both ends and a channel */

#define FLYING 64

struct channel {
	uint32_t n, loss; /* loss in 256ths */
	uint64_t *seed;
	struct emu_link_in packets[FLYING];
};

static uint32_t drawn(uint64_t *seed, uint32_t below)
{
	return (uint32_t)(random_next(seed) >> 33) % below;
}

static void put(struct channel *c, struct emu_link_in packet)
{
	uint32_t copies = drawn(c->seed, 256) < c->loss ? 0 : drawn(c->seed, 8) == 0 ? 2 : 1;

	while (copies-- && c->n < FLYING)
		c->packets[c->n++] = packet;
}

static struct emu_link_in take(struct channel *c)
{
	uint32_t at = drawn(c->seed, c->n);
	struct emu_link_in packet = c->packets[at];

	c->packets[at] = c->packets[--c->n];
	return packet;
}

static void send_all(struct channel *there, const struct emu_link_out *out)
{
	if (!(out->actions & EMU_LACT_SEND))
		return;
	for (uint32_t i = 0; i < out->count; i++) {
		uint32_t psn = (out->psn + i) & LAST;

		put(there, (struct emu_link_in){ .event = EMU_LINK_REQUEST, .psn = psn, .asks = i + 1 == out->count });
	}
}

/* Every packet's own number must be the next that was not carried out yet: that is order, and once, in one. */
static void respond(struct emu_link *link, struct emu_link_in packet, struct channel *back, uint32_t *done)
{
	struct emu_link_out out;

	if (give(link, packet, &out) & EMU_LACT_ACCEPT) {
		uint32_t outcome = drawn(back->seed, 8) == 0 ? EMU_OUT_RNR : EMU_OUT_OK;

		CHECK_EQ(packet.psn, *done);
		*done = (*done + (outcome == EMU_OUT_OK)) & LAST;
		ran(link, outcome, &out);
	}
	if (out.actions & EMU_LACT_REPLY)
		put(back, (struct emu_link_in){ .event = EMU_LINK_ANSWER, .psn = out.psn, .answer = out.answer,
			.outcome = out.outcome });
}

static void one_message(struct emu_link *a, struct emu_link *b, struct channel *there, struct channel *back,
			uint32_t *done)
{
	uint32_t count = 1 + drawn(there->seed, 9);
	struct emu_link_out out;

	post_message(a, count, &out);
	send_all(there, &out);
	for (int turns = 0;; turns++) {
		CHECK(turns < 100000);
		if (there->n && drawn(there->seed, 2)) {
			respond(b, take(there), back, done);
			continue;
		}
		if (back->n)
			give(a, take(back), &out);
		else
			plain(a, EMU_LINK_TIMER, &out);
		if (out.actions & (EMU_LACT_RETRY | EMU_LACT_REFUSED))
			plain(a, EMU_LINK_AGAIN, &out);
		if (out.actions & EMU_LACT_DONE)
			break;
		send_all(there, &out);
	}
	CHECK_EQ(*done, a->next); /* nothing is acknowledged that was not carried out */
}

static void whatever_the_channel_does_each_number_is_carried_out_once_in_order(void)
{
	for (uint64_t n = 1; n <= LOAD(2000); n++) {
		uint64_t seed = n * 0x9e3779b97f4a7c15ull;
		struct channel there = { .seed = &seed, .loss = drawn(&seed, 160) };
		struct channel back = { .seed = &seed, .loss = drawn(&seed, 160) };
		uint32_t psn = n % 2 ? LAST - drawn(&seed, 20) : drawn(&seed, LAST), done = psn;
		struct emu_link a = opened(psn, 0, drawn(&seed, 4)), b = opened(0, psn, 0);

		for (int i = 0; i < 12; i++)
			one_message(&a, &b, &there, &back, &done);
	}
}

int main(void)
{
	nonsense_is_refused_and_changes_nothing();
	a_message_is_sent_whole_without_a_window();
	the_window_opens_with_each_acknowledgement();
	silence_goes_back_to_the_oldest_without_an_answer();
	a_gap_acknowledges_what_is_before_it_and_goes_back();
	answers_to_the_first_sending_count_after_going_back();
	what_was_never_sent_cannot_be_answered();
	half_of_the_numbers_are_older();
	old_foreign_and_meaningless_answers_are_dropped();
	a_refusal_is_handed_on();
	not_ready_pauses_until_again();
	numbers_are_carried_out_in_order_and_once();
	a_repeated_packet_is_acknowledged_and_not_carried_out();
	a_gap_is_told_once_until_it_is_filled();
	what_was_not_carried_out_is_expected_still();
	a_closed_link_says_nothing();
	no_answer_leaves_no_trace();
	whatever_the_channel_does_each_number_is_carried_out_once_in_order();
	return 0;
}
