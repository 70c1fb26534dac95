"""A process that has loaded everything a run's processes need, and forks them: an interpreter's start costs more than most runs do.

    lab  <-- SOCK_SEQPACKET -->  python -m emu.lab.nursery FD MODULE ...
         {"run": "emu.clients.peer", "argv": [...], "keep": 0} + descriptors: its stdin, stdout, stderr, and `keep` more
         {"pid": 1234}                                            answer, in the order of the requests
         {"ended": 1234, "code": -9}                              unasked, as waitpid says it

Each child is a process, session and address space of its own, as if it had been started by `python -m MODULE`: the fork is done with no thread and no
context alive, and in `argv` "{0}", "{1}" stand for the further descriptors. The nursery ends when the lab's end of the socket does, and its
children by their own ways of noticing that (end of stdin, lifeline).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any, NoReturn

Json = dict[str, Any]

MESSAGE, DESCRIPTORS = 1 << 16, 16


def main(number: int, modules: list[str]) -> None:
    """Serve the socket `number` until it is closed."""
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # what is loaded stays shared
    heard, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the lab's to deal with
    with socket.socket(fileno=number) as lab:
        while _turn(lab, heard):
            pass


def _turn(lab: socket.socket, heard: int) -> bool:
    """One wait; False when the lab has gone."""
    ready = select.select([lab.fileno(), heard], [], [])[0]
    if heard in ready:
        os.read(heard, 4096)
        _report(lab)
    if lab.fileno() not in ready:
        return True
    raw, descriptors, _, _ = socket.recv_fds(lab, MESSAGE, DESCRIPTORS)
    if not raw:
        return False
    pid = os.fork()
    if pid == 0:
        lab.close()  # or the lab would wait for the last child to know that the nursery is gone
        os.close(heard)
        _be(json.loads(raw), descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return _say(lab, {"pid": pid})


def _report(lab: socket.socket) -> None:
    """Everybody who has ended."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        _say(lab, {"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def _say(lab: socket.socket, message: Json) -> bool:
    try:
        lab.send(json.dumps(message).encode())
    except OSError:
        return False
    return True


def _be(order: Json, descriptors: list[int]) -> NoReturn:
    """The child: what `python -m MODULE` would be. Never returns into the nursery."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
        further = descriptors[3:]
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        sys.argv = [order["run"], *(word.format(*further) for word in order["argv"])]
        code = _run(order["run"])
    except BaseException:  # noqa: BLE001 - whatever it is: into the log, and out
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _run(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
