"""How the benchmarks measure time: one call, medians of tasks in turn, and rooflines.

Times are in seconds: wall time on the clock, and CPU time of all threads together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: on the clock, and of all threads of the process."""

    wall: float
    cpu: float


def clocked(function: Callable, *args: Any, settle: float = 0.1) -> tuple[Any, Timing]:
    """Call a function once with these arguments; return its answer and its seconds.

    The call waits for ``settle`` seconds first: threads of BLAS spin for a while after
    a product, and would be counted.
    """
    time.sleep(settle)
    cpu, wall = time.process_time(), time.perf_counter()
    answer = function(*args)
    wall = time.perf_counter() - wall
    return answer, Timing(wall, time.process_time() - cpu)


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    repeat: int,
    *,
    at_least: float = 0.3,
    settle: float = 0.0,
) -> dict[str, Timing]:
    """Return the median seconds of tasks that run in turn, A B A B ...

    All tasks meet the same machine in this way. Each is called once before the rounds.

    Parameters
    ----------
    tasks : mapping of name to function without arguments
    repeat : int
        Rounds, at least.
    at_least : float
        Seconds of rounds, at least: short tasks get more rounds.
    settle : float
        Seconds that a task is called before its timed call. Threads of BLAS spin for
        a while after a product; this keeps them out of the next task.
    """
    for task in tasks.values():
        task()
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    started, rounds = time.perf_counter(), 0
    while rounds < repeat or time.perf_counter() - started < at_least:
        for name, task in tasks.items():
            until = time.perf_counter() + settle
            while time.perf_counter() < until:
                task()
            _, timing = clocked(task, settle=0.0)
            pairs[name].append((timing.wall, timing.cpu))
        rounds += 1
    return {name: Timing(*np.median(own, axis=0)) for name, own in pairs.items()}


# ------------------------------------------------------------------- roofline
@dataclass(frozen=True)
class Roofline:
    """What the machine gives at a shape, measured in the same run.

    Attributes
    ----------
    gemm : float
        GFLOP/s of an (n, d) by (d, m) product into an array that exists.
    copy : float
        GB/s of a copy of the (n, d) array, bytes read and written.
    """

    gemm: float
    copy: float


def roofline(n: int, d: int, m: int, dtype: Any, repeat: int = 7) -> Roofline:
    """Measure the rates of a product and of a copy."""
    X, W = np.ones((n, d), dtype), np.ones((d, m), dtype)
    out, copy = np.empty((n, m), dtype), np.empty_like(X)
    times = interleaved(
        {
            "gemm": lambda: np.matmul(X, W, out=out),
            "copy": lambda: np.copyto(copy, X),
        },
        repeat,
    )
    return Roofline(
        gemm=2e-9 * n * d * m / times["gemm"].wall,
        copy=2e-9 * X.nbytes / times["copy"].wall,
    )
