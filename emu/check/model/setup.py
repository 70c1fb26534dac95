"""What stands at the beginning of a small world: how many of whom, who asks for what, what may go wrong.

The explorer takes it small and walks through every interleaving; the simulator takes it large and lets a seed choose.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setup:
    """holders: clients that register `mrs` MRs each over the file, every one with a peer that writes under its key.

    reclaims: what the reclaimers ask for, one each, in no order; of state.KINDS, or "self-truncate" (the first holder truncates its own file).
    crashes: of holders, reclaimers and the broker together. refusals: quiesces and unmaps that the hardware refuses.
    returns: after a crash of the broker the clients open again and go on (else the story ends with the restart).
    registrations: how often a holder may register anew after it let go. cancels: reclaimers may interrupt their request.
    fabric: peers write through queue pairs, the rules of csrc, and a network, instead of straight into the engine.
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
