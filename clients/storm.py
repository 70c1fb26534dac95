"""The storm: takes memory away and gives it back as fast as it can, while others come back as fast as they can.

    revoke     the exporter of a buffer revokes it for a time and restores it, each of them twice in a row, round after round; at the end for good
    truncate   a file is truncated, grown again and registered, round after round
    import     imports a buffer, or registers a file, again and again until it is closed for good, or told to stop

Nothing of it may hang, and a second revoke, or restore, changes nothing: both are answered with success.
"""

from __future__ import annotations

import errno
from collections import Counter
from typing import TYPE_CHECKING, Any

from emu.clients.links import REMOTE
from emu.clients.observer import Observer

from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.clients.talk import Command

PASSING = frozenset({errno.EBUSY, errno.EINVAL})  # being taken back, or shorter than wanted, just now


class Storm(Observer):
    """One context; each command answers with what happened, counted."""

    name = "storm"

    def do_revoke(self, *, buffer: str, rounds: int, permanent: bool = True, **_: Any) -> Command:
        """Of a buffer of its own (`export`). permanent: for good at the end."""
        held = self.exported[buffer]
        for _round in range(rounds):
            for _twice in range(2):
                held.revoke(permanent=False)
            for _twice in range(2):
                held.restore()
        for _twice in range(2 if permanent else 0):
            held.revoke()
        return {"rounds": rounds, "state": held.stat()["state"]}

    def do_move(self, *, buffer: str, rounds: int, **_: Any) -> Command:
        for _round in range(rounds):
            self.exported[buffer].move()
        return {"rounds": rounds}

    def do_truncate(self, *, path: str, size: int, rounds: int, **_: Any) -> Command:
        """Truncated, grown, registered, written by the CPU, and let go of."""
        pd, counts = PD(self.ctx), Counter[str]()
        for _round in range(rounds):
            self.ctx.fs.truncate(path, 0)
            self.ctx.fs.truncate(path, size)
            counts[self._registered(pd, size, {"file": path})] += 1
        pd.close()
        return {"rounds": rounds, "registered": counts}

    def do_import(self, *, size: int, rounds: int, where: Mapping[str, Any], **_: Any) -> Command:
        """where: as of MR. Until `rounds` have succeeded, or the buffer is closed for good."""
        pd, counts = PD(self.ctx), Counter[str]()
        while counts["ok"] < rounds and not counts["ENODEV"] and not counts["ENOENT"]:
            counts[self._registered(pd, size, where)] += 1
        pd.close()
        return {"registered": counts}

    def _registered(self, pd: PD, size: int, where: Mapping[str, Any]) -> str:
        """One registration and its end: ok, or the errno's name."""
        try:
            with MR(pd, size, REMOTE, **where) as mr:
                mr.handle  # noqa: B018 - refuses one that is gone
        except PyverbsRDMAError as error:
            name = errno.errorcode[error.errno]
            if error.errno in PASSING or name in {"ENODEV", "ENOENT"}:
                return name
            raise
        return "ok"


if __name__ == "__main__":
    Storm().main()
