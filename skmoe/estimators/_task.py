"""The task of a fit as one value, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from ..em import Mixture, Problem
from ..gates import BaseGate
from ..routing import Routing
from ._validation import N_EXPERTS


def chooses_number(model) -> bool:
    """Whether fit chooses how many experts there are."""
    return isinstance(model.n_experts, str)


def n_asked(model) -> Any:
    """Number of experts that the parameters ask for; "auto" leaves it to fit."""
    if model.n_experts is not None:
        return model.n_experts if chooses_number(model) else int(model.n_experts)
    several = isinstance(model.expert, (list, tuple))
    return len(model.expert) if several else N_EXPERTS


@dataclass(frozen=True, eq=False)
class Settings:
    """How a fit is run: as the parameters say, or shorter at the start of a stream.

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
    """The task of a fit.

    Attributes
    ----------
    settings : Settings
    problem : Problem
        The rows of positive weight.
    learners : list of estimators
        One unfitted learner per expert; a single one if the number is open.
    gate : BaseGate
        The unfitted gate; that of the previous fit if training goes on from it.
    before : Pipeline or None
        Fitted transformers before the gate.
    before_experts : Pipeline or None
        Fitted steps that stand before all experts. ``problem.X`` has gone through
        them, and ``learners`` stand behind them.
    seeds : (n_experts + 1 + n_init,) array of int
        Seeds of the experts, the problem and the starts.
    resp : Routing or None
        Responsibilities to start from, if ``init`` gives them.
    path : dict or None
        The numbers of experts that were tried; see ``selection_path_``.
    """

    settings: Settings
    problem: Problem
    learners: list
    gate: BaseGate
    before: Pipeline | None
    before_experts: Pipeline | None
    seeds: np.ndarray
    resp: Routing | None
    path: dict[str, np.ndarray] | None = None


@dataclass(frozen=True, eq=False)
class Training:
    """The result of training.

    Attributes
    ----------
    mixture : Mixture
    attributes : dict
        The fitted attributes, by name.
    models : list of str or None
        For each model of an expert, why it could not be fitted on its own rows.
    """

    mixture: Mixture
    attributes: dict[str, Any]
    models: list[str | None]
