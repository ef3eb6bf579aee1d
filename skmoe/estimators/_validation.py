"""What reaches the parts of a mixture, checked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from scipy import sparse
from sklearn import get_config  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import check_array, check_consistent_length

from .._caller import level_of_caller
from .._frames import blank, categories, remedy
from .._learners import thawed, weight_unit
from .._sklearn_compat import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    _num_samples,
)
from ..backends import Array, like, namespace, to_device, to_host, using
from ..experts import take_rows
from ..gates import BaseGate
from . import _parts as parts
from ._columns import encoder, reads_numbers_only
from ._ids import IdCodes


def on_host(array: Any) -> Any:
    """Return an array of another library as NumPy; all else is left as it is."""
    return array if namespace(array) is np else to_host(array)


def given(array: Any, name: str) -> Any:
    """Return what a caller gave, on the host, unless its rows are not there yet."""
    refuse_lazy(array, name)
    return on_host(array)


@contextmanager
def about(name: str) -> Iterator[None]:
    """Let errors inside name the argument that they are about."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if re.search(rf"\b{name}\b", str(error)):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name}: {error}") from error


def check_labels(labels: np.ndarray, name: str) -> None:
    """Raise unless objects can be put in order: none is missing, all of one kind."""
    missing = sum(
        label is None or type(label).__name__ == "NAType" or bool(label != label)
        for label in labels
    )
    if missing:
        raise ValueError(
            f"{name} holds {missing} missing values (None or NaN). Give these rows "
            "labels of their own, or leave the rows out."
        )
    try:
        np.unique(labels)
    except TypeError:
        kinds = sorted({type(label).__name__ for label in labels})
        raise TypeError(
            f"{name} must hold labels of one kind, such as strings or whole numbers; "
            f"got {', '.join(kinds)}."
        ) from None


def refuse_lazy(array: Any, name: str) -> None:
    """Raise if something would be computed and loaded whole, without a word."""
    kind = type(array)
    graph = getattr(array, "__dask_graph__", None)
    if kind.__module__.startswith("dask.") or (callable(graph) and graph() is not None):
        raise TypeError(
            f"{name} is a Dask collection ({kind.__name__}), whose rows are not in "
            "memory. To learn from them call its compute() first, or pass the "
            "partitions to partial_fit one by one; to predict map predict over them, "
            "with map_blocks or map_partitions."
        )
    if kind.__module__.startswith("polars.") and kind.__name__ == "LazyFrame":
        raise TypeError(f"{name} is a polars LazyFrame; call its collect() first.")


MOST = 1_000_000
"""Experts, starts and folds, each."""

N_EXPERTS = 8
"""How many experts there are if nothing says how many."""

LARGEST = {np.dtype(np.float32): 1e15, np.dtype(np.float64): 1e100}
"""Numbers whose squares, summed over rows, are numbers still."""


NOTHING = 1e-100
"""A weight that is this share of the largest is none."""


def check_magnitude(array: Any, name: str, dtype: Any = None) -> None:
    """Raise ValueError if a number is so large that sums of squares would overflow.

    Parameters
    ----------
    array : array or scipy CSR
        Floats; NaN passes.
    name : str
        Which parameter it is.
    dtype : dtype, default=None
        That it will be computed in; None is its own.
    """
    values = array.data if sparse.issparse(array) else array
    dtype = _numpy_dtype(dtype or values.dtype)
    largest = LARGEST.get(dtype, np.inf)
    xp = namespace(values)
    large = (values > largest) | (values < -largest)
    if not to_host(xp.any(large)):
        return
    first = int(np.flatnonzero(to_host(large))[0])
    value, where = float(to_host(values).ravel()[first]), ""
    if values is array:
        place = np.unravel_index(first, array.shape)
        where = " in " + ", ".join(
            f"{axis} {i}" for axis, i in zip(("row", "column"), place, strict=False)
        )
    raise ValueError(
        f"{name} must hold numbers between {-largest:g} and {largest:g} in "
        f"{dtype}; got {value:g}{where}. Rescale it; a number that stands for a "
        "missing value should be NaN."
    )


