"""Measure the peak memory of a large sparse fit and predict, beyond the data.

One process a start: it makes the data (rows, 20 columns, float32), fits a small
mixture first so that libraries and compiled kernels are in memory, then fits 1 024
linear experts at top_k=2 for one pass with a cheap gate, and predicts. The peak is
the kernel's own high-water mark, set back before fit and before predict; what stood
in memory before is taken off. Linux only.

    python benchmarks/bench_memory.py [--rows 1000000] [--starts tree,random]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _timing import parser, run_parts, seconds

from skmoe import MoERegressor
from skmoe.em import PORTFOLIO
from skmoe.gates import SoftmaxGate

D, GIB, TARGET = 20, float(1 << 30), 1.0
STATUS = Path("/proc/self/status")


def memory(field: str) -> int:
    """Return bytes: VmRSS is now, VmHWM the most since `forget_peak`."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(field):
            return 1024 * int(line.split()[1])
    raise OSError(f"no {field} in {STATUS}")


def forget_peak() -> None:
    """Set the high-water mark back to what is in memory now."""
    Path("/proc/self/clear_refs").write_text("5")


def model(kind: str, n_experts: int) -> MoERegressor:
    return MoERegressor(
        n_experts=n_experts,
        top_k=2,
        gate=SoftmaxGate(max_iter=1, update_iter=1),
        init=kind,
        n_init=1,
        max_iter=1,
        random_state=0,
        backend="numba",
    )


def measure(kind: str, n: int, n_experts: int) -> dict[str, float]:
    """Return bytes and seconds of one start; runs in a process of its own."""
    warnings.simplefilter("ignore")
    random = np.random.default_rng(0)
    X = random.standard_normal((n, D), dtype=np.float32)
    y = np.abs(X[:, 0])
    y += X[:, 1]
    small = slice(0, min(n, 4000))
    model(kind, 8).fit(X[small], y[small]).predict(X[small])
    found = {"data": X.nbytes + y.nbytes, "library": memory("VmRSS")}
    found["library"] -= found["data"]
    mixture = model(kind, n_experts)
    for name, call in (
        ("fit", lambda: mixture.fit(X, y)),
        ("predict", lambda: mixture.predict(X)),
    ):
        forget_peak()
        before, started = memory("VmRSS"), time.perf_counter()
        call()
        found[f"{name} seconds"] = time.perf_counter() - started
        found[name] = memory("VmHWM") - before
    return found


def bench_memory(report, args) -> None:
    report.section(
        f"Peak memory: n={args.rows}, d={D}, {args.experts} linear experts, top_k=2, "
        "float32"
    )
    lines = []
    for kind in args.starts.split(","):
        code = [sys.executable, __file__, "--child", kind]
        code += ["--rows", str(args.rows), "--experts", str(args.experts)]
        out = subprocess.run(code, check=True, capture_output=True, text=True)
        found = json.loads(out.stdout)
        for name in ("fit", "predict"):
            report.figures[f"{kind}/{name}"] = found[f"{name} seconds"]
        size = [f"{found[name] / GIB:.2f}" for name in ("fit", "predict")]
        times = [seconds(found[f"{name} seconds"]) for name in ("fit", "predict")]
        base = [f"{found[name] / GIB:.2f}" for name in ("data", "library")]
        a_row = f"{found['fit'] / args.rows:.0f}"
        lines.append([kind, *base, size[0], a_row, size[1], f"≤ {TARGET}", *times])
    peaks = ("fit beyond, GiB", "bytes per row", "predict beyond, GiB", "target")
    before = ("data, GiB", "libraries, GiB")
    report.table(["start", *before, *peaks, "fit", "predict"], lines)


PARTS = {"memory": bench_memory}


def main() -> None:
    options = parser(__doc__, PARTS)
    options.add_argument("--rows", type=int)
    options.add_argument("--experts", type=int, default=1024)
    options.add_argument("--starts", default=",".join(PORTFOLIO), help="by commas")
    options.add_argument("--child", help="measure this start here, and print it")
    args = options.parse_args()
    args.rows = args.rows or (20_000 if args.quick else 1_000_000)
    if unknown := set(args.starts.split(",")) - set(PORTFOLIO):
        options.error(f"unknown starts {sorted(unknown)}; known are {PORTFOLIO}")
    if args.child:
        print(json.dumps(measure(args.child, args.rows, args.experts)))
    else:
        run_parts(args, PARTS)


if __name__ == "__main__":
    main()
