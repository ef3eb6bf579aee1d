"""Measure what gates cost, and how well the gates of thousands of experts do.

- route: top-2 routing of rows by the flat softmax gate of 64 experts, by ProductGate
  and HierarchicalGate of 4 096 (random coefficients, and a tree fitted to clustered
  rows), and by the flat gate of 4 096: wall and CPU seconds.
- cost: CPU microseconds per row to find the two best experts, for every gate, of 64 and
  of 1 024 experts. Rows lie around as many points as there are experts, and each row is
  fitted to the nearest two points. Fits are short: only the search is timed, in one
  batch, on one thread.
- agree: gates fitted to soft k-means clusters of real rows: held-out log-likelihood in
  nats per row, and how often the search finds the best experts of all, by beam. Sets
  are those of the folder named by SKMOE_DATA.

Tasks of a part run in turn. Times are medians of a call.

    SKMOE_DATA=path/to/data python benchmarks/bench_gates.py [--only route,cost]
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
from _data import load
from _records import cells, parser, run_parts
from _timing import interleaved
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skmoe.backends import using
from skmoe.gates import (
    ConstantGate,
    EstimatorGate,
    GaussianGate,
    GroupGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from skmoe.gates._layout import grid, tree_of
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
    nested = tree_of(np.arange(MANY).reshape(shape).tolist())
    gate = coefficients(HierarchicalGate(), len(nested.target), MANY)
    gate._tree = nested
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
                name: partial(gate.route, X, TOP_K) for name, gate in gates.items()
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


# ----------------------------------------------------------------------- cost
COST_D = 32
SHORT = {"alpha": 1e-3, "max_iter": 3}


def all_gates() -> dict:
    """Return a gate of each kind by name; the last column of X holds ids."""
    forest = RandomForestClassifier(50, max_depth=10, random_state=0)
    return {
        "softmax": SoftmaxGate(**SHORT),
        'gaussian, "diag"': GaussianGate(max_iter=0),
        'gaussian, "full"': GaussianGate("full", max_iter=0),
        "tree": TreeGate(),
        "forest of 50": TreeGate(n_estimators=50),
        "hierarchical": HierarchicalGate(**SHORT),
        "product": ProductGate(**SHORT),
        "neighbours": KNeighborsGate(),
        "groups": GroupGate(COST_D - 1),
        "classifier: random forest of 50": EstimatorGate(forest),
        "constant": ConstantGate(),
    }


def clouds(n: int, n_experts: int) -> tuple[np.ndarray, Routing]:
    """Return rows around as many points as there are experts, and their nearest two."""
    random = np.random.default_rng(0)
    middle = random.standard_normal((n_experts, COST_D))
    X = middle[random.integers(n_experts, size=n)]
    X += 0.5 * random.standard_normal((n, COST_D))
    X[:, -1] = random.integers(1000, size=n)
    nearer = X[:, :-1] @ middle[:, :-1].T - 0.5 * (middle[:, :-1] ** 2).sum(axis=1)
    best = np.argpartition(-nearer, TOP_K, axis=1)[:, :TOP_K]
    return X, Routing(best, np.full(best.shape, 0.5), n_experts)


def bench_cost(report, args) -> None:
    n, sizes = (2_000, (16, 64)) if args.quick else (20_000, (64, 1024))
    costs: dict[str, list[str]] = defaultdict(list)
    for n_experts in sizes:
        X, routing = clouds(n, n_experts)
        with using("numba", n * n_experts), threadpool_limits(1):
            tasks = {
                name: partial(gate.fit(X, routing).route, X, TOP_K)
                for name, gate in all_gates().items()
            }
            times = interleaved(tasks, args.repeat)
        report.keep(f"cost, {n_experts}", times)
        for name, timing in times.items():
            costs[name].append(f"{1e6 * timing.cpu / n:.2f}")
    report.section(
        f"Routing: CPU µs per row, n={n}, d={COST_D}, top_k={TOP_K}, one thread"
    )
    header = ["gate", *(f"{n_experts} experts" for n_experts in sizes)]
    report.table(header, [[name, *cost] for name, cost in costs.items()])


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
            truth = routing.take(test)
            with using("numba", X.size):
                gate.fit(X[train], routing.take(np.flatnonzero(train)))
                log_proba = gate.log_proba(X[test])
                own = np.take_along_axis(log_proba, truth.indices, axis=1)
                line = [f"{np.sum(truth.weights * own) / len(test):.3f}"]
                exact = np.sort(log_proba, axis=1)[:, ::-1]
                for beam in (1, 2, 4, 8):
                    if "tree" not in label:
                        line.append("")
                        continue
                    first = gate.set_params(beam=beam).best(X[test], 1)[0][:, 0]
                    second = gate.best(X[test], 2)[0][:, 1]
                    shares = [
                        np.mean(np.isclose(a, b))
                        for a, b in ((first, exact[:, 0]), (second, exact[:, 1]))
                    ]
                    line.append(" / ".join(f"{100 * share:.2f} %" for share in shares))
            lines.append([f"{name}, {n_experts}", label, *line])
    beams = [f"beam {beam}" for beam in (1, 2, 4, 8)]
    report.table(["data, experts", "gate", "log p", *beams], lines)
    report.line(
        "By beam: rows whose best and second best expert of all are found. "
        "Target: ≥ 99 % of best ones at the default, 4."
    )


PARTS = {"route": bench_route, "cost": bench_cost, "agree": bench_agree}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS, on_data=("agree",))
