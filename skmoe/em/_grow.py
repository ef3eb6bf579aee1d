"""A fitted mixture with more experts, or with fewer; the others are not trained again.

Growing splits the experts whose rows are explained worst. The new experts take over the
worst explained rows of their parents, and a few passes of EM train them and the gate;
the old experts stay as they are. Shrinking takes away one expert after another, each
time the one whose rows the others explain best, twins first, until the rows as predict
routes them would lose more than a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import sparse
from sklearn.tree import DecisionTreeRegressor

from ..backends import Array, like, namespace, select, to_host
from ..experts import ExpertPool, JoinedPool, make_pool, shares
from ..gates import BaseGate, RoutingRule
from ..routing import Routing, TreeView
from ._engine import log_joint, resume, run
from ._gate_step import improved_gate
from ._last_passes import routed
from ._problem import Problem, State, learning_mass
from ._trained import rescaled

PASSES = 10
"""Most passes of EM that train new experts."""

GATE_UPDATES = 3
"""Number of updates of the gate for a new number of experts."""


def grow(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    judged: Callable[[ExpertPool], ExpertPool],
) -> tuple[BaseGate, ExpertPool]:
    """Return the mixture with as many experts as the problem has.

    A new expert without rows, or with too few for its learner, is a copy of its parent.
    The gate splits their probability, so if predict asks all experts, the mixture
    answers as before.

    Parameters
    ----------
    problem : Problem
    gate, pool : BaseGate, ExpertPool
        The fitted mixture, with fewer experts.
    judged : callable
        Wraps an unfitted pool into one that judges the training rows.
    """
    n_old = pool.n_experts
    state = resume(replace(problem, n_experts=n_old), gate, pool)
    parents, labels = handed_down(problem, state)
    n_new = max(n_old, int(labels.max()) + 1)
    if n_new > n_old:
        smaller = replace(problem, n_experts=n_new)
        young = parents[: n_new - n_old]
        try:
            gate, pool = _trained(smaller, gate, pool, young, labels, judged)
        except ValueError as error:
            if not isinstance(error.__cause__, ValueError):
                raise  # the rows are not to blame
    copies = parents[pool.n_experts - n_old :]
    everyone = np.append(np.arange(pool.n_experts), copies)
    return gate.take(everyone), pool.take(everyone)


def _trained(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    parents: np.ndarray,
    labels: np.ndarray,
    judged: Callable[[ExpertPool], ExpertPool],
) -> tuple[BaseGate, ExpertPool]:
    """Return the mixture with new experts that start from the rows of their labels."""
    old = np.arange(pool.n_experts)
    gate = gate.take(np.append(old, parents))
    resp = Routing.from_labels(like(labels, problem.sample_weight), problem.n_experts)
    for _ in range(GATE_UPDATES):
        gate = improved_gate(problem, gate, resp)

    learners = [pool.learners[k] for k in parents]
    options = {**pool.options, "seeds": [pool.seeds[k] for k in parents]}
    young = judged(make_pool(learners, n_features=problem.X.shape[1], **options))
    both = JoinedPool(pool, young)
    mass = resp.scaled(problem.sample_weight)
    both = JoinedPool(pool, young.fit(problem.X, problem.y, both.parts(mass)[1]))
    state = resume(problem, gate, rescaled(problem, both, resp))
    result = run(replace(problem, max_iter=PASSES), state)
    mass = result.resp.scaled(problem.sample_weight)
    owns = shares(mass)[len(old) :] > 0
    if not owns.any():
        return result.gate, pool.take(np.append(old, parents))
    mass = learning_mass(problem, result.pool, mass)
    pool = result.pool.finished(problem.X, problem.y, mass)
    new = np.where(owns, len(old) + np.arange(len(parents)), parents)
    return result.gate, pool.take(np.append(old, new))


def handed_down(problem: Problem, state: State) -> tuple[np.ndarray, np.ndarray]:
    """Return the experts to split, and the expert that each row starts with.

    Each split takes the expert whose rows lack most log-likelihood, compared with the
    best row; an expert in m parts counts 1/m² of its lack. A small tree of that score
    on x cuts the expert's rows into regions, which the gate can tell apart. The parent
    keeps the region explained best. New experts without rows come last.
    """
    joint = log_joint(problem, state.terms)
    score = to_host(select(joint).logsumexp(joint))
    weight = to_host(problem.sample_weight)
    n_old = state.pool.n_experts
    xp = namespace(state.resp.weights)
    first = xp.argmax(state.resp.weights, axis=1)[:, None]
    owner = to_host(xp.take_along_axis(state.resp.indices, first, axis=1))[:, 0]
    lack = np.bincount(owner, weight * (score.max() - score), minlength=n_old)
    lack[state.pool.frozen] = -1.0  # a copy of a frozen model could learn nothing
    parts = np.ones(n_old)
    split = []
    for _ in range(problem.n_experts - n_old):
        split.append(int(np.argmax(lack / parts**2)))
        parts[split[-1]] += 1

    X = problem.X_gate if sparse.issparse(problem.X_gate) else to_host(problem.X_gate)
    view = TreeView.of(X).rows(X)
    labels = owner.copy()
    new = n_old + np.arange(len(split))
    for parent in np.unique(split):
        rows = np.flatnonzero(owner == parent)
        children = new[np.asarray(split) == parent]
        if len(rows) <= len(children):
            continue  # too few rows to share: only the gate splits the probability
        size = {"max_leaf_nodes": len(children) + 1, "min_weight_fraction_leaf": 0.05}
        tree = DecisionTreeRegressor(**size, random_state=0)
        tree.fit(view[rows], score[rows], sample_weight=weight[rows])
        answer = tree.predict(view[rows])
        regions = np.unique(answer, return_inverse=True)[1]
        regions += len(children) - regions.max()  # the last is explained best
        labels[rows] = np.append(children, parent)[regions]
    parents = np.array(split, dtype=np.intp)
    counted = (weight > 0).astype(np.float64)
    rows = np.bincount(labels, counted, minlength=problem.n_experts)[n_old:]
    order = np.argsort(rows == 0, kind="stable")
    place = np.append(np.arange(n_old), n_old + np.argsort(order))
    return parents[order], place[labels]


def shrink(
    problem: Problem,
    gate: BaseGate,
    pool: ExpertPool,
    rule: RoutingRule,
    tol: float,
) -> tuple[BaseGate, ExpertPool, np.ndarray]:
    """Return the mixture without the experts that it does not need.

    Parameters
    ----------
    problem : Problem
    gate, pool : BaseGate, ExpertPool
        The fitted mixture.
    rule : RoutingRule
        Which experts predict asks.
    tol : float
        Most log-likelihood per row that may be lost in all.

    Returns
    -------
    gate, pool
        The smaller mixture.
    kept : (n_kept,) array of int
        The experts that it keeps.
    """
    survivors = np.arange(pool.n_experts)
    least = routed(problem, gate, pool, rule).bound - tol
    while len(survivors) > 1:
        problem = replace(problem, n_experts=len(survivors))
        state = resume(problem, gate, pool)
        rest = np.delete(
            np.arange(len(survivors)), np.argmin(loss_without(problem, state))
        )
        smaller = replace(problem, n_experts=len(rest))
        fewer = pool.take(rest)
        trial = gate.take(rest)
        for _ in range(GATE_UPDATES):
            trial = improved_gate(smaller, trial, resume(smaller, trial, fewer).resp)
        if routed(smaller, trial, fewer, rule).bound < least:
            break
        gate = trial
        pool = fewer
        survivors = survivors[rest]
    return gate, pool, survivors


def loss_without(problem: Problem, state: State) -> np.ndarray:
    """Return the loss if the rows of each expert go to the best of the others."""
    resp = state.resp
    log_lik = state.terms.log_lik
    xp = namespace(log_lik)
    log_prob = xp.where(resp.indices >= 0, log_lik, xp.full_like(log_lik, -xp.inf))
    if resp.shape[1] == 1:
        return resp.scaled(problem.sample_weight).sum_by_expert(resp.weights)
    best = xp.max(log_prob, axis=1)[:, None]
    others = _second(log_prob)[:, None]
    instead = xp.where(log_prob == best, others, best)
    loss = xp.where(resp.weights > 0, resp.weights * (log_prob - instead), 0.0)
    loss = xp.where(loss > 0, loss, 0.0)
    return resp.sum_by_expert(loss * problem.sample_weight[:, None])


def _second(values: Array) -> Array:
    """Return the second largest value of each row."""
    return select(values).top_k(values, 2)[0][:, 1]
