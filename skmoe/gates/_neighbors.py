"""The gate of neighbours: a row is served by the experts of the rows near it."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Self

import numpy as np
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, on_host, select
from ..routing import Routing, deviations, reciprocal
from ._base import as_routing
from ._cases import CaseGate, population

NEIGHBORS = (20, 10, 50, 100)
"""Values that n_neighbors="auto" tries; the first serves if nothing is held out."""

FEW_FEATURES = 6
"""Most features for which a tree finds neighbours faster than brute force does."""

FALL = 0.99
"""Share of its weight that the furthest neighbour loses. Not all, so that neighbours
that are all at one distance still count."""

ROUNDING = 1e-9
"""A row is a neighbour if more than this share of its weight is wanted, so that a
rounding error in the sum of weights brings in none."""


class KNeighborsGate(CaseGate):
    r"""Gate of neighbours: p(k | x) is the mean responsibility of the rows near x.

    The gate measures the competence of experts near a row, as dynamic selection does
    [1]_, [2]_, but from soft responsibilities and for any learner. With the
    neighbourhood N(x) and the weights a of its rows,

    .. math:: p(k | x) = \frac{\sum_{i \in N(x)} a_i r_{ik} + m \pi_k}
                              {\sum_{i \in N(x)} a_i + m}

    where :math:`\pi_k` is the expert's share of all rows and m is ``smoothing``.
    Features are divided by their standard deviations, so units do not matter; constant
    features are ignored. Distances are Euclidean.

    A row of weight two counts as the row twice. So N(x) holds the nearest rows whose
    weights sum to ``n_neighbors``; the last one counts with the remainder. Rescale
    weights that are not counts to mean one.

    Parameters
    ----------
    n_neighbors : int or "auto", default="auto"
        Total weight of a neighbourhood. "auto" takes the best of 10, 20, 50 and 100 on
        held-out rows (``gate_.n_neighbors``), or 20 if nothing is held out.
    weights : {"distance", "uniform"}, default="distance"
        - "distance": a row at distance d counts in proportion to its weight times
          :math:`1 - 0.99 (d / h)^2`, where h is the distance of the furthest neighbour.
          Probabilities vary with x almost without jumps, and were better on held-out
          rows.
        - "uniform": a row counts in proportion to its weight.
    smoothing : float, default=0.3
        The m above, in rows: the weight of the population in each neighbourhood. It
        keeps every probability above zero. The default was among the best values from
        0.03 to 3 on held-out rows.

    Attributes
    ----------
    table_ : csr_array of shape (n_cases, n_experts)
        Mass of each expert in each distinct training row.
    share_ : ndarray of shape (n_experts,)
        Each expert's share of all rows.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    Equal rows are one case, and cases are sorted by their content. So the choice among
    rows at the same distance does not depend on the order of the training rows. More
    than 6 features, and sparse ones, are searched by brute force: a row costs its
    distances to all cases.

    References
    ----------
    .. [1] K. Woods, W. P. Kegelmeyer and K. Bowyer, "Combination of multiple
       classifiers using local accuracy estimates", IEEE Transactions on Pattern
       Analysis and Machine Intelligence 19 (1997) 405-410. doi:10.1109/34.588027
    .. [2] A. H. R. Ko, R. Sabourin and A. S. Britto Jr., "From dynamic classifier
       selection to dynamic ensemble selection", Pattern Recognition 41 (2008)
       1718-1731. doi:10.1016/j.patcog.2007.10.015

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import KNeighborsGate
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> responsibilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])
    >>> gate = KNeighborsGate(2, weights="uniform", smoothing=0.5)
    >>> gate = gate.fit(X, responsibilities)
    >>> np.exp(gate.log_proba(X)).round(2)
    array([[0.74, 0.26],
           [0.74, 0.26],
           [0.26, 0.74],
           [0.26, 0.74]])
    """

    choices = {"n_neighbors": NEIGHBORS}

    _parameter_constraints: dict = {
        "n_neighbors": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "weights": [StrOptions({"uniform", "distance"})],
        "smoothing": [Interval(Real, 0, None, closed="neither")],
    }

    def __init__(self, n_neighbors="auto", *, weights="distance", smoothing=0.3):
        self.n_neighbors = n_neighbors
        self.weights = weights
        self.smoothing = smoothing

    def fit(self, X: Array, routing: Routing) -> Self:
        # Store the distinct rows and their soft targets.
        self._validate_params()
        targets = as_routing(routing).to_csr()
        weighted = np.flatnonzero(targets.sum(axis=1) > 0)
        X = on_host(X)[weighted]
        targets = targets[weighted]
        self.n_features_in_, self.n_experts_ = X.shape[1], targets.shape[1]
        self.share_ = population(targets)
        self._inverse = reciprocal(spread(X, targets.sum(axis=1)))
        Z = self._scaled(X)
        first, case = distinct(Z)
        ones = np.ones(len(case))
        rows = np.arange(len(case))
        of_case = sparse.csr_array((ones, (case, rows)))
        self.table_ = sparse.csr_array(of_case @ targets)
        self._mass = self.table_.sum(axis=1)
        few = not sparse.issparse(X) and X.shape[1] <= FEW_FEATURES
        search = NearestNeighbors(algorithm="kd_tree" if few else "brute")
        self._search = search.fit(Z[first])
        return self

    def _scaled(self, X: Array) -> Array:
        """Return rows whose features have unit variance."""
        if sparse.issparse(X):
            return sparse.csr_array(X @ sparse.diags_array(self._inverse))
        return X * self._inverse

    @property
    def _wanted(self) -> int:
        return NEIGHBORS[0] if self.n_neighbors == "auto" else self.n_neighbors

    @property
    def _enough(self) -> int:
        """Number of cases that surely have the weight wanted: the lightest have it."""
        reached = np.cumsum(np.sort(self._mass)) < self._wanted
        return min(1 + int(np.count_nonzero(reached)), len(self._mass))

    def _cases(self, X: Array) -> tuple[sparse.csr_array, np.ndarray]:
        distance, case = self._search.kneighbors(self._scaled(X), self._enough)
        mass = self._mass[case]
        lacking = self._wanted - (np.cumsum(mass, axis=1) - mass)
        part = np.clip(lacking / mass, 0.0, 1.0)
        near = np.sum(part * mass, axis=1)
        if self.weights == "distance":
            part *= falling(distance, part > ROUNDING)
            part *= (near / np.sum(part * mass, axis=1))[:, None]
        total = near + self.smoothing
        shape = case.shape[0], len(self._mass)
        ends = np.arange(0, case.size + 1, case.shape[1])
        part /= total[:, None]
        weights = sparse.csr_array((part.ravel(), case.ravel(), ends), shape=shape)
        return weights, self.smoothing / total

    def _entries_a_row(self) -> int:
        return -(-self.table_.nnz * self._enough // len(self._mass))


def spread(X: Array, mass: np.ndarray) -> np.ndarray:
    """Return standard deviations, 0 for constants.

    They are rounded to seven digits: the last ones depend on the order of sums, and
    would decide between neighbours at the same distance.
    """
    scale = deviations(*select(X).weighted_moments(X, mass))
    return scale.astype(np.float32).astype(np.float64)


def falling(distance: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return 1 - `FALL` (d / h)², where h is the largest distance of a neighbour."""
    furthest = np.max(np.where(near, distance, 0.0), axis=1, keepdims=True)
    ratio = np.minimum(distance / np.where(furthest > 0, furthest, 1.0), 1.0)
    return 1.0 - FALL * ratio**2


def distinct(X: Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, case): where each distinct row stands, and which one each row is.

    Distinct rows are sorted by their content; rows of a CSR matrix by their products
    with a random vector.
    """
    key = X
    if sparse.issparse(X):
        key = X @ np.random.RandomState(0).normal(size=X.shape[1])
    _, first, case = np.unique(key, axis=0, return_index=True, return_inverse=True)
    return first, case
