"""Runs of EM that callbacks and ``verbose`` watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..em import EMResult, PassInfo, Problem, Record, State, Watch, run

now = time.monotonic
"""The clock of ``max_time``, in seconds."""


class Watched:
    """Run EM from one start after another, each a task of scikit-learn's callbacks.

    Parameters
    ----------
    estimator : BaseMoE
    problem : Problem
        The problem of all rows.
    n_runs : int
        Number of runs, unless a callback stops them.
    attributes : callable
        ``attributes(problem, state)`` returns the fitted attributes of a state, for
        callbacks that score it.

    Attributes
    ----------
    out_of_time : bool
        Whether ``max_time`` has cut training short.
    history : list of dict
        What happened in each run, in the order of the runs.
    """

    def __init__(
        self,
        estimator: Any,
        problem: Problem,
        n_runs: int,
        attributes: Callable[[Problem, State], dict[str, Any]],
    ) -> None:
        self.estimator = estimator
        self.problem = problem
        self.attributes = attributes
        self.asked_to_stop = False
        self.out_of_time = False
        self.deadline = np.inf
        if estimator.max_time is not None:
            self.deadline = now() + estimator.max_time
        self.n_runs = 0
        self.n_announced = n_runs
        self.history: list[dict[str, Any]] = []
        self.root = estimator._init_callback_context(max_subtasks=n_runs)
        self.root.call_on_fit_task_begin(**self._task(problem))

    @property
    def stopped(self) -> bool:
        """Whether no further starts are wanted."""
        return self.asked_to_stop or self.out_of_time

    def _task(self, problem: Problem) -> dict[str, Any]:
        return {"estimator": self.estimator, "X": problem.X, "y": problem.y}

    def __call__(
        self, problem: Problem, name: str, make_state: Callable[[], State]
    ) -> EMResult:
        """Run EM from one start."""
        results: list[EMResult] = []

        def train(watch: Watch) -> list[EMResult]:
            results.append(run(problem, make_state(), watch))
            return results

        self._run(problem, name, problem.max_iter, train)
        return results[0]

    def race(
        self, problem: Problem, n_pass: int, train: Callable[[Watch], list[Record]]
    ) -> None:
        """Let starts race: one task, however many they are."""
        self._run(problem, "race", n_pass, train)

    def _run(
        self,
        problem: Problem,
        name: str,
        n_pass: int,
        train: Callable[[Watch], Sequence[Record]],
    ) -> None:
        self.n_runs += 1
        start = self.root.subcontext(task_name="start", max_subtasks=n_pass)
        start.call_on_fit_task_begin(**self._task(problem))

        def open_pass() -> Callable[[PassInfo, Callable[[], State]], bool]:
            task = start.subcontext(task_name="pass")
            task.call_on_fit_task_begin(**self._task(problem))

            def close_pass(info: PassInfo, state: Callable[[], State]) -> bool:
                self._tell_pass(problem, name, info)
                stop = task.call_on_fit_task_end(
                    **self._task(problem),
                    reconstruction_attributes=lambda: self.attributes(problem, state()),
                )
                self.out_of_time = now() >= self.deadline
                return bool(stop) or self.out_of_time

            return close_pass

        for record in train(open_pass):
            self._tell_run(name, record)
            self.history.append(_told(name, problem, record))
        stop = start.call_on_fit_task_end(**self._task(problem))
        self.asked_to_stop = self.asked_to_stop or bool(stop)

    def close(self) -> None:
        """Tell the callbacks that fit has ended."""
        self.root.call_on_fit_task_end(**self._task(self.problem))

    def _head(self, name: str) -> str:
        """Return the beginning of a line about the run."""
        which = f"start {self.n_runs} of {self.n_announced} ({name})"
        return f"[{type(self.estimator).__name__}] {which}"

    def _tell_pass(self, problem: Problem, name: str, info: PassInfo) -> None:
        if self.estimator.verbose > 1:
            print(
                f"{self._head(name)} pass {info.n_pass:3d}  bound {info.bound: .6f}  "
                f"gain {info.gain:.1e}  experts updated "
                f"{info.experts_accepted}/{problem.n_experts}"
            )

    def _tell_run(self, name: str, result: Record) -> None:
        if self.estimator.verbose:
            print(
                f"{self._head(name)}: bound {result.bound:.6f}, passes {result.n_iter}"
            )


def _told(name: str, problem: Problem, result: Record) -> dict[str, Any]:
    """Return what happened in the passes of a run."""
    passes = result.passes
    return {
        "start": name,
        "n_experts": problem.n_experts,
        "bounds": np.array([info.bound for info in passes]),
        "experts_accepted": np.array([info.experts_accepted for info in passes]),
        "gate_accepted": np.array([info.gate_accepted for info in passes]),
    }
