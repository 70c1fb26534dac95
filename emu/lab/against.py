"""Two results side by side: which outcomes changed, which rows are new or gone, and how much slower or faster reclaims have become."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]
Key = tuple[str, str, str, str]

KEY = ("protocol", "event", "backing", "holder")


def against(old: Json, new: Json) -> Json:
    """{changed, new, gone, latency}: changed rows with `was` and `is`; latency: ratio of medians, new over old, by row and over all."""
    before, after = _by_key(old), _by_key(new)
    both = [key for key in after if key in before]
    ratios = {key: ratio for key in both if (ratio := _ratio(before[key], after[key])) is not None}
    return {
        "changed": [
            {**_named(key), "was": before[key]["outcomes"], "is": after[key]["outcomes"]}
            for key in both
            if before[key]["outcomes"] != after[key]["outcomes"]
        ],
        "new": [_named(key) for key in after if key not in before],
        "gone": [_named(key) for key in before if key not in after],
        "latency": {
            "median_ratio": round(statistics.median(ratios.values()), 3) if ratios else None,
            "rows": [{**_named(key), "ratio": round(ratio, 3)} for key, ratio in ratios.items()],
        },
    }


def _by_key(result: Json) -> dict[Key, Json]:
    return {tuple(str(row[name]) for name in KEY): row for row in result["rows"]}  # type: ignore[misc]


def _named(key: Key) -> Json:
    return dict(zip(KEY, key, strict=True))


def _ratio(old: Json, new: Json) -> float | None:
    if not (old["reclaim_us"] and new["reclaim_us"] and old["reclaim_us"]["p50"]):
        return None
    ratio: float = new["reclaim_us"]["p50"] / old["reclaim_us"]["p50"]
    return ratio


def words(found: Json) -> Iterator[str]:
    """The same in sentences."""
    for row in found["changed"]:
        yield f"{_words(row)}: was {', '.join(row['was'])}, is {', '.join(row['is'])}"
    for name in ("new", "gone"):
        if found[name]:
            yield f"{len(found[name])} rows are {name}, {_words(found[name][0])} first"
    if (ratio := found["latency"]["median_ratio"]) is not None:
        yield f"reclaims take {ratio:g} times as long as then (median of {len(found['latency']['rows'])} rows)"


def _words(row: Json) -> str:
    return " ".join(str(row[name]) for name in KEY)
