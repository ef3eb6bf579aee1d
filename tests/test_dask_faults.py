"""Workers that die, rows that are lost: the same bits, or an error within seconds."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from skmoe.dask import DaskMoERegressor

da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of workers that end
]

N = 6_000
OPTIONS = {"n_experts": 4, "random_state": 0, "sample_rows": 800, "max_iter": 8}
OPTIONS |= {"tol": 1e-9}
SECONDS = 120


@pytest.fixture(autouse=True)
def alarm():
    def ring(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def started(n_workers=2):
    return distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        processes=True,
        memory_limit="1GiB",
        dashboard_address=None,
    )


@pytest.fixture(scope="module")
def rows():
    random = np.random.RandomState(0)
    X = random.normal(size=(N, 4))
    y = np.where(X[:, 0] > 0, X[:, 1], -X[:, 2]) + 0.3 * random.normal(size=N)
    return X, y


@pytest.fixture(scope="module")
def undisturbed(rows):
    with started() as cluster, distributed.Client(cluster):
        return DaskMoERegressor(**OPTIONS).fit(*parts(rows))


@pytest.fixture
def client():
    with started() as cluster, distributed.Client(cluster) as client:
        yield client


def parts(rows, n=8):
    X, y = rows
    size = N // n
    return da.from_array(X, chunks=(size, 4)), da.from_array(y, chunks=size)


def pids(client):
    return list(client.run(os.getpid).values())


def at_pass(monkeypatch, n_pass, act):
    """Do something at the end of a pass on all rows."""

    def say(model, info):
        if info.n_pass == n_pass:
            act()

    monkeypatch.setattr("skmoe.dask._fit._say", say)


def same(model, other):
    np.testing.assert_array_equal(model.lower_bounds_, other.lower_bounds_)
    np.testing.assert_array_equal(model.gate_.coef_, other.gate_.coef_)
    for ours, theirs in zip(model.experts_, other.experts_, strict=True):
        np.testing.assert_array_equal(ours.coef_, theirs.coef_)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_any_number_of_workers_gives_the_same_bits(rows, undisturbed, n_workers):
    with started(n_workers) as cluster, distributed.Client(cluster):
        same(DaskMoERegressor(**OPTIONS).fit(*parts(rows)), undisturbed)


def test_threads_give_the_bits_of_workers(rows, undisturbed):
    same(DaskMoERegressor(**OPTIONS).fit(*parts(rows)), undisturbed)


@pytest.mark.parametrize("n_killed", [1, 2])
def test_workers_killed_between_passes(
    rows, undisturbed, client, monkeypatch, n_killed
):
    def kill():
        for pid in pids(client)[:n_killed]:
            os.kill(pid, signal.SIGKILL)

    at_pass(monkeypatch, 2, kill)
    same(DaskMoERegressor(**OPTIONS).fit(*parts(rows)), undisturbed)


def test_a_worker_killed_while_it_reads_rows(rows, undisturbed, client, tmp_path):
    flag = tmp_path / "killed"

    def die_once(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 3 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    X, y = parts(rows)
    X = X.map_blocks(die_once, meta=np.empty((0, 0)))
    same(DaskMoERegressor(**OPTIONS).fit(X, y), undisturbed)
    assert flag.exists()


def test_workers_that_come_and_go(rows, undisturbed, client, monkeypatch):
    def scale():
        client.cluster.scale(1)
        client.cluster.scale(3)

    at_pass(monkeypatch, 2, scale)
    same(DaskMoERegressor(**OPTIONS).fit(*parts(rows)), undisturbed)


def test_a_part_that_raises_does_so_at_once(rows, client):
    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 5:
            raise RuntimeError("the file is gone")
        return block

    X, y = parts(rows)
    broken = X.map_blocks(fail, meta=np.empty((0, 0)))
    model = DaskMoERegressor(**OPTIONS)
    before = time.monotonic()
    with pytest.raises(RuntimeError, match="the file is gone"):
        model.fit(broken, y)
    assert time.monotonic() - before < 10
    assert not hasattr(model, "gate_")


def test_a_part_that_kills_every_worker_is_named(rows, client):
    def die(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    X, y = parts(rows)
    deadly = X.map_blocks(die, meta=np.empty((0, 0)))
    with pytest.raises(RuntimeError, match="workers died"):
        DaskMoERegressor(**OPTIONS).fit(deadly, y)


def test_a_partition_larger_than_a_worker_is_refused_before_it_is_read(client):
    X = da.zeros((5_000_000, 20), chunks=(5_000_000, 20))  # 763 MiB
    y = da.zeros(5_000_000, chunks=5_000_000)
    with pytest.raises(ValueError, match="Partition 0 of X has 763 MiB"):
        DaskMoERegressor(**OPTIONS).fit(X, y)
    assert len(pids(client)) == 2


def test_the_scheduler_is_gone(rows, client, monkeypatch):
    gone = []

    def close():
        gone.append(time.monotonic())
        client.cluster.close()

    at_pass(monkeypatch, 2, close)
    model = DaskMoERegressor(**OPTIONS)
    with pytest.raises(RuntimeError, match="the scheduler is gone"):
        model.fit(*parts(rows))
    assert time.monotonic() - gone[0] < 20
    assert not hasattr(model, "gate_")


def test_rows_of_a_dead_worker_that_nothing_makes_again(rows, client, monkeypatch):
    X, y = rows
    halves = np.array_split(np.arange(N), 2)
    workers = list(client.scheduler_info()["workers"])
    blocks = [
        da.from_delayed(
            client.scatter(X[half], workers=[worker]), X[half].shape, X.dtype
        )
        for half, worker in zip(halves, workers, strict=True)
    ]
    table = da.concatenate(blocks)
    monkeypatch.setattr("skmoe.dask._rows.SHARE_OF_MEMORY", 0.0)
    at_pass(monkeypatch, 2, lambda: os.kill(pids(client)[0], signal.SIGKILL))
    target = da.from_array(y, chunks=N // 2)
    with pytest.raises(RuntimeError, match="Rows or sums are lost"):
        DaskMoERegressor(**OPTIONS).fit(table, target)


def test_a_client_that_is_killed_goes_on_from_its_checkpoint(
    rows, undisturbed, tmp_path
):
    np.savez(tmp_path / "rows.npz", X=rows[0], y=rows[1])
    path = tmp_path / "fit.checkpoint"
    code = f"""
        import os, signal
        import dask.array as da
        import numpy as np
        from skmoe.dask import DaskMoERegressor, _fit

        def say(model, info):
            if info.n_pass == 4:
                os.kill(os.getpid(), signal.SIGKILL)

        _fit._say = say
        rows = np.load({str(tmp_path / "rows.npz")!r})
        X = da.from_array(rows["X"], chunks=({N // 8}, 4))
        y = da.from_array(rows["y"], chunks={N // 8})
        DaskMoERegressor(checkpoint={str(path)!r}, **{OPTIONS!r}).fit(X, y)
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert ended.returncode == -signal.SIGKILL
    model = DaskMoERegressor(checkpoint=path, **OPTIONS).fit(*parts(rows))
    same(model, undisturbed)
