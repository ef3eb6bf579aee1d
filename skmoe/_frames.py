"""Columns of data frames that hold categories."""

from __future__ import annotations

import re
from typing import Any

import numpy as np


def categories(X: Any) -> list:
    """Return the names of a data frame's columns that hold categories or strings.

    A column of objects that are all numbers is numeric, as it is to scikit-learn.
    """
    if not hasattr(X, "dtypes"):
        return []
    kinds = zip(X.columns, X.dtypes, strict=True)
    return [name for j, (name, kind) in enumerate(kinds) if _is_category(X, j, kind)]


def _is_category(X: Any, j: int, dtype: Any) -> bool:
    """Tell whether a column holds categories; dtypes are pandas' or polars'."""
    if hasattr(dtype, "categories") or str(dtype) == "Categorical":
        return True
    if hasattr(dtype, "is_numeric"):  # polars
        return str(dtype) in ("String", "Object")
    return dtype.kind == "O" and not _is_numeric(X.iloc[:, j])


def _is_numeric(column: Any) -> bool:
    try:
        np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True


def blank(X: Any, names: list) -> Any:
    """Return a data frame with zeros in some of its columns."""
    return replaced(X, dict.fromkeys(names, np.zeros(len(X))))


def replaced(X: Any, columns: dict[Any, np.ndarray]) -> Any:
    """Return a data frame with other numbers in some of its columns, by name."""
    if hasattr(X, "with_columns"):  # polars
        return X.with_columns(
            *(type(X[name])(name, numbers) for name, numbers in columns.items())
        )
    other = X.copy(deep=False)
    for name, numbers in columns.items():
        other[name] = numbers
    return other


def remedy(X: Any, error: Exception) -> str:
    """Name the columns that a part could not read as numbers, and say what helps.

    For other errors the text is empty.
    """
    names = categories(X)
    if not names or not re.search("could not convert|dtype", str(error)):
        return ""
    return (
        f". Columns {names} of X hold text or categories, but must hold numbers. "
        "Encode them before the mixture: make_pipeline(make_column_transformer("
        f"(OneHotEncoder(handle_unknown='ignore'), {names}), remainder='passthrough'), "
        "mixture). Or use an expert that reads category columns, such as "
        "HistGradientBoosting, after X.astype(dict.fromkeys("
        f"{names}, 'category'))."
    )
