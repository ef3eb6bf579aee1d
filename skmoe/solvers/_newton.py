r"""Newton steps of multinomial logistic regression, from sums over rows.

The log-likelihood Σ t_k log p_k of targets t, Σ_k t_k = w, has the Hessian

    -Σ w (diag(p) - ppᵀ) ⊗ uuᵀ

whose blocks are moments M_kj = Σ w p_k p_j uuᵀ of pairs of classes: -M_kj at (k, j),
and Σ_j M_kj at (k, k). Where the pairs are too many, 2 Σ w p_k (1 - p_k) uuᵀ for each
class are no smaller than it [1]_.

References
----------
.. [1] D. Böhning, "Multinomial logistic regression algorithm", Annals of the
   Institute of Statistical Mathematics 44 (1992) 197-200. doi:10.1007/BF00048682
"""

from __future__ import annotations

import functools

import numpy as np

FLOOR = 1e-6
"""Smallest curvature of a direction, mean per row."""

LONGEST = 5.0
"""Coefficients of a class move by no more than this, or their own length if that is
more: curvature far from where rows are undecided says little."""


PAIRS = 128
"""Up to so many parameters, the curvature of all pairs of classes is cheap."""


def pairs_are_few(n_classes: int, n_columns: int) -> bool:
    """Tell whether steps are to know the curvature of all pairs of classes."""
    return n_classes == 2 or n_classes * n_columns <= PAIRS


def log_softmax_of_classes(logits: np.ndarray) -> np.ndarray:
    """Return log p of the classes of each row, (..., n_classes, n), from logits."""
    shifted = logits - logits.max(axis=-2, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-2, keepdims=True))
    return shifted


@functools.cache
def pairs_of(k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of classes, the smaller one first."""
    first, second = np.triu_indices(k, 1)
    return first, second


def products_of_pairs(mass: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return mass p_k p_j of the pairs of classes, (..., n_pairs, n).

    Parameters
    ----------
    mass, proba : (..., n_classes, n) arrays
        w p_k of each row, and p_k.
    """
    *models, k, n = proba.shape
    products = np.empty((*models, k * (k - 1) // 2, n))
    end = 0
    for first in range(k - 1):
        start, end = end, end + k - 1 - first
        one, others = mass[..., first, None, :], proba[..., first + 1 :, :]
        np.multiply(one, others, out=products[..., start:end, :])
    return products


def newton_of_pairs(
    gradient: np.ndarray, pairs: np.ndarray, ridge: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return Newton steps from the moments of all pairs of classes.

    There may be several models, along axes before those named here.

    Parameters
    ----------
    gradient : (n_classes, m) array
        Of the penalised log-likelihood.
    pairs : (n_classes (n_classes - 1) / 2, m, m) array
        Σ w p_k p_j uuᵀ of the pairs k < j, in the order of `pairs_of`.
    ridge : (m,) array
        Penalty.
    rows : float
        Weight of the rows.
    """
    *models, k, m = gradient.shape
    if k == 2:
        return _shortened(_newton_of_two(gradient, pairs[..., 0, :, :], ridge, rows))
    first, second = pairs_of(k)
    hessian = np.zeros((*models, k, k, m, m))
    hessian[..., first, second, :, :] = hessian[..., second, first, :, :] = -pairs
    diagonal = -hessian.sum(axis=-3)
    at = np.arange(m)
    diagonal[..., at, at] += _floored(ridge, rows)
    each = np.arange(k)
    hessian[..., each, each, :, :] = diagonal
    flat = np.swapaxes(hessian, -3, -2).reshape(*models, k * m, k * m)
    step = np.linalg.solve(flat, gradient.reshape(*models, k * m, 1))
    return _shortened(step.reshape(gradient.shape))


def _newton_of_two(
    gradient: np.ndarray, pair: np.ndarray, ridge: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the steps of two classes: their sum meets the penalty alone."""
    floored = _floored(ridge, rows)[..., 0, :]
    at = np.arange(pair.shape[-1])
    hessian = 2.0 * pair
    hessian[..., at, at] += floored
    first, second = gradient[..., 0, :], gradient[..., 1, :]
    total = (first + second) / floored
    between = np.linalg.solve(hessian, (first - second)[..., None])[..., 0]
    return 0.5 * np.stack([total + between, total - between], axis=-2)


def newton_of_blocks(
    gradient: np.ndarray, blocks: np.ndarray, ridge: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return steps whose curvature is a block for each class.

    Parameters
    ----------
    gradient, ridge, rows
        As `newton_of_pairs` has them.
    blocks : (n_classes, m, m) array
        2 Σ w p_k (1 - p_k) uuᵀ.
    """
    hessian = blocks.copy()
    at = np.arange(blocks.shape[-1])
    hessian[..., at, at] += _floored(ridge, rows)
    return _shortened(np.linalg.solve(hessian, gradient[..., None])[..., 0])


def expected_gain(
    step: np.ndarray, gradient: np.ndarray, ridge: np.ndarray, params: np.ndarray
) -> np.ndarray:
    """Return by how much the log-likelihood without its penalty should rise, (...,).

    That is its quadratic model at a Newton step of the penalised one.

    Parameters
    ----------
    step, params : (..., n_classes, m) arrays
    gradient : (..., n_classes, m) array
        Of the log-likelihood without its penalty.
    ridge : (..., m) array
    """
    penalty = ridge[..., None, :]
    curved = step * (gradient - penalty * params) - penalty * step**2
    return np.sum(step * gradient - 0.5 * curved, axis=(-2, -1))


def _floored(ridge: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return what the diagonals of all classes of a model gain, (1, m)."""
    return (ridge + FLOOR * np.asarray(rows)[..., None])[..., None, :]


def _shortened(step: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.sum(step**2, axis=-1, keepdims=True))
    return step * (LONGEST / np.maximum(length, LONGEST))
