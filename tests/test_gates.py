"""Every gate: probabilities, routing, targets and updates."""

import copy
import inspect
from dataclasses import is_dataclass

import array_api_strict as strict
import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal, assert_equal
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression

from skmoe import gates
from skmoe.backends import _reference, to_host
from skmoe.gates import (
    BaseGate,
    ConstantGate,
    EstimatorGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from skmoe.routing import Routing

K, D = 4, 3

# Gates whose defaults are too loose for exact comparisons, or that need arguments.
# Every other gate that skmoe.gates exports is tested with its defaults.
CONFIGURED = {
    "HierarchicalGate": HierarchicalGate(2, max_iter=2000, tol=1e-9),
    "ProductGate": ProductGate(max_iter=2000, tol=1e-9),
    "SoftmaxGate": SoftmaxGate(max_iter=2000, tol=1e-9),
    "EstimatorGate": EstimatorGate(LogisticRegression(max_iter=2000, tol=1e-9)),
    "TreeGate": TreeGate(5),
    "KNeighborsGate": KNeighborsGate(10),
}

# What gates read that do not take just any numbers: ids are whole ones.
READS = {"GroupGate": np.round}


def exported():
    for name in gates.__all__:
        gate = getattr(gates, name)
        if issubclass(gate, BaseGate) and not inspect.isabstract(gate):
            yield pytest.param(CONFIGURED.get(name) or gate(), id=name)


GATES = list(exported())


@pytest.fixture(params=GATES)
def gate(request):
    return clone(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def X(rng, request):
    X = rng.normal(size=(60, D))
    if "gate" not in request.fixturenames:
        return X
    name = type(request.getfixturevalue("gate")).__name__
    return READS.get(name, np.asarray)(X)


def soft_targets(X, seed=1, n_experts=K):
    """Return responsibilities that depend on X, rows summing to one."""
    rng = np.random.default_rng(seed)
    logits = X @ rng.normal(size=(X.shape[1], n_experts)) + rng.normal(size=n_experts)
    resp = np.exp(logits + rng.normal(size=logits.shape))
    return resp / resp.sum(axis=1, keepdims=True)


@pytest.fixture
def resp(X):
    return soft_targets(X)


def best_two(resp):
    """Return the routing of the two largest responsibilities a row, padded."""
    values, indices = _reference.top_k(resp, 2)
    indices, values = indices.copy(), values.copy()
    indices[::5, 1], values[::5, 1] = -1, 0.0
    return Routing(indices, values / values.sum(axis=1, keepdims=True), resp.shape[1])


# --------------------------------------------------------------- probabilities
def test_rows_sum_to_one(gate, X, resp):
    log_proba = gate.fit(X, resp).log_proba(X)
    assert log_proba.shape == (60, K)
    assert gate.n_experts_ == K
    assert_allclose(np.exp(log_proba).sum(axis=1), 1.0, rtol=1e-12)


def test_fit_returns_self_and_keeps_parameters(gate, X, resp):
    before = copy.deepcopy(gate.get_params())
    assert gate.fit(X, resp) is gate
    assert joblib.hash(gate.get_params()) == joblib.hash(before)


def test_float32_in_float32_out(gate, X, resp):
    single = X.astype(np.float32)
    gate.fit(single, resp)
    found = gate.log_proba(single)
    assert found.dtype == np.float32
    assert_allclose(found, gate.log_proba(single.astype(np.float64)), atol=1e-4)
    routing = gate.route(single, top_k=2)
    assert routing.weights.dtype == np.float32
    assert_allclose(clone(gate).fit(X, resp).log_proba(X), gate.log_proba(X), atol=1e-2)


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix])
def test_csr_equals_dense(gate, X, resp, form):
    if not gate.accepts_sparse:
        pytest.skip("dense only")
    X = X * (np.abs(X) > 0.5)
    routing = best_two(resp)
    csr = form(X)
    expected = clone(gate).fit(X, routing)
    gate.fit(csr, routing)
    assert_allclose(gate.log_proba(csr), expected.log_proba(X), atol=1e-5)
    assert_allclose(gate.log_proba(csr), gate.log_proba(X), atol=1e-12)
    for name in ("indices", "weights"):
        found = getattr(gate.route(csr, top_k=2), name)
        assert_allclose(found, getattr(gate.route(X, top_k=2), name), atol=1e-12)
    assert_allclose(gate.log_proba_at(csr, routing), gate.log_proba_at(X, routing))
    updated = gate.update(csr, routing).log_proba(csr)
    assert_allclose(updated, expected.update(X, routing).log_proba(X), atol=1e-5)


