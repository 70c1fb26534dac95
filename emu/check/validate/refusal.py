"""What is said of a history that the model does not allow."""

from __future__ import annotations

from typing import NamedTuple


class Refusal(NamedTuple):
    """Where it is (a line `n` of events.jsonl, a record of a log, a file), and what is wrong there."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


class Unusable(ValueError):
    """A history that cannot be held against the model; the sentence says why."""


class Refused(Exception):
    """The first thing that is wrong ends the reading: what follows rests on it."""

    def __init__(self, where: str, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = Refusal(where, sentence)
