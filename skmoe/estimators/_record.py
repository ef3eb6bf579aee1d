"""What a fit reports: attributes, warnings, and the lines of ``verbose``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning

from .._caller import level_of_caller
from ..em import Mixture, count_moved, coverage, routed
from ._task import Settings, Training, chooses_number, n_asked

WORTH = 1e-3
"""Nats per row from which a mixture is said to gain over one learner."""

TOP_K = 2
"""The default `top_k`, which may exceed the number of experts without a warning."""

IDLE = 0.01
"""Share of an even load below which an expert serves next to no rows."""


def diagnosis(model, mixture: Mixture) -> dict[str, Any]:
    """Return the attribute of diagnostics."""
    problem = mixture.problem
    mass, rows, n_asked = coverage(problem.apart, mixture.gate, model._rule)
    in_sample = routed(problem, mixture.gate, mixture.pool, model._rule)
    diagnostics = {
        "routed_bound": mixture.bound,
        "in_sample_bound": in_sample.bound,
        "top_k_mass": mass,
        "top_k_rows": rows,
        "experts_per_row": n_asked,
    }
    if model.capacity_factor is not None:
        diagnostics["rows_moved"] = count_moved(
            problem.apart, mixture.gate, model._rule
        )
    return {"diagnostics_": diagnostics}


def record(mixture: Mixture) -> dict[str, Any]:
    """Return the attributes that say how training went."""
    result = mixture.run
    choice = mixture.choice
    return {
        "lower_bound_": result.bound,
        "lower_bounds_": np.array([info.bound for info in result.passes]),
        "n_iter_": result.n_iter,
        "converged_": mixture.converged,
        "routed_bound_": mixture.bound,
        "shrinkage_": choice.shrinkage,
        "held_out_": {
            "mixture": choice.mixture,
            "constant_gate": choice.blind,
            "pooled": choice.pooled,
            "single": choice.single,
        },
        "routing_gain_": choice.mixture - choice.blind,
        "_to_best": choice.to_best,
        "_own_pool": mixture.unshrunk,
    }


def report(model, settings: Settings, training: Training) -> None:
    """Say what a new mixture is worth, and warn of what went wrong."""
    if model.verbose:
        print(f"[{type(model).__name__}] {_verdict(model, settings)}")
    _warn_of_cut(model, settings, training.mixture)
    _warn_of_rows_in_no_fold(model, training.mixture)
    _warn_of_fallbacks(training.models)


def _verdict(model, settings: Settings) -> str:
    """Say what the mixture is worth, by the held-out rows."""
    held = model.held_out_
    if settings.chooses_number and model.n_experts_ == 1:
        return "No more than one expert is worth it: see selection_path_."
    if not np.isfinite(held["mixture"]):
        return (
            f"No rows were held out, so nothing tells whether {type(model).__name__} "
            f"is better than one of its learners: {_why_none(model)}."
        )
    gain = held["mixture"] - held["single"]
    worth = (
        f"It gains {gain:.3f} nats per row over one learner"
        if gain > WORTH
        else "It gains nothing over one learner"
    )
    return (
        f"{worth} on held-out rows; with a gate that ignores x it would lose "
        f"{model.routing_gain_:.3f}. Experts keep {1.0 - model.shrinkage_:.0%} of "
        "their own predictions"
        f"{', the rest is the best learner' if model._to_best else ''}; "
        f"{int(np.sum(model.expert_load_ < IDLE / model.n_experts_))} of "
        f"{model.n_experts_} experts serve next to no rows."
    )


def _why_none(model) -> str:
    """Say why no rows were held out."""
    if model.cross_fit is None:
        return "cross_fit=None asks for that"
    return (
        "there are too few rows, or a single expert. n_experts='auto' finds how "
        "many experts the rows can tell apart"
    )


def _warn_of_cut(model, settings: Settings, mixture: Mixture) -> None:
    """Warn of a run that was cut short, unless held-out rows judged its result."""
    run = mixture.run
    by_callback = run.n_iter < settings.max_iter
    if mixture.judged or run.converged or by_callback:
        return
    gain = run.passes[-1].gain
    if gain <= model.tol:  # annealed passes do not end a run
        return
    warnings.warn(
        f"EM stopped after max_iter={settings.max_iter} passes while a pass still "
        f"raised the mean log-likelihood bound by {gain:.1e}, more than tol="
        f"{model.tol}. Increase max_iter or tol, or use fewer experts.",
        ConvergenceWarning,
        stacklevel=level_of_caller(),
    )


def _warn_of_rows_in_no_fold(model, mixture: Mixture) -> None:
    blind = getattr(mixture.run.pool, "blind", None)
    if blind is None or blind.all():
        return
    warnings.warn(
        f"cross_fit={model.cross_fit!r} leaves {np.count_nonzero(~blind)} of the "
        f"{len(blind)} rows in no test fold: models that learned from them judge "
        "them, and they do not count for noise scales.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def warn_of_top_k(model) -> None:
    """Warn if top_k exceeds the number of experts."""
    number = n_asked(model)
    top_k = model.top_k or 0
    if chooses_number(model) or top_k <= max(number, TOP_K):
        return
    warnings.warn(
        f"top_k={top_k} is more than n_experts={number}: all {number} experts "
        "serve each row, as with top_k=None.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def warn_of_few_rows(model, n_rows: int) -> None:
    """Warn that there are fewer rows than experts."""
    listed = isinstance(model.expert, (list, tuple))
    whose = f", the first {n_rows} of the list," if listed else ""
    warnings.warn(
        f"The {n_rows} rows of positive weight are fewer than n_experts="
        f"{n_asked(model)}, so {n_rows} experts{whose} are fitted.",
        UserWarning,
        stacklevel=level_of_caller(),
    )


def _warn_of_fallbacks(models: list[str | None]) -> None:
    reasons = [why for why in models if why is not None]
    if reasons:
        warnings.warn(
            f"{len(reasons)} of the {len(models)} models that are experts or judged "
            "them could not be fitted on the rows of their expert, so they were "
            f"fitted on other rows. The first: {reasons[0]} Use fewer experts or "
            "folds, or a learner that needs fewer rows.",
            FitFailedWarning,
            stacklevel=level_of_caller(),
        )
