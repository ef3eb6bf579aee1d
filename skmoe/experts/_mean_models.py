"""The mean of fitted models, as one estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from ..backends import Array
from ._base import ExpertPool
from ._labels import MultilabelExpert, indicator


def mean_of(answers: list[Array], weights: Sequence[float] | None = None) -> Array:
    """Return the mean of arrays of one shape; weights sum to one."""
    if weights is None:
        weights = [1.0 / len(answers)] * len(answers)
    total = weights[0] * answers[0]
    for weight, answer in zip(weights[1:], answers[1:], strict=True):
        total = total + weight * answer
    return total


def kind_of_mean(pool: ExpertPool) -> type[_Averaged]:
    """Return the estimator class that averages experts of this pool."""
    if pool.classes is not None:
        return AveragedClassifier
    labels = isinstance(pool.learners[0], MultilabelExpert)
    return AveragedMultilabel if labels else AveragedRegressor


class _Averaged(BaseEstimator):
    """Base of means of fitted estimators, which `sklearn.base.clone` does not unfit.

    scikit-learn's voting estimators would fit the models that they hold, mix up several
    outputs, and need models that know the same classes.
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
        Classifiers with ``predict_proba``.
    weights : sequence of float or None, default=None
        Weights that sum to one; None is the plain mean.
    """

    @property
    def classes_(self) -> np.ndarray:
        """The classes that at least one classifier met."""
        return np.unique(np.concatenate([model.classes_ for model in self.estimators]))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return mean class probabilities; an unmet class has probability 0."""
        classes = self.classes_
        answers = []
        for model in self.estimators:
            of_model = np.asarray(model.predict_proba(X))
            proba = np.zeros((of_model.shape[0], len(classes)), dtype=of_model.dtype)
            proba[:, np.searchsorted(classes, model.classes_)] = of_model
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
