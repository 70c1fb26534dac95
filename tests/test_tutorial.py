"""docs/tutorial.md is true: its files are written, its commands run in order in an empty folder, and they say what the page says.

Blocks of the page: ```python under a line that names a file in backquotes is that file; ```console holds commands ($) and what they print;
```mermaid is what the command in front of it prints. On the page `...` stands for what is left out; numbers of three digits and more, and times,
are the machine's, as those of a table's columns are, and only have to be there. `$ echo $?` asks for the exit status. The ten thousand seeds are
thirty here, and timers take twenty times as long, so that a busy machine's prompt holder is prompt.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "tutorial.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"`(\w+\.py)`:\s*$")
STATUS = "echo $?"
SEEDS = ("--seeds 10000", "--seeds 30")
NUMBER = re.compile(r"\d[\d,]*\.\d+|\d[\d,]{2,}|(?<=  )\d+(?=  |\n|$)")
SLOWLY = {"EMU_TIME_SCALE": "20"}


class Step(NamedTuple):
    """A file to write, or a command and what it prints."""

    file: str
    command: str
    text: str


def steps_of(page: str) -> list[Step]:
    found: list[Step] = []
    for block in FENCE.finditer(page):
        kind, text = block.groups()
        before = page[: block.start()].rstrip("\n")
        if kind == "python":
            named = FILE.search(before)
            assert named, f"which file is this?\n{text[:200]}"
            found.append(Step(named[1], "", text))
        elif kind == "mermaid":
            assert not found[-1].text, "a diagram is what the command in front of it prints"
            found[-1] = found[-1]._replace(text=text)
        else:
            assert kind == "console", f"what is a block of {kind!r}?"
            found += commands_of(text)
    return found


def commands_of(block: str) -> list[Step]:
    assert block.startswith("$ ")
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [Step("", *part.split("\n", 1)) for part in parts]


def pattern(text: str) -> re.Pattern[str]:
    """What the page shows, as an expression: see the docstring. Spaces are wide as numbers are."""
    parts = [
        re.sub(
            r"(?:\\ )+",
            lambda _: " +",
            "".join(
                r"[\d,.]+" if at % 2 else re.escape(word)
                for at, word in enumerate(re.split(rf"({NUMBER.pattern})", part))
            ),
        )
        for part in text.rstrip("\n").split("...")
    ]
    text = re.sub(r"(?<=\+ \+)ms\b", "[mu]?s", ".*?".join(parts))  # a time
    return re.compile(text + r"\s*", re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **SLOWLY, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command.replace(*SEEDS)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env=environment,
    )


@pytest.mark.timeout(900)
def test_every_command_of_the_tutorial_does_what_the_page_says(tmp_path):
    status = 0
    for step in steps_of(PAGE.read_text("utf-8")):
        if step.file:
            (tmp_path / step.file).write_text(step.text, "utf-8")
        elif step.command == STATUS:
            assert status == int(step.text)
        else:
            done = run(step.command, tmp_path)
            status = done.returncode
            if not pattern(step.text).fullmatch(done.stdout):
                pytest.fail(f"$ {step.command}\n{done.stdout}{done.stderr}\nand the page says\n{step.text}")
    for name in re.findall(r"!\[[^]]*\]\(([^)]+\.svg)\)", PAGE.read_text("utf-8")):
        made = (tmp_path / "story" / name).read_text("utf-8")
        shown = (DOCS / name).read_text("utf-8")
        assert shown.split("</style>")[1] == made.split("</style>")[1], (
            "the figure is another now: run make diagrams"
        )
    assert (tmp_path / "report.html").stat().st_size
    assert (tmp_path / "trace.json").stat().st_size


def test_every_exit_status_but_success_is_on_the_page():
    """A command that is to fail says so: the page cannot go on behind a failure that nobody expects."""
    steps = steps_of(PAGE.read_text("utf-8"))
    assert len([step for step in steps if step.command == STATUS]) >= 6
    assert SEEDS[0] in PAGE.read_text("utf-8")


def test_what_the_page_says_is_compared():
    shown = pattern("it holds (1,234 states, ...)\n  byte 4096\n...\n  last 7\n")
    assert shown.fullmatch("it holds (99 states, 5/s)\n  byte 8192\n  more\n  last 7\n")
    assert not shown.fullmatch("it holds (99 states, 5/s)\n  byte 8192\n  more\n  last 8\n")
    assert not shown.fullmatch("it breaks (99 states, 5/s)\n  byte 8192\n  more\n  last 7\n")
    assert not shown.fullmatch("it holds (99 states, 5/s)\n  byte 8192\n  more\n  last 7\nand more\n")
    assert pattern("row  0  1,234  2.3 ms  1\n").fullmatch("row   12      0   1 s  2\n")
