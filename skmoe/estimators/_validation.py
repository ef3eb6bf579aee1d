"""Checks of arrays, labels and weights that callers pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from scipy import sparse

from .._sklearn_compat import _check_sample_weight
from ..backends import namespace, on_host, to_host


def given(array: Any, name: str) -> Any:
    """Return an argument on the host; raise if its rows are not in memory."""
    refuse_lazy(array, name)
    return on_host(array)


@contextmanager
def about(name: str) -> Iterator[None]:
    """Make errors inside name the argument that they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_labels(labels: np.ndarray, name: str) -> None:
    """Raise if labels are missing or of several kinds, so that they have no order."""
    missing = sum(
        label is None or type(label).__name__ == "NAType" or bool(label != label)
        for label in labels
    )
    if missing:
        raise ValueError(
            f"{name} holds {missing} missing values (None or NaN). Give these rows "
            "labels of their own, or leave the rows out."
        )
    try:
        np.unique(labels)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"{name} must hold labels of one kind, such as strings or whole numbers; "
            f"got {', '.join(kinds)}."
        ) from None


def refuse_lazy(array: Any, name: str) -> None:
    """Raise if an argument would silently be computed and loaded whole."""
    kind = type(array)
    graph = getattr(array, "__dask_graph__", None)
    if kind.__module__.startswith("dask.") or (callable(graph) and graph() is not None):
        raise TypeError(
            f"{name} is a Dask collection ({kind.__name__}), whose rows are not in "
            "memory. To learn from it, use skmoe.dask.DaskMoERegressor or "
            "DaskMoEClassifier. To predict, use skmoe.dask.predict(model, X). Or load "
            f"it: {name}.compute()."
        )
    if kind.__module__.startswith("polars.") and kind.__name__ == "LazyFrame":
        raise TypeError(f"{name} is a polars LazyFrame; call its collect() first.")


MOST = 1_000_000
"""Largest number of experts, of starts and of folds."""

N_EXPERTS = 8
"""The default number of experts."""

LARGEST = {np.dtype(np.float32): 1e15, np.dtype(np.float64): 1e100}
"""Largest numbers whose squares can be summed over rows without overflow."""


NOTHING = 1e-100
"""Weights below this share of the largest one count as zero."""


def check_magnitude(array: Any, name: str, dtype: Any = None) -> None:
    """Raise ValueError if a number is so large that sums of squares would overflow.

    Parameters
    ----------
    array : array or scipy CSR
        Floats; NaN passes.
    name : str
        Name of the parameter.
    dtype : dtype, default=None
        Precision of the computations; None is that of the array.
    """
    values = array.data if sparse.issparse(array) else array
    dtype = _numpy_dtype(dtype or values.dtype)
    largest = LARGEST.get(dtype, np.inf)
    xp = namespace(values)
    large = (values > largest) | (values < -largest)
    if not to_host(xp.any(large)):
        return
    first = int(np.flatnonzero(to_host(large))[0])
    value = float(to_host(values).ravel()[first])
    where = ""
    if values is array:
        place = np.unravel_index(first, array.shape)
        where = " in " + ", ".join(
            f"{axis} {i}" for axis, i in zip(("row", "column"), place, strict=False)
        )
    raise ValueError(
        f"{name} must hold numbers between {-largest:g} and {largest:g} in "
        f"{dtype}; got {value:g}{where}. Rescale it; a number that stands for a "
        "missing value should be NaN."
    )


def read_weights(sample_weight: Any, rows: Any, dtype: Any = None) -> np.ndarray:
    """Return the weights of rows, checked, so that it is safe to divide by them.

    Weights that are negligible beside the largest become zero.
    """
    with about("sample_weight"):
        weight = _check_sample_weight(
            given(sample_weight, "sample_weight"),
            rows,
            dtype=np.float64,
            ensure_non_negative=True,
        )
    check_magnitude(weight, "sample_weight", dtype)
    smallest = 1.0 / LARGEST.get(_numpy_dtype(dtype), LARGEST[np.dtype(np.float64)])
    largest = weight.max()
    if 0 < largest < smallest:
        raise ValueError(
            f"sample_weight must hold a number of {smallest:g} or more; the largest is "
            f"{largest:g}. Rescale it: weights count rows."
        )
    return np.where(weight < NOTHING * largest, 0.0, weight)


def _numpy_dtype(dtype: Any) -> np.dtype:
    """Return a dtype of any library, such as torch.float32, as NumPy's."""
    return np.dtype(str(dtype or "float64").split(".")[-1])
