"""What a fit says of itself: attributes, warnings, and the words of ``verbose``."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning

from .._caller import level_of_caller
from ..em import Mixture, kept, moved, routed

WORTH = 1e-3
"""Nats a row from which a mixture is said to gain over one learner."""

TOP_K = 2
"""The default `top_k`, which may be more than there are experts."""

IDLE = 0.01
"""Share of an even load below which an expert is said to serve next to no rows."""


class ReportingMixin:
    """Sets the attributes that tell how training went, and warns."""

    def _diagnosis(self, mixture: Mixture) -> dict[str, Any]:
        """Return the attribute that sets bounds side by side."""
        problem, model = mixture.problem, (mixture.gate, mixture.pool)
        mass, rows, asked = kept(problem.apart, mixture.gate, self._rule)
        diagnostics = {
            "routed_bound": mixture.bound,
            "in_sample_bound": routed(problem, *model, self._rule).bound,
            "top_k_mass": mass,
            "top_k_rows": rows,
            "experts_per_row": asked,
        }
        if self.capacity_factor is not None:
            diagnostics["rows_moved"] = moved(problem.apart, mixture.gate, self._rule)
        return {"diagnostics_": diagnostics}

    def _set_record(self, mixture: Mixture) -> None:
        """Set the attributes that tell how training went."""
        result, choice = mixture.run, mixture.choice
        self.lower_bound_ = result.bound
        self.lower_bounds_ = np.array([info.bound for info in result.passes])
        self.n_iter_ = result.n_iter
        self.converged_ = mixture.converged
        self.routed_bound_ = mixture.bound
        self.shrinkage_, self._to_best = 1.0 - choice.strength, choice.to_best
        self.held_out_ = {
            "mixture": choice.mixture,
            "constant_gate": choice.blind,
            "pooled": choice.pooled,
            "single": choice.single,
        }
        self.routing_gain_ = choice.mixture - choice.blind
        if self.verbose:
            print(f"[{type(self).__name__}] {self._verdict()}")
        self._own_pool = mixture.own

    def _verdict(self) -> str:
        """Say what the mixture is worth, from the rows held out."""
        held, name = self.held_out_, type(self).__name__
        if self._chooses_number and self.n_experts_ == 1:
            return "No more than one expert is worth it: selection_path_ tells why."
        if not np.isfinite(held["mixture"]):
            return (
                f"No rows were held out, so nothing says whether {name} is better than "
                f"one of its learners: {self._why_none()}."
            )
        gain = held["mixture"] - held["single"]
        worth = (
            f"It gains {gain:.3f} nats per row over one learner"
            if gain > WORTH
            else "It brings nothing over one learner"
        )
        return (
            f"{worth} on rows held out; with a gate that ignores x it would lose "
            f"{self.routing_gain_:.3f}. Experts keep {1.0 - self.shrinkage_:.0%} of "
            "their own answers"
            f"{', the rest is the best learner' if self._to_best else ''}; "
            f"{int(np.sum(self.expert_load_ < IDLE / self.n_experts_))} of "
            f"{self.n_experts_} experts serve next to no rows."
        )

    def _why_none(self) -> str:
        """Say why no rows were held out."""
        if self.cross_fit is None:
            return "cross_fit=None asks for that"
        return (
            "there are too few rows, or a single expert. n_experts='auto' finds how "
            "many experts so few rows can tell apart"
        )

    def _warn_of(self, mixture: Mixture) -> None:
        """Warn of a run cut short, unless rows held out judged what it gave."""
        run = mixture.run
        by_callback = run.n_iter < self.max_iter
        if mixture.judged or run.converged or by_callback:
            return
        gain = run.passes[-1].gain
        if gain <= self.tol:  # annealed passes do not end a run
            return
        warnings.warn(
            f"EM stopped after max_iter={self.max_iter} passes while a pass still "
            f"raised the mean log-likelihood bound by {gain:.1e}, more than tol="
            f"{self.tol}. Increase max_iter or tol, or use fewer experts.",
            ConvergenceWarning,
            stacklevel=level_of_caller(),
        )

    def _warn_of_rows_in_no_fold(self, mixture: Mixture) -> None:
        blind = getattr(mixture.run.pool, "blind", None)
        if blind is None or blind.all():
            return
        warnings.warn(
            f"cross_fit={self.cross_fit!r} leaves {np.count_nonzero(~blind)} of the "
            f"{len(blind)} rows in no test fold: they are judged by models that "
            "learned from them, and do not count for noise scales.",
            UserWarning,
            stacklevel=level_of_caller(),
        )

    def _warn_of_top_k(self) -> None:
        number, top_k = self._n_asked, self.top_k or 0
        if self._chooses_number or top_k <= max(number, TOP_K):
            return
        warnings.warn(
            f"top_k={top_k} is more than n_experts={number}: all {number} experts "
            "serve each row, as with top_k=None.",
            UserWarning,
            stacklevel=level_of_caller(),
        )

    def _warn_of_few_rows(self, n_rows: int) -> None:
        listed = isinstance(self.expert, (list, tuple))
        whose = f", the first {n_rows} of the list," if listed else ""
        warnings.warn(
            f"The {n_rows} rows of positive weight are fewer than n_experts="
            f"{self._n_asked}, so {n_rows} experts{whose} are fitted.",
            UserWarning,
            stacklevel=level_of_caller(),
        )

    def _warn_of_fallbacks(self, models: list[str | None]) -> None:
        reasons = [why for why in models if why is not None]
        if reasons:
            warnings.warn(
                f"{len(reasons)} of the {len(models)} models that judged the experts "
                "or became them could not be fitted on the rows of their expert, and "
                f"stand on the rows of others. The first: {reasons[0]} Use fewer "
                "experts or folds, or a learner that needs fewer rows.",
                FitFailedWarning,
                stacklevel=level_of_caller(),
            )
