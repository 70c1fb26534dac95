"""What the core asks of a protocol, and what a protocol may answer: the words that both sides share.

The core tells a protocol one event of one reclaim and gets a `Decision`: actions, in order, and the next phase. Phases are
the protocol's own words, but for START and END. The core carries out the actions and checks them (actions.py); whoever
breaks a rule of RULES gets its reclaim ended with EPROTO, and nothing is freed.

If you add an action: VERBS here, its function in actions.py's table, docs/protocols.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

START: Final = "start"
END: Final = "end"

# What a reclaim may be. A protocol is told `requested` for all but `surprise`; `excepts` takes these words.
KINDS: Mapping[str, str] = {
    "truncate": "a file is made shorter",
    "punch": "a hole in the middle of a file",
    "unlink": "the last name of a file goes",
    "unplug": "orderly removal of a device, or of all that is on it",
    "surprise": "the device is gone: a fact, told and not asked",
    "collapse": "a range of a file is cut out, what lies behind it moves down",
    "insert": "a hole is put in, what lies behind it moves up",
    "zero": "a range of a file is to read as zeros",
    "reflink": "a clone comes to share the file's blocks",
    "cow-write": "a write to shared blocks moves the data to new ones",
    "migrate": "the file's data moves to other blocks",
    "poison": "the memory of one block has failed",
    "umount": "the filesystem goes away, its files stay on the device",
    "writeback": "a page is written to the device and write-protected",
    "memory-pressure": "memory is short: pages are to be taken",
    "move": "the exporter moves its buffer",
    "revoke": "the exporter takes its buffer back",
    "foreign": "another program wants a guarded host file",
}

# What a row may ask, as {fact: (word where it holds, word where it does not)}; beside these "kind=K" and "backing=B" (VALUED).
FACTS: Mapping[str, tuple[str, str]] = {
    "pinned": ("pinned", "free"),
    "own": ("own", "not own"),
    "leased": ("leased", "not leased"),
    "marked": ("marked", "not marked"),
}
VALUED: Final = ("kind", "backing")

# What a protocol is told.
EVENTS: Mapping[str, str] = {
    "requested": "somebody asks for the range",
    "surprise": "the device is gone already: the protocol is told, not asked; takes the place of `requested`",
    "acknowledged": "a holder acknowledged MR_REVOKING",
    "unpinned": "the last pin on the range is gone",
    "deadline": "the armed timer ran out",
    "holder_lost": "the session of a holder ended; its MRs are being taken down",
    "quiesced": "no byte will ever be moved again under the keys of `quiesce`",
    "quiesce_failed": "the hardware refused to stop",
    "unmapped": "the translations of these keys are gone",
    "fence_confirmed": "the storage takes nothing any more of the clients of `fence`; their rights have left the table",
    "fence_failed": "a fence was not confirmed: that client's right is still in the table",
    "retargeted": "the translations of these keys lead to the scratch page, where they led into the range",
    "cancelled": "whoever asked has interrupted the request, or is gone; nothing has been applied",
}

# Events that answer a verb: they cannot come where it is never said.
ANSWERS: Mapping[str, str] = {
    "quiesced": "quiesce",
    "quiesce_failed": "quiesce",
    "unmapped": "unmap",
    "retargeted": "retarget",
    "deadline": "arm",
    "fence_confirmed": "fence",
    "fence_failed": "fence",
}

# What a protocol may do. The word is the method of emu.protocols.contract; the argument's type follows it.
VERBS: Mapping[str, str] = {
    "gate": "until the end nobody pins, maps or registers the range",
    "notify": "tell the holders that asked for events (text: the event's name)",
    "quiesce": "no new work under the keys that pin the range now (text: of this class of importer); answered by quiesced or quiesce_failed",
    "notify_peers": "tell contexts whose queue pairs are connected to a holder's, and that asked for events (text: the event's name)",
    "fence": "the storage takes no work any more of the clients that pin the range; answered by fence_confirmed or fence_failed",
    "unmap": "forget the translations of quiesced or fenced keys; answered by unmapped",
    "retarget": "switch the range's pages of quiesced keys to the scratch page, and let them live again; answered by retargeted",
    "apply": "carry out the truncate, punch, unlink or unplug; an error of the host ends the reclaim with it",
    "pretend": "in place of apply: what nobody pins goes, what is pinned stays the file's, which is as long as that",
    "free": "give the blocks back to the allocator, as the protocol's disposal says (text: another one, for this time)",
    "deny": "answer the request with an error (text: the errno's name); nothing may have been applied",
    "reply": "answer the request with success",
    "break_leases": "layout leases of others on what is reclaimed end; who had one and asked for events is told LEASE_BROKEN",
    "arm": "start the timer (number: seconds); answered by deadline",
    "disarm": "stop the timer",
    "signal": "a real signal to the process that opened each holder's context (text: its name)",
    "destroy": "end the contexts of all holders; their pins go (unpinned) when nothing of them is translated any more",
}

CONTRACT: Final = "contract:"  # before a rule's name, where checkers report it among the invariants

# The rules that the core checks; `ProtocolBroke.rule` is one of them.
RULES: Mapping[str, str] = {
    "known-answer": "a decision is a Decision of known actions with arguments of their type",
    "no-raise": "deciding raises nothing",
    "deterministic": "the same question (phase, event, facts) has the same answer, whenever it is asked",
    "bounded": "deciding ends, in less time than anybody would wait",
    "total": "every event is decided or declared ignored in every phase where it can come",
    "at-rest": "a reclaim comes to rest: no endless chain of decisions in one step",
    "one-answer": "a request is answered once, by reply or deny, before the end",
    "deny-before-apply": "an error means that nothing was applied",
    "unmap-after-quiesce": "translations are forgotten or switched only after the quiesce was answered",
    "apply-once": "a change is applied once",
    "free-after-apply": "blocks are freed only after the change was applied, once",
    "free-after-unmap": "no block is freed while a pin is on it, unless disposal `now` says so; of a host file, which frees them when the change is applied, never",
    "one-timer": "one timer at a time, with a positive time",
}

DISPOSALS: Mapping[str, str] = {
    "after-unmap": "blocks are freed only when nothing pins them",
    "now": "blocks are freed at once, pinned or not",
    "keep": "blocks stay out of use until their last pin is gone",
}

# What a registration may need first, with the way to get it.
NEEDS: Mapping[str, str] = {
    "mark": "the file must be marked immutable first (fs_mark; emu fs mark PATH on)",
    "lease": "take a layout lease on the file first (fs_lease; emu fs lease PATH shared|exclusive)",
    "signal": "its protocol must be able to signal whoever holds it: open the context from a process of this node's pid namespace",
}

IMPORTERS: Mapping[str, int] = {"sync-revocable": 0, "deferred-unmap": 1, "dynamic": 2, "non-revocable": 3}


class Action(NamedTuple):
    verb: str
    text: str = ""
    number: float = 0.0


class Decision(NamedTuple):
    actions: tuple[Action, ...]
    phase: str


class Facts(NamedTuple):
    """What a protocol may know when it decides."""

    kind: str  # of KINDS
    pins: int  # MRs that pin the range now
    holders: int  # sessions that have them
    own: bool = False  # there are pins, and all are of the session that asks
    leased: bool = False  # somebody other than who asks has a layout lease on the file
    backing: str = ""  # of the range
    marked: bool = False  # a file in the range is marked immutable

    @property
    def pinned(self) -> bool:
        return self.pins > 0

    def holds(self, fact: str) -> bool:
        """fact: one of FACTS, or as "kind=unplug"."""
        name, valued, value = fact.partition("=")
        return bool(getattr(self, name) == value if valued else getattr(self, name))


class Deciding(Protocol):
    """A protocol as the core sees it: stateless, a name, promises, and decisions."""

    @property
    def name(self) -> str: ...
    @property
    def promises(self) -> tuple[str, ...]: ...
    @property
    def importers(self) -> tuple[str, ...]: ...
    @property
    def backings(self) -> tuple[str, ...]: ...
    @property
    def disposal(self) -> str: ...
    @property
    def refuses(self) -> Mapping[str, str]: ...
    @property
    def needs(self) -> str: ...
    @property
    def on_demand(self) -> bool: ...
    @property
    def queues_pins(self) -> bool: ...
    @property
    def fences(self) -> bool: ...
    @property
    def switches(self) -> bool: ...
    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None: ...


def unserved(protocol: Deciding, backing: str) -> str:
    """Why a protocol cannot have memory of this backing; "" where it can."""
    if backing not in protocol.backings:
        return f"it serves {', '.join(protocol.backings)}"
    if backing == "host" and protocol.disposal == "now":
        return "its disposal is `now`, and blocks of a host file are the host's, not ours to free under a pin"
    return ""
