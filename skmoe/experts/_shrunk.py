"""Experts shrunk to the pooled fit: their learner, fitted on all rows."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..backends import Array, like, namespace
from ..routing import Routing
from ._base import DerivedPool, ExpertPool
from ._mean_models import kind_of_mean


def shrunk_pool(
    pool: ExpertPool, pooled: ExpertPool, learner_of: np.ndarray, shrinkage: float
) -> ExpertPool:
    """Return the pool whose experts are shrunk to their learners' pooled fits.

    Parameters
    ----------
    pool : ExpertPool
        The fitted experts.
    pooled : ExpertPool
        One expert for each distinct learner, fitted on all rows.
    learner_of : (n_experts,) array of int
        The pooled expert of each expert.
    shrinkage : float
        Weight of the pooled fit, from 0 (the expert itself) to 1 (the pooled fit).

    Returns
    -------
    ExpertPool
        A fitted pool with the scale of ``pool``.
    """
    if shrinkage == 0.0:
        return pool
    in_closed_form = pool.shrunk(pooled, learner_of, shrinkage)
    if in_closed_form is not None:
        return in_closed_form
    return ShrunkPool(pool, pooled, learner_of, shrinkage)


class ShrunkPool(DerivedPool):
    r"""A pool whose answers are shrunk to those of its learners fitted on all rows.

    .. math:: \mu_k(x) = s \, b_k(x) + (1 - s) \, h_k(x)

    This holds for means and for class probabilities; h is the expert, and b its learner
    fitted on all rows [1]_. Both are fitted already: the pool judges and predicts.
    Frozen experts stay as they are.

    Parameters
    ----------
    pool : ExpertPool
        The experts h.
    pooled : ExpertPool
        The fits b, one for each distinct learner.
    learner_of : (n_experts,) array of int
        The pooled expert of each expert.
    shrinkage : float
        The weight s of the pooled fit, in (0, 1].

    References
    ----------
    .. [1] A. Gelman and J. Hill, "Data analysis using regression and
       multilevel/hierarchical models", Cambridge University Press (2007), ch. 12.
    """

    def __init__(
        self,
        pool: ExpertPool,
        pooled: ExpertPool,
        learner_of: np.ndarray,
        shrinkage: float,
    ) -> None:
        super().__init__(pool)
        self.scale = pool.scale
        self.pool = pool
        self.pooled = pooled
        self.learner_of = learner_of
        self.shrinkage = shrinkage
        self.shrinkages = np.where(pool.frozen, 0.0, shrinkage)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.pool = self.pool.swap(other.pool, take)
        return chosen

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return shrunk predictions, or log probabilities of each row's label."""
        base = self._at(routing, self.pooled.evaluate(X, y, self._everyone(routing)))
        if self.shrinkages.min() == 1.0:
            return base
        expert = self.pool.evaluate(X, y, routing)
        if self.classes is None:
            return self._shrink(base, expert, routing)
        xp = namespace(expert)
        return xp.log(self._shrink(xp.exp(base), xp.exp(expert), routing))

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's mean or class probabilities."""
        base = self._at(routing, self.pooled.predict(X, self._everyone(routing)))
        if self.shrinkages.min() == 1.0:
            return base
        return self._shrink(base, self.pool.predict(X, routing), routing)

    def _shrink(self, base: Array, own: Array, routing: Routing) -> Array:
        part: Any = self.shrinkage
        if self.shrinkages.min() != self.shrinkage:
            part = like(routing.lookup(self.shrinkages), own, own.dtype)[:, :, None]
        return part * base + (1.0 - part) * own

    def _everyone(self, routing: Routing) -> Routing:
        """Return the routing of all rows to the pooled learners of the experts."""
        used = np.unique(self.learner_of)
        n_pooled = self.pooled.n_experts
        ones = np.ones((routing.shape[0], len(used)))
        all_used = Routing.from_dense(
            like(ones, routing.weights, routing.weights.dtype)
        )
        if len(used) == n_pooled:
            return all_used
        indices = like(used, routing.indices)[all_used.indices]
        return Routing(indices, all_used.weights, n_pooled)

    def _at(self, routing: Routing, base: Array) -> Array:
        """Return pooled values (n, u, q) at the entries of a routing, (n, m, q)."""
        xp = namespace(base)
        place = np.unique(self.learner_of, return_inverse=True)[1]
        which = routing.lookup(like(place, routing.indices))
        values = xp.take_along_axis(base, which[:, :, None], axis=1)
        absent = (routing.indices < 0)[:, :, None]
        return xp.where(absent, xp.zeros_like(values), values)

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.pool = self.pool.take(experts)
        other.learner_of = self.learner_of[experts]
        other.shrinkages = self.shrinkages[experts]
        return other

    # --------------------------------------------------------------- streams
    @property
    def streams(self) -> np.ndarray:
        """Experts that stream, if their pooled fits do too."""
        return self.pool.streams & self.pooled.streams[self.learner_of]

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> Self:
        """Return a pool that remembers rows like these; see `ExpertPool.recall`."""
        other = super().recall(X, routing, mass)
        everyone = self._everyone(routing).scaled(routing.row_sums)
        all_of_it = np.full(self.pooled.n_experts, mass.sum())
        other.pool = self.pool.recall(X, routing, mass)
        other.pooled = self.pooled.recall(X, everyone, all_of_it)
        return other

    def learn(self, X: Array, y: Array, routing: Routing, keep: np.ndarray) -> Self:
        """Return a pool in which experts and pooled fits have learned from a batch."""
        other = copy.copy(self)
        everyone = self._everyone(routing)
        everyone = everyone.scaled(routing.row_sums)
        other.pool = self.pool.learn(X, y, routing, keep)
        least = np.full(self.pooled.n_experts, keep.min())
        other.pooled = self.pooled.learn(X, y, everyone, least)
        return other

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a pool in which experts and pooled fits are trained on a routing."""
        other = copy.copy(self)
        everyone = self._everyone(routing)
        other.pool = self.pool.update(X, y, routing)
        rows = everyone.scaled(routing.row_sums)
        other.pooled = self.pooled.update(X, y, rows)
        return other

    def estimators(self) -> list[Any]:
        """Return the weighted mean of each expert and its pooled fit, as estimators."""
        learners = self.pooled.estimators()
        pooled = [learners[i] for i in self.learner_of]
        both = zip(pooled, self.pool.estimators(), self.shrinkages, strict=True)
        return [self._mean(*each) for each in both]

    def _mean(self, base: Any, own: Any, shrinkage: float) -> Any:
        if shrinkage in (0.0, 1.0):
            return base if shrinkage else own
        return kind_of_mean(self)([base, own], [shrinkage, 1.0 - shrinkage])

    def count_parameters(self) -> int:
        """Return the number of parameters of the experts and pooled fits in use."""
        count = 0 if self.shrinkages.min() == 1.0 else self.pool.count_parameters()
        return count + self.pooled.count_parameters()
