"""Encoding of category columns for experts and gate."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from ..experts import GLMPool, LinearPool, LogisticPool

MAX_CATEGORIES = 32
"""Most levels of a column that the gate tells apart. Rarer levels share an indicator:
they have too few rows to repay indicators of their own."""

NUMBERS_ONLY = (LinearPool, LogisticPool, GLMPool)
"""Pools whose learners read numbers only."""


def reads_numbers_only(learner: BaseEstimator) -> bool:
    """Tell whether a learner is a plain linear one, which cannot read categories."""
    return any(pool.supports(learner, 1) for pool in NUMBERS_ONLY)


def trained_together(learners: Sequence[BaseEstimator]) -> bool:
    """Tell whether all learners are plain linear ones of a kind."""
    return any(
        all(pool.supports(each, 1) for each in learners) for pool in NUMBERS_ONLY
    )


def encoder(names: list) -> ColumnTransformer:
    """Return a transformer of category columns into indicators; numbers stay."""
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
    """Return a linear learner that reads data frames with these category columns."""
    return make_pipeline(encoder(names) if names else "passthrough", learner)
