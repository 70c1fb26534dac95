/* SPDX-License-Identifier: Apache-2.0
 *
 * link.h: sequence numbers of a reliable connection.
 *
 *   requester    acknowledged | on the wire | not sent yet | the next message
 *                          unacked        sent           next
 *   responder    carried out: repeated | expected | ahead: something is missing
 */
#include <errno.h>
#include <string.h>

#include <emu/link.h>
#include <emu/rules.h>

#define NUMBERS 0x1000000u
#define HALF 0x800000u

static uint32_t plus(uint32_t psn, uint32_t n)
{
	return (psn + n) & (NUMBERS - 1);
}

/* How far `psn` is behind `from`, going up. */
static uint32_t distance(uint32_t from, uint32_t psn)
{
	return (psn - from) & (NUMBERS - 1);
}

static int open_link(struct emu_link *link, const struct emu_link_in *in)
{
	if (in->psn >= NUMBERS || in->expected >= NUMBERS || in->count > EMU_LINK_MOST)
		return -EINVAL;
	*link = (struct emu_link){ .open = 1, .unacked = in->psn, .sent = in->psn, .next = in->psn, .window = in->count,
		.expected = in->expected };
	return 0;
}

/* ---- the requester */

/* What the window allows now. */
static void send_more(struct emu_link *link, struct emu_link_out *out)
{
	uint32_t left = distance(link->sent, link->next), flying = distance(link->unacked, link->sent);
	uint32_t room = link->window == 0 ? left : link->window > flying ? link->window - flying : 0;

	out->psn = link->sent;
	out->count = left < room ? left : room;
	link->sent = plus(link->sent, out->count);
	if (out->count)
		out->actions |= EMU_LACT_SEND;
}

static int post(struct emu_link *link, uint32_t count, struct emu_link_out *out)
{
	if (!link->open || link->unacked != link->next || count == 0 || count > EMU_LINK_MOST)
		return -EINVAL;
	link->next = plus(link->next, count);
	send_more(link, out);
	out->actions |= EMU_LACT_ARM;
	return 0;
}

/* The last answers may have come while the message was not under way: then it is done without a packet. */
static void again(struct emu_link *link, struct emu_link_out *out)
{
	link->paused = 0;
	if (!link->open) {
		out->actions |= EMU_LACT_DROP;
		return;
	}
	if (link->unacked == link->next) {
		out->actions |= EMU_LACT_DONE | EMU_LACT_DISARM;
		return;
	}
	link->sent = link->unacked;
	send_more(link, out);
	out->actions |= EMU_LACT_ARM;
}

/* Everything before `psn` is acknowledged. */
static uint32_t acknowledge(struct emu_link *link, uint32_t psn)
{
	uint32_t n = distance(link->unacked, psn);

	link->unacked = psn;
	return n;
}

static void acknowledged(struct emu_link *link, uint32_t psn, struct emu_link_out *out)
{
	acknowledge(link, psn);
	if (link->paused) {
		out->actions |= EMU_LACT_DROP;
	} else if (link->unacked == link->next) {
		out->actions |= EMU_LACT_DONE | EMU_LACT_DISARM;
	} else {
		out->actions |= EMU_LACT_PROGRESS | EMU_LACT_ARM;
		send_more(link, out);
	}
}

static void refused(struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out)
{
	if (acknowledge(link, in->psn))
		out->actions |= EMU_LACT_PROGRESS;
	if (link->paused) {
		out->actions = EMU_LACT_DROP;
	} else if (in->answer == EMU_ANSWER_SEQUENCE) {
		out->actions |= EMU_LACT_RETRY;
	} else {
		out->actions |= EMU_LACT_REFUSED | EMU_LACT_DISARM;
		out->outcome = in->outcome;
		link->paused = in->outcome == EMU_OUT_RNR;
	}
}

/* Answers come from another machine: a refusal that names no reason of a responder is garbage, not a success. */
static int makes_sense(const struct emu_link_in *in)
{
	switch (in->answer) {
	case EMU_ANSWER_ACK:
	case EMU_ANSWER_SEQUENCE:
		return 1;
	case EMU_ANSWER_NAK:
		return in->outcome >= EMU_OUT_REM_ACCESS && in->outcome <= EMU_OUT_RNR;
	}
	return 0;
}

