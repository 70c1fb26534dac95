"""Layout leases and marks, and the protocols that ask for them: layout-lease, immutable."""

from __future__ import annotations

import pytest

from emu.core import effects as fx
from emu.core import events as ev
from emu.core import requests as rq
from emu.core.errors import errno_name
from emu.core.machine import Core
from emu.protocols import registry

BLOCK = 4096


@pytest.fixture
def leased(make_node):
    return make_node("layout-lease")


@pytest.fixture
def marked(make_node):
    node = make_node("immutable")
    node.file()
    node.ask(rq.FsMark("/mnt/a", immutable=True))
    return node


def lease(node, session=1, kind="shared", path="/mnt/a"):
    return node.ask(rq.FsLease(path, kind), session)


def told(node, name):
    return [(effect.session, effect.fields) for effect in node.of(fx.Notify) if effect.name == name]


def reg(node, session=1):
    return rq.RegMr(node.pd(session), 4 * BLOCK, 7, 0, "dax", "/mnt/a")


# ---- leases


@pytest.mark.parametrize(
    ("first", "second", "code"),
    [
        ("shared", "shared", ""),
        ("shared", "exclusive", "EAGAIN"),
        ("exclusive", "shared", "EAGAIN"),
        ("exclusive", "exclusive", "EAGAIN"),
    ],
)
def test_leases_conflict_as_read_and_write_locks_do(leased, first, second, code):
    leased.file()
    lease(leased, 1, first)
    if code:
        assert leased.refused(rq.FsLease("/mnt/a", second), 2)[0] == code
        lease(leased, 1, "none")
    assert lease(leased, 2, second) == {"kind": second}


def test_ones_own_lease_is_changed_unless_others_share_it(leased):
    leased.file()
    lease(leased, 1, "shared")
    lease(leased, 1, "exclusive")
    lease(leased, 1, "shared")
    lease(leased, 2, "shared")
    assert leased.refused(rq.FsLease("/mnt/a", "exclusive"), 1)[0] == "EAGAIN"
    assert leased.stat()["leases"] == 2


def test_bad_leases_are_refused(leased):
    leased.file()
    assert leased.refused(rq.FsLease("/mnt/a", "eternal"))[0] == "EINVAL"
    assert leased.refused(rq.FsLease("/mnt/b", "shared"))[0] == "ENOENT"
    assert leased.refused(rq.FsLease("/mnt/a", "shared"), 9)[0] == "EPERM"
    assert lease(leased, 1, "none") == {"kind": "none"}, "there was none, and there is none"


def test_a_registration_needs_a_lease_of_its_own(leased):
    leased.file()
    assert leased.refused(reg(leased, 1), 1)[0] == "EPERM"
    lease(leased, 1)
    assert leased.ask(reg(leased, 1), 1)["handle"]
    assert leased.refused(reg(leased, 2), 2)[0] == "EPERM", "somebody else's is not mine"


def test_a_lease_is_not_given_back_under_a_pin(leased):
    leased.file()
    lease(leased, 1)
    key = leased.mr(session=1)
    assert leased.refused(rq.FsLease("/mnt/a", "none"), 1)[0] == "EBUSY"
    leased.ask(rq.DeregMr(key), 1)
    lease(leased, 1, "none")
    assert leased.stat()["leases"] == 0


@pytest.mark.parametrize("how", ["hang up", "opener", "unlink", "plug"])
def test_a_lease_ends_with_its_owner_and_with_its_file(leased, how):
    leased.file()
    lease(leased, 1)
    if how == "hang up":
        leased.lose(1)
    elif how == "opener":
        leased.step(ev.OwnerEnded(1))
    elif how == "unlink":
        leased.ask(rq.FsUnlink("/mnt/a"), 1)
    else:
        leased.ask(rq.FsUnplug("pm0", surprise=True), 3)
        leased.ask(rq.FsPlug("pm0"), 3)
    assert len(leased.books.leases) == 0


def test_who_got_the_descriptor_gets_no_lease(leased):
    leased.file()
    leased.step(ev.OwnerEnded(1))
    assert leased.refused(rq.FsLease("/mnt/a", "shared"), 1)[0] == "ESRCH"


# ---- layout-lease


def test_what_is_leased_and_pinned_is_denied(leased):
    leased.file()
    lease(leased, 1)
    leased.mr(session=1)
    before = leased.stat()
    for op in (
        rq.FsTruncate("/mnt/a", 0),
        rq.FsPunch("/mnt/a", 0, BLOCK),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
    ):
        assert leased.refused(op, 3)[0] == "ETXTBSY"
    assert leased.stat() == before
    assert told(leased, "LEASE_BROKEN") == []


