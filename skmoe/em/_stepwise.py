r"""Stepwise EM: a mixture that learns from batches of rows, each seen once.

Online EM [1]_ runs the E-step only on the rows of a batch, and the M-step on expected
sufficient statistics in which older batches count for less,

    S ← (1 - γ) S + γ S(batch)

Here S are sums over rows: a batch of weight n is added to the faded sums of the rows
before. All remembered rows together weigh M. M grows as the number of rows seen to the
power a, between ½ and 1 as the theory of [1]_ requires. So γ = n / M falls, and what
was learned while the experts were poor fades; see `Pace`. An expert forgets only as it
learns [2]_: if its regime is away for a while, the expert is there when it comes back.

While M is small, rows choose with y in hand among twice as many experts as predict
asks; later they choose among those that predict asks, as in the last passes of a fit
(`_last_passes`).

A stream may change. If the log-likelihood of a batch, before it is learned, is far
below the mean of the rows before, M falls, batch by batch, until it no longer is. And
an expert that serves next to no rows starts anew: it becomes a copy of the expert with
most of the worst rows, and gets these rows.

Gate and experts decide what they remember (``recall``, ``absorb``). Parts that do not
stream are updated now and then on a sample of rows, see `_stream_sample`.

References
----------
.. [1] O. Cappé and E. Moulines, "On-line expectation-maximization algorithm for latent
   data models", JRSS B 71 (2009) 593-613. doi:10.1111/j.1467-9868.2009.00698.x
.. [2] M.-A. Sato and S. Ishii, "On-line EM algorithm for the normalized Gaussian
   network", Neural Computation 12 (2000) 407-432. doi:10.1162/089976600300015853
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from .._learners import recipe
from ..backends import like, namespace, select, to_host
from ..experts import ExpertPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from ._engine import _handed_over, log_joint, resume
from ._finite import check_finite
from ._gate_step import route, targets
from ._problem import Problem, State
from ._stream_sample import LARGEST, Sample

TINY = float(np.finfo(np.float64).tiny)

SURPRISE = 5.0
"""A batch whose mean log-likelihood is more standard errors than this below the mean
before it is no chance. At z standard errors the past keeps (SURPRISE / z)² of its
weight."""

DOUBT = 10.0
"""Most earlier rows that one row can make the model forget."""

FAR = 10.0
"""Cap on a row's deviation from the mean log-likelihood, in standard deviations."""

DEAD = 0.02
"""Share of an even load below which an expert may start anew."""

FRESH = 0.1
"""Share of its memory that an expert keeps when it starts anew as a copy of another."""

REFIT = 0.5
"""The sample is learned again after this many new rows, as a share of the sample. So
each row is fitted a bounded number of times, however long the stream."""


@dataclass(frozen=True)
class Pace:
    """The number of rows M(t) that are remembered after t rows.

    M(t) = t up to ``start`` rows, then start (t / start)^a, and at most ``longest``.

    Attributes
    ----------
    start : float
        Number of rows that first tell the experts apart.
    exponent : float
        The power a; at 1 nothing is forgotten.
    longest : float
        Most rows to remember, so that even an old stream can follow changes. The price
        is about half the number of parameters over M, in nats per row: 0.0009 for 8
        linear experts of 10 features at 100 000.
    wide : float
        Number of rows, in units of ``start``, after which rows are routed as in
        predict.
    """

    start: float = 1000.0
    exponent: float = 0.6
    longest: float = 1e5
    wide: float = 6.0

    def after(self, memory: float, n: float) -> float:
        """Return how many rows are remembered after n more."""
        if self.exponent == 1.0 or memory + n <= self.start:
            return min(memory + n, max(memory, self.longest))
        b, a = self.start, self.exponent
        age = memory if memory <= b else b * (memory / b) ** (1.0 / a)
        return min(b * ((age + n) / b) ** a, max(memory, self.longest))


@dataclass(frozen=True)
class Level:
    """How well rows are explained before they are learned.

    Attributes
    ----------
    mean : float
        Mean of the rows' log-likelihood.
    middle, variance : float
        Its mean and variance with deviations capped at `FAR`, so that no single row
        counts for many.
    """

    mean: float
    middle: float
    variance: float

    @classmethod
    def of(
        cls, score: np.ndarray, weight: np.ndarray, old: Level | None = None
    ) -> Level:
        """Return the level of a batch; an older level says where to cap deviations."""
        mean = float(np.average(score, weights=weight))
        if old is not None:
            far = FAR * np.sqrt(old.variance)
            score = np.clip(score, old.middle - far, old.middle + far)
        middle = float(np.average(score, weights=weight))
        variance = float(np.average((score - middle) ** 2, weights=weight))
        return cls(mean, middle, variance)

    def lowered(self, by: float) -> Level:
        """Return the level of rows that are explained worse by this much."""
        return Level(self.mean - by, self.middle - by, self.variance)

    def moved(self, other: Level, gamma: float) -> Level:
        """Return the level after a batch whose share of all rows is ``gamma``."""
        shift = other.middle - self.middle
        variance = (1.0 - gamma) * self.variance + gamma * other.variance
        return Level(
            mean=self.mean + gamma * (other.mean - self.mean),
            middle=self.middle + gamma * shift,
            variance=float(variance + gamma * (1.0 - gamma) * np.square(shift)),
        )

    def surprise(self, other: Level, n: float) -> float:
        """Return by how many standard errors a batch of n rows is explained worse."""
        return (self.middle - other.middle) / np.sqrt(max(self.variance, TINY) / n)


