"""Category columns on their way to experts and gate."""

from __future__ import annotations

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ..experts import GLMPool, LinearPool, LogisticPool

MAX_CATEGORIES = 32
"""Levels of a column that the gate tells apart. Rarer ones share an indicator: one of
their own would cost more than so few rows can say."""

NUMBERS_ONLY = (LinearPool, LogisticPool, GLMPool)
"""Pools whose learners read numbers only."""


def reads_numbers_only(learner: BaseEstimator) -> bool:
    """Tell whether a learner is a plain linear one, which cannot read categories."""
    return any(pool.supports(learner, 1) for pool in NUMBERS_ONLY)


def encoder(names: list) -> ColumnTransformer:
    """Return what turns columns of categories into indicators, beside the numbers."""
    indicators = OneHotEncoder(
        handle_unknown="infrequent_if_exist",
        max_categories=MAX_CATEGORIES,
        sparse_output=False,
    )
    return ColumnTransformer(
        [("categories", indicators, names)],
        remainder=SimpleImputer(add_indicator=True),
    )


def reader(learner: BaseEstimator, names: list) -> Pipeline:
    """Return a linear learner as one that reads data frames with these categories."""
    return make_pipeline(encoder(names) if names else "passthrough", learner)
