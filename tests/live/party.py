"""A verbs user of the live tests: one context with memory regions and queue pairs by name, in this process or in another.

In another process it is a script that reads one JSON command a line and answers each with one line; `Remote` drives it. What tests
call on a Party they can call on a Remote: `there.call("post", ...)`. Bytes travel as hexadecimal.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

from churn import Churn

from emu.verbs import enums as e
from emu.verbs.cq import CQ, WC
from emu.verbs.device import Context
from emu.verbs.mr import MR
from emu.verbs.pd import PD
from emu.verbs.pyverbs_error import PyverbsError
from emu.verbs.qp import QP, QPAttr, QPCap, QPInitAttr
from emu.verbs.wr import SGE, RecvWR, SendWR

ALL = int(e.IBV_ACCESS_LOCAL_WRITE | e.IBV_ACCESS_REMOTE_WRITE | e.IBV_ACCESS_REMOTE_READ)
OPCODES = {"write": e.IBV_WR_RDMA_WRITE, "read": e.IBV_WR_RDMA_READ, "send": e.IBV_WR_SEND}
PATIENCE = 60.0


class Party:
    """Memory regions, queue pairs and protection domains are named; `main` is the default PD."""

    churns: ClassVar[dict[str, Churn]] = {}  # of this process; they outlive contexts

    def __init__(self, dir: str, label: str = "party", emu_events: bool = False, cqe: int = 4096) -> None:
        self.options = {"dir": dir, "label": label, "emu_events": emu_events}
        self.cqe = cqe
        self.open()

    def open(self) -> None:
        self.ctx = Context(**self.options)
        self.pds = {"main": PD(self.ctx)}
        self.cq = CQ(self.ctx, self.cqe)
        self.mrs: dict[str, MR] = {}
        self.buffers = {}
        self.qps: dict[str, QP] = {}

    # ---- memory

    def memory(self, name: str, length: int, access: int = ALL, pd: str = "main", **where) -> dict:
        """Register; `where` as of MR. Returns what a peer needs."""
        if pd not in self.pds:
            self.pds[pd] = PD(self.ctx)
        mr = self.mrs[name] = MR(self.pds[pd], length, access, **where)
        return {"rkey": mr.rkey, "addr": mr.iova, "length": mr.length, "ino": mr.ino, "handle": mr.handle}

    def export(self, name: str, size: int) -> dict:
        """A buffer of this context's."""
        self.buffers[name] = self.ctx.dmabuf.create(name, size)
        return self.buffers[name].stat()

    def forget(self, name: str) -> None:
        self.mrs.pop(name).close()

    def put(self, name: str, data: str, offset: int = 0) -> None:
        raw = bytes.fromhex(data)
        self.mrs[name].write(raw, len(raw), offset)

    def get(self, name: str, length: int, offset: int = 0) -> str:
        return self.mrs[name].read(length, offset).hex()

    # ---- queue pairs

    def pair(
        self,
        name: str,
        depth: int = 16,
        access: int = ALL,
        sge: int = 4,
        pd: str = "main",
        signal_all: int = 1,
    ) -> int:
        cap = QPCap(max_send_wr=depth, max_recv_wr=depth, max_send_sge=sge, max_recv_sge=sge)
        init = QPInitAttr(qp_type=e.IBV_QPT_RC, scq=self.cq, rcq=self.cq, cap=cap, sq_sig_all=signal_all)
        attr = QPAttr(port_num=1, qp_access_flags=access)
        self.qps[name] = QP(self.pds[pd], init, attr)
        return self.qps[name].qp_num

    def connect(self, name: str, dest: int, access: int = ALL, **given) -> None:
        """To RTS. Retries end soon: timers are the scaled ones."""
        values = {
            "path_mtu": e.IBV_MTU_4096,
            "timeout": 8,
            "retry_cnt": 1,
            "rnr_retry": 1,
            "min_rnr_timer": 1,
            **given,
        }
        attr = QPAttr(
            port_num=1, qp_access_flags=access, dest_qp_num=dest, max_rd_atomic=1, max_dest_rd_atomic=1
        )
        for key, value in values.items():
            setattr(attr, key, value)
        self.qps[name].to_rts(attr)

    def destroy(self, name: str) -> None:
        self.qps.pop(name).close()

    def state(self, name: str) -> str:
        return self.qps[name].query(e.IBV_QP_STATE)[0].qp_state.name.removeprefix("IBV_QPS_")

    def modify(self, name: str, state: str) -> None:
        self.qps[name].modify(QPAttr(qp_state=getattr(e, f"IBV_QPS_{state}")), e.IBV_QP_STATE)

    def sge(self, mr: str, offset: int, length: int | None, lkey: int | None = None) -> SGE:
        region = self.mrs[mr]
        return SGE(
            region.iova + offset,
            region.length - offset if length is None else length,
            region.lkey if lkey is None else lkey,
        )

    def request(
        self, op: str, mr: str, *, offset=0, length=None, rkey=0, addr=0, wr_id=0, flags=2, lkey=None
    ) -> SendWR:
        wr = SendWR(wr_id, OPCODES[op], 1, sg=[self.sge(mr, offset, length, lkey)], send_flags=flags)
        wr.set_wr_rdma(rkey, addr)
        return wr

    def post(self, name: str, op: str, mr: str, n: int = 1, wr_id: int = 0, **values) -> None:
        wrs = [self.request(op, mr, wr_id=wr_id + i, **values) for i in range(n)]
        self.qps[name].post_send_batch(wrs)

    def recv(
        self, name: str, mr: str, offset: int = 0, length: int | None = None, wr_id: int = 0, n: int = 1
    ) -> None:
        self.qps[name].post_recv_batch(
            [RecvWR(wr_id + i, 1, [self.sge(mr, offset, length)]) for i in range(n)]
        )

    def gather(self, n: int, timeout: float = PATIENCE) -> list[list]:
        """n completions, in order: [wr_id, status, opcode, byte_len]. Raises when they do not come."""
        found: list[list] = []
        end = time.monotonic() + timeout
        while len(found) < n:
            left = end - time.monotonic()
            if left <= 0 or not self.cq.wait(left):
                raise TimeoutError(f"{len(found)} of {n} completions came: {found}")
            found += map(row_of, self.cq.poll(n - len(found))[1])
        return found

    def do(self, name: str, op: str, mr: str, **values) -> str:
        """One request and its status."""
        self.post(name, op, mr, **values)
        return self.gather(1)[0][1]

    # ---- events, files, the rest

    def event(self, timeout: float = PATIENCE) -> dict | None:
        event = self.ctx.get_async_event(timeout)
        if event is None:
            return None
        event.ack()
        known = {id(v): k for k, v in (*self.mrs.items(), *self.qps.items())}
        name = event.event_type.name.removeprefix("IBV_EVENT_").removeprefix("EMU_EVENT_")
        return {"event": name, "element": known.get(id(event.element)), "fields": event.fields}

    def fs(self, op: str, *args):
        result = getattr(self.ctx.fs, op)(*args)
        return result.hex() if isinstance(result, bytes) else result

    def books(self) -> dict:
        return self.ctx.books()

    def flood(
        self, name: str, op: str, mr: str, rkey: int, addr: int, span: int, piece: int, depth: int
    ) -> dict:
        """Keep `depth` requests outstanding over `span` bytes until one fails or the next command is there."""
        slots = max(1, span // piece)
        size = self.mrs[mr].length
        wrs = [
            self.request(op, mr, offset=i * piece % size, length=piece, rkey=rkey, addr=addr + i * piece)
            for i in range(slots)
        ]
        posted = done = 0
        statuses: dict[str, int] = {}
        while not (set(statuses) - {"SUCCESS"}) and not COMMANDS.waiting:
            batch = []
            while posted - done + len(batch) < depth:
                wr = wrs[(posted + len(batch)) % slots]
                wr.wr_id = posted + len(batch)
                batch.append(wr)
            if batch:
                self.qps[name].post_send_batch(batch)
                posted += len(batch)
            self.cq.wait(1.0)
            for wc in self.cq.poll(depth)[1]:
                done += 1
                status = wc.status.name.removeprefix("IBV_WC_")
                statuses[status] = statuses.get(status, 0) + 1
        while done < posted:
            for row in self.gather(posted - done):
                done += 1
                statuses[row[1]] = statuses.get(row[1], 0) + 1
        return {"posted": posted, "statuses": statuses}

    # ---- through the end of the broker

    def reopen(self) -> None:
        """What a program does after DEVICE_FATAL: everything anew."""
        event = self.ctx.get_async_event(PATIENCE)
        if event is None or event.event_type != e.IBV_EVENT_DEVICE_FATAL:
            raise AssertionError(f"the broker died, and the event is {event}")
        self.close()
        self.open()

    def churn(self, name: str, seed: int) -> int:
        """File operations until the broker dies; the model stays for verify."""
        if name not in self.churns:
            self.churns[name] = Churn(name, seed)
        return self.churns[name].run(self.ctx.fs)

    def verify(self, name: str) -> list[str]:
        return self.churns[name].verify(self.ctx.fs)

    def close(self) -> None:
        self.ctx.close()


def until(look, wanted=True, timeout: float = 10.0):
    """What look() says, as soon as it is `wanted`. look asks the broker, so each turn is one of its loop, not a nap."""
    end = time.monotonic() + timeout
    while (got := look()) != wanted:
        if time.monotonic() > end:
            raise TimeoutError(f"after {timeout} s it is {got}, not {wanted}")
    return got


def row_of(wc: WC) -> list:
    return [wc.wr_id, wc.status.name.removeprefix("IBV_WC_"), int(wc.opcode), wc.byte_len]


class Commands:
    """Lines of standard input, read without a buffer that select would not know of."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def waiting(self) -> bool:
        return b"\n" in self._rest or bool(select.select([0], [], [], 0)[0])

    def next(self) -> str:
        """The next line, "" at the end."""
        while b"\n" not in self._rest:
            piece = os.read(0, 65536)
            if not piece:
                return ""
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode()


COMMANDS = Commands()


class RemoteError(Exception):
    """The other process's PyverbsError."""

    def __init__(self, errno: int, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = errno


class Remote:
    """A Party in a process of its own. call() waits for the answer; begin() does not, end() takes it."""

    def __init__(self, dir: str, label: str = "there", **options) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.options = {"dir": dir, "label": label, **options}
        self.session = 0

    @property
    def pid(self) -> int:
        return self.process.pid

    def begin(self, method: str, *args, **values) -> None:
        self.process.stdin.write(json.dumps([method, args, values]) + "\n")
        self.process.stdin.flush()

    def end(self):
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"the other party ended with {self.process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise RemoteError(answer["errno"], answer["error"])
        return answer["result"]

    def opened(self) -> Remote:
        """With its context open. Without this the process is only ready to."""
        self.session = self.call("open", **self.options)
        return self

    def call(self, method: str, *args, **values):
        self.begin(method, *args, **values)
        return self.end()

    def kill(self) -> None:
        """kill -9, and gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def close(self) -> None:
        """Without asking: the process ends at the end of its input."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
            try:
                self.process.wait(PATIENCE)
            finally:
                self.kill()


def serve() -> None:
    """Until the end of the input. Commands: a Party's methods, and `open`."""
    party: Party | None = None
    watch_parent()
    while line := COMMANDS.next():
        method, args, values = json.loads(line)
        try:
            if method == "open":
                party = Party(**values)
                result = party.ctx.session.number
            else:
                result = getattr(party, method)(*args, **values)
            answer = {"result": result}
        except PyverbsError as error:
            answer = {"errno": error.errno, "error": str(error)}
        print(json.dumps(answer), flush=True)
    os._exit(0)


def watch_parent() -> None:
    """A party whose test was killed must not stay, not even in the middle of waiting."""
    parent = os.getppid()
    fd = os.pidfd_open(parent)

    def wait() -> None:
        select.select([fd], [], [])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    serve()
