"""Linear experts whose coefficients are stored in few bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ..backends import Array, filled, like, to_host
from ..routing import Routing
from ._base import DerivedPool
from ._coefficient_pool import CoefficientPool

LARGEST = {"int8": 127, "float16": 1}
"""Stored value of the largest coefficient of an expert's output."""


class PackedPool(DerivedPool):
    r"""A fitted pool of linear experts that stores their coefficients in few bits.

    .. math:: \beta_{kqj} \approx r_{kq} \, c_j \, b_{kqj}

    where b is int8 or float16, c_j is the largest coefficient of feature j in all
    experts, so that units do not matter, and r_kq is a scale for each expert and
    output. Intercepts and noise scales are stored as they are. A prediction unpacks the
    experts that its rows are routed to. Packed experts learn no more.

    Parameters
    ----------
    pool : CoefficientPool
        The fitted pool.
    dtype : {"int8", "float16"}
    """

    def __init__(self, pool: CoefficientPool, dtype: str) -> None:
        super().__init__(pool)
        self.scale = pool.scale
        self.seen = None
        coef = pool.coef
        self.column = np.abs(coef).max(axis=(0, 1), initial=0.0)
        self.column[self.column == 0.0] = 1.0
        unit = coef / self.column
        self.row = np.abs(unit).max(axis=2, keepdims=True, initial=0.0) / LARGEST[dtype]
        self.row[self.row == 0.0] = 1.0
        unit = unit / self.row
        self.packed = pool.without_stream()
        self.packed.coef = (np.rint(unit) if dtype == "int8" else unit).astype(dtype)

    def unpacked(self, experts: np.ndarray) -> Any:
        """Return an unpacked pool of some of the experts, exact up to rounding."""
        pool = self.packed.take(experts)
        pool.coef = pool.coef * self.row[experts] * self.column
        return pool

    def _asked(self, routing: Routing) -> tuple[Any, Routing]:
        """Return a pool of the experts that rows ask, and the routing to these."""
        if routing.dense or routing.indices.size >= self.n_experts:
            return self.unpacked(np.arange(self.n_experts)), routing
        indices = to_host(routing.indices)
        used, place = np.unique(filled(indices), return_inverse=True)
        place = np.where(indices < 0, -1, place.reshape(indices.shape))
        place = like(place, routing.indices)
        return self.unpacked(used), Routing(place, routing.weights, len(used))

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Raise: packed experts cannot learn."""
        raise TypeError(
            "Packed experts learn no more; train the mixture before packing."
        )

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return predictions, or the log probability of each row's label."""
        pool, entries = self._asked(routing)
        return pool.evaluate(X, y, entries)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's mean or class probabilities."""
        pool, entries = self._asked(routing)
        return pool.predict(X, entries)

    def mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's answers."""
        pool, entries = self._asked(routing)
        return pool.mix(X, entries)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return self: no expert is new."""
        return self

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.packed = self.packed.take(experts)
        other.row = self.row[experts]
        return other

    def estimators(self) -> Any:
        """Return the fitted experts, each unpacked when it is asked for."""
        return UnpackedWhenAsked(self)

    def count_parameters(self) -> int:
        """Return the number of free parameters."""
        return self.packed.count_parameters()


class UnpackedWhenAsked(Sequence):
    """The experts of a packed pool as scikit-learn estimators.

    Parameters
    ----------
    pool : PackedPool
    """

    def __init__(self, pool: PackedPool) -> None:
        self.pool = pool

    def __len__(self) -> int:
        return self.pool.n_experts

    def __getitem__(self, item: Any) -> Any:
        places = np.arange(len(self))[item]
        experts = self.pool.unpacked(np.atleast_1d(places)).estimators()
        return experts if isinstance(item, slice) else experts[0]
