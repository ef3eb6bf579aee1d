"""Gates and experts that learn from sums: what a sweep adds up, and what steps make."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Problem
from skmoe.em import _engine as engine
from skmoe.em import _sweep as sweeps
from skmoe.em._problem import Model
from skmoe.experts import make_pool
from skmoe.gates import (
    ConstantGate,
    GaussianGate,
    HierarchicalGate,
    ProductGate,
    SoftmaxGate,
)
from skmoe.likelihoods import Categorical, Gaussian, Poisson
from skmoe.routing import Routing, Table, no_less, row_keys

N_EXPERTS = 4


def rows(n=90, d=3, seed=0):
    random = np.random.RandomState(seed)
    X = random.normal(size=(n, d)) * np.array([1.0, 100.0, 1e-3])[:d] + 5.0
    y = np.where(X[:, 0] > 5, X[:, 1], -X[:, 1]) + random.normal(size=n)
    return X, y, random.uniform(0.5, 2.0, size=n)


def problem_of(kind="ridge", width=N_EXPERTS, n=90, learner=None, **changes):
    X, y, weight = rows(n)
    if kind == "ridge":
        Y = y[:, None]
        family = Gaussian().seen(Y, weight, 1.0)
        learner = learner or Ridge()
        classes = None
    else:
        cuts = [0] if kind == "binary" else [-60, 60]
        Y = np.digitize(y, cuts)
        family, learner = Categorical(), learner or LogisticRegression()
        classes = np.unique(Y)
    problem = Problem(X, X, Y, weight, N_EXPERTS, width, 60, 1e-9)
    pool = make_pool(
        [clone(learner) for _ in range(N_EXPERTS)],
        n_features=X.shape[1],
        likelihood=family,
        classes=classes,
    )
    return replace(problem, **changes), pool


def start_of(problem, seed=1):
    random = np.random.RandomState(seed)
    weights = random.dirichlet(np.ones(N_EXPERTS), size=len(problem.y))
    return Routing.from_dense(weights)


def first_model(problem, pool, start):
    rows = sweeps.Rows.of(problem)
    return sweeps.first_model(rows, SoftmaxGate(), pool, sweeps.dense(start))


def climbed(problem, model, n_pass=3):
    rows = sweeps.Rows.of(problem)
    climb = engine.Climb(rows, model, engine.rule_of(problem), problem.tol)
    for _ in range(n_pass):
        climb.step()
    return climb.model


KINDS = ["ridge", "binary", "three classes"]
WHOLE = np.array(1.0)


# ------------------------------------------------------------------------- tables
@pytest.mark.parametrize("d", [3, 70])
def test_moments_of_a_table_are_sums_over_rows(d):
    random = np.random.RandomState(0)
    X = random.normal(size=(50, d)) * 3 + 1
    weight = random.uniform(size=50)
    table = Table.of(X, weight)
    (block,) = table.blocks()
    W = random.uniform(size=(2, 50))
    U = np.column_stack([(X - table.center) / table.scale, np.ones(50)])
    np.testing.assert_allclose(block.U, U)
    expected = np.einsum("cn,ni,nj->cij", W, U, U)
    np.testing.assert_allclose(block.moments(W), expected, atol=1e-12)
    np.testing.assert_allclose(block.sums(W), W @ U)
    np.testing.assert_allclose(block.values(block.U[:2]), block.U[:2] @ U.T)


def curvature_of(table, W, n_blocks):
    parts = [block.curvature(W[:, block.rows], n_blocks) for block in table.blocks()]
    return no_less(*map(sum, zip(*parts, strict=True)))


def moments_of(table, W):
    return sum(block.moments(W[:, block.rows]) for block in table.blocks())


@pytest.fixture(scope="module")
def wide():
    """Rows of 70 columns that go together, and weights."""
    random = np.random.RandomState(0)
    X = random.normal(size=(6_000, 70)) + random.normal(size=(6_000, 1))
    return Table.of(X, np.ones(6_000)), random.uniform(size=(2, 6_000))


def test_some_rows_tell_a_curvature_where_rows_and_columns_are_many(wide):
    table, W = wide
    whole = moments_of(table, W)
    some = curvature_of(table, W, 5)  # 2 840 of the rows
    assert not np.array_equal(some, whole)
    at = np.arange(71)
    assert np.all(some[:, at, at] >= whole[:, at, at] * (1 - 1e-12))
    # Each entry has a standard error of about 2.5 %.
    np.testing.assert_allclose(some, whole, atol=0.15 * whole.max())
    assert np.all(np.linalg.eigvalsh(some) > 0)
    np.testing.assert_array_equal(curvature_of(table, W, 1_000), whole)


def test_the_rows_of_a_curvature_depend_on_no_order_and_on_no_parts(wide):
    table, W = wide
    whole = curvature_of(table, W, 5)
    order = np.random.RandomState(1).permutation(6_000)
    of_order = Table(table.X[order], table.center, table.scale)
    np.testing.assert_allclose(curvature_of(of_order, W[:, order], 5), whole)
    parts = []
    for rows in (order[:1_500], order[1_500:]):
        part = Table(table.X[rows], table.center, table.scale, n_rows=6_000)
        w = W[:, rows]
        parts += [block.curvature(w[:, block.rows], 5) for block in part.blocks()]
    np.testing.assert_allclose(no_less(*map(sum, zip(*parts, strict=True))), whole)


def test_a_rare_category_keeps_its_curvature(wide):
    X = wide[0].X.copy()
    X[:, 1] = 0.0
    X[17, 1] = 1.0  # the only row of its category
    table = Table.of(X, np.ones(6_000))
    W = np.ones((1, 6_000))
    whole, some = moments_of(table, W), curvature_of(table, W, 1)
    assert some[0, 1, 1] >= whole[0, 1, 1] * (1 - 1e-12)
    assert some[0, 0, 0] != whole[0, 0, 0]


@pytest.mark.parametrize("form", [np.asarray, np.float32, sparse.csr_matrix])
def test_keys_of_rows_depend_on_content_alone(form):
    X = np.random.RandomState(0).normal(size=(9_000, 3)).astype(np.float32)
    X[0] = 0.0
    X[1] = X[2]
    keys = row_keys(form(X))
    assert len(np.unique(keys)) == 8_999
    assert keys[1] == keys[2]
    np.testing.assert_array_equal(row_keys(form(X)[5_000:]), keys[5_000:])
    np.testing.assert_array_equal(row_keys(X.astype(np.float64)), keys)
    assert not np.any(row_keys(X, seed=1) == keys)
    share = np.mean(keys[:, None] < np.array([0.1, 0.5, 0.9]) * 2.0**64, axis=0)
    np.testing.assert_allclose(share, [0.1, 0.5, 0.9], atol=0.02)


def test_zeros_and_missing_values_have_one_key():
    other = np.frombuffer(np.uint64(0xFFF8000000000001).tobytes())[0]  # NaN as well
    X = np.array([[0.0, np.nan], [-0.0, other]])
    assert len(np.unique(row_keys(X))) == 1


def test_rows_without_weight_take_no_part_in_moments(wide):
    table, W = wide
    W = np.where(np.random.RandomState(3).uniform(size=W.shape) < 0.2, W, 0.0)
    expected = sum(
        np.einsum("cn,ni,nj->cij", W[:, block.rows], block.U, block.U)
        for block in table.blocks()
    )
    np.testing.assert_allclose(moments_of(table, W), expected, atol=1e-8)


def test_linear_functions_go_in_and_out():
    X, _, weight = rows()
    table = Table.of(X, weight)
    coef = np.arange(6.0).reshape(2, 3)
    inner = table.inner(coef, np.array([1.0, -1.0]))
    (block,) = table.blocks()
    np.testing.assert_allclose(block.U @ inner.T, X @ coef.T + [1.0, -1.0])
    back = table.outer(inner)
    np.testing.assert_allclose(back[0], coef)
    np.testing.assert_allclose(back[1], [1.0, -1.0], atol=1e-9)


# ----------------------------------------------------------------------- M-steps
@pytest.mark.parametrize("learner", [Ridge(alpha=3.0), LinearRegression()])
def test_ridge_experts_from_sums_are_those_of_their_rows(learner):
    problem, pool = problem_of(learner=learner)
    start = start_of(problem)
    model = first_model(problem, pool, start)
    mass = start.scaled(problem.sample_weight)
    expected = pool.fit(problem.X, problem.y, mass)
    expected = expected.rescale(
        problem.y, expected.evaluate(problem.X, problem.y, start), mass
    )
    np.testing.assert_allclose(model.experts.coef, expected.coef, rtol=1e-8)
    np.testing.assert_allclose(model.experts.intercept, expected.intercept, rtol=1e-8)
    np.testing.assert_allclose(model.experts.scale, expected.scale, rtol=1e-8)


def test_equal_columns_get_the_least_norm():
    problem, pool = problem_of(learner=LinearRegression())
    X = np.column_stack([problem.X, problem.X[:, 0]])
    problem = replace(problem, X=X, X_gate=X, content=None)
    start = start_of(problem)
    model = first_model(problem, pool, start)
    expected = pool.fit(X, problem.y, start.scaled(problem.sample_weight))
    np.testing.assert_allclose(model.experts.coef, expected.coef, rtol=1e-5)


@pytest.mark.parametrize("pairs", [128, 0], ids=["pairs", "blocks"])
def test_steps_of_the_gate_end_at_its_optimum(pairs, monkeypatch):
    monkeypatch.setattr("skmoe.solvers._newton.PAIRS", pairs)
    problem, _ = problem_of()
    start = start_of(problem)
    mass = start.scaled(problem.sample_weight)
    table = problem.content.gate_table
    (block,) = table.blocks()
    gate = SoftmaxGate(alpha=0, tol=1e-10).blank(
        table, np.full(N_EXPERTS, 1 / N_EXPERTS)
    )
    for _ in range(400):
        log_proba = gate.log_proba_of(table, block)
        sums = gate.sums(block, log_proba, mass.weights.T, problem.sample_weight)
        gate, _ = gate.step(table, sums, WHOLE)
    exact = SoftmaxGate(alpha=0, tol=1e-10, max_iter=2000).fit(problem.X, mass)
    np.testing.assert_allclose(
        gate.log_proba(problem.X), exact.log_proba(problem.X), atol=2e-5
    )


@pytest.mark.parametrize(
    "gate",
    [
        ConstantGate(),
        ProductGate(alpha=1e-3, tol=1e-10),
        HierarchicalGate(branching=2, alpha=1e-3, tol=1e-10),
        HierarchicalGate(tree=[0, [1, [2, 3]]], alpha=1e-3, tol=1e-10),
        GaussianGate("diag", density_exponent=1.0),
        GaussianGate("full", density_exponent=0.5),
        GaussianGate("tied", density_exponent=1.0),
    ],
    ids=["constant", "product", "hierarchical", "uneven tree", "diag", "full", "tied"],
)
def test_steps_go_on_from_a_fitted_gate_to_the_optimum(gate):
    problem, _ = problem_of()
    first = start_of(problem, 1).scaled(problem.sample_weight)
    mass = start_of(problem, 2).scaled(problem.sample_weight)
    table = problem.content.gate_table
    (block,) = table.blocks()
    gate = gate.fit(problem.X, first)
    np.testing.assert_allclose(
        gate.log_proba_of(table, block).T, gate.log_proba(problem.X), atol=1e-10
    )
    exact = gate
    for _ in range(50):
        exact = exact.update(problem.X, mass)
    for _ in range(400):
        log_proba = gate.log_proba_of(table, block)
        sums = gate.sums(block, log_proba, mass.weights.T, problem.sample_weight)
        gate, gain = gate.step(table, sums, WHOLE)
        assert gain >= -1e-9
    # A step of which only the penalty would gain is not taken.
    np.testing.assert_allclose(
        gate.log_proba(problem.X), exact.log_proba(problem.X), atol=5e-4
    )


def test_steps_of_poisson_experts_end_at_their_optimum():
    problem, _ = problem_of()
    y = np.random.RandomState(0).poisson(5.0, size=(len(problem.y), 1)).astype(float)
    learners = [PoissonRegressor(alpha=0.01, tol=1e-10) for _ in range(N_EXPERTS)]
    family = Poisson().seen(y, problem.sample_weight, 1.0)
    pool = make_pool(learners, n_features=3, likelihood=family)
    first = start_of(problem, 1).scaled(problem.sample_weight)
    mass = start_of(problem, 2).scaled(problem.sample_weight)
    stepping = copy.copy(pool).fit(problem.X, y, first)
    exact = copy.copy(pool).fit(problem.X, y, mass)
    table = problem.content.table
    (block,) = table.blocks()
    start = stepping.predict(problem.X, mass)
    assert np.max(np.abs(start - exact.predict(problem.X, mass))) > 0.05
    for _ in range(50):
        answers = stepping.answers(table, block)
        np.testing.assert_allclose(
            stepping.log_density_of(y.T, answers).T,
            stepping.log_likelihood(problem.X, y, mass),
            rtol=1e-8,
        )
        sums = stepping.sums(block, y.T, answers, mass.weights.T, problem.sample_weight)
        stepping, _ = stepping.step(table, sums, WHOLE)
    np.testing.assert_allclose(
        stepping.predict(problem.X, mass), exact.predict(problem.X, mass), rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["binary", "three classes"])
@pytest.mark.parametrize("pairs", [128, 0], ids=["pairs", "blocks"])
def test_steps_of_logistic_experts_end_at_their_optimum(kind, pairs, monkeypatch):
    monkeypatch.setattr("skmoe.solvers._newton.PAIRS", pairs)
    problem, pool = problem_of(kind, learner=LogisticRegression(C=np.inf, tol=1e-8))
    start = start_of(problem)
    mass = start.scaled(problem.sample_weight)
    table = problem.content.table
    (block,) = table.blocks()
    stepping = pool.blank(table, problem.y)
    for _ in range(400):
        answers = stepping.answers(table, block)
        sums = stepping.sums(
            block, problem.y, answers, mass.weights.T, problem.sample_weight
        )
        stepping, _ = stepping.step(table, sums, WHOLE)
    exact = pool.fit(problem.X, problem.y, mass)
    np.testing.assert_allclose(
        stepping.predict(problem.X, start), exact.predict(problem.X, start), atol=2e-4
    )


# ------------------------------------------------------------------------ passes
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [N_EXPERTS, 2])
def test_the_bound_never_falls(kind, width):
    problem, pool = problem_of(kind, width)
    for seed in range(5):
        start = start_of(problem, seed)
        result = engine.run(problem, engine.begin(problem, SoftmaxGate(), pool, start))
        bounds = np.array([info.bound for info in result.passes])
        assert np.all(np.diff(bounds) >= -1e-10 * np.abs(bounds[:-1]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_of_a_sweep_is_that_of_its_rows(kind):
    problem, pool = problem_of(kind)
    state = engine.begin(problem, SoftmaxGate(), pool, start_of(problem))
    model = Model(state.gate, state.pool)
    sums = sweeps.sweep(sweeps.Rows.of(problem), model, sweeps.best_of(4))
    expected = engine.resume(problem, state.gate, state.pool)
    assert sums.bound == pytest.approx(expected.bound, rel=1e-10)
    assert state.bound == pytest.approx(expected.bound, rel=1e-10)
    np.testing.assert_allclose(state.resp.weights, expected.resp.weights, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_rows_add_up(kind, monkeypatch):
    def passed():
        problem, pool = problem_of(kind)
        return climbed(problem, first_model(problem, pool, start_of(problem)))

    whole = passed()
    monkeypatch.setattr("skmoe.routing._table.ROWS", 17)
    parts = passed()
    np.testing.assert_allclose(parts.gate.coef_, whole.gate.coef_, rtol=1e-6)
    np.testing.assert_allclose(parts.experts.coef, whole.experts.coef, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_csr_rows_are_those_of_the_dense_table(kind):
    def passed(change):
        problem, pool = problem_of(kind)
        X = change(np.where(problem.X > 5, problem.X, 0.0))
        problem = replace(problem, X=X, X_gate=X, content=None)
        return climbed(problem, first_model(problem, pool, start_of(problem)))

    dense, csr = passed(np.asarray), passed(sparse.csr_array)
    np.testing.assert_allclose(csr.gate.coef_, dense.gate.coef_, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(csr.experts.coef, dense.experts.coef, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [N_EXPERTS, 2])
def test_models_that_run_at_once_are_those_that_run_alone(kind, width):
    problem, pool = problem_of(kind, width)
    rows = sweeps.Rows.of(problem)
    shares = [sweeps.dense(start_of(problem, seed)) for seed in range(3)]
    parts = np.ones((3, 90))
    parts[1, :30] = parts[2, 60:] = 0.0
    weights = parts * problem.sample_weight

    def trained(weight, share):
        some = replace(rows, weight=weight)
        powers, n_wide = (0.3, 1.0), N_EXPERTS
        model = engine.warmed(some, SoftmaxGate(), pool, share, powers, n_wide)
        climb = engine.Climb(some, model, engine.rule_of(problem), problem.tol)
        for _ in range(5):
            climb.step()
        return climb

    together = trained(weights, np.stack(shares))
    for at in range(3):
        alone = trained(weights[at], shares[at])
        model = sweeps.picked(together.model, at)
        bound = together.sums.bound[at]
        assert bound == pytest.approx(float(alone.sums.bound), rel=1e-8)
        for ours, theirs in (
            (model.gate.coef_, alone.model.gate.coef_),
            (model.experts.coef, alone.model.experts.coef),
            (model.experts.intercept, alone.model.experts.intercept),
        ):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_weight_teach_nothing(kind):
    problem, pool = problem_of(kind)
    kept = np.arange(90) % 3 > 0
    start = start_of(problem)
    few = problem.take(np.flatnonzero(kept))
    rows = sweeps.Rows.of(problem)
    some = replace(rows, weight=np.where(kept, rows.weight, 0.0))
    alone = first_model(few, pool, start.take(np.flatnonzero(kept)))
    share = sweeps.dense(start)
    model = sweeps.first_model(some, SoftmaxGate(), pool, share)
    np.testing.assert_allclose(model.experts.coef, alone.experts.coef, rtol=1e-6)


# -------------------------------------------------------------------------- race
@pytest.mark.parametrize("estimator", [MoERegressor, MoEClassifier])
def test_float32_stays(estimator):
    X, y, _ = rows(200)
    target = y if estimator is MoERegressor else (y > 0).astype(int)
    model = estimator(n_experts=2, random_state=0).fit(X.astype(np.float32), target)
    assert model.gate_proba(X.astype(np.float32)).dtype == np.float32


def test_the_best_starts_go_on():
    random = np.random.RandomState(0)
    X = random.uniform(-2, 2, size=(400, 2))
    left = X[:, 0] < 0
    y = np.where(left, 3 * X[:, 1], -3 * X[:, 1]) + 0.1 * random.normal(size=400)
    model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.98
    assert {run["start"] for run in model.history_} == {"race", "chosen"}


def test_starts_that_do_not_fit_into_memory_at_once_take_turns(monkeypatch):
    X, y, _ = rows(300)
    model = MoERegressor(n_experts=2, random_state=0)
    together = clone(model).fit(X, y).predict(X)
    monkeypatch.setattr("skmoe.em._race.NUMBERS", 1)
    one_by_one = clone(model).fit(X, y).predict(X)
    np.testing.assert_allclose(one_by_one, together, rtol=1e-5)
