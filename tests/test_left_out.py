"""Left-out answers equal those of fits that never saw the row."""

import copy
import warnings
from itertools import cycle

import array_api_strict as strict
import numpy as np
import pytest
from _cases import everyone, pool_of
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LinearRegression, LogisticRegression, Perceptron, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, TargetEncoder
from sklearn.tree import DecisionTreeRegressor

from skmoe._learners import MIN_RESPONSIBILITY, weight_parameter
from skmoe.backends import to_host, using
from skmoe.em import Problem, begin, initial, run
from skmoe.experts import (
    EstimatorPool,
    LeaveOneOutPool,
    LeftOutPool,
    LinearPool,
    left_out,
)
from skmoe.experts._base import floored
from skmoe.experts._estimator_pool import least_mass, resample
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

N, D, K = 60, 4, 3
REGRESSORS = [
    Ridge(),
    Ridge(alpha=30.0),
    Ridge(alpha=2.0, fit_intercept=False),
    LinearRegression(),
    LinearRegression(fit_intercept=False),
]


def regression(learner, q=1, n_experts=K, **options):
    learners = learner if isinstance(learner, list) else [learner] * n_experts
    return pool_of(learners, q=q, **options)


def classification(learner, n_experts=K, classes=range(3), **options):
    return pool_of([learner] * n_experts, np.asarray(classes), **options)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(N, D)) + 5.0


@pytest.fixture
def Y(X):
    rng = np.random.default_rng(1)
    return X @ rng.normal(size=(D, 2)) + 3.0 + rng.normal(size=(N, 2))


@pytest.fixture
def labels(X):
    rng = np.random.default_rng(2)
    return np.argmax(
        (X - 5) @ rng.normal(size=(D, 3)) + rng.gumbel(size=(N, 3)), axis=1
    )


def shares(kind, seed=3):
    """Return a routing of sample weights; rows of the sparse one miss experts."""
    rng = np.random.default_rng(seed)
    weight = rng.random(N) + 0.5
    if kind == "hard":
        return Routing.from_labels(rng.integers(0, K, size=N), K).scaled(weight)
    if kind == "dense":
        return Routing.from_dense(rng.dirichlet(np.ones(K), size=N)).scaled(weight)
    part = rng.uniform(0.05, 0.95, size=N)
    part[rng.random(N) < 0.4] = 1.0
    indices = np.array([rng.permutation(K)[:2] for _ in range(N)])
    weights = np.column_stack([part, 1.0 - part])
    return Routing(np.where(weights == 0, -1, indices), weights, K).scaled(weight)


KINDS = ["hard", "sparse", "dense"]


@pytest.fixture(params=KINDS)
def routing(request):
    return shares(request.param)


def everywhere(n_experts=K, n=N):
    return everyone(n, n_experts)


def owns(table, k, learner):
    """Return which rows expert k is fitted on."""
    if weight_parameter(learner) is None:
        return owns_some(table, k)
    return table[:, k] > least_mass(table)


def owns_some(table, k):
    """Return which rows an expert is fitted on that is fitted with all others."""
    return table[:, k] > MIN_RESPONSIBILITY * table.sum(axis=1)


def mean_one(table, k, kept):
    """Return the weights of expert k on the rows that it is fitted on."""
    mass, total = table[:, k], table.sum(axis=1)
    return mass * total[kept].sum() / mass[kept].sum()


# ------------------------------------------------------------------- leave one out
def refitted(learner, X, y, weights):
    """Return the prediction of each row by the learner fitted without it."""
    answers = []
    for i in range(len(X)):
        others = weights * (np.arange(len(X)) != i)
        fit = clone(learner).fit(X, y, sample_weight=others)
        answers.append(fit.predict(X[[i]])[0])
    return np.reshape(answers, (len(X), -1))


