"""An expert's answers for its training rows, each answer without the row itself.

An expert remembers the rows that it is fitted on, so their likelihood flatters it.
Folds avoid that by refitting. These learners can leave out a row without a new fit:

* least squares, in closed form: `_leave_one_out`;
* bags of learners and nearest neighbours, by the members or neighbours that do not
  know the row: `_out_of_bag`.

All copies of a row are left out with it, since they would give it away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..backends import Array, device_of, namespace
from ._base import ExpertPool, take_rows


@dataclass(frozen=True, eq=False)
class OwnRows:
    """An expert's answers for its training rows, each answer without the row itself.

    Attributes
    ----------
    rows : (n_k,) array of int or None
        Positions of the rows, ascending; None means all rows.
    values : (n_k, q) array
        The answers, in the form of `ExpertPool.evaluate`.
    """

    rows: Array | None
    values: Array

    def at(self, rows: Array | None, n_rows: int) -> Array:
        """Return values of rows (None: all ``n_rows``), NaN for rows without one."""
        if self.rows is None:
            return take_rows(self.values, rows)
        xp = namespace(self.values)
        places = self.rows
        if rows is None:
            rows = xp.arange(n_rows, dtype=places.dtype, device=device_of(places))
        if not places.shape[0]:
            return xp.full(
                (rows.shape[0], self.values.shape[1]),
                xp.nan,
                dtype=self.values.dtype,
                device=device_of(places),
            )
        place = xp.searchsorted(places, rows)
        place = xp.where(place < places.shape[0], place, places.shape[0] - 1)
        there = xp.take(places, place) == rows
        return xp.where(there[:, None], xp.take(self.values, place, axis=0), xp.nan)


def swapped(
    old: dict[int, OwnRows], new: dict[int, OwnRows], take: np.ndarray
) -> dict[int, OwnRows]:
    return {k: new[k] if is_new else old[k] for k, is_new in enumerate(take)}


def taken(left: dict[int, OwnRows], experts: np.ndarray) -> dict[int, OwnRows]:
    return {k: left[expert] for k, expert in enumerate(experts.tolist())}


def forgetful(pool: ExpertPool, kind: type[ExpertPool]) -> ExpertPool:
    """Return the pool as one of its parent class, without its experts' own rows."""
    plain = kind(pool.learners, **pool.options)
    vars(plain).update({k: v for k, v in vars(pool).items() if k != "left"})
    return plain


def together(X: Array, y: Array, rows: Array | None, weights: Array) -> Array:
    """Return the weight of each row and of all rows that equal it."""
    if namespace(X, weights) is not np:  # rows on a device are not compared
        return weights
    same = alike(take_rows(X, rows), take_rows(y, rows))
    return np.bincount(same, weights)[same]


def alike(X: Any, target: np.ndarray) -> np.ndarray:
    """Return a number for each row, shared by rows with equal features and target."""
    if sparse.issparse(X):  # compare products with random vectors
        waves = np.random.RandomState(0).standard_normal((X.shape[1], 2))
        X = X @ waves
    labels = target
    if target.ndim == 1:
        labels = np.unique(target, return_inverse=True)[1][:, None]
    table = np.hstack([np.asarray(X, dtype=np.float64), labels]) + 0.0  # no -0.0
    rows = np.ascontiguousarray(table).view(f"V{table.shape[1] * table.itemsize}")
    return np.unique(rows[:, 0], return_inverse=True)[1]
