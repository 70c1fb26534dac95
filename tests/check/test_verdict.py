"""The classifier: each piece of evidence, changed alone, flips the outcome that rests on it."""

import pytest

from emu.check.verdict import judge
from emu.history.oplog import Flag

BLOCK, SIZE = 4096, 4 * 4096
VICTIM, KEY = 7, 0x101
WRITE_QP, READ_QP, BYSTANDER_QP, SPARE_QP = 11, 12, 13, 14
FENCED, RETURNED = 12, 16


def rules(verdict):
    return {rule for rule, _ in verdict.violated}


def test_a_revoke_that_went_well_is_ok_with_errors(world):
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.outcomes, verdict.violated, verdict.why) == (
        "OK+ERR",
        ["OK+ERR"],
        [],
        [],
    )
    assert verdict.error_completions == {"REM_ACCESS_ERR": 1, "WR_FLUSH_ERR": 1}
    assert (verdict.foreign_bytes, verdict.freed_bytes, verdict.lost_bytes, verdict.dma_at_gate) == (
        0,
        0,
        0,
        2,
    )
    assert (verdict.dma_bytes, verdict.qps_lost, verdict.collateral) == (3 * BLOCK, 1, 0)
    assert (verdict.notified, verdict.killed) == (1.0, 0)


def test_without_errors_it_is_ok(world):
    world.completions = world.completions[:2]
    assert judge(world.write()).outcome == "OK"


def test_a_refused_reclaim_is_deny(world):
    verdict = judge(world.denied().write())
    assert (verdict.outcome, verdict.outcomes, verdict.violated) == ("DENY", ["DENY"], [])
    assert verdict.notified == 0.0


# ---- the memory


def test_a_cell_of_another_file_is_corrupt_and_counted(world):
    world.stamp(2 * BLOCK, 128, VICTIM, offset=2 * BLOCK)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.foreign_bytes) == ("CORRUPT", 128)
    assert "S1" in rules(verdict)


def test_a_cell_of_an_older_layout_of_the_same_file_is_corrupt(world):
    world.files[0]["extents"] = [[0, 0, BLOCK, 2]]
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.foreign_bytes) == ("CORRUPT", BLOCK)


def test_a_cell_in_a_free_block_is_not_foreign(world):
    world.stamp(8 * BLOCK, BLOCK, VICTIM)
    assert judge(world.write()).foreign_bytes == 0


def test_a_cell_with_a_broken_checksum_is_not_counted(world):
    world.stamp(2 * BLOCK, 64, VICTIM)
    world.image[2 * BLOCK + 20] ^= 1
    assert judge(world.write()).foreign_bytes == 0


def test_a_cell_over_the_canary_of_a_new_namespace_is_corrupt(world):
    world.replugged().stamp(8 * BLOCK, 64, VICTIM)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.foreign_bytes) == ("CORRUPT", 64)


def test_a_new_namespace_that_nobody_touched_is_clean(world):
    assert judge(world.replugged().write()).outcome == "OK+ERR"


def test_reading_somebody_elses_cells_is_corrupt(world):
    world.row["leaked"] = {"4096": "", "4160": ""}
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.leaked_bytes) == ("CORRUPT", 128)


# ---- the file


def test_a_denied_reclaim_that_changed_the_size_breaks_s3(world):
    world.denied().files[0]["size"] = BLOCK
    verdict = judge(world.write())
    assert verdict.outcome == "DENY"
    assert rules(verdict) == {"S3"}


def test_a_denied_reclaim_that_zeroed_data_breaks_s3(world):
    world.denied().image[BLOCK : BLOCK + 64] = bytes(64)
    assert rules(judge(world.write())) == {"S3"}


def test_success_without_the_new_size_breaks_s2(world):
    world.files[0]["size"] = SIZE
    assert rules(judge(world.write())) == {"S2"}


def test_success_without_the_hole_breaks_s2(world):
    world.row["expected"] = {"size": BLOCK, "holes": [[0, BLOCK]], "kept": []}
    assert rules(judge(world.write())) == {"S2"}


