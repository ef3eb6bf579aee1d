r"""The last passes: EM on the experts that predict will ask.

EM lets a row choose its experts with y in hand. Predict has only x: it asks the
``top_k`` that the gate prefers, with the gate's probabilities renormalised. Where the
gate is unsure the two differ, and a prediction is worth

    R = (1/Σs) Σ_i s_i log Σ_{k ∈ top(x_i)} g̃_k(x_i) p_k(y_i | x_i)

So the last passes take the gate's choice as the support: experts and noise scales learn
from the rows as predict routes them. The gate is trained on twice as many experts as
predict uses. Otherwise an expert that it does not yet prefer could never prove its
worth. The support moves with the gate, so R may fall; we keep the pass with the best R.

Where predict asks one expert, R is the mean log-likelihood of that expert, so the gate
should not prefer an expert because noise favoured it in one row. We therefore use
responsibilities of tempered likelihoods, ``r ∝ g p^β`` with a small β. A gate that they
no longer change gives rows to the expert with the best mean p^β. For β near 0 that is
the expert with the best mean log p.

Then experts may be shrunk to the pooled fit, their learner fitted on all rows. Held-out
rows choose how much: see `_held_out`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..backends import namespace, to_host
from ..experts import ExpertPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from ._engine import evaluate, expect, update_pool
from ._gate_step import improved_gate, log_proba_at, route
from ._problem import EMResult, Model, Problem, State
from ._sweep import (
    AllRows,
    Rows,
    Rule,
    Sums,
    adds_up,
    best_of,
    either,
    preferred_by_gate,
    sweep,
)
from ._trained import Trained

PATIENCE = 2
"""Number of passes without progress after which the last passes end."""

SHORT_STEPS = 4
"""The same where a pass takes one step of Newton."""

MOST_OF_IT = 0.95
"""Little of a row is lost if its experts have this share of the probability."""

TEMPERED = 0.25
"""The β where predict asks one expert."""

LAST_PASSES = 20
"""Most passes on the gate's own support once EM has ended."""


def routed(
    problem: Problem, gate: BaseGate, pool: ExpertPool, rule: RoutingRule
) -> State:
    """Return the state of a model whose rows go where the gate alone sends them."""
    choice = route(problem, gate, rule)
    xp = namespace(choice.weights)
    weights = choice.weights
    tiny = float(np.finfo(np.float32).tiny)
    log_gate = xp.log(xp.where(weights > tiny, weights, xp.full_like(weights, tiny)))
    support = choice.with_weights(log_gate)
    free = replace(problem, balance=0.0, capacity=np.inf)
    return expect(free, gate, pool, [(support, evaluate(problem, pool, support))])


def settle(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    rule: RoutingRule,
    n_pass: int,
    *,
    learn: bool,
) -> State:
    """Run passes on the gate's own support; return the best, whose bound is R.

    Parameters
    ----------
    problem : Problem
    gate, pool : BaseGate, ExpertPool
        The model that EM ended with.
    rule : RoutingRule
        Which experts predict asks.
    n_pass : int
        Most passes.
    learn : bool
        Whether experts are trained too, not only the gate and the noise scales.
    """
    if adds_up(problem, gate, pool) and rule.plain:
        choose = choice_of(rule, problem.n_experts, problem.width)
        rows = Rows.of(problem)
        start = Model(gate, pool)
        model, _ = settled(rows, start, choose, n_pass, problem.tol, learn=learn)
        return routed(problem, model.gate, model.experts, rule)
    state = best = routed(problem, gate, pool, rule)
    stalled = 0
    for _ in range(n_pass):
        mass = state.resp.scaled(problem.sample_weight)
        gate = improved_gate(problem, state.gate, _gate_targets(problem, state, rule))
        if learn:
            pool, *_ = update_pool(problem, state, mass)
        else:
            pool = state.pool.rescale(problem.y, state.terms.values, mass)
        state = routed(problem, gate, pool, rule)
        stalled = 0 if state.bound > best.bound + problem.tol else stalled + 1
        best = state if state.bound > best.bound else best
        if stalled >= PATIENCE:
            break
    return best


