"""What happens to a node, as the core is told it: past-tense nouns, frozen. The only way into the core is `Core.step(event)`.

Numbers are chosen by whoever is named: `session` and `request` by the shell and the client, `handle` of a descriptor by the
shell, `token`, `cookie`, `key`, `timer` by the core (they come back in the answer to an effect).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emu.core.requests import Request


@dataclass(frozen=True, slots=True)
class Event:
    """Root of all events."""


@dataclass(frozen=True, slots=True)
class DeviceAdded(Event):
    """The node has a pmem device of `blocks` blocks of 4096 bytes. Known already (a restart): the size must agree."""

    name: str
    blocks: int


@dataclass(frozen=True, slots=True)
class BuffersLost(Event):
    """At a restart: exporters died with the broker, and their buffers with them."""


@dataclass(frozen=True, slots=True)
class MountAdded(Event):
    """A filesystem on a device, `dax` or over a page cache; `raw`: device-dax, which has no files; `tmpfs`: the page cache is not written back."""

    path: str
    device: str
    dax: bool
    protocol: str
    raw: bool = False
    tmpfs: bool = False


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """`door`: has a door connection, so it may own memory. `wants`: asked for MR_REVOKING, MR_REVOKED, MR_RESTORED. `signalable`:
    the shell holds the process that opened the door, and can signal it.
    """

    session: int
    name: str
    door: bool
    wants: bool
    signalable: bool = False


@dataclass(frozen=True, slots=True)
class SessionLost(Event):
    """The door hung up (or a remote control client's heartbeats stopped)."""

    session: int


@dataclass(frozen=True, slots=True)
class OwnerEnded(Event):
    """The process that opened the session's door has ended, and the door is open all the same: its descriptor was handed on."""

    session: int


@dataclass(frozen=True, slots=True)
class HostFile:
    """A descriptor that came with a request: the shell keeps it under `handle` until told to close it."""

    handle: int
    device: int
    inode: int
    size: int
    writable: bool
    label: str = ""


@dataclass(frozen=True, slots=True)
class Requested(Event):
    """A client asked. Each is answered exactly once, by Reply or Fail, unless its session is lost first."""

    session: int
    request: int
    op: Request
    host: HostFile | None = None


@dataclass(frozen=True, slots=True)
class KeyInstalled(Event):
    """The third step of a registration: the engine has (errno 0) or has not installed the key."""

    key: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Quiesced(Event):
    """Answer to Quiesce: no byte will ever be moved under its keys again. errno: the hardware refused."""

    cookie: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class Unmapped(Event):
    """Answer to Unmap: the translations are gone. errno: they are not."""

    cookie: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class RightFenced(Event):
    """Answer to FenceRight: the storage takes nothing of that client any more. errno: it could not be told so, and the right is still there."""

    fence: int
    errno: int = 0


@dataclass(frozen=True, slots=True)
class RightReturned(Event):
    """Answer to ReturnRight."""

    right: int


@dataclass(frozen=True, slots=True)
class Answered(Event):
    """Answer to every effect that carries a token."""

    token: int
    errno: int = 0
    value: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TimerFired(Event):
    timer: int


@dataclass(frozen=True, slots=True)
class WritebackDue(Event):
    """The broker's own timer (--writeback): every file with dirty pages is written back, for nobody."""


@dataclass(frozen=True, slots=True)
class QpReported(Event):
    """The engine raised an asynchronous event (IBV_EVENT_* number) on a queue pair."""

    qp_num: int
    code: int


@dataclass(frozen=True, slots=True)
class CqReported(Event):
    cq: int
    code: int


@dataclass(frozen=True, slots=True)
class MemoryFaulted(Event):
    """A copy met SIGBUS in this aperture: a host file shrank behind the broker's back."""

    aperture: int
    offset: int


@dataclass(frozen=True, slots=True)
class LeaseBroken(Event):
    """A foreign program wants a guarded host file, and the kernel lets it wait for us: to truncate it or to open it for writing
    (`taken`), or to read it.
    """

    aperture: int
    taken: bool


@dataclass(frozen=True, slots=True)
class Missed(Event):
    """A page fault: work under a dynamic importer's key waits for memory at `offset` of the MR, `bytes` from there. sequence: of the key."""

    key: int
    sequence: int
    offset: int
    bytes: int
    write: bool
