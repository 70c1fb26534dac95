"""The model's fabric: each peer on a node of its own, its queue pair connected to one at the broker's NIC, and a network in between.

    peer's qp, link ----- there: requests ---->  link, qp at the broker's NIC ---> the world's engine (one quantum a packet)
           completions <- back: ACK, NAK  -----

Queue pairs and links are csrc's own rules (emu_qp_step, emu_link_step) over bytes; the network is this file's: it delays by not delivering,
loses, repeats, cuts, and reorders, as often as Terms allows. A WRITE of n quanta is n packets; an answer is asked of the last. Time is
made of moves: a timer may run out when nothing of its connection is under way, and a few times (Terms.hurries) before; its length is in
`timers` for whoever has a clock.

What the world does:

    post(state, peer, key, quanta)     peerN: WRITE K
    moves(state)                       network: ... and peerN: timer fires
    serving(state, peer)               the request whose quantum the NIC would carry out now, or None
    enter(state, peer, outcome)        engine: peerN enters Q: what the key said; `Step.runs` unless it was refused (NAK, queue pair in ERR)
    leave(state, peer, spoilt)         engine: peerN leaves Q
    die(state, peer)                   the responder goes with its context or device; peers see RETRY_EXC_ERR
    connect(state, peer)               peerN: connects again, both ends, once its queue pair is in ERR (may_connect)
    vanish(state, peer)                the same with the whole broker
    canonical(state), renamed(state, of), exchanged(state, order), keys_of(state): functions of this module

Labels: `network: deliver P` | `network: lose P` | `network: duplicate P`, P being `peerN's write 5?`, `peerN's ack 5`, `peerN's sequence 5` (5 is missing),
`peerN's nak 5 REM_ACCESS`; a number is the packet's sequence number, ? asks for an answer; packets that look alike are alike.
`network: partition` cuts both directions, `network: partition requests` and `network: partition answers` one: what is sent then vanishes, what is
on its way arrives. `network: heal` ends it.

What breaks is told: a success that was not carried out, a quantum carried out twice or out of order (S4). Completions come once each
and in order by construction of the rules; the world's judge counts them (S5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu.check.model.fabric_state import (
    Completion,
    FabricState,
    Line,
    Packet,
    Reply,
    Request,
    Step,
    Terms,
    Work,
)
from emu.check.model.fabric_turn import CLOSED, Turn
from emu.engine.link import MASK, Link, LinkEvent, Rules
from emu.engine.rules import Outcome, QpAttr, QpState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Choice = tuple[str, Callable[[], Step]]

_BIT = {name: 1 << bit for bit, name in enumerate(("state", "cur_state", "sqd", "access", "pkey_index", "port", "qkey", "av", "path_mtu",
    "timeout", "retry_cnt", "rnr_retry", "rq_psn", "max_rd_atomic", "alt", "min_rnr_timer", "sq_psn", "max_dest_rd_atomic", "mig", "cap",
    "dest_qpn"))}  # fmt: skip
REMOTE_WRITE = 2


class Fabric:
    """Moves over immutable states; the object itself holds the rules' scratch memory and the start of a connection, nothing of a run."""

    def __init__(self, peers: int, terms: Terms | None = None) -> None:
        self.peers, self.terms, self.rules = peers, terms or Terms(), Rules()
        self.fresh = self._connected()

    def start(self) -> FabricState:
        terms = self.terms
        left = (terms.losses, terms.duplicates, terms.partitions, terms.overtakes, terms.hurries)
        return FabricState((self.fresh,) * self.peers, (False, False), *left)

    # ---- peers

    def may_post(self, state: FabricState, peer: int) -> bool:
        """Is there room in its send queue, and is it not in ERR with the news polled? One WRITE more shows the flush."""
        return len(state.lines[peer].works) < self.terms.depth and not self.failed(state, peer)

    def failed(self, state: FabricState, peer: int) -> bool:
        """The peer's queue pair is in ERR."""
        return state.lines[peer].qp[0] == QpState.ERR

    def post(
        self, state: FabricState, peer: int, key: int, quanta: int, mr: int = 0, late: bool = False
    ) -> Step:
        turn = self._turn(state, peer)
        turn.post(Work(turn.posted, key, quanta, mr, late))
        return turn.step()

    def fire(self, state: FabricState, peer: int) -> Step:
        """peerN: timer fires."""
        if _hurries(state.lines[peer]):
            state = state._replace(hurries=max(state.hurries - 1, 0))
        turn = self._turn(state, peer)
        turn.fire()
        return turn.step()

    def timers(self, state: FabricState) -> tuple[tuple[int, str, int], ...]:
        """(peer, "ack" or "rnr", nanoseconds from its arming on) of all that are armed, unscaled."""
        return tuple((peer, *line.timer) for peer, line in enumerate(state.lines) if line.timer)

    def may_connect(self, state: FabricState, peer: int) -> bool:
        return self.failed(state, peer) and state.lines[peer].serving is None

    def connect(self, state: FabricState, peer: int) -> Step:
        """Both ends anew. What was on its way was for queue pairs that are no more."""
        posted = state.lines[peer].posted
        line = self.fresh._replace(posted=posted, ran=(posted - 1, 0, 1))
        return Step(_with(state, peer, line))

    # ---- the broker's NIC

    def serving(self, state: FabricState, peer: int) -> Request | None:
        return state.lines[peer].serving

    def enter(self, state: FabricState, peer: int, outcome: int = Outcome.OK) -> Step:
        turn = self._turn(state, peer)
        runs = turn.enter(outcome)
        return turn.step(runs=runs)

    def leave(self, state: FabricState, peer: int, spoilt: bool = False) -> Step:
        turn = self._turn(state, peer)
        work = turn.serving.work.number if turn.serving else -1
        if spoilt and work not in turn.spoilt and any(w.number == work for w in turn.works):
            turn.spoilt = (*turn.spoilt, work)
        turn.leave()
        return turn.step()

    def die(self, state: FabricState, peer: int) -> Step:
        turn = self._turn(state, peer)
        turn.die()
        return turn.step()

    def vanish(self, state: FabricState, peer: int) -> Step:
        """The same, and nobody is left who would carry out what was accepted."""
        turn = self._turn(state, peer)
        turn.die()
        turn.serving = None
        return turn.step()

    # ---- the network

    def moves(self, state: FabricState) -> Iterator[Choice]:
        """Everything that network and timers can do next."""
        for peer, line in enumerate(state.lines):
            yield from self._deliveries(state, peer, line)
            if line.timer and (state.hurries or not _hurries(line)):
                yield f"peer{peer + 1}: timer fires", _bound(self.fire, state, peer)
            yield from self._mishaps(state, peer, line)
        if any(state.cut):
            yield "network: heal", _bound(self.heal, state)
        elif state.partitions:
            for word, cut in PARTITIONS.items():
                yield f"network: partition{word}", _bound(self.partition, state, cut)

    def _deliveries(self, state: FabricState, peer: int, line: Line) -> Iterator[Choice]:
        there = () if line.serving else _next(state, line.there)
        for packet in (*there, *_next(state, line.back)):
            yield f"network: deliver peer{peer + 1}'s {packet}", _bound(self.deliver, state, peer, packet)

    def _mishaps(self, state: FabricState, peer: int, line: Line) -> Iterator[Choice]:
        if not (state.losses or state.duplicates):
            return
        for packet in dict.fromkeys((*line.there, *line.back)):
            if state.losses:
                yield f"network: lose peer{peer + 1}'s {packet}", _bound(self.lose, state, peer, packet)
            if state.duplicates:
                yield (
                    f"network: duplicate peer{peer + 1}'s {packet}",
                    _bound(self.duplicate, state, peer, packet),
                )

    def deliver(self, state: FabricState, peer: int, packet: Packet) -> Step:
        line = state.lines[peer]
        flying = line.there if isinstance(packet, Request) else line.back
        if flying[0] != packet:
            state = state._replace(overtakes=state.overtakes - 1)
        turn = self._turn(state, peer)
        if isinstance(packet, Request):
            turn.there = _without(turn.there, packet)
            turn.arrived(packet)
        else:
            turn.back = _without(turn.back, packet)
            turn.answered(packet)
        return turn.step()

    def lose(self, state: FabricState, peer: int, packet: Packet) -> Step:
        line = state.lines[peer]
        line = line._replace(**_moved(line, packet, _without))
        return Step(_with(state._replace(losses=state.losses - 1), peer, line))

    def duplicate(self, state: FabricState, peer: int, packet: Packet) -> Step:
        """The copy is the last in line."""
        line = state.lines[peer]
        line = line._replace(**_moved(line, packet, lambda flying, copy: (*flying, copy)))
        return Step(_with(state._replace(duplicates=state.duplicates - 1), peer, line))

    def partition(self, state: FabricState, cut: tuple[bool, bool]) -> Step:
        return Step(state._replace(cut=cut, partitions=state.partitions - 1))

    def heal(self, state: FabricState) -> Step:
        return Step(state._replace(cut=(False, False)))

    # ---- the start

    def _turn(self, state: FabricState, peer: int) -> Turn:
        return Turn(self.rules, self.terms, state, peer)

    def _connected(self) -> Line:
        psn, window = self.terms.psn, self.terms.window
        qp = self._ready()
        link = self.rules.link(self.rules.new_link, LinkEvent.OPEN, psn, window)[0]
        host = self.rules.link(self.rules.new_link, LinkEvent.OPEN, expected=psn)[0]
        return Line(qp, link, qp, host)

    def _ready(self) -> bytes:
        """A queue pair on its way to RTS, by the rules."""
        terms = self.terms
        qp = self.rules.new_qp
        to_init = {"state": QpState.INIT, "pkey_index": 0, "port": 1, "access": REMOTE_WRITE}
        to_rtr = {"state": QpState.RTR, "av": 0, "path_mtu": 5, "dest_qpn": 1, "rq_psn": terms.psn, "max_dest_rd_atomic": 1,
            "min_rnr_timer": terms.min_rnr_timer}  # fmt: skip
        to_rts = {"state": QpState.RTS, "timeout": terms.timeout, "retry_cnt": terms.retry_cnt, "rnr_retry": terms.rnr_retry,
            "sq_psn": terms.psn, "max_rd_atomic": 1}  # fmt: skip
        for given in (to_init, to_rtr, to_rts):
            mask = sum(_BIT[name] for name in given)
            values = {name: int(value) for name, value in given.items() if name != "av"}
            qp = self.rules.modify(qp, QpAttr(**{**values, "mask": mask}))
        return qp


