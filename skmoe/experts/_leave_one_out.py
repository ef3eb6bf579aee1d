"""Ridge experts that judge their own rows by leave-one-out, in closed form.

The leverage of a row tells what the fit would say of it without it [1]_.

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
"""Leverage from which a row counts as the only one that decides some direction of the
fit: y - ŷ and 1 - h are rounding there, and so is their ratio."""


WIDE = 128
"""Features beyond which blocks of rows, while leverages are computed, are no shorter:
each reads a (d, d) matrix, which a few rows do not repay."""


class LeaveOneOutPool(LinearPool):
    """Ridge and LinearRegression experts, judged by weighted leave-one-out.

    To leave out a row is to give it weight zero: with an integer sample weight all of
    its copies go. The penalty and the other weights stay as they are.

    Notes
    -----
    The M-step maximises the likelihood of rows that are seen, so that of rows left out
    may fall; hence the slack.
    """

    slack = 1.0
    left: dict[int, OwnRows]

    @classmethod
    def leaves_out(cls, learner: BaseEstimator) -> bool:
        """Tell whether the pool can leave out a learner's rows: always."""
        return True

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Solve every expert's normal equations; an empty share means all rows."""
        self.left = {}
        return super().fit(X, y, routing)

    def _solve(self, X: Array, y: Array, routing: Routing) -> list[int]:
        self.left = dict(self.left)  # what this pool is a copy of keeps its own
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
        """Return the predictions, of an expert's own rows without the row."""
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
        """Return None: what is shrunk are the answers for rows left out."""
        return None

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        return forgetful(self, LinearPool)


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """One weighted ridge fit, with what its leverages are made of.

    Attributes
    ----------
    coef : (q, d) array
        β = P⁻¹B, where P = Σ w c cᵀ + αI and c = x - x̄.
    x_mean, y_mean : (d,) and (q,) arrays
        Where x and y are centred: the weighted means, 0 without an intercept.
    root : (d, r) array
        R with R Rᵀ = P⁻¹.
    pull : float
        What the intercept adds to a leverage: 1/Σw, 0 without one.
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
        """Return the fit of a Ridge to y + origin, less that.

        With alpha 0 it is that of a LinearRegression.
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
        r"""Return what the fit would say of each of its rows without it, (n_k, q).

        The weights are what goes with each row: its own and those of its copies. With
        z = Rᵀc and the leverage h = w (1/Σw + \|z\|²), that is

        .. math:: \hat y - \frac{h}{1 - h} (y - \hat y).

        At h = 1 the row alone decides β along v = Rz, of which the other rows see
        nothing, so the minimum-norm fit to these is β - t v with t = vᵀβ / vᵀv. It
        says ŷ - t (1/Σw + \|z\|²). An expert of one row (v = 0) says ŷ.
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
    """Return R with R Rᵀ = (A + αI)⁻¹, the pseudo-inverse where that is singular."""
    S, unit = equilibrated(A, alpha)
    try:
        U = cholesky(S)
        # The smallest pivot tells a singular matrix before rounding hides it.
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
