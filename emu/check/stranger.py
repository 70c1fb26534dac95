"""A protocol from a file that somebody hands us: loaded with suspicion, and never the end of the tool.

    try_out("mine.py") -> Protocol            first in a process of its own, which may hang, die, or eat memory (trial.py), then here
    load_protocol("mine.py") -> Protocol      here; for processes that are started behind a trial

    introduced("mine.py") -> Stranger         tried out, for a broker to serve (emu.protocols.registry)

They give the file's `PROTOCOL`, checked against the contract; else they raise Unusable, which names file, problem and way out. The file is
run as a module of its own: it is the user's program, and is trusted as such. What it prints goes to stderr.

A protocol that does not end is one that uses up its processor time, which a busy machine gives it later, and never more of. A trial that takes
for ever without that could not be tried: nobody is accused.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, cast

from emu.check.honest import Honest
from emu.core.decision import CONTRACT
from emu.core.errors import printable
from emu.protocols.contract import Malformed, Protocol, check
from emu.protocols.registry import Stranger

NAME = "emu_stranger"
PROCESSOR: Final = 10  # seconds of processor time for a trial: loading takes a tenth of one
PATIENCE: Final = 300.0  # seconds by the clock, which accuse nobody
USAGE, BREACH = 64, 1


class Unusable(ValueError):
    """A file that holds no protocol; the sentence says why, and what to do. `code`: the exit status that says so, 1 if it broke a rule."""

    def __init__(self, sentence: str, rule: str = "") -> None:
        super().__init__(f"{CONTRACT}{rule}: {sentence}" if rule else sentence)
        self.rule, self.code = rule, BREACH if rule else USAGE


def load_protocol(name: str | Path) -> Protocol:
    """The protocol of this file. Raises Unusable."""
    path = Path(name)
    found = _run(path, _source(path)).get("PROTOCOL")
    if found is None:
        raise Unusable(f"{path}: there is no PROTOCOL in it: end the file with PROTOCOL = Protocol(...)")
    if not isinstance(found, Protocol):
        raise Unusable(
            f"{path}: PROTOCOL is a {type(found).__name__}: it must be an emu.protocols.contract.Protocol"
        )
    try:
        return check(found)
    except Malformed as error:
        raise Unusable(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - a stranger's objects may raise anything; it is told
        raise Unusable(
            f"{path}: PROTOCOL cannot be read ({type(error).__name__}: {_words(error)}): its table is {{(phase, event): go(...)}}"
        ) from None


def _source(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror}: name a file that can be read") from None
    except UnicodeDecodeError as error:
        raise Unusable(f"{path}: no UTF-8 text ({error.reason}): name a Python file") from None


def _run(path: Path, source: str) -> dict[str, Any]:
    """The names that the file leaves."""
    module = type(sys)(NAME)
    module.__file__ = str(path)
    sys.modules[NAME] = module  # dataclasses look their module up
    try:
        with contextlib.redirect_stdout(sys.stderr):
            exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - that is what it is for
    except SyntaxError as error:
        raise Unusable(f"{path}:{error.lineno}: {error.msg}: it is no Python that can be read") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may even call exit()
        raise Unusable(
            f"{path}: it raised {type(error).__name__} while it was loaded: {_words(error)}: run it with Python to see where",
            "no-raise",
        ) from None
    return module.__dict__


def _words(error: BaseException) -> str:
    try:
        return printable(str(error)[:300])
    except Exception:  # noqa: BLE001 - its words may raise as well
        return "(it cannot be printed)"


# ---- the trial


def try_out(name: str | Path) -> Protocol:
    """As load_protocol, behind a trial."""
    path = Path(name)
    _source(path)
    command = [sys.executable, "-P", "-m", "emu.check.trial", str(path), str(PROCESSOR)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise Unusable(
            f"{path}: it could not be tried: {_last(error.stdout)} did not end within {PATIENCE:g} s, in which it had less than {PROCESSOR} s of a"
            " processor: it waits for something, which a protocol never does, or this machine is too busy; try again"
        ) from None
    said = _last(done.stdout)
    if said != DONE:
        raise _failed(path, said, done.returncode)
    return load_protocol(path)


def introduced(name: str | Path) -> Stranger:
    """Tried out, and ready to serve a broker: it is asked twice, and not waited for without end."""
    path = Path(name)
    protocol = try_out(path)
    return Stranger(cast("Protocol", Honest(protocol, bounded=True)), str(path.resolve()), _source(path))


DONE: Final = "done"
MEMORY: Final = "memory"  # the trial's last words when its limit was reached
RAISED: Final = "raised "


def _failed(path: Path, said: str, code: int) -> Unusable:
    if said.startswith(MEMORY):
        return Unusable(
            f"{path}: {said.removeprefix(MEMORY).strip()} took all the memory that it was given", "bounded"
        )
    if code == -signal.SIGXCPU:
        return Unusable(
            f"{path}: {said} did not end within {PROCESSOR} s of processor time: a protocol is a table, it decides at once",
            "bounded",
        )
    if said.startswith(RAISED):
        return Unusable(
            f"{path}: it raised {said.removeprefix(RAISED)} while it was loaded: run it with Python to see where",
            "no-raise",
        )
    how = f"signal {-code}" if code < 0 else f"exit status {code}"
    return Unusable(
        f"{path}: {said} ended the process it ran in ({how}): a protocol answers, and does nothing else",
        "no-raise",
    )


def _last(said: bytes | None) -> str:
    """The trial's last whole line: what it was about to do."""
    lines = (said or b"").decode("utf-8", "replace").splitlines()
    return lines[-1] if lines else "loading it"
