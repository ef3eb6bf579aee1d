"""Gaussian densities of all experts: one class for each kind of covariance.

A class says which form its covariances, second moments and whitenings have, how its
densities are computed, and what they cost. All else asks the class, by these answers,
and knows no kind. To add a kind, write a subclass of `Densities` and name it in
`KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import solve_triangular

from ..backends import Array, device_of, like, namespace, select, to_host, total_of
from ..routing import Routing

MEAN_ROWS = 1.0
"""Pseudo-rows of each expert at the pooled mean."""

TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class Moments:
    """Σ w, Σ w z and Σ w zzᵀ of each expert's rows, the last in the form of a kind."""

    mass: np.ndarray  # (K,)
    sums: np.ndarray  # (K, d)
    squares: np.ndarray

    def plus(self, other: Moments, step: float = 1.0) -> Moments:
        """Return these moments and ``step`` times the others."""
        return Moments(
            self.mass + step * other.mass,
            self.sums + step * other.sums,
            self.squares + step * other.squares,
        )

    def moved(self, target: Moments, answer: Moments, step: float) -> Moments:
        """Return the moments after a step from the answer's to the target's."""
        moments = self.plus(target, step).plus(answer, -step)
        mass = np.maximum(moments.mass, 0.0)
        return Moments(mass, moments.sums, moments.squares)

    def times(self, factor: float) -> Moments:
        """Return the moments with all weights times a factor."""
        return Moments(factor * self.mass, factor * self.sums, factor * self.squares)


