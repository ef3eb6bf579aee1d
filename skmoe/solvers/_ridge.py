"""Ridge normal equations, whatever the units of the columns."""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, qr

from ..routing import deviations, reciprocal

SINGULAR = 1e-12
"""Pivots and eigenvalues below this are rounding if the diagonal is made of ones."""

STEP = 20
"""Powers of two by which columns are rescaled for a minimum-norm solution, in which
coefficients of very different size would lose digits."""


def without_constants(
    A: np.ndarray, B: np.ndarray, x_mean: np.ndarray, total: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return centred equations in which constant columns are zero, not rounding."""
    varies = deviations(x_mean, np.diagonal(A) / (total or 1.0)) > 0
    return A * np.outer(varies, varies), B * varies[:, None]


def solve_ridge(A: np.ndarray, B: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    """Solve (A + αI) β = B; if the matrix is singular, by the minimum norm.

    There may be one α for all columns, or one per column.
    """
    S, unit = equilibrated(A, alpha)
    try:
        factor, lower = cho_factor(S)
        # The smallest pivot reveals a singular matrix that rounding would hide.
        if np.min(np.diag(factor), initial=1.0) ** 2 > SINGULAR:
            return unit[:, None] * cho_solve((factor, lower), unit[:, None] * B)
    except LinAlgError:
        pass
    R = singular_root(S, unit)
    return R @ (R.T @ B)


def equilibrated(
    A: np.ndarray, alpha: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (S, unit), where A + αI = S / (unit unitᵀ) and S has a diagonal of ones.

    The unit of a zero column is 0.
    """
    S = A.copy()
    S[np.diag_indices_from(S)] += alpha
    unit = reciprocal(np.sqrt(np.maximum(np.diagonal(S), 0.0)))
    S *= unit[:, None]
    S *= unit
    S[np.diag_indices_from(S)] = 1.0
    return S, unit


def singular_root(S: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return R with R Rᵀ the pseudo-inverse of S / (unit unitᵀ).

    Norms are those of `LinearRegression`, in the units of the columns. Columns whose
    unit is far from the usual one are rescaled in `STEP`s towards it.
    """
    values, vectors = eigh(S)
    alive = values > SINGULAR * values[-1]
    power = np.log2(np.where(unit > 0, unit, 1.0))
    usual = np.median(power[unit > 0])
    step = np.exp2(STEP * np.rint((power - usual) / STEP))
    inside = (unit / step)[:, None]
    R = inside * (vectors[:, alive] / np.sqrt(values[alive]))
    Q = qr(inside * vectors[:, ~alive], mode="economic")[0]
    return step[:, None] * (R - Q @ (Q.T @ R))
