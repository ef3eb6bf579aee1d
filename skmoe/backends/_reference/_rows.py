"""Rows of X, dense or CSR, whole and in blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Iterator

from .._compat import Array, namespace

BLOCK_ELEMENTS = 1 << 15
"""Number of elements in a block of rows, which should stay in cache."""


def row_blocks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Yield slices of rows so that a block of ``n_columns`` stays within bounds.

    Without rows there is one empty block, so that joined blocks have a shape.
    """
    size = max(1, BLOCK_ELEMENTS // max(1, n_columns))
    for start in range(0, max(n_rows, 1), size):
        yield slice(start, min(start + size, n_rows))


def take_rows(X: Array, rows: Array | None) -> Array:
    """Return the rows of a dense or CSR matrix; None means all of them."""
    if rows is None:
        return X
    xp = namespace(X)
    return X[rows] if hasattr(X, "tocsr") else xp.take(X, rows, axis=0)


def block_of(X: Array, rows: slice) -> Array:
    """Return a run of rows of a dense or CSR matrix; X itself if it is all rows."""
    if rows.start == 0 and rows.stop == X.shape[0]:
        return X
    return X[rows] if hasattr(X, "tocsr") else X[rows, ...]
