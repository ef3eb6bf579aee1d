r"""Expectation-maximisation for gated experts.

With s_i the sample weights and S_i the support of row i, the experts that it keeps, the
bound (mean per row)

    L = (1/Σs) Σ_i s_i log Σ_{k ∈ S_i} g_k(x_i) p_k(y_i | x_i)

is the log-likelihood if S_i holds every expert, and else a lower bound of it. One pass
takes three steps:

1. **M-step, gate.** A gate improved on the responsibilities replaces the old one,
   unless its own term Σ s r log g falls.
2. **M-step, experts.** Each expert's new learner, then each expert's new noise scale,
   replaces the old one, unless its own term Σ s r log p falls by more than the pool's
   slack. With slack 0 no term falls, whatever the learner does.
3. **E-step.** Candidates of a row are its last support, the gate's best experts and
   one explored expert. The candidates with the highest log g + log p form the new
   support. The last support is among the candidates, so L does not fall here either
   [1]_. Dense EM keeps all experts and skips the choice.

References
----------
.. [1] J. Lücke and J. Eggert, "Expectation truncation and the benefits of
   preselection in training generative models", JMLR 11 (2010) 2855-2900.
.. [2] N. Ueda and R. Nakano, "Deterministic annealing EM algorithm", Neural Networks
   11 (1998) 271-282. doi:10.1016/S0893-6080(97)00133-0
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends import Array, device_of, like, namespace, select, to_host
from ..experts import ExpertPool
from ..gates import BaseGate
from ..routing import Routing
from . import _gate_step as gating
from ._gate_step import fit_gate, improved_gate, log_proba, log_proba_at
from ._load_limits import balanced, limited, shifted
from ._problem import EMResult, Model, PassInfo, Problem, State, Terms, learning_mass
from ._sweep import (
    AllRows,
    Rows,
    Rule,
    adds_up,
    best_of,
    dense,
    either,
    expected,
    first_model,
    stepped,
    sweep,
)

PATIENCE = 2
"""A pool with slack has converged after this many passes without progress."""

NOISE = 5e-3
"""Gain of the bound, per row, that a refit of such a pool brings by chance."""

ANNEALING = (0.3, 0.475, 0.65, 0.825, 1.0)
"""Powers of the likelihood in the first passes of a start [2]_, so that experts do not
settle before they have seen the rows that they are best at."""

BLOCK_ROWS = 1 << 17
"""Number of rows in a block of the E-step."""


Watch = Callable[[], Callable[[PassInfo, Callable[[], State]], bool]]
"""Called before each pass; what it returns is called with the outcome, and ends the run
by returning True."""

QUARTER = 0.25
"""What is left of the gate's step once a pass was undone."""

UNDONE = 3
"""Passes that are undone in turn, at most; then the gate stays as it is."""

ROUNDING = 1e-12
"""Part of the bound that it may seem to fall by."""


def run(problem: Problem, state: State, watch: Watch | None = None) -> EMResult:
    """Run EM from a state; return its best pass."""
    if adds_up(problem, state.gate, state.pool):
        return run_on_sums(problem, Model(state.gate, state.pool), watch)
    best: State | None = None
    passes: list[PassInfo] = []
    reference = state.bound
    stalled = 0
    converged = False
    patience = 1
    tol = problem.tol
    if not state.pool.rigid:
        patience = PATIENCE
        tol = max(tol, NOISE)
    while len(passes) < problem.max_iter and not converged:
        close = watch() if watch is not None else None
        state, info = step(problem, state)
        passes.append(info)
        if best is None or state.bound > best.bound:
            best = state
        if state.bound - reference > tol:
            reference = state.bound
            stalled = 0
        else:
            stalled += 1
        converged = stalled >= patience
        if close is not None and close(info, functools.partial(copy.copy, state)):
            break
    assert best is not None
    return _result(best, converged, passes)


def run_on_sums(problem: Problem, model: Model, watch: Watch | None = None) -> EMResult:
    """Run EM from a model, one sweep over the rows per pass."""
    passes: list[PassInfo] = []
    climb = Climb(Rows.of(problem), model, rule_of(problem), problem.tol)
    while len(passes) < problem.max_iter and not climb.converged:
        close = watch() if watch is not None else None
        climb.step()
        passes.append(climb.told(len(passes) + 1))
        state = functools.partial(state_of, problem, climb.model)
        if close is not None and close(passes[-1], state):
            break
    return _result(state_of(problem, climb.model), bool(climb.converged), passes)


