"""Lazy answers of fitted estimators for Dask collections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from ..estimators import MoEClassifier, MoERegressor, MoETransformer
from ..experts import CoefficientPool
from ._refused import refuse_groups
from ._table import check_categories, is_collection, like_chunks

METHODS = {
    "predict",
    "predict_proba",
    "predict_log_proba",
    "decision_function",
    "score_samples",
    "predict_quantiles",
    "gate_proba",
    "transform",
}
"""Methods that answer row by row in one array."""


def predict(model: Any, X: Any, method: str = "predict", y: Any = None, **options: Any):
    """Ask a fitted estimator about the rows of a Dask collection, lazily.

    Parameters
    ----------
    model : estimator
        A fitted `MoERegressor`, `MoEClassifier`, `MoETransformer` or one of
        `skmoe.dask`, or a fitted Pipeline or search, such as GridSearchCV, that ends in
        one. It enters the graph once.
    X : Dask Array or DataFrame of shape (n_samples, n_features)
        Rows. Columns in several chunks are put together; chunks of rows stay, and may
        be unknown.
    method : str, default="predict"
        What to ask: "predict", "predict_proba", "predict_log_proba",
        "decision_function", "score_samples", "predict_quantiles", "gate_proba" or
        "transform".
    y : Dask collection, default=None
        Targets, for "score_samples", in the partitions of X.
    **options : dict
        Further arguments of the method, such as ``return_std=True``.

    Returns
    -------
    Dask Array, Series or DataFrame
        For an Array an Array with the same chunks of rows. For a DataFrame a Series
        "prediction" or a DataFrame, with the index and divisions of X. A pair of these
        with ``return_std=True``.

    Raises
    ------
    TypeError
        If X is no Dask collection, or the model none of these.
    ValueError
        If the model has no such method, a column of X has unknown categories, or y has
        other partitions.

    Notes
    -----
    Each partition is answered as the model answers it in memory. Nothing is asked while
    the graph is built. Answers to float32 rows come as float64 where a Pipeline or a
    learner may compute them so.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.dask import predict
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, np.abs(X[:, 0]))
    >>> rows = da.from_array(X, chunks=(50, 1))
    >>> answer = predict(model, rows)
    >>> answer.chunks
    ((50, 50, 50, 50),)
    >>> bool(np.array_equal(answer.compute(), model.predict(X)))
    True
    """
    _check_rows(model, X, method)
    refuse_groups(options.get("groups"))
    last = _last_step(model)
    if method not in METHODS or not hasattr(last, method):
        can = sorted(name for name in METHODS if hasattr(last, name))
        raise ValueError(f"method must be one of {can}; got {method!r}.")
    check_is_fitted(last)
    check_categories(X)
    answer = Answer.of(model, X, method, options)
    ask = Ask(method, options, answer)
    found = answer.lazily(ask, model, X, _beside(y, X))
    if not options.get("return_std"):
        return found
    if not answer.framed:
        return found[:, 0], found[:, 1]
    half = len(answer.columns) // 2
    mean, std = answer.columns[:half], answer.columns[half:]
    return (found[mean[0]], found[std[0]]) if half == 1 else (found[mean], found[std])


@dataclass(frozen=True)
class Answer:
    """The form of an answer, known before a row is asked about.

    Attributes
    ----------
    columns : list
        Names of its columns.
    flat : bool
        Whether it is one number or label per row.
    dtype : dtype
    framed : bool
        Whether X is a DataFrame.
    shape : tuple of int
        Axes after that of the rows.
    """

    columns: list[Any]
    flat: bool
    dtype: Any
    framed: bool
    shape: tuple[int, ...]

    @classmethod
    def of(cls, model: Any, X: Any, method: str, options: dict[str, Any]) -> Answer:
        """Return the form that a method answers in."""
        last = _last_step(model)
        framed = hasattr(X, "divisions")
        names = _names(last, method)
        shape: tuple[int, ...] = () if names is None else (len(names),)
        columns = names or ["prediction"]
        if method == "predict_quantiles":
            levels = np.atleast_1d(options["quantiles"]).tolist()
            shape = (len(levels), *shape)
            columns = [
                level if names is None else f"{name}_{level}"
                for level in levels
                for name in columns
            ]
        flat = not shape
        if options.get("return_std"):
            columns = [*columns, *(f"std{name[10:]}" for name in columns)]
            flat, shape = False, (2, *shape)
        dtype = _dtype(last, method, _float_of(X, framed, last is model))
        return cls(columns, flat, dtype, framed, shape)

    def in_frame(self, values: np.ndarray, index: Any) -> Any:
        """Return values of the rows as a Series or a DataFrame of pandas."""
        import pandas

        if self.flat:
            return pandas.Series(values, index=index, name="prediction")
        table = values.reshape(len(values), len(self.columns))
        return pandas.DataFrame(table, columns=self.columns, index=index)

    def lazily(self, ask: Ask, model: Any, X: Any, y: Any) -> Any:
        """Return the answer as a collection."""
        from dask import delayed

        sent = delayed(model, pure=False)
        if self.framed:
            others = () if y is None else (y,)
            index = X._meta.index[:0]
            meta = self.in_frame(np.empty((0, *self.shape), self.dtype), index)
            return X.map_partitions(ask.of_frame, sent, *others, meta=meta)
        import dask.array as da

        if len(X.chunks[1]) > 1:
            X = X.rechunk({1: -1})
        y = None if y is None else y[:, None] if y.ndim == 1 else y
        arrays = [X] if y is None else [X, y]
        new = list(range(1, 1 + len(self.shape)))
        return da.map_blocks(
            ask.of_array,
            *arrays,
            model=sent,
            dtype=self.dtype,
            drop_axis=[1],
            new_axis=new or None,
            chunks=(X.chunks[0], *((size,) for size in self.shape)),
            meta=np.empty((0,) * (1 + len(self.shape)), self.dtype),
        )


@dataclass(frozen=True)
class Ask:
    """A question to the model about the rows of a partition."""

    method: str
    options: dict[str, Any]
    answer: Answer

    def of_array(self, X: Any, y: Any = None, model: Any = None) -> np.ndarray:
        """Answer for the block of an array."""
        if not X.shape[0]:
            return np.empty((0, *self.answer.shape), self.answer.dtype)
        others = () if y is None else (y[:, 0] if y.shape[1] == 1 else y,)
        found = getattr(model, self.method)(X, *others, **self.options)
        if isinstance(found, tuple):
            found = np.stack(found, axis=1)
        found = found.toarray() if hasattr(found, "toarray") else np.asarray(found)
        return found.astype(self.answer.dtype, copy=False)

    def of_frame(self, X: Any, model: Any, y: Any = None) -> Any:
        """Answer for the partition of a frame."""
        target = None if y is None else np.asarray(y)
        if target is not None and target.ndim == 1:
            target = target[:, None]
        if not len(X):
            found = np.empty((0, *self.answer.shape), self.answer.dtype)
        else:
            found = self.of_array(X, target, model)
        return self.answer.in_frame(found, X.index)


def lazy(ask: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that answers lazily about Dask collections, else as it did."""
    import functools

    @functools.wraps(ask)
    def method(self, X, *args, **kwargs):
        if not is_collection(X):
            return ask(self, X, *args, **kwargs)
        import inspect

        bound = inspect.signature(ask).bind(self, X, *args, **kwargs)
        options = dict(list(bound.arguments.items())[2:])
        return predict(self.to_local(), X, ask.__name__, **options)

    return method


