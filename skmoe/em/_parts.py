"""EM on rows that lie in parts, such as those of a table beyond one machine.

The model is the state: each pass sums over the parts, and nothing of a row is kept. A
mixture that was trained on a sample goes on from there on all rows, in three stages:

- passes of EM until they gain no more than ``tol``;
- last passes, on the experts that predict asks;
- experts shrunk to their learner's fit on all rows, in each of a few ways.

Each stage ends in a mixture, and rows held out choose among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .._learners import recipe
from ..experts import ExpertPool
from ..gates import RoutingRule
from ..routing import Table
from ._engine import Climb
from ._last_passes import LAST_PASSES, choice_of, settled
from ._problem import Model, PassInfo, Problem
from ._sweep import AllRows, Rows, Sums, among_best, best_of, posterior
from ._trained import Trained

GATE_PASSES = 2
"""Last passes, at most, of gate and noise scales after experts were shrunk."""


@dataclass(frozen=True, eq=False)
class InParts:
    """Rows in several parts on this machine; see `AllRows`.

    Attributes
    ----------
    parts : sequence of Rows or of Lesson
        All in the units of ``seen`` and ``read``.
    seen, read : Table
    """

    parts: Sequence[Any]
    seen: Table
    read: Table

    def __sizeof__(self) -> int:
        """Return the bytes of the rows, by which schedulers place and spill them."""
        return sum(part.n_bytes for part in self.parts)

    def total(self, function: Callable[..., Any], *args: Any) -> Any:
        """Return the sum over the parts of ``function(part, *args)``."""
        sums = [function(part, *args) for part in self.parts]
        total = sums[0]
        for other in sums[1:]:
            total = total.plus(other)
        return total.in_order()


def rows_of_part(problem: Problem, seen: Table, read: Table) -> Rows:
    """Return the rows of a problem as a part, in the units of two tables."""
    content = problem.content
    ours = content.gate_table.X
    theirs = content.table.X
    first = Table(ours, seen.center, seen.scale, seen.n_rows)
    second = first
    if theirs is not ours:
        second = Table(theirs, read.center, read.scale, read.n_rows)
    return Rows(first, second, content.targets, content.weight)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A mixture that rows held out are to judge.

    Attributes
    ----------
    name : str
    model : Model
    unshrunk : ExpertPool
        Its experts before they were shrunk.
    shrinkage : float
    """

    name: str
    model: Model
    unshrunk: ExpertPool
    shrinkage: float = 0.0


@dataclass(frozen=True, eq=False)
class Progress:
    """Where passes on all rows stand: enough to go on with the same numbers.

    Attributes
    ----------
    model : Model
    damping : array
        Part of the next step of the gate.
    undone : array of int
        Passes that were undone since the last that was not.
    converged : array of bool
    passes : list of PassInfo
    """

    model: Model
    damping: np.ndarray
    undone: np.ndarray
    converged: np.ndarray
    passes: list[PassInfo]

    @classmethod
    def of(cls, model: Model) -> Self:
        """Return the progress of a model before the first pass."""
        return cls(model, np.array(1.0), np.array(0), np.array(False), [])


def climb(
    rows: AllRows,
    start: Progress,
    width: int,
    max_iter: int,
    tol: float,
    told: Callable[[Progress], bool],
) -> Progress:
    """Run passes of EM until they gain no more than ``tol``.

    ``told`` hears of each pass; if it returns True, training ends there.
    """
    em = Climb(rows, start.model, best_of(width), tol)
    em.damping, em.undone, em.converged = start.damping, start.undone, start.converged
    now = start
    while len(now.passes) < max_iter and not em.converged:
        em.step()
        passes = [*now.passes, em.told(len(now.passes) + 1)]
        now = Progress(em.model, em.damping, em.undone, em.converged, passes)
        if told(now):
            break
    return now


@dataclass(frozen=True)
class LastPasses:
    """What last passes are to know.

    Attributes
    ----------
    rule : RoutingRule
        Which experts predict asks.
    n_experts : int
    width : int
        Experts that a row keeps in training.
    tol : float
    """

    rule: RoutingRule
    n_experts: int
    width: int
    tol: float


def candidates(
    rows: AllRows,
    model: Model,
    problem: LastPasses,
    shrinkages: Sequence[float],
) -> list[Candidate]:
    """Return mixtures that follow from a model after EM, for held-out rows to judge."""
    last = model
    rule = problem.rule
    choose = best_of(problem.width)
    if rule.plain:
        choose = choice_of(rule, problem.n_experts, problem.width)
    sums = None
    if rule.plain and not rule.asks_all(problem.n_experts):
        last, sums = settled(rows, model, choose, LAST_PASSES, problem.tol, learn=True)
    found = [Candidate("passes on all rows", last, last.experts)]
    pooled, learner_of = pooled_on_parts(rows, last.experts)
    fits = Trained(pooled, pooled)
    for shrinkage in shrinkages:
        unshrunk = Trained(last.experts, last.experts)
        experts = unshrunk.shrunk(fits, learner_of, shrinkage).judge
        if sums is not None:
            experts = experts.rescaled(rows.read, sums.experts)
        shrunk, _ = settled(
            rows,
            Model(last.gate, experts),
            choose,
            GATE_PASSES,
            problem.tol,
            learn=False,
        )
        name = f"shrunk by {shrinkage:g}"
        found.append(Candidate(name, shrunk, last.experts, shrinkage))
    return found


def pooled_on_parts(rows: AllRows, pool: ExpertPool) -> tuple[ExpertPool, np.ndarray]:
    """Return each distinct learner fitted to all rows, and which one experts have."""
    firsts, learner_of = distinct_learners(pool)
    one = pool.take(firsts)
    for _ in range(one.first_steps):
        sums = rows.total(_everyone, one)
        one, _ = one.step(rows.read, sums.experts, np.array(1.0))
    return one, learner_of


def distinct_learners(pool: ExpertPool) -> tuple[np.ndarray, np.ndarray]:
    """Return an expert of each distinct learner, and the learner of each expert."""
    keys = [recipe(learner) for learner in pool.learners]
    distinct = list(dict.fromkeys(keys))
    firsts = np.array([keys.index(key) for key in distinct])
    return firsts, np.array([distinct.index(key) for key in keys])


def _everyone(rows: Rows, pool: ExpertPool) -> Sums:
    """Return what a pool learns from if each of its experts owns all rows."""
    parts = []
    load: Any = 0.0
    for _, read, y, weight in rows.blocks():
        mass = np.broadcast_to(weight, (pool.n_experts, len(weight)))
        answers = pool.answers(rows.read, read)
        parts.append(pool.sums(read, y, answers, mass, weight))
        load = load + mass.sum(axis=-1)
    experts = tuple(sum(each[1:], each[0]) for each in zip(*parts, strict=True))
    weight = rows.weight.sum()
    return Sums((), experts, load, np.zeros(()), weight)


def service(rows: Rows, model: Model, top_k: int) -> Sums:
    """Return the load of each expert and the log-likelihood, as predict routes rows."""
    load: Any = 0.0
    total: Any = 0.0
    for seen, read, y, weight in rows.blocks():
        log_gate, log_lik, _ = rows.said(model, seen, read, y)
        asked = among_best(log_gate, top_k)
        share, log_share = posterior(asked)
        load = load + share @ weight
        total = total + weight @ (posterior(asked + log_lik)[1] - log_share)
    return Sums((), (), load, np.asarray(total), rows.weight.sum())
