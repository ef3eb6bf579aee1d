r"""Noise that varies with x: a small learner of each expert predicts its noise scale.

After training it is fitted to the logarithms of the expert's squared residuals, out of
fold where experts are cross-fitted, with responsibilities as weights [1]_. Its answers
are judged out of fold too: an expert keeps its one scale unless the varying scale
explains its rows better.

References
----------
.. [1] M. Davidian and R. J. Carroll, "Variance function estimation", JASA 82 (1987)
   1079-1091. doi:10.1080/01621459.1987.10478543
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from .._bins import fit_weighted
from .._learners import MIN_RESPONSIBILITY, seeded, weight_parameter
from ..backends import few_openmp_threads, to_host
from ..experts import WIDEST, ExpertPool, VaryingPool, spread, take_rows
from ..likelihoods import Likelihood
from ._folds import content_folds
from ._problem import Problem
from ._train import Mixture

FOLDS = 5

SMALLEST = 1e-3
"""Smallest residual, as a share of the expert's scale: the logarithm of a residual near
zero would outweigh all others."""

FEWEST = 20
"""An expert with fewer rows than this keeps its one scale."""


def varying(mixture: Mixture, learner: BaseEstimator, seed: int) -> ExpertPool:
    """Return the mixture's pool, with noise that varies with x where that is better.

    Parameters
    ----------
    mixture : Mixture
        A regression of one output.
    learner : estimator
        An unfitted regressor, cloned for each expert.
    seed : int
        Seeds learners that draw at random.
    """
    problem = mixture.problem
    pool = mixture.pool
    judge = mixture.judge
    assert pool.scale is not None
    assert isinstance(pool.likelihood, Likelihood)
    resp = mixture.resp.scaled(problem.sample_weight)
    values = judge.evaluate(problem.X, problem.y, resp)
    means = to_host(pool.likelihood.means(values, resp))[:, :, 0]
    error = (to_host(problem.y) - means).astype(np.float64)
    host = problem.on_host()
    folds = content_folds(problem, FOLDS, problem.seed)
    noise: list[Any] = [None] * problem.n_experts
    factor = np.ones(problem.n_experts)
    learners = problem.n_experts - pool.likelihood.n_fixed
    weights = to_host(resp.weights)
    indices = to_host(resp.indices)
    for k in range(learners):
        owned = (indices == k) & (
            weights > MIN_RESPONSIBILITY * weights.sum(1)[:, None]
        )
        rows, place = np.nonzero(owned)
        if len(rows) < FEWEST:
            continue
        e, w = error[rows, place], weights[rows, place]
        noise_and_factor = _fitted(
            learner, seed, pool, k, host, rows, e, w, folds[rows]
        )
        if noise_and_factor is not None:
            noise[k], factor[k] = noise_and_factor
    return VaryingPool(pool, noise, factor)


def _fitted(
    learner: BaseEstimator,
    seed: int,
    pool: ExpertPool,
    k: int,
    host: Problem,
    rows: np.ndarray,
    error: np.ndarray,
    weight: np.ndarray,
    fold: np.ndarray,
) -> tuple[Any, float] | None:
    """Return the learner of an expert's noise, and its factor, or None if no use."""
    assert pool.scale is not None
    assert isinstance(pool.likelihood, Likelihood)
    scale = float(pool.scale[k, 0])
    x = take_rows(host.X, rows)
    weight = weight / weight.mean()
    target = np.log(np.maximum((error / scale) ** 2, SMALLEST**2))

    def fit(some: np.ndarray) -> Any:
        model = seeded(clone(learner), seed)
        name = weight_parameter(model)
        params = {} if name is None else {name: weight[some]}
        with few_openmp_threads(len(rows)):
            few_x = take_rows(x, np.flatnonzero(some))
            return fit_weighted(model, few_x, target[some], params)

    size = np.empty(len(rows))
    for f in np.unique(fold):
        out = fold == f
        if out.all():
            return None
        size[out] = spread(fit(~out), take_rows(x, np.flatnonzero(out)))
    # Squared residuals divided by their predictions have mean one, floors apart.
    factor = float(np.sqrt(weight @ (error / size) ** 2 / weight.sum()))
    width = np.clip(factor * size, scale / WIDEST, scale * WIDEST)
    zero = np.zeros(len(rows))
    density = pool.likelihood.log_density_of
    gain = weight @ (density(error, zero, width) - density(error, zero, scale))
    if not gain > 0:
        return None
    return fit(np.ones(len(rows), dtype=bool)), factor
