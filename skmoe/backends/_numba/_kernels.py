"""Serial kernels over a run of rows, compiled by Numba; they hold no GIL.

A kernel works through its run in blocks whose logits stay in cache. Blocks of logits
are expert-major, (K, B): the inner loop goes over the rows of a block and runs in
vector registers, without reductions across a register. Kernels call BLAS for products
themselves, so that no thread returns to the interpreter before its run is done.

``rows`` is ``(X,)`` for a dense matrix and ``(data, columns, indptr)`` for CSR. Only
the functions `dot`, `product`, `add_row` and `add_products` know the difference. Tables
of (K, d) coefficients are C-ordered next to dense rows and F-ordered next to CSR, so
that a column's coefficients lie side by side.

We do not use `fastmath`, which lets the compiler drop NaN and infinities. Dot products
may be summed in any order (`reassoc`, `contract`, `nsz`), which keeps both. All kernels
are in this file: Numba's cache does not see changes in another module that a kernel
calls.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from ._cache import cached

ANY_ORDER = {"reassoc", "contract", "nsz"}


def kernel(function=None, *, any_order=False):
    """Compile a function, and cache it on disk wherever there is a folder for it."""
    if function is None:
        return lambda f: kernel(f, any_order=any_order)
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": ANY_ORDER if any_order else False,
    }
    return cached(njit(**options)(function))


# --------------------------------------------------------------- exponential
# math.exp is a call, which keeps a loop out of vector registers; these functions do
# not. They take x <= 0 only: x = k log 2 + r and exp x = 2^k p(r), with 2^k made from
# bits.
@njit(inline="always")
def _exp64(x):
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = 1.0 / 6227020800.0  # Taylor: the 14th term is below 1e-17
    for factorial in (
        479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0, 720.0, 120.0,
        24.0, 6.0, 2.0, 1.0, 1.0,
    ):  # fmt: skip
        p = p * r + 1.0 / factorial
    bits = np.int64((np.int64(np.int32(k)) + np.int64(1023)) << np.int64(52))
    return 0.0 if x < -708.0 else p * bits.view(np.float64)


@njit(inline="always")
def _exp32(x):
    one = np.float32(1.0)
    k = np.float32(math.floor(x * np.float32(1.44269504) + np.float32(0.5)))
    r = (x - k * np.float32(0.693359375)) + k * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)  # Cephes expf, S. L. Moshier
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + one
    bits = np.int32((np.int32(k) + np.int32(127)) << np.int32(23))
    return np.float32(0.0) if x < np.float32(-87.0) else p * bits.view(np.float32)


def exp(x):
    """Return exp x for x <= 0, 0 for -inf and NaN for NaN."""


@overload(exp)
def _exp(x):
    return (lambda x: _exp32(x)) if x == types.float32 else (lambda x: _exp64(x))


# ----------------------------------------------------------------- rows of X
def dot(rows, i, c):
    """Return the product of row i with the vector c."""


@overload(dot, jit_options={"fastmath": ANY_ORDER})
def _dot(rows, i, c):
    if len(rows) == 1:

        def dense(rows, i, c):
            total = c.dtype.type(0.0)
            for f in range(c.shape[0]):
                total += c[f] * rows[0][i, f]
            return total

        return dense

    def csr(rows, i, c):
        data, columns, indptr = rows
        total = c.dtype.type(0.0)
        for s in range(indptr[i], indptr[i + 1]):
            total += c[columns[s]] * data[s]
        return total

    return csr


def logits_of_row(rows, i, first, last, coef, bias, logits):
    """Write coef_e x_i + bias_e from expert ``first`` to ``last``."""


@overload(logits_of_row, jit_options={"fastmath": ANY_ORDER})
def _logits_of_row(rows, i, first, last, coef, bias, logits):
    if len(rows) == 1:

        def dense(rows, i, first, last, coef, bias, logits):
            X = rows[0]
            for e in range(first, last):
                total = coef.dtype.type(0.0)
                for f in range(coef.shape[1]):
                    total += coef[e, f] * X[i, f]
                logits[e] = total + bias[e]

        return dense

    def csr(rows, i, first, last, coef, bias, logits):
        data, columns, indptr = rows
        for e in range(first, last):
            total = coef.dtype.type(0.0)
            for s in range(indptr[i], indptr[i + 1]):
                total += coef[e, columns[s]] * data[s]
            logits[e] = total + bias[e]

    return csr


def product(rows, start, stop, coef, logits, spare):
    """Write coef @ X[start:stop].T, (K, B); ``spare`` has its size."""


@overload(product)
def _product(rows, start, stop, coef, logits, spare):
    if len(rows) == 1:
        return lambda rows, start, stop, coef, logits, spare: np.dot(
            coef, rows[0][start:stop].T, logits
        )

    def csr(rows, start, stop, coef, logits, spare):
        data, columns, indptr = rows
        n_experts, n_rows = logits.shape
        for i in range(n_rows):
            total = spare[:n_experts]
            total[:] = 0.0
            for s in range(indptr[start + i], indptr[start + i + 1]):
                value = data[s]
                column = columns[s]
                for e in range(n_experts):
                    total[e] += value * coef[e, column]
            for e in range(n_experts):
                logits[e, i] = total[e]

    return csr


def add_row(rows, i, weight, out):
    """Add weight · row i to ``out``, in float64."""


@overload(add_row)
def _add_row(rows, i, weight, out):
    if len(rows) == 1:

        def dense(rows, i, weight, out):
            for f in range(rows[0].shape[1]):
                out[f] += weight * rows[0][i, f]

        return dense

    def csr(rows, i, weight, out):
        data, columns, indptr = rows
        for s in range(indptr[i], indptr[i + 1]):
            out[columns[s]] += weight * data[s]

    return csr


def add_products(rows, start, stop, density, out, spare):
    """Add density @ X[start:stop], (K, d), to ``out``, in float64; spare is like it."""


@overload(add_products)
def _add_products(rows, start, stop, density, out, spare):
    if len(rows) == 1:

        def dense(rows, start, stop, density, out, spare):
            np.dot(density, rows[0][start:stop], spare)
            for e in range(out.shape[0]):
                for f in range(out.shape[1]):
                    out[e, f] += spare[e, f]

        return dense

    def csr(rows, start, stop, density, out, spare):
        data, columns, indptr = rows
        n_experts = out.shape[0]
        weight = spare[:, 0]
        for i in range(stop - start):
            for e in range(n_experts):
                weight[e] = density[e, i]
            for s in range(indptr[start + i], indptr[start + i + 1]):
                value = np.float64(data[s])
                column = columns[s]
                for e in range(n_experts):
                    out[e, column] += value * weight[e]

    return csr


# ------------------------------------------------------------ best of a block
@njit(inline="always")
def _insert(value, expert, v0, v1, e0, e1):
    """Return the best two of a sorted pair and one more; ties keep the earlier."""
    first = value > v0
    loser = v0 if first else value
    loser_expert = e0 if first else expert
    v0 = value if first else v0
    e0 = expert if first else e0
    second = first | (loser > v1)  # the loser of the first place comes before a tie
    v1 = loser if second else v1
    e1 = loser_expert if second else e1
    return v0, v1, e0, e1


@kernel
def best_of_block(logits, values, experts):
    """Write the k best of each column of (K, B) logits, best first.

    ``values`` and ``experts`` are (k + 1, B); the last row is scratch.
    """
    n_experts, n_rows = logits.shape
    k = values.shape[0] - 1
    values[:] = -np.inf
    experts[:] = -1
    if k <= 2:
        v0 = values[0]
        v1 = values[1]
        e0 = experts[0]
        e1 = experts[1]
        unrolled = n_experts // 4 * 4
        for e in range(0, unrolled, 4):
            # Four experts per sweep: the best two so far stay in registers.
            za = logits[e]
            zb = logits[e + 1]
            zc = logits[e + 2]
            zd = logits[e + 3]
            first = np.int32(e)
            second = np.int32(e + 1)
            third = np.int32(e + 2)
            fourth = np.int32(e + 3)
            for i in range(n_rows):
                a, b, p, q = v0[i], v1[i], e0[i], e1[i]
                a, b, p, q = _insert(za[i], first, a, b, p, q)
                a, b, p, q = _insert(zb[i], second, a, b, p, q)
                a, b, p, q = _insert(zc[i], third, a, b, p, q)
                a, b, p, q = _insert(zd[i], fourth, a, b, p, q)
                v0[i], v1[i], e0[i], e1[i] = a, b, p, q
        for e in range(unrolled, n_experts):
            z = logits[e]
            expert_id = np.int32(e)
            for i in range(n_rows):
                a, b, p, q = v0[i], v1[i], e0[i], e1[i]
                a, b, p, q = _insert(z[i], expert_id, a, b, p, q)
                v0[i], v1[i], e0[i], e1[i] = a, b, p, q
    else:
        value = values[k]  # of the entry that seeks its place
        expert = experts[k]
        for e in range(n_experts):
            z = logits[e]
            for i in range(n_rows):
                value[i] = z[i]
                expert[i] = e
            for j in range(k):
                vj = values[j]
                ej = experts[j]
                for i in range(n_rows):
                    new = value[i]
                    old = vj[i]
                    new_expert = expert[i]
                    old_expert = ej[i]
                    better = (new > old) | ((new == old) & (new_expert < old_expert))
                    vj[i] = new if better else old
                    value[i] = old if better else new
                    ej[i] = new_expert if better else old_expert
                    expert[i] = old_expert if better else new_expert
    for i in range(n_rows):
        if experts[k - 1, i] < 0:
            _fill(logits, values, experts, k, i)


@kernel
def _fill(logits, values, experts, k, i):
    """Fill empty places with the first experts whose logits are -inf, then NaN."""
    n_experts = logits.shape[0]
    for last in (False, True):  # NaN comes last
        for e in range(n_experts):
            skip = math.isnan(logits[e, i]) != last
            place = k
            for j in range(k - 1, -1, -1):
                skip = skip or experts[j, i] == e
                place = j if experts[j, i] < 0 else place
            if not skip and place < k:
                experts[place, i] = e
                values[place, i] = logits[e, i]


@kernel
def _biased(rows, start, stop, coef, bias, logits, spare):
    product(rows, start, stop, coef, logits, spare)
    for e in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            logits[e, i] += bias[e]


@kernel
def _soften(values):
    """Turn the k best of each column into their softmax; the last row is scratch."""
    k = values.shape[0] - 1
    n_rows = values.shape[1]
    peak = values[0].copy()
    total = values[k]
    for i in range(n_rows):
        if math.isnan(values[k - 1, i]):  # NaN comes last, and makes all NaN
            peak[i] = values[k - 1, i]
    total[:] = 0.0
    for j in range(k):
        for i in range(n_rows):
            values[j, i] = exp(values[j, i] - peak[i])
            total[i] += values[j, i]
    for j in range(k):
        for i in range(n_rows):
            # Where no value is above -inf, all get equal shares.
            values[j, i] = 1.0 / k if peak[i] == -np.inf else values[j, i] / total[i]


# --------------------------------------------------------------------- gate
@kernel
def softmax_route(rows, first, last, coef, bias, size, indices, weights):
    """Write each row's k best experts and the softmax over them."""
    n_experts = coef.shape[0]
    k = indices.shape[1]
    buffer = np.empty((2, n_experts * size), dtype=coef.dtype)
    value_buffer = np.empty((k + 1) * size, dtype=coef.dtype)
    expert_buffer = np.empty((k + 1) * size, dtype=np.int32)
    for start in range(first, last, size):
        b = min(size, last - start)
        logits = buffer[0, : n_experts * b].reshape(n_experts, b)
        values = value_buffer[: (k + 1) * b].reshape(k + 1, b)
        experts = expert_buffer[: (k + 1) * b].reshape(k + 1, b)
        _biased(rows, start, start + b, coef, bias, logits, buffer[1])
        best_of_block(logits, values, experts)
        _soften(values)
        for i in range(b):
            for j in range(k):
                indices[start + i, j] = experts[j, i]
                weights[start + i, j] = values[j, i]


