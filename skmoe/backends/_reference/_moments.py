"""Weighted sums, moments and normal equations of X, accumulated in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .._compat import Array, device_of, namespace, to_host
from ._rows import row_blocks, take_rows

ENTRIES = 2**16
"""Entries of CSR whose moments are taken at a time."""


def weighted_moments(X: Array, weights: Array) -> tuple[Array, Array]:
    """Return the weighted mean and variance of each column, in float64.

    Variances are taken about the mean in a second pass, so large offsets do not
    cancel. ``X`` may be CSR; it is not densified.
    """
    xp = namespace(X, weights)
    w = xp.astype(weights, xp.float64)
    total = xp.sum(w)
    if hasattr(X, "tocsr"):
        mean = (X.T @ w) / total
        squares, present = np.zeros_like(mean), np.zeros_like(mean)
        for columns, values, mass in _entry_blocks(X, w):
            squares += _sums(columns, mass * (values - mean[columns]) ** 2, len(mean))
            present += _sums(columns, mass, len(mean))
        absent = np.maximum(total - present, 0.0)
        return mean, (squares + absent * mean**2) / total
    mean = xp.zeros(X.shape[1], dtype=xp.float64, device=device_of(w))
    var = xp.zeros(X.shape[1], dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        mean = mean + w[rows] @ xp.astype(X[rows, :], xp.float64)
    mean = mean / total
    for rows in row_blocks(*X.shape):
        var = var + w[rows] @ (xp.astype(X[rows, :], xp.float64) - mean) ** 2
    return mean, var / total


def _entry_blocks(X: Array, w: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield columns, values and weights of the entries of CSR, some rows at a time.

    Squares of all entries at once would take several times the memory of X.
    """
    n, step = X.shape[0], max(1, ENTRIES * X.shape[0] // max(1, X.nnz))
    for first in range(0, n, step):
        bounds = X.indptr[first : first + step + 1]
        entries = slice(bounds[0], bounds[-1])
        mass = np.repeat(w[first : first + step], np.diff(bounds))
        yield X.indices[entries], X.data[entries].astype(np.float64), mass


def _sums(columns: Array, values: Array, n_columns: int) -> Array:
    return np.bincount(columns, values, minlength=n_columns)


def column_sums(X: Array, weights: Array) -> Array:
    """Return Σ_i w_ik [x_i, 1] for each column k of the weights, (K, d + 1)."""
    xp = namespace(X, weights)
    if hasattr(X, "tocsr"):
        w = weights.astype(xp.float64)
        return xp.concat([X.T @ w, xp.sum(w, axis=0)[None, :]], axis=0).T
    shape = (X.shape[1] + 1, weights.shape[1])
    total = xp.zeros(shape, dtype=xp.float64, device=device_of(weights))
    for rows in row_blocks(X.shape[0], X.shape[1] + weights.shape[1]):
        w = xp.astype(weights[rows, :], xp.float64)
        mass = xp.expand_dims(xp.sum(w, axis=0), axis=0)
        block = xp.astype(X[rows, :], xp.float64)
        total = total + xp.concat([block.T @ w, mass], axis=0)
    return total.T


def segment_sums(X: Array, weights: Array, order: Array, offsets: Array) -> Array:
    """Return Σ w [x, 1] over the entries of each expert, (K, d + 1).

    ``weights`` (n, m) holds an entry's weight; ``order`` and ``offsets`` are those of
    `expert_major`.
    """
    xp = namespace(X, weights)
    flat, row_of = xp.reshape(weights, (-1,)), order // weights.shape[1]
    bounds = to_host(offsets).tolist()
    sums = [
        column_sums(
            take_rows(X, row_of[a:b]),
            xp.expand_dims(xp.take(flat, order[a:b]), axis=-1),
        )
        for a, b in pairwise(bounds)
    ]
    return xp.concat(sums, axis=0)


def gram(
    X: Array, Y: Array, weights: Array, rows: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Return the centred normal equations of one weighted least-squares fit.

    Parameters
    ----------
    X : (n, d) array or scipy CSR
    Y : (n, q) array
    weights : (n,) array, or one weight for each of ``rows``
    rows : (n_k,) array of int or None
        The rows to fit; None is all.

    Returns
    -------
    A : (d, d) array
        Σ w (x - x̄)(x - x̄)ᵀ.
    B : (d, q) array
        Σ w (x - x̄)(y - ȳ)ᵀ.
    x_mean, y_mean : (d,) and (q,) arrays
        Weighted means; zero when all weights are.
    """
    xp = namespace(X, Y, weights)
    X, Y = take_rows(X, rows), take_rows(Y, rows)
    w = xp.astype(weights, xp.float64)
    total = xp.sum(w)
    total = xp.where(total == 0, 1.0, total)
    y = xp.astype(Y, xp.float64)
    y_mean = (w @ y) / total
    wy = xp.expand_dims(w, axis=-1) * (y - y_mean)
    if hasattr(X, "tocsr"):
        x_mean = (X.T @ w) / total
        A = (X.multiply(w[:, None]).T @ X).toarray() - total * xp.linalg.outer(
            x_mean, x_mean
        )
        B = X.T @ wy - xp.linalg.outer(x_mean, xp.sum(wy, axis=0))
        return A, B, x_mean, y_mean
    d = X.shape[1]
    x_mean = xp.zeros(d, dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        x_mean = x_mean + w[rows] @ xp.astype(X[rows, :], xp.float64)
    x_mean = x_mean / total
    A = xp.zeros((d, d), dtype=xp.float64, device=device_of(w))
    B = xp.zeros((d, y.shape[1]), dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        centred = xp.astype(X[rows, :], xp.float64) - x_mean
        A = A + (centred * xp.expand_dims(w[rows], axis=-1)).T @ centred
        B = B + centred.T @ wy[rows, :]
    return A, B, x_mean, y_mean
