"""Families with a fixed last expert, which only the gate learns about."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor

from ..backends import Array, filled, like, namespace, to_host
from ..routing import Routing
from ._base import Likelihood, unit_of
from ._families import FAMILIES
from ._mixture import median

IMPOSSIBLE = -1e3
"""Logarithm of a density of zero. It is finite, so that a row that only the fixed
expert serves still has responsibilities."""

MARGIN = 0.05
"""Distance that a uniform density reaches beyond the training targets, as a share of
their range."""


class _Zero(Likelihood):
    """All probability at y = 0."""

    has_scale = False

    def mean(self, answers):
        return np.zeros_like(answers)

    def log_density_of(self, y, mean, scale):
        return np.where(y == 0, 0.0, IMPOSSIBLE) + 0.0 * mean

    def cdf(self, y, mean, scale):
        return np.where(y >= 0, 1.0, 0.0) + 0.0 * mean

    def quantile(self, p, mean, scale):
        return 0.0 * p + 0.0 * mean

    def variance(self, mean, scale):
        return np.zeros_like(mean)

    def sample(self, mean, scale, random):
        return np.zeros_like(mean)


class _Uniform(Likelihood):
    """The same density everywhere between two ends, and none outside."""

    has_scale = False

    def __init__(self, low: Any = 0.0, high: Any = 1.0) -> None:
        self.low = low
        self.high = high

    def one_output(self, output):
        low, high = np.atleast_1d(self.low), np.atleast_1d(self.high)
        return _Uniform(low[output], high[output])

    def mean(self, answers):
        return np.broadcast_to((self.low + self.high) / 2, answers.shape)

    def log_density_of(self, y, mean, scale):
        inside = (y >= self.low) & (y <= self.high)
        density = np.where(inside, -np.log(self.high - self.low), IMPOSSIBLE)
        return density + 0.0 * mean

    def cdf(self, y, mean, scale):
        share = (y - self.low) / (self.high - self.low)
        return np.clip(share, 0.0, 1.0) + 0.0 * mean

    def quantile(self, p, mean, scale):
        return self.low + p * (self.high - self.low) + 0.0 * mean

    def variance(self, mean, scale):
        return np.broadcast_to((self.high - self.low) ** 2 / 12, mean.shape)

    def sample(self, mean, scale, random):
        return random.uniform(self.low + 0.0 * mean, self.high)


class BesideFixed(Likelihood):
    """A family for the experts that learn, while the last expert is fixed."""

    family: Any
    plain = False
    n_fixed = 1

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError if the family excludes any of these targets."""
        self._named().check(y)

    def _named(self) -> Likelihood:
        if isinstance(self.family, Likelihood):
            return self.family
        if not isinstance(self.family, str) or self.family not in FAMILIES:
            raise ValueError(
                f"family of {type(self).__name__} must be one of {sorted(FAMILIES)} or "
                f"a Likelihood; got {self.family!r}."
            )
        return FAMILIES[self.family]()

    def seen(
        self, y: np.ndarray, weight: np.ndarray, prior: float, origin: Any = 0.0
    ) -> Self:
        """Return the family bound to training targets (n, q) and their weights."""
        other = super().seen(y, weight, prior, origin)
        other.base_ = self._named().bound(prior, other.floor_, other.low_)
        other.fixed_ = self._fixed(y)
        other.is_fixed_ = None
        return other

    def _fixed(self, y: np.ndarray) -> Likelihood:
        raise NotImplementedError

    def of(self, n_experts: int) -> Self:
        """Return the family of a mixture whose last expert is the fixed one."""
        other = copy.copy(self)
        other.is_fixed_ = np.arange(n_experts) == n_experts - 1
        return other

    def shown(self, experts: list[Any]) -> list[Any]:
        """Return fitted experts; fixed ones become constant regressors."""
        mean = self.fixed_.mean(np.zeros(np.shape(self.floor_))) + self.origin_
        mean = np.atleast_1d(mean)
        blank = np.zeros((1, 1)), mean[None] if mean.size > 1 else mean
        constant = DummyRegressor(strategy="constant", constant=mean).fit(*blank)
        return [
            constant if fixed else expert
            for fixed, expert in zip(self.is_fixed_, experts, strict=True)
        ]

    def take(self, experts: np.ndarray) -> Self:
        """Return the family of some of the experts."""
        other = copy.copy(self)
        other.is_fixed_ = self.is_fixed_[experts]
        return other

    def fixed(self, n_experts: int) -> np.ndarray:
        """Return which of the experts learn nothing, (n_experts,) array of bool."""
        return self.is_fixed_

    def one_output(self, output: slice) -> Self:
        """Return the family of one of several outputs."""
        other = copy.copy(self)
        other.base_ = self.base_.one_output(output)
        other.fixed_ = self.fixed_.one_output(output)
        return other

    # The functions below are those of the experts that learn.
    @property
    def any_real(self) -> bool:  # type: ignore[override]
        """Whether y and the mean may be any real numbers."""
        return self._named().any_real

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether y holds whole numbers."""
        return self._named().discrete

    @property
    def has_scale(self) -> bool:  # type: ignore[override]
        """Whether each expert and output has a scale to estimate."""
        return self._named().has_scale

    @property
    def robust(self) -> bool:  # type: ignore[override]
        """Whether experts are fitted with `row_weights`."""
        return self._named().robust

    @property
    def loss(self) -> str | None:  # type: ignore[override]
        """Name of the loss in gradient boosting."""
        return self._named().loss

    def learner(self) -> BaseEstimator:
        """Return the learner that ``expert=None`` stands for."""
        return self._named().learner()

    def mean(self, answers: Array) -> Array:
        """Return the means that predictions of experts stand for."""
        return self.base_.mean(answers)

    def log_density_of(self, y, mean, scale):
        """Return log p(y) of an expert that learns, elementwise."""
        return self.base_.log_density_of(y, mean, scale)

    def cdf(self, y, mean, scale):
        """Return P(Y <= y) of an expert that learns, elementwise."""
        return self.base_.cdf(y, mean, scale)

    def quantile(self, p, mean, scale):
        """Return the quantile of an expert that learns, elementwise."""
        return self.base_.quantile(p, mean, scale)

    def variance(self, mean, scale):
        """Return the variance of an expert that learns, elementwise."""
        return self.base_.variance(mean, scale)

    def sample(self, mean, scale, random):
        """Draw y of an expert that learns, elementwise."""
        return self.base_.sample(mean, scale, random)

    # ------------------------------------------------------------- entries
    def each(self, what: str, expert: np.ndarray, *values: Any) -> np.ndarray:
        """Call a function, by name, at entries that belong to experts."""
        fixed = self.is_fixed_[expert]
        if not fixed.any():
            return getattr(self.base_, what)(*values)
        with np.errstate(divide="ignore", invalid="ignore"):  # of fixed entries
            learning = getattr(self.base_, what)(*values)
        return np.where(fixed[..., None], getattr(self.fixed_, what)(*values), learning)

    def means(self, answers: Array, routing: Routing) -> Array:
        """Return the means that predictions at the entries of a routing stand for."""
        expert = to_host(filled(routing.indices))
        return like(self.each("mean", expert, to_host(answers)), answers, answers.dtype)

    @property
    def centred(self) -> bool:  # type: ignore[override]
        """Whether predict returns a point that outliers do not move."""
        return self._named().centred

    def centre(self, means: Array, scale: np.ndarray | None, routing: Routing) -> Array:
        """Return what predict returns for each row, (n, q)."""
        return type(self.base_).centre(self, means, scale, routing)

    def scales(self, y: Array, values: Array, routing: Routing) -> np.ndarray | None:
        """Return the scales of the experts that learn, from their rows alone."""
        xp = namespace(routing.weights)
        weights = routing.weights
        theirs = routing.lookup(like(self.is_fixed_, routing.indices))
        others = routing.with_weights(xp.where(theirs, xp.zeros_like(weights), weights))
        return self.base_.scales(y, values, others)

    def row_weights(
        self, y: Array, values: Array, scale: np.ndarray | None, routing: Routing
    ) -> Array | None:
        """Return the weight of each entry for a learner of squared errors, or None."""
        return self.base_.row_weights(y, values, scale, routing)


class ZeroInflated(BesideFixed):
    """Counts or amounts with more zeros than their family allows.

    The last of the ``n_experts`` always predicts 0; the gate learns where [1]_. If the
    family has no zeros, as "gamma" and "beta", all rows of zeros belong to the last
    expert, and the other experts never see them.

    Parameters
    ----------
    family : str or Likelihood, default="poisson"
        Family of the other experts.

    References
    ----------
    .. [1] D. Lambert, "Zero-inflated Poisson regression, with an application to
       defects in manufacturing", Technometrics 34 (1992) 1-14. doi:10.2307/1269547

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.likelihoods import ZeroInflated
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(-1, 1, size=(400, 1))
    >>> y = rng.poisson(10, size=400) * (rng.uniform(size=400) < 0.7)
    >>> model = MoERegressor(n_experts=2, likelihood=ZeroInflated(), random_state=0)
    >>> round(float(model.fit(X, y).gate_proba(X)[:, -1].mean()), 1)   # of zeros
    0.3
    """

    has_residuals = False

    def __init__(self, family: Any = "poisson") -> None:
        self.family = family

    def check(self, y: np.ndarray) -> None:
        """Raise ValueError if the family excludes any of these targets."""
        self._named().check(y[y != 0])

    def beyond(self, y: Array) -> np.ndarray | None:
        """Return the rows that only fixed experts can have, a mask; None for none.

        They are the rows of zeros, if the family has no zeros.
        """
        try:
            self._named().check(np.zeros(1))
        except ValueError:
            return (to_host(y) == 0).any(axis=1)
        return None

    def _fixed(self, y: np.ndarray) -> Likelihood:
        beyond = self.beyond(y)
        if beyond is not None and beyond.all():
            raise ValueError(
                f"likelihood={self!r} needs rows of y above 0 to learn from; got only "
                "rows of 0."
            )
        return _Zero()


class WithOutliers(BesideFixed):
    """A family for rows among which some follow no expert.

    The last of the ``n_experts`` has the same density for every y in the range of the
    training targets [1]_. It takes the rows that no other expert explains, so they do
    not disturb the others. ``predict`` leaves that expert out. It returns the median of
    the others if the family is symmetric, else their mean by gate weights. Use this
    where outliers are frequent; for heavy tails, `StudentT` is simpler.

    Parameters
    ----------
    family : str or Likelihood, default="gaussian"
        Family of the other experts.

    References
    ----------
    .. [1] C. Fraley and A. E. Raftery, "How many clusters? Which clustering method?
       Answers via model-based cluster analysis", The Computer Journal 41 (1998)
       578-588. doi:10.1093/comjnl/41.8.578
    """

    def __init__(self, family: Any = "gaussian") -> None:
        self.family = family

    centred = True

    def centre(self, means: Array, scale: np.ndarray | None, routing: Routing) -> Array:
        """Return the median of the experts that learn, (n, q); for counts, the mean.

        The median is safer, as one of these experts may also stand for outliers.
        """
        family = self.base_
        others = self._without_fixed(routing)
        if family.normal or family.centred:
            return median(family, means, scale, others)
        return family.centre(means, scale, others)

    def _without_fixed(self, routing: Routing) -> Routing:
        indices, weights = to_host(routing.indices), to_host(routing.weights)
        learns = (indices >= 0) & ~routing.lookup(self.is_fixed_)
        # If the gate is sure of the fixed expert, the others count alike.
        share = np.where(learns, weights, 0.0)
        sure = (share.sum(axis=1) <= 0) & learns.any(axis=1)
        share = np.where(sure[:, None], learns, share)
        total = share.sum(axis=1, keepdims=True)
        share = np.where(total > 0, share / np.where(total > 0, total, 1.0), weights)
        return routing.with_weights(like(share, routing.weights, routing.weights.dtype))

    def _fixed(self, y: np.ndarray) -> Likelihood:
        low = y.min(axis=0)
        high = y.max(axis=0)
        room = MARGIN * np.where(high > low, high - low, unit_of(y, np.ones(len(y))))
        return _Uniform(low - room, high + room)
