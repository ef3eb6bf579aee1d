"""Panel data: all rows of a group come from one expert."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.compose import make_column_transformer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Problem
from skmoe.em._panel import Panel
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

pytestmark = pytest.mark.filterwarnings(
    "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
)

N_GROUPS, EACH = 40, 8
N = N_GROUPS * EACH
random = np.random.RandomState(0)
KIND = random.randint(0, 2, N_GROUPS)
GROUPS = np.repeat(np.arange(N_GROUPS) * 7 - 100, EACH)
X = random.standard_normal((N, 1))
Y = np.where(np.repeat(KIND, EACH), X[:, 0] + 1, -X[:, 0]) + random.standard_normal(N)
PLAIN = {
    "n_experts": 2,
    "gate": "constant",
    "top_k": None,
    "cross_fit": None,
    "scale_prior": 0,
    "random_state": 0,
}


def owner(model, groups=GROUPS):
    """Return the expert of each group by the definition, and each group's log joint."""
    log_lik = np.stack(
        [
            norm.logpdf(Y, expert.predict(X), scale)
            for expert, scale in zip(model.experts_, model.scale_, strict=True)
        ],
        axis=1,
    )
    group = np.unique(groups, return_inverse=True)[1]
    sums = np.zeros((group.max() + 1, 2))
    np.add.at(sums, group, log_lik)
    return model.gate_.log_weights_ + sums


def test_groups_find_what_rows_cannot():
    """Noise as large as the slopes hides them from single rows, not from groups."""
    model = MoERegressor(**PLAIN).fit(X, Y, groups=GROUPS)
    joint = owner(model)
    right = np.mean(joint.argmax(axis=1) == KIND)
    assert max(right, 1 - right) == 1.0
    slopes = sorted(float(expert.coef_[0]) for expert in model.experts_)
    np.testing.assert_allclose(slopes, [-1, 1], atol=0.15)
    np.testing.assert_allclose(np.exp(model.gate_.log_weights_).sum(), 1)


def test_the_bound_is_the_log_likelihood_of_the_groups():
    model = MoERegressor(**PLAIN).fit(X, Y, groups=GROUPS)
    expected = logsumexp(owner(model), axis=1).sum() / N
    assert model.lower_bound_ == pytest.approx(expected, abs=1e-10)
    assert np.diff(model.lower_bounds_).min(initial=0.0) > -1e-12


def test_the_gate_counts_a_group_once():
    """Mixing weights are mean responsibilities of groups, whatever their sizes."""
    sizes = np.where(KIND == 1, 1, EACH)
    kept = np.concatenate([np.arange(s) + EACH * g for g, s in enumerate(sizes)])
    far = Y + np.where(np.repeat(KIND, EACH), 50.0, 0.0)
    model = MoERegressor(**PLAIN, tol=1e-9)
    model.fit(X[kept], far[kept], groups=GROUPS[kept])
    weights = np.sort(np.exp(model.gate_.log_weights_))
    expected = np.sort([np.mean(KIND == 0), np.mean(KIND == 1)])
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_groups_of_one_row_are_no_groups():
    plain = MoERegressor(**{**PLAIN, "gate": "softmax"}).fit(X, Y)
    alone = MoERegressor(**{**PLAIN, "gate": "softmax"})
    alone.fit(X, Y, groups=np.arange(N))
    np.testing.assert_allclose(alone.predict(X), plain.predict(X), atol=1e-6)
    assert alone.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-9)


