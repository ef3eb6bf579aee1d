"""What gates and experts need to know to fit a learner of the user's."""

from __future__ import annotations

from inspect import signature

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

MIN_RESPONSIBILITY = 1e-3
"""A learner is not fitted on rows of which it owns less than this.

To many learners a row of weight zero is still a row (bin edges, leaf counts)."""


def weight_parameter(learner: BaseEstimator, method: str = "fit") -> str | None:
    """Return the name under which the learner's fit takes sample weights."""
    if method != "fit":
        found = "sample_weight" in signature(getattr(learner, method)).parameters
        return "sample_weight" if found else None
    if isinstance(learner, Pipeline):
        name, last = learner.steps[-1]
        inner = weight_parameter(last)
        return None if inner is None else f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(learner, "sample_weight") else None


def seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Give a seed to every part of the estimator that has none of its own."""
    unset = {
        name: seed
        for name, value in estimator.get_params().items()
        if (name == "random_state" or name.endswith("__random_state")) and value is None
    }
    return estimator.set_params(**unset)
