"""What every protocol meets, and the words to write one.

A protocol is one file with a `PROTOCOL`: a table {(phase, event): rule}, what it promises, whom it admits, what becomes of the
blocks. It holds no state: the phase is kept by the core, one for each reclaim. docs/protocols.md walks through one.

    table = {("start", "requested"): go(gate(), quiesce(), to="fencing"), ...}

Every event that can come in a phase is in the table, or declared ignored, or declared impossible ("*": in every phase); `check`
runs at load and names what is missing. Words: emu.core.decision.EVENTS, VERBS, RULES, DISPOSALS.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.core.decision import (
    ANSWERS,
    DISPOSALS,
    END,
    EVENTS,
    FACTS,
    IMPORTERS,
    KINDS,
    NEEDS,
    START,
    VERBS,
    Action,
    Decision,
    Facts,
)
from emu.protocols import runner
from emu.protocols.runner import Choice, Rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ANY = "*"
FIRST = ("requested", "surprise")
BACKINGS = ("dax", "page-cache", "anon", "host", "devdax", "dmabuf")
LOSSES = ("none", "page", "mr", "qp", "context", "process", "device")
NAME_MAX, TABLE_MAX = 64, 10_000
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{NAME_MAX - 1}}}")
LARGEST = 1e18  # seconds
ON_DEMAND = (
    "on-demand"  # in `refuses`, beside the backings: an MR that is mapped on demand, whatever its memory
)
WRITING = ":write"  # behind a backing, in `refuses`: only a registration that may write
PROMISES = (*(f"S{n}" for n in range(1, 11)), *(f"V{n}" for n in range(1, 26)))


class Malformed(ValueError):
    """A protocol that does not meet the contract; the sentence says where and what to do."""


def go(*actions: Action, to: str) -> Rule:
    return Rule(actions, to)


def when(fact: str, yes: Rule | Choice, no: Rule | Choice) -> Choice:
    """fact: of FACTS, or "kind=punch", "backing=anon" and their like. Looking and acting are one step: nothing comes between them."""
    return Choice(fact, yes, no)


def when_pinned(pinned: Rule | Choice, otherwise: Rule | Choice) -> Choice:
    return when("pinned", pinned, otherwise)


def gate() -> Action:
    return Action("gate")


def notify(event: str, seconds: float = 0.0) -> Action:
    return Action("notify", event, seconds)


def quiesce(importer: str = "") -> Action:
    """importer: of keys of this class alone."""
    return Action("quiesce", importer)


def unmap() -> Action:
    return Action("unmap")


def notify_peers(event: str, seconds: float = 0.0) -> Action:
    return Action("notify_peers", event, seconds)


def fence() -> Action:
    return Action("fence")


def pretend() -> Action:
    return Action("pretend")


def retarget() -> Action:
    return Action("retarget")


def apply() -> Action:
    return Action("apply")


def free(disposal: str = "") -> Action:
    return Action("free", disposal)


def deny(errno: str) -> Action:
    return Action("deny", errno)


def reply() -> Action:
    return Action("reply")


def break_leases() -> Action:
    return Action("break_leases")


def arm(seconds: float) -> Action:
    return Action("arm", number=seconds)


def disarm() -> Action:
    return Action("disarm")


def signal(name: str) -> Action:
    return Action("signal", name)


def destroy() -> Action:
    return Action("destroy")


@dataclass(frozen=True)
class Protocol:
    """One option of OPTIONS: what it does (table), what it promises, and to whom.

    promises: names of CONTRACT's invariants. excepts: kind of reclaim -> promises that it does not keep there.
    importers: classes whose memory it can take back; others are refused at registration (EOPNOTSUPP).
    backings: whose memory it can take back (BACKINGS). disposal: see DISPOSALS. loss: what a holder loses (LOSSES). ignored, impossible: by phase.
    refuses: backing -> errno's name of a registration there ("page-cache:write": only of one that may write).
    needs: what a registration needs first (NEEDS; EPERM without). on_demand: MRs of files are of the class dynamic, whatever was asked.
    queues_pins: a registration that meets a gate waits until the reclaim has ended, in place of EBUSY.
    """

    name: str
    summary: str
    origin: str
    table: Mapping[tuple[str, str], Rule | Choice]
    promises: tuple[str, ...] = ()
    excepts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    importers: tuple[str, ...] = tuple(IMPORTERS)
    backings: tuple[str, ...] = BACKINGS
    disposal: str = "after-unmap"
    loss: str = "none"
    ignored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    impossible: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    on_demand: bool = False
    queues_pins: bool = False

    @property
    def fences(self) -> bool:
        """Whether registrations get a right each, which its reclaims can take back: its table says so."""
        return any(action.verb == "fence" for action in actions_of(self))

    @property
    def switches(self) -> bool:
        """Whether its quiesced keys get another translation, so that work under them waits for it in place of failing: its table says so."""
        return any(action.verb == "retarget" for action in actions_of(self))

    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None:
        return runner.decide(self, phase, event, facts)

    def promised(self, kind: str) -> tuple[str, ...]:
        """What it promises for this kind of reclaim."""
        return tuple(name for name in self.promises if name not in self.excepts.get(kind, ()))


def declaration(protocol: Protocol) -> dict[str, object]:
    """What it promises, as a run's meta.json holds it under `declared`."""
    excepts = {kind: list(names) for kind, names in protocol.excepts.items()}
    return {
        "protocol": protocol.name,
        "promises": list(protocol.promises),
        "excepts": excepts,
        "loss": protocol.loss,
        "importers": list(protocol.importers),
    }


