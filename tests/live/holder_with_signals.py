"""A holder of a leased file in a process of its own, for tests of signals. It says what it does, a word a line:

python holder_with_signals.py NODE PATH MANNER [HEIR]

ready   it holds an MR over the whole file, under a lease
MANNER  naive: no provision for signals. ignores: SIGIO and SIGBUS are nothing to it. prompt: lets go at SIGIO. late: at SIGBUS
HEIR    the socket of an heir: it gets the context's descriptor before `ready` is said
"""

from __future__ import annotations

import os
import signal
import sys

from emu.clients.heir import hand_over

from emu.verbs import enums as e
from emu.verbs.breaks import Breaks
from emu.verbs.device import Context
from emu.verbs.mr import MR
from emu.verbs.pd import PD

ACCESS = int(e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ)


def main(node: str, path: str, manner: str, heir: str = "") -> None:
    if manner == "ignores":
        signal.signal(signal.SIGIO, signal.SIG_IGN)
        signal.signal(signal.SIGBUS, signal.SIG_IGN)
    breaks = Breaks() if manner in {"prompt", "late"} else None
    ctx = Context(dir=node, label=manner)
    if ctx.fs.needs("/mnt") == "lease":
        ctx.fs.lease(path, "exclusive")
    mr = MR(PD(ctx), ctx.fs.stat(path)["size"], ACCESS, file=path)
    if heir:
        hand_over(ctx.door, heir, ctx.session.number)
    print("ready", flush=True)
    while breaks is not None:
        number = breaks.wait(60)
        print(number.name if number else "nothing", flush=True)
        if number == (signal.SIGIO if manner == "prompt" else signal.SIGBUS):
            mr.close()
            print("let go", flush=True)
            break
    sys.stdin.read()  # to the end of the test, or of this process
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
