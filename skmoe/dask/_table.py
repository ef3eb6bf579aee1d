"""Dask collections as a table of partitions, and what one look at them tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from platform import python_version_tuple
from typing import Any, Self

import numpy as np
import sklearn
from scipy import sparse

from .._version import __version__
from ..routing import bytes_of, mixed_keys, row_keys

VERSIONS = {
    "skmoe": __version__,
    "scikit-learn": sklearn.__version__,
    "numpy": np.__version__,
    "python": ".".join(python_version_tuple()[:2]),
}
"""What must be the same on all workers, to the second place."""


def is_collection(X: Any) -> bool:
    """Tell whether X is a Dask collection, without importing Dask."""
    graph = getattr(X, "__dask_graph__", None)
    return callable(graph) and graph() is not None


@dataclass(frozen=True, eq=False)
class Partition:
    """Rows of a table, not computed yet.

    Attributes
    ----------
    X, y, weight : Delayed
        ``weight`` is None if all rows count alike.
    """

    X: Any
    y: Any
    weight: Any

    @property
    def parts(self) -> tuple[Any, Any, Any]:
        """X, y and weight."""
        return self.X, self.y, self.weight


@dataclass(frozen=True, eq=False)
class Look:
    """What one look at a partition tells.

    Attributes
    ----------
    n_rows : int
        Number of its rows of positive weight.
    n_bytes : int
    lengths : tuple of int
        Rows of X, y and weight.
    fingerprint : int
        Fingerprint of its rows and their weights.
    classes : array or None
        The distinct values of y if these are classes.
    versions : dict
    """

    n_rows: int
    n_bytes: int
    lengths: tuple[int, ...]
    fingerprint: int
    classes: np.ndarray | None
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Table:
    """Partitions of the same rows of X, y and weight.

    Attributes
    ----------
    partitions : sequence of Partition
    n_bytes : list of int
        Bytes of each partition of X where these are known before it is read.
    """

    partitions: Sequence[Partition]
    n_bytes: list[int]

    @classmethod
    def of(cls, X: Any, y: Any, weight: Any) -> Self:
        """Read the arguments of fit; y and weight may name columns of X."""
        _check_form(X)
        names = [name for name in (y, weight) if isinstance(name, str)]
        _check_names(X, names)
        check_categories(X)
        whole = _delayed(X, "X")
        lists = [_without(whole, names)]
        for name, given in (("y", y), ("sample_weight", weight)):
            if given is None:
                lists.append([None] * len(whole))
            elif isinstance(given, str):
                lists.append(_column(whole, given))
            else:
                lists.append(_beside(given, X, name, len(whole)))
        partitions = [Partition(*parts) for parts in zip(*lists, strict=True)]
        return cls(partitions, _known_bytes(X))


def _known_bytes(X: Any) -> list[int]:
    """Return the bytes of the chunks of a dense array, if their lengths are known."""
    dense = not hasattr(X, "divisions") and isinstance(X._meta, np.ndarray)
    if not dense or np.isnan(X.chunks[0]).any():
        return []
    row = int(np.prod(X.shape[1:])) * X.dtype.itemsize
    return [n * row for n in X.chunks[0]]


def _check_form(X: Any) -> None:
    """Raise unless X has rows and columns, and no two columns of one name."""
    axes = getattr(X, "ndim", None)
    if not isinstance(axes, int):
        raise TypeError(
            f"X must be a Dask Array or DataFrame; got {type(X).__name__}. "
            "dask.array.from_delayed and dask.dataframe.from_delayed make one."
        )
    if axes != 2:
        raise ValueError(f"X must have two axes, rows and columns; it has {axes}.")
    names = list(getattr(X, "columns", ()))
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"X has several columns of the same name: {twice}.")


def _check_names(X: Any, names: list[str]) -> None:
    """Raise unless X has columns of these names."""
    if names and not hasattr(X, "columns"):
        raise TypeError(
            f"y or sample_weight names a column, {names[0]!r}, so X must be a Dask "
            f"DataFrame; got {type(X).__name__}."
        )
    for name in names:
        if name not in X.columns:
            raise ValueError(f"X has no column {name!r}.")


def _without(whole: list[Any], names: list[str]) -> list[Any]:
    """Return partitions without some columns."""
    return [part.drop(columns=names) for part in whole] if names else whole


def _column(whole: list[Any], name: str) -> list[Any]:
    """Return a column of each partition."""
    return [part[name] for part in whole]


def _beside(given: Any, X: Any, name: str, n_partitions: int) -> list[Any]:
    """Return the partitions of a collection that is divided as X is."""
    if not is_collection(given):
        raise TypeError(
            f"{name} must be a Dask collection, as X is; got {type(given).__name__}."
        )
    parts = _delayed(like_chunks(given, X), name)
    if len(parts) != n_partitions:
        raise ValueError(
            f"{name} has {len(parts)} partitions and X has {n_partitions}; they must "
            "be divided alike."
        )
    return parts


def check_categories(X: Any) -> None:
    """Raise if the categories of a column are not known before it is computed."""
    for name in getattr(X, "columns", ()):
        column = X[name]
        if str(column.dtype) == "category" and not column.cat.known:
            raise ValueError(
                f"Column {name!r} of X has unknown categories, so its partitions may "
                "code them differently. Call X.categorize() first."
            )


def like_chunks(y: Any, X: Any) -> Any:
    """Return an array with the chunks of rows of X, if both are arrays and known."""
    if not (hasattr(y, "chunks") and hasattr(X, "chunks")):
        return y
    known = not any(np.isnan(size) for size in (*y.chunks[0], *X.chunks[0]))
    if known and y.chunks[0] != X.chunks[0] and y.shape[0] == X.shape[0]:
        return y.rechunk({0: X.chunks[0]})
    return y


def _delayed(collection: Any, name: str) -> list[Any]:
    """Return the partitions of a collection as delayed values."""
    if hasattr(collection, "chunks") and not hasattr(collection, "divisions"):
        if collection.ndim == 2 and len(collection.chunks[1]) > 1:
            collection = collection.rechunk({1: -1})
        return list(collection.to_delayed().ravel())
    if hasattr(collection, "to_delayed"):
        # Else files might be read together, not alike in X and y.
        return list(collection.to_delayed(optimize_graph=False))
    raise TypeError(
        f"{name} must be a Dask Array or DataFrame; got {type(collection).__name__}."
    )


# ------------------------------------------------------------ work on one partition
def look(X: Any, y: Any, weight: Any, seed: int, classifies: bool) -> Look:
    """Look at a partition, on a worker."""
    lengths = tuple(_length(part) for part in (X, y, weight) if part is not None)
    if len(set(lengths)) > 1:
        return Look(0, 0, lengths, 0, None, VERSIONS)
    used = used_rows(weight, lengths[0])
    keys = keys_of(X, y, seed)[used]
    classes = None
    if classifies and len(used):
        classes = np.unique(np.asarray(y)[used])
    total = fingerprint_of(keys, take(weight, used))
    return Look(len(used), bytes_of(X), lengths, total, classes, VERSIONS)


def used_rows(weight: Any, n_rows: int) -> np.ndarray:
    """Return the places of the rows of positive weight; raise if any has no weight."""
    if weight is None:
        return np.arange(n_rows)
    return np.flatnonzero(weights_of(weight) > 0)


def weights_of(weight: Any) -> np.ndarray:
    """Return the weights of rows as numbers; raise if they are none."""
    try:
        numbers = np.asarray(weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight must hold numbers: {error}") from error
    if numbers.ndim != 1:
        raise ValueError(
            f"sample_weight must have one axis, a weight for each row; got "
            f"{numbers.ndim} axes."
        )
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers >= 0)))
    if len(wrong):
        raise ValueError(
            f"sample_weight must hold finite numbers of 0 or more; {len(wrong)} of the "
            f"{len(numbers)} in a partition are not, such as {numbers[wrong[0]]:g}."
        )
    return numbers


def keys_of(X: Any, y: Any, seed: int) -> np.ndarray:
    """Return keys of rows and their targets, (n,) array of uint64."""
    if hasattr(X, "columns"):
        keys = _keys_of_frame(X)
    elif X.dtype.kind not in "biuf":
        from pandas import DataFrame

        keys = _keys_of_frame(DataFrame(X))
    else:
        keys = row_keys(X)
    target = np.asarray(y)
    if target.dtype.kind in "OUST":
        from pandas.util import hash_array

        target = hash_array(target.astype(object), categorize=True)
        target = target.view(np.int64).astype(np.float64)
    target = target if target.ndim == 2 else target[:, None]
    halves = np.column_stack([keys >> np.uint64(32), keys & np.uint64(2**32 - 1)])
    return row_keys(np.column_stack([halves.astype(np.float64), target]), seed)


def fingerprint_of(keys: np.ndarray, weight: Any) -> int:
    """Return a fingerprint of rows and their weights: a sum, in any order of rows."""
    if weight is not None:
        bits = weights_of(weight).view(np.uint64)
        keys = mixed_keys(keys ^ mixed_keys(bits, 0), 0)
    return int(np.sum(keys, dtype=np.uint64))


def _keys_of_frame(X: Any) -> np.ndarray:
    from pandas.util import hash_pandas_object

    return hash_pandas_object(X, index=False).to_numpy().astype(np.uint64)


def take(rows: Any, which: np.ndarray) -> Any:
    """Return some rows of an array, a matrix or a frame."""
    if rows is None:
        return None
    return rows.iloc[which] if hasattr(rows, "iloc") else rows[which]


def together(parts: Sequence[Any]) -> Any:
    """Return rows below each other."""
    if parts[0] is None:
        return None
    if len(parts) == 1:
        return parts[0]
    if hasattr(parts[0], "iloc"):
        import pandas

        return pandas.concat(parts, ignore_index=True)
    if sparse.issparse(parts[0]):
        return sparse.vstack(parts, format="csr")
    return np.concatenate(parts)


def _length(rows: Any) -> int:
    return rows.shape[0] if hasattr(rows, "shape") else len(rows)