def _result(state: State, converged: bool, passes: list[PassInfo]) -> EMResult:
    return EMResult(
        state.bound,
        converged,
        passes,
        gate=state.gate,
        pool=state.pool,
        resp=state.resp,
    )


def rule_of(problem: Problem) -> Rule:
    """Return the rule of EM for a problem."""
    return best_of(problem.width, problem.beta)


class Climb:
    """EM from a model, or from several at once; a pass is one sweep over the rows.

    The bound of a sweep is also the line search of the step before it: a pass whose
    bound falls is undone, and the next takes a quarter of the step. So no bound falls.

    Attributes
    ----------
    model : Model
    sums : Sums
        Of the last sweep over the model.
    converged : (...) array of bool
        Whether the last pass brought less than the tolerance.
    """

    def __init__(self, rows: AllRows, model: Model, rule: Rule, tol: float) -> None:
        self.rows = rows
        self.model = model
        self.rule = rule
        self.tol = tol
        self.sums = sweep(rows, model, rule)
        shape = self.sums.bound.shape
        self.damping = np.ones(shape)
        self.undone = np.zeros(shape, dtype=int)
        self.converged = np.zeros(shape, dtype=bool)

    def step(self) -> None:
        """Take a pass."""
        before = self.sums.bound
        part = np.where(self.undone < UNDONE, self.damping, 0.0)
        model, self.n_new = stepped(self.rows, self.model, self.sums, part)
        sums = sweep(self.rows, model, self.rule)
        rises = sums.bound >= before - ROUNDING * np.abs(before)
        if not rises.all():
            model = either(rises, model, self.model)
            sums = sums.where(rises, self.sums)
        self.model, self.sums = model, sums
        self.gain = sums.bound - before
        self.moved = rises & (part > 0)
        self.damping = np.where(rises, np.minimum(1.0, 2.0 * part), QUARTER * part)
        self.undone = np.where(rises, 0, self.undone + 1)
        self.converged = np.where(rises, self.gain <= self.tol, self.undone > UNDONE)

    def told(self, n_pass: int, which: Any = ()) -> PassInfo:
        """Tell what happened to one model in the last pass."""
        bound, gain = float(self.sums.bound[which]), float(self.gain[which])
        moved, n_new = bool(self.moved[which]), int(self.n_new[which])
        return PassInfo(n_pass, bound, gain, moved, n_new)


def state_of(problem: Problem, model: Model) -> State:
    """Return the state of a model in which each row keeps the best of all experts."""
    return State(model.gate, model.experts, *expected(problem, model))


def step(problem: Problem, state: State) -> tuple[State, PassInfo]:
    """Return the next state: both M-steps, then the E-step."""
    gate, pool, terms, extra, accepted = improve(problem, state)
    candidates = [(state.resp, terms)]
    bound = state.bound
    n_pass = state.n_pass + 1
    offsets = state.offsets
    del state  # frees it where the caller does not keep it: the E-step needs the memory
    if extra is not None:
        candidates.append((extra, evaluate(problem, pool, extra)))
    new = expect(problem, gate, pool, candidates, n_pass, offsets)
    gain = new.bound - bound
    return new, PassInfo(new.n_pass, new.bound, gain, *accepted)


# ------------------------------------------------------------------- M-step
def improve(
    problem: Problem, state: State
) -> tuple[BaseGate, ExpertPool, Terms, Routing | None, tuple[bool, int]]:
    """Return the next model, its terms at the support, and new candidates.

    The last item tells whether the gate is new, and how many experts are new.
    """
    mass = state.resp.scaled(problem.sample_weight)
    gate, log_gate, extra, is_new = update_gate(problem, state)
    pool, values, log_lik, n_new = update_pool(problem, state, mass)
    return gate, pool, Terms(log_gate, values, log_lik), extra, (is_new, n_new)


def update_gate(
    problem: Problem, state: State
) -> tuple[BaseGate, Array, Routing | None, bool]:
    """Return the gate for these responsibilities, and its answers.

    The answers are its log probabilities at the support, and each row's new candidates
    with theirs (none in dense EM). The last item tells whether the gate is new.
    """
    gate = improved_gate(problem, state.gate, state.resp)
    log_gate, extra = survey(problem, gate, state)
    mass = state.resp.scaled(problem.draw_weight)
    gain = mass.sum_by_expert(_changes(mass, log_gate, state.terms.log_gate))
    if gain.sum() >= 0:
        return gate, log_gate, extra, True
    return state.gate, *survey(problem, state.gate, state), False


