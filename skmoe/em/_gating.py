"""What EM asks of a gate: of each row, or of each group of a panel."""

from __future__ import annotations

from sklearn.base import clone

from ..backends import Array
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from ._problem import Problem


def fit_gate(problem: Problem, gate: BaseGate, resp: Routing) -> BaseGate:
    """Return a gate fitted to responsibilities."""
    return clone(gate).fit(*targets(problem, resp))


def improved_gate(problem: Problem, gate: BaseGate, resp: Routing) -> BaseGate:
    """Return a gate improved on responsibilities."""
    return gate.update(*targets(problem, resp))


def targets(problem: Problem, resp: Routing) -> tuple[Array, Routing]:
    """Return what a gate learns from: each row by its weight, or each group once."""
    panel = problem.panel
    if panel is None:
        return problem.X_gate, resp.scaled(problem.sample_weight)
    return panel.X, panel.of_groups(resp)


def log_proba_at(problem: Problem, gate: BaseGate, routing: Routing) -> Array:
    """Return log p(k | x) at the entries of a routing."""
    panel = problem.panel
    if panel is None:
        return gate.log_proba_at(problem.X_gate, routing)
    return panel.spread(gate.log_proba_at(panel.X, panel.of_groups(routing)))


def log_proba(problem: Problem, gate: BaseGate) -> Array:
    """Return log p(k | x) of all experts."""
    panel = problem.panel
    if panel is None:
        return gate.log_proba(problem.X_gate)
    return panel.spread(gate.log_proba(panel.X))


def survey(
    problem: Problem, gate: BaseGate, indices: Array, top_k: int
) -> tuple[Array, Array, Array]:
    """Return log p(k | x) at some entries, the best experts, and theirs."""
    panel = problem.panel
    if panel is None:
        return gate.survey(problem.X_gate, indices, top_k)
    asked = Routing(indices, indices, gate.n_experts_).take(panel.first).indices
    log_at, best, log_best = gate.survey(panel.X, asked, top_k)
    return panel.spread(log_at), panel.spread(best), panel.spread(log_best)


def route(problem: Problem, gate: BaseGate, rule: RoutingRule) -> Routing:
    """Return where the gate alone sends the rows."""
    panel = problem.panel
    if panel is None:
        return rule.route(gate, problem.X_gate)
    return panel.spread_routing(rule.route(gate, panel.X))
