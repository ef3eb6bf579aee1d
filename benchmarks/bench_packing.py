"""Measure packed mixtures: size, loss and speed on real data.

Mixtures of linear experts are fitted to half of the rows (features standardised),
packed in each way, and judged on the other half. Sizes are those of their pickles.

    SKMOE_DATA=path/to/data python benchmarks/bench_packing.py [--quick] [--json FILE]
"""

from __future__ import annotations

import pickle
import warnings

import numpy as np
from _timing import interleaved, parser, run_parts, seconds
from real_data import loader
from sklearn.metrics import accuracy_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skmoe import MoEClassifier, MoERegressor
from skmoe.packing import pack

SETS = {"letter": 16, "optdigits": 16, "pol": 64}
"""Name and number of experts."""


def fitted(load, name: str):
    """Return (mixture, rows, targets) of a set."""
    X, y, meta = load(name)
    X = StandardScaler().fit_transform(np.asarray(X, dtype=float))
    X, X_test, y, y_test = train_test_split(X, y, train_size=0.5, random_state=0)
    kind = MoEClassifier if meta["task"] == "classification" else MoERegressor
    model = kind(
        n_experts=SETS[name], n_init=1, max_iter=5, cross_fit=None, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(X, y), X_test, y_test


def timed(models: dict, X: np.ndarray, repeat: int) -> dict:
    """Return how long each of the models takes to predict these rows."""
    return interleaved(
        {name: (lambda m=model: m.predict(X)) for name, model in models.items()},
        repeat,
    )


def bench(report, args) -> None:
    load, lines = loader(), []
    for name in SETS:
        model, X, y = fitted(load, name)
        found = {"float64": model}
        found |= {dtype: pack(model, dtype) for dtype in ("float16", "int8")}
        batch = timed(found, X, 5)
        one = timed(found, X[:1], 100)
        for dtype, each in found.items():
            classifies = hasattr(model, "classes_")
            measure = accuracy_score if classifies else root_mean_squared_error
            lines.append(
                [
                    name,
                    dtype,
                    f"{len(pickle.dumps(each)) / 1024:.0f}",
                    f"{measure(y, each.predict(X)):.4f}",
                    f"{-each.score_samples(X, y).mean():.4f}",
                    f"{batch[dtype].wall / len(X) * 1e6:.2f}",
                    seconds(one[dtype].wall),
                ]
            )
        report.keep(f"{name}, all rows", batch)
        report.keep(f"{name}, one row", one)
    report.section("Packed mixtures of linear experts")
    report.table(
        [
            "set",
            "coefficients",
            "pickle, KiB",
            "accuracy or RMSE",
            "−log p",
            "µs per row",
            "one row",
        ],
        lines,
    )


if __name__ == "__main__":
    parts = {"sets": bench}
    run_parts(parser(__doc__, parts).parse_args(), parts)
