"""Entries of a routing: sorted by expert, joined, summed, combined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .._compat import Array, device_of, namespace, to_host


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
    """Return expert-major values, one part per expert, in row-major order.

    Parameters
    ----------
    parts : sequence of (n_k, q) arrays
        Values of each run of ``order``, in that order; together n·m rows.
    order : (n·m,) array
        Entries sorted by expert.
    shape : (n, m)
        Number of rows, and of entries per row.

    Returns
    -------
    (n, m, q) array
    """
    xp = namespace(order, *parts)
    values = xp.concat(list(parts), axis=0)
    inverse = xp.argsort(order)
    return xp.reshape(xp.take(values, inverse, axis=0), (*shape, values.shape[-1]))


def combine(weights: Array, values: Array) -> Array:
    """Return Σ_m weights[i, m] · values[i, m, :], the mixture's answer per row."""
    xp = namespace(weights, values)
    return xp.sum(xp.expand_dims(weights, axis=-1) * values, axis=1)


def sum_by_expert(values: Array, order: Array | None, offsets: Array) -> list[float]:
    """Return the sum of the (n, m) entry values of each expert, in float64.

    ``order=None`` means that column k of ``values`` is expert k.
    """
    xp = namespace(values)
    if order is None:
        return to_host(xp.sum(values, axis=0, dtype=xp.float64)).tolist()
    flat = xp.take(xp.reshape(values, (-1,)), order)
    bounds = to_host(offsets).tolist()
    sums = [xp.sum(flat[a:b], dtype=xp.float64) for a, b in pairwise(bounds)]
    return to_host(xp.stack(sums)).tolist()


def novel(known: Array, more: Array) -> Array:
    """Return ``more`` with -1 where a row has that expert already.

    A row has an expert that is in its row of ``known``, or further left in its row of
    ``more``.
    """
    xp = namespace(known)
    columns = [known[:, j] for j in range(known.shape[1])]
    for j in range(more.shape[1]):
        column = more[:, j]
        for earlier in columns:
            same = earlier == column
            column = xp.where(same, xp.full_like(column, -1), column)
        columns.append(column)
    return xp.stack(columns[known.shape[1] :], axis=-1)