@pytest.mark.parametrize(
    ("learner", "q"), list(zip(REGRESSORS, cycle([1, 2]), strict=False)), ids=str
)
def test_leave_one_out_equals_refits(learner, q, X, Y, routing):
    y, table = Y[:, :q], routing.to_csr().toarray()
    pool = left_out(regression(learner, q)).fit(X, y, routing)
    assert type(pool) is LeaveOneOutPool
    found = pool.evaluate(X, y, everywhere())
    for k in range(K):
        expected = refitted(learner, X, y, mean_one(table, k, owns_some(table, k)))
        assert_allclose(found[:, k], expected, rtol=1e-8, atol=1e-8)


def test_rows_that_an_expert_was_not_fitted_on_get_the_plain_prediction(X, Y):
    routing = shares("sparse")
    pool = left_out(regression(Ridge())).fit(X, Y[:, :1], routing)
    plain = regression(Ridge()).fit(X, Y[:, :1], routing)
    assert_allclose(pool.coef, plain.coef, rtol=1e-10)
    assert_allclose(pool.intercept, plain.intercept, rtol=1e-10)
    found = pool.evaluate(X, Y[:, :1], everywhere())
    prediction = plain.predict(X, everywhere())
    own = routing.to_csr().toarray() > 0
    assert_allclose(found[~own], prediction[~own], rtol=1e-10)
    assert np.min(np.abs(found[own] - prediction[own])) > 1e-6
    assert_allclose(pool.predict(X, everywhere()), prediction, rtol=1e-10)
    assert pool.n_parameters == plain.n_parameters


def test_a_row_of_weight_two_is_two_rows_left_out_together(X, Y):
    counts = np.random.default_rng(4).integers(1, 3, size=N)
    y, weighted = Y[:, :1], everyone(N, 1).scaled(1.0 * counts)
    pool = left_out(regression(Ridge(), n_experts=1)).fit(X, y, weighted)
    found = pool.evaluate(X, y, weighted)[:, 0, 0]
    again = np.repeat(np.arange(N), counts)
    for i in range(N):
        others = again[again != i]
        expected = Ridge().fit(X[others], y[others, 0]).predict(X[[i]])
        assert_allclose(found[i], expected[0], rtol=1e-9)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("learner", [Ridge(), KNeighborsRegressor(3)], ids=str)
def test_equal_rows_are_left_out_together(learner, form, X, Y):
    counts = np.random.default_rng(4).integers(1, 4, size=N)
    again = np.repeat(np.arange(N), counts)
    again = np.random.default_rng(5).permutation(again)
    rows, y, every = form(X[again]), Y[again][:, :1], everywhere(1, len(again))
    pool = left_out(regression(learner, n_experts=1)).fit(rows, y, every)
    found = pool.evaluate(rows, y, every)[:, 0, 0]
    for i in range(0, len(again), 7):
        others = again[again != again[i]]
        fit = clone(learner).fit(X[others], Y[others, 0])
        assert_allclose(found[i], fit.predict(X[again[[i]]])[0], rtol=1e-6)


@pytest.mark.parametrize("forest", [RandomForestRegressor, BaggingRegressor])
def test_members_that_met_a_copy_do_not_judge_the_row(forest, X, Y):
    again = np.repeat(np.arange(N), 2)
    rows, y, every = X[again], Y[again][:, :1], everywhere(1, 2 * N)
    learner = forest(n_estimators=30, random_state=0)
    pool = left_out(regression(learner, n_experts=1)).fit(rows, y, every)
    found = pool.evaluate(rows, y, every)[:, 0, 0]
    expert = pool.fitted[0]
    bags = [np.unique(again[bag]) for bag in expert.estimators_samples_]
    for i in range(0, 2 * N, 7):
        blind = [
            member.predict(rows[[i]])[0]
            for member, bag in zip(expert.estimators_, bags, strict=True)
            if again[i] not in bag
        ]
        expected = np.mean(blind) if blind else expert.predict(rows[[i]])[0]
        assert_allclose(found[i], expected, rtol=1e-6)


