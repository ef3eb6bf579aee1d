"""Several labels per row, each present or absent."""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from ..backends import Array, namespace
from ._base import Likelihood
from ._categorical import PROBABILITY_FLOOR


class Bernoulli(Likelihood):
    r"""Labels that are 0 or 1, independent given the expert.

    An expert predicts the probabilities of the labels, and

    .. math:: \log p(y | x, k) = \sum_l y_l \log p_{kl}(x)
              + (1 - y_l) \log(1 - p_{kl}(x))

    Probabilities stay between 0.0005 and 0.9995, as for two classes, so that no expert
    rules a row out. In the mixture, labels depend on each other all the same, because
    the expert of a row says something about all of them.

    `MoEClassifier` fits this family to an indicator of labels.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.likelihoods import Bernoulli
    >>> y, proba = np.array([1.0, 0.0]), np.array([0.5, 0.75])
    >>> np.exp(Bernoulli().log_density_of(y, proba, None))
    array([0.5 , 0.25])
    """

    any_real = False
    plain = False
    discrete = True
    has_scale = False

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError unless targets are 0 or 1."""
        bad = (y != 0) & (y != 1)
        if bad.any():
            raise ValueError(
                f"y must hold labels 0 or 1 in every column; got {y[bad][0]:g}."
            )

    def mean(self, answers: Array) -> Array:
        """Return the probabilities of experts, within their limits."""
        xp = namespace(answers)
        low = PROBABILITY_FLOOR / 2
        answers = xp.where(answers > low, answers, low)
        return xp.where(answers < 1.0 - low, answers, 1.0 - low)

    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise; -inf outside of the domain."""
        density = special.xlogy(y, mean) + special.xlog1py(1.0 - y, -mean)
        return np.where((y == 0) | (y == 1), density, -np.inf)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""
        return stats.bernoulli.cdf(y, mean)

    def quantile(self, p, mean, scale):
        """Return the smallest y with P(Y <= y) >= p, elementwise."""
        return np.where(p <= 1.0 - mean, 0.0, 1.0)

    def variance(self, mean, scale):
        """Return the variance, elementwise."""
        return mean * (1.0 - mean)

    def sample(self, mean, scale, random):
        """Draw y, elementwise."""
        return random.binomial(1, mean).astype(np.float64)
