"""What a mixture computes per row, and how long it takes."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from ..experts import AveragedClassifier, AveragedRegressor, take_rows
from ..pipeline import split
from ._cost import Cost, cost
from ._reading import Reading
from ._routing import learner_name

N_CALLS = 5
"""Number of timed calls of predict, after one that is not timed."""


@dataclass(frozen=True, eq=False, repr=False)
class ComputeReport:
    """What a mixture computes per row, in the mean; see `compute_report`.

    Attributes
    ----------
    n_rows : int
        Number of rows that were predicted.
    n_experts : int
        Number of experts.
    experts_per_row : float
        Number of experts that predict asks per row.
    n_parameters, n_parameters_active : float
        Numbers that gate and experts hold; those of them that a row uses.
    gate_multiply_adds, expert_multiply_adds : float
        Multiply-adds per row of the gate; of the experts that are asked.
    dense_multiply_adds : float
        Multiply-adds per row of gate and experts, if all experts were asked.
    seconds_per_row : float
        Median time of predict, divided by the number of rows.
    joules_per_row : float or None
        This time times the given watts.
    notes : tuple of str
        What could not be counted.
    """

    n_rows: int
    n_experts: int
    experts_per_row: float
    n_parameters: float
    n_parameters_active: float
    gate_multiply_adds: float
    expert_multiply_adds: float
    dense_multiply_adds: float
    seconds_per_row: float
    joules_per_row: float | None
    notes: tuple[str, ...] = ()

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds per row of gate and experts."""
        return self.gate_multiply_adds + self.expert_multiply_adds

    def __repr__(self) -> str:
        energy = "give watts for an estimate"
        if self.joules_per_row is not None:
            energy = f"{1e6 * self.joules_per_row:.3g} µJ, from the watts stated"
        lines = {
            "experts": f"{self.experts_per_row:.3g} of {self.n_experts} asked",
            "parameters": f"{_number(self.n_parameters_active)} active of "
            f"{_number(self.n_parameters)}",
            "multiply-adds": f"{_number(self.multiply_adds)}: gate "
            f"{_number(self.gate_multiply_adds)}, experts "
            f"{_number(self.expert_multiply_adds)}",
            "dense": f"{_number(self.dense_multiply_adds)} multiply-adds",
            "time": f"{1e6 * self.seconds_per_row:.3g} µs",
            "energy": energy,
        }
        text = [f"Mean per row, over {_number(self.n_rows)} rows:"]
        text += [f"  {name:14}{value}" for name, value in lines.items()]
        return "\n".join([*text, *(f"  Note: {note}" for note in self.notes)])


def compute_report(model, X, *, watts=None):
    """Count what a fitted mixture computes per row, and time it.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor or Pipeline
        A fitted mixture, or a Pipeline that ends in one. Steps before the mixture are
        neither counted nor timed.
    X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
        Rows. Pass as many as will be predicted at a time: small batches cost more per
        row.
    watts : float or None, default=None
        Power that the machine draws while it predicts. The energy in the report is an
        estimate: this number times the measured time. None makes no estimate.

    Returns
    -------
    ComputeReport
        Its attributes hold the numbers; it prints as a small table.

    Notes
    -----
    The report counts linear models, trees, forests, bags, gradient boosting,
    multi-layer perceptrons, constants, averages of these, and the last step of a
    Pipeline. What it cannot count is NaN, with a note. A product of a coefficient and a
    feature is one multiply-add, and so is a comparison in a tree, on the paths of ``X``
    (histogram gradient boosting: on the paths of its training rows). Activations, the
    softmax and the sum over experts are not counted.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.inspection import compute_report
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = MoERegressor(n_experts=4, top_k=2, n_init=1, random_state=0)
    >>> report = compute_report(model.fit(X, X[:, 0] * X[:, 1]), X)
    >>> report.gate_multiply_adds, report.expert_multiply_adds
    (20.0, 10.0)
    >>> report.dense_multiply_adds, report.n_parameters
    (40.0, 48.0)
    """
    if watts is not None and not (isinstance(watts, Real) and watts > 0):
        raise ValueError(f"watts must be a positive number or None; got {watts!r}.")
    n_outputs = len(getattr(split(model)[1], "gates_", [0]))
    by_gate = [Reading(model, X, output=j) for j in range(n_outputs)]
    first = by_gate[0]
    notes = []
    gate = _total([_of_gate(reading) for reading in by_gate], notes)
    shared = _total(_of_shared(first), notes)
    models, asks = _distinct(first.mixture.experts_)
    costs = [_of_model(by_gate, each, asks[:, p]) for p, each in enumerate(models)]
    _total(costs, notes)
    held = np.array([each.parameters for _, each in costs])
    work = np.array([each.multiply_adds for _, each in costs])
    n_asked = np.stack([_n_asked(reading, asks) for reading in by_gate])
    n = first.n_rows
    seconds = _seconds(first) / first.n_rows
    always = gate.parameters + shared.parameters
    return ComputeReport(
        n_rows=n,
        n_experts=first.n_experts,
        experts_per_row=sum(each.routing.nnz for each in by_gate) / n,
        n_parameters=float(always + held.sum()),
        n_parameters_active=float(always + n_asked.max(axis=0) @ held / n),
        gate_multiply_adds=gate.multiply_adds,
        expert_multiply_adds=float(
            shared.multiply_adds + n_asked.sum(axis=0) @ work / n
        ),
        dense_multiply_adds=float(
            gate.multiply_adds + shared.multiply_adds + n_outputs * work.sum()
        ),
        seconds_per_row=seconds,
        joules_per_row=None if watts is None else float(watts * seconds),
        notes=tuple(notes),
    )


