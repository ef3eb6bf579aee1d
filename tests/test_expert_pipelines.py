"""Pipelines of linear experts: steps fitted once, last steps trained together."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectFromModel, SelectKBest, f_regression
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.model_selection import LeaveOneOut
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    OneHotEncoder,
    StandardScaler,
    TargetEncoder,
)

from skmoe import MoEClassifier, MoERegressor
from skmoe.experts import EstimatorPool, GLMPool, LinearPool, LogisticPool
from skmoe.experts import _linear_pool as linear_pool
from skmoe.gates import SoftmaxGate
from skmoe.packing import pack

pytestmark = pytest.mark.usefixtures("quick_choices")

N = 240
RANDOM = np.random.RandomState(0)
X = RANDOM.normal(size=(N, 3))
SIDE = X[:, 0] > 0
Y = np.where(SIDE, 2 * X[:, 1], 1 - X[:, 1]) + 0.1 * RANDOM.normal(size=N)
LABELS = np.array(["no", "yes"])[(Y > 0.4).astype(int)]
COUNTS = RANDOM.poisson(np.exp(np.clip(Y, -2, 2)))
NAMES = ["side", "slope", "noise"]
FRAME = pd.DataFrame(X, columns=NAMES)

FEW = {"n_experts": 2, "n_init": 1, "max_iter": 4, "tol": 10.0, "random_state": 0}
CHOICE = ColumnTransformer([("choice", "passthrough", [0, 1, 2])])
KINDS = {
    "ridge": (MoERegressor, Ridge(0.5), {}, Y, LinearPool),
    "linear": (MoERegressor, LinearRegression(), {}, Y, LinearPool),
    "logistic": (MoEClassifier, LogisticRegression(), {}, LABELS, LogisticPool),
    "poisson": (
        MoERegressor,
        PoissonRegressor(alpha=0.1),
        {"likelihood": "poisson"},
        COUNTS,
        GLMPool,
    ),
}


def regressor(expert, **options):
    return MoERegressor(expert, **{**FEW, **options})


def scaled(last=None):
    return make_pipeline(StandardScaler(), Ridge() if last is None else last)


def answers(model, X):
    ask = "predict_proba" if hasattr(model, "classes_") else "predict"
    return getattr(model, ask)(X)


def are_grouped(model):
    return not isinstance(model._pool, EstimatorPool)


# ----------------------------------------------------------- as without the steps
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gate", ["softmax", make_pipeline(CHOICE, SoftmaxGate())])
def test_a_choice_of_columns_is_the_same_mixture(kind, gate):
    moe, learner, options, y, pool = KINDS[kind]
    plain = moe(learner, **FEW, **options).fit(X, y)
    model = moe(make_pipeline(CHOICE, learner), gate=gate, **FEW, **options).fit(X, y)
    assert type(model._pool) is pool
    np.testing.assert_array_equal(answers(model, X), answers(plain, X))
    assert model.routed_bound_ == plain.routed_bound_
    for ours, theirs in zip(model.experts_, plain.experts_, strict=True):
        assert isinstance(ours, Pipeline)
        np.testing.assert_allclose(answers(ours, X), answers(theirs, X), rtol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {"cross_fit": 3},
        {"cross_fit": LeaveOneOut()},
        {"cross_fit": 3, "final": "average"},
        {"cross_fit": 3, "shared_expert": "auto"},
        {"likelihood": "student_t"},
    ],
    ids=str,
)
def test_options_mean_what_they_mean_without_the_steps(options):
    plain = regressor(Ridge(), **options).fit(X, Y)
    model = regressor(make_pipeline(CHOICE, Ridge()), **options).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    said = [expert.predict(X) for expert in model.experts_]
    expected = [expert.predict(X) for expert in plain.experts_]
    np.testing.assert_allclose(said, expected, rtol=1e-12, atol=1e-12)


def test_several_outputs_and_gates():
    both = np.column_stack([Y, -X[:, 2]])
    options = {"gate_per_output": True, "cross_fit": None}
    plain = regressor(Ridge(), **options).fit(X, both)
    model = regressor(make_pipeline(CHOICE, Ridge()), **options).fit(X, both)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.experts_[0].predict(X).shape == (N, 2)


def test_learners_of_wide_rows_share_the_steps(monkeypatch):
    monkeypatch.setattr(linear_pool, "MAX_FEATURES", 2)
    plain = regressor(Ridge(), cross_fit=None).fit(X, Y)
    model = regressor(make_pipeline(CHOICE, Ridge()), cross_fit=None).fit(X, Y)
    assert isinstance(model._pool, EstimatorPool)
    assert model.experts_[0][0] is model.experts_[1][0]
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


# ------------------------------------------------------------------ what they read
def test_steps_are_fitted_once_on_all_rows():
    model = regressor(scaled()).fit(X, Y)
    first, second = model.experts_
    assert first[0] is second[0]
    np.testing.assert_allclose(first[0].mean_, X.mean(axis=0), atol=1e-12)
    before = regressor(Ridge()).fit(StandardScaler().fit_transform(X), Y)
    assert model.score(X, Y) == pytest.approx(
        before.score(StandardScaler().fit_transform(X), Y), abs=0.01
    )


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array, pd.DataFrame])
def test_equal_steps_of_gate_and_experts_are_one(make):
    rows = make(X)
    gate = make_pipeline(MaxAbsScaler(), SoftmaxGate())
    expert = make_pipeline(MaxAbsScaler(), Ridge())
    model = regressor(expert, gate=gate, cross_fit=None).fit(rows, Y)
    again = pickle.loads(pickle.dumps(model))
    for one in (model, again):
        assert one.gate_[0] is one.experts_[0][0]
        X_gate, X_expert = one._views(rows)
        assert X_gate is X_expert
    other = Pipeline([("largest", MaxAbsScaler()), ("gate", SoftmaxGate())])
    apart = regressor(expert, gate=other, cross_fit=None).fit(rows, Y)
    assert apart.gate_[0] is not apart.experts_[0][0]
    np.testing.assert_array_equal(apart.predict(rows), model.predict(rows))


@pytest.mark.parametrize("container", ["default", "pandas"])
def test_experts_read_data_frames_by_name(container):
    see = make_column_transformer((StandardScaler(), ["slope", "side"]))
    see.set_output(transform=container)
    gate = make_pipeline(
        make_column_transformer(("passthrough", ["side"])), SoftmaxGate()
    )
    model = regressor(make_pipeline(see, LinearRegression()), gate=gate)
    text = FRAME.assign(word=np.where(SIDE, "right", "left"))
    model.fit(text, Y)
    assert are_grouped(model)
    assert model.score(text, Y) > 0.9
    routing = model.route(text).toarray()
    said = np.column_stack([expert.predict(text) for expert in model.experts_])
    np.testing.assert_allclose((routing * said).sum(axis=1), model.predict(text))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array])
def test_rows_keep_container_and_dtype(dtype, make):
    rows = make(X.astype(dtype))
    scaler = make_pipeline(MaxAbsScaler(), Ridge())
    gate = make_pipeline(MaxAbsScaler(), SoftmaxGate())
    model = regressor(scaler, gate=gate, cross_fit=None).fit(rows, Y)
    _, seen = model._views(rows)
    assert sparse.issparse(seen) == sparse.issparse(rows)
    assert seen.dtype == model.predict(rows).dtype == dtype
    assert model.score(rows, Y) > 0.9


def test_indicators_stay_sparse():
    shop = pd.DataFrame({"shop": RANDOM.randint(0, 5, N).astype(str), "side": X[:, 0]})
    y = np.where(SIDE, 1, -1) * shop["shop"].astype(float)
    encoder = make_column_transformer((OneHotEncoder(), ["shop"]), sparse_threshold=1.0)
    gate = make_pipeline(
        make_column_transformer(("passthrough", ["side"])), SoftmaxGate()
    )
    model = regressor(make_pipeline(encoder, Ridge(0.1)), gate=gate).fit(shop, y)
    assert are_grouped(model)
    assert sparse.issparse(model._views(shop)[1])
    assert model.score(shop, y) > 0.9


def test_sample_weights_reach_the_steps():
    weight = RANDOM.randint(1, 4, N)
    twice = np.repeat(np.arange(N), weight)
    gate = make_pipeline(StandardScaler(), SoftmaxGate())
    weighted = regressor(scaled(), gate=gate).fit(X, Y, sample_weight=weight)
    repeated = regressor(scaled(), gate=gate).fit(X[twice], Y[twice])
    for a, b in [
        (weighted.experts_[0][0], repeated.experts_[0][0]),
        (weighted.gate_[0], repeated.gate_[0]),
    ]:
        np.testing.assert_allclose(a.mean_, b.mean_, atol=1e-12)
    np.testing.assert_allclose(weighted.predict(X), repeated.predict(X), atol=1e-6)


def test_numbers_that_steps_break_are_refused():
    logarithm = make_pipeline(FunctionTransformer(np.log), Ridge())
    with np.errstate(invalid="ignore"):
        with pytest.raises(
            ValueError, match=r"expert: .*behind its steps contains NaN"
        ):
            regressor(logarithm).fit(X, Y)
        model = regressor(logarithm).fit(np.abs(X) + 1, Y)
        with pytest.raises(
            ValueError, match=r"expert: .*behind its steps contains NaN"
        ):
            model.predict(X)
    few = make_pipeline(FunctionTransformer(lambda Z: Z[1:]), Ridge())
    with pytest.raises(ValueError, match=r"expert: .*inconsistent numbers of samples"):
        regressor(few).fit(X, Y)


# -------------------------------------------------------------------- which share
class ReadsTarget(TransformerMixin, BaseEstimator):
    """A transformer whose fit needs y, and whose tags are silent."""

    def fit(self, X, y):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X


LEARN_FROM_Y = [
    SelectKBest(f_regression, k=2),
    SelectFromModel(Lasso(0.01)),
    ReadsTarget(),
    make_column_transformer((TargetEncoder(target_type="continuous"), [2])),
    FeatureUnion(
        [("scaled", StandardScaler()), ("best", SelectKBest(f_regression, k=1))]
    ),
]


@pytest.mark.parametrize("step", LEARN_FROM_Y, ids=lambda step: type(step).__name__)
def test_steps_that_learn_from_y_are_fitted_by_each_expert(step):
    model = regressor(make_pipeline(step, Ridge()), cross_fit=None).fit(X, Y)
    assert isinstance(model._pool, EstimatorPool)
    assert model.experts_[0][0] is not model.experts_[1][0]


def test_a_pipeline_in_a_pipeline_is_one_learner():
    model = regressor(make_pipeline(scaled()), cross_fit=None).fit(X, Y)
    assert isinstance(model._pool, EstimatorPool)
    means = [expert[0][0].mean_ for expert in model.experts_]
    assert np.abs(means[0] - means[1]).max() > 0.1


def test_frozen_steps_learn_nothing():
    best = SelectKBest(f_regression, k=2).fit(X, Y)
    model = regressor(make_pipeline(FrozenEstimator(best), Ridge())).fit(X, Y)
    assert are_grouped(model)
    assert model.experts_[0][0].estimator is best


def test_lists_share_equal_steps():
    options = {"n_experts": None, "cross_fit": None}
    same = [scaled(Ridge(0.1)), scaled(LinearRegression())]
    model = regressor(same, **options).fit(X, Y)
    assert are_grouped(model)
    last = [type(expert[-1]) for expert in model.experts_]
    assert last == [Ridge, LinearRegression]
    for others in (
        [scaled(), make_pipeline(PCA(2), Ridge())],
        [scaled(), Ridge()],
        [scaled(), scaled(PoissonRegressor())],
    ):
        model = regressor(others, **options).fit(X, Y - Y.min())
        assert isinstance(model._pool, EstimatorPool)


@pytest.mark.parametrize(
    "other", [{"shared_expert": Ridge()}, {"noise_expert": Ridge()}]
)
def test_learners_beside_the_experts_read_rows_without_the_steps(other):
    model = regressor(scaled(), cross_fit=None, **other).fit(X, Y)
    assert model.score(X, Y) > 0.5
    assert model._pool.before is None


# ------------------------------------------------------------------ life of a model
def test_warm_starts_keep_the_steps():
    model = regressor(scaled(), warm_start=True).fit(X, Y)
    steps = model.experts_[0][0]
    model.fit(X + 1, Y)
    assert model.experts_[0][0] is steps
    for expert in (Ridge(), make_pipeline(PCA(2), Ridge())):
        with pytest.raises(ValueError, match="steps of the previous fit"):
            model.set_params(expert=expert).fit(X, Y)
    model.set_params(expert=scaled(Ridge(2))).fit(X, Y)
    assert model.experts_[0][0] is steps


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
def test_streams(kind):
    moe, learner, _, y, _ = KINDS[kind]
    plain = moe(learner, **FEW)
    model = moe(make_pipeline(CHOICE, learner), **FEW)
    options = {"classes": ["no", "yes"]} if kind == "logistic" else {}
    for rows in np.array_split(np.arange(N), 4):
        plain.partial_fit(X[rows], y[rows], **options)
        model.partial_fit(X[rows], y[rows], **options)
    close = np.testing.assert_array_equal if options else np.testing.assert_allclose
    close(answers(model, X), answers(plain, X))
    close(model.experts_[0].predict(X), plain.experts_[0].predict(X))


def test_more_and_fewer_experts():
    plain = regressor(Ridge()).fit(X, Y).add_experts(1, X, Y)
    model = regressor(make_pipeline(CHOICE, Ridge())).fit(X, Y).add_experts(1, X, Y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert all(isinstance(expert, Pipeline) for expert in model.experts_)
    model.remove_experts(0)
    assert len(model.experts_) == 2
    assert np.isfinite(model.predict(X)).all()


def test_copies_in_files_and_in_few_bits():
    model = regressor(scaled()).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    small = pack(model)
    np.testing.assert_allclose(small.predict(X), model.predict(X), atol=0.05)
    said = small.experts_[1].predict(X)
    np.testing.assert_allclose(said, model.experts_[1].predict(X), atol=0.05)


def test_cached_steps(tmp_path):
    steps = [("scale", StandardScaler()), ("last", Ridge())]
    model = regressor(Pipeline(steps, memory=str(tmp_path))).fit(X, Y)
    assert model.experts_[0].memory == str(tmp_path)
    plain = regressor(Pipeline(steps)).fit(X, Y)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
