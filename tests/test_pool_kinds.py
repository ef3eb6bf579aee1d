"""Kinds of pools: grouped answers equal clones', weights, densities, registry."""

import copy
import math

import numpy as np
import pytest
from _cases import everyone, gaussian
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.stats import norm
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe._learners import MIN_RESPONSIBILITY
from skmoe.experts import (
    EstimatorPool,
    LinearPool,
    LogisticPool,
    _registry,
    make_pool,
    register_pool,
)
from skmoe.experts._base import PROBABILITY_FLOOR, floored, share
from skmoe.experts._estimator_pool import resample, summable
from skmoe.likelihoods import Categorical
from skmoe.routing import Routing

N, D, K = 90, 4, 3
EXACT = LogisticRegression(tol=1e-10, max_iter=5000)


def regression(pool, learner, q=1, **options):
    return pool([learner] * K, likelihood=gaussian(q), **options)


def classification(pool, learner, n_classes=3, **options):
    options = {"classes": np.arange(n_classes), **options}
    return pool([learner] * K, likelihood=Categorical(), **options)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(N, D))


@pytest.fixture
def Y(X):
    rng = np.random.default_rng(1)
    return X @ rng.normal(size=(D, 2)) + 3.0 + rng.normal(size=(N, 2))


@pytest.fixture
def labels(X):
    rng = np.random.default_rng(2)
    return np.argmax(X @ rng.normal(size=(D, 3)) + rng.gumbel(size=(N, 3)), axis=1)


def shares(kind, seed=3):
    """Return a routing of sample weights; its parts teach any learner, or are 0."""
    rng = np.random.default_rng(seed)
    weight = rng.random(N) + 0.5
    if kind == "hard":
        routing = Routing.from_labels(rng.integers(0, K, size=N), K)
        return routing.scaled(weight)
    part = rng.uniform(0.15, 0.85, size=N)
    part[rng.random(N) < 0.4] = 1.0
    indices = np.array([rng.permutation(K)[:2] for _ in range(N)])
    weights = np.column_stack([part, 1.0 - part]) * weight[:, None]
    if kind == "sparse":
        indices = np.where(weights == 0, -1, indices)
        return Routing(indices, weights, K)
    table = np.zeros((N, K))
    np.put_along_axis(table, indices, weights, axis=1)
    return Routing.from_dense(table)


@pytest.fixture(params=["hard", "sparse", "dense"])
def routing(request):
    return shares(request.param)


def everywhere(n=N):
    """Return the routing that asks every expert about every row."""
    return everyone(n, K)


def answers(pool, X):
    return pool.predict(X, everywhere(X.shape[0]))


def without(routing, expert):
    """Return the dense routing whose share of one expert is empty."""
    table = routing.to_csr().toarray()
    table[:, expert] = 0.0
    return Routing.from_dense(table)


POOLS = {
    "linear": lambda: regression(LinearPool, Ridge()),
    "logistic": lambda: classification(LogisticPool, LogisticRegression()),
    "clones of regressors": lambda: regression(
        EstimatorPool, Ridge(solver="sparse_cg", tol=1e-12)
    ),
    "clones of classifiers": lambda: classification(EstimatorPool, EXACT),
}


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def pool(request):
    return request.param()


@pytest.fixture
def target(pool, Y, labels):
    """Return the y that the pool is made for."""
    return Y[:, :1] if pool.classes is None else labels


# ------------------------------------------------------------------------ share
def test_share_by_hand():
    weights = np.array([[1.0, 1.0], [0.001, 0.999], [0.0, 0.0], [3.0, 1.0]])
    total = weights.sum(axis=1)
    for routing in (
        Routing.from_dense(weights),
        Routing(np.array([[0, 1]] * 4), weights, 2),
    ):
        rows, mass, factor = share(routing, 0, total)
        assert rows.tolist() == [0, 3]  # 0.001 of a row is left out
        assert mass.tolist() == [1.0, 3.0]
        assert factor == (2.0 + 4.0) / (1.0 + 3.0)  # weights sum to what rows weigh
        rows, mass, _ = share(routing, 1, total)
        assert rows.tolist() == [0, 1, 3]
    rows, _, factor = share(Routing.from_dense(weights[:, :1] * 0), 0, total)
    assert rows.size == 0
    assert factor == 1.0


