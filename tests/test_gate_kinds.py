"""Every gate, by name and as an object, inside both estimators."""

import copy
import functools
import pickle
import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier, MoERegressor, gates
from skmoe.estimators._gate_and_experts import GATES
from skmoe.gates import (
    BaseGate,
    EstimatorGate,
    GaussianGate,
    GroupGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

random = np.random.RandomState(0)
N = 120
X = np.column_stack([random.randint(4, size=N), random.standard_normal((N, 2))])
Y = np.where(X[:, 1] > 0, X[:, 2], -X[:, 2]) + 0.1 * random.standard_normal(N)
LABELS = np.where(Y > 0, "a", "b")
SPARSE_X = random.standard_normal((N, 4))
SPARSE_X[np.abs(SPARSE_X) < 0.5] = 0.0
SPARSE_X[:, 0] = X[:, 0]

OBJECTS = {
    "full gaussian": GaussianGate("full"),
    "small leaves": TreeGate(5),
    "forest": TreeGate(5, n_estimators=3),
    "binary tree": HierarchicalGate(2),
    "one row of a grid": ProductGate((4, 1)),
    "neighbours": KNeighborsGate(7),
    "groups": GroupGate(0),
    "bayes": EstimatorGate(GaussianNB()),
    "a classifier": DecisionTreeClassifier(max_depth=3),
    "a classifier of scaled rows": make_pipeline(
        StandardScaler(), LogisticRegression()
    ),
    "a gate of scaled rows": make_pipeline(StandardScaler(), KNeighborsGate(7)),
}
KINDS = {name: name for name in GATES} | OBJECTS
TARGETS = {MoERegressor: Y, MoEClassifier: LABELS}
QUICK = {
    "n_experts": 4,
    "cross_fit": None,
    "n_init": 1,
    "max_iter": 3,
    "tol": 1.0,
    "random_state": 0,
}

each_gate = pytest.mark.parametrize("gate", KINDS.values(), ids=KINDS)
both = pytest.mark.parametrize("moe", TARGETS)
regressors = pytest.mark.parametrize(
    "moe", [MoERegressor, pytest.param(MoEClassifier, marks=pytest.mark.slow)]
)
"""Where a gate does not know what the experts answer, classifiers run as slow ones."""


@functools.cache
def fitted(moe, gate):
    """Return a mixture to read, not to change: tests share it."""
    return moe(gate=gate, **QUICK).fit(X, TARGETS[moe])


def answers(model, table=X):
    """Return what a fitted mixture says of a table."""
    said = getattr(model, "predict_proba", model.predict)(table)
    return said, model.gate_proba(table), model.route(table).toarray()


def assert_same_bits(one, other, table=X):
    for a, b in zip(answers(one, table), answers(other, table), strict=True):
        assert_array_equal(a, b)


def last(gate):
    """Return the gate itself, without the steps before it."""
    return gate[-1] if hasattr(gate, "steps") else gate


def test_no_kind_is_forgotten():
    met = {type(last(gate)) for gate in OBJECTS.values()} | set(GATES.values())
    exported = {getattr(gates, name) for name in gates.__all__}
    kinds = {kind for kind in exported if issubclass(kind, BaseGate)} - {BaseGate}
    assert kinds <= met


# -------------------------------------------------------------------- contract
@both
@each_gate
def test_answers_are_those_of_a_mixture(moe, gate):
    y, model = TARGETS[moe], fitted(moe, gate)
    kind = GATES[gate] if isinstance(gate, str) else type(last(gate))
    kind = kind if issubclass(kind, BaseGate) else EstimatorGate
    assert type(last(model.gate_)) is kind
    assert_allclose(model.gate_proba(X).sum(axis=1), 1.0)
    assert_allclose(model.route(X).toarray().sum(axis=1), 1.0)
    assert model.apply(X).shape == (N, 2)
    assert model.expert_load_.sum() == pytest.approx(1.0)
    # What training says of the model is what the model says of the rows.
    assert model.score_samples(X, y).mean() == pytest.approx(model.routed_bound_)


@regressors
@each_gate
def test_copies_are_the_same(moe, gate):
    model = fitted(moe, gate)
    assert_same_bits(model, pickle.loads(pickle.dumps(model)))
    assert_same_bits(model, clone(model).set_params(n_jobs=2).fit(X, TARGETS[moe]))


@each_gate
def test_fit_leaves_the_gate_it_was_given_alone(gate):
    before = gate if isinstance(gate, str) else dict(vars(gate))
    MoERegressor(gate=gate, **QUICK).fit(X, Y)
    assert (gate if isinstance(gate, str) else vars(gate)) == before


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["gaussian", "tree", KNeighborsGate()], ids=str)
def test_seeds_and_jobs_where_rows_are_held_out(gate):
    params = {"n_experts": 2, "n_init": 2, "max_iter": 3, "random_state": 3}
    model = MoERegressor(gate=gate, **params).fit(X, Y)
    assert_same_bits(model, clone(model).set_params(n_jobs=2).fit(X, Y))


