"""Nobody declares less than is claimed for it, and nobody less than it keeps: what is not promised has a counterexample here.

A counterexample is a history that the protocol really makes, and that breaks the invariant: the real core writes its lines, and what the
engine moves under live keys is what an engine would. Nothing in it is edited.
"""

import dataclasses
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "invariants"))

from functools import partial

from build import BLOCK, Story, revoked
from verdicts import breaches, verdict

from emu.check.minimum import CANNOT, MINIMUM, inapplicable, minimum
from emu.core import events as ev
from emu.core import requests as rq
from emu.lab.names import PROTOCOLS as OPTIONS
from emu.protocols.contract import PROMISES
from emu.protocols.registry import load

KINDS = ("truncate", "punch", "unlink", "unplug", "surprise")
# The rows of Linux are records of what a kernel does with each memory, nobody's proposal: tests/protocols/test_linux.py holds them to the record.
HERE = {
    protocol.name: protocol
    for protocol in load().protocols.values()
    if not protocol.name.startswith("linux-")
}
EIO = 5


# ---- histories that protocols make


def outlast(story):
    """Whatever waits for a time gets it."""
    story.answer(ev.TimerFired, ev.Answered)


def stale(protocol, kind, **options):
    """The memory has gone to a new file, and the peer writes on under its key: with success."""
    story = revoked(kind, protocol, **options)
    story.posted("peer", 50, story.key)
    story.moved(story.key, 1, op=50)
    story.polled("peer", 50)
    return story


def acknowledged(protocol, kind, **options):
    """The memory is gone, nobody has taken it yet, and the peer writes on."""
    story = Story(protocol, **options)
    holder = story.session("holder")
    story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.reclaim(kind, "pm0" if kind in {"unplug", "surprise"} else "/mnt/a")
    outlast(story)
    story.posted("peer", 50, key)
    story.moved(key, 2, op=50)
    story.polled("peer", 50)
    return story


def found_dirty(protocol, kind, **options):
    """Who takes the memory reads it before anything else: the peer's bytes are in what should be zero."""
    story = stale(protocol, kind, **options)
    story.row = {"taken": {"path": "/mnt/b", "written": [], "unzeroed": BLOCK}}
    return story


def refused(protocol, kind, **options):
    """The hardware would not stop for a deregistration; then the memory is taken from under the key."""
    device = kind in {"unplug", "surprise"}
    story = Story(protocol, **options)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    if not key:  # it admits nobody
        story.reclaim(kind, "pm0" if device else "/mnt/a")
        return story
    story.dereg(holder, key, answers=False)
    asked = next(event for event in story.owed if isinstance(event, ev.Quiesced))
    story.owed.remove(asked)
    story.step(ev.Quiesced(asked.cookie, EIO))
    story.reclaim(kind, "pm0" if device else "/mnt/a")
    outlast(story)
    if device:
        story.ask(story.admin(), rq.FsPlug("pm0"))
    return story


def whole(protocol, kind, **options):
    return revoked(kind, protocol, **options)


def unzeroed_edges(protocol, kind, **options):
    """A hole whose edges lie in blocks that are pinned."""
    story = Story(protocol, **options)
    story.create("/mnt/a", 4)
    story.register(story.session("holder"), "/mnt/a", 4)
    story.reclaim(kind, offset=BLOCK // 2, length=2 * BLOCK)
    return story


def unlinked(protocol, kind, **options):
    """The name has gone while its blocks are pinned."""
    return acknowledged(protocol, kind, **options)


def on_its_way(protocol, kind, **options):
    """A key is being installed when the memory goes."""
    story = Story(protocol, **options)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4, answers=False)
    story.reclaim(kind, answers=False)
    outlast(story)
    return story


def over_pages(make):
    """The same on a mount with a page cache."""
    return lambda protocol, kind: make(protocol, kind, cold=True)


def into_the_hole(protocol, kind, **options):
    """A block has failed, and the peer writes on into it."""
    story = Story(protocol, **options)
    holder = story.session("holder")
    story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.reclaim(kind)
    story.posted("peer", 50, key)
    story.moved(key, 0, op=50)
    story.polled("peer", 50)
    return story


def copied(protocol, kind, **options):
    """The file is cloned under the pin, then written to: its data moves, and the peer writes on."""
    story = Story(protocol, **options)
    holder = story.session("holder")
    story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.reclaim("reflink")
    story.reclaim(kind)
    story.posted("peer", 50, key)
    story.moved(key, 0, op=50)
    story.polled("peer", 50)
    return story