# ------------------------------------------------------- grouped equals clones
REGRESSORS = [
    Ridge(),
    Ridge(alpha=30.0),
    Ridge(alpha=0.0),
    Ridge(alpha=2.0, fit_intercept=False),
    LinearRegression(),
    LinearRegression(fit_intercept=False),
]


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("learner", REGRESSORS, ids=str)
def test_linear_pool_equals_clones(learner, q, X, Y, routing):
    y = Y[:, :q]
    clones = regression(EstimatorPool, learner, q).fit(X, y, routing)
    grouped = regression(LinearPool, learner, q).fit(X, y, routing)
    assert answers(grouped, X).shape == (N, K, q)
    assert_allclose(answers(grouped, X), answers(clones, X), rtol=1e-8, atol=1e-9)
    for ours, theirs in zip(grouped.estimators(), clones.estimators(), strict=True):
        assert type(ours) is type(theirs)
        assert_allclose(ours.coef_, theirs.coef_, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("learner", REGRESSORS, ids=str)
def test_linear_experts_have_the_attributes_of_clones(learner, q, X, Y):
    routing = shares("sparse")
    clones = regression(EstimatorPool, learner, q).fit(X, Y[:, :q], routing)
    grouped = regression(LinearPool, learner, q).fit(X, Y[:, :q], routing)
    for ours, theirs in zip(grouped.estimators(), clones.estimators(), strict=True):
        for name in ("coef_", "intercept_"):
            found, expected = getattr(ours, name), getattr(theirs, name)
            assert np.shape(found) == np.shape(expected)
            assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


def test_linear_pool_takes_mixed_penalties(X, Y, routing):
    learners = [Ridge(alpha=5.0), LinearRegression(), Ridge(fit_intercept=False)]
    made = [
        kind(learners, likelihood=gaussian()).fit(X, Y[:, :1], routing)
        for kind in (LinearPool, EstimatorPool)
    ]
    assert_allclose(answers(made[0], X), answers(made[1], X), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_linear_pool_gives_the_minimum_norm(X, Y, routing, fit_intercept):
    twins = np.column_stack([X, X[:, 0], np.ones(N)])  # a twin and a constant
    learner = LinearRegression(fit_intercept=fit_intercept)
    clones = regression(EstimatorPool, learner).fit(twins, Y[:, :1], routing)
    grouped = regression(LinearPool, learner).fit(twins, Y[:, :1], routing)
    assert_allclose(answers(grouped, twins), answers(clones, twins), atol=1e-7)
    for k in range(K):
        expected = clones.estimators()[k].coef_
        assert_allclose(grouped.coef[k, 0], expected, atol=1e-7)


def test_linear_pool_fits_more_features_than_rows(Y):
    wide = np.random.default_rng(5).normal(size=(N, 60))
    routing = shares("hard")  # about thirty rows an expert
    learner = LinearRegression()
    clones = regression(EstimatorPool, learner).fit(wide, Y[:, :1], routing)
    grouped = regression(LinearPool, learner).fit(wide, Y[:, :1], routing)
    assert_allclose(answers(grouped, wide), answers(clones, wide), atol=1e-6)


def test_linear_pool_keeps_rows_of_tiny_responsibility(X, Y):
    table = np.random.default_rng(6).random((N, K))
    table[::2, 0] = 1e-4
    routing = Routing.from_dense(table / table.sum(axis=1, keepdims=True))
    y = 100 * Y[:, :1]
    y[::2] += 1e6
    grouped = regression(LinearPool, Ridge(alpha=3.0)).fit(X, y, routing)
    mass = routing.weights[:, 0]
    kept = mass > MIN_RESPONSIBILITY
    weights = mass * kept.sum() / mass[kept].sum()
    expected = Ridge(alpha=3.0).fit(X, y[:, 0], weights).predict(X)
    assert_allclose(answers(grouped, X)[:, 0, 0], expected, rtol=1e-8)


CLASSIFIERS = [EXACT, LogisticRegression(C=0.05, tol=1e-10, max_iter=5000)]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("learner", CLASSIFIERS, ids=str)
def test_logistic_pool_equals_clones(learner, n_classes, X, labels, routing):
    y = np.minimum(labels, n_classes - 1)
    clones = classification(EstimatorPool, learner, n_classes).fit(X, y, routing)
    grouped = classification(LogisticPool, learner, n_classes).fit(X, y, routing)
    found = answers(grouped, X)
    assert_allclose(found.sum(axis=2), 1.0, rtol=1e-12)
    # Clones are floored; the tolerance is half of what scikit-learn's solver leaves.
    assert_allclose(
        floored(found.reshape(N * K, -1)).reshape(found.shape),
        answers(clones, X),
        atol=5e-6,
    )
    for ours, theirs in zip(grouped.estimators(), clones.estimators(), strict=True):
        assert type(ours) is type(theirs)
        assert_array_equal(ours.classes_, theirs.classes_)
        assert ours.coef_.shape == theirs.coef_.shape
        proba = theirs.predict_proba(X)
        assert_allclose(ours.predict_proba(X), proba, atol=5e-6)


def test_logistic_pool_without_penalty(X, labels, routing):
    y = (labels > 0).astype(int)
    learner = LogisticRegression(C=np.inf, tol=1e-10, max_iter=5000)
    clones = classification(EstimatorPool, learner, 2).fit(X, y, routing)
    grouped = classification(LogisticPool, learner, 2).fit(X, y, routing)
    for ours, theirs in zip(grouped.estimators(), clones.estimators(), strict=True):
        assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)


def test_logistic_pool_equals_clones_whatever_the_units(X, labels, routing):
    moved = X * [100.0, 0.01, 1.0, 1.0] + [0.0, 0.0, 20.0, 0.0]
    learner = LogisticRegression(tol=1e-12, max_iter=10000, solver="newton-cholesky")
    clones = classification(EstimatorPool, learner).fit(moved, labels, routing)
    grouped = classification(LogisticPool, learner).fit(moved, labels, routing)
    for ours, theirs in zip(grouped.estimators(), clones.estimators(), strict=True):
        found, proba = ours.predict_proba(moved), theirs.predict_proba(moved)
        assert_allclose(found, proba, atol=5e-5)


@pytest.mark.parametrize("learner", [EXACT], ids=str)
def test_a_class_that_a_share_misses(learner, X, labels, routing):
    """Expert 0 meets classes 0 and 2 only, so its fit is a binary one."""
    table = routing.to_csr().toarray()
    table[labels == 1, 0] = 0.0
    routing = Routing.from_dense(table)
    clones = classification(EstimatorPool, learner).fit(X, labels, routing)
    grouped = classification(LogisticPool, learner).fit(X, labels, routing)
    for made in (clones, grouped):
        proba = answers(made, X)
        assert_allclose(proba.sum(axis=2), 1.0, rtol=1e-12)
        assert_allclose(proba[:, 0, 1], PROBABILITY_FLOOR / 3, rtol=1e-3)
        expert = made.estimators()[0]
        assert expert.classes_.tolist() == [0, 2]
        found = expert.predict_proba(X)
        assert_allclose(proba[:, 0][:, [0, 2]], found, atol=PROBABILITY_FLOOR)
    assert_allclose(answers(grouped, X)[:, 0], answers(clones, X)[:, 0], atol=5e-6)


@pytest.mark.parametrize("kind", [EstimatorPool, LogisticPool])
@pytest.mark.parametrize(
    "classes",
    [np.array(["a", "b", "c"]), np.array([-1, 5, 9]), np.array([0.0, 1.0, 2.0])],
    ids=["text", "integers", "floats"],
)
def test_a_share_of_a_single_class(kind, classes, X, labels):
    routing = Routing.from_labels((labels > 0).astype(int), K)
    made = classification(kind, EXACT, classes=classes).fit(X, labels, routing)
    proba = answers(made, X)[:, 0]
    floor = PROBABILITY_FLOOR / 3
    assert_allclose(proba, [[1 - 2 * floor, floor, floor]] * N, rtol=1e-3)
    assert_allclose(proba.sum(axis=1), 1.0, rtol=1e-12)
    expert = made.estimators()[0]
    assert isinstance(expert, DummyClassifier)
    assert set(expert.predict(X)) == {classes[0]}
    assert made.estimators()[1].classes_.tolist() == classes[1:].tolist()


def test_clones_are_floored(X, labels, routing):
    made = classification(EstimatorPool, DecisionTreeClassifier(random_state=0))
    made.fit(X, labels, routing)
    proba = answers(made, X)
    floor = PROBABILITY_FLOOR / 3
    assert floor * (1 - 1e-3) < proba.min() < floor
    assert_allclose(proba.sum(axis=2), 1.0, rtol=1e-12)
    density = made.log_likelihood(X, labels, everywhere())
    assert density.min() > np.log(floor) - 1e-3
    raw = np.array([[1.0, 0.0], [0.6, 0.4]])
    half = PROBABILITY_FLOOR / 2
    assert_allclose(floored(raw), [[1 / (1 + half), half / (1 + half)], [0.6, 0.4]])


# -------------------------------------------------------------- pools of learners
def test_experts_predict_what_the_pool_predicts(pool, target, X, routing):
    proba_or_mean = answers(pool.fit(X, target, routing), X)
    experts = pool.estimators()
    assert len(experts) == K
    for k, expert in enumerate(experts):
        assert expert.n_features_in_ == D
        if pool.classes is None:
            found = expert.predict(X)[:, None]
            assert_allclose(found, proba_or_mean[:, k], rtol=1e-10)
        else:
            found = expert.predict_proba(X)
            found = floored(found) if isinstance(pool, EstimatorPool) else found
            assert_allclose(found, proba_or_mean[:, k], rtol=1e-8)


def test_evaluate_is_the_prediction_or_the_label_s_log_probability(
    pool, target, X, routing
):
    pool.fit(X, target, routing)
    values, answer = pool.evaluate(X, target, everywhere()), answers(pool, X)
    if pool.classes is None:
        assert_array_equal(values, answer)
        return
    assert values.shape == (N, K, 1)
    expected = np.log(answer[np.arange(N), :, target])
    assert_allclose(values[:, :, 0], expected, rtol=1e-9)
    density = pool.log_likelihood(X, target, everywhere())
    assert_array_equal(density, values[:, :, 0])


def options_of(pool):
    names = ("likelihood", "classes", "seeds", "n_jobs")
    options = {name: getattr(pool, name) for name in names}
    return {"estimators": pool.learners, **options}


def test_empty_share_learns_all_rows_then_keeps(pool, target, X, routing):
    lonely = without(routing, 1)
    everyone = np.zeros((N, K))
    everyone[:, 1] = lonely.weights.sum(axis=1)  # all rows, with their own weights
    expected = type(pool)(**options_of(pool))
    expected.fit(X, target, Routing.from_dense(everyone))
    found = answers(pool.fit(X, target, lonely), X)
    assert_allclose(found[:, 1], answers(expected, X)[:, 1], rtol=1e-6, atol=1e-7)
    other = pool.update(X, target, without(shares("dense", seed=8), 1))
    changed = answers(other, X)
    assert_array_equal(changed[:, 1], found[:, 1])
    assert np.max(np.abs(changed[:, 0] - found[:, 0])) > 1e-3


def test_integer_weights_are_repeated_rows(pool, target, X):
    counts = np.random.default_rng(4).integers(0, 3, size=N)
    hard = Routing.from_labels(np.random.default_rng(5).integers(0, K, size=N), K)
    weighted = answers(pool.fit(X, target, hard.scaled(counts.astype(float))), X)
    again = np.repeat(np.arange(N), counts)
    repeated = type(pool)(**options_of(pool))
    repeated.fit(X[again], target[again], hard.take(again))
    assert_allclose(weighted, answers(repeated, X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix])
def test_csr_equals_dense(pool, target, X, routing, form):
    X = X * (np.abs(X) > 0.5)
    expected = answers(pool.fit(X, target, routing), X)
    other = type(pool)(**options_of(pool)).fit(form(X), target, routing)
    assert_allclose(answers(other, form(X)), expected, rtol=1e-6, atol=1e-6)
    values = other.evaluate(form(X), target, routing)
    expected = pool.evaluate(X, target, routing)
    assert_allclose(values, expected, rtol=1e-5, atol=1e-5)
    moved = other.update(form(X), target, shares("sparse", seed=8))
    expected = answers(pool.update(X, target, shares("sparse", seed=8)), X)
    assert_allclose(answers(moved, form(X)), expected, rtol=1e-5, atol=1e-5)


def test_float32_features(pool, target, X, routing):
    single = X.astype(np.float32)
    found = answers(pool.fit(single, target, routing), single)
    expected = answers(type(pool)(**options_of(pool)).fit(X, target, routing), X)
    assert_allclose(found, expected, rtol=1e-2, atol=1e-2)
    if isinstance(pool, LinearPool | LogisticPool):
        assert found.dtype == np.float32


def test_update_of_a_grouped_pool_reaches_the_fit(X, labels, Y):
    start, goal = shares("dense", seed=8), shares("dense")
    exact = regression(LinearPool, Ridge()).fit(X, Y, goal)
    moved = regression(LinearPool, Ridge()).fit(X, Y, start).update(X, Y, goal)
    assert_allclose(answers(moved, X), answers(exact, X), rtol=1e-12)
    exact = classification(LogisticPool, EXACT).fit(X, labels, goal)
    moved = classification(LogisticPool, EXACT).fit(X, labels, start)
    for _ in range(20):
        moved = moved.update(X, labels, goal)
    assert_allclose(answers(moved, X), answers(exact, X), atol=1e-5)


def test_logistic_update_does_not_lower_its_objective(X, labels):
    pool = classification(LogisticPool, LogisticRegression(C=0.7))
    pool.fit(X, labels, shares("dense", seed=20))

    def objective(pool, routing):
        row_mass, values = routing.weights.sum(axis=1), []
        density = pool.evaluate(X, labels, everywhere())[:, :, 0]
        for k in range(K):
            rows, mass, factor = share(routing, k, row_mass)
            penalty = 0.5 * np.sum(pool.coef[k] ** 2)
            values.append(0.7 * factor * mass @ density[rows, k] - penalty)
        return np.array(values)

    for seed in range(21, 27):
        routing = shares("dense" if seed % 2 else "sparse", seed=seed)
        other = pool.update(X, labels, routing)
        assert (objective(other, routing) >= objective(pool, routing) - 1e-9).all()
        pool = other


# ------------------------------------------------------- weights and resampling
def test_resample_of_unit_weights_is_no_resampling():
    assert resample(np.ones(5), 0) is None
    assert resample(np.ones(5) + 1e-12, 0) is None


@pytest.mark.parametrize("seed", range(20))
def test_resample_repeats_integer_weights(seed):
    weights = np.array([2.0, 0.0, 1.0, 3.0, 0.0, 5.0])
    expected = np.repeat(np.arange(6), weights.astype(int))
    assert_array_equal(resample(weights, seed), expected)


def test_resample_draws_floor_or_ceil_and_is_unbiased():
    rng = np.random.default_rng(0)
    weights = rng.gamma(1.0, size=12)
    weights[3] = 0.0
    weights *= 12 / weights.sum()
    counts = np.array(
        [np.bincount(resample(weights, seed), minlength=12) for seed in range(3000)]
    )
    assert (counts.sum(axis=1) == 12).all()
    assert (counts >= np.floor(weights)).all()
    assert (counts <= np.ceil(weights)).all()
    assert_allclose(counts.mean(axis=0), weights, atol=0.04)  # four standard errors
    assert_array_equal(resample(weights, 7), resample(weights, 7))


@pytest.mark.parametrize("unit", [1e-9, 0.05, 1e6])
def test_resample_reads_weights_of_another_unit_by_their_mean(unit):
    for seed in range(20):
        assert len(resample(unit * np.array([2.0, 1.0]), seed)) == 2


@pytest.mark.parametrize("learner", [KNeighborsRegressor(3), KNeighborsClassifier(3)])
@pytest.mark.parametrize("counted", [False, True], ids=["equal parts", "counts"])
def test_learners_without_sample_weight(learner, counted, X, Y, labels):
    counts = np.ones(N, dtype=int)
    if counted:
        counts = np.random.default_rng(4).integers(1, 3, size=N)
        routing = Routing.from_labels(np.arange(N) % K, K).scaled(1.0 * counts)
    else:  # two experts own half of a row each
        first = np.arange(N) % K
        indices = np.column_stack([first, (first + 1) % K])
        routing = Routing(indices, np.full((N, 2), 0.5), K)
    regressor = isinstance(learner, RegressorMixin)
    make, y = (regression, Y[:, :1]) if regressor else (classification, labels)
    found = answers(make(EstimatorPool, learner).fit(X, y, routing), X)
    table = routing.to_csr().toarray()
    for k in range(K):
        rows = np.repeat(np.arange(N), counts * (table[:, k] > 0))
        expert = clone(learner).fit(X[rows], y[rows])
        expected = expert.predict(X) if regressor else floored(expert.predict_proba(X))
        assert_allclose(found[:, k], expected)


def test_a_class_lost_in_resampling_is_not_fatal():
    """Discriminant analysis takes no weights and refuses a single class."""
    X = np.random.default_rng(0).normal(size=(20, 2))
    labels = np.array([0] * 17 + [1] * 3)
    weights = np.where(labels == 1, 0.004, 1.0)
    routing = Routing.from_dense(np.column_stack([weights, 1 - weights, 1 - weights]))
    lda = LinearDiscriminantAnalysis()
    made = classification(EstimatorPool, lda, 2, seeds=[1, 2, 3])
    proba = answers(made.fit(X, labels, routing), X)
    assert np.isfinite(proba).all()
    assert (proba[:, 0, 0] > 0.9).all()


class Recorder(RegressorMixin, BaseEstimator):
    """Remembers what it was fitted on."""

    def fit(self, X, y, sample_weight=None):
        self.seen_ = X, y, sample_weight
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X):
        return np.zeros(X.shape[0])


