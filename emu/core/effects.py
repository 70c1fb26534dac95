"""What the core wants done: imperatives, frozen, carried out by the shell in order.

A step's effects come in two lots. Those with `before_commit` prepare memory that nobody can see yet and are carried out before
the step's file delta is committed; all others after it, and only if it succeeded (a failed commit is undone: `Core.undo`).
The shell starts no before-commit effect while an earlier step still has effects to carry out.

Apertures are numbered by the core; number -> engine's number is the shell's book. A device's aperture is opened with the
device. Runs are (offset, bytes) in an aperture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

Run = tuple[int, int]
Piece = tuple[int, int, int]  # from, to, bytes
Extent = tuple[int, int, int, int]  # as in rows.py


@dataclass(frozen=True, slots=True)
class Effect:
    """Root of all effects."""

    before_commit: ClassVar[bool] = False


# ---- memory and blocks


@dataclass(frozen=True, slots=True)
class OpenDevice(Effect):
    """Map a device's image and its table of generations; at a restart bring generations to the parity of free/owned.
    `owned`: runs that belong to files. `namespace`: the one that is committed; an Online to it that was cut off is finished.
    `volatile`: a page cache (pages.py): memory that is new with each start, nothing of it owned.
    """

    aperture: int
    name: str
    blocks: int
    owned: tuple[Run, ...]
    namespace: int = 1
    volatile: bool = False


@dataclass(frozen=True, slots=True)
class Allocate(Effect):
    """New owner: next even generation, then overwrite with zeros, before anybody can see the blocks."""

    before_commit: ClassVar[bool] = True
    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Release(Effect):
    """The blocks are free: next odd generation."""

    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Claim(Effect):
    """A raw device: all blocks are owned, their bytes stay what they are."""

    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Share(Effect):
    """Other files have these blocks now than before, and still some: the next even generation but one, content untouched. Behind
    the commit: a translation must not be made foreign by a change that is undone, and none of them outlives a broker that is killed.
    """

    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Copy(Effect):
    """The CPU copies the pieces into blocks that nobody can see yet."""

    before_commit: ClassVar[bool] = True
    aperture: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Poison(Effect):
    """The memory of these blocks has failed, for good: DMA finds it absent from now on. Doing it twice does no harm."""

    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Blank(Effect):
    """The CPU zeroes bytes that nobody can read yet: those past the end of a file that is about to grow, and at a restart what
    an earlier life has left of a Zero. Doing it for nothing does no harm.
    """

    before_commit: ClassVar[bool] = True
    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Zero(Effect):
    """The CPU zeroes the unaligned edges of a hole. Answered(token), unless token is 0."""

    token: int
    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Store(Effect):
    """The CPU stores `data` over the runs, in order. Answered(token), unless token is 0."""

    token: int
    aperture: int
    runs: tuple[Run, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Load(Effect):
    """The CPU reads pieces one behind the other: (offset, bytes) in the aperture, or (-1, bytes) for zeros.
    Answered(token, value={"data": bytes}).
    """

    token: int
    aperture: int
    pieces: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Fill(Effect):
    """The CPU copies from the device (`source`) into new pages of its cache (`target`), which nobody can see yet."""

    before_commit: ClassVar[bool] = True
    source: int
    target: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Flush(Effect):
    """The CPU copies from pages (`source`) of this file to the blocks of the device (`target`). Answered(token, errno), unless token is 0.

    With a token it may take its time: later effects find these pages and blocks as if it had been done at once.
    """

    token: int
    source: int
    target: int
    pieces: tuple[Piece, ...]
    ino: int = 0


@dataclass(frozen=True, slots=True)
class MapPages(Effect):
    """For the record: these are the pages of a file from now on (extents over `device`, a cache), and these of its blocks are dirty:
    (file block, blocks). Nothing is to be done.
    """

    ino: int
    device: str
    extents: tuple[Extent, ...]
    dirty: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Offline(Effect):
    """A device's memory is gone: DMA under old translations finds it absent. Answered(token, errno), unless token is 0."""

    aperture: int
    device: str
    token: int = 0


