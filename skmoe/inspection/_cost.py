"""Parameters and multiply-adds per row of gates and experts.

To count another learner, register a function that takes a model and X, the rows as the
model reads them, and returns a `Cost`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.tree import BaseDecisionTree

from .._sklearn_compat import boosted_trees
from ..experts import AveragedClassifier, AveragedRegressor
from ..gates import (
    ConstantGate,
    EstimatorGate,
    GaussianGate,
    GroupGate,
    HierarchicalGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)


@dataclass(frozen=True)
class Cost:
    """What a model holds, and computes per row.

    Attributes
    ----------
    parameters : float
        Number of its parameters; NaN if they cannot be counted.
    multiply_adds : float
        Multiply-adds per row; a comparison in a tree counts as one.
    """

    parameters: float
    multiply_adds: float

    @classmethod
    def total(cls, costs: Any) -> Cost:
        """Return the sum of costs."""
        costs = list(costs)
        return cls(
            float(sum(each.parameters for each in costs)),
            float(sum(each.multiply_adds for each in costs)),
        )


UNKNOWN = Cost(np.nan, np.nan)


@singledispatch
def cost(model: Any, X: Any) -> Cost:
    """Return the cost of a fitted gate or learner; NaN if it cannot be counted."""
    if hasattr(model, "coef_") and not hasattr(model, "support_vectors_"):
        n = int(np.prod(np.shape(model.coef_)))
        return Cost(n + np.size(getattr(model, "intercept_", ())), n)
    return UNKNOWN


# ------------------------------------------------------------------- learners
@cost.register
def _(model: Pipeline, X: Any) -> Cost:
    X = model[:-1].transform(X) if len(model.steps) > 1 else X
    return cost(model.steps[-1][1], X)


@cost.register(AveragedRegressor)
@cost.register(AveragedClassifier)
def _(model: Any, X: Any) -> Cost:
    return Cost.total(cost(each, X) for each in model.estimators)


@cost.register(DummyRegressor)
@cost.register(DummyClassifier)
def _(model: Any, X: Any) -> Cost:
    said = getattr(model, "constant_", getattr(model, "class_prior_", ()))
    return Cost(np.size(said), 0)


@cost.register
def _(model: BaseDecisionTree, X: Any) -> Cost:
    tree = model.tree_
    path = model.decision_path(X)
    n_splits = tree.node_count - tree.n_leaves
    held = 2 * n_splits + tree.n_leaves * tree.value[0].size
    return Cost(held, path.nnz / path.shape[0] - 1.0)


@cost.register(RandomForestRegressor)
@cost.register(RandomForestClassifier)
@cost.register(ExtraTreesRegressor)
@cost.register(ExtraTreesClassifier)
@cost.register(GradientBoostingRegressor)
@cost.register(GradientBoostingClassifier)
def _(model: Any, X: Any) -> Cost:
    X = X if hasattr(X, "tocsr") else np.asarray(X)
    return Cost.total(cost(tree, X) for tree in np.ravel(model.estimators_))


@cost.register(BaggingRegressor)
@cost.register(BaggingClassifier)
def _(model: Any, X: Any) -> Cost:
    X = X if hasattr(X, "tocsr") else np.asarray(X)
    return Cost.total(
        cost(each, X[:, columns])
        for each, columns in zip(
            model.estimators_, model.estimators_features_, strict=True
        )
    )


@cost.register(HistGradientBoostingRegressor)
@cost.register(HistGradientBoostingClassifier)
def _(model: Any, X: Any) -> Cost:
    """Count the paths of the training rows, whose numbers the trees hold."""
    held = compared = 0.0
    for nodes in boosted_trees(model):
        leaves = nodes[nodes["is_leaf"].astype(bool)]
        held += 2 * (len(nodes) - len(leaves)) + len(leaves)
        compared += float(np.average(leaves["depth"], weights=leaves["count"]))
    return Cost(held, compared)


@cost.register(MLPRegressor)
@cost.register(MLPClassifier)
def _(model: Any, X: Any) -> Cost:
    n = sum(coef.size for coef in model.coefs_)
    return Cost(n + sum(each.size for each in model.intercepts_), n)


# ---------------------------------------------------------------------- gates
@cost.register(SoftmaxGate)
@cost.register(ProductGate)
@cost.register(HierarchicalGate)
def _(gate: Any, X: Any) -> Cost:
    """Count all branches; a search that opens only some of them costs less."""
    return Cost(gate.coef_.size + gate.intercept_.size, gate.coef_.size)


@cost.register
def _(gate: GaussianGate, X: Any) -> Cost:
    densities = gate.densities
    n_experts, d = densities.means.shape
    held = densities.means.size + n_experts + densities.n_numbers
    return Cost(held, n_experts * densities.multiply_adds(d))


@cost.register
def _(gate: TreeGate, X: Any) -> Cost:
    trees = np.ravel(getattr(gate.grown_, "estimators_", gate.grown_))
    seen = gate.view_.rows(np.asarray(X))
    of_trees = [cost(tree, seen) for tree in trees]
    n_splits = sum(tree.tree_.node_count - tree.tree_.n_leaves for tree in trees)
    return Cost(2 * n_splits + gate.table_.nnz, Cost.total(of_trees).multiply_adds)


@cost.register
def _(gate: EstimatorGate, X: Any) -> Cost:
    return cost(gate.estimator_, X)


@cost.register
def _(gate: GroupGate, X: Any) -> Cost:
    return Cost(gate.shares_.size + gate.population_.size, 0)


@cost.register
def _(gate: ConstantGate, X: Any) -> Cost:
    return Cost(gate.log_weights_.size, 0)
