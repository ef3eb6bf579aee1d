"""Gates made of scikit-learn's own learners: trees, neighbours, any classifier."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import (
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from skmoe.backends import _reference
from skmoe.gates import EstimatorGate, KNeighborsGate, TreeGate
from skmoe.gates._cases import padded
from skmoe.gates._estimator import drawn
from skmoe.gates._neighbors import distinct
from skmoe.gates._tree import MOST_OUTPUTS, sketch
from skmoe.routing import Routing

SMALL = [
    pytest.param(TreeGate(8), id="tree"),
    pytest.param(TreeGate(8, n_estimators=5), id="forest"),
    pytest.param(KNeighborsGate(7, weights="uniform"), id="uniform neighbours"),
    pytest.param(KNeighborsGate(7), id="near neighbours"),
    pytest.param(EstimatorGate(LogisticRegression(max_iter=1000)), id="logistic"),
    pytest.param(EstimatorGate(DecisionTreeClassifier(max_depth=3)), id="classifier"),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def X(rng):
    return rng.normal(size=(80, 3))


@pytest.fixture
def resp(rng, X):
    logits = X @ rng.normal(size=(3, 4)) + rng.normal(size=(80, 4))
    return np.exp(_reference.log_softmax(logits))


def few_of_many(rng, n_rows, n_experts, width=2):
    """Return a routing of two experts a row."""
    indices = np.argsort(rng.random((n_rows, n_experts)), axis=1)[:, :width]
    weights = rng.random((n_rows, width))
    return Routing(indices, weights / weights.sum(axis=1, keepdims=True), n_experts)


# -------------------------------------------------------------- what all three share
@pytest.mark.parametrize("gate", SMALL)
@pytest.mark.parametrize("n_experts", [4, 70])
def test_sparse_answers_are_those_of_all_experts(gate, rng, X, n_experts):
    routing = few_of_many(rng, 80, n_experts)
    gate = clone(gate).fit(X, routing)
    log_proba = gate.log_proba(X)
    assert_allclose(np.exp(log_proba).sum(axis=1), 1.0, rtol=1e-12)
    assert np.isfinite(log_proba).all()
    for top_k in (1, 3, n_experts):
        log_best, best = gate.best(X, top_k)
        assert_allclose(log_best, _reference.top_k(log_proba, top_k)[0], rtol=1e-10)
        assert_allclose(np.take_along_axis(log_proba, best, axis=1), log_best)
        assert (np.diff(np.sort(best, axis=1), axis=1) > 0).all()
    asked = np.where(rng.random((80, 3)) < 0.2, -1, rng.integers(0, n_experts, (80, 3)))
    found = gate.survey(X, asked, 2)[0]
    expected = np.take_along_axis(log_proba, np.maximum(asked, 0), axis=1)
    assert_allclose(found, np.where(asked < 0, -np.inf, expected), rtol=1e-10)


@pytest.mark.parametrize("gate", SMALL)
def test_row_order_does_not_matter(gate, rng, X, resp):
    X = np.round(X * 2) / 2  # many rows at the same distance, some equal
    order = rng.permutation(80)
    expected = clone(gate).fit(X, resp).log_proba(X)
    found = clone(gate).fit(X[order], resp[order]).log_proba(X)
    assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("gate", SMALL)
def test_rows_without_weight_do_not_exist(gate, rng, X, resp):
    resp[rng.random(80) < 0.4] = 0.0
    there = resp.sum(axis=1) > 0
    expected = clone(gate).fit(X[there], resp[there]).log_proba(X)
    assert_allclose(clone(gate).fit(X, resp).log_proba(X), expected, atol=1e-6)


@pytest.mark.parametrize("gate", SMALL)
def test_taken_twice(gate, X, resp):
    gate = clone(gate).fit(X, resp)
    twice = gate.take([0, 1, 3, 3]).take([3, 0, 2, 2])
    proba = np.exp(gate.log_proba(X))
    expected = proba[:, [3, 0, 3, 3]] / [2, 1, 4, 4]
    expected /= expected.sum(axis=1, keepdims=True)
    assert_allclose(np.exp(twice.log_proba(X)), expected, rtol=1e-9)
    log_best = twice.best(X, 2)[0]
    assert_allclose(log_best, _reference.top_k(twice.log_proba(X), 2)[0], rtol=1e-9)


def test_padded_rows():
    rows = sparse.csr_array(np.array([[0, 2.0, 3], [0, 0, 0], [4, 0, 0]]))
    experts, values = padded(rows)
    assert_array_equal(experts, [[1, 2], [-1, -1], [0, -1]])
    assert_array_equal(values, [[2, 3], [0, 0], [4, 0]])
    assert padded(sparse.csr_array((3, 2)))[0].shape == (3, 0)


# ------------------------------------------------------------------------ TreeGate
def test_tree_leaves_are_smoothed_weighted_means():
    X = np.array([[0.0], [1], [10], [11]])
    targets = np.array([[3.0, 0], [1, 0], [0, 2], [1, 1]])
    gate = TreeGate(3, smoothing=0.5).fit(X, targets)
    share = np.array([5 / 8, 3 / 8])
    expected = [(np.array([4, 0]) + 0.5 * share) / 4.5] * 2
    expected += [(np.array([1, 3]) + 0.5 * share) / 4.5] * 2
    assert_allclose(np.exp(gate.log_proba(X)), expected, atol=1e-6)
    assert gate.n_parameters == 2


def test_forest_is_the_mean_of_its_trees(X, resp):
    gate = TreeGate(10, n_estimators=3, smoothing=1e-9).fit(X, resp)
    assert isinstance(gate.tree_, ExtraTreesRegressor)
    assert_allclose(np.exp(gate.log_proba(X)), gate.tree_.predict(X), atol=1e-6)


def test_tree_sees_weights_not_rows(X, resp):
    """A leaf needs weight; so rows of little weight make no leaf."""
    heavy = TreeGate(20).fit(X, resp)
    light = TreeGate(20).fit(X, 0.1 * resp)
    assert light.tree_.get_n_leaves() == 1
    assert heavy.tree_.get_n_leaves() > 1


@pytest.mark.parametrize("factor", [[1e-3, 1.0, 1e3], [7.0, 0.2, 1.0]])
def test_tree_does_not_see_units(X, resp, factor):
    expected = TreeGate(8).fit(X, resp).log_proba(X)
    assert_allclose(
        TreeGate(8).fit(X * factor, resp).log_proba(X * factor), expected, atol=1e-6
    )


def test_tree_takes_nan(X, resp):
    X[::7, 0] = np.nan
    for n_estimators in (1, 4):
        gate = TreeGate(8, n_estimators=n_estimators).fit(X, resp)
        assert np.isfinite(gate.log_proba(X)).all()


def test_tree_limits(X, resp):
    assert TreeGate(1, max_depth=2).fit(X, resp).tree_.get_depth() == 2
    assert TreeGate(1, max_leaf_nodes=5).fit(X, resp).tree_.get_n_leaves() == 5


def test_tree_of_many_experts_finds_their_regions(rng):
    """It grows on random sums of the responsibilities, and the leaves are exact."""
    X = rng.uniform(size=(4000, 2))
    labels = (np.floor(X[:, 0] * 8) * 16 + np.floor(X[:, 1] * 16)).astype(int)
    routing = Routing.from_labels(labels, 128)
    assert sketch(routing.to_csr()).shape == (4000, MOST_OUTPUTS)
    gate = TreeGate(5).fit(X, routing)
    new = rng.uniform(size=(1000, 2))
    truth = (np.floor(new[:, 0] * 8) * 16 + np.floor(new[:, 1] * 16)).astype(int)
    assert np.mean(gate.best(new, 1)[1][:, 0] == truth) > 0.9


# ------------------------------------------------------------------ KNeighborsGate
def test_neighbours_by_hand():
    X = np.array([[0.0], [1], [10], [11]])
    targets = np.array([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]])
    gate = KNeighborsGate(3, weights="uniform", smoothing=1e-9).fit(X, targets)
    found = np.exp(gate.log_proba(np.array([[0.4], [10.6]])))
    assert_allclose(found, [[2 / 3, 1 / 3], [1.5 / 3, 1.5 / 3]], atol=1e-6)


def test_neighbours_reach_a_weight():
    """The last one counts with what is left of n_neighbors."""
    X = np.array([[0.0], [1], [2.5], [9]])
    targets = np.array([[0.5, 0], [0, 2.0], [4.0, 0], [1, 0]])
    gate = KNeighborsGate(3, weights="uniform", smoothing=1e-9).fit(X, targets)
    assert_allclose(np.exp(gate.log_proba(X[:1])), [[1 / 3, 2 / 3]], atol=1e-6)


def test_near_neighbours_count_more():
    X = np.array([[0.0], [1], [2]])
    targets = np.array([[1.0, 0], [0, 1], [1, 0]])
    gate = KNeighborsGate(3, weights="distance", smoothing=1e-9).fit(X, targets)
    part = np.array([[0.9, 0.1, 1.1], [0.1, 0.9, 1.9]])
    part = 1 - 0.99 * (part / [[1.1], [1.9]]) ** 2
    expected = part[:, 1] / part.sum(axis=1)
    proba = np.exp(gate.log_proba(np.array([[0.9], [0.1]])))
    assert_allclose(proba[:, 1], expected, atol=1e-6)


def test_neighbours_at_one_distance_count_alike():
    X = np.array([[0.0, 1], [0, -1], [1, 0], [-1, 0]])
    gate = KNeighborsGate(4, smoothing=1e-9).fit(X, np.eye(2)[[0, 1, 1, 1]])
    assert_allclose(np.exp(gate.log_proba(np.zeros((1, 2)))), [[0.25, 0.75]], atol=1e-6)


def test_neighbours_do_not_see_units(X, resp):
    expected = KNeighborsGate(7).fit(X, resp).log_proba(X)
    moved = X * [1e-6, 1.0, 1e6] + [0.0, 100.0, -1e6]
    found = KNeighborsGate(7).fit(moved, resp).log_proba(moved)
    assert_allclose(found, expected, atol=1e-5)


def test_all_rows_are_neighbours_of_few(X, resp):
    gate = KNeighborsGate(1000, weights="uniform").fit(X, resp)
    assert_allclose(np.exp(gate.log_proba(X)), np.tile(gate.share_, (80, 1)), rtol=1e-6)


def test_equal_rows_are_one_case(rng):
    X = rng.integers(0, 3, size=(50, 2)).astype(float)
    for rows in (X, sparse.csr_array(X)):
        first, case = distinct(rows)
        assert len(first) == 9
        assert_array_equal(X[first][case], X)


# ------------------------------------------------------------------- EstimatorGate
@pytest.mark.parametrize(
    "estimator",
    [
        HistGradientBoostingClassifier(max_iter=5),
        RandomForestClassifier(5),
        MLPClassifier((4,), max_iter=20, solver="lbfgs"),
        KNeighborsClassifier(),
        LinearDiscriminantAnalysis(),
        CalibratedClassifierCV(LinearSVC(), cv=2),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2),
        make_pipeline(StandardScaler(), GaussianNB()),
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_any_classifier_is_a_gate(estimator, X):
    labels = (X[:, 0] > 0).astype(int)
    soft = 0.9 * np.eye(2)[labels] + 0.05
    gate = EstimatorGate(estimator).fit(X, soft)
    log_proba = gate.log_proba(X)
    assert np.mean(log_proba.argmax(axis=1) == labels) > 0.85
    assert_array_equal(clone(gate).fit(X, soft).log_proba(X), log_proba)
    single = X.astype(np.float32)
    assert gate.log_proba(single).dtype == np.float32


def test_classifier_gets_soft_targets_as_weights(X, resp):
    resp = 0.9 * resp + 0.025
    gate = EstimatorGate(GaussianNB(), floor=1e-12).fit(X, resp)
    rows, labels = np.repeat(X, 4, axis=0), np.tile(np.arange(4), 80)
    expected = GaussianNB().fit(rows, labels, sample_weight=resp.ravel())
    assert_allclose(np.exp(gate.log_proba(X)), expected.predict_proba(X), atol=1e-6)


def test_weights_reach_the_last_step(X, resp):
    piped = EstimatorGate(make_pipeline(StandardScaler(), LogisticRegression()))
    counts = np.arange(80) % 3
    weighted = clone(piped).fit(X, resp * counts[:, None]).log_proba(X)
    assert np.abs(weighted - piped.fit(X, resp).log_proba(X)).max() > 1e-3


def test_labels_are_drawn_in_proportion(rng):
    resp = sparse.csr_array(np.tile([0.2, 0.0, 0.7, 0.1], (4000, 1)))
    counts = drawn(resp)
    assert_array_equal(counts.sum(axis=1), 1)
    assert_allclose(counts.sum(axis=0) / 4000, [0.2, 0, 0.7, 0.1], atol=0.02)
    twice = drawn(2.0 * resp)
    assert_array_equal(twice.sum(axis=1), 2)
    assert set(np.unique(twice.data)) == {1.0, 2.0}


def test_experts_that_no_row_has_get_the_floor(X):
    gate = EstimatorGate(GaussianNB(), floor=0.01).fit(
        X, Routing.from_labels((X[:, 0] > 0).astype(int), 5)
    )
    proba = np.exp(gate.log_proba(X))
    assert (proba[:, 2:] < 1e-6).all()
    assert (proba[:, 2:] > 0).all()


def test_traces_of_a_row_are_no_examples(X):
    resp = np.full((80, 3), 5e-4)
    resp[np.arange(80), (X[:, 0] > 0).astype(int)] = 1 - 1e-3
    gate = EstimatorGate(GaussianNB()).fit(X, resp)
    assert_array_equal(gate.estimator_.classes_, [0, 1])


@pytest.mark.parametrize(
    ("estimator", "memorises"),
    [
        (LogisticRegression(), False),
        (GaussianNB(), False),
        (LinearDiscriminantAnalysis(), False),
        (make_pipeline(StandardScaler(), LogisticRegression()), False),
        (CalibratedClassifierCV(LogisticRegression()), False),
        (GridSearchCV(RandomForestClassifier(), {}), True),
        (DecisionTreeClassifier(), True),
        (KNeighborsClassifier(), True),
        (MLPClassifier(), True),
        (HistGradientBoostingClassifier(), True),
        (make_pipeline(StandardScaler(), MLPClassifier()), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_estimator_gate_knows_who_memorises(estimator, memorises):
    assert EstimatorGate(estimator).memorises is memorises


def test_estimator_gate_takes_what_its_classifier_takes():
    assert EstimatorGate(LogisticRegression()).accepts_sparse
    assert not EstimatorGate(LogisticRegression()).allows_nan
    assert not EstimatorGate(HistGradientBoostingClassifier()).accepts_sparse
    assert EstimatorGate(HistGradientBoostingClassifier()).allows_nan


def test_estimator_gate_needs_probabilities(X, resp):
    message = r"'estimator' parameter of EstimatorGate must have predict_proba; got Lin"
    with pytest.raises(TypeError, match=message):
        EstimatorGate(LinearSVC()).fit(X, resp)


def test_estimator_gate_names_the_classifier_that_failed(X, resp):
    X[0] = np.nan
    with pytest.raises(ValueError, match="NaN") as caught:
        EstimatorGate(GaussianNB()).fit(X, resp)
    assert caught.value.__notes__ == ["Raised by the gate, GaussianNB()."]


# ----------------------------------------------------------------------- parameters
@pytest.mark.parametrize("gate", [TreeGate(), KNeighborsGate()], ids=["tree", "near"])
def test_auto_offers_variants(gate, X, resp):
    name = "min_samples_leaf" if isinstance(gate, TreeGate) else "n_neighbors"
    values = [getattr(variant, name) for variant in gate.variants()]
    assert len(set(values)) == len(values) > 2
    first = gate.variants()[0].fit(X, resp).log_proba(X)
    assert_array_equal(gate.fit(X, resp).log_proba(X), first)
    fixed = clone(gate).set_params(**{name: 7})
    assert [getattr(v, name) for v in fixed.variants()] == [7]


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (TreeGate(0), "min_samples_leaf"),
        (TreeGate("big"), "min_samples_leaf"),
        (TreeGate(max_depth=0), "max_depth"),
        (TreeGate(max_leaf_nodes=1), "max_leaf_nodes"),
        (TreeGate(n_estimators=0), "n_estimators"),
        (TreeGate(smoothing=0), "smoothing"),
        (KNeighborsGate(0), "n_neighbors"),
        (KNeighborsGate(weights="near"), "weights"),
        (KNeighborsGate(smoothing=-1), "smoothing"),
        (EstimatorGate(GaussianNB(), floor=0), "floor"),
        (EstimatorGate(None), "estimator"),
    ],
)
def test_a_bad_parameter_is_named(gate, name, X, resp):
    message = f"The '{name}' parameter of {type(gate).__name__} must be"
    with pytest.raises(ValueError, match=message):
        gate.fit(X, resp)