def canonical(state: FabricState) -> tuple[Any, ...]:
    """Equal tuples: the same future, under the same keys. Sequence numbers and work requests count from where the connection is."""
    return (tuple([_canonical(line) for line in state.lines]), *state[1:])


def renamed(state: FabricState, of: Callable[[int], int]) -> FabricState:
    """Keys by other names."""
    return state._replace(lines=tuple([_renamed(line, of) for line in state.lines]))


def exchanged(state: FabricState, order: tuple[int, ...]) -> FabricState:
    """Peer n (from 0) is called order[n]."""
    lines = dict(zip(order, state.lines, strict=True))
    return state._replace(lines=tuple([lines[peer] for peer in range(len(lines))]))


def keys_of(state: FabricState) -> Iterator[int]:
    """Keys that it speaks of, some more than once."""
    for line in state.lines:
        yield from (work.key for work in line.works)
        yield from (request.work.key for request in line.there)
        if line.serving is not None:
            yield line.serving.work.key


PARTITIONS = {"": (True, True), " requests": (True, False), " answers": (False, True)}


def _bound(make: Callable[..., Step], *args: Any) -> Callable[[], Step]:
    return lambda: make(*args)


def _with(state: FabricState, peer: int, line: Line) -> FabricState:
    return state._replace(lines=(*state.lines[:peer], line, *state.lines[peer + 1 :]))


