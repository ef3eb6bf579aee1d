"""Measure predictions on real data: mixtures, their learners, bagging and stacking.

Four learners (a linear one, a tree, boosted trees, and the three of them together)
stand alone, bagged, stacked and as experts of a mixture. They run on all public sets of
the folder named by SKMOE_DATA except those of several targets and the tiny ones. Each
(set, learner, method, fold) becomes one line of a JSON-lines file: RMSE or accuracy
and the mean negative log-likelihood (NLL) per test row, in nats; seconds of fit and
microseconds per row of predict; of mixtures also the bound of every pass. Targets of
regression are in units of their standard deviation on the training rows, so RMSE and
NLL are too. ``report`` turns the file into Markdown.

    SKMOE_DATA=path/to/data python benchmarks/bench_quality.py run quality.jsonl
    python benchmarks/bench_quality.py report quality.jsonl \\
        --out docs/quality.md --plot docs/images/quality.svg

``run`` goes on where it was stopped: what the file holds, errors included, is not
measured again, so delete lines to repeat them. ``--jobs`` above 1 lets the measurements
share the cores: good for quality, less so for times.
"""

from __future__ import annotations

import argparse
import itertools
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _data import (
    LOG_TARGETS,
    N_SPLITS,
    Fold,
    folds,
    is_sparse,
    known_sets,
    read_fold,
)
from _records import (
    append_line,
    chosen,
    machine,
    missing,
    plain_parser,
    read_lines,
    table,
)
from _timing import clocked, interleaved
from joblib import Parallel, delayed
from scipy.stats import friedmanchisquare, studentized_range
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    StackingClassifier,
    StackingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor

N_EXPERTS = 8
INNER_SPLITS = 3
FLOOR = 1e-3
"""Probabilities are at least this over the number of classes."""
TIE, NO_WORSE, WORSE = 1e-9, 1e-3, 0.01

LEARNERS = ("linear", "tree", "hgb", "mixed")
READ_SPARSE = {"linear", "tree"}
MIXTURES: dict[str, dict[str, Any]] = {
    "in-sample": {"cross_fit": None},
    "default": {},
    "default top-1": {"top_k": 1},
}
"""Options of the mixture by the method's name; a further line is a further method."""

METHODS = ("single", "bagging", "stacking", *MIXTURES)
MIXED_ONLY = {"stacking", "default top-1"}
NOT_MIXED = {"bagging"}
MAKERS = {
    "regression": (BaggingRegressor, StackingRegressor, MoERegressor),
    "classification": (BaggingClassifier, StackingClassifier, MoEClassifier),
}


# -------------------------------------------------------------------- models
def experts(task: str) -> dict[str, Any]:
    """Return the learners by name; mixed is the list of the others."""
    if task == "regression":
        three = {
            "linear": Ridge(),
            "tree": DecisionTreeRegressor(max_depth=6, random_state=0),
            "hgb": HistGradientBoostingRegressor(random_state=0),
        }
    else:
        three = {
            "linear": LogisticRegression(max_iter=1000),
            "tree": DecisionTreeClassifier(max_depth=6, random_state=0),
            "hgb": HistGradientBoostingClassifier(random_state=0),
        }
    return {**three, "mixed": list(three.values())}


def best_of(learners: list, fold: Fold) -> GridSearchCV:
    """Return the search for the learner of the best cross-validated NLL.

    Of normal laws with constant deviation that is the one of least squared error.
    """

    def likelihood(model, X, y):
        return -class_nll(model, X, y, fold.n_classes)

    return GridSearchCV(
        Pipeline([("learner", learners[0])]),
        {"learner": learners},
        scoring=likelihood if fold.n_classes else "neg_mean_squared_error",
        cv=folds(fold.task, INNER_SPLITS),
    )


def estimator(learner: str, method: str, fold: Fold):
    """Return what a method makes of a learner, unfitted."""
    expert = experts(fold.task)[learner]
    mixed = isinstance(expert, list)
    bagging, stacking, mixture = MAKERS[fold.task]
    if method == "single":
        return best_of(expert, fold) if mixed else expert
    if method == "bagging":
        return bagging(expert, n_estimators=N_EXPERTS, random_state=0)
    if method == "stacking":
        return stacking([(type(each).__name__, each) for each in expert])
    n_experts = len(expert) if mixed else N_EXPERTS
    return mixture(expert, n_experts=n_experts, random_state=0, **MIXTURES[method])


