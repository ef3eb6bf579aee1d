"""Fitted experts in two forms: one judges the training rows, the other predicts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..experts import ExpertPool, shrunk_pool
from ..routing import Routing
from ._cross_fit_gate import for_new_rows
from ._problem import EMResult, Model, Problem, State, learning_mass


@dataclass(frozen=True, eq=False)
class Trained:
    """Fitted experts, for the rows that they were fitted on and for new ones.

    Attributes
    ----------
    judge : ExpertPool
        It answers for its training rows, out of fold if it is cross-fitted.
    predictor : ExpertPool
        It answers for new rows, with the noise scales of the judge.
    """

    judge: ExpertPool
    predictor: ExpertPool

    @classmethod
    def of(
        cls,
        problem: Problem,
        judge: ExpertPool,
        mass: Routing,
        *,
        average: bool = False,
    ) -> Self:
        """Return a fitted judge with its predictor.

        Parameters
        ----------
        problem : Problem
        judge : ExpertPool
        mass : Routing
            Responsibilities times sample weights.
        average : bool
            Whether cross-fitted experts predict by the mean of their fold models,
            instead of a refit on all rows.
        """
        mean = judge.averaged() if average else None
        if mean is not None:
            return cls(judge, mean)
        mass = learning_mass(problem, judge, mass)
        return cls(judge, judge.finished(problem.X, problem.y, mass))

    def shrunk(
        self, pooled: Trained, learner_of: np.ndarray, shrinkage: float
    ) -> Trained:
        """Return the experts shrunk to pooled fits; see `shrunk_pool`.

        The predictor of ``pooled`` holds only the fits to which experts are shrunk.
        """
        judge = shrunk_pool(self.judge, pooled.judge, learner_of, shrinkage)
        if self.predictor is self.judge and pooled.predictor is pooled.judge:
            return Trained(judge, judge)
        place = np.unique(learner_of, return_inverse=True)[1]
        predictor = shrunk_pool(self.predictor, pooled.predictor, place, shrinkage)
        return Trained(judge, predictor)

    def rescaled(self, problem: Problem, resp: Routing) -> Trained:
        """Return the experts with noise scales from the judge's answers."""
        judge = rescaled(problem, self.judge, resp)
        return Trained(judge, self.predictor.with_scale(judge.scale))

    def remembered(self, known: Problem, new: Problem | None = None) -> Trained:
        """Return the experts with their answers for known and new rows cached.

        Without new rows the predictor stays as it is.
        """
        predictor = self.predictor if new is None else new.remember(self.predictor)
        return Trained(known.remember(self.judge), predictor)

    def for_new_rows(self, problem: Problem, state: State | EMResult) -> Model:
        """Return the model of a state for new rows, with the state's noise scales."""
        gate = for_new_rows(problem, state.gate, state.resp)
        return Model(gate, self.predictor.with_scale(state.pool.scale))


def finished(
    problem: Problem, model: State | EMResult, *, average: bool = False
) -> ExpertPool:
    """Return the pool that predicts once EM has ended.

    If experts were cross-fitted, its noise scales come from out-of-fold answers.
    """
    judge = model.pool
    if average or judge.scale is not None:
        judge = last_judge(problem, judge, model.resp)
    mass = model.resp.scaled(problem.sample_weight)
    return Trained.of(problem, judge, mass, average=average).predictor


def last_judge(problem: Problem, pool: ExpertPool, resp: Routing) -> ExpertPool:
    """Return the pool that judges last; it has more folds if "auto" chose folds."""
    judge = pool.last_judge()
    if judge is None:
        return pool
    mass = resp.scaled(problem.sample_weight)
    learned = learning_mass(problem, pool, mass)
    return rescaled(problem, judge.fit(problem.X, problem.y, learned), resp)


def rescaled(problem: Problem, pool: ExpertPool, resp: Routing) -> ExpertPool:
    """Return the pool with noise scales from its own answers."""
    values = pool.evaluate(problem.X, problem.y, resp)
    return pool.rescale(problem.y, values, resp.scaled(problem.sample_weight))


def fallbacks(result: EMResult, final: ExpertPool) -> list[str | None]:
    """Return for each model why it was fitted to rows that its expert does not own.

    Parameters
    ----------
    result : EMResult
        The run whose models judged the experts.
    final : ExpertPool
        The pool that predicts.

    Returns
    -------
    list of str or None
        None for a model that was fitted to the rows of its expert. Experts that own one
        row or less in all are left out: nothing could judge them.
    """
    owners = np.flatnonzero(result.resp.sum_by_expert(result.resp.weights) > 1)
    reasons = result.pool.fallbacks_of(result.resp)
    for model, why in final.fallbacks_of(result.resp).items():
        reasons.setdefault(model, why)  # the judge may be the pool that predicts
    return [why.get(k) for why in reasons.values() for k in owners.tolist()]
