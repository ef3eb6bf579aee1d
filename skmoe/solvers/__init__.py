"""Floor 1: the convex fits that gates and experts share."""

from ._softmax import SoftmaxFit, fit_softmax, softmax_start

__all__ = ["SoftmaxFit", "fit_softmax", "softmax_start"]
