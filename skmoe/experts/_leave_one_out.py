"""Ridge experts that judge their own rows by leave-one-out, in closed form.

The leverage of a row gives the prediction for it of a fit without it [1]_.

References
----------
.. [1] D. M. Allen, "The relationship between variable selection and data augmentation
   and a method for prediction", Technometrics 16 (1974) 125-127.
   doi:10.1080/00401706.1974.10489157
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from sklearn.base import BaseEstimator

from ..backends import Array, like, namespace, select, to_host, total_of
from ..routing import Routing
from ..solvers import SINGULAR, equilibrated, singular_root, without_constants
from ._base import ExpertPool
from ._linear_pool import LinearPool
from ._own_rows import OwnRows, forgetful, swapped, taken, together

LONE = 1.0 - 1e-6
"""A row of higher leverage counts as the only one that decides some direction of the
fit: y - ŷ and 1 - h are rounding there, and so is their ratio."""


WIDE = 128
"""With more features than this, blocks of rows get no shorter when leverages are
computed: each block reads a (d, d) matrix, which does not pay for a few rows."""


class LeaveOneOutPool(LinearPool):
    """Ridge and LinearRegression experts, judged by weighted leave-one-out.

    To leave out a row is to give it weight zero, so a row of integer weight goes with
    all its copies. The penalty and the other weights stay as they are.

    Notes
    -----
    The M-step maximises the likelihood of rows that are seen, so the likelihood of rows
    left out may fall; hence the slack.
    """

    slack = 1.0
    left: dict[int, OwnRows]

    @classmethod
    def leaves_out(cls, learner: BaseEstimator) -> bool:
        """Return True: the pool can leave out rows of any of its learners."""
        return True

    def adds_up(self, n_features: int) -> bool:
        """Return False: sums do not tell what a row left out would leave."""
        return False

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Solve every expert's normal equations; an empty share means all rows."""
        self.left = {}
        return super().fit(X, y, routing)

    def _solve(self, X: Array, y: Array, routing: Routing) -> list[int]:
        self.left = dict(self.left)  # the pool that this is a copy of keeps its own
        return super()._solve(X, y, routing)

    def _solve_expert(
        self, k: int, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> None:
        learner = self.learners[k]
        origin = self.likelihood.origin_
        fit = RidgeFit.of(
            learner.fit_intercept, self.penalty(k), X, y, rows, weights, origin
        )
        self.coef[k] = fit.coef
        self.intercept[k] = fit.intercept
        gone = together(X, y, rows, weights)
        self.left[k] = OwnRows(rows, fit.leave_one_out(X, y, rows, gone))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the predictions, for an expert's own rows by a fit without the row."""
        plain = super().evaluate(X, y, routing)
        xp = namespace(plain)
        n, _, q = plain.shape
        without_row = routing.dispatch(lambda k, rows: self.left[k].at(rows, n), q)
        return xp.where(xp.isnan(without_row), plain, without_row)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        chosen = super().swap(other, take)
        chosen.left = swapped(self.left, other.left, take)
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.left = taken(self.left, experts)
        return other

    def shrunk(
        self, pooled: ExpertPool, learner_of: np.ndarray, shrinkage: float
    ) -> ExpertPool | None:
        """Return None: only answers for left-out rows can be shrunk."""
        return None

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        return forgetful(self, LinearPool)


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """One weighted ridge fit, and the matrix that gives its leverages.

    Attributes
    ----------
    coef : (q, d) array
        β = P⁻¹B, where P = Σ w c cᵀ + αI and c = x - x̄.
    x_mean, y_mean : (d,) and (q,) arrays
        The weighted means of x and y, 0 without an intercept.
    root : (d, r) array
        R with R Rᵀ = P⁻¹.
    pull : float
        The intercept's part of a leverage: 1/Σw, 0 without an intercept.
    """

    coef: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray
    root: np.ndarray
    pull: float

    @classmethod
    def of(
        cls,
        fit_intercept: bool,
        alpha: float,
        X: Array,
        y: Array,
        rows: Array | None,
        weights: Array,
        origin: np.ndarray | float = 0.0,
    ) -> RidgeFit:
        """Return the fit of a Ridge to y + origin, minus the origin.

        With alpha 0 it is the fit of a LinearRegression.
        """
        A, B, x_mean, y_mean = (to_host(a) for a in select(X).gram(X, y, weights, rows))
        xp = namespace(weights)
        total = total_of(xp.astype(weights, xp.float64))
        pull = 1.0 / total
        A, B = without_constants(A, B, x_mean, total)
        if not fit_intercept:
            A = A + total * np.outer(x_mean, x_mean)
            B = B + total * np.outer(x_mean, y_mean + origin)
            x_mean = np.zeros_like(x_mean)
            y_mean = np.zeros_like(y_mean) - origin
            pull = 0.0
        R = inverse_root(A, alpha)
        return cls((R @ (R.T @ B)).T, x_mean, y_mean, R, pull)

    @property
    def intercept(self) -> np.ndarray:
        """The intercept of each output, (q,)."""
        return self.y_mean - self.coef @ self.x_mean

    def leave_one_out(
        self, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> Array:
        r"""Return the prediction for each row by the fit without it, (n_k, q).

        The weight of a row includes those of its copies. With z = Rᵀc and the leverage
        h = w (1/Σw + \|z\|²), the prediction is

        .. math:: \hat y - \frac{h}{1 - h} (y - \hat y).

        At h = 1 only this row decides β along v = Rz, and the other rows do not vary
        there. So their minimum-norm fit is β - t v with t = vᵀβ / vᵀv, and it predicts
        ŷ - t (1/Σw + \|z\|²). An expert of one row (v = 0) predicts ŷ.
        """
        xp = namespace(X, weights)
        r = self.root.shape[1]
        mean, level, R, beta = (
            like(a, weights, xp.float64)
            for a in (self.x_mean, self.y_mean, self.root, self.coef.T)
        )
        both = xp.concat([R, beta], axis=1)
        answers = []
        for x, target, w in _blocks(X, y, rows, weights):
            product = _centred_product(x, mean, both)
            z = product[:, :r]
            fitted = product[:, r:] + level
            size = self.pull + xp.sum(z * z, axis=1, keepdims=True)
            h = w * size
            lone = h > LONE
            h = xp.where(lone, 0.0, h)
            answer = fitted - h / (1.0 - h) * (target - fitted)
            if bool(to_host(xp.any(lone))):
                v = z @ R.T
                square = xp.sum(v * v, axis=1, keepdims=True)
                t = v @ beta / xp.where(square > 0, square, 1.0)
                answer = xp.where(lone, fitted - t * size, answer)
            answers.append(xp.astype(answer, X.dtype))
        return xp.concat(answers, axis=0)


def inverse_root(A: np.ndarray, alpha: float) -> np.ndarray:
    """Return R with R Rᵀ = (A + αI)⁻¹, the pseudo-inverse if A + αI is singular."""
    S, unit = equilibrated(A, alpha)
    try:
        U = cholesky(S)
        # The smallest pivot reveals a singular matrix that rounding would hide.
        if np.min(np.diag(U), initial=1.0) ** 2 > SINGULAR:
            return unit[:, None] * solve_triangular(U, np.eye(len(S)))
    except LinAlgError:
        pass
    return singular_root(S, unit)


def _blocks(
    X: Array, y: Array, rows: Array | None, weights: Array
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield rows of X, of y and of the weights (as a column), block by block."""
    ops = select(X)
    xp = namespace(weights)
    for block in ops.row_blocks(weights.shape[0], min(X.shape[1], WIDE)):
        x, target = (
            ops.block_of(a, block) if rows is None else ops.take_rows(a, rows[block])
            for a in (X, y)
        )
        w = xp.astype(weights[block], xp.float64)
        yield x, xp.astype(target, xp.float64), xp.expand_dims(w, axis=-1)


def _centred_product(x: Array, mean: Array, M: Array) -> Array:
    """Return (x - mean) M in float64; a CSR matrix is not densified."""
    if hasattr(x, "tocsr"):
        return x @ M - mean @ M
    xp = namespace(x)
    return (xp.astype(x, xp.float64) - mean) @ M