@kernel
def softmax_survey(rows, first, last, coef, bias, size, wanted, at, best, log_best):
    """Write log softmax at the wanted experts and at the k best."""
    n_experts = coef.shape[0]
    k = best.shape[1]
    buffer = np.empty((2, n_experts * size), dtype=coef.dtype)
    value_buffer = np.empty((k + 1) * size, dtype=coef.dtype)
    expert_buffer = np.empty((k + 1) * size, dtype=np.int32)
    peak = np.empty(size, coef.dtype)
    norm = np.empty(size, coef.dtype)
    for start in range(first, last, size):
        b = min(size, last - start)
        logits = buffer[0, : n_experts * b].reshape(n_experts, b)
        values = value_buffer[: (k + 1) * b].reshape(k + 1, b)
        experts = expert_buffer[: (k + 1) * b].reshape(k + 1, b)
        _biased(rows, start, start + b, coef, bias, logits, buffer[1])
        best_of_block(logits, values, experts)
        _normaliser(logits, values, peak, norm)
        for i in range(b):
            for j in range(wanted.shape[1]):
                e = wanted[start + i, j]
                log_proba = -np.inf if e < 0 else (logits[e, i] - peak[i]) - norm[i]
                at[start + i, j] = log_proba
            for j in range(k):
                best[start + i, j] = experts[j, i]
                log_best[start + i, j] = (values[j, i] - peak[i]) - norm[i]


