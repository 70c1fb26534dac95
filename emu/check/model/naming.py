"""Names for the core's numbers: the canonical form of its books, and the renaming of what a state refers to.

Form.digest(books) is equal for books that have the same future (as emu.core.canonical, whose plans say what is identity, value or ghost);
sessions and requests keep their numbers, since the world gives them out the same in every story. The names that it gives on the way are those
by which states refer to the books. What the core no longer knows has a negative name.
"""

from __future__ import annotations

from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from emu.check.model.engine import renamed
from emu.check.model.fabric import keys_of
from emu.check.model.fabric import renamed as renamed_fabric
from emu.check.model.state import Answer, Holder, Key, State
from emu.core.canonical import PLANS
from emu.core.fields import BOOKS, VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books

    Of = Callable[[str, int], int]

Renaming = dict[str, dict[int, int]]  # domain -> number -> name, or old name -> new

Snapshot = tuple[dict[Any, Any], ...]
Order = tuple[int, ...]  # holder n (from 0) has the part of holder order[n]

RECLAIMER: Final = (
    100_000  # sessions: reclaimer N from 0, the taker; holders have N + 1, and a thousand more a life
)
TAKER: Final = 200_000
LIFE: Final = 1000

DOMAIN: Mapping[str, str] = {
    "installed": "key",
    "quiesced": "cookie",
    "unmapped": "cookie",
    "answered": "token",
    "fenced": "cookie",
    "returned": "token",
    "missed": "key",
}


def as_is(_domain: str, number: int) -> int:
    return number


def session_under(order: Order, session: int) -> int:
    """The session of the holder whose part this one's takes."""
    if not 0 < session < RECLAIMER:
        return session
    lives, holder = divmod(session - 1, LIFE)
    return order[holder] + 1 + lives * LIFE


class Form:
    """Canonical forms of one core's books. A row's values are written once; what is looked up each time are its identities."""

    def __init__(self, books: Books) -> None:
        self._books = tuple([(book.name, *BOOKS[book.name]) for book in books.all])
        self._rows: dict[type, dict[Any, tuple[str, tuple[tuple[str, int], ...]]]] = {}

    def digest(self, snapshot: Snapshot, order: Order = ()) -> tuple[bytes, Renaming]:
        """With an `order` of the holders: as if each had the part of another."""
        names: Renaming = {}
        out: list[Any] = []
        for (name, row_class, kind), rows in zip(self._books, snapshot, strict=True):
            if rows and row_class is not int:
                out.append(name)
                for key, row in _in_order(name, rows, order):
                    if kind == "session":
                        out.append(session_under(order, key) if order else key)
                    elif kind == VALUE:
                        out.append(key)
                    elif kind != "order":
                        table = names.setdefault(kind, {})
                        out.append(table.setdefault(key, len(table) + 1))
                    self._write(row, names, out, order)
        return blake2b(repr(out).encode(), digest_size=16).digest(), names

    def _write(self, row: Any, names: Renaming, out: list[Any], order: Order) -> None:
        mine = self._rows.setdefault(row.__class__, {})  # rows of two books may be equal as tuples
        known = mine.get(row)
        if known is None:
            known = mine[row] = _skeleton(row)
        out.append(known[0])
        for domain, number in known[1]:
            if domain == "session":
                out.append(session_under(order, number) if order else number)
            elif domain == "request" or not number:
                out.append(number)
            else:
                table = names.get(domain)
                if table is None:
                    table = names[domain] = {}
                out.append(table.setdefault(number, len(table) + 1))


def _in_order(name: str, rows: dict[Any, Any], order: Order) -> list[tuple[Any, Any]]:
    """In order of creation; contexts, their PDs and leases in order of the holders, since nothing depends on who came first."""
    if len(rows) == 1:
        return list(rows.items())
    if name == "sessions" and order:
        return sorted(rows.items(), key=lambda item: session_under(order, item[0]))
    if name in {"pds", "leases"}:
        return sorted(
            rows.items(),
            key=lambda item: (session_under(order, item[1].session) if order else item[1].session, item[0]),
        )
    return sorted(rows.items())


def _skeleton(row: Any) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A row's values as text, and its identities."""
    plan = PLANS[row.__class__]
    lists = [(domain, row[at]) for domain, at in plan.many]
    values = (plan.values(row), [len(numbers) for _domain, numbers in lists])
    extents = [[extent[:3] for extent in row[at]] for at in plan.extents]
    refs = [(domain, row[at]) for domain, at in plan.single]
    refs += [(domain, number) for domain, numbers in lists for number in numbers]
    return repr((*values, extents)), tuple(refs)


# ---- names in a state


def has_dead(state: State) -> bool:
    """Is there a negative name in it?"""
    for key in state.keys:
        if key[0] < 0:
            return True
    for op in state.ops:
        if op is not None and op[0] < 0:
            return True
    for answer in state.answers:
        if answer[1] < 0:
            return True
    for effect in state.todo:
        if is_dead(effect):
            return True
    return (
        any(mr.handle < 0 for holder in state.holders for mr in holder.mrs)
        or any(timer < 0 for timer in state.timers)
        or (state.fabric is not None and any(key < 0 for key in keys_of(state.fabric)))
    )


def is_dead(effect: tuple[Any, ...]) -> bool:
    if effect[0] == "remap":
        return bool(effect[1] < 0 or effect[2] < 0)
    if effect[0] in {"quiesce", "unmap", "fence", "invalidate"}:
        return bool(effect[1] < 0 or any(key < 0 for key in effect[2]))
    if effect[0] == "answer":
        return bool(effect[4] < 0)
    return effect[1].__class__ is int and effect[1] < 0


def has_dead_key(effect: tuple[Any, ...]) -> bool:
    name = effect[0]
    if name in {"install", "remove"}:
        return bool(effect[1] < 0)
    if name == "remap":
        return bool(effect[2] < 0)
    return name in {"quiesce", "unmap", "fence", "invalidate"} and any(key < 0 for key in effect[2])


def with_names(state: State, of: Of) -> State:
    """All references of the state renamed."""
    return state._replace(
        ops=tuple([op if op is None else op._replace(key=of("key", op.key)) for op in state.ops]),
        holders=tuple([_holder_with_names(holder, of) for holder in state.holders]),
        keys=tuple([Key(of("key", key[0]), *key[1:]) for key in state.keys]),
        todo=tuple([renamed(effect, of) for effect in state.todo]),
        answers=tuple([Answer(a[0], of(DOMAIN[a[0]], a[1]), *a[2:]) for a in state.answers]),
        timers=tuple([of("timer", timer) for timer in state.timers]),
        fabric=None if state.fabric is None else renamed_fabric(state.fabric, partial(of, "key")),
    )


def with_new_names(state: State, names: Renaming) -> State:
    """The same, for the domains that a step has renamed."""

    def of(domain: str, number: int) -> int:
        table = names.get(domain)
        return number if table is None else table.get(number, number)

    if "key" in names or "pd" in names or "timer" in names:
        return with_names(state, of)
    if not state.todo and not state.answers:
        return state
    todo = tuple([renamed(effect, of) for effect in state.todo])
    answers = tuple([Answer(a[0], of(DOMAIN[a[0]], a[1]), *a[2:]) for a in state.answers])
    return state._replace(todo=todo, answers=answers)


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
