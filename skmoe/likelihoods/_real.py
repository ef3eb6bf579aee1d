"""Families of real targets: location and scale."""

from __future__ import annotations

from numbers import Real

import numpy as np
from scipy import special

from ..backends import Array, like, namespace, select, to_host
from ..routing import Routing
from ._base import Likelihood
from ._mixture import median

LOG_2PI = float(np.log(2.0 * np.pi))

ROBUST_STEPS = 50
"""Maximum number of fixed-point steps for the scale of Student's t."""

SCALE_TOL = 1e-6
"""Relative change of a scale at which the steps end."""

MOST_DF = 1e15
"""Degrees of freedom from which Student's t is normal, up to rounding."""

NEAR = 1e-3
"""Smallest residual, as a share of the scale, because the weight of a Laplace residual
is one over its size."""


class Gaussian(Likelihood):
    r"""Normal noise with one scale per expert and output; outputs are independent.

    The scale is the posterior mode under an inverse-gamma prior whose centre is the
    pooled scale [1]_:

    .. math:: \sigma_k^2 = \frac{\sum_i r_{ik} e_{ik}^2 + \nu \bar\sigma^2}
              {\sum_i r_{ik} + \nu}

    so an expert with few rows cannot reach zero noise. The pooled scale is that of the
    residuals of all experts in this pass, not that of y. No variance is below 0.001 of
    the pooled one (1e-8 without a prior).

    References
    ----------
    .. [1] C. Fraley and A. E. Raftery, "Bayesian regularization for normal mixture
       estimation and model-based clustering", Journal of Classification 24 (2007)
       155-181. doi:10.1007/s00357-007-0004-5
    """

    loss = "squared_error"
    normal = True

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        z = (y - mean) / scale
        return -0.5 * (z * z + LOG_2PI) - np.log(scale)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        return special.ndtr((y - mean) / scale)

    def quantile(self, p, mean, scale):
        """Return the quantile at p, elementwise."""
        return mean + scale * special.ndtri(p)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return np.broadcast_to(scale**2, np.broadcast(mean, scale).shape)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return random.normal(mean, scale)

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return log N(y; values, scale²) summed over outputs, (n, m)."""
        indices = None if routing.dense else routing.indices
        return select(values).normal_log_density(y, values, scale, indices)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray:
        """Return the scale of each expert and output, (K, q)."""
        mass = routing.sum_by_expert(routing.weights)
        return self.scales_of(mass, _sums(y, values, routing, _square))

    def scales_of(self, mass: np.ndarray, squares: np.ndarray) -> np.ndarray:
        """Return the scales, (..., K, q), from Σ w (..., K) and Σ w (y - μ)²."""
        drawn, pooled = self._drawn(squares, mass)
        return np.sqrt(
            np.maximum(drawn, np.maximum(self.least_share * pooled, self.floor_))
        )

    def _drawn(
        self, sums: np.ndarray, mass: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return mean losses, shrunk to that of all experts; and the latter."""
        total = np.maximum(mass.sum(axis=-1), np.finfo(np.float64).tiny)
        pooled = sums.sum(axis=-2, keepdims=True) / total[..., None, None]
        rows = (mass + self.prior_)[..., None]
        safe = np.where(rows > 0, rows, 1.0)
        drawn = np.where(rows > 0, (sums + self.prior_ * pooled) / safe, pooled)
        return drawn, pooled


class _Robust(Gaussian):
    """Noise with heavy tails, for which predict returns the median.

    An expert that stands for outliers would move the mean by how far out it lies.
    """

    robust = True
    centred = True
    normal = False

    log_density = Likelihood.log_density

    def centre(self, means: Array, scale: np.ndarray | None, routing: Routing) -> Array:
        """Return the median of each row, (n, q)."""
        return median(self, means, scale, routing)


