"""Rows of a Dask table as the engine sums over them: one round a pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backends import one_blas_thread, using
from ..em import InParts, Lesson, Rows, rows_of_part, taught
from ..routing import Table as Units
from ._table import Look, Partition, fingerprint_of, keys_of, take, used_rows

SHARD = 128 << 20
"""Bytes of rows, about, that one task sums over: small partitions are summed together,
for a task costs some milliseconds."""

LEAST_SHARD = 4 << 20
SHARDS = 64
"""Shards are smaller, but no smaller than this, if there would be fewer of them."""

FAN_IN = 8
"""Sums that one task adds, in the tree above shards. Above `SHARDS` shards, so many at
most are summed one after the other, into one accumulator."""

RETRIES = 2
"""How often a task that failed with its worker is tried again."""

LOST = (
    "CancelledError",
    "ClosedClientError",
    "CommClosedError",
    "FutureCancelledError",
    "FuturesCancelledError",
)
"""Errors of distributed after which nothing can be computed again."""

COPIES = 3
"""A task holds a partition, its checked rows and what it makes of them."""

SHARE_OF_MEMORY = 0.6
"""Rows stay in memory between rounds if they take no more than this share of it."""


@dataclass(frozen=True, eq=False)
class Shard:
    """Consecutive partitions that are summed over together.

    Attributes
    ----------
    partitions : sequence of Partition
    places : sequence of int
        Their numbers in the table.
    fingerprint : int
        Fingerprint of all rows of the partitions.
    run : (int, int)
        Which run of their rows it has, of so many: large partitions are cut.
    """

    partitions: Sequence[Partition]
    places: Sequence[int]
    fingerprint: int
    run: tuple[int, int]


def shards_of(partitions: Sequence[Partition], looks: Sequence[Look]) -> list[Shard]:
    """Pack partitions into shards; the plan depends on the table alone."""
    total = sum(look.n_bytes for look in looks)
    wanted = min(SHARD, max(LEAST_SHARD, total // SHARDS))
    shards: list[Shard] = []
    for places in _packed(looks, wanted):
        chosen = [partitions[i] for i in places]
        fingerprint = sum(looks[i].fingerprint for i in places) % 2**64
        size = sum(looks[i].n_bytes for i in places)
        n_runs = -(-size // wanted) if size > 2 * wanted else 1
        shards += [
            Shard(chosen, tuple(places), fingerprint, (run, n_runs))
            for run in range(n_runs)
        ]
    return shards


def _packed(looks: Sequence[Look], wanted: int) -> list[list[int]]:
    """Return the places of partitions that are summed over together."""
    groups: list[list[int]] = []
    room = 0
    for place, look in enumerate(looks):
        if not look.n_rows:
            continue
        if look.n_bytes > room:
            groups.append([])
            room = wanted
        groups[-1].append(place)
        room -= look.n_bytes
    return groups


# ------------------------------------------------------------------ work on a shard
@dataclass(frozen=True, eq=False)
class Reading:
    """How the rows of a partition become rows of the engine.

    Attributes
    ----------
    model : BaseMoE
        Fitted on the sample: it reads rows as it did there.
    seen, read : Units
    seed : int
        Of the keys of rows.
    held : (int, int)
        Rows with keys in this interval are held out.
    lessons : bool
        Whether parts are lessons, for learners that are fitted one by one.
    """

    model: Any
    seen: Units
    read: Units
    seed: int
    held: tuple[int, int]
    lessons: bool

    def part(self, X: Any, y: Any, weight: Any, keys: np.ndarray) -> Rows | Lesson:
        """Return rows as a part."""
        problem = self.model._batch(X, y, weight)
        if self.lessons:
            return Lesson(problem, keys)
        return rows_of_part(problem, self.seen, self.read)


def read_shard(
    reading: Reading,
    places: Sequence[int],
    fingerprint: int,
    run: Any,
    parts: Sequence[Any],
) -> InParts:
    """Return the rows of a shard, on a worker."""
    found = []
    total = 0
    with using("numpy", 0):
        for place, (X, y, weight) in zip(places, parts, strict=True):
            with _about(f"partition {place}"):
                used = used_rows(weight, X.shape[0])
                keys = keys_of(X, y, reading.seed)[used]
                total += fingerprint_of(keys, take(weight, used))
                first, last = reading.held
                learns = np.flatnonzero((keys < first) | (keys >= last))
                learns = np.array_split(learns, run[1])[run[0]]
                if not len(learns):
                    continue
                # This copies rows of memory-mapped files.
                few = (take(each, used[learns]) for each in (X, y, weight))
                found.append(reading.part(*few, keys[learns]))
    if total % 2**64 != fingerprint:
        where = f"{places[0]} to {places[-1]}" if len(places) > 1 else str(places[0])
        raise ValueError(
            f"The rows of partition {where} are not those that fit saw before: the "
            "graph of X or y gives other values each time it is computed. Sample with "
            "a fixed seed, or call persist() first."
        )
    return InParts(found, reading.seen, reading.read)


def added(before: Any, shard: InParts, places: Any, function: Callable, *args: Any):
    """Return the sums of a chain of shards and those of one more."""
    if not shard.parts:
        return before
    with one_blas_thread(), using("numpy", 0), _about(f"partitions {places}"):
        sums = shard.total(function, *args)
        return sums if before is None else before.plus(sums)


def joined(*sums: Any) -> Any:
    """Return the sum of several sums; None stands for no rows."""
    total = None
    for each in sums:
        if each is not None:
            total = each if total is None else total.plus(each)
    return total


@contextlib.contextmanager
def _about(where: str):
    """Add to an error where it arose."""
    try:
        yield
    except Exception as error:
        note = f"While reading {where} of X and y."
        if not getattr(error, "__notes__", None):
            error.add_note(note)
        raise


# --------------------------------------------------------------------- on the client
@dataclass(eq=False)
class DaskRows:
    """The rows of a Dask table; see `AllRows`.

    Attributes
    ----------
    shards : list of Delayed
    places : list of tuple of int
        Partitions of each shard.
    seen, read : Units
    n_rounds : int
        Rounds over the rows so far.
    """

    shards: list[Any]
    places: list[tuple[int, ...]]
    seen: Units
    read: Units
    n_rounds: int = field(default=0)

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the sum over the shards of ``function(rows, *args)``."""
        return computed([self._total(function, *args)])[0]

    def taught(
        self, learners: Sequence[Any], function: Callable[..., Any], *args: Any
    ) -> list[Any]:
        """Return pools of one expert, each taught its share where the shares are."""
        from dask import delayed

        shares = self._total(function, *args)
        fit = delayed(taught, pure=False)
        return list(computed([fit(one, shares, k) for k, one in enumerate(learners)]))

    def _total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the sum, not computed yet: chains of shards, and a tree above them."""
        from dask import delayed

        self.n_rounds += 1
        sent = [delayed(arg, pure=False) for arg in args]
        add, join = delayed(added, pure=False), delayed(joined, pure=False)
        chains = []
        length = min(FAN_IN, -(-len(self.shards) // SHARDS))
        for first in range(0, len(self.shards), length):
            total = None
            for i in range(first, min(first + length, len(self.shards))):
                total = add(total, self.shards[i], self.places[i], function, *sent)
            chains.append(total)
        while len(chains) > 1:
            groups = range(0, len(chains), FAN_IN)
            chains = [join(*chains[i : i + FAN_IN]) for i in groups]
        return chains[0]


def computed(delayed_values: list[Any]) -> tuple[Any, ...]:
    """Compute delayed values on the current client, or on Dask's threads."""
    import dask

    with explained():
        return dask.compute(*delayed_values, **_options())


