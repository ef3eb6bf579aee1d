"""Read the parameters `expert` and `gate`, and say what is wrong with them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from joblib import hash as content_hash
from scipy import sparse
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from ..backends import Array, namespace
from ..gates import (
    BaseGate,
    ConstantGate,
    EstimatorGate,
    GaussianGate,
    HierarchicalGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)

GATES: dict[str, type[BaseGate]] = {
    "softmax": SoftmaxGate,
    "gaussian": GaussianGate,
    "hierarchical": HierarchicalGate,
    "product": ProductGate,
    "tree": TreeGate,
    "constant": ConstantGate,
}


def read_experts(
    expert: Any, n_experts: int | str, default: BaseEstimator, classify: bool
) -> list[BaseEstimator]:
    """Return one unfitted learner an expert, each fit for the task.

    One alone if the number is yet to be chosen.
    """
    if isinstance(expert, (list, tuple)):
        if isinstance(n_experts, str):
            raise ValueError(
                f"n_experts={n_experts!r} cannot be combined with a list of "
                f"{len(expert)} learners, which fixes the number. Set n_experts=None, "
                "or give one learner."
            )
        if len(expert) != n_experts:
            raise ValueError(
                f"expert is a list of {len(expert)} learners, but n_experts="
                f"{n_experts}; a list must hold one learner an expert. Set "
                "n_experts=None, which is as many as the list has."
            )
        if not expert:
            raise ValueError("expert is an empty list; it must hold one learner.")
        experts = list(expert)
    else:
        number = 1 if isinstance(n_experts, str) else n_experts
        experts = [default if expert is None else expert] * number
    for learner in experts:
        check_learner(learner, classify)
    return [clone(learner) for learner in experts]


def named_parts(params: dict[str, Any]) -> dict[str, Any]:
    """Return the estimators among parameters, and those in lists, by name."""
    named: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, (list, tuple)):
            named |= {f"{name} {k}": one for k, one in enumerate(value)}
        else:
            named[name] = value
    return {name: part for name, part in named.items() if hasattr(part, "get_params")}


def alike(learners: list[BaseEstimator]) -> bool:
    """Tell whether all learners are the same."""
    return len({content_hash(learner) for learner in learners}) == 1


def check_learner(learner: Any, classify: bool, name: str = "expert") -> None:
    """Raise an error that says why a learner will not do."""
    if isinstance(learner, type) or not hasattr(learner, "fit"):
        raise TypeError(
            f"{name} must be an estimator instance with fit and predict; got "
            f"{learner!r}."
        )
    if not classify:
        if is_classifier(learner):
            raise ValueError(
                f"{name} {learner!r} is a classifier; MoERegressor needs regressors."
            )
        if not hasattr(learner, "predict"):
            raise ValueError(f"{name} {learner!r} has no predict.")
        return
    if is_regressor(learner):
        raise ValueError(
            f"{name} {learner!r} is a regressor; MoEClassifier needs classifiers."
        )
    if not hasattr(learner, "predict_proba"):
        raise ValueError(
            f"{name} {learner!r} has no predict_proba; wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def read_gate(gate: Any) -> tuple[Pipeline | None, BaseGate]:
    """Return (transformers before the gate or None, the unfitted gate itself)."""
    if isinstance(gate, str):
        return None, GATES[gate]()
    if isinstance(gate, Pipeline):
        last = gate.steps[-1][1]
        before = clone(gate[:-1]) if len(gate.steps) > 1 else None
    else:
        last, before = gate, None
    if not isinstance(last, type) and is_classifier(last):
        return before, EstimatorGate(clone(last))
    missing = [m for m in ("fit", "log_proba", "route") if not hasattr(last, m)]
    if missing or isinstance(last, type):
        lack = f"has no {', '.join(missing)}" if missing else "is a class"
        raise ValueError(
            f"gate must be one of {sorted(GATES)}, a gate of skmoe.gates, a "
            f"classifier, or a Pipeline that ends in one; got {gate!r}, which {lack}."
        )
    return before, clone(last)


def takes_nan(part: Any) -> bool:
    """Tell whether a learner or a gate takes missing values.

    A Pipeline takes what all its steps take, up to the one behind which nothing is
    missing any more: an imputer, or a ColumnTransformer, which knows its columns.
    """
    if not isinstance(part, Pipeline):
        return _mends(part) or get_tags(part).input_tags.allow_nan
    steps = [step for _, step in part.steps if step not in (None, "passthrough")]
    seen = itertools.takewhile(lambda step: not _mends(step), steps)
    return all(map(takes_nan, seen))


def _mends(step: Any) -> bool:
    return isinstance(step, ColumnTransformer) or type(step).__name__.endswith(
        "Imputer"
    )


def has_nan(X: Any) -> bool:
    """Tell whether an array or CSR matrix of the host holds NaN."""
    values = X.data if sparse.issparse(X) else X
    return namespace(values) is np and bool(np.isnan(np.min(values, initial=0.0)))


def imputer() -> Pipeline:
    """Return what stands before a gate that takes no NaN: means, and indicators."""
    return Pipeline([("imputer", SimpleImputer(add_indicator=True))])


def fitted_gate(template: Any, before: Pipeline | None, gate: BaseGate) -> Any:
    """Return the gate in the form that the user gave: alone, or in its Pipeline.

    It stands in one too if X has missing values that the gate does not take.
    """
    if not isinstance(template, Pipeline) and before is None:
        return gate
    name = template.steps[-1][0] if isinstance(template, Pipeline) else "gate"
    steps = [] if before is None else list(before.steps)
    return Pipeline([*steps, (name, gate)])


def split_gate(gate: Any) -> tuple[Pipeline | None, BaseGate]:
    """Return (fitted transformers or None, fitted gate) of a ``gate_``."""
    if not isinstance(gate, Pipeline):
        return None, gate
    return (gate[:-1] if len(gate.steps) > 1 else None), gate.steps[-1][1]


def gate_input(before: Pipeline | None, X: Array, raw: Any) -> Array:
    """Return what the gate sees: the validated X, or its transform of the raw X."""
    if before is None:
        return X
    Z = before.transform(raw)
    return Z.tocsr() if hasattr(Z, "tocsr") else numeric(Z)


def numeric(Z: Any) -> np.ndarray:
    """Return a transform's output as a float array."""
    Z = np.asarray(Z)
    return Z if Z.dtype.kind == "f" else Z.astype(np.float64)


def small_indices(X: Array) -> Array:
    """Return a CSR matrix with 32-bit indices if they fit: many learners need them."""
    if not sparse.issparse(X) or X.indices.dtype.itemsize <= 4:
        return X
    if max(*X.shape, X.nnz) > np.iinfo(np.int32).max:
        return X
    indices, indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return type(X)((X.data, indices, indptr), shape=X.shape)
