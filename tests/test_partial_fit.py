"""Streams: partial_fit, stepwise EM, and what gates and pools remember."""

import copy
import functools
import pickle
from dataclasses import replace

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.naive_bayes import BernoulliNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Pace, absorb
from skmoe.em._stepwise import Level
from skmoe.em._stream_sample import Sample, stacked
from skmoe.estimators import _streaming
from skmoe.experts import make_pool
from skmoe.gates import ConstantGate, GaussianGate, SoftmaxGate
from skmoe.likelihoods import Gaussian
from skmoe.routing import Moments, Routing

pytestmark = pytest.mark.usefixtures("quick_choices")

QUICK = {"n_init": 1, "max_iter": 10, "random_state": 0}
LONG = {**QUICK, "max_iter": 100, "cross_fit": None}


def regimes(n, seed=0, flip=1.0, dtype=np.float64):
    """Two regimes of three features, told apart by the first one."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).astype(dtype)
    left = X[:, 0] + 0.05 * rng.normal(size=n) < 0
    mean = np.where(left, 2 * X[:, 1] - 1, -2 * X[:, 1] + X[:, 2] + 1)
    return X, (flip * mean + 0.2 * rng.normal(size=n)).astype(dtype)


def batches(*arrays, size=200):
    for a in range(0, arrays[0].shape[0], size):
        yield tuple(array[a : a + size] for array in arrays)


def streamed(model, X, y, size=200, **options):
    for part in batches(X, y, size=size):
        model.partial_fit(*part, **options)
    return model


def quality(model, n=2000, **options):
    return model.score(*regimes(n, seed=99, **options))


@pytest.fixture
def forgets_nothing(monkeypatch):
    pace = functools.partial(absorb, pace=Pace(exponent=1.0))
    monkeypatch.setattr(_streaming, "absorb", pace)


# ------------------------------------------------------------------- exact cases
def test_one_expert_that_forgets_nothing_is_least_squares(forgets_nothing):
    X, y = regimes(5000)
    X += [0.0, 100.0, 0.0]
    weight = np.random.default_rng(1).uniform(0.5, 2, size=len(y))
    model = MoERegressor(Ridge(alpha=5.0), n_experts=1)
    for part in batches(X, y, weight, size=100):
        model.partial_fit(*part)
    assert model._early is None
    ridge = Ridge(alpha=5.0).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(model.experts_[0].coef_, ridge.coef_, rtol=1e-9)
    error = np.average((y - ridge.predict(X)) ** 2, weights=weight)
    np.testing.assert_allclose(model.scale_, [np.sqrt(error)], rtol=1e-9)


def test_several_outputs_without_intercept(forgets_nothing):
    X, y = regimes(3000)
    Y = np.column_stack([y, X @ [1.0, 2.0, 3.0]])
    model = MoERegressor(Ridge(fit_intercept=False), n_experts=1)
    streamed(model, X, Y, size=1000)
    ridge = Ridge(fit_intercept=False).fit(X, Y)
    np.testing.assert_allclose(model.predict(X), ridge.predict(X), atol=1e-8)


def test_decayed_sums_by_hand():
    # One feature, one expert: rows of weight keep^age.
    X, y = np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([[1.0], [2.0], [0.0], [5]])
    one = Routing.from_dense(np.ones((2, 1)))
    old, new = Moments.of(X[:2], y[:2], one), Moments.of(X[2:], y[2:], one)
    both = old.times(np.array([0.25])).plus(new)
    z, w = np.column_stack([X, y]), np.array([0.25, 0.25, 1, 1])
    mean = np.average(z, axis=0, weights=w)
    np.testing.assert_allclose(both.mass, [2.5])
    np.testing.assert_allclose(both.mean[0], mean)
    np.testing.assert_allclose(
        both.scatter[0], (z - mean).T @ (w[:, None] * (z - mean))
    )
    u = (z - [1.0, 2.0]) / [2.0, 0.5]
    u = np.column_stack([u, np.ones(4)])
    about = both.about(np.array([1.0, 2.0]), np.array([2.0, 0.5]))
    np.testing.assert_allclose(about[0], u.T @ (w[:, None] * u))


@pytest.mark.parametrize("sparse_too", [False, True])
def test_moments_are_those_of_each_experts_rows(sparse_too):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 2))
    indices = np.array([rng.permutation(3)[:2] for _ in range(30)])
    routing = Routing(indices, rng.uniform(size=(30, 2)), 3)
    found = Moments.of(sparse.csr_array(X) if sparse_too else X, y, routing)
    z, dense = np.hstack([X, y]), routing.to_csr().toarray()
    for k in range(3):
        mean = np.average(z, axis=0, weights=dense[:, k])
        np.testing.assert_allclose(found.mean[k], mean)
        left = z - mean
        np.testing.assert_allclose(found.scatter[k], left.T @ (dense[:, [k]] * left))


def test_constant_gate_counts():
    gate = ConstantGate().fit(np.zeros((2, 1)), np.array([[1.0, 0.0], [0.5, 0.5]]))
    rows = Routing.from_dense(np.array([[0.0, 1.0], [0.0, 1.0]]))
    gate = gate.recall(None, rows, np.array([1.5, 0.5]))
    gate = gate.absorb(np.zeros((2, 1)), rows, 0.5)
    np.testing.assert_allclose(np.exp(gate.log_weights_), [0.75 / 3, 2.25 / 3])


def test_one_step_on_two_classes_is_newtons():
    rng = np.random.default_rng(0)
    X, right = rng.normal(loc=[0.0, 3.0], size=(200, 2)), rng.uniform(size=200)
    Z = np.column_stack([X, np.ones(200)])
    gate = SoftmaxGate(alpha=0).fit(X, np.full((200, 2), 0.5))  # all logits are 0
    targets = Routing.from_dense(np.column_stack([right, 1 - right]))
    gate = gate.recall(X, targets, np.array([100.0, 100.0]))
    stepped = gate.absorb(X, targets, 0.0)
    hessian, gradient = Z.T @ (0.25 * Z), Z.T @ (0.5 - right)
    logits = Z @ -np.linalg.solve(hessian, gradient)
    found = stepped.log_proba(X)
    np.testing.assert_allclose(found[:, 0] - found[:, 1], logits, atol=1e-4)


@pytest.mark.parametrize("gate", [SoftmaxGate(1e-3), GaussianGate()])
def test_gate_follows_its_targets(gate):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) * [1.0, 5.0] + [3.0, 0.0]

    def targets(rows):
        right = 1 / (1 + np.exp(-2 * (rows[:, 0] - 3.5)))
        return Routing.from_dense(np.column_stack([right, 1 - right]))

    gate = gate.fit(X, Routing.from_dense(np.full((400, 2), 0.5)))
    before = joblib.hash(vars(gate))
    first = gate.recall(X, targets(X), np.array([200.0, 200.0]))
    np.testing.assert_array_equal(first.log_proba(X), gate.log_proba(X))
    stream = first
    for _ in range(30):
        rows = rng.normal(size=(200, 2)) * [1.0, 5.0] + [3.0, 0.0]
        stream = stream.absorb(rows, targets(rows), 0.8)
    best = clone(gate).fit(X, targets(X))
    error = np.exp(stream.log_proba(X)) - np.exp(best.log_proba(X))
    assert np.sqrt(np.mean(error**2)) < 0.03
    assert joblib.hash(vars(gate)) == before


# ----------------------------------------------------------------------- the stream
def test_stream_reaches_what_fit_reaches():
    X, y = regimes(6000)
    batch = MoERegressor(n_experts=2, **LONG).fit(X, y)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    test = regimes(2000, seed=99)
    gap = np.mean(batch.score_samples(*test)) - np.mean(model.score_samples(*test))
    assert gap < 0.02
    assert model.score(*test) > batch.score(*test) - 0.005
    assert abs(model.lower_bound_ - batch.lower_bound_) < 0.1
    assert model.routed_bound_ <= model.lower_bound_ + 1e-9
    np.testing.assert_allclose(model.expert_load_.sum(), 1.0)


def test_size_and_order_of_batches_matter_little():
    X, y = regimes(6000)
    one = streamed(MoERegressor(n_experts=2, **QUICK), X, y, size=500)
    order = np.concatenate([np.arange(2000), 2000 + np.random.permutation(4000)])
    for other in (
        streamed(MoERegressor(n_experts=2, **QUICK), X, y, size=100),
        streamed(MoERegressor(n_experts=2, **QUICK), X[order], y[order], size=500),
    ):
        assert np.mean((one.predict(X) - other.predict(X)) ** 2) < 0.01 * np.var(y)


def test_a_large_batch_is_learned_in_runs():
    X, y = regimes(12_000)
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(X, y)
    assert model._early is None
    assert model._rows_learned == 12_000
    assert quality(model) > 0.8


def test_prequential_bound_is_of_rows_before_they_are_learned():
    X, y = regimes(4400)
    model = streamed(MoERegressor(n_experts=1), X, y)
    odd = y[:200] + 50.0
    before, memory = model.lower_bound_, model._stream.memory
    surprise = np.mean(model.score_samples(X[:200], odd))
    model.partial_fit(X[:200], odd)
    gamma = 200 / model._stream.memory
    assert model._stream.memory < memory - 1500  # the past is doubted
    expected = (1 - gamma) * before + gamma * surprise
    np.testing.assert_allclose(model.lower_bound_, expected, rtol=1e-9)


def test_drift_is_followed():
    X, y = regimes(20_000)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X, y, size=500)
    assert quality(model) > 0.8
    long_memory = model._stream.memory
    X, y = regimes(5000, seed=1, flip=-1.0)
    streamed(model, X[:1000], y[:1000], size=500)
    assert model._early is not None  # shaken so much that it starts anew
    streamed(model, X[1000:], y[1000:], size=500)
    assert quality(model, flip=-1.0) > 0.9
    assert model._stream.memory < long_memory


def test_a_slow_drift_needs_no_new_start():
    rng = np.random.default_rng(0)
    model = MoERegressor(n_experts=1, **QUICK)
    for slope in np.linspace(1.0, 3.0, 100):
        X = rng.normal(size=(200, 1))
        model.partial_fit(X, slope * X[:, 0] + 0.2 * rng.normal(size=200))
    assert abs(model.experts_[0].coef_[0] - 3.0) < 0.5
    assert model._early is None


def test_a_start_that_explains_less_is_not_taken(monkeypatch):
    X, y = regimes(3000)
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(X, y)
    stream = model._stream
    model._early = _streaming.Early(X[:500], y[:500], np.ones(500), started=10)
    poor = replace(model._settings_of_start(500), n_experts=1)
    monkeypatch.setattr(type(model), "_settings_of_start", lambda self, n_rows: poor)
    model.partial_fit(X[:100], y[:100])
    assert model.n_experts_ == stream.pool.n_experts == 2


def test_surprise_is_counted_in_standard_errors():
    level = Level(mean=-1.0, middle=-1.0, variance=4.0)
    assert level.surprise(Level(-2.0, -2.0, 4.0), 100) == pytest.approx(5.0)
    moved = level.moved(Level(-3.0, -3.0, 4.0), 0.5)
    assert (moved.mean, moved.middle, moved.variance) == (-2.0, -2.0, 5.0)
    ones = np.ones(100)
    odd = Level.of(np.append(-ones[:99], -1e6), ones, level)  # one row is far off
    assert odd.mean < -1e4
    assert odd.middle == pytest.approx(-1.0 - 20.0 / 100)
    assert level.surprise(odd, 100) < 5


def test_an_outlier_does_not_erase_the_past():
    X, y = regimes(5000)
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(X, y)
    memory = model._stream.memory
    model.partial_fit(X[:1], y[:1] + 1000.0)
    assert model._stream.memory > memory - 15


def test_pace_grows_as_a_power_and_then_not_at_all():
    pace = Pace(start=100.0, exponent=0.5, longest=1000.0)
    assert pace.after(0.0, 100.0) == 100.0
    assert pace.after(100.0, 300.0) == pytest.approx(200.0)
    half_way = pace.after(pace.after(100.0, 100.0), 200.0)
    assert half_way == pytest.approx(200.0)
    assert pace.after(1000.0, 1e6) == 1000.0
    assert Pace(exponent=1.0).after(500.0, 5e3) == 5500.0


def test_an_expert_forgets_only_as_it_learns():
    X, y = regimes(6000)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    right = X[:, 0] > 1.0
    expert = int(np.argmin(model.gate_proba(X[right]).mean(axis=0)))
    coef = model.experts_[expert].coef_.copy()
    X, y = regimes(20_000, seed=2)
    streamed(model, X[X[:, 0] > 1.0], y[X[:, 0] > 1.0])
    np.testing.assert_allclose(model.experts_[expert].coef_, coef, atol=0.1)


def test_a_dead_expert_starts_anew_where_rows_are_explained_worst(monkeypatch):
    monkeypatch.setattr(MoERegressor, "_is_due", lambda self, early: False)
    rng = np.random.default_rng(0)

    def rows(changed):
        X = rng.uniform(-2, 2, size=(6000, 1))
        y = np.where(changed & (X[:, 0] > 1), 10 - 3 * X[:, 0], np.abs(X[:, 0]))
        return X, y + 0.1 * rng.normal(size=6000)

    model = MoERegressor(n_experts=3, **QUICK).partial_fit(*rows(False))
    stream = model._stream  # one of three is not needed for two lines: let it die
    dead = int(np.argmin(stream.load))
    gate, load = copy.copy(stream.gate), stream.load.copy()
    gate.intercept_ = gate.intercept_ - 30.0 * (np.arange(3) == dead)
    load[dead] = 1e-9
    model._stream = replace(stream, gate=gate, load=load)
    X, y = rows(True)
    streamed(model, X, y, size=500)
    assert 0.15 < model.expert_load_[dead] < 0.35
    changed = X[:, 0] > 1.5
    assert np.median(np.abs(model.predict(X[changed]) - y[changed])) < 1.0


# ------------------------------------------------------------------ after fit, and fit
def test_it_goes_on_from_fit():
    X, y = regimes(2000)
    model = MoERegressor(n_experts=2, **LONG).fit(X, y)
    before = model.predict(X)
    for row in range(20):  # a row at a time, which spans next to nothing
        model.partial_fit(X[row : row + 1], y[row : row + 1])
    assert np.mean((model.predict(X) - before) ** 2) < 1e-3 * np.var(y)
    X, y = regimes(6000, seed=1, flip=-1.0)
    streamed(model, X, y)
    assert quality(model, flip=-1.0) > 0.6


@pytest.mark.parametrize("expert", [Ridge(2.0), Ridge(2.0, fit_intercept=False)])
def test_what_is_recalled_gives_the_experts_that_there_are(expert):
    X, y = regimes(500)
    model = MoERegressor(expert, n_experts=2, **LONG).fit(X, y)
    pool, routing = model._pool, model.gate_.route(X[:7], 2)
    known = pool.recall(X[:7], routing, np.array([300.0, 200.0]))
    nothing = Routing.from_dense(np.full((1, 2), 1e-12))
    again = known.absorb(X[:1], y[:1, None], np.zeros((1, 2, 1)), nothing, np.ones(2))
    np.testing.assert_allclose(again.coef, pool.coef, rtol=1e-6)
    np.testing.assert_allclose(again.intercept, pool.intercept, atol=1e-8)
    np.testing.assert_allclose(again.scale, pool.scale, rtol=0.05)


def test_fit_starts_afresh():
    X, y = regimes(400)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    fresh = MoERegressor(n_experts=2, **QUICK).fit(X, y)
    model.fit(X, y)
    np.testing.assert_array_equal(model.predict(X), fresh.predict(X))
    assert model._stream is None


def test_experts_may_come_and_go():
    X, y = regimes(3000)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    model.add_experts(1, X, y)
    streamed(model, X[:400], y[:400])
    assert len(model.experts_) == model.n_experts_ == 3
    model.remove_experts(0)
    streamed(model, X[:400], y[:400])
    assert len(model.experts_) == model._stream.pool.n_experts == 2


# ---------------------------------------------------------------------- the first calls
def test_first_rows_have_one_expert():
    X, y = regimes(4000)
    model = MoERegressor(n_experts=4, **QUICK)
    sizes = []
    for part in batches(X[:80], y[:80], size=5):
        model.partial_fit(*part)
        assert model.predict(X[:3]).shape == (3,)
        sizes.append(model.n_experts_)
    assert sizes == [1] * 7 + [4] * 9
    streamed(model, X[80:], y[80:], size=500)
    assert model._early is None
    assert quality(model) > 0.8


@pytest.mark.parametrize("gate", ["product", "hierarchical", "gaussian", "tree"])
def test_any_gate(gate):
    X, y = regimes(3000)
    model = streamed(MoERegressor(n_experts=4, gate=gate, **QUICK), X, y, size=300)
    assert quality(model) > 0.75


def test_a_list_of_experts():
    X, y = regimes(1200)
    experts = [DecisionTreeRegressor(max_depth=4), Ridge(), SGDRegressor()]
    model = MoERegressor(experts, n_experts=3, **QUICK)
    streamed(model, X[:40], y[:40], size=20)
    streamed(model, X[40:], y[40:], size=400)
    kinds = [type(expert) for expert in model.experts_]
    assert kinds == [DecisionTreeRegressor, Ridge, SGDRegressor]


# ------------------------------------------------------------------------- classifiers
def labels(n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3))
    side = np.where(X[:, 0] > 0, X[:, 1], -X[:, 1])
    return X, np.array(["a", "b", "c"])[np.digitize(side, [-0.5, 0.5])]


def test_classifier_reaches_what_fit_reaches():
    X, y = labels(6000)
    batch = MoEClassifier(n_experts=2, **LONG).fit(X, y)
    model = MoEClassifier(n_experts=2, **QUICK)
    streamed(model, X, y, classes=["a", "b", "c"])
    test = labels(2000, seed=99)
    assert model.score(*test) > batch.score(*test) - 0.02
    assert model.predict_proba(X).shape == (6000, 3)


def test_a_class_may_come_late():
    X, y = labels(4000)
    early = y != "c"
    model = MoEClassifier(n_experts=2, **QUICK)
    streamed(model, X[early], y[early], classes=["a", "b", "c"])
    assert np.mean(model.predict(X) == "c") == 0
    streamed(model, X, y)
    assert model.score(*labels(2000, seed=99)) > 0.75


def test_a_first_batch_of_one_class():
    X, y = labels(300)
    model = MoEClassifier(n_experts=2, **QUICK)
    model.partial_fit(X[y == "a"], y[y == "a"], classes=["a", "b", "c"])
    assert set(model.predict(X)) == {"a"}
    streamed(model, X, y)
    assert len(set(model.predict(X))) == 3


def test_rules_of_classes():
    X, y = labels(200)
    model = MoEClassifier(n_experts=2, **QUICK)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"classes that fit did not see: \['c'\]"):
        model.partial_fit(X, y, classes=["a", "b"])
    with pytest.raises(ValueError, match="at least 2 classes"):
        model.partial_fit(X, y, classes=["a"])
    assert not hasattr(model, "classes_")
    model.partial_fit(X, y, classes=["c", "b", "a"])
    model.partial_fit(X, y, classes=["a", "b", "c"])
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        model.partial_fit(X, y, classes=["a", "b"])
    with pytest.raises(ValueError, match="did not see"):
        model.partial_fit(X, np.full(200, "d"))


@pytest.mark.parametrize("class_weight", ["balanced", {"c": 20}])
def test_class_weights(class_weight):
    X, y = labels(3000)
    rare = np.flatnonzero((y != "c") | (np.arange(3000) % 20 == 0))
    plain, heavy = (
        MoEClassifier(n_experts=2, class_weight=each, **QUICK)
        for each in (None, class_weight)
    )
    for model in (plain, heavy):
        streamed(model, X[rare], y[rare], classes=["a", "b", "c"])
    assert np.mean(heavy.predict(X) == "c") > 2 * np.mean(plain.predict(X) == "c")


# ------------------------------------------------------------------------------- rows
def test_weights_are_repetitions():
    X, y = regimes(7500)
    times = np.random.default_rng(0).integers(0, 3, size=len(y))
    weighted, repeated = (MoERegressor(n_experts=2, **QUICK) for _ in range(2))
    for part in batches(X, y, times, size=2500):
        weighted.partial_fit(part[0], part[1], sample_weight=part[2])
        repeated.partial_fit(*(np.repeat(each, part[2], axis=0) for each in part[:2]))
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-3)


def test_weights_that_are_all_zero():
    X, y = regimes(300)
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(X, y)
    with pytest.raises(ValueError, match="at least one non-zero"):
        model.partial_fit(X, y, sample_weight=np.zeros(300))


def test_sparse_rows():
    X, y = regimes(2500)
    X[np.abs(X) < 0.5] = 0.0
    dense = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    model = streamed(MoERegressor(n_experts=2, **QUICK), sparse.csr_array(X), y)
    np.testing.assert_allclose(model.predict(X), dense.predict(X), atol=1e-4)
    X, y = labels(600)
    rows = sparse.csr_array(X)
    model = MoEClassifier(n_experts=2, **QUICK)
    streamed(model, rows, y, classes=["a", "b", "c"])
    assert model.score(rows, y) > 0.8


def test_single_precision():
    X, y = regimes(4000)
    exact = streamed(MoERegressor(n_experts=2, **QUICK), X, y)
    model = MoERegressor(n_experts=2, **QUICK)
    streamed(model, X.astype(np.float32), y.astype(np.float32))
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    assert np.mean((model.predict(X) - exact.predict(X)) ** 2) < 1e-3


def test_data_frames_through_pipelines():
    pd = pytest.importorskip("pandas")
    X, y = regimes(2500)
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model = MoERegressor(
        make_pipeline(StandardScaler(), Ridge()),
        n_experts=2,
        gate=make_pipeline(StandardScaler(), SoftmaxGate()),
        **QUICK,
    )
    for a in range(0, 2500, 250):
        model.partial_fit(frame.iloc[a : a + 250], y[a : a + 250])
    assert model.score(frame, y) > 0.75
    with pytest.raises(ValueError, match="feature names"):
        model.partial_fit(frame.rename(columns={"a": "z"}), y)


def test_stacked_rows():
    a = np.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(stacked(a, a), np.vstack([a, a]))
    found = stacked(sparse.csr_array(a), sparse.csr_array(a))
    np.testing.assert_array_equal(found.toarray(), np.vstack([a, a]))
    for library in ("pandas", "polars"):
        frames = pytest.importorskip(library)
        frame = frames.DataFrame({"u": [1, 2], "v": ["x", "y"]})
        assert stacked(frame, frame).shape == (4, 2)


# ---------------------------------------------------------------------------- learners
class Counting(RegressorMixin, BaseEstimator):
    """Takes the mean of y, and counts calls."""

    n_fits, n_teachings = 0, 0

    def fit(self, X, y, sample_weight=None):
        type(self).n_fits += 1
        self.mean_, self.seen_ = float(np.mean(y)), 0.0
        return self

    def partial_fit(self, X, y, sample_weight=None):
        type(self).n_teachings += 1
        self.seen_ += float(np.sum(sample_weight))
        return self

    def predict(self, X):
        return np.full(X.shape[0], self.mean_)


def test_learners_with_partial_fit_are_taught(monkeypatch):
    X, y = regimes(6000)
    model = MoERegressor(Counting(), n_experts=2, cross_fit=None, **QUICK)
    streamed(model, X[:3000], y[:3000], size=500)
    monkeypatch.setattr(Counting, "n_fits", 0)
    before = [expert.seen_ for expert in model.experts_]
    old = model.experts_
    streamed(model, X[3000:], y[3000:], size=500)
    assert Counting.n_fits == 0
    assert model._stream.sample is None
    seen = sum(expert.seen_ for expert in model.experts_) - sum(before)
    np.testing.assert_allclose(seen, 3000, rtol=0.02)  # less tiny responsibilities
    assert [expert.seen_ for expert in old] == before  # experts are values


def test_sgd_learns():
    X, y = regimes(4000)
    model = MoERegressor(SGDRegressor(random_state=0), n_experts=2, **QUICK)
    streamed(model, X, y, size=500)
    assert quality(model) > 0.8
    X, y = labels(2000)
    learner = SGDClassifier(loss="log_loss", random_state=0)
    model = MoEClassifier(learner, n_experts=2, **QUICK)
    streamed(model, X, y, classes=["a", "b", "c"])
    assert model.score(*labels(1000, seed=9)) > 0.75
    assert all(len(expert.classes_) == 3 for expert in model.experts_)


class Unweighted(ClassifierMixin, BaseEstimator):
    """A naive Bayes classifier that takes no weights."""

    def fit(self, X, y):
        self.model_ = BernoulliNB().fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def partial_fit(self, X, y, classes=None):
        self.model_ = getattr(self, "model_", BernoulliNB())
        self.model_.partial_fit(X, y, classes)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        return self.model_.predict_proba(X)

    def predict(self, X):
        return self.model_.predict(X)


def test_learners_without_weights_are_taught_resampled_rows():
    X, y = labels(3000)
    model = MoEClassifier(Unweighted(), n_experts=2, **QUICK)
    streamed(model, X, y, classes=["a", "b", "c"])
    counts = sum(expert.model_.class_count_.sum() for expert in model.experts_)
    assert 1500 < counts < 3300


def test_other_learners_see_a_sample_again(monkeypatch):
    from skmoe.em import _stepwise, _stream_sample
    from skmoe.experts import EstimatorPool

    for module in (_stream_sample, _stepwise):
        monkeypatch.setattr(module, "LARGEST", 2500)
    X, y = regimes(16_000)
    tree = DecisionTreeRegressor(min_samples_leaf=20)
    model = MoERegressor(tree, n_experts=2, **QUICK).partial_fit(X[:2000], y[:2000])
    first = quality(model)
    fits = []
    update = EstimatorPool.update
    monkeypatch.setattr(
        EstimatorPool,
        "update",
        lambda self, X, y, r: fits.append(r.shape[0]) or update(self, X, y, r),
    )
    streamed(model, X[2000:], y[2000:], size=500)
    assert quality(model) > first
    assert 4 < len(fits) < 16
    assert max(fits) < 3000
    assert len(model._stream.sample) < 3000


def test_classifiers_see_a_sample_again():
    X, y = labels(3000)
    model = MoEClassifier(DecisionTreeClassifier(max_depth=5), n_experts=2, **QUICK)
    streamed(model, X, y, classes=["a", "b", "c"], size=300)
    assert model.score(*labels(1000, seed=9)) > 0.75


def test_a_blend_goes_on_as_a_blend():
    X, y = regimes(1500)
    tree = DecisionTreeRegressor(max_depth=4)
    model = MoERegressor(tree, n_experts=2, **QUICK).fit(X, y)
    streamed(model, *regimes(4000, seed=1, flip=-1.0), size=500)
    assert quality(model, flip=-1.0) > 0.6


def test_a_sample_ages_as_the_stream_does():
    from skmoe.em import Problem

    def rows(value):
        X = np.full((1000, 1), float(value))
        ones = np.ones(1000)
        problem = Problem(X, X, X, ones, 1, 1, 1, 0.0)
        return problem, Routing.from_dense(ones[:, None])

    sample = Sample.of(*rows(0))
    for value in (1, 2):
        sample = sample.plus(*rows(value), keep=0.5)
    counts = np.bincount(sample.X[:, 0].astype(int))
    np.testing.assert_allclose(counts, [250, 500, 1000], rtol=0.15)
    assert sample.X is sample.X_gate


# ------------------------------------------------------------------------------- safety
def test_an_interrupted_call_changes_nothing(monkeypatch):
    X, y = regimes(4000)
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(X, y)
    before, answer = dict(vars(model)), model.predict(X)
    calls = []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return absorb(*args, **kwargs)

    monkeypatch.setattr(_streaming, "absorb", interrupted)
    monkeypatch.setattr(_streaming, "RUN", 500)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(X, y)
    assert len(calls) == 2
    assert vars(model) == before
    np.testing.assert_array_equal(model.predict(X), answer)


def test_a_first_call_that_fails_leaves_the_model_unfitted():
    X, y = labels(100)
    model = MoEClassifier(n_experts=2)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.partial_fit(X[:50], y, classes=["a", "b", "c"])
    assert vars(model) == vars(clone(model))


def test_a_stream_survives_pickling():
    X, y = regimes(3000)
    model = streamed(MoERegressor(n_experts=2, **QUICK), X[:2500], y[:2500])
    other = pickle.loads(pickle.dumps(model))
    for one in (model, other):
        streamed(one, X[2500:], y[2500:])
    np.testing.assert_array_equal(model.predict(X), other.predict(X))


def test_other_features_are_refused():
    X, y = regimes(300)
    for n in (300, 20):
        model = MoERegressor(n_experts=2, **QUICK).partial_fit(X[:n], y[:n])
        with pytest.raises(ValueError, match="X has 2 features"):
            model.partial_fit(X[:, :2], y)
        with pytest.raises(ValueError, match="outputs"):
            model.partial_fit(X, np.column_stack([y, y]))


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"shared_expert": Ridge()}, "shared_expert"),
        ({"likelihood": "student_t"}, "likelihood='gaussian'"),
        ({"init": np.full((50, 2), 0.5)}, "init to name starts"),
        ({"gate_per_output": True}, "gate per output"),
        ({"noise_expert": Ridge()}, "cannot learn a noise_expert"),
    ],
)
def test_parameters_that_streams_cannot_have(parameters, match):
    X, y = regimes(50)
    with pytest.raises(ValueError, match=match):
        MoERegressor(n_experts=2, **parameters).partial_fit(X, y)


@pytest.mark.slow
def test_the_same_bits_for_any_number_of_jobs():
    X, y = regimes(5000)
    tree = DecisionTreeRegressor(max_depth=4)
    for expert in (None, tree):
        one, two = (
            MoERegressor(expert, n_experts=2, n_jobs=n, **QUICK) for n in (None, 2)
        )
        for model in (one, two):
            streamed(model, X, y, size=2500)
        np.testing.assert_array_equal(one.predict(X), two.predict(X))


def test_logistic_experts_of_any_kind():
    X, y = labels(3000)
    for learner in (LogisticRegression(C=np.inf), LogisticRegression(C=1.0)):
        model = MoEClassifier(learner, n_experts=2, **QUICK)
        streamed(model, X, y == "a", classes=[False, True])
        fitted = clone(model).set_params(**LONG).fit(X, y == "a")
        X_test, y_test = labels(1000, seed=9)
        gap = fitted.score(X_test, y_test == "a") - model.score(X_test, y_test == "a")
        assert gap < 0.03


# --------------------------------------------------------------- rows from elsewhere
def far(X, y, shift=0.0, scale=1.0):
    return X * scale + shift, y * scale + shift


@pytest.mark.parametrize("gate", ["softmax", "gaussian", "hierarchical", "constant"])
@pytest.mark.parametrize("elsewhere", [{"shift": 1e6}, {"scale": 1e6}])
@pytest.mark.parametrize("first", ["fit", "partial_fit"])
def test_rows_from_elsewhere_leave_no_nan(gate, elsewhere, first):
    X, y = regimes(360)
    options = {**LONG, "tol": 1.0}
    model = MoERegressor(n_experts=3, gate=gate, **options)
    getattr(model, first)(X[:60], y[:60])
    for part in (far(X[60:120], y[60:120], **elsewhere), (X[120:240], y[120:240])):
        model.partial_fit(*part)
    assert np.isfinite(model.score_samples(X[240:], y[240:])).all()
    assert np.isfinite(model.scale_).all()
    assert np.isfinite([model.lower_bound_, model.routed_bound_]).all()


def test_classes_of_rows_from_elsewhere_leave_no_nan():
    X, y = labels(240)
    model = MoEClassifier(n_experts=3, **LONG).fit(X[:60], y[:60])
    for part in (X[60:120] * 1e6, X[120:180]):
        model.partial_fit(part, y[: len(part)])
    assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.parametrize("large", [1e155, 1e200, 1e300])
def test_what_would_not_be_finite_is_not_kept(large):
    X, y = regimes(120)
    model = MoERegressor(n_experts=2, cross_fit=None, **QUICK).fit(X[:60], y[:60])
    model.partial_fit(X[:60], y[:60])
    before = dict(vars(model))
    for name, given in (("X", (X * large, y)), ("y", (X, y * large))):
        with pytest.raises(ValueError, match=f"{name} must hold numbers"):
            model.partial_fit(*given)
        assert vars(model) == before


def test_learners_that_see_a_sample_again_are_not_kept_either(monkeypatch):
    monkeypatch.setattr(_streaming, "ENOUGH", 50)
    X, y = regimes(120)
    learners = [Ridge(), DecisionTreeRegressor(max_depth=2)]
    model = MoERegressor(learners, **LONG, tol=1.0).fit(X[:60], y[:60])
    before = dict(vars(model))
    with pytest.raises(ValueError, match=r"infinity|finite|infs|must hold numbers"):
        model.partial_fit(X[60:] * 1e160, y[60:])
    assert vars(model) == before


@pytest.mark.parametrize("gate", ["hierarchical", "product", "tree"])
def test_a_changed_law_is_followed_by_any_gate(gate, monkeypatch):
    monkeypatch.setattr(MoERegressor, "_is_due", lambda self, early: False)
    X, y = regimes(100)
    model = MoERegressor(n_experts=3, gate=gate, **QUICK).partial_fit(X, y)
    load = model._stream.load * [1e-9, 1, 1]  # an expert that may start anew
    model._stream = replace(model._stream, load=load)
    for _ in range(3):
        model.partial_fit(X, y + 1e4)
    assert model.expert_load_[0] > 1e-3
    assert np.abs(model.predict(X) - y - 1e4).mean() < 5e3


def test_scales_are_those_of_the_rows_where_an_expert_had_next_to_none():
    X, y = regimes(200)
    half = np.column_stack([np.ones(200), np.full(200, 1e-13)])
    pool = make_pool([Ridge(), Ridge()], n_features=3, likelihood=Gaussian())
    pool = pool.fit(X, y[:, None], Routing.from_dense(half))
    pool.scale = np.ones((2, 1))
    known = pool.recall(X, Routing.from_dense(half), half.sum(axis=0))
    for responsibility in (1e-13, 0.1, 0.5):
        share = np.full(20, responsibility)
        routing = Routing.from_dense(np.column_stack([1.0 - share, share]))
        values = pool.evaluate(X[:20], y[:20, None], routing)
        batch = X[:20], y[:20, None], values, routing
        known = known.absorb(*batch, np.array([1.0, 0.5]))
        assert known.scale.max() < 2 * np.std(y)
        assert np.abs(known.coef).max() < 2 * np.abs(pool.coef).max()
        assert np.linalg.eigvalsh(known.moments.scatter).min() > -1e-9


@pytest.mark.parametrize("expert", [None, LinearRegression()])
def test_scales_of_a_default_stream_stay_within_the_rows(expert):
    rng = np.random.default_rng(0)
    model = MoERegressor(expert, random_state=0)
    for _ in range(5):
        X = rng.uniform(-3, 3, size=(100, 3))
        y = np.where(X[:, 0] > 0, 2 * X[:, 1], 1 - 2 * X[:, 1])
        model.partial_fit(X, y + 0.1 * rng.normal(size=100))
        assert model.scale_.max() < np.std(y)
    assert np.median(model.predict(X, return_std=True)[1]) < 0.2


# ------------------------------------------------------------------- other containers
def test_arrays_and_sparse_rows_go_together():
    X, y = regimes(60)
    rows = sparse.csr_array(X)
    models = [
        MoERegressor(n_experts=2, **QUICK)
        .partial_fit(one[:5], y[:5])
        .partial_fit(other, y)
        for one, other in ((X, X), (X, rows), (rows, X))
    ]
    for model in models[1:]:
        np.testing.assert_allclose(model.predict(X), models[0].predict(X), rtol=1e-6)


def test_frames_and_arrays_do_not():
    pandas = pytest.importorskip("pandas")
    X, y = regimes(60)
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = MoERegressor(n_experts=2, **QUICK).partial_fit(frame[:5], y[:5])
    with (
        pytest.warns(UserWarning, match="valid feature names"),
        pytest.raises(ValueError, match="X was a DataFrame"),
    ):
        model.partial_fit(X, y)


@pytest.mark.parametrize("types", [("f4", "f8"), ("f8", "f4")])
def test_learners_go_on_in_their_precision(types):
    X, y = labels(200)
    model = MoEClassifier(SGDClassifier(loss="log_loss"), n_experts=2, **QUICK)
    for dtype in types:
        model.partial_fit(X.astype(dtype), y, classes=["a", "b", "c"])
    assert np.isfinite(model.predict_proba(X)).all()


class Diverging(Counting):
    def partial_fit(self, X, y, sample_weight=None):
        self.mean_ = np.nan
        return self


def test_a_learner_that_diverges_is_not_kept():
    X, y = regimes(200)
    model = MoERegressor(Diverging(), n_experts=2, **QUICK).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="predicted NaN or infinity"):
        model.partial_fit(X, y)
    assert vars(model) == before
