"""What training on partitions costs and what it is worth, against memory.

Parts: `memory` fits 120 000 generated rows by both kinds of estimators; `sets` does so
with public sets, whose eight partitions are sorted by their target or lie in time
order; `speed` compares two workers of one thread with a process of two threads; `core`
learns from five times the memory of its only worker; `faults` kills a worker of two;
`predict` measures the graph of 500 partitions.

    python benchmarks/bench_dask.py [--only memory,sets,speed,core,faults,predict]
                                    [--quick] [--json FILE]
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import numpy as np
from _data import read_split
from _records import parser, run_parts, seconds
from _timing import clocked
from distributed import Client, LocalCluster
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import ShuffleSplit
from threadpoolctl import threadpool_limits

from skmoe import MoEClassifier, MoERegressor
from skmoe.dask import DaskMoEClassifier, DaskMoERegressor, predict

SETS = ("diamonds", "california_housing", "adult", "electricity")
CLASSES = ("adult", "electricity")


def regimes(n: int, d: int, n_regimes: int = 8, seed: int = 0) -> tuple[Any, Any]:
    """Return rows whose slopes depend on the nearest of some centres."""
    random = np.random.RandomState(0)
    centres = random.normal(size=(n_regimes, d)) * 1.5
    slopes = random.normal(size=(n_regimes, d))
    random = np.random.RandomState(seed)
    X = random.normal(size=(n, d)) * 1.5
    nearest = np.argmax(X @ centres.T - 0.5 * np.sum(centres**2, axis=1), axis=1)
    return X, np.sum(X * slopes[nearest], axis=1) + random.normal(size=n)


@contextlib.contextmanager
def cluster(n_workers: int, memory: str = "auto") -> Iterator[Client]:
    """Start workers of one thread each, in processes."""
    options = {"threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with (
        LocalCluster(n_workers=n_workers, memory_limit=memory, **options) as workers,
        Client(workers) as client,
    ):
        yield client


def in_parts(X: Any, y: Any, n_parts: int) -> tuple[Any, Any]:
    """Return arrays of Dask in equal parts."""
    size = -(-len(y) // n_parts)
    return da.from_array(X, chunks=(size, X.shape[1])), da.from_array(y, chunks=size)


def judged(model: Any, X: Any, y: Any) -> tuple[float, float]:
    """Return the RMSE, or the share of wrong labels, and the NLL of rows."""
    local = model.to_local() if hasattr(model, "to_local") else model
    nll = -float(np.mean(local.score_samples(X, y)))
    said = local.predict(X)
    if hasattr(local, "classes_"):
        return float(np.mean(said != y)), nll
    return float(np.sqrt(np.mean((said - y) ** 2))), nll


def bench_memory(report, args) -> None:
    n = 20_000 if args.quick else 120_000
    report.section(f"{n} x 10, eight ridge experts, one thread")
    X, y = regimes(n, 10)
    X_test, y_test = regimes(20_000, 10, seed=1)
    options = {"random_state": 0}
    lines = []
    here = MoERegressor(**options)
    there = DaskMoERegressor(**options, sample_rows=5_000 if args.quick else "auto")
    parts = in_parts(X, y, 16)
    with dask.config.set(scheduler="synchronous"):
        for name, fit, model in (
            ("MoERegressor", lambda: here.fit(X, y), here),
            ("DaskMoERegressor, 16 parts", lambda: there.fit(*parts), there),
        ):
            _, timing = clocked(fit)
            rmse, nll = judged(model, X_test, y_test)
            lines.append([name, f"{rmse:.4f}", f"{nll:.4f}", seconds(timing.cpu)])
    report.table(["estimator", "RMSE", "NLL", "CPU of fit"], lines)


def bench_sets(report, args) -> None:
    report.section("Public sets as eight sorted partitions")
    lines = []
    for name in SETS:
        rows = 4_000 if args.quick else None
        splitter = ShuffleSplit(1, test_size=0.2, random_state=0)
        fold = read_split(name, splitter, rows=rows)
        X, y = np.asarray(fold.X_train, dtype=float), np.asarray(fold.y_train)
        order = np.arange(len(y)) if name == "electricity" else np.argsort(y)
        classify = name in CLASSES
        learner = LogisticRegression(max_iter=1000) if classify else Ridge()
        here = (MoEClassifier if classify else MoERegressor)(learner, random_state=0)
        kind = DaskMoEClassifier if classify else DaskMoERegressor
        there = kind(learner, random_state=0)
        few = kind(learner, random_state=0, sample_rows=min(10_000, len(y) // 2))
        parts = in_parts(X[order], y[order], 8)
        here.fit(X, y)
        there.fit(*parts)
        few.fit(*parts)
        found = [
            judged(each, fold.X_test, fold.y_test)[1] for each in (here, there, few)
        ]
        lines.append([f"{name} {len(y)}", *(f"{nll:.4f}" for nll in found)])
    header = ["set, rows", "NLL in memory", "in partitions", "sample of 10 000 decides"]
    report.table(header, lines)


def bench_speed(report, args) -> None:
    n = 200_000 if args.quick else 1_000_000
    report.section(f"{n} x 20, eight ridge experts")
    X, y = regimes(n, 20)
    options = {"random_state": 0, "n_experts": 8}
    lines = []
    with threadpool_limits(2):
        here = MoERegressor(**options, n_jobs=2)
        _, alone = clocked(here.fit, X, y)
    lines.append(["one process, two threads", seconds(alone.wall), "1", ""])
    with cluster(2):
        parts = dask.persist(*in_parts(X, y, 16))
        there = DaskMoERegressor(**options)
        _, both = clocked(there.fit, *parts)
    ratio = f"{both.wall / alone.wall:.2f}"
    lines.append(
        [
            "two workers, one thread each",
            seconds(both.wall),
            ratio,
            f"{there.n_rounds_}",
        ]
    )
    report.table(["", "wall", "ratio", "rounds"], lines)
    report.line(f"{there.n_iter_} passes of EM; the other rounds are last passes.")


def bench_core(report, args) -> None:
    limit = 512 << 20
    n = int((1 if args.quick else 5) * limit / (20 * 8))
    report.section(
        f"{n} x 20: {n * 160 / limit:.1f} times the memory of the only worker"
    )
    size = 100_000
    blocks = [(seed, min(size, n - seed * size)) for seed in range(-(-n // size))]

    def rows(seed: int, count: int) -> np.ndarray:
        X, y = regimes(count, 20, seed=seed)
        return np.column_stack([X, y])

    load = dask.delayed(rows)
    table = da.concatenate(
        [da.from_delayed(load(*each), (each[1], 21), float) for each in blocks]
    )
    X, y = table[:, :20], table[:, 20]
    model = DaskMoERegressor(
        n_experts=2, random_state=0, max_iter=1, sample_rows=20_000
    )
    with cluster(1, "512MiB") as client:
        peak = Peak(client)
        started = time.perf_counter()
        with peak:
            model.fit(X, y)
        wall = time.perf_counter() - started
    lines = [
        [f"{peak.most / limit:.2f}", peak.n_restarts, seconds(wall), model.n_rounds_]
    ]
    report.table(["peak over limit", "restarts", "wall", "rounds"], lines)


class Peak:
    """The largest resident memory of a client's workers, and how many are new."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.most = 0
        self.names = set(client.scheduler_info()["workers"])
        self.n_restarts = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            workers = self.client.scheduler_info()["workers"]
            for name, worker in workers.items():
                self.most = max(self.most, worker["metrics"].get("memory", 0))
                if name not in self.names:
                    self.names.add(name)
                    self.n_restarts += 1

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()


