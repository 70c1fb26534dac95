"""One connection at work: a working copy of its Line, to which csrc's rules are applied until nobody has anything more to do.

Two automata a side, the queue pair's rules and the link's (emu.engine.link.Rules); what one says is an event for the other, as link.h
draws it. Nothing is decided here: a method carries out the actions that a rule asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.check.model.fabric_state import Completion, FabricState, Line, Reply, Request, Step, Terms, Work
from emu.engine.link import MASK, Link, LinkAction, LinkEvent, Rules
from emu.engine.rules import Action, Outcome, RuleEvent, ack_timeout_ns, rnr_timer_ns

if TYPE_CHECKING:
    from emu.engine.link import LinkStep, QpStep

FLUSHED = 5  # IBV_WC_WR_FLUSH_ERR
WRITE = 0  # IBV_WR_RDMA_WRITE

# Plain integers: an IntFlag's operators cost more than the rules do.
EXECUTE, COMPLETE, FLUSH = int(Action.EXECUTE), int(Action.COMPLETE), int(Action.FLUSH_SEND)
ARM_RNR, EVENT, ACK, NAK, QP_DISARM = (
    int(action) for action in (Action.ARM_RNR, Action.EVENT, Action.ACK, Action.NAK, Action.DISARM)
)
SEND, ARM, DISARM, DONE, PROGRESS, RETRY, REFUSED, ACCEPT, REPLY = (
    int(action)
    for action in (
        LinkAction.SEND,
        LinkAction.ARM,
        LinkAction.DISARM,
        LinkAction.DONE,
        LinkAction.PROGRESS,
        LinkAction.RETRY,
        LinkAction.REFUSED,
        LinkAction.ACCEPT,
        LinkAction.REPLY,
    )
)
CLOSED = bytes(len(Link().packed()))


class Turn:
    """A Line being changed. What it leaves: `step()`."""

    def __init__(self, rules: Rules, terms: Terms, state: FabricState, peer: int) -> None:
        self.rules, self.terms, self.state, self.peer = rules, terms, state, peer
        line = state.lines[peer]
        self.qp, self.link, self.host_qp, self.host_link = line[:4]
        self.works, self.posted, self.timer, self.serving = line[4:8]
        self.there, self.back, self.ran, self.spoilt = line[8:]
        self.completions: list[Completion] = []
        self.events: list[tuple[str, int, int]] = []
        self.broken: list[tuple[str, str]] = []

    def step(self, *, runs: bool = False) -> Step:
        if self.host_link == CLOSED:  # what is on its way to somebody who left is as good as lost
            self.there = ()
        if self.link == CLOSED:
            self.back = ()
        line = Line(
            self.qp, self.link, self.host_qp, self.host_link,
            self.works, self.posted, self.timer, self.serving,
            self.there, self.back, self.ran, self.spoilt,
        )  # fmt: skip
        lines = self.state.lines
        state = self.state._replace(lines=(*lines[: self.peer], line, *lines[self.peer + 1 :]))
        return Step(state, tuple(self.completions), tuple(self.events), tuple(self.broken), runs)

    # ---- the peer: queue pair

    def post(self, work: Work) -> None:
        self.works = (*self.works, work)
        self.posted += 1
        self.head()

    def head(self) -> None:
        """The head of the send queue wants to start."""
        if self.works:
            self._obey(self.rules.qp(self.qp, RuleEvent.HEAD), new=True)

    def tell(self, event: RuleEvent, outcome: int = Outcome.OK, rnr: int = 0) -> None:
        """The queue pair's rules hear of something, and are obeyed."""
        self._obey(self.rules.qp(self.qp, event, outcome, WRITE, rnr), new=False)

    def _obey(self, said: QpStep, *, new: bool) -> None:
        self.qp, actions, status, event, _outcome, rnr = said
        if actions & QP_DISARM:
            self.timer = ()
        if actions & EVENT:
            self.events.append(("peer", self.peer, event))
        if actions & COMPLETE:
            self._complete(status)
        if actions & FLUSH:
            self._flush()
        elif actions & COMPLETE:
            self.head()
        if actions & ARM_RNR:
            self.timer = ("rnr", rnr_timer_ns(rnr))
        if actions & EXECUTE:
            self._start(new=new)

    def _start(self, *, new: bool) -> None:
        how = LinkEvent.POST if new else LinkEvent.AGAIN
        self.carry(self.rules.link(self.link, how, count=self.works[0].quanta if new else 0))

    def _complete(self, status: int) -> None:
        work, self.works = self.works[0], self.works[1:]
        if not status and self.ran < (work.number, work.quanta - 1, 0):
            self.broken.append(
                (
                    "S4",
                    f"peer{self.peer + 1}'s WRITE {work.number} succeeded, and was carried out up to {self.ran[:2]}",
                )
            )
        self.completions.append(Completion(self.peer, work, status, work.number in self.spoilt))
        self.spoilt = tuple(number for number in self.spoilt if number != work.number)

    def _flush(self) -> None:
        """In ERR: everything that is queued is flushed, and the link says nothing more."""
        self.link = self.rules.link(self.link, LinkEvent.CLOSE)[0]
        self.completions += [
            Completion(self.peer, work, FLUSHED, work.number in self.spoilt) for work in self.works
        ]
        self.works, self.spoilt = (), ()

    # ---- the peer: link

    def carry(self, said: LinkStep, rnr: int = 0) -> None:
        """What the link asks for: packets out, the timer, and the queue pair told."""
        self.link, actions, psn, count, _answer, outcome = said
        if actions & SEND:
            self._send(psn, count)
        if actions & ARM:
            after = ack_timeout_ns(self.terms.timeout)
            self.timer = ("ack", after) if after else ()
        elif actions & DISARM:
            self.timer = ()
        if actions & PROGRESS:
            self.tell(RuleEvent.PROGRESS)
        if actions & DONE:
            self.tell(RuleEvent.OUTCOME)
        elif actions & REFUSED:
            self.tell(RuleEvent.OUTCOME, outcome, rnr)
        elif actions & RETRY:
            self.tell(RuleEvent.OUTCOME, Outcome.NO_ANSWER)
            self.tell(RuleEvent.TIMER)

    def _send(self, psn: int, count: int) -> None:
        if self.state.cut[0]:
            return
        work = self.works[0]
        first = Link.of(self.link).next - work.quanta
        new = [
            Request(psn + at & MASK, at + 1 == count, work, psn + at - first & MASK) for at in range(count)
        ]
        self.there = (*self.there, *new)

    def fire(self) -> None:
        """The timer that is armed runs out."""
        kind, self.timer = self.timer[0], ()
        if kind == "rnr":
            self.tell(RuleEvent.TIMER)
        else:
            self.carry(self.rules.link(self.link, LinkEvent.TIMER))

    def answered(self, reply: Reply) -> None:
        """An answer reached the peer."""
        event = LinkEvent.ANSWER
        said = self.rules.link(self.link, event, reply.psn, 0, reply.answer, reply.outcome)
        self.carry(said, reply.rnr)

    # ---- the broker's NIC

    def arrived(self, request: Request) -> None:
        """A request reached the NIC: accepted, it waits for the engine."""
        said = self.rules.link(self.host_link, LinkEvent.REQUEST, request.psn, asks=request.asks)
        if said[1] & ACCEPT:
            self.serving = request
        self._reply(said)

    def enter(self, outcome: int) -> bool:
        """The engine has looked at the key. True: the quantum is carried out now."""
        self.host_qp, actions, _status, event, why, rnr = self.rules.qp(
            self.host_qp, RuleEvent.INBOUND, outcome, WRITE
        )
        if actions & ACK:
            return True
        self.serving = None
        if actions & EVENT:
            self.events.append(("host", self.peer, event))
        why = why if actions & NAK else Outcome.NO_ANSWER
        self._reply(self.rules.link(self.host_link, LinkEvent.RAN, outcome=why), rnr)
        if actions & FLUSH:
            self.host_link = CLOSED
        return False

    def leave(self) -> None:
        """The quantum has been carried out."""
        request, self.serving = self.serving, None
        assert request is not None, f"peer{self.peer + 1}: nothing was entered"
        self._check_order(request)
        self.ran = (request.work.number, request.quantum, request.work.quanta)
        self._reply(self.rules.link(self.host_link, LinkEvent.RAN))

    def _check_order(self, request: Request) -> None:
        """Each quantum once, in the order in which it was posted."""
        number, quantum, quanta = self.ran
        expected = (number + 1, 0) if quantum + 1 == quanta else (number, quantum + 1)
        if expected != (request.work.number, request.quantum):
            who = f"peer{self.peer + 1}'s WRITE {request.work.number}, quantum {request.quantum}"
            self.broken.append(
                ("S4", f"{who}, was carried out where WRITE {expected[0]}, quantum {expected[1]}, was due")
            )

    def _reply(self, said: LinkStep, rnr: int = 0) -> None:
        self.host_link, actions, psn, _count, answer, outcome = said
        if actions & REPLY and not self.state.cut[1]:
            self.back = (*self.back, Reply(psn, answer, outcome, rnr))

    def die(self) -> None:
        """The responder's queue pair goes away with its device or context."""
        self.host_qp = self.rules.qp(self.host_qp, RuleEvent.PEER_DEAD)[0]
        self.host_link = CLOSED