@pytest.mark.parametrize("learner", REGRESSORS, ids=str)
def test_csr_equals_dense(learner, X, Y, routing):
    X = X * (np.abs(X - 5) > 0.5)
    expected, *answers = (
        left_out(regression(learner))
        .fit(form(X), Y[:, :1], routing)
        .evaluate(form(X), Y[:, :1], everywhere())
        for form in (np.asarray, sparse.csr_array, sparse.csr_matrix)
    )
    for answer in answers:
        assert_allclose(answer, expected, rtol=1e-9)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_float32_features(form, X, Y, routing):
    single = form(X.astype(np.float32))
    pool = left_out(regression(Ridge())).fit(single, Y[:, :1], routing)
    found = pool.evaluate(single, Y[:, :1], everywhere())
    assert found.dtype == np.float32
    exact = left_out(regression(Ridge())).fit(X, Y[:, :1], routing)
    expected = exact.evaluate(X, Y[:, :1], everywhere())
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_blocks_and_backends_agree(backend, monkeypatch, X, Y, routing):
    expected = left_out(regression(Ridge())).fit(X, Y, routing)
    monkeypatch.setattr("skmoe.backends._reference._rows.BLOCK_ELEMENTS", 7 * D)
    with using(backend, N * D):
        pool = left_out(regression(Ridge(), 2)).fit(X, Y, routing)
        found = pool.evaluate(X, Y, everywhere())
    assert_allclose(found, expected.evaluate(X, Y, everywhere()), rtol=1e-10)


def test_arrays_on_a_device(X, Y, routing):
    device = strict.Device("device1")

    def put(array):
        return strict.asarray(np.ascontiguousarray(array), device=device)

    expected = left_out(regression(Ridge(), 2)).fit(X, Y, routing)
    there = left_out(regression(Ridge(), 2)).fit(put(X), put(Y), routing.like(put(X)))
    for asked in (everywhere(), shares("sparse", seed=9)):
        found = there.evaluate(put(X), put(Y), asked.like(put(X)))
        assert found.device == device
        assert_allclose(to_host(found), expected.evaluate(X, Y, asked), rtol=1e-10)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_a_row_that_alone_decides_a_direction(fit_intercept, X, Y):
    """Its leverage is one: the answer is the minimum-norm fit to the others."""
    flag = np.zeros((N, 1))
    flag[7] = 1.0
    X, weights = np.hstack([X, flag]), np.random.default_rng(5).random(N) + 0.5
    learner = LinearRegression(fit_intercept=fit_intercept)
    routing = Routing.from_dense(weights[:, None])
    pool = left_out(regression(learner, 2, n_experts=1)).fit(X, Y, routing)
    found = pool.evaluate(X, Y, routing)[:, 0]
    assert abs(pool.predict(X, routing)[7, 0] - Y[7]).max() < 1e-9
    assert_allclose(found, refitted(learner, X, Y, weights), rtol=1e-6)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_more_features_than_rows(fit_intercept, Y):
    """The fit passes through every row, and is not judged by that."""
    X = np.random.default_rng(5).normal(size=(N, 90))
    learner, weights = LinearRegression(fit_intercept=fit_intercept), np.ones(N)
    pool = left_out(regression(learner, n_experts=1))
    pool.fit(X, Y[:, :1], everywhere(1))
    found = pool.evaluate(X, Y[:, :1], everywhere(1))[:, 0]
    assert_allclose(pool.predict(X, everywhere(1))[:, 0], Y[:, :1], rtol=1e-6)
    assert_allclose(found, refitted(learner, X, Y[:, :1], weights), rtol=1e-6)


def test_twin_columns(X, Y):
    twins = np.column_stack([X, X[:, 0], np.ones(N)])
    learner = LinearRegression()
    pool = left_out(regression(learner, n_experts=1))
    found = pool.fit(twins, Y[:, :1], everywhere(1)).evaluate(twins, Y, everywhere(1))
    assert_allclose(found[:, 0], refitted(learner, twins, Y[:, :1], np.ones(N)))


@pytest.mark.parametrize("learner", REGRESSORS, ids=str)
def test_an_expert_of_one_row_is_finite(learner, X, Y):
    routing = Routing.from_labels(np.array([1] + [0] * (N - 1)), 2)
    pool = left_out(regression(learner, n_experts=2)).fit(X, Y[:, :1], routing)
    assert np.isfinite(pool.evaluate(X, Y[:, :1], everywhere(2))).all()


