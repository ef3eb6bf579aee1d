"""How much each expert is used."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from .._axes import axes_of
from ._reading import Reading


class ExpertUtilizationDisplay:
    """Load and gate mass of each expert, by class or by size of the target.

    The load is the share of the rows that predict sends to an expert. The gate mass is
    the share that it would send without ``top_k``.

    Make one with `from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    load : ndarray of shape (n_experts,)
        Share of the rows that each expert serves, by routing weight; sums to one.
    gate_mass : ndarray of shape (n_experts,)
        Mean gate probability of each expert; sums to one.
    load_by_group : ndarray of shape (n_groups, n_experts) or None, default=None
        Part of each load that comes from each class or bin of the target; columns sum
        to ``load``.
    group_names : list of str or None, default=None
        Names of the classes or bins.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Their figure.
    bars_ : list of matplotlib BarContainer
        Bars of the load, one container per class or bin.
    mass_ : matplotlib Line2D
        Marks of the gate mass.

    See Also
    --------
    routing_report : The same in numbers, and more.
    ExpertSpecializationDisplay : What the rows of an expert have in common.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skmoe import MoEClassifier
    >>> from skmoe.inspection import ExpertUtilizationDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MoEClassifier(n_experts=2, cross_fit=None, random_state=0).fit(X, y)
    >>> display = ExpertUtilizationDisplay.from_estimator(model, X, y)
    >>> len(display.bars_), display.load_by_group.shape
    (3, (3, 2))
    """

    def __init__(self, load, gate_mass, *, load_by_group=None, group_names=None):
        self.load = load
        self.gate_mass = gate_mass
        self.load_by_group = load_by_group
        self.group_names = group_names

    @classmethod
    def from_estimator(
        cls, estimator, X, y=None, *, bins=4, output=0, ax=None, **style
    ):
        """Compute the loads of a fitted mixture on some rows, and plot them.

        Parameters
        ----------
        estimator : MoEClassifier, MoERegressor or Pipeline
            A fitted mixture, or a Pipeline that ends in one.
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
            Targets, by which to split the loads.
        bins : int, default=4
            Number of bins of a regressor's target, between its quantiles. Bins with
            equal ends are merged.
        output : int, default=0
            Which output to show, if y has several.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to `plot`.

        Returns
        -------
        ExpertUtilizationDisplay
            The display, drawn.
        """
        reading = Reading(estimator, X, y, output)
        weights = reading.routing
        load_by_group = group_names = None
        if y is not None:
            group, group_names = _groups(reading, bins)
            n_rows = len(group)
            load_by_group = np.stack(
                [
                    weights[np.flatnonzero(group == g)].sum(axis=0) / n_rows
                    for g in range(len(group_names))
                ]
            )
        display = cls(
            weights.mean(axis=0),
            reading.gate_proba.mean(axis=0),
            load_by_group=load_by_group,
            group_names=group_names,
        )
        return display.plot(ax=ax, **style)

    def plot(self, ax=None, **style):
        """Draw one bar per expert for its load, and a mark for its gate mass.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to ``ax.bar``.

        Returns
        -------
        self : ExpertUtilizationDisplay
            The display.
        """
        ax = axes_of(self, ax)
        place = np.arange(len(self.load))
        floor = 0.0
        self.bars_ = []
        if self.load_by_group is None:
            style = {"color": "tab:blue", "label": "load", **style}
            self.bars_.append(ax.bar(place, self.load, **style))
        else:
            colours = self._colours()
            for part, name, colour in zip(
                self.load_by_group, self.group_names, colours, strict=True
            ):
                options = {"color": colour, "label": name, **style}
                self.bars_.append(ax.bar(place, part, bottom=floor, **options))
                floor = floor + part
        (self.mass_,) = ax.plot(
            place, self.gate_mass, "kD", markerfacecolor="white", label="gate mass"
        )
        ax.axhline(
            1.0 / len(place), color="0.4", lw=1, ls="--", label="even share", zorder=0
        )
        if len(place) <= 20:
            ax.set_xticks(place)
        ax.set(xlabel="expert", ylabel="share of rows")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        return self

    def _colours(self) -> Any:
        """Return one colour per group: hues for classes, shades for bins."""
        import matplotlib

        n = len(self.group_names)
        if isinstance(self.group_names, Bins):
            return matplotlib.colormaps["viridis"](np.linspace(0.0, 0.9, n))
        # Experts have other colours elsewhere.
        return matplotlib.colormaps["Set2" if n <= 8 else "tab20"](np.arange(n) % 20)


class Bins(list):
    """Names of groups that have an order."""


def _groups(reading: Reading, bins: int) -> tuple[np.ndarray, list[str]]:
    """Return the class or bin of each row, and the names of classes or bins."""
    y = reading.y
    if reading.classifies:
        classes = reading.classes
        return np.searchsorted(classes, y), [f"class {c}" for c in classes]
    if bins < 1:
        raise ValueError(f"bins must be at least 1; got {bins!r}.")
    edges = np.unique(np.quantile(y, np.linspace(0.0, 1.0, bins + 1)))
    group = np.searchsorted(edges[1:-1], y, side="right")
    names = [f"y < {edges[1]:.3g}"] if len(edges) > 2 else ["all y"]
    names += [f"{a:.3g} ≤ y < {b:.3g}" for a, b in pairwise(edges[1:-1])]
    names += [f"y ≥ {edges[-2]:.3g}"] if len(edges) > 2 else []
    return group, Bins(names)
