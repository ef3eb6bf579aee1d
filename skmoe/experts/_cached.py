"""Fitted experts with a cache of their answers for one table."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..backends import Array, filled, like, namespace
from ..routing import Routing
from ._base import DerivedPool, ExpertPool

MOST = 64
"""Most experts whose answers for all rows are worth keeping."""


class CachedPool(DerivedPool):
    """A fitted pool that judges the rows of one table without asking experts again.

    It serves stages in which only the gate and the noise scales change.

    Parameters
    ----------
    pool : ExpertPool
        The fitted pool.
    X : container
        The table, known by its identity: no other can be judged.
    values : (n_samples, n_experts, q) array
        The values of `evaluate` for every row and expert.
    """

    def __init__(self, pool: ExpertPool, X: Array, values: Array) -> None:
        super().__init__(pool)
        self.scale = pool.scale
        self.pool = pool
        self.X = X
        self.values = values

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the cached value of each entry."""
        assert X is self.X, "A CachedPool judges the rows of its own table alone."
        if routing.dense:
            return self.values
        xp = namespace(self.values)
        values = xp.take_along_axis(
            self.values, filled(routing.indices)[:, :, None], axis=1
        )
        absent = (routing.indices < 0)[:, :, None]
        return xp.where(absent, xp.zeros_like(values), values)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's mean or class probabilities."""
        return self.pool.predict(X, routing)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.pool = self.pool.swap(other.pool, take)
        xp = namespace(self.values)
        mask = like(take, self.values)[None, :, None]
        chosen.values = xp.where(mask, other.values, self.values)
        return chosen

    def estimators(self) -> list[Any]:
        """Return the fitted experts."""
        return self.pool.estimators()


def cached(pool: ExpertPool, X: Array, y: Array, weight: Array) -> ExpertPool:
    """Return a pool that has cached its answers for these rows.

    Parameters
    ----------
    pool : ExpertPool
        The fitted pool; with very many experts it is returned as it is.
    X, y : (n_samples, ...) containers
    weight : (n_samples,) array
        Only its container is read.

    Returns
    -------
    ExpertPool
    """
    if pool.n_experts > MOST:
        return pool
    ones = np.ones((weight.shape[0], pool.n_experts))
    everyone = Routing.from_dense(like(ones, weight, weight.dtype))
    return CachedPool(pool, X, pool.evaluate(X, y, everyone))
