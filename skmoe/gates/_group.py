"""The group gate: every user, store or region has its own shares of the experts."""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import clone

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, filled, like, namespace, to_host
from ..routing import Routing
from ._base import BaseGate, as_routing

CONCENTRATIONS = (1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
"""Values that concentration="auto" tries; the first serves if nothing is held out."""

SMALLEST = np.finfo(np.float64).tiny
"""Lowest share of an expert, for experts without rows."""


class GroupGate(BaseGate):
    r"""Gate on known ids: log p(k | x) is the log share of expert k in x's group.

    A group is a user, a store or a region: whatever the ids stand for. Let
    :math:`n_{gk}` be the mass of expert k in the rows of group g,
    :math:`n_g = \sum_k n_{gk}`, and :math:`\pi_k` the share of expert k in all rows.
    Then

    .. math:: p(k | g) = \frac{n_{gk} + c \, \pi_k}{n_g + c}

    which is the posterior mean of the shares under a Dirichlet prior with mean
    :math:`\pi` and concentration c [1]_. A group that is new since fit has no counts
    and gets :math:`\pi`. With experts that know the items and this gate on the users, a
    mixture is a factor model of ratings.

    Parameters
    ----------
    columns : int, str, slice or array-like of int or str, default=0
        Where X holds the group of a row.

        - A number, or in a mixture the name of a column of a data frame, is one column
          of ids. Ids are whole numbers in any order, with or without gaps; NaN means no
          group. In a mixture ids may also be strings or categories. Then the gate, and
          experts that do not read X by its columns, get their ranks (the mixture's
          ``group_ids_``).
        - A slice or a list is a block of indicators (zeros and ones), one column per
          group. A row in several groups gets the mean of their shares, and its mass
          counts in equal parts for each; a row in none gets the shares of all rows.
    concentration : float or "auto", default="auto"
        The c above, in rows: a group of c rows is shrunk half way to the shares of all
        rows. "auto" takes the best of 1, 3, 10, 30, 100 and 1000, which all but ignores
        the ids, on held-out rows (``gate_.concentration``), or 1 if nothing is held
        out.

    Attributes
    ----------
    groups_ : ndarray of shape (n_groups,)
        Ids that occurred in fit, ascending; for indicators the columns of X that had a
        row.
    shares_ : ndarray of shape (n_groups, n_experts)
        p(k | g) of each group.
    population_ : ndarray of shape (n_experts,)
        The shares of all rows, which a new group gets.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    For given :math:`\pi` the shares maximise
    :math:`\sum_g \sum_k (n_{gk} + c \pi_k) \log p(k | g)`, so an update is a fit. The
    counts of a group include the row that EM asks about, but that does little harm: an
    expert gains at most :math:`1 / (n_g + c)` from a row.
    Float32 holds whole numbers exactly up to 16,777,216.

    References
    ----------
    .. [1] A. Gelman et al., "Bayesian data analysis", 3rd ed., CRC Press (2013),
       section 3.4. doi:10.1201/b16018

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import GroupGate
    >>> users = np.array([[3], [3], [3], [8]])
    >>> responsibilities = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    >>> gate = GroupGate(concentration=1).fit(users, responsibilities)
    >>> np.exp(gate.log_proba(np.array([[3.0], [8.0], [5.0]]))).round(3)
    array([[0.938, 0.062],
           [0.375, 0.625],
           [0.75 , 0.25 ]])
    """

    allows_nan = True
    choices = {"concentration": CONCENTRATIONS}

    _parameter_constraints: dict = {
        "columns": [Integral, str, slice, "array-like"],
        "concentration": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
        ],
    }

    def __init__(self, columns=0, *, concentration="auto"):
        self.columns = columns
        self.concentration = concentration

    def fit(self, X: Array, routing: Routing) -> Self:
        # Count each expert's mass in each group, and shrink the shares.
        self._validate_params()
        routing = as_routing(routing)
        self.n_experts_ = routing.n_experts
        self.n_features_in_ = X.shape[1]
        self.groups_ = self._find_groups(X)
        mass = routing.sum_by_expert(np.asarray(to_host(routing.weights), np.float64))
        population = np.maximum(mass / mass.sum(), SMALLEST)
        counts = _counts(self._members(X), routing)
        c = self._pseudo_rows()
        shares = (counts + c * population) / (counts.sum(axis=1, keepdims=True) + c)
        return self._tabulate(np.vstack([np.maximum(shares, SMALLEST), population]))

    @property
    def id_column(self) -> Any:
        """Name or position of the column of ids; None if they are indicators."""
        return self.columns if isinstance(self.columns, (Integral, str)) else None

    def placed(self, names: Any) -> GroupGate:
        # Replace names of columns by positions.
        wanted = _names(self.columns)
        if not wanted:
            return self
        columns = [] if names is None else list(names)
        missing = [name for name in wanted if name not in columns]
        if missing:
            has = f"X has {columns}" if columns else "X has no names: give a data frame"
            raise ValueError(
                f"The 'columns' parameter of GroupGate must be positions or names of "
                f"columns of X; got {self.columns!r}, but {has}."
            )
        places = [columns.index(name) for name in wanted]
        alone = isinstance(self.columns, str)
        return clone(self).set_params(columns=places[0] if alone else places)

    def _pseudo_rows(self) -> float:
        auto = self.concentration == "auto"
        return CONCENTRATIONS[0] if auto else float(self.concentration)

    def _tabulate(self, table: np.ndarray) -> Self:
        """Keep a table of probabilities: one row per group, and one for all rows.

        Rows sum to less than one where the gate has left experts out.
        """
        self._kept = table.sum(axis=1, keepdims=True)
        table = table / self._kept
        self.shares_ = table[:-1]
        self.population_ = table[-1]
        self._log_table = np.log(table)
        self._order = np.argsort(-table, axis=1, kind="stable")
        return self

    # -------------------------------------------------------------- whose row
    def _find_groups(self, X: Array) -> np.ndarray:
        """Return the groups that occur in X."""
        if isinstance(self.columns, Integral):
            ids = _ids(X, self._positions(X))
            return np.unique(ids[~np.isnan(ids)])
        columns = np.unique(self._positions(X))
        return columns[np.unique(_indicators(X, columns).indices)]

    def _positions(self, X: Array) -> np.ndarray:
        """Return the columns that are read, counted from the left."""
        self.placed(None)
        try:
            return np.atleast_1d(np.arange(X.shape[1])[self.columns])
        except IndexError:
            raise ValueError(
                f"columns must name columns of X, which has {X.shape[1]}; got "
                f"{self.columns!r}."
            ) from None

    def _members(self, X: Array) -> sparse.csr_array:
        """Return the known groups of each row, (n_samples, n_groups), as ones."""
        if not isinstance(self.columns, Integral):
            return _indicators(X, self.groups_)
        ids = _ids(X, self._positions(X))
        code = np.searchsorted(self.groups_, ids)
        has_group = code < len(self.groups_)
        has_group[has_group] = self.groups_[code[has_group]] == ids[has_group]
        starts = np.concatenate([[0], np.cumsum(has_group)])
        ones = np.ones(starts[-1])
        shape = (len(ids), len(self.groups_))
        return sparse.csr_array((ones, code[has_group], starts), shape=shape)

    def _rows(self, X: Array) -> np.ndarray | None:
        """Return the table's row for each row of X, the last one if it has no group.

        Return None if some row is in several groups.
        """
        members = self._members(X)
        n_groups = np.diff(members.indptr)
        if n_groups.max(initial=0) > 1:
            return None
        rows = np.full(len(n_groups), len(self.groups_))
        rows[n_groups == 1] = members.indices
        return rows

    # ---------------------------------------------------------------- answers
    def log_proba(self, X: Array) -> Array:
        rows = self._rows(X)
        log_proba = self._mean_log_proba(X) if rows is None else self._log_table[rows]
        return like(log_proba, X, X.dtype)

    def _mean_log_proba(self, X: Array) -> np.ndarray:
        """Return the logarithm of the mean shares of each row's groups."""
        members = self._members(X)
        unknown = np.diff(members.indptr) == 0
        proba = members @ (self._kept[:-1] * self.shares_)
        proba[unknown] = self.population_
        return np.log(proba / proba.sum(axis=1, keepdims=True))

    def log_proba_at(self, X: Array, routing: Routing) -> Array:
        rows = None if routing.dense else self._rows(X)
        if rows is None:
            return super().log_proba_at(X, routing)
        return self._look_up(rows, routing.indices, X)

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        rows = self._rows(X)
        if rows is None:
            return super().best(X, top_k)
        best = self._order[rows, :top_k]
        return self._look_up(rows, best, X), like(best, X)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        rows = self._rows(X)
        if rows is None:
            return super().survey(X, indices, top_k)
        best = self._order[rows, :top_k]
        log_at, log_best = (self._look_up(rows, at, X) for at in (indices, best))
        return log_at, like(best, X), log_best

    def _look_up(self, rows: np.ndarray, experts: Array, X: Array) -> Array:
        """Return the table at (row, expert) pairs, as an array like X."""
        experts = to_host(experts)
        log_at = self._log_table[rows[:, None], filled(experts)]
        return like(np.where(experts < 0, -np.inf, log_at), X, X.dtype)

    def take(self, experts: np.ndarray) -> GroupGate:
        other = copy.copy(self)
        experts = np.asarray(experts)
        times = np.bincount(experts, minlength=self.n_experts_)[experts]
        table = self._kept * np.vstack([self.shares_, self.population_])
        other.n_experts_ = len(experts)
        return other._tabulate(table[:, experts] / times)

    @property
    def n_parameters(self) -> int:
        """Free parameters: n_groups · (n_experts - 1)."""
        return len(self.groups_) * (self.n_experts_ - 1)


