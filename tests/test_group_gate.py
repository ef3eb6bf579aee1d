"""The gate on known ids: shares by hand, blocks of indicators, ratings."""

import copy

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.preprocessing import OneHotEncoder

from skmoe import MoERegressor
from skmoe.gates import GroupGate
from skmoe.routing import Routing

K = 3


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def ids(rng):
    return rng.choice([-7, 0, 3, 40, 10**6], size=80).astype(float)


@pytest.fixture
def resp(rng):
    return rng.dirichlet(np.ones(K), size=80)


def one_hot(ids):
    return OneHotEncoder().fit_transform(ids[:, None])


def proba(gate, X):
    return np.exp(gate.log_proba(X))


# ---------------------------------------------------------------------- shares
@pytest.mark.parametrize("c", [0.5, 10.0])
def test_shares_are_the_formula(ids, resp, c):
    gate = GroupGate(concentration=c).fit(ids[:, None], resp)
    population = resp.sum(axis=0) / len(ids)
    assert_allclose(gate.population_, population)
    assert_array_equal(gate.groups_, np.unique(ids))
    for share, g in zip(gate.shares_, gate.groups_, strict=True):
        counts = resp[ids == g].sum(axis=0)
        expected = (counts + c * population) / (counts.sum() + c)
        assert_allclose(share, expected)
        assert_allclose(proba(gate, np.array([[g]])), expected[None])


def test_shares_maximise_the_penalised_objective(ids, resp, rng):
    gate = GroupGate(concentration=4.0).fit(ids[:, None], resp)

    def objective(shares):
        row = np.searchsorted(gate.groups_, ids)
        return np.sum(resp * np.log(shares[row])) + np.sum(
            4.0 * gate.population_ * np.log(shares)
        )

    best = objective(gate.shares_)
    for _ in range(20):
        moved = gate.shares_ * np.exp(0.01 * rng.normal(size=gate.shares_.shape))
        assert objective(moved / moved.sum(axis=1, keepdims=True)) < best


@pytest.mark.parametrize("unknown", [np.nan, 5.0, -8.0, 2e6])
def test_unknown_groups_get_the_shares_of_all(ids, resp, unknown):
    gate = GroupGate().fit(ids[:, None], resp)
    assert_allclose(proba(gate, np.array([[unknown]]))[0], gate.population_)


def test_rows_without_an_id_count_for_the_population_only(ids, resp):
    known = GroupGate(concentration=1e-9).fit(ids[:, None], resp)
    missing = np.where(ids == 3, np.nan, ids)
    gate = GroupGate(concentration=1e-9).fit(missing[:, None], resp)
    assert_allclose(gate.population_, known.population_)
    assert_allclose(gate.shares_, known.shares_[known.groups_ != 3], rtol=1e-6)


def test_the_column_is_named(ids, resp, rng):
    X = np.column_stack([rng.normal(size=(80, 2)), ids])
    expected = GroupGate().fit(ids[:, None], resp).log_proba(ids[:, None])
    for column in (2, -1):
        gate = GroupGate(column)
        assert_array_equal(gate.fit(X, resp).log_proba(X), expected)


def test_order_of_rows_does_not_matter(ids, resp, rng):
    order = rng.permutation(80)
    expected = GroupGate().fit(ids[:, None], resp).shares_
    found = GroupGate().fit(ids[order, None], resp[order]).shares_
    assert_allclose(found, expected, rtol=1e-13)


def test_sparse_targets_are_dense_ones(ids, resp):
    indices = np.argsort(-resp, axis=1)[:, :2].copy()
    weights = np.take_along_axis(resp, indices, axis=1)
    indices[::4, 1], weights[::4, 1] = -1, 0.0
    routing = Routing(indices, weights, K)
    expected = GroupGate().fit(ids[:, None], routing.to_csr().toarray())
    assert_allclose(GroupGate().fit(ids[:, None], routing).shares_, expected.shares_)


def test_variants_are_concentrations(ids, resp):
    gates = GroupGate(-1).variants()
    assert gates[0].concentration == 1.0
    assert sorted(g.concentration for g in gates) == [1, 3, 10, 30, 100, 1000]
    assert {g.columns for g in gates} == {-1}
    assert len(GroupGate(concentration=2.0).variants()) == 1
    X = ids[:, None]
    fitted = GroupGate().fit(X, resp)
    changed = copy.copy(fitted).set_params(concentration=100.0).update(X, resp)
    expected = GroupGate(concentration=100.0).fit(X, resp)
    assert_array_equal(changed.shares_, expected.shares_)


def test_parameters_are_counted(ids, resp):
    assert GroupGate().fit(ids[:, None], resp).n_parameters == 5 * (K - 1)


