"""The Numba backend against the reference, which is its specification."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmoe.backends import _numba, _reference
from skmoe.backends._numba import _kernels, _operations
from skmoe.gates._layout import tree_of

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
KINDS = ("random", "tied", "extreme", "masked", "dead", "nan", "nan expert")


class Problem:
    """Inputs of every operation: their shape, the kind of their scores, a dtype.

    ``form`` is "dense" or the dtype of the indices of a CSR matrix.
    """

    def __init__(
        self, n=23, d=4, K=6, m=3, q=2, kind="random", dtype="float64", form="dense",
        seed=0, k=None,
    ):  # fmt: skip
        self.n, self.d, self.K, self.m, self.q = n, d, K, m, q
        self.kind, self.dtype, self.form = kind, np.dtype(dtype), form
        self.rng = np.random.default_rng(seed)
        self.indices = self.rng.integers(-1, max(1, K - 1), size=(n, m))
        self.k = min(k or K, K)

    def __repr__(self):
        names = ("n", "d", "K", "m", "q", "kind", "dtype", "form", "k")
        return f"Problem({', '.join(f'{a}={getattr(self, a)!s}' for a in names)})"

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def weights(self, *shape):
        return self.rng.random(shape).astype(self.dtype)

    def put(self, X):
        """Return X in the form; what CSR leaves out are zeros."""
        X = X.astype(self.dtype)
        if self.form == "dense":
            return X
        X[self.rng.random(X.shape) < 0.4] = 0.0
        X = sparse.csr_array(X)
        X.indices, X.indptr = X.indices.astype(self.form), X.indptr.astype(self.form)
        return X

    def features(self):
        return self.put(self.normal(self.n, self.d))

    def gate(self):
        """Return X, coef and intercept whose logits are of the kind."""
        rng, K, d = self.rng, self.K, self.d
        X, coef = rng.normal(size=(self.n, d)), rng.normal(size=(K, d))
        intercept = rng.normal(size=K)
        if self.kind == "tied":  # whole numbers, whose sums are exact in any order
            X, coef = rng.integers(-1, 2, size=X.shape), rng.integers(-1, 2, (K, d))
            intercept = rng.integers(0, 2, size=K)
        elif self.kind == "extreme":
            X, coef = np.sign(X), np.zeros((K, d))
            coef[:, 0] = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=K)
        elif self.kind == "masked":
            intercept[1::2] = -np.inf
        elif self.kind == "dead":
            intercept[:] = -np.inf
        elif self.kind == "nan":
            X[::2, 0] = np.nan
        elif self.kind == "nan expert":
            intercept[0], intercept[1::2] = np.nan, -np.inf
        return self.put(X), coef.astype(float), intercept.astype(float)

    def pool(self, infinite=False):
        coef = self.rng.normal(size=(self.K, self.q, self.d))
        intercept = self.rng.normal(size=(self.K, self.q))
        X = self.normal(self.n, self.d)
        if self.kind == "extreme":
            intercept *= 700.0
        elif self.kind == "masked":
            intercept[:, 1::2] = -np.inf
        elif self.kind == "dead":
            intercept[::2] = -np.inf
        elif self.kind == "nan":
            X[::2, 0] = np.nan
            X[1::4, -1] = np.inf if infinite else np.nan
        elif self.kind == "nan expert":
            intercept[::2, 0], intercept[1::2, -1] = np.nan, -np.inf
        return self.put(X), coef, intercept

    def scores(self):
        rng, shape = self.rng, (self.n, self.K)
        scores = rng.normal(size=shape)
        if self.kind == "tied":
            scores = rng.integers(0, 2, size=shape).astype(float)
        elif self.kind == "extreme":
            scores = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=shape)
        elif self.kind != "random":
            scores[rng.random(shape) < 0.6] = -np.inf
            scores[::3] = 0.5 if self.kind == "masked" else -np.inf
        if self.kind in ("nan", "nan expert"):
            scores[rng.random(shape) < 0.3] = np.nan
        return scores.astype(self.dtype)

    def order(self):
        return _reference.expert_major(self.indices, self.K)


# What each operation is asked: a list of its arguments.
def gate(p):
    return [p.gate()]


def softmax_route(p):
    return [(*p.gate(), p.k)]


def softmax_survey(p):
    return [(*p.gate(), p.indices, p.k)]


def softmax_loss(p):
    X, coef, intercept = p.gate()
    sums = p.rng.random((p.K, p.d + 1))
    if p.kind == "masked":  # -inf times a target is no loss
        intercept = np.maximum(intercept, -700.0)
    return [(X, p.rng.random(p.n), sums, coef, intercept)]


def finite_gate(p):
    """Return a gate whose logits are finite: of others a search promises nothing."""
    X, coef, intercept = p.gate()
    if p.form == "dense":
        X = np.nan_to_num(X)
    else:
        X.data = np.nan_to_num(X.data)
    return X, coef, np.maximum(np.nan_to_num(intercept), -700.0)


def grid_gate(p):
    p.K = max(p.K, 2)
    n_rows = -(-p.K // 2)
    cells = np.divmod(p.rng.permutation(n_rows * (p.K - n_rows)), p.K - n_rows)
    return *finite_gate(p), np.stack(cells, axis=1)


def tree_gate(p):
    """Return a gate of K edges: three at the root, two of which lead to inner nodes."""
    half, rest = (p.K - 3) // 2, list(range(p.K - 2))
    nested = [rest[:half], rest[half:-1], rest[-1]] if p.K > 4 else list(range(p.K))
    return *finite_gate(p), tree_of(nested)


def some_of(p, n_experts):
    return p.rng.integers(-1, n_experts, size=(p.n, p.m))


def product_log_proba(p):
    return [grid_gate(p)]


def product_route(p):
    gate = grid_gate(p)
    return [(*gate, min(p.k, len(gate[-1])))]


def product_survey(p):
    gate = grid_gate(p)
    n_experts = len(gate[-1])
    return [(*gate, some_of(p, n_experts), min(p.k, n_experts))]


def tree_log_proba(p):
    return [tree_gate(p)]


def tree_survey(p):
    gate = tree_gate(p)
    n_experts = len(gate[-1].paths)
    return [(*gate, some_of(p, n_experts), min(p.k, n_experts), 2)]


def linear_at(p):
    X, coef, intercept = p.pool(infinite=True)
    return [(X, indices, coef, intercept) for indices in (p.indices, None)]


def mix(p, infinite):
    X, coef, intercept = p.pool(infinite)
    some, every = p.weights(p.n, p.m), p.weights(p.n, p.K)
    return [(X, p.indices, some, coef, intercept), (X, None, every, coef, intercept)]


def linear_mix(p):
    return mix(p, infinite=True)


def softmax_mix(p):
    return mix(p, infinite=False)


def softmax_at(p):
    X, coef, intercept = p.pool()
    labels = p.rng.integers(0, p.q, size=p.n)
    return [(X, labels, indices, coef, intercept) for indices in (p.indices, None)]


def normal_log_density(p):
    y, scale = p.normal(p.n, p.q), 0.1 + p.rng.random((p.K, p.q))
    if p.kind == "nan":
        y[::2] = np.nan
    some, every = p.normal(p.n, p.m, p.q), p.normal(p.n, p.K, p.q)
    return [(y, some, scale, p.indices), (y, every, scale, None)]


def scores(p):
    return [(p.scores(),)]


def best(p):
    return [(p.scores(), p.k)]


def novel(p):
    return [(p.indices, p.rng.integers(-1, p.K, size=(p.n, 4)))]


def expert_major(p):
    return [(p.indices, p.K)]


def sum_by_expert(p):
    some = p.weights(p.n, p.m)
    return [(some, *p.order()), (p.weights(p.n, p.K), None, None)]


def segment_sums(p):
    return [(p.features(), p.weights(p.n, p.m), *p.order())]


def gram(p):
    X, Y, rows = p.features(), p.normal(p.n, p.q), np.arange(0, p.n, 2)
    return [
        (X, Y, p.weights(p.n)),
        (X, Y, p.weights(len(rows)), rows),
        (X, Y, np.zeros(p.n)),
    ]


CASES = {
    "expert_major": expert_major,
    "gram": gram,
    "linear_at": linear_at,
    "linear_mix": linear_mix,
    "log_softmax": scores,
    "normal_log_density": normal_log_density,
    "novel": novel,
    "product_log_proba": product_log_proba,
    "product_route": product_route,
    "product_survey": product_survey,
    "segment_sums": segment_sums,
    "softmax_at": softmax_at,
    "softmax_log_proba": gate,
    "softmax_loss": softmax_loss,
    "softmax_mix": softmax_mix,
    "softmax_route": softmax_route,
    "softmax_survey": softmax_survey,
    "sum_by_expert": sum_by_expert,
    "top_k": best,
    "tree_log_proba": tree_log_proba,
    "tree_survey": tree_survey,
    "truncate": best,
}
TAKE_CSR = {"gram", "segment_sums", "softmax_loss", "softmax_route", "softmax_survey"}
TAKE_CSR |= {"softmax_log_proba", "linear_at", "linear_mix", "softmax_at"}
TAKE_CSR |= {"softmax_mix", "product_log_proba", "product_route", "product_survey"}
TAKE_CSR |= {"tree_log_proba", "tree_survey"}
CHOICE = {"softmax_route": 0, "softmax_survey": 1}
"""Where the answer holds a choice by logits that rounding may order differently."""
COMPOSED = {"product_route": 0, "product_survey": 1, "tree_survey": 1}
"""The same, by sums of logits, whose ties rounding may break."""


def quiet(ops, name, args):
    with np.errstate(all="ignore"):  # the reference warns of what the tests ask
        return getattr(ops, name)(*args)


def largest(*arrays):
    """Return the largest finite size in some arrays, at least 1."""
    sizes = [1.0]
    for a in arrays:
        a = np.abs(a.data if sparse.issparse(a) else np.asarray(a, dtype=float))
        sizes.append(np.max(a, initial=1.0, where=np.isfinite(a)))
    return sizes


def assert_same(found, expected, atol):
    """Compare answers: tuples, arrays, floats or lists of floats."""
    if isinstance(expected, tuple):
        assert isinstance(found, tuple)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, atol)
        return
    assert type(found) is type(expected)
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if expected.dtype.kind == "i":
        assert_array_equal(found, expected)
    else:
        size = largest(expected)[-1]
        assert_allclose(found, expected, rtol=atol, atol=atol * size)


def assert_same_choice(found, expected, logits, atol):
    """Compare chosen experts by their logits."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    one, other = (np.take_along_axis(logits, a, axis=1) for a in (found, expected))
    assert_allclose(one, other, rtol=atol, atol=atol)
    ordered = np.sort(found, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all()


def compare(name, p, args, given=None):
    """Compare an operation's answers; ``given`` are its arguments in another guise."""
    found = quiet(_numba, name, given or args)
    expected = quiet(_reference, name, args)
    tolerance = TOLERANCE[p.dtype.name]
    if len(args) > 2 and args[0].shape == (p.n, p.d):
        # A logit's rounding is that of its terms, however small what is left of them.
        sizes = largest(*(a for a in args if isinstance(a, np.ndarray)))
        tolerance *= max(sizes) if p.kind == "extreme" else 10.0
    if name in COMPOSED or (name in CHOICE and p.kind != "tied"):
        place = CHOICE.get(name, COMPOSED.get(name))
        X, coef, intercept = args[:3]
        with np.errstate(all="ignore"):
            logits = X @ coef.T + intercept
        if name in COMPOSED:
            logits = getattr(_reference, f"{name.split('_')[0]}_log_proba")(*args[:4])
        assert_same_choice(found[place], expected[place], logits, tolerance)
        found = found[:place] + found[place + 1 :]
        expected = expected[:place] + expected[place + 1 :]
    assert_same(found, expected, tolerance)


# ------------------------------------------------------------------- the contract
def overridden():
    return {
        name
        for name in _numba.__all__
        if getattr(_numba, name).__module__ == _operations.__name__
    }


def test_all_of_the_contract_is_there():
    functions = [n for n in _reference.__all__ if callable(getattr(_reference, n))]
    assert _numba.__all__ == functions
    for name in functions:
        own, plain = getattr(_numba, name), getattr(_reference, name)
        assert inspect.signature(own) == inspect.signature(plain)
        assert own is plain or name in overridden()


def test_all_that_is_overridden_is_compared():
    assert overridden() == set(CASES)


# -------------------------------------------------------------------- the answers
@st.composite
def problems(draw, forms=("dense",)):
    form = draw(st.sampled_from(forms))
    least = 1 if form == "dense" else 2
    # Kernels are compiled for each dtype: int64 is for float64 only.
    dtypes = ["float64"] if form == "int64" else ["float64", "float32"]
    return Problem(
        n=draw(st.sampled_from([0, 1, 2, 7, 63, 64, 65, 130]) | st.integers(0, 300)),
        d=draw(st.integers(least, 9) | st.sampled_from([64, 70])),
        K=draw(st.sampled_from([2, 3, 4, 5, 8]) | st.integers(least, 70)),
        m=draw(st.integers(1, 5)),
        q=draw(st.integers(1, 4)),
        kind=draw(st.sampled_from(KINDS)),
        dtype=draw(st.sampled_from(dtypes)),
        form=form,
        seed=draw(st.integers(0, 1 << 16)),
        k=draw(st.sampled_from([1, 2, 3, 4, None])),
    )


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=100, deadline=None)
@given(p=problems())
def test_operation_is_the_references(name, p):
    for args in CASES[name](p):
        compare(name, p, args)


