"""Split-conformal calibration of predictive distributions."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import special

from ..likelihoods import PredictiveMixture
from . import _regions as density

TIE = 1e-9
"""Added to a score, so that rows as bad as the worst allowed one count as within."""


class Calibration:
    """Calibration rows, which the model did not see, and their scores.

    The rows must be exchangeable with new rows; the model may be anything. Then a new
    row's score exceeds the score of rank ceil(c (n + 1)) with a probability of at most
    1 - c [1]_, for any number n of rows.

    Parameters
    ----------
    mixture : PredictiveMixture
        The distributions that the model predicts for the rows.
    y : (n,) array
        Targets of the rows.

    References
    ----------
    .. [1] V. Vovk, A. Gammerman and G. Shafer, "Algorithmic learning in a random
       world", Springer (2005).
    """

    def __init__(self, mixture: PredictiveMixture, y: np.ndarray) -> None:
        self.mixture = mixture
        self.y = y
        before = y - 1.0 if mixture.family.discrete else y
        self.upto, self.below = mixture.score(y), mixture.score(before)

    def scores(self, p: np.ndarray) -> np.ndarray:
        """Return the normal scores of the calibrated quantiles at p.

        They are empirical quantiles of P(Y < y) from the median on, and of P(Y <= y)
        below it [1]_. For counts the two differ. So a score below the median is at most
        that of the median, and no score falls as p grows.

        References
        ----------
        .. [1] V. Vovk, J. Shen, V. Manokhin and M. Xie, "Nonparametric predictive
           distributions based on conformal prediction", Machine Learning 108 (2019)
           445-474. doi:10.1007/s10994-018-5755-8
        """
        n = len(self.y)
        upper = np.append(np.sort(self.below) + TIE, np.inf)
        lower = np.append(np.sort(self.upto), -np.inf)  # at position -1
        up = np.minimum(_ceil(np.maximum(p, 0.5) * (n + 1)), n + 1) - 1
        down = np.floor(p * (n + 1) + TIE).astype(int) - 1
        at_least = upper[up]
        return np.where(p >= 0.5, at_least, np.minimum(lower[down], at_least))

    def interval(self, low: np.ndarray, coverage: float, own: np.ndarray) -> np.ndarray:
        """Return the normal scores of the ends of calibrated intervals, (n, 2).

        An interval from the quantile at a to that at a + c is widened or narrowed by
        the same amount of the normal score of P(Y <= y) on both sides. The amount is a
        quantile of the amounts that the calibration rows needed. With a = (1 - c) / 2,
        this is distributional conformal prediction [1]_.

        Parameters
        ----------
        low : (n,) array
            Probability below the interval of each row.
        coverage : float
            c.
        own : array
            The same as ``low``, for the calibration rows.

        References
        ----------
        .. [1] V. Chernozhukov, K. Wüthrich and Y. Zhu, "Distributional conformal
           prediction", PNAS 118 (2021). doi:10.1073/pnas.2107794118
        """
        ends = _scores(own, coverage)
        misses = np.maximum(_minus(ends[0], self.upto), _minus(self.below, ends[1]))
        room = self._rank(misses, coverage)
        first, last = _scores(low, coverage)
        below, above = _minus(first, room), -_minus(-last, room)
        # An interval that is narrowed to nothing becomes a point.
        middle = (first + last) / 2
        crossed = below > above
        scores = np.column_stack([below, above])
        return np.where(crossed[:, None], middle[:, None], scores)

    @cached_property
    def own_mass(self) -> np.ndarray:
        """Probability of a density above that at the row's y."""
        return density.mass_above(self.mixture, self.y)

    def mass(self, coverage: float) -> float:
        """Return the probability that regions must hold under the model.

        References
        ----------
        .. [1] R. Izbicki, G. Shimizu and R. B. Stern, "CD-split and HPD-split:
           efficient conformal regions in high dimensions", JMLR 23 (2022) 1-32.
        """
        return float(np.clip(self._rank(self.own_mass, coverage), 0.0, 1.0))

    def _rank(self, scores: np.ndarray, coverage: float) -> float:
        rank = int(_ceil(coverage * (len(scores) + 1)))
        return np.inf if rank > len(scores) else np.sort(scores)[rank - 1] + TIE


def _ceil(x):
    return np.ceil(np.asarray(x) - TIE).astype(int)


def _scores(low: np.ndarray, coverage: float) -> tuple[np.ndarray, np.ndarray]:
    return special.ndtri(low), special.ndtri(np.minimum(low + coverage, 1.0))


def _minus(a: np.ndarray, b: np.ndarray | float) -> np.ndarray:
    """Return a - b, and -inf where a is -inf: an infinite end is never missed."""
    return np.where(np.isneginf(a), -np.inf, np.where(np.isneginf(a), 0.0, a) - b)
