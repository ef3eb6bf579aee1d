r"""The choice of the number of experts, along a path of mixtures from many to one.

A mixture grows from one expert while that pays: each step doubles the number, by
splitting the experts whose rows are explained worst. Then the mixture comes down from
the largest number to one: each step takes away the expert that the others replace best,
twins first, and runs a few passes of EM. Coming down from too many experts avoids the
poor optima that EM finds from too few [1]_.

Each mixture is judged on held-out rows. We choose the smallest number whose
log-likelihood per row is within one standard error (of the row-by-row difference) of
the best. Twins gain nothing, so the choice has none, and it is 1 where there is no
pattern to find. If no rows may be held out, the Bayesian information criterion decides
[2]_; the integrated completed likelihood [3]_ is reported too.

Learners that are fitted one by one do not walk the path. Linear experts walk it and
find the regimes; then the learners take over the rows of each mixture, from one expert
upwards, until more experts gain nothing.

References
----------
.. [1] M. A. T. Figueiredo and A. K. Jain, "Unsupervised learning of finite mixture
   models", IEEE Trans. Pattern Analysis and Machine Intelligence 24 (2002) 381-396.
   doi:10.1109/34.990138
.. [2] G. Schwarz, "Estimating the dimension of a model", Annals of Statistics 6 (1978)
   461-464. doi:10.1214/aos/1176344136
.. [3] C. Biernacki, G. Celeux and G. Govaert, "Assessing a mixture model for clustering
   with the integrated completed likelihood", IEEE Trans. Pattern Analysis and Machine
   Intelligence 22 (2000) 719-725. doi:10.1109/34.865189
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..backends import like, namespace, select, to_host, total_of
from ..experts import DerivedPool, ExpertPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing, Standard
from ._cross_fit_gate import for_new_rows
from ._engine import begin, log_joint, resume, step
from ._gate_step import fit_gate
from ._grow import handed_down, loss_without
from ._held_out import Split, splits
from ._last_passes import routed
from ._problem import Problem, State, learning_mass
from ._starts import smoothed
from ._train import Part, Plan, Run, linear_pool, linear_view

MOST_EXPERTS = 64
"""Largest number of experts on the path."""

LEAST_ROWS = 10
"""Fewest rows per expert on the path."""

FIRST_PEAK = 4
"""Number of experts to try even if two gain nothing: two may miss a pattern."""

UP = 20
"""Most passes of EM after experts were split."""

DOWN = 6
"""Most passes of EM after experts were taken away."""

STRIDE = 8
"""One expert is taken away at a time; with more experts than this, one in this many."""

PATIENCE = 2
"""Learners stop at this many numbers of experts without progress."""


@dataclass(frozen=True, eq=False)
class Rung:
    """One mixture of the path, judged.

    Attributes
    ----------
    bound, bic, icl : float
        Log-likelihood per training row, and the criteria (lower is better), which are
        NaN if parameters cannot be counted.
    resp : Routing
        Responsibilities of the training rows.
    scores, weights : (n_draws,) array
        Log-likelihood and weight of each held-out row, or group.
    """

    bound: float
    bic: float
    icl: float
    resp: Routing
    scores: np.ndarray
    weights: np.ndarray

    @property
    def worth(self) -> float:
        """The score by which the path compares mixtures; higher is better."""
        if len(self.scores):
            return float(np.average(self.scores, weights=self.weights))
        return -self.bic


@dataclass(frozen=True, eq=False)
class Selection:
    """The chosen number of experts, and the path that led to it.

    Attributes
    ----------
    n_experts : int
    path : dict of str to array
        One entry per number that was tried: "n_experts", "held_out", "standard_error"
        (of the difference to the best), "bic", "icl", "chosen".
    """

    n_experts: int
    path: dict[str, np.ndarray]


def most_experts(n_rows: int) -> int:
    """Return the largest number of experts to try with this many rows."""
    return max(1, min(MOST_EXPERTS, n_rows // LEAST_ROWS))


def count_paths(problem: Problem, plan: Plan, *, hold_out: bool) -> int:
    """Return how many paths `select_number` walks at most, each a stage."""
    n_parts = len(_parts(problem, plan))
    return max(1, n_parts) if hold_out else n_parts + 1


def select_number(
    problem: Problem, plan: Plan, run_one: Run, *, hold_out: bool
) -> Selection:
    """Choose the number of experts.

    If time is over, the numbers that were tried by then compete.

    Parameters
    ----------
    problem : Problem
        The problem with the largest number of experts.
    plan : Plan
        Its gates and experts; smaller mixtures have the last of its learners.
    run_one : callable
        Tells watchers.
    hold_out : bool
        Whether held-out rows choose. Else the information criterion does, where
        parameters can be counted.
    """
    parts: Sequence[Split] = _parts(problem, plan) if hold_out else []
    if not parts:
        rungs = _path(plan.left_over(problem), None, plan, run_one)
        if not hold_out and not all(np.isfinite(rung.bic) for rung in rungs.values()):
            parts = _parts(problem, plan)
        if not parts:
            return _chosen([rungs])
    paths: list[dict[int, Rung]] = []
    for part in parts:
        few = plan.take(part.rows)
        learn, test = few.left_over(part.train), part.test
        if learn.shared is not None:
            test = learn.shared.left_over(test, new=True)
        path = _path(learn, test, few, run_one)
        part.forget()
        if run_one.stopped:
            paths = paths or [path]  # a path that was cut short has few numbers
            break
        paths.append(path)
    return _chosen(paths)


def _parts(problem: Problem, plan: Plan) -> list[Split]:
    one = replace(problem, n_experts=1)  # rows need not suffice for the largest number
    return splits(one, rigid=plan.pool.rigid)


def _chosen(paths: list[dict[int, Rung]]) -> Selection:
    """Return the least number within a standard error of the best."""
    numbers = sorted(set.intersection(*(set(path) for path in paths)))
    rungs = [[path[k] for path in paths] for k in numbers]
    bic = np.array([np.mean([rung.bic for rung in each]) for each in rungs])
    icl = np.array([np.mean([rung.icl for rung in each]) for each in rungs])
    weights = np.concatenate([rung.weights for rung in rungs[0]])
    if len(weights):
        scores = [np.concatenate([rung.scores for rung in each]) for each in rungs]
        held_out = np.array([np.average(each, weights=weights) for each in scores])
        best = int(np.argmax(held_out))
        lack = [scores[best] - each for each in scores]
        error = np.array([_standard_error(each, weights) for each in lack])
        at = int(np.argmax(held_out[best] - held_out <= error))
    else:
        held_out = error = np.full(len(numbers), np.nan)
        at = int(np.nanargmin(bic)) if np.isfinite(bic).any() else 0
    path = {
        "n_experts": np.array(numbers),
        "held_out": held_out,
        "standard_error": error,
        "bic": bic,
        "icl": icl,
        "chosen": np.arange(len(numbers)) == at,
    }
    return Selection(numbers[at], path)


def _standard_error(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the standard error of a weighted mean; weight 2 is the row twice."""
    total = weights.sum()
    spread = values - np.average(values, weights=weights)
    return float(np.sqrt(weights @ spread**2) / total)