@kernel
def _normaliser(logits, values, peak, norm):
    """Write each column's peak, the first of its best values, and logsumexp - peak."""
    n_experts, n_rows = logits.shape
    for i in range(n_rows):
        peak[i] = values[0, i] if math.isfinite(values[0, i]) else 0.0
        norm[i] = 0.0
    for e in range(n_experts):
        for i in range(n_rows):
            norm[i] += exp(logits[e, i] - peak[i])
    for i in range(n_rows):
        norm[i] = math.log(norm[i])


@kernel
def softmax_loss(rows, first, last, coef, bias, size, mass, g_coef, g_bias):
    """Return Σ mass log Σ exp(logits); add its gradient to g_coef and g_bias."""
    n_experts = coef.shape[0]
    buffer = np.empty((2, n_experts * size), dtype=coef.dtype)
    spare = np.empty_like(coef)
    peak = np.empty(size, coef.dtype)
    total = np.empty(size, coef.dtype)
    loss = 0.0
    for start in range(first, last, size):
        b = min(size, last - start)
        z = buffer[0, : n_experts * b].reshape(n_experts, b)
        _biased(rows, start, start + b, coef, bias, z, buffer[1])
        peak[:] = -np.inf
        total[:] = 0.0
        for e in range(n_experts):
            for i in range(b):  # this form of max keeps NaN
                peak[i] = peak[i] if peak[i] >= z[e, i] else z[e, i]
        for e in range(n_experts):
            for i in range(b):
                z[e, i] = exp(z[e, i] - peak[i])
                total[i] += z[e, i]
        for i in range(b):
            m = mass[start + i]
            loss += np.float64(m * (math.log(total[i]) + peak[i]))
            total[i] = m / total[i]
        for e in range(n_experts):
            pull = 0.0
            for i in range(b):
                z[e, i] *= total[i]
                pull += z[e, i]
            g_bias[e] += pull
        add_products(rows, start, start + b, z, g_coef, spare)
    return loss


