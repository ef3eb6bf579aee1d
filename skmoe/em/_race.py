"""A race of starts: held-out rows let the better half go on, round after round.

It matters more which optimum EM finds than how far EM polishes it. So all starts run a
few passes, the half that explains the held-out rows better runs more, and one remains,
which runs to its end. The starts of all splits run at once, as models that share the
rows of a table: rows that a split holds out have no weight in its models.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ._engine import Climb, Watch, rule_of, state_of
from ._problem import Model, PassInfo, Problem, Record, State
from ._sweep import Rows, joined, log_likelihood, picked

ROUNDS = (4, 8, 16)
"""Passes of the first rounds; later rounds have as many as the last of these."""

NUMBERS = 1 << 22
"""Numbers in the curvature of the models that run at once, at most (32 MiB)."""


@dataclass(frozen=True, eq=False)
class Race:
    """What starts compete on.

    Attributes
    ----------
    problem : Problem
        The rows of all splits.
    places : (n,) array of int
        Where these rows are in the whole table.
    learn, test : (n_splits, n) arrays
        Weights of the rows in each split: those that EM runs on, those held out.
    top_k : int
        Number of experts that predict asks.
    """

    problem: Problem
    places: np.ndarray
    learn: np.ndarray
    test: np.ndarray
    top_k: int

    def most_passes(self, n_starts: int) -> int:
        """Return how many passes a race of some starts per split takes, at most."""
        n_pass = self.problem.max_iter
        for passes in rounds(n_starts):
            batches = at_once(self.problem, n_starts * len(self.learn))
            n_pass += passes * len(list(batches))
            n_starts = (n_starts + 1) // 2
        return n_pass

    def rows(self, split: np.ndarray) -> Rows:
        """Return the rows that models of some splits learn from."""
        return self._weighted(self.learn[split])

    def held_out(self, split: np.ndarray) -> Rows:
        """Return the rows that judge models of some splits."""
        return self._weighted(self.test[split])

    def _weighted(self, weight: np.ndarray) -> Rows:
        content = self.problem.content
        return Rows(content.gate_table, content.table, content.targets, weight)


class Watched:
    """Climbs whose passes are numbered from 1, until a watcher stops them all.

    Attributes
    ----------
    stopped : bool
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.n_pass = 0
        self.stopped = False

    def run(self, problem: Problem, climb: Climb, n_pass: int) -> list[list[PassInfo]]:
        """Take some passes, or those to convergence; tell of each model in each."""
        passes: list[list[PassInfo]] = []
        while len(passes) < n_pass and not (self.stopped or climb.converged.all()):
            passes.append(self._step(problem, climb))
        return passes

    def _step(self, problem: Problem, climb: Climb) -> list[PassInfo]:
        close = self.watch()
        climb.step()
        self.n_pass += 1
        bounds = climb.sums.bound
        infos = [climb.told(self.n_pass, at) for at in range(len(bounds))]
        best = int(np.argmax(bounds))
        state = functools.partial(_state_of_one, problem, climb.model, best)
        self.stopped = close(infos[best], state)
        return infos


def winners(race: Race, model: Model, split: np.ndarray, watched: Watched) -> Model:
    """Return the model that wins in each split.

    If the race is stopped, those win that are best by then.

    Parameters
    ----------
    race : Race
    model : Model
        As many starts of each split, after their first passes.
    split : (n_models,) array of int
        The split of each, in ascending order.
    watched : Watched
    """
    n_splits = len(race.learn)
    for n_pass in rounds(len(split) // n_splits):
        model = _climbed(race, model, split, n_pass, watched)
        worth = log_likelihood(race.held_out(split), model, race.top_k)
        better = _better_half(worth.reshape(n_splits, -1))
        model, split = picked(model, better), split[better]
    return model


def run_winners(
    race: Race, model: Model, watched: Watched
) -> tuple[Model, list[Record]]:
    """Run EM from the winner of each split; tell what happened."""
    problem = race.problem
    rows = race.rows(np.arange(len(race.learn)))
    climb = Climb(rows, model, rule_of(problem), problem.tol)
    passes = watched.run(problem, climb, problem.max_iter)
    ends = zip(climb.sums.bound, climb.converged, strict=True)
    records = [
        Record(float(bound), bool(converged), [infos[s] for infos in passes])
        for s, (bound, converged) in enumerate(ends)
    ]
    return climb.model, records


def rounds(n_starts: int) -> list[int]:
    """Return the passes of each round in which half of the starts drop out."""
    n_rounds = math.ceil(math.log2(n_starts))
    return [ROUNDS[min(turn, len(ROUNDS) - 1)] for turn in range(n_rounds)]


def _better_half(worth: np.ndarray) -> np.ndarray:
    """Return which models go on, if (n_splits, n) numbers say what they are worth."""
    n_splits, n = worth.shape
    order = np.argsort(-worth, axis=1, kind="stable")[:, : (n + 1) // 2]
    return (n * np.arange(n_splits)[:, None] + np.sort(order, axis=1)).ravel()


def _climbed(
    race: Race, model: Model, split: np.ndarray, n_pass: int, watched: Watched
) -> Model:
    """Return models after some passes."""
    models = []
    for some in at_once(race.problem, len(split)):
        rows = race.rows(split[some])
        few = picked(model, some)
        climb = Climb(rows, few, rule_of(race.problem), race.problem.tol)
        watched.run(race.problem, climb, n_pass)
        models.append(climb.model)
    return joined(models)


def at_once(problem: Problem, n_models: int) -> Iterator[slice]:
    """Yield slices of as many models as fit into memory at once."""
    d = problem.X.shape[1]
    size = max(1, NUMBERS // (problem.n_experts * (d + 1) ** 2))
    for first in range(0, n_models, size):
        yield slice(first, first + size)


def _state_of_one(problem: Problem, model: Model, which: int) -> State:
    return state_of(problem, picked(model, which))