def copied_while_it_was_on_its_way(protocol, kind):
    """A key is being installed when the file is cloned and written to."""
    story = Story(protocol)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4, answers=False)
    story.reclaim("reflink", answers=False)
    story.reclaim(kind, answers=False)
    return story


def written_to_by_its_owner(protocol, kind):
    """The lease's only owner takes from its own file, another file has the blocks, and the peer writes on."""
    story = Story(protocol)
    holder = story.session("holder")
    story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.reclaim(kind, "/mnt/a", session=holder)
    story.create("/mnt/b", 4)
    story.posted("peer", 50, key)
    story.moved(key, 1, op=50)
    story.polled("peer", 50)
    return story


def found_dirty_after_its_owner(protocol, kind):
    """Who has the owner's blocks reads them before anything else."""
    story = written_to_by_its_owner(protocol, kind)
    story.row = {"taken": {"path": "/mnt/b", "written": [], "unzeroed": BLOCK}}
    return story


def lost_before_it_was_reused(protocol, kind):
    """As before, and nobody has the blocks yet."""
    story = Story(protocol)
    holder = story.session("holder")
    story.session("peer", wants=False)
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.reclaim(kind, "/mnt/a", session=holder)
    story.posted("peer", 50, key)
    story.moved(key, 2, op=50)
    story.polled("peer", 50)
    return story


def handed_on(protocol, kind):
    """The opener has ended, its descriptor is elsewhere: the lease is gone, and the pin is not."""
    story = Story(protocol)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4)
    story.step(ev.OwnerEnded(holder))
    story.reclaim(kind)
    story.create("/mnt/b", 1)
    return story


def on_its_way_to_its_owner(protocol, kind):
    """A key is being installed when its owner takes the memory."""
    story = Story(protocol)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    story.register(holder, "/mnt/a", 4, answers=False)
    story.reclaim(kind, session=holder, answers=False)
    return story


def refused_to_its_owner(protocol, kind):
    """The hardware would not stop for a deregistration; then the owner takes the memory."""
    story = Story(protocol)
    holder = story.session("holder")
    story.create("/mnt/a", 4)
    key = story.register(holder, "/mnt/a", 4)
    story.dereg(holder, key, answers=False)
    asked = next(event for event in story.owed if isinstance(event, ev.Quiesced))
    story.owed.remove(asked)
    story.step(ev.Quiesced(asked.cookie, EIO))
    story.reclaim(kind, session=holder)
    return story


def read_from_outside(protocol, _kind):
    """An MR that only reads a host file: it is admitted, and stays when the file is cut."""
    story = Story(protocol)
    holder = story.session("holder")
    story.ask(holder, rq.AllocPd())
    pd = story.result(holder, story.requests)["handle"]
    file = ev.HostFile(1, 7, 7, 4 * BLOCK, True, "/tmp/a")
    wanted = rq.RegMr(pd, 4 * BLOCK, 0, 0, "host", "/tmp/a")
    for op, given in (
        (wanted, file),
        (rq.FsTruncate("/tmp/a", 0, host=True), dataclasses.replace(file, handle=2)),
    ):
        story.requests += 1
        story.step(ev.Requested(holder, story.requests, op, given))
        story.answer(ev.Answered, ev.KeyInstalled)
    return story


# Of a surprise that nobody is taken anything for: the pins stay, and meet the next namespace.
LEFT_ALONE = {
    "S1": ("surprise", stale),
    "S2": ("surprise", whole),
    "S4": ("surprise", acknowledged),
    "S8": ("surprise", stale),
    "S9": ("surprise", found_dirty),
    "V4": ("surprise", whole),
    "V10": ("surprise", stale),
    "V14": ("surprise", refused),
}


def switched(protocol, kind):
    """The peer writes on, with success, to a page that is nobody's."""
    story = revoked(kind, protocol)
    story.posted("peer", 50, story.key)
    nobodys = {"flags": 0, "gen_translated": 0, "gen_first": 0, "gen_last": 0}
    story.moved(story.key, 0, op=50, **nobodys, dst_offset=story.blocks * BLOCK)
    story.polled("peer", 50)
    return story


def survived(make):
    """The same, where the process that opened the holder's context had ended before, and another has its descriptor."""
    return partial(make, survivors=True)


SURVIVOR_AT_AN_UNPLUG = {
    "S1": ("unplug", survived(stale)),
    "S2": ("unplug", survived(whole)),
    "S8": ("unplug", survived(stale)),
    "S9": ("unplug", survived(found_dirty)),
    "V4": ("unplug", survived(whole)),
    "V10": ("unplug", survived(stale)),
    "V14": ("unplug", survived(refused)),
}


