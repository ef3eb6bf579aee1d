"""Families of counts."""

from __future__ import annotations

import numpy as np
from scipy import special, stats
from sklearn.base import BaseEstimator
from sklearn.linear_model import PoissonRegressor

from ..backends import Array
from ._base import Likelihood, positive_mean, whole


class Poisson(Likelihood):
    r"""Counts whose variance is their mean.

    .. math:: \log p(y | \mu) = y \log\mu - \mu - \log y!

    ``expert=None`` is ``PoissonRegressor()``, a log-linear model; gradient boosting
    with its default loss gets ``loss="poisson"``. Other learners predict the mean by
    squared errors; answers below 0.001 of the mean of y are raised to that.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(300, 1))
    >>> y = rng.poisson(np.where(X[:, 0] < 0, 1.0, 20.0))
    >>> model = MoERegressor(n_experts=2, likelihood="poisson", random_state=0)
    >>> bool(model.fit(X, y).predict([[-0.5]])[0] < 2)
    True
    """

    any_real = False
    plain = False
    discrete = True
    has_scale = False
    loss = "poisson"

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless targets are counts."""
        whole(y, "poisson")

    def mean(self, answers: Array) -> Array:
        """Return the means that experts' answers stand for."""
        return positive_mean(self, answers)

    def learner(self) -> BaseEstimator:
        """Return a log-linear model."""
        return PoissonRegressor()

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        return special.xlogy(y, mean) - mean - special.gammaln(y + 1.0)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        return np.where(y < 0, 0.0, special.pdtr(np.maximum(np.floor(y), 0.0), mean))

    def quantile(self, p, mean, scale):
        """Return the smallest y with P(Y <= y) >= p, elementwise."""
        return stats.poisson.ppf(p, mean)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return np.asarray(mean)

    def sample(self, mean, scale, random):
        """Draw y, one for each element."""
        return random.poisson(mean).astype(np.float64)


class NegativeBinomial(Poisson):
    r"""Counts that scatter more than Poisson's.

    The variance is :math:`\mu + \alpha\mu^2`; the scale of an expert is its
    dispersion :math:`\alpha` (NB2 [1]_).

    References
    ----------
    .. [1] A. C. Cameron and P. K. Trivedi, "Regression analysis of count data",
       Cambridge University Press (1998), ch. 3.
    """

    has_scale = True

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless targets are counts."""
        whole(y, "negative_binomial")

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        r = 1.0 / scale
        return (
            special.gammaln(y + r)
            - special.gammaln(r)
            - special.gammaln(y + 1.0)
            - r * np.log1p(scale * mean)
            + special.xlogy(y, scale * mean)
            - special.xlogy(y, 1.0 + scale * mean)
        )

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        k = np.maximum(np.floor(y), 0.0)
        known = special.betainc(1.0 / scale, k + 1.0, 1.0 / (1.0 + scale * mean))
        return np.where(y < 0, 0.0, known)

    def quantile(self, p, mean, scale):
        """Return the smallest y with P(Y <= y) >= p, elementwise."""
        return stats.nbinom.ppf(p, 1.0 / scale, 1.0 / (1.0 + scale * mean))

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return mean + scale * mean**2

    def sample(self, mean, scale, random):
        """Draw y, one for each element."""
        rate = random.gamma(1.0 / scale, scale * mean)
        return random.poisson(rate).astype(np.float64)
