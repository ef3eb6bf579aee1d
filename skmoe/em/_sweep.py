"""One sweep over the rows per pass, for gates and experts that learn from sums.

A sweep takes the E-step of all experts, block by block, and adds up what both M-steps
need: the gate's gradient and curvature, the experts' moments. Then the gate takes one
damped Newton step and the experts solve their equations. Nothing about a row is kept.

Rows are the last axis of all arrays here, and experts the one before it. Axes before
these are several models, which share the rows and are trained at once: then the cost of
a call is small beside its arithmetic, however few the rows.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np

from ..backends import like, to_host
from ..experts import ExpertPool
from ..gates import BaseGate
from ..routing import Block, Routing, Table
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
    gate, experts : (..., n_experts, n) arrays
        Responsibilities that the gate and the experts learn from, 0 where an expert
        is not asked.
    norm : (..., n) array
        Log-likelihood of each row.
    """

    gate: np.ndarray
    experts: np.ndarray
    norm: np.ndarray


Rule = Callable[[np.ndarray, np.ndarray], EStep]
"""Makes an E-step of log p(k | x) and log p(y | x, k), both (..., n_experts, n)."""


def best_of(width: int, beta: np.ndarray | float = 1.0) -> Rule:
    """Return the rule of EM: each row keeps the experts that explain it best.

    ``beta`` (...) are powers of the densities.
    """

    power = np.asarray(beta)[..., None, None]

    def choose(log_gate: np.ndarray, log_lik: np.ndarray) -> EStep:
        resp, norm = posterior(among_best(log_gate + power * log_lik, width))
        return EStep(resp, resp, norm)

    return choose


def preferred_by_gate(top_k: int, width: int, beta: float = 1.0) -> Rule:
    """Return the rule of predict: each row asks the experts that its gate prefers.

    The gate learns from ``width`` experts, with densities to the power ``beta``.
    """

    def choose(log_gate: np.ndarray, log_lik: np.ndarray) -> EStep:
        asked = among_best(log_gate, top_k)
        resp, norm = posterior(asked + log_lik)
        norm = norm - posterior(asked)[1]
        wide = among_best(log_gate, width)
        return EStep(posterior(wide + beta * log_lik)[0], resp, norm)

    return choose


def among_best(scores: np.ndarray, width: int) -> np.ndarray:
    """Return the scores, -inf but for the best ``width`` of each row."""
    n_experts = scores.shape[-2]
    if width >= n_experts:
        return scores
    least = np.partition(scores, n_experts - width, axis=-2)
    least = least[..., n_experts - width, None, :]
    return np.where(scores >= least, scores, -np.inf)


