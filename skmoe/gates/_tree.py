"""The tree gate: the leaf of a row gives the shares of its experts."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.tree import DecisionTreeRegressor

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, on_host
from ..routing import Routing, TreeView
from ._base import as_routing
from ._cases import CaseGate, population

MIN_WEIGHTS = (20, 5, 10, 50, 100)
"""Values that min_samples_leaf="auto" tries; the first serves if nothing is held out.
"""

ROUNDING = 1e-9
"""Share of its least weight that a leaf may lack: responsibilities sum to one only up
to rounding."""

MOST_OUTPUTS = 32
"""With more experts than this, a tree grows on this many random sums of them."""

MOST = 1_000_000
"""Most levels, most leaves and most trees."""


class TreeGate(CaseGate):
    r"""Gate of decision trees: p(k | x) is the share of expert k in the leaf of x.

    This is the gate of model trees [1]_: it cuts the input space along the axes, finds
    interactions, and does not depend on the units of features. A tree is grown by the
    squared error of the responsibilities, which for hard ones is the Gini index. With
    :math:`R_{lk} = \sum_{i \in l} s_i r_{ik}` the mass of expert k in leaf l,

    .. math:: p(k | x) = \frac{R_{lk} + m \pi_k}{\sum_j R_{lj} + m}

    where :math:`\pi_k` is the expert's share of all rows and m is ``smoothing``; a
    forest takes the mean of its trees. A row of weight two counts as the row twice.

    Parameters
    ----------
    min_samples_leaf : float or "auto", default="auto"
        Least total weight of the rows of a leaf. Large leaves give smooth gates. "auto"
        takes the best of 5, 10, 20, 50 and 100 on held-out rows
        (``gate_.min_samples_leaf``), or 20 if nothing is held out.
    max_depth : int or None, default=None
        Most cuts from the root to a leaf; None sets no limit.
    max_leaf_nodes : int or None, default=None
        Most leaves; the best cuts are then made first. None sets no limit.
    n_estimators : int, default=1
        Number of trees. Several trees have random cuts [2]_, and give smoother gates
        that go well with small leaves. They cost in proportion to their number.
    smoothing : float, default=0.3
        The m above, in rows: the weight of the population in each leaf. It keeps every
        probability above zero. The default was among the best values from 0.03 to 3 on
        held-out rows.
    random_state : int, RandomState instance or None, default=0
        Decides between equally good cuts, and draws the cuts of a forest. With a number
        a refit on nearly the same targets is nearly the same.

    Attributes
    ----------
    tree_ : DecisionTreeRegressor or ExtraTreesRegressor
        The fitted tree or forest, with thresholds in the units of X. Use only its
        ``apply``: its predictions are not smoothed, and with more than 32 experts they
        are random sums over experts.
    grown_ : DecisionTreeRegressor or ExtraTreesRegressor
        The same tree or forest, as it was grown on ``view_.rows(X)``.
    view_ : TreeView
        The ``origin`` and ``unit`` of each column in which ``grown_`` sees X. They
        keep values apart that scikit-learn's trees would call equal, since they differ
        by less than 1e-7.
    table_ : csr_array of shape (n_nodes, n_experts)
        Mass of each expert in each leaf, tree by tree; zero in other nodes.
    share_ : ndarray of shape (n_experts,)
        Each expert's share of all rows.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    Cuts are those of CART on ``n_experts`` outputs. With more than 32 experts the
    outputs are 32 sums of responsibilities with random signs, which keep squared
    distances on average [3]_. Leaves still hold exact means, and only of the experts
    that their rows have. So the cost of training and routing grows with the entries of
    the routing, not with ``n_samples * n_experts``.

    References
    ----------
    .. [1] J. R. Quinlan, "Learning with continuous classes", Australian Joint
       Conference on Artificial Intelligence (1992) 343-348.
    .. [2] P. Geurts, D. Ernst and L. Wehenkel, "Extremely randomized trees", Machine
       Learning 63 (2006) 3-42. doi:10.1007/s10994-006-6226-1
    .. [3] D. Achlioptas, "Database-friendly random projections", Journal of Computer
       and System Sciences 66 (2003) 671-687. doi:10.1016/S0022-0000(03)00025-4

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import TreeGate
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> responsibilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])
    >>> gate = TreeGate(min_samples_leaf=2, smoothing=0.5).fit(X, responsibilities)
    >>> np.exp(gate.log_proba(X)).round(2)
    array([[0.74, 0.26],
           [0.74, 0.26],
           [0.26, 0.74],
           [0.26, 0.74]])
    """

    allows_nan = True
    choices = {"min_samples_leaf": MIN_WEIGHTS}

    _parameter_constraints: dict = {
        "min_samples_leaf": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
        "max_depth": [Interval(Integral, 1, MOST, closed="both"), None],
        "max_leaf_nodes": [Interval(Integral, 2, MOST, closed="both"), None],
        "n_estimators": [Interval(Integral, 1, MOST, closed="both")],
        "smoothing": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        min_samples_leaf="auto",
        *,
        max_depth=None,
        max_leaf_nodes=None,
        n_estimators=1,
        smoothing=0.3,
        random_state=0,
    ):
        self.min_samples_leaf = min_samples_leaf
        self.max_depth = max_depth
        self.max_leaf_nodes = max_leaf_nodes
        self.n_estimators = n_estimators
        self.smoothing = smoothing
        self.random_state = random_state

    def fit(self, X: Array, routing: Routing) -> Self:
        # Grow the trees on soft targets, and fill their leaves.
        self._validate_params()
        targets = as_routing(routing).to_csr()
        weighted = np.flatnonzero(targets.sum(axis=1) > 0)
        X = on_host(X)[weighted]
        targets = targets[weighted]
        mass = targets.sum(axis=1)
        resp = sparse.diags_array(1 / mass) @ targets
        self.n_features_in_, self.n_experts_ = X.shape[1], targets.shape[1]
        self.share_ = population(targets)
        self.view_ = TreeView.of(X)
        grown = self._unfitted(mass.sum())
        view = self.view_.rows(X)
        self.grown_ = grown.fit(view, sketch(resp), sample_weight=mass)
        n_nodes = [tree.node_count for tree in each_tree(grown)]
        self._first_node = np.cumsum([0, *n_nodes])
        leaves = self._leaves(X)
        self.table_ = sparse.csr_array(leaves.T @ targets)
        self._leaf_mass = leaves.T @ mass
        return self

    @property
    def tree_(self) -> DecisionTreeRegressor | ExtraTreesRegressor:
        """The fitted tree or forest, with thresholds in the units of X."""
        trees = copy.deepcopy(self.grown_)
        view = self.view_
        for tree in each_tree(trees):
            at = np.maximum(tree.feature, 0)  # leaves have none
            tree.threshold[:] = view.origin[at] + view.unit[at] * tree.threshold
        return trees

    def _unfitted(self, total: float) -> DecisionTreeRegressor | ExtraTreesRegressor:
        """Return the tree or forest to fit to rows with this total weight."""
        least = (
            MIN_WEIGHTS[0] if self.min_samples_leaf == "auto" else self.min_samples_leaf
        )
        limits = {
            "max_depth": self.max_depth,
            "max_leaf_nodes": self.max_leaf_nodes,
            "min_weight_fraction_leaf": float(min(0.5, (1 - ROUNDING) * least / total)),
            "random_state": self.random_state,
        }
        if self.n_estimators == 1:
            return DecisionTreeRegressor(**limits)
        return ExtraTreesRegressor(self.n_estimators, **limits)

    def _leaves(self, X: Array) -> sparse.csr_array:
        """Return each row's leaf in each tree, as ones in (n, n_nodes)."""
        leaf = self.grown_.apply(self.view_.rows(X)).reshape(X.shape[0], -1)
        leaf = leaf + self._first_node[:-1]
        ends = np.arange(0, leaf.size + 1, leaf.shape[1])
        shape = X.shape[0], self._first_node[-1]
        return sparse.csr_array((np.ones(leaf.size), leaf.ravel(), ends), shape=shape)

    def _cases(self, X: Array) -> tuple[sparse.csr_array, np.ndarray]:
        leaves = self._leaves(X)
        leaves.data /= (
            self._leaf_mass[leaves.indices] + self.smoothing
        ) * self.n_estimators
        return leaves, self.smoothing * leaves.sum(axis=1)

    def _entries_a_row(self) -> int:
        n_leaves = np.count_nonzero(self._leaf_mass)
        return -(-self.table_.nnz * self.n_estimators // n_leaves)

    @property
    def n_parameters(self) -> int:
        """Free parameters: n_leaves · (n_experts - 1), over all trees."""
        return int(np.count_nonzero(self._leaf_mass)) * (self.n_experts_ - 1)


def each_tree(grown: DecisionTreeRegressor | ExtraTreesRegressor) -> list[Any]:
    """Return the node tables of a tree, or of each tree of a forest."""
    return [each.tree_ for each in getattr(grown, "estimators_", [grown])]


def sketch(resp: sparse.csr_array) -> np.ndarray:
    """Return responsibilities, or random sums of them if there are too many experts."""
    n_experts = resp.shape[1]
    if n_experts <= MOST_OUTPUTS:
        return resp.toarray()
    signs = np.random.RandomState(0).choice([-1.0, 1.0], (n_experts, MOST_OUTPUTS))
    return resp @ signs
