"""From a task to a mixture, for fits and for starts of streams."""

from __future__ import annotations

from typing import Any

from .._sklearn_compat import with_callbacks
from ..backends import one_blas_thread
from ..em import (
    Mixture,
    State,
    chosen_on,
    count_stages,
    fallbacks,
    finished,
    for_new_rows,
    train,
)
from ._callbacks import Watched
from ._fitted import panel_parts, trained_parts
from ._plans import go_on, plans, with_number
from ._record import diagnosis, record
from ._rows import computing
from ._task import Task, Training


@with_callbacks
def trained(model, task: Task) -> Training:
    """Train as the task says, or go on from the previous fit."""
    runs = Watched(model, task.problem, _attributes_of_state(model, task))
    if task.settings.chooses_number:
        task = with_number(model, task, runs)
    problem = task.problem
    backend = task.settings.backend
    # One BLAS thread: more would spin between the many small products.
    with (
        one_blas_thread(),
        computing(model, problem.X_gate, problem.n_experts, backend),
    ):
        ways = plans(model, task)
        splits = [] if task.settings.warm else chosen_on(problem, ways)
        runs.announce(2 if task.settings.warm else count_stages(ways, splits))
        if task.settings.warm:
            mixture = go_on(model, task, ways[0], runs)
        else:
            mixture = train(problem, ways, splits, runs)
        models = fallbacks(mixture.run, mixture.unshrunk)
        attributes = _attributes(model, task, mixture)
        runs.close()
        if model.max_time is not None:
            attributes["diagnostics_"]["out_of_time"] = float(runs.out_of_time)
    return Training(mixture, attributes | {"history_": runs.history}, models)


def _attributes_of_state(model, task: Task):
    """Return a function from a state of EM to the attributes that callbacks get."""

    def attributes(problem, state: State) -> dict[str, Any]:
        gate = for_new_rows(problem, state.gate, state.resp)
        pool = finished(problem, state)
        return trained_parts(model, task.before, gate, pool, problem)

    return attributes


def _attributes(model, task: Task, mixture: Mixture) -> dict[str, Any]:
    """Return all fitted attributes except the history."""
    attributes = trained_parts(
        model, task.before, mixture.gate, mixture.pool, mixture.problem
    )
    attributes |= diagnosis(model, mixture)
    attributes |= panel_parts(task.problem, mixture)
    if model._id_codes is not None:
        attributes["group_ids_"] = model._id_codes.ids
    if task.path is not None:
        attributes["selection_path_"] = task.path
    attributes |= record(mixture)
    return attributes | model._additions(mixture, task.before)
