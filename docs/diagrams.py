"""Writes the state diagrams of docs/protocols.md, from the tables that run: python docs/diagrams.py. `--check` only says whether they are current.

What stands between the page's two markers is made anew: a heading, a line and a diagram for each protocol of the package.
"""

from __future__ import annotations

import sys
from pathlib import Path

from emu.protocols.listing import listing
from emu.protocols.registry import BUILT_IN
from emu.report.statechart import mermaid

PAGE = Path(__file__).parent / "protocols.md"
BEGIN, END = "<!-- diagrams: written by docs/diagrams.py -->\n", "<!-- end of diagrams -->\n"


def section() -> str:
    """All diagrams."""
    return "".join(
        f"\n### {protocol.name}\n\n{protocol.summary[:1].upper()}{protocol.summary[1:]}. From: {protocol.origin}.\n\n"
        f"```mermaid\n{mermaid(listing(protocol))}```\n"
        for protocol in BUILT_IN
    )


def current(page: str) -> str:
    """The page as it ought to be."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + section() + "\n" + END + rest.split(END)[1]


def main(check: bool) -> int:
    page = PAGE.read_text("utf-8")
    if check:
        return int(page != current(page))
    PAGE.write_text(current(page), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
