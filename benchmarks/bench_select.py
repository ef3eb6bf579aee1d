"""Measure n_experts="auto": the number that it chooses, and what it costs.

- ``regression``: 20 mixtures of one to eight linear experts behind a softmax gate, 2 to
  6 features, 2 000 to 4 000 rows; the number chosen, and the CPU seconds of the fit
  against those of a fit that is given this number.
- ``classification``: the same regimes, each with a logistic rule of its own.
- ``nothing``: linear data and noise, where the answer is 1.

``--quick`` takes three tables instead of 20.

    python benchmarks/bench_select.py [--only regression] [--sets 20]
"""

from __future__ import annotations

import warnings

import numpy as np
from _records import parser, run_parts
from _timing import clocked
from sklearn.exceptions import ConvergenceWarning
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor

NOISE = 0.5
APART = 3.0
SHARPNESS = 4.0
STEEPNESS = 3.0


def regimes(seed: int) -> tuple[int, np.ndarray, np.ndarray, np.random.Generator]:
    """Return the true number, rows, the answer of each row's expert, and a generator.

    Redrawn until each expert has two fifths of an even share of the rows, and any two
    differ by three sd of the noise.
    """
    rng = np.random.default_rng(seed)
    k, d, n = 1 + seed % 8, 2 + seed % 5, (2000, 3000, 4000)[seed % 3]
    while True:
        X = rng.standard_normal((n, d))
        centres = 1.5 * rng.standard_normal((k, d))
        logits = SHARPNESS * (X @ centres.T - 0.5 * (centres**2).sum(axis=1))
        expert = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
        coef, intercept = 2 * rng.standard_normal((k, d)), 2 * rng.standard_normal(k)
        mean = X @ coef.T + intercept
        apart = [
            np.sqrt(np.mean((mean[:, i] - mean[:, j]) ** 2))
            for i in range(k)
            for j in range(i)
        ]
        share = np.bincount(expert, minlength=k) / n
        if share.min() >= 0.4 / k and min(apart, default=np.inf) >= APART * NOISE:
            return k, X, mean[np.arange(n), expert], rng


def timed(model, X, y) -> tuple[float, object]:
    """Return the CPU seconds of a fit, and the fitted model."""
    _, timing = clocked(model.fit, X, y, settle=0.0)
    return timing.cpu, model


def compare(report, args, make, target) -> None:
    """Print the number chosen for each set: on rows held out, and by BIC."""
    for cross_fit in ("auto", None):
        rows, off, costs = [], [], []
        for seed in range(args.sets):
            k, X, mean, rng = regimes(seed)
            y = target(mean, rng)
            timed(make(2, cross_fit), X[:300], y[:300])  # kernels are compiled
            seconds, model = timed(make("auto", cross_fit), X, y)
            number = model.n_experts_
            plain, _ = timed(make(number, cross_fit), X, y)
            off.append(abs(number - k))
            if number > 1:
                costs.append((seconds, plain))
            rows.append([seed, *X.shape, k, number, f"{seconds:.2f}", f"{plain:.2f}"])
        names = ["seed", "rows", "features", "true", "chosen", "CPU s", "CPU s, given"]
        report.line(f"cross_fit={cross_fit!r}")
        report.table(names, rows)
        off, costs = np.array(off), np.array(costs)
        total, ratios = costs.sum(axis=0), costs[:, 0] / costs[:, 1]
        report.line(
            f"Exact in {np.sum(off == 0)}, within one in {np.sum(off <= 1)} of "
            f"{len(off)}. Of more than one expert: CPU time of "
            f"{total[0] / total[1]:.1f} fits that are given the number, all sets "
            f"together (median {np.median(ratios):.1f}, most {ratios.max():.1f})."
        )


def regression(report, args) -> None:
    report.section("regression: linear experts")

    def make(n_experts, cross_fit):
        return MoERegressor(n_experts=n_experts, cross_fit=cross_fit, random_state=0)

    def target(mean, rng):
        return mean + NOISE * rng.standard_normal(len(mean))

    compare(report, args, make, target)


def classification(report, args) -> None:
    report.section("classification: logistic experts")

    def make(n_experts, cross_fit):
        return MoEClassifier(n_experts=n_experts, cross_fit=cross_fit, random_state=0)

    def target(mean, rng):
        return rng.random(len(mean)) < 1 / (1 + np.exp(-STEEPNESS * mean))

    compare(report, args, make, target)


def nothing(report, args) -> None:
    report.section("nothing: the answer is 1")
    rows = []
    for name, slope in (("linear data", 2.0), ("noise", 0.0)):
        for expert in (None, DecisionTreeRegressor(max_depth=5)):
            for cross_fit in ("auto", None):
                numbers = []
                for seed in range(args.sets):
                    rng = np.random.default_rng(seed)
                    X = rng.standard_normal((2000, 2 + seed % 5))
                    y = slope * X.sum(axis=1) + rng.standard_normal(len(X))
                    model = MoERegressor(
                        expert, n_experts="auto", cross_fit=cross_fit, random_state=0
                    )
                    numbers.append(timed(model, X, y)[1].n_experts_)
                learner = "ridge" if expert is None else "trees"
                share = f"{np.mean(np.array(numbers) == 1):.0%}"
                rows.append([name, learner, str(cross_fit), share, max(numbers)])
    report.table(["y", "experts", "cross_fit", "answers 1", "most"], rows)


PARTS = {"regression": regression, "classification": classification, "nothing": nothing}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.add_argument("--sets", type=int, help="tables of each part; 20")
    args = options.parse_args()
    args.sets = args.sets or (3 if args.quick else 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        run_parts(args, PARTS)


if __name__ == "__main__":
    main()