@regressors
@each_gate
def test_float32(moe, gate):
    single = X.astype(np.float32)
    model = moe(gate=gate, **QUICK).fit(single, TARGETS[moe])
    assert model.gate_proba(single).dtype == np.float32
    assert_allclose(model.gate_proba(single).sum(axis=1), 1.0, rtol=1e-5)
    routed, double = model.route(single), model.route(X.astype(np.float64))
    assert routed.dtype == np.float32
    assert_allclose(routed.toarray(), double.toarray(), atol=1e-4)


@regressors
@each_gate
def test_csr_is_dense(moe, gate):
    csr, y = sparse.csr_array(SPARSE_X), TARGETS[moe]
    model = moe(gate=gate, **QUICK)
    if not model.__sklearn_tags__().input_tags.sparse or hasattr(gate, "steps"):
        pytest.skip("dense only, or a scaler that centres")
    found, expected = clone(model).fit(csr, y), clone(model).fit(SPARSE_X, y)
    for a, b in zip(answers(found, csr), answers(expected, SPARSE_X), strict=True):
        assert_allclose(a, b, atol=1e-5)
    for a, b in zip(answers(found, csr), answers(found, SPARSE_X), strict=True):
        assert_allclose(a, b, atol=1e-9)


def test_csr_and_a_gate_that_takes_none():
    with pytest.raises(TypeError, match=r"Sparse data was passed"):
        MoERegressor(gate=GaussianNB(), **QUICK).fit(sparse.csr_array(X), Y)


@regressors
@each_gate
def test_warm_start_goes_on(moe, gate):
    y = TARGETS[moe]
    model = copy.deepcopy(fitted(moe, gate)).set_params(warm_start=True)
    kind, top_k = type(last(model.gate_)), model.top_k
    # EM climbs on all experts; how predict routes the rows is another bound.
    before = model.set_params(top_k=None).score_samples(X, y).mean()
    model.set_params(top_k=top_k, max_iter=6).fit(X, y)
    assert type(last(model.gate_)) is kind
    assert model.lower_bound_ >= before - 1e-9


@pytest.mark.parametrize("gate", ["gaussian", TreeGate(5), KNeighborsGate(7)], ids=str)
def test_warm_start_of_gates_that_rows_held_out_chose(gate):
    params = QUICK | {"cross_fit": 2, "warm_start": True}
    model = MoERegressor(gate=gate, **params).fit(X, Y)
    before, chosen = model.routed_bound_, model.gate_.get_params()
    model.set_params(max_iter=10).fit(X, Y)
    assert model.gate_.get_params() == chosen
    assert model.routed_bound_ >= before - 0.05


def test_warm_start_with_another_gate():
    model = MoERegressor(gate="tree", warm_start=True, **QUICK).fit(X, Y)
    with pytest.raises(
        ValueError, match=r"needs the kind of gate of the previous fit, TreeG"
    ):
        model.set_params(gate="softmax").fit(X, Y)


