"""Time a stream that is learned batch by batch, and compare it with a fit on all rows.

The rows are of a teacher: a softmax gate over linear regimes. Printed are rows per
second (validation included, the first calls apart, which start the mixture), and
bounds in nats a row: those that the estimators report, and the mean of
``score_samples`` on new rows.

- stream: MoERegressor, linear experts, top_k=2.
- drift: all regimes change sign; R² on new rows after so many rows.

    python benchmarks/bench_stream.py [--rows 1000000] [--batch 1000] [--no-fit]
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
from _timing import machine, table

from skmoe import MoERegressor

NEW = 50_000
"""Rows that no estimator learns."""

FIRST = 10_000
"""Rows until which starts are repeated; they are timed apart."""

SHARPNESS = 10.0
"""Norm of a gate's coefficients; columns of X have variance one."""


def teacher(n: int, d: int, n_experts: int, seed: int, flip: float = 1.0):
    """Return rows of a softmax gate over linear regimes."""
    random = np.random.RandomState(seed)
    gate = random.randn(n_experts, d) * SHARPNESS / np.sqrt(d)
    coef, intercept = random.randn(n_experts, d), random.randn(n_experts)
    scale = 0.3 * np.exp(0.25 * random.randn(n_experts))
    X = random.randn(n, d)
    logits = X @ gate.T
    proba = np.exp(logits - logits.max(axis=1, keepdims=True))
    proba /= proba.sum(axis=1, keepdims=True)
    own = (proba.cumsum(axis=1) > random.rand(n, 1)).argmax(axis=1)
    mean = np.sum(X * coef[own], axis=1) + intercept[own]
    return X, flip * mean + scale[own] * random.randn(n)


def bench_stream(args: argparse.Namespace) -> None:
    """Print the rate of a stream, and bounds beside those of a fit."""
    print(f"\n## {args.rows} rows in batches of {args.batch}, {args.experts} experts\n")
    rows = []
    for seed in range(args.seeds):
        X, y = teacher(args.rows + NEW, args.features, args.experts, seed)
        new, (X, y) = (X[args.rows :], y[args.rows :]), (X[: args.rows], y[: args.rows])
        model = MoERegressor(n_experts=args.experts, random_state=0)
        started = time.perf_counter()
        for a in range(0, FIRST, args.batch):
            model.partial_fit(X[a : a + args.batch], y[a : a + args.batch])
        first, started = time.perf_counter() - started, time.perf_counter()
        cpu = time.process_time()
        for a in range(FIRST, args.rows, args.batch):
            model.partial_fit(X[a : a + args.batch], y[a : a + args.batch])
        seconds = time.perf_counter() - started
        cpu = time.process_time() - cpu
        rows.append([f"stream, seed {seed}", f"{first:.1f} s"])
        rows[-1] += rates(args.rows - FIRST, seconds, cpu) + bounds(model, new)
        if args.fit:
            model.set_params(cross_fit=None)
            started, cpu = time.perf_counter(), time.process_time()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(X, y)
            seconds = time.perf_counter() - started
            cpu = time.process_time() - cpu
            rows.append([f"fit, seed {seed}", ""])
            rows[-1] += rates(args.rows, seconds, cpu) + bounds(model, new)
    header = ["run", "first rows", "rows/s", "rows/CPU s", "lower_bound_"]
    print(table([*header, "routed_bound_", "new rows"], rows), flush=True)


def rates(n_rows: int, seconds: float, cpu: float) -> list[str]:
    """Return rows a second, of the clock and of all threads of the process."""
    return [f"{n_rows / seconds:,.0f}", f"{n_rows / cpu:,.0f}"]


def bounds(model: MoERegressor, new: tuple) -> list[str]:
    """Return bounds as text."""
    found = model.lower_bound_, model.routed_bound_, np.mean(model.score_samples(*new))
    return [f"{value:.4f}" for value in found]


def bench_drift(args: argparse.Namespace) -> None:
    """Print how a stream follows regimes that change sign."""
    print("\n## Drift: all regimes change sign after 100 000 rows\n")
    rows = []
    shape = args.features, args.experts
    X, y = teacher(100_000, *shape, 0)
    model = MoERegressor(n_experts=args.experts, random_state=0)
    for a in range(0, len(y), args.batch):
        model.partial_fit(X[a : a + args.batch], y[a : a + args.batch])
    X, y = teacher(100_000 + NEW, *shape, 0, -1.0)
    new, seen = (X[100_000:], y[100_000:]), 0
    for after in (0, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000):
        for a in range(seen, after, args.batch):
            model.partial_fit(X[a : a + args.batch], y[a : a + args.batch])
        seen = max(seen, after)
        memory = model._stream.memory
        rows.append([after, f"{model.score(*new):.3f}", f"{memory:,.0f}"])
    print(table(["rows after the change", "R² on new rows", "memory, rows"], rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--features", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--no-fit", dest="fit", action="store_false")
    parser.add_argument("--no-drift", dest="drift", action="store_false")
    args = parser.parse_args()
    bench_stream(args)
    if args.drift:
        bench_drift(args)
    print(f"\n{machine()}")
