"""A pool of clones of any scikit-learn learner."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from sklearn import config_context  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import parallel

from .._bins import fit_weighted
from .._frames import remedy
from .._learners import (
    PART_OF_BEST,
    bears_threads,
    is_frozen,
    read_answer,
    recipe,
    resample,
    said_without,
    seeded,
    weight_parameter,
)
from ..backends import (
    Array,
    few_openmp_threads,
    like,
    namespace,
    one_blas_thread,
    to_host,
)
from ..routing import Routing
from ._base import ExpertPool, floored, host_rows, share, take_rows
from ._labels import MultilabelExpert

TEACHES = 2
"""Experts that learn from a row, unless more are alike."""

ENOUGH_ROWS = 1_000
"""From so many rows on experts answer in threads."""

ROUNDING = 1e-3
"""Probabilities may lie outside [0, 1] by this much: some are in float16."""


Asking = Generator[tuple[int, Iterable[Any]], list[Any], Any]
"""Asks for a number of calls, as `joblib.delayed` makes them, and is sent the answers.
It may ask again, and returns what it made of them."""


def together(jobs: Sequence[Asking], n_jobs: int | None) -> list[Any]:
    """Return what the jobs return; calls that they ask for at a time run in parallel.

    A few calls of each job do not keep all processes busy, those of all jobs do.
    """
    returned: list[Any] = [None] * len(jobs)
    said: dict[int, Any] = dict.fromkeys(range(len(jobs)))
    while True:
        asked = {}
        for at, answers in said.items():
            try:
                asked[at] = jobs[at].send(answers)
            except StopIteration as end:
                returned[at] = end.value
        if not asked:
            return returned
        calls = chain.from_iterable(calls for _, calls in asked.values())
        # In batches the last would leave other processes idle.
        made = iter(Parallel(n_jobs=n_jobs, batch_size=1)(calls))
        said = {at: list(islice(made, number)) for at, (number, _) in asked.items()}


@dataclass(frozen=True)
class Name:
    """An expert's name in messages; a learner's text takes as long as a prediction."""

    k: int
    learner: Any

    def __str__(self) -> str:
        return f"Expert {self.k} ({self.learner!r})"


class EstimatorPool(ExpertPool):
    """Clones of any regressors or classifiers, fitted in parallel by joblib.

    Notes
    -----
    *Weights.* A learner whose ``fit`` takes ``sample_weight`` (for a Pipeline: its
    last step) gets the responsibilities as weights. Any other learner is fitted on
    rows drawn by systematic resampling [1]_, with one fixed seed per expert: a row of
    weight 2.3 is drawn two or three times. Equal weights draw each row once; an integer
    weight draws its row that many times.

    *Boosted trees.* `HistGradientBoosting*` is given its bins by `fit_weighted`, so a
    fit takes hardly longer than one without weights. The trees are the same.

    *Classes.* Experts are fitted on the original labels. A class that an expert did
    not meet gets the lowest probability; an expert that met a single class is a
    `sklearn.dummy.DummyClassifier`.

    *Rows that a learner cannot take.* An expert whose learner raises ValueError on its
    rows (too few neighbours, a class missing), in ``fit`` or when it is asked about
    the first of them, is fitted on the rows of all experts; such experts share a fit.

    *Frozen models.* A frozen model serves as it is: it is neither copied nor sent to
    other processes. In a Pipeline that ends in one, the other steps are fitted once, on
    the rows of all experts.

    *The same bits for any n_jobs.* Learners whose ``random_state`` is None get one seed
    per expert, and BLAS runs on one thread while an expert is fitted.

    Attributes
    ----------
    fitted : list of estimators
        The fitted clones.
    dtype : dtype or None
        Dtype of the rows that they were fitted on; None for data frames.
    fallbacks : dict of int to str
        Why experts that have rows were fitted on the rows of all experts.

    References
    ----------
    .. [1] G. Kitagawa, "Monte Carlo filter and smoother for non-Gaussian nonlinear
       state space models", Journal of Computational and Graphical Statistics 5
       (1996) 1-25. doi:10.1080/10618600.1996.10474692
    """

    slack = 1.0
    fitted: list[Any]
    fallbacks: dict[int, str] = {}
    taken: dict[int, Any] = {}
    n_batches = 0
    dtype: Any = None

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Return True: the pool trains any learner."""
        return True

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one clone per expert on its share; an empty share means all rows."""
        return together([self.fitting(X, y, routing)], self.n_jobs)[0]

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool of fresh clones.

        An expert whose share is empty, or that is resting, stays as it is.
        """
        return together([self.updating(X, y, routing)], self.n_jobs)[0]

    def fitting(self, X: Array, y: Array, routing: Routing) -> Asking:
        """Do as `fit`, for `together`."""
        self.n_outputs = y.shape[1] if self.classes is None else len(self.classes)
        one = host_rows(X, np.zeros(1, dtype=np.intp))
        self.dtype = one.dtype.name if hasattr(one, "dtype") else None
        self.fitted = [None] * self.n_experts
        self.fallbacks = {}
        self.taken = {}
        self.n_fitted = 0
        yield from self._fit_experts(X, y, routing)
        return self

    def updating(self, X: Array, y: Array, routing: Routing) -> Asking:
        """Do as `update`, for `together`."""
        other = copy.copy(self)
        other.fitted = list(self.fitted)
        other.fallbacks = dict(self.fallbacks)
        other.taken = dict(self.taken)
        yield from other._fit_experts(X, y, routing)
        other.resting = ()
        return other

    def price(self, routing: Routing) -> int:
        """Return how many rows an update fits."""
        return sum(rows.shape[0] for _, rows, *_ in self._shares(routing))

    def _shares(self, routing: Routing) -> Iterator[tuple[int, Array, Array, float]]:
        """Yield each expert that learns, with its rows, their mass and a factor."""
        row_mass = routing.row_sums
        least = least_mass(routing.weights)
        lessons = self.taught(routing)
        frozen = self.frozen & ~self.likelihood.fixed(self.n_experts)
        for k in np.flatnonzero(~frozen).tolist():
            if k not in self.resting:
                takes_weight = weight_parameter(self.learners[k]) is not None
                yield k, *share(lessons, k, row_mass, least if takes_weight else None)

    def _fit_experts(self, X: Array, y: Array, routing: Routing) -> Asking:
        """Fit each expert on its share, or on all rows where that is not possible."""
        target = self._target(y)
        fixed = self.likelihood.fixed(self.n_experts)
        shares = {}
        frozen = self.frozen & ~fixed
        for k, rows, mass, factor in self._shares(routing):
            if rows.shape[0]:
                shares[k] = to_host(rows), to_host(mass * factor)
        fitted = yield from self._fit_each(X, target, shares)
        failed = {k: e for k, e in fitted.items() if isinstance(e, ValueError)}

        row_mass = to_host(self.learnable(routing))
        everyone = np.flatnonzero(row_mass > 0)
        for k in np.flatnonzero(frozen & (everyone.size > 0)).tolist():
            self._take_over(k, X, target, everyone, row_mass[everyone])
        lost = [
            k
            for k in range(self.n_experts)
            if k in failed or (k not in shares and self.fitted[k] is None)
        ]
        idle = [k for k in lost if fixed[k] or not everyone.size]
        fitted |= dict.fromkeys(idle, _nothing(target))
        learn = [k for k in lost if k not in idle]
        leader = self._leaders(learn)
        pooled = dict.fromkeys(leader.values(), (everyone, row_mass[everyone]))
        of_all = yield from self._fit_each(X, target, pooled)
        for k in learn:
            expert = of_all[leader[k]]
            if isinstance(expert, ValueError):  # the rows are not to blame
                raise failed.get(k, expert)
            fitted[k] = expert
            self._follow(k, leader[k])
        for k, expert in fitted.items():
            self.fitted[k] = expert
            self.fallbacks.pop(k, None)
        self.fallbacks.update({k: str(error) for k, error in failed.items()})

    def _leaders(self, experts: list[int]) -> dict[int, int]:
        """Return for each of some experts the first that has the same learner."""
        first: dict[Any, int] = {}
        return {k: first.setdefault(recipe(self.learners[k]), k) for k in experts}

    def _follow(self, k: int, leader: int) -> None:
        """Let an expert remember what the one remembers whose fit it shares."""

    def _target(self, y: Array) -> np.ndarray:
        """Return y as the user gave it: learners' parameters may be in its units."""
        if self.classes is not None:
            return self.classes[to_host(y)]
        target = to_host(y) + self.likelihood.origin_
        return target[:, 0] if target.shape[1] == 1 else target

    def _take_over(
        self, k: int, X: Array, target: np.ndarray, rows: np.ndarray, mass: np.ndarray
    ) -> None:
        """Make frozen models experts in this process, so that they are not copied."""
        learner = self.learners[k]
        if self.taken.get(k) is learner:
            return
        if not isinstance(learner, Pipeline):  # it learns nothing
            rows, mass = rows[:1], mass[:1]
        expert = _fit_expert(
            learner,
            k,
            host_rows(X, rows),
            target[rows],
            mass / mass.mean(),
            self.seeds[k],
            self.classes is not None,
            self._asks(k),
            self.weight_unit,
        )
        if isinstance(expert, ValueError):
            raise expert
        self.fitted[k] = expert
        self.taken[k] = learner

    def _fit_each(
        self, X: Array, target: np.ndarray, shares: dict[int, tuple[Array, Array]]
    ) -> Asking:
        """Return the expert of each share, or the error that its rows cause."""
        if not shares:
            return {}
        self.n_fitted += sum(len(rows) for rows, _ in shares.values())
        calls = (
            delayed(_fit_expert)(
                self.learners[k],
                k,
                host_rows(X, rows),
                target[rows],
                weights,
                self.seeds[k],
                self.classes is not None,
                self._asks(k),
                self.weight_unit,
            )
            for k, (rows, weights) in shares.items()
        )
        fitted = yield len(shares), calls
        return dict(zip(shares, fitted, strict=True))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return predictions, or the log probability of each row's label."""
        if self.classes is None:
            return self.predict(X, routing)

        def of_label(k: int, rows: Array | None) -> Array:
            proba = self._answer(k, X, rows)
            label = host_rows(y, rows)[:, None]
            log_proba = np.log(np.take_along_axis(proba, label, axis=1))
            return like(log_proba, routing.weights)

        return routing.dispatch(of_label, 1, self._ask(routing))

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction or class probabilities."""
        return routing.dispatch(
            lambda k, rows: like(self._answer(k, X, rows), routing.weights),
            self.n_outputs,
            self._ask(routing),
        )

    def _ask(self, routing: Routing) -> Callable[..., Any]:
        """Return how to ask experts: in threads if n_jobs says so, and all bear it."""
        many = routing.shape[0] >= ENOUGH_ROWS and self.n_experts > 1
        if not many or self.n_jobs in (None, 1):
            return map
        if not all(map(bears_threads, self.learners)):
            return map

        def ask(answer: Callable[..., Array], *items: Iterable[Any]) -> list[Array]:
            call = parallel.delayed(_on_one_thread)
            run = parallel.Parallel(n_jobs=self.n_jobs, require="sharedmem")
            return run(call(answer, *item) for item in zip(*items, strict=True))

        return ask

    def _answer(self, k: int, X: Array, rows: Array | None) -> np.ndarray:
        """Return an expert's answers for some rows, None for all."""
        return self._predict_one(k, host_rows(X, rows))

    def _asks(self, k: int) -> str:
        """Return the method to ask an expert by; some classifiers predict labels."""
        labels = self.classes is not None or is_classifier(self.learners[k])
        return "predict_proba" if labels else "predict"

    def _predict_one(self, k: int, X: Array) -> np.ndarray:
        """Return an expert's answers as numbers, (n, q) or (n, C)."""
        expert = self.fitted[k]
        who = Name(k, self.learners[k])
        try:
            with few_openmp_threads(X.shape[0]):
                raw = getattr(expert, self._asks(k))(X)
        except Exception as error:
            error.add_note(f"Raised by expert {k}, {self.learners[k]!r}.")
            raise
        if self.classes is None:
            answer = read_answer(raw, X.shape[0], self.n_outputs, who)
            answer = answer - self.likelihood.origin_
        else:
            answer = _probabilities(raw, X.shape[0], expert, self.classes, who)
        if not np.isfinite(answer).all():
            raise ValueError(
                f"{who} predicted NaN or infinity. Scale the features or regularise "
                "the expert more."
            )
        return answer if self.classes is None else floored(answer)

    def fallbacks_of(self, resp: Routing) -> dict[int, dict[int, str]]:
        """Return why experts were fitted to rows of others; copies count once."""
        return {id(self.fitted): dict(self.fallbacks)}

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.n_fitted = other.n_fitted
        of = [other if is_new else self for is_new in take]
        chosen.fitted = [pool.fitted[k] for k, pool in enumerate(of)]
        chosen.taken = {k: p.taken[k] for k, p in enumerate(of) if k in p.taken}
        chosen.fallbacks = {
            k: pool.fallbacks[k] for k, pool in enumerate(of) if k in pool.fallbacks
        }
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.n_fitted = 0
        other.fitted = [self.fitted[k] for k in experts]
        models = [self.taken.get(int(k)) for k in experts]
        other.taken = {k: one for k, one in enumerate(models) if one is not None}
        why = [self.fallbacks.get(int(k)) for k in experts]
        other.fallbacks = {k: each for k, each in enumerate(why) if each is not None}
        return other

    # --------------------------------------------------------------- streams
    @property
    def streams(self) -> np.ndarray:
        """Which experts have a learner with its own ``partial_fit``."""
        able = np.array([hasattr(one, "partial_fit") for one in self.learners])
        return able & ~self.frozen

    def learn(self, X: Array, y: Array, routing: Routing, keep: np.ndarray) -> Self:
        """Return a pool in which learners that stream have seen their share of a batch.

        Weights are plain responsibilities. Rescaled to mean 1, as for fits, a row that
        an expert hardly owns would count fully if the expert has no other.
        """
        if not self.streams.any():
            return self
        other = copy.copy(self)
        row_mass = routing.row_sums
        other.fitted = list(self.fitted)
        other.n_batches = self.n_batches + 1
        target = self._target(y)
        for k in np.flatnonzero(self.streams).tolist():
            rows, mass, _ = share(routing, k, row_mass)
            rows, mass = to_host(rows), to_host(mass)
            weights: np.ndarray | None = self.weight_unit * mass
            if weight_parameter(self.learners[k], "partial_fit") is None:
                random = np.random.RandomState((self.seeds[k] + self.n_batches) % 2**32)
                counts = np.floor(mass + random.uniform(size=len(mass)))
                rows = np.repeat(rows, counts.astype(np.intp))
                weights = None
            if len(rows):
                lesson = host_rows(X, rows), target[rows], weights
                other.fitted[k] = self._taught(k, *lesson)
        return other

    def _taught(
        self, k: int, X: Array, target: np.ndarray, weights: np.ndarray | None
    ) -> Any:
        """Return a copy of an expert that has seen more rows."""
        options: dict[str, Any] = {} if weights is None else {"sample_weight": weights}
        expert = self.fitted[k]
        if self.classes is not None:
            options["classes"] = self.classes
            if not np.array_equal(expert.classes_, self.classes):
                # It met fewer classes, and cannot learn further ones.
                expert = seeded(clone(self.learners[k]), self.seeds[k])
        if self.dtype is not None and hasattr(X, "dtype"):
            X = X.astype(self.dtype)  # learners go on in the precision they began in
        expert = copy.deepcopy(expert)
        with config_context(enable_metadata_routing=False), one_blas_thread():
            try:
                return expert.partial_fit(X, target, **options)
            except Exception as error:
                error.add_note(f"Raised by expert {k}, {self.learners[k]!r}.")
                raise

    def estimators(self) -> list[Any]:
        """Return the fitted clones."""
        return self.whole(list(self.fitted))

    def count_parameters(self) -> int:
        """Count coefficients of linear experts and leaves of trees."""
        return sum(_count_parameters(expert) for expert in self.fitted)


