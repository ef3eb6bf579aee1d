"""Rows in units of their columns, cut in blocks: what sums over rows are taken of."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from scipy import sparse

from ..backends import Array, select, to_host
from ._columns import units
from ._content import bytes_of, row_keys

ROWS = 1024
"""Rows of a block."""

PACKED = 64
"""Up to so many columns the products of all pairs are held side by side: one matrix
product then gives the second moments under all weights."""

ROWS_OF_CURVATURE = 8
"""So many rows for each column of each block tell a curvature well enough."""

HELD = 1 << 22
"""Numbers that blocks hold between sweeps, at most (32 MiB)."""


@functools.cache
def _places(m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the columns of all pairs, and the place of each pair, (m, m)."""
    first, second = np.triu_indices(m)
    place = np.empty((m, m), dtype=np.intp)
    place[first, second] = place[second, first] = np.arange(len(first))
    return first, second, place


@dataclass(frozen=True, eq=False)
class Units:
    """What the blocks of a table have in common.

    Attributes
    ----------
    center, scale : (d,) arrays
        Mean of each column, and its unit.
    total_rows : int
        Number of rows that sums are taken over.
    """

    center: np.ndarray
    scale: np.ndarray
    total_rows: int


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows of a table.

    Attributes
    ----------
    rows : slice
        Which.
    U : (n, d + 1) array
        Columns in their units, and a column of ones.
    keys : (n,) array of uint64 or None
        Keys of the rows, by which some are drawn; None where that saves nothing.
    table : Units
        Those of the table.
    """

    rows: slice
    U: np.ndarray
    keys: np.ndarray | None
    table: Units

    @property
    def X(self) -> np.ndarray:
        """The rows as they were given, (n, d)."""
        return self.U[:, :-1] * self.table.scale + self.table.center

    @cached_property
    def _pairs(self) -> np.ndarray:
        """Products of all pairs of columns, (n, (d + 1)(d + 2) / 2)."""
        first, second, _ = _places(self.U.shape[1])
        return self.U[:, first] * self.U[:, second]

    def values(self, params: np.ndarray) -> np.ndarray:
        """Return linear functions (..., d + 1) of the rows, (..., n)."""
        flat = params.reshape(-1, params.shape[-1])
        return (flat @ self.U.T).reshape(*params.shape[:-1], -1)

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Return Σ w u under weights of the rows, (..., n), as (..., d + 1)."""
        flat = weights.reshape(-1, weights.shape[-1])
        return (flat @ self.U).reshape(*weights.shape[:-1], -1)

    def moments(self, weights: np.ndarray) -> np.ndarray:
        """Return Σ w u uᵀ under weights of the rows, (..., n), as (..., d+1, d+1)."""
        m = self.U.shape[1]
        flat = weights.reshape(-1, weights.shape[-1])
        if m > PACKED:
            sums = np.empty((len(flat), m, m))
            for w, moments in zip(flat, sums, strict=True):
                rows = np.flatnonzero(w)
                half = 2 * len(rows) < len(w)  # else the copy costs more than it saves
                few = self.U[rows] if half else self.U
                rooted = np.sqrt(w[rows] if half else w)[:, None] * few
                np.matmul(rooted.T, rooted, out=moments)
        else:
            sums = (flat @ self._pairs)[:, _places(m)[2]]
        return sums.reshape(*weights.shape[:-1], m, m)

    def curvature(
        self, weights: np.ndarray, n_blocks: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return about what `moments` returns, and its diagonal.

        Pairs of columns are summed over some of the rows, where rows and columns are
        many. They may say too little of a column: a rare category may have none of its
        rows among them. `no_less` makes good for that.

        Parameters
        ----------
        weights : (..., n) array
        n_blocks : int
            Number of blocks of curvature that share out the rows.

        Returns
        -------
        moments : (..., d + 1, d + 1) array
        squares : (..., d + 1) array
            The diagonal of `moments`.
        """
        m = self.U.shape[1]
        part = ROWS_OF_CURVATURE * m * n_blocks / self.table.total_rows
        if part >= 1.0 or self.keys is None:
            moments = self.moments(weights)
            return moments, np.einsum("...ii->...i", moments).copy()
        few = np.flatnonzero(self.keys < part * 2.0**64)
        some = Block(self.rows, self.U[few], None, self.table)
        return some.moments(weights[..., few]) / part, weights @ self.U**2


def no_less(moments: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Return moments with a diagonal of no less than these squares."""
    moments = moments.copy()
    at = np.arange(moments.shape[-1])
    moments[..., at, at] = np.maximum(moments[..., at, at], squares)
    return moments


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a matrix in units of its columns.

    Attributes
    ----------
    X : (n_samples, d) array or CSR
        On the host.
    center, scale : (d,) arrays
        Mean of each column, and its unit.
    n_rows : int or None
        Number of rows that sums are taken over, of which X may be a part.
    """

    X: Any
    center: np.ndarray
    scale: np.ndarray
    n_rows: int | None = None
    _blocks: dict[int, Block] = field(default_factory=dict)

    @classmethod
    def of(cls, X: Array, weights: Array) -> Self:
        """Measure weighted rows."""
        center, variance = (to_host(a) for a in select(X).weighted_moments(X, weights))
        return cls(X, center, units(center, variance))

    @property
    def n_bytes(self) -> int:
        """Bytes of X."""
        return bytes_of(self.X)

    @property
    def total_rows(self) -> int:
        """Number of rows that sums are taken over."""
        return self.X.shape[0] if self.n_rows is None else self.n_rows

    @cached_property
    def _keys(self) -> np.ndarray | None:
        """Keys of the rows, by which some of them are drawn."""
        columns_are_few = self.X.shape[1] + 1 <= PACKED
        return None if columns_are_few else row_keys(self.X)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows, block by block."""
        n, d = self.X.shape
        hold = n * (d + 1) * (d + 4) // 2 <= HELD
        for first in range(0, n, ROWS):
            block = self._blocks.get(first)
            if block is None:
                block = self._block(slice(first, min(first + ROWS, n)))
            if hold:
                self._blocks[first] = block
            yield block

    def _block(self, rows: slice) -> Block:
        part = self.X[rows]
        part = part.toarray() if sparse.issparse(part) else part
        U = np.ones((part.shape[0], part.shape[1] + 1))
        np.subtract(part, self.center, out=U[:, :-1])
        U[:, :-1] /= self.scale
        keys = None if self._keys is None else self._keys[rows]
        return Block(rows, U, keys, Units(self.center, self.scale, self.total_rows))

    def inner(self, coef: np.ndarray, intercept: np.ndarray) -> np.ndarray:
        """Return linear functions of X, (..., d) and (...), as ones of U, (..., d + 1).

        The last of the coefficients is the intercept.
        """
        last = intercept + coef @ self.center
        return np.concatenate([coef * self.scale, last[..., None]], axis=-1)

    def outer(self, params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return linear functions of U as ones of X: coefficients and intercepts."""
        coef = params[..., :-1] / self.scale
        return coef, params[..., -1] - coef @ self.center
