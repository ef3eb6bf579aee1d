"""Pooled fits: each distinct learner, fitted on the rows of all experts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._learners import recipe
from ..backends import Array, like, namespace
from ..experts import ExpertPool
from ..routing import Routing
from ._problem import Problem
from ._trained import Trained, rescaled

REWEIGHTINGS = 10
"""Number of fits of a learner with robust weights; each at least halves the pull of
outliers."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Each distinct learner, fitted on all rows; experts are shrunk to these fits.

    Attributes
    ----------
    fits : Trained
        One expert per distinct learner; the predictor holds only those in use.
    learner_of : (n_experts,) array of int
        The learner of each expert.
    """

    fits: Trained
    learner_of: np.ndarray

    @classmethod
    def of(cls, problem: Problem, pool: ExpertPool) -> Pooled:
        """Fit the learners of a pool, judged in the way of the pool."""
        judge, learner_of = pooled_judge(problem, pool)
        if problem.shared is not None and judge is problem.shared.judge:
            return cls(problem.shared, learner_of)
        mass = learnable_rows(problem, judge)
        return cls(Trained.of(problem, judge, mass), learner_of)

    def extended(
        self, problem: Problem, table: ExpertPool, rows: np.ndarray
    ) -> Pooled | None:
        """Return the fits for a whole table, if their judge can judge all of it.

        The predictor is fitted on all rows; see `ExpertPool.extended`.
        """
        judge = self.fits.judge.extended(table, rows)
        if judge is None:
            return None
        fits = Trained.of(problem, judge, learnable_rows(problem, judge))
        return Pooled(fits, self.learner_of)

    def as_experts(self) -> ExpertPool:
        """Return the judge of as many experts, each of which is its learner's fit."""
        return self.fits.judge.take(self.learner_of)

    @property
    def several(self) -> bool:
        """Whether the learners differ."""
        return self.fits.judge.n_experts > 1

    def best(self, problem: Problem) -> int:
        """Return the learner that fits the rows best alone, with one noise scale."""
        return best_learner(problem, self.fits.judge)

    def only(self, learner: int) -> Pooled:
        """Return the pooled fits with one learner for all experts."""
        predictor = self.fits.predictor.take(np.array([learner]))
        learner_of = np.full_like(self.learner_of, learner)
        return Pooled(Trained(self.fits.judge, predictor), learner_of)

    def shrink(self, experts: Trained, shrinkage: float) -> Trained:
        """Return the experts shrunk to their learners."""
        return experts.shrunk(self.fits, self.learner_of, shrinkage)

    def remembered(self, known: Problem, new: Problem) -> Pooled:
        """Return the pooled fits with their answers for the rows cached."""
        return Pooled(self.fits.remembered(known, new), self.learner_of)


def pooled_judge(problem: Problem, pool: ExpertPool) -> tuple[ExpertPool, np.ndarray]:
    """Return each distinct learner fitted on all rows, and the learner of each expert.

    With a shared expert it is the only learner of all classifiers.
    """
    if problem.shared is not None and pool.classes is not None:
        return problem.shared.judge, np.zeros(pool.n_experts, dtype=np.intp)
    keys = [recipe(learner) for learner in pool.learners]
    distinct = list(dict.fromkeys(keys))
    judge = pool.unfitted(np.array([keys.index(key) for key in distinct]))
    everyone = learnable_rows(problem, judge)
    judge.fit(problem.X, problem.y, everyone)
    if judge.likelihood.robust:
        judge = reweighted(problem, judge, everyone)
    return judge, np.array([distinct.index(key) for key in keys])


def best_learner(problem: Problem, judge: ExpertPool) -> int:
    """Return the learner that fits the rows best alone, with one noise scale."""
    mass = learnable_rows(problem, judge)
    judge = rescaled(problem, judge, mass)
    log_lik = judge.log_likelihood(problem.X, problem.y, mass)
    xp = namespace(log_lik)
    log_lik = xp.where(mass.weights > 0, log_lik, xp.zeros_like(log_lik))
    return int(np.argmax(mass.sum_by_expert(mass.weights * log_lik)))


def all_rows(problem: Problem, n_experts: int) -> Routing:
    """Return the routing that gives all rows to each expert, in equal parts.

    As in EM, the weights of a row sum to its sample weight; `share` undoes the rest.
    """
    weight: Array = problem.sample_weight / n_experts
    return Routing.from_dense(namespace(weight).stack([weight] * n_experts, axis=1))


def learnable_rows(problem: Problem, pool: ExpertPool) -> Routing:
    """Return the routing that gives each learner all rows that it may have, equally."""
    everyone = all_rows(problem, pool.n_experts)
    beyond = pool.likelihood.beyond(problem.y)
    if beyond is None:
        return everyone
    return everyone.scaled(like(np.where(beyond, 0.0, 1.0), everyone.weights))


def reweighted(problem: Problem, pool: ExpertPool, mass: Routing) -> ExpertPool:
    """Return the pool refitted with robust weights, until these agree with its fit."""
    for _ in range(REWEIGHTINGS):
        values = pool.evaluate(problem.X, problem.y, mass)
        pool = pool.rescale(problem.y, values, mass)
        few = pool.emphasised(problem.y, values, mass)
        pool = pool.update(problem.X, problem.y, few)
    return pool
