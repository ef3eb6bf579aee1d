"""Kernels on blocks of rows, blocks on threads.

Each function has the signature and the answer of the reference's. Products are BLAS's,
on one thread a block; exp over whole blocks is NumPy's, which runs in vector registers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _reference, _threads
from .._compat import Array
from . import _kernels as kernels

BLOCK_BYTES = 1 << 18
"""Bytes of a block of logits: it stays in the level-2 cache next to its rows of X."""

ROWS = 1 << 14
"""Rows a thread takes at a time in kernels without a product."""

PARTS = 32
"""Runs of rows that sums are taken over before they are added, in order."""


def _size(n_columns: int, itemsize: int) -> int:
    """Return the rows of a block: a multiple of 64 within `BLOCK_BYTES`."""
    return max(64, BLOCK_BYTES // (itemsize * max(1, n_columns)) // 64 * 64)


def _kernel_ready(*arrays: Array) -> bool:
    """Tell whether the kernels read these arrays."""
    return all(
        isinstance(a, np.ndarray) and a.dtype in (np.float32, np.float64)
        for a in arrays
    )


def _is_csr(X: Array) -> bool:
    return hasattr(X, "tocsr")


def _csr(X: Array, start: int, stop: int) -> tuple:
    """Return a run of CSR rows as the kernels read them."""
    return X.data, X.indices, X.indptr[start : stop + 1]


def _rows_of(X: Array) -> Array:
    """Return X as the kernels read it: C-ordered, or CSR."""
    return X if _is_csr(X) else np.ascontiguousarray(X)


def _as(array: Array, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype)


# --------------------------------------------------------------------- gate
class _Gate:
    """Coefficients as the kernels read them, and the product with a block of rows."""

    def __init__(self, X: Array, coef: Array, intercept: Array) -> None:
        self.X, self.coef = _rows_of(X), _as(coef, X.dtype)
        self.bias = _as(intercept, X.dtype)
        self.n_experts = self.coef.shape[0]
        self.size = _size(self.n_experts, X.dtype.itemsize)
        if _is_csr(X):
            self.table = np.ascontiguousarray(self.coef.T)

    def product(self, start: int, stop: int) -> np.ndarray:
        """Return the (K, B) products of a block, without intercepts."""
        shape = (self.n_experts, stop - start)
        if not _is_csr(self.X):
            out = np.empty(shape, dtype=self.X.dtype)
            return np.matmul(self.coef, self.X[start:stop].T, out=out)
        out = np.empty(shape[::-1], dtype=self.X.dtype)
        kernels.csr_logits(
            self.X.data,
            self.X.indices,
            self.X.indptr[start : stop + 1],
            self.table,
            out,
        )
        return np.ascontiguousarray(out.T)

    def best(self, logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (values, experts) of the k best and a row of scratch, (k + 1, B)."""
        values = np.empty((k + 1, logits.shape[1]), dtype=logits.dtype)
        experts = np.empty(values.shape, dtype=np.int32)
        kernels.best_of_block(logits, values, experts)
        return values, experts


def softmax_route(
    X: Array, coef: Array, intercept: Array, k: int
) -> tuple[Array, Array]:
    """Product, top-k and softmax of a block while its logits are in cache."""
    gate = _Gate(X, coef, intercept)
    indices = np.empty((X.shape[0], k), dtype=np.intp)
    weights = np.empty((X.shape[0], k), dtype=X.dtype)

    def work(start: int, stop: int) -> None:
        logits = gate.product(start, stop)
        kernels.add_bias(logits, gate.bias)
        values, experts = gate.best(logits, k)
        kernels.soften(values, experts, weights[start:stop], indices[start:stop])

    _threads.run(work, X.shape[0], gate.size)
    return indices, weights


