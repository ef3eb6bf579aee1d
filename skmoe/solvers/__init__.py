"""Floor 1: the convex fits that gates and experts share."""

from ._online import newton_step
from ._ridge import (
    SINGULAR,
    equilibrated,
    singular_root,
    solve_ridge,
    without_constants,
)
from ._softmax import SoftmaxFit, fit_softmax, softmax_start

__all__ = [
    "SINGULAR",
    "SoftmaxFit",
    "equilibrated",
    "fit_softmax",
    "newton_step",
    "singular_root",
    "softmax_start",
    "solve_ridge",
    "without_constants",
]
