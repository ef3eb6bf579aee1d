"""Packed mixtures: the same routes, nearly the same answers, in less memory."""

import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, PoissonRegressor, Ridge
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.packing import pack

FAST = {"n_experts": 8, "n_init": 1, "max_iter": 3, "tol": 1.0, "random_state": 0}
FAST["cross_fit"] = None
X = np.random.RandomState(0).standard_normal((300, 40)) * np.geomspace(1e-3, 1e3, 40)
Z = X / np.geomspace(1e-3, 1e3, 40)  # the same rows in other units
y = np.abs(Z[:, 0]) + Z[:, 1] - Z[:, 39]
LABELS = np.digitize(y, [-1.0, 1.0])


def errors(model, dtype):
    """Return (largest coefficient error, what it may be) of each expert and output."""
    packed = pack(model, dtype)
    coefs = [np.stack([e.coef_ for e in m.experts_]) for m in (model, packed)]
    unit = coefs[0] / np.abs(coefs[0]).max(axis=tuple(range(coefs[0].ndim - 1)))
    difference = np.abs(coefs[1] - coefs[0]) * np.abs(unit) / np.abs(coefs[0])
    most = {"int8": 0.5 / 127, "float16": 2.0**-11}[dtype]
    return difference.max(axis=-1), most * np.abs(unit).max(axis=-1) * (1 + 1e-9)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize("learner", [Ridge(1e-6), LinearRegression()])
def test_coefficients_are_rounded_in_units_of_their_features(learner, dtype):
    model = MoERegressor(learner, **FAST | {"n_experts": 3}).fit(X, y)
    found, most = errors(model, dtype)
    assert np.all(found <= most)
    want = np.stack([expert.coef_ for expert in model.experts_])
    got = np.stack([expert.coef_ for expert in pack(model, dtype).experts_])
    assert not np.array_equal(got, want)


@pytest.mark.parametrize("kind", ["regressor", "classifier", "poisson"])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_routes_are_the_same_and_answers_nearly(kind, dtype):
    if kind == "classifier":
        model = MoEClassifier(**FAST).fit(Z, LABELS)
    elif kind == "regressor":
        model = MoERegressor(**FAST).fit(Z, y)
    else:
        options = FAST | {"likelihood": "poisson"}
        model = MoERegressor(PoissonRegressor(alpha=0.1), **options).fit(Z, LABELS)
    before = pickle.dumps(model)
    packed = pack(model, dtype)
    ask = "predict_proba" if kind == "classifier" else "predict"
    tol = {"int8": 0.1, "float16": 0.01}[dtype]
    for rows in (Z, Z[:2], Z[:1].astype(np.float32)):
        got, want = getattr(packed, ask)(rows), getattr(model, ask)(rows)
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, atol=tol, rtol=tol)
        assert not np.array_equal(got, want)
        np.testing.assert_array_equal(
            packed.route(rows).toarray(), model.route(rows).toarray()
        )
    target = y if kind == "regressor" else LABELS
    scores = packed.score_samples(Z, target), model.score_samples(Z, target)
    assert np.mean(scores[0]) == pytest.approx(np.mean(scores[1]), abs=0.05)
    assert pickle.dumps(model) == before  # the model itself is not touched


def test_a_packed_model_is_small_and_says_the_same_after_pickling():
    model = MoEClassifier(**FAST).fit(Z, LABELS)
    packed = pack(model)
    stored = pickle.dumps(packed)
    assert len(stored) < 0.5 * len(pickle.dumps(model))
    np.testing.assert_array_equal(
        pickle.loads(stored).predict_proba(Z), packed.predict_proba(Z)
    )


def test_experts_are_unpacked_when_asked_for():
    model = MoERegressor(**FAST).fit(Z, y)
    packed = pack(model, "float16")
    assert len(packed.experts_) == 8
    last = packed.experts_[-1]
    np.testing.assert_allclose(last.predict(Z), model.experts_[7].predict(Z), atol=0.01)
    assert len(packed.experts_[2:5]) == 3
    with pytest.raises(IndexError):
        packed.experts_[8]


def test_zero_coefficients_stay_zero():
    model = MoERegressor(Ridge(), **FAST | {"n_experts": 2})
    rows = np.c_[Z[:, 0], np.zeros(len(Z))]
    packed = pack(model.fit(rows, y))
    assert all(expert.coef_[1] == 0 for expert in packed.experts_)
    assert np.isfinite(packed.predict(rows)).all()


def test_experts_can_be_removed_but_not_trained():
    model = pack(MoERegressor(**FAST).fit(Z, y))
    before = pack(MoERegressor(**FAST).fit(Z, y))
    model.remove_experts([0, 3])
    assert len(model.experts_) == 6
    np.testing.assert_array_equal(model.experts_[0].coef_, before.experts_[1].coef_)
    with pytest.raises(TypeError, match="learn no more"):
        model.partial_fit(Z, y)
    with pytest.raises(ValueError, match="warm_start"):
        model.set_params(warm_start=True, n_experts=6).fit(Z, y)


def test_packed_models_go_to_onnx():
    onnxruntime = pytest.importorskip("onnxruntime")
    to_onnx = pytest.importorskip("skmoe.onnx").to_onnx
    model = pack(MoERegressor(**FAST).fit(Z, y))
    session = onnxruntime.InferenceSession(to_onnx(model, Z).SerializeToString())
    (found,) = session.run(None, {"X": Z})
    np.testing.assert_allclose(found[:, 0], model.predict(Z), rtol=1e-9, atol=1e-9)


def test_errors():
    with pytest.raises(NotFittedError):
        pack(MoERegressor())
    model = MoERegressor(**FAST).fit(Z, y)
    with pytest.raises(ValueError, match="got 'int4'"):
        pack(model, "int4")
    trees = MoERegressor(DecisionTreeRegressor(max_depth=2), **FAST).fit(Z, y)
    with pytest.raises(TypeError, match="experts_ of DecisionTreeRegressor"):
        pack(trees)
    with pytest.raises(TypeError, match="pack needs linear"):
        pack(pack(model))
