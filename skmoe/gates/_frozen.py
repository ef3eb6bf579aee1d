"""A gate that was fitted elsewhere and stays as it is."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from .._learners import thawed
from ..backends import Array
from ..routing import Routing
from ._base import BaseGate, as_routing


class FrozenGate(BaseGate):
    """A fitted gate that stays as it is: it learns nothing.

    A mixture makes one from ``gate=FrozenEstimator(gate)``.

    Parameters
    ----------
    estimator : gate or FrozenEstimator
        The fitted gate.

    Attributes
    ----------
    n_experts_ : int
        Number of experts.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    @property
    def _gate(self) -> Any:
        return thawed(self.estimator)

    def fit(self, X: Array, routing: Routing) -> Self:
        # Learn nothing: only check the number of experts.
        check_is_fitted(self._gate)
        n_experts = as_routing(routing).n_experts
        if self._gate.n_experts_ != n_experts:
            raise ValueError(
                f"gate {self.estimator!r} was fitted for {self._gate.n_experts_} "
                f"experts; this mixture has n_experts={n_experts}."
            )
        self.n_experts_ = n_experts
        return self

    def update(self, X: Array, routing: Routing) -> BaseGate:
        return self

    def log_proba(self, X: Array) -> Array:
        return self._gate.log_proba(X)

    def log_proba_at(self, X: Array, routing: Routing) -> Array:
        return self._gate.log_proba_at(X, routing)

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        return self._gate.best(X, top_k)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        return self._gate.survey(X, indices, top_k)

    def take(self, experts: np.ndarray) -> BaseGate:
        other = FrozenGate(self._gate.take(experts))
        other.n_experts_ = len(experts)
        return other

    @property
    def n_parameters(self) -> int:
        """Number of free parameters: none."""
        return 0

    @property
    def accepts_sparse(self) -> bool:  # type: ignore[override]
        """Whether the gate takes sparse features."""
        return get_tags(self._gate).input_tags.sparse

    @property
    def allows_nan(self) -> bool:  # type: ignore[override]
        """Whether the gate takes NaN."""
        return get_tags(self._gate).input_tags.allow_nan
