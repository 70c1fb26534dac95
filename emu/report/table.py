"""The table on the terminal: protocols by events, one block for each backing and holder, then a legend and the findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.report.words import MEANING, agreement, controlled, count, findings, span

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]
NOTES = (
    "bytes; `in flight`: operations at the gate; `reclaim`: median; `hurt`: objects outside the range",
    "`freed`, `lost`: bytes that operations moved, each write counted, so they may exceed the file; `foreign`: each byte once",
)


def render(result: Json) -> str:
    """The whole text, without a newline at its end."""
    rows = result["rows"]
    blocks = [_block(title, members) for title, members in groups(rows).items()]
    return "\n\n".join([*blocks, _figures(rows), _legend(rows), _said(rows)])


def groups(rows: Sequence[Json]) -> dict[str, list[Json]]:
    """Rows by backing and holder, in order of appearance; a pair that makes no sense is shown with the first holder."""
    found: dict[str, list[Json]] = {}
    for row in rows:
        found.setdefault(f"{row['backing']}, {row['holder']} holder", []).append(row)
    return found


def columns(rows: Sequence[Json], key: str) -> list[str]:
    """The values of a key, in order of appearance."""
    return list(dict.fromkeys(str(row[key]) for row in rows))


def cell(row: Json | None) -> str:
    """What stands in the matrix."""
    if row is None:
        return ""
    also = [name for name in row["outcomes"] if name != row["outcome"] and name in {"FAULT", "KILL", "LEAK"}]
    return " ".join([row["outcome"], *([row["errno"]] if row["errno"] else []), *also])


def _block(title: str, rows: Sequence[Json]) -> str:
    events = columns(rows, "event")
    by_cell = {(row["protocol"], row["event"]): row for row in rows}
    body = [[p, *(cell(by_cell.get((p, event))) for event in events)] for p in columns(rows, "protocol")]
    return "\n".join([title, *_aligned([["", *events], *body])])


def _figures(rows: Sequence[Json]) -> str:
    """The numbers behind the outcomes."""
    head = ["", "foreign", "freed", "lost", "in flight", "reclaim", "errors", "hurt"]
    body = [
        [
            f"{row['protocol']} {row['event']} {row['backing']} {row['holder']}",
            count(row["foreign_bytes"]), count(row["freed_bytes"]), count(row["lost_bytes"]), count(row["dma_at_gate"]),
            span(row["reclaim_us"]["p50"] if row["reclaim_us"] else None),
            count(sum((row["error_completions"] or {}).values())), count(row["collateral"]),
        ]
        for row in rows
        if row["outcome"] != "N/A"
    ]  # fmt: skip
    return "\n".join(["figures", *_aligned([head, *body], right=True), *(f"  {note}" for note in NOTES)])


def _aligned(table: Sequence[Sequence[str]], *, right: bool = False) -> list[str]:
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    return [
        "  "
        + "  ".join(
            text.rjust(width) if right and i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def _legend(rows: Sequence[Json]) -> str:
    seen = {name for row in rows for name in row["outcomes"]}
    width = max((len(name) for name in seen), default=0)
    lines = [f"  {name.ljust(width)}  {meaning}" for name, meaning in MEANING.items() if name in seen]
    reasons = dict.fromkeys(row["reason"] for row in rows if row["outcome"] == "N/A")
    return "\n".join([*lines, *(f"  N/A: {reason}" for reason in reasons)])


def _said(rows: Sequence[Json]) -> str:
    lines = [agreement(rows), *(f"- {sentence}" for sentence in findings(rows)), controlled(rows)]
    return "\n".join(line for line in lines if line)
