"""Time ONNX graphs of fitted mixtures against their own predict, and compare answers.

Mixtures of 16 experts (20 features, top_k=2) are exported with float32 input and run by
onnxruntime on one thread: one row at a time, and a batch. Answers are compared on the
rows of the batch.

    python benchmarks/bench_onnx.py [--only latency,batch] [--quick] [--json FILE]
"""

from __future__ import annotations

import warnings

import numpy as np
import onnxruntime
from _timing import interleaved, parser, run_parts, seconds
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.onnx import to_onnx

N, D, N_EXPERTS = 4000, 20, 16
TARGET_ROW, TARGET_BATCH, TARGET_ERROR = 50e-6, 2.0, 1e-5


def models() -> dict:
    """Return fitted mixtures by name."""
    random = np.random.RandomState(0)
    X = random.standard_normal((N, D)).astype(np.float32)
    y = np.abs(X[:, 0]) + X[:, 1]
    options = {"n_experts": N_EXPERTS, "n_init": 1, "max_iter": 2, "random_state": 0}
    options["cross_fit"] = None
    forest = {"n_estimators": 20, "max_depth": 6}
    found = {"ridge": MoERegressor(**options).fit(X, y)}
    for n_classes in (3, 10):
        labels = (X @ random.standard_normal((D, n_classes))).argmax(axis=1)
        found[f"logistic, {n_classes} classes"] = MoEClassifier(**options).fit(
            X, labels
        )
    for name, learner in {
        "tree": DecisionTreeRegressor(max_depth=6),
        "forest of 20": RandomForestRegressor(**forest),
        "boosting, 50 trees": HistGradientBoostingRegressor(max_iter=50),
    }.items():
        found[name] = MoERegressor(learner, **options).fit(X, y)
    learner = RandomForestClassifier(**forest)
    found["forest of 20, 10 classes"] = MoEClassifier(learner, **options).fit(X, labels)
    return found


def pairs(n_rows: int):
    """Yield (name, predict, run of the graph) on so many rows."""
    X = np.random.RandomState(1).standard_normal((n_rows, D)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = models()
    for name, model in fitted.items():
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            to_onnx(model, X).SerializeToString(), options
        )
        predict = getattr(model, "predict_proba", model.predict)
        wanted = [session.get_outputs()[-1].name]
        yield (
            name,
            lambda predict=predict: predict(X),
            lambda session=session, wanted=wanted: session.run(wanted, {"X": X})[0],
        )


def bench(report, args, n_rows: int, repeat: int) -> list:
    lines = []
    for name, predict, run in pairs(n_rows):
        times = interleaved({"predict": predict, "onnx": run}, max(args.repeat, repeat))
        report.keep(f"{name}, {n_rows} rows", times)
        own, other = times["predict"].wall, times["onnx"].wall
        want = predict()
        worst = float(np.abs(run().reshape(want.shape) - want).max())
        lines.append([name, seconds(own), seconds(other), other / own, worst, other])
    return lines


def bench_latency(report, args) -> None:
    report.section(f"One row: d={D}, {N_EXPERTS} experts, top_k=2, float32, one thread")
    lines = [
        [name, own, other, f"≤ {seconds(TARGET_ROW)}" if name == "ridge" else ""]
        for name, own, other, *_ in bench(report, args, 1, 300)
    ]
    report.table(["experts", "predict", "onnxruntime", "target"], lines)


def bench_batch(report, args) -> None:
    n_rows = 5_000 if args.quick else 50_000
    report.section(f"{n_rows} rows: float32, predict and onnxruntime")
    lines = [
        [name, own, other, f"{ratio:.2f}", f"{worst:.1e}"]
        for name, own, other, ratio, worst, _ in bench(report, args, n_rows, 3)
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


PARTS = {"latency": bench_latency, "batch": bench_batch}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS)
