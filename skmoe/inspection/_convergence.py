"""The lower bound in the course of training."""

from __future__ import annotations

import numpy as np

from .._axes import axes_of
from ..pipeline import split
from ._drawing import colours_of


class ConvergenceDisplay:
    """The lower bound of every run of EM, pass by pass.

    The run that gave the mixture is black; other runs have the colour of their kind of
    start. A cross marks a pass in which the gate or an expert stayed as it was, because
    the bound would have fallen with the new one. Bounds are in nats per row of the run.
    Runs "chosen" and "warm" are on all rows, others may be on a part of them: a run on
    other rows is not better because its line is higher.

    Make one with `from_estimator`; the parameters are stored as attributes.

    Parameters
    ----------
    history : list of dict
        ``history_`` of a fitted mixture.
    kept : int or None, default=None
        Position of the run that gave the mixture.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes of the last plot.
    figure_ : matplotlib Figure
        Their figure.
    lines_ : list of matplotlib Line2D
        The line of each run.
    rejected_ : list of ndarray
        For each run, the passes (from 1) in which the gate or an expert stayed.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.inspection import ConvergenceDisplay
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> model = MoERegressor(n_experts=2, cross_fit=None, random_state=0)
    >>> display = ConvergenceDisplay.from_estimator(model.fit(X, np.abs(X[:, 0])))
    >>> len(display.lines_)                      # four starts
    4
    """

    def __init__(self, history, *, kept=None):
        self.history = history
        self.kept = kept

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **style):
        """Plot the bounds of a fitted mixture.

        Parameters
        ----------
        estimator : MoEClassifier, MoERegressor or Pipeline
            A fitted mixture, or a Pipeline that ends in one.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to `plot`.

        Returns
        -------
        ConvergenceDisplay
            The display, drawn.
        """
        _, mixture = split(estimator)
        best = [
            run
            for run, entry in enumerate(mixture.history_)
            if np.array_equal(entry["bounds"], mixture.lower_bounds_)
        ]
        display = cls(mixture.history_, kept=best[-1] if best else None)
        return display.plot(ax=ax, **style)

    def plot(self, ax=None, **style):
        """Draw one line per run.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        **style : dict
            Passed on to ``ax.plot`` for the lines.

        Returns
        -------
        self : ConvergenceDisplay
            The display.
        """
        ax = axes_of(self, ax)
        kinds = list(dict.fromkeys(entry["start"] for entry in self.history))
        colours = dict(zip(kinds, colours_of(len(kinds)), strict=True))
        self.lines_ = []
        self.rejected_ = []
        named = set()
        for run, entry in enumerate(self.history):
            passes = np.arange(1, len(entry["bounds"]) + 1)
            bounds = entry["bounds"]
            is_best = run == self.kept
            kind = entry["start"]
            label = f"{kind} (kept)" if is_best else kind
            options = {
                "color": "black" if is_best else colours[kind],
                "lw": 2.0 if is_best else 1.0,
                "alpha": 1.0 if is_best else 0.8,
                "zorder": 3 if is_best else 2,
                "label": None if label in named else label,
                # A run of a single pass has no line.
                "marker": "o" if len(passes) == 1 else None,
                "ms": 7 if is_best else 4,
                **style,
            }
            named.add(label)
            self.lines_ += ax.plot(passes, bounds, **options)
            stayed = entry["experts_accepted"] < entry["n_experts"]
            stayed |= ~entry["gate_accepted"]
            self.rejected_.append(passes[stayed])
            ax.plot(passes[stayed], bounds[stayed], "x", color=options["color"], ms=5)
        if any(map(len, self.rejected_)):
            ax.plot([], [], "x", color="0.4", ms=5, label="a block was rejected")
        ax.set(xlabel="pass", ylabel="lower bound, nats per row")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(frameon=False)
        return self
