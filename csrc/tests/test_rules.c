/* SPDX-License-Identifier: Apache-2.0
 * The queue pair's rules, without an engine: every step of the state machine, every outcome, every refusal.
 */
#include <errno.h>

#include <emu/rules.h>

#include "check.h"

#define TO_INIT (EMU_QP_PKEY_INDEX | EMU_QP_PORT | EMU_QP_ACCESS_FLAGS)
#define TO_RTR (EMU_QP_AV | EMU_QP_PATH_MTU | EMU_QP_DEST_QPN | EMU_QP_RQ_PSN | EMU_QP_MAX_DEST_RD_ATOMIC | EMU_QP_MIN_RNR_TIMER)
#define TO_RTS (EMU_QP_TIMEOUT | EMU_QP_RETRY_CNT | EMU_QP_RNR_RETRY | EMU_QP_SQ_PSN | EMU_QP_MAX_QP_RD_ATOMIC)

/* Mandatory attributes of each legal step; NO where there is none. Written from the specification's table, not from the code. */
#define NO UINT32_MAX
static const uint32_t legal[7][7] = {
	/*            RESET  INIT     RTR     RTS     SQD  SQE  ERR */
	/* RESET */ { 0,     TO_INIT, NO,     NO,     NO,  NO,  0 },
	/* INIT  */ { 0,     0,       TO_RTR, NO,     NO,  NO,  0 },
	/* RTR   */ { 0,     NO,      NO,     TO_RTS, NO,  NO,  0 },
	/* RTS   */ { 0,     NO,      NO,     0,      0,   NO,  0 },
	/* SQD   */ { 0,     NO,      NO,     0,      0,   NO,  0 },
	/* SQE   */ { 0,     NO,      NO,     NO,     NO,  NO,  0 },
	/* ERR   */ { 0,     NO,      NO,     NO,     NO,  NO,  0 },
};

static struct emu_rule_in modify_to(uint32_t state, uint32_t mask)
{
	return (struct emu_rule_in){ .event = EMU_EV_MODIFY, .attr = { .mask = EMU_QP_STATE | mask, .state = state, .port = 1,
		.path_mtu = 5, .dest_qpn = 9, .timeout = 14, .retry_cnt = 2, .rnr_retry = 2, .min_rnr_timer = 12,
		.access = 0x7 } };
}

static struct emu_qp_rules in_state(uint32_t state)
{
	struct emu_qp_rules qp = { .state = state, .retries_left = 2, .rnr_left = 2, .attr = { .state = state, .port = 1,
		.timeout = 14, .retry_cnt = 2, .rnr_retry = 2, .min_rnr_timer = 12, .access = 0x7, .dest_qpn = 9 } };

	return qp;
}

static uint32_t step(struct emu_qp_rules *qp, uint32_t event, struct emu_rule_out *out)
{
	struct emu_rule_in in = { .event = event };

	CHECK_EQ(emu_qp_step(qp, &in, out), 0);
	return out->actions;
}

static uint32_t end_with(struct emu_qp_rules *qp, uint32_t outcome, struct emu_rule_out *out)
{
	struct emu_rule_in in = { .event = EMU_EV_OUTCOME, .outcome = outcome, .peer_min_rnr = 5 };

	CHECK_EQ(emu_qp_step(qp, &in, out), 0);
	return out->actions;
}

static uint32_t arrive(struct emu_qp_rules *qp, uint32_t opcode, uint32_t outcome, uint32_t uses_recv, struct emu_rule_out *out)
{
	struct emu_rule_in in = { .event = EMU_EV_INBOUND, .outcome = outcome, .opcode = opcode, .uses_recv = uses_recv };

	CHECK_EQ(emu_qp_step(qp, &in, out), 0);
	return out->actions;
}

/* ---- the state machine */

static void refused(struct emu_qp_rules before, struct emu_rule_in in)
{
	struct emu_qp_rules qp = before;
	struct emu_rule_out out;

	CHECK_EQ(emu_qp_step(&qp, &in, &out), -EINVAL);
	CHECK_EQ(memcmp(&qp, &before, sizeof(qp)), 0);
	CHECK_EQ(out.actions, 0);
}

