"""Time passes of EM, whole fits, and the first fit of a process.

- linear: one pass at top_k=2 with 256 linear experts against 16, with the gate's part
  (its update, its survey of candidates) and without. The passes start from the same
  kind of state: rows at the nearest of as many random directions as there are
  experts, so that all experts have about as many rows.
- trees: the same with DecisionTreeRegressor(max_depth=6) experts, fitted one by one.
- synth5: CPU seconds to flexmix's log-likelihood, 8 linear experts on 50 000 rows of
  20 columns, against those that flexmix took (recorded) and those that cgmm takes
  here. Needs SKMOE_ORACLE, the folder of ``oracle.json``.
- cold: the first fit of a fresh process, kernels not compiled yet, and compiled by a
  process before, against the second fit of the same process.
- small: default fits of some hundred rows, by NumPy and by Numba.

    SKMOE_ORACLE=path/to/oracle python benchmarks/bench_em.py [--only linear,cold]
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
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
from _timing import Timing, interleaved, parser, run_parts, seconds
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from skmoe import MoERegressor
from skmoe.backends import _numba, using
from skmoe.em import PORTFOLIO, Problem, resume, step
from skmoe.experts import make_pool
from skmoe.gates import SoftmaxGate
from skmoe.likelihoods import Gaussian
from skmoe.routing import Routing

TOP_K, WIDTH = 2, 4
"""Training keeps twice as many experts a row as predict asks."""

SHARPNESS = 4.0
"""Norm of a gate's coefficients; columns of X have variance one."""


# ------------------------------------------------------------------ one pass
def timed(method):
    """Add the seconds of a method to those of the class."""

    @functools.wraps(method)
    def run(self, X, *args):
        for arg in args:
            if isinstance(arg, Routing) and not arg.dense:
                _ = arg.expert_major  # the sort serves the experts as well
        started = time.perf_counter()
        try:
            return method(self, X, *args)
        finally:
            TimedGate.spent += time.perf_counter() - started

    return run


class TimedGate(SoftmaxGate):
    """A softmax gate that knows how long all gates have worked."""

    spent = 0.0
    update = timed(SoftmaxGate.update)
    survey = timed(SoftmaxGate.survey)
    log_proba_at = timed(SoftmaxGate.log_proba_at)
    route = timed(SoftmaxGate.route)


def setting(n: int, d: int, n_experts: int, expert) -> tuple[Problem, object]:
    """Return a problem, and a state that has seen one fit of gate and experts."""
    random = np.random.default_rng(0)
    X = random.standard_normal((n, d))
    directions = random.standard_normal((n_experts, d))
    directions *= SHARPNESS / np.linalg.norm(directions, axis=1, keepdims=True)
    _, nearest = _numba.top_k(X @ directions.T, WIDTH)
    slopes = random.standard_normal((n_experts, d))
    y = np.einsum("ij,ij->i", X, slopes[nearest[:, 0]])
    y += 0.5 * random.standard_normal(n)
    share = np.tile([0.85, 0.05, 0.05, 0.05], (n, 1))
    start = Routing(nearest, share, n_experts)
    problem = Problem(X, X, y[:, None], np.ones(n), n_experts, WIDTH, 1, 0.0)
    pool = make_pool(
        [expert] * n_experts,
        n_features=d,
        seeds=list(range(n_experts)),
        n_jobs=1,
        likelihood=Gaussian().bound(10.0, np.array([1e-3 * y.var()])),
    )
    with using("auto", n * n_experts):
        gate = TimedGate(max_iter=1).fit(X, start)
        gate.coef_, gate.intercept_ = directions, np.zeros(n_experts)
        pool = pool.fit(X, problem.y, start)
        pool = pool.rescale(problem.y, pool.evaluate(X, problem.y, start), start)
        return problem, resume(problem, gate, pool)


def one_pass(problem: Problem, state) -> tuple[float, float]:
    """Return the seconds of a pass, and those of its gate."""
    # A new routing: the sort of the last pass must not be found again.
    resp = Routing(state.resp.indices, state.resp.weights, problem.n_experts)
    TimedGate.spent, started = 0.0, time.perf_counter()
    with using("auto", len(problem.y) * problem.n_experts):
        step(problem, replace(state, resp=resp))
    return time.perf_counter() - started, TimedGate.spent


def bench_pass(report, args, name: str, expert, n: int, d: int) -> None:
    few, many = 16, 256
    settings = {k: setting(n, d, k, expert) for k in (few, many)}
    for made in settings.values():
        one_pass(*made)
    taken: dict[int, list] = {k: [] for k in settings}
    for _ in range(args.repeat):
        for k, made in settings.items():
            taken[k].append(one_pass(*made))
    report.section(
        f"One pass of EM, {type(expert).__name__} experts: n={n}, d={d}, top_k={TOP_K}"
    )
    medians = {}
    for k, pairs in taken.items():
        whole, gate = np.array(pairs).T
        rest = whole - gate
        medians[k] = [float(np.median(part)) for part in (whole, gate, rest)]
    lines = []
    labels = ("whole pass", "gate", "all but the gate")
    for place, part in enumerate(labels):
        for k in (few, many):
            report.figures[f"{name}/{part}, {k} experts"] = medians[k][place]
        a, b = medians[few][place], medians[many][place]
        target = "≤ 1.5" if place == 2 else ""
        lines.append([part, seconds(a), seconds(b), f"{b / a:.2f}", target])
    columns = (f"{few} experts", f"{many} experts", "ratio", "target")
    report.table(["", *columns], lines)


