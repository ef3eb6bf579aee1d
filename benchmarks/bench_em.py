"""Time passes of EM and whole fits, and measure the peak memory of a large fit.

- linear: one pass at top_k=2 with 256 linear experts against 16: the whole pass, the
  gate with its update and its survey of candidates, and the experts. The passes start
  from the same kind of state: rows at the nearest of as many random directions as there
  are experts, so that all experts have about as many rows.
- trees: the same with DecisionTreeRegressor(max_depth=6) experts, fitted one by one.
- hierarchical: the same with ridge experts and a HierarchicalGate, 1 024 against 64.
- cold: the first fit of a fresh process, kernels not compiled yet, and compiled by a
  process before, against the second fit of the same process.
- small: default fits of some hundred rows, by NumPy and by Numba.
- memory: the peak memory of a large sparse fit and predict beyond the data, in GiB.
  Linux only. Each start runs in a process of its own: it makes the data (rows, 20
  columns, float32), fits a small mixture first so that libraries and compiled kernels
  are in memory, then fits 1 024 linear experts at top_k=2 for one pass with a cheap
  gate, and predicts. The peak is the kernel's own high-water mark, set back before fit
  and before predict; what stood in memory before is taken off.

Times of a pass are medians of wall and CPU seconds.

    python benchmarks/bench_em.py [--only linear,cold] [--quick]
        [--rows 1000000] [--experts 1024] [--starts tree,random]
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
from _data import hinge
from _records import parser, run_parts, seconds
from _timing import clocked, interleaved
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe.backends import using
from skmoe.em import PORTFOLIO, Problem, resume, step
from skmoe.experts import make_pool
from skmoe.gates import HierarchicalGate, SoftmaxGate
from skmoe.likelihoods import Gaussian
from skmoe.routing import Routing

TOP_K, WIDTH = 2, 4
"""Training keeps twice as many experts per row as predict asks."""

SHARPNESS = 4.0
"""Norm of a gate's coefficients; columns of X have variance one."""


# ------------------------------------------------------------------ one pass
class Case(NamedTuple):
    """What passes are compared."""

    name: str
    expert: object
    gate: Callable
    n_features: int
    few: int
    many: int
    before: int  # passes before those that are timed


def known_softmax(X, start: Routing, directions: np.ndarray) -> SoftmaxGate:
    """Return the softmax gate of the directions, which need not be learned."""
    gate = SoftmaxGate(max_iter=1).fit(X, start)
    gate.coef_, gate.intercept_ = directions, np.zeros(len(directions))
    return gate


def learned_tree(X, start: Routing, directions: np.ndarray) -> HierarchicalGate:
    return HierarchicalGate(max_iter=10).fit(X, start)


LINEAR = Case("linear", Ridge(), known_softmax, 20, 16, 256, 0)
TREES = LINEAR._replace(name="trees", expert=DecisionTreeRegressor(max_depth=6))
HIERARCHICAL = Case("hierarchical", Ridge(), learned_tree, 16, 64, 1024, 2)


