"""Gates made of several softmaxes: a grid of experts, and a tree of them."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from skmoe.backends import _numba, _reference
from skmoe.gates import HierarchicalGate, ProductGate, SoftmaxGate
from skmoe.gates._layout import (
    centroids,
    close_groups,
    equal_groups,
    grid,
    grow,
    grow_levels,
    nested_of,
    tree_of,
    widest_direction,
)
from skmoe.routing import Routing

TREES = {
    "one leaf": [0],
    "flat": [2, 0, 1],
    "binary": [[0, 1], [2, 3]],
    "ragged": [[0, [1, 2], 3], 4, [[5, 6], 7]],
    "only children": [[[[2]], 1], 0],
}
EXACT = {"max_iter": 2000, "tol": 1e-10}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def clustered(rng, n=400, d=4, n_experts=12):
    """Return rows and the soft responsibilities of as many clusters as experts."""
    middle = 3 * rng.normal(size=(n_experts, d))
    X = middle[rng.integers(n_experts, size=n)] + rng.normal(size=(n, d))
    distance = np.sum((X[:, None, :] - middle) ** 2, axis=2)
    resp = np.exp(-0.3 * (distance - distance.min(axis=1, keepdims=True)))
    return X, resp / resp.sum(axis=1, keepdims=True)


def two_a_row(resp):
    values, indices = _reference.top_k(resp, 2)
    return Routing(indices, values / values.sum(axis=1, keepdims=True), resp.shape[1])


# --------------------------------------------------------------------- layout
@pytest.mark.parametrize("nested", TREES.values(), ids=TREES)
def test_a_nested_list_survives(nested):
    tree = tree_of(nested)
    assert nested_of(tree) == nested
    for k, path in enumerate(tree.paths):
        edges = path[path >= 0]
        assert tree.owner[edges[0]] == 0
        assert tree.target[edges[-1]] == -1 - k == tree.target[tree.leaf[k]]
        assert_array_equal(tree.owner[edges[1:]], tree.target[edges[:-1]])
        assert_array_equal(tree.above[edges[1:]], edges[:-1])


def test_trees_are_equal_by_shape():
    assert tree_of([[0, 1], 2]) == tree_of([[0, 1], 2])
    assert tree_of([[0, 1], 2]) != tree_of([[0, 2], 1])
    assert tree_of([0]) != [0]


@pytest.mark.parametrize(("n", "n_groups"), [(7, 3), (8, 8), (100, 7), (5, 2)])
def test_groups_are_of_equal_size(rng, n, n_groups):
    members = rng.permutation(n)
    groups = equal_groups(rng.normal(size=(n, 3)), members, n_groups)
    assert len(groups) == n_groups
    assert np.ptp([len(group) for group in groups]) <= 1
    assert_array_equal(np.sort(np.concatenate(groups)), np.arange(n))


@pytest.mark.parametrize("split", [equal_groups, close_groups])
def test_groups_keep_neighbours_together(rng, split):
    points = np.repeat(10 * rng.normal(size=(4, 2)), 5, axis=0)
    points += 0.01 * rng.normal(size=points.shape)
    order = rng.permutation(20)
    for group in split(points[order], np.arange(20), 4):
        assert len(set(order[group] // 5)) == 1


def test_close_groups_may_differ_in_size(rng):
    points = np.concatenate([rng.normal(size=(9, 2)), [[50.0, 50.0]]])
    sizes = sorted(len(group) for group in close_groups(points, np.arange(10), 2))
    assert sizes == [1, 9]
    groups = close_groups(np.zeros((10, 2)), np.arange(10), 2)
    assert [len(group) for group in groups] == [5, 5]


def test_widest_direction_is_the_principal_one(rng):
    points = rng.normal(size=(50, 3)) * [1.0, 5.0, 2.0]
    _, _, V = np.linalg.svd(points - points.mean(axis=0))
    found = widest_direction(points)
    assert abs(found @ V[0]) == pytest.approx(1.0, abs=1e-6)
    assert_allclose(widest_direction(points[rng.permutation(50)]), found, atol=1e-12)
    assert_array_equal(widest_direction(np.ones((4, 2))), 0.0)


def test_centroids_are_standardised_means(rng):
    X, w = rng.normal(size=(20, 2)), rng.random(20)
    sums = np.array([[*(w @ X), w.sum()], [0.0, 0.0, 0.0]])
    found = centroids(sums, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    mean = np.average(X, axis=0, weights=w)
    assert_allclose(found[0], (mean - [1, 2]) / [3, 4])
    assert_array_equal(found[1], 0.0)


def test_grid_finds_the_grid(rng):
    a, b = np.divmod(rng.permutation(12), 3)
    cells = grid(np.column_stack([10.0 * a, b]), (4, 3))
    assert_array_equal(cells, np.column_stack([a, b]))


def test_a_tree_need_not_be_full(rng):
    points, members = rng.normal(size=(11, 2)), np.arange(11)
    levels = tree_of(grow_levels(points, members, [3, 2, 2]))
    assert levels.paths.shape == (11, 3)
    for tree in (levels, tree_of(grow(points, members, 3))):
        assert np.diff(tree.bounds).max() <= 3
        assert len(tree.leaf) == 11


def test_the_tree_does_not_depend_on_the_order_of_experts(rng):
    points, order = rng.normal(size=(40, 3)), rng.permutation(40)
    place = np.argsort(order)
    nested, other = (grow(p, np.arange(40), 4) for p in (points, points[order]))

    def as_set(node):
        return frozenset(as_set(c) if isinstance(c, list) else c for c in node)

    def renamed(node):
        return [renamed(c) if isinstance(c, list) else int(place[c]) for c in node]

    assert as_set(renamed(nested)) == as_set(other)


# -------------------------------------------------------------------- searches
def table(rng, nested, n=60, d=3, dtype=np.float64):
    tree = tree_of(nested)
    coef = 2 * rng.normal(size=(len(tree.target), d))
    return rng.normal(size=(n, d)).astype(dtype), coef, rng.normal(size=len(coef)), tree


@pytest.mark.parametrize("ops", [_reference, _numba], ids=["reference", "numba"])
@pytest.mark.parametrize("nested", TREES.values(), ids=TREES)
def test_log_proba_is_the_product_of_choices(rng, ops, nested):
    X, coef, intercept, tree = table(rng, nested)
    found = np.exp(ops.tree_log_proba(X, coef, intercept, tree))
    logits = X @ coef.T + intercept
    for k in range(len(tree.paths)):
        expected = np.ones(len(X))
        for edge in tree.paths[k][tree.paths[k] >= 0]:
            a, b = tree.bounds[tree.owner[edge] :][:2]
            expected *= np.exp(logits[:, edge]) / np.exp(logits[:, a:b]).sum(axis=1)
        assert_allclose(found[:, k], expected, rtol=1e-10)
    assert_allclose(found.sum(axis=1), 1.0)


@pytest.mark.parametrize("ops", [_reference, _numba], ids=["reference", "numba"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_a_search_as_wide_as_the_tree_is_exact(rng, ops, k):
    nested = grow(rng.normal(size=(30, 2)), np.arange(30), 3)
    X, coef, intercept, tree = table(rng, nested)
    log_proba = ops.tree_log_proba(X, coef, intercept, tree)
    expected, _ = _reference.top_k(log_proba, k)
    none = np.empty((60, 0), dtype=np.intp)
    _, best, log_best = ops.tree_survey(X, coef, intercept, tree, none, k, 30)
    assert_allclose(log_best, expected, rtol=1e-10)
    assert_allclose(np.take_along_axis(log_proba, best, axis=1), log_best)


@pytest.mark.parametrize("beam", [1, 2])
def test_a_narrow_search_finds_enough_leaves_and_their_probabilities(rng, beam):
    nested = np.arange(32).reshape((2,) * 5).tolist()
    X, coef, intercept, tree = table(rng, nested, n=500)
    log_proba = _reference.tree_log_proba(X, coef, intercept, tree)
    asked = rng.integers(-1, 32, size=(500, 3))
    at, best, log_best = _numba.tree_survey(X, coef, intercept, tree, asked, 4, beam)
    assert_allclose(np.take_along_axis(log_proba, best, axis=1), log_best)
    assert (np.diff(np.sort(best, axis=1), axis=1) > 0).all()
    assert (np.diff(log_best, axis=1) <= 0).all()
    expected = np.take_along_axis(log_proba, np.maximum(asked, 0), axis=1)
    assert_allclose(at, np.where(asked < 0, -np.inf, expected))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("nested", TREES.values(), ids=TREES)
def test_backends_search_alike(rng, nested, dtype):
    X, coef, intercept, tree = table(rng, nested, dtype=dtype)
    asked = rng.integers(-1, len(tree.paths), size=(60, 2))
    for k in range(min(4, len(tree.paths) + 1)):
        for beam in (1, 2, 8):
            arguments = (X, coef, intercept, tree, asked, k, beam)
            found = _numba.tree_survey(*arguments)
            expected = _reference.tree_survey(*arguments)
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == b.dtype
                assert_allclose(a, b, rtol=1e-5, atol=1e-5)


# ----------------------------------------------------------------- ProductGate
def test_product_gate_is_a_softmax_over_sums_of_logits(rng):
    X, resp = clustered(rng)
    gate = ProductGate((4, 3)).fit(X, resp)
    a, b = gate.cells_.T
    flat = SoftmaxGate().fit(X, resp)
    flat.coef_ = gate.coef_[a] + gate.coef_[4 + b]
    flat.intercept_ = gate.intercept_[a] + gate.intercept_[4 + b]
    assert_allclose(gate.log_proba(X), flat.log_proba(X), rtol=1e-9, atol=1e-9)
    for k in (1, 2, 7, 12):
        assert_allclose(gate.best(X, k)[0], flat.best(X, k)[0], rtol=1e-9, atol=1e-9)
        one, other = gate.route(X, k, 0.9), flat.route(X, k, 0.9)
        assert_allclose(one.weights, other.weights, atol=1e-9)


def test_product_gate_fits_marginals(rng):
    X, resp = clustered(rng)
    gate = ProductGate((4, 3), alpha=0.01, **EXACT).fit(X, resp)
    for axis, logits in enumerate([slice(4), slice(4, None)]):
        marginal = np.zeros((len(X), (4, 3)[axis]))
        np.add.at(marginal.T, gate.cells_[:, axis], resp.T)
        expected = SoftmaxGate(0.01, **EXACT).fit(X, marginal)
        assert_allclose(gate.coef_[logits], expected.coef_, atol=1e-6)


@pytest.mark.parametrize(
    ("n_experts", "shape"),
    [(1, (1, 1)), (7, (7, 1)), (12, (4, 3)), (16, (4, 4)), (10, (5, 2))],
)
def test_product_gate_takes_the_shape_nearest_to_a_square(rng, n_experts, shape):
    X = rng.normal(size=(50, 2))
    routing = Routing.from_labels(rng.integers(n_experts, size=50), n_experts)
    gate = ProductGate().fit(X, routing)
    assert gate.shape_ == shape
    assert len(np.unique(gate.cells_, axis=0)) == n_experts
    assert gate.n_parameters == (sum(shape) - 2) * 3


@pytest.mark.parametrize("shape", [(5, 3), (12,), (4.0, 3), (-4, -3), (2, 2, 3)])
def test_product_gate_names_a_wrong_shape(rng, shape):
    X, resp = clustered(rng)
    with pytest.raises(ValueError, match=r"product is the number of experts, 12; got"):
        ProductGate(shape).fit(X, resp)


# ------------------------------------------------------------ HierarchicalGate
def test_each_node_is_a_softmax_gate_on_its_rows(rng):
    X, resp = clustered(rng)
    routing = two_a_row(resp)
    gate = HierarchicalGate((3, 4), alpha=0.01, **EXACT).fit(X, routing)
    table = routing.to_csr().toarray()
    shares = np.column_stack([table[:, group].sum(axis=1) for group in gate.tree_])
    root = SoftmaxGate(0.01, **EXACT).fit(X, shares)
    assert_allclose(gate.coef_[:3], root.coef_, atol=1e-6)
    for c, group in enumerate(gate.tree_):
        rows = shares[:, c] > 0
        # The node's own standardisation would weigh the penalty differently.
        own = SoftmaxGate(0.0, **EXACT).fit(X[rows], table[rows][:, group])
        loose = HierarchicalGate((3, 4), alpha=0.0, **EXACT).fit(X, routing)
        log_proba = loose.log_proba(X[rows])[:, loose.tree_[c]]
        log_own = log_proba - np.logaddexp.reduce(log_proba, axis=1)[:, None]
        assert_allclose(np.exp(log_own), np.exp(own.log_proba(X[rows])), atol=1e-3)


def test_one_level_is_the_softmax_gate(rng):
    X, resp = clustered(rng)
    gate = HierarchicalGate((12,), alpha=0.01, **EXACT).fit(X, resp)
    flat = SoftmaxGate(0.01, **EXACT).fit(X, resp)
    assert_allclose(gate.log_proba(X), flat.log_proba(X), atol=1e-5)


def score(gate, X, routing, alpha):
    """Return Σ r log p less the penalty of each node, which update never lowers."""
    table = routing.to_csr().toarray()
    value = np.sum(table * gate.log_proba(X))
    spread = np.sum((gate.coef_ * gate._scale) ** 2, axis=1)
    if isinstance(gate, ProductGate):
        return value - 0.5 * alpha * spread.sum() * table.sum()
    reach = np.zeros(len(spread))
    for k, path in enumerate(gate._tree.paths):
        reach[path[path >= 0]] += table[:, k].sum()
    mass = np.bincount(gate._tree.owner, reach)
    return value - 0.5 * alpha * np.sum(spread * mass[gate._tree.owner])


@pytest.mark.parametrize("alpha", [0.0, 1e-4, 0.1])
@pytest.mark.parametrize("make", [ProductGate, HierarchicalGate, lambda **p:
                                  HierarchicalGate(2, **p)],
                         ids=["product", "tree", "binary tree"])  # fmt: skip
def test_update_never_lowers_the_objective(rng, make, alpha):
    X, resp = clustered(rng)
    gate = make(alpha=alpha).fit(X, resp)
    for seed in range(4):
        noise = np.random.default_rng(seed).exponential(size=resp.shape)
        routing = two_a_row(resp * noise)
        other = gate.update(X, routing)
        before, after = (score(g, X, routing, alpha) for g in (gate, other))
        assert after >= before - 1e-9 * abs(before)
        gate = other


def test_variants_change_an_update(rng):
    X, resp = clustered(rng)
    for gate in (ProductGate(), HierarchicalGate(3)):
        gate.fit(X, resp)
        sizes = []
        for variant in gate.variants():
            moved = gate.update(X, Routing.from_dense(resp))
            moved = moved.set_params(**variant.get_params())
            moved = moved.update(X, Routing.from_dense(resp))
            sizes.append(np.abs(moved.coef_).sum())
        assert sizes == sorted(sizes, reverse=True)
        assert clone(gate).set_params(alpha=0.1).variants()[0].alpha == 0.1
        assert len(clone(gate).set_params(alpha=0.1).variants()) == 1


def test_tree_can_be_given(rng):
    X, resp = clustered(rng, n_experts=5)
    gate = HierarchicalGate(tree=[[0, 3], [1, [2, 4]]]).fit(X, resp)
    assert gate.tree_ == [[0, 3], [1, [2, 4]]]
    assert gate.n_parameters == 4 * 5
    assert gate.update(X, Routing.from_dense(resp)).tree_ == gate.tree_


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([[0, 1], [2, 2]], "each expert from 0 to 3 in it once"),
        ([[0, 1], 2], "each expert from 0 to 3 in it once"),
        ([[0, 1], [2, 3], []], "none of them empty"),
        ([[0, 1], [2, 3.5]], "got 3.5 in it"),
    ],
)
def test_a_wrong_tree_is_named(rng, tree, message):
    X, resp = clustered(rng, n_experts=4)
    with pytest.raises(ValueError, match=message):
        HierarchicalGate(tree=tree).fit(X, resp)


@pytest.mark.parametrize("branching", [(2, 2), (12, 1), (3.0, 4), ()])
def test_a_wrong_branching_is_named(rng, branching):
    X, resp = clustered(rng)
    with pytest.raises(ValueError, match="product reaches the number of experts, 12"):
        HierarchicalGate(branching).fit(X, resp)


@pytest.mark.parametrize(
    ("name", "value"), [("branching", 1), ("beam", 0), ("alpha", -1), ("tree", "x")]
)
def test_hierarchical_gate_names_a_bad_parameter(rng, name, value):
    X, resp = clustered(rng)
    with pytest.raises(ValueError, match=f"The '{name}' parameter of HierarchicalGate"):
        HierarchicalGate(**{name: value}).fit(X, resp)


def test_splitting_experts_is_exact(rng):
    X, resp = clustered(rng, n_experts=5)
    gate = HierarchicalGate(2).fit(X, resp)
    experts = np.array([4, 0, 1, 2, 3, 0, 0, 4])
    taken, before = gate.take(experts), np.exp(gate.log_proba(X))
    times = np.bincount(experts)[experts]
    assert_allclose(np.exp(taken.log_proba(X)), before[:, experts] / times, rtol=1e-9)
    assert taken.n_experts_ == 8
    assert gate.n_experts_ == 5
    assert taken.update(X, taken.route(X)).n_experts_ == 8


def test_leaving_out_experts_is_refused(rng):
    X, resp = clustered(rng, n_experts=5)
    gate = HierarchicalGate(2).fit(X, resp)
    with pytest.raises(TypeError, match="cannot leave out experts, only split them"):
        gate.take(np.array([0, 1, 2, 3]))
    with pytest.raises(TypeError, match="ProductGate cannot leave out or split"):
        ProductGate().fit(X, resp).take(np.arange(5))


def test_search_agrees_with_the_exact_best_on_a_trained_gate(rng):
    X, resp = clustered(rng, n=2000, n_experts=64)
    gate = HierarchicalGate().fit(X, two_a_row(resp))
    exact = gate.log_proba(X).argmax(axis=1)
    assert np.mean(gate.best(X, 2)[1][:, 0] == exact) > 0.99


def test_rows_may_come_in_any_order(rng):
    X, resp = clustered(rng)
    order = rng.permutation(len(X))
    for gate in (ProductGate(**EXACT), HierarchicalGate(3, **EXACT)):
        expected = clone(gate).fit(X, resp).log_proba(X[order])
        found = gate.fit(X[order], resp[order]).log_proba(X[order])
        assert_allclose(found, expected, atol=1e-5)
