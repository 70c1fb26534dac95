"""Threads that share queue pairs and completion queues, also while they are closed. A process of its own: a mistake is a crash."""

from __future__ import annotations

import subprocess
import sys
import textwrap

PRELUDE = """
import errno, sys, threading
from emu import verbs as v
sys.setswitchinterval(1e-5)
ALL = 7
ctx = v.Context(dir=sys.argv[1])
pd = v.PD(ctx)
mr = v.MR(pd, 4096, ALL)


def connected(cq, depth=64):
    cap = v.QPCap(max_send_wr=depth, max_recv_wr=depth)
    a, b = (v.QP(pd, v.QPInitAttr(v.IBV_QPT_RC, scq=cq, rcq=cq, cap=cap)) for _ in range(2))
    for qp, peer in ((a, b), (b, a)):
        qp.to_rts(v.QPAttr(dest_qp_num=peer.qp_num, qp_access_flags=ALL, timeout=10, retry_cnt=1))
    return a, b


def write(number):
    wr = v.SendWR(number, v.IBV_WR_RDMA_WRITE, 1, sg=[v.SGE(mr.buf, 8, mr.lkey)])
    wr.set_wr_rdma(mr.rkey, mr.buf)
    return wr


def until_refused(call, ready, errors):
    ready.wait()
    while True:
        try:
            call()
        except v.PyverbsRDMAError as error:
            if error.errno != errno.ENOMEM:
                errors.append(error)
                return
        except BaseException as error:
            errors.append(error)
            return


def started(*calls):
    ready, errors = threading.Barrier(len(calls) + 1), []
    threads = [threading.Thread(target=until_refused, args=(call, ready, errors)) for call in calls]
    for thread in threads:
        thread.start()
    ready.wait()
    return threads, errors


def joined(threads):
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
"""


def run(node, script: str) -> str:
    source = PRELUDE + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", source, node.dir], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"the script ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


def test_a_completion_queue_is_closed_under_its_users(node):
    run(
        node,
        """
        for _ in range(60):
            cq = v.CQ(ctx, 64)
            threads, errors = started(cq.poll, cq.poll, cq.wait)
            cq.close()
            joined(threads)
            assert len(errors) == 3 and all(isinstance(error, v.PyverbsUserError) for error in errors), errors
        """,
    )


def test_a_queue_pair_is_closed_under_who_posts(node):
    run(
        node,
        """
        for _ in range(60):
            cq = v.CQ(ctx, 256)
            a, b = connected(cq)
            wr = write(1)
            threads, errors = started(lambda: a.post_send(wr), lambda: a.post_send(wr))
            a.close()
            joined(threads)
            assert len(errors) == 2 and all(isinstance(error, v.PyverbsUserError) for error in errors), errors
            cq.close()
        """,
    )


def test_a_context_is_closed_under_everybody(node):
    run(
        node,
        """
        for _ in range(30):
            ctx = v.Context(dir=sys.argv[1])
            pd = v.PD(ctx)
            mr = v.MR(pd, 4096, ALL)
            cq = v.CQ(ctx, 256)
            a, b = connected(cq)
            wr = write(1)
            threads, errors = started(lambda: a.post_send(wr), cq.poll, cq.wait)
            ctx.close()
            joined(threads)
            assert len(errors) == 3 and all(isinstance(error, v.PyverbsError) for error in errors), errors
        """,
    )


def test_two_threads_share_one_completion_queue(node):
    """Each completion reaches one of them, once."""
    run(
        node,
        """
        count, got, failed = 6000, [], []
        cq = v.CQ(ctx, 256)
        a, b = connected(cq)
        done = threading.Event()

        def poller():
            try:
                while not done.is_set():
                    got.extend(wc.wr_id for wc in cq.poll(8)[1])
                    if len(got) >= count:
                        done.set()
            except BaseException as error:
                failed.append(error)
                done.set()

        threads = [threading.Thread(target=poller) for _ in range(2)]
        for thread in threads:
            thread.start()
        number = 0
        while number < count and not done.is_set():
            try:
                a.post_send(write(number))
                number += 1
            except v.PyverbsRDMAError as error:
                assert error.errno == errno.ENOMEM, error
        assert done.wait(60), f"{len(got)} of {count} completions came"
        joined(threads)
        assert not failed, failed
        assert sorted(got) == list(range(count))
        """,
    )
