"""Out-of-fold likelihoods: an expert is judged on rows that it was not fitted on.

A flexible learner memorises the rows it owns. Its in-sample likelihood is inflated
exactly there, so it keeps them, and the partition turns to noise. With F folds each
expert therefore has F models, each blind to one fold, and a row is judged by the models
that are blind to it. This is cross-fitting [1]_ inside the E-step. When EM has ended,
`finished` makes one pool that predicts.

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
from scipy import sparse

from ..backends import Array, like, namespace
from ..experts import (
    DerivedPool,
    ExpertPool,
    averaged,
    fit_together,
    shares,
    shrunk_pool,
    take_rows,
    update_together,
)
from ..routing import Routing

CHANGE = 0.1
"""Part of a share that has to change before its expert is fitted again."""


class CrossFitPool(DerivedPool):
    """A pool whose evaluations of the training rows are out of fold.

    Parameters
    ----------
    pool : ExpertPool
        The pool to fit once for each fold; it stays unfitted itself.
    folds : (n_samples,) array of int
        Fold of each training row, from 0 without gaps. The fold's model judges the row.
    final_folds : (n_samples,) array of int or None
        Folds for one more fit when EM has ended; None keeps those of EM.
    part_rows : bool
        Whether folds separate all rows that differ. If so, only an expert of one or two
        rows can lie in one fold.
    learned : (n_folds, n_samples) array of bool or None
        Which rows each model learns from; None is all rows outside its fold. A row
        whose judge has learned from it does not count for noise scales.
    """

    def __init__(
        self,
        pool: ExpertPool,
        folds: np.ndarray,
        final_folds: np.ndarray | None = None,
        part_rows: bool = True,
        learned: np.ndarray | None = None,
    ) -> None:
        super().__init__(pool)
        self.pool = pool
        self.folds = folds
        self.final_folds = final_folds
        self.part_rows = part_rows
        in_fold = np.arange(int(folds.max()) + 1)[:, None] == folds
        self.rows = [np.flatnonzero(rows) for rows in in_fold]
        self.learned = ~in_fold if learned is None else learned
        self.blind = ~(self.learned & in_fold).any(axis=0)
        self.learns = True
        self.lessons: Any = None

    def unfitted(self, experts: np.ndarray) -> ExpertPool:
        """Return the unfitted pool of some experts' learners, in the same folds."""
        return CrossFitPool(
            self.pool.unfitted(experts), self.folds, learned=self.learned
        )

    @property
    def trained(self) -> ExpertPool:
        """The pool that each fold trains."""
        return self.pool

    def last_judge(self) -> ExpertPool | None:
        """Return the pool of the final folds, if there are such."""
        if self.final_folds is None:
            return None
        return CrossFitPool(self.pool, self.final_folds)

    def fallbacks_of(self, resp: Routing) -> dict[int, dict[int, str]]:
        """Return why experts stand on other rows, and those whose rows share a fold."""
        reasons: dict[int, dict[int, str]] = {}
        for fold, pool in enumerate(self.pools):
            of_fold = pool.fallbacks_of(resp)
            for why in of_fold.values():
                why.update(self._lonely(fold, resp))
            reasons |= of_fold
        return reasons

    def _lonely(self, fold: int, resp: Routing) -> dict[int, str]:
        """Return the experts that have no rows outside a fold, and say so."""
        if self.part_rows:
            return {}
        outside = shares(self._without(resp, fold))
        return {
            k: f"Expert {k} ({self.learners[k]!r}) has no rows outside fold {fold}."
            for k in np.flatnonzero(outside == 0).tolist()
        }

    def of_rows(self, rows: np.ndarray) -> ExpertPool:
        """Return the unfitted pool for some of the rows, which keep their folds."""
        folds, learned = judges(self.folds[rows], self.learned[:, rows])
        if len(learned) == 1:
            return self.pool
        final = self.final_folds
        if final is not None:
            final = np.unique(final[rows], return_inverse=True)[1]
        return CrossFitPool(self.pool, folds, final, self.part_rows, learned)

    def extended(self, table: ExpertPool, rows: np.ndarray) -> ExpertPool | None:
        """Return the fitted pool as it judges the whole table of its rows.

        Rows that no model learned from are judged by that of their fold.
        """
        if self.rigid:  # it learns from all rows for little
            return None
        assert isinstance(table, CrossFitPool)
        place = np.zeros(int(table.folds.max()) + 1, dtype=np.intp)
        place[table.folds[rows]] = self.folds
        folds = place[table.folds]
        folds[rows] = self.folds
        learned = np.zeros((len(self.rows), len(rows)), dtype=bool)
        learned[:, rows] = self.learned
        other = CrossFitPool(self.pool, folds, None, self.part_rows, learned)
        other.learns = False
        other.blind = other.blind & table.blind
        other.pools = self.pools
        other.scale = self.scale
        return other

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one pool per fold, on the rows that it learns from."""
        pools = [copy.copy(self.pool) for _ in self.rows]
        self.pools = fit_together(pools, X, y, self._lessons(routing))
        self.n_fitted = sum(pool.n_fitted for pool in self.pools)
        self.lessons = _matrix(routing)
        return self

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a pool whose fold pools are updated on the rows they learn from."""
        if not self.learns:
            return self
        other = copy.copy(self)
        resting = self._hardly_changed(routing)
        pools = [pool.rested(resting) for pool in self.pools]
        other.pools = update_together(pools, X, y, self._lessons(routing))
        other.n_fitted = sum(pool.n_fitted for pool in other.pools)
        other.lessons = _columns(_matrix(routing), self.lessons, resting)
        return other

    def price(self, routing: Routing) -> int:
        """Return how many rows an update fits."""
        if not self.learns:
            return 0
        resting = self._hardly_changed(routing)
        return sum(
            pool.rested(resting).price(self._without(routing, f))
            for f, pool in enumerate(self.pools)
        )

    def _hardly_changed(self, routing: Routing) -> tuple[int, ...]:
        """Return the experts whose share is nearly the one that they learned."""
        share = _matrix(routing)
        change = abs(share - self.lessons).sum(axis=0)
        return tuple(np.flatnonzero(change <= CHANGE * share.sum(axis=0)).tolist())

    def _lessons(self, routing: Routing) -> list[Routing]:
        return [self._without(routing, fold) for fold in range(len(self.rows))]

    def _without(self, routing: Routing, fold: int) -> Routing:
        mask = self.learned[fold].astype(np.float64)
        return routing.scaled(like(mask, routing.weights))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return out-of-fold answers for the training rows, (n, m, q)."""
        xp = namespace(routing.weights)
        parts = []
        for pool, fold in zip(self.pools, self.rows, strict=True):
            rows = like(fold, routing.indices)
            few_X, few_y = take_rows(X, rows), take_rows(y, rows)
            parts.append(pool.evaluate(few_X, few_y, routing.take(rows)))
        back = like(np.argsort(np.concatenate(self.rows)), routing.indices)
        return xp.take(xp.concat(parts, axis=0), back, axis=0)

    def rescale(self, y: Array, values: Array, routing: Routing) -> Self:
        """Return a pool with noise scales from rows judged out of fold."""
        if self.blind.all():
            return super().rescale(y, values, routing)
        counted = like(self.blind.astype(np.float64), routing.weights)
        return super().rescale(y, values, routing.scaled(counted))

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
        chosen.n_fitted = other.n_fitted
        chosen.lessons = other.lessons  # what was refused once would be so again
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super(DerivedPool, self).take(experts)
        other.n_fitted = 0
        other.pool = self.pool.unfitted(experts)
        other.pools = [pool.take(experts) for pool in self.pools]
        other.lessons = self.lessons[:, experts]
        return other

    def shrunk(
        self, pooled: ExpertPool, learner_of: np.ndarray, shrinkage: float
    ) -> ExpertPool | None:
        """Return the pool whose fold models are shrunk to those of ``pooled``."""
        if not isinstance(pooled, CrossFitPool) or pooled.folds is not self.folds:
            return None
        chosen = copy.copy(self)
        chosen.pools = [
            shrunk_pool(inner, base, learner_of, shrinkage)
            for inner, base in zip(self.pools, pooled.pools, strict=True)
        ]
        return chosen

    def estimators(self) -> list[Any]:
        """Raise: each expert has F models; see `finished`."""
        raise TypeError("CrossFitPool has one model per fold; use finished().")

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return one pool refitted on all rows, with the out-of-fold scales."""
        return copy.copy(self.pool).fit(X, y, routing).with_scale(self.scale)

    def averaged(self) -> ExpertPool:
        """Return the pool of the fold models' means, with the out-of-fold scales."""
        return averaged(self.pools).with_scale(self.scale)


def _matrix(routing: Routing) -> sparse.csr_array:
    """Return the routing as a matrix that later sums leave as it is."""
    matrix = routing.to_csr()
    matrix.sum_duplicates()
    return matrix


def _columns(
    new: sparse.csr_array, old: sparse.csr_array, kept: tuple[int, ...]
) -> sparse.csr_array:
    """Return a matrix with some columns of the old one."""
    is_old = np.zeros(new.shape[1])
    is_old[list(kept)] = 1.0
    mixed = (new.multiply(1.0 - is_old) + old.multiply(is_old)).tocsr()
    mixed.sum_duplicates()
    return mixed


def judges(folds: np.ndarray, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return folds that have models, and which rows each model learns from.

    A last model, of all rows, judges in sample: rows of no fold (-1), and rows whose
    fold learns from no rows or from the row itself. A fold that then judges no rows has
    no model.
    """
    n_folds, n_rows = learned.shape
    learned = np.concatenate([learned, np.ones((1, n_rows), dtype=bool)])
    fitted = learned.sum(axis=1) > 0
    blind = fitted[folds] & ~learned[folds, np.arange(n_rows)]
    used, folds = np.unique(np.where(blind, folds, n_folds), return_inverse=True)
    return folds, learned[used]
