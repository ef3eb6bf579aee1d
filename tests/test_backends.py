"""The reference and Numba against naive loops, scipy and central differences."""

from importlib.util import find_spec
from itertools import pairwise, product

import array_api_strict as strict
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import norm

from skmoe.backends import _numba, _reference, namespace, select, to_host
from skmoe.backends._numba import _operations

BACKENDS = {"reference": _reference, "numba": _numba}
PAIRS = [
    ("reference", "numpy"),
    ("reference", "strict"),
    ("reference", "strict-device"),
    ("reference", "torch"),
    ("numba", "numpy"),
]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
DEVICES = {"strict": "CPU_DEVICE", "strict-device": "device1"}
NEEDS_TORCH = pytest.mark.skipif(
    find_spec("torch") is None, reason="PyTorch is not installed"
)


class Box:
    """Puts NumPy arrays into a container and takes answers out, checking them."""

    def __init__(self, kind):
        self.kind = kind

    def put(self, array):
        if self.kind == "numpy":
            return array
        if self.kind == "torch":
            import torch

            return torch.asarray(array)
        return strict.asarray(array, device=strict.Device(DEVICES[self.kind]))

    def pull(self, array):
        put = self.put(np.zeros(1))
        assert type(array) is type(put)
        assert array.device == put.device
        return to_host(array)


def pytest_generate_tests(metafunc):
    """Give ``ops`` each backend, with every ``box`` that it takes."""
    if "box" in metafunc.fixturenames:
        pairs = [
            pytest.param(
                BACKENDS[name],
                Box(kind),
                id=f"{name}-{kind}",
                marks=[NEEDS_TORCH] if kind == "torch" else [],
            )
            for name, kind in PAIRS
        ]
        metafunc.parametrize(("ops", "box"), pairs)
    elif "ops" in metafunc.fixturenames:
        metafunc.parametrize("ops", BACKENDS.values(), ids=BACKENDS)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=["one block", "tiny blocks"])
def blocks(request, monkeypatch):
    """Run a test as it is, and again with blocks of a few rows."""
    if request.param == "tiny blocks":
        monkeypatch.setattr(_reference._rows, "BLOCK_ELEMENTS", 10)
        monkeypatch.setattr(_operations, "RUN", 1)
        monkeypatch.setattr(_operations, "PARTS", 8)


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
    assert callable(select(array).logsumexp)