static void every_pair_of_states(void)
{
	for (uint32_t from = 0; from < 7; from++) {
		for (uint32_t to = 0; to < 7; to++) {
			uint32_t mask = legal[from][to] == NO ? 0 : legal[from][to];
			struct emu_rule_in in = modify_to(to, mask);
			struct emu_qp_rules qp = in_state(from);
			struct emu_rule_out out;

			if (legal[from][to] == NO) {
				refused(qp, in);
				refused(qp, modify_to(to, TO_INIT));
				refused(qp, modify_to(to, TO_RTR));
				refused(qp, modify_to(to, TO_RTS));
				continue;
			}
			CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
			CHECK_EQ(qp.state, to);
		}
	}
	refused(in_state(EMU_QPS_RTS), modify_to(7, 0));
	refused(in_state(EMU_QPS_RTS), modify_to(UINT32_MAX, 0));
}

static void each_mandatory_attribute_is_missed(void)
{
	for (uint32_t from = 0; from < 7; from++)
		for (uint32_t to = 0; to < 7; to++)
			for (uint32_t bit = 0; bit < 21 && legal[from][to] != NO; bit++)
				if (legal[from][to] & 1u << bit)
					refused(in_state(from), modify_to(to, legal[from][to] & ~(1u << bit)));
}

static void an_attribute_that_does_not_belong_is_refused(void)
{
	refused(in_state(EMU_QPS_RESET), modify_to(EMU_QPS_INIT, TO_INIT | EMU_QP_QKEY));
	refused(in_state(EMU_QPS_INIT), modify_to(EMU_QPS_RTR, TO_RTR | EMU_QP_TIMEOUT));
	refused(in_state(EMU_QPS_RTS), modify_to(EMU_QPS_RTS, EMU_QP_DEST_QPN));
	refused(in_state(EMU_QPS_RTS), modify_to(EMU_QPS_ERR, EMU_QP_ACCESS_FLAGS));
}

static void values_out_of_range_are_refused(void)
{
	struct emu_rule_in in = modify_to(EMU_QPS_INIT, TO_INIT);

	in.attr.port = 2;
	refused(in_state(EMU_QPS_RESET), in);
	in = modify_to(EMU_QPS_RTR, TO_RTR);
	in.attr.path_mtu = 6;
	refused(in_state(EMU_QPS_INIT), in);
	in.attr.path_mtu = 0;
	refused(in_state(EMU_QPS_INIT), in);
	in = modify_to(EMU_QPS_RTR, TO_RTR);
	in.attr.min_rnr_timer = 32;
	refused(in_state(EMU_QPS_INIT), in);
	in = modify_to(EMU_QPS_RTR, TO_RTR);
	in.attr.dest_qpn = 1 << 24;
	refused(in_state(EMU_QPS_INIT), in);
	in = modify_to(EMU_QPS_RTS, TO_RTS);
	in.attr.retry_cnt = 8;
	refused(in_state(EMU_QPS_RTR), in);
	in = modify_to(EMU_QPS_RTS, TO_RTS);
	in.attr.rnr_retry = 8;
	refused(in_state(EMU_QPS_RTR), in);
	in = modify_to(EMU_QPS_RTS, TO_RTS);
	in.attr.timeout = 32;
	refused(in_state(EMU_QPS_RTR), in);
}

static void cur_state_must_be_the_state(void)
{
	struct emu_rule_in in = modify_to(EMU_QPS_RTS, EMU_QP_CUR_STATE);
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	in.attr.cur_state = EMU_QPS_SQD;
	refused(qp, in);
	in.attr.cur_state = EMU_QPS_RTS;
	CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
}

static void values_are_taken_and_forgotten(void)
{
	struct emu_rule_in in = modify_to(EMU_QPS_RTS, TO_RTS);
	struct emu_qp_rules qp = in_state(EMU_QPS_RTR), zero = { 0 };
	struct emu_rule_out out;

	in.attr.timeout = 3;
	in.attr.retry_cnt = 6;
	in.attr.min_rnr_timer = 31; /* not in the mask */
	CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
	CHECK_EQ(qp.attr.timeout, 3);
	CHECK_EQ(qp.retries_left, 6);
	CHECK_EQ(qp.attr.min_rnr_timer, 12);
	in = modify_to(EMU_QPS_RESET, 0);
	CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
	CHECK_EQ(out.actions, EMU_ACT_RESET | EMU_ACT_DISARM);
	CHECK_EQ(memcmp(&qp, &zero, sizeof(qp)), 0);
}

