"""The predicted distribution along one feature."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from .._axes import axes_of, draw_bands, quantile_levels
from ..pipeline import split
from ._reading import (
    column_of,
    feature_position,
    names_of,
    rows_on_host,
    span,
    typical,
    with_column,
)

KINDS = ("bands", "density", "both")

ALL_BUT = 1e-3
"""Probability of y beyond each end of the picture of a density."""


class PredictiveDistributionDisplay:
    """The predicted distribution along one feature: bands of quantiles, or the density.

    All other features stay at their medians, or at their most frequent values if they
    are not numeric.

    Make one with `from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    grid : ndarray of shape (n_values,)
        Values of the feature.
    mean : ndarray of shape (n_values,)
        Predicted means.
    quantiles : ndarray of shape (n_values, n_levels) or None, default=None
        Predicted quantiles at ``levels``.
    levels : ndarray of shape (n_levels,) or None, default=None
        Levels of the quantiles, ascending and symmetric: the lower ends of the bands,
        the widest first, then 0.5 and the upper ends.
    y_grid : ndarray of shape (n_y,) or None, default=None
        Values of the target at which the density is given.
    density : ndarray of shape (n_values, n_y) or None, default=None
        Density p(y | x), in 1 / units of y.
    feature_name : str, default="x"
        Name of the feature.
    X : ndarray of shape (n_samples,) or None, default=None
        Values of the feature in rows that are drawn, if their targets are given.
    y : ndarray of shape (n_samples,) or None, default=None
        Targets of these rows.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Their figure.
    bands_ : list of matplotlib FillBetweenPolyCollection
        The bands, the widest first.
    image_ : matplotlib QuadMesh
        The density.
    line_ : matplotlib Line2D
        The mean.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.inspection import PredictiveDistributionDisplay
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> y = np.abs(X[:, 0]) + np.random.default_rng(0).normal(0, 0.1, 200)
    >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
    >>> display = PredictiveDistributionDisplay.from_estimator(model, X, y)
    >>> display.levels.round(3)
    array([0.025, 0.1  , 0.25 , 0.5  , 0.75 , 0.9  , 0.975])
    >>> display.quantiles.shape
    (200, 7)
    """

    def __init__(
        self,
        grid,
        mean,
        *,
        quantiles=None,
        levels=None,
        y_grid=None,
        density=None,
        feature_name="x",
        X=None,
        y=None,
    ):
        self.grid = grid
        self.mean = mean
        self.quantiles = quantiles
        self.levels = levels
        self.y_grid = y_grid
        self.density = density
        self.feature_name = feature_name
        self.X = X
        self.y = y

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        feature=None,
        kind="bands",
        coverages=(0.5, 0.8, 0.95),
        grid_resolution=200,
        ax=None,
        **style,
    ):
        """Ask a fitted regressor along a feature, and plot its distribution.

        Parameters
        ----------
        estimator : MoERegressor or Pipeline
            A fitted mixture of one output, or a Pipeline that ends in one.
        X : {array-like, data frame} of shape (n_samples, n_features)
            Rows. They set the range of the feature and the medians of all others.
        y : array-like of shape (n_samples,), default=None
            Their targets. None does not draw the rows.
        feature : int or str, default=None
            Name or position of a numeric feature; None is the only one.
        kind : {"bands", "density", "both"}, default="bands"
            What to show: bands between quantiles, the density, or the ends of the
            widest band on top of the density.
        coverages : sequence of float, default=(0.5, 0.8, 0.95)
            Probabilities of the bands, between 0 and 1, both excluded.
        grid_resolution : int, default=200
            Number of values of the feature, and of y for the density.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to `plot`.

        Returns
        -------
        PredictiveDistributionDisplay
            The display, drawn.
        """
        before, mixture = _checked(estimator, kind, grid_resolution)
        X = rows_on_host(X)
        names = names_of(estimator, X)
        if feature is None and len(names) > 1:
            raise ValueError(
                f"feature must name one of the {len(names)} features of X; got None."
            )
        j = 0 if feature is None else feature_position(feature, names)
        grid = span(X, j, grid_resolution)
        levels = _levels(coverages)
        rows = with_column(typical(X, grid_resolution), j, grid)
        rows = rows if before is None else before.transform(rows)
        mean = np.asarray(mixture.predict(rows))
        if mean.ndim > 1:
            raise ValueError(
                "PredictiveDistributionDisplay needs a mixture of one output; got "
                f"{mean.shape[1]}."
            )
        distribution = mixture.predict_distribution(rows)
        y_grid = density = quantiles = None
        if kind != "density":
            quantiles = np.asarray(distribution.ppf(levels))
        if kind != "bands":
            ends = distribution.ppf([ALL_BUT, 1.0 - ALL_BUT])
            y_grid = np.linspace(np.min(ends), np.max(ends), grid_resolution)
            if np.array_equal(ends, np.rint(ends)):  # y is a count
                y_grid = np.unique(np.rint(y_grid))
            density = _density(distribution, y_grid)
        display = cls(
            grid,
            mean,
            quantiles=quantiles,
            levels=None if quantiles is None else levels,
            y_grid=y_grid,
            density=density,
            feature_name=str(names[j]),
            X=None if y is None else column_of(X, j),
            y=None if y is None else np.ravel(y),
        )
        return display.plot(ax=ax, **style)

    def plot(self, ax=None, **style):
        """Draw the bands or the density, the mean, and the rows.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to ``ax.plot`` for the mean.

        Returns
        -------
        self : PredictiveDistributionDisplay
            The display.
        """
        ax = axes_of(self, ax)
        ink = "black"
        if self.density is not None:
            self._plot_density()
            ink = "tab:red"
        if self.quantiles is not None:
            self._plot_bands()
        if self.y is not None:
            ax.scatter(self.X, self.y, s=4, color="black", alpha=0.35, linewidths=0)
        options = {"color": ink, "label": "mean", **style}
        (self.line_,) = ax.plot(self.grid, self.mean, **options)
        ax.set(xlabel=self.feature_name, ylabel="y", xlim=(self.grid[0], self.grid[-1]))
        ax.legend(frameon=False)
        return self

    def _plot_density(self) -> None:
        # Where y is nearly certain, the density is very high. Such peaks are cut, so
        # that the rest stays visible.
        most = np.quantile(self.density.max(axis=1), 0.9)
        self.image_ = self.ax_.pcolormesh(
            self.grid,
            self.y_grid,
            self.density.T,
            cmap="Blues",
            vmin=0.0,
            vmax=most,
            shading="nearest",
            rasterized=True,
        )
        self.figure_.colorbar(self.image_, ax=self.ax_, label="density p(y | x)")

    def _plot_bands(self) -> None:
        if self.density is not None:
            lines = self.quantiles.T
            share = f"{self.levels[-1] - self.levels[0]:.0%}"
            options = {"color": "tab:red", "lw": 1.0, "ls": "--"}
            self.ax_.plot(self.grid, lines[0], label=f"{share} of y", **options)
            self.ax_.plot(self.grid, lines[-1], **options)
            return
        self.bands_ = draw_bands(self.ax_, self.grid, self.quantiles, self.levels)


def _checked(estimator: Any, kind: str, grid_resolution: int) -> tuple[Any, Any]:
    """Return the steps before the mixture, and the mixture."""
    before, mixture = split(estimator)
    if is_classifier(mixture):
        raise TypeError(
            f"PredictiveDistributionDisplay needs a MoERegressor; got {mixture!r}."
        )
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {list(KINDS)}; got {kind!r}.")
    if grid_resolution < 2:
        raise ValueError(
            f"grid_resolution must be at least 2; got {grid_resolution!r}."
        )
    return before, mixture


def _levels(coverages: Any) -> np.ndarray:
    """Return the quantile levels of bands, and of the median."""
    coverages = np.unique(np.asarray(coverages, dtype=float))
    if not coverages.size or not ((coverages > 0) & (coverages < 1)).all():
        raise ValueError(
            "coverages must lie between 0 and 1, both excluded; got "
            f"{coverages.tolist()}."
        )
    return quantile_levels(coverages)


def _density(distribution: Any, y_grid: np.ndarray) -> np.ndarray:
    """Return p(y | x) of each row at each value of y."""
    n_rows = len(distribution)
    each = distribution[np.repeat(np.arange(n_rows), len(y_grid))]
    density = each.pdf(np.tile(y_grid, n_rows))
    return np.asarray(density).reshape(n_rows, len(y_grid))