def setting(case: Case, n: int, n_experts: int) -> tuple[Problem, object]:
    """Return a problem, and a state that has seen a fit of gate and experts."""
    random = np.random.default_rng(0)
    X = random.standard_normal((n, case.n_features))
    directions = random.standard_normal((n_experts, case.n_features))
    directions *= SHARPNESS / np.linalg.norm(directions, axis=1, keepdims=True)
    nearest = np.concatenate(
        [
            np.argsort(-(part @ directions.T), axis=1)[:, :WIDTH]
            for part in np.array_split(X, 1 + n // 4096)
        ]
    )
    slopes = random.standard_normal((n_experts, case.n_features))
    y = np.einsum("ij,ij->i", X, slopes[nearest[:, 0]])
    y += 0.5 * random.standard_normal(n)
    share = np.tile([0.85, 0.05, 0.05, 0.05], (n, 1))
    start = Routing(nearest, share, n_experts)
    problem = Problem(X, X, y[:, None], np.ones(n), n_experts, WIDTH, 1, 0.0)
    pool = make_pool(
        [case.expert] * n_experts,
        n_features=case.n_features,
        seeds=list(range(n_experts)),
        n_jobs=1,
        likelihood=Gaussian().bound(10.0, np.array([1e-3 * y.var()])),
    )
    with using("auto", n * n_experts):
        gate = case.gate(X, start, directions)
        pool = pool.fit(X, problem.y, start)
        pool = pool.rescale(problem.y, pool.evaluate(X, problem.y, start), start)
        state = resume(problem, gate, pool)
        for _ in range(case.before):
            state = step(problem, state)[0]
        return problem, state


GATE, EXPERTS = "gate", "experts"
METHODS = {
    GATE: ("update", "survey", "log_proba_at", "route"),
    EXPERTS: ("update", "evaluate"),
}
"""What of a pass is timed; calls within these calls count for the outer one."""


def clock() -> np.ndarray:
    """Return the wall and the CPU seconds since some moment."""
    return np.array([time.perf_counter(), time.process_time()])


@contextmanager
def watched(owners: dict[str, type]) -> Iterator[dict[str, np.ndarray]]:
    """Yield wall and CPU seconds of the methods of classes, added up meanwhile."""
    spent = {
        f"{owner}: {name}": np.zeros(2) for owner in owners for name in METHODS[owner]
    }
    running: list[str] = []

    def timed(method, part: str):
        @functools.wraps(method)
        def run(self, *args, **kwargs):
            if running:
                return method(self, *args, **kwargs)
            for arg in args:
                if isinstance(arg, Routing) and not arg.dense:
                    _ = arg.expert_major  # the sort serves gate and experts alike
            running.append(part)
            started = clock()
            try:
                return method(self, *args, **kwargs)
            finally:
                spent[part] += clock() - started
                running.pop()

        return run

    with ExitStack() as stack:
        for owner, kind in owners.items():
            for name in METHODS[owner]:
                run = timed(getattr(kind, name), f"{owner}: {name}")
                stack.enter_context(mock.patch.object(kind, name, run))
        yield spent


def one_pass(problem: Problem, state) -> dict[str, np.ndarray]:
    """Return wall and CPU seconds of a pass and of its parts."""
    # A new routing: the sort of the last pass must not be found again.
    resp = Routing(state.resp.indices, state.resp.weights, problem.n_experts)
    owners = {GATE: type(state.gate), EXPERTS: type(state.pool)}
    with watched(owners) as spent, using("auto", len(problem.y) * problem.n_experts):
        started = clock()
        step(problem, replace(state, resp=resp))
        whole = clock() - started
    gate = sum(spent[part] for part in spent if part.startswith(GATE))
    return {"whole pass": whole, GATE: gate, "all but the gate": whole - gate, **spent}


def bench_pass(report, args, case: Case, n: int) -> None:
    sizes = (case.few, case.many)
    settings = {k: setting(case, n, k) for k in sizes}
    for problem_and_state in settings.values():
        one_pass(*problem_and_state)
    passes: dict[int, list[dict]] = {k: [] for k in sizes}
    for _ in range(args.repeat):
        for k, problem_and_state in settings.items():
            passes[k].append(one_pass(*problem_and_state))
    report.section(
        f"One pass of EM, {case.name}: {type(case.expert).__name__} experts, n={n}, "
        f"d={case.n_features}, top_k={TOP_K}"
    )
    lines = []
    for part in passes[case.few][0]:
        medians = {
            k: np.median([one[part] for one in passes[k]], axis=0) for k in sizes
        }
        for k, (wall, _) in medians.items():
            report.figures[f"{case.name}/{part}, {k} experts"] = float(wall)
        if not medians[case.few].all():
            continue  # a method that a pass does not call by itself
        line = [part]
        for few, many in np.column_stack(list(medians.values())):
            line += [seconds(few), seconds(many), f"{many / few:.2f}"]
        lines.append(line)
    header = [
        f"{unit}, {k} experts" if k else f"{unit}, ratio"
        for unit in ("wall", "CPU")
        for k in (*sizes, None)
    ]
    report.table(["", *header], lines)


def bench_linear(report, args) -> None:
    bench_pass(report, args, LINEAR, 20_000 if args.quick else 200_000)
    report.line("Target: all but the gate ≤ 1.5 times.")


def bench_trees(report, args) -> None:
    bench_pass(report, args, TREES, 10_000 if args.quick else 200_000)
    report.line("Target: all but the gate ≤ 1.5 times.")


def bench_hierarchical(report, args) -> None:
    bench_pass(report, args, HIERARCHICAL, 20_000 if args.quick else 200_000)
    report.line("Target: the whole pass ≤ 1.6 times.")


# ---------------------------------------------------------------- cold start
COLD = """
import json, sys, time, warnings
import numpy as np
from skmoe import MoERegressor
warnings.simplefilter("ignore")
random = np.random.default_rng(0)
X = random.standard_normal(({n}, 20))
y = np.abs(X[:, 0]) + X[:, 1]
taken = []
for _ in range(2):
    model = MoERegressor(n_experts=8, n_init=1, max_iter=3, tol=0, random_state=0)
    started = time.perf_counter()
    model.fit(X, y)
    taken.append(time.perf_counter() - started)
print(json.dumps(taken))
"""


def bench_cold(report, args) -> None:
    n = 20_000 if args.quick else 50_000
    code = [sys.executable, "-c", COLD.format(n=n)]
    rounds: dict[str, list] = {"empty": [], "filled": []}
    for _ in range(1 if args.quick else min(args.repeat, 3)):
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, "NUMBA_CACHE_DIR": cache}
            for pairs in rounds.values():
                out = subprocess.run(
                    code, check=True, capture_output=True, text=True, env=env
                )
                pairs.append(json.loads(out.stdout))
    report.section(f"First fit of a process: n={n}, d=20, 8 linear experts, float64")
    lines = []
    for (kind, pairs), target in zip(rounds.items(), (10.0, 0.5), strict=True):
        first, second = np.median(pairs, axis=0)
        report.figures[f"cold/first fit, cache {kind}"] = float(first)
        report.figures[f"cold/second fit, cache {kind}"] = float(second)
        times = (first, second, first - second)
        lines.append([kind, *map(seconds, times), f"≤ {target} s"])
    report.table(
        [
            "cache of kernels",
            "first fit",
            "second fit",
            "first beyond second",
            "target",
        ],
        lines,
    )


