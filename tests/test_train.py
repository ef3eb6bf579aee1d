"""Training: rows held out, experts drawn to pooled fits, and the last passes."""

import copy
import functools
import pickle
from dataclasses import replace

import _cases
import numpy as np
import pytest
from _cases import everyone
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Choice, CrossFitPool, Problem, _engine, _held_out, _train
from skmoe.em._engine import begin, run
from skmoe.em._last_passes import routed, settle
from skmoe.em._pooled import Pooled
from skmoe.em._starts import initial
from skmoe.em._trained import Trained
from skmoe.estimators import _plans
from skmoe.experts import (
    MOST,
    CachedPool,
    ShrunkPool,
    cached,
)
from skmoe.experts._base import PROBABILITY_FLOOR, floored
from skmoe.gates import ConstantGate, RoutingRule, SoftmaxGate
from skmoe.gates._softmax import ALPHAS
from skmoe.routing import Routing

pytestmark = pytest.mark.filterwarnings(
    "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
)

quick_choices = pytest.mark.usefixtures("quick_choices")

N, K = 160, 3
rng = np.random.default_rng(0)
X = rng.normal(size=(N, 3))
SIDE = (X[:, 0] > 0).astype(int)
Y = np.where(SIDE == 1, 1.0, -1.0) * (1 + 2 * X[:, 1]) + 0.1 * rng.normal(size=N)
LABELS = np.digitize(Y, [-1.5, 1.0])
WEIGHT = rng.integers(1, 4, size=N).astype(float)
QUICK = {"n_experts": 2, "n_init": 1, "max_iter": 10, "random_state": 0}
TREE = DecisionTreeRegressor(max_depth=3, random_state=0)
CLASS_TREE = DecisionTreeClassifier(max_depth=3, random_state=0)


def soft(n_experts=K, seed=1):
    return _cases.soft(N, n_experts, seed)


def holes(n_experts=K, seed=2):
    """Return a routing of two experts a row, of which some lack the second."""
    random = np.random.default_rng(seed)
    indices = np.argsort(random.random((N, n_experts)), axis=1)[:, :2]
    indices[::5, 1] = -1
    weights = np.where(indices < 0, 0.0, 0.5)
    return Routing(indices, weights, n_experts)


pool_of = functools.partial(_cases.pool_of, floor=1e-3)


def problem_of(y, n_experts=K, *, width=None, weight=WEIGHT):
    y = y if y.dtype.kind == "i" else y[:, None]
    width = width or n_experts
    return Problem(X, X, y, weight, n_experts, width, max_iter=8, tol=0.0)


def fixed(monkeypatch, strength, **choice):
    """Let training choose this strength without holding rows out."""
    chosen = functools.partial(Choice, **{"shrinkage": 1.0 - strength, **choice})
    monkeypatch.setattr(_plans, "Choice", chosen)


# ---------------------------------------------------------------- blended experts
REGRESSORS = [TREE, KNeighborsRegressor(3), TREE]
CLASSIFIERS = [CLASS_TREE, LogisticRegression(), CLASS_TREE]
a_strength = pytest.mark.parametrize("strength", [0.0, 0.3, 0.75])


@a_strength
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_blended_experts_by_hand(kind, strength):
    regress = kind == "regression"
    problem = problem_of(Y if regress else LABELS)
    learners = REGRESSORS if regress else CLASSIFIERS
    pool = pool_of(learners, classes=None if regress else np.arange(3))
    pool.fit(X, problem.y, Routing.from_dense(WEIGHT[:, None] * soft()))
    pooled = Pooled.of(problem, pool)
    assert pooled.fits.judge.n_experts == 2
    blended = pooled.shrink(Trained(pool, pool), 1 - strength).judge
    assert isinstance(blended, ShrunkPool)

    def says(expert):
        if regress:
            return expert.predict(X)[:, None]
        proba = np.zeros((N, 3))
        proba[:, expert.classes_] = expert.predict_proba(X)
        return floored(proba)

    table = np.empty((N, K, 1 if regress else 3))
    for k, expert in enumerate(pool.estimators()):
        if regress and k == 1:  # neighbours have no weights: a resample, and seeded
            alone = pooled.fits.judge.estimators()[pooled.learner_of[k]]
        else:
            alone = clone(learners[k]).fit(X, Y if regress else LABELS, WEIGHT)
        table[:, k] = (1 - strength) * says(alone) + strength * says(expert)

    dense, few = Routing.from_dense(soft()), holes()
    assert_allclose(blended.predict(X, dense), table, atol=1e-12)
    found = blended.predict(X, few)
    judged = blended.evaluate(X, problem.y, few)
    for i, j in np.ndindex(few.indices.shape):
        k = few.indices[i, j]
        expected = table[i, k] if k >= 0 else 0.0
        assert_allclose(found[i, j], expected, atol=1e-12)
        if k >= 0 and not regress:
            expected = np.log(table[i, k, LABELS[i]])
        assert_allclose(judged[i, j], expected, atol=1e-12)
    for k, expert in enumerate(blended.estimators()):
        answer = expert.predict(X)[:, None] if regress else expert.predict_proba(X)
        assert_allclose(answer, table[:, k], atol=1e-12 if regress else 1e-3)


