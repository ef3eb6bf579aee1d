"""Training: from starts to a mixture that predicts.

If experts are judged out of fold, training has four steps: it runs EM from all starts
on part of the rows; it chooses gate and shrinkage for the best run on the rest; it runs
a single pass on all rows, so that the mixture that predicts is the one that was judged;
and it runs the last passes. If experts are judged in sample, it runs EM from all starts
on all rows, and then the last passes of the best run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.sparse import issparse
from sklearn.linear_model import LogisticRegression

from ..backends import Array, like, namespace
from ..experts import ExpertPool, make_pool
from ..gates import BaseGate, RoutingRule
from ..likelihoods import Likelihood
from ..routing import Routing, Standard
from ._content import complete, numbers
from ._engine import ANNEALING, Watch, begin, resume, run, state_of, warmed
from ._gate_step import fit_gate
from ._held_out import (
    ENOUGH_ON_SUMS,
    Choice,
    HeldOut,
    Split,
    choose,
    hold_out,
    hold_out_on_sums,
    splits,
)
from ._last_passes import LAST_PASSES, settle, settle_gate
from ._narrowing import narrowed, narrowing
from ._pooled import Pooled, best_learner, pooled_judge
from ._problem import EMResult, Model, Problem, Record, State
from ._race import Race, Watched, at_once, run_winners, winners
from ._shared_expert import Shared
from ._starts import PORTFOLIO, STARTS, initial
from ._sweep import adds_up, dense, joined
from ._temperature import calibration
from ._trained import Trained, last_judge, rescaled

FEW_PASSES = 4
"""Number of last passes before starts are compared."""

PASSES_AFTER_SAMPLE = 10
"""Passes, at most, on all rows of a mixture that was chosen on a sample of them."""

PASSES_ON_ALL = 1
"""Number of passes on all rows after a choice on held-out rows."""

BUDGET = 7.0
"""Rows that the runs on a split may fit, over those of the table, of learners that are
fitted one by one; half as many again for each more that differs. The first fit of a run
is made in any case, and plans share what there is."""

BUDGET_ON_ALL = 3.0
"""The same of the passes on all rows."""

STAND_IN_PASSES = 10
"""Passes of linear experts before their starts are compared; the best goes on."""


@dataclass(frozen=True)
class Start:
    """One start: its kind, the number of earlier starts of that kind, its seed."""

    kind: str
    number: int
    seed: int


class Part(Protocol):
    """A part of training, which may have parts itself."""

    def over(self) -> bool:
        """Tell whether it is to end, by the clock or a watcher."""
        ...

    def part(self, name: str, n_parts: int = 0) -> AbstractContextManager[Part]:
        """Be a part of it, which has so many parts itself unless it is stopped."""
        ...


class Run(Protocol):
    """A function that runs EM from a state, which is made when its turn comes.

    Training is a row of stages: runs of EM, races, and others. ``stopped`` tells that
    no further starts are wanted, ``out_of_time`` that no other splits are either.
    """

    @property
    def stopped(self) -> bool:
        """Whether no further starts are wanted."""
        ...

    @property
    def out_of_time(self) -> bool:
        """Whether training is to end."""
        ...

    def __call__(
        self, problem: Problem, name: str, make_state: Callable[[], State]
    ) -> EMResult:
        """Run EM."""
        ...

    def race(
        self, problem: Problem, n_pass: int, train: Callable[[Watch], list[Record]]
    ) -> None:
        """Let starts race; ``train`` says what happened in the runs of the winners.

        It takes ``n_pass`` passes at most.
        """
        ...

    def stage(self, name: str, n_parts: int = 0) -> AbstractContextManager[Part]:
        """Be another stage, of so many parts unless it is stopped."""
        ...


KINDS = ("linear", "uniform", "single", *STARTS)
"""Kinds of starts that a user can name."""


@dataclass(frozen=True, eq=False)
class Plan:
    """All that training needs beyond the problem.

    Attributes
    ----------
    gates : sequence of BaseGate
        Unfitted variants of the gate to choose from; the first serves the starts.
    pool : ExpertPool
        The unfitted experts, wrapped as they judge the training rows.
    starts : sequence of Start
    rule : RoutingRule
        Which experts predict asks.
    choice : Choice or None
        Gate and shrinkage; None chooses them on held-out rows.
    average : bool
        Whether cross-fitted experts predict by the mean of their fold models.
    resp : Routing or None
        The user's responsibilities, for starts of kind "given".
    shared : ExpertPool or None
        The shared expert, unfitted.
    tied : bool
        Whether rows of a group share one expert.
    """

    gates: Sequence[BaseGate]
    pool: ExpertPool
    starts: Sequence[Start]
    rule: RoutingRule
    choice: Choice | None
    average: bool = False
    resp: Routing | None = None
    shared: ExpertPool | None = None
    tied: bool = True

    def left_over(self, problem: Problem) -> Problem:
        """Return the problem of the plan: the rest if there is a shared expert."""
        problem = problem if self.tied else problem.apart
        if self.shared is None:
            return problem
        shared = Shared.fit(problem, copy.copy(self.shared))
        return shared.left_over(problem, new=False)

    def on_sums(self, problem: Problem) -> bool:
        """Tell whether gate and experts learn from sums over the rows."""
        alone = self.shared is None and self.rule.plain
        return alone and adds_up(problem, self.gates[0], self.pool)

    def take(self, rows: np.ndarray) -> Plan:
        """Return the plan for some of the rows of its problem."""
        resp = self.resp
        if resp is not None:
            resp = resp.take(like(np.flatnonzero(rows), resp.indices))
        gates = [gate.of_rows(rows) for gate in self.gates]
        return replace(self, pool=self.pool.of_rows(rows), gates=gates, resp=resp)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A trained mixture.

    Attributes
    ----------
    gate, pool : BaseGate, ExpertPool
        The gate and experts that predict.
    unshrunk : ExpertPool
        The experts before they were shrunk.
    resp : Routing
        Responsibilities of the training rows, as predict routes them.
    bound : float
        Mean log-likelihood per training row as predict routes it, with experts judged
        as in EM.
    run : EMResult
        The run of EM that the mixture comes from.
    choice : Choice
    problem : Problem
        The problem that was learned; beside a shared expert, that of its residuals.
    judge : ExpertPool
        The experts as they judge the training rows.
    judged : sequence of Record
        The runs behind the choice, one per split; empty if nothing was chosen.
    """

    gate: BaseGate
    pool: ExpertPool
    unshrunk: ExpertPool
    resp: Routing
    bound: float
    run: EMResult
    choice: Choice
    problem: Problem
    judge: ExpertPool
    judged: Sequence[Record] = ()

    @property
    def converged(self) -> bool:
        """Whether EM converged, in the runs behind the choice."""
        runs: Sequence[Record] = self.judged or [self.run]
        return all(run.converged for run in runs)


