"""What a client can ask for: one frozen dataclass a request, its name in the table `REQUESTS` at the end.

These are the types that the wire validates messages into; fields are what a message carries, in bytes, offsets in bytes,
handles as the broker gave them. Domains (zero, negative, 2^63, unknown names) are the core's to check, so that every
driver of the core, the explorer too, meets the same errors.

If you add a request: the table below, a handler in machine.py's table, and docs/messages.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RequestType = type["Request"]

LS_FILES: Final = 256  # on one page of fs_ls
LS_BYTES: Final = 64 << 10  # what the files of a page take in its answer, at most


@dataclass(frozen=True, slots=True)
class Request:
    """Root of all requests."""


@dataclass(frozen=True, slots=True)
class QueryDevice(Request):
    """Limits and names of the emulated NIC."""


@dataclass(frozen=True, slots=True)
class AllocPd(Request):
    """A protection domain. Result: {handle}."""


@dataclass(frozen=True, slots=True)
class DeallocPd(Request):
    handle: int


@dataclass(frozen=True, slots=True)
class RegMr(Request):
    """Register memory. Result: {handle, lkey, rkey, length, map}; descriptors: the memory to map.

    backing `anon`: a new memfd of `length` bytes. `dax`, `page-cache`: bytes offset..offset+length of the file `path` on a mount (offset a
    multiple of 4096); which of the two it is, the mount says. `host`: the descriptor sent along, same ranges. `iova` is the address by which work requests
    name the first byte. `guard` (host only): a kernel lease on that descriptor; result {guarded, unguarded}: why not. map: [[offset, bytes], ...] in the returned descriptor, page multiples covering the range.
    `devdax`: bytes of the raw device that is mounted at `path`. `dmabuf`: bytes of the buffer that `path` names. `bound`: seconds within which
    a deferred-unmap importer says (`ack`) that it has unmapped, behind its fence.
    """

    pd: int
    length: int
    access: int
    iova: int
    backing: str = "anon"
    path: str = ""
    offset: int = 0
    importer: str = "sync-revocable"
    guard: bool = False
    bound: float = 0.0


@dataclass(frozen=True, slots=True)
class DeregMr(Request):
    handle: int


@dataclass(frozen=True, slots=True)
class CreateCq(Request):
    """Result: {handle}; descriptor: the CQ segment."""

    cqe: int


@dataclass(frozen=True, slots=True)
class DestroyCq(Request):
    handle: int


@dataclass(frozen=True, slots=True)
class CreateQp(Request):
    """Result: {handle, qp_num}; descriptor: the QP segment. type: 2 = RC."""

    pd: int
    send_cq: int
    recv_cq: int
    type: int = 2
    max_send_wr: int = 1
    max_recv_wr: int = 1
    max_send_sge: int = 1
    max_recv_sge: int = 1
    sq_sig_all: bool = False


@dataclass(frozen=True, slots=True)
class ModifyQp(Request):
    """attrs: names of csrc's emu_qp_attr -> value; mask is IBV_QP_* bits."""

    handle: int
    mask: int
    attrs: dict[str, int]


@dataclass(frozen=True, slots=True)
class QueryQp(Request):
    """Result: {state, ...} as emu_qp_attr."""

    handle: int


@dataclass(frozen=True, slots=True)
class DestroyQp(Request):
    handle: int


# ---- files on mounts


@dataclass(frozen=True, slots=True)
class FsCreate(Request):
    """A new file of `size` bytes, allocated and zeroed."""

    path: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class FsLs(Request):
    """One page. Result: {files: [{path, ino, size, blocks, pins}], devices: [...], mounts: [...], next}.

    next: the `after` of the page behind it, 0 when there is none. A page may have fewer files than `limit`, or none, and a next.
    """

    path: str = ""
    limit: int = LS_FILES
    after: int = 0


@dataclass(frozen=True, slots=True)
class FsStat(Request):
    """Result: {path, ino, size, blocks, extents: [[file_offset, device_offset, bytes, since_epoch]], pins, device}.

    On a mount without dax besides: cache (the hidden device's name), pages (as extents, page_offset in place of device_offset), dirty: [[file_offset,
    bytes]].
    """

    path: str