def _names(columns: Any) -> list[str]:
    """Return those columns that are names, not positions."""
    if isinstance(columns, slice):
        return []
    return [one for one in np.atleast_1d(columns).tolist() if isinstance(one, str)]


def _ids(X: Array, column: np.ndarray) -> np.ndarray:
    """Return a column of ids, (n_samples,), NaN where there is none."""
    ids = _columns(X, column)
    ids = (ids.toarray() if sparse.issparse(ids) else ids)[:, 0]
    wrong = ids[~np.isnan(ids) & (ids != np.rint(ids))]
    if len(wrong):
        raise ValueError(
            f"GroupGate reads ids in column {column[0]} of X, which must be whole "
            f"numbers, or NaN for none; got {wrong[0]}. Name the column of ids with "
            "columns=, and encode ids of other kinds with OrdinalEncoder."
        )
    return ids


def _indicators(X: Array, columns: np.ndarray) -> sparse.csr_array:
    """Return an indicator block as a CSR array of ones."""
    block = sparse.csr_array(_columns(X, columns), dtype=np.float64, copy=True)
    block.sum_duplicates()
    block.eliminate_zeros()
    wrong = block.data[block.data != 1]
    if len(wrong):
        raise ValueError(
            "GroupGate reads an indicator block in several columns of X, which must "
            f"hold zeros and ones; got {wrong[0]}. Give one number as columns= for a "
            "column of ids."
        )
    return block


def _columns(X: Array, columns: np.ndarray) -> Array:
    """Return some columns of X, CSR or NumPy on the host."""
    if sparse.issparse(X):
        return X[:, columns]
    return to_host(namespace(X).take(X, like(columns, X), axis=1))


def _counts(members: sparse.csr_array, routing: Routing) -> np.ndarray:
    """Return the mass of each expert in each group, (n_groups, n_experts).

    A row in several groups splits its mass evenly.
    """
    n_groups = np.diff(members.indptr)
    split = sparse.csr_array(
        (members.data / np.repeat(n_groups, n_groups), members.indices, members.indptr),
        shape=members.shape,
    )
    if routing.dense:
        return split.T @ np.asarray(to_host(routing.weights), dtype=np.float64)
    return (split.T @ routing.to_csr()).toarray()
