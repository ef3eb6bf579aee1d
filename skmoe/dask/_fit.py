"""Fit on a Dask table: what decides runs on a sample, what learns runs on all rows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from ..backends import one_blas_thread, using
from ..em import (
    Candidate,
    LastPasses,
    Model,
    PassInfo,
    Progress,
    candidates,
    climb,
    service,
)
from ..estimators import (
    chooses_number,
    n_asked,
    parts_of,
    set_fitted,
    split_gate,
    training_width,
)
from ..routing import Table as Units
from ._checkpoint import Checkpoint
from ._refused import check_parts
from ._rows import DaskRows, Reading, computed, persisted, read_shard, shards_of
from ._table import (
    VERSIONS,
    Look,
    Table,
    keys_of,
    look,
    take,
    together,
    used_rows,
)

SAMPLE_ROWS = 50_000
ROWS_PER_EXPERT = 200
"""The sample that decides has so many rows, or so many for each expert."""

HELD_OUT_ROWS = 50_000
HELD_OUT_PART = 0.1
"""So many rows, and no more than this part of them, choose the mixture at the end."""

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
        asked = [ask(*part.parts, seed, classifies) for part in table.partitions]
        looks = computed(asked)
        for place, each in enumerate(looks):
            if len(set(each.lengths)) > 1:
                raise ValueError(
                    f"Partition {place} of X, y and sample_weight has "
                    f"{each.lengths} rows; they must be equal."
                )
            check_versions(each.versions)
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
    def print(self) -> int:
        """Fingerprint of all rows."""
        return sum(each.print for each in self.looks) % 2**64

    @property
    def classes(self) -> np.ndarray | None:
        """The classes of all partitions."""
        found = [each.classes for each in self.looks if each.classes is not None]
        return np.unique(np.concatenate(found)) if found else None

    def rows(self, first: int, last: int) -> tuple[Any, Any, Any]:
        """Return the rows with keys in an interval, in the order of their keys."""
        parts = self._each(_with_keys, self.seed, first, last)
        keys = np.concatenate([part[3] for part in parts])
        order = np.argsort(keys, kind="stable")
        return _ordered(parts, order)

    def all_rows(self) -> tuple[Any, Any, Any]:
        """Return all rows of positive weight, in their order."""
        parts = self._each(_with_keys, self.seed, 0, 2**64)
        return _ordered(parts, None)

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


# --------------------------------------------------------------------------- a fit
def fit_on_table(model: Any, table: Table, fit_here: Callable[..., Any]) -> None:
    """Fit an estimator to a Dask table.

    Parameters
    ----------
    model : DaskMoERegressor or DaskMoEClassifier
    table : Table
    fit_here : callable
        ``fit_here(X, y, sample_weight)`` fits the estimator in memory.
    """
    check_parts(model)
    random = check_random_state(copy.deepcopy(model.random_state))
    seed = int(random.randint(2**31 - 1))
    seen = Seen.of(table, seed, model._classifies)
    checkpoint = Checkpoint.of(model, seen.print)
    wanted = _sample_rows(model)
    if seen.n_rows <= wanted:
        fit_here(*seen.all_rows())
        set_fitted(model, {"sample_size_": seen.n_rows, "n_rounds_": 0})
        return
    progress = checkpoint.restore(model)
    if progress is None:
        sample = _sample(seen, wanted)
        fit_here(*sample)
        set_fitted(
            model, {"sample_size_": sample[0].shape[0], "_units": _units(model, sample)}
        )
        progress = Progress.of(Model(model._gates[0], model._own_pool))
        checkpoint.write(model, progress)
    _learn_from_all(
        model, seen, _held_interval(seen.n_rows, wanted), progress, checkpoint
    )


def _learn_from_all(
    model: Any,
    seen: Seen,
    held: tuple[int, int],
    progress: Progress,
    checkpoint: Checkpoint,
) -> None:
    """Go on from the mixture of the sample, on all rows but those held out."""

    def told(progress: Progress) -> bool:
        _say(model, progress.passes[-1])
        checkpoint.write(model, progress)
        return False

    rows = _rows(model, seen, held)
    X, y, weight = seen.rows(*held)
    width = training_width(model)
    with one_blas_thread(), using("numpy", 0):
        progress = climb(rows, progress, width, model.max_iter, model.tol, told)
        last = LastPasses(model._rule, model.n_experts_, width, model.tol)
        n_outputs = 1 if np.ndim(y) == 1 else y.shape[1]
        found = candidates(rows, progress.model, last, _shrinkages(model), n_outputs)
        _take_best(model, rows, found, (X, y, weight))
    passes = progress.passes
    bounds = np.array([each.bound for each in passes])
    history = {"start": "all rows", "n_experts": model.n_experts_, "bounds": bounds}
    set_fitted(
        model,
        {
            "lower_bound_": bounds[-1],
            "lower_bounds_": bounds,
            "n_iter_": len(passes),
            "converged_": bool(progress.converged),
            "history_": [*model.history_, history],
            "n_rounds_": rows.n_rounds,
        },
    )


def _take_best(
    model: Any, rows: DaskRows, found: Sequence[Candidate], held: tuple[Any, Any, Any]
) -> None:
    """Take over the mixture that explains the rows held out best.

    That of the sample stays unless another is better.
    """
    before, _ = split_gate(model.gate_)
    most = _worth(model, held)
    worth = {"sample": most}
    best = None
    for candidate in found:
        trial = copy.copy(model)
        set_fitted(trial, _parts(trial, before, candidate, model.expert_load_))
        worth[candidate.name] = _worth(trial, held)
        if worth[candidate.name] > most:
            best, most = candidate, worth[candidate.name]
    diagnostics = {f"held_out: {name}": value for name, value in worth.items()}
    set_fitted(model, {"diagnostics_": model.diagnostics_ | diagnostics})
    if best is None:
        return
    top_k = model.top_k or model.n_experts_
    sums = rows.total(service, best.model, top_k)
    set_fitted(model, _parts(model, before, best, sums.load / sums.weight))
    bound = float(sums.bound)
    set_fitted(
        model,
        {
            "_own_pool": best.unshrunk,
            "_rows_learned": float(sums.weight),
            "routed_bound_": bound,
            "shrinkage_": best.shrinkage,
            "diagnostics_": model.diagnostics_ | {"routed_bound": bound},
        },
    )


def _parts(model: Any, before: Any, candidate: Candidate, load: Any) -> dict[str, Any]:
    gate, pool = candidate.model.gate, candidate.model.experts
    return parts_of(model, before, gate, pool, load)


def _worth(model: Any, held: tuple[Any, Any, Any]) -> float:
    """Return the mean log-likelihood of rows, as predict routes them."""
    X, y, weight = held
    return float(np.average(model.score_samples(X, y), weights=weight))


def _shrinkages(model: Any) -> list[float]:
    """Return how far experts are shrunk on trial: as on the sample, and wholly."""
    return sorted({model.shrinkage_, 1.0} - {0.0})


def _units(model: Any, sample: tuple[Any, Any, Any]) -> list[tuple[Any, Any]]:
    """Return centre and scale of what gate and experts see, measured on the sample."""
    with using("numpy", 0):
        content = model._batch(*sample).content
        tables = content.gate_table, content.table
    return [(table.center, table.scale) for table in tables]


def _say(model: Any, info: PassInfo) -> None:
    if model.verbose:
        print(
            f"[{type(model).__name__}] pass {info.n_pass} on all rows: bound "
            f"{info.bound:.6f}, gain {info.gain:.1e}",
            flush=True,
        )


def _sample_rows(model: Any) -> int:
    if model.sample_rows != "auto":
        return int(model.sample_rows)
    number = 0 if chooses_number(model) else n_asked(model)
    return max(SAMPLE_ROWS, ROWS_PER_EXPERT * number)


def _held_interval(n_rows: int, wanted: int) -> tuple[int, int]:
    """Return the interval of the keys of rows that are held out."""
    first = _key(wanted / n_rows)
    part = min(HELD_OUT_ROWS / n_rows, HELD_OUT_PART, 0.5 * (1.0 - wanted / n_rows))
    return first, first + _key(part)


def _key(part: float) -> int:
    return min(int(part * 2.0**64), 2**64 - 1)


def _sample(seen: Seen, wanted: int) -> tuple[Any, Any, Any]:
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


def _rows(model: Any, seen: Seen, held: tuple[int, int]) -> DaskRows:
    """Return all rows but those held out, in shards."""
    from dask import delayed

    units = model._units
    tables = [Units(np.zeros((0, len(c))), c, s, seen.n_rows) for c, s in units]
    reading = Reading(_reader(model), *tables, seen.seed, held)
    sent = delayed(reading, pure=False)
    shards = shards_of(
        seen.table.partitions,
        [each.n_rows for each in seen.looks],
        [each.n_bytes for each in seen.looks],
        [each.print for each in seen.looks],
    )
    read = delayed(read_shard, pure=False)
    delayed_shards = [
        read(
            sent,
            each.places,
            each.print,
            each.run,
            [part.parts for part in each.partitions],
        )
        for each in shards
    ]
    n_bytes = sum(each.n_bytes for each in seen.looks)
    places = [each.places for each in shards]
    return DaskRows(persisted(delayed_shards, n_bytes), places, *tables)


def _reader(model: Any) -> Any:
    """Return a small copy of the model that reads rows as it does."""
    reader = copy.copy(model)
    for name in ("history_", "selection_path_", "_own_pool"):
        vars(reader).pop(name, None)
    return reader