@pytest.mark.parametrize(("n_rows", "n_columns"), [(0, 3), (1, 100), (23, 3), (5, 0)])
def test_row_blocks_cover_each_row_once(blocks, n_rows, n_columns):
    slices = list(_reference.row_blocks(n_rows, n_columns))
    rows = [row for block in slices for row in range(n_rows)[block]]
    assert rows == list(range(n_rows))
    limit = max(1, _reference._rows.BLOCK_ELEMENTS // max(1, n_columns))
    assert all(block.stop - block.start <= limit for block in slices)


# ------------------------------------------------------------------ candidates
def test_novel_by_hand(ops, box):
    known = np.array([[0, 2], [1, -1]])
    more = np.array([[2, 1, 1, 3], [-1, 1, 3, 3]])
    found = box.pull(ops.novel(box.put(known), box.put(more)))
    assert_array_equal(found, [[-1, 1, -1, 3], [-1, -1, 3, -1]])


@pytest.mark.parametrize("seed", range(8))
def test_novel_never_repeats_an_expert(ops, box, seed):
    rng = np.random.default_rng(seed)
    known = np.argsort(rng.random((7, 5)), axis=1)[:, :2]
    more = rng.integers(-1, 5, size=(7, 4))
    found = box.pull(ops.novel(box.put(known), box.put(more)))
    for old, asked, new in zip(known, more, found, strict=True):
        kept = [k for k in new if k >= 0]
        assert len(kept) == len(set(kept))
        assert set(kept) == {k for k in asked if k >= 0} - set(old)


# --------------------------------------------------------------------- softmax
@pytest.mark.parametrize("values", CASES)
def test_logsumexp_is_scipys(ops, box, dtype, values):
    found = box.pull(ops.logsumexp(box.put(values.astype(dtype))))
    assert found.dtype == dtype
    assert found.shape == values.shape[:1]
    expected = logsumexp(values, axis=-1)
    assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_logsumexp_works_on_the_last_axis(ops, rng):
    values = rng.normal(size=(2, 3, 4))
    assert_allclose(ops.logsumexp(values), logsumexp(values, axis=-1))


def test_logsumexp_of_infinity_and_nan(ops):
    values = np.array([[np.inf, 0.0], [np.nan, 0.0], [-np.inf, 3.0]])
    assert_array_equal(ops.logsumexp(values), [np.inf, np.nan, 3.0])


@pytest.mark.parametrize("name", ["random", "tied", "extreme", "masked", "single row"])
def test_log_softmax_is_scipys(ops, box, dtype, name):
    values = logit_cases()[name]
    found = box.pull(ops.log_softmax(box.put(values.astype(dtype))))
    assert found.dtype == dtype
    expected = log_softmax(values, axis=-1)
    assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("values", CASES)
def test_normalise_shares_each_row(ops, box, dtype, values):
    resp, norm = ops.normalise(box.put(values.astype(dtype)))
    resp, norm = box.pull(resp), box.pull(norm)
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
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("values", CASES)
def test_top_k_values_are_the_largest(ops, box, dtype, values, k):
    scores = values.astype(dtype)
    k = min(k, scores.shape[1])
    best, indices = ops.top_k(box.put(scores), k)
    best, indices = box.pull(best), box.pull(indices)
    assert best.dtype == dtype
    assert best.shape == indices.shape == (len(scores), k)
    for row, found, where in zip(scores, best, indices, strict=True):
        assert_array_equal(found, sorted(row, reverse=True)[:k])
        assert_array_equal(row[where], found)
        assert len(set(where.tolist())) == k


def test_top_k_gives_ties_to_the_lowest_index(ops, box):
    scores = box.put(np.array([[1.0, 2.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    assert_array_equal(box.pull(ops.top_k(scores, 3)[1]), [[1, 2, 0], [0, 1, 2]])


INDICES = {
    "random": np.array([[2, 0], [0, 3], [3, 2], [0, 2]]),
    "padded": np.array([[2, -1], [-1, -1], [-1, 0], [3, 2]]),
    "empty experts": np.array([[4], [4], [4]]),
    "single row": np.array([[1, 3, 0]]),
    "no entries": np.array([[-1, -1]]),
}


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_expert_major_is_a_stable_sort(ops, box, indices):
    n_experts = 5
    order, offsets = ops.expert_major(box.put(indices), n_experts)
    order, offsets = box.pull(order), box.pull(offsets)
    flat = indices.ravel().tolist()
    assert order.tolist() == sorted(range(len(flat)), key=lambda i: (flat[i], i))
    below = [sum(expert < k for expert in flat) for k in range(n_experts + 1)]
    assert offsets.tolist() == below


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_spread_undoes_the_sort(ops, box, dtype, indices, rng):
    n, m = indices.shape
    entries = rng.normal(size=(n, m, 3)).astype(dtype)
    order, offsets = ops.expert_major(box.put(indices), 5)
    flat = entries.reshape(-1, 3)[to_host(order)]
    cuts = [0, *to_host(offsets).tolist()]
    parts = [box.put(flat[a:b]) for a, b in pairwise(cuts)]
    found = box.pull(ops.spread(parts, order, (n, m)))
    assert found.dtype == dtype
    assert_array_equal(found, entries)


def test_combine_is_a_weighted_sum(ops, box, dtype, rng):
    weights, values = rng.random((4, 3)), rng.normal(size=(4, 3, 2))
    weights, values = weights.astype(dtype), values.astype(dtype)
    found = box.pull(ops.combine(box.put(weights), box.put(values)))
    assert found.dtype == dtype
    for i in range(4):
        expected = sum(weights[i, j] * values[i, j] for j in range(3))
        assert_allclose(found[i], expected, rtol=TOLERANCE[dtype], atol=1e-7)


@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_sum_by_expert_is_a_loop(ops, box, dtype, indices, rng):
    values = rng.random(indices.shape).astype(dtype)
    order, offsets = ops.expert_major(box.put(indices), 5)
    found = ops.sum_by_expert(box.put(values), order, offsets)
    for k in range(5):
        expected = values.astype(np.float64)[indices == k].sum()
        assert_allclose(found[k], expected, rtol=1e-12)


def test_sum_by_expert_of_columns_and_in_float64(ops, box):
    values = np.full((3, 2), 1.0, dtype=np.float32)
    values[0] = 2.0**24, 2.0**25  # float32 cannot hold 2**24 + 1
    found = ops.sum_by_expert(box.put(values), None, None)
    assert found == [2.0**24 + 2, 2.0**25 + 2]


# ---------------------------------------------------------- linear algebra of X
def test_take_rows(ops, box, rng):
    X, rows = rng.normal(size=(5, 3)), np.array([4, 0, 4])
    inside = box.put(X)
    assert ops.take_rows(inside, None) is inside
    assert_array_equal(box.pull(ops.take_rows(inside, box.put(rows))), X[rows])
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


def test_weighted_moments_are_numpys(ops, box, dtype, blocks, rng):
    X, mass, _ = sparse_problem(rng, dtype)
    mean, variance = ops.weighted_moments(box.put(X), box.put(mass))
    mean, variance = box.pull(mean), box.pull(variance)
    assert mean.dtype == variance.dtype == np.float64
    exact = X.astype(np.float64)
    expected = np.average(exact, axis=0, weights=mass)
    assert_allclose(mean, expected, rtol=1e-12)
    expected = np.average((exact - expected) ** 2, axis=0, weights=mass)
    assert_allclose(variance, expected, rtol=1e-12)


def test_weighted_moments_of_a_single_row(ops, box, dtype):
    X = np.array([[1.0, -2.0]], dtype=dtype)
    mean, variance = ops.weighted_moments(box.put(X), box.put(np.array([0.3])))
    assert_allclose(box.pull(mean), X[0])
    assert_allclose(box.pull(variance), 0.0, atol=1e-30)


def test_large_offsets_do_not_cancel(ops, box, blocks, rng):
    noise = rng.normal(size=(200, 3))
    X = np.round(1e6 + noise, 6)  # what is left of the noise is known exactly
    noise, mass = X - 1e6, rng.random(200)
    Y = rng.normal(size=(200, 2))
    mean = np.average(noise, axis=0, weights=mass)
    centred = noise - mean
    _, variance = ops.weighted_moments(box.put(X), box.put(mass))
    expected = np.average(centred**2, axis=0, weights=mass)
    assert_allclose(box.pull(variance), expected, rtol=1e-8)
    A, B, x_mean, _ = ops.gram(box.put(X), box.put(Y), box.put(mass))
    scale = mass.sum()
    expected = (centred * mass[:, None]).T @ centred
    assert_allclose(box.pull(A), expected, rtol=1e-8, atol=1e-8 * scale)
    expected = (centred * mass[:, None]).T @ (Y - np.average(Y, axis=0, weights=mass))
    assert_allclose(box.pull(B), expected, rtol=1e-8, atol=1e-8 * scale)
    assert_allclose(box.pull(x_mean), 1e6 + mean, rtol=1e-14)


def test_column_sums_are_a_loop(ops, box, dtype, blocks, rng):
    X, _, targets = sparse_problem(rng, dtype)
    found = box.pull(ops.column_sums(box.put(X), box.put(targets)))
    assert found.dtype == np.float64
    assert found.shape == (3, 5)
    for k in range(3):
        expected = sum(
            t[k] * np.append(x, 1.0)
            for x, t in zip(X.astype(np.float64), targets, strict=True)
        )
        assert_allclose(found[k], expected, rtol=1e-11, atol=1e-13)


def test_column_sums_of_no_rows_are_zero(ops):
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


def test_softmax_loss_is_a_loop(ops, box, dtype, blocks, rng):
    X, exact, mass, targets, sums, coef, intercept = softmax_problem(rng, dtype)
    loss, g_coef, g_intercept = ops.softmax_loss(
        *(box.put(a) for a in (X, mass, sums, coef, intercept))
    )
    tol = TOLERANCE[dtype]
    assert_allclose(loss, naive_loss(exact, targets, coef, intercept), rtol=10 * tol)
    pull = softmax(exact @ coef.T + intercept, axis=1) * mass[:, None] - targets
    assert_allclose(box.pull(g_coef), pull.T @ exact, atol=10 * tol)
    assert_allclose(box.pull(g_intercept), pull.sum(axis=0), atol=10 * tol)
    assert g_coef.dtype == box.put(sums).dtype  # float64


def test_softmax_loss_has_the_gradient_of_central_differences(ops, rng):
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


def test_softmax_loss_survives_extreme_logits(ops, box, dtype):
    X = np.array([[700.0], [-700.0]], dtype=dtype)
    targets = np.array([[1.0, 0.0], [1.0, 0.0]])
    sums = np.column_stack([targets.T @ X.astype(np.float64), targets.sum(axis=0)])
    coef, intercept = np.array([[1.0], [-1.0]]), np.zeros(2)
    loss, g_coef, g_intercept = ops.softmax_loss(
        *(box.put(a) for a in (X, np.ones(2), sums, coef, intercept))
    )
    assert_allclose(loss, 1400.0, rtol=1e-6)  # the second row is surely wrong
    assert_allclose(box.pull(g_coef), [[700.0], [-700.0]], rtol=1e-6)
    assert_allclose(box.pull(g_intercept), [-1.0, 1.0], rtol=1e-6)


def test_gram_is_numpys(ops, box, dtype, blocks, rng):
    X, mass, _ = sparse_problem(rng, dtype)
    Y = rng.normal(size=(23, 2)).astype(dtype)
    A, B, x_mean, y_mean = ops.gram(box.put(X), box.put(Y), box.put(mass))
    x, y = X.astype(np.float64), Y.astype(np.float64)
    mean_x = np.average(x, axis=0, weights=mass)
    mean_y = np.average(y, axis=0, weights=mass)
    W = np.diag(mass)
    assert_allclose(box.pull(A), (x - mean_x).T @ W @ (x - mean_x), atol=1e-12)
    assert_allclose(box.pull(B), (x - mean_x).T @ W @ (y - mean_y), atol=1e-12)
    assert_allclose(box.pull(x_mean), mean_x, atol=1e-14)
    assert_allclose(box.pull(y_mean), mean_y, atol=1e-14)
    assert A.dtype == B.dtype == x_mean.dtype == box.put(np.ones(1)).dtype


@pytest.mark.parametrize("n", [0, 4])
def test_gram_without_mass_is_zero(ops, box, n):
    X, Y, mass = np.ones((n, 2)), np.ones((n, 1)), np.zeros(n)
    for answer in ops.gram(box.put(X), box.put(Y), box.put(mass)):
        assert_array_equal(box.pull(answer), np.zeros(answer.shape))


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix])
def test_csr_equals_dense(ops, dtype, blocks, form, rng):
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
def test_softmax_is_scipys(ops, box, dtype, values):
    found = box.pull(ops.softmax(box.put(values.astype(dtype))))
    assert found.dtype == dtype
    assert found.shape == values.shape
    for row, share in zip(values, found, strict=True):
        assert_allclose(share, shares(row), rtol=1e-4, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("values", WITH_NAN)
def test_truncate_keeps_the_best(ops, box, dtype, values):
    tol = TOLERANCE[dtype]
    for width in range(1, values.shape[1] + 1):
        answers = ops.truncate(box.put(values.astype(dtype)), width)
        kept, resp, log_norm = map(box.pull, answers)
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


def forms(box, X, dtype):
    """Yield X in all containers that an operation takes beside such a box."""
    yield box.put(X.astype(dtype))
    if box.kind == "numpy":
        yield sparse.csr_array(X.astype(dtype))
        # Kernels are compiled for each dtype: of wide indices one is enough.
        if dtype == np.float64:
            wide = sparse.csr_matrix(X)
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
def test_softmax_route_is_a_loop(ops, box, dtype, blocks, gate):
    X, coef, intercept = gate
    logits = all_logits(X, coef, intercept)
    for x, k in product(forms(box, X, dtype), COUNTS):
        answers = ops.softmax_route(x, box.put(coef), box.put(intercept), k)
        indices, weights = map(box.pull, answers)
        assert indices.dtype == np.int64
        assert weights.dtype == dtype
        assert indices.shape == weights.shape == (len(X), k)
        for row, experts, share in zip(logits, indices, weights, strict=True):
            assert experts.tolist() == ranked(row)[:k]
            expected = shares(row[experts])
            assert_allclose(share, expected, rtol=1e-4, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("gate", GATES)
def test_softmax_log_proba_is_scipys(ops, box, dtype, blocks, gate):
    X, coef, intercept = gate
    with np.errstate(invalid="ignore"):  # -inf - -inf where all are ruled out
        expected = log_softmax(all_logits(X, coef, intercept), axis=1)
        for x in forms(box, X, dtype):
            found = ops.softmax_log_proba(x, box.put(coef), box.put(intercept))
            found = box.pull(found)
            assert found.dtype == dtype
            assert found.shape == expected.shape
            tol = 5 * TOLERANCE[dtype]
            assert_allclose(found, expected, rtol=tol, atol=tol)


@pytest.mark.parametrize("gate", GATES)
def test_softmax_survey_is_a_loop(ops, box, dtype, blocks, gate):
    X, coef, intercept = gate
    logits = all_logits(X, coef, intercept)
    asked = np.random.default_rng(3).integers(-1, len(coef), size=(len(X), 4))
    with np.errstate(invalid="ignore"):
        log_proba = log_softmax(logits, axis=1)
    tol = 5 * TOLERANCE[dtype]
    for x, k in product(forms(box, X, dtype), COUNTS):
        tables = box.put(coef), box.put(intercept)
        with np.errstate(invalid="ignore", divide="ignore"):
            answers = ops.softmax_survey(x, *tables, box.put(asked), k)
        log_at, best, log_best = map(box.pull, answers)
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

    def calls(self, box):
        """Yield (X, entries or None, entries spelt out, weights)."""
        for x in forms(box, self.X, self.dtype):
            for asked in (self.indices, None):
                entries = self.everyone if asked is None else asked
                weights = self.weights[entries.shape[1]]
                put = None if asked is None else box.put(asked)
                yield x, put, entries, weights

    def values(self, i, expert):
        return affine(self.X[i], self.coef[expert], self.intercept[expert])

    def tables(self, box):
        return box.put(self.coef), box.put(self.intercept)

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
    multiplies = _reference._experts._product(pool.X, pool.indices, len(pool.coef))
    assert multiplies == POOLS[shape][-1]


@pytest.mark.parametrize("shape", POOLS)
def test_linear_at_is_a_loop(ops, box, dtype, blocks, kind, shape):
    pool = Pool(shape, kind, dtype, 2)
    for x, asked, entries, _ in pool.calls(box):
        found = box.pull(ops.linear_at(x, asked, *pool.tables(box)))
        expected = [
            np.zeros(2) if expert < 0 else pool.values(i, expert)
            for i, row in enumerate(entries)
            for expert in row
        ]
        pool.close(found, expected, (*entries.shape, 2))


@pytest.mark.parametrize("shape", POOLS)
def test_linear_mix_is_a_loop(ops, box, dtype, blocks, kind, shape):
    pool = Pool(shape, kind, dtype, 2)
    for x, asked, entries, weights in pool.calls(box):
        tables = pool.tables(box)
        found = box.pull(ops.linear_mix(x, asked, box.put(weights), *tables))
        expected = np.zeros((len(entries), 2))
        for i, j in np.ndindex(entries.shape):
            if entries[i, j] >= 0:
                expected[i] += weights[i, j] * pool.values(i, entries[i, j])
        size = 700.0 if kind == "extreme" else 1.0  # of what is summed
        pool.close(found, expected, expected.shape, size)


@RULED_OUT
@pytest.mark.parametrize("shape", POOLS)
def test_softmax_at_is_scipys(ops, box, dtype, blocks, kind, shape):
    pool = Pool(shape, kind, dtype, 3)
    labels = box.put(pool.labels)
    for x, asked, entries, _ in pool.calls(box):
        found = box.pull(ops.softmax_at(x, labels, asked, *pool.tables(box)))
        expected = [
            0.0 if expert < 0 else log_softmax(pool.values(i, expert))[label]
            for i, (row, label) in enumerate(zip(entries, pool.labels, strict=True))
            for expert in row
        ]
        pool.close(found, expected, entries.shape)


@RULED_OUT
@pytest.mark.parametrize("shape", POOLS)
def test_softmax_mix_is_scipys(ops, box, dtype, blocks, kind, shape):
    pool = Pool(shape, kind, dtype, 3)
    for x, asked, entries, weights in pool.calls(box):
        expected = np.zeros((len(entries), 3))
        tables = pool.tables(box)
        found = box.pull(ops.softmax_mix(x, asked, box.put(weights), *tables))
        for i, j in np.ndindex(entries.shape):
            if entries[i, j] >= 0:
                proba = softmax(pool.values(i, entries[i, j]))
                expected[i] += weights[i, j] * proba
        pool.close(found, expected, expected.shape)


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_normal_log_density_is_scipys(ops, box, dtype, rng, n, q):
    indices = rng.integers(-1, 4, size=(n, 3))
    scale = 0.1 + rng.random((4, q))
    y = rng.normal(size=(n, q)).astype(dtype)
    y[1::3, 0] = np.nan
    for asked in (indices, None):
        entries = np.tile(np.arange(4), (n, 1)) if asked is None else asked
        values = rng.normal(size=(*entries.shape, q)).astype(dtype)
        put = None if asked is None else box.put(asked)
        found = ops.normal_log_density(box.put(y), box.put(values), box.put(scale), put)
        found = box.pull(found)
        assert found.dtype == dtype
        assert found.shape == entries.shape
        for (i, j), expert in np.ndenumerate(entries):
            expected = -np.inf
            if expert >= 0:
                expected = norm.logpdf(y[i], values[i, j], scale[expert]).sum()
            assert_allclose(found[i, j], expected, rtol=10 * TOLERANCE[dtype])


# --------------------------------------------------------- sums over some of the rows
@pytest.mark.parametrize("indices", INDICES.values(), ids=INDICES)
def test_segment_sums_are_a_loop(ops, box, dtype, blocks, indices, rng):
    X = rng.normal(size=(len(indices), 4)) * (rng.random((len(indices), 4)) < 0.7)
    weights = rng.random(indices.shape).astype(dtype)
    order, offsets = ops.expert_major(box.put(indices), 5)
    expected = np.zeros((5, 5))
    for (i, j), expert in np.ndenumerate(indices):
        if expert >= 0:
            x = X[i].astype(dtype).astype(float)
            expected[expert] += float(weights[i, j]) * np.append(x, 1.0)
    for x in forms(box, X, dtype):
        found = box.pull(ops.segment_sums(x, box.put(weights), order, offsets))
        assert found.dtype == np.float64
        assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


def test_segment_sums_of_no_rows_are_zero(ops, box, dtype):
    order, offsets = ops.expert_major(box.put(np.zeros((0, 2), dtype=np.int64)), 3)
    X, weights = np.ones((0, 4), dtype=dtype), np.ones((0, 2), dtype=dtype)
    found = ops.segment_sums(box.put(X), box.put(weights), order, offsets)
    assert_array_equal(box.pull(found), np.zeros((3, 5)))


@pytest.mark.parametrize("rows", [[4, 0, 9, 4, 22, 7], [5], [], list(range(23))])
def test_gram_of_some_rows_is_a_loop(ops, box, dtype, blocks, rows, rng):
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
    for features in forms(box, X, dtype):
        answers = ops.gram(features, box.put(Y), box.put(mass), box.put(rows))
        for found, expected in zip(answers, (A, B, x_mean, y_mean), strict=True):
            found = box.pull(found)
            assert found.dtype == np.float64
            # CSR is not centred beforehand: float64 loses some digits.
            assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