@kernel
def softmax_loss_thin(rows, first, last, coef, bias, mass, g_coef, g_bias):
    """Do as `softmax_loss`, row by row: with few classes memory limits a product."""
    n_classes = coef.shape[0]
    z = np.empty(n_classes, dtype=coef.dtype)
    loss = 0.0
    for i in range(first, last):
        peak = _class_logits(rows, i, coef, bias, z)
        total = coef.dtype.type(0.0)
        for c in range(n_classes):
            z[c] = exp(z[c] - peak)
            total += z[c]
        loss += np.float64(mass[i] * (math.log(total) + peak))
        for c in range(n_classes):
            pull = np.float64(mass[i] * z[c] / total)
            g_bias[c] += pull
            add_row(rows, i, pull, g_coef[c])
    return loss


# ------------------------------------------------------------------ grid of experts
@kernel
def _best_cells(logits, n_rows, pairs, k):
    """Return the k best cells of a grid for each column of (E₁ + E₂, B) logits.

    Values and cells are (k + 1, B), the last row is scratch; then follow the best
    logits of the rows of the grid, and of its columns.
    """
    b = logits.shape[1]
    n_columns = logits.shape[0] - n_rows
    row_shape = (min(k, n_rows) + 1, b)
    column_shape = (min(k, n_columns) + 1, b)
    row_values = np.empty(row_shape, logits.dtype)
    column_values = np.empty(column_shape, logits.dtype)
    row = np.empty(row_shape, np.int32)
    column = np.empty(column_shape, np.int32)
    best_of_block(logits[:n_rows], row_values, row)
    best_of_block(logits[n_rows:], column_values, column)
    sums = np.empty((pairs.shape[0], b), logits.dtype)
    for s in range(pairs.shape[0]):
        p, q = pairs[s]
        for i in range(b):
            sums[s, i] = row_values[p, i] + column_values[q, i]
    values = np.empty((k + 1, b), logits.dtype)
    cells = np.empty((k + 1, b), np.int32)
    best_of_block(sums, values, cells)
    for j in range(k):
        for i in range(b):
            p, q = pairs[cells[j, i]]
            cells[j, i] = row[p, i] * n_columns + column[q, i]
    return values, cells, row_values, column_values