# --------------------------------------------------------------------------- bags
BAGS = [
    RandomForestRegressor(30, random_state=0),
    ExtraTreesRegressor(30, bootstrap=True, max_samples=0.7, random_state=0),
    BaggingRegressor(LinearRegression(), 30, max_features=0.5, random_state=0),
    BaggingRegressor(KNeighborsRegressor(2), 30, random_state=0),
    RandomForestClassifier(30, min_samples_leaf=3, random_state=0),
    ExtraTreesClassifier(30, bootstrap=True, max_depth=3, random_state=0),
    BaggingClassifier(LogisticRegression(max_iter=2000), 30, random_state=0),
    BaggingClassifier(Perceptron(), 30, random_state=0),
]


@pytest.mark.parametrize("learner", BAGS, ids=str)
def test_bags_say_what_scikit_learn_says_out_of_bag(learner, X, Y, labels):
    regressor = isinstance(learner, RegressorMixin)
    make, y = (regression, Y[:, :1]) if regressor else (classification, labels)
    everyone = everywhere(1)
    pool = left_out(make(learner, n_experts=1)).fit(X, y, everyone)
    assert type(pool) is LeftOutPool
    found = pool.evaluate(X, y, everyone)[:, 0, 0]
    oob = clone(learner).set_params(oob_score=True)
    oob.fit(X, y[:, 0] if regressor else y, sample_weight=np.ones(N))
    if regressor:
        assert_allclose(found, oob.oob_prediction_, rtol=1e-12)
    else:
        proba = floored(oob.oob_decision_function_)
        assert_allclose(found, np.log(proba[np.arange(N), y]), rtol=1e-10)
    expert, plain = pool.estimators()[0], clone(learner).fit(X, y.ravel(), np.ones(N))
    assert expert.oob_score is False
    assert not hasattr(expert, "oob_score_")
    assert_allclose(expert.predict(X), plain.predict(X))


def test_bags_of_shares(X, Y, routing):
    """Rows of two outputs; those that are in every bag are judged with themselves."""
    forest = RandomForestRegressor(8, random_state=0)
    pool = left_out(regression(forest, 2)).fit(X, Y, routing)
    found, table = pool.evaluate(X, Y, everywhere()), routing.to_csr().toarray()
    assert np.isfinite(found).all()
    for k, expert in enumerate(pool.estimators()):
        rows = np.flatnonzero(owns(table, k, forest))
        expected = expert.predict(X)
        bags = [rows[bag] for bag in expert.estimators_samples_]
        for i in rows:
            trees = [
                tree.predict(X[[i]])[0]
                for tree, bag in zip(expert.estimators_, bags, strict=True)
                if i not in bag
            ]
            expected[i] = np.mean(trees, axis=0) if trees else expected[i]
        assert_allclose(found[:, k], expected, rtol=1e-12)


def test_bags_of_several_outputs_and_of_missing_classes(X, Y, labels):
    """``oob_score=True`` raises for both."""
    bag = BaggingRegressor(Ridge(), 10, random_state=0)
    pool = left_out(regression(bag, 2)).fit(X, Y, shares("sparse"))
    assert pool.evaluate(X, Y, everywhere()).shape == (N, K, 2)
    rare = np.where(np.arange(N) == 3, 2, np.minimum(labels, 1))
    bag = BaggingClassifier(KNeighborsClassifier(3), 10, random_state=0)
    pool = left_out(classification(bag, n_experts=1)).fit(X, rare, everywhere(1))
    assert np.isfinite(pool.evaluate(X, rare, everywhere(1))).all()


