"""Routing: small cases by hand, and naive loops over random shapes."""

import array_api_strict as strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmoe.backends import to_host
from skmoe.routing import Routing, gather


@st.composite
def routings(draw, containers=("numpy", "strict")):
    """Draw a routing, dense or sparse with -1 padding, NumPy or strict."""
    n, n_experts = draw(st.integers(1, 7)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    put = strict.asarray if draw(st.sampled_from(containers)) == "strict" else np.array
    if draw(st.booleans()):
        return Routing.from_dense(put(rng.random((n, n_experts))))
    width = draw(st.integers(1, n_experts))
    indices = np.array([rng.permutation(n_experts)[:width] for _ in range(n)])
    indices[rng.random(indices.shape) < draw(st.sampled_from([0.0, 0.4, 1.0]))] = -1
    weights = np.where(indices < 0, 0.0, rng.random(indices.shape))
    return Routing(put(indices), put(weights), n_experts)


def entries(routing):
    """Return (row, column, expert, weight) of each entry, in row-major order."""
    indices, weights = to_host(routing.indices), to_host(routing.weights)
    return [
        (i, j, indices[i, j], weights[i, j])
        for i, j in np.ndindex(indices.shape)
        if indices[i, j] >= 0
    ]


def full(routing):
    """Return the (n_rows, n_experts) matrix of weights, from a loop."""
    table = np.zeros((routing.shape[0], routing.n_experts))
    for i, _, k, w in entries(routing):
        table[i, k] += w
    return table


def like(routing, array):
    """Put an array into the container of the routing."""
    return array if isinstance(routing.weights, np.ndarray) else strict.asarray(array)


# --------------------------------------------------------------------- by hand
@pytest.fixture
def routing():
    indices = np.array([[2, 0], [-1, 2], [0, -1]])
    weights = np.array([[0.75, 0.25], [0.0, 1.0], [2.0, 0.0]])
    return Routing(indices, weights, n_experts=4)


def test_small_case_by_hand(routing):
    assert routing.shape == (3, 2)
    order, bounds = routing.expert_major
    rows = order // routing.shape[1]
    assert order.tolist() == [2, 5, 1, 4, 0, 3]
    assert rows.tolist() == [1, 2, 0, 2, 0, 1]
    assert bounds == [2, 4, 4, 6, 6]
    found = {k: (r.tolist(), w.tolist()) for k, r, w in routing.segments()}
    assert found == {
        0: ([0, 2], [0.25, 2.0]),
        1: ([], []),
        2: ([0, 1], [0.75, 1.0]),
        3: ([], []),
    }
    assert routing.load().tolist() == [2, 0, 2, 0]
    assert routing.sum_by_expert(routing.weights).tolist() == [2.25, 0, 1.75, 0]
    assert_array_equal(
        routing.to_csr().toarray(), [[0.25, 0, 0.75, 0], [0, 0, 1, 0], [2, 0, 0, 0]]
    )
    X = np.array([[1.0], [10.0], [100.0]])
    expected = [[200.25, 2.25], [0, 0], [10.75, 1.75], [0, 0]]
    assert_array_equal(routing.weighted_sums(X), expected)
    asked = []

    def answer(k, rows):
        asked.append(k)
        return X[rows] * (k + 1)

    values = routing.dispatch(answer, n_outputs=1)
    assert asked == [0, 2]  # nobody asks an expert without rows
    assert_array_equal(values[:, :, 0], [[3, 1], [0, 30], [100, 0]])
    assert_array_equal(routing.combine(values), [[2.5], [30], [200]])


def test_dense_by_hand():
    weights = np.array([[0.25, 0.75], [1.0, 0.0]])
    routing = Routing.from_dense(weights)
    assert routing.dense
    assert_array_equal(routing.indices, [[0, 1], [0, 1]])
    rows, column = routing.segment(1)
    assert rows is None
    assert column.tolist() == [0.75, 0.0]
    assert routing.load().tolist() == [2, 1]
    csr = routing.to_csr()
    assert csr.nnz == 3  # zeros are dropped
    assert_array_equal(csr.toarray(), weights)


def test_from_labels():
    routing = Routing.from_labels(np.array([1, 0, 1]), 3)
    assert_array_equal(routing.to_csr().toarray(), [[0, 1, 0], [1, 0, 0], [0, 1, 0]])
    assert routing.shape == (3, 1)
    assert routing.load().tolist() == [1, 2, 0]


def test_with_weights_shares_the_sorted_view(routing):
    before = routing.expert_major
    other = routing.with_weights(2 * routing.weights)
    assert other.expert_major is before
    assert other.indices is routing.indices
    assert_array_equal(other.to_csr().toarray(), 2 * routing.to_csr().toarray())
    assert routing.weights[0, 0] == 0.75
    late = Routing(routing.indices, routing.weights, 4).with_weights(routing.weights)
    assert_array_equal(late.expert_major[0], before[0])


def test_scaled_multiplies_rows(routing):
    factor = np.array([2.0, 0.5, 3.0])
    expected = routing.to_csr().toarray() * factor[:, None]
    assert_array_equal(routing.scaled(factor).to_csr().toarray(), expected)


def test_gather_by_hand():
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    found = gather(values, np.array([[2, 0], [1, -1]]))
    assert found[0].tolist() == [3.0, 1.0]
    assert found[1, 0] == 5.0  # the value at -1 is the caller's to mask


# -------------------------------------------------------------- over all shapes
@given(routings())
def test_csr_is_the_dense_construction(routing):
    csr = routing.to_csr()
    assert isinstance(csr, sparse.csr_array)
    assert csr.has_sorted_indices
    assert csr.shape == (routing.shape[0], routing.n_experts)
    assert_array_equal(csr.toarray(), full(routing))


@given(routings())
def test_expert_major_and_segments_are_loops(routing):
    order, bounds = routing.expert_major
    flat = to_host(routing.indices).ravel().tolist()
    expected = sorted(range(len(flat)), key=lambda i: (flat[i], i))
    assert to_host(order).tolist() == expected
    below = [sum(e < k for e in flat) for k in range(routing.n_experts + 1)]
    assert bounds == below
    table = full(routing)
    seen = []
    for k, rows, weights in routing.segments():
        seen.append(k)
        owned = [i for i, _, expert, _ in entries(routing) if expert == k]
        rows = np.arange(routing.shape[0]) if rows is None else to_host(rows)
        assert rows.tolist() == owned
        assert_array_equal(to_host(weights), table[owned, k])
    assert seen == list(range(routing.n_experts))


@given(routings(), st.integers(1, 3))
def test_dispatch_and_combine_are_loops(routing, q):
    n = routing.shape[0]
    rng = np.random.default_rng(n)
    table = rng.normal(size=(n, routing.n_experts, q))

    def answer(k, rows):
        rows = np.arange(n) if rows is None else to_host(rows)
        return like(routing, table[rows, k])

    values = routing.dispatch(answer, n_outputs=q)
    assert type(values) is type(routing.weights)
    found = entries(routing)
    expected = np.zeros((*routing.shape, q))
    for i, j, k, _ in found:
        expected[i, j] = table[i, k]
    assert_array_equal(to_host(values), expected)
    mixture = np.zeros((n, expected.shape[2]))
    for i, j, _, w in found:
        mixture[i] += w * expected[i, j]
    assert_allclose(to_host(routing.combine(values)), mixture, atol=1e-14)


@given(routings())
def test_sums_by_expert_are_loops(routing):
    n = routing.shape[0]
    values = np.random.default_rng(n).normal(size=routing.shape)
    expected, load = np.zeros(routing.n_experts), np.zeros(routing.n_experts)
    for i, j, k, w in entries(routing):
        expected[k] += values[i, j]
        load[k] += w > 0
    found = routing.sum_by_expert(like(routing, values))
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.float64
    assert_allclose(found, expected, atol=1e-13)
    assert_array_equal(routing.load(), load)


@given(routings(), st.sampled_from([np.float32, np.float64]))
def test_weighted_sums_are_loops(routing, dtype):
    n = routing.shape[0]
    X = np.random.default_rng(n).normal(size=(n, 2)).astype(dtype)
    expected = np.zeros((routing.n_experts, 3))
    for i, _, k, w in entries(routing):
        expected[k] += w * np.append(X[i].astype(np.float64), 1.0)
    found = to_host(routing.weighted_sums(like(routing, X)))
    assert found.dtype == np.float64
    assert_allclose(found, expected, atol=1e-13)


@given(routings(containers=("numpy",)))
def test_weighted_sums_of_csr(routing):
    n = routing.shape[0]
    X = np.round(np.random.default_rng(n).normal(size=(n, 3)))
    found = routing.weighted_sums(sparse.csr_array(X))
    assert_allclose(found, routing.weighted_sums(X), atol=1e-13)


@given(routings(), st.data())
def test_take_is_a_routing_of_the_rows(routing, data):
    n = routing.shape[0]
    rows = np.array(
        data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6)), dtype=int
    )
    taken = routing.take(like(routing, rows))
    assert taken.dense == routing.dense
    assert_array_equal(taken.to_csr().toarray(), full(routing)[rows])