# -------------------------------------------------------------------- scores
def class_nll(model, X, y, n_classes: int) -> float:
    """Return the NLL of classes, floored so that a hard zero does not decide alone."""
    proba = np.zeros((len(y), n_classes))
    proba[:, model.classes_] = model.predict_proba(X)
    proba = np.maximum(proba, FLOOR / n_classes)
    proba /= proba.sum(axis=1, keepdims=True)
    return float(-np.mean(np.log(proba[np.arange(len(y)), y])))


def constant_variance(model, fold: Fold) -> float:
    """Return the variance of residuals out of fold: flexible learners fit their own."""
    model = getattr(model, "best_estimator_", model)  # not the search once more
    cv = folds(fold.task, INNER_SPLITS)
    predicted = cross_val_predict(model, fold.X_train, fold.y_train, cv=cv)
    return float(np.mean((fold.y_train - predicted) ** 2))


def nll(model, fold: Fold) -> float:
    """Return the mean negative log-likelihood a test row, in nats."""
    X, y = fold.X_test, fold.y_test
    if fold.n_classes:
        return class_nll(model, X, y, fold.n_classes)
    if hasattr(model, "score_samples"):
        return float(-np.mean(model.score_samples(X, y)))
    variance = constant_variance(model, fold)
    squares = (y - model.predict(X)) ** 2 / variance
    return float(0.5 * np.mean(squares + np.log(2 * np.pi * variance)))


def quality(model, fold: Fold) -> dict[str, float]:
    """Return RMSE or accuracy, and the NLL."""
    predicted = model.predict(fold.X_test)
    if fold.n_classes:
        score = {"accuracy": float(np.mean(predicted == fold.y_test))}
    else:
        score = {"rmse": float(np.sqrt(np.mean((predicted - fold.y_test) ** 2)))}
    figures = {**score, "nll": nll(model, fold)}
    if np.isnan(list(figures.values())).any():
        raise FloatingPointError(f"not a number: {figures}")
    return figures


def course(model) -> dict[str, Any]:
    """Return how EM went, in all of its runs, if the model is a mixture."""
    if not hasattr(model, "lower_bounds_"):
        return {}
    bounds = np.asarray(model.lower_bounds_)
    runs = [np.asarray(told["bounds"]) for told in model.history_]
    falls = [-np.diff(run, prepend=run[0]).min() for run in runs]
    return {
        "lower_bound": float(model.lower_bound_),
        "lower_bounds": bounds.tolist(),
        "n_iter": int(model.n_iter_),
        "converged": bool(model.converged_),
        "largest_fall": float(max(0.0, *falls)),
        "returns_best_pass": bool(abs(model.lower_bound_ - bounds.max()) <= TIE),
    }


def measured(model, fold: Fold) -> dict[str, Any]:
    """Fit a model and return its numbers."""
    _, fit = clocked(model.fit, fold.X_train, fold.y_train)
    X = fold.X_test
    timings = interleaved({"predict": lambda: model.predict(X)}, 3, at_least=0.05)
    return {
        "n_train": fold.X_train.shape[0],
        "n_test": X.shape[0],
        "n_features": X.shape[1],
        **quality(model, fold),
        "fit": fit.wall,
        "predict": 1e6 * float(timings["predict"].wall) / X.shape[0],
        **course(model),
    }


# ----------------------------------------------------------------------- run
class Job(NamedTuple):
    """What one line of the results is about."""

    set: str
    learner: str
    method: str
    fold: int


def measure(job: Job, rows: int) -> dict[str, Any]:
    """Return one line of the results; an exception becomes its ``error``."""
    figures: dict[str, Any]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ResourceWarning)  # of the data's loader
        try:
            fold = read_fold(job.set, job.fold, rows)
            figures = measured(estimator(job.learner, job.method, fold), fold)
            figures["task"] = fold.task
        except Exception as error:
            figures = {"error": f"{type(error).__name__}: {error}"[:400]}
    said = {f"{w.category.__name__}: {w.message}"[:160] for w in caught}
    return {**job._asdict(), **figures, "warnings": sorted(said), "machine": machine()}


def takes(meta: dict, learner: str, method: str) -> bool:
    """Return whether a method is measured with this learner on this set."""
    if is_sparse(meta) and learner not in READ_SPARSE:
        return False
    return method not in (NOT_MIXED if learner == "mixed" else MIXED_ONLY)


