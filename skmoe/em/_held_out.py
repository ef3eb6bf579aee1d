"""The choice of gate and shrinkage, which training rows cannot make.

Out-of-fold terms keep an expert from owning the rows it memorised, but the partition
itself has seen every y, so bounds of the training rows flatter a mixture. We therefore
make two choices on held-out rows, which no part of EM saw: the gate among its variants,
and the shrinkage s of experts towards their learner fitted on all rows. At s = 1 the
mixture is that one learner with noise that varies, so a mixture that brings nothing
gives way to it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import numpy as np

from ..backends import Array, like, namespace, to_host
from ..experts import MOST, ExpertPool
from ..gates import BaseGate, ConstantGate, RoutingRule
from ._folds import content_folds
from ._gate_step import improved_gate
from ._last_passes import choice_of, routed, settle, settle_gate, settled
from ._pooled import Pooled, learnable_rows
from ._problem import EMResult, Model, Problem, Record, State
from ._race import Race
from ._sweep import Rows, Rule, Sums, best_of, judged, picked, stacked, sweep
from ._trained import Trained

SHRINKAGES = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Weights of the pooled fit against the expert."""

WAYS = (
    *((s, False) for s in SHRINKAGES),
    *((s, True) for s in SHRINKAGES[:-1]),
)
"""Ways to shrink experts: how far, and whether to the best learner, not their own. If
all have the same learner, or a shared one, only the ways to their own are tried."""

AS_THEY_ARE = 0.0, False
"""The way that does not shrink experts: the only one for frozen models."""

PARTS = 4
"""One row in this many is held out."""

SPLITS = ((1_000, 4), (4_000, 2))
"""(limit, number): with fewer rows than a limit, its number of parts are held out in
turn. Above all limits one part is."""

SPLITS_FLEXIBLE: tuple[tuple[int, int], ...] = ((300, 2),)
"""The same for learners that are fitted one by one, which cost more."""

ENOUGH_ROWS = 50_000
"""If there are more rows than this, the choice is made on a sample of them."""

ENOUGH_ON_SUMS = 4_000
"""The same for gates and experts that learn from sums: they go on with all rows."""

ENOUGH_AN_EXPERT = 50
"""The sample has at least this many rows per expert."""

FEW_ROWS = 4
"""With fewer rows per expert than this nothing is held out."""

GATE_UPDATES = 3
"""Number of updates of a gate when its smoothness changes."""

ROUNDING = 1e-9

SHARE_OF_GAIN = 0.1
"""Share of the best gain in point predictions that a choice may give up."""

SHARE_OF_LOSS = 0.01
"""Share of the pooled fit's loss that it may give up, if that is more."""

NEAR = 0.01
"""Most nats per held-out row to give up so that rows of a group share an expert."""

SETTLE_PASSES = 8
"""Number of last passes of experts and gate."""

TRIAL_PASSES = 4
"""The same where both learn from sums: a pass takes one step of Newton."""

GATE_PASSES = 1
"""Number of last passes of the gate after experts were shrunk."""


@dataclass(frozen=True, eq=False)
class Split:
    """Training rows and held-out rows.

    Attributes
    ----------
    problem : Problem
        All rows.
    rows, held_out : (n_samples,) arrays of bool
        Which rows are in ``train`` and ``test``. If rows are very many, some are in
        neither.
    """

    problem: Problem
    rows: np.ndarray
    held_out: np.ndarray

    @cached_property
    def train(self) -> Problem:
        """The rows to learn from, copied when they are first asked for."""
        return _rows(self.problem, self.rows)

    @cached_property
    def test(self) -> Problem:
        """The rows that judge, copied when they are first asked for."""
        return _rows(self.problem, self.held_out)

    @property
    def test_weight(self) -> float:
        """Weight of the rows that judge."""
        weight = to_host(self.problem.sample_weight)
        return float(weight[self.held_out].sum())

    def forget(self) -> None:
        """Give the memory of the copies back; they are made anew where needed."""
        vars(self).pop("train", None)
        vars(self).pop("test", None)


