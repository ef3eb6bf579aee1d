"""Mixtures on arrays of other libraries, and the parameter `backend`."""

import pickle
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec

import array_api_strict as strict
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

import skmoe.backends
from skmoe import MoEClassifier, MoERegressor
from skmoe.backends import _reference, select, to_host, using
from skmoe.gates import SoftmaxGate

DEVICE = strict.Device("device1")
READS = ("__float__", "__int__", "__bool__", "__index__", "__dlpack__", "__array__")

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]


def data(n=120, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = np.where(X[:, 0] > 0, X[:, 1], -X[:, 2]) + 0.1 * rng.normal(size=n)
    return X, y, np.digitize(y, [-0.5, 0.5])


COMMON = {
    "n_experts": 3,
    "cross_fit": None,
    "n_init": 1,
    "max_iter": 2,
    "random_state": 0,
}
HELD_OUT = {**COMMON, "cross_fit": "auto"}
MIXTURES = {
    "ridge": MoERegressor(**COMMON),
    "ridge dense": MoERegressor(top_k=None, **COMMON),
    "ridge held out": MoERegressor(**HELD_OUT),
    "ridge cross-fitted": MoERegressor(top_k=1, **{**COMMON, "cross_fit": 3}),
    "ridge without intercept": MoERegressor(Ridge(fit_intercept=False), **COMMON),
    "constant gate": MoERegressor(gate="constant", **COMMON),
    "logistic": MoEClassifier(**COMMON),
    "logistic dense": MoEClassifier(top_k=None, **COMMON),
    "logistic held out": MoEClassifier(**HELD_OUT),
    "trees": MoERegressor(DecisionTreeRegressor(max_depth=3), **HELD_OUT),
    "tree classifiers": MoEClassifier(DecisionTreeClassifier(max_depth=3), **COMMON),
    "mixed": MoEClassifier(
        [DecisionTreeClassifier(max_depth=2), LogisticRegression(), None][:2],
        **{**HELD_OUT, "n_experts": 2},
    ),
}
PARAMS = [pytest.param(model, id=name) for name, model in MIXTURES.items()]
SLOW = {"ridge held out", "ridge cross-fitted", "logistic held out", "mixed"}
SOME_SLOW = [
    pytest.param(model, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
    for name, model in MIXTURES.items()
]


def target(model):
    _, y, labels = data()
    return labels if isinstance(model, MoEClassifier) else y


# ------------------------------------------------------------------ a fake device
@pytest.fixture
def guarded(monkeypatch):
    """Let nothing but `to_device` read the numbers of an array on the device."""
    kind = type(strict.asarray([1.0]))

    def guard(name):
        read = getattr(kind, name)

        def refuse(self, *args, **kwargs):
            if self.device == DEVICE:
                raise AssertionError(f"{name} reads an array on the device")
            return read(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, refuse)

    for name in READS:
        if hasattr(kind, name):
            guard(name)


def put(array):
    return strict.asarray(array, device=DEVICE)


def test_the_guard_refuses_silent_reads(guarded):
    array = put(np.ones(1))
    for read in (float, int, bool, np.from_dlpack, np.asarray):
        with pytest.raises(AssertionError, match="reads an array on the device"):
            read(array)
    assert to_host(array).tolist() == [1.0]
    with pytest.raises(ValueError, match="device"):
        array + strict.ones(1)


@pytest.mark.parametrize("model", SOME_SLOW)
def test_a_device_gives_the_answers_of_the_host(guarded, model):
    X, y = data()[0], target(model)
    weight = np.random.default_rng(1).integers(0, 3, size=len(y)).astype(float)
    host = clone(model).fit(X, y, sample_weight=weight)
    there = clone(model).fit(put(X), put(y), sample_weight=put(weight))
    assert_array_equal(there.lower_bounds_, host.lower_bounds_)
    names = ["predict", "gate_proba", "apply"]
    names += ["predict_proba", "predict_log_proba"] * hasattr(host, "classes_")
    for name in names:
        answer = getattr(there, name)(put(X))
        assert answer.device == DEVICE
        assert_array_equal(to_host(answer), getattr(host, name)(X))
        assert_array_equal(getattr(there, name)(X), getattr(host, name)(X))
    scores = there.score_samples(put(X), put(y))
    assert scores.device == DEVICE
    assert_array_equal(to_host(scores), host.score_samples(X, y))
    for found, expected in (
        (there.route(put(X)), host.route(X)),
        (there.responsibilities(put(X), put(y)), host.responsibilities(X, y)),
    ):
        assert_array_equal(found.toarray(), expected.toarray())


def test_a_model_trained_on_a_device_predicts_without_one(guarded):
    X, y, _ = data()
    model = MoERegressor(**COMMON).fit(put(X), put(y))
    code = (
        "import pickle, sys, numpy as np; "
        "model, X = pickle.load(sys.stdin.buffer); "
        "assert 'array_api_strict' not in sys.modules; "
        "sys.stdout.write(repr(float(model.predict(X).sum())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps((model, X)), check=True,
        capture_output=True,
    )  # fmt: skip
    assert float(done.stdout) == pytest.approx(model.predict(X).sum(), rel=1e-12)


def test_float32_on_a_device_stays_float32(guarded):
    X, y, _ = data()
    X = put(X.astype(np.float32))
    model = MoERegressor(**COMMON).fit(X, put(y))
    assert model.predict(X).dtype == strict.float32
    assert model.predict(put(np.ones((2, 4), dtype=int))).dtype == strict.float64


def test_warm_start_on_a_device(guarded):
    X, y, _ = data()
    model = MoERegressor(warm_start=True, **COMMON).fit(put(X), put(y))
    before = model.lower_bound_
    assert model.fit(put(X), put(y)).lower_bound_ >= before


@pytest.mark.parametrize("model", [PARAMS[0], PARAMS[6]])
def test_bad_input_on_a_device(guarded, model):
    X, y = data()[0], target(model)
    with pytest.raises(NotFittedError):
        clone(model).predict(put(X))
    for bad in (np.nan, np.inf):
        worse = X.copy()
        worse[3, 1] = bad
        with pytest.raises(ValueError, match="X contains NaN or infinity"):
            clone(model).fit(put(worse), put(y))
    with pytest.raises(ValueError, match=r"X must be a 2D array .* got shape \(120,\)"):
        clone(model).fit(put(X[:, 0]), put(y))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        clone(model).fit(put(X), put(y[:-1]))
    fitted = clone(model).fit(put(X), put(y))
    with pytest.raises(ValueError, match=r"X has 3 features, but .* is expecting 4"):
        fitted.predict(put(X[:, :3]))


def test_a_pipeline_does_not_get_device_arrays():
    X, y, _ = data()
    model = MoERegressor(make_pipeline(StandardScaler(), Ridge()), **COMMON)
    with pytest.raises(TypeError, match="a Pipeline among gate and experts"):
        model.fit(put(X), put(y))
    model = MoERegressor(gate=make_pipeline(StandardScaler(), SoftmaxGate()), **COMMON)
    with pytest.raises(TypeError, match="a Pipeline among gate and experts"):
        model.fit(put(X), put(y))
    with pytest.raises(TypeError, match="a Pipeline among gate and experts"):
        model.set_params(backend="cupy").fit(X, y)


def test_a_sparse_matrix_does_not_go_to_a_device():
    X, y, _ = data()
    with pytest.raises(TypeError, match="sparse matrices stay on the host"):
        MoERegressor(backend="cupy", **COMMON).fit(sparse.csr_array(X), y)


# ------------------------------------------------------------------------ PyTorch
@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("model", [p for p in PARAMS if "Tree" not in repr(p.values)])
def test_torch_gives_the_answers_of_the_host(model):
    import torch

    X, y = data()[0], target(model)
    host = clone(model).fit(X, y)
    there = clone(model).fit(torch.asarray(X), torch.asarray(y))
    assert_allclose(there.lower_bounds_, host.lower_bounds_, rtol=1e-8)
    answer = there.predict(torch.asarray(X))
    assert isinstance(answer, torch.Tensor)
    assert_allclose(answer.numpy(), host.predict(X), atol=1e-7)
    scores = there.score_samples(torch.asarray(X), torch.asarray(y))
    assert_allclose(scores.numpy(), host.score_samples(X, y), atol=1e-7)


# ------------------------------------------------------------------------ backend
FORMS = {
    "float64-dense": (np.float64, np.asarray),
    "float32-csr": (np.float32, sparse.csr_array),
    "float32-dense": (np.float32, np.asarray),
    "float64-csr": (np.float64, sparse.csr_array),
}


def by_default(model, form):
    """Tell whether a pair runs by default: all models, and CSR for a few of them."""
    return form == "float64-dense" or (
        form == "float32-csr" and model in ("ridge", "logistic", "trees")
    )


@pytest.mark.parametrize(
    ("model", "dtype", "form"),
    [
        pytest.param(
            model,
            *pair,
            id=f"{name}-{form}",
            marks=[] if by_default(name, form) else pytest.mark.slow,
        )
        for name, model in MIXTURES.items()
        for form, pair in FORMS.items()
    ],
)
def test_backends_agree(model, dtype, form):
    X, y = data()[0].astype(dtype), target(model)
    X = form(np.where(np.abs(X) > 0.2, X, 0).astype(dtype))
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    fitted = clone(model).set_params(backend="numpy").fit(X, y)
    other = pickle.loads(pickle.dumps(fitted)).set_params(backend="numba")
    for name in ("predict", "gate_proba"):
        answers = getattr(fitted, name)(X), getattr(other, name)(X)
        assert answers[0].dtype == answers[1].dtype
        assert_allclose(*answers, rtol=tolerance, atol=tolerance)
    scores = fitted.score_samples(X, y), other.score_samples(X, y)
    assert_allclose(*scores, rtol=tolerance, atol=30 * tolerance)
    if "Tree" in repr(model) or dtype == np.float32:
        return  # a split or a stop may hang on the last digit
    refitted = clone(model).set_params(backend="numba").fit(X, y)
    assert_allclose(refitted.lower_bound_, fitted.lower_bound_, atol=1e-6)


def test_backend_is_checked():
    X, y, _ = data()
    with pytest.raises(ValueError, match=r"'backend' parameter .* Got 'cuda' instead"):
        MoERegressor(backend="cuda").fit(X, y)


@pytest.mark.skipif(find_spec("cupy") is not None, reason="CuPy is installed")
def test_cupy_that_is_missing():
    X, y, _ = data()
    model = MoERegressor(**COMMON).fit(X, y)
    before = dict(vars(model))
    with pytest.raises(ImportError, match=r"needs CuPy.*pip install skmoe\[gpu\]"):
        model.set_params(backend="cupy").fit(X, y)
    assert {**vars(model), "backend": "auto"} == before
    with pytest.raises(ImportError, match="needs CuPy"):
        model.predict(X)


def test_numpy_input_is_moved_once_and_answers_come_back(monkeypatch, guarded):
    X, y, _ = data()
    moved = []

    def to_device(array):
        moved.append(array.shape)
        return put(array)

    monkeypatch.setattr("skmoe.estimators._rows.to_device", to_device)
    model = MoERegressor(backend="cupy", **COMMON).fit(X, y)
    assert moved == [X.shape]
    plain = MoERegressor(backend="numpy", **COMMON).fit(X, y)
    for name in ("predict", "gate_proba", "apply"):
        answer = getattr(model, name)(X)
        assert isinstance(answer, np.ndarray)
        assert_array_equal(answer, getattr(plain, name)(X))
    assert moved == [X.shape] * 4
    assert isinstance(model.score_samples(X, y), np.ndarray)


def test_auto_takes_numba_where_the_rows_repay_it(monkeypatch):
    monkeypatch.setattr(skmoe.backends, "NUMBA_FROM", 1000)
    small, large = np.zeros((9, 100)), np.zeros((11, 100))
    assert select(small) is _reference
    assert select(large) is not _reference
    with using("auto", 999):
        assert select(large) is _reference
    with using("numba", 1):
        assert select(small) is not _reference
        with using("numpy", 10**9):
            assert select(large) is _reference
        assert select(put(large)) is _reference


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_any_n_jobs_gives_the_same_bits(backend):
    X, y, _ = data(5_000)
    options = {**COMMON, "backend": backend, "n_init": 1}
    one = MoERegressor(n_jobs=1, **options).fit(X, y)
    two = MoERegressor(n_jobs=2, **options).fit(X, y)
    assert_array_equal(one.predict(X), two.predict(X))
    assert_array_equal(one.lower_bounds_, two.lower_bounds_)


@pytest.mark.parametrize(("backend", "top_k"), [("numpy", None), ("numba", 2)])
def test_sparse_rows_are_never_made_dense(backend, top_k):
    n, d = 1500, 40_000  # 480 MB if dense
    rng = np.random.default_rng(0)
    columns = rng.integers(0, d, size=(n, 5))
    data = (np.ones(5 * n), columns.ravel(), np.arange(0, 5 * n + 1, 5))
    X = sparse.csr_array(data, shape=(n, d))
    y = (columns % 2).sum(axis=1) > 2
    gate = SoftmaxGate(max_iter=5, update_iter=2)
    options = {
        "n_experts": 3,
        "top_k": top_k,
        "gate": gate,
        "init": "tree",
        "tol": 10.0,
    }
    options |= {"cross_fit": None, "n_init": 1, "max_iter": 2}
    model = MoEClassifier(LogisticRegression(tol=1), **options)
    tracemalloc.start()
    try:
        model.set_params(backend=backend).fit(X, y).predict_proba(X)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250e6


# ------------------------------------------------------------------------ latency
def test_a_row_is_checked_once_and_needs_no_numba():
    code = """if True:
        import sys, warnings
        import numpy as np
        from sklearn.utils import validation
        warnings.simplefilter("ignore")
        from skmoe import MoEClassifier
        from skmoe.estimators import _rows
        X = np.random.default_rng(0).normal(size=(90, 3))
        model = MoEClassifier(n_experts=2, cross_fit=None, n_init=1, max_iter=2)
        model.fit(X, X[:, 0] > 0)
        calls = []
        check = _rows.check_array
        def counted(*args, **kwargs):
            calls.append(1)
            return check(*args, **kwargs)
        _rows.check_array = validation.check_array = counted
        model.predict_proba(X[:1])
        assert len(calls) == 1, calls
        assert "numba" not in sys.modules
        """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_assume_finite_is_honoured():
    X, y, _ = data()
    model = MoERegressor(**COMMON, gate=SoftmaxGate()).fit(X, y)
    row = np.array([[np.nan, 0.0, 0.0, 0.0]])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(row)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(put(row))
    with config_context(assume_finite=True):
        assert np.isnan(model.predict(row)).all()
        assert np.isnan(to_host(model.predict(put(row)))).all()
