"""Fit on a Dask table: what decides runs on a sample, what learns runs on all rows."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from ..backends import one_blas_thread, using
from ..em import (
    Candidate,
    LastPasses,
    Model,
    PassInfo,
    Progress,
    Sums,
    alternatives,
    candidates,
    climb,
    meet,
    served,
    service,
    teach,
)
from ..estimators import parts_of, set_fitted, split_gate, training_width
from ..routing import Table as Units
from ._checkpoint import Checkpoint, check_path
from ._refused import check_parts
from ._rows import DaskRows, Reading, persisted, read_shard, shards_of
from ._seen import SAMPLE_PART, Seen, held_interval, sample_of, sample_rows
from ._table import Table

ROWS_PER_EXPERT = 200_000
"""Rows, at most, that a learner is fitted on which is fitted one by one."""


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
    check_path(model)
    deadline = time.monotonic() + (model.max_time or np.inf)
    random = check_random_state(copy.deepcopy(model.random_state))
    seed = int(random.randint(2**31 - 1))
    seen = Seen.of(table, seed, model._classifies)
    checkpoint = Checkpoint.of(model, seen.fingerprint)
    wanted = sample_rows(model)
    if seen.n_rows <= wanted:
        fit_here(*seen.rows(0, 2**64))
        set_fitted(model, {"sample_size_": seen.n_rows, "n_rounds_": 0})
        return
    wanted = min(wanted, int(SAMPLE_PART * seen.n_rows))
    progress = checkpoint.restore(model)
    if progress is None:
        sample = sample_of(seen, wanted)
        fit_here(*sample)
        size = sample[0].shape[0]
        set_fitted(model, {"sample_size_": size, "_units": _units(model, sample)})
        progress = Progress.of(Model(model._gates[0], model._own_pool))
        checkpoint.write(model, progress)
    held = held_interval(seen.n_rows, wanted)
    with one_blas_thread(), using("numpy", 0):
        if _adds_up(model):
            _learn_from_sums(model, seen, held, progress, checkpoint, deadline)
        else:
            _learn_from_shares(model, seen, held)


def _adds_up(model: Any) -> bool:
    """Tell whether the experts learn from sums over rows."""
    n_columns = len(model._units[1][0])
    return bool(n_columns) and model._own_pool.goes_on(n_columns)


def _learn_from_sums(
    model: Any,
    seen: Seen,
    interval: tuple[int, int],
    progress: Progress,
    checkpoint: Checkpoint,
    deadline: float,
) -> None:
    """Go on from the mixture of the sample, on all rows but those held out.

    No pass of EM begins after the deadline; the choice at the end is made in any case.
    """

    def told(progress: Progress) -> bool:
        _say(model, progress.passes[-1])
        checkpoint.write(model, progress)
        return time.monotonic() >= deadline

    rows = _rows(model, seen, interval, lessons=False)
    held = seen.rows(*interval)
    width = training_width(model)
    progress = climb(rows, progress, width, model.max_iter, model.tol, told)
    last = LastPasses(model._rule, model.n_experts_, width, model.tol)
    found = candidates(rows, progress.model, last, _shrinkages(model))
    best = _best(model, found, held)
    if best is not None:
        top_k = model.top_k or model.n_experts_
        _take_over(model, best, rows.total(service, best.model, top_k))
    _set_record(model, rows, progress.passes, bool(progress.converged))
    if model.max_time is not None:
        late = float(time.monotonic() >= deadline and not progress.converged)
        late = max(late, model.diagnostics_["out_of_time"])
        set_fitted(model, {"diagnostics_": model.diagnostics_ | {"out_of_time": late}})


def _learn_from_shares(model: Any, seen: Seen, interval: tuple[int, int]) -> None:
    """Fit the experts of the sample's mixture anew, each to its share of all rows."""
    rows = _rows(model, seen, interval, lessons=True)
    held = seen.rows(*interval)
    width = training_width(model)
    most = model.rows_per_expert
    most = ROWS_PER_EXPERT if most == "auto" else int(most)
    gate = model._gates[0]
    new = teach(rows, Model(gate, model._pool), model._own_pool, width, most)
    problem = model._batch(*held)
    found = alternatives(new, gate, problem, width, _shrinkages(model))
    most_likely = max(found, key=lambda each: _worth_of(model, each, held))
    met, passes = meet(rows, most_likely, width)
    best = _best(model, [*found, met], held)
    if best is not None:
        _take_over(model, best, rows.total(served, best.model, model._rule))
    _set_record(model, rows, passes, converged=True)