def admission(protocol: Protocol) -> dict[str, object]:
    """What a registration meets."""
    return {
        "refuses": dict(protocol.refuses),
        "needs": protocol.needs,
        "on_demand": protocol.on_demand,
        "queues_pins": protocol.queues_pins,
    }


def phases(protocol: Protocol) -> tuple[str, ...]:
    """All phases but END, in order of appearance."""
    found: dict[str, None] = {START: None}
    for (phase, _event), entry in protocol.table.items():
        found[phase] = None
        for rule in rules_of(entry):
            found[rule.to] = None
    return tuple(phase for phase in found if phase != END)


def rules_of(entry: Rule | Choice) -> tuple[Rule, ...]:
    """All that it may come to."""
    return (entry,) if isinstance(entry, Rule) else (*rules_of(entry.yes), *rules_of(entry.no))


def actions_of(protocol: Protocol) -> Iterator[Action]:
    """Every action that its table names."""
    for entry in protocol.table.values():
        for rule in rules_of(entry):
            yield from rule.actions


def disposals(protocol: Protocol) -> tuple[str, ...]:
    """Every way in which it may free."""
    named = (action.text for action in actions_of(protocol) if action.verb == "free" and action.text)
    return tuple(dict.fromkeys((protocol.disposal, *named)))


def check(protocol: Protocol) -> Protocol:
    """Raises Malformed, or gives the protocol back."""
    for problem in problems(protocol):
        raise Malformed(f"protocol {protocol.name!r}: {problem}")
    return protocol


def problems(protocol: Protocol) -> list[str]:
    """Everything that is wrong with the declaration, as sentences. What is no declaration at all is told alone."""
    return shape(protocol) or _meaning(protocol)


def shape(protocol: Protocol) -> list[str]:
    """What is not of its type: nothing else can be looked at then."""
    name, table = protocol.name, protocol.table
    if not (type(name) is str and NAME.fullmatch(name)):
        return [
            f"name {_shown(name)} cannot be a name: use letters, digits, dots and dashes, at most {NAME_MAX}"
        ]
    found = [
        f"{field} must be a tuple of strings, not {_shown(value)}"
        for field, value in (
            ("promises", protocol.promises),
            ("importers", protocol.importers),
            ("backings", protocol.backings),
            ("aliases", protocol.aliases),
        )
        if not _words(value)
    ]
    found += [
        f"alias {_shown(alias)} cannot be a name: use letters, digits, dots and dashes"
        for alias in (protocol.aliases if not found else ())
        if not NAME.fullmatch(alias)
    ]
    found += [
        f"{field} must be {{phase: (event, ...)}}, not {_shown(lists)}"
        for field, lists in (
            ("ignored", protocol.ignored),
            ("impossible", protocol.impossible),
            ("excepts", protocol.excepts),
        )
        if not (
            isinstance(lists, dict)
            and all(type(key) is str and _words(value) for key, value in lists.items())
        )
    ]
    if not (isinstance(protocol.refuses, dict) and _words((*protocol.refuses, *protocol.refuses.values()))):
        found.append(f"refuses must be {{backing: errno's name}}, not {_shown(protocol.refuses)}")
    if type(protocol.needs) is not str:
        found.append(f"needs must be a string, not {_shown(protocol.needs)}")
    found += [
        f"{field} must be True or False, not {_shown(value)}"
        for field, value in (("on_demand", protocol.on_demand), ("queues_pins", protocol.queues_pins))
        if not _flag(value)
    ]
    if not isinstance(table, dict):
        return [*found, f"table must be a dict {{(phase, event): go(...)}}, not {_shown(table)}"]
    if len(table) > TABLE_MAX:
        return [*found, f"table has {len(table)} rows: more than {TABLE_MAX} are nobody's protocol"]
    return found + [
        f"row {_shown(key)}: {problem}"
        for key, entry in table.items()
        if (problem := _row_problem(key, entry))
    ]


