"""Shared experts, free judging, dead experts, and what a fit says of itself."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from _cases import pool_of
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneOut
from sklearn.neighbors import KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Problem, begin, initial, resume
from skmoe.em._engine import revived
from skmoe.em._held_out import WAYS, HeldOut, Split, Trial, choose
from skmoe.em._shared_expert import Shared
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

pytestmark = pytest.mark.filterwarnings(
    "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
)

quick_choices = pytest.mark.usefixtures("quick_choices")

random = np.random.RandomState(0)
N = 240
X = random.standard_normal((N, 3))
Y = np.where(X[:, 0] > 0, 3 * X[:, 1], -3 * X[:, 1]) + 0.1 * random.standard_normal(N)
LABELS = np.where(X[:, 0] * X[:, 1] + 0.2 * random.standard_normal(N) > 0, "a", "b")
QUICK = {"n_experts": 3, "n_init": 1, "max_iter": 10, "random_state": 0}
TREE = DecisionTreeRegressor(max_depth=4, random_state=0)


def problem_of(y, n_experts=3, width=3):
    return Problem(X, X, y[:, None], np.ones(len(y)), n_experts, width, 10, 1e-4)


# ------------------------------------------------------------- shared expert
def test_residuals_are_out_of_fold():
    problem = problem_of(Y)
    shared = Shared.fit(problem, pool_of([DecisionTreeRegressor(random_state=0)]))
    left = shared.left_over(problem, new=False)
    # An unpruned tree leaves nothing over of rows that it saw.
    assert np.mean(np.abs(left.y[:, 0]) < 1e-9) < 0.2
    folds = shared.judge.folds
    for fold in range(folds.max() + 1):
        seen = folds != fold
        tree = DecisionTreeRegressor(random_state=0).fit(X[seen], Y[seen])
        expected = Y[~seen] - tree.predict(X[~seen])
        np.testing.assert_allclose(left.y[~seen, 0], expected, atol=1e-12)
    new = shared.left_over(problem, new=True)
    np.testing.assert_allclose(new.y, 0.0, atol=1e-12)


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_experts_correct_the_shared_prediction(top_k):
    model = MoERegressor(shared_expert=TREE, top_k=top_k, **QUICK).fit(X, Y)
    np.testing.assert_allclose(
        model.shared_expert_.predict(X), TREE.fit(X, Y).predict(X), atol=1e-12
    )
    said = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
    mixed = (model.route(X).toarray() * said).sum(axis=1)
    expected = model.shared_expert_.predict(X) + mixed
    np.testing.assert_allclose(model.predict(X), expected, atol=1e-9)


@quick_choices
def test_one_expert_corrects_nothing():
    model = MoERegressor(shared_expert=TREE, **QUICK).fit(X, Y)
    np.testing.assert_allclose(model.experts_[-1].predict(X), 0.0, atol=1e-9)


@quick_choices
def test_score_samples_is_the_density_of_the_residual():
    model = MoERegressor(shared_expert=TREE, top_k=None, **QUICK).fit(X, Y)
    left = Y - model.shared_expert_.predict(X)
    said = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
    z = (left[:, None] - said) / model.scale_
    density = np.exp(-0.5 * z**2) / (model.scale_ * np.sqrt(2 * np.pi))
    expected = np.log((model.gate_proba(X) * density).sum(axis=1))
    np.testing.assert_allclose(model.score_samples(X, Y), expected, rtol=1e-8)


def test_a_shared_linear_expert_leaves_regimes_to_the_others():
    slope = Y + 5 * X[:, 2]
    model = MoERegressor(shared_expert=Ridge(), **QUICK).fit(X, slope)
    assert model.score(X, slope) > 0.95
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_several_outputs_beside_a_shared_expert():
    targets = np.column_stack([Y, X[:, 2] + Y])
    model = MoERegressor(shared_expert=Ridge(), **QUICK).fit(X, targets)
    assert model.predict(X).shape == (N, 2)
    assert model.score(X, targets) > 0.9


@quick_choices
@pytest.mark.parametrize("expert", [None, DecisionTreeClassifier(max_depth=2)])
def test_classifiers_are_drawn_to_the_shared_expert(expert):
    shared = DecisionTreeClassifier(max_depth=3, random_state=0)
    model = MoEClassifier(expert, shared_expert=shared, **QUICK).fit(X, LABELS)
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    assert model.score(X, LABELS) >= shared.fit(X, LABELS).score(X, LABELS) - 0.02


@pytest.mark.parametrize("seed", range(2))
def test_auto_takes_the_better_of_both(seed):
    options = {**QUICK, "random_state": seed}
    auto = MoERegressor(TREE, shared_expert="auto", **options).fit(X, Y)
    pure = MoERegressor(TREE, **options).fit(X, Y)
    assert auto.held_out_["mixture"] >= pure.held_out_["mixture"]
    if not hasattr(auto, "shared_expert_"):
        np.testing.assert_array_equal(auto.predict(X), pure.predict(X))


def test_auto_of_linear_experts_has_nothing_to_share():
    auto = MoERegressor(shared_expert="auto", **QUICK).fit(X, Y)
    assert not hasattr(auto, "shared_expert_")
    np.testing.assert_array_equal(
        auto.predict(X), MoERegressor(**QUICK).fit(X, Y).predict(X)
    )


def test_a_shared_expert_of_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"shared_expert .* is a classifier"):
        MoERegressor(shared_expert=LogisticRegression(), **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match=r"shared_expert .* is a regressor"):
        MoEClassifier(shared_expert=Ridge(), **QUICK).fit(X, LABELS)


def test_warm_start_goes_on_beside_the_shared_expert():
    model = MoERegressor(shared_expert=TREE, warm_start=True, **QUICK).fit(X, Y)
    before = model.score_samples(X, Y).mean()
    assert model.fit(X, Y).score_samples(X, Y).mean() > before - 0.05


# --------------------------------------------------------------- free judging
def test_leave_one_out_is_the_closed_form_for_ridge_experts():
    model = MoERegressor(cross_fit=LeaveOneOut(), **QUICK).fit(X, Y)
    assert model.score(X, Y) > 0.8
    assert isinstance(model.experts_[0], Ridge)
    assert not hasattr(model._pool, "left")


@quick_choices
@pytest.mark.parametrize(
    "expert",
    [KNeighborsRegressor(4), RandomForestRegressor(10, max_depth=4, random_state=0)],
)
def test_auto_judges_for_free_where_it_can(expert):
    model = MoERegressor(expert, **QUICK).fit(X, Y)
    assert not hasattr(model._own_pool, "left")
    assert type(model._own_pool).__name__ == "EstimatorPool"
    assert model.diagnostics_["in_sample_bound"] > model.diagnostics_["routed_bound"]


# --------------------------------------------------------------- dead experts
def test_a_dead_expert_gets_the_rows_that_are_explained_worst():
    problem = problem_of(Y)
    labels = np.where(X[:, 0] > 0, 0, 1)
    start = Routing.from_dense(np.eye(3)[labels])
    gate = SoftmaxGate().fit(X, start)
    pool = pool_of([LinearRegression()] * 3).fit(X, problem.y, start)
    pool = pool.rescale(problem.y, pool.evaluate(X, problem.y, start), start)
    state = resume(problem, gate, pool)
    nothing = state.resp.with_weights(np.eye(3)[labels])
    state = replace(state, resp=nothing)
    after = revived(problem, state)
    log_joint = state.terms.log_gate + state.terms.log_lik
    score = np.logaddexp.reduce(log_joint, axis=1)
    worst = np.argsort(score)[: N // 6]
    assert set(np.flatnonzero(after.resp.weights[:, 2] == 1)) == set(worst)
    np.testing.assert_allclose(after.resp.weights.sum(axis=1), 1.0)
    untouched = np.setdiff1d(np.arange(N), worst)
    np.testing.assert_array_equal(
        after.resp.weights[untouched], nothing.weights[untouched]
    )


def test_a_dead_expert_takes_a_place_in_a_sparse_routing():
    problem = problem_of(Y, n_experts=4, width=2)
    pool = pool_of([Ridge()] * 4)
    start = begin(problem, SoftmaxGate(), pool, initial(problem, "tree", 0, 0))
    indices = np.where(start.resp.indices == 3, 0, start.resp.indices)
    weights = np.stack([np.ones(N), np.zeros(N)], axis=1)
    indices[:, 1] = -1
    state = replace(start, resp=Routing(indices, weights, 4))
    after = revived(problem, state).resp
    served = (after.indices == 3) & (after.weights == 1)
    assert served.sum() == N // 8
    np.testing.assert_allclose(after.weights.sum(axis=1), 1.0)


def test_living_experts_are_left_alone():
    problem = problem_of(Y)
    state = begin(
        problem, SoftmaxGate(), pool_of([Ridge()] * 3), initial(problem, "tree", 0, 0)
    )
    assert revived(problem, state) is state


# --------------------------------------------------------------------- choice
def held(table, losses):
    """Return what rows held out say; one learner has half of the ways to shrink."""
    figures = zip(WAYS, table, losses, strict=False)
    trials = {way: Trial(None, bound, loss, 0.0) for way, bound, loss in figures}
    return HeldOut([trials], -9.0, [], None)


def chosen(*tables_and_losses):
    """Return what is chosen of plans of one gate, given as (table, losses)."""
    problem = problem_of(Y)
    split = [Split(problem, *np.ones((2, N), bool))]
    plans = [[held(t, loss)] for t, loss in tables_and_losses]
    return choose(plans, split)


def test_sharp_densities_do_not_buy_worse_means():
    table = [-2.0, -1.9, -1.8, -1.7, -0.1]
    plan, best = chosen((table, [1.0, 1.0, 1.0, 1.0, 1.0]))
    assert (plan, best.shrinkage) == (0, 0.0)
    _, best = chosen((table, [1.0, 0.8, 0.82, 0.83, 1.3]))
    assert best.shrinkage == 0.5  # it gives up a tenth of what 0.8 gains
    assert best.mixture == -1.8
    assert best.pooled == -2.0


def test_where_no_mean_gains_the_density_decides():
    table = [-2.0, -1.9, -1.8, -1.2, 0.2]
    _, best = chosen((table, [1.0, 0.996, 1.002, 1.001, 1.004]))
    assert best.shrinkage == 0.0
    _, best = chosen((table, [1.0, 0.996, 1.002, 1.001, 1.02]))
    assert best.shrinkage == 0.25


def test_means_are_compared_across_plans():
    sharp = [-0.5] * 5, [1.3] * 5  # the best density, no better than its own pooled fit
    plain = [-2.0, -1.9, -1.8, -1.7, -1.6], [1.0, 0.9, 0.8, 0.8, 0.8]
    plan, best = chosen(sharp, plain)
    assert (plan, best.shrinkage) == (1, 0.0)
    assert best.pooled == -2.0
    plan, _ = chosen(([-0.5] * 5, [0.805] * 5), plain)
    assert plan == 0


def test_experts_of_a_list_may_go_to_the_best_learner():
    own, best = [-2.0, -1.9, -1.8, -1.7, -1.6], [-1.0, -0.9, -1.2, -1.3]
    _, found = chosen((own + best, [1.0, 1.2, 1.2, 1.3, 1.4, 0.9, 0.9, 0.9, 0.9]))
    assert (found.shrinkage, found.to_best) == (0.75, True)
    assert (found.mixture, found.pooled) == (-0.9, -1.0)
    _, found = chosen((own + best, [1.0, 0.8, 0.8, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9]))
    assert (found.shrinkage, found.to_best) == (0.0, False)


# ---------------------------------------------------------------- what it says
def test_verbose_says_what_the_mixture_brings(capsys):
    MoERegressor(verbose=1, **QUICK).fit(X, Y)
    said = capsys.readouterr().out.splitlines()[-1]
    assert "It gains" in said
    assert "over one learner on held-out rows" in said
    noise = np.random.RandomState(1).standard_normal(N)
    MoERegressor(verbose=1, scale_prior=1e6, **QUICK).fit(X, noise)
    assert "gains nothing over one learner" in capsys.readouterr().out
    MoERegressor(verbose=1, cross_fit=None, **QUICK).fit(X, Y)
    assert "No rows were held out" in capsys.readouterr().out


@quick_choices
def test_diagnostics():
    model = MoERegressor(top_k=2, **QUICK).fit(X, Y)
    found = model.diagnostics_
    best = np.sort(model.gate_proba(X), axis=1)[:, -2:].sum(axis=1)
    assert found["top_k_mass"] == pytest.approx(best.mean(), abs=1e-9)
    assert found["top_k_rows"] == pytest.approx(np.mean(best >= 0.95))
    assert found["in_sample_bound"] == pytest.approx(model.score_samples(X, Y).mean())
    held_out = model.held_out_
    gain = held_out["mixture"] - held_out["constant_gate"]
    assert model.routing_gain_ == pytest.approx(gain)
    assert gain > 0.5