@pytest.mark.parametrize("name", sorted(TAKE_CSR))
@settings(max_examples=50, deadline=None)
@given(p=problems(forms=("int32", "int64")))
def test_operation_on_csr_is_the_references(name, p):
    for args in CASES[name](p):
        compare(name, p, args)


@pytest.fixture(params=[(1, 1, 1000), (1, 1, 3), (2000, 1 << 21, 32)])
def small(request, monkeypatch):
    """Make blocks of 64 rows or a few more, runs of a row or many rows."""
    block_bytes, run, parts = request.param
    monkeypatch.setattr(_operations, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(_operations, "RUN", run)
    monkeypatch.setattr(_operations, "PARTS", parts)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("K", [2, 3])
def test_operation_on_many_features_for_few_experts(name, kind, K):
    """Where a product is bound by memory a loss has another kernel."""
    assert K <= _operations.THIN
    for dtype in TOLERANCE:
        d = _operations.WIDE + 1
        p = Problem(n=130, d=d, K=K, m=2, kind=kind, dtype=dtype)
        for args in CASES[name](p):
            compare(name, p, args)


@pytest.mark.parametrize("form", ["dense", "int32"])
@pytest.mark.parametrize("n", [64, 65, 129, 200])
@pytest.mark.parametrize("name", CASES)
def test_operation_in_blocks_and_runs(small, name, n, form):
    if form == "dense" or name in TAKE_CSR:
        p = Problem(n=n, K=11, form=form)
        for args in CASES[name](p):
            compare(name, p, args)


# ------------------------------------------------------------------- other guises
def strided(array):
    return np.repeat(array, 2, axis=0)[::2]


def fortran(array):
    return np.asfortranarray(array)


def widened(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def narrow(array):
    return array.astype(np.int32) if array.dtype.kind == "i" else array


def guise(dress, args):
    return [dress(a) if isinstance(a, np.ndarray) else a for a in args]


@pytest.mark.parametrize("dress", [strided, fortran, widened, narrow])
@pytest.mark.parametrize("name", sorted(set(CASES) - {"novel"}))
def test_operation_takes_any_layout(name, dress):
    p = Problem(n=23)
    for args in CASES[name](p):
        compare(name, p, args, guise(dress, args))


@pytest.mark.parametrize("dress", [strided, fortran, widened, narrow])
def test_novel_takes_any_layout(dress):
    (args,) = novel(Problem(n=23))
    found = _numba.novel(*guise(dress, args))
    assert_array_equal(found, _reference.novel(*args))


@pytest.mark.parametrize("name", CASES)
def test_operation_takes_one_row_broadcast(name):
    """A row that `np.broadcast_to` repeats has no stride and cannot be written to."""
    p = Problem(n=23, m=1, q=1)
    for args in CASES[name](p):
        repeated = []
        for a in args:
            if isinstance(a, np.ndarray) and len(a) == p.n:
                a = np.broadcast_to(a[:1], a.shape)
                assert not a.flags.writeable
            repeated.append(a)
        compare(name, p, [np.array(a) if np.ndim(a) else a for a in repeated], repeated)


# As joblib hands large arrays to its workers.
@pytest.mark.parametrize("form", ["dense", "int32"])
@pytest.mark.parametrize("name", ["softmax_route", "softmax_loss", "linear_mix"])
def test_operation_takes_read_only_arrays(name, form):
    p = Problem(n=23, form=form)
    args = CASES[name](p)[0]
    frozen = []
    for a in args:
        if sparse.issparse(a):
            a = a.copy()
            for part in (a.data, a.indices, a.indptr):
                part.flags.writeable = False
        elif isinstance(a, np.ndarray):
            a = a.copy()
            a.flags.writeable = False
        frozen.append(a)
    compare(name, p, args, frozen)


# -------------------------------------------------------------------------- ties
@pytest.mark.parametrize("name", ["softmax_route", "softmax_survey", "top_k"])
@pytest.mark.parametrize("K", [2, 3, 4, 5, 8, 11])
def test_ties_go_to_the_lowest_expert(name, K):
    for k in {1, 2, 3, 4, K}:
        p = Problem(n=300, d=2, K=K, kind="tied", k=k)
        for args in CASES[name](p):
            compare(name, p, args)


# ------------------------------------------------------------- what is no number
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_route_keeps_nan_beside_experts_ruled_out(dtype, k):
    X, coef = np.ones((2, 2), dtype=dtype), np.ones((3, 2))
    intercept = np.array([np.nan, -np.inf, -np.inf])
    indices, weights = _numba.softmax_route(X, coef, intercept, k)
    assert_array_equal(indices, [[1, 2, 0][:k]] * 2)
    assert_array_equal(weights, np.full((2, k), np.nan if k == 3 else 1 / k))


@pytest.mark.parametrize("form", ["dense", "int32"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("d", [2, 3, 16, 33])  # across registers and beside them
def test_dot_keeps_what_is_no_number(dtype, form, d):
    X = np.ones((5, d), dtype=dtype)
    X[1, -1], X[2, 0], X[3, d // 2] = np.nan, np.inf, -np.inf
    X[4, 0], X[4, -1] = np.inf, -np.inf
    coef, intercept = np.ones((2, 1, d)), np.array([[0.5], [-np.inf]])
    indices = np.tile([0, 1], (5, 1))
    if form != "dense":
        X = sparse.csr_array(X)
    one = [d + 0.5, np.nan, np.inf, -np.inf, np.nan]
    other = [-np.inf, np.nan, np.nan, -np.inf, np.nan]
    found = _numba.linear_at(X, indices, coef, intercept)
    assert_array_equal(found[:, :, 0], np.column_stack([one, other]))
    weights = np.array([[1.0, 0.0]] * 5, dtype=dtype)
    found = _numba.linear_mix(X, indices[:, :1], weights[:, :1], coef, intercept)
    assert_array_equal(found[:, 0], one)
    found = _numba.linear_mix(X, indices, weights, coef, intercept)
    assert np.isnan(found).all()  # 0 times -inf


# ----------------------------------------------------------------- the exponential
@njit
def exp_each(x, out):
    for i in range(x.shape[0]):
        out[i] = _kernels.exp(x[i])


@pytest.mark.parametrize(
    ("dtype", "least", "bound"), [("float64", -700.0, 4e-16), ("float32", -87.0, 2e-7)]
)
def test_exp_is_numpys(dtype, least, bound):
    rng = np.random.default_rng(0)
    halves = np.arange(2 * int(least), 1) * np.log(2) / 2  # where the exponent changes
    x = np.concatenate(
        [
            np.linspace(least, 0.0, 200_001),
            -np.logspace(-20, np.log10(-least), 20_001),
            np.nextafter(halves, -1e3),
            halves,
            np.nextafter(halves, 1e3),
            least * rng.random(20_000),
        ]
    ).astype(dtype)
    x = x[(x >= least) & (x <= 0.0)]
    found = np.full_like(x, 7.0)
    exp_each(x, found)
    wide = np.longdouble if dtype == "float64" else np.float64
    expected = np.exp(x.astype(wide))
    assert np.max(np.abs(found - expected) / expected) <= bound


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_exp_at_its_ends(dtype):
    x = np.array([0.0, -0.0, -np.inf, np.nan, -709.0, -1e30], dtype=dtype)
    found = np.full_like(x, 7.0)
    exp_each(x, found)
    assert_array_equal(found, [1.0, 1.0, 0.0, np.nan, 0.0, 0.0])
