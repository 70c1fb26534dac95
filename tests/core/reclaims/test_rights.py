"""Rights, recalls and fences: who has a right, who is told, what a fence that fails leaves, and when a right leaves the table (V21)."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, EVENTS, START
from emu.protocols import registry
from emu.protocols.contract import Protocol, deny, fence, gate, go, reply

BLOCK = 4096
RECALL = "recall-fence"


@pytest.fixture
def node(make_node):
    made = make_node(RECALL)
    made.file()
    return made


def rights(node):
    return dict(node.books.rights.items())


def last(node, kind):
    return node.of(kind)[-1]


def deadline(node):
    node.step(ev.TimerFired(last(node, fx.Arm).timer))


def recalled(node, session=1, **mr):
    """A truncate of what the session has pinned; (MR, request)."""
    key = node.mr(session=session, **mr)
    return key, node.send(rq.FsTruncate("/mnt/a", 0), 3)


# ---- the table


def test_registrations_of_one_session_on_one_file_share_a_right(node):
    first, second = node.mr(), node.mr()
    node.mr(session=2)
    granted = node.of(fx.GrantRight)
    assert [one.session for one in granted] == [1, 2]
    assert node.books.mrs[first].right == node.books.mrs[second].right == granted[0].right


def test_a_right_is_for_a_file(node):
    node.file("/mnt/b")
    node.mr()
    node.mr("/mnt/b")
    assert len(node.of(fx.GrantRight)) == 2


def test_no_right_without_fences(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    assert not node.of(fx.GrantRight)


def test_the_last_deregistration_gives_the_right_back_and_the_answer_drops_it(node):
    first, second = node.mr(), node.mr()
    node.ask(rq.DeregMr(first))
    assert not node.of(fx.ReturnRight)
    node.send(rq.DeregMr(second))
    node.go(ev.Quiesced, ev.Unmapped)
    assert len(node.of(fx.ReturnRight)) == 1
    assert len(rights(node)) == 1, "it stays until the storage has noted it"
    node.go()
    assert not rights(node)
    assert last(node, fx.DropRight).right == last(node, fx.GrantRight).right


def test_a_right_on_its_way_out_serves_nobody(node):
    node.send(rq.DeregMr(node.mr()))
    node.go(ev.Quiesced, ev.Unmapped)
    returning = node.of(fx.GrantRight)[0].right
    node.send(rq.RegMr(node.pd(), BLOCK, 7, 0, "dax", "/mnt/a"))
    node.go(ev.KeyInstalled)
    assert last(node, fx.GrantRight).right != returning


def test_whoever_ends_gives_everything_back(node):
    node.mr()
    node.lose(1)
    node.go()
    assert not rights(node)
    assert node.quiet()


# ---- the recall


def test_a_holder_who_lets_go_loses_nothing(node):
    key, request = recalled(node)
    assert last(node, fx.Notify).name == "MR_REVOKING"
    assert last(node, fx.Notify).fields == {"mr": key, "rkey": key, "event": "truncate", "seconds": 2.0}
    assert node.answer(request) is None
    node.ask(rq.DeregMr(key))
    assert isinstance(node.answer(request), fx.Reply)
    assert not node.of(fx.FenceRight)
    assert node.quiet()
    assert node.blocks()["free"] == 64


def test_nobody_registers_while_it_is_recalled(node):
    recalled(node)
    assert node.refused(rq.RegMr(node.pd(2), BLOCK, 7, 0, "dax", "/mnt/a"), 2)[0] == "EBUSY"


def test_what_nobody_pins_is_taken_at_once(node):
    node.ask(rq.FsTruncate("/mnt/a", 0), 3)
    assert "fencing" not in node.phases()


# ---- the fence


def test_at_the_deadline_the_client_is_fenced_and_only_then_unmapped_and_freed(node):
    key, request = recalled(node)
    deadline(node)
    fence = last(node, fx.FenceRight)
    assert (fence.right, fence.keys) == (last(node, fx.GrantRight).right, (key,))
    assert not node.of(fx.DropRight)
    assert not node.of(fx.Unmap)
    node.go(ev.RightFenced)
    assert last(node, fx.DropRight).right == fence.right
    assert not node.of(fx.Release)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    order = [type(effect).__name__ for effect in node.effects]
    assert order.index("DropRight") < order.index("Unmap") < order.index("Release")


def test_a_fenced_client_loses_all_it_has_on_that_storage_and_nothing_elsewhere(node):
    node.file("/mnt/b")
    other, mine = node.mr("/mnt/b"), node.mr()
    memory = node.ask(rq.RegMr(node.pd(), BLOCK, 7, 0, "anon"))["handle"]
    bystander = node.mr("/mnt/b", session=2)
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    deadline(node)
    assert last(node, fx.FenceRight).keys == (other, mine)
    node.go()
    revoked = [key for key, row in node.books.mrs.items() if row.revoked]
    assert revoked == [other, mine]
    assert {memory, bystander} <= set(node.books.mrs)
    assert len(rights(node)) == 2, "the rights on the other file, its own and the bystander's"


def test_every_client_in_the_range_is_fenced_and_all_must_be_confirmed(node):
    node.mr()
    _key, request = recalled(node, session=2)
    deadline(node)
    first, second = node.of(fx.FenceRight)
    node.waiting.clear()
    node.step(ev.RightFenced(first.fence))
    assert not node.of(fx.Unmap)
    assert list(rights(node)) == [second.right]
    node.step(ev.RightFenced(second.fence))
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


def test_a_failed_fence_keeps_the_right_and_is_tried_again_for_ever(node):
    _key, request = recalled(node)
    deadline(node)
    for _time in range(5):
        node.waiting.clear()
        node.step(ev.RightFenced(last(node, fx.FenceRight).fence, errno.EIO))
        assert list(rights(node)) == [last(node, fx.GrantRight).right]
        assert not node.of(fx.DropRight)
        assert node.answer(request) is None
        deadline(node)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert len(node.of(fx.FenceRight)) == 6
    assert len(node.of(fx.DropRight)) == 1


def test_only_what_failed_is_fenced_again(node):
    node.mr()
    recalled(node, session=2)
    deadline(node)
    first, second = node.of(fx.FenceRight)
    node.waiting.clear()
    node.step(ev.RightFenced(second.fence, errno.EIO))
    node.step(ev.RightFenced(first.fence))
    deadline(node)
    assert [fence.right for fence in node.of(fx.FenceRight)[2:]] == [second.right]
    node.go()
    assert node.quiet()


def test_a_client_who_lets_go_of_a_fence_that_failed_gives_its_right_back(node):
    key, request = recalled(node)
    deadline(node)
    node.waiting.clear()
    node.step(ev.RightFenced(last(node, fx.FenceRight).fence, errno.EIO))
    node.send(rq.DeregMr(key))
    node.go(ev.Quiesced, ev.Unmapped, ev.RightReturned)
    assert not rights(node)
    deadline(node)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)


def test_who_interrupts_a_fence_is_answered_and_the_fence_goes_on(node):
    _key, request = recalled(node)
    deadline(node)
    node.waiting.clear()
    node.send(rq.Cancel(request), 3)
    assert node.answer(request).errno == errno.EINTR
    node.step(ev.RightFenced(last(node, fx.FenceRight).fence, errno.EIO))
    deadline(node)
    node.go()
    assert len(node.of(fx.DropRight)) == 1
    assert node.quiet()
    assert not node.of(fx.Release)
    assert node.stat()["size"] == 4 * BLOCK


def test_a_key_that_is_being_installed_is_fenced_too(node):
    node.send(rq.RegMr(node.pd(), BLOCK, 7, 0, "dax", "/mnt/a"))
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    deadline(node)
    assert last(node, fx.FenceRight).keys, "the engine is getting it"
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert not rights(node)
    assert len(node.books.mrs) == 0


def test_whoever_came_under_another_protocol_gets_a_right_to_lose(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    node.ask(rq.SetProtocol("/mnt", RECALL), 3)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
    deadline(node)
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert len(node.of(fx.GrantRight)) == len(node.of(fx.DropRight)) == 1


def test_a_surprise_is_fenced_without_a_recall(node):
    node.mr()
    request = node.send(rq.FsUnplug("pm0", surprise=True), 3)
    assert [effect.name for effect in node.of(fx.Notify)] == ["MR_REVOKED"]
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert not rights(node)


# ---- those at the other end


def queue_pair(node, session, pd, dest):
    cq = node.ask(rq.CreateCq(8), session)["handle"]
    made = node.ask(rq.CreateQp(pd, cq, cq), session)
    if dest:
        node.ask(rq.ModifyQp(made["handle"], 1 | 1 << 20, {"state": 2, "dest_qpn": dest}), session)
    return made


def connected(node, wants=True):
    """Session 5 has a queue pair that is connected to one in session 1's PD, in which the MR is; (MR, its queue pair's handle)."""
    node.step(ev.SessionOpened(5, "peer", door=True, wants=wants))
    key = node.mr()
    mine = queue_pair(node, 1, node.books.mrs[key].pd, 0)
    theirs = queue_pair(node, 5, node.pd(5), mine["qp_num"])
    return key, theirs["handle"]


def test_peers_that_asked_hear_of_the_recall_by_the_rkey(node):
    key, _qp = connected(node)
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    told = {effect.session: effect.fields for effect in node.of(fx.Notify)}
    assert told[5] == {"rkey": key, "event": "truncate", "seconds": 2.0}
    assert told[1]["mr"] == key


@pytest.fixture
def fencing(node):
    """A truncate whose fence of session 1 is on its way: (MR, request, the fence)."""
    node.file("/mnt/b")
    key, request = recalled(node)
    deadline(node)
    return key, request, last(node, fx.FenceRight).fence


@pytest.mark.parametrize("path", ["/mnt/a", "/mnt/b"])
def test_a_client_that_is_being_fenced_registers_nothing_there(node, fencing, path):
    pd = node.books.mrs[fencing[0]].pd
    name, _sentence = node.refused(rq.RegMr(pd, BLOCK, 7, 0, "dax", path))
    assert name == "EBUSY"


def test_a_client_that_is_being_fenced_registers_other_memory(node, fencing):
    node.ask(rq.RegMr(node.books.mrs[fencing[0]].pd, BLOCK, 7, 0, "anon"))


@pytest.mark.usefixtures("fencing")
def test_others_register_while_a_client_is_being_fenced(node):
    assert node.mr("/mnt/b", session=2) in node.books.mrs


@pytest.mark.usefixtures("fencing")
def test_behind_the_fence_its_client_registers_again(node):
    node.go()
    again = node.mr("/mnt/b")
    assert rights(node)[node.books.mrs[again].right].fencing is False


def test_while_a_failed_fence_is_asked_again_its_client_registers_nothing(node, fencing):
    node.step(ev.RightFenced(fencing[2], errno.EIO))
    node.waiting.clear()
    assert node.refused(rq.RegMr(node.pd(), BLOCK, 7, 0, "dax", "/mnt/b"))[0] == "EBUSY"


def test_a_fence_that_fails_when_nobody_asks_again_leaves_a_client_that_may_register(make_node):
    """A protocol that gives up in the midst of its fence."""
    table = {
        (START, "requested"): go(gate(), fence(), to="fencing"),
        (START, "surprise"): go(reply(), to=END),
        ("fencing", "fence_failed"): go(deny("EIO"), to=END),
        ("fencing", "cancelled"): go(deny("EINTR"), to=END),
    }
    weak = Protocol("weak", "a test's", "a test", table, ignored={"*": tuple(EVENTS)})
    for interrupted in (False, True):
        node = make_node("weak", protocols={**registry.load().protocols, "weak": weak})
        node.file()
        key = node.mr()
        request = node.send(rq.FsTruncate("/mnt/a", 0), 3)
        if interrupted:
            node.send(rq.Cancel(request), 3)
            assert node.refused(rq.RegMr(node.books.mrs[key].pd, BLOCK, 7, 0, "dax", "/mnt/a"))[0] == "EBUSY"
        node.waiting.clear()
        node.step(ev.RightFenced(last(node, fx.FenceRight).fence, errno.EIO))
        assert isinstance(node.answer(request), fx.Fail)
        assert [right.fencing for right in rights(node).values()] == [False]
        assert not len(node.books.fences)
        assert node.books.mrs[key].revoked
        assert node.books.mrs[node.mr()].right == node.books.mrs[key].right


def test_peers_that_did_not_ask_hear_nothing(node):
    connected(node, wants=False)
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert {effect.session for effect in node.of(fx.Notify)} == {1}


def test_a_queue_pair_that_was_reset_is_connected_to_nobody(node):
    _key, qp = connected(node)
    node.ask(rq.ModifyQp(qp, 1, {"state": 0}), 5)
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert {effect.session for effect in node.of(fx.Notify)} == {1}


def test_a_refused_connection_counts_for_nothing(node):
    key, qp = connected(node)
    mine = node.books.qps[qp].dest
    node.ask(rq.ModifyQp(qp, 1, {"state": 0}), 5)
    node.send(rq.ModifyQp(qp, 1 << 20, {"dest_qpn": mine}), 5)
    node.step(ev.Answered(last(node, fx.SetQp).token, errno.EINVAL))
    assert node.books.qps[qp].dest == 0
    assert key in node.books.mrs


def test_a_queue_pair_of_another_protection_domain_cannot_use_the_key(node):
    node.step(ev.SessionOpened(5, "peer", door=True, wants=True))
    node.mr()
    mine = queue_pair(node, 1, node.pd(), 0)
    queue_pair(node, 5, node.pd(5), mine["qp_num"])
    node.send(rq.FsTruncate("/mnt/a", 0), 3)
    assert {effect.session for effect in node.of(fx.Notify)} == {1}


def test_whose_queue_pair_has_which_number_is_part_of_what_lies_ahead(make_node):
    """A peer is told of the holder that it is connected to."""

    def connected(holder, other):
        node = make_node("recall-fence")
        node.step(ev.SessionOpened(4, "peer", door=True, wants=True))
        node.file()
        pds, qps = {}, {}
        for session, number in ((1, holder), (2, other), (4, 503)):
            pds[session] = node.pd(session)
            cq = node.ask(rq.CreateCq(4), session)["handle"]
            node.send(rq.CreateQp(pds[session], cq, cq), session)
            token = node.waiting.pop().token
            node.step(ev.Answered(token, 0, {"qp_num": number, "max_send_wr": 16}))
            qps[session] = max(node.books.qps.rows)
        node.send(rq.ModifyQp(qps[4], 1 << 20, {"dest_qpn": 501}), 4)
        node.go()
        node.ask(rq.RegMr(pds[1], 4 * BLOCK, 7, 0, "dax", "/mnt/a"))
        return node

    one, another, third = connected(501, 502), connected(502, 501), connected(501, 507)
    assert one.core.canonical() != another.core.canonical()
    assert one.core.canonical() == third.core.canonical()
