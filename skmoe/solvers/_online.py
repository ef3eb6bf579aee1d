r"""Multinomial logistic regression on a stream: one damped Newton step a batch.

The curvature of the loss is that of all batches, those of old discounted:

    H ← λ H + H(batch),  w ← w - H⁻¹ ∇(batch)

This is the Newton step on the sum of the batches' quadratic models: at the minimum of
the old ones their gradient is zero, so that of the batch is all that there is. Seen
from statistics it is online natural gradient, or an extended Kalman filter [1]_.

Of the Hessian, Σ m (diag(p) - ppᵀ) ⊗ x̃x̃ᵀ, a block a class is kept: 2 Σ m p_k (1 - p_k)
x̃x̃ᵀ, which together are no smaller than it, and equal to it along the only direction
that matters where two classes meet.

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
"""Coefficients of a class change by no more than so many times their length (or 1, if
that is more): curvature far from where a class is at home says little."""

FLOOR = 1e-6
"""Smallest curvature of a direction, mean per row."""

HALVINGS = 4
"""Trials of a step that would raise the batch's own loss, each half the one before."""


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
    """Take one step; the batch's own loss does not rise.

    Parameters
    ----------
    X, mass, target_sums, center, scale, start
        The batch and the model, as `fit_softmax` has them.
    curvature : (n_classes, d + 1, d + 1) array
        Block of each class, of the standardised features and the intercept.
    rows : (n_classes,) array
        Weight of the rows that it stands for.
    ridge, pull : (d,) arrays
        Penalty on the scaled coefficients: of all those rows, and of the batch alone.
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
