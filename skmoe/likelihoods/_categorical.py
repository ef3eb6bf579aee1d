"""Class labels."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from ..backends import Array, namespace
from ..routing import Routing

PROBABILITY_FLOOR = 1e-3
"""Floor of class probabilities, divided by the number of classes. An expert that never
met a class, or whose tree is sure, must not rule a row out for good."""


class Categorical:
    """Class labels, for which an expert predicts log p(label) directly."""

    has_scale = False
    plain = True
    robust = False
    centred = False
    n_fixed = 0
    origin_ = 0.0

    def about(self, origin: Any) -> Self:
        """Return the family unchanged: labels have no origin."""
        return self

    def take(self, experts: np.ndarray) -> Self:
        """Return the family of some of the experts."""
        return self

    def fixed(self, n_experts: int) -> np.ndarray:
        """Return which of the experts learn nothing; none do."""
        return np.zeros(n_experts, dtype=bool)

    def beyond(self, y: Array) -> None:
        """Return the rows that only fixed experts can have; there are none."""
        return None

    def shown(self, experts: list[Any]) -> list[Any]:
        """Return fitted experts in the form that users see."""
        return experts

    def means(self, answers: Array, routing: Routing) -> Array:
        """Return the class probabilities of experts."""
        return answers

    def centre(self, means: Array, scale: Any, routing: Routing) -> Array:
        """Return the class probabilities of each row."""
        return routing.combine(means)

    def row_weights(self, *entries: Any) -> None:
        """Return None, as all rows count alike."""
        return None

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return the log probability of the label at each entry, (n, m)."""
        density = values[:, :, 0]
        if routing.dense:
            return density
        xp = namespace(values)
        return xp.where(routing.indices < 0, xp.full_like(density, -xp.inf), density)
