"""What the training rows cannot say: how smooth the gate, how far experts may go.

Out-of-fold terms keep an expert from owning the rows it memorised, but the partition
itself has seen every y, so bounds of the training rows flatter a mixture. Two choices
are therefore made on rows that no part of EM saw: the gate among its variants, and the
strength a with which an expert counts against its learner fitted on all rows. At a = 0
the mixture is that one learner with noise that varies, so a mixture that brings nothing
gives way to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..backends import Array, like, namespace, to_host
from ..experts import MOST, ExpertPool
from ..gates import BaseGate, ConstantGate, RoutingRule
from ._cross_fit_gate import for_new_rows
from ._folds import content_folds
from ._gate_step import improved_gate
from ._last_passes import routed, settle
from ._pooled import Pooled
from ._problem import EMResult, Problem, State, learning_mass
from ._trained import rescaled

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of an expert against the pooled fit."""

PULLS = tuple((a, False) for a in STRENGTHS) + tuple((a, True) for a in STRENGTHS[:-1])
"""A strength, and whether experts are pulled to the best learner instead of their own;
where all have the same learner, or a shared one stands beside them, that is none."""

AS_THEY_ARE = 1.0, False
"""The pull that is none, and the only one of models that exist already."""

PARTS = 4
"""One row in so many is held out."""

SPLITS, SPLITS_FLEXIBLE = ((1_000, 4), (4_000, 2)), ((1_000, 2),)
"""Below so many rows, so many parts are held out in turn; else one. Learners that are
fitted one by one cost more."""

ENOUGH_ROWS, ENOUGH_AN_EXPERT = 50_000, 50
"""Of more rows, and more rows an expert, a sample serves to choose by."""

FEW_ROWS = 4
"""With fewer rows an expert than this nothing is held out."""

GATE_UPDATES = 3
"""Updates of a gate when its smoothness changes."""

ROUNDING = 1e-9

SHARE_OF_GAIN, SHARE_OF_LOSS = 0.1, 0.01
"""What a choice may give up for its density: of the best gain in point predictions, or
of the loss, whichever is more."""

NEAR = 0.01
"""Nats a row by which rows held out have to object to groups that share an expert."""

SETTLE_PASSES, GATE_PASSES = 8, 1
"""Passes of experts and gate, and of the gate after experts were pulled."""


@dataclass(frozen=True, eq=False)
class Split:
    """Rows to learn from and rows held out.

    Attributes
    ----------
    train, test : Problem
    rows : (n_samples,) array of bool
        Which rows are those to learn from. Of very many rows some are in neither part.
    """

    train: Problem
    test: Problem
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the rows held out say of one split.

    Attributes
    ----------
    table : (n_gates, n_pulls) array
        Mean log-likelihood a row of the mixture, as predict routes it; NaN where a
        pull is none.
    losses : (n_gates, n_pulls) array
        How wrong its point predictions are; see `loss`.
    blind : (n_gates, n_pulls) array
        Log-likelihood of the same experts under a gate that ignores x; NaN where they
        are very many.
    single : float
        The same of the best learner alone, with one noise scale.
    models : list of (gate, pool)
        For each gate the mixture of unpulled experts.
    mixtures : list of dict
        For each gate the mixtures that were tried, (gate, pool) by pull.
    run : EMResult
        The run of EM that they come from.
    tied : bool
        Whether rows of a group share one expert.
    """

    table: np.ndarray
    losses: np.ndarray
    blind: np.ndarray
    single: float
    models: list[tuple[BaseGate, ExpertPool]]
    mixtures: list[dict[tuple[float, bool], tuple[BaseGate, ExpertPool]]]
    run: EMResult
    tied: bool = True

    def mixture(self, choice: Choice) -> tuple[BaseGate, ExpertPool]:
        """Return the mixture that was chosen."""
        return self.mixtures[choice.gate][choice.strength, choice.to_best]


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes
    ----------
    gate : int
        Which variant.
    strength : float
        Weight of the experts against the pooled fits.
    to_best : bool
        Whether that is the fit of the best learner, else each expert's own.
    mixture, blind, pooled, single : float
        Held-out log-likelihood a row of the mixture chosen, of the same with a gate
        that ignores x, of the best mixture whose experts are the pooled fit, and of
        one learner with one noise scale.
    temperature, bias : float and (n_classes,) array
        Of the class probabilities; see `_temperature`.
    """

    gate: int = 0
    strength: float = 1.0
    to_best: bool = False
    mixture: float = np.nan
    blind: float = np.nan
    pooled: float = np.nan
    single: float = np.nan
    temperature: float = 1.0
    bias: np.ndarray | float = 0.0


