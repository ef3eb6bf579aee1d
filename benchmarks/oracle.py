"""Compare maximum-likelihood fits with those of R's flexmix.

Reads ``oracle.json`` and its csv files from the folder named by SKMOE_ORACLE: one
row a model, with the log-likelihood that flexmix reached and the exact maximum that
L-BFGS found from there. Every model is fitted without penalties, from 20 starts, to
convergence; the table gives the log-likelihood above flexmix and above the exact
maximum, how many of the starts reached flexmix, and CPU seconds per start. Where the
optimum is flexmix's own, experts and gate are compared with flexmix's, in the best
order of experts: the largest root mean square difference of an expert's mean, in
standard deviations of y, and the largest mean difference of a gate probability.

    SKMOE_ORACLE=path/to/oracle python benchmarks/oracle.py [--out docs/oracle.md]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import softmax
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import PORTFOLIO
from skmoe.gates import ConstantGate, SoftmaxGate

FAMILIES = ("gaussian", "binomial", "multinom", "poisson")


def read(folder: Path, case: dict) -> tuple[np.ndarray, np.ndarray, list[str]]:
    with open(folder / case["csv"]) as file:
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


def run(folder: Path, case: dict, n_init: int, max_iter: int, tol: float) -> dict:
    X, y, columns = read(folder, case)
    reached, scores, best = 0, [], None
    started = time.process_time()
    for start in range(n_init):
        kind = PORTFOLIO[start] if start < len(PORTFOLIO) else "random"
        options = {"n_init": 1, "init": kind, "random_state": start}
        options |= {"max_iter": max_iter, "tol": tol}
        fitted = model(case, columns, options).fit(X, y)
        scores.append(float(fitted.score_samples(X, y).sum()))
        best = fitted if scores[-1] == max(scores) else best
        reached += scores[-1] >= case["flexmix_loglik"] - 1e-3
    seconds = (time.process_time() - started) / n_init
    top = max(scores)
    same = abs(top - (case["exact_ml_loglik"] or np.nan)) < 0.01
    same = same and case["family"] == "gaussian"
    same = same and top - case["flexmix_loglik"] < 0.1  # flexmix was there itself
    first = next((i + 1 for i, s in enumerate(scores) if s >= top - 1e-3), 0)
    return {
        "best": top,
        "flexmix": top - case["flexmix_loglik"],
        "exact": top - (case["exact_ml_loglik"] or np.nan),
        "reached": f"{reached}/{n_init}",
        "first": first,
        "seconds": seconds,
        "apart": "{:.4f}, {:.4f}".format(*apart(best, X, y, case, columns))
        if same
        else "",
        "times": case["cpu_seconds_per_start"] / seconds,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--only", default="")
    parser.add_argument("--grades", default="AB")
    parser.add_argument("--families", nargs="*", default=FAMILIES)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--max-iter", type=int, default=5000)
    parser.add_argument("--tol", type=float, default=1e-9)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(os.environ["SKMOE_ORACLE"])
    lines = [
        "| model | grade | best | - flexmix | - exact | starts that reach flexmix | "
        "first start at the best | flexmix's | experts, gate apart | CPU s per start | "
        "flexmix / ours |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(lines), flush=True)
    for case in json.loads((folder / "oracle.json").read_text()):
        known = case["family"] in args.families and case["grade"] in args.grades
        if not known or args.only not in case["id"]:
            continue
        starts = min(args.starts, case["starts"]) if case["n"] > 9999 else args.starts
        row = run(folder, case, starts, args.max_iter, args.tol)
        lines.append(
            f"| {case['id']} | {case['grade']} | {row['best']:.4f} "
            f"| {row['flexmix']:+.4f} | {row['exact']:+.4f} | {row['reached']} "
            f"| {row['first']} | {case['starts_that_reached_it']}/{case['starts']} "
            f"| {row['apart']} | {row['seconds']:.3f} | {row['times']:.1f} |"
        )
        print(lines[-1], flush=True)
    if args.out:
        Path(args.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