static void a_drained_queue_says_so_once(void)
{
	struct emu_rule_in in = modify_to(EMU_QPS_SQD, EMU_QP_EN_SQD_ASYNC_NOTIFY);
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_EXECUTE);
	CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
	CHECK_EQ(out.actions, 0);
	CHECK_EQ(end_with(&qp, EMU_OUT_OK, &out), EMU_ACT_COMPLETE | EMU_ACT_EVENT);
	CHECK_EQ(out.event, EMU_EVENT_SQ_DRAINED);
	CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_HOLD);
	qp = in_state(EMU_QPS_RTS);
	CHECK_EQ(emu_qp_step(&qp, &in, &out), 0);
	CHECK_EQ(out.event, EMU_EVENT_SQ_DRAINED);
	CHECK_EQ(out.actions, EMU_ACT_EVENT);
}

/* ---- the requester */

static void a_head_starts_in_rts_only(void)
{
	struct emu_rule_out out;

	for (uint32_t state = 0; state < 7; state++) {
		struct emu_qp_rules qp = in_state(state);
		uint32_t want = state == EMU_QPS_RTS ? EMU_ACT_EXECUTE : state == EMU_QPS_ERR ? EMU_ACT_FLUSH_SEND : EMU_ACT_HOLD;

		CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), want);
	}
}

static void one_head_at_a_time(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_EXECUTE);
	CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_HOLD);
	CHECK_EQ(end_with(&qp, EMU_OUT_OK, &out), EMU_ACT_COMPLETE);
	CHECK_EQ(out.status, EMU_WC_SUCCESS);
	CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_EXECUTE);
}

static void each_error_completes_and_flushes(void)
{
	static const uint32_t status[][2] = {
		{ EMU_OUT_LOC_PROT, EMU_WC_LOC_PROT_ERR }, { EMU_OUT_LOC_LEN, EMU_WC_LOC_LEN_ERR },
		{ EMU_OUT_LOC_QP_OP, EMU_WC_LOC_QP_OP_ERR }, { EMU_OUT_REM_ACCESS, EMU_WC_REM_ACCESS_ERR },
		{ EMU_OUT_REM_INV_REQ, EMU_WC_REM_INV_REQ_ERR }, { EMU_OUT_REM_OP, EMU_WC_REM_OP_ERR },
	};
	struct emu_rule_out out;

	for (unsigned i = 0; i < 6; i++) {
		struct emu_qp_rules qp = in_state(EMU_QPS_RTS);

		step(&qp, EMU_EV_HEAD, &out);
		CHECK_EQ(end_with(&qp, status[i][0], &out),
			 EMU_ACT_COMPLETE | EMU_ACT_FLUSH_SEND | EMU_ACT_FLUSH_RECV | EMU_ACT_DISARM);
		CHECK_EQ(out.status, status[i][1]);
		CHECK_EQ(qp.state, EMU_QPS_ERR);
		CHECK_EQ(end_with(&qp, EMU_OUT_OK, &out), EMU_ACT_HOLD); /* too late: the flush speaks for it */
	}
}

static void no_answer_is_tried_again_until_the_count_is_used_up(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	step(&qp, EMU_EV_HEAD, &out);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(end_with(&qp, EMU_OUT_NO_ANSWER, &out), EMU_ACT_ARM_ACK);
		CHECK_EQ(step(&qp, EMU_EV_HEAD, &out), EMU_ACT_HOLD);
		CHECK_EQ(step(&qp, EMU_EV_TIMER, &out), EMU_ACT_EXECUTE);
	}
	CHECK_EQ(end_with(&qp, EMU_OUT_NO_ANSWER, &out), EMU_ACT_ARM_ACK);
	CHECK(step(&qp, EMU_EV_TIMER, &out) & EMU_ACT_COMPLETE);
	CHECK_EQ(out.status, EMU_WC_RETRY_EXC_ERR);
	CHECK_EQ(qp.state, EMU_QPS_ERR);
}

static void a_success_refills_the_counts(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	step(&qp, EMU_EV_HEAD, &out);
	end_with(&qp, EMU_OUT_NO_ANSWER, &out);
	step(&qp, EMU_EV_TIMER, &out);
	end_with(&qp, EMU_OUT_RNR, &out);
	step(&qp, EMU_EV_TIMER, &out);
	CHECK_EQ(qp.retries_left, 1);
	CHECK_EQ(qp.rnr_left, 1);
	end_with(&qp, EMU_OUT_OK, &out);
	CHECK_EQ(qp.retries_left, 2);
	CHECK_EQ(qp.rnr_left, 2);
}

