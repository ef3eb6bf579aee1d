"""The plain backend: the specification of each operation, in the array API.

Shapes and names, used throughout the library
---------------------------------------------
``n`` rows, ``d`` features, ``K`` experts, ``m`` entries a row, ``q`` outputs.

=============  ==========  =====================================================
name           shape       meaning
=============  ==========  =====================================================
``X``          (n, d)      features, dense or (where said) scipy CSR
``indices``    (n, m)      expert of each entry, -1 where a row has no entry
``weights``    (n, m)      weight of each entry: gate mass or responsibility
``order``      (n·m,)      entries (flat positions) sorted by expert, stable
``offsets``    (K+1,)      expert k owns ``order[offsets[k]:offsets[k+1]]``
``coef``       (K, d)      one row of coefficients an expert
``intercept``  (K,)        one intercept an expert
=============  ==========  =====================================================

Only functions of the array API standard are used, so the same text runs on
NumPy, ``array_api_strict``, PyTorch and CuPy. Sums that a caller compares (the
bound, Gram matrices, gradients) are accumulated in float64 whatever the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ._compat import Array, device_of, namespace

BLOCK_ELEMENTS = 1 << 15
"""Elements of a block of rows in row-wise products: it should stay in cache."""


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield slices of rows so that a block of ``n_columns`` stays within bounds."""
    size = max(1, BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


# ------------------------------------------------------------------ softmax
def _peak(values: Array) -> Array:
    """Return each row's largest value, 0 where it is -inf, with the axis kept."""
    xp = namespace(values)
    top = xp.max(values, axis=-1, keepdims=True)
    return xp.where(xp.isfinite(top), top, xp.zeros_like(top))


def logsumexp(values: Array) -> Array:
    """Return log Σ exp over the last axis; a row of -inf gives -inf, NaN gives NaN."""
    xp = namespace(values)
    peak = _peak(values)
    total = xp.sum(xp.exp(values - peak), axis=-1)
    # A row with a finite value has total >= 1; only a row of -inf has none.
    dead = total == 0
    log_total = xp.log(xp.where(dead, xp.ones_like(total), total))
    none = xp.full_like(total, -xp.inf)
    return xp.where(dead, none, log_total + xp.squeeze(peak, axis=-1))


def log_softmax(logits: Array) -> Array:
    """Return the logarithm of the softmax over the last axis."""
    # Shifted first: logits - logsumexp(logits) would lose float32 digits at 700.
    shifted = logits - _peak(logits)
    return shifted - namespace(logits).expand_dims(logsumexp(shifted), axis=-1)


def normalise(log_joint: Array) -> tuple[Array, Array]:
    """Return (responsibilities, log normaliser) of the joint log density.

    The E-step on a fixed support: ``r = exp(log_joint - logsumexp(log_joint))``.
    Entries at -inf get exactly zero. A row whose entries are all -inf has no
    density anywhere; it is shared equally and its normaliser is -inf. NaN stays NaN.
    """
    xp = namespace(log_joint)
    density = xp.exp(log_joint - _peak(log_joint))
    total = xp.sum(density, axis=-1, keepdims=True)
    equal = xp.full_like(density, 1.0 / density.shape[-1])
    dead = total == 0
    resp = density / xp.where(dead, xp.ones_like(total), total)
    return xp.where(dead, equal, resp), logsumexp(log_joint)


# ------------------------------------------------------------------ routing
def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Return (values, indices) of the k best scores a row, best first.

    Ties go to the lowest index.
    """
    xp = namespace(scores)
    indices = xp.argsort(-scores, axis=-1, stable=True)[:, :k]
    return xp.take_along_axis(scores, indices, axis=-1), indices


def expert_major(indices: Array, n_experts: int) -> tuple[Array, Array]:
    """Return (order, offsets): the entries sorted by expert (a counting sort).

    Entries without expert (-1) come before ``offsets[0]``.
    """
    xp = namespace(indices)
    flat = xp.reshape(indices, (-1,))
    order = xp.argsort(flat, stable=True)
    experts = xp.arange(n_experts + 1, dtype=flat.dtype, device=device_of(flat))
    return order, xp.searchsorted(xp.take(flat, order), experts)


def spread(parts: Sequence[Array], order: Array, shape: tuple[int, int]) -> Array:
    """Return expert-major values, one part an expert, in row-major order.

    Parameters
    ----------
    parts : sequence of (n_k, q) arrays
        Values of each run of ``order``, in that order; together n·m rows.
    order : (n·m,) array
        Entries sorted by expert.
    shape : (n, m)
        Rows and entries a row.

    Returns
    -------
    (n, m, q) array
    """
    xp = namespace(order, *parts)
    values = xp.concat(list(parts), axis=0)
    inverse = xp.argsort(order)
    return xp.reshape(xp.take(values, inverse, axis=0), (*shape, values.shape[-1]))


def combine(weights: Array, values: Array) -> Array:
    """Return Σ_m weights[i, m] · values[i, m, :], the mixture's answer a row."""
    xp = namespace(weights, values)
    return xp.sum(xp.expand_dims(weights, axis=-1) * values, axis=1)


def sum_by_expert(values: Array, order: Array | None, offsets: Array) -> list[float]:
    """Return Σ of the (n, m) entry values of each expert, in float64.

    ``order=None`` says that column k of ``values`` is expert k.
    """
    xp = namespace(values)
    if order is None:
        sums = xp.sum(values, axis=0, dtype=xp.float64)
        return [float(sums[k]) for k in range(sums.shape[0])]
    flat = xp.take(xp.reshape(values, (-1,)), order)
    bounds = [int(offsets[k]) for k in range(offsets.shape[0])]
    return [float(xp.sum(flat[a:b], dtype=xp.float64)) for a, b in pairwise(bounds)]


# ------------------------------------------------------- linear algebra of X
def take_rows(X: Array, rows: Array | None) -> Array:
    """Return the rows of a dense or CSR matrix; None stands for all of them."""
    if rows is None:
        return X
    xp = namespace(X)
    return X[rows] if hasattr(X, "tocsr") else xp.take(X, rows, axis=0)


def block_of(X: Array, rows: slice) -> Array:
    """Return a run of rows of a dense or CSR matrix."""
    return X[rows] if hasattr(X, "tocsr") else X[rows, ...]


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
        squares, present = X.astype(xp.float64), X.astype(xp.float64)
        squares.data = (squares.data - mean[X.indices]) ** 2
        present.data = xp.ones_like(present.data)
        absent = xp.maximum(total - present.T @ w, 0.0)
        return mean, (squares.T @ w + absent * mean**2) / total
    mean = xp.zeros(X.shape[1], dtype=xp.float64, device=device_of(w))
    var = xp.zeros(X.shape[1], dtype=xp.float64, device=device_of(w))
    for rows in row_blocks(*X.shape):
        mean = mean + w[rows] @ xp.astype(X[rows, :], xp.float64)
    mean = mean / total
    for rows in row_blocks(*X.shape):
        var = var + w[rows] @ (xp.astype(X[rows, :], xp.float64) - mean) ** 2
    return mean, var / total


def column_sums(X: Array, weights: Array) -> Array:
    """Return Σ_i w_ik [x_i, 1] for each column k of the weights, (K, d + 1)."""
    xp = namespace(X, weights)
    shape = (X.shape[1] + 1, weights.shape[1])
    total = xp.zeros(shape, dtype=xp.float64, device=device_of(weights))
    for rows in row_blocks(X.shape[0], X.shape[1] + weights.shape[1]):
        w = xp.astype(weights[rows, :], xp.float64)
        block = X[rows] if hasattr(X, "tocsr") else xp.astype(X[rows, :], xp.float64)
        mass = xp.expand_dims(xp.sum(w, axis=0), axis=0)
        total = total + xp.concat([block.T @ w, mass], axis=0)
    return total.T


def softmax_loss(
    X: Array, mass: Array, target_sums: Array, coef: Array, intercept: Array
) -> tuple[float, Array, Array]:
    """Return loss and gradients of a multinomial logistic fit to soft targets.

    ``loss = Σ_i mass_i logsumexp_k(z_ik) - Σ_ik t_ik z_ik`` with
    ``z = X coefᵀ + intercept``, ``Σ_k t_ik = mass_i``. The targets enter only
    through ``target_sums = [Tᵀ X, Tᵀ 1]`` of shape (K, d + 1), which does not
    change while the coefficients do; so no pass ever holds the n × K targets.
    """
    xp, dtype = namespace(X, mass), X.dtype
    params = xp.concat([coef, xp.expand_dims(intercept, axis=-1)], axis=-1)
    loss = -float(xp.sum(target_sums * params))
    grad_coef, grad_intercept = -target_sums[:, :-1], -target_sums[:, -1]
    weight, bias = xp.astype(coef, dtype), xp.astype(intercept, dtype)
    for rows in row_blocks(X.shape[0], coef.shape[0]):
        block, m = block_of(X, rows), xp.astype(mass[rows], dtype)
        # One row a class: reductions over classes then run along contiguous memory.
        z = (block @ weight.T).T if hasattr(X, "tocsr") else weight @ block.T
        z = z + xp.expand_dims(bias, axis=-1)
        peak = xp.max(z, axis=0)
        proba = xp.exp(z - peak)
        total = xp.sum(proba, axis=0)
        loss += float(xp.sum(m * (xp.log(total) + peak), dtype=xp.float64))
        pull = proba * (m / total)
        pulled = (block.T @ pull.T).T if hasattr(X, "tocsr") else pull @ block
        grad_coef = grad_coef + xp.astype(pulled, xp.float64)
        grad_intercept = grad_intercept + xp.sum(pull, axis=1, dtype=xp.float64)
    return loss, grad_coef, grad_intercept


def gram(X: Array, Y: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
    """Return the centred normal equations of one weighted least-squares fit.

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
    w = xp.astype(weights, xp.float64)
    total = float(xp.sum(w)) or 1.0
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
