"""Experts whose answers are means of several models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ..backends import Array, namespace, select
from ..routing import Routing
from ._base import DerivedPool, ExpertPool
from ._linear_pool import LinearPool
from ._mean_models import kind_of_mean, mean_of


def averaged(pools: Sequence[ExpertPool]) -> ExpertPool:
    """Return the pool whose experts answer with the mean of these pools' experts.

    The mean of linear models is a linear model, so it predicts as fast as one of them.

    Parameters
    ----------
    pools : sequence of ExpertPool
        Fitted pools of the same learners.

    Returns
    -------
    ExpertPool
        A `LinearPool` if all pools are, else an `AveragedPool`. It has no scale yet.
    """
    linear = [pool for pool in pools if type(pool) is LinearPool]
    if len(linear) < len(pools):
        return AveragedPool(pools)
    mean = copy.copy(linear[0])
    mean.coef = np.mean([pool.coef for pool in linear], axis=0)
    mean.intercept = np.mean([pool.intercept for pool in linear], axis=0)
    return mean.with_scale(None)


class AveragedPool(DerivedPool):
    """A pool whose answers are the means of those of several fitted pools.

    Parameters
    ----------
    pools : sequence of ExpertPool
        Fitted pools of the same learners; expert k is the mean of their experts k.
    """

    def __init__(self, pools: Sequence[ExpertPool]) -> None:
        first = pools[0]
        super().__init__(first)
        self.pools = list(pools)

    @property
    def trained(self) -> ExpertPool:
        """The first of the pools."""
        return self.pools[0]

    def fallbacks_of(self, resp: Routing) -> dict[int, dict[int, str]]:
        """Return why experts of each pool stand on rows that they do not own."""
        reasons: dict[int, dict[int, str]] = {}
        for pool in self.pools:
            reasons |= pool.fallbacks_of(resp)
        return reasons

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return mean predictions, or the log of the label's mean probability."""
        if self.classes is None:
            return self.predict(X, routing)
        values = [pool.evaluate(X, y, routing) for pool in self.pools]
        xp = namespace(values[0])
        log_total = select(values[0]).logsumexp(xp.concat(values, axis=2))
        return xp.expand_dims(log_total - float(np.log(len(values))), axis=-1)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return the mean prediction or class probabilities at each entry."""
        return mean_of([pool.predict(X, routing) for pool in self.pools])

    def _mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's answers, as a mean over the pools."""
        return mean_of([pool._mix(X, routing) for pool in self.pools])

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.pools = [
            old.swap(new, take)
            for old, new in zip(self.pools, other.pools, strict=True)
        ]
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.pools = [pool.take(experts) for pool in self.pools]
        return other

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return means of one model each, trained on this routing.

        Several models are needed only to judge the rows that they were trained on.
        """
        other = copy.copy(self)
        other.pools = [self.pools[0].update(X, y, routing)]
        return other

    def estimators(self) -> list[Any]:
        """Return one averaged estimator per expert; a frozen model is its own mean."""
        kind = kind_of_mean(self)
        models = zip(*(pool.estimators() for pool in self.pools), strict=True)
        return [
            of_one[0] if all(one is of_one[0] for one in of_one) else kind(list(of_one))
            for of_one in models
        ]

    def count_parameters(self) -> int:
        """Return the number of free parameters of all models."""
        return sum(pool.count_parameters() for pool in self.pools)
