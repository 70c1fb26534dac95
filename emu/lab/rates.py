"""How a protocol bears many reclaims: what it costs users when they come often, and what it costs reclaimers when hardware is slow.

    undisturbed   a peer WRITEs into a tenant's file without pause; nobody takes anything back: bytes a second
    rates         the same while the file is truncated and grown again R times a second; the tenant lets go when it is told, registers anew when
                  its memory is back, and the peer connects anew when it meets an error: goodput beside the undisturbed, and the rate at
                  which it halves
    sweep         how long one reclaim takes when an invalidation of the hardware costs 1 us to 10 ms (`emu broker --invalidation-cost`)

Goodput is what was acknowledged, wherever it went: a protocol that loses bytes in silence shows a fine rate here, and LOST in the comparison. A reclaim
that is denied disturbs nobody. One that has not ended after PATIENCE is looked at, again and again: hung is what the broker's history shows to be waiting
for nothing that comes by itself; what still waits for something after LIMIT is unknown. Both are interrupted. Every process is real; a tenant that is
killed is started again, and what that takes is part of the cost.
"""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import IO, TYPE_CHECKING, Any, Self

from emu.check.promises import file_of
from emu.clients.links import connect, queue_pair
from emu.lab.patience import still_owed
from emu.lab.rows import spread
from emu.verbs import enums as e
from emu.verbs.cq import CQ
from emu.verbs.device import Context
from emu.verbs.mr import MR
from emu.verbs.node import MOUNT, Node
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsRDMAError
from emu.verbs.wr import SGE, SendWR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from emu.verbs.fs import Reclaim

Json = dict[str, Any]

SIZE, PIECE, DEPTH = 1 << 20, 64 << 10, 8
RATES = (2.0, 10.0, 50.0, 250.0)  # reclaims a second that are asked for
COSTS = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # microseconds of an invalidation
REST = 0.5  # seconds undisturbed, before each
TOLD = 10.0
SECONDS = 1.0  # of each measurement, and as long as EVENTS reclaims take at its rate
EVENTS = 2
SWEPT = 8  # reclaims at each cost
HALF = 0.5
STORE, LOG = "rates.json", "rates.log"
PATIENCE = 0.5  # seconds between looks at whether a reclaim may still come to an end
LIMIT = 20.0  # seconds after which that is not awaited any more
SCALE = 0.05  # of protocol timers: a ladder of signals is to be measured, not waited for
PATH = f"{MOUNT}/tenant"


class TenantEnded(Exception):
    """Its process is gone."""


class Tenant:
    """The process of clients/tenant.py, asked line by line."""

    def __init__(self, node: Node, log: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "emu.clients.tenant"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        self._last = 0
        self.ask("start", node=node.dir, path=PATH, mount=MOUNT, length=SIZE)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, what: str, **fields: Any) -> Json:
        """Raises TenantEnded, or OSError with the errno it met."""
        self._last += 1
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"id": self._last, "do": what, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise TenantEnded from None
        for line in self._process.stdout:
            answer: Json = json.loads(line)
            if answer.get("id") == self._last:
                if "errno" in answer:
                    raise OSError(getattr(errno, answer["errno"], errno.EIO), answer["error"])
                return answer
        raise TenantEnded

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for end in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):  # what it was asked last, and never read
                end.close()  # type: ignore[union-attr]  # both are pipes


@dataclass
class Tally:
    """Of one measurement."""

    seconds: float = 0.0
    bytes: int = 0
    asked: int = 0
    succeeded: int = 0
    denied: int = 0
    hung: int = 0
    unknown: int = 0  # interrupted, although something was to come
    refused: int = 0  # registrations
    restarts: int = 0  # of the tenant's process
    reclaim_us: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        return self.bytes / self.seconds if self.seconds else 0.0