class StudentT(_Robust):
    r"""Student's t: noise with heavy tails, so that outliers hardly move an expert.

    It is a normal distribution whose precision varies from row to row. The E-step takes
    the mean of that precision [1]_,

    .. math:: w_{ik} = \frac{\nu + 1}{\nu + (y_i - \mu_{ik})^2 / \sigma_k^2}

    and experts are fitted with weights :math:`r_{ik} w_{ik}`. ``predict`` returns the
    median of the mixture, which outliers do not move.

    Parameters
    ----------
    df : float, default=4.0
        Degrees of freedom, above 0. 4 is the classic robust choice [1]_: it is
        efficient under normal noise, and residuals beyond about five scales hardly
        count. The variance is finite above 2. Infinity is normal noise.

    References
    ----------
    .. [1] K. L. Lange, R. J. A. Little and J. M. G. Taylor, "Robust statistical
       modeling using the t distribution", JASA 84 (1989) 881-896.
       doi:10.1080/01621459.1989.10478852

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> X = np.linspace(-1, 1, 100).reshape(-1, 1)
    >>> y = 3 * X[:, 0]
    >>> y[::10] = 50                               # one row in ten is wrong
    >>> robust = MoERegressor(n_experts=1, likelihood="student_t").fit(X, y)
    >>> plain = MoERegressor(n_experts=1).fit(X, y)
    >>> robust.predict([[0.0]]).round(1), plain.predict([[0.0]]).round(1)
    (array([0.]), array([5.]))
    """

    loss = None

    def __init__(self, df: float = 4.0) -> None:
        self.df = df

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless df is above 0."""
        if not (isinstance(self.df, Real) and self.df > 0):
            raise ValueError(f"df of StudentT must be above 0; got {self.df!r}.")

    @property
    def _df(self) -> float:
        """Degrees of freedom, up to a number beyond which nothing changes."""
        return min(float(self.df), MOST_DF)

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        z = (y - mean) / scale
        df = self._df
        constant = -special.betaln(df / 2, 0.5) - 0.5 * np.log(df)
        return constant - np.log(scale) - (df + 1) / 2 * np.log1p(z * z / df)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        return special.stdtr(self._df, (y - mean) / scale)

    def quantile(self, p, mean, scale):
        """Return the quantile at p, elementwise."""
        z = np.where(np.asarray(p) > 0, special.stdtrit(self._df, p), -np.inf)
        return mean + scale * z  # scipy's z at p = 0 is +inf

    def variance(self, mean, scale):
        """Return the variance, elementwise; infinite for df of 2 and below."""
        factor = self._df / (self._df - 2) if self._df > 2 else np.inf
        return np.broadcast_to(factor * scale**2, np.broadcast(mean, scale).shape)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        size = np.broadcast(mean, scale).shape
        return mean + scale * random.standard_t(self._df, size=size)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray:
        """Return the scale of each expert and output, (K, q), by fixed-point steps."""
        # Start at a third: from above, outliers would count as noise for long.
        mass = routing.sum_by_expert(routing.weights)
        spread = self.scales_of(mass, _sums(y, values, routing, _square))
        scale = np.maximum(spread / 3, np.sqrt(self.floor_))
        for _ in range(ROBUST_STEPS):
            weights = self._precision(y, values, scale, routing)
            squares = _sums(y, values, routing, _square, weights)
            new = self.scales_of(mass, squares)
            done = np.abs(new - scale).max() <= SCALE_TOL * scale.max()
            scale = new
            if done:
                break
        return scale

    def row_weights(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return the mean precision of each entry, relative to the scale, (n, m)."""
        weights = self._precision(y, values, scale, routing).mean(axis=2)
        return like(weights, values, values.dtype)

    def _precision(self, y, values, scale, routing) -> np.ndarray:
        error = to_host(y)[:, None, :] - to_host(values)
        z = error / routing.lookup(scale)
        return (self._df + 1) / (self._df + z * z)


class Laplace(_Robust):
    r"""Laplace noise: absolute errors instead of squared ones.

    An expert that minimises squared errors is fitted with weights
    :math:`r_{ik} b_k / |y_i - \mu_{ik}|` [1]_, which lead it to the median. An expert
    with ``loss="absolute_error"`` or ``criterion="absolute_error"`` needs no such
    weights. The scale b is the mean absolute error; the standard deviation is
    :math:`\sqrt 2 b`. ``predict`` returns the median of the mixture.

    References
    ----------
    .. [1] D. F. Andrews and C. L. Mallows, "Scale mixtures of normal distributions",
       JRSS B 36 (1974) 99-102. doi:10.1111/j.2517-6161.1974.tb00989.x
    """

    loss = "absolute_error"

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        return -np.abs(y - mean) / scale - np.log(2.0 * scale)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        z = (y - mean) / scale
        tail = 0.5 * np.exp(-np.abs(z))
        return np.where(z < 0, tail, 1.0 - tail)

    def quantile(self, p, mean, scale):
        """Return the quantile at p, elementwise."""
        p = np.asarray(p, dtype=np.float64)
        with np.errstate(divide="ignore"):
            z = np.where(p < 0.5, np.log(2 * p), -np.log(2 * (1 - p)))
        return mean + scale * z

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return np.broadcast_to(2.0 * scale**2, np.broadcast(mean, scale).shape)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return random.laplace(mean, scale)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray:
        """Return the mean absolute error of each expert and output, (K, q)."""
        mass = routing.sum_by_expert(routing.weights)
        drawn, pooled = self._drawn(_sums(y, values, routing, abs), mass)
        least = np.maximum(np.sqrt(self.least_share) * pooled, np.sqrt(self.floor_))
        return np.maximum(drawn, least)

    def row_weights(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return the mean precision of each entry, relative to the scale, (n, m)."""
        assert scale is not None
        error = np.abs(to_host(y)[:, None, :] - to_host(values))
        at = routing.lookup(scale)
        weights = (at / np.maximum(error, NEAR * at)).mean(axis=2)
        return like(weights, values, values.dtype)


def _sums(y: Array, values: Array, routing: Routing, loss, weights=None) -> np.ndarray:
    """Return the summed losses of each expert and output, (K, q)."""
    xp = namespace(values)
    sums = []
    for j in range(values.shape[-1]):
        error = loss(xp.expand_dims(y[:, j], axis=1) - values[:, :, j])
        if weights is not None:
            error = error * like(weights[:, :, j], error, error.dtype)
        sums.append(routing.sum_by_expert(routing.weights * error))
    return np.stack(sums, axis=1)


def _square(error: Array) -> Array:
    return error * error
