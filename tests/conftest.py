"""What all tests share."""

import os

import numpy  # noqa: F401 - a limit holds for the libraries that are loaded
import pytest
import scipy.linalg  # noqa: F401
from threadpoolctl import threadpool_limits

from skmoe.em import _held_out

# Two workers on two cores: BLAS threads of their own would only fight.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)


@pytest.fixture
def quick_choices(monkeypatch):
    """Hold out one part of the rows, and train for few passes before it is asked.

    A fit then takes a fifth of its time. For tests of how parts work together: tests of
    how good a choice is need the real numbers.
    """
    for table in ("SPLITS", "SPLITS_FLEXIBLE"):
        monkeypatch.setattr(_held_out, table, ())
    monkeypatch.setattr(_held_out, "GATE_UPDATES", 1)
    monkeypatch.setattr(_held_out, "SETTLE_PASSES", 1)
