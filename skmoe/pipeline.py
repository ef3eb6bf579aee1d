"""Access to a mixture at the end of a Pipeline."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from .estimators import MoEClassifier, MoERegressor

__all__ = ["final"]


def final(model: Any, X: Any) -> tuple[Any, Any]:
    """Return the mixture at the end of a fitted model, and the rows as it reads them.

    A Pipeline passes on ``predict`` and ``score``, but not the methods of a mixture for
    intervals, routing or responsibilities. Call these on the mixture itself.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor, Pipeline or search
        A fitted mixture, a Pipeline that ends in one, or a fitted search over either,
        such as `GridSearchCV`.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows as the model reads them.

    Returns
    -------
    mixture : MoEClassifier or MoERegressor
        The mixture, which is the last step.
    Z : {array-like, sparse matrix, data frame} of shape (n_samples, n_columns)
        The rows after all other steps; X itself if there are none.

    Raises
    ------
    TypeError
        The model does not end in a mixture.
    NotFittedError
        The mixture is not fitted.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skmoe import MoERegressor
    >>> from skmoe.pipeline import final
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> model = make_pipeline(StandardScaler(), MoERegressor(n_experts=2))
    >>> mixture, Z = final(model.fit(X, np.abs(X[:, 0])), X)
    >>> mixture.predict_interval(Z).shape
    (200, 2)
    """
    before, mixture = split(model)
    return mixture, X if before is None else before.transform(X)


def split(model: Any) -> tuple[Pipeline | None, Any]:
    """Return (the fitted steps before the mixture or None, the fitted mixture)."""
    last = getattr(model, "best_estimator_", model)
    steps: list = []
    while isinstance(last, Pipeline):
        steps += last.steps[:-1]
        last = last.steps[-1][1]
    if not isinstance(last, (MoEClassifier, MoERegressor)):
        raise TypeError(
            "model must be a fitted MoEClassifier or MoERegressor, or a Pipeline "
            f"or fitted search that ends in one; got {model!r}."
        )
    check_is_fitted(last)
    return Pipeline(steps) if steps else None, last
