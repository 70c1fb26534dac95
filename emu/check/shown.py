"""What a run could show at all: why nothing is concluded from one in which nothing was broken.

A check that found nothing says that a promise holds only where it could have been broken: memory that was in use was taken back, and what
was promised to end did end. A run that was meant to be idle (`dma` false in row.json: a control), or whose memory nobody had registered any more
(`pinned` false: refused, or its holder had left), or for which nobody was to ask (`asked` false of its reclaim), is exempt from the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.check.history import History
    from emu.check.invariants.invariant import Judgement

Json = dict[str, Any]

IDLE = "no reclaim of pinned memory had DMA in flight when it was requested"


def lacking(history: History, judgements: Sequence[Judgement]) -> list[str]:
    """Why it cannot be said that promises held; [] if it can."""
    row = history.row
    unasked = row.get("reclaim", {}).get("asked") is False
    idle = row.get("dma") is False or row.get("pinned") is False or unasked
    found = [] if idle or _met_dma(history) else [IDLE]
    return found + [f"S7 is promised, and {j.untested}" for j in judgements if _owed(j)]


def _owed(judgement: Judgement) -> bool:
    return judgement.name == "S7" and judgement.promised and bool(judgement.untested)


def _met_dma(history: History) -> bool:
    begun = (line for line in history.of("Phase") if line["phase"] == "requested" and line["keys"])
    return any(dma_at_gate(history, line) for line in begun)


def dma_at_gate(history: History, requested: Json) -> int:
    """Operations in flight under its keys when the reclaim of this line was requested."""
    inflight: int = requested["inflight"]
    return max(inflight, _caught_by_surprise(history, requested))


def _caught_by_surprise(history: History, requested: Json) -> int:
    """A device that is gone by surprise is gone before anybody asks: operations that ran across that moment, by the log."""
    epochs = [line["epoch"] for line in history.of("Offline") if line["epoch"] < requested["epoch"]]
    if not epochs or requested["detail"].get("kind") != "surprise":
        return 0
    gone, keys = epochs[-1], set(requested["keys"])
    caught = {
        (thread, record.op)
        for thread, record in history.records()
        if record.op_epoch < gone <= record.epoch_last and record.rkey in keys
    }
    return len(caught)