def under_pins(kind):
    """The device goes from under the pins, and another namespace comes."""
    return {
        "S1": (kind, stale),
        "S2": (kind, whole),
        "S8": (kind, stale),
        "S9": (kind, found_dirty),
        "V4": (kind, whole),
        "V10": (kind, stale),
        "V14": (kind, refused),
    }


def lost_too(kind):
    return {"S4": (kind, acknowledged), "V20": (kind, whole)}


# (protocol, kind of reclaim or "": it promises that nowhere) -> invariant -> the kind of reclaim that shows it, and how
COUNTEREXAMPLES = {
    ("none", ""): {
        "S1": ("truncate", stale),
        "S2": ("truncate", whole),
        "S4": ("truncate", acknowledged),
        "S8": ("truncate", stale),
        "S9": ("truncate", found_dirty),
        "V1": ("unplug", whole),
        "V4": ("truncate", whole),
        "V10": ("truncate", stale),
        "V12": ("truncate", on_its_way),
        "V14": ("truncate", refused),
        "V18": ("truncate", whole),
        "V20": ("truncate", whole),
    },
    ("refuse", ""): {"V18": ("truncate", read_from_outside)},
    ("immutable", ""): {"V20": ("surprise", whole)},
    ("immutable", "surprise"): LEFT_ALONE,
    ("wait", ""): {"S7": ("truncate", whole), "V17": ("truncate", whole)},
    ("wait-fair", ""): {"S7": ("truncate", whole), "V17": ("truncate", whole)},
    ("deferred-free", ""): {
        "S4": ("truncate", acknowledged),
        "V12": ("truncate", on_its_way),
        "V18": ("truncate", whole),
        "V20": ("truncate", whole),
    },
    **{("deferred-free", kind): under_pins(kind) for kind in ("unplug", "surprise")},
    ("virtual-truncate", ""): {"S2": ("truncate", whole), "V18": ("truncate", whole)},
    ("virtual-truncate", "punch"): {"S9": ("punch", unzeroed_edges)},
    ("virtual-truncate", "zero"): {"S9": ("zero", unzeroed_edges)},
    ("virtual-truncate", "unlink"): {
        "S4": ("unlink", unlinked),
        "V12": ("unlink", on_its_way),
        "V20": ("unlink", whole),
    },
    **{
        ("virtual-truncate", kind): {
            "S4": (kind, acknowledged),
            "V12": (kind, on_its_way),
            "V20": (kind, whole),
        }
        for kind in ("collapse", "migrate")
    },
    ("virtual-truncate", "memory-pressure"): {
        "S4": ("memory-pressure", over_pages(acknowledged)),
        "V12": ("memory-pressure", over_pages(on_its_way)),
        "V20": ("memory-pressure", over_pages(whole)),
    },
    ("virtual-truncate", "umount"): {
        "S4": ("umount", over_pages(acknowledged)),
        "V20": ("umount", over_pages(acknowledged)),
    },
    ("virtual-truncate", "insert"): {"S4": ("insert", acknowledged)},
    ("virtual-truncate", "reflink"): dict.fromkeys(("S1", "S8", "V10"), ("reflink", acknowledged)),
    ("virtual-truncate", "poison"): {
        "S4": ("poison", into_the_hole),
        "V12": ("poison", on_its_way),
        "V20": ("poison", whole),
    },
    ("virtual-truncate", "cow-write"): {
        "S1": ("cow-write", copied),
        "S4": ("cow-write", copied),
        "S8": ("cow-write", copied),
        "V10": ("cow-write", copied),
        "V12": ("cow-write", copied_while_it_was_on_its_way),
        "V20": ("cow-write", copied),
    },
    ("deferred-free", "reflink"): dict.fromkeys(("S1", "S8", "V10"), ("reflink", acknowledged)),
    ("deferred-free", "cow-write"): dict.fromkeys(("S1", "S8", "V10"), ("cow-write", copied)),
    **{("virtual-truncate", kind): {**under_pins(kind), **lost_too(kind)} for kind in ("unplug", "surprise")},
    ("ebusy", ""): {"V20": ("surprise", whole)},
    ("ebusy", "surprise"): LEFT_ALONE,
    ("layout-lease", ""): {
        "S1": ("truncate", written_to_by_its_owner),
        "S2": ("truncate", written_to_by_its_owner),
        "S4": ("truncate", lost_before_it_was_reused),
        "S7": ("truncate", handed_on),
        "S8": ("truncate", written_to_by_its_owner),
        "S9": ("truncate", found_dirty_after_its_owner),
        "V4": ("truncate", written_to_by_its_owner),
        "V10": ("truncate", written_to_by_its_owner),
        "V12": ("truncate", on_its_way_to_its_owner),
        "V14": ("truncate", refused_to_its_owner),
        "V17": ("truncate", handed_on),
        "V18": ("truncate", written_to_by_its_owner),
        "V20": ("truncate", written_to_by_its_owner),
    },
    ("retarget", ""): {
        "S4": ("truncate", switched),
        "V15": ("truncate", whole),
        "V18": ("truncate", whole),
    },
    ("kill-process", ""): {"S7": ("truncate", survived(whole)), "V17": ("truncate", survived(whole))},
    ("lease-signal", ""): {
        "S4": ("truncate", survived(acknowledged)),
        "V12": ("truncate", survived(on_its_way)),
        "V18": ("truncate", survived(whole)),
        "V20": ("truncate", survived(whole)),
    },
    ("lease-signal", "unplug"): SURVIVOR_AT_AN_UNPLUG,
    ("lease-signal", "surprise"): {
        name: ("surprise", make) for name, (_kind, make) in SURVIVOR_AT_AN_UNPLUG.items()
    },
}


