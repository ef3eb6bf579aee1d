"""More experts, or fewer, in a fitted mixture."""

import copy
import functools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

random = np.random.RandomState(0)
N = 900
X = random.uniform(-3, 3, (N, 2))
Y = np.floor(X[:, 0]) * X[:, 1] + 0.1 * random.standard_normal(N)
LABELS = np.where(Y > 0, "up", "down")
FEW = {"n_experts": 3, "random_state": 0, "n_init": 1, "max_iter": 20}
KINDS = [
    pytest.param(MoERegressor(**FEW), Y, id="ridge"),
    pytest.param(MoERegressor(DecisionTreeRegressor(max_depth=3), **FEW), Y, id="tree"),
    pytest.param(MoEClassifier(**FEW), LABELS, id="logistic"),
    pytest.param(MoEClassifier(GaussianNB(), **FEW), LABELS, id="bayes"),
    pytest.param(
        MoERegressor([Ridge(), LinearRegression(), Ridge(5)], **FEW), Y, id="list"
    ),
    pytest.param(
        MoERegressor(DecisionTreeRegressor(max_depth=3), **FEW, final="average"),
        Y,
        id="averaged",
    ),
]


@functools.cache
def once(model):
    return clone(model).fit(X, Y if isinstance(model, MoERegressor) else LABELS)


def fitted(model):
    """Return a fitted model to change; it is fitted once for all tests."""
    return copy.deepcopy(once(model))


def consistent(model, y):
    """Check that a mixture of another number of experts answers as one."""
    k = model.n_experts_
    assert len(model.experts_) == len(model.expert_load_) == k
    assert model.gate_proba(X).shape == (N, k)
    np.testing.assert_allclose(model.gate_proba(X).sum(axis=1), 1)
    assert model.expert_load_.sum() == pytest.approx(1)
    assert np.isfinite(model.score_samples(X, y)).all()
    assert model.apply(X).max() < k
    if isinstance(model, MoERegressor):
        assert model.scale_.shape == (k,)
        routed = model.route(X).toarray()
        said = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
        np.testing.assert_allclose(model.predict(X), (routed * said).sum(axis=1))


@pytest.mark.parametrize(("model", "y"), KINDS)
def test_new_experts_help_and_old_ones_stay(model, y):
    model = fitted(model)
    before, experts = model.score_samples(X, y).mean(), model.experts_
    assert model.add_experts(3, X, y) is model
    consistent(model, y)
    assert model.n_experts_ == 6
    assert model.n_experts == 3
    for old, kept in zip(experts, model.experts_, strict=False):
        if isinstance(model, MoERegressor):
            np.testing.assert_array_equal(old.predict(X), kept.predict(X))
        else:
            np.testing.assert_array_equal(old.predict_proba(X), kept.predict_proba(X))
    gain = model.score_samples(X, y).mean() - before
    assert gain > (0.05 if isinstance(model, MoERegressor) else -0.02)


@pytest.mark.parametrize(("model", "y"), KINDS)
def test_removed_experts_leave_their_rows_to_the_others(model, y):
    model = fitted(model)
    before = model.gate_proba(X)
    assert model.remove_experts(1) is model
    consistent(model, y)
    expected = before[:, [0, 2]] / before[:, [0, 2]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.gate_proba(X), expected)


@pytest.mark.parametrize(("model", "y"), KINDS)
def test_added_experts_can_go_again(model, y):
    model = fitted(model)
    model.add_experts(2, X, y).remove_experts([4, 1])
    assert model.n_experts_ == 3
    consistent(model, y)


def test_twins_are_pruned():
    """Five straight lines for two: three can go at no loss."""
    y = np.abs(X[:, 0]) + 0.1 * random.standard_normal(N)
    model = MoERegressor(n_experts=2, n_init=1, random_state=0).fit(X, y)
    best = model.score_samples(X, y).mean()
    model.add_experts(3, X, y)
    model.prune(X, y, tol=0.02)
    consistent(model, y)
    assert model.n_experts_ <= 3
    assert model.score_samples(X, y).mean() > best - 0.05


def test_pruning_loses_no_more_than_it_may():
    model = MoERegressor(n_experts=8, n_init=1, random_state=0).fit(X, Y)
    before = model.score_samples(X, Y).mean()
    for tol in (0.0, 0.2, 1.0):
        model.prune(X, Y, tol=tol)
        consistent(model, Y)
        assert model.score_samples(X, Y).mean() >= before - tol - 1e-6
        before = model.score_samples(X, Y).mean()
    assert model.n_experts_ < 8


def test_growth_can_go_on():
    model = MoERegressor(**FEW).fit(X, Y).add_experts(2, X, Y)
    before = model.score_samples(X, Y).mean()
    model.set_params(n_experts=5, warm_start=True).fit(X, Y)
    assert model.n_experts_ == 5
    assert model.score_samples(X, Y).mean() > before - 0.05


