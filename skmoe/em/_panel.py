r"""Panel data: all rows of a group come from one expert.

A person observed over years, a shop, a patient: a group g is one draw of the expert,
and its rows are independent given that draw,

    p(y_g | X_g) = Σ_k q_gk Π_{i ∈ g} p_k(y_i | x_i)^{s_i},
    log q_gk = Σ_{i ∈ g} s_i log g_k(x_i) / Σ_{i ∈ g} s_i.

The gate learns from rows, each with the responsibilities of its group, and a group
counts once, however many rows it has. So it learns what one row says of its group: a
column that is constant in groups counts whole, one that varies from row to row as far
as it tells groups apart, and noise not at all. In the E-step the rows of a group vote
by their mean; q sums to at most one, so what EM raises is a bound. Of features that are
constant in a group it is the log-likelihood of the concomitant-variable mixture of
flexmix [1]_. The responsibilities of a group's rows are equal,

    r_gk ∝ exp( log q_gk + Σ_{i ∈ g} s_i log p_k(y_i | x_i) ).

Of a new group several rows say more than one: see `Voice`.

References
----------
.. [1] B. Grün and F. Leisch, "FlexMix version 2: finite mixtures with concomitant
   variables and varying and constant parameters", Journal of Statistical Software
   28(4) (2008). doi:10.18637/jss.v028.i04
.. [2] L. Kish, "Survey sampling", Wiley (1965), section 5.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from ..backends import Array, like, namespace, select, to_host
from ..experts import MOST
from ..gates import BaseGate, RoutingRule
from ..routing import Routing

TINY = np.finfo(np.float64).tiny

ROUNDING = 1e-12
"""Variances of the gate's answers below this, relative to their squares, are none."""


class Reader(BaseGate):
    """A gate that finds its answers in X: what has been said of each group."""

    def __init__(self, n_experts_: int) -> None:
        self.n_experts_ = n_experts_

    def fit(self, X: Array, routing: Routing) -> Reader:
        """Return self: there is nothing to learn."""
        return self

    def log_proba(self, X: Array) -> Array:
        """Return X."""
        return X


class Alone:
    """Draws of the expert where each row is one, by the contract of `Panel`."""

    def asked(self, gate: BaseGate, X: Array) -> tuple[BaseGate, Array]:
        """Return the gate to ask, and what it is to be asked about: a row a draw."""
        return gate, X

    def sums(self, values: Array) -> Array:
        """Return Σ s v over the draw of each row, of (n_rows, m) values."""
        return values

    def spread(self, values: Any) -> Any:
        """Return what is said of each draw, an array or CSR, for each row."""
        return values

    def spread_routing(self, routing: Routing) -> Routing:
        """Return the routing of rows that go where their draw goes."""
        return routing

    def of_draws(self, routing: Routing) -> Routing:
        """Return the routing of draws whose rows all go one way."""
        return routing

    def route(self, rule: RoutingRule, gate: BaseGate, X: Array) -> Routing:
        """Return where a gate sends the rows under a rule."""
        return self.spread_routing(rule.route(*self.asked(gate, X)))


@dataclass(frozen=True, eq=False)
class Panel(Alone):
    """Which rows belong together.

    Attributes
    ----------
    group : (n_rows,) array of int
        Group of each row, from 0 without gaps.
    first : (n_groups,) array of int
        A row of each group.
    members : Routing
        Sends each row to its group, with its sample weight.
    weight : (n_rows,) array
        Weight of all rows of a row's group.
    voice : Voice or None
        How much more several rows say than one; None is no more.
    """

    group: Array
    first: Array
    members: Routing
    weight: Array
    voice: Voice | None = None

    @classmethod
    def of(
        cls, sample_weight: Array, groups: np.ndarray, voice: Voice | None = None
    ) -> Panel:
        """Read groups, (n_rows,) of any labels."""
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        group = like(group, sample_weight)
        n_groups = len(first)
        members = Routing.from_labels(group, n_groups).scaled(sample_weight)
        xp = namespace(sample_weight)
        total = like(members.sum_by_expert(members.weights), sample_weight)
        total = xp.take(total, group)
        return cls(group, like(first, group), members, total, voice)

    @cached_property
    def size(self) -> Array:
        """Weight of all rows of each group."""
        return namespace(self.weight).take(self.weight, self.first)

    def asked(self, gate: BaseGate, X: Array) -> tuple[BaseGate, Array]:
        """Return the gate to ask, and what it is to be asked about: a row a group."""
        votes = gate.vote(X, self.members)
        if self.voice is not None:
            votes = self.voice.raised(votes, self.size)
        return Reader(gate.n_experts_), votes

    def sums(self, values: Array) -> Array:
        """Return Σ s v over the group of each row, of (n_rows, m) values."""
        xp = namespace(values)
        sums = self.members.weighted_sums(values)[:, :-1]
        return xp.astype(self.spread(sums), values.dtype)

    def spread(self, values: Any) -> Any:
        """Return what is said of each group, (n_groups, ...), for each row."""
        if sparse.issparse(values):
            return values[to_host(self.group)]
        return namespace(values).take(values, self.group, axis=0)

    def spread_routing(self, routing: Routing) -> Routing:
        """Return the routing of rows that go where their group goes."""
        return routing.take(self.group)

    def of_draws(self, routing: Routing) -> Routing:
        """Return the routing of groups whose rows all go one way."""
        return routing.take(self.first)

    def agreed(self, routing: Routing, width: int) -> Routing:
        """Return a routing in which rows of a group go the way of their mean.

        Parameters
        ----------
        routing : Routing
            On the host.
        width : int
            Entries kept a row.
        """
        weight = np.asarray(self.members.weights)[:, 0]
        share = sparse.csr_array(
            (weight / np.asarray(self.weight), (self.group, np.arange(len(weight)))),
            shape=(len(self.first), len(weight)),
        )
        mean = (share @ routing.to_csr()).toarray()
        if width >= routing.n_experts:
            return self.spread_routing(Routing.from_dense(mean))
        best = np.argsort(-mean, axis=1, kind="stable")[:, :width]
        weights = np.take_along_axis(mean, best, axis=1)
        weights = weights / weights.sum(axis=1, keepdims=True)
        return self.spread_routing(Routing(best, weights, routing.n_experts))


