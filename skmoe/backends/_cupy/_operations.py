"""Operations of the reference by cuBLAS, and by one kernel instead of many passes.

Each function has the signature and the answer of the reference, which still serves CSR,
other dtypes and arrays of another library.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from .. import _reference
from .._compat import Array
from .._reference._experts import LOG_2PI
from . import _device
from ._device import launch

BLOCK_ELEMENTS = 1 << 22
"""Number of elements in a block of logits: enough rows to fill a device, but few enough
for its level-2 cache."""

SUM_ROWS = 1 << 10
"""Number of rows that a product sums in the dtype of X, before float64 takes over."""

PARTIAL_SUMS = 1 << 20
"""Most partial sums of all experts together."""

FLOATS, INTEGERS = ("float32", "float64"), ("int32", "int64")


def _serves(*dtypes: str) -> Callable:
    """Make an operation fall back to the reference unless its first array fits."""

    def decorate(operation: Callable) -> Callable:
        plain = getattr(_reference, operation.__name__)

        @functools.wraps(operation)
        def call(first: Array, *rest: Any, **named: Any) -> Any:
            if not _device.serves(first, dtypes):
                return plain(first, *rest, **named)
            with _device.current(first):
                return operation(first, *rest, **named)

        return call

    return decorate


def _as(array: Array, dtype: Any) -> Array:
    """Return a device array as the kernels read it; refuse arrays of the host."""
    if not isinstance(array, _device.xp().ndarray):
        raise TypeError(f"{type(array)} stands beside an array on the device")
    return _device.xp().ascontiguousarray(array.astype(dtype, copy=False))


def _table(table: Array, dtype: Any) -> Array:
    """Return a table of parameters on the device, moved there if need be."""
    return _device.xp().ascontiguousarray(_device.xp().asarray(table, dtype=dtype))


def _empty(*shape: int, dtype: Any = "int64") -> Array:
    return _device.xp().empty(shape, dtype=dtype)


def _blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    size = max(1, BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


# --------------------------------------------------------------------- gate
def _logits(X: Array, coef: Array, intercept: Array) -> Iterator[tuple]:
    """Yield (rows, arguments of a kernel): the (K, B) products, intercepts and K."""
    weight, bias = _table(coef, X.dtype), _table(intercept, X.dtype)
    for rows in _blocks(X.shape[0], len(weight)):
        yield rows, (weight @ X[rows].T, bias, len(weight))


@_serves(*FLOATS)
def softmax_route(
    X: Array, coef: Array, intercept: Array, k: int
) -> tuple[Array, Array]:
    """Compute top-k and softmax of a row in one kernel."""
    n = X.shape[0]
    k = min(k, len(coef))
    indices, weights = _empty(n, k), _empty(n, k, dtype=X.dtype)
    for rows, gate in _logits(X, coef, intercept):
        kept = weights[rows], indices[rows]
        launch("softmax_route", len(kept[0]), *gate, k, *kept)
    return indices, weights


@_serves(*FLOATS)
def softmax_survey(
    X: Array, coef: Array, intercept: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """Compute entries, best experts and normaliser in two passes over the logits."""
    n = X.shape[0]
    k = min(k, len(coef))
    m = indices.shape[1]
    wanted = _as(indices, "int64")
    best = _empty(n, k)
    log_at, log_best = _empty(n, m, dtype=X.dtype), _empty(n, k, dtype=X.dtype)
    for rows, gate in _logits(X, coef, intercept):
        found = log_at[rows], log_best[rows], best[rows]
        launch("softmax_survey", len(found[0]), *gate, wanted[rows], m, k, *found)
    return log_at, best, log_best


@_serves(*FLOATS)
def softmax_loss(
    X: Array, mass: Array, target_sums: Array, coef: Array, intercept: Array
) -> tuple[float, Array, Array]:
    """Compute loss and gradient in one pass over X; one number goes to the host."""
    sums, coef, intercept = (
        _table(table, "float64") for table in (target_sums, coef, intercept)
    )
    terms = _empty(len(X), dtype=X.dtype)
    mass = _as(mass, X.dtype)
    X = _as(X, X.dtype)
    grad_coef = -sums[:, :-1]
    grad_intercept = -sums[:, -1]
    for rows, (pull, bias, n_experts) in _logits(X, coef, intercept):
        args = pull, bias, mass[rows], n_experts, terms[rows]
        launch("softmax_loss", len(terms[rows]), *args)
        grad_coef += _product(pull, X[rows])
        grad_intercept += pull.sum(axis=1, dtype="float64")
    loss = terms.sum(dtype="float64") - (sums[:, -1] * intercept).sum()
    return float(loss - (sums[:, :-1] * coef).sum()), grad_coef, grad_intercept


def _product(pull: Array, X: Array) -> Array:
    """Return pull @ X in float64, from products of `SUM_ROWS` rows each."""
    n_experts, n = pull.shape
    d = X.shape[1]
    whole = n // SUM_ROWS * SUM_ROWS
    total = 0.0
    for rows, n_parts in (slice(whole), n // SUM_ROWS), (slice(whole, n), 1):
        if len(X[rows]):
            left = pull[:, rows].reshape(n_experts, n_parts, -1).transpose(1, 0, 2)
            parts = left @ X[rows].reshape(n_parts, -1, d)
            total = total + parts.sum(axis=0, dtype="float64")
    return total


# ------------------------------------------------------------------ experts
@_serves(*FLOATS)
def linear_at(X: Array, indices: Array | None, coef: Array, intercept: Array) -> Array:
    """Compute only the products of the entries, or all products by cuBLAS."""
    coef, intercept = _table(coef, X.dtype), _table(intercept, X.dtype)
    n_experts, q, d = coef.shape
    if indices is None:
        values = X @ coef.reshape(-1, d).T + intercept.reshape(-1)
        return values.reshape(len(X), n_experts, q)
    X = _as(X, X.dtype)
    indices = _as(indices, "int64")
    values = _empty(*indices.shape, q, dtype=X.dtype)
    sizes = indices.shape[1], q, d
    launch("linear_at", values.size, X, indices, coef, intercept, *sizes, values)
    return values


@_serves(*FLOATS)
def linear_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Compute dot products and weighted sum of a row in one kernel."""
    coef, intercept = _table(coef, X.dtype), _table(intercept, X.dtype)
    n_experts, q, d = coef.shape
    values = _empty(len(X), q, dtype=X.dtype)
    if indices is None:
        for rows in _blocks(len(X), n_experts * q):
            answers = linear_at(X[rows], None, coef, intercept)
            values[rows] = _reference.combine(weights[rows], answers)
        return values
    entries = _as(X, X.dtype), _as(indices, "int64"), _as(weights, X.dtype)
    sizes = indices.shape[1], q, d
    launch("linear_mix", values.size, *entries, coef, intercept, *sizes, values)
    return values


