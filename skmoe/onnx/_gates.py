"""Nodes that compute log p(k | x) of a gate, up to a constant of each row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto
from sklearn.impute import SimpleImputer

from .._learners import bare
from ..gates import (
    ConstantGate,
    EstimatorGate,
    FrozenGate,
    GaussianGate,
    HierarchicalGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from ._graph import Graph
from ._parts import Input, answer, rows_by
from ._trees import leaves_of, sum_of_trees


@functools.singledispatch
def gate_logits(gate: Any, graph: Graph, X: str) -> str:
    """Add a fitted gate; return its logits, (n, n_experts).

    Parameters
    ----------
    gate : BaseGate
    graph : Graph
    X : str
        Rows as the gate reads them, in the graph's dtype.
    """
    kinds = sorted(kind.__name__ for kind in gate_logits.registry if kind is not object)
    raise TypeError(
        f"gate {gate!r} cannot be exported to ONNX; it must be one of "
        f"{', '.join(kinds)}."
    )


@gate_logits.register
def _(gate: SoftmaxGate, graph: Graph, X: str) -> str:
    return graph.product(X, gate.coef_, gate.intercept_)


@gate_logits.register
def _(gate: FrozenGate, graph: Graph, X: str) -> str:
    return gate_logits(bare(gate.estimator), graph, X)


@gate_logits.register
def _(gate: ConstantGate, graph: Graph, X: str) -> str:
    log_weights = graph.constant(gate.log_weights_[None])
    return graph.node("Expand", log_weights, rows_by(graph, X, 1))


@gate_logits.register
def _(gate: ProductGate, graph: Graph, X: str) -> str:
    both = graph.product(X, gate.coef_, gate.intercept_)
    sizes = graph.constant(list(gate.shape_))
    names = [graph.new_name("grid") for _ in gate.shape_]
    graph.nodes_of("Split", [both, sizes], names, attributes={"axis": 1})
    terms = [
        graph.node("Gather", name, graph.constant(gate.cells_[:, axis]), axis=1)
        for axis, name in enumerate(names)
    ]
    return graph.node("Add", *terms)


@gate_logits.register
def _(gate: HierarchicalGate, graph: Graph, X: str) -> str:
    logits = graph.product(X, gate.coef_, gate.intercept_)
    nodes = [gate.tree_]
    above = [""]
    sizes = []
    experts = []
    found = []
    for children in nodes:  # which grows on the way, level by level
        sizes.append(len(children))
        nodes += [child for child in children if isinstance(child, list)]
    names = [graph.new_name("children") for _ in nodes]
    graph.nodes_of(
        "Split", [logits, graph.constant(sizes)], names, attributes={"axis": 1}
    )
    for children, name, parent in zip(nodes, names, above, strict=False):
        log_proba = graph.node("LogSoftmax", name, axis=1)
        if parent:
            log_proba = graph.node("Add", log_proba, parent)
        inner = [isinstance(child, list) for child in children]
        above += [
            graph.node("Gather", log_proba, graph.constant([i]), axis=1)
            for i in np.flatnonzero(inner)
        ]
        leaves = np.flatnonzero(~np.array(inner))
        if len(leaves):
            found.append(
                graph.node("Gather", log_proba, graph.constant(leaves), axis=1)
            )
            experts += [children[i] for i in leaves]
    joined = graph.node("Concat", *found, axis=1)
    return graph.node("Gather", joined, graph.constant(np.argsort(experts)), axis=1)


@gate_logits.register
def _(gate: GaussianGate, graph: Graph, X: str) -> str:
    densities = gate.densities
    if densities.linear:
        return gate_logits(gate.to_softmax(), graph, X)
    covariances = gate.covariances_
    variances = densities.variances(covariances)
    seen = np.flatnonzero(variances.max(axis=0) > 0)  # constant features do not count
    gamma = gate.density_exponent_
    log_weights = np.log(gate.weights_)
    # Standardise, so that float32 loses little.
    center = gate.means_.mean(axis=0)[seen]
    scale = np.sqrt(variances.mean(0))[seen]
    means = (gate.means_[:, seen] - center) / scale
    Z = graph.node("Gather", X, graph.constant(seen), axis=1)
    Z = graph.node("Sub", Z, graph.constant(center))
    Z = graph.node("Div", Z, graph.constant(scale))
    if densities.crossed:
        cov = covariances[:, seen][:, :, seen] / np.outer(scale, scale)
        return _crossed(graph, Z, gamma, log_weights, means, cov)
    precision = scale**2 / variances[:, seen]
    bias = np.sum(precision * means**2 - np.log(precision), axis=1)
    both = graph.node("Concat", Z, graph.node("Mul", Z, Z), axis=1)
    coef = gamma * np.hstack([precision * means, -0.5 * precision])
    return graph.product(both, coef, log_weights - 0.5 * gamma * bias)


def _crossed(
    graph: Graph,
    Z: str,
    gamma: float,
    log_weights: np.ndarray,
    means: np.ndarray,
    covariances: np.ndarray,
) -> str:
    """Add densities of correlated features, which are whitened per expert."""
    n_experts, d = means.shape
    factor = np.linalg.cholesky(covariances)
    whitening = np.linalg.inv(factor)  # (z - mu) is white times this, transposed
    log_det = 2.0 * np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    shift = np.einsum("kij,kj->ki", whitening, means)
    white = graph.product(Z, whitening.reshape(-1, d), -shift.ravel())
    white = graph.node("Reshape", white, graph.constant([0, n_experts, d]))
    square = graph.node("ReduceSumSquare", white, graph.constant([2]), keepdims=0)
    density = graph.node("Mul", square, graph.constant(np.array(-0.5 * gamma)))
    return graph.node(
        "Add", density, graph.constant(log_weights - 0.5 * gamma * log_det)
    )


@gate_logits.register
def _(gate: EstimatorGate, graph: Graph, X: str) -> str:
    rows = Input("X", X, graph.tensor_type([None, gate.n_features_in_]))
    proba = answer(graph, gate.estimator_, [rows])
    table = (1.0 - gate.floor) * gate.table_.toarray()
    mass = graph.product(proba, table.T, gate.floor * gate.share_)
    return graph.node("Log", mass)


@gate_logits.register
def _(gate: TreeGate, graph: Graph, X: str) -> str:
    trees = getattr(gate.grown_, "estimators_", [gate.grown_])
    table = gate.table_.toarray()
    first = 0
    nodes = []
    for tree in (each.tree_ for each in trees):
        own = table[first : first + tree.node_count] + gate.smoothing * gate.share_
        mass = tree.weighted_n_node_samples + gate.smoothing
        nodes.append(leaves_of(tree, own / mass[:, None], gate.view_.unit))
        first += tree.node_count
    if gate.view_.origin.any():
        X = graph.node("Sub", X, graph.constant(gate.view_.origin))
    if graph.dtype == np.float64:  # trees of scikit-learn round what they read
        X = graph.node("Cast", X, to=TensorProto.FLOAT)
        X = graph.node("Cast", X, to=TensorProto.DOUBLE)
    return graph.node("Log", sum_of_trees(graph, X, nodes, np.zeros(table.shape[1])))


def routing(
    graph: Graph, logits: str, n_experts: int, top_k: int | None, top_p: float | None
) -> tuple[str, str]:
    """Add the routing rule; return experts and weights, (n, top_k) each."""
    width = n_experts if top_k is None else min(top_k, n_experts)
    best, experts = [graph.new_name(what) for what in ("best", "experts")]
    graph.nodes_of(
        "TopK",
        [logits, graph.constant([width])],
        [best, experts],
        attributes={"axis": 1},
    )
    if top_p is None:
        return experts, graph.node("Softmax", best, axis=1)
    proba = graph.node(
        "GatherElements", graph.node("Softmax", logits, axis=1), experts, axis=1
    )
    before = graph.node("CumSum", proba, graph.constant(np.array(1)), exclusive=1)
    is_within = graph.node("Less", before, graph.constant(np.array(float(top_p))))
    mass = graph.node("Where", is_within, proba, graph.constant(np.array(0.0)))
    total = graph.node("ReduceSum", mass, graph.constant([1]), keepdims=1)
    return experts, graph.node("Div", mass, total)


def gate_view(graph: Graph, before: Any, inputs: Sequence[Input], X: str) -> str:
    """Return the rows of a gate: X, or the result of the steps before it."""
    if before is None:
        return X
    first = before.steps[0][1]
    if len(before.steps) == 1 and _imputes_nan(first) and X:
        return _imputed(graph, X, first)
    return answer(graph, before, inputs)


def _imputed(graph: Graph, X: str, imputer: SimpleImputer) -> str:
    """Add an imputer of NaN with its indicators, which skl2onnx omits."""
    columns = np.flatnonzero(~np.isnan(imputer.statistics_))
    missing = graph.node("IsNaN", X)
    filled = graph.node("Where", missing, graph.constant(imputer.statistics_), X)
    filled = graph.node("Gather", filled, graph.constant(columns), axis=1)
    if not imputer.add_indicator:
        return filled
    which = graph.constant(imputer.indicator_.features_)
    flags = graph.node("Gather", missing, which, axis=1)
    flags = graph.node("Cast", flags, to=graph.elem_type)
    return graph.node("Concat", filled, flags, axis=1)


def _imputes_nan(step: Any) -> bool:
    """Tell whether a step is an imputer of NaN, as mixtures put before gates."""
    return (
        isinstance(step, SimpleImputer) and step.missing_values != step.missing_values
    )