# ------------------------------------------------------------------------- paths
def _path(
    learn: Problem, test: Problem | None, plan: Plan, run_one: Run
) -> dict[int, Rung]:
    """Return the mixtures of the path, by number of experts."""
    gate = plan.gates[0]
    pool = plan.pool
    n_levels = 1 + math.ceil(math.log2(pool.n_experts))
    if pool.rigid and not isinstance(pool, DerivedPool):
        with run_one.stage("search", n_levels) as search:
            return _walk(learn, test, gate, pool, search)
    with run_one.stage("search", n_levels + 1) as search:
        return _learners_path(learn, test, gate, pool, search)


def _learners_path(
    learn: Problem,
    test: Problem | None,
    gate: BaseGate,
    pool: ExpertPool,
    search: Part,
) -> dict[int, Rung]:
    """Return the mixtures of learners that take over regimes of linear experts.

    If time is over before they do, the mixtures of linear experts stand for them.
    """
    view = linear_view(learn)
    unit = Standard.of(view, learn.sample_weight)
    linear = replace(learn, X=unit.rows(view), n_experts=pool.n_experts)
    new_rows = None if test is None else replace(test, X=unit.rows(linear_view(test)))
    regimes = _walk(linear, new_rows, gate, linear_pool(linear, pool), search)
    if search.over():
        return regimes
    rungs: dict[int, Rung] = {}
    stalled = 0
    best = -np.inf
    with search.part("learners", len(regimes)) as learners:
        for number in sorted(regimes):
            problem = _sized(learn, number)
            with learners.part("number"):
                resp = regimes[number].resp
                state = begin(problem, gate, _last(pool, number), resp)
                rungs[number] = _judged(problem, test, state)
            if not rungs[number].worth > best:  # NaN too
                stalled += 1
            else:
                stalled = 0
                best = rungs[number].worth
            if stalled == PATIENCE or learners.over():
                break
    return rungs


