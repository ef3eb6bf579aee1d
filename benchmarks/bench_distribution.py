"""Measure predicted distributions: intervals, densities and class probabilities.

- ``intervals`` fits on 60 % of the rows of ten public sets, calibrates on 20 % and
  tests on 20 %: coverage and mean width of 90 % intervals, in units of the standard
  deviation of y, beside conformalised quantile regression (CQR, Romano et al. 2019) on
  boosted trees.
- ``branches`` draws y = x or -x: negative log-likelihood per row, in nats.
- ``likelihood`` has the same figure on six sets, on the published splits where there
  are any.
- ``calibration`` has class probabilities on three sets, a quarter of the rows as test
  rows: expected calibration error (15 bins of the largest probability), log loss in
  nats per row, and accuracy. It compares boosted trees, a mixture of them, and a
  mixture of the list of a logistic regression, a tree and boosted trees.
- ``report`` prints the tables.

The mixture of ``intervals`` and ``likelihood`` is the same on all sets: a shared expert
(the mean of boosted trees, extra trees and a support vector machine), and eight ridge
experts for what it leaves over and how that scatters, by Student's t. Counts get
boosted trees and a negative binomial.

Each measurement becomes one line of a JSON-lines file; what the file holds is not
measured again. ``--sets`` and ``--splits`` make a run short.

    SKMOE_DATA=path/to/data python benchmarks/bench_distribution.py intervals d.jsonl
    python benchmarks/bench_distribution.py branches d.jsonl
    SKMOE_DATA=path/to/data python benchmarks/bench_distribution.py likelihood d.jsonl
    SKMOE_DATA=path/to/data python benchmarks/bench_distribution.py calibration d.jsonl
    python benchmarks/bench_distribution.py report d.jsonl
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _data import info, load, preprocessing, read_split
from _records import plain_parser, read_lines, run_jobs, table
from _timing import clocked
from scipy import stats
from sklearn.base import clone
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import ShuffleSplit
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier, MoERegressor

COVERAGE = 0.9
INTERVAL_SETS = (
    "abalone",
    "bike_sharing",
    "california_housing",
    "concrete",
    "cpu_act",
    "elevators",
    "energy",
    "kin8nm",
    "power_plant",
    "wine_red",
)
LIKELIHOOD_SETS = (
    "mcycle",
    "bike_sharing",
    "kin8nm",
    "concrete",
    "power_plant",
    "wine_red",
)
CLASS_SETS = ("adult", "letter", "satimage")
COUNTS = {"bike_sharing"}
ROWS = 2000
"""Rows of a set that ``intervals`` uses, at most."""

SMALL, SPLITS, MORE_SPLITS = 1600, 4, 8
"""Splits of a set that ``intervals`` draws, and of one with fewer rows than SMALL."""

CLASS_ROWS, CLASS_SPLITS, BINS = 20_000, 3, 15
"""Rows of a set that ``calibration`` uses at most, its splits, and its bins."""

PUBLISHED = {
    "concrete": (2.94, 3.06),
    "kin8nm": (-0.97, -1.20),
    "power_plant": (2.79, 2.79),
    "wine_red": (0.92, 0.94),
}
"""Of 20 folds: MC dropout (Gal and Ghahramani 2016, as their code's readme updates it)
and deep ensembles (Lakshminarayanan, Pritzel and Blundell 2017)."""

LEAST = 0.05
"""Least standard deviation of normal laws, in units of that of y: pairs of quantiles
may cross."""


# -------------------------------------------------------------------- models
def boosting(**options) -> HistGradientBoostingRegressor:
    """Return boosted trees with scikit-learn's settings."""
    return HistGradientBoostingRegressor(random_state=0, **options)


def mixture() -> MoERegressor:
    """Return the mixture that all sets get."""
    learners = {
        "boosting": boosting(),
        "trees": ExtraTreesRegressor(random_state=0),
        "machine": SVR(C=10.0),
    }
    return MoERegressor(
        shared_expert=VotingRegressor(list(learners.items())),
        likelihood="student_t",
        top_k=None,
        n_init=2,
        random_state=0,
    )


def quantile_pair(X, y, low: float, high: float, X_new: list) -> list[np.ndarray]:
    """Return two quantiles of rows, by boosted trees, in order."""
    models = [boosting(loss="quantile", quantile=q).fit(X, y) for q in (low, high)]
    pairs = [np.column_stack([m.predict(Z) for m in models]) for Z in X_new]
    return [np.sort(pair, axis=1) for pair in pairs]


def widened(own: np.ndarray, y: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return intervals by conformalised quantile regression."""
    scores = np.sort(np.maximum(own[:, 0] - y, y - own[:, 1]))
    room = scores[int(np.ceil(COVERAGE * (len(y) + 1))) - 1]
    return new + np.array([-room, room])


# ----------------------------------------------------------------- intervals
def intervals(name: str, seed: int) -> dict:
    """Return coverage and mean width of each method, in units of the sd of y."""
    X, y, _ = load(name)
    rows = np.random.default_rng(seed).permutation(len(y))[:ROWS]
    train, calibrate, test = np.split(rows, [6 * len(rows) // 10, 8 * len(rows) // 10])
    before = preprocessing(X).fit(X.iloc[train])
    Z = [before.transform(X.iloc[part]) for part in (train, calibrate, test)]
    y = (y - y[train].mean()) / y[train].std()
    y_own, y_new = y[calibrate], y[test]

    model, timing = clocked(mixture().fit, Z[0], y[train])
    own, new = (model.predict_interval(each, COVERAGE) for each in Z[1:])
    ends_of = {"mixture, CQR": widened(own, y_own, new)}
    model.conformalize(Z[1], y_own)
    for kind in ("equal_tailed", "highest_density"):
        ends = model.predict_interval(Z[2], COVERAGE, kind=kind)
        ends_of[f"mixture, {kind}"] = ends
    tail = (1 - COVERAGE) / 2
    own, new = quantile_pair(Z[0], y[train], tail, 1 - tail, Z[1:])
    ends_of["boosting, CQR"] = widened(own, y_own, new)
    return {
        "seconds": timing.wall,
        "methods": {
            method: {
                "coverage": np.mean((ends[:, 0] <= y_new) & (y_new <= ends[:, 1])),
                "width": np.mean(np.maximum(np.diff(ends)[:, 0], 0.0)),
            }
            for method, ends in ends_of.items()
        },
    }


# ------------------------------------------------------------------ branches
def branches(name: str, seed: int) -> dict:
    """Return negative log-likelihoods per row where y is x or -x, and noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(3000, 1))
    y = X[:, 0] * rng.choice([-1, 1], size=3000) + 0.1 * rng.normal(size=3000)
    train, test = slice(1500), slice(1500, None)
    models = {
        "mixture": MoERegressor(n_experts=2, cross_fit=None, random_state=0),
        "mixture, chosen on held-out rows": MoERegressor(n_experts=2, random_state=0),
    }
    mean = boosting().fit(X[train], y[train])
    squares = (y[train] - mean.predict(X[train])) ** 2
    spread = boosting(loss="gamma").fit(X[train], squares)
    at = mean.predict(X[test])
    constant = stats.norm(at, np.sqrt(squares.mean()))
    varying = stats.norm(at, np.sqrt(spread.predict(X[test])))
    for name, model in models.items():
        model.fit(X[train], y[train])
        models[name] = -model.score_samples(X[test], y[test]).mean()
    methods = {
        **models,
        "boosting, constant noise": -constant.logpdf(y[test]).mean(),
        "boosting, boosted noise": -varying.logpdf(y[test]).mean(),
    }
    return {"methods": methods}


# ---------------------------------------------------------------- likelihood
def likelihood(name: str, fold: int) -> dict:
    """Return the negative log-likelihood per row of each method, in units of y."""
    X, y, meta = load(name)
    y = y.astype(np.float64)
    if "hl20" in meta.get("splits", {}):
        train, test = meta["splits"]["hl20"][fold]
    else:
        splits = ShuffleSplit(20, test_size=0.1, random_state=0).split(y)
        train, test = list(splits)[fold]
    before = preprocessing(X).fit(X.iloc[train])
    Z, Z_new = (before.transform(X.iloc[part]) for part in (train, test))
    unit = y[train].std()
    centre, y_new = y[train].mean(), y[test]
    scaled = (y[train] - centre) / unit
    methods = {}

    def normal(mean, sd):
        law = stats.norm(centre + unit * mean, unit * np.maximum(sd, LEAST))
        if name not in COUNTS:
            return -law.logpdf(y_new).mean()
        mass = law.cdf(y_new + 0.5) - law.cdf(y_new - 0.5)
        return -np.log(np.maximum(mass, 1e-12)).mean()

    if name in COUNTS:
        model, timing = clocked(counting().fit, Z, y[train])
        methods["mixture"] = -model.score_samples(Z_new, y_new).mean()
        seconds = timing.wall
    else:
        seconds = 0.0
        for label, model in models().items():
            _, timing = clocked(model.fit, Z, scaled)
            scores = model.score_samples(Z_new, (y_new - centre) / unit)
            methods[label] = np.log(unit) - scores.mean()
            seconds += timing.wall
    ridge = BayesianRidge().fit(Z, scaled)
    methods["BayesianRidge"] = normal(*ridge.predict(Z_new, return_std=True))
    one = stats.norm.cdf(1.0)
    (ends,) = quantile_pair(Z, scaled, 1 - one, one, [Z_new])
    half = np.diff(ends)[:, 0] / 2
    methods["boosting, 16 and 84 %"] = normal(ends.mean(axis=1), half)
    return {"seconds": seconds, "methods": methods}


def counting() -> MoERegressor:
    """Return the mixture for counts."""
    return MoERegressor(
        boosting(),
        n_experts=4,
        n_init=1,
        max_iter=10,
        likelihood="negative_binomial",
        random_state=0,
    )


def models() -> dict[str, MoERegressor]:
    """Return the mixtures whose log-likelihood is measured."""
    return {
        "mixture": mixture(),
        "mixture of 16 ridges": MoERegressor(n_experts=16, random_state=0),
    }


# ---------------------------------------------------------------- calibration
def calibration(name: str, split: int) -> dict:
    """Return calibration error, log loss and accuracy of each model."""
    splits = ShuffleSplit(split + 1, test_size=0.25, random_state=0)
    fold = read_split(name, splits, split, CLASS_ROWS)
    methods = {}
    for label, model in classifiers().items():
        _, timing = clocked(model.fit, fold.X_train, fold.y_train)
        proba = model.predict_proba(fold.X_test)
        methods[label] = {
            "ECE": calibration_error(proba, fold.y_test),
            "log loss": log_loss(fold.y_test, proba, labels=model.classes_),
            "accuracy": accuracy_score(fold.y_test, model.predict(fold.X_test)),
            "temperature": getattr(model, "temperature_", np.nan),
            "fit s": timing.wall,
        }
    return {"methods": methods}


def classifiers() -> dict:
    """Return the models whose probabilities are compared, unfitted."""
    boosted = HistGradientBoostingClassifier(random_state=0)
    mixed = [LogisticRegression(max_iter=1000), DecisionTreeClassifier(max_depth=6)]
    mixed += [boosted, clone(boosted)]
    options = {"n_experts": 4, "random_state": 0}
    return {
        "boosting": boosted,
        "mixture of boosting": MoEClassifier(boosted, **options),
        "mixture of a mixed list": MoEClassifier(mixed, **options),
    }


def calibration_error(proba: np.ndarray, label: np.ndarray) -> float:
    """Return the expected calibration error of the largest probability."""
    largest, right = proba.max(axis=1), proba.argmax(axis=1) == label
    where = np.minimum((largest * BINS).astype(int), BINS - 1)
    gap = np.bincount(where, right - largest, minlength=BINS)
    return float(np.abs(gap).sum() / len(label))


# -------------------------------------------------------------------- report
def report(lines: list[dict]) -> str:
    """Return the tables as Markdown."""
    values: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in lines:
        for method, value in line["methods"].items():
            values[line["task"]][line["set"]][method].append(value)
    tables = [make(values[task]) for task, make in TABLES.items() if values[task]]
    return "\n\n".join(tables)


def intervals_table(sets: dict) -> str:
    methods = list(next(iter(sets.values())))
    rows = []
    for name, of in sorted(sets.items()):
        cells = [
            f"{mean_of(of[method], 'coverage'):.3f}, {mean_of(of[method], 'width'):.3f}"
            for method in methods
        ]
        rows.append([name, len(of[methods[0]]), *cells])
    return table(["set", "splits", *methods], rows)


def likelihood_table(sets: dict) -> str:
    methods = sorted(
        {method for of in sets.values() for method in of},
        key=lambda method: (not method.startswith("mixture"), method),
    )
    rows = []
    for name, of in sets.items():
        cells = [mean_and_error(of.get(method, [])) for method in methods]
        published = [f"{value:.2f}" for value in PUBLISHED.get(name, ())] or ["", ""]
        rows.append([name, len(next(iter(of.values()))), *cells, *published])
    header = ["set", "folds", *methods, "MC dropout", "deep ensembles"]
    return table(header, rows)


def calibration_table(sets: dict) -> str:
    fields = {"ECE": 4, "log loss": 4, "accuracy": 4, "temperature": 2, "fit s": 0}
    rows = [
        [
            f"{name}, {method}",
            len(values),
            *(rounded(mean_of(values, key), digits) for key, digits in fields.items()),
        ]
        for name, of in sets.items()
        for method, values in of.items()
    ]
    return table(["set, model", "splits", *fields], rows)


def mean_of(values: list[dict], key: str) -> float:
    """Return the mean of one figure over the splits."""
    return float(np.mean([value[key] for value in values]))


def rounded(value: float, digits: int) -> str:
    """Return a number as text, nothing of one that is missing."""
    return "" if np.isnan(value) else f"{value:.{digits}f}"


def mean_and_error(values: list[float]) -> str:
    """Return a mean and its standard error, nothing of no values."""
    if not values:
        return ""
    return f"{np.mean(values):.3f} ± {np.std(values) / np.sqrt(len(values)):.3f}"


TABLES = {
    "intervals": intervals_table,
    "branches": likelihood_table,
    "likelihood": likelihood_table,
    "calibration": calibration_table,
}


# ---------------------------------------------------------------------- main
class Job(NamedTuple):
    """What one line of the results is about."""

    task: str
    set: str
    number: int


SETS = {
    "intervals": INTERVAL_SETS,
    "branches": ("two branches",),
    "likelihood": LIKELIHOOD_SETS,
    "calibration": CLASS_SETS,
}
MEASURES = {
    "intervals": intervals,
    "branches": branches,
    "likelihood": likelihood,
    "calibration": calibration,
}


def splits_of(task: str, name: str) -> int:
    """Return how many splits (or seeds) of a set are measured by default."""
    if task == "intervals":
        return MORE_SPLITS if info(name)["n"] < SMALL else SPLITS
    return CLASS_SPLITS if task == "calibration" else 5


def jobs_of(options: argparse.Namespace) -> Iterator[Job]:
    """Yield the measurements of a command."""
    task = options.command
    for name in options.sets.split(",") if options.sets else SETS[task]:
        for number in range(options.splits or splits_of(task, name)):
            yield Job(task, name, number)


def main() -> None:
    """Measure what the file lacks, or report."""
    parser = plain_parser(__doc__)
    parser.add_argument("command", choices=(*MEASURES, "report"))
    parser.add_argument("file", type=Path, help="JSON-lines file")
    parser.add_argument("--sets", help="sets, separated by commas; all by default")
    parser.add_argument("--splits", type=int, help="splits, folds or seeds of a set")
    options = parser.parse_args()
    if options.command == "report":
        print(report(read_lines(options.file)))
        return
    run_jobs(
        options.file,
        jobs_of(options),
        lambda job: MEASURES[job.task](job.set, job.number),
    )


if __name__ == "__main__":
    main()
