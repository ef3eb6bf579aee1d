"""What gates and experts need to know to fit a learner of the user's."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np
from joblib import hash as content_hash
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.frozen import FrozenEstimator
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
        takes_weight = "sample_weight" in signature(getattr(learner, method)).parameters
        return "sample_weight" if takes_weight else None
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
    if unset:
        estimator.set_params(**unset)
    return estimator


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


# ------------------------------------------------------------------ frozen models
def is_frozen(learner: Any) -> bool:
    """Tell whether fit leaves a learner as it is: a model that exists already.

    That is a FrozenEstimator, alone or at the end of a Pipeline, or what says so.
    """
    if isinstance(learner, Pipeline):
        return is_frozen(learner.steps[-1][1])
    return isinstance(learner, FrozenEstimator) or getattr(learner, "stays", False)


def thawed(part: Any) -> Any:
    """Return what a FrozenEstimator holds; all else as it is."""
    while isinstance(part, FrozenEstimator):
        part = part.estimator
    return part


def bare(part: Any) -> Any:
    """Return what a part is without FrozenEstimators, also in a Pipeline."""
    part = thawed(part)
    if not isinstance(part, Pipeline):
        return part
    steps = [(name, bare(step)) for name, step in part.steps]
    same = all(new is old for (_, new), (_, old) in zip(steps, part.steps, strict=True))
    return part if same else Pipeline(steps)


def recipe(learner: Any) -> Any:
    """Return a key that learners share which become the same in fit.

    A model that exists already is told by what it is, not by what it holds, which may
    be large.
    """
    if isinstance(learner, FrozenEstimator):
        return FrozenEstimator, id(thawed(learner))
    if isinstance(learner, (list, tuple)):
        return tuple(map(recipe, learner))
    if not hasattr(learner, "get_params") or isinstance(learner, type):
        return _content(learner)
    params = learner.get_params(deep=False)
    return type(learner), tuple((name, recipe(params[name])) for name in sorted(params))


def _content(value: Any) -> Any:
    """Return a key of what a value holds; of one without a file form, what it is."""
    try:
        return content_hash(value)
    except Exception:  # such as a lambda
        return id(value)


# ------------------------------------------------------------------------ answers
def surely_lacks(learner: Any, method: str) -> bool:
    """Tell whether a learner has no such method, nor will have it once it is fitted.

    Of learners that hold others, as stacks and searches do, only the fitted one knows.
    """
    if isinstance(learner, Pipeline):
        return surely_lacks(learner.steps[-1][1], method)
    if hasattr(learner, method):
        return False
    inner = learner.get_params().values()
    holds_others = any(hasattr(each, "fit") for each in inner)
    return not (holds_others and hasattr(type(learner), method))


def said_without(method: str) -> str:
    """Return the words for a learner that lacks a method."""
    if method != "predict_proba":
        return f"has no {method}."
    wrapper = "sklearn.calibration.CalibratedClassifierCV"
    return f"has no predict_proba; wrap it in {wrapper}."


def read_answer(answer: Any, n_rows: int, n_columns: int, who: str) -> np.ndarray:
    """Return what a learner answers as numbers, (n_rows, n_columns).

    Parameters
    ----------
    answer : array-like or sparse matrix
        Numbers of any dtype.
    n_rows, n_columns : int
        What it is asked for; one column may come as a vector.
    who : str
        Who answers, for messages.

    Returns
    -------
    ndarray of float32 or float64
    """
    numbers = _numbers(answer, who)
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"{who} predicted NaN or infinity. Scale the features or regularise the "
            "learner more."
        )
    if n_columns == 1 and numbers.shape == (n_rows,):
        return numbers[:, None]
    if numbers.shape != (n_rows, n_columns):
        expected = f"({n_rows}, {n_columns})"
        also = f" or ({n_rows},)" if n_columns == 1 else ""
        raise ValueError(
            f"{who} answered shape {numbers.shape} for {n_rows} rows; it must be "
            f"{expected}{also}."
        )
    return numbers


def _numbers(answer: Any, who: str) -> np.ndarray:
    """Return an answer as an array of float32 or float64."""
    try:
        numbers = np.asarray(answer.toarray() if sparse.issparse(answer) else answer)
        if numbers.dtype.kind not in "biufO":
            raise TypeError(f"dtype {numbers.dtype}")
        is_float = numbers.dtype in (np.float32, np.float64)
        return numbers if is_float else numbers.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{who} answered a {type(answer).__name__} that cannot be read as numbers: "
            f"{error}."
        ) from error