def test_clones_see_their_rows_and_mean_one_weights(X, Y, routing):
    made = regression(EstimatorPool, Recorder()).fit(X, Y[:, :1], routing)
    table = routing.to_csr().toarray()
    for k, expert in enumerate(made.estimators()):
        rows = np.flatnonzero(table[:, k] > 0)
        x, y, weights = expert.seen_
        assert_array_equal(x, X[rows])
        assert_array_equal(y, Y[rows, 0])
        expected = table[rows, k] * table[rows].sum() / table[rows, k].sum()
        assert_allclose(weights, expected, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-12, 1.0, 1e9])
def test_sums_of_weights_are_exact(factor):
    weights = factor * np.random.default_rng(0).uniform(1e-3, 3.0, size=999)
    found = summable(weights)
    assert_allclose(found, weights, rtol=1e-9)
    assert sum(found) == sum(found[::-1]) == math.fsum(found)
    single = weights.astype(np.float32)
    assert_array_equal(summable(single), single)
    assert summable(single).dtype == np.float32


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(StandardScaler(), Recorder()),
        make_pipeline(StandardScaler(), make_pipeline(StandardScaler(), Recorder())),
    ],
    ids=["flat", "nested"],
)
def test_pipelines_pass_weights_to_their_last_step(pipeline, X, Y, routing):
    made = regression(EstimatorPool, pipeline).fit(X, Y[:, :1], routing)
    plain = regression(EstimatorPool, Recorder()).fit(X, Y[:, :1], routing)
    for pipe, expert in zip(made.estimators(), plain.estimators(), strict=True):
        while isinstance(pipe, Pipeline):
            pipe = pipe[-1]
        assert_array_equal(pipe.seen_[2], expert.seen_[2])
        assert_allclose(pipe.seen_[0].mean(axis=0), 0.0, atol=1e-12)  # unweighted


