"""Measure predicted distributions: intervals, two branches, log-likelihoods.

``intervals`` fits on 60 % of the rows of ten public sets, calibrates on 20 % and tests
on 20 %: coverage and mean width of 90 % intervals, in units of the standard deviation
of y, beside conformalised quantile regression (CQR, Romano et al. 2019) on boosted
trees. ``branches`` draws y = x or -x and compares log-likelihoods. ``likelihood``
measures them on six sets, on the published splits where there are any. Sets are those
of the folder named by SKMOE_DATA. Each measurement becomes one line of a JSON-lines
file; what the file holds is not measured again. ``report`` prints the tables.

    SKMOE_DATA=path/to/data python benchmarks/bench_distribution.py intervals d.jsonl
    python benchmarks/bench_distribution.py branches d.jsonl
    SKMOE_DATA=path/to/data python benchmarks/bench_distribution.py likelihood d.jsonl
    python benchmarks/bench_distribution.py report d.jsonl

The mixture is the same on all sets: a shared expert (the mean of boosted trees, extra
trees and a support vector machine), and eight ridge experts for what it leaves over and
how that scatters, by Student's t. Counts get boosted trees and a negative binomial.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path

import numpy as np
from real_data import loader, preprocessing
from scipy import stats
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import ShuffleSplit
from sklearn.svm import SVR

from skmoe import MoERegressor

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
COUNTS = {"bike_sharing"}
ROWS = 2000
"""Rows of a set that ``intervals`` uses, at most."""

SMALL, SPLITS, MORE_SPLITS = 1600, 4, 8
"""Splits of a set that ``intervals`` draws, and of one with fewer rows than SMALL."""

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
    X, y, _ = loader()(name)
    rows = np.random.default_rng(seed).permutation(len(y))[:ROWS]
    train, calibrate, test = np.split(rows, [6 * len(rows) // 10, 8 * len(rows) // 10])
    before = preprocessing(X).fit(X.iloc[train])
    Z = [before.transform(X.iloc[part]) for part in (train, calibrate, test)]
    y = (y - y[train].mean()) / y[train].std()
    y_own, y_new = y[calibrate], y[test]

    started = time.perf_counter()
    model = mixture().fit(Z[0], y[train])
    seconds = time.perf_counter() - started
    own, new = (model.predict_interval(each, COVERAGE) for each in Z[1:])
    found = {"mixture, CQR": widened(own, y_own, new)}
    model.conformalize(Z[1], y_own)
    for kind in ("equal_tailed", "highest_density"):
        ends = model.predict_interval(Z[2], COVERAGE, kind=kind)
        found[f"mixture, {kind}"] = ends
    tail = (1 - COVERAGE) / 2
    own, new = quantile_pair(Z[0], y[train], tail, 1 - tail, Z[1:])
    found["boosting, CQR"] = widened(own, y_own, new)
    return {
        "seconds": seconds,
        "methods": {
            method: {
                "coverage": np.mean((ends[:, 0] <= y_new) & (y_new <= ends[:, 1])),
                "width": np.mean(np.maximum(np.diff(ends)[:, 0], 0.0)),
            }
            for method, ends in found.items()
        },
    }


# ------------------------------------------------------------------ branches
def branches(seed: int) -> dict:
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
    X, y, meta = loader()(name)
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
    found = {}

    def normal(mean, sd):
        law = stats.norm(centre + unit * mean, unit * np.maximum(sd, LEAST))
        if name not in COUNTS:
            return -law.logpdf(y_new).mean()
        mass = law.cdf(y_new + 0.5) - law.cdf(y_new - 0.5)
        return -np.log(np.maximum(mass, 1e-12)).mean()

    started = time.perf_counter()
    if name in COUNTS:
        model = MoERegressor(
            boosting(),
            n_experts=4,
            n_init=1,
            max_iter=10,
            likelihood="negative_binomial",
            random_state=0,
        )
        model.fit(Z, y[train])
        found["mixture"] = -model.score_samples(Z_new, y_new).mean()
    else:
        for label, model in models().items():
            model.fit(Z, scaled)
            scores = model.score_samples(Z_new, (y_new - centre) / unit)
            found[label] = np.log(unit) - scores.mean()
    seconds = time.perf_counter() - started
    ridge = BayesianRidge().fit(Z, scaled)
    found["BayesianRidge"] = normal(*ridge.predict(Z_new, return_std=True))
    one = stats.norm.cdf(1.0)
    (ends,) = quantile_pair(Z, scaled, 1 - one, one, [Z_new])
    found["boosting, 16 and 84 %"] = normal(ends.mean(axis=1), np.diff(ends)[:, 0] / 2)
    return {"seconds": seconds, "methods": found}


def models() -> dict[str, MoERegressor]:
    """Return the mixtures whose log-likelihood is measured."""
    return {
        "mixture": mixture(),
        "mixture of 16 ridges": MoERegressor(n_experts=16, random_state=0),
    }


# ------------------------------------------------------------------- report
def report(lines: list[dict]) -> str:
    """Return the tables as Markdown."""
    found: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for line in lines:
        for method, value in line["methods"].items():
            found[line["task"]][line["set"]][method].append(value)
    tables = {
        "intervals": _intervals_table,
        "branches": _likelihood_table,
        "likelihood": _likelihood_table,
    }
    return "\n\n".join(
        make(found[task]) for task, make in tables.items() if found[task]
    )


def _intervals_table(sets: dict) -> str:
    methods = list(next(iter(sets.values())))
    rows = ["| set | splits | " + " | ".join(methods) + " |"]
    rows.append("| --- | ---: |" + " ---: |" * len(methods))
    for name, of in sorted(sets.items()):
        means = {
            method: [
                np.mean([v[what] for v in of[method]]) for what in ("coverage", "width")
            ]
            for method in methods
        }
        cells = [f"{means[m][0]:.3f}, {means[m][1]:.3f}" for m in methods]
        count = len(of[methods[0]])
        rows.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _likelihood_table(sets: dict) -> str:
    methods = sorted({method for of in sets.values() for method in of}, key=_order)
    rows = [
        "| set | folds | " + " | ".join(methods) + " | MC dropout | deep ensembles |"
    ]
    rows.append("| --- | ---: |" + " ---: |" * (len(methods) + 2))
    for name, of in sets.items():
        cells = []
        for method in methods:
            values = of.get(method, [])
            error = np.std(values) / np.sqrt(len(values)) if values else 0.0
            cells.append(f"{np.mean(values):.3f} ± {error:.3f}" if values else "")
        cells += [f"{value:.2f}" for value in PUBLISHED.get(name, ())] or ["", ""]
        count = len(next(iter(of.values())))
        rows.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _order(method: str) -> tuple[bool, str]:
    return not method.startswith("mixture"), method


# --------------------------------------------------------------------- main
def tasks(options: argparse.Namespace):
    """Yield the measurements of a command: (set, number, function)."""
    if options.command == "branches":
        for seed in range(options.folds):
            yield "two branches", seed, functools.partial(branches, seed)
        return
    known = INTERVAL_SETS if options.command == "intervals" else LIKELIHOOD_SETS
    for name in options.sets.split(",") if options.sets else known:
        count = options.folds
        if options.command == "intervals":
            small = len(loader()(name)[1]) < SMALL
            count = options.splits or (MORE_SPLITS if small else SPLITS)
        for i in range(count):
            yield name, i, functools.partial(MEASURES[options.command], name, i)


MEASURES = {"intervals": intervals, "likelihood": likelihood}


def main() -> None:
    """Measure what the file lacks, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = ("intervals", "branches", "likelihood", "report")
    parser.add_argument("command", choices=commands)
    parser.add_argument("file", type=Path)
    parser.add_argument("--sets", help="names with commas between; default: all")
    parser.add_argument("--folds", type=int, default=5, help="of 20 published ones")
    parser.add_argument("--splits", type=int, help="of a set, for intervals")
    options = parser.parse_args()
    lines = []
    if options.file.exists():
        lines = [json.loads(line) for line in options.file.read_text().splitlines()]
    if options.command == "report":
        print(report(lines))
        return
    done = {(line["task"], line["set"], line["number"]) for line in lines}
    warnings.simplefilter("ignore")  # of passes, and of one-hot columns
    for name, number, measure in tasks(options):
        if (options.command, name, number) in done:
            continue
        line = {"task": options.command, "set": name, "number": number, **measure()}
        with options.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
