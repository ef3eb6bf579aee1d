"""The distribution of y that a mixture predicts: moments, quantiles, scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy import special

from ..backends import Array, filled, like, to_host
from ..routing import Routing
from ._base import Likelihood
from ._counts import first_count

MAX_STEPS = 200
"""Maximum steps of the search for a quantile; bisection alone needs about 50."""

STEP_TOL = 1e-12
"""Size of a Newton step, in units of the bracket, that ends the search."""

BLOCK = 1 << 21
"""Maximum number of floats in a block of rows."""

TAIL = 1e-9
"""Probability beyond the ends of the integral of a score."""

LEVELS = special.ndtr(np.concatenate([[-6.0, -4.5], np.linspace(-3.2, 3.2, 9)]))
LEVELS = np.sort(np.concatenate([[TAIL], LEVELS, special.ndtr([4.5, 6.0]), [1 - TAIL]]))
"""Levels of the quantiles of components between which a score is integrated."""

FAR = 5.0
"""Normal score beyond which distances replace probabilities."""

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(8)

LONGEST_SUM = 5000
"""Maximum number of terms in a score of counts; a longer sum becomes an integral."""


@dataclass(frozen=True)
class PredictiveMixture:
    """The distribution of one output given x, for each of n rows.

    Parameters
    ----------
    weights : (n, m) array
        Weights of the components, which sum to one; 0 where a row has fewer.
    expert : (n, m) array of int
        The expert of each component.
    means : (n, m) array
        Means of the components.
    scale : (n, m) array or None
        Scales of the components.
    family : Likelihood
        Distribution of each component around its mean.
    shift : (n,) array
        What is added to y in the end: the prediction of a shared expert.
    """

    weights: np.ndarray
    expert: np.ndarray
    means: np.ndarray
    scale: np.ndarray | None
    family: Likelihood
    shift: np.ndarray

    def __len__(self) -> int:
        return self.weights.shape[0]

    def take(self, rows: np.ndarray | slice) -> Self:
        """Return the distributions of some rows, which may repeat."""
        return replace(
            self,
            weights=self.weights[rows],
            expert=self.expert[rows],
            means=self.means[rows],
            scale=None if self.scale is None else self.scale[rows],
            shift=self.shift[rows],
        )

    def output(self, j: int) -> Self:
        """Return the distribution of one output of several, on the last axis."""
        return replace(
            self,
            means=self.means[:, :, j],
            scale=None if self.scale is None else self.scale[:, :, j],
            family=self.family.one_output(slice(j, j + 1)),
            shift=self.shift[:, j],
        )

    def blocks(self, numbers: int) -> Iterator[slice]:
        """Yield slices of rows for computations with so many numbers per row."""
        size = max(1, BLOCK // max(1, numbers))
        for start in range(0, len(self), size):
            yield slice(start, start + size)

    def _each(self, what: str, *values: np.ndarray) -> np.ndarray:
        """Call a function of the family at (n, t) values, component by component."""
        parts = [self.means] if self.scale is None else [self.means, self.scale]
        own = [part[:, :, None] for part in parts] + [None] * (2 - len(parts))
        asked = [value[:, None, :] for value in values]
        return self.family.each(what, self.expert, *asked, *own)

    def _mixed(self, values: np.ndarray) -> np.ndarray:
        """Return the weighted sum of (n, m, t) values over the components, (n, t)."""
        # A component of weight 0 may hold any number.
        counted = self.weights[:, :, None]
        return np.sum(counted * np.where(counted > 0, values, 0.0), axis=1)

    # ---------------------------------------------------------------- moments
    def mean(self) -> np.ndarray:
        """Return the mean of each row, (n,)."""
        return self._mixed(self.means[:, :, None])[:, 0] + self.shift

    def variance(self) -> np.ndarray:
        """Return the variance of each row, within components plus between them."""
        mean = self._mixed(self.means[:, :, None])
        between = (self.means - mean)[:, :, None] ** 2
        return self._mixed(self._each("variance") + between)[:, 0]

    # -------------------------------------------------------------- densities
    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y | x) at (n, t) values."""
        with np.errstate(divide="ignore"):
            log_weights = np.log(self.weights)[:, :, None]
        terms = log_weights + self._each("log_density_of", y - self.shift[:, None])
        terms = np.where(log_weights == -np.inf, -np.inf, terms)
        return special.logsumexp(terms, axis=1)

    def density(self, y: np.ndarray) -> np.ndarray:
        """Return p(y | x) at (n, t) values, faster than its logarithm."""
        each = self._each("log_density_of", y - self.shift[:, None])
        with np.errstate(over="ignore"):
            return self._mixed(np.exp(each))

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y <= y | x) at (n, t) values."""
        proba = self._mixed(self._each("cdf", y - self.shift[:, None]))
        return np.clip(proba, 0.0, 1.0)

    # -------------------------------------------------------------- quantiles
    def quantile(self, p: np.ndarray) -> np.ndarray:
        """Return the smallest y with P(Y <= y | x) >= p, for (n, t) probabilities.

        The search begins between the quantiles of the components.
        """
        n, t = p.shape
        y = np.empty((n, t))
        for rows in self.blocks(8 * t * self.weights.shape[1]):
            part = self.take(rows)
            some = p[rows]
            single = part.take(np.repeat(np.arange(len(part)), t))
            y[rows] = single._quantile(some.ravel()).reshape(some.shape)
        return y

    def component_quantiles(self, p: np.ndarray) -> np.ndarray:
        """Return the quantiles of the components, (n, m, t), for (n, t) p.

        A component of weight 0 gets those of the heaviest component.
        """
        quantiles = np.array(self._each("quantile", p))
        heaviest = np.argmax(self.weights, axis=1)[:, None, None]
        best = np.take_along_axis(quantiles, heaviest, axis=1)
        return np.where(self.weights[:, :, None] > 0, quantiles, best)

    def _quantile(self, p: np.ndarray) -> np.ndarray:
        """Return the quantile of each row at its own p, (n,)."""
        ends = self.component_quantiles(p[:, None])[:, :, 0]
        if self.family.discrete:  # scipy's quantile at 0 is -1
            ends = np.maximum(ends, 0.0)
        low = ends.min(axis=1)
        high = ends.max(axis=1)
        y = np.where(np.isneginf(low), low, high)  # for p = 0 and p = 1
        plain = replace(self, shift=np.zeros(len(self)))
        rows = np.flatnonzero((low > -np.inf) & (high < np.inf) & (low < high))
        reached = _cdf_at(plain.take(rows), low[rows]) >= p[rows]
        y[rows[reached]] = low[rows[reached]]
        rows = rows[~reached]
        search = _first_count if self.family.discrete else _root
        y[rows] = search(plain.take(rows), p[rows], low[rows], high[rows])
        return y + self.shift

    def median(self) -> np.ndarray:
        """Return the median of each row, for components symmetric about their means.

        In most rows a single component counts, so the search starts at its mean.
        """
        counted = self.weights > 0
        low = np.min(self.means, axis=1, where=counted, initial=np.inf)
        high = np.max(self.means, axis=1, where=counted, initial=-np.inf)
        heaviest = np.argmax(self.weights, axis=1)[:, None]
        middle = np.take_along_axis(self.means, heaviest, axis=1)[:, 0]
        rows = np.flatnonzero(low < high)
        plain = replace(self, shift=np.zeros(len(self))).take(rows)
        half = np.full(len(rows), 0.5)
        middle[rows] = _root(plain, half, low[rows], high[rows], middle[rows])
        return middle + self.shift

    # ---------------------------------------------------------- normal scores
    def score(self, y: np.ndarray) -> np.ndarray:
        """Return the normal scores of P(Y <= y | x) at (n,) values.

        Beyond `FAR`, where probabilities round to 1, they are linear in y.
        """
        z = special.ndtri(_cdf_at(self, y))
        far = np.abs(z) > FAR
        if far.any():
            part = self.take(far)
            sign = np.sign(z[far])
            at, step = part._far(sign)
            z[far] = sign * (FAR + np.maximum(sign * (y[far] - at) / step, 0.0))
        return z

    def at_score(self, z: np.ndarray) -> np.ndarray:
        """Return the y of (n, t) normal scores; of counts, the first to reach them."""
        near = np.where(np.isfinite(z), np.clip(z, -FAR, FAR), z)
        values = self.quantile(special.ndtr(near))
        rows, columns = np.nonzero(np.isfinite(z) & (np.abs(z) > FAR))
        if rows.size:
            part = self.take(rows)
            some = z[rows, columns]
            at, step = part._far(np.sign(some))
            y = at + np.sign(some) * (np.abs(some) - FAR) * step
            y = np.ceil(y) if self.family.discrete else y
            ends = part.quantile(np.tile([0.0, 1.0], (len(rows), 1)))
            values[rows, columns] = np.clip(y, ends[:, 0], ends[:, 1])
        return values

    def _far(self, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the y of score `FAR` on one side, and the step to the next score."""
        ends = self.quantile(special.ndtr(sign[:, None] * [FAR - 1.0, FAR]))
        step = np.abs(np.diff(ends)[:, 0])
        least = 1.0 if self.family.discrete else np.finfo(np.float64).tiny
        return ends[:, 1], np.maximum(step, least)

    # --------------------------------------------------------------- sampling
    def choose(self, n_samples: int, random: np.random.RandomState) -> np.ndarray:
        """Draw components, (n, n_samples), as positions in a row."""
        edges = np.cumsum(self.weights, axis=1)
        drawn = random.uniform(size=(len(self), n_samples)) * edges[:, -1:]
        chosen = np.zeros(drawn.shape, dtype=np.intp)
        for j in range(self.weights.shape[1] - 1):
            chosen += drawn >= edges[:, j : j + 1]
        return chosen

    def sample(self, chosen: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """Draw y from chosen components, (n, n_samples)."""
        own = [
            None
            if part is None
            else np.take_along_axis(part, chosen, axis=1)[..., None]
            for part in (self.means, self.scale)
        ]
        expert = np.take_along_axis(self.expert, chosen, axis=1)
        drawn = self.family.each("sample", expert, *own, random)[..., 0]
        return drawn + self.shift[:, None]

    # ----------------------------------------------------------------- scores
    def crps(self, y: np.ndarray) -> np.ndarray:
        r"""Return the continuous ranked probability score of (n,) values.

        .. math:: \int (F(z) - 1[z \ge y])^2 dz

        It is in closed form for normal components [1]_, and a sum for counts. Otherwise
        it is computed by Gauss-Legendre quadrature between quantiles of the components,
        to about 1e-5 of the standard deviation.

        References
        ----------
        .. [1] E. P. Grimit, T. Gneiting, V. J. Berrocal and N. A. Johnson, "The
           continuous ranked probability score for circular variables and its
           application to mesoscale forecast ensemble verification", QJRMS 132 (2006)
           2925-2942. doi:10.1256/qj.05.235
        """
        scores = np.empty(len(self))
        if self.family.normal:
            for rows in self.blocks(4 * self.weights.shape[1] ** 2):
                scores[rows] = _crps_normal(self.take(rows), y[rows])
            return scores
        m = self.weights.shape[1]
        for rows in self.blocks(2 * m * (m * len(LEVELS) + 1) * len(NODES)):
            scores[rows] = _crps_integral(self.take(rows), y[rows])
        if self.family.discrete:
            ends = self.quantile(np.tile([TAIL, 1 - TAIL], (len(self), 1)))
            low = np.minimum(ends[:, 0], y)
            high = np.maximum(ends[:, 1], y)
            for i in np.flatnonzero(high - low <= LONGEST_SUM):
                z = np.arange(low[i], high[i] + 1.0)[None, :]
                steps = self.take(slice(i, i + 1)).cdf(z) - (z >= y[i])
                scores[i] = np.sum(steps**2)
        return scores


def median(
    family: Likelihood, means: Array, scale: np.ndarray | None, routing: Routing
) -> Array:
    """Return the medians of mixtures at the entries of a routing, (n, q).

    The parameters are those of `Likelihood.centre`.
    """
    host = to_host(means).astype(np.float64)
    expert = to_host(filled(routing.indices))
    weights = to_host(routing.weights).astype(np.float64)
    whole = PredictiveMixture(
        weights, expert, host, scale, family, np.zeros(host.shape[::2])
    )
    medians = [whole.output(j).median() for j in range(host.shape[2])]
    return like(np.stack(medians, axis=1), means, means.dtype)


def _cdf_at(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    return mixture.cdf(y[:, None])[:, 0]


def _first_count(mixture, p, low, high) -> np.ndarray:
    """Return the first count above low, and at most high, whose cdf reaches p."""

    def reached(rows: np.ndarray, y: np.ndarray) -> np.ndarray:
        return _cdf_at(mixture.take(rows), y) >= p[rows]

    return first_count(reached, low, high)


def _root(mixture, p, low, high, start=None) -> np.ndarray:
    """Return where the cdf is p, between low and high.

    It takes Newton's steps where they stay in the bracket and at least halve the step
    before the last, else it bisects.
    """
    low = low.copy()
    high = high.copy()
    y = (low + high) / 2 if start is None else start.copy()
    rows = np.arange(len(p))
    width = high - low
    before = width.copy()
    last = width.copy()
    for _ in range(MAX_STEPS):
        part = mixture.take(rows)
        at = y[rows]
        error = _cdf_at(part, at) - p[rows]
        slope = part.density(at[:, None])[:, 0]
        reached = error >= 0
        high[rows] = np.where(reached, at, high[rows])
        low[rows] = np.where(reached, low[rows], at)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            newton = at - error / slope
        a, b = low[rows], high[rows]
        good = (newton > a) & (newton < b)
        good &= np.abs(newton - at) <= before[rows] / 2
        new = np.where(error == 0, at, np.where(good, newton, (a + b) / 2))
        step = np.abs(new - at)
        before[rows] = last[rows]
        last[rows] = step
        y[rows] = new
        tol = STEP_TOL * width[rows] + 4 * np.finfo(np.float64).eps * np.abs(new)
        rows = rows[step > tol]
        if not rows.size:
            break
    return y


def _crps_normal(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    """Return the score of mixtures of normals, (n,)."""
    w = mixture.weights
    scale = mixture.scale
    assert scale is not None
    means = mixture.means + mixture.shift[:, None]
    from_y = np.sum(w * _mean_absolute(means - y[:, None], scale), axis=1)
    gap = means[:, :, None] - means[:, None, :]
    both = np.sqrt(scale[:, :, None] ** 2 + scale[:, None, :] ** 2)
    within = np.einsum("ij,ik,ijk->i", w, w, _mean_absolute(gap, both))
    return from_y - within / 2


def _mean_absolute(mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return E|Z| for normal Z."""
    z = mean / scale
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return scale * (2 * density + z * (2 * special.ndtr(z) - 1))


def _crps_integral(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    """Return the score by quadrature, panel by panel, (n,)."""
    n = len(mixture)
    ends = mixture.component_quantiles(np.broadcast_to(LEVELS, (n, len(LEVELS))))
    ends = ends.reshape(n, -1) + mixture.shift[:, None]
    ends = np.sort(np.column_stack([ends, y]), axis=1)
    half = np.diff(ends, axis=1)[:, :, None] / 2
    nodes = ends[:, :-1, None] + half * (1.0 + NODES)
    steps = mixture.cdf(nodes.reshape(n, -1)).reshape(nodes.shape)
    steps -= nodes >= y[:, None, None]
    return np.sum(half * NODE_WEIGHTS * steps**2, axis=(1, 2))
