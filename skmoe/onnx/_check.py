"""The check that a graph loads, and predicts what the model predicts."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
from scipy import sparse
from sklearn.base import is_classifier

from .._caller import level_of_caller

AGREES = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-5}
"""Largest difference that counts as rounding, in units of the largest prediction. Trees
compute in float32 in any graph."""

OTHERS = 0.1
"""Share of rows that may differ by more. Rounding can take a number across a threshold
of a tree, or a row between two experts to the other expert."""


def loaded(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Return a session of a graph on the CPU; raise if onnxruntime refuses it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def check_answers(proto: onnx.ModelProto, model: Any, X: Any) -> None:
    """Raise TypeError if a graph does not predict what the model predicts for X.

    Only warn if it differs on few rows.
    """
    try:
        answers = loaded(proto).run(None, feed(proto, X))[-1]
    except Exception as error:  # onnxruntime's errors have no class in common
        raise TypeError(
            f"{type(model).__name__} cannot be exported to ONNX: onnxruntime refuses "
            f"the graph: {str(error).splitlines()[0]}"
        ) from error
    expected = _ask(model, X).reshape(answers.shape)
    largest = np.max(np.abs(expected), initial=0.0)
    # NaN differs from all numbers, so the comparison is "not near".
    near = np.abs(answers - expected) <= AGREES[answers.dtype] * largest
    differs = ~np.all(near | (np.isnan(answers) & np.isnan(expected)), axis=1)
    if not differs.any():
        return
    message = (
        f"The ONNX graph differs from {type(model).__name__} on "
        f"{differs.sum()} of the {len(differs)} rows of X, by up to "
        f"{np.max(np.abs(answers - expected)[differs]):.2g}."
    )
    if differs.mean() > OTHERS:
        raise TypeError(
            f"{message} skl2onnx converts an expert or the gate into something else: "
            "compare skl2onnx.to_onnx(expert, X) with expert.predict(X) for each of "
            "experts_."
        )
    warnings.warn(
        f"{message} Rounding can do that next to a threshold of a tree, or between two "
        "experts that the gate finds equally probable.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def feed(proto: onnx.ModelProto, X: Any) -> dict[str, np.ndarray]:
    """Return the inputs of a graph: the rows, or each column of a data frame."""
    names = [each.name for each in proto.graph.input]
    if not hasattr(X, "columns"):
        X = X.toarray() if sparse.issparse(X) else np.asarray(X)
        return {names[0]: X}
    columns = (np.asarray(X[column])[:, None] for column in X.columns)
    return dict(zip(names, columns, strict=True))


def _ask(model: Any, X: Any) -> np.ndarray:
    """Return the expected last output of the graph."""
    if is_classifier(model):
        return model.predict_proba(X)
    answers = model.predict(X) if hasattr(model, "predict") else model.transform(X)
    return np.asarray(answers)
