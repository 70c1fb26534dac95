"""The holder: registers the memory, gives the key away, and behaves as its manner says when the memory is wanted back (manners.py).

It also holds a bystander: other memory with an MR and a queue pair of its own, which no reclaim of this run concerns. What a registration needs
first under the mount's protocol (a lease, a mark) it gets, by itself; a notice is an event of the device, or SIGIO.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from emu.clients.asks import asked, stamped, write_stamped
from emu.clients.heir import hand_over
from emu.clients.links import REMOTE, TARGET_BYTES, U32, Target, connect, open_node, pack_target, queue_pair
from emu.clients.manners import Deed, Manners
from emu.clients.talk import Client, Command

from emu.engine import ring
from emu.history.journal import Journal
from emu.host.times import scaled
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError, PyverbsRDMAError
from emu.verbs.wr import SGE, SendWR

QPS = ("write", "read", "bystander", "spare")
NOTICES = ("MR_REVOKING", "MR_REVOKED")  # and every recall, whatever it is called
READ_ONLY = e.IBV_ACCESS_REMOTE_READ
SIGIO_SEEN = 1  # code of the journal's mark of a signal
TRIES, PAUSE = 25, 0.02  # of one who comes back at once, while the gate is closed


class Holder(Client):
    """One context, two MRs, the passive ends of four queue pairs."""

    over = False  # no event will come any more

    def __init__(self) -> None:
        self._heard, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        super().__init__()

    def do_start(
        self, *, node: str, journal: str, manner: str, writer: int, files: Command, mount: str, access: str = "rw",
        first: tuple[str, ...] = (), awaits_peer: bool = False, **_: Any,
    ) -> Command:  # fmt: skip
        """files: victim, bystander, spare, each {kind, path, size, length, offset}. mount: whose protocol says what a registration needs.
        awaits_peer: the peer hears of a recall too, and says when it is done.
        """
        self.manners, self.writer = Manners(manner, awaits_peer=awaits_peer), writer
        self.files, self.access, self.mount = files, access, mount
        self._mind_signals(manner)
        self.journal = Journal(journal, "holder")
        self.ctx = open_node(node, "holder", events=True)
        self.needs = str(self.ctx.call("protocol", mount=mount, name="").result.get("needs", ""))
        self.ready: set[str] = set()  # paths for which what is needed is there
        self.pd, self.victim = PD(self.ctx), None
        self.cq = CQ(self.ctx, 64)
        self._make_files(first)
        self.note_memory = MR(self.pd, 4096, REMOTE)
        self.qps = {name: queue_pair(self.pd, self.cq, 4) for name in QPS}
        return {"qps": {name: qp.qp_num for name, qp in self.qps.items()}, **self._registered()}

    def _mind_signals(self, manner: str) -> None:
        """A deaf one ignores what can be ignored; the rest are woken."""
        signal.signal(signal.SIGIO, signal.SIG_IGN if manner == "deaf" else lambda *_: None)
        if manner == "blocker":
            signal.signal(signal.SIGBUS, signal.SIG_IGN)

    def _make_files(self, first: tuple[str, ...]) -> None:
        for file in {f["path"]: f for f in self.files.values() if f["kind"] == "file"}.values():
            self.ctx.fs.create(file["path"], file["size"])
        victim = self.files["victim"]
        if "clone" in first:
            write_stamped(self.ctx, victim["path"], 0, victim["size"], self.writer)
            self.ctx.fs.reflink(victim["path"], victim["clone"])

    def _registered(self) -> Command:
        """The bystander, and the victim unless it is refused: that is an outcome, not a failure of the run."""
        refused, known = None, {"ino": 0, "layout": 0, "on_demand": False}
        beside = None
        try:
            self.bystander = self.register("bystander")
            beside = self.target(self.bystander, "bystander")._asdict()
            self.victim = self.register("victim", REMOTE if self.access == "rw" else READ_ONLY)
            known = {
                "ino": self.victim.ino & U32,
                "layout": self.victim.layout,
                "on_demand": self.victim.importer == "dynamic",
            }
        except PyverbsRDMAError as error:
            refused = errno.errorcode.get(error.errno, str(error.errno))
            self._stamp_by_hand()
        victim = self.target(self.victim, "victim")._asdict() if self.victim else None
        return {"victim": victim, "bystander": beside, "refused": refused, "known": known}

    def _stamp_by_hand(self) -> None:
        """No MR stamps the victim: what is to stay of it is compared all the same."""
        victim = self.files["victim"]
        if victim["kind"] == "file":
            write_stamped(self.ctx, victim["path"], 0, victim["size"], self.writer)
        elif victim["kind"] == "host":
            with Path(victim["path"]).open("r+b") as file:
                file.write(stamped(victim["size"], self.writer, 0, 0, 0))

    # ---- registering

    def register(self, name: str, access: int = REMOTE) -> MR:
        """Register the memory and stamp it, so that every cell of it says where it belongs before anybody writes."""
        file = self.files[name]
        self.prepare(file)
        mr = MR(
            self.pd, file["length"], access, offset=file["offset"], **self._where(file), **self._guard(file)
        )
        if access != READ_ONLY:
            self.stamp(mr, file["offset"])
        return mr

    @staticmethod
    def _where(file: Command) -> dict[str, str]:
        words = {"file": "file", "host": "path", "raw": "device", "buffer": "dmabuf"}
        return {words[file["kind"]]: file["path"]} if file["kind"] in words else {}

    @staticmethod
    def _guard(file: Command) -> dict[str, bool]:
        """A file of the host that other programs may want to truncate."""
        return {"guard": True} if file.get("guard") else {}

    def prepare(self, file: Command) -> None:
        """What the protocol wants before a registration."""
        path = file["path"]
        if file["kind"] != "file" or path in self.ready:
            return
        if self.needs == "lease":
            self.ctx.fs.lease(path, "exclusive")
        elif self.needs == "mark":
            self.ctx.fs.mark(path, True)
        self.ready.add(path)

    def release(self, file: Command) -> None:
        """The same given back."""
        path = file["path"]
        if path not in self.ready:
            return
        self.ready.discard(path)
        if self.needs == "lease":
            self.ctx.fs.lease(path, "none")
        elif self.needs == "mark":
            self.ctx.fs.mark(path, False)

    def stamp(self, mr: MR, offset: int) -> None:
        ring.stamp_fill(
            mr.view, writer=self.writer, ino=mr.ino & U32, work_request=0, layout=mr.layout, namespace=1, offset=offset
        )  # fmt: skip

    def target(self, mr: MR, name: str) -> Target:
        start, follows = self.files[name]["offset"], int(mr.importer == "dynamic")
        return Target(mr.rkey, mr.buf, mr.length, mr.ino & U32, mr.layout, start, follows)

    def do_connect(self, *, qps: dict[str, int], **_: Any) -> Command:
        for name, number in qps.items():
            connect(self.qps[name], number)
        return {}

    # ---- living

    def step(self) -> None:
        """Wait for commands, events of the device, signals, and what is due."""
        events = [self.ctx.session.event_fd] if hasattr(self, "ctx") and not self.over else []
        watched = [self.talk.wake, self._heard, *events]
        due = self.manners.due if hasattr(self, "manners") else None
        ready = select.select(watched, [], [], None if due is None else max(0.0, due - time.monotonic()))[0]
        if events and events[0] in ready:
            self.heard_event()
        if self._heard in ready:
            self.heard_signal()
        if due is not None:
            self.carry_out(self.manners.woken(time.monotonic()))
        command = self.talk.hear(0)
        if command is not None:
            self.obey(command)

    def heard_event(self) -> None:
        try:
            event = self.ctx.get_async_event(timeout=0)
        except PyverbsError:  # the device went, and has said so before
            self.over = True
            return
        if event is None:
            return
        event.ack()
        self.journal.event(int(event.event_type), key=event.fields.get("mr", 0))
        name = event.event_type.name.removeprefix("EMU_EVENT_")
        self.talk.note("event", type=name, fields={k: str(v) for k, v in event.fields.items()})
        recall = "RECALL" in name
        if (name in NOTICES or recall) and (recall or event.element is self.victim):
            seconds = scaled(float(event.fields.get("seconds", 0)))
            self.carry_out(self.manners.noticed(time.monotonic(), seconds))

    def heard_signal(self) -> None:
        if signal.SIGIO in os.read(self._heard, 256):
            self.journal.mark(SIGIO_SEEN, signal.SIGIO)
            self.talk.note("signal", number=int(signal.SIGIO))
            self.carry_out(self.manners.noticed(time.monotonic()))

    def do_event(self, **_: Any) -> Command:
        """The lab says that the event is now."""
        self.carry_out(self.manners.told(time.monotonic()))
        return {}

    def do_peer_done(self, **_: Any) -> Command:
        """The peer has said that nothing of it is under way any more."""
        self.carry_out(self.manners.peer_done())
        return {}

    # ---- what manners decide

    def carry_out(self, deed: Deed) -> None:
        """A holder whose device, lease or file has gone meanwhile can do no more about it. Noted before: from then on it is at it."""
        if deed not in {Deed.NOTHING, Deed.DIE}:
            self.talk.note("deed", deed=deed.value)
        try:
            if deed is Deed.DIE:
                self.die()
            elif deed is Deed.LET_GO:
                self.let_go()
            elif deed is Deed.COME_BACK:
                self.come_back()
            elif deed is Deed.ANOTHER:
                self.another()
        except PyverbsError as error:
            self.talk.note("failed", deed=deed.value, error=str(error))

    def die(self) -> NoReturn:
        """At once, by the signal that nobody can do anything about."""
        self.talk.note("dies", t=time.monotonic_ns())
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("SIGKILL was not enough")

    def let_go(self) -> None:
        """Give the memory back, register what is left or other memory, tell the peer."""
        self.give_back()
        self.journal.called(1)
        self.have_again(self.register("spare"), "spare")
        self.journal.returned(1)

    def give_back(self) -> None:
        if self.victim is not None:
            victim, self.victim = self.victim, None
            victim.close()

    def come_back(self) -> None:
        """The same again, at once: tried while the gate is closed, and what is left of it where there is no more."""
        self.give_back()
        for _ in range(TRIES):
            try:
                self.victim = self.register("victim")
            except PyverbsRDMAError as error:
                if error.errno != errno.EBUSY:
                    break
                time.sleep(PAUSE)
            else:
                self.have_again(self.victim, "victim")
                return
        self.have_again(self.register("spare"), "spare")

    def another(self) -> None:
        """One who blocks: renew what is needed, register again, and only then let the older registration go."""
        self.ready.discard(self.files["victim"]["path"])
        newer = self.register("victim")
        self.give_back()
        self.victim = newer

    def have_again(self, mr: MR, name: str) -> None:
        """The peer gets the new key."""
        message = pack_target(self.target(mr, name))
        self.note_memory.write(message, TARGET_BYTES)
        sge = SGE(self.note_memory.buf, TARGET_BYTES, self.note_memory.lkey)
        self.qps["spare"].post_send(SendWR(wr_id=1, opcode=e.IBV_WR_SEND, num_sge=1, sg=[sge]))
        self.again = mr
        self.talk.note("again")

    # ---- what the lab asks for

    def do_status(self, **_: Any) -> Command:
        """What has happened so far, with whatever the broker and the kernel had said before this command. rest_in: seconds until it does more."""
        if not self.over:
            with suppress(PyverbsError):  # the answer is behind every event that was sent before
                self.ctx.call("protocol", mount=self.mount, name="")
        self._catch_up()
        return {"again": hasattr(self, "again"), "rest_in": self.manners.rest_in(time.monotonic())}

    def _catch_up(self) -> None:
        """All that has come, and what it makes due."""
        while not self.over and select.select([self.ctx.session.event_fd], [], [], 0)[0]:
            self.heard_event()
        if select.select([self._heard], [], [], 0)[0]:
            self.heard_signal()
        self.carry_out(self.manners.woken(time.monotonic()))

    def do_hand_over(self, *, to: str, **_: Any) -> Command:
        """The context's descriptor to the heir at `to`. t: it was held until then at least."""
        session, now = self.ctx.session.number, time.monotonic_ns()
        hand_over(self.ctx.door, to, session)
        return {"session": session, "t": now}

    def do_let_go(self, **_: Any) -> Command:
        """Deregister before anybody asks for the memory, or although nobody was told to: a control."""
        self.manners.done, self.manners.due = True, None
        self.give_back()
        with suppress(PyverbsRDMAError):
            self.release(self.files["victim"])
        return {}

    def do_elsewhere(self, **_: Any) -> Command:
        """The same before the peer has any key, and other memory in its place: a control. target: null where that is refused."""
        self.do_let_go()
        try:
            self.other = self.register("elsewhere")
        except PyverbsRDMAError:
            return {"target": None}
        return {"target": self.target(self.other, "elsewhere")._asdict()}

    def do_ask(self, *, ask: Command, retries: int, **_: Any) -> Command:
        """The holder itself wants the memory back from itself."""
        return asked(self.ctx, ask, retries, lambda: self.talk.note("asked"))

    def close(self) -> None:
        self.ctx.close()
        self.journal.close()


if __name__ == "__main__":
    Holder().main()