def bench_linear(report, args) -> None:
    n = 20_000 if args.quick else 200_000
    bench_pass(report, args, "linear", Ridge(), n, 20)


def bench_trees(report, args) -> None:
    n = 10_000 if args.quick else 200_000
    bench_pass(report, args, "trees", DecisionTreeRegressor(max_depth=6), n, 20)


# ---------------------------------------------------------------- whole fits
def clocked(function) -> tuple[object, Timing]:
    """Call a function once; return its answer and its seconds."""
    time.sleep(0.1)  # threads of BLAS that still spin are not ours
    cpu, wall = time.process_time(), time.perf_counter()
    answer = function()
    wall = time.perf_counter() - wall
    return answer, Timing(wall, time.process_time() - cpu)


def cgmm_fit(X, y, n_experts: int):
    """Return the fitted peer, None if it is not installed."""
    try:
        from cgmm.moe import MixtureOfExpertsRegressor
    except ImportError:
        return None
    return MixtureOfExpertsRegressor(n_experts, random_state=0).fit(X, y)


def bench_synth5(report, args) -> None:
    report.section("synth5: CPU seconds to flexmix's log-likelihood")
    folder = os.environ.get("SKMOE_ORACLE")
    if not folder:
        report.line("Skipped: set SKMOE_ORACLE to the folder of oracle.json.")
        return
    wanted = "synth3_k4" if args.quick else "synth5_k8"
    cases = json.loads((Path(folder) / "oracle.json").read_text())
    case = next(case for case in cases if case["id"] == wanted)
    X, y, columns = oracle.read(Path(folder), case)
    goal, theirs = case["flexmix_loglik"], case["cpu_seconds_per_start"]

    def ours(number: int, max_iter: int = 5000):
        options = {"n_init": 1, "init": PORTFOLIO[number], "random_state": number}
        options |= {"max_iter": max_iter, "tol": 1e-9}
        return oracle.model(case, columns, options).fit(X, y)

    lines = [["flexmix, recorded", f"{goal:.3f}", "", "", f"{theirs:.3g} s", ""]]

    def line(name: str, value: float, timing: Timing) -> None:
        report.keep(wanted, {name: timing})
        lines.append(
            [
                name,
                f"{value:.3f}",
                f"{value - goal:+.3f}",
                seconds(timing.wall),
                seconds(timing.cpu),
                f"{theirs / timing.cpu:.1f}",
            ]
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours(0, max_iter=1)  # compiles
        for number, kind in enumerate(PORTFOLIO):
            with threadpool_limits(1, user_api="blas"):
                model, one = clocked(functools.partial(ours, number))
            value = float(model.score_samples(X, y).sum())
            line(f"skmoe, start {kind}, one thread", value, one)
            if value >= goal - 1e-3:
                model, both = clocked(functools.partial(ours, number))
                value = float(model.score_samples(X, y).sum())
                line(f"skmoe, start {kind}, BLAS's threads", value, both)
                break
        header = ("log-likelihood", "above flexmix", "wall", "CPU", "flexmix's / this")
        report.table([wanted, *header], lines)
        report.line("Target on synth5: flexmix's CPU seconds over ours ≥ 100.")
        if args.skip_cgmm:
            return
        with threadpool_limits(1, user_api="blas"):
            peer, taken = clocked(lambda: cgmm_fit(X, y, case["k"]))
    if peer is None:
        report.line("cgmm skipped: it is not installed (pip install cgmm).")
        return
    report.keep(wanted, {"cgmm, one thread": taken})
    above = float(peer.score(X, y)) * len(y) - goal
    report.line(
        f"cgmm, one thread: {above:+.3f} above flexmix, {peer.n_iter_} passes, "
        f"{seconds(taken.cpu)} CPU, {taken.cpu / one.cpu:.1f} times ours (target ≥ 10)."
    )


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
    for n in (300, 1000) if args.quick else (300, 1000, 3000):
        random = np.random.default_rng(0)
        X = random.standard_normal((n, 10))
        y = X[:, 0] * X[:, 1] + random.standard_normal(n)
        tasks = {
            backend: functools.partial(
                MoERegressor(random_state=0, backend=backend).fit, X, y
            )
            for backend in ("numpy", "numba")
        }
        times = interleaved(tasks, 3)
        report.keep(f"small/n={n}", times)
        walls = [times[name].wall for name in tasks]
        lines.append([n, *map(seconds, walls), f"{walls[0] / walls[1]:.2f}"])
    report.table(["rows", "NumPy", "Numba", "NumPy / Numba"], lines)


PARTS = {
    "linear": bench_linear,
    "trees": bench_trees,
    "synth5": bench_synth5,
    "cold": bench_cold,
    "small": bench_small,
}

if __name__ == "__main__":
    options = parser(__doc__, PARTS)
    options.add_argument("--skip-cgmm", action="store_true", help="it takes minutes")
    run_parts(options.parse_args(), PARTS, "cgmm")
