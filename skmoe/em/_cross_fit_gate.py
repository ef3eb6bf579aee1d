"""Gates that memorise their rows, asked out of fold.

The leaf of a deep tree, or the neighbourhood of a row, holds the row's own
responsibilities, so such a gate confirms whatever partition it is given. Inside EM it
therefore answers for each row by a copy that was blind to the row's fold.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import clone

from ..backends import Array, like, namespace, select
from ..gates import BaseGate
from ..routing import Routing
from ._gate_step import targets
from ._problem import Problem


class CrossFitGate(BaseGate):
    """A gate whose answers for the training rows are out of fold.

    Parameters
    ----------
    gate : BaseGate
        The gate to fit once for each fold; it stays unfitted itself.
    folds : (n_rows,) array of int
        Fold of each row of X, from 0 without gaps.
    """

    def __init__(self, gate: BaseGate, folds: np.ndarray) -> None:
        self.gate = gate
        self.folds = folds

    def of_rows(self, rows: np.ndarray) -> BaseGate:
        """Return the unfitted gate for some of the rows, which keep their folds."""
        folds = np.unique(self.folds[rows], return_inverse=True)[1]
        return CrossFitGate(self.gate, folds) if folds.max(initial=0) else self.gate

    def variants(self) -> list[BaseGate]:
        """Return the variants of the gate, each of which is asked out of fold."""
        return [CrossFitGate(one, self.folds) for one in self.gate.variants()]

    def fit(self, X: Array, routing: Routing) -> Self:
        """Fit one gate per fold, on the rows of the other folds."""
        self.gates_ = []
        for rows in self._folds(inside=False):
            rows = like(rows, routing.indices)
            few_X = select(X).take_rows(X, rows)
            self.gates_.append(clone(self.gate).fit(few_X, routing.take(rows)))
        self.n_experts_ = routing.n_experts
        return self

    def _folds(self, *, inside: bool) -> list[np.ndarray]:
        """Return the rows inside each fold, or those outside."""
        n_folds = int(self.folds.max()) + 1
        return [np.flatnonzero((self.folds == f) == inside) for f in range(n_folds)]

    def _asked(self, X: Array, ask: Any) -> list[Array]:
        """Ask each fold's gate about its rows; return the answers in the order of X.

        ``ask(gate, X, rows)`` returns arrays with one row per row of X.
        """
        folds = self._folds(inside=True)
        parts = []
        for gate, rows in zip(self.gates_, folds, strict=True):
            rows = like(rows, X)
            parts.append(ask(gate, select(X).take_rows(X, rows), rows))
        back = like(np.argsort(np.concatenate(folds)), X)
        xp = namespace(parts[0][0])
        columns = zip(*parts, strict=True)
        return [xp.take(xp.concat(each), back, axis=0) for each in columns]

    def log_proba(self, X: Array) -> Array:
        """Return log p(k | x) of the training rows, out of fold."""
        return self._asked(X, lambda gate, own, rows: [gate.log_proba(own)])[0]

    def log_proba_at(self, X: Array, routing: Routing) -> Array:
        """Return log p(k | x) at entries of the training rows, out of fold."""

        def ask(gate: BaseGate, own: Array, rows: Array) -> list[Array]:
            return [gate.log_proba_at(own, routing.take(rows))]

        return self._asked(X, ask)[0]

    def vote(self, X: Array, members: Routing) -> Array:
        """Return the mean log p(k | x) of each group's rows, out of fold."""
        log_proba = self.log_proba(X)
        sums = members.weighted_sums(log_proba)
        return namespace(log_proba).astype(sums[:, :-1] / sums[:, -1:], log_proba.dtype)

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        """Return the best experts of the training rows, out of fold."""
        log_best, best = self._asked(X, lambda gate, own, _: gate.best(own, top_k))
        return log_best, best

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        """Return log p(k | x) at entries and of the best experts, out of fold."""

        def ask(gate: BaseGate, own: Array, rows: Array) -> tuple[Array, ...]:
            return gate.survey(own, select(indices).take_rows(indices, rows), top_k)

        log_at, best, log_best = self._asked(X, ask)
        return log_at, best, log_best

    def finished(self, X: Array, routing: Routing) -> BaseGate:
        """Return one gate fitted on all rows, for new ones."""
        return clone(self.gate).fit(X, routing)


def for_new_rows(problem: Problem, gate: BaseGate, resp: Routing) -> BaseGate:
    """Return the gate that answers for rows that EM did not see."""
    return gate.finished(*targets(problem, resp))