class Stage:
    """One node, one tenant, and in this process its peer and whoever takes the file."""

    def __init__(self, protocol: str, log: IO[bytes], options: Sequence[str] = ()) -> None:
        self._log, self.tally = log, Tally()
        file = file_of(protocol)
        stranger = [f"--protocol={file}"] if file else []
        self.node = Node(protocol, "16M", SCALE, options=[*stranger, *options])

    def __enter__(self) -> Self:
        self.node.start()
        try:
            self.node.fs.create(PATH, SIZE)
            self.ctx = Context(dir=self.node.dir, label="peer")
            self.pd = PD(self.ctx)
            self.cq = CQ(self.ctx, 4 * DEPTH)
            self.source = MR(self.pd, PIECE, e.IBV_ACCESS_LOCAL_WRITE)
            self.tenant = Tenant(self.node, self._log)
        except BaseException:
            self.node.stop()
            raise
        self.link: Any = None
        self.posted, self.at, self._looked = 0, 0, 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.tenant.end()
        self.ctx.close()
        self.node.stop()

    # ---- the peer

    def meet(self) -> None:
        """A registration, and a connection to it; without one the peer waits for the next reclaim."""
        if self.link is not None:
            self.link.close()
            self.link, self.posted = None, 0
        try:
            told = self.tenant.ask("register")
            if "refused" in told:
                self.tally.refused += 1
                return
            self._connect(told)
        except TenantEnded:
            self.tenant.end()
            self.tenant = Tenant(self.node, self._log)
            self.tally.restarts += 1

    def _connect(self, told: Json) -> None:
        self.rkey, self.addr = told["rkey"], told["addr"]
        link = queue_pair(self.pd, self.cq, DEPTH)
        self.tenant.ask("connect", other=link.qp_num)
        connect(link, told["qp"])
        self.link = link

    def write(self) -> bool:
        """Keep the queue full, take what completed. False: the peer met an error, or has nobody to write to."""
        if self.link is None:
            return False
        wanted = [self._next() for _ in range(DEPTH - self.posted)]
        if wanted:
            self.link.post_send_batch(wanted)
            self.posted = DEPTH
        self.cq.wait(0.01)
        _count, found = self.cq.poll(DEPTH)
        mine = [wc for wc in found if wc.qp_num == self.link.qp_num]
        good = sum(wc.status == e.IBV_WC_SUCCESS for wc in mine)
        self.posted -= len(mine)
        self.tally.bytes += PIECE * good
        return good == len(mine)

    def _next(self) -> SendWR:
        self.at = (self.at + PIECE) % SIZE
        sge = SGE(self.source.buf, PIECE, self.source.lkey)
        wanted = SendWR(wr_id=1, opcode=e.IBV_WR_RDMA_WRITE, num_sge=1, sg=[sge])
        wanted.set_wr_rdma(self.rkey, self.addr + self.at)
        return wanted

    # ---- the reclaimer

    def take(self) -> None:
        """Truncate the file to nothing, and make it as long as it was; the peer goes on meanwhile, and connects anew behind an error."""
        self.tally.asked += 1
        began = time.monotonic()
        reclaim = self.node.fs.begin_truncate(PATH, 0)
        broken = not self._until(lambda: reclaim.done, began + PATIENCE)
        while (owed := not reclaim.done and self._owed()) and time.monotonic() < began + LIMIT:
            broken = not self._until(lambda: reclaim.done, time.monotonic() + PATIENCE, not broken)
        if self._ended(reclaim, began, owed):
            self.node.fs.truncate(PATH, SIZE)
        if broken or self.link is None:
            self.meet()

    def _until(self, over: Callable[[], bool], deadline: float, well: bool = True) -> bool:
        """Write on until it is over. Whether the peer met no error. well: it has met none so far."""
        while not over() and time.monotonic() < deadline:
            if well:
                well = self.write()
            else:
                time.sleep(0.0002)  # there is nothing to write to until the memory is back
        return well

    def _owed(self) -> bool:
        """Whether something may still come of the reclaim under way. The peer, who is this process, rests meanwhile: that is no time of the measurement."""
        began = time.monotonic()
        owed = still_owed(self.node.path / "runs" / "1")
        self._looked += time.monotonic() - began
        return owed

    def _ended(self, reclaim: Reclaim, began: float, owed: bool) -> bool:
        """Whether it succeeded, if not before it was interrupted then although it was. owed: more was to come."""
        if not reclaim.done:
            reclaim.cancel()
        try:
            reclaim.result(timeout=30)
        except PyverbsRDMAError as error:
            if error.errno != errno.EINTR:
                self.tally.denied += 1
            elif owed:
                self.tally.unknown += 1
            else:
                self.tally.hung += 1
            return False
        self.tally.succeeded += 1
        self.tally.reclaim_us.append((time.monotonic() - began) * 1e6)
        return True

    # ---- measurements

    def run(self, rate: float, seconds: float, least: int = 0) -> Tally:
        """`rate` reclaims a second, as far as they can be had; 0: none. least: so many are asked for, however long it takes."""
        self.meet()
        self._until(lambda: False, time.monotonic() + 0.05)
        self.tally, self._looked = Tally(), 0.0
        began = time.monotonic()
        due = began + 1 / rate if rate else math.inf
        while (now := time.monotonic()) < began + seconds + self._looked or self.tally.asked < least:
            if now >= due:
                due += 1 / rate
                self.take()
            elif not self.write():
                self.meet()
                if self.link is None:
                    self._until(lambda: False, min(due, now + 0.05))
        self.tally.seconds = time.monotonic() - began - self._looked
        return self.tally


