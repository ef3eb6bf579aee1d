"""What a fit is to do: read from parameters and rows, checked, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state

from ..em import Problem
from ..gates import BaseGate
from ..routing import Routing
from . import _gate_and_experts as parts
from ._folds import check_cross_fit, check_groups
from ._plans import check_number, n_at_first, responsibilities_of, warm_gate
from ._record import warn_of_top_k
from ._rows import (
    before_gate,
    check_counts,
    check_training,
    experts_read_raw,
    n_asked,
    training_width,
)


@dataclass(frozen=True, eq=False)
class Settings:
    """How a fit is run: as the parameters say, or shorter where a stream starts.

    Attributes
    ----------
    expert : estimator, list of estimators or None
    n_experts : int or "auto"
    max_iter : int
    backend : str
    random_state : int, RandomState or None
    warm : bool
        Whether to go on from the previous fit.
    starts_stream : bool
        Whether the rows are the first ones of a stream.
    """

    expert: Any
    n_experts: Any
    max_iter: int
    backend: str
    random_state: Any
    warm: bool
    starts_stream: bool = False

    @classmethod
    def of(cls, model) -> Settings:
        """Return the settings that the parameters ask for."""
        return cls(
            expert=model.expert,
            n_experts=n_asked(model),
            max_iter=model.max_iter,
            backend=model.backend,
            random_state=model.random_state,
            warm=model.warm_start and hasattr(model, "gate_"),
        )

    @property
    def chooses_number(self) -> bool:
        """Whether the number of experts is open."""
        return isinstance(self.n_experts, str)


@dataclass(frozen=True, eq=False)
class Task:
    """What a fit is to do.

    Attributes
    ----------
    settings : Settings
    problem : Problem
        The rows of positive weight.
    learners : list of estimators
        One for each expert, unfitted; one alone if the number is open.
    gate : BaseGate
        The gate, unfitted; of a previous fit if training goes on from there.
    before : Pipeline or None
        Fitted transformers that stand before the gate.
    seeds : (n_experts + 1 + n_init,) array of int
        For the experts, the problem and the starts.
    resp : Routing or None
        Responsibilities to start from, if ``init`` gives them.
    path : dict or None
        What was tried to choose the number of experts.
    """

    settings: Settings
    problem: Problem
    learners: list
    gate: BaseGate
    before: Pipeline | None
    seeds: np.ndarray
    resp: Routing | None
    path: dict[str, np.ndarray] | None = None


def read_task(model, settings: Settings, X, y, sample_weight, groups=None) -> Task:
    """Check parameters and rows, and return what there is to do."""
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
    elif before is not None:
        before = before.fit(raw, y)
    X_gate = parts.gate_input(before, X, raw)
    if before is not None:
        parts.check_made(X_gate, gate)
    problem = Problem(
        X_gate=X_gate,
        X=raw if experts_read_raw(model) else X,
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
    return Task(settings, problem, learners[:n_experts], gate, before, seeds, resp)