@dataclass(frozen=True, slots=True)
class Online(Effect):
    """A new namespace appears at the same addresses, filled with the canary: prepared before the commit, shown after it.
    Answered(token, errno).
    """

    token: int
    aperture: int
    device: str
    namespace: int


@dataclass(frozen=True, slots=True)
class OpenAnon(Effect):
    """A sealed memfd; its descriptor is kept for the reply that names `token`. Answered(token)."""

    token: int
    aperture: int
    bytes: int


@dataclass(frozen=True, slots=True)
class OpenHost(Effect):
    """Map the host file behind `handle`. Answered(token, value={"guarded", "why"} if a guard was asked for)."""

    token: int
    aperture: int
    handle: int
    bytes: int
    guard: bool = False


@dataclass(frozen=True, slots=True)
class YieldLease(Effect):
    """The guard of this host file ends: the foreign program that waits for it goes on."""

    aperture: int


@dataclass(frozen=True, slots=True)
class MapBuffer(Effect):
    """The exporter's side of an import: the memory of these runs is there, or is not. Answered(token, errno)."""

    token: int
    aperture: int
    runs: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class PageOut(Effect):
    """The kernel is asked to write this memory to swap. Whoever maps it goes on seeing its bytes, and where there is no swap they stay where they
    are: it is advice, and what the kernel says to it is for the record. Answered(token).
    """

    token: int
    apertures: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DropAperture(Effect):
    aperture: int


@dataclass(frozen=True, slots=True)
class HostTruncate(Effect):
    """Answered(token, errno)."""

    token: int
    handle: int
    size: int


@dataclass(frozen=True, slots=True)
class HostPunch(Effect):
    """Answered(token, errno)."""

    token: int
    handle: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class CloseHandle(Effect):
    handle: int


# ---- keys


@dataclass(frozen=True, slots=True)
class InstallKey(Effect):
    """KeyInstalled(key)."""

    key: int
    pd: int
    access: int
    importer: int
    aperture: int
    iova: int
    length: int
    extents: tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Quiesce(Effect):
    """No new work under the keys; Quiesced(cookie) when none runs either."""

    cookie: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Unmap(Effect):
    """Forget the translations of quiesced keys; Unmapped(cookie, errno)."""

    cookie: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Invalidate(Effect):
    """As Quiesce, of keys of dynamic importers: what comes afterwards waits, and Missed tells of it. Quiesced(cookie, errno).

    others: keys of other importers are among them. Of these nothing is told: a Remap comes, or a Quiesce that refuses who waits.
    """

    cookie: int
    keys: tuple[int, ...]
    others: bool = False


@dataclass(frozen=True, slots=True)
class Remap(Effect):
    """A new translation: of a dynamic importer's key, in answer to the fault with this sequence (errno ESTALE: it was invalidated since), or of
    a quiesced or parked key of another importer, which lives again. Extents may be absent: (-1, bytes) there is no memory, who waits for it fails;
    (-2, bytes) none was looked for, an access asks. Answered(token, errno).
    """

    token: int
    key: int
    aperture: int
    extents: tuple[Run, ...]
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class OpenScratch(Effect):
    """A page of the node's own, for keys whose device goes away. It stays as long as the node."""

    aperture: int
    bytes: int


@dataclass(frozen=True, slots=True)
class RemoveKey(Effect):
    """The unmapped key leaves the engine's table."""

    key: int


# ---- rights (rights.py): numbered among the tokens; a fence is numbered among the cookies


@dataclass(frozen=True, slots=True)
class GrantRight(Effect):
    """The storage takes work of this session from now on: a row of its table."""

    right: int
    session: int


@dataclass(frozen=True, slots=True)
class FenceRight(Effect):
    """The storage takes no work any more of the client that has this right: all its keys there. RightFenced(fence, errno) when none runs either."""

    fence: int
    right: int
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReturnRight(Effect):
    """The client has nothing under this right any more and gives it back. RightReturned(right) when the storage has noted it."""

    right: int