# ---------------------------------------------------------------- small tables
def bench_small(report, args) -> None:
    report.section(
        "Default fits of small tables: d=10, 8 experts, one fit each in turn"
    )
    lines = []
    for n in (100,) if args.quick else (300, 1000, 3000):
        random = np.random.default_rng(0)
        X = random.standard_normal((n, 10))
        y = X[:, 0] * X[:, 1] + random.standard_normal(n)
        tasks = {
            backend: functools.partial(
                MoERegressor(random_state=0, backend=backend).fit, X, y
            )
            for backend in ("numpy", "numba")
        }
        times = interleaved(tasks, 1 if args.quick else 3)
        report.keep(f"small/n={n}", times)
        walls = [times[name].wall for name in tasks]
        lines.append([n, *map(seconds, walls), f"{walls[0] / walls[1]:.2f}"])
    report.table(["rows", "NumPy", "Numba", "NumPy / Numba"], lines)


# --------------------------------------------------------------------- memory
D, GIB, TARGET = 20, float(1 << 30), 1.0
STATUS = Path("/proc/self/status")


def memory(field: str) -> int:
    """Return bytes: VmRSS is now, VmHWM the most since `forget_peak`."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field} in {STATUS}")


def forget_peak() -> None:
    """Set the high-water mark back to what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def model(kind: str, n_experts: int) -> MoERegressor:
    return MoERegressor(
        n_experts=n_experts,
        top_k=2,
        gate=SoftmaxGate(max_iter=1, update_iter=1),
        init=kind,
        n_init=1,
        max_iter=1,
        random_state=0,
        backend="numba",
    )


def measure(kind: str, n: int, n_experts: int) -> dict[str, float]:
    """Return bytes and seconds of one start; runs in a process of its own."""
    warnings.simplefilter("ignore")
    X, y = hinge(n, D, np.float32)
    small = slice(0, min(n, 4000))
    model(kind, 8).fit(X[small], y[small]).predict(X[small])
    data = X.nbytes + y.nbytes
    figures = {"data": data, "library": memory("VmRSS") - data}
    mixture = model(kind, n_experts)
    for name, call in (
        ("fit", lambda: mixture.fit(X, y)),
        ("predict", lambda: mixture.predict(X)),
    ):
        forget_peak()
        before = memory("VmRSS")
        _, timing = clocked(call)
        figures[f"{name} seconds"] = timing.wall
        figures[name] = memory("VmHWM") - before
    return figures


def bench_memory(report, args) -> None:
    report.section(
        f"Peak memory: n={args.rows}, d={D}, {args.experts} linear experts, top_k=2, "
        "float32"
    )
    lines = []
    for kind in args.starts.split(","):
        code = [sys.executable, __file__, "--child", kind]
        code += ["--rows", str(args.rows), "--experts", str(args.experts)]
        out = subprocess.run(code, check=True, capture_output=True, text=True)
        figures = json.loads(out.stdout)
        for name in ("fit", "predict"):
            report.figures[f"{kind}/{name}"] = figures[f"{name} seconds"]
        size = [f"{figures[name] / GIB:.2f}" for name in ("fit", "predict")]
        times = [seconds(figures[f"{name} seconds"]) for name in ("fit", "predict")]
        base = [f"{figures[name] / GIB:.2f}" for name in ("data", "library")]
        per_row = f"{figures['fit'] / args.rows:.0f}"
        lines.append([kind, *base, size[0], per_row, size[1], f"≤ {TARGET}", *times])
    peaks = ("fit beyond, GiB", "bytes per row", "predict beyond, GiB", "target")
    before = ("data, GiB", "libraries, GiB")
    report.table(["start", *before, *peaks, "fit", "predict"], lines)


PARTS = {
    "linear": bench_linear,
    "trees": bench_trees,
    "hierarchical": bench_hierarchical,
    "cold": bench_cold,
    "small": bench_small,
    "memory": bench_memory,
}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.add_argument("--rows", type=int, help="of ``memory``; 1 000 000")
    options.add_argument("--experts", type=int, default=1024, help="of ``memory``")
    options.add_argument("--starts", default=",".join(PORTFOLIO), help="of ``memory``")
    options.add_argument("--child", help="measure this start here, and print it")
    args = options.parse_args()
    args.rows = args.rows or (20_000 if args.quick else 1_000_000)
    if unknown := set(args.starts.split(",")) - set(PORTFOLIO):
        options.error(f"unknown starts {sorted(unknown)}; known are {PORTFOLIO}")
    if args.child:
        print(json.dumps(measure(args.child, args.rows, args.experts)))
    else:
        run_parts(args, PARTS)


if __name__ == "__main__":
    main()
