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
from ..routing import Routing, gather, nucleus


def as_routing(target: Any) -> Routing:
    """Read responsibilities given as a `Routing`, a dense array or a CSR matrix."""
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
    2. write ``fit(X, routing)``, which learns from scratch and returns self. The
       row sums of ``routing.weights`` are the row weights; ``routing.n_experts`` is
       the number of experts;
    3. write ``log_proba(X)``, which returns log p(k | x), (n_samples, n_experts);
       rows must sum to one in probability;
    4. if it can improve on what it has more cheaply than from scratch, write
       ``update(X, routing)``, which returns a *new* gate and leaves self unchanged;
    5. if it can find the best experts of a row without asking all of them, write
       ``best``, ``log_proba_at`` and ``survey``, or ``survey`` alone as a
       `SurveyedGate`; all routing rests on these;
    6. if it can count its free parameters, write ``n_parameters``;
    7. if the data should choose a parameter, name the values in ``choices``: they are
       tried where the parameter is "auto";
    8. if experts can be left out or split without new data, write ``take``;
    9. if it knows the rows it was fitted on too well, as trees and neighbours do,
       set ``memorises``; EM then asks it out of fold;
    10. if it can learn from a stream, set ``streams`` and write ``recall`` and
        ``absorb``; others are updated on a sample of the rows now and then.

    ``X`` is a float array or a scipy CSR matrix if ``accepts_sparse`` is True.
    """

    _parameter_constraints: dict = {}

    accepts_sparse: bool = True
    allows_nan: bool = False
    memorises: bool = False
    streams: bool = False
    choices: dict[str, tuple] = {}

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
        """Raise if a parameter is of a kind or a value that it must not have."""
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
            Rows like those that the gate was fitted on, or these themselves.
        routing : Routing
            Responsibilities times row weights.
        mass : (n_experts,) array
            How much of each expert is to be remembered.

        Returns
        -------
        BaseGate
            A new gate of the same answers; self if it does not stream.
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
            What counts from now on of what the gate remembers, in [0, 1].

        Returns
        -------
        BaseGate
            A new gate; self if it does not stream.
        """
        return self

    def take(self, experts: np.ndarray) -> BaseGate:
        """Return a fitted gate over some of the experts.

        Parameters
        ----------
        experts : (n_new,) array of int
            Which expert each new one was. An expert that stands m times is split: each
            part gets 1/m of its probability. What is left out is shared by the rest,
            in proportion.

        Returns
        -------
        BaseGate
            A new gate; self is unchanged.
        """
        raise TypeError(
            f"{type(self).__name__} cannot leave out or split experts; fit it anew."
        )

    def variants(self) -> list[BaseGate]:
        """Return unfitted gates for a mixture to choose from on rows held out.

        Returns
        -------
        list of BaseGate
            One for each value in ``choices`` of a parameter that is "auto", else a copy
            of this gate alone. The first serves where nothing is held out.
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
            This one, unless a gate knows the rows that it answers for.
        """
        return self

    @property
    def id_column(self) -> Any:
        """Name or position of a column of ids, which may be of any kind; here None."""
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

        Works in blocks of rows, so no (n_samples, n_experts) array is made unless
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
            How many, at most ``n_experts_``.

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

        Both come from one pass over X: all that a sparse E-step asks of the gate.

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        indices : (n_samples, width) array of int
            Experts to ask about, -1 for none.
        top_k : int
            How many of the best to return.

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
        """Return what rows say of their group: the mean of their log p(k | x).

        Parameters
        ----------
        X : (n_samples, n_features) array or scipy CSR
            Features.
        members : Routing
            Sends each row to its group; weights are what a row counts.

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
            Experts kept a row, at most; None, or a number that reaches n_experts,
            keeps all.
        top_p : float or None, default=None
            Of these the fewest whose probabilities sum to ``top_p``, so that rows of
            which the gate is sure ask fewer experts. None keeps all ``top_k``.

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
    """Base class of gates that answer all routing from one `survey` of their own."""

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