def test_text_labels_and_single_classes(X, labels):
    """Expert 0 meets classes 1 and 2 only, expert 1 class 0 only."""
    classes = np.array(["a", "b", "c"])
    routing = Routing.from_labels((labels == 0).astype(int), 2)
    for learner in (RandomForestClassifier(30), KNeighborsClassifier(3)):
        plain = classification(learner, n_experts=2, classes=classes)
        pool = left_out(plain).fit(X, labels, routing)
        values = pool.evaluate(X, labels, everywhere(2))[:, :, 0]
        proba = plain.fit(X, labels, routing).predict(X, everywhere(2))
        of_label = np.log(proba[np.arange(N), :, labels])
        assert_allclose(values[:, 1], of_label[:, 1])
        assert_allclose(values[labels == 0, 0], of_label[labels == 0, 0])
        own = labels > 0
        assert np.mean(values[own, 0]) < np.mean(of_label[own, 0])


# --------------------------------------------------------------------- neighbours
def refitted_knn(learner, X, y):
    """Return the prediction of each row by the learner fitted on the others."""
    others = [np.delete(np.arange(len(X)), i) for i in range(len(X))]
    fits = [clone(learner).fit(X[rows], y[rows]) for rows in others]
    return np.concatenate([fit.predict(X[[i]]) for i, fit in enumerate(fits)])


RULES = ["uniform", "distance", lambda distance: np.exp(-distance)]


@pytest.mark.parametrize(
    ("rule", "algorithm"),
    list(zip(RULES, ["kd_tree", "brute", "kd_tree"], strict=True)),
    ids=["uniform", "distance", "callable"],
)
def test_neighbours_are_those_of_a_fit_without_the_row(rule, algorithm, X, Y, routing):
    learner = KNeighborsRegressor(3, weights=rule, algorithm=algorithm)
    seeds = [5, 6, 7]
    pool = left_out(regression(learner, 2, seeds=seeds)).fit(X, Y, routing)
    found, table = pool.evaluate(X, Y, everywhere()), routing.to_csr().toarray()
    for k in range(K):
        rows = np.flatnonzero(owns(table, k, learner))
        drawn = resample(mean_one(table, k, rows)[rows], seeds[k])
        drawn = rows if drawn is None else rows[drawn]
        assert routing.dense <= (len(np.unique(drawn)) < len(drawn))
        for i in range(N):
            others = drawn[drawn != i]
            fit = clone(learner).fit(X[others], Y[others])
            assert_allclose(found[i, k], fit.predict(X[[i]])[0], atol=1e-6)


@pytest.mark.parametrize("rule", ["uniform", "distance"])
def test_a_twin_is_a_row_of_its_own(rule, X, Y):
    X, y = np.vstack([X, X]), np.vstack([Y[:, :1], Y[:, 1:]])
    pool = left_out(regression(KNeighborsRegressor(1, weights=rule), n_experts=1))
    twice = Routing.from_dense(np.full((2 * N, 1), 2.0))
    found = pool.fit(X, y, twice).evaluate(X, y, twice)[:, 0, 0]
    assert_allclose(found, np.concatenate([Y[:, 1], Y[:, 0]]))


@pytest.mark.parametrize("rule", RULES, ids=["uniform", "distance", "callable"])
def test_neighbours_vote_without_the_row(rule, X, labels):
    counts = np.random.default_rng(4).integers(1, 4, size=N)
    routing = everyone(N, 1).scaled(1.0 * counts)
    learner = KNeighborsClassifier(4, weights=rule)
    pool = left_out(classification(learner, n_experts=1)).fit(X, labels, routing)
    found = pool.evaluate(X, labels, routing)[:, 0, 0]
    again = np.repeat(np.arange(N), counts)
    for i in range(N):
        others = again[again != i]
        proba = floored(
            clone(learner).fit(X[others], labels[others]).predict_proba(X[[i]])
        )
        assert_allclose(found[i], np.log(proba[0, labels[i]]), atol=1e-9)


def test_fewer_others_than_neighbours(X, Y):
    """Three rows of three neighbours: without one there are two."""
    learner, rows = KNeighborsRegressor(3), np.arange(3)
    pool = left_out(regression(learner, n_experts=1))
    pool.fit(X[:3], Y[:3, :1], everywhere(1, 3))
    found = pool.evaluate(X[:3], Y[:3, :1], everywhere(1, 3))[:, 0, 0]
    assert_allclose(found, [Y[:3][rows != i, 0].mean() for i in rows])


