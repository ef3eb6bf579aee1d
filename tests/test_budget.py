"""Rows that learners fitted one by one are given in a default fit."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Choice, CrossFitPool, Problem
from skmoe.em._held_out import Split
from skmoe.em._narrowing import narrowed, narrowing
from skmoe.em._problem import Model
from skmoe.experts import EstimatorPool, make_pool
from skmoe.gates import ConstantGate, RoutingRule
from skmoe.likelihoods import Gaussian
from skmoe.routing import Routing

MOST = 15
"""Rows fitted over rows of the table."""

FITTED = []


class Tree(DecisionTreeRegressor):
    """A tree that notes how many rows it is given."""

    def fit(self, X, y, sample_weight=None):
        FITTED.append(len(y))
        return super().fit(X, y, sample_weight)


class ClassTree(DecisionTreeClassifier):
    """The same for classes."""

    def fit(self, X, y, sample_weight=None):
        FITTED.append(len(y))
        return super().fit(X, y, sample_weight)


class Neighbours(KNeighborsRegressor):
    """Neighbours that note how many rows they are given."""

    def fit(self, X, y):
        FITTED.append(len(y))
        return super().fit(X, y)


def regimes(n, seed=0):
    """Return rows of four linear regimes, and noise."""
    random = np.random.RandomState(seed)
    X = random.standard_normal((n, 6))
    regime = (X[:, 0] + 0.5 * X[:, 1] > 0) + 2 * (X[:, 2] > 0.3)
    slopes = 1.5 * np.random.RandomState(7).standard_normal((4, 6))
    f = np.einsum("ij,ij->i", X, slopes[regime])
    return X, f, f + 0.5 * random.standard_normal(n)


def rows_fitted(model, X, y):
    FITTED.clear()
    model.fit(X, y)
    return sum(FITTED) / len(y)


@pytest.mark.parametrize("kind", ["trees", "neighbours", "pure noise"])
@pytest.mark.parametrize("n", [300, 1_000])
def test_a_regressor_fits_its_rows_few_times(kind, n):
    X, _, y = regimes(n)
    if kind == "pure noise":  # no expert is better than another at any row
        y = np.random.RandomState(1).standard_normal(n)
    expert = Neighbours() if kind == "neighbours" else Tree(max_depth=4)
    model = MoERegressor(expert, random_state=0)
    assert 1 <= rows_fitted(model, X, y) <= MOST


@pytest.mark.parametrize("n", [300, 1_000])
def test_a_classifier_fits_its_rows_few_times(n):
    X, f, _ = regimes(n)
    y = np.random.RandomState(1).uniform(size=n) < 1 / (1 + np.exp(-2 * f))
    model = MoEClassifier(ClassTree(max_depth=4), random_state=0)
    assert 1 <= rows_fitted(model, X, y) <= MOST


def test_different_learners_fit_their_rows_few_times():
    """The unit is a fit of each of them on all rows."""
    X, _, y = regimes(400)
    experts = [Tree(max_depth=3), Tree(max_depth=6), Tree(max_depth=1)]
    model = MoERegressor(experts, random_state=0)
    assert rows_fitted(model, X, y) / len(experts) <= MOST


def crossed(X, y, routing):
    plain = EstimatorPool([Tree(max_depth=2)] * 2, likelihood=Gaussian())
    folds = np.arange(len(y)) % 3
    return CrossFitPool(plain, folds).fit(X, y, routing)


def test_an_expert_whose_share_hardly_changed_is_not_fitted_again():
    X, _, y = regimes(90)
    share = np.random.RandomState(0).uniform(0.2, 0.8, 90)
    old = crossed(X, y[:, None], Routing.from_dense(np.stack([share, 1 - share], 1)))
    FITTED.clear()
    near = np.stack([share, 0.999 * (1 - share)], 1)
    same = old.update(X, y[:, None], Routing.from_dense(near))
    assert not FITTED
    assert same.n_fitted == old.n_fitted == 6 * 60
    far = Routing.from_dense(np.stack([share, 0.2 * (1 - share)], 1))
    price = old.price(far)
    new = same.update(X, y[:, None], far)
    assert sum(FITTED) == price == new.n_fitted - old.n_fitted
    assert len(FITTED) == 3
    for before, after in zip(old.pools, new.pools, strict=True):
        assert after.fitted[0] is before.fitted[0]
        assert after.fitted[1] is not before.fitted[1]


def test_the_judge_of_a_part_judges_the_other_rows_too():
    """A row that no model learned from is judged by the model of its fold."""
    X, _, y = regimes(90)
    y = y[:, None]
    rows = np.arange(90) % 4 > 0
    ones = np.full((90, 2), 0.5)
    whole = CrossFitPool(
        EstimatorPool([Tree(max_depth=2), Ridge()], likelihood=Gaussian()),
        np.arange(90) % 3,
    )
    part = whole.of_rows(rows).fit(X[rows], y[rows], Routing.from_dense(ones[rows]))
    judge = part.extended(whole, rows)
    values = judge.evaluate(X, y, Routing.from_dense(ones))
    own = part.evaluate(X[rows], y[rows], Routing.from_dense(ones[rows]))
    assert_array_equal(values[rows], own)
    for row in np.flatnonzero(~rows):
        for k, model in enumerate(part.pools[row % 3].fitted):
            assert values[row, k, 0] == pytest.approx(model.predict(X[[row]])[0])
    FITTED.clear()
    assert judge.update(X, y, Routing.from_dense(ones)) is judge
    assert judge.price(Routing.from_dense(ones)) == 0
    assert not FITTED


class Said:
    """What held-out rows say of one model."""

    def __init__(self, model):
        self.model = model

    def mixture(self, choice):
        return self.model


@pytest.mark.parametrize(("wide", "factor"), [(1.25, 0.8), (1.0, 1.0), (0.7, 1.0)])
def test_held_out_rows_narrow_scales_that_are_too_large(wide, factor):
    n = 2_000
    X = np.random.RandomState(0).standard_normal((n, 1))
    error = np.random.RandomState(1).standard_normal((n, 1))
    y = X + error / np.sqrt(np.mean(error**2))
    problem = Problem(X, X, y, np.ones(n), 2, 2, 1, 0.0)
    even = Routing.from_dense(np.full((n, 2), 0.5))
    pool = make_pool([LinearRegression()] * 2, n_features=1, likelihood=Gaussian())
    pool = pool.fit(X, X, even).with_scale(np.full((2, 1), wide))
    model = Model(ConstantGate().fit(X, even), pool)
    parts = [Split(problem, *np.ones((2, n), dtype=bool))]
    found = narrowing([Said(model)], parts, Choice(), RoutingRule())
    assert found == pytest.approx(factor, abs=0.03)
    assert_array_equal(narrowed(pool, 0.8).scale, 0.8 * pool.scale)


def test_experts_without_rows_share_a_fit():
    X, _, y = regimes(60)
    only = Routing(np.zeros((60, 1), dtype=np.intp), np.ones((60, 1)), 4)
    pool = EstimatorPool([Tree(max_depth=2)] * 4, likelihood=Gaussian())
    FITTED.clear()
    pool.fit(X, y[:, None], only)
    assert FITTED == [60, 60]
    assert pool.n_fitted == 120
    assert pool.fitted[1] is pool.fitted[3]
