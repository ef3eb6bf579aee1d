"""The gate contract: p(k | x), and the row-blocked routing built on it."""

from __future__ import annotations

import functools
import operator
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from ..backends import Array, like, namespace, select
from ..routing import Block, Routing, Table, gather, nucleus


def as_routing(target: Any) -> Routing:
    """Return a `Routing`, which may be given as a dense array or a CSR matrix."""
    if isinstance(target, Routing):
        return target
    if sparse.issparse(target):
        target = target.toarray()
    weights = np.asarray(target, dtype=np.float64)
    if weights.ndim != 2:
        raise ValueError(
            "routing must be a Routing or an array of shape (n_samples, n_experts); "
            f"got an array of shape {weights.shape}."
        )
    return Routing.from_dense(weights)


class BaseGate(BaseEstimator, ABC):
    """Base class of all gates.

    A gate is a scikit-learn estimator that models which expert serves a row,
    p(k | x). It is trained on *soft* targets, a `Routing` whose weights are
    responsibilities times sample weights, and it never sees y.

    To add a gate you must

    1. write ``__init__`` in scikit-learn's way (store the parameters, check nothing);
    2. write ``fit(X, routing)``, which learns from scratch, sets ``n_experts_`` to
       ``routing.n_experts`` and returns self. The row sums of ``routing.weights`` are
       the row weights;
    3. write ``log_proba(X)``, which returns log p(k | x), (n_samples, n_experts), in
       the dtype of X; rows must sum to one in probability;
    4. if it can improve on what it has more cheaply than from scratch, write
       ``update(X, routing)``, which returns a *new* gate and leaves self unchanged;
    5. if it can find the best experts of a row without asking all of them, write
       ``best``, ``log_proba_at`` and ``survey``, or ``survey`` alone as a
       `SurveyedGate`; all routing rests on these;
    6. if it can count its free parameters, write ``n_parameters``;
    7. if the data should choose a parameter, name the values in ``choices``: they are
       tried where the parameter is "auto";
    8. if experts can be left out or split without new data, write ``take``;
    9. if it memorises the rows that it was fitted on, as trees and neighbours do, set
       ``memorises``; EM then asks it out of fold;
    10. if it can learn from a stream, set ``streams`` and write ``recall`` and
        ``absorb``; others are updated on a sample of the rows now and then;
    11. if it learns from sums over rows, write ``adds_up``, ``blank``,
        ``log_proba_of``, ``sums`` and ``step``, and name in ``changed_by_step`` the
        attributes that steps change. To go on from a fitted gate, on rows that lie in
        parts, ``log_proba_of``, ``sums`` and ``step`` are enough.

    ``X`` is a float array or a scipy CSR matrix if ``accepts_sparse`` is True.
    """

    _parameter_constraints: dict = {}

    accepts_sparse: bool = True
    allows_nan: bool = False
    memorises: bool = False
    streams: bool = False
    choices: dict[str, tuple] = {}
    changed_by_step: tuple[str, ...] = ()

    @abstractmethod
    def fit(self, X: Array, routing: Routing) -> Self:
        """Learn p(k | x) from soft targets, from scratch.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        routing : Routing, (n_samples, n_experts) array or CSR
            Responsibilities times row weights.

        Returns
        -------
        BaseGate
            The fitted gate.
        """

    @abstractmethod
    def log_proba(self, X: Array) -> Array:
        """Return log p(k | x).

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.

        Returns
        -------
        (n_samples, n_experts) array
            Rows sum to one in probability.
        """

    def check_params(self) -> None:
        """Raise if a parameter has a type or a value that is not allowed."""
        self._validate_params()

    def update(self, X: Array, routing: Routing) -> BaseGate:
        """Return a new gate improved on these targets; self is unchanged.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            The features that the gate was fitted on.
        routing : Routing
            Responsibilities times row weights.

        Returns
        -------
        BaseGate
            A new gate; here one that is fitted from scratch.
        """
        from sklearn.base import clone

        return clone(self).fit(X, routing)

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> BaseGate:
        """Return a gate that remembers rows like these, for `absorb` to add to.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            The rows that the gate was fitted on, or rows like them.
        routing : Routing
            Responsibilities times row weights.
        mass : (n_experts,) array
            The weight of rows to remember of each expert.

        Returns
        -------
        BaseGate
            A new gate that answers the same; self if it does not stream.
        """
        return self

    def absorb(self, X: Array, routing: Routing, keep: float) -> BaseGate:
        """Return a gate that has learned from a batch of rows.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            The batch.
        routing : Routing
            Responsibilities times row weights.
        keep : float
            The share of its memory that the gate keeps, in [0, 1].

        Returns
        -------
        BaseGate
            A new gate; self if it does not stream.
        """
        return self

    # ------------------------------------------------------------ sums over rows
    def adds_up(self, n_features: int, n_experts: int) -> bool:
        """Tell whether the gate learns from sums over rows, by `sums` and `step`.

        Parameters
        ----------
        n_features : int
            Columns of X.
        n_experts : int
            Number of experts.

        Returns
        -------
        bool
            False, unless a gate writes `blank`, `log_proba_of`, `sums` and `step`.
        """
        return False

    def blank(self, table: Table, share: np.ndarray) -> BaseGate:
        """Return a fitted gate that ignores x.

        Parameters
        ----------
        table : Table
            The rows that it is to learn from.
        share : (..., n_experts) array
            Probabilities of the experts. Axes before the last are several gates, which
            are trained at once: their arrays in ``changed_by_step`` have these axes.

        Returns
        -------
        BaseGate
            A new gate.
        """
        raise NotImplementedError

    def log_proba_of(self, table: Table, block: Block) -> np.ndarray:
        """Return log p(k | x) of the rows of a block.

        Parameters
        ----------
        table : Table
            The rows that the gate learns from.
        block : Block
            Some of them.

        Returns
        -------
        (..., n_experts, n) array
            In float64, one column per row.
        """
        raise NotImplementedError

    def sums(
        self,
        block: Block,
        log_proba: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Return what `step` learns from, summed over the rows of a block.

        Parameters
        ----------
        block : Block
            Some rows of a table.
        log_proba : (..., n_experts, n) array
            What the gate says of these rows.
        targets : (..., n_experts, n) array
            Responsibilities times row weights.
        weights : (..., n) array
            Row weights.

        Returns
        -------
        tuple of arrays
            The sums of several blocks are added, array by array.
        """
        raise NotImplementedError

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[BaseGate, np.ndarray]:
        """Take one step towards the targets; self is unchanged.

        Parameters
        ----------
        table : Table
            The rows that were summed over.
        sums : tuple of arrays
            Sums of all blocks.
        damping : (...) array
            Part of the step that is taken, in [0, 1].

        Returns
        -------
        gate : BaseGate
            A new gate.
        gain : (...) array
            By how much a whole step should raise the log-likelihood of the targets;
            below 0 where only the penalty gains.
        """
        raise NotImplementedError

    def take(self, experts: np.ndarray) -> BaseGate:
        """Return a fitted gate over some of the experts.

        Parameters
        ----------
        experts : (n_new,) array of int
            Which expert each new one was. An expert that occurs m times is split: each
            part gets 1/m of its probability. The other experts share the probability
            of those that are left out, in proportion.

        Returns
        -------
        BaseGate
            A new gate; self is unchanged.
        """
        raise TypeError(
            f"{type(self).__name__} cannot leave out or split experts; fit it anew."
        )

    def variants(self) -> list[BaseGate]:
        """Return unfitted gates; a mixture chooses one of them on held-out rows.

        Returns
        -------
        list of BaseGate
            If a parameter is "auto", one for each of its values in ``choices``, else
            only a copy of this gate. The first serves where nothing is held out.
        """
        from sklearn.base import clone

        for name, values in self.choices.items():
            if getattr(self, name) == "auto":
                return [clone(self).set_params(**{name: value}) for value in values]
        return [clone(self)]

    def of_rows(self, rows: np.ndarray) -> BaseGate:
        """Return the unfitted gate that serves some of the rows of a table.

        Parameters
        ----------
        rows : (n_samples,) array of bool
            Which rows.

        Returns
        -------
        BaseGate
            Self, unless the gate knows the rows that it answers for.
        """
        return self

    def finished(self, X: Array, routing: Routing) -> BaseGate:
        """Return the gate that answers for new rows once EM has ended.

        Parameters
        ----------
        X : array or CSR matrix of shape (n_samples, n_features)
            The rows that the gate was trained on.
        routing : Routing
            Responsibilities times sample weights.

        Returns
        -------
        BaseGate
            Self, unless the gate answers only for the rows that it was fitted on.
        """
        return self

    @property
    def id_column(self) -> Any:
        """Name or position of a column of ids of any kind; None if there is none."""
        return None

    def placed(self, names: Any) -> BaseGate:
        """Return the gate for an X whose columns have lost their names.

        Parameters
        ----------
        names : sequence of str or None
            Names of the columns of X; None if it has none.

        Returns
        -------
        BaseGate
            Unfitted; self if it names no columns.
        """
        return self

    @property
    def n_parameters(self) -> int:
        """Number of free parameters."""
        raise TypeError(f"{type(self).__name__} cannot count its free parameters.")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.accepts_sparse
        tags.input_tags.allow_nan = self.allows_nan
        return tags

    def log_proba_at(self, X: Array, routing: Routing) -> Array:
        """Return log p(k | x) at the entries of a routing, -inf where it has none.

        It works in blocks of rows, so it makes no (n_samples, n_experts) array unless
        the routing is dense.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        routing : Routing
            The entries to ask about; its weights are not read.

        Returns
        -------
        (n_samples, width) array
            Logarithms of the probabilities over all experts.
        """
        if routing.dense:
            return self.log_proba(X)
        xp = namespace(routing.indices)
        ops = select(X)
        parts = []
        for rows in ops.row_blocks(X.shape[0], routing.n_experts):
            indices = routing.indices[rows, :]
            log_at = gather(self.log_proba(ops.block_of(X, rows)), indices)
            parts.append(xp.where(indices < 0, xp.full_like(log_at, -xp.inf), log_at))
        return xp.concat(parts, axis=0)

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        """Return the most probable experts of each row.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        top_k : int
            Number of experts per row, at most ``n_experts_``.

        Returns
        -------
        log_best : (n_samples, top_k) array
            Log probabilities over all experts, best first.
        best : (n_samples, top_k) array of int
            The experts.
        """
        ops = select(X)
        log_best = []
        best = []
        for rows in ops.row_blocks(X.shape[0], self.n_experts_):
            top, experts = ops.top_k(self.log_proba(ops.block_of(X, rows)), top_k)
            log_best.append(top)
            best.append(experts)
        xp = namespace(log_best[0])
        return xp.concat(log_best), xp.concat(best)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        """Return log p(k | x) at some entries, and the most probable experts.

        One pass over X gives both. A sparse E-step asks the gate nothing else.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        indices : (n_samples, width) array of int
            Experts to ask about, -1 for none.
        top_k : int
            Number of best experts to return per row.

        Returns
        -------
        log_at : (n_samples, width) array
            Logarithms of the probabilities over all experts, -inf at -1.
        best : (n_samples, top_k) array of int
            The most probable experts, best first.
        log_best : (n_samples, top_k) array
            Their log probabilities.
        """
        xp = namespace(indices)
        ops = select(X)
        log_at = []
        best = []
        log_best = []
        for rows in ops.row_blocks(X.shape[0], self.n_experts_):
            log_proba = self.log_proba(ops.block_of(X, rows))
            wanted = indices[rows, :]
            at = gather(log_proba, wanted)
            log_at.append(xp.where(wanted < 0, xp.full_like(at, -xp.inf), at))
            top, experts = ops.top_k(log_proba, top_k)
            best.append(experts)
            log_best.append(top)
        return xp.concat(log_at), xp.concat(best), xp.concat(log_best)

    def vote(self, X: Array, members: Routing) -> Array:
        """Return the mean log p(k | x) of each group's rows.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        members : Routing
            The group of each row; the weight is what the row counts.

        Returns
        -------
        (n_groups, n_experts) array
            In the dtype of `log_proba`.
        """
        ops = select(X)
        parts = []
        for rows in ops.row_blocks(X.shape[0], self.n_experts_):
            log_proba = self.log_proba(ops.block_of(X, rows))
            parts.append(members.rows(rows).weighted_sums(log_proba))
        sums = functools.reduce(operator.add, parts)
        return namespace(log_proba).astype(sums[:, :-1] / sums[:, -1:], log_proba.dtype)

    def route(
        self, X: Array, top_k: int | None = None, top_p: float | None = None
    ) -> Routing:
        """Send each row to its most probable experts.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        top_k : int or None, default=None
            Most experts that a row keeps. None, or any number from n_experts up, keeps
            all.
        top_p : float or None, default=None
            A row keeps only the fewest of these whose probabilities sum to ``top_p``,
            so it asks fewer experts where the gate is sure. None keeps all ``top_k``.

        Returns
        -------
        Routing
            Best expert first; weights are the gate's probabilities, renormalised
            over the experts that are kept.
        """
        n_experts = self.n_experts_
        top_k = n_experts if top_k is None else min(top_k, n_experts)
        if top_p is None and top_k == n_experts:
            log_proba = self.log_proba(X)
            return Routing.from_dense(namespace(log_proba).exp(log_proba))
        log_best, best = self.best(X, top_k)
        if top_p is not None:
            return nucleus(log_best, best, n_experts, top_p)
        return Routing(best, select(log_best).normalise(log_best)[0], n_experts)


class SurveyedGate(BaseGate):
    """Base class of gates whose `survey` also answers `best` and `log_proba_at`."""

    def log_proba_at(self, X: Array, routing: Routing) -> Array:
        if routing.dense:
            return self.log_proba(X)
        return self.survey(X, routing.indices, 1)[0]

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        nothing = np.empty((X.shape[0], 0), dtype=np.intp)
        if namespace(X) is not np:
            nothing = like(nothing, X)
        _, best, log_best = self.survey(X, nothing, top_k)
        return log_best, best
