"""Time default fits against one fit of gradient boosting on the same rows.

Parts: `linear` fits ridge and logistic mixtures to generated tables of 300 to 50 000
rows and ten columns; `learners` fits eight trees of depth 6 and eight boosted models;
`sets` fits logistic mixtures to public sets (letter, adult). Peers are scikit-learn's
HistGradientBoosting and, where it is installed, LightGBM, both with their defaults, and
the learner alone. All run in turn on one thread, unless ``--threads`` says more; the
tables show medians of CPU seconds, and the ratio of CPU to HistGradientBoosting.

    python benchmarks/bench_fit.py [--only linear,learners,sets] [--threads 1]
                                   [--repeat 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _data import hinge, read_split
from _records import parser, run_parts, seconds
from _timing import interleaved
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import ShuffleSplit
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from skmoe import MoEClassifier, MoERegressor

D = 10
PEER = "HistGradientBoosting"
HEADER = ["table", "experts", "fit", "CPU", "wall", "CPU ratio", "target"]


def rows_of(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return X, a target with two regimes, and its sign."""
    random = np.random.RandomState(0)
    X, y = hinge(n, D)
    y = y + 0.1 * random.standard_normal(n)
    return X, y, (y > np.median(y)).astype(int)


def peers(learner: Any, *, classify: bool) -> dict[str, Any]:
    """Return the models to compare with, by name."""
    boosting = HistGradientBoostingRegressor(random_state=0)
    if classify:
        boosting = HistGradientBoostingClassifier(random_state=0)
    models = {PEER: boosting, "learner alone": clone(learner)}
    if importlib.util.find_spec("lightgbm"):
        import lightgbm

        kind = lightgbm.LGBMClassifier if classify else lightgbm.LGBMRegressor
        models["LightGBM"] = kind(n_jobs=1, verbose=-1)
    return models


def fits(models: dict[str, Any], X, y) -> dict[str, Callable[[], Any]]:
    """Return a task for each model, which fits a clone of it."""
    return {name: (lambda m=m: clone(m).fit(X, y)) for name, m in models.items()}


def compared(report, args, table: str, learner: Any, X, y, target: str) -> list[list]:
    """Return the lines of a mixture of learners and its peers on one table."""
    classify = hasattr(learner, "predict_proba")
    mixture = MoEClassifier if classify else MoERegressor
    models = peers(learner, classify=classify)
    models["mixture, default"] = mixture(learner, random_state=0)
    times = interleaved(fits(models, X, y), args.repeat)
    report.keep(f"{table}, {type(learner).__name__}", times)
    lines = []
    for name, timing in times.items():
        ratio = f"{timing.cpu / times[PEER].cpu:.2f}"
        of_mixture = target if name.startswith("mixture") else ""
        cells = [seconds(timing.cpu), seconds(timing.wall), ratio, of_mixture]
        lines.append([table, type(learner).__name__, name, *cells])
    return lines


def bench_linear(report, args) -> None:
    report.section(f"Ridge and logistic experts, d={D}, 8 experts")
    lines = []
    sizes = (300, 1_000) if args.quick else (300, 1_000, 10_000, 50_000)
    for n in sizes:
        X, y, label = rows_of(n)
        few = "≤ 1" if n in (1_000, 10_000) else "≤ 2"
        lines += compared(report, args, f"{n} x {D}", Ridge(), X, y, few)
        logistic = LogisticRegression(max_iter=1000)
        if n < 50_000:
            lines += compared(report, args, f"{n} x {D}", logistic, X, label, "≤ 2")
    report.table(HEADER, lines)


def bench_learners(report, args) -> None:
    report.section(f"Learners that are fitted one by one, d={D}, 8 experts")
    n = 1_000 if args.quick else 4_000
    X, y, _ = rows_of(n)
    tree = DecisionTreeRegressor(max_depth=6)
    boosting = HistGradientBoostingRegressor(random_state=0)
    lines = compared(report, args, f"{n} x {D}", tree, X, y, "≤ 1 s")
    lines += compared(report, args, f"{n} x {D}", boosting, X, y, "≤ 20")
    report.table(HEADER, lines)


def bench_sets(report, args) -> None:
    report.section("Public sets, logistic experts")
    lines = []
    for name, target in (("letter", "≤ 1"), ("adult", "≤ 8 s")):
        rows = 2_000 if args.quick else None
        splitter = ShuffleSplit(1, test_size=0.2, random_state=0)
        fold = read_split(name, splitter, rows=rows)
        learner = LogisticRegression(max_iter=1000)
        table = "{} {} x {}".format(name, *fold.X_train.shape)
        lines += compared(
            report, args, table, learner, fold.X_train, fold.y_train, target
        )
    report.table(HEADER, lines)


def main() -> None:
    parts = {"linear": bench_linear, "learners": bench_learners, "sets": bench_sets}
    options = parser(__doc__, parts)
    options.set_defaults(repeat=5)
    options.add_argument("--threads", type=int, default=1, help="threads of a fit")
    args = options.parse_args()
    with warnings.catch_warnings(), threadpool_limits(args.threads):
        warnings.simplefilter("ignore")
        run_parts(args, parts, "lightgbm", on_data={"sets"})


if __name__ == "__main__":
    main()
