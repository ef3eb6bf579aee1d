"""Runs of rows on threads: order, errors, limits, forks, and the same bits."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from threadpoolctl import threadpool_limits

from skmoe.backends import _numba, _threads, using
from skmoe.backends._numba import _operations
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
    done = []

    def work(first, last):
        done.append(first)
        time.sleep(0.001 * (first == 0))  # the first is not the first to end
        return list(range(first, last))

    answers = run(work, n_rows, size)
    assert [row for answer in answers for row in answer] == list(range(n_rows))
    assert all(len(answer) <= size for answer in answers)
    assert sorted(done) == list(range(0, n_rows, size))  # each run once


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


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_another_thread_ends_the_run(monkeypatch, two_threads, error):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    raised, done = threading.Event(), []

    def work(first, last):
        if threading.current_thread() is not threading.main_thread():
            raised.set()
            raise error("elsewhere")
        assert raised.wait(20)  # so the other thread has had a run
        time.sleep(0.001)
        done.append(first)

    with pytest.raises(error, match="elsewhere"):
        run(work, 1000, 1)
    assert len(done) < 500
    assert blas_threads() == 2
    assert run(lambda first, last: first, 3, 1) == [0, 1, 2]


def test_an_interrupt_ends_the_run(threads):
    def work(first, last):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.001)

    with pytest.raises(KeyboardInterrupt):
        run(work, 1000, 1)


def test_the_callers_context_reaches_each_thread(monkeypatch):
    """`np.errstate` is one: warnings must not depend on the number of threads."""
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    together = threading.Barrier(2, timeout=20)

    def work(first, last):
        together.wait()  # so each thread has one run
        return np.geterr()["invalid"]

    with np.errstate(invalid="call"):
        assert run(work, 2, 1) == ["call", "call"]


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
        assert run(lambda first, last: blas_threads(), 4, 1) == [1] * 4
    assert blas_threads() == 2
    assert run(lambda first, last: blas_threads(), 4, 1) == [1] * 4
    assert blas_threads() == 2


OVERLAP = """
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import scipy.linalg
from threadpoolctl import threadpool_limits

from skmoe.backends import _threads


def region(opened, close):
    with _threads.one_blas_thread():
        opened.set()
        assert close.wait(20)


def overlap():
    opened, close = [threading.Event(), threading.Event()], threading.Event()
    with ThreadPoolExecutor(1) as pool:
        with _threads.one_blas_thread():
            assert _threads._blas_threads() == 1
            other = pool.submit(region, opened[1], close)
            assert opened[1].wait(20)
        close.set()  # the first to open is the first to close
        other.result()


def runs():
    together = threading.Barrier(2)

    def fit():
        together.wait(20)
        for _ in range(50):
            _threads.run(lambda first, last: time.sleep(0.0002), 2, 1)

    fits = [threading.Thread(target=fit) for _ in range(2)]
    for one in fits:
        one.start()
    for one in fits:
        one.join()


# In a thread that ends: threadpoolctl lets only one thread change the limits, and
# the main thread would be it for ever.
setting = threading.Thread(target=threadpool_limits, args=(2,))
setting.start()
setting.join()
print(_threads._blas_threads())
{case}()
print(_threads._blas_threads())
"""


@pytest.mark.parametrize("case", ["overlap", "runs"])
def test_regions_that_overlap_leave_what_was_there(case):
    """In a process where no other limit, of a test or a worker, holds BLAS."""
    command = [sys.executable, "-c", OVERLAP.replace("{case}", case)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = done.stdout.split()
    if before != "2":
        pytest.skip("BLAS cannot take two threads here")
    assert after == before


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
@pytest.fixture
def many_runs(monkeypatch):
    """Let each operation be many runs, the last a short one."""
    monkeypatch.setattr(_operations, "RUN", 1)


def operations(form=np.asarray):
    """Return answers that are sums over runs, or could depend on where they end."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3_001, 6)), rng.normal(size=(3_001, 1))
    coef, intercept = rng.normal(size=(12, 6)), rng.normal(size=12)
    mass, sums = rng.random(3_001), rng.normal(size=(12, 7))
    X = form(X)
    return [
        *_numba.softmax_route(X, coef, intercept, 2),
        *_numba.softmax_loss(X, mass, sums, coef, intercept),
        *_numba.gram(X, y, mass),
    ]


def assert_same_bits(one, other):
    for a, b in zip(one, other, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, many_runs, form):
    dealt, real = [], _threads._run_threads

    def run_threads(work, bounds, count):
        dealt.append(len(bounds))
        return real(work, bounds, count)

    monkeypatch.setattr(_threads, "_run_threads", run_threads)
    found = []
    for count in (1, 2, 3, 3):
        monkeypatch.setattr(_threads, "n_threads", lambda count=count: count)
        found.append(operations(form))
    n_operations = 4 if form is np.asarray else 2  # gram is two; the reference's if CSR
    assert dealt == [32] * (3 * n_operations)
    for other in found[1:]:
        assert_same_bits(found[0], other)


def test_the_limits_of_blas_give_the_same_bits(two_threads, many_runs):
    found = operations()
    with threadpool_limits(1, user_api="blas"):
        assert_same_bits(operations(), found)
    with using("numba", 0):
        assert_same_bits(operations(), found)


def checksum(queue):
    queue.put(float(np.sum(operations()[1])))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_workers_of_its_own(monkeypatch, many_runs):
    monkeypatch.setattr(_threads, "n_threads", lambda: 2)
    expected = float(np.sum(operations()[1]))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=checksum, args=(queue,))
    child.start()
    child.join(60)
    child.kill()  # if it waits for threads that are not there
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
