"""What stands at the beginning of a small world: how many of whom, who asks for what, what may go wrong.

The explorer takes it small and walks through every interleaving; the simulator takes it large and lets a seed choose.

    device pm0: `blocks` blocks       file /mnt/a owns all of them but the last, which is free
    MR 1 of a holder is over the whole file, MR 2 over all but its first block, MR 3 over the whole file again, ...

Reclaims of one kind overlap and differ: the first truncate leaves half a block, the second nothing; the first punch takes all but the first
block, the second all. A collapse cuts the first block out; the first zero is of the second block, the second of the first. Numbers behind
the kind say it: "truncate 1024", "punch 0 4096".
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from emu.check.model.state import KINDS, LAYOUT, SELF_TRUNCATE
from emu.core import requests
from emu.core.rows import BLOCK

# No world is larger: a number that nobody can have meant is refused before anything of that size is made.
HIGH = {"holders": 64, "mrs": 64, "reclaims": 64, "blocks": 1 << 16}
MANY = 1 << 16


@dataclass(frozen=True)
class Setup:
    """holders: clients that register `mrs` MRs each over the file, every one with a peer that writes under its keys.

    reclaims: what the reclaimers ask for, one each, in no order; of state.KINDS or LAYOUT, or "self-truncate" (the first holder truncates its own file).
    crashes: of holders, reclaimers and the broker together. refusals: quiesces and unmaps that the hardware refuses.
    returns: after a crash clients open again and go on (else a crash of the broker ends the story).
    registrations: how often a holder may register anew after it let go. cancels: reclaimers may interrupt their request.
    tries: how often in all a peer posts under a key that was taken back, as one does who has not heard of it.
    fabric: peers write through queue pairs, the rules of csrc, and a network, instead of straight into the engine. With it: depth, how many
    work requests a peer has posted at most; retries, its retry_cnt; and how often in all a packet is lost, repeated, overtaken by a younger
    one, the network cut, and a timer faster than what it waits for.
    """

    reclaims: tuple[str, ...] = ("truncate",)
    holders: int = 1
    mrs: int = 1
    blocks: int = 3
    crashes: int = 1
    refusals: int = 1
    registrations: int = 1
    returns: bool = False
    cancels: bool = True
    taker: bool = True
    fabric: bool = False
    depth: int = 1
    retries: int = 1
    losses: int = 0
    duplicates: int = 0
    overtakes: int = 0
    partitions: int = 0
    hurries: int = 0
    tries: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "reclaims", tuple(self.reclaims))
        low = {"holders": 1, "mrs": 1, "blocks": 3, "depth": 1}
        if len(self.reclaims) > HIGH["reclaims"]:
            raise ValueError(f"setup: {len(self.reclaims)} reclaims: use at most {HIGH['reclaims']}")
        for field in fields(self):
            value = getattr(self, field.name)
            least, most = low.get(field.name, 0), HIGH.get(field.name, MANY)
            if field.type == "int" and (not isinstance(value, int) or not least <= value <= most):
                raise ValueError(f"setup: {field.name} {value!r:.40}: use a number from {least} to {most}")
        for number in range(len(self.reclaims)):
            self.asks(number)

    @property
    def size(self) -> int:
        """Bytes of /mnt/a: all blocks but one; where its data is to be copied, half of these."""
        copied = any(self.kind(at) in {"migrate", "reflink"} for at in range(len(self.reclaims)))
        return (self.blocks - 1) // (1 + copied) * BLOCK

    def kind(self, number: int) -> str:
        """The kind of reclaim `number` (from 0), without its numbers."""
        return self.reclaims[number].split()[0]

    @property
    def holders_alike(self) -> bool:
        """Whether there are several, and any two of them may exchange their parts: the first is another if it reclaims itself."""
        return self.holders > 1 and not any(map(self.of_holder, range(len(self.reclaims))))

    def of_holder(self, number: int) -> bool:
        """Whether reclaim `number` (from 0) is asked for by the first holder, not by a reclaimer."""
        return self.kind(number) == SELF_TRUNCATE

    def range_of_mr(self, ordinal: int) -> tuple[int, int]:
        """Offset and bytes of a holder's MR, numbered from 1."""
        offset = BLOCK if ordinal % 2 == 0 else 0
        return offset, self.size - offset

    def asks(self, number: int) -> requests.Request:
        """What reclaimer `number` (from 0) asks for."""
        kind, *words = self.reclaims[number].split()
        given = [int(word) for word in words if word.isdigit()]
        earlier = sum(self.kind(at) == kind for at in range(number))
        if len(given) != len(words) or kind not in {*KINDS, *LAYOUT, SELF_TRUNCATE}:
            known = ", ".join((*KINDS, *LAYOUT, SELF_TRUNCATE))
            raise ValueError(f"setup: reclaim {self.reclaims[number]!r}: use {known}")
        if kind in {"truncate", SELF_TRUNCATE}:
            usual = BLOCK if kind == SELF_TRUNCATE else (BLOCK // 2, 0)[earlier % 2]
            return requests.FsTruncate("/mnt/a", given[0] if given else usual)
        if kind == "punch":
            first = (BLOCK, 0)[earlier % 2]
            lo, length = given if len(given) == 2 else (first, self.size - first)
            return requests.FsPunch("/mnt/a", lo, length)
        if kind == "unlink":
            return requests.FsUnlink("/mnt/a")
        if kind in LAYOUT:
            return self._lays_out(kind, earlier, given)
        return requests.FsUnplug("pm0", surprise=kind == "surprise-unplug")

    def _lays_out(self, kind: str, earlier: int, given: list[int]) -> requests.Request:
        if kind == "migrate":
            return requests.FsMigrate("/mnt/a")
        if kind == "reflink":
            return requests.FsReflink("/mnt/a", f"/mnt/c{earlier}")
        usual = (0, BLOCK) if kind == "collapse" else ((BLOCK, 0)[earlier % 2], BLOCK)
        offset, length = given if len(given) == 2 else usual
        return requests.FsFallocate("/mnt/a", kind, offset, length)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "reclaims": list(self.reclaims)}
