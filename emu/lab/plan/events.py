"""The events: what each does on each backing, or why it does nothing there.

Every (event, backing) is in `acts` or in `never`, so each row of a comparison is either run or has a reason. `kind` is the core's word for
what is asked, by which protocols except promises; `needs` the methods of a context that must be there for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.lab import names
from emu.lab.plan.acts import GONE, HOLED, OPEN, SAME, SHORT, SPOILT, ZEROED, Act, ask
from emu.lab.plan.geometry import BLOCK, PUNCH_AT, PUNCH_END, QUARTER, SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_FILE = {
    "anon": "anonymous memory is no file: nothing of it has a layout, a length or a name",
    "devdax": "a raw device has no files: its space is managed by nobody",
    "dmabuf": "a dma-buf has a fixed size and no layout: its exporter takes the whole of it, by moving or revoking it",
}
HOST_LAYOUT = (
    "the kernel moves the blocks of a host file by itself, having unmapped its pages, and the broker's mapping finds the new ones at the same offsets: "
    "no stale block can be reached, and nothing tells a broker of it before (a lease is not broken by fallocate), so no protocol has a say"
)
HOST_SHARING = (
    "the blocks of a host file are its filesystem's to share: what DMA reaches are pages of this file alone"
)
BELOW = "DMA reaches pages, which belong to one file: blocks are moved and shared below them, behind a write-back, and no translation is stale"
HOST_SPACE = "the free space of the host's filesystem is everybody's on this host, and not ours to use up"
NIC_WAITS = (
    "this kernel does not take a NIC away from under a context: the removal waits until the process closes its device, "
    "and this node's NIC goes as on 7.3"
)
SPOT = (QUARTER, QUARTER + BLOCK)  # what fails
TRUNCATE = ask("truncate", path="{victim}", size=QUARTER)
UNPLUG = ask("unplug", target="{device}", surprise=False)
PRESSURE_ANON = ask("pressure", target="anon", mr="{key}")
REVOKE = ask("buf_revoke", name="{buffer}", permanent=True)


@dataclass(frozen=True)
class Event:
    name: str
    words: str
    kind: str
    acts: Mapping[str, Act]
    never: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    unlike: Mapping[str, str] = field(
        default_factory=dict
    )  # protocols that stand for something which this is not so on
    ways: Mapping[str, Mapping[str, Act]] = field(
        default_factory=dict
    )  # by backing: other ways of the same (ways.py)


def _on(act: Act, *backings: str) -> dict[str, Act]:
    return dict.fromkeys(backings, act)


SHRUNK = Act(TRUNCATE, SHORT, (QUARTER, SIZE), then="take", spares=True, frees=((QUARTER, SIZE + QUARTER),))
PUNCHED = Act(
    ask("punch", path="{victim}", offset=PUNCH_AT, length=PUNCH_END - PUNCH_AT), HOLED, WHOLE, then="take", spares=True, frees=(WHOLE,),
)  # fmt: skip


def _fallocate(mode: str, length: int, offset: int = QUARTER) -> dict[str, object]:
    return ask("fallocate", path="{victim}", mode=mode, offset=offset, length=length)


def _replaced(act: Act, **fields: object) -> Act:
    return Act(**{**act.__dict__, **fields})


def _after_leaving(leaves: str) -> dict[str, Act]:
    """The memory is wanted when its holder is not there any more. What is a client's own goes with it, and stays where its context does."""
    shrunk = _replaced(SHRUNK, leaves=leaves)
    own = {"anon": Act(PRESSURE_ANON, leaves=leaves)} if leaves == "hands-over" else {}
    return {
        **own,
        "dax": shrunk,
        "page-cache": shrunk,
        "host": _replaced(shrunk, then="retake"),
        "devdax": Act(UNPLUG, GONE, by="unplugger", then="plug", device=True, leaves=leaves),
        "dmabuf": Act(REVOKE, leaves=leaves),
    }


