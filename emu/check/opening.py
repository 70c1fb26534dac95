"""A run's folder, file by file, read with suspicion: what is not as docs/results.md says raises BrokenHistory.

Nothing that lies in a folder is trusted: every line has the fields of its type, every row of a delta the fields of its book, every
name is a plain file. The sentence names the file, what is wrong with it, and what it should be. One thing is forgiven: the last line of
a live broker's own folder may be cut in half, since a kill -9 does that.
"""

from __future__ import annotations

import json
import mmap
import os
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from emu.core import effects, events, requests
from emu.core.fields import BOOKS, DURABLE
from emu.history.events import event_files
from emu.history.journal import JournalError, read_journal
from emu.history.journal import Kind as JournalKind
from emu.history.oplog import Kind, OplogError, read_oplog

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from emu.history.journal import JournalFile
    from emu.history.oplog import OpLog

Json = dict[str, Any]

KINDS = ("event", "effect", "commit", "shell")
OWN = ("n", "t", "epoch", "kind", "type")
SOURCES = ("live", "simulated")
_SIMPLE = {"int": int, "str": str, "bool": bool, "dict[str, Any]": dict, "dict[str, int]": dict, "bytes": int}


class BrokenHistory(ValueError):
    """A folder that is no whole run; the sentence names the file and what is wrong with it."""


# ---- files


def regular(folder: Path, name: str, what: str) -> Path:
    """The path of a file that has to be there."""
    path = folder / name
    if path.is_dir():
        raise BrokenHistory(f"{name} is a directory: it should be a file, {what}")
    if not path.exists():
        raise BrokenHistory(f"{name} is missing: it should be {what}")
    if not path.is_file():
        raise BrokenHistory(f"{name} is no ordinary file: it should be {what}")
    return path