static void progress_refills_the_counts_of_a_busy_head(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS), before;
	struct emu_rule_out out;

	step(&qp, EMU_EV_HEAD, &out);
	end_with(&qp, EMU_OUT_NO_ANSWER, &out);
	before = qp;
	CHECK_EQ(step(&qp, EMU_EV_PROGRESS, &out), 0); /* it waits for its timer */
	CHECK_EQ(memcmp(&qp, &before, sizeof(qp)), 0);
	step(&qp, EMU_EV_TIMER, &out);
	CHECK_EQ(qp.retries_left, 1);
	CHECK_EQ(step(&qp, EMU_EV_PROGRESS, &out), 0);
	CHECK_EQ(qp.retries_left, 2);
	CHECK_EQ(qp.sq_busy, 1);
}

static void not_ready_is_tried_again_after_the_peers_timer(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	step(&qp, EMU_EV_HEAD, &out);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(end_with(&qp, EMU_OUT_RNR, &out), EMU_ACT_ARM_RNR);
		CHECK_EQ(out.rnr_timer, 5);
		CHECK_EQ(step(&qp, EMU_EV_TIMER, &out), EMU_ACT_EXECUTE);
	}
	CHECK(end_with(&qp, EMU_OUT_RNR, &out) & EMU_ACT_COMPLETE);
	CHECK_EQ(out.status, EMU_WC_RNR_RETRY_EXC_ERR);
}

static void rnr_retry_seven_is_for_ever(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	qp.attr.rnr_retry = qp.rnr_left = 7;
	step(&qp, EMU_EV_HEAD, &out);
	for (int i = 0; i < 100; i++) {
		CHECK_EQ(end_with(&qp, EMU_OUT_RNR, &out), EMU_ACT_ARM_RNR);
		CHECK_EQ(step(&qp, EMU_EV_TIMER, &out), EMU_ACT_EXECUTE);
	}
}

static void a_late_timer_does_nothing(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
	struct emu_rule_out out;

	CHECK_EQ(step(&qp, EMU_EV_TIMER, &out), EMU_ACT_HOLD);
	CHECK_EQ(qp.sq_busy, 0);
}

/* ---- the responder */

static void only_a_ready_responder_answers(void)
{
	struct emu_rule_out out;

	for (uint32_t state = 0; state < 7; state++) {
		struct emu_qp_rules qp = in_state(state), before = qp;
		int ready = state == EMU_QPS_RTR || state == EMU_QPS_RTS || state == EMU_QPS_SQD;

		CHECK_EQ(arrive(&qp, EMU_WR_RDMA_WRITE, EMU_OUT_OK, 0, &out), ready ? EMU_ACT_ACK : EMU_ACT_HOLD);
		CHECK_EQ(out.outcome, ready ? EMU_OUT_OK : EMU_OUT_NO_ANSWER);
		CHECK_EQ(memcmp(&qp, &before, sizeof(qp)), 0);
	}
}

static void the_queue_pair_itself_must_allow_it(void)
{
	static const uint32_t right[5] = { 2, 2, 0, 0, 4 };
	struct emu_rule_out out;

	for (uint32_t opcode = 0; opcode < 5; opcode++) {
		struct emu_qp_rules qp = in_state(EMU_QPS_RTS);

		qp.attr.access = 0x7 & ~right[opcode];
		arrive(&qp, opcode, EMU_OUT_OK, 0, &out);
		CHECK_EQ(out.actions & EMU_ACT_ACK, right[opcode] ? 0 : EMU_ACT_ACK);
		CHECK_EQ(out.outcome, right[opcode] ? EMU_OUT_REM_INV_REQ : EMU_OUT_OK);
	}
}