@dataclass(frozen=True, eq=False)
class Stream:
    """A mixture between two batches: a value, which no batch changes.

    Attributes
    ----------
    gate, pool : BaseGate, ExpertPool
    memory : float
        Weight of the remembered rows.
    load : (n_experts,) array
        Each expert's share of the remembered rows.
    level : Level
        Log-likelihood of the remembered rows, over the experts that training keeps for
        a row.
    routed : Level
        The same over the experts that predict asks.
    sample : Sample or None
        Rows for a gate or experts that do not stream.
    shaken : bool
        Whether the last batch made the model forget most of the past: the stream has
        changed so much that it may be better to start anew.
    """

    gate: BaseGate
    pool: ExpertPool
    memory: float
    load: np.ndarray
    level: Level
    routed: Level
    sample: Sample | None
    shaken: bool = False


@dataclass(frozen=True, eq=False)
class Judged:
    """The answers of a model for a batch that it has not learned.

    Attributes
    ----------
    state : State
        The E-step over the experts that training keeps for a row.
    narrow : Routing
        Responsibilities over the experts that predict asks.
    score, routed : (n,) array
        Log-likelihood of each row over the experts of ``state`` and of ``narrow``.
    """

    state: State
    narrow: Routing
    score: np.ndarray
    routed: np.ndarray


def judge(
    problem: Problem, gate: BaseGate, pool: ExpertPool, rule: RoutingRule
) -> Judged:
    """Return the answers of a model for a batch."""
    state = resume(problem, gate, pool)
    joint = log_joint(problem, state.terms)
    ops = select(joint)
    xp = namespace(joint)
    score = to_host(ops.logsumexp(joint))
    if rule.asks_all(problem.n_experts):
        return Judged(state, state.resp, score, score)
    support = route(problem, gate, rule)
    indices = state.resp.indices
    inside = xp.any(indices[:, :, None] == support.indices[:, None, :], axis=2)
    inside = inside | ~xp.any(inside, axis=1)[:, None]
    low = xp.full_like(joint, -xp.inf)
    resp, norm = ops.normalise(xp.where(inside, joint, low))
    log_mass = ops.logsumexp(xp.where(inside, state.terms.log_gate, low))
    return Judged(state, state.resp.with_weights(resp), score, to_host(norm - log_mass))


def open_stream(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    rule: RoutingRule,
    rows: float,
    bound: float,
    load: np.ndarray | None = None,
    pace: Pace | None = None,
) -> Stream:
    """Return the stream that goes on from a fitted mixture.

    Parameters
    ----------
    problem : Problem
        The rows that the mixture was fitted on, or rows like them.
    gate, pool : BaseGate, ExpertPool
    rule : RoutingRule
        Which experts predict asks.
    rows : float
        Weight of the rows that the mixture was fitted on.
    bound : float
        Their mean log-likelihood over the experts that predict asks, as the fit
        measured it, out of fold where experts memorise rows.
    load : (n_experts,) array or None
        Each expert's share of these rows; None if they are the problem's rows.
    pace : Pace or None
    """
    verdict = judge(problem, gate, pool, rule)
    mass = verdict.state.resp.scaled(problem.sample_weight)
    learned = load is None
    if load is None:
        load = mass.sum_by_expert(mass.weights)
    load = np.maximum(load, TINY) / max(load.sum(), TINY)
    memory = min(rows, (pace or Pace()).longest)
    gate = gate.recall(*targets(problem, verdict.state.resp), memory * load)
    pool = pool.recall(problem.X, mass, memory * load)
    sample = None
    if not gate.streams or not pool.streams.all():
        # Experts that learned these rows flatter them; the gate has not seen their y.
        sample = Sample.of(problem, route(problem, gate, rule))
        sample = sample if learned else sample.emptied(rows)
    weight = to_host(problem.sample_weight)
    level, routed = (Level.of(each, weight) for each in (verdict.score, verdict.routed))
    flattery = routed.mean - bound
    level = level.lowered(flattery)
    routed = routed.lowered(flattery)
    return _checked(Stream(gate, pool, memory, load, level, routed, sample), problem)