def test_an_unlinked_file_that_is_still_there_breaks_s2(world):
    world.row["expected"] = {"gone": True, "size": 0, "holes": [], "kept": []}
    assert rules(judge(world.write())) == {"S2"}


def test_a_kept_byte_that_changed_breaks_s2(world):
    world.image[10] ^= 1
    assert rules(judge(world.write())) == {"S2"}


@pytest.mark.parametrize("damage", [bytes(64), b"x" * 64])
def test_a_byte_of_the_second_file_that_vanished_breaks_s10(world, damage):
    world.image[2 * BLOCK : 2 * BLOCK + 64] = damage
    verdict = judge(world.write())
    assert (verdict.outcome, rules(verdict)) == ("OK+ERR", {"S10"})


def test_a_piece_of_the_second_file_in_the_wrong_place_breaks_s10(world):
    world.stamp(2 * BLOCK, 64, 9, offset=0)
    assert rules(judge(world.write())) == {"S10"}


def test_damage_by_a_stranger_is_corruption_and_not_s10(world):
    world.stamp(2 * BLOCK, 64, VICTIM)
    world.image[2 * BLOCK + 64 : 2 * BLOCK + 128] = b"torn between two writers".ljust(64, b"x")
    verdict = judge(world.write())
    assert (verdict.outcome, rules(verdict)) == ("CORRUPT", {"S1"})


def test_a_second_file_that_is_gone_breaks_s10(world):
    world.files.pop()
    assert rules(judge(world.write())) == {"S10"}


def test_a_hole_in_the_second_file_breaks_s10(world):
    world.files[1]["extents"] = [[0, BLOCK, 2 * BLOCK, 1]]
    assert rules(judge(world.write())) == {"S10"}


def test_a_newly_allocated_block_that_was_not_zero_breaks_s9(world):
    world.row["taken"]["unzeroed"] = 8
    assert rules(judge(world.write())) == {"S9"}


def test_what_no_check_covered_is_not_said_to_be_checked(world):
    checked = set(judge(world.write()).checked)
    assert {"S1", "S9", "S10"} <= checked
    assert not {"V8", "V21", "V22"} & checked


def test_without_a_second_file_s9_and_s10_are_not_said_to_be_checked(world):
    world.row["taken"] = None
    assert not {"S9", "S10"} & set(judge(world.write()).checked)


def test_a_block_with_two_owners_breaks_s6(world):
    world.files.append({"path": "/mnt/x", "ino": VICTIM, "size": 64, "extents": [[0, BLOCK // 2, 64, 1]]})
    assert rules(judge(world.write())) == {"S6"}


# ---- the log


@pytest.mark.parametrize("flag", [Flag.DST_FOREIGN, Flag.SRC_FOREIGN])
def test_dma_in_memory_that_changed_hands_is_corrupt(world, flag):
    world.moved(flag, opcode=4 if flag == Flag.SRC_FOREIGN else 0)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.foreign_dma_bytes) == ("CORRUPT", BLOCK)


def test_a_write_into_freed_blocks_afterwards_is_lost(world):
    world.moved(Flag.DST_FREED)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.freed_bytes, verdict.lost_bytes) == ("LOST", BLOCK, BLOCK)
    assert rules(verdict) >= {"S2", "S4"}


def test_a_write_into_freed_blocks_that_started_before_the_return_is_not_counted(world):
    world.moved(Flag.DST_FREED, after=False)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.freed_bytes, verdict.lost_bytes) == ("OK+ERR", 0, 0)


def test_a_failed_write_is_not_lost(world):
    world.moved(Flag.DST_FREED, status=10, rkey=0)
    assert judge(world.write()).lost_bytes == 0


def test_the_first_quanta_of_an_operation_that_failed_later_are_not_lost(world):
    world.moved(Flag.DST_FREED, op=98)
    world.moved(Flag.DST_FREED, op=99, op_done=0, acknowledged=False)
    verdict = judge(world.write())
    assert (verdict.freed_bytes, verdict.lost_bytes) == (2 * BLOCK, BLOCK)


def test_nor_are_those_that_lie_in_a_sum_with_others(world):
    world.moved(Flag.DST_FREED, kind=2, quanta=4, bytes=4 * BLOCK, op=96)
    world.completions[-1] = (*world.completions[-1][:2], 10)
    assert judge(world.write()).lost_bytes == 3 * BLOCK


def test_an_operation_that_was_never_answered_is_not_lost(world):
    world.moved(Flag.DST_FREED, op=99)
    world.posted = [(qp, wr) for qp, wr, _ in world.completions]
    world.completions.pop()
    assert judge(world.write()).lost_bytes == 0


def test_a_read_that_failed_later_is_not_stale(world):
    world.moved(Flag.SRC_FREED, opcode=4, acknowledged=False)
    assert judge(world.write()).stale_bytes == 0


def test_a_read_of_freed_blocks_afterwards_is_stale(world):
    world.moved(Flag.SRC_FREED, opcode=4)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.stale_bytes) == ("STALE", BLOCK)


