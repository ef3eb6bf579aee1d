"""What the benchmarks share: interleaved medians, the machine, tables, rooflines."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

PACKAGES = ("skmoe", "scikit-learn", "numpy", "scipy", "numba")


# -------------------------------------------------------------------- timing
@dataclass(frozen=True)
class Timing:
    """Median seconds of a call: on the clock, and of all threads of the process."""

    wall: float
    cpu: float


def interleaved(
    tasks: Mapping[str, Callable[[], Any]],
    repeat: int,
    *,
    at_least: float = 0.3,
    settle: float = 0.0,
    warm: bool = True,
) -> dict[str, Timing]:
    """Time tasks in turn, A B A B ..., so that all meet the same machine.

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
    warm : bool
        Whether each task is called once before the rounds.
    """
    if warm:
        for task in tasks.values():
            task()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in tasks}
    started, rounds = time.perf_counter(), 0
    while rounds < repeat or time.perf_counter() - started < at_least:
        for name, task in tasks.items():
            until = time.perf_counter() + settle
            while time.perf_counter() < until:
                task()
            cpu, wall = time.process_time(), time.perf_counter()
            task()
            wall = time.perf_counter() - wall
            taken[name].append((wall, time.process_time() - cpu))
        rounds += 1
    return {name: Timing(*np.median(pairs, axis=0)) for name, pairs in taken.items()}


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


# --------------------------------------------------------------------- output
def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table: first column to the left, the others to the right."""
    marks = ["---"] + ["---:"] * (len(header) - 1)
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def seconds(value: float) -> str:
    """Return a time with its unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def cells(timing: Timing, peer: Timing | None = None) -> list[str]:
    """Return wall and CPU seconds, and both in units of a peer's."""
    own = [seconds(timing.wall), seconds(timing.cpu)]
    if peer is None:
        return own
    return [*own, f"{timing.wall / peer.wall:.2f}", f"{timing.cpu / peer.cpu:.2f}"]


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def machine(*more: str) -> str:
    """Return the machine, the versions of the packages, and BLAS."""
    versions = []
    for package in (*PACKAGES, *more):
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    blas = sorted({f"{p['internal_api']}, {p['num_threads']} threads" for p in pools})
    return (
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, {', '.join(versions)}; "
        f"BLAS: {'; '.join(blas) or 'unknown'}."
    )


@dataclass
class Report:
    """Prints sections as they come, and keeps seconds by name for ``--json``."""

    json_path: str | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def section(self, title: str) -> None:
        print(f"\n## {title}\n", flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        print(table(header, rows), flush=True)

    def line(self, text: str) -> None:
        print(f"\n{text}", flush=True)

    def keep(self, prefix: str, times: Mapping[str, Timing]) -> None:
        """Keep the wall seconds of some tasks."""
        for name, timing in times.items():
            self.figures[f"{prefix}/{name}"] = float(timing.wall)

    def close(self, *packages: str) -> None:
        """Print the machine, and write the figures if they are wanted."""
        self.line(machine(*packages))
        if self.json_path:
            Path(self.json_path).write_text(json.dumps(self.figures, indent=1) + "\n")


def parser(
    description: str | None, parts: Mapping[str, Any]
) -> argparse.ArgumentParser:
    """Return a parser with the options that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--repeat", type=int, default=7, help="rounds, at least")
    made.add_argument("--quick", action="store_true", help="small sizes")
    made.add_argument("--json", metavar="FILE", help="write seconds by name")
    made.add_argument(
        "--only", default=",".join(parts), help=f"parts, by commas: {', '.join(parts)}"
    )
    return made


def run_parts(
    args: argparse.Namespace, parts: Mapping[str, Callable], *packages: str
) -> None:
    """Run the parts that were asked for: each is called with (report, args)."""
    report = Report(args.json)
    names = [name for name in args.only.split(",") if name]
    unknown = sorted(set(names) - set(parts))
    if unknown:
        raise SystemExit(f"unknown parts {unknown}; known are {', '.join(parts)}")
    for name in names:
        parts[name](report, args)
    report.close(*packages)
