"""What a fitted mixture predicts for rows, by its public methods and attributes."""

from __future__ import annotations

from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
)

from ..backends import namespace, to_host
from ..estimators import IdCodes, refuse_lazy
from ..experts import take_rows
from ..pipeline import split


def names_after(before: Pipeline | None, names: np.ndarray) -> np.ndarray | None:
    """Return the names of the features behind some steps; None if unknown."""
    if before is None:
        return names
    try:
        return np.asarray(before.get_feature_names_out(names), dtype=object)
    except (AttributeError, ValueError):
        return None


def rows_on_host(X: Any) -> Any:
    """Return rows as a data frame, a sparse matrix or an array of NumPy."""
    refuse_lazy(X, "X")
    if namespace(X) is not np:
        X = to_host(X)
    elif not hasattr(X, "columns") and not sparse.issparse(X):
        X = np.asarray(X)
    if len(X.shape) != 2:
        raise ValueError(f"X must be a table with 2 axes; got shape {tuple(X.shape)}.")
    return X


def numbered(n_features: int) -> np.ndarray:
    """Return names for features without names."""
    return np.array([f"x{j}" for j in range(n_features)], dtype=object)


def names_of(estimator: Any, X: Any) -> np.ndarray:
    """Return the names of the features that an estimator reads."""
    if hasattr(X, "columns"):
        return np.asarray(list(X.columns), dtype=object)
    names = getattr(estimator, "feature_names_in_", None)
    return numbered(np.shape(X)[1]) if names is None else names


