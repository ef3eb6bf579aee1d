"""The content of rows as numbers on the host. Starts and folds depend on it alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from ..backends import Array, select, to_host
from ..routing import Standard, Table
from ..solvers import solve_ridge, without_constants

RIDGE = 1e-6
"""Penalty of the linear fit of y, in units of each column's own sum of squares."""

NEXT_TO_NOTHING = 1e-4
"""A residual below this share of y's standard deviation is rounding."""


@dataclass(frozen=True, eq=False)
class Content:
    """The content of a problem's rows; each part is computed once, when first needed.

    Attributes
    ----------
    X_gate, X_experts : (n_samples, n_features) arrays or CSR
        Features of the gate and of the experts, on any device.
    y, sample_weight : arrays
        Those of the problem.
    """

    X_gate: Array
    X_experts: Array
    y: Array
    sample_weight: Array

    def is_of(self, X_gate: Array, X: Array, y: Array, sample_weight: Array) -> bool:
        """Tell whether this is the content of these very arrays."""
        return (
            self.X_gate is X_gate
            and self.X_experts is X
            and self.y is y
            and self.sample_weight is sample_weight
        )

    @cached_property
    def X(self) -> Any:
        """The gate's features, with column means in the place of NaN."""
        sparse_X = sparse.issparse(self.X_gate)  # on the host already
        X = self.X_gate if sparse_X else to_host(self.X_gate)
        return complete(X, to_host(self.sample_weight))

    @cached_property
    def gate_table(self) -> Table:
        """What the gate sees, cut in blocks for sums over rows."""
        return Table.of(_on_host(self.X_gate), self.weight)

    @cached_property
    def table(self) -> Table:
        """What the experts see, cut in blocks for sums over rows."""
        if self.X_experts is self.X_gate:
            return self.gate_table
        return Table.of(_on_host(self.X_experts), self.weight)

    @cached_property
    def targets(self) -> np.ndarray:
        """The targets as sums read them: (q, n) in float64, or class positions."""
        y = to_host(self.y)
        return y if y.ndim == 1 else np.ascontiguousarray(y.T, dtype=np.float64)

    @cached_property
    def weight(self) -> np.ndarray:
        """The sample weights in float64."""
        return to_host(self.sample_weight).astype(np.float64)

    @cached_property
    def residual(self) -> np.ndarray:
        """The standardised residual of y's linear fit, (n_samples, n_outputs)."""
        return residual(self.X, to_host(self.y), to_host(self.sample_weight))

    def forget(self) -> None:
        """Give the memory of the residual back; it is made anew where needed."""
        vars(self).pop("residual", None)


def _on_host(X: Any) -> Any:
    return X if sparse.issparse(X) else to_host(X)


def complete(X: Any, weight: np.ndarray) -> Any:
    """Return a dense or CSR matrix with weighted column means in the place of NaN."""
    values = X.data if sparse.issparse(X) else X
    if not np.isnan(np.min(values, initial=0.0)):
        return X
    dense = X.toarray() if sparse.issparse(X) else np.asarray(X)
    missing = np.isnan(dense)
    there = np.where(missing, 0.0, weight[:, None])
    total = there.sum(axis=0)
    mean = (there * np.where(missing, 0.0, dense)).sum(axis=0)
    mean = mean / np.where(total > 0, total, 1.0)
    dense = np.where(missing, mean, dense)
    return sparse.csr_matrix(dense) if sparse.issparse(X) else dense


def numeric(X: Any) -> Any:
    """Return X as float64 if it is dense, as it is if it is CSR."""
    return X if sparse.issparse(X) else np.asarray(X, dtype=np.float64)


def residual(X: Any, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the standardised residual of y's linear fit on X, (n, q).

    Where the residual is mere rounding, as with more columns than rows, it is not
    enlarged.
    """
    if y.ndim == 1:  # class positions
        y = np.eye(int(y.max()) + 1)[y]
    y = np.asarray(y, dtype=np.float64)
    before = deviation(y, weight)
    if X.shape[1] <= 1024:
        A, B, x_mean, y_mean = select(X).gram(X, y, weight)
        A, B = without_constants(A, B, x_mean, float(weight.sum()))
        beta = solve_ridge(A, B, RIDGE * np.diagonal(A), overwrite_a=True)
        del A  # the rows' residuals need the memory
        y = y - y_mean - (X @ beta - x_mean @ beta)
    after = deviation(y, weight)
    unit = np.where(after > NEXT_TO_NOTHING * before, after, before)
    return y / np.where(unit > 0, unit, 1.0)


def deviation(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted standard deviation of each column."""
    return np.sqrt(weight @ (y - weight @ y / weight.sum()) ** 2 / weight.sum())


def standard(X: Any, weight: np.ndarray) -> Any:
    """Return X on the scale of its columns; dense X is centred too."""
    return Standard.of(X, weight).rows(X)


def ranks(score: np.ndarray) -> np.ndarray:
    """Return the rank of each row's score; scores that differ by rounding share one."""
    unit = float(np.max(np.abs(score), initial=0.0)) or 1.0
    return np.unique(np.round(score / unit, 10), return_inverse=True)[1]


def numbers(X: Any) -> Any:
    """Return the experts' features, maybe a data frame, as numbers."""
    if sparse.issparse(X):
        return X
    return np.stack([_number(column) for column in np.asarray(X).T], axis=1)


def _number(column: np.ndarray) -> np.ndarray:
    """Return a column as numbers: NaN becomes the mean, a category its position."""
    try:
        number = column.astype(np.float64)
    except (TypeError, ValueError):
        return np.unique(column.astype(str), return_inverse=True)[1]
    finite = np.isfinite(number)
    return np.where(finite, number, number[finite].mean() if finite.any() else 0.0)
