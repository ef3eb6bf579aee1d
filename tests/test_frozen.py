"""Mixtures over models that exist already: frozen experts, gates and shared experts."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import EstimatorGate, FrozenGate, SoftmaxGate

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

random = np.random.RandomState(0)
X = random.standard_normal((200, 2))
RIGHT = X[:, 0] > 0
Y = np.where(RIGHT, X[:, 1], -X[:, 1]) + 0.1 * random.standard_normal(200)
LABELS = np.where(Y > 0, "high", "low")
QUICK = {"n_init": 1, "max_iter": 3, "random_state": 0}


class Dear(RegressorMixin, BaseEstimator):
    """A model of the second column that cannot be copied, and counts its answers."""

    def __init__(self, sign=1):
        self.sign = sign

    def fit(self, X, y):
        assert not hasattr(self, "n_asked_"), "fitted again"
        self.n_asked_ = 0
        return self

    def predict(self, X):
        self.n_asked_ += len(X)
        return self.sign * X[:, 1]

    def __reduce_ex__(self, protocol):
        raise AssertionError("copied or pickled")


UP, DOWN = Dear(1).fit(X, Y), Dear(-1).fit(X, Y)


def frozen(*models):
    return [FrozenEstimator(model) for model in models]


@pytest.mark.parametrize(
    "params",
    [{}, {"cross_fit": None}, {"n_jobs": 2}, {"cross_fit": 3, "final": "average"}],
    ids=str,
)
def test_experts_stay_the_models_that_they_are(params):
    model = MoERegressor(frozen(UP, DOWN), **{**QUICK, **params}).fit(X, Y)
    assert [expert.estimator for expert in model.experts_] == [UP, DOWN]
    assert model.score(X, Y) > 0.93  # either alone: less than 0
    np.testing.assert_allclose(model.scale_, 0.1, atol=0.02)
    assert model.shrinkage_ == 0.0
    assert clone(model).expert[0].estimator is UP


def test_a_dear_model_is_asked_of_the_training_rows_in_em_and_at_its_end():
    UP.n_asked_ = 0
    model = MoERegressor(frozen(UP, DOWN), cross_fit=None, **QUICK).fit(X, Y)
    assert UP.n_asked_ <= 1 + 2 * len(X)
    UP.n_asked_ = 0
    model.set_params(top_k=1).predict(X)
    assert UP.n_asked_ < len(X)


@pytest.mark.parametrize("params", [{}, {"n_jobs": 2}, {"cross_fit": None}], ids=str)
def test_experts_beside_a_frozen_one_learn(params):
    experts = [*frozen(UP), DecisionTreeRegressor(max_depth=3), Ridge()]
    model = MoERegressor(experts, **QUICK, **params).fit(X, Y)
    assert model.experts_[0].estimator is UP
    assert model.score(X, Y) > 0.9
    answer = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
    weights = model.route(X).toarray()
    np.testing.assert_allclose((weights * answer).sum(axis=1), model.predict(X))


def test_experts_that_are_pulled_leave_frozen_ones_alone():
    noise = random.standard_normal(200)
    experts = [*frozen(UP), DecisionTreeRegressor(max_depth=6)]
    model = MoERegressor(experts, **QUICK).fit(X, noise)
    assert model.shrinkage_ > 0
    assert model.experts_[0].estimator is UP
    answer = np.stack([expert.predict(X) for expert in model.experts_], axis=1)
    weights = model.route(X).toarray()
    np.testing.assert_allclose((weights * answer).sum(axis=1), model.predict(X))


def test_frozen_classifiers():
    sides = [DecisionTreeClassifier(max_depth=3) for _ in range(2)]
    sides[0].fit(X[RIGHT], LABELS[RIGHT])
    sides[1].fit(X[~RIGHT], LABELS[~RIGHT])
    model = MoEClassifier(frozen(*sides), **QUICK).fit(X, LABELS)
    assert [expert.estimator for expert in model.experts_] == sides
    assert model.score(X, LABELS) > 0.95
    mixed = [*frozen(sides[0]), LogisticRegression()]
    assert MoEClassifier(mixed, **QUICK).fit(X, LABELS).score(X, LABELS) > 0.9


def test_a_frozen_model_of_several_labels():
    labels = np.column_stack([X[:, 0] > 0, X[:, 1] > 0]).astype(int)
    trees = [DecisionTreeClassifier(max_depth=d).fit(X, labels) for d in (1, 2)]
    model = MoEClassifier(frozen(*trees), **QUICK).fit(X, labels)
    assert model.experts_[0].estimator_.estimator is trees[0]
    assert model.score(X, labels) == 1.0


def test_pipelines_that_end_in_a_frozen_model():
    inside = StandardScaler().fit(X).transform(X)
    ridge = Ridge().fit(inside[RIGHT], Y[RIGHT])
    piped = make_pipeline(StandardScaler(), FrozenEstimator(ridge))
    model = MoERegressor([piped, Ridge()], **QUICK).fit(X, Y)
    assert model.experts_[0][-1].estimator is ridge
    np.testing.assert_allclose(model.experts_[0].predict(X), ridge.predict(inside))
    assert model.score(X, Y) > 0.9


@pytest.mark.filterwarnings("error:X does not have valid feature names")
def test_a_frozen_pipeline_reads_the_frame_that_it_was_fitted_on():
    frame = pd.DataFrame(X, columns=["side", "slope"])
    up = make_pipeline(make_column_transformer((StandardScaler(), ["slope"])), Ridge())
    down = clone(up).fit(frame[~RIGHT], Y[~RIGHT])
    up.fit(frame[RIGHT], Y[RIGHT])
    model = MoERegressor(frozen(up, down), **QUICK).fit(frame, Y)
    assert model.score(frame, Y) > 0.9


# ------------------------------------------------------------------------- gates
@pytest.mark.parametrize(
    "labels", [RIGHT, RIGHT.astype(int), np.where(RIGHT, "b", "a")]
)
def test_a_frozen_classifier_is_the_gate(labels):
    sides = LogisticRegression(C=1e4).fit(X, labels)
    gate = FrozenEstimator(sides)
    model = MoERegressor(frozen(DOWN, UP), gate=gate, **QUICK).fit(X, Y)
    assert isinstance(model.gate_, EstimatorGate)
    assert model.gate_.estimator_.estimator is sides
    proba = 0.999 * sides.predict_proba(X) + 0.001 * model.gate_.share_
    np.testing.assert_allclose(model.gate_proba(X), proba)
    assert model.score(X, Y) > 0.95
    learned = MoERegressor(n_experts=2, gate=gate, **QUICK).fit(X, Y)
    assert learned.experts_[0].coef_[1] == pytest.approx(-1, abs=0.1)


def test_a_frozen_gate_stays_as_it_is():
    first = MoERegressor(n_experts=2, **QUICK).fit(X, Y)
    model = MoERegressor(
        DecisionTreeRegressor(max_depth=3),
        n_experts=2,
        gate=FrozenEstimator(first.gate_),
        **QUICK,
    ).fit(X, Y)
    assert isinstance(model.gate_, FrozenGate)
    assert model.gate_.estimator.estimator is first.gate_
    np.testing.assert_array_equal(model.gate_proba(X), first.gate_proba(X))
    np.testing.assert_array_equal(model.apply(X), first.apply(X))
    assert model.score(X, Y) > 0.7
    model.remove_experts([0])
    np.testing.assert_array_equal(model.gate_proba(X), 1.0)


def test_a_frozen_pipeline_is_the_gate():
    piped = make_pipeline(StandardScaler(), SoftmaxGate())
    first = MoERegressor(n_experts=2, gate=piped, **QUICK).fit(X, Y)
    again = MoERegressor(n_experts=2, gate=FrozenEstimator(first.gate_), **QUICK)
    again.fit(X, Y)
    np.testing.assert_array_equal(again.gate_proba(X), first.gate_proba(X))
    assert again.gate_[0].estimator is first.gate_[0]


# ----------------------------------------------------------------- shared, streams
def test_a_frozen_shared_expert():
    slope = Ridge().fit(X, Y)
    model = MoERegressor(
        n_experts=3, shared_expert=FrozenEstimator(slope), **QUICK
    ).fit(X, Y)
    assert model.shared_expert_.estimator is slope
    assert model.score(X, Y) > 0.9
    chances = LogisticRegression().fit(X, LABELS)
    model = MoEClassifier(
        n_experts=3, shared_expert=FrozenEstimator(chances), **QUICK
    ).fit(X, LABELS)
    assert model.shared_expert_.estimator is chances


def test_a_stream_does_not_teach_frozen_models():
    up = SGDRegressor().fit(X[RIGHT], Y[RIGHT])
    down = SGDRegressor().fit(X[~RIGHT], Y[~RIGHT])
    coef = up.coef_.copy()
    model = MoERegressor(frozen(up, down), **QUICK)
    for rows in np.split(np.arange(200), 4):
        model.partial_fit(X[rows], Y[rows])
    assert model.experts_[0].estimator is up
    np.testing.assert_array_equal(up.coef_, coef)
    assert model.score(X, Y) > 0.9


# ------------------------------------------------------------------------- errors
ALL = FrozenEstimator(Ridge().fit(X, Y))
FIVE_OR_SIX = FrozenEstimator(LogisticRegression().fit(X, 5 + RIGHT))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"expert": FrozenEstimator(Ridge())}, "expert .* frozen before it was fitted"),
        (
            {"shared_expert": FrozenEstimator(Ridge())},
            "shared_expert .* was froz",
        ),
        ({"gate": FrozenEstimator(SoftmaxGate())}, "gate .* was frozen before it was"),
        ({"gate": ALL}, r"gate must be .*, which has no log_proba, route"),
        ({"expert": ALL, "shared_expert": Ridge()}, "frozen and predicts y.*residuals"),
        (
            {"expert": FrozenEstimator(Ridge().fit(X[:, :1], Y))},
            r"Expert 0 \(FrozenEstimator.* failed to answer: .* 2 features, but Ridge",
        ),
        (
            {"expert": FrozenEstimator(Ridge().fit(X, np.column_stack([Y, Y])))},
            r"Expert 0 .* answered shape \(\d+, 2\) for \d+ rows; it must be",
        ),
        (
            {
                "gate": FIVE_OR_SIX,
                "n_experts": 3,
            },
            r"gate .* has classes_ \[5, 6\], which are not n_experts=3 experts",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_models_that_will_not_do(params, message):
    model = MoERegressor(**{"n_experts": 2, **QUICK, **params})
    with pytest.raises((ValueError, RuntimeError, NotFittedError), match=message):
        model.fit(X, Y)


def test_more_that_will_not_do():
    other = LogisticRegression().fit(X, np.where(RIGHT, "yes", "no"))
    model = MoEClassifier(FrozenEstimator(other), n_experts=2, **QUICK)
    message = r"Expert 0 .* classes_ that y holds, \['high', 'low'\]; it has .*'yes'"
    with pytest.raises(ValueError, match=message):
        model.fit(X, LABELS)
    gate = MoERegressor(n_experts=2, **QUICK).fit(X, Y).gate_
    model = MoERegressor(n_experts=3, gate=FrozenEstimator(gate), **QUICK)
    with pytest.raises(ValueError, match=r"gate .* for 2 experts; .*n_experts=3"):
        model.fit(X, Y)
    model = MoERegressor(frozen(UP, DOWN), **QUICK).fit(X, Y)
    with pytest.raises(ValueError, match="cannot add to frozen experts"):
        model.add_experts(1, X, Y)
