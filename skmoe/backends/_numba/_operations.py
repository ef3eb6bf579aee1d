"""Operations of the reference by kernels, on runs of rows that threads share.

Each function has the signature and the answer of the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from .. import _reference, _threads
from .._compat import Array
from .._reference._experts import LOG_2PI
from .._reference._tree import Tree
from . import _kernels as kernels

BLOCK_BYTES = 1 << 18
"""Bytes of a block (its logits and its rows of X), which stays in the level-2 cache."""

THIN = 3
WIDE = 96
"""A loss is computed row by row for at most this many classes, and at least this many
features."""

RUN = 1 << 21
"""Fewest multiply-adds of a run (about 0.2 ms): fewer are not worth a thread."""

STEP = 50
"""Number of multiply-adds of a product in the time of one unvectorised step."""

PARTS = 32
"""Most runs with sums of their own, which are then added in order."""

PARTIAL_SUMS = 1 << 22
"""Most numbers in the sums of all runs together."""


def _block(n_columns: int, itemsize: int) -> int:
    """Return the rows of a block: a multiple of 64 within `BLOCK_BYTES`."""
    return max(64, BLOCK_BYTES // (itemsize * max(1, n_columns)) // 64 * 64)


def _rows(X: Array) -> tuple[np.ndarray, ...]:
    """Return X as the kernels read it."""
    if hasattr(X, "tocsr"):
        return X.data, X.indices, X.indptr
    return (np.ascontiguousarray(X),)


def _as(array: Array, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype)


def _each(
    work: Callable[[int, int], Any], n_rows: int, cost: int, n_sums: int = 1
) -> list[Any]:
    """Call work(first, last) on runs of rows; return the answers in order.

    ``cost`` is about the cost of a row, in multiply-adds of a product; ``n_sums`` is
    the number of numbers that a run returns.
    """
    parts = max(1, min(PARTS, PARTIAL_SUMS // n_sums))
    size = max(-(-RUN // max(1, cost)), -(-n_rows // parts))
    return _threads.run(work, n_rows, size)


def _features(X: Array) -> int:
    """Return how many features per row a product reads."""
    return X.nnz // max(1, X.shape[0]) if hasattr(X, "tocsr") else X.shape[1]


def _blocks(plain: Callable[[slice, Array], Array], X: Array, cost: int) -> Array:
    """Return the reference's answers for all experts, run by run."""

    def work(first: int, last: int) -> Array:
        rows = slice(first, last)
        return plain(rows, _reference.block_of(X, rows))

    parts = _each(work, X.shape[0], cost)
    return np.concatenate(parts) if parts else plain(slice(0, 0), X)


# --------------------------------------------------------------------- gate
def _gate(X: Array, coef: Array, intercept: Array) -> tuple:
    """Return (rows, coef, intercept, rows of a block)."""
    size = _block(coef.shape[0] + _features(X), X.dtype.itemsize)
    rows = _rows(X)
    coef = np.asarray(coef, dtype=X.dtype, order=_order(rows))
    return rows, coef, _as(intercept, X.dtype), size


def _order(rows: tuple) -> Literal["C", "F"]:
    """Return the order of a (K, d) table next to these rows."""
    return "C" if len(rows) == 1 else "F"