@dataclass(frozen=True, eq=False)
class Trial:
    """A mixture, and how well it does on held-out rows; or several at once.

    Attributes
    ----------
    make : callable
        Makes the mixture: few trials are looked at again, and coefficients of many
        columns take memory.
    bound : float
        Mean log-likelihood per row of the mixture, as predict routes the rows.
    loss : float
        Loss of its point predictions; see `loss`.
    blind : float
        Log-likelihood per row of the same experts under a gate that ignores x; NaN if
        there are very many experts.
    """

    make: Callable[[], Model]
    bound: Any
    loss: Any
    blind: Any

    def of(self, which: int) -> Trial:
        """Return one of the trials of several models."""
        numbers = (float(a[which]) for a in (self.bound, self.loss, self.blind))
        return Trial(partial(picked, self.make(), which), *numbers)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The mixtures that were tried on one split, and how well they do.

    Attributes
    ----------
    trials : list of dict
        For each gate the trials, by the way in which experts are shrunk.
    single : float
        Log-likelihood per row of the best learner alone, with one noise scale.
    models : list of Model
        For each gate the mixture whose experts are not shrunk.
    run : Record
        What happened in the run of EM that the trials start from.
    judge : ExpertPool or None
        The experts of that run, where they are fitted one by one.
    tied : bool
        Whether rows of a group share one expert.
    pooled : Pooled or None
        The pooled fits.
    """

    trials: list[dict[tuple[float, bool], Trial]]
    single: float
    models: list[Model]
    run: Record
    tied: bool = True
    pooled: Pooled | None = None
    judge: ExpertPool | None = None

    def table(self, figure: str) -> np.ndarray:
        """Return a figure of the trials, (n_gates, n_ways); NaN where there is none."""
        table = np.full((len(self.trials), len(WAYS)), np.nan)
        for row, trials in zip(table, self.trials, strict=True):
            for way, trial in trials.items():
                row[WAYS.index(way)] = getattr(trial, figure)
        return table

    def mixture(self, choice: Choice) -> Model:
        """Return the mixture that was chosen."""
        return self.trials[choice.gate][choice.shrinkage, choice.to_best].make()


@dataclass(frozen=True)
class Choice:
    """The chosen gate and shrinkage, and the reasons.

    Attributes
    ----------
    gate : int
        Which variant of the gate.
    shrinkage : float
        Weight of the pooled fits against the experts.
    to_best : bool
        Whether experts are shrunk to the best learner, not to their own.
    mixture, blind, pooled, single : float
        Held-out log-likelihood per row of the chosen mixture, of the same experts under
        a gate that ignores x, of the best mixture whose experts are the pooled fit, and
        of one learner with one noise scale.
    narrowing : float
        Factor of the noise scales; see `_narrowing`.
    temperature, bias : float and (n_classes,) array
        Temperature and biases of the class probabilities; see `_temperature`.
    """

    gate: int = 0
    shrinkage: float = 0.0
    to_best: bool = False
    mixture: float = np.nan
    blind: float = np.nan
    pooled: float = np.nan
    single: float = np.nan
    narrowing: float = 1.0
    temperature: float = 1.0
    bias: np.ndarray | float = 0.0


def count_splits(problem: Problem, *, rigid: bool = True) -> int:
    """Return the most splits that a choice is made on; 0 if rows are few."""
    n_rows = problem.sample_weight.shape[0]
    if n_rows < FEW_ROWS * problem.n_experts:
        return 0
    table = SPLITS if rigid else SPLITS_FLEXIBLE
    return next((count for rows, count in table if n_rows < rows), 1)


def splits(problem: Problem, *, rigid: bool, enough: int | None = None) -> list[Split]:
    """Return the splits that the choices are made on.

    Of more rows than ``enough`` (None is `ENOUGH_ROWS`) a sample serves.
    """
    count = count_splits(problem, rigid=rigid)
    if count == 0:
        return []
    n_rows = problem.sample_weight.shape[0]
    enough = ENOUGH_ROWS if enough is None else enough
    enough = max(enough, ENOUGH_AN_EXPERT * problem.n_experts)
    n_folds = PARTS * -(-n_rows // enough)  # only the first few serve
    part = content_folds(problem, n_folds, problem.seed + 1)
    problem.content.forget()  # the splits have their own
    n_parts = min(int(part.max()) + 1, PARTS)
    if n_parts == 1:
        return []
    learned = [(part < PARTS) & (part != s) for s in range(min(count, n_parts))]
    return [Split(problem, rows, part == s) for s, rows in enumerate(learned)]


def _rows(problem: Problem, kept: np.ndarray) -> Problem:
    return problem.take(like(np.flatnonzero(kept), problem.sample_weight))


def hold_out(
    train: Problem,
    test: Problem,
    result: EMResult,
    gates: Sequence[BaseGate],
    rule: RoutingRule,
    pooled: Pooled | None = None,
) -> HeldOut:
    """Try each gate, and each way to shrink experts, on the held-out rows.

    Parameters
    ----------
    train, test : Problem
        The rows to learn from, and those held out.
    result : EMResult
        The best run of EM on ``train``.
    gates : sequence of BaseGate
        Variants of the gate.
    rule : RoutingRule
        Which experts predict asks.
    pooled : Pooled or None
        The pooled fits, if they are there already.
    """
    rigid = result.pool.rigid
    mass = result.resp.scaled(train.sample_weight)
    experts = Trained.of(train, result.pool, mass)
    pooled = pooled or Pooled.of(train, result.pool)
    single = _single(train, test, pooled)
    targets = {False: pooled}
    if pooled.several and train.shared is None:
        targets[True] = pooled.only(pooled.best(train))
    quick = experts
    if not rigid:  # the experts stay, so we ask them once
        quick = experts.remembered(train, test)
        targets = {best: fit.remembered(train, test) for best, fit in targets.items()}
    judge = quick.judge
    models = []
    trials = []
    for variant in gates:
        state = _settled(train, result, judge, variant, rule)
        if rigid:
            mass = state.resp.scaled(train.sample_weight)
            experts = quick = Trained.of(train, state.pool, mass)
        models.append(experts.for_new_rows(train, state))
        quick = replace(quick, judge=state.pool)
        trials.append(_trials(train, test, state, quick, targets, rule))
    record = result.without_model()
    return HeldOut(trials, single, models, record, train.tied, pooled, result.pool)


def hold_out_on_sums(
    race: Race,
    parts: Sequence[Split],
    model: Model,
    records: Sequence[Record],
    gates: Sequence[BaseGate],
    rule: RoutingRule,
) -> list[HeldOut]:
    """Try gates, and ways to shrink experts, where both learn from sums.

    Each gate is tried with experts as they are, and then each way to shrink experts
    beside the best of the gates. The smoothest gate is tried with the pooled fit too.

    Parameters
    ----------
    race : Race
    parts : sequence of Split
    model : Model
        The winner of each split.
    records : sequence of Record
        What happened in their last runs.
    gates : sequence of BaseGate
        Variants of the gate.
    rule : RoutingRule
        Which experts predict asks.
    """
    bench = Bench.of(race, rule)
    settings = bench.of_each_gate(model, gates)
    weight = race.test.sum(axis=1)
    bounds = [weight @ judged.bound for *_, judged in settings]
    best = int(np.argmax(bounds))
    pooled = [
        Pooled.of(part.train, picked(model, s).experts) for s, part in enumerate(parts)
    ]
    targets = {False: pooled}
    if pooled[0].several:
        targets[True] = [
            fit.only(fit.best(part.train))
            for fit, part in zip(pooled, parts, strict=True)
        ]
    ways = [way for way in WAYS if way[1] in targets and way[0] > 0]
    fits = [way for way in ways if way[0] == 1.0]
    trials = [{AS_THEY_ARE: trial} for *_, trial in settings]
    for gate, tried in {len(gates) - 1: fits, best: ways}.items():
        settled, sums, _ = settings[gate]
        for way in tried:
            trials[gate][way] = bench.shrunk(settled, sums, targets[way[1]], way[0])
    return [
        HeldOut(
            trials=[{way: t.of(s) for way, t in each.items()} for each in trials],
            single=_single(part.train, part.test, pooled[s]),
            models=[picked(settled, s) for settled, *_ in settings],
            run=records[s],
            tied=part.train.tied,
            pooled=pooled[s],
        )
        for s, part in enumerate(parts)
    ]


@dataclass(frozen=True, eq=False)
class Bench:
    """Where models of all splits are tried at once.

    Attributes
    ----------
    learn, test : Rows
        With the weights of each split.
    width : int
        Experts that a row keeps in EM.
    top_k : int
        Experts that predict asks.
    choose : callable
        Which experts the last passes ask.
    tol : float
    """

    learn: Rows
    test: Rows
    width: int
    top_k: int
    choose: Rule
    tol: float

    @classmethod
    def of(cls, race: Race, rule: RoutingRule) -> Self:
        """Return the bench of a race."""
        problem = race.problem
        every = np.arange(len(race.learn))
        rows = race.rows(every), race.held_out(every)
        choose = choice_of(rule, problem.n_experts, problem.width)
        return cls(*rows, problem.width, race.top_k, choose, problem.tol)

    def of_each_gate(
        self, model: Model, gates: Sequence[BaseGate]
    ) -> list[tuple[Model, Sums, Trial]]:
        """Return the mixtures of each gate, their sums, and what rows held out say.

        Each gate starts where the one before it ended.
        """
        outcomes = []
        gate = model.gate
        for variant in gates:
            gate = copy.copy(gate).set_params(**variant.get_params())
            gate = self._smoothed(Model(gate, model.experts))
            start = Model(gate, model.experts)
            last, sums = self._settled(start, TRIAL_PASSES, learn=True)
            outcomes.append((last, sums, self._trial(last, sums)))
        return outcomes

    def shrunk(
        self, model: Model, sums: Sums, pooled: Sequence[Pooled], shrinkage: float
    ) -> Trial:
        """Return what rows held out say of mixtures whose experts are shrunk."""
        models = []
        for s, fit in enumerate(pooled):
            experts = picked(model, s).experts
            judge = fit.shrink(Trained(experts, experts), shrinkage).judge
            models.append(Model(picked(model, s).gate, judge))
        start = stacked(models)
        experts = start.experts.rescaled(self.learn.read, sums.experts)
        start = Model(start.gate, experts)
        return self._trial(*self._settled(start, GATE_PASSES, learn=False))

    def _smoothed(self, model: Model) -> BaseGate:
        """Return the gates after a few steps towards the responsibilities."""
        gate = model.gate
        whole = np.ones(len(self.learn.weight))
        for _ in range(GATE_UPDATES):
            sums = sweep(self.learn, Model(gate, model.experts), best_of(self.width))
            gate, _ = gate.step(self.learn.seen, sums.gate, whole)
        return gate

    def _settled(self, model: Model, n_pass: int, *, learn: bool) -> tuple[Model, Sums]:
        return settled(self.learn, model, self.choose, n_pass, self.tol, learn=learn)

    def _trial(self, model: Model, sums: Sums) -> Trial:
        figures = judged(self.test, model, self.top_k, sums.load)
        return Trial(lambda: model, *figures)


def _trials(
    train: Problem,
    test: Problem,
    state: State,
    experts: Trained,
    targets: dict[bool, Pooled],
    rule: RoutingRule,
) -> dict[tuple[float, bool], Trial]:
    """Return the trials of one gate, by the way in which experts are shrunk.

    ``targets`` has the pooled fits, by whether they are only the best learner's.
    """
    ways = [way for way in WAYS if way[1] in targets]
    if experts.judge.frozen.all():
        ways = [AS_THEY_ARE]
    trials = {}
    for shrinkage, to_best in ways:
        shrunk = targets[to_best].shrink(experts, shrinkage)
        last, model = settle_gate(train, state, shrunk, rule, GATE_PASSES)
        judged = routed(test, model.gate, model.experts, rule)
        tried = model.gate, model.experts.scale, experts, targets[to_best], shrinkage
        trials[shrinkage, to_best] = Trial(
            make=partial(_tried, *tried),
            bound=judged.bound,
            loss=loss(test, judged),
            blind=_blind(test, model.experts, last),
        )
    return trials


def _tried(
    gate: BaseGate,
    scale: np.ndarray | None,
    experts: Trained,
    target: Pooled,
    shrinkage: float,
) -> Model:
    """Return the mixture of a trial."""
    return Model(gate, target.shrink(experts, shrinkage).predictor.with_scale(scale))


def _settled(
    problem: Problem,
    result: EMResult,
    judge: ExpertPool,
    variant: BaseGate,
    rule: RoutingRule,
) -> State:
    """Return the state after the last passes, from a run of EM with another gate."""
    gate = copy.copy(result.gate).set_params(**variant.get_params())
    for _ in range(GATE_UPDATES):
        gate = improved_gate(problem, gate, result.resp)
    learn = result.pool.rigid
    return settle(problem, gate, judge, rule, SETTLE_PASSES, learn=learn)


def _blind(problem: Problem, pool: ExpertPool, state: State) -> float:
    """Return the log-likelihood per row of a mixture whose gate ignores x.

    That gate gives the experts' shares of the rows that the state was trained on.
    """
    if pool.n_experts > MOST:
        return np.nan
    gate = ConstantGate().fit(state.resp.weights, state.resp)
    return routed(problem, gate, pool, RoutingRule()).bound


def loss(problem: Problem, state: State) -> float:
    """Return the loss of the point predictions of a routed state.

    In regression it is the mean squared error, or the mean absolute error for families
    whose centre is not the mean. Outputs are in units of their own standard deviation,
    so that all count alike. In classification it is the share of rows whose label has
    less than half of the probability; for two classes that is the error rate.
    """
    terms = state.terms
    weight = problem.sample_weight
    xp = namespace(weight)
    gate = xp.exp(terms.log_gate)
    if problem.y.ndim == 1:
        wrong = xp.sum(gate * xp.exp(terms.log_lik), axis=1) < 0.5
        error = xp.astype(wrong, weight.dtype)
    else:
        family = state.pool.likelihood
        choice = state.resp.with_weights(gate)
        means = family.means(terms.values, choice)
        scale = state.pool.scale_at(problem.X, choice)
        error = problem.y - family.centre(means, scale, choice)
        error = error / _deviations(problem) if problem.y.shape[1] > 1 else error
        error = xp.sum(xp.abs(error) if family.centred else error**2, axis=1)
    return float(to_host(xp.sum(weight * error) / xp.sum(weight)))


def _deviations(problem: Problem) -> Array:
    """Return the standard deviation of each output, (q,); 1 where it is constant."""
    xp = namespace(problem.y)
    weight = problem.sample_weight[:, None]
    total = xp.sum(weight)
    away = problem.y - xp.sum(weight * problem.y, axis=0) / total
    variance = xp.sum(weight * away**2, axis=0) / total
    return xp.sqrt(xp.where(variance > 0, variance, xp.ones_like(variance)))


def _single(train: Problem, test: Problem, pooled: Pooled) -> float:
    """Return the held-out log-likelihood per row of the best learner alone."""
    everyone = learnable_rows(train, pooled.fits.judge)
    xp = namespace(everyone.weights)
    ones = xp.astype(everyone.weights > 0, everyone.weights.dtype)
    alone = pooled.fits.rescaled(train, everyone.with_weights(ones)).predictor
    new_rows = learnable_rows(test, alone)
    scores = alone.log_likelihood(test.X, test.y, new_rows)
    xp = namespace(scores)
    weight = test.sample_weight
    means = xp.sum(weight[:, None] * scores, axis=0) / xp.sum(weight)
    return float(np.max(to_host(means)))


def choose(
    tried: Sequence[Sequence[HeldOut]], split: Sequence[Split]
) -> tuple[int, Choice]:
    """Return the plan, gate and shrinkage with the best held-out log-likelihood.

    Only candidates that predict nearly as well as the best compete. Nearly means: they
    give up at most `SHARE_OF_GAIN` of the best one's gain over the pooled fit, or
    `SHARE_OF_LOSS` of the pooled fit's loss, whichever is more. Otherwise, if y has few
    values or outliers, a sharp density would win at the price of the mean. Plans in
    which groups share an expert, as the user says they do, win if they are `NEAR` the
    best.

    Parameters
    ----------
    tried : sequence of sequences of HeldOut
        The trials of each plan on each split.
    split : sequence of Split

    Returns
    -------
    plan : int
    choice : Choice
    """
    weights = [part.test_weight for part in split]

    def mean(of: Callable[[HeldOut], np.ndarray | float]) -> np.ndarray:
        return np.stack(
            [np.average([of(h) for h in held], 0, weights) for held in tried]
        )

    table = mean(lambda h: h.table("bound"))
    losses = mean(lambda h: h.table("loss"))
    fits = [j for j, (s, _) in enumerate(WAYS) if s == 1.0]
    best = np.nanmin(losses)
    pooled = np.fmin.reduce(losses[..., fits], axis=None)
    pooled = best if np.isnan(pooled) else pooled
    given_up = max(SHARE_OF_GAIN * (pooled - best), SHARE_OF_LOSS * pooled)
    allowed = losses <= (best + given_up) * (1 + ROUNDING)
    scores = np.where(allowed, table, -np.inf)
    tied = np.array([held[0].tied for held in tried])
    shared = np.where(tied[:, None, None], scores, -np.inf)
    at = np.argmax(shared if shared.max() > scores.max() - NEAR else scores)
    plan, gate, way = (int(i) for i in np.unravel_index(at, table.shape))
    shrinkage, to_best = WAYS[way]
    return plan, Choice(
        gate,
        shrinkage,
        to_best,
        mixture=float(table[plan, gate, way]),
        blind=float(mean(lambda h: h.table("blind"))[plan, gate, way]),
        pooled=float(np.fmax.reduce(table[plan, :, fits], axis=None)),
        single=float(mean(lambda h: h.single)[plan]),
    )
