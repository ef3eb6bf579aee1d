"""Scores on Dask tables: one round of sums."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array

from ._rows import computed
from ._table import Table, take, used_rows, weights_of


def accuracy_on_table(model: Any, table: Table) -> float:
    """Return the weighted share of rows whose label is predicted."""
    right, total = _summed(_right, model, table)
    return float(right / total)


def r2_on_table(model: Any, table: Table) -> float:
    """Return the coefficient of determination, mean over the outputs."""
    first, *others = _sums(_moments, model, table)
    weight, mean, spread, error = first
    for w, m, s, e in others:
        # Spreads about means are merged so that large means lose no digits.
        both = weight + w
        shift = m - mean
        spread = spread + s + shift**2 * weight * w / both
        mean = mean + shift * w / both
        weight, error = both, error + e
    constant = spread == 0
    score = 1.0 - error / np.where(constant, 1.0, spread)
    perfect = np.where(error == 0, 1.0, 0.0)
    return float(np.mean(np.where(constant, perfect, score)))


def _summed(function: Any, model: Any, table: Table) -> np.ndarray:
    return np.sum(_sums(function, model, table), axis=0)


def _sums(function: Any, model: Any, table: Table) -> list[Any]:
    from dask import delayed

    sent = delayed(model, pure=False)
    ask = delayed(function, pure=False)
    asked = [ask(sent, *part.parts) for part in table.partitions]
    found = [each for each in computed(asked) if each is not None]
    if not found:
        raise ValueError("X has no rows of positive weight to score.")
    return found


def _rows(X: Any, y: Any, weight: Any) -> tuple[Any, np.ndarray, np.ndarray] | None:
    """Return the rows of positive weight of a partition, None if it has none."""
    lengths = [each.shape[0] for each in (X, y, weight) if each is not None]
    if len(set(lengths)) > 1:
        raise ValueError(
            f"A partition of X, y and sample_weight has {tuple(lengths)} rows; they "
            "must be equal."
        )
    used = used_rows(weight, lengths[0])
    if not len(used):
        return None
    target = np.asarray(y)
    if target.ndim == 2 and target.shape[1] == 1:
        target = target[:, 0]
    w = np.ones(lengths[0]) if weight is None else weights_of(weight)
    if len(used) == lengths[0]:
        return X, target, w
    return take(X, used), target[used], w[used]


def _answers(model: Any, X: Any, target: np.ndarray) -> np.ndarray:
    """Return what a model predicts, in the shape of the targets."""
    answers = np.asarray(model.predict(X))
    if answers.ndim == 2 and answers.shape[1] == 1:
        answers = answers[:, 0]
    if answers.shape != target.shape:
        raise ValueError(
            f"y has {_columns(target)} columns, and the estimator was fitted on "
            f"{_columns(answers)}."
        )
    return answers


def _columns(values: np.ndarray) -> int:
    return 1 if values.ndim == 1 else values.shape[1]


def _right(model: Any, X: Any, y: Any, weight: Any) -> np.ndarray | None:
    rows = _rows(X, y, weight)
    if rows is None:
        return None
    X, labels, w = rows
    same = _answers(model, X, labels) == labels
    same = same.all(axis=1) if same.ndim == 2 else same
    return np.array([w @ same, w.sum()])


def _moments(model: Any, X: Any, y: Any, weight: Any) -> tuple[Any, ...] | None:
    rows = _rows(X, y, weight)
    if rows is None:
        return None
    X, target, w = rows
    target = check_array(target, dtype=np.float64, ensure_2d=False, input_name="y")
    error = w @ (target - _answers(model, X, target)) ** 2
    mean = w @ target / w.sum()
    return w.sum(), mean, w @ (target - mean) ** 2, error
