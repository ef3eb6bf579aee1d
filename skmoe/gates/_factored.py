"""The base class of gates that are made of several softmaxes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
from scipy import sparse

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, like, select, to_host
from ..routing import Block, Routing, Table, no_less, units
from ..solvers import (
    SoftmaxFit,
    expected_gain,
    fit_softmax,
    log_softmax_of_classes,
    newton_of_blocks,
    softmax_start,
)
from ._base import SurveyedGate, as_routing
from ._softmax import ALPHAS

TINY = float(np.finfo(np.float64).tiny)


class Part(NamedTuple):
    """The targets of one softmax.

    ``logits`` are its rows of ``coef_``, and ``rows`` the rows of X that it sees (None
    if it sees all). ``mass`` holds their weights, ``sums`` Σ t_k [x, 1] of each class.
    """

    logits: slice
    rows: np.ndarray | None
    mass: Array
    sums: np.ndarray


class FactoredGate(SurveyedGate):
    """Base class of gates whose log p(k | x) is a sum of terms of several softmaxes.

    Then Σ r log p is a sum as well, so each softmax is fitted by itself. A subclass
    writes ``_arrange``, ``_parts``, ``log_proba`` and ``survey``.
    """

    choices = {"alpha": ALPHAS}
    changed_by_step = ("coef_", "intercept_")

    _parameter_constraints: dict = {
        "alpha": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "update_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    alpha: Any
    max_iter: int
    update_iter: int
    tol: float

    @abstractmethod
    def _arrange(self, sums: np.ndarray) -> None:
        """Place the experts; ``sums`` (n_experts, d + 1) are Σ r_k [x, 1]."""

    @abstractmethod
    def _members(self) -> tuple[sparse.csr_array, list[slice]]:
        """Return which logits each expert adds up, and the logits of each softmax.

        The first is a CSR matrix of 0 and 1, (n_logits, n_experts).
        """

    @abstractmethod
    def _parts(self, routing: Routing, sums: np.ndarray) -> Iterator[Part]:
        """Yield the targets of each softmax."""

    def fit(self, X: Array, routing: Routing) -> Self:
        # Place the experts and fit all softmaxes, from scratch.
        self._validate_params()
        routing = as_routing(routing)
        self.n_features_in_ = X.shape[1]
        self.n_experts_ = routing.n_experts
        moments = select(X).weighted_moments(X, routing.row_sums)
        center, variance = (to_host(a) for a in moments)
        self._center = center
        self._scale = units(center, variance)
        sums = to_host(routing.weighted_sums(X))
        self._arrange(sums)
        parts = list(self._parts(routing, sums))
        starts = [softmax_start(part.sums, X.shape[1]) for part in parts]
        self.coef_ = np.concatenate([start.coef for start in starts])
        self.intercept_ = np.concatenate([start.intercept for start in starts])
        return self._solve(X, parts, self.max_iter)

    def update(self, X: Array, routing: Routing) -> Self:
        # A few L-BFGS steps of each softmax on new targets.
        other = copy.copy(self)
        other.coef_ = self.coef_.copy()
        other.intercept_ = self.intercept_.copy()
        parts = self._parts(routing, to_host(routing.weighted_sums(X)))
        return other._solve(X, parts, self.update_iter)

    # ------------------------------------------------------------ sums over rows
    # They go on from a fitted gate: where the experts stand is decided by `fit`.
    def log_proba_of(self, table: Table, block: Block) -> np.ndarray:
        members, slices = self._members()
        logits = block.values(table.inner(self.coef_, self.intercept_))
        parts = [log_softmax_of_classes(logits[each]) for each in slices]
        return members.T @ np.concatenate(parts)

    def sums(
        self,
        block: Block,
        log_proba: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        # Gradient and curvature of each softmax, on the rows that reach it.
        members, slices = self._members()
        wanted = members @ targets
        proba = members @ np.exp(log_proba)
        mass = np.empty_like(proba)
        for each in slices:
            mass[each] = wanted[each].sum(axis=0)
            proba[each] /= np.maximum(proba[each].sum(axis=0), TINY)
        bend = 2.0 * mass * proba * (1.0 - proba)
        curvature = block.curvature(bend, len(bend))
        return block.sums(wanted - mass * proba), *curvature, mass.sum(axis=-1)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[Self, np.ndarray]:
        gradient, moments, squares, rows = sums
        _, slices = self._members()
        params = table.inner(self.coef_, self.intercept_)
        unit = np.append(self._scale / table.scale, 0.0)
        bend = no_less(moments, squares)
        total = 0.0
        for each in slices:
            reached = rows[each][0]
            ridge = self._penalty() * reached * unit**2
            slope = gradient[each] - ridge * params[each]
            step = newton_of_blocks(slope, bend[each], ridge, reached)
            gain = float(expected_gain(step, gradient[each], ridge, params[each]))
            if reached > 0 and gain >= 0:
                params[each] += damping * step
                total += gain
        other = copy.copy(self)
        other.coef_, other.intercept_ = table.outer(params)
        return other, np.asarray(total)

    def _penalty(self) -> float:
        return ALPHAS[0] if self.alpha == "auto" else float(self.alpha)

    def _solve(self, X: Array, parts: Any, max_iter: int) -> Self:
        """Improve each softmax from where it is; one without rows stays as it is."""
        ops = select(X)
        self.n_iter_ = 0
        alpha = self._penalty()
        for logits, rows, mass, sums in parts:
            if rows is not None and not len(rows):
                continue
            start = SoftmaxFit(self.coef_[logits], self.intercept_[logits], 0, False)
            solution = fit_softmax(
                X if rows is None else ops.take_rows(X, like(rows, mass)),
                mass,
                sums,
                ridge=np.full(X.shape[1], alpha),
                center=self._center,
                scale=self._scale,
                start=start,
                max_iter=max_iter,
                tol=self.tol,
            )
            self.coef_[logits] = solution.coef
            self.intercept_[logits] = solution.intercept
            self.n_iter_ = max(self.n_iter_, solution.n_iter)
        return self
