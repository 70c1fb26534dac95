"""Keys: issued, and put to rest.

A key is (24-bit index << 8 | 8-bit generation). It comes to rest when its MR is removed, first in, first out, and is issued
again with the next generation, at the earliest behind KEY_REST others: a stale key is refused for at least
256 x KEY_REST registrations (the stated limit of V11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from emu.core.books import Books

KEY_REST: Final = 1024


def issue_key(b: Books) -> int:
    """A key that no MR has: the longest at rest, or a fresh one."""
    head, tail = b.counters.get("key_head") or 0, b.counters.get("key_tail") or 0
    if tail - head < KEY_REST:
        return b.number("key") << 8
    head = b.number("key_head")
    key = b.keys[head]
    b.keys.drop(head)
    return key


def return_key(b: Books, key: int) -> None:
    b.keys.put(b.number("key_tail"), (key & ~0xFF) | ((key + 1) & 0xFF))
