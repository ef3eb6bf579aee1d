"""A race of starts: held-out rows let the better half go on, round after round.

It matters more which optimum EM finds than how far EM polishes it. So all starts run a
few passes, the half that explains the held-out rows better runs more, and one remains,
which runs to its end. The starts of all splits run at once, as models that share the
rows of a table: rows that a split holds out have no weight in its models.
"""

from __future__ import annotations

import functools
import itertools
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
    learn, test : (n_splits, n) arrays
        Weights of the rows in each split: those that EM runs on, those held out.
    top_k : int
        Number of experts that predict asks.
    """

    problem: Problem
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


def winners(
    race: Race, model: Model, split: np.ndarray, watch: Watch
) -> tuple[Model, list[Record]]:
    """Return the model that wins in each split, and what happened in its last run.

    Parameters
    ----------
    race : Race
    model : Model
        As many starts of each split, after their first passes.
    split : (n_models,) array of int
        The split of each, in ascending order.
    watch : callable
        Called before each pass; see `Watch`. If it stops the race, those win that are
        best by then.
    """
    n_splits = len(race.learn)
    stopped = False
    count = itertools.count(1)
    for passes in rounds(len(split) // n_splits):
        n_pass = 0 if stopped else passes
        model, stopped = _climbed(race, model, split, n_pass, watch, count)
        worth = log_likelihood(race.held_out(split), model, race.top_k)
        better = _better_half(worth.reshape(n_splits, -1))
        model, split = picked(model, better), split[better]
    climb = Climb(race.rows(split), model, rule_of(race.problem), race.problem.tol)
    n_pass = 0 if stopped else race.problem.max_iter
    infos, _ = _run(race.problem, climb, n_pass, watch, count)
    records = [
        Record(float(bound), bool(converged), [each[s] for each in infos])
        for s, (bound, converged) in enumerate(
            zip(climb.sums.bound, climb.converged, strict=True)
        )
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
    race: Race,
    model: Model,
    split: np.ndarray,
    n_pass: int,
    watch: Watch,
    count: Iterator[int],
) -> tuple[Model, bool]:
    """Return models after some passes, and whether the watcher stops the race."""
    models = []
    stopped = False
    for some in at_once(race.problem, len(split)):
        rows = race.rows(split[some])
        few = picked(model, some)
        climb = Climb(rows, few, rule_of(race.problem), race.problem.tol)
        if not stopped:
            _, stopped = _run(race.problem, climb, n_pass, watch, count)
        models.append(climb.model)
    return joined(models), stopped


def at_once(problem: Problem, n_models: int) -> Iterator[slice]:
    """Yield slices of as many models as fit into memory at once."""
    d = problem.X.shape[1]
    size = max(1, NUMBERS // (problem.n_experts * (d + 1) ** 2))
    for first in range(0, n_models, size):
        yield slice(first, first + size)


def _run(
    problem: Problem, climb: Climb, n_pass: int, watch: Watch, count: Iterator[int]
) -> tuple[list[list[PassInfo]], bool]:
    """Take passes until all models have converged or the watcher stops.

    Returns what happened to each model in each pass, and whether the watcher stopped.
    ``count`` numbers the passes of a race.
    """
    passes: list[list[PassInfo]] = []
    while len(passes) < n_pass and not climb.converged.all():
        close = watch()
        climb.step()
        n_models = len(climb.sums.bound)
        number = next(count)
        passes.append([climb.told(number, at) for at in range(n_models)])
        best = int(np.argmax(climb.sums.bound))
        state = functools.partial(_state_of_one, problem, climb.model, best)
        if close(passes[-1][best], state):
            return passes, True
    return passes, False


def _state_of_one(problem: Problem, model: Model, which: int) -> State:
    return state_of(problem, picked(model, which))
