"""Learners that are fitted one by one: fits and answers that run at once."""

import threading

import numpy as np
import pytest
from joblib import Parallel
from numpy.testing import assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe._learners import bears_threads
from skmoe.em import CrossFitPool, Problem, resume
from skmoe.em._engine import update_pool
from skmoe.experts import EstimatorPool, _estimator_pool
from skmoe.gates import ConstantGate
from skmoe.likelihoods import Gaussian
from skmoe.routing import Routing

N = 1_200
X = np.random.RandomState(0).standard_normal((N, 3))
Y = np.abs(X[:, :1]) + X[:, 1:2]
TREE = DecisionTreeRegressor(max_depth=3)


def shares(n_experts):
    share = np.random.RandomState(1).uniform(0.1, 1.0, (N, n_experts))
    return Routing.from_dense(share / share.sum(axis=1, keepdims=True))


def pool_of(learner, n_experts, n_jobs=None):
    return EstimatorPool([learner] * n_experts, likelihood=Gaussian(), n_jobs=n_jobs)


def test_fits_of_all_folds_run_at_once(monkeypatch):
    at_once = []

    def counting(n_jobs, **options):
        def run(calls):
            calls = list(calls)
            at_once.append(len(calls))
            return Parallel(n_jobs=n_jobs, **options)(calls)

        return run

    monkeypatch.setattr(_estimator_pool, "Parallel", counting)
    folds = np.arange(N) % 3
    pool = CrossFitPool(pool_of(TREE, 4), folds).fit(X, Y, shares(4))
    assert at_once == [12]
    for fold, inner in enumerate(pool.pools):
        few = shares(4).scaled((folds != fold).astype(float))
        alone = pool_of(TREE, 4).fit(X, Y, few)
        everyone = Routing.from_dense(np.ones((N, 4)))
        assert_array_equal(inner.predict(X, everyone), alone.predict(X, everyone))
    del at_once[:]
    new = Routing.from_dense(shares(4).weights[:, ::-1])
    pool.update(X, Y, new)
    assert at_once == [12]


class Meeting(DummyRegressor):
    """A learner that answers once another answers at the same time."""

    place = threading.Barrier(2, timeout=20)

    def predict(self, X):
        if len(X) > 1:
            self.place.wait()  # breaks if experts are asked one by one
        return super().predict(X)


def test_experts_answer_in_threads(monkeypatch):
    monkeypatch.setattr(_estimator_pool, "bears_threads", lambda learner: True)
    pool = pool_of(Meeting(), 2, n_jobs=2).fit(X, Y, shares(2))
    answers = pool.predict(X, shares(2))
    means = [np.average(Y[:, 0], weights=shares(2).weights[:, k]) for k in range(2)]
    assert answers[:, :, 0] == pytest.approx(np.tile(means, (N, 1)))


def test_which_learners_answer_in_threads():
    boosting = HistGradientBoostingRegressor()
    assert bears_threads(boosting)
    assert bears_threads(make_pipeline(StandardScaler(), boosting))
    assert not bears_threads(Meeting())
    assert not bears_threads(make_pipeline(StandardScaler(), Meeting()))
    assert not bears_threads(FrozenEstimator(boosting))


@pytest.mark.parametrize("dense", [True, False])
def test_answers_in_threads_are_the_same(dense):
    routing = shares(4)
    if not dense:
        best = np.argsort(-routing.weights, axis=1)[:, :2]
        weights = np.take_along_axis(routing.weights, best, axis=1)
        routing = Routing(best, weights, 4)
    pool = pool_of(TREE, 4).fit(X, Y, shares(4))
    alone = pool.predict(X, routing)
    pool.n_jobs = 2
    assert_array_equal(pool.predict(X, routing), alone)


def test_experts_that_stay_are_not_asked_again(monkeypatch):
    """Where the budget is spent, what experts said of the rows still holds."""
    weight = np.ones(N)
    problem = Problem(X, X, Y, weight, 2, 2, 5, 1e-4, budget=0.0)
    gate = ConstantGate().fit(X, shares(2))
    pool = pool_of(TREE, 2).fit(X, Y, shares(2))
    pool = pool.rescale(Y, pool.evaluate(X, Y, shares(2)), shares(2))
    state = resume(problem, gate, pool)

    def asked(self, *args):
        raise AssertionError

    monkeypatch.setattr(EstimatorPool, "evaluate", asked)
    _, values, log_lik, _ = update_pool(problem, state, state.resp)
    assert values is state.terms.values
    assert log_lik.shape == (N, 2)


@pytest.mark.slow
@pytest.mark.parametrize("learner", [TREE, HistGradientBoostingRegressor(max_iter=5)])
def test_any_number_of_jobs_gives_the_same_bits(learner):
    found = [
        MoERegressor([learner, Ridge()], n_jobs=n, random_state=0).fit(X, Y[:, 0])
        for n in (1, 2)
    ]
    assert_array_equal(found[0].predict(X), found[1].predict(X))
