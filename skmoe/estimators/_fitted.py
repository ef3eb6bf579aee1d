"""The fitted attributes of a mixture, and the function that sets them."""

from __future__ import annotations

from typing import Any

from sklearn.pipeline import Pipeline

from ..backends import Array, namespace, to_host
from ..em import Mixture, Problem, Voice
from ..experts import ExpertPool
from ..gates import BaseGate
from . import _gate_and_experts as parts

ON_REQUEST = (
    "gates_",
    "noise_experts_",
    "scale_",
    "selection_path_",
    "shared_expert_",
    "_stream",
    "_early",
    "group_ids_",
    "tied_",
    "group_correlation_",
    "_voice",
)
"""Attributes that not every fit sets, so those of an earlier fit must go."""


def set_fitted(model, attributes: dict[str, Any], *, afresh: bool = False) -> None:
    """Set fitted attributes. No other function does.

    Parameters
    ----------
    model : BaseMoE
    attributes : dict
        Values by name.
    afresh : bool, default=False
        Whether to remove what only an earlier fit has set.
    """
    if afresh:
        for name in ON_REQUEST:
            vars(model).pop(name, None)
    vars(model).update(attributes)


def parts_of(
    model, before: Pipeline | None, gate: BaseGate, pool: ExpertPool, load: Array
) -> dict[str, Any]:
    """Return the attributes of a gate and its experts.

    Parameters
    ----------
    model : BaseMoE
    before : Pipeline or None
        Fitted transformers before the gate.
    gate : BaseGate
        The fitted gate.
    pool : ExpertPool
        The experts that predict.
    load : (n_experts,) array
        Share of the rows that each expert serves.
    """
    attributes = {
        "gate_": parts.fitted_gate(model.gate, before, gate),
        "experts_": pool.likelihood.shown(pool.estimators()),
        "n_experts_": pool.n_experts,
        "expert_load_": load,
        "_pool": pool,
    }
    if pool.scale is not None:
        scale = pool.scale
        attributes["scale_"] = scale[:, 0] if model._single_output else scale
    return attributes | model._parts_of_kind(pool)


def trained_parts(
    model, before: Pipeline | None, gate: BaseGate, pool: ExpertPool, problem: Problem
) -> dict[str, Any]:
    """Return the attributes of a trained mixture that predict needs."""
    weight = problem.sample_weight
    total = namespace(weight).sum(weight)
    load = model._rule.route(gate, problem.X_gate).scaled(weight / total)
    attributes = parts_of(model, before, gate, pool, load.sum_by_expert(load.weights))
    attributes["_rows_learned"] = float(to_host(total))
    attributes["_shared"] = None if problem.shared is None else problem.shared.predictor
    if problem.shared is not None:
        attributes["shared_expert_"] = problem.shared.predictor.estimators()[0]
    return attributes


def panel_parts(problem: Problem, mixture: Mixture) -> dict[str, Any]:
    """Return the attributes of groups, if fit was given groups."""
    if problem.panel is None:
        return {}
    voice = Voice.of(problem.panel, mixture.gate, problem.X_gate, mixture.resp)
    return {
        "tied_": mixture.problem.panel is not None,
        "group_correlation_": voice.correlation,
        "_voice": voice,
    }
