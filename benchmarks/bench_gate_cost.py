"""What routing a row costs, by gate and number of experts.

Gates are fitted to rows around as many points as there are experts, each row to the
nearest two points. Fits are short: what is timed is the search for the two best experts
of a row, in one batch, on one thread. CPU seconds are medians of a call.

    OMP_NUM_THREADS=1 python benchmarks/bench_gate_cost.py --repeat 3
"""

from __future__ import annotations

import numpy as np
from _timing import interleaved, parser, run_parts
from sklearn.ensemble import RandomForestClassifier
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
from skmoe.routing import Routing

D, TOP_K = 32, 2
SHORT = {"alpha": 1e-3, "max_iter": 3}


def gates() -> dict:
    """Return gates by name; the last column of X holds ids."""
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
        "groups": GroupGate(D - 1),
        "classifier: random forest of 50": EstimatorGate(forest),
        "constant": ConstantGate(),
    }


def clustered(n: int, n_experts: int) -> tuple[np.ndarray, Routing]:
    """Return rows around as many points as there are experts, and their nearest two."""
    random = np.random.default_rng(0)
    middle = random.standard_normal((n_experts, D))
    X = middle[random.integers(n_experts, size=n)]
    X += 0.5 * random.standard_normal((n, D))
    X[:, -1] = random.integers(1000, size=n)
    nearer = X[:, :-1] @ middle[:, :-1].T - 0.5 * (middle[:, :-1] ** 2).sum(axis=1)
    best = np.argpartition(-nearer, TOP_K, axis=1)[:, :TOP_K]
    return X, Routing(best, np.full(best.shape, 0.5), n_experts)


def bench_route(report, args) -> None:
    n, sizes = (2_000, (16, 64)) if args.quick else (20_000, (64, 1024))
    found: dict[str, list[str]] = {}
    for n_experts in sizes:
        X, routing = clustered(n, n_experts)
        with using("numba", n * n_experts), threadpool_limits(1):
            fitted = {name: gate.fit(X, routing) for name, gate in gates().items()}
            tasks = {
                name: lambda gate=gate, X=X: gate.route(X, TOP_K)
                for name, gate in fitted.items()
            }
            times = interleaved(tasks, args.repeat)
        report.keep(f"route, {n_experts}", times)
        for name, timing in times.items():
            found.setdefault(name, []).append(f"{1e6 * timing.cpu / n:.2f}")
    report.section(f"Routing: CPU µs a row, n={n}, d={D}, top_k={TOP_K}, one thread")
    header = ["gate", *(f"{n_experts} experts" for n_experts in sizes)]
    report.table(header, [[name, *times] for name, times in found.items()])


PARTS = {"route": bench_route}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS)