@a_strength
def test_experts_pulled_to_one_of_the_learners(strength):
    problem = problem_of(Y)
    pool = pool_of([Ridge(1e6), TREE, Ridge(1e6)])
    pool.fit(X, problem.y, Routing.from_dense(WEIGHT[:, None] * soft()))
    pooled = Pooled.of(problem, pool)
    best = pooled.best(problem)
    assert type(pooled.fits.judge.learners[best]) is type(TREE)
    pooled = pooled.only(best)
    alone = clone(TREE).fit(X, Y, WEIGHT).predict(X)
    said = np.stack([each.predict(X) for each in pool.estimators()], axis=1)
    expected = (1 - strength) * alone[:, None] + strength * said
    dense, few = Routing.from_dense(soft()), holes()
    shrunk = pooled.shrink(Trained(pool, pool), 1 - strength)
    for blended in (shrunk.judge, shrunk.predictor):
        assert_allclose(blended.predict(X, dense)[..., 0], expected, atol=1e-12)
        assert_allclose(blended.evaluate(X, problem.y, dense)[..., 0], expected)
        at = np.take_along_axis(expected, few.indices.clip(0), axis=1)
        at = np.where(few.indices < 0, 0.0, at)
        assert_allclose(blended.predict(X, few)[..., 0], at, atol=1e-12)
        for k, expert in enumerate(blended.estimators()):
            assert_allclose(expert.predict(X), expected[:, k], atol=1e-12)
    # Of the learners, those of no expert are not kept for new rows.
    assert pooled.fits.predictor.n_experts == 1


def test_learners_of_no_expert_are_not_asked(monkeypatch):
    problem = problem_of(Y)
    pool = pool_of([Ridge(), TREE, Ridge()])
    pool.fit(X, problem.y, Routing.from_dense(soft()))
    blended = Pooled.of(problem, pool).only(1).shrink(Trained(pool, pool), 1.0).judge
    asked = []

    class Watched(type(TREE)):
        def predict(self, X):
            asked.append(len(X))
            return super().predict(X)

    for each in blended.pooled.fitted:
        if isinstance(each, Ridge):
            monkeypatch.setattr(each, "predict", None)
        else:
            each.__class__ = Watched
    blended.predict(X, Routing.from_dense(soft()))
    assert asked == [N]


def test_blended_and_remembered_pools_are_not_fitted():
    problem = problem_of(Y)
    pool = pool_of(REGRESSORS).fit(X, problem.y, Routing.from_dense(soft()))
    shrunk = Pooled.of(problem, pool).shrink(Trained(pool, pool), 0.5).judge
    for made in (shrunk, problem.remember(pool)):
        assert not type(made).supports(TREE, 3)
        with pytest.raises(TypeError, match="fit"):
            made.fit(X, problem.y, Routing.from_dense(soft()))


def test_experts_of_full_strength_are_themselves():
    for y, learners, classes in (
        (Y, REGRESSORS, None),
        (LABELS, CLASSIFIERS, np.arange(3)),
        (LABELS, [LogisticRegression()] * K, np.arange(3)),
    ):
        problem = problem_of(y)
        pool = pool_of(learners, classes=classes)
        pool.fit(X, problem.y, Routing.from_dense(soft()))
        assert Pooled.of(problem, pool).shrink(Trained(pool, pool), 0.0).judge is pool


@a_strength
def test_linear_experts_blend_to_linear_experts(strength):
    problem = problem_of(Y)
    pool = pool_of([Ridge(), Ridge(50.0), Ridge()])
    pool.fit(X, problem.y, Routing.from_dense(soft()))
    blended = Pooled.of(problem, pool).shrink(Trained(pool, pool), 1 - strength).judge
    assert type(blended) is type(pool)
    found = blended.predict(X, Routing.from_dense(soft()))
    for k, expert in enumerate(pool.estimators()):
        alone = Ridge(50.0 if k == 1 else 1.0).fit(X, Y, WEIGHT).predict(X)
        expected = (1 - strength) * alone + strength * expert.predict(X)
        assert_allclose(found[:, k, 0], expected, atol=1e-9)
        assert_allclose(blended.estimators()[k].predict(X), expected, atol=1e-9)


@a_strength
def test_logistic_experts_blend_geometrically(strength):
    problem = problem_of(LABELS)
    pool = pool_of([LogisticRegression()] * K, classes=np.arange(3))
    pool.fit(X, LABELS, Routing.from_dense(soft()))
    pooled = Pooled.of(problem, pool)
    routing = Routing.from_dense(soft())
    own = pool.predict(X, routing)
    base = pooled.fits.judge.predict(X, everyone(N, 1))
    expected = base ** (1 - strength) * own**strength
    expected /= expected.sum(axis=2, keepdims=True)
    blended = pooled.shrink(Trained(pool, pool), 1 - strength).judge
    assert type(blended) is type(pool)
    assert_allclose(blended.predict(X, routing), expected, atol=1e-10)
    at_label = np.log(expected[np.arange(N), :, LABELS])
    assert_allclose(blended.evaluate(X, LABELS, routing)[:, :, 0], at_label, atol=1e-9)
    for k, expert in enumerate(blended.estimators()):
        assert_allclose(expert.predict_proba(X), expected[:, k], atol=1e-9)


