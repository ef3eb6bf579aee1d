"""Serial kernels on one block, compiled by Numba; they hold no GIL.

Layout: blocks of logits are expert-major, (K, B), so that the loop over the rows of a
block is the inner one and runs in vector registers, without reductions across a
register. All kernels stand in this file: Numba's cache does not see changes in a
function of another module that a kernel calls.

No `fastmath`: it lets the compiler drop NaN and infinities. Dot products may be summed
in any order (`reassoc`, `contract`, `nsz`), which keeps both.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


def kernel(function=None, *, any_order=False):
    """Compile a function; cached on disk wherever there is a folder for it."""
    if function is None:
        return lambda f: kernel(f, any_order=any_order)
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "nsz"} if any_order else False,
    }
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # Numba finds no folder that it may write to
        return njit(**options)(function)


# ----------------------------------------------------------- best of a block
@njit(inline="always")
def _insert(value, expert, v0, v1, e0, e1):
    """Return the best two of a sorted pair and one more; ties keep the earlier."""
    first = value > v0
    lost = v0 if first else value
    lost_expert = e0 if first else expert
    v0 = value if first else v0
    e0 = expert if first else e0
    second = lost > v1
    v1 = lost if second else v1
    e1 = lost_expert if second else e1
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
        v0, v1, e0, e1 = values[0], values[1], experts[0], experts[1]
        unrolled = n_experts // 4 * 4
        for e in range(0, unrolled, 4):
            # Four experts a sweep: the running best stays in registers.
            za, zb, zc, zd = logits[e], logits[e + 1], logits[e + 2], logits[e + 3]
            ea, eb, ec, ed = (
                np.int32(e),
                np.int32(e + 1),
                np.int32(e + 2),
                np.int32(e + 3),
            )
            for i in range(n_rows):
                a, b, p, q = v0[i], v1[i], e0[i], e1[i]
                a, b, p, q = _insert(za[i], ea, a, b, p, q)
                a, b, p, q = _insert(zb[i], eb, a, b, p, q)
                a, b, p, q = _insert(zc[i], ec, a, b, p, q)
                a, b, p, q = _insert(zd[i], ed, a, b, p, q)
                v0[i], v1[i], e0[i], e1[i] = a, b, p, q
        for e in range(unrolled, n_experts):
            z, expert = logits[e], np.int32(e)
            for i in range(n_rows):
                a, b, p, q = v0[i], v1[i], e0[i], e1[i]
                a, b, p, q = _insert(z[i], expert, a, b, p, q)
                v0[i], v1[i], e0[i], e1[i] = a, b, p, q
    else:
        value, expert = values[k], experts[k]  # what is still to be placed
        for e in range(n_experts):
            z = logits[e]
            for i in range(n_rows):
                value[i], expert[i] = z[i], e
            for j in range(k):
                vj, ej = values[j], experts[j]
                for i in range(n_rows):
                    new, old = value[i], vj[i]
                    better = new > old
                    x, y = expert[i], ej[i]
                    vj[i] = new if better else old
                    value[i] = old if better else new
                    ej[i] = x if better else y
                    expert[i] = y if better else x
    for i in range(n_rows):
        if experts[k - 1, i] < 0:
            _fill(logits, values, experts, k, i)


@kernel
def _fill(logits, values, experts, k, i):
    """Give the places that only -inf or NaN is left for to the first experts left."""
    e = 0
    for j in range(k):
        if experts[j, i] >= 0:
            continue
        taken = True
        while taken:
            taken = False
            for other in range(k):
                taken = taken or experts[other, i] == e
            e += 1
        experts[j, i] = e - 1
        values[j, i] = logits[e - 1, i]


@kernel
def add_bias(logits, bias):
    """Add an expert's intercept to its row of (K, B) logits."""
    for e in range(logits.shape[0]):
        for i in range(logits.shape[1]):
            logits[e, i] += bias[e]


@kernel
def soften(values, experts, weights, indices):
    """Write the softmax of the k best (k + 1, B) of a block, row-major (B, k)."""
    n_rows, k = weights.shape
    for i in range(n_rows):
        peak = values[0, i]
        total = peak - peak  # zero, or NaN where no value is finite
        for j in range(k):
            indices[i, j] = experts[j, i]
            weight = math.exp(values[j, i] - peak)
            weights[i, j] = weight
            total += weight
        if peak == -np.inf:
            weights[i] = 1.0 / k
        else:
            for j in range(k):
                weights[i, j] /= total


# ------------------------------------------------------------------- survey
@kernel
def survey_block(logits, values, experts, wanted, at, indices):
    """Gather what is asked of a block of logits, then shift it by its peaks.

    The logits are ready for exp afterwards; ``at`` and ``values`` are shifted too.
    """
    n_experts, n_rows = logits.shape
    n_rows, m = wanted.shape
    k = indices.shape[1]
    peak = values[k]  # scratch by now
    for i in range(n_rows):
        top = values[0, i]
        peak[i] = top if math.isfinite(top) else 0.0
        for j in range(m):
            expert = wanted[i, j]
            at[i, j] = -np.inf if expert < 0 else logits[expert, i] - peak[i]
        for j in range(k):
            indices[i, j] = experts[j, i]
            values[j, i] -= peak[i]
    for e in range(n_experts):
        for i in range(n_rows):
            logits[e, i] -= peak[i]


