"""A gate for each output, over experts that all outputs share [1]_.

Each output has its own gate, noise scales and responsibilities. Experts predict all
outputs and are fitted to the mean responsibilities; ridge experts are fitted output by
output, since their outputs do not depend on each other. Training starts from a mixture
whose outputs share one gate. Then gates and experts take turns, as long as the bounds
gain: EM of each output while the experts stay, then a refit of the experts.

References
----------
.. [1] J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong and E. H. Chi, "Modeling task
   relationships in multi-task learning with multi-gate mixture-of-experts", KDD 2018.
   doi:10.1145/3219819.3220007
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..experts import ExpertPool, OneOutputPool
from ..gates import BaseGate, RoutingRule
from ..routing import Routing
from ._cross_fit_gate import for_new_rows
from ._engine import resume, run
from ._last_passes import LAST_PASSES, settle
from ._problem import Problem, State
from ._train import Mixture
from ._trained import Trained, last_judge

ROUNDS = 20
"""Most turns of gates and experts."""


def gates_per_output(
    mixture: Mixture, rule: RoutingRule, *, average: bool
) -> tuple[list[BaseGate], ExpertPool]:
    """Return the gate of each output, and the experts with a scale for each output.

    Parameters
    ----------
    mixture : Mixture
        A mixture whose outputs share one gate.
    rule : RoutingRule
        Which experts predict asks.
    average : bool
        Whether cross-fitted experts predict by the mean of their fold models.
    """
    problem = mixture.problem
    pool = mixture.run.pool
    turn = 0
    n_outputs = problem.y.shape[1]
    states = _states(problem, [mixture.run.gate] * n_outputs, pool)
    while turn < ROUNDS:
        mass = [state.resp.scaled(problem.sample_weight) for state in states]
        trial = pool.update_each(problem.X, problem.y, mass)
        trial_states = _states(problem, [state.gate for state in states], trial)
        if _total(trial_states) <= _total(states) + problem.tol:
            break
        states = trial_states
        pool = trial
        turn = turn + 1

    final = mixture.pool
    if turn > 0:
        mean = Routing.mean([state.resp for state in states])
        judge = last_judge(problem, pool, mean)
        everyone = mean.scaled(problem.sample_weight)
        final = Trained.of(problem, judge, everyone, average=average).predictor
    judge = problem.remember(pool)
    gates = []
    scale = np.empty((problem.n_experts, n_outputs))
    for j, state in enumerate(states):
        output = _of_output(problem, j)
        pool_of_output = OneOutputPool(judge, j)
        last = settle(
            output, state.gate, pool_of_output, rule, LAST_PASSES, learn=False
        )
        gates.append(for_new_rows(output, last.gate, last.resp))
        if last.pool.scale is not None:
            scale[:, j] = last.pool.scale[:, 0]
    return gates, final.with_scale(scale if final.likelihood.has_scale else None)


def _of_output(problem: Problem, j: int) -> Problem:
    return replace(problem, y=problem.y[:, j : j + 1])


def _states(
    problem: Problem, gates: Sequence[BaseGate], pool: ExpertPool
) -> list[State]:
    """Return the last state of each output's EM, in which the experts stay."""
    judge = problem.remember(pool)
    states = []
    for j, gate in enumerate(gates):
        output = _of_output(problem, j)
        result = run(output, resume(output, gate, OneOutputPool(judge, j)))
        states.append(resume(output, result.gate, result.pool))
    return states


def _total(states: Sequence[State]) -> float:
    return sum(state.bound for state in states)
