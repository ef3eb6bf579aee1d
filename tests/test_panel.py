"""Panel data: all rows of a group come from one expert."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn import config_context
from sklearn.compose import make_column_transformer
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Problem
from skmoe.em._panel import Panel, Voice
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

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
    assert model.group_correlation_ == 1.0  # the gate says the same of all rows
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
    model = MoERegressor(n_experts=2, n_init=1, random_state=0, max_iter=5)
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
    panel = Panel.of(np.array([1.0, 3.0, 2.0]), np.array(["b", "b", "a"]))
    gate = SoftmaxGate(1.0).fit(X, np.array([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5]]))
    _, said = panel.asked(gate, X)
    rows = gate.log_proba(X)
    np.testing.assert_allclose(said, [rows[2], 0.25 * rows[0] + 0.75 * rows[1]])
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


# ------------------------------------------------------------------- new groups
def visits(n_groups, each, seed, *, hint=1.0):
    """Return visits whose vague hint tells two kinds of patients, by all of theirs."""
    random = np.random.RandomState(seed)
    kind = np.repeat(random.randint(0, 2, n_groups), each)
    dose = random.uniform(0, 2, len(kind))
    seen = hint * kind + random.standard_normal(len(kind))
    effect = np.where(kind, 3 * dose, -dose) + 0.5 * random.standard_normal(len(kind))
    return np.column_stack([dose, seen]), effect, np.repeat(np.arange(n_groups), each)


QUICK = {"n_experts": 2, "n_init": 1, "cross_fit": None, "random_state": 0}


@pytest.fixture(scope="module")
def by_visits():
    X, y, patient = visits(60, 15, 0)
    return MoERegressor(**QUICK).fit(X, y, groups=patient)


def test_rows_of_a_new_group_decide_together(by_visits):
    X, y, patient = visits(40, 15, 1)
    assert r2_score(y, by_visits.predict(X)) < 0.4
    assert r2_score(y, by_visits.predict(X, groups=patient)) > 0.85
    assert by_visits.group_correlation_ < 0.2


def test_the_gate_is_as_sure_of_a_row_as_the_row_allows(by_visits):
    """The log odds of the kind are hint - 1/2, whatever many rows would say."""
    X = np.column_stack([np.full(9, 1.0), np.linspace(-1, 2, 9)])
    odds = by_visits.gate_.log_proba(X)
    odds = odds[:, 1] - odds[:, 0]
    slope, middle = np.polyfit(X[:, 1] - 0.5, odds, 1)
    assert abs(slope) == pytest.approx(1.0, abs=0.25)
    assert middle == pytest.approx(0.0, abs=0.5)


@pytest.mark.parametrize("classify", [False, True])
def test_one_routing_for_all_rows_of_a_group(classify):
    X, y, patient = visits(20, 6, 2)
    params, kind = dict(QUICK), MoERegressor
    if classify:
        noise = np.random.RandomState(2).standard_normal(len(y))
        y, kind = np.where(y + noise > 1, "high", "low"), MoEClassifier
    model = kind(**{**params, "top_k": 1}).fit(X, y, groups=patient)
    order = np.random.RandomState(0).permutation(len(y))
    X, y, patient = X[order], y[order], patient[order]
    once = np.unique(patient, return_index=True)[1][patient]
    for found in (
        model.gate_proba(X, groups=patient),
        model.route(X, groups=patient).toarray(),
        model.apply(X, groups=patient),
        model.responsibilities(X, y, groups=patient).toarray(),
    ):
        np.testing.assert_array_equal(found, found[once])
    assert not np.array_equal(model.apply(X), model.apply(X)[once])
    routing = model.route(X, groups=patient).toarray()
    if classify:
        answers = [expert.predict_proba(X) for expert in model.experts_]
        expected = np.einsum("nk,knc->nc", routing, np.stack(answers))
        found = model.predict_proba(X, groups=patient)
        np.testing.assert_allclose(found, expected, atol=1e-6)
        labels = model.classes_[found.argmax(axis=1)]
        np.testing.assert_array_equal(model.predict(X, groups=patient), labels)
    else:
        answers = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
        expected = (routing * answers).sum(axis=1)
        np.testing.assert_allclose(model.predict(X, groups=patient), expected)
        middle = model.predict_quantiles(X, [0.5], groups=patient)[:, 0]
        np.testing.assert_allclose(middle, expected, atol=1e-6)
    alone = model.gate_proba(X, groups=np.arange(len(y)))
    np.testing.assert_allclose(alone, model.gate_proba(X), atol=1e-12)


def test_responsibilities_of_groups_by_the_definition(by_visits):
    X, y, patient = visits(10, 4, 3)
    log_gate = np.log(by_visits.gate_proba(X, groups=patient))
    log_lik = np.stack(
        [
            norm.logpdf(y, expert.predict(X), scale)
            for expert, scale in zip(by_visits.experts_, by_visits.scale_, strict=True)
        ],
        axis=1,
    )
    sums = np.add.reduceat(log_lik, np.arange(0, len(y), 4))[patient]
    joint = log_gate + sums
    expected = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    found = by_visits.responsibilities(X, y, groups=patient).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-10)
    found = by_visits.score_samples(X, y, groups=patient)
    np.testing.assert_allclose(found, logsumexp(log_gate + log_lik, axis=1))


def test_independent_rows_multiply_and_equal_rows_count_once():
    rows = np.log([[0.6, 0.4], [0.7, 0.3], [0.2, 0.8]])
    mean, share = rows.mean(axis=0, keepdims=True), np.log([0.25, 0.75])
    bayes = share + (rows - share).sum(axis=0)
    found = Voice(0.0, share).raised(mean, np.array([3.0]))
    np.testing.assert_allclose(found[0], bayes - logsumexp(bayes))
    found = Voice(1.0, share).raised(mean, np.array([3.0]))
    np.testing.assert_allclose(found, mean - logsumexp(mean))


def test_features_constant_in_groups_are_alike():
    constant = np.repeat(np.random.RandomState(3).standard_normal(N_GROUPS), EACH)
    y = np.where(constant > 0, X[:, 0], -X[:, 0]) + 0.1 * constant
    both = np.column_stack([constant, X[:, 0]])
    sees = make_column_transformer(("passthrough", [0]))
    model = MoERegressor(**QUICK, gate=make_pipeline(sees, SoftmaxGate()))
    model.fit(both, y, groups=GROUPS)
    assert model.group_correlation_ == pytest.approx(1.0)
    found = model.predict(both, groups=GROUPS)
    np.testing.assert_allclose(found, model.predict(both), atol=1e-8)


def test_columns_that_vary_within_groups_do_not_take_over_the_gate():
    """Means of such columns hardly vary, and their weights would be as large."""
    X, y, patient = visits(30, 20, 4, hint=0.0)
    size = np.repeat(np.random.RandomState(4).uniform(size=30), 20)
    kind = size > 0.5
    y = np.where(kind, 3 * X[:, 0], -X[:, 0])
    model = MoERegressor(**QUICK).fit(np.column_stack([X, size]), y, groups=patient)
    weights = model.gate_.coef_[1] - model.gate_.coef_[0]
    assert abs(weights[2]) > 10 * np.abs(weights[:2]).max()


def test_the_tie_is_dropped_where_rows_follow_their_own_expert():
    X, _, patient = visits(40, 8, 5)
    y = np.where(X[:, 0] > 1, 5 - 3 * X[:, 0], X[:, 0])
    y += 0.2 * np.random.RandomState(5).standard_normal(len(y))
    model = MoERegressor(n_experts=2, n_init=1, random_state=0)
    model.fit(X, y, groups=patient)
    assert not model.tied_
    assert r2_score(y, model.predict(X)) > 0.9
    found = model.predict(X, groups=patient)
    np.testing.assert_array_equal(found, model.predict(X))
    assert not hasattr(model.fit(X, y), "tied_")


def test_groups_of_predict_are_metadata(by_visits):
    X, _, patient = visits(5, 4, 6)
    expected = by_visits.predict(X, groups=patient)
    with config_context(enable_metadata_routing=True):
        asks = make_pipeline(
            FunctionTransformer(), by_visits.set_predict_request(groups=True)
        )
        np.testing.assert_array_equal(asks.predict(X, groups=patient), expected)


@pytest.mark.parametrize("groups", [[1, 2], np.zeros((20, 2))])
def test_groups_of_new_rows_are_checked(by_visits, groups):
    X, *_ = visits(5, 4, 6)
    with pytest.raises(ValueError, match=r"groups must have one entry per row|groups"):
        by_visits.predict(X, groups=groups)


@pytest.mark.parametrize("gate", ["tree", "gaussian", "hierarchical", "product"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_every_gate_lets_groups_vote(gate, form):
    X, y, patient = visits(20, 6, 7)
    params = {**QUICK, "n_experts": 4, "max_iter": 3, "gate": gate}
    model = MoERegressor(**params).fit(form(X), y, groups=patient)
    proba = model.gate_proba(form(X), groups=patient)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_array_equal(proba, proba[6 * patient])
    assert np.isfinite(model.predict(form(X), groups=patient)).all()
