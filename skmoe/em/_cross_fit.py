"""Out-of-fold likelihoods: an expert is judged on rows that it was not fitted on.

A flexible learner memorises the rows it owns. Its in-sample likelihood is inflated
exactly there, so it keeps them, and the partition turns to noise. With F folds, each
expert has F models, each blind to one fold, and a row is judged by those that are
blind to it. The idea is cross-fitting [1]_, inside the E-step. When EM has ended,
`finished` makes one pool that predicts of the fold models.

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
from ..experts import DerivedPool, ExpertPool, take_rows
from ..experts._averaged import averaged
from ..experts._base import shares
from ..routing import Routing
from ._problem import EMResult, Problem, State, learning_mass
from ._starts import complete, numeric, ranks, standard, targets

FINAL_FOLDS = 5
"""Folds of the last noise scales where the number is ours to choose: their models
have seen 4/5 of the rows, and so err nearly as the model of all rows will."""

TINY = float(np.finfo(np.float64).tiny)


class CrossFitPool(DerivedPool):
    """A pool whose evaluations of the training rows are out of fold.

    Parameters
    ----------
    pool : ExpertPool
        The pool to fit once for each fold; it stays unfitted itself.
    folds : (n_samples,) array of int
        Fold of each training row, from 0 without gaps: its model judges the row.
    final_folds : (n_samples,) array of int or None
        Folds to be fitted once more when EM has ended; None keeps those of EM.
    part_rows : bool
        Whether the folds part any rows that differ, so that only experts of a row or
        two can lie in one.
    learned : (n_folds, n_samples) array of bool or None
        Which rows each model learns from; None is all but those of its fold. Rows that
        are judged by a model that learned from them do not count for noise scales.
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

    def of_rows(self, kept: np.ndarray) -> ExpertPool:
        """Return the unfitted pool for some of the rows, in the folds they are in."""
        folds, learned = judges(self.folds[kept], self.learned[:, kept])
        if len(learned) == 1:
            return self.pool
        final = self.final_folds
        if final is not None:
            final = np.unique(final[kept], return_inverse=True)[1]
        return CrossFitPool(self.pool, folds, final, self.part_rows, learned)

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one pool a fold, on the rows that it learns from."""
        self.pools = [
            copy.copy(self.pool).fit(X, y, self._without(routing, f))
            for f in range(len(self.rows))
        ]
        return self

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool, each fold's pool updated on the rows it learns from."""
        other = copy.copy(self)
        other.pools = [
            pool.update(X, y, self._without(routing, f))
            for f, pool in enumerate(self.pools)
        ]
        return other

    def _without(self, routing: Routing, fold: int) -> Routing:
        kept = self.learned[fold].astype(np.float64)
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

    def rescale(self, y: Array, values: Array, routing: Routing) -> Self:
        """Return a pool whose noise scales are those of rows out of fold."""
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
        return chosen

    def pulled(
        self, pooled: ExpertPool, learner_of: np.ndarray, strength: float
    ) -> ExpertPool:
        """Return the pool whose fold models are drawn to those of ``pooled``."""
        if not isinstance(pooled, CrossFitPool) or pooled.folds is not self.folds:
            return super().pulled(pooled, learner_of, strength)
        chosen = copy.copy(self)
        chosen.pools = [
            own.pulled(base, learner_of, strength)
            for own, base in zip(self.pools, pooled.pools, strict=True)
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

    def averaged(self) -> ExpertPool:
        """Return the pool of the fold models' means, with the out-of-fold scales."""
        pool = averaged(self.pools)
        pool.scale = self.scale
        return pool


# -------------------------------------------------------------------- the end
def finished(
    problem: Problem, model: State | EMResult, *, average: bool = False
) -> ExpertPool:
    """Return the pool that predicts.

    Parameters
    ----------
    problem : Problem
    model : State or EMResult
        Where EM ended.
    average : bool
        Cross-fitted experts become the means of their fold models, instead of being
        refitted on all rows.

    Returns
    -------
    ExpertPool
        Its noise scales are those of rows out of fold, if experts were cross-fitted.
    """
    judge = model.pool
    if average or judge.scale is not None:
        judge = last_judge(problem, judge, model.resp)
    return predictor(problem, judge, model.resp, average=average)


def last_judge(problem: Problem, pool: ExpertPool, resp: Routing) -> ExpertPool:
    """Return the pool that judges last: of more folds where "auto" chose folds."""
    if not isinstance(pool, CrossFitPool) or pool.final_folds is None:
        return pool
    mass = resp.scaled(problem.sample_weight)
    learned = learning_mass(problem, pool, mass)
    more = CrossFitPool(pool.pool, pool.final_folds).fit(problem.X, problem.y, learned)
    values = more.evaluate(problem.X, problem.y, resp)
    return more.rescale(problem.y, values, mass)


def predictor(
    problem: Problem, judge: ExpertPool, resp: Routing, *, average: bool
) -> ExpertPool:
    """Return the pool that answers for new rows, with the scales of the judge."""
    if average and isinstance(judge, CrossFitPool):
        return judge.averaged()
    mass = learning_mass(problem, judge, resp.scaled(problem.sample_weight))
    return judge.finished(problem.X, problem.y, mass)


def fallbacks(result: EMResult, final: ExpertPool) -> list[str | None]:
    """Return of each model why it stands on rows that its expert does not own.

    Parameters
    ----------
    result : EMResult
        Its models judged the experts.
    final : ExpertPool
        The pool that predicts.

    Returns
    -------
    list of str or None
        None for a model that was fitted on the rows of its expert. Experts that own
        no more than a row, all in all, are left out: nothing could judge them.
    """
    owners = np.flatnonzero(result.resp.sum_by_expert(result.resp.weights) > 1)
    judges = getattr(result.pool, "pools", [result.pool])
    both = (*judges, *getattr(final, "pools", [final]))
    pools = {id(getattr(one, "fitted", one)): one for one in both}  # copies count once
    reasons = [dict(getattr(one, "fallbacks", {})) for one in pools.values()]
    if isinstance(result.pool, CrossFitPool) and not result.pool.part_rows:
        for fold, why in enumerate(reasons[: len(judges)]):
            outside = shares(result.pool._without(result.resp, fold))
            for k in np.flatnonzero(outside == 0):
                learner = result.pool.learners[k]
                why[k] = f"Expert {k} ({learner!r}) has no rows outside fold {fold}."
    return [why.get(k) for why in reasons for k in owners]


# ---------------------------------------------------------------------- folds
def judges(folds: np.ndarray, learned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return folds that have models, and which rows each model learns from.

    Rows whose fold learns from no rows, or from the row itself, and those of no fold,
    -1, are judged in sample, by a last model of all rows. Folds that are left without
    rows to judge have no model.
    """
    n_folds, n_rows = learned.shape
    learned = np.concatenate([learned, np.ones((1, n_rows), dtype=bool)])
    fitted = learned.sum(axis=1) > 0
    blind = fitted[folds] & ~learned[folds, np.arange(n_rows)]
    used, folds = np.unique(np.where(blind, folds, n_folds), return_inverse=True)
    return folds, learned[used]


def content_folds(problem: Problem, n_folds: int, seed: int) -> np.ndarray:
    """Assign each row to a fold by what it holds.

    Rows are ranked along a random direction of [x, residual of y] and dealt out in
    turn, class by class. Equal rows share a fold, so none is judged by its own copy;
    the folds of a permuted table are the permuted folds. Groups are dealt out whole, by
    their mean rank.

    Parameters
    ----------
    problem : Problem
    n_folds : int
        There are fewer folds where there is less to deal out.
    seed : int
        Seed of the direction.

    Returns
    -------
    (n_samples,) array of int
        Folds, from 0 without gaps.
    """
    random, one_view = np.random.RandomState(seed), problem.X is problem.X_gate
    problem = complete(problem)
    weight, target = problem.sample_weight, targets(problem)
    X = standard(numeric(problem.X_gate), weight)
    score = X @ random.standard_normal(X.shape[1])
    score = score + target @ random.standard_normal(target.shape[1])
    labels = problem.y if problem.y.ndim == 1 else np.zeros(len(score), dtype=np.intp)
    if problem.groups is not None:
        folds = _deal_groups(problem.groups, labels, score, weight, n_folds)
        return np.unique(folds, return_inverse=True)[1]
    place = ranks(score)
    if not one_view and place.max() + 1 < len(place):
        # The gate may take rows for equal that experts tell apart.
        seen = standard(numbers(problem.X), weight)
        other = ranks(seen @ random.standard_normal(seen.shape[1]))
        place = place * (other.max() + 1) + other
    folds = np.empty(len(score), dtype=np.intp)
    for label in np.unique(labels):
        rows = labels == label
        folds[rows] = np.unique(place[rows], return_inverse=True)[1] % n_folds
    return np.unique(folds, return_inverse=True)[1]


def numbers(X: Any) -> Any:
    """Return what experts see, maybe a data frame, as numbers that tell rows apart."""
    if sparse.issparse(X):
        return X
    columns = []
    for column in np.asarray(X).T:
        try:
            known = column.astype(np.float64)
            there = np.isfinite(known)
            known = np.where(there, known, known[there].mean() if there.any() else 0.0)
        except (TypeError, ValueError):
            known = np.unique(column.astype(str), return_inverse=True)[1]
        columns.append(known)
    return np.stack(columns, axis=1)


def _deal_groups(
    groups: np.ndarray,
    labels: np.ndarray,
    score: np.ndarray,
    weight: np.ndarray,
    n_folds: int,
) -> np.ndarray:
    """Deal out groups, the largest first, to the fold with least of what each holds."""
    group = np.unique(groups, return_inverse=True)[1]
    mass = np.bincount(group, weight)
    mean = np.bincount(group, weight * score) / np.maximum(mass, TINY)
    held = np.zeros((len(mass), labels.max() + 1))
    np.add.at(held, (group, labels), weight)
    # Rounded, so that sums in another order decide alike.
    held = np.round(held / np.maximum(held.sum(axis=0), TINY), 10)
    load, fold_of = np.zeros((n_folds, held.shape[1])), np.zeros(len(mass), np.intp)
    for g in np.lexsort((ranks(mean), -held.sum(axis=1))):
        fold_of[g] = np.argmin(load @ held[g])
        load[fold_of[g]] += held[g]
    return fold_of[group]
