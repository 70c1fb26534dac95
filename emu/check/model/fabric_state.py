"""The state of the model's fabric: queue pairs as the bytes of csrc's structs, packets on their way, work requests, as plain immutable tuples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Terms:
    """What the queue pairs are set to, and how badly the network may behave.

    depth: work requests that a peer has posted at most. How often each may happen in all: losses, duplicates, partitions;
    overtakes: a packet arrives before an older one (else each direction of a connection is first in, first out, as RC's path is);
    hurries: an ack timer runs out while something of its connection is under way (else delays are shorter than the timeout).
    psn: the first sequence number. window: packets on the wire at most, 0: a whole message. The others are modify_qp's.
    """

    depth: int = 2
    losses: int = 1
    duplicates: int = 1
    partitions: int = 1
    overtakes: int = 0
    hurries: int = 0
    timeout: int = 14
    retry_cnt: int = 1
    rnr_retry: int = 1
    min_rnr_timer: int = 12
    window: int = 0
    psn: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, int) or value < (field.name == "depth"):
                raise ValueError(
                    f"fabric: {field.name} {value!r}: use a number from {int(field.name == 'depth')}"
                )


class Work(NamedTuple):
    """A WRITE of `quanta` quanta under `key` that was posted and has not completed. mr and late are the world's own, and handed back."""

    number: int
    key: int
    quanta: int
    mr: int = 0
    late: bool = False


class Request(NamedTuple):
    """One quantum of a work request on its way to the broker's NIC. asks: an acknowledgement is wanted."""

    psn: int
    asks: bool
    work: Work
    quantum: int

    def __str__(self) -> str:
        return f"write {self.psn}{'?' if self.asks else ''}"


class Reply(NamedTuple):
    """The answer on its way back; `outcome` and `rnr` speak for a NAK."""

    psn: int
    answer: int
    outcome: int
    rnr: int

    def __str__(self) -> str:
        return f"{REPLIES[self.answer]} {self.psn}" + (f" {OUTCOMES[self.outcome]}" if self.outcome else "")


REPLIES = ("ack", "sequence", "nak")
OUTCOMES = ("", "", "", "", "REM_ACCESS", "REM_INV_REQ", "REM_OP", "RNR", "")

Packet = Request | Reply


class Line(NamedTuple):
    """One peer's connection, from its queue pair to the responder at the broker's NIC.

    qp, link: the peer's; host_qp, host_link: the responder's. works: posted and not completed, the head first; `posted`: how many ever were.
    timer: (), ("ack", ns) or ("rnr", ns). serving: the quantum that the NIC accepted and has not carried out. there, back: on their way.
    ran: (work request, quantum, of how many) carried out last. spoilt: work requests a quantum of which the world found spoilt.
    """

    qp: bytes
    link: bytes
    host_qp: bytes
    host_link: bytes
    works: tuple[Work, ...] = ()
    posted: int = 0
    timer: tuple[Any, ...] = ()
    serving: Request | None = None
    there: tuple[Request, ...] = ()
    back: tuple[Reply, ...] = ()
    ran: tuple[int, int, int] = (-1, 0, 1)
    spoilt: tuple[int, ...] = ()


class FabricState(NamedTuple):
    """cut: requests, answers that are sent now vanish. The rest counts what may still go wrong."""

    lines: tuple[Line, ...]
    cut: tuple[bool, bool] = (False, False)
    losses: int = 0
    duplicates: int = 0
    partitions: int = 0
    overtakes: int = 0
    hurries: int = 0


class Completion(NamedTuple):
    """What the peer polls: IBV_WC_* (0 success, 5 flushed, 10 REM_ACCESS_ERR, 12 RETRY_EXC_ERR, 13 RNR_RETRY_EXC_ERR)."""

    peer: int
    work: Work
    status: int
    spoilt: bool = False


class Step(NamedTuple):
    """What a move came to: completions in the order in which they are polled, asynchronous events as (side, peer, IBV_EVENT_*), side
    "peer" or "host", and what broke. `runs`: the quantum that was offered is carried out now.
    """

    state: FabricState
    completions: tuple[Completion, ...] = ()
    events: tuple[tuple[str, int, int], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    runs: bool = False
