"""The model's fabric: what a peer sees when the network or the key fails, step by step."""

from __future__ import annotations

import pytest

from emu.check.model.fabric import Fabric, Terms, canonical, exchanged, keys_of, renamed
from emu.engine.link import MASK, Link
from emu.engine.rules import Outcome, ack_timeout_ns, rnr_timer_ns

SUCCESS, FLUSHED, REM_ACCESS_ERR, RETRY_EXC_ERR, RNR_RETRY_EXC_ERR = 0, 5, 10, 12, 13
KEY = 0x101


class Story:
    """A fabric, its state, and what came of it so far."""

    def __init__(self, **terms):
        self.fabric = Fabric(1, Terms(**terms))
        self.state = self.fabric.start()
        self.polled, self.events, self.ran = [], [], []

    def take(self, step):
        assert step.broken == ()
        self.state = step.state
        self.polled += [(done.work.number, done.status) for done in step.completions]
        self.events += step.events
        return step

    def labels(self):
        return [label for label, _make in self.fabric.moves(self.state)]

    def do(self, *labels):
        for label in labels:
            self.take(dict(self.fabric.moves(self.state))[label]())

    def write(self, quanta=2):
        self.take(self.fabric.post(self.state, 0, KEY, quanta))

    def engine(self, outcome=Outcome.OK):
        serving = self.fabric.serving(self.state, 0)
        if self.take(self.fabric.enter(self.state, 0, outcome)).runs:
            self.ran.append((serving.work.number, serving.quantum))
            self.take(self.fabric.leave(self.state, 0))

    def settle(self, outcome=Outcome.OK):
        """Everything arrives, and is carried out; no timer runs out."""
        while True:
            if self.fabric.serving(self.state, 0):
                self.engine(outcome)
                continue
            deliver = [label for label in self.labels() if "deliver" in label]
            if not deliver:
                return
            self.do(deliver[0])


def test_a_write_is_its_quanta_and_one_answer():
    story = Story()
    story.write(3)
    assert [label for label in story.labels() if "deliver" in label] == ["network: deliver peer1's write 0"]
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS)], [(0, 0), (0, 1), (0, 2)])
    assert story.fabric.timers(story.state) == ()


def test_the_second_write_starts_when_the_first_has_completed():
    story = Story()
    story.write()
    story.write()
    assert not story.fabric.may_post(story.state, 0)
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS), (1, SUCCESS)], [(0, 0), (0, 1), (1, 0), (1, 1)])
    assert story.fabric.may_post(story.state, 0)


def test_the_timers_have_the_encoded_times():
    story = Story(timeout=10, min_rnr_timer=3)
    story.write()
    assert story.fabric.timers(story.state) == ((0, "ack", ack_timeout_ns(10)),)
    story.settle(Outcome.RNR)
    assert story.fabric.timers(story.state) == ((0, "rnr", rnr_timer_ns(3)),)


def test_timeout_zero_waits_for_ever():
    story = Story(timeout=0)
    story.write()
    story.do(
        "network: lose peer1's write 0",
        "network: deliver peer1's write 1?",
        "network: deliver peer1's sequence 0",
    )
    story.settle()
    assert story.polled == [(0, SUCCESS)]
    story = Story(timeout=0)
    story.do("network: partition")
    story.write()
    assert story.labels() == ["network: heal"]


def test_a_lost_request_is_sent_again_from_the_gap_on():
    story = Story()
    story.write(3)
    story.do("network: lose peer1's write 1")
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS)], [(0, 0), (0, 1), (0, 2)])


def test_a_lost_answer_makes_the_nic_answer_once_more_and_carry_out_nothing_twice():
    story = Story()
    story.write()
    for _ in range(2):
        story.do(next(label for label in story.labels() if "deliver" in label))
        story.engine()
    story.do("network: lose peer1's ack 1")
    assert story.labels()[0] == "peer1: timer fires"
    story.do("peer1: timer fires")
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS)], [(0, 0), (0, 1)])


def test_a_partition_ends_in_retry_exceeded_and_a_flush():
    story = Story(retry_cnt=2)
    story.do("network: partition")
    story.write()
    story.write()
    for _ in range(3):
        assert story.polled == []
        story.do("peer1: timer fires")
    assert (story.polled, story.ran) == ([(0, RETRY_EXC_ERR), (1, FLUSHED)], [])
    assert story.fabric.failed(story.state, 0)
    assert not story.fabric.may_post(story.state, 0)
    assert story.fabric.timers(story.state) == ()


