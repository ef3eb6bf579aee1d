"""NaN in X: experts that take it see it, gates see means and indicators."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import EstimatorGate, SoftmaxGate

pytestmark = pytest.mark.usefixtures("quick_choices")

BOOSTING = HistGradientBoostingRegressor(max_iter=5)


def holes(n=200, seed=0):
    """Return X, X with a fifth of it missing, and y of two regimes."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    y = np.where(X[:, 0] > 0, 3 * X[:, 1], -X[:, 2])
    return X, np.where(rng.uniform(size=X.shape) < 0.2, np.nan, X), y


@pytest.mark.parametrize(
    ("expert", "gate"),
    [
        (BOOSTING, "softmax"),
        (DecisionTreeRegressor(max_depth=3), "gaussian"),
        (DecisionTreeRegressor(max_depth=3), "tree"),
        (make_pipeline(SimpleImputer(), Ridge()), "softmax"),
        ([BOOSTING, DecisionTreeRegressor(max_depth=2)], "softmax"),
        (BOOSTING, EstimatorGate(HistGradientBoostingClassifier(max_iter=5))),
    ],
)
def test_missing_values_reach_those_who_take_them(expert, gate):
    _, X, y = holes()
    model = MoERegressor(
        expert, n_experts=2, gate=gate, n_init=1, tol=10.0, random_state=0
    ).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score_samples(X, y)).all()


def test_gate_sees_means_and_indicators():
    X, missing, y = holes()
    model = MoERegressor(BOOSTING, n_experts=2, n_init=1, tol=10.0, random_state=0).fit(
        missing, y
    )
    assert isinstance(model.gate_, Pipeline)
    seen = model.gate_[:-1].transform(missing)
    mean = np.nanmean(missing, axis=0)
    np.testing.assert_allclose(seen[:, :3], np.where(np.isnan(missing), mean, missing))
    np.testing.assert_array_equal(seen[:, 3:], np.isnan(missing))
    complete = MoERegressor(
        BOOSTING, n_experts=2, n_init=1, tol=10.0, random_state=0
    ).fit(X, y)
    assert isinstance(complete.gate_, SoftmaxGate)


def test_a_gate_that_takes_nan_sees_it():
    _, X, y = holes()
    tree = DecisionTreeRegressor(max_depth=3)
    model = MoERegressor(
        tree, n_experts=2, gate="tree", n_init=1, tol=10.0, random_state=0
    ).fit(X, y)
    assert not isinstance(model.gate_, Pipeline)


def test_what_was_fitted_goes_on():
    _, X, y = holes()
    model = MoERegressor(
        DecisionTreeRegressor(max_depth=3),
        n_experts=2,
        n_init=1,
        tol=10.0,
        warm_start=True,
        random_state=0,
    )
    model.fit(X, y).fit(X, y)
    assert isinstance(model.gate_, Pipeline)
    model.add_experts(1, X, y)
    assert model.route(X).shape == (200, 3)


def test_classifier_and_sparse():
    _, X, y = holes()
    boosting = HistGradientBoostingClassifier(max_iter=5)
    model = MoEClassifier(
        boosting, n_experts=2, n_init=1, tol=10.0, random_state=0
    ).fit(X, y > 0)
    assert model.score(X, y > 0) > 0.8
    filled = make_pipeline(SimpleImputer(), Ridge())
    rows = sparse.csr_matrix(np.nan_to_num(X, nan=0.0))
    rows.data[::7] = np.nan
    model = MoERegressor(filled, n_experts=2, n_init=1, tol=10.0, random_state=0)
    assert np.isfinite(model.fit(rows, y).predict(rows)).all()


def test_starts_do_not_depend_on_the_place_of_rows():
    _, X, y = holes()
    order = np.random.default_rng(1).permutation(len(y))
    options = {"n_experts": 2, "n_init": 1, "random_state": 0, "cross_fit": None}
    trees = DecisionTreeRegressor(max_depth=3)
    one = MoERegressor(trees, **options).fit(X, y)
    other = MoERegressor(trees, **options).fit(X[order], y[order])
    np.testing.assert_allclose(one.predict(X), other.predict(X), atol=1e-8)


def test_errors_say_who_takes_no_nan():
    X, missing, y = holes()
    with pytest.raises(ValueError, match=r"NaN\. expert Ridge\(\) takes no missing"):
        MoERegressor(Ridge(), n_experts=2).fit(missing, y)
    scaled = make_pipeline(StandardScaler(), Ridge())  # whose first step takes NaN
    with pytest.raises(ValueError, match=r"NaN\. expert Pipeline.* takes no missing"):
        MoERegressor(scaled, n_experts=2).fit(missing, y)
    model = MoERegressor(BOOSTING, n_experts=2, n_init=1, tol=10.0, random_state=0).fit(
        X, y
    )
    with pytest.raises(ValueError, match=r"NaN\. The rows given to fit had no missing"):
        model.predict(missing)