def test_an_expert_that_falls_back_on_all_rows_leaves_each_out(X, Y):
    """Two rows are too few for five neighbours."""
    learner = KNeighborsRegressor(5)
    routing = Routing.from_labels((np.arange(N) < 2).astype(int), 2)
    pool = left_out(regression(learner, n_experts=2)).fit(X, Y[:, :1], routing)
    assert list(pool.fallbacks) == [1]
    found = pool.evaluate(X, Y[:, :1], everywhere(2))
    assert_allclose(found[:, 1], refitted_knn(learner, X, Y[:, :1]))


# ---------------------------------------------------------------------- pipelines
@pytest.mark.parametrize("last", [KNeighborsRegressor(3), BAGS[0]], ids=str)
def test_pipelines(last, X, Y, routing):
    pipeline = make_pipeline(StandardScaler(), make_pipeline("passthrough", last))
    pool = left_out(regression(pipeline)).fit(X, Y[:, :1], routing)
    found, table = pool.evaluate(X, Y[:, :1], everywhere()), routing.to_csr().toarray()
    for k, expert in enumerate(pool.estimators()):
        rows = np.flatnonzero(owns(table, k, last))
        weights = mean_one(table, k, rows)[rows]
        single = left_out(regression(last, n_experts=1))
        scaled = expert[0].transform(X)
        routed = Routing.from_dense(np.zeros((N, 1)))
        routed.weights[rows, 0] = weights
        single.fit(scaled, Y[:, :1], routed)
        expected = single.evaluate(scaled, Y[:, :1], everywhere(1))
        assert_allclose(found[:, k], expected[:, 0], rtol=1e-9)


@pytest.fixture(params=["pandas", "csr"])
def table(request, X):
    X = X * (np.abs(X - 5) > 0.5)
    if request.param == "csr":
        return sparse.csr_array(X)
    return pytest.importorskip("pandas").DataFrame(X, columns=list("abcd"))


def test_neighbours_in_other_containers(table, Y):
    X = table.toarray() if sparse.issparse(table) else table.to_numpy()
    made = [left_out(regression(KNeighborsRegressor(3))) for _ in range(2)]
    found, expected = (
        pool.fit(x, Y, shares("dense")).evaluate(x, Y, everywhere())
        for pool, x in zip(made, (table, X), strict=True)
    )
    assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("learner", [BAGS[0], BAGS[2]], ids=str)
def test_bags_in_other_containers(learner, table, Y):
    pool = left_out(regression(learner, n_experts=1))
    found = pool.fit(table, Y[:, :1], everywhere(1)).left[0].values[:, 0]
    oob = clone(learner).set_params(oob_score=True)
    oob.fit(table, Y[:, 0], sample_weight=np.ones(N))
    assert_allclose(found, oob.oob_prediction_, rtol=1e-12)


# ------------------------------------------------------------------- as other pools
POOLS = {
    "ridge": lambda: left_out(regression(Ridge())),
    "forest": lambda: left_out(regression(RandomForestRegressor(9), seeds=[1, 2, 3])),
    "neighbours": lambda: left_out(regression(KNeighborsRegressor(3))),
    "forest of classes": lambda: left_out(classification(RandomForestClassifier(9))),
    "neighbouring classes": lambda: left_out(classification(KNeighborsClassifier(3))),
}


@pytest.fixture(params=POOLS.values(), ids=POOLS)
def pool(request):
    return request.param()


@pytest.fixture
def target(pool, Y, labels):
    return Y[:, :1] if pool.classes is None else labels


def test_swap_carries_the_rows_along(pool, target, X, routing):
    pool.fit(X, target, routing)
    before, left = pool.evaluate(X, target, everywhere()), dict(pool.left)
    other = pool.update(X, target, shares("dense", seed=8))
    after = other.evaluate(X, target, everywhere())
    assert np.min(np.max(np.abs(after - before), axis=(0, 2))) > 1e-3
    assert pool.left == left
    assert_array_equal(pool.evaluate(X, target, everywhere()), before)
    take = np.array([True, False, True])
    chosen = pool.select(other, take).evaluate(X, target, everywhere())
    expected = np.where(take[:, None], after, before)
    assert_array_equal(chosen, expected)


