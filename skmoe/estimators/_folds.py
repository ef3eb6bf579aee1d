"""How `cross_fit` and ``groups`` become folds."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import get_config  # type: ignore[attr-defined]
from sklearn.model_selection import LeaveOneOut
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import process_routing

from .._caller import level_of_caller
from ..em import (
    FINAL_FOLDS,
    CrossFitGate,
    CrossFitPool,
    Problem,
    content_folds,
    judges,
)
from ..experts import ExpertPool, left_out
from ..gates import BaseGate
from ._validation import about, check_labels, given

AUTO_FOLDS = 3
"""Folds of cross_fit="auto". More folds cost more and change little."""


def is_splitter(cross_fit: Any) -> bool:
    """Whether cross_fit is a splitter; a str has a split method too."""
    return hasattr(cross_fit, "split") and not isinstance(cross_fit, str)


def check_cross_fit(cross_fit: Any, final: str) -> None:
    """Raise unless folds can be made, and are made if models are to be averaged."""
    if isinstance(cross_fit, (str, bytes)) and cross_fit != "auto":
        raise ValueError(
            "cross_fit must be 'auto', a number of folds, a splitter or None; got "
            f"{cross_fit!r}."
        )
    if cross_fit is None and final == "average":
        raise ValueError(
            "final='average' averages the models of the folds, but cross_fit=None "
            "makes no folds. Set cross_fit to 'auto', a number of folds or a "
            "splitter, or final='refit'."
        )


def check_groups(groups, sample_weight, n_used: int) -> np.ndarray | None:
    """Return the group of each row that has weight."""
    if groups is None:
        return None
    used = used_rows(sample_weight, n_used)
    groups = np.asarray(given(groups, "groups"))
    if groups.dtype.kind == "O" and groups.ndim == 1:
        check_labels(groups, "groups")
    with about("groups"):
        groups = check_array(groups, ensure_2d=False, dtype=None)
    if groups.shape != used.shape:
        raise ValueError(
            f"groups must have one entry per row, shape {used.shape}; got shape "
            f"{groups.shape}."
        )
    return groups[used]


def used_rows(sample_weight, n_used: int) -> np.ndarray:
    """Tell which of the rows given to fit have weight."""
    weight = np.asarray(given(sample_weight, "sample_weight"))
    return weight > 0 if weight.ndim else np.ones(n_used, dtype=bool)


def cross_fitted_gate(model, gate: BaseGate, problem: Problem) -> BaseGate:
    """Return the gate, wrapped if it must be asked out of fold."""
    if not gate.memorises or model.cross_fit is None:
        return gate
    counted = isinstance(model.cross_fit, Integral)
    n_folds = model.cross_fit if counted else AUTO_FOLDS
    folds = content_folds(problem, n_folds, problem.seed)
    return CrossFitGate(gate, folds) if folds.max() > 0 else gate


def cross_fitted_pool(model, pool: ExpertPool, problem: Problem) -> ExpertPool:
    """Return the pool, wrapped if its experts must be judged out of fold."""
    auto = isinstance(model.cross_fit, str)
    groups = problem.groups
    # Rigid experts do not memorise rows, and frozen ones learn from none.
    if model.cross_fit is None or (auto and pool.rigid) or pool.frozen.all():
        return pool
    if (auto and groups is None) or isinstance(model.cross_fit, LeaveOneOut):
        judged_for_free = left_out(pool)
        if judged_for_free is not None:
            return judged_for_free
    final_folds = learned = None
    if is_splitter(model.cross_fit):
        folds, learned = _split(model, problem, groups)
    else:
        n_folds = AUTO_FOLDS if auto else model.cross_fit
        n_groups = None if groups is None else len(np.unique(groups))
        if n_groups is not None and n_groups < (2 if auto else n_folds):
            raise ValueError(
                f"cross_fit={model.cross_fit!r} needs at least "
                f"{2 if auto else n_folds} groups, as rows of a group share a fold; "
                f"got {n_groups}."
            )
        folds = content_folds(problem, n_folds, problem.seed)
        if auto:
            final_folds = content_folds(problem, FINAL_FOLDS, problem.seed)
    if folds.max() == 0:
        return pool
    if pool.classes is not None:
        host = problem.on_host()
        _warn_of_rare_classes(model.cross_fit, pool.classes, host.y, folds)
    part_rows = groups is None and not is_splitter(model.cross_fit)
    return CrossFitPool(pool, folds, final_folds, part_rows, learned)


def _split(
    model, problem: Problem, groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fold whose model judges each row, and the rows each model learns from.

    If several test folds hold a row, the first judges it. If none does, a model of all
    rows judges it.
    """
    host = problem.on_host()
    params = {} if groups is None else {"groups": groups}
    if get_config()["enable_metadata_routing"]:
        params = process_routing(model, "fit", **params).splitter.split
    n_rows = host.y.shape[0]
    folds = np.full(n_rows, -1)
    learned = []
    for fold, parts in enumerate(_parts(model, host, params)):
        train, test = (_mask(model.cross_fit, rows, n_rows) for rows in parts)
        _check_fold(model.cross_fit, fold, train, test)
        folds[test & (folds < 0)] = fold
        learned.append(train)
    if not learned:
        raise ValueError(f"cross_fit={model.cross_fit!r} must make at least one fold.")
    return judges(folds, np.stack(learned))


