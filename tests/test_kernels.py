"""The Numba backend against the reference, which is its specification."""

import inspect
from itertools import cycle, product

import numpy as np
import pytest
from _problems import CASES, KINDS, TOLERANCE, Problem, assert_same, quiet
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmoe.backends import _numba, _reference
from skmoe.backends._numba import _kernels, _operations

TAKE_CSR = {"gram", "segment_sums", "softmax_loss", "softmax_route", "softmax_survey"}
TAKE_CSR |= {"softmax_log_proba", "linear_at", "linear_mix", "softmax_at"}
TAKE_CSR |= {"softmax_mix", "product_log_proba", "product_route", "product_survey"}
TAKE_CSR |= {"tree_log_proba", "tree_survey"}
CHOICE = {"softmax_route": 0, "softmax_survey": 1}
"""Where the answer holds a choice by logits that rounding may order differently."""
COMPOSED = {"product_route": 0, "product_survey": 1, "tree_survey": 1}
"""The same, by sums of logits, whose ties rounding may break."""


def assert_same_choice(answer, expected, logits, atol):
    """Compare chosen experts by their logits."""
    assert answer.dtype == expected.dtype
    assert answer.shape == expected.shape
    one, other = (np.take_along_axis(logits, a, axis=1) for a in (answer, expected))
    assert_allclose(one, other, rtol=atol, atol=atol)
    ordered = np.sort(answer, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all()


def compare(name, p, args, given=None):
    """Compare an operation's answers; ``given`` are its arguments in another guise."""
    answer = quiet(getattr(_numba, name), *(given or args))
    expected = quiet(getattr(_reference, name), *args)
    # A logit's rounding is that of its terms, however small what is left of them.
    factor = 10.0 if len(args) > 2 and args[0].shape == (p.n, p.d) else 1.0
    exact = p.kind in ("tied", "extreme")
    if name in COMPOSED or (name in CHOICE and not exact):
        place = CHOICE.get(name, COMPOSED.get(name))
        X, coef, intercept = args[:3]
        with np.errstate(all="ignore"):
            logits = X @ coef.T + intercept
        if name in COMPOSED:
            logits = getattr(_reference, f"{name.split('_')[0]}_log_proba")(*args[:4])
        atol = factor * TOLERANCE[p.dtype.name]
        assert_same_choice(answer[place], expected[place], logits, atol)
        answer = answer[:place] + answer[place + 1 :]
        expected = expected[:place] + expected[place + 1 :]
    assert_same(name, p, answer, expected, factor)


# ------------------------------------------------------------------- the contract
OVERRIDDEN = [
    name
    for name in _numba.__all__
    if getattr(_numba, name).__module__ == _operations.__name__
]


def test_all_of_the_contract_is_there():
    functions = [n for n in _reference.__all__ if callable(getattr(_reference, n))]
    assert _numba.__all__ == functions
    for name in functions:
        own, plain = getattr(_numba, name), getattr(_reference, name)
        assert inspect.signature(own) == inspect.signature(plain)
        assert own is plain or name in OVERRIDDEN


def test_all_that_is_overridden_is_compared():
    assert len(OVERRIDDEN) == 22
    assert set(OVERRIDDEN) < set(CASES)
    assert set(OVERRIDDEN) > TAKE_CSR


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


@pytest.mark.parametrize("name", OVERRIDDEN)
@settings(max_examples=50, deadline=None)
@given(p=problems())
def test_operation_is_the_references(name, p):
    for args in CASES[name](p):
        compare(name, p, args)


@pytest.mark.parametrize("name", sorted(TAKE_CSR))
@settings(max_examples=25, deadline=None)
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


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_in_blocks_and_runs(small, name):
    forms = ("dense", "int32") if name in TAKE_CSR else ("dense",)
    for n, form in product((64, 65, 129, 200), forms):
        p = Problem(n=n, K=11, form=form)
        for args in CASES[name](p):
            compare(name, p, args)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_on_many_features_for_few_experts(name):
    shapes = cycle(product((2, 3), TOLERANCE))
    for kind, (K, dtype) in zip(KINDS, shapes, strict=False):
        p = Problem(n=130, d=_operations.WIDE + 1, K=K, m=2, kind=kind, dtype=dtype)
        for args in CASES[name](p):
            compare(name, p, args)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("K", range(1, _operations.THIN + 2))
@pytest.mark.parametrize("d", [_operations.WIDE - 1, _operations.WIDE])
def test_a_loss_bound_by_memory(d, K, dtype):
    """It has a kernel of its own, up to so many classes, from so many features on."""
    for kind in KINDS:
        p = Problem(n=130, d=d, K=K, m=2, kind=kind, dtype=dtype)
        for args in CASES["softmax_loss"](p):
            compare("softmax_loss", p, args)


def test_sums_are_in_float64():
    values = np.ones((3, 1), dtype=np.float32)
    values[0] = 2.0**24  # float32 cannot hold 2**24 + 1
    order = _reference.expert_major(np.zeros((3, 1), dtype=np.int64), 1)
    assert _numba.sum_by_expert(values, *order) == [2.0**24 + 2]
    assert _numba.segment_sums(values, np.ones((3, 1)), *order)[0, 0] == 2.0**24 + 2


def test_normal_equations_far_from_zero(small):
    rng = np.random.default_rng(0)
    X, Y, weights = (
        1e6 + rng.normal(size=(200, 3)),
        rng.normal(size=(200, 2)),
        rng.random(200),
    )
    for rows in (None, rng.integers(0, 200, size=200)):
        args = X, Y, weights, rows
        for ours, theirs in zip(
            _numba.gram(*args), _reference.gram(*args), strict=True
        ):
            assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8 * weights.sum())


