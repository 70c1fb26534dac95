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

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from emu.check.model.engine import TRANSLATE, renamed
from emu.check.model.judge_step import judge_step
from emu.check.model.naming import Form, Order, Renaming, Snapshot, as_is, is_dead
from emu.check.model.state import Frozen
from emu.core import effects as do
from emu.core import events, requests
from emu.core.decision import CONTRACT
from emu.core.machine import Change, Core

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.check.model.state import Finding

    Of = Callable[[str, int], int]

Words = tuple[Any, ...]

DOMAINS: Final = ("key", "cookie", "token", "timer", "pd")
SAME: Final = (0, 0, 0, 0, 0)
BOOT, PD_REQUEST = 0, 2
RESTART: Final = ("restart",)
LOST: Final = 1000  # behind it: names of what a step has made the core forget


class Step(NamedTuple):
    """What an event does. names: old name -> new, by domain, None if nothing changes; dead: some of them are of what the core forgot.

    timers: (armed, timer) in order. opened: the device was opened, and files own these blocks.
    """

    core: Frozen
    names: Renaming | None = None
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
    "fenced": lambda of, fence, errno=0: events.RightFenced(of("cookie", fence), errno),
    "returned": lambda of, right: events.RightReturned(of("token", right)),
    "answered": lambda of, token, errno=0: events.Answered(of("token", token), errno),
    "missed": lambda of, key, sequence, offset, size: events.Missed(
        of("key", key), sequence, offset, size, True
    ),
    "fired": lambda of, timer: events.TimerFired(of("timer", timer)),
    "lost": lambda _of, session: events.SessionLost(session),
    "opened": lambda _of, session, name, wants: events.SessionOpened(
        session, name, door=True, wants=wants, signalable=True
    ),
    "ended": lambda _of, session: events.OwnerEnded(session),
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


class Under(NamedTuple):
    """of: None if numbers are called as they are. stamp: equal for equal renamings, by domain; None: nobody has compared them."""

    digest: bytes
    of: Of | None
    stamp: tuple[int, ...] | None = None


NOWHERE: Final = Frozen(())


class Driver(ABC):
    """What both have in common: one core, and how a step is read."""

    def __init__(self, core: Core, protocol: str) -> None:
        self.core, self.protocol, self.form = core, protocol, Form(core.books)
        self._at: Frozen | None = None
        self.taped = False
        self.delta: list[Change] = []
        self._may_undo = self._undoable = False
        self.names_of_books = tuple(book.name for book in core.books.all)

    def start(self) -> Frozen:
        return self._freeze()

    @abstractmethod
    def step(self, core: Frozen, words: Words) -> Step:
        """One step of the core, and what it leaves to do."""

    def restart(self, core: Frozen, blank: Frozen) -> Frozen:
        """What is durable, in a core that has just begun."""
        again = core.steps.get(RESTART)
        if again is None:
            again = core.steps[RESTART] = self._load(core, blank)
        return again

    def _load(self, core: Frozen, blank: Frozen) -> Frozen:
        self._go_to(core)
        rows = self.core.durable()
        self._go_to(blank)
        self._at = None
        self.core.load(rows)
        self.core.committed()
        return self._freeze()

    def books(self, snapshot: Snapshot) -> dict[str, dict[Any, Any]]:
        return dict(zip(self.names_of_books, snapshot, strict=True))

    @abstractmethod
    def naming(self, core: Frozen) -> Of:
        """The names by which the state knows the core's numbers."""

    @abstractmethod
    def under(self, core: Frozen, order: Order = ()) -> Under:
        """The core's part of the canonical form, holders in this order, and how the state's numbers are called there."""

    @abstractmethod
    def _freeze(self) -> Frozen:
        """The core as it is now."""

    def _go_to(self, core: Frozen) -> None:
        if self._at is not core:
            self.core.restore(core.snapshot)
            self._at = core

    def _run(self, before: Frozen, event: events.Event) -> tuple[tuple[do.Effect, ...], tuple[Finding, ...]]:
        """The core's step and its commit; a defect of core or protocol is told, and has changed nothing."""
        self._go_to(before)
        self._at, self._undoable = None, False
        try:
            made = self.core.step(event)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
            finding = (f"{CONTRACT}no-defect", f"{type(event).__name__}: {type(error).__name__}: {error}")
            return self._refusal(event), (finding,)
        if self.taped:
            self.delta = self.core.delta()
        self._undoable = self._may_undo and not len(self.core.books.limbo)
        if not self._undoable:  # else a commit changes nothing but the undo log
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
        return Step(
            NOWHERE,
            None,
            any(map(is_dead, todo)),
            tuple(todo),
            tuple(timers),
            tuple(told),
            opened,
            broken,
            met,
        )


