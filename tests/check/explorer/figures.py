"""docs/proof/explorer.json, and the tables of docs/explorer.md that quote it."""

from __future__ import annotations

import re
from pathlib import Path

from pinning import FOUND, ONE, PINNED, TWO, part_of

from emu.check.explorer.coverage import named
from emu.check.explorer.search import KINDS, events_of, explore, unreached
from emu.protocols import registry

ROOT = Path(__file__).parents[3]
FIGURES = ROOT / "docs/proof/explorer.json"
DOCS = ROOT / "docs/explorer.md"
OURS = (
    "reclaims",
    "bound_hit",
    "states_per_second",
    "seconds",
    "cpu_seconds",
    "memory",
    "reductions",
    "checked",
    "missing",
)
HEADS = {
    "closed": "| protocol | event, beside | states | moves | depth | verdict | costs | states/s of CPU |",
    "open": "| protocol | event, beside | verdict | bound | states by then | depth by then |",
    "one": "| protocol, one holder | event, beside | states | moves | depth | verdict | costs |",
}


def figures_of(row, of):
    """What is kept of a result."""
    stories = {f["invariant"]: len(f["story"]) for word in FOUND for f in row[word]}
    lists = {word: sorted(f["invariant"] for f in row[word]) for word in FOUND}
    plain = {name: row[name] for name in (*PINNED, *OURS)}
    return {**plain, **lists, "shortest_stories": stories, "of": of}


def sums(world, rows):
    states, cpu = (sum(row[name] for row in rows.values()) for name in ("states", "cpu_seconds"))
    return {
        **world._asdict(), "reclaims": 2, "crashes": 1,
        "states": states, "cpu_seconds": round(cpu), "states_per_cpu_second": round(states / max(cpu, 0.001)),
    }  # fmt: skip


def left_of(results):
    """Rows of each protocol's table that no event has executed; of those whose events are all there, whole."""
    return {
        name: [named(row) for row in unreached(registry.load().get(name), [*found, *others(name)])]
        for name, found in results.items()
        if len(found) == len(KINDS) and not any(result.bound_hit for result in found)
    }


def others(name):
    """Events beside the five that a protocol's rows ask for, small."""
    protocol = registry.load().get(name)
    return [explore(protocol, event) for event in events_of(protocol) if event not in KINDS]


def rows_of(world):
    """(protocol, figures), by protocol and event."""
    rows = part_of(FIGURES, world.key).get("rows", {})
    order = {event: at for at, event in enumerate(KINDS)}
    pairs = sorted((name.split() for name in rows), key=lambda pair: (pair[0], order[pair[1]]))
    return [(protocol, rows[f"{protocol} {event}"]) for protocol, event in pairs]


def tables():
    """Markdown: what closes with two holders, what does not, and what does with one."""
    two = rows_of(TWO)
    return [
        _table("closed", [_closed(name, row) for name, row in two if not row["bound_hit"]]),
        _table("open", [_open(name, row) for name, row in two if row["bound_hit"]]),
        _table("one", [_figures(name, row) for name, row in rows_of(ONE) if not row["bound_hit"]]),
    ]


def _table(head, lines):
    return "\n".join([HEADS[head], "|---" * (HEADS[head].count("|") - 1) + "|", *lines])


def _figures(name, row):
    return (
        f"| `{name}` | {', '.join(row['reclaims'])} | {row['states']:,} | {row['transitions']:,} | {row['depth']} | "
        f"{row['verdict']} | {', '.join(row['costs']) or '-'} |"
    )


def _closed(name, row):
    rate = f"{row['states'] / row['cpu_seconds']:,.0f}" if row.get("cpu_seconds") else "-"
    return f"{_figures(name, row)} {rate} |"


def _open(name, row):
    return (
        f"| `{name}` | {', '.join(row['reclaims'])} | {row['verdict']} | {row['bound_hit']} | "
        f"{row['states']:,} | {row['depth']} |"
    )


def quote():
    """The tables of docs/explorer.md anew."""
    text = DOCS.read_text()
    for head, table in zip(HEADS.values(), tables(), strict=True):
        text = re.sub(
            rf"^{re.escape(head)}\n(\|.*\n)*", lambda _, new=table: f"{new}\n", text, flags=re.MULTILINE
        )
    DOCS.write_text(text)
