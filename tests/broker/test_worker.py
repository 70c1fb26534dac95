"""Jobs in a thread of their own, what follows them in the loop's."""

from __future__ import annotations

import errno
import select
import threading

import pytest

from emu.broker.worker import Worker


@pytest.fixture
def worker():
    worker = Worker("worker")
    yield worker
    worker.close()


def finish(worker, told, number):
    while len(told) < number:
        assert select.select([worker.fileno()], [], [], 60)[0]
        worker.finish()


def test_what_follows_runs_with_the_caller_in_the_order_of_the_jobs(worker):
    told, threads = [], []
    for n in range(5):
        worker.do(
            lambda: threads.append(threading.current_thread()), lambda error, n=n: told.append((n, error))
        )
    finish(worker, told, 5)
    assert told == [(n, None) for n in range(5)]
    assert threading.current_thread() not in threads


def test_errors_arrive_with_their_errno_and_a_defect_as_one(worker):
    def full():
        raise OSError(errno.ENOSPC, "full")

    told = []
    worker.do(full, told.append)
    worker.do(lambda: {}["nothing"], told.append)
    worker.do(lambda: None, told.append)
    finish(worker, told, 3)
    assert [error and error.errno for error in told] == [errno.ENOSPC, errno.EIO, None]


def test_the_end_waits_for_the_job_in_hand_and_begins_no_other():
    worker, begun, go, ran = Worker("worker"), threading.Event(), threading.Event(), []

    def first():
        begun.set()
        assert go.wait(60)
        ran.append(1)

    worker.do(first, lambda _: None)
    worker.do(lambda: ran.append(2), lambda _: None)
    assert begun.wait(60)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker.stopping:
        pass
    go.set()
    closing.join(60)
    assert ran == [1]
