"""events.jsonl: what the core was told and ordered, one JSON object a line, at bounded cost.

    {"n": line number, "t": CLOCK_MONOTONIC ns, "epoch": epoch, "kind": "event"|"effect"|"commit"|"shell", "type": class name, ...fields}

Bytes are given as their length only. Lines are collected and written once a turn (`flush`). The space is bounded: a quarter of it keeps the
head (`events.jsonl`), the rest the newest tail, in segments `events-NUMBER.jsonl` of a quarter each, the oldest of which is removed when
a new one begins. A segment after a removal opens with {"kind": "gap", "first": n, "last": n}, and so does the file after lines that
could not be written (disk full). `read_events` merges head and tail and checks the numbers: a gap is never silent.
"""

from __future__ import annotations

import json
import os
import re
import time
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HEAD = "events.jsonl"
DEFAULT_LIMIT = 64 << 20
LEAST_LIMIT = 64 << 10
_SEGMENT = re.compile(r"events-(\d+)\.jsonl")
_encode = msgspec.json.Encoder().encode
_names: dict[type, tuple[str, ...]] = {}


def plain(value: Any) -> Any:
    """What a line holds of a value: dataclasses as maps, bytes as their length."""
    kind = type(value)
    if kind is int or kind is str or kind is bool or value is None or kind is float:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [plain(item) for item in value]
    if is_dataclass(value):
        named = fields_of(value)
        if "type" in named:  # as in a line: a field never hides whose it is
            named["type_"] = named.pop("type")
        return {"type": kind.__name__, **named}
    return str(value)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, plain."""
    kind = type(value)
    names = _names.get(kind)
    if names is None:
        names = _names[kind] = tuple(field.name for field in fields(value))
    return {name: plain(getattr(value, name)) for name in names}


class EventsWriter:
    """The one writer of a run's events. No call of it fails: a line that the disk does not take becomes a gap."""

    def __init__(self, folder: Path, limit: int = DEFAULT_LIMIT) -> None:
        """`limit`: bytes of all files together, about; at least LEAST_LIMIT. Raises OSError."""
        self._folder = folder
        self._quarter = max(limit, LEAST_LIMIT) // 4
        self._lines: list[bytes] = []
        self._first_buffered = self.n = 0
        self._segment = 0  # 0: the head
        self._size = 0
        self._segment_first: dict[int, int] = {}
        self._gap: tuple[int, int] | None = None
        self.failures = 0
        self._fd = self._open(0)

    def note(self, kind: str, epoch: int, what: Any) -> None:
        """One line about an event or effect (a dataclass)."""
        self.line(kind, epoch, type(what).__name__, fields_of(what))

    def line(self, kind: str, epoch: int, name: str, values: dict[str, Any]) -> None:
        """One line with these (plain) fields. A field never hides one of the line's own."""
        own = {"n": self.n, "t": time.monotonic_ns(), "epoch": epoch, "kind": kind, "type": name}
        if not values.keys().isdisjoint(own):
            values = {f"{key}_" if key in own else key: value for key, value in values.items()}
        self._lines.append(_encode({**own, **values}))
        self.n += 1

    def flush(self) -> None:
        """Write what has been collected."""
        if not self._lines:
            return
        if self._size >= self._quarter:
            self._rotate()
        gap = [_gap_line(*self._gap)] if self._gap else []
        raw = b"\n".join([*gap, *self._lines, b""])
        if self._write(raw):
            self._gap = None
        else:
            first = self._gap[0] if self._gap else self._first_buffered
            self._gap = (first, self.n - 1)
        self._lines.clear()
        self._first_buffered = self.n

    def close(self) -> None:
        self.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, raw: bytes) -> bool:
        """All or nothing, as far as a reader can see: half of it is cut off again."""
        try:
            if self._fd < 0:
                self._fd = self._open(self._segment)
            written = os.write(self._fd, raw)
            if written < len(raw):
                os.ftruncate(self._fd, self._size)
        except OSError:
            written = 0
        if written < len(raw):
            self.failures += 1
            return False
        self._size += written
        return True

    def _rotate(self) -> None:
        os.close(self._fd)
        self._segment += 1
        self._size = 0
        self._segment_first[self._segment] = self._first_buffered
        if len(self._segment_first) > 3:
            self._remove_oldest()
        try:
            self._fd = self._open(self._segment)
        except OSError:
            self._fd = -1  # _write tries again, and counts

    def _remove_oldest(self) -> None:
        oldest, following, *_ = self._segment_first
        first, last = self._segment_first.pop(oldest), self._segment_first[following] - 1
        (self._folder / f"events-{oldest}.jsonl").unlink(missing_ok=True)
        self._lines.insert(0, _gap_line(first, last))

    def _open(self, segment: int) -> int:
        name = f"events-{segment}.jsonl" if segment else HEAD
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self._folder / name, flags, 0o600)


def _gap_line(first: int, last: int) -> bytes:
    return _encode({"kind": "gap", "first": first, "last": last})


def event_files(folder: Path) -> list[Path]:
    """Head, then segments in order."""
    segments = {int(m[1]): path for path in folder.iterdir() if (m := _SEGMENT.fullmatch(path.name))}
    return [folder / HEAD, *(segments[number] for number in sorted(segments))]


def write_events(folder: Path, lines: Iterable[dict[str, Any]]) -> None:
    """A whole history at once, as `EventsWriter` leaves it while it is small. Raises OSError."""
    (folder / HEAD).write_bytes(b"".join(_encode(line) + b"\n" for line in lines))


def read_events(folder: str | Path) -> Iterator[dict[str, Any]]:
    """All lines in order; wherever numbers are missing, one {"kind": "gap", "first", "last"} in their place. A last line that a
    kill cut in half is left out. Raises OSError, ValueError for a broken line in the middle.
    """
    expected = 0
    for path in event_files(Path(folder)):
        for line in _whole_lines(path):
            if line["kind"] == "gap":
                continue  # the numbers tell
            if line["n"] > expected:
                yield {"kind": "gap", "first": expected, "last": line["n"] - 1}
            expected = line["n"] + 1
            yield line


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)
