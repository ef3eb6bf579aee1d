"""Runs of rows on threads: order, errors, limits, forks, and the same bits."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from joblib import Parallel, delayed
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

from skmoe.backends import _threads, using
from skmoe.backends._threads import at_most, n_threads, one_blas_thread, run


@pytest.fixture(params=[1, 2, 5])
def threads(request, monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: request.param)
    return request.param


def blas_threads():
    return _threads._blas_threads()


@pytest.fixture
def two_threads(monkeypatch):
    """Let BLAS have two threads, also where a machine or a test run has one."""
    with threadpool_limits(2, user_api="blas"):
        if blas_threads() < 2:
            pytest.skip("BLAS cannot take two threads here")
        yield


# ------------------------------------------------------------------------- runs
@pytest.mark.parametrize(("n_rows", "size"), [(0, 3), (1, 3), (7, 3), (100, 1), (6, 3)])
def test_runs_cover_the_rows_and_answers_are_in_order(threads, n_rows, size):
    answers = run(lambda first, last: list(range(first, last)), n_rows, size)
    assert [row for answer in answers for row in answer] == list(range(n_rows))
    assert all(len(answer) <= size for answer in answers)


def test_runs_are_worked_on_at_once(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    together = threading.Barrier(2, timeout=20)
    run(lambda first, last: together.wait(), 2, 1)  # would break if one by one


@pytest.mark.parametrize("bad", [0, 3, 9])
def test_an_error_ends_the_run_and_reaches_the_caller(threads, bad):
    before, done = blas_threads(), []

    def work(first, last):
        if first == bad:
            raise ValueError(f"run {first}")
        time.sleep(0.001)
        done.append(first)

    with pytest.raises(ValueError, match=f"run {bad}"):
        run(work, 1000, 1)
    assert len(done) < 500
    assert blas_threads() == before
    assert run(lambda first, last: first, 3, 1) == [0, 1, 2]


def test_an_interrupt_ends_the_run(threads):
    def work(first, last):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        run(work, 1000, 1)


def test_a_run_inside_a_run_stays_on_its_thread(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)

    def outer(first, last):
        own = threading.get_ident()
        inner = run(lambda a, b: threading.get_ident(), 4, 1)
        return set(inner) == {own}

    assert run(outer, 6, 1) == [True] * 6


# ----------------------------------------------------------------------- regions
def test_blas_has_one_thread_inside_a_region(two_threads):
    with one_blas_thread():
        assert blas_threads() == 1
        with one_blas_thread():
            assert blas_threads() == 1
        assert blas_threads() == 1
        assert n_threads() == 2  # runs still take what BLAS had
    assert blas_threads() == 2


def test_regions_that_overlap_leave_what_was_there(two_threads):
    """The first to open closes first: it must not leave the other's limit behind."""
    opened, closed = threading.Event(), threading.Event()

    def second():
        with one_blas_thread():
            opened.set()
            closed.wait(20)

    with ThreadPoolExecutor(1) as pool:
        with one_blas_thread():
            other = pool.submit(second)
            assert opened.wait(20)
        closed.set()
        other.result()
    assert blas_threads() == 2


# ------------------------------------------------------------------------ limits
def test_limits_are_followed(two_threads):
    assert n_threads() == 2
    with threadpool_limits(1, user_api="blas"):
        assert n_threads() == 1
    with at_most(1):
        assert n_threads() == 1
        with at_most(None):
            assert n_threads() == 1
        with at_most(5):
            assert n_threads() == 2
    with using("numba", 0, 1):
        assert n_threads() == 1
    assert n_threads() == 2


def test_one_thread_in_a_worker_thread_of_joblib(two_threads):
    counts = Parallel(2, backend="threading")(delayed(n_threads)() for _ in range(4))
    assert counts == [1] * 4


def in_process():
    import scipy.linalg  # noqa: F401 - BLAS is there before it is counted

    return n_threads()


@pytest.mark.slow
def test_worker_processes_of_joblib_share_the_cores(monkeypatch):
    from joblib import cpu_count
    from joblib.externals.loky import get_reusable_executor

    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)  # joblib leaves what a user has set
    get_reusable_executor().shutdown(wait=True)
    counts = Parallel(2, backend="loky")(delayed(in_process)() for _ in range(2))
    get_reusable_executor().shutdown(wait=True)
    assert max(counts) <= max(1, cpu_count() // 2)


# ------------------------------------------------------------------ what it is for
def operations():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30_000, 6)), rng.normal(size=(30_000, 1))
    coef, intercept = rng.normal(size=(12, 6)), rng.normal(size=12)
    mass, sums = rng.random(30_000), rng.normal(size=(12, 7))
    from skmoe.backends import _numba as ops

    return [
        *ops.softmax_route(X, coef, intercept, 2),
        *ops.softmax_loss(X, mass, sums, coef, intercept),
        *ops.gram(X, y, mass),
    ]


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(_threads, "n_threads", lambda count=count: count)
        found.append(operations())
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert_array_equal(one, two)


def checksum(queue):
    queue.put(float(np.sum(operations()[1])))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own(monkeypatch):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    expected = float(np.sum(operations()[1]))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=checksum, args=(queue,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert queue.get() == expected


def test_the_limit_of_the_environment_is_followed():
    code = "from skmoe.backends._threads import n_threads; print(n_threads())"
    limits = {
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "import numpy, scipy.linalg; " + code],
        env={**os.environ, **limits}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "1"
