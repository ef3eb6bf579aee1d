"""Time default fits against one fit of gradient boosting on the same rows.

Parts: `linear` fits ridge and logistic mixtures to generated tables of 300 to 50 000
rows and ten columns; `learners` fits eight trees of depth 6 and eight boosted models;
`sets` fits logistic mixtures to public sets (letter, adult). Peers are scikit-learn's
HistGradientBoosting and, where it is installed, LightGBM, both with their defaults, and
the learner alone. All run in turn on one thread, unless ``--threads`` says more; the
tables show medians of CPU seconds, and the ratio of CPU to HistGradientBoosting.

Two parts compare mixtures with themselves: `jobs` fits eight boosted experts with one
process and with two, and shows the ratio of wall times; its CPU seconds are those of
the process that calls fit. `text` measures the memory of a fit on CSR, as Python's
tracemalloc sees it, in multiples of the rows' own arrays: the peak, and how much more
it is for each byte of more rows (the same rows again and again).

    python benchmarks/bench_fit.py [--only linear,learners,sets,jobs,text]
                                   [--threads 1] [--repeat 5] [--quick] [--json FILE]
"""

from __future__ import annotations

import importlib.util
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from _data import hinge, load, read_split
from _records import cells, parser, run_parts, seconds
from _timing import interleaved
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import ShuffleSplit, train_test_split
from sklearn.tree import DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import SoftmaxGate

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


def bench_jobs(report, args) -> None:
    report.section(f"One process and two, d={D}, 8 boosted experts")
    X, y, _ = rows_of(1_000 if args.quick else 4_000)
    learner = HistGradientBoostingRegressor(random_state=0)
    models = {
        f"n_jobs={n}": MoERegressor(learner, n_jobs=n, random_state=0) for n in (1, 2)
    }
    times = interleaved(fits(models, X, y), args.repeat)
    report.keep(f"{len(y)} x {D}, jobs", times)
    alone = times["n_jobs=1"].wall
    lines = [
        [f"{len(y)} x {D}", name, *cells(timing), f"{timing.wall / alone:.2f}"]
        for name, timing in times.items()
    ]
    header = ["table", "fit", "wall", "CPU", "wall ratio"]
    report.table(header, lines)
    report.line("Target of the wall ratio: 0.6.")


# ----------------------------------------------------------------------- memory
def sms() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return half of the SMS spam collection as tf-idf."""
    texts, y, _ = load("sms_spam")
    X = TfidfVectorizer(min_df=2, sublinear_tf=True).fit_transform(texts["text"])
    half = train_test_split(X, y, stratify=y, test_size=0.5, random_state=0)
    return half[0], half[2]


def newsgroups() -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the training rows of 20 newsgroups as tf-idf, 1 000 words."""
    X, y, about = load("newsgroups_w1000")
    train, _ = about["splits"]["official"][0]
    return TfidfTransformer(sublinear_tf=True).fit_transform(X).tocsr()[train], y[train]


TEXTS = {
    "SMS spam": (sms, 2, 10.0, (1, 4, 8)),
    "newsgroups": (newsgroups, 4, 1, (1, 2)),
}
"""Reader, number of experts, their C, and how often the rows are repeated."""


def size_of(X: sparse.csr_matrix) -> int:
    """Return the bytes of the arrays of a CSR matrix."""
    return X.data.nbytes + X.indices.nbytes + X.indptr.nbytes


def peak_of(model: Any, X: sparse.csr_matrix, y: np.ndarray) -> int:
    """Return the bytes that a fit needs beyond what is there."""
    tracemalloc.start()
    clone(model).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def bench_text(report, args) -> None:
    report.section("Memory of a fit on CSR, beyond the rows")
    lines = []
    for name, (read, n_experts, C, copies) in TEXTS.items():
        X, y = read()
        model = MoEClassifier(
            LogisticRegression(C=C, max_iter=1000),
            n_experts=n_experts,
            gate=SoftmaxGate(alpha=0.01),
            init="kmeans_x",
            n_init=1,
            max_iter=15,
            random_state=0,
        )
        quick = clone(model).set_params(max_iter=1, tol=1.0, cross_fit=None)
        quick.fit(X, y)  # what is loaded on first use does not count
        size = size_of(X)
        peaks = [
            peak_of(model, sparse.vstack([X] * n, "csr"), np.tile(y, n)) / size
            for n in copies
        ]
        more = (peaks[-1] - peaks[-2]) / (copies[-1] - copies[-2])
        table = "{}, {} x {}".format(name, *X.shape)
        lines.append(
            [table, f"{size / 1e6:.2f} MB", f"{peaks[0]:.1f}", f"{more:.1f}", "≤ 3"]
        )
    header = ["texts", "rows", "peak / rows", "more peak / more rows", "target"]
    report.table(header, lines)


def main() -> None:
    parts = {
        "linear": bench_linear,
        "learners": bench_learners,
        "sets": bench_sets,
        "jobs": bench_jobs,
        "text": bench_text,
    }
    options = parser(__doc__, parts)
    options.set_defaults(repeat=5)
    options.add_argument("--threads", type=int, default=1, help="threads of a fit")
    args = options.parse_args()
    with warnings.catch_warnings(), threadpool_limits(args.threads):
        warnings.simplefilter("ignore")
        run_parts(args, parts, "lightgbm", on_data={"sets", "text"})


if __name__ == "__main__":
    main()
