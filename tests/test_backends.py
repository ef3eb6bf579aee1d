"""The plain backend against naive loops, scipy and central differences."""

from itertools import pairwise

import array_api_strict as strict
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.special import log_softmax, logsumexp, softmax

from skmoe.backends import _reference, namespace, select, to_host

BACKENDS = [pytest.param(_reference, id="reference")]
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-10}
DEVICES = {"strict": "CPU_DEVICE", "strict-device": "device1"}


class Box:
    """Puts NumPy arrays into a container and takes answers out, checking them."""

    def __init__(self, kind):
        self.kind = kind

    def put(self, array):
        if self.kind == "numpy":
            return array
        return strict.asarray(array, device=strict.Device(DEVICES[self.kind]))

    def pull(self, array):
        put = self.put(np.zeros(1))
        assert type(array) is type(put)
        assert self.kind == "numpy" or array.device == put.device
        return to_host(array)


@pytest.fixture(params=["numpy", "strict", "strict-device"])
def box(request):
    return Box(request.param)


@pytest.fixture(params=BACKENDS)
def ops(request):
    return request.param


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
def test_row_blocks_cover_each_row_once(ops, blocks, n_rows, n_columns):
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