def read_json(folder: Path, name: str, what: str) -> Json:
    """A file that holds one JSON object."""
    path = regular(folder, name, what)
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise BrokenHistory(f"{name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenHistory(f"{name} is no JSON ({error}): it should be {what}") from error
    if not isinstance(found, dict):
        raise BrokenHistory(f"{name} holds a {type(found).__name__}: it should be an object, {what}")
    return found


def read_meta(folder: Path) -> Json:
    meta = read_json(folder, "meta.json", "who ran, and what was declared")
    need(meta, {"schema": int, "source": str}, "meta.json")
    if meta["schema"] != 1 or meta["source"] not in SOURCES:
        raise BrokenHistory(
            f"meta.json is of schema {meta['schema']}, source {meta['source']!r}; known are schema 1 and {' or '.join(SOURCES)}"
        )
    declared = meta.get("declared")
    if declared is not None:
        need(meta, {"declared": dict}, "meta.json")
        need(declared, {"protocol": str, "promises": list, "excepts": dict}, "meta.json, declared")
    return meta


def need(found: Json, wanted: Mapping[str, type | tuple[type, ...]], where: str) -> None:
    """Fields that have to be there, of these types."""
    for name, kind in wanted.items():
        if name not in found:
            raise BrokenHistory(f"{where} lacks {name!r}")
        value = found[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            wish = (
                " or ".join(k.__name__ for k in kind)
                if isinstance(kind, tuple)
                else getattr(kind, "__name__", "")
            )
            raise BrokenHistory(f"{where}: {name!r} is a {type(value).__name__}, it should be {wish}")


# ---- events.jsonl


def read_lines(folder: Path, *, whole: bool) -> list[Json]:
    """All lines in order, gaps as lines of kind "gap". `whole`: not even the last one may be cut."""
    regular(folder, "events.jsonl", "one JSON object a line")
    found: list[Json] = []
    expected = epoch = 0
    for path in event_files(folder):
        for where, line in _lines_of(
            regular(folder, path.name, "lines that follow events.jsonl"), whole=whole
        ):
            if line.get("kind") == "gap":
                need(line, {"first": int, "last": int}, where)
                continue  # the numbers tell
            check_line(line, where)
            if line["n"] < expected:
                raise BrokenHistory(f"{where}: its number is {line['n']}, it should be {expected} or more")
            if line["epoch"] < epoch:
                raise BrokenHistory(f"{where}: the epoch goes back from {epoch} to {line['epoch']}")
            if line["n"] > expected:
                found.append({"n": expected, "kind": "gap", "first": expected, "last": line["n"] - 1})
            expected, epoch = line["n"] + 1, line["epoch"]
            found.append(line)
    if not found:
        raise BrokenHistory(
            "events.jsonl is empty: it should hold at least the line Loaded, with which a run begins"
        )
    first = found[0]
    if first["kind"] != "gap" and first["type"] != "Loaded":
        raise BrokenHistory(
            f"events.jsonl begins with {first['type']}: a run begins with Loaded (an older emu did not write it)"
        )
    return found


def _lines_of(path: Path, *, whole: bool) -> Iterator[tuple[str, Json]]:
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                where = f"{path.name}, line {number}"
                if not raw.endswith(b"\n"):
                    if whole:
                        raise BrokenHistory(f"{where} is cut short: it should end with a line feed")
                    return
                yield where, _object(raw, where)
    except OSError as error:
        raise BrokenHistory(f"{path.name} cannot be read: {error.strerror}") from error


def _object(raw: bytes, where: str) -> Json:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BrokenHistory(f"{where} is no JSON ({error})") from error
    if not isinstance(line, dict):
        raise BrokenHistory(f"{where} holds a {type(line).__name__}: it should be an object")
    return line


# All that a shell says, with the fields that judges read. No word of it is a core's: judges tell lines by their type alone.
SAID: Mapping[str, Mapping[str, type]] = {
    "Ahead": {"effect": str},
    "Aperture": {"aperture": int, "number": int},
    "CutOff": {"session": int},
    "Defect": {"event": str},
    "DoorClosed": {},
    "Ended": {"events": int},
    "EffectFailed": {"effect": str},
    "SignalLost": {"session": int, "number": int},
    "NotPagedOut": {"aperture": int, "errno": int},
    "PutBack": {"event": str},
    "TurnedAway": {},
    "Undone": {"event": str},
    "Enter": {"reclaim": int},
    "Leave": {"reclaim": int},
    "Holds": {"session": int, "who": str},
    "LetsGo": {"session": int, "who": str},
}

# Fields of the maps that lines carry: MAP.FIELD.
WITHIN: Mapping[str, Mapping[str, type]] = {
    "Phase": {
        **dict.fromkeys(
            ("detail.ino", "detail.lo", "detail.hi", "detail.errno", "detail.length", "detail.block"), int
        ),
        **dict.fromkeys(("detail.to", "detail.mount"), str),
        **dict.fromkeys(("detail.kind", "detail.path", "detail.device", "detail.host", "detail.rule"), str),
        "detail.buffer": str,
    },
    "Reply": {
        **dict.fromkeys(("result.lkey", "result.ino", "result.handle", "result.qp_num"), int),
        "result.device": str,
        "result.owners": list,
    },
    "Notify": {"fields.mr": int, "fields.rkey": int},
    "Answered": {"value.qp_num": int},
    "Requested": {"host.label": str},
}


# What else a reclaim of a file says of itself, by its kind.
MORE: Mapping[str, dict[str, type]] = {
    "collapse": {"length": int},
    "insert": {"length": int},
    "reflink": {"to": str},
    "poison": {"block": int},
}


def check_line(line: Json, where: str) -> None:
    """Its own fields, and those of its type."""
    need(line, {"n": int, "t": int, "epoch": int, "kind": str, "type": str}, where)
    kind, name = line["kind"], line["type"]
    if kind not in KINDS:
        raise BrokenHistory(f"{where}: kind {kind!r} is none of {', '.join(KINDS)}")
    if name not in TYPES[kind]:
        raise BrokenHistory(f"{where}: type {name!r} is none of kind {kind} that this emu knows")
    if min(line["n"], line["t"], line["epoch"]) < 0:
        raise BrokenHistory(f"{where}: n, t and epoch are 0 or more")
    if kind in {"event", "effect"}:
        _check_fields(line, SHAPES[kind], name, where)
        if name == "Requested":
            _check_fields(line["op"], SHAPES["request"], str(line["op"].get("type")), where)
        if name == "Phase":
            need(line, {"inflight": int}, where)
        _check_within(line, name, where)
    elif kind == "commit":
        _check_delta(line, where)
    else:
        need(line, SAID[name], where)


def _check_within(line: Json, name: str, where: str) -> None:
    """What is known of the maps that a line carries: each of these fields, where it is there, is of its type."""
    for field, kind in WITHIN.get(name, {}).items():
        outer, _, inner = field.partition(".")
        held = line[outer] or {}
        if inner in held and (not isinstance(held[inner], kind) or isinstance(held[inner], bool)):
            raise BrokenHistory(
                f"{where}: {field!r} of {name} should be {kind.__name__}, it is {held[inner]!r:.60}"
            )
    if name == "Phase" and "ino" in line["detail"]:
        more: dict[str, type] = MORE.get(line["detail"].get("kind"), {})
        need(line["detail"], {"lo": int, "hi": int, **more}, where)


def _check_fields(found: Json, shapes: Mapping[str, Mapping[str, str]], name: str, where: str) -> None:
    shape = shapes.get(name)
    if shape is None:
        raise BrokenHistory(f"{where}: type {name!r} is none that this emu knows")
    for field, annotation in shape.items():
        if field not in found:
            raise BrokenHistory(f"{where}: {name} lacks {field!r}")
        if not fits(found[field], annotation):
            raise BrokenHistory(
                f"{where}: {field!r} of {name} should be {annotation}, it is {found[field]!r:.60}"
            )


def fits(value: Any, annotation: str) -> bool:
    """Whether a JSON value is what a field of this annotation becomes in a line."""
    if annotation.endswith(" | None"):
        return value is None or fits(value, annotation.removesuffix(" | None"))
    if annotation.startswith("tuple["):
        return isinstance(value, list) and all(
            is_int(item) if annotation == "tuple[int, ...]" else is_row(item, WIDTHS.get(annotation, 2))
            for item in value
        )
    if annotation == "float":
        return is_int(value) or isinstance(value, float)
    if annotation == "int":
        return is_int(value)
    return isinstance(value, _SIMPLE.get(annotation, dict))


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


WIDTHS: Mapping[str, int] = {"tuple[Run, ...]": 2, "tuple[Piece, ...]": 3, "tuple[Extent, ...]": 4}


def is_run(value: Any) -> bool:
    return is_row(value, 2)


def is_row(value: Any, width: int) -> bool:
    return isinstance(value, list) and len(value) == width and all(map(is_int, value))


def _shapes(module: Any, root: type) -> dict[str, dict[str, str]]:
    """Class -> field -> annotation, of all dataclasses of a module; fields that hide one of the line's own have a `_`."""
    found = {}
    for name, kind in vars(module).items():
        if isinstance(kind, type) and issubclass(kind, root) and is_dataclass(kind):
            own = OWN if root is not requests.Request else ("type",)
            found[name] = {f"{f.name}_" if f.name in own else f.name: str(f.type) for f in fields(kind)}
    return found


SHAPES = {
    "event": _shapes(events, events.Event),
    "effect": _shapes(effects, effects.Effect),
    "request": _shapes(requests, requests.Request),
}
SHAPES["request"]["CreateQp"]["type_"] = "int"

# The types of each kind of line. They are closed: a line of another type would be nobody's word.
TYPES: Mapping[str, Collection[str]] = {
    "event": SHAPES["event"],
    "effect": SHAPES["effect"],
    "commit": ("Commit", "Loaded"),
    "shell": SAID,
}


def _check_delta(line: Json, where: str) -> None:
    need(line, {"delta": list}, where)
    for change in line["delta"]:
        if not (isinstance(change, list) and len(change) == 3 and change[0] in DURABLE):
            raise BrokenHistory(
                f"{where}: a change should be [book, key, row], book one of {', '.join(DURABLE)}: {change!r:.60}"
            )
        book, _key, row = change
        least, width = _widths(BOOKS[book][0])
        if row is not None and not (isinstance(row, list) and least <= len(row) <= width):
            raise BrokenHistory(f"{where}: a row of {book} has {width} fields: {row!r:.60}")
        if book == "files" and row is not None:
            _check_file(row, where)


def _widths(row_class: Any) -> tuple[int, int]:
    """How many fields a row has, at least (the last ones have defaults: an earlier emu had fewer) and at most."""
    if row_class is int:
        return 1, 1
    return len(row_class._fields) - len(row_class._field_defaults), len(row_class._fields)


def _check_file(row: list[Any], where: str) -> None:
    path, device, size, extents = row[:4]
    good = isinstance(path, str) and isinstance(device, str) and is_int(size) and isinstance(extents, list)
    lost = row[8] if len(row) > 8 else []
    good = good and isinstance(lost, list)
    if not good or not all(
        isinstance(e, list) and len(e) == 4 and all(map(is_int, e)) for e in (*extents, *lost)
    ):
        raise BrokenHistory(
            f"{where}: a file is [path, device, size, [[block, device block, blocks, since], ...], ...]: {row!r:.60}"
        )


# ---- logs and journals


def read_logs(folder: Path) -> list[OpLog]:
    """Every thread's log, by thread."""
    names = sorted(path.name for path in folder.glob("oplog-*.bin"))
    if not names:
        raise BrokenHistory(
            "oplog-0.bin is missing: it should be the operation log of the engine's first thread"
        )
    logs = [_log(folder, name) for name in names]
    return sorted(logs, key=lambda log: log.thread)


def _log(folder: Path, name: str) -> OpLog:
    path = regular(folder, name, "the operation log of a thread")
    try:
        log = read_oplog(path)
    except OSError as error:
        raise BrokenHistory(f"{name} cannot be read: {error.strerror}") from error
    except OplogError as error:
        raise BrokenHistory(f"{name}: {str(error).removeprefix(f'{path} ')}") from error
    if name != f"oplog-{log.thread}.bin":
        raise BrokenHistory(
            f"{name} is the log of thread {log.thread}: it should be called oplog-{log.thread}.bin"
        )
    for record in log.records:
        if record.kind not in {Kind.QUANTUM, Kind.SUM} or record.epoch_first > record.epoch_last:
            raise BrokenHistory(
                f"{name}: record {record.seq} is of kind {record.kind}, epochs {record.epoch_first} to {record.epoch_last}: "
                "a record is a quantum (1) or a sum (2), and does not end before it begins"
            )
    return log


def read_journals(folder: Path) -> dict[str, JournalFile]:
    """The clients' receipts by name; none where nobody kept any."""
    place = folder / "journals"
    if not place.exists():
        return {}
    if not place.is_dir():
        raise BrokenHistory("journals is a file: it should be a directory of NAME.jrnl")
    found = {}
    for path in sorted(place.glob("*.jrnl")):
        found[path.stem] = _journal(folder, f"journals/{path.name}")
    return found


def _journal(folder: Path, name: str) -> JournalFile:
    path = regular(folder, name, "a client's journal")
    try:
        journal = read_journal(path)
    except OSError as error:
        raise BrokenHistory(f"{name} cannot be read: {error.strerror}") from error
    except JournalError as error:
        raise BrokenHistory(f"{name}: {str(error).removeprefix(f'{path} ')}") from error
    if journal.name != path.stem:
        raise BrokenHistory(
            f"{name} is the journal of {journal.name!r}: it should be called {journal.name}.jrnl"
        )
    kinds = {record.kind for record in journal.records} - {kind.value for kind in JournalKind}
    if kinds:
        raise BrokenHistory(f"{name} has records of kind {min(kinds)}: known are 1 to {len(JournalKind)}")
    return journal


# ---- the memory


def read_filemap(folder: Path) -> Json:
    """Whose bytes are whose; {} where nobody kept it."""
    if not (folder / "filemap.json").exists():
        return {}
    name = "filemap.json"
    found = read_json(folder, name, "which bytes of the image belong to which file")
    need(found, {"schema": int, "image": str, "namespace": int, "replaced": bool, "files": list}, name)
    for file in found["files"]:
        if not isinstance(file, dict):
            raise BrokenHistory(f"{name}: a file is an object: {file!r:.60}")
        need(file, {"path": str, "ino": int, "size": int, "extents": list}, f"{name}, a file")
        for extent in (*file["extents"], *file.get("pages", ())):
            if not (
                isinstance(extent, list) and len(extent) == 4 and all(is_int(v) and v >= 0 for v in extent)
            ):
                raise BrokenHistory(
                    f"{name}: an extent of {file['path']} is [file offset, device offset, bytes, since]: {extent!r:.60}"
                )
    beyond = found.get("out_of_reach", [])
    if not isinstance(beyond, list) or not all(isinstance(path, str) for path in beyond):
        raise BrokenHistory(f"{name}: out_of_reach should be a list of paths: {beyond!r:.60}")
    for image in (found["image"], found.get("pages", "-")):
        if not isinstance(image, str) or "/" in image or image in {"", ".", ".."}:
            raise BrokenHistory(f"{name}: image {image!r} should be a name in this folder")
    return found


def read_image(folder: Path, filemap: Json, layout: str = "extents") -> Any:
    """The memory at the end, mapped read-only; b"" where nobody kept it. layout: `pages` for that of a page cache."""
    if not filemap or (layout == "pages" and "pages" not in filemap):
        return b""
    name = filemap["image" if layout == "extents" else layout]
    path = regular(folder, name, "the memory after DMA had stopped")
    ends = [at + size for file in filemap["files"] for _, at, size, _ in file.get(layout, ())]
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < max(ends, default=0):
                raise BrokenHistory(
                    f"{name} is cut short: it has {size} bytes, the file map finds some at {max(ends)}"
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    except OSError as error:
        raise BrokenHistory(f"{name} cannot be read: {error.strerror}") from error


ROW: Mapping[str, type | tuple[type, ...]] = {
    "event": str, "backing": str, "holder": str, "dma": bool, "pinned": bool, "victim": dict, "before": dict, "expected": dict,
    "reclaim": dict, "leaked": (dict, list), "recovery_qps": list, "taken": (dict, type(None)), "bystander": dict, "drained": list,
    "killed": list, "blocks": dict,
}  # fmt: skip


def read_row(folder: Path) -> Json:
    """What the lab asked for, and what clients answered; {} in a run that no lab made."""
    if not (folder / "row.json").exists():
        return {}
    row = read_json(folder, "row.json", "what the lab asked for")
    need(row, ROW, "row.json")
    need(row["reclaim"], {"returned": bool, "errno": (str, type(None))}, "row.json, reclaim")
    need(row["victim"], {"path": str}, "row.json, victim")
    for name in ("before", "expected"):
        need(row[name], {"size": int, "holes": list, "kept": list}, f"row.json, {name}")
        if not all(map(is_run, [*row[name]["holes"], *row[name]["kept"]])):
            raise BrokenHistory(f"row.json, {name}: holes and kept are lists of [start, end]")
    need(row["bystander"], {"qps": list, "mr_lost": bool}, "row.json, bystander")
    if row["taken"] is not None:
        need(row["taken"], {"path": str, "written": list, "unzeroed": (int, type(None))}, "row.json, taken")
    for device, blocks in row["blocks"].items():
        if not isinstance(blocks, dict):
            raise BrokenHistory(f"row.json, blocks of {device}: it should be an object")
        need(
            blocks,
            dict.fromkeys(("total", "free", "owned", "quarantined"), int),
            f"row.json, blocks of {device}",
        )
    return row
