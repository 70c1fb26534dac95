"""Processes that work for a command: they end when it ends, however it ends; and what a stranger's code prints is no answer of ours.

    with workers(jobs) as submit: future = submit(function, argument)

Ctrl-C is the command's alone: workers are born with it blocked. Whatever leaves the `with` by an exception ends them at once, and what waits
for its turn is not begun. One whose command was killed sees the end of its pipe, and goes. Standard output of a worker is standard error.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future


@contextlib.contextmanager
def workers(jobs: int, *, each: int | None = None) -> Iterator[Callable[..., Future[Any]]]:
    """Spawned processes. each: how many tasks one has before a new one takes its place (None: all)."""
    before = {child.pid for child in multiprocessing.active_children()}
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=_begin, max_tasks_per_child=each)

    def submit(*task: Any) -> Future[Any]:
        with uninterrupted():  # processes and threads inherit it
            return pool.submit(*task)

    try:
        yield submit
    except BaseException:
        with uninterrupted():
            _end(pool, before)
        raise
    pool.shutdown()


def _end(pool: ProcessPoolExecutor, before: set[int | None]) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
        if child.pid not in before:
            child.kill()
    pool.shutdown()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C comes behind it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _begin() -> None:
    """In a worker, before its first task."""
    os.dup2(2, 1)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_go_with, args=(parent.sentinel,), daemon=True).start()


def _go_with(parent: int) -> None:
    wait([parent])
    os._exit(1)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """While a stranger's code runs here: what it prints goes to standard error."""
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None and sys.stderr is not None:
            sys.stdout.flush()
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError):  # either may be closed
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield
