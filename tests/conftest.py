"""What all tests share."""

import os

import numpy  # noqa: F401 - a limit holds for the libraries that are loaded
import pytest
import scipy.linalg  # noqa: F401
from threadpoolctl import threadpool_limits

from skmoe.em import PORTFOLIO, _held_out, _train
from skmoe.gates import SoftmaxGate
from skmoe.gates._factored import FactoredGate
from skmoe.gates._softmax import ALPHAS

FEW_WAYS = tuple(way for way in _held_out.WAYS if way[0] in (0.0, 0.5, 1.0))

# Two workers on two cores: BLAS threads of their own would only fight.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)


@pytest.fixture
def quick_choices(monkeypatch):
    """Hold out one part of the rows, train for few passes before it is asked, and try
    few gates and few ways to shrink.

    A fit then takes a tenth of its time. For tests of how parts work together: tests of
    how good a choice is need the real numbers.
    """
    for table in ("SPLITS", "SPLITS_FLEXIBLE"):
        monkeypatch.setattr(_held_out, table, ())
    monkeypatch.setattr(_held_out, "GATE_UPDATES", 1)
    monkeypatch.setattr(_held_out, "SETTLE_PASSES", 1)
    monkeypatch.setattr(_held_out, "WAYS", FEW_WAYS)
    monkeypatch.setattr(_train, "PORTFOLIO", PORTFOLIO[:1])
    for gate in (SoftmaxGate, FactoredGate):
        monkeypatch.setitem(gate.choices, "alpha", ALPHAS[::3])
