"""The rule that turns a gate's probabilities into the experts to ask."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import Array, like, namespace, select, to_host
from ..routing import Routing, within_capacity


@dataclass(frozen=True)
class RoutingRule:
    """Which experts a row is sent to.

    Parameters
    ----------
    top_k : int or None, default=None
        Most experts per row; None asks all.
    top_p : float or None, default=None
        A row asks only the fewest of these whose probabilities sum to ``top_p``.
    capacity_factor : float or None, default=None
        Most rows of a batch that an expert takes, in units of an even share; see
        `within_capacity`.
    ask_last : bool, default=False
        Whether every row asks the last expert beside ``top_k`` of the others. If its
        density is fixed, it costs nothing and explains the rows that the others do not.
    """

    top_k: int | None = None
    top_p: float | None = None
    capacity_factor: float | None = None
    ask_last: bool = False

    @property
    def plain(self) -> bool:
        """Whether it asks the ``top_k`` that the gate prefers, and that is all."""
        limits = self.top_p, self.capacity_factor
        return limits == (None, None) and not self.ask_last

    def asks_all(self, n_experts: int) -> bool:
        """Tell whether every row asks every expert.

        Parameters
        ----------
        n_experts : int
            Number of experts.

        Returns
        -------
        bool
            Whether no expert is left out.
        """
        few = self.top_k is not None and self.top_k < n_experts
        return not few and self.top_p is None

    def route(self, gate: Any, X: Array) -> Routing:
        """Return where a gate sends rows under this rule.

        Parameters
        ----------
        gate : BaseGate
            A fitted gate.
        X : (n_samples, n_features) array or scipy CSR
            Features.

        Returns
        -------
        Routing
            Best expert first.
        """
        top_k = self.top_k
        if top_k is not None and self.ask_last:
            top_k += 1
        routing = gate.route(X, top_k, self.top_p)
        if self.ask_last and not routing.dense:
            routing = with_last(gate, X, routing)
        if self.capacity_factor is None or self.asks_all(routing.n_experts):
            return routing
        n_rows, top_k = routing.shape
        even = n_rows * top_k / routing.n_experts
        capacity = math.ceil(self.capacity_factor * even)

        def rank(rows: np.ndarray) -> tuple[Array, Array]:
            some = select(X).take_rows(X, like(rows, routing.indices))
            return gate.best(some, routing.n_experts)

        return within_capacity(routing, capacity, rank)


def with_last(gate: Any, X: Array, routing: Routing) -> Routing:
    """Return the routing that also asks the last expert, and at least one other.

    Where a row does not ask it yet, it takes the place of the worst.
    """
    xp = namespace(routing.weights)
    last = routing.n_experts - 1
    indices = routing.indices
    alone = xp.all((indices < 0) | (indices == last), axis=1)
    if to_host(xp.any(alone)):
        _, best = gate.best(X, 2)
        other = xp.where(best[:, 0] == last, best[:, 1], best[:, 0])
        first = xp.where(alone, other, indices[:, 0])
        indices = xp.concat([first[:, None], indices[:, 1:]], axis=1)
    there = xp.any(indices == last, axis=1)
    end = xp.where(there, indices[:, -1], xp.full_like(indices[:, -1], last))
    indices = xp.concat([indices[:, :-1], end[:, None]], axis=1)
    choice = Routing(indices, routing.weights, routing.n_experts)
    log_proba = gate.log_proba_at(X, choice)
    weights, _ = select(log_proba).normalise(log_proba)
    return choice.with_weights(weights)
