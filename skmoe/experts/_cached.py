"""Fitted experts whose answers for some rows are kept."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..backends import Array, filled, like, namespace
from ..routing import Routing
from ._base import DerivedPool, ExpertPool

MOST = 64
"""Experts whose answers for all rows are worth keeping side by side."""


class CachedPool(DerivedPool):
    """A fitted pool that judges the rows of one table without asking experts again.

    For stages in which only the gate and the noise scales change.

    Parameters
    ----------
    pool : ExpertPool
        Fitted.
    X : container
        The table. It is told by its identity: no other can be judged.
    values : (n_samples, n_experts, q) array
        What `evaluate` says of every row and expert.
    """

    def __init__(self, pool: ExpertPool, X: Array, values: Array) -> None:
        super().__init__(pool)
        self.scale = pool.scale
        self.pool = pool
        self.X = X
        self.values = values

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return what was said of each entry."""
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
    """Return a pool that knows already what it says of these rows.

    Parameters
    ----------
    pool : ExpertPool
        Fitted. One of very many experts is returned as it is.
    X, y : (n_samples, ...) containers
    weight : (n_samples,) array
        Read for its container only.

    Returns
    -------
    ExpertPool
    """
    if pool.n_experts > MOST:
        return pool
    ones = np.ones((weight.shape[0], pool.n_experts))
    everyone = Routing.from_dense(like(ones, weight, weight.dtype))
    return CachedPool(pool, X, pool.evaluate(X, y, everyone))
