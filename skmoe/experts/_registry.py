"""The registry of pools: it finds the pool that trains some learners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sklearn.base import BaseEstimator

from ._base import ExpertPool
from ._estimator_pool import EstimatorPool
from ._frozen_pool import FrozenPool
from ._glm_pool import GLMPool
from ._leave_one_out import LeaveOneOutPool
from ._linear_pool import LinearPool
from ._logistic_pool import LogisticPool
from ._out_of_bag import LeftOutPool

_POOLS: list[type[ExpertPool]] = [
    EstimatorPool,
    FrozenPool,
    LinearPool,
    LogisticPool,
    GLMPool,
]


def register_pool(pool: type[ExpertPool]) -> type[ExpertPool]:
    """Let `make_pool` try a pool class before those registered earlier.

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
    """Return the pool that trains these learners, one per expert.

    Parameters
    ----------
    estimators : sequence of estimators
        One unfitted learner per expert.
    n_features : int
        Number of features that the experts see.
    **options
        Passed to the pool: likelihood, classes, seeds, n_jobs.

    Returns
    -------
    ExpertPool
        A pool of the class registered last that supports every learner.
    """
    for pool in reversed(_POOLS):
        if all(pool.supports(estimator, n_features) for estimator in estimators):
            return pool(estimators, **options)
    raise AssertionError("EstimatorPool supports every learner")


def left_out(pool: ExpertPool) -> ExpertPool | None:
    """Return the pool that trains the same experts and judges each without its row.

    Parameters
    ----------
    pool : ExpertPool
        A pool that is not fitted yet.

    Returns
    -------
    ExpertPool or None
        None if some learner cannot leave out a row without a new fit.
    """
    judges: dict[type[ExpertPool], type[LeaveOneOutPool] | type[LeftOutPool]]
    judges = {LinearPool: LeaveOneOutPool, EstimatorPool: LeftOutPool}
    judge = judges.get(type(pool))
    if judge is None or not all(judge.leaves_out(each) for each in pool.learners):
        return None
    return judge(pool.learners, **pool.options)
