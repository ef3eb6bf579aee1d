"""The questions of EM to a gate, about each row, or each group of a panel."""

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
    """Return X and the targets of a gate; the rows of a group count as one."""
    return problem.X_gate, resp.scaled(problem.draw_weight)


def log_proba_at(problem: Problem, gate: BaseGate, routing: Routing) -> Array:
    """Return log p(k | x) at the entries of a routing."""
    draws = problem.draws
    gate, X = draws.asked(gate, problem.X_gate)
    return draws.spread(gate.log_proba_at(X, draws.of_draws(routing)))


def log_proba(problem: Problem, gate: BaseGate) -> Array:
    """Return log p(k | x) of all experts."""
    draws = problem.draws
    gate, X = draws.asked(gate, problem.X_gate)
    return draws.spread(gate.log_proba(X))


def survey(
    problem: Problem, gate: BaseGate, indices: Array, top_k: int
) -> tuple[Array, Array, Array]:
    """Return log p(k | x) at some entries, the best experts, and their log p(k | x)."""
    draws = problem.draws
    gate, X = draws.asked(gate, problem.X_gate)
    of_draws = draws.of_draws(Routing(indices, indices, gate.n_experts_)).indices
    log_at, best, log_best = gate.survey(X, of_draws, top_k)
    return draws.spread(log_at), draws.spread(best), draws.spread(log_best)


def route(problem: Problem, gate: BaseGate, rule: RoutingRule) -> Routing:
    """Return where the gate alone sends the rows."""
    return problem.draws.route(rule, gate, problem.X_gate)
