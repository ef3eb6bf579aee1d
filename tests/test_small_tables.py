"""Tables of a few rows: they fit, with no more experts than there are rows."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import KNeighborsGate
from skmoe.likelihoods import WithOutliers

QUICK = {"n_init": 1, "max_iter": 2, "random_state": 0}

few_experts = pytest.mark.filterwarnings("ignore:.* are fewer than n_experts=8")
cut_short = pytest.mark.filterwarnings(
    "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
)
pytestmark = [few_experts, cut_short]


def table(n_rows):
    """Return X, a target and labels of both classes."""
    X = np.random.RandomState(n_rows).standard_normal((n_rows, 3))
    return X, np.abs(X[:, 0]), np.arange(n_rows) % 2


@pytest.mark.parametrize("n_rows", [2, 3, 8, 15])
def test_defaults_fit_any_table(n_rows):
    X, y, labels = table(n_rows)
    regressor = MoERegressor(**QUICK).fit(X, y)
    classifier = MoEClassifier(**QUICK).fit(X, labels)
    assert regressor.n_experts_ == classifier.n_experts_ == min(8, n_rows)
    assert np.isfinite(regressor.predict_interval(X)).all()
    np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1.0)
    for model in (regressor, classifier):
        assert model.route(X).shape == (n_rows, model.n_experts_)
        assert model.apply(X).shape == (n_rows, 2)


@pytest.mark.slow
@pytest.mark.parametrize("n_rows", [4, 7, 9, 12, 16, 24, 31, 32, 33])
@pytest.mark.parametrize("n_init", [1, 6])
def test_defaults_fit_more_tables(n_rows, n_init):
    X, y, labels = table(n_rows)
    for model, target in ((MoERegressor(), y), (MoEClassifier(), labels)):
        model.set_params(n_init=n_init, max_iter=2, random_state=0).fit(X, target)
        assert model.n_experts_ == min(8, n_rows)


REGRESSORS = [
    {"gate": "gaussian"},
    {"gate": "hierarchical"},
    {"gate": "product"},
    {"gate": "tree"},
    {"gate": KNeighborsGate(20)},
    {"shared_expert": "auto"},
    {"shared_expert": Ridge()},
    {"n_experts": "auto"},
    {"noise_expert": Ridge()},
    {"cross_fit": 20},
    {"cross_fit": 5, "final": "average"},
    {"likelihood": WithOutliers()},
    {"likelihood": "student_t"},
    {"expert": LinearRegression()},
    {"expert": DecisionTreeRegressor()},
    {"expert": HistGradientBoostingRegressor(max_iter=2)},
    *({"init": kind} for kind in ("tree", "kmeans", "random", "kmeans_x", "single")),
]


@pytest.mark.parametrize("params", REGRESSORS, ids=str)
def test_every_part_fits_three_rows(params):
    X, y, _ = table(3)
    model = MoERegressor(**QUICK).set_params(**params).fit(X, y)
    assert model.n_experts_ <= 3
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.predict_interval(X)).all()
    assert not np.isnan(model.conformalize(X, y).predict_interval(X)).any()


@pytest.mark.parametrize("gate", ["softmax", "gaussian", "tree"])
@pytest.mark.parametrize("expert", [None, DecisionTreeClassifier()], ids=str)
def test_two_rows_of_two_classes(gate, expert):
    X, _, labels = table(2)
    model = MoEClassifier(expert, gate=gate, **QUICK).fit(X, labels)
    assert model.n_experts_ == 2
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.filterwarnings("default:.* are fewer than n_experts=8")
def test_one_warning_says_how_many_there_are():
    X, y, _ = table(5)
    with pytest.warns(UserWarning, match="The 5 rows of") as heard:
        model = MoERegressor(**{**QUICK, "max_iter": 100}).fit(X, y)
    (warning,) = heard
    assert str(warning.message) == (
        "The 5 rows of positive weight are fewer than n_experts=8, so 5 experts are "
        "fitted."
    )
    assert warning.filename == __file__
    assert model.n_experts_ == len(model.experts_) == 5


def test_rows_without_weight_are_no_rows():
    X, y, _ = table(9)
    weight = np.repeat([1.0, 0.0], [3, 6])
    model = MoERegressor(**QUICK).fit(X, y, sample_weight=weight)
    alone = MoERegressor(**QUICK).fit(X[:3], y[:3])
    assert model.n_experts_ == 3
    np.testing.assert_array_equal(model.predict(X), alone.predict(X))


def test_of_a_list_the_first_learners_are_fitted():
    X, y, labels = table(2)
    learners = [LinearRegression(), DecisionTreeRegressor(), Ridge()]
    with pytest.warns(UserWarning, match="so 2 experts, the first 2 of the list, are"):
        model = MoERegressor(learners, n_experts=3, **QUICK).fit(X, y)
    assert [type(e) for e in model.experts_] == [type(e) for e in learners[:2]]
    learners = [LogisticRegression(), DecisionTreeClassifier(), LogisticRegression()]
    with pytest.warns(UserWarning, match="the first 2 of the list"):
        MoEClassifier(learners, n_experts=3, **QUICK).fit(X, labels)


def test_given_responsibilities_fix_the_number():
    X, y, _ = table(3)
    model = MoERegressor(n_experts=4, init=np.full((3, 4), 0.25), **QUICK).fit(X, y)
    assert model.n_experts_ == 4


def test_groups_that_are_few():
    X, y, _ = table(12)
    model = MoERegressor(**QUICK).fit(X, y, groups=np.arange(12) // 6)
    assert np.isfinite(model.predict(X)).all()
