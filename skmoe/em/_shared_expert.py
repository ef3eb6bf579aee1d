"""A shared expert: one learner for all rows, beside the routed experts.

In regression experts learn the residuals of its out-of-fold predictions, and one of
them learns nothing, so that rows may keep the shared prediction. In classification
experts learn the labels, and are shrunk to the shared expert's probabilities instead of
their own learner's.
"""

from __future__ import annotations

from dataclasses import replace

from sklearn.linear_model import Ridge

from ..experts import ExpertPool
from ._cross_fit import CrossFitPool
from ._folds import content_folds
from ._pooled import all_rows
from ._problem import Problem
from ._trained import Trained

FOLDS = 5
"""Number of folds for the shared expert's predictions of its training rows."""

NO_CORRECTION = Ridge(alpha=1e300, fit_intercept=False)
"""The expert that leaves the shared prediction as it is: its coefficients are zero."""


class Shared(Trained):
    """A fitted shared expert, the only one of its pools."""

    @classmethod
    def fit(cls, problem: Problem, pool: ExpertPool) -> Shared:
        """Fit a pool of one expert on all rows."""
        folds = content_folds(problem, FOLDS, problem.seed)
        judge = CrossFitPool(pool, folds) if folds.max() > 0 else pool
        mass = all_rows(problem, 1)
        return cls.of(problem, judge.fit(problem.X, problem.y, mass), mass)

    def left_over(self, problem: Problem, *, new: bool) -> Problem:
        """Return the problem left to the experts, for training rows or new ones."""
        if self.predictor.classes is not None:
            return replace(problem, shared=self)
        speaker = self.predictor if new else self.judge
        answers = speaker.evaluate(problem.X, problem.y, all_rows(problem, 1))
        return replace(problem, y=problem.y - answers[:, 0, :], shared=self)
