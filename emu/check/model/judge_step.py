"""What one step of the core shows, in the core's own numbers: V1 V11 V12 V13 V15 V21 V23 V24 V25 S9, and the rules of the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from emu.check.model.engine import blocks_of
from emu.core import effects as do
from emu.core.decision import CONTRACT
from emu.core.memory.keys import KEY_REST
from emu.core.rows import BLOCK
from emu.core.storage import extents
from emu.core.storage.extents import blocks_up

if TYPE_CHECKING:
    from emu.check.model.facts import Books
    from emu.check.model.state import Finding


def judge_step(
    before: Books, after: Books, made: tuple[do.Effect, ...], protocol: str
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What one step of the core shows, in the core's own numbers. Books that the step left alone may be the same object before and behind."""
    broken: list[Finding] = []
    changed = {name for name, rows in after.items() if rows is not before[name]}
    met: list[str] = []
    for effect in made:
        if isinstance(effect, do.Phase):
            if effect.detail.get("rule"):
                broken.append(
                    (
                        f"{CONTRACT}{effect.detail['rule']}",
                        f"{effect.detail.get('sentence', protocol)}: its reclaim ended with EPROTO",
                    )
                )
            if effect.phase in {"unmapped", "retargeted"} and effect.keys:
                met.append("an MR was revoked")
    broken += ungated(before, after, made)
    if changed & {"mrs", "sessions"}:
        broken += registered(before, after)
    if "mrs" in changed or any(isinstance(effect, do.Notify) for effect in made):
        broken += revoked(before, after, made)
    if changed & {"mrs", "keys"}:
        broken += rested(before, after)
    if changed & {"rights", "fences"}:
        broken += dropped(before, after, made)
    if "files" in changed:
        broken += tails(before, after, made)
    if any(
        isinstance(effect, do.Phase) and effect.phase == "returned" and not effect.detail["errno"]
        for effect in made
    ):
        broken += lost_revokes(after)
    return tuple(broken), tuple(met)


