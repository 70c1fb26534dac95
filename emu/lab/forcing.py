"""From model to metal: a script of the explorer or the simulator, step by step on a live broker, by hold points.

The script is replayed in the model first; its tape says what each label does: which request, which effects, which quantum. Then real sessions
ask, a real engine thread moves real bytes under a real queue pair, and everybody stops where the script says that somebody else goes next:

    shell      the loop is held before and after each effect (before-effect, after-effect) and let go one effect at a time
    engine     a thread is held before a quantum looks at its keys (quantum-next), and in the middle of one, still inside (quantum-half)

What cannot be held back: an answer of the engine comes when it comes (a quiesce waits for the held quantum, as it must), a timer fires when it
is due, and one operation is held at a time. A script that wants it otherwise diverges: Diverged names the step and what happened instead.
Before-commit effects happen with their request here, so such a request is sent when the script carries them out: nobody can tell the difference.

The actors are sessions of this process (a crash is a hang-up); the broker is a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from emu.check.model.world import World
from emu.clients.links import connect, open_node, queue_pair
from emu.core import effects as do
from emu.core import events, requests
from emu.core.rows import BLOCK
from emu.history.journal import Journal
from emu.history.manifest import write_manifest
from emu.history.runs import META, latest_run, read_meta
from emu.history.stamp import Cell, cells_in_free, fill, foreign_cells
from emu.host.times import patience
from emu.lab.node import Broker
from emu.lab.process import LabError
from emu.protocols.contract import declaration
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.wr import SGE, SendWR
from emu.wire.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.check.model.setup import Setup
    from emu.protocols.contract import Protocol
    from emu.verbs.device import Context
    from emu.verbs.qp import QP
    from emu.wire.client import Pending

Json = dict[str, Any]
Fact = tuple[Any, ...]

NAMES = {kind: name for name, kind in requests.REQUESTS.items()}
LATE = 10.0  # seconds for what must come


class Diverged(LabError):
    """The live broker went another way, or the step cannot be forced; the sentence says which step and why."""


@dataclass
class Step:
    label: str
    facts: list[Fact]
    prepares: bool = False  # it asks, and the first effect of that, in a later step, is a before-commit one


@dataclass
class Actor:
    """A session, what it has asked, and the queue pair at which its peer's end."""

    context: Context
    pd: PD | None = None
    qp: QP | None = None
    cq: CQ | None = None


@dataclass
class Peer:
    context: Context
    cq: CQ
    qp: QP
    mr: MR
    journal: Journal
    posted: int = 0


@dataclass
class Forced:
    """What came of it: `corrupted`, bytes of the device as they lay there at the last step, whose they are not."""

    steps: int
    folder: Path
    corrupted: Json | None
    filemap: Json = field(default_factory=dict)


def plan(protocol: Protocol, setup: Setup, labels: tuple[str, ...]) -> tuple[list[Fact], list[Step]]:
    """The script in the model: facts of the beginning, then of each step. Raises Diverged when the model cannot go there."""
    world = World(protocol, setup, direct=True)
    tape: list[Fact] = []
    world.tape = tape
    state = world.start()
    beginning, steps = list(tape), []
    for at, label in enumerate(labels, 1):
        tape.clear()
        choices = {choice.label: choice for choice in world.choices(state)}
        if label not in choices:
            raise Diverged(
                f"step {at}, {label!r}, cannot happen there; what can: {', '.join(choices) or 'nothing'}"
            )
        state = world.take(choices[label]).state
        steps.append(Step(label, list(tape)))
    following: do.Effect | None = None
    for step in reversed(steps):
        effects = [fact[1] for fact in step.facts if fact[0] == "effect"]
        asks = any(fact[0] == "event" for fact in step.facts)
        step.prepares = asks and not effects and following is not None and following.before_commit
        following = effects[0] if effects else following
    return beginning, steps


