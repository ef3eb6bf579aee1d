"""The gate of any classifier: the experts are its classes."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
from scipy import sparse
from sklearn import config_context  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from .._bins import fit_weighted
from .._learners import (
    MIN_RESPONSIBILITY,
    is_frozen,
    read_answer,
    said_without,
    seeded,
    surely_lacks,
    weight_parameter,
    weight_unit,
)
from .._sklearn_compat import HasMethods, Interval
from ..backends import Array, few_openmp_threads, on_host, one_blas_thread
from ..routing import Routing
from ._base import as_routing
from ._cases import CaseGate, population

SEED = 0
"""Seed of drawn labels and of classifiers whose random_state is None. It is fixed, so
that a refit on nearly the same targets is nearly the same."""

RIGID = ("linear_model", "naive_bayes", "discriminant_analysis", "dummy")
"""Modules of scikit-learn whose classifiers answer for training rows nearly as they do
for new ones."""

WRAPPERS = ("model_selection", "calibration", "multiclass")
"""Modules of scikit-learn whose classifiers are as rigid as their ``estimator``."""


class EstimatorGate(CaseGate):
    r"""Gate made of a classifier: p(k | x) is the probability of class k.

    The classifier learns which expert serves a row. Responsibilities are soft, so each
    row appears once for each of its experts, with the responsibility as sample weight.
    A classifier whose ``fit`` takes no ``sample_weight`` gets each row once, with a
    label drawn from the responsibilities by a fixed seed; a row of weight two appears
    twice.

    Parameters
    ----------
    estimator : estimator
        A classifier with ``predict_proba``, or a Pipeline that ends in one. Parts
        without a ``random_state`` get a fixed one.
    floor : float, default=1e-3
        The f in the answer, :math:`(1 - f) \hat p(k | x) + f \pi_k`, where
        :math:`\pi_k` is the expert's share of all rows. It keeps experts possible that
        the classifier rules out.

    Attributes
    ----------
    estimator_ : estimator
        The fitted classifier; its ``classes_`` are the experts in its targets. If
        there is only one, a `sklearn.dummy.DummyClassifier`.
    table_ : csr_array of shape (n_classes, n_experts)
        Which expert each class is.
    share_ : ndarray of shape (n_experts,)
        Each expert's share of all rows.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.

    Notes
    -----
    A row is not an example of experts whose responsibility is 0.001 or less. A
    classifier that splits its rows itself (for early stopping, calibration or a search)
    may see a row with several experts on both sides of the split.

    ``memorises`` is False for scikit-learn's linear models, naive Bayes and
    discriminant analysis, alone or as the last step of a Pipeline, and True for
    everything else.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skmoe.gates import EstimatorGate
    >>> X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    >>> responsibilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.3, 0.7], [0.1, 0.9]])
    >>> gate = EstimatorGate(GaussianNB()).fit(X, responsibilities)
    >>> np.exp(gate.log_proba(X)).round(2)
    array([[0.93, 0.07],
           [0.79, 0.21],
           [0.21, 0.79],
           [0.07, 0.93]])
    """

    _parameter_constraints: dict = {
        "estimator": [HasMethods(["fit"])],
        "floor": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(self, estimator, *, floor=1e-3):
        self.estimator = estimator
        self.floor = floor

    def check_params(self) -> None:
        super().check_params()
        check_classifier(self.estimator)

    def fit(self, X: Array, routing: Routing) -> Self:
        # Fit the classifier to soft targets.
        self.check_params()
        targets = as_routing(routing).to_csr()
        self.n_features_in_, self.n_experts_ = X.shape[1], targets.shape[1]
        self.share_ = population(targets)
        self.estimator_ = fitted(self.estimator, on_host(X), examples(targets))
        met = experts_of(self.estimator_, self.n_experts_)
        each = np.ones(len(met)), met, np.arange(len(met) + 1)
        self.table_ = sparse.csr_array(each, shape=(len(met), self.n_experts_))
        return self

    def _cases(self, X: Array) -> tuple[sparse.csr_array, np.ndarray]:
        with few_openmp_threads(X.shape[0]):
            raw = self.estimator_.predict_proba(X)
        who = f"The gate {self.estimator!r}"
        n_classes = self.table_.shape[0]
        proba = read_answer(raw, X.shape[0], n_classes, who).astype(np.float64)
        if not np.isfinite(proba).all() or (proba < 0).any():
            raise ValueError(f"{who} predicted NaN, infinity or less than 0.")
        return sparse.csr_array((1 - self.floor) * proba), np.full(
            len(proba), self.floor
        )

    def _entries_a_row(self) -> int:
        return len(self.estimator_.classes_)

    @property
    def memorises(self) -> bool:  # type: ignore[override]
        """Whether the classifier memorises its training rows; True if in doubt."""
        return not rigid(self.estimator)

    @property
    def accepts_sparse(self) -> bool:  # type: ignore[override]
        """Whether the classifier takes sparse features."""
        return get_tags(self.estimator).input_tags.sparse

    @property
    def allows_nan(self) -> bool:  # type: ignore[override]
        """Whether the classifier takes NaN."""
        return get_tags(self.estimator).input_tags.allow_nan


def check_classifier(estimator: Any) -> None:
    """Raise an error that says why a classifier cannot be a gate."""
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        raise TypeError(
            "The 'estimator' parameter of EstimatorGate must be a classifier; got "
            f"{estimator!r}."
        )
    if surely_lacks(estimator, "predict_proba"):
        raise TypeError(
            "The 'estimator' parameter of EstimatorGate must have predict_proba; got "
            f"{estimator!r}. Take another classifier, or wrap it in "
            "sklearn.calibration.CalibratedClassifierCV."
        )


def experts_of(estimator: Any, n_experts: int) -> np.ndarray:
    """Return which expert each class of a fitted classifier is.

    The classes of a model that was fitted elsewhere are either expert numbers, or as
    many as there are experts, in the order of ``classes_``.
    """
    classes = np.asarray(estimator.classes_)
    numbers = classes.dtype.kind in "iu"
    if numbers and classes.min() >= 0 and classes.max() < n_experts:
        return classes
    if len(classes) == n_experts:
        return np.arange(n_experts)
    raise ValueError(
        f"gate {estimator!r} has classes_ {classes.tolist()}, which are not "
        f"n_experts={n_experts} experts."
    )


def rigid(estimator: Any) -> bool:
    """Tell whether a classifier surely does not memorise its rows."""
    if is_frozen(estimator):  # it learns nothing
        return True
    if isinstance(estimator, Pipeline):
        return rigid(estimator.steps[-1][1])
    library, _, module = type(estimator).__module__.partition(".")
    module = module.partition(".")[0]
    if library == "sklearn" and module in WRAPPERS:
        return rigid(estimator.estimator)
    return library == "sklearn" and module in RIGID


def examples(targets: sparse.csr_array) -> sparse.csr_array:
    """Return the targets without entries that are too small for an example."""
    mass = np.repeat(targets.sum(axis=1), np.diff(targets.indptr))
    owned = targets.copy()
    owned.data[owned.data <= MIN_RESPONSIBILITY * mass] = 0.0
    owned.eliminate_zeros()
    return owned


def fitted(estimator: BaseEstimator, X: Array, targets: sparse.csr_array) -> Any:
    """Return a clone of the classifier, fitted with one example per entry."""
    estimator = seeded(clone(estimator), SEED)
    weight_name = weight_parameter(estimator)
    if weight_name is None:
        targets = drawn(targets)
    rows = np.repeat(np.arange(targets.shape[0]), np.diff(targets.indptr))
    experts = targets.indices
    weights = targets.data
    if weight_name is None:
        times = weights.astype(np.intp)
        rows, experts = np.repeat(rows, times), np.repeat(experts, times)
    if len(np.unique(experts)) == 1 and not is_frozen(estimator):
        return DummyClassifier(strategy="prior").fit(X[rows], experts)
    weighting = {} if weight_name is None else {weight_name: weights}
    with (
        config_context(enable_metadata_routing=False),
        one_blas_thread(),
        few_openmp_threads(len(rows)),
    ):
        try:
            fit_weighted(estimator, X[rows], experts, weighting)
            if hasattr(estimator, "predict_proba"):
                return estimator
        except Exception as error:
            error.add_note(f"Raised by the gate, {estimator!r}.")
            raise
    raise ValueError(f"gate {estimator!r}, now fitted, {said_without('predict_proba')}")


def drawn(targets: sparse.csr_array) -> sparse.csr_array:
    """Draw how often each entry is an example: one draw per unit of a row's weight.

    This is systematic resampling, row by row. The entries lie end to end, each as long
    as its mass in units of `weight_unit`, and count the ticks that fall on them. Ticks
    are one unit apart, from a random start.
    """
    start = np.random.RandomState(SEED).uniform(1e-6, 1 - 1e-6, targets.shape[0])
    mass = targets.data / weight_unit(targets.sum(axis=1))
    ends = np.concatenate([[0.0], np.cumsum(mass)])
    shift = np.repeat(start - ends[targets.indptr[:-1]], np.diff(targets.indptr))
    counts = targets.copy()
    counts.data = np.floor(ends[1:] + shift) - np.floor(ends[:-1] + shift)
    counts.eliminate_zeros()
    return counts
