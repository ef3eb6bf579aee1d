"""What rows the experts serve, and how well."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.preprocessing import StandardScaler

from .._axes import axes_of
from ._drawing import heat_map, size_of_table
from ._reading import Reading, numeric_columns

KINDS = ("features", "classes", "score")


class ExpertSpecializationDisplay:
    """A heat map of the rows that experts serve, or of how well they serve them.

    Make one with `from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    values : ndarray of shape (n_experts, n_columns)
        The values, where rows of X count with their routing weight. NaN where an expert
        serves no rows. By ``kind``:

        - "features": the mean of each feature over the rows of an expert, in standard
          deviations from the mean of all rows;
        - "classes": the share of each class in the rows of an expert;
        - "score": at [j, k], the R² or accuracy of expert k on the rows of expert j.
    column_names : list of str
        Names of the columns.
    kind : {"features", "classes", "score"}
        Kind of the values.
    score_name : str or None, default=None
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Their figure.
    image_ : matplotlib AxesImage
        The heat map.
    colorbar_ : matplotlib Colorbar
        Its colour bar.

    See Also
    --------
    routing_report : A table with one line per expert.
    GateDisplay : Which expert serves where.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmoe import MoEClassifier
    >>> from skmoe.inspection import ExpertSpecializationDisplay
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> model = MoEClassifier(n_experts=2, cross_fit=None, random_state=0).fit(X, y)
    >>> display = ExpertSpecializationDisplay.from_estimator(model, X)
    >>> display.values.shape, display.column_names[0]
    ((2, 4), 'sepal length (cm)')
    """

    def __init__(self, values, *, column_names, kind, score_name=None):
        self.values = values
        self.column_names = column_names
        self.kind = kind
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        kind="features",
        max_features=20,
        output=0,
        ax=None,
        **style,
    ):
        """Compute the values from a fitted mixture, and plot them.

        Parameters
        ----------
        estimator : MoEClassifier, MoERegressor or Pipeline
            A fitted mixture, or a Pipeline that ends in one. Features are the numeric
            ones that the mixture reads.
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets; kind "features" does not read them.
        kind : {"features", "classes", "score"}, default="features"
            What to show; see ``values``. "score" asks every expert about all rows.
        max_features : int, default=20
            Maximum number of features: those in which experts differ most.
        output : int, default=0
            Which output to show, if y has several.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to `plot`.

        Returns
        -------
        ExpertSpecializationDisplay
            The display, drawn.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}; got {kind!r}.")
        if max_features < 1:
            raise ValueError(f"max_features must be at least 1; got {max_features!r}.")
        if kind != "features" and y is None:
            raise ValueError(f"kind={kind!r} needs y; got None.")
        reading = Reading(estimator, X, None if kind == "features" else y, output)
        if kind == "classes" and not reading.classifies:
            raise ValueError(
                "kind='classes' needs a MoEClassifier; got a MoERegressor."
            )
        score_name = None
        if kind == "features":
            values, columns = _means(reading, max_features)
        elif kind == "classes":
            classes = reading.classes
            values = _shares(reading)
            columns = [str(c) for c in classes]
        else:
            values = reading.scores
            columns = [f"{k}" for k in range(reading.n_experts)]
            score_name = "accuracy" if reading.classifies else "R²"
        display = cls(values, column_names=columns, kind=kind, score_name=score_name)
        return display.plot(ax=ax, **style)

    def plot(self, ax=None, **style):
        """Draw the heat map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to ``ax.imshow``.

        Returns
        -------
        self : ExpertSpecializationDisplay
            The display.
        """
        ax = axes_of(self, ax, figsize=size_of_table(self.values), layout="constrained")
        looks = getattr(self, f"_looks_of_{self.kind}")()
        axis = looks.pop("axis")
        rows = [f"{k}" for k in range(len(self.values))]
        looks = {**looks, **style}
        self.image_, self.colorbar_ = heat_map(
            ax, self.values, rows, self.column_names, **looks
        )
        ax.set(xlabel=axis, ylabel="rows of expert")
        return self

    def _looks_of_features(self) -> dict[str, Any]:
        finite = self.values[np.isfinite(self.values)]
        far = max(np.abs(finite).max(initial=0.0), 1e-9)
        return {
            "axis": "",
            "label": "mean, in standard deviations",
            "values_format": ".1f",
            "cmap": "RdBu_r",
            "vmin": -far,
            "vmax": far,
        }

    def _looks_of_classes(self) -> dict[str, Any]:
        return {
            "axis": "class",
            "label": "share of the expert's rows",
            "values_format": ".2f",
            "cmap": "Blues",
            "vmin": 0.0,
            "vmax": 1.0,
        }

    def _looks_of_score(self) -> dict[str, Any]:
        finite = self.values[np.isfinite(self.values)]
        return {
            "axis": "answered by expert",
            "label": self.score_name,
            "values_format": ".2f",
            "cmap": "viridis",
            # All scores below 0, that of the mean, have the same colour.
            "vmin": float(np.clip(finite.min(initial=1.0), 0.0, 0.99)),
            "vmax": 1.0,
        }


def _means(reading: Reading, max_features: int) -> tuple[np.ndarray, list[str]]:
    """Return each expert's standardised means of the features that differ most."""
    X, names = numeric_columns(reading.X, reading.names)
    scaler = StandardScaler(with_mean=not sparse.issparse(X)).fit(X)
    weights = reading.routing.T.tocsr()
    if sparse.issparse(X):
        total = weights @ X
        mass = weights.sum(axis=1)[:, None]
        total = total.toarray()
    else:
        present = ~np.isnan(X)
        total = weights @ np.where(present, X, 0.0)
        mass = weights @ present.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (total / mass - scaler.mean_) / scaler.scale_
    spread = np.nan_to_num(np.ptp(np.nan_to_num(values), axis=0))
    shown = np.sort(np.argsort(-spread, kind="stable")[:max_features])
    return values[:, shown], [str(name) for name in names[shown]]


def _shares(reading: Reading) -> np.ndarray:
    """Return the share of each class in an expert's rows."""
    is_class = reading.y[:, None] == reading.classes
    weights = reading.routing.T.tocsr()
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ is_class.astype(float) / weights.sum(axis=1)[:, None]
