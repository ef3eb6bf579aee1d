"""Floor 1: `Routing`, the structure that all parts share, and rules that make it."""

from ._columns import Standard, TreeView, deviations, reciprocal, units
from ._content import bytes_of, mixed_keys, row_keys
from ._moments import Moments
from ._routing import Routing, gather
from ._rules import nucleus, within_capacity
from ._table import Block, Table, no_less

__all__ = [
    "Block",
    "Moments",
    "Routing",
    "Standard",
    "Table",
    "TreeView",
    "bytes_of",
    "deviations",
    "gather",
    "mixed_keys",
    "no_less",
    "nucleus",
    "reciprocal",
    "row_keys",
    "units",
    "within_capacity",
]