def test_a_pipeline_is_the_pipeline_fitted_by_hand(X, Y):
    table = shares("dense").weights
    pipeline = make_pipeline(StandardScaler(), Ridge())
    made = regression(EstimatorPool, pipeline)
    found = answers(made.fit(X, Y[:, :1], Routing.from_dense(table)), X)
    for k in range(K):
        rows = table[:, k] > 0
        weights = table[rows, k] * table[rows].sum() / table[rows, k].sum()
        expert = make_pipeline(StandardScaler(), Ridge())
        expert.fit(X[rows], Y[rows, 0], ridge__sample_weight=weights)
        assert_allclose(found[:, k, 0], expert.predict(X), rtol=1e-10)


def test_data_frames_stay_data_frames(X, Y, routing):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    made = regression(EstimatorPool, Ridge()).fit(frame, Y[:, :1], routing)
    assert made.estimators()[0].feature_names_in_.tolist() == list("abcd")
    found = made.predict(frame, shares("sparse"))
    plain = regression(EstimatorPool, Ridge()).fit(X, Y[:, :1], routing)
    assert_allclose(found, plain.predict(X, shares("sparse")), rtol=1e-10)


# ---------------------------------------------------------------- seeds and jobs
@pytest.mark.parametrize(
    "learner",
    [RandomForestRegressor(n_estimators=5), RandomForestClassifier(n_estimators=5)],
    ids=["regressor", "classifier"],
)
def test_same_bits_for_any_number_of_jobs(learner, X, Y, labels):
    regressor = isinstance(learner, RegressorMixin)
    make, y = (regression, Y[:, :1]) if regressor else (classification, labels)
    found = []
    for n_jobs, seeds in ((1, [1, 2, 3]), (2, [1, 2, 3]), (1, [1, 2, 4])):
        made = make(EstimatorPool, learner, n_jobs=n_jobs, seeds=seeds)
        found.append(answers(made.fit(X, y, shares("dense")), X))
        assert [e.random_state for e in made.estimators()] == seeds
    assert_array_equal(found[0], found[1])
    assert_array_equal(found[0][:, :2], found[2][:, :2])
    assert (found[0][:, 2] != found[2][:, 2]).any()


