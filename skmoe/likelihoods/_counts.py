"""Families of counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special
from sklearn.base import BaseEstimator
from sklearn.linear_model import PoissonRegressor

from ..backends import Array
from ._base import Likelihood, not_negative, positive_mean

LARGE = 1e15
"""Mean beyond which counts are treated as continuous."""

SMALL = 1e-150
"""Smallest mean, so that it is safe to divide by it."""

STIRLING = 1e4
"""Count from which Stirling's series gives log y! up to rounding."""

SEARCH_STEPS = 100
"""Maximum steps of the search for a count: 10 for its magnitude, 53 for its digits."""


class Poisson(Likelihood):
    r"""Counts whose variance is their mean.

    .. math:: \log p(y | \mu) = y \log\mu - \mu - \log y!

    ``expert=None`` is ``PoissonRegressor()``, a log-linear model; gradient boosting
    with its default loss gets ``loss="poisson"``. Other learners predict the mean by
    squared errors; predictions below 0.001 of the mean of y are raised to that.

    Notes
    -----
    *Rates.* y may be any number from 0 on. If rows were observed for unequal times, let
    y be the rate (events divided by time) and ``sample_weight`` the time. Experts are
    then fitted as `sklearn.linear_model.PoissonRegressor` fits them, and ``predict``
    returns the rate. For fractions, the formula above with :math:`\Gamma(y + 1)` for
    :math:`y!` is not a density but a quasi-likelihood [1]_. It serves to fit and to
    compare. Quantiles, intervals and samples are those of counts in one unit of time.

    References
    ----------
    .. [1] R. W. M. Wedderburn, "Quasi-likelihood functions, generalized linear
       models, and the Gauss-Newton method", Biometrika 61 (1974) 439-447.
       doi:10.1093/biomet/61.3.439

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
        """Raise ValueError if targets are negative."""
        not_negative(y, "poisson")

    def mean(self, answers: Array) -> Array:
        """Return the means that predictions of experts stand for."""
        return positive_mean(self, answers)

    def learner(self) -> BaseEstimator:
        """Return a log-linear model."""
        return PoissonRegressor()

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        exact = special.xlogy(y, mean) - mean - special.gammaln(y + 1.0)
        return np.where(y < STIRLING, exact, _log_poisson(y, mean))

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        count = np.maximum(np.floor(y), 0.0)
        exact = special.pdtr(count, np.minimum(mean, LARGE))
        proba = np.where(mean > LARGE, _normal_cdf(count, mean), exact)
        return np.where(y < 0, 0.0, proba)

    def quantile(self, p, mean, scale):
        """Return the smallest y with P(Y <= y) >= p, elementwise."""
        scale = 0.0 if scale is None else scale
        p, mean, scale = np.broadcast_arrays(p, mean, scale)
        shape = p.shape
        p, mean, scale = (x.ravel() for x in (p, mean, scale))
        low, high = _ends(p, mean, self._spread(mean, scale))

        def reached(at: np.ndarray, y: np.ndarray) -> np.ndarray:
            return self.cdf(y, mean[at], scale[at]) >= p[at]

        count = first_count(reached, low, high)
        return np.where(p < 1.0, count, np.inf).reshape(shape)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return np.asarray(mean)

    def _spread(self, mean, scale):
        """Return the standard deviation, elementwise, where the variance overflows."""
        return np.sqrt(mean)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return _sample_poisson(mean, random)


class NegativeBinomial(Poisson):
    r"""Counts whose variance is larger than their mean.

    The variance is :math:`\mu + \alpha\mu^2`; the scale of an expert is its
    dispersion :math:`\alpha` (NB2 [1]_).

    References
    ----------
    .. [1] A. C. Cameron and P. K. Trivedi, "Regression analysis of count data",
       Cambridge University Press (1998), ch. 3.
    """

    has_scale = True

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError if targets are negative."""
        not_negative(y, "negative_binomial")

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""
        r = 1.0 / scale
        mean = np.maximum(mean, SMALL)
        return (
            -special.betaln(y + 1.0, r)
            - np.log(y + r)
            - r * np.log1p(scale * mean)
            - special.xlog1py(y, r / mean)
        )

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        r = 1.0 / scale
        count = np.maximum(np.floor(y), 0.0)
        near = np.minimum(mean, LARGE)
        exact = special.betainc(r, count + 1.0, 1.0 / (1.0 + scale * near))
        limit = special.gammainc(r, r * ((count + 1.0) / mean))
        proba = np.where(mean > LARGE, limit, exact)
        return np.where(y < 0, 0.0, proba)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return mean + scale * mean**2

    def _spread(self, mean, scale):
        """Return the standard deviation, elementwise, where the variance overflows."""
        return np.hypot(np.sqrt(mean), np.sqrt(scale) * mean)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return _sample_poisson(random.gamma(1.0 / scale, scale * mean), random)


def first_count(reached: Callable, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the first count above low that is reached, for each of n searches.

    ``reached`` takes positions among the n and a count for each. All counts after a
    reached one must be reached too. If none below ``high`` is reached, the result is
    ``high``. Beyond 2**53, only whole numbers that are floats are tried.
    """
    at = np.arange(len(low))
    high = high.copy()
    low = low.copy()
    for _ in range(SEARCH_STEPS):
        middle = _between(low[at], high[at])
        undecided = (middle > low[at]) & (middle < high[at])
        at, middle = at[undecided], middle[undecided]
        if not at.size:
            break
        above = reached(at, middle)
        high[at[above]] = middle[above]
        low[at[~above]] = middle[~above]
    return high


def _between(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the middle count; the geometric one if magnitudes differ."""
    wide = (high + 1.0) / 4.0 > low + 2.0
    geometric = np.sqrt(low + 2.0) * np.sqrt(high + 1.0) - 1.0
    return np.floor(np.where(wide, geometric, low / 2 + high / 2))


def _ends(p, mean, spread) -> tuple[np.ndarray, np.ndarray]:
    """Return counts between which a quantile lies, by Cantelli's inequality."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        low = np.floor(mean - spread * np.sqrt((1.0 - p) / p)) - 1.0
        high = np.ceil(mean + spread * np.sqrt(p / (1.0 - p))) + 1.0
    largest = np.finfo(np.float64).max
    return np.fmax(low, -1.0), np.fmin(high, largest)


def _log_poisson(y, mean):
    """Return log p(y) of a large count, by Stirling's series."""
    y, mean = np.maximum(y, STIRLING), np.maximum(mean, SMALL)
    off = (y - mean) / mean
    loss = mean * ((1.0 + off) * np.log1p(off) - off)
    return -loss - 0.5 * np.log(2.0 * np.pi * y) - 1.0 / (12.0 * y)


def _normal_cdf(count, mean):
    """Return P(Y <= count) for a large mean, by the normal distribution."""
    half = np.maximum(np.finfo(np.float64).eps * mean, 1.0) / 2
    return special.ndtr((count - mean + half) / np.sqrt(np.maximum(mean, LARGE)))


def _sample_poisson(mean, random) -> np.ndarray:
    mean = np.asarray(mean, dtype=np.float64)
    drawn = random.poisson(np.minimum(mean, LARGE)).astype(np.float64)
    large = mean > LARGE
    if large.any():
        normal = random.normal(size=np.count_nonzero(large))
        drawn[large] = np.rint(mean[large] + np.sqrt(mean[large]) * normal)
    return drawn
