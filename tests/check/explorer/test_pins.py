"""Two holders, two reclaims, a crash, deadlines: exact numbers. `make proof` compares them all; here it is one of them, and what docs say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prove import PINS, ROOT, jobs_of, pin_of

from emu.check.explorer.parallel import run
from emu.check.explorer.search import KINDS

PINNED = json.loads(PINS.read_text())["1 MR"]
ROW = re.compile(
    r"\| `(?P<protocol>[a-z-]+)` \| (?P<event>[a-z-]+), [a-z-]+ \| (?P<numbers>[0-9,| ]+) \| holds \|"
)


def test_what_is_pinned_holds():
    assert {(pin["verdict"], tuple(pin["breaches"])) for pin in PINNED.values()} == {("holds", ())}
    for name in {pinned.split()[0] for pinned in PINNED}:
        assert {f"{name} {event}" for event in KINDS} <= set(PINNED)


def test_one_of_them_is_as_it_is_pinned():
    job = next(job for job in jobs_of(1, ["ebusy"]) if job.event == "unlink")
    result = run(job)
    assert pin_of(result.as_row()) == PINNED["ebusy unlink"]
    assert (result.reclaims, job.setup.holders, job.setup.crashes) == (("unlink", "truncate"), 2, 1)


def test_the_docs_quote_what_is_pinned():
    quoted = {}
    for found in ROW.finditer(Path(ROOT / "docs/explorer.md").read_text()):
        numbers = [int(number.replace(",", "")) for number in found["numbers"].split("|")]
        quoted[f"{found['protocol']} {found['event']}"] = numbers
    assert quoted == {name: [pin["states"], pin["transitions"], pin["depth"]] for name, pin in PINNED.items()}
