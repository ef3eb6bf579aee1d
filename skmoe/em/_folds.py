"""Folds that depend on the content of rows, never on their place in the table."""

from __future__ import annotations

import numpy as np

from ..backends import to_host
from ._content import numbers, numeric, ranks, standard
from ._problem import Problem

FINAL_FOLDS = 5
"""Number of folds for the last noise scales, unless the user sets it. Their models have
seen 4/5 of the rows, so they err nearly as much as the model of all rows will."""

TINY = float(np.finfo(np.float64).tiny)


def content_folds(problem: Problem, n_folds: int, seed: int) -> np.ndarray:
    """Assign each row to a fold by its content.

    Rows are ranked along a random direction of [x, residual of y] and dealt out in
    turn, class by class. Equal rows share a fold, so no row's copy judges it, and the
    folds of a permuted table are the permuted folds. Groups are dealt out whole, by
    their mean rank.

    Parameters
    ----------
    problem : Problem
    n_folds : int
        Number of folds; there are fewer if there are fewer rows or groups to deal out.
    seed : int
        Seed of the direction.

    Returns
    -------
    (n_samples,) array of int
        Folds, from 0 without gaps.
    """
    random = np.random.RandomState(seed)
    residual = problem.content.residual
    weight = to_host(problem.sample_weight)
    X = standard(numeric(problem.content.X), weight)
    score = X @ random.standard_normal(X.shape[1])
    score = score + residual @ random.standard_normal(residual.shape[1])
    labels = np.zeros(len(score), dtype=np.intp)
    if problem.y.ndim == 1:  # class positions
        labels = to_host(problem.y)
    if problem.groups is not None:
        folds = _deal_groups(problem.groups, labels, score, weight, n_folds)
        return np.unique(folds, return_inverse=True)[1]
    place = ranks(score)
    if problem.X is not problem.X_gate and place.max() + 1 < len(place):
        # Rows that are equal to the gate may differ to the experts.
        X = standard(numbers(problem.on_host().X), weight)
        other = ranks(X @ random.standard_normal(X.shape[1]))
        place = place * (other.max() + 1) + other
    folds = np.empty(len(score), dtype=np.intp)
    for label in np.unique(labels):
        rows = labels == label
        folds[rows] = np.unique(place[rows], return_inverse=True)[1] % n_folds
    return np.unique(folds, return_inverse=True)[1]


def _deal_groups(
    groups: np.ndarray,
    labels: np.ndarray,
    score: np.ndarray,
    weight: np.ndarray,
    n_folds: int,
) -> np.ndarray:
    """Deal out groups, largest first, to the fold with fewest rows of their kind."""
    group = np.unique(groups, return_inverse=True)[1]
    mass = np.bincount(group, weight)
    mean = np.bincount(group, weight * score) / np.maximum(mass, TINY)
    share = np.zeros((len(mass), labels.max() + 1))
    np.add.at(share, (group, labels), weight)
    # We round, so that the order of the sums does not matter.
    share = np.round(share / np.maximum(share.sum(axis=0), TINY), 10)
    load = np.zeros((n_folds, share.shape[1]))
    fold_of = np.zeros(len(mass), dtype=np.intp)
    for g in np.lexsort((ranks(mean), -share.sum(axis=1))):
        fold_of[g] = np.argmin(load @ share[g])
        load[fold_of[g]] += share[g]
    return fold_of[group]
