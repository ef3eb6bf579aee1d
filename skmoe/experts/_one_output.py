"""A pool of one output of experts that have several."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..backends import Array
from ..likelihoods import Likelihood
from ..routing import Routing
from ._base import DerivedPool, ExpertPool


class OneOutputPool(DerivedPool):
    """The answers of a fitted pool for one output. Its experts learn no more.

    Parameters
    ----------
    pool : ExpertPool
        A fitted pool for regression.
    output : int
        Which output.
    """

    def __init__(self, pool: ExpertPool, output: int) -> None:
        super().__init__(pool)
        assert isinstance(self.likelihood, Likelihood)
        self.pool = pool
        self.output = output
        column = slice(output, output + 1)
        self.likelihood = self.likelihood.one_output(column)
        self.scale = None if pool.scale is None else pool.scale[:, column]

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return self."""
        return self

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return each entry's prediction of the output, (n, m, 1)."""
        column = slice(self.output, self.output + 1)
        return self.pool.evaluate(X, y, routing)[:, :, column]

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction of the output, (n, m, 1)."""
        return self.pool.predict(X, routing)[:, :, self.output : self.output + 1]

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a copy: no expert is new."""
        return copy.copy(self)

    def estimators(self) -> list[Any]:
        """Return the experts, which have all outputs."""
        return self.pool.estimators()
