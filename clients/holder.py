"""The holder: registers the file, gives the key away, and behaves as its manner says when the memory is wanted back.

    deaf     takes no notice of any event
    prompt   deregisters as soon as it is told, registers what is left (or another file), and sends the new key to its peer

It also holds a bystander: a second file with an MR and a queue pair of its own, which no reclaim of this run concerns.
"""

from __future__ import annotations

import os
import select
from typing import Any

from emu.clients.links import REMOTE, TARGET_BYTES, U32, Target, connect, open_node, pack_target, queue_pair
from emu.clients.talk import Client, Command

from emu.engine import ring
from emu.history.journal import Journal
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.verbs.wr import SGE, SendWR

QPS = ("write", "read", "bystander", "spare")
NOTICES = (e.EMU_EVENT_MR_REVOKING, e.EMU_EVENT_MR_REVOKED)


class Holder(Client):
    """One context, two MRs, the passive ends of four queue pairs."""

    def do_start(
        self, *, node: str, journal: str, manner: str, writer: int, files: Command, **_: Any
    ) -> Command:
        """files: victim, bystander, spare, each {path, host, size, offset}."""
        self.manner, self.writer, self.files = manner, writer, files
        self.journal = Journal(journal, "holder")
        self.ctx = open_node(node, "holder", events=True)
        self.pd = PD(self.ctx)
        self.cq = CQ(self.ctx, 64)
        for file in {f["path"]: f for f in files.values() if not f["host"]}.values():
            if file.get("create", True):
                self.ctx.fs.create(file["path"], file["size"])
        self.note_memory = MR(self.pd, 4096, REMOTE)
        self.qps = {name: queue_pair(self.pd, self.cq, 4) for name in QPS}
        self.bystander = self.register("bystander")
        refused = self.register_victim()
        return {
            "qps": {name: qp.qp_num for name, qp in self.qps.items()},
            "victim": None if refused else self.target(self.victim, "victim")._asdict(),
            "bystander": self.target(self.bystander, "bystander")._asdict(),
            "refused": refused,
            "known": {"ino": 0, "layout": 0}
            if refused
            else {"ino": self.victim.ino & U32, "layout": self.victim.layout},
        }

    def register_victim(self) -> str | None:
        """The errno's name if registration is refused: an outcome, not a failure of the run."""
        try:
            self.victim = self.register("victim")
        except PyverbsRDMAError as error:
            return os.strerror(error.errno)
        return None

    def register(self, name: str) -> MR:
        """Register the file and stamp it, so that every cell of it says where it belongs before anybody writes."""
        file = self.files[name]
        where = {"path" if file["host"] else "file": file["path"]}
        mr = MR(self.pd, file["length"], REMOTE, offset=file["offset"], **where)
        if name != "spare" or file.get("create", True):
            self.stamp(mr, file["offset"])
        return mr

    def stamp(self, mr: MR, offset: int) -> None:
        ring.stamp_fill(
            mr.view, writer=self.writer, ino=mr.ino & U32, work_request=0, layout=mr.layout, namespace=1, offset=offset
        )  # fmt: skip

    def target(self, mr: MR, name: str) -> Target:
        return Target(mr.rkey, mr.buf, mr.length, mr.ino & U32, mr.layout, self.files[name]["offset"])

    def do_connect(self, *, qps: dict[str, int], **_: Any) -> Command:
        for name, number in qps.items():
            connect(self.qps[name], number)
        return {}

    # ---- living

    def step(self) -> None:
        """Wait for commands and for events of the device."""
        watched = [self.talk.wake] + ([self.ctx.session.event_fd] if hasattr(self, "ctx") else [])
        ready = select.select(watched, [], [])[0]
        if len(watched) == 2 and watched[1] in ready:
            self.told()
        command = self.talk.hear(0)
        if command is not None:
            self.obey(command)

    def told(self) -> None:
        event = self.ctx.get_async_event(timeout=0)
        if event is None:
            return
        event.ack()
        self.journal.event(int(event.event_type), key=event.fields.get("mr", 0))
        self.talk.note(
            "event", type=event.event_type.name, fields={k: str(v) for k, v in event.fields.items()}
        )
        if event.event_type in NOTICES and self.manner == "prompt" and event.element is self.victim:
            self.let_go()

    def let_go(self) -> None:
        """The prompt manner: give the memory back, register what is left, tell the peer."""
        self.victim.close()
        self.journal.called(1)
        again = self.register("spare")
        self.journal.returned(1)
        message = pack_target(self.target(again, "spare"))
        self.note_memory.write(message, TARGET_BYTES)
        sge = SGE(self.note_memory.buf, TARGET_BYTES, self.note_memory.lkey)
        self.qps["spare"].post_send(SendWR(wr_id=1, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge]))
        self.again = again
        self.talk.note("again")

    def do_status(self, **_: Any) -> Command:
        """What has happened so far; events that came before this command have been dealt with."""
        return {"again": hasattr(self, "again")}

    def do_let_go(self, **_: Any) -> Command:
        """The control without a pin: deregister before anybody asks for the memory."""
        self.victim.close()
        return {}

    def close(self) -> None:
        self.ctx.close()
        self.journal.close()


if __name__ == "__main__":
    Holder().main()
