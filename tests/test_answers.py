"""What learners answer: numbers of any dtype are read, wrong shapes refused by name."""

import functools

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MultiOutputMixin,
    RegressorMixin,
)
from sklearn.ensemble import StackingClassifier, StackingRegressor, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import SoftmaxGate

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

QUICK = {
    "n_experts": 2,
    "n_init": 1,
    "max_iter": 3,
    "cross_fit": None,
    "random_state": 0,
}
random = np.random.RandomState(0)
X = random.standard_normal((80, 2))
Y = np.rint(20 * np.abs(X[:, 0]))
TWO = np.column_stack([Y, -Y])
LABELS = np.where(X[:, 0] > 0, "high", "low")


class Rounded(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """Whole numbers, in the form that ``form`` makes of them."""

    def __init__(self, form=None):
        self.form = form

    def fit(self, X, y, sample_weight=None):
        self.tree_ = DecisionTreeRegressor(max_depth=3, random_state=0)
        self.tree_.fit(X, y, sample_weight)
        return self

    def predict(self, X):
        answer = np.rint(self.tree_.predict(X))
        return answer if self.form is None else self.form(answer)


class Chances(ClassifierMixin, BaseEstimator):
    """Logistic probabilities, in the form that ``form`` makes of them."""

    def __init__(self, form=None, classes=None):
        self.form = form
        self.classes = classes

    def fit(self, X, y, sample_weight=None):
        self.model_ = LogisticRegression().fit(X, y, sample_weight)
        self.classes_ = self.model_.classes_ if self.classes is None else self.classes
        return self

    def predict_proba(self, X):
        proba = self.model_.predict_proba(X)
        return proba if self.form is None else self.form(proba)


ANY = {
    "int8": lambda a: a.astype(np.int8),
    "int64": lambda a: a.astype(np.int64),
    "float16": lambda a: a.astype(np.float16),
    "object": lambda a: a.astype(object),
    "list": lambda a: a.tolist(),
    "frame": pd.DataFrame,
}
ONE = {
    **ANY,
    "column": lambda a: a[:, None],
    "sparse": lambda a: sparse.csr_array(a[:, None]),
}


@functools.cache
def rounded(cross_fit):
    """Return a mixture of plain numbers to compare with."""
    return MoERegressor(Rounded(), **{**QUICK, "cross_fit": cross_fit}).fit(X, Y)


@pytest.mark.parametrize("form", ONE.values(), ids=ONE)
@pytest.mark.parametrize("params", [{}, {"cross_fit": 2}], ids=["in sample", "folds"])
def test_numbers_of_any_form_are_read(form, params):
    plain = rounded(params.get("cross_fit"))
    model = MoERegressor(Rounded(form), **{**QUICK, **params}).fit(X, Y)
    np.testing.assert_allclose(model.predict(X), plain.predict(X))
    np.testing.assert_allclose(model.score_samples(X, Y), plain.score_samples(X, Y))
    assert model.predict(X).dtype == np.float64


@pytest.mark.parametrize("form", ANY.values(), ids=ANY)
def test_several_outputs_of_any_form_are_read(form):
    plain = MoERegressor(Rounded(), **QUICK).fit(X, TWO)
    model = MoERegressor(Rounded(form), **QUICK).fit(X, TWO)
    np.testing.assert_allclose(model.predict(X), plain.predict(X))


def test_means_of_columns_and_vectors():
    models = [Rounded(form).fit(X, Y) for form in (ONE["column"], ONE["int8"], None)]
    for params in ({"cross_fit": 2, "final": "average"}, {"cross_fit": "auto"}):
        noise = random.standard_normal(80)
        experts = [Rounded(model.form) for model in models]
        model = MoERegressor(experts, **{**QUICK, **params, "n_experts": None})
        model.fit(X, noise)
        answers = [np.ravel(one.predict(X)) for one in model.experts_]
        answers = np.stack(answers, axis=1)
        mixed = (model.route(X).toarray() * answers).sum(axis=1)
        np.testing.assert_allclose(model.predict(X), mixed)


def test_yes_and_no_are_numbers():
    plain = MoERegressor(Rounded(), **QUICK).fit(X, Y > 10)
    model = MoERegressor(Rounded(lambda a: a.astype(bool)), **QUICK).fit(X, Y > 10)
    np.testing.assert_allclose(model.predict(X), plain.predict(X))


@pytest.mark.parametrize("name", ["float16", "object", "list", "frame"])
def test_probabilities_of_any_form_are_read(name):
    plain = MoEClassifier(Chances(), **QUICK).fit(X, LABELS)
    model = MoEClassifier(Chances(ANY[name]), **QUICK).fit(X, LABELS)
    found = model.predict_proba(X)
    np.testing.assert_allclose(found, plain.predict_proba(X), atol=2e-3)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def wrong_shapes(answer):
    n = len(answer)
    return [np.zeros((n, 3)), np.zeros((1, n)), np.zeros(n + 1), np.zeros((n, 1, 1)), 0]


@pytest.mark.parametrize("which", range(5))
def test_wrong_shapes_are_refused(which):
    bad, said = Rounded(lambda a: wrong_shapes(a)[which]), r"answered shape \(.*\) for"
    with pytest.raises(ValueError, match=rf"Expert 0 .* {said} \d+ .*, 1\) or \(\d+,"):
        MoERegressor(bad, **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match=rf"Expert 1 .* {said} \d+ rows"):
        MoERegressor([Ridge(), bad], **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match=rf"Expert 0 .* {said} \d+ .*, 2\)\."):
        MoERegressor(bad, **QUICK).fit(X, TWO)
    bad = Chances(lambda a: wrong_shapes(a)[which])
    with pytest.raises(ValueError, match=rf"Expert 0 .* {said} \d+ .*, 2\)\."):
        MoEClassifier(bad, **QUICK).fit(X, LABELS)
    with pytest.raises(ValueError, match=rf"The gate Chances\(.* {said}"):
        MoERegressor(gate=bad, **QUICK).fit(X, Y)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("high", "answered a ndarray that cannot be read as numbers"),
        (1j, "cannot be read as numbers: dtype complex128"),
        (None, "predicted NaN or infinity"),
        (np.nan, "predicted NaN or infinity"),
        (np.inf, "predicted NaN or infinity"),
    ],
)
def test_what_is_no_number_is_refused(answer, message):
    bad = Rounded(lambda a: np.full(len(a), answer))
    with pytest.raises(ValueError, match=rf"Expert 0 \(Rounded.* {message}"):
        MoERegressor(bad, **QUICK).fit(X, Y)
    ragged = Rounded(lambda a: [[1.0], [1.0, 2.0]] * len(a))
    with pytest.raises(ValueError, match=r"Expert 0 .* answered a list that cannot"):
        MoERegressor(ragged, **QUICK).fit(X, Y)


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (Chances(lambda a: 100 * a), "from 0 to 1"),
        (Chances(np.log), "from 0 to 1"),
        (Chances(lambda a: a * np.nan), "predicted NaN"),
        (Chances(classes=np.array(["a", "b"])), "must have classes_ that y holds"),
        (Chances(classes=3), "must have classes_ that y holds.*; it has 3"),
    ],
    ids=["percent", "logarithms", "NaN", "other classes", "no classes"],
)
def test_what_is_no_probability_is_refused(expert, message):
    with pytest.raises(ValueError, match=rf"Expert 0 \(Chances.* {message}"):
        MoEClassifier(expert, **QUICK).fit(X, LABELS)