def test_names_and_order_of_groups_do_not_matter():
    model = MoERegressor(n_experts=2, random_state=0, max_iter=5)
    expected = model.fit(X, Y, groups=GROUPS).predict(X)
    names = np.array([f"shop {g % 13}-{g}" for g in GROUPS])
    np.testing.assert_allclose(model.fit(X, Y, groups=names).predict(X), expected)
    order = random.permutation(N)
    found = model.fit(X[order], Y[order], groups=GROUPS[order]).predict(X)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expert", "gate", "top_k"),
    [
        (None, "softmax", 1),
        (None, "tree", 2),
        (DecisionTreeRegressor(max_depth=3), "softmax", 2),
        (DecisionTreeRegressor(max_depth=3), "tree", 1),
    ],
    ids=str,
)
def test_all_that_trains_takes_groups(expert, gate, top_k):
    quick = {"gate": gate, "n_init": 1, "max_iter": 4, "random_state": 0}
    model = MoERegressor(expert, n_experts=4, top_k=top_k, **quick)
    model.fit(X, Y, groups=GROUPS, sample_weight=1 + random.rand(N))
    assert np.isfinite(model.score_samples(X, Y)).all()


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["softmax", "tree"])
def test_classifiers_take_groups(gate):
    labels = np.where(Y > 0, "up", "down")
    quick = {"gate": gate, "n_init": 1, "max_iter": 4, "random_state": 0}
    model = MoEClassifier(n_experts=3, **quick).fit(X, labels, groups=GROUPS)
    assert model.score(X, labels) > 0.5


def test_rows_of_a_group_share_responsibilities(monkeypatch):
    from skmoe.em import _engine

    seen, true = [], _engine.expect

    def spy(problem, *args, **kwargs):
        state = true(problem, *args, **kwargs)
        seen.append(state.resp.to_csr().toarray())
        return state

    monkeypatch.setattr(_engine, "expect", spy)
    model = MoERegressor(n_experts=5, top_k=1, cross_fit=None, random_state=0)
    model.fit(X, Y, groups=GROUPS)
    assert len(seen) > 5
    for resp in seen:
        first = resp.reshape(N_GROUPS, EACH, 5)[:, :1]
        np.testing.assert_array_equal(resp.reshape(N_GROUPS, EACH, 5) - first, 0)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_panel_by_hand(form):
    X = form(np.array([[1.0, 0.0], [3.0, 4.0], [5.0, 0.0]]))
    panel = Panel.of(X, np.array([1.0, 3.0, 2.0]), np.array(["b", "b", "a"]))
    means = panel.X.toarray() if sparse.issparse(panel.X) else panel.X
    np.testing.assert_allclose(means, [[5.0, 0.0], [2.5, 3.0]])
    np.testing.assert_allclose(panel.weight, [4.0, 4.0, 2.0])
    sums = panel.sums(np.array([[1.0], [2.0], [4.0]]))
    np.testing.assert_allclose(sums, [[7.0], [7.0], [8.0]])
    start = Routing.from_labels(np.array([0, 2, 1]), 3)
    agreed = panel.agreed(start, 2).to_csr().toarray()
    np.testing.assert_allclose(agreed, [[0.25, 0, 0.75], [0.25, 0, 0.75], [0, 1, 0]])


def test_a_problem_keeps_groups_of_the_rows_taken():
    problem = Problem(X, X, Y[:, None], np.ones(N), 2, 2, 4, 0.0, groups=GROUPS)
    part = problem.take(np.arange(3 * EACH))
    assert len(part.panel.first) == 3
    np.testing.assert_allclose(part.draw_weight, 1 / EACH)


def test_the_gate_is_that_of_one_row_a_group():
    noise = np.random.RandomState(1).standard_normal(N_GROUPS)
    hint = np.where(KIND == 1, 1.0, -1.0) + noise
    both = np.column_stack([X[:, 0], np.repeat(hint, EACH)])
    chooses = make_column_transformer(("passthrough", [1]))
    gate = make_pipeline(chooses, SoftmaxGate(0.0))
    model = MoERegressor(**{**PLAIN, "gate": gate}, tol=1e-9).fit(
        both, Y, groups=GROUPS
    )
    proba = model.gate_proba(both)[::EACH]
    log_lik = np.stack(
        [
            norm.logpdf(Y, expert.predict(both), scale)
            for expert, scale in zip(model.experts_, model.scale_, strict=True)
        ],
        axis=1,
    )
    joint = np.log(proba) + log_lik.reshape(N_GROUPS, EACH, 2).sum(axis=1)
    resp = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    alone = SoftmaxGate(0.0).fit(hint[:, None], resp)
    np.testing.assert_allclose(np.exp(alone.log_proba(hint[:, None])), proba, atol=1e-3)
