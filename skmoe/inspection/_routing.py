"""A table of the experts of a fitted mixture."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._sklearn_compat import check_pandas_support
from ..experts import AveragedClassifier, AveragedRegressor
from ._reading import Reading

FEW_CLASSES = 3
"""Maximum number of classes that the report names per expert."""


def routing_report(model, X, y=None, *, output=0):
    """Return a table with one line per expert: its kind, its rows, its score.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor or Pipeline
        A fitted mixture, or a Pipeline that ends in one.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Targets. If given, every expert is asked about all rows.
    output : int, default=0
        Which output to report on, if y has several.

    Returns
    -------
    pandas.DataFrame
        Indexed by the position in ``experts_``. Columns:

        - ``learner``: class of the expert;
        - ``rows``: number of rows that it serves;
        - ``load``: its share of the rows by routing weight; the shares sum to one;
        - ``gate_mass``: its mean gate probability over all rows, before ``top_k``;
        - ``gate_where_serving``: the same over the rows that it serves;
        - ``scale``: its noise scale, ``scale_`` (regressors).

        With ``y`` also, for the rows that it serves, weighted by routing:

        - ``score``: its R² or accuracy;
        - ``best_other``, ``best_other_score``: the best other expert and its score;
        - ``target_mean``: the mean target (regressors);
        - ``classes``: the most frequent classes and their shares (classifiers).

        NaN where an expert serves too few rows.

    See Also
    --------
    ExpertUtilizationDisplay : Loads as a picture.
    ExpertSpecializationDisplay : Scores, classes or features as a heat map.
    explain_row : Why a row goes where it goes.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.inspection import routing_report
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> y = np.abs(X[:, 0])
    >>> model = MoERegressor(n_experts=2, top_k=1, random_state=0).fit(X, y)
    >>> report = routing_report(model, X, y)
    >>> report[["learner", "rows", "load"]]
           learner  rows  load
    expert
    0        Ridge   100   0.5
    1        Ridge   100   0.5
    >>> bool((report["score"] > report["best_other_score"]).all())
    True
    """
    check_pandas_support("routing_report")
    import pandas as pd

    reading = Reading(model, X, y, output)
    proba = reading.gate_proba
    experts = range(reading.n_experts)
    served = [reading.rows_of(k) for k in experts]
    columns: dict[str, Any] = {
        "learner": [learner_name(expert) for expert in reading.mixture.experts_],
        "rows": [len(rows) for rows, _ in served],
        "load": reading.routing.mean(axis=0),
        "gate_mass": proba.mean(axis=0),
        "gate_where_serving": [
            proba[rows, k].mean() if len(rows) else np.nan
            for k, (rows, _) in enumerate(served)
        ],
    }
    scale = getattr(reading.mixture, "scale_", None)
    if scale is not None:
        columns["scale"] = scale if np.ndim(scale) == 1 else scale[:, reading.output]
    if y is not None:
        columns |= _scores(reading)
        about, tell = ("target_mean", _mean)
        if reading.classifies:
            about, tell = ("classes", _classes)
        columns[about] = [tell(reading.y[rows], weight) for rows, weight in served]
    return pd.DataFrame(columns, index=pd.RangeIndex(len(served), name="expert"))


def learner_name(expert: Any) -> str:
    """Return the name of the class of a learner, or of a Pipeline's last step."""
    if isinstance(expert, (AveragedRegressor, AveragedClassifier)):
        return learner_name(expert.estimators[-1])
    if isinstance(expert, Pipeline):
        return learner_name(expert.steps[-1][1])
    return type(expert).__name__


def _scores(reading: Reading) -> dict[str, np.ndarray]:
    """Return the scores on each expert's rows: its own, and the best other one."""
    scores = reading.scores
    others = scores.copy()
    np.fill_diagonal(others, -np.inf)
    others[np.isnan(others)] = -np.inf
    best = others.argmax(axis=1)
    score = np.take_along_axis(others, best[:, None], axis=1)[:, 0]
    finite = np.isfinite(score)
    return {
        "score": np.diag(scores),
        "best_other": np.where(finite, best, -1),
        "best_other_score": np.where(finite, score, np.nan),
    }


def _mean(y: np.ndarray, weight: np.ndarray) -> float:
    return float(np.average(y, weights=weight)) if len(y) else np.nan


def _classes(y: np.ndarray, weight: np.ndarray) -> str:
    """Return the most frequent classes with their shares."""
    if not len(y):
        return ""
    classes, position = np.unique(y, return_inverse=True)
    share = np.bincount(position, weights=weight) / weight.sum()
    order = np.argsort(-share, kind="stable")[:FEW_CLASSES]
    shown = [f"{classes[c]} {share[c]:.0%}" for c in order]
    return ", ".join(shown) + (", ..." if len(classes) > FEW_CLASSES else "")
