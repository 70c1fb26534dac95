"""From options to a serving broker, and back: directory, lock, journal, engine, core, loop; undone in reverse at the end.

    DIR/lock          flock, held while the broker lives: a second one is refused, and one whose lock was removed still answers at its door;
                      sockets of a dead one are removed under it
    DIR/books.sqlite  durable books (journal.py)     DIR/NAME.img, NAME.gen  devices (memory.py)
    DIR/door, DIR/zmq sockets                        DIR/runs/NUMBER/        this start's history

Recovery: rows -> core.load -> images.agree -> DeviceAdded for each --pmem (the core answers with OpenDevice and the runs that files own) -> MountAdded. MRs and
queue pairs died with the broker, as they do with a device.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from emu.broker import directory, images
from emu.broker.admin import Admin
from emu.broker.effects import Effects
from emu.broker.hostfiles import HostFiles
from emu.broker.invalidation import Invalidations
from emu.broker.journal import Journal
from emu.broker.loop import Loop
from emu.broker.memory import Memory
from emu.broker.reception import Reception
from emu.broker.record import Record
from emu.broker.refusals import Refusals
from emu.broker.sessions import Sessions
from emu.broker.spares import Spares
from emu.broker.steps import Steps
from emu.broker.timers import Timers
from emu.broker.worker import Worker
from emu.core.decision import unserved
from emu.core.errors import CoreError
from emu.core.events import BuffersLost, DeviceAdded, MountAdded, Requested
from emu.core.machine import Core
from emu.core.rows import BLOCK, DMABUF, PSEUDO
from emu.engine.broker import Engine
from emu.history.events import EventsWriter
from emu.history.runs import new_run
from emu.host import files
from emu.host.process import raise_descriptor_limit
from emu.host.times import time_scale
from emu.protocols import registry
from emu.protocols.contract import declaration
from emu.wire import door
from emu.wire.errors import WireError
from emu.wire.router import Router, check_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from emu.broker.options import Options

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
DEFAULT_PROTOCOL = "mr-revoke"
LAST_WORDS_MS = 500  # how long DEVICE_FATAL may take to leave
OPLOG_RECORD = 192
OPLOG_SHARE = (
    4  # the operation log is allocated in full at the start, and is a quarter of what events may take
)


class StartError(Exception):
    """Why no broker came up: an errno and a sentence."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = number


def serve(options: Options, strangers: Sequence[registry.Stranger] = ()) -> None:
    """Run one broker until SIGTERM, SIGINT or the lifeline's end. Raises StartError; everything is undone then.

    strangers: protocols from files, for its mounts to name; their text is kept in the run folder.
    """
    with ExitStack() as stack:
        try:
            broker = _Broker(options, stack, strangers)
        except StartError:
            raise
        except (OSError, WireError, CoreError, registry.UnknownProtocol, ValueError) as error:
            raise _start_error(error) from error
        broker.announce()
        broker.loop.run()
        broker.loop.farewell()


def _start_error(error: Exception) -> StartError:
    number = getattr(error, "errno", None) or errno.EINVAL
    sentence = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.filename:
        sentence = f"{error.filename}: {sentence}"
    return StartError(number, sentence)


