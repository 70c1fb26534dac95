"""Which rows a comparison has. No process is started here, nothing is measured: this is data, and what follows from it.

A row is one (protocol, event, backing, holder). What an event does stands in events.py, where memory lives in backings.py, how holders behave in
manners.py, what must flip an outcome in controls.py. Pairs that make no sense are rows too: N/A, with the reason. An event or a backing for
which this node lacks a method is not listed at all: nothing is pretended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.promises import installed, refuses, serves, tells_holders
from emu.lab import names
from emu.lab.plan.backings import BACKINGS
from emu.lab.plan.events import EVENTS
from emu.lab.plan.here import lacking
from emu.lab.plan.manners import MANNERS
from emu.lab.plan.spec import RowSpec
from emu.lab.plan.ways import act_of as act_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# What the thread of 2019 predicted, and what it could not foresee: a minute's worth. (protocol, event, backing, holder)
QUICK = (
    ("none", "truncate", "dax", "deaf"), ("none", "truncate", "dax", "prompt"), ("none", "reflink", "dax", "deaf"),
    ("none", "surprise-unplug", "dax", "deaf"), ("none", "truncate", "page-cache", "deaf"),
    ("refuse", "truncate", "dax", "deaf"),
    ("immutable", "truncate", "dax", "deaf"),
    ("wait", "truncate", "dax", "deaf"), ("wait", "truncate", "dax", "slow"), ("wait", "exit", "dax", "deaf"),
    ("wait-fair", "truncate", "dax", "slow"),
    ("ebusy", "truncate", "dax", "deaf"), ("ebusy", "surprise-unplug", "dax", "deaf"),
    ("layout-lease", "truncate", "dax", "deaf"), ("layout-lease", "self-write", "dax", "deaf"), ("layout-lease", "fd-pass", "dax", "deaf"),
    ("lease-signal", "truncate", "dax", "deaf"), ("lease-signal", "truncate", "dax", "prompt"),
    ("recall-fence", "truncate", "dax", "deaf"),
    ("odp", "truncate", "dax", "deaf"), ("odp", "cow-write", "dax", "deaf"),
    ("mr-revoke", "truncate", "dax", "deaf"), ("mr-revoke", "truncate", "dax", "prompt"),
    ("mr-revoke", "surprise-unplug", "dax", "deaf"), ("mr-revoke", "truncate", "host", "deaf"),
    ("mr-revoke", "revoke-storm", "dmabuf", "deaf"),
    ("kill-context", "truncate", "dax", "deaf"),
    ("kill-process", "truncate", "dax", "deaf"), ("kill-process", "fd-pass", "dax", "deaf"),
    ("deferred-free", "truncate", "dax", "deaf"), ("deferred-free", "enospc", "dax", "deaf"),
    ("virtual-truncate", "truncate", "dax", "deaf"),
    ("retarget", "truncate", "dax", "deaf"),
    ("linux-6.1", "truncate", "page-cache", "deaf"), ("linux-6.12", "truncate", "dax", "deaf"),
    ("linux-6.18", "truncate", "page-cache", "deaf"), ("linux-7.3", "truncate", "page-cache", "deaf"),
)  # fmt: skip

# Manners under which an event cannot be: (event, manner) -> why.
CANNOT_ASK = {
    ("self-write", "stopped"): "the holder itself asks, and a stopped process asks for nothing",
    ("self-write", "dying"): "the holder itself asks, and is not there to get an answer: that is `exit`",
}


def protocols_here() -> list[str]:
    """Installed protocols: the package's own, in INTERFACE's order, then those of others."""
    found = set(installed())
    return [name for name in names.PROTOCOLS if name in found] + sorted(found - set(names.PROTOCOLS))


def events_here() -> list[str]:
    """Events that this node can have on some backing."""
    return [name for name in EVENTS if any(_is_here(name, backing) for backing in EVENTS[name].acts)]


def backings_here() -> list[str]:
    return [name for name in BACKINGS if not lacking(backing=name)]


def _is_here(event: str, backing: str) -> bool:
    return not lacking(event=event, backing=backing)


def not_applicable(protocol: str, event: str, backing: str) -> str:
    """Why this makes no sense; empty if it does."""
    if reason := EVENTS[event].never.get(backing, ""):
        return reason
    if reason := EVENTS[event].unlike.get(protocol, ""):
        return reason
    return "" if serves(protocol, backing) else BACKINGS[backing].not_served.format(protocol=f"`{protocol}`")


def rows(
    protocols: Iterable[str], events: Iterable[str], backings: Iterable[str], holders: Iterable[str] | None
) -> Iterator[RowSpec]:
    """All rows of these; holders None: deaf everywhere, and prompt where the protocol tells its holders anything; under `exit` one that is killed
    beside those that end by themselves.
    """
    events, protocols = list(events), list(protocols)
    for backing in backings:
        for protocol in protocols:
            for event in events:
                if reason := not_applicable(protocol, event, backing):
                    yield RowSpec(protocol, event, backing, (*(holders or ()), "deaf")[0], reason)
                elif _is_here(event, backing):
                    for holder in holders or _fitting(protocol, event, backing):
                        yield RowSpec(protocol, event, backing, holder, CANNOT_ASK.get((event, holder), ""))


def _fitting(protocol: str, event: str, backing: str) -> list[str]:
    """Where a protocol tells its holders nothing, a prompt one does what a deaf one does."""
    told = ["deaf", "prompt"] if tells_holders(protocol) and backing != "host" else ["deaf"]
    return told if refuses(protocol, backing) else [*told, *_ends(event)]


def _ends(event: str) -> list[str]:
    """A holder ends by itself or is killed: both ways are rows, on every backing."""
    return ["dying"] if event == "exit" else []


def quick(protocols: Iterable[str]) -> Iterator[RowSpec]:
    """A minute's worth: those of QUICK that are here."""
    wanted = set(protocols)
    for protocol, event, backing, holder in QUICK:
        here = backing in backings_here() and _is_here(event, backing)
        if protocol in wanted and here and not not_applicable(protocol, event, backing):
            yield RowSpec(protocol, event, backing, holder)


def full(
    protocols: Iterable[str],
    events: Iterable[str],
    backings: Iterable[str],
    holders: Iterable[str] | None = None,
) -> Iterator[RowSpec]:
    """Everything: each event on each backing with a prompt holder (`exit` with one that is killed as well), and on dax with every other manner too,
    where anybody can be a holder.
    """
    protocols, events = list(protocols), list(events)
    for backing in backings:
        for protocol in protocols:
            somebody = not refuses(protocol, backing)
            for event in events:
                fitting = (
                    MANNERS
                    if somebody and backing == "dax"
                    else ["prompt", *(_ends(event) if somebody else ())]
                )
                yield from rows([protocol], [event], [backing], holders or fitting)