# --------------------------------------------------------------------- routing
@pytest.fixture(params=["one block", "tiny blocks"])
def blocks(request, monkeypatch):
    if request.param == "tiny blocks":
        monkeypatch.setattr(_reference._rows, "BLOCK_ELEMENTS", 7)


def test_log_proba_at_gathers(gate, X, resp, blocks):
    routing = best_two(resp)
    gate.fit(X, resp)
    log_proba, found = gate.log_proba(X), gate.log_proba_at(X, routing)
    for (i, j), k in np.ndenumerate(routing.indices):
        expected = log_proba[i, k] if k >= 0 else -np.inf
        assert found[i, j] == pytest.approx(expected, rel=1e-12)
    assert np.isneginf(found[::5, 1]).all()
    dense = gate.log_proba_at(X, Routing.from_dense(resp))
    assert_array_equal(dense, log_proba)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_route_is_the_brute_force_choice(gate, X, resp, blocks, top_k):
    gate.fit(X, resp)
    routing, proba = gate.route(X, top_k=top_k), np.exp(gate.log_proba(X))
    assert routing.shape == (60, top_k)
    assert not routing.dense
    assert_allclose(routing.weights.sum(axis=1), 1.0, rtol=1e-12)
    for i in range(60):
        best = np.sort(proba[i])[::-1][:top_k]
        assert_allclose(routing.weights[i], best / best.sum(), rtol=1e-10)
        chosen = proba[i, routing.indices[i]]
        assert_allclose(chosen, best, rtol=1e-10)
        assert len(set(routing.indices[i])) == top_k


@pytest.mark.parametrize("top_k", [None, K, K + 3])
def test_route_to_all_is_dense(gate, X, resp, top_k):
    routing = gate.fit(X, resp).route(X, top_k=top_k)
    assert routing.dense
    assert routing.n_experts == K
    assert_array_equal(routing.weights, np.exp(gate.log_proba(X)))


def test_best_is_brute_force(gate, X, resp, blocks):
    gate.fit(X, resp)
    log_best, best = gate.best(X, 3)
    expected, _ = _reference.top_k(gate.log_proba(X), 3)
    assert_allclose(log_best, expected, rtol=1e-10)
    assert_allclose(gate.log_proba(X)[np.arange(60)[:, None], best], expected)


def test_survey_is_both(gate, X, resp, blocks):
    gate.fit(X, resp)
    asked = best_two(resp).indices
    log_at, best, log_best = gate.survey(X, asked, 2)
    expected = gate.log_proba_at(X, Routing(asked, np.zeros(asked.shape), K))
    assert_allclose(log_at, expected, rtol=1e-10)
    assert_allclose(log_best, gate.best(X, 2)[0], rtol=1e-10)
    assert_allclose(gate.log_proba(X)[np.arange(60)[:, None], best], log_best)


