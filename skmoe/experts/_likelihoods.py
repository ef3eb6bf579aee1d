"""Likelihoods: how an expert's answer becomes log p(y | x, k).

Shapes: ``y`` (n, q); ``values`` (n, m, q), an expert's answer at each entry of a
routing; ``scale`` (K, q), one σ an expert and output. Densities are -inf at entries
of -1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..backends import Array, namespace, select
from ..routing import Routing


@dataclass(frozen=True, eq=False)
class Gaussian:
    r"""Normal noise of one scale an expert and output; outputs are independent.

    The scale is the posterior mode under an inverse-gamma prior whose centre is the
    pooled scale [1]_:

    .. math:: \sigma_k^2 = \frac{\sum_i r_{ik} e_{ik}^2 + \nu \bar\sigma^2}
              {\sum_i r_{ik} + \nu}

    so an expert with few rows cannot run away to zero noise.

    Parameters
    ----------
    prior : float
        ν, pseudo-rows at the pooled scale; 0 is maximum likelihood.
    floor : (q,) array
        Smallest variance.

    References
    ----------
    .. [1] C. Fraley and A. E. Raftery, "Bayesian regularization for normal mixture
       estimation and model-based clustering", Journal of Classification 24 (2007)
       155-181. doi:10.1007/s00357-007-0004-5
    """

    prior: float
    floor: np.ndarray

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return log N(y; values, scale²) summed over outputs, (n, m)."""
        indices = None if routing.dense else routing.indices
        return select(values).normal_log_density(y, values, scale, indices)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray:
        """Return the scale of each expert and output, (K, q)."""
        xp = namespace(values)
        nk = routing.sum_by_expert(routing.weights)
        sums = []
        for j in range(values.shape[-1]):
            error = xp.expand_dims(y[:, j], axis=1) - values[:, :, j]
            sums.append(routing.sum_by_expert(routing.weights * error * error))
        squares = np.stack(sums, axis=1)
        pooled = squares.sum(axis=0) / max(nk.sum(), np.finfo(np.float64).tiny)
        rows = (nk + self.prior)[:, None]
        safe = np.where(rows > 0, rows, 1.0)
        variance = np.where(rows > 0, (squares + self.prior * pooled) / safe, pooled)
        return np.sqrt(np.maximum(variance, self.floor))


@dataclass(frozen=True)
class Categorical:
    """Class labels: the answer of an expert is log p(label) already."""

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return the log probability of the label at each entry, (n, m)."""
        density = values[:, :, 0]
        if routing.dense:
            return density
        xp = namespace(values)
        return xp.where(routing.indices < 0, xp.full_like(density, -xp.inf), density)