def _hurries(line: Line) -> bool:
    """Its ack timer would run out too early."""
    return line.timer[0] == "ack" and bool(line.there or line.back or line.serving)


def _next(state: FabricState, flying: tuple[Packet, ...]) -> tuple[Packet, ...]:
    """Who may arrive next: the first, or anybody where packets overtake each other."""
    return tuple(dict.fromkeys(flying)) if state.overtakes else flying[:1]


def _without(flying: tuple[Any, ...], packet: Packet) -> tuple[Any, ...]:
    at = flying.index(packet)
    return flying[:at] + flying[at + 1 :]


def _moved(line: Line, packet: Packet, change: Callable[..., tuple[Any, ...]]) -> dict[str, Any]:
    name = "there" if isinstance(packet, Request) else "back"
    return {name: change(getattr(line, name), packet)}


def _canonical(line: Line) -> tuple[Any, ...]:
    link, host = Link.of(line.link), Link.of(line.host_link)
    base, posted = _base(line, link, host), line.posted
    return (
        line.qp,
        link.moved(base, 0) if link.open else (),
        line.host_qp,
        host.moved(0, base) if host.open else (),
        tuple([_work(work, posted) for work in line.works]),
        line.timer,
        line.serving and _request(line.serving, base, posted),
        tuple([_request(request, base, posted) for request in line.there]),
        tuple([_reply(reply, link, base) for reply in line.back]),
        (line.ran[0] - posted, *line.ran[1:]),
        tuple([number - posted for number in line.spoilt]),
    )


def _base(line: Line, link: Link, host: Link) -> int:
    if host.open:
        return host.expected
    if link.open:
        return link.unacked
    return line.serving.psn if line.serving else 0


def _work(work: Work, posted: int) -> tuple[Any, ...]:
    return (work.number - posted, *work[1:])


def _reply(reply: Reply, link: Link, base: int) -> tuple[Any, ...]:
    """An answer that came before is nothing, whatever it said."""
    if reply.psn - link.unacked & MASK > MASK // 2:
        return ()
    return (reply.psn - base & MASK, *reply[1:])


def _request(request: Request, base: int, posted: int) -> tuple[Any, ...]:
    """A request that was carried out is answered once more or not; what it wrote does not matter."""
    if request.psn - base & MASK > MASK // 2:
        return (request.asks,)
    return (request.psn - base & MASK, request.asks, _work(request.work, posted), request.quantum)


def _renamed(line: Line, of: Callable[[int], int]) -> Line:
    def work(one: Work) -> Work:
        return one._replace(key=of(one.key))

    def request(one: Request) -> Request:
        return one._replace(work=work(one.work))

    return line._replace(
        works=tuple([work(one) for one in line.works]),
        serving=line.serving and request(line.serving),
        there=tuple([request(one) for one in line.there]),
    )


__all__ = [
    "CLOSED",
    "Completion",
    "Fabric",
    "FabricState",
    "Line",
    "Packet",
    "Reply",
    "Request",
    "Step",
    "Terms",
    "Work",
    "canonical",
    "exchanged",
    "keys_of",
    "renamed",
]