@dataclass(frozen=True, slots=True)
class FsRead(Request):
    """Result: {data}. Short at the end of file; holes read as zero."""

    path: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FsWrite(Request):
    """Result: {written}. Extends the file, allocates holes. What it shares with a clone moves to blocks of its own first: a reclaim
    (cow-write), as long as that takes.
    """

    path: str
    offset: int
    data: bytes


# ---- page cache (reclaims too)


@dataclass(frozen=True, slots=True)
class FsWriteback(Request):
    """The dirty pages of a file are copied to its device and clean from then on. Result: {}."""

    path: str


@dataclass(frozen=True, slots=True)
class FsPressure(Request):
    """Memory is short: a file's pages are dropped, dirty ones written back first. target: the file's path; or `anon`: memory of clients, which is
    paged out: that of one MR (`mr`), or of all (0). Result of that: {pinned: MRs whose memory stays, taken: those whose memory does not}.
    """

    target: str
    mr: int = 0


# ---- reclaims: these may take as long as the protocol takes


@dataclass(frozen=True, slots=True)
class FsTruncate(Request):
    """To `size` bytes; growing is no reclaim. host: the file's descriptor is sent along instead of a mount's path."""

    path: str
    size: int
    host: bool = False


@dataclass(frozen=True, slots=True)
class FsPunch(Request):
    path: str
    offset: int
    length: int
    host: bool = False


@dataclass(frozen=True, slots=True)
class FsUnlink(Request):
    path: str


@dataclass(frozen=True, slots=True)
class FsUnplug(Request):
    """target: a device's name, or a file's path (takes the file away from its users; host: descriptor sent along).
    surprise: the device is gone already, the protocol is only told. Devices only.
    """

    target: str
    surprise: bool = False
    host: bool = False


@dataclass(frozen=True, slots=True)
class FsFallocate(Request):
    """mode `collapse`: the range is cut out, what lies behind it moves down; `insert`: a hole is put in, what lies behind moves up (both in
    whole blocks, before the end of the file); `zero`: the range reads as zeros, its whole blocks are new ones. The size only changes by
    collapse and insert: what `zero` finds past the end is left out.
    """

    path: str
    mode: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FsReflink(Request):
    """A clone: a new file `to` that shares all blocks of `path`. Result: {ino, size, layout} of the clone."""

    path: str
    to: str


@dataclass(frozen=True, slots=True)
class FsMigrate(Request):
    """The file's data moves to other blocks, as a defragmenter does it. ENOSPC changes nothing."""

    path: str


@dataclass(frozen=True, slots=True)
class FsPoison(Request):
    """The memory under byte `offset` of the file has failed: a fact. Its block is never used again, the file has a hole there that reads EIO
    until the whole block is written anew, or taken out of the file. Asked for is that whoever has it mapped lets go.
    """

    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class FsUmount(Request):
    """The mount goes; its files stay on the device, out of reach until fs_mount brings it back. Result: {device, protocol}."""

    mount: str


@dataclass(frozen=True, slots=True)
class FsMount(Request):
    """As `--mount MOUNT=DEVICE[,dax|devdax],protocol=PROTOCOL`. Result: {protocol}."""

    mount: str
    device: str
    dax: bool
    protocol: str
    raw: bool = False
    tmpfs: bool = False


@dataclass(frozen=True, slots=True)
class FsPlug(Request):
    """A new, empty namespace on an unplugged device."""

    device: str


# ---- what a registration may need first


@dataclass(frozen=True, slots=True)
class FsLease(Request):
    """A layout lease on the file, for the process that opened this context. kind: exclusive, shared, none (it is given back). Result: {kind}."""

    path: str
    kind: str


@dataclass(frozen=True, slots=True)
class FsMark(Request):
    """The durable mark that the file's layout is to stay as it is; False clears it. Result: {immutable}."""

    path: str
    immutable: bool


# ---- buffers of an exporter: it creates them, and alone moves, takes away, gives back and destroys them


