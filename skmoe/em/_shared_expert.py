"""A shared expert: one learner for all rows; routed experts take what it leaves over.

Regression: experts learn the residuals of the shared expert's out-of-fold predictions,
and one of them learns nothing at all, so that rows may keep the shared prediction.
Classification: experts learn the labels, and are drawn to the shared expert's
probabilities instead of to their own learner's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sklearn.linear_model import Ridge

from ..experts import ExpertPool
from ._cross_fit import CrossFitPool
from ._folds import content_folds
from ._pooled import all_rows
from ._problem import Problem

FOLDS = 5
"""Folds of the shared expert's predictions for rows that it is fitted on."""

NO_CORRECTION = Ridge(alpha=1e300, fit_intercept=False)
"""The expert that leaves the shared prediction as it is: its coefficients are zero."""


@dataclass(frozen=True, eq=False)
class Shared:
    """A fitted shared expert.

    Attributes
    ----------
    judge : CrossFitPool
        It speaks of its own rows out of fold.
    pool : ExpertPool
        It speaks of new rows; a single expert.
    """

    judge: ExpertPool
    pool: ExpertPool

    @classmethod
    def of(cls, problem: Problem, pool: ExpertPool) -> Shared:
        """Fit a pool of one expert on all rows."""
        folds = content_folds(problem, FOLDS, problem.seed)
        judge = CrossFitPool(pool, folds) if folds.max() > 0 else pool
        mass = all_rows(problem, 1)
        judge.fit(problem.X, problem.y, mass)
        return cls(judge, judge.finished(problem.X, problem.y, mass))

    def left_over(self, problem: Problem, *, new: bool) -> Problem:
        """Return the problem of what is left over, of rows seen or new to it."""
        if self.pool.classes is not None:
            return replace(problem, shared=self)
        speaker = self.pool if new else self.judge
        said = speaker.evaluate(problem.X, problem.y, all_rows(problem, 1))
        return replace(problem, y=problem.y - said[:, 0, :], shared=self)
