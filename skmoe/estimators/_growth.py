"""Adding experts to a fitted mixture, and removing them."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted, check_scalar

from ..backends import like
from ..em import Problem, check_finite, grow, shrink
from ..experts import joined
from ..gates import BaseGate
from . import _gate_and_experts as parts
from ._all_or_nothing import all_or_nothing
from ._fitted import parts_of, set_fitted
from ._folds import cross_fitted_pool
from ._rows import computing, training_width
from ._validation import MOST, about, given, read_weights


class GrowthMixin:
    """Methods that change the number of experts of a fitted mixture.

    They change ``n_experts_`` but not the parameter ``n_experts``: set it to go on with
    ``warm_start=True``. If a call fails or is interrupted, the mixture stays as it was.
    """

    @all_or_nothing
    def add_experts(self, n, X, y, sample_weight=None):
        """Add experts to a fitted mixture; its other experts stay as they are.

        The experts that explain their rows worst are split: a new expert of the same
        learner takes over the worst of these rows. A few passes of EM train the new
        experts and the gate. A new expert with too few rows for its learner stays a
        copy of the expert that it was split from.

        Parameters
        ----------
        n : int
            Number of experts to add.
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows to learn from: those of ``fit``, or new ones.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; for a classifier, of classes that it knows.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; weight 2 is the row twice.

        Returns
        -------
        self : object
            The mixture, now with ``n_experts_ + n`` experts, the new ones last.
        """
        self._check_can_grow()
        check_scalar(n, "n", Integral, min_val=1, max_val=MOST)
        if hasattr(self, "noise_experts_"):
            raise ValueError(
                "add_experts cannot add to a mixture with a noise_expert. Fit anew "
                "with another n_experts."
            )
        if self._pool.frozen.all():
            raise ValueError(
                "add_experts cannot add to frozen experts: a new one would be a copy. "
                "Fit anew with a longer list of experts."
            )
        if self._pool.likelihood.n_fixed:
            raise ValueError(
                "add_experts cannot add beside the fixed expert of likelihood="
                f"{self._pool.likelihood!r}. Fit anew with another n_experts."
            )
        problem, before, gate = self._seen(X, y, sample_weight, self.n_experts_ + n)
        with computing(self, problem.X_gate):
            gate, pool = grow(
                problem,
                gate,
                self._pool,
                lambda one: cross_fitted_pool(self, one, problem),
            )
            if self._own_pool is self._pool:
                trained_pool = pool
            else:
                new = np.arange(self.n_experts_, pool.n_experts)
                trained_pool = joined(self._own_pool, pool.take(new))
            return self._resized(problem, before, gate, pool, trained_pool)

    @all_or_nothing
    def remove_experts(self, ids):
        """Remove experts from a fitted mixture; the others take over their rows.

        Parameters
        ----------
        ids : int or array-like of int
            Positions in ``experts_``.

        Returns
        -------
        self : object
            The mixture without them. Its gate gives their probability to the others,
            in proportion to theirs.
        """
        self._check_can_grow()
        ids = np.unique(np.atleast_1d(ids))
        positions = np.arange(self.n_experts_)
        if ids.dtype.kind not in "iu" or not np.isin(ids, positions).all():
            raise ValueError(
                f"ids must be positions of experts, from 0 to {self.n_experts_ - 1}; "
                f"got {ids.tolist()}."
            )
        if len(ids) == self.n_experts_:
            raise ValueError(
                f"ids must leave at least one expert; got all {self.n_experts_}."
            )
        others = np.delete(positions, ids)
        before, gate = parts.split_gate(self.gate_)
        smaller = gate.take(others)
        pool = self._pool.take(others)
        trained_pool = (
            pool if self._own_pool is self._pool else self._own_pool.take(others)
        )
        load = self.expert_load_[others]
        load = load / max(load.sum(), np.finfo(np.float64).tiny)
        self._set_parts(before, smaller, pool, trained_pool, load)
        return self

    @all_or_nothing
    def prune(self, X, y, sample_weight=None, *, tol=1e-3):
        """Remove the experts that a fitted mixture can do without.

        Experts go one by one, first those whose rows another expert explains as well.
        Each time the gate is fitted to the rows again; the experts are not.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows to judge by: those of ``fit`` or, better, new ones.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; weight 2 is the row twice.
        tol : float, default=1e-3
            Total loss of log-likelihood that is allowed, in nats per row.

        Returns
        -------
        self : object
            The mixture of the experts that stay.
        """
        self._check_can_grow()
        check_scalar(tol, "tol", Real, min_val=0)
        problem, before, gate = self._seen(X, y, sample_weight, self.n_experts_)
        with computing(self, problem.X_gate):
            gate, pool, others = shrink(problem, gate, self._pool, self._rule, tol)
            trained_pool = (
                pool if self._own_pool is self._pool else self._own_pool.take(others)
            )
            return self._resized(problem, before, gate, pool, trained_pool)

    def _check_can_grow(self) -> None:
        check_is_fitted(self)
        if hasattr(self, "gates_"):
            raise ValueError(
                "Experts cannot be added or removed with gate_per_output=True. Fit "
                "anew with another n_experts."
            )

    def _seen(self, X, y, sample_weight, n_experts: int) -> tuple[Problem, Any, Any]:
        """Return the rows as a problem, and the parts of the gate."""
        X_gate, X_expert = self._views(X)
        with about("y"):
            y = self._read_target(given(y, "y"))
        weight = read_weights(sample_weight, X_expert, X_gate.dtype)
        weight = like(weight / self._weight_unit, X_gate, X_gate.dtype)
        is_real = y.dtype.kind == "f"
        y = like(y, X_gate)
        if is_real:
            y = like(y - self._said(X_expert, weight), X_gate, X_gate.dtype)
        problem = Problem(
            X_gate=X_gate,
            X=X_expert,
            y=y,
            sample_weight=weight,
            n_experts=n_experts,
            width=training_width(self),
            max_iter=self.max_iter,
            tol=self.tol,
        )
        return problem, *parts.split_gate(self.gate_)

    def _resized(self, problem, before, gate: BaseGate, pool, own):
        """Set the attributes of a mixture with another number of experts."""
        routing = self._rule.route(gate, problem.X_gate)
        load = routing.scaled(problem.sample_weight)
        load = load.sum_by_expert(load.weights)
        check_finite(pool, load)
        self._set_parts(before, gate, pool, own, load / load.sum())
        return self

    def _set_parts(self, before, gate: BaseGate, pool, own, load) -> None:
        attributes = parts_of(self, before, gate, pool, load)
        # The stream and the voice of a group belong to the old experts.
        forgotten = {"_stream": None, "_early": None, "_voice": None}
        set_fitted(self, attributes | {"_own_pool": own} | forgotten)