def test_a_class_that_a_logistic_expert_did_not_meet():
    problem = problem_of(LABELS)
    split = np.where(LABELS == 2, 0, 1)  # expert 1 never meets class 2; 0 only that
    pool = pool_of([LogisticRegression()] * 2, classes=np.arange(3))
    pool.fit(X, LABELS, Routing.from_labels(split, 2))
    both = Routing.from_dense(np.full((N, 2), 0.5))
    pooled = Pooled.of(problem, pool)
    alone = pooled.fits.judge.predict(X, everyone(N, 1))
    both_pools = Trained(pool, pool)
    shares = [
        pooled.shrink(both_pools, 1 - a).judge.predict(X, both)
        for a in (0.0, 0.5, 1 - 1e-9)
    ]
    assert_allclose(shares[0], np.repeat(alone, 2, axis=1), atol=1e-9)
    for found in shares:
        assert np.isfinite(found).all()
        assert_allclose(found.sum(axis=2), 1.0, rtol=1e-9)
    assert (np.diff([found[:, 1, 2].mean() for found in shares]) < 0).all()
    met = shares[2][:, 1, :2]
    ratio = shares[2][:, 1, 2] / np.sqrt(met.prod(axis=1))
    assert_allclose(ratio, PROBABILITY_FLOOR / 3, rtol=1e-4)
    assert_allclose(shares[2][:, 1], pool.predict(X, both)[:, 1], atol=2e-3)


