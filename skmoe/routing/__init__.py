"""Floor 1: the structure that flows through the house, and how it is made."""

from ._routing import Routing, gather
from ._rules import nucleus

__all__ = ["Routing", "gather", "nucleus"]
