"""What gates and experts need to know to fit a learner of the user."""

from __future__ import annotations

import copy
from inspect import Parameter, signature
from typing import Any

import numpy as np
from joblib import hash as content_hash
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.compose import TransformedTargetRegressor
from sklearn.feature_selection import SelectKBest, SelectPercentile
from sklearn.frozen import FrozenEstimator
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

MIN_RESPONSIBILITY = 1e-3
"""Least responsibility for a row with which a learner is fitted on it.

Many learners use even rows of weight zero, in bin edges or leaf counts."""

PART_OF_BEST = 0.1
"""The same for learners that are fitted one by one, in units of the row's largest
responsibility: each row adds to what their fits cost."""


SCORES_BY_Y = SelectKBest, SelectPercentile
"""Transformers that learn from y and whose tags leave that open."""


FAR = 5.0
"""Weights count rows if their mean is at most this factor from 1, either way. Such
weights are mostly small whole numbers, or fractions of a row that are not tiny."""


def weight_unit(weights: np.ndarray) -> float:
    """Return the weight that stands for one row: 1, or the mean if that is far from 1.

    Weights that sum to one, or to a population, are not in units of rows.
    """
    largest = float(np.max(weights, initial=0.0))
    mean = largest * float(np.mean(weights / largest)) if largest > 0 else 1.0
    return 1.0 if 1 / FAR <= mean <= FAR else mean


def weight_parameter(learner: BaseEstimator, method: str = "fit") -> str | None:
    """Return the name of sample weights in a learner's fit; None without any."""
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


def learns_from_y(part: Any) -> bool:
    """Tell whether a transformer, or a part of it, learns from y.

    It says so in its tags, or in that its ``fit`` has no default for y.
    """
    if isinstance(part, SCORES_BY_Y):
        return True
    if isinstance(part, (list, tuple)):
        return any(map(learns_from_y, part))
    if isinstance(part, (type, FrozenEstimator)) or not hasattr(part, "get_params"):
        return False
    if hasattr(part, "__sklearn_tags__") and get_tags(part).target_tags.required:
        return True
    y = signature(part.fit).parameters.get("y")
    if y is not None and y.default is Parameter.empty:
        return True
    return learns_from_y(tuple(part.get_params(deep=False).values()))


def behind(steps: Pipeline, learner: Any) -> Pipeline:
    """Return the Pipeline of steps in which a fitted learner takes the last place."""
    name, last = steps.steps[-1]
    if hasattr(last, "feature_names_in_"):
        learner = copy.copy(learner)
        learner.feature_names_in_ = last.feature_names_in_
    whole = copy.copy(steps)
    whole.steps = [*steps.steps[:-1], (name, learner)]
    return whole


def reads_any_units(learner: BaseEstimator) -> bool:
    """Tell whether a learner should predict the same for y in any unit and origin.

    These are scikit-learn's trees and ensembles of trees, unless a parameter is in
    units of y. Their arithmetic has limits: they take variances below 2e-16 for zero,
    and if y is a million deviations from zero, its variance is lost to rounding.
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
    """Return a learner that reads y standardised."""
    return TransformedTargetRegressor(
        learner, transformer=StandardScaler(), check_inverse=False
    )


def standardises(learner: BaseEstimator) -> bool:
    """Tell whether a learner reads y standardised."""
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
    """Return rows drawn in proportion to their weights; None for each row once.

    This is systematic resampling, with weights in units of `weight_unit`. The number of
    draws is the rounded sum of the weights. The number of times that a row is drawn is
    the floor or the ceiling of its share of the draws.
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
    """Tell whether a learner is a fitted model, which fit leaves as it is.

    It is a FrozenEstimator, alone or at the end of a Pipeline, or has a true ``stays``.
    """
    if isinstance(learner, Pipeline):
        return is_frozen(learner.steps[-1][1])
    return isinstance(learner, FrozenEstimator) or getattr(learner, "stays", False)


def bears_threads(learner: Any) -> bool:
    """Tell whether several clones can predict at once in threads.

    Those of scikit-learn can, and work without the lock of Python most of the time.
    """
    parts = (learner, *learner.get_params().values())
    learners = [part for part in parts if hasattr(part, "fit")]
    own = all(type(part).__module__.startswith("sklearn.") for part in learners)
    return own and not any(map(is_frozen, learners))


def thawed(part: Any) -> Any:
    """Return the estimator in a FrozenEstimator; all else as it is."""
    while isinstance(part, FrozenEstimator):
        part = part.estimator
    return part


def bare(part: Any) -> Any:
    """Return a part without FrozenEstimators, also inside a Pipeline."""
    part = thawed(part)
    if not isinstance(part, Pipeline):
        return part
    steps = [(name, bare(step)) for name, step in part.steps]
    same = all(new is old for (_, new), (_, old) in zip(steps, part.steps, strict=True))
    return part if same else Pipeline(steps)


def recipe(learner: Any) -> Any:
    """Return a key that is equal for learners that fit makes the same.

    The key of a frozen model is its identity, as its content may be large.
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
    """Return a key of the content of a value; its identity if it cannot be pickled."""
    try:
        return content_hash(value)
    except Exception:  # such as a lambda
        return id(value)


# ------------------------------------------------------------------------ answers
def surely_lacks(learner: Any, method: str) -> bool:
    """Tell whether a learner lacks a method, and will lack it once it is fitted.

    Learners that hold others, such as stacks and searches, only know once they are
    fitted.
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


def read_answer(answer: Any, n_rows: int, n_columns: int, who: object) -> np.ndarray:
    """Return the predictions of a learner as numbers, (n_rows, n_columns).

    Parameters
    ----------
    answer : array-like or sparse matrix
        Numbers of any dtype.
    n_rows, n_columns : int
        The shape that is asked for; one column may come as a vector.
    who : object
        Name of the learner, for messages.

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


def _numbers(answer: Any, who: object) -> np.ndarray:
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
