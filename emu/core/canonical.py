"""The canonical form of the books: equal bytes mean that the same future lies ahead.

Identities are renamed in order of appearance, ghosts are dropped, values stay (rows.py declares which is which). Rows come in
the order of their keys: numbers are given in order of creation, so two histories that made the same things in the same order
give the same bytes, whatever the numbers were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.core.rows import BOOKS, FIELDS, GHOST, VALUE

if TYPE_CHECKING:
    from emu.core.books import Books


class Names:
    """Numbers renamed, domain by domain, in order of appearance. 0 stays 0: it names nothing."""

    def __init__(self) -> None:
        self._domains: dict[str, dict[int, int]] = {}

    def of(self, domain: str, number: int) -> int:
        if not number:
            return 0
        known = self._domains.setdefault(domain, {})
        return known.setdefault(number, len(known) + 1)


def field_of(kind: str, value: Any, names: Names) -> Any:
    if kind == VALUE:
        return value
    if kind == "extents":  # the layout number of an extent is reported, and decides nothing
        return tuple(extent[:3] for extent in value)
    if kind.endswith("*"):
        return tuple(names.of(kind[:-1], number) for number in value)
    return names.of(kind, value)


def key_of(kind: str, key: Any, names: Names) -> Any:
    if kind == "order":
        return None
    return key if kind == VALUE else names.of(kind, key)


def canonical_rows(books: Books, names: Names) -> tuple[Any, ...]:
    """Plain nested tuples; `names` can go on to rename what refers to the books from outside."""
    whole: list[Any] = []
    for book in books.all:
        row_class, kind = BOOKS[book.name]
        if row_class is int:
            continue
        plan = PLANS[row_class]
        items = book.items()
        if kind == "order":  # runs of blocks: their order says something within an aperture only
            items.sort(key=lambda item: item[1].aperture)
        for key, row in items:
            fields = tuple(field_of(how, row[at], names) for at, how in plan)
            whole.append((book.name, key_of(kind, key, names), fields))
    return tuple(whole)


PLANS = {
    row_class: tuple((at, how) for at, how in enumerate(fields.values()) if how != GHOST)
    for row_class, fields in FIELDS.items()
}
