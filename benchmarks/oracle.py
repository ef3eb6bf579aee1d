"""Compare maximum-likelihood fits with those of R's flexmix.

The folder named by SKMOE_ORACLE holds ``oracle.json`` and its csv files: one row per
model, with the log-likelihood that flexmix reached and the exact maximum that L-BFGS
found from there.

- fits: every model is fitted without penalties, from 20 starts, to convergence. The
  table gives the log-likelihood above flexmix and above the exact maximum, in nats, how
  many of the starts reached flexmix, and CPU seconds per start. Where the optimum is
  flexmix's own, experts and gate are compared with flexmix's, in the best order of
  experts: the largest root mean square difference of an expert's mean, in standard
  deviations of y, and the largest mean difference of a gate probability.
- synth5: CPU seconds to flexmix's log-likelihood, 8 linear experts on 50 000 rows of 20
  columns, against those that flexmix took (recorded) and those that cgmm takes here.
  ``--quick`` takes the smaller model synth3_k4. It runs only where ``--only`` names it.

    SKMOE_ORACLE=path/to/oracle python benchmarks/oracle.py [--grades A]
    SKMOE_ORACLE=path/to/oracle python benchmarks/oracle.py --only synth5
"""

from __future__ import annotations

import csv
import functools
import json
import warnings
from pathlib import Path

import numpy as np
from _data import folder_of
from _records import parser, run_parts, seconds
from _timing import Timing, clocked
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import PORTFOLIO
from skmoe.gates import ConstantGate, SoftmaxGate

FAMILIES = ("gaussian", "binomial", "multinom", "poisson")


def folder() -> Path:
    """Return the folder that SKMOE_ORACLE names, or exit with the reason."""
    return folder_of("SKMOE_ORACLE", "oracle.json")


def cases() -> list[dict]:
    """Return what flexmix reached, model by model."""
    return json.loads((folder() / "oracle.json").read_text())


