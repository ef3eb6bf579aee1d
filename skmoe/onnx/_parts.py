"""Fitted estimators as parts of a graph, converted by skl2onnx and inlined."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import (
    DoubleTensorType,
    FloatTensorType,
    Int64TensorType,
    StringTensorType,
)
from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
from sklearn.base import is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from .._learners import bare
from ._check import loaded
from ._graph import Graph
from ._trees import boosted

OPSET = 18
"""The first version of ONNX in which a scatter can add."""


class Input(NamedTuple):
    """A tensor of rows: its column in X, its name and its type in skl2onnx."""

    column: str
    name: str
    kind: Any


def answer(graph: Graph, estimator: Any, inputs: Sequence[Input]) -> str:
    """Add a fitted estimator; return its predictions or class probabilities.

    Parameters
    ----------
    graph : Graph
    estimator : fitted regressor, classifier or transformer
    inputs : sequence of Input
        The inputs of the estimator.
    """
    estimator = bare(estimator)
    if isinstance(estimator, DummyClassifier):
        prior = graph.constant(np.atleast_2d(estimator.class_prior_))
        return graph.node("Expand", prior, rows_by(graph, inputs[0].name, 1))
    model = converted(graph, estimator, inputs)
    graph.opsets |= {(each.domain, each.version) for each in model.opset_import}
    part = model.graph
    prefix = graph.new_name("part") + "_"
    # By position, as skl2onnx renames an input that has the name of an output.
    names = [each.name for each in part.input]
    values = [_in_dtype(graph, *pair) for pair in zip(inputs, part.input, strict=True)]
    value_of = dict(zip(names, values, strict=True))
    _rename(part, prefix, value_of)
    wanted = part.output[-1]  # of a classifier, the probabilities
    nodes = needed(part.node, {wanted.name})
    read = set().union(*map(_read_by, nodes))
    graph.initializers.extend(each for each in part.initializer if each.name in read)
    graph.nodes.extend(nodes)
    # Trees return float32 for any input.
    return graph.node("Cast", wanted.name, to=graph.elem_type)


def converted(graph: Graph, estimator: Any, inputs: Sequence[Input]) -> onnx.ModelProto:
    """Return an estimator as converted by skl2onnx, in a form that onnxruntime loads.

    It computes in the graph's dtype, or in float32 if onnxruntime has nothing else.
    """
    options = {id(estimator): {"zipmap": False}} if is_classifier(estimator) else None
    boosting = (HistGradientBoostingRegressor, HistGradientBoostingClassifier)
    own = [(each.column, each.kind) for each in inputs]
    single = [(column, _single(kind)) for column, kind in own]
    for types in [own] if graph.dtype == np.float32 else [own, single]:
        try:
            model = convert_sklearn(
                estimator,
                initial_types=types,
                target_opset=graph.target_opset,
                options=options,
                custom_conversion_functions=dict.fromkeys(boosting, convert_boosted),
            )
            loaded(model)
        except Exception as error:  # skl2onnx and onnxruntime raise of all kinds
            reason = reason_of(error)
            continue
        if not model.functions:
            return model
        reason = (
            "skl2onnx writes it with its own functions, which the branch of an expert "
            "cannot hold."
        )
    raise TypeError(f"{estimator!r} cannot be exported to ONNX: {reason}")


def reason_of(error: Exception) -> str:
    """Say why an estimator cannot be converted."""
    if isinstance(error, (MissingConverter, MissingShapeCalculator)):
        return (
            "skl2onnx has no converter for it, or for a part of it. See "
            "skl2onnx.update_registered_converter."
        )
    return f"skl2onnx or onnxruntime refuses it: {str(error).splitlines()[0]}"


def _single(kind: Any) -> Any:
    """Return a type of skl2onnx with float32 in place of float64."""
    return FloatTensorType(kind.shape) if isinstance(kind, DoubleTensorType) else kind


def _in_dtype(graph: Graph, given: Input, wanted: onnx.ValueInfoProto) -> str:
    """Return a tensor of rows in the dtype that a part reads."""
    to = wanted.type.tensor_type.elem_type
    if given.kind.to_onnx_type().tensor_type.elem_type == to:
        return given.name
    return graph.node("Cast", given.name, to=to)


def rows_by(graph: Graph, X: str, width: int) -> str:
    """Return the shape (n_rows of X, width)."""
    n_rows = graph.node("Shape", X, start=0, end=1)
    return graph.node("Concat", n_rows, graph.constant([width]), axis=0)


def _rename(graph: onnx.GraphProto, prefix: str, known: dict[str, str]) -> None:
    """Give new names to some tensors and a prefix to all others, also in branches.

    `onnx.compose.add_prefix_graph` omits constants that branches read.
    """

    def new(name: str) -> str:
        return known.get(name, prefix + name) if name else name

    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
        for attribute in node.attribute:
            _rename(attribute.g, prefix, known)
    # This includes the inputs of a loop's body; those of a part are in `known`.
    for each in (*graph.input, *graph.initializer, *graph.output):
        each.name = new(each.name)


def needed(nodes: Iterable[onnx.NodeProto], wanted: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes on which the wanted tensors depend, in their order."""
    kept = []
    wanted = set(wanted)
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= _read_by(node)
    return kept[::-1]


