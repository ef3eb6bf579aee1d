"""Classification of several labels per row through one gate."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags

from skmoe import MoEClassifier
from skmoe.experts import (
    AveragedPool,
    MultilabelExpert,
    make_pool,
    shrunk_pool,
)
from skmoe.inspection import (
    ExpertSpecializationDisplay,
    ExpertUtilizationDisplay,
    explain_row,
    routing_report,
)
from skmoe.likelihoods import PROBABILITY_FLOOR, Bernoulli
from skmoe.routing import Routing

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

WEIGHTS = np.random.default_rng(1).normal(size=(2, 4, 3)) * 3
FLOOR = PROBABILITY_FLOOR / 2
QUICK = {"n_experts": 2, "n_init": 1, "max_iter": 5, "random_state": 0}
IN_SAMPLE = {**QUICK, "cross_fit": None}
TREE = DecisionTreeClassifier(max_depth=3)


def probabilities(X):
    """Return P(label) of two regimes: each side of x0 = 0 has its own rules."""
    side = (X[:, 0] > 0).astype(int)
    return 1 / (1 + np.exp(-np.einsum("nd,ndl->nl", X, WEIGHTS[side])))


def table(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, (rng.uniform(size=(n, 3)) < probabilities(X)).astype(int)


X, Y = table(600, 0)
X_NEW, Y_NEW = table(1000, 1)


@pytest.fixture(scope="module")
def model():
    return MoEClassifier(n_experts=2, random_state=0).fit(X, Y)


def log_likelihood(proba, labels):
    """Return the mean of log p over rows, by scikit-learn, a label at a time."""
    return -sum(
        log_loss(labels[:, j], proba[:, j], labels=[0, 1])
        for j in range(labels.shape[1])
    )


# ------------------------------------------------------------------- the family
def test_density_by_hand():
    y = np.array([[1.0, 0.0], [0.0, 0.0]])
    answers = np.array([[[0.5, 0.2], [1.0, -3.0]], [[0.25, 0.5], [0.0, 0.5]]])
    routing = Routing(np.array([[0, 1], [1, -1]]), np.full((2, 2), 0.5), 2)
    found = Bernoulli().log_density(y, answers, None, routing)
    expected = [
        [np.log(0.5) + np.log(0.8), 2 * np.log(1 - FLOOR)],
        [np.log(0.75) + np.log(0.5), -np.inf],
    ]
    assert_allclose(found, expected, rtol=1e-12)


def test_family_is_scipys():
    family, y, p = Bernoulli(), np.array([[0.0], [1.0]]), np.array([0.1, 0.5, 0.9])
    assert_allclose(family.log_density_of(y, p, None), stats.bernoulli.logpmf(y, p))
    assert_allclose(family.cdf(y, p, None), stats.bernoulli.cdf(y, p))
    level = np.array([[0.05], [0.45], [0.95]])
    assert_allclose(family.quantile(level, p, None), stats.bernoulli.ppf(level, p))
    assert_allclose(family.variance(p, None), stats.bernoulli.var(p))
    assert family.log_density_of(0.5, 0.5, None) == -np.inf
    drawn = family.sample(np.full(4000, 0.3), None, np.random.RandomState(0))
    assert abs(drawn.mean() - 0.3) < 4 * np.sqrt(0.21 / 4000)


# ------------------------------------------------------------------ one expert
LEARNERS = [
    MultiOutputClassifier(LogisticRegression()),
    OneVsRestClassifier(LogisticRegression()),
    ClassifierChain(LogisticRegression()),
    TREE,
    RandomForestClassifier(3),
    KNeighborsClassifier(5),
    MultiOutputClassifier(KNeighborsClassifier(5)),
    MLPClassifier(5, max_iter=5),
    make_pipeline(StandardScaler(), MultiOutputClassifier(LogisticRegression())),
]


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda e: str(e)[:40])
@pytest.mark.parametrize("n_varied", [0, 1, 3])
def test_expert_says_what_its_learner_says(learner, n_varied):
    """Labels that vary are the learner's; constant ones stay as they are."""
    y = np.hstack([Y[:100, :n_varied], np.ones((100, 1), int), np.zeros((100, 1), int)])
    learner = clone(learner)
    if "random_state" in learner.get_params():
        learner.set_params(random_state=0)
    expert = MultilabelExpert(learner).fit(X[:100], y.astype(float))
    proba = expert.predict_proba(X_NEW)
    assert_array_equal(proba[:, n_varied:], np.tile([1.0, 0.0], (len(X_NEW), 1)))
    assert_array_equal(expert.predict(X_NEW), proba > 0.5)
    if n_varied == 0:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone = clone(learner).fit(X[:100], y[:, :n_varied])
    expected = alone.predict_proba(X_NEW)
    if isinstance(expected, list):
        expected = np.stack([p[:, 1] for p in expected], axis=1)
    assert_allclose(proba[:, :n_varied], expected[:, -n_varied:])


