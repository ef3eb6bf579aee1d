"""The converter of mixtures: gate, routing rule and experts as one graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from skl2onnx import update_registered_converter
from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
from skl2onnx.common.utils_classifier import get_label_classes
from sklearn.pipeline import Pipeline

from ..estimators import MoEClassifier, MoERegressor, MoETransformer
from ..likelihoods import Likelihood
from ._experts import Answers, mixture
from ._gates import gate_logits, gate_view, routing
from ._graph import Graph
from ._parts import Input, answer, begin, finish, give, label_type

LARGE = 1e30
"""A number that stands for infinity, also in float32."""


def convert_mixture(scope: Any, operator: Any, container: Any) -> None:
    """Convert a fitted mixture, inside a conversion by skl2onnx."""
    model = operator.raw_operator
    if model.capacity_factor is not None:
        raise ValueError(
            f"capacity_factor={model.capacity_factor!r} cannot be exported to ONNX: "
            "predictions depend on the batch. Use set_params(capacity_factor=None)."
        )
    graph, inputs, X = begin(scope, operator, container)
    classes = getattr(model, "classes_", None)
    routings = [
        routing(graph, logits, model.n_experts_, model.top_k, model.top_p)
        for logits in all_logits(graph, inputs, X, model)
    ]
    answers = answers_of(model)
    output = mixture(graph, inputs, X, routings, model.experts_, answers)
    if classes is None and hasattr(model, "shared_expert_"):
        output = graph.node("Add", output, answer(graph, model.shared_expert_, inputs))
    if classes is not None:
        output = calibrated(graph, output, model.temperature_, model.class_bias_)
    labels = None if classes is None else get_label_classes(scope, model)
    give(graph, output, operator, labels)
    finish(graph, container)


def convert_transformer(scope: Any, operator: Any, container: Any) -> None:
    """Convert a fitted `MoETransformer`, inside a conversion by skl2onnx."""
    graph, inputs, X = begin(scope, operator, container)
    outputs = [
        graph.node("Softmax", logits, axis=1)
        for logits in all_logits(graph, inputs, X, operator.raw_operator.estimator_)
    ]
    give(graph, graph.node("Concat", *outputs, axis=1), operator, None)
    finish(graph, container)


def all_logits(
    graph: Graph, inputs: Sequence[Input], X: str, model: Any
) -> Iterator[str]:
    """Add the gates of a mixture, one or one per output; yield their logits."""
    for gate in getattr(model, "gates_", [model.gate_]):
        before, last = gate_parts(gate)
        yield gate_logits(last, graph, gate_view(graph, before, inputs, X))


def gate_parts(gate: Any) -> tuple[Any, Any]:
    """Return the fitted steps before a gate or None, and the gate."""
    if not isinstance(gate, Pipeline):
        return None, gate
    return (gate[:-1] if len(gate.steps) > 1 else None), gate.steps[-1][1]


def calibrated(graph: Graph, proba: str, temperature: float, bias: np.ndarray) -> str:
    """Return the calibrated class probabilities."""
    if temperature == 1.0 and not bias.any():
        return proba
    tiny = graph.constant(np.array(np.finfo(np.float32).tiny, dtype=np.float64))
    log_proba = graph.node("Log", graph.node("Max", proba, tiny))
    cooled = graph.node("Mul", log_proba, graph.constant(np.array(1.0 / temperature)))
    biased = graph.node("Add", cooled, graph.constant(bias[None, :]))
    return graph.node("Softmax", biased, axis=1)


def n_outputs(model: Any) -> int:
    """Return the number of classes, of outputs, or of columns."""
    if isinstance(model, MoETransformer):
        return len(model.get_feature_names_out())
    if hasattr(model, "classes_"):
        return len(model.classes_)
    return np.size(model.likelihood_.low_)


def answers_of(model: Any) -> Answers:
    """Return the kind of the experts' predictions."""
    n = n_outputs(model)
    if hasattr(model, "classes_"):
        return Answers(n, model.classes_)
    family = model.likelihood_
    if family.centred and model.n_experts_ > 1 and model.top_k != 1:
        raise TypeError(
            f"likelihood={model.likelihood!r} cannot be exported to ONNX: predict "
            "returns the median of several experts. Use top_k=1, so that one expert "
            "answers."
        )
    probe = np.outer([-LARGE, -1.0, 0.0, 0.25, 0.5, 0.75, 1.0, LARGE], np.ones(n))
    means = family.mean(probe)
    low = means[0]
    high = means[-1]
    same = type(family).means is Likelihood.means
    if not same or not np.array_equal(means, np.clip(probe, low, high)):
        raise TypeError(
            f"likelihood={model.likelihood!r} cannot be exported to ONNX: its means "
            "are not what the experts predict."
        )
    if np.all(low == -LARGE) and np.all(high == LARGE):
        return Answers(n)
    return Answers(n, low=low, high=high)


def set_output_types(operator: Any) -> None:
    """Tell skl2onnx the types and shapes of the outputs."""
    model = operator.raw_operator
    first = operator.inputs[0].type
    n_rows = first.shape[0] if first.shape else None
    double = any(isinstance(each.type, DoubleTensorType) for each in operator.inputs)
    kind = DoubleTensorType if double else FloatTensorType
    operator.outputs[-1].type = kind([n_rows, n_outputs(model)])
    if len(operator.outputs) == 2:
        operator.outputs[0].type = label_type(
            get_label_classes(operator.scope_inst, model)
        )([n_rows])


def register() -> None:
    """Register the three estimators with skl2onnx; the import does so."""
    update_registered_converter(
        MoETransformer, "SkmoeMoETransformer", set_output_types, convert_transformer
    )
    update_registered_converter(
        MoERegressor, "SkmoeMoERegressor", set_output_types, convert_mixture
    )
    update_registered_converter(
        MoEClassifier,
        "SkmoeMoEClassifier",
        set_output_types,
        convert_mixture,
        options={
            "zipmap": [True, False, "columns"],
            "nocl": [True, False],
            "output_class_labels": [False, True],
        },
    )
