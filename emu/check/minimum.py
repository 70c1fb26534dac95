"""What each of the 16 options must promise, by what its authors claim for it; what it cannot promise; and what does not concern it.

    MINIMUM        option -> claims; each claim implies invariants, with the words it rests on. A protocol of this name that declares less
                   hides behind its own modesty: breaking them would be reported as a cost.
    CANNOT         option -> invariants that its own claims contradict. Who declares one declares too much.
    inapplicable   a protocol -> invariants that no history of it can ever show, by what its table can do, with the reason.

Every invariant that a protocol neither promises nor is exempt from has a counterexample in tests/check/test_declarations.py: a history that it
really makes, and that breaks it. Claims are silent on some kinds of reclaim (`but`): there an option may promise less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.protocols.contract import PROMISES, actions_of, disposals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.protocols.contract import Protocol


class Claim(NamedTuple):
    """implies: names of invariants. why: the claim, in short. but: kinds of reclaim that nobody claims it for."""

    implies: tuple[str, ...]
    why: str
    but: tuple[str, ...] = ()


UNPLUGGED = ("unplug", "surprise")
# DMA that goes on reaches another file: blocks with two owners can be neither set aside nor be one file's.
SHARED = ("reflink", "cow-write")
# Nothing is cut off at an end there, so nobody can have extended it again.
MOVED = ("unlink", "collapse", "insert", "migrate")

# Nobody ever claimed that completions, block accounts or the order of file operations suffer.
SOUND = Claim(("S5", "S6", "S10"), "it concerns memory under DMA alone: queues, books and files stay sound")


def _clean(why: str, *more: str, but: tuple[str, ...] = ()) -> Claim:
    """It ends OK, or OK with errors: nobody's memory is touched, nothing that was acknowledged is lost."""
    return Claim(("S1", "S2", "S4", "S8", "S9", "V4", *more), why, but)


def _denies(why: str, but: tuple[str, ...] = ()) -> Claim:
    """T gets an error at once and nothing has changed."""
    return Claim(("S1", "S3", "S7", "S8", "V4", "V22"), why, but)


MINIMUM: Mapping[str, tuple[Claim, ...]] = {
    "none": (),  # CORRUPT: "pin and free"; it declares what the node keeps for everybody, and need not
    "refuse": (
        SOUND,
        _clean("0, now; there is no DMA under way; freed now", "S7", "V17"),
    ),
    "immutable": (SOUND, _denies("EPERM, now; blocks are kept", UNPLUGGED)),
    "wait": (
        SOUND,
        _clean("0 at the last unpin; blocks kept, then freed"),
        Claim(("S3", "V22"), "EINTR if T is interrupted, and then nothing has changed"),
        Claim(("V24",), "OK at exit: the pin does not outlive its holder"),
    ),
    "wait-fair": (
        SOUND,
        _clean("as wait: 0 at the last unpin"),
        Claim(("S3", "V22"), "as wait: EINTR, and nothing has changed"),
        Claim(("V23",), "new pins queue behind the reclaim"),
        Claim(("V24",), "OK at exit"),
    ),
    "ebusy": (
        SOUND,
        _denies("EBUSY, now, nothing changed; blocks are kept", ("surprise",)),
        _clean("with no pin in the range it is an ordinary truncate", but=("surprise",)),
        Claim(("V17",), "it asks nobody: the answer comes now"),
    ),
    "layout-lease": (
        SOUND,
        Claim(("S3", "V22"), "ETXTBSY, now, while the lease is held and pinned: nothing has changed"),
    ),
    "lease-signal": (
        SOUND,
        # Not S4, which "OK" implies as well: when the ladder ends with a survivor, who has the passed descriptor, its pin is still there, and
        # what its peers write succeeds and is nowhere (emu explore lease-signal). Not at an unplug: nothing of a device that goes can be kept.
        Claim(
            ("S1", "S2", "S8", "S9", "V4"),
            "0 at the unpin, or when the ladder ends; freed after the unpin",
            UNPLUGGED,
        ),
        Claim(("S7",), "SIGIO, then SIGBUS, then SIGKILL: the ladder ends"),
    ),
    "recall-fence": (
        SOUND,
        _clean("0 at the return, or after a confirmed fence; freed only then", but=("surprise",)),
        Claim(("V14", "V21"), "a failed fence is retried for ever, never given up"),
    ),
    "odp": (
        SOUND,
        _clean("0 after the hardware has drained; freed after the drain", "S7", "V17"),
        Claim(("V8",), "the next access faults, and resolves to the new page, or fails past the end of file"),
    ),
    "mr-revoke": (
        SOUND,
        _clean("freed after the unmap"),
        Claim(("V18", "V20"), "0 after both waits: fences retired, then unmapped"),
        Claim(("V3", "V9"), "DMA under way is fenced"),
        Claim(("V10", "V11", "V19"), "the MR answers errors, its key stays reserved until dereg"),
        Claim(("S7", "V17"), "no answer of H is awaited"),
        Claim(("V6",), "an import that is pinned and revocable: no other is taken"),
        Claim(("V13", "V15"), "a deregistration is a revoke; a second one must be harmless"),
        Claim(("V1", "V2"), "the dma-buf owner's order: gate, notify, wait, wait"),
        Claim(("V14",), "hardware that refuses is no success"),
        Claim(("V16",), "the second wait is without the lock"),
    ),
    "kill-context": (
        SOUND,
        _clean("0 after the context is destroyed; freed after", "S7", "V17"),
        Claim(("V3", "V9", "V19"), "DMA is aborted; every later call and use fails"),
    ),
    "kill-process": (
        SOUND,
        _clean("0 after the process is gone; freed after", but=("surprise",)),
        Claim(
            ("V24",), "a holder that cannot be signalled is refused: every pin has somebody who can be killed"
        ),
    ),
    "deferred-free": (
        SOUND,
        Claim(
            ("S1", "S8", "V4"),
            "DMA goes on into blocks that are no file's; freed at the last unpin",
            (*UNPLUGGED, *SHARED),
        ),
        Claim(("S7", "V17"), "0, now"),
        Claim(("V24",), "OK at exit"),
    ),
    "virtual-truncate": (
        SOUND,
        Claim(
            ("S1", "S8", "V4"),
            "DMA goes on into the file; never freed while pinned",
            (*UNPLUGGED, *SHARED),
        ),
        # of a file without a name, and of blocks that moved, it does not for who looks for it
        Claim(("S4",), "DMA goes on into the file", (*UNPLUGGED, "cow-write", "poison", *MOVED)),
        Claim(("S7", "V17"), "0, now, and undone"),
        Claim(("V24",), "OK at exit"),
    ),
    "retarget": (
        SOUND,
        Claim(("S1", "S2", "S8", "V4"), "redirected to a scratch page; freed after the switch"),
        Claim(("S7", "V17"), "0 after the switch, which needs nobody"),
    ),
}

