"""Compare routing and mixing with what they could cost.

- core: top-2 routing and mixing of 64 linear experts against the bare gate product.
- api: the same through `MoERegressor.predict`.
- torch: the same against six ways to write it in PyTorch on the CPU.
- classifier: mixing logistic experts against NumPy, expert by expert.
- grid: the NumPy backend against the Numba backend, by rows and experts.
- trees: 16 gradient-boosted experts, two per row, against asking all sixteen.

All tasks of a part run in turn and give the same answer, which is checked. Wall and
CPU seconds are medians of a call; CPU seconds count all threads.

    python benchmarks/bench_routing.py [--only core,torch] [--quick] [--json FILE]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import sklearn
from _records import cells, parser, run_parts, seconds
from _timing import interleaved, roofline
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from skmoe import MoERegressor
from skmoe.backends import _numba, _reference
from skmoe.gates import SoftmaxGate

D, N_EXPERTS, TOP_K, N_CLASSES = 64, 64, 2, 10
SETTLE = 0.15
"""Seconds of a task before its timed call: longer than threads of BLAS spin."""


class Mixture:
    """Random rows, a random gate and random linear experts of q outputs."""

    def __init__(self, n, d=D, n_experts=N_EXPERTS, q=1, dtype=np.float32):
        random = np.random.default_rng(0)
        self.X = random.standard_normal((n, d), dtype=dtype)
        # Gates and pools hold float64 coefficients, whatever X is.
        self.gate = random.standard_normal((n_experts, d)) / np.sqrt(d)
        self.gate_intercept = 0.1 * random.standard_normal(n_experts)
        self.coef = random.standard_normal((n_experts, q, d)) / np.sqrt(d)
        self.intercept = random.standard_normal((n_experts, q))

    def route(self, ops):
        return ops.softmax_route(self.X, self.gate, self.gate_intercept, TOP_K)

    def linear(self, ops):
        return ops.linear_mix(self.X, *self.route(ops), self.coef, self.intercept)


# ----------------------------------------------------------------------- core
PRODUCTS = ("X @ W into an array", "X @ W")
RATES = ("", "wall", "CPU", *(f"rate of {name}" for name in PRODUCTS))


def rates(name: str, times: dict) -> list[str]:
    """Return the cells of `RATES`."""
    shares = [f"{times[peer].wall / times[name].wall:.2f}" for peer in PRODUCTS]
    return [name, *cells(times[name]), *shares]


def bench_core(report, args) -> None:
    n = 10_000 if args.quick else 100_000
    mixture = Mixture(n)
    W = np.ascontiguousarray(mixture.gate.T, dtype=np.float32)
    out = np.empty((n, N_EXPERTS), np.float32)
    indices, weights = mixture.route(_numba)
    tasks = {
        "X @ W into an array": lambda: np.matmul(mixture.X, W, out=out),
        "X @ W": lambda: mixture.X @ W,
        "route and mix": lambda: mixture.linear(_numba),
        "route": lambda: mixture.route(_numba),
        "mix": lambda: _numba.linear_mix(
            mixture.X, indices, weights, mixture.coef, mixture.intercept
        ),
    }
    # Per row: read X once a step; write indices and weights, read them, write y.
    routed = TOP_K * (indices.itemsize + weights.itemsize)
    row = 4 * D
    read = {
        "X @ W into an array": row + 4 * N_EXPERTS,
        "X @ W": row + 4 * N_EXPERTS,
        "route and mix": 2 * row + 2 * routed + 4,
        "route": row + routed,
        "mix": row + routed + 4,
    }
    gemm, mix = 2 * D * N_EXPERTS, 2 * TOP_K * (D + 1)
    done = {
        "X @ W into an array": gemm,
        "X @ W": gemm,
        "route and mix": gemm + mix,
        "route": gemm,
        "mix": mix,
    }
    for threads in (None, 1):
        with threadpool_limits(threads, user_api="blas"):
            roof = roofline(n, D, N_EXPERTS, np.float32, args.repeat)
            times = interleaved(tasks, args.repeat, at_least=2.0, settle=SETTLE)
        which = "BLAS's threads" if threads is None else "one thread"
        report.keep(f"core, {which}", times)
        report.section(
            f"Core, {which}: n={n}, d={D}, {N_EXPERTS} experts, top_k={TOP_K}, float32"
        )
        report.table(
            [
                *RATES,
                "bytes per row",
                "GB/s",
                "operations per row",
                "GFLOP/s",
                "of GEMM",
            ],
            [
                [
                    *rates(name, times),
                    read[name],
                    f"{1e-9 * n * read[name] / t.wall:.1f}",
                    done[name],
                    f"{1e-9 * n * done[name] / t.wall:.1f}",
                    f"{1e-9 * n * done[name] / t.wall / roof.gemm:.2f}",
                ]
                for name, t in times.items()
            ],
        )
        report.line(
            f"Roofline: {roof.gemm:.0f} GFLOP/s at this shape, copy {roof.copy:.1f} "
            "GB/s. Target: route and mix ≥ 0.75 of the rate of X @ W."
        )


# ------------------------------------------------------------------------ API
def bench_api(report, args) -> None:
    n = 10_000 if args.quick else 100_000
    X = Mixture(n).X
    train = X[: 50 * N_EXPERTS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MoERegressor(
            n_experts=N_EXPERTS,
            gate=SoftmaxGate(max_iter=3, update_iter=1),
            init="kmeans_x",
            n_init=1,
            max_iter=1,
            random_state=0,
        ).fit(train, np.abs(train[:, 0]) + train[:, 1])
    gate, pool = model.gate_, model._pool
    W = np.ascontiguousarray(gate.coef_.T, dtype=np.float32)
    out = np.empty((n, N_EXPERTS), np.float32)

    def core():
        routed = _numba.softmax_route(X, gate.coef_, gate.intercept_, TOP_K)
        return _numba.linear_mix(X, *routed, pool.coef, pool.intercept)

    def unchecked():
        with sklearn.config_context(assume_finite=True):
            return model.predict(X)

    np.testing.assert_allclose(core()[:, 0], model.predict(X), rtol=1e-5)
    times = interleaved(
        {
            "X @ W into an array": lambda: np.matmul(X, W, out=out),
            "X @ W": lambda: X @ W,
            "route and mix": core,
            "predict": lambda: model.predict(X),
            "predict, assume_finite": unchecked,
        },
        args.repeat,
        at_least=2.0,
        settle=SETTLE,
    )
    report.keep("api", times)
    report.section(f"MoERegressor.predict: n={n}, d={D}, {N_EXPERTS} experts, float32")
    report.table(RATES, [rates(name, times) for name in times])


# ---------------------------------------------------------------------- torch
def torch_versions(torch, mixture: Mixture) -> dict[str, Callable]:
    """Return six ways to write top-k routing and mixing of linear experts."""

    def tensor(array):
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))

    X = tensor(mixture.X)
    W, b = tensor(mixture.gate.T), tensor(mixture.gate_intercept)
    coef, intercept = tensor(mixture.coef[:, 0]), tensor(mixture.intercept[:, 0])
    both = torch.cat([W, coef.T], dim=1)
    both_intercept = torch.cat([b, intercept])
    n, d = X.shape
    n_experts = len(coef)

    def route():
        best, indices = torch.addmm(b, X, W).topk(TOP_K, dim=1)
        return indices, torch.softmax(best, dim=1)

    def by_expert(indices):
        """Return entries sorted by expert, the row of each, and the counts."""
        flat = indices.reshape(-1)
        order = torch.argsort(flat)
        return flat, order, order // TOP_K, torch.bincount(flat, minlength=n_experts)

    def loop():
        indices, weights = route()
        y = torch.zeros(n)
        for k in range(n_experts):
            rows, place = torch.nonzero(indices == k, as_tuple=True)
            values = X.index_select(0, rows) @ coef[k] + intercept[k]
            y.index_add_(0, rows, weights[rows, place] * values)
        return y

    def segments():
        indices, weights = route()
        _, order, rows, counts = by_expert(indices)
        parts = X.index_select(0, rows).split(counts.tolist())
        values = torch.cat([p @ c for p, c in zip(parts, coef, strict=True)])
        values += intercept.repeat_interleave(counts)
        values *= weights.reshape(-1)[order]
        return torch.zeros(n).index_add_(0, rows, values)

    def padded():
        indices, weights = route()
        flat, order, rows, counts = by_expert(indices)
        capacity = int(counts.max())
        first = torch.cumsum(counts, 0) - counts
        expert = flat[order]
        slot = expert * capacity + torch.arange(len(flat)) - first[expert]
        buffer = torch.zeros(n_experts * capacity, d)
        buffer.index_copy_(0, slot, X.index_select(0, rows))
        answers = torch.bmm(buffer.view(n_experts, capacity, d), coef[:, :, None])
        values = (answers.view(n_experts, capacity) + intercept[:, None]).view(-1)[slot]
        values = values * weights.reshape(-1)[order]
        return torch.zeros(n).index_add_(0, rows, values)

    def gather():
        indices, weights = route()
        values = torch.bmm(coef[indices], X[:, :, None])[:, :, 0]
        return ((values + intercept[indices]) * weights).sum(dim=1)

    def dense():
        logits, values = torch.addmm(both_intercept, X, both).split(n_experts, dim=1)
        best, indices = logits.topk(TOP_K, dim=1)
        return (values.gather(1, indices) * torch.softmax(best, dim=1)).sum(dim=1)

    def maxima():
        """Find the best two by two passes of max, which is faster than topk."""
        logits, values = torch.addmm(both_intercept, X, both).split(n_experts, dim=1)
        first, one = logits.max(dim=1, keepdim=True)
        second, two = logits.scatter(1, one, -torch.inf).max(dim=1, keepdim=True)
        weights = torch.softmax(torch.cat([first, second], dim=1), dim=1)
        return (values.gather(1, torch.cat([one, two], dim=1)) * weights).sum(dim=1)

    return {
        "loop over experts": loop,
        "sorted by expert, a product a segment": segments,
        "padded to the fullest expert, bmm": padded,
        "coefficients gathered, bmm": gather,
        "all experts in one product, gathered": dense,
        "the same, two passes of max for topk": maxima,
    }


def bench_torch(report, args) -> None:
    report.section("PyTorch on the CPU")
    try:
        import torch
    except ImportError:
        report.line("Skipped: PyTorch is not installed (pip install torch).")
        return
    n = 10_000 if args.quick else 100_000
    mixture = Mixture(n)
    answer = mixture.linear(_numba)[:, 0]
    versions = torch_versions(torch, mixture)
    with torch.no_grad():
        for version in versions.values():
            np.testing.assert_allclose(version(), answer, rtol=1e-3, atol=1e-4)
        for threads in (2, 1):
            torch.set_num_threads(threads)
            with threadpool_limits(threads, user_api="blas"):
                tasks = {"skmoe": lambda: mixture.linear(_numba), **versions}
                times = interleaved(tasks, args.repeat, at_least=2.0, settle=SETTLE)
            report.keep(f"torch, {threads} threads", times)
            ours = times["skmoe"]
            report.table(
                [f"{threads} threads", "wall", "CPU", "wall / ours", "CPU / ours"],
                [[name, *cells(t, ours)] for name, t in times.items()],
            )
            *five, sixth = (times[name].cpu / ours.cpu for name in versions)
            report.line(
                "Rows a CPU second against the fastest of the first five: "
                f"{min(five):.1f} (target ≥ 7), against the sixth: {sixth:.1f}.\n"
            )


# ----------------------------------------------------------------- classifier
def softmax_by_expert(X, indices, weights, coef, intercept) -> np.ndarray:
    """Mix logistic experts in NumPy: sort the entries, one product an expert."""
    order = np.argsort(indices, axis=None, kind="stable")
    bounds = np.searchsorted(indices.reshape(-1)[order], np.arange(len(coef) + 1))
    rows, flat = order // indices.shape[1], weights.reshape(-1)[order]
    out = np.zeros((len(X), coef.shape[1]), X.dtype)
    for k, (C, b) in enumerate(zip(coef, intercept, strict=True)):
        mine = slice(bounds[k], bounds[k + 1])
        logits = X[rows[mine]] @ C.T + b
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits *= (flat[mine] / logits.sum(axis=1))[:, None]
        out[rows[mine]] += logits
    return out


def bench_classifier(report, args) -> None:
    n = 10_000 if args.quick else 100_000
    mixture = Mixture(n, q=N_CLASSES)
    routed = mixture.route(_numba)
    single = mixture.coef.astype(np.float32), mixture.intercept.astype(np.float32)

    def kernels():
        return _numba.softmax_mix(mixture.X, *routed, mixture.coef, mixture.intercept)

    def numpy():
        return softmax_by_expert(mixture.X, *routed, *single)

    np.testing.assert_allclose(kernels(), numpy(), rtol=1e-3, atol=1e-5)
    times = interleaved(
        {"skmoe": kernels, "NumPy, expert by expert": numpy},
        args.repeat,
        at_least=2.0,
        settle=SETTLE,
    )
    report.keep("classifier", times)
    report.section(
        f"Logistic experts, {N_CLASSES} classes: mix of n={n}, d={D}, {N_EXPERTS} "
        f"experts, top_k={TOP_K}, float32"
    )
    report.table(
        ["", "wall", "CPU", "wall / ours", "CPU / ours"],
        [[name, *cells(t, times["skmoe"])] for name, t in times.items()],
    )


# ----------------------------------------------------------------------- grid
def bench_grid(report, args) -> None:
    d = 20
    report.section(f"NumPy against Numba by size: d={d}, top_k={TOP_K}, float64")
    sizes = (1, 100, 10_000) if args.quick else (1, 10, 100, 1000, 10_000, 100_000)
    lines = []
    for n_experts in (8, 64, 256):
        for n in sizes:
            mixture = Mixture(n, d, n_experts, dtype=np.float64)
            indices, _ = mixture.route(_numba)
            coef, intercept = mixture.coef, mixture.intercept
            flat = np.ascontiguousarray(coef[:, 0].T)

            def gathered(mixture=mixture, at=indices, coef=coef, intercept=intercept):
                return _numba.linear_at(mixture.X, at, coef, intercept)

            def dense(mixture=mixture, at=indices, flat=flat, b=intercept[:, 0]):
                return np.take_along_axis(mixture.X @ flat + b, at, axis=1)

            np.testing.assert_allclose(gathered()[:, :, 0], dense(), rtol=1e-8)
            times = interleaved(
                {
                    "numpy": lambda mixture=mixture: mixture.linear(_reference),
                    "numba": lambda mixture=mixture: mixture.linear(_numba),
                    "linear_at": gathered,
                    "all experts": dense,
                },
                args.repeat,
            )
            report.keep(f"grid, {n} rows, {n_experts} experts", times)
            numpy, numba = times["numpy"].wall, times["numba"].wall
            at, every = times["linear_at"].wall, times["all experts"].wall
            core = [seconds(numpy), seconds(numba), f"{numpy / numba:.2f}"]
            values = [seconds(every), seconds(at), f"{every / at:.2f}"]
            lines.append([n_experts, n, n * max(d, n_experts), *core, *values])
    core = ("route and mix: NumPy", "Numba", "ratio")
    values = ("values of two: all experts' product", "kernel", "ratio")
    report.table(["experts", "rows", "elements", *core, *values], lines)


# ---------------------------------------------------------------------- trees
def bench_trees(report, args) -> None:
    n_experts, n = 16, 10_000 if args.quick else 50_000
    random = np.random.default_rng(0)
    X = random.standard_normal((n, 20))
    y = np.sin(2 * X[:, 0]) * X[:, 1] + np.abs(X[:, 2]) + X[:, 3]
    y += 0.1 * random.standard_normal(n)
    train = slice(0, 2000 if args.quick else 8000)
    model = MoERegressor(
        HistGradientBoostingRegressor(max_iter=20 if args.quick else 100),
        n_experts=n_experts,
        top_k=None,  # every expert is fitted on many rows, so its trees are full
        cross_fit=None,
        gate=SoftmaxGate(max_iter=10, update_iter=1),
        init="kmeans_x",
        n_init=1,
        max_iter=1,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X[train], y[train])

    def asked(top_k: int | None, X):
        return model.set_params(top_k=top_k).predict(X)

    def every(X):
        return [expert.predict(X) for expert in model.experts_]

    report.section(f"{n_experts} gradient-boosted experts, top_k={TOP_K}")
    lines = []
    for n_rows in (10, 100, 300, 1000, 10_000, 50_000):
        if n_rows > n:
            break
        rows = X[:n_rows]
        times = interleaved(
            {
                "all experts' predict": lambda rows=rows: every(rows),
                "top_k=None": lambda rows=rows: asked(None, rows),
                "top_k=2": lambda rows=rows: asked(TOP_K, rows),
            },
            args.repeat,
        )
        report.keep(f"trees, {n_rows} rows", times)
        each, dense, sparse = (t.wall for t in times.values())
        shares = [f"{sparse / each:.3f}", f"{sparse / dense:.3f}"]
        target = "≤ 0.16" if n_rows == 50_000 else ""
        lines.append([n_rows, *map(seconds, (each, dense, sparse)), *shares, target])
    calls = ("all 16 predict", "top_k=None", "top_k=2")
    shares = ("top_k=2 / all 16", "top_k=2 / top_k=None", "target, of all 16")
    report.table(["rows", *calls, *shares], lines)


PARTS = {
    "core": bench_core,
    "api": bench_api,
    "torch": bench_torch,
    "classifier": bench_classifier,
    "grid": bench_grid,
    "trees": bench_trees,
}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS, "torch")
