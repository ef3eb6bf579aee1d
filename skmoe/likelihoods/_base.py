"""The contract of a likelihood family."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from ..backends import Array, filled, like, namespace, to_host
from ..routing import Routing

SCALE_FLOOR = 1e-3
"""Smallest noise variance of an expert whose scale has a prior, as a share of the
variance of all experts together."""

SCALE_FLOOR_ML = 1e-8
"""The same under maximum likelihood (prior 0)."""

ROUNDING = float(np.finfo(np.float64).eps)
"""Smallest noise variance of any expert, in units of `unit_of` squared."""

FAR = 8.0
"""Distance from zero, in units of `unit_of`, up to which targets keep their origin."""

TINY = 1e-4
HUGE = 1e100
LEVEL = 1e4
"""Limits of `unit_of` and, in units of it, of the level of y. Beyond them, learners
that compute with squares of y go wrong."""

MEAN_FLOOR = 1e-3
"""Smallest mean of a family of positive means, in units of the mean of y. Learners that
minimise squared errors may predict less than zero."""

ROOM = 1e-8
"""Largest mean of such a family, in units of the largest float. Exponentials of linear
models overflow far from the training rows."""

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0

SEARCH_STEPS = 14
"""Steps of the search for a dispersion. Each leaves 0.618 of the bracket; a parabola
through the rest finds the logarithm to 1e-4."""


class Likelihood(BaseEstimator, ABC):
    """Base class of the families of p(y | x, k).

    An expert predicts the mean; a family says how y scatters around it. A family has
    parameters like a scikit-learn estimator, so a search can set ``likelihood__df``.

    To add a family you must

    1. write, for NumPy arrays that broadcast against each other, the five functions
       ``log_density_of(y, mean, scale)``, ``cdf(y, mean, scale)``,
       ``quantile(p, mean, scale)``, ``variance(mean, scale)`` and
       ``sample(mean, scale, random)``; outputs are independent given the expert;
    2. write ``check(y)``, which raises ValueError for targets that the family excludes;
    3. unless the mean may be any real number, write ``mean(answers)``, which brings
       an expert's predictions into the family's domain, and set ``plain = False``;
    4. if it has a scale, keep `scales`, which searches for the best dispersion in
       ``BRACKET`` (for real targets, in units of the residuals), or write the closed
       form; else set ``has_scale = False``;
    5. set ``loss``, the name of its loss in gradient boosting, and ``learner()``, the
       expert that ``expert=None`` stands for, if another one is better than Ridge.

    Attributes
    ----------
    any_real : bool
        Whether y and the mean may be any real numbers, so that residuals can be
        learned too.
    has_residuals : bool
        Whether residuals scatter as y does. They do not if single values of y have a
        meaning, as zero has in `ZeroInflated`.
    discrete : bool
        Whether y holds whole numbers.
    has_scale : bool
        Whether each expert and output has a scale to estimate.
    plain : bool
        Whether the predictions of experts are the means.
    robust : bool
        Whether experts are fitted with `row_weights`.
    centred : bool
        Whether predict returns not the mean but a `centre` that outliers do not move.
        It is judged by absolute errors.
    normal : bool
        Whether y is normal given the expert.
    n_fixed : int
        Number of experts, at the end of the list, that learn nothing.
    loss : str or None
        Name of its loss in `HistGradientBoostingRegressor`.
    """

    any_real: bool = True
    has_residuals: bool = True
    plain: bool = True
    robust: bool = False
    centred: bool = False
    normal: bool = False
    discrete: bool = False
    has_scale: bool = True
    loss: str | None = None
    n_fixed: int = 0

    BRACKET = (1e-4, 1e2)

    # Set by `bound`, from the training targets.
    prior_: float = 0.0
    floor_: np.ndarray | float = 0.0
    low_: np.ndarray | float = 0.0
    origin_: np.ndarray | float = 0.0

    # --------------------------------------------------------- to be written
    @abstractmethod
    def log_density_of(self, y, mean, scale):
        """Return log p(y), elementwise."""

    @abstractmethod
    def cdf(self, y, mean, scale):
        """Return P(Y <= y), elementwise."""

    @abstractmethod
    def quantile(self, p, mean, scale):
        """Return the smallest y with P(Y <= y) >= p, elementwise."""

    @abstractmethod
    def variance(self, mean, scale):
        """Return the variance, elementwise; infinite where there is none."""

    @abstractmethod
    def sample(self, mean, scale, random):
        """Draw y, elementwise; ``random`` is a `numpy.random.RandomState`."""

    # ----------------------------------------------------------------- given
    def check(self, y: np.ndarray) -> None:
        """Raise ValueError if the family excludes any of these targets."""

    def mean(self, answers: Array) -> Array:
        """Return the means that predictions of experts stand for."""
        return answers

    def learner(self) -> BaseEstimator:
        """Return the learner that ``expert=None`` stands for."""
        return Ridge()

    def adapted(self, learner: BaseEstimator) -> BaseEstimator:
        """Return a learner with the loss of the family, if it can be set.

        It is set for gradient boosting, alone or at the end of a Pipeline, whose loss
        is the default.
        """
        last = learner.steps[-1][1] if isinstance(learner, Pipeline) else learner
        if self.loss is None or not isinstance(last, HistGradientBoostingRegressor):
            return learner
        if last.loss != HistGradientBoostingRegressor().loss:
            return learner
        learner = clone(learner)
        last = learner.steps[-1][1] if isinstance(learner, Pipeline) else learner
        last.set_params(loss=self.loss)
        return learner

    def has_loss(self, learner: BaseEstimator) -> bool:
        """Tell whether a learner minimises the loss of the family."""
        if isinstance(learner, TransformedTargetRegressor):
            learner = learner.regressor
        last = learner.steps[-1][1] if isinstance(learner, Pipeline) else learner
        params = last.get_params(deep=False)
        names = params.get("loss"), params.get("criterion")
        return self.loss is not None and self.loss in names

    def bound(
        self, prior: float, floor: Any, low: Any = 0.0, origin: Any = 0.0
    ) -> Self:
        """Return the family with a prior on its scales, and floors.

        Parameters
        ----------
        prior : float
            Pseudo-rows at the pooled scale; 0 is maximum likelihood.
        floor : float or (q,) array
            Smallest noise variance, for families of real targets.
        low : float or (q,) array
            Smallest mean, for families of positive means.
        origin : float or (q,) array
            What was subtracted from the targets; see `origin_of`.
        """
        family = copy.copy(self)
        family.prior_ = prior
        family.floor_ = floor
        family.low_ = low
        family.origin_ = origin
        return family

    def about(self, origin: Any) -> Self:
        """Return the family for targets with another origin."""
        family = copy.copy(self)
        family.origin_ = origin
        return family

    def seen(
        self, y: np.ndarray, weight: np.ndarray, prior: float, origin: Any = 0.0
    ) -> Self:
        """Return the family bound to training targets and their weights.

        The origin is already subtracted from the targets (n, q). If they are recorded
        in steps, as grades are, the noise variance is at least that of rounding to
        these steps, or a share of the variance of y if that is less. Otherwise an
        expert with the rows of a single grade would have no noise.
        """
        unit = unit_of(y + origin, weight)
        mean = np.average(y, axis=0, weights=weight)
        variance = np.average((y - mean) ** 2, axis=0, weights=weight)
        if self.robust or self.n_fixed:  # outliers do not count
            variance = np.minimum(variance, unit**2)
        share = SCALE_FLOOR if prior > 0 else SCALE_FLOOR_ML
        floor = np.minimum(share * variance, step_of(y) ** 2 / 12.0)
        low = MEAN_FLOOR * np.abs(mean)
        return self.bound(
            float(prior), np.maximum(floor, ROUNDING * unit**2), low, origin
        )

    @property
    def least_share(self) -> float:
        """Smallest noise variance of an expert, as a share of that of all together."""
        return SCALE_FLOOR if self.prior_ > 0 else SCALE_FLOOR_ML

    def one_output(self, output: slice) -> Self:
        """Return the family of one of several outputs."""
        family = copy.copy(self)
        family.floor_ = np.atleast_1d(self.floor_)[output]
        family.low_ = np.atleast_1d(self.low_)[output]
        if np.ndim(self.origin_):
            family.origin_ = self.origin_[output]
        return family

    def shown(self, experts: list[Any]) -> list[Any]:
        """Return fitted experts in the form that users see."""
        return experts

    def take(self, experts: np.ndarray) -> Likelihood:
        """Return the family of some of the experts."""
        return self

    def fixed(self, n_experts: int) -> np.ndarray:
        """Return which of the experts learn nothing, (n_experts,) array of bool."""
        return np.zeros(n_experts, dtype=bool)

    def beyond(self, y: Array) -> np.ndarray | None:
        """Return the rows that only fixed experts can have, a mask; None for none."""
        return None

    # --------------------------------------------------- entries of a routing
    def each(self, what: str, expert: np.ndarray, *values: Any) -> np.ndarray:
        """Call a function of the family, by name, at entries that belong to experts.

        ``expert`` (n, m) has the positions of the experts. ``values`` are the
        arguments, which broadcast against (n, m, q).
        """
        return getattr(self, what)(*values)

    def means(self, answers: Array, routing: Routing) -> Array:
        """Return the means that predictions at the entries of a routing stand for."""
        return self.mean(answers)

    def centre(self, means: Array, scale: np.ndarray | None, routing: Routing) -> Array:
        """Return what predict returns for each row, (n, q); here the mean.

        Parameters
        ----------
        means : (n, m, q) array
            Means at the entries of the routing.
        scale : (n, m, q) array or None
            Scales at the entries.
        routing : Routing
            The weights of the experts, which sum to one in each row.
        """
        return routing.combine(means)

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return log p(y | x, k) at each entry, summed over outputs, (n, m).

        It is -inf at entries whose expert is -1.
        """
        expert = to_host(filled(routing.indices))
        target = to_host(y)[:, None, :].astype(np.float64)
        answers = to_host(values).astype(np.float64)
        at = None if scale is None else scale[expert]
        mean = self.each("mean", expert, answers)
        density = self.each("log_density_of", expert, target, mean, at).sum(axis=-1)
        density = np.where(to_host(routing.indices) < 0, -np.inf, density)
        return like(density, values, values.dtype)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray | None:
        r"""Return the scale of each expert and output, (K, q).

        Golden section finds the maximum of

        .. math:: \sum_i r_{ik} \log p(y_i | \mu_{ik}, s_k)
                  - \frac{\nu}{2} (\log s_k - \log \bar s)^2

        where :math:`\bar s` is the scale of all experts together and :math:`\nu` the
        prior.
        """
        if not self.has_scale:
            return None
        target = to_host(y)[:, None, :].astype(np.float64)
        mean = self.mean(to_host(values).astype(np.float64))
        host = Routing(
            to_host(routing.indices),
            to_host(routing.weights),
            routing.n_experts,
            routing.dense,
        )
        expert = filled(host.indices)
        counted = host.weights[:, :, None] > 0

        def terms(log_scale: np.ndarray) -> np.ndarray:
            density = self.log_density_of(target, mean, np.exp(log_scale)[expert])
            density = host.weights[:, :, None] * np.where(counted, density, 0.0)
            parts = [host.sum_by_expert(density[:, :, j]) for j in range(mean.shape[2])]
            return np.stack(parts, axis=1)

        shape = (host.n_experts, mean.shape[2])
        unit = 0.0
        if self.any_real:  # scales are in units of y
            unit = np.log(self._residual(target - mean, host))
        bracket = tuple(unit + np.log(end) for end in self.BRACKET)

        def together(log_scale: np.ndarray) -> np.ndarray:
            return terms(np.broadcast_to(log_scale, shape)).sum(axis=0)

        pooled = maximum(together, shape[1:], bracket)
        found = maximum(
            lambda s: terms(s) - self.prior_ / 2 * (s - pooled) ** 2, shape, bracket
        )
        nothing = host.sum_by_expert(host.weights) + self.prior_ <= 0
        return np.exp(np.where(nothing[:, None], pooled, found))

    def _residual(self, error: np.ndarray, routing: Routing) -> np.ndarray:
        """Return the root mean square of errors at the entries of a routing, (q,)."""
        total = max(float(routing.weights.sum()), np.finfo(np.float64).tiny)
        mean = np.sum(routing.weights[:, :, None] * error**2, axis=(0, 1)) / total
        return np.sqrt(np.maximum(mean, self.floor_))

    def row_weights(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array | None:
        """Return the weight of each entry for a learner of squared errors, or None.

        Families with heavy tails weigh down rows with large residuals.
        """
        return None


def maximum(function, shape: tuple[int, ...], bracket: tuple):
    """Return where in a bracket a function is largest, for each element.

    Each element has its own golden section search. The function maps arrays of the
    shape to arrays of the shape, element by element, and has one maximum in each.
    """
    a, b = (np.broadcast_to(end, shape) for end in bracket)
    left = b - GOLDEN * (b - a)
    right = a + GOLDEN * (b - a)
    at_left, at_right = function(left), function(right)
    for _ in range(SEARCH_STEPS):
        higher = at_left > at_right
        a, b = np.where(higher, a, left), np.where(higher, right, b)
        new = np.where(higher, b - GOLDEN * (b - a), a + GOLDEN * (b - a))
        at_new = function(new)
        left, right = np.where(higher, new, right), np.where(higher, left, new)
        at_left, at_right = (
            np.where(higher, at_new, at_right),
            np.where(higher, at_left, at_new),
        )
    middle = (a + b) / 2
    half = (b - a) / 2
    at_a, at_middle, at_b = function(a), function(middle), function(b)
    bend = at_a - 2 * at_middle + at_b
    safe = np.where(bend < 0, bend, -1.0)
    peak = middle + half * np.clip((at_a - at_b) / (2 * safe), -1.0, 1.0)
    return np.where(bend < 0, peak, np.where(at_a > at_b, a, b))


def unit_of(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the unit in which each column of y varies, (q,); it is never zero.

    It is the distance between the quartiles, or the standard deviation if that is less
    or the quartiles are equal. For a constant it is its absolute value.
    """
    low, middle, high = quartiles(y, weight)
    span = np.ptp(y, axis=0)
    part = (y - middle) / np.where(span > 0, span, 1.0)
    mean = np.average(part, axis=0, weights=weight)
    variance = np.average((part - mean) ** 2, axis=0, weights=weight)
    deviation = span * np.sqrt(variance)
    core = np.where(high > low, high - low, deviation)
    size = np.where(middle != 0, np.abs(middle), 1.0)
    return np.where(deviation > 0, np.minimum(deviation, core), size)


def origin_of(y: np.ndarray, weight: np.ndarray) -> np.ndarray | float:
    """Return what to subtract from each column of y, (q,); 0.0 if all are near zero.

    It is near the median, and a multiple of a power of two about as large as the unit
    of y, so that subtraction rounds nothing. So seconds since 1970 keep their
    differences, even in float32.
    """
    _, middle, _ = quartiles(y, weight)
    step = 2.0 ** np.ceil(np.log2(FAR * unit_of(y, weight)))
    origin = np.where(np.ptp(y, axis=0) > 0, np.round(middle / step) * step, middle)
    return origin.astype(y.dtype) if origin.any() else 0.0


def is_extreme(y: np.ndarray, weight: np.ndarray) -> bool:
    """Tell whether the unit of y is tiny or huge, or tiny beside the level of y."""
    unit = unit_of(y, weight)
    _, level, _ = quartiles(y, weight)
    varies = np.ptp(y, axis=0) > 0
    usual = (unit > TINY) & (unit < HUGE) & (np.abs(level) < LEVEL * unit)
    return bool(np.any(varies & ~usual))


def step_of(y: np.ndarray) -> np.ndarray:
    """Return the smallest distance between values in each column of y, (q,)."""
    gaps = [np.diff(np.unique(column)) for column in y.T]
    return np.array([gap.min(initial=np.inf) for gap in gaps])


def quartiles(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the weighted quartiles of each column of y, (3, q)."""
    columns = []
    for column in y.T:
        order = np.argsort(column, kind="stable")
        mass = np.cumsum(weight[order])
        at = np.searchsorted(mass, np.array([0.25, 0.5, 0.75]) * mass[-1])
        columns.append(column[order][at])
    return np.stack(columns, axis=1)


def positive_mean(family: Likelihood, answers: Array) -> Array:
    """Return predictions clipped between the smallest mean and a finite one."""
    xp = namespace(answers)
    low = like(np.asarray(family.low_), answers, answers.dtype)
    high = xp.finfo(answers.dtype).max * ROOM
    answers = xp.where(answers < high, answers, high)
    return xp.where(answers > low, answers, low)


def not_negative(y: np.ndarray, name: str) -> None:
    """Raise ValueError unless targets are counts or rates, so 0 or more."""
    if (y < 0).any():
        raise ValueError(
            f"likelihood={name!r} needs y of 0 or more, counts or rates; got "
            f"{y[y < 0].ravel()[0]}."
        )
