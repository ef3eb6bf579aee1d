"""The pool contract: p(y | x, k) for all experts at once."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from .._learners import MIN_RESPONSIBILITY, behind, is_frozen
from .._sklearn_compat import _safe_indexing
from ..backends import Array, like, namespace, select, to_host
from ..likelihoods import PROBABILITY_FLOOR, Categorical, Likelihood
from ..routing import Block, Routing, Table


class ExpertPool(ABC):
    """Base class of all pools.

    A pool holds *all* experts of a mixture, so that it can work on them together.
    It is a value: ``update``, ``rescale`` and ``select`` return new pools.

    To add a pool you must

    1. write the classmethod ``supports(estimator, n_features)``: can this pool train
       such a learner and give the answer that its clone would give?
    2. write ``fit(X, y, routing)``, which trains every expert from scratch on the
       rows and weights of the routing, and returns self;
    3. write ``evaluate(X, y, routing)`` and ``predict(X, routing)``;
    4. write ``swap(other, take)``, which copies the learners of some experts;
    5. write ``estimators()``, which returns the fitted experts as scikit-learn
       estimators, `whole`, and ``take(experts)``, if the pool keeps more per expert
       than its learner;
    6. if it can start from the experts it has, write ``update(X, y, routing)``;
    7. if it can count its free parameters, write ``count_parameters``;
    8. if it can learn from a stream, write ``streams``, ``recall`` and ``learn``;
       others are updated on a sample of the rows now and then;
    9. if its experts can be shrunk without asking both models, write ``shrunk``;
    10. if it learns from sums over rows, write ``adds_up``, ``blank``, ``answers``,
        ``log_density_of``, ``sums`` and ``step``, and name in ``changed_by_step`` the
        attributes that steps change. Axes of these arrays before those of one pool are
        several pools, which are trained at once;
    11. call ``skmoe.experts.register_pool``.

    A pool of linear models inherits 4 to 6 and 9 from `CoefficientPool`. A pool that
    holds other pools is a `DerivedPool`; its ``take`` also takes from these.

    Weights of a routing in ``fit`` and ``update`` are responsibilities times sample
    weights, so the row sums are the sample weights. `share` turns them into the rows
    and weights that an expert is fitted on, in the same way for every pool.

    Parameters
    ----------
    estimators : sequence of estimators
        One unfitted learner per expert.
    likelihood : Likelihood or Categorical
        How an answer becomes a density.
    classes : ndarray or None
        Class labels; y holds positions in it. None for regression.
    seeds : sequence of int
        One seed per expert, used wherever it draws at random.
    n_jobs : int or None
        Number of joblib's jobs.
    weight_unit : float
        The user's sample weight that counts as one row here. Learners are fitted with
        the user's weights, so that penalties keep their meaning.
    before : Pipeline or None
        Fitted steps that stand before all experts; the last one keeps the place of the
        expert. X has gone through them; the experts that `estimators` returns are
        Pipelines, and read rows that have not.

    Attributes
    ----------
    scale : (n_experts, q) array or None
        Noise scale of each expert; None until `rescale`, and for classification.
    n_fitted : int
        Number of rows that learners were fitted on, where they are fitted one by one.
    resting : tuple of int
        Experts that the next ``update`` may leave as they are.
    slack : float
        Standard errors by which an expert's term of the bound may fall in one pass. 0
        makes EM monotone.
    first_steps : int
        Calls of `step` that fit a blank pool to a start.
    changed_by_step : tuple of str
        Names of the arrays that `step` changes.
    """

    slack: float = 0.0
    first_steps: int = 1
    changed_by_step: tuple[str, ...] = ()
    weight_unit: float = 1.0
    n_fitted: int = 0
    resting: tuple[int, ...] = ()

    def __init__(
        self,
        estimators: Sequence[BaseEstimator],
        *,
        likelihood: Likelihood | Categorical,
        classes: np.ndarray | None = None,
        seeds: Sequence[int] = (),
        n_jobs: int | None = None,
        weight_unit: float = 1.0,
        before: Pipeline | None = None,
    ) -> None:
        self.learners = list(estimators)
        self.n_experts = len(self.learners)
        self.likelihood = likelihood
        self.classes = classes
        self.seeds = list(seeds) or [0] * self.n_experts
        self.n_jobs = n_jobs
        self.weight_unit = weight_unit
        self.before = before
        self.scale: np.ndarray | None = None
        self.seen: Seen | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of a pool of the same kind, except for the learners."""
        names = ("likelihood", "classes", "seeds", "n_jobs", "weight_unit", "before")
        return {name: getattr(self, name) for name in names}

    # --------------------------------------------------------- to be written
    @classmethod
    @abstractmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether this pool gives the answer that a clone of the learner would."""

    @abstractmethod
    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Train every expert from scratch on its share of the rows."""

    @abstractmethod
    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return each entry's answer as the likelihood reads it, (n, m, q).

        In regression it is the expert's prediction. In classification it is the log
        probability that the expert gives to the row's label (q = 1).
        """

    @abstractmethod
    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's mean (n, m, q) or class probabilities (n, m, C)."""

    @abstractmethod
    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""

    @abstractmethod
    def estimators(self) -> list[Any]:
        """Return the fitted experts as scikit-learn estimators."""

    # ----------------------------------------------------------------- given
    @property
    def frozen(self) -> np.ndarray:
        """Which experts are frozen models, (n_experts,) array of bool."""
        return np.array([is_frozen(learner) for learner in self.learners], dtype=bool)

    @property
    def rigid(self) -> bool:
        """Whether the experts cannot memorise rows, so that slack is 0."""
        return self.slack == 0

    def whole(self, experts: list[Any]) -> list[Any]:
        """Return fitted experts behind the steps that stand before them."""
        if self.before is None:
            return experts
        return [behind(self.before, expert) for expert in experts]

    def with_scale(self, scale: np.ndarray | None) -> Self:
        """Return a pool with other noise scales; learners stay."""
        other = copy.copy(self)
        other.scale = scale
        return other

    def unfitted(self, experts: np.ndarray) -> ExpertPool:
        """Return an unfitted pool of some experts' learners."""
        other = copy.copy(self)
        other._keep_learners(experts)
        other.scale = None
        other.seen = None
        return other

    def _keep_learners(self, experts: np.ndarray) -> None:
        self.learners = [self.learners[k] for k in experts]
        self.seeds = [self.seeds[k] for k in experts]
        self.n_experts = len(experts)
        self.likelihood = self.likelihood.take(experts)

    def of_rows(self, rows: np.ndarray) -> ExpertPool:
        """Return the unfitted pool that serves some of the rows of a table.

        Parameters
        ----------
        rows : (n_samples,) array of bool

        Returns
        -------
        ExpertPool
            Self, unless the pool knows the rows that it judges.
        """
        return self

    @property
    def trained(self) -> ExpertPool:
        """The pool that is trained: this one, or the first that this one holds."""
        return self

    def last_judge(self) -> ExpertPool | None:
        """Return an unfitted pool that judges better once EM has ended, if any."""
        return None

    def fallbacks_of(self, resp: Routing) -> dict[int, dict[int, str]]:
        """Return why experts were fitted to rows that they do not own.

        Parameters
        ----------
        resp : Routing
            Responsibilities of the rows that the pool was fitted on.

        Returns
        -------
        dict
            For each fitted model, by its identity, the reasons of such experts.
        """
        return {id(self): {}}

    def averaged(self) -> ExpertPool | None:
        """Return the pool of the fold models' means, None if it has no fold models."""
        return None

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts; one may occur several times.

        A pool that keeps more per expert than its learner overrides this.
        """
        other = copy.copy(self)
        other._keep_learners(experts)
        other.scale = None if self.scale is None else self.scale[experts]
        other.seen = None if self.seen is None else self.seen.take(experts)
        return other

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool trained on this routing; self is unchanged.

        An expert whose share is empty keeps what it has learned.
        """
        other = copy.copy(self).fit(X, y, routing)
        lessons = self.taught(routing)
        return other.swap(self, shares(lessons, routing.row_sums) == 0)

    def rested(self, experts: tuple[int, ...]) -> Self:
        """Return the pool with some experts resting."""
        other = copy.copy(self)
        other.resting = experts
        return other

    def price(self, routing: Routing) -> int:
        """Return how many rows an update fits, where learners are fitted one by one."""
        return 0

    def extended(self, table: ExpertPool, rows: np.ndarray) -> ExpertPool | None:
        """Return the fitted pool as the judge of a whole table, if it can be that.

        Parameters
        ----------
        table : ExpertPool
            The unfitted pool of the whole table.
        rows : (n_samples,) array of bool
            The rows of the table that this pool was fitted on.

        Returns
        -------
        ExpertPool or None
            It judges the other rows too, and learns no more.
        """
        return None

    def update_each(self, X: Array, y: Array, routings: Sequence[Routing]) -> Self:
        """Return a new pool, trained where each output has a routing of its own.

        Learners take one weight per row: here the mean of the routings.
        """
        return self.update(X, y, Routing.mean(routings))

    def taught(self, routing: Routing) -> Routing:
        """Return the routing without the weights of experts that learn nothing."""
        fixed = self.likelihood.fixed(self.n_experts)
        if not fixed.any():
            return routing
        theirs = like(routing.lookup(fixed), routing.weights)
        weights = routing.weights
        return routing.with_weights(
            namespace(weights).where(theirs, 0.0 * weights, weights)
        )

    def learnable(self, routing: Routing) -> Array:
        """Return the weight of each row that some expert learns from, else 0."""
        xp = namespace(routing.weights)
        row_mass = routing.row_sums
        some = self.taught(routing).row_sums > 0
        return xp.where(some, row_mass, 0.0 * row_mass)

    def log_density(self, y: Array, values: Array, routing: Routing) -> Array:
        """Return log p(y | x, k) at each entry from `evaluate`'s values, (n, m).

        It is -inf at entries of -1.
        """
        return self.likelihood.log_density(y, values, self.scale, routing)

    def scale_at(self, X: Array, routing: Routing) -> np.ndarray | None:
        """Return the noise scale of each entry, (n, m, q), on the host."""
        if self.scale is None:
            return None
        return routing.lookup(self.scale)

    def mix(self, X: Array, routing: Routing) -> Array:
        """Return each row's weighted mean, or other centre of the family, (n, q)."""
        family = self.likelihood
        if family.plain and not family.centred:
            return self._mix(X, routing)
        means = family.means(self.predict(X, routing), routing)
        return family.centre(means, self.scale_at(X, routing), routing)

    def _mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's answers; a pool may fuse both steps."""
        return routing.combine(self.predict(X, routing))

    def emphasised(self, y: Array, values: Array, routing: Routing) -> Routing:
        """Return a routing with the weights that experts are fitted with.

        Robust families lower the weights of rows far from an expert's answers, except
        for learners whose own loss is that of the family.
        """
        weights = self.likelihood.row_weights(y, values, self.scale, routing)
        if weights is None:
            return routing
        assert isinstance(self.likelihood, Likelihood)
        has_loss = np.array([self.likelihood.has_loss(each) for each in self.learners])
        xp = namespace(weights)
        if has_loss.any():
            theirs = like(routing.lookup(has_loss), weights)
            weights = xp.where(theirs, xp.ones_like(weights), weights)
        return routing.with_weights(routing.weights * weights)

    def log_likelihood(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return log p(y | x, k) at each entry of the routing, (n, m)."""
        return self.log_density(y, self.evaluate(X, y, routing), routing)

    def rescale(self, y: Array, values: Array, routing: Routing) -> Self:
        """Return a pool whose noise scales fit these values; learners stay."""
        if not isinstance(self.likelihood, Likelihood):
            return self
        scale = self.likelihood.scales(y, values, routing)
        return self if scale is None else self.with_scale(scale)

    def select(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        if take.all():
            return other
        if not take.any():
            return self
        chosen = self.swap(other, take)
        if self.scale is None or other.scale is None:
            return chosen
        return chosen.with_scale(np.where(take[:, None], other.scale, self.scale))

    # ------------------------------------------------------------ sums over rows
    def adds_up(self, n_features: int) -> bool:
        """Tell whether experts learn from sums over rows, by `sums` and `step`."""
        return False

    def goes_on(self, n_features: int) -> bool:
        """Tell whether fitted experts go on from sums, by `sums` and `step`."""
        return self.adds_up(n_features)

    def blank(self, table: Table, y: np.ndarray, shape: tuple[int, ...] = ()) -> Self:
        """Return a pool that has learned nothing of the rows of a table.

        ``shape`` are the axes of several pools, () for one.
        """
        raise NotImplementedError

    def answers(self, table: Table, block: Block) -> np.ndarray:
        """Return what all experts say of a block, (..., n_experts, q, n)."""
        raise NotImplementedError

    def values_of(self, y: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return what `evaluate` says, (..., n_experts, q, n), from these."""
        return answers

    def log_density_of(self, y: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Return log p(y | x, k) from these, (..., n_experts, n)."""
        raise NotImplementedError

    def loss_of(
        self, y: np.ndarray, answers: np.ndarray, log_lik: np.ndarray, share: np.ndarray
    ) -> np.ndarray:
        """Return how wrong the mixture's point prediction of each row is, (..., n).

        ``share`` (..., n_experts, n) are the gate's probabilities of the experts asked.
        """
        if self.classes is not None:
            wrong = np.sum(share * np.exp(log_lik), axis=-2) < 0.5
            return wrong.astype(np.float64)
        mean = np.sum(share[..., None, :] * answers, axis=-3)
        return np.sum((y - mean) ** 2, axis=-2)

    def sums(
        self,
        block: Block,
        y: np.ndarray,
        answers: np.ndarray,
        mass: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """Return what `step` learns from, summed over the rows of a block.

        Parameters
        ----------
        block : Block
        y : (q, n) or (n,) array
        answers : (..., n_experts, q, n) array
            What the pool says of the block.
        mass : (..., n_experts, n) array
            Responsibilities times row weights.
        weights : (..., n) array
            Row weights.
        """
        raise NotImplementedError

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[Self, np.ndarray]:
        """Return a pool trained on the sums, and how many experts are new, (...)."""
        raise NotImplementedError

    def rescaled(self, table: Table, sums: tuple[np.ndarray, ...]) -> Self:
        """Return a pool whose noise scales fit the sums; learners stay."""
        return self

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts once EM has ended: this one."""
        return self

    def shrunk(
        self, pooled: ExpertPool, learner_of: np.ndarray, shrinkage: float
    ) -> ExpertPool | None:
        """Return the pool of experts shrunk in closed form, if there is such a form.

        Parameters
        ----------
        pooled : ExpertPool
            One expert for each distinct learner, fitted on all rows.
        learner_of : (n_experts,) array of int
            The pooled expert of each expert.
        shrinkage : float
            Weight of the pooled fit, above 0 and at most 1.

        Returns
        -------
        ExpertPool or None
            A fitted pool with the scale of self. After None `shrunk_pool` shrinks the
            answers.
        """
        return None

    # --------------------------------------------------------------- streams
    @property
    def streams(self) -> np.ndarray:
        """Which experts can learn from a batch, (n_experts,) array of bool."""
        return np.zeros(self.n_experts, dtype=bool)

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> Self:
        """Return a pool that remembers rows like these, for `absorb` to add to.

        Parameters
        ----------
        X : (n_samples, n_features) container
            The rows that the pool was fitted on, or rows like them.
        routing : Routing
            Responsibilities times sample weights.
        mass : (n_experts,) array
            The weight of rows to remember of each expert.
        """
        other = copy.copy(self)
        if self.scale is not None:
            other.seen = Seen(mass, mass[:, None] * self.scale**2)
        return other

    def absorb(
        self, X: Array, y: Array, values: Array, routing: Routing, keep: np.ndarray
    ) -> Self:
        """Return a pool that has learned from a batch of rows.

        Parameters
        ----------
        X, y : containers
            The batch.
        values : (n, m, q) array
            The pool's answers for it.
        routing : Routing
            Responsibilities times sample weights.
        keep : (n_experts,) array
            The share of its memory that each expert keeps, in [0, 1].
        """
        other = self.learn(X, y, routing, keep)
        if self.seen is None:
            return other
        other = copy.copy(other)
        other.seen = self.seen.plus(keep, Seen.of(y, values, routing))
        other.scale = other.seen.scales(self.likelihood)
        return other

    def learn(self, X: Array, y: Array, routing: Routing, keep: np.ndarray) -> Self:
        """Return a pool in which the learners that stream have learned from a batch."""
        return self

    @property
    def n_parameters(self) -> int:
        """Number of free parameters, noise scales included."""
        scales = 0 if self.scale is None else self.scale.size
        return self.count_parameters() + scales

    def count_parameters(self) -> int:
        """Return the number of free parameters of the learners."""
        raise TypeError(f"{type(self).__name__} cannot count its free parameters.")


@dataclass(frozen=True, eq=False)
class Seen:
    """Sums over the rows of a stream, from which noise scales follow.

    Attributes
    ----------
    mass : (n_experts,) array
        Σ w of the remembered rows.
    squares : (n_experts, q) array
        Σ w (y - μ)² of the remembered rows.
    """

    mass: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, y: Array, values: Array, routing: Routing) -> Seen:
        """Return the sums of a batch."""
        xp = namespace(values)
        sums = []
        for j in range(values.shape[-1]):
            error = xp.expand_dims(y[:, j], axis=1) - values[:, :, j]
            sums.append(routing.sum_by_expert(routing.weights * error * error))
        return cls(routing.sum_by_expert(routing.weights), np.stack(sums, axis=1))

    def plus(self, keep: np.ndarray, other: Seen) -> Seen:
        """Return the sums of both; a share ``keep`` of self counts."""
        squares = keep[:, None] * self.squares + other.squares
        return Seen(keep * self.mass + other.mass, squares)

    def take(self, experts: np.ndarray) -> Seen:
        """Return the sums of some of the experts."""
        return Seen(self.mass[experts], self.squares[experts])

    def scales(self, likelihood: Any) -> np.ndarray:
        """Return the noise scales, as if one row per expert stood for all its rows."""
        mass = np.maximum(self.mass, np.finfo(np.float64).tiny)
        error = np.sqrt(self.squares / mass[:, None])
        experts = np.arange(len(mass))[:, None]
        routing = Routing(experts, mass[:, None], len(mass))
        return likelihood.scales(np.zeros_like(error), error[:, None, :], routing)


class DerivedPool(ExpertPool):
    """Base class of pools that are made of other pools, and not by `make_pool`.

    Parameters
    ----------
    pool : ExpertPool
        One of these pools, which gives learners, options and slack.
    """

    def __init__(self, pool: ExpertPool) -> None:
        super().__init__(pool.learners, **pool.options)
        self.slack = pool.slack

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether the pool trains a learner: only the pools that it holds do."""
        return False

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Raise: the pools that it holds are fitted already."""
        raise TypeError(f"{type(self).__name__} holds pools that are fitted already.")

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts; one may occur several times.

        A subclass with other pools takes from them too; else this raises.
        """
        if type(self).take is DerivedPool.take:
            name = type(self).__name__
            raise TypeError(f"{name} cannot take some of the experts of its pools.")
        return super().take(experts)


def share(
    routing: Routing, expert: int, row_mass: Array, least: Array | None = None
) -> tuple[Array, Array, float]:
    """Return the rows that an expert is fitted on, their mass, and a factor.

    Rows of which it has at most ``least`` are left out, or of which its responsibility
    is at most `MIN_RESPONSIBILITY` if ``least`` is None. Mass times
    factor are the weights: responsibilities rescaled to mean 1, so that a learner that
    reads weights as counts sees as many rows as it is given. With integer sample
    weights the answer equals that of repeated rows.
    """
    xp = namespace(row_mass)
    rows, mass = routing.segment(expert)
    total = row_mass if rows is None else xp.take(row_mass, rows)
    if least is None:
        enough = mass > MIN_RESPONSIBILITY * total
    else:
        enough = mass > (least if rows is None else xp.take(least, rows))
    owned = xp.nonzero(enough)[0]
    mass, total = xp.take(mass, owned), xp.take(total, owned)
    owned = owned if rows is None else xp.take(rows, owned)
    factor = to_host(xp.sum(total) / xp.sum(mass)) if owned.shape[0] else 1.0
    return owned, mass, float(factor)


def shares(routing: Routing, row_mass: Array | None = None) -> np.ndarray:
    """Return `share`'s factor of each expert, 0 if it has no rows."""
    xp = namespace(routing.weights)
    row_mass = routing.row_sums if row_mass is None else row_mass
    total = xp.expand_dims(row_mass, axis=-1)
    enough = routing.weights > MIN_RESPONSIBILITY * total
    mass = routing.sum_by_expert(xp.where(enough, routing.weights, 0.0))
    rows = routing.sum_by_expert(xp.where(enough, total, 0.0))
    return np.where(mass > 0, rows / np.where(mass > 0, mass, 1.0), 0.0)


def share_sums(mass: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two sums over rows whose ratio is `shares`' factor, each (..., K).

    Parameters
    ----------
    mass : (..., n_experts, n) array
        Responsibilities times row weights.
    weights : (..., n) array
        Row weights.
    """
    enough = (mass > MIN_RESPONSIBILITY * weights[..., None, :]).astype(np.float64)
    return (enough @ weights[..., None])[..., 0], np.sum(mass * enough, axis=-1)


def take_rows(X: Any, rows: Array | None) -> Any:
    """Return rows of an array, a CSR matrix or a data frame; None means all rows."""
    if rows is None:
        return X
    if hasattr(X, "columns") or hasattr(X, "__dataframe__"):
        return _safe_indexing(X, rows)
    return select(X).take_rows(X, like(rows, X))


def host_rows(X: Any, rows: Array | None) -> Any:
    """Return `take_rows` on the host, for learners that run on the CPU."""
    few = take_rows(X, rows)
    return few if namespace(few) is np else to_host(few)


def floored(proba: np.ndarray) -> np.ndarray:
    """Return class probabilities raised to the floor and normalised."""
    proba = np.maximum(proba, PROBABILITY_FLOOR / proba.shape[1])
    return proba / proba.sum(axis=1, keepdims=True)
