"""Which experts are asked: top_p, capacity, balance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.backends import _reference
from skmoe.em import Problem
from skmoe.em._load_limits import balanced
from skmoe.gates import RoutingRule, SoftmaxGate
from skmoe.routing import Routing, nucleus, within_capacity

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

random = np.random.RandomState(0)
N = 400
X = random.standard_normal((N, 3))
Y = np.abs(X[:, 0]) + 0.3 * X[:, 1] + 0.1 * random.standard_normal(N)


# ----------------------------------------------------------------------- top_p
def test_nucleus_by_hand():
    proba = np.array([[0.6, 0.3, 0.1], [0.95, 0.05, 0.0], [0.4, 0.35, 0.25]])
    best = np.array([[2, 0, 1], [1, 0, 2], [0, 1, 2]])
    routing = nucleus(np.log(np.maximum(proba, 1e-300)), best, 3, 0.7)
    np.testing.assert_array_equal(
        routing.indices, [[2, 0, -1], [1, -1, -1], [0, 1, -1]]
    )
    expected = [[2 / 3, 1 / 3, 0], [1, 0, 0], [0.4 / 0.75, 0.35 / 0.75, 0]]
    np.testing.assert_allclose(routing.weights, expected)


@pytest.mark.parametrize("moe", [MoERegressor, MoEClassifier])
@pytest.mark.parametrize("expert", ["grouped", "one by one"])
def test_top_p_one_is_top_k(moe, expert):
    y = Y if moe is MoERegressor else Y > 1
    learner = None
    if expert == "one by one":
        learner = DecisionTreeRegressor(max_depth=2)
        if moe is MoEClassifier:
            from sklearn.naive_bayes import GaussianNB

            learner = GaussianNB()
    params = {"n_experts": 4, "n_init": 1, "max_iter": 5, "random_state": 0}
    model = moe(learner, top_k=3, cross_fit=None, **params).fit(X, y)
    expected = model.score_samples(X, y)
    model.set_params(top_p=1.0)
    np.testing.assert_allclose(model.score_samples(X, y), expected, atol=1e-9)


def test_easy_rows_ask_fewer_experts():
    model = MoERegressor(n_experts=4, top_k=3, top_p=0.9, random_state=0).fit(X, Y)
    proba, routed = model.gate_proba(X), model.route(X)
    asked = np.diff(routed.indptr)
    ranked = -np.sort(-proba, axis=1)
    needed = 1 + (np.cumsum(ranked, axis=1)[:, :2] < 0.9).sum(axis=1)
    np.testing.assert_array_equal(asked, needed)
    found = model.diagnostics_["experts_per_row"]
    assert found == pytest.approx(asked.mean())
    assert 1 < found < 3
    np.testing.assert_allclose(routed.sum(axis=1), 1)
    apply = model.apply(X)
    np.testing.assert_array_equal((apply >= 0).sum(axis=1), asked)


# -------------------------------------------------------------------- capacity
def ranked(proba):
    def rank(rows):
        return _reference.top_k(np.log(proba[rows]), proba.shape[1])

    return rank


@given(
    seed=st.integers(0, 1000),
    n_experts=st.integers(1, 6),
    top_k=st.integers(1, 3),
    factor=st.floats(1, 3),
    drop=st.booleans(),
)
def test_nobody_is_over_capacity_and_no_row_is_lost(
    seed, n_experts, top_k, factor, drop
):
    rng, n, top_k = np.random.RandomState(seed), 30, min(top_k, n_experts)
    proba = rng.dirichlet(np.r_[5.0, np.ones(n_experts - 1)], size=n)
    log_best, best = _reference.top_k(np.log(proba), top_k)
    asked = Routing(best, _reference.softmax(log_best), n_experts)
    capacity = int(np.ceil(factor * n * top_k / n_experts))
    found = within_capacity(asked, capacity, ranked(proba), drop=drop)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1)
    assert all(len(set(row[row >= 0])) == (row >= 0).sum() for row in found.indices)
    wide = (found.indices >= 0).sum(axis=1)
    if drop:
        assert (wide >= 1).all()
        assert (np.isin(found.indices, [-1]) | (found.indices == asked.indices)).all()
    elif n_experts > 1:
        # What is left in the end may be an expert that a row has already.
        assert (found.load() <= capacity).all() or top_k > 1
        assert (wide == top_k).mean() > 0.8
    if capacity >= n:
        np.testing.assert_array_equal(found.indices, asked.indices)


def test_capacity_moves_the_least_sure_rows():
    proba = np.array([[0.9, 0.06, 0.04], [0.6, 0.1, 0.3], [0.8, 0.15, 0.05]])
    asked = Routing(np.zeros((3, 1), dtype=int), np.ones((3, 1)), 3)
    asked = asked.with_weights(proba[:, :1])
    found = within_capacity(asked, 2, ranked(proba))
    np.testing.assert_array_equal(found.indices[:, 0], [0, 2, 0])
    found = within_capacity(asked, 1, ranked(proba))
    np.testing.assert_array_equal(found.indices[:, 0], [0, 2, 1])


def test_capacity_limits_a_batch():
    params = {"n_experts": 4, "top_k": 1, "random_state": 0, "cross_fit": None}
    model = MoERegressor(**params, capacity_factor=1.0).fit(X, Y)
    load = np.diff(model.route(X).tocsc().indptr)
    np.testing.assert_array_equal(load, N / 4)
    limited = model.apply(X)[:, 0]
    model.set_params(capacity_factor=None)
    n_moved = np.count_nonzero(limited != model.apply(X)[:, 0])
    assert model.diagnostics_["rows_moved"] == n_moved > 0
    assert np.diff(model.route(X).tocsc().indptr).max() > N / 4


# --------------------------------------------------------------------- balance
def test_offsets_bring_loads_within_their_limits():
    joint = np.log(random.dirichlet([20.0, 5.0, 1.0, 0.5], size=N))
    weight = random.rand(N) + 0.5
    problem = Problem(X, X, Y[:, None], weight, 4, 4, 4, 0.0, balance=0.5, capacity=1.5)
    support = Routing.from_dense(joint)
    resp, part, offsets = balanced(problem, support, np.zeros(4))
    load = weight @ resp.weights / (weight.sum() / 4)
    assert load.min() > 0.5 * 0.99
    assert load.max() < 1.5 * 1.01
    assert offsets[0] < 0 < offsets[3]
    # The optimum of F under the limits: no other r that meets them is better.
    free = np.sum(resp.weights * (joint - np.log(resp.weights)), axis=1)
    np.testing.assert_allclose(part, free, atol=1e-9)
    for _ in range(20):
        move = 0.01 * random.standard_normal((N, 4)) * resp.weights
        move -= move.mean(axis=1, keepdims=True)
        move -= (weight @ move / weight.sum())[None, :]
        other = resp.weights + move
        if other.min() <= 0:
            continue
        value = np.sum(other * (joint - np.log(other)), axis=1)
        assert weight @ value <= weight @ free + 1e-9


def test_no_limits_no_offsets():
    joint = np.log(random.dirichlet(np.ones(4), size=N))
    problem = Problem(X, X, Y[:, None], np.ones(N), 4, 4, 4, 0.0, balance=0.01)
    resp, part, offsets = balanced(problem, Routing.from_dense(joint), np.zeros(4))
    np.testing.assert_array_equal(offsets, 0)
    np.testing.assert_allclose(resp.weights, np.exp(joint), atol=1e-12)
    np.testing.assert_allclose(part, 0, atol=1e-12)


@pytest.mark.parametrize("top_k", [2, None])
def test_balance_holds_a_floor(top_k):
    params = {"n_experts": 6, "top_k": top_k, "cross_fit": None, "n_init": 1}
    params["random_state"] = 0
    rng = np.random.RandomState(0)
    skewed = np.where(rng.rand(N) < 0.9, 0.0, 8.0)
    table = X + skewed[:, None]
    target = table[:, 0] + skewed * table[:, 1] + 0.1 * rng.standard_normal(N)
    model = MoERegressor(**params, balance=1.0).fit(table, target)
    even = 1 / 6
    if top_k is None:
        np.testing.assert_allclose(model.expert_load_, even, rtol=0.1)
    assert np.diff(model.lower_bounds_).min(initial=0.0) > -0.02
    free = MoERegressor(**params).fit(table, target)
    assert model.expert_load_.min() > free.expert_load_.min()


# ------------------------------------------------------------------ parameters
@pytest.mark.parametrize(
    "params",
    [
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"balance": -0.1},
        {"balance": 2},
        {"capacity_factor": 0.5},
    ],
    ids=str,
)
def test_bad_values_are_named(params):
    with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter"):
        MoERegressor(**params).fit(X, Y)


def test_rule_is_the_gate_s_choice():
    gate = SoftmaxGate(0.01).fit(X, random.dirichlet(np.ones(4), size=N))
    rule = RoutingRule(2)
    np.testing.assert_array_equal(rule.route(gate, X).indices, gate.route(X, 2).indices)
    assert RoutingRule().asks_all(4)
    assert RoutingRule(4).asks_all(4)
    assert not RoutingRule(3).asks_all(4)
    assert not RoutingRule(None, 0.5).asks_all(4)
