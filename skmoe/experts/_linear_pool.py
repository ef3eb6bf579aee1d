"""All ridge experts at once, from grouped Gram matrices."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LinearRegression, Ridge

from ..backends import Array, select, to_host, total_of
from ..likelihoods import Likelihood
from ..routing import Moments, Routing
from ..solvers import solve_ridge, without_constants
from ._base import Seen, shares
from ._coefficient_pool import CoefficientPool

MAX_FEATURES = 4096
"""Above this many features a Gram matrix costs more than an iterative solver."""

ROUNDING = 1e-9
"""A standardised direction of smaller squared length counts as zero."""

LARGEST = 1e30
"""Largest penalty: it makes coefficients zero."""


class LinearPool(CoefficientPool):
    """Ridge and LinearRegression experts that answer as their clones would.

    Each expert solves the weighted normal equations of its share,
    ``(Σ w (x-x̄)(x-x̄)ᵀ + αI) β = Σ w (x-x̄)(y-ȳ)``, for all outputs at once. Rows of
    tiny responsibility count, unlike for clones: they cost nothing here and make the
    M-step exact, so EM is monotone. Columns may have any units: pivots are judged
    against the column's own variance. If the equations are singular, the answer is the
    minimum-norm solution, as in `LinearRegression`.

    Attributes
    ----------
    moments : Moments or None
        Moments of [x, y] over the remembered rows of a stream.
    rows : (n_experts,) array
        Total weight of the rows in these moments.
    pull : (n_experts, q, d) array
        The coefficients that the penalty shrinks to: zero, except for what an expert
        knew when its stream began and the remembered rows cannot explain.
    """

    moments: Moments | None = None
    rows: np.ndarray
    pull: np.ndarray

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether the learner is a plain Ridge or LinearRegression."""
        if type(estimator) not in (Ridge, LinearRegression) or estimator.positive:
            return False
        plain = type(estimator) is LinearRegression or isinstance(estimator.alpha, Real)
        return plain and n_features <= MAX_FEATURES

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Solve every expert's normal equations; an empty share means all rows."""
        for learner in self.learners:
            learner._validate_params()
        shape = (self.n_experts, y.shape[1], X.shape[1])
        self.coef = np.zeros(shape)
        self.intercept = np.zeros(shape[:2])
        moments = select(X).weighted_moments(X, routing.row_sums)
        self.center, self.variance = (to_host(each) for each in moments)
        pooled = Routing.from_dense(self.learnable(routing)[:, None])
        for k in self._solve(X, y, routing):
            if pooled.load()[0] > 0:
                self._solve_expert(k, X, y, *pooled.segment(0))
        return self

    def _improve(self, X: Array, y: Array, routing: Routing) -> None:
        self._solve(X, y, routing)

    def update_each(self, X: Array, y: Array, routings: Sequence[Routing]) -> Self:
        """Return a new pool in which each output is trained on its own routing."""
        other = copy.copy(self)
        parts = []
        assert isinstance(self.likelihood, Likelihood)
        for j, routing in enumerate(routings):
            column = slice(j, j + 1)
            one = copy.copy(self)
            one.coef, one.intercept = self.coef[:, column], self.intercept[:, column]
            one.likelihood = self.likelihood.one_output(column)
            parts.append(one.update(X, y[:, column], routing))
        other.coef = np.concatenate([part.coef for part in parts], axis=1)
        other.intercept = np.concatenate([part.intercept for part in parts], axis=1)
        return other

    def _solve(self, X: Array, y: Array, routing: Routing) -> list[int]:
        """Fit the experts that have rows; return those that have none."""
        lessons = self.taught(routing)
        factors = shares(lessons, routing.row_sums)
        for k, rows, mass in lessons.segments():
            if factors[k] > 0:
                self._solve_expert(k, X, y, rows, mass * float(factors[k]))
        return [k for k in range(self.n_experts) if factors[k] == 0]

    def _solve_expert(
        self, k: int, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> None:
        sums = (to_host(a) for a in select(X).gram(X, y, weights, rows))
        self._solve_sums(k, total_of(weights), *sums)

    def _solve_sums(
        self,
        k: int,
        total: float,
        A: np.ndarray,
        B: np.ndarray,
        x_mean: np.ndarray,
        y_mean: np.ndarray,
    ) -> None:
        """Solve an expert's normal equations; ``total`` is the weight of its rows."""
        learner = self.learners[k]
        A, B = without_constants(A, B, x_mean, total)
        if not learner.fit_intercept:
            A = A + total * np.outer(x_mean, x_mean)
            origin = self.likelihood.origin_  # the line goes through the true origin
            B = B + total * np.outer(x_mean, y_mean + origin)
            x_mean = np.zeros_like(x_mean)
            y_mean = np.zeros_like(y_mean) - origin
        self.coef[k] = solve_ridge(A, B, self.penalty(k)).T
        self.intercept[k] = y_mean - self.coef[k] @ x_mean

    def penalty(self, k: int) -> float:
        """Return alpha for weights that count rows."""
        alpha = getattr(self.learners[k], "alpha", 0.0)
        return min(alpha / self.weight_unit, max(alpha, LARGEST))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the predictions."""
        return self.predict(X, routing)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction, (n, m, q)."""
        indices = None if routing.dense else routing.indices
        return select(X).linear_at(X, indices, self.coef, self.intercept)

    def _mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's predictions, (n, q)."""
        indices = None if routing.dense else routing.indices
        return select(X).linear_mix(
            X, indices, routing.weights, self.coef, self.intercept
        )

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        if self.moments is not None:
            other.moments = self.moments.take(experts)
            other.rows, other.pull = self.rows[experts], self.pull[experts]
        return other

    # --------------------------------------------------------------- streams
    def without_stream(self) -> Self:
        """Return a pool that has forgotten the rows of a stream."""
        other = super().without_stream()
        other.moments = None
        vars(other).pop("pull", None)
        vars(other).pop("rows", None)
        return other

    @property
    def streams(self) -> np.ndarray:
        """All experts: their sums hold all that they need from a row."""
        return np.ones(self.n_experts, dtype=bool)

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> Self:
        """Return a pool that remembers rows like these; see `ExpertPool.recall`.

        It remembers y as the experts predict it, with scatter as their scales say, so a
        fit to the remembered rows gives the experts as they are.
        """
        other = super().recall(X, routing, mass)
        d = X.shape[1]
        sums = Moments.of(X, None, routing)
        # Few rows do not span the features; pseudo-rows like all rows of the fit do.
        pseudo = (d + 1) * (1.0 - np.minimum(1.0, _ratio(sums.mass, mass)))
        rows = sums.mass * np.maximum(shares(routing), 1.0) + pseudo
        spread = pseudo[:, None, None] * np.diag(self.variance)
        center = np.broadcast_to(self.center, sums.mean.shape)
        sums = sums.plus(Moments(pseudo, center, spread))
        factor = _ratio(mass, sums.mass)
        x = sums.times(factor)
        other.rows = rows * factor
        alpha = [self.penalty(k) for k in range(self.n_experts)]
        penalty = np.asarray(alpha) * _ratio(x.mass, other.rows)
        noise = np.zeros(self.coef.shape[:2]) if self.scale is None else self.scale
        squares = x.mass[:, None] * noise**2
        # A penalised expert leaves residuals that X explains, but not more than all.
        slope = penalty[:, None, None] * self.coef
        most = np.sqrt(_ratio(squares, _explained(x.scatter, slope)))
        part = np.minimum(1.0, most)[:, :, None]
        other.pull = (1.0 - part) * self.coef
        slope = np.swapaxes(part * slope, 1, 2)
        coef = np.swapaxes(self.coef, 1, 2)
        cross = x.scatter @ coef + slope
        explained = self.coef @ (x.scatter @ coef + slope)
        explained += np.swapaxes(self.coef @ slope, 1, 2)
        diagonal = np.eye(noise.shape[1]) * squares[:, None, :]
        mean = np.einsum("kqd,kd->kq", self.coef, x.mean) + self.intercept
        across = np.swapaxes(cross, 1, 2)
        scatter = np.block([[x.scatter, cross], [across, explained + diagonal]])
        mean = np.concatenate([x.mean, mean], axis=1)
        other.moments = Moments(x.mass, mean, scatter)
        return other

    def absorb(
        self, X: Array, y: Array, values: Array, routing: Routing, keep: np.ndarray
    ) -> Self:
        """Return a pool that has learned from a batch; see `ExpertPool.absorb`.

        The sums give the residuals of all rows under the new coefficients.
        """
        other = self.learn(X, y, routing, keep)
        assert other.moments is not None
        other.seen = Seen(other.moments.mass, other._squares(other.moments))
        other.scale = other.seen.scales(self.likelihood)
        return other

    def learn(self, X: Array, y: Array, routing: Routing, keep: np.ndarray) -> Self:
        """Return a pool fitted to the sums after a batch was added.

        An expert without rows in the batch keeps its coefficients, and any expert keeps
        them in directions in which the rows do not vary.
        """
        assert self.moments is not None
        batch = Moments.of(X, y, routing)
        other = self.copied()
        ratio = shares(routing)
        other.moments = sums = self.moments.times(keep).plus(batch)
        other.rows = keep * self.rows + batch.mass * np.maximum(ratio, 1.0)
        other.pull = keep[:, None, None] * self.pull
        d = self.coef.shape[2]
        for k in np.flatnonzero((ratio > 0) & (sums.mass > 0)).tolist():
            coef = self.coef[k]
            factor = other.rows[k] / sums.mass[k]
            S = sums.scatter[k]
            drawn = self.penalty(k) * (other.pull[k] - coef)
            A = factor * S[:d, :d]
            B = factor * (S[:d, d:] - S[:d, :d] @ coef.T)
            x_mean = sums.mean[k, :d]
            y_mean = sums.mean[k, d:]
            residual = y_mean - coef @ x_mean
            other._solve_sums(k, float(other.rows[k]), A, B + drawn.T, x_mean, residual)
            other.coef[k] += coef
        return other

    def _squares(self, moments: Moments) -> np.ndarray:
        """Return Σ w (y - μ)² over the remembered rows."""
        coef = self.coef
        S = moments.scatter
        d = self.coef.shape[2]
        explained = 2.0 * S[:, d:, :d] - coef @ S[:, :d, :d]
        squares = np.einsum("kqq->kq", S[:, d:, d:]) - np.sum(explained * coef, axis=2)
        at_mean = np.einsum("kqd,kd->kq", coef, moments.mean[:, :d]) + self.intercept
        shift = moments.mean[:, d:] - at_mean
        return np.maximum(squares, 0.0) + moments.mass[:, None] * shift**2

    def estimators(self) -> list[Any]:
        """Return fitted Ridge or LinearRegression objects."""
        fitted = []
        for k, learner in enumerate(self.learners):
            expert = clone(learner)
            coef = self.coef[k]
            intercept = self.intercept[k] + self.likelihood.origin_
            single = coef.shape[0] == 1
            expert.coef_ = coef[0] if single else coef
            expert.intercept_ = np.float64(0.0)
            if learner.fit_intercept:
                expert.intercept_ = intercept[0] if single else intercept
            expert.n_features_in_ = coef.shape[1]
            fitted.append(expert)
        return self.whole(fitted)

    def count_parameters(self) -> int:
        """Return the number of coefficients and intercepts."""
        intercepts = sum(bool(learner.fit_intercept) for learner in self.learners)
        return self.coef.size + intercepts * self.coef.shape[1]


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b, 0 where b is 0."""
    a, b = np.broadcast_arrays(a, b)
    return np.divide(a, b, out=np.zeros(a.shape), where=b > 0)


def _explained(scatter: np.ndarray, cross: np.ndarray) -> np.ndarray:
    """Return the sum of squares of residuals that X explains.

    ``scatter`` (n_experts, d, d) are the moments of X, ``cross`` (n_experts, q, d)
    those of X with the residuals.
    """
    scale = np.sqrt(np.einsum("kdd->kd", scatter))
    scale = np.where(scale > 0, scale, 1.0)
    unit = scatter / scale[:, :, None] / scale[:, None, :]
    unit += ROUNDING * np.eye(scatter.shape[1])
    cross = cross / scale[:, None, :]
    solved = np.linalg.solve(unit, np.swapaxes(cross, 1, 2))
    return np.einsum("kqd,kdq->kq", cross, solved)
