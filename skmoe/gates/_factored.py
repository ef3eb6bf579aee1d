"""The base class of gates that are made of several softmaxes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, like, select, to_host
from ..routing import Routing, units
from ..solvers import SoftmaxFit, fit_softmax, softmax_start
from ._base import SurveyedGate, as_routing
from ._softmax import ALPHAS


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

    def _solve(self, X: Array, parts: Any, max_iter: int) -> Self:
        """Improve each softmax from where it is; one without rows stays as it is."""
        ops = select(X)
        self.n_iter_ = 0
        alpha = ALPHAS[0] if self.alpha == "auto" else float(self.alpha)
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