def _check_rows(model: Any, X: Any, method: str) -> None:
    """Raise unless X is a Dask Array of two axes or a DataFrame."""
    if not is_collection(X) or not hasattr(X, "ndim"):
        raise TypeError(
            f"X must be a Dask Array or DataFrame; got {type(X).__name__}. Ask the "
            f"model itself: model.{method}(X)."
        )
    if X.ndim != 2:
        raise ValueError(f"X must have two axes, rows and columns; got {X.ndim}.")


def _last_step(model: Any) -> Any:
    """Return the mixture that answers: the last step of a Pipeline, the best found."""
    if hasattr(model, "steps"):
        return _last_step(model.steps[-1][1])
    if hasattr(model, "best_estimator_"):
        return _last_step(model.best_estimator_)
    if isinstance(model, (MoERegressor, MoEClassifier, MoETransformer)):
        return model
    raise TypeError(
        "model must be a fitted estimator of skmoe, or a Pipeline or search that ends "
        f"in one; got {type(model).__name__}."
    )


def _beside(y: Any, X: Any) -> Any:
    """Return targets whose partitions are those of X; raise if they are not."""
    if y is None:
        return None
    framed = hasattr(X, "divisions")
    if not is_collection(y) or hasattr(y, "divisions") != framed:
        kind = "Series or DataFrame" if framed else "Array"
        raise TypeError(
            f"y must be a Dask {kind}, as X is one of Dask; got {type(y).__name__}."
        )
    if framed:
        same = y.npartitions == X.npartitions and y.divisions == X.divisions
    else:
        y = like_chunks(y, X)
        y = y.rechunk({1: -1}) if y.ndim == 2 else y
        sizes = y.chunks[0], X.chunks[0]
        same = np.array_equal(*(np.array(each) for each in sizes), equal_nan=True)
    if not same:
        raise ValueError("y and X must have the same partitions, of the same rows.")
    return y


def _names(model: Any, method: str) -> list[Any] | None:
    """Return the names of the columns of an answer; None if it has but one value."""
    if method == "transform":
        return list(model.get_feature_names_out())
    if method == "gate_proba":
        if hasattr(model, "gates_") and len(model.gates_) > 1:
            raise ValueError(
                "gate_proba answers with an array per output where each output has a "
                "gate of its own. Use skmoe.MoETransformer."
            )
        return [f"expert{k}" for k in range(model.n_experts_)]
    if method == "score_samples":
        return None
    if not hasattr(model, "classes_"):
        n_outputs = model._n_outputs
        return _numbered(n_outputs) if n_outputs > 1 else None
    multilabel = getattr(model, "_multilabel", False)
    if method == "predict":
        return _numbered(len(model.classes_)) if multilabel else None
    if method == "decision_function" and len(model.classes_) == 2 and not multilabel:
        return None
    return list(model.classes_)


def _numbered(n: int) -> list[str]:
    return [f"prediction{j}" for j in range(n)]


def _dtype(model: Any, method: str, dtype: np.dtype) -> np.dtype:
    """Return the dtype of an answer to rows that are read as dtype."""
    if method == "predict" and hasattr(model, "classes_"):
        labels = model.classes_.dtype
        return np.dtype(int) if getattr(model, "_multilabel", False) else labels
    if method in ("gate_proba", "transform"):
        return dtype
    if not isinstance(model._pool, CoefficientPool):
        return np.dtype(np.float64)
    if method in ("predict", "predict_quantiles"):
        return np.result_type(dtype, model._origin)
    return dtype


def _float_of(X: Any, framed: bool, directly: bool) -> np.dtype:
    """Return the dtype of numbers that the rows are read as.

    It is float64 wherever steps of a Pipeline may turn float32 into float64.
    """
    dtypes = list(X.dtypes) if framed else [X.dtype]
    known = directly and all(isinstance(dtype, np.dtype) for dtype in dtypes)
    single = known and np.result_type(*dtypes) == np.float32
    return np.dtype(np.float32 if single else np.float64)
