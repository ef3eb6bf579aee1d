"""The unit of X, of one column or of all, changes nothing but rounding."""

import numpy as np
import pytest
from _cases import everyone, gaussian
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.backends import _reference
from skmoe.em import content_folds
from skmoe.em._problem import Problem
from skmoe.em._starts import STARTS, initial
from skmoe.experts import GLMPool, LinearPool, LogisticPool, left_out
from skmoe.gates import (
    ConstantGate,
    GaussianGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from skmoe.likelihoods import Categorical, Poisson
from skmoe.routing import Routing, Standard, TreeView, deviations, units

N = 120
FACTORS = {
    "one small": np.array([1e-12, 1.0, 1.0]),
    "one large": np.array([1.0, 1e12, 1.0]),
    "all small": np.full(3, 1e-12),
    "all large": np.full(3, 1e12),
    "far apart": np.array([1e12, 1.0, 1e-12]),
}
GATES = [
    ConstantGate(),
    GaussianGate(),
    GaussianGate("full"),
    GaussianGate("tied"),
    HierarchicalGate(),
    KNeighborsGate(),
    ProductGate(),
    SoftmaxGate(),
    TreeGate(),
    TreeGate(n_estimators=3),
]

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def by_name(values):
    return pytest.mark.parametrize("factor", values.values(), ids=values)


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).uniform(-2, 2, (N, 3))


@pytest.fixture(scope="module")
def new():
    return np.random.default_rng(1).uniform(-2, 2, (50, 3))


@pytest.fixture(scope="module")
def y(X):
    noise = 0.1 * np.random.default_rng(2).normal(size=N)
    return np.where(X[:, 0] > 0, 2 * X[:, 1], 1 - 2 * X[:, 1]) + noise


@pytest.fixture(scope="module")
def resp(X):
    odds = np.exp(X @ np.random.default_rng(3).normal(size=(3, 3)))
    return odds / odds.sum(axis=1, keepdims=True)


# ------------------------------------------------------------------------ columns
def test_deviations_tell_spread_from_rounding():
    mean = np.array([0.0, 0.1, 1e12, 1e-12, 5.0])
    deviation = np.array([1e-300, 1e-16, 1e-2, 1e-14, 0.0])
    assert_array_equal(deviations(mean, deviation**2) > 0, [0, 0, 0, 1, 0])
    # Underflow aside, only the column's own mean matters.
    assert deviations(np.zeros(1), np.array([1e-200])) == 1e-100


def test_units_are_never_zero():
    mean = np.array([3.0, -3.0, 0.0])
    assert_array_equal(units(mean, np.zeros(3)), [3.0, 3.0, 1.0])
    assert_array_equal(units(mean, np.full(3, 4.0)), [2.0, 2.0, 2.0])


@pytest.mark.parametrize("box", [np.asarray, sparse.csr_array])
def test_a_constant_column_has_no_moments(box, X, y):
    weight = np.random.default_rng(4).random(N)
    for value in (0.1, -12.7, 273.15, 1e12, 1e-12):
        table = box(np.column_stack([X, np.full(N, value)]))
        mean, variance = _reference.weighted_moments(table, weight)
        assert_allclose(mean[3], value, rtol=1e-15)
        assert_array_equal(deviations(mean, variance) > 0, [1, 1, 1, 0])
        A, _, x_mean, _ = _reference.gram(table, y[:, None], weight)
        assert_allclose(x_mean[3], value, rtol=1e-15)
        varies = deviations(x_mean, np.diagonal(A) / weight.sum()) > 0
        assert_array_equal(varies, [1, 1, 1, 0])


def test_columns_of_csr_far_from_zero_keep_their_digits(X, y):
    weight, shift = np.random.default_rng(4).random(N), np.array([1e9, 0.0, 0.0])
    expected = _reference.gram(X + shift, y[:, None], weight)
    found = _reference.gram(sparse.csr_array(X + shift), y[:, None], weight)
    for ours, theirs in zip(found, expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-10, atol=1e-6)