@pytest.mark.parametrize("top_p", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("top_k", [1, 3, None])
def test_top_p_keeps_the_fewest_that_reach_it(gate, X, resp, top_k, top_p):
    gate.fit(X, resp)
    routing, proba = gate.route(X, top_k, top_p), np.exp(gate.log_proba(X))
    for i in range(60):
        ranked, most = np.sort(proba[i])[::-1], top_k or K
        needed = 1 + np.count_nonzero(np.cumsum(ranked)[: most - 1] < top_p - 1e-9)
        kept = routing.weights[i] > 0
        assert_array_equal(kept, routing.indices[i] >= 0)
        assert kept.sum() in (needed, needed + (top_p == 1.0))
        expected = ranked[: kept.sum()] / ranked[: kept.sum()].sum()
        assert_allclose(routing.weights[i, kept], expected, rtol=1e-9)


@pytest.mark.parametrize("experts", [[2, 0], [0, 1, 2, 3, 2, 2], [3, 2, 1, 0], [1]])
def test_take_leaves_out_and_splits(gate, X, resp, experts):
    experts, before = np.array(experts), np.exp(gate.fit(X, resp).log_proba(X))
    if type(gate).take is BaseGate.take:
        with pytest.raises(TypeError, match=f"{type(gate).__name__} cannot"):
            gate.take(experts)
        return
    if isinstance(gate, HierarchicalGate) and len(set(experts)) < K:
        with pytest.raises(TypeError, match="HierarchicalGate cannot leave out"):
            gate.take(experts)
        return
    taken = gate.take(experts)
    times = np.bincount(experts, minlength=K)[experts]
    expected = before[:, experts] / times
    expected = expected / expected.sum(axis=1, keepdims=True)
    assert_allclose(np.exp(taken.log_proba(X)), expected, rtol=1e-8)
    assert taken.n_experts_ == len(experts)
    assert gate.n_experts_ == K
    assert taken.route(X, 1).indices.max() < len(experts)


def test_one_expert(gate, X):
    gate.fit(X, np.ones((60, 1)))
    assert_allclose(gate.log_proba(X), 0.0, atol=1e-12)
    assert_allclose(gate.route(X, top_k=2).weights, 1.0)


@pytest.mark.parametrize("device", ["CPU_DEVICE", "device1"])
def test_answers_follow_the_container(gate, X, resp, device):
    gate.fit(X, resp)
    device = strict.Device(device)
    inside = strict.asarray(X, device=device)
    found = gate.log_proba(inside)
    assert found.device == device
    assert_allclose(to_host(found), gate.log_proba(X), atol=1e-12)
    routing = gate.route(inside, top_k=2)
    assert routing.weights.device == device
    assert_allclose(to_host(routing.weights), gate.route(X, top_k=2).weights)
    at = gate.log_proba_at(inside, routing)
    assert_allclose(
        to_host(at),
        np.log(gate.route(X).weights[np.arange(60)[:, None], to_host(routing.indices)]),
    )


# --------------------------------------------------------------------- targets
def test_target_containers_agree(gate, X, resp):
    kept = best_two(resp)
    expected = clone(gate).fit(X, kept.to_csr().toarray()).log_proba(X)
    for target in (kept, kept.to_csr(), Routing.from_dense(kept.to_csr().toarray())):
        found = clone(gate).fit(X, target).log_proba(X)
        assert_allclose(found, expected, atol=1e-5)


def test_target_of_the_wrong_shape(gate, X):
    with pytest.raises(ValueError, match=r"\(n_samples, n_experts\).*\(60,\)"):
        gate.fit(X, np.ones(60))


def test_permuting_experts_permutes_the_answer(gate, X, resp):
    order = np.array([2, 0, 3, 1])
    expected = clone(gate).fit(X, resp).log_proba(X)[:, order]
    assert_allclose(gate.fit(X, resp[:, order]).log_proba(X), expected, atol=1e-5)


def test_weight_two_is_the_row_twice(gate, X, resp):
    counts = np.random.default_rng(5).integers(0, 3, size=60)
    weighted = clone(gate).fit(X, resp * counts[:, None])
    repeated = gate.fit(np.repeat(X, counts, axis=0), np.repeat(resp, counts, axis=0))
    assert_allclose(weighted.log_proba(X), repeated.log_proba(X), atol=1e-5)


def test_an_expert_without_rows_is_improbable_not_fatal(gate, X, resp):
    resp = np.column_stack([resp[:, :2], np.zeros(60), resp[:, 2:]])
    proba = np.exp(gate.fit(X, resp / resp.sum(axis=1, keepdims=True)).log_proba(X))
    assert np.isfinite(proba).all()
    assert proba[:, 2].max() < 1e-3


# --------------------------------------------------------------------- updates
def objective(gate, X, routing):
    """Return what the gate maximises: mean log likelihood less its penalty."""
    table = routing.to_csr().toarray()
    value = np.sum(table * gate.log_proba(X)) / table.sum()
    if isinstance(gate, SoftmaxGate):
        spread = np.sqrt(np.sum(gate.coef_**2 * gate._scale**2))
        value -= 0.5 * gate._penalty() * spread**2
    return value


MAXIMISERS = [
    pytest.param(ConstantGate(), id="constant"),
    pytest.param(SoftmaxGate(), id="softmax"),
    pytest.param(SoftmaxGate(update_iter=1), id="softmax, one step"),
    pytest.param(SoftmaxGate(alpha=0.5), id="softmax, strong penalty"),
    pytest.param(SoftmaxGate(alpha=0), id="softmax, no penalty"),
]


def test_update_is_a_new_gate(gate, X, resp):
    gate.fit(X, resp)
    before, state = gate.log_proba(X).copy(), copy.deepcopy(vars(gate))
    other = gate.update(X, best_two(soft_targets(X, seed=9)))
    assert type(other) is type(gate)
    assert other is not gate
    assert np.max(np.abs(other.log_proba(X) - before)) > 1e-3
    assert_array_equal(gate.log_proba(X), before)
    for name, value in state.items():
        found = getattr(gate, name)
        if sparse.issparse(value):
            found, value = found.toarray(), value.toarray()
        elif is_dataclass(value):
            found, value = vars(found), vars(value)
        if not isinstance(value, BaseEstimator):  # what it says was compared above
            assert_equal(found, value)


@pytest.mark.parametrize("gate", MAXIMISERS)
@pytest.mark.parametrize("seed", range(5))
def test_update_does_not_lower_the_objective(gate, X, resp, seed):
    gate = clone(gate).fit(X, resp)
    for step in range(4):
        routing = Routing.from_dense(soft_targets(X, seed=10 * seed + step))
        routing = best_two(routing.weights) if step % 2 else routing
        other = gate.update(X, routing)
        before, after = objective(gate, X, routing), objective(other, X, routing)
        assert after >= before - 1e-12
        gate = other


@pytest.mark.parametrize("gate", MAXIMISERS)
def test_updates_reach_the_fit(gate, X, resp):
    routing = Routing.from_dense(resp)
    moving = clone(gate).fit(X, soft_targets(X, seed=9))
    for _ in range(60):
        moving = moving.update(X, routing)
    expected = objective(clone(gate).fit(X, routing), X, routing)
    assert objective(moving, X, routing) == pytest.approx(expected, abs=1e-7)


# ----------------------------------------------------------------- ConstantGate
def test_constant_gate_by_hand():
    gate = ConstantGate().fit(np.zeros((3, 1)), np.array([[3, 1], [0, 2], [2, 0.0]]))
    assert_allclose(np.exp(gate.log_proba(np.ones((2, 1)))), [[5 / 8, 3 / 8]] * 2)
    assert gate.n_parameters == 1


# ------------------------------------------------------------------ SoftmaxGate
def test_softmax_gate_is_at_its_optimum(X, resp):
    """No small move of coefficients or intercepts is better."""
    for alpha in (0.0, 1e-4, 0.3):
        gate = SoftmaxGate(alpha, tol=1e-11, max_iter=2000).fit(X, resp)
        routing = Routing.from_dense(resp)
        best, rng = objective(gate, X, routing), np.random.default_rng(0)
        for _ in range(20):
            moved = copy.copy(gate)
            moved.coef_ = gate.coef_ + 1e-2 * rng.normal(size=gate.coef_.shape)
            moved.intercept_ = gate.intercept_ + 1e-2 * rng.normal(size=K)
            assert objective(moved, X, routing) < best


def test_softmax_gate_recovers_a_true_gate(X):
    rng = np.random.default_rng(2)
    logits = X @ rng.normal(size=(D, K)) + rng.normal(size=K)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gate = SoftmaxGate(alpha=0, tol=1e-11, max_iter=2000).fit(X, proba)
    assert_allclose(np.exp(gate.log_proba(X)), proba, atol=1e-6)


@pytest.mark.parametrize(
    ("factor", "shift"),
    [
        ([2.0, 0.1, 30.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [10.0, -300.0, 5.0]),
        ([1e6, 1e-3, 1e3], [1e6, 0.1, -1e4]),
        ([1e-10, 1e-6, 1e10], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [1e8, 0.0, 0.0]),
    ],
    ids=["scales", "shifts", "both", "extreme scales", "extreme shift"],
)
def test_softmax_gate_does_not_see_units(X, resp, factor, shift):
    gate = SoftmaxGate(alpha=0.01, max_iter=2000, tol=1e-11)
    expected = clone(gate).fit(X, resp).log_proba(X)
    moved = X * factor + shift
    assert_allclose(gate.fit(moved, resp).log_proba(moved), expected, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.1, -1e6])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_softmax_gate_ignores_constant_columns(X, resp, constant, form):
    gate = SoftmaxGate(max_iter=2000, tol=1e-11)
    expected = clone(gate).fit(X, resp).log_proba(X)
    wider = form(np.column_stack([np.full(60, constant), X]))
    gate.fit(wider, resp)
    assert_allclose(gate.log_proba(wider), expected, atol=1e-5)
    assert_allclose(gate.coef_[:, 0], 0.0, atol=1e-6)


def test_softmax_gate_is_finite_on_separable_targets(X):
    labels = (X[:, 0] > 0).astype(int)
    gate = SoftmaxGate().fit(X, Routing.from_labels(labels, 2))
    assert np.isfinite(gate.coef_).all()
    assert_array_equal(gate.log_proba(X).argmax(axis=1), labels)


@pytest.mark.parametrize(
    ("name", "value"),
    [("alpha", -1.0), ("alpha", "big"), ("max_iter", 0), ("update_iter", 0.5)],
)
def test_softmax_gate_names_a_bad_parameter(X, resp, name, value):
    message = f"The '{name}' parameter of SoftmaxGate must be"
    with pytest.raises(ValueError, match=message):
        SoftmaxGate(**{name: value}).fit(X, resp)


def test_softmax_gate_alpha_message(X, resp):
    with pytest.raises(ValueError, match=r"a float in the range \[0.0, inf\). Got -1"):
        SoftmaxGate(alpha=-1).fit(X, resp)


def test_softmax_gate_counts_its_parameters(X, resp):
    assert SoftmaxGate().fit(X, resp).n_parameters == (K - 1) * (D + 1)


# --------------------------------------------------------------------- BaseGate
class Nearest(BaseGate):
    """The least that a gate must write."""

    def fit(self, X, routing):
        self.n_experts_ = routing.n_experts
        return self

    def log_proba(self, X):
        return np.log(np.full((X.shape[0], self.n_experts_), 1 / self.n_experts_))


def test_base_gate_gives_the_rest(X, resp):
    gate = Nearest().fit(X, Routing.from_dense(resp))
    other = gate.update(X, Routing.from_dense(resp[:, :2]))
    assert (gate.n_experts_, other.n_experts_) == (K, 2)
    assert_allclose(gate.route(X, top_k=3).weights, 1 / 3)
    with pytest.raises(TypeError, match="Nearest cannot count its free parameters"):
        _ = gate.n_parameters


def test_tags_say_what_a_gate_accepts(gate):
    tags = gate.__sklearn_tags__().input_tags
    assert tags.sparse is gate.accepts_sparse
    assert tags.allow_nan is gate.allows_nan
