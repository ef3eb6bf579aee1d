"""The reference against naive loops, scipy and central differences; in any library."""

from importlib.util import find_spec
from itertools import islice, pairwise, product

import array_api_strict as strict
import numpy as np
import pytest
from _problems import CASES as PROBLEMS
from _problems import assert_same, edges, quiet
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import norm

from skmoe.backends import _reference as ops
from skmoe.backends import namespace, select, to_host

TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
TINY = 10  # elements of a block: a few rows


@pytest.fixture(
    params=[np.float64, np.float32], ids=["float64", "float32, tiny blocks"]
)
def dtype(request, monkeypatch):
    """Return float64, and float32 with blocks of a few rows."""
    if request.param is np.float32:
        monkeypatch.setattr(ops._rows, "BLOCK_ELEMENTS", TINY)
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["one block", "tiny blocks"])
def blocks(request, monkeypatch):
    """Run a test as it is, and again with blocks of a few rows."""
    if request.param == "tiny blocks":
        monkeypatch.setattr(ops._rows, "BLOCK_ELEMENTS", TINY)


def logit_cases():
    rng = np.random.default_rng(1)
    random = rng.normal(size=(9, 4))
    masked = random.copy()
    masked[::2, 1] = -np.inf
    masked[3] = -np.inf, -np.inf, 0.5, -np.inf
    dead = random.copy()
    dead[[0, 8]] = -np.inf
    return {
        "random": random,
        "tied": np.full((3, 5), 2.0),
        "extreme": 700.0 * np.array([[1, -1, 1], [-1, -1, -1], [1, 1, 1], [0, -1, 1]]),
        "masked": masked,
        "dead rows": dead,
        "single row": random[:1],
        "single column": random[:, :1],
        "no rows": random[:0],
    }


CASES = [pytest.param(case, id=name) for name, case in logit_cases().items()]


