"""Ridge normal equations, whatever the units of the columns."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import LinAlgError, cho_factor, cho_solve, eigh, qr

from ..routing import deviations, reciprocal

SINGULAR = 1e-12
"""Pivots and eigenvalues below this are rounding if the diagonal is made of ones."""

WELL_CONDITIONED = 1e8
"""With larger eigenvalues, in units of the penalty, sums over columns lose digits."""

STEP = 20
"""Powers of two by which columns are rescaled for a minimum-norm solution, in which
coefficients of very different size would lose digits."""


def without_constants(
    A: np.ndarray, B: np.ndarray, x_mean: np.ndarray, total: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return centred equations in which constant columns are zero, not rounding."""
    varies = deviations(x_mean, np.diagonal(A) / (total or 1.0)) > 0
    if varies.all():
        return A, B
    return A * np.outer(varies, varies), B * varies[:, None]


def solve_ridge(
    A: np.ndarray,
    B: np.ndarray,
    alpha: float | np.ndarray,
    *,
    overwrite_a: bool = False,
) -> np.ndarray:
    """Solve (A + αI) β = B; if the matrix is singular, by the minimum norm.

    There may be one α for all columns, or one per column. ``overwrite_a`` allows to
    use the memory of A.
    """
    S, unit = equilibrated(A, alpha, overwrite_a=overwrite_a)
    try:
        factor, lower = cho_factor(S, overwrite_a=True)  # S stays below its diagonal
        # The smallest pivot reveals a singular matrix that rounding would hide.
        if np.min(np.diag(factor), initial=1.0) ** 2 > SINGULAR:
            return unit[:, None] * cho_solve((factor, lower), unit[:, None] * B)
    except LinAlgError:
        pass
    S[np.diag_indices_from(S)] = 1.0
    R = singular_root(S, unit)
    return R @ (R.T @ B)


def ridge_by_rows(
    X: Any,
    Y: np.ndarray,
    weights: np.ndarray,
    alpha: float,
    x_mean: np.ndarray,
    y_mean: np.ndarray,
) -> np.ndarray | None:
    r"""Solve weighted ridge regression by as many equations as there are rows.

    With :math:`Z = W^{1/2} (X - \bar x)`, the solution of
    :math:`(Z^T Z + \alpha I) \beta = Z^T W^{1/2} (y - \bar y)` is
    :math:`\beta = Z^T (Z Z^T + \alpha I)^{-1} W^{1/2} (y - \bar y)`, which is cheaper
    where columns outnumber rows [1]_.

    Parameters
    ----------
    X : (n, d) array or CSR
    Y : (n, q) array
    weights : (n,) array
    alpha : float
        The penalty, above 0.
    x_mean, y_mean : (d,) and (q,) arrays
        What is taken from X and Y.

    Returns
    -------
    (d, q) array or None
        None if rounding would show, as with columns of very different units.

    References
    ----------
    .. [1] C. Saunders, A. Gammerman and V. Vovk, "Ridge regression learning algorithm
       in dual variables", ICML (1998) 515-521.
    """
    root = np.sqrt(weights)
    if sparse.issparse(X):
        Z = sparse.diags_array(root) @ X.astype(np.float64)
        offset = Z @ x_mean
        K = (Z @ Z.T).toarray() + (x_mean @ x_mean) * np.outer(root, root)
        K -= np.outer(root, offset) + np.outer(offset, root)
    else:
        Z = root[:, None] * (X - x_mean)
        K = Z @ Z.T
    if not 0.0 < np.trace(K) <= WELL_CONDITIONED * alpha:
        return None
    K[np.diag_indices_from(K)] += alpha
    dual = cho_solve(cho_factor(K), root[:, None] * (Y - y_mean))
    if sparse.issparse(X):
        return Z.T @ dual - np.outer(x_mean, root @ dual)
    return Z.T @ dual


def equilibrated(
    A: np.ndarray, alpha: float | np.ndarray, *, overwrite_a: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return (S, unit), where A + αI = S / (unit unitᵀ) and S has a diagonal of ones.

    The unit of a zero column is 0. S is in Fortran's order, as LAPACK wants it.
    """
    S = np.asfortranarray(A) if overwrite_a else np.array(A, order="F")
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