def jobs_of(args: argparse.Namespace) -> Iterator[Job]:
    """Yield what is asked for: fold 0 of every set first, small sets first."""
    sets = known_sets()
    names = chosen(args.sets, sets)
    learners, methods = chosen(args.learners, LEARNERS), chosen(args.methods, METHODS)
    numbers = range(args.folds) if args.only_fold is None else [args.only_fold]
    for each in itertools.product(numbers, names, learners, methods):
        number, name, learner, method = each
        if takes(sets[name], learner, method):
            yield Job(name, learner, method, number)


def said_of(record: dict[str, Any]) -> str:
    """Return a record as a line to look at."""
    about = "{set} {learner} {method}, fold {fold}: ".format(**record)
    if "error" in record:
        return about + record["error"]
    kind = "rmse" if "rmse" in record else "accuracy"
    return about + (
        f"{kind} {record[kind]:.4f}, nll {record['nll']:.4f}, "
        f"fit {record['fit']:.2f} s, predict {record['predict']:.2f} µs per row"
    )


def run(args: argparse.Namespace) -> None:
    """Measure what the file does not hold yet, and append it."""
    before = read_lines(args.results)
    if {record["rows"] for record in before} - {args.rows}:
        raise SystemExit(f"{args.results} was measured with other --rows.")
    todo = missing(args.results, jobs_of(args))
    print(f"{len(todo)} to measure, {len(before)} in the file", flush=True)
    parallel = Parallel(args.jobs, batch_size=1, return_as="generator_unordered")
    for record in parallel(delayed(measure)(job, args.rows) for job in todo):
        append_line(args.results, {**record, "rows": args.rows, "jobs": args.jobs})
        print(said_of(record), flush=True)


# -------------------------------------------------------------------- report
PAIR = ["set", "learner"]
FIELDS = ["score", "nll", "fit", "predict"]
COLUMNS = [
    *Job._fields,
    *("task", "rows", "jobs", "machine", "n_train", "n_test", "n_features"),
    *("rmse", "accuracy", "nll", "fit", "predict", "error"),
    *("largest_fall", "returns_best_pass", "converged"),
]
RANKED = ["single", "bagging", "in-sample", "default"]
LEVEL = 0.05
MARGIN, AXIS = 1.7, 3.8
"""Inches of the picture of ranks."""

ABOUT = f"""\
Each learner stands alone (`single`), bagged (`bagging`) and stacked (`stacking`), and
is the expert of three mixtures: one judged on the rows that it learned from
(`in-sample`, which is `cross_fit=None`), one at the library's defaults (`default`), and
one at the defaults except for `top_k=1` (`default top-1`). The learners are Ridge or
logistic regression (`linear`), a tree of depth 6 (`tree`), histogram gradient boosting
at its defaults (`hgb`), and the three together (`mixed`). Mixtures have {N_EXPERTS}
experts and bagging has {N_EXPERTS} learners. A mixture or stack of `mixed` has one of
each of the three, and its `single` is the one with the best cross-validated NLL on the
training rows. Nothing is tuned by set. Sparse sets have linear and tree only.

NLL is the mean negative log-likelihood per test row in nats (the units of natural
logarithms); lower is better. Targets of regression are standardised by mean and
standard deviation of the training rows, so RMSE and NLL are in units of that deviation;
{", ".join(sorted(LOG_TARGETS))} predict the logarithm. Regressors other than mixtures
get a normal law with the standard deviation of their cross-validated residuals on the
training rows. Probabilities of all classifiers are raised to at least {FLOOR:g} over
the number of classes and renormalised, so that a single zero does not decide.

Sets of more than {{rows}} rows are cut to a random draw of that many. Folds are random
and the same for all methods ({{folds}} of {N_SPLITS} measured). Numbers are means over
the folds that all methods of a set and learner have done."""

MARKS = "Bold is the best of a row; ↓ marks where `default` is worse than `single`."

RANKS = """\
Mean rank by NLL over the {n} pairs of set and learner that have all of
{methods}; rank 1 is best. Friedman's test gives p = {p:.2g}. Ranks that are
{cd:.2f} apart or more differ at the {level:.0%} level (Nemenyi). The test takes pairs
as independent, though pairs of one set share their rows."""