def _walk(
    learn: Problem,
    test: Problem | None,
    gate: BaseGate,
    pool: ExpertPool,
    search: Part,
) -> dict[int, Rung]:
    """Walk up by splitting experts, and down by taking them away.

    Each doubling is a part of the search, with the way down from it.
    """
    rungs: dict[int, Rung] = {}

    def note(state: State) -> float:
        number = state.pool.n_experts
        old = rungs.get(number)
        if old is None or state.bound > old.bound:
            rungs[number] = _judged(_sized(learn, number), test, state)
        return rungs[number].worth

    rows = learn.sample_weight.shape[0]
    one = Routing.from_labels(like(np.zeros(rows, np.intp), learn.sample_weight), 1)
    with search.part("doubling"):
        peak = begin(_sized(learn, 1), gate, _last(pool, 1), one)
        best = note(peak)
    while peak.pool.n_experts < pool.n_experts and not search.over():
        number = min(2 * peak.pool.n_experts, pool.n_experts)
        with search.part("doubling", 1 + _steps_down(number)) as doubling:
            with doubling.part("number") as part:
                peak = _split(_sized(learn, number), gate, pool, peak, part)
                worth = note(peak)
            rises = worth > best or number < FIRST_PEAK
            if rises and number < pool.n_experts:
                best = max(best, worth)
                continue
            state = peak
            while state.pool.n_experts > 1 and not doubling.over():
                with doubling.part("number") as part:
                    state = _thinned(learn, gate, state, part)
                    note(state)
        top = max(rungs, key=lambda k: rungs[k].worth)
        best = rungs[top].worth
        if 2 * top <= number:
            break
    return rungs


def _steps_down(n_experts: int) -> int:
    """Return the number of steps from some experts down to one."""
    n_steps = 0
    while n_experts > 1:
        n_experts -= _n_fewer(n_experts)
        n_steps += 1
    return n_steps