# ---------------------------------------------------------- blocks of indicators
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csr_array, np.asarray])
@pytest.mark.parametrize("columns", [slice(2, None), [2, 3, 4, 5, 6], [-1, 3, 2, 5, 4]])
def test_one_hot_is_the_column_of_ids(ids, resp, rng, form, columns):
    other = (rng.random((80, 2)) < 0.5).astype(float)
    X = form(sparse.hstack([other, one_hot(ids)]).toarray())
    by_id = GroupGate().fit(ids[:, None], resp)
    gate = GroupGate(columns).fit(X, resp)
    assert_array_equal(gate.groups_, [2, 3, 4, 5, 6])
    assert_array_equal(gate.log_proba(X), by_id.log_proba(ids[:, None]))
    for found, expected in zip(
        gate.best(X, 2), by_id.best(ids[:, None], 2), strict=True
    ):
        assert_array_equal(found, expected)


def test_rows_in_several_groups_get_the_mean_of_their_shares(rng):
    X = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=float)
    resp = rng.dirichlet(np.ones(K), size=5)
    gate = GroupGate(slice(None), concentration=2.0).fit(X[:4], resp[:4])
    assert_array_equal(gate.groups_, [0, 1])  # no row stood in the last
    counts = resp[:2] + resp[2] / 2  # half of the third row for each
    expected = (counts + 2 * gate.population_) / (1.5 + 2)
    assert_allclose(gate.shares_, expected)
    found = proba(gate, sparse.csr_array(X))
    both, nothing = expected.mean(axis=0), gate.population_
    assert_allclose(found, [*expected, both, nothing, nothing])


def test_several_groups_a_row_answer_alike(rng):
    X = sparse.csr_array((rng.random((50, 6)) < 0.3).astype(float))
    gate = GroupGate(slice(None)).fit(X, rng.dirichlet(np.ones(K), size=50))
    assert_allclose(proba(gate, X).sum(axis=1), 1.0)
    log_best, best = gate.best(X, 2)
    at, _, log_again = gate.survey(X, best, 2)
    assert_allclose(at, log_best)
    assert_allclose(log_again, log_best)
    assert_allclose(np.take_along_axis(gate.log_proba(X), best, axis=1), log_best)
    routing = Routing(np.where(best == 0, -1, best), np.zeros_like(log_best), K)
    assert_allclose(
        gate.log_proba_at(X, routing), np.where(best == 0, -np.inf, log_best)
    )


def test_take_is_exact_for_several_groups(rng):
    X = (rng.random((50, 6)) < 0.3).astype(float)
    gate = GroupGate(slice(None), concentration=1.0)
    gate.fit(X, rng.dirichlet(np.full(K, 0.3), size=50))
    before = proba(gate, X)[:, [2, 0, 0]] / [1, 2, 2]
    taken = gate.take([2, 0, 0])
    expected = before / before.sum(axis=1, keepdims=True)
    assert_allclose(proba(taken, X), expected)
    again = expected[:, [1, 0]] / expected[:, [1, 0]].sum(axis=1, keepdims=True)
    assert_allclose(proba(taken.take([1, 0]), X), again)


# -------------------------------------------------------------------- messages
def test_ids_must_be_whole(resp):
    X = np.linspace(0, 1, 80)[:, None]
    with pytest.raises(ValueError, match=r"ids in column 0 of X.*whole.*got 0\.01"):
        GroupGate().fit(X, resp)


def test_indicators_must_be_zeros_and_ones(ids, resp):
    with pytest.raises(ValueError, match=r"zeros and ones; got -?\d"):
        GroupGate([0]).fit(ids[:, None], resp)


@pytest.mark.parametrize("columns", [3, -2, [0, 4]])
def test_columns_must_be_there(ids, resp, columns):
    with pytest.raises(ValueError, match="columns must name columns of X, which has 1"):
        GroupGate(columns).fit(ids[:, None], resp)


@pytest.mark.parametrize(
    ("name", "value"),
    [("concentration", 0.0), ("concentration", "big"), ("columns", "user")],
)
def test_a_bad_parameter_is_named(ids, resp, name, value):
    message = f"The '{name}' parameter of GroupGate must be"
    with pytest.raises(ValueError, match=message):
        GroupGate(**{name: value}).fit(ids[:, None], resp)


