"""Experts: the models of p(y | x, k), all of a mixture's in one pool."""

from ._base import ExpertPool, take_rows
from ._estimator_pool import EstimatorPool
from ._likelihoods import Categorical, Gaussian
from ._linear_pool import LinearPool
from ._logistic_pool import LogisticPool
from ._registry import make_pool, register_pool

__all__ = [
    "Categorical",
    "EstimatorPool",
    "ExpertPool",
    "Gaussian",
    "LinearPool",
    "LogisticPool",
    "make_pool",
    "register_pool",
    "take_rows",
]