def persisted(delayed_values: list[Any], n_bytes: int) -> list[Any]:
    """Return values that stay in memory between rounds, if they fit into it."""
    import dask

    if n_bytes > SHARE_OF_MEMORY * memory():
        return delayed_values
    with explained():
        return list(dask.persist(*delayed_values, **_options()))


@contextlib.contextmanager
def explained():
    """Say of errors of the cluster what they mean for the rows."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "KilledWorker":
            raise RuntimeError(
                f"Several workers died while they computed {error.task!r}. If it is a "
                "partition that is too large for a worker, repartition X and y into "
                "smaller ones, or give workers more memory."
            ) from error
        if type(error).__name__ in LOST:
            raise RuntimeError(
                "Rows or sums are lost, and nothing makes them again: the scheduler is "
                "gone, or a worker died that held rows of X or y which were scattered "
                "to it, not loaded by it. A fit with a checkpoint can be gone on from."
            ) from error
        raise


def _options() -> dict[str, Any]:
    return {"retries": RETRIES} if has_client() else {"scheduler": _here()}


def _here() -> str:
    """Return the scheduler without a client: the user's choice, or threads."""
    import dask

    return dask.config.get("scheduler", None) or "threads"


def check_memory(n_bytes: Sequence[int]) -> None:
    """Raise if a partition is too large for the memory that a worker has for a task."""
    if not n_bytes or not has_client():
        return
    from distributed import get_client

    workers = get_client().scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] / w["nthreads"] for w in workers if w["memory_limit"]]
    place = int(np.argmax(n_bytes))
    if limits and COPIES * n_bytes[place] > min(limits):
        raise ValueError(
            f"Partition {place} of X has {n_bytes[place] / 2**20:.0f} MiB. A task "
            f"needs {COPIES} times as much, and a worker has "
            f"{min(limits) / 2**20:.0f} MiB for a task. Repartition X and y into "
            "smaller ones, or give workers more memory or fewer threads."
        )


def memory() -> float:
    """Return the memory of the workers, or what is free on this machine, in bytes."""
    if has_client():
        from distributed import get_client

        workers = get_client().scheduler_info(n_workers=-1)["workers"].values()
        limits = [worker["memory_limit"] for worker in workers]
        return float(sum(limits)) if all(limits) else np.inf
    import psutil

    return float(psutil.virtual_memory().available)


def has_client() -> bool:
    """Tell whether there is a current client of distributed."""
    import sys

    if "distributed" not in sys.modules:
        return False
    from distributed import get_client

    try:
        get_client()
    except ValueError:
        return False
    return True
