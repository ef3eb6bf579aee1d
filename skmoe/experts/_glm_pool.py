"""All log-linear experts, by warm-started Newton steps."""

from __future__ import annotations

import copy
from numbers import Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from scipy.special import gammaln
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import GammaRegressor, PoissonRegressor

from ..backends import Array, like, namespace, select, to_host
from ..likelihoods import Poisson
from ..routing import Block, Routing, Table, deviations, no_less
from ..solvers import expected_gain, newton_of_blocks, solve_ridge
from ._base import host_rows
from ._coefficient_pool import CoefficientPool

MAX_FEATURES = 512
"""Above this many features a Newton step costs more than an iterative solver."""

FEW_FEATURES = 255
"""Of so many features, at most, second moments of all experts are cheap."""

FIT_STEPS = 100
UPDATE_STEPS = 3
"""Most Newton steps from scratch, and in an M-step."""

TOL = 1e-10
"""Newton decrement, mean per row, at which a fit has converged."""

HALVINGS = 30
"""Most times that a step that raises the loss is halved."""

MOST = 80.0
"""Largest logarithm of a mean: beyond it float32 overflows."""


class GLMPool(CoefficientPool):
    """PoissonRegressor and GammaRegressor experts that answer as their clones would.

    Each expert minimises ``Σ w loss / Σ w + ½ α ‖β‖²`` over its rows by Newton's
    method: to convergence from scratch, and by a few steps from where it stands in an
    M-step. As in `LinearPool`, rows of tiny responsibility count, so EM is monotone.
    """

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether the learner is a plain PoissonRegressor or GammaRegressor."""
        if type(estimator) not in (PoissonRegressor, GammaRegressor):
            return False
        return isinstance(estimator.alpha, Real) and n_features <= MAX_FEATURES

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit every expert to convergence; an empty share means all rows."""
        for learner in self.learners:
            learner._validate_params()
        if y.shape[1] != 1:
            raise ValueError(
                f"expert {self.learners[0]!r} takes y of one output; got {y.shape[1]}."
            )
        shape = (self.n_experts, 1, X.shape[1])
        self.coef = np.zeros(shape)
        self.intercept = np.full(shape[:2], np.nan)
        pooled = Routing.from_dense(self.learnable(routing)[:, None])
        for k in self._solve(X, y, routing, FIT_STEPS):
            self._solve_expert(k, X, y, *pooled.segment(0), FIT_STEPS)
        self.intercept[np.isnan(self.intercept)] = -MOST / 4  # there are no rows
        return self

    def _improve(self, X: Array, y: Array, routing: Routing) -> None:
        self._solve(X, y, routing, UPDATE_STEPS)

    def _solve(self, X: Array, y: Array, routing: Routing, n_steps: int) -> list[int]:
        """Fit the experts that have rows; return those that have none."""
        return [
            k
            for k, rows, mass in self.taught(routing).segments()
            if not self._solve_expert(k, X, y, rows, mass, n_steps)
        ]

    def _solve_expert(
        self, k: int, X: Array, y: Array, rows: Array | None, mass: Array, n_steps: int
    ) -> bool:
        """Take Newton steps of one expert; False if it has no rows."""
        mass = to_host(mass).astype(np.float64)
        if not mass.sum() > 0:
            return False
        target = host_rows(y, rows) + self.likelihood.origin_
        x = host_rows(X, rows)
        target = target[:, 0]
        learner = self.learners[k]
        center = np.zeros(x.shape[1])
        if learner.fit_intercept and not sparse.issparse(x):
            x, center = centred(x, mass)
        start = np.append(self.coef[k, 0], self.intercept[k, 0])
        start[-1] += self.coef[k, 0] @ center
        if np.isnan(start[-1]):
            level = max(float(np.average(target, weights=mass)), np.exp(-MOST / 4))
            start[-1] = np.log(level) if learner.fit_intercept else 0.0
        params = newton(
            x,
            target.astype(np.float64),
            mass / mass.sum(),
            alpha=float(learner.alpha),
            intercept=learner.fit_intercept,
            loss=LOSSES[type(learner)],
            start=start,
            n_steps=n_steps,
        )
        self.coef[k, 0] = params[:-1]
        self.intercept[k, 0] = params[-1] - params[:-1] @ center
        return True

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the predictions."""
        return self.predict(X, routing)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction, (n, m, 1)."""
        indices = None if routing.dense else routing.indices
        eta = select(X).linear_at(X, indices, self.coef, self.intercept)
        xp = namespace(eta)
        mean = xp.exp(xp.where(eta < MOST, eta, xp.full_like(eta, MOST)))
        return mean - like(np.asarray(self.likelihood.origin_), mean, mean.dtype)

    # ---------------------------------------------------------- sums over rows
    # They go on from fitted experts: from further away, steps need a line search.
    first_steps = 8

    def goes_on(self, n_features: int) -> bool:
        """Tell whether the experts are Poisson regressions of counts on few columns."""
        counts = isinstance(self.likelihood, Poisson)
        kinds = {type(learner) for learner in self.learners}
        centred = all(learner.fit_intercept for learner in self.learners)
        few = n_features <= FEW_FEATURES
        return counts and kinds == {PoissonRegressor} and centred and few

    def answers(self, table: Table, block: Block) -> np.ndarray:
        """Return the means that all experts predict."""
        eta = block.values(table.inner(self.coef, self.intercept))
        return np.exp(np.clip(eta, -MOST, MOST))

    def log_density_of(self, y: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return the log probability of counts."""
        mean = answers[..., 0, :]
        return y[0] * np.log(mean) - mean - gammaln(y[0] + 1.0)

    def sums(
        self,
        block: Block,
        y: np.ndarray,
        answers: np.ndarray,
        mass: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Return gradient and curvature of each expert, and its mass."""
        steep = mass * answers[..., 0, :]
        gradient = block.sums(mass * y[0] - steep)
        curvature = block.curvature(steep, self.n_experts)
        return gradient, *curvature, mass.sum(axis=-1)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[Self, np.ndarray]:
        """Return a pool in which each expert took a damped Newton step."""
        gradient, moments, squares, mass = sums
        params = table.inner(self.coef, self.intercept)
        alpha = np.array([float(learner.alpha) for learner in self.learners])
        ridge = np.zeros((self.n_experts, params.shape[-1]))
        ridge[:, :-1] = (alpha * mass)[:, None] / table.scale**2
        slope = gradient[:, None, :]
        bend = no_less(moments, squares)[:, None, :, :]
        penalised = slope - ridge[:, None, :] * params
        step = newton_of_blocks(penalised, bend, ridge, np.maximum(mass, 1.0))
        moves = (mass > 0) & (expected_gain(step, slope, ridge, params) >= 0)
        part = np.where(moves, damping, 0.0)
        other = copy.copy(self)
        new = params + part[:, None, None] * step
        other.coef, other.intercept = table.outer(new)
        return other, moves.sum(axis=-1)

    def estimators(self) -> list[Any]:
        """Return fitted PoissonRegressor or GammaRegressor objects."""
        fitted = []
        for k, learner in enumerate(self.learners):
            # A fit to two equal rows sets all attributes that predict needs.
            blank = np.zeros((2, self.coef.shape[2])), np.ones(2)
            expert = clone(learner).fit(*blank)
            expert.coef_, expert.intercept_ = self.coef[k, 0], self.intercept[k, 0]
            fitted.append(expert)
        return self.whole(fitted)

    def count_parameters(self) -> int:
        """Return the number of coefficients and intercepts."""
        intercepts = sum(bool(learner.fit_intercept) for learner in self.learners)
        return self.coef.size + intercepts


def poisson_loss(
    y: np.ndarray, eta: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return μ - y η, and its first and second derivative by η = log μ."""
    mean = np.exp(eta)
    return mean - y * eta, mean - y, mean


def gamma_loss(
    y: np.ndarray, eta: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y / μ + η, and its first and second derivative by η = log μ."""
    ratio = y * np.exp(-eta)
    return ratio + eta, 1.0 - ratio, ratio


LOSSES = {PoissonRegressor: poisson_loss, GammaRegressor: gamma_loss}


def newton(x, y, weight, *, alpha, intercept, loss, start, n_steps) -> np.ndarray:
    """Minimise Σ w loss(y, x β + b) + ½ α ‖β‖² from a start by damped Newton steps.

    Parameters
    ----------
    x : (n, d) array or CSR
    y, weight : (n,) arrays
        Weights sum to one.
    alpha : float
    intercept : bool
        Whether b is free.
    loss : callable
        ``loss(y, eta)`` returns the loss and its first two derivatives.
    start : (d + 1,) array
        β and then b.
    n_steps : int
        Most steps.

    Returns
    -------
    (d + 1,) array
    """
    penalty = np.append(np.full(x.shape[1], alpha), 0.0)

    def terms(at: np.ndarray) -> tuple:
        with np.errstate(over="ignore", invalid="ignore"):
            value, first, second = loss(y, x @ at[:-1] + at[-1])
            total = weight @ value + 0.5 * at @ (penalty * at)
        return total if np.isfinite(total) else np.inf, first, second

    at = start
    value, first, second = terms(start)
    for _ in range(n_steps):
        slope, curve = weight * first, weight * second
        gradient = np.append(x.T @ slope, slope.sum()) + penalty * at
        cross = x.T @ curve
        scaled = (
            x.multiply(curve[:, None])
            if hasattr(x, "multiply")
            else (x * curve[:, None])
        )
        square = x.T @ scaled
        square = square.toarray() if hasattr(square, "toarray") else square
        hessian = np.block([[square, cross[:, None]], [cross[None, :], curve.sum()]])
        hessian = hessian + np.diag(penalty)
        if not intercept:
            gradient = gradient[:-1]
            hessian = hessian[:-1, :-1]
        step = _direction(hessian, gradient)
        step = step if intercept else np.append(step, 0.0)
        decrement = -float(gradient @ step[: len(gradient)])
        if not decrement > TOL:
            break
        size = 1.0
        for _ in range(HALVINGS):
            new = terms(at + size * step)
            if new[0] <= value - 1e-4 * size * decrement:
                break
            size /= 2
        else:
            break
        at = at + size * step
        value, first, second = new
    return at


def _direction(hessian: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Return Newton's step, the shortest one if the Hessian is singular."""
    return -solve_ridge(hessian, gradient[:, None], 0.0)[:, 0]


def centred(x: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return dense rows minus their weighted mean, and the mean.

    Columns that are constant up to rounding become zero.
    """
    mean, variance = select(x).weighted_moments(x, mass)
    return (x - mean) * (deviations(mean, variance) > 0), mean
