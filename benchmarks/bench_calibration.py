"""How well class probabilities are calibrated, against histogram gradient boosting.

For each set and split: gradient boosting alone, a mixture of the same learner as
experts, and a mixture of the mixed list [logistic, tree, boosting]; expected
calibration error (15 bins of the largest probability), log-loss and accuracy on the
test rows.

    SKMOE_DATA=path/to/data python benchmarks/bench_calibration.py [--splits 3]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings

import numpy as np
from sklearn.base import clone
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import ShuffleSplit
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier

ROWS = 20_000
BINS = 15


def calibration_error(proba: np.ndarray, label: np.ndarray) -> float:
    """Return the expected calibration error of the largest probability."""
    sure, right = proba.max(axis=1), proba.argmax(axis=1) == label
    where = np.minimum((sure * BINS).astype(int), BINS - 1)
    gap = np.bincount(where, right - sure, minlength=BINS)
    return float(np.abs(gap).sum() / len(label))


def learners() -> dict:
    boosting = HistGradientBoostingClassifier(random_state=0)
    mixed = [LogisticRegression(max_iter=1000), DecisionTreeClassifier(max_depth=6)]
    mixed = [*mixed, boosting, clone(boosting)]
    options = {"n_experts": 4, "random_state": 0}
    return {
        "boosting": boosting,
        "mixture of boosting": MoEClassifier(boosting, **options),
        "mixture of a mixed list": MoEClassifier(mixed, **options),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="*", default=["adult", "letter", "satimage"])
    parser.add_argument("--splits", type=int, default=3)
    args = parser.parse_args()
    sys.path.insert(0, os.environ["SKMOE_DATA"])
    from load import load

    warnings.simplefilter("ignore")
    print("| set | model | ECE | log-loss | accuracy | temperature | fit s |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name in args.sets:
        X, y, _ = load(name)
        rows = np.random.default_rng(0).permutation(len(y))[:ROWS]
        X, y = X.iloc[rows], np.unique(np.asarray(y)[rows], return_inverse=True)[1]
        found: dict = {key: [] for key in learners()}
        parts = ShuffleSplit(args.splits, test_size=0.25, random_state=0)
        for train, test in parts.split(X):
            text = make_column_selector(dtype_include=["category", object, "string"])
            table = make_column_transformer(
                (OneHotEncoder(handle_unknown="ignore", sparse_output=False), text),
                remainder=StandardScaler(),
            )
            seen = table.fit_transform(X.iloc[train]).astype(np.float64)
            new = table.transform(X.iloc[test]).astype(np.float64)
            for key, model in learners().items():
                started = time.perf_counter()
                model.fit(seen, y[train])
                seconds = time.perf_counter() - started
                proba = model.predict_proba(new)
                found[key].append(
                    (
                        calibration_error(proba, y[test]),
                        log_loss(y[test], proba, labels=np.arange(proba.shape[1])),
                        accuracy_score(y[test], proba.argmax(axis=1)),
                        getattr(model, "temperature_", np.nan),
                        seconds,
                    )
                )
        for key, scores in found.items():
            ece, loss, accuracy, cool, seconds = np.mean(scores, axis=0)
            print(
                f"| {name} | {key} | {ece:.4f} | {loss:.4f} | {accuracy:.4f} "
                f"| {cool:.2f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
