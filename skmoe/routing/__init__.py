"""Floor 1: the structure that flows through the house, and how it is made."""

from ._routing import Routing, gather
from ._rules import nucleus, within_capacity

__all__ = ["Routing", "gather", "nucleus", "within_capacity"]
