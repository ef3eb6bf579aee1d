"""The CPU backend: Numba kernels where time is spent, the reference elsewhere."""

from typing import Any

from .. import _reference
from . import _operations

__all__ = list(_reference.__all__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_operations if hasattr(_operations, name) else _reference, name)
