"""Codes of ids that are not numbers, for a gate that knows ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

NOBODY = -1.0
"""Code of an id that fit did not see, and of a missing id."""


@dataclass(frozen=True, eq=False)
class IdCodes:
    """Whole numbers for the ids in a column of X: their rank among the ids of fit.

    Attributes
    ----------
    column : str or int
        Name of the column in a data frame, or its position.
    ids : (n_ids,) array of str
        The ids that fit saw, in order.
    """

    column: Any
    ids: np.ndarray

    @classmethod
    def of(cls, X: Any, column: Any) -> Self | None:
        """Read the ids of a column; return None if they are numbers or missing."""
        if column is None or not _holds_objects(X):
            return None
        name, values = _column(X, column)
        try:
            np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError):
            ids, there = _as_text(values)
            return cls(name, np.unique(ids[there]))
        return None

    def coded(self, X: Any) -> Any:
        """Return X with the codes of the ids in their column."""
        name, values = _column(X, self.column)
        ids, there = _as_text(values)
        code = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        is_known = there & (self.ids[code] == ids)
        code = np.where(is_known, code, NOBODY)
        if not hasattr(X, "columns"):
            X = np.array(X, dtype=object)
            X[:, name] = code
            return X
        if hasattr(X, "with_columns"):  # polars
            return X.with_columns(type(X[name])(name, code))
        X = X.copy()
        X[name] = code
        return X


def _holds_objects(X: Any) -> bool:
    return hasattr(X, "columns") or getattr(X, "dtype", np.dtype(float)).kind in "OUS"


def _column(X: Any, column: Any) -> tuple[Any, np.ndarray]:
    """Return the name of a column, or its position without names, and its values."""
    if not hasattr(X, "columns"):
        return column, X[:, column]
    name = column if isinstance(column, str) else list(X.columns)[column]
    return name, np.asarray(X[name], dtype=object)


def _as_text(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids as text, and which rows have one."""
    there = np.array([value is not None and value == value for value in values])
    return np.array([str(value) for value in values]), there