@kernel
def product_route(
    rows, first, last, coef, bias, size, n_rows, pairs, expert_of, indices, weights
):  # fmt: skip
    """Write each row's k best experts and the softmax over them."""
    n_logits = coef.shape[0]
    k = indices.shape[1]
    buffer = np.empty((2, n_logits * size), dtype=coef.dtype)
    for start in range(first, last, size):
        b = min(size, last - start)
        logits = buffer[0, : n_logits * b].reshape(n_logits, b)
        _biased(rows, start, start + b, coef, bias, logits, buffer[1])
        values, cells, _, _ = _best_cells(logits, n_rows, pairs, k)
        _soften(values)
        for i in range(b):
            for j in range(k):
                indices[start + i, j] = expert_of[cells[j, i]]
                weights[start + i, j] = values[j, i]


@kernel
def product_survey(
    rows, first, last, coef, bias, size, n_rows, pairs, expert_of, cells,
    wanted, at, best, log_best,
):  # fmt: skip
    """Write log probabilities at the wanted experts and at the k best."""
    n_logits = coef.shape[0]
    k = best.shape[1]
    buffer = np.empty((2, n_logits * size), dtype=coef.dtype)
    peak = np.empty((2, size), coef.dtype)
    norm = np.empty((2, size), coef.dtype)
    for start in range(first, last, size):
        b = min(size, last - start)
        logits = buffer[0, : n_logits * b].reshape(n_logits, b)
        _biased(rows, start, start + b, coef, bias, logits, buffer[1])
        values, best_cells, row, column = _best_cells(logits, n_rows, pairs, k)
        _normaliser(logits[:n_rows], row, peak[0], norm[0])
        _normaliser(logits[n_rows:], column, peak[1], norm[1])
        for i in range(b):
            for j in range(wanted.shape[1]):
                e = wanted[start + i, j]
                at[start + i, j] = -np.inf
                if e >= 0:
                    row_part = (logits[cells[e, 0], i] - peak[0, i]) - norm[0, i]
                    column_part = logits[n_rows + cells[e, 1], i] - peak[1, i]
                    at[start + i, j] = row_part + (column_part - norm[1, i])
            top = peak[0, i] + peak[1, i]
            total = norm[0, i] + norm[1, i]
            for j in range(k):
                best[start + i, j] = expert_of[best_cells[j, i]]
                log_best[start + i, j] = (values[j, i] - top) - total


# ------------------------------------------------------------ tree of softmaxes
# A view of an array is counted in and out, in atomic steps at which threads wait for
# each other. A node has few edges, so these functions take places in the array instead.
# They are unsigned, so Numba need not ask whether they count from the end.
@njit(inline="always")
def _edges(bounds, node):
    """Return the first edge of a node and the first edge of the next node."""
    return np.uintp(bounds[node]), np.uintp(bounds[node + 1])


@kernel(any_order=True)
def _open(node, bounds, above, total):
    """Turn the logits of a node's edges into log probabilities of their ends.

    The edge that leads to the node must already hold its log probability.
    """
    first, last = _edges(bounds, node)
    up = above[first]
    before = total[up] if up >= 0 else total.dtype.type(0.0)
    peak = total[first]
    norm = total.dtype.type(0.0)
    for e in range(first, last):
        peak = max(peak, total[e])  # runs in vector registers; NaN makes norm NaN
    for e in range(first, last):
        norm += exp(total[e] - peak)
    norm = math.log(norm)
    for e in range(first, last):
        total[e] = ((total[e] - peak) - norm) + before


@kernel
def _ask(rows, i, node, coef, bias, bounds, above, total):
    """Write the log probabilities of the ends of a node's edges, for row i."""
    first, last = _edges(bounds, node)
    logits_of_row(rows, i, first, last, coef, bias, total)
    _open(node, bounds, above, total)


