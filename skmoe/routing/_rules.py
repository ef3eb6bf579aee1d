"""Rules that choose the experts to ask from those that a gate prefers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backends import Array, namespace, select, to_host
from ._routing import Routing


def nucleus(log_best: Array, best: Array, n_experts: int, top_p: float) -> Routing:
    """Keep the fewest experts of a row whose probabilities sum to ``top_p``.

    Sampling from such a set is known as nucleus sampling [1]_. As a rule for mixtures
    of experts it asks more experts for the rows that need more [2]_.

    Parameters
    ----------
    log_best : (n_rows, top_k) array
        Log probabilities over all experts, best first.
    best : (n_rows, top_k) array of int
        Their experts, -1 where a row has fewer.
    n_experts : int
    top_p : float
        Probability to reach, in (0, 1]. Rows that do not reach it keep all of ``best``.

    Returns
    -------
    Routing
        Weights are renormalised over the remaining experts; dropped entries are -1.

    References
    ----------
    .. [1] A. Holtzman, J. Buys, L. Du, M. Forbes and Y. Choi, "The curious case of
       neural text degeneration", ICLR 2020. arXiv:1904.09751
    .. [2] Q. Huang et al., "Harder tasks need more experts: dynamic routing in MoE
       models", ACL 2024. arXiv:2403.07652
    """
    xp = namespace(log_best)
    proba = xp.exp(log_best)
    before = xp.cumulative_sum(proba, axis=1) - proba
    stays = (before < top_p) & (best >= 0)
    weights = select(log_best).normalise(
        xp.where(stays, log_best, xp.full_like(log_best, -xp.inf))
    )[0]
    indices = xp.where(stays, best, xp.full_like(best, -1))
    return Routing(indices, weights, n_experts)


def within_capacity(
    routing: Routing,
    capacity: int,
    rank: Callable[[np.ndarray], tuple[Array, Array]],
    *,
    drop: bool = False,
) -> Routing:
    """Move the rows that an expert has no room for to their next best expert.

    An expert takes rows in the order of the weights that they give it, first choices
    before second choices, as Switch does with one expert per row [1]_. Switch drops
    entries that find no room; here they go to the best expert that has room.

    Parameters
    ----------
    routing : Routing
        The experts that rows ask for, best first.
    capacity : int
        Most rows that an expert takes.
    rank : callable
        ``rank(rows) -> (log_proba, experts)`` returns all experts of some rows, best
        first, (n, n_experts) each.
    drop : bool, default=False
        Whether to drop entries that find no room. A row that would lose all its experts
        keeps the best one, beyond the capacity.

    Returns
    -------
    Routing
        Each row has as many experts as it asked for, unless all are full or ``drop``.

    References
    ----------
    .. [1] W. Fedus, B. Zoph and N. Shazeer, "Switch transformers: scaling to trillion
       parameter models with simple and efficient sparsity", JMLR 23 (2022) 1-39.
    """
    indices, weights = to_host(routing.indices), to_host(routing.weights)
    room = np.full(routing.n_experts, capacity)
    kept = np.zeros(indices.shape, bool)
    for j in range(indices.shape[1]):
        kept[:, j] = _admitted(indices[:, j], weights[:, j], room)
    if drop:
        kept[:, 0] |= ~kept.any(axis=1)
        indices = np.where(kept, indices, -1)
        weights = np.where(kept, weights, 0.0)
    else:
        full = np.flatnonzero((~kept & (indices >= 0)).any(axis=1))
        full = full[np.argsort(-weights[full, 0], kind="stable")]
        indices = indices.copy()
        weights = weights.copy()
        for rows in select(weights).row_blocks(len(full), routing.n_experts):
            some = full[rows]
            moved = _moved(indices[some], kept[some], room, *map(to_host, rank(some)))
            indices[some], weights[some] = moved
    weights = weights / weights.sum(axis=1, keepdims=True)
    return Routing(indices, weights, routing.n_experts).like(routing.weights)


def _admitted(experts: np.ndarray, weight: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Tell which rows find room at their experts, by weight, and take up the room."""
    order = np.lexsort((-weight, experts))
    order = order[experts[order] >= 0]
    sorted_experts = experts[order]
    place = np.arange(len(order)) - np.searchsorted(sorted_experts, sorted_experts)
    admitted = np.zeros(len(experts), dtype=bool)
    admitted[order] = place < room[sorted_experts]
    room -= np.bincount(experts[admitted], minlength=len(room))
    return admitted


def _moved(
    indices: np.ndarray,
    kept: np.ndarray,
    room: np.ndarray,
    log_proba: np.ndarray,
    ranked: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return experts and probabilities for rows that asked some full experts."""
    wanted = (indices >= 0).sum(axis=1)
    held = (ranked[:, :, None] == np.where(kept, indices, -1)[:, None, :]).any(axis=2)
    for j in range(ranked.shape[1]):
        lacks = (held.sum(axis=1) < wanted) & ~held[:, j]
        if not lacks.any():
            continue
        wish = np.where(lacks, ranked[:, j], -1)
        held[:, j] |= _admitted(wish, np.exp(log_proba[:, j]), room)
    held[:, 0] |= ~held.any(axis=1)  # if all are full, the best serves the row
    first = np.argsort(~held, axis=1, kind="stable")[:, : indices.shape[1]]
    there = np.take_along_axis(held, first, axis=1)
    experts = np.where(there, np.take_along_axis(ranked, first, axis=1), -1)
    proba = np.exp(np.take_along_axis(log_proba, first, axis=1))
    return experts, np.where(there, proba, 0.0)
