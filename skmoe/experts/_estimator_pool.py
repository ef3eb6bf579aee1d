"""A pool of clones of any scikit-learn learner."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from sklearn import config_context  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from ..backends import Array, like, one_blas_thread, to_host
from ..routing import Routing
from ._base import ExpertPool, floored, host_rows, share, take_rows


class EstimatorPool(ExpertPool):
    """Clones of any regressors or classifiers, fitted in parallel by joblib.

    Notes
    -----
    *Weights.* A learner whose ``fit`` takes ``sample_weight`` (for a Pipeline: its
    last step) gets the responsibilities as weights. Any other learner is fitted on
    rows drawn by systematic resampling [1]_, with one fixed seed an expert: a row of
    weight 2.3 stands in the sample two or three times. Equal weights give each row
    once; integer weights give each row that often.

    *Classes.* Experts are fitted on the original labels. A class that an expert did
    not meet gets the floored probability; an expert that met a single class is a
    `sklearn.dummy.DummyClassifier`.

    *The same bits for any n_jobs.* Learners without a ``random_state`` of their own
    get one seed an expert, and BLAS runs on one thread while an expert is fitted.

    References
    ----------
    .. [1] G. Kitagawa, "Monte Carlo filter and smoother for non-Gaussian nonlinear
       state space models", Journal of Computational and Graphical Statistics 5
       (1996) 1-25. doi:10.1080/10618600.1996.10474692
    """

    slack = 1.0

    @classmethod
    def supports(cls, estimator: BaseEstimator, n_features: int) -> bool:
        """Tell whether this pool trains such a learner: it trains any."""
        return True

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one clone an expert on its share; an empty share means all rows."""
        self.n_outputs = y.shape[1] if self.classes is None else len(self.classes)
        self.fitted = self._fit_experts(X, y, routing, [None] * self.n_experts)
        return self

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool of fresh clones; an empty share keeps the old expert."""
        other = copy.copy(self)
        other.fitted = self._fit_experts(X, y, routing, self.fitted)
        return other

    def _fit_experts(
        self, X: Array, y: Array, routing: Routing, old: list[Any]
    ) -> list[Any]:
        row_mass = routing.row_sums
        target = to_host(y) if self.classes is None else self.classes[to_host(y)]
        if target.ndim == 2 and target.shape[1] == 1:
            target = target[:, 0]
        shares = []
        for k in range(self.n_experts):
            rows, mass, factor = share(routing, k, row_mass)
            shares.append((to_host(rows), to_host(mass * factor)))
        row_mass = to_host(row_mass)
        everyone = np.flatnonzero(row_mass > 0)
        for k, (rows, _) in enumerate(shares):
            if not rows.size and old[k] is None:
                shares[k] = everyone, row_mass[everyone]
        busy = [k for k, (rows, _) in enumerate(shares) if rows.size]
        fitted = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_expert)(
                self.learners[k],
                k,
                host_rows(X, shares[k][0]),
                target[shares[k][0]],
                shares[k][1],
                self.seeds[k],
                self.classes is not None,
            )
            for k in busy
        )
        experts = list(old)
        for k, expert in zip(busy, fitted, strict=True):
            experts[k] = expert
        return experts

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return predictions, or the log probability of each row's label."""
        if self.classes is None:
            return self.predict(X, routing)

        def of_label(k: int, rows: Array | None) -> Array:
            proba = self._predict_one(k, host_rows(X, rows))
            label = host_rows(y, rows)[:, None]
            known = np.log(np.take_along_axis(proba, label, axis=1))
            return like(known, routing.weights)

        return routing.dispatch(of_label, n_outputs=1)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return each entry's prediction or class probabilities."""
        return routing.dispatch(
            lambda k, rows: like(
                self._predict_one(k, host_rows(X, rows)), routing.weights
            ),
            self.n_outputs,
        )

    def _predict_one(self, k: int, X: Array) -> np.ndarray:
        expert = self.fitted[k]
        try:
            known = np.asarray(
                expert.predict(X) if self.classes is None else expert.predict_proba(X)
            )
        except Exception as error:
            error.add_note(f"Raised by expert {k}, {self.learners[k]!r}.")
            raise
        if self.classes is None:
            answer = known.reshape(known.shape[0], -1)
        else:
            answer = np.zeros((known.shape[0], len(self.classes)), dtype=known.dtype)
            answer[:, np.searchsorted(self.classes, expert.classes_)] = known
        if not np.isfinite(answer).all():
            raise ValueError(
                f"Expert {k} ({self.learners[k]!r}) predicted NaN or infinity. Scale "
                "the features or regularise the expert more."
            )
        return answer if self.classes is None else floored(answer)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.fitted = [
            new if t else old
            for old, new, t in zip(self.fitted, other.fitted, take, strict=True)
        ]
        return chosen

    def estimators(self) -> list[Any]:
        """Return the fitted clones."""
        return list(self.fitted)

    def count_parameters(self) -> int:
        """Count coefficients of linear experts and leaves of trees."""
        return sum(_count_parameters(expert) for expert in self.fitted)


