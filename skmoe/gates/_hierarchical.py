"""The hierarchical gate: a tree of softmaxes with experts as its leaves."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse

from .._sklearn_compat import Interval
from ..backends import Array, like, select
from ..routing import Routing
from ._factored import FactoredGate, Part
from ._layout import centroids, check_nested, grow, grow_levels, nested_of, tree_of

MOST_CHILDREN = 16
"""Most children of a node by default. On real data wide trees are better gates, but it
costs more to search them."""


class HierarchicalGate(FactoredGate):
    r"""Tree gate: p(k | x) is the product of choices on the path from root to leaf k.

    This is the gate of hierarchical mixtures of experts [1]_. Each inner node is a
    softmax over its children, p(child | node, x), and the leaves are the experts. The
    gate finds a row's best experts by going down a few branches: with 4 096 experts it
    computes one or two hundred logits.

    Let r be soft targets, and r_v their sum over the experts below node v. Then

    .. math:: \sum_k r_k \log p(k | x)
              = \sum_v \sum_{c \in v} r_c \log p(c | v, x),

    so each node is fitted by itself, as in `SoftmaxGate`, to its children's shares of
    the rows that reach it. A node leaves out rows without mass there.

    Parameters
    ----------
    branching : int, tuple of int or None, default=None
        Most children of a node. A tuple gives a number for each level from the root on;
        their product must be at least the number of experts, and the nodes of a level
        get equal numbers of experts. None takes the square root of the number of
        experts, but at most 16.
    beam : int, default=4
        Most nodes that the search for a row's best experts opens on a level; it opens
        more if more experts than this are asked for. It skips nodes that cannot hold
        one of the best experts, so a wide beam costs little where the gate is sure.
        Probabilities are exact for any beam. At 4 the search found the best of all
        experts for at least 99.97 % of the rows with every gate tried on real data.
    tree : list or None, default=None
        The tree, as a nested list of expert numbers: ``[[0, 1], [2, [3, 4]]]``. Then
        ``branching`` is not read. None grows a tree in ``fit``, by k-means of the
        weighted centroids of the experts' rows (groups of equal size if ``branching``
        is a tuple), so that similar experts share a node.
    alpha : float or "auto", default="auto"
        Ridge penalty of each node, per row that reaches it; as in `SoftmaxGate`.
    max_iter : int, default=200
        Most L-BFGS iterations of a node in a fit from scratch.
    update_iter : int, default=10
        Most L-BFGS iterations of a node in an M-step of a mixture.
    tol : float, default=1e-6
        L-BFGS stops when no entry of the gradient (mean per row) exceeds this.

    Attributes
    ----------
    tree_ : list
        The tree, as a nested list of expert numbers.
    coef_ : ndarray of shape (n_edges, n_features)
        Coefficients on the original features, one row per child of a node. Nodes
        follow level by level, children in the order of ``tree_``.
    intercept_ : ndarray of shape (n_edges,)
        Intercepts.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.
    n_iter_ : int
        Largest number of L-BFGS iterations of a node in the last fit or update.

    References
    ----------
    .. [1] M. I. Jordan and R. A. Jacobs, "Hierarchical mixtures of experts and the
       EM algorithm", Neural Computation 6 (1994) 181-214.
       doi:10.1162/neco.1994.6.2.181

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import HierarchicalGate
    >>> X = np.array([[-3.0], [1.0], [-1.0], [3.0]])
    >>> gate = HierarchicalGate(branching=2, alpha=0.01).fit(X, np.eye(4))
    >>> gate.tree_
    [[0, 2], [1, 3]]
    >>> gate.route(X, top_k=1).indices.ravel()
    array([0, 1, 2, 3])
    """

    _parameter_constraints: dict = {
        "branching": [Interval(Integral, 2, None, closed="left"), tuple, None],
        "beam": [Interval(Integral, 1, None, closed="left")],
        "tree": [list, None],
        **FactoredGate._parameter_constraints,
    }

    def __init__(
        self,
        branching=None,
        *,
        beam=4,
        tree=None,
        alpha="auto",
        max_iter=200,
        update_iter=10,
        tol=1e-6,
    ):
        self.branching = branching
        self.beam = beam
        self.tree = tree
        self.alpha = alpha
        self.max_iter = max_iter
        self.update_iter = update_iter
        self.tol = tol

    def _arrange(self, sums: np.ndarray) -> None:
        n_experts = self.n_experts_
        branching = self.branching
        points = centroids(sums, self._center, self._scale)
        if self.tree is not None:
            check_nested(self.tree, n_experts)
            nested = self.tree
        elif isinstance(branching, tuple):
            _check_levels(branching, n_experts)
            nested = grow_levels(points, np.arange(n_experts), branching)
        else:
            root = min(math.isqrt(max(n_experts - 1, 1)) + 1, MOST_CHILDREN)
            nested = grow(points, np.arange(n_experts), branching or root)
        self._tree = tree_of(nested)

    def _members(self) -> tuple[sparse.csr_array, list[slice]]:
        bounds = self._tree.bounds
        below = _incidence(self._tree.paths, bounds[-1])
        nodes = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        return below.T.tocsr(), nodes

    def _parts(self, routing: Routing, sums: np.ndarray) -> Iterator[Part]:
        bounds = self._tree.bounds
        owner = self._tree.owner
        below = _incidence(self._tree.paths, bounds[-1])
        edge_sums = below.T @ sums
        # The sum of a row's weights below each node, for the rows that have any.
        nodes = _incidence(
            np.where(self._tree.paths >= 0, owner[self._tree.paths], -1),
            len(bounds) - 1,
        )
        table = (routing.to_csr() @ nodes[:, 1:]).tocsc()
        children = slice(bounds[0], bounds[1])
        yield Part(children, None, routing.row_sums, edge_sums[children])
        for node in range(1, len(bounds) - 1):
            a, b = table.indptr[node - 1 : node + 1]
            children = slice(bounds[node], bounds[node + 1])
            mass = like(table.data[a:b], routing.weights)
            yield Part(children, table.indices[a:b], mass, edge_sums[children])

    @property
    def tree_(self) -> list[Any]:
        """The tree, as a nested list of expert numbers."""
        return nested_of(self._tree)

    def log_proba(self, X: Array) -> Array:
        return select(X).tree_log_proba(X, self.coef_, self.intercept_, self._tree)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        return select(X).tree_survey(
            X, self.coef_, self.intercept_, self._tree, indices, top_k, self.beam
        )

    def take(self, experts: np.ndarray) -> HierarchicalGate:
        """Return a fitted gate in which experts are split; none can be left out.

        Without one of its experts the gate would not be a tree of softmaxes.

        Parameters
        ----------
        experts : (n_new,) array of int
            Which expert each new one was; each occurs at least once. An expert that
            occurs m times becomes m leaves of its node, each with 1/m of its
            probability.

        Returns
        -------
        HierarchicalGate
            A new gate.
        """
        experts = np.asarray(experts)
        times = np.bincount(experts, minlength=self.n_experts_)
        if not times.all():
            raise TypeError(
                "HierarchicalGate cannot leave out experts, only split them; "
                "fit it anew."
            )
        heirs = np.split(np.argsort(experts, kind="stable"), np.cumsum(times)[:-1])
        is_leaf = self._tree.target >= 0
        split = np.maximum(-1 - self._tree.target, 0)
        copies = np.where(is_leaf, 1, times[split])
        other = copy.copy(self)
        other.coef_ = np.repeat(self.coef_, copies, axis=0)
        other.intercept_ = np.repeat(self.intercept_ - np.log(copies), copies)
        other._tree = tree_of(_split(self.tree_, heirs))
        other.n_experts_ = len(experts)
        return other

    @property
    def n_parameters(self) -> int:
        """Free parameters: Σ (children - 1) · (n_features + 1) over the nodes."""
        n_edges = len(self._tree.target)
        n_nodes = len(self._tree.bounds) - 1
        return (n_edges - n_nodes) * (self.n_features_in_ + 1)


def _check_levels(branching: tuple, n_experts: int) -> None:
    """Raise unless a tree with these numbers of children can hold the experts."""
    whole = all(isinstance(size, Integral) and int(size) > 1 for size in branching)
    if not whole or math.prod(branching) < n_experts:
        raise ValueError(
            "branching must be integers of at least 2 whose product reaches the number "
            f"of experts, {n_experts}; got {branching}."
        )


def _incidence(paths: np.ndarray, n_columns: int) -> sparse.csr_array:
    """Return the 0/1 matrix (n_experts, n_columns) of the numbers on each path."""
    present = paths >= 0
    indptr = np.concatenate([[0], np.cumsum(present.sum(axis=1))])
    ones = np.ones(indptr[-1])
    return sparse.csr_array((ones, paths[present], indptr), (len(paths), n_columns))


def _split(nested: list[Any], heirs: list[np.ndarray]) -> list[Any]:
    """Return the nested list with each expert replaced by its heirs."""
    found: list[Any] = []
    for child in nested:
        if isinstance(child, list):
            found.append(_split(child, heirs))
        else:
            found.extend(int(expert) for expert in heirs[child])
    return found