class Stage:
    """A live broker under the script's hand."""

    def __init__(self, directory: Path, setup: Setup, journals: Path) -> None:
        self.directory, self.setup, self.journals = directory, setup, journals
        self.admin = open_node(str(directory), "stage")
        self.actors: dict[int, Actor] = {}
        self.peers: dict[int, Peer] = {}
        self.open: dict[tuple[int, int], Pending] = {}  # (session, request) as the model numbers them
        self.names: dict[tuple[str, int], int] = {}  # (kind, the model's handle) -> the live one
        self.layouts: dict[int, Json] = {}
        self.later: Fact | None = None
        self.engine_held = ""

    # ---- holds

    def arm(self, point: str, key: int = 0) -> None:
        self.admin.session.call("hold_arm", point=point, key=key)

    def release(self, point: str) -> None:
        self.admin.session.call("hold_release", point=point)

    def met(self, point: str) -> Json:
        """Wait until somebody is held there."""
        pending = self.admin.session.start("hold_wait", point=point)
        try:
            return dict(pending.result(patience(LATE)).result)
        except WireError as error:
            raise Diverged(f"nobody came to {point}: {error}") from None

    def stop_the_shell(self) -> None:
        """From here on it carries out one effect at a time."""
        self.arm("before-effect")

    def effect(self, name: str) -> None:
        """The next effect is this one; it is carried out, and the shell stands before the next, or waits for an event."""
        found = self.met("before-effect")["effect"]
        if found != name:
            raise Diverged(f"the shell is about to carry out {found}, and the script says {name}")
        self.arm("after-effect")
        self.release("before-effect")
        self.met("after-effect")
        self.arm("before-effect")
        self.release("after-effect")

    def close(self) -> None:
        """Everybody leaves."""
        for peer in self.peers.values():
            peer.journal.close()
            peer.context.close()
        for actor in self.actors.values():
            actor.context.close()
        self.admin.close()

    def let_go(self) -> None:
        for point in ("before-effect", "after-effect", "quantum-next", "quantum-half"):
            self.release(point)

    # ---- facts of the model, done for real

    def begin(self, facts: list[Fact]) -> None:
        """The beginning, without any hold. A queue pair for each holder and its peer goes with it."""
        for fact in facts:
            if fact[0] == "event":
                self.event(fact[1])
            elif fact[0] == "effect" and isinstance(fact[1], do.Reply | do.Fail):
                self.answered(fact[1])
        for session, actor in sorted(self.actors.items()):
            if actor.pd is not None:
                self._peer_of(session, actor)

    def _peer_of(self, session: int, actor: Actor) -> None:
        context = open_node(str(self.directory), f"peer{session}")
        pd, cq = PD(context), CQ(context, 64)
        size = self.setup.size
        memory = MR(pd, size, e.IBV_ACCESS_LOCAL_WRITE)
        qp = queue_pair(pd, cq, 16)
        actor.cq = CQ(actor.context, 64)
        actor.qp = queue_pair(actor.pd, actor.cq, 4)
        connect(qp, actor.qp.qp_num)
        connect(actor.qp, qp.qp_num)
        journal = Journal(self.journals / f"peer{session}.jrnl", f"peer{session}", 1024)
        self.peers[session] = Peer(context, cq, qp, memory, journal)

    def event(self, event: events.Event) -> None:
        if isinstance(event, events.SessionOpened):
            self.actors[event.session] = Actor(open_node(str(self.directory), event.name, events=event.wants))
        elif isinstance(event, events.SessionLost):
            self.actors.pop(event.session).context.session.abandon()
        elif isinstance(event, events.Requested):
            self.ask(event)

    def ask(self, event: events.Requested) -> None:
        actor = self.actors[event.session]
        if isinstance(event.op, requests.AllocPd):
            actor.pd = PD(actor.context)
            return
        values = asdict(event.op)
        if isinstance(event.op, requests.RegMr):
            values["pd"] = actor.pd.handle if actor.pd else 0
        elif isinstance(event.op, requests.DeregMr | requests.Acknowledge):
            values["handle"] = self.names["mr", event.op.handle]
        elif isinstance(event.op, requests.Cancel):
            values["request"] = self.open[event.session, event.op.request].request
        self.open[event.session, event.request] = actor.context.session.start(NAMES[type(event.op)], **values)

    def answered(self, effect: do.Reply | do.Fail) -> None:
        """The client has its answer, and it is the model's."""
        pending = self.open.pop((effect.session, effect.request), None)
        if pending is None:
            return
        try:
            result: Json = dict(pending.result(patience(LATE)).result)
            number = 0
        except WireError as error:  # refused, or nothing came
            number, result = error.errno, {"error": str(error)}
        wanted = effect.errno if isinstance(effect, do.Fail) else 0
        if number != wanted:
            raise Diverged(
                f"request {effect.request} of session {effect.session} was answered with errno {number}, not {wanted}: {result}"
            )
        if isinstance(effect, do.Reply) and "lkey" in effect.result:
            self.names["mr", effect.result["handle"]] = result["handle"]
            self.layouts[result["handle"]] = result

    # ---- the engine

    def post(self, peer: int, op: Any) -> None:
        who = self.peers[peer + 1]
        if self.engine_held:
            raise Diverged("one operation is held at a time, and another is under way")
        key = self.names["mr", op.key]
        who.posted += 1
        size = self.layouts[key]["length"]
        who.mr.write(
            stamps(peer + 1, self.layouts[key]["ino"], who.posted, self.layouts[key]["layout"], size), size
        )
        self.arm("quantum-next", key)
        sge = SGE(who.mr.iova, size, who.mr.lkey)
        request = SendWR(
            wr_id=who.posted, opcode=e.IBV_WR_RDMA_WRITE, sg=[sge], num_sge=1, send_flags=e.IBV_SEND_SIGNALED
        )
        request.set_wr_rdma(key, 0)
        about = self.layouts[key]
        who.journal.posted(
            who.qp.qp_num,
            who.posted,
            int(request.opcode),
            key=key,
            length=size,
            ino=about["ino"],
            layout=about["layout"],
        )
        who.qp.post_send(request)
        self.met("quantum-next")
        self.engine_held = "quantum-next"

    def enter(self, op: Any) -> None:
        self.arm("quantum-half", self.names["mr", op.key])
        self.release("quantum-next")
        self.met("quantum-half")
        self.engine_held = "quantum-half"

    def leave(self, op: Any, more: bool) -> None:
        if more:
            self.arm("quantum-next", self.names["mr", op.key])
        self.release("quantum-half")
        self.engine_held = ""
        if more:
            self.met("quantum-next")
            self.engine_held = "quantum-next"

    def completed(self, peer: int, status: str) -> None:
        if self.engine_held:  # cut before its next quantum
            self.release(self.engine_held)
            self.engine_held = ""
        who = self.peers[peer + 1]
        who.cq.wait(patience(LATE))
        found = who.cq.poll(1)[1]
        if not found:
            raise Diverged(f"the WRITE of peer{peer + 1} does not complete")
        who.journal.polled(who.qp.qp_num, found[0].wr_id, int(found[0].status))
        good = found[0].status == 0
        if good != (status == "SUCCESS"):
            raise Diverged(
                f"the WRITE of peer{peer + 1} ended with status {found[0].status}, and the script says {status}"
            )

    # ---- steps

    def step(self, step: Step) -> None:
        if any(fact[0] == "restart" for fact in step.facts) or step.label.startswith(
            ("fault:", "network:", "crash: broker")
        ):
            raise Diverged("faults of the hardware, of the network and of the broker itself cannot be forced")
        for fact in step.facts:
            kind = fact[0]
            if kind == "event" and step.prepares:
                self.later = fact
            elif kind == "event":
                self.event(fact[1])
            elif kind == "effect":
                self._effect(fact[1])
            elif kind == "posted":
                self.post(fact[1], fact[2])
            elif kind == "enter":
                self.enter(fact[2])
            elif kind == "leave":
                self.leave(fact[2], fact[2].quantum + 1 < fact[2].quanta)
            elif kind == "completed":
                self.completed(fact[1], fact[3])

    def _effect(self, effect: do.Effect) -> None:
        if effect.before_commit:
            if self.later is not None:
                self.event(self.later[1])
                self.later = None
            return
        self.effect(type(effect).__name__)
        if isinstance(effect, do.Reply | do.Fail):
            self.answered(effect)


