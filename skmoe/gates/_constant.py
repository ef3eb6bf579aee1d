"""The constant gate: mixing weights that ignore x."""

from __future__ import annotations

import copy
from typing import Self

import numpy as np

from ..backends import Array, device_of, namespace
from ..routing import Block, Routing, Table
from ._base import BaseGate, as_routing


class ConstantGate(BaseGate):
    """Gate that ignores x: log p(k) is the log share of each expert's mass.

    It makes a mixture of experts a plain mixture of regressions. All rows are routed
    alike, so it serves clustering and comparison rather than prediction.

    Attributes
    ----------
    log_weights_ : ndarray of shape (n_experts,)
        Log mixing weights.
    n_experts_ : int
        Number of experts.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import ConstantGate
    >>> gate = ConstantGate().fit(np.zeros((2, 1)), np.array([[1.0, 0.0], [0.5, 0.5]]))
    >>> np.exp(gate.log_proba(np.zeros((1, 1))))
    array([[0.75, 0.25]])
    """

    allows_nan = True
    streams = True
    changed_by_step = ("log_weights_",)

    def fit(self, X: Array, routing: Routing) -> Self:
        # Fit the mixing weights.
        return self._count(_mass(as_routing(routing)))

    def _count(self, mass: np.ndarray) -> Self:
        """Take over the mass of each expert."""
        self.log_weights_ = _log_shares(mass)
        self._seen = float(mass.sum())
        self.n_experts_ = len(mass)
        return self

    # ------------------------------------------------------------ sums over rows
    # They go on from a fitted gate.
    def log_proba_of(self, table: Table, block: Block) -> np.ndarray:
        shape = (*self.log_weights_.shape, len(block.U))
        return np.broadcast_to(self.log_weights_[..., None], shape)

    def sums(
        self,
        block: Block,
        log_proba: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        # The mass of each expert.
        return (targets.sum(axis=-1),)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[ConstantGate, np.ndarray]:
        (mass,) = sums
        new = np.exp(_log_shares(mass))
        old = np.exp(self.log_weights_)
        other = copy.copy(self)
        part = np.asarray(damping)[..., None]
        other.log_weights_ = _log_shares(old + part * (new - old))
        return other, np.sum(mass * (np.log(new) - self.log_weights_), axis=-1)

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> ConstantGate:
        # Scale the mass so that it stands for this many rows.
        other = copy.copy(self)
        other._seen = float(np.sum(mass))
        return other

    def absorb(self, X: Array, routing: Routing, keep: float) -> ConstantGate:
        # Add the mass of a batch.
        memory = keep * self._seen * np.exp(self.log_weights_)
        return copy.copy(self)._count(memory + _mass(routing))

    def log_proba(self, X: Array) -> Array:
        # The same for every row.
        xp = namespace(X)
        dtype = X.dtype if hasattr(X, "dtype") else np.float64
        weights = xp.asarray(self.log_weights_, dtype=dtype, device=device_of(X))
        return xp.broadcast_to(weights, (X.shape[0], self.n_experts_))

    def take(self, experts: np.ndarray) -> ConstantGate:
        other = copy.copy(self)
        experts = np.asarray(experts)
        times = np.bincount(experts, minlength=self.n_experts_)[experts]
        weights = self.log_weights_[experts] - np.log(times)
        other.log_weights_ = weights - np.logaddexp.reduce(weights)
        other.n_experts_ = len(experts)
        return other

    @property
    def n_parameters(self) -> int:
        """Free parameters: n_experts - 1."""
        return self.n_experts_ - 1


def _mass(routing: Routing) -> np.ndarray:
    """Return the mass of each expert, in float64."""
    xp = namespace(routing.weights)
    return routing.sum_by_expert(xp.astype(routing.weights, xp.float64))


def _log_shares(mass: np.ndarray) -> np.ndarray:
    """Return the logarithms of shares of a mass, (..., n_experts)."""
    tiny = float(np.finfo(np.float64).tiny)
    return np.log(np.maximum(mass, tiny) / mass.sum(axis=-1, keepdims=True))