def softmax_route(
    X: Array, coef: Array, intercept: Array, k: int
) -> tuple[Array, Array]:
    """Compute top-k and softmax of a block while its logits are in cache."""
    rows, *gate = _gate(X, coef, intercept)
    indices = np.empty((X.shape[0], k), dtype=np.intp)
    weights = np.empty((X.shape[0], k), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.softmax_route(rows, first, last, *gate, indices, weights)

    _each(work, X.shape[0], len(coef) * _features(X))
    return indices, weights


def softmax_log_proba(X: Array, coef: Array, intercept: Array) -> Array:
    """Compute products and log softmax, one run of rows at a time."""
    coef, intercept = _as(coef, X.dtype), _as(intercept, X.dtype)
    out = np.empty((X.shape[0], len(coef)), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        out[first:last] = _reference.block_of(X, slice(first, last)) @ coef.T
        out[first:last] += intercept
        kernels.log_softmax(first, last, out, out)

    _each(work, X.shape[0], len(coef) * (_features(X) + STEP))
    return out


def softmax_survey(
    X: Array, coef: Array, intercept: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """Compute entries, best experts and normaliser from one product."""
    rows, *gate = _gate(X, coef, intercept)
    wanted = _as(indices, np.intp)
    log_at = np.empty(wanted.shape, dtype=X.dtype)
    best = np.empty((X.shape[0], k), dtype=np.intp)
    log_best = np.empty((X.shape[0], k), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.softmax_survey(rows, first, last, *gate, wanted, log_at, best, log_best)

    _each(work, X.shape[0], len(coef) * (_features(X) + STEP // 5))
    return log_at, best, log_best


def softmax_loss(
    X: Array, mass: Array, target_sums: Array, coef: Array, intercept: Array
) -> tuple[float, Array, Array]:
    """Compute loss and gradient in one pass over X."""
    rows, weight, bias, size = _gate(X, coef, intercept)
    mass = _as(mass, X.dtype)
    params = np.concatenate([coef, intercept[:, None]], axis=1)
    thin = len(coef) <= THIN and len(rows) == 1 and X.shape[1] >= WIDE

    def work(first: int, last: int) -> tuple[float, np.ndarray, np.ndarray]:
        g_coef = np.zeros(coef.shape, order=_order(rows))
        out = g_coef, np.zeros(len(intercept))
        table = rows, first, last, weight, bias
        if thin:
            return kernels.softmax_loss_thin(*table, mass, *out), *out
        return kernels.softmax_loss(*table, size, mass, *out), *out

    cost = len(coef) * (2 * _features(X) + STEP // 5)
    parts = _each(work, X.shape[0], cost, coef.size)
    loss = sum(part[0] for part in parts) - float(np.sum(target_sums * params))
    grad_coef = sum(part[1] for part in parts) - target_sums[:, :-1]
    grad_intercept = sum(part[2] for part in parts) - target_sums[:, -1]
    return loss, grad_coef, grad_intercept


def product_log_proba(X: Array, coef: Array, intercept: Array, cells: Array) -> Array:
    """Compute both softmaxes, one run of rows at a time."""
    cost = len(cells) + len(coef) * (_features(X) + STEP)
    return _blocks(
        lambda _, x: _reference.product_log_proba(x, coef, intercept, cells), X, cost
    )


def _grid(cells: Array, k: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the rows of the grid, pairs of places, and the expert in each cell.

    Places count from the best row and the best column of the grid. The pair (p, q) has
    (p + 1)(q + 1) - 1 pairs before it that are at least as probable.
    """
    n_rows, n_columns = (int(size) + 1 for size in cells.max(axis=0))
    pairs = [
        (p, q)
        for p in range(min(k, n_rows))
        for q in range(min(k // (p + 1), n_columns))
    ]
    expert_of = np.argsort(cells[:, 0] * n_columns + cells[:, 1])
    return n_rows, np.array(pairs, dtype=np.intp), expert_of


def product_route(
    X: Array, coef: Array, intercept: Array, cells: Array, k: int
) -> tuple[Array, Array]:
    """Compute both softmaxes from one product, with exponentials only of the best."""
    rows, *gate = _gate(X, coef, intercept)
    indices = np.empty((X.shape[0], k), dtype=np.intp)
    weights = np.empty((X.shape[0], k), dtype=X.dtype)
    grid = _grid(cells, k)

    def work(first: int, last: int) -> None:
        kernels.product_route(rows, first, last, *gate, *grid, indices, weights)

    _each(work, X.shape[0], len(coef) * _features(X))
    return indices, weights


def product_survey(
    X: Array, coef: Array, intercept: Array, cells: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """Compute both softmaxes from one product."""
    rows, *gate = _gate(X, coef, intercept)
    wanted, cells = _as(indices, np.intp), _as(cells, np.intp)
    log_at = np.empty(wanted.shape, dtype=X.dtype)
    best = np.empty((X.shape[0], k), dtype=np.intp)
    log_best = np.empty((X.shape[0], k), dtype=X.dtype)
    grid = _grid(cells, k)

    def work(first: int, last: int) -> None:
        answer = wanted, log_at, best, log_best
        kernels.product_survey(rows, first, last, *gate, *grid, cells, *answer)

    _each(work, X.shape[0], len(coef) * (_features(X) + STEP // 5))
    return log_at, best, log_best


def tree_log_proba(X: Array, coef: Array, intercept: Array, tree: Tree) -> Array:
    """Compute products of a run of rows, then go node by node in each row."""
    coef, intercept = _as(coef, X.dtype), _as(intercept, X.dtype)
    out = np.empty((X.shape[0], len(tree.paths)), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        logits = _reference.block_of(X, slice(first, last)) @ coef.T
        logits += intercept
        kernels.tree_log_proba(
            logits, tree.bounds, tree.above, tree.leaf, out[first:last]
        )

    _each(work, X.shape[0], len(coef) * (_features(X) + STEP))
    return out


def tree_survey(
    X: Array,
    coef: Array,
    intercept: Array,
    tree: Tree,
    indices: Array,
    k: int,
    beam: int,
) -> tuple[Array, Array, Array]:
    """Go down the tree row by row; a node that is needed twice is opened once."""
    rows = _rows(X)
    wanted = _as(indices, np.intp)
    coef, intercept = _as(coef, X.dtype), _as(intercept, X.dtype)
    log_at = np.empty(wanted.shape, dtype=X.dtype)
    best = np.empty((X.shape[0], k), dtype=np.intp)
    log_best = np.empty((X.shape[0], k), dtype=X.dtype)
    beam = min(max(beam, k), len(tree.bounds) - 1)
    shape = tree.bounds, tree.target, tree.owner, tree.above, tree.paths

    def work(first: int, last: int) -> None:
        table = rows, first, last, coef, intercept
        kernels.tree_survey(*table, *shape, beam, wanted, log_at, best, log_best)

    widest = int(np.max(np.diff(tree.bounds)))
    _each(work, X.shape[0], tree.paths.shape[1] * widest * (_features(X) + STEP))
    return log_at, best, log_best


# ------------------------------------------------------------------ experts
def _entries(X: Array, indices: Array, coef: Array, intercept: Array) -> tuple:
    """Return (rows, indices, coef, intercept, cost of a row)."""
    cost = indices.shape[1] * intercept.shape[1] * (_features(X) + STEP)
    coef, intercept = _as(coef, X.dtype), _as(intercept, X.dtype)
    return _rows(X), _as(indices, np.intp), coef, intercept, cost


def linear_at(X: Array, indices: Array | None, coef: Array, intercept: Array) -> Array:
    """Compute only the products of the entries."""
    if indices is None:
        return _blocks(
            lambda _, x: _reference.linear_at(x, None, coef, intercept),
            X,
            intercept.size * _features(X),
        )
    rows, indices, coef, intercept, cost = _entries(X, indices, coef, intercept)
    out = np.empty((*indices.shape, coef.shape[1]), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.linear_at(rows, first, last, indices, coef, intercept, out)

    _each(work, X.shape[0], cost)
    return out


def linear_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Compute dot products and weighted sum of a row in one pass."""
    if indices is None:
        return _reference.combine(weights, linear_at(X, None, coef, intercept))
    rows, indices, coef, intercept, cost = _entries(X, indices, coef, intercept)
    weights = _as(weights, X.dtype)
    out = np.empty((X.shape[0], coef.shape[1]), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.linear_mix(rows, first, last, indices, weights, coef, intercept, out)

    _each(work, X.shape[0], cost)
    return out


def softmax_at(
    X: Array, labels: Array, indices: Array | None, coef: Array, intercept: Array
) -> Array:
    """Compute an entry's logits and its label's softmax in one pass."""
    if indices is None:
        return _blocks(
            lambda rows, x: _reference.softmax_at(
                x, labels[rows], None, coef, intercept
            ),
            X,
            intercept.size * (_features(X) + STEP),
        )
    rows, indices, coef, intercept, cost = _entries(X, indices, coef, intercept)
    labels = _as(labels, np.intp)
    out = np.empty(indices.shape, dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.softmax_at(rows, first, last, labels, indices, coef, intercept, out)

    _each(work, X.shape[0], cost)
    return out


def softmax_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Compute an entry's logits, softmax and weighted sum in one pass."""
    if indices is None:
        return _blocks(
            lambda rows, x: _reference.softmax_mix(
                x, None, weights[rows], coef, intercept
            ),
            X,
            intercept.size * (_features(X) + STEP),
        )
    rows, indices, coef, intercept, cost = _entries(X, indices, coef, intercept)
    weights = _as(weights, X.dtype)
    out = np.empty((X.shape[0], coef.shape[1]), dtype=X.dtype)

    def work(first: int, last: int) -> None:
        kernels.softmax_mix(rows, first, last, indices, weights, coef, intercept, out)

    _each(work, X.shape[0], cost)
    return out


# ------------------------------------------------------------------- E-step
def normal_log_density(
    y: Array, values: Array, scale: Array, indices: Array | None
) -> Array:
    """Pass once over the entries; take logarithms of scales once per expert."""
    values = np.ascontiguousarray(values)
    everyone = np.empty((0, values.shape[1]), dtype=np.intp)
    indices = everyone if indices is None else _as(indices, np.intp)
    y, table = _as(y, values.dtype), _as(scale, values.dtype)
    constant = table.dtype.type(0.5 * table.shape[1] * LOG_2PI)
    log_peak = -np.log(table).sum(axis=1) - constant
    out = np.empty(values.shape[:2], dtype=values.dtype)

    def work(first: int, last: int) -> None:
        kernels.normal_log_density(
            first, last, y, values, table, log_peak, indices, out
        )

    _each(work, len(values), STEP * values.shape[1] * values.shape[2])
    return out


def truncate(log_joint: Array, width: int) -> tuple[Array, Array, Array]:
    """Compute choice, responsibilities and log normaliser of a row in one pass."""
    log_joint = np.ascontiguousarray(log_joint)
    n, m = log_joint.shape
    choose = width < m
    kept = np.empty((n, min(width, m)), dtype=np.intp)
    if not choose:
        kept[:] = np.arange(m)
    resp = np.empty(kept.shape, dtype=log_joint.dtype)
    log_norm = np.empty(n, dtype=log_joint.dtype)

    def work(first: int, last: int) -> None:
        if choose:
            kernels.best_of_rows(first, last, log_joint, kept)
        kernels.posterior(first, last, log_joint, kept, resp, log_norm)

    _each(work, n, 3 * STEP * m)
    return kept, resp, log_norm


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Insert scores into the k best, row by row."""
    if scores.ndim != 2 or scores.dtype.kind != "f":
        return _reference.top_k(scores, k)
    scores = np.ascontiguousarray(scores)
    kept = np.empty((scores.shape[0], min(k, scores.shape[1])), dtype=np.intp)
    n, m = scores.shape
    _each(lambda a, b: kernels.best_of_rows(a, b, scores, kept), n, STEP * m)
    return np.take_along_axis(scores, kept, axis=1), kept


def log_softmax(logits: Array) -> Array:
    """Compute peak, sum and difference of a row in one pass."""
    if logits.ndim != 2 or logits.dtype.kind != "f":
        return _reference.log_softmax(logits)
    logits = np.ascontiguousarray(logits)
    out = np.empty_like(logits)
    n, m = logits.shape
    _each(lambda a, b: kernels.log_softmax(a, b, logits, out), n, STEP * m)
    return out


def novel(known: Array, more: Array) -> Array:
    """Compare experts in one pass over the rows."""
    dtype = more.dtype
    known = _as(known, np.intp)
    more = _as(more, np.intp)
    out = np.empty_like(more)
    n, m = more.shape
    _each(lambda a, b: kernels.novel(a, b, known, more, out), n, STEP * m)
    return out.astype(dtype, copy=False)


# ----------------------------------------------------- expert-major entries
def expert_major(indices: Array, n_experts: int) -> tuple[Array, Array]:
    """Sort by counting, in two passes over the entries."""
    flat = _as(indices, np.intp).reshape(-1)
    order = np.empty(flat.shape[0], dtype=np.intp)
    offsets = np.empty(n_experts + 1, dtype=np.intp)
    kernels.counting_sort(flat, n_experts, order, offsets)
    return order, offsets


def sum_by_expert(values: Array, order: Array | None, offsets: Array) -> list[float]:
    """Sum segments without a copy of the entries."""
    if order is None:
        return _reference.sum_by_expert(values, order, offsets)
    out = np.empty(len(offsets) - 1)
    flat = np.ascontiguousarray(values).reshape(-1)
    kernels.sum_segments(flat, _as(order, np.intp), _as(offsets, np.intp), out)
    return out.tolist()


def segment_sums(X: Array, weights: Array, order: Array, offsets: Array) -> Array:
    """Sum segments without a copy of the rows; experts on threads."""
    rows = _rows(X)
    flat = np.ascontiguousarray(weights)
    width = weights.shape[1]
    flat = flat.reshape(-1)
    order = _as(order, np.intp)
    offsets = _as(offsets, np.intp)
    out = np.empty((len(offsets) - 1, X.shape[1] + 1))

    def work(first: int, last: int) -> None:
        kernels.segment_sums(rows, first, last, flat, width, order, offsets, out)

    _threads.run(work, len(out), -(-len(out) // PARTS))
    return out


# ---------------------------------------------------------- normal equations
def gram(
    X: Array, Y: Array, weights: Array, rows: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Gather blocks of √w ([x, y] - mean) in float64, and multiply each by itself."""
    if hasattr(X, "tocsr"):
        return _reference.gram(X, Y, weights, rows)
    X = np.ascontiguousarray(X)
    Y = np.ascontiguousarray(Y)
    w = _as(weights, np.float64)
    rows = np.arange(X.shape[0]) if rows is None else _as(rows, np.intp)
    d = X.shape[1]
    width = X.shape[1] + Y.shape[1]
    origin = np.zeros(width)
    total = float(w.sum())
    if total > 0:  # sums about a row are exact for constant columns
        heaviest = rows[np.argmax(w)]
        origin[:d], origin[d:] = X[heaviest], Y[heaviest]

    def sums(first: int, last: int) -> np.ndarray:
        out = np.empty(width)
        kernels.weighted_sum(first, last, X, Y, rows, w, origin, out)
        return out

    def scatter(first: int, last: int) -> np.ndarray:
        out = np.zeros((width, width))
        size = _block(width, 8)
        kernels.scatter(first, last, X, Y, rows, w, mean, size, out)
        return out

    shift = sum(_each(sums, len(rows), 2 * width), np.zeros(width))
    mean = origin + shift / (total or 1.0)
    S = sum(_each(scatter, len(rows), width**2, width**2), np.zeros((width, width)))
    return S[:d, :d], S[:d, d:], mean[:d], mean[d:]
