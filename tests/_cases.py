"""Routings and pools that several files of tests make."""

import numpy as np

from skmoe.experts import make_pool
from skmoe.likelihoods import Categorical, Gaussian
from skmoe.routing import Routing


def gaussian(q=1, prior=10.0, floor=1e-6):
    """Return the normal family of q outputs; ``floor`` is the least variance."""
    return Gaussian().bound(prior, floor=np.full(q, floor))


def pool_of(learners, classes=None, *, q=1, floor=1e-6, **options):
    """Return the pool that `make_pool` chooses, for q outputs or for classes."""
    likelihood = gaussian(q, floor=floor) if classes is None else Categorical()
    options = {"likelihood": likelihood, "classes": classes, **options}
    return make_pool(learners, n_features=3, **options)


def everyone(n_rows, n_experts):
    """Return the routing that asks every expert about every row."""
    return Routing.from_dense(np.ones((n_rows, n_experts)))


def soft(n_rows, n_experts, seed):
    """Return responsibilities of every row and expert, (n_rows, n_experts)."""
    return np.random.default_rng(seed).dirichlet(np.ones(n_experts), size=n_rows)
