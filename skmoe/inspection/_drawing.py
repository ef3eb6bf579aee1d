"""Colours and heat maps of displays. They load matplotlib at first use."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_TICKS = 30
"""Maximum number of names on an axis of a heat map."""

MOST_LETTERS = 24
"""Maximum length of such a name. A longer one loses its middle."""

CELL, BESIDE = np.array([0.42, 0.24]), np.array([2.2, 1.2])
"""Width and height, in inches, of a legible cell, and of the space beside all cells."""

SMALLEST, LARGEST = np.array([6.4, 4.8]), np.array([16.0, 12.0])
"""Smallest and largest size of a figure, in inches."""

FITS = np.array([0.32, 0.17])
"""Width and height, in inches, of the smallest cell with room for a number."""


def size_of_table(values: np.ndarray) -> np.ndarray:
    """Return the size of a figure in which all cells of a table are legible."""
    n_rows, n_columns = values.shape
    return np.clip(BESIDE + CELL * (n_columns, n_rows), SMALLEST, LARGEST)


def colours_of(n: int) -> np.ndarray:
    """Return one colour per expert, (n, 4)."""
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

    Numbers are written into cells that have room for them.
    """
    image = ax.imshow(values, aspect="auto", interpolation="nearest", **style)
    bar = ax.figure.colorbar(image, ax=ax, label=label)
    columns = [shortened(name) for name in columns]
    for axis, names in ((ax.yaxis, rows), (ax.xaxis, columns)):
        shown = np.arange(0, len(names), 1 + (len(names) - 1) // MOST_TICKS)
        axis.set_ticks(shown, labels=[names[i] for i in shown])
    if sum(map(len, columns)) > 50:
        ax.tick_params("x", rotation=45)
        for name in ax.get_xticklabels():
            name.set(ha="right", rotation_mode="anchor")
    if (cell_of(ax, values) >= FITS).all():
        colours = image.cmap(image.norm(values))[..., :3] @ [0.299, 0.587, 0.114]
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ink = "black" if colours[i, j] > 0.5 else "white"
                text = f"{value:z{values_format}}".replace("-", "\N{MINUS SIGN}")
                ax.text(j, i, text, ha="center", va="center", color=ink, fontsize=8)
    return image, bar


def shortened(name: str) -> str:
    """Return a name without its middle, if it is long."""
    if len(name) <= MOST_LETTERS:
        return name
    half = MOST_LETTERS // 2
    return f"{name[:half]}…{name[1 - half :]}"


def cell_of(ax: Any, values: np.ndarray) -> np.ndarray:
    """Return width and height, in inches, of a cell of the table in the axes."""
    n_rows, n_columns = values.shape
    extent = ax.get_window_extent()
    size = np.array([extent.width / n_columns, extent.height / n_rows])
    return size / ax.figure.dpi
