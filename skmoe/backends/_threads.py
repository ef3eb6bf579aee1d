"""Blocks of rows on the threads that BLAS would take.

A kernel works on one block, with BLAS on one thread, and lets go of the GIL; here
Python threads hand it blocks. So there is one rule for how many threads run, the one
that BLAS follows (`OPENBLAS_NUM_THREADS`, `threadpoolctl.threadpool_limits`, the
limits that joblib sets in its worker processes), no second thread pool that a fork or
an OpenMP runtime could break, and blocks, hence answers, that do not depend on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import count
from typing import Any

from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


class _OneThread:
    """BLAS on one thread while any region is open; the last one restores.

    threadpoolctl restores what it found: of two regions that overlap in two threads,
    the one that closes last would restore the other's limit. Here they are counted.
    """

    def __init__(self) -> None:
        self.lock, self.open = threading.Lock(), 0
        self.limit: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if self.open == 0:
                self.limit = _controller().limit(limits=1)
            self.open += 1

    def __exit__(self, *error: Any) -> None:
        with self.lock:
            self.open -= 1
            if self.open == 0:
                self.limit.restore_original_limits()


one_blas_thread = _OneThread()
"""Context in which BLAS runs on one thread, safe to open from many threads."""

_limit: ContextVar[int | None] = ContextVar("skmoe_threads", default=None)


@contextmanager
def at_most(n_threads: int | None) -> Iterator[None]:
    """Limit the threads of the operations inside; None leaves them as they are."""
    token = _limit.set(_limit.get() if n_threads is None else n_threads)
    try:
        yield
    finally:
        _limit.reset(token)


def n_threads() -> int:
    """Return how many threads an operation called here may take.

    Those of BLAS, fewer under `at_most`; one inside an open region of
    `one_blas_thread`, and one inside a worker thread of joblib.
    """
    if one_blas_thread.open or _in_joblib_thread():
        return 1
    counts = [library.num_threads for library in _controller().lib_controllers]
    limit = _limit.get()
    return max(1, min(counts if limit is None else [*counts, limit], default=1))


def _in_joblib_thread() -> bool:
    nested = get_active_backend()[0].nesting_level > 0
    return nested and threading.current_thread() is not threading.main_thread()


def run(work: Callable[[int, int], Any], n_rows: int, size: int) -> list[Any]:
    """Call ``work(start, stop)`` on blocks of ``size`` rows; return what it answers.

    Blocks are dealt to threads as these become free. An exception ends the run and
    reaches the caller.
    """
    bounds = [(a, min(a + size, n_rows)) for a in range(0, n_rows, size)]
    wanted = min(n_threads(), len(bounds))
    if wanted <= 1:
        with one_blas_thread:
            return [work(*bound) for bound in bounds]
    answers: list[Any] = [None] * len(bounds)
    tickets = count()

    def worker() -> None:
        # next() of a count is atomic.
        while (ticket := next(tickets)) < len(bounds):
            answers[ticket] = work(*bounds[ticket])

    with one_blas_thread, ThreadPoolExecutor(wanted - 1) as pool:
        others = [pool.submit(worker) for _ in range(wanted - 1)]
        try:
            worker()
        finally:
            for _ in range(len(bounds)):  # leave no ticket when work raised
                if next(tickets) >= len(bounds):
                    break
        for other in others:
            other.result()
    return answers