def chosen_on(problem: Problem, plans: Sequence[Plan]) -> list[Split]:
    """Return the splits that plan, gate and shrinkage are chosen on.

    There are none if nothing is chosen, or if rows are too few to hold any out.
    """
    if plans[0].choice is not None:
        return []
    on_sums = all(plan.on_sums(problem) for plan in plans)
    enough = ENOUGH_ON_SUMS if on_sums else None
    return splits(problem, rigid=plans[0].pool.rigid, enough=enough)


def count_stages(plans: Sequence[Plan], parts: Sequence[Split]) -> int:
    """Return how many stages `train` has, unless it is stopped."""
    if not parts:
        return _count_starts(plans[0]) + 1
    before = sum(
        2 if plan.on_sums(parts[0].train) else len(parts) * (_count_starts(plan) + 1)
        for plan in plans
    )
    return before + 2


def _count_starts(plan: Plan) -> int:
    """Return the stages of a plan's starts: one each, two if regimes come first."""
    return len(plan.starts) + sum(start.kind == "linear" for start in plan.starts)


def train(
    problem: Problem, plans: Sequence[Plan], parts: Sequence[Split], run_one: Run
) -> Mixture:
    """Train the mixture of the best plan.

    Parameters
    ----------
    problem : Problem
    plans : sequence of Plan
        Held-out rows choose among several; if there are none, the first plan is taken.
    parts : sequence of Split
        The splits of `chosen_on`.
    run_one : callable
        Runs EM from one start, and tells watchers.
    """
    if not parts:
        plan = plans[0]
        problem = plan.left_over(problem)
        best = max(run_all(problem, plan, run_one), key=lambda run: run.bound)
        return finish(problem, best, plan, plan.choice or Choice(), run_one)

    n_rows = problem.sample_weight.shape[0]
    flexible = sum(not plan.pool.rigid for plan in plans)
    budget = BUDGET * n_rows / max(1, flexible)
    fits: dict[tuple[int, int], Pooled] = {}  # plans with the same pool share them
    outcomes: list[list[HeldOut]] = []
    for plan in plans:
        outcome = _hold_out(problem, parts, plan, run_one, budget, fits)
        if not outcomes:
            parts = parts[: len(outcome)]
        if len(outcome) == len(parts):
            outcomes.append(outcome)
        if run_one.out_of_time:
            break
    best_plan, choice = choose(outcomes, parts)
    plan = plans[best_plan]
    outcome = outcomes[best_plan]
    if problem.y.ndim == 1:
        cooled, bias = calibration(outcome, parts, choice, plan.rule)
        choice = replace(choice, temperature=cooled, bias=bias)
    _forget(parts, plan)
    judged = [each.run for each in outcome]
    models = [each.models[choice.gate] for each in outcome]
    if plan.on_sums(problem):
        result = _go_on(problem, parts, models, run_one)
        mixture = finish(problem, result, plan, choice, run_one)
        return replace(mixture, judged=judged)
    problem = plan.left_over(problem)
    gate = plan.gates[choice.gate]
    part, start = _best_part(problem, models)
    judge, pooled = _judges(problem, plan, parts[part], outcome[part], choice)

    if judge is not None:
        factor = narrowing(outcome, parts, choice, plan.rule)
        choice = replace(choice, narrowing=factor)
    guess = models[part].gate
    del models, outcome, outcomes  # the last run needs the memory

    def first() -> State:
        if judge is not None:
            resp = resume(problem, guess, judge).resp
            return resume(problem, fit_gate(problem, gate, resp), judge)
        # We hand the start over for good: the first passes need the memory.
        return begin(problem, gate, plan.pool, start.pop())

    last = replace(
        problem,
        max_iter=min(problem.max_iter, PASSES_ON_ALL),
        budget=BUDGET_ON_ALL * n_rows,
    )
    result = run_one(last, "chosen", first)
    mixture = finish(problem, result, plan, choice, run_one, pooled)
    return replace(mixture, judged=judged)


