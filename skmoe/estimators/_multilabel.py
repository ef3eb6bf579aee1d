"""What `MoEClassifier` does where y is an indicator of several labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.utils import check_array, get_tags
from sklearn.utils.multiclass import is_multilabel

from ..experts import MultilabelExpert
from ..likelihoods import Bernoulli


def holds_labels(y: Any) -> bool:
    """Tell whether y is an indicator; raise if it has several columns of classes."""
    if is_multilabel(y):
        return True
    shape = np.shape(y) if isinstance(y, (list, tuple)) else getattr(y, "shape", ())
    if len(shape) == 2 and shape[1] > 1:
        raise ValueError(
            f"y of shape {tuple(shape)} holds several columns of classes, which "
            "MoEClassifier cannot learn at once. Fit one mixture per column, as "
            "sklearn.multioutput.MultiOutputClassifier does; or pass labels that are "
            "there or not as an indicator of 0 and 1."
        )
    return False


def read_labels(y: Any) -> np.ndarray:
    """Return an indicator, maybe sparse, as an array of 0.0 and 1.0."""
    y = y.toarray() if sparse.issparse(y) else y
    # Sums are the same bits whatever the container.
    y = check_array(y, dtype=np.float64, order="C", input_name="y")
    Bernoulli().check(y)
    return y


def check_same_labels(y: np.ndarray, n_labels: int, name: str) -> None:
    """Raise unless there are as many labels as were fitted."""
    if y.ndim == 1:
        raise ValueError(
            f"{name} was fitted with {n_labels} labels per row; got y with one class "
            f"per row. Pass an indicator of shape (n_samples, {n_labels})."
        )
    if y.shape[1] != n_labels:
        raise ValueError(
            f"y has {y.shape[1]} labels, but {name} was fitted with {n_labels}."
        )


def one_a_label(learner: Any) -> Any:
    """Return logistic regression as one model per label; all else as it is."""
    if type(learner) is LogisticRegression:
        return MultiOutputClassifier(learner)
    return learner


def takes_labels(learner: BaseEstimator) -> bool:
    """Tell whether a classifier predicts several labels, by either of its tags."""
    tags = get_tags(one_a_label(learner))
    says_so = tags.classifier_tags is not None and tags.classifier_tags.multi_label
    return says_so or tags.target_tags.multi_output


def label_experts(learners: list[BaseEstimator]) -> list[BaseEstimator]:
    """Return the experts that learn an indicator with these learners."""
    for learner in learners:
        if not takes_labels(learner):
            raise ValueError(
                f"expert {learner!r} predicts one label, and y has several. Wrap it: "
                "sklearn.multioutput.MultiOutputClassifier(...) fits one such learner "
                "per label."
            )
    return [MultilabelExpert(one_a_label(learner)) for learner in learners]