@kernel(any_order=True)
def _sift(first, last, total, target, leaf, rest, values, keys, line, count, size):
    """Put the best of some edges' leaves, or inner nodes, among the best of a line.

    The best go first, so that few are put in vain; ``rest`` is scratch. Return the new
    ``count`` of entries in the line.
    """
    for e in range(first, last):
        rest[e] = total[e] if (target[e] < 0) == leaf else -np.inf
    for _ in range(size):
        top = rest[first]
        for e in range(first, last):
            top = max(top, rest[e])
        full = count == size
        if not top > -np.inf or (full and top < values[line, count - 1]):
            break
        place = first
        while rest[place] != top:
            place += np.uintp(1)
        key = -1 - target[place] if leaf else target[place]
        rest[place] = -np.inf
        c = count  # the entry moves up from here: the largest first, ties by key
        while c > 0 and (
            top > values[line, c - 1]
            or (top == values[line, c - 1] and key < keys[line, c - 1])
        ):
            if c < size:
                values[line, c] = values[line, c - 1]
                keys[line, c] = keys[line, c - 1]
            c -= 1
        if c < size:
            values[line, c] = top
            keys[line, c] = key
            count = min(count + 1, size)
    return count


@kernel
def tree_survey(
    rows, first, last, coef, bias, bounds, target, owner, above, paths, beam,
    wanted, at, best, log_best,
):  # fmt: skip
    """Write log probabilities at the wanted experts and at the k best of the search.

    A node that is no more probable than the k-th best leaf so far has no better leaf,
    so it is not opened.
    """
    k = best.shape[1]
    leaves = 2
    total = np.empty(coef.shape[0], coef.dtype)
    rest = np.empty_like(bias)
    last_row = np.full(bounds.shape[0] - 1, -1)  # the last row that opened each node
    n_inner = np.zeros_like(last_row)
    for e in range(target.shape[0]):
        n_inner[owner[e]] += target[e] >= 0
    # Lines of the best: nodes of this level, of the next one, and leaves.
    values = np.empty((3, max(beam, k)), coef.dtype)
    keys = np.empty(values.shape, np.intp)
    for i in range(first, last):
        values[leaves, :k] = -np.inf  # stays if logits are not finite
        keys[leaves, :k] = 0
        here = 0
        n_open = min(k, 1)
        n_leaves = 0
        values[here, 0] = 0.0
        keys[here, 0] = 0
        while n_open > 0:
            n_next = 0
            for c in range(n_open):
                node = keys[here, c]
                if n_leaves == k and not values[here, c] > values[leaves, k - 1]:
                    break
                _ask(rows, i, node, coef, bias, bounds, above, total)
                last_row[node] = i
                a, b = _edges(bounds, node)
                if n_inner[node] < bounds[node + 1] - bounds[node]:
                    n_leaves = _sift(
                        a, b, total, target, True, rest,
                        values, keys, leaves, n_leaves, k,
                    )  # fmt: skip
                if n_inner[node] > 0:
                    n_next = _sift(
                        a, b, total, target, False, rest,
                        values, keys, 1 - here, n_next, beam,
                    )  # fmt: skip
            here = 1 - here
            n_open = n_next
        for j in range(k):
            best[i, j] = keys[leaves, j]
            log_best[i, j] = values[leaves, j]
        for j in range(wanted.shape[1]):
            at[i, j] = -np.inf
            for level in range(paths.shape[1] if wanted[i, j] >= 0 else 0):
                e = paths[wanted[i, j], level]
                if e >= 0:
                    if last_row[owner[e]] != i:
                        _ask(rows, i, owner[e], coef, bias, bounds, above, total)
                        last_row[owner[e]] = i
                    at[i, j] = total[e]


@kernel
def tree_log_proba(logits, bounds, above, leaf, out):
    """Write the log probabilities of all leaves, (n, K); ``logits`` are overwritten."""
    for i in range(logits.shape[0]):
        for node in range(bounds.shape[0] - 1):
            _open(node, bounds, above, logits[i])
        for e in range(leaf.shape[0]):
            out[i, e] = logits[i, leaf[e]]


