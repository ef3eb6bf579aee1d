"""Why a gate prefers an expert, for kinds of gate that can say.

For another kind, register a function that takes a gate, x of shape (d,) and the names
of the features, and returns `Reasons`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np

from ..gates import (
    ConstantGate,
    GaussianGate,
    GroupGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)


@dataclass(frozen=True, eq=False)
class Reasons:
    """The reasons of a gate for its choice.

    Attributes
    ----------
    parts : (n_experts, d) array or None
        What each feature adds to log p(k | x), up to the same constant for all k.
    offset : (n_experts,) array or None
        What is added for any x.
    rules : list of str
        Conditions on x that lead to the choice.
    """

    parts: np.ndarray | None = None
    offset: np.ndarray | None = None
    rules: tuple[str, ...] = ()


@singledispatch
def reasons(gate: Any, x: np.ndarray, names: np.ndarray) -> Reasons:
    """Return the reasons of a gate for a row; most kinds have none."""
    return Reasons()


@reasons.register
def _(gate: SoftmaxGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    return Reasons(gate.coef_ * x, gate.intercept_)


@reasons.register
def _(gate: ProductGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    # A logit is the sum of those of the cell's row and column in the grid.
    row = gate.cells_[:, 0]
    column = gate.cells_[:, 1] + gate.shape_[0]
    coef = gate.coef_[row] + gate.coef_[column]
    return Reasons(coef * x, gate.intercept_[row] + gate.intercept_[column])


@reasons.register
def _(gate: GaussianGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    """Split the squared distance δᵀPδ into its terms δ_j (Pδ)_j."""
    apart = x - gate.means_
    gamma = gate.density_exponent_
    n_experts, d = apart.shape
    covariance = gate.densities.matrices(gate.covariances_, n_experts)
    # A constant feature has no variance and gives no reason.
    varies = (np.diagonal(covariance, axis1=1, axis2=2) > 0).all(axis=0)
    covariance = covariance[:, varies][:, :, varies]
    # The units of features may differ by orders of magnitude.
    unit = np.sqrt(np.diagonal(covariance[0]))
    covariance = covariance / np.outer(unit, unit)
    apart = apart[:, varies] / unit
    parts = np.zeros((n_experts, d))
    pressed = np.linalg.solve(covariance, apart[:, :, None])[:, :, 0]
    parts[:, varies] = -0.5 * gamma * apart * pressed
    log_volume = np.linalg.slogdet(covariance)[1] + 2.0 * np.log(unit).sum()
    return Reasons(parts, np.log(gate.weights_) - 0.5 * gamma * log_volume)


@reasons.register
def _(gate: TreeGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    if hasattr(gate.grown_, "estimators_"):
        return Reasons()  # the paths of many trees say little
    tree = gate.tree_.tree_
    path = gate.grown_.decision_path(gate.view_.rows(x[None])).indices
    rules = []
    for node, child in pairwise(path):
        sign = "≤" if child == tree.children_left[node] else ">"
        rules.append(f"{names[tree.feature[node]]} {sign} {tree.threshold[node]:.4g}")
    return Reasons(rules=tuple(rules))


@reasons.register
def _(gate: GroupGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    if not np.isscalar(gate.columns):
        return Reasons()
    group = x[gate.columns]
    name = names[gate.columns]
    if group in gate.groups_:
        return Reasons(rules=(f"{name} = {group:g}",))
    return Reasons(rules=(f"{name} = {group:g} was not there in fit",))


@reasons.register
def _(gate: ConstantGate, x: np.ndarray, names: np.ndarray) -> Reasons:
    return Reasons(rules=("the gate ignores x",))