def test_a_seed_of_the_users_own_is_kept(X, Y, routing):
    tree = DecisionTreeRegressor(random_state=42)
    unset = make_pipeline(StandardScaler(), DecisionTreeRegressor())
    learners = [tree, unset, tree]
    made = EstimatorPool(learners, likelihood=gaussian(), seeds=[7, 8, 9])
    experts = made.fit(X, Y[:, :1], routing).estimators()
    assert experts[0].random_state == experts[2].random_state == 42
    assert experts[1][-1].random_state == 8
    assert unset[-1].random_state is None  # the user's object is not touched


# -------------------------------------------------------------------- likelihood
@pytest.mark.parametrize("q", [1, 2])
def test_gaussian_density_is_scipys(q, X, Y):
    y, routing = Y[:, :q], shares("sparse")
    made = regression(LinearPool, Ridge(), q).fit(X, y, routing)
    made.scale = np.random.default_rng(0).random((K, q)) + 0.2
    found = made.log_likelihood(X, y, routing)
    means = answers(made, X)
    for (i, j), k in np.ndenumerate(routing.indices):
        expected = -np.inf
        if k >= 0:
            expected = norm.logpdf(y[i], means[i, k], made.scale[k]).sum()
        assert found[i, j] == pytest.approx(expected, rel=1e-12)
    dense = made.log_likelihood(X, y, everywhere())
    expected = norm.logpdf(y[:, None, :], means, made.scale).sum(axis=2)
    assert_allclose(dense, expected, rtol=1e-12)
    values = made.evaluate(X, y, routing)
    assert_array_equal(made.log_density(y, values, routing), found)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("prior", [0.0, 10.0])