@dataclass(frozen=True, slots=True)
class DropRight(Effect):
    """The right leaves the table: it was returned, or its fence is confirmed."""

    right: int


@dataclass(frozen=True, slots=True)
class Restore(Effect):
    """A buffer that `reclaim` had taken for a time is given back; keys: those that it met and that are still there."""

    reclaim: int
    keys: tuple[int, ...]


# ---- queues


@dataclass(frozen=True, slots=True)
class MakeCq(Effect):
    """Answered(token, value={"cq": number}); the descriptor is kept for the reply that names `token`."""

    token: int
    session: int
    cqe: int


@dataclass(frozen=True, slots=True)
class EndCq(Effect):
    cq: int


@dataclass(frozen=True, slots=True)
class MakeQp(Effect):
    """Answered(token, value={"qp_num": number, caps}); the descriptor is kept for the reply that names `token`."""

    token: int
    session: int
    pd: int
    send_cq: int
    recv_cq: int
    type: int
    max_send_wr: int
    max_recv_wr: int
    max_send_sge: int
    max_recv_sge: int
    sq_sig_all: bool


@dataclass(frozen=True, slots=True)
class SetQp(Effect):
    """modify_qp. Answered(token, errno)."""

    token: int
    qp_num: int
    mask: int
    attrs: dict[str, int]


@dataclass(frozen=True, slots=True)
class GetQp(Effect):
    """query_qp. Answered(token, value=attributes)."""

    token: int
    qp_num: int


@dataclass(frozen=True, slots=True)
class EndQp(Effect):
    """Nothing of this queue pair starts any more. Answered(token) when nothing of it runs."""

    token: int
    qp_num: int


@dataclass(frozen=True, slots=True)
class EndSession(Effect):
    """All that the core held for the session is gone: the shell may forget it and its context."""

    session: int


# ---- time, words, and the record


@dataclass(frozen=True, slots=True)
class Arm(Effect):
    """TimerFired(timer) after `seconds`, scaled by EMU_TIME_SCALE."""

    timer: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Disarm(Effect):
    timer: int


@dataclass(frozen=True, slots=True)
class Notify(Effect):
    """An asynchronous event for a client: name as in verbs (QP_ACCESS_ERR) or emu's own (MR_REVOKING, ...), fields for the object."""

    session: int
    name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal(Effect):
    """A real signal, `number` as on Linux, to the process that opened the session's door, whoever has the door now. Nobody answers: what
    comes of it is told by SessionLost, OwnerEnded, or by what the process does.
    """

    session: int
    number: int


@dataclass(frozen=True, slots=True)
class Reply(Effect):
    """descriptors: what travels along. N > 0: those kept for token N; -N: the memory of aperture N (an MR over a dax file: the device);
    0: none (an MR over a host file: the client has the descriptor already).
    """

    session: int
    request: int
    result: dict[str, Any] = field(default_factory=dict)
    descriptors: int = 0


@dataclass(frozen=True, slots=True)
class Fail(Effect):
    session: int
    request: int
    errno: int
    sentence: str
    definite: bool = True


@dataclass(frozen=True, slots=True)
class Phase(Effect):
    """A reclaim enters a phase: the epoch advances, and the history gets a line with the operations in flight under `keys`. Of the two waits
    (fencing, fenced, unmapping, unmapped) these are the keys that it waits for: one that a quiesce of a class left alone is not among them.

    phase: requested, gated, notified, signalled (detail: signal, sessions), destroyed, fencing, fenced, unmapping, unmapped, applied, freed, returned (detail: errno), ended;
    broken (detail: rule, sentence): the protocol broke the contract, and the reclaim is broken off; overdue: these importers
    have not unmapped within their bound; restored: behind its end, a buffer that was revoked for a time is there again.
    """

    reclaim: int
    phase: str
    keys: tuple[int, ...] = ()
    detail: dict[str, Any] = field(default_factory=dict)
