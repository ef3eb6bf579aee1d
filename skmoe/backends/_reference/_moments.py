"""Weighted sums, moments and normal equations of X, accumulated in float64."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from .._compat import Array, device_of, namespace, to_host
from ._rows import row_blocks, take_rows

ENTRIES = 2**16
"""Number of CSR entries whose moments are taken at a time."""

COLUMNS = 128
"""Number of CSR columns whose products with all others are taken at a time."""

FAR = 1e-6
"""A CSR column whose variance is a smaller share of its squared mean is centred before
squares are taken: their difference would lose digits."""


def weighted_moments(X: Array, weights: Array) -> tuple[Array, Array]:
    """Return the weighted mean and variance of each column, in float64.

    Variances are taken about the mean in a second pass, so large offsets lose no digits
    and constant columns get 0. ``X`` may be CSR; it is not densified.
    """
    xp = namespace(X, weights)
    w = xp.astype(weights, xp.float64)
    total = xp.sum(w)
    if hasattr(X, "tocsr"):
        return _moments_of_entries(X, w, total)
    origin = heaviest(X, w)
    shift, var = xp.zeros_like(origin), xp.zeros_like(origin)
    for rows in row_blocks(*X.shape):
        shift = shift + w[rows] @ (xp.astype(X[rows, :], xp.float64) - origin)
    mean = origin + shift / total
    for rows in row_blocks(*X.shape):
        var = var + w[rows] @ (xp.astype(X[rows, :], xp.float64) - mean) ** 2
    return mean, var / total


def heaviest(X: Array, w: Array) -> Array:
    """Return the row of the largest weight in float64; zeros if none has a weight.

    Sums about this row are exact for constant columns.
    """
    xp = namespace(X, w)
    if not X.shape[0]:
        return xp.zeros(X.shape[1], dtype=xp.float64, device=device_of(w))
    first = xp.reshape(xp.argmax(w), (1,))
    row = xp.astype(xp.take(X, first, axis=0)[0, :], xp.float64)
    return xp.where(xp.max(w) > 0, row, xp.zeros_like(row))


def _moments_of_entries(X: Array, w: Array, total: Array) -> tuple[Array, Array]:
    """Return the mean and variance of the columns of CSR.

    The second pass also corrects the rounding error of the mean.
    """
    mean = (X.T @ w) / total
    squares, drift, present, count = (np.zeros_like(mean) for _ in range(4))
    for columns, values, mass in _entry_blocks(X, w):
        apart = values - mean[columns]
        squares += _sums(columns, mass * apart**2, len(mean))
        drift += _sums(columns, mass * apart, len(mean))
        present += _sums(columns, mass, len(mean))
        count += _sums(columns, None, len(mean))
    absent = np.where(count < X.shape[0], np.maximum(total - present, 0.0), 0.0)
    drift = (drift - absent * mean) / total
    squares = (squares + absent * mean**2) / total
    return mean + drift, np.maximum(squares - drift**2, 0.0)


def _entry_blocks(X: Array, w: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield columns, values and weights of the entries of CSR, some rows at a time.

    Squares of all entries at once would take several times the memory of X.
    """
    n = X.shape[0]
    step = max(1, ENTRIES * X.shape[0] // max(1, X.nnz))
    for first in range(0, n, step):
        bounds = X.indptr[first : first + step + 1]
        entries = slice(bounds[0], bounds[-1])
        mass = np.repeat(w[first : first + step], np.diff(bounds))
        yield X.indices[entries], X.data[entries].astype(np.float64), mass


def _sums(columns: Array, values: Array | None, n_columns: int) -> Array:
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
    flat = xp.reshape(weights, (-1,))
    row_of = order // weights.shape[1]
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
        The rows to fit; None means all.

    Returns
    -------
    A : (d, d) array
        Σ w (x - x̄)(x - x̄)ᵀ.
    B : (d, q) array
        Σ w (x - x̄)(y - ȳ)ᵀ.
    x_mean, y_mean : (d,) and (q,) arrays
        Weighted means; zero if all weights are zero.
    """
    xp = namespace(X, Y, weights)
    X, Y = take_rows(X, rows), take_rows(Y, rows)
    w = xp.astype(weights, xp.float64)
    total = xp.sum(w)
    total = xp.where(total == 0, 1.0, total)
    y = xp.astype(Y, xp.float64)
    y_mean = (w @ y) / total
    if hasattr(X, "tocsr"):
        return _gram_of_entries(X, y, w, total, y_mean)
    wy = xp.expand_dims(w, axis=-1) * (y - y_mean)
    d = X.shape[1]
    origin = heaviest(X, w)
    x_mean = xp.zeros(d, dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        x_mean = x_mean + w[rows] @ (xp.astype(X[rows, :], xp.float64) - origin)
    x_mean = origin + x_mean / total
    A = xp.zeros((d, d), dtype=xp.float64, device=device_of(w))
    B = xp.zeros((d, y.shape[1]), dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        centred = xp.astype(X[rows, :], xp.float64) - x_mean
        A = A + (centred * xp.expand_dims(w[rows], axis=-1)).T @ centred
        B = B + centred.T @ wy[rows, :]
    return A, B, x_mean, y_mean


def _gram_of_entries(
    X: Array, y: Array, w: Array, total: Array, y_mean: Array
) -> tuple[Array, Array, Array, Array]:
    """Return the normal equations of CSR.

    Columns far from zero hardly have zeros; they are centred in a dense copy.
    """
    x_mean = (X.T @ w) / total
    wy = w[:, None] * (y - y_mean)
    A = _second_moments_of_entries(X, w)
    for i, mean in enumerate(x_mean):
        A[:, i] -= total * (x_mean * mean)
    B = X.T @ wy - np.outer(x_mean, wy.sum(axis=0))
    far = np.flatnonzero(np.diagonal(A) < FAR * total * x_mean**2)
    if len(far):
        block = X[:, far].toarray()
        A_far, B[far], x_mean[far], _ = gram(block, y, w)
        cross = X.T @ (w[:, None] * (block - x_mean[far]))
        A[:, far] = cross
        A[far] = cross.T
        A[np.ix_(far, far)] = A_far
    return A, B, x_mean, y_mean


def _second_moments_of_entries(X: Array, w: Array) -> Array:
    """Return Σ w x xᵀ of CSR, a few columns at a time."""
    d = X.shape[1]
    A = np.empty((d, d), order="F")  # as solvers want it
    for first in range(0, d, COLUMNS):
        some = slice(first, first + COLUMNS)
        A[some] = (X[:, some].multiply(w[:, None]).T @ X).toarray()
    return A
