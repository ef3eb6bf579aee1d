"""Gates: the models of p(k | x) that decide which expert serves a row."""

from ._base import BaseGate
from ._constant import ConstantGate
from ._estimator import EstimatorGate
from ._frozen import FrozenGate as FrozenGate
from ._gaussian import GaussianGate
from ._group import GroupGate
from ._hierarchical import HierarchicalGate
from ._neighbors import KNeighborsGate
from ._product import ProductGate
from ._rule import RoutingRule
from ._softmax import SoftmaxGate
from ._tree import TreeGate

__all__ = [
    "BaseGate",
    "ConstantGate",
    "EstimatorGate",
    "GaussianGate",
    "GroupGate",
    "HierarchicalGate",
    "KNeighborsGate",
    "ProductGate",
    "RoutingRule",
    "SoftmaxGate",
    "TreeGate",
]
