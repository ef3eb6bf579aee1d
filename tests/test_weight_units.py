"""Sample weights in any unit: they count rows, or are told of and taken relatively."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe._learners import resample, weight_unit
from skmoe.gates import EstimatorGate

pytestmark = pytest.mark.usefixtures("quick_choices")

N = 120
QUICK = {
    "n_experts": 2, "n_init": 1, "init": "tree", "tol": 10.0, "cross_fit": None,
    "random_state": 0,
}  # fmt: skip
UNITS = (1 / N, 1e6)


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2))
    y = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 1]) + 0.1 * rng.normal(size=N)
    return X, y, rng.integers(1, 4, size=N) / 2.0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gate": "tree"},
        {"gate": KNeighborsClassifier()},
        {"gate": LinearDiscriminantAnalysis()},
        {"expert": KNeighborsRegressor(3)},
    ],
    ids=str,
)
@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_of_weights_changes_nothing(options, unit, rows):
    X, y, weight = rows
    weight = weight / weight.mean()
    expected = MoERegressor(**QUICK, **options).fit(X, y, sample_weight=weight)
    model = MoERegressor(**QUICK, **options)
    with pytest.warns(UserWarning, match="count rows") as told:
        model.fit(X, y, sample_weight=unit * weight)
    assert sum("count rows" in str(each.message) for each in told) == 1
    assert_allclose(model.predict(X), expected.predict(X), rtol=1e-3, atol=1e-4)


def test_a_classifier_says_so_too(rows):
    X, y, weight = rows
    weight = weight / weight.mean()
    model = MoEClassifier(**QUICK)
    expected = model.fit(X, y > 0, sample_weight=weight).predict_proba(X)
    with pytest.warns(UserWarning, match="count rows"):
        model.fit(X, y > 0, sample_weight=weight / N)
    assert_allclose(model.predict_proba(X), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [0.25, 1.0, 4.0])
def test_weights_next_to_one_are_taken_as_they_are(factor, rows):
    X, y, _ = rows
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        MoERegressor(**QUICK).fit(X, y, sample_weight=np.full(N, factor))
    assert weight_unit(np.full(N, factor)) == 1.0


@pytest.mark.parametrize("unit", UNITS)
def test_a_penalty_that_was_asked_for_keeps_its_meaning(unit, rows):
    X, y, weight = rows
    alone = Ridge(alpha=0.5).fit(X, y, sample_weight=unit * weight)
    model = MoERegressor(Ridge(alpha=0.5), n_experts=1)
    with pytest.warns(UserWarning, match="count rows"):
        model.fit(X, y, sample_weight=unit * weight)
    assert_allclose(model.predict(X), alone.predict(X), rtol=1e-8)
    learner = LogisticRegression(C=3.0, tol=1e-10)
    alone = learner.fit(X, y > 0, sample_weight=unit * weight)
    model = MoEClassifier(learner, n_experts=1)
    with pytest.warns(UserWarning, match="count rows"):
        model.fit(X, y > 0, sample_weight=unit * weight)
    found = model.experts_[0].predict_proba(X)
    assert_allclose(found, alone.predict_proba(X), atol=1e-3)


def test_rows_are_not_drawn_a_million_times(rows):
    X, _, weight = rows
    rows_drawn = resample(1e6 * weight, 0)
    assert np.bincount(rows_drawn, minlength=N).max() <= 2
    resp = np.random.default_rng(1).dirichlet(np.ones(2), size=N)
    gates = [
        EstimatorGate(KNeighborsClassifier()).fit(X, unit * resp)
        for unit in (1.0, 1e6, 1e-3)
    ]
    for gate in gates[1:]:
        assert_allclose(gate.log_proba(X), gates[0].log_proba(X))
