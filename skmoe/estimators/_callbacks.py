"""Stages of training that callbacks, ``verbose`` and the clock watch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..em import EMResult, PassInfo, Problem, Record, State, Watch, run

now = time.monotonic
"""The clock of ``max_time``, in seconds."""


class Part:
    """A part of training that watchers see as a task; it may have parts itself.

    Parameters
    ----------
    runs : Watched
    task : CallbackContext
        The task, which has begun.
    """

    def __init__(self, runs: Watched, task: Any) -> None:
        self.runs = runs
        self.task = task
        self.asked_to_stop = False

    def over(self) -> bool:
        """Look at the clock, and tell whether the part is to end."""
        self.runs.look()
        return self.asked_to_stop or self.runs.out_of_time

    @contextmanager
    def part(self, name: str, n_parts: int = 0) -> Iterator[Part]:
        """Be a part of this one, with so many parts itself unless it is stopped."""
        task = self.task.subcontext(task_name=name, max_subtasks=n_parts)
        rows = self.runs.rows(self.runs.problem)
        task.call_on_fit_task_begin(**rows)
        yield Part(self.runs, task)
        stop = task.call_on_fit_task_end(**rows)
        self.asked_to_stop = self.asked_to_stop or bool(stop)


class Watched:
    """Train in stages, each a task of scikit-learn's callbacks.

    A stage runs EM from a start or lets starts race, or it is another part of training.

    Parameters
    ----------
    estimator : BaseMoE
    problem : Problem
        The problem of all rows.
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
        attributes: Callable[[Problem, State], dict[str, Any]],
    ) -> None:
        self.estimator = estimator
        self.problem = problem
        self.attributes = attributes
        self.out_of_time = False
        self.began = now()
        limit = estimator.max_time
        self.deadline = self.began + (np.inf if limit is None else limit)
        self.n_stages = 0
        self.n_announced = 0
        self.history: list[dict[str, Any]] = []
        self.root: Part

    @property
    def stopped(self) -> bool:
        """Whether no further starts are wanted."""
        return self.root.asked_to_stop or self.out_of_time

    def look(self) -> None:
        """Look at the clock, unless time is over already."""
        self.out_of_time = self.out_of_time or now() >= self.deadline

    def rows(self, problem: Problem) -> dict[str, Any]:
        """Return what callbacks get with every task."""
        return {"estimator": self.estimator, "X": problem.X, "y": problem.y}

    def announce(self, n_stages: int) -> None:
        """Say how many stages follow, unless training is stopped.

        Callbacks hear it the first time, when their task begins.
        """
        self.n_announced = self.n_stages + n_stages
        if self.n_stages == 0:
            begun = self.estimator._init_callback_context(max_subtasks=n_stages)
            begun.call_on_fit_task_begin(**self.rows(self.problem))
            self.root = Part(self, begun)

    @contextmanager
    def stage(self, name: str, n_parts: int = 0) -> Iterator[Part]:
        """Be a stage that is no run of EM, of so many parts unless it is stopped."""
        self.n_stages += 1
        with self.root.part(name, n_parts) as part:
            yield part
        self._tell_stage(name)

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
        """Let starts race: one stage, however many they are."""
        self._run(problem, "race", n_pass, train)

    def _run(
        self,
        problem: Problem,
        name: str,
        n_pass: int,
        train: Callable[[Watch], Sequence[Record]],
    ) -> None:
        self.n_stages += 1
        rows = self.rows(problem)
        with self.root.part("start", n_pass) as start:

            def open_pass() -> Callable[[PassInfo, Callable[[], State]], bool]:
                task = start.task.subcontext(task_name="pass")
                task.call_on_fit_task_begin(**rows)

                def close_pass(info: PassInfo, state: Callable[[], State]) -> bool:
                    self._tell_pass(problem, name, info)
                    stop = task.call_on_fit_task_end(
                        **rows,
                        reconstruction_attributes=lambda: self.attributes(
                            problem, state()
                        ),
                    )
                    self.look()
                    return bool(stop) or self.out_of_time

                return close_pass

            records = train(open_pass)
        self.history += [_told(name, problem, record) for record in records]
        best = max(records, key=lambda record: record.bound)
        self._tell_stage(name, f"bound {best.bound:.6f}, passes {best.n_iter}, ")

    def close(self) -> None:
        """Tell the callbacks that fit has ended."""
        self.root.task.call_on_fit_task_end(**self.rows(self.problem))

    def _head(self, name: str) -> str:
        """Return the beginning of a line about a stage."""
        which = f"stage {self.n_stages} of {self.n_announced} ({name})"
        return f"[{type(self.estimator).__name__}] {which}"

    def _tell_pass(self, problem: Problem, name: str, info: PassInfo) -> None:
        if self.estimator.verbose > 1:
            print(
                f"{self._head(name)} pass {info.n_pass:3d}  bound {info.bound: .6f}  "
                f"gain {info.gain:.1e}  experts updated "
                f"{info.experts_accepted}/{problem.n_experts}"
            )

    def _tell_stage(self, name: str, outcome: str = "") -> None:
        if not self.estimator.verbose:
            return
        time_is = now()
        left = ""
        if np.isfinite(self.deadline):
            left = f", {max(0.0, self.deadline - time_is):.1f} s left"
        print(f"{self._head(name)}: {outcome}{time_is - self.began:.1f} s{left}")


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