def test_weights_of_a_learner_without_them_are_repeated_rows():
    weight = np.resize([1.0, 2.0, 3.0], 100)
    rows = np.repeat(np.arange(100), weight.astype(int))
    for learner in (
        KNeighborsClassifier(5),
        MultiOutputClassifier(KNeighborsClassifier(5)),
    ):
        weighted = MultilabelExpert(learner, random_state=0).fit(
            X[:100], Y[:100], weight
        )
        repeated = MultilabelExpert(learner).fit(X[:100][rows], Y[:100][rows])
        assert_allclose(weighted.predict_proba(X_NEW), repeated.predict_proba(X_NEW))


# ------------------------------------------------------------------ the mixture
def test_two_regimes_beat_one_learner(model):
    single = MultiOutputClassifier(LogisticRegression()).fit(X, Y)
    said = np.stack([p[:, 1] for p in single.predict_proba(X_NEW)], axis=1)
    truth = log_likelihood(probabilities(X_NEW), Y_NEW)
    gain = log_likelihood(model.predict_proba(X_NEW), Y_NEW) - log_likelihood(
        said, Y_NEW
    )
    assert gain > 0.7 * (truth - log_likelihood(said, Y_NEW))
    assert model.score_samples(X_NEW, Y_NEW).mean() > log_likelihood(said, Y_NEW)
    assert model.score(X_NEW, Y_NEW) > single.score(X_NEW, Y_NEW) + 0.1
    side = X_NEW[:, 0] > 0
    assert abs(np.mean(model.apply(X_NEW)[:, 0] == side) - 0.5) > 0.4


def test_answers(model):
    proba = model.predict_proba(X_NEW)
    assert proba.shape == Y_NEW.shape
    # P(label) is the gated mean of the experts' floored probabilities.
    experts = np.stack([e.predict_proba(X_NEW) for e in model.experts_], axis=1)
    gate = model.route(X_NEW).toarray()
    experts = np.clip(experts, FLOOR, 1 - FLOOR)
    assert_allclose(proba, np.einsum("nk,nkl->nl", gate, experts))
    assert_array_equal(model.predict(X_NEW), proba > 0.5)
    assert_array_equal(model.classes_, np.arange(3))
    assert_allclose(model.decision_function(X_NEW), np.log(proba / (1 - proba)))
    assert_allclose(model.predict_log_proba(X_NEW), np.log(proba))


def test_score_samples_sums_labels_within_experts(model):
    """log Σ_k g_k Π_l p_kl: labels are independent given the expert alone."""
    experts = np.stack([e.predict_proba(X_NEW) for e in model.experts_], axis=1)
    experts = np.clip(experts, FLOOR, 1 - FLOOR)
    each = np.where(Y_NEW[:, None, :] == 1, experts, 1 - experts).prod(axis=2)
    expected = np.log((model.route(X_NEW).toarray() * each).sum(axis=1))
    assert_allclose(model.score_samples(X_NEW, Y_NEW), expected)
    resp = model.responsibilities(X_NEW, Y_NEW).toarray()
    assert_allclose(
        resp * np.exp(expected)[:, None], model.route(X_NEW).toarray() * each
    )
    said = model.predict(X_NEW)
    assert_allclose(model.score_samples(X_NEW), model.score_samples(X_NEW, said))


@pytest.mark.parametrize(
    "form",
    [
        sparse.csr_matrix,
        sparse.csc_array,
        lambda y: pd.DataFrame(y, columns=list("abc")),
        lambda y: y.astype(bool),
        lambda y: y.tolist(),
    ],
)
def test_forms_of_y(form):
    expected = MoEClassifier(TREE, **IN_SAMPLE).fit(X, Y)
    found = MoEClassifier(TREE, **IN_SAMPLE).fit(X, form(Y))
    assert_array_equal(found.predict_proba(X), expected.predict_proba(X))
    assert_array_equal(found.score_samples(X, form(Y)), expected.score_samples(X, Y))
    assert found.predict(X[:3]).dtype == expected.predict(X[:3]).dtype


