"""Experts that predict several labels at once."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import DataConversionWarning

from .._bins import fit_weighted
from .._learners import is_frozen, read_answer, resample, weight_parameter
from ._base import take_rows


class MultilabelExpert(ClassifierMixin, BaseEstimator):
    """A multilabel classifier in whose rows some labels may be constant.

    Its learner is fitted to the labels that vary among the rows; the others stay
    constant. scikit-learn's learners answer in several forms, and some refuse a
    constant label; here probabilities are one array.

    Parameters
    ----------
    estimator : classifier
        A classifier of several labels with ``predict_proba``.
    random_state : int or None, default=None
        Seed of the rows that are drawn if the learner's fit takes no weights.

    Attributes
    ----------
    estimator_ : classifier or None
        The fitted learner; None if no label varied.
    varies_ : (n_labels,) array of bool
        Which labels it was fitted to.
    constant_ : (n_labels,) array
        The value of each constant label.
    classes_ : (n_labels,) array of int
        Positions of the labels.
    n_features_in_ : int
        Number of features.
    """

    def __init__(self, estimator: Any, random_state: int | None = None) -> None:
        self.estimator = estimator
        self.random_state = random_state

    @property
    def stays(self) -> bool:
        """Whether the learner is a frozen model of all labels."""
        return is_frozen(self.estimator)

    def fit(self, X: Any, Y: np.ndarray, sample_weight: Any = None) -> Self:
        """Fit the learner to labels (n_samples, n_labels) of 0 and 1."""
        learner = clone(self.estimator)
        name = weight_parameter(learner)
        params = {}
        if sample_weight is not None and name is not None:
            params[name] = sample_weight
        elif sample_weight is not None:
            rows = resample(sample_weight, self.random_state or 0)
            if rows is not None:
                X = take_rows(X, rows)
                Y = Y[rows]
        self.n_features_in_ = X.shape[1]
        self.classes_ = np.arange(Y.shape[1])
        self.constant_ = Y[0].astype(np.float64)
        self.varies_ = (np.ptp(Y, axis=0) > 0) | self.stays
        self.estimator_ = None
        if self.varies_.any():
            with warnings.catch_warnings():  # one label may be a column vector
                warnings.simplefilter("ignore", DataConversionWarning)
                labels = Y[:, self.varies_].astype(np.intp)
                self.estimator_ = fit_weighted(learner, X, labels, params)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each label, (n_samples, n_labels)."""
        if self.estimator_ is None:
            return np.tile(self.constant_, (X.shape[0], 1))
        raw = self.estimator_.predict_proba(X)
        n_labels = int(self.varies_.sum())
        answer = self._of_ones(raw, X.shape[0], n_labels)
        proba = np.tile(self.constant_, (len(answer), 1)).astype(answer.dtype)
        proba[:, self.varies_] = answer
        return proba

    def _of_ones(self, answer: Any, n_rows: int, n_labels: int) -> np.ndarray:
        """Return the probability of each label from an answer in any form."""
        who = repr(self.estimator)
        if isinstance(answer, list) and np.ndim(answer[0]) == 2:  # one array per label
            each = [read_answer(one, n_rows, 2, who)[:, 1] for one in answer]
            answer = np.stack(each, axis=1)
        elif n_labels == 1:  # two classes
            answer = np.asarray(answer)[:, -1:]
        return read_answer(answer, n_rows, n_labels, who)

    def predict(self, X: Any) -> np.ndarray:
        """Return the labels, (n_samples, n_labels) of 0 and 1."""
        return indicator(self.predict_proba(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        return tags


def indicator(proba: np.ndarray) -> np.ndarray:
    """Return 1 where a probability is above one half, else 0."""
    return (proba > 0.5).astype(np.intp)
