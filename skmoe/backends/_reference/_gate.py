"""The linear softmax gate, in blocks of rows: route, survey, loss.

``logits = X coefᵀ + intercept``. No (n, K) array outlives its block.
"""

from __future__ import annotations

from collections.abc import Iterator

from .._compat import Array, device_of, filled, namespace, to_host
from ._rows import block_of, row_blocks
from ._softmax import _peak, log_softmax, logsumexp, softmax, top_k


def _logits(X: Array, coef: Array, intercept: Array) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, logits of the block), in the dtype of X."""
    xp = namespace(X)
    where = {"dtype": X.dtype, "device": device_of(X)}
    weight, bias = xp.asarray(coef, **where), xp.asarray(intercept, **where)
    for rows in row_blocks(X.shape[0], weight.shape[0]):
        yield rows, block_of(X, rows) @ weight.T + bias


def softmax_route(
    X: Array, coef: Array, intercept: Array, k: int
) -> tuple[Array, Array]:
    """Return (indices, weights) of each row's k most probable experts, best first.

    Weights are the softmax over these k.
    """
    xp = namespace(X)
    indices = []
    weights = []
    for _, logits in _logits(X, coef, intercept):
        best, experts = top_k(logits, k)
        indices.append(experts)
        weights.append(softmax(best))
    return xp.concat(indices, axis=0), xp.concat(weights, axis=0)


def softmax_log_proba(X: Array, coef: Array, intercept: Array) -> Array:
    """Return the log softmax of the logits of all experts, (n, K)."""
    xp = namespace(X)
    where = {"dtype": X.dtype, "device": device_of(X)}
    weight, bias = xp.asarray(coef, **where), xp.asarray(intercept, **where)
    return log_softmax(X @ weight.T + bias)


def softmax_survey(
    X: Array, coef: Array, intercept: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """Return log softmax at some entries and at the k best, in one product.

    Parameters
    ----------
    X, coef, intercept : (n, d), (K, d) and (K,) arrays
        Features (dense or CSR) and gate.
    indices : (n, m) array of int
        Experts to ask about, -1 for none.
    k : int
        Number of best experts to return per row.

    Returns
    -------
    log_at : (n, m) array
        Log probability of each entry over all experts, -inf at -1.
    best : (n, k) array of int
        The k most probable experts, best first.
    log_best : (n, k) array
        Their log probabilities.
    """
    xp = namespace(X)
    log_at = []
    best = []
    log_best = []
    for rows, logits in _logits(X, coef, intercept):
        shifted = logits - _peak(logits)
        norm = xp.expand_dims(logsumexp(shifted), axis=-1)
        wanted = indices[rows, :]
        at = xp.take_along_axis(shifted, filled(wanted), axis=-1)
        log_at.append(xp.where(wanted < 0, xp.full_like(at, -xp.inf), at - norm))
        top, experts = top_k(shifted, k)
        best.append(experts)
        log_best.append(top - norm)
    joined = [xp.concat(parts, axis=0) for parts in (log_at, best, log_best)]
    return joined[0], joined[1], joined[2]


def softmax_loss(
    X: Array, mass: Array, target_sums: Array, coef: Array, intercept: Array
) -> tuple[float, Array, Array]:
    """Return loss and gradients of a multinomial logistic fit to soft targets.

    ``loss = Σ_i mass_i logsumexp_k(z_ik) - Σ_ik t_ik z_ik`` with
    ``z = X coefᵀ + intercept``, ``Σ_k t_ik = mass_i``. The targets enter only
    through ``target_sums = [Tᵀ X, Tᵀ 1]`` of shape (K, d + 1), which does not
    change while the coefficients do; so no pass ever holds the n × K targets.
    """
    xp = namespace(X, mass)
    dtype = X.dtype
    where = {"dtype": xp.float64, "device": device_of(X)}
    coef, intercept = xp.asarray(coef, **where), xp.asarray(intercept, **where)
    target_sums = xp.asarray(target_sums, **where)
    params = xp.concat([coef, xp.expand_dims(intercept, axis=-1)], axis=-1)
    loss = -xp.sum(target_sums * params)
    grad_coef = -target_sums[:, :-1]
    grad_intercept = -target_sums[:, -1]
    weight, bias = xp.astype(coef, dtype), xp.astype(intercept, dtype)
    for rows in row_blocks(X.shape[0], coef.shape[0]):
        block = block_of(X, rows)
        m = xp.astype(mass[rows], dtype)
        # With one row per class, reductions over classes run along contiguous memory.
        z = (block @ weight.T).T if hasattr(X, "tocsr") else weight @ block.T
        z = z + xp.expand_dims(bias, axis=-1)
        peak = xp.max(z, axis=0)
        proba = xp.exp(z - peak)
        total = xp.sum(proba, axis=0)
        loss = loss + xp.sum(m * (xp.log(total) + peak), dtype=xp.float64)
        pull = proba * (m / total)
        pulled = (block.T @ pull.T).T if hasattr(X, "tocsr") else pull @ block
        grad_coef = grad_coef + xp.astype(pulled, xp.float64)
        grad_intercept = grad_intercept + xp.sum(pull, axis=1, dtype=xp.float64)
    return float(to_host(loss)), grad_coef, grad_intercept
