"""Draws that several parts share: times in nanoseconds, small on the whole, with a tail."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

US: Final = 1_000
MS: Final = 1_000_000
S: Final = 1_000_000_000
NEVER: Final = 1 << 62

Span = tuple[int, int]


def spread(draw: Random, span: Span) -> int:
    """Between the two ends, evenly in the logarithm: as many short ones as long ones."""
    low, high = span
    return int(low * math.exp(draw.random() * math.log(high / low)))


def even(draw: Random, span: Span) -> int:
    return draw.randrange(span[0], span[1])