def _entry_logits(
    X: Array, indices: Array | None, coef: Array, intercept: Array
) -> Iterator[tuple[slice, Array, Array | None]]:
    """Yield (rows, their (B, m, C) logits, their indices)."""
    coef, intercept = _table(coef, X.dtype), _table(intercept, X.dtype)
    indices = None if indices is None else _as(indices, "int64")
    m = len(coef) if indices is None else indices.shape[1]
    for rows in _blocks(len(X), m * coef.shape[1]):
        kept = None if indices is None else indices[rows]
        yield rows, linear_at(X[rows], kept, coef, intercept), kept


@_serves(*FLOATS)
def softmax_at(
    X: Array, labels: Array, indices: Array | None, coef: Array, intercept: Array
) -> Array:
    """Compute a block's logits, then the label's softmax with one thread per entry."""
    labels = _as(labels, "int64")
    m = len(coef) if indices is None else indices.shape[1]
    values = _empty(len(X), m, dtype=X.dtype)
    for rows, logits, kept in _entry_logits(X, indices, coef, intercept):
        _, m, n_classes = logits.shape
        args = logits, labels[rows], kept, m, n_classes, values[rows]
        launch("softmax_at", logits.size // n_classes, *args)
    return values


@_serves(*FLOATS)
def softmax_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Compute a block's logits, then the weighted softmax with one thread per row."""
    weights = _as(weights, X.dtype)
    values = _empty(len(X), coef.shape[1], dtype=X.dtype)
    for rows, logits, kept in _entry_logits(X, indices, coef, intercept):
        args = logits, kept, weights[rows], *logits.shape[1:], values[rows]
        launch("softmax_mix", len(logits), *args)
    return values


# ------------------------------------------------------------------- E-step
@_serves(*FLOATS)
def normal_log_density(
    y: Array, values: Array, scale: Array, indices: Array | None
) -> Array:
    """Pass once over the entries; take logarithms of scales once per expert."""
    xp = _device.xp()
    dtype = values.dtype
    y = _as(y, dtype)
    values = _as(values, dtype)
    table = _table(scale, dtype)
    n, m, q = values.shape
    log_peak = -xp.log(table).sum(axis=1) - 0.5 * q * LOG_2PI
    kept = None if indices is None else _as(indices, "int64")
    density = _empty(n, m, dtype=dtype)
    tables = table, _as(log_peak, dtype)
    launch("normal_log_density", n * m, y, values, *tables, kept, m, q, density)
    return density


@_serves(*FLOATS)
def truncate(log_joint: Array, width: int) -> tuple[Array, Array, Array]:
    """Compute choice, responsibilities and log normaliser of a row in one kernel."""
    n, m = log_joint.shape
    dtype = log_joint.dtype
    kept, resp = _empty(n, width), _empty(n, width, dtype=dtype)
    log_norm = _empty(n, dtype=dtype)
    log_joint = _as(log_joint, dtype)
    launch("truncate", n, log_joint, m, width, resp, kept, log_norm)
    return kept, resp, log_norm


@_serves(*FLOATS)
def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Insert scores into the k best, with one thread per row."""
    n, m = scores.shape
    k = min(k, m)
    values, places = _empty(n, k, dtype=scores.dtype), _empty(n, k)
    launch("top_k", n, _as(scores, scores.dtype), m, k, values, places)
    return values, places


@_serves(*INTEGERS)
def novel(known: Array, more: Array) -> Array:
    """Compare experts in one pass over the rows."""
    n, m = more.shape
    fresh = _empty(n, m)
    args = _as(known, "int64"), known.shape[1], _as(more, "int64"), m, fresh
    launch("novel", n, *args)
    return fresh.astype(more.dtype, copy=False)


# ----------------------------------------------------- expert-major entries
def _parts(n_sums: int) -> int:
    """Return how many threads share each of some sums."""
    return max(1, min(1024, PARTIAL_SUMS // max(1, n_sums)))


@_serves(*FLOATS)
def sum_by_expert(values: Array, order: Array | None, offsets: Array) -> list[float]:
    """Sum segments without a copy of the entries; one transfer brings all answers."""
    if order is None:
        return values.sum(axis=0, dtype="float64").tolist()
    n_experts = len(offsets) - 1
    sums = _empty(n_experts, _parts(n_experts), dtype="float64")
    segments = _as(order, "int64"), _table(offsets, "int64"), sums.shape[1]
    launch("sum_by_expert", sums.size, _as(values, values.dtype), *segments, sums)
    return sums.sum(axis=1).tolist()


@_serves(*FLOATS)
def segment_sums(X: Array, weights: Array, order: Array, offsets: Array) -> Array:
    """Sum segments without a copy of the rows."""
    n_experts = len(offsets) - 1
    d = X.shape[1]
    m = weights.shape[1]
    n_parts = _parts(n_experts * (d + 1))
    sums = _empty(n_experts, n_parts, d + 1, dtype="float64")
    entries = _as(X, X.dtype), _as(weights, "float64")
    segments = _as(order, "int64"), _table(offsets, "int64")
    launch("segment_sums", sums.size, *entries, *segments, m, d, n_parts, sums)
    return sums.sum(axis=1)


# ---------------------------------------------------------- normal equations
@_serves(*FLOATS)
def gram(
    X: Array, Y: Array, weights: Array, rows: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Gather blocks of √w ([x, y] - mean) in float64, and multiply each by itself."""
    xp = _device.xp()
    w = weights.astype("float64", copy=False)
    d = X.shape[1]
    width = X.shape[1] + Y.shape[1]

    def block(part: slice) -> Array:
        own = part if rows is None else rows[part]
        return xp.concatenate([X[own], Y[own]], axis=1).astype("float64", copy=False)

    total = w.sum()
    shift = xp.zeros(width)
    G = xp.zeros((width, width))
    origin = xp.zeros(width)
    if len(w):  # sums about a row are exact for constant columns
        heaviest = int(w.argmax())
        origin = block(slice(heaviest, heaviest + 1))[0] * (total > 0)
    for part in _blocks(len(w), width):
        shift += w[part] @ (block(part) - origin)
    mean = origin + shift / xp.where(total == 0, 1.0, total)
    for part in _blocks(len(w), width):
        centred = (block(part) - mean) * xp.sqrt(w[part])[:, None]
        G += centred.T @ centred
    return G[:d, :d], G[:d, d:], mean[:d], mean[d:]