def bench_faults(report, args) -> None:
    n = 20_000 if args.quick else 200_000
    report.section(f"{n} x 20, a worker of two is killed after the second pass")
    X, y = regimes(n, 20)
    options = {"random_state": 0, "sample_rows": 5_000, "max_iter": 8, "tol": 0.0}
    models, walls = [], []
    for kills in (False, True):
        with cluster(2) as client:
            model = killing(client if kills else None, **options)
            _, timing = clocked(model.fit, *in_parts(X, y, 32))
        models.append(model)
        walls.append(timing.wall)
    same = np.array_equal(models[0].lower_bounds_, models[1].lower_bounds_)
    same = same and np.array_equal(models[0].gate_.coef_, models[1].gate_.coef_)
    lines = [["undisturbed", seconds(walls[0]), ""]]
    lines.append(["one worker killed", seconds(walls[1]), "yes" if same else "no"])
    report.table(["", "wall", "same bits"], lines)


def killing(client: Client | None, **options: Any) -> DaskMoERegressor:
    """Return an estimator at whose second pass a worker is killed."""
    from skmoe.dask import _fit

    def say(model: Any, info: Any) -> None:
        if client is not None and info.n_pass == 2:
            pid = next(iter(client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)

    _fit._say = say
    return DaskMoERegressor(**options)


def bench_predict(report, args) -> None:
    report.section("The graph of predict, 500 partitions")
    n_experts, d = 512, 600
    random = np.random.RandomState(0)
    X = random.normal(size=(4 * n_experts, d)).astype(np.float32)
    model = MoERegressor(
        n_experts=n_experts, n_init=1, max_iter=1, cross_fit=None, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, X[:, 0])
    rows = da.zeros((500_000, d), chunks=(1_000, d), dtype=np.float32)
    answer = predict(model, rows)
    graph = len(pickle.dumps(dict(answer.__dask_graph__())))
    size = len(pickle.dumps(model))
    lines = [
        [
            f"{size / 1e6:.1f} MB",
            f"{graph / 1e6:.1f} MB",
            f"{(graph - size) / 500 / 1e3:.1f} kB",
        ]
    ]
    report.table(["model", "graph", "beyond the model, a partition"], lines)


def main() -> None:
    parts = {
        "memory": bench_memory,
        "sets": bench_sets,
        "speed": bench_speed,
        "core": bench_core,
        "faults": bench_faults,
        "predict": bench_predict,
    }
    args = parser(__doc__, parts).parse_args()
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        run_parts(args, parts, "dask", "distributed", on_data={"sets"})


if __name__ == "__main__":
    main()