class _Broker:
    """What `serve` puts together; the stack ends it in reverse order."""

    def __init__(self, options: Options, stack: ExitStack, strangers: Sequence[registry.Stranger]) -> None:
        self.options, self._stack, self._strangers = options, stack, strangers
        self._known = registry.load(strangers=strangers, lease_break=options.lease_break)
        self.directory = directory.take(options.directory)
        raise_descriptor_limit()
        self._lock()
        signals = self._catch_signals()
        core = self._core()
        engine = Engine(threads=options.threads, quantum=options.quantum, time_scale=time_scale())
        stack.callback(engine.close)
        self.run = self._history_folder()
        record = Record(engine, self._writer())
        journal = Journal(self.directory / directory.BOOKS)
        stack.callback(journal.close)
        core.load(journal.load())
        record.loaded(core.durable())
        router = self._router()
        listener = self._listen()
        timers, sessions, host_files = Timers(time_scale()), Sessions(router), HostFiles()
        stack.callback(host_files.close_all)
        refusals = Refusals()
        admin = Admin(engine, core, sessions, refusals, self._figures)
        filler, host_worker = self._worker("filler"), self._worker("host files")
        memory = Memory(engine, self.directory, Spares(filler))
        steps = Steps(core, journal, timers, record, admin.visit, _refuser(sessions))
        steps.effects = Effects(
            engine, memory, host_files, sessions, timers, record, steps.submit, host_worker, refusals
        )
        stack.callback(steps.effects.guards.close)
        self._recover(core, steps)
        self._log_operations(engine)
        engine.start()
        self._steps, self._sessions, self._router_socket, self._journal = steps, sessions, router, journal
        reception = Reception(engine, sessions, router, admin, host_files, steps.submit)
        self.loop = Loop(
            door=listener, router=router, engine=engine, memory=memory, sessions=sessions, reception=reception, steps=steps,
            effects=steps.effects, timers=timers, admin=admin, record=record, uid=os.geteuid(),
            invalidations=Invalidations(options.invalidation_us / 1e6, timers, steps.submit), flushes=steps.effects.flushes,
            writeback=self.options.writeback,
        )  # fmt: skip
        for worker in (filler, host_worker):
            self.loop.watch(worker.fileno(), worker.finish)
        self._watch(signals)
        self._served = True

    def _worker(self, name: str) -> Worker:
        worker = Worker(name)
        self._stack.callback(worker.close)
        return worker

    # ---- directory, lock, sockets

    def _lock(self) -> None:
        path = self.directory / directory.LOCK
        held = files.lock(path)
        if held is None:
            pid = path.read_text().strip() or "?"
            raise StartError(
                errno.EADDRINUSE,
                f"another broker (pid {pid}) serves this directory: stop it, or use another --dir",
            )
        self._stack.callback(os.close, held)
        self._nobody_answers()
        self._had_books, self._served = (self.directory / directory.BOOKS).exists(), False
        self._stack.callback(self._remove)
        with files.named(path):
            os.ftruncate(held, 0)
            os.pwrite(held, f"{os.getpid()}\n".encode(), 0)

    def _nobody_answers(self) -> None:
        """A lock that was removed locks nobody out: a broker that still holds it answers at the door."""
        path = self.directory / directory.DOOR
        if door.answers(str(path)):
            raise StartError(
                errno.EADDRINUSE,
                f"another broker answers at {path}, though the lock is free (was it removed?): stop it, or use another --dir",
            )

    def _remove(self) -> None:
        """--ephemeral. A start that was refused removes nothing that an earlier life left."""
        if self.options.ephemeral and (self._served or not self._had_books):
            shutil.rmtree(self.directory, ignore_errors=True)

    def _listen(self) -> socket.socket:
        path = self.directory / directory.DOOR
        files.unlink_socket(path)
        listener = door.listen(str(path))
        self._stack.callback(listener.close)
        self._stack.callback(files.unlink_socket, path, files.identity(path))
        return listener

    def _router(self) -> Router:
        path = self.directory / directory.ZMQ
        for address in (f"ipc://{path}", *self.options.listen):
            check_address(address)
        files.unlink_socket(path)
        before = os.umask(0o177)
        try:
            router = Router([f"ipc://{path}", *self.options.listen])
        finally:
            os.umask(before)
        self._stack.callback(files.unlink_socket, path, files.identity(path))
        self._stack.callback(router.close, LAST_WORDS_MS)
        return router

    # ---- core and recovery

    def _core(self) -> Core:
        known = self._known
        for why in (f"{name}: {why}" for name, why in known.broken.items()):
            print(f"emu: broker {self.directory}: protocol {why}", file=sys.stderr)
        for name in (mount.protocol for mount in self.options.mounts if mount.protocol):
            known.get(name)
        chosen = {f"{backing}_protocol": pseudo_protocol(self.options, known, backing) for backing in PSEUDO}
        self.options = replace(self.options, **chosen)  # type: ignore[arg-type]  # the history says what was chosen
        return Core(known.protocols, policy=self.options.allocator, broken=known.broken, **chosen)

    def _make_buffers(self, steps: Steps) -> None:
        """Memory for exporters: new at each start, as a device's own memory is."""
        if self.options.dmabuf:
            for kind in ("img", "gen"):
                (self.directory / f"{DMABUF}.{kind}").unlink(missing_ok=True)
            steps.strict(DeviceAdded(DMABUF, self.options.dmabuf // BLOCK))

    def _recover(self, core: Core, steps: Steps) -> None:
        if DMABUF in core.books.devices:
            steps.strict(BuffersLost())
        for warning in images.agree(self.directory, core.books, self.options.pmem, self.options.mounts):
            print(f"emu: broker {self.directory}: EUCLEAN: {warning}", file=sys.stderr, flush=True)
        for pmem in self.options.pmem:
            steps.strict(DeviceAdded(pmem.name, pmem.blocks))
        self._make_buffers(steps)
        for mount in self.options.mounts:
            protocol = mount.protocol or DEFAULT_PROTOCOL
            steps.strict(MountAdded(mount.path, mount.device, mount.dax, protocol, mount.raw, mount.tmpfs))

    # ---- history

    def _history_folder(self) -> Path | None:
        if not self.options.keep_history:
            return None
        runs = self.options.history or self.directory / directory.RUNS
        with files.named(runs):
            told = {**_told(self.options), "time_scale": time_scale()}
            folder = new_run(runs, told, _declared(self.options, self._known))
            for stranger in self._strangers:
                (folder / f"protocol-{stranger.protocol.name}.py").write_text(stranger.source, "utf-8")
            return folder

    def _writer(self) -> EventsWriter | None:
        if self.run is None:
            return None
        writer = EventsWriter(self.run, self.options.history_bytes)
        self._stack.callback(writer.close)
        return writer

    def _log_operations(self, engine: Engine) -> None:
        if self.run is None:
            return
        budget = self.options.history_bytes // OPLOG_SHARE // self.options.threads
        capacity = max(1024, budget // OPLOG_RECORD)
        for thread in range(self.options.threads):
            engine.oplog_open(thread, self.run / f"oplog-{thread}.bin", capacity)

    # ---- signals, lifeline, readiness

    def _catch_signals(self) -> socket.socket:
        """SIGTERM, SIGINT and SIGHUP arrive as bytes; SIGIO, which a description that somebody passed may send us, ends nobody."""
        ours, pythons = socket.socketpair()
        for end in (ours, pythons):
            end.setblocking(False)
            self._stack.callback(end.close)
        for number in (*ENDING, signal.SIGIO):
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
        self._stack.callback(signal.set_wakeup_fd, -1)
        return ours

    def _watch(self, signals: socket.socket) -> None:
        self.loop.watch(signals.fileno(), lambda _mask: self._signalled(signals))
        if self.options.lifeline >= 0:
            self.loop.watch(self.options.lifeline, self._lifeline)

    def _signalled(self, signals: socket.socket) -> None:
        """Each byte is a signal's number; others than these are not for the loop (a stranger's protocol that was stopped)."""
        if any(number in ENDING for number in signals.recv(4096)):
            self.loop.stop()

    def _lifeline(self, _mask: int) -> None:
        if not os.read(self.options.lifeline, 4096):
            self.loop.stop()

    def announce(self) -> None:
        """Whoever waits for the broker is told: a parent by its descriptor, anybody else on stdout."""
        if self.options.ready >= 0:
            with suppress(BrokenPipeError):
                os.write(self.options.ready, b"ready\n")
            os.close(self.options.ready)
        else:
            print(f"emu: ready {self.directory / directory.DOOR}", flush=True)

    def _figures(self) -> dict[str, Any]:
        steps, sessions = self._steps, self._sessions
        return {
            "loop": {
                "turns": self.loop.turns,
                "steps": steps.count,
                "queued": steps.waiting,
                "undone": steps.undone,
                "postponed": steps.postponed,
                "defects": steps.defects,
                "failures": steps.effects.failures,
                "commits": self._journal.commits,
                "reserve": self._journal.reserve.bytes,
            },
            "wire": {
                "sessions": len(sessions),
                "dropped": self._router_socket.dropped,
                "kept": self._router_socket.keeping,
                "cut_off": self.loop.cut_off,
                "events_lost": sum(session.events_lost for session in sessions),
            },
            "run": str(self.run) if self.run else None,
        }


def _refuser(sessions: Sessions) -> Callable[[Requested, int, str], None]:
    def refuse(event: Requested, number: int, sentence: str) -> None:
        sessions.fail(event.session, event.request, number, sentence)

    return refuse


def pseudo_protocol(options: Options, known: registry.Registry, backing: str) -> str:
    """Of host files, anonymous memory or buffers: as asked for; else the one that all mounts have, if it can serve them; else the default."""
    asked: str = getattr(options, f"{backing}_protocol")
    if asked:
        why = unserved(known.get(asked), backing)
        if why:
            raise StartError(
                errno.EOPNOTSUPP,
                f"--{backing}-protocol {asked} cannot serve {backing} memory: {why}; name another, or none at all",
            )
        return asked
    names = {known.get(mount.protocol or DEFAULT_PROTOCOL).name for mount in options.mounts}
    shared = names.pop() if len(names) == 1 else DEFAULT_PROTOCOL
    return DEFAULT_PROTOCOL if unserved(known.get(shared), backing) else shared


def _declared(options: Options, known: registry.Registry) -> dict[str, Any] | None:
    """What the node's protocol promises; None if its mounts have several: then whoever judges has to say which it is about."""
    mounts = {mount.protocol or DEFAULT_PROTOCOL for mount in options.mounts}
    names = mounts or {options.host_protocol or DEFAULT_PROTOCOL}
    made = {known.get(name).name: known.get(name) for name in sorted(names)}
    return declaration(next(iter(made.values()))) if len(made) == 1 else None


def _told(options: Options) -> dict[str, Any]:
    values = asdict(options)
    for pmem in values["pmem"]:
        del pmem["typed"]  # it is in argv
    return {key: str(value) if key in {"directory", "history"} else value for key, value in values.items()}
