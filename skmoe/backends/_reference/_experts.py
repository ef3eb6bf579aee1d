"""Linear and logistic experts at the entries of a routing.

``coef`` (K, q, d) and ``intercept`` (K, q) hold all experts. Where ``indices`` may be
None, that means every expert in every row: entry k is expert k.
"""

from __future__ import annotations

import math

from .._compat import Array, device_of, filled, namespace
from ._entries import combine
from ._rows import block_of, row_blocks
from ._softmax import log_softmax

LOG_2PI = math.log(2 * math.pi)

PRODUCT_RATIO = 16
"""Up to this many experts per entry of a row, the product with all experts costs less
than gathering the coefficients of some."""

GATHER_ROWS = 8
"""Up to this many rows gathering costs less for any number of experts."""


def linear_at(X: Array, indices: Array | None, coef: Array, intercept: Array) -> Array:
    """Return coef_k x + intercept_k at each entry, (n, m, q); 0 at entries of -1."""
    xp = namespace(X)
    parts = [
        _linear_block(block, kept, coef_, intercept_)
        for block, kept, coef_, intercept_ in _blocks(X, indices, coef, intercept)
    ]
    return xp.concat(parts, axis=0)


def linear_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Return Σ_m weights[i, m] (coef_k x_i + intercept_k), (n, q)."""
    return combine(weights, linear_at(X, indices, coef, intercept))


def softmax_at(
    X: Array, labels: Array, indices: Array | None, coef: Array, intercept: Array
) -> Array:
    """Return each entry's log softmax of the row's label, (n, m); 0 at -1.

    An intercept of -inf rules a class out.
    """
    xp = namespace(X)
    parts = []
    start = 0
    for block, kept, coef_, intercept_ in _blocks(X, indices, coef, intercept):
        log_proba = log_softmax(_linear_block(block, kept, coef_, intercept_))
        n, m, _ = log_proba.shape
        label = xp.reshape(labels[start : start + n], (n, 1, 1))
        label = xp.broadcast_to(label, (n, m, 1))
        of_label = xp.take_along_axis(log_proba, label, axis=-1)[:, :, 0]
        parts.append(of_label if kept is None else xp.where(kept < 0, 0.0, of_label))
        start += n
    return xp.concat(parts, axis=0)


def softmax_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Return Σ_m weights[i, m] softmax(coef_k x_i + intercept_k), (n, q)."""
    xp = namespace(X)
    parts = []
    start = 0
    for block, kept, coef_, intercept_ in _blocks(X, indices, coef, intercept):
        logits = _linear_block(block, kept, coef_, intercept_)
        density = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
        stop = start + density.shape[0]
        own = weights[start:stop, :] / xp.sum(density, axis=-1)
        own = own if kept is None else xp.where(kept < 0, 0.0, own)
        parts.append(combine(own, density))
        start = stop
    return xp.concat(parts, axis=0)


def _blocks(X: Array, indices: Array | None, coef: Array, intercept: Array):
    """Yield (rows of X, their indices, coef, intercept), all in the dtype of X."""
    xp = namespace(X)
    where = {"dtype": X.dtype, "device": device_of(X)}
    coef, intercept = xp.asarray(coef, **where), xp.asarray(intercept, **where)
    n_experts, q, d = coef.shape
    width = n_experts * q
    if indices is not None and not _product(X, indices, n_experts):
        width = indices.shape[1] * q * d
    for rows in row_blocks(X.shape[0], width):
        kept = None if indices is None else indices[rows, :]
        yield block_of(X, rows), kept, coef, intercept


def _product(X: Array, indices: Array, n_experts: int) -> bool:
    n_rows, m = indices.shape
    few = n_experts <= PRODUCT_RATIO * m and n_rows > GATHER_ROWS
    return few or hasattr(X, "tocsr")


def _linear_block(
    X: Array, indices: Array | None, coef: Array, intercept: Array
) -> Array:
    xp = namespace(X)
    n_experts, q, d = coef.shape
    if indices is None or _product(X, indices, n_experts):
        table = xp.reshape(coef, (n_experts * q, d))
        values = xp.reshape(X @ table.T, (-1, n_experts, q)) + intercept
        if indices is None:
            return values
        places = xp.expand_dims(filled(indices), axis=-1)
        places = xp.broadcast_to(places, (*indices.shape, q))
        values = xp.take_along_axis(values, places, axis=1)
    else:
        flat = xp.reshape(filled(indices), (-1,))
        rows = xp.reshape(xp.take(coef, flat, axis=0), (*indices.shape, q, d))
        bias = xp.reshape(xp.take(intercept, flat, axis=0), (*indices.shape, q))
        values = xp.sum(rows * xp.reshape(X, (-1, 1, 1, d)), axis=-1) + bias
    return xp.where(xp.reshape(indices < 0, (*indices.shape, 1)), 0.0, values)


def normal_log_density(
    y: Array, values: Array, scale: Array, indices: Array | None
) -> Array:
    """Return Σ_q log N(y; values, scale_k²) at each entry, (n, m).

    ``scale`` (K, q) holds one σ per expert and output; entries of -1 give -inf.
    """
    xp = namespace(values)
    table = xp.asarray(scale, dtype=values.dtype, device=device_of(values))
    log_table = -xp.sum(xp.log(table), axis=-1) - 0.5 * table.shape[-1] * LOG_2PI
    if indices is None:
        z = (xp.expand_dims(y, axis=1) - values) / table
        return log_table - 0.5 * xp.sum(z * z, axis=-1)
    flat = xp.reshape(filled(indices), (-1,))
    own = xp.reshape(xp.take(table, flat, axis=0), values.shape)
    z = (xp.expand_dims(y, axis=1) - values) / own
    peak = xp.reshape(xp.take(log_table, flat), indices.shape)
    density = peak - 0.5 * xp.sum(z * z, axis=-1)
    return xp.where(indices < 0, xp.full_like(density, -xp.inf), density)