static void refusals_reach_all_three_sides(void)
{
	static const struct {
		uint32_t why, uses_recv, answer, status, event;
	} cases[] = {
		{ EMU_OUT_REM_ACCESS, 0, EMU_OUT_REM_ACCESS, 0, EMU_EVENT_QP_ACCESS_ERR },
		{ EMU_OUT_REM_ACCESS, 1, EMU_OUT_REM_ACCESS, EMU_WC_LOC_ACCESS_ERR, 0 },
		{ EMU_OUT_LOC_PROT, 1, EMU_OUT_REM_OP, EMU_WC_LOC_PROT_ERR, 0 },
		{ EMU_OUT_LOC_LEN, 1, EMU_OUT_REM_INV_REQ, EMU_WC_LOC_LEN_ERR, 0 },
		{ EMU_OUT_LOC_QP_OP, 1, EMU_OUT_REM_OP, EMU_WC_LOC_QP_OP_ERR, 0 },
		{ EMU_OUT_REM_INV_REQ, 0, EMU_OUT_REM_INV_REQ, 0, EMU_EVENT_QP_REQ_ERR },
	};
	struct emu_rule_out out;

	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct emu_qp_rules qp = in_state(EMU_QPS_RTS);
		uint32_t actions = arrive(&qp, EMU_WR_RDMA_WRITE, cases[i].why, cases[i].uses_recv, &out);

		CHECK_EQ(actions, EMU_ACT_NAK | EMU_ACT_FLUSH_SEND | EMU_ACT_FLUSH_RECV | EMU_ACT_DISARM |
			 (cases[i].uses_recv ? EMU_ACT_RECV_ERROR : EMU_ACT_EVENT));
		CHECK_EQ(out.outcome, cases[i].answer);
		CHECK_EQ(out.status, cases[i].status);
		CHECK_EQ(out.event, cases[i].event);
		CHECK_EQ(qp.state, EMU_QPS_ERR);
	}
}

static void not_ready_changes_nothing(void)
{
	struct emu_qp_rules qp = in_state(EMU_QPS_RTS), before = qp;
	struct emu_rule_out out;

	CHECK_EQ(arrive(&qp, EMU_WR_SEND, EMU_OUT_RNR, 0, &out), EMU_ACT_NAK);
	CHECK_EQ(out.outcome, EMU_OUT_RNR);
	CHECK_EQ(out.rnr_timer, 12);
	CHECK_EQ(memcmp(&qp, &before, sizeof(qp)), 0);
}

static void what_breaks_a_queue_pair_breaks_it_once(void)
{
	static const uint32_t events[] = { EMU_EV_BROKEN, EMU_EV_CQ_ERROR };
	struct emu_rule_out out;

	for (unsigned i = 0; i < 2; i++) {
		struct emu_qp_rules qp = in_state(EMU_QPS_RTS);

		CHECK(step(&qp, events[i], &out) & EMU_ACT_EVENT);
		CHECK_EQ(out.event, EMU_EVENT_QP_FATAL);
		CHECK_EQ(qp.state, EMU_QPS_ERR);
		CHECK_EQ(step(&qp, events[i], &out), 0);
	}
}

static void encoded_times(void)
{
	CHECK_EQ(emu_ack_timeout_ns(0), 0);
	CHECK_EQ(emu_ack_timeout_ns(1), 8192);
	CHECK_EQ(emu_ack_timeout_ns(14), 67108864);
	CHECK_EQ(emu_rnr_timer_ns(0), 655360000);
	CHECK_EQ(emu_rnr_timer_ns(1), 10000);
	CHECK_EQ(emu_rnr_timer_ns(12), 640000);
	CHECK_EQ(emu_rnr_timer_ns(31), 491520000);
}

int main(void)
{
	every_pair_of_states();
	each_mandatory_attribute_is_missed();
	an_attribute_that_does_not_belong_is_refused();
	values_out_of_range_are_refused();
	cur_state_must_be_the_state();
	values_are_taken_and_forgotten();
	a_drained_queue_says_so_once();
	a_head_starts_in_rts_only();
	one_head_at_a_time();
	each_error_completes_and_flushes();
	no_answer_is_tried_again_until_the_count_is_used_up();
	a_success_refills_the_counts();
	progress_refills_the_counts_of_a_busy_head();
	not_ready_is_tried_again_after_the_peers_timer();
	rnr_retry_seven_is_for_ever();
	a_late_timer_does_nothing();
	only_a_ready_responder_answers();
	the_queue_pair_itself_must_allow_it();
	refusals_reach_all_three_sides();
	not_ready_changes_nothing();
	what_breaks_a_queue_pair_breaks_it_once();
	encoded_times();
	return 0;
}
