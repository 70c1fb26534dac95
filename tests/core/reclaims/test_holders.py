"""Who is lost, who asks and who refuses while a range is taken: lost sessions, acknowledgements, `none` and `ebusy`."""

from __future__ import annotations

import errno

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.decision import END, START
from emu.protocols.contract import (
    apply,
    deny,
    free,
    gate,
    go,
    notify,
    quiesce,
    reply,
    unmap,
    when_pinned,
)

BLOCK = 4096


WAIT = {
    (START, "requested"): when_pinned(
        go(gate(), notify("MR_REVOKING", 2.0), to="waiting"), go(gate(), apply(), free(), reply(), to=END)
    ),
    ("waiting", "unpinned"): go(apply(), free(), reply(), to=END),
    ("waiting", "cancelled"): go(deny("EINTR"), to=END),
}


# ---- lost sessions


def test_a_lost_reclaimer_is_interrupted_while_nothing_has_changed(own_node):
    node = own_node(WAIT)
    node.file()
    node.mr()
    node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.lose(2)
    assert node.quiet()
    assert node.of(fx.Fail) == []
    assert node.of(fx.EndSession) == [fx.EndSession(2)]
    assert node.stat()["size"] == 4 * BLOCK


def test_a_lost_reclaimer_whose_keys_are_revoked_goes_on_for_nobody(node):
    node.file()
    node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.lose(2)
    node.go()
    assert node.answer(request) is None
    assert node.stat()["size"] == 0
    assert node.quiet()


def test_a_lost_reclaimer_with_two_of_a_range(node):
    node.file()
    node.mr()
    node.send(rq.FsTruncate("/mnt/a", BLOCK), 2)
    for size in (100, 50, 0):
        node.send(rq.FsTruncate("/mnt/a", size), 2)
    other = node.send(rq.FsTruncate("/mnt/a", 7), 3)
    node.lose(2)
    node.go()
    assert isinstance(node.answer(other), fx.Reply)
    assert node.stat()["size"] == 7
    assert node.quiet()


def test_a_lost_holder_ends_a_wait(own_node):
    node = own_node(WAIT)
    node.file()
    handle = node.mr()
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.of(fx.Notify)[0].fields == {"mr": handle, "rkey": handle, "event": "truncate", "seconds": 2.0}
    node.lose(1)
    assert node.answer(request) is None
    node.go()
    assert isinstance(node.answer(request), fx.Reply)
    assert node.of(fx.EndSession) == [fx.EndSession(1)]


def test_a_registration_that_fails_ends_a_wait(own_node):
    node = own_node(WAIT)
    node.file()
    pd = node.pd()
    node.send(rq.RegMr(pd, BLOCK, 7, 0, "dax", "/mnt/a"))
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.waiting.clear()
    node.step(ev.KeyInstalled(node.of(fx.InstallKey)[0].key, errno.ENOMEM))
    assert isinstance(node.answer(request), fx.Reply)


def test_an_acknowledgement_reaches_the_reclaims_of_the_mr(own_node):
    table = {
        **WAIT,
        ("waiting", "acknowledged"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
    }
    table["unmapping", "unmapped"] = go(apply(), free(), reply(), to=END)
    node = own_node(table)
    node.file()
    node.file("/mnt/b")
    handle = node.mr()
    node.mr("/mnt/b", session=2)
    request = node.send(rq.FsTruncate("/mnt/a", 0), 2)
    node.send(rq.FsTruncate("/mnt/b", 0), 3)
    node.ask(rq.Acknowledge(handle))
    assert len(node.of(fx.Quiesce)) == 1, "the other reclaim is none of its business"
    assert isinstance(node.answer(request), fx.Reply)
    node.ask(rq.Acknowledge(handle))


# ---- none and ebusy


def test_none_frees_at_once_and_the_stale_pin_is_found_by_the_next_owner(make_node):
    node = make_node("none")
    node.file("/mnt/a", 4)
    handle = node.mr()
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.of(fx.Quiesce) == []
    node.file("/mnt/b", 4)
    assert node.stat("/mnt/b")["extents"] == [[0, 0, 4 * BLOCK, 1]]
    assert node.stat("/mnt/b")["pins"] == 1
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"))
    node.ask(rq.FsTruncate("/mnt/b", 0), 2)
    assert node.of(fx.Quiesce)[0].keys == (handle,)


def test_a_pin_that_the_protocol_cannot_take_back_makes_the_reclaim_fail(make_node):
    node = make_node("none")
    node.file()
    node.mr(importer="non-revocable")
    node.ask(rq.SetProtocol("/mnt", "mr-revoke"))
    code, sentence = node.refused(rq.FsTruncate("/mnt/a", 0), 2)
    assert (code, "non-revocable" in sentence) == ("EBUSY", True)
    assert node.quiet()


def test_ebusy_denies_while_pinned_and_changes_nothing(make_node):
    node = make_node("ebusy")
    node.file()
    handle = node.mr()
    for op in (
        rq.FsTruncate("/mnt/a", 0),
        rq.FsPunch("/mnt/a", 0, 1),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
        rq.FsUnplug("/mnt/a"),
    ):
        code, sentence = node.refused(op, 2)
        assert code == "EBUSY"
        assert "1 MRs of 1 contexts" in sentence
    node.ask(rq.DeregMr(handle))
    node.ask(rq.FsTruncate("/mnt/a", 0), 2)
    assert node.blocks()["free"] == 64


@pytest.mark.parametrize("protocol", ["none", "ebusy"])
def test_a_surprise_is_a_fact_and_stale_mrs_keep_their_translations(make_node, protocol):
    node = make_node(protocol)
    node.file()
    handle = node.mr()
    made = node.step(ev.Requested(2, 900, rq.FsUnplug("pm0", surprise=True)))
    assert isinstance(made[0], fx.Offline)
    assert isinstance(node.answer(900), fx.Reply)
    assert node.ask(rq.FsPlug("pm0")) == {"namespace": 2}
    assert not node.books.mrs[handle].revoked
    assert node.blocks() == {"total": 64, "free": 64, "owned": 0, "quarantined": 0, "orphaned": 0}
    node.ask(rq.DeregMr(handle))