# "A lease needs its holder" says CONTRACT of V17: not one whose ladder ends with nobody's help (lease-signal promises it, and keeps it).
CANNOT: Mapping[str, Mapping[str, str]] = {
    "none": dict.fromkeys(
        ("S1", "S2", "S4", "S8", "S9", "V4", "V10"),
        "pin and free: the DMA goes on into whatever the blocks become",
    ),
    "wait": {"S7": "no deadline: it can hang for ever", "V17": "it waits for the holder"},
    "wait-fair": {"S7": "no deadline: it can hang for ever", "V17": "it waits for the holder"},
    "layout-lease": {
        **dict.fromkeys(
            ("S1", "S8", "V4"), "the owner's own change skips the break, and frees under its own MR (Wilcox)"
        ),
        "S7": "the lease may go before the pin (Chinner): then it waits as mainline does",
        "V17": "a lease needs its holder",
    },
    "kill-process": {"S7": "a process that cannot die: hang"},
    "deferred-free": {"S4": "data lost without a word"},
    "virtual-truncate": {"S2": "a success that is undone at once"},
    "retarget": {"S4": "R sees success, and the data is gone"},
}


def minimum(name: str, kind: str = "") -> dict[str, str]:
    """Invariants that this option must promise (for this kind of reclaim), each with the claim it follows from."""
    found: dict[str, str] = {}
    for claim in MINIMUM.get(name, ()):
        if kind not in claim.but:
            for invariant in claim.implies:
                found.setdefault(invariant, claim.why)
    return found


def inapplicable(protocol: Protocol) -> dict[str, str]:
    """Invariants that no history of this protocol can show to be kept or broken, each with the reason."""
    verbs = {action.verb for action in actions_of(protocol)}
    careful = disposals(protocol) == ("after-unmap",)
    found = {"V7": "nothing that it does gives memory back"}
    if not protocol.on_demand:
        found["V8"] = "nothing that it does gives memory back"
    if "retarget" in verbs:
        found |= dict.fromkeys(
            ("V10", "V19", "V20"), "a key that it switches is not revoked: it lives on, as V15 tells"
        )
    if not protocol.fences:
        found["V21"] = "it keeps no table of rights"
    if "notify" not in verbs:
        found["V2"] = "it tells nobody anything"
    if verbs.isdisjoint({"quiesce", "fence"}) and careful:
        found["V12"] = "its reclaims take no key back"
    if "unmap" not in verbs:
        found |= dict.fromkeys(("V6", "V16"), "it waits for no unmap")
        if careful and "retarget" not in verbs:
            found["V18"] = "it takes nothing from under a pin, so that it never waits"
    if "unmap" not in verbs or "deferred-unmap" not in protocol.importers:
        found["V5"] = "it waits for no importer that unmaps later"
    if "dax" in protocol.refuses:
        found["V20"] = "where a reclaim's blocks can be looked up it admits nobody"
    if protocol.name != "wait-fair":
        found["V23"] = "the contract asks it of wait-fair only"
    return {name: found[name] for name in PROMISES if name in found}
