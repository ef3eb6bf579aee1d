"""What all tests share."""

import os

import numpy  # noqa: F401 - a limit holds for the libraries that are loaded
import scipy.linalg  # noqa: F401
from threadpoolctl import threadpool_limits

# Two workers on two cores: BLAS threads of their own would only fight.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)
