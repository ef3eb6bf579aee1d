"""Measure where mixtures are at home: regimes, rules, linear experts, several labels.

- ``regime``: two opposite nonlinear regimes behind a linear border (2 000 rows, noise
  of sd 0.5), boosted-tree experts, against one such learner. RMSE, in units of y.
  LightGBM-MoE reports 3.79 on such data, one LightGBM 4.84.
- ``rules``: the set ``mv``, each row of which follows one of a few fixed rules. Ridge
  experts, and a softmax gate that sees the numbers in bins, against boosted trees.
- ``linear``: at most 32 ridge experts, two asked per row, against boosted trees, on the
  regression sets: RMSE in units of the sd of y, and wall time of predict. Eight
  candidates (8 or 32 experts, columns as they are or with splines and quantile ranks
  beside them, a softmax or a tied Gaussian gate) compete by ``held_out_``, so the test
  rows choose nothing.
- ``multilabel``: two regimes, each with logistic rules for four labels, and mixtures of
  five learners against the learner alone: log-likelihood of all labels of a new row,
  in nats, probabilities floored alike.

    SKMOE_DATA=path/to/data python benchmarks/bench_regimes.py
        [--only linear] [--sets a,b] [--rows 20000] [--seeds 5] [--quick]
"""

from __future__ import annotations

import warnings
from functools import partial
from itertools import product

import numpy as np
from _data import is_sparse, known_sets, load, read_fold
from _records import chosen, parser, run_parts
from _timing import clocked, interleaved
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    OneHotEncoder,
    QuantileTransformer,
    SplineTransformer,
)
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import GaussianGate, SoftmaxGate

NOISE = 0.5
BINS = 10
FEW, MANY = 8, 32


