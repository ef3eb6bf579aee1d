"""Families of positive targets and of rates."""

from __future__ import annotations

import numpy as np
from scipy import special
from sklearn.base import BaseEstimator
from sklearn.linear_model import GammaRegressor

from ..backends import Array, namespace
from ._base import MEAN_FLOOR, Likelihood, positive_mean


class Gamma(Likelihood):
    r"""Positive targets whose standard deviation grows with the mean.

    The variance is :math:`\phi\mu^2`; the scale of an expert is its dispersion
    :math:`\phi`, one over the shape. ``expert=None`` is ``GammaRegressor()``;
    gradient boosting with its default loss gets ``loss="gamma"``.
    """

    any_real = False
    plain = False
    loss = "gamma"

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless targets are positive."""
        if (y <= 0).any():
            raise ValueError(
                f"likelihood='gamma' needs y above 0; got {y[y <= 0].ravel()[0]!r}."
            )

    def mean(self, answers: Array) -> Array:
        """Return the means that predictions of experts stand for."""
        return positive_mean(self, answers)

    def learner(self) -> BaseEstimator:
        """Return a log-linear model."""
        return GammaRegressor()

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise; -inf outside of the domain."""
        shape = 1.0 / scale
        inside = y > 0
        y = np.where(inside, y, 1.0)
        ratio = shape * y / mean
        log_ratio = np.log(y) - np.log(scale * mean)
        density = shape * log_ratio - ratio - np.log(y) - special.gammaln(shape)
        return np.where(inside, density, -np.inf)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        return special.gammainc(1.0 / scale, np.maximum(y, 0.0) / (scale * mean))

    def quantile(self, p, mean, scale):
        """Return the quantile at p, elementwise."""
        return scale * mean * special.gammaincinv(1.0 / scale, p)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return scale * mean**2

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return random.gamma(1.0 / scale, scale * mean)


class Beta(Likelihood):
    r"""Rates between 0 and 1.

    The variance is :math:`\mu(1-\mu)\phi/(1+\phi)`; the scale of an expert is its
    dispersion :math:`\phi`, one over the precision [1]_. Experts predict the mean by
    squared errors; predictions are clipped to the range from 0.001 to 0.999.

    References
    ----------
    .. [1] S. Ferrari and F. Cribari-Neto, "Beta regression for modelling rates and
       proportions", Journal of Applied Statistics 31 (2004) 799-815.
       doi:10.1080/0266476042000214501
    """

    any_real = False
    plain = False

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless targets lie between 0 and 1."""
        bad = (y <= 0) | (y >= 1)
        if bad.any():
            raise ValueError(
                "likelihood='beta' needs y between 0 and 1, both excluded; got "
                f"{y[bad].ravel()[0]!r}. To move rates of n counts inside, use "
                "(y * (n - 1) + 0.5) / n."
            )

    def mean(self, answers: Array) -> Array:
        """Return the means that predictions of experts stand for."""
        xp = namespace(answers)
        low = MEAN_FLOOR
        answers = xp.where(answers > low, answers, low)
        return xp.where(answers < 1.0 - low, answers, 1.0 - low)

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise; -inf outside of the domain."""
        a = mean / scale
        b = (1.0 - mean) / scale
        inside = (y > 0) & (y < 1)
        y = np.where(inside, y, 0.5)
        density = (a - 1) * np.log(y) + (b - 1) * np.log1p(-y) - special.betaln(a, b)
        return np.where(inside, density, -np.inf)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        y = np.clip(y, 0.0, 1.0)
        return special.betainc(mean / scale, (1.0 - mean) / scale, y)

    def quantile(self, p, mean, scale):
        """Return the quantile at p, elementwise."""
        return special.betaincinv(mean / scale, (1.0 - mean) / scale, p)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return mean * (1.0 - mean) * scale / (1.0 + scale)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return random.beta(mean / scale, (1.0 - mean) / scale)
