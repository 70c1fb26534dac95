"""README's program is a test: it must run as it stands, from a fresh process, and stay short."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "clients" / "first_steps.py"


def test_the_program_in_the_readme_gets_the_error_code():
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == (
        "before: IBV_WC_SUCCESS\nafter:  IBV_WC_REM_ACCESS_ERR\n",
        "",
        0,
    )


def test_where_its_writer_cannot_start_it_ends_with_an_error():
    """From stdin there is no file that a spawned child could load."""
    done = subprocess.run(
        [sys.executable, "-"],
        input=PROGRAM.read_text(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("", 1)
    assert done.stderr.strip().endswith("EOFError")


def test_it_is_installed_and_short():
    assert find_spec("emu.clients.first_steps") is not None
    code = [line for line in PROGRAM.read_text().splitlines() if line.strip()]
    assert len([line for line in code if not line.startswith(("import", "from", '"""'))]) <= 31


def test_the_readme_shows_it_as_it_is():
    program = PROGRAM.read_text().split('"""', 2)[2].strip()
    assert program in (PROGRAM.parents[1] / "README.md").read_text()