def read_weights(sample_weight: Any, rows: Any, dtype: Any = None) -> np.ndarray:
    """Return the weights of rows, checked: one may divide by them.

    Those that are nothing beside the largest are nothing.
    """
    with about("sample_weight"):
        weight = _check_sample_weight(
            given(sample_weight, "sample_weight"),
            rows,
            dtype=np.float64,
            ensure_non_negative=True,
        )
    check_magnitude(weight, "sample_weight", dtype)
    smallest = 1.0 / LARGEST.get(_numpy_dtype(dtype), LARGEST[np.dtype(np.float64)])
    largest = weight.max()
    if 0 < largest < smallest:
        raise ValueError(
            f"sample_weight must hold a number of {smallest:g} or more; the largest is "
            f"{largest:g}. Rescale it: weights count rows."
        )
    return np.where(weight < NOTHING * largest, 0.0, weight)


def _numpy_dtype(dtype: Any) -> np.dtype:
    """Return a dtype of any library, such as torch.float32, as NumPy's."""
    return np.dtype(str(dtype or "float64").split(".")[-1])


TRAINING_WIDTH = 2
"""Training keeps this many times top_k experts a row: the rows that an expert will
serve tomorrow are not only those that it serves today."""


class CheckedMixin:
    """Validation of X, y and weights, by what the gate and the experts can take.

    Private attribute: ``_weight_unit`` is the sample weight that counts as one row.
    """

    _weight_unit = 1.0

    # -------------------------------------------------------------- validation
    _id_codes: IdCodes | None = None

    @property
    def _classifies(self) -> bool:
        return False

    @property
    def _listed_experts(self) -> list:
        if isinstance(self.expert, (list, tuple)):
            return list(self.expert)
        return [self._default_expert() if self.expert is None else self.expert]

    @property
    def _experts_read_raw(self) -> bool:
        """Whether X reaches the experts as the user gave it, maybe a data frame."""
        return self._reads["frame"] or any(map(parts.reads_raw, self._listed_experts))

    @property
    def _has_pipelines(self) -> bool:
        """Whether an expert is a Pipeline, which may read what is no array."""
        return any(isinstance(thawed(one), Pipeline) for one in self._listed_experts)

    @property
    def _gate_is_pipeline(self) -> bool:
        return isinstance(parts.opened(self.gate), Pipeline)

    @property
    def _needs_array(self) -> bool:
        """Whether some part reads the validated array."""
        if self._reads["categories"] and self._id_codes is None:
            return False  # an encoder stands before the gate
        return not (self._has_pipelines and self._gate_is_pipeline)

    def _read_columns(self, X: Any) -> dict[str, Any]:
        """Return what there is to know of the columns of X, if it is a data frame.

        ``frame`` tells whether some expert reads X by its columns, ``categories`` are
        the names of those that hold categories.
        """
        learners = self._listed_experts
        if isinstance(self.shared_expert, BaseEstimator):
            learners = [*learners, self.shared_expert]
        by_name = any(map(parts.reads_raw, learners))
        names = categories(X)
        if not by_name and all(map(reads_numbers_only, learners)):
            names = []
        frame = self._has_columns(X) and (by_name or bool(names))
        return {"frame": frame, "categories": names}

    def _check_training(self, X, y, sample_weight) -> tuple:
        """Return (X as given, X as an array or None, y, row weights)."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None."
            )
        refuse_lazy(X, "X")
        tags = get_tags(self).input_tags
        self._reads = {"sparse": tags.sparse, "allow_nan": tags.allow_nan}
        warm = self.warm_start and hasattr(self, "gate_")
        if not warm:
            self._id_codes = self._codes_of(X)
        self._reads |= self._read_columns(X)
        raw, X = self._check_X(X, reset=not warm)
        with about("y"):
            y = self._check_target(given(y, "y"))
        check_consistent_length(raw, y)
        weight = read_weights(sample_weight, y, getattr(X, "dtype", None))
        used = np.flatnonzero(weight > 0)
        if not used.size:
            raise ValueError(
                "Sample weights must contain at least one non-zero number."
            )
        if len(used) < len(weight):
            raw, y, weight = take_rows(raw, used), y[used], weight[used]
            X = None if X is None else take_rows(X, used)
        weight = self._in_rows(weight)
        y, weight = self._encode_target(y, weight)
        if not self._chooses_number and len(weight) < min(self._n_asked, 2):
            raise ValueError(
                f"n_experts={self._n_asked} needs at least two rows of positive "
                f"weight; got n_samples={len(weight)}."
            )
        if X is None:
            return raw, X, y, weight
        # Targets are in the precision of X, and all arrays where X is.
        if y.dtype.kind == "f":
            check_magnitude(y, "y", X.dtype)
        y = like(y, X, X.dtype if y.dtype.kind == "f" else None)
        return raw, X, y, like(weight, X)

    def _in_rows(self, weight: np.ndarray) -> np.ndarray:
        """Return row weights in units of rows; warn if they came in others."""
        self._weight_unit = weight_unit(weight)
        if self._weight_unit == 1.0:
            return weight
        warnings.warn(
            f"sample_weight sums to {weight.sum():.6g} for {len(weight)} rows. Weights "
            "count rows: weight 2 is the row twice. These are taken in units of their "
            "mean; but learners that you passed as experts get them as they are, and "
            "their penalties, such as alpha of Ridge, weigh against them. To let a row "
            "count as one throughout, pass sample_weight / sample_weight.mean().",
            UserWarning,
            stacklevel=level_of_caller(),
        )
        return weight / self._weight_unit

    def _codes_of(self, X: Any) -> IdCodes | None:
        """Return codes for the ids that the gate reads, if they are no numbers."""
        if not hasattr(self.gate, "id_column"):
            return None
        self.gate.placed(getattr(X, "columns", None))
        return IdCodes.of(X, self.gate.id_column)

    def _numbers(self, X: Any) -> Any:
        """Return X in numbers, for a gate that knows ids: it reads no other column."""
        if self._id_codes is None:
            return X
        coded = self._id_codes.coded(X)
        return blank(coded, categories(coded)) if self._reads["categories"] else coded

    def _check_X(self, X, *, reset: bool) -> tuple[Any, Array | None]:
        """Return (X as given, X as a float array or CSR if a part reads it)."""
        refuse_lazy(X, "X")
        if self.backend == "cupy" or namespace(X) is not np:
            self._refuse_host_parts(X)
        if namespace(X) is not np:
            array = self._check_device_array(X, reset=reset)
            return array, array
        if self._needs_array:
            # As validate_data does, but for the tags of all parts, read once in fit;
            # and an array has no names to check against none.
            if reset or type(X) is not np.ndarray or hasattr(self, "feature_names_in_"):
                with about("X"):
                    _check_feature_names(self, X, reset=reset)
            finite = "allow-nan" if self._reads["allow_nan"] else True
            try:
                with about("X"):
                    array = check_array(
                        self._numbers(X),
                        accept_sparse="csr" if self._reads["sparse"] else False,
                        dtype=[np.float64, np.float32],
                        # Columns may lie one after another: sums would differ.
                        order="C",
                        ensure_all_finite=finite,
                        input_name="X",
                        estimator=self,
                    )
            except ValueError as error:
                if "contains NaN" in str(error):
                    said = f"Input X contains NaN. {self._takes_no_nan}"
                    raise ValueError(said) from None
                raise ValueError(f"{error}{remedy(X, error)}") from None
            _check_n_features(self, array, reset=reset)
            check_magnitude(array, "X")
            array = parts.small_indices(array)
            if self.backend == "cupy":
                array = to_device(array)
                return array, array
            return (X if self._has_columns(X) else array), array
        if not hasattr(X, "shape"):
            X = np.asarray(X)
        if len(X.shape) != 2:
            raise ValueError(
                f"Expected 2D array, got {len(X.shape)}D array instead. Reshape your "
                "data with X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if "
                "it is one row."
            )
        X = parts.small_indices(X.tocsr()) if sparse.issparse(X) else X
        if self._reads["categories"] and not self._has_columns(X):
            raise ValueError(
                "X must be a data frame, as in fit: its columns "
                f"{self._reads['categories']} hold categories; got {type(X).__name__}."
            )
        _check_feature_names(self, X, reset=reset)
        _check_n_features(self, X, reset=reset)
        _num_samples(X)
        return X, None

    @property
    def _takes_no_nan(self) -> str:
        """Say what of the mixture is in the way of missing values."""
        for part in self._listed_experts:
            if not parts.takes_nan(part):
                return (
                    f"expert {part!r} takes no missing values. Use one that does, such "
                    "as histogram gradient boosting, or a Pipeline that imputes them."
                )
        return (
            "The rows given to fit held none, so the gate has not learned what to make "
            "of missing values."
        )

    def _before_gate(self, X: Array | None, gate: BaseGate) -> Pipeline | None:
        """Return what stands before a gate that cannot take what X holds.

        That is NaN, or categories.
        """
        if self._gate_is_pipeline or self._id_codes is not None:
            return None
        if self._reads["categories"]:
            return Pipeline([("encoder", encoder(self._reads["categories"]))])
        if parts.takes_nan(gate):
            return None
        found = X is not None and self._reads["allow_nan"] and parts.has_nan(X)
        # New rows may only miss values where rows that were learned from do.
        self._reads["allow_nan"] = found
        return parts.imputer() if found else None

    @property
    def _chooses_number(self) -> bool:
        """Whether fit chooses how many experts there are."""
        return isinstance(self.n_experts, str)

    def _check_counts(self) -> None:
        """Raise if something is to be made in numbers that no memory holds."""
        for name in ("n_experts", "n_init", "cross_fit"):
            count = getattr(self, name)
            if isinstance(count, Integral) and count > MOST:
                raise ValueError(f"{name} must be at most {MOST}; got {count}.")

    @property
    def _n_asked(self) -> Any:
        """How many experts the parameters ask for; "auto" leaves it to fit."""
        if self.n_experts is not None:
            return self.n_experts if self._chooses_number else int(self.n_experts)
        several = isinstance(self.expert, (list, tuple))
        return len(self.expert) if several else N_EXPERTS

    @property
    def _n_known(self) -> int:
        """How many experts there are."""
        return self.n_experts_

    def _computing(
        self, X: Array, n_experts: int | None = None
    ) -> AbstractContextManager:
        """Return the context that operations on these rows run in."""
        n_experts = self._n_known if n_experts is None else n_experts
        n_threads = None if self.n_jobs is None else effective_n_jobs(self.n_jobs)
        n_elements = X.shape[0] * max(X.shape[1], n_experts)
        return using(self.backend, n_elements, n_threads)

    def _refuse_host_parts(self, X: Any) -> None:
        """Raise if something that works on the host only would read a device array."""
        where = f"backend={self.backend!r} with X a {type(X).__name__}"
        if sparse.issparse(X):
            raise TypeError(
                f"{where}: sparse matrices stay on the host. Use backend='auto', or "
                "make X dense."
            )
        if self._has_pipelines or self._gate_is_pipeline:
            raise TypeError(
                f"{where}: a Pipeline among gate and experts reads NumPy arrays, "
                "sparse matrices and data frames. Put its steps before the mixture, "
                "or use backend='auto' and move X to the host."
            )

    def _check_device_array(self, X: Array, *, reset: bool) -> Array:
        """Check an array of another library, where it lies.

        scikit-learn's own check needs SCIPY_ARRAY_API=1 before its first import.
        """
        xp = namespace(X)
        if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] == 0:
            raise ValueError(
                "Expected a 2D array with at least one row and one feature, got shape "
                f"{tuple(X.shape)}."
            )
        if X.dtype not in (xp.float32, xp.float64):
            X = xp.astype(X, xp.float64)
        if not get_config()["assume_finite"] and not self._reads["allow_nan"]:
            finite = to_host(xp.all(xp.isfinite(X)))
            if not finite:
                raise ValueError("Input X contains NaN or infinity.")
        check_magnitude(X, "X")
        _check_n_features(self, X, reset=reset)
        return X

    @staticmethod
    def _has_columns(X) -> bool:
        return hasattr(X, "columns") or hasattr(X, "__dataframe__")

    def _training_width(self, n_experts: int | None = None) -> int:
        n_experts = self._n_known if n_experts is None else n_experts
        if self.top_k is None:
            return n_experts
        return min(TRAINING_WIDTH * self.top_k, n_experts)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        gate = (
            parts.GATES[self.gate]() if self.gate in tuple(parts.GATES) else self.gate
        )
        reads = [get_tags(part).input_tags for part in (gate, *self._listed_experts)]
        tags.input_tags.sparse = all(read.sparse for read in reads)
        # A gate that takes no NaN sees means and indicators instead.
        tags.input_tags.allow_nan = all(map(parts.takes_nan, self._listed_experts))
        return tags