def test_sparse_entries_are_the_dense_ones(pool, target, X, routing):
    pool.fit(X, target, routing)
    table, asked = pool.evaluate(X, target, everywhere()), shares("sparse", seed=11)
    found = pool.evaluate(X, target, asked)
    assert found.shape == (N, 2, 1)
    for (i, j), k in np.ndenumerate(asked.indices):
        assert_allclose(found[i, j], table[i, k] if k >= 0 else 0.0, rtol=1e-10)


def test_own_rows_are_judged_worse_than_by_a_plain_pool(pool, target, X, routing):
    pool.fit(X, target, routing)
    plain = pool.finished(X, target, routing)
    values = [made.evaluate(X, target, routing) for made in (plain, pool)]
    plain.scale = None if pool.classes is not None else np.ones((K, 1))
    owned = routing.weights > 0
    seen, unseen = (
        np.sum(routing.weights[owned] * plain.log_density(target, v, routing)[owned])
        for v in values
    )
    assert unseen < seen


def test_finished_is_a_plain_pool(pool, target, X, routing):
    pool.fit(X, target, routing)
    if pool.classes is None:
        pool = pool.rescale(target, pool.evaluate(X, target, routing), routing)
    plain = pool.finished(X, target, routing)
    kinds = {LeaveOneOutPool: LinearPool, LeftOutPool: EstimatorPool}
    assert type(plain) is kinds[type(pool)]
    assert not hasattr(plain, "left")
    assert plain.scale is pool.scale
    assert_array_equal(plain.predict(X, everywhere()), pool.predict(X, everywhere()))
    again = type(plain)(
        plain.learners,
        likelihood=plain.likelihood,
        classes=plain.classes,
        seeds=plain.seeds,
    ).fit(X, target, routing)
    assert_allclose(plain.predict(X, everywhere()), again.predict(X, everywhere()))
    values = plain.evaluate(X, target, everywhere())
    assert_allclose(values, again.evaluate(X, target, everywhere()), rtol=1e-9)
    left_values = pool.evaluate(X, target, everywhere())
    assert np.max(np.abs(values - left_values)) > 1e-3


def test_an_empty_share_learns_all_rows_then_keeps(pool, target, X):
    table = shares("dense").weights.copy()
    table[:, 1] = 0.0
    lonely = Routing.from_dense(table)
    first = pool.fit(X, target, lonely).evaluate(X, target, everywhere())
    only = copy.copy(pool)
    everyone = np.zeros((N, K))
    everyone[:, 1] = table.sum(axis=1)
    expected = only.fit(X, target, Routing.from_dense(everyone))
    if isinstance(pool, LeaveOneOutPool):  # the others divide weights by their mean
        values = expected.evaluate(X, target, everywhere())
        assert_allclose(first[:, 1], values[:, 1], rtol=1e-9)
    other = pool.fit(X, target, lonely).update(X, target, lonely)
    assert_array_equal(other.evaluate(X, target, everywhere())[:, 1], first[:, 1])


def test_slack_is_that_of_black_boxes(pool):
    assert pool.slack == EstimatorPool.slack


def test_no_warnings_and_the_same_bits_for_any_n_jobs(X, Y):
    found = []
    for jobs in (1, 2):
        forest = RandomForestRegressor(2)
        pool = left_out(regression(forest, seeds=[1, 2, 3], n_jobs=jobs))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pool.fit(X, Y[:, :1], shares("dense"))
        found.append(pool.evaluate(X, Y[:, :1], everywhere()))
    assert_array_equal(found[0], found[1])