def _best(
    model: Any, found: Sequence[Candidate], held: tuple[Any, Any, Any]
) -> Candidate | None:
    """Return the mixture that explains the rows held out best; None is the sample's."""
    worth = {each.name: _worth_of(model, each, held) for each in found}
    of_sample = _worth(model, held)
    told = {f"held_out: {name}": value for name, value in worth.items()}
    told["held_out: sample"] = of_sample
    set_fitted(model, {"diagnostics_": model.diagnostics_ | told})
    best = max(found, key=lambda each: worth[each.name])
    return best if worth[best.name] > of_sample else None


def _worth_of(model: Any, candidate: Candidate, held: tuple[Any, Any, Any]) -> float:
    trial = copy.copy(model)
    set_fitted(trial, _parts(model, candidate, model.expert_load_))
    return _worth(trial, held)


def _worth(model: Any, held: tuple[Any, Any, Any]) -> float:
    """Return the mean log-likelihood of rows, as predict routes them."""
    X, y, weight = held
    return float(np.average(model.score_samples(X, y), weights=weight))


def _parts(model: Any, candidate: Candidate, load: Any) -> dict[str, Any]:
    before, _ = split_gate(model.gate_)
    gate, pool = candidate.model.gate, candidate.model.experts
    return parts_of(model, before, gate, pool, load)


def _take_over(model: Any, best: Candidate, sums: Sums) -> None:
    """Set the attributes of the best mixture and of how it serves all rows."""
    bound = float(sums.bound)
    attributes = _parts(model, best, sums.load / sums.weight)
    attributes |= {
        "_own_pool": best.unshrunk,
        "_rows_learned": float(sums.weight),
        "routed_bound_": bound,
        "shrinkage_": best.shrinkage,
        "diagnostics_": model.diagnostics_ | {"routed_bound": bound},
    }
    set_fitted(model, attributes)


def _set_record(
    model: Any, rows: DaskRows, passes: Sequence[PassInfo], converged: bool
) -> None:
    """Set the attributes of what happened in the passes on all rows."""
    bounds = np.array([info.bound for info in passes])
    told = {
        "start": "all rows",
        "n_experts": model.n_experts_,
        "bounds": bounds,
        "experts_accepted": np.array([info.experts_accepted for info in passes]),
        "gate_accepted": np.array([info.gate_accepted for info in passes]),
    }
    attributes = {
        "lower_bound_": float(bounds[-1]),
        "lower_bounds_": bounds,
        "n_iter_": len(passes),
        "converged_": converged,
        "history_": [*model.history_, told],
        "n_rounds_": rows.n_rounds,
    }
    set_fitted(model, attributes)


def _shrinkages(model: Any) -> list[float]:
    """Return how far experts are shrunk on trial: as on the sample, and wholly."""
    return sorted({model.shrinkage_, 1.0} - {0.0})


def _units(model: Any, sample: tuple[Any, Any, Any]) -> list[tuple[Any, Any]]:
    """Return centre and scale of what gate and experts see, measured on the sample.

    Those of experts that read no numbers, such as data frames, are empty.
    """
    nothing = np.zeros(0), np.zeros(0)
    with using("numpy", 0):
        content = model._batch(*sample).content
        tables = [content.gate_table]
        if hasattr(content.X_experts, "dtype"):
            tables.append(content.table)
    units = [(table.center, table.scale) for table in tables]
    return units if len(units) == 2 else [*units, nothing]


def _say(model: Any, info: PassInfo) -> None:
    if model.verbose:
        print(
            f"[{type(model).__name__}] pass {info.n_pass} on all rows: bound "
            f"{info.bound:.6f}, gain {info.gain:.1e}",
            flush=True,
        )


def _rows(model: Any, seen: Seen, held: tuple[int, int], *, lessons: bool) -> DaskRows:
    """Return all rows but those held out, in shards."""
    from dask import delayed

    units = model._units
    tables = [Units(np.zeros((0, len(c))), c, s, seen.n_rows) for c, s in units]
    reading = Reading(_reader(model), *tables, seen.seed, held, lessons)
    sent = delayed(reading, pure=False)
    shards = shards_of(seen.table.partitions, seen.looks)
    read = delayed(read_shard, pure=False)
    delayed_shards = [
        read(
            sent,
            each.places,
            each.fingerprint,
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