# --------------------------------------------------------------------- ratings
def test_tastes_of_users_beat_a_ridge_without_them():
    """Ratings whose item effects are a user's own blend of three tastes."""
    rng, n, n_users, n_items = np.random.default_rng(0), 4000, 120, 40
    user, item = rng.integers(n_users, size=n), rng.integers(n_items, size=n)
    taste, effect = rng.dirichlet([0.4] * 3, n_users), rng.normal(size=(n_items, 3))
    y = np.sum(taste[user] * effect[item], axis=1) + rng.normal(0, 0.5, n)
    X = OneHotEncoder().fit_transform(np.column_stack([user, item]))
    train, test = slice(0, 3000), slice(3000, None)

    def error(model):
        found = model.fit(X[train], y[train]).predict(X[test])
        return np.sqrt(np.mean((found - y[test]) ** 2))

    options = {"n_experts": 3, "top_k": None, "cross_fit": None, "random_state": 0}
    options |= {"init": "random", "n_init": 2}
    gate = GroupGate(slice(0, n_users))
    assert error(MoERegressor(Ridge(2), gate=gate, **options)) < 0.9 * error(Ridge(2))


# ------------------------------------------------------------ ids of any kind
def shops(frame):
    """Return a frame of shops, known by name, whose prices act in two ways."""
    random = np.random.RandomState(0)
    shop, price = random.randint(0, 6, 240), random.uniform(1, 3, 240)
    y = np.where(shop < 3, -2 * price, 3 * price) + 0.1 * random.standard_normal(240)
    return frame(shop, price), y, shop, price


def pandas_frame(dtype):
    pd = pytest.importorskip("pandas")

    def frame(shop, price):
        names = np.array([f"shop {s}" for s in "fbaced"])
        ids = pd.Series(names[shop]).astype(dtype)
        return pd.DataFrame({"price": price, "shop": ids})

    return frame


def polars_frame(dtype):
    pl = pytest.importorskip("polars")

    def frame(shop, price):
        names = [f"shop {'fbaced'[s]}" for s in shop]
        ids = pl.Series(names, dtype=getattr(pl, dtype))
        return pl.DataFrame({"price": price, "shop": ids})

    return frame


@pytest.mark.parametrize(
    "frame",
    [
        pandas_frame("category"),
        pandas_frame("object"),
        pandas_frame("str"),
        polars_frame("String"),
        polars_frame("Categorical"),
    ],
)
@pytest.mark.parametrize("columns", ["shop", 1])
def test_ids_of_any_kind_are_read_by_name(frame, columns):
    X, y, shop, price = shops(frame)
    params = {"n_experts": 2, "cross_fit": None, "n_init": 2, "random_state": 0}
    model = MoERegressor(gate=GroupGate(columns), **params).fit(X, y)
    assert model.score(X, y) > 0.95
    assert_array_equal(model.group_ids_, [f"shop {s}" for s in "abcdef"])
    coded = np.column_stack([price, np.array([5, 1, 0, 2, 4, 3])[shop]])
    numbers = MoERegressor(gate=GroupGate(1), **params).fit(coded, y)
    assert_allclose(model.predict(X), numbers.predict(coded))
    new, *_ = shops(lambda shop, price: frame(shop, price))
    assert_allclose(model.gate_proba(new[:5]), numbers.gate_proba(coded[:5]))
    assert_array_equal(model.feature_names_in_, ["price", "shop"])


def test_new_ids_get_the_shares_of_all():
    pd = pytest.importorskip("pandas")
    X, y, *_ = shops(pandas_frame("object"))
    model = MoERegressor(
        gate=GroupGate("shop"), n_experts=2, cross_fit=None, random_state=0
    ).fit(X, y)
    new = pd.DataFrame({"price": [1.0, 1.0], "shop": ["nowhere", None]})
    expected = np.tile(model.gate_.population_, (2, 1))
    assert_allclose(model.gate_proba(new), expected)


def test_whole_numbers_are_read_by_name():
    pd = pytest.importorskip("pandas")
    X, y, *_ = shops(lambda shop, price: pd.DataFrame({"p": price, "shop": shop}))
    model = MoERegressor(gate=GroupGate("shop"), n_experts=2, cross_fit=None)
    assert model.fit(X, y).score(X, y) > 0.95
    assert_array_equal(model.gate_.groups_, np.arange(6))
    assert not hasattr(model, "group_ids_")


def test_names_that_lead_nowhere_are_refused():
    X, y, *_ = shops(pandas_frame("object"))
    model = MoERegressor(gate=GroupGate("store"), n_experts=2)
    with pytest.raises(ValueError, match=r"'columns'.*'store', but X has .*'price'"):
        model.fit(X, y)
    with pytest.raises(ValueError, match=r"'columns'.*'store', but X has no names"):
        model.fit(X.to_numpy()[:, :1].astype(float), y)
    X = X.assign(kind="new")
    with pytest.raises(ValueError, match=r"could not convert|new"):
        model.set_params(gate=GroupGate("shop")).fit(X, y)