class Direct(Driver):
    """Straight through. A linear run never restores."""

    def step(self, core: Frozen, words: Words) -> Step:
        made, defects = self._run(core, self.event(words))
        if defects:
            after = self._at = core
        else:
            after = self._freeze()
        step = self._read(core.snapshot, after.snapshot, made, as_is)
        return step._replace(core=after, broken=(*defects, *step.broken), effects=made)

    def event(self, words: Words) -> events.Event:
        return EVENTS[words[0]](as_is, *words[1:])

    def naming(self, _core: Frozen) -> Of:
        return as_is

    def _freeze(self) -> Frozen:
        self._at = Frozen(self.core.snapshot())
        return self._at

    def under(self, core: Frozen, order: Order = ()) -> Under:
        twin = core.twins.get(order)
        if twin is None:
            twin = core.twins[order] = self.form.digest(core.snapshot, order)
        return Under(twin[0], partial(_name_of, twin[1], {}))


class Automaton(Driver):
    """Each core state once."""

    def __init__(self, core: Core, protocol: str) -> None:
        super().__init__(core, protocol)
        self._may_undo = type(core).committed is Core.committed
        self.known: dict[bytes, Frozen] = {}
        self._stamps: dict[tuple[tuple[int, int], ...], int] = {(): 0}
        self._last: Renaming = {}  # names of what was frozen last, by its own numbers

    def step(self, core: Frozen, words: Words) -> Step:
        step = core.steps.get(words)
        if step is None:
            step = core.steps[words] = self._compute(core, words)
        return step

    def _compute(self, core: Frozen, words: Words) -> Step:
        numbers = core.numbers

        def number(domain: str, name: int) -> int:
            return name if name <= 0 else numbers[domain][name]

        made, defects = self._run(core, EVENTS[words[0]](number, *words[1:]))
        behind = self._snapshot(core)
        after = self._freeze(behind)
        if self._undoable:
            self.core.undo()
            self._at = core
        now, old = self._last, core.names or {}
        name = partial(_name_of, now, old)
        step = self._read(core.snapshot, behind, made, name)
        names = _renaming(old, name)
        dead = step.dead or any(new < 0 for table in names.values() for new in table.values())
        return step._replace(core=after, names=names or None, dead=dead, broken=(*defects, *step.broken))

    def _snapshot(self, core: Frozen) -> Snapshot:
        """The core's books now; those that the step from `core` left alone are shared with it."""
        if not self._undoable:
            return self.core.snapshot()
        touched = {book.name for book, _key, _row in self.core.books.log}
        return tuple(
            [
                book.rows.copy() if book.name in touched else rows
                for book, rows in zip(self.core.books.all, core.snapshot, strict=True)
            ]
        )

    def naming(self, core: Frozen) -> Of:
        return partial(_name_of, core.names or {}, {})

    def under(self, core: Frozen, order: Order = ()) -> Under:
        twin = core.twins.get(order)
        if twin is None:
            twin = core.twins[order] = self._under(core, order)
        return twin

    def _under(self, core: Frozen, order: Order) -> Under:
        if not order:
            return Under(core.digest, None, SAME)
        text, names = self.form.digest(core.snapshot, order)
        renaming = _renaming(core.names or {}, partial(_name_of, names, {}))
        stamp = tuple([self._stamp(renaming.get(domain, {})) for domain in DOMAINS])
        return Under(text, partial(_new_name, renaming) if renaming else None, stamp)

    def _stamp(self, table: dict[int, int]) -> int:
        """A number for a renaming, 0 for none."""
        return self._stamps.setdefault(tuple(table.items()), len(self._stamps)) if table else 0

    def _freeze(self, snapshot: Snapshot | None = None) -> Frozen:
        snapshot = snapshot or self.core.snapshot()
        text, names = self.form.digest(snapshot)
        self._last, self._at = names, None
        known = self.known.get(text)
        if known is None:
            known = self.known[text] = Frozen(snapshot)
            known.names, known.digest = names, text
            known.numbers = {
                domain: {name: raw for raw, name in table.items()} for domain, table in names.items()
            }
        return known


def _name_of(now: Renaming, old: Renaming, domain: str, number: int) -> int:
    """The name of a number: behind a step, else of what the step has made the core forget."""
    if number <= 0:
        return number
    known = now.get(domain, {}).get(number)
    if known is not None:
        return known
    was = old.get(domain, {}).get(number)
    return -LOST - was if was is not None else -2 * LOST - number


def _new_name(names: Renaming, domain: str, number: int) -> int:
    table = names.get(domain)
    return number if table is None else table.get(number, number)


def _renaming(old: Renaming, name: Of) -> Renaming:
    """Old name -> new, for the domains in which one changes."""
    names: Renaming = {}
    for domain in DOMAINS:
        table = {was: name(domain, number) for number, was in old.get(domain, {}).items()}
        if any(was != new for was, new in table.items()):
            names[domain] = table
    return names
