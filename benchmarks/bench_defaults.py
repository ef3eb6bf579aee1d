"""Measure the defaults: one parameter turned at a time, everything else left alone.

Nine cases (four sets with ridge experts, two with trees of depth 6, three of
classification) are fitted at the defaults, with every other value of each parameter,
and at the defaults with other seeds, which tells what luck alone does. For each fit:
the negative log-likelihood (NLL) of a test row in nats, RMSE or accuracy, and CPU
seconds of fit and predict, which other jobs on the machine disturb less than the clock.
Targets of regression are in units of their standard deviation on the training rows.

Each fit is one line of a JSON-lines file; what the file holds is not measured again, so
a run goes on where it was stopped. The first draw of rows comes first, in it slow cases
and slow values last. Tables of all that the file holds are printed at the end;
``--tables`` prints them alone.

    SKMOE_DATA=path/to/data OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
        python benchmarks/bench_defaults.py defaults.jsonl
        [--parameters top_k,gate] [--draws 0,1] [--seconds 1800]
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _data import Fold, info, read_split
from _records import chosen, machine, plain_parser, read_lines, run_jobs, table
from _timing import clocked, interleaved
from sklearn.model_selection import ShuffleSplit
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import GaussianGate, SoftmaxGate


class Case(NamedTuple):
    """A set, the kind of its experts, and how many rows train."""

    set: str
    experts: str
    rows: int


CASES = [
    *(Case(s, "ridge", 2000) for s in ("abalone", "kin8nm", "bike_sharing")),
    Case("elevators", "ridge", 2000),
    *(Case(s, "tree", 2000) for s in ("kin8nm", "california_housing")),
    *(Case(s, "logistic", 1500) for s in ("phoneme", "electricity", "satimage")),
]
TEST_ROWS = 2000
DEFAULT, SEED = "default", "random_state"
TREE = DecisionTreeRegressor(max_depth=6, random_state=0)

TURNS: dict[str, dict[str, Any]] = {
    SEED: {"1": 1, "2": 2},
    "n_experts": {"4": 4, "16": 16, "32": 32},
    "gate": {
        "gaussian": "gaussian",
        "tied gaussian": GaussianGate("tied"),
        "tree": "tree",
        "hierarchical": "hierarchical",
    },
    "top_k": {"1": 1, "4": 4, "None": None},
    "top_p": {"0.9": 0.9, "0.95": 0.95},
    "gate alpha": {
        "1e-4": SoftmaxGate(1e-4),
        "1e-2": SoftmaxGate(1e-2),
        "1e-1": SoftmaxGate(1e-1),
    },
    "cross_fit": {"None": None, "5": 5},
    "n_init": {"1": 1, "8": 8},
    "init": {"tree": "tree", "random": "random", "kmeans": "kmeans"},
    "likelihood": {"student_t": "student_t", "laplace": "laplace"},
    "scale_prior": {"0": 0.0, "100": 100.0},
    "final": {"average": "average"},
    "shared_expert": {"auto": "auto"},
    "max_iter": {"20": 20},
    "tol": {"1e-3": 1e-3, "1e-5": 1e-5},
    "balance": {"0.5": 0.5},
}
"""Values other than the default, by the name that the tables give them."""

LAST = {(SEED, "2"), ("n_init", "8"), ("n_experts", "32"), ("cross_fit", "5")}
SLOW_SETS = {"electricity", "satimage"}
"""Measured at the end of a draw."""

KINDS = {
    "likelihood": {"ridge", "tree"},
    "scale_prior": {"ridge", "tree"},
    "final": {"tree"},
    "shared_expert": {"tree"},
    "n_init": {"ridge", "logistic"},
}
"""Experts for which a parameter says anything, where not for all."""


class Job(NamedTuple):
    """What one line of the results is about."""

    set: str
    experts: str
    parameter: str
    value: str
    draw: int


# ----------------------------------------------------------------------- measure
@cache
def read_rows(case: Case, draw: int) -> Fold:
    """Return a random draw of training and test rows, preprocessed."""
    test_rows = min(TEST_ROWS, info(case.set)["n"] - case.rows)
    splitter = ShuffleSplit(
        1, train_size=case.rows, test_size=test_rows, random_state=draw
    )
    return read_split(case.set, splitter)


def estimator(job: Job) -> Any:
    """Return the mixture that a line is about, unfitted."""
    if job.experts == "logistic":
        model = MoEClassifier(random_state=0)
    else:
        model = MoERegressor(TREE if job.experts == "tree" else None, random_state=0)
    if job.parameter == DEFAULT:
        return model
    name = "gate" if job.parameter == "gate alpha" else job.parameter
    return model.set_params(**{name: TURNS[job.parameter][job.value]})


def measure(job: Job) -> dict[str, Any]:
    """Return one line of the results."""
    case = next(c for c in CASES if (c.set, c.experts) == job[:2])
    fold = read_rows(case, job.draw)
    model, X, y = estimator(job), fold.X_test, fold.y_test
    _, fit = clocked(model.fit, fold.X_train, fold.y_train)
    predicted = model.predict(X)
    timings = interleaved({"predict": lambda: model.predict(X)}, 7, at_least=0.05)
    figures = {
        "nll": float(-np.mean(model.score_samples(X, y))),
        "fit": fit.cpu,
        "predict": 1e6 * float(timings["predict"].cpu) / len(y),
        "n_iter": int(model.n_iter_),
        "converged": bool(model.converged_),
        "n_test": len(y),
        "n_columns": X.shape[1],
    }
    if fold.n_classes:
        return {**figures, "accuracy": float(np.mean(predicted == y))}
    return {**figures, "rmse": float(np.sqrt(np.mean((predicted - y) ** 2)))}


# -------------------------------------------------------------------------- jobs
def jobs_of(args: argparse.Namespace) -> Iterator[Job]:
    """Yield what is asked for, the first draw of all first."""
    draws = [int(draw) for draw in args.draws.split(",")]
    asked = chosen(args.parameters, TURNS)
    turns = [(name, value) for name in asked for value in TURNS[name]]
    turns.sort(key=lambda turn: turn in LAST)
    slow = [case for case in CASES if case.set in SLOW_SETS]
    quick = [case for case in CASES if case.set not in SLOW_SETS]
    for draw, cases in itertools.product(draws, (quick, slow)):
        for turn, case in itertools.product([(DEFAULT, ""), *turns], cases):
            if case.experts in KINDS.get(turn[0], {case.experts}):
                yield Job(case.set, case.experts, *turn, draw)


def warm_up() -> None:
    """Load compiled kernels, which the first fit would pay for."""
    X = np.random.default_rng(0).standard_normal((400, 3))
    for model in (MoERegressor(n_experts=2), MoEClassifier(n_experts=2)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X, (X[:, 0] > 0).astype(int)).predict(X)


# ------------------------------------------------------------------------ report
CASE, TURN = ["set", "experts"], ["parameter", "value"]
BETTER_NLL, BETTER_SCORE = 0.002, 0.2
"""Nats, and percent of RMSE or points of accuracy, that count as a change."""


def changes(lines: pd.DataFrame) -> pd.DataFrame:
    """Return the change of each line against the default on the same rows.

    ``score`` is percent of RMSE, or points of accuracy lost: less is better, as of NLL.
    """
    base = lines[lines["parameter"] == DEFAULT].drop(columns=TURN)
    both = lines[lines["parameter"] != DEFAULT].merge(
        base, on=[*CASE, "draw"], suffixes=("", "_default")
    )
    lost = 100 * (both["accuracy_default"] - both["accuracy"])
    grown = 100 * (both["rmse"] / both["rmse_default"] - 1)
    return both.assign(
        nll=both["nll"] - both["nll_default"],
        score=grown.where(both["experts"] != "logistic", lost),
        fit=both["fit"] / both["fit_default"],
        predict=both["predict"] / both["predict_default"],
    )


def turns_table(lines: pd.DataFrame) -> str:
    """Return median and worst change of each turn; draws of a case count as one."""
    changed = changes(lines)
    means = changed.groupby([*TURN, *CASE])[["nll", "score", "fit", "predict"]].mean()
    rows = []
    for name, value in ((n, v) for n, values in TURNS.items() for v in values):
        if (name, value) not in means.index:
            continue
        own = means.loc[(name, value)]
        classes = own.index.get_level_values("experts") == "logistic"
        up = (own["nll"] < -BETTER_NLL).sum(), (own["score"] < -BETTER_SCORE).sum()
        down = (own["nll"] > BETTER_NLL).sum(), (own["score"] > BETTER_SCORE).sum()
        rows.append(
            [
                f"`{name}={value}`"
                if name in MoERegressor().get_params()
                else f"{name} {value}",
                len(own),
                f"{own['nll'].median():+.3f}",
                f"{own['nll'].max():+.3f}",
                f"{up[0]} : {down[0]}",
                *median_and_worst(own.loc[~classes, "score"], "%"),
                *median_and_worst(own.loc[classes, "score"], ""),
                f"{up[1]} : {down[1]}",
                f"{own['fit'].median():.1f}",
                f"{own['predict'].median():.1f}",
            ]
        )
    header = ["turned to", "cases", "NLL, median", "worst", "better : worse"]
    header += ["RMSE, median", "worst", "points of accuracy lost, median", "worst"]
    header += ["better : worse", "fit ×", "predict ×"]
    return table(header, rows)


def median_and_worst(change: pd.Series, unit: str) -> list[str]:
    if not len(change):
        return ["", ""]
    return [f"{change.median():+.1f}{unit}", f"{change.max():+.1f}{unit}"]


def defaults_table(lines: pd.DataFrame) -> str:
    """Return what the defaults reach in each case, and the spread of other seeds."""
    base = lines[lines["parameter"] == DEFAULT]
    seeds = changes(lines[lines["parameter"].isin([DEFAULT, SEED])])
    rows = []
    for case in CASES:
        own, other = (
            frame[(frame["set"] == case.set) & (frame["experts"] == case.experts)]
            for frame in (base, seeds)
        )
        if not len(own):
            continue
        means = own.mean(numeric_only=True)
        wide = int(means["n_columns"])
        rows.append(
            [
                f"{case.set}, {case.experts}",
                f"{case.rows} + {int(means['n_test'])} × {wide}",
                len(own),
                f"{means['nll']:.3f}",
                f"{means['accuracy']:.1%}"
                if case.experts == "logistic"
                else f"{means['rmse']:.3f}",
                f"{other['nll'].abs().mean():.3f}",
                f"{other['score'].abs().mean():.1f}",
                f"{means['fit']:.1f}",
                f"{means['predict']:.1f}",
            ]
        )
    header = ["case", "train + test × columns", "draws", "NLL", "RMSE or accuracy"]
    header += ["other seed: NLL ±", "RMSE ± % or accuracy ± points"]
    return table([*header, "fit, CPU s", "predict, CPU µs per row"], rows)


def cases_table(lines: pd.DataFrame, field: str, digits: int) -> str:
    """Return the change of one figure, turn by case."""
    changed = changes(lines)
    cases = [f"{case.set}, {case.experts}" for case in CASES]
    changed["case"] = changed["set"] + ", " + changed["experts"]
    means = changed.groupby([*TURN, "case"])[field].mean().unstack()
    rows = [
        [
            f"{name} {value}",
            *(
                "" if np.isnan(x) else f"{x:+.{digits}f}"
                for x in means.loc[(name, value)].reindex(cases)
            ),
        ]
        for name, values in TURNS.items()
        for value in values
        if (name, value) in means.index
    ]
    return table(["turned to", *cases], rows)


def tell(path: Path) -> None:
    """Print the tables of what the file holds."""
    lines = pd.DataFrame(read_lines(path))
    for field in ("rmse", "accuracy"):
        lines[field] = lines.get(field, np.nan)
    for title, text in (
        ("The defaults", defaults_table(lines)),
        ("One parameter turned", turns_table(lines)),
        ("NLL, case by case", cases_table(lines, "nll", 3)),
        ("RMSE in % or accuracy lost in points", cases_table(lines, "score", 1)),
    ):
        print(f"\n### {title}\n\n{text}")
    print(f"\n{machine()}")


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("file", type=Path, help="JSON-lines file")
    parser.add_argument("--parameters", help=f"by commas: {', '.join(TURNS)}")
    parser.add_argument("--draws", default="0,1", help="draws of rows, by commas")
    parser.add_argument("--seconds", type=float, default=np.inf, help="start no fit")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.tables:
        warm_up()
        run_jobs(args.file, jobs_of(args), measure, at_most=args.seconds)
    tell(args.file)


if __name__ == "__main__":
    main()
