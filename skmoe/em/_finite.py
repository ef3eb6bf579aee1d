"""A check that all numbers of a mixture are finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any

import numpy as np

from ..experts import ExpertPool
from ..gates import BaseGate


def check_finite(*parts: Any) -> None:
    """Raise ValueError unless all numbers in parts of a mixture are finite.

    Parameters
    ----------
    *parts : gates, pools, data classes, arrays and numbers
        The numbers inside a pool's estimators are not checked.
    """
    for numbers in _numbers(parts):
        if not np.isfinite(numbers).all():
            raise ValueError(
                "X or y hold values so large, or so far from those before, that the "
                "mixture would not be finite. Nothing was changed: leave these rows "
                "out, or bring them to the unit of the others."
            )


def _numbers(parts: Any) -> Iterator[np.ndarray]:
    """Yield the floating-point arrays and numbers of parts."""
    for part in parts:
        if is_dataclass(part) or isinstance(part, (BaseGate, ExpertPool)):
            yield from _numbers(vars(part).values())
        elif isinstance(part, float) or getattr(part, "dtype", None) == np.float64:
            yield np.asarray(part)