def test_scales_are_the_stated_formula(kind, prior, X, Y):
    routing = shares(kind)
    values = np.random.default_rng(0).normal(size=(N, routing.shape[1], 2))
    found = gaussian(2, prior).scales(Y, values, routing)
    nk, squares = np.zeros(K), np.zeros((K, 2))
    for (i, j), k in np.ndenumerate(routing.indices):
        if k >= 0:
            nk[k] += routing.weights[i, j]
            squares[k] += routing.weights[i, j] * (Y[i] - values[i, j]) ** 2
    pooled = squares.sum(axis=0) / nk.sum()
    variance = (squares + prior * pooled) / (nk + prior)[:, None]
    assert found.shape == (K, 2)
    assert_allclose(found, np.sqrt(variance), rtol=1e-12)


def test_scales_floor_prior_and_empty_experts():
    y = np.array([[1.0], [-1.0], [0.0], [0.0]])
    routing = Routing.from_labels(np.array([0, 0, 1, 1]), K)
    zeros = np.zeros((4, 1, 1))
    # pooled variance 1/2: expert 0 has 1, expert 1 has 0, expert 2 has no rows
    plain = gaussian(prior=0.0, floor=0.04).scales(y, zeros, routing)
    assert_allclose(plain[:, 0] ** 2, [1.0, 0.04, 0.5])
    shrunk = gaussian(prior=2.0, floor=0.04).scales(y, zeros, routing)
    assert_allclose(shrunk[:, 0] ** 2, [3 / 4, 1 / 4, 1 / 2])