@kernel
def survey_norm(density, values, at, log_best):
    """Subtract log Σ exp, given exp of the shifted logits (K, B)."""
    n_rows, k = log_best.shape
    total = values[k]
    total[:] = 0.0
    for e in range(density.shape[0]):
        for i in range(n_rows):
            total[i] += density[e, i]
    for i in range(n_rows):
        norm = math.log(total[i])
        for j in range(at.shape[1]):
            at[i, j] -= norm
        for j in range(k):
            log_best[i, j] = values[j, i] - norm


# --------------------------------------------------------------------- loss
@kernel
def shift_block(logits, bias, peak):
    """Add intercepts to (K, B) logits and subtract each column's peak."""
    n_experts, n_rows = logits.shape
    peak[:] = -np.inf
    for e in range(n_experts):
        for i in range(n_rows):
            z = logits[e, i] + bias[e]
            logits[e, i] = z
            # Written so that NaN stays.
            peak[i] = peak[i] if peak[i] >= z else z
    for e in range(n_experts):
        for i in range(n_rows):
            logits[e, i] -= peak[i]


@kernel
def loss_block(density, peak, mass, total):
    """Return Σ mass log-normaliser; turn densities into mass-weighted softmax."""
    n_experts, n_rows = density.shape
    total[:] = 0.0
    for e in range(n_experts):
        for i in range(n_rows):
            total[i] += density[e, i]
    loss = 0.0
    for i in range(n_rows):
        loss += np.float64(mass[i] * (math.log(total[i]) + peak[i]))
        total[i] = mass[i] / total[i]
    for e in range(n_experts):
        for i in range(n_rows):
            density[e, i] *= total[i]
    return loss


# ------------------------------------------------------------------ experts
@kernel(any_order=True)
def _dot(a, b):
    total = a[0] * b[0] if a.shape[0] else a.dtype.type(0)
    for f in range(1, a.shape[0]):
        total += a[f] * b[f]
    return total


@kernel(any_order=True)
def linear_at(X, indices, coef, intercept, out):
    """Write coef_k x + intercept_k at each entry, (B, m, q)."""
    n_rows, m = indices.shape
    q, d = coef.shape[1], coef.shape[2]
    for i in range(n_rows):
        for j in range(m):
            e = indices[i, j]
            for o in range(q):
                if e < 0:
                    out[i, j, o] = 0.0
                    continue
                total = intercept[e, o]
                for f in range(d):
                    total += coef[e, o, f] * X[i, f]
                out[i, j, o] = total


@kernel(any_order=True)
def linear_mix(X, indices, weights, coef, intercept, out):
    """Write Σ_m w (coef_k x + intercept_k), (B, q)."""
    n_rows, m = indices.shape
    q, d = coef.shape[1], coef.shape[2]
    for i in range(n_rows):
        for o in range(q):
            answer = X.dtype.type(0.0)
            for j in range(m):
                e = indices[i, j]
                if e < 0:
                    continue
                total = intercept[e, o]
                for f in range(d):
                    total += coef[e, o, f] * X[i, f]
                answer += weights[i, j] * total
            out[i, o] = answer


@kernel
def linear_at_csr(data, columns, indptr, indices, coef, intercept, out):
    """`linear_at` for rows of a CSR matrix."""
    n_rows, m = indices.shape
    for i in range(n_rows):
        for j in range(m):
            e = indices[i, j]
            for o in range(coef.shape[1]):
                if e < 0:
                    out[i, j, o] = 0.0
                    continue
                total = intercept[e, o]
                for f in range(indptr[i], indptr[i + 1]):
                    total += coef[e, o, columns[f]] * data[f]
                out[i, j, o] = total


@kernel
def csr_logits(data, columns, indptr, coef_t, out):
    """Write the (B, K) product of CSR rows with (d, K) coefficients."""
    n_rows, n_experts = out.shape
    for i in range(n_rows):
        out[i] = 0.0
        for f in range(indptr[i], indptr[i + 1]):
            value, column = data[f], columns[f]
            for e in range(n_experts):
                out[i, e] += value * coef_t[column, e]


@kernel
def softmax_at(logits, labels, indices, out):
    """Write the log softmax of each row's label, from (B, m, C) logits."""
    n_rows, m, n_classes = logits.shape
    for i in range(n_rows):
        for j in range(m):
            if indices[i, j] < 0:
                out[i, j] = 0.0
                continue
            peak = logits[i, j, 0]
            for c in range(1, n_classes):
                peak = max(peak, logits[i, j, c])
            total = 0.0
            for c in range(n_classes):
                total += math.exp(logits[i, j, c] - peak)
            out[i, j] = (logits[i, j, labels[i]] - peak) - math.log(total)