def least_mass(weights: Array) -> Array:
    """Return the mass of each row that is too little to learn from it, (n,).

    A row teaches its `TEACHES` most responsible experts, more if several are alike, but
    none that has little of it beside the best. Learners that take no weights are not
    asked: rows of little mass are drawn for them seldom.
    """
    xp = namespace(weights)
    ordered = xp.sort(weights, axis=1)
    some = ordered[:, -min(TEACHES, weights.shape[1])]
    return xp.maximum(PART_OF_BEST * ordered[:, -1], (1 - 1e-9) * some)


def summable(weights: np.ndarray) -> np.ndarray:
    """Return weights rounded so that their sums are exact in float64.

    Splits of a tree often have equal gains. Where sums round, the order of rows would
    choose among them, and a row of weight 2 would not be the row twice.
    """
    step = float(np.exp2(np.ceil(np.log2(weights.sum(dtype=np.float64))) - 52))
    return np.rint(weights / step) * step


def _fit_expert(
    learner: BaseEstimator,
    k: int,
    X: Array,
    target: np.ndarray,
    weights: np.ndarray,
    seed: int,
    classify: bool,
    asks: str,
    weight_unit: float,
) -> Any:
    """Fit one clone; runs in a worker process when n_jobs asks for it.

    Errors name the expert. A ValueError, scikit-learn's word for rows that a learner
    cannot take, is returned; a TypeError stays one, any other is a RuntimeError.
    """
    expert = seeded(clone(learner), seed)
    weight_name = weight_parameter(expert)
    if weight_name is None:
        rows = resample(weights, seed)
        if rows is not None:
            X = take_rows(X, rows)
            target = target[rows]
    if classify and np.unique(target).size == 1 and not is_frozen(expert):
        expert = DummyClassifier(strategy="prior")
    with (
        config_context(enable_metadata_routing=False),
        one_blas_thread(),
        few_openmp_threads(len(target)),
    ):
        try:
            if weight_name is None or isinstance(expert, DummyClassifier):
                expert.fit(X, target)
            else:
                exact_weights = summable(weight_unit * weights)
                fit_weighted(expert, X, target, {weight_name: exact_weights})
            if hasattr(expert, asks):
                # Neighbours raise only now if there are too few.
                getattr(expert, asks)(take_rows(X, np.zeros(1, dtype=np.intp)))
                return expert
        except Exception as error:
            what = f"fit on its {len(target)} rows"
            kinds = ValueError, TypeError
            kind = next((k for k in kinds if isinstance(error, k)), RuntimeError)
            failure = kind(
                f"Expert {k} ({learner!r}) failed to "
                f"{'answer' if is_frozen(learner) else what}: "
                f"{type(error).__name__}: {error}{remedy(X, error)}"
            )
            if kind is not ValueError:
                raise failure from error
            failure.__cause__ = error
            return failure
    raise ValueError(f"Expert {k} ({learner!r}), now fitted, {said_without(asks)}")


