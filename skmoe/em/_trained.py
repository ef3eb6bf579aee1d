"""What training ends with: pools that judge the training rows, and that predict."""

from __future__ import annotations

import numpy as np

from ..experts import ExpertPool, shares
from ..routing import Routing
from ._cross_fit import CrossFitPool
from ._problem import EMResult, Problem, State, learning_mass


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


def rescaled(problem: Problem, pool: ExpertPool, resp: Routing) -> ExpertPool:
    """Return the pool with the noise scales of what it says."""
    values = pool.evaluate(problem.X, problem.y, resp)
    return pool.rescale(problem.y, values, resp.scaled(problem.sample_weight))


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
