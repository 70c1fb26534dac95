"""Work requests: what a program posts. A request is a cache line in the ring (csrc/include/emu/ring.h, struct emu_wqe); further
scatter-gather elements stand in a table of their own.

Requests are plain data: they may be changed and posted again. `next_wr` chains them; a chain is posted with one doorbell.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, TypeVar

from emu.engine.ring import Sge, WorkRequest
from emu.verbs import enums as e
from emu.verbs.base import PyverbsCM, lines
from emu.verbs.pyverbs_error import PyverbsUserError

if TYPE_CHECKING:
    from collections.abc import Sequence

W = TypeVar("W", "SendWR", "RecvWR")
WITHOUT_SGE = frozenset({e.IBV_WR_LOCAL_INV, e.IBV_WR_BIND_MW, e.IBV_WR_SEND_WITH_INV})


class SGE(PyverbsCM):
    """A piece of registered memory: `length` bytes from `addr` on, in the MR that `lkey` names."""

    __slots__ = ("addr", "length", "lkey")

    def __init__(self, addr: int, length: int, lkey: int) -> None:
        self.addr, self.length, self.lkey = addr, length, lkey

    def read(self, length: int, offset: int) -> bytes:
        """Bytes at the SGE's address: a plain load by this process, no check stands in its way (as in pyverbs)."""
        return ctypes.string_at(self.addr + offset, length)

    def __str__(self) -> str:
        return lines("", [("Address", hex(self.addr)), ("Length", self.length), ("Key", hex(self.lkey))])


def _elements(num_sge: int, sg: Sequence[SGE] | None) -> list[SGE]:
    if num_sge < 1 or sg is None or len(sg) < num_sge:
        raise PyverbsUserError(
            f"a work request needs num_sge ({num_sge}) SGEs in sg; give sg=[SGE(...)], num_sge=1"
        )
    return list(sg[:num_sge])


class _Pieces(PyverbsCM):
    """A request's memory: the first num_sge of `sg`, which the setter of sg_list replaces (as pyverbs' takes one SGE)."""

    __slots__ = ("num_sge", "sg")
    num_sge: int
    sg: list[SGE]

    @property
    def sg_list(self) -> list[SGE]:
        return self.sg

    @sg_list.setter
    def sg_list(self, value: SGE | Sequence[SGE]) -> None:
        self.sg = [value] if isinstance(value, SGE) else list(value)
        self.num_sge = len(self.sg)

    def _sges(self) -> tuple[Sge, ...]:
        if not 0 <= self.num_sge <= len(self.sg):
            raise PyverbsUserError(f"num_sge is {self.num_sge}, but the request has {len(self.sg)} SGEs")
        return tuple(Sge(piece.addr, piece.length, piece.lkey) for piece in self.sg[: self.num_sge])


class RecvWR(_Pieces):
    """Room for one message."""

    __slots__ = ("next_wr", "wr_id")

    def __init__(
        self, wr_id: int = 0, num_sge: int = 0, sg: Sequence[SGE] | None = None, next_wr: RecvWR | None = None
    ) -> None:
        self.sg_list = _elements(num_sge, sg)
        self.wr_id, self.next_wr = wr_id, next_wr

    def work_request(self) -> WorkRequest:
        """As the ring takes it."""
        return WorkRequest(self.wr_id, self._sges())

    def __str__(self) -> str:
        return lines("", [("WR ID", self.wr_id), ("Num SGE", self.num_sge)])


class SendWR(_Pieces):
    """SEND, RDMA WRITE or READ, with or without immediate data, or an atomic."""

    __slots__ = (
        "compare_add",
        "imm_data",
        "next_wr",
        "opcode",
        "remote_addr",
        "rkey",
        "send_flags",
        "swap",
        "wr_id",
    )

    def __init__(
        self,
        wr_id: int = 0,
        opcode: int = e.IBV_WR_SEND,
        num_sge: int = 0,
        imm_data: int = 0,
        sg: Sequence[SGE] | None = None,
        send_flags: int = e.IBV_SEND_SIGNALED,
        next_wr: SendWR | None = None,
    ) -> None:
        self.sg_list = [] if opcode in WITHOUT_SGE and sg is None else _elements(num_sge, sg)
        self.wr_id, self.opcode, self.imm_data = wr_id, opcode, imm_data
        self.send_flags, self.next_wr = send_flags, next_wr
        self.remote_addr = self.rkey = self.compare_add = self.swap = 0

    def set_wr_rdma(self, rkey: int, addr: int) -> None:
        self.rkey, self.remote_addr = rkey, addr

    def set_wr_atomic(self, rkey: int, addr: int, compare_add: int, swap: int = 0) -> None:
        self.rkey, self.remote_addr, self.compare_add, self.swap = rkey, addr, compare_add, swap

    def work_request(self) -> WorkRequest:
        """As the ring takes it."""
        return WorkRequest(
            self.wr_id, self._sges(), self.opcode, self.send_flags, self.imm_data,
            self.remote_addr, self.rkey, self.compare_add, self.swap,
        )  # fmt: skip

    def __str__(self) -> str:
        flags = e.ibv_send_flags(self.send_flags)
        rows = [
            ("WR ID", self.wr_id),
            ("Num SGE", self.num_sge),
            ("Opcode", self.opcode),
            ("Send flags", repr(flags)),
        ]
        return lines("", [*rows, ("Imm Data", self.imm_data)])


def chain(wr: W) -> list[W]:
    """The request and those behind it."""
    requests: list[W] = []
    link: W | None = wr
    while link is not None:
        requests.append(link)
        link = link.next_wr
    return requests