def stamps(writer: int, ino: int, work: int, layout: int, size: int) -> bytes:
    raw = bytearray(size)
    fill(raw, Cell(writer, ino, work, layout, 1, 0))
    return bytes(raw)


async def force(
    protocol: Protocol,
    setup: Setup,
    labels: tuple[str, ...],
    folder: Path,
    told: Callable[[str], None],
    options: tuple[str, ...] = (),
) -> Forced:
    """Carry the script out on a fresh broker; evidence in `folder`. Raises Diverged, LabError."""
    if setup.fabric:
        raise Diverged("a script through the network cannot be forced on one node")
    beginning, steps = plan(protocol, setup, labels)
    (folder / "logs").mkdir(parents=True)
    broker = await Broker.start(protocol.name, folder, (f"--quantum={BLOCK}", *options), setup.blocks * BLOCK)
    try:
        forced = await asyncio.to_thread(_carry_out, broker, setup, beginning, steps, folder, told)
    finally:
        await broker.stop()
    _collect(folder)
    return forced


def _carry_out(
    broker: Broker,
    setup: Setup,
    beginning: list[Fact],
    steps: list[Step],
    folder: Path,
    told: Callable[[str], None],
) -> Forced:
    (folder / "journals").mkdir()
    stage = Stage(broker.directory, setup, folder / "journals")
    stage.begin(beginning)
    stage.stop_the_shell()
    for at, step in enumerate(steps, 1):
        told(f"[{at}/{len(steps)}] {step.label}")
        try:
            stage.step(step)
        except Diverged as error:
            stage.let_go()
            raise Diverged(f"step {at}, {step.label!r}: {error}") from None
    image = broker.image.read_bytes()  # as it lies there now
    (folder / "pm0.img").write_bytes(image)
    stage.let_go()
    filemap = _survey(stage)
    stage.close()
    return Forced(len(steps), folder, _corrupted(image, filemap), filemap)


