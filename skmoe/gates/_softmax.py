"""The softmax gate: multinomial logistic regression on responsibilities."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Self

import numpy as np

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, namespace, select, to_host, total_of
from ..routing import Block, Moments, Routing, Table, no_less, units
from ..solvers import (
    SoftmaxFit,
    expected_gain,
    fit_softmax,
    log_softmax_of_classes,
    newton_of_blocks,
    newton_of_pairs,
    newton_step,
    pairs_are_few,
    products_of_pairs,
    softmax_start,
)
from ._base import SurveyedGate, as_routing

ALPHAS = (1e-4, 1e-3, 1e-2, 1e-1, 1e2)
"""Values that alpha="auto" tries; the first serves if nothing is held out."""

LEAST_SHARE = 1e-12
"""Smallest probability of an expert before anything was learned."""

MOST_FEATURES = 255
MOST_EXPERTS = 64
"""Of so many features and experts, at most, second moments are cheap."""


class SoftmaxGate(SurveyedGate):
    r"""Linear gate: log p(k | x) = w_kᵀx + b_k - log Σ_j exp(w_jᵀx + b_j).

    This is the gate of Jordan and Jacobs [1]_. It cuts the input space with
    hyperplanes. For soft targets r with row weights s it minimises

    .. math:: -\frac{1}{S} \sum_i s_i \sum_k r_{ik} \log p(k | x_i)
              + \frac{\alpha}{2} \lVert \tilde W \rVert^2, \quad S = \sum_i s_i

    where :math:`\tilde W` are the coefficients of the standardised features. ``coef_``
    and ``intercept_`` refer to the original ones. Intercepts are not penalised.

    Parameters
    ----------
    alpha : float or "auto", default="auto"
        Ridge penalty per row. 0 is plain maximum likelihood; 1e-4 only keeps
        coefficients finite where the targets are separable; 0.01 to 0.1 gives smooth
        gates. "auto" takes the best of 1e-4, 1e-3, 0.01, 0.1 and 100, which all but
        ignores x, on held-out rows (``gate_.alpha``), or 1e-4 if nothing is held out.
    max_iter : int, default=200
        Most L-BFGS iterations of a fit from scratch.
    update_iter : int, default=10
        Most L-BFGS iterations of an M-step of a mixture, in which the gate starts from
        the last pass's answer.
    tol : float, default=1e-6
        L-BFGS stops when no entry of the gradient (mean per row) exceeds this.

    Attributes
    ----------
    coef_ : ndarray of shape (n_experts, n_features)
        Coefficients on the original features.
    intercept_ : ndarray of shape (n_experts,)
        Intercepts.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.
    n_iter_ : int
        L-BFGS iterations of the last fit or update.

    References
    ----------
    .. [1] M. I. Jordan and R. A. Jacobs, "Hierarchical mixtures of experts and the
       EM algorithm", Neural Computation 6 (1994) 181-214.
       doi:10.1162/neco.1994.6.2.181

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import SoftmaxGate
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> responsibilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])
    >>> gate = SoftmaxGate(alpha=0).fit(X, responsibilities)
    >>> np.exp(gate.log_proba(X)).round(2)
    array([[0.88, 0.12],
           [0.73, 0.27],
           [0.27, 0.73],
           [0.12, 0.88]])
    """

    streams = True
    choices = {"alpha": ALPHAS}
    changed_by_step = ("coef_", "intercept_")

    _parameter_constraints: dict = {
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "update_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, alpha="auto", *, max_iter=200, update_iter=10, tol=1e-6):
        self.alpha = alpha
        self.max_iter = max_iter
        self.update_iter = update_iter
        self.tol = tol

    def fit(self, X: Array, routing: Routing) -> Self:
        self._validate_params()
        routing = as_routing(routing)
        mass = routing.row_sums
        center, variance = (to_host(a) for a in select(X).weighted_moments(X, mass))
        self._center = center
        self._scale = units(center, variance)
        self.n_features_in_ = X.shape[1]
        self.n_experts_ = routing.n_experts
        sums = routing.weighted_sums(X)
        start = softmax_start(sums, X.shape[1])
        return self._solve(X, mass, sums, start, self.max_iter)

    def update(self, X: Array, routing: Routing) -> SoftmaxGate:
        # Take a few L-BFGS steps from here on new targets.
        start = SoftmaxFit(self.coef_, self.intercept_, 0, False)
        mass = routing.row_sums
        sums = routing.weighted_sums(X)
        return copy.copy(self)._solve(X, mass, sums, start, self.update_iter)

    # ------------------------------------------------------------ sums over rows
    def adds_up(self, n_features: int, n_experts: int) -> bool:
        return n_features <= MOST_FEATURES and n_experts <= MOST_EXPERTS

    def blank(self, table: Table, share: np.ndarray) -> SoftmaxGate:
        other = copy.copy(self)
        other._center = table.center
        other._scale = table.scale
        other.n_features_in_ = len(table.center)
        other.n_experts_ = share.shape[-1]
        other.coef_ = np.zeros((*share.shape, len(table.center)))
        log_share = np.log(np.maximum(share, LEAST_SHARE))
        other.intercept_ = log_share - log_share.mean(axis=-1, keepdims=True)
        other.n_iter_ = 0
        return other

    def log_proba_of(self, table: Table, block: Block) -> np.ndarray:
        logits = block.values(table.inner(self.coef_, self.intercept_))
        return log_softmax_of_classes(logits)

    def sums(
        self,
        block: Block,
        log_proba: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        # Gradient and curvature of the log-likelihood; that of all pairs of experts
        # where it is cheap, else a block for each expert.
        proba = np.exp(log_proba)
        mass = weights[..., None, :] * proba
        gradient = block.sums(targets - mass)
        k, m = gradient.shape[-2:]
        if pairs_are_few(k, m):
            bend = products_of_pairs(mass, proba)
        else:
            bend = 2.0 * mass * (1.0 - proba)
        curvature = block.curvature(bend, bend.shape[-2])
        return gradient, *curvature, weights.sum(axis=-1)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[SoftmaxGate, np.ndarray]:
        gradient, moments, squares, rows = sums
        params = table.inner(self.coef_, self.intercept_)
        k, m = params.shape[-2:]
        unit = np.append(self._scale / table.scale, 0.0)
        ridge = self._penalty() * rows[..., None] * unit**2
        slope = gradient - ridge[..., None, :] * params
        solve = newton_of_pairs if pairs_are_few(k, m) else newton_of_blocks
        step = solve(slope, no_less(moments, squares), ridge, rows)
        there = np.max(np.abs(slope), axis=(-2, -1)) <= self.tol * rows
        part = np.where(there, 0.0, damping)[..., None, None]
        other = copy.copy(self)
        other.coef_, other.intercept_ = table.outer(params + part * step)
        return other, expected_gain(step, gradient, ridge, params)

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> SoftmaxGate:
        # Remember the curvature of rows like these.
        other = copy.copy(self)
        rows = float(np.sum(mass))
        n = total_of(routing.row_sums)
        # Few rows do not span the features; pseudo-rows at the center do.
        pseudo = (X.shape[1] + 1) * (1.0 - min(1.0, n / rows))
        share = (mass / rows) * (1.0 - mass / rows)
        spread = 2.0 * pseudo * share[:, None, None] * np.eye(X.shape[1] + 1)
        factor = rows / (n + pseudo)
        other._curvature = factor * (self._bend(X, routing) + spread)
        other._seen = rows
        return other

    def absorb(self, X: Array, routing: Routing, keep: float) -> SoftmaxGate:
        # Take a damped Newton step on a batch. The curvature is that of all batches
        # that the gate remembers.
        other = copy.copy(self)
        mass = routing.row_sums
        n = total_of(mass)
        other._curvature = keep * self._curvature + self._bend(X, routing)
        other._seen = keep * self._seen + n
        d = X.shape[1]
        alpha = self._penalty()
        solution = newton_step(
            X,
            mass,
            routing.weighted_sums(X),
            curvature=other._curvature,
            rows=np.full(self.n_experts_, other._seen),
            ridge=np.full(d, alpha * other._seen),
            pull=np.full(d, alpha * n),
            center=self._center,
            scale=self._scale,
            start=SoftmaxFit(self.coef_, self.intercept_, 0, False),
        )
        other.coef_ = solution.coef
        other.intercept_ = solution.intercept
        return other

    def _bend(self, X: Array, routing: Routing) -> np.ndarray:
        """Return the curvature of Σ s log p(k | x), (n_experts, d + 1, d + 1).

        A row bends only the experts of its routing: the others are improbable.
        """
        log_proba = self.log_proba_at(X, routing)
        proba = namespace(log_proba).exp(log_proba)
        weights = 2.0 * routing.row_sums[:, None] * proba * (1.0 - proba)
        moments = Moments.of(X, None, routing.with_weights(weights))
        return moments.about(self._center, self._scale)

    def _solve(
        self, X: Array, mass: Array, sums: Array, start: SoftmaxFit, max_iter: int
    ) -> Self:
        solution = fit_softmax(
            X,
            mass,
            sums,
            ridge=np.full(X.shape[1], self._penalty()),
            center=self._center,
            scale=self._scale,
            start=start,
            max_iter=max_iter,
            tol=self.tol,
        )
        self.coef_ = solution.coef
        self.intercept_ = solution.intercept
        self.n_iter_ = solution.n_iter
        return self

    def _penalty(self) -> float:
        return ALPHAS[0] if self.alpha == "auto" else float(self.alpha)

    def log_proba(self, X: Array) -> Array:
        return select(X).softmax_log_proba(X, self.coef_, self.intercept_)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        return select(X).softmax_survey(X, self.coef_, self.intercept_, indices, top_k)

    def route(
        self, X: Array, top_k: int | None = None, top_p: float | None = None
    ) -> Routing:
        if top_p is not None or top_k is None or top_k >= self.n_experts_:
            return super().route(X, top_k, top_p)
        indices, weights = select(X).softmax_route(
            X, self.coef_, self.intercept_, top_k
        )
        return Routing(indices, weights, self.n_experts_)

    def take(self, experts: np.ndarray) -> SoftmaxGate:
        other = copy.copy(self)
        experts = np.asarray(experts)
        times = np.bincount(experts, minlength=self.n_experts_)[experts]
        other.coef_ = self.coef_[experts]
        other.intercept_ = self.intercept_[experts] - np.log(times)
        other.n_experts_ = len(experts)
        if hasattr(self, "_curvature"):
            other._curvature = self._curvature[experts] / times[:, None, None]
        return other

    @property
    def n_parameters(self) -> int:
        """Free parameters: (n_experts - 1) · (n_features + 1)."""
        return (self.n_experts_ - 1) * (self.n_features_in_ + 1)