static void answer(struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out)
{
	int waited_for = distance(link->unacked, in->psn) < distance(link->unacked, link->sent);

	if (!link->open || !waited_for || !makes_sense(in))
		out->actions |= EMU_LACT_DROP;
	else if (in->answer == EMU_ANSWER_ACK)
		acknowledged(link, plus(in->psn, 1), out);
	else
		refused(link, in, out);
}

static void timer(struct emu_link *link, struct emu_link_out *out)
{
	int idle = !link->open || link->paused || link->unacked == link->next;

	out->actions |= idle ? EMU_LACT_DROP : EMU_LACT_RETRY;
}

/* ---- the responder */

static void reply(struct emu_link_out *out, uint32_t kind, uint32_t psn, uint32_t outcome)
{
	out->actions |= EMU_LACT_REPLY;
	out->answer = kind;
	out->psn = psn;
	out->outcome = outcome;
}

static void repeated(const struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out)
{
	if (in->replays)
		out->actions |= EMU_LACT_REPLAY;
	else if (in->asks)
		reply(out, EMU_ANSWER_ACK, plus(link->expected, NUMBERS - 1), EMU_OUT_OK);
	else
		out->actions |= EMU_LACT_DROP;
}

static void missing(struct emu_link *link, struct emu_link_out *out)
{
	if (link->naked)
		out->actions |= EMU_LACT_DROP;
	else
		reply(out, EMU_ANSWER_SEQUENCE, link->expected, EMU_OUT_OK);
	link->naked = 1;
}

static void request(struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out)
{
	uint32_t ahead = distance(link->expected, in->psn);

	if (!link->open) {
		out->actions |= EMU_LACT_DROP;
	} else if (link->busy) {
		out->actions |= EMU_LACT_HOLD;
	} else if (ahead >= HALF) {
		repeated(link, in, out);
	} else if (ahead) {
		missing(link, out);
	} else {
		link->busy = 1;
		link->asks = !!in->asks;
		out->actions |= EMU_LACT_ACCEPT;
	}
}

static int ran(struct emu_link *link, uint32_t outcome, struct emu_link_out *out)
{
	uint32_t psn = link->expected;

	if (!link->open) {
		out->actions |= EMU_LACT_DROP;
		return 0;
	}
	if (!link->busy)
		return -EINVAL;
	link->busy = 0;
	if (outcome == EMU_OUT_OK) {
		link->naked = 0;
		link->expected = plus(psn, 1);
		if (link->asks)
			reply(out, EMU_ANSWER_ACK, psn, EMU_OUT_OK);
	} else if (outcome >= EMU_OUT_NO_ANSWER) {
		out->actions |= EMU_LACT_DROP;
	} else {
		link->naked = 1; /* what follows it was sent in vain, and needs no answer of its own */
		reply(out, EMU_ANSWER_NAK, psn, outcome);
	}
	link->asks = 0;
	return 0;
}

int emu_link_step(struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out)
{
	memset(out, 0, sizeof(*out));
	if (in->psn >= NUMBERS)
		return -EINVAL;
	switch (in->event) {
	case EMU_LINK_OPEN:
		return open_link(link, in);
	case EMU_LINK_CLOSE:
		memset(link, 0, sizeof(*link));
		out->actions |= EMU_LACT_DISARM;
		return 0;
	case EMU_LINK_POST:
		return post(link, in->count, out);
	case EMU_LINK_AGAIN:
		again(link, out);
		return 0;
	case EMU_LINK_ANSWER:
		answer(link, in, out);
		return 0;
	case EMU_LINK_TIMER:
		timer(link, out);
		return 0;
	case EMU_LINK_REQUEST:
		request(link, in, out);
		return 0;
	case EMU_LINK_RAN:
		return ran(link, in->outcome, out);
	}
	return -EINVAL;
}