class Reading:
    """A fitted mixture with rows: the predictions of its gate and experts.

    Parameters
    ----------
    estimator : MoEClassifier, MoERegressor or Pipeline
        A fitted mixture, or a Pipeline that ends in one.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows as ``estimator`` reads them.
    y : array-like or None, default=None
        Their targets.
    output : int, default=0
        Which output to read, if y has several.

    Attributes
    ----------
    mixture : MoEClassifier or MoERegressor
    X : array, sparse matrix or data frame
        Rows as the mixture reads them.
    y : (n_samples,) array or None
        Targets of that output.
    names : (n_features,) array of str
        Names of the mixture's features.
    """

    def __init__(self, estimator: Any, X: Any, y: Any = None, output: int = 0) -> None:
        before, self.mixture = split(estimator)
        X = rows_on_host(X)
        given = names_of(estimator, X)
        self.X = X if before is None else rows_on_host(before.transform(X))
        self.output = self._check_output(output)
        self.y = None if y is None else self._check_y(y)
        names = getattr(self.mixture, "feature_names_in_", None)
        if names is None:
            names = names_after(before, given)
        if names is None:
            names = numbered(self.mixture.n_features_in_)
        self.names = np.asarray(names, dtype=object)

    # -------------------------------------------------------------------- checks
    @property
    def classifies(self) -> bool:
        """Whether the mixture is a classifier."""
        return is_classifier(self.mixture)

    @cached_property
    def classes(self) -> np.ndarray:
        """The classes of a classifier; 0 and 1, if it has several labels."""
        return np.arange(2) if self.n_outputs > 1 else self.mixture.classes_

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.X.shape[0]

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return self.mixture.n_experts_

    @cached_property
    def n_outputs(self) -> int:
        """Number of outputs."""
        first = self.mixture.predict(take_rows(self.X, np.zeros(1, dtype=np.intp)))
        return 1 if np.ndim(first) == 1 else np.shape(first)[1]

    def _check_output(self, output: Any) -> int:
        if isinstance(output, Integral) and (
            output == 0 or 0 < output < self.n_outputs
        ):
            return int(output)
        raise ValueError(
            "output must be the position of an output, from 0 to "
            f"{self.n_outputs - 1}; got {output!r}."
        )

    def _check_y(self, y: Any) -> np.ndarray:
        y = np.asarray(to_host(y) if namespace(y) is not np else y)
        check_consistent_length(self.X, y)
        n_outputs = 1 if y.ndim == 1 else y.shape[1]
        if n_outputs != self.n_outputs:
            raise ValueError(
                f"y has {n_outputs} outputs, but the mixture was fitted with "
                f"{self.n_outputs}."
            )
        y = y if y.ndim == 1 else y[:, self.output]
        if self.classifies:
            unseen = np.setdiff1d(y, self.classes)
            if unseen.size:
                raise ValueError(
                    f"y holds classes that fit did not see: {unseen.tolist()}; known "
                    f"are {self.classes.tolist()}."
                )
        return y

    # ---------------------------------------------------------------------- gate
    def _own(self, found: Any) -> Any:
        """Return the answer of the output's own gate, if outputs have their own."""
        return found[self.output] if hasattr(self.mixture, "gates_") else found

    @cached_property
    def gate_proba(self) -> np.ndarray:
        """The gate's probabilities, (n_samples, n_experts)."""
        return np.asarray(self._own(self.mixture.gate_proba(self.X)))

    @cached_property
    def routing(self) -> sparse.csr_array:
        """The weights that predict uses, (n_samples, n_experts)."""
        return sparse.csr_array(self._own(self.mixture.route(self.X)))

    def rows_of(self, expert: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows that an expert serves, and its weight for each."""
        column = self.routing[:, [expert]].tocoo()
        return column.coords[0], column.data

    @property
    def gate(self) -> tuple[Pipeline | None, Any]:
        """The steps before the gate in its Pipeline, or None; and the gate."""
        gate = self.mixture.gate_
        if hasattr(self.mixture, "gates_"):
            gate = self.mixture.gates_[self.output]
        if not isinstance(gate, Pipeline):
            return None, gate
        return (gate[:-1] if len(gate.steps) > 1 else None), gate.steps[-1][1]

    # ------------------------------------------------------------------- experts
    @cached_property
    def X_expert(self) -> Any:
        """Rows as the experts read them: unchanged, if any expert is a Pipeline."""
        listed = self.mixture.expert
        listed = listed if isinstance(listed, (list, tuple)) else [listed]
        if any(isinstance(expert, Pipeline) for expert in listed):
            return self.X
        X = self.X
        ids = getattr(self.mixture, "group_ids_", None)
        if ids is not None:
            X = IdCodes(self.mixture.gate.columns, ids).coded(X)
        return check_array(
            X,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            ensure_all_finite=False,
        )

    @cached_property
    def shared(self) -> np.ndarray | float:
        """The predictions of a shared regressor, to which experts add theirs."""
        shared = getattr(self.mixture, "shared_expert_", None)
        if shared is None or self.classifies:
            return 0.0
        return self._one_output(shared.predict(self.X_expert))

    def said(self, expert: int) -> np.ndarray:
        """Return an expert's predictions for all rows: values or labels."""
        answer = np.asarray(self.mixture.experts_[expert].predict(self.X_expert))
        if self.classifies:
            return answer if answer.ndim == 1 else self._one_output(answer)
        return self._one_output(answer) + self.shared

    def proba(self, expert: int) -> np.ndarray:
        """Return an expert's probability of each of the mixture's classes."""
        model = self.mixture.experts_[expert]
        classes = self.classes
        known = np.asarray(model.predict_proba(self.X_expert))
        if self.n_outputs > 1:
            one = self._one_output(known)
            return np.stack([1.0 - one, one], axis=1)
        proba = np.zeros((known.shape[0], len(classes)))
        proba[:, np.searchsorted(classes, model.classes_)] = known
        return proba

    def _one_output(self, answer: Any) -> np.ndarray:
        answer = np.asarray(answer)
        return answer.reshape(answer.shape[0], -1)[:, self.output]

    @cached_property
    def scores(self) -> np.ndarray:
        """R² or accuracy of expert k on the rows of expert j, at [j, k].

        Rows count with their weight in the routing. NaN where an expert serves no
        rows, or a regressor fewer than two.
        """
        score, fewest = (accuracy_score, 1) if self.classifies else (r2_score, 2)
        served = [self.rows_of(j) for j in range(self.n_experts)]
        scores = np.full((self.n_experts, self.n_experts), np.nan)
        for k in range(self.n_experts):
            answers = self.said(k)
            for j, (rows, weight) in enumerate(served):
                if len(rows) >= fewest:
                    truth = self.y[rows]
                    answer = answers[rows]
                    scores[j, k] = score(truth, answer, sample_weight=weight)
        return scores


def numeric_columns(X: Any, names: np.ndarray) -> tuple[Any, np.ndarray]:
    """Return the numeric columns, as an array or CSR matrix, and their names."""
    if sparse.issparse(X):
        return X.tocsr(), names
    if not hasattr(X, "columns"):
        return np.asarray(X), names
    columns = {name: np.asarray(X[name]) for name in X.columns}
    columns = {name: c for name, c in columns.items() if c.dtype.kind in "biuf"}
    if not columns:
        raise ValueError("X must have a numeric column; it has none.")
    values = np.column_stack([c.astype(np.float64) for c in columns.values()])
    return values, np.array(list(columns), dtype=object)


def feature_position(feature: Any, names: np.ndarray) -> int:
    """Return the position of a feature given by name or by position."""
    positions = np.flatnonzero(names == feature) if isinstance(feature, str) else []
    if len(positions):
        return int(positions[0])
    if isinstance(feature, Integral) and 0 <= feature < len(names):
        return int(feature)
    shown = ", ".join(map(str, names[:10])) + (", ..." if len(names) > 10 else "")
    raise ValueError(
        f"feature must be a name or a position from 0 to {len(names) - 1}; got "
        f"{feature!r}. The features are {shown}."
    )


# ------------------------------------------------------------------ rows made up
def with_column(X: Any, j: int, values: Any) -> Any:
    """Return rows in which one column is replaced."""
    if not hasattr(X, "columns"):
        X = np.array(X, dtype=np.result_type(X, np.float32))
        X[:, j] = values
        return X
    name = X.columns[j]
    values = np.broadcast_to(values, len(X))
    if hasattr(X, "with_columns"):  # polars
        return X.with_columns(type(X[name])(name, values))
    return X.assign(**{name: values})


def typical(X: Any, n: int) -> Any:
    """Return n equal rows: medians of numbers, else the most frequent values."""
    rows = take_rows(X, np.zeros(n, dtype=np.intp))
    for j in range(X.shape[1]):
        column = column_of(X, j)
        if column.dtype.kind in "biuf":
            value = np.nanmedian(column.astype(float))
        else:
            _, first, count = np.unique(
                column.astype(str), return_index=True, return_counts=True
            )
            value = column[first[np.argmax(count)]]
        rows = with_column(rows, j, value)
    return rows


def column_of(X: Any, j: int) -> np.ndarray:
    """Return a column."""
    return np.asarray(X[X.columns[j]] if hasattr(X, "columns") else X[:, j])


def span(X: Any, j: int, n_values: int) -> np.ndarray:
    """Return values from the least to the largest of a column."""
    if sparse.issparse(X):
        raise TypeError(
            "X must be dense; got a sparse matrix. Pass some of its rows, X.toarray()."
        )
    column = column_of(X, j)
    if column.dtype.kind not in "biuf":
        name = X.columns[j] if hasattr(X, "columns") else j
        raise ValueError(f"feature must hold numbers; {name!r} does not.")
    column = column.astype(float)
    return np.linspace(np.nanmin(column), np.nanmax(column), n_values)