@pytest.mark.parametrize("gate", [TreeGate(5), KNeighborsGate(7)], ids=str)
@pytest.mark.parametrize("factor", [1 - 1e-15, 1 + 1e-15])
def test_rounding_of_responsibilities_decides_nothing(gate, factor):
    """A leaf of five rows has weight five, whatever their sums lack."""
    resp = random.dirichlet(np.full(3, 0.3), size=N)
    expected = clone(gate).fit(X, resp).log_proba(X)
    assert_allclose(clone(gate).fit(X, factor * resp).log_proba(X), expected)


# ---------------------------------------------------------------------- search
def test_a_search_over_kinds_of_gates():
    """Rows in boxes of two features: a tree is the gate for them."""
    table = random.uniform(-1, 1, (240, 2))
    inside = (np.abs(table) < 0.6).all(axis=1)
    y = np.where(inside, 3.0, -3.0) * table[:, 0] + 0.05 * random.standard_normal(240)
    model = MoERegressor(
        Ridge(1e-3), **QUICK | {"n_experts": 2, "top_k": 1, "tol": 1e-4}
    )
    kinds = ["softmax", "constant", TreeGate(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(model, {"gate": kinds}, cv=2).fit(table, y)
    assert isinstance(search.best_params_["gate"], TreeGate)
    assert search.best_score_ > 0.5


@pytest.mark.parametrize(
    ("gate", "grid"),
    [
        (SoftmaxGate(), {"alpha": [1e-3, 1.0]}),
        (GaussianGate(), {"covariance_type": ["full", "tied"]}),
        (TreeGate(), {"min_samples_leaf": [5, 20], "n_estimators": [1, 3]}),
        (HierarchicalGate(), {"branching": [2, (2, 2)], "alpha": [1e-3, 1.0]}),
        (ProductGate(), {"shape": [None, (4, 1)]}),
        (KNeighborsGate(), {"n_neighbors": [5, 20], "weights": ["uniform"]}),
        (GroupGate(), {"concentration": [1.0, 10.0]}),
        (EstimatorGate(DecisionTreeClassifier()), {"estimator__max_depth": [1, 3]}),
        (make_pipeline(StandardScaler(), TreeGate()), {"treegate__max_depth": [1, 3]}),
        (DecisionTreeClassifier(), {"max_depth": [1, 3]}),
    ],
    ids=lambda part: "" if isinstance(part, dict) else type(last(part)).__name__,
)
def test_parameters_of_a_gate_are_searched(gate, grid):
    grid = {f"gate__{name}": values for name, values in grid.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        search = GridSearchCV(MoERegressor(gate=gate, **QUICK), grid, cv=2).fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert set(search.best_params_) == set(grid)


# ----------------------------------------------------------------------- errors
@both
@pytest.mark.parametrize(
    ("gate", "error", "message"),
    [
        ("forest", ValueError, "'gate' .*'gaussian'.* Got 'forest'"),
        (Ridge(), ValueError, r"gate must be one of .*'tree'.* got Ridge\(\), which "),
        (TreeGate, ValueError, r"gate must be .*TreeGate'>, which is a class"),
        (GaussianNB, ValueError, r"gate must be .*GaussianNB'>, which "),
        (make_pipeline(StandardScaler(), Ridge()), ValueError, "has no log_proba"),
        (LinearSVC(), TypeError, r"must have predict_proba; got LinearSVC\(\)"),
        (TreeGate(0), ValueError, "'min_samples_leaf' parameter of TreeGate must be"),
        (GroupGate(9), ValueError, "columns must name columns of X, which has 3"),
        (ProductGate((3, 2)), ValueError, r"shape must .*\(3, 2\)"),
        (HierarchicalGate((2,)), ValueError, r"branching must be .* 4; got \(2,\)"),
    ],
    ids=str,
)
def test_what_is_no_gate_is_named(moe, gate, error, message):
    with pytest.raises(error, match=message):
        moe(gate=gate, **QUICK).fit(X, TARGETS[moe])
