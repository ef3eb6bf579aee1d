"""One sweep over the rows per pass, for gates and experts that learn from sums.

A sweep takes the E-step of all experts, block by block, and adds up what both M-steps
need: the gate's gradient and curvature, the experts' moments. Then the gate takes one
damped Newton step and the experts solve their equations. Nothing about a row is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends import like, to_host
from ..experts import ExpertPool
from ..gates import BaseGate
from ..routing import Block, Routing
from ._load_limits import limited
from ._problem import Model, Problem, Terms

FIRST_STEPS = 3
"""Newton steps of the gate towards the responsibilities of a start."""


def adds_up(problem: Problem, gate: BaseGate, pool: ExpertPool) -> bool:
    """Tell whether gate and experts learn from sums over the rows of a problem."""
    return (
        problem.panel is None
        and not limited(problem)
        and gate.adds_up(problem.X_gate.shape[1], problem.n_experts)
        and hasattr(problem.X, "dtype")
        and pool.adds_up(problem.X.shape[1])
    )


# ------------------------------------------------------------------ what rows keep
@dataclass(frozen=True, eq=False)
class EStep:
    """What a rule makes of the experts' densities, for some rows.

    Attributes
    ----------
    gate, experts : (n, n_experts) arrays
        Responsibilities that the gate and the experts learn from, 0 where an expert
        is not asked.
    norm : (n,) array
        Log-likelihood of each row.
    """

    gate: np.ndarray
    experts: np.ndarray
    norm: np.ndarray


Rule = Callable[[np.ndarray, np.ndarray], EStep]
"""Makes an E-step of log p(k | x) and log p(y | x, k), both (n, n_experts)."""


def best_of(width: int, beta: float = 1.0) -> Rule:
    """Return the rule of EM: each row keeps the experts that explain it best."""

    def choose(log_gate: np.ndarray, log_lik: np.ndarray) -> EStep:
        resp, norm = posterior(among_best(log_gate + beta * log_lik, width))
        return EStep(resp, resp, norm)

    return choose


def preferred_by_gate(top_k: int, width: int, beta: float = 1.0) -> Rule:
    """Return the rule of predict: each row asks the experts that its gate prefers.

    The gate learns from ``width`` experts, with densities to the power ``beta``.
    """

    def choose(log_gate: np.ndarray, log_lik: np.ndarray) -> EStep:
        asked = among_best(log_gate, top_k)
        resp, norm = posterior(asked + log_lik)
        norm = norm - np.log(np.sum(np.exp(asked), axis=1))
        wide = among_best(log_gate, width)
        return EStep(posterior(wide + beta * log_lik)[0], resp, norm)

    return choose


def among_best(scores: np.ndarray, width: int) -> np.ndarray:
    """Return the scores, -inf but for the best ``width`` of each row."""
    n_experts = scores.shape[1]
    if width >= n_experts:
        return scores
    least = np.partition(scores, n_experts - width, axis=1)[:, n_experts - width, None]
    return np.where(scores >= least, scores, -np.inf)


def posterior(log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return responsibilities, and the log of the sum of each row."""
    peak = log_joint.max(axis=1, keepdims=True)
    resp = np.exp(log_joint - peak)
    total = resp.sum(axis=1, keepdims=True)
    resp /= total
    return resp, (peak + np.log(total))[:, 0]


# ------------------------------------------------------------------------ sweeps
@dataclass(frozen=True, eq=False)
class Sums:
    """What a sweep adds up.

    Attributes
    ----------
    gate, experts : tuples of arrays
        What `BaseGate.step` and `ExpertPool.step` learn from.
    load : (n_experts,) array
        Weight of the rows of each expert.
    bound : float
        Mean log-likelihood per row.
    """

    gate: tuple[Any, ...]
    experts: tuple[Any, ...]
    load: np.ndarray
    bound: float


def sweep(problem: Problem, model: Model, choose: Rule) -> Sums:
    """Return the sums of the E-step of a model, and its bound."""
    gate_sums = []
    expert_sums = []
    load = np.zeros(problem.n_experts)
    total = 0.0
    for seen, read, y, weight in _blocks(problem):
        log_gate, log_lik, answers = _said(problem, model, seen, read, y)
        e = choose(log_gate, log_lik)
        targets = weight[:, None] * e.gate
        mass = targets if e.experts is e.gate else weight[:, None] * e.experts
        gate_sums.append(model.gate.sums(seen, log_gate, targets, weight))
        expert_sums.append(model.experts.sums(read, y, answers, mass, weight))
        load += mass.sum(axis=0)
        total += weight @ e.norm
    bound = total / float(problem.content.weight.sum())
    return Sums(_total(gate_sums), _total(expert_sums), load, float(bound))


def judged(
    problem: Problem, model: Model, top_k: int, load: np.ndarray
) -> tuple[float, float, float]:
    """Return what rows say of a model that asks the experts that its gate prefers.

    Returns
    -------
    bound, loss, blind : float
        As a `Trial` has them; ``load`` are the weights of a gate that ignores x.
    """
    log_load = np.log(np.maximum(load / load.sum(), np.finfo(np.float64).tiny))
    total = np.zeros(3)
    for seen, read, y, weight in _blocks(problem):
        log_gate, log_lik, answers = _said(problem, model, seen, read, y)
        asked = among_best(log_gate, top_k)
        share, log_share = posterior(asked)
        norm = posterior(asked + log_lik)[1] - log_share
        wrong = model.experts.loss_of(y, answers, log_lik, share)
        blind = posterior(log_load + log_lik)[1]
        total += weight @ np.stack([norm, wrong, blind], axis=1)
    bound, loss, blind = total / problem.content.weight.sum()
    return float(bound), float(loss), float(blind)


