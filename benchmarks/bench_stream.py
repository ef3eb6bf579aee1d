"""Time a stream that is learned batch by batch, and compare it with a fit on all rows.

The rows are of a teacher: a softmax gate over linear regimes. The mixture is a
MoERegressor with linear experts and top_k=2.

- stream: rows per second of wall and of CPU time (validation included, the first calls
  apart, which start the mixture), and bounds in nats per row: those that the estimators
  report, and the mean of ``score_samples`` on new rows.
- drift: all regimes change sign after 100 000 rows; R² on new rows after so many rows.

    python benchmarks/bench_stream.py [--only stream] [--rows 1000000] [--batch 1000]
        [--no-fit] [--quick]
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np
from _records import parser, run_parts
from _timing import Timing, clocked

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


def learn(model: MoERegressor, X, y, batch: int) -> None:
    """Let a model learn rows batch by batch."""
    for a in range(0, len(y), batch):
        model.partial_fit(X[a : a + batch], y[a : a + batch])


def bench_stream(report, args: argparse.Namespace) -> None:
    """Print the rate of a stream, and bounds beside those of a fit."""
    report.section(
        f"{args.rows} rows in batches of {args.batch}, {args.experts} experts"
    )
    rows = []
    for seed in range(args.seeds):
        X, y = teacher(args.rows + NEW, args.features, args.experts, seed)
        new, (X, y) = (X[args.rows :], y[args.rows :]), (X[: args.rows], y[: args.rows])
        model = MoERegressor(n_experts=args.experts, random_state=0)
        _, first = clocked(learn, model, X[:FIRST], y[:FIRST], args.batch)
        _, rest = clocked(learn, model, X[FIRST:], y[FIRST:], args.batch)
        rows.append([f"stream, seed {seed}", f"{first.wall:.1f} s"])
        rows[-1] += rates(args.rows - FIRST, rest) + bounds(model, new)
        if args.fit:
            model.set_params(cross_fit=None)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _, whole = clocked(model.fit, X, y)
            rows.append([f"fit, seed {seed}", ""])
            rows[-1] += rates(args.rows, whole) + bounds(model, new)
    header = ["run", "first rows", "rows/s", "rows/CPU s", "lower_bound_"]
    report.table([*header, "routed_bound_", "new rows"], rows)


def rates(n_rows: int, timing: Timing) -> list[str]:
    """Return rows per second, of the clock and of all threads of the process."""
    return [f"{n_rows / timing.wall:,.0f}", f"{n_rows / timing.cpu:,.0f}"]


def bounds(model: MoERegressor, new: tuple) -> list[str]:
    """Return bounds as text."""
    new_rows = np.mean(model.score_samples(*new))
    return [f"{b:.4f}" for b in (model.lower_bound_, model.routed_bound_, new_rows)]


def bench_drift(report, args: argparse.Namespace) -> None:
    """Print how a stream follows regimes that change sign."""
    n = 10_000 if args.quick else 100_000
    report.section(f"Drift: all regimes change sign after {n} rows")
    rows = []
    shape = args.features, args.experts
    model = MoERegressor(n_experts=args.experts, random_state=0)
    learn(model, *teacher(n, *shape, 0), args.batch)
    X, y = teacher(n + NEW, *shape, 0, -1.0)
    new = (X[n:], y[n:])
    before = 0
    for after in (0, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000):
        if after > n:
            break
        learn(model, X[before:after], y[before:after], args.batch)
        before = after
        memory = model._stream.memory
        rows.append([after, f"{model.score(*new):.3f}", f"{memory:,.0f}"])
    report.table(["rows after the change", "R² on new rows", "memory, rows"], rows)


PARTS = {"stream": bench_stream, "drift": bench_drift}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.add_argument("--rows", type=int, help="of ``stream``; 1 000 000")
    options.add_argument("--batch", type=int, default=1000, help="rows of a batch")
    options.add_argument("--experts", type=int, default=8)
    options.add_argument("--features", type=int, default=10)
    options.add_argument("--seeds", type=int, default=3, help="of ``stream``")
    options.add_argument(
        "--no-fit", dest="fit", action="store_false", help="leave the fits out"
    )
    args = options.parse_args()
    args.rows = args.rows or (20_000 if args.quick else 1_000_000)
    run_parts(args, PARTS)


if __name__ == "__main__":
    main()
