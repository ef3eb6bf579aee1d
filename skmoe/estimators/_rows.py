"""Checks of rows, targets and weights on their way to the parts of a mixture."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
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
    _num_samples,
)
from ..backends import Array, like, namespace, to_device, to_host, using
from ..experts import take_rows
from ..gates import BaseGate
from . import _gate_and_experts as parts
from ._columns import encoder, reads_numbers_only
from ._ids import IdCodes
from ._task import Settings
from ._validation import (
    MOST,
    about,
    check_magnitude,
    given,
    read_weights,
    refuse_lazy,
)

TRAINING_WIDTH = 2
"""Training keeps this many times ``top_k`` experts per row. Otherwise an expert that
the gate does not yet prefer could never prove its worth."""


def listed_experts(model) -> list:
    if isinstance(model.expert, (list, tuple)):
        return list(model.expert)
    return [model._default_expert() if model.expert is None else model.expert]


def experts_read_raw(model) -> bool:
    """Whether X reaches the experts as the user gave it, maybe a data frame."""
    return model._reads["frame"] or any(map(parts.reads_raw, listed_experts(model)))


def views(
    model,
    before: Pipeline | None,
    before_experts: Pipeline | None,
    X: Array | None,
    raw: Any,
) -> tuple[Array, Any]:
    """Return what gate and experts see of rows."""
    X_gate = parts.gate_input(before, X, raw)
    if before_experts is None:
        return X_gate, raw if experts_read_raw(model) else X
    shared = parts.same_steps(before, before_experts)
    Z = X_gate if shared else before_experts.transform(raw)
    return X_gate, parts.expert_input(Z, raw)


def same_numbers(X: Array, Z: Array) -> bool:
    """Tell whether two tables of the host hold the same numbers in the same way."""
    if X is Z or type(X) is not type(Z) or X.shape != Z.shape or X.dtype != Z.dtype:
        return X is Z
    if sparse.issparse(X):
        names = ("indptr", "indices", "data")
        return all(np.array_equal(getattr(X, name), getattr(Z, name)) for name in names)
    return np.array_equal(X, Z)


def others_read_rows(model) -> bool:
    """Whether a learner beside the experts is to read the rows that these read."""
    others = model.shared_expert, getattr(model, "noise_expert", None)
    return any(hasattr(other, "fit") for other in others)


def has_pipelines(model) -> bool:
    """Whether an expert is a Pipeline, which may read more than arrays."""
    return any(isinstance(thawed(one), Pipeline) for one in listed_experts(model))


def gate_is_pipeline(model) -> bool:
    return isinstance(parts.opened(model.gate), Pipeline)


def _needs_array(model) -> bool:
    """Whether some part reads the validated array."""
    if model._reads["categories"] and model._id_codes is None:
        return False  # an encoder stands before the gate
    return not (has_pipelines(model) and gate_is_pipeline(model))


def _read_columns(model, X: Any) -> dict[str, Any]:
    """Return what is known of the columns of X, if it is a data frame.

    ``frame`` tells whether some expert reads X by its columns, ``categories`` has the
    names of the columns that hold categories.
    """
    learners = listed_experts(model)
    if isinstance(model.shared_expert, BaseEstimator):
        learners = [*learners, model.shared_expert]
    by_name = any(map(parts.reads_raw, learners))
    names = categories(X)
    if not by_name and all(map(reads_numbers_only, learners)):
        names = []
    frame = _has_columns(X) and (by_name or bool(names))
    return {"frame": frame, "categories": names}


def check_training(model, settings: Settings, X, y, sample_weight) -> tuple:
    """Return (X as given, X as an array or None, y, row weights)."""
    if y is None:
        raise ValueError(
            f"This {type(model).__name__} estimator requires y to be passed, but "
            "the target y is None."
        )
    refuse_lazy(X, "X")
    tags = get_tags(model).input_tags
    model._reads = {"sparse": tags.sparse, "allow_nan": tags.allow_nan}
    if not settings.warm:
        model._id_codes = _codes_of(model, X)
    model._reads |= _read_columns(model, X)
    raw, X = check_X(model, X, reset=not settings.warm)
    with about("y"):
        y = model._check_target(given(y, "y"))
    check_consistent_length(raw, y)
    weight = read_weights(sample_weight, y, getattr(X, "dtype", None))
    used = np.flatnonzero(weight > 0)
    if not used.size:
        raise ValueError("Sample weights must contain at least one non-zero number.")
    if len(used) < len(weight):
        raw = take_rows(raw, used)
        X = None if X is None else take_rows(X, used)
        y = y[used]
        weight = weight[used]
    weight = _in_rows(model, weight)
    y, weight = model._encode_target(y, weight, settings)
    if not settings.chooses_number and len(weight) < min(settings.n_experts, 2):
        raise ValueError(
            f"n_experts={settings.n_experts} needs at least two rows of positive "
            f"weight; got n_samples={len(weight)}."
        )
    if X is None:
        return raw, X, y, weight
    # Targets are in the precision of X, and all arrays where X is.
    if y.dtype.kind == "f":
        check_magnitude(y, "y", X.dtype)
    y = like(y, X, X.dtype if y.dtype.kind == "f" else None)
    return raw, X, y, like(weight, X)


def _in_rows(model, weight: np.ndarray) -> np.ndarray:
    """Return row weights in units of rows; warn if they came in other units."""
    model._weight_unit = weight_unit(weight)
    if model._weight_unit == 1.0:
        return weight
    warnings.warn(
        f"sample_weight sums to {weight.sum():.6g} for {len(weight)} rows. Weights "
        "count rows: weight 2 is the row twice. So these weights are divided by "
        "their mean. But learners that you passed as experts get them as they are, "
        "which matters for penalties such as alpha of Ridge. To avoid this, pass "
        "sample_weight / sample_weight.mean().",
        UserWarning,
        stacklevel=level_of_caller(),
    )
    return weight / model._weight_unit


def _codes_of(model, X: Any) -> IdCodes | None:
    """Return codes for the ids that the gate reads, if they are not numbers."""
    if not hasattr(model.gate, "id_column"):
        return None
    model.gate.placed(getattr(X, "columns", None))
    return IdCodes.of(X, model.gate.id_column)


def _numbers(model, X: Any) -> Any:
    """Return X in numbers for a gate that knows ids; it reads no other column."""
    if model._id_codes is None:
        return X
    coded = model._id_codes.coded(X)
    return blank(coded, categories(coded)) if model._reads["categories"] else coded


def check_X(model, X, *, reset: bool) -> tuple[Any, Array | None]:
    """Return (X as given, X as a float array or CSR matrix if a part reads that)."""
    refuse_lazy(X, "X")
    if model.backend == "cupy" or namespace(X) is not np:
        _refuse_host_parts(model, X)
    if namespace(X) is not np:
        array = _check_device_array(model, X, reset=reset)
        return array, array
    if _needs_array(model):
        # As validate_data does, except that fit read the tags of all parts once. An
        # array without names needs no check if fit saw no names.
        if reset or type(X) is not np.ndarray or hasattr(model, "feature_names_in_"):
            with about("X"):
                _check_feature_names(model, X, reset=reset)
        finite = "allow-nan" if model._reads["allow_nan"] else True
        try:
            with about("X"):
                array = check_array(
                    _numbers(model, X),
                    accept_sparse="csr" if model._reads["sparse"] else False,
                    dtype=[np.float64, np.float32],
                    # In another order of memory, sums would differ.
                    order="C",
                    ensure_all_finite=finite,
                    input_name="X",
                    estimator=model,
                )
        except ValueError as error:
            if "contains NaN" in str(error):
                message = f"Input X contains NaN. {_takes_no_nan(model)}"
                raise ValueError(message) from None
            raise ValueError(f"{error}{remedy(X, error)}") from None
        _check_n_features(model, array, reset=reset)
        check_magnitude(array, "X")
        array = parts.small_indices(array)
        if model.backend == "cupy":
            array = to_device(array)
            return array, array
        return (X if _has_columns(X) else array), array
    if not hasattr(X, "shape"):
        X = np.asarray(X)
    if len(X.shape) != 2:
        raise ValueError(
            f"Expected 2D array, got {len(X.shape)}D array instead. Reshape your "
            "data with X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if "
            "it is one row."
        )
    X = parts.small_indices(X.tocsr()) if sparse.issparse(X) else X
    if model._reads["categories"] and not _has_columns(X):
        raise ValueError(
            "X must be a data frame, as in fit: its columns "
            f"{model._reads['categories']} hold categories; got {type(X).__name__}."
        )
    _check_feature_names(model, X, reset=reset)
    _check_n_features(model, X, reset=reset)
    _num_samples(X)
    return X, None


def _takes_no_nan(model) -> str:
    """Say which part of the mixture takes no missing values."""
    for part in listed_experts(model):
        if not parts.takes_nan(part):
            return (
                f"expert {part!r} takes no missing values. Use one that does, such "
                "as histogram gradient boosting, or a Pipeline with an imputer."
            )
    return (
        "The rows given to fit had no missing values, so the gate has not learned "
        "from any."
    )


def before_gate(model, X: Array | None, gate: BaseGate) -> Pipeline | None:
    """Return the steps before a gate that does not take the NaN or categories of X."""
    if gate_is_pipeline(model) or model._id_codes is not None:
        return None
    if model._reads["categories"]:
        return Pipeline([("encoder", encoder(model._reads["categories"]))])
    if parts.takes_nan(gate):
        return None
    misses = X is not None and model._reads["allow_nan"] and parts.has_nan(X)
    # New rows may only miss values if training rows do.
    model._reads["allow_nan"] = misses
    return parts.imputer() if misses else None


def check_counts(model) -> None:
    """Raise if a parameter asks for more than memory can hold."""
    for name in ("n_experts", "n_init", "cross_fit"):
        count = getattr(model, name)
        if isinstance(count, Integral) and count > MOST:
            raise ValueError(f"{name} must be at most {MOST}; got {count}.")


def computing(
    model, X: Array, n_experts: int | None = None, backend: str | None = None
) -> AbstractContextManager:
    """Return the context for operations on these rows."""
    n_experts = model.n_experts_ if n_experts is None else n_experts
    n_threads = None if model.n_jobs is None else effective_n_jobs(model.n_jobs)
    n_elements = X.shape[0] * max(X.shape[1], n_experts)
    return using(backend or model.backend, n_elements, n_threads)


def _refuse_host_parts(model, X: Any) -> None:
    """Raise if something that works on the host only would read a device array."""
    where = f"backend={model.backend!r} with X a {type(X).__name__}"
    if sparse.issparse(X):
        raise TypeError(
            f"{where}: sparse matrices stay on the host. Use backend='auto', or "
            "make X dense."
        )
    if has_pipelines(model) or gate_is_pipeline(model):
        raise TypeError(
            f"{where}: a Pipeline among gate and experts reads NumPy arrays, "
            "sparse matrices and data frames. Put its steps before the mixture, "
            "or use backend='auto' and move X to the host."
        )


def _check_device_array(model, X: Array, *, reset: bool) -> Array:
    """Check an array of another library on its device.

    scikit-learn's own check needs SCIPY_ARRAY_API=1 before its first import.
    """
    xp = namespace(X)
    if X.ndim != 2 or X.shape[0] == 0 or X.shape[1] == 0:
        raise ValueError(
            "X must be a 2D array with at least one row and one feature; got shape "
            f"{tuple(X.shape)}."
        )
    if X.dtype not in (xp.float32, xp.float64):
        X = xp.astype(X, xp.float64)
    if not get_config()["assume_finite"] and not model._reads["allow_nan"]:
        finite = to_host(xp.all(xp.isfinite(X)))
        if not finite:
            raise ValueError("Input X contains NaN or infinity.")
    check_magnitude(X, "X")
    _check_n_features(model, X, reset=reset)
    return X


def _has_columns(X) -> bool:
    return hasattr(X, "columns") or hasattr(X, "__dataframe__")


def training_width(model, n_experts: int | None = None) -> int:
    n_experts = model.n_experts_ if n_experts is None else n_experts
    if model.top_k is None:
        return n_experts
    return min(TRAINING_WIDTH * model.top_k, n_experts)