@dataclass(frozen=True, slots=True)
class DmabufCreate(Request):
    """A buffer of `size` bytes, a multiple of 4096, zeroed, that others can import by its name. It goes with its exporter's context.
    Result: {name, size, ino, map}; descriptor: the memory that map is about.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class DmabufMove(Request):
    """To other memory, with its contents. A reclaim of the old place."""

    name: str


@dataclass(frozen=True, slots=True)
class DmabufRevoke(Request):
    """Take it back from everybody. permanent: for good, its memory goes back to the exporter; else until dmabuf_restore."""

    name: str
    permanent: bool = True


@dataclass(frozen=True, slots=True)
class DmabufRestore(Request):
    """What was taken for a time can be imported again; dynamic importers map it again, pinned ones may ignore it."""

    name: str


@dataclass(frozen=True, slots=True)
class DmabufDestroy(Request):
    """The exporter lets go of its name; the memory is free when the last importer has unmapped it. Nobody is told.
    ino: that buffer, not another that has its name by now (ENOENT).
    """

    name: str
    ino: int = 0


@dataclass(frozen=True, slots=True)
class DmabufStat(Request):
    """Anybody may ask. Result: {name, size, ino, layout, state, pins, extents as of fs_stat, device}. state: ready, away (revoked for a time),
    closed (for good).
    """

    name: str


@dataclass(frozen=True, slots=True)
class Cancel(Request):
    """Interrupt the reclaim that request `request` of this session started, or a registration that waits behind one; it answers EINTR, having
    changed nothing.
    """

    request: int


@dataclass(frozen=True, slots=True)
class Acknowledge(Request):
    """A holder's answer to MR_REVOKING for this MR."""

    handle: int


@dataclass(frozen=True, slots=True)
class SetProtocol(Request):
    """Read (name empty) or change a mount's protocol, for reclaims that begin afterwards. Result: {protocol}. mount `host`: the protocol of
    host files; `anon`: of clients' memory; `dmabuf`: of buffers.
    """

    mount: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class QueryBooks(Request):
    """Result: the counts that must add up: sessions, pds, mrs, cqs, qps, reclaims, and by device total/free/owned/quarantined
    blocks.
    """


REQUESTS: dict[str, RequestType] = {
    "query_device": QueryDevice,
    "alloc_pd": AllocPd,
    "dealloc_pd": DeallocPd,
    "reg_mr": RegMr,
    "dereg_mr": DeregMr,
    "create_cq": CreateCq,
    "destroy_cq": DestroyCq,
    "create_qp": CreateQp,
    "modify_qp": ModifyQp,
    "query_qp": QueryQp,
    "destroy_qp": DestroyQp,
    "fs_create": FsCreate,
    "fs_ls": FsLs,
    "fs_stat": FsStat,
    "fs_read": FsRead,
    "fs_write": FsWrite,
    "fs_writeback": FsWriteback,
    "fs_pressure": FsPressure,
    "fs_truncate": FsTruncate,
    "fs_punch": FsPunch,
    "fs_unlink": FsUnlink,
    "fs_unplug": FsUnplug,
    "fs_plug": FsPlug,
    "fs_fallocate": FsFallocate,
    "fs_reflink": FsReflink,
    "fs_migrate": FsMigrate,
    "fs_poison": FsPoison,
    "fs_umount": FsUmount,
    "fs_mount": FsMount,
    "dmabuf_create": DmabufCreate,
    "dmabuf_move": DmabufMove,
    "dmabuf_revoke": DmabufRevoke,
    "dmabuf_restore": DmabufRestore,
    "dmabuf_destroy": DmabufDestroy,
    "dmabuf_stat": DmabufStat,
    "cancel": Cancel,
    "ack": Acknowledge,
    "protocol": SetProtocol,
    "query_books": QueryBooks,
    "fs_lease": FsLease,
    "fs_mark": FsMark,
}

# The requests whose answer carries, or whose message may carry, descriptors: they need the door.
DOOR_ONLY = frozenset({"reg_mr", "create_cq", "create_qp", "dmabuf_create"})