def _survey(stage: Stage) -> Json:
    """Whose the blocks are."""
    files = []
    for row in stage.admin.fs.ls()["files"]:
        stat = stage.admin.fs.stat(row["path"])
        files.append(
            {
                "path": stat["path"],
                "ino": stat["ino"],
                "size": stat["size"],
                "extents": [list(x) for x in stat["extents"]],
            }
        )
    return {
        "schema": 1,
        "block": BLOCK,
        "device": "pm0",
        "image": "pm0.img",
        "namespace": 1,
        "replaced": False,
        "files": files,
    }


def _corrupted(image: bytes, filemap: Json) -> Json | None:
    """The first stamped cell that lies in a block which is not its file's any more."""
    foreign = sorted(
        [*foreign_cells(image, filemap), *cells_in_free(image, filemap)], key=lambda found: found.position
    )
    if not foreign:
        return None
    first = foreign[0]
    return {
        "device": "pm0", "byte": first.position, "block": first.position // BLOCK, "owner": first.path or "nobody: the block is free",
        "bytes": 64 * len(foreign), "written_for": {"ino": first.cell.ino, "offset": first.cell.offset, "writer": first.cell.writer},
    }  # fmt: skip


def _collect(folder: Path) -> None:
    """The broker's run beside the rest."""
    run = latest_run(folder / "history")
    for path in run.iterdir():
        path.rename(folder / path.name)
    shutil.rmtree(folder / "history")


def evidence(forced: Forced, protocol: Protocol, script: Json) -> None:
    """What else belongs into the folder, and the manifest behind it."""
    folder = forced.folder
    write = {
        "filemap.json": forced.filemap,
        "script.json": script,
        "forced.json": {"schema": 1, "steps": forced.steps, "corrupted": forced.corrupted},
    }
    for name, content in write.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    more = {"whole": True, "made_by": "emu force", "declared": declaration(protocol)}
    (folder / META).write_text(json.dumps({**read_meta(folder), **more}, indent=1) + "\n", "utf-8")
    write_manifest(folder)
