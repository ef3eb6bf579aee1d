"""What all tests share."""

import os

from threadpoolctl import threadpool_limits

# Two workers on two cores: BLAS threads of their own would only fight.
if "PYTEST_XDIST_WORKER" in os.environ:
    threadpool_limits(1)