def count_splits(problem: Problem, *, rigid: bool = True) -> int:
    """Return how many splits the choices are made on, at most; 0 if rows are few."""
    n_rows = problem.sample_weight.shape[0]
    if n_rows < FEW_ROWS * problem.n_experts:
        return 0
    table = SPLITS if rigid else SPLITS_FLEXIBLE
    return next((count for rows, count in table if n_rows < rows), 1)


def splits(problem: Problem, *, rigid: bool) -> list[Split]:
    """Return the splits that the choices are made on."""
    count = count_splits(problem, rigid=rigid)
    if count == 0:
        return []
    n_rows = problem.sample_weight.shape[0]
    enough = max(ENOUGH_ROWS, ENOUGH_AN_EXPERT * problem.n_experts)
    n_folds = PARTS * -(-n_rows // enough)  # of which the first few serve
    part = content_folds(problem, n_folds, problem.seed + 1)
    n_parts = min(int(part.max()) + 1, PARTS)
    if n_parts == 1:
        return []
    seen = [(part < PARTS) & (part != s) for s in range(min(count, n_parts))]
    return [
        Split(_rows(problem, rows), _rows(problem, part == s), rows)
        for s, rows in enumerate(seen)
    ]


def _rows(problem: Problem, kept: np.ndarray) -> Problem:
    return problem.take(like(np.flatnonzero(kept), problem.sample_weight))


def hold_out(
    split: Split,
    result: EMResult,
    gates: Sequence[BaseGate],
    rule: RoutingRule,
) -> HeldOut:
    """Try each gate and pull on the rows held out.

    Parameters
    ----------
    split : Split
    result : EMResult
        The best run on the rows to learn from.
    gates : sequence of BaseGate
        Variants of the gate.
    rule : RoutingRule
        Which experts predict asks.
    """
    train, test, rigid = split.train, split.test, result.pool.slack == 0
    pooled = Pooled.of(train, result.pool)
    pooled_new = pooled.finished(train)
    single = _single(split, pooled, pooled_new)
    several = pooled.pool.n_experts > 1 and train.shared is None
    best = pooled.best(train) if several else 0
    pool = result.pool
    mass = learning_mass(train, pool, result.resp.scaled(train.sample_weight))
    new = pool.finished(train.X, train.y, mass)
    asked = new
    if not rigid:  # the experts stay: ask them once
        pool, pooled = train.remember(pool), pooled.remember(train)
        asked, pooled_new = test.remember(new), pooled_new.remember(test)
    targets = pooled, pooled.only(best)
    targets_new = pooled_new, pooled_new.only(best)
    models: list[tuple[BaseGate, ExpertPool]] = []
    mixtures: list[dict[tuple[float, bool], tuple[BaseGate, ExpertPool]]] = []
    pulls = PULLS if several else PULLS[: len(STRENGTHS)]
    if result.pool.frozen.all():
        pulls = (AS_THEY_ARE,)
    table = np.full((len(gates), len(PULLS)), np.nan)
    losses, blind = np.full_like(table, np.nan), np.full_like(table, np.nan)
    for i, variant in enumerate(gates):
        gate = copy.copy(result.gate).set_params(**variant.get_params())
        for _ in range(GATE_UPDATES):
            gate = improved_gate(train, gate, result.resp)
        state = settle(train, gate, pool, rule, SETTLE_PASSES, learn=rigid)
        if rigid:
            own = state.resp.scaled(train.sample_weight)
            own = learning_mass(train, state.pool, own)
            asked = new = state.pool.finished(train.X, train.y, own)
        models.append((for_new_rows(train, state.gate, state.resp), copy.copy(new)))
        models[-1][1].scale = state.pool.scale
        mixtures.append({})
        for strength, to_best in pulls:
            j = PULLS.index((strength, to_best))
            pulled = targets[to_best].pull(state.pool, strength)
            judge = rescaled(train, pulled, state.resp)
            last = settle(train, state.gate, judge, rule, GATE_PASSES, learn=False)
            final = copy.copy(targets_new[to_best].pull(asked, strength))
            final.scale = last.pool.scale
            tried = for_new_rows(train, last.gate, last.resp), final
            mixtures[-1][strength, to_best] = tried
            found = routed(test, *tried, rule)
            table[i, j], losses[i, j] = found.bound, loss(test, found)
            blind[i, j] = _blind(test, final, last)
    return HeldOut(table, losses, blind, single, models, mixtures, result, train.tied)


def _blind(problem: Problem, pool: ExpertPool, state: State) -> float:
    """Return the log-likelihood of a mixture whose gate ignores x.

    Its weights are the experts' shares of the rows that the state was trained on.
    """
    if pool.n_experts > MOST:
        return np.nan
    gate = ConstantGate().fit(state.resp.weights, state.resp)
    return routed(problem, gate, pool, RoutingRule()).bound


def loss(problem: Problem, state: State) -> float:
    """Return how wrong the point prediction of a routed state is.

    Regression: mean squared error; mean absolute error for families whose centre is not
    the mean; outputs in units of their own deviation, so that none speaks louder than
    another. Classification: share of the rows whose label has
    less than half of the probability, which for two classes is the error rate.
    """
    terms, weight = state.terms, problem.sample_weight
    xp = namespace(weight)
    gate = xp.exp(terms.log_gate)
    if problem.y.ndim == 1:
        wrong = xp.sum(gate * xp.exp(terms.log_lik), axis=1) < 0.5
        error = xp.astype(wrong, weight.dtype)
    else:
        family, choice = state.pool.likelihood, state.resp.with_weights(gate)
        means = family.means(terms.values, choice)
        scale = state.pool.scale_at(problem.X, choice)
        error = problem.y - family.centre(means, scale, choice)
        error = error / _deviations(problem) if problem.y.shape[1] > 1 else error
        error = xp.sum(xp.abs(error) if family.centred else error**2, axis=1)
    return float(to_host(xp.sum(weight * error) / xp.sum(weight)))


def _deviations(problem: Problem) -> Array:
    """Return the standard deviation of each output, (q,); 1 where it is constant."""
    xp, weight = namespace(problem.y), problem.sample_weight[:, None]
    total = xp.sum(weight)
    away = problem.y - xp.sum(weight * problem.y, axis=0) / total
    variance = xp.sum(weight * away**2, axis=0) / total
    return xp.sqrt(xp.where(variance > 0, variance, xp.ones_like(variance)))


def _single(split: Split, pooled: Pooled, new: Pooled) -> float:
    """Return the held-out log-likelihood of the best learner alone."""
    train, test = split.train, split.test
    everyone = pooled.everyone(train)
    xp = namespace(everyone.weights)
    counted = xp.astype(everyone.weights > 0, everyone.weights.dtype)
    whole = everyone.with_weights(counted)
    judge = rescaled(train, pooled.pool, whole)
    alone = copy.copy(new.pool)
    alone.scale = judge.scale
    scores = alone.log_likelihood(test.X, test.y, pooled.everyone(test))
    xp, weight = namespace(scores), test.sample_weight
    means = xp.sum(weight[:, None] * scores, axis=0) / xp.sum(weight)
    return float(np.max(to_host(means)))


def choose(
    tried: Sequence[Sequence[HeldOut]], split: Sequence[Split]
) -> tuple[int, Choice]:
    """Return the plan, gate and pull with the best held-out log-likelihood.

    Of those whose point predictions are next to the best: no more than `SHARE_OF_GAIN`
    of what the best gains over the pooled fit is given up, or `SHARE_OF_LOSS` of the
    pooled fit's loss, whichever is more. On a target of few values, and with outliers,
    sharp densities may pay although means get worse; where no mean gains, as between
    two branches of y that no x tells apart, the density decides. Plans in which groups
    share an expert, as the user says they do, go first where they are `NEAR` the best.

    Parameters
    ----------
    tried : sequence of sequences of HeldOut
        For each plan what each split says.
    split : sequence of Split

    Returns
    -------
    plan : int
    choice : Choice
    """
    weights = [float(to_host(s.test.sample_weight).sum()) for s in split]

    def mean(of: Callable[[HeldOut], np.ndarray | float]) -> np.ndarray:
        return np.stack(
            [np.average([of(h) for h in held], 0, weights) for held in tried]
        )

    table, losses = mean(lambda h: h.table), mean(lambda h: h.losses)
    fits = [j for j, (a, _) in enumerate(PULLS) if a == 0.0]
    best = np.nanmin(losses)
    pooled = np.fmin.reduce(losses[..., fits], axis=None)
    pooled = best if np.isnan(pooled) else pooled
    given_up = max(SHARE_OF_GAIN * (pooled - best), SHARE_OF_LOSS * pooled)
    allowed = losses <= (best + given_up) * (1 + ROUNDING)
    scores = np.where(allowed, table, -np.inf)
    tied = np.array([held[0].tied for held in tried])
    shared = np.where(tied[:, None, None], scores, -np.inf)
    at = np.argmax(shared if shared.max() > scores.max() - NEAR else scores)
    plan, gate, pull = (int(i) for i in np.unravel_index(at, table.shape))
    strength, to_best = PULLS[pull]
    return plan, Choice(
        gate,
        strength,
        to_best,
        mixture=float(table[plan, gate, pull]),
        blind=float(mean(lambda h: h.blind)[plan, gate, pull]),
        pooled=float(np.fmax.reduce(table[plan, :, fits], axis=None)),
        single=float(mean(lambda h: h.single)[plan]),
    )