def _total(costs: list[tuple[Any, Cost]], notes: list[str]) -> Cost:
    """Return the sum of the costs of some models; note those that are unknown."""
    for model, each in costs:
        note = f"{learner_name(model)} cannot be counted"
        if np.isnan(each.multiply_adds) and note not in notes:
            notes.append(note)
    return Cost.total(each for _, each in costs)


def _of_gate(reading: Reading) -> tuple[Any, Cost]:
    """Return the gate and its cost, without the steps before it."""
    before, gate = reading.gate
    X = reading.X if before is None else before.transform(reading.X)
    return gate, cost(gate, X)


def _of_shared(reading: Reading) -> list[tuple[Any, Cost]]:
    """Return the shared expert, which all rows ask, and its cost, if there is one."""
    shared = getattr(reading.mixture, "shared_expert_", None)
    if shared is None or reading.classifies:  # classifiers are averaged with it
        return []
    return [(shared, cost(shared, reading.X_expert))]


def _distinct(experts: list[Any]) -> tuple[list[Any], np.ndarray]:
    """Return the models that experts consist of, and which expert asks which.

    Experts that shrink to one learner all ask it, but it predicts each row only once.
    """
    models: dict[int, Any] = {}
    made_of = []
    for expert in experts:
        averaged = isinstance(expert, (AveragedRegressor, AveragedClassifier))
        models_of_expert = expert.estimators if averaged else [expert]
        models |= {id(each): each for each in models_of_expert}
        made_of.append({id(each) for each in models_of_expert})
    asks = [[key in models_of_expert for key in models] for models_of_expert in made_of]
    return list(models.values()), np.array(asks)


def _of_model(by_gate: list[Reading], model: Any, asks: np.ndarray) -> tuple[Any, Cost]:
    """Return a model and its cost on the rows that ask it, or on all if none does."""
    routing = sum(reading.routing for reading in by_gate)
    rows = np.flatnonzero(routing @ asks.astype(float))
    X = by_gate[0].X_expert
    return model, cost(model, take_rows(X, rows) if len(rows) else X)


def _n_asked(reading: Reading, asks: np.ndarray) -> np.ndarray:
    """Return the number of rows that ask each model."""
    return np.count_nonzero(reading.routing @ asks.astype(float), axis=0)


def _seconds(reading: Reading) -> float:
    """Return the median time of predict."""
    times = []
    for _ in range(1 + N_CALLS):  # the first may compile
        start = perf_counter()
        reading.mixture.predict(reading.X)
        times.append(perf_counter() - start)
    return median(times[1:])


def _number(value: float) -> str:
    if np.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
