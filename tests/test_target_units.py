"""A mixture of y in other units, or from another origin, is the same mixture."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor, RandomForestRegressor
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe._learners import reads_any_units
from skmoe.likelihoods import Gaussian, Laplace, Likelihood, WithOutliers, origin_of
from skmoe.routing import Routing

UNIX = 1.7e9
UNITS = [(1e-12, 0.0), (1e9, 0.0), (1.0, UNIX), (1e-3, 40.0)]
QUICK = {"n_experts": 2, "n_init": 1, "random_state": 0}


def regimes(n=160, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    mean = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 1])
    return X, mean + 0.1 * rng.normal(size=n)


X, Y = regimes()
NEW, THEIRS = regimes(40, seed=1)


def assert_same_mixture(model, other, a, b, tol):
    """Compare what is said of y with what another mixture says of a y + b."""
    assert_allclose((other.predict(NEW) - b) / a, model.predict(NEW), atol=tol)
    assert_allclose(other.scale_ / a, model.scale_, rtol=tol)
    theirs = other.score_samples(NEW, a * THEIRS + b) + np.log(a)
    assert_allclose(theirs, model.score_samples(NEW, THEIRS), atol=50 * tol)
    ends = (other.predict_interval(NEW) - b) / a
    assert_allclose(ends, model.predict_interval(NEW), atol=10 * tol)
    assert other.lower_bound_ + np.log(a) == pytest.approx(model.lower_bound_, abs=tol)


@pytest.mark.parametrize(
    ("likelihood", "a", "b"),
    [("gaussian", a, b) for a, b in UNITS]
    + [(name, a, b) for name in ("student_t", "laplace") for a, b in UNITS[::2]],
)
def test_lines(likelihood, a, b):
    model = MoERegressor(likelihood=likelihood, cross_fit=None, **QUICK)
    other = MoERegressor(likelihood=likelihood, cross_fit=None, **QUICK)
    model, other = model.fit(X, Y), other.fit(X, a * Y + b)
    assert_same_mixture(model, other, a, b, 1e-4)


@pytest.mark.parametrize(("a", "b"), UNITS)
@pytest.mark.parametrize(
    ("expert", "options"),
    [
        (DecisionTreeRegressor(max_depth=3), {"cross_fit": None}),
        pytest.param(RandomForestRegressor(5, max_depth=3), {}, marks=pytest.mark.slow),
        (Ridge(), {"noise_expert": Ridge(), "cross_fit": None}),
        (Ridge(), {"shared_expert": Ridge(alpha=10.0), "cross_fit": None}),
    ],
    ids=["tree", "forest", "noise", "shared"],
)
def test_experts(expert, options, a, b):
    model = MoERegressor(expert, **options, **QUICK).fit(X, Y)
    other = MoERegressor(expert, **options, **QUICK).fit(X, a * Y + b)
    error = (other.predict(NEW) - b) / a - model.predict(NEW)
    assert np.sqrt(np.mean(error**2)) < 0.02
    assert_allclose(other.scale_ / a, model.scale_, rtol=0.1)


def test_outliers_beside_a_mixture():
    family, y = WithOutliers(), Y.copy()
    y[:5] += 30.0
    options = {"likelihood": family, "cross_fit": None, **QUICK, "n_experts": 3}
    model = MoERegressor(**options).fit(X, y)
    other = MoERegressor(**options).fit(X, 1e-9 * y)
    assert_allclose(other.predict(NEW) * 1e9, model.predict(NEW), atol=1e-3)
    far = MoERegressor(**options).fit(X, y + 1e6)
    assert_allclose(far.predict(NEW) - 1e6, model.predict(NEW), atol=1e-2)
    assert far.experts_[-1].predict(NEW[:1]) == pytest.approx(1e6, abs=40)


def test_each_output_has_units_of_its_own():
    both = np.column_stack([1e-9 * Y, UNIX + Y])
    model = MoERegressor(cross_fit=None, **QUICK).fit(X, np.column_stack([Y, Y]))
    other = MoERegressor(cross_fit=None, **QUICK).fit(X, both)
    found = (other.predict(NEW) - [0.0, UNIX]) * [1e9, 1.0]
    assert_allclose(found, model.predict(NEW), atol=1e-4)
    assert_allclose(other.scale_ * [1e9, 1.0], model.scale_, rtol=1e-4)
    draws = other.sample_y(NEW[:3], 20, random_state=0)
    assert np.abs(draws[:, 1] - UNIX).max() < 20


@pytest.mark.parametrize(("a", "b"), [(1e-12, 0.0), (1.0, UNIX)])
def test_streams_and_new_experts(a, b):
    model, other = MoERegressor(**QUICK), MoERegressor(**QUICK)
    for rows in np.array_split(np.arange(len(X)), 4):
        model.partial_fit(X[rows], Y[rows])
        other.partial_fit(X[rows], a * Y[rows] + b)
    assert_allclose((other.predict(NEW) - b) / a, model.predict(NEW), atol=1e-4)
    assert_allclose(other.scale_ / a, model.scale_, rtol=1e-4)
    model.add_experts(1, X, Y)
    other.add_experts(1, X, a * Y + b)
    assert_allclose((other.predict(NEW) - b) / a, model.predict(NEW), atol=1e-3)


def test_a_warm_start_keeps_the_origin():
    model = MoERegressor(cross_fit=None, warm_start=True, **QUICK).fit(X, Y + 300.0)
    bound, origin = model.lower_bound_, model._origin
    model.fit(X, Y + 300.0)
    assert_array_equal(model._origin, origin)
    assert model.lower_bound_ >= bound
    model.fit(X, Y + 320.0)  # by itself it would have another origin
    assert_array_equal(model._origin, origin)
    assert np.abs(model.predict(NEW) - 320.0).max() < 10


# --------------------------------------------------------------------- precision
def test_a_target_keeps_its_own_precision():
    single = X.astype(np.float32)
    model = MoERegressor(cross_fit=None, **QUICK).fit(single, Y + UNIX)
    said = model.predict(NEW.astype(np.float32))
    assert said.dtype == model.predict_interval(NEW.astype(np.float32)).dtype
    assert said.dtype == np.float64
    assert np.corrcoef(said - UNIX, THEIRS)[0, 1] > 0.9
    double = MoERegressor(cross_fit=None, **QUICK).fit(X, Y)
    assert_allclose(said - UNIX, double.predict(NEW), atol=1e-3)
    score = model.score_samples(NEW.astype(np.float32), THEIRS + UNIX)
    assert_allclose(score, double.score_samples(NEW, THEIRS), atol=0.05)


def test_single_precision_stays_where_it_will_do():
    single = X.astype(np.float32)
    model = MoERegressor(cross_fit=None, **QUICK)
    assert model.fit(single, Y).predict(single).dtype == np.float32
    level = (Y + 100.0).astype(np.float32)
    assert model.fit(single, level).predict(single).dtype == np.float32
    assert model.score(single, level) > 0.9


class Recorder(RegressorMixin, BaseEstimator):
    """A learner of the mean that tells which y it was given."""

    def fit(self, X, y):
        Recorder.given.append(y)
        self.mean_ = y.mean()
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_learners_read_y_as_it_was_given(dtype):
    Recorder.given, y = [], Y + 1e6
    MoERegressor(Recorder(), cross_fit=None, **QUICK).fit(X.astype(dtype), y)
    for given in Recorder.given:
        assert given.dtype == np.float64
        nearest = np.abs(given[:, None] - y).min(axis=1)
        assert nearest.max() < (1e-6 if dtype == np.float32 else 1e-9)


def test_lines_through_the_origin_know_where_it_is():
    line = LinearRegression(fit_intercept=False)
    Z, y = np.column_stack([X, np.ones(len(X))]), X[:, 0] + 50.0
    model = MoERegressor(line, n_experts=1, cross_fit=None).fit(Z, y)
    assert_allclose(model.predict(Z), y)
    assert_allclose(model.experts_[0].coef_, line.fit(Z, y).coef_, atol=1e-9)
    assert model.experts_[0].intercept_ == 0.0
    without = MoERegressor(line, n_experts=1, cross_fit=None).fit(X, y)
    assert_allclose(without.predict(X), line.fit(X, y).predict(X))


# -------------------------------------------------------------------------- trees
@pytest.mark.parametrize(
    ("learner", "free"),
    [
        (DecisionTreeRegressor(), True),
        (make_pipeline(StandardScaler(), RandomForestRegressor()), True),
        (BaggingRegressor(DecisionTreeRegressor()), True),
        (BaggingRegressor(Lasso()), False),
        (DecisionTreeRegressor(min_impurity_decrease=0.1), False),
        (DecisionTreeRegressor(criterion="poisson"), False),
        (Lasso(), False),
    ],
)
def test_trees_follow_y_in_any_unit(learner, free):
    assert reads_any_units(learner) == free


def test_trees_are_given_units_only_where_they_need_them():
    tree = DecisionTreeRegressor(max_depth=3)
    model = MoERegressor(tree, cross_fit=None, **QUICK).fit(X, Y)
    assert type(model.experts_[0]) is DecisionTreeRegressor
    model.fit(X, Y + UNIX)
    assert type(model.experts_[0]) is TransformedTargetRegressor
    assert np.abs(model.experts_[0].predict(NEW) - UNIX).max() < 10
    assert model.aic(X, Y + UNIX) < 1000


# ------------------------------------------------------------------------- scales
@pytest.mark.parametrize("trend", [1.0, 1000.0])
def test_noise_is_what_is_left_whatever_the_trend(trend):
    rng = np.random.default_rng(0)
    Z = rng.uniform(-1, 1, (400, 3))
    y = trend * Z[:, 0] + np.where(Z[:, 1] > 0, 2, -2) * Z[:, 2]
    y += 0.1 * rng.normal(size=400)
    model = MoERegressor(LinearRegression(), cross_fit=None, **QUICK).fit(Z, y)
    assert np.all((model.scale_ > 0.07) & (model.scale_ < 0.15))


def test_floors_of_scales():
    y = np.arange(20.0)[:, None] % 5
    weight = np.ones(20)
    graded = Gaussian().seen(y, weight, 10.0)
    assert_allclose(graded.floor_, 1e-3 * y.var())  # less than 1/12, a step's noise
    fine = Gaussian().seen(y + np.linspace(0, 1e-4, 20)[:, None], weight, 10.0)
    assert fine.floor_ < 1e-9
    error = np.array([0.0, 0.0, 1.0, 1.0])[:, None]
    experts = Routing.from_labels(np.array([0, 0, 1, 1]), 2)
    family = Gaussian().bound(1e-9, 0.0)
    scale = family.scales(error, np.zeros((4, 1, 1)), experts)
    assert_allclose(scale[:, 0] ** 2, [1e-3 * 0.5, 1.0], rtol=1e-6)


class Searched(Laplace):
    """Laplace noise whose scale is searched for, as that of a new family is."""

    scales = Likelihood.scales


@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e9])
def test_a_search_for_scales_is_in_units_of_the_residuals(unit):
    error = unit * np.random.default_rng(0).laplace(size=(200, 1))
    experts = Routing.from_labels(np.zeros(200, dtype=int), 1)
    found = Searched().bound(0.0, 0.0).scales(error, np.zeros((200, 1, 1)), experts)
    assert found[0, 0] == pytest.approx(np.abs(error).mean(), rel=1e-3)


# ------------------------------------------------------------------------- origins
def test_origins():
    weight = np.ones(len(Y))
    assert origin_of(Y[:, None], weight) == 0.0
    far = np.column_stack([Y, Y + UNIX])
    origin = origin_of(far, weight)
    assert origin[0] == 0.0
    assert abs(origin[1] - UNIX) < 20
    assert_array_equal((far - origin) + origin, far)
    constant = np.full((5, 1), 7.0)
    assert_array_equal(origin_of(constant, np.ones(5)), [7.0])
    single = origin_of(far.astype(np.float32), weight)
    assert single.dtype == np.float32


@pytest.mark.parametrize("units", [(1.0, 1024.0), (2.0**-26, 2.0**26)])
def test_no_output_speaks_louder_than_another(units):
    """One output has regimes, the other is noise in another unit."""
    random = np.random.RandomState(1)
    X = random.normal(size=(200, 3))
    y = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 1]) + 0.1 * random.normal(size=200)
    Y = np.column_stack([y, y[::-1]])
    model = MoERegressor(n_experts=2, n_init=1, random_state=0)
    expected = clone(model).fit(X, Y).predict(X)
    found = model.fit(X, Y * units).predict(X) / units
    np.testing.assert_allclose(found, expected, atol=1e-6)
