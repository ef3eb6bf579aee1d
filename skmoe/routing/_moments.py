"""Second moments of each expert's rows, to which batches of rows can be added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..backends import Array, namespace, select, to_host
from ._routing import Routing

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mass, mean and scatter of z = [x, y] under the weights of each expert.

    The scatter is centred, so that features far from zero keep their digits.

    Attributes
    ----------
    mass : (n_experts,) array
        Σ w.
    mean : (n_experts, d + q) array
        Σ w z / Σ w; zero where all weights are zero.
    scatter : (n_experts, d + q, d + q) array
        Σ w (z - mean)(z - mean)ᵀ.
    """

    mass: np.ndarray
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, X: Array, Y: Array | None, routing: Routing) -> Moments:
        """Return the moments of the rows of a routing.

        Parameters
        ----------
        X : (n_samples, d) array or scipy CSR
        Y : (n_samples, q) array or None
            None means q = 0.
        routing : Routing
            The experts of these rows.
        """
        xp = namespace(routing.weights)
        ops = select(X)
        mass = routing.sum_by_expert(routing.weights)
        mass = np.where(mass < TINY, 0.0, mass)  # the mean of a smaller mass is noise
        d = X.shape[1]
        q = 0 if Y is None else Y.shape[1]
        mean = np.zeros((routing.n_experts, d + q))
        scatter = np.zeros((routing.n_experts, d + q, d + q))
        if Y is None:
            Y = routing.weights[:, :0]
        for k, rows, weights in routing.segments():
            if mass[k] <= 0:
                continue
            A, B, x_mean, y_mean = ops.gram(X, Y, weights, rows)
            scatter[k, :d, :d] = to_host(A)
            mean[k, :d] = to_host(x_mean)
            if not q:
                continue
            scatter[k, :d, d:] = to_host(B)
            scatter[k, d:, :d] = scatter[k, :d, d:].T
            mean[k, d:] = to_host(y_mean)
            centred = xp.astype(ops.take_rows(Y, rows), xp.float64) - y_mean
            scatter[k, d:, d:] = to_host(centred.T @ (weights[:, None] * centred))
        return cls(mass, mean, scatter)

    def plus(self, other: Moments) -> Moments:
        """Return the moments of both sets of rows together."""
        mass = self.mass + other.mass
        share = np.divide(other.mass, mass, out=np.zeros_like(mass), where=mass > 0)
        shift = other.mean - self.mean
        mean = self.mean + share[:, None] * shift
        scatter = self.scatter + other.scatter
        scatter += _outer(self.mass * share, shift)
        return Moments(mass, mean, scatter)

    def times(self, factor: np.ndarray) -> Moments:
        """Return the moments with each expert's weights times a factor."""
        mass = self.mass * factor
        scatter = self.scatter * factor[:, None, None]
        return Moments(np.where(mass < TINY, 0.0, mass), self.mean, scatter)

    def take(self, experts: np.ndarray) -> Self:
        """Return the moments of some of the experts."""
        parts = self.mass, self.mean, self.scatter
        return type(self)(*(part[experts] for part in parts))

    def about(self, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return Σ w [u, 1][u, 1]ᵀ with u = (z - center) / scale."""
        mean = (self.mean - center) / scale
        square = self.scatter / (scale[:, None] * scale)
        square += _outer(self.mass, mean)
        bordered = np.empty((len(self.mass), len(center) + 1, len(center) + 1))
        bordered[:, :-1, :-1] = square
        bordered[:, -1, :-1] = bordered[:, :-1, -1] = self.mass[:, None] * mean
        bordered[:, -1, -1] = self.mass
        return bordered


def _outer(weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return w zzᵀ of each expert."""
    return (weights[:, None] * z)[:, :, None] * z[:, None, :]