def update_pool(
    problem: Problem, state: State, mass: Routing
) -> tuple[ExpertPool, Array, Array, int]:
    """Return the pool for these responsibilities, its values and log-likelihoods.

    The last item is the number of experts whose new learners were accepted.
    """
    y = problem.y
    resp = state.resp
    old = state.pool
    learned = learning_mass(problem, old, mass, state.terms.values)
    new = old
    if old.n_fitted + old.price(learned) <= problem.budget:
        new = old.update(problem.X, y, learned)
    values, log_lik = state.terms.values, state.terms.log_lik
    if new is not old:
        values = new.evaluate(problem.X, y, resp)
        log_lik = new.log_density(y, values, resp)
    accepted = _accepted(old, mass, log_lik, state.terms.log_lik)
    pool = old.select(new, accepted)
    if pool is old and new.n_fitted > old.n_fitted:
        pool = old.swap(new, accepted)  # remembers what was tried
    if not accepted.all():
        xp = namespace(values)
        chosen = resp.lookup(like(accepted, values))
        values = xp.where(chosen[:, :, None], values, state.terms.values)
        log_lik = xp.where(chosen, log_lik, state.terms.log_lik)

    rescaled = pool.rescale(y, values, mass)
    if rescaled is not pool:
        trial = rescaled.log_density(y, values, resp)
        pool = pool.select(rescaled, _accepted(old, mass, trial, log_lik))
        log_lik = pool.log_density(y, values, resp)
    return pool, values, log_lik, int(accepted.sum())


def _accepted(pool: ExpertPool, mass: Routing, new: Array, old: Array) -> np.ndarray:
    """Tell for each expert whether its new block may replace the old one."""
    changes = _changes(mass, new, old)
    gain = mass.sum_by_expert(changes)
    if pool.rigid:
        return gain >= 0
    # A row's weight counts rows, so it is not squared.
    xp = namespace(new)
    row_mass = mass.row_sums[:, None]
    square = changes * changes / xp.where(row_mass > 0, row_mass, 1.0)
    return gain >= -pool.slack * np.sqrt(mass.sum_by_expert(square))


def _changes(mass: Routing, new: Array, old: Array) -> Array:
    """Return s r (new - old) of each entry; entries without mass do not count."""
    xp = namespace(new)
    counted = mass.weights > 0
    return mass.weights * (xp.where(counted, new, 0.0) - xp.where(counted, old, 0.0))


# ------------------------------------------------------------------- E-step
def survey(
    problem: Problem, gate: BaseGate, state: State
) -> tuple[Array, Routing | None]:
    """Return the gate's log probabilities at the support and at new candidates.

    New candidates of a row are the gate's best experts and one explored expert: the
    partner of the row's best expert. Partners are drawn anew each pass, and do not
    depend on a row's place in the table. The weights of the routing are log
    probabilities.
    """
    resp = state.resp
    n_experts = problem.n_experts
    if problem.dense:
        return log_proba_at(problem, gate, resp), None
    xp = namespace(resp.indices)
    m = resp.shape[1]
    draw = np.random.RandomState((problem.seed + state.n_pass) % 2**32)
    shift = 1 + draw.randint(max(1, n_experts - 1), size=n_experts)
    partner = like((np.arange(n_experts) + shift) % n_experts, resp.indices)
    explored = xp.take(partner, resp.indices[:, 0])[:, None]
    explored = xp.concat([explored, _fixed(problem, state.pool)], axis=1)
    candidates = xp.concat([resp.indices, explored], axis=1)
    log_candidates, best, log_best = gating.survey(
        problem, gate, candidates, problem.width
    )
    fresh = xp.concat([best, explored], axis=1)
    extra = select(fresh).novel(resp.indices, fresh)
    log_more = xp.concat([log_best, log_candidates[:, m:]], axis=1)
    return log_candidates[:, :m], Routing(extra, log_more, n_experts)


def _fixed(problem: Problem, pool: ExpertPool) -> Array:
    """Return the fixed experts for each row, (n, n_fixed): all rows may ask them."""
    fixed = np.flatnonzero(pool.likelihood.fixed(pool.n_experts))
    n_rows = problem.sample_weight.shape[0]
    return like(np.tile(fixed, (n_rows, 1)), problem.sample_weight)