def unpromised(protocol):
    """(kind or "", invariant) of everything that it does not promise, and that concerns it."""
    spared = inapplicable(protocol)
    yield from (("", name) for name in PROMISES if name not in protocol.promises and name not in spared)
    for kind, names in protocol.excepts.items():
        yield from ((kind, name) for name in names)


# ---- the tables


def test_every_option_has_its_row():
    assert set(MINIMUM) == {name for name in OPTIONS if not name.startswith("linux-")}
    assert set(CANNOT) <= set(MINIMUM)


@pytest.mark.parametrize("name", MINIMUM)
def test_claims_imply_what_there_is_and_do_not_contradict_each_other(name):
    implied = minimum(name)
    assert set(implied) <= set(PROMISES)
    assert all(implied.values())
    assert not set(implied) & set(CANNOT.get(name, {}))


# ---- what exists


@pytest.mark.parametrize("protocol", HERE.values(), ids=HERE)
@pytest.mark.parametrize("kind", KINDS)
def test_it_promises_what_is_claimed_for_it(protocol, kind):
    lacking = {
        name: why for name, why in minimum(protocol.name, kind).items() if name not in protocol.promised(kind)
    }
    assert not lacking, f"{protocol.name} must promise more for {kind}: {lacking}"


@pytest.mark.parametrize("protocol", HERE.values(), ids=HERE)
def test_it_promises_nothing_that_its_claims_contradict(protocol):
    assert not set(protocol.promises) & set(CANNOT.get(protocol.name, {}))


@pytest.mark.parametrize("protocol", HERE.values(), ids=HERE)
def test_what_does_not_concern_it_shows_in_none_of_its_histories(protocol):
    for kind in KINDS:
        history = revoked(kind, protocol.name).history()
        shown = {name for name in inapplicable(protocol) if verdict(history, name) != "untested"}
        assert not shown, f"{protocol.name}, {kind}"


@pytest.mark.parametrize("protocol", HERE.values(), ids=HERE)
def test_what_it_does_not_promise_has_a_counterexample(protocol):
    for kind, name in unpromised(protocol):
        known = COUNTEREXAMPLES.get((protocol.name, kind), {})
        assert name in known, f"{protocol.name} promises no {name} {kind}: show how it breaks, or promise it"


@pytest.mark.parametrize(
    ("protocol", "name", "shown_by"),
    [(who, name, how) for (who, _kind), found in COUNTEREXAMPLES.items() for name, how in found.items()],
    ids=[f"{who}-{name}" for (who, _kind), found in COUNTEREXAMPLES.items() for name in found],
)
def test_the_counterexample_breaks_it(protocol, name, shown_by):
    kind, make = shown_by
    assert breaches(make(protocol, kind).history(), name)
    assert name not in HERE[protocol].promised(kind)


@pytest.mark.parametrize("protocol", HERE.values(), ids=HERE)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [whole, refused])
def test_what_it_promises_is_not_broken_by_the_same_stories(protocol, kind, make):
    history = make(protocol.name, kind).history()
    broken = {name for name in protocol.promised(kind) if breaches(history, name)}
    assert not broken, f"{protocol.name}, {kind}"
