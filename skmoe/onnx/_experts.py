"""Nodes that ask each expert about the rows that are routed to it.

An expert may be the mean of several models, and experts may share models. So a mixture
is read as weights on *models*: the experts of a row and their weights become models and
their weights.

Names and shapes in this module:

================  ==============  ====================================================
name              shape           meaning
================  ==============  ====================================================
``model_of``      (K, m)          the models of each expert
``share``         (K, m)          the weight of each model; 0 where there are fewer
``experts``       (n, k)          experts of each row, with ``weights``
``q``                             number of outputs or classes
================  ==============  ====================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, Ridge

from .._learners import bare
from ..experts import (
    PROBABILITY_FLOOR,
    AveragedClassifier,
    AveragedRegressor,
    LogisticPool,
)
from ._graph import Graph
from ._parts import Input, answer, rows_by

AVERAGES = AveragedRegressor, AveragedClassifier


@dataclass(frozen=True)
class Answers:
    """What experts predict: probabilities of ``classes``, or ``n`` outputs.

    Outputs are clipped to ``low`` and ``high``, (n,) each, unless these are None.
    """

    n: int
    classes: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass
class Models:
    """The models that experts consist of; see above.

    ``linear`` tells which models are linear, or logistic with a floor of probabilities
    only for classes that they did not meet.
    """

    models: list[Any]
    model_of: np.ndarray
    share: np.ndarray
    linear: np.ndarray

    @classmethod
    def of(cls, experts: Sequence[Any], answers: Answers) -> Models:
        """Take experts apart, unless their predictions are clipped."""
        classifies = answers.classes is not None
        if answers.low is None:
            parts = [list(_parts(expert)) for expert in experts]
        else:
            parts = [[(expert, 1.0, ())] for expert in experts]
        models = {id(model): model for part in parts for model, _, _ in part}
        place = {key: i for i, key in enumerate(models)}
        width = max(map(len, parts))
        model_of = np.zeros((len(parts), width), dtype=np.int64)
        share = np.zeros((len(parts), width))
        alike: dict[tuple, list[Any]] = {}
        for k, part in enumerate(parts):
            for j, (model, weight, role) in enumerate(part):
                model_of[k, j], share[k, j] = place[id(model)], weight
                alike.setdefault(role, []).append(model)
        linear = np.zeros(len(models), dtype=bool)
        for same in alike.values():
            found = [answers.low is None and _is_linear(m, classifies) for m in same]
            # Probabilities need no common floor only if all experts are logistic.
            if not classifies or all(found):
                for model, is_linear in zip(same, found, strict=True):
                    linear[place[id(model)]] = is_linear
        return cls(list(models.values()), model_of, share, linear)

    def some(self, which: np.ndarray) -> Models | None:
        """Return some of the models, with the weights that they have; None if none."""
        if not which.any():
            return None
        place = np.where(which, np.cumsum(which) - 1, 0)
        model_of = place[self.model_of]
        share = self.share * which[self.model_of]
        used = np.flatnonzero(share.any(axis=0))
        return Models(
            [
                model
                for model, is_wanted in zip(self.models, which, strict=True)
                if is_wanted
            ],
            model_of[:, used],
            share[:, used],
            self.linear[which],
        )

    def entries(self, graph: Graph, experts: str, weights: str) -> tuple[str, str]:
        """Return the models and their weights, from experts and their weights."""
        n_experts, width = self.model_of.shape
        one_each = np.array_equal(self.model_of[:, 0], np.arange(n_experts))
        if one_each and width == 1 and np.all(self.share == 1.0):
            return experts, weights
        flat = graph.constant([0, -1])
        models = graph.node("Gather", graph.constant(self.model_of), experts, axis=0)
        share = graph.node("Gather", graph.constant(self.share), experts, axis=0)
        last = graph.constant([-1])
        share = graph.node("Mul", share, graph.node("Unsqueeze", weights, last))
        return graph.node("Reshape", models, flat), graph.node("Reshape", share, flat)


def _parts(
    expert: Any, weight: float = 1.0, role: tuple = ()
) -> Iterator[tuple[Any, float, tuple]]:
    """Yield the models of an expert, with their weights and places."""
    expert = bare(expert)
    if not isinstance(expert, AVERAGES):
        yield expert, weight, role
        return
    models = expert.estimators
    weights = expert.weights
    if weights is None:
        weights = [1.0 / len(models)] * len(models)
    for j, (model, own) in enumerate(zip(models, weights, strict=True)):
        yield from _parts(model, weight * own, (*role, j))


def _is_linear(model: Any, classifies: bool) -> bool:
    if not classifies:
        return type(model) in (Ridge, LinearRegression)
    return isinstance(model, DummyClassifier) or LogisticPool.supports(model, 0)


def mixture(
    graph: Graph,
    inputs: Sequence[Input],
    X: str,
    routings: Sequence[tuple[str, str]],
    experts: Sequence[Any],
    answers: Answers,
) -> str:
    """Add the experts; return the weighted sum of each row's predictions, (n, q).

    Parameters
    ----------
    graph : Graph
    inputs : sequence of Input
        The inputs of the experts.
    X : str
        The inputs as one array.
    routings : sequence of (str, str)
        Experts and weights of each row: one pair for all outputs, or one each.
    experts : sequence of fitted estimators
    answers : Answers
    """
    models = Models.of(experts, answers)
    outputs = []
    if (linear := models.some(models.linear)) is not None:
        entries = [linear.entries(graph, *each) for each in routings]
        outputs.append(_linear(graph, X, entries, linear, answers))
    if (others := models.some(~models.linear)) is not None:
        entries = [others.entries(graph, *each) for each in routings]
        outputs.append(_scattered(graph, inputs, entries, others, answers))
    return outputs[0] if len(outputs) == 1 else graph.node("Add", *outputs)


# ------------------------------------------------------------- linear models
def _coefficients(
    models: Sequence[Any], classes: np.ndarray | None, q: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return coefficients (M, q, d), intercepts and probability floors (M, q).

    The intercepts of classes that a model did not meet are -inf.
    """
    coefs = []
    intercepts = []
    floors = []
    d = max(model.n_features_in_ for model in models)
    for model in models:
        coef = np.zeros((q, d))
        intercept = np.zeros(q)
        floor = np.zeros(q)
        if classes is None:
            coef[:], intercept[:] = model.coef_, model.intercept_
        else:
            met = np.isin(classes, model.classes_)
            if isinstance(model, DummyClassifier):
                intercept[met] = np.log(model.class_prior_)
            elif met.sum() == 2:
                positive = np.flatnonzero(met)[1]
                coef[positive], intercept[positive] = (
                    model.coef_[0],
                    model.intercept_[0],
                )
            else:
                coef[met], intercept[met] = model.coef_, model.intercept_
            intercept[~met] = -np.inf
            floor[~met] = PROBABILITY_FLOOR / q
        coefs.append(coef)
        intercepts.append(intercept)
        floors.append(floor)
    return np.array(coefs), np.array(intercepts), np.array(floors)


