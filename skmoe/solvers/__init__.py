"""Floor 1: the convex fits that gates and experts share."""

from ._newton import (
    expected_gain,
    log_softmax_of_classes,
    newton_of_blocks,
    newton_of_pairs,
    pairs_are_few,
    pairs_of,
    products_of_pairs,
)
from ._online import newton_step
from ._ridge import (
    SINGULAR,
    equilibrated,
    ridge_by_rows,
    singular_root,
    solve_ridge,
    without_constants,
)
from ._softmax import SoftmaxFit, fit_softmax, softmax_start

__all__ = [
    "SINGULAR",
    "SoftmaxFit",
    "equilibrated",
    "expected_gain",
    "fit_softmax",
    "log_softmax_of_classes",
    "newton_of_blocks",
    "newton_of_pairs",
    "newton_step",
    "pairs_are_few",
    "pairs_of",
    "products_of_pairs",
    "ridge_by_rows",
    "singular_root",
    "softmax_start",
    "solve_ridge",
    "without_constants",
]
