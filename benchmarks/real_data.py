"""Compare mixtures of linear experts with one linear learner on real data.

Reads eight public sets with the ``load.py`` of the folder named by SKMOE_DATA; its
``load(name)`` returns a data frame or a CSR matrix, the targets, and a dict that may
hold published splits. On each set three models see the same preprocessed columns:
the single learner (Ridge or LogisticRegression), the mixture of eight of them with
every expert asked (``top_k=None``), and the mixture that asks two per row. Settings are
the same for all sets. The table gives the R² or the accuracy, and the mean
log-likelihood per row in nats, on the test rows and on the training rows, seconds of
fit, and microseconds per row of predict.

    SKMOE_DATA=path/to/data python benchmarks/real_data.py [--out docs/real_data.md]
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import platform
import shlex
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.compose import make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_info

from skmoe import MoEClassifier, MoERegressor

SETS = (
    "california_housing",
    "diamonds",
    "bike_sharing",
    "kin8nm",
    "adult",
    "letter",
    "phoneme",
    "newsgroups_w1000",
)
N_EXPERTS = 8
TEST_SIZE = 0.2
MIN_FREQUENCY = 20
REPEATS, SHORTEST = 7, 0.5
"""Predict is timed so many times, and until so many seconds have passed."""

HEADER = (
    "| set | train + test × columns | model | score | log-lik. | on training rows: "
    "score | log-lik. | fit s | predict µs per row |\n"
    "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)
NOTES = f"""\
Score is R² or accuracy. Log-lik. is the mean log p(y | x) per row in nats (the units of
natural logarithms); higher is better. For regression it is a density in units of y, so
compare only models of one set. For Ridge it is that of a normal law with the residual
standard deviation of the training rows. diamonds predicts the logarithm of the price.

Every model has the default settings of its library, except for
`LogisticRegression(max_iter=1000)`, `n_experts={N_EXPERTS}`, `top_k` and
`random_state`. Nothing is tuned by set. Numeric columns are standardised, and missing
values are replaced by the median. Categories are one-hot, and those rarer than
{MIN_FREQUENCY} rows are joined. Word counts become sparse tf-idf. The columns counted
are those after preprocessing; the times leave preprocessing out. Predict is the median
of at least {REPEATS} runs on all test rows, after one that warms up. A * marks a fit
that stopped at `max_iter`."""


def loader():
    """Return the load function of the data folder."""
    folder = os.environ.get("SKMOE_DATA")
    if not folder:
        sys.exit("Set SKMOE_DATA to the folder that holds load.py and the data sets.")
    if not (Path(folder) / "load.py").is_file():
        sys.exit(f"SKMOE_DATA={folder} holds no load.py.")
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    return importlib.import_module("load").load


def splits(n_rows: int, meta: dict, folds: int, seed: int) -> tuple[list, str]:
    """Return up to ``folds`` pairs (train rows, test rows), and where they are from.

    A published split comes first; the others are drawn at random, also where rows
    stand in time order.
    """
    if meta.get("splits"):
        name, published = next(iter(meta["splits"].items()))
        pairs = published[:folds]
        return pairs, f"published ({name}, {len(pairs)} of {len(published)})"
    drawn = [
        train_test_split(np.arange(n_rows), test_size=TEST_SIZE, random_state=seed + i)
        for i in range(folds)
    ]
    count = f", {folds} draws" if folds > 1 else ""
    return drawn, f"random, {1 - TEST_SIZE:.0%} train{count}"


def preprocessing(X):
    """Return the transformer that stands before every model."""
    if sparse.issparse(X):
        return TfidfTransformer(sublinear_tf=True)
    categories = X.select_dtypes("category").columns
    numbers = X.columns.difference(categories, sort=False)
    scale = StandardScaler()
    if X[numbers].isna().any(axis=None):
        scale = make_pipeline(SimpleImputer(strategy="median"), scale)
    onehot = OneHotEncoder(
        handle_unknown="ignore", min_frequency=MIN_FREQUENCY, sparse_output=False
    )
    return make_column_transformer((scale, list(numbers)), (onehot, list(categories)))


def models(task: str, seed: int) -> dict:
    """Return the models to compare by name."""
    if task == "regression":
        single, mixture = Ridge(), MoERegressor
    else:
        single, mixture = LogisticRegression(max_iter=1000), MoEClassifier
    options = {"n_experts": N_EXPERTS, "random_state": seed}
    return {
        type(single).__name__: single,
        "mixture, dense": mixture(top_k=None, **options),
        "mixture, top_k=2": mixture(top_k=2, **options),
    }


def log_likelihood(model, X, y, train) -> float:
    """Return the mean log p(y | x) per row."""
    if hasattr(model, "score_samples"):
        return float(np.mean(model.score_samples(X, y)))
    if is_classifier(model):
        log_proba = model.predict_log_proba(X)
        places = np.searchsorted(model.classes_, y)
        return float(np.mean(log_proba[np.arange(len(y)), places]))
    variance = np.mean((train[1] - model.predict(train[0])) ** 2)
    squares = (y - model.predict(X)) ** 2 / variance
    return float(-0.5 * np.mean(squares + np.log(2 * np.pi * variance)))


def predict_time(model, X) -> float:
    """Return the median microseconds per row of predict on all rows."""
    model.predict(X)
    seconds: list[float] = []
    while len(seconds) < REPEATS or sum(seconds) < SHORTEST:
        started = time.perf_counter()
        model.predict(X)
        seconds.append(time.perf_counter() - started)
    return 1e6 * float(np.median(seconds)) / X.shape[0]


def measure(model, train: tuple, test: tuple) -> dict:
    """Fit a model and return the numbers of its line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        started = time.perf_counter()
        model.fit(*train)
        fit = time.perf_counter() - started
    stopped = any(issubclass(w.category, ConvergenceWarning) for w in caught)
    return {
        "score": model.score(*test),
        "log_lik": log_likelihood(model, *test, train),
        "train_score": model.score(*train),
        "train_log_lik": log_likelihood(model, *train, train),
        "fit": fit,
        "predict": predict_time(model, test[0]),
        "stopped": stopped,
    }


