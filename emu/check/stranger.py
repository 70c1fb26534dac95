"""A protocol from a file that somebody hands us: loaded with suspicion, and never the end of the tool.

    load_protocol("mine.py") -> Protocol      its `PROTOCOL`, checked against the contract; else Unusable, which names file, problem, way out

The file is run as a module of its own: it is the user's program, and is trusted as such. What it prints goes where our output goes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from emu.protocols.contract import Malformed, Protocol, check

NAME = "emu_stranger"


class Unusable(ValueError):
    """A file that holds no protocol; the sentence says why, and what to do."""


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
            f"{path}: PROTOCOL cannot be read ({type(error).__name__}: {error}): its table is {{(phase, event): go(...)}}"
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
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - that is what it is for
    except SyntaxError as error:
        raise Unusable(f"{path}:{error.lineno}: {error.msg}: it is no Python that can be read") from None
    except ValueError as error:  # null bytes
        raise Unusable(f"{path}: {error}: name a Python file") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - it may even call exit()
        raise Unusable(
            f"{path}: it raised {type(error).__name__} while it was loaded: {error}: run it with Python to see where"
        ) from None
    return module.__dict__
