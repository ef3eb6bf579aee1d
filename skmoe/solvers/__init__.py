"""Floor 1: the convex fits that gates and experts share."""

from ._online import newton_step
from ._softmax import SoftmaxFit, fit_softmax, softmax_start

__all__ = ["SoftmaxFit", "fit_softmax", "newton_step", "softmax_start"]
