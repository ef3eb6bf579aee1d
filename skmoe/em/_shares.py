"""Learners that are fitted one by one, on rows that lie in parts.

An expert learns a weighted sample of its rows, drawn by keys that depend on their
content alone. So the sample, and the order of its rows, are the same however the rows
are divided into parts. A row of weight w gets the key -log(u) / w with an even u, and
the smallest keys are a sample without replacement in which probabilities follow the
weights [1]_.

References
----------
.. [1] P. S. Efraimidis and P. G. Spirakis, "Weighted random sampling with a reservoir",
   Information Processing Letters 97 (2006) 181-185. doi:10.1016/j.ipl.2005.11.003
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..backends import to_host
from ..experts import ExpertPool, shrunk_pool, take_rows
from ..gates import BaseGate, RoutingRule
from ..routing import Routing, Table, bytes_of, mixed_keys
from ._gate_step import route
from ._last_passes import routed
from ._parts import Candidate, distinct_learners
from ._problem import Model, PassInfo, Problem
from ._stream_sample import stacked
from ._sweep import AllRows, Sums, dense
from ._trained import rescaled

LEAST = 1e-3
"""An expert does not learn from rows of which it is less responsible."""

RESCALINGS = 2
"""How often noise scales and responsibilities are brought in line with each other."""

GATE_STEPS = 4
"""Most rounds in which the gate follows experts that were fitted anew."""

DIGITS = 6
"""Decimals of responsibilities that learners see: trees turn the last bit of a weight
into another split."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """A part of a table as experts learn from it.

    Attributes
    ----------
    problem : Problem
    keys : (n,) array of uint64
        Keys of its rows.
    """

    problem: Problem
    keys: np.ndarray

    @property
    def n_bytes(self) -> int:
        """Bytes of the rows."""
        return bytes_of(self.problem.X) + bytes_of(self.problem.X_gate)


@dataclass(frozen=True, eq=False)
class Share:
    """Rows that an expert is to learn: those of the smallest keys, and no more than
    ``most``.

    Attributes
    ----------
    X, y : arrays
    weight : (n,) array
        Responsibility times row weight.
    keys : (n,) array
    most : int
    n_seen : int
        Number of rows that these were drawn from.
    """

    X: Any
    y: np.ndarray
    weight: np.ndarray
    keys: np.ndarray
    most: int
    n_seen: int

    def plus(self, other: Share) -> Share:
        """Return the rows of the smallest keys of both."""
        both = Share(
            stacked(self.X, other.X),
            np.concatenate([self.y, other.y]),
            np.concatenate([self.weight, other.weight]),
            np.concatenate([self.keys, other.keys]),
            self.most,
            self.n_seen + other.n_seen,
        )
        return both.first()

    def first(self) -> Share:
        """Return the rows of the smallest keys, in their order."""
        order = np.argsort(self.keys, kind="stable")[: self.most]
        return Share(
            take_rows(self.X, order),
            self.y[order],
            self.weight[order],
            self.keys[order],
            self.most,
            self.n_seen,
        )

    @property
    def lesson(self) -> np.ndarray:
        """Weights to learn with: even if the rows were drawn by their weights."""
        drawn = self.n_seen > self.most
        return np.ones(len(self.weight)) if drawn else self.weight


@dataclass(frozen=True, eq=False)
class Shares:
    """The shares of all experts, then of each distinct learner, which owns all rows."""

    shares: list[Share]

    def __sizeof__(self) -> int:
        """Return the bytes of the rows, by which schedulers place and spill them."""
        return sum(bytes_of(share.X) for share in self.shares)

    def plus(self, other: Shares) -> Shares:
        """Return the shares of the rows of both."""
        pairs = zip(self.shares, other.shares, strict=True)
        return Shares([mine.plus(theirs) for mine, theirs in pairs])

    def in_order(self) -> Shares:
        """Return the shares, whose arrays are in C order."""
        return self


class LessonRows(AllRows, Protocol):
    """Rows whose parts are lessons."""

    def taught(
        self, learners: Sequence[ExpertPool], function: Callable[..., Any], *args: Any
    ) -> list[ExpertPool]:
        """Return pools of one expert, each taught its share of ``function``'s total."""
        ...


def shares_of(
    part: Lesson, model: Model, width: int, most: int, n_learners: int
) -> Shares:
    """Return what the rows of a part give each expert and each learner to learn."""
    problem = part.problem
    resp = routed(problem, model.gate, model.experts, RoutingRule(width)).resp
    weight = problem.content.weight
    every = np.ones((n_learners, len(weight)))
    owned = np.concatenate([np.round(dense(resp), DIGITS), every])
    shares = []
    for k, share in enumerate(owned):
        rows = np.flatnonzero(share > LEAST)
        mass = share[rows] * weight[rows]
        even = (mixed_keys(part.keys[rows], k) + 0.5) / 2.0**64
        drawn = Share(
            take_rows(problem.X, rows),
            to_host(problem.y)[rows],
            mass,
            -np.log(even) / mass,
            most,
            len(rows),
        )
        shares.append(drawn.first())
    return Shares(shares)


