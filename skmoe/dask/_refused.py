"""What a fit on a Dask table does not take, said before a row is read."""

from __future__ import annotations

from typing import Any

from ..estimators import read_gate
from ..gates import BaseGate

DEFAULTS = {
    "balance": (0.0, "loads are not evened across partitions"),
    "capacity_factor": (
        None,
        "it limits the rows of one call",
    ),
    "noise_expert": (None, "noise learners need all rows of an expert in one place"),
    "gate_per_output": (False, "fit one estimator for each output"),
    "shared_expert": (
        None,
        "experts shrink to a fit on all rows instead",
    ),
    "warm_start": (False, "set checkpoint to go on from a fit that was cut short"),
}
"""Parameters that must stay at a value, and why."""

GATES = 'Use "softmax", "gaussian", "constant", "product" or "hierarchical".'


def check_parts(model: Any) -> None:
    """Raise if a parameter asks for what rows in partitions cannot give."""
    name = type(model).__name__
    for parameter, (value, why) in DEFAULTS.items():
        given = getattr(model, parameter, value)
        if given != value:
            raise ValueError(
                f"{parameter}={given!r} is not for rows in partitions ({why}). "
                f"{name} takes {parameter}={value!r} only for a Dask X."
            )
    if not isinstance(model.init, str):
        raise ValueError(
            "init must name starts for a Dask X; got responsibilities of rows."
        )
    _, gate = read_gate(model.gate)
    if type(gate).sums is BaseGate.sums:
        raise ValueError(
            f"gate={model.gate!r} does not learn from sums over partitions. {GATES}"
        )


def refuse_groups(groups: Any) -> None:
    """Raise if rows of groups are to stay together."""
    if groups is not None:
        raise ValueError(
            "groups are not for rows in partitions: the rows of a group may lie in "
            "several. Fit MoERegressor or MoEClassifier in memory on whole groups, or "
            "on a sample of them."
        )