def _row_problem(key: Any, entry: Any) -> str:
    """Why this is no row of a table, or nothing."""
    if not (type(key) is tuple and len(key) == 2 and all(type(word) is str and word for word in key)):
        return "its key must be (phase, event), two strings"
    if problem := _choice_problem(entry):
        return problem
    for rule in rules_of(entry):
        if type(rule) is not Rule or type(rule.to) is not str or not rule.to:
            return f"to={_shown(getattr(rule, 'to', rule))} must name a phase, a string"
        if type(rule.actions) is not tuple:
            return f"its actions must be a tuple, not {_shown(rule.actions)}"
        for action in rule.actions:
            if type(action) is not Action or type(action.verb) is not str or type(action.text) is not str:
                return f"{_shown(action)} is no action: use gate(), notify(...), quiesce() and their like"
            if type(action.number) not in {int, float} or not -LARGEST < action.number < LARGEST:
                return f"{action.verb}({_shown(action.number)}): use a number of seconds"
    return ""


def _choice_problem(entry: Any, asked: tuple[str, ...] = ()) -> str:
    """Why this is neither a rule nor a choice between two, or nothing. asked: the facts above it."""
    if type(entry) is Rule:
        return ""
    if type(entry) is not Choice:
        return f"use go(...), when(...) or when_pinned(...), not {_shown(entry)}"
    if type(entry.fact) is not str or not _fact(entry.fact):
        known = (*FACTS, "kind=" + "|".join(KINDS), "backing=" + "|".join(BACKINGS))
        return f"when({_shown(entry.fact)}) asks what nobody knows: use {', '.join(known)}"
    if entry.fact in asked:
        return f"when({entry.fact!r}) stands under another: the answer is known there"
    below = (*asked, entry.fact)
    return _choice_problem(entry.yes, below) or _choice_problem(entry.no, below)


def _fact(text: str) -> bool:
    name, valued, value = text.partition("=")
    return value in {"kind": KINDS, "backing": BACKINGS}.get(name, ()) if valued else text in FACTS


def _words(value: Any) -> bool:
    return type(value) is tuple and all(type(word) is str for word in value)


def _flag(value: Any) -> bool:
    return type(value) is bool


def _shown(value: Any) -> str:
    """A stranger's object, as far as it can be shown."""
    plain = isinstance(value, str | int | float | tuple | list | None)
    return repr(value)[:80] if plain else f"a {type(value).__name__}"


def _meaning(protocol: Protocol) -> list[str]:
    found = [
        f"{what} {name!r} is unknown: use {', '.join(known)}"
        for what, names, known in (
            ("promise", protocol.promises, PROMISES),
            ("importer", protocol.importers, tuple(IMPORTERS)),
            ("backing", protocol.backings, BACKINGS),
            ("disposal", (protocol.disposal,), tuple(DISPOSALS)),
            ("loss", (protocol.loss,), LOSSES),
            ("kind of reclaim in excepts", tuple(protocol.excepts), tuple(KINDS)),
            ("need", (protocol.needs,) if protocol.needs else (), tuple(NEEDS)),
            ("disposal", disposals(protocol)[1:], tuple(DISPOSALS)),
            (
                "backing in refuses",
                [name.removesuffix(WRITING) for name in protocol.refuses],
                (*BACKINGS, ON_DEMAND),
            ),
        )
        for name in names
        if name not in known
    ]
    found += [
        f"errno {name!r} in refuses[{backing!r}] is unknown: use EOPNOTSUPP, EFAULT and their like"
        for backing, name in protocol.refuses.items()
        if not (name.startswith("E") and hasattr(errno, name))
    ]
    known_phases = phases(protocol)
    for (phase, event), entry in protocol.table.items():
        if event not in EVENTS:
            found.append(f"event {event!r} in phase {phase!r} is unknown: use {', '.join(EVENTS)}")
        for rule in rules_of(entry):
            found += [
                f"action {action.verb!r} is unknown: use {', '.join(VERBS)}"
                for action in rule.actions
                if action.verb not in VERBS
            ]
    found += [
        f"event {event!r} in phase {START!r} must have a rule: nothing else would ever answer the request"
        for event in FIRST
        if (START, event) not in protocol.table
    ]
    for phase in known_phases:
        if not any(key[0] == phase for key in protocol.table):
            found.append(f"phase {phase!r} is entered and has no rule: no event leads out of it")
        found += [
            f"event {event!r} in phase {phase!r} is not decided: put it in the table, in ignored or in impossible"
            for event in EVENTS
            if (phase, event) not in protocol.table
            and can_come(protocol, phase, event)
            and not listed(protocol.ignored, phase, event)
            and not listed(protocol.impossible, phase, event)
        ]
    return found


def can_come(protocol: Protocol, phase: str, event: str) -> bool:
    """Whether the core could ask this at all: nothing comes at the start but the request, which comes nowhere else, and an answer follows
    its verb. What cannot come need not be listed.
    """
    rules = [rule for entry in protocol.table.values() for rule in rules_of(entry)]
    if event in ANSWERS and not any(a.verb == ANSWERS[event] for rule in rules for a in rule.actions):
        return False
    return any(rule.to == START for rule in rules) or (phase == START) == (event in FIRST)


def listed(lists: Mapping[str, tuple[str, ...]], phase: str, event: str) -> bool:
    return event in lists.get(phase, ()) or event in lists.get(ANY, ())