# -------------------------------------------------------------------- regime
def regimes(seed: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of two opposite regimes."""
    random = np.random.RandomState(seed)
    x = random.standard_normal((n, 5))
    first = 5 * x[:, 0] + 3 * x[:, 0] * x[:, 2] + 2 * np.sin(2 * x[:, 3]) + 10
    second = -5 * x[:, 0] - 2 * x[:, 1] ** 2 + 3 * np.cos(2 * x[:, 4]) - 10
    upper = 0.5 * x[:, 1] + 0.3 * x[:, 2] - 0.2 * x[:, 3] > 0
    y = np.where(upper, second, first) + NOISE * random.standard_normal(n)
    return x, y


def regime(report, args) -> None:
    report.section("regime: RMSE on a fifth of the rows, boosted-tree experts")
    boosted = HistGradientBoostingRegressor(random_state=0)
    options = {"n_experts": 2, "random_state": 0}
    models = {
        "one HistGradientBoosting": boosted,
        "two experts, both asked": MoERegressor(boosted, **options),
        "two experts, one asked": MoERegressor(boosted, top_k=1, **options),
    }
    errors: dict[str, list[float]] = {name: [] for name in models}
    n_seeds = 1 if args.quick else args.seeds
    for seed in range(n_seeds):
        X, y = regimes(seed, 300 if args.quick else 2000)
        X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=seed)
        for name, model in models.items():
            predicted = model.fit(X, y).predict(X_test)
            errors[name].append(root_mean_squared_error(y_test, predicted))
    rows = [
        [name, f"{np.mean(e):.2f}", f"{np.min(e):.2f}", f"{np.max(e):.2f}"]
        for name, e in errors.items()
    ]
    report.table(["", f"mean of {n_seeds} seeds", "least", "most"], rows)


# --------------------------------------------------------------------- rules
def rules(report, args) -> None:
    report.section("rules: RMSE on a fifth of mv")
    X, y, _ = load("mv")
    names = list(X.select_dtypes("category").columns)
    numbers = X.drop(columns=names).to_numpy(np.float64)
    onehot = OneHotEncoder(sparse_output=False).fit_transform(X[names])
    X = np.hstack([numbers, onehot])
    if args.quick:
        X, y = X[:2000], y[:2000]
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
        models[f"{n_experts} Ridge, gate on {BINS} bins per column"] = MoERegressor(
            Ridge(1e-3),
            n_experts=n_experts,
            gate=make_pipeline(binned, SoftmaxGate(alpha=1e-6)),
            cross_fit=None,
            max_iter=60,
            random_state=0,
        )
    rows = []
    for name, model in models.items():
        _, fit = clocked(model.fit, X, y)
        rmse = root_mean_squared_error(y_test, model.predict(X_test))
        rows.append([name, f"{rmse:.3f}", f"{fit.wall:.1f}"])
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


def candidates(X: np.ndarray, quick: bool) -> dict:
    """Return the mixtures that compete, or two of them."""
    mixtures = {}
    befores = {"": FunctionTransformer(), ", splines": widened(X)}
    gates = {"": SoftmaxGate(), ", Gaussian": GaussianGate("tied")}
    for n_experts, before, gate in product((FEW, MANY), befores, gates):
        mixture = MoERegressor(n_experts=n_experts, gate=gates[gate], random_state=0)
        mixtures[f"{n_experts}{before}{gate}"] = make_pipeline(befores[before], mixture)
    return dict(list(mixtures.items())[:2]) if quick else mixtures


def against_boosting(name: str, args) -> tuple[list[str], float, float]:
    """Return the cells of a set, the ratio of RMSEs, and how many times as fast."""
    fold = read_fold(name, 0, 300 if args.quick else args.rows)
    boosted = HistGradientBoostingRegressor(random_state=0)
    boosted.fit(fold.X_train, fold.y_train)
    models = candidates(fold.X_train, args.quick)
    fits = [
        clocked(model.fit, fold.X_train, fold.y_train)[1].wall
        for model in models.values()
    ]
    kind = max(models, key=lambda kind: models[kind][-1].held_out_["mixture"])
    model = models[kind]
    errors = [
        root_mean_squared_error(fold.y_test, one.predict(fold.X_test))
        for one in (model, boosted)
    ]
    prepared = model[:-1].transform(fold.X_test)
    tasks = {
        "mixture": partial(model[-1].predict, prepared),
        "pipeline": partial(model.predict, fold.X_test),
        "boosted": partial(boosted.predict, fold.X_test),
    }
    times = interleaved(tasks, args.repeat)
    ratio = errors[0] / errors[1]
    speed = times["boosted"].wall / times["mixture"].wall
    cells = [name, kind, *(f"{error:.4f}" for error in errors), f"{ratio:.2f}"]
    cells += [f"{speed:.0f}", f"{times['boosted'].wall / times['pipeline'].wall:.1f}"]
    return [*cells, f"{sum(fits):.0f}"], ratio, speed


def linear(report, args) -> None:
    report.section("linear: mixtures of ridge experts against boosted trees")
    regression = [
        name
        for name, meta in known_sets().items()
        if meta["task"] == "regression" and not is_sparse(meta)
    ]
    sets = chosen(args.sets, regression)[: 1 if args.quick else None]
    rows, ratios, speeds = [], [], []
    for name in sets:
        cells, ratio, speed = against_boosting(name, args)
        rows.append(cells)
        ratios.append(ratio)
        speeds.append(speed)
        print(cells, flush=True)
    header = ["set", "experts", "RMSE, mixture", "RMSE, boosted", "ratio"]
    header += ["predict: times as fast", "with its pipeline", "fit s, all together"]
    report.table(header, rows)
    report.line(
        f"Median RMSE ratio {np.median(ratios):.3f}; at most 1 on "
        f"{np.sum(np.array(ratios) <= 1)} of {len(ratios)} sets; median predict speed "
        f"{np.median(speeds):.0f} times that of boosted trees."
    )


# ---------------------------------------------------------------- multilabel
N_FEATURES, N_LABELS, LEAST = 4, 4, 5e-4
LEARNERS = {
    "logistic (None)": None,
    "ClassifierChain": ClassifierChain(LogisticRegression(), random_state=0),
    "DecisionTree": DecisionTreeClassifier(max_depth=4, random_state=0),
    "RandomForest": RandomForestClassifier(20, min_samples_leaf=5, random_state=0),
    "KNeighbors": KNeighborsClassifier(15),
}


def labelled(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and labels of two regimes, one on each side of x0 = 0."""
    rng = np.random.default_rng(seed)
    rules = 3 * np.random.default_rng(1).normal(size=(2, N_FEATURES, N_LABELS))
    X = rng.normal(size=(n, N_FEATURES))
    logit = np.einsum("nd,ndl->nl", X, rules[(X[:, 0] > 0).astype(int)])
    return X, (rng.uniform(size=logit.shape) < 1 / (1 + np.exp(-logit))).astype(int)


def label_log_likelihood(proba, labels: np.ndarray) -> float:
    """Return the mean over rows of log p, summed over labels."""
    if isinstance(proba, list):
        proba = np.stack([of_label[:, 1] for of_label in proba], axis=1)
    proba = np.clip(proba, LEAST, 1 - LEAST)
    return np.log(np.where(labels == 1, proba, 1 - proba)).sum(axis=1).mean()


def multilabel(report, args) -> None:
    report.section("multilabel: log-likelihood of four labels per new row, in nats")
    X, Y = labelled(300 if args.quick else 1500, 0)
    X_new, Y_new = labelled(2000, 9)
    rows = []
    for name, learner in list(LEARNERS.items())[: 2 if args.quick else None]:
        alone = MultiOutputClassifier(LogisticRegression())
        alone = alone if learner is None else clone(learner)
        model = MoEClassifier(learner, n_experts=4, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            alone.fit(X, Y)
            _, fit = clocked(model.fit, X, Y)
        single = label_log_likelihood(alone.predict_proba(X_new), Y_new)
        mixture = model.score_samples(X_new, Y_new).mean()
        rows.append([name, f"{single:.3f}", f"{mixture:.3f}", f"{fit.wall:.1f}"])
    report.table(["learner", "alone", "mixture", "fit s"], rows)


PARTS = {
    "regime": regime,
    "rules": rules,
    "linear": linear,
    "multilabel": multilabel,
}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.add_argument("--sets", help="sets of ``linear``, separated by commas")
    options.add_argument(
        "--rows", type=int, default=20_000, help="of a set of ``linear``, at most"
    )
    options.add_argument("--seeds", type=int, default=5, help="seeds of ``regime``")
    run_parts(options.parse_args(), PARTS, on_data=("rules", "linear"))


if __name__ == "__main__":
    main()
