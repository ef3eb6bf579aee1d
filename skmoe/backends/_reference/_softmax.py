"""Softmax, its logarithm, and its largest entries."""

from __future__ import annotations

from .._compat import Array, device_of, namespace


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
    # A row with a finite value has total >= 1; only a row of -inf has total 0.
    dead = total == 0
    log_total = xp.log(xp.where(dead, xp.ones_like(total), total))
    none = xp.full_like(total, -xp.inf)
    return xp.where(dead, none, log_total + xp.squeeze(peak, axis=-1))


def log_softmax(logits: Array) -> Array:
    """Return the logarithm of the softmax over the last axis."""
    # We shift first: logits - logsumexp(logits) would lose float32 digits at 700.
    shifted = logits - _peak(logits)
    return shifted - namespace(logits).expand_dims(logsumexp(shifted), axis=-1)


def normalise(log_joint: Array) -> tuple[Array, Array]:
    """Return (responsibilities, log normaliser) of the joint log density.

    This is the E-step on a fixed support: ``r = exp(log_joint -
    logsumexp(log_joint))``. Entries at -inf get exactly zero. A row whose entries are
    all -inf has no density anywhere: it is shared equally, and its normaliser is -inf.
    NaN stays NaN.
    """
    return softmax(log_joint), logsumexp(log_joint)


def softmax(values: Array) -> Array:
    """Return the softmax over the last axis; a row of -inf is shared equally."""
    xp = namespace(values)
    density = xp.exp(values - _peak(values))
    total = xp.sum(density, axis=-1, keepdims=True)
    dead = total == 0
    density = xp.where(dead, 1.0 / density.shape[-1], density)
    return density / xp.where(dead, 1.0, total)


def top_k(scores: Array, k: int) -> tuple[Array, Array]:
    """Return (values, indices) of the k best scores per row, best first.

    Ties go to the lowest index.
    """
    xp = namespace(scores)
    indices = xp.argsort(-scores, axis=-1, stable=True)[:, :k]
    return xp.take_along_axis(scores, indices, axis=-1), indices


def truncate(log_joint: Array, width: int) -> tuple[Array, Array, Array]:
    """Return (kept, resp, log_norm): the E-step on candidates.

    Parameters
    ----------
    log_joint : (n, m) array
        log g_k + log p_k of the candidates of each row.
    width : int
        Number of candidates to keep per row, at most m.

    Returns
    -------
    kept : (n, width) array of int
        Positions of the best candidates in the row, best first. If ``width`` equals m,
        all positions in their order.
    resp : (n, width) array
        Responsibilities of these candidates; rows sum to one.
    log_norm : (n,) array
        log Σ exp over these candidates: the row's term of the bound.
    """
    xp = namespace(log_joint)
    n, m = log_joint.shape
    if width < m:
        best, kept = top_k(log_joint, width)
    else:
        places = xp.arange(m, dtype=xp.int64, device=device_of(log_joint))
        best = log_joint
        kept = xp.broadcast_to(places, (n, m))
    resp, log_norm = normalise(best)
    return kept, resp, log_norm
