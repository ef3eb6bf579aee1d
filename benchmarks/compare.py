"""Compare two revisions of the library by one of the benchmarks.

Checks both out into temporary worktrees and runs the benchmark that stands beside
this file on each in turn, base head base head ..., in fresh processes. Prints the
medians of wall time, and exits with 1 if any figure is slower than the base by more
than both a share and a time.

    python benchmarks/compare.py bench_latency.py --base main --head HEAD -- --quick

What follows ``--`` goes to the benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from _records import machine, plain_parser, seconds, table

HERE = Path(__file__).resolve().parent


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yield a worktree of a revision, and remove it in the end."""
    git = ["git", "-C", str(HERE), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        quiet = {"check": True, "capture_output": True, "text": True}
        subprocess.run([*git, "add", "--detach", str(tree), revision], **quiet)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], **quiet)


def figures(script: Path, tree: Path, options: list[str]) -> dict[str, float]:
    """Run the benchmark on the library of a worktree; return seconds by name."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        subprocess.run(
            [sys.executable, str(script), "--json", str(out), *options],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(tree)},
        )
        return json.loads(out.read_text())


def main() -> int:
    parser = plain_parser(__doc__)
    parser.add_argument("script", help="name of the benchmark, as bench_latency.py")
    parser.add_argument("--base", required=True, help="revision to compare with")
    parser.add_argument("--head", default="HEAD", help="revision to judge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--relative", type=float, default=0.1, help="share of a loss")
    parser.add_argument("--absolute", type=float, default=1e-3, help="seconds of it")
    own, options = sys.argv[1:], []
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    args = parser.parse_args(own)
    script = HERE / args.script
    if not script.is_file():
        parser.error(f"no benchmark {args.script} in {HERE}")

    runs: dict[str, list[dict]] = {"base": [], "head": []}
    with checked_out(args.base) as base, checked_out(args.head) as head:
        trees = {"base": base, "head": head}
        for _ in range(args.rounds):
            for name, tree in trees.items():
                runs[name].append(figures(script, tree, options))

    lines, lost = [], False
    for name in runs["base"][0].keys() & runs["head"][0].keys():
        before, after = (
            float(np.median([one[name] for one in runs[side]]))
            for side in ("base", "head")
        )
        worse = after - before > max(args.absolute, args.relative * before)
        lost |= worse
        mark = "slower" if worse else ""
        row = [name, seconds(before), seconds(after), f"{after / before:.2f}", mark]
        lines.append(row)
    lines.sort(key=lambda line: -float(line[3]))
    print(table(["figure", "base", "head", "head / base", ""], lines))
    print(f"\n{args.base} to {args.head}, {args.rounds} rounds. {machine()}")
    return int(lost)


if __name__ == "__main__":
    sys.exit(main())
