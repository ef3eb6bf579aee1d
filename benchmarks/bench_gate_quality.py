"""Measure what gates and routing rules bring: predictions, experts asked, loads.

- ``gates``: every gate against the softmax gate, ridge experts, four regression sets.
  Fits of each split compete by ``held_out_``, so the test rows choose nothing.
- ``vowels``: logistic experts against one logistic regression on ``peterson_barney``,
  the vowels of Jacobs et al. (1991). Speakers that are tested are never trained on;
  a grid search over gates and numbers of experts, its folds made of speakers too, sees
  the training speakers alone.
- ``top_p``: how many experts ``top_p=0.9`` asks of ``top_k=4``, and what it costs.
- ``balance``: eight regimes, one of which holds 90 % of the rows: what ``balance=0.5``
  does to the loads of experts and to the likelihood.

Each fit is one line of a JSON-lines file; what the file holds is not measured again, so
a run goes on where it was stopped. Tables of all that it holds are printed at the end;
``--tables`` prints them alone.

    SKMOE_DATA=path/to/data python benchmarks/bench_gate_quality.py gates.jsonl
        [--only vowels] [--sets mv,pol] [--splits 0,1,2] [--gates softmax,tree]
        [--seconds 500]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from _data import load, read_fold
from _records import chosen, machine, plain_parser, read_lines, run_jobs, table
from _timing import clocked
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import (
    EstimatorGate,
    GaussianGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)

GATES = {
    "softmax": SoftmaxGate(),
    "gaussian diag": GaussianGate("diag"),
    "gaussian tied": GaussianGate("tied"),
    "gaussian full": GaussianGate("full"),
    "hierarchical": HierarchicalGate(),
    "product": ProductGate(),
    "tree": TreeGate(),
    "10 trees": TreeGate(n_estimators=10),
    "neighbours": KNeighborsGate(),
    "forest": EstimatorGate(
        RandomForestClassifier(50, min_samples_leaf=5, random_state=0)
    ),
    "boosting": EstimatorGate(
        HistGradientBoostingClassifier(max_iter=30, random_state=0)
    ),
}
SLOW = ("neighbours", "forest", "boosting")
"""Measured on the first split alone, and with the fewer experts."""
QUICK = ("softmax", "gaussian tied", "hierarchical", "product")
"""Measured with more experts too."""


class Job(NamedTuple):
    """What one line of the results is about."""

    part: str
    set: str
    what: str
    n_experts: int
    split: int


# --------------------------------------------------------------------- gates
GATE_SETS = ("mv", "pol", "elevators", "bike_sharing")
GATE_ROWS = 5000
FEW, MANY = 8, 16


def gates_jobs(splits: list[int]) -> Iterator[Job]:
    for split in splits:
        for name in GATE_SETS:
            for gate in GATES:
                if gate not in SLOW or split == splits[0]:
                    yield Job("gates", name, gate, FEW, split)
                if gate in QUICK:
                    yield Job("gates", name, gate, MANY, split)


def gates(job: Job) -> dict[str, float]:
    fold = read_fold(job.set, job.split, GATE_ROWS)
    model = MoERegressor(
        n_experts=job.n_experts, gate=GATES[job.what], random_state=job.split
    )
    model.fit(fold.X_train, fold.y_train)
    return {
        "rmse": rmse(model, fold.X_test, fold.y_test),
        "log_lik": log_lik(model, fold.X_test, fold.y_test),
        "held_out": model.held_out_["mixture"],
        "single": model.held_out_["single"],
    }


def gates_tables(frame: pd.DataFrame) -> Iterator[str]:
    splits = frame["split"].nunique()
    yield f"Means of the splits that a line names (of {splits})."
    for name in GATE_SETS:
        here = frame[frame["set"] == name]
        if len(here):
            yield f"### {name}"
            yield gates_table(here)
    yield "### Chosen on held-out rows, against softmax"
    yield choices_table(frame)


def gates_table(here: pd.DataFrame) -> str:
    base = here[here["what"] == "softmax"].set_index(["n_experts", "split"])
    rows = []
    for n_experts, gate in here[["n_experts", "what"]].drop_duplicates().to_numpy():
        own = here[(here["what"] == gate) & (here["n_experts"] == n_experts)]
        same = base.reindex([(n_experts, split) for split in own["split"]])
        ratio = own["rmse"].mean() / same["rmse"].mean()
        gained = own["log_lik"].mean() - same["log_lik"].mean()
        means = own[["rmse", "log_lik", "held_out"]].mean()
        rows.append(
            [
                f"{gate}, {n_experts}",
                len(own),
                *(f"{value:.4f}" for value in means),
                f"{ratio - 1:+.1%}",
                f"{gained:+.3f}",
            ]
        )
    header = ["gate, experts", "splits", "RMSE", "log-lik.", "held-out log-lik."]
    return table([*header, "RMSE against softmax", "log-lik. against softmax"], rows)


def choices_table(frame: pd.DataFrame) -> str:
    """Return what a user who looks at ``held_out_`` gets, split by split.

    Softmax chooses its number of experts in the same way.
    """
    rows = []
    everywhere = frame[~frame["what"].isin(SLOW)]
    for name in GATE_SETS:
        here = everywhere[everywhere["set"] == name]
        for title, some in (
            (f"{FEW}", here[here["n_experts"] == FEW]),
            (f"{FEW} or {MANY}", here),
        ):
            if not len(some):
                continue
            base = best(some[some["what"] == "softmax"], "held_out")
            by_held_out = best(some, "held_out")
            by_test = best(some, "rmse", largest=False)
            rows.append(
                [
                    f"{name}, {title} experts",
                    f"{base['rmse'].mean():.4f}",
                    f"{by_held_out['rmse'].mean():.4f}",
                    change(by_held_out, base),
                    f"{(by_held_out['log_lik'] - base['log_lik']).mean():+.3f}",
                    counted(by_held_out),
                    change(by_test, base),
                    counted(by_test),
                ]
            )
    header = ["set", "RMSE, softmax", "RMSE, chosen", "change", "log-lik."]
    return table([*header, "chosen", "change, best on test rows", "best"], rows)


def best(some: pd.DataFrame, field: str, largest: bool = True) -> pd.DataFrame:
    """Return the best line of each split."""
    grouped = some.groupby("split")[field]
    winners = some.loc[grouped.idxmax() if largest else grouped.idxmin()]
    return winners.set_index("split")


def change(own: pd.DataFrame, base: pd.DataFrame) -> str:
    return f"{own['rmse'].mean() / base['rmse'].mean() - 1:+.1%}"


def counted(own: pd.DataFrame) -> str:
    """Return what was chosen, and how often."""
    names = (own["what"] + " " + own["n_experts"].astype(str)).value_counts()
    return ", ".join(f"{name} ×{times}" for name, times in names.items())


# -------------------------------------------------------------------- vowels
VOWELS = "peterson_barney"
COLUMNS = {"F1, F2": ["f1", "f2"], "F0 to F3": ["f0", "f1", "f2", "f3"]}
OUTER, INNER = 5, 3
SEARCHED = ("softmax", "gaussian full")
NUMBERS = (2, 4)
LR, LR_GRID, MIXTURE_GRID = "logistic", "logistic, C searched", "mixture, searched"
SVM, GROUPED = "support vectors, RBF", "softmax, groups=speaker"
PENALTIES = [1.0, 10.0, 100.0]


def vowels_jobs(splits: list[int]) -> Iterator[Job]:
    for split in splits:
        for columns in COLUMNS:
            for what in (LR, LR_GRID, SVM):
                yield Job("vowels", columns, what, 0, split)
            for n_experts in NUMBERS:
                for gate in SEARCHED:
                    yield Job("vowels", columns, gate, n_experts, split)
            yield Job("vowels", columns, GROUPED, NUMBERS[0], split)
    for split in splits:
        for columns in COLUMNS:
            yield Job("vowels", columns, MIXTURE_GRID, 0, split)


def vowels_model(job: Job) -> Any:
    """Return what a line is about, unfitted."""
    single = LogisticRegression(max_iter=1000)
    mixture = MoEClassifier(single, random_state=0)
    folds = GroupKFold(INNER, shuffle=True, random_state=0)
    if job.what == LR:
        return single
    if job.what == SVM:
        return SVC(C=3.0)
    if job.what == LR_GRID:
        return GridSearchCV(single, {"C": PENALTIES}, cv=folds)
    if job.what == MIXTURE_GRID:
        grid = {
            "gate": [GATES[name] for name in SEARCHED],
            "n_experts": list(NUMBERS),
        }
        return GridSearchCV(mixture, grid, cv=folds)
    gate = GATES["softmax" if job.what == GROUPED else job.what]
    return mixture.set_params(gate=gate, n_experts=job.n_experts)


def vowels(job: Job) -> dict[str, Any]:
    X, y, meta = load(VOWELS)
    X, speaker = X[COLUMNS[job.set]].to_numpy(np.float64), meta["group_ids"]
    splitter = GroupKFold(OUTER, shuffle=True, random_state=0)
    train, test = list(splitter.split(X, y, speaker))[job.split]
    before = StandardScaler().fit(X[train])
    train_X, test_X = before.transform(X[train]), before.transform(X[test])
    model = vowels_model(job)
    searches = isinstance(model, GridSearchCV)
    grouped = searches or job.what == GROUPED
    model.fit(train_X, y[train], **({"groups": speaker[train]} if grouped else {}))
    figures = {"accuracy": float(np.mean(model.predict(test_X) == y[test]))}
    if hasattr(model, "predict_log_proba"):
        figures["log_lik"] = class_log_lik(model, test_X, y[test])
    if searches:
        figures["chosen"] = said(model.best_params_)
    return figures


def said(params: dict[str, Any]) -> str:
    """Return parameters as text, gates by their name here."""
    names = {id(gate): name for name, gate in GATES.items()}
    return ", ".join(str(names.get(id(p), p)) for p in params.values())


def vowels_tables(frame: pd.DataFrame) -> Iterator[str]:
    rows = []
    for columns, what, n_experts in (
        frame[["set", "what", "n_experts"]].drop_duplicates().to_numpy()
    ):
        here = frame[frame["set"] == columns]
        own = here[(here["what"] == what) & (here["n_experts"] == n_experts)]
        base = here[(here["what"] == LR) & here["split"].isin(own["split"])]
        rows.append(
            [
                f"{columns}: {what}" + (f", {n_experts}" if n_experts else ""),
                len(own),
                f"{own['accuracy'].mean():.1%}",
                f"{100 * (own['accuracy'].mean() - base['accuracy'].mean()):+.1f}",
                f"{own['log_lik'].mean():.3f}" if own["log_lik"].notna().any() else "",
                "; ".join(own["chosen"].dropna()) if "chosen" in own else "",
            ]
        )
    header = ["columns: model, experts", "splits", "accuracy", "points over logistic"]
    yield table([*header, "log-lik.", "chosen"], rows)


# --------------------------------------------------------------------- top_p
TOP_K, TOP_P = 4, 0.9
HIGHER = (0.95, 0.99)
"""Measured on the same fitted model, where they cost next to nothing."""
ROWS = {"adult": 10_000, "letter": 20_000, "california_housing": 20_000}
TOP_P_GATES = ("softmax", "gaussian tied", "tree")


def top_p_jobs(splits: list[int]) -> Iterator[Job]:
    for gate in TOP_P_GATES:
        for name in ROWS:
            yield Job("top_p", name, gate, FEW, splits[0])


def top_p(job: Job) -> dict[str, float]:
    fold = read_fold(job.set, job.split, ROWS[job.set])
    kind = MoEClassifier if fold.n_classes else MoERegressor
    model = kind(
        n_experts=FEW, gate=GATES[job.what], top_k=TOP_K, random_state=job.split
    )
    model.fit(fold.X_train, fold.y_train)
    figures = {"train": len(fold.y_train)}
    base = model.score_samples(fold.X_test, fold.y_test)
    for share in (None, TOP_P, *HIGHER):
        model.set_params(top_p=share)
        figures |= asked(f"top_p={share}", model, fold, base)
    model.set_params(top_p=TOP_P).fit(fold.X_train, fold.y_train)
    figures["on training rows"] = model.diagnostics_["experts_per_row"]
    return figures | asked(f"top_p={TOP_P}, refitted", model, fold, base)


def asked(name: str, model: Any, fold: Any, base: np.ndarray) -> dict[str, float]:
    """Return experts per row, log-likelihood and R² or accuracy on the test rows.

    Beside the mean log-likelihood stands the row that loses most against ``base``.
    """
    log_prob = model.score_samples(fold.X_test, fold.y_test)
    return {
        f"{name}: experts": model.route(fold.X_test).nnz / len(fold.y_test),
        f"{name}: log_lik": float(np.mean(log_prob)),
        f"{name}: worst": float(np.min(log_prob - base)),
        f"{name}: score": float(model.score(fold.X_test, fold.y_test)),
    }


def top_p_tables(frame: pd.DataFrame) -> Iterator[str]:
    names = [f"top_p={TOP_P}", f"top_p={TOP_P}, refitted"]
    names += [f"top_p={share}" for share in HIGHER]
    rows = []
    for _, line in frame.iterrows():
        base = line["top_p=None: log_lik"]
        for name in ["top_p=None", *names]:
            own = line[f"{name}: log_lik"]
            rows.append(
                [
                    f"{line['set']}, {line['what']}, {name}",
                    int(line["train"]),
                    f"{line[f'{name}: experts']:.2f}",
                    f"{own:.4f}",
                    f"{(own - base) / abs(base):+.2%}",
                    f"{line[f'{name}: worst']:.1f}",
                    f"{line[f'{name}: score']:.4f}",
                ]
            )
    header = ["set, gate, rule", "training rows", "experts per row", "log-lik."]
    yield table([*header, "change", "of the worst row", "R² or accuracy"], rows)


# ------------------------------------------------------------------- balance
N_REGIMES, BIG, N_FEATURES = 8, 0.9, 5
NOISES = (0.3, 2.0)
BALANCED = 0.5
BALANCE_ROWS = 4000
EXPERTS = {
    "ridge": None,
    "tree": DecisionTreeRegressor(max_depth=6, random_state=0),
}


def skewed(noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of eight clouds, each with a linear rule; one holds 90 %."""
    random = np.random.RandomState(seed)
    shares = np.r_[BIG, np.full(N_REGIMES - 1, (1 - BIG) / (N_REGIMES - 1))]
    regime = random.choice(N_REGIMES, size=2 * BALANCE_ROWS, p=shares)
    centers = 4.0 * random.standard_normal((N_REGIMES, N_FEATURES))
    slopes = 2.0 * random.standard_normal((N_REGIMES, N_FEATURES))
    x = random.standard_normal((len(regime), N_FEATURES))
    y = np.sum(x * slopes[regime], axis=1) + 5.0 * random.standard_normal(8)[regime]
    return x + centers[regime], y + noise * random.standard_normal(len(regime))