def fit_together(
    pools: Sequence[ExpertPool], X: Array, y: Array, routings: Sequence[Routing]
) -> list[ExpertPool]:
    """Return the pools, each fitted to its routing; learners of all run in parallel."""
    each = list(zip(pools, routings, strict=True))
    jobs = [p.fitting(X, y, r) for p, r in each if isinstance(p, EstimatorPool)]
    if len(jobs) < len(pools):
        return [pool.fit(X, y, routing) for pool, routing in each]
    return together(jobs, pools[0].n_jobs)


def update_together(
    pools: Sequence[ExpertPool], X: Array, y: Array, routings: Sequence[Routing]
) -> list[ExpertPool]:
    """Return the pools, each updated on its routing, in the same way."""
    each = list(zip(pools, routings, strict=True))
    jobs = [p.updating(X, y, r) for p, r in each if isinstance(p, EstimatorPool)]
    if len(jobs) < len(pools):
        return [pool.update(X, y, routing) for pool, routing in each]
    return together(jobs, pools[0].n_jobs)


def _on_one_thread(answer: Callable[..., Array], *item: Any) -> Array:
    """Call a function whose learner takes no threads beyond this one."""
    with few_openmp_threads(0):
        return answer(*item)


def _probabilities(
    found: Any, n_rows: int, expert: Any, classes: np.ndarray, who: object
) -> np.ndarray:
    """Return the probabilities of all classes, 0 for those that an expert did not meet.

    ``found`` are its probabilities of the classes that it met.
    """
    own_classes = np.asarray(getattr(expert, "classes_", None))
    if own_classes.ndim != 1 or not np.isin(own_classes, classes).all():
        raise ValueError(
            f"{who} must have classes_ that y holds, {classes.tolist()}; it has "
            f"{getattr(expert, 'classes_', None)!r}."
        )
    proba = read_answer(found, n_rows, len(own_classes), who)
    if (proba < -ROUNDING).any() or (proba > 1 + ROUNDING).any():
        raise ValueError(
            f"{who} answered numbers from {proba.min():.3g} to {proba.max():.3g}; "
            "probabilities are from 0 to 1."
        )
    answer = np.zeros((n_rows, len(classes)), dtype=proba.dtype)
    answer[:, np.searchsorted(classes, own_classes)] = proba
    return answer