def _n_fewer(n_experts: int) -> int:
    """Return how many experts a step down takes away."""
    return max(1, n_experts // STRIDE)


def _split(
    problem: Problem, gate: BaseGate, pool: ExpertPool, state: State, part: Part
) -> State:
    """Return a mixture of more experts, at most twice as many."""
    _, labels = handed_down(problem, state)
    start = smoothed(labels, problem).like(problem.sample_weight)
    pool = _last(pool, problem.n_experts)
    return _passes(problem, begin(problem, gate, pool, start), UP, part)


def _thinned(learn: Problem, gate: BaseGate, state: State, part: Part) -> State:
    """Return the mixture without the experts that the others replace best."""
    n_experts = state.pool.n_experts
    for number in range(n_experts, n_experts - _n_fewer(n_experts), -1):
        resp, rest = _without_one(_sized(learn, number), state)
        problem = _sized(learn, number - 1)
        state = resume(problem, fit_gate(problem, gate, resp), state.pool.take(rest))
    return _passes(problem, state, DOWN, part)


def _without_one(problem: Problem, state: State) -> tuple[Routing, np.ndarray]:
    """Return responsibilities without one expert, and the numbers of the others."""
    expert = int(np.argmin(loss_without(problem, state)))
    rest = np.delete(np.arange(problem.n_experts), expert)
    resp = state.resp
    joint = log_joint(problem, state.terms)
    xp = namespace(joint)
    ops = select(joint)
    if resp.dense:
        joint = xp.take(joint, like(rest, resp.indices), axis=1)
        return Routing.from_dense(ops.normalise(joint)[0]), rest
    gone = resp.indices == expert
    # Rows that only this expert has go to the heaviest of the others.
    mass = resp.scaled(problem.sample_weight)
    heir = int(np.argmax(mass.sum_by_expert(mass.weights)[rest]))
    least = xp.full_like(joint, float(np.finfo(np.float32).min))
    weights = ops.normalise(xp.where(gone, least, joint))[0]
    moved = xp.where(resp.indices > expert, resp.indices - 1, resp.indices)
    moved = xp.where(gone, xp.full_like(moved, heir), moved)
    return Routing(moved, weights, len(rest)), rest


def _passes(problem: Problem, state: State, n_pass: int, part: Part) -> State:
    """Return the state after some passes of EM, unless time is over."""
    for _ in range(min(n_pass, problem.max_iter)):
        state, info = step(problem, state)
        if info.gain < problem.tol or part.over():
            break
    return state


def _sized(problem: Problem, n_experts: int) -> Problem:
    width = min(problem.width, n_experts)
    return replace(problem, n_experts=n_experts, width=width)


def _last(pool: ExpertPool, number: int) -> ExpertPool:
    """Return the unfitted pool of the last learners."""
    return pool.unfitted(np.arange(pool.n_experts - number, pool.n_experts))


# ----------------------------------------------------------------------- judging
def _judged(learn: Problem, test: Problem | None, state: State) -> Rung:
    """Judge a mixture by its training rows, and by held-out rows."""
    mass = learning_mass(learn, state.pool, state.resp.scaled(learn.sample_weight))
    gate = for_new_rows(learn, state.gate, state.resp)
    pool = state.pool.finished(learn.X, learn.y, mass)
    total = total_of(learn.sample_weight)
    try:
        price = np.log(total) * (gate.n_parameters + pool.n_parameters)
    except TypeError:
        price = np.nan
    bic = -2.0 * total * state.bound + price
    icl = bic + 2.0 * _entropy(learn, state.resp)
    nothing = np.empty(0)
    scores = nothing
    weights = nothing
    if test is not None:
        scores, weights = _scores(_sized(test, pool.n_experts), gate, pool)
    return Rung(state.bound, bic, icl, state.resp, scores, weights)


def _entropy(problem: Problem, resp: Routing) -> float:
    """Return the entropy of the responsibilities, summed over rows, in nats."""
    xp = namespace(resp.weights)
    weights = resp.weights
    sure = xp.where(weights > 0, weights, xp.ones_like(weights))
    rows = -xp.sum(sure * xp.log(sure), axis=1)
    return total_of(problem.draw_weight * rows)


def _scores(
    problem: Problem, gate: BaseGate, pool: ExpertPool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the log-likelihood of each held-out row or group, and its weight."""
    state = routed(problem, gate, pool, RoutingRule(problem.width))
    joint = log_joint(problem, state.terms)
    scores = to_host(select(joint).logsumexp(joint)).astype(np.float64)
    if problem.panel is None:
        return scores, to_host(problem.sample_weight).astype(np.float64)
    scores = scores[to_host(problem.panel.first)]
    return scores, np.ones(len(scores))
