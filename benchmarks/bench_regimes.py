"""Measure where mixtures are at home: regimes, rules, and linear experts in number.

- ``regime``: two opposite nonlinear regimes behind a linear border (2 000 rows, noise
  of sd 0.5), boosted-tree experts, against one such learner. LightGBM-MoE reports an
  RMSE of 3.79 on such data, one LightGBM 4.84.
- ``rules``: the set ``mv``, each row of which follows one of a few fixed rules. Ridge
  experts, and a softmax gate that sees the numbers in bins, against boosted trees.
- ``linear``: at most 32 ridge experts, two asked a row, against boosted trees, on the
  regression sets. Eight candidates (8 or 32 experts, columns as they are or with
  splines and quantile ranks beside them, a softmax or a tied Gaussian gate) compete by
  ``held_out_``, so the test rows choose nothing.

    SKMOE_DATA=path/to/data python benchmarks/bench_regimes.py [--only linear]
        [--sets a,b] [--rows 20000] [--seeds 5]
"""

from __future__ import annotations

import time
from functools import partial
from itertools import product

import numpy as np
from _timing import interleaved, parser, run_parts
from bench_quality import known_sets, read_fold, takes
from real_data import loader
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    QuantileTransformer,
    SplineTransformer,
)

from skmoe import MoERegressor
from skmoe.gates import GaussianGate, SoftmaxGate

NOISE = 0.5
BINS = 10
FEW, MANY = 8, 32