# ------------------------------------------------------------------- other guises
def strided(array):
    return np.repeat(array, 2, axis=0)[::2]


def fortran(array):
    return np.asfortranarray(array)


def widened(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


def narrow(array):
    return array.astype(np.int32) if array.dtype.kind == "i" else array


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_takes_any_layout(name):
    p, dresses = Problem(n=23), [strided, fortran, widened, narrow]
    if name == "novel":  # it answers in the integers that it is given
        dresses.remove(narrow)
    for args, dress in product(CASES[name](p), dresses):
        given = [dress(a) if isinstance(a, np.ndarray) else a for a in args]
        compare(name, p, args, given)


@pytest.mark.parametrize("name", OVERRIDDEN)
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


def test_other_scores_go_to_the_reference():
    p = Problem(n=23)
    compare("top_k", p, (p.rng.integers(0, 5, size=(23, 6)), 2))
    compare("log_softmax", p, (p.normal(23, 3, 4),))


# -------------------------------------------------------------------------- ties
@pytest.mark.parametrize("name", ["softmax_route", "softmax_survey", "top_k"])
def test_ties_go_to_the_lowest_expert(name):
    for K in (2, 3, 4, 5, 8, 11):
        for k in {1, 2, 3, 4, K}:
            p = Problem(n=300, d=2, K=K, kind="tied", k=k)
            for args in CASES[name](p):
                compare(name, p, args)


# ------------------------------------------------------------- what is no number
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_route_keeps_nan_beside_experts_ruled_out(dtype):
    X, coef = np.ones((2, 2), dtype=dtype), np.ones((3, 2))
    intercept = np.array([np.nan, -np.inf, -np.inf])
    for k in (1, 2, 3):
        indices, weights = _numba.softmax_route(X, coef, intercept, k)
        assert_array_equal(indices, [[1, 2, 0][:k]] * 2)
        assert_array_equal(weights, np.full((2, k), np.nan if k == 3 else 1 / k))


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_dot_keeps_what_is_no_number(dtype, form):
    for d in (2, 3, 16, 33):  # across registers and beside them
        table = np.ones((5, d), dtype=dtype)
        table[1, -1], table[2, 0], table[3, d // 2] = np.nan, np.inf, -np.inf
        table[4, 0], table[4, -1] = np.inf, -np.inf
        X, coef, intercept = (
            form(table),
            np.ones((2, 1, d)),
            np.array([[0.5], [-np.inf]]),
        )
        indices = np.tile([0, 1], (5, 1))
        one = [d + 0.5, np.nan, np.inf, -np.inf, np.nan]
        other = [-np.inf, np.nan, np.nan, -np.inf, np.nan]
        answer = _numba.linear_at(X, indices, coef, intercept)
        assert_array_equal(answer[:, :, 0], np.column_stack([one, other]))
        weights = np.array([[1.0, 0.0]] * 5, dtype=dtype)
        answer = _numba.linear_mix(X, indices[:, :1], weights[:, :1], coef, intercept)
        assert_array_equal(answer[:, 0], one)
        answer = _numba.linear_mix(X, indices, weights, coef, intercept)
        assert np.isnan(answer).all()  # 0 times -inf


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