def test_rescale_maximises_the_likelihood(X, Y):
    routing = shares("dense")
    made = LinearPool([Ridge()] * K, likelihood=gaussian(2, prior=0.0))
    made.fit(X, Y, routing)
    values = made.evaluate(X, Y, routing)
    assert made.scale is None
    best = made.rescale(Y, values, routing)
    assert made.scale is None
    assert_array_equal(answers(best, X), answers(made, X))

    def total(pool):
        return np.sum(routing.weights * pool.log_density(Y, values, routing))

    for position in np.ndindex(K, 2):
        for factor in (0.98, 1.02):
            moved = copy.copy(best)
            moved.scale = best.scale.copy()
            moved.scale[position] *= factor
            assert total(moved) < total(best)


def test_rescale_leaves_classifiers_alone(X, labels, routing):
    made = classification(LogisticPool, EXACT).fit(X, labels, routing)
    values = made.evaluate(X, labels, routing)
    assert made.rescale(labels, values, routing) is made


# ------------------------------------------------------------------------ errors
class Failing(RegressorMixin, BaseEstimator):
    def fit(self, X, y):
        raise KeyError("boom")


class Silent(ClassifierMixin, Recorder):
    """Predicts NaN."""

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(X.shape[0], np.nan)

    def predict_proba(self, X):
        return np.full((X.shape[0], len(self.classes_)), np.nan)


def test_an_expert_that_raises_is_named(X, Y):
    learners = [Ridge(), Ridge(), Failing()]
    made = EstimatorPool(learners, likelihood=gaussian())
    routing = Routing.from_labels(np.repeat([0, 1, 2], [40, 43, 7]), K)
    message = r"Expert 2 \(Failing\(\)\) failed to fit on its 7 rows: KeyError: 'boom'"
    with pytest.raises(RuntimeError, match=message) as caught:
        made.fit(X, Y[:, :1], routing)
    assert isinstance(caught.value.__cause__, KeyError)


def test_an_expert_that_predicts_nan_is_named(X, Y, labels):
    routing = shares("hard")
    made = EstimatorPool([Ridge(), Silent(), Ridge()], likelihood=gaussian())
    made.fit(X, Y[:, :1], routing)
    message = r"Expert 1 \(Silent\(\)\) predicted NaN or infinity"
    with pytest.raises(ValueError, match=message):
        made.predict(X, routing)
    with pytest.raises(ValueError, match=message):
        made.evaluate(X, Y[:, :1], routing)
    made = EstimatorPool(
        [EXACT, Silent(), EXACT], likelihood=Categorical(), classes=np.arange(3)
    ).fit(X, labels, routing)
    with pytest.raises(ValueError, match=message):
        made.evaluate(X, labels, routing)


@pytest.mark.parametrize("kind", [LinearPool, EstimatorPool])
def test_a_bad_parameter_of_an_expert_is_named(kind, X, Y, routing):
    with pytest.raises(ValueError, match="'alpha' parameter of Ridge must be"):
        regression(kind, Ridge(alpha=-1.0)).fit(X, Y[:, :1], routing)


# ---------------------------------------------------------------------- counting
def test_parameters_by_hand(X, Y, labels, routing):
    made = regression(LinearPool, Ridge(), 2).fit(X, Y, routing)
    assert made.n_parameters == K * 2 * (D + 1)
    made = made.rescale(Y, made.evaluate(X, Y, routing), routing)
    assert made.n_parameters == K * 2 * (D + 1) + K * 2
    made = regression(LinearPool, Ridge(fit_intercept=False), 2).fit(X, Y, routing)
    assert made.n_parameters == K * 2 * D
    made = classification(LogisticPool, EXACT).fit(X, labels, routing)
    assert made.n_parameters == K * (3 - 1) * (D + 1)
    made = regression(EstimatorPool, DecisionTreeRegressor(max_leaf_nodes=5))
    assert made.fit(X, Y[:, :1], routing).n_parameters == K * 5
    made = regression(EstimatorPool, KNeighborsRegressor())
    with pytest.raises(TypeError, match="KNeighborsRegressor; aic and bic need"):
        _ = made.fit(X, Y[:, :1], routing).n_parameters


@pytest.mark.parametrize(
    ("grouped", "learner"),
    [
        (LinearPool, Ridge()),
        (LinearPool, Ridge(fit_intercept=False)),
        (LogisticPool, LogisticRegression()),
    ],
    ids=str,
)
def test_grouped_pools_count_what_clones_count(grouped, learner, X, Y, labels):
    routing = shares("sparse")
    make, y = (
        (regression, Y[:, :1]) if grouped is LinearPool else (classification, labels)
    )
    ours = make(grouped, learner).fit(X, y, routing)
    theirs = make(EstimatorPool, learner).fit(X, y, routing)
    assert ours.n_parameters == theirs.n_parameters


# ---------------------------------------------------------------------- registry
class OtherRidge(Ridge):
    """A subclass may do anything, so it is never treated as a plain Ridge."""


