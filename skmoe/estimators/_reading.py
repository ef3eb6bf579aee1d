"""From parameters and rows to a task, with all checks."""

from __future__ import annotations

import numpy as np
from sklearn.utils import check_random_state

from ..backends import like
from ..em import Problem
from . import _gate_and_experts as parts
from ._folds import check_cross_fit, check_groups
from ._plans import (
    check_number,
    n_at_first,
    responsibilities_of,
    warm_gate,
    warm_steps,
)
from ._record import warn_of_top_k
from ._rows import (
    before_gate,
    check_counts,
    check_training,
    others_read_rows,
    same_numbers,
    training_width,
    views,
)
from ._task import Settings, Task


def read_task(model, settings: Settings, X, y, sample_weight, groups=None) -> Task:
    """Check parameters and rows, and return the task."""
    check_counts(model)
    learners = parts.read_experts(
        settings.expert,
        settings.n_experts,
        model._default_expert(),
        model._classifies,
    )
    check_number(model, settings)
    if not settings.starts_stream:
        warn_of_top_k(model)
    before, gate = parts.read_gate(model.gate)
    check_cross_fit(model.cross_fit, model.final)
    raw, X, y, weight = check_training(model, settings, X, y, sample_weight)
    learners = model._adapted(learners)
    before_experts = None if others_read_rows(model) else parts.steps_before(learners)
    if before_experts is not None:
        learners = [learner.steps[-1][1] for learner in learners]
    names = getattr(model, "feature_names_in_", None) if before is None else None
    gate = gate.placed(names)
    before = before or before_gate(model, X, gate)
    groups = check_groups(groups, sample_weight, weight.shape[0])
    resp = responsibilities_of(model, settings, sample_weight, weight)
    random = check_random_state(settings.random_state)
    n_experts = n_at_first(model, settings, weight.shape[0])
    seeds = random.randint(2**31 - 1, size=n_experts + 1 + model.n_init)
    if settings.warm:
        before, gate = warm_gate(model, gate)
        before_experts = warm_steps(model, before_experts)
    else:
        before, before_experts = parts.fitted_both(
            before, before_experts, raw, y, weight
        )
    X_gate, X_expert = views(model, before, before_experts, X, raw)
    if before is not None:
        parts.check_made(X_gate, gate)
    if same_numbers(X_gate, X_expert):
        X_expert = X_gate
    if before_experts is not None and y.dtype.kind == "f":
        y = like(y, X_expert, X_expert.dtype)
    problem = Problem(
        X_gate=X_gate,
        X=X_expert,
        y=y,
        sample_weight=weight,
        n_experts=n_experts,
        width=training_width(model, n_experts),
        max_iter=settings.max_iter,
        tol=model.tol,
        seed=int(seeds[n_experts]),
        groups=groups,
        balance=model.balance,
        capacity=float(model.capacity_factor or np.inf),
    )
    return Task(
        settings=settings,
        problem=problem,
        learners=learners[:n_experts],
        gate=gate,
        before=before,
        before_experts=before_experts,
        seeds=seeds,
        resp=resp,
    )
