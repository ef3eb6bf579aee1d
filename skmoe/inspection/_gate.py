"""Which expert serves where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .._axes import axes_of
from ..pipeline import split
from ._drawing import colours_of
from ._reading import (
    Reading,
    column_of,
    feature_position,
    names_of,
    rows_on_host,
    span,
    typical,
    with_column,
)


class GateDisplay:
    """Regions of the gate in the plane of two features, or probabilities along one.

    With two features, each point has the colour of the expert that the gate prefers. It
    is paler where that expert is less probable; white lines separate experts. Along one
    ``feature`` there is one line per expert: its gate probability, averaged over rows
    in which the feature is set to the value. This is partial dependence [1]_.

    Make one with `from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    gate_proba : ndarray
        Gate probabilities. The shape is (n_values, n_experts) along one feature, and
        (n_values_1, n_values_0, n_experts) in a plane, with the second feature first.
    grid : list of ndarray
        Values of the feature or of both features.
    feature_names : list of str
        Names of the feature or of both features.
    X : ndarray of shape (n_samples, 2) or None, default=None
        Rows to draw on top of the regions.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Their figure.
    lines_ : list of matplotlib Line2D
        The line of each expert, along one feature.
    surface_ : matplotlib AxesImage
        The regions, with two features.

    References
    ----------
    .. [1] J. H. Friedman, "Greedy function approximation: a gradient boosting machine",
       Annals of Statistics 29 (2001) 1189-1232. doi:10.1214/aos/1013203451

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmoe import MoEClassifier
    >>> from skmoe.inspection import GateDisplay
    >>> X, y = load_iris(return_X_y=True, as_frame=True)
    >>> model = MoEClassifier(n_experts=2, cross_fit=None, random_state=0).fit(X, y)
    >>> display = GateDisplay.from_estimator(model, X, feature="petal width (cm)")
    >>> display.gate_proba.shape
    (100, 2)
    """

    def __init__(self, gate_proba, grid, *, feature_names, X=None):
        self.gate_proba = gate_proba
        self.grid = grid
        self.feature_names = feature_names
        self.X = X

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        *,
        feature=None,
        grid_resolution=100,
        output=0,
        ax=None,
        **style,
    ):
        """Ask the gate of a fitted mixture on a grid, and plot its probabilities.

        Parameters
        ----------
        estimator : MoEClassifier, MoERegressor or Pipeline
            A fitted mixture, or a Pipeline that ends in one.
        X : {array-like, data frame} of shape (n_samples, n_features)
            Rows; the grid spans their range. Partial dependence asks the gate
            ``grid_resolution`` times about all of them, so some hundreds suffice.
        feature : int or str, default=None
            Name or position of a numeric feature. None shows the only feature, or the
            plane of two; with more features, one must be named.
        grid_resolution : int, default=100
            Number of values per feature.
        output : int, default=0
            Which output's gate to show, with ``gate_per_output=True``.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to `plot`.

        Returns
        -------
        GateDisplay
            The display, drawn.
        """
        split(estimator)
        if grid_resolution < 2:
            raise ValueError(
                f"grid_resolution must be at least 2; got {grid_resolution!r}."
            )
        X = rows_on_host(X)
        names = names_of(estimator, X)
        if feature is None and len(names) > 2:
            raise ValueError(
                f"feature must name one of the {len(names)} features of X; got None."
            )

        def ask(rows: Any) -> np.ndarray:
            return Reading(estimator, rows, output=output).gate_proba

        if feature is None and len(names) == 2:
            answers = _in_plane(ask, X, grid_resolution)
        else:
            j = 0 if feature is None else feature_position(feature, names)
            answers = _along(ask, X, j, grid_resolution)
            names = names[[j]]
        display = cls(**answers, feature_names=[str(name) for name in names])
        return display.plot(ax=ax, **style)

    def plot(self, ax=None, *, rows=True, **style):
        """Draw the regions or the lines.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        rows : bool, default=True
            Whether to draw the rows on top of the regions.
        **style : dict
            Passed on to ``ax.plot`` for lines, to ``ax.scatter`` for rows.

        Returns
        -------
        self : GateDisplay
            The display.
        """
        ax = axes_of(self, ax)
        colours = colours_of(self.gate_proba.shape[-1])
        if len(self.grid) == 1:
            return self._plot_lines(colours, style)
        self._plot_regions(colours)
        if rows and self.X is not None:
            dots = {"s": 6, "color": "black", "alpha": 0.4, "linewidths": 0}
            ax.scatter(*self.X.T, **{**dots, **style})
        return self

    def _plot_lines(self, colours: np.ndarray, style: dict) -> GateDisplay:
        (values,) = self.grid
        self.lines_ = []
        for k, colour in enumerate(colours):
            options = {"color": colour, "label": f"{k}", **style}
            self.lines_ += self.ax_.plot(values, self.gate_proba[:, k], **options)
        self.ax_.set(
            xlabel=self.feature_names[0], ylabel="gate probability", ylim=(-0.02, 1.02)
        )
        self._add_legend(self.lines_)
        return self

    def _plot_regions(self, colours: np.ndarray) -> None:
        from matplotlib.patches import Patch

        x, y = self.grid
        best = self.gate_proba.argmax(axis=-1)
        proba = self.gate_proba.max(axis=-1)
        ink = proba[..., None]
        half = [(side[1] - side[0]) / 2 for side in self.grid]
        self.surface_ = self.ax_.imshow(
            1.0 - ink * (1.0 - colours[best][..., :3]),
            extent=(x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1]),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        for k in np.unique(best)[:-1]:
            self.ax_.contour(x, y, best == k, [0.5], colors="white", linewidths=1.0)
        self.ax_.set(xlabel=self.feature_names[0], ylabel=self.feature_names[1])
        self._add_legend(
            [Patch(color=colours[k], label=f"{k}") for k in np.unique(best)]
        )

    def _add_legend(self, handles: list) -> None:
        self.ax_.legend(
            handles=handles,
            title="expert",
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            frameon=False,
            ncols=1 + (len(handles) - 1) // 12,
        )


def _along(
    ask: Callable[[Any], np.ndarray], X: Any, j: int, n_values: int
) -> dict[str, Any]:
    """Return the mean probabilities over rows, for each value of a feature."""
    values = span(X, j, n_values)
    proba = [ask(with_column(X, j, value)).mean(axis=0) for value in values]
    return {"gate_proba": np.stack(proba), "grid": [values]}


def _in_plane(
    ask: Callable[[Any], np.ndarray], X: Any, n_values: int
) -> dict[str, Any]:
    """Return the probabilities on a grid of both features."""
    sides = [span(X, j, n_values) for j in range(2)]
    rows = typical(X, n_values**2)
    for j, values in enumerate(np.meshgrid(*sides)):
        rows = with_column(rows, j, values.ravel())
    proba = ask(rows).reshape(n_values, n_values, -1)
    X = np.column_stack([column_of(X, j) for j in range(2)])
    return {"gate_proba": proba, "grid": sides, "X": X}