def posterior(log_joint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return responsibilities, and the log of the sum of each row."""
    peak = log_joint.max(axis=-2, keepdims=True)
    resp = np.exp(log_joint - peak)
    total = resp.sum(axis=-2, keepdims=True)
    resp /= total
    return resp, (peak + np.log(total))[..., 0, :]


# --------------------------------------------------------------- rows and models
@dataclass(frozen=True, eq=False)
class Rows:
    """Rows to sum over.

    Attributes
    ----------
    seen, read : Table
        What the gate and the experts see.
    y : (q, n) or (n,) array
    weight : (..., n) array
        Axes before the last are those of several models, each with its own weights.
    """

    seen: Table
    read: Table
    y: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> Self:
        """Return the rows of a problem."""
        content = problem.content
        return cls(content.gate_table, content.table, content.targets, content.weight)

    def blocks(self) -> Iterator[tuple[Block, Block, np.ndarray, np.ndarray]]:
        """Yield what gate and experts see of some rows, their y and weights."""
        for seen, read in zip(self.seen.blocks(), self.read.blocks(), strict=True):
            yield seen, read, self.y[..., read.rows], self.weight[..., read.rows]

    def said(
        self, model: Model, seen: Block, read: Block, y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return log p(k | x), log p(y | x, k) and the answers of all experts."""
        log_gate = model.gate.log_proba_of(self.seen, seen)
        answers = model.experts.answers(self.read, read)
        return log_gate, model.experts.log_density_of(y, answers), answers

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows."""
        tables = {id(table): table.n_bytes for table in (self.seen, self.read)}
        return sum(tables.values()) + self.y.nbytes + self.weight.nbytes

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return what a function adds up over the rows; see `AllRows`."""
        return function(self, *args)

    def mean(self, total: np.ndarray) -> np.ndarray:
        """Return a sum over rows per unit of their weight."""
        return total / self.weight.sum(axis=-1)


class AllRows(Protocol):
    """Rows that sums are taken over, together or in parts, wherever they lie."""

    @property
    def seen(self) -> Table:
        """Units of the columns that the gate sees."""
        ...

    @property
    def read(self) -> Table:
        """Units of the columns that the experts see."""
        ...

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the sum over the parts of ``function(part, *args)``, by `plus`.

        The order of the sum depends on the number of parts alone.
        """
        ...


def stacked(models: Sequence[Model]) -> Model:
    """Return several models as one, whose arrays have an axis of models first."""
    return _each(lambda *arrays: np.stack(arrays), *models)


def picked(model: Model, which: Any) -> Model:
    """Return one of several models, or some of them."""
    return _each(lambda array: array[which], model)


def joined(models: Sequence[Model]) -> Model:
    """Return several models of several as one."""
    return _each(lambda *arrays: np.concatenate(arrays), *models)


def either(mask: np.ndarray, new: Model, old: Model) -> Model:
    """Return the new models where a mask is True, and else the old ones."""
    if mask.ndim == 0:  # one model, which may learn more than arrays
        return new if mask else old
    return _each(functools.partial(_where, mask), new, old)


def _each(make: Callable[..., np.ndarray], *models: Model) -> Model:
    """Return a model whose learned arrays are made of those of several."""
    gates = _made(make, [model.gate for model in models])
    return Model(gates, _made(make, [model.experts for model in models]))


def _made(make: Callable[..., np.ndarray], parts: Sequence[Any]) -> Any:
    other = copy.copy(parts[0])
    for name in other.changed_by_step:
        setattr(other, name, make(*(getattr(part, name) for part in parts)))
    return other


def _where(mask: np.ndarray, new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.where(np.expand_dims(mask, tuple(range(mask.ndim, new.ndim))), new, old)


# ------------------------------------------------------------------------ sweeps
@dataclass(frozen=True, eq=False)
class Sums:
    """What a sweep adds up.

    Attributes
    ----------
    gate, experts : tuples of arrays
        What `BaseGate.step` and `ExpertPool.step` learn from.
    load : (..., n_experts) array
        Weight of the rows of each expert.
    likelihood : (...) array
        Log-likelihood of the rows.
    weight : (...) array
        Weight of the rows.
    """

    gate: tuple[Any, ...]
    experts: tuple[Any, ...]
    load: np.ndarray
    likelihood: np.ndarray
    weight: np.ndarray

    def __sizeof__(self) -> int:
        """Return the bytes of the sums, by which schedulers place them."""
        return sum(array.nbytes for array in (*self.gate, *self.experts, self.load))

    @property
    def bound(self) -> np.ndarray:
        """Mean log-likelihood per row."""
        return self.likelihood / self.weight

    def plus(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return Sums(
            _total([self.gate, other.gate]),
            _total([self.experts, other.experts]),
            self.load + other.load,
            self.likelihood + other.likelihood,
            self.weight + other.weight,
        )

    def in_order(self) -> Sums:
        """Return the same in C order, as they come out of a journey between processes.

        Products of arrays in another order may differ in the last bit.
        """

        def ordered(arrays: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(np.asarray(array, order="C") for array in arrays)

        three = self.load, self.likelihood, self.weight
        return Sums(ordered(self.gate), ordered(self.experts), *ordered(three))

    def where(self, mask: np.ndarray, other: Sums) -> Sums:
        """Return these sums for the models of a mask, others for the rest."""
        where = functools.partial(_where, mask)
        return Sums(
            tuple(map(where, self.gate, other.gate)),
            tuple(map(where, self.experts, other.experts)),
            where(self.load, other.load),
            where(self.likelihood, other.likelihood),
            where(self.weight, other.weight),
        )


def sweep(rows: AllRows, model: Model, choose: Rule) -> Sums:
    """Return the sums of the E-step of a model, and its bound."""
    return rows.total(swept, model, choose)


def swept(rows: Rows, model: Model, choose: Rule) -> Sums:
    """Return the sums of `sweep` over rows that lie together."""
    gate_sums = []
    expert_sums = []
    load: Any = 0.0
    total: Any = 0.0
    for seen, read, y, weight in rows.blocks():
        log_gate, log_lik, answers = rows.said(model, seen, read, y)
        e = choose(log_gate, log_lik)
        targets = weight[..., None, :] * e.gate
        mass = targets if e.experts is e.gate else weight[..., None, :] * e.experts
        gate_sums.append(model.gate.sums(seen, log_gate, targets, weight))
        expert_sums.append(model.experts.sums(read, y, answers, mass, weight))
        load = load + mass.sum(axis=-1)
        total = total + np.sum(weight * e.norm, axis=-1)
    weight = rows.weight.sum(axis=-1)
    return Sums(_total(gate_sums), _total(expert_sums), load, total, weight)


def judged(
    rows: Rows, model: Model, top_k: int, load: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what rows say of a model that asks the experts that its gate prefers.

    Returns
    -------
    bound, loss, blind : (...) arrays
        As a `Trial` has them; ``load`` are the weights of a gate that ignores x.
    """
    load = load / load.sum(axis=-1, keepdims=True)
    log_load = np.log(np.maximum(load, np.finfo(np.float64).tiny))[..., None]
    total: Any = 0.0
    for seen, read, y, weight in rows.blocks():
        log_gate, log_lik, answers = rows.said(model, seen, read, y)
        asked = among_best(log_gate, top_k)
        share, log_share = posterior(asked)
        norm = posterior(asked + log_lik)[1] - log_share
        wrong = model.experts.loss_of(y, answers, log_lik, share)
        blind = posterior(log_load + log_lik)[1]
        total = total + np.sum(weight * np.stack([norm, wrong, blind]), axis=-1)
    bound, loss, blind = rows.mean(total)
    return bound, loss, blind


def log_likelihood(rows: Rows, model: Model, top_k: int) -> np.ndarray:
    """Return the mean log-likelihood per row as predict routes the rows, (...)."""
    total: Any = 0.0
    for seen, read, y, weight in rows.blocks():
        log_gate, log_lik, _ = rows.said(model, seen, read, y)
        asked = among_best(log_gate, top_k)
        norm = posterior(asked + log_lik)[1] - posterior(asked)[1]
        total = total + np.sum(weight * norm, axis=-1)
    return rows.mean(total)


def stepped(
    rows: AllRows, model: Model, sums: Sums, damping: np.ndarray | float = 1.0
) -> tuple[Model, np.ndarray]:
    """Return the model after both M-steps, and how many experts are new.

    A gate of which only the penalty would gain stays. ``damping`` is the part of the
    gate's step that is taken.
    """
    part = np.broadcast_to(damping, sums.bound.shape)
    gate, gain = model.gate.step(rows.seen, sums.gate, part)
    experts, accepted = model.experts.step(rows.read, sums.experts, part)
    new = Model(gate, experts)
    moves = gain >= 0
    if moves.all():
        return new, accepted
    return either(moves, new, Model(model.gate, experts)), accepted


def first_model(
    rows: Rows, gate: BaseGate, pool: ExpertPool, start: np.ndarray
) -> Model:
    """Return gate and experts fitted to responsibilities, (..., n_experts, n)."""
    blocks = [
        (*block, block[3][..., None, :] * start[..., block[0].rows])
        for block in rows.blocks()
    ]
    share = sum(mass.sum(axis=-1) for *_, mass in blocks)
    share = share / share.sum(axis=-1, keepdims=True)
    gate = gate.blank(rows.seen, share)
    whole = np.ones(share.shape[:-1])
    for _ in range(FIRST_STEPS):
        sums = [
            gate.sums(seen, gate.log_proba_of(rows.seen, seen), mass, weight)
            for seen, _, _, weight, mass in blocks
        ]
        gate, _ = gate.step(rows.seen, _total(sums), whole)
    experts = pool.blank(rows.read, rows.y, share.shape[:-1])
    for _ in range(pool.first_steps):
        sums = [
            experts.sums(read, y, experts.answers(rows.read, read), mass, weight)
            for _, read, y, weight, mass in blocks
        ]
        experts, _ = experts.step(rows.read, _total(sums), whole)
    return Model(gate, experts)


def _total(parts: list[tuple[Any, ...]]) -> tuple[Any, ...]:
    if len(parts) == 1:
        return parts[0]
    return tuple(sum(each[1:], each[0]) for each in zip(*parts, strict=True))


def dense(routing: Routing) -> np.ndarray:
    """Return the weights of a routing on the host, (n_experts, n)."""
    weights = to_host(routing.weights).astype(np.float64)
    if routing.dense:
        return np.ascontiguousarray(weights.T)
    table = np.zeros((routing.n_experts + 1, routing.shape[0]))
    np.put_along_axis(table, to_host(routing.indices).T, weights.T, axis=0)
    return table[:-1]


# ------------------------------------------------------------------- back to rows
def expected(problem: Problem, model: Model) -> tuple[Routing, Terms, float]:
    """Return what each row keeps of all experts, their terms, and the bound."""
    rows = Rows.of(problem)
    parts = [
        _kept(problem, model, y, *rows.said(model, seen, read, y))
        for seen, read, y, _ in rows.blocks()
    ]
    columns = zip(*parts, strict=True)
    indices, resp, norm, log_gate, log_lik, values = map(np.concatenate, columns)
    there = problem.sample_weight
    dtype = problem.X_gate.dtype
    all_kept = indices.shape[1] == problem.n_experts
    weights, *terms = (
        like(each, there, dtype) for each in (resp, log_gate, values, log_lik)
    )
    routing = Routing(like(indices, there), weights, problem.n_experts, all_kept)
    return routing, Terms(*terms), float(rows.mean(rows.weight @ norm))


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
    n_experts, n = joint.shape
    width = min(problem.width, n_experts)
    indices = np.tile(np.arange(n_experts)[:, None], (1, n))
    if width < n_experts:
        indices = np.argsort(-joint, axis=0, kind="stable")[:width]
        at = (np.take_along_axis(a, indices, 0) for a in (joint, log_gate, log_lik))
        joint, log_gate, log_lik = at
        values = np.take_along_axis(values, indices[:, None, :], axis=0)
    resp, norm = posterior(joint)
    columns = indices, resp, norm, log_gate, log_lik, values
    return tuple(np.ascontiguousarray(np.moveaxis(each, -1, 0)) for each in columns)