def evaluate(problem: Problem, pool: ExpertPool, routing: Routing) -> Terms:
    """Return the terms of a routing whose weights are the gate's log probabilities."""
    values = pool.evaluate(problem.X, problem.y, routing)
    log_lik = pool.log_density(problem.y, values, routing)
    return Terms(routing.weights, values, log_lik)


def expect(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    candidates: list[tuple[Routing, Terms]],
    n_pass: int = 0,
    offsets: np.ndarray | None = None,
) -> State:
    """Return the state of a model: best candidates, responsibilities, bound.

    Candidates of a row are its entries in all the routings. They are joined and cut in
    blocks of rows, to save memory.
    """
    n_rows = problem.sample_weight.shape[0]
    size = n_rows if problem.panel is not None else BLOCK_ROWS
    blocks = [
        _expect_rows(problem, candidates, slice(a, min(a + size, n_rows)), offsets)
        for a in range(0, n_rows, size)
    ]
    terms, indices, weights, norm = _stack(blocks)
    all_kept = candidates[0][0].dense and indices.shape[1] == problem.n_experts
    resp = Routing(indices, weights, problem.n_experts, all_kept)
    if limited(problem):
        offsets = np.zeros(problem.n_experts) if offsets is None else offsets
        support = resp.with_weights(log_joint(problem, terms))
        resp, norm, offsets = balanced(problem, support, offsets)
    xp = namespace(norm)
    weight = problem.draw_weight
    term = xp.where(weight > 0, weight * norm, 0.0)
    bound = float(to_host(xp.sum(term) / xp.sum(problem.sample_weight)))
    return State(gate, pool, resp, terms, bound, n_pass, offsets)


def log_joint(problem: Problem, terms: Terms) -> Array:
    """Return log p(k | x) + log p(y | x, k), in a panel summed over each group."""
    return terms.log_gate + problem.beta * problem.draws.sums(terms.log_lik)


def _expect_rows(
    problem: Problem,
    candidates: list[tuple[Routing, Terms]],
    rows: slice,
    offsets: np.ndarray | None,
) -> tuple[Terms, Array, Array, Array]:
    """Return the terms, experts and responsibilities to keep, and each row's bound."""
    parts = [
        (routing.indices[rows, :], terms.rows(rows)) for routing, terms in candidates
    ]
    indices, terms = parts[0]
    for more, other in parts[1:]:
        indices = namespace(indices).concat([indices, more], axis=1)
        terms = terms.join(other)
    densities = Routing(indices, log_joint(problem, terms), problem.n_experts)
    joint = shifted(densities, offsets)
    width = min(problem.width, indices.shape[1])
    best, weights, norm = select(joint).truncate(joint, width)
    if width < indices.shape[1]:
        terms = terms.take(best)
        indices = namespace(best).take_along_axis(indices, best, axis=1)
    return terms, indices, weights, norm


def _stack(
    blocks: list[tuple[Terms, Array, Array, Array]],
) -> tuple[Terms, Array, Array, Array]:
    if len(blocks) == 1:
        return blocks[0]
    terms, indices, weights, norm = zip(*blocks, strict=True)
    concat = namespace(weights[0]).concat
    return Terms.stack(terms), concat(indices), concat(weights), concat(norm)


# ------------------------------------------------------------------- starts
def begin(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    start: Routing,
    *,
    annealed: bool = True,
) -> State:
    """Return the first state: gate and pool fitted to initial responsibilities.

    Grouped pools first run a few annealed passes on a support twice as wide, or one
    pass that is not annealed. That would cost too much with learners that are fitted
    one by one.
    """
    if problem.panel is not None:
        start = problem.panel.agreed(start, problem.width)
    start = possible(problem, pool, start)
    powers = ANNEALING if annealed else ANNEALING[-1:]
    if adds_up(problem, gate, pool):
        width = min(2 * problem.width, problem.n_experts)
        rows = Rows.of(problem)
        model = warmed(rows, gate, pool, dense(start), powers, width)
        return state_of(problem, model)
    X = problem.X
    y = problem.y
    mass = start.scaled(problem.sample_weight)
    gate = fit_gate(problem, gate, start)
    pool = copy.copy(pool).fit(X, y, mass)
    pool = pool.rescale(y, pool.evaluate(X, y, start), mass)
    del start, mass  # the passes that follow need the memory
    if not pool.rigid:
        return resume(problem, gate, pool)
    wide = replace(problem, width=min(2 * problem.width, problem.n_experts))
    states = [resume(replace(wide, beta=powers[0]), gate, pool)]
    for beta in powers:
        cooler = replace(wide, beta=beta)
        states.append(step(cooler, _alive(cooler, states.pop()))[0])
    state = states.pop()
    support = [(state.resp, state.terms)]
    return expect(problem, state.gate, state.pool, support, offsets=state.offsets)