CHOICES = [
    ([Ridge(), Ridge(alpha=3)], LinearPool),
    ([Ridge(), LinearRegression(fit_intercept=False)], LinearPool),
    ([Ridge(positive=True)], EstimatorPool),
    ([LinearRegression(positive=True)], EstimatorPool),
    ([Ridge(alpha=[1.0, 2.0])], EstimatorPool),
    ([OtherRidge()], EstimatorPool),
    ([Ridge(), KNeighborsRegressor()], EstimatorPool),
    ([make_pipeline(StandardScaler(), Ridge())], EstimatorPool),
    ([LogisticRegression(), LogisticRegression(C=np.inf)], LogisticPool),
    ([LogisticRegression(solver="newton-cholesky")], LogisticPool),
    ([LogisticRegression(solver="saga")], EstimatorPool),
    ([LogisticRegression(solver="liblinear")], EstimatorPool),
    ([LogisticRegression(l1_ratio=0.5, solver="saga")], EstimatorPool),
    ([LogisticRegression(class_weight="balanced")], EstimatorPool),
    ([LogisticRegression(fit_intercept=False)], EstimatorPool),
    ([LogisticRegression(), DecisionTreeClassifier()], EstimatorPool),
]


@pytest.mark.parametrize(("learners", "expected"), CHOICES, ids=str)
def test_make_pool_chooses(learners, expected):
    options = {"likelihood": gaussian(), "seeds": [5] * len(learners), "n_jobs": 3}
    made = make_pool(learners, n_features=4, **options)
    assert type(made) is expected
    assert made.learners == learners
    assert (made.n_experts, made.seeds, made.n_jobs) == (len(learners), made.seeds, 3)
    assert made.seeds == [5] * len(learners)


def test_make_pool_leaves_wide_data_to_clones():
    made = make_pool([Ridge()], n_features=10**6, likelihood=gaussian())
    assert type(made) is EstimatorPool


def test_a_registered_pool_comes_first(monkeypatch):
    monkeypatch.setattr(_registry, "_POOLS", list(_registry._POOLS))

    @register_pool
    class Mine(LinearPool):
        @classmethod
        def supports(cls, estimator, n_features):
            return type(estimator) is Ridge and estimator.alpha == 7

    assert register_pool(Mine) is Mine  # twice is once
    assert _registry._POOLS.count(Mine) == 1
    options = {"n_features": 2, "likelihood": gaussian()}
    assert type(make_pool([Ridge(alpha=7)], **options)) is Mine
    assert type(make_pool([Ridge(alpha=7), Ridge()], **options)) is LinearPool


class Shy(RegressorMixin, BaseEstimator):
    """Answers for one row at a time."""

    def fit(self, X, y, sample_weight=None):
        return self

    def predict(self, X):
        if X.shape[0] > 1:
            raise ValueError("too many rows")
        return np.zeros(1)


def test_an_expert_that_cannot_predict_is_named(X, Y):
    made = EstimatorPool([Shy()] * 2, likelihood=gaussian(prior=0.0, floor=0.0))
    made.fit(X, Y[:, :1], Routing.from_labels(np.repeat([0, 1], [40, N - 40]), 2))
    with pytest.raises(ValueError, match="too many rows") as caught:
        made.predict(X, Routing.from_dense(np.full((N, 2), 0.5)))
    assert "Raised by expert 0, Shy" in caught.value.__notes__[0]


def test_an_expert_that_could_not_predict_learns_all_rows(X, Y):
    """Two neighbours cannot be found among one row."""
    learner = KNeighborsRegressor(2)
    routing = Routing.from_labels(np.array([0] * (N - 1) + [1]), 2)
    made = EstimatorPool([learner] * 2, likelihood=gaussian(prior=0.0, floor=0.0))
    made.fit(X, Y[:, :1], routing)
    assert list(made.fallbacks) == [1]
    assert "n_neighbors" in made.fallbacks[1]
    alone = learner.fit(X, Y[:, 0])
    assert_allclose(made.estimators()[1].predict(X), alone.predict(X))


@pytest.mark.parametrize("kind", ["dense", "csr", "float32", "no intercept"])
def test_wide_ridge_experts_are_those_of_clones(kind):
    random = np.random.RandomState(0)
    X = random.normal(size=(60, 300)) * (random.uniform(size=(60, 300)) < 0.2)
    Y = X[:, :2] + random.normal(size=(60, 2))
    weights = random.dirichlet(np.ones(2), size=60)
    learner = Ridge(alpha=2.0, fit_intercept=kind != "no intercept")
    seen = {"csr": sparse.csr_array, "float32": np.float32}.get(kind, np.asarray)(X)
    pool = LinearPool([learner] * 2, likelihood=gaussian(2))
    pool.fit(seen, Y, Routing.from_dense(weights))
    for k, fitted in enumerate(pool.estimators()):
        own = weights[:, k] > MIN_RESPONSIBILITY
        mass = weights[own, k] / weights[own, k].mean()
        exact = clone(learner).set_params(solver="cholesky").fit(X[own], Y[own], mass)
        tol = 1e-5 if kind == "float32" else 1e-8
        assert_allclose(fitted.coef_, exact.coef_, rtol=tol, atol=tol)
        assert_allclose(fitted.intercept_, exact.intercept_, rtol=tol, atol=tol)