@kernel
def softmax_mix(logits, indices, weights, out):
    """Write Σ_m w softmax(logits), from (B, m, C) logits, which are overwritten."""
    n_rows, m, n_classes = logits.shape
    for i in range(n_rows):
        out[i] = 0.0
        for j in range(m):
            if indices[i, j] < 0:
                continue
            peak = logits[i, j, 0]
            for c in range(1, n_classes):
                peak = max(peak, logits[i, j, c])
            total = 0.0
            for c in range(n_classes):
                density = math.exp(logits[i, j, c] - peak)
                logits[i, j, c] = density
                total += density
            share = weights[i, j] / total
            for c in range(n_classes):
                out[i, c] += share * logits[i, j, c]


# ------------------------------------------------------------------- E-step
@kernel
def normal_log_density(y, values, scale, log_peak, indices, out):
    """Write Σ_q log N(y; values, scale_k²) at each entry; -inf at -1."""
    n_rows, m, q = values.shape
    for i in range(n_rows):
        for j in range(m):
            e = indices[i, j]
            if e < 0:
                out[i, j] = -np.inf
                continue
            square = values.dtype.type(0.0)
            for o in range(q):
                z = (y[i, o] - values[i, j, o]) / scale[e, o]
                square += z * z
            out[i, j] = log_peak[e] - values.dtype.type(0.5) * square


@kernel
def novel(known, more, out):
    """Write ``more`` with -1 where the row has that expert already."""
    n_rows, m = more.shape
    for i in range(n_rows):
        for j in range(m):
            expert = more[i, j]
            for c in range(known.shape[1]):
                if known[i, c] == expert:
                    expert = -1
            for c in range(j):
                if out[i, c] == expert:
                    expert = -1
            out[i, j] = expert


@kernel
def best_of_rows(scores, kept):
    """Write the positions of the k best of each row of (B, m) scores, best first."""
    n_rows, m = scores.shape
    k = kept.shape[1]
    for i in range(n_rows):
        held = 0
        for j in range(m):
            value = scores[i, j]
            place = held
            # NaN comes last, in its order: it is better than nothing that is held.
            while place > 0 and (
                value > scores[i, kept[i, place - 1]]
                or (math.isnan(scores[i, kept[i, place - 1]]) and not math.isnan(value))
            ):
                place -= 1
            if place >= k:
                continue
            held = min(held + 1, k)
            for c in range(held - 1, place, -1):
                kept[i, c] = kept[i, c - 1]
            kept[i, place] = j


@kernel
def posterior(log_joint, kept, resp, log_norm):
    """Write responsibilities and log normaliser of the entries that are kept."""
    n_rows, width = kept.shape
    for i in range(n_rows):
        peak = log_joint[i, kept[i, 0]]
        for j in range(1, width):
            value = log_joint[i, kept[i, j]]
            peak = value if value > peak or math.isnan(value) else peak
        if peak == -np.inf:  # no density anywhere
            resp[i] = 1.0 / width
            log_norm[i] = -np.inf
            continue
        if peak == np.inf:
            peak = log_joint.dtype.type(0.0)
        total = log_joint.dtype.type(0.0)
        for j in range(width):
            density = math.exp(log_joint[i, kept[i, j]] - peak)
            resp[i, j] = density
            total += density
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
def segment_sums(X, flat, width, order, first, last, out):
    """Add Σ w [x, 1] over a run of one expert's entries to ``out`` (d + 1,)."""
    d = X.shape[1]
    for s in range(first, last):
        entry = order[s]
        weight, row = np.float64(flat[entry]), entry // width
        for f in range(d):
            out[f] += weight * X[row, f]
        out[d] += weight


@kernel
def segment_sums_csr(data, columns, indptr, flat, width, order, first, last, out):
    """`segment_sums` for rows of a CSR matrix."""
    d = out.shape[0] - 1
    for s in range(first, last):
        entry = order[s]
        weight, row = np.float64(flat[entry]), entry // width
        for f in range(indptr[row], indptr[row + 1]):
            out[columns[f]] += weight * data[f]
        out[d] += weight


# ---------------------------------------------------------- normal equations
@kernel
def weighted_sum(X, Y, rows, weights, out):
    """Write Σ w [x, y] over some rows, (d + q,)."""
    d, q = X.shape[1], Y.shape[1]
    out[:] = 0.0
    for s in range(rows.shape[0]):
        row, weight = rows[s], weights[s]
        for f in range(d):
            out[f] += weight * X[row, f]
        for o in range(q):
            out[d + o] += weight * Y[row, o]


@kernel
def centred_rows(X, Y, rows, weights, mean, out):
    """Write √w ([x, y] - mean) of some rows, (B, d + q), in float64."""
    d, q = X.shape[1], Y.shape[1]
    for s in range(rows.shape[0]):
        row, root = rows[s], math.sqrt(weights[s])
        for f in range(d):
            out[s, f] = root * (X[row, f] - mean[f])
        for o in range(q):
            out[s, d + o] = root * (Y[row, o] - mean[d + o])
