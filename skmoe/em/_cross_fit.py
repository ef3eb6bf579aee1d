"""Out-of-fold likelihoods: an expert is judged on rows that it was not fitted on.

A flexible learner memorises the rows it owns. Its in-sample likelihood is inflated
exactly there, so it keeps them, and the partition turns to noise. With F folds, each
expert has F models, each blind to one fold, and a row is judged by those that are
blind to it. The idea is cross-fitting [1]_, inside the E-step.

References
----------
.. [1] V. Chernozhukov et al., "Double/debiased machine learning for treatment and
   structural parameters", Econometrics Journal 21 (2018) C1-C68.
   doi:10.1111/ectj.12097
"""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np

from ..backends import Array, like, namespace
from ..experts import ExpertPool, take_rows
from ..routing import Routing
from ._problem import Problem
from ._starts import numeric, ranks, targets


class CrossFitPool(ExpertPool):
    """A pool whose evaluations of the training rows are out of fold.

    Parameters
    ----------
    pool : ExpertPool
        The pool to fit once for each fold; it stays unfitted itself.
    folds : (n_samples,) array of int
        Fold of each training row.
    """

    def __init__(self, pool: ExpertPool, folds: np.ndarray) -> None:
        super().__init__(
            pool.learners,
            likelihood=pool.likelihood,
            classes=pool.classes,
            seeds=pool.seeds,
            n_jobs=pool.n_jobs,
        )
        self.slack = pool.slack
        self.pool = pool
        self.folds = folds
        self.rows = [np.flatnonzero(folds == f) for f in range(int(folds.max()) + 1)]

    @classmethod
    def supports(cls, estimator: Any, n_features: int) -> bool:
        """Tell whether the pool trains a learner: it wraps other pools."""
        return False

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one pool a fold, on the rows of the other folds."""
        self.pools = [
            copy.copy(self.pool).fit(X, y, self._without(routing, f))
            for f in range(len(self.rows))
        ]
        return self

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool, each fold's pool updated on the other folds."""
        other = copy.copy(self)
        other.pools = [
            pool.update(X, y, self._without(routing, f))
            for f, pool in enumerate(self.pools)
        ]
        return other

    def _without(self, routing: Routing, fold: int) -> Routing:
        kept = np.asarray(self.folds != fold, dtype=np.float64)
        return routing.scaled(like(kept, routing.weights))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return out-of-fold answers for the training rows, (n, m, q)."""
        xp, parts = namespace(routing.weights), []
        for pool, fold in zip(self.pools, self.rows, strict=True):
            rows = like(fold, routing.indices)
            own = take_rows(X, rows), take_rows(y, rows), routing.take(rows)
            parts.append(pool.evaluate(*own))
        back = like(np.argsort(np.concatenate(self.rows)), routing.indices)
        return xp.take(xp.concat(parts, axis=0), back, axis=0)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Raise: new rows have no fold; predict with the pool of `finished`."""
        raise TypeError("CrossFitPool judges training rows; predict after finished().")

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.pools = [
            old.swap(new, take)
            for old, new in zip(self.pools, other.pools, strict=True)
        ]
        return chosen

    def estimators(self) -> list[Any]:
        """Raise: there are F models an expert; see `finished`."""
        raise TypeError("CrossFitPool has a model a fold; use finished().")

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return one pool refitted on all rows, with the out-of-fold scales."""
        pool = copy.copy(self.pool).fit(X, y, routing)
        pool.scale = self.scale
        return pool


def content_folds(problem: Problem, n_folds: int, seed: int) -> np.ndarray:
    """Assign each row to a fold by what it holds.

    Rows are ranked along a random direction of [x, residual of y] and dealt out in
    turn, class by class. Equal rows share a fold, so none is judged by its own copy;
    the folds of a permuted table are the permuted folds.
    """
    random, problem = np.random.RandomState(seed), problem.on_host()
    X, target = numeric(problem.X_gate), targets(problem)
    score = X @ random.standard_normal(X.shape[1])
    score = score + target @ random.standard_normal(target.shape[1])
    labels = problem.y if problem.y.ndim == 1 else np.zeros(len(score), dtype=np.intp)
    folds = np.empty(len(score), dtype=np.intp)
    for label in np.unique(labels):
        rows = labels == label
        folds[rows] = ranks(score[rows]) % n_folds
    return np.unique(folds, return_inverse=True)[1]