# ------------------------------------------------------ learners that hold others
def test_what_a_learner_can_do_is_asked_once_it_is_fitted():
    stacked = StackingRegressor([("ridge", Ridge())], cv=2)
    for expert in (stacked, make_pipeline(StandardScaler(), stacked)):
        model = MoERegressor(expert, **QUICK).fit(X, Y)
        assert np.isfinite(model.predict(X)).all()
    model = MoERegressor(shared_expert=stacked, noise_expert=stacked, **QUICK)
    assert np.isfinite(model.fit(X, Y).predict(X)).all()
    stacked = StackingClassifier([("logistic", LogisticRegression())], cv=2)
    model = MoEClassifier(stacked, gate=stacked, **QUICK).fit(X, LABELS)
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize(
    "learner",
    [
        GridSearchCV(SVC(), {"C": [1.0]}, cv=2),
        VotingClassifier([("logistic", LogisticRegression())]),
    ],
    ids=lambda learner: type(learner).__name__,
)
def test_learners_that_cannot_answer_once_they_are_fitted(learner):
    message = r"now fitted, has no predict_proba; wrap it in sklearn\.calibration"
    with pytest.raises(ValueError, match=rf"Expert 0 .*{message}"):
        MoEClassifier(learner, **QUICK).fit(X, LABELS)
    with pytest.raises(ValueError, match=rf"gate .*{message}"):
        MoERegressor(gate=learner, **QUICK).fit(X, Y)