# ------------------------------------------------------------------ experts
@kernel
def linear_at(rows, first, last, indices, coef, bias, out):
    """Write coef_k x + bias_k at each entry, (n, m, q)."""
    for i in range(first, last):
        for j in range(indices.shape[1]):
            e = indices[i, j]
            for o in range(coef.shape[1]):
                is_entry = e >= 0
                answer = dot(rows, i, coef[e, o]) + bias[e, o] if is_entry else 0.0
                out[i, j, o] = answer


@kernel
def linear_mix(rows, first, last, indices, weights, coef, bias, out):
    """Write Σ_m w (coef_k x + bias_k), (n, q)."""
    for i in range(first, last):
        for o in range(coef.shape[1]):
            total = coef.dtype.type(0.0)
            for j in range(indices.shape[1]):
                e = indices[i, j]
                if e >= 0:
                    total += weights[i, j] * (dot(rows, i, coef[e, o]) + bias[e, o])
            out[i, o] = total


@kernel
def _class_logits(rows, i, coef, bias, logits):
    """Write one expert's logits of row i; return their peak."""
    peak = coef.dtype.type(-np.inf)
    for c in range(coef.shape[0]):
        logits[c] = dot(rows, i, coef[c]) + bias[c]
        peak = peak if peak >= logits[c] else logits[c]
    return peak


@kernel
def softmax_at(rows, first, last, labels, indices, coef, bias, out):
    """Write the log softmax of each row's label at each entry, (n, m)."""
    logits = np.empty(coef.shape[1], dtype=coef.dtype)
    for i in range(first, last):
        for j in range(indices.shape[1]):
            e = indices[i, j]
            out[i, j] = 0.0
            if e >= 0:
                peak = _class_logits(rows, i, coef[e], bias[e], logits)
                total = coef.dtype.type(0.0)
                for c in range(logits.shape[0]):
                    total += exp(logits[c] - peak)
                out[i, j] = (logits[labels[i]] - peak) - math.log(total)


@kernel
def softmax_mix(rows, first, last, indices, weights, coef, bias, out):
    """Write Σ_m w softmax(coef_k x + bias_k), (n, q)."""
    logits = np.empty(coef.shape[1], dtype=coef.dtype)
    for i in range(first, last):
        out[i] = 0.0
        for j in range(indices.shape[1]):
            e = indices[i, j]
            if e >= 0:
                peak = _class_logits(rows, i, coef[e], bias[e], logits)
                total = coef.dtype.type(0.0)
                for c in range(logits.shape[0]):
                    logits[c] = exp(logits[c] - peak)
                    total += logits[c]
                share = weights[i, j] / total
                for c in range(logits.shape[0]):
                    out[i, c] += share * logits[c]


# ------------------------------------------------------------------- E-step
@kernel
def normal_log_density(first, last, y, values, scale, log_peak, indices, out):
    """Write Σ_q log N(y; values, scale_k²) at each entry; -inf at -1.

    ``indices`` without rows mean every expert in every row.
    """
    half = values.dtype.type(0.5)
    dense = indices.shape[0] == 0
    for i in range(first, last):
        for j in range(values.shape[1]):
            e = j if dense else indices[i, j]
            square = values.dtype.type(0.0)
            for o in range(values.shape[2]):
                z = (y[i, o] - values[i, j, o]) / scale[e, o]
                square += z * z
            out[i, j] = log_peak[e] - half * square if e >= 0 else -np.inf


@kernel
def log_softmax(first, last, logits, out):
    """Write the logarithm of each row's softmax."""
    for i in range(first, last):
        peak = logits.dtype.type(-np.inf)
        for j in range(logits.shape[1]):
            peak = peak if peak >= logits[i, j] else logits[i, j]
        total = logits.dtype.type(0.0)
        for j in range(logits.shape[1]):
            total += exp(logits[i, j] - peak)
        norm = math.log(total)
        for j in range(logits.shape[1]):
            out[i, j] = (logits[i, j] - peak) - norm


@kernel
def novel(first, last, known, more, out):
    """Write ``more`` with -1 where the row has that expert already."""
    for i in range(first, last):
        for j in range(more.shape[1]):
            expert = more[i, j]
            for c in range(known.shape[1]):
                expert = -1 if known[i, c] == expert else expert
            for c in range(j):
                expert = -1 if out[i, c] == expert else expert
            out[i, j] = expert