def test_sparse_and_float32_rows():
    found = MoEClassifier(**IN_SAMPLE).fit(sparse.csr_matrix(X), sparse.csr_matrix(Y))
    dense = MoEClassifier(**IN_SAMPLE).fit(X, Y)
    assert_allclose(
        found.predict_proba(sparse.csr_matrix(X)), dense.predict_proba(X), atol=0.02
    )
    single = MoEClassifier(**IN_SAMPLE).fit(X.astype(np.float32), Y)
    assert single.predict_proba(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("seed", range(3))
def test_weights_are_repeated_rows(seed):
    # Few enough that the repeated rows, too, are held out in two parts.
    chosen = np.random.default_rng(seed).permutation(len(X))[:400]
    few, target = X[chosen], Y[chosen]
    weight = np.resize([1, 2, 3], len(few))
    rows = np.repeat(np.arange(len(few)), weight)
    options = {**QUICK, "random_state": seed}
    weighted = MoEClassifier(TREE, **options).fit(few, target, sample_weight=weight)
    repeated = MoEClassifier(TREE, **options).fit(few[rows], target[rows])
    assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-6)
    none = np.where(np.arange(len(X)) < 300, 1.0, 0.0)
    dropped = MoEClassifier(TREE, **options).fit(X, Y, sample_weight=none)
    kept = MoEClassifier(TREE, **options).fit(X[:300], Y[:300])
    assert_allclose(dropped.predict_proba(X), kept.predict_proba(X), atol=1e-12)


