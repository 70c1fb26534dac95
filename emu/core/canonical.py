"""The canonical form of the books: equal bytes mean that the same future lies ahead.

Identities are renamed in order of appearance, ghosts are dropped, values stay (fields.py declares which is which). Rows come in
the order of their keys: numbers are given in order of creation, so two histories that made the same things in the same order
give the same bytes, whatever the numbers were.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.core.fields import BOOKS, FIELDS, GHOST, VALUE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.core.books import Books


class Names:
    """Numbers renamed, domain by domain, in order of appearance. 0 and what is below stay: they name nothing."""

    __slots__ = ("_domains",)

    def __init__(self) -> None:
        self._domains: dict[str, dict[int, int]] = {}

    def of(self, domain: str, number: int) -> int:
        if number <= 0:
            return number
        known = self._domains.get(domain)
        if known is None:
            known = self._domains[domain] = {}
        return known.setdefault(number, len(known) + 1)

    def copy(self) -> Names:
        twin = Names()
        twin._domains = {domain: dict(known) for domain, known in self._domains.items()}
        return twin


class Plan(NamedTuple):
    """How the rows of a class are written: values as they are, then identities, then lists of identities, then extents."""

    values: Callable[[Any], Any]
    single: tuple[tuple[str, int], ...]
    many: tuple[tuple[str, int], ...]
    extents: tuple[int, ...]


def plan_of(fields: Mapping[str, str]) -> Plan:
    kinds = tuple(enumerate(fields.values()))
    values = [at for at, kind in kinds if kind == VALUE]
    named = [(kind, at) for at, kind in kinds if kind not in {VALUE, GHOST, "extents"}]
    return Plan(
        itemgetter(*values) if values else lambda _row: (),
        tuple((kind, at) for kind, at in named if not kind.endswith("*")),
        tuple((kind[:-1], at) for kind, at in named if kind.endswith("*")),
        tuple(at for at, kind in kinds if kind == "extents"),
    )


def row_of(plan: Plan, row: Any, names: Names) -> tuple[Any, ...]:
    of = names.of
    written = [plan.values(row)]
    written += [of(domain, row[at]) for domain, at in plan.single]
    for domain, at in plan.many:
        written.append(tuple([of(domain, number) for number in row[at]]))
    for at in plan.extents:  # the layout number of an extent is reported, and decides nothing
        written.append(tuple([extent[:3] for extent in row[at]]))
    return tuple(written)


def canonical_rows(books: Books, names: Names) -> tuple[Any, ...]:
    """Plain nested tuples; `names` can go on to rename what refers to the books from outside."""
    whole: list[Any] = []
    for book in books.all:
        row_class, kind = BOOKS[book.name]
        if row_class is int or not book.rows:
            continue
        plan = PLANS[row_class]
        items = book.items()
        if kind == "order":  # runs of blocks: their order says something within an aperture only
            items.sort(key=lambda item: item[1].aperture)
            whole.append((book.name, [row_of(plan, row, names) for _key, row in items]))
        elif kind == VALUE:
            whole.append((book.name, [(key, row_of(plan, row, names)) for key, row in items]))
        else:
            whole.append((book.name, [(names.of(kind, key), row_of(plan, row, names)) for key, row in items]))
    return tuple(whole)


PLANS: Mapping[type, Plan] = {row_class: plan_of(fields) for row_class, fields in FIELDS.items()}
