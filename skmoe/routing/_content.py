"""Keys of rows: even random numbers that depend on the content of a row alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

ROWS = 4096
"""Rows that are read at once."""

MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
LAST_MULTIPLIER = np.uint64(0x94D049BB133111EB)
"""Constants of SplitMix64 [1]_.

.. [1] G. L. Steele, D. Lea and C. H. Flood, "Fast splittable pseudorandom number
   generators", OOPSLA (2014) 453-472. doi:10.1145/2660193.2660195
"""


def row_keys(X: Any, seed: int = 0) -> np.ndarray:
    """Return a key for each row of a matrix, (n,) array of uint64.

    Equal rows have equal keys, whatever rows stand around them: 0 is -0, and all NaN
    are one.

    Parameters
    ----------
    X : (n, d) array or CSR
        On the host.
    seed : int
        Other seeds give other keys.
    """
    random = np.random.RandomState(seed % 2**32)
    draws = random.randint(2**63 - 1, size=X.shape[1] + 1, dtype=np.int64)
    first_key, *odds = 2 * draws.astype(np.uint64) + np.uint64(1)
    keys = np.empty(X.shape[0], dtype=np.uint64)
    for first in range(0, len(keys), ROWS):
        rows = slice(first, first + ROWS)
        part = X[rows]
        part = part.toarray() if sparse.issparse(part) else part
        total = (_mixed(_bits(part)) * np.array(odds)).sum(axis=1, dtype=np.uint64)
        keys[rows] = _mixed(first_key + total)
    return keys


def mixed_keys(keys: np.ndarray, number: int) -> np.ndarray:
    """Return other keys for each number, (n,) array of uint64."""
    with np.errstate(over="ignore"):
        return _mixed(keys ^ _mixed(np.full(1, number + 1, dtype=np.uint64)))


def bytes_of(X: Any) -> int:
    """Return how much memory an array, a CSR matrix or a data frame takes."""
    if sparse.issparse(X):
        return X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    if hasattr(X, "memory_usage"):
        return int(X.memory_usage(deep=True).sum())
    return int(np.asarray(X).nbytes)


def _bits(X: np.ndarray) -> np.ndarray:
    """Return the bits of numbers as whole numbers, (n, d)."""
    values = np.add(X, 0.0, dtype=np.float64)
    values[np.isnan(values)] = np.nan
    return values.view(np.uint64)


def _mixed(key: np.ndarray) -> np.ndarray:
    """Return keys in which each bit depends on all bits of the old ones."""
    key = (key ^ (key >> np.uint64(30))) * MULTIPLIER
    key = (key ^ (key >> np.uint64(27))) * LAST_MULTIPLIER
    return key ^ (key >> np.uint64(31))