def test_dma_to_absent_memory_after_the_answer_is_a_fault(world):
    world.replugged().moved(Flag.DST_ABSENT)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.absent_bytes, verdict.absent_before_answer_bytes) == ("FAULT", BLOCK, 0)


def test_dma_to_absent_memory_before_the_answer_is_told_apart(world):
    world.replugged().moved(Flag.DST_ABSENT, after=False)
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.absent_bytes, verdict.absent_before_answer_bytes) == ("OK+ERR", 0, BLOCK)


def test_a_sum_whose_first_operation_is_older_counts_the_others(world):
    world.moved(Flag.DST_FREED, kind=2, quanta=4, bytes=4 * BLOCK, op_epoch=5)
    assert judge(world.write()).freed_bytes == 3 * BLOCK


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch_first": 5, "epoch_last": FENCED},  # it was running when the quiesce was confirmed
        {"epoch_first": FENCED - 1, "epoch_last": FENCED + 1, "flags": Flag.EPOCH_MOVED},
        {"epoch_first": FENCED, "epoch_last": FENCED},
        {"epoch_first": RETURNED, "epoch_last": RETURNED},
        {"epoch_first": FENCED, "epoch_last": FENCED, "kind": 2, "quanta": 3},
    ],
)
def test_a_quantum_that_runs_on_under_a_key_whose_quiesce_was_confirmed_breaks_v9(world, fields):
    world.moved(**fields)
    assert {"V9", "V3"} <= rules(judge(world.write()))


def test_a_write_out_of_the_mr_reads_it_and_that_is_late_too(world):
    world.moved(epoch_first=FENCED, epoch_last=FENCED, rkey=0, lkey=KEY)
    assert rules(judge(world.write())) == {"V9", "V10"}


def test_an_operation_that_began_under_a_revoked_key_breaks_v10(world):
    world.moved(epoch_first=RETURNED)
    assert rules(judge(world.write())) == {"V3", "V9", "V10"}


def test_a_read_behind_the_fence_is_thrown_away_but_not_behind_the_unmap(world):
    world.moved(opcode=4, op_epoch=5, epoch_first=FENCED, epoch_last=FENCED)
    assert rules(judge(world.write())) == {"V9"}


def test_a_read_behind_the_unmap_breaks_v3(world):
    world.moved(opcode=4, op_epoch=5, epoch_first=FENCED, epoch_last=FENCED + 1)
    assert rules(judge(world.write())) == {"V3", "V9"}


@pytest.mark.parametrize(
    "fields",
    [
        {"epoch_first": FENCED - 1, "epoch_last": FENCED - 1},
        {"epoch_first": 5, "epoch_last": FENCED - 1, "flags": Flag.EPOCH_MOVED},
        {"epoch_first": FENCED - 1, "epoch_last": FENCED - 1, "kind": 2, "quanta": 3},
        {"epoch_first": RETURNED, "epoch_last": RETURNED, "flags": Flag.CUT, "bytes": 0},
    ],
)
def test_a_quantum_that_had_ended_or_was_cut_does_not(world, fields):
    world.moved(after=False, **fields)
    assert rules(judge(world.write())) == set()


def test_bytes_under_another_key_are_nobodys_business(world):
    world.moved(rkey=0x202)
    assert judge(world.write()).violated == []


# ---- the journals


