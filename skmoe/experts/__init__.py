"""Experts: the models of p(y | x, k). One pool holds all experts of a mixture."""

from ._averaged import AveragedPool, averaged
from ._base import PROBABILITY_FLOOR, DerivedPool, ExpertPool, shares, take_rows
from ._cached import MOST, CachedPool, cached
from ._coefficient_pool import CoefficientPool
from ._estimator_pool import EstimatorPool, fit_together, update_together
from ._frozen_pool import FrozenPool
from ._glm_pool import GLMPool
from ._labels import MultilabelExpert, indicator
from ._leave_one_out import LeaveOneOutPool
from ._linear_pool import LinearPool
from ._logistic_pool import LogisticPool
from ._mean_models import AveragedClassifier, AveragedRegressor
from ._noise import WIDEST, VaryingPool, spread
from ._old_and_new import JoinedPool, joined
from ._one_output import OneOutputPool
from ._out_of_bag import LeftOutPool
from ._packed import LARGEST, PackedPool
from ._registry import left_out, make_pool, register_pool
from ._shrunk import ShrunkPool, shrunk_pool

__all__ = [
    "LARGEST",
    "MOST",
    "PROBABILITY_FLOOR",
    "WIDEST",
    "AveragedClassifier",
    "AveragedPool",
    "AveragedRegressor",
    "CachedPool",
    "CoefficientPool",
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
    "cached",
    "fit_together",
    "indicator",
    "joined",
    "left_out",
    "make_pool",
    "register_pool",
    "shares",
    "shrunk_pool",
    "spread",
    "take_rows",
    "update_together",
]