def _linear(
    graph: Graph,
    X: str,
    entries: Sequence[tuple[str, str]],
    models: Models,
    answers: Answers,
) -> str:
    """Add linear models as one product, from which each row takes its own."""
    coef, intercept, floor = _coefficients(models.models, answers.classes, answers.n)
    product = graph.product(X, coef.reshape(-1, coef.shape[2]), intercept.ravel())
    product = graph.node("Reshape", product, graph.constant([0, *coef.shape[:2]]))
    outputs = []
    last = graph.constant([-1])
    for index, weights in entries:
        at = graph.node("Unsqueeze", index, last)
        term = graph.node("GatherND", product, at, batch_dims=1)
        if answers.classes is not None:
            term = graph.node("Softmax", term, axis=2)
        if floor.any():
            rest = graph.constant(1.0 - floor.sum(axis=1, keepdims=True))
            term = graph.node("Mul", term, graph.node("Gather", rest, index, axis=0))
            least = graph.node("Gather", graph.constant(floor), index, axis=0)
            term = graph.node("Add", term, least)
        term = graph.node("Mul", term, graph.node("Unsqueeze", weights, last))
        outputs.append(graph.node("ReduceSum", term, graph.constant([1]), keepdims=0))
    return _own_columns(graph, outputs)


def _own_columns(graph: Graph, answers: Sequence[str]) -> str:
    """Return predictions side by side, if each output has its own routing."""
    if len(answers) == 1:
        return answers[0]
    columns = [
        graph.node("Gather", names, graph.constant([j]), axis=1)
        for j, names in enumerate(answers)
    ]
    return graph.node("Concat", *columns, axis=1)


