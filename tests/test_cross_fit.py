"""Cross-fitting: groups, folds that break, and what experts become at the end."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from _cases import pool_of
from sklearn import config_context
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import FitFailedWarning, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    TimeSeriesSplit,
    cross_val_score,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import (
    FINAL_FOLDS,
    CrossFitPool,
    Problem,
    begin,
    content_folds,
    fallbacks,
    finished,
    initial,
    judges,
    run,
)
from skmoe.estimators import _folds
from skmoe.estimators._folds import cross_fitted_pool
from skmoe.experts import (
    AveragedClassifier,
    AveragedPool,
    AveragedRegressor,
    EstimatorPool,
    LinearPool,
    LogisticPool,
    averaged,
)
from skmoe.gates import SoftmaxGate
from skmoe.routing import Routing

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

N = 120
QUICK = {
    "n_experts": 2,
    "init": "tree",
    "n_init": 1,
    "max_iter": 3,
    "random_state": 0,
}
EASY = {**QUICK, "tol": 10.0}  # converges, so that EM has nothing to warn of
random = np.random.RandomState(0)
X = random.standard_normal((N, 3))
Y = np.abs(X[:, 0]) + 0.3 * X[:, 1] + 0.1 * random.standard_normal(N)
LABELS = np.where(X[:, 0] * X[:, 1] + 0.2 * random.standard_normal(N) > 0, "a", "b")
GROUPS = random.permutation(np.repeat(np.arange(24), 5))
TREE = DecisionTreeRegressor(max_depth=4)
CLASS_TREE = DecisionTreeClassifier(max_depth=4)


def problem_of(y=None, *, n_experts=2, **changes):
    y = Y[:, None] if y is None else y
    problem = Problem(X, X, y, np.ones(N), n_experts, n_experts, 4, 0.0)
    return replace(problem, **changes)


def regressors(learner, n_experts=2):
    return pool_of([learner] * n_experts, floor=1e-4)


def classifiers(learner, classes, n_experts=2):
    return pool_of([learner] * n_experts, np.asarray(classes))


def halves():
    """Return the routing of rows left and right of 0 to an expert each."""
    return Routing.from_labels((X[:, 0] > 0).astype(np.intp), 2)


def everywhere(n_rows=N, n_experts=2):
    return Routing.from_dense(np.full((n_rows, n_experts), 1.0 / n_experts))


def spy(splitter):
    """Return a splitter that remembers what groups it was given."""

    class Spy(type(splitter)):
        def split(self, X, y=None, groups=None):
            given.append(groups)
            yield from super().split(X, y, groups)

    given = []
    made = Spy(splitter.n_splits)
    made.given = given
    return made


# ------------------------------------------------------------------------ groups
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_a_splitter_is_given_the_groups(kind):
    splitter = spy(GroupKFold(3))
    if kind == "regressor":
        model, y = MoERegressor(TREE, cross_fit=splitter, **QUICK), Y
    else:
        model, y = MoEClassifier(CLASS_TREE, cross_fit=splitter, **QUICK), LABELS
    model.fit(X, y, groups=GROUPS)
    assert len(splitter.given) == 1
    np.testing.assert_array_equal(splitter.given[0], GROUPS)
    direct = PredefinedSplit(fold_of(GroupKFold(3), GROUPS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The groups parameter is ignored")
        same = clone(model).set_params(cross_fit=direct).fit(X, y, groups=GROUPS)
    np.testing.assert_array_equal(model.predict(X), same.predict(X))
    assert model.lower_bound_ == same.lower_bound_


def fold_of(splitter, groups):
    folds = np.empty(N, dtype=int)
    for fold, (_, rows) in enumerate(splitter.split(X, Y, groups)):
        folds[rows] = fold
    return folds


def test_groups_of_rows_without_weight_go_with_them():
    weight = np.where(np.arange(N) % 4 == 0, 0.0, 1.0)
    model = MoERegressor(TREE, cross_fit=GroupKFold(3), **QUICK)
    zero = clone(model).fit(X, Y, weight, GROUPS)
    kept = weight > 0
    model.fit(X[kept], Y[kept], groups=GROUPS[kept])
    np.testing.assert_array_equal(zero.predict(X), model.predict(X))


@pytest.mark.parametrize("cross_fit", ["auto", 4])
@pytest.mark.parametrize(
    "convert", [list, pd.Series, lambda g: np.char.add("g", g.astype(str))]
)
def test_rows_of_a_group_share_a_fold(cross_fit, convert, monkeypatch):
    made = []

    class Seen(CrossFitPool):
        def __init__(self, pool, folds, final_folds, part_rows, *more):
            super().__init__(pool, folds, final_folds, part_rows, *more)
            made.append((folds, final_folds))
            assert not part_rows

    monkeypatch.setattr(_folds, "CrossFitPool", Seen)
    MoERegressor(TREE, cross_fit=cross_fit, **QUICK).fit(X, Y, groups=convert(GROUPS))
    folds, final = made[0]
    counts = [3, FINAL_FOLDS] if cross_fit == "auto" else [4]
    assert (final is None) == (cross_fit == 4)
    for which, n_folds in zip((folds, final), counts, strict=False):
        assert which.max() + 1 == n_folds
        assert whole(GROUPS, which)


def whole(groups, folds):
    return len(np.unique(np.column_stack([groups, folds]), axis=0)) == len(
        np.unique(groups)
    )


def test_groups_are_dealt_out_evenly():
    folds = content_folds(problem_of(groups=GROUPS), 3, 0)
    np.testing.assert_array_equal(np.bincount(folds), [40, 40, 40])
    sizes = np.repeat(np.arange(12), np.r_[30, 20, 10, 10, 10, 10, [5] * 6])
    assert np.ptp(np.bincount(content_folds(problem_of(groups=sizes), 3, 0))) <= 5


def test_groups_of_classes_are_dealt_out_evenly():
    labels = (np.arange(N) % 10 == 0).astype(np.intp)  # 12 of a rare class
    groups = np.where(labels == 1, 100 + np.arange(N) // 20, GROUPS)
    folds = content_folds(problem_of(labels, groups=groups), 3, 0)
    assert whole(groups, folds)
    np.testing.assert_array_equal(np.bincount(folds[labels == 1]), [4, 4, 4])
    assert np.ptp(np.bincount(folds)) <= 10


def test_dealing_out_groups_looks_at_content_only():
    folds = content_folds(problem_of(groups=GROUPS), 3, 0)
    order = np.random.RandomState(1).permutation(N)
    shuffled = problem_of(groups=GROUPS).take(order)
    other = content_folds(shuffled, 3, 0)
    np.testing.assert_array_equal(folds[order], other)
    times = np.random.RandomState(2).randint(1, 4, N)
    rows = np.repeat(np.arange(N), times)
    weighted = problem_of(sample_weight=times.astype(float), groups=GROUPS)
    repeated = problem_of(groups=GROUPS).take(rows)
    np.testing.assert_array_equal(
        content_folds(weighted, 3, 0)[rows], content_folds(repeated, 3, 0)
    )


def test_groups_are_welcome_where_experts_are_judged_in_sample():
    for model, y in ((MoERegressor(**QUICK), Y), (MoEClassifier(**QUICK), LABELS)):
        assert model.fit(X, y, groups=GROUPS).score(X, y) > 0.5


@pytest.mark.parametrize(
    ("params", "groups", "message"),
    [
        ({}, GROUPS[:7], r"groups must have .* shape \(120,\); got shape \(7,\)"),
        ({}, GROUPS.reshape(60, 2), r"shape \(120,\); got shape \(60, 2\)"),
        ({}, np.where(GROUPS > 3, GROUPS, np.nan), "groups: Input contains NaN"),
        ({}, np.zeros(N), r"cross_fit='auto' needs at least 2 groups.* got 1\."),
        (
            {"cross_fit": 5},
            GROUPS % 3,
            r"cross_fit=5 needs at least 5 groups.* got 3\.",
        ),
        ({"cross_fit": GroupKFold(5)}, GROUPS % 3, "greater than the number of groups"),
        ({"cross_fit": GroupKFold(3)}, None, "'groups' parameter should not be None"),
    ],
)
def test_bad_groups(params, groups, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        MoERegressor(TREE, **{**QUICK, **params}).fit(X, Y, groups=groups)


def test_wrong_length_of_groups_beside_weights():
    with pytest.raises(ValueError, match=r"groups must have .*\(120,\); got .*\(7,\)"):
        MoERegressor(TREE, **QUICK).fit(X, Y, np.arange(N) % 3, groups=GROUPS[:7])


def test_a_splitter_without_groups_says_that_it_ignores_them():
    model = MoERegressor(TREE, cross_fit=KFold(3), **QUICK)
    with pytest.warns(UserWarning, match="groups parameter is ignored by KFold"):
        model.fit(X, Y, groups=GROUPS)


# ---------------------------------------------------- splitters that are no partition
def test_models_learn_from_the_training_rows_of_a_splitter():
    model = MoERegressor(TREE, cross_fit=TimeSeriesSplit(3, gap=10), **EASY)
    with pytest.warns(UserWarning, match="leaves 30 of the 120 rows in no test fold"):
        model.fit(X, Y)
    problem, pool = problem_of(), regressors(TREE)
    crossed = cross_fitted_pool(model, pool, problem)
    rows = np.arange(N)
    expected = np.concatenate([np.full(30, 3), np.repeat([0, 1, 2], 30)])
    np.testing.assert_array_equal(crossed.folds, expected)
    for fold, end in enumerate([20, 50, 80, 120]):
        np.testing.assert_array_equal(crossed.learned[fold], rows < end)
    np.testing.assert_array_equal(crossed.blind, rows >= 30)


def test_rows_in_several_test_folds_are_judged_by_the_first():
    twice = RepeatedKFold(n_splits=3, n_repeats=2, random_state=0)
    folds = np.full(N, -1)
    for fold, (_, rows) in enumerate(twice.split(X)):
        folds[rows[folds[rows] < 0]] = fold
    assert folds.max() == 2
    many = MoERegressor(TREE, cross_fit=twice, **EASY).fit(X, Y)
    one = MoERegressor(TREE, cross_fit=PredefinedSplit(folds), **EASY).fit(X, Y)
    np.testing.assert_array_equal(many.predict(X), one.predict(X))
    np.testing.assert_array_equal(many.scale_, one.scale_)


def test_rows_judged_in_sample_do_not_count_for_scales():
    folds = np.where(np.arange(N) < 60, 2, np.arange(N) % 2)
    learned = folds != np.arange(3)[:, None]
    learned[2] = True
    learner = DecisionTreeRegressor(random_state=0)  # remembers its rows
    pool = CrossFitPool(regressors(learner, 1), folds, learned=learned)
    everyone = everywhere(n_experts=1)
    pool = pool.fit(X, Y[:, None], everyone)
    values = pool.evaluate(X, Y[:, None], everyone)
    np.testing.assert_allclose(values[:60, 0, 0], Y[:60])
    scale = pool.rescale(Y[:, None], values, everyone).scale
    late = everyone.take(np.arange(60, N))
    expected = pool.likelihood.scales(Y[60:, None], values[60:], late)
    np.testing.assert_allclose(scale, expected)


def test_judges_of_some_of_the_rows():
    folds, learned = np.array([-1, 0, 0, 1, 1]), np.zeros((2, 5), dtype=bool)
    learned[0, :1] = learned[1, :3] = True
    got, rows = judges(folds, learned)
    np.testing.assert_array_equal(got, [2, 0, 0, 1, 1])
    np.testing.assert_array_equal(rows, [*learned, np.ones(5, dtype=bool)])
    # Without row 0 its successor has nothing to learn from.
    got, rows = judges(got[1:], rows[:, 1:])
    np.testing.assert_array_equal(got, [1, 1, 0, 0])
    np.testing.assert_array_equal(rows, [learned[1, 1:], np.ones(4, dtype=bool)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "splitter",
    [
        TimeSeriesSplit(4),
        ShuffleSplit(2, test_size=0.3, random_state=0),
        RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
        PredefinedSplit(np.where(np.arange(N) < 40, -1, np.arange(N) % 2)),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.filterwarnings("ignore:(?s).*in no test fold")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
def test_splitters_of_every_kind(splitter):
    for params in ({}, {"expert": TREE}, {"gate": "tree", "final": "average"}):
        model = MoERegressor(cross_fit=splitter, **EASY).set_params(**params)
        assert np.isfinite(model.fit(X, Y).predict_interval(X)).all()
        assert model.score(X, Y) > 0.5
    model = MoEClassifier(CLASS_TREE, cross_fit=splitter, **EASY).fit(X, LABELS)
    assert model.score(X, LABELS) > 0.7


# ----------------------------------------------------------- groups, routed as metadata
def test_a_splitter_gets_what_it_requests():
    for splitter in (spy(GroupKFold(3)), spy(KFold(3))):
        model = MoERegressor(TREE, cross_fit=splitter, **QUICK)
        with config_context(enable_metadata_routing=True):
            model.fit(X, Y, groups=GROUPS)  # without KFold's warning
    (given,) = splitter.given
    assert given is None
    splitter = spy(GroupKFold(3))
    with config_context(enable_metadata_routing=True):
        MoERegressor(TREE, cross_fit=splitter, **QUICK).fit(X, Y, groups=GROUPS)
    np.testing.assert_array_equal(splitter.given[0], GROUPS)


# On half of the rows an expert may own none outside a fold, as rounding decides.
on_half_of_the_rows = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.FitFailedWarning"
)


@on_half_of_the_rows
@pytest.mark.parametrize("cross_fit", ["auto", GroupKFold(3)], ids=["auto", "splitter"])
def test_groups_are_routed_through_a_search(cross_fit):
    model = MoERegressor(TREE, cross_fit=cross_fit, **QUICK)
    direct = clone(model).fit(X, Y, groups=GROUPS)
    grid = {"n_experts": [2]}
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(model, grid, cv=GroupKFold(2), error_score="raise")
        search.fit(X, Y, groups=GROUPS)
    np.testing.assert_array_equal(search.predict(X), direct.predict(X))


def test_groups_go_by_the_name_that_the_model_asks_for():
    model = MoERegressor(TREE, **QUICK)
    direct = clone(model).fit(X, Y, groups=GROUPS)
    with config_context(enable_metadata_routing=True):
        asks = clone(model).set_fit_request(groups="towns")
        search = GridSearchCV(asks, {"n_experts": [2]}, cv=2, error_score="raise")
        named = search.fit(X, Y, towns=GROUPS).predict(X)
        declines = clone(model).set_fit_request(groups=False)
        search = GridSearchCV(declines, {"n_experts": [2]}, cv=GroupKFold(2))
        without = search.fit(X, Y, groups=GROUPS).predict(X)
    np.testing.assert_array_equal(named, direct.predict(X))
    np.testing.assert_array_equal(without, clone(model).fit(X, Y).predict(X))


def test_a_search_over_models_without_folds():
    model = MoERegressor(TREE, **{**QUICK, "cross_fit": None})
    params = {"cv": GroupKFold(2), "params": {"groups": GROUPS}, "error_score": "raise"}
    with config_context(enable_metadata_routing=True):
        assert np.isfinite(cross_val_score(model, X, Y, **params)).all()
        model.set_fit_request(groups=False)
        assert np.isfinite(cross_val_score(model, X, Y, **params)).all()


@on_half_of_the_rows
@pytest.mark.parametrize("cross_fit", ["auto", StratifiedGroupKFold(3)], ids=str)
def test_groups_are_routed_through_a_pipeline(cross_fit):
    model = MoEClassifier(CLASS_TREE, cross_fit=cross_fit, **QUICK)
    chain = make_pipeline(StandardScaler(), model)
    direct = clone(chain).fit(X, LABELS, moeclassifier__groups=GROUPS)
    with config_context(enable_metadata_routing=True):
        routed = clone(chain).fit(X, LABELS, groups=GROUPS)
        search = GridSearchCV(
            chain, {"moeclassifier__n_experts": [2]}, cv=GroupKFold(2)
        ).fit(X, LABELS, groups=GROUPS)
    expected = direct.predict_proba(X)
    np.testing.assert_array_equal(routed.predict_proba(X), expected)
    np.testing.assert_array_equal(search.predict_proba(X), expected)


def test_weights_and_groups_are_requested_apart():
    with config_context(enable_metadata_routing=True):
        model = MoERegressor(TREE, cross_fit=GroupKFold(3), **QUICK)
        search = GridSearchCV(model, {"n_experts": [2]}, cv=GroupKFold(2))
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            search.fit(X, Y, sample_weight=np.ones(N), groups=GROUPS)
        model.set_fit_request(sample_weight=True).set_score_request(sample_weight=False)
        search.fit(X, Y, sample_weight=np.ones(N), groups=GROUPS)
        routing = model.get_metadata_routing()
    assert routing.consumes("fit", ["sample_weight", "groups", "towns"]) == {
        "sample_weight",
        "groups",
    }


# ----------------------------------------------------------------- folds that break
def test_an_expert_whose_rows_are_too_few_learns_from_all():
    """Six rows of expert 1, four of them in fold 0: two are left outside."""
    few = np.arange(6)
    labels = np.zeros(N, dtype=np.intp)
    labels[few] = 1
    folds = np.arange(N) % 3
    folds[few] = [0, 0, 0, 0, 1, 2]
    pool = CrossFitPool(regressors(KNeighborsRegressor(4)), folds)
    pool.fit(X, Y[:, None], Routing.from_labels(labels, 2))
    assert [sorted(one.fallbacks) for one in pool.pools] == [[1], [], []]
    assert pool.pools[0].fallbacks[1] == (
        "Expert 1 (KNeighborsRegressor(n_neighbors=4)) failed to fit on its 2 rows: "
        "ValueError: Expected n_neighbors <= n_samples_fit, but n_neighbors = 4, "
        "n_samples_fit = 2, n_samples = 1"
    )
    plain = KNeighborsRegressor(4).fit(X[folds != 0], Y[folds != 0])
    answer = pool.evaluate(X, Y[:, None], Routing.from_labels(labels, 2))
    mine = (folds == 0) & (labels == 1)
    np.testing.assert_allclose(answer[mine, 0, 0], plain.predict(X[mine]))


def test_fallbacks_are_carried_by_value():
    pool, weights = regressors(KNeighborsRegressor(4)), np.full((N, 2), [1.0, 0.0])
    weights[:2] = [0.0, 1.0]
    few = Routing.from_dense(weights)
    pool.fit(X, Y[:, None], few)
    assert list(pool.fallbacks) == [1]
    better = pool.update(X, Y[:, None], everywhere())
    assert better.fallbacks == {}
    assert list(pool.fallbacks) == [1]
    assert pool.swap(better, np.array([True, False])).fallbacks == pool.fallbacks
    assert pool.swap(better, np.array([False, True])).fallbacks == {}
    weights[:2] = [1.0, 0.0]
    bare = Routing.from_dense(weights)
    assert pool.update(X, Y[:, None], bare).fallbacks == pool.fallbacks  # kept as is
    assert better.update(X, Y[:, None], bare).fallbacks == {}
    assert regressors(KNeighborsRegressor(4)).fallbacks == {}


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_one_warning_says_what_fell_back(n_jobs):
    model = MoERegressor(KNeighborsRegressor(25), **{**EASY, "n_experts": 6}, top_k=1)
    model.set_params(cross_fit=3, n_jobs=n_jobs)
    with pytest.warns(FitFailedWarning) as caught:
        model.fit(X, Y)
    (warning,) = caught
    assert warning.filename == __file__
    message = str(warning.message)
    for part in (
        " of the 24 models that are experts or judged them could not be fitted ",
        "The first: Expert ",
        "(KNeighborsRegressor(n_neighbors=25)) failed to fit on its ",
        "ValueError: Expected n_neighbors <= n_samples_fit",
        "Use fewer experts or folds, or a learner that needs fewer rows.",
    ):
        assert part in message
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.lower_bounds_).all()


def test_in_sample_experts_fall_back_too():
    model = MoERegressor(KNeighborsRegressor(60), **{**EASY, "n_experts": 6}, top_k=1)
    with pytest.warns(FitFailedWarning, match="of the 6 models .* n_samples_fit"):
        model.set_params(cross_fit=None).fit(X, Y)
    assert np.isfinite(model.predict(X)).all()


def test_a_good_fit_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MoERegressor(KNeighborsRegressor(3), **EASY).fit(X, Y)
        MoEClassifier(GaussianNB(), **EASY).fit(X, LABELS)


def test_a_classifier_that_its_folds_lack_examples_for():
    """Three examples a class are needed; fold 0 holds all but two of class 2."""
    labels = (np.arange(N) % 2).astype(np.intp)
    labels[:5] = 2
    folds = np.arange(N) % 3
    folds[:5] = [0, 0, 0, 1, 2]
    learner = CalibratedClassifierCV(GaussianNB(), cv=3)
    pool = CrossFitPool(classifiers(learner, ["x", "y", "z"]), folds)
    half = Routing.from_labels((np.arange(N) >= 60).astype(np.intp), 2)
    with pytest.raises(ValueError, match=r"Expert 0 .* less than 3 examples"):
        pool.fit(X, labels, half)  # all rows of the fold have too few as well
    folds[:5] = [0, 0, 1, 1, 1]
    folds[100:103], labels[100:103] = 0, 2  # expert 1 helps out
    pool = CrossFitPool(classifiers(learner, ["x", "y", "z"]), folds)
    pool.fit(X, labels, half)
    assert [sorted(one.fallbacks) for one in pool.pools] == [[], [0], []]
    assert "less than 3 examples" in pool.pools[1].fallbacks[0]


class Picky(RegressorMixin, BaseEstimator):
    """A mean that raises on too few rows, or as often as it is asked."""

    n_fits = 0

    def __init__(self, error=ValueError, least=0):
        self.error = error
        self.least = least

    def fit(self, X, y, sample_weight=None):
        Picky.n_fits += 1
        if len(y) < self.least:
            raise self.error("too few")
        self.mean_ = np.mean(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


def test_a_learner_that_fails_on_all_rows_is_an_error():
    pool, n_left = regressors(Picky(least=1000)), int(np.sum(X[:, 0] <= 0))
    message = rf"Expert 0 \(Picky\(least=1000\)\) failed to fit on its {n_left} rows"
    with pytest.raises(ValueError, match=f"{message}: ValueError: too few") as caught:
        pool.fit(X, Y[:, None], halves())
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(ValueError, match=r"failed to fit on its \d+ rows"):
        MoERegressor(Picky(least=1000), **QUICK).fit(X, Y)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TypeError, TypeError),
        (ZeroDivisionError, RuntimeError),
        (KeyboardInterrupt, KeyboardInterrupt),
    ],
)
def test_other_errors_go_up_at_once(error, said):
    pool, Picky.n_fits = regressors(Picky(error, least=N)), 0
    with pytest.raises(said):
        pool.fit(X, Y[:, None], halves())
    assert Picky.n_fits == 1


@pytest.mark.parametrize("learner", [TREE, Ridge()], ids=["tree", "ridge"])
def test_rows_that_lie_in_one_fold(learner):
    """Expert 1 owns rows of fold 0 only: none is left outside to learn from."""
    labels, folds = np.zeros(N, dtype=np.intp), np.arange(N) % 3
    labels[:10], folds[:10] = 1, 0
    routing, y = Routing.from_labels(labels, 2), Y[:, None]
    pool = CrossFitPool(regressors(learner), folds, part_rows=False).fit(X, y, routing)
    answer = pool.evaluate(X, y, routing)
    plain = clone(learner)
    if learner is TREE:
        plain.set_params(random_state=0)
    plain.fit(X[folds != 0], Y[folds != 0])
    np.testing.assert_allclose(answer[:10, 0, 0], plain.predict(X[:10]))
    problem, pool = problem_of(), pool.rescale(y, answer, routing)
    state = begin(problem, SoftmaxGate(), pool, routing)
    result = replace(run(problem, state), resp=routing, pool=pool)
    why = f"Expert 1 ({learner!r}) has no rows outside fold 0."
    found = fallbacks(result, finished(problem, result))
    assert found == [None, why, *[None] * 6]  # three folds and the last fit
    found = fallbacks(result, finished(problem, result, average=True))
    assert found == [None, why, *[None] * (4 if learner is TREE else 6)]


def test_a_group_that_is_an_expert():
    """What sets one group apart cannot be learned from the others."""
    groups = np.repeat([0, 1, 2], 40)
    shift = np.where(groups == 2, 5.0, 0.0)
    table, y = np.column_stack([X, shift]), (Y + shift)[:, None]
    problem = problem_of(y, X=table, X_gate=table, max_iter=8)
    folds = content_folds(replace(problem, groups=groups), 3, 0)
    for part_rows in (False, True):
        pool = CrossFitPool(regressors(TREE), folds, part_rows=part_rows)
        start = initial(problem, "tree", 0, 0)
        result = run(problem, begin(problem, SoftmaxGate(), pool, start))
        found = fallbacks(result, finished(problem, result))
        reasons = [why for why in found if why is not None]
        assert len(reasons) == (0 if part_rows else 1)
    assert whole(groups, folds)


def test_experts_that_own_nothing_are_not_counted():
    problem, nothing = problem_of(), Routing.from_labels(np.zeros(N, np.intp), 2)
    pool = regressors(KNeighborsRegressor(3)).fit(X, Y[:, None], nothing)
    pool = pool.rescale(Y[:, None], pool.evaluate(X, Y[:, None], nothing), nothing)
    state = begin(problem, SoftmaxGate(), pool, nothing)
    result = replace(run(problem, state), resp=nothing, pool=pool)
    assert fallbacks(result, pool) == [None]


def test_a_class_of_fewer_rows_than_folds():
    labels = LABELS.copy()
    labels[:2], labels[2] = "x", "y"
    model = MoEClassifier(CLASS_TREE, **EASY)
    message = (
        r"Class 'x' \(and 1 more classes\) has 2 rows, in 2 of the 3 folds of cross_fit"
        "='auto': its rows are judged by models that saw few or none of them. Use "
    )
    with pytest.warns(UserWarning, match=message) as caught:
        model.fit(X, labels)
    (warning,) = caught
    assert warning.filename == __file__
    assert np.isfinite(model.lower_bounds_).all()
    assert model.predict_proba(X).shape == (N, 4)
    model.set_params(cross_fit=None).fit(X, labels)
    with pytest.warns(UserWarning, match=r"Class 'y' has 1 rows, in 1 of the 2 folds"):
        model.set_params(cross_fit=2).fit(X, labels)


def test_a_class_that_lies_in_one_fold():
    labels = np.where(np.arange(N) < 20, "x", LABELS)
    model = MoEClassifier(CLASS_TREE, cross_fit=KFold(4), **QUICK)
    with pytest.warns(UserWarning, match="Class 'x' has 20 rows, in 1 of the 4 folds"):
        model.fit(X, labels)


def test_rows_that_the_gate_takes_for_equal_are_dealt_out():
    """Towns are all that the gate sees: they must not become the folds."""
    towns = np.repeat(np.eye(3), 40, axis=0)
    labels = (X[:, 0] > 0).astype(np.intp)
    for seen in (X, pd.DataFrame({"x": X[:, 0], "town": np.repeat(list("abc"), 40)})):
        problem = problem_of(labels, X_gate=towns, X=seen)
        folds = content_folds(problem, 3, 0)
        for town in range(3):
            assert len(np.unique(folds[towns[:, town] == 1])) == 3
        twice = np.repeat(np.arange(N), 2)
        again = problem_of(
            labels[twice],
            X_gate=towns[twice],
            X=seen.iloc[twice] if hasattr(seen, "iloc") else seen[twice],
            sample_weight=np.ones(2 * N),
        )
        doubled = content_folds(again, 3, 0)
        np.testing.assert_array_equal(doubled[::2], doubled[1::2])


# ----------------------------------------------------------------------- the end
def test_averaged_models_are_of_five_folds():
    average = {**QUICK, "final": "average"}
    model = MoERegressor(TREE, **average).fit(X, Y)
    loop = MoERegressor(TREE, **{**average, "cross_fit": 3}).fit(X, Y)
    assert model.lower_bound_ == loop.lower_bound_
    assert (model.scale_ != loop.scale_).any()


@pytest.mark.parametrize("n_folds", [None, 4])
@pytest.mark.parametrize("average", [False, True])
def test_finished_by_hand(average, n_folds):
    problem, plain = problem_of(), regressors(DecisionTreeRegressor(random_state=0))
    final = None if n_folds is None else content_folds(problem, n_folds, 1)
    crossed = CrossFitPool(plain, content_folds(problem, 3, 0), final)
    state = begin(problem, SoftmaxGate(), crossed, initial(problem, "tree", 0, 0))
    result = run(problem, state)
    pool = finished(problem, result, average=average)
    mass = result.resp.scaled(problem.sample_weight)
    last = result.pool
    if n_folds is not None:
        last = CrossFitPool(plain, final).fit(X, problem.y, mass)
        last = last.rescale(problem.y, last.evaluate(X, problem.y, result.resp), mass)
    np.testing.assert_array_equal(pool.scale, last.scale)
    if average:
        assert len(pool.pools) == (n_folds or 3)
        expected = np.mean([one.predict(X, mass) for one in last.pools], axis=0)
    else:
        fresh = EstimatorPool(plain.learners, likelihood=plain.likelihood)
        expected = fresh.fit(X, problem.y, mass).predict(X, mass)
    np.testing.assert_allclose(pool.predict(X, mass), expected, rtol=1e-12)


def test_the_averaged_models_are_of_the_best_pass():
    problem = problem_of(max_iter=8)
    plain = regressors(DecisionTreeRegressor(max_features=1, random_state=0))
    plain.slack = 1e9
    crossed = CrossFitPool(plain, content_folds(problem, 3, 0))
    state = begin(problem, SoftmaxGate(), crossed, initial(problem, "random", 0, 0))
    passes = []
    result = run(
        problem, state, lambda: lambda info, state: passes.append(state()) and False
    )
    best = max(passes, key=lambda state: state.bound)
    assert best is not passes[-1]
    averages = finished(problem, result, average=True)
    assert all(a is b for a, b in zip(averages.pools, best.pool.pools, strict=True))


def test_classifiers_are_not_fitted_again_for_scales_that_they_lack(monkeypatch):
    problem = problem_of((LABELS == "b").astype(np.intp))
    final = content_folds(problem, FINAL_FOLDS, 0)
    crossed = CrossFitPool(
        classifiers(CLASS_TREE, ["a", "b"]), content_folds(problem, 3, 0), final
    )
    state = begin(problem, SoftmaxGate(), crossed, initial(problem, "tree", 0, 0))
    monkeypatch.setattr(CrossFitPool, "fit", None)
    assert isinstance(finished(problem, state), EstimatorPool)
    monkeypatch.undo()
    assert len(finished(problem, state, average=True).pools) == FINAL_FOLDS


KINDS = {
    "trees": (MoERegressor(TREE, **QUICK), Y),
    "outputs": (MoERegressor(TREE, **QUICK), np.column_stack([Y, -2 * Y])),
    "sparse": (MoERegressor(TREE, **{**QUICK, "n_experts": 3}, top_k=1), Y),
    "ridge": (MoERegressor(cross_fit=3, **QUICK), Y),
    "ridge, outputs": (MoERegressor(cross_fit=3, **QUICK), np.column_stack([Y, -Y])),
    "class trees": (MoEClassifier(CLASS_TREE, **QUICK), LABELS),
    "logistic": (MoEClassifier(cross_fit=3, **QUICK), LABELS),
    "pipelines": (
        MoERegressor(
            make_pipeline(StandardScaler(), TREE),
            gate=make_pipeline(StandardScaler(), SoftmaxGate()),
            **QUICK,
        ),
        Y,
    ),
}
each_kind = pytest.mark.parametrize("name", KINDS)


@functools.cache
def averaging(name):
    """Return a model to read, not to change, and its target."""
    model, y = KINDS[name]
    return clone(model).set_params(final="average").fit(X, y), y


def answer(model, table=X):
    return getattr(model, "predict_proba", model.predict)(table)


@each_kind
def test_averaged_experts_answer_for_the_mixture(name):
    model, y = averaging(name)
    experts = [answer(expert) for expert in model.experts_]
    if name == "class trees":  # those of a pool are floored besides
        floor = 1e-3 / len(model.classes_)
        experts = [np.maximum(proba, floor) for proba in experts]
    weights = model.route(X).toarray()
    values = np.stack(experts, axis=1).reshape(N, len(experts), -1)
    mean = np.einsum("nk,nkq->nq", weights, values)
    if hasattr(model, "temperature_"):
        mean = mean ** (1.0 / model.temperature_) * np.exp(model.class_bias_)
        mean = mean / mean.sum(axis=1, keepdims=True)
    tolerance = 2e-3 if name == "class trees" else 1e-10
    np.testing.assert_allclose(answer(model).reshape(N, -1), mean, atol=tolerance)
    assert model.score(X, y) > 0.5
    assert np.isfinite(model.score_samples(X, y)).all()


@pytest.mark.slow
@each_kind
def test_averaged_experts_differ_from_refitted_ones(name):
    model, y = averaging(name)
    refit = clone(KINDS[name][0]).fit(X, y)
    assert np.abs(answer(model) - answer(refit)).max() > 1e-6
    if "ridge" not in name:  # the judges of the split go on, but are not averaged
        return
    np.testing.assert_array_equal(model.lower_bounds_, refit.lower_bounds_)
    if hasattr(model, "scale_"):
        np.testing.assert_array_equal(model.scale_, refit.scale_)


@each_kind
def test_averaged_experts_survive_pickle_and_clone(name):
    model, _ = averaging(name)
    restored = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(answer(restored), answer(model))
    for expert in model.experts_:
        assert expert.n_features_in_ == 3
        if "ridge" not in name:
            np.testing.assert_array_equal(answer(clone(expert)), answer(expert))


def test_an_average_of_linear_models_is_linear():
    model, _ = averaging("ridge")
    assert type(model._pool) is LinearPool
    assert all(type(expert) is Ridge for expert in model.experts_)
    assert (
        model._n_parameters()
        == clone(model).set_params(final="refit").fit(X, Y)._n_parameters()
    )


def test_an_average_counts_the_parameters_of_all_its_models():
    problem = problem_of()
    crossed = CrossFitPool(regressors(TREE), content_folds(problem, 3, 0))
    state = begin(problem, SoftmaxGate(), crossed, initial(problem, "tree", 0, 0))
    pool = finished(problem, state, average=True)
    experts = pool.estimators()
    assert all(len(expert.estimators) == 3 for expert in experts)
    leaves = sum(tree.get_n_leaves() for e in experts for tree in e.estimators)
    assert pool.n_parameters == leaves + 2  # and two scales
    assert np.isfinite(averaging("trees")[0].bic(X, Y))


def test_where_auto_judges_in_sample_there_is_nothing_to_average():
    for model, y in ((MoERegressor(**QUICK), Y), (MoEClassifier(**QUICK), LABELS)):
        refit = clone(model).fit(X, y)
        average = clone(model).set_params(final="average").fit(X, y)
        np.testing.assert_array_equal(answer(average), answer(refit))


def test_an_average_needs_folds():
    message = r"final='average' averages .* cross_fit=None makes no folds\. Set"
    for model, y in ((MoERegressor(**QUICK), Y), (MoEClassifier(**QUICK), LABELS)):
        with pytest.raises(ValueError, match=message):
            model.set_params(final="average", cross_fit=None).fit(X, y)
        with pytest.raises(ValueError, match=r"'final' parameter .* Got 'mean'"):
            model.set_params(final="mean").fit(X, y)


@pytest.mark.slow
@each_kind
def test_warm_starts_from_an_average(name):
    model, y = copy.deepcopy(averaging(name))
    before = model.lower_bound_
    model.set_params(warm_start=True).fit(X, y)
    assert model.n_iter_ <= 3
    assert model.lower_bound_ > before - 0.5
    model.set_params(final="refit").fit(X, y)
    assert not isinstance(model._pool, AveragedPool)
    model.set_params(final="average").fit(X, y)
    model.set_params(cross_fit=None, final="refit").fit(X, y)
    assert np.isfinite(answer(model)).all()


# ----------------------------------------------------------------- averaged pools
def three(pool, y, seed=0):
    """Return pools of the same learners, each fitted on other rows and weights."""
    draw = np.random.RandomState(seed)
    found = []
    for _ in range(3):
        fresh = type(pool)(
            pool.learners, likelihood=pool.likelihood, classes=pool.classes
        )
        weights = draw.uniform(0.1, 1.0, (N, 2)) * draw.randint(0, 2, (N, 1))
        found.append(fresh.fit(X, y, Routing.from_dense(weights)))
    return found


POOLS = {
    "trees": lambda: (regressors(TREE), Y[:, None]),
    "ridge": lambda: (regressors(Ridge()), Y[:, None]),
    "class trees": lambda: (
        classifiers(CLASS_TREE, ["a", "b"]),
        (LABELS == "b").astype(np.intp),
    ),
    "logistic": lambda: (
        classifiers(LogisticRegression(), ["a", "b"]),
        (LABELS == "b").astype(np.intp),
    ),
}


@pytest.mark.parametrize("width", ["dense", "sparse"])
@pytest.mark.parametrize("name", POOLS)
def test_averaged_pools_keep_the_contract(name, width):
    pool, y = POOLS[name]()
    pools, others = three(pool, y), three(pool, y, seed=1)
    mean, other = averaged(pools), averaged(others)
    assert type(mean) is (LinearPool if name == "ridge" else AveragedPool)
    routing = everywhere()
    if width == "sparse":
        indices = np.column_stack([np.arange(N) % 2, np.full(N, -1)])
        routing = Routing(indices, np.full((N, 2), [1.0, 0.0]), 2)
    expected = np.mean([one.predict(X, routing) for one in pools], axis=0)
    np.testing.assert_allclose(mean.predict(X, routing), expected, atol=1e-12)
    np.testing.assert_allclose(
        mean.mix(X, routing), routing.combine(expected), atol=1e-12
    )
    values = mean.evaluate(X, y, routing)
    present = routing.indices >= 0
    if pool.classes is None:
        np.testing.assert_allclose(values, expected, atol=1e-12)
    else:
        of_label = np.take_along_axis(expected, y[:, None, None], axis=2)
        np.testing.assert_allclose(values[present], np.log(of_label[present]))
    swapped = mean.swap(other, np.array([False, True]))
    found = swapped.predict(X, everywhere())
    np.testing.assert_allclose(found[:, 0], mean.predict(X, everywhere())[:, 0])
    np.testing.assert_allclose(found[:, 1], other.predict(X, everywhere())[:, 1])
    scaled = mean.rescale(y, values, routing)
    assert (scaled is mean) == (pool.classes is not None)
    assert mean.scale is None
    assert np.isfinite(scaled.log_likelihood(X, y, routing)[present]).all()


def test_an_average_is_not_fitted():
    pool, y = POOLS["trees"]()
    mean = averaged(three(pool, y))
    assert not AveragedPool.supports(TREE, 3)
    with pytest.raises(TypeError, match="AveragedPool holds pools that are fitted"):
        mean.fit(X, y, everywhere())
    assert len(mean.pools) > len(mean.update(X, y, everywhere()).pools) == 1


def test_a_label_that_is_all_but_impossible_keeps_its_logarithm():
    """exp(-2000) is 0 in floating point."""
    labels = (X[:, 0] > 0).astype(np.intp)
    pools = three(classifiers(LogisticRegression(), ["a", "b"]), labels)
    for pool in pools:
        pool.coef, pool.intercept = pool.coef * 0, np.array([[0.0, 2000.0]] * 2)
    mean = averaged(pools)
    assert isinstance(pools[0], LogisticPool)
    values = mean.evaluate(X, np.zeros(N, dtype=np.intp), everywhere())
    np.testing.assert_allclose(values, -2000.0)


def test_models_that_know_other_classes():
    models = [
        DecisionTreeClassifier(max_depth=2).fit(X[rows], labels)
        for rows, labels in (
            (slice(0, 40), np.where(X[:40, 0] > 0, "a", "c")),
            (slice(40, 80), np.where(X[40:80, 0] > 0, "bb", "c")),
            (slice(80, 120), np.full(40, "c")),
        )
    ]
    mean = AveragedClassifier(models)
    assert mean.classes_.tolist() == ["a", "bb", "c"]
    proba = mean.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    np.testing.assert_allclose(proba[:, 0], models[0].predict_proba(X)[:, 0] / 3)
    assert set(mean.predict(X)) <= {"a", "bb", "c"}
    assert mean.fit(X, LABELS) is mean
    assert clone(mean) is mean


def test_a_class_that_folds_did_not_meet():
    labels = LABELS.copy()
    labels[:2] = "x"
    model = MoEClassifier(CLASS_TREE, final="average", **QUICK)
    with pytest.warns(UserWarning, match="Class 'x' has 2 rows"):
        model.fit(X, labels)
    proba = model.predict_proba(X)
    assert proba.shape == (N, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    for expert in model.experts_:
        assert set(expert.classes_) <= {"a", "b", "x"}
        np.testing.assert_allclose(expert.predict_proba(X).sum(axis=1), 1.0)
        assert set(expert.predict(X)) <= set(expert.classes_)


def test_averaged_regressors_of_several_outputs():
    targets = np.column_stack([Y, -Y, 2 * Y])
    models = [clone(TREE).fit(X[a::2], targets[a::2]) for a in (0, 1)]
    mean = AveragedRegressor(models)
    expected = (models[0].predict(X) + models[1].predict(X)) / 2
    np.testing.assert_array_equal(mean.predict(X), expected)
    assert mean.score(X, targets) > 0.5


def test_averages_of_frames():
    frame = pd.DataFrame({"x": X[:, 0], "town": np.repeat(list("abc"), 40)})
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    model = MoERegressor(
        make_pipeline(encoder, TREE),
        gate=make_pipeline(clone(encoder), SoftmaxGate()),
        final="average",
        **QUICK,
    )
    frame["x"] = frame["x"].round().clip(-1, 1)
    model.fit(frame, Y)
    assert np.isfinite(model.predict(frame)).all()
    assert np.isfinite(model.experts_[0].predict(frame)).all()
