"""The one place that asks which array library an array belongs to."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse

Array = Any  # any array of the array API standard; scipy CSR where a docstring says so


def namespace(*arrays: Array) -> ModuleType:
    """Return the array-API namespace that the arrays share.

    NumPy arrays, scipy sparse matrices (whose products are NumPy arrays) and
    plain scalars answer with ``numpy``. Arrays without ``__array_namespace__``
    (PyTorch) are wrapped by scikit-learn's copy of ``array_api_compat``.
    """
    found: list[ModuleType] = []
    for array in arrays:
        if array is None or sparse.issparse(array) or isinstance(array, np.ndarray):
            continue
        if hasattr(array, "__array_namespace__"):
            found.append(array.__array_namespace__())
        elif hasattr(array, "shape"):
            from sklearn.externals.array_api_compat import array_namespace

            found.append(array_namespace(array))
    return found[0] if found else np


def device_of(array: Array) -> Any:
    """Return the device of an array, None (the default one) for other containers."""
    return getattr(array, "device", None)


def to_host(array: Array) -> np.ndarray:
    """Return the array as NumPy, moving it only if it is not NumPy already."""
    if isinstance(array, np.ndarray):
        return array
    if hasattr(array, "get"):  # CuPy
        return array.get()
    return np.from_dlpack(array) if hasattr(array, "__dlpack__") else np.asarray(array)
