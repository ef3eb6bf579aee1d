"""Scores on Dask tables: one round of sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._rows import computed
from ._table import Table, used_rows


def accuracy_on_table(model: Any, table: Table) -> float:
    """Return the weighted share of rows whose label is predicted."""
    right, total = _summed(_right, model, table)
    return float(right / total)


def r2_on_table(model: Any, table: Table) -> float:
    """Return the coefficient of determination, mean over the outputs."""
    weight, mean, spread, error = None, None, None, None
    for w, m, s, e in _sums(_moments, model, table):
        if weight is None:
            weight, mean, spread, error = w, m, s, e
            continue
        # Spreads about means are merged so that large means lose no digits.
        both = weight + w
        shift = m - mean
        spread = spread + s + shift**2 * weight * w / both
        mean = mean + shift * w / both
        weight, error = both, error + e
    assert spread is not None
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
    found = computed([ask(sent, *part.parts) for part in table.partitions])
    return [each for each in found if each is not None]


def _rows(X: Any, y: Any, weight: Any) -> tuple[Any, np.ndarray, np.ndarray] | None:
    if not len(used_rows(weight, X.shape[0])):
        return None
    w = np.ones(X.shape[0]) if weight is None else np.asarray(weight, dtype=float)
    return X, np.asarray(y), w


def _right(model: Any, X: Any, y: Any, weight: Any) -> np.ndarray | None:
    rows = _rows(X, y, weight)
    if rows is None:
        return None
    X, labels, w = rows
    same = model.predict(X) == labels
    same = same.all(axis=1) if same.ndim == 2 else same
    return np.array([w @ same, w.sum()])


def _moments(model: Any, X: Any, y: Any, weight: Any) -> tuple[Any, ...] | None:
    rows = _rows(X, y, weight)
    if rows is None:
        return None
    X, target, w = rows
    target = target.reshape(len(w), -1).astype(float)
    error = w @ (target - np.asarray(model.predict(X)).reshape(target.shape)) ** 2
    mean = w @ target / w.sum()
    return w.sum(), mean, w @ (target - mean) ** 2, error