def dropped(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V21: a right leaves the table when it was given back, or when a fence of it that was outstanding has been answered; and it is said."""
    answered = {
        row.right
        for fence, row in before["fences"].items()
        if not row.failed and fence not in after["fences"]
    }
    gone = {right: row for right, row in before["rights"].items() if right not in after["rights"]}
    found = [
        ("V21", f"right {right} left the table, and was neither given back nor fenced")
        for right, row in gone.items()
        if not row.returning and right not in answered
    ]
    said = {effect.right for effect in made if isinstance(effect, do.DropRight)}
    return found + [
        ("V21", f"right {right} left the table, and nobody said so") for right in gone.keys() - said
    ]


TAKING: Final = frozenset({"notified", "destroyed", "fencing", "unmapping", "applying", "applied", "freed"})
DONE_TO_MEMORY: Final = frozenset({"applying", "applied", "freed"})


def ungated(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V1: whoever takes the range from others, and lets go of the core before it has ended, has closed a gate first."""
    shut = {number for number, row in before["reclaims"].items() if row.gated}
    for effect in made:
        if not isinstance(effect, do.Phase) or effect.reclaim not in after["reclaims"]:
            continue
        if effect.phase == "gated":
            shut.add(effect.reclaim)
        acts = effect.phase in DONE_TO_MEMORY or (effect.phase in TAKING and effect.keys)
        if acts and effect.reclaim not in shut:
            told = f"reclaim {effect.reclaim} took the range from others in several steps, and closed no gate"
            return [("V1", told)]
    return []


def registered(before: Books, after: Books) -> list[Finding]:
    """V1: behind a gate nobody registers the range. V23: nor does anybody overtake a reclaim that waits. V24: every pin has an owner."""
    found: list[Finding] = []
    for key, row in after["mrs"].items():
        if key not in before["mrs"]:
            waited = [
                p for p in before["parked"].values() if (p.session, p.request) == (row.session, row.request)
            ]
            for number, reclaim in before["reclaims"].items():
                if number not in after["reclaims"] or not meets(after, row.runs, reclaim):
                    continue
                if reclaim.gated:
                    found.append(("V1", f"MR {key} was registered behind the gate of reclaim {number}"))
                behind = not waited or number in waited[0].behind
                if behind and not reclaim.returned:
                    found.append(
                        ("V23", f"MR {key} came behind reclaim {number}, which waits, and was pinned")
                    )
        if row.session not in after["sessions"]:
            found.append(("V24", f"MR {key} pins memory, and its session is gone"))
    return found


def meets(books: Books, runs: tuple[do.Run, ...], reclaim: Any) -> bool:
    """Does a reclaim take a byte of these runs?"""
    if reclaim.device:
        return True
    file = books["files"].get(reclaim.ino)
    if file is None:
        return False
    taken = (
        extents.runs(file.extents, reclaim.lo, min(reclaim.hi, file.size) - reclaim.lo)
        if reclaim.lo < file.size
        else ()
    )
    return any(at < to + count and to < at + size for at, size in runs for to, count in taken)


def lost_revokes(books: Books) -> list[Finding]:
    """V12: a reclaim has succeeded, and none that was being installed meanwhile is left out."""
    owned = {e[1] + at for row in books["files"].values() for e in row.extents for at in range(e[2])}
    return [
        ("V12", f"the reclaim succeeded, and MR {key}, which was being installed, was not revoked")
        for key, row in books["mrs"].items()
        if row.state == "installing" and not row.revoked and not owned.issuperset(blocks_of(row.runs))
    ]


def tails(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """S9: what is past the end of a file is blanked before it can be read."""
    found: list[Finding] = []
    for ino, row in before["files"].items():
        now = after["files"].get(ino)
        if now is None or now.size <= row.size:
            continue
        end = min(now.size, blocks_up(row.size) * BLOCK)
        shown = extents.runs(now.extents, row.size, end - row.size) if row.size < end else ()
        blanked = [run for effect in made if isinstance(effect, do.Blank) for run in effect.runs]
        if any(run not in blanked for run in shown):
            found.append(
                (
                    "S9",
                    f"{row.path} grew from {row.size} to {now.size} bytes, and what was past its end can be read",
                )
            )
    return found


def revoked(before: Books, after: Books, made: tuple[do.Effect, ...]) -> list[Finding]:
    """V13: told once. V15: a revoke is never taken back. V25: it is told to whom the MR belongs."""
    found: list[Finding] = []
    for effect in made:
        row = before["mrs"].get(effect.fields.get("mr")) if isinstance(effect, do.Notify) else None
        if row is not None and isinstance(effect, do.Notify) and effect.session != row.session:
            sentence = f"{effect.name} of MR {effect.fields['mr']} went to session {effect.session}, which does not have it"
            found.append(("V25", sentence))
    told = [
        effect.fields["mr"]
        for effect in made
        if isinstance(effect, do.Notify) and effect.name == "MR_REVOKED" and "mr" in effect.fields
    ]
    for key in dict.fromkeys(told):
        known = before["mrs"].get(key)
        if told.count(key) > 1 or (known is not None and known.told):
            found.append(("V13", f"the revoke of MR {key} was delivered twice"))
    for key, row in before["mrs"].items():
        now = after["mrs"].get(key)
        if now is not None and (
            (row.revoked and not now.revoked) or (row.state == "unmapped" and now.state != "unmapped")
        ):
            found.append(("V15", f"the revoke of MR {key} was taken back"))
    return found


def rested(before: Books, after: Books) -> list[Finding]:
    """V11: a key comes to rest when its MR is gone, with its next generation, and is issued again when enough others have."""
    found: list[Finding] = []
    resting = before["keys"]
    for place, key in after["keys"].items():
        if place in resting:
            continue
        if any(key >> 8 == other >> 8 for other in after["mrs"]):
            found.append(("V11", f"key {key:#x} was put to rest, and its MR is still there"))
        if key in before["mrs"]:
            found.append(("V11", f"key {key:#x} was put to rest with the generation that it had"))
    if len(resting) < KEY_REST:
        early = [key for key in after["mrs"] if key not in before["mrs"] and key in resting.values()]
        found += [("V11", f"key {key:#x} was issued again, and only {len(resting)} rest") for key in early]
    return found