# ---- what was measured
def read_results(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the measurements, and those that failed."""
    lines = read_lines(path)
    if not lines:
        raise SystemExit(f"{path} holds no results.")
    frame = pd.DataFrame(lines).reindex(columns=COLUMNS)
    frame["score"] = frame["rmse"].astype(float).fillna(frame["accuracy"])
    failed = frame["error"].notna()
    return frame[~failed], frame[failed]


def shared_folds(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep of each set and learner the folds that all its methods have done."""
    methods = frame.groupby(PAIR)["method"].transform("nunique")
    here = frame.groupby([*PAIR, "fold"])["method"].transform("nunique")
    return frame[here == methods]


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over folds by (set, learner), with columns (field, method)."""
    means = frame.groupby([*PAIR, "method"])[FIELDS].mean().unstack("method")
    return means.reindex(columns=pd.MultiIndex.from_product([FIELDS, METHODS]))


def orientation(frame: pd.DataFrame) -> pd.Series:
    """Return by (set, learner) 1 where a lower score is better, else -1."""
    task = frame.groupby(PAIR)["task"].first()
    return task.map({"regression": 1.0, "classification": -1.0})


def filled(text: str) -> str:
    """Return paragraphs with their lines filled."""
    parts = text.split("\n\n")
    return "\n\n".join(textwrap.fill(p, 88, break_on_hyphens=False) for p in parts)


# ---- targets
def gap(means: pd.DataFrame, sign: pd.Series, method: str, other: str):
    """Return by how much a method is worse than another, pair by pair."""
    nats = means["nll", method] - means["nll", other]
    score = sign * (means["score", method] - means["score", other])
    gaps = {
        "nats": nats,
        "relative_nats": nats / means["nll", other].abs(),
        "score": score,
        "relative_score": score / means["score", other],
    }
    return pd.DataFrame(gaps).dropna(subset="nats")


def share(flags: pd.Series) -> str:
    """Return how many are true."""
    return f"{flags.sum()} of {len(flags)} ({flags.mean():.0%})"


def median(values: pd.Series) -> str:
    return f"{values.median():.3g}"


def by_learner(text: str, values: pd.Series, cell) -> list[str]:
    """Return a line of a table: a cell for each learner, and one for all."""
    learner = values.index.get_level_values("learner")
    parts = [*(values[learner == name] for name in LEARNERS), values]
    return [text, *(cell(part) if len(part) else "" for part in parts)]


def targets(shared: pd.DataFrame, frame: pd.DataFrame) -> str:
    """Return the table of what is asked of the defaults: means, then every fit."""
    means, sign = wide(shared), orientation(shared)
    single = gap(means, sign, "default", "single")
    bagging = gap(means, sign, "default", "bagging")
    top_1 = gap(means, sign, "default top-1", "stacking")
    ratio = means["predict", "default top-1"] / means["predict", "stacking"]
    fits = frame.dropna(subset="largest_fall").set_index("learner")
    rows = [
        ("`default` against `single`, NLL: better", single.nats < -TIE, share),
        ("… tied", single.nats.abs() <= TIE, share),
        ("… worse by more than 0.01 nats per row", single.nats > WORSE, share),
        ("… worse by more than 1% of its value", single.relative_nats > WORSE, share),
        ("… RMSE or accuracy: better", single.score < -TIE, share),
        ("… tied", single.score.abs() <= TIE, share),
        ("… worse by more than 1%", single.relative_score > WORSE, share),
        ("`default` against `bagging`, NLL: better", bagging.nats < -TIE, share),
        (
            f"`default top-1` against `stacking`, NLL: at most {NO_WORSE:g} worse",
            top_1.nats <= NO_WORSE,
            share,
        ),
        ("… predict time, median ratio", ratio.dropna(), median),
        (
            "fits of mixtures: largest fall of the bound in a pass",
            fits["largest_fall"],
            lambda falls: f"{falls.max():.1e}",
        ),
        ("… bound is the best pass's", fits["returns_best_pass"].astype(bool), share),
        ("… converged", fits["converged"].astype(bool), share),
    ]
    lines = [by_learner(*row) for row in rows]
    return table(["", *LEARNERS, "all"], lines) + "\n\n" + losses(single)


def losses(gaps: pd.DataFrame) -> str:
    """Return the pairs in which the default loses to its learner, worst first."""

    def line(title: str, field: str, form: str) -> str:
        worse = gaps[field][gaps[field] > WORSE].sort_values(ascending=False)
        pairs = [f"{s} {who} {value:{form}}" for (s, who), value in worse.items()]
        return f"- {title}: {', '.join(pairs) or 'none'}."

    return "\n".join(
        [
            "Where `default` is worse than `single`:\n",
            line(
                "NLL by more than 0.01 nats per row, which makes it 1% less likely",
                "nats",
                "+.3f",
            ),
            line("NLL by more than 1% of its value", "relative_nats", "+.1%"),
            line("RMSE or accuracy by more than 1%", "relative_score", "+.1%"),
        ]
    )


# ---- every set
def marked(values: pd.Series, sign: float) -> list[str]:
    """Return numbers as text: the best in bold, the default's losses with an arrow."""
    best = (sign * values).min()
    texts = {
        method: f"**{value:.4f}**" if sign * value <= best + TIE else f"{value:.4f}"
        for method, value in values.items()
    }
    if sign * (values.get("default", np.nan) - values.get("single", np.nan)) > TIE:
        texts["default"] += " ↓"
    return ["" if text == "nan" else text for text in texts.values()]


def every_set(frame: pd.DataFrame) -> str:
    """Return scores and NLL of a learner, a line a set, regression first."""
    means, sign = wide(frame), orientation(frame)
    methods = [m for m in METHODS if means["nll", m].notna().any()]
    facts = frame.groupby(PAIR).agg(
        n_train=("n_train", "max"),
        n_test=("n_test", "max"),
        n_features=("n_features", "max"),
        folds=("fold", "nunique"),
    )
    lines = [
        [
            pair[0],
            f"{facts.n_train[pair]:.0f} + {facts.n_test[pair]:.0f}"
            f" × {facts.n_features[pair]:.0f}",
            facts.folds[pair],
            "RMSE" if sign[pair] > 0 else "accuracy",
            *marked(means.loc[pair, "score"][methods], sign[pair]),
            *marked(means.loc[pair, "nll"][methods], 1.0),
        ]
        for pair in sorted(means.index, key=lambda pair: (-sign[pair], pair))
    ]
    names = [f"{field}: {m}" for field in ("score", "NLL") for m in methods]
    return table(["set", "train + test × columns", "folds", "score", *names], lines)


def times(frame: pd.DataFrame) -> str:
    """Return medians over the sets of the times of each method."""
    means = wide(frame)
    lines = []
    for method in METHODS:
        for field, unit in (("fit", "fit, s"), ("predict", "predict, µs per row")):
            values = means[field, method].dropna()
            if len(values):
                lines.append(by_learner(f"{method}: {unit}", values, median))
    return table(["", *LEARNERS, "all"], lines)


# ---- ranks
def ranks(frame: pd.DataFrame, plot: Path | None, link: str | None) -> str:
    """Return the mean ranks and their tests, and draw them if a file is named."""
    nll = wide(frame)["nll"][RANKED].dropna(axis=1, how="all").dropna()
    n_pairs, n_methods = nll.shape
    if n_pairs < 2:
        return "Too few sets have all of the methods that are ranked."
    mean = nll.rank(axis=1).mean().sort_values()
    q = studentized_range.ppf(1 - LEVEL, n_methods, np.inf) / np.sqrt(2)
    cd = float(q * np.sqrt(n_methods * (n_methods + 1) / (6 * n_pairs)))
    text = RANKS.format(
        n=n_pairs,
        methods=", ".join(f"`{method}`" for method in nll.columns),
        p=friedmanchisquare(*nll.to_numpy().T).pvalue,
        cd=cd,
        level=LEVEL,
    )
    lines = [(method, f"{rank:.2f}") for method, rank in mean.items()]
    parts = [filled(text), table(["method", "mean rank"], lines)]
    if plot:
        draw_ranks(mean, cd, plot)
        parts.append(f"![Mean ranks by NLL and the critical difference]({link})")
    return "\n\n".join(parts)


def alike(values: Sequence[float], cd: float) -> list[tuple[float, float]]:
    """Return the ends of the longest runs of sorted ranks less than cd apart."""
    runs: list[tuple[float, float]] = []
    for low in values:
        high = max(value for value in values if value - low < cd)
        if high > low and (not runs or high > runs[-1][1]):
            runs.append((low, high))
    return runs


def draw_ranks(mean: pd.Series, cd: float, path: Path) -> None:
    """Draw mean ranks on an axis, and bars that join those which do not differ."""
    import matplotlib
    from matplotlib.figure import Figure

    bars, half = alike(list(mean), cd), (len(mean) + 1) // 2
    first = 0.35 + 0.15 * len(bars)
    width, height = MARGIN + AXIS + MARGIN, 1.1 + first + 0.27 * half
    figure = Figure(figsize=(width, height), facecolor="white")
    # Lengths are inches, and the axis of ranks is at height 0, with down positive.
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height - 0.95, -0.95))
    axes.set_axis_off()

    def at(rank: float) -> float:
        return MARGIN + AXIS * (rank - 1) / (len(mean) - 1)

    def line(x, y, thick=1.0):
        axes.plot(x, y, color="black", lw=thick, solid_capstyle="butt")

    line([at(1), at(len(mean))], [0, 0])
    for rank in range(1, len(mean) + 1):
        line([at(rank)] * 2, [0, -0.08])
        axes.text(at(rank), -0.13, str(rank), ha="center", va="bottom")

    line([at(1), at(1 + cd)], [-0.65, -0.65])
    for end in (at(1), at(1 + cd)):
        line([end, end], [-0.6, -0.7])
    label = f"critical difference {cd:.2f}"
    axes.text(at(1 + cd) + 0.1, -0.65, label, va="center")

    for place, (start, stop) in enumerate(bars):
        y = 0.2 + 0.15 * place
        line([at(start) - 0.04, at(stop) + 0.04], [y, y], 4.0)

    for place, (method, rank) in enumerate(mean.items()):
        left = place < half
        y = first + 0.27 * (place if left else len(mean) - 1 - place)
        end, side = (MARGIN - 0.1, -1) if left else (width - MARGIN + 0.1, 1)
        line([at(rank), at(rank), end], [0, y, y], 0.7)
        text = f"{method}  {rank:.2f}" if left else f"{rank:.2f}  {method}"
        align = "right" if left else "left"
        axes.text(end + 0.06 * side, y, text, ha=align, va="center")

    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no random names: the same ranks give the same file.
    with matplotlib.rc_context({"svg.hashsalt": "ranks"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})


