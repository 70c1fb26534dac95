"""The rows of the books. What each of their fields is, and which book has which: fields.py.

If you add a field: fields.FIELDS. 0 (or "") as an identity means: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from emu.core.decision import Action
    from emu.core.events import HostFile
    from emu.core.requests import RegMr, Request

BLOCK: Final = 4096
FOREVER: Final = 1 << 63  # one past every offset that a file can have

NIC: Final = "emu0"  # the name of the one NIC, where devices are unplugged and plugged
HOST: Final = "host"  # the name of the mount that stands for host files, and of their backing
ANON: Final = "anon"  # the same for memory of clients
DMABUF: Final = "dmabuf"  # the same for buffers of exporters
SHARED: Final = (
    "dax",
    "devdax",
    DMABUF,
    "page-cache",
)  # backings whose memory is a device's, and stays when an MR goes
PSEUDO: Final = (HOST, ANON, DMABUF)  # mounts without a device: there from the start, each is a backing

Extent = tuple[
    int, int, int, int
]  # file block, device block, blocks, layout number of the file when allocated
Run = tuple[int, int]  # offset, bytes in an aperture


class Session(NamedTuple):
    name: str
    door: bool
    wants: bool
    dying: bool = False
    signalable: bool = False  # the shell can signal the process that opened the door
    orphaned: bool = (
        False  # that process has ended, and the door is still open: somebody else has its descriptor
    )
    dead: bool = False  # its context was destroyed: EIO but for what gives back


class Device(NamedTuple):
    aperture: int
    blocks: int
    online: bool = True
    namespace: int = 1


class Mount(NamedTuple):
    device: str
    dax: bool
    protocol: str
    raw: bool = False  # device-dax: no files, only the device
    tmpfs: bool = False  # a page cache that nobody writes back, and whose pages are not tracked for it


class File(NamedTuple):
    path: str
    device: str
    size: int
    extents: tuple[Extent, ...] = ()
    layout: int = 1
    nlink: int = 1
    gone: bool = False  # taken away from its users: neither registered nor opened any more
    origin: int = 0  # of a clone, and of what was cloned: the family, by the number of its first file
    lost: tuple[
        Extent, ...
    ] = ()  # holes whose memory has failed: they read as EIO; with the blocks that failed
    marked: bool = False  # its layout is to stay as it is (leases.py)


class Blocks(NamedTuple):
    """A run of blocks: free, in limbo (free once the commit succeeds), or in quarantine (of a reclaim, 0: until its last unpin)."""

    aperture: int
    start: int
    blocks: int
    reclaim: int = 0


class Lease(NamedTuple):
    """A layout lease: of the process that opened the session, on a file."""

    session: int
    ino: int
    exclusive: bool


class Parked(NamedTuple):
    """A reg_mr that waits for the reclaims `behind` which it stands. op and host: without what the fields before them name."""

    session: int
    request: int
    pd: int
    iova: int
    op: RegMr
    handle: int
    host: HostFile | None
    behind: tuple[int, ...]


class Zeroing(NamedTuple):
    """Edges of a hole that is committed and whose Zero has not been answered: a restart zeroes them, whatever had been done."""

    device: str
    runs: tuple[Run, ...]


class Bad(NamedTuple):
    """A block whose memory has failed: it is nobody's, for good."""

    device: str
    block: int


class Cache(NamedTuple):
    """The page cache of a device whose mount is not dax: its hidden device NAME.cache (pages.py)."""

    aperture: int
    blocks: int


class Pages(NamedTuple):
    """A file's pages: extents as a file's, over pages; dirty: (block, the same, blocks, 0), those that have bytes which the device lacks."""

    device: str
    extents: tuple[Extent, ...] = ()
    dirty: tuple[Extent, ...] = ()


class HostRow(NamedTuple):
    """A host file that somebody registered or is taking back. aperture: the newest mapping, 0 while there is none."""

    device: int
    inode: int
    aperture: int
    bytes: int
    label: str
    opened: bool = False
    gone: bool = False
    guarded: bool = False  # a kernel lease tells us before a foreign program truncates it
    unguarded: str = ""  # why not, if a guard was asked for


class Orphan(NamedTuple):
    """Blocks that are no file's and that an MR still pins. A restart finds nobody who pins them, and they are free."""

    device: str
    start: int
    blocks: int


class Right(NamedTuple):
    """A session's right to work on a file (ino 0: on a whole space). fencing: a fence of it was asked for; returning: nothing is under it any more."""

    session: int
    space: int
    ino: int = 0
    fencing: bool = False
    returning: bool = False


class Fence(NamedTuple):
    """A fence that a reclaim asked for: the storage has not answered it, or it failed."""

    right: int
    reclaim: int
    failed: bool = False


class Pd(NamedTuple):
    session: int


class Cq(NamedTuple):
    session: int
    cqe: int
    number: int = 0
    made: bool = False


class Qp(NamedTuple):
    session: int
    pd: int
    send_cq: int
    recv_cq: int
    qp_num: int = 0
    made: bool = False
    ending: bool = False
    ended: bool = False  # with its context: the engine has it no more, the client has not given it back
    dest: int = 0  # the number of the queue pair that it is connected to


