"""Indexes over the books: caches outside the state. A book tells its indexes of every put and drop, undone ones too.

An index can always be rebuilt from the rows; `snapshot()` gives plain data so that a test compares the two.

`Grouped`: keys by group, in order. `Pins`: which MRs pin a range, in O(log n + k) for k hits, by two structures over blocks:

    a query [a, b) hits an interval  iff  the interval contains a, or it starts within (a, b)

    contains a:      each interval is cut in at most 2 log U aligned power-of-two pieces ("nodes"); a point has one node a
                     level, so 52 look-ups find all intervals over it
    starts in (a,b): a sorted list of starts, searched by bisection

Hits are by whole blocks; callers that care for bytes look at the runs themselves.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from emu.core.rows import BLOCK, Mr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

K = TypeVar("K", int, str)
R = TypeVar("R")

LEVELS: Final = 52  # of nodes: 2^63 bytes are 2^51 blocks


def remove(ordered: list[Any], item: Any) -> None:
    del ordered[bisect_left(ordered, item)]


class Grouped(Generic[K, R]):
    """Keys of a book by group, each group in order. groups_of gives the groups of a row."""

    def __init__(self, groups_of: Callable[[R], tuple[Any, ...]]) -> None:
        self._groups_of = groups_of
        self._keys: dict[Any, list[K]] = {}

    def changed(self, key: K, old: R | None, new: R | None) -> None:
        before = () if old is None else self._groups_of(old)
        after = () if new is None else self._groups_of(new)
        if before == after:
            return
        for group in before:
            remove(self._keys[group], key)
            if not self._keys[group]:
                del self._keys[group]
        for group in after:
            insort(self._keys.setdefault(group, []), key)

    def of(self, group: Any) -> tuple[K, ...]:
        return tuple(self._keys.get(group, ()))

    def has(self, group: Any) -> bool:
        return group in self._keys

    def first(self, group: Any) -> K | None:
        keys = self._keys.get(group)
        return keys[0] if keys else None

    def last(self, group: Any) -> K | None:
        keys = self._keys.get(group)
        return keys[-1] if keys else None

    def groups(self) -> list[Any]:
        """Those that have keys, in order."""
        return sorted(self._keys)

    def clear(self) -> None:
        self._keys.clear()

    def snapshot(self) -> dict[Any, list[K]]:
        return {group: list(keys) for group, keys in sorted(self._keys.items(), key=repr)}


def nodes(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The aligned pieces of [start, end): (level, number)."""
    level = 0
    while start < end:
        if start & 1:
            yield (level, start)
            start += 1
        if end & 1:
            end -= 1
            yield (level, end)
        start, end, level = start >> 1, end >> 1, level + 1


def pinning(row: Mr | None) -> tuple[int, tuple[tuple[int, int], ...]] | None:
    """Space and runs that this MR pins, None for no pin."""
    if row is None or row.state in {"unmapped", "absent"} or not row.runs:
        return None
    return (row.space, row.runs)


class Pins:
    """MRs by the blocks that they pin, each space (aperture or host file) by itself."""

    def __init__(self) -> None:
        self._starts: dict[int, list[tuple[int, int]]] = {}
        self._nodes: dict[tuple[int, int, int], list[int]] = {}

    def changed(self, key: int, old: Mr | None, new: Mr | None) -> None:
        before, after = pinning(old), pinning(new)
        if before == after:
            return
        if before is not None:
            self._remove(key, *before)
        if after is not None:
            self._add(key, *after)

    def _add(self, key: int, space: int, runs: tuple[tuple[int, int], ...]) -> None:
        for offset, length in runs:
            first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
            insort(self._starts.setdefault(space, []), (first, key))
            for level, number in nodes(first, end):
                insort(self._nodes.setdefault((space, level, number), []), key)

    def _remove(self, key: int, space: int, runs: tuple[tuple[int, int], ...]) -> None:
        for offset, length in runs:
            first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
            remove(self._starts[space], (first, key))
            for level, number in nodes(first, end):
                node = (space, level, number)
                remove(self._nodes[node], key)
                if not self._nodes[node]:
                    del self._nodes[node]
        if not self._starts[space]:
            del self._starts[space]

    def over(self, space: int, start: int, end: int) -> list[int]:
        """Keys that pin a block of [start, end) bytes of this space, in order."""
        starts = self._starts.get(space)
        if not starts or end <= start:
            return []
        first, stop = start // BLOCK, -(-end // BLOCK)
        found: dict[int, None] = {}
        for level in range(LEVELS):
            for key in self._nodes.get((space, level, first >> level), ()):
                found[key] = None
        for at in range(bisect_left(starts, (first + 1, 0)), bisect_left(starts, (stop, 0))):
            found[starts[at][1]] = None
        return sorted(found)

    def clear(self) -> None:
        self._starts.clear()
        self._nodes.clear()

    def snapshot(self) -> tuple[Any, ...]:
        return (sorted(self._starts.items()), sorted(self._nodes.items()))
