"""Measure deployed mixtures: ONNX graphs, and packed linear experts.

- row, batch: mixtures of 16 experts (20 features, top_k=2) as ONNX graphs with float32
  input, run by onnxruntime on one thread, against their own predict: one row at a time,
  and a batch. Times are medians of wall time; answers are compared on the same rows.
- packing: mixtures of linear experts are fitted to half of the rows of three sets
  (features standardised), packed in each way, and judged on the other half: the size of
  the pickle in KiB, accuracy or RMSE, the negative log-likelihood per row in nats, and
  the time of predict. Sets are those of the folder named by SKMOE_DATA.

    SKMOE_DATA=path/to/data python benchmarks/bench_deployment.py
        [--only row,batch] [--quick] [--json FILE]
"""

from __future__ import annotations

import pickle
import warnings
from functools import cache, partial

import numpy as np
from _data import hinge, linear_classes, load
from _records import parser, run_parts, seconds
from _timing import interleaved
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.metrics import accuracy_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.packing import pack

# ----------------------------------------------------------------------- ONNX
N, D, N_EXPERTS = 4000, 20, 16
TARGET_ROW, TARGET_BATCH, TARGET_ERROR = 50e-6, 2.0, 1e-5


@cache
def mixtures(quick: bool) -> dict:
    """Return fitted mixtures by name, or the first two of them."""
    X, y = hinge(N, D, np.float32)
    few, many = (linear_classes(X, n_classes) for n_classes in (3, 10))
    forest = {"n_estimators": 20, "max_depth": 6}
    kinds = {
        "ridge": (MoERegressor(), y),
        "logistic, 3 classes": (MoEClassifier(), few),
        "logistic, 10 classes": (MoEClassifier(), many),
        "tree": (MoERegressor(DecisionTreeRegressor(max_depth=6)), y),
        "forest of 20": (MoERegressor(RandomForestRegressor(**forest)), y),
        "boosting, 50 trees": (
            MoERegressor(HistGradientBoostingRegressor(max_iter=50)),
            y,
        ),
        "forest of 20, 10 classes": (
            MoEClassifier(RandomForestClassifier(**forest)),
            many,
        ),
    }
    options = {"n_experts": N_EXPERTS, "n_init": 1, "max_iter": 2, "random_state": 0}
    options["cross_fit"] = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: model.set_params(**options).fit(X, target)
            for name, (model, target) in list(kinds.items())[: 2 if quick else None]
        }


def pairs(n_rows: int, quick: bool):
    """Yield (name, predict, run of the graph) on so many rows."""
    import onnxruntime

    from skmoe.onnx import to_onnx

    X = np.random.default_rng(1).standard_normal((n_rows, D), dtype=np.float32)
    for name, model in mixtures(quick).items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            to_onnx(model, X).SerializeToString(), options
        )
        predict = getattr(model, "predict_proba", model.predict)
        wanted = [session.get_outputs()[-1].name]
        yield (
            name,
            partial(predict, X),
            partial(session.run, wanted, {"X": X}),
        )


def against_graphs(report, args, n_rows: int, repeat: int) -> list:
    """Return name, both times, their ratio and the largest difference of answers."""
    lines = []
    for name, predict, run in pairs(n_rows, args.quick):
        times = interleaved({"predict": predict, "onnx": run}, max(args.repeat, repeat))
        report.keep(f"{name}, {n_rows} rows", times)
        own, other = times["predict"].wall, times["onnx"].wall
        want = predict()
        worst = float(np.abs(run()[0].reshape(want.shape) - want).max())
        lines.append([name, seconds(own), seconds(other), other / own, worst])
    return lines


def bench_row(report, args) -> None:
    report.section(f"One row: d={D}, {N_EXPERTS} experts, top_k=2, float32, one thread")
    lines = [
        [name, own, other, f"≤ {seconds(TARGET_ROW)}" if name == "ridge" else ""]
        for name, own, other, *_ in against_graphs(report, args, 1, 300)
    ]
    report.table(["experts", "predict", "onnxruntime", "target"], lines)


def bench_batch(report, args) -> None:
    n_rows = 5_000 if args.quick else 50_000
    report.section(f"{n_rows} rows: float32, predict and onnxruntime")
    lines = [
        [name, own, other, f"{ratio:.2f}", f"{worst:.1e}"]
        for name, own, other, ratio, worst in against_graphs(report, args, n_rows, 3)
    ]
    report.table(
        [
            "experts",
            "predict",
            "onnxruntime",
            f"ratio (≤ {TARGET_BATCH:g})",
            f"largest difference (≤ {TARGET_ERROR:g})",
        ],
        lines,
    )


# -------------------------------------------------------------------- packing
SETS = {"letter": 16, "optdigits": 16, "pol": 64}
"""Name and number of experts."""


def fitted(name: str):
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
        {name: partial(model.predict, X) for name, model in models.items()}, repeat
    )


def bench_packing(report, args) -> None:
    lines = []
    for name in list(SETS)[: 1 if args.quick else None]:
        model, X, y = fitted(name)
        packed = {"float64": model}
        packed |= {dtype: pack(model, dtype) for dtype in ("float16", "int8")}
        batch = timed(packed, X, 5)
        one = timed(packed, X[:1], 100)
        for dtype, each in packed.items():
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


PARTS = {"row": bench_row, "batch": bench_batch, "packing": bench_packing}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS, on_data=("packing",))
