r"""Panel data: all rows of a group come from one expert.

A person observed over years, a shop, a patient: a group g is one draw of the expert,
and its rows are independent given that draw,

    p(y_g | X_g) = Σ_k p(k | x̄_g) Π_{i ∈ g} p_k(y_i | x_i)^{s_i}.

The gate sees the mean features x̄_g of a group and counts it once, however many rows it
has; of features that are constant in a group that is the concomitant-variable mixture
of flexmix [1]_. The responsibilities of a group's rows are equal,

    r_gk ∝ exp( log p(k | x̄_g) + Σ_{i ∈ g} s_i log p_k(y_i | x_i) ).

References
----------
.. [1] B. Grün and F. Leisch, "FlexMix version 2: finite mixtures with concomitant
   variables and varying and constant parameters", Journal of Statistical Software
   28(4) (2008). doi:10.18637/jss.v028.i04
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..backends import Array, like, namespace
from ..routing import Routing


@dataclass(frozen=True, eq=False)
class Panel:
    """Which rows belong together.

    Attributes
    ----------
    group : (n_rows,) array of int
        Group of each row, from 0 without gaps.
    first : (n_groups,) array of int
        A row of each group.
    X : (n_groups, n_features) array or CSR
        Mean features of each group: what the gate sees.
    members : Routing
        Sends each row to its group, with its sample weight.
    weight : (n_rows,) array
        Weight of all rows of a row's group.
    """

    group: Array
    first: Array
    X: Array
    members: Routing
    weight: Array

    @classmethod
    def of(cls, X: Array, sample_weight: Array, groups: np.ndarray) -> Panel:
        """Read groups, (n_rows,) of any labels."""
        _, first, group = np.unique(groups, return_index=True, return_inverse=True)
        group, n_groups = like(group, sample_weight), len(first)
        members = Routing.from_labels(group, n_groups).scaled(sample_weight)
        xp = namespace(sample_weight)
        total = like(members.sum_by_expert(members.weights), sample_weight)
        total = xp.take(total, group)
        mean = _means(X, members, first)
        return cls(group, like(first, group), mean, members, total)

    def sums(self, values: Array) -> Array:
        """Return Σ s v over the group of each row, of (n_rows, m) values."""
        xp = namespace(values)
        found = self.members.weighted_sums(values)[:, :-1]
        return xp.astype(self.spread(found), values.dtype)

    def spread(self, values: Array) -> Array:
        """Return what is said of each group, (n_groups, ...), for each row."""
        return namespace(values).take(values, self.group, axis=0)

    def spread_routing(self, routing: Routing) -> Routing:
        """Return the routing of rows that go where their group goes."""
        return routing.take(self.group)

    def of_groups(self, routing: Routing) -> Routing:
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
        kept = np.take_along_axis(mean, best, axis=1)
        kept = kept / kept.sum(axis=1, keepdims=True)
        return self.spread_routing(Routing(best, kept, routing.n_experts))


def _means(X: Array, members: Routing, first: np.ndarray) -> Array:
    """Return the mean row of each group."""
    if sparse.issparse(X):
        weight, group = members.weights[:, 0], members.indices[:, 0]
        table = sparse.csr_array(
            (weight, (group, np.arange(len(weight)))), shape=(len(first), len(weight))
        )
        scale = sparse.diags_array(1.0 / table.sum(axis=1))
        return sparse.csr_matrix(scale @ table @ X)
    sums, xp = members.weighted_sums(X), namespace(X)
    return xp.astype(sums[:, :-1] / sums[:, -1:], X.dtype)
