"""A tree of softmaxes: log probabilities of all leaves, or of the best and some others.

The inner nodes of the tree are numbered level by level; 0 is the root. An *edge* leads
to each child; the edges of a node follow each other. Row e of ``coef`` and
``intercept`` gives the logit of edge e, and the softmax runs over the edges of a node.
The probability of an edge's end is the product over the path from the root; the
probability of a leaf is that of its expert.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .._compat import Array, device_of, filled, like, namespace
from ._rows import block_of, row_blocks
from ._softmax import log_softmax, top_k


@dataclass(frozen=True, eq=False)
class Tree:
    """The shape of a tree of softmaxes, in arrays on the host."""

    bounds: np.ndarray
    """(n_nodes + 1,) edges of node a are ``bounds[a]`` to ``bounds[a + 1]``."""

    target: np.ndarray
    """(n_edges,) the node that an edge leads to, or -1 - k for the leaf of expert k."""

    owner: np.ndarray
    """(n_edges,) the node that an edge starts from."""

    above: np.ndarray
    """(n_edges,) the edge that leads to the owner, -1 at the root."""

    paths: np.ndarray
    """(n_experts, depth) the edges from the root to each expert's leaf, then -1."""

    @property
    def leaf(self) -> np.ndarray:
        """(n_experts,) the last edge of each path, whose number is the highest."""
        return self.paths.max(axis=1)

    def __eq__(self, other: object) -> bool:
        """Tell whether two trees have the same shape and the same experts."""
        return isinstance(other, Tree) and all(
            np.array_equal(a, b)
            for a, b in zip(vars(self).values(), vars(other).values(), strict=True)
        )


def tree_log_proba(X: Array, coef: Array, intercept: Array, tree: Tree) -> Array:
    """Return the log probability of all experts, (n, K)."""
    xp = namespace(X)
    leaf = like(tree.leaf, X)
    blocks = _edges(X, coef, intercept, tree)
    return xp.concat([xp.take(total, leaf, axis=1) for _, total in blocks], axis=0)


def tree_survey(
    X: Array,
    coef: Array,
    intercept: Array,
    tree: Tree,
    indices: Array,
    k: int,
    beam: int,
) -> tuple[Array, Array, Array]:
    """Return log probabilities at some entries and at the k best that a search finds.

    The search goes down level by level. On each level it opens the ``beam`` most
    probable inner nodes that it reaches, or k if that is more, so that it always finds
    k leaves.

    Parameters
    ----------
    X, coef, intercept : (n, d), (n_edges, d) and (n_edges,) arrays
        Features (dense or CSR) and gate.
    tree : Tree
    indices : (n, m) array of int
        Experts to ask about, -1 for none.
    k, beam : int
        Number of best experts to return per row, and width of the search.

    Returns
    -------
    log_at : (n, m) array
        Log probability of each entry over all experts, -inf at -1.
    best : (n, k) array of int
        The k most probable experts that the search finds, best first.
    log_best : (n, k) array
        Their log probabilities over all experts.
    """
    xp = namespace(X)
    leaf = like(tree.leaf, X)
    log_at = []
    best = []
    log_best = []
    for rows, total in _edges(X, coef, intercept, tree):
        log_proba = xp.take(total, leaf, axis=1)
        wanted = indices[rows, :]
        at = xp.take_along_axis(log_proba, filled(wanted), axis=-1)
        log_at.append(xp.where(wanted < 0, xp.full_like(at, -xp.inf), at))
        reached = xp.take(_reached(total, tree, max(beam, k)), leaf, axis=1)
        unknown = xp.full_like(log_proba, -xp.inf)
        top, experts = top_k(xp.where(reached, log_proba, unknown), k)
        best.append(experts)
        log_best.append(top)
    joined = [xp.concat(parts, axis=0) for parts in (log_at, best, log_best)]
    return joined[0], joined[1], joined[2]


def _edges(
    X: Array, coef: Array, intercept: Array, tree: Tree
) -> Iterator[tuple[slice, Array]]:
    """Yield (rows, log probability of each edge's end), in the dtype of X."""
    xp = namespace(X)
    where = {"dtype": X.dtype, "device": device_of(X)}
    weight, bias = xp.asarray(coef, **where), xp.asarray(intercept, **where)
    n_nodes = len(tree.bounds) - 1
    widest = int(np.max(np.diff(tree.bounds)))
    # Nodes are padded to the widest one, so that one softmax serves them all.
    slots = tree.bounds[:-1, None] + np.arange(widest)
    absent = like(slots >= tree.bounds[1:, None], X)
    slots = like(np.minimum(slots, tree.bounds[-1] - 1).ravel(), X)
    first = tree.bounds[tree.owner]
    place = like(tree.owner * widest + np.arange(len(first)) - first, X)
    above = like(np.maximum(tree.above, 0), X)
    top = like(tree.above < 0, X)
    for rows in row_blocks(X.shape[0], n_nodes * widest):
        logits = block_of(X, rows) @ weight.T + bias
        table = xp.reshape(xp.take(logits, slots, axis=1), (-1, n_nodes, widest))
        own = log_softmax(xp.where(absent, xp.full_like(table, -xp.inf), table))
        own = xp.take(xp.reshape(own, (-1, n_nodes * widest)), place, axis=1)
        total = own
        for _ in range(tree.paths.shape[1] - 1):  # each turn completes one more level
            total = own + xp.where(top, 0.0, xp.take(total, above, axis=1))
        yield rows, total


def _reached(total: Array, tree: Tree, beam: int) -> Array:
    """Tell which edges a search of this width reaches, (n, n_edges)."""
    xp = namespace(total)
    top = like(tree.above < 0, total)
    above = like(np.maximum(tree.above, 0), total)
    inner = np.arange(len(tree.target))[tree.target >= 0]
    depth = _depths(tree)
    seen = xp.zeros_like(total, dtype=xp.bool) | top
    for level in range(1, tree.paths.shape[1]):
        edges = inner[depth[inner] == level]
        scores = xp.take(total, like(edges, total), axis=1)
        scores = xp.where(xp.take(seen, like(edges, total), axis=1), scores, -xp.inf)
        # An edge is opened if its rank on its level is within the beam.
        order = xp.argsort(-scores, axis=-1, stable=True)
        rank = xp.argsort(order, axis=-1, stable=True)
        number = np.zeros(len(depth), dtype=np.intp)
        number[edges] = np.arange(len(edges))
        kept = xp.take((rank < beam) & (scores > -xp.inf), like(number, total), axis=1)
        # The search reaches the edges below those that it opens.
        below = like(depth == level + 1, total)
        seen = seen | (below & xp.take(kept, above, axis=1))
    return seen


def _depths(tree: Tree) -> np.ndarray:
    """Return the level of each edge, 1 at the root."""
    depth = np.ones(len(tree.above), dtype=np.intp)
    for edge in np.flatnonzero(tree.above >= 0):  # edges above have lower numbers
        depth[edge] = depth[tree.above[edge]] + 1
    return depth