@pytest.mark.parametrize("origin", [0.0, 1.7e9, -1e6])
@pytest.mark.parametrize("unit", [1e-12, 1.0, 3e11])
def test_trees_tell_values_apart_in_any_unit(origin, unit):
    x = unit * (origin + np.random.default_rng(5).uniform(0, 100, (N, 1)))
    x[0] = np.nan
    view = TreeView.of(x)
    assert_array_equal(np.argsort(view.rows(x)[:, 0]), np.argsort(x[:, 0]))
    upper = x[:, 0] > np.nanmedian(x)
    tree = DecisionTreeRegressor(max_leaf_nodes=2).fit(view.rows(x), upper)
    cut = view.origin + view.unit * tree.tree_.threshold[0]
    assert_array_equal(x[:, 0] > cut, upper)


def test_a_value_far_out_does_not_blur_the_others():
    x = np.random.default_rng(5).normal(size=(N, 1)).astype(np.float32)
    x[0] = np.finfo(np.float32).min  # the nodata value of rasters
    assert len(np.unique(TreeView.of(x).rows(x))) == N


def test_trees_do_not_cut_rounding():
    x = np.where(np.arange(N) % 2, 0.1 + 0.2, 0.3)[:, None]
    tree = DecisionTreeRegressor().fit(TreeView.of(x).rows(x), np.arange(N) % 2)
    assert tree.get_n_leaves() == 1


# -------------------------------------------------------------------------- gates
@by_name(FACTORS)
@pytest.mark.parametrize("gate", GATES, ids=str)
def test_gates_do_not_see_units(gate, factor, X, resp, new):
    plain, scaled = gate.fit(X, resp).log_proba(new), gate.fit(X * factor, resp)
    assert_allclose(scaled.log_proba(new * factor), plain, atol=1e-4)


@pytest.mark.parametrize(
    ("box", "value"),
    [
        (np.asarray, 0.49),
        (np.asarray, -273.15),
        (np.asarray, 1e12),
        (sparse.csr_array, 0.0),
        (sparse.csr_array, 0.1),
        (sparse.csr_array, 12.7),
    ],
)
@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_constant_column_that_moves(gate, box, value, X, resp, new):
    def beside(rows, what):
        return box(np.column_stack([rows, np.full(len(rows), what)]))

    fitted = gate.fit(beside(X, value), resp)
    before = fitted.log_proba(beside(new, value))
    after = fitted.log_proba(beside(new, value + 0.01 * max(1.0, abs(value))))
    assert_allclose(after, before, atol=1e-6)


def test_the_trees_of_a_gate_speak_in_units_of_X(X, resp):
    shifted = 1e-9 * (X + 5.0)
    gate = TreeGate(10).fit(shifted, resp)
    leaves = gate.tree_.apply(shifted)
    assert_array_equal(leaves, gate.grown_.apply(gate.view_.rows(shifted)))
    assert np.ptp(leaves) > 3


# ------------------------------------------------------------------------- starts
def problem_of(X, y):
    return Problem(
        X=X,
        y=y[:, None],
        X_gate=X,
        sample_weight=np.ones(N),
        n_experts=4,
        width=4,
        max_iter=10,
        tol=1e-4,
    )


@by_name(FACTORS)
@pytest.mark.parametrize("kind", STARTS)
def test_starts_do_not_see_units(kind, factor, X, y):
    found = [initial(problem_of(rows, y), kind, 0, 0) for rows in (X, X * factor)]
    assert_allclose(found[1].weights, found[0].weights, atol=1e-6)


@by_name(FACTORS)
def test_folds_and_residuals_do_not_see_units(factor, X, y):
    plain, scaled = problem_of(X, y), problem_of(X * factor, y)
    residuals = scaled.content.residual, plain.content.residual
    assert_allclose(*residuals, atol=1e-9)
    assert_array_equal(content_folds(scaled, 5, 0), content_folds(plain, 5, 0))


