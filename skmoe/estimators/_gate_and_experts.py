"""Reading of the parameters `expert` and `gate`, with errors that say what is wrong."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import config_context  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import check_array, check_consistent_length, get_tags

from .._learners import (
    learns_from_y,
    recipe,
    said_without,
    surely_lacks,
    thawed,
    weight_parameter,
)
from ..backends import Array, namespace
from ..gates import (
    BaseGate,
    ConstantGate,
    EstimatorGate,
    FrozenGate,
    GaussianGate,
    HierarchicalGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from ._columns import trained_together
from ._validation import about, check_magnitude

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
    """Return one unfitted learner per expert, each fit for the task.

    Return a single one if the number of experts is yet to be chosen.
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
                f"{n_experts}; a list must hold one learner per expert. Set "
                "n_experts=None to have as many experts as learners."
            )
        if not expert:
            raise ValueError(
                "expert must hold at least one learner; got an empty list."
            )
        experts = list(expert)
    else:
        number = 1 if isinstance(n_experts, str) else n_experts
        experts = [default if expert is None else expert] * number
    for learner in experts:
        check_learner(learner, classify)
    return [clone(learner) for learner in experts]


def steps_before(learners: list[BaseEstimator]) -> Pipeline | None:
    """Return the steps that stand before all experts alike, if these are linear.

    Returns
    -------
    Pipeline or None
        Unfitted; its last step keeps the place of the expert. None if experts are no
        Pipelines of learners that are trained together, if their steps differ, or if
        a step learns from y: each expert then fits steps of its own.
    """
    if not all(isinstance(each, Pipeline) for each in learners):
        return None
    before = [each.steps[:-1] for each in learners]
    names, last = zip(*(each.steps[-1] for each in learners), strict=True)
    together = before[0] and trained_together(last)
    if not together or not alike(before) or learns_from_y(before[0]):
        return None
    name = names[0] if len(set(names)) == 1 else "expert"
    steps = clone(learners[0])
    steps.steps[-1] = (name, FunctionTransformer())
    return steps


def fitted_both(
    before: Pipeline | None,
    before_experts: Pipeline | None,
    X: Any,
    y: Array,
    weight: Array,
) -> tuple[Pipeline | None, Pipeline | None]:
    """Fit the steps before the gate and those before the experts; equal ones once."""
    before_experts = fitted_steps(before_experts, X, y, weight)
    if before is not None and before_experts is not None:
        steps = before_experts.steps[:-1]
        if alike([before.steps, steps]):
            return Pipeline(steps), before_experts
    return fitted_steps(before, X, y, weight), before_experts


def fitted_steps(
    steps: Pipeline | None, X: Any, y: Array, weight: Array
) -> Pipeline | None:
    """Fit steps, if there are any; those that take sample weights get them."""
    if steps is None:
        return None
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    weights = {}
    if weight.min() < weight.max():
        named = ((name, weight_parameter(step)) for name, step in steps.steps)
        weights = {f"{name}__{param}": weight for name, param in named if param}
    with config_context(enable_metadata_routing=False):
        return steps.fit(X, y, **weights)


def named_parts(params: dict[str, Any]) -> dict[str, Any]:
    """Return the estimators among the parameters and in their lists, by name."""
    named: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, (list, tuple)):
            named |= {f"{name} {k}": one for k, one in enumerate(value)}
        else:
            named[name] = value
    return {name: part for name, part in named.items() if hasattr(part, "get_params")}


def alike(learners: list[BaseEstimator]) -> bool:
    """Tell whether all learners are the same."""
    return len({recipe(learner) for learner in learners}) == 1


def check_learner(learner: Any, classify: bool, name: str = "expert") -> None:
    """Raise an error that says why a learner cannot be used."""
    if isinstance(learner, type) or not hasattr(learner, "fit"):
        raise TypeError(
            f"{name} must be an estimator instance with fit and predict; got "
            f"{learner!r}."
        )
    missing = [m for m in ("get_params", "__sklearn_tags__") if not hasattr(learner, m)]
    if missing:
        raise TypeError(
            f"{name} {learner!r} has no {', '.join(missing)}: let it inherit from "
            "sklearn.base.BaseEstimator."
        )
    check_frozen(learner, name)
    if not classify and is_classifier(learner):
        raise ValueError(
            f"{name} {learner!r} is a classifier; MoERegressor needs regressors."
        )
    if classify and is_regressor(learner):
        raise ValueError(
            f"{name} {learner!r} is a regressor; MoEClassifier needs classifiers."
        )
    method = "predict_proba" if classify else "predict"
    if surely_lacks(learner, method):
        raise ValueError(f"{name} {learner!r} {said_without(method)}")


def check_frozen(part: Any, name: str) -> None:
    """Raise if a part was frozen before it was fitted."""
    if isinstance(part, FrozenEstimator) and not part.__sklearn_is_fitted__():
        raise NotFittedError(f"{name} {part!r} was frozen before it was fitted.")


def opened(gate: Any) -> Any:
    """Return a frozen Pipeline as a Pipeline of frozen steps; all else as it is."""
    inner = thawed(gate)
    if inner is gate or not isinstance(inner, Pipeline):
        return gate
    return Pipeline([(name, FrozenEstimator(step)) for name, step in inner.steps])