def measure(
    protocols: Sequence[str], out: Path, progress: Callable[[str], None] = lambda _line: None
) -> Json:
    """{"rates": [...], "sweep": [...]}: a row for each protocol, and for each protocol and cost. What `out` holds of an earlier start is not
    measured again.
    """
    store = out / STORE
    known: dict[str, Json] = json.loads(store.read_text("utf-8")) if store.exists() else {}
    with (out / LOG).open("ab") as log:
        for at, protocol in enumerate(protocols, 1):
            if protocol not in known:
                progress(f"[{at}/{len(protocols)}] {protocol}: many reclaims, and slow invalidations")
                points = [swept(protocol, cost, log) for cost in COSTS]
                known[protocol] = {"rates": rate_row(protocol, log), "sweep": points}
                new = store.with_suffix(".new")
                new.write_text(json.dumps(known, indent=1) + "\n", "utf-8")
                new.replace(store)
    mine = [known[protocol] for protocol in protocols]
    return {
        "rates": [found["rates"] for found in mine],
        "sweep": [point for found in mine for point in found["sweep"]],
    }


def tell(result: Json) -> None:
    """The rows of truncates of a prompt holder's dax file get the goodput that is left at TOLD reclaims a second."""
    found = {
        row["protocol"]: point["ratio"]
        for row in result["rates"]
        for point in row["points"]
        if point["rate"] == TOLD
    }
    for row in result["rows"]:
        if (row["event"], row["backing"], row["holder"]) == ("truncate", "dax", "prompt"):
            row["goodput_ratio"] = found.get(row["protocol"])


def rate_row(protocol: str, log: IO[bytes]) -> Json:
    """One protocol at every rate, each beside its own rest on the same node: the machine is shared, and minutes differ."""
    points, rests, refused = [], [], 0
    for rate in RATES:
        with Stage(protocol, log) as stage:
            rest = stage.run(0, REST)
            tally = stage.run(rate, max(SECONDS, EVENTS / rate), EVENTS)
        rests.append(rest.goodput)
        refused += rest.refused
        told = {key: value for key, value in asdict(tally).items() if key not in {"reclaim_us", "bytes"}}
        ratio = (
            tally.goodput / rest.goodput if rest.goodput else 0.0 if rest.refused else None
        )  # nobody is admitted
        points.append({"rate": rate, "ratio": ratio, **told, "reclaim_us": spread(tally.reclaim_us)})
    return {
        "protocol": protocol,
        "undisturbed_bytes_s": median(rests),
        "refused": refused > 0,
        "points": points,
        "half_rate": half_rate(points),
    }


def half_rate(points: Sequence[Json]) -> float | None:
    """Reclaims a second, as they came to pass, at which half of the goodput is left: between two measured rates on a logarithmic scale; None:
    not within those measured.

    Reclaims that were denied or hung did not happen: a protocol that lets none happen has no such rate. A rate below which goodput had halved and
    came back was noise.
    """
    told = [point for point in points if point["ratio"] is not None and point["succeeded"]]
    known = sorted((point["succeeded"] / point["seconds"], point["ratio"]) for point in told)
    slow = [rate for rate, ratio in known if ratio <= HALF]
    kept = [(rate, ratio) for rate, ratio in known if ratio > HALF]
    if not slow or not kept or kept[-1][0] > slow[-1]:
        return None
    low, good = kept[-1]
    high, bad = next((rate, ratio) for rate, ratio in known if rate > low)
    return float(low * (high / low) ** ((good - HALF) / (good - bad)))


def swept(protocol: str, cost: float, log: IO[bytes]) -> Json:
    """How long reclaims take when an invalidation costs this much."""
    with Stage(protocol, log, ("--invalidation-cost", f"{cost:g}")) as stage:
        stage.meet()
        for _ in range(SWEPT):
            stage.take()
        tally = stage.tally
    times = spread(tally.reclaim_us)
    return {
        "protocol": protocol,
        "cost_us": cost,
        "reclaim_us": times,
        "denied": tally.denied,
        "hung": tally.hung,
        "unknown": tally.unknown,
        "refused": tally.refused,
    }