def test_a_request_that_never_completed_breaks_s5(world):
    world.posted = [(WRITE_QP, n) for n in (1, 2, 3, 4, 5)]
    assert rules(judge(world.write())) == {"S5"}


def test_a_request_that_completed_twice_breaks_s5(world):
    world.posted = [(WRITE_QP, n) for n in (1, 2, 3, 4)]
    world.completions.append((WRITE_QP, 4, 5))
    assert rules(judge(world.write())) == {"S5"}


def test_requests_that_completed_out_of_order_break_s5(world):
    world.posted = [(WRITE_QP, n) for n in (2, 1, 3, 4)]
    assert rules(judge(world.write())) == {"S5"}


def test_success_of_a_request_that_was_posted_under_a_revoked_key_breaks_v19(world):
    world.completions.append((READ_QP, 9, 0))
    world.posted_late = {9}
    assert rules(judge(world.write())) == {"V19"}


def test_failure_of_a_request_that_was_posted_under_a_revoked_key_does_not(world):
    world.completions.append((READ_QP, 9, 10))
    world.posted_late = {9}
    assert rules(judge(world.write())) == set()


def test_errors_of_the_bystander_are_collateral(world):
    world.completions.append((BYSTANDER_QP, 9, 10))
    verdict = judge(world.write())
    assert (verdict.collateral, verdict.qps_lost) == (1, 1)
    assert rules(verdict) == {"S8"}


def test_a_bystander_that_works_no_more_is_collateral(world):
    world.row["bystander"]["mr_lost"] = True
    assert judge(world.write()).collateral == 1


def test_recovery_is_from_the_first_error_to_the_next_good_completion(world):
    world.row["recovery_qps"] = [SPARE_QP]
    world.completions.append((SPARE_QP, 9, 0))
    assert judge(world.write()).recovery_us > 0


def test_a_deaf_holders_peer_never_recovers(world):
    assert judge(world.write()).recovery_us is None


def test_two_notices_of_one_revoke_break_v13(world):
    world.notices = [(1001, KEY), (1001, KEY)]
    assert rules(judge(world.write())) == {"V13"}


# ---- other ends


def signalled(*names):
    """The broker opens sessions of these names and signals whoever opened them."""
    sessions = enumerate(names, 70)
    return [
        line
        for session, name in sessions
        for line in (
            {
                "kind": "event",
                "type": "SessionOpened",
                "session": session,
                "name": name,
                "door": True,
                "wants": False,
            },
            {"kind": "effect", "type": "Signal", "session": session, "number": 9},
        )
    ]


def test_a_killed_client_is_kill(world):
    world.row |= {"killed": ["holder", "peer"], "killed_by": {"holder": 9, "peer": 9}}
    world.lines["returned"] = signalled("holder", "peer")
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.killed, verdict.innocent_killed) == ("KILL", 2, 1)


def test_a_client_that_ended_by_a_signal_nobody_sent_makes_the_run_unknown(world):
    world.row |= {"killed": ["holder", "peer"], "killed_by": {"holder": 9, "peer": 9}}
    world.lines["returned"] = signalled("holder")
    verdict = judge(world.write())
    assert (verdict.outcome, verdict.killed, verdict.innocent_killed) == ("KILL", 1, 0)
    assert "UNKNOWN" in verdict.outcomes
    assert any(why.startswith("peer was ended by signal 9 ") for why in verdict.why)


@pytest.mark.parametrize("by", [9, 11, 0, None])
def test_who_was_only_asked_and_died_of_something_else_was_not_killed(world, by):
    """A SIGIO is a question; another signal, or one whose number nobody knows, is somebody else's."""
    world.row |= {"killed": ["holder"], "killed_by": {} if by is None else {"holder": by}}
    world.lines["returned"] = [
        {**line, "number": 29} if line["type"] == "Signal" else line for line in signalled("holder")
    ]
    verdict = judge(world.write())
    assert (verdict.killed, verdict.outcome) == (0, "UNKNOWN")
    assert any(why.startswith("holder was ended by") for why in verdict.why)