def _parts(model, host: Problem, params: dict) -> list:
    """Return what the splitter yields; its errors name the parameter."""
    y = host.y if model._classifies else host.y + model._origin
    try:
        return list(model.cross_fit.split(host.X_gate, y, **params))
    except ValueError as error:
        raise ValueError(
            f"cross_fit={model.cross_fit!r} cannot split the {host.y.shape[0]} rows "
            f"of positive weight: {error}"
        ) from error


def _mask(cross_fit: Any, rows, n_rows: int) -> np.ndarray:
    """Return the rows that a splitter names, as a mask."""
    mask = np.zeros(n_rows, dtype=bool)
    try:
        mask[rows] = True
    except IndexError as error:
        raise ValueError(
            f"cross_fit={cross_fit!r} must split {n_rows} rows, those of "
            f"positive weight: {error}"
        ) from error
    return mask


def _check_fold(cross_fit: Any, fold: int, train: np.ndarray, test: np.ndarray) -> None:
    """Raise if a fold of a splitter can judge no row out of fold."""
    both = int((train & test).sum())
    if train.any() and test.any() and not both:
        return
    trouble = f"has {both} rows in both its training and its test part"
    if not both:
        trouble = f"has no {'test' if train.any() else 'training'} rows"
    raise ValueError(f"cross_fit={cross_fit!r}: fold {fold} {trouble}.")


def _warn_of_rare_classes(
    cross_fit: Any, classes: np.ndarray, y: np.ndarray, folds: np.ndarray
) -> None:
    """Warn of classes that models may have to judge without having met them."""
    n_folds = int(folds.max()) + 1
    count = np.zeros((len(classes), n_folds), dtype=np.intp)
    np.add.at(count, (y, folds), 1)
    n_rows = count.sum(axis=1)
    n_met = (count > 0).sum(axis=1)
    rare = np.flatnonzero((n_rows < n_folds) | (n_met < 2))
    if rare.size:
        first = rare[0]
        others = len(rare) - 1
        also = f" (and {others} more classes)" if others else ""
        warnings.warn(
            f"Class {classes[first].item()!r}{also} has {n_rows[first]} rows, in "
            f"{n_met[first]} of the {n_folds} folds of cross_fit="
            f"{cross_fit!r}: its rows are judged by models that saw few or "
            "none of them. Use fewer folds, merge rare classes, or set "
            "cross_fit=None.",
            UserWarning,
            stacklevel=level_of_caller(),
        )
