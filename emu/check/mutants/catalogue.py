"""All mutants, each with the smallest setup that shows it. First the bugs of CONTRACT's last table, in its order, then ours."""

from __future__ import annotations

from typing import Any, Final

from emu.check.model.setup import Setup
from emu.check.mutants import cores, engines, protocols
from emu.check.mutants.mutant import OURS, Mutant
from emu.protocols import deferred_free, ebusy, recall_fence, wait_fair


def small(*reclaims: str, **more: Any) -> Setup:
    """One holder, one MR, nothing that can fail, nobody who helps: what is not named cannot happen."""
    settings: dict[str, Any] = {
        "crashes": 0,
        "refusals": 0,
        "registrations": 0,
        "cancels": False,
        "taker": False,
        **more,
    }
    return Setup(reclaims=reclaims or ("truncate",), **settings)


CONTRACT_TABLE: Final = (
    Mutant(
        "free-under-dma", "blocks are freed while DMA goes on",
        "free while DMA goes on", "protocol: apply, free, reply at once, whoever pins",
        small(taker=True), "S1", protocol=protocols.FREE_UNDER_DMA,
    ),
    Mutant(
        "warn-only", "holders are told, and nothing is stopped",
        "callback that only warns", "protocol: notify takes the place of quiesce and unmap",
        small(), "S1", protocol=protocols.WARN_ONLY,
    ),
    Mutant(
        "warns-only-engine", "the revoke is confirmed while the NIC still reads",
        "callback that only warns", "engine: quiesce answers and fences nothing",
        small(), "V9", engine=engines.WarnsOnly,
    ),
    Mutant(
        "revoke-lost", "a revoke between pin and installed callback is lost",
        "revoke between pin and installed callback is lost", "core: an MR that is being registered pins nothing yet",
        small(), "V12", core=cores.RevokeLost,
    ),
    Mutant(
        "second-install", "a key that is revoked while it is installed comes up usable",
        "revoke between pin and installed callback is lost", "engine: unmap passes by a key whose installation is not answered",
        small(), "V20", engine=engines.SecondInstall,
    ),
    Mutant(
        "second-reference", "a second revoke drops a second reference, and waits for ever",
        "second revoke drops a second reference", "engine: quiesce of fenced keys is never answered",
        small(refusals=1), "S7", engine=engines.SecondReference,
    ),
    Mutant(
        "reuse-at-timeout", "memory is reused at the timeout although an importer has not unmapped",
        "reuse at the timeout", "protocol: the deadline applies and frees",
        small(), "V4", protocol=protocols.REUSE_AT_TIMEOUT,
    ),
    Mutant(
        "lease-at-timeout", "the lease goes at the timeout, the DMA does not",
        "lease removed at the timeout", "protocol: asks, then applies and frees at the deadline",
        small(), "S1", protocol=protocols.LEASE_AT_TIMEOUT,
    ),
    Mutant(
        "right-before-fence", "the right is dropped before the fence is confirmed",
        "right dropped before the fence is confirmed", "protocol: unmap right behind quiesce",
        small(), "contract:unmap-after-quiesce", protocol=protocols.RIGHT_BEFORE_FENCE,
    ),
    Mutant(
        "unconfirmed-fence", "the right is dropped before the fence is confirmed",
        "right dropped before the fence is confirmed", "core: quiesce counts as answered when it was asked for",
        small(), "V9", core=cores.UnconfirmedFence,
    ),
    Mutant(
        "right-dropped", "a client's right leaves the storage's table before its fence is confirmed",
        "right dropped before the fence is confirmed", "core: the right goes as its fence is asked for",
        small(), "V21", protocol=recall_fence.PROTOCOL, core=cores.RightDropped,
    ),
    Mutant(
        "fence-failure-is-done", "a fence that failed counts as confirmed",
        "right dropped before the fence is confirmed", "core: the storage's errno is not looked at",
        small(refusals=1), "V21", protocol=recall_fence.PROTOCOL, core=cores.FenceFailureIsDone,
    ),
    Mutant(
        "callback-on-freed", "an invalidation comes back to an MR that was deregistered meanwhile",
        "invalidate races with teardown", "core: the unmap's answer does not look whether its MRs are still there",
        small(), "contract:no-defect", core=cores.CallbackOnFreed,
    ),
    Mutant(
        "key-of-revoked", "a key is issued again while the MR that was revoked still has it",
        "key reused after revoke", "core: the key comes to rest at the revoke, and rests no time",
        small(holders=2), "V11", core=cores.KeyOfRevoked,
    ),
    Mutant(
        "own-pins", "a holder's own truncate frees blocks under its own MR",
        "holder's own write frees blocks under its own MR", "core: the reclaimer's own MRs are no pins",
        small("self-truncate"), "S1", core=cores.OwnPins,
    ),
    Mutant(
        "wrong-party", "the event goes to who opened first, not to who holds",
        "signal goes to the process that opened", "core: notify picks the first session that asked for events",
        small(holders=2), "V25", core=cores.WrongParty,
    ),
    Mutant(
        "check-then-act", "nobody pins it, a pin arrives, blocks are freed",
        "check-then-act", "protocol: check and act are two decisions, with no gate",
        small(), "S1", protocol=protocols.CHECK_THEN_ACT, right=ebusy.PROTOCOL,
    ),
    Mutant(
        "sleeps-on", "a waiter sleeps on after the last pin has gone",
        "waiter sleeps on after the last pin has gone", "core: unpinned is told to nobody",
        small(), "S7", protocol=protocols.LAST_PIN, core=cores.SleepsOn,
    ),
    Mutant(
        "shared-zero-page", "a WRITE lands in a page that holes share with another file",
        "page mapped read-only taken as writable", "core: a registered hole is not filled, its page is the first of another file",
        small("punch", registrations=1, taker=True), "S1", core=cores.SharedZeroPage,
    ),
    Mutant(
        "no-completion", "a peer waits for ever when the MR goes in the middle",
        "peer waits for ever when the MR goes mid-transfer", "engine: what is cut behind its first quantum is not completed",
        small(), "S5", engine=engines.NoCompletion,
    ),
)  # fmt: skip

