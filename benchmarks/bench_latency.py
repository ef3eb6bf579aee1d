"""Time the prediction of one row and of a few, and the import.

A fitted `MoERegressor` and `MoEClassifier` (20 features, 8 experts, top_k=2) predict
1, 10, 100 and 1 000 rows, in turn with `LogisticRegression.predict_proba` on the same
rows; with scikit-learn's check for NaN and infinities, and without. The import of
skmoe is timed in fresh processes that have imported scikit-learn.

    python benchmarks/bench_latency.py [--only rows,import] [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import numpy as np
import sklearn
from _data import hinge, linear_classes
from _records import parser, run_parts, seconds
from _timing import interleaved
from sklearn.linear_model import LogisticRegression

from skmoe import MoEClassifier, MoERegressor

D, N_EXPERTS, N_CLASSES = 20, 8, 3
TARGET_ROW, TARGET_IMPORT = 1.5, 0.05
IMPORT = """
import json, sys, time
import sklearn
if {warm}:
    import sklearn.cluster, sklearn.linear_model, sklearn.tree, sklearn.model_selection
    import sklearn.preprocessing, sklearn.pipeline
started = time.perf_counter()
{statement}
elapsed = time.perf_counter() - started
print(json.dumps([elapsed, "numba" in sys.modules]))
"""


def models() -> dict:
    """Return the functions that predict, by name; the peer comes first."""
    X, y = hinge(4000, D)
    labels = linear_classes(X, N_CLASSES)
    options = {"n_experts": N_EXPERTS, "n_init": 1, "max_iter": 2, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        regressor = MoERegressor(**options).fit(X, y)
        classifier = MoEClassifier(**options).fit(X, labels)
    peer = LogisticRegression().fit(X, labels)
    return {
        "LogisticRegression.predict_proba": peer.predict_proba,
        "MoERegressor.predict": regressor.predict,
        "MoEClassifier.predict_proba": classifier.predict_proba,
    }


def bench_rows(report, args) -> None:
    report.section(f"Rows: d={D}, {N_EXPERTS} experts, top_k=2")
    calls_by_name, lines = models(), []
    peer = next(iter(calls_by_name))
    calls = 300 if args.quick else 3000
    for assume_finite in (False, True):
        for n in (1, 10, 100, 1000):
            X = np.random.RandomState(1).standard_normal((n, D))
            tasks = {name: (lambda f=f, X=X: f(X)) for name, f in calls_by_name.items()}
            with sklearn.config_context(assume_finite=assume_finite):
                times = interleaved(tasks, max(args.repeat, calls))
            report.keep(f"{n} rows, assume_finite={assume_finite}", times)
            for name in tasks:
                ratio = times[name].wall / times[peer].wall
                target = f"≤ {TARGET_ROW}" if n == 1 and name != peer else ""
                time = seconds(times[name].wall)
                lines.append([n, assume_finite, name, time, f"{ratio:.2f}", target])
    report.table(
        ["rows", "assume_finite", "call", "median", "ratio to the peer", "target"],
        lines,
    )


def bench_import(report, args) -> None:
    report.section("Import of skmoe in a fresh process")
    lines = []
    for statement in ("import skmoe", "from skmoe import MoERegressor"):
        for warm in (False, True):
            timings, numba = [], False
            for _ in range(args.repeat):
                script = IMPORT.format(warm=warm, statement=statement)
                code = [sys.executable, "-c", script]
                out = subprocess.run(code, check=True, capture_output=True, text=True)
                one, numba = json.loads(out.stdout)
                timings.append(one)
            beyond = "the parts of sklearn that it uses" if warm else "import sklearn"
            time, target = float(np.median(timings)), f"≤ {seconds(TARGET_IMPORT)}"
            target = "" if "from" in statement else target
            report.figures[f"{statement} beyond {beyond}"] = time
            loaded = "yes" if numba else "no"
            lines.append([statement, beyond, seconds(time), target, loaded])
    report.table(["statement", "beyond", "median", "target", "Numba imported"], lines)


PARTS = {"rows": bench_rows, "import": bench_import}

if __name__ == "__main__":
    run_parts(parser(__doc__, PARTS).parse_args(), PARTS)