@a_strength
def test_cross_fitted_experts_blend_out_of_fold(strength):
    folds, y = np.arange(N) % 4, Y[:, None]
    problem = problem_of(Y, 2)
    pool = CrossFitPool(pool_of([TREE, TREE]), folds)
    mass = Routing.from_dense(WEIGHT[:, None] * np.eye(2)[SIDE])
    pool.fit(X, y, mass)
    blended = Pooled.of(problem, pool).shrink(Trained(pool, pool), 1 - strength).judge
    found = blended.evaluate(X, y, everyone(N, 2))
    for f in range(4):
        seen, rows = folds != f, folds == f
        alone = clone(TREE).fit(X[seen], Y[seen], WEIGHT[seen])
        for k in range(2):
            mine = seen & (k == SIDE)
            own = clone(TREE).fit(X[mine], Y[mine], WEIGHT[mine])
            expected = (1 - strength) * alone.predict(X[rows])
            expected += strength * own.predict(X[rows])
            assert_allclose(found[rows, k, 0], expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_remembered_pool_is_the_pool(kind):
    regress = kind == "regression"
    problem = problem_of(Y if regress else LABELS)
    learners = REGRESSORS if regress else CLASSIFIERS
    pool, other = (
        pool_of(learners, classes=None if regress else np.arange(3)).fit(
            X, problem.y, Routing.from_dense(soft(seed=seed))
        )
        for seed in (1, 2)
    )
    known, known_other = problem.remember(pool), problem.remember(other)
    assert isinstance(known, CachedPool)
    take = np.array([True, False, True])
    pairs = [(known, pool), (known.swap(known_other, take), pool.swap(other, take))]
    for routing in (Routing.from_dense(soft()), holes()):
        for one, two in pairs:
            entries = routing.indices >= 0
            found = one.evaluate(X, problem.y, routing)
            expected = two.evaluate(X, problem.y, routing)
            assert_array_equal(found[entries], expected[entries])
            assert_array_equal(one.predict(X, routing), two.predict(X, routing))
    assert known.estimators() == pool.estimators()


def test_a_cache_judges_the_rows_of_its_own_table_alone():
    pool = pool_of([Ridge()] * K).fit(X, Y[:, None], Routing.from_dense(soft()))
    known = cached(pool, X, Y[:, None], WEIGHT)
    with pytest.raises(AssertionError, match="its own table"):
        known.evaluate(X.copy(), Y[:, None], Routing.from_dense(soft()))


def test_very_many_experts_are_not_cached():
    pool = pool_of([Ridge()] * (MOST + 1))
    assert cached(pool, X, Y[:, None], WEIGHT) is pool


# --------------------------------------------------------------- the last passes
@pytest.mark.parametrize("gate", [SoftmaxGate(), ConstantGate()], ids=str)
@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("kind", ["ridge", "logistic", "tree"])
def test_last_passes_do_not_lower_the_routed_bound(kind, top_k, gate):
    y = LABELS if kind == "logistic" else Y
    learner = {"ridge": Ridge(), "logistic": LogisticRegression(), "tree": TREE}[kind]
    problem = problem_of(y, 4, width=min(4, 2 * (top_k or 2)))
    pool = pool_of([learner] * 4, classes=np.arange(3) if y is LABELS else None)
    result = run(problem, begin(problem, gate, pool, initial(problem, "random", 0, 0)))
    before = routed(problem, result.gate, result.pool, RoutingRule(top_k)).bound
    for learn in (True, False):
        model = result.gate, result.pool
        state = settle(problem, *model, RoutingRule(top_k), 10, learn=learn)
        assert state.bound >= before
        again = routed(problem, state.gate, state.pool, RoutingRule(top_k))
        assert state.bound == pytest.approx(again.bound, abs=1e-12)
        if not learn:
            assert state.pool.estimators() is not None
            routing = Routing.from_dense(soft(4))
            assert_array_equal(
                state.pool.predict(X, routing), result.pool.predict(X, routing)
            )
    rule = RoutingRule(top_k)
    nothing = settle(problem, result.gate, result.pool, rule, 0, learn=True)
    assert nothing.bound == before


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("top_k", [1, 2, None])
@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_routed_bound_is_the_mean_score_of_the_rows(kind, top_k, strength, monkeypatch):
    fixed(monkeypatch, strength)
    moe, y = (MoERegressor, Y) if kind == "ridge" else (MoEClassifier, LABELS)
    model = moe(**{**QUICK, "n_experts": 4}, top_k=top_k, cross_fit=None)
    model.fit(X, y, sample_weight=WEIGHT)
    assert model.shrinkage_ == 1.0 - strength
    mean = np.average(model.score_samples(X, y), weights=WEIGHT)
    assert model.routed_bound_ == pytest.approx(mean, abs=1e-9)
    if top_k is None and strength == 1.0:
        assert model.lower_bound_ == pytest.approx(mean, abs=1e-9)


@quick_choices
def test_routed_bound_of_choices_that_rows_held_out_made():
    for moe, y in ((MoERegressor, Y), (MoEClassifier, LABELS)):
        model = moe(**{**QUICK, "n_experts": 3}).fit(X, y)
        # The bound is of training, before calibration.
        model.temperature_, model.class_bias_ = 1.0, np.zeros(1)
        mean = model.score_samples(X, y).mean()
        assert model.routed_bound_ == pytest.approx(mean, abs=1e-9)


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("moe", [MoERegressor, MoEClassifier])
def test_the_last_passes_follow_em(moe, top_k):
    """Where predict asks fewer experts than EM keeps, more passes are worth it."""
    model = moe(**{**QUICK, "n_experts": 6}, top_k=top_k, cross_fit=None)
    y = Y if moe is MoERegressor else LABELS
    settled = clone(model).fit(X, y)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_train, "LAST_PASSES", 0)
        plain = clone(model).fit(X, y)
    assert settled.lower_bound_ == plain.lower_bound_
    assert settled.routed_bound_ > plain.routed_bound_


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_gate_hears_of_experts_that_predict_does_not_ask(top_k):
    """Experts 0 and 1 serve nobody, 2 and 3 a side each, which the gate knows not."""
    pool = pool_of([Ridge()] * 4)
    problem = problem_of(Y, 4, width=4)
    known = np.column_stack([SIDE == 0, SIDE == 1]).astype(float)
    pool.fit(X, Y[:, None], Routing.from_dense(np.column_stack([known, known])))
    pool.coef[:2], pool.intercept[:2] = 0.0, 9.0
    pool.scale = np.ones((4, 1))
    prefers = Routing.from_dense(np.tile([0.4, 0.3, 0.2, 0.1], (N, 1)))
    gate = SoftmaxGate(0.01).fit(X, prefers)
    before = routed(problem, gate, pool, RoutingRule(top_k))
    after = settle(problem, gate, pool, RoutingRule(top_k), 20, learn=False)
    assert (before.resp.indices < 2).all()
    assert np.mean(after.gate.log_proba(X).argmax(axis=1) == 2 + SIDE) > 0.9
    assert after.bound > before.bound + 1


# ------------------------------------------------------------ experts and predict
@pytest.mark.parametrize("strength", [0.0, 0.5])
@pytest.mark.parametrize("top_k", [1, None])
@pytest.mark.parametrize("expert", [Ridge(), TREE, [TREE, Ridge(), TREE]], ids=str)
def test_pulled_experts_answer_for_the_mixture(expert, top_k, strength, monkeypatch):
    fixed(monkeypatch, strength)
    model = MoERegressor(expert, **{**QUICK, "n_experts": 3}, top_k=top_k)
    model.set_params(cross_fit=None).fit(X, Y)
    said = np.stack([each.predict(X) for each in model.experts_], axis=1)
    mixed = (model.route(X).toarray() * said).sum(axis=1)
    assert_allclose(model.predict(X), mixed, atol=1e-10)
    if strength == 0.0 and isinstance(expert, (Ridge, DecisionTreeRegressor)):
        assert_allclose(model.predict(X), clone(expert).fit(X, Y).predict(X))


@pytest.mark.parametrize("expert", [LogisticRegression(), CLASS_TREE], ids=str)
def test_pulled_classifiers_answer_for_the_mixture(expert, monkeypatch):
    fixed(monkeypatch, 0.5)
    model = MoEClassifier(expert, **QUICK, cross_fit=None).fit(X, LABELS)
    said = np.stack([each.predict_proba(X) for each in model.experts_], axis=1)
    mixed = np.einsum("nk,nkc->nc", model.route(X).toarray(), said)
    floor = 0.0 if isinstance(expert, LogisticRegression) else PROBABILITY_FLOOR
    assert_allclose(model.predict_proba(X), mixed, atol=1e-9 + floor)