def _go_on(
    problem: Problem, parts: Sequence[Split], models: Sequence[Model], run_one: Run
) -> EMResult:
    """Run EM on all rows from the best model.

    Of a model that was chosen on a sample the other rows have more to say.
    """
    states = (state_of(problem, model) for model in models)
    best = max(states, key=lambda state: state.bound)  # a part may be stuck
    sampled = sum(parts[0].rows) < problem.sample_weight.shape[0] / 2
    passes = PASSES_AFTER_SAMPLE if sampled else PASSES_ON_ALL
    last = replace(problem, max_iter=min(problem.max_iter, passes))
    return run_one(last, "chosen", lambda: best)


def _best_part(problem: Problem, models: Sequence[Model]) -> tuple[int, list[Routing]]:
    """Return the split whose model suits all rows best, as a part may be stuck.

    Its responsibilities come in a list, to be handed over.
    """
    states = (resume(problem, model.gate, model.experts) for model in models)
    best, state = max(enumerate(states), key=lambda each: each[1].bound)
    return best, [state.resp]


def _judges(
    problem: Problem, plan: Plan, part: Split, outcome: HeldOut, choice: Choice
) -> tuple[ExpertPool | None, Pooled | None]:
    """Return the judges of a split as those of all rows; None makes new ones.

    The rows held out are as new to the models of a split as to others, so learners that
    are fitted one by one need not be fitted again to judge all rows.
    """
    if plan.shared is not None or plan.average:
        return None, None
    assert outcome.judge is not None
    judge = outcome.judge.extended(plan.pool, part.rows)
    if judge is None or choice.shrinkage == 0.0 or outcome.pooled is None:
        return judge, None
    return judge, outcome.pooled.extended(problem, plan.pool, part.rows)


