/* SPDX-License-Identifier: Apache-2.0
 *
 * What a reliable connection does with packets: one pure function, (state, event) -> actions, beside emu_qp_step. It knows
 * sequence numbers, what is unacknowledged and what comes next; it knows no clock, no bytes, no keys and no counts of
 * retries, which are the queue pair's (rules.h). Whoever calls carries the actions out:
 *
 *   requester   rules: EXECUTE      -> POST (a new message) or AGAIN (the same one)  -> SEND first, count; ARM
 *               an answer arrives   -> ANSWER -> DONE     -> rules: OUTCOME OK
 *                                             -> PROGRESS -> rules: PROGRESS
 *                                             -> RETRY    -> rules: OUTCOME NO_ANSWER, then TIMER at once: the wait is over
 *                                             -> REFUSED  -> rules: OUTCOME .outcome (RNR too: the link pauses until AGAIN)
 *               the ack timer ends  -> TIMER  -> RETRY, as above
 *   responder   a request arrives   -> REQUEST -> ACCEPT  -> rules: INBOUND; carry it out; RAN outcome -> REPLY
 *   both        rules: FLUSH, RESET -> CLOSE
 *
 * A message is `count` packets with consecutive numbers, 24 bits wide and wrapping; one message is under way at a time, as
 * the rules start one head at a time. Lost packets are sent again from the oldest unacknowledged one on (go-back-N); the
 * responder carries out each number once, in order, whatever the network loses, repeats or reorders.
 *
 * Sources: the reliable service of the InfiniBand specification as the field describes it; nothing was copied.
 */
#ifndef EMU_LINK_H
#define EMU_LINK_H

#include <stdint.h>

#define EMU_LINK_MOST 0x400000 /* packets of one message; a number that is half the space away is older, not newer */

struct emu_link {
	uint32_t open;
	/* requester: unacked <= sent <= next */
	uint32_t unacked; /* the oldest number without an answer */
	uint32_t sent;    /* the next to be put on the wire */
	uint32_t next;    /* the first of the next message */
	uint32_t window;  /* packets on the wire at most; 0: the whole message */
	uint32_t paused;  /* 1: not ready was the answer; until AGAIN answers only move `unacked` */
	/* responder */
	uint32_t expected; /* the number that is carried out next */
	uint32_t busy;     /* 1: it is being carried out */
	uint32_t asks;     /* it wants an acknowledgement */
	uint32_t naked;    /* 1: somebody was told that `expected` is missing; said once until it comes */
};

enum emu_link_event {
	EMU_LINK_OPEN,    /* psn: own first number, expected: the peer's, count: window */
	EMU_LINK_CLOSE,   /* the queue pair left: nothing is sent, nothing answered */
	EMU_LINK_POST,    /* a message of `count` packets */
	EMU_LINK_AGAIN,   /* the message once more, from what is not acknowledged */
	EMU_LINK_ANSWER,  /* answer, psn and outcome of a packet that came back */
	EMU_LINK_TIMER,   /* the ack timer ran out */
	EMU_LINK_REQUEST, /* psn, asks and replays of a packet that arrived */
	EMU_LINK_RAN,     /* how the accepted packet ended: outcome */
};

enum emu_link_answer {
	EMU_ANSWER_ACK,      /* everything up to psn */
	EMU_ANSWER_SEQUENCE, /* psn is missing */
	EMU_ANSWER_NAK,      /* psn was not carried out: outcome says why; what was before it is acknowledged */
};

enum emu_link_action {
	EMU_LACT_SEND = 1 << 0,     /* put `count` packets on the wire, from `psn` on; the last asks for an answer */
	EMU_LACT_ARM = 1 << 1,      /* start the ack timer anew */
	EMU_LACT_DISARM = 1 << 2,
	EMU_LACT_DONE = 1 << 3,     /* each packet of the message is acknowledged */
	EMU_LACT_PROGRESS = 1 << 4, /* some are */
	EMU_LACT_RETRY = 1 << 5,
	EMU_LACT_REFUSED = 1 << 6,  /* with .outcome */
	EMU_LACT_ACCEPT = 1 << 7,
	EMU_LACT_REPLAY = 1 << 8,   /* a repeated READ: carry it out once more and answer; no number moves, no RAN */
	EMU_LACT_REPLY = 1 << 9,    /* send .answer, .psn, .outcome back */
	EMU_LACT_DROP = 1 << 10,    /* old, foreign or early: forget it */
	EMU_LACT_HOLD = 1 << 11,    /* one is being carried out: offer this packet again after RAN */
};

struct emu_link_in {
	uint32_t event;    /* enum emu_link_event */
	uint32_t psn;
	uint32_t count;
	uint32_t expected;
	uint32_t answer;   /* enum emu_link_answer */
	uint32_t outcome;  /* enum emu_outcome */
	uint32_t asks;     /* REQUEST: the sender wants an acknowledgement */
	uint32_t replays;  /* REQUEST: a READ, whose answer is made anew */
};

struct emu_link_out {
	uint32_t actions; /* bits of enum emu_link_action */
	uint32_t psn, count;
	uint32_t answer;  /* enum emu_link_answer */
	uint32_t outcome; /* enum emu_outcome */
};

/* Apply one event. Returns 0, or -EINVAL for what no caller may ask (then nothing has changed and out->actions is 0):
 * numbers over 24 bits, a message of 0 or more than EMU_LINK_MOST packets or on top of another, RAN without ACCEPT. */
int emu_link_step(struct emu_link *link, const struct emu_link_in *in, struct emu_link_out *out);

#endif