def test_rare_labels_do_not_warn():
    y = np.column_stack([Y[:200], np.arange(200) == 7, np.zeros(200), np.ones(200)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = MoEClassifier(n_experts=3, n_init=1, random_state=0).fit(X[:200], y)
    proba = model.predict_proba(X)
    assert_allclose(proba[:, 4], FLOOR)
    assert_allclose(proba[:, 5], 1 - FLOOR)
    assert proba[:, 3].max() < 0.3
    assert_array_equal(model.predict(X)[:, 4:], np.tile([0, 1], (len(X), 1)))


@pytest.mark.parametrize("final", ["refit", "average"])
@pytest.mark.parametrize("learner", [None, TREE])
def test_experts_answer_alone(final, learner):
    """Refitted, averaged or drawn to the pooled fit, experts_ say what they weigh."""
    model = MoEClassifier(learner, **QUICK, final=final, top_k=1).fit(X, Y)
    model = pickle.loads(pickle.dumps(model))
    proba, first = model.predict_proba(X_NEW), model.apply(X_NEW)[:, 0]
    for k, expert in enumerate(model.experts_):
        rows = first == k
        said = np.clip(expert.predict_proba(X_NEW[rows]), FLOOR, 1 - FLOOR)
        assert_allclose(proba[rows], said, rtol=1e-6)
        assert_array_equal(expert.predict(X_NEW[rows]), said > 0.5)
        assert_array_equal(expert.classes_, np.arange(3))


def test_blended_and_averaged_pools():
    pool = make_pool(
        [MultilabelExpert(TREE)] * 2, n_features=4, likelihood=Bernoulli(), seeds=[0, 1]
    )
    halves = np.where(np.arange(len(X))[:, None] % 2 == [0, 1], 1.0, 0.0)
    routing, even = (
        Routing.from_dense(halves),
        Routing.from_dense(np.full((600, 2), 0.5)),
    )
    everyone = Routing.from_dense(np.ones((600, 1)))
    one = pool.fit(X, Y.astype(float), routing)
    pooled = make_pool([MultilabelExpert(TREE)], n_features=4, likelihood=Bernoulli())
    other = pooled.fit(X, Y.astype(float), everyone)
    blend = shrunk_pool(one, other, np.array([0, 0]), 0.75)
    a, b = one.predict(X, even), other.predict(X, everyone)
    assert_allclose(blend.predict(X, even), 0.25 * a + 0.75 * b)
    for k, expert in enumerate(blend.estimators()):
        assert_allclose(expert.predict_proba(X), 0.25 * a[:, k] + 0.75 * b[:, 0])
    mean = AveragedPool([one, one.take(np.array([1, 0]))])
    for expert in mean.estimators():
        assert_allclose(expert.predict_proba(X), a.mean(axis=1))
        assert_array_equal(expert.predict(X), a.mean(axis=1) > 0.5)


@pytest.mark.parametrize("gate", ["gaussian", "tree", "hierarchical", "constant"])
def test_other_gates(gate):
    model = MoEClassifier(TREE, gate=gate, **IN_SAMPLE).fit(X, Y)
    assert model.predict_proba(X).shape == Y.shape
    assert np.isfinite(model.score_samples(X, Y)).all()


def test_search_reaches_the_learner_of_a_label():
    expert = MultiOutputClassifier(LogisticRegression())
    grid = {"expert__estimator__C": [1e-4, 1.0]}
    search = GridSearchCV(MoEClassifier(expert, **IN_SAMPLE), grid, cv=2)
    search.fit(X[:200], Y[:200])
    assert search.best_params_ == {"expert__estimator__C": 1.0}
    assert search.best_estimator_.experts_[0].estimator_.estimators_[0].C == 1.0


def test_parameters_are_counted():
    options = IN_SAMPLE
    model = MoEClassifier(**options).fit(X, Y)
    gate = 5  # of two experts and four features
    n_free = gate + 2 * 3 * 5
    score = model.score_samples(X, Y).sum()
    assert_allclose(model.aic(X, Y), -2 * score + 2 * n_free)
    tree = MoEClassifier(TREE, **options).fit(X, Y)
    leaves = sum(expert.estimator_.get_n_leaves() for expert in tree.experts_)
    score = tree.score_samples(X, Y).sum()
    assert_allclose(tree.aic(X, Y), -2 * score + 2 * (gate + 3 * leaves))


def test_experts_come_and_go():
    model = MoEClassifier(TREE, **IN_SAMPLE).fit(X, Y)
    assert model.add_experts(1, X, Y).predict_proba(X).shape == Y.shape
    assert model.n_experts_ == 3
    assert model.remove_experts([0]).predict(X).shape == Y.shape


def test_warm_start():
    model = MoEClassifier(TREE, warm_start=True, **IN_SAMPLE).fit(X, Y)
    before = model.score_samples(X, Y).mean()
    assert model.fit(X, Y).score_samples(X, Y).mean() > before - 0.1
    with pytest.raises(ValueError, match=r"y has 2 labels, .* fitted with 3"):
        model.fit(X, Y[:, :2])
    assert_array_equal(model.classes_, np.arange(3))
    assert model.set_params(warm_start=False).fit(X, Y[:, 0]).predict(X).ndim == 1


def test_inspection_looks_at_one_label(model):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    why = explain_row(model, X_NEW[0], output=2)
    assert why.prediction == model.predict(X_NEW[:1])[0, 2]
    said = [model.experts_[k].predict_proba(X_NEW[:1])[0, 2] for k in why.experts]
    assert_allclose(why.proba, [[1 - p, p] for p in said])
    report = routing_report(model, X_NEW, Y_NEW, output=1)
    assert len(report) == 2
    shares = ExpertSpecializationDisplay.from_estimator(
        model, X_NEW, Y_NEW, kind="classes", output=1
    ).values
    weight = model.route(X_NEW).toarray()
    assert_allclose(shares[:, 1], weight.T @ Y_NEW[:, 1] / weight.sum(axis=0))
    display = ExpertUtilizationDisplay.from_estimator(model, X_NEW, Y_NEW, output=1)
    assert display.group_names == ["class 0", "class 1"]


# ------------------------------------------------------------------------ errors
def test_tags():
    assert get_tags(MoEClassifier()).classifier_tags.multi_label
    assert get_tags(MoEClassifier(TREE)).classifier_tags.multi_label
    assert get_tags(MoEClassifier(LogisticRegression())).classifier_tags.multi_label
    assert not get_tags(MoEClassifier(GaussianNB())).classifier_tags.multi_label
    assert not get_tags(
        MoEClassifier(class_weight="balanced")
    ).classifier_tags.multi_label
    assert not get_tags(MoEClassifier(shared_expert="auto")).classifier_tags.multi_label
    some = MoEClassifier([TREE, GaussianNB()], n_experts=2)
    assert not get_tags(some).classifier_tags.multi_label


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [
        ({"expert": GaussianNB()}, Y, r"Wrap it: .*MultiOutputClassifier"),
        ({"expert": [TREE, GaussianNB()]}, Y, "GaussianNB.* one label"),
        ({"class_weight": "balanced"}, Y, "class_weight .* got 'balanced'"),
        ({"class_weight": {0: 1, 1: 2}}, Y, "class_weight must be None"),
        (
            {"shared_expert": "auto"},
            Y,
            "shared_expert must be None for a y of several labels",
        ),
        ({}, Y + 1, "labels 0 or 1 .* got 2"),
        ({}, sparse.csr_matrix(2 * Y), "labels 0 or 1 .* got 2"),
        ({}, Y + np.arange(600)[:, None] % 2, "several columns of classes"),
        ({}, (Y + np.arange(600)[:, None] % 2).tolist(), r"\(600, 3\) holds several"),
        ({}, Y.astype(str), "several columns of classes"),
        ({}, Y[:500], "inconsistent numbers of samples"),
    ],
)
def test_what_fit_refuses(params, y, message):
    with pytest.raises(ValueError, match=message):
        MoEClassifier(**{**QUICK, **params}).fit(X, y)


def test_what_fitted_mixtures_refuse(model):
    with pytest.raises(ValueError, match="fitted with 3 labels per row; got y"):
        model.score_samples(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"y has 2 labels, .* fitted with 3"):
        model.score_samples(X, Y[:, :2])
    single = MoEClassifier(**IN_SAMPLE).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match=r"3 labels per row, .* fitted with one class"):
        single.score_samples(X, Y)
    for mixture in (model, MoEClassifier()):
        with pytest.raises(ValueError, match="for several labels use fit"):
            mixture.partial_fit(X, Y, classes=[0, 1])
