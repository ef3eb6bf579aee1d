"""The only module that asks which array library an array belongs to."""

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
    spaces: list[ModuleType] = []
    for array in arrays:
        if isinstance(array, np.ndarray) or array is None or sparse.issparse(array):
            continue
        if hasattr(array, "__array_namespace__"):
            spaces.append(array.__array_namespace__())
        elif hasattr(array, "__dlpack__"):
            from sklearn.externals.array_api_compat import array_namespace

            spaces.append(array_namespace(array))
    return spaces[0] if spaces else np


def device_of(array: Array) -> Any:
    """Return the device of an array, None (the default one) for other containers."""
    return getattr(array, "device", None)


def to_host(array: Array) -> np.ndarray:
    """Return the array as NumPy, moving it only if it is not NumPy already.

    This is the only way from a device to the host: no other line reads device numbers.
    """
    if isinstance(array, (np.ndarray, np.generic)):
        return np.asarray(array)
    if hasattr(array, "get"):  # CuPy
        return array.get()
    if hasattr(array, "__array_namespace__"):
        host = array.__array_namespace__().__array_namespace_info__().default_device()
        return np.from_dlpack(array.to_device(host))
    if hasattr(array, "__dlpack__"):  # PyTorch
        return np.from_dlpack(array.detach().cpu())
    return np.asarray(array)


def on_host(array: Any) -> Any:
    """Return an array of another library as NumPy; all else is left as it is."""
    return array if namespace(array) is np else to_host(array)


def total_of(values: Array) -> float:
    """Return the sum of an array, as a number on the host."""
    return float(to_host(namespace(values).sum(values)))


def like(array: Array, other: Array, dtype: Any = None) -> Array:
    """Return the array in the container and on the device of ``other``."""
    xp = namespace(other)
    if xp is np:
        return np.asarray(to_host(array), dtype=dtype)
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.copy()  # PyTorch shares memory, and refuses read-only memory
    return xp.asarray(array, dtype=dtype, device=device_of(other))


def filled(indices: Array) -> Array:
    """Return expert indices with 0 instead of -1, which are safe to look up."""
    xp = namespace(indices)
    return xp.maximum(indices, xp.zeros_like(indices))