def balance_jobs(splits: list[int]) -> Iterator[Job]:
    for split in splits:
        for noise in NOISES:
            for expert in EXPERTS:
                for top_k in (2, None):
                    what = f"{expert}, top_k={top_k}"
                    yield Job("balance", f"noise {noise}", what, N_REGIMES, split)


def balance(job: Job) -> dict[str, float]:
    X, y = skewed(float(job.set.split()[1]), job.split)
    expert, top_k = job.what.split(", top_k=")
    figures = {}
    for value in (0.0, BALANCED):
        model = MoERegressor(
            EXPERTS[expert],
            n_experts=N_REGIMES,
            top_k=None if top_k == "None" else int(top_k),
            balance=value,
            random_state=job.split,
        )
        model.fit(X[:BALANCE_ROWS], y[:BALANCE_ROWS])
        figures[f"load at {value}"] = float(model.expert_load_.min() * N_REGIMES)
        figures[f"log_lik at {value}"] = log_lik(
            model, X[BALANCE_ROWS:], y[BALANCE_ROWS:]
        )
    return figures


def balance_tables(frame: pd.DataFrame) -> Iterator[str]:
    rows = []
    for data, what in frame[["set", "what"]].drop_duplicates().to_numpy():
        own = frame[(frame["set"] == data) & (frame["what"] == what)]
        before, after = own["log_lik at 0.0"], own[f"log_lik at {BALANCED}"]
        rows.append(
            [
                f"{data}, {what}",
                len(own),
                f"{own['load at 0.0'].mean():.2f}",
                f"{own[f'load at {BALANCED}'].mean():.2f}",
                f"{own[f'load at {BALANCED}'].min():.2f}",
                f"{before.mean():.3f}",
                f"{after.mean():.3f}",
                f"{after.mean() - before.mean():+.3f}",
                f"{(after.mean() - before.mean()) / abs(before.mean()):+.1%}",
            ]
        )
    header = ["data, experts", "seeds", "least load, balance=0", "balance=0.5"]
    header += ["… of all seeds", "log-lik., balance=0", "balance=0.5"]
    header += ["change", "change, %"]
    yield table(header, rows)


