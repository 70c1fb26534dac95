"""Wrong protocols. All but the sound ones at the end promise what mr-revoke promises, and do not keep it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from emu.core.decision import END, EVENTS, START, Decision
from emu.protocols import ebusy, mr_revoke, wait, wait_fair
from emu.protocols.contract import (
    Protocol,
    apply,
    arm,
    deny,
    disarm,
    free,
    gate,
    go,
    notify,
    quiesce,
    reply,
    unmap,
    when_pinned,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.core.decision import Facts
    from emu.protocols.runner import Choice, Rule

Table = dict[tuple[str, str], "Rule | Choice"]

DONE: Final = go(apply(), free(), reply(), to=END)
TOLD: Final = go(reply(), to=END)
INTERRUPTED: Final = go(disarm(), deny("EINTR"), to=END)


def wrong(name: str, summary: str, table: Mapping[tuple[str, str], Rule | Choice], **more: Any) -> Protocol:
    """A protocol that promises all that mr-revoke does. What its table does not decide is ignored."""
    base = mr_revoke.PROTOCOL
    rules: Table = {(START, "surprise"): table[START, "requested"], **table}
    settings: dict[str, Any] = {"ignored": {"*": tuple(EVENTS)}, "impossible": {}, **more}
    return replace(base, name=name, aliases=(), summary=summary, origin="wrong", table=rules, **settings)


def revoking(
    name: str, summary: str, changes: Mapping[tuple[str, str], Rule | Choice], **more: Any
) -> Protocol:
    """mr-revoke with some rows changed."""
    settings: dict[str, Any] = {"impossible": {}, "ignored": {"*": tuple(EVENTS)}, **more}
    table = {**mr_revoke.PROTOCOL.table, **changes}
    return replace(
        mr_revoke.PROTOCOL, name=name, aliases=(), summary=summary, origin="wrong", table=table, **settings
    )


# ---- of CONTRACT's table

FREE_UNDER_DMA = wrong(
    "free-under-dma",
    "frees at once, whoever pins it",
    {(START, "requested"): DONE, (START, "surprise"): TOLD},
    disposal="now",
)

WARN_ONLY = wrong(
    "warn-only",
    "tells the holders, and takes that for the revoke",
    {(START, "requested"): go(gate(), notify("MR_REVOKED"), apply(), free(), reply(), to=END)},
    disposal="now",
)

REUSE_AT_TIMEOUT = revoking(
    "reuse-at-timeout",
    "revokes, and frees at a deadline although not all is unmapped",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKED"), quiesce(), arm(1.0), to="fencing"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
        ("fencing", "deadline"): DONE,
        ("unmapping", "deadline"): DONE,
    },
    disposal="now",
)

LEASE_AT_TIMEOUT = wrong(
    "lease-at-timeout",
    "asks the holders to let go, and at the deadline takes the lease away, but stops no DMA",
    {
        (START, "requested"): when_pinned(
            go(gate(), notify("MR_REVOKING", 1.0), arm(1.0), to="asked"),
            go(gate(), apply(), free(), reply(), to=END),
        ),
        ("asked", "unpinned"): go(disarm(), apply(), free(), reply(), to=END),
        ("asked", "deadline"): DONE,
        ("asked", "cancelled"): INTERRUPTED,
    },
    disposal="now",
)

CHECK_THEN_ACT = replace(
    ebusy.PROTOCOL,
    name="check-then-act",
    summary="finds nobody there, looks away for a moment, and frees",
    table={
        (START, "requested"): when_pinned(go(deny("EBUSY"), to=END), go(arm(0.01), to="checked")),
        (START, "surprise"): TOLD,
        ("checked", "deadline"): DONE,
        ("checked", "cancelled"): INTERRUPTED,
    },
    ignored={"*": tuple(EVENTS)},
    impossible={},
    disposal="now",
)


# ---- ours

RIGHT_BEFORE_FENCE = revoking(
    "right-before-fence",
    "forgets the translations before the fence is confirmed",
    {(START, "requested"): go(gate(), notify("MR_REVOKED"), quiesce(), unmap(), to="unmapping")},
)

REFUSAL_IS_DONE = revoking(
    "refusal-is-done",
    "takes hardware that refuses to stop for hardware that has stopped",
    {("fencing", "quiesce_failed"): DONE},
    disposal="now",
)

NEVER_ASKS_AGAIN = revoking(
    "never-asks-again",
    "waits, where the hardware has refused, for a timer that nobody armed",
    {("fencing", "quiesce_failed"): go(to="refused")},
)

DEADLINE_OFF_BY_ONE = revoking(
    "deadline-off-by-one",
    "warns three times before it revokes, and arms its timer twice",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKING", 2.0), arm(1.0), to="first"),
        ("first", "deadline"): go(notify("MR_REVOKING", 1.0), arm(1.0), to="second"),
        ("second", "deadline"): go(notify("MR_REVOKING"), to="third"),
        ("third", "deadline"): go(quiesce(), to="fencing"),
        ("first", "cancelled"): INTERRUPTED,
        ("second", "cancelled"): INTERRUPTED,
        ("third", "cancelled"): INTERRUPTED,
    },
)

WAITS_FOR_THE_DEAF = wrong(
    "waits-for-the-deaf",
    "waits for an acknowledgement for ever, and promises an end",
    {
        (START, "requested"): when_pinned(
            go(gate(), notify("MR_REVOKING"), to="asked"), go(gate(), quiesce(), to="fencing")
        ),
        ("asked", "acknowledged"): go(quiesce(), to="fencing"),
        ("asked", "cancelled"): INTERRUPTED,
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
        ("unmapping", "unmapped"): DONE,
    },
)

HOLDER_LOST_IS_ALL = wrong(
    "holder-lost-is-all",
    "takes the death of one holder for the consent of all",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKING", 1.0), arm(1.0), to="asked"),
        ("asked", "holder_lost"): go(disarm(), apply(), free(), reply(), to=END),
        ("asked", "cancelled"): INTERRUPTED,
        ("asked", "deadline"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
        ("unmapping", "unmapped"): DONE,
    },
    disposal="now",
)

ACK_IS_DONE = wrong(
    "ack-is-done",
    "takes a holder's acknowledgement for the end of its DMA",
    {
        (START, "requested"): when_pinned(
            go(gate(), notify("MR_REVOKING", 1.0), arm(1.0), to="asked"), go(gate(), quiesce(), to="fencing")
        ),
        ("asked", "acknowledged"): go(disarm(), apply(), free(), reply(), to=END),
        ("asked", "cancelled"): INTERRUPTED,
        ("asked", "deadline"): go(quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
        ("unmapping", "unmapped"): DONE,
    },
    disposal="now",
)

GATE_FORGOTTEN = revoking(
    "gate-forgotten",
    "revokes who is there, and lets the next one in",
    {(START, "requested"): go(notify("MR_REVOKED"), quiesce(), to="fencing")},
)

TIMER_LEFT_ARMED = revoking(
    "timer-left-armed",
    "arms a timer for the quiesce and forgets it where it does not expect it any more",
    {(START, "requested"): go(gate(), notify("MR_REVOKED"), quiesce(), arm(1.0), to="fencing")},
    ignored=mr_revoke.PROTOCOL.ignored,
    impossible={**mr_revoke.PROTOCOL.impossible, "fencing": ("requested", "surprise", "unmapped")},
)
TIMER_LEFT_ARMED = replace(
    TIMER_LEFT_ARMED,
    table={
        **TIMER_LEFT_ARMED.table,
        ("fencing", "deadline"): go(quiesce(), to="fencing"),
        ("fencing", "quiesce_failed"): go(quiesce(), to="fencing"),
    },
)

REPLY_FIRST = revoking(
    "reply-first",
    "answers with success when the DMA is fenced, and truncates afterwards",
    {
        ("fencing", "quiesced"): go(reply(), unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(apply(), free(), to=END),
    },
)

REPLY_BEFORE_UNMAP = revoking(
    "reply-before-unmap",
    "truncates and answers when the DMA is fenced, while the translations still stand",
    {
        ("fencing", "quiesced"): go(apply(), reply(), unmap(), to="unmapping"),
        ("unmapping", "unmapped"): go(free(), to=END),
    },
)

ERROR_BEHIND_SUCCESS = revoking(
    "error-behind-success",
    "answers before it knows, and takes it back",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKED"), quiesce(), reply(), to="fencing"),
        ("fencing", "quiesce_failed"): go(deny("EIO"), to=END),
        ("unmapping", "unmapped"): go(apply(), free(), to=END),
    },
)

CANCEL_APPLIES = revoking(
    "cancel-applies",
    "answers EINTR, behind a change that it carries out all the same",
    {("unmapping", "cancelled"): go(apply(), deny("EINTR"), to=END)},
)

CANCEL_FREES = revoking(
    "cancel-frees",
    "hurries when it is interrupted, and frees what is not unmapped",
    {("unmapping", "cancelled"): DONE},
)

DETACHED_FIRST = wrong(
    "detached-first",
    "truncates before anything is fenced; blocks are given back behind the unmap",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKED"), apply(), quiesce(), to="fencing"),
        ("fencing", "quiesced"): go(unmap(), to="unmapping"),
        ("fencing", "quiesce_failed"): go(arm(1.0), to="refused"),
        ("refused", "deadline"): go(quiesce(), to="fencing"),
        ("unmapping", "unmapped"): go(free(), reply(), to=END),
    },
)

SURPRISE_SHRUGGED_OFF = revoking(
    "surprise-shrugged-off",
    "leaves the MRs as they are when the device has gone, since there is nothing to take back",
    {(START, "surprise"): TOLD},
)

FREED_TWICE = revoking(
    "freed-twice",
    "frees what it has freed",
    {("unmapping", "unmapped"): go(apply(), free(), free(), reply(), to=END)},
)


NEVER_ENDS = revoking(
    "never-ends",
    "answers, and keeps the gate for ever",
    {
        ("unmapping", "unmapped"): go(apply(), free(), reply(), to="resting"),
        ("resting", "cancelled"): INTERRUPTED,
    },
)


class CountsPins(Protocol):
    """Decides by its table, but for the case that somebody did not think of."""

    def decide(self, phase: str, event: str, facts: Facts) -> Decision | None:
        if event == "quiesced" and facts.holders > 1:
            return Decision(DONE.actions, DONE.to)
        return super().decide(phase, event, facts)


_REVOKE = mr_revoke.PROTOCOL
SEVERAL_HOLDERS = CountsPins(
    "several-holders",
    "forgets to unmap where there is more than one holder",
    "wrong",
    _REVOKE.table,
    _REVOKE.promises,
    importers=_REVOKE.importers,
    disposal="now",
    ignored=_REVOKE.ignored,
    impossible=_REVOKE.impossible,
)


OVERTAKEN: Final = replace(
    wait_fair.PROTOCOL,
    name="overtaken",
    summary="closes no gate while it waits, as mainline does not",
    origin="wrong",
    table=wait.PROTOCOL.table,
)


# ---- sound, for mutants of the core that mr-revoke would not notice

LAST_PIN: Final = revoking(
    "last-pin",
    "revokes, and is told by the core when the last pin is gone",
    {
        (START, "requested"): when_pinned(
            go(gate(), notify("MR_REVOKED"), quiesce(), to="fencing"),
            go(gate(), apply(), free(), reply(), to=END),
        ),
        ("unmapping", "unmapped"): go(to="waiting"),
        ("fencing", "unpinned"): DONE,
        ("unmapping", "unpinned"): DONE,
        ("refused", "unpinned"): go(disarm(), apply(), free(), reply(), to=END),
        ("waiting", "unpinned"): DONE,
        ("waiting", "cancelled"): INTERRUPTED,
    },
)

PATIENT: Final = revoking(
    "patient",
    "asks, gives a second, then revokes: sound",
    {
        (START, "requested"): go(gate(), notify("MR_REVOKING", 1.0), arm(1.0), to="asked"),
        ("asked", "deadline"): go(quiesce(), to="fencing"),
        ("asked", "cancelled"): INTERRUPTED,
    },
)

STRICT: Final = revoking(
    "strict",
    "mr-revoke, which promises V14 too: it asks again, and does not go on",
    {},
    promises=(*mr_revoke.PROTOCOL.promises, "V14"),
)

SOUND: Final = (LAST_PIN, PATIENT, STRICT)
