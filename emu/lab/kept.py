"""What a comparison has already found, kept row by row, so that a second start goes on where a first one was ended, however it ended.

    DIR/.emu-compare      the lock, and whose folder this is
    DIR/comparison.json   what was asked for, and whether it has been finished
    DIR/LABEL/result.json one row of the result, written when its runs and controls are over
    DIR/result.json       the result so far, always valid

A start with the same question goes on if the last one was not finished; else it measures anew. The question names all that rows depend on: what
was asked for, emu's version and those of its formats, the text of protocols that came in files. Rows that ended unknown, and those that
are no sound rows, are measured again. Every file is written beside its place and
moved there: what can be read is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from emu.lab.plan.spec import RowSpec

Json = dict[str, Any]

BESIDE = ("rates.json",)  # what else is kept of a comparison, and is not another's
QUESTION, ROW, RESULT = "comparison.json", "result.json", "result.json"


def put(path: Path, content: Json) -> None:
    """Whole, or not at all."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    beside.replace(path)


def _get(path: Path) -> Json | None:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _differences(last: Json | None, question: Json) -> tuple[str, ...]:
    if last is None or last.get("finished") is not False:
        return ()
    names = (last.keys() | question.keys()) - {"finished"}
    return tuple(sorted(name for name in names if last.get(name) != question.get(name)))


def _is_of(row: Json, spec: RowSpec) -> bool:
    """Whether it is this row's, and says what it was to say."""
    same = all(row.get(name) == getattr(spec, name) for name in ("protocol", "event", "backing", "holder"))
    return same and row.get("outcome") != "UNKNOWN" and not row.get("unknown_runs")


@dataclass
class Kept:
    """Of one evidence folder. `rows`: what earlier starts of the same question have found, by label."""

    folder: Path
    question: Json
    rows: dict[str, Json] = field(default_factory=dict)
    other: tuple[str, ...] = ()  # in what the question differs from the one that was not finished here

    @classmethod
    def begin(
        cls, folder: Path, question: Json, specs: Sequence[RowSpec], sound: Callable[[Json], bool] = bool
    ) -> Kept:
        """Find what is there of this question, make room for the rest. sound: whether a row is one."""
        last = _get(folder / QUESTION)
        kept = cls(folder, question, other=_differences(last, question))
        goes_on = last is not None and last == {**question, "finished": False}
        for spec in specs:
            found = _get(folder / spec.label / ROW) if goes_on else None
            if found is not None and _is_of(found, spec) and sound(found):
                kept.rows[spec.label] = found
            else:
                shutil.rmtree(folder / spec.label, ignore_errors=True)
        if not goes_on:
            for name in BESIDE:
                (folder / name).unlink(missing_ok=True)
        put(folder / QUESTION, {**question, "finished": False})
        return kept

    def row(self, label: str, row: Json) -> None:
        """One more."""
        place = self.folder / label
        place.mkdir(parents=True, exist_ok=True)
        put(place / ROW, row)
        self.rows[label] = row

    def finish(self) -> None:
        put(self.folder / QUESTION, {**self.question, "finished": True})