# ----------------------------------------------------------------------- all
def rmse(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(np.mean((model.predict(X) - y) ** 2)))


def log_lik(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    """Return the mean log p(y | x) per row, in nats."""
    return float(np.mean(model.score_samples(X, y)))


def class_log_lik(model: Any, X: np.ndarray, y: np.ndarray) -> float:
    log_proba = model.predict_log_proba(X)
    places = np.searchsorted(model.classes_, y)
    return float(np.mean(log_proba[np.arange(len(y)), places]))


class Part(NamedTuple):
    """What to measure, how, and how to tell it."""

    title: str
    jobs: Callable[[list[int]], Iterator[Job]]
    measure: Callable[[Job], dict[str, Any]]
    tables: Callable[[pd.DataFrame], Iterator[str]]


PARTS = {
    "gates": Part("Gates, ridge experts", gates_jobs, gates, gates_tables),
    "vowels": Part("Vowels of new speakers", vowels_jobs, vowels, vowels_tables),
    "top_p": Part("Experts asked with top_p", top_p_jobs, top_p, top_p_tables),
    "balance": Part("Loads of skewed regimes", balance_jobs, balance, balance_tables),
}


def asked_for(args: argparse.Namespace) -> list[Job]:
    """Return the jobs that the options name."""
    splits = [int(split) for split in args.splits.split(",")]
    jobs = [
        job for part in chosen(args.only, PARTS) for job in PARTS[part].jobs(splits)
    ]
    sets, gates = args.sets, args.gates
    return [
        job
        for job in jobs
        if (sets is None or job.set in sets.split(","))
        and (gates is None or job.what in gates.split(","))
    ]


def measure(job: Job) -> dict[str, Any]:
    """Return the figures of a job, and the seconds that it took."""
    figures, timing = clocked(PARTS[job.part].measure, job)
    return {**figures, "fit": timing.wall}


def tell(args: argparse.Namespace) -> None:
    """Print the tables of what the file holds."""
    lines = pd.DataFrame(read_lines(args.file))
    for name in chosen(args.only, PARTS):
        part, own = PARTS[name], lines[lines["part"] == name]
        if len(own):
            own = own.reset_index(drop=True).dropna(axis=1, how="all")
            print(f"\n## {part.title}\n")
            print("\n\n".join(part.tables(own)))
    print(f"\n{machine()}")


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("file", type=Path, help="JSON-lines file")
    parser.add_argument("--only", help=f"parts, by commas: {', '.join(PARTS)}")
    parser.add_argument("--sets", help="sets, by commas")
    parser.add_argument("--gates", help="gates (or models), by commas")
    parser.add_argument("--splits", default="0,1,2", help="splits or seeds, by commas")
    parser.add_argument("--seconds", type=float, default=np.inf, help="start no fit")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    args = parser.parse_args()
    if not args.tables:
        run_jobs(args.file, asked_for(args), measure, at_most=args.seconds)
    tell(args)


if __name__ == "__main__":
    main()