def _fit_expert(
    learner: BaseEstimator,
    k: int,
    X: Array,
    target: np.ndarray,
    weights: np.ndarray,
    seed: int,
    classify: bool,
) -> Any:
    """Fit one clone; runs in a worker process when n_jobs asks for it."""
    expert = _seeded(clone(learner), seed)
    weight_name = _weight_parameter(expert)
    if weight_name is None:
        rows = resample(weights, seed)
        if rows is not None:
            X, target = take_rows(X, rows), target[rows]
    if classify and np.unique(target).size == 1:
        expert = DummyClassifier(strategy="prior")
    with (
        config_context(enable_metadata_routing=False),
        one_blas_thread(),
    ):
        try:
            if weight_name is None or isinstance(expert, DummyClassifier):
                return expert.fit(X, target)
            return expert.fit(X, target, **{weight_name: weights})
        except Exception as error:
            raise RuntimeError(
                f"Expert {k} ({learner!r}) failed to fit on its {len(target)} rows: "
                f"{type(error).__name__}: {error}"
            ) from error


def _weight_parameter(learner: BaseEstimator) -> str | None:
    """Return the name under which the learner's fit takes sample weights."""
    if isinstance(learner, Pipeline):
        name, last = learner.steps[-1]
        inner = _weight_parameter(last)
        return None if inner is None else f"{name}__{inner}"
    return "sample_weight" if has_fit_parameter(learner, "sample_weight") else None


def _seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Give a seed to every part of the estimator that has none of its own."""
    unset = {
        name: seed
        for name, value in estimator.get_params().items()
        if (name == "random_state" or name.endswith("__random_state")) and value is None
    }
    return estimator.set_params(**unset)


def resample(weights: np.ndarray, seed: int) -> np.ndarray | None:
    """Return rows drawn in proportion to their weights, None for each row once.

    Systematic resampling: as many rows in all as the weights sum to, rounded, and row
    i is drawn floor or ceil of its share of them.
    """
    if np.allclose(weights, 1.0):
        return None
    draws = max(1, round(float(weights.sum())))
    ticks = np.cumsum(weights) * (draws / weights.sum())
    offset = np.random.RandomState(seed).uniform(1e-6, 1 - 1e-6)
    counts = np.diff(np.floor(ticks + offset), prepend=0.0).astype(np.intp)
    return np.repeat(np.arange(len(weights)), counts)


def _count_parameters(expert: Any) -> int:
    if isinstance(expert, Pipeline):
        expert = expert.steps[-1][1]
    if isinstance(expert, DummyClassifier):
        return 0  # a constant
    if hasattr(expert, "coef_"):
        free = np.size(expert.coef_)
        if getattr(expert, "fit_intercept", True):
            free += np.size(getattr(expert, "intercept_", ()))
        n_classes = np.size(getattr(expert, "classes_", ()))
        # One of the rows of a multinomial model is fixed by the others.
        return int(free * (n_classes - 1) / n_classes if n_classes > 2 else free)
    if hasattr(expert, "get_n_leaves"):
        free = max(1, np.size(getattr(expert, "classes_", ())) - 1)
        return int(expert.get_n_leaves()) * int(expert.n_outputs_) * free
    raise TypeError(
        f"Cannot count the free parameters of {type(expert).__name__}; aic and bic "
        "need linear or tree experts."
    )
