"""Writes the drawings of the docs, from what runs: python docs/diagrams.py (`make diagrams`).

The state diagrams of protocols.md, between its two markers: a heading, a line and a diagram for each protocol of the package. And the space-time
diagrams of README.md and tutorial.md: the shortest story of a protocol, as `emu explore --story` draws it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.check.explorer.search import explore
from emu.protocols import none
from emu.protocols.listing import listing
from emu.protocols.registry import BUILT_IN
from emu.report.statechart import mermaid
from emu.report.story import svg

if TYPE_CHECKING:
    from emu.protocols.contract import Protocol

HERE = Path(__file__).parent
PAGE = HERE / "protocols.md"
BEGIN, END = "<!-- diagrams: written by docs/diagrams.py -->\n", "<!-- end of diagrams -->\n"


def current(page: str) -> str:
    """protocols.md as it ought to be."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + section() + "\n" + END + rest.split(END)[1]


def section() -> str:
    """All state diagrams."""
    return "".join(
        f"\n### {protocol.name}\n\n{protocol.summary[:1].upper()}{protocol.summary[1:]}. From: {protocol.origin}.\n\n"
        f"```mermaid\n{mermaid(listing(protocol))}```\n"
        for protocol in BUILT_IN
    )


def figures() -> dict[str, str]:
    """File name -> drawing."""
    return {
        "none-truncate-S1.svg": story(none.PROTOCOL, "none"),
        "impatient-truncate-S1.svg": story(tutorial(), {"file": "impatient.py"}),
    }


def tutorial() -> Protocol:
    """The protocol that the tutorial begins with."""
    text = (HERE / "tutorial.md").read_text("utf-8")
    found = re.search(r"`impatient\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
    assert found, "tutorial.md begins with `impatient.py`"
    space: dict[str, Any] = {}
    exec(compile(found[1], "impatient.py", "exec"), space)  # noqa: S102 - our own page
    protocol: Protocol = space["PROTOCOL"]
    return protocol


def story(protocol: Protocol, named: Any) -> str:
    """How it comes to DMA in memory that has changed hands."""
    result = explore(protocol, "truncate", named=named)
    return next(svg(found.script) for found in (*result.breaches, *result.costs) if found.invariant == "S1")


def main() -> None:
    PAGE.write_text(current(PAGE.read_text("utf-8")), "utf-8")
    for name, text in figures().items():
        (HERE / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
