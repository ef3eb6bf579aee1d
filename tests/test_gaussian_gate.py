"""The Gaussian gate: closed form, climb, units, priors."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from sklearn.base import clone

from skmoe import MoERegressor
from skmoe.gates import GaussianGate, SoftmaxGate
from skmoe.routing import Routing

KINDS = ["diag", "full", "tied"]
N, D, K = 200, 3, 4


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)) @ rng.normal(size=(D, D)) + [5.0, -2.0, 0.0]


def targets(X, seed=1):
    """Return responsibilities that depend on X, rows summing to one."""
    rng = np.random.default_rng(seed)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    logits = Z @ rng.normal(size=(D, K)) + Z**2 @ rng.normal(size=(D, K)) / 2
    resp = np.exp(logits + rng.normal(size=logits.shape) / 2)
    return resp / resp.sum(axis=1, keepdims=True)


@pytest.fixture
def resp(X):
    return targets(X)


def fitness(gate, X, routing):
    table = routing.to_csr().toarray()
    return np.sum(table * gate.log_proba(X))


def covariance_of(gate, k):
    if gate.covariance_type == "diag":
        return np.diag(gate.covariances_[k])
    return gate.covariances_ if gate.covariance_type == "tied" else gate.covariances_[k]


# ------------------------------------------------------------------ closed form
@pytest.mark.parametrize("gamma", [1.0, 0.3])
def test_answers_are_bayes_rule(kind, X, resp, gamma):
    gate = GaussianGate(kind, density_exponent=gamma).fit(X, resp)
    assert_allclose(gate.weights_.sum(), 1.0)
    density = [
        multivariate_normal(gate.means_[k], covariance_of(gate, k)).logpdf(X)
        for k in range(K)
    ]
    logits = np.log(gate.weights_) + gamma * np.column_stack(density)
    assert_allclose(gate.log_proba(X), log_softmax(logits, axis=1), atol=1e-9)


def test_closed_form_is_weighted_moments_and_pseudo_rows(kind, X, resp):
    gate = GaussianGate(kind, max_iter=0, covariance_prior=7.0).fit(X, resp)
    center, scale = X.mean(axis=0), X.std(axis=0)
    Z = np.vstack([(X - center) / scale, np.zeros(D)])  # one pseudo-row at the mean
    scatters = []
    for k in range(K):
        w = np.append(resp[:, k], 1.0)
        mean = np.average(Z, axis=0, weights=w)
        assert_allclose(gate.means_[k], center + scale * mean, atol=1e-10)
        scatters.append((Z - mean).T @ (w[:, None] * (Z - mean)))
    mass = resp.sum(axis=0) + 1.0
    shared = (sum(scatters) + 7.0 * np.eye(D)) / (mass.sum() + 7.0)
    for k in range(K):
        expected = (scatters[k] + 7.0 * shared) / (mass[k] + 7.0)
        expected = shared if kind == "tied" else expected
        expected = np.diag(np.diag(expected)) if kind == "diag" else expected
        expected = expected * np.outer(scale, scale)
        assert_allclose(covariance_of(gate, k), expected, rtol=1e-8, atol=1e-10)


def test_mean_answer_meets_the_shares(kind, X, resp):
    gate = GaussianGate(kind, max_iter=100).fit(X, resp)
    answer = np.exp(gate.log_proba(X)).mean(axis=0)
    assert_allclose(answer, resp.mean(axis=0), atol=5e-3)


def test_true_gaussians_are_found(kind):
    rng = np.random.default_rng(3)
    means = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    labels = rng.integers(3, size=6000)
    X = means[labels] + rng.normal(size=(6000, 2))
    gate = GaussianGate(kind, density_exponent=1.0, max_iter=0)
    gate.fit(X, Routing.from_labels(labels, 3))
    assert_allclose(gate.means_, means, atol=0.1)
    for k in range(3):
        assert_allclose(covariance_of(gate, k), np.eye(2), atol=0.1)
    assert_allclose(gate.weights_, 1 / 3, atol=0.03)


# ------------------------------------------------------------------------ climb
@pytest.mark.parametrize("width", [K, 2])
@pytest.mark.parametrize("seed", range(3))
def test_update_does_not_lower_the_likelihood(kind, X, seed, width):
    gate = GaussianGate(kind).fit(X, targets(X, seed))
    for step in range(4):
        routing = Routing.from_dense(targets(X, 10 * seed + step))
        if width < K:
            best = np.argsort(-routing.weights, axis=1)[:, :width]
            values = np.take_along_axis(routing.weights, best, axis=1)
            best, values = best.copy(), values.copy()
            best[::7, 1], values[::7, 1] = -1, 0.0
            routing = Routing(best, values, K)
        other = gate.update(X, routing)
        assert fitness(other, X, routing) >= fitness(gate, X, routing)
        gate = other


def test_climb_raises_the_closed_form(kind, X, resp):
    routing = Routing.from_dense(resp)
    closed = GaussianGate(kind, max_iter=0).fit(X, routing)
    climbed = GaussianGate(kind).fit(X, routing)
    assert fitness(climbed, X, routing) > fitness(closed, X, routing) + 1e-2 * N


def test_climb_ends_where_moments_agree(kind, X, resp):
    """There the gradient of the likelihood is zero."""
    gate = GaussianGate(kind, max_iter=3000, covariance_prior=0.1).fit(X, resp)
    apart = np.exp(gate.log_proba(X)) - resp
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    assert_allclose(apart.sum(axis=0) / N, 0.0, atol=3e-3)
    assert_allclose(apart.T @ Z / N, 0.0, atol=3e-3)
    if kind != "tied":
        assert_allclose(apart.T @ Z**2 / N, 0.0, atol=5e-3)


def test_tied_gate_reaches_the_softmax_gate(X, resp):
    routing = Routing.from_dense(resp)
    linear = SoftmaxGate(alpha=0, max_iter=2000, tol=1e-9).fit(X, routing)
    gate = GaussianGate("tied", max_iter=3000, density_exponent=1.0).fit(X, routing)
    best = fitness(linear, X, routing)
    assert best - 1e-3 * N < fitness(gate, X, routing) <= best + 1e-9


def test_update_starts_anew_where_parameters_changed(kind, X, resp):
    routing = Routing.from_dense(resp)
    gate = GaussianGate(kind, update_iter=0).fit(X, routing)
    closed = GaussianGate(kind, density_exponent=1.0, max_iter=0).fit(X, routing)
    changed = copy.copy(gate).set_params(density_exponent=1.0)
    found = changed.update(X, routing)
    assert found.density_exponent_ == 1.0
    assert fitness(found, X, routing) >= fitness(closed, X, routing)
    other = {"diag": "full", "full": "tied", "tied": "diag"}[kind]
    turned = gate.set_params(covariance_type=other).update(X, routing)
    expected = GaussianGate(other, max_iter=0).fit(X, routing)
    assert_allclose(turned.log_proba(X), expected.log_proba(X), atol=1e-10)


# ------------------------------------------------------------- units and columns
@pytest.mark.parametrize(
    ("factor", "shift"),
    [
        ([2.0, 0.1, 30.0], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [10.0, -300.0, 5.0]),
        ([1e-10, 1e-6, 1e10], [0.0, 0.0, 0.0]),
        ([1.0, 1.0, 1.0], [1e7, 0.0, 0.0]),
    ],
    ids=["scales", "shifts", "extreme scales", "extreme shift"],
)
def test_units_do_not_matter(kind, X, resp, factor, shift):
    gate = GaussianGate(kind)
    expected = clone(gate).fit(X, resp).log_proba(X)
    moved = X * factor + shift
    assert_allclose(gate.fit(moved, resp).log_proba(moved), expected, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array], ids=["dense", "csr"])
def test_constant_columns_are_ignored(kind, X, resp, constant, form):
    gate = GaussianGate(kind)
    expected = clone(gate).fit(form(X), resp).log_proba(X)
    wider = np.column_stack([np.full(N, constant), X])
    gate.fit(form(wider), resp)
    assert_allclose(gate.log_proba(form(wider)), expected, atol=1e-5)
    wider[:, 0] += 100.0  # what never varied in training says nothing later
    assert_allclose(gate.log_proba(wider), expected, atol=1e-5)
    assert_allclose(np.take(gate.covariances_, 0, axis=-1), 0.0)
    assert gate.density_exponent_ == pytest.approx(D**-0.5)


def test_dense_gate_answers_csr(kind, X, resp):
    X = X * (np.abs(X) > 0.5)
    gate = GaussianGate(kind).fit(X, resp)
    csr = sparse.csr_array(X)
    assert_allclose(gate.log_proba(csr), gate.log_proba(X), atol=1e-10)
    found = gate.update(csr, Routing.from_dense(resp)).log_proba(X)
    expected = gate.update(X, Routing.from_dense(resp)).log_proba(X)
    assert_allclose(found, expected, atol=1e-8)


# ------------------------------------------------------------------------ priors
def test_an_expert_without_rows_has_the_prior(kind, X, resp):
    table = np.column_stack([resp, np.zeros(N)])
    gate = GaussianGate(kind).fit(X, table)
    assert_allclose(gate.means_[K], X.mean(axis=0), atol=1e-8)
    assert np.isfinite(gate.log_proba(X)).all()
    assert np.exp(gate.log_proba(X))[:, K].max() < 1e-100
    back = gate.update(X, Routing.from_dense(targets(X, 3)[:, [0, 1, 2, 2, 3]] / 1.5))
    assert np.exp(back.log_proba(X))[:, K].mean() > 0.01


def test_an_expert_of_one_point_stays_finite(kind, X):
    labels = np.zeros(N, dtype=int)
    labels[:3] = 1
    X[:3] = X[0]
    gate = GaussianGate(kind, density_exponent=1.0)
    gate.fit(X, Routing.from_labels(labels, 2))
    assert np.isfinite(gate.log_proba(X)).all()
    assert np.linalg.eigvalsh(covariance_of(gate, 1)).min() > 1e-4


def test_more_prior_rows_bring_experts_together(X, resp):
    def spread(prior):
        gate = GaussianGate(covariance_prior=prior, max_iter=0).fit(X, resp)
        return np.ptp(gate.covariances_, axis=0).sum()

    assert spread(1e6) < 1e-3 < spread(100.0) < spread(1.0)


# -------------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("exponent", "expected"),
    [("auto", D**-0.5), ("1/sqrt(d)", D**-0.5), ("1/d", 1 / D), (0.25, 0.25), (1, 1.0)],
)
def test_exponent(X, resp, exponent, expected):
    gate = GaussianGate(density_exponent=exponent).fit(X, resp)
    assert gate.density_exponent_ == pytest.approx(expected)
    assert gate.density_exponent == exponent


def test_variants():
    grid = [gate.density_exponent for gate in GaussianGate("tied").variants()]
    assert grid == ["1/sqrt(d)", "1/d", 1.0]
    assert all(g.covariance_type == "tied" for g in GaussianGate("tied").variants())
    assert len(GaussianGate(density_exponent=0.5).variants()) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("covariance_type", "spherical"),
        ("density_exponent", 0.0),
        ("density_exponent", 1.5),
        ("density_exponent", "d"),
        ("covariance_prior", 0.0),
        ("max_iter", -1),
        ("update_iter", 2.5),
    ],
)
def test_a_bad_parameter_is_named(X, resp, name, value):
    message = f"The '{name}' parameter of GaussianGate must be"
    with pytest.raises(ValueError, match=message):
        GaussianGate(**{name: value}).fit(X, resp)


def test_parameters_are_counted(kind, X, resp):
    seen = {"tied": 3, "diag": 6, "full": 9}[kind]
    assert GaussianGate(kind).fit(X, resp).n_parameters == (K - 1) * (seen + 1)


# ------------------------------------------------------------- softmax and mixture
def test_to_softmax_has_the_same_probabilities(X, resp):
    gate = GaussianGate("tied").fit(X, resp)
    linear = gate.to_softmax().set_params(alpha=0)
    assert_allclose(linear.log_proba(X), gate.log_proba(X), atol=1e-10)
    assert linear.n_parameters == gate.n_parameters
    routing = Routing.from_dense(resp)
    better = linear.update(X, routing)
    assert fitness(better, X, routing) >= fitness(linear, X, routing)


@pytest.mark.parametrize("kind", ["diag", "full"])
def test_to_softmax_needs_a_tied_covariance(kind, X, resp):
    with pytest.raises(ValueError, match=rf"covariance_type='tied'.*'{kind}'"):
        GaussianGate(kind).fit(X, resp).to_softmax()


@pytest.mark.parametrize("experts", [[2, 0], [0, 1, 2, 3, 2, 2]])
def test_update_goes_on_after_take(kind, X, resp, experts):
    gate = GaussianGate(kind).fit(X, resp).take(np.array(experts))
    times = np.bincount(experts, minlength=K)[experts]
    routing = Routing.from_dense(resp[:, experts] / times)
    other = gate.update(X, routing)
    assert fitness(other, X, routing) >= fitness(gate, X, routing)
    assert other.means_.shape == (len(experts), D)


def test_mixture_with_a_gaussian_gate(kind):
    """One expert inside a disc and one outside, which a linear gate cannot tell."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2))
    inside = (X**2).sum(axis=1) < 1.4
    y = np.where(inside, 3 * X[:, 0], -3 * X[:, 0]) + 0.1 * rng.normal(size=500)
    gate = GaussianGate(kind)
    model = MoERegressor(
        n_experts=2, gate=gate, n_init=2, cross_fit=None, random_state=0
    )
    model.fit(X[:400], y[:400])
    error = np.mean((model.predict(X[400:]) - y[400:]) ** 2) / y[400:].var()
    assert (error < 0.25) == (kind != "tied")