def _nothing(target: np.ndarray) -> DummyRegressor:
    """Return the expert that has no rows to learn from, which predicts 0."""
    zero = np.zeros_like(target[:1], dtype=np.float64)
    return DummyRegressor(strategy="constant", constant=zero[0]).fit(zero, zero)


def _count_parameters(expert: Any) -> int:
    if is_frozen(expert):
        return 0
    if isinstance(expert, MultilabelExpert):
        expert = expert.estimator_
    if isinstance(expert, TransformedTargetRegressor):
        expert = expert.regressor_
    if isinstance(expert, Pipeline):
        expert = expert.steps[-1][1]
    if isinstance(expert, MultiOutputClassifier):
        return sum(_count_parameters(of_label) for of_label in expert.estimators_)
    if expert is None or isinstance(expert, (DummyClassifier, DummyRegressor)):
        return 0  # a constant
    if hasattr(expert, "coef_"):
        free = np.size(expert.coef_)
        if getattr(expert, "fit_intercept", True):
            free += np.size(getattr(expert, "intercept_", ()))
        n_classes = np.size(getattr(expert, "classes_", ()))
        # In a multinomial model the other rows determine the last one.
        return int(free * (n_classes - 1) / n_classes if n_classes > 2 else free)
    if hasattr(expert, "get_n_leaves"):
        classes = getattr(expert, "classes_", ())
        if isinstance(classes, list):  # one array per label
            classes = classes[0]
        free = max(1, np.size(classes) - 1)
        return int(expert.get_n_leaves()) * int(expert.n_outputs_) * free
    raise TypeError(
        f"Cannot count the free parameters of {type(expert).__name__}; aic and bic "
        "need linear or tree experts."
    )