def _hold_out(
    problem: Problem,
    parts: Sequence[Split],
    plan: Plan,
    run_one: Run,
    budget: float,
    fits: dict[tuple[int, int], Pooled],
) -> list[HeldOut]:
    """Try the mixtures of a plan on the held-out rows of the splits.

    If time is over, the splits that are left are not tried. Pooled fits that the plan
    makes go to ``fits``, by pool and split.
    """
    if plan.on_sums(parts[0].train):
        return _hold_out_on_sums(problem, parts, plan, run_one)
    outcomes = []
    for at, part in enumerate(parts):
        few = plan.take(part.rows)
        learn = replace(few.left_over(part.train), budget=budget)
        pooled = None
        if not plan.pool.rigid and plan.shared is None:
            key = id(plan.pool), at
            pooled = fits[key] if key in fits else Pooled.of(learn, few.pool)
            fits[key] = pooled
            learn = replace(
                learn, budget=budget * (1 + pooled.fits.judge.n_experts) / 2
            )
        runs = run_all(learn, few, run_one, pooled)
        best = _best_run(learn, runs, plan.rule)
        with run_one.stage("choice"):
            test = part.test.apart
            if learn.shared is not None:
                test = learn.shared.left_over(test, new=True)
            outcomes.append(hold_out(learn, test, best, few.gates, plan.rule, pooled))
        del learn, test
        _forget([part], plan)
        if run_one.out_of_time:
            break
    return outcomes


def _forget(parts: Sequence[Split], plan: Plan) -> None:
    """Give back the memory of the rows of splits, which served a plan.

    Learners that are fitted one by one have cached their answers for these rows; they
    compete with a plan that has a shared expert.
    """
    if plan.pool.rigid and plan.shared is None:
        for part in parts:
            part.forget()


def _hold_out_on_sums(
    problem: Problem, parts: Sequence[Split], plan: Plan, run_one: Run
) -> list[HeldOut]:
    """Return what the rows held out say of a plan that learns from sums.

    Starts race, and the winner of each split is tried.
    """
    race = _race(problem, parts, plan.rule)
    ran: list[tuple[Model, list[Record]]] = []

    def train(watch: Watch) -> list[Record]:
        watched = Watched(watch)
        model, split = _entrants(race, plan)
        model = winners(race, model, split, watched)
        ran.append(run_winners(race, model, watched))
        return ran[0][1]

    n_pass = race.most_passes(len(entrants(plan.starts)))
    run_one.race(race.problem, n_pass, train)
    with run_one.stage("choice"):
        outcomes = hold_out_on_sums(race, parts, *ran[0], plan.gates, plan.rule)
    _forget(parts, plan)
    return outcomes


def _race(problem: Problem, parts: Sequence[Split], rule: RoutingRule) -> Race:
    """Return the race on the rows that any split learns from or holds out."""
    learn = np.stack([part.rows for part in parts])
    test = np.stack([part.held_out for part in parts])
    used = np.flatnonzero(np.any(learn | test, axis=0))
    if len(used) < problem.sample_weight.shape[0]:
        problem = problem.take(like(used, problem.sample_weight))
    weight = problem.content.weight
    top_k = rule.top_k or problem.n_experts
    return Race(problem, used, learn[:, used] * weight, test[:, used] * weight, top_k)


def _entrants(race: Race, plan: Plan) -> tuple[Model, np.ndarray]:
    """Return the starts of all splits after their first passes, and their splits."""
    starts = entrants(plan.starts)
    n_splits, n_rows = race.learn.shape
    problem = race.problem
    split = np.repeat(np.arange(n_splits), len(starts))
    share = np.zeros((len(split), problem.n_experts, n_rows))
    for s, weight in enumerate(race.learn):
        rows = np.flatnonzero(weight)
        few = problem.take(like(rows, problem.sample_weight))
        resp = plan.resp
        if resp is not None:
            resp = resp.take(like(race.places[rows], resp.indices))
        for j, start in enumerate(starts):
            first = _responsibilities(few, replace(plan, resp=resp), start, None)
            share[s * len(starts) + j][:, rows] = dense(first)
    anneals = np.tile([_anneals(problem, start) for start in starts], n_splits)
    powers = [np.where(anneals, power, 1.0) for power in ANNEALING]
    width = min(2 * problem.width, problem.n_experts)
    models = [
        warmed(
            race.rows(split[some]),
            plan.gates[0],
            plan.pool,
            share[some],
            [power[some] for power in powers],
            width,
        )
        for some in at_once(problem, len(split))
    ]
    return joined(models), split


def entrants(starts: Sequence[Start]) -> list[Start]:
    """Return the starts of a race: those of a plan, and as many random ones.

    Random starts join where every kind of start is there, so not where the user named
    one kind or asked for few.
    """
    if not {start.kind for start in starts} >= set(PORTFOLIO):
        return list(starts)
    more = [
        Start("random", start.number + len(starts), (start.seed + 1) % 2**31)
        for start in starts
    ]
    return [*starts, *more]


