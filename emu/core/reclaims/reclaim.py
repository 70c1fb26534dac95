"""A reclaim: memory on its way back, from the request to the end. Its protocol decides, actions.py acts and checks.

    requested --> (queue: an overlapping reclaim goes first) --> tell(protocol, event) -> actions -> ... -> end

An action that takes time (quiesce, unmap, arm, apply on a host file) is an effect; its answer comes back as an event and is
told to the protocol, so a reclaim never blocks anybody. What the core guarantees whatever the protocol does: RULES of
decision.py. A protocol that breaks one has its whole decision undone and its reclaim ended with EPROTO.

Two reclaims of overlapping ranges run one behind the other. `surprise` waits for nobody: it is a fact, and all it could apply
is applied before the protocol hears of it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, Final

from emu.core.asking import fail
from emu.core.decision import END, START, Action, Decision, Facts
from emu.core.errors import ProtocolBroke, errno_name
from emu.core.memory import parking
from emu.core.reclaims import scope, stopping
from emu.core.reclaims.actions import DOING
from emu.core.reclaims.ending import end
from emu.core.storage import allocator

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.core.books import Books
    from emu.core.decision import Deciding
    from emu.core.events import Answered, Requested, TimerFired
    from emu.core.rows import Reclaim, Run, Token

REST: Final = 32  # decisions of one reclaim in one step
WORDS: Final = 300  # of a stranger's, as many as are repeated
LARGEST: Final = 1e18  # beyond it no number of an action means anything


def begin(b: Books, row: Reclaim) -> None:
    number = b.number("reclaim")
    b.reclaims.put(number, row._replace(phase=START, queued=True))
    if not scope.waits(b, number, row):
        _start(b, number)


def interrupt(b: Books, number: int) -> None:
    if b.reclaims[number].queued:
        scope.deny(
            b,
            number,
            errno.EINTR,
            "it was interrupted while it waited for another reclaim: nothing has changed",
        )
        end(b, number)
    else:
        b.agenda.append((number, "cancelled"))


def session_lost(b: Books, session: int) -> None:
    """Its own reclaims are cancelled while nothing has changed, else they go on for nobody. Others hear of a lost holder."""
    for number, row in b.reclaims.items():
        if row.session == session:
            b.reclaims.put(number, row._replace(session=0, request=0))
            if not (row.applied or row.returned or row.todo or row.fencing):
                interrupt(b, number)
        if not row.queued and any(key in b.mrs and b.mrs[key].session == session for key in row.keys):
            b.agenda.append((number, "holder_lost"))


def _start(b: Books, number: int) -> None:
    row = b.reclaims[number]._replace(queued=False)
    b.reclaims.put(number, row)
    stopped = scope.stopped(b, row)
    if stopped:
        scope.deny(b, number, *stopped)
        end(b, number)
        return
    keys = scope.pinned(b, row)
    b.reclaims.put(number, row._replace(keys=keys))
    scope.phase(b, number, "requested", {"kind": row.kind, **scope.target(b, row)})
    if row.kind != "surprise" and (refusal := scope.unable(b, row, keys)):
        scope.deny(b, number, errno.EBUSY, refusal)
        end(b, number)
        return
    b.agenda.append((number, "surprise" if row.kind == "surprise" else "requested"))


def _wake(b: Books) -> None:
    """The oldest that wait for nobody any more start."""
    for number in b.reclaims:
        row = b.reclaims.get(number)
        if row is not None and row.queued and not scope.waits(b, number, row):
            _start(b, number)


def settle(b: Books, requested: Callable[[Books, Requested], None]) -> None:
    """Tell everything on the agenda, and what comes of it, and start who waited, until all reclaims are at rest."""
    told: dict[int, int] = {}
    while b.wanted or b.agenda or b.ended or b.went:
        if b.wanted:
            begin(b, b.wanted.pop(0))
            continue
        if not b.agenda and b.went:  # of a registration that a decision took back before it had a key
            pins_went(b)
            continue
        if not b.agenda:
            b.ended = False
            parking.go_on(b, requested)
            _wake(b)
            continue
        number, event = b.agenda.pop(0)
        row = b.reclaims.get(number)
        if row is None or row.todo:
            if row is not None:  # its apply is with the host: told when that has answered
                b.reclaims.put(number, row._replace(todo=(*row.todo, Action("tell", event))))
            continue
        told[number] = told.get(number, 0) + 1
        mark = b.mark()
        try:
            tell(b, number, event, told[number])
        except ProtocolBroke as error:
            b.rollback(mark)
            break_off(b, number, error)


def break_off(b: Books, number: int, error: ProtocolBroke) -> None:
    """The protocol broke the contract: the reclaim ends with EPROTO, nothing (more) is freed."""
    row = b.reclaims[number]
    scope.phase(b, number, "broken", {"rule": error.rule, "sentence": str(error)})
    if not row.returned:
        definite = not row.applied
        fail(b, row.session, row.request, error.errno, f"{error}: change the mount's protocol", definite)
        b.reclaims.put(number, row._replace(returned=True, errno=error.errno))
        scope.phase(b, number, "returned", {"errno": error.errno})
    end(b, number)


def tell(b: Books, number: int, event: str, times: int) -> None:
    """Ask the protocol and do what it says. times: how often it was asked in this step."""
    row = b.reclaims[number]
    if times > REST:
        raise scope.broke(row, "at-rest", f"{REST} decisions in one step")
    protocol = b.protocols[row.protocol]
    decision = decide(protocol, row, event, scope.facts_of(b, row))
    if decision is None:
        return
    b.reclaims.put(number, row._replace(phase=decision.phase))
    act(b, number, decision.actions)


def decide(protocol: Deciding, row: Reclaim, event: str, facts: Facts) -> Decision | None:
    """Ask, and look hard at the answer."""
    try:
        decision = protocol.decide(row.phase, event, facts)
    except (ProtocolBroke, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - a stranger's code may raise anything; it is told
        raise ProtocolBroke(
            row.protocol, "no-raise", f"{event} in phase {row.phase}: {told(error)}"
        ) from None
    if decision is None:
        return None
    if not well_formed(decision):
        what = type(decision).__name__
        raise ProtocolBroke(
            row.protocol, "known-answer", f"{event} in phase {row.phase}: the answer ({what}) is none"
        )
    return decision


def told(error: BaseException) -> str:
    """Its name and its words, if it has any that can be read."""
    try:
        return f"{type(error).__name__}: {error}"[:WORDS]
    except Exception:  # noqa: BLE001 - its words may raise as well
        return type(error).__name__


def well_formed(decision: Any) -> bool:
    """Exact types, so that nothing in it runs code of its own when it is looked at."""
    if type(decision) is not Decision or len(decision) != len(Decision._fields):
        return False
    phase: Any = decision.phase
    actions: Any = decision.actions
    return type(phase) is str and phase != "" and type(actions) is tuple and all(map(_known, actions))


def _known(action: Any) -> bool:
    if type(action) is not Action or len(action) != len(Action._fields):
        return False
    verb, text, number = action
    plain = type(verb) is str and type(text) is str and type(number) in {int, float}
    return plain and verb in DOING and -LARGEST < number < LARGEST  # neither not-a-number nor infinite


def act(b: Books, number: int, actions: tuple[Action, ...]) -> None:
    """Carry out actions; the rest waits in `todo` while the host applies. In phase END the reclaim ends behind them."""
    for at, action in enumerate(actions):
        if action.verb == "tell":
            b.agenda.append((number, action.text))
            continue
        if DOING[action.verb](b, number, action):
            if number not in b.reclaims:
                return
            rest = actions[at + 1 :]
            b.reclaims.put(number, b.reclaims[number]._replace(todo=(Action("wait"), *rest)))
            return
    row = b.reclaims[number]
    if row.phase == END:
        if not row.returned:
            raise scope.broke(row, "one-answer", "the end without an answer")
        end(b, number)


def host_applied(b: Books, _number: int, token: Token, event: Answered) -> None:
    """The host (the engine, of a device) has done it, or refused: then the request fails with its errno and the rest is left."""
    row = b.reclaims[token.reclaim]
    rest = row.todo[1:]
    b.reclaims.put(token.reclaim, row._replace(todo=(), applied=not event.errno))
    if event.errno:
        who = "the host's filesystem"
        if row.device:
            b.devices.put(row.device, b.devices[row.device]._replace(online=True))
            who = "the engine"
        scope.deny(b, token.reclaim, event.errno, f"{who} answered {errno_name(event.errno)}")
        end(b, token.reclaim)
        return
    _go_on(b, token.reclaim, rest)


def paged_out(b: Books, _number: int, token: Token, _event: Answered) -> None:
    """The kernel was asked: what it made of that changes nothing for anybody here."""
    rest = b.reclaims[token.reclaim].todo[1:]
    b.reclaims.put(token.reclaim, b.reclaims[token.reclaim]._replace(todo=()))
    _go_on(b, token.reclaim, rest)


def zeroed(b: Books, _number: int, token: Token, event: Answered) -> None:
    """The edges of the hole are zero, or the memory refused: the hole is committed, so that cannot be said as if nothing had changed."""
    number, row = token.reclaim, b.reclaims[token.reclaim]
    if token.zeroing in b.zeroing:
        b.zeroing.drop(token.zeroing)
    rest = row.todo[1:]
    b.reclaims.put(number, row._replace(todo=()))
    if not event.errno:
        _go_on(b, number, rest)
        return
    if not row.returned:
        sentence = f"{row.kind}: its whole blocks are zero, its edges could not be made so ({errno_name(event.errno)}): {row.kind} again"
        fail(b, row.session, row.request, event.errno, sentence, definite=False)
        b.reclaims.put(number, b.reclaims[number]._replace(returned=True, errno=event.errno))
        scope.phase(b, number, "returned", {"errno": event.errno})
    end(b, number)


def _go_on(b: Books, number: int, rest: tuple[Action, ...]) -> None:
    """Applied: the rest of the decision."""
    scope.phase(b, number, "applied")
    mark = b.mark()
    try:
        act(b, number, rest)
    except ProtocolBroke as error:
        b.rollback(mark)
        break_off(b, number, error)


def timer_fired(b: Books, event: TimerFired) -> None:
    number = b.timers.get(event.timer)
    if number is None:
        return  # disarmed while it rang
    b.timers.drop(event.timer)
    if b.reclaims[number].again == event.timer:
        stopping.ask_again(b, number)
        return
    b.reclaims.put(number, b.reclaims[number]._replace(timer=0))
    b.agenda.append((number, "deadline"))


def pins_went(b: Books) -> None:
    """Pins have gone in this step: whoever waits for the last one hears of it."""
    if not b.went:
        return
    for number, row in b.reclaims.items():
        changed = row.applied and row.kind != "surprise"  # which is applied before anybody is told
        if _was_pinned(b, row) and not row.queued and not changed and not scope.pinned(b, row):
            b.agenda.append((number, "unpinned"))
        if row.waiting:
            stopping.importer_unmapped(b, number)
    b.went.clear()
    b.idle = True


def _was_pinned(b: Books, row: Reclaim) -> bool:
    """By a pin that went: one that was there when it began, or that came in behind it."""
    space, runs = scope.space_of(b, row)
    return any(key in row.keys or (mr.space == space and _meet(mr.runs, runs)) for key, mr in b.went)


def _meet(one: tuple[Run, ...], other: tuple[Run, ...]) -> bool:
    return any(at < to + count and to < at + n for at, n in one for to, count in other)


def release_idle(b: Books) -> None:
    """Blocks that no reclaim will free, since theirs has ended, are free when nothing pins them. Called at the end of every step."""
    if not b.idle:
        return
    idle = tuple(key for key, run in b.quarantine.items() if not run.reclaim and not scope.pins_on(b, key))
    if idle:
        allocator.release(b, idle)