def absorb(
    problem: Problem, stream: Stream, rule: RoutingRule, pace: Pace | None = None
) -> Stream:
    """Return the stream after a batch of rows.

    Parameters
    ----------
    problem : Problem
        The batch.
    stream : Stream
    rule : RoutingRule
        Which experts predict asks.
    pace : Pace or None
    """
    pace = pace or Pace()
    weight = to_host(problem.sample_weight).astype(np.float64)
    n = weight.sum()
    n_even = weight.sum() ** 2 / np.sum(weight**2)
    gate = stream.gate
    pool = stream.pool
    load = stream.load
    memory_before = stream.memory
    verdict = judge(problem, gate, pool, rule)
    level = Level.of(verdict.score, weight, stream.level)
    routed = Level.of(verdict.routed, weight, stream.routed)
    check_finite(level, routed)
    born = None
    resp = verdict.state.resp
    surprise = stream.level.surprise(level, n_even)
    if memory_before >= pace.wide * pace.start:
        resp = verdict.narrow
        surprise = stream.routed.surprise(routed, n_even)
    if surprise > SURPRISE:
        memory_before = max(
            memory_before * (SURPRISE / surprise) ** 2, memory_before - DOUBT * n, 1.0
        )
        dead = int(np.argmin(load))
        if load[dead] < DEAD / len(load):
            theirs, parent = _worst_rows(problem, resp, verdict.score, dead)
            if parent != dead and _alike(pool, dead, parent):
                born = dead
                resp = theirs
                gate, pool, load = _copied(gate, pool, load, parent, born)

    memory = pace.after(memory_before, n)
    keep = max(0.0, memory - n) / stream.memory
    gamma = n / max(memory, n)
    mass = resp.scaled(problem.sample_weight)
    share = mass.sum_by_expert(mass.weights) / n
    # An expert forgets in proportion to what it learns, compared with its usual load.
    keeps = 1.0 - (1.0 - keep) * np.minimum(1.0, share / np.maximum(load, TINY))
    if born is not None:
        keeps[born] = FRESH
    gate = gate.absorb(*targets(problem, resp), keep)
    pool = pool.absorb(problem.X, problem.y, verdict.state.terms.values, mass, keeps)
    load = (1.0 - gamma) * load + gamma * share
    sample = stream.sample
    if sample is not None:
        sample = sample.plus(problem, resp, keep)
        if sample.fresh >= REFIT * min(sample.population, LARGEST):
            gate, pool, sample = relearned(gate, pool, sample)
    new = Stream(
        gate=gate,
        pool=pool,
        memory=max(memory, n),
        load=load,
        level=stream.level.moved(level, gamma),
        routed=stream.routed.moved(routed, gamma),
        sample=sample,
        shaken=surprise > SURPRISE and memory_before < max(n, stream.memory / 4),
    )
    return _checked(new, problem)


def _checked(stream: Stream, problem: Problem) -> Stream:
    """Return the stream, or raise if its sums or predictions are not finite."""
    first = like(np.zeros(1, dtype=np.intp), problem.sample_weight)
    one = problem.take(first)
    ones = np.ones((1, stream.pool.n_experts))
    everyone = Routing.from_dense(
        like(ones, one.sample_weight, one.sample_weight.dtype)
    )
    stream.pool.predict(one.X, everyone)  # learners may have diverged, and raise
    gate = [stream.gate] if stream.gate.streams else []
    check_finite(*gate, stream.pool, stream.load, stream.level, stream.routed)
    return stream


def relearned(
    gate: BaseGate, pool: ExpertPool, sample: Sample
) -> tuple[BaseGate, ExpertPool, Sample]:
    """Update the gate and experts that do not stream, on the sample."""
    mass = sample.mass
    if not gate.streams:
        gate = gate.update(sample.X_gate, mass)
    if not pool.streams.all():
        # Experts that stream know these rows; without a share they stay as they are.
        pool = pool.update(sample.X, sample.y, mass.only(~pool.streams))
    return gate, pool, replace(sample, fresh=0)


# ---------------------------------------------------------------------- new experts
def _worst_rows(
    problem: Problem, resp: Routing, score: np.ndarray, expert: int
) -> tuple[Routing, int]:
    """Give the rows that are explained worst to an expert; return who had most of them.

    The rows are half of an even share, by weight.
    """
    weight = to_host(problem.sample_weight)
    order = np.argsort(score, kind="stable")
    share = np.cumsum(weight[order]) <= weight.sum() / (2 * problem.n_experts)
    new = np.full(len(order), -1)
    new[order[share]] = expert
    if not share.any():
        return resp, expert
    theirs = resp.scaled(like((new >= 0) * weight, problem.sample_weight))
    parent = int(np.argmax(theirs.sum_by_expert(theirs.weights)))
    return _handed_over(resp, like(new, resp.indices)), parent


def _alike(pool: ExpertPool, one: int, other: int) -> bool:
    return recipe(pool.learners[one]) == recipe(pool.learners[other])


def _copied(
    gate: BaseGate, pool: ExpertPool, load: np.ndarray, parent: int, child: int
) -> tuple[BaseGate, ExpertPool, np.ndarray]:
    """Return the mixture in which one expert has become a copy of another."""
    experts = np.arange(len(load))
    experts[child] = parent
    copied = copy.copy(pool.take(experts))
    copied.seeds = pool.seeds
    load = load[experts] / np.bincount(experts, minlength=len(load))[experts]
    try:
        return gate.take(experts), copied, load
    except TypeError:  # the gate can leave out none, so the copy takes the place
        return gate, copied, load
