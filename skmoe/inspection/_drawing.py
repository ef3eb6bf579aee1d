"""What displays share: axes, colours, heat maps. matplotlib loads when asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._sklearn_compat import check_matplotlib_support

MOST_TICKS = 30
"""Names on an axis of a heat map, at most."""


def axes_of(display: Any, ax: Any) -> Any:
    """Return the axes to draw on, and keep them on the display."""
    check_matplotlib_support(f"{type(display).__name__}.plot")
    import matplotlib.pyplot as plt

    if ax is None:
        _, ax = plt.subplots()
    display.ax_, display.figure_ = ax, ax.figure
    return ax


def colours_of(n: int) -> np.ndarray:
    """Return a colour for each expert, (n, 4)."""
    import matplotlib

    if n <= 10:
        return matplotlib.colormaps["tab10"](np.arange(n))
    if n <= 20:
        return matplotlib.colormaps["tab20"](np.arange(n))
    return matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, n))


def heat_map(
    ax: Any,
    values: np.ndarray,
    rows: list[str],
    columns: list[str],
    *,
    label: str,
    values_format: str,
    **style: Any,
) -> tuple[Any, Any]:
    """Draw a table of numbers as colours; return the image and its colour bar.

    Numbers are written into the cells of tables small enough to be read.
    """
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **style)
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        shown = np.arange(0, len(names), 1 + (len(names) - 1) // MOST_TICKS)
        axis.set_ticks(shown, labels=[names[i] for i in shown])
    if sum(map(len, columns)) > 50:
        ax.tick_params("x", rotation=45)
        for name in ax.get_xticklabels():
            name.set(ha="right", rotation_mode="anchor")
    if values.size <= 160:
        colours = image.cmap(image.norm(values))[..., :3] @ [0.299, 0.587, 0.114]
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "black" if colours[i, j] > 0.5 else "white"
                text = f"{value:z{values_format}}".replace("-", "\N{MINUS SIGN}")
                ax.text(j, i, text, ha="center", va="center", color=ink, fontsize=8)
    return image, ax.figure.colorbar(image, ax=ax, label=label)
