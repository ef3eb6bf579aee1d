r"""The last passes: EM on the experts that predict will ask.

EM lets a row choose its experts with y in hand. Predict has x alone: it asks the
``top_k`` that the gate prefers, with the gate's probabilities renormalised. Where the
gate is unsure the two differ, and what counts is

    R = (1/Σs) Σ_i s_i log Σ_{k ∈ top(x_i)} g̃_k(x_i) p_k(y_i | x_i)

So the last passes take the gate's choice as the support: experts and noise scales are
those of the rows as predict routes them. The gate learns from twice as many experts as
predict asks, those that EM keeps, or none that it does not prefer already could show
its worth. The support moves with the gate, so R may fall; the pass with the best R is
kept.

Where predict asks one expert, R is the mean of its log-likelihood, and no expert is to
be preferred because noise favoured it. Responsibilities of tempered likelihoods,
``r ∝ g p^β`` with a small β, see to that: a gate that they leave as it is gives rows to
the expert of the best mean p^β, which for β near 0 is that of the best mean log p.

Then experts may be pulled to the pooled fit, their learner fitted on all rows. How
much is not for the training rows to say: see `_choose`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np

from .._learners import recipe
from ..backends import like, namespace, to_host
from ..experts import ExpertPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from ._cross_fit import CrossFitPool
from ._engine import evaluate, expect, update_pool
from ._gating import improved_gate, log_proba_at, route
from ._problem import Problem, State, learning_mass
from ._shared import all_rows

PATIENCE = 2
"""Passes without progress before the best is taken."""

MOST_OF_IT = 0.95
"""Little of a row is lost if the experts asked have so much of its probability."""

REWEIGHTINGS = 10
"""Fits of a learner alone with robust weights; each halves, at least, what outliers
still pull."""

TEMPERED = 0.25
"""β where predict asks one expert."""

LAST_PASSES = 20
"""Passes on the gate's own support, at most, once EM has ended."""


def routed(
    problem: Problem, gate: BaseGate, pool: ExpertPool, rule: RoutingRule
) -> State:
    """Return the state of a model whose rows go where the gate alone sends them."""
    choice = route(problem, gate, rule)
    xp, weights = namespace(choice.weights), choice.weights
    tiny = float(np.finfo(np.float32).tiny)
    log_gate = xp.log(xp.where(weights > tiny, weights, xp.full_like(weights, tiny)))
    support = choice.with_weights(log_gate)
    free = replace(problem, balance=0.0, capacity=np.inf)
    return expect(free, gate, pool, [(support, evaluate(problem, pool, support))])


def settle(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    rule: RoutingRule,
    n_pass: int,
    *,
    learn: bool,
) -> State:
    """Run passes on the gate's own support; return the best, whose bound is R.

    Parameters
    ----------
    problem : Problem
    gate, pool : BaseGate, ExpertPool
        Where EM ended.
    rule : RoutingRule
        Which experts predict asks.
    n_pass : int
        Passes, at most.
    learn : bool
        Whether experts are trained too; else only the gate and the noise scales.
    """
    state = best = routed(problem, gate, pool, rule)
    stalled = 0
    for _ in range(n_pass):
        mass = state.resp.scaled(problem.sample_weight)
        gate = improved_gate(problem, state.gate, _gate_targets(problem, state, rule))
        if learn:
            pool, *_ = update_pool(problem, state, mass)
        else:
            pool = state.pool.rescale(problem.y, state.terms.values, mass)
        state = routed(problem, gate, pool, rule)
        stalled = 0 if state.bound > best.bound + problem.tol else stalled + 1
        best = state if state.bound > best.bound else best
        if stalled >= PATIENCE:
            break
    return best


def _gate_targets(problem: Problem, state: State, rule: RoutingRule) -> Routing:
    """Return the responsibilities that the gate is to learn."""
    if rule.asks_all(problem.n_experts):
        return state.resp
    beta = TEMPERED if rule.top_k == 1 and not rule.ask_last else 1.0
    wide = RoutingRule(problem.width, ask_last=rule.ask_last)
    return routed(replace(problem, beta=beta), state.gate, state.pool, wide).resp


def kept(
    problem: Problem, gate: BaseGate, rule: RoutingRule
) -> tuple[float, float, float]:
    """Return what of the gate predict keeps.

    Returns
    -------
    mass : float
        Mean probability of the experts that predict asks.
    rows : float
        Share of the rows of which they have `MOST_OF_IT`.
    n_experts : float
        Mean number of experts asked a row.
    """
    routing, weight = route(problem, gate, rule), problem.sample_weight
    xp = namespace(weight)
    mass = xp.sum(xp.exp(log_proba_at(problem, gate, routing)), axis=1)
    share = weight / xp.sum(weight)
    enough = xp.astype(mass >= MOST_OF_IT, weight.dtype)
    asked = xp.sum(xp.astype(routing.indices >= 0, weight.dtype), axis=1)
    found = (to_host(xp.sum(share * each)) for each in (mass, enough, asked))
    mass, rows, n_experts = (float(each) for each in found)
    return mass, rows, n_experts


