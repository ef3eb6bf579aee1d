"""Compare gates of thousands of experts with the flat softmax gate of dozens.

- route: top-2 routing of rows by the flat gate of 64 experts, by ProductGate and
  HierarchicalGate of 4 096 (random coefficients, and a tree fitted to clustered rows),
  and by the flat gate of 4 096.
- pass: one pass of EM with HierarchicalGate at 1 024 linear experts against 64, and
  what its parts take: the gate's update, its survey, the experts, the rest.
- agree: gates fitted to soft k-means clusters of real rows: held-out log-likelihood,
  and how often the search finds the best experts of all, by beam. Needs SKMOE_DATA,
  the folder of ``load.py``.

Tasks of a part run in turn. Wall and CPU seconds are medians of a call.

    SKMOE_DATA=path/to/data python benchmarks/bench_gates.py [--only route,pass]
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
from _timing import cells, interleaved, parser, run_parts, seconds
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmoe.backends import using
from skmoe.em import Problem, resume, step
from skmoe.experts import make_pool
from skmoe.gates import HierarchicalGate, ProductGate, SoftmaxGate
from skmoe.gates._layout import grid, tree_of
from skmoe.likelihoods import Gaussian
from skmoe.routing import Routing

D, FEW, MANY, TOP_K = 64, 64, 4096, 2
SHARPNESS = 4.0
"""Norm of a random logit's coefficients; columns of X have variance one."""


# ---------------------------------------------------------------------- route
def coefficients(gate, n_logits: int, n_experts: int):
    """Give an unfitted gate random coefficients."""
    coef = np.random.default_rng(0).standard_normal((n_logits, D))
    coef *= SHARPNESS / np.linalg.norm(coef, axis=1, keepdims=True)
    gate.coef_, gate.intercept_ = coef, np.zeros(n_logits)
    gate.n_experts_ = n_experts
    return gate


def flat(n_experts: int) -> SoftmaxGate:
    return coefficients(SoftmaxGate(), n_experts, n_experts)


def product() -> ProductGate:
    side = round(np.sqrt(MANY))
    gate = coefficients(ProductGate(), 2 * side, MANY)
    gate.shape_ = (side, side)
    gate.cells_ = grid(np.random.default_rng(1).standard_normal((MANY, 2)), gate.shape_)
    return gate


def tree(*shape: int) -> HierarchicalGate:
    made = tree_of(np.arange(MANY).reshape(shape).tolist())
    gate = coefficients(HierarchicalGate(), len(made.target), MANY)
    gate._tree = made
    return gate


def clustered(n: int, dtype) -> tuple[np.ndarray, Routing]:
    """Return rows around as many points as there are experts, and whose they are."""
    random = np.random.default_rng(0)
    middle = random.standard_normal((MANY, D))
    labels = random.integers(MANY, size=n)
    X = middle[labels] + 0.5 * random.standard_normal((n, D))
    return X.astype(dtype), Routing.from_labels(labels, MANY)


def bench_route(report, args) -> None:
    n = 20_000 if args.quick else 200_000
    for dtype in (np.float32, np.float64):
        X, routing = clustered(n, dtype)
        with using("numba", n * MANY), threadpool_limits(1, user_api="blas"):
            part = np.arange(min(n, 40_000))
            fitted = HierarchicalGate(alpha=1e-3, max_iter=10)
            fitted.fit(X[part], routing.take(part))
            gates = {
                f"flat, {FEW}": flat(FEW),
                f"ProductGate, {MANY}": product(),
                f"HierarchicalGate 64·64, {MANY}": tree(64, 64),
                f"HierarchicalGate 16·16·16, {MANY}": tree(16, 16, 16),
                f"HierarchicalGate, fitted, {MANY}": fitted,
                f"flat, {MANY}": flat(MANY),
            }
            tasks = {
                name: lambda gate=gate, X=X: gate.route(X, TOP_K)
                for name, gate in gates.items()
            }
            times = interleaved(tasks, args.repeat)
        report.keep(f"route, {dtype.__name__}", times)
        report.section(
            f"Routing: n={n}, d={D}, top_k={TOP_K}, {dtype.__name__}, one thread"
        )
        base = times[f"flat, {FEW}"]
        report.table(
            ["", "wall", "CPU", f"wall / flat {FEW}", f"CPU / flat {FEW}"],
            [[name, *cells(timing, base)] for name, timing in times.items()],
        )
    report.line(f"Target: ≤ 2.5 times the flat gate of {FEW} for one gate of {MANY}.")


# ----------------------------------------------------------------------- pass
spent: dict[str, float] = defaultdict(float)


def timed(owner: type, name: str, part: str) -> None:
    """Make a method add its seconds to those of a part."""
    method = getattr(owner, name)

    def run(*args, **kwargs):
        started = time.process_time()
        try:
            return method(*args, **kwargs)
        finally:
            spent[part] += time.process_time() - started

    setattr(owner, name, run)


def setting(n: int, d: int, n_experts: int) -> tuple[Problem, object]:
    """Return a problem, and a state some passes after its start."""
    random = np.random.default_rng(0)
    X = random.standard_normal((n, d))
    middle = random.standard_normal((n_experts, d))
    distance = [
        np.argsort(-(X[a : a + 4096] @ middle.T), axis=1)[:, : 2 * TOP_K]
        for a in range(0, n, 4096)
    ]
    nearest = np.concatenate(distance)
    slopes = random.standard_normal((n_experts, d))
    y = np.einsum("ij,ij->i", X, slopes[nearest[:, 0]])
    y += 0.5 * random.standard_normal(n)
    share = np.tile([0.85, 0.05, 0.05, 0.05], (n, 1))
    start = Routing(nearest, share, n_experts)
    problem = Problem(X, X, y[:, None], np.ones(n), n_experts, 2 * TOP_K, 1, 0.0)
    pool = make_pool(
        [Ridge()] * n_experts,
        n_features=d,
        seeds=list(range(n_experts)),
        n_jobs=1,
        likelihood=Gaussian().bound(10.0, np.array([1e-3 * y.var()])),
    )
    with using("auto", n * n_experts):
        gate = HierarchicalGate(max_iter=10).fit(X, start)
        pool = pool.fit(X, problem.y, start)
        pool = pool.rescale(problem.y, pool.evaluate(X, problem.y, start), start)
        state = resume(problem, gate, pool)
        for _ in range(2):
            state = step(problem, state)[0]
        return problem, state