def reads_raw(learner: Any) -> bool:
    """Tell whether a learner may want X as it was given, not as an array."""
    return isinstance(learner, (Pipeline, FrozenEstimator))


def read_gate(gate: Any) -> tuple[Pipeline | None, BaseGate]:
    """Return (transformers before the gate or None, the unfitted gate itself)."""
    if isinstance(gate, str):
        return None, GATES[gate]()
    gate = opened(gate)
    if isinstance(gate, Pipeline):
        last = gate.steps[-1][1]
        before = clone(gate[:-1]) if len(gate.steps) > 1 else None
    else:
        last = gate
        before = None
    check_frozen(last, "gate")
    if isinstance(last, BaseGate):
        try:
            last.check_params()
        except (TypeError, ValueError) as error:
            raise type(error)(f"gate: {error}") from None
    if not isinstance(last, type) and _classifies(last):
        return before, EstimatorGate(clone(last))
    missing = [m for m in ("fit", "log_proba", "route") if not hasattr(last, m)]
    if missing or isinstance(last, type):
        lack = f"has no {', '.join(missing)}" if missing else "is a class"
        raise ValueError(
            f"gate must be one of {sorted(GATES)}, a gate of skmoe.gates, a "
            f"classifier, or a Pipeline that ends in one; got {gate!r}, which {lack}."
        )
    if isinstance(last, FrozenEstimator):
        return before, FrozenGate(last)
    return before, clone(last)


def _classifies(part: Any) -> bool:
    return hasattr(part, "__sklearn_tags__") and is_classifier(part)


def takes_nan(part: Any) -> bool:
    """Tell whether a learner or a gate takes missing values.

    A Pipeline takes them if all its steps do, up to the first that leaves none: an
    imputer, or a ColumnTransformer, which knows its columns.
    """
    if not isinstance(part, Pipeline):
        return _mends(part) or get_tags(part).input_tags.allow_nan
    steps = [step for _, step in part.steps if step not in (None, "passthrough")]
    readers = itertools.takewhile(lambda step: not _mends(step), steps)
    return all(map(takes_nan, readers))


def _mends(step: Any) -> bool:
    return isinstance(step, ColumnTransformer) or type(step).__name__.endswith(
        "Imputer"
    )


def has_nan(X: Any) -> bool:
    """Tell whether an array or CSR matrix of the host holds NaN."""
    values = X.data if sparse.issparse(X) else X
    return namespace(values) is np and bool(np.isnan(np.min(values, initial=0.0)))


def imputer() -> Pipeline:
    """Return the step before a gate that takes no NaN: means and indicators."""
    return Pipeline([("imputer", SimpleImputer(add_indicator=True))])


def fitted_gate(template: Any, before: Pipeline | None, gate: BaseGate) -> Any:
    """Return the gate in the form that the user gave: alone, or in its Pipeline.

    It is in a Pipeline too if X has missing values that the gate does not take.
    """
    template = opened(template)
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


def same_steps(before: Pipeline | None, before_experts: Pipeline) -> bool:
    """Tell whether the very steps before the gate stand before the experts too."""
    if before is None or len(before.steps) + 1 != len(before_experts.steps):
        return False
    pairs = zip(before.steps, before_experts.steps, strict=False)
    return all(of_gate is of_experts for (_, of_gate), (_, of_experts) in pairs)


def expert_input(Z: Any, raw: Any) -> Array:
    """Return what the steps before experts made of the raw X, checked."""
    name = "X behind its steps"
    with about("expert"):
        Z = check_array(
            Z,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            order="C",
            input_name=name,
        )
        check_magnitude(Z, name)
        check_consistent_length(Z, raw)
    return small_indices(Z)


def gate_input(before: Pipeline | None, X: Array, raw: Any) -> Array:
    """Return what the gate sees: the validated X, or its transform of the raw X."""
    if before is None:
        return X
    Z = before.transform(raw)
    Z = Z.tocsr() if hasattr(Z, "tocsr") else numeric(Z)
    if Z.ndim != 2 or Z.shape[0] != raw.shape[0]:
        raise ValueError(
            f"gate: the steps before it must return a table of {raw.shape[0]} rows; "
            f"got shape {Z.shape}."
        )
    return Z


def check_made(Z: Array, gate: BaseGate) -> None:
    """Raise if the steps before a gate made numbers that it cannot learn from."""
    values = Z.data if sparse.issparse(Z) else Z
    bad = np.isinf(values) if takes_nan(gate) else ~np.isfinite(values)
    if bad.any():
        raise ValueError(
            f"gate: the steps before {gate!r} must return finite numbers; got "
            f"{bad.sum()} that are NaN or infinite."
        )


def numeric(Z: Any) -> np.ndarray:
    """Return a transform's output as a float array, one row after another."""
    Z = np.asarray(Z, order="C")
    return Z if Z.dtype.kind == "f" else Z.astype(np.float64)


def small_indices(X: Array) -> Array:
    """Return a CSR matrix with 32-bit indices if they fit: many learners need them."""
    if not sparse.issparse(X) or X.indices.dtype.itemsize <= 4:
        return X
    if max(*X.shape, X.nnz) > np.iinfo(np.int32).max:
        return X
    indices, indptr = X.indices.astype(np.int32), X.indptr.astype(np.int32)
    return type(X)((X.data, indices, indptr), shape=X.shape)