def warmed(
    rows: Rows,
    gate: BaseGate,
    pool: ExpertPool,
    start: np.ndarray,
    powers: Sequence[np.ndarray] | Sequence[float],
    width: int,
) -> Model:
    """Return gate and experts after a first pass at each power of the likelihood.

    ``start`` are responsibilities, (..., n_experts, n).
    """
    model = first_model(rows, gate, pool, start)
    for beta in powers:
        sums = sweep(rows, model, best_of(width, beta))
        model, _ = stepped(rows, model, sums)
    return model


def _alive(problem: Problem, state: State) -> State:
    """Return a state in which each expert has rows, and only rows that it may have."""
    state = revived(problem, state)
    return replace(state, resp=possible(problem, state.pool, state.resp))


def revived(problem: Problem, state: State) -> State:
    """Give the rows that are explained worst to an expert that owns less than a row.

    They are half of a fair share, by weight, and become the expert's alone. One call
    serves the first of several dead experts; the next pass serves the next.
    """
    mass = state.resp.scaled(problem.sample_weight)
    dead = np.flatnonzero(mass.sum_by_expert(mass.weights) < 1.0)
    if not dead.size:
        return state
    joint = log_joint(problem, state.terms)
    score = to_host(select(joint).logsumexp(joint))
    weight = to_host(problem.sample_weight)
    order = np.argsort(score, kind="stable")
    share = np.cumsum(weight[order]) <= weight.sum() / (2 * problem.n_experts)
    new = np.full(len(order), -1)
    new[order[share]] = dead[0]
    if problem.panel is not None:
        new = new[to_host(problem.panel.first)][to_host(problem.panel.group)]
    return replace(state, resp=_handed_over(state.resp, like(new, state.resp.indices)))


def possible(problem: Problem, pool: ExpertPool, resp: Routing) -> Routing:
    """Give the rows that only a fixed expert may have to that expert alone."""
    beyond = pool.likelihood.beyond(problem.y)
    fixed = np.flatnonzero(pool.likelihood.fixed(pool.n_experts))
    if beyond is None or not fixed.size:
        return resp
    return _handed_over(resp, like(np.where(beyond, fixed[0], -1), resp.indices))


def _handed_over(resp: Routing, new: Array) -> Routing:
    """Return responsibilities in which some rows belong to a new expert alone."""
    xp = namespace(resp.weights)
    moved = new[:, None] >= 0
    hers = resp.indices == new[:, None]
    first = xp.argmax(xp.astype(hers, xp.float64), axis=1)[:, None]
    place = xp.arange(resp.shape[1], dtype=first.dtype, device=device_of(first))
    indices = resp.indices
    if not resp.dense:
        absent = moved & ~xp.any(hers, axis=1)[:, None] & (place[None, :] == 0)
        indices = xp.where(absent, new[:, None], indices)
    alone = xp.astype(place[None, :] == first, resp.weights.dtype)
    weights = xp.where(moved, alone, resp.weights)
    return Routing(indices, weights, resp.n_experts, resp.dense)


def resume(problem: Problem, gate: BaseGate, pool: ExpertPool) -> State:
    """Return the state of a model that is already fitted."""
    if problem.dense:
        support = Routing.from_dense(log_proba(problem, gate))
    else:
        fixed = _fixed(problem, pool)
        log_fixed, best, log_best = gating.survey(problem, gate, fixed, problem.width)
        if fixed.shape[1]:
            concat = namespace(best).concat
            best = concat([fixed, select(best).novel(fixed, best)], axis=1)
            log_best = concat([log_fixed, log_best], axis=1)
        support = Routing(best, log_best, problem.n_experts)
    terms = evaluate(problem, pool, support)
    return expect(problem, gate, pool, [(support, terms)])