def run_all(
    problem: Problem, plan: Plan, run_one: Run, pooled: Pooled | None = None
) -> Iterator[EMResult]:
    """Run EM from every start; ``pooled`` are the pooled fits, if there are any.

    A run begins when its result is asked for, so that those before can be forgotten.
    """

    # A fixed expert is none of the pooled fits.
    from_all = None if plan.pool.likelihood.n_fixed else pooled

    def first(start: Start, resp: Routing | None) -> State:
        if resp is None:
            resp = _responsibilities(problem, plan, start, pooled)
        if from_all is not None and start.kind in ("uniform", "single"):
            return _of_pooled(problem, plan, resp, from_all)
        if start is plan.starts[-1]:
            problem.content.forget()
        anneals = _anneals(problem, start)
        return begin(problem, plan.gates[0], plan.pool, resp, annealed=anneals)

    for start in plan.starts:
        resp = None
        if start.kind == "linear":
            resp = linear_start(problem, plan, start, run_one)
        yield run_one(problem, start.kind, functools.partial(first, start, resp))
        if run_one.stopped:
            break


def _best_run(
    problem: Problem, runs: Iterator[EMResult], rule: RoutingRule
) -> EMResult:
    """Return the run that is worth most; one run alone is not looked at."""
    best = next(runs)
    worth = None
    for other in runs:
        worth = _worth(problem, best, rule) if worth is None else worth
        others = _worth(problem, other, rule)
        if others > worth:
            best, worth = other, others
        del other  # the next run needs the memory
    return best


def _worth(problem: Problem, result: EMResult, rule: RoutingRule) -> float:
    """Return the bound of a run as predict routes the rows, after a few passes."""
    if rule.asks_all(problem.n_experts):
        return result.bound
    learn = result.pool.rigid
    gate = result.gate
    pool = result.pool
    return settle(problem, gate, pool, rule, FEW_PASSES, learn=learn).bound


# ------------------------------------------------------------------- starts
def _anneals(problem: Problem, start: Start) -> bool:
    """Tell whether the first passes of a start are annealed.

    That avoids poor optima. But where the gate sees other columns than the experts, it
    leads all starts to the optimum that the gate's columns suggest. There, only the
    first start of each kind is annealed.
    """
    return problem.X_gate is problem.X or start.number == 0


def _of_pooled(problem: Problem, plan: Plan, resp: Routing, pooled: Pooled) -> State:
    """Return the first state of a start in which all experts learn from all rows."""
    gate = fit_gate(problem, plan.gates[0], resp)
    return resume(problem, gate, rescaled(problem, pooled.as_experts(), resp))


def _responsibilities(
    problem: Problem, plan: Plan, start: Start, pooled: Pooled | None
) -> Routing:
    if start.kind == "given":
        assert plan.resp is not None
        return plan.resp
    if start.kind == "uniform":
        shape = (problem.sample_weight.shape[0], problem.n_experts)
        even = np.full(shape, 1.0 / problem.n_experts)
        return Routing.from_dense(like(even, problem.sample_weight))
    if start.kind == "single":
        return single_start(problem, plan, pooled)
    return started(problem, plan.pool, start.kind, start.number, start.seed)


def started(
    problem: Problem, pool: ExpertPool, kind: str, number: int, seed: int
) -> Routing:
    """Return initial responsibilities: a fixed expert has an even share of all rows."""
    n_fixed = pool.likelihood.n_fixed
    n_experts = problem.n_experts
    learning = replace(problem, n_experts=n_experts - n_fixed)
    resp = initial(learning, kind, number, seed)
    if not n_fixed:
        return resp
    xp = namespace(resp.weights)
    share = 1.0 / n_experts
    one = xp.ones_like(resp.weights[:, :1])
    last = xp.full_like(resp.indices[:, :1], n_experts - 1)
    return Routing(
        xp.concat([resp.indices, last], axis=1),
        xp.concat([(1.0 - share) * resp.weights, share * one], axis=1),
        n_experts,
    )


def single_start(problem: Problem, plan: Plan, pooled: Pooled | None) -> Routing:
    """Return responsibilities that give all rows to the best learner alone."""
    if pooled is None:
        judge, learner_of = pooled_judge(problem, plan.pool)
    else:
        judge, learner_of = pooled.fits.judge, pooled.learner_of
    expert = int(np.argmax(learner_of == best_learner(problem, judge)))
    labels = np.full(problem.sample_weight.shape[0], expert)
    return Routing.from_labels(like(labels, problem.sample_weight), problem.n_experts)