def test_blocks_that_are_not_allocatable_after_success_are_a_leak(world, monkeypatch):
    """What is owed is space.py's to say, at the time of the survey."""
    asked = []
    monkeypatch.setattr("emu.check.verdict.space_owed", lambda _history, at: asked.append(at) or 3 * BLOCK)
    world.row["surveyed"] = 1234
    assert judge(world.write()).outcome == "LEAK"
    assert asked == [1234]


def test_blocks_in_quarantine_that_nobody_was_promised_are_no_leak(world):
    world.row["blocks"]["pm0"] |= {"free": 9, "quarantined": 3}
    assert judge(world.write()).outcome == "OK+ERR"


def test_blocks_that_do_not_add_up_break_s6(world):
    world.row["blocks"]["pm0"]["free"] = 11
    assert rules(judge(world.write())) == {"S6"}


def test_a_refused_registration_is_refused(world):
    world.row |= {"refused": "EOPNOTSUPP", "pinned": False}
    world.completions = []
    assert judge(world.write()).outcome == "REFUSED"


def hanging(world):
    world.row["reclaim"] |= {"returned": False, "ended": None}
    world.phases = world.phases[:2]
    return world


def test_no_return_and_nothing_to_wait_for_is_a_hang(world):
    verdict = judge(hanging(world).write())
    assert verdict.outcome == "HANG"
    assert "S7" in rules(verdict)


def test_who_was_killed_for_its_own_request_waits_for_no_answer(world):
    world.row["reclaim"] |= {"returned": False, "ended": None, "abandoned": True}
    world.row |= {"killed": ["holder"], "killed_by": {"holder": 9}}
    world.lines["returned"] = signalled("holder")
    verdict = judge(world.write())
    assert verdict.outcome == "KILL"
    assert "HANG" not in verdict.outcomes


def test_an_answer_that_only_the_asker_lacks_is_no_hang(world):
    """The broker has answered: whatever the lab did not hear."""
    world.row["reclaim"] |= {"returned": False, "ended": None}
    verdict = judge(world.write())
    assert "HANG" not in verdict.outcomes
    assert "UNKNOWN" in verdict.outcomes
    assert any("its answer was lost" in why for why in verdict.why)


@pytest.mark.parametrize("errno", [None, 16])
def test_dma_to_memory_that_is_gone_is_a_fault_although_nobody_gets_an_answer_or_a_good_one(world, errno):
    world.row["reclaim"] |= {"returned": errno is not None, "errno": "EBUSY" if errno else None}
    world.phases = world.phases[:2] + ([("returned", RETURNED, {"errno": errno}, 0)] if errno else [])
    world.lines["gated"] = [{"kind": "effect", "type": "Offline", "aperture": 1, "device": "pm0", "token": 0}]
    world.moved(Flag.DST_ABSENT)
    world.moved(Flag.DST_ABSENT, after=False)
    verdict = judge(world.write())
    assert (verdict.absent_bytes, verdict.absent_before_answer_bytes) == (BLOCK, BLOCK)
    assert "FAULT" in verdict.outcomes


@pytest.mark.parametrize(
    "line",
    [{"kind": "effect", "type": "Arm", "timer": 3}, {"kind": "effect", "type": "Quiesce", "cookie": 4}],
)
def test_no_return_while_something_can_still_advance_it_is_unknown(world, line):
    hanging(world).extra_lines = [line]
    assert judge(world.write()).outcome == "UNKNOWN"


def test_a_timer_that_rang_advances_nothing_more(world):
    hanging(world).extra_lines = [
        {"kind": "effect", "type": "Arm", "timer": 3}, {"kind": "event", "type": "TimerFired", "timer": 3},
        {"kind": "effect", "type": "Quiesce", "cookie": 4}, {"kind": "event", "type": "Quiesced", "cookie": 4},
    ]  # fmt: skip
    assert judge(world.write()).outcome == "HANG"


# ---- precedence


def test_the_worst_outcome_goes_first_and_all_are_listed(world):
    world.stamp(2 * BLOCK, 64, VICTIM)
    world.moved(Flag.DST_FREED)
    verdict = judge(world.write())
    assert verdict.outcomes == ["CORRUPT", "LOST", "OK+ERR"]