def test_a_healed_partition_is_survived():
    story = Story()
    story.do("network: partition")
    story.write()
    story.do("network: heal", "peer1: timer fires")
    story.settle()
    assert story.polled == [(0, SUCCESS)]


def test_cut_answers_hide_that_the_work_was_done():
    story = Story(retry_cnt=0)
    story.write()
    story.do("network: partition answers")
    story.settle()
    assert story.ran == [(0, 0), (0, 1)]
    story.do("peer1: timer fires")
    assert story.polled == [(0, RETRY_EXC_ERR)]


def test_a_revoked_key_is_an_access_error_and_the_rest_is_flushed():
    story = Story()
    story.write()
    story.write()
    story.do("network: deliver peer1's write 0")
    story.engine()
    story.settle(Outcome.REM_ACCESS)
    assert (story.polled, story.ran) == ([(0, REM_ACCESS_ERR), (1, FLUSHED)], [(0, 0)])
    assert story.events == [("host", 0, 3)]  # QP_ACCESS_ERR


def test_a_lost_refusal_shows_as_silence():
    story = Story()
    story.write(1)
    story.do("network: deliver peer1's write 0?")
    story.engine(Outcome.REM_ACCESS)
    story.do("network: lose peer1's nak 0 REM_ACCESS")
    for _ in range(2):
        story.do("peer1: timer fires")
        story.settle()
    assert (story.polled, story.ran) == ([(0, RETRY_EXC_ERR)], [])


def test_not_ready_is_tried_again_and_given_up():
    story = Story(rnr_retry=1)
    story.write(1)
    story.settle(Outcome.RNR)
    story.do("peer1: timer fires")
    story.settle()
    assert story.polled == [(0, SUCCESS)]
    story.write(1)
    story.settle(Outcome.RNR)
    story.do("peer1: timer fires")
    story.settle(Outcome.RNR)
    assert story.polled[1:] == [(1, RNR_RETRY_EXC_ERR)]


def test_a_responder_that_died_never_answers():
    story = Story(retry_cnt=1)
    story.write()
    story.do("network: deliver peer1's write 0")
    story.take(story.fabric.enter(story.state, 0))
    story.take(story.fabric.die(story.state, 0))
    story.take(story.fabric.leave(story.state, 0))
    story.settle()
    story.do("peer1: timer fires", "peer1: timer fires")
    assert story.polled == [(0, RETRY_EXC_ERR)]


def test_an_impatient_peer_may_give_up_on_work_that_is_still_done():
    """The packets were slow: the peer has its error, and its bytes arrive behind it."""
    story = Story(retry_cnt=0, hurries=1)
    story.write(1)
    story.do("peer1: timer fires")
    assert story.polled == [(0, RETRY_EXC_ERR)]
    story.settle()
    assert story.ran == [(0, 0)]


def test_a_patient_peer_waits_while_anything_is_under_way():
    story = Story(hurries=0)
    story.write(1)
    assert "peer1: timer fires" not in story.labels()
    story.do("network: deliver peer1's write 0?")
    assert "peer1: timer fires" not in story.labels()
    story.engine()
    story.do("network: lose peer1's ack 0")
    assert "peer1: timer fires" in story.labels()


def test_connecting_again_forgets_the_old_connection():
    story = Story(retry_cnt=0, hurries=1)
    assert not story.fabric.may_connect(story.state, 0)
    story.write(2)
    story.do("peer1: timer fires")
    assert story.fabric.may_connect(story.state, 0)
    story.take(story.fabric.connect(story.state, 0))
    assert story.labels() == [
        "network: partition",
        "network: partition requests",
        "network: partition answers",
    ]
    story.write(2)
    story.settle()
    assert (story.polled, story.ran) == ([(0, RETRY_EXC_ERR), (1, SUCCESS)], [(1, 0), (1, 1)])


def test_packets_overtake_each_other_only_where_they_may():
    story = Story()
    story.write(3)
    assert [x for x in story.labels() if "deliver" in x] == ["network: deliver peer1's write 0"]
    story = Story(overtakes=1)
    story.write(3)
    story.do("network: deliver peer1's write 2?", "network: deliver peer1's sequence 0")
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS)], [(0, 0), (0, 1), (0, 2)])


