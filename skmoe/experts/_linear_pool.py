"""All ridge experts at once, from grouped Gram matrices."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LinearRegression, Ridge

from ..backends import Array, namespace, select, to_host, total_of
from ..likelihoods import Gaussian, Likelihood
from ..routing import Block, Moments, Routing, Table, deviations
from ..solvers import SINGULAR, ridge_by_rows, solve_ridge, without_constants
from ._base import Seen, host_rows, share_sums, shares
from ._coefficient_pool import CoefficientPool

MAX_FEATURES = 4096
"""Above this many features a Gram matrix costs more than an iterative solver."""

ROUNDING = 1e-9
"""A standardised direction of smaller squared length counts as zero."""

LARGEST = 1e30
"""Largest penalty: it makes coefficients zero."""

HALF_LOG_2PI = float(0.5 * np.log(2.0 * np.pi))

FEW_FEATURES = 255
"""Of so many columns, at most, second moments are cheap."""


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
        if self._solve_by_rows(k, X, y, rows, weights):
            return
        sums = (to_host(a) for a in select(X).gram(X, y, weights, rows))
        self._solve_sums(k, total_of(weights), *sums)

    def _solve_by_rows(
        self, k: int, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> bool:
        """Solve an expert's dual equations, if columns are many and rows are fewer."""
        n_rows, n_features = weights.shape[0], X.shape[1]
        alpha = self.penalty(k)
        wide = n_features > max(FEW_FEATURES, n_rows)
        if not (wide and alpha > 0 and namespace(weights) is np):
            return False
        x, target = host_rows(X, rows), host_rows(y, rows)
        weights = weights.astype(np.float64)
        x_mean, variance = select(x).weighted_moments(x, weights)
        y_mean = weights @ target / weights.sum()
        if not self.learners[k].fit_intercept:
            x_mean = np.zeros(n_features)
            y_mean = np.zeros_like(y_mean) - self.likelihood.origin_
        elif (deviations(x_mean, variance) == 0)[x_mean != 0].any():
            return False  # constant columns would be rounding
        coef = ridge_by_rows(x, target, weights, alpha, x_mean, y_mean)
        if coef is None:
            return False
        self.coef[k] = coef.T
        self.intercept[k] = y_mean - self.coef[k] @ x_mean
        return True

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

    # ---------------------------------------------------------- sums over rows
    def adds_up(self, n_features: int) -> bool:
        """Tell whether noise is normal, all experts learn, and columns are few."""
        normal = isinstance(self.likelihood, Likelihood) and self.likelihood.normal
        centred = all(learner.fit_intercept for learner in self.learners)
        return normal and centred and n_features <= FEW_FEATURES

    def blank(self, table: Table, y: np.ndarray, shape: tuple[int, ...] = ()) -> Self:
        """Return a pool that has learned nothing of the rows of a table."""
        for learner in self.learners:
            learner._validate_params()
        other = copy.copy(self)
        other.intercept = np.zeros((*shape, self.n_experts, len(y)))
        other.coef = np.zeros((*other.intercept.shape, len(table.center)))
        other.center = table.center
        other.variance = table.scale**2
        other.scale = None
        return other

    def answers(self, table: Table, block: Block) -> np.ndarray:
        """Return the predictions of all experts."""
        return block.values(table.inner(self.coef, self.intercept))

    def log_density_of(self, y: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the normal log density, summed over outputs."""
        assert self.scale is not None
        z = y - answers
        z /= self.scale[..., None]
        z *= z
        peak = np.log(self.scale).sum(axis=-1) + HALF_LOG_2PI * self.scale.shape[-1]
        return -0.5 * z.sum(axis=-2) - peak[..., None]

    def sums(
        self,
        block: Block,
        y: np.ndarray,
        answers: np.ndarray,
        mass: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Return moments of [x, 1], of them with y, of y; and what `shares` counts."""
        x = block.moments(mass)
        cross = block.sums(mass[..., None, :] * y)
        square = mass @ (y**2).T
        return x, cross, square, *share_sums(mass, weights)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[Self, np.ndarray]:
        """Return a pool in which each expert solved its normal equations.

        One whose own term of the bound would fall keeps its coefficients, or its noise
        scale.
        """
        x, cross, square, rows, owned = sums
        assert isinstance(self.likelihood, Gaussian)
        mass = x[..., -1, -1]
        old = table.inner(self.coef, self.intercept)
        new = self._solutions(table, x, cross, rows, owned, old)
        squares = _squares_of(new, x, cross, square)
        before = _squares_of(old, x, cross, square)
        other = copy.copy(self)
        accepted = np.ones(mass.shape, dtype=bool)
        if self.scale is not None:
            accepted = np.sum((before - squares) / self.scale**2, axis=-1) >= 0
        params = np.where(accepted[..., None, None], new, old)
        other.coef, other.intercept = table.outer(params)
        squares = np.where(accepted[..., None], squares, before)
        other.scale = self.likelihood.scales_of(mass, squares)
        if self.scale is not None:
            better = _fit_of(other.scale, mass, squares) >= _fit_of(
                self.scale, mass, squares
            )
            other.scale = np.where(better[..., None], other.scale, self.scale)
        return other, accepted.sum(axis=-1)

    def rescaled(self, table: Table, sums: tuple[np.ndarray, ...]) -> Self:
        """Return a pool whose noise scales fit the sums."""
        x, cross, square, *_ = sums
        params = table.inner(self.coef, self.intercept)
        squares = _squares_of(params, x, cross, square)
        assert isinstance(self.likelihood, Gaussian)
        return self.with_scale(self.likelihood.scales_of(x[..., -1, -1], squares))

    def _solutions(
        self,
        table: Table,
        x: np.ndarray,
        cross: np.ndarray,
        rows: np.ndarray,
        owned: np.ndarray,
        old: np.ndarray,
    ) -> np.ndarray:
        """Return the coefficients of all experts in units of a table, (..., q, d+1)."""
        mass = x[..., -1, -1]
        there = (owned > 0) & (mass > 0)
        safe = np.where(there, mass, 1.0)[..., None]
        x_mean = x[..., -1, :-1] / safe
        y_mean = cross[..., -1] / safe
        around = x_mean[..., None, :]
        A = x[..., :-1, :-1] - safe[..., None] * x_mean[..., None] * around
        B = cross[..., :-1] - safe[..., None] * y_mean[..., None] * around
        diagonal = np.einsum("...dd->...d", A)  # a view
        variance = np.maximum(diagonal, 0.0) / safe * table.scale**2
        varies = deviations(table.center + table.scale * x_mean, variance) > 0
        factor = np.where(there, rows / np.where(there, owned, 1.0), 1.0)
        alpha = np.array([self.penalty(k) for k in range(self.n_experts)])
        diagonal += (alpha / factor)[..., None] / table.scale**2
        unit = np.sqrt(np.maximum(diagonal, 0.0))
        unit = np.divide(1.0, unit, out=np.zeros_like(unit), where=varies & (unit > 0))
        A *= unit[..., None]
        A *= unit[..., None, :]
        diagonal[...] = 1.0
        B *= unit[..., None, :]
        coef, regular = _batch_solved(A, np.swapaxes(B, -2, -1))
        coef = np.swapaxes(coef, -2, -1) * unit[..., None, :]
        intercept = y_mean - np.sum(coef * around, axis=-1)
        new = np.concatenate([coef, intercept[..., None]], axis=-1)
        new[~there] = old[~there]
        for at in zip(*np.nonzero(there & ~regular), strict=True):
            new[at] = self._singular(at[-1], table, x[at], cross[at], factor[at])
        return new

    def _singular(
        self, k: int, table: Table, x: np.ndarray, cross: np.ndarray, factor: float
    ) -> np.ndarray:
        """Return an expert's solution of least norm, in the units of a table."""
        one = copy.copy(self)
        shape = cross.shape[0], len(table.center)
        one.coef = np.zeros((self.n_experts, *shape))
        one.intercept = np.zeros((self.n_experts, shape[0]))
        mass = x[-1, -1]
        x_mean = x[-1, :-1] / mass
        y_mean = cross[:, -1] / mass
        A = x[:-1, :-1] - mass * np.outer(x_mean, x_mean)
        B = cross[:, :-1].T - mass * np.outer(x_mean, y_mean)
        A = factor * A * np.outer(table.scale, table.scale)
        B = factor * B * table.scale[:, None]
        at = table.center + table.scale * x_mean
        one._solve_sums(k, factor * mass, A, B, at, y_mean)
        return table.inner(one.coef[k], one.intercept[k])

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


def _squares_of(
    params: np.ndarray, x: np.ndarray, cross: np.ndarray, square: np.ndarray
) -> np.ndarray:
    """Return Σ w (y - μ)² of linear predictions, (..., q), from the moments."""
    explained = 2.0 * cross - params @ x
    return np.maximum(square - np.sum(explained * params, axis=-1), 0.0)


def _fit_of(scale: np.ndarray, mass: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return each expert's normal log-likelihood but for a constant, (...)."""
    terms = -mass[..., None] * np.log(scale) - 0.5 * squares / scale**2
    return terms.sum(axis=-1)


def _batch_solved(S: np.ndarray, B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solve systems with a diagonal of ones; tell which are regular."""
    try:
        pivots = np.einsum("...dd->...d", np.linalg.cholesky(S))
        regular = np.min(pivots, axis=-1, initial=1.0) ** 2 > SINGULAR
    except np.linalg.LinAlgError:
        regular = np.linalg.eigvalsh(S)[..., 0] > SINGULAR
    safe = np.where(regular[..., None, None], S, np.eye(S.shape[-1]))
    return np.linalg.solve(safe, B), regular


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