# ------------------------------------------------------------------ containers
def test_namespace_and_host():
    assert namespace(np.ones(2), None) is np
    assert namespace(sparse.csr_array(np.eye(2))) is np
    assert namespace(np.ones(2), strict.ones(2)) is strict
    assert to_host(strict.ones(2)).tolist() == [1.0, 1.0]
    array = np.ones(2)
    assert to_host(array) is array
    assert to_host([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert callable(select(array).logsumexp)


class Library:
    """An array library, and a device: it takes NumPy's arrays and gives them back."""

    def __init__(self, put):
        self.put = put

    def inside(self, value):
        """Return an argument of an operation with all arrays in the library."""
        if isinstance(value, list):
            return [self.inside(part) for part in value]
        return self.put(value) if isinstance(value, np.ndarray) else value

    def outside(self, answer):
        """Return an answer with all arrays in NumPy; they must be the library's."""
        if isinstance(answer, tuple):
            return tuple(self.outside(part) for part in answer)
        if isinstance(answer, float | list):
            return answer
        put = self.put(np.zeros(1))
        assert type(answer) is type(put)
        assert answer.device == put.device
        return to_host(answer)


def onto_a_device(array):
    return strict.asarray(array, device=strict.Device("device1"))


def into_torch(array):
    import torch

    return torch.asarray(array)


LIBRARIES = [
    pytest.param(Library(onto_a_device), id="strict"),
    pytest.param(
        Library(into_torch),
        id="torch",
        marks=pytest.mark.skipif(
            find_spec("torch") is None, reason="PyTorch is not installed"
        ),
    ),
]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_other_libraries_answer_what_numpy_does(name, library):
    operation = getattr(ops, name)
    for p in islice(edges("float32", "float64"), 0, None, 6):
        for args in PROBLEMS[name](p):
            given = [library.inside(value) for value in args]
            if name.startswith("product"):
                given[1:4] = args[1:4]  # the tables of a grid stay on the host
            answer = library.outside(quiet(operation, *given))
            assert_same(name, p, answer, quiet(operation, *args))


def test_all_of_the_reference_is_tried_in_other_libraries():
    assert set(PROBLEMS) == set(ops.__all__) - {"row_blocks"}


@pytest.mark.parametrize(("n_rows", "n_columns"), [(0, 3), (1, 100), (23, 3), (5, 0)])
def test_row_blocks_cover_each_row_once(blocks, n_rows, n_columns):
    slices = list(ops.row_blocks(n_rows, n_columns))
    rows = [row for block in slices for row in range(n_rows)[block]]
    assert rows == list(range(n_rows))
    limit = max(1, ops._rows.BLOCK_ELEMENTS // max(1, n_columns))
    assert all(block.stop - block.start <= limit for block in slices)


# ------------------------------------------------------------------ candidates
def test_novel_by_hand():
    known = np.array([[0, 2], [1, -1]])
    more = np.array([[2, 1, 1, 3], [-1, 1, 3, 3]])
    found = ops.novel(known, more)
    assert_array_equal(found, [[-1, 1, -1, 3], [-1, -1, 3, -1]])


def test_novel_never_repeats_an_expert(rng):
    known = np.argsort(rng.random((50, 5)), axis=1)[:, :2]
    more = rng.integers(-1, 5, size=(50, 4))
    found = ops.novel(known, more)
    for old, asked, new in zip(known, more, found, strict=True):
        kept = [k for k in new if k >= 0]
        assert len(kept) == len(set(kept))
        assert set(kept) == {k for k in asked if k >= 0} - set(old)


# --------------------------------------------------------------------- softmax
@pytest.mark.parametrize("values", CASES)
def test_logsumexp_is_scipys(dtype, values):
    found = ops.logsumexp(values.astype(dtype))
    assert found.dtype == dtype
    assert found.shape == values.shape[:1]
    expected = logsumexp(values, axis=-1)
    assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_logsumexp_works_on_the_last_axis(rng):
    values = rng.normal(size=(2, 3, 4))
    assert_allclose(ops.logsumexp(values), logsumexp(values, axis=-1))


def test_logsumexp_of_infinity_and_nan():
    values = np.array([[np.inf, 0.0], [np.nan, 0.0], [-np.inf, 3.0]])
    assert_array_equal(ops.logsumexp(values), [np.inf, np.nan, 3.0])


@pytest.mark.parametrize("name", ["random", "tied", "extreme", "masked", "single row"])
def test_log_softmax_is_scipys(dtype, name):
    values = logit_cases()[name]
    found = ops.log_softmax(values.astype(dtype))
    assert found.dtype == dtype
    expected = log_softmax(values, axis=-1)
    assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("values", CASES)
def test_normalise_shares_each_row(dtype, values):
    resp, norm = ops.normalise(values.astype(dtype))
    assert resp.dtype == norm.dtype == dtype
    for row, share, total in zip(values, resp, norm, strict=True):
        if np.isneginf(row).all():
            assert_array_equal(share, np.full(len(row), 1 / len(row), dtype))
            assert total == -np.inf
            continue
        assert_allclose(share, softmax(row), rtol=1e-4, atol=TOLERANCE[dtype])
        assert_allclose(total, logsumexp(row), rtol=TOLERANCE[dtype])
        assert_array_equal(share[np.isneginf(row)], 0.0)
    assert_allclose(resp.sum(axis=1), 1.0, rtol=1e-5)


# --------------------------------------------------------------------- routing
@pytest.mark.parametrize("values", CASES)
def test_top_k_values_are_the_largest(dtype, values):
    scores = values.astype(dtype)
    for k in range(1, scores.shape[1] + 1):
        best, indices = ops.top_k(scores, k)
        assert best.dtype == dtype
        assert best.shape == indices.shape == (len(scores), k)
        for row, found, where in zip(scores, best, indices, strict=True):
            assert_array_equal(found, sorted(row, reverse=True)[:k])
            assert_array_equal(row[where], found)
            assert len(set(where.tolist())) == k


def test_top_k_gives_ties_to_the_lowest_index():
    scores = np.array([[1.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert_array_equal(ops.top_k(scores, 3)[1], [[1, 2, 0], [0, 1, 2]])


INDICES = {
    "random": np.array([[2, 0], [0, 3], [3, 2], [0, 2]]),
    "padded": np.array([[2, -1], [-1, -1], [-1, 0], [3, 2]]),
    "empty experts": np.array([[4], [4], [4]]),
    "single row": np.array([[1, 3, 0]]),
    "no entries": np.array([[-1, -1]]),
}


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_expert_major_is_a_stable_sort(indices):
    n_experts = 5
    order, offsets = ops.expert_major(indices, n_experts)
    flat = indices.ravel().tolist()
    assert order.tolist() == sorted(range(len(flat)), key=lambda i: (flat[i], i))
    below = [sum(expert < k for expert in flat) for k in range(n_experts + 1)]
    assert offsets.tolist() == below


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_spread_undoes_the_sort(dtype, indices, rng):
    n, m = indices.shape
    entries = rng.normal(size=(n, m, 3)).astype(dtype)
    order, offsets = ops.expert_major(indices, 5)
    flat = entries.reshape(-1, 3)[to_host(order)]
    cuts = [0, *to_host(offsets).tolist()]
    parts = [flat[a:b] for a, b in pairwise(cuts)]
    found = ops.spread(parts, order, (n, m))
    assert found.dtype == dtype
    assert_array_equal(found, entries)


def test_combine_is_a_weighted_sum(dtype, rng):
    weights, values = rng.random((4, 3)), rng.normal(size=(4, 3, 2))
    weights, values = weights.astype(dtype), values.astype(dtype)
    found = ops.combine(weights, values)
    assert found.dtype == dtype
    for i in range(4):
        expected = sum(weights[i, j] * values[i, j] for j in range(3))
        assert_allclose(found[i], expected, rtol=TOLERANCE[dtype], atol=1e-7)


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_sum_by_expert_is_a_loop(dtype, indices, rng):
    values = rng.random(indices.shape).astype(dtype)
    order, offsets = ops.expert_major(indices, 5)
    found = ops.sum_by_expert(values, order, offsets)
    for k in range(5):
        expected = values.astype(np.float64)[indices == k].sum()
        assert_allclose(found[k], expected, rtol=1e-12)


def test_sum_by_expert_of_columns_and_in_float64():
    values = np.full((3, 2), 1.0, dtype=np.float32)
    values[0] = 2.0**24, 2.0**25  # float32 cannot hold 2**24 + 1
    found = ops.sum_by_expert(values, None, None)
    assert found == [2.0**24 + 2, 2.0**25 + 2]


# ---------------------------------------------------------- linear algebra of X
def test_take_rows(rng):
    X, rows = rng.normal(size=(5, 3)), np.array([4, 0, 4])
    assert ops.take_rows(X, None) is X
    assert_array_equal(ops.take_rows(X, rows), X[rows])
    for form in (sparse.csr_array, sparse.csr_matrix):
        taken = ops.take_rows(form(X), rows)
        assert_array_equal(taken.toarray(), X[rows])
    assert ops.take_rows(X, rows[:0]).shape == (0, 3)


def sparse_problem(rng, dtype, n=23, d=4, n_classes=3):
    """Return X with zeros, row masses with a zero, and soft targets."""
    X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.6)
    mass = rng.random(n)
    mass[3] = 0.0
    targets = rng.dirichlet(np.ones(n_classes), size=n) * mass[:, None]
    return X.astype(dtype), mass, targets


def test_weighted_moments_are_numpys(dtype, rng):
    X, mass, _ = sparse_problem(rng, dtype)
    mean, variance = ops.weighted_moments(X, mass)
    assert mean.dtype == variance.dtype == np.float64
    exact = X.astype(np.float64)
    expected = np.average(exact, axis=0, weights=mass)
    assert_allclose(mean, expected, rtol=1e-12)
    expected = np.average((exact - expected) ** 2, axis=0, weights=mass)
    assert_allclose(variance, expected, rtol=1e-12)


def test_weighted_moments_of_a_single_row(dtype):
    X = np.array([[1.0, -2.0]], dtype=dtype)
    mean, variance = ops.weighted_moments(X, np.array([0.3]))
    assert_allclose(mean, X[0])
    assert_allclose(variance, 0.0, atol=1e-30)


def test_large_offsets_do_not_cancel(blocks, rng):
    noise = rng.normal(size=(200, 3))
    X = np.round(1e6 + noise, 6)  # what is left of the noise is known exactly
    noise, mass = X - 1e6, rng.random(200)
    Y = rng.normal(size=(200, 2))
    mean = np.average(noise, axis=0, weights=mass)
    centred = noise - mean
    _, variance = ops.weighted_moments(X, mass)
    expected = np.average(centred**2, axis=0, weights=mass)
    assert_allclose(variance, expected, rtol=1e-8)
    A, B, x_mean, _ = ops.gram(X, Y, mass)
    scale = mass.sum()
    expected = (centred * mass[:, None]).T @ centred
    assert_allclose(A, expected, rtol=1e-8, atol=1e-8 * scale)
    expected = (centred * mass[:, None]).T @ (Y - np.average(Y, axis=0, weights=mass))
    assert_allclose(B, expected, rtol=1e-8, atol=1e-8 * scale)
    assert_allclose(x_mean, 1e6 + mean, rtol=1e-14)


def test_column_sums_are_a_loop(dtype, rng):
    X, _, targets = sparse_problem(rng, dtype)
    found = ops.column_sums(X, targets)
    assert found.dtype == np.float64
    assert found.shape == (3, 5)
    for k in range(3):
        expected = sum(
            t[k] * np.append(x, 1.0)
            for x, t in zip(X.astype(np.float64), targets, strict=True)
        )
        assert_allclose(found[k], expected, rtol=1e-11, atol=1e-13)


def test_column_sums_of_no_rows_are_zero():
    assert_array_equal(
        ops.column_sums(np.ones((0, 2)), np.ones((0, 3))), np.zeros((3, 3))
    )


def naive_loss(X, targets, coef, intercept):
    """Return -Σ t log softmax(z), one row and class at a time."""
    loss = 0.0
    for x, t in zip(X, targets, strict=True):
        z = coef @ x + intercept
        loss -= sum(t[k] * (z[k] - logsumexp(z)) for k in range(len(z)))
    return loss


def softmax_problem(rng, dtype):
    X, mass, targets = sparse_problem(rng, dtype)
    exact = X.astype(np.float64)
    sums = np.column_stack([targets.T @ exact, targets.sum(axis=0)])
    return X, exact, mass, targets, sums, rng.normal(size=(3, 4)), rng.normal(size=3)


def test_softmax_loss_is_a_loop(dtype, rng):
    X, exact, mass, targets, sums, coef, intercept = softmax_problem(rng, dtype)
    loss, g_coef, g_intercept = ops.softmax_loss(X, mass, sums, coef, intercept)
    tol = TOLERANCE[dtype]
    assert_allclose(loss, naive_loss(exact, targets, coef, intercept), rtol=10 * tol)
    pull = softmax(exact @ coef.T + intercept, axis=1) * mass[:, None] - targets
    assert_allclose(g_coef, pull.T @ exact, atol=10 * tol)
    assert_allclose(g_intercept, pull.sum(axis=0), atol=10 * tol)
    assert g_coef.dtype == sums.dtype  # float64


def test_softmax_loss_has_the_gradient_of_central_differences(rng):
    X, _, mass, _, sums, coef, intercept = softmax_problem(rng, np.float64)
    _, g_coef, g_intercept = ops.softmax_loss(X, mass, sums, coef, intercept)
    params = np.column_stack([coef, intercept])
    gradient = np.column_stack([g_coef, g_intercept])
    step = 1e-5
    for position in np.ndindex(params.shape):
        ends = []
        for sign in (1.0, -1.0):
            moved = params.copy()
            moved[position] += sign * step
            table = moved[:, :-1], moved[:, -1]
            ends.append(ops.softmax_loss(X, mass, sums, *table)[0])
        difference = (ends[0] - ends[1]) / (2 * step)
        assert_allclose(gradient[position], difference, rtol=1e-6, atol=1e-8)


def test_softmax_loss_survives_extreme_logits(dtype):
    X = np.array([[700.0], [-700.0]], dtype=dtype)
    targets = np.array([[1.0, 0.0], [1.0, 0.0]])
    sums = np.column_stack([targets.T @ X.astype(np.float64), targets.sum(axis=0)])
    coef, intercept = np.array([[1.0], [-1.0]]), np.zeros(2)
    loss, g_coef, g_intercept = ops.softmax_loss(X, np.ones(2), sums, coef, intercept)
    assert_allclose(loss, 1400.0, rtol=1e-6)  # the second row is surely wrong
    assert_allclose(g_coef, [[700.0], [-700.0]], rtol=1e-6)
    assert_allclose(g_intercept, [-1.0, 1.0], rtol=1e-6)


def test_gram_is_numpys(dtype, rng):
    X, mass, _ = sparse_problem(rng, dtype)
    Y = rng.normal(size=(23, 2)).astype(dtype)
    A, B, x_mean, y_mean = ops.gram(X, Y, mass)
    x, y = X.astype(np.float64), Y.astype(np.float64)
    mean_x = np.average(x, axis=0, weights=mass)
    mean_y = np.average(y, axis=0, weights=mass)
    W = np.diag(mass)
    assert_allclose(A, (x - mean_x).T @ W @ (x - mean_x), atol=1e-12)
    assert_allclose(B, (x - mean_x).T @ W @ (y - mean_y), atol=1e-12)
    assert_allclose(x_mean, mean_x, atol=1e-14)
    assert_allclose(y_mean, mean_y, atol=1e-14)
    assert A.dtype == B.dtype == x_mean.dtype == np.ones(1).dtype


@pytest.mark.parametrize("n", [0, 4])
def test_gram_without_mass_is_zero(n):
    X, Y, mass = np.ones((n, 2)), np.ones((n, 1)), np.zeros(n)
    for answer in ops.gram(X, Y, mass):
        assert_array_equal(answer, np.zeros(answer.shape))


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix])
def test_csr_equals_dense(dtype, form, rng):
    X, _, mass, targets, sums, coef, intercept = softmax_problem(rng, dtype)
    Y = rng.normal(size=(23, 2))
    calls = {
        "weighted_moments": (mass,),
        "column_sums": (targets,),
        "softmax_loss": (mass, sums, coef, intercept),
        "gram": (Y, mass),
    }
    for name, rest in calls.items():
        dense = getattr(ops, name)(X, *rest)
        csr = getattr(ops, name)(form(X), *rest)
        if name == "column_sums":
            dense, csr = (dense,), (csr,)
        for expected, found in zip(dense, csr, strict=True):
            assert isinstance(found, np.ndarray | float)
            atol = 30 * TOLERANCE[dtype]
            assert_allclose(found, expected, rtol=atol, atol=atol, err_msg=name)


# ------------------------------------------------------------ what the E-step shares
def ranked(row):
    """Return positions from the best on: ties to the lowest, NaN last."""
    return sorted(range(len(row)), key=lambda k: (np.isnan(row[k]), -row[k], k))


def shares(row):
    """Return the softmax; a row of -inf is shared equally."""
    if np.isneginf(row).all():
        return np.full(len(row), 1 / len(row))
    return softmax(row)


NAN_ROWS = np.array([[np.nan, 1.0, 0.0], [0.5, np.nan, np.nan], [2.0, 1.0, -np.inf]])
WITH_NAN = [*CASES, pytest.param(NAN_ROWS, id="nan")]


@pytest.mark.parametrize("values", WITH_NAN)
def test_softmax_is_scipys(dtype, values):
    found = ops.softmax(values.astype(dtype))
    assert found.dtype == dtype
    assert found.shape == values.shape
    for row, share in zip(values, found, strict=True):
        assert_allclose(share, shares(row), rtol=1e-4, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("values", WITH_NAN)
def test_truncate_keeps_the_best(dtype, values):
    tol = TOLERANCE[dtype]
    for width in range(1, values.shape[1] + 1):
        kept, resp, log_norm = ops.truncate(values.astype(dtype), width)
        assert kept.dtype == np.int64
        assert resp.dtype == log_norm.dtype == dtype
        assert kept.shape == resp.shape == (len(values), width)
        assert log_norm.shape == (len(values),)
        for row, where, share, total in zip(values, kept, resp, log_norm, strict=True):
            everyone = width == len(row)
            best = list(range(width)) if everyone else ranked(row)[:width]
            assert where.tolist() == best
            assert_allclose(share, shares(row[best]), rtol=1e-4, atol=tol)
            assert_allclose(total, logsumexp(row[best]), rtol=tol, atol=tol)


# ------------------------------------------------------------------------ the gate
def gate_cases():
    rng = np.random.default_rng(2)
    X, coef, bias = rng.normal(size=(9, 3)), rng.normal(size=(6, 3)), rng.normal(size=6)
    X[rng.random(X.shape) < 0.3] = 0.0
    masked, dead = bias.copy(), np.full(6, -np.inf)
    masked[[0, 3]] = -np.inf
    blank = X.copy()
    blank[::2, 0] = np.nan
    whole = rng.integers(-1, 2, size=(9, 3)), rng.integers(-1, 2, size=(6, 3))
    slope = np.zeros((6, 3))
    slope[:, 0] = 700.0, -700.0, 0.0, 700.0, -700.0, 0.0
    many = rng.normal(size=(41, 3)), rng.normal(size=41)
    return {
        "random": (X, coef, bias),
        "tied": (*(a.astype(float) for a in whole), np.array([0.0, 1, 0, 1, 0, 1])),
        "extreme": (np.sign(X), slope, np.zeros(6)),
        "ruled out": (X, coef, masked),
        "all ruled out": (X, coef, dead),
        "nan": (blank, coef, bias),
        "many experts": (X, *many),
        "one row": (X[:1], coef, bias),
        "no rows": (X[:0], coef, bias),
    }


GATES = [pytest.param(case, id=name) for name, case in gate_cases().items()]


def forms(X, dtype):
    """Yield X in all containers that NumPy's operations take."""
    yield X.astype(dtype)
    yield sparse.csr_array(X.astype(dtype))
    wide = sparse.csr_matrix(X.astype(dtype))
    wide.indices = wide.indices.astype(np.int64)
    wide.indptr = wide.indptr.astype(np.int64)
    yield wide


def affine(x, coef, intercept):
    """Return coef x + intercept, term by term."""
    return np.array(
        [
            sum(c * v for c, v in zip(row, x, strict=True)) + b
            for row, b in zip(coef, intercept, strict=True)
        ]
    )


def all_logits(X, coef, intercept):
    rows = [affine(x, coef, intercept) for x in X]
    return np.array(rows).reshape(len(X), len(coef))


COUNTS = (1, 2, 3, 6)


@pytest.mark.parametrize("gate", GATES)
def test_softmax_route_is_a_loop(dtype, gate):
    X, coef, intercept = gate
    logits = all_logits(X, coef, intercept)
    for x, k in product(forms(X, dtype), COUNTS):
        indices, weights = ops.softmax_route(x, coef, intercept, k)
        assert indices.dtype == np.int64
        assert weights.dtype == dtype
        assert indices.shape == weights.shape == (len(X), k)
        for row, experts, share in zip(logits, indices, weights, strict=True):
            assert experts.tolist() == ranked(row)[:k]
            expected = shares(row[experts])
            assert_allclose(share, expected, rtol=1e-4, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("gate", GATES)
def test_softmax_log_proba_is_scipys(dtype, gate):
    X, coef, intercept = gate
    with np.errstate(invalid="ignore"):  # -inf - -inf where all are ruled out
        expected = log_softmax(all_logits(X, coef, intercept), axis=1)
        for x in forms(X, dtype):
            found = ops.softmax_log_proba(x, coef, intercept)
            assert found.dtype == dtype
            assert found.shape == expected.shape
            tol = 5 * TOLERANCE[dtype]
            assert_allclose(found, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("gate", GATES)
def test_softmax_survey_is_a_loop(dtype, gate):
    X, coef, intercept = gate
    logits = all_logits(X, coef, intercept)
    asked = np.random.default_rng(3).integers(-1, len(coef), size=(len(X), 4))
    with np.errstate(invalid="ignore"):
        log_proba = log_softmax(logits, axis=1)
    tol = 5 * TOLERANCE[dtype]
    for x, k in product(forms(X, dtype), COUNTS):
        with np.errstate(invalid="ignore", divide="ignore"):
            log_at, best, log_best = ops.softmax_survey(x, coef, intercept, asked, k)
        assert best.dtype == np.int64
        assert log_at.dtype == log_best.dtype == dtype
        assert log_at.shape == asked.shape
        assert best.shape == log_best.shape == (len(X), k)
        for i in range(len(X)):
            for j, expert in enumerate(asked[i]):
                expected = -np.inf if expert < 0 else log_proba[i, expert]
                assert_allclose(log_at[i, j], expected, rtol=tol, atol=tol)
            assert best[i].tolist() == ranked(logits[i])[:k]
            assert_allclose(log_best[i], log_proba[i, best[i]], rtol=tol, atol=tol)


# ------------------------------------------------------------------------- experts
POOLS = {  # n, K, m, does the reference multiply with all experts?
    "few experts": (11, 5, 2, True),
    "many experts": (11, 40, 2, False),
    "few rows": (5, 3, 2, False),
    "one row": (1, 4, 3, False),
    "no rows": (0, 4, 2, False),
}
POOL_KINDS = ["random", "extreme", "ruled out", "nan"]
RULED_OUT = pytest.mark.filterwarnings(  # -inf - -inf, in whichever thread
    "ignore:invalid value encountered in subtract:RuntimeWarning"
)


class Pool:
    """Experts with q outputs, entries with gaps, and every entry spelt out."""

    def __init__(self, shape, kind, dtype, q):
        rng = np.random.default_rng(4)
        n, n_experts, m, _ = POOLS[shape]
        self.X = rng.normal(size=(n, 3)) * (rng.random((n, 3)) < 0.8)
        self.coef = rng.normal(size=(n_experts, q, 3))
        self.intercept = rng.normal(size=(n_experts, q))
        self.indices = rng.integers(-1, n_experts, size=(n, m))
        self.indices[:1] = [-1, *[0, 1, 2][: m - 1]]
        if kind == "extreme":
            self.intercept = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=(n_experts, q))
        elif kind == "ruled out":
            self.intercept[::2, 0] = -np.inf
            self.intercept[0] = -np.inf
        elif kind == "nan":
            self.X[::2, 1] = np.nan
        self.labels = rng.integers(0, q, size=n)
        self.weights = {m: rng.random((n, m)), n_experts: rng.random((n, n_experts))}
        self.weights = {k: w.astype(dtype) for k, w in self.weights.items()}
        self.everyone = np.tile(np.arange(n_experts), (n, 1))
        self.dtype = dtype

    def calls(self):
        """Yield (X, entries or None, entries spelt out, weights)."""
        for x in forms(self.X, self.dtype):
            for asked in (self.indices, None):
                entries = self.everyone if asked is None else asked
                yield x, asked, entries, self.weights[entries.shape[1]]

    def values(self, i, expert):
        return affine(self.X[i], self.coef[expert], self.intercept[expert])

    def close(self, found, expected, shape, size=1.0):
        assert found.dtype == self.dtype
        assert found.shape == shape
        tol = 5 * TOLERANCE[self.dtype]
        expected = np.reshape(np.array(expected, dtype=float), shape)
        assert_allclose(found, expected, rtol=tol, atol=tol * size)


@pytest.fixture(params=POOL_KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("shape", POOLS)
def test_pools_take_both_ways(shape):
    pool = Pool(shape, "random", np.float64, 2)
    multiplies = ops._experts._product(pool.X, pool.indices, len(pool.coef))
    assert multiplies == POOLS[shape][-1]


@pytest.mark.parametrize("shape", POOLS)
def test_linear_at_is_a_loop(dtype, kind, shape):
    pool = Pool(shape, kind, dtype, 2)
    for x, asked, entries, _ in pool.calls():
        found = ops.linear_at(x, asked, pool.coef, pool.intercept)
        expected = [
            np.zeros(2) if expert < 0 else pool.values(i, expert)
            for i, row in enumerate(entries)
            for expert in row
        ]
        pool.close(found, expected, (*entries.shape, 2))


@pytest.mark.parametrize("shape", POOLS)
def test_linear_mix_is_a_loop(dtype, kind, shape):
    pool = Pool(shape, kind, dtype, 2)
    for x, asked, entries, weights in pool.calls():
        found = ops.linear_mix(x, asked, weights, pool.coef, pool.intercept)
        expected = np.zeros((len(entries), 2))
        for i, j in np.ndindex(entries.shape):
            if entries[i, j] >= 0:
                expected[i] += weights[i, j] * pool.values(i, entries[i, j])
        size = 700.0 if kind == "extreme" else 1.0  # of what is summed
        pool.close(found, expected, expected.shape, size)


@RULED_OUT
@pytest.mark.parametrize("shape", POOLS)
def test_softmax_at_is_scipys(dtype, kind, shape):
    pool = Pool(shape, kind, dtype, 3)
    labels = pool.labels
    for x, asked, entries, _ in pool.calls():
        found = ops.softmax_at(x, labels, asked, pool.coef, pool.intercept)
        expected = [
            0.0 if expert < 0 else log_softmax(pool.values(i, expert))[label]
            for i, (row, label) in enumerate(zip(entries, pool.labels, strict=True))
            for expert in row
        ]
        pool.close(found, expected, entries.shape)


@RULED_OUT
@pytest.mark.parametrize("shape", POOLS)
def test_softmax_mix_is_scipys(dtype, kind, shape):
    pool = Pool(shape, kind, dtype, 3)
    for x, asked, entries, weights in pool.calls():
        expected = np.zeros((len(entries), 3))
        found = ops.softmax_mix(x, asked, weights, pool.coef, pool.intercept)
        for i, j in np.ndindex(entries.shape):
            if entries[i, j] >= 0:
                proba = softmax(pool.values(i, entries[i, j]))
                expected[i] += weights[i, j] * proba
        pool.close(found, expected, expected.shape)


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_normal_log_density_is_scipys(dtype, rng, n, q):
    indices = rng.integers(-1, 4, size=(n, 3))
    scale = 0.1 + rng.random((4, q))
    y = rng.normal(size=(n, q)).astype(dtype)
    y[1::3, 0] = np.nan
    for asked in (indices, None):
        entries = np.tile(np.arange(4), (n, 1)) if asked is None else asked
        values = rng.normal(size=(*entries.shape, q)).astype(dtype)
        found = ops.normal_log_density(y, values, scale, asked)
        assert found.dtype == dtype
        assert found.shape == entries.shape
        for (i, j), expert in np.ndenumerate(entries):
            expected = -np.inf
            if expert >= 0:
                expected = norm.logpdf(y[i], values[i, j], scale[expert]).sum()
            assert_allclose(found[i, j], expected, rtol=10 * TOLERANCE[dtype])


# --------------------------------------------------------- sums over some of the rows
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_segment_sums_are_a_loop(dtype, indices, rng):
    X = rng.normal(size=(len(indices), 4)) * (rng.random((len(indices), 4)) < 0.7)
    weights = rng.random(indices.shape).astype(dtype)
    order, offsets = ops.expert_major(indices, 5)
    expected = np.zeros((5, 5))
    for (i, j), expert in np.ndenumerate(indices):
        if expert >= 0:
            x = X[i].astype(dtype).astype(float)
            expected[expert] += float(weights[i, j]) * np.append(x, 1.0)
    for x in forms(X, dtype):
        found = ops.segment_sums(x, weights, order, offsets)
        assert found.dtype == np.float64
        assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_segment_sums_of_no_rows_are_zero(dtype):
    order, offsets = ops.expert_major(np.zeros((0, 2), dtype=np.int64), 3)
    X, weights = np.ones((0, 4), dtype=dtype), np.ones((0, 2), dtype=dtype)
    found = ops.segment_sums(X, weights, order, offsets)
    assert_array_equal(found, np.zeros((3, 5)))


@pytest.mark.parametrize("rows", [[4, 0, 9, 4, 22, 7], [5], [], list(range(23))])
def test_gram_of_some_rows_is_a_loop(dtype, rows, rng):
    X, _, _ = sparse_problem(rng, dtype)
    Y, mass = rng.normal(size=(23, 2)).astype(dtype), rng.random(len(rows))
    mass[1:2] = 0.0
    rows = np.array(rows, dtype=np.int64)
    x, y = X[rows].astype(np.float64), Y[rows].astype(np.float64)
    total = mass.sum() or 1.0
    x_mean, y_mean = mass @ x / total, mass @ y / total
    A, B = np.zeros((4, 4)), np.zeros((4, 2))
    for a, b, w in zip(x - x_mean, y - y_mean, mass, strict=True):
        A += w * np.outer(a, a)
        B += w * np.outer(a, b)
    for features in forms(X, dtype):
        answers = ops.gram(features, Y, mass, rows)
        for found, expected in zip(answers, (A, B, x_mean, y_mean), strict=True):
            assert found.dtype == np.float64
            # CSR is not centred beforehand: float64 loses some digits.
            assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