class Duck:
    """Not an estimator of scikit-learn."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return np.zeros(len(X))


def test_learners_that_are_refused_before_they_are_fitted():
    for learner in (SVC(), make_pipeline(StandardScaler(), SVC())):
        with pytest.raises(ValueError, match=r"^expert .* has no predict_proba; wrap"):
            MoEClassifier(learner, **QUICK).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"shared_expert StandardScaler\(\) has no pr"):
        MoERegressor(shared_expert=StandardScaler(), **QUICK).fit(X, Y)
    with pytest.raises(TypeError, match=r"expert .* has no get_params.*BaseEstimator"):
        MoERegressor(Duck(), **QUICK).fit(X, Y)


class Short(MultiOutputClassifier):
    """Leaves out the last row."""

    def predict_proba(self, X):
        return [proba[:-1] for proba in super().predict_proba(X)]


def test_labels_in_wrong_shapes_are_refused():
    labels = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    with pytest.raises(ValueError, match=r"Short.*answered shape \(\d+, 2\) for"):
        MoEClassifier(Short(LogisticRegression()), **QUICK).fit(X, labels)


# ------------------------------------------------------- noise, steps before gates
def test_what_learns_the_noise_may_answer_in_any_form():
    plain = MoERegressor(noise_expert=Rounded(), **QUICK).fit(X, Y)
    model = MoERegressor(noise_expert=Rounded(ONE["column"]), **QUICK).fit(X, Y)
    np.testing.assert_allclose(model.score_samples(X, Y), plain.score_samples(X, Y))
    for form, message in (
        (lambda a: np.zeros((len(a), 3)), r"answered shape \(\d+, 3\)"),
        (lambda a: a * np.nan, "predicted NaN"),
    ):
        model = MoERegressor(noise_expert=Rounded(form), **QUICK)
        with pytest.raises(ValueError, match=rf"noise_expert Rounded.* {message}"):
            model.fit(X, Y)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            np.sqrt,
            r"the steps before SoftmaxGate\(\) must .* finite .*; got \d+ that are",
        ),
        (
            lambda rows: rows[:, 0],
            r"gate: the steps before it must .* 80 rows; got shape \(80,\)",
        ),
        (
            lambda rows: rows[1:],
            r"gate: the steps before it must .* 80 rows; got shape \(79, 2\)",
        ),
    ],
    ids=["NaN", "vector", "rows"],
)
def test_what_steps_before_a_gate_make_is_checked(step, message):
    gate = make_pipeline(FunctionTransformer(step), SoftmaxGate())
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        MoERegressor(gate=gate, **QUICK).fit(X, Y)
