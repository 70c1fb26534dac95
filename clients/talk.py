"""How the lab and its processes speak: one JSON object a line, commands on stdin, answers and notes on stdout.

    lab -> client   {"id": 3, "do": "advance", ...}
    client -> lab   {"id": 3, ...}                              done
                    {"id": 3, "errno": "EBUSY", "error": ...}   refused
                    {"note": "revoked", ...}                    unasked

A thread reads stdin, so that its end is noticed whatever the client is doing: when the lab goes, the client goes, at once (its
journal is a mapped file and survives). `wake` is readable while commands wait, for clients that wait for other things too.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import select
import sys
import threading
import traceback
from typing import Any, NoReturn

Command = dict[str, Any]


class Talk:
    """The client's end of the conversation."""

    def __init__(self) -> None:
        self.wake = os.eventfd(0, os.EFD_SEMAPHORE | os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._said = threading.Lock()
        threading.Thread(target=self._listen, name="lab", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin:
            self._commands.put(json.loads(line))
            os.eventfd_write(self.wake, 1)
        os._exit(0)

    def hear(self, timeout: float | None = None) -> Command | None:
        """The next command; None after `timeout` seconds (None: wait for it)."""
        if not select.select([self.wake], [], [], timeout)[0]:
            return None
        os.eventfd_read(self.wake)
        return self._commands.get()

    def waiting(self) -> bool:
        """Whether a command is there; costs next to nothing."""
        return not self._commands.empty()

    def say(self, **fields: Any) -> None:
        with self._said:
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    def note(self, name: str, **fields: Any) -> None:
        """Tell the lab something that it did not ask for."""
        self.say(note=name, **fields)


class Client:
    """Answers each command NAME with what its method `do_NAME` returns. A method that returns None answers later, by `say`."""

    def __init__(self) -> None:
        self.talk = Talk()
        self.running = True

    def main(self) -> NoReturn:
        """Serve until told to quit. Ends without the interpreter's own ending, which would wait for a broker that may be gone."""
        code = 0
        try:
            self.serve()
        except BaseException:  # noqa: BLE001 - whatever it is: into the log, and out
            traceback.print_exc()
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code)

    def serve(self) -> None:
        self.talk.note("loaded")
        while self.running:
            self.step()

    def step(self) -> None:
        """One turn; clients with work of their own do that here too."""
        command = self.talk.hear()
        if command is not None:
            self.obey(command)

    def obey(self, command: Command) -> None:
        number, name = command.pop("id"), command.pop("do")
        try:
            answer = getattr(self, f"do_{name}")(number=number, **command)
        except Exception as error:
            code = getattr(error, "errno", None) or errno.EIO
            self.talk.say(id=number, errno=errno.errorcode.get(code, str(code)), error=str(error))
            if not hasattr(error, "errno"):
                raise
            return
        if answer is not None:
            self.talk.say(id=number, **answer)

    def do_quit(self, **_: Any) -> Command:
        self.running = False
        self.close()
        return {}

    def do_enough(self, **_: Any) -> Command:
        """Read while a request is refused and asked again (asks.py); nothing else comes of it."""
        return {}

    def close(self) -> None:
        """Give back what is open, before the last answer."""
