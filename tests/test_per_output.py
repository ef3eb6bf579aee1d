"""Several targets: one pool of experts, one gate or a gate for each."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.base import clone
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]
random = np.random.RandomState(0)
N = 600
X = random.standard_normal((N, 2))
# The same two slopes for both targets, but the regime of each has its own border.
SLOPES = np.where(X > 0, 3, -3)
Y = SLOPES * X[:, ::-1] + 0.1 * random.standard_normal((N, 2))
MODEL = MoERegressor(
    n_experts=4, top_k=2, gate_per_output=True, n_init=1, random_state=0
)


@pytest.fixture(scope="module")
def fitted():
    return clone(MODEL).fit(X, Y)


def test_each_output_has_its_border(fitted):
    joint = clone(MODEL).set_params(gate_per_output=False).fit(X, Y)
    gain = fitted.score_samples(X, Y).mean() - joint.score_samples(X, Y).mean()
    assert gain > 0.01
    assert fitted.score(X, Y) > 0.95
    assert len(fitted.gates_) == 2
    assert all(isinstance(gate, SoftmaxGate) for gate in fitted.gates_)
    # What counts for an output is on which side of 0 the other feature is.
    for j, gate in enumerate(fitted.gates_):
        seen = np.abs(gate.coef_ - gate.coef_.mean(axis=0)).max(axis=0)
        assert seen[j] > 1


def test_answers_by_hand(fitted):
    routes, probas = fitted.route(X), fitted.gate_proba(X)
    said = np.stack([expert.predict(X) for expert in fitted.experts_])  # (K, n, 2)
    total = 0.0
    for j, (route, proba) in enumerate(zip(routes, probas, strict=True)):
        weights = route.toarray()
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        mean = (weights * said[:, :, j].T).sum(axis=1)
        np.testing.assert_allclose(fitted.predict(X)[:, j], mean)
        log_lik = norm.logpdf(Y[:, [j]], said[:, :, j].T, fitted.scale_[:, j])
        with np.errstate(divide="ignore"):
            total = total + logsumexp(np.log(weights) + log_lik, axis=1)
        assert fitted.apply(X)[j].shape == (N, 2)
        assert fitted.responsibilities(X, Y)[j].shape == (N, 4)
        load = weights.mean(axis=0)
        np.testing.assert_allclose(fitted.expert_load_[j], load, atol=1e-9)
    np.testing.assert_allclose(fitted.score_samples(X, Y), total)
    assert np.isfinite(fitted.bic(X, Y))


@pytest.mark.parametrize("top_k", [1, None])
@pytest.mark.parametrize("gate", ["softmax", "tree"])
def test_other_learners_and_gates(top_k, gate):
    tree = DecisionTreeRegressor(max_depth=3)
    model = clone(MODEL).set_params(expert=tree, gate=gate, top_k=top_k, max_iter=5)
    assert model.fit(X, Y).score(X, Y) > 0.5
    assert model.scale_.shape == (4, 2)


def test_a_refit_forgets_the_gates():
    model = clone(MODEL).set_params(max_iter=3).fit(X, Y)
    model.set_params(gate_per_output=False).fit(X, Y)
    assert not hasattr(model, "gates_")
    assert model.expert_load_.shape == (4,)
    model.set_params(gate_per_output=True, warm_start=True).fit(X, Y)
    assert len(model.gates_) == 2


def test_one_output_is_refused():
    with pytest.raises(ValueError, match="gate_per_output=True needs a y of several"):
        clone(MODEL).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match="removed with gate_per_output=True"):
        clone(MODEL).set_params(max_iter=2).fit(X, Y).add_experts(1, X, Y)


def test_outputs_of_trees_share_what_they_learn():
    tree = DecisionTreeRegressor(max_depth=4)
    model = clone(MODEL).set_params(expert=tree, cross_fit=None).fit(X, Y)
    joint = clone(model).set_params(gate_per_output=False).fit(X, Y)
    assert model.score_samples(X, Y).mean() > joint.score_samples(X, Y).mean() - 0.05


def test_mean_of_routings():
    parts = [
        Routing(np.array([[0, 1], [2, -1]]), np.array([[0.5, 0.5], [1.0, 0.0]]), 3),
        Routing.from_labels(np.array([1, 0]), 3),
    ]
    expected = [[0.25, 0.75, 0], [0.5, 0, 0.5]]
    np.testing.assert_allclose(Routing.mean(parts).to_csr().toarray(), expected)