def compare(name: str, load, folds: int, seed: int) -> tuple[list[str], str]:
    """Return the lines of one set, and what its split is."""
    X, y, meta = load(name)
    y = np.log(y) if name == "diamonds" else y
    pairs, origin = splits(X.shape[0], meta, folds, seed)
    rows: dict[str, list[dict]] = {}
    for train, test in pairs:
        take = (lambda i: X[i]) if sparse.issparse(X) else (lambda i: X.iloc[i])
        before = preprocessing(X)
        X_train = before.fit_transform(take(train))
        X_test = before.transform(take(test))
        for kind, model in models(meta["task"], seed).items():
            numbers = measure(model, (X_train, y[train]), (X_test, y[test]))
            rows.setdefault(kind, []).append(numbers)
    shape = f"{len(train)} + {len(test)} × {X_train.shape[1]}"
    lines = [line(name, shape, kind, found) for kind, found in rows.items()]
    return lines, origin


def line(name: str, shape: str, kind: str, found: list[dict]) -> str:
    """Return a line of the table: means over the splits, ± their deviation."""

    def cell(key: str, form: str) -> str:
        values = [numbers[key] for numbers in found]
        spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
        return f"{np.mean(values):{form}}{spread}"

    star = "*" if any(numbers["stopped"] for numbers in found) else ""
    return (
        f"| {name} | {shape} | {kind} | {cell('score', '.4f')} "
        f"| {cell('log_lik', '.4f')} | {cell('train_score', '.4f')} "
        f"| {cell('train_log_lik', '.4f')} | {cell('fit', '.2f')}{star} "
        f"| {cell('predict', '.2f')} |"
    )


def cpu_model() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def facts() -> str:
    """Return the machine and the versions."""
    packages = ("skmoe", "scikit-learn", "numpy", "scipy")
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    blas = ", ".join(
        sorted({f"{p['internal_api']} on {p['num_threads']} threads" for p in pools})
    )
    return (
        f"Machine: {cpu_model()}, {os.cpu_count()} cores, {platform.system()}; "
        f"Python {platform.python_version()}, {versions}; {blas or 'BLAS unknown'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", help="file to write the table to")
    parser.add_argument("--sets", default=",".join(SETS), help="names, by commas")
    parser.add_argument("--folds", type=int, default=1, help="splits to average over")
    parser.add_argument("--seed", type=int, default=0, help="of splits and models")
    args = parser.parse_args()
    load = loader()
    names = [name for name in args.sets.split(",") if name]
    unknown = sorted(set(names) - set(SETS))
    if unknown:
        parser.error(f"unknown sets {unknown}; known are {', '.join(SETS)}")
    if args.folds < 1:
        parser.error("--folds must be at least 1")

    table = HEADER.splitlines()
    print(HEADER, flush=True)
    origins: dict[str, list[str]] = {}
    for name in names:
        lines, origin = compare(name, load, args.folds, args.seed)
        origins.setdefault(origin, []).append(name)
        table += lines
        print("\n".join(lines), flush=True)
    split = "; ".join(f"{', '.join(who)}: {how}" for how, who in origins.items())
    if "bike_sharing" in names:
        split += ". bike_sharing is in time order: its random split says how well the "
        split += "rows between are filled in, not how well the future is predicted"
    shown = shlex.join(["python", "benchmarks/real_data.py", *sys.argv[1:]])
    command = f"    SKMOE_DATA=path/to/data {shown}"
    below = "\n\n".join([NOTES, f"Splits: {split}.", facts(), f"Command:\n\n{command}"])
    print(f"\n{below}")
    if args.out:
        title = "# Mixtures of linear experts on real data"
        text = "\n".join(table)
        Path(args.out).write_text(f"{title}\n\n{text}\n\n{below}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