def one_pass(problem: Problem, state) -> dict[str, float]:
    """Return the CPU seconds of a pass and of its parts."""
    # A new routing: the sort of the last pass must not be found again.
    resp = Routing(state.resp.indices, state.resp.weights, problem.n_experts)
    spent.clear()
    started = time.process_time()
    with using("auto", len(problem.y) * problem.n_experts):
        step(problem, replace(state, resp=resp))
    whole = time.process_time() - started
    return {"whole pass": whole, **spent, "the rest": whole - sum(spent.values())}


def bench_pass(report, args) -> None:
    n, d = (20_000, 16) if args.quick else (200_000, 16)
    few, many = 64, 1024
    settings = {k: setting(n, d, k) for k in (few, many)}
    pool = type(settings[few][1].pool)
    timed(HierarchicalGate, "update", "gate, update")
    timed(HierarchicalGate, "survey", "gate, survey")
    timed(pool, "update", "experts, update")
    timed(pool, "evaluate", "experts, evaluate")
    taken: dict[int, list] = {k: [] for k in settings}
    for _ in range(args.repeat):
        for k, made in settings.items():
            taken[k].append(one_pass(*made))
    report.section(f"One pass of EM, HierarchicalGate: n={n}, d={d}, top_k={TOP_K}")
    lines = []
    for part in taken[few][0]:
        a, b = (float(np.median([p[part] for p in taken[k]])) for k in (few, many))
        report.figures |= {f"pass/{part}, {few}": a, f"pass/{part}, {many}": b}
        target = "≤ 1.6" if part == "whole pass" else ""
        lines.append([part, seconds(a), seconds(b), f"{b / a:.2f}", target])
    columns = (f"CPU, {few} experts", f"CPU, {many} experts", "ratio", "target")
    report.table(["", *columns], lines)


# ---------------------------------------------------------------------- agree
SETS = (("letter", 64), ("elevators", 64), ("mnist_10k", 256), ("letter", 1024))


def soft_clusters(X: np.ndarray, n_clusters: int) -> Routing:
    """Return each row's two nearest clusters, weighted by distance."""
    means = MiniBatchKMeans(n_clusters, random_state=0, n_init=1).fit(X)
    distance = means.transform(X) ** 2
    nearest = np.argsort(distance, axis=1)[:, :2]
    own = np.take_along_axis(distance, nearest, axis=1)
    gap = (own[:, :1] - own) / np.median(own[:, 1] - own[:, 0])
    weights = np.exp(gap)
    return Routing(nearest, weights / weights.sum(axis=1, keepdims=True), n_clusters)


def bench_agree(report, args) -> None:
    report.section("Gates fitted to soft k-means clusters, judged on held-out rows")
    folder = os.environ.get("SKMOE_DATA")
    if not folder:
        report.line("Skipped: set SKMOE_DATA to the folder of load.py.")
        return
    sys.path.insert(0, folder)
    from load import load

    lines = []
    for name, n_experts in SETS[:1] if args.quick else SETS:
        X = StandardScaler().fit_transform(np.asarray(load(name)[0], dtype=float))
        if X.shape[1] > 100:
            X = PCA(50, random_state=0).fit_transform(X)
        X = X[np.random.default_rng(0).permutation(len(X))[:12_000]]
        routing, train = soft_clusters(X, n_experts), np.arange(len(X)) % 3 > 0
        test = np.flatnonzero(~train)
        gates = {
            "flat": SoftmaxGate(),
            "product": ProductGate(),
            "tree": HierarchicalGate(),
            "binary tree": HierarchicalGate(2),
        }
        if n_experts > 256:
            del gates["flat"]  # takes minutes
        for label, gate in gates.items():
            gate.set_params(alpha=1e-3, max_iter=60)
            kept = routing.take(test)
            with using("numba", X.size):
                gate.fit(X[train], routing.take(np.flatnonzero(train)))
                log_proba = gate.log_proba(X[test])
                own = np.take_along_axis(log_proba, kept.indices, axis=1)
                found = [f"{np.sum(kept.weights * own) / len(test):.3f}"]
                exact = np.sort(log_proba, axis=1)[:, ::-1]
                for beam in (1, 2, 4, 8):
                    if "tree" not in label:
                        found += [""]
                        continue
                    first = gate.set_params(beam=beam).best(X[test], 1)[0][:, 0]
                    second = gate.best(X[test], 2)[0][:, 1]
                    shares = [
                        np.mean(np.isclose(a, b))
                        for a, b in ((first, exact[:, 0]), (second, exact[:, 1]))
                    ]
                    found += [" / ".join(f"{100 * share:.2f} %" for share in shares)]
            lines.append([f"{name}, {n_experts}", label, *found])
    beams = [f"beam {beam}" for beam in (1, 2, 4, 8)]
    report.table(["data, experts", "gate", "log p", *beams], lines)
    report.line(
        "By beam: rows whose best and second best expert of all are found. "
        "Target: ≥ 99 % of best ones at the default, 4."
    )


PARTS = {"route": bench_route, "pass": bench_pass, "agree": bench_agree}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS)
