"""How the small world drives the core: straight through (Direct), or by an automaton that is computed as it is walked (Automaton).

Both take words for an event, (kind, numbers, ...), and give a Step: the core behind it, and what it makes of the state. They are interchangeable;
a test shows that they reach the same states and verdicts.

    Direct      the core is put into the state's books (unless it stands there), and steps. Numbers are the core's own.
    Automaton   a core state is kept once, under its canonical bytes. Numbers are canonical names: (representative, words) is stepped
                once by the real core, and remembered with the renaming of what the state refers to. What the core no longer knows
                becomes negative: keys stay apart (the engine still has them), everything else is an answer that nobody waits for.

Sessions and requests are numbered by the world, the same in every story, and are not renamed.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.model.engine import TRANSLATE, renamed
from emu.check.model.fabric import keys_of
from emu.check.model.fabric import renamed as renamed_fabric
from emu.check.model.judge import judge_step
from emu.check.model.state import Answer, Frozen, Holder, State
from emu.core import effects as do
from emu.core import events, requests
from emu.core.canonical import Names, canonical_rows
from emu.core.decision import CONTRACT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.check.model.state import Finding
    from emu.core.machine import Core

    Of = Callable[[str, int], int]

Words = tuple[Any, ...]
Snapshot = tuple[dict[Any, Any], ...]

DOMAINS: Final = ("key", "cookie", "token", "timer", "pd")
BOOT, PD_REQUEST = 0, 2
LOST: Final = 1000  # behind it: names of what a step has made the core forget


class Fixed(Names):
    """Names that leave sessions and requests alone."""

    __slots__ = ()

    def of(self, domain: str, number: int) -> int:
        if domain in {"session", "request"}:
            return number
        return super().of(domain, number)

    def tables(self) -> dict[str, dict[int, int]]:
        return self._domains


class Step(NamedTuple):
    """What an event does. names: old name -> new, by domain, None if nothing changes; dead: some of them are of what the core forgot.

    timers: (armed, timer) in order. opened: the device was opened, and files own these blocks.
    """

    core: Frozen
    names: dict[str, dict[int, int]] | None = None
    dead: bool = False
    todo: tuple[tuple[Any, ...], ...] = ()
    timers: tuple[tuple[bool, int], ...] = ()
    told: tuple[tuple[int, str, int], ...] = ()  # (session, event's name, key)
    opened: tuple[int, ...] | None = None
    broken: tuple[Finding, ...] = ()
    met: tuple[str, ...] = ()
    effects: tuple[do.Effect, ...] = ()


# ---- words to events


def asked(session: int, request: int, op: requests.Request) -> events.Requested:
    return events.Requested(session, request, op)


EVENTS: Mapping[str, Callable[..., events.Event]] = {
    "installed": lambda of, key, errno=0: events.KeyInstalled(of("key", key), errno),
    "quiesced": lambda of, cookie, errno=0: events.Quiesced(of("cookie", cookie), errno),
    "unmapped": lambda of, cookie, errno=0: events.Unmapped(of("cookie", cookie), errno),
    "answered": lambda of, token, errno=0: events.Answered(of("token", token), errno),
    "fired": lambda of, timer: events.TimerFired(of("timer", timer)),
    "lost": lambda _of, session: events.SessionLost(session),
    "opened": lambda _of, session, name, wants: events.SessionOpened(session, name, door=True, wants=wants),
    "device": lambda _of, name, blocks: events.DeviceAdded(name, blocks),
    "mount": lambda _of, protocol: events.MountAdded("/mnt", "pm0", dax=True, protocol=protocol),
    "alloc_pd": lambda _of, session, request: asked(session, request, requests.AllocPd()),
    "reg_mr": lambda of, session, request, pd, offset, length, path, access: asked(
        session, request, requests.RegMr(of("pd", pd), length, access, 0, "dax", path, offset)
    ),
    "dereg_mr": lambda of, session, request, key: asked(session, request, requests.DeregMr(of("key", key))),
    "ack": lambda of, session, request, key: asked(session, request, requests.Acknowledge(of("key", key))),
    "cancel": lambda _of, session, request, which: asked(session, request, requests.Cancel(which)),
    "ask": lambda _of, session, request, op: asked(session, request, op),
}


NOWHERE: Final = Frozen(())


def as_is(_domain: str, number: int) -> int:
    return number


class Driver:
    """What both have in common: one core, and how a step is read."""

    def __init__(self, core: Core, protocol: str) -> None:
        self.core, self.protocol = core, protocol
        self._at: Frozen | None = None
        self.taped, self.delta = False, []
        self.names_of_books = tuple(book.name for book in core.books.all)

    def start(self) -> Frozen:
        return self._freeze()

    def step(self, core: Frozen, words: Words) -> Step:
        raise NotImplementedError

    def restart(self, core: Frozen, blank: Frozen) -> Frozen:
        """What is durable, in a core that has just begun."""
        self._go_to(core)
        rows = self.core.durable()
        self._go_to(blank)
        self.core.load(rows)
        self.core.committed()
        return self._freeze()

    def books(self, snapshot: Snapshot) -> dict[str, dict[Any, Any]]:
        return dict(zip(self.names_of_books, snapshot, strict=True))

    def naming(self, core: Frozen) -> Of:
        """The names by which the state knows the core's numbers."""
        raise NotImplementedError

    def _freeze(self) -> Frozen:
        raise NotImplementedError

    def _go_to(self, core: Frozen) -> None:
        if self._at is not core:
            self.core.restore(core.snapshot)
            self._at = core

    def _run(self, before: Frozen, event: events.Event) -> tuple[tuple[do.Effect, ...], tuple[Finding, ...]]:
        """The core's step and its commit; a defect of core or protocol is told, and has changed nothing."""
        self._go_to(before)
        self._at = None
        try:
            made = self.core.step(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            finding = (f"{CONTRACT}no-defect", f"{type(event).__name__}: {type(error).__name__}: {error}")
            return self._refusal(event), (finding,)
        if self.taped:
            self.delta = self.core.delta()
        self.core.committed()
        if any(effect.before_commit for effect in made):
            made = tuple(sorted(made, key=lambda effect: not effect.before_commit))
        return made, ()

    def _refusal(self, event: events.Event) -> tuple[do.Effect, ...]:
        """As the shell: a request is answered, whatever happens."""
        if isinstance(event, events.Requested):
            return (do.Fail(event.session, event.request, 5, "a defect"),)
        return ()

    def _read(self, before: Snapshot, after: Snapshot, made: tuple[do.Effect, ...], of: Of) -> Step:
        """The effects as the state takes them, numbers by `of`. The core behind it is the caller's to name."""
        todo: list[tuple[Any, ...]] = []
        timers: list[tuple[bool, int]] = []
        told: list[tuple[int, str, int]] = []
        opened: tuple[int, ...] | None = None
        for effect in made:
            translate = TRANSLATE.get(type(effect))
            if translate is not None:
                todo.append(renamed(translate(effect), of))
            elif isinstance(effect, do.Arm | do.Disarm):
                timers.append((isinstance(effect, do.Arm), of("timer", effect.timer)))
            elif isinstance(effect, do.Notify):
                told.append((effect.session, effect.name, of("key", int(effect.fields.get("mr", 0)))))
            elif isinstance(effect, do.OpenDevice):
                opened = tuple(at // 4096 for at, size in effect.owned for at in range(at, at + size, 4096))
        broken, met = judge_step(self.books(before), self.books(after), made, self.protocol)
        return Step(NOWHERE, None, any(map(_is_dead, todo)), tuple(todo), tuple(timers), tuple(told), opened, broken, met)


class Direct(Driver):
    """Straight through. A linear run never restores."""

    def step(self, core: Frozen, words: Words) -> Step:
        event = EVENTS[words[0]](as_is, *words[1:])
        made, defects = self._run(core, event)
        after = self._freeze() if not defects else core
        if defects:
            self._at = core
        step = self._read(core.snapshot, after.snapshot, made, as_is)
        return step._replace(core=after, broken=(*defects, *step.broken), effects=made)

    def event(self, words: Words) -> events.Event:
        return EVENTS[words[0]](as_is, *words[1:])

    def naming(self, core: Frozen) -> Of:
        return as_is

    def _freeze(self) -> Frozen:
        self._at = Frozen(self.core.snapshot())
        return self._at

    def canonical_names(self, core: Frozen) -> Of:
        """For the canonical form: as the automaton would call it."""
        if core.names is None:
            self._go_to(core)
            core.names = names = Fixed()
            core.digest = digest(repr(canonical_rows(self.core.books, names)).encode())
        tables = core.names.tables()  # type: ignore[attr-defined]

        def name(domain: str, number: int) -> int:
            if number <= 0:
                return number
            return int(tables.get(domain, {}).get(number, 0)) or -number - LOST

        return name


class Automaton(Driver):
    """Each core state once."""

    def __init__(self, core: Core, protocol: str) -> None:
        super().__init__(core, protocol)
        self.known: dict[bytes, Frozen] = {}
        self.stepped = 0
        self._last: dict[str, dict[int, int]] = {}  # names of what was frozen last, in its own numbers

    def step(self, core: Frozen, words: Words) -> Step:
        step = core.steps.get(words)
        if step is None:
            step = core.steps[words] = self._compute(core, words)
        return step  # type: ignore[no-any-return]

    def _compute(self, core: Frozen, words: Words) -> Step:
        self.stepped += 1
        numbers = core.numbers

        def number(domain: str, name: int) -> int:
            return name if name <= 0 else numbers[domain][name]

        made, defects = self._run(core, EVENTS[words[0]](number, *words[1:]))
        behind = self.core.snapshot()
        after = self._freeze(behind)
        now, old = self._last, core.names.tables()  # type: ignore[union-attr]

        def name(domain: str, raw: int) -> int:
            if raw <= 0:
                return raw
            known = now.get(domain, {}).get(raw)
            if known is not None:
                return known
            was = old.get(domain, {}).get(raw)
            return -LOST - was if was is not None else -2 * LOST - raw

        step = self._read(core.snapshot, behind, made, name)
        names = {
            domain: {was: name(domain, raw) for raw, was in old.get(domain, {}).items()} for domain in DOMAINS
        }
        changed = any(was != now for table in names.values() for was, now in table.items())
        dead = step.dead or any(now < 0 for table in names.values() for now in table.values())
        return step._replace(core=after, names=names if changed else None, dead=dead, broken=(*defects, *step.broken))

    def naming(self, core: Frozen) -> Of:
        tables = core.names.tables()  # type: ignore[union-attr]
        return lambda domain, number: tables.get(domain, {}).get(number, -number)

    def canonical_names(self, core: Frozen) -> None:
        """The state's numbers are canonical already."""

    def _freeze(self, snapshot: Snapshot | None = None) -> Frozen:
        names = Fixed()
        text = digest(repr(canonical_rows(self.core.books, names)).encode())
        self._last = names.tables()
        known = self.known.get(text)
        if known is None:
            known = self.known[text] = Frozen(snapshot or self.core.snapshot())
            known.names, known.digest = names, text
            known.numbers = {
                domain: {name: raw for raw, name in table.items()} for domain, table in self._last.items()
            }
            self._at = known
        else:
            self._at = None
        return known


def digest(text: bytes) -> bytes:
    return blake2b(text, digest_size=16).digest()


# ---- names in a state


def has_dead(state: State) -> bool:
    """Is there a negative name in it?"""
    return (
        any(key.key < 0 for key in state.keys)
        or any(op is not None and op.key < 0 for op in state.ops)
        or any(answer.number < 0 for answer in state.answers)
        or any(mr.handle < 0 for holder in state.holders for mr in holder.mrs)
        or any(timer < 0 for timer in state.timers)
        or (state.fabric is not None and any(key < 0 for key in keys_of(state.fabric)))
        or any(
            effect[0] != "answer" and effect[1].__class__ is int and effect[1] < 0 for effect in state.todo
        )
    )


def _is_dead(effect: tuple[Any, ...]) -> bool:
    if effect[0] in {"quiesce", "unmap"}:
        return bool(effect[1] < 0 or any(key < 0 for key in effect[2]))
    if effect[0] == "answer":
        return bool(effect[4] < 0)
    return effect[1].__class__ is int and effect[1] < 0


def with_names(state: State, of: Of) -> State:
    """All references of the state renamed; 0 and what is dead already stay for `of` to look at."""
    todo = tuple([renamed(effect, of) for effect in state.todo])
    ops = tuple([op if op is None else op._replace(key=of("key", op.key)) for op in state.ops])
    holders = tuple([_holder_with_names(holder, of) for holder in state.holders])
    keys = tuple([key._replace(key=of("key", key.key)) for key in state.keys])
    answers = tuple([Answer(a.name, of(DOMAIN[a.name], a.number), a.waits) for a in state.answers])
    timers = tuple([of("timer", timer) for timer in state.timers])
    fabric = state.fabric and renamed_fabric(state.fabric, partial(of, "key"))
    return state._replace(
        todo=todo, ops=ops, holders=holders, keys=keys, answers=answers, timers=timers, fabric=fabric
    )


def _holder_with_names(holder: Holder, of: Of) -> Holder:
    if not holder.pd:
        return holder
    mrs = tuple([mr._replace(handle=of("key", mr.handle)) if mr.handle else mr for mr in holder.mrs])
    return holder._replace(pd=of("pd", holder.pd), mrs=mrs)


def bury(state: State) -> State:
    """Dead names anew, in order of appearance: keys stay apart from each other, everything else is alike."""
    dead: dict[int, int] = {}

    def name(domain: str, number: int) -> int:
        if number >= 0:
            return number
        return dead.setdefault(number, -len(dead) - 1) if domain == "key" else -1

    return with_names(state, name)


DOMAIN: Mapping[str, str] = {
    "installed": "key",
    "quiesced": "cookie",
    "unmapped": "cookie",
    "answered": "token",
}
