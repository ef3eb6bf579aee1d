r"""Limits on the load of experts, in the E-step.

EM's responsibilities maximise a free energy F(r), whose maximum is the log-likelihood.
With limits they maximise it over those r whose loads L_k = Σ_i s_i r_ik lie between a
floor and a ceiling. By duality

    r_ik ∝ g_k(x_i) p_k(y_i | x_i) e^{b_k},

with an offset b_k that is ≥ 0 where the floor binds, ≤ 0 where the ceiling binds, and
else 0; Sinkhorn steps find it. F(r) is still a lower bound of the log-likelihood, and
passes still raise it: every step of EM improves the same function. Neither gate nor
experts know the offsets. If floor and ceiling are equal, every expert takes its quota:
this is the assignment of expert choice [2]_ or of balanced clustering [1]_, softened by
the entropy of r.

References
----------
.. [1] M. Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport",
   NeurIPS 2013. arXiv:1306.0895
.. [2] Y. Zhou et al., "Mixture-of-experts with expert choice routing", NeurIPS 2022.
   arXiv:2202.09368
"""

from __future__ import annotations

import numpy as np

from ..backends import Array, like, namespace, select, total_of
from ..routing import Routing
from ._problem import Problem

STEPS = 30
"""Most Sinkhorn steps per pass; they start from the offsets of the last pass."""

CLOSE = 5e-3
"""Share of a limit by which loads may miss it."""

LARGEST = 30.0
"""Largest offset: an expert whose support is too small cannot reach the floor."""


def limited(problem: Problem) -> bool:
    """Tell whether loads have limits."""
    return problem.balance > 0 or np.isfinite(problem.capacity)


def shifted(log_joint: Routing, offsets: np.ndarray | None) -> Array:
    """Return log joint densities plus the offsets of their experts."""
    if offsets is None:
        return log_joint.weights
    table = like(offsets, log_joint.weights, log_joint.weights.dtype)
    return log_joint.weights + log_joint.lookup(table)


def balanced(
    problem: Problem, support: Routing, start: np.ndarray
) -> tuple[Routing, Array, np.ndarray]:
    """Return responsibilities within the limits, each row's part of F, and offsets.

    Parameters
    ----------
    problem : Problem
    support : Routing
        Its weights are the log joint densities.
    start : (n_experts,) array
        Offsets to start from.
    """
    log_joint = support.weights
    ops = select(support.weights)
    b = start
    weight = problem.draw_weight
    xp = namespace(log_joint)
    fair = total_of(weight) / problem.n_experts
    low, high = problem.balance * fair, problem.capacity * fair
    for _ in range(STEPS):
        weights, _ = ops.normalise(shifted(support, b))
        load = support.sum_by_expert(weights * weight[:, None])
        # The offsets that would bring each load by itself to the floor and the ceiling.
        with np.errstate(divide="ignore"):
            spare = b - np.log(np.maximum(load, np.finfo(np.float64).tiny))
            new = np.clip(0.0, spare + np.log(low), spare + np.log(high))
        new = np.clip(new, -LARGEST, LARGEST)
        if np.max(np.abs(new - b)) < CLOSE:
            break
        b = new
    moved = shifted(support, b)
    weights, norm = ops.normalise(moved)
    moved = xp.where(weights > 0, moved, 0.0)
    plain = xp.where(weights > 0, log_joint, 0.0)
    paid = xp.sum(weights * (moved - plain), axis=1)
    return support.with_weights(weights), norm - paid, b