@given(routings())
def test_scaled_is_a_loop(routing):
    factor = np.random.default_rng(3).random(routing.shape[0])
    scaled = routing.scaled(like(routing, factor))
    assert_allclose(scaled.to_csr().toarray(), full(routing) * factor[:, None])
    assert_array_equal(to_host(scaled.indices), to_host(routing.indices))


@given(routings())
@settings(max_examples=30)
def test_gather_reads_entries(routing):
    n = routing.shape[0]
    values = np.random.default_rng(n).normal(size=(n, routing.n_experts))
    found = to_host(gather(like(routing, values), routing.indices))
    for i, j, k, _ in entries(routing):
        assert found[i, j] == values[i, k]


def test_dispatch_stays_on_a_second_device():
    device = strict.Device("device1")
    indices = strict.asarray(np.array([[1, -1], [0, 1]]), device=device)
    weights = strict.asarray(np.array([[1.0, 0.0], [0.5, 0.5]]), device=device)
    routing = Routing(indices, weights, 2)
    X = strict.asarray(np.array([[1.0], [2.0]]), device=device)
    values = routing.dispatch(lambda k, rows: strict.take(X, rows, axis=0), 1)
    assert values.device == device
    assert_array_equal(to_host(routing.combine(values)), [[1.0], [2.0]])
    sums = routing.weighted_sums(X)
    assert sums.device == device
    assert_array_equal(to_host(sums), [[1.0, 0.5], [2.0, 1.5]])


@pytest.mark.parametrize("table", [np.arange(3.0), np.arange(12.0).reshape(3, 2, 2)])
def test_lookup_reads_a_table_at_each_entry(table):
    indices = np.array([[2, 0], [1, -1]])
    routing = Routing(indices, np.array([[0.5, 0.5], [1.0, 0.0]]), 3)
    assert_array_equal(routing.lookup(table), table[np.maximum(indices, 0)])