@dataclass(frozen=True, eq=False)
class Voice:
    r"""How much more several rows of a group say of its expert than one does.

    Rows that repeat each other, as those of constant features do, say no more than one;
    rows that are independent given the expert are as many pieces of evidence. Where ι
    is the correlation of what the gate says of two rows of a group, among groups of one
    expert, m rows are worth m / (1 + (m - 1) ι) independent ones, the design effect of
    cluster sampling [2]_. So Bayes' rule is

        log p(k | X_g) = log π_k + m / (1 + (m - 1) ι) (log q_gk - log π_k) + const.

    Attributes
    ----------
    correlation : float
        ι, from 0 to 1.
    log_share : (n_experts,) array
        log π_k: the gate's mean probability of each expert; each group counts once.
    """

    correlation: float
    log_share: np.ndarray

    @classmethod
    def of(cls, panel: Panel, gate: BaseGate, X: Array, resp: Routing) -> Voice:
        """Measure what a fitted gate says of the rows of each expert's groups.

        Of very many experts that would take a table too large; groups then say no more
        than a row.

        Parameters
        ----------
        panel : Panel
        gate : BaseGate
            It answers for single rows.
        X : (n_rows, n_features) array or CSR
        resp : Routing
            Responsibilities of the rows.
        """
        if gate.n_experts_ > MOST:
            return cls(1.0, np.zeros(gate.n_experts_))
        log_proba = to_host(gate.log_proba(X)).astype(np.float64)
        group = to_host(panel.group)
        weight = to_host(panel.members.weights)[:, 0]
        size = np.bincount(group, weight)
        rows = np.arange(len(group))
        share = weight / size[group]
        mean = sparse.csr_array((share, (group, rows)))
        voted = mean @ log_proba
        kinds = mean @ resp.to_csr().toarray()
        proba = (mean @ np.exp(log_proba)).mean(axis=0)

        inside = _square(log_proba - voted[group], weight, proba)
        inside /= max(size.sum() - len(size), TINY)
        center = kinds.T @ voted / np.maximum(kinds.sum(axis=0), TINY)[:, None]
        apart = sum(
            _square(voted - center[k], kinds[:, k], proba) for k in range(len(center))
        )
        apart /= max(len(size) - len(center), 1)
        between = max(apart - inside * np.mean(1.0 / size), 0.0)
        whole = _square(voted, np.full(len(size), 1.0 / len(size)), proba)
        varies = between + inside > ROUNDING * whole
        alike = between / (between + inside) if varies else 1.0
        return cls(float(alike), np.log(np.maximum(proba, TINY)))

    def raised(self, votes: Array, size: Array) -> Array:
        """Return log p(k | X_g), (n_groups, n_experts), of groups of so many rows."""
        xp = namespace(votes)
        share = like(self.log_share, votes, votes.dtype)
        worth = size / (1.0 + (size - 1.0) * self.correlation)
        worth = xp.astype(worth, votes.dtype)[:, None]
        return select(votes).log_softmax(share + worth * (votes - share))


def _square(off: np.ndarray, weight: np.ndarray, proba: np.ndarray) -> float:
    """Return the sum of squared deviations, (n, n_experts), of likely experts most."""
    return float(weight @ (off * off) @ proba)