EVENTS = {
    event.name: event
    for event in (
        Event(
            "truncate", "the file is made shorter, and another file gets the blocks", "truncate",
            {**_on(SHRUNK, "dax", "page-cache"), "host": _replaced(SHRUNK, then="retake")}, NO_FILE,
            ways={"host": {"o-trunc": Act(ask("open_trunc", path="{victim}"), OPEN, then="retake", foreign=True)}},
        ),
        Event(
            "punch", "a hole in the middle of the file, from the middle of one block to the middle of another", "punch",
            {**_on(PUNCHED, "dax", "page-cache"), "host": _replaced(PUNCHED, then="retake", expected={**HOLED, "holes": []})}, NO_FILE,
        ),
        Event(
            "collapse", "a range is cut out, and what lies behind it moves forward", "collapse",
            _on(Act(_fallocate("collapse", 2 * QUARTER), {"size": 2 * QUARTER, "holes": [], "kept": [[0, QUARTER]]},
                    (QUARTER, 3 * QUARTER), then="take", spares=True, frees=((2 * QUARTER, SIZE),)), "dax", "page-cache"),
            {**NO_FILE, "host": HOST_LAYOUT}, ("fs.fallocate",),
        ),
        Event(
            "insert", "a hole is inserted, and what lies behind it moves back", "insert",
            _on(Act(_fallocate("insert", QUARTER), {"size": SIZE + QUARTER, "holes": [[QUARTER, 2 * QUARTER]], "kept": [[0, QUARTER]]},
                    (QUARTER, SIZE), spares=True), "dax", "page-cache"),
            {**NO_FILE, "host": HOST_LAYOUT}, ("fs.fallocate",),
        ),
        Event(
            "zero", "a range reads as zero from now on, without having been written", "zero",
            _on(Act(_fallocate("zero", PUNCH_END - PUNCH_AT, PUNCH_AT), ZEROED, WHOLE, then="take", spares=True), "dax", "page-cache"),
            {**NO_FILE, "host": HOST_LAYOUT}, ("fs.fallocate",),
        ),
        Event(
            "unlink", "the last name goes, the file is evicted", "unlink",
            _on(Act(ask("unlink", path="{victim}"), GONE, then="take", frees=((0, SIZE),)), "dax", "page-cache"),
            {**NO_FILE, "host": "the name of a host file belongs to the host: emu cannot stand between unlink and its blocks"},
        ),
        Event(
            "reflink", "the file is cloned under the pin: its blocks have two owners from now on", "reflink",
            {"dax": Act(ask("reflink", path="{victim}", to="{clone}"), SAME)},
            {**NO_FILE, "page-cache": BELOW, "host": HOST_SHARING}, ("fs.reflink",),
        ),
        Event(
            "cow-write", "a write to a file whose blocks a clone shares: the data moves to new blocks", "cow-write",
            {"dax": Act(ask("stamp", path="{victim}", offset=QUARTER, length=QUARTER), SAME, (QUARTER, 2 * QUARTER), first=("clone",),
                        access="r")},
            {
                "anon": "a long-term pin unshares anonymous pages when it is taken (since 5.19): no later write moves them",
                "page-cache": BELOW, "devdax": NO_FILE["devdax"], "dmabuf": NO_FILE["dmabuf"], "host": HOST_SHARING,
            },
            ("fs.reflink",),
        ),
        Event(
            "migrate", "a defragmenter, or an exporter, moves the data; the place it lay is somebody else's", "migrate",
            {
                "dax": Act(ask("migrate", path="{victim}"), SAME, by="defragmenter", then="take"),
                "dmabuf": Act(ask("buf_move", name="{buffer}"), by="defragmenter", then="export"),
            },
            {
                "anon": "pages under a long-term pin are not migrated but skipped, and a node has one kind of DRAM to be on",
                "page-cache": BELOW, "devdax": NO_FILE["devdax"], "host": HOST_LAYOUT,
            },
            ("fs.migrate",),
        ),
        Event(
            "writeback", "the page is cleaned while the NIC writes on, and then reclaimed as clean", "writeback",
            {"page-cache": Act(ask("writeback", path="{victim}"), SAME, then="pressure")},
            {
                "dax": "on dax a store reaches the medium itself: there is no copy to be written back",
                "devdax": "on a raw device a store reaches the medium itself: there is no copy to be written back",
                "anon": "anonymous memory has no file behind it: what takes it is swap (memory-pressure)",
                "host": "write-back of a host file is the kernel's own, and finds DMA of this broker as stores through its mapping",
                "dmabuf": "a buffer has no medium behind it",
            },
            ("fs.writeback",),
        ),
        Event(
            "memory-pressure", "memory is short: clean pages are dropped, anonymous ones swapped", "memory-pressure",
            {
                "page-cache": Act(ask("pressure", target="{victim}"), SAME, then="take"),
                "anon": Act(PRESSURE_ANON),
            },
            {
                "dax": "dax pages are the device itself: there is no copy in memory to be reclaimed",
                "devdax": "the pages are the device itself: there is no copy in memory to be reclaimed",
                "host": "the pages of a host file are the kernel's to reclaim, and come back at the broker's next touch",
                "dmabuf": "a buffer's memory is its exporter's: it moves it (migrate) or revokes it (revoke-storm)",
            },
            ("fs.pressure",),
        ),
        Event(
            "unplug", "the device, or what is exported, is taken away in order", "unplug",
            {
                **_on(Act(UNPLUG, GONE, by="unplugger", then="plug", device=True), "dax", "page-cache", "devdax"),
                "host": Act(ask("unplug", target="{victim}", surprise=False), OPEN, then="retake"),
                "dmabuf": Act(REVOKE),
            },
            {"anon": "a client's anonymous memory is on no device of the node's"},
        ),
        Event(
            "surprise-unplug", "the device is gone: a fact, told and not asked", "surprise",
            {
                **_on(Act({**UNPLUG, "surprise": True}, GONE, by="unplugger", then="plug", device=True), "dax", "page-cache", "devdax"),
                "dmabuf": Act(ask("buf_gone", name="{buffer}"), by="unplugger", apart=True),
            },
            {
                "anon": "a client's anonymous memory is on no device of the node's",
                "host": "the device below a host file belongs to the host",
            },
        ),
        Event(
            "rnic-unplug", "the NIC itself is taken away", "unplug",
            _on(Act(ask("unplug", target="emu0", surprise=False), SAME, (0, 0), by="unplugger", alone=True), "dax", "page-cache", "host", "devdax",
                "anon", "dmabuf"),
            {}, ("signal",), dict.fromkeys(("linux-6.1", "linux-6.12", "linux-6.18"), NIC_WAITS),
        ),
        Event(
            "umount", "the filesystem is unmounted, its inodes evicted", "umount",
            _on(Act(ask("umount", mount="{mount}"), SAME, (0, 0), by="unplugger", then="mount", device=True), "dax", "page-cache"),
            {**NO_FILE, "host": "mounts of the host are the host's"}, ("fs.umount",),
        ),
        Event(
            "exit", "the holder ends, by itself or by kill -9; then the memory is wanted", "truncate", _after_leaving("ends"),
            {"anon": "a client's own memory has no other owner: it ends with its registration, and that with the process, so nobody has to ask for it"},
        ),
        Event(
            "fd-pass", "the context's descriptor goes to another process, its opener ends; then the memory is wanted", "truncate",
            _after_leaving("hands-over"), {}, ("signal",),
        ),
        Event(
            "poison", "one block fails: it must be unmapped, and that be told", "poison",
            {
                "dax": Act(ask("poison", path="{victim}", offset=QUARTER), SPOILT, SPOT, spares=True, before=SPOILT),
                "devdax": Act(ask("poison", path="{mount}", offset=QUARTER), OPEN, SPOT),
            },
            {
                "anon": "emu's request names a block of a pmem device. A DRAM page that fails under a pin is left where it is by Linux, its owner killed: that "
                "is no reclaim that a protocol could answer, and this node's DRAM does not fail",
                "page-cache": "emu's request names a block of a pmem device, and that one lies below the cache: the filesystem meets it at its next read or "
                "write-back, DMA never does. The cached page itself is DRAM, which does not fail on this node",
                "host": "memory of the host fails for the host: its kernel kills or signals the broker, and nobody can be asked",
                "dmabuf": "emu's request names a block of a pmem device; an exporter whose memory failed would move or revoke the buffer, which are events",
            },
            ("fs.poison",),
        ),
        Event(
            "revoke-storm", "two reclaimers revoke a buffer, both at once and each twice in a row, and give it back, again and again", "revoke",
            {"dmabuf": Act(ask("buf_storm", name="{buffer}", times=8))},
            dict.fromkeys(("dax", "page-cache", "anon", "host", "devdax"),
                          "only an exporter's buffer comes back after a revoke: elsewhere what was taken belongs to somebody else"),
            ("dmabuf",),
        ),
        Event(
            "enospc", "the device is full, an admin truncates, a writer needs the space at once", "truncate",
            _on(_replaced(SHRUNK, then="need", first=("fill",)), "dax", "page-cache"),
            {**NO_FILE, "host": HOST_SPACE},
        ),
        Event(
            "self-write", "the holder itself makes the file shorter, under its own registration", "truncate",
            {**_on(_replaced(SHRUNK, by="holder"), "dax", "page-cache"), "host": _replaced(SHRUNK, by="holder", then="retake")}, NO_FILE,
        ),
    )
}  # fmt: skip

assert tuple(EVENTS) == names.EVENTS
