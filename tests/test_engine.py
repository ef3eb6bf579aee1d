"""The EM engine: invariants, identities and exact small cases."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.cluster import KMeans
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe.em import (
    STARTS,
    CrossFitPool,
    Problem,
    _engine,
    begin,
    content_folds,
    expect,
    initial,
    resume,
    run,
    step,
)
from skmoe.em._engine import revived
from skmoe.em._problem import State, Terms
from skmoe.experts import EstimatorPool, make_pool
from skmoe.gates import ConstantGate, SoftmaxGate
from skmoe.likelihoods import Categorical, Gaussian
from skmoe.routing import Routing

GATES = [SoftmaxGate(), SoftmaxGate(alpha=0), ConstantGate()]
LEARNERS = {
    "ridge": Ridge(),
    "ols": LinearRegression(),
    "tree": DecisionTreeRegressor(max_depth=3, random_state=0),
    "knn": KNeighborsRegressor(),
}


def regimes(n=240, d=3, seed=0):
    """Rows whose slope changes sign with x0."""
    random = np.random.RandomState(seed)
    X = random.standard_normal((n, d))
    y = np.where(X[:, 0] > 0, 3 * X[:, 1], -3 * X[:, 1] + 1)
    return X, y + 0.3 * random.standard_normal(n)


def regression(learner, *, n_experts=4, width=None, slack=None, prior=10.0, **changes):
    X, y = regimes()
    problem = Problem(
        X_gate=X,
        X=X,
        y=y[:, None],
        sample_weight=np.random.RandomState(1).uniform(0.5, 2.0, len(y)),
        n_experts=n_experts,
        width=width or n_experts,
        max_iter=30,
        tol=0.0,
    )
    problem = replace(problem, **changes)
    floor = (1e-3 if prior else 1e-8) * np.var(problem.y, axis=0)
    pool = make_pool(
        [learner] * n_experts,
        n_features=X.shape[1],
        likelihood=Gaussian().bound(prior, floor),
    )
    if slack is not None:
        pool.slack = slack
    return problem, pool


def classification(learner, *, n_experts=3, width=None):
    X, y = regimes()
    labels = np.digitize(y, [-1.0, 2.0])
    problem = Problem(
        X, X, labels, np.ones(len(y)), n_experts, width or n_experts, 30, 0.0
    )
    pool = make_pool(
        [learner] * n_experts,
        n_features=X.shape[1],
        likelihood=Categorical(),
        classes=np.arange(3),
    )
    return problem, pool


def bounds(problem, gate, pool, kind="kmeans"):
    state = begin(problem, gate, pool, initial(problem, kind, 0, 0))
    result = run(problem, state)
    return np.array([state.bound, *(info.bound for info in result.passes)]), result


# ---------------------------------------------------------------- invariants
@pytest.mark.parametrize(("start", "gate"), list(enumerate(GATES)), ids=str)
@pytest.mark.parametrize("width", [4, 2, 1])
@pytest.mark.parametrize("name", ["ridge", "ols"])
def test_bound_never_falls_for_grouped_pools(start, gate, width, name):
    kinds = sorted(STARTS)
    kind = kinds[(start + width) % len(kinds)]
    problem, pool = regression(LEARNERS[name], width=width, prior=0.0)
    found, _ = bounds(problem, gate, pool, kind)
    assert np.diff(found).min() >= -1e-12
    assert np.ptp(found) > 0


@pytest.mark.parametrize("alpha", [1.0, 100.0])
@pytest.mark.parametrize("width", [4, 2])
def test_bound_never_falls_under_strong_penalties(alpha, width):
    problem, pool = regression(Ridge(alpha=alpha), width=width)
    found, _ = bounds(problem, SoftmaxGate(alpha=0.1), pool)
    assert np.diff(found).min() >= -1e-12


@pytest.mark.parametrize("width", [3, 2])
@pytest.mark.parametrize("C", [1.0, 100.0, np.inf])
def test_bound_never_falls_for_logistic_experts(C, width):
    problem, pool = classification(LogisticRegression(C=C), width=width)
    found, _ = bounds(problem, SoftmaxGate(), pool)
    assert np.diff(found).min() >= -1e-12


@pytest.mark.parametrize("folds", [None, 3])
@pytest.mark.parametrize("width", [4, 2])
@pytest.mark.parametrize("name", ["tree", "knn", "ridge"])
def test_bound_never_falls_without_slack_for_any_learner(name, width, folds):
    problem, pool = regression(LEARNERS[name], width=width, max_iter=8)
    pool = EstimatorPool(pool.learners, likelihood=pool.likelihood)
    pool.slack = 0.0
    if folds:
        pool = CrossFitPool(pool, content_folds(problem, folds, 0))
    found, _ = bounds(problem, SoftmaxGate(), pool)
    assert np.diff(found).min() >= -1e-12


def test_a_refit_that_hurts_is_rejected():
    class Worse(EstimatorPool):
        def update(self, X, y, routing):
            other = copy.copy(self)
            other.shift = 100.0
            return other

        def predict(self, X, routing):
            return super().predict(X, routing) + getattr(self, "shift", 0.0)

        def swap(self, other, take):  # of noise scales alone
            assert not hasattr(other, "shift"), "no expert may be taken"
            return super().swap(other, take)

    problem, pool = regression(Ridge(), slack=0.0)
    pool = Worse(pool.learners, likelihood=pool.likelihood)
    pool.slack = 0.0
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "tree", 0, 0))
    after, info = step(problem, state)
    assert info.experts_accepted == 0
    assert after.bound >= state.bound


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_a_dead_expert_is_given_the_rows_explained_worst(form):
    rng, n = np.random.default_rng(0), 240
    weight = rng.integers(1, 4, size=n).astype(float)
    problem = replace(regression(Ridge())[0], sample_weight=weight)
    table = rng.dirichlet(np.ones(4), size=n)
    table[:, [2, 3]] = 0.0  # experts 2 and 3 are dead
    resp = Routing.from_dense(table / table.sum(axis=1, keepdims=True))
    if form == "sparse":
        indices = np.tile([[1, 0]], (n, 1))
        indices[::3] = [2, 0]
        weights = np.where(indices == 2, 0.0, 1.0)
        resp = Routing(indices, weights / weights.sum(axis=1, keepdims=True), 4)
    joint = rng.normal(size=resp.shape)
    terms = Terms(joint, joint[:, :, None], np.zeros_like(joint))
    state = State(None, None, resp, terms, 0.0)
    found = revived(problem, state).resp.to_csr().toarray()

    order = np.argsort(logsumexp(joint, axis=1))
    worst = order[np.cumsum(weight[order]) <= weight.sum() / 8]
    assert worst.size > 5
    expected = resp.to_csr().toarray()
    expected[worst] = np.eye(4)[2]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    nobody = replace(state, resp=Routing.from_dense(np.full((n, 4), 0.25)))
    assert revived(problem, nobody) is nobody


def test_returned_model_is_the_best_pass():
    problem, pool = regression(
        DecisionTreeRegressor(max_depth=6, max_features=1), slack=1e9, max_iter=10
    )
    found, result = bounds(problem, SoftmaxGate(), pool)
    assert np.diff(found).min() < 0  # so that best and last differ
    assert result.bound == found[1:].max()
    again = resume(problem, result.gate, result.pool)
    assert again.bound == pytest.approx(result.bound, abs=1e-12)


def test_step_leaves_its_input_alone():
    problem, pool = regression(Ridge(), width=2)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "kmeans", 0, 0))
    coef, gate = state.pool.coef.copy(), state.gate.coef_.copy()
    first, _ = step(problem, state)
    second, _ = step(problem, state)
    np.testing.assert_array_equal(state.pool.coef, coef)
    np.testing.assert_array_equal(state.gate.coef_, gate)
    assert first.bound == second.bound


def test_responsibilities_sum_to_one_and_respect_the_width():
    problem, pool = regression(Ridge(), width=2)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "random", 0, 0))
    for _ in range(3):
        state, _ = step(problem, state)
        np.testing.assert_allclose(state.resp.weights.sum(axis=1), 1.0)
        assert state.resp.shape[1] == 2
        assert (state.resp.indices[:, 0] != state.resp.indices[:, 1]).all()


def test_sparse_bound_is_below_the_dense_likelihood_of_the_same_model():
    problem, pool = regression(Ridge(), width=2)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "kmeans", 0, 0))
    state, _ = step(problem, state)
    dense = resume(replace(problem, width=4), state.gate, state.pool)
    assert state.bound <= dense.bound + 1e-12


def test_permuting_the_experts_permutes_the_model():
    problem, pool = regression(Ridge(), width=4)
    start = initial(problem, "kmeans", 0, 0)
    order = np.array([2, 0, 3, 1])
    shuffled = Routing.from_dense(start.weights[:, order])
    one = run(problem, begin(problem, SoftmaxGate(), pool, start))
    two = run(problem, begin(problem, SoftmaxGate(), pool, shuffled))
    assert one.bound == pytest.approx(two.bound, abs=1e-9)
    np.testing.assert_allclose(one.pool.coef[order], two.pool.coef, atol=1e-6)
    np.testing.assert_allclose(one.pool.scale[order], two.pool.scale, atol=1e-6)


@pytest.mark.parametrize("kind", sorted(STARTS))
@pytest.mark.parametrize("width", [4, 2])
def test_integer_weights_equal_repeated_rows(kind, width):
    base, pool = regression(Ridge(), width=width, max_iter=5)
    times = np.random.RandomState(0).randint(1, 4, len(base.y))
    weighted = replace(base, sample_weight=times.astype(float))
    X, y = np.repeat(base.X, times, axis=0), np.repeat(base.y, times, axis=0)
    repeated = replace(base, X=X, X_gate=X, y=y, sample_weight=np.ones(len(y)))
    one, _ = bounds(weighted, SoftmaxGate(), pool, kind)
    two, _ = bounds(repeated, SoftmaxGate(), pool, kind)
    np.testing.assert_allclose(one, two, atol=1e-8)


class Clone(Ridge):
    """A ridge that the grouped pool does not know: its clones have slack."""


def test_integer_weights_equal_repeated_rows_where_refits_may_be_rejected():
    base, pool = regression(Clone(alpha=30.0), width=4, max_iter=20)
    assert pool.slack > 0
    random = np.random.RandomState(0)
    times = random.randint(1, 4, len(base.y))
    weighted = replace(base, sample_weight=times.astype(float))
    rows = random.permutation(np.repeat(np.arange(len(base.y)), times))
    X, y = base.X[rows], base.y[rows]
    repeated = replace(base, X=X, X_gate=X, y=y, sample_weight=np.ones(len(y)))
    one, _ = bounds(weighted, SoftmaxGate(), pool)
    two, _ = bounds(repeated, SoftmaxGate(), pool)
    np.testing.assert_allclose(one, two, atol=1e-8)


@pytest.mark.parametrize("kind", sorted(STARTS))
def test_starts_depend_on_content_not_on_order(kind):
    problem, _ = regression(Ridge(), width=4)
    order = np.random.RandomState(0).permutation(len(problem.y))
    X = problem.X[order]
    shuffled = replace(
        problem,
        X=X,
        X_gate=X,
        y=problem.y[order],
        sample_weight=problem.sample_weight[order],
    )
    one = initial(problem, kind, 0, 7).to_csr().toarray()[order]
    two = initial(shuffled, kind, 0, 7).to_csr().toarray()
    np.testing.assert_allclose(one, two, atol=1e-9)


@pytest.mark.parametrize("kind", sorted(STARTS))
@pytest.mark.parametrize("width", [6, 2, 1])
def test_starts_leave_no_expert_empty(kind, width):
    problem, _ = regression(Ridge(), n_experts=6, width=width)
    start = initial(problem, kind, 0, 0)
    np.testing.assert_allclose(start.weights.sum(axis=1), 1.0)
    assert (start.load() > 0).all()


@pytest.mark.parametrize("kind", sorted(STARTS))
def test_a_single_expert_gets_every_row(kind):
    problem, _ = regression(Ridge(), n_experts=1)
    start = initial(problem, kind, 0, 0)
    np.testing.assert_array_equal(start.to_csr().toarray(), 1.0)


# ---------------------------------------------------------------- identities
def test_one_expert_is_its_learner():
    problem, pool = regression(Ridge(alpha=2.0), n_experts=1, prior=0.0)
    _, result = bounds(problem, SoftmaxGate(), pool)
    ridge = Ridge(alpha=2.0).fit(
        problem.X, problem.y[:, 0], sample_weight=problem.sample_weight
    )
    np.testing.assert_allclose(result.pool.coef[0, 0], ridge.coef_, rtol=1e-9)
    error = problem.y[:, 0] - ridge.predict(problem.X)
    sigma = np.sqrt(np.average(error**2, weights=problem.sample_weight))
    expected = np.average(
        norm.logpdf(error, scale=sigma), weights=problem.sample_weight
    )
    assert result.bound == pytest.approx(expected, abs=1e-10)


def test_constant_gate_and_intercepts_are_a_gaussian_mixture():
    random = np.random.RandomState(0)
    y = np.concatenate([random.normal(-2, 0.5, 150), random.normal(1, 1.0, 250)])
    X = np.zeros((len(y), 1))
    problem = Problem(X, X, y[:, None], np.ones(len(y)), 2, 2, 1000, 1e-13)
    pool = make_pool(
        [LinearRegression()] * 2,
        n_features=1,
        likelihood=Gaussian().bound(0.0, np.array([1e-8])),
    )
    labels = KMeans(2, n_init=1, random_state=0).fit_predict(y[:, None])
    start = Routing.from_labels(labels, 2)
    ours = run(problem, begin(problem, ConstantGate(), pool, start))
    theirs = GaussianMixture(2, tol=1e-13, max_iter=1000, reg_covar=0.0).fit(y[:, None])
    assert ours.bound == pytest.approx(theirs.score(y[:, None]), abs=1e-7)
    order = np.argsort(ours.pool.intercept[:, 0])
    reference = np.argsort(theirs.means_[:, 0])
    np.testing.assert_allclose(
        ours.pool.intercept[order, 0], theirs.means_[reference, 0], atol=1e-4
    )
    np.testing.assert_allclose(
        np.exp(ours.gate.log_weights_)[order], theirs.weights_[reference], atol=1e-4
    )
    np.testing.assert_allclose(
        ours.pool.scale[order, 0] ** 2,
        theirs.covariances_[reference, 0, 0],
        atol=1e-4,
    )


def test_bound_is_the_log_likelihood_by_hand():
    X = np.array([[0.0], [1.0]])
    y = np.array([[0.0], [2.0]])
    problem = Problem(X, X, y, np.array([1.0, 3.0]), 2, 2, 1, 0.0)
    gate = SoftmaxGate(alpha=0).fit(X, np.array([[0.75, 0.25], [0.25, 0.75]]))
    pool = make_pool(
        [LinearRegression()] * 2,
        n_features=1,
        likelihood=Gaussian().bound(0.0, np.zeros(1)),
    )
    pool.coef = np.array([[[0.0]], [[2.0]]])
    pool.intercept = np.array([[0.0], [0.5]])
    pool.scale = np.array([[1.0], [0.5]])
    state = resume(problem, gate, pool)
    g = np.exp(gate.log_proba(X))
    p0 = g[0, 0] * norm.pdf(0, 0, 1) + g[0, 1] * norm.pdf(0, 0.5, 0.5)
    p1 = g[1, 0] * norm.pdf(2, 0, 1) + g[1, 1] * norm.pdf(2, 2.5, 0.5)
    assert state.bound == pytest.approx((np.log(p0) + 3 * np.log(p1)) / 4, abs=1e-12)
    expected = g[0, 0] * norm.pdf(0, 0, 1) / p0
    assert state.resp.weights[0, 0] == pytest.approx(expected, abs=1e-12)


def test_convergence_stops_and_says_so():
    problem, pool = regression(Ridge(), tol=1e-3, max_iter=500)
    _, result = bounds(problem, SoftmaxGate(), pool)
    gains = [info.gain for info in result.passes]
    assert result.converged
    assert gains[-1] <= 1e-3
    assert min(gains[:-1]) > 1e-3
    problem = replace(problem, max_iter=1)
    _, result = bounds(problem, SoftmaxGate(), pool)
    assert not result.converged
    assert result.n_iter == 1


def test_watch_can_stop_a_run():
    problem, pool = regression(Ridge())
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "tree", 0, 0))
    seen = []

    def watch():
        return lambda info, state: seen.append(info.n_pass) or len(seen) == 3

    result = run(problem, state, watch)
    assert seen == [1, 2, 3]
    assert result.n_iter == 3
    assert not result.converged


def test_expect_keeps_the_best_candidates():
    problem, pool = regression(Ridge(), width=4)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "kmeans", 0, 0))
    entries = [(state.resp, state.terms)]
    narrow = expect(replace(problem, width=2), state.gate, state.pool, entries)
    joint = state.terms.log_gate + state.terms.log_lik
    best = np.sort(joint, axis=1)[:, :-3:-1]
    np.testing.assert_allclose(narrow.terms.log_gate + narrow.terms.log_lik, best)
    assert narrow.bound <= state.bound


def test_expect_in_blocks_of_rows(monkeypatch):
    problem, pool = regression(Ridge(), width=2)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "kmeans", 0, 0))
    whole, _ = step(problem, state)
    monkeypatch.setattr(_engine, "BLOCK_ROWS", 7)
    blocks, _ = step(problem, state)
    assert blocks.bound == pytest.approx(whole.bound, abs=1e-12)
    for name in ("indices", "weights"):
        found = getattr(blocks.resp, name), getattr(whole.resp, name)
        np.testing.assert_allclose(*found, atol=1e-12)
    np.testing.assert_allclose(blocks.terms.values, whole.terms.values)


# -------------------------------------------------------------- cross-fitting
def test_folds_are_balanced_and_keep_equal_rows_together():
    problem, _ = regression(Ridge())
    folds = content_folds(problem, 3, 0)
    assert np.ptp(np.bincount(folds)) <= 1
    X, y = np.repeat(problem.X, 2, axis=0), np.repeat(problem.y, 2, axis=0)
    twice = replace(problem, X=X, X_gate=X, y=y, sample_weight=np.ones(len(y)))
    doubled = content_folds(twice, 3, 0)
    np.testing.assert_array_equal(doubled[::2], doubled[1::2])


def test_rounding_does_not_part_equal_rows():
    random = np.random.RandomState(0)
    X = random.standard_normal((1003, 30))
    rows = np.repeat(np.arange(1003), random.randint(1, 4, 1003))
    X, y = X[rows], random.standard_normal((1003, 1))[rows]
    problem = Problem(X, X, y, np.ones(len(y)), 2, 2, 1, 0.0)
    for seed in range(20):
        folds = content_folds(problem, 3, seed)
        assert len(np.unique(np.column_stack([rows, folds]), axis=0)) == 1003


def test_cross_fitted_answers_come_from_models_blind_to_the_fold():
    problem, pool = regression(DecisionTreeRegressor(random_state=0), n_experts=2)
    folds = content_folds(problem, 3, 0)
    crossed = CrossFitPool(pool, folds)
    labels = (problem.X[:, 0] > 0).astype(int)
    routing = Routing.from_labels(labels, 2)
    answer = crossed.fit(problem.X, problem.y, routing).evaluate(
        problem.X, problem.y, routing
    )
    for fold in range(3):
        for k in range(2):
            train = (folds != fold) & (labels == k)
            test = (folds == fold) & (labels == k)
            tree = DecisionTreeRegressor(random_state=0)
            tree.fit(problem.X[train], problem.y[train])
            expected = tree.predict(problem.X[test])
            np.testing.assert_allclose(answer[test, 0, 0], expected)


def test_cross_fitting_does_not_believe_what_a_tree_memorised():
    problem, pool = regression(DecisionTreeRegressor(random_state=0), n_experts=2)
    start = initial(problem, "kmeans", 0, 0)
    seen = begin(problem, SoftmaxGate(), pool, start)
    blind = begin(
        problem, SoftmaxGate(), CrossFitPool(pool, content_folds(problem, 3, 0)), start
    )
    assert blind.bound < seen.bound - 0.5
    assert (blind.pool.scale > 2 * seen.pool.scale).all()


def test_finished_pool_is_refitted_on_all_rows_with_out_of_fold_scales():
    problem, pool = regression(DecisionTreeRegressor(random_state=0), n_experts=2)
    crossed = CrossFitPool(pool, content_folds(problem, 3, 0))
    state = begin(problem, SoftmaxGate(), crossed, initial(problem, "tree", 0, 0))
    mass = state.resp.scaled(problem.sample_weight)
    final = state.pool.finished(problem.X, problem.y, mass)
    fresh = EstimatorPool(pool.learners, likelihood=pool.likelihood)
    fresh.fit(problem.X, problem.y, mass)
    np.testing.assert_array_equal(final.scale, state.pool.scale)
    np.testing.assert_array_equal(
        final.predict(problem.X, state.resp), fresh.predict(problem.X, state.resp)
    )


@pytest.mark.parametrize("width", [3, 2])
def test_cross_fitted_classification_runs(width):
    problem, pool = classification(DecisionTreeClassifier(random_state=0), width=width)
    crossed = CrossFitPool(pool, content_folds(problem, 3, 0))
    found, result = bounds(problem, SoftmaxGate(), crossed)
    assert np.isfinite(found).all()
    assert result.bound == found[1:].max()