@njit(inline="always")
def _above(value, other):
    """Tell whether a score comes before another: larger first, NaN last."""
    return value > other or (math.isnan(other) and not math.isnan(value))


@kernel
def best_of_rows(first, last, scores, kept):
    """Write the positions of the k best of each row of scores, best first."""
    k = kept.shape[1]
    for i in range(first, last):
        count = 0
        for j in range(scores.shape[1]):
            place = count
            while place > 0 and _above(scores[i, j], scores[i, kept[i, place - 1]]):
                place -= 1
            if place < k:
                count = min(count + 1, k)
                for c in range(count - 1, place, -1):
                    kept[i, c] = kept[i, c - 1]
                kept[i, place] = j


@kernel
def posterior(first, last, log_joint, kept, resp, log_norm):
    """Write responsibilities and log normaliser of the entries that are kept."""
    width = kept.shape[1]
    for i in range(first, last):
        peak = log_joint[i, kept[i, 0]]
        for j in range(1, width):
            value = log_joint[i, kept[i, j]]
            peak = value if _above(value, peak) and not math.isnan(peak) else peak
            peak = value if math.isnan(value) else peak
        if peak == -np.inf:  # no density anywhere
            resp[i] = 1.0 / width
            log_norm[i] = -np.inf
            continue
        peak = log_joint.dtype.type(0.0) if peak == np.inf else peak
        total = log_joint.dtype.type(0.0)
        for j in range(width):
            resp[i, j] = math.exp(log_joint[i, kept[i, j]] - peak)
            total += resp[i, j]
        for j in range(width):
            resp[i, j] /= total
        log_norm[i] = math.log(total) + peak


# ----------------------------------------------------- expert-major entries
@kernel
def counting_sort(flat, n_experts, order, offsets):
    """Sort entries by expert, stably; entries of -1 come first."""
    counts = np.zeros(n_experts + 1, dtype=np.int64)
    for entry in range(flat.shape[0]):
        counts[flat[entry] + 1] += 1
    place = np.empty(n_experts + 1, dtype=np.int64)
    before = 0
    for e in range(n_experts + 1):
        place[e] = before
        before += counts[e]
        offsets[e] = before
    for entry in range(flat.shape[0]):
        e = flat[entry] + 1
        order[place[e]] = entry
        place[e] += 1


@kernel
def sum_segments(flat, order, offsets, out):
    """Write the float64 sum of each expert's entries."""
    for e in range(out.shape[0]):
        total = 0.0
        for s in range(offsets[e], offsets[e + 1]):
            total += flat[order[s]]
        out[e] = total


@kernel
def segment_sums(rows, first, last, flat, width, order, offsets, out):
    """Write Σ w [x, 1] over the entries of experts first to last, (K, d + 1)."""
    for e in range(first, last):
        out[e] = 0.0
        for s in range(offsets[e], offsets[e + 1]):
            weight = np.float64(flat[order[s]])
            add_row(rows, order[s] // width, weight, out[e])
            out[e, -1] += weight


# ---------------------------------------------------------- normal equations
@kernel
def weighted_sum(first, last, X, Y, rows, weights, origin, out):
    """Write Σ w ([x, y] - origin) over some rows, (d + q,)."""
    d = X.shape[1]
    out[:] = 0.0
    for s in range(first, last):
        row = rows[s]
        weight = weights[s]
        for f in range(d):
            out[f] += weight * (X[row, f] - origin[f])
        for o in range(Y.shape[1]):
            out[d + o] += weight * (Y[row, o] - origin[d + o])


@kernel
def scatter(first, last, X, Y, rows, weights, mean, size, out):
    """Add Σ w (z - mean)(z - mean)ᵀ, z = [x, y], over some rows, in float64."""
    d = X.shape[1]
    width = out.shape[0]
    buffer = np.empty((size, width))
    spare = np.empty((width, width))
    for start in range(first, last, size):
        b = min(size, last - start)
        z = buffer[:b]
        for i in range(b):
            row = rows[start + i]
            root = math.sqrt(weights[start + i])
            for f in range(d):
                z[i, f] = root * (X[row, f] - mean[f])
            for o in range(width - d):
                z[i, d + o] = root * (Y[row, o] - mean[d + o])
        np.dot(z.T, z, spare)
        for f in range(width):
            for g in range(width):
                out[f, g] += spare[f, g]