def _read_by(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node reads, also in its branches."""
    read = set(node.input)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            read |= _read_by(inner)
        read |= {each.name for each in attribute.g.output}
    return read


# ------------------------------------------------- inside a conversion by skl2onnx
def begin(scope: Any, operator: Any, container: Any) -> tuple[Graph, list[Input], str]:
    """Return an empty graph, the operator's inputs, and these as one float array.

    If inputs are not numeric, the array is "".
    """
    if container.main_opset < OPSET:
        raise ValueError(
            f"target_opset must be at least {OPSET}; got {container.main_opset}."
        )
    double = any(isinstance(each.type, DoubleTensorType) for each in operator.inputs)
    graph = Graph(
        scope.get_unique_variable_name("moe"),
        np.float64 if double else np.float32,
        container.target_opset,
    )
    # New names: skl2onnx may swap its own names, but not inside branches.
    inputs = [
        Input(each.raw_name, graph.node("Identity", each.full_name), each.type)
        for each in operator.inputs
    ]
    if any(isinstance(each.kind, StringTensorType) for each in inputs):
        return graph, inputs, ""
    tensor_type = graph.tensor_type
    columns = [
        each.name
        if isinstance(each.kind, tensor_type)
        else graph.node("Cast", each.name, to=graph.elem_type)
        for each in inputs
    ]
    X = columns[0] if len(columns) == 1 else graph.node("Concat", *columns, axis=1)
    return graph, inputs, X


def give(graph: Graph, found: str, operator: Any, classes: np.ndarray | None) -> None:
    """Make predictions, or labels and probabilities, the operator's outputs."""
    outputs = [each.full_name for each in operator.outputs]
    if classes is not None:
        if classes.dtype.kind == "b":
            classes = classes.astype(np.int64)
        best = graph.node("ArgMax", found, axis=1, keepdims=0)
        graph.node("Gather", graph.constant(classes), best, into=outputs[0])
    kind = (
        np.float64
        if isinstance(operator.outputs[-1].type, DoubleTensorType)
        else np.float32
    )
    to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph.node("Cast", found, to=to, into=outputs[-1])


def finish(graph: Graph, container: Any) -> None:
    """Hand a graph over to skl2onnx."""
    container.nodes.extend(graph.nodes)
    container.initializers.extend(graph.initializers)
    container.node_domain_version_pair_sets.update(
        {("", container.main_opset), *graph.opsets}
    )


def convert_boosted(scope: Any, operator: Any, container: Any) -> None:
    """Convert histogram gradient boosting, as onnx refuses skl2onnx's conversion."""
    graph, _, X = begin(scope, operator, container)
    model = operator.raw_operator
    give(graph, boosted(graph, X, model), operator, getattr(model, "classes_", None))
    finish(graph, container)


def label_type(classes: np.ndarray) -> Any:
    """Return skl2onnx's type of labels."""
    if classes.dtype.kind not in "biuUO":
        raise TypeError(
            "ONNX needs class labels that are integers or strings; got dtype "
            f"{classes.dtype}."
        )
    return StringTensorType if classes.dtype.kind in "UO" else Int64TensorType
