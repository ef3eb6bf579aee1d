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
"""Smallest noise variance of an expert, in units of that of all experts together, where
the scales have a prior."""

SCALE_FLOOR_ML = 1e-8
"""The same for plain maximum likelihood (prior 0)."""

ROUNDING = float(np.finfo(np.float64).eps)
"""Smallest noise variance of all, in units of that of y."""

FAR = 8.0
"""In units of what y varies by: targets no further from zero are left there."""

TINY = 1e-4
HUGE = 1e100
LEVEL = 1e4
"""What y varies by, and its level in units of that, from where on learners that compute
with squares of y go wrong."""

MEAN_FLOOR = 1e-3
"""Smallest mean of a family of positive means, in units of the mean of y: learners
that minimise squared errors may answer less than nothing."""

ROOM = 1e-8
"""Largest mean of such a family, in units of the largest number: exponentials of
linear models overflow far from the rows that were learned from."""

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0

SEARCH_STEPS = 14
"""Steps of the search for a dispersion; each leaves 0.618 of the bracket, and a
parabola through what is left finds its logarithm to 1e-4."""


class Likelihood(BaseEstimator, ABC):
    """Base class of the families of p(y | x, k).

    An expert predicts the mean; a family says how y scatters around it. Parameters
    are those of a scikit-learn estimator, so ``likelihood__df`` can be searched over.

    To add a family you must

    1. write, for NumPy arrays that broadcast against each other, the five functions
       ``log_density_of(y, mean, scale)``, ``cdf(y, mean, scale)``,
       ``quantile(p, mean, scale)``, ``variance(mean, scale)`` and
       ``sample(mean, scale, random)``; outputs are independent given the expert;
    2. write ``check(y)``, which raises ValueError for targets it cannot have;
    3. unless the mean may be any real number, write ``mean(answers)``, which brings
       an expert's answers into the family's domain, and set ``plain = False``;
    4. if it has a scale, keep `scales`, which searches for the best dispersion between
       ``BRACKET`` (for real targets in units of the residuals), or write the closed
       form; else set ``has_scale = False``;
    5. set ``loss``, the name that gradient boosting has for it, and ``learner()``, the
       expert that ``expert=None`` stands for, where there are better ones than Ridge.

    Attributes
    ----------
    any_real : bool
        Whether y and the mean may be any real numbers, so that residuals can be
        learned too.
    has_residuals : bool
        Whether what a prediction leaves over of y scatters as y does; not so if single
        values of y have a meaning.
    discrete : bool
        Whether y are whole numbers.
    has_scale : bool
        Whether each expert and output has a scale to be estimated.
    plain : bool
        Whether the answers of experts are means as they are.
    robust : bool
        Whether `row_weights` has a say in how experts are fitted.
    centred : bool
        Whether `centre`, which predict answers, is another point than the mean: one
        that outliers do not move. It is judged by absolute errors.
    normal : bool
        Whether each expert's y are normal.
    n_fixed : int
        How many of the experts, the last ones, learn nothing.
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

    # What `bound` sets: facts of the training targets.
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
        """Draw y, one for each element; ``random`` is a `numpy.random.RandomState`."""

    # ----------------------------------------------------------------- given
    def check(self, y: np.ndarray) -> None:
        """Raise ValueError if the family cannot have these targets."""

    def mean(self, answers: Array) -> Array:
        """Return the means that experts' answers stand for."""
        return answers

    def learner(self) -> BaseEstimator:
        """Return the learner that ``expert=None`` stands for."""
        return Ridge()

    def adapted(self, learner: BaseEstimator) -> BaseEstimator:
        """Return a learner with the family's own loss, if it has it by another name.

        That is gradient boosting, alone or at the end of a Pipeline, whose loss was
        left at the default.
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
        """Tell whether a learner minimises the family's own loss."""
        if isinstance(learner, TransformedTargetRegressor):
            learner = learner.regressor
        last = learner.steps[-1][1] if isinstance(learner, Pipeline) else learner
        params = last.get_params(deep=False)
        names = params.get("loss"), params.get("criterion")
        return self.loss is not None and self.loss in names

    def bound(
        self, prior: float, floor: Any, low: Any = 0.0, origin: Any = 0.0
    ) -> Self:
        """Return the family with pseudo-rows at the pooled scale, and floors.

        Parameters
        ----------
        prior : float
            Pseudo-rows at the pooled scale; 0 is maximum likelihood.
        floor : float or (q,) array
            Smallest noise variance of all, of families of real targets.
        low : float or (q,) array
            Smallest mean, of families of positive means.
        origin : float or (q,) array
            What was taken from the targets; see `origin_of`.
        """
        family = copy.copy(self)
        family.prior_ = prior
        family.floor_ = floor
        family.low_ = low
        family.origin_ = origin
        return family

    def about(self, origin: Any) -> Self:
        """Return the family of targets from which another origin was taken."""
        family = copy.copy(self)
        family.origin_ = origin
        return family

    def seen(
        self, y: np.ndarray, weight: np.ndarray, prior: float, origin: Any = 0.0
    ) -> Self:
        """Return the family bound to training targets and their weights.

        Targets (n, q) are those that are learned: the origin was taken from them. Where
        they are recorded in steps, as grades are, no noise is taken to be less than
        that of rounding to these, or than a share of their variance if that is less:
        an expert that owns the rows of a single grade leaves nothing of them.
        """
        unit = unit_of(y + origin, weight)
        mean = np.average(y, axis=0, weights=weight)
        variance = np.average((y - mean) ** 2, axis=0, weights=weight)
        if self.robust or self.n_fixed:  # outliers are not what a floor is in units of
            variance = np.minimum(variance, unit**2)
        share = SCALE_FLOOR if prior > 0 else SCALE_FLOOR_ML
        floor = np.minimum(share * variance, step_of(y) ** 2 / 12.0)
        low = MEAN_FLOOR * np.abs(mean)
        return self.bound(
            float(prior), np.maximum(floor, ROUNDING * unit**2), low, origin
        )

    @property
    def least_share(self) -> float:
        """Smallest noise variance of an expert, in units of that of all together."""
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
        """Return fitted experts as users see them."""
        return experts

    def take(self, experts: np.ndarray) -> Likelihood:
        """Return the family of some of the experts."""
        return self

    def fixed(self, n_experts: int) -> np.ndarray:
        """Return which of the experts learn nothing, (n_experts,) array of bool."""
        return np.zeros(n_experts, dtype=bool)

    def beyond(self, y: Array) -> np.ndarray | None:
        """Return the rows that no expert that learns can have, bool; None is none."""
        return None

    # --------------------------------------------------- entries of a routing
    def each(self, what: str, expert: np.ndarray, *values: Any) -> np.ndarray:
        """Return one of the family's functions at entries that belong to experts.

        ``expert`` (n, m) are positions of experts; ``values`` are the arguments, each
        broadcasting against (n, m, q).
        """
        return getattr(self, what)(*values)

    def means(self, answers: Array, routing: Routing) -> Array:
        """Return the means that answers at the entries of a routing stand for."""
        return self.mean(answers)

    def centre(self, means: Array, scale: np.ndarray | None, routing: Routing) -> Array:
        """Return the point that predict answers for each row: the mean, (n, q).

        Parameters
        ----------
        means : (n, m, q) array
            Means at the entries of the routing.
        scale : (n, m, q) array or None
            Scales at these.
        routing : Routing
            The weights of the experts, which sum to one in each row.
        """
        return routing.combine(means)

    def log_density(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array:
        """Return log p(y | x, k) at each entry, summed over outputs, (n, m).

        -inf at entries of -1.
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

        The maximum of

        .. math:: \sum_i r_{ik} \log p(y_i | \mu_{ik}, s_k)
                  - \frac{\nu}{2} (\log s_k - \log \bar s)^2

        by golden section, where the pooled scale is that of all experts together and
        :math:`\nu` is the prior.
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

        Families that are scale mixtures of normals weigh rows down that lie far off.
        """
        return None


def maximum(function, shape: tuple[int, ...], bracket: tuple):
    """Return the values of a bracket where a function is largest.

    One golden section search for each element: the function maps arrays of the shape
    to arrays of the shape, element by element, and has one maximum in each.
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
    """Return what each column of y varies by, (q,): never zero.

    That is the distance of the quartiles, or the standard deviation where it is less or
    half of the rows are equal; for a constant, its size.
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
    """Return what to take from each column of y, (q,); 0.0 if all are near zero.

    It is near the median, and a multiple of a power of two of the size of what y varies
    by, so that taking it away rounds nothing: a clock's seconds since 1970 keep what
    they differ by, in float32 too.
    """
    _, middle, _ = quartiles(y, weight)
    step = 2.0 ** np.ceil(np.log2(FAR * unit_of(y, weight)))
    origin = np.where(np.ptp(y, axis=0) > 0, np.round(middle / step) * step, middle)
    return origin.astype(y.dtype) if origin.any() else 0.0


def is_extreme(y: np.ndarray, weight: np.ndarray) -> bool:
    """Tell whether what y varies by is tiny or huge, or tiny beside its level."""
    unit = unit_of(y, weight)
    _, level, _ = quartiles(y, weight)
    varies = np.ptp(y, axis=0) > 0
    usual = (unit > TINY) & (unit < HUGE) & (np.abs(level) < LEVEL * unit)
    return bool(np.any(varies & ~usual))


def step_of(y: np.ndarray) -> np.ndarray:
    """Return the smallest distance of two values in each column of y, (q,)."""
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
    """Return answers raised to the smallest mean, and lowered to a finite one."""
    xp = namespace(answers)
    low = like(np.asarray(family.low_), answers, answers.dtype)
    high = xp.finfo(answers.dtype).max * ROOM
    answers = xp.where(answers < high, answers, high)
    return xp.where(answers > low, answers, low)


def not_negative(y: np.ndarray, name: str) -> None:
    """Raise ValueError unless targets are counts, or rates of counts."""
    if (y < 0).any():
        raise ValueError(
            f"likelihood={name!r} needs y of 0 or more, counts or rates; got "
            f"{y[y < 0].ravel()[0]}."
        )
