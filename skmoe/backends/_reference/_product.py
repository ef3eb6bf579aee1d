"""A grid of experts: one softmax for its rows, one for its columns."""

from __future__ import annotations

import numpy as np

from .._compat import Array, filled, like, namespace
from ._gate import softmax_log_proba, softmax_survey
from ._softmax import softmax, top_k


def product_log_proba(X: Array, coef: Array, intercept: Array, cells: Array) -> Array:
    """Return log p₁(row of k) + log p₂(column of k) of all experts, (n, K).

    Arguments are those of `product_survey`.
    """
    xp = namespace(X)
    terms = []
    for axis, part in enumerate(_parts(cells)):
        log_part = softmax_log_proba(X, coef[part], intercept[part])
        terms.append(xp.take(log_part, like(cells[:, axis], X), axis=1))
    return terms[0] + terms[1]


def product_route(
    X: Array, coef: Array, intercept: Array, cells: Array, k: int
) -> tuple[Array, Array]:
    """Return (indices, weights) of each row's k most probable experts, best first.

    Arguments are those of `product_survey`; weights are the softmax over these k.
    """
    nothing = like(np.empty((X.shape[0], 0), dtype=np.intp), X)
    _, best, log_best = product_survey(X, coef, intercept, cells, nothing, k)
    return best, softmax(log_best)


def product_survey(
    X: Array, coef: Array, intercept: Array, cells: Array, indices: Array, k: int
) -> tuple[Array, Array, Array]:
    """Return log probabilities at some entries and at the k best.

    Parameters
    ----------
    X, coef, intercept : (n, d), (E₁ + E₂, d) and (E₁ + E₂,) arrays
        Features (dense or CSR) and gate: first the softmax of the rows of the grid.
    cells : (K, 2) array of int
        Row and column of each expert, on the host; each cell of the grid has one
        expert.
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
    xp = namespace(indices)
    flat = xp.reshape(filled(indices), (-1,))
    log_at = []
    for axis, part in enumerate(_parts(cells)):
        wanted = xp.reshape(xp.take(like(cells[:, axis], indices), flat), indices.shape)
        wanted = xp.where(indices < 0, -1, wanted)
        width = min(k, part.stop - part.start)
        log_at.append(softmax_survey(X, coef[part], intercept[part], wanted, width))
    (at_row, row, log_row), (at_column, column, log_column) = log_at
    # An expert outside these pairs has k better rows or columns of the grid before its
    # own, and so k experts that are at least as probable.
    pairs = log_row[:, :, None] + log_column[:, None, :]
    n_columns = int(cells[:, 1].max()) + 1
    cell = row[:, :, None] * n_columns + column[:, None, :]
    shape = (X.shape[0], pairs.shape[1] * pairs.shape[2])
    expert_of = like(np.argsort(cells[:, 0] * n_columns + cells[:, 1]), indices)
    experts = xp.take(expert_of, xp.reshape(cell, (-1,)))
    log_best, kept = top_k(xp.reshape(pairs, shape), k)
    best = xp.take_along_axis(xp.reshape(experts, shape), kept, axis=1)
    return at_row + at_column, best, log_best


def _parts(cells: Array) -> tuple[slice, slice]:
    """Return the slices of logits for the rows of the grid, and for its columns."""
    n_rows, n_columns = (int(size) + 1 for size in cells.max(axis=0))
    return slice(0, n_rows), slice(n_rows, n_rows + n_columns)