@dataclass(frozen=True, eq=False)
class Densities:
    """Gaussian densities of standardised features z, one for each expert.

    Covariances, and all that has their form, are (K, d, d) arrays unless a kind says
    otherwise.

    Attributes
    ----------
    means : (K, d) array
    covariances : array
    whitening : array
        W with (z - μ)ᵀΣ⁻¹(z - μ) = |(z - μ)ᵀW|².
    """

    means: np.ndarray
    covariances: np.ndarray
    whitening: np.ndarray

    name: ClassVar[str]
    linear: ClassVar[bool] = False
    """Whether log odds are linear in z."""
    crossed: ClassVar[bool] = False
    """Whether log odds hold products of two features."""

    # -------------------------------------------------------- what each kind answers
    @classmethod
    def second_moments(cls, Z: Array, routing: Routing) -> np.ndarray:
        """Return Σ w zzᵀ of a routing's rows."""
        raise NotImplementedError

    @classmethod
    def outer(cls, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return w zzᵀ of one vector z per expert."""
        raise NotImplementedError

    @classmethod
    def whiten(cls, covariances: np.ndarray) -> np.ndarray:
        """Return whitenings; raise LinAlgError if one is not positive definite."""
        raise NotImplementedError

    def logits(self, Z: Array, gamma: float, log_weights: np.ndarray) -> Array:
        """Return log π_k + γ log N(z; μ_k, Σ_k), up to a constant of all experts."""
        raise NotImplementedError

    def linear_form(
        self, gamma: float, log_weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients of z and the intercepts of a `linear` kind."""
        raise NotImplementedError

    @staticmethod
    def n_terms(d: int) -> int:
        """Return how many terms of z the log odds are linear in."""
        raise NotImplementedError

    @staticmethod
    def multiply_adds(d: int) -> int:
        """Return the multiplications per row and expert."""
        raise NotImplementedError

    @property
    def n_numbers(self) -> int:
        """How many free numbers the covariances have."""
        d = self.means.shape[1]
        return self.covariances.size // d * (d + 1) // 2

    # ------------------------------------------- the form, for one matrix per expert
    @staticmethod
    def unit(d: int) -> np.ndarray:
        """Return the covariance of independent features of variance one."""
        return np.eye(d)

    @staticmethod
    def variances(covariances: np.ndarray) -> np.ndarray:
        """Return a view of the features' variances."""
        return np.einsum("...ii->...i", covariances)

    @staticmethod
    def in_units(covariances: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return the covariances of features times these scales."""
        return covariances * np.outer(scale, scale)

    @classmethod
    def matrices(cls, covariances: np.ndarray, n_experts: int) -> np.ndarray:
        """Return covariances as one matrix per expert."""
        return covariances

    @classmethod
    def pooled(cls, scatter: np.ndarray) -> np.ndarray:
        """Return the sum of the experts' scatters."""
        return scatter.sum(axis=0)

    @classmethod
    def shrunk(
        cls, scatter: np.ndarray, mass: np.ndarray, shared: np.ndarray, m: float
    ) -> np.ndarray:
        """Return covariances with m pseudo-rows of the shared one."""
        rows = mass.reshape(-1, *[1] * shared.ndim)
        return (scatter + m * shared) / (rows + m)

    @classmethod
    def parted_squares(cls, squares: np.ndarray, experts: np.ndarray) -> np.ndarray:
        """Return the second moments of these experts, see `parted`."""
        return parted(squares, experts)

    # -------------------------------------------------------- the same for all kinds
    @classmethod
    def moments(cls, Z: Array, routing: Routing) -> Moments:
        """Return the moments of a routing's rows."""
        sums = to_host(routing.weighted_sums(Z))
        return Moments(sums[:, -1], sums[:, :-1], cls.second_moments(Z, routing))

    @classmethod
    def of(cls, moments: Moments, m: float, constant: np.ndarray) -> Self:
        """Return the densities of moments; one and m pseudo-rows are their priors.

        Constant features are the same for all experts.
        """
        total = max(moments.mass.sum(), TINY)
        middle = moments.sums.sum(axis=0) / total
        mass = moments.mass + MEAN_ROWS
        means = (moments.sums + MEAN_ROWS * middle) / mass[:, None]
        joined = np.broadcast_to(middle, means.shape)
        scatter = moments.squares - cls.outer(mass, means)
        scatter += cls.outer(np.full_like(mass, MEAN_ROWS), joined)

        shared = cls.pooled(scatter) + m * cls.unit(len(middle))
        shared = shared / (mass.sum() + m)
        covariances = cls.shrunk(scatter, mass, shared, m)
        cls.variances(covariances)[..., constant] = 1.0
        return cls(means, covariances, cls.whiten(covariances))

    @classmethod
    def take_moments(cls, moments: Moments, experts: np.ndarray) -> Moments:
        """Return the moments of these experts, see `parted`."""
        return Moments(
            parted(moments.mass, experts),
            parted(moments.sums, experts),
            cls.parted_squares(moments.squares, experts),
        )

    def take(self, experts: np.ndarray) -> Self:
        """Return the densities of these experts."""
        return type(self)(
            self.means[experts], self.covariances[experts], self.whitening[experts]
        )


class DiagonalDensities(Densities):
    """Independent features: covariances are (K, d) arrays of variances."""

    name = "diag"

    @classmethod
    def second_moments(cls, Z: Array, routing: Routing) -> np.ndarray:
        return to_host(routing.weighted_sums(squares_of(Z)))[:, :-1]

    @classmethod
    def outer(cls, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        return weights[:, None] * z**2

    @classmethod
    def whiten(cls, covariances: np.ndarray) -> np.ndarray:
        if not (covariances > 0).all():
            raise np.linalg.LinAlgError("variances must be positive")
        return covariances**-0.5

    def logits(self, Z: Array, gamma: float, log_weights: np.ndarray) -> Array:
        means = self.means
        precision = self.whitening**2
        bias = np.sum(precision * means**2 + np.log(self.covariances), axis=1)
        linear = like(precision * means, Z)
        square = like(0.5 * precision, Z)
        product = Z @ linear.T - squares_of(Z) @ square.T
        return gamma * product + like(log_weights - 0.5 * gamma * bias, product)

    @staticmethod
    def n_terms(d: int) -> int:
        return 2 * d

    @staticmethod
    def multiply_adds(d: int) -> int:
        return 2 * d

    @property
    def n_numbers(self) -> int:
        return self.covariances.size

    @staticmethod
    def unit(d: int) -> np.ndarray:
        return np.ones(d)

    @staticmethod
    def variances(covariances: np.ndarray) -> np.ndarray:
        return covariances

    @staticmethod
    def in_units(covariances: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return covariances * scale**2

    @classmethod
    def matrices(cls, covariances: np.ndarray, n_experts: int) -> np.ndarray:
        return covariances[:, :, None] * np.eye(covariances.shape[1])


class FullDensities(Densities):
    """One matrix per expert."""

    name = "full"
    crossed = True

    @classmethod
    def second_moments(cls, Z: Array, routing: Routing) -> np.ndarray:
        parts = (_second_moment(Z, w, rows) for _, rows, w in routing.segments())
        return np.stack(list(parts))

    @classmethod
    def outer(cls, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        return weights[:, None, None] * z[:, :, None] * z[:, None, :]

    @classmethod
    def whiten(cls, covariances: np.ndarray) -> np.ndarray:
        return np.stack([_whitening(each) for each in covariances])

    def logits(self, Z: Array, gamma: float, log_weights: np.ndarray) -> Array:
        logits = []
        for k, whitening in enumerate(self.whitening):
            white = Z @ like(whitening, Z)
            xp = namespace(white)
            white = white - like(self.means[k] @ whitening, white)
            log_det = -2.0 * np.sum(np.log(np.diagonal(whitening)))
            density = -0.5 * (xp.sum(white * white, axis=1) + float(log_det))
            logits.append(gamma * density + float(log_weights[k]))
        return xp.stack(logits, axis=1)

    @staticmethod
    def n_terms(d: int) -> int:
        return d + d * (d + 1) // 2

    @staticmethod
    def multiply_adds(d: int) -> int:
        return d * (d + 1)


class TiedDensities(Densities):
    """One (d, d) matrix for all experts; their second moments are summed as well.

    What all experts share cancels in log odds, which leaves them linear in z.
    """

    name = "tied"
    linear = True

    @classmethod
    def second_moments(cls, Z: Array, routing: Routing) -> np.ndarray:
        return _second_moment(Z, routing.row_sums)

    @classmethod
    def outer(cls, weights: np.ndarray, z: np.ndarray) -> np.ndarray:
        return (weights[:, None] * z).T @ z

    @classmethod
    def whiten(cls, covariances: np.ndarray) -> np.ndarray:
        return _whitening(covariances)

    def logits(self, Z: Array, gamma: float, log_weights: np.ndarray) -> Array:
        coef, bias = self.linear_form(gamma, log_weights)
        product = Z @ like(coef, Z).T
        return product + like(bias, product)

    def linear_form(
        self, gamma: float, log_weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        white = self.means @ self.whitening
        bias = log_weights - 0.5 * gamma * np.sum(white**2, axis=1)
        return gamma * white @ self.whitening.T, bias

    @staticmethod
    def n_terms(d: int) -> int:
        return d

    @staticmethod
    def multiply_adds(d: int) -> int:
        return d

    @classmethod
    def matrices(cls, covariances: np.ndarray, n_experts: int) -> np.ndarray:
        return np.broadcast_to(covariances, (n_experts, *covariances.shape))

    @classmethod
    def pooled(cls, scatter: np.ndarray) -> np.ndarray:
        return scatter

    @classmethod
    def shrunk(
        cls, scatter: np.ndarray, mass: np.ndarray, shared: np.ndarray, m: float
    ) -> np.ndarray:
        return shared

    @classmethod
    def parted_squares(cls, squares: np.ndarray, experts: np.ndarray) -> np.ndarray:
        return squares

    def take(self, experts: np.ndarray) -> Self:
        return type(self)(self.means[experts], self.covariances, self.whitening)


KINDS: dict[str, type[Densities]] = {
    kind.name: kind for kind in (DiagonalDensities, FullDensities, TiedDensities)
}


def parted(table: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """Return rows of a table of sums; one that stands twice is halved."""
    times = np.bincount(experts)[experts]
    return table[experts] / times.reshape(-1, *[1] * (table.ndim - 1))


def squares_of(Z: Array) -> Array:
    return Z.multiply(Z).tocsr() if hasattr(Z, "tocsr") else Z * Z


def _second_moment(Z: Array, weights: Array, rows: Array | None = None) -> np.ndarray:
    """Return Σ w zzᵀ."""
    xp = namespace(Z, weights)
    ones = xp.ones((Z.shape[0], 1), dtype=Z.dtype, device=device_of(weights))
    scatter, _, mean, _ = select(Z).gram(Z, ones, weights, rows)
    mean = to_host(mean)
    total = total_of(weights)
    return to_host(scatter) + total * np.outer(mean, mean)


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """Return the whitening of one matrix, by its Cholesky factor."""
    lower = np.linalg.cholesky(covariance)
    return solve_triangular(lower, np.eye(len(lower)), lower=True).T