def test_sparse_memory_is_that_of_the_entries(X, Y):
    n_experts = 20
    first = np.arange(N) % n_experts
    indices = np.column_stack([first, (first + 1) % n_experts])
    routing = Routing(indices, np.full((N, 2), 0.5), n_experts)
    for learner in (Ridge(), KNeighborsRegressor(1), RandomForestRegressor(9)):
        pool = left_out(regression(learner, n_experts=n_experts))
        left = pool.fit(X, Y[:, :1], routing).left.values()
        assert sum(own.values.size for own in left) <= 2 * N


# --------------------------------------------------------------------------- choice
class OtherForest(RandomForestRegressor):
    """A subclass may mix its trees in any way."""


SCALED = ColumnTransformer([("scale", StandardScaler(), [0, 1])])
ENCODED = ColumnTransformer([("encode", TargetEncoder(), [0, 1])])
CHOICES = [
    ([Ridge(), LinearRegression()], LeaveOneOutPool),
    ([KNeighborsRegressor(), RandomForestRegressor()], LeftOutPool),
    ([BaggingRegressor()], LeftOutPool),
    ([ExtraTreesRegressor(bootstrap=True)], LeftOutPool),
    ([make_pipeline(StandardScaler(), KNeighborsRegressor())], LeftOutPool),
    ([make_pipeline(SCALED, PCA(2), RandomForestRegressor())], LeftOutPool),
    ([make_pipeline(SelectKBest(), KNeighborsRegressor())], None),
    ([make_pipeline(TargetEncoder(), KNeighborsRegressor())], None),
    ([make_pipeline(ENCODED, KNeighborsRegressor())], None),
    ([make_pipeline(StandardScaler(), DecisionTreeRegressor())], None),
    ([make_pipeline(StandardScaler(), Ridge())], None),
    ([KNeighborsRegressor(metric="precomputed")], None),
    ([ExtraTreesRegressor()], None),
    ([BaggingRegressor(bootstrap=False)], None),
    ([OtherForest()], None),
    ([DecisionTreeRegressor()], None),
    ([HistGradientBoostingRegressor()], None),
    ([Ridge(), KNeighborsRegressor()], None),
    ([RandomForestRegressor(), DecisionTreeRegressor()], None),
]


@pytest.mark.parametrize(("learners", "expected"), CHOICES, ids=str)
def test_left_out_chooses(learners, expected):
    plain = regression(learners, seeds=[5] * len(learners), n_jobs=3)
    made = left_out(plain)
    assert (None if made is None else type(made)) is expected
    if made is not None:
        for name in ("learners", "likelihood", "classes", "seeds", "n_jobs"):
            assert getattr(made, name) == getattr(plain, name)


def test_logistic_experts_have_no_way():
    assert left_out(classification(LogisticRegression())) is None


# ----------------------------------------------------------------------- the engine
@pytest.mark.parametrize("width", [3, 2, 1])
def test_the_engine_runs_with_them(width, pool, target, X):
    problem = Problem(X, X, target, np.ones(N), K, width, max_iter=8, tol=1e-4)
    state = begin(problem, SoftmaxGate(), pool, initial(problem, "kmeans", 0, 0))
    result = run(problem, state)
    assert np.isfinite(result.bound)
    assert all(np.isfinite(info.bound) for info in result.passes)
    assert type(result.pool) is type(pool)
    plain = result.pool.finished(X, target, result.resp)
    assert np.isfinite(plain.predict(X, everywhere())).all()


def test_the_bound_is_that_of_new_rows():
    """Ridge without ridge and many features: in sample it fits noise."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(100, 30)), rng.normal(size=(100, 1))
    new = rng.normal(size=(2000, 30)), rng.normal(size=(2000, 1))
    mass, judged = everyone(100, 1), []
    for make in (lambda pool: pool, left_out):
        pool = make(regression(LinearRegression(), n_experts=1))
        pool.fit(X, y, mass)
        pool = pool.rescale(y, pool.evaluate(X, y, mass), mass)
        inside = pool.log_likelihood(X, y, mass).mean()
        plain = pool.finished(X, y, mass)
        outside = plain.log_likelihood(*new, everywhere(1, 2000)).mean()
        judged.append(abs(inside - outside))
    assert judged[1] < 0.5 * judged[0]
