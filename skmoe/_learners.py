"""What gates and experts need to know to fit a learner of the user's."""

from __future__ import annotations

from inspect import signature

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import has_fit_parameter

MIN_RESPONSIBILITY = 1e-3
"""A learner is not fitted on rows of which it owns less than this.

To many learners a row of weight zero is still a row (bin edges, leaf counts)."""


FAR = 5.0
"""How far the mean weight may be from 1, either way, for weights to count rows. Weights
that count are whole numbers mostly below this, or shares of a row that are no less."""


def weight_unit(weights: np.ndarray) -> float:
    """Return what stands for one row in weights: 1, or their mean if that is far off.

    Weights that sum to one, or to a population, count in other units than rows.
    """
    largest = float(np.max(weights, initial=0.0))
    mean = largest * float(np.mean(weights / largest)) if largest > 0 else 1.0
    return 1.0 if 1 / FAR <= mean <= FAR else mean


def weight_parameter(learner: BaseEstimator, method: str = "fit") -> str | None:
    """Return the name under which the learner's fit takes sample weights."""
    if method != "fit":
        found = "sample_weight" in signature(getattr(learner, method)).parameters
        return "sample_weight" if found else None
    if isinstance(learner, Pipeline):
        name, last = learner.steps[-1]
        inner = weight_parameter(last)
        return None if inner is None else f"{name}__{inner}"
    if isinstance(learner, TransformedTargetRegressor):
        return weight_parameter(learner.regressor)
    if isinstance(learner, (MultiOutputClassifier, MultiOutputRegressor)):
        learner = learner.estimator  # raises where this takes none
    return "sample_weight" if has_fit_parameter(learner, "sample_weight") else None


def reads_any_units(learner: BaseEstimator) -> bool:
    """Tell whether a learner's answers are to follow y in any unit, from any origin.

    Those are scikit-learn's trees and ensembles of them, unless a parameter is in units
    of y. What they compute does not: variances below 2e-16 are none to them, and of
    targets a million deviations from zero the variance is rounding.
    """
    if isinstance(learner, Pipeline):
        return reads_any_units(learner.steps[-1][1])
    params = learner.get_params(deep=False)
    if isinstance(params.get("estimator"), BaseEstimator):
        ours = type(learner).__module__.startswith("sklearn.ensemble.")
        return ours and reads_any_units(params["estimator"])
    plain = {"min_impurity_decrease": 0.0, "ccp_alpha": 0.0}
    fixed = params.get("criterion") == "poisson" or params.get("init") is not None
    return not fixed and all(params.get(name) == value for name, value in plain.items())


def standardising(learner: BaseEstimator) -> TransformedTargetRegressor:
    """Return the learner that reads y in units of its deviation from its mean."""
    return TransformedTargetRegressor(
        learner, transformer=StandardScaler(), check_inverse=False
    )


def standardises(learner: BaseEstimator) -> bool:
    """Tell whether a learner reads y in units of its deviation, as those above do."""
    return isinstance(learner, TransformedTargetRegressor) and isinstance(
        learner.transformer, StandardScaler
    )


def seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Give a seed to every part of the estimator that has none of its own."""
    unset = {
        name: seed
        for name, value in estimator.get_params().items()
        if (name == "random_state" or name.endswith("__random_state")) and value is None
    }
    return estimator.set_params(**unset)


def resample(weights: np.ndarray, seed: int) -> np.ndarray | None:
    """Return rows drawn in proportion to their weights, None for each row once.

    Systematic resampling: as many rows in all as the weights sum to, rounded, and row
    i is drawn floor or ceil of its share of them; weights are read in units of
    `weight_unit`.
    """
    weights = weights / weight_unit(weights)
    if np.allclose(weights, 1.0):
        return None
    draws = max(1, round(float(weights.sum())))
    ticks = np.cumsum(weights) * (draws / weights.sum())
    offset = np.random.RandomState(seed).uniform(1e-6, 1 - 1e-6)
    counts = np.diff(np.floor(ticks + offset), prepend=0.0).astype(np.intp)
    return np.repeat(np.arange(len(weights)), counts)