def test_a_lease_that_nothing_is_pinned_under_is_broken_and_its_owner_told(leased):
    ino = leased.file()
    lease(leased, 1)
    lease(leased, 2)
    leased.ask(rq.FsTruncate("/mnt/a", 0), 3)
    fields = {"path": "/mnt/a", "ino": ino, "event": "truncate"}
    assert told(leased, "LEASE_BROKEN") == [(1, fields)], "session 2 does not want to hear"
    assert leased.stat()["leases"] == 0


def test_a_lease_with_a_pin_elsewhere_in_the_file_stays(leased):
    leased.file()
    lease(leased, 1)
    leased.mr(session=1, length=BLOCK)
    leased.ask(rq.FsTruncate("/mnt/a", BLOCK), 3)
    assert leased.stat()["leases"] == 1
    assert leased.refused(rq.FsTruncate("/mnt/a", 0), 3)[0] == "ETXTBSY"


def test_ones_own_lease_is_not_broken_by_ones_own_change(leased):
    leased.file()
    lease(leased, 1)
    leased.ask(rq.FsTruncate("/mnt/a", BLOCK), 1)
    assert leased.stat()["leases"] == 1


def test_the_only_owner_frees_under_its_own_mr(leased):
    leased.file()
    lease(leased, 1)
    key = leased.mr(session=1)
    leased.ask(rq.FsTruncate("/mnt/a", 0), 1)
    freed = leased.of(fx.Release)[-1].runs
    taken = leased.ask(rq.FsCreate("/mnt/b", 4 * BLOCK))
    assert taken
    assert leased.of(fx.Allocate)[-1].runs == freed, "another file has what the MR translates to"
    assert leased.books.mrs[key].state == "live"


def test_who_shares_the_lease_is_no_only_owner(leased):
    leased.file()
    lease(leased, 1)
    lease(leased, 2)
    leased.mr(session=1)
    assert leased.refused(rq.FsTruncate("/mnt/a", 0), 1)[0] == "ETXTBSY"


def test_a_lease_that_went_with_its_process_leaves_a_pin_that_is_waited_for(leased):
    leased.file()
    lease(leased, 1)
    key = leased.mr(session=1)
    leased.step(ev.OwnerEnded(1))
    request = leased.send(rq.FsTruncate("/mnt/a", 0), 3)
    leased.go()
    assert leased.answer(request) is None
    leased.ask(rq.DeregMr(key), 1)
    leased.go()
    assert isinstance(leased.answer(request), fx.Reply)


def test_that_wait_can_be_interrupted(leased):
    leased.file()
    lease(leased, 1)
    leased.mr(session=1)
    leased.step(ev.OwnerEnded(1))
    request = leased.send(rq.FsTruncate("/mnt/a", 0), 3)
    leased.ask(rq.Cancel(request), 3)
    assert errno_name(leased.answer(request).errno) == "EINTR"


def test_a_surprise_finds_the_pins_and_leaves_them(leased):
    leased.file()
    lease(leased, 1)
    key = leased.mr(session=1)
    leased.ask(rq.FsUnplug("pm0", surprise=True), 3)
    leased.ask(rq.FsPlug("pm0"), 3)
    assert leased.books.mrs[key].state == "live"


# ---- marks


@pytest.mark.parametrize("pinned", [True, False])
def test_a_marked_file_is_not_changed_pinned_or_not(marked, pinned):
    if pinned:
        marked.mr()
    before = marked.stat()
    for op in (
        rq.FsTruncate("/mnt/a", 0),
        rq.FsPunch("/mnt/a", 0, BLOCK),
        rq.FsUnlink("/mnt/a"),
        rq.FsUnplug("pm0"),
        rq.FsFallocate("/mnt/a", "collapse", 0, BLOCK),
        rq.FsMigrate("/mnt/a"),
        rq.FsReflink("/mnt/a", "/mnt/clone"),
        rq.FsTruncate("/mnt/a", 8 * BLOCK),
        rq.FsWrite("/mnt/a", 4 * BLOCK, b"more"),
    ):
        assert marked.refused(op, 3)[0] == "EPERM", op
    assert marked.stat() == before
    marked.ask(rq.FsWrite("/mnt/a", 0, b"in place"))


def test_a_registration_needs_the_mark(make_node):
    node = make_node("immutable")
    node.file()
    assert node.refused(reg(node))[0] == "EPERM"
    node.ask(rq.FsMark("/mnt/a", immutable=True), 2)
    assert node.mr(), "whoever set it"


