r"""Panel data: all rows of a group come from one expert.

A group g (a person observed over years, a shop, a patient) draws its expert once, and
its rows are independent given that draw:

    p(y_g | X_g) = Σ_k q_gk Π_{i ∈ g} p_k(y_i | x_i)^{s_i},
    log q_gk = Σ_{i ∈ g} s_i log g_k(x_i) / Σ_{i ∈ g} s_i.

The gate learns from rows, each with the responsibilities of its group, and a group
counts once, however many rows it has. So the gate learns how much one row tells about
its group. A column that is constant in groups counts fully; one that varies from row to
row counts as far as it tells groups apart; noise does not count. In the E-step the rows
of a group vote by their mean. q sums to at most one, so EM raises a lower bound; if
features are constant in groups, it is the log-likelihood of the concomitant-variable
mixture of flexmix [1]_. All rows of a group have the same responsibilities,

    r_gk ∝ exp( log q_gk + Σ_{i ∈ g} s_i log p_k(y_i | x_i) ).

Several rows of a new group say more than one: see `Voice`.

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
"""Variances of the gate's answers below this share of their squares count as zero."""


class Reader(BaseGate):
    """A gate whose X holds its answers: log p(k | group) of each group."""

    def __init__(self, n_experts_: int) -> None:
        self.n_experts_ = n_experts_

    def fit(self, X: Array, routing: Routing) -> Reader:
        """Return self: there is nothing to learn."""
        return self

    def log_proba(self, X: Array) -> Array:
        """Return X."""
        return X


class Alone:
    """The contract of `Panel` where each row draws its own expert."""

    def asked(self, gate: BaseGate, X: Array) -> tuple[BaseGate, Array]:
        """Return the gate to ask, and its X: one row per draw."""
        return gate, X

    def sums(self, values: Array) -> Array:
        """Return Σ s v over the draw of each row, for (n_rows, m) values."""
        return values

    def spread(self, values: Any) -> Any:
        """Return values of draws, an array or CSR, row by row."""
        return values

    def spread_routing(self, routing: Routing) -> Routing:
        """Return a routing of draws, row by row."""
        return routing

    def of_draws(self, routing: Routing) -> Routing:
        """Return a routing of rows, draw by draw; rows of a draw must agree."""
        return routing

    def route(self, rule: RoutingRule, gate: BaseGate, X: Array) -> Routing:
        """Return where a gate sends the rows under a rule."""
        return self.spread_routing(rule.route(*self.asked(gate, X)))


@dataclass(frozen=True, eq=False)
class Panel(Alone):
    """The groups of the rows; a group draws one expert.

    Attributes
    ----------
    group : (n_rows,) array of int
        Group of each row, from 0 without gaps.
    first : (n_groups,) array of int
        A row of each group.
    members : Routing
        The group of each row, with the row's sample weight.
    weight : (n_rows,) array
        Total weight of each row's group.
    voice : Voice or None
        How much more several rows say than one; None if they say no more.
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
        """Return the panel of groups, (n_rows,) labels of any kind."""
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
        """Total weight of each group."""
        return namespace(self.weight).take(self.weight, self.first)

    def asked(self, gate: BaseGate, X: Array) -> tuple[BaseGate, Array]:
        """Return the gate to ask, and its X: one row per group."""
        votes = gate.vote(X, self.members)
        if self.voice is not None:
            votes = self.voice.raised(votes, self.size)
        return Reader(gate.n_experts_), votes

    def sums(self, values: Array) -> Array:
        """Return Σ s v over the group of each row, for (n_rows, m) values."""
        xp = namespace(values)
        sums = self.members.weighted_sums(values)[:, :-1]
        return xp.astype(self.spread(sums), values.dtype)

    def spread(self, values: Any) -> Any:
        """Return values of groups, (n_groups, ...), row by row."""
        if sparse.issparse(values):
            return values[to_host(self.group)]
        return namespace(values).take(values, self.group, axis=0)

    def spread_routing(self, routing: Routing) -> Routing:
        """Return a routing of groups, row by row."""
        return routing.take(self.group)

    def of_draws(self, routing: Routing) -> Routing:
        """Return a routing of rows, group by group; rows of a group must agree."""
        return routing.take(self.first)

    def agreed(self, routing: Routing, width: int) -> Routing:
        """Return the routing in which each row has the mean weights of its group.

        Parameters
        ----------
        routing : Routing
            A routing of rows, on the host.
        width : int
            Number of entries to keep per row.
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
    r"""How much more several rows of a group say about its expert than one row does.

    Rows that repeat each other, for example those with constant features, say no more
    than one row. Rows that are independent given the expert each add evidence. Let ι be
    the correlation of the gate's answers for two rows of a group, among groups of one
    expert. Then m rows are worth m / (1 + (m - 1) ι) independent ones, by the design
    effect of cluster sampling [2]_, and Bayes' rule is

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
        """Measure the correlation of a fitted gate's answers inside groups.

        With very many experts the table of answers would be too large; groups then say
        no more than one row.

        Parameters
        ----------
        panel : Panel
        gate : BaseGate
            The fitted gate, which answers for single rows.
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
        """Return log p(k | X_g), (n_groups, n_experts), of groups of these sizes."""
        xp = namespace(votes)
        share = like(self.log_share, votes, votes.dtype)
        worth = size / (1.0 + (size - 1.0) * self.correlation)
        worth = xp.astype(worth, votes.dtype)[:, None]
        return select(votes).log_softmax(share + worth * (votes - share))


def _square(off: np.ndarray, weight: np.ndarray, proba: np.ndarray) -> float:
    """Return the sum of squared deviations, weighted by rows and by experts."""
    return float(weight @ (off * off) @ proba)
