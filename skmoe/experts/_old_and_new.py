"""Experts that stay as they are, beside experts that learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..backends import Array, namespace
from ..routing import Routing
from ._base import DerivedPool, ExpertPool, shares


def joined(fixed: ExpertPool, young: ExpertPool) -> ExpertPool:
    """Return one pool of the experts of both, of their kind if they are alike."""
    pool = JoinedPool(fixed, young)
    if type(fixed) is not type(young):
        return pool
    n_old = fixed.n_experts
    first = np.arange(pool.n_experts)
    both = fixed.take(np.where(first < n_old, first, 0))
    other = young.take(np.where(first < n_old, 0, first - n_old))
    both = both.select(other, first >= n_old)
    both.learners = pool.learners
    both.seeds = pool.seeds
    return both


class JoinedPool(DerivedPool):
    """A pool whose last experts learn, while the others stay as they are.

    Parameters
    ----------
    fixed, young : ExpertPool
        The first and the last experts.
    """

    def __init__(self, fixed: ExpertPool, young: ExpertPool) -> None:
        super().__init__(young)
        self.fixed = fixed
        self.young = young
        self.learners = [*fixed.learners, *young.learners]
        self.seeds = [*fixed.seeds, *young.seeds]
        self.n_experts = len(self.learners)
        if fixed.scale is not None and young.scale is not None:
            self.scale = np.concatenate([fixed.scale, young.scale])

    def with_scale(self, scale: np.ndarray | None) -> Self:
        """Return a pool with other noise scales; learners stay."""
        if scale is None:
            return type(self)(self.fixed.with_scale(None), self.young.with_scale(None))
        n_old = self.fixed.n_experts
        fixed = self.fixed.with_scale(scale[:n_old])
        return type(self)(fixed, self.young.with_scale(scale[n_old:]))

    def parts(self, routing: Routing) -> tuple[Routing, Routing]:
        """Return the routing to the first experts, and the routing to the last."""
        xp = namespace(routing.weights)
        n_old = self.fixed.n_experts
        indices = routing.indices
        weights = routing.weights
        old = indices < n_old
        none = xp.full_like(indices, -1)
        zero = xp.zeros_like(weights)
        first = xp.where(old, indices, none), xp.where(old, weights, zero)
        last = xp.where(old, none, indices - n_old), xp.where(old, zero, weights)
        return Routing(*first, n_old), Routing(*last, self.young.n_experts)

    def _answers(self, routing: Routing, ask: Any) -> Array:
        first, last = self.parts(routing)
        if not self.fixed.n_experts:
            return ask(self.young, last)
        if not self.young.n_experts:
            return ask(self.fixed, first)
        old, new = ask(self.fixed, first), ask(self.young, last)
        xp = namespace(old)
        return xp.where((last.indices >= 0)[:, :, None], new, old)

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a pool whose last experts are trained on this routing."""
        owned = routing.only(shares(routing) > 0)
        young = self.young.update(X, y, self.parts(owned)[1])
        return type(self)(self.fixed, young)

    def rescale(self, y: Array, values: Array, routing: Routing) -> Self:
        """Return a pool whose last noise scales fit these values."""
        young = self.young.rescale(y, values, self.parts(routing)[1])
        return type(self)(self.fixed, young)

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return each entry's answer as the likelihood reads it."""
        return self._answers(routing, lambda pool, part: pool.evaluate(X, y, part))

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's mean or class probabilities."""
        return self._answers(routing, lambda pool, part: pool.predict(X, part))

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the last experts of ``other`` where ``take`` is True."""
        return type(self)(
            self.fixed, self.young.select(other.young, take[self.fixed.n_experts :])
        )

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts; one may occur several times."""
        experts = np.asarray(experts)
        n_old = self.fixed.n_experts
        young = experts >= n_old
        back = np.flatnonzero(young[:-1] & ~young[1:]) + 1
        if back.size:
            parts = np.split(experts, back[-1:])
            other = type(self)(*(self.take(part) for part in parts))
        else:
            last = self.young.take(experts[young] - n_old)
            other = type(self)(self.fixed.take(experts[~young]), last)
        other.scale = None if self.scale is None else self.scale[experts]
        other.seen = None if self.seen is None else self.seen.take(experts)
        return other

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts."""
        last = self.parts(routing)[1]
        young = self.young.finished(X, y, last).with_scale(self.young.scale)
        return joined(self.fixed, young)

    def estimators(self) -> list[Any]:
        """Return the fitted experts."""
        return [*self.fixed.estimators(), *self.young.estimators()]

    def count_parameters(self) -> int:
        """Return the number of free parameters of the learners."""
        return self.fixed.count_parameters() + self.young.count_parameters()
