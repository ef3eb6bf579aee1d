"""Floor 1: the structure that flows through the house, and how it is made."""

from ._columns import Standard, TreeView, deviations, reciprocal, units
from ._moments import Moments
from ._routing import Routing, gather
from ._rules import nucleus, within_capacity

__all__ = [
    "Moments",
    "Routing",
    "Standard",
    "TreeView",
    "deviations",
    "gather",
    "nucleus",
    "reciprocal",
    "units",
    "within_capacity",
]
