"""Moments of each expert's rows, and the covariances that follow from them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from ..backends import Array, device_of, namespace, select, to_host, total_of
from ..routing import Routing

MEAN_ROWS = 1.0
"""Pseudo-rows of each expert at the pooled mean."""

TINY = float(np.finfo(np.float64).tiny)


class Moments(NamedTuple):
    """Σ w, Σ w z and Σ w zzᵀ of each expert's rows.

    The last is (K, d, d) for "full", its diagonal (K, d) for "diag", and (d, d), summed
    over the experts, for "tied".
    """

    mass: np.ndarray  # (K,)
    sums: np.ndarray  # (K, d)
    squares: np.ndarray

    @classmethod
    def of(cls, Z: Array, routing: Routing, kind: str) -> Moments:
        """Return the moments of a routing's rows."""
        sums = to_host(routing.weighted_sums(Z))
        if kind == "diag":
            squares = to_host(routing.weighted_sums(squares_of(Z)))[:, :-1]
        elif kind == "tied":
            squares = _second_moment(Z, routing.row_sums)
        else:
            parts = (_second_moment(Z, w, rows) for _, rows, w in routing.segments())
            squares = np.stack(list(parts))
        return cls(sums[:, -1], sums[:, :-1], squares)

    def plus(self, other: Moments, step: float = 1.0) -> Moments:
        """Return these moments and ``step`` times the others."""
        return Moments(*(a + step * b for a, b in zip(self, other, strict=True)))

    def believed(self, kind: str, m: float) -> tuple[np.ndarray, np.ndarray]:
        """Return means and covariances; one and m pseudo-rows are their priors."""
        total = max(self.mass.sum(), TINY)
        middle = self.sums.sum(axis=0) / total
        mass = self.mass + MEAN_ROWS
        means = (self.sums + MEAN_ROWS * middle) / mass[:, None]
        joined = np.broadcast_to(middle, means.shape)
        scatter = self.squares - _outer(kind, mass, means)
        scatter += _outer(kind, np.full_like(mass, MEAN_ROWS), joined)

        shared = scatter if kind == "tied" else scatter.sum(axis=0)
        unit = np.ones(len(shared)) if kind == "diag" else np.eye(len(shared))
        shared = (shared + m * unit) / (mass.sum() + m)
        if kind == "tied":
            return means, shared
        rows = mass.reshape(-1, *[1] * shared.ndim)
        return means, (scatter + m * shared) / (rows + m)


def _outer(kind: str, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return w zzᵀ of each expert in the form of `Moments`."""
    if kind == "diag":
        return weights[:, None] * z**2
    if kind == "tied":
        return (weights[:, None] * z).T @ z
    return weights[:, None, None] * z[:, :, None] * z[:, None, :]


def _second_moment(Z: Array, weights: Array, rows: Array | None = None) -> np.ndarray:
    """Return Σ w zzᵀ."""
    xp = namespace(Z, weights)
    ones = xp.ones((Z.shape[0], 1), dtype=Z.dtype, device=device_of(weights))
    scatter, _, mean, _ = select(Z).gram(Z, ones, weights, rows)
    mean = to_host(mean)
    total = total_of(weights)
    return to_host(scatter) + total * np.outer(mean, mean)


def squares_of(Z: Array) -> Array:
    return Z.multiply(Z).tocsr() if hasattr(Z, "tocsr") else Z * Z


def whitening_of(covariances: np.ndarray, kind: str) -> np.ndarray:
    """Return W with (z - μ)ᵀΣ⁻¹(z - μ) = |(z - μ)ᵀW|², by the Cholesky factor.

    Raises `numpy.linalg.LinAlgError` if a matrix is not positive definite.
    """
    if kind == "diag":
        if not (covariances > 0).all():
            raise np.linalg.LinAlgError("variances must be positive")
        return covariances**-0.5
    lower = np.linalg.cholesky(covariances)
    unit = np.eye(lower.shape[-1])
    if kind == "tied":
        return solve_triangular(lower, unit, lower=True).T
    return np.stack([solve_triangular(each, unit, lower=True).T for each in lower])