# -------------------------------------------------------------------- regime
def regimes(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two opposite regimes."""
    random = np.random.RandomState(seed)
    x = random.standard_normal((2000, 5))
    first = 5 * x[:, 0] + 3 * x[:, 0] * x[:, 2] + 2 * np.sin(2 * x[:, 3]) + 10
    second = -5 * x[:, 0] - 2 * x[:, 1] ** 2 + 3 * np.cos(2 * x[:, 4]) - 10
    upper = 0.5 * x[:, 1] + 0.3 * x[:, 2] - 0.2 * x[:, 3] > 0
    y = np.where(upper, second, first) + NOISE * random.standard_normal(2000)
    return x, y


def regime(report, args) -> None:
    report.section("regime: RMSE on 400 rows, boosted-tree experts")
    boosted = HistGradientBoostingRegressor(random_state=0)
    options = {"n_experts": 2, "random_state": 0}
    models = {
        "one HistGradientBoosting": boosted,
        "two experts, both asked": MoERegressor(boosted, **options),
        "two experts, one asked": MoERegressor(boosted, top_k=1, **options),
    }
    errors: dict[str, list[float]] = {name: [] for name in models}
    for seed in range(args.seeds):
        X, y = regimes(seed)
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
        for name, model in models.items():
            found = model.fit(X, y).predict(X_test)
            errors[name].append(root_mean_squared_error(y_test, found))
    rows = [
        [name, f"{np.mean(e):.2f}", f"{np.min(e):.2f}", f"{np.max(e):.2f}"]
        for name, e in errors.items()
    ]
    report.table(["", f"mean of {args.seeds} seeds", "least", "most"], rows)


# --------------------------------------------------------------------- rules
def rules(report, args) -> None:
    report.section("rules: RMSE on a fifth of mv")
    X, y, _ = loader()("mv")
    names = list(X.select_dtypes("category").columns)
    numbers = X.drop(columns=names).to_numpy(np.float64)
    onehot = OneHotEncoder(sparse_output=False).fit_transform(X[names])
    X = np.hstack([numbers, onehot])
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    bins = KBinsDiscretizer(
        BINS, encode="onehot-dense", quantile_method="averaged_inverted_cdf"
    )
    columns = list(range(numbers.shape[1]))
    binned = make_column_transformer((bins, columns), remainder="passthrough")
    models = {
        "one HistGradientBoosting": HistGradientBoostingRegressor(random_state=0),
        "one Ridge": Ridge(1e-3),
    }
    for n_experts in (FEW, 2 * FEW):
        models[f"{n_experts} Ridge, gate on {BINS} bins a column"] = MoERegressor(
            Ridge(1e-3),
            n_experts=n_experts,
            gate=make_pipeline(binned, SoftmaxGate(alpha=1e-6)),
            cross_fit=None,
            max_iter=60,
            random_state=0,
        )
    rows = []
    for name, model in models.items():
        started = time.perf_counter()
        model.fit(X, y)
        fit = time.perf_counter() - started
        rmse = root_mean_squared_error(y_test, model.predict(X_test))
        rows.append([name, f"{rmse:.3f}", f"{fit:.1f}"])
    report.table(["", "RMSE", "fit s"], rows)


# -------------------------------------------------------------------- linear
def widened(X: np.ndarray):
    """Return what puts splines and ranks beside the columns with enough values."""
    wide = [j for j in range(X.shape[1]) if len(np.unique(X[:, j])) > BINS]
    beside = make_union(
        SplineTransformer(
            n_knots=5, degree=2, knots="quantile", extrapolation="linear"
        ),
        QuantileTransformer(n_quantiles=200, output_distribution="normal"),
    )
    return make_union(FunctionTransformer(), make_column_transformer((beside, wide)))


def candidates(X: np.ndarray) -> dict:
    """Return the mixtures that compete."""
    found = {}
    befores = {"": FunctionTransformer(), ", splines": widened(X)}
    gates = {"": SoftmaxGate(), ", Gaussian": GaussianGate("tied")}
    for n_experts, before, gate in product((FEW, MANY), befores, gates):
        mixture = MoERegressor(n_experts=n_experts, gate=gates[gate], random_state=0)
        found[f"{n_experts}{before}{gate}"] = make_pipeline(befores[before], mixture)
    return found


def linear(report, args) -> None:
    report.section("linear: mixtures of ridge experts against boosted trees")
    known = known_sets()
    sets = (
        args.sets.split(",")
        if args.sets
        else [
            name
            for name, meta in known.items()
            if meta["task"] == "regression" and takes(meta, "hgb", "single")
        ]
    )
    ratios, speeds = [], []
    rows = []
    for name in sets:
        fold = read_fold(name, 0, args.rows)
        boosted = HistGradientBoostingRegressor(random_state=0)
        boosted.fit(fold.X_train, fold.y_train)
        worth = {}
        for kind, model in candidates(fold.X_train).items():
            started = time.perf_counter()
            model.fit(fold.X_train, fold.y_train)
            fit = time.perf_counter() - started
            worth[kind] = model[-1].held_out_["mixture"], fit, model
        kind = max(worth, key=lambda key: worth[key][0])
        model = worth[kind][2]
        errors = [
            root_mean_squared_error(fold.y_test, one.predict(fold.X_test))
            for one in (model, boosted)
        ]
        ratios.append(errors[0] / errors[1])
        prepared = model[:-1].transform(fold.X_test)
        timed = interleaved(
            {
                "mixture": partial(model[-1].predict, prepared),
                "pipeline": partial(model.predict, fold.X_test),
                "boosted": partial(boosted.predict, fold.X_test),
            },
            args.repeat,
        )
        speeds.append(timed["boosted"].wall / timed["mixture"].wall)
        whole = timed["boosted"].wall / timed["pipeline"].wall
        rows.append(
            [
                name,
                kind,
                *(f"{error:.4f}" for error in errors),
                f"{ratios[-1]:.2f}",
                f"{speeds[-1]:.0f}",
                f"{whole:.1f}",
                f"{sum(found[1] for found in worth.values()):.0f}",
            ]
        )
        print(rows[-1], flush=True)
    report.table(
        [
            "set",
            "experts",
            "RMSE, mixture",
            "RMSE, boosted",
            "ratio",
            "predict: times as fast",
            "with its pipeline",
            "fit s, all eight",
        ],
        rows,
    )
    report.line(
        f"Median RMSE ratio {np.median(ratios):.3f}; at most 1 on "
        f"{np.sum(np.array(ratios) <= 1)} of {len(ratios)} sets; median predict speed "
        f"{np.median(speeds):.0f} times that of boosted trees."
    )


PARTS = {"regime": regime, "rules": rules, "linear": linear}


def main() -> None:
    made = parser(__doc__, PARTS)
    made.add_argument("--sets", help="sets of ``linear``, by commas")
    made.add_argument("--rows", type=int, default=20_000)
    made.add_argument("--seeds", type=int, default=5)
    run_parts(made.parse_args(), PARTS)


if __name__ == "__main__":
    main()