# ----------------------------------------------------------------- any models
def _scattered(
    graph: Graph,
    inputs: Sequence[Input],
    entries: Sequence[tuple[str, str]],
    models: Models,
    answers: Answers,
) -> str:
    """Add models, ask each about its own rows, and scatter the predictions back.

    A model without rows costs nothing, because its branch is not taken.
    """
    n_models = len(models.models)
    q = answers.n
    first = inputs[0].name
    empty = graph.node(
        "ConstantOfShape",
        rows_by(graph, first, n_models),
        value=numpy_helper.from_array(np.zeros(1, graph.dtype)),
    )
    tables = [
        graph.node("ScatterElements", empty, index, weights, axis=1, reduction="add")
        for index, weights in entries
    ]
    last = graph.constant([-1])
    tables = [graph.node("Unsqueeze", table, last) for table in tables]
    by_model = graph.node("Concat", *tables, axis=2)
    by_model = graph.node("Transpose", by_model, perm=[1, 0, 2])  # (M, n, 1 or q)
    most = graph.node("ReduceMax", by_model, graph.constant([1, 2]), keepdims=0)
    any_row = graph.node("Greater", most, graph.constant(np.array(0.0)))
    rows = []
    values = []
    for place, model in enumerate(models.models):
        at = graph.constant(np.array(place))
        outputs = [graph.new_name("rows"), graph.new_name("answers")]
        kinds = dict(zip(outputs, (TensorProto.INT64, graph.elem_type), strict=True))
        then = graph.branch()
        _ask(then, inputs, by_model, at, model, answers, outputs)
        graph.nodes_of(
            "If",
            [graph.node("Gather", any_row, at, axis=0)],
            outputs,
            attributes={
                "then_branch": then.as_proto(kinds),
                "else_branch": _nothing(graph, q),
            },
        )
        rows.append(outputs[0])
        values.append(outputs[1])
    rows_ = graph.node("Concat", *rows, axis=0)
    answers_ = graph.node("Concat", *values, axis=0)
    rows_ = graph.node("Expand", rows_, graph.constant([1, q]))
    total = graph.node(
        "ConstantOfShape",
        rows_by(graph, first, q),
        value=numpy_helper.from_array(np.zeros(1, graph.dtype)),
    )
    # ScatterND adds in parallel, which loses terms if a row has several experts.
    return graph.node(
        "ScatterElements", total, rows_, answers_, axis=0, reduction="add"
    )


def _ask(
    graph: Graph,
    inputs: Sequence[Input],
    by_model: str,
    at: str,
    model: Any,
    answers: Answers,
    outputs: list[str],
) -> None:
    """Add a model, the rows that it serves and its weighted predictions for them."""
    last = graph.constant([-1])
    weights = graph.node("Gather", by_model, at, axis=0)
    most = graph.node("ReduceMax", weights, last, keepdims=0)
    any_row = graph.node("Greater", most, graph.constant(np.array(0.0)))
    rows = graph.node("Squeeze", graph.node("NonZero", any_row), graph.constant([0]))
    answers_of_models = [
        each._replace(name=graph.node("Gather", each.name, rows, axis=0))
        for each in inputs
    ]
    mean = _mean(graph, model, answers_of_models)
    if answers.classes is not None:
        mean = _floored(graph, mean, model, answers.classes)
    if answers.low is not None:
        mean = graph.node("Max", mean, graph.constant(answers.low))
        mean = graph.node("Min", mean, graph.constant(answers.high))
    weights = graph.node("Gather", weights, rows, axis=0)
    graph.node("Unsqueeze", rows, last, into=outputs[0])
    graph.node("Mul", mean, weights, into=outputs[1])


def _mean(graph: Graph, expert: Any, inputs: Sequence[Input]) -> str:
    """Add an expert; return its predictions, the mean of those of its models."""
    if not isinstance(expert, AVERAGES):
        return answer(graph, expert, inputs)
    terms = [
        graph.node(
            "Mul", answer(graph, model, inputs), graph.constant(np.array(weight))
        )
        for model, weight, _ in _parts(expert)
    ]
    return graph.node("Sum", *terms)


def _floored(graph: Graph, proba: str, model: Any, classes: np.ndarray) -> str:
    """Return the probabilities of all classes, raised to their floor."""
    if len(model.classes_) < len(classes):
        is_known = np.isin(classes, model.classes_)
        place = graph.constant(np.eye(len(classes))[is_known])
        proba = graph.node("MatMul", proba, place)
    least = graph.constant(np.array(PROBABILITY_FLOOR / len(classes)))
    raised = graph.node("Max", proba, least)
    total = graph.node("ReduceSum", raised, graph.constant([1]), keepdims=1)
    return graph.node("Div", raised, total)


def _nothing(graph: Graph, q: int) -> Any:
    """Return the branch of a model without rows."""
    other = graph.branch()
    kinds = {}
    for values in (np.zeros((0, 1), np.int64), np.zeros((0, q), graph.dtype)):
        tensor = numpy_helper.from_array(values)
        kinds[other.node("Constant", value=tensor)] = tensor.data_type
    return other.as_proto(kinds)
