"""What the first round tells of a table, and the rows that are drawn from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..estimators import chooses_number, n_asked
from ._rows import check_memory, computed
from ._table import VERSIONS, Look, Table, keys_of, look, take, together, used_rows

SAMPLE_ROWS = 50_000
ROWS_PER_EXPERT = 200
"""The sample that decides has so many rows, or so many for each expert."""

HELD_OUT_ROWS = 50_000
HELD_OUT_PART = 0.1
"""So many rows, and no more than this part of them, choose the mixture at the end."""

SAMPLE_PART = 0.8
"""Part of the rows that the sample is at most, so that some are left to hold out."""

FEW_OF_A_CLASS = 20
"""Rows of a class that the sample has at least, if the table has them."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the first round tells of a table.

    Attributes
    ----------
    table : Table
    looks : sequence of Look
    seed : int
        Of the keys of rows.
    n_rows : int
        Rows of positive weight.
    """

    table: Table
    looks: Sequence[Look]
    seed: int

    @classmethod
    def of(cls, table: Table, seed: int, classifies: bool) -> Self:
        """Look at all partitions; raise if they do not fit together."""
        from dask import delayed

        ask = delayed(look, pure=False)
        check_memory(table.n_bytes)
        asked = [ask(*part.parts, seed, classifies) for part in table.partitions]
        looks = computed(asked)
        for place, each in enumerate(looks):
            if len(set(each.lengths)) > 1:
                raise ValueError(
                    f"Partition {place} of X, y and sample_weight has "
                    f"{each.lengths} rows; they must be equal."
                )
            check_versions(each.versions)
        check_memory([each.n_bytes for each in looks])
        if not sum(each.n_rows for each in looks):
            raise ValueError(
                "X has no rows of positive weight: its partitions are empty, or "
                "sample_weight is 0."
            )
        return cls(table, looks, seed)

    @property
    def n_rows(self) -> int:
        """Rows of positive weight."""
        return sum(each.n_rows for each in self.looks)

    @property
    def fingerprint(self) -> int:
        """Fingerprint of all rows."""
        return sum(each.fingerprint for each in self.looks) % 2**64

    @property
    def classes(self) -> np.ndarray | None:
        """The classes of all partitions."""
        found = [each.classes for each in self.looks if each.classes is not None]
        return np.unique(np.concatenate(found)) if found else None

    def rows(self, first: int, last: int) -> tuple[Any, Any, Any]:
        """Return the rows with keys in an interval, in the order of their keys."""
        parts = self._each(_with_keys, self.seed, first, last)
        keys = np.concatenate([part[3] for part in parts])
        if not len(keys):
            raise ValueError(
                f"No rows were drawn from {self.n_rows}: these are few, or few of them "
                "differ, for equal rows are drawn together. Raise sample_rows to "
                f"{self.n_rows}, or leave repeated rows out and count them in "
                "sample_weight."
            )
        order = np.argsort(keys, kind="stable")
        return _ordered(parts, order)

    def few_of(self, classes: np.ndarray) -> tuple[Any, Any, Any]:
        """Return a few rows of each of some classes: those with the smallest keys."""
        parts = self._each(_few_of_classes, self.seed, classes)
        X, y, weight = _ordered(parts, None)
        keys = np.concatenate([part[3] for part in parts])
        chosen = _smallest(keys, np.asarray(y), classes)
        return take(X, chosen), take(y, chosen), take(weight, chosen)

    def _each(self, function: Any, *args: Any) -> list[tuple[Any, ...]]:
        from dask import delayed

        ask = delayed(function, pure=False)
        pairs = zip(self.table.partitions, self.looks, strict=True)
        asked = [ask(*part.parts, *args) for part, each in pairs if each.n_rows]
        return list(computed(asked))


def check_versions(versions: dict[str, str]) -> None:
    """Raise if a worker has another version of what must be the same."""
    wrong = [
        f"  {name}: {theirs} there, {VERSIONS[name]} here"
        for name, theirs in versions.items()
        if theirs.split(".")[:2] != VERSIONS[name].split(".")[:2]
    ]
    if wrong:
        table = "\n".join(wrong)
        raise ValueError(f"A worker has other versions than this process:\n{table}")


def _with_keys(X, y, weight, seed: int, first: int, last: int) -> tuple[Any, ...]:
    """Return the rows of a partition with keys in an interval, on a worker."""
    used = used_rows(weight, X.shape[0])
    keys = keys_of(X, y, seed)[used]
    chosen = (keys >= first) & (keys <= last - 1)
    rows = used[chosen]
    return take(X, rows), take(y, rows), take(weight, rows), keys[chosen]


def _few_of_classes(X, y, weight, seed: int, classes: np.ndarray) -> tuple[Any, ...]:
    """Return the rows of a partition that may be among the few of classes."""
    used = used_rows(weight, X.shape[0])
    keys = keys_of(X, y, seed)[used]
    chosen = _smallest(keys, np.asarray(y)[used], classes)
    rows = used[chosen]
    return take(X, rows), take(y, rows), take(weight, rows), keys[chosen]


def _smallest(keys: np.ndarray, y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the places of the smallest keys of each class."""
    chosen = []
    for label in classes:
        own = np.flatnonzero(y == label)
        chosen.append(own[np.argsort(keys[own], kind="stable")[:FEW_OF_A_CLASS]])
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=int)


def _ordered(
    parts: Sequence[tuple[Any, ...]], order: np.ndarray | None
) -> tuple[Any, Any, Any]:
    parts = [part for part in parts if len(part[3])] or list(parts[:1])
    columns = [together([part[j] for part in parts]) for j in range(3)]
    if order is not None:
        columns = [take(column, order) for column in columns]
    return columns[0], columns[1], columns[2]


def sample_rows(model: Any) -> int:
    """Return up to how many rows are all of the sample."""
    if model.sample_rows != "auto":
        return int(model.sample_rows)
    number = 0 if chooses_number(model) else n_asked(model)
    return max(SAMPLE_ROWS, ROWS_PER_EXPERT * number)


def held_interval(n_rows: int, wanted: int) -> tuple[int, int]:
    """Return the interval of the keys of rows that are held out."""
    first = _key(wanted / n_rows)
    part = min(HELD_OUT_ROWS / n_rows, HELD_OUT_PART, 0.5 * (1.0 - wanted / n_rows))
    return first, first + _key(part)


def _key(part: float) -> int:
    return min(int(part * 2.0**64), 2**64 - 1)


def sample_of(seen: Seen, wanted: int) -> tuple[Any, Any, Any]:
    """Return the sample: the rows of the smallest keys, and some of each class."""
    X, y, weight = seen.rows(0, _key(wanted / seen.n_rows))
    classes = seen.classes
    if classes is None:
        return X, y, weight
    labels, counts = np.unique(np.asarray(y), return_counts=True)
    enough = labels[counts >= FEW_OF_A_CLASS]
    rare = np.setdiff1d(classes, enough)
    if not len(rare):
        return X, y, weight
    others = np.flatnonzero(~np.isin(np.asarray(y), rare))
    few = seen.few_of(rare)
    columns = [
        together([take(some, others), more]) if some is not None else None
        for some, more in zip((X, y, weight), few, strict=True)
    ]
    return columns[0], columns[1], columns[2]
