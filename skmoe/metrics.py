"""Scorers of predicted distributions, for ``scoring=`` in scikit-learn's tools."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backends import namespace, to_host

__all__ = ["crps_scorer", "log_likelihood_scorer"]


def crps_scorer(estimator, X, y, sample_weight=None) -> float:
    """Return the negative mean CRPS of a fitted `MoERegressor`; higher is better.

    Parameters
    ----------
    estimator : MoERegressor, or a Pipeline or search that ends in one
        The fitted model, which has a method ``crps(X, y)``.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; weight 2 is the row twice.

    Returns
    -------
    float
        The score in units of y; the mean over outputs, if there are several.

    Raises
    ------
    TypeError
        If the estimator has no such method.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skmoe import MoERegressor
    >>> from skmoe.metrics import crps_scorer
    >>> X = np.linspace(-3, 3, 120).reshape(-1, 1)
    >>> y = np.abs(X[:, 0]) + 0.1 * np.sin(20 * X[:, 0])
    >>> model = MoERegressor(cross_fit=None, random_state=0)
    >>> search = GridSearchCV(model, {"n_experts": [1, 2]}, scoring=crps_scorer, cv=2)
    >>> search.fit(X[::-1], y).best_params_
    {'n_experts': 2}
    """
    return -_mean(_asked(estimator, "crps", X, y), sample_weight)


def log_likelihood_scorer(estimator, X, y, sample_weight=None) -> float:
    """Return the mean log p(y | x) of a fitted mixture; higher is better.

    Parameters
    ----------
    estimator : MoERegressor or MoEClassifier, or a Pipeline or search that ends in one
        The fitted model, which has a method ``score_samples(X, y)``.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row; weight 2 is the row twice.

    Returns
    -------
    float
        The score in nats per row.

    Raises
    ------
    TypeError
        If the estimator has no such method.
    """
    return _mean(_asked(estimator, "score_samples", X, y), sample_weight)


def _asked(estimator, method: str, X, y) -> np.ndarray:
    """Return the scores of the rows, through a Pipeline and a search."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if hasattr(estimator, "steps"):
        X = estimator[:-1].transform(X)
        estimator = estimator[-1]
    if not hasattr(estimator, method):
        raise TypeError(
            f"estimator must have a method {method}(X, y); "
            f"{type(estimator).__name__} has none."
        )
    return _host(getattr(estimator, method)(X, y))


def _host(values: Any) -> np.ndarray:
    return values if namespace(values) is np else to_host(values)


def _mean(scores: np.ndarray, sample_weight) -> float:
    mean = np.average(scores, axis=0, weights=sample_weight)
    return float(np.mean(mean))