def test_only_a_whole_file_of_its_own_can_be_marked(make_node):
    node = make_node("immutable")
    node.file()
    node.ask(rq.FsPunch("/mnt/a", BLOCK, BLOCK))
    assert node.refused(rq.FsMark("/mnt/a", immutable=True))[0] == "EINVAL"
    node.file("/mnt/b")
    node.ask(rq.FsReflink("/mnt/b", "/mnt/c"))
    assert node.refused(rq.FsMark("/mnt/b", immutable=True))[0] == "EINVAL"
    assert node.refused(rq.FsMark("/mnt/d", immutable=True))[0] == "ENOENT"


def test_anybody_clears_the_mark_but_not_under_a_pin(marked):
    key = marked.mr(session=1)
    assert marked.refused(rq.FsMark("/mnt/a", immutable=False), 3)[0] == "EBUSY"
    marked.ask(rq.DeregMr(key), 1)
    assert marked.stat()["marked"]
    marked.ask(rq.FsMark("/mnt/a", immutable=False), 3)
    marked.ask(rq.FsTruncate("/mnt/a", 0), 3)


def test_the_mark_outlives_its_holder_and_the_broker(marked):
    marked.mr(session=1)
    marked.lose(1)
    marked.go()
    assert marked.refused(rq.FsTruncate("/mnt/a", 0), 3)[0] == "EPERM"
    again = Core(registry.load().protocols)
    again.load(marked.core.durable())
    assert again.books.files[1].marked


def test_a_mark_means_nothing_to_a_protocol_that_does_not_ask_for_it(marked):
    marked.ask(rq.SetProtocol("/mnt", "mr-revoke"), 3)
    marked.ask(rq.FsTruncate("/mnt/a", 0), 3)


def test_a_pin_of_an_earlier_protocol_is_not_freed_under_for_want_of_a_mark(make_node):
    node = make_node("mr-revoke")
    node.file()
    node.mr()
    node.ask(rq.SetProtocol("/mnt", "immutable"), 3)
    assert node.refused(rq.FsTruncate("/mnt/a", 0), 3)[0] == "EBUSY"


def test_what_a_registration_needs_is_told_with_the_protocol(node):
    needs = {
        name: node.ask(rq.SetProtocol("/mnt", name), 3)["needs"]
        for name in ("wait", "immutable", "layout-lease")
    }
    assert needs == {"wait": "", "immutable": "mark", "layout-lease": "lease"}


def test_a_mark_denies_neither_write_back_nor_umount(make_node):
    node = make_node("immutable")
    node.file("/cold/a", 2)
    node.ask(rq.FsMark("/cold/a", immutable=True))
    key = node.ask(rq.RegMr(node.pd(), 2 * BLOCK, 7, 0, "page-cache", "/cold/a"))["handle"]
    assert node.refused(rq.FsWriteback("/cold/a"), 2)[0] == "EBUSY"
    assert node.refused(rq.FsUmount("/cold"), 2)[0] == "EBUSY"
    node.ask(rq.DeregMr(key))
    node.ask(rq.FsWriteback("/cold/a"), 2)
    node.ask(rq.FsUmount("/cold"), 2)


def test_who_meets_a_mark_hears_how_to_clear_it(marked):
    code, sentence = marked.refused(rq.FsTruncate("/mnt/a", 0), 2)
    assert code == "EPERM"
    assert "emu fs mark" in sentence


def test_a_mark_of_another_time_is_looked_at_again(make_node):
    node = make_node("none")
    node.file()
    node.ask(rq.FsMark("/mnt/a", immutable=True))
    node.ask(rq.FsReflink("/mnt/a", "/mnt/b"))
    node.ask(rq.FsPunch("/mnt/a", BLOCK, BLOCK))
    node.ask(rq.SetProtocol("/mnt", "immutable"))
    assert not node.stat("/mnt/b")["marked"]
    for path, code in (("/mnt/b", "EPERM"), ("/mnt/a", "EINVAL")):
        assert node.refused(rq.RegMr(node.pd(), 4 * BLOCK, 4, 0, "dax", path))[0] == code


@pytest.mark.parametrize("pinned", [True, False])
def test_lease_signal_breaks_the_lease_that_it_goes_over(make_node, pinned):
    node = make_node("lease-signal")
    node.step(ev.SessionOpened(4, "holder", door=True, wants=True, signalable=True))
    node.file()
    lease(node, 4)
    key = node.mr(session=4)
    if not pinned:
        node.ask(rq.DeregMr(key), 4)
    request = node.send(rq.FsTruncate("/mnt/a", BLOCK), 2)
    if pinned:
        assert len(node.books.leases) == 1
        node.ask(rq.DeregMr(key), 4)
    assert isinstance(node.answer(request), fx.Reply)
    assert not len(node.books.leases)
    assert [session for session, _fields in told(node, "LEASE_BROKEN")] == [4]
    assert node.refused(rq.RegMr(node.pd(4), BLOCK, 7, 0, "dax", "/mnt/a"), 4)[0] == "EPERM"
