"""Every name of scikit-learn that is private or differs between versions.

When scikit-learn moves one of them, this file is the only one to mend.
"""

from __future__ import annotations

from contextlib import nullcontext
from inspect import signature
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.ensemble._hist_gradient_boosting.binning import _BinMapper
from sklearn.utils import _safe_indexing
from sklearn.utils._optional_dependencies import (
    check_matplotlib_support,
    check_pandas_support,
)
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    InvalidParameterError,
    StrOptions,
)
from sklearn.utils._repr_html.estimator import _VisualBlock
from sklearn.utils._set_output import ADAPTERS_MANAGER
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    _check_y,
    _num_samples,
)

__all__ = [
    "CALLBACKS",
    "CONTAINERS",
    "WEIGHTED_BINS",
    "CallbackSupportMixin",
    "HasMethods",
    "Interval",
    "InvalidParameterError",
    "StrOptions",
    "_check_feature_names",
    "_check_n_features",
    "_check_sample_weight",
    "_check_y",
    "_fit_context",
    "_num_samples",
    "_safe_indexing",
    "boosted_trees",
    "check_matplotlib_support",
    "check_pandas_support",
    "cut_at",
    "frame",
    "html_block",
    "no_progress",
    "with_callbacks",
]

try:  # scikit-learn >= 1.9
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    CALLBACKS = True
except ImportError:
    CALLBACKS = False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """A stand-in for versions of scikit-learn without callbacks."""

        def _init_callback_context(self, **kwargs: Any) -> _NoContext:
            return _NoContext()

    def with_callbacks(method):  # type: ignore[no-redef]
        """Return the method as it is."""
        return method


class _NoContext:
    """A callback context that calls nothing and never asks to stop."""

    def subcontext(self, **kwargs: Any) -> _NoContext:
        return self

    def call_on_fit_task_begin(self, **kwargs: Any) -> _NoContext:
        return self

    def call_on_fit_task_end(self, **kwargs: Any) -> bool:
        return False

    def propagate_callback_context(self, sub_estimator: Any):
        return nullcontext()


no_progress = _NoContext()


def boosted_trees(model: Any) -> list[Any]:
    """Return the node tables of a fitted histogram gradient boosting model.

    They are structured arrays, with fields "is_leaf", "depth" and "count" among others.
    """
    return [tree.nodes for iteration in model._predictors for tree in iteration]


WEIGHTED_BINS = "sample_weight" in signature(_BinMapper.fit).parameters
"""Whether histogram gradient boosting looks for weighted quantiles of the columns."""


def cut_at(model: Any, cuts: dict[int, np.ndarray]) -> None:
    """Let boosting that was fitted on numbers of bins read the columns that were cut.

    Parameters
    ----------
    model : HistGradientBoostingRegressor or HistGradientBoostingClassifier
        Fitted; its thresholds become cuts.
    cuts : dict of int to (n_cuts,) array
        By column. Bin i of a column is up to and with cut i.
    """
    place = np.arange(model.n_features_in_)
    if model.is_categorical_ is not None:  # trees see categories first
        place[np.argsort(~model.is_categorical_, kind="stable")] = place.copy()
    thresholds = model._bin_mapper.bin_thresholds_
    for column, cut in cuts.items():
        between = thresholds[place[column]]
        thresholds[place[column]] = cut[np.floor(between).astype(np.intp)]
    table = np.zeros((len(thresholds), max(map(len, thresholds))))
    for row, threshold in zip(table, thresholds, strict=True):
        row[: len(threshold)] = threshold
    for nodes in boosted_trees(model):
        is_cut = (nodes["is_leaf"] == 0) & (nodes["is_categorical"] == 0)
        is_cut &= np.isfinite(nodes["num_threshold"])  # others part NaN from numbers
        column, bin_number = nodes["feature_idx"], nodes["bin_threshold"]
        nodes["num_threshold"][is_cut] = table[column[is_cut], bin_number[is_cut]]


CONTAINERS = ("default", *sorted(ADAPTERS_MANAGER.adapters))
"""Containers that set_output takes; "default" is no data frame."""


def frame(container: str, table: Any, X: Any, columns: list[str]) -> Any:
    """Return a table as a data frame of a library, with the index of X."""
    adapter = ADAPTERS_MANAGER.adapters[container]
    return adapter.create_container(table, X, columns=columns)


def html_block(estimator: Any, parts: dict[str, Any]) -> _VisualBlock:
    """Return the HTML block of an estimator that holds others by name."""
    if not parts:
        name = type(estimator).__name__
        return _VisualBlock(
            "single", estimator, names=name, name_details=f"{estimator}"
        )
    return _VisualBlock(
        "parallel",
        list(parts.values()),
        names=[f"{name}: {type(part).__name__}" for name, part in parts.items()],
        name_details=[f"{part}" for part in parts.values()],
    )