def linear_start(problem: Problem, plan: Plan, start: Start, run_one: Run) -> Routing:
    """Return the responsibilities of a mixture of linear experts under the same gate.

    Linear experts find regimes in a fraction of the time of flexible ones, and cannot
    memorise rows. They run from a start of every kind, and the best run goes on.
    """
    random = np.random.RandomState(start.seed)
    X = linear_view(problem)
    # Linear experts see standardised columns, so units do not matter to their penalty.
    X = Standard.of(X, problem.sample_weight).rows(X)
    problem = replace(problem, X=X)
    short = replace(problem, max_iter=min(problem.max_iter, STAND_IN_PASSES))
    linear = linear_pool(problem, plan.pool)

    def runs(stage: Part) -> Iterator[EMResult]:
        for kind in PORTFOLIO:
            with stage.part(kind):
                seed = int(random.randint(2**31 - 1))
                resp = started(problem, linear, kind, start.number, seed)
                result = run(short, begin(short, plan.gates[0], linear, resp))
            yield result
            if stage.over():
                break

    with run_one.stage("regimes", len(PORTFOLIO) + 1) as stage:
        best = _best_run(problem, runs(stage), plan.rule)
        if best.converged or run_one.stopped:
            return best.resp
        with stage.part("best"):
            return run(problem, resume(problem, best.gate, best.pool)).resp


def linear_pool(problem: Problem, pool: ExpertPool) -> ExpertPool:
    """Return unfitted linear experts in place of those of a pool."""
    learner = LogisticRegression()
    if isinstance(pool.likelihood, Likelihood):
        learner = pool.likelihood.learner()
    return make_pool(
        [learner] * problem.n_experts,
        n_features=problem.X.shape[1],
        likelihood=pool.likelihood,
        classes=pool.classes,
    )


def linear_view(problem: Problem) -> Array:
    """Return the experts' features, as numbers."""
    if problem.X is problem.X_gate:
        on_host = namespace(problem.sample_weight) is np
        return problem.content.X if on_host else problem.X
    X = numbers(problem.on_host().X)
    weight = problem.sample_weight
    if issparse(X):
        if namespace(weight) is not np:
            return problem.X_gate
        return complete(X, weight)
    return like(X, weight, problem.X_gate.dtype)


# --------------------------------------------------------------------- the end
def finish(
    problem: Problem,
    result: EMResult,
    plan: Plan,
    choice: Choice,
    run_one: Run,
    pooled: Pooled | None = None,
) -> Mixture:
    """Return the mixture that predicts: last passes, shrinkage, models for new rows.

    ``pooled`` are the pooled fits, if they are there already.
    """
    with run_one.stage("last passes"):
        return _finished(problem, result, plan, choice, pooled)


def _finished(
    problem: Problem,
    result: EMResult,
    plan: Plan,
    choice: Choice,
    pooled: Pooled | None,
) -> Mixture:
    rigid = result.pool.rigid
    rule = plan.rule
    state = _last_state(problem, result, rule)
    judge = last_judge(problem, state.pool if rigid else result.pool, state.resp)
    mass = state.resp.scaled(problem.sample_weight)
    unshrunk = Trained.of(problem, judge, mass, average=plan.average)
    if rigid and choice.shrinkage == 0.0:
        model = unshrunk.for_new_rows(problem, state)
    else:
        experts = unshrunk
        if choice.shrinkage > 0.0:
            pooled = pooled or Pooled.of(problem, judge)
            if choice.to_best:
                pooled = pooled.only(pooled.best(problem))
            experts = pooled.shrink(unshrunk, choice.shrinkage)
        if not rigid:  # the experts stay, so we ask them once
            experts = experts.remembered(problem)
        state, model = settle_gate(problem, state, experts, rule, LAST_PASSES)
        judge = state.pool
    return Mixture(
        gate=model.gate,
        pool=narrowed(model.experts, choice.narrowing),
        unshrunk=unshrunk.predictor,
        resp=state.resp,
        bound=state.bound,
        run=result,
        choice=choice,
        problem=problem,
        judge=judge,
    )


def _last_state(
    problem: Problem, result: EMResult, rule: RoutingRule
) -> State | EMResult:
    """Return the state after the last passes."""
    if rule.asks_all(problem.n_experts):
        return result
    rigid = result.pool.rigid
    judge = result.pool if rigid else problem.remember(result.pool)
    return settle(problem, result.gate, judge, rule, LAST_PASSES, learn=rigid)