FURTHER: Final = (
    Mutant(
        "lost-ack", "the confirmation of an unmap is lost", OURS, "engine: unmap is not answered",
        small(), "S7", engine=engines.LostAck,
    ),
    Mutant(
        "one-quantum-early", "a quiesce is reported one quantum early", OURS, "engine: quiesce does not wait for who is inside",
        small(), "V9", engine=engines.OneQuantumEarly,
    ),
    Mutant(
        "fence-forgotten", "a write goes on between fence and unmap", OURS, "engine: quiesce fences nothing, unmap waits for who is inside",
        small(), "V3", engine=engines.FenceForgotten,
    ),
    Mutant(
        "waits-for-one", "of two running quanta one is waited for", OURS, "engine: quiesce waits for the first peer alone",
        small(holders=2), "V9", engine=engines.WaitsForOne,
    ),
    Mutant(
        "second-holder", "the second holder is forgotten", OURS, "engine: of several keys the first is fenced and unmapped",
        small(holders=2), "S1", engine=engines.OnlyTheFirst,
    ),
    Mutant(
        "last-quantum", "the key is not cut in the last quantum", OURS, "engine: enter does not look at the key there",
        small(), "V9", engine=engines.LastQuantumFree,
    ),
    Mutant(
        "unmap-undone", "an unmap is confirmed, and the translation stays", OURS, "engine: unmap answers and forgets nothing",
        small(), "V4", engine=engines.UnmapUndone,
    ),
    Mutant(
        "fence-unseen", "a use of a key that was revoked does not fail", OURS, "engine: enter does not look whether the key is fenced",
        small(), "V19", engine=engines.FenceUnseen,
    ),
    Mutant(
        "revived", "a revoked key works again when a new namespace appears", OURS, "engine: unmap forgets nothing, online makes all keys usable",
        small("surprise-unplug"), "V10", engine=engines.Revived,
    ),
    Mutant(
        "cut-is-success", "a WRITE that was cut completes with success", OURS, "engine: a refused quantum ends its operation with success",
        small(), "S4", engine=engines.CutIsSuccess,
    ),
    Mutant(
        "no-generation", "a block's generation is not bumped when it is freed", OURS, "engine: release does nothing",
        small(), "S6", engine=engines.NoGeneration,
    ),
    Mutant(
        "old-namespace", "a new namespace has the generations of the old one", OURS, "engine: online bumps nothing",
        small("surprise-unplug"), "S6", engine=engines.OldNamespace,
    ),
    Mutant(
        "old-epoch", "the answer to an old quiesce is taken for the new one's", OURS, "core: cookies are not compared",
        small("truncate", "truncate", cancels=True, mrs=2), "V9", core=cores.OldEpoch,
    ),
    Mutant(
        "double-free", "blocks are freed twice", OURS, "core: release leaves them in quarantine",
        small(), "S6", core=cores.DoubleFree,
    ),
    Mutant(
        "leak", "blocks that a truncate takes are nowhere", OURS, "core: retire does nothing",
        small(), "S6", core=cores.Leak,
    ),
    Mutant(
        "gate-ignored", "a registration does not look at the gate", OURS, "core: the gate is not checked",
        small(registrations=1), "V1", core=cores.GateIgnored,
    ),
    Mutant(
        "overtaken", "new pins come in while a reclaim waits for the last one", OURS, "protocol: no gate while it waits",
        small(mrs=2), "V23", protocol=protocols.OVERTAKEN, right=wait_fair.PROTOCOL,
    ),
    Mutant(
        "queue-jumped", "new pins come in before a reclaim that waits behind another one", OURS,
        "core: registrations look at gates alone", small("punch 0 4096", "punch 0 8192", mrs=2), "V23",
        protocol=wait_fair.PROTOCOL, core=cores.QueueJumped,
    ),
    Mutant(
        "gate-too-early", "the gate opens when the DMA is fenced", OURS, "core: unmap lifts the gate",
        small(holders=2), "contract:free-after-unmap", core=cores.GateTooEarly,
    ),
    Mutant(
        "key-generation", "a key comes back at once with its old generation", OURS, "core: keys rest no time and keep their generation",
        small(registrations=1), "V11", core=cores.KeyGeneration,
    ),
    Mutant(
        "zeroing-forgotten", "a file grows over old bytes", OURS, "core: the tail is not blanked before it can be read",
        small("truncate 2048", "truncate 8192"), "S9", core=cores.ZeroingForgotten,
    ),
    Mutant(
        "told-twice", "a holder is told twice of one revoke", OURS, "core: what was told is forgotten",
        small("truncate", "truncate", cancels=True), "V13", core=cores.ToldTwice,
    ),
    Mutant(
        "revoke-taken-back", "an interrupted reclaim gives the MRs back", OURS, "core: the end of a failed reclaim clears `revoked`",
        small(cancels=True), "V15", core=cores.RevokeTakenBack,
    ),
    Mutant(
        "session-forgotten", "a dead session is forgotten before its MRs", OURS, "core: sweep does not wait for the teardown",
        small(crashes=1), "V24", core=cores.SessionForgotten,
    ),
    Mutant(
        "timer-of-the-dead", "a reclaim's timer dies with who asked", OURS, "core: a lost session disarms",
        small(crashes=1, refusals=1), "S7", core=cores.TimerOfTheDead,
    ),
    Mutant(
        "cancelled-goes-on", "EINTR is answered, and the truncate is carried out", OURS, "core: interrupt answers and does not end",
        small(cancels=True), "V22", core=cores.CancelledGoesOn,
    ),
    Mutant(
        "truncated-early", "the size changes when it is asked for", OURS, "core: fs_truncate sets the size before the reclaim",
        small(cancels=True), "S3", core=cores.TruncatedEarly,
    ),
    Mutant(
        "orphan-unnoted", "blocks that outlive their file under a pin are not in the durable record", OURS,
        "core: keep notes nothing",
        small(), "S6", protocol=deferred_free.PROTOCOL, core=cores.OrphanUnnoted,
    ),
    Mutant(
        "unmap-refusal-is-done", "an unmap that was refused is taken for done", OURS, "core: the refusal is not looked at",
        small(refusals=1), "V14", protocol=protocols.STRICT, core=cores.UnmapRefusalIsDone,
    ),
    Mutant(
        "crash-before-effect", "a crash between commit and effect leaves blocks owned and free at once", OURS,
        "engine: a start does not bring generations to the parity of free and owned",
        small(crashes=1), "S6", engine=engines.NotRecovered,
    ),
    Mutant(
        "unplug-forgotten", "after a restart a device is there that was unplugged", OURS, "core: devices are not durable",
        small("unplug", crashes=1), "S2", core=cores.UnplugForgotten,
    ),
    Mutant(
        "block-too-many", "a truncate leaves a block behind the end", OURS, "core: shrink keeps one more",
        small("truncate 0"), "S2", core=cores.BlockTooMany,
    ),
    Mutant(
        "refusal-is-done", "hardware that refuses to stop is taken as stopped", OURS, "protocol: quiesce_failed applies and frees",
        small(refusals=1), "V4", protocol=protocols.REFUSAL_IS_DONE,
    ),
    Mutant(
        "never-asks-again", "a refused quiesce is never asked for again", OURS, "protocol: the timer is not armed",
        small(refusals=1), "S7", protocol=protocols.NEVER_ASKS_AGAIN,
    ),
    Mutant(
        "deadline-off-by-one", "the last of three deadlines never comes", OURS, "protocol: three warnings, two timers",
        small(), "S7", protocol=protocols.DEADLINE_OFF_BY_ONE,
    ),
    Mutant(
        "waits-for-the-deaf", "an acknowledgement is waited for without a deadline", OURS, "protocol: only acknowledged leads on",
        small(), "S7", protocol=protocols.WAITS_FOR_THE_DEAF,
    ),
    Mutant(
        "holder-lost-is-all", "the death of one holder counts as the consent of all", OURS, "protocol: holder_lost applies and frees",
        small(holders=2, crashes=1), "S1", protocol=protocols.HOLDER_LOST_IS_ALL,
    ),
    Mutant(
        "ack-is-done", "an acknowledgement counts as the end of DMA", OURS, "protocol: acknowledged applies and frees",
        small(), "S1", protocol=protocols.ACK_IS_DONE,
    ),
    Mutant(
        "gate-forgotten", "the next pin comes in behind the revoke", OURS, "protocol: no gate",
        small(holders=2), "contract:free-after-unmap", protocol=protocols.GATE_FORGOTTEN,
    ),
    Mutant(
        "timer-left-armed", "a timer is not disarmed and rings in the next phase", OURS, "protocol: no disarm",
        small(), "contract:total", protocol=protocols.TIMER_LEFT_ARMED,
    ),
    Mutant(
        "reply-first", "success is answered before the truncate", OURS, "protocol: reply when fenced, apply when unmapped",
        small(), "S2", protocol=protocols.REPLY_FIRST,
    ),
    Mutant(
        "reply-before-unmap", "success is answered while translations stand", OURS, "protocol: apply and reply when fenced",
        small(), "V20", protocol=protocols.REPLY_BEFORE_UNMAP,
    ),
    Mutant(
        "error-behind-success", "success is answered, and an error behind it", OURS, "protocol: reply in the first decision",
        small(refusals=1), "contract:one-answer", protocol=protocols.ERROR_BEHIND_SUCCESS,
    ),
    Mutant(
        "cancel-applies", "EINTR is answered for what was carried out", OURS, "protocol: cancelled applies",
        small(cancels=True), "contract:deny-before-apply", protocol=protocols.CANCEL_APPLIES,
    ),
    Mutant(
        "cancel-frees", "an interrupted reclaim frees what is still mapped", OURS, "protocol: cancelled applies and frees",
        small(cancels=True), "contract:free-after-unmap", protocol=protocols.CANCEL_FREES,
    ),
    Mutant(
        "detached-first", "writes succeed in blocks that the file has lost", OURS, "protocol: apply before quiesce, free behind the unmap",
        small(), "S4", protocol=protocols.DETACHED_FIRST,
    ),
    Mutant(
        "surprise-shrugged-off", "stale keys survive into the new namespace", OURS, "protocol: surprise only replies",
        small("surprise-unplug"), "S1", protocol=protocols.SURPRISE_SHRUGGED_OFF,
    ),
    Mutant(
        "freed-twice", "what is free is freed", OURS, "protocol: free, free",
        small(), "contract:free-after-apply", protocol=protocols.FREED_TWICE,
    ),
    Mutant(
        "never-ends", "a reclaim is answered and never ends: its gate stays", OURS, "protocol: the last phase is not the end",
        small(), "S7", protocol=protocols.NEVER_ENDS,
    ),
    Mutant(
        "several-holders", "with two holders nothing is unmapped", OURS, "protocol: decides by the number of holders",
        small(holders=2), "V4", protocol=protocols.SEVERAL_HOLDERS,
    ),
)  # fmt: skip

MUTANTS: Final = (*CONTRACT_TABLE, *FURTHER)


class UnknownMutant(LookupError):
    """No mutant has this name."""


def find(name: str) -> Mutant:
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise UnknownMutant(f"mutant {name!r} is unknown: use {', '.join(mutant.name for mutant in MUTANTS)}")
