"""n_experts="auto": how many experts fit finds, and how it says so."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import Problem, begin, most_experts
from skmoe.em._grow import loss_without
from skmoe.em._number_of_experts import Rung, _chosen, _standard_error, _without_one
from skmoe.experts import make_pool
from skmoe.gates import KNeighborsGate, SoftmaxGate, TreeGate
from skmoe.likelihoods import Gaussian, ZeroInflated
from skmoe.routing import Routing

pytestmark = pytest.mark.filterwarnings(
    "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
)

quick_choices = pytest.mark.usefixtures("quick_choices")

rng = np.random.default_rng(0)
N = 600
X = rng.uniform(-3, 3, (N, 2))
NOISE = 0.2 * rng.standard_normal(N)
ONE = 1 + X @ [2.0, -1.0] + NOISE
REGIME = np.digitize(X[:, 0], [-1, 1])
THREE = np.choose(REGIME, [3 * X[:, 1], -4.0 - X[:, 1], 5 - 3 * X[:, 1]]) + NOISE
COIN = rng.random(N)
TWO_RULES = np.where(X[:, 0] > 0, 4 * X[:, 1], -4 * X[:, 1])
LABELS = np.where(1 / (1 + np.exp(-TWO_RULES)) > COIN, "up", "down")
PLAIN_LABELS = np.where(1 / (1 + np.exp(-2 * X[:, 1])) > COIN, "up", "down")
AUTO = {"n_experts": "auto", "random_state": 0, "n_init": 1, "max_iter": 20}
IN_SAMPLE = {**AUTO, "cross_fit": None}  # one path, not one a split
TREE = DecisionTreeRegressor(max_depth=4, random_state=0)


@pytest.fixture(scope="module")
def three():
    return MoERegressor(**AUTO).fit(X, THREE)


@pytest.mark.parametrize(
    ("y", "number", "cross_fit"),
    [
        pytest.param(ONE, 1, "auto", id="one"),
        pytest.param(NOISE, 1, "auto", id="noise", marks=pytest.mark.slow),
        pytest.param(ONE, 1, None, id="one in sample"),
        pytest.param(NOISE, 1, None, id="noise in sample"),
        pytest.param(THREE, 3, None, id="three in sample"),
    ],
)
def test_regressor_finds_the_regimes(y, number, cross_fit):
    model = MoERegressor(**AUTO, cross_fit=cross_fit).fit(X, y)
    assert model.n_experts_ == number == len(model.experts_)
    assert model.n_experts == "auto"
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize(
    ("y", "number", "cross_fit"),
    [
        pytest.param(PLAIN_LABELS, 1, "auto", id="one", marks=pytest.mark.slow),
        pytest.param(PLAIN_LABELS, 1, None, id="one in sample"),
        pytest.param(LABELS, 2, "auto", id="two"),
        pytest.param(LABELS, 2, None, id="two in sample"),
    ],
)
def test_classifier_finds_the_regimes(y, number, cross_fit):
    model = MoEClassifier(**AUTO, cross_fit=cross_fit).fit(X, y)
    assert model.n_experts_ == number
    assert_allclose(model.predict_proba(X).sum(axis=1), 1)


@pytest.mark.slow
def test_learners_fitted_one_by_one_find_one_and_several():
    few, y = X[:300], np.floor(X[:300, 0]) * X[:300, 1] ** 3
    assert MoERegressor(TREE, **AUTO).fit(few, NOISE[:300]).n_experts_ == 1
    assert MoERegressor(TREE, **AUTO).fit(few, y).n_experts_ > 1
    scaled = make_pipeline(StandardScaler(), Ridge())
    assert MoERegressor(scaled, **AUTO).fit(few, THREE[:300]).n_experts_ == 3


def test_the_fit_is_that_of_the_number_chosen(three):
    given = clone(three).set_params(n_experts=3).fit(X, THREE)
    assert_array_equal(given.predict(X), three.predict(X))
    assert given.lower_bound_ == three.lower_bound_
    assert not hasattr(given, "selection_path_")


def test_path_tells_what_was_tried(three):
    assert three.n_experts_ == 3 == len(three.experts_)
    assert three.n_experts == "auto"
    path = three.selection_path_
    names = ["bic", "chosen", "held_out", "icl", "n_experts", "standard_error"]
    assert sorted(path) == names
    numbers = path["n_experts"]
    assert all(each.shape == numbers.shape for each in path.values())
    assert_array_equal(numbers[:4], [1, 2, 3, 4])
    assert_array_equal(numbers[path["chosen"]], [3])
    best = np.argmax(path["held_out"])
    assert path["standard_error"][best] == 0
    near = path["held_out"][best] - path["held_out"] <= path["standard_error"]
    assert numbers[near].min() == 3
    # One expert has nothing to be unsure of; several have.
    assert path["icl"][0] == path["bic"][0]
    assert (path["icl"][1:] > path["bic"][1:]).all()


def test_in_sample_bic_decides():
    model = MoERegressor(**IN_SAMPLE).fit(X, ONE)
    path = model.selection_path_
    assert np.isnan(path["held_out"]).all()
    assert np.isnan(path["standard_error"]).all()
    assert path["chosen"][np.argmin(path["bic"])]
    # Of one expert all of the path is exact: the criterion of the fitted mixture.
    assert path["bic"][0] == pytest.approx(model.bic(X, ONE))


def test_where_parameters_cannot_be_counted_rows_are_held_out():
    model = MoERegressor(SVR(), **IN_SAMPLE)
    path = model.fit(X[:150], ONE[:150]).selection_path_
    assert np.isnan(path["bic"]).all()
    assert np.isfinite(path["held_out"]).all()


def test_least_number_within_one_standard_error_of_the_best():
    def rung(scores, bic=np.nan):
        scores, nothing = np.asarray(scores, float), Routing.from_labels([0], 1)
        return Rung(0.0, bic, bic, nothing, scores, np.ones(len(scores)))

    best = np.array([0.0, 0.0, 0.0, 0.0])
    near, far = best - [0.4, -0.4, 0.4, -0.2], best - [1, 1, 1, 1.1]
    # Lacks 0.05 in the mean; its standard error is 0.17.
    found = _chosen([{1: rung(far), 2: rung(near), 3: rung(best)}])
    assert found.n_experts == 2
    assert_allclose(found.path["held_out"], [-1.025, -0.05, 0])
    assert_allclose(found.path["standard_error"][1], np.std(near) / 2)
    # Numbers that a split has not tried do not count, and splits are one sample.
    two = [{1: rung(far), 2: rung(near)}, {1: rung(best), 2: rung(far), 3: rung(best)}]
    assert list(_chosen(two).path["n_experts"]) == [1, 2]
    none = [{1: rung([], bic=3.0), 2: rung([], bic=1.0), 3: rung([], bic=2.0)}]
    assert _chosen(none).n_experts == 2


def test_weight_two_is_the_row_twice_in_the_standard_error():
    values, weights = np.array([1.0, 3.0, -2.0]), np.array([1.0, 2.0, 3.0])
    again = np.repeat(values, [1, 2, 3])
    assert _standard_error(values, weights) == pytest.approx(
        _standard_error(again, np.ones(6))
    )
    assert _standard_error(again, np.ones(6)) == pytest.approx(again.std() / 6**0.5)


@pytest.mark.parametrize("width", [4, 2])
def test_rows_of_an_expert_that_goes_are_shared_by_the_others(width):
    labels = rng.integers(4, size=N)
    options = {"likelihood": Gaussian().seen(THREE[:, None], np.ones(N), 10.0)}
    pool = make_pool([Ridge()] * 4, n_features=2, **options)
    problem = Problem(X, X, THREE[:, None], np.ones(N), 4, width, 10, 1e-4)
    state = begin(problem, SoftmaxGate(), pool, Routing.from_labels(labels, 4))
    gone = int(np.argmin(loss_without(problem, state)))
    resp, rest = _without_one(problem, state)
    assert_array_equal(rest, np.delete(np.arange(4), gone))
    before, after = state.resp.to_csr().toarray(), resp.to_csr().toarray()
    assert after.shape == (N, 3)
    assert_allclose(after.sum(axis=1), 1)
    others = before[:, rest].sum(axis=1)
    kept = others > 1e-6
    expected = before[:, rest][kept] / others[kept, None]
    assert_allclose(after[kept], expected, atol=1e-6)


@quick_choices
def test_no_more_experts_than_rows_allow():
    assert [most_experts(n) for n in (1, 19, 35, 10**6)] == [1, 1, 3, 64]
    model = MoERegressor(**AUTO).fit(X[:15], THREE[:15])
    assert model.n_experts_ == 1
    model.fit(X[:70], THREE[:70])
    assert model.selection_path_["n_experts"].max() <= 7


@quick_choices
@pytest.mark.parametrize("gate", ["constant", "gaussian", TreeGate(), KNeighborsGate()])
def test_any_gate(gate):
    few = MoERegressor(gate=gate, **IN_SAMPLE).set_params(max_iter=5)
    assert few.fit(X[:200], ONE[:200]).n_experts_ == 1
    if gate != "constant":
        assert few.fit(X[:200], THREE[:200]).n_experts_ > 1


@pytest.mark.slow
@quick_choices
def test_shared_experts_groups_and_weights():
    y = THREE[:300] + ONE[:300]
    model = MoERegressor(shared_expert=Ridge(), **AUTO).set_params(max_iter=5)
    assert model.fit(X[:300], y).n_experts_ > 1
    groups = np.repeat(np.arange(N // 3), 3)
    far = np.repeat(X[::3, 0], 3)
    y = np.where(far > 0, 3 * X[:, 1], -3 * X[:, 1]) + NOISE
    model = MoERegressor(**AUTO).fit(np.c_[far, X[:, 1]], y, groups=groups)
    assert model.n_experts_ == 2
    weight = np.where(REGIME == 2, 0.0, 1.0)
    assert MoERegressor(**IN_SAMPLE).fit(X, THREE, weight).n_experts_ == 2


@pytest.mark.parametrize("top_k", [None, 1])
def test_dense_and_narrow_routing(top_k):
    model = MoERegressor(top_k=top_k, **IN_SAMPLE).fit(X, THREE)
    assert model.n_experts_ == 3
    assert model.responsibilities(X, THREE).shape == (N, 3)


def test_one_expert_routes_all_rows_to_it():
    model = MoERegressor(top_k=2, **IN_SAMPLE).fit(X, ONE)
    assert_array_equal(model.route(X).toarray(), np.ones((N, 1)))
    assert_array_equal(model.apply(X), np.zeros((N, 1)))


def test_same_bits_for_any_number_of_jobs(three):
    again = clone(three).set_params(n_jobs=2).fit(X, THREE)
    assert_array_equal(again.predict(X), three.predict(X))
    for name, values in three.selection_path_.items():
        assert_array_equal(again.selection_path_[name], values)


def test_warm_start_goes_on_with_the_number_chosen(three):
    model = clone(three).set_params(warm_start=True, cross_fit=None).fit(X, THREE)
    path = model.selection_path_
    model.fit(X, ONE)  # one regime now: the number stays
    assert model.n_experts_ == 3
    assert model.selection_path_ is path
    model.add_experts(1, X, ONE).fit(X, ONE)
    assert model.n_experts_ == 4
    model.set_params(warm_start=False).fit(X, ONE)
    assert model.n_experts_ == 1


@quick_choices
def test_parameters_stay_and_grids_take_it(three):
    assert three.get_params()["n_experts"] == "auto"
    assert clone(three).n_experts == "auto"
    quick = MoERegressor(**IN_SAMPLE)
    search = GridSearchCV(quick, {"n_experts": [1, "auto"]}, cv=2)
    search.fit(X, THREE)
    assert search.best_params_ == {"n_experts": "auto"}
    assert search.best_estimator_.n_experts_ >= 3


def test_verbose_says_that_one_is_enough(capsys):
    MoERegressor(**IN_SAMPLE, verbose=1).fit(X, ONE)
    told = capsys.readouterr().out
    assert "n_experts   1" in told
    assert "No more than one expert is worth it" in told


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_experts": "many"}, "'n_experts' parameter .* must be"),
        ({"n_experts": 0}, "'n_experts' parameter .* must be"),
        ({"expert": [Ridge(), Ridge()]}, "list of 2 learners, which fixes the number"),
        ({"init": np.full((N, 2), 0.5)}, "needs init to name starts"),
        ({"likelihood": ZeroInflated()}, "has a fixed expert"),
    ],
)
def test_what_cannot_be_combined(params, message):
    with pytest.raises(ValueError, match=message):
        MoERegressor(**{**AUTO, **params}).fit(X, np.abs(ONE).round())