def softmax_survey(
    X: Array, coef: Array, intercept: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """One product serves the entries asked about, the best, and the normaliser."""
    gate = _Gate(X, coef, intercept)
    n = X.shape[0]
    wanted = _as(indices, np.intp)
    log_at = np.empty(wanted.shape, dtype=X.dtype)
    best = np.empty((n, k), dtype=np.intp)
    log_best = np.empty((n, k), dtype=X.dtype)

    def work(start: int, stop: int) -> None:
        logits, rows = gate.product(start, stop), slice(start, stop)
        kernels.add_bias(logits, gate.bias)
        values, experts = gate.best(logits, k)
        kernels.survey_block(
            logits, values, experts, wanted[rows], log_at[rows], best[rows]
        )
        np.exp(logits, out=logits)
        kernels.survey_norm(logits, values, log_at[rows], log_best[rows])

    _threads.run(work, n, gate.size)
    return log_at, best, log_best


def softmax_loss(
    X: Array, mass: Array, target_sums: Array, coef: Array, intercept: Array
) -> tuple[float, Array, Array]:
    """Objective and gradient in one pass over X."""
    gate = _Gate(X, coef, intercept)
    n, d = X.shape
    mass = _as(mass, X.dtype)
    params = np.concatenate([coef, intercept[:, None]], axis=1)

    def work(start: int, stop: int) -> tuple[float, np.ndarray, np.ndarray]:
        loss = 0.0
        g_coef = np.zeros((gate.n_experts, d))
        g_intercept = np.zeros(gate.n_experts)
        for a in range(start, stop, gate.size):
            b = min(a + gate.size, stop)
            density = gate.product(a, b)
            peak, total = np.empty((2, b - a), dtype=X.dtype)
            kernels.shift_block(density, gate.bias, peak)
            np.exp(density, out=density)
            loss += kernels.loss_block(density, peak, mass[a:b], total)
            rows = gate.X[a:b]
            g_coef += (rows.T @ density.T).T if _is_csr(X) else density @ rows
            g_intercept += density.sum(axis=1, dtype=np.float64)
        return loss, g_coef, g_intercept

    size = max(gate.size, -(-n // PARTS))
    parts = _threads.run(work, n, size)
    loss = sum(part[0] for part in parts) - float(np.sum(target_sums * params))
    grad_coef = sum(part[1] for part in parts) - target_sums[:, :-1]
    grad_intercept = sum(part[2] for part in parts) - target_sums[:, -1]
    return loss, grad_coef, grad_intercept


# ------------------------------------------------------------------ experts
def _entries(X: Array, indices: Array, coef: Array, intercept: Array) -> tuple:
    return (
        _rows_of(X),
        _as(indices, np.intp),
        _as(coef, X.dtype),
        _as(intercept, X.dtype),
    )


def _linear(X, start, stop, indices, coef, intercept, out) -> None:
    """Write the linear answers of a block at its entries."""
    if _is_csr(X):
        kernels.linear_at_csr(*_csr(X, start, stop), indices, coef, intercept, out)
    else:
        kernels.linear_at(X[start:stop], indices, coef, intercept, out)


def linear_at(X: Array, indices: Array | None, coef: Array, intercept: Array) -> Array:
    """Only the products that the entries ask for."""
    if indices is None:
        return _reference.linear_at(X, indices, coef, intercept)
    X, indices, coef, intercept = _entries(X, indices, coef, intercept)
    out = np.empty((*indices.shape, coef.shape[1]), dtype=X.dtype)

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        _linear(X, start, stop, indices[rows], coef, intercept, out[rows])

    _threads.run(work, X.shape[0], ROWS)
    return out


def linear_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Dot products and weighted sum of a row in one go."""
    if indices is None or _is_csr(X):
        return _reference.combine(weights, linear_at(X, indices, coef, intercept))
    X, indices, coef, intercept = _entries(X, indices, coef, intercept)
    weights = _as(weights, X.dtype)
    out = np.empty((X.shape[0], coef.shape[1]), dtype=X.dtype)

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        kernels.linear_mix(
            X[rows], indices[rows], weights[rows], coef, intercept, out[rows]
        )

    _threads.run(work, X.shape[0], ROWS)
    return out


def softmax_at(
    X: Array, labels: Array, indices: Array | None, coef: Array, intercept: Array
) -> Array:
    """Logits of a block's entries, and the softmax of the label, in cache."""
    if indices is None:
        return _reference.softmax_at(X, labels, indices, coef, intercept)
    X, indices, coef, intercept = _entries(X, indices, coef, intercept)
    labels = _as(labels, np.intp)
    out = np.empty(indices.shape, dtype=X.dtype)
    shape = (indices.shape[1], coef.shape[1])

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        logits = np.empty((stop - start, *shape), dtype=X.dtype)
        _linear(X, start, stop, indices[rows], coef, intercept, logits)
        kernels.softmax_at(logits, labels[rows], indices[rows], out[rows])

    _threads.run(work, X.shape[0], _size(shape[0] * shape[1], X.dtype.itemsize))
    return out


def softmax_mix(
    X: Array, indices: Array | None, weights: Array, coef: Array, intercept: Array
) -> Array:
    """Logits of a block's entries, softmax and weighted sum, in cache."""
    if indices is None:
        return _reference.softmax_mix(X, indices, weights, coef, intercept)
    X, indices, coef, intercept = _entries(X, indices, coef, intercept)
    weights = _as(weights, X.dtype)
    shape = (indices.shape[1], coef.shape[1])
    out = np.empty((X.shape[0], shape[1]), dtype=X.dtype)

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        logits = np.empty((stop - start, *shape), dtype=X.dtype)
        _linear(X, start, stop, indices[rows], coef, intercept, logits)
        kernels.softmax_mix(logits, indices[rows], weights[rows], out[rows])

    _threads.run(work, X.shape[0], _size(shape[0] * shape[1], X.dtype.itemsize))
    return out


# ------------------------------------------------------------------- E-step
def normal_log_density(
    y: Array, values: Array, scale: Array, indices: Array | None
) -> Array:
    """One pass over the entries; logarithms of the scales once an expert."""
    if indices is None:
        return _reference.normal_log_density(y, values, scale, indices)
    values, dtype = np.ascontiguousarray(values), values.dtype
    y, indices = _as(y, dtype), _as(indices, np.intp)
    table = _as(scale, dtype)
    log_peak = -np.log(table).sum(axis=1) - table.dtype.type(
        0.5 * table.shape[1] * _reference.LOG_2PI
    )
    out = np.empty(indices.shape, dtype=dtype)

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        kernels.normal_log_density(
            y[rows], values[rows], table, log_peak, indices[rows], out[rows]
        )

    _threads.run(work, indices.shape[0], ROWS)
    return out


def truncate(log_joint: Array, width: int) -> tuple[Array, Array, Array]:
    """Choice, responsibilities and log normaliser of a row in one go."""
    if not _kernel_ready(log_joint):
        return _reference.truncate(log_joint, width)
    log_joint = np.ascontiguousarray(log_joint)
    n, m = log_joint.shape
    if width < m:
        kept = np.empty((n, width), dtype=np.intp)
    else:
        kept = np.broadcast_to(np.arange(m), (n, m)).copy()
    resp = np.empty(kept.shape, dtype=log_joint.dtype)
    log_norm = np.empty(n, dtype=log_joint.dtype)

    def work(start: int, stop: int) -> None:
        rows = slice(start, stop)
        if width < m:
            kernels.best_of_rows(log_joint[rows], kept[rows])
        kernels.posterior(log_joint[rows], kept[rows], resp[rows], log_norm[rows])

    _threads.run(work, n, ROWS)
    return kept, resp, log_norm


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Insertion into the k best, row by row."""
    if not _kernel_ready(scores):
        return _reference.top_k(scores, k)
    scores = np.ascontiguousarray(scores)
    k = min(k, scores.shape[1])
    kept = np.empty((scores.shape[0], k), dtype=np.intp)

    def work(start: int, stop: int) -> None:
        kernels.best_of_rows(scores[start:stop], kept[start:stop])

    _threads.run(work, scores.shape[0], ROWS)
    return np.take_along_axis(scores, kept, axis=1), kept


def novel(known: Array, more: Array) -> Array:
    """One pass over the rows."""
    known, more = _as(known, np.intp), _as(more, np.intp)
    out = np.empty_like(more)

    def work(start: int, stop: int) -> None:
        kernels.novel(known[start:stop], more[start:stop], out[start:stop])

    _threads.run(work, len(more), ROWS)
    return out


# ----------------------------------------------------- expert-major entries
def expert_major(indices: Array, n_experts: int) -> tuple[Array, Array]:
    """A counting sort: two passes over the entries."""
    flat = _as(indices, np.intp).reshape(-1)
    order = np.empty(flat.shape[0], dtype=np.intp)
    offsets = np.empty(n_experts + 1, dtype=np.intp)
    kernels.counting_sort(flat, n_experts, order, offsets)
    return order, offsets


def sum_by_expert(values: Array, order: Array | None, offsets: Array) -> list[float]:
    """Segment sums without a copy of the entries."""
    if order is None:
        return _reference.sum_by_expert(values, order, offsets)
    out = np.empty(len(offsets) - 1)
    flat = np.ascontiguousarray(values).reshape(-1)
    kernels.sum_segments(flat, order, _as(offsets, np.intp), out)
    return out.tolist()


def segment_sums(X: Array, weights: Array, order: Array, offsets: Array) -> Array:
    """Segment sums without a copy of the rows; experts on threads."""
    X, flat = _rows_of(X), np.ascontiguousarray(weights).reshape(-1)
    out = np.zeros((len(offsets) - 1, X.shape[1] + 1))

    def work(first: int, last: int) -> None:
        for e in range(first, last):
            run = (flat, weights.shape[1], order, offsets[e], offsets[e + 1], out[e])
            if _is_csr(X):
                kernels.segment_sums_csr(X.data, X.indices, X.indptr, *run)
            else:
                kernels.segment_sums(X, *run)

    _threads.run(work, len(out), 1 if len(out) < PARTS else len(out) // PARTS)
    return out


# ---------------------------------------------------------- normal equations
def gram(
    X: Array, Y: Array, weights: Array, rows: Array | None = None
) -> tuple[Array, Array, Array, Array]:
    """Blocks of √w ([x, y] - mean), gathered in float64, and one product each."""
    if _is_csr(X) or not _kernel_ready(X, Y):
        return _reference.gram(X, Y, weights, rows)
    X, Y = _rows_of(X), _rows_of(Y)
    rows = np.arange(X.shape[0]) if rows is None else _as(rows, np.intp)
    w = _as(weights, np.float64)
    d, width = X.shape[1], X.shape[1] + Y.shape[1]
    total = float(w.sum()) or 1.0

    def sums(start: int, stop: int) -> np.ndarray:
        out = np.empty(width)
        kernels.weighted_sum(X, Y, rows[start:stop], w[start:stop], out)
        return out

    def products(start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, width))
        kernels.centred_rows(X, Y, rows[start:stop], w[start:stop], mean, out)
        return out.T @ out

    size = max(_size(width, 8), -(-len(rows) // PARTS))
    mean = sum(_threads.run(sums, len(rows), size), np.zeros(width)) / total
    G = sum(_threads.run(products, len(rows), size), np.zeros((width, width)))
    return G[:d, :d], G[:d, d:], mean[:d], mean[d:]