def test_gates_that_cannot_split_say_so_and_nothing_changes():
    gate = RandomForestClassifier(5, random_state=0)
    options = {**FEW, "cross_fit": None}
    model = MoERegressor(**options, gate="product").fit(X, Y)
    with pytest.raises(TypeError, match="ProductGate cannot leave out or split"):
        model.remove_experts(0)
    assert model.n_experts_ == 3
    model = MoERegressor(**options, gate=gate).fit(X, Y).remove_experts(0)
    consistent(model, Y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.add_experts(0, X, Y), ValueError, "n == 0, must be >= 1"),
        (lambda m: m.add_experts(1.5, X, Y), TypeError, "n must be an instance of"),
        (lambda m: m.add_experts(1, X[:, :1], Y), ValueError, "2 features"),
        (lambda m: m.remove_experts([3]), ValueError, r"from 0 to 2; got \[3\]"),
        (lambda m: m.remove_experts([0.5]), ValueError, "positions of experts"),
        (
            lambda m: m.remove_experts([0, 1, 2]),
            ValueError,
            "leave at least one expert",
        ),
        (lambda m: m.prune(X, Y, tol=-1), ValueError, "tol == -1"),
    ],
)
def test_bad_calls(call, error, message):
    model = fitted(KINDS[0].values[0])
    with pytest.raises(error, match=message):
        call(model)
    consistent(model, Y)


def test_an_unfitted_mixture_cannot_grow():
    from sklearn.exceptions import NotFittedError

    for name, args in (("add_experts", (1, X, Y)), ("prune", (X, Y))):
        with pytest.raises(NotFittedError):
            getattr(MoERegressor(), name)(*args)


def test_learners_keep_their_kind():
    learners = [LogisticRegression(), GaussianNB(), LogisticRegression(C=0.1)]
    model = MoEClassifier(learners, **FEW).fit(X, LABELS).add_experts(1, X, LABELS)
    assert type(model.experts_[3]) in (LogisticRegression, GaussianNB)


# ------------------------------------------------------------ new experts without rows
@pytest.mark.parametrize(("model", "y"), KINDS)
@pytest.mark.parametrize("rows", [slice(0, 1), slice(0, 2), [5] * 30])
def test_new_experts_without_rows_are_copies(model, y, rows):
    model = fitted(model).set_params(top_k=None)
    before = model.score_samples(X, y)
    model.add_experts(2, X[rows], y[rows])
    consistent(model, y)
    if rows != slice(0, 2):  # all rows alike
        np.testing.assert_allclose(model.score_samples(X, y), before)


@pytest.mark.parametrize("gate", ["softmax", "gaussian", "hierarchical", "constant"])
@pytest.mark.parametrize("top_k", [2, None])
def test_many_new_experts_of_few_rows(gate, top_k):
    options = {**FEW, "cross_fit": None, "gate": gate, "top_k": top_k}
    model = MoEClassifier(**options).fit(X[:100], LABELS[:100])
    model.add_experts(20, X[:12], LABELS[:12]).add_experts(2, X[:3], LABELS[:3])
    consistent(model, LABELS)
    assert np.isfinite(model.predict_proba(X)).all()


def test_learners_of_too_few_rows_stay_copies():
    options = {**FEW, "cross_fit": None, "top_k": None}
    model = MoERegressor(KNeighborsRegressor(3), **options).fit(X, Y)
    before = model.predict(X)
    model.add_experts(1, X[:2], Y[:2])
    np.testing.assert_allclose(model.predict(X), before)
    assert model.n_experts_ == 4
    model = MoERegressor(KNeighborsRegressor(3), **FEW).fit(X, Y)
    consistent(model.add_experts(4, X[:12], Y[:12]), Y)


def test_learners_that_fail_for_other_reasons_say_so(monkeypatch):
    model = fitted(KINDS[1].values[0])

    def broken(*args, **kwargs):
        raise OSError("no disk")

    monkeypatch.setattr(DecisionTreeRegressor, "fit", broken)
    with pytest.raises((RuntimeError, OSError), match="no disk"):
        model.add_experts(1, X, Y)
    assert model.n_experts_ == 3


def test_constant_targets_and_separable_classes():
    tree = DecisionTreeRegressor(max_depth=2)
    model = MoERegressor(tree, **FEW).fit(X[:60], np.ones(60))
    model.add_experts(1, X[:60], np.ones(60))
    np.testing.assert_allclose(model.predict(X), 1.0)
    model = MoERegressor(PoissonRegressor(), **FEW, likelihood="poisson")
    model.fit(X[:60], np.zeros(60) + (X[:60, 0] > 0)).add_experts(2, X[:4], np.ones(4))
    assert np.isfinite(model.predict(X)).all()
