"""Experts whose noise varies with x."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from .._learners import read_answer
from ..backends import Array, filled, like, to_host
from ..likelihoods import Likelihood
from ..routing import Routing
from ._base import DerivedPool, ExpertPool, host_rows

WIDEST = 20.0
"""Largest factor by which noise may be wider or narrower than the expert's scale."""


class VaryingPool(DerivedPool):
    r"""A fitted pool whose scales are functions of x.

    .. math:: \sigma_k(x) = c_k \exp(h_k(x) / 2)

    where h has learned the logarithms of squared residuals. The experts learn no more.

    Parameters
    ----------
    pool : ExpertPool
        The fitted pool, with one scale per expert.
    noise : sequence of estimator or None
        The h of each expert; None keeps the one scale of the expert.
    factor : (n_experts,) array
        The c of each expert.
    """

    def __init__(
        self, pool: ExpertPool, noise: Sequence[Any], factor: np.ndarray
    ) -> None:
        super().__init__(pool)
        self.pool = pool
        self.noise = list(noise)
        self.factor = factor
        self.scale = pool.scale

    def scale_at(self, X: Array, routing: Routing) -> np.ndarray:
        """Return the noise scale of each entry, (n, m, 1), on the host."""
        plain = self.scale
        assert plain is not None

        def scales(k: int, rows: Array | None) -> Array:
            x = host_rows(X, rows)
            one = plain[k, 0]
            if self.noise[k] is None:
                return like(np.full((x.shape[0], 1), one), routing.weights)
            scale = self.factor[k] * spread(self.noise[k], x)
            scale = np.clip(scale, one / WIDEST, one * WIDEST)
            return like(scale[:, None], routing.weights)

        scale = to_host(routing.dispatch(scales, 1)).astype(np.float64)
        absent = to_host(routing.indices < 0)[:, :, None]
        return np.where(absent, 1.0, scale)

    def log_likelihood(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return log p(y | x, k) at each entry of the routing, (n, m)."""
        family = self.likelihood
        values = self.evaluate(X, y, routing)
        assert isinstance(family, Likelihood)
        expert = to_host(filled(routing.indices))
        target = to_host(y)[:, None, :].astype(np.float64)
        mean = to_host(family.means(values, routing)).astype(np.float64)
        scale = self.scale_at(X, routing)
        density = family.each("log_density_of", expert, target, mean, scale)
        density = np.where(to_host(routing.indices) < 0, -np.inf, density.sum(axis=-1))
        return like(density, values, values.dtype)

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the predictions."""
        return self.pool.evaluate(X, y, routing)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction."""
        return self.pool.predict(X, routing)

    def _mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's answers."""
        return self.pool._mix(X, routing)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a copy: no expert is new."""
        return copy.copy(self)

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.pool = self.pool.take(experts)
        other.factor = self.factor[experts]
        other.noise = [self.noise[k] for k in experts]
        return other

    def estimators(self) -> list[Any]:
        """Return the fitted experts."""
        return self.pool.estimators()

    def count_parameters(self) -> int:
        """Raise: the learner of the noise may be any estimator."""
        raise TypeError(
            "Cannot count the free parameters of noise_expert; aic and bic need "
            "noise_expert=None."
        )


def spread(noise: Any, x: Any) -> np.ndarray:
    """Return exp(h(x) / 2) of a fitted learner of log squared residuals."""
    log_square = read_answer(noise.predict(x), x.shape[0], 1, f"noise_expert {noise!r}")
    if np.isnan(log_square).any():
        raise ValueError(f"noise_expert {noise!r} predicted NaN.")
    return np.exp(np.clip(log_square[:, 0].astype(np.float64), -60, 60) / 2)