class Mr(NamedTuple):
    """A memory region. It pins its runs of `space` until its translation is gone.

    state: pinned (no key yet) -> installing -> live -> unmapped. `revoked`: some reclaim took it back; latched.
    On demand (faults.py) live -> parked -> absent -> live instead, and never revoked but with its context, or with the raw device under it:
    absent, or without runs, it pins nothing. Under a protocol that switches (retargeting.py) live -> parked -> live, and not revoked either.
    space: where its runs are counted: a device's aperture, a host file's number, or its own aperture.
    """

    session: int
    pd: int
    backing: str
    access: int
    importer: str
    iova: int
    length: int
    space: int
    aperture: int
    runs: tuple[Run, ...]
    state: str
    request: int = 0
    revoked: bool = False
    told: bool = False
    ending: bool = False
    ino: int = 0
    layout: int = 0
    token: int = 0
    right: int = 0  # under which it is used, where its protocol keeps a table of rights; one that is not there any more: it is fenced
    bound: float = 0.0  # seconds, of a deferred-unmap importer
    acked: bool = False  # that importer says that it has unmapped, or does so as soon as its fences retire
    lo: int = 0  # where it begins, in what it maps


class Reclaim(NamedTuple):
    """Memory on its way back. Exactly one of ino, device, host names what; lo..hi is the range in bytes of it. The device ANON: the memory of
    the clients' MRs in `keys` (swap.py).
    """

    kind: str  # of decision.KINDS
    session: int
    request: int
    protocol: str
    ino: int = 0
    device: str = ""
    host: int = 0
    lo: int = 0
    hi: int = FOREVER
    handle: int = 0
    phase: str = ""
    queued: bool = False
    gated: bool = False
    fencing: bool = False
    fenced: bool = False
    applied: bool = False
    freed: bool = False
    returned: bool = False
    keys: tuple[int, ...] = ()
    cookie: int = 0
    timer: int = 0
    todo: tuple[Action, ...] = ()
    errno: int = 0
    again: int = 0  # the core's own timer: an unmap or a retarget that failed is asked for again
    length: int = 0  # collapse, insert: by how many bytes what lies behind moves
    to: str = ""  # reflink: the clone's path; umount: the mount
    block: int = -1  # poison: the device block that has failed
    then: Request | None = None  # cow-write: the request that goes on when the blocks are the file's own
    waiting: bool = False  # for deferred-unmap importers
    permanent: bool = False  # of a buffer: for good
    switching: bool = False  # a retarget is under way
    behind: tuple[int, ...] = ()  # keys to be quiesced when those of dynamic importers are
    passed: tuple[int, ...] = ()  # keys that its last quiesce left alone: it was of another class


class Teardown(NamedTuple):
    """MRs on their way out: a dereg_mr (request > 0), or the end of a session or of a failed registration."""

    session: int
    request: int
    keys: tuple[int, ...]
    cookie: int = 0
    again: int = 0  # the timer behind which what was refused is asked for again
    keep: bool = (
        False  # of a context that was destroyed: the MRs stay, unmapped, until the client gives them back
    )


class Nic(NamedTuple):
    """The NIC is unplugged; whoever asked for that waits until its contexts are destroyed (request 0: it has been answered)."""

    session: int = 0
    request: int = 0
    number: int = 0  # under which the history tells of it


class Fault(NamedTuple):
    """A page fault that waits for its answer: for a reclaim to end, for the engine (token), or for a timer (again)."""

    key: int
    sequence: int
    offset: int
    bytes: int
    write: bool
    token: int = 0
    again: int = 0
    copied: bool = False  # shared blocks under it have had their cow-write
    waited: bool = False


class Cookie(NamedTuple):
    """Who waits for the answer to a Quiesce or Unmap. keys: of a reclaim's Unmap, whom it names."""

    reclaim: int = 0
    teardown: int = 0
    keys: tuple[int, ...] = ()


class Bound(NamedTuple):
    """Until its timer rings, a deferred-unmap importer whose fences have retired may still be mapped."""

    reclaim: int
    key: int


class Buffer(NamedTuple):
    """What the file of a dma-buf (on the hidden device of that name) does not say. session: its exporter, 0: it is gone.

    away: revoked for a time, by `reclaim`, which met `keys`.
    """

    session: int
    away: bool = False
    reclaim: int = 0
    keys: tuple[int, ...] = ()


class Token(NamedTuple):
    """Who waits for Answered, and what goes on then (`kind`: a row of machine.ANSWERS)."""

    kind: str
    session: int = 0
    request: int = 0
    pd: int = 0
    cq: int = 0
    qp: int = 0
    key: int = 0
    host: int = 0
    reclaim: int = 0
    handle: int = 0
    length: int = 0
    zeroing: int = 0
    device: str = ""
    dest: int = -1  # of a modify_qp: whom it connects to, -1 where it does not say
    fault: int = 0
    overtaken: bool = False  # of a Remap: the key was taken back once more since


Row = tuple[object, ...]
