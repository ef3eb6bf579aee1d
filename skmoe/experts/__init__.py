"""Experts: the models of p(y | x, k), all of a mixture's in one pool."""

from ._averaged import (
    AveragedClassifier,
    AveragedPool,
    AveragedRegressor,
    averaged,
)
from ._base import PROBABILITY_FLOOR, DerivedPool, ExpertPool, shares, take_rows
from ._estimator_pool import EstimatorPool
from ._frozen_pool import FrozenPool
from ._glm_pool import GLMPool
from ._joined import JoinedPool, joined
from ._labels import MultilabelExpert, indicator
from ._left_out import LeaveOneOutPool, LeftOutPool, left_out
from ._linear_pool import LinearPool
from ._logistic_pool import LogisticPool
from ._one_output import OneOutputPool
from ._packed import LARGEST, PackedPool
from ._registry import make_pool, register_pool
from ._remembered import MOST, remembered
from ._shrunk import ShrunkPool, shrunk_pool
from ._varying import WIDEST, VaryingPool, spread

__all__ = [
    "LARGEST",
    "MOST",
    "PROBABILITY_FLOOR",
    "WIDEST",
    "AveragedClassifier",
    "AveragedPool",
    "AveragedRegressor",
    "DerivedPool",
    "EstimatorPool",
    "ExpertPool",
    "FrozenPool",
    "GLMPool",
    "JoinedPool",
    "LeaveOneOutPool",
    "LeftOutPool",
    "LinearPool",
    "LogisticPool",
    "MultilabelExpert",
    "OneOutputPool",
    "PackedPool",
    "ShrunkPool",
    "VaryingPool",
    "averaged",
    "indicator",
    "joined",
    "left_out",
    "make_pool",
    "register_pool",
    "remembered",
    "shares",
    "shrunk_pool",
    "spread",
    "take_rows",
]
