"""Compare maximum-likelihood fits with those of R's flexmix.

Reads ``oracle.json`` and its csv files from the folder named by SKMOE_ORACLE: one
row a model, with the log-likelihood that flexmix reached and the exact maximum that
L-BFGS found from there. Every model is fitted without penalties, from 20 starts, to
convergence; the table gives the log-likelihood above flexmix and above the exact
maximum, how many of the starts reached flexmix, and CPU seconds a start.

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
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import PORTFOLIO
from skmoe.gates import ConstantGate, SoftmaxGate

FAMILIES = ("gaussian", "binomial", "multinom")


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
    common = {"n_experts": case["k"], "top_k": None, "gate": gate, **options}
    if case["family"] == "gaussian":
        expert = view(columns, case["expert_features"], LinearRegression())
        return MoERegressor(expert, scale_prior=0, **common)
    expert = LogisticRegression(C=np.inf, max_iter=1000)
    return MoEClassifier(view(columns, case["expert_features"], expert), **common)


def run(folder: Path, case: dict, n_init: int, max_iter: int, tol: float) -> dict:
    X, y, columns = read(folder, case)
    reached, scores = 0, []
    started = time.process_time()
    for start in range(n_init):
        kind = PORTFOLIO[start] if start < len(PORTFOLIO) else "random"
        options = {"n_init": 1, "init": kind, "random_state": start}
        options |= {"max_iter": max_iter, "tol": tol}
        fitted = model(case, columns, options).fit(X, y)
        scores.append(float(fitted.score_samples(X, y).sum()))
        reached += scores[-1] >= case["flexmix_loglik"] - 1e-3
    seconds = (time.process_time() - started) / n_init
    best = int(np.argmax(scores))
    first = next((i + 1 for i, s in enumerate(scores) if s >= max(scores) - 1e-3), 0)
    return {
        "best": scores[best],
        "flexmix": scores[best] - case["flexmix_loglik"],
        "exact": scores[best] - (case["exact_ml_loglik"] or np.nan),
        "reached": f"{reached}/{n_init}",
        "first": first,
        "seconds": seconds,
        "times": case["cpu_seconds_per_start"] / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out")
    parser.add_argument("--only", default="")
    parser.add_argument("--grades", default="AB")
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--max-iter", type=int, default=5000)
    parser.add_argument("--tol", type=float, default=1e-9)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    folder = Path(os.environ["SKMOE_ORACLE"])
    lines = [
        "| model | grade | best | - flexmix | - exact | starts that reach flexmix | "
        "first start at the best | flexmix's | CPU s a start | flexmix / ours |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    print("\n".join(lines), flush=True)
    for case in json.loads((folder / "oracle.json").read_text()):
        known = case["family"] in FAMILIES and case["grade"] in args.grades
        if not known or args.only not in case["id"]:
            continue
        starts = min(args.starts, case["starts"]) if case["n"] > 9999 else args.starts
        row = run(folder, case, starts, args.max_iter, args.tol)
        lines.append(
            f"| {case['id']} | {case['grade']} | {row['best']:.4f} "
            f"| {row['flexmix']:+.4f} | {row['exact']:+.4f} | {row['reached']} "
            f"| {row['first']} | {case['starts_that_reached_it']}/{case['starts']} "
            f"| {row['seconds']:.3f} | {row['times']:.1f} |"
        )
        print(lines[-1], flush=True)
    if args.out:
        Path(args.out).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
