r"""Multinomial logistic regression on a stream: one damped Newton step per batch.

The curvature of the loss sums over all batches, with older ones discounted:

    H ← λ H + H(batch),  w ← w - H⁻¹ ∇(batch)

This is the Newton step on the sum of the batches' quadratic models: the old models are
at their minimum, where their gradient is zero, so only the gradient of the batch is
left. In statistics it is known as online natural gradient, or an extended Kalman filter
[1]_.

The Hessian is Σ m (diag(p) - ppᵀ) ⊗ x̃x̃ᵀ. We keep one block per class,
2 Σ m p_k (1 - p_k) x̃x̃ᵀ. Together these blocks are no smaller than the Hessian. Where
two classes meet they equal it along the only direction that matters.

References
----------
.. [1] Y. Ollivier, "Online natural gradient as a Kalman filter", Electronic Journal of
   Statistics 12 (2018) 2930-2961. doi:10.1214/18-EJS1468
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import Array, select, to_host
from ._softmax import SoftmaxFit

LONGEST = 1.0
"""Largest change of a class's coefficients, as a multiple of their length (or of 1, if
that is more): curvature says little about a class far from its own rows."""

FLOOR = 1e-6
"""Smallest curvature of a direction, mean per row."""

HALVINGS = 4
"""Most times that a step is halved because it would raise the batch's own loss."""


def newton_step(
    X: Array,
    mass: Array,
    target_sums: Array,
    *,
    curvature: np.ndarray,
    rows: np.ndarray,
    ridge: np.ndarray,
    pull: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    start: SoftmaxFit,
) -> SoftmaxFit:
    """Take one step, which does not raise the batch's own loss.

    Parameters
    ----------
    X, mass, target_sums, center, scale, start
        The batch and the model, as in `fit_softmax`.
    curvature : (n_classes, d + 1, d + 1) array
        Block of each class, over the standardised features and the intercept.
    rows : (n_classes,) array
        Weight of the rows in each block.
    ridge, pull : (d,) arrays
        Penalty on the scaled coefficients, for all those rows and for the batch.
    """
    ops = select(X)
    sums = to_host(target_sums)

    def loss(coef: np.ndarray, intercept: np.ndarray) -> tuple[Any, ...]:
        value, *grad = ops.softmax_loss(X, mass, sums, coef, intercept)
        penalty = 0.5 * float(np.sum(pull * (coef * scale) ** 2))
        return value + penalty, *(to_host(part) for part in grad)

    value, g_coef, g_intercept = loss(start.coef, start.intercept)
    grad = np.empty((len(g_coef), len(center) + 1))
    grad[:, :-1] = (g_coef - np.outer(g_intercept, center)) / scale
    grad[:, :-1] += pull * start.coef * scale
    grad[:, -1] = g_intercept

    H = curvature.copy()
    diagonal = np.einsum("kii->ki", H)  # a view
    diagonal[:, :-1] += ridge
    diagonal += FLOOR * rows[:, None] + np.finfo(np.float64).tiny
    step = np.linalg.solve(H, grad[:, :, None])[:, :, 0]
    size = np.sqrt(np.sum((start.coef * scale) ** 2, axis=1, keepdims=True))
    longest = LONGEST * np.maximum(size, 1.0)
    length = np.sqrt(np.sum(step**2, axis=1, keepdims=True))
    step *= longest / np.maximum(length, longest)
    for _ in range(HALVINGS):
        coef = start.coef - step[:, :-1] / scale
        intercept = start.intercept - step[:, -1] + (step[:, :-1] / scale) @ center
        if loss(coef, intercept)[0] <= value:
            return SoftmaxFit(coef, intercept, 1, False)
        step = 0.5 * step
    return start
