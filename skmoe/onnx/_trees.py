"""Trees of histogram gradient boosting and of tree gates, in ONNX's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import numpy_helper
from sklearn.base import is_classifier

from ._graph import Graph

ML = "ai.onnx.ml"


class Nodes(NamedTuple):
    """One tree: arrays over its nodes, and the values that leaves add to targets.

    A row goes left if its feature is at most the threshold. ``targets`` and ``values``
    are (n_leaves, m): each leaf adds m values to m targets.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    missing_left: np.ndarray
    is_leaf: np.ndarray
    targets: np.ndarray
    values: np.ndarray


def sum_of_trees(graph: Graph, X: str, trees: Sequence[Nodes], base: np.ndarray) -> str:
    """Add an ensemble of trees; return its sums, (n, n_targets).

    Parameters
    ----------
    graph : Graph
    X : str
        Rows, in the graph's dtype.
    trees : sequence of Nodes
    base : (n_targets,) array
        Initial value of each sum.
    """
    sizes = [len(tree.feature) for tree in trees]
    leaf_ids = [np.flatnonzero(tree.is_leaf) for tree in trees]
    width = trees[0].targets.shape[1]
    dtype = graph.dtype

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(tree, name).ravel() for tree in trees])

    def whole(values: np.ndarray) -> list[int]:
        return values.astype(np.int64).tolist()

    is_leaf = joined("is_leaf").astype(bool)
    modes = np.where(is_leaf, "LEAF", "BRANCH_LEQ")
    tree_ids = np.repeat(np.arange(len(trees)), sizes)
    target_trees = np.repeat(np.arange(len(trees)), [width * len(i) for i in leaf_ids])
    floats = {
        "nodes_values": at_most(joined("threshold"), dtype),
        "target_weights": joined("values").astype(dtype),
        "base_values": np.asarray(base, dtype=dtype),
    }
    if dtype == np.float64:
        floats = {
            f"{name}_as_tensor": numpy_helper.from_array(values, name)
            for name, values in floats.items()
        }
    else:
        floats = {name: values.tolist() for name, values in floats.items()}
    graph.opsets.add((ML, 3))
    sums = graph.node(
        "TreeEnsembleRegressor",
        X,
        domain=ML,
        aggregate_function="SUM",
        post_transform="NONE",
        n_targets=len(base),
        nodes_treeids=whole(tree_ids),
        nodes_nodeids=whole(np.concatenate([np.arange(size) for size in sizes])),
        nodes_featureids=whole(np.where(is_leaf, 0, joined("feature"))),
        nodes_modes=modes.tolist(),
        nodes_truenodeids=whole(np.where(is_leaf, 0, joined("left"))),
        nodes_falsenodeids=whole(np.where(is_leaf, 0, joined("right"))),
        nodes_missing_value_tracks_true=whole(joined("missing_left")),
        target_treeids=whole(target_trees),
        target_nodeids=whole(np.concatenate([np.repeat(i, width) for i in leaf_ids])),
        target_ids=whole(joined("targets")),
        **floats,
    )
    return graph.node("Cast", sums, to=graph.elem_type)  # always float32


def at_most(threshold: np.ndarray, dtype: Any) -> np.ndarray:
    """Return thresholds rounded down to a dtype, so that x <= t for the same x."""
    rounded = threshold.astype(dtype)
    below = np.nextafter(rounded, np.asarray(-np.inf, dtype=dtype))
    return np.where(rounded.astype(np.float64) > threshold, below, rounded)


# ------------------------------------------------- histogram gradient boosting
def boosted(graph: Graph, X: str, model: Any) -> str:
    """Add histogram gradient boosting; return predictions or probabilities."""
    if model.is_categorical_ is not None:
        raise ValueError(
            f"{type(model).__name__} with categorical_features cannot be exported to "
            "ONNX. Encode the categories in a Pipeline before it."
        )
    trees = [
        _boosted_tree(predictor.nodes, target)
        for iteration in model._predictors
        for target, predictor in enumerate(iteration)
    ]
    base = np.ravel(model._baseline_prediction)
    raw = sum_of_trees(graph, X, trees, base)
    if not is_classifier(model):
        return graph.node("Exp", raw) if model.loss in ("poisson", "gamma") else raw
    if len(base) > 1:
        return graph.node("Softmax", raw, axis=1)
    positive = graph.node("Sigmoid", raw)
    negative = graph.node("Sigmoid", graph.node("Neg", raw))
    return graph.node("Concat", negative, positive, axis=1)


def _boosted_tree(nodes: np.ndarray, target: int) -> Nodes:
    leaf = nodes["is_leaf"].astype(bool)
    values = nodes["value"][leaf][:, None]
    return Nodes(
        nodes["feature_idx"],
        np.where(leaf, 0.0, nodes["num_threshold"]),
        nodes["left"],
        nodes["right"],
        nodes["missing_go_to_left"],
        leaf,
        np.full(values.shape, target),
        values,
    )


# ------------------------------------------------------------------ tree gates
def leaves_of(tree: Any, table: np.ndarray, unit: np.ndarray) -> Nodes:
    """Return a tree of scikit-learn, with the probabilities of experts in its leaves.

    Parameters
    ----------
    tree : sklearn.tree._tree.Tree
    table : (n_nodes, n_experts) array
        Probabilities of experts per node; only the rows of leaves are read.
    unit : (n_features,) array
        Factor of the thresholds of each feature.
    """
    leaf = tree.children_left < 0
    values = table[leaf]
    return Nodes(
        tree.feature,
        np.where(leaf, 0.0, tree.threshold * unit[np.maximum(tree.feature, 0)]),
        tree.children_left,
        tree.children_right,
        tree.missing_go_to_left,
        leaf,
        np.broadcast_to(np.arange(values.shape[1]), values.shape),
        values,
    )
