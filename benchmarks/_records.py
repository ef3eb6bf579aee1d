"""What the benchmarks write and read: files of results, tables in Markdown, options.

Two kinds of scripts share this module. Those that time calls have *parts*, which print
their tables as they come (`parser`, `run_parts`, `Report`). Those that fit many models
have *jobs*: every job is a line of a JSON-lines file, and what the file holds is not
measured again (`run_jobs`, `read_lines`).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from _data import folder_of
from _timing import Timing
from threadpoolctl import threadpool_info

PACKAGES = ("skmoe", "scikit-learn", "numpy", "scipy", "numba")


# --------------------------------------------------------------------- tables
def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
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


# -------------------------------------------------------------------- machine
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


# ---------------------------------------------------------------------- parts
@dataclass
class Report:
    """Prints sections as they come, and keeps seconds by name for ``--json``."""

    json_path: str | None = None
    figures: dict[str, float] = field(default_factory=dict)

    def section(self, title: str) -> None:
        print(f"\n## {title}\n", flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
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


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of the script, as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def parser(description: str | None, parts: Iterable[str]) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts of parts have."""
    options = plain_parser(description)
    options.add_argument("--repeat", type=int, default=7, help="rounds, at least")
    options.add_argument("--quick", action="store_true", help="use small sizes")
    options.add_argument("--json", metavar="FILE", help="write seconds by name")
    names = ", ".join(parts)
    options.add_argument("--only", help=f"parts, separated by commas: {names}")
    return options


def run_parts(
    args: argparse.Namespace,
    parts: Mapping[str, Callable[[Report, argparse.Namespace], None]],
    *packages: str,
    on_data: Container[str] = (),
) -> None:
    """Run the parts that ``--only`` names, all by default.

    Parts in ``on_data`` read the folder named by SKMOE_DATA. Where it is unset, the
    script exits before it measures anything.
    """
    names = chosen(args.only, parts)
    if any(name in on_data for name in names):
        folder_of("SKMOE_DATA", "load.py")
    report = Report(args.json)
    for name in names:
        parts[name](report, args)
    report.close(*packages)


def chosen(text: str | None, known: Iterable[str]) -> list[str]:
    """Return the known names that a list by commas asks for, all by default."""
    asked = set(known) if text is None else set(filter(None, text.split(",")))
    if unknown := sorted(asked - set(known)):
        raise SystemExit(f"unknown {unknown}; known are {', '.join(known)}")
    return [name for name in known if name in asked]


# ----------------------------------------------------------------------- jobs
def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file of results, none if it is not there."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(text) for text in lines if text.strip()]


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Write one more record to a file of results."""
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps(record), file=file)


def missing(path: Path, jobs: Iterable[Any]) -> list[Any]:
    """Return the jobs (named tuples of one kind) that a file of results lacks."""
    jobs = list(jobs)
    if not jobs:
        return []
    fields = jobs[0]._fields
    done = {tuple(record.get(name) for name in fields) for record in read_lines(path)}
    return [job for job in jobs if job not in done]


def run_jobs(
    path: Path,
    jobs: Iterable[Any],
    measure: Callable[[Any], Mapping[str, Any]],
    at_most: float = np.inf,
) -> None:
    """Measure the jobs that the file lacks, and append a record of each.

    No job is started after ``at_most`` seconds.
    """
    todo, started = missing(path, jobs), time.perf_counter()
    for place, job in enumerate(todo):
        if time.perf_counter() - started > at_most:
            print(f"{len(todo) - place} left", flush=True)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of passes, and of one-hot columns
            record = {**job._asdict(), **measure(job)}
        append_line(path, record)
        print(record, flush=True)