@pytest.mark.parametrize("final", ["refit", "average"])
def test_pulled_cross_fitted_experts(final, monkeypatch):
    """The training rows are judged out of fold: worse than they score in sample."""
    monkeypatch.setattr(
        _train, "choose", lambda held, parts: (0, Choice(shrinkage=0.5))
    )
    model = MoERegressor(TREE, **QUICK, final=final).fit(X, Y)
    assert model.shrinkage_ == 0.5
    said = np.stack([each.predict(X) for each in model.experts_], axis=1)
    mixed = (model.route(X).toarray() * said).sum(axis=1)
    assert_allclose(model.predict(X), mixed, atol=1e-10)
    assert model.routed_bound_ < model.score_samples(X, Y).mean()


@quick_choices
def test_pulled_models_survive_pickle_and_jobs(monkeypatch):
    monkeypatch.setattr(
        _train, "choose", lambda held, parts: (0, Choice(shrinkage=0.5))
    )
    tree = DecisionTreeRegressor(max_depth=2, max_features=1)
    model = MoERegressor(tree, **{**QUICK, "max_iter": 3}, n_jobs=1).fit(X, Y)
    for other in (
        pickle.loads(pickle.dumps(model)),
        clone(model).set_params(n_jobs=2).fit(X, Y),
    ):
        assert_array_equal(other.predict(X), model.predict(X))
        assert_array_equal(other.gate_proba(X), model.gate_proba(X))


@quick_choices
@pytest.mark.parametrize("kind", ["regression", "classification"])
def test_a_list_pulled_to_its_best_learner(kind, monkeypatch):
    choice = Choice(shrinkage=1.0, to_best=True)
    monkeypatch.setattr(_train, "choose", lambda held, parts: (0, choice))
    if kind == "regression":
        experts, target, cls = [Ridge(1e6), TREE], Y, MoERegressor
    else:
        dull = LogisticRegression(C=1e-6)
        experts, target, cls = [dull, CLASS_TREE], LABELS, MoEClassifier
    model = cls(experts, **QUICK, warm_start=True).fit(X, target)
    alone = clone(experts[1]).fit(X, target)
    assert model.shrinkage_ == 1.0
    said = [expert.predict(X) for expert in model.experts_]
    assert_allclose(said, np.tile(alone.predict(X), (len(said), 1)), atol=1e-9)
    expected = model.predict(X)
    again = model.fit(X, target)  # what was chosen stays chosen
    assert_allclose(again.predict(X), expected, atol=1e-9)