def test_many_columns_of_a_tree_start_count_alike(y):
    wide = np.random.default_rng(6).normal(size=(N, 70))
    factor = 10.0 ** np.random.default_rng(7).uniform(-12, 12, size=70)
    found = [initial(problem_of(Z, y), "tree", 0, 0) for Z in (wide, wide * factor)]
    assert_array_equal(found[1].weights, found[0].weights)


# ------------------------------------------------------------------------ experts
def pool_of(kind, learner, family=None, n_experts=3):
    return kind([learner] * n_experts, likelihood=family or gaussian())


def alone(learner, X, y):
    """Return what a mixture of one expert says of its rows, (n,)."""
    routing = everyone(N, 1)
    pool = pool_of(LinearPool, learner, n_experts=1).fit(X, y[:, None], routing)
    return pool.predict(X, routing)[:, 0, 0]


@by_name(FACTORS)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_linear_experts_keep_columns_of_any_unit(fit_intercept, factor, X, y, resp):
    learner = LinearRegression(fit_intercept=fit_intercept)
    routing, rows = Routing.from_dense(resp), (X + 1, (X + 1) * factor)
    pools = [pool_of(LinearPool, learner).fit(Z, y[:, None], routing) for Z in rows]
    plain, scaled = (
        pool.predict(Z, routing) for pool, Z in zip(pools, rows, strict=True)
    )
    assert_allclose(scaled, plain, rtol=1e-9, atol=1e-9)
    judges = [left_out(pool_of(LinearPool, learner)) for _ in rows]
    plain, scaled = (
        judge.fit(Z, y[:, None], routing).evaluate(Z, y[:, None], routing)
        for judge, Z in zip(judges, rows, strict=True)
    )
    assert_allclose(scaled, plain, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("alpha", [0.0, 1e-12, 1e-3, 1.0])
def test_ridge_penalises_the_columns_as_they_are(alpha, X, y):
    for ratio in (1e-9, 1e-6, 1e6, 1e9):
        unit = np.array([1.0, ratio, 1.0])
        # As least squares with a row for each penalty, in columns of one size.
        centred, level = X - X.mean(axis=0), y.mean()
        both = np.vstack([centred, np.sqrt(alpha) * np.diag(1 / unit)])
        coef = np.linalg.lstsq(both, np.append(y - level, np.zeros(3)), rcond=None)[0]
        assert_allclose(alone(Ridge(alpha), X * unit, y), level + centred @ coef)


@by_name(FACTORS)
def test_twins_among_columns_of_other_units(factor, X, y):
    """One-hot columns sum to one; beside them the others keep their digits."""
    code = np.eye(3)[np.arange(N) % 3]
    tables = (np.hstack([Z, code, Z[:, :1]]) for Z in (X, X * factor))
    said = [alone(LinearRegression(), Z, y + code[:, 0]) for Z in tables]
    assert_allclose(said[1], said[0], atol=1e-9)


@by_name(FACTORS)
def test_logistic_experts_of_any_unit(factor, X, resp, new):
    labels, routing = (X @ [1.0, -1.0, 0.5] > 0.3).astype(int), Routing.from_dense(resp)
    learner = LogisticRegression(C=np.inf, tol=1e-8)
    noisy = np.where(np.random.default_rng(8).random(N) < 0.2, 1 - labels, labels)
    options = {"classes": np.arange(2), "likelihood": Categorical()}
    said = []
    for unit in (1.0, factor):
        pool = LogisticPool([learner] * 3, **options).fit(X * unit, noisy, routing)
        said.append(pool.predict(new * unit, everyone(50, 3)))
    assert_allclose(said[1], said[0], atol=1e-5)


@by_name(FACTORS)
def test_log_linear_experts_of_any_unit(factor, X, resp, new):
    counts = np.random.default_rng(8).poisson(np.exp(X @ [0.5, -0.5, 0.2]))[:, None]
    routing, said = Routing.from_dense(resp), []
    for unit in (1.0, factor):
        pool = pool_of(GLMPool, PoissonRegressor(alpha=0.0), Poisson())
        pool.fit((X + 3) * unit, counts, routing)
        rows = (new + 3) * unit
        said.append(pool.predict(rows, everyone(50, 3)))
    assert_allclose(said[1], said[0], rtol=1e-6)


# ----------------------------------------------------------------------- mixtures
QUICK = {"n_init": 1, "max_iter": 4, "random_state": 0, "n_experts": 2}
EXPERTS = [
    LinearRegression(),
    HistGradientBoostingRegressor(max_iter=3, min_samples_leaf=10),
]


def apart(estimator, factor, X, y, new, method="predict"):
    """Return how far answers in two units lie apart, in deviations of y."""
    answers = [
        getattr(estimator.fit(X * unit, y), method)(new * unit)
        for unit in (1.0, factor)
    ]
    return np.max(np.abs(answers[1] - answers[0])) / np.std(y)


@by_name({"far apart": FACTORS["far apart"]})
@pytest.mark.parametrize("expert", EXPERTS, ids=str)
def test_mixtures_do_not_see_units(expert, factor, X, y, new):
    model = MoERegressor(expert, **QUICK)
    assert apart(model, factor, X, y, new) < 1e-6


@pytest.mark.slow
@by_name({name: FACTORS[name] for name in ("all small", "far apart")})
@pytest.mark.parametrize("expert", EXPERTS, ids=str)
@pytest.mark.parametrize("gate", GATES[:-1], ids=str)  # cuts of a forest often tie
def test_mixtures_of_all_gates_do_not_see_units(gate, expert, factor, X, y, new):
    model = MoERegressor(expert, gate=gate, **{**QUICK, "max_iter": 2})
    assert apart(model, factor, X, y, new) < 1e-6


@by_name({"far apart": FACTORS["far apart"]})
def test_classifiers_do_not_see_units(factor, X, y, new):
    labels = (y > 0) ^ (np.random.default_rng(8).random(N) < 0.2)  # not separable
    model = MoEClassifier(LogisticRegression(C=np.inf), **QUICK)
    assert apart(model, factor, X, labels, new, "predict_proba") < 1e-3


@by_name({"far apart": FACTORS["far apart"]})
def test_streams_do_not_see_units(factor, X, y, new):
    def streamed(unit):
        model = MoERegressor(LinearRegression(), **QUICK)
        for rows in (slice(0, 60), slice(60, 90), slice(90, N)):
            model.partial_fit(X[rows] * unit, y[rows])
        return model.predict(new * unit)

    assert_allclose(streamed(factor), streamed(1.0), atol=1e-6)


@by_name({"far apart": FACTORS["far apart"]})
def test_new_experts_do_not_see_units(factor, X, y, new):
    def grown(unit):
        model = MoERegressor(LinearRegression(), cross_fit=None, **QUICK)
        model.fit(X * unit, y).add_experts(2, X * unit, y)
        return model.predict(new * unit)

    assert_allclose(grown(factor), grown(1.0), atol=1e-6)


def test_mixtures_shrug_off_a_constant_column_that_moves(X, y, new):
    value = 0.49
    table = np.column_stack([X, np.full(N, value)])
    model = MoERegressor(gate=KNeighborsGate(), **QUICK).fit(table, y)
    told = [np.column_stack([new, np.full(50, v)]) for v in (value, value + 0.01)]
    assert_allclose(model.predict(told[1]), model.predict(told[0]), atol=1e-9)


def test_standard_keeps_csr_sparse_and_its_dtype(X):
    for dtype in (np.float32, np.float64):
        table = sparse.csr_matrix(X * (X > 0), dtype=dtype)
        rows = Standard.of(table, np.ones(N)).rows(table)
        assert sparse.issparse(rows)
        assert rows.dtype == dtype
        assert rows.nnz == table.nnz
