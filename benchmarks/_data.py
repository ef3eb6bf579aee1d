"""The tables of the benchmarks: public sets, folds of them, and generated rows.

Public sets come from the folder that the environment variable SKMOE_DATA names. Its
``load.py`` has three functions: ``names()``; ``info(name)``, a dict with the task and
the number of rows of a set; and ``load(name)``, which returns a data frame (or a CSR
matrix), the targets, and that dict, which may hold published splits.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import _safe_indexing

LOG_TARGETS = {"diamonds", "ames", "california_mixed"}
"""Sets of which the logarithm of y is predicted."""

TASKS = {"regression", "classification"}
LEFT_OUT = {"multi-output", "tiny"}
"""Groups of sets that no benchmark of quality uses."""

SPARSE_LAYOUTS = {"csr", "text"}
N_SPLITS = 5
MIN_FREQUENCY = 20
"""Categories of fewer rows are joined."""


# ----------------------------------------------------------------- public sets
def folder_of(variable: str, file: str) -> Path:
    """Return the folder that an environment variable names, or exit with the reason."""
    text = os.environ.get(variable)
    if not text:
        raise SystemExit(f"Set {variable} to the folder that holds {file}.")
    folder = Path(text)
    if not (folder / file).is_file():
        raise SystemExit(f"{variable}={text} holds no {file}.")
    return folder


@cache
def _module() -> ModuleType:
    """Return ``load.py`` of the data folder as a module."""
    sys.path.insert(0, str(folder_of("SKMOE_DATA", "load.py")))
    sys.dont_write_bytecode = True
    return importlib.import_module("load")


def load(name: str) -> tuple[Any, np.ndarray, dict[str, Any]]:
    """Return rows, targets and facts of a public set."""
    return _module().load(name)


def info(name: str) -> dict[str, Any]:
    """Return the facts of a public set: its task, the number of its rows, and so on."""
    return _module().info(name)


def known_sets() -> dict[str, dict[str, Any]]:
    """Return the facts of the sets of one target by name, small sets first."""
    facts = {name: info(name) for name in _module().names()}
    return {
        name: meta
        for name, meta in sorted(facts.items(), key=lambda item: item[1]["n"])
        if meta["task"] in TASKS and not LEFT_OUT & set(meta.get("groups", []))
    }


def is_sparse(meta: dict[str, Any]) -> bool:
    """Return whether the columns of a set become a sparse matrix."""
    return meta.get("layout") in SPARSE_LAYOUTS


# --------------------------------------------------------------- preprocessing
def preprocessing(X):
    """Return the transformer that stands before every model.

    Numbers are standardised, missing ones replaced by the median; categories are
    one-hot, rare ones joined; counts of words become tf-idf.
    """
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


def encoder(X, meta: dict[str, Any]):
    """Return the transformer of a set, whose column may also be text."""
    if meta.get("layout") == "text":
        words = TfidfVectorizer(min_df=3, sublinear_tf=True)
        return make_column_transformer((words, "text"))
    return preprocessing(X)


def target(name: str, task: str, y: np.ndarray) -> np.ndarray:
    """Return y as it is to be predicted, before it is standardised."""
    if task == "classification":
        return np.unique(y, return_inverse=True)[1]
    return np.log(y) if name in LOG_TARGETS else y.astype(np.float64)


# ----------------------------------------------------------------------- folds
@dataclass(frozen=True)
class Fold:
    """The rows of one measurement, preprocessed; classes are 0, 1, ..."""

    task: str
    n_classes: int
    X_train: Any
    y_train: np.ndarray
    X_test: Any
    y_test: np.ndarray


def fold_of(X, y: np.ndarray, meta: dict[str, Any], train, test) -> Fold:
    """Return preprocessed rows; y of regression is in units of its training sd."""
    before = encoder(X, meta)
    X_train = before.fit_transform(_safe_indexing(X, train)).astype(np.float64)
    X_test = before.transform(_safe_indexing(X, test)).astype(np.float64)
    task = meta["task"]
    n_classes = int(y.max()) + 1 if task == "classification" else 0
    if task == "regression":
        y = (y - y[train].mean()) / y[train].std()
    return Fold(task, n_classes, X_train, y[train], X_test, y[test])


def read_split(name: str, splitter, number: int = 0, rows: int | None = None) -> Fold:
    """Return one split of a set, of at most so many rows drawn at random."""
    X, y, meta = load(name)
    y = target(name, meta["task"], y)
    if rows is not None:
        drawn = np.random.default_rng(0).permutation(len(y))[:rows]
        X, y = _safe_indexing(X, drawn), y[drawn]
    splits = splitter.split(np.zeros(len(y)), y)
    train, test = next(itertools.islice(splits, number, None))
    return fold_of(X, y, meta, train, test)


def folds(task: str, n_splits: int):
    """Return the splitter of a task."""
    splitter = KFold if task == "regression" else StratifiedKFold
    return splitter(n_splits, shuffle=True, random_state=0)


def read_fold(name: str, number: int, rows: int) -> Fold:
    """Return one of five folds of at most so many rows of a set."""
    return read_split(name, folds(info(name)["task"], N_SPLITS), number, rows)


# -------------------------------------------------------------- generated rows
def hinge(n_rows: int, n_features: int, dtype=np.float64) -> tuple:
    """Return rows and y = |x0| + x1, which two linear experts can learn."""
    X = np.random.default_rng(0).standard_normal((n_rows, n_features), dtype=dtype)
    y = np.abs(X[:, 0])
    y += X[:, 1]
    return X, y


def linear_classes(X: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the class of each row whose random linear score is the largest."""
    coef = np.random.default_rng(n_classes).standard_normal((X.shape[1], n_classes))
    return (X @ coef).argmax(axis=1)