def read(case: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with open(folder() / case["csv"]) as file:
        table = list(csv.DictReader(file))
    columns = list(dict.fromkeys(case["expert_features"] + case["gate_features"]))
    X = np.array([[float(row[c]) for c in columns] for row in table])
    y = np.array([float(row[case["target"]]) for row in table])
    return X.reshape(len(y), -1), y, columns


def view(columns: list[str], wanted: list[str], last):
    """Let a part see some of the columns only."""
    if list(wanted) == list(columns) or not wanted:
        return last
    places = [columns.index(name) for name in wanted]
    return make_pipeline(ColumnTransformer([("see", "passthrough", places)]), last)


def model(case: dict, columns: list[str], options: dict):
    gate = ConstantGate() if case["gate"] == "constant" else SoftmaxGate(alpha=0)
    gate = view(columns, case["gate_features"], gate)
    plain = {"n_experts": case["k"], "top_k": None, "cross_fit": None}
    common = {**plain, "gate": gate, **options}
    if case["family"] == "gaussian":
        expert = view(columns, case["expert_features"], LinearRegression())
        return MoERegressor(expert, scale_prior=0, **common)
    if case["family"] == "poisson":
        expert = view(columns, case["expert_features"], PoissonRegressor(alpha=0))
        return MoERegressor(expert, likelihood="poisson", **common)
    expert = LogisticRegression(C=np.inf, max_iter=1000)
    return MoEClassifier(view(columns, case["expert_features"], expert), **common)


# ----------------------------------------------------------------------- fits
def fit(case: dict, X, y, columns: list[str], **options):
    """Return the model after the starts that options ask for."""
    return model(case, columns, {"random_state": 0, **options}).fit(X, y)


def reached(case: dict, n_init: int, max_iter: int, tol: float) -> dict:
    """Return what the starts reach, against flexmix and the exact maximum."""
    X, y, columns = read(case)
    flexmix, exact = case["flexmix_loglik"], case["exact_ml_loglik"] or np.nan
    options = {"n_init": n_init, "max_iter": max_iter, "tol": tol}
    ask = functools.partial(fit, case, X, y, columns, **options)
    best, timing = clocked(ask, settle=0.0)
    scores = [len(y) * run["bounds"].max() for run in best.history_]
    top = float(best.score_samples(X, y).sum())
    same = case["family"] == "gaussian" and abs(top - exact) < 0.01
    same = same and top - flexmix < 0.1  # flexmix was there itself
    gaps = apart(best, X, y, case, columns) if same else ()
    return {
        "best": top,
        "flexmix": top - flexmix,
        "exact": top - exact,
        "reached": f"{sum(score >= flexmix - 1e-3 for score in scores)}/{n_init}",
        "first": next((i + 1 for i, s in enumerate(scores) if s >= top - 1e-3), 0),
        "apart": ", ".join(f"{gap:.4f}" for gap in gaps),
        "seconds": timing.cpu / n_init,
        "times": case["cpu_seconds_per_start"] * n_init / timing.cpu,
    }


def apart(fitted, X, y, case: dict, columns: list[str]) -> tuple[float, float]:
    """Return how far experts and gate are from flexmix's, in the best order."""

    def linear(coef: dict) -> np.ndarray:
        terms = [X[:, columns.index(c)] * b for c, b in coef.items() if c in columns]
        return coef["(Intercept)"] + np.sum(terms, axis=0)

    theirs = np.column_stack([linear(expert["coef"]) for expert in case["experts"]])
    ours = np.column_stack([expert.predict(X) for expert in fitted.experts_])
    square = ((ours[:, :, None] - theirs[:, None, :]) ** 2).mean(axis=0)
    order = linear_sum_assignment(square.T)[1]
    if case["gate_coef"] is None:
        gate = np.log(np.tile(case["prior"], (len(y), 1)))
    else:
        names = case["gate_coef"]["rows"]
        pairs = [dict(zip(names, c, strict=True)) for c in case["gate_coef"]["coef"]]
        gate = np.column_stack([linear(coef) for coef in pairs])
    difference = np.abs(fitted.gate_proba(X)[:, order] - softmax(gate, axis=1))
    spread = np.sqrt(square[order, np.arange(case["k"])]) / y.std()
    return float(spread.max()), float(difference.mean(axis=0).max())


HEADER = (
    "model",
    "grade",
    "best",
    "- flexmix",
    "- exact",
    "starts that reach flexmix",
    "first start at the best",
    "flexmix's",
    "experts, gate apart",
    "CPU s per start",
    "flexmix / ours",
)


def bench_fits(report, args) -> None:
    report.section("Maximum-likelihood fits against flexmix")
    n_starts = 2 if args.quick else args.starts
    rows = []
    for case in cases():
        asked = case["family"] in args.families and case["grade"] in args.grades
        if not asked or args.models not in case["id"]:
            continue
        starts = min(n_starts, case["starts"]) if case["n"] > 9999 else n_starts
        row = reached(case, starts, args.max_iter, args.tol)
        rows.append(
            [
                case["id"],
                case["grade"],
                f"{row['best']:.4f}",
                f"{row['flexmix']:+.4f}",
                f"{row['exact']:+.4f}",
                row["reached"],
                row["first"],
                f"{case['starts_that_reached_it']}/{case['starts']}",
                row["apart"],
                f"{row['seconds']:.3f}",
                f"{row['times']:.1f}",
            ]
        )
        print(*rows[-1], sep=" | ", flush=True)
    report.table(HEADER, rows)


# --------------------------------------------------------------------- synth5
def cgmm_fit(X, y, n_experts: int):
    """Return the fitted peer, None if it is not installed."""
    try:
        from cgmm.moe import MixtureOfExpertsRegressor
    except ImportError:
        return None
    return MixtureOfExpertsRegressor(n_experts, random_state=0).fit(X, y)


def bench_synth5(report, args) -> None:
    report.section("synth5: CPU seconds to flexmix's log-likelihood")
    wanted = "synth3_k4" if args.quick else "synth5_k8"
    case = next(case for case in cases() if case["id"] == wanted)
    X, y, columns = read(case)
    goal, theirs = case["flexmix_loglik"], case["cpu_seconds_per_start"]

    def ours(kind: str, max_iter: int = 5000):
        options = {"n_init": 1, "init": kind, "max_iter": max_iter, "tol": 1e-9}
        return fit(case, X, y, columns, **options)

    lines = [["flexmix, recorded", f"{goal:.3f}", "", "", f"{theirs:.3g} s", ""]]

    def line(name: str, value: float, timing: Timing) -> None:
        report.keep(wanted, {name: timing})
        lines.append(
            [
                name,
                f"{value:.3f}",
                f"{value - goal:+.3f}",
                seconds(timing.wall),
                seconds(timing.cpu),
                f"{theirs / timing.cpu:.1f}",
            ]
        )

    ours(PORTFOLIO[0], max_iter=1)  # compiles
    for kind in PORTFOLIO:
        with threadpool_limits(1, user_api="blas"):
            fitted, one = clocked(ours, kind)
        value = float(fitted.score_samples(X, y).sum())
        line(f"skmoe, start {kind}, one thread", value, one)
        if value >= goal - 1e-3:
            fitted, both = clocked(ours, kind)
            value = float(fitted.score_samples(X, y).sum())
            line(f"skmoe, start {kind}, BLAS's threads", value, both)
            break
    header = ("log-likelihood", "above flexmix", "wall", "CPU", "flexmix's / this")
    report.table([wanted, *header], lines)
    report.line("Target on synth5: flexmix's CPU seconds over ours ≥ 100.")
    if args.skip_cgmm:
        return
    with threadpool_limits(1, user_api="blas"):
        peer, timing = clocked(cgmm_fit, X, y, case["k"])
    if peer is None:
        report.line("cgmm skipped: it is not installed (pip install cgmm).")
        return
    report.keep(wanted, {"cgmm, one thread": timing})
    above = float(peer.score(X, y)) * len(y) - goal
    ratio = timing.cpu / one.cpu
    report.line(
        f"cgmm, one thread: {above:+.3f} above flexmix, {peer.n_iter_} passes, "
        f"{seconds(timing.cpu)} CPU, {ratio:.1f} times ours (target ≥ 10)."
    )


PARTS = {"fits": bench_fits, "synth5": bench_synth5}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.set_defaults(only="fits")
    options.add_argument("--models", default="", help="a part of the models' names")
    options.add_argument("--grades", default="AB", help="A, B or AB")
    options.add_argument("--families", nargs="*", default=FAMILIES)
    options.add_argument("--starts", type=int, default=20)
    options.add_argument("--max-iter", type=int, default=5000)
    options.add_argument("--tol", type=float, default=1e-9)
    options.add_argument("--skip-cgmm", action="store_true", help="it takes minutes")
    args = options.parse_args()
    folder()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_parts(args, PARTS, "cgmm")


if __name__ == "__main__":
    main()