def taught(pool: ExpertPool, shares: Shares, k: int) -> ExpertPool:
    """Return a pool of one expert that learned its share, unless that is empty."""
    share = shares.shares[k]
    if not len(share.weight):
        return pool
    return pool.update(share.X, share.y, Routing.from_dense(share.lesson[:, None]))


class Taught(NamedTuple):
    """Experts that learned from all rows, and their learners' fits to samples of them.

    Attributes
    ----------
    pool : ExpertPool
    pooled : ExpertPool
        One expert for each distinct learner.
    learner_of : (n_experts,) array of int
    """

    pool: ExpertPool
    pooled: ExpertPool
    learner_of: np.ndarray


def teach(
    rows: LessonRows, model: Model, pool: ExpertPool, width: int, most: int
) -> Taught:
    """Return experts that learned their shares of all rows.

    Parameters
    ----------
    rows : LessonRows
    model : Model
        It divides the rows among the experts.
    pool : ExpertPool
        The experts before they learn, not shrunk.
    width : int
        Experts that a row may teach.
    most : int
        Most rows of a share.
    """
    firsts, learner_of = distinct_learners(pool)
    every = [*range(pool.n_experts), *firsts]
    awake = pool.rested(())
    learners = [awake.take(np.array([k])) for k in every]
    fitted = rows.taught(learners, shares_of, model, width, most, len(firsts))
    n_experts = pool.n_experts
    experts = _assembled(pool, fitted[:n_experts])
    return Taught(
        experts, _assembled(pool.take(firsts), fitted[n_experts:]), learner_of
    )


def _assembled(pool: ExpertPool, experts: Sequence[ExpertPool]) -> ExpertPool:
    """Return the pool of experts that were taught one by one."""
    for k, one in enumerate(experts):
        every = one.take(np.zeros(pool.n_experts, dtype=np.intp))
        pool = pool.swap(every, np.arange(pool.n_experts) == k)
    return pool


def alternatives(
    new: Taught,
    gate: BaseGate,
    held_out: Problem,
    width: int,
    shrinkages: Sequence[float],
) -> list[Candidate]:
    """Return mixtures of new experts, as they are and shrunk.

    Their noise scales are those of rows held out, which they did not learn.
    """
    found = []
    for shrinkage in (0.0, *shrinkages):
        experts = shrunk_pool(new.pool, new.pooled, new.learner_of, shrinkage)
        for _ in range(RESCALINGS):
            state = routed(held_out, gate, experts, RoutingRule(width))
            experts = rescaled(held_out, experts, state.resp)
        name = f"shrunk by {shrinkage:g}" if shrinkage else "experts on all rows"
        model = Model(gate, experts)
        found.append(Candidate(name, model, new.pool, shrinkage))
    return found


def meet(
    rows: AllRows, candidate: Candidate, width: int
) -> tuple[Candidate, list[PassInfo]]:
    """Return a mixture whose gate took steps towards its experts, and the passes.

    The best of a few passes is returned; each is one round.
    """
    model = candidate.model
    best = model
    passes: list[PassInfo] = []
    for n_pass in range(1, GATE_STEPS + 1):
        sums = rows.total(gate_sums, model, width, rows.seen)
        bound = float(sums.bound)
        gain = bound - max((info.bound for info in passes), default=bound)
        passes.append(PassInfo(n_pass, bound, gain, gain >= 0, 0))
        if gain < 0:
            break
        best = model
        gate, _ = model.gate.step(rows.seen, sums.gate, np.array(1.0))
        model = Model(gate, model.experts)
    return replace(candidate, name="gate on all rows", model=best), passes


def gate_sums(part: Lesson, model: Model, width: int, table: Table) -> Sums:
    """Return what the gate learns from a part, and the bound as it routes the rows.

    Each row asks the ``width`` experts that its gate prefers.
    """
    problem = part.problem
    state = routed(problem, model.gate, model.experts, RoutingRule(width))
    resp = dense(state.resp)
    weight = problem.content.weight
    ours = Table(problem.content.gate_table.X, table.center, table.scale, table.n_rows)
    total: Any = None
    for block in ours.blocks():
        log_proba = model.gate.log_proba_of(ours, block)
        w = weight[block.rows]
        targets = resp[:, block.rows] * w
        found = Sums(
            model.gate.sums(block, log_proba, targets, w),
            (),
            targets.sum(axis=-1),
            np.zeros(()),
            w.sum(),
        )
        total = found if total is None else total.plus(found)
    likelihood = np.asarray(state.bound * weight.sum())
    return Sums(total.gate, (), total.load, likelihood, total.weight)


def served(part: Lesson, model: Model, rule: RoutingRule) -> Sums:
    """Return the load of each expert and the log-likelihood, as predict routes rows."""
    problem = part.problem
    choice = route(problem, model.gate, rule).scaled(problem.sample_weight)
    load = to_host(choice.sum_by_expert(choice.weights)).astype(np.float64)
    weight = problem.content.weight.sum()
    bound = routed(problem, model.gate, model.experts, rule).bound
    return Sums((), (), load, np.asarray(bound * weight), weight)
