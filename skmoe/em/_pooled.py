"""Pooled fits: each distinct learner, fitted on the rows of all experts."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from .._learners import recipe
from ..backends import Array, like, namespace
from ..experts import ExpertPool, shrunk_pool
from ..routing import Routing
from ._cross_fit import CrossFitPool
from ._problem import Problem, learning_mass
from ._trained import rescaled

REWEIGHTINGS = 10
"""Fits of a learner alone with robust weights; each halves, at least, what outliers
still pull."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Each distinct learner, fitted on all rows: what experts are pulled to.

    Attributes
    ----------
    pool : ExpertPool
        One expert for each distinct learner.
    learner_of : (n_experts,) array of int
        Which of them belongs to each expert.
    """

    pool: ExpertPool
    learner_of: np.ndarray

    @classmethod
    def of(cls, problem: Problem, pool: ExpertPool) -> Pooled:
        """Fit the learners of a pool, judged as the pool judges its own.

        Classifiers beside a shared expert are pulled to that one.
        """
        if problem.shared is not None and pool.classes is not None:
            return cls(problem.shared.judge, np.zeros(pool.n_experts, dtype=np.intp))
        keys = [recipe(learner) for learner in pool.learners]
        distinct = list(dict.fromkeys(keys))
        first = np.array([keys.index(key) for key in distinct])
        learner_of = np.array([distinct.index(key) for key in keys])
        few = some(pool, first)
        everyone = learnable_rows(problem, few)
        few.fit(problem.X, problem.y, everyone)
        if few.likelihood.robust:
            few = reweighted(problem, few, everyone)
        return cls(few, learner_of)

    def everyone(self, problem: Problem) -> Routing:
        """Return the routing that gives each learner all rows, alike."""
        return learnable_rows(problem, self.pool)

    def best(self, problem: Problem) -> int:
        """Return which learner alone, with one noise scale, suits the rows best."""
        mass = self.everyone(problem)
        judge = rescaled(problem, self.pool, mass)
        log_lik = judge.log_likelihood(problem.X, problem.y, mass)
        xp, counted = namespace(log_lik), mass.weights > 0
        log_lik = xp.where(counted, log_lik, xp.zeros_like(log_lik))
        return int(np.argmax(mass.sum_by_expert(mass.weights * log_lik)))

    def only(self, learner: int) -> Pooled:
        """Return one of the learners as that of all experts."""
        return Pooled(self.pool, np.full_like(self.learner_of, learner))

    def pull(self, pool: ExpertPool, strength: float) -> ExpertPool:
        """Return a pool of blended experts."""
        return shrunk_pool(pool, self.pool, self.learner_of, strength)

    def remember(self, problem: Problem) -> Pooled:
        """Return learners that know already what they say of the rows."""
        return Pooled(problem.remember(self.pool), self.learner_of)

    def finished(self, problem: Problem) -> Pooled:
        """Return the learners for new rows."""
        if problem.shared is not None and self.pool is problem.shared.judge:
            return Pooled(problem.shared.pool, self.learner_of)
        mass = learning_mass(problem, self.pool, self.everyone(problem))
        done = self.pool.finished(problem.X, problem.y, mass)
        used, learner_of = np.unique(self.learner_of, return_inverse=True)
        return Pooled(done.take(used), learner_of)


def all_rows(problem: Problem, n_experts: int) -> Routing:
    """Return the routing that gives each expert all rows, alike.

    As in EM, the weights of a row sum to its sample weight; `share` undoes the rest.
    """
    weight: Array = problem.sample_weight / n_experts
    return Routing.from_dense(namespace(weight).stack([weight] * n_experts, axis=1))


def learnable_rows(problem: Problem, pool: ExpertPool) -> Routing:
    """Return the routing that gives each learner all rows that it may have, alike."""
    everyone, beyond = (
        all_rows(problem, pool.n_experts),
        pool.likelihood.beyond(problem.y),
    )
    if beyond is None:
        return everyone
    return everyone.scaled(like(np.where(beyond, 0.0, 1.0), everyone.weights))


def some(pool: ExpertPool, which: np.ndarray) -> ExpertPool:
    """Return an unfitted pool of some of the learners."""
    if isinstance(pool, CrossFitPool):
        return CrossFitPool(some(pool.pool, which), pool.folds, learned=pool.learned)
    few = copy.copy(pool)
    few.learners = [pool.learners[k] for k in which]
    few.likelihood = pool.likelihood.take(which)
    few.seeds = [pool.seeds[k] for k in which]
    few.n_experts = len(few.learners)
    return few


def reweighted(problem: Problem, pool: ExpertPool, mass: Routing) -> ExpertPool:
    """Return a fitted pool with robust weights of rows that agree with its fit."""
    for _ in range(REWEIGHTINGS):
        values = pool.evaluate(problem.X, problem.y, mass)
        pool = pool.rescale(problem.y, values, mass)
        few = pool.emphasised(problem.y, values, mass)
        pool = pool.update(problem.X, problem.y, few)
    return pool
