"""Scales of the columns of a table, whatever their units.

A column is judged only by its own numbers: they are compared with no absolute number
and with no other column.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from scipy import sparse

from ..backends import Array, like, select, to_host

ROUNDING = 2.0**-43
"""A column that varies by a smaller share of its mean is constant up to rounding."""

HEADROOM = 20
"""Powers of two between a tree's unit and a usual value, or the origin if that is
larger. Trees of scikit-learn call values equal that differ by less than 1e-7 of a unit.
That is 1e-13 of the usual value, as `ROUNDING` is."""

HIGHEST = 2.0**100
"""Largest value that a tree gets: float32 ends at 2¹²⁸."""


def deviations(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return standard deviations, 0 where a column is constant up to rounding."""
    deviation = np.sqrt(variance)
    return np.where(deviation > ROUNDING * np.abs(mean), deviation, 0.0)


def units(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return the unit of each column; none is 0.

    It is the standard deviation, or the size of a constant column's value (1 if that is
    0), so that a row that differs there does not seem to lie far away.
    """
    deviation = deviations(mean, variance)
    size = np.abs(mean)
    size = np.where(size > 0, size, 1.0)
    return np.where(deviation > 0, deviation, size)


def reciprocal(values: np.ndarray) -> np.ndarray:
    """Return 1 / value, and 0 for 0."""
    return np.divide(1.0, values, out=np.zeros_like(values), where=values > 0)


class Standard(NamedTuple):
    """Units in which columns have mean 0 and deviation 1, and constant columns are 0.

    A CSR matrix is not centred.
    """

    center: np.ndarray
    inverse: np.ndarray

    @classmethod
    def of(cls, X: Array, weights: Array) -> Self:
        """Measure weighted rows."""
        mean, variance = (to_host(a) for a in select(X).weighted_moments(X, weights))
        return cls(mean, reciprocal(deviations(mean, variance)))

    def rows(self, X: Array) -> Array:
        """Return rows in these units."""
        if sparse.issparse(X):
            dtype = np.result_type(X.dtype, np.float32)
            return sparse.csr_matrix(X.multiply(self.inverse), dtype=dtype)
        return (X - like(self.center, X)) * like(self.inverse, X)


class TreeView(NamedTuple):
    """Columns in units in which trees of scikit-learn tell their values apart.

    These trees cast to float32. The order of values does not change, so the cuts are
    the same: a cut at z is a cut at ``origin + unit * z``.

    Attributes
    ----------
    origin : (n_features,) array
        The value nearest to zero, as float32 holds it; zero for CSR.
    unit : (n_features,) array
        Powers of two.
    """

    origin: np.ndarray
    unit: np.ndarray

    @classmethod
    def of(cls, X: Array) -> Self:
        """Measure rows on the host; NaN does not count."""
        if sparse.issparse(X):
            origin = np.zeros(X.shape[1])
            return cls(origin, _tree_unit(origin, X.data, X.indices))
        X = np.asarray(X, dtype=np.float64)
        low, high = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
        most = np.finfo(np.float32).max
        nearest = np.clip(np.nan_to_num(np.clip(0.0, low, high)), -most, most)
        origin = nearest.astype(np.float32).astype(np.float64)
        columns = np.broadcast_to(np.arange(X.shape[1]), X.shape)
        return cls(origin, _tree_unit(origin, X - origin, columns))

    def rows(self, X: Array) -> Array:
        """Return rows in float32."""
        if sparse.issparse(X):
            near = sparse.csr_matrix(X.multiply(1.0 / self.unit))
            near.data = np.clip(near.data, -HIGHEST, HIGHEST)
            return near.astype(np.float32)
        near = (np.asarray(X, dtype=np.float64) - self.origin) / self.unit
        return np.clip(near, -HIGHEST, HIGHEST).astype(np.float32)


def _tree_unit(origin: np.ndarray, away: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the unit of each column, from its usual distance to the origin.

    The distance is a geometric mean, so that a few outliers do not blur other values.
    """
    there = (away != 0) & np.isfinite(away)
    power = np.frexp(np.where(there, away, 0.0))[1].ravel()
    columns = columns.ravel()
    n = len(origin)
    count = np.bincount(columns, there.ravel(), minlength=n)
    usual = np.bincount(columns, power, minlength=n) / np.maximum(count, 1.0)
    far = np.where(origin != 0, np.frexp(origin)[1], usual)
    return np.exp2(np.rint(np.maximum(usual, far)) - HEADROOM)
