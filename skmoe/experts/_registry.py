"""Which pool trains which learner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import BaseEstimator

from ._base import ExpertPool
from ._estimator_pool import EstimatorPool
from ._frozen_pool import FrozenPool
from ._glm_pool import GLMPool
from ._linear_pool import LinearPool
from ._logistic_pool import LogisticPool

_POOLS: list[type[ExpertPool]] = [
    EstimatorPool,
    FrozenPool,
    LinearPool,
    LogisticPool,
    GLMPool,
]


def register_pool(pool: type[ExpertPool]) -> type[ExpertPool]:
    """Let `make_pool` try a pool class before those that it knows already.

    Parameters
    ----------
    pool : subclass of ExpertPool
        Its ``supports`` says which learners it trains.

    Returns
    -------
    type
        The class itself, so this serves as a decorator.
    """
    if pool not in _POOLS:
        _POOLS.append(pool)
    return pool


def make_pool(
    estimators: Sequence[BaseEstimator], *, n_features: int, **options: Any
) -> ExpertPool:
    """Return the pool that trains these learners, one an expert.

    Parameters
    ----------
    estimators : sequence of estimators
        One unfitted learner an expert.
    n_features : int
        Features that the experts see.
    **options
        Passed to the pool: likelihood, classes, seeds, n_jobs.

    Returns
    -------
    ExpertPool
        Of the class registered last that supports every learner.
    """
    for pool in reversed(_POOLS):
        if all(pool.supports(estimator, n_features) for estimator in estimators):
            return pool(estimators, **options)
    raise AssertionError("EstimatorPool supports every learner")
