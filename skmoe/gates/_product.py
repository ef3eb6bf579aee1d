"""The product gate: experts on a grid, one softmax for rows and one for columns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from numbers import Integral

import numpy as np
from scipy import sparse

from ..backends import Array, select
from ..routing import Routing
from ._factored import FactoredGate, Part
from ._layout import centroids, grid


class ProductGate(FactoredGate):
    r"""Gate of product keys: p(k | x) = p₁(a | x) · p₂(b | x) for expert k at (a, b).

    The experts stand on a grid of E₁ rows and E₂ columns. One softmax chooses the row,
    another the column, and their logits add up; so 4 096 experts cost about as much as
    128 do. Product keys come from large memory layers [1]_. Their price is that the
    choice of a column does not depend on the row.

    For soft targets r,

    .. math:: \sum_k r_k \log p(k | x)
              = \sum_a r_{a\cdot} \log p_1(a | x) + \sum_b r_{\cdot b} \log p_2(b | x),

    so each softmax is fitted to marginal responsibilities, as in `SoftmaxGate`.
    The best k experts are among the best k rows and columns of the grid.

    Parameters
    ----------
    shape : tuple of (int, int) or None, default=None
        E₁ and E₂; their product is the number of experts. None takes the factors
        nearest to a square, E₁ ≥ E₂. If the number of experts is prime, E₂ is 1, and
        the gate is one softmax.
    alpha : float or "auto", default="auto"
        Ridge penalty of both softmaxes, per row; as in `SoftmaxGate`.
    max_iter : int, default=200
        Most L-BFGS iterations of a fit from scratch.
    update_iter : int, default=10
        Most L-BFGS iterations of an M-step of a mixture.
    tol : float, default=1e-6
        L-BFGS stops when no entry of the gradient (mean per row) exceeds this.

    Attributes
    ----------
    shape_ : tuple of (int, int)
        Rows and columns of the grid.
    cells_ : ndarray of shape (n_experts, 2)
        Row and column of each expert. ``fit`` orders experts by the weighted centroids
        of their rows of X: rows of the grid along the direction in which centroids
        spread most, and experts in a row along the second such direction.
    coef_ : ndarray of shape (E₁ + E₂, n_features)
        Coefficients on the original features, first those of the rows of the grid.
    intercept_ : ndarray of shape (E₁ + E₂,)
        Intercepts.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.
    n_iter_ : int
        Larger number of L-BFGS iterations of the two in the last fit or update.

    References
    ----------
    .. [1] G. Lample, A. Sablayrolles, M. Ranzato, L. Denoyer and H. Jégou, "Large
       memory layers with product keys", NeurIPS 2019. arXiv:1907.05242

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import ProductGate
    >>> X = np.array([[-2.0, -1.0], [-2.0, 1.0], [2.0, -1.0], [2.0, 1.0]])
    >>> gate = ProductGate(alpha=0.1).fit(X, np.eye(4))
    >>> gate.shape_
    (2, 2)
    >>> gate.route(X, top_k=1).indices.ravel()
    array([0, 1, 2, 3])
    """

    _parameter_constraints: dict = {
        "shape": [tuple, None],
        **FactoredGate._parameter_constraints,
    }

    def __init__(
        self, shape=None, *, alpha="auto", max_iter=200, update_iter=10, tol=1e-6
    ):
        self.shape = shape
        self.alpha = alpha
        self.max_iter = max_iter
        self.update_iter = update_iter
        self.tol = tol

    def _arrange(self, sums: np.ndarray) -> None:
        self.shape_ = _shape(self.shape, self.n_experts_)
        self.cells_ = grid(centroids(sums, self._center, self._scale), self.shape_)

    def _members(self) -> tuple[sparse.csr_array, list[slice]]:
        n_rows, n_columns = self.shape_
        experts = np.arange(self.n_experts_)
        logits = np.concatenate([self.cells_[:, 0], n_rows + self.cells_[:, 1]])
        places = logits, np.tile(experts, 2)
        shape = n_rows + n_columns, self.n_experts_
        members = sparse.coo_array((np.ones(len(logits)), places), shape).tocsr()
        return members, [slice(n_rows), slice(n_rows, shape[0])]

    def _parts(self, routing: Routing, sums: np.ndarray) -> Iterator[Part]:
        n_rows = self.shape_[0]
        mass = routing.row_sums
        for axis, logits in enumerate((slice(n_rows), slice(n_rows, None))):
            marginal = np.zeros((self.shape_[axis], sums.shape[1]))
            np.add.at(marginal, self.cells_[:, axis], sums)
            yield Part(logits, None, mass, marginal)

    def log_proba(self, X: Array) -> Array:
        return select(X).product_log_proba(X, self.coef_, self.intercept_, self.cells_)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        return select(X).product_survey(
            X, self.coef_, self.intercept_, self.cells_, indices, top_k
        )

    def route(
        self, X: Array, top_k: int | None = None, top_p: float | None = None
    ) -> Routing:
        if top_p is not None or top_k is None or top_k >= self.n_experts_:
            return super().route(X, top_k, top_p)
        indices, weights = select(X).product_route(
            X, self.coef_, self.intercept_, self.cells_, top_k
        )
        return Routing(indices, weights, self.n_experts_)

    @property
    def n_parameters(self) -> int:
        """Free parameters: (E₁ + E₂ - 2) · (n_features + 1)."""
        return (sum(self.shape_) - 2) * (self.n_features_in_ + 1)


def _shape(shape: tuple | None, n_experts: int) -> tuple[int, int]:
    """Return the shape of the grid: the user's, checked, or the nearest to a square."""
    if shape is None:
        n_columns = next(
            b for b in range(math.isqrt(n_experts), 0, -1) if n_experts % b == 0
        )
        return n_experts // n_columns, n_columns
    whole = all(isinstance(size, Integral) and int(size) > 0 for size in shape)
    if len(shape) != 2 or not whole or math.prod(shape) != n_experts:
        raise ValueError(
            "shape must be two positive integers whose product is the number of "
            f"experts, {n_experts}; got {shape}."
        )
    return int(shape[0]), int(shape[1])