@pytest.mark.slow
def test_a_list_is_no_worse_than_its_best_learner():
    """Of the learners one explains y; noise, which varies, is left to the gate."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, size=(800, 2))
    y = np.sign(np.sin(4 * x[:, 0])) + np.exp(x[:, 1]) * 0.3 * rng.normal(size=800)
    tree = DecisionTreeRegressor(max_depth=4, random_state=0)
    options = {"n_experts": 2, "top_k": 1, "random_state": 0}
    model = MoERegressor([Ridge(), tree], **options).fit(x[:400], y[:400])
    alone = clone(tree).fit(x[:400], y[:400]).predict(x[400:])
    error = np.mean((y[400:] - alone) ** 2)
    nll = 0.5 * np.log(2 * np.pi * error) + 0.5
    assert model.score_samples(x[400:], y[400:]).mean() > -nll + 0.05
    assert np.mean((y[400:] - model.predict(x[400:])) ** 2) < error


@pytest.mark.parametrize(("n_rows", "spread"), [(12, 0.0), (300, 1.0)])
def test_rounding_is_nothing_to_start_from(n_rows, spread):
    """A linear fit through all rows leaves rounding, which is not scaled up."""
    x = np.random.default_rng(0).normal(size=(n_rows, 31))
    views = x[:, 1:], x[:, 1:], x[:, :1]
    problem = Problem(*views, np.ones(n_rows), 2, 2, max_iter=8, tol=0.0)
    assert_allclose(problem.content.residual.std(), spread, atol=1e-3)


# ------------------------------------------------------------------- the choices
def test_noise_gives_way_to_one_learner():
    noise = np.random.default_rng(2).normal(size=N)
    shares = []
    for seed in range(4):
        model = MoERegressor(**{**QUICK, "random_state": seed}).fit(X, noise)
        shares.append(model.shrinkage_)
        if model.shrinkage_ == 1.0:
            alone = Ridge().fit(X, noise).predict(X)
            assert_allclose(model.predict(X), alone, atol=1e-9)
    assert max(shares) == 1.0


@pytest.mark.parametrize("expert", [None, TREE], ids=str)
def test_opposite_regimes_are_left_apart(expert):
    model = MoERegressor(expert, **QUICK).fit(X, Y)
    assert model.shrinkage_ <= (0.0 if expert is None else 0.5)
    assert model.score(X, Y) > (0.95 if expert is None else 0.8)
    held_out = model.held_out_
    assert held_out["mixture"] > max(held_out["pooled"], held_out["single"]) + 0.1


@pytest.mark.parametrize("expert", [LogisticRegression(), CLASS_TREE], ids=str)
def test_held_out_likelihoods_of_classifiers(expert):
    model = MoEClassifier(expert, **QUICK).fit(X, LABELS)
    assert {"mixture", "pooled", "single"} <= set(model.held_out_)
    assert all(np.isfinite(value) for value in model.held_out_.values())
    assert 0 > model.held_out_["mixture"] >= model.held_out_["pooled"] - 1e-12
    # Without noise scales there is but one way to be the pooled learner.
    assert model.held_out_["pooled"] == pytest.approx(model.held_out_["single"])


def test_the_single_learner_by_hand():
    learners = [Ridge(500.0), Ridge()]
    model = MoERegressor(learners, **QUICK, scale_prior=0)
    model.fit(X, Y, sample_weight=WEIGHT)
    seed = int(np.random.RandomState(0).randint(2**31 - 1, size=4)[2])
    scores, weights = np.empty((2, 4)), np.empty(4)
    problem = replace(problem_of(Y, 2), seed=seed)
    for i, part in enumerate(_held_out.splits(problem, rigid=True)):
        seen = part.rows
        weights[i] = WEIGHT[~seen].sum()
        for j, learner in enumerate(learners):
            alone = clone(learner).fit(X[seen], Y[seen], WEIGHT[seen])
            error = (Y - alone.predict(X)) ** 2
            variance = np.average(error[seen], weights=WEIGHT[seen])
            score = -0.5 * (np.log(2 * np.pi * variance) + error[~seen] / variance)
            scores[j, i] = np.average(score, weights=WEIGHT[~seen])
    expected = np.average(scores.max(axis=0), weights=weights)
    assert model.held_out_["single"] == pytest.approx(expected, rel=1e-9)


def test_without_rows_held_out_nothing_is_chosen():
    model = MoERegressor(**QUICK, cross_fit=None).fit(X, Y)
    assert model.shrinkage_ == 0.0
    assert np.isnan(list(model.held_out_.values())).all()
    assert model.gate_.alpha == 1e-4
    model = MoERegressor(**{**QUICK, "n_experts": 1}).fit(X, Y)
    assert np.isnan(list(model.held_out_.values())).all()


def test_few_rows_are_not_held_out():
    least = _held_out.FEW_ROWS * 2
    few = MoERegressor(**QUICK).fit(X[: least - 1], Y[: least - 1])
    assert np.isnan(few.held_out_["mixture"])
    assert few.shrinkage_ == 0.0
    enough = MoERegressor(**QUICK).fit(X[:least], Y[:least])
    assert np.isfinite(enough.held_out_["mixture"])
    same = MoERegressor(**QUICK).fit(np.ones((20, 2)), np.ones(20))  # one part
    assert np.isnan(same.held_out_["mixture"])


@pytest.mark.parametrize("rigid", [True, False])
@pytest.mark.parametrize("n_rows", [7, 8, 299, 300, 999, 1000, 3999, 4000])
def test_number_of_splits(n_rows, rigid):
    rows, y = np.zeros((n_rows, 1)), np.zeros((n_rows, 1))
    problem = Problem(rows, rows, y, np.ones(n_rows), 2, 2, 1, 0.0)
    grouped = {7: 0, 8: 4, 299: 4, 300: 4, 999: 4, 1000: 2, 3999: 2, 4000: 1}
    others = {7: 0, 8: 2, 299: 2, 300: 1, 999: 1, 1000: 1, 3999: 1, 4000: 1}
    expected = (grouped if rigid else others)[n_rows]
    assert _held_out.count_splits(problem, rigid=rigid) == expected


def test_each_row_is_held_out_once():
    problem = problem_of(Y)
    parts = _held_out.splits(problem, rigid=True)
    held = np.array([~part.rows for part in parts])
    assert_array_equal(held.sum(axis=0), 1)
    for part in parts:
        assert_array_equal(part.test.y, problem.y[~part.rows])
        assert_array_equal(part.train.X, X[part.rows])
        assert_array_equal(part.train.sample_weight, WEIGHT[part.rows])
        assert part.train.X is part.train.X_gate
        before = part.train
        part.forget()
        assert part.train is not before
        assert_array_equal(part.train.X, before.X)


@pytest.mark.parametrize("expert", [Ridge(), TREE], ids=str)
def test_groups_are_held_out_whole(expert, monkeypatch):
    groups, seen, true_splits = np.arange(N) // 5 % 16, [], _held_out.splits

    def spy(problem, **params):
        seen.extend(true_splits(problem, **params))
        return seen

    monkeypatch.setattr(_train, "splits", spy)
    model = MoERegressor(expert, **{**QUICK, "max_iter": 2}).fit(X, Y, groups=groups)
    assert np.isfinite(model.held_out_["mixture"])
    assert len(seen) == (4 if isinstance(expert, Ridge) else 2)
    for part in seen:
        assert not set(groups[part.rows]) & set(groups[~part.rows])


@quick_choices
def test_rows_of_weight_zero_do_not_matter():
    weight = WEIGHT * (np.arange(N) % 7 > 0)
    kept = weight > 0
    one = MoERegressor(**QUICK).fit(X, Y, sample_weight=weight)
    two = MoERegressor(**QUICK).fit(X[kept], Y[kept], sample_weight=weight[kept])
    assert_array_equal(one.predict(X), two.predict(X))
    assert one.held_out_ == two.held_out_


def test_a_part_that_is_stuck_does_not_decide(monkeypatch):
    """All rows go on from the part whose model suits them best, not from the first."""
    true_hold_out, count = _train.hold_out, []

    def worse_first(*args):
        held = true_hold_out(*args)
        if not count:  # experts that say nothing
            for model in held.models:
                pool = model.experts
                pool.coef, pool.intercept = 0 * pool.coef, 0 * pool.intercept
        count.append(held)
        return held

    model = MoERegressor(gate="gaussian", **QUICK)
    monkeypatch.setattr(_train, "hold_out", worse_first)
    bounds, true_resume = [], _train.resume

    def resume(*args):
        bounds.append(true_resume(*args))
        return bounds[-1]

    monkeypatch.setattr(_train, "resume", resume)
    starts, true_begin = [], _train.begin

    def begin(problem, gate, pool, start, **options):
        starts.append(start)
        return true_begin(problem, gate, pool, start, **options)

    monkeypatch.setattr(_train, "begin", begin)
    model.fit(X, Y)
    best = int(np.argmax([state.bound for state in bounds]))
    assert best != 0
    assert starts[-1] is bounds[best].resp


# ---------------------------------------------------------------- smooth gates
def test_the_penalty_of_the_gate_is_chosen():
    model = MoERegressor(**QUICK).fit(X, Y)
    assert model.gate_.alpha in ALPHAS
    assert SoftmaxGate().alpha == "auto"
    assert [gate.alpha for gate in SoftmaxGate().variants()] == list(ALPHAS)
    given = SoftmaxGate(alpha=0.5)
    assert [gate.alpha for gate in given.variants()] == [0.5]
    assert MoERegressor(gate=given, **QUICK).fit(X, Y).gate_.alpha == 0.5
    chain = make_pipeline(StandardScaler(), SoftmaxGate())
    model = MoERegressor(gate=chain, **QUICK).fit(X, Y)
    assert isinstance(model.gate_[-1].alpha, float)
    assert chain[-1].alpha == "auto"


@quick_choices
def test_the_variant_that_is_chosen_is_the_one_that_is_fitted(monkeypatch):
    norms = []
    for which, alpha in enumerate(SoftmaxGate.choices["alpha"]):
        monkeypatch.setattr(_train, "choose", lambda *_, i=which: (0, Choice(gate=i)))
        model = MoERegressor(**QUICK).fit(X, Y)
        assert model.gate_.alpha == alpha
        norms.append(np.linalg.norm(model.gate_.coef_))
    assert (np.diff(norms) < 0).all()


# ----------------------------------------------------------------------- starts
@quick_choices
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.csr_matrix])
@pytest.mark.parametrize("cross_fit", ["auto", None])
@pytest.mark.parametrize("expert", [Ridge(), TREE], ids=str)
def test_true_responsibilities_stay_where_they_are(expert, cross_fit, form):
    truth = np.eye(2)[1 - SIDE]
    weight = WEIGHT.copy()
    weight[:5] = 0.0
    model = MoERegressor(expert, **QUICK, init=form(truth), cross_fit=cross_fit)
    model.set_params(n_init=3).fit(X, Y, sample_weight=weight)
    assert np.mean(model.apply(X)[:, 0] == 1 - SIDE) > 0.97
    scaled = clone(model).set_params(init=form(truth * 7.0))
    assert_allclose(scaled.fit(X, Y, sample_weight=weight).predict(X), model.predict(X))


def test_given_responsibilities_and_even_ones_are_one_start(capsys):
    model = MoERegressor(TREE, **{**QUICK, "n_init": 3}, cross_fit=None, verbose=1)
    for init in (soft(2), "uniform"):
        model.set_params(init=init).fit(X, Y)
        assert "start 2" not in capsys.readouterr().out


def test_responsibilities_of_a_row_of_weight_zero_are_not_read():
    weight, resp = WEIGHT.copy(), soft(2)
    weight[3] = 0.0
    model = MoERegressor(**QUICK, cross_fit=None)
    expected = clone(model).set_params(init=resp).fit(X, Y, weight).predict(X)
    resp = resp.copy()
    resp[3] = 0.0
    model.set_params(init=resp)
    assert_array_equal(model.fit(X, Y, weight).predict(X), expected)


@pytest.mark.parametrize("value", [-0.5, 0.0])
def test_bad_responsibilities(value):
    resp = soft(2)
    resp[7] = value
    for init in (resp, sparse.csr_array(resp)):
        with pytest.raises(ValueError, match="not negative, and not all zero"):
            MoERegressor(**QUICK, init=init).fit(X, Y)


def starts_in(printed):
    """Return the kinds of starts that verbose tells of."""
    lines = [line for line in printed.splitlines() if "] stage" in line]
    for number, line in enumerate(lines, start=1):
        assert f"stage {number} of {len(lines)} (" in line
    lines = [line for line in lines if ": bound " in line]
    return [line.split("(")[1].split(")")[0] for line in lines]


@pytest.mark.parametrize("cross_fit", ["auto", None])
def test_kinds_of_starts_by_name(cross_fit, capsys):
    kinds = ["linear", "uniform", "tree", "kmeans_x"]
    model = MoERegressor([TREE, Ridge()], **{**QUICK, "n_init": 5, "max_iter": 2})
    model.set_params(init=kinds, cross_fit=cross_fit, verbose=1).fit(X, Y)
    names = starts_in(capsys.readouterr().out)
    once = [*kinds, "linear"]
    assert names == (once if cross_fit is None else [*once * 2, "chosen"])
    assert model.score(X, Y) > 0.8


@pytest.mark.parametrize(
    ("expert", "kinds"),
    [
        (None, ["tree", "kmeans", "random", "kmeans_x", "random", "random"]),
        (TREE, ["linear"]),
        ([TREE, Ridge()], ["linear", "uniform", "single"]),
    ],
    ids=str,
)
def test_kinds_of_starts_of_auto(expert, kinds, capsys):
    model = MoERegressor(expert, **{**QUICK, "n_init": 6}, cross_fit=None, verbose=1)
    model.fit(X, Y)
    assert starts_in(capsys.readouterr().out) == kinds


def test_learners_that_differ_find_their_places_from_nothing():
    """A tree fits the steps of one half, a line the slope of the other."""
    steps = np.where(SIDE == 1, np.sign(X[:, 1]) * 3, 5 * X[:, 2])
    model = MoERegressor([TREE, Ridge()], **QUICK, init="uniform").fit(X, steps)
    assert np.mean(model.apply(X)[:, 0] == 1 - SIDE) > 0.85


def test_linear_starts_read_what_experts_read():
    """The gate sees the side alone; slopes show in what experts see."""
    gate = make_pipeline(
        _Column(0),
        SoftmaxGate(),
    )
    expert = make_pipeline(StandardScaler(), Ridge())
    model = MoERegressor(expert, gate=gate, **QUICK, init="linear", cross_fit=None)
    assert model.fit(X, Y).score(X, Y) > 0.95


class _Column(StandardScaler):
    """One column."""

    def __init__(self, which=0):
        super().__init__()
        self.which = which

    def transform(self, X, copy=None):
        return super().transform(X, copy)[:, [self.which]]


@pytest.mark.parametrize("columns", [[0, 1, 2], [0]])
def test_starts_are_annealed_where_gate_and_experts_see_the_same(columns, monkeypatch):
    """Where the gate sees other columns, annealing leads all starts to one optimum."""
    powers = []
    best_of = _engine.best_of

    def told(width, beta):
        powers[-1].append(beta)
        return best_of(width, beta)

    def begun(*parts, **options):
        powers.append([])
        monkeypatch.setattr(_engine, "best_of", told)
        state = begin(*parts, **options)
        monkeypatch.setattr(_engine, "best_of", best_of)
        return state

    begin = _train.begin
    monkeypatch.setattr(_train, "begin", begun)
    see = make_column_transformer(("passthrough", columns))
    expert = make_pipeline(see, Ridge())
    options = {**QUICK, "n_init": 6, "cross_fit": None}
    MoERegressor(expert, **options).fit(X, Y)
    plain = list(_engine.ANNEALING)
    last = plain if len(columns) == 3 else [1.0]
    assert powers == [plain, plain, plain, plain, last, last]


# ------------------------------------------------------------------ warm starts
@quick_choices
@pytest.mark.parametrize("expert", [Ridge(), TREE], ids=str)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_warm_starts_keep_what_was_chosen(expert, strength, monkeypatch):
    monkeypatch.setattr(
        _train,
        "choose",
        lambda held, parts: (0, Choice(gate=1, shrinkage=1.0 - strength)),
    )
    model = MoERegressor(expert, **QUICK, warm_start=True).fit(X, Y)
    before = copy.deepcopy(model)
    chosen = SoftmaxGate.choices["alpha"][1]
    monkeypatch.undo()
    model.fit(X, Y)
    assert model.shrinkage_ == before.shrinkage_ == 1.0 - strength
    assert model.gate_.alpha == before.gate_.alpha == chosen
    assert model.score(X, Y) == pytest.approx(before.score(X, Y), abs=0.1)
    assert model.routed_bound_ >= before.routed_bound_ - 0.05


def test_of_many_rows_a_sample_held_outs(monkeypatch):
    monkeypatch.setattr(_held_out, "ENOUGH_ROWS", 100)
    monkeypatch.setattr(_held_out, "ENOUGH_AN_EXPERT", 1)
    n = len(Y)
    part = _held_out.splits(problem_of(Y, 2), rigid=True)[0]
    used = part.rows.sum() + len(part.test.y)
    assert used < n
    assert used == pytest.approx(n / -(-n // 100), abs=4)
    assert part.rows.sum() == pytest.approx(0.75 * used, abs=4)
    assert MoERegressor(**QUICK).fit(X, Y).score(X, Y) > 0
