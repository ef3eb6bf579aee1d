"""Routing and likelihood of a fitted mixture, and what follows from them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from .._sklearn_compat import CONTAINERS, frame
from ..backends import Array, device_of, like, namespace, on_host, select
from ..em import Alone, Panel, Voice
from ..experts import ExpertPool, OneOutputPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from . import _gate_and_experts as parts
from ._folds import check_groups
from ._rows import check_X, computing, training_width, views
from ._validation import about, given


def answer(X: Any, found: Array) -> Array:
    """Return an answer in the container of X, so on the host if X is there."""
    return found if namespace(X) is not np else on_host(found)


def framed(ask):
    """Let a method that returns one column per expert obey `set_output`."""

    @functools.wraps(ask)
    def ask_framed(self, X, *args, **kwargs):
        tables = ask(self, X, *args, **kwargs)
        container = getattr(self, "_sklearn_output_config", {}).get("transform")
        if container in (None, "default"):
            return tables
        if isinstance(tables, list):
            return [_frame(container, table, X) for table in tables]
        return _frame(container, tables, X)

    return ask_framed


def _frame(container: str, table: Any, X: Any) -> Any:
    """Return a data frame with one column per expert."""
    table = table.toarray() if sparse.issparse(table) else on_host(table)
    columns = [f"expert{k}" for k in range(table.shape[1])]
    return frame(container, table, X, columns)


class RoutedMixin:
    """Methods of a fitted mixture that need only ``gate_`` and the pool.

    The class that mixes this in has `_read_target`, `predict` and the parameters.
    """

    _origin: np.ndarray | float = 0.0
    """What is subtracted from y before training; see `origin_of`."""

    def set_output(self, *, transform=None):
        """Choose the container of `gate_proba`, `route` and `responsibilities`.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"} or None, default=None
            "pandas" and "polars" ask for data frames with columns "expert0", "expert1",
            … and, in pandas, the index of X. "default" asks for the arrays that these
            methods document. None changes nothing.

        Returns
        -------
        self : object
            The estimator.
        """
        if transform is None:
            return self
        if transform not in CONTAINERS:
            raise ValueError(
                f"transform must be one of {list(CONTAINERS)} or None; got "
                f"{transform!r}."
            )
        self._sklearn_output_config = {"transform": transform}
        return self

    # ----------------------------------------------------------------- routing
    @property
    def _rule(self) -> RoutingRule:
        """The rule by which predict chooses experts."""
        asked = self.top_k, self.top_p, self.capacity_factor
        return RoutingRule(*asked, ask_last=self._n_fixed > 0)

    @property
    def _n_fixed(self) -> int:
        """Number of experts, at the end of the list, that learn nothing."""
        return 0

    def _views(self, X) -> tuple[Array, Any]:
        """Return new rows as the gate and the experts read them."""
        if not hasattr(self, "gate_"):
            check_is_fitted(self)
        raw, X = check_X(self, X, reset=False)
        before, _ = parts.split_gate(self.gate_)
        return views(self, before, self._pool.before, X, raw)

    @property
    def _gates(self) -> list[BaseGate]:
        """The gates that predict asks: one, or one per output."""
        return [
            parts.split_gate(gate)[1] for gate in getattr(self, "gates_", [self.gate_])
        ]

    def _draws(self, groups: Any, X_gate: Array) -> Alone:
        """Return which of the new rows share their experts."""
        xp = namespace(X_gate)
        n_rows = X_gate.shape[0]
        groups = check_groups(groups, None, n_rows)
        if groups is None or not getattr(self, "tied_", True):
            return Alone()
        ones = xp.ones(n_rows, dtype=X_gate.dtype, device=device_of(X_gate))
        return Panel.of(ones, groups, self._voice)

    _voice: Voice | None = None

    def _asked(self, X, groups, ask: Callable[[BaseGate, Array], Any]) -> Any:
        """Ask the gate about new rows; with gates per output, return a list."""
        X_gate, _ = self._views(X)
        with computing(self, X_gate):
            draws = self._draws(groups, X_gate)
            answers = [
                answer(X, draws.spread(ask(*draws.asked(gate, X_gate))))
                for gate in self._gates
            ]
        return self._of_gates(answers)

    def _routed(
        self, groups: Any, X_gate: Array
    ) -> Iterator[tuple[Routing, ExpertPool]]:
        """Yield where each gate sends the rows, and the experts that it asks."""
        draws = self._draws(groups, X_gate)
        for gate, pool in zip(self._gates, self._pools, strict=True):
            yield draws.route(self._rule, gate, X_gate), pool

    def _of_gates(self, answers: list[Any]) -> Any:
        """Return a list of each gate's answers, or the answer of the only gate."""
        return answers if hasattr(self, "gates_") else answers[0]

    def _combine(self, X, groups=None) -> Array:
        """Return the mixture's mean or class probabilities, (n_samples, q)."""
        X_gate, X_expert = self._views(X)
        with computing(self, X_gate):
            mixtures = []
            for routing, pool in self._routed(groups, X_gate):
                mixtures.append(pool.mix(X_expert, routing))
            xp = namespace(mixtures[0])
            mixed = mixtures[0] if len(mixtures) == 1 else xp.concat(mixtures, axis=1)
            return answer(X, mixed + self._said(X_expert, routing.weights[:, 0]))

    @property
    def _pools(self) -> list[ExpertPool]:
        """The experts of each gate: for all outputs, or for its own."""
        if not hasattr(self, "gates_"):
            return [self._pool]
        return [OneOutputPool(self._pool, j) for j in range(len(self.gates_))]

    def _said(self, X_expert, weight: Array) -> Array | float:
        """Return what is added to the predictions of the experts.

        It is the origin of y plus the prediction of the shared expert, if there is one.
        """
        origin = self._origin
        if not isinstance(origin, float):
            origin = like(origin, weight)
        if self._shared is None or self._shared.classes is not None:
            return origin
        one = Routing.from_dense(namespace(weight).ones_like(weight)[:, None])
        return self._shared.predict(X_expert, one)[:, 0, :] + origin

    @framed
    def gate_proba(self, X, groups=None):
        """Return the gate's probability of each expert.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_experts)
            p(k | x) of all experts, before ``top_k`` applies; rows sum to one. With
            ``gate_per_output=True``, a list of one such array per output.
        """

        def ask(gate: BaseGate, X_gate: Array) -> Array:
            log_proba = gate.log_proba(X_gate)
            return namespace(log_proba).exp(log_proba)

        return self._asked(X, groups, ask)

    @framed
    def route(self, X, groups=None):
        """Return the expert weights that predict uses.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        scipy.sparse.csr_array of shape (n_samples, n_experts)
            At most ``top_k`` weights per row, which sum to one. With
            ``gate_per_output=True``, a list of one such array per output.
        """
        return self._asked(X, groups, lambda *at: self._rule.route(*at).to_csr())

    def apply(self, X, groups=None):
        """Return the experts that serve each row, best first.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, min(top_k, n_experts))
            Positions in ``experts_``; -1 where ``top_p`` asks fewer experts. With
            ``gate_per_output=True``, a list of one such array per output.
        """

        def ask(gate: BaseGate, X_gate: Array) -> Array:
            routing = self._rule.route(gate, X_gate)
            if not routing.dense:
                return routing.indices
            return select(routing.weights).top_k(routing.weights, routing.n_experts)[1]

        return self._asked(X, groups, ask)

    # -------------------------------------------------------------- likelihood
    def _terms(
        self, X, y, groups, rule: RoutingRule
    ) -> tuple[Alone, list[tuple[Array, Array, Routing]]]:
        """Return which rows share their experts, and the terms of each gate.

        The terms are log p(k | x), log p(y | x, k) and the routing of both.
        """
        X_gate, X_expert = self._views(X)
        with about("y"):
            y = self._read_target(given(y, "y"))
        check_consistent_length(X_expert, y)
        y = like(y, X_gate)
        terms = []
        with computing(self, X_gate):
            draws = self._draws(groups, X_gate)
            for j, (gate, pool) in enumerate(
                zip(self._gates, self._pools, strict=True)
            ):
                gate_and_rows = draws.asked(gate, X_gate)
                choice = rule.route(*gate_and_rows)
                log_gate = gate_and_rows[0].log_proba_at(gate_and_rows[1], choice)
                log_gate = draws.spread(select(log_gate).log_softmax(log_gate))
                routing = draws.spread_routing(choice)
                offset = self._said(X_expert, routing.weights[:, 0])
                residual = y - offset if y.ndim == 2 else y
                residual = (
                    residual[:, j : j + 1] if hasattr(self, "gates_") else residual
                )
                log_lik = pool.log_likelihood(X_expert, residual, routing)
                terms.append((log_gate, log_lik, routing))
        return draws, terms

    def score_samples(self, X, y=None, groups=None):
        """Return log p(y | x) of each row, routed as in predict.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets. None stands for the mixture's own prediction, so the result says
            how sure it is of each row.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Natural logarithms, of densities for a regressor.
        """
        y = self._own_target(X, groups) if y is None else y
        _, terms = self._terms(X, y, groups, self._rule)
        joint = (log_gate + log_lik for log_gate, log_lik, _ in terms)
        return answer(X, sum(select(each).logsumexp(each) for each in joint))

    def _own_target(self, X, groups=None) -> Array:
        """Return the prediction as a target that the likelihood takes."""
        return self.predict(X, groups=groups)

    @framed
    def responsibilities(self, X, y, groups=None):
        """Return p(k | x, y), the posterior of each expert given the target.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        scipy.sparse.csr_array of shape (n_samples, n_experts)
            At most ``top_k`` entries per row: the largest among the gate's candidates,
            renormalised to sum to one. With ``gate_per_output=True``, a list of one
            such array per output.
        """
        check_is_fitted(self)
        rule = RoutingRule(training_width(self), ask_last=self._n_fixed > 0)
        draws, terms = self._terms(X, y, groups, rule)
        posteriors = [
            self._posterior(log_gate + draws.sums(log_lik), routing)
            for log_gate, log_lik, routing in terms
        ]
        return self._of_gates(posteriors)

    def _posterior(self, joint: Array, routing: Routing) -> sparse.csr_array:
        ops = select(joint)
        if self.top_k is None or self.top_k >= routing.shape[1]:
            return routing.with_weights(ops.normalise(joint)[0]).to_csr()
        best, resp, _ = ops.truncate(joint, self.top_k)
        indices = namespace(best).take_along_axis(routing.indices, best, axis=1)
        return Routing(indices, resp, routing.n_experts).to_csr()

    def _n_parameters(self) -> int:
        return sum(gate.n_parameters for gate in self._gates) + self._pool.n_parameters

    def aic(self, X, y):
        """Return Akaike's information criterion; lower is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        float
            -2 log L + 2 p, for p free parameters. They can be counted for linear
            experts and trees; others raise TypeError.
        """
        log_likelihood = float(np.sum(on_host(self.score_samples(X, y))))
        return -2.0 * log_likelihood + 2.0 * self._n_parameters()

    def bic(self, X, y):
        """Return the Bayesian information criterion; lower is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.

        Returns
        -------
        float
            -2 log L + p log n, for p free parameters and n rows. Parameters can be
            counted for linear experts and trees; others raise TypeError.
        """
        scores = on_host(self.score_samples(X, y))
        return float(-2.0 * np.sum(scores) + self._n_parameters() * np.log(len(scores)))
