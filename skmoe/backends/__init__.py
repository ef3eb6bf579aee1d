"""Floor 0: arrays in, arrays out.

The backend contract
--------------------
A backend is a module of pure functions. `_reference` holds all of them, in the plain
array API; it is the specification. A faster backend overrides functions where time is
spent, with the *same name, signature and answer*, and takes all others from the
reference. It falls back to the reference for dtypes and containers that it does not
support.

To add a backend you must

1. write a module that has all functions of the reference, its own with the same
   signatures;
2. agree with the reference on random, tied, extreme and empty inputs (float64 to
   1e-10 relative, float32 to 1e-5); for ``top_k`` the *values* must agree;
3. never move an array to another device and never change its container;
4. name it in `select`, which is the only place that knows which backends exist.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from types import ModuleType

import numpy as np

from . import _reference
from . import _reference as reference
from ._compat import (
    Array,
    device_of,
    filled,
    like,
    namespace,
    on_host,
    to_host,
    total_of,
)
from ._reference._tree import Tree
from ._threads import at_most, few_openmp_threads, one_blas_thread

__all__ = [
    "BACKENDS",
    "Array",
    "Tree",
    "device_of",
    "few_openmp_threads",
    "filled",
    "like",
    "namespace",
    "on_host",
    "one_blas_thread",
    "reference",
    "select",
    "to_device",
    "to_host",
    "total_of",
    "using",
]

BACKENDS = ("auto", "numpy", "numba", "cupy")

NUMBA_FROM = 1 << 12
"""Fewest elements (rows times features or experts) for which kernels are worth it."""

REGION_FROM = 1 << 12
"""Fewest elements for which BLAS may use threads."""

_chosen: ContextVar[str] = ContextVar("skmoe_backend", default="auto")


@contextmanager
def using(
    backend: str, n_elements: int, n_threads: int | None = None
) -> Iterator[None]:
    """Choose the backend of NumPy arrays for all operations inside.

    Parameters
    ----------
    backend : {"auto", "numpy", "numba", "cupy"}
        "auto" takes Numba if ``n_elements`` are enough.
    n_elements : int
        Rows times the features or experts of a row.
    n_threads : int or None
        Most threads of an operation; None takes BLAS's settings.
    """
    if backend == "auto":
        backend = "numba" if n_elements >= NUMBA_FROM else "numpy"
    token = _chosen.set(backend)
    # Numba's operations have their own threads, and the blocks of other operations are
    # so small that BLAS's threads would only wait for each other.
    region = one_blas_thread() if n_elements >= REGION_FROM else nullcontext()
    try:
        with at_most(n_threads), region:
            yield
    finally:
        _chosen.reset(token)


def select(*arrays: Array) -> ModuleType:
    """Return the backend module that serves these arrays."""
    xp = namespace(*arrays)
    backend = _chosen.get()
    if xp is not np:
        ours = xp.__name__.partition(".")[0] == "cupy" and backend != "numpy"
        return _load_cupy() if ours else _reference
    if backend == "auto":
        largest = max((a.shape[0] * a.shape[-1] for a in arrays), default=0)
        backend = "numba" if largest >= NUMBA_FROM else "numpy"
    return _load_numba() if backend == "numba" else _reference


def to_device(array: np.ndarray) -> Array:
    """Return the array as CuPy, on the current device."""
    from ._cupy._device import require

    return require().asarray(array)


@functools.cache
def _load_cupy() -> ModuleType:
    from . import _cupy as backend

    return backend


@functools.cache
def _load_numba() -> ModuleType:
    from . import _numba as backend  # Numba takes half a second to import

    return backend