def moved(problem: Problem, gate: BaseGate, rule: RoutingRule) -> int:
    """Return how many rows do not get all the experts that they ask for.

    Their experts have no room under the rule's capacity.
    """
    free = route(problem, gate, replace(rule, capacity_factor=None)).to_csr() != 0
    found = route(problem, gate, rule).to_csr() != 0
    return int(np.count_nonzero(np.diff((free != found).indptr)))


# ------------------------------------------------------------------ pooled fits
@dataclass(frozen=True, eq=False)
class Pooled:
    """Each distinct learner, fitted on all rows: what experts are pulled to.

    Attributes
    ----------
    pool : ExpertPool
        One expert for each distinct learner.
    learner_of : (n_experts,) array of int
        Which of them belongs to each expert.
    """

    pool: ExpertPool
    learner_of: np.ndarray

    @classmethod
    def of(cls, problem: Problem, pool: ExpertPool) -> Pooled:
        """Fit the learners of a pool, judged as the pool judges its own.

        Classifiers beside a shared expert are pulled to that one.
        """
        if problem.shared is not None and pool.classes is not None:
            return cls(problem.shared.judge, np.zeros(pool.n_experts, dtype=np.intp))
        keys = [recipe(learner) for learner in pool.learners]
        distinct = list(dict.fromkeys(keys))
        first = np.array([keys.index(key) for key in distinct])
        learner_of = np.array([distinct.index(key) for key in keys])
        few = some(pool, first)
        everyone = learnable_rows(problem, few)
        few.fit(problem.X, problem.y, everyone)
        if few.likelihood.robust:
            few = reweighted(problem, few, everyone)
        return cls(few, learner_of)

    def everyone(self, problem: Problem) -> Routing:
        """Return the routing that gives each learner all rows, alike."""
        return learnable_rows(problem, self.pool)

    def best(self, problem: Problem) -> int:
        """Return which learner alone, with one noise scale, suits the rows best."""
        mass = self.everyone(problem)
        judge = rescaled(problem, self.pool, mass)
        log_lik = judge.log_likelihood(problem.X, problem.y, mass)
        xp, counted = namespace(log_lik), mass.weights > 0
        log_lik = xp.where(counted, log_lik, xp.zeros_like(log_lik))
        return int(np.argmax(mass.sum_by_expert(mass.weights * log_lik)))

    def only(self, learner: int) -> Pooled:
        """Return one of the learners as that of all experts."""
        return Pooled(self.pool, np.full_like(self.learner_of, learner))

    def pull(self, pool: ExpertPool, strength: float) -> ExpertPool:
        """Return a pool of blended experts."""
        return pool.pulled(self.pool, self.learner_of, strength)

    def remember(self, problem: Problem) -> Pooled:
        """Return learners that know already what they say of the rows."""
        return Pooled(problem.remember(self.pool), self.learner_of)

    def finished(self, problem: Problem) -> Pooled:
        """Return the learners for new rows."""
        if problem.shared is not None and self.pool is problem.shared.judge:
            return Pooled(problem.shared.pool, self.learner_of)
        mass = learning_mass(problem, self.pool, self.everyone(problem))
        done = self.pool.finished(problem.X, problem.y, mass)
        used, learner_of = np.unique(self.learner_of, return_inverse=True)
        return Pooled(done.take(used), learner_of)


def learnable_rows(problem: Problem, pool: ExpertPool) -> Routing:
    """Return the routing that gives each learner all rows that it may have, alike."""
    everyone, beyond = (
        all_rows(problem, pool.n_experts),
        pool.likelihood.beyond(problem.y),
    )
    if beyond is None:
        return everyone
    return everyone.scaled(like(np.where(beyond, 0.0, 1.0), everyone.weights))


def some(pool: ExpertPool, which: np.ndarray) -> ExpertPool:
    """Return an unfitted pool of some of the learners."""
    if isinstance(pool, CrossFitPool):
        return CrossFitPool(some(pool.pool, which), pool.folds, learned=pool.learned)
    few = copy.copy(pool)
    few.learners = [pool.learners[k] for k in which]
    few.likelihood = pool.likelihood.take(which)
    few.seeds = [pool.seeds[k] for k in which]
    few.n_experts = len(few.learners)
    return few


def reweighted(problem: Problem, pool: ExpertPool, mass: Routing) -> ExpertPool:
    """Return a fitted pool with robust weights of rows that agree with its fit."""
    for _ in range(REWEIGHTINGS):
        values = pool.evaluate(problem.X, problem.y, mass)
        pool = pool.rescale(problem.y, values, mass)
        few = pool.emphasised(problem.y, values, mass)
        pool = pool.update(problem.X, problem.y, few)
    return pool


def rescaled(problem: Problem, pool: ExpertPool, resp: Routing) -> ExpertPool:
    """Return the pool with the noise scales of what it says."""
    values = pool.evaluate(problem.X, problem.y, resp)
    return pool.rescale(problem.y, values, resp.scaled(problem.sample_weight))