def log_likelihood(problem: Problem, model: Model, top_k: int) -> float:
    """Return the mean log-likelihood per row as predict routes the rows."""
    total = 0.0
    for seen, read, y, weight in _blocks(problem):
        log_gate, log_lik, _ = _said(problem, model, seen, read, y)
        asked = among_best(log_gate, top_k)
        norm = posterior(asked + log_lik)[1] - posterior(asked)[1]
        total += weight @ norm
    return float(total / problem.content.weight.sum())


def stepped(
    problem: Problem, model: Model, sums: Sums, damping: float = 1.0
) -> tuple[Model, int]:
    """Return the model after both M-steps, and how many experts are new.

    A gate of which only the penalty would gain stays. ``damping`` is the part of the
    gate's step that is taken.
    """
    content = problem.content
    gate = model.gate
    if damping > 0:
        new, gain = gate.step(content.gate_table, sums.gate, damping)
        gate = new if gain >= 0 else gate
    experts, accepted = model.experts.step(content.table, sums.experts, damping)
    return Model(gate, experts), accepted


def first_model(
    problem: Problem, gate: BaseGate, pool: ExpertPool, start: Routing
) -> Model:
    """Return gate and experts fitted to initial responsibilities."""
    content = problem.content
    blocks = [
        (*block, block[3][:, None] * _dense(start.rows(block[0].rows)))
        for block in _blocks(problem)
    ]
    share = sum(mass.sum(axis=0) for *_, mass in blocks)
    gate = gate.blank(content.gate_table, share / share.sum())
    for _ in range(FIRST_STEPS):
        sums = [
            gate.sums(seen, gate.log_proba_of(content.gate_table, seen), mass, weight)
            for seen, _, _, weight, mass in blocks
        ]
        gate, _ = gate.step(content.gate_table, _total(sums), 1.0)
    experts = pool.blank(content.table, content.targets)
    for _ in range(pool.first_steps):
        sums = []
        for _, read, y, weight, mass in blocks:
            answers = experts.answers(content.table, read, y)
            sums.append(experts.sums(read, y, answers, mass, weight))
        experts, _ = experts.step(content.table, _total(sums), 1.0)
    return Model(gate, experts)


def _blocks(problem: Problem) -> Iterator[tuple[Block, Block, np.ndarray, np.ndarray]]:
    """Yield what the gate and the experts see of some rows, their y and weights."""
    content = problem.content
    weight = content.weight
    tables = content.gate_table.blocks(), content.table.blocks()
    for seen, read in zip(*tables, strict=True):
        yield seen, read, content.targets[read.rows], weight[read.rows]


def _said(
    problem: Problem, model: Model, seen: Block, read: Block, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return log p(k | x), log p(y | x, k) and the answers of all experts."""
    content = problem.content
    log_gate = model.gate.log_proba_of(content.gate_table, seen)
    answers = model.experts.answers(content.table, read, y)
    return log_gate, model.experts.log_density_of(y, answers), answers


def _total(parts: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if len(parts) == 1:
        return parts[0]
    return tuple(sum(each[1:], each[0]) for each in zip(*parts, strict=True))


def _dense(routing: Routing) -> np.ndarray:
    if routing.dense:
        return to_host(routing.weights).astype(np.float64)
    table = np.zeros((routing.shape[0], routing.n_experts + 1))
    indices, weights = to_host(routing.indices), to_host(routing.weights)
    np.put_along_axis(table, indices, weights, axis=1)
    return table[:, :-1]


# ------------------------------------------------------------------- back to rows
def expected(problem: Problem, model: Model) -> tuple[Routing, Terms, float]:
    """Return what each row keeps of all experts, their terms, and the bound."""
    parts = [
        _kept(problem, model, y, *_said(problem, model, seen, read, y))
        for seen, read, y, _ in _blocks(problem)
    ]
    columns = zip(*parts, strict=True)
    indices, resp, norm, log_gate, log_lik, values = map(np.concatenate, columns)
    there = problem.sample_weight
    dtype = problem.X_gate.dtype
    dense = indices.shape[1] == problem.n_experts
    weights, *terms = (
        like(each, there, dtype) for each in (resp, log_gate, values, log_lik)
    )
    routing = Routing(like(indices, there), weights, problem.n_experts, dense)
    weight = problem.content.weight
    return routing, Terms(*terms), float(weight @ norm / weight.sum())


def _kept(
    problem: Problem,
    model: Model,
    y: np.ndarray,
    log_gate: np.ndarray,
    log_lik: np.ndarray,
    answers: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Return the best experts of rows, responsibilities, bounds, and their terms."""
    joint = log_gate + problem.beta * log_lik
    values = model.experts.values_of(y, answers)
    n, n_experts = joint.shape
    width = min(problem.width, n_experts)
    if width == n_experts:
        indices = np.tile(np.arange(n_experts), (n, 1))
        return indices, *posterior(joint), log_gate, log_lik, values
    indices = np.argsort(-joint, axis=1, kind="stable")[:, :width]
    at = (np.take_along_axis(each, indices, 1) for each in (joint, log_gate, log_lik))
    joint, log_gate, log_lik = at
    values = np.take_along_axis(values, indices[:, :, None], axis=1)
    return indices, *posterior(joint), log_gate, log_lik, values
