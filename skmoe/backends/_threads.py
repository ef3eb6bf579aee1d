"""Runs of rows on as many threads as BLAS would take.

A kernel works on one run of rows, with BLAS on one thread, and holds no GIL; Python
threads call it. So the number of threads follows the rule of BLAS
(`OPENBLAS_NUM_THREADS`, `threadpoolctl.threadpool_limits`, the limits that joblib sets
in its worker processes), and there is no OpenMP runtime that a fork could break. Runs,
and so answers, do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from functools import cache
from itertools import count
from os import cpu_count as core_count
from typing import Any

from joblib import cpu_count
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def _blas_threads() -> int:
    """Return the threads of BLAS, or all cores if it cannot be asked (Accelerate)."""
    counts = [library.num_threads for library in _controller().lib_controllers]
    return min(counts) if counts else cpu_count()


_before: ContextVar[int | None] = ContextVar("skmoe_blas_threads", default=None)

_region = threading.Lock()
"""Held by the region that limits BLAS. threadpoolctl restores the number that it found,
so a second region, opened meanwhile in another thread and closed later, would restore
the limit."""


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS on one thread; `run` still takes the threads that BLAS had before.

    A region around code whose large operations all go through `run` keeps BLAS's own
    threads asleep. Between two products these would spin for tens of milliseconds on
    the cores that `run` works on. If regions of several Python threads overlap, only
    the first one changes BLAS.
    """
    region = _region  # a fork puts another one in its place
    if _before.get() is not None or not region.acquire(blocking=False):
        yield
        return
    token = _before.set(_blas_threads())
    try:
        with _controller().limit(limits=1):
            yield
    finally:
        _before.reset(token)
        region.release()


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


FEW_ROWS = 5_000
"""With fewer rows OpenMP's threads wait for each other longer than they work."""


@contextmanager
def few_openmp_threads(n_rows: int) -> Iterator[None]:
    """Keep OpenMP, which gradient boosting runs on, to one thread if rows are few.

    A mixture makes hundreds of small fits. On a busy machine a fit's threads spin while
    they wait for a core, and the fit takes ten times as long.
    """
    if n_rows >= FEW_ROWS:
        yield
        return
    with _openmp().limit(limits=1):
        yield


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

    It takes as many as BLAS, fewer under `at_most`, one in a worker thread of joblib.
    """
    if _in_joblib_thread():
        return 1
    before = _before.get()
    limit = _limit.get()
    blas = _blas_threads() if before is None else before
    return max(1, blas if limit is None else min(blas, limit))


def _in_joblib_thread() -> bool:
    nested = get_active_backend()[0].nesting_level > 0
    return nested and threading.current_thread() is not threading.main_thread()


# --------------------------------------------------------------------- workers
_busy = threading.Lock()
"""Held by the run that has the workers; other runs meanwhile use their own thread."""


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(core_count(), thread_name_prefix="skmoe")


def _forget_workers() -> None:
    """Forget the pool in a forked process, which lacks its parent's threads."""
    global _busy, _region
    _busy = threading.Lock()
    _region = threading.Lock()
    _workers.cache_clear()


with suppress(ImportError):  # Windows has none
    from os import register_at_fork

    register_at_fork(after_in_child=_forget_workers)


def run(work: Callable[[int, int], Any], n_rows: int, size: int) -> list[Any]:
    """Call ``work(first, last)`` on runs of ``size`` rows; return its answers in order.

    Threads take runs as they become free. An exception ends all runs and reaches the
    caller.
    """
    bounds = [(a, min(a + size, n_rows)) for a in range(0, n_rows, size)]
    wanted = min(n_threads(), len(bounds)) if len(bounds) > 1 else 1
    with one_blas_thread():
        if wanted == 1 or not _busy.acquire(blocking=False):
            return [work(*bound) for bound in bounds]
        try:
            return _run_threads(work, bounds, wanted)
        finally:
            _busy.release()


def _run_threads(
    work: Callable[[int, int], Any], bounds: list[tuple[int, int]], n_threads: int
) -> list[Any]:
    answers: list[Any] = [None] * len(bounds)
    tickets = count()
    stop = threading.Event()

    def worker() -> None:
        try:
            # next() of a count is atomic.
            while not stop.is_set() and (ticket := next(tickets)) < len(bounds):
                answers[ticket] = work(*bounds[ticket])
        except BaseException:
            stop.set()
            raise

    others = [
        _workers().submit(copy_context().run, worker) for _ in range(n_threads - 1)
    ]
    try:
        worker()
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error
    return answers
