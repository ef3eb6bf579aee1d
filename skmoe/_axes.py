"""Axes to draw on, and bands between quantiles. They load matplotlib at first use."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._sklearn_compat import check_matplotlib_support


def axes_of(display: Any, ax: Any, **options: Any) -> Any:
    """Return the axes to draw on, and keep them on the display.

    The options are for a new figure, if there are no axes yet.
    """
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots(**options)
    display.ax_ = ax
    display.figure_ = ax.figure
    return ax


def quantile_levels(coverages: Any) -> np.ndarray:
    """Return the ends of central bands, and the median: ascending, symmetric levels."""
    lower = 0.5 - np.unique(coverages)[::-1] / 2
    return np.concatenate([lower, [0.5], 1.0 - lower[::-1]])


def draw_bands(
    ax: Any, x: np.ndarray, quantiles: np.ndarray, levels: np.ndarray
) -> list[Any]:
    """Draw a band between each pair of quantiles, the widest first; return them.

    ``quantiles`` is an (n, n_levels) array at the levels of `quantile_levels`.
    """
    import matplotlib

    n_bands = len(levels) // 2
    shades = matplotlib.colormaps["Blues"](np.linspace(0.2, 0.6, n_bands))
    return [
        ax.fill_between(
            x,
            quantiles[:, band],
            quantiles[:, -1 - band],
            color=shades[band],
            linewidth=0,
            label=f"{levels[-1 - band] - levels[band]:.0%} of y",
        )
        for band in range(n_bands)
    ]