def settled(
    rows: AllRows, model: Model, choose: Rule, n_pass: int, tol: float, *, learn: bool
) -> tuple[Model, Sums]:
    """Return the best model of `settle` and its sums; a pass is one sweep."""
    sums = sweep(rows, model, choose)
    best, best_sums = model, sums
    whole = np.ones(sums.bound.shape)
    stalled = np.zeros(whole.shape, dtype=int)
    for _ in range(n_pass):
        gate, _ = model.gate.step(rows.seen, sums.gate, whole)
        experts = model.experts.rescaled(rows.read, sums.experts)
        if learn:
            experts, _ = model.experts.step(rows.read, sums.experts, whole)
        model = Model(gate, experts)
        sums = sweep(rows, model, choose)
        gain = sums.bound - best_sums.bound
        best = either(gain > 0, model, best)
        best_sums = sums.where(gain > 0, best_sums)
        stalled = np.where(gain > tol, 0, stalled + 1)
        if (stalled >= SHORT_STEPS).all():
            break
    return best, best_sums


def choice_of(rule: RoutingRule, n_experts: int, width: int) -> Rule:
    """Return how a sweep chooses experts where the gate alone sends the rows."""
    if rule.asks_all(n_experts):
        return best_of(n_experts)
    assert rule.top_k is not None
    beta = TEMPERED if rule.top_k == 1 else 1.0
    return preferred_by_gate(rule.top_k, width, beta)


def settle_gate(
    problem: Problem,
    start: State | EMResult,
    experts: Trained,
    rule: RoutingRule,
    n_pass: int,
) -> tuple[State, Model]:
    """Run last passes from a state, for the gate and the experts' noise scales alone.

    Returns the last state, and its model for new rows.
    """
    experts = experts.rescaled(problem, start.resp)
    state = settle(problem, start.gate, experts.judge, rule, n_pass, learn=False)
    return state, experts.for_new_rows(problem, state)


def _gate_targets(problem: Problem, state: State, rule: RoutingRule) -> Routing:
    """Return the responsibilities that the gate learns."""
    if rule.asks_all(problem.n_experts):
        return state.resp
    beta = TEMPERED if rule.top_k == 1 and not rule.ask_last else 1.0
    wide = RoutingRule(problem.width, ask_last=rule.ask_last)
    return routed(replace(problem, beta=beta), state.gate, state.pool, wide).resp


def coverage(
    problem: Problem, gate: BaseGate, rule: RoutingRule
) -> tuple[float, float, float]:
    """Return how much of the gate's probability predict keeps.

    Returns
    -------
    mass : float
        Mean probability of the experts that predict asks.
    rows : float
        Share of the rows whose experts have `MOST_OF_IT`.
    n_experts : float
        Mean number of experts per row.
    """
    routing = route(problem, gate, rule)
    weight = problem.sample_weight
    xp = namespace(weight)
    mass = xp.sum(xp.exp(log_proba_at(problem, gate, routing)), axis=1)
    share = weight / xp.sum(weight)
    enough = xp.astype(mass >= MOST_OF_IT, weight.dtype)
    number = xp.sum(xp.astype(routing.indices >= 0, weight.dtype), axis=1)
    means = (to_host(xp.sum(share * each)) for each in (mass, enough, number))
    mass, rows, n_experts = (float(each) for each in means)
    return mass, rows, n_experts


def count_moved(problem: Problem, gate: BaseGate, rule: RoutingRule) -> int:
    """Return how many rows do not get all the experts that they ask for.

    Some of their experts are full, by the rule's capacity.
    """
    unlimited = route(problem, gate, replace(rule, capacity_factor=None)).to_csr() != 0
    limited = route(problem, gate, rule).to_csr() != 0
    return int(np.count_nonzero(np.diff((unlimited != limited).indptr)))
