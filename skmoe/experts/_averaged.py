"""Experts that answer with the mean of several models each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ..backends import Array, namespace, select
from ..routing import Routing
from ._base import DerivedPool, ExpertPool
from ._labels import MultilabelExpert, indicator
from ._linear_pool import LinearPool


def averaged(pools: Sequence[ExpertPool]) -> ExpertPool:
    """Return the pool whose experts answer with the mean of these pools' experts.

    The mean of linear models is a linear model, so theirs predicts as fast as one.

    Parameters
    ----------
    pools : sequence of ExpertPool
        Fitted pools of the same learners.

    Returns
    -------
    ExpertPool
        A `LinearPool` if all are, else an `AveragedPool`; without a scale.
    """
    linear = [pool for pool in pools if type(pool) is LinearPool]
    if len(linear) < len(pools):
        return AveragedPool(pools)
    mean = copy.copy(linear[0])
    mean.coef = np.mean([pool.coef for pool in linear], axis=0)
    mean.intercept = np.mean([pool.intercept for pool in linear], axis=0)
    mean.scale = None
    return mean


class AveragedPool(DerivedPool):
    """Fitted pools of the same learners; an answer is the mean of theirs.

    Parameters
    ----------
    pools : sequence of ExpertPool
        Expert k is the mean of the pools' experts k.
    """

    def __init__(self, pools: Sequence[ExpertPool]) -> None:
        first = pools[0]
        super().__init__(first)
        self.pools = list(pools)

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return mean predictions, or the log of the label's mean probability."""
        if self.classes is None:
            return self.predict(X, routing)
        values = [pool.evaluate(X, y, routing) for pool in self.pools]
        xp = namespace(values[0])
        log_total = select(values[0]).logsumexp(xp.concat(values, axis=2))
        return xp.expand_dims(log_total - float(np.log(len(values))), axis=-1)

    def predict(self, X: Array, routing: Routing) -> Array:
        """Return the mean prediction or class probabilities at each entry."""
        return mean_of([pool.predict(X, routing) for pool in self.pools])

    def _mix(self, X: Array, routing: Routing) -> Array:
        """Return the weighted sum of each row's answers: the mean of the pools'."""
        return mean_of([pool._mix(X, routing) for pool in self.pools])

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the learners of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        chosen.pools = [
            old.swap(new, take)
            for old, new in zip(self.pools, other.pools, strict=True)
        ]
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.pools = [pool.take(experts) for pool in self.pools]
        return other

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return the means of one model each, trained on this routing.

        There are several to judge the rows that they were trained on; where others
        judge, one is enough.
        """
        other = copy.copy(self)
        other.pools = [self.pools[0].update(X, y, routing)]
        return other

    def estimators(self) -> list[Any]:
        """Return an averaged estimator an expert; a frozen model is its own mean."""
        kind = kind_of_mean(self)
        models = zip(*(pool.estimators() for pool in self.pools), strict=True)
        return [
            of_one[0] if all(one is of_one[0] for one in of_one) else kind(list(of_one))
            for of_one in models
        ]

    def count_parameters(self) -> int:
        """Return the number of free parameters of all models."""
        return sum(pool.count_parameters() for pool in self.pools)


def mean_of(answers: list[Array], weights: Sequence[float] | None = None) -> Array:
    """Return the mean of arrays of one shape; weights sum to one."""
    if weights is None:
        weights = [1.0 / len(answers)] * len(answers)
    total = weights[0] * answers[0]
    for weight, answer in zip(weights[1:], answers[1:], strict=True):
        total = total + weight * answer
    return total


# ------------------------------------------------------------- as estimators
def kind_of_mean(pool: ExpertPool) -> type[_Averaged]:
    """Return the estimator that is the mean of such experts."""
    if pool.classes is not None:
        return AveragedClassifier
    labels = isinstance(pool.learners[0], MultilabelExpert)
    return AveragedMultilabel if labels else AveragedRegressor


class _Averaged(BaseEstimator):
    """Fitted estimators that are kept as they are, also by `sklearn.base.clone`.

    scikit-learn's voting estimators fit what they hold, mix up several outputs, and
    need models that know the same classes.
    """

    stays = True

    def __init__(
        self, estimators: list[Any], weights: Sequence[float] | None = None
    ) -> None:
        self.estimators = estimators
        self.weights = weights

    def fit(self, X: Any, y: Any, **params: Any) -> Self:
        """Return self: the estimators are fitted already."""
        return self

    @property
    def n_features_in_(self) -> int:
        return self.estimators[0].n_features_in_

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> Self:
        return self


def column(answer: Any) -> np.ndarray:
    """Return an answer as floats, one output as a vector."""
    answer = np.asarray(answer)
    if answer.dtype not in (np.float32, np.float64):
        answer = answer.astype(np.float64)
    return answer[:, 0] if answer.ndim == 2 and answer.shape[1] == 1 else answer


class AveragedRegressor(RegressorMixin, _Averaged):
    """The mean of fitted regressors.

    Parameters
    ----------
    estimators : list of fitted regressors
    weights : sequence of float or None, default=None
        Weights that sum to one; None is the plain mean.
    """

    def predict(self, X: Any) -> np.ndarray:
        """Return the mean of the predictions."""
        answers = [column(model.predict(X)) for model in self.estimators]
        return mean_of(answers, self.weights)


class AveragedClassifier(ClassifierMixin, _Averaged):
    """The mean of fitted classifiers, which may know different classes.

    Parameters
    ----------
    estimators : list of fitted classifiers
        Each with ``predict_proba``.
    weights : sequence of float or None, default=None
        Weights that sum to one; None is the plain mean.
    """

    @property
    def classes_(self) -> np.ndarray:
        """The classes that some of the classifiers met."""
        return np.unique(np.concatenate([model.classes_ for model in self.estimators]))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the mean class probabilities; a class unmet has probability 0."""
        classes, answers = self.classes_, []
        for model in self.estimators:
            known = np.asarray(model.predict_proba(X))
            proba = np.zeros((known.shape[0], len(classes)), dtype=known.dtype)
            proba[:, np.searchsorted(classes, model.classes_)] = known
            answers.append(proba)
        return mean_of(answers, self.weights)

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class."""
        return self.classes_[np.argmax(self.predict_proba(X), axis=1)]


class AveragedMultilabel(ClassifierMixin, _Averaged):
    """The mean of fitted experts of several labels.

    Parameters
    ----------
    estimators : list of MultilabelExpert
    weights : sequence of float or None, default=None
        Weights that sum to one; None is the plain mean.
    """

    @property
    def classes_(self) -> np.ndarray:
        """Positions of the labels."""
        return self.estimators[0].classes_

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the mean probability of each label."""
        return mean_of(
            [model.predict_proba(X) for model in self.estimators], self.weights
        )

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels that are more probable than not."""
        return indicator(self.predict_proba(X))
