"""A pool of frozen models."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from .._learners import is_frozen
from ..backends import Array, to_host
from ..routing import Routing
from ._base import ExpertPool
from ._estimator_pool import EstimatorPool


class FrozenPool(EstimatorPool):
    """Models that were fitted elsewhere; the pool learns only their noise scales.

    Such models may be slow, and do not change while EM runs, so each is asked once
    about the training rows. Copies of the pool share the answers.

    Attributes
    ----------
    said : dict
        The models' answers for all rows of the table that was last asked about, by the
        ``id`` of the model; "X" is that table. None once EM has ended.
    """

    def __init__(self, estimators: Any, **options: Any) -> None:
        super().__init__(estimators, **options)
        self.said: dict[Any, Any] | None = {}

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether a learner is a frozen model."""
        return is_frozen(estimator)

    def _answer(self, k: int, X: Array, rows: Array | None) -> np.ndarray:
        """Return a model's answers for some rows, None for all."""
        if self.said is None:
            return super()._answer(k, X, rows)
        if self.said.get("X") is not X:
            self.said.clear()
            self.said["X"] = X
        model = id(self.fitted[k])
        if model not in self.said:
            self.said[model] = super()._answer(k, X, None)
        answer = self.said[model]
        return answer if rows is None else answer[to_host(rows)]

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        other = copy.copy(self)
        other.said = None
        return other