# ---- all of it
def how(frame: pd.DataFrame) -> str:
    """Return the machine, and the command that measures again."""
    rows, jobs = int(frame["rows"].max()), int(frame["jobs"].max())
    n_folds = int(frame["fold"].max()) + 1
    machines = "\n\n".join(frame["machine"].unique())
    return f"""\
{machines} Up to {jobs} measurements ran at once.

    SKMOE_DATA=path/to/data python benchmarks/bench_quality.py run quality.jsonl \\
        --folds {n_folds} --rows {rows} --jobs {jobs}
    python benchmarks/bench_quality.py report quality.jsonl \\
        --out docs/quality.md --plot docs/images/quality.svg"""


def failures(failed: pd.DataFrame) -> str:
    """Return the measurements that raised."""
    return "\n".join(f"- {said_of(record)}" for record in failed.to_dict("records"))


def report(args: argparse.Namespace) -> None:
    """Write what the file of results says."""
    frame, failed = read_results(args.results)
    shared = shared_folds(frame)
    folder = args.out.parent if args.out else Path()
    link = os.path.relpath(args.plot, folder) if args.plot else None
    about = ABOUT.format(rows=frame["rows"].max(), folds=frame["fold"].nunique())
    parts = ["# Quality on real data", filled(about)]
    parts += ["## Targets", targets(shared, frame), "## Every set", MARKS]
    for learner in LEARNERS:
        if (here := shared["learner"] == learner).any():
            parts += [f"### {learner}", every_set(shared[here])]
    parts += ["## Times", "Medians over the sets.", times(shared)]
    parts += ["## Ranks", ranks(shared, args.plot, link)]
    if len(failed):
        parts += ["## Failures", failures(failed)]
    parts += ["## Machine and command", how(frame)]
    text = "\n\n".join(parts) + "\n"
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    else:
        print(text)


def main() -> None:
    parser = plain_parser(__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("run", help="measure, and append to a file")
    command.set_defaults(do=run)
    command.add_argument("results", type=Path, help="JSON-lines file")
    command.add_argument("--sets", help="names, by commas; all by default")
    command.add_argument("--learners", help=f"of {', '.join(LEARNERS)}")
    command.add_argument("--methods", help=f"of {', '.join(METHODS)}")
    folds = range(1, N_SPLITS + 1)
    command.add_argument("--folds", type=int, default=N_SPLITS, choices=folds)
    command.add_argument("--only-fold", type=int, choices=range(N_SPLITS))
    command.add_argument("--rows", type=int, default=20000, help="of a set, at most")
    command.add_argument("--jobs", type=int, default=1, help="processes")

    command = commands.add_parser("report", help="write Markdown about a file")
    command.set_defaults(do=report)
    command.add_argument("results", type=Path, help="JSON-lines file")
    command.add_argument("--out", type=Path, help="Markdown file, else the screen")
    command.add_argument("--plot", type=Path, help="picture of the ranks, as svg")
    args = parser.parse_args()
    args.do(args)


if __name__ == "__main__":
    main()