def test_budgets_are_used_up():
    story = Story(losses=1, duplicates=1, partitions=1)
    story.write(2)
    story.do(
        "network: duplicate peer1's write 0",
        "network: lose peer1's write 0",
        "network: partition",
        "network: heal",
    )
    assert not [x for x in story.labels() if "lose" in x or "duplicate" in x or "partition" in x]
    story.settle()
    assert (story.polled, story.ran) == ([(0, SUCCESS)], [(0, 0), (0, 1)])


def test_what_the_world_hands_over_comes_back():
    story = Story()
    story.take(story.fabric.post(story.state, 0, KEY, 1, mr=2, late=True))
    story.do("network: deliver peer1's write 0?")
    assert story.fabric.serving(story.state, 0).work[1:] == (KEY, 1, 2, True)
    story.take(story.fabric.enter(story.state, 0))
    story.take(story.fabric.leave(story.state, 0, spoilt=True))
    step = story.fabric.deliver(story.state, 0, story.state.lines[0].back[0])
    assert [(done.work.mr, done.work.late, done.spoilt) for done in step.completions] == [(2, True, True)]


def test_a_success_that_was_not_carried_out_is_told():
    """The control: a NIC that acknowledges what it dropped."""
    story = Story()
    story.write(1)
    line = story.state.lines[0]
    lied = story.state._replace(lines=(line._replace(there=(), back=(_ack(0),)),))
    step = story.fabric.deliver(lied, 0, _ack(0))
    assert [name for name, _sentence in step.broken] == ["S4"]


def test_a_quantum_carried_out_twice_is_told():
    """The control: a NIC that forgets which number it expects."""
    story = Story()
    story.write(2)
    story.do("network: duplicate peer1's write 0", "network: deliver peer1's write 0")
    story.engine()
    line = story.state.lines[0]
    forgetful = Link.of(line.host_link)._replace(expected=0).packed()
    story.state = story.state._replace(lines=(line._replace(host_link=forgetful, there=line.there[1:]),))
    story.do("network: deliver peer1's write 0")
    story.take(story.fabric.enter(story.state, 0))
    assert [name for name, _sentence in story.fabric.leave(story.state, 0).broken] == ["S4"]


def _ack(psn):
    from emu.check.model.fabric import Reply

    return Reply(psn, 0, 0, 0)


def test_states_with_the_same_future_have_one_form():
    """After any number of WRITEs, at any place of the number space, under any key's number."""
    forms = set()
    for psn, before in ((0, 0), (0, 3), (MASK, 1), (MASK - 5, 5)):
        story = Story(psn=psn, losses=0, duplicates=0)
        for _ in range(before):
            story.write(1)
            story.settle()
        story.take(story.fabric.post(story.state, 0, KEY + before, 2))
        story.do(story.labels()[0])
        form = canonical(renamed(story.state, lambda _key: 1))
        forms.add(
            repr((form[0][0][1:2], form[0][0][3:], form[1:]))
        )  # the queue pairs keep their first number
    assert len(forms) == 1


def test_keys_are_renamed_everywhere():
    story = Story()
    story.write(2)
    story.write(2)
    story.do("network: deliver peer1's write 0")
    other = renamed(story.state, lambda key: key + 1)
    assert renamed(other, lambda key: key - 1) == story.state
    assert list(keys_of(other)) == [KEY + 1] * 4


def test_peers_that_exchange_their_names_have_the_same_future():
    fabric = Fabric(3)
    start = fabric.start()
    one = fabric.post(fabric.post(start, 0, KEY, 1).state, 1, KEY, 2).state
    other = fabric.post(fabric.post(start, 2, KEY, 1).state, 0, KEY, 2).state
    assert exchanged(one, (2, 0, 1)) == other
    assert canonical(exchanged(one, (2, 0, 1))) == canonical(other) != canonical(one)


def test_terms_that_make_no_sense_are_refused():
    for wrong in ({"depth": 0}, {"losses": -1}, {"psn": "x"}):
        with pytest.raises(ValueError, match="fabric"):
            Terms(**wrong)
    with pytest.raises(OSError, match="illegal modify"):
        Fabric(1, Terms(retry_cnt=8))
