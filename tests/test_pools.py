"""Every pool: what a pool says, and that it is a value."""

import doctest
import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import _cases
import joblib
import numpy as np
import pytest
from _cases import everyone, pool_of
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import em, experts
from skmoe.em import CrossFitPool
from skmoe.experts import (
    PROBABILITY_FLOOR,
    AveragedPool,
    CachedPool,
    DerivedPool,
    EstimatorPool,
    ExpertPool,
    FrozenPool,
    GLMPool,
    JoinedPool,
    LeaveOneOutPool,
    LeftOutPool,
    LinearPool,
    LogisticPool,
    OneOutputPool,
    PackedPool,
    ShrunkPool,
    VaryingPool,
    averaged,
    cached,
    joined,
    left_out,
    shrunk_pool,
)
from skmoe.likelihoods import Poisson
from skmoe.routing import Routing

N, D, K = 60, 3, 3
rng = np.random.default_rng(0)
X = rng.normal(size=(N, D))
NEW = rng.normal(size=(7, D))
BOTH = X @ rng.normal(size=(D, 2)) + 3.0 + 0.3 * rng.normal(size=(N, 2))
ONE, SECOND = BOTH[:, :1], BOTH[:, 1:]
COUNTS = rng.poisson(np.exp(0.3 * BOTH[:, :1])).astype(float)
LABELS = np.digitize(BOTH[:, 0], [2.0, 4.0])
WEIGHT = rng.integers(1, 4, size=N).astype(float)
FOLDS = np.arange(N) % 3

RIDGES = [Ridge(), Ridge(alpha=3.0), LinearRegression()]
# Other neighbours count in their pickles how often they were asked.
NEIGHBOURS = KNeighborsRegressor(3, algorithm="brute")
NEIGHBOURING = KNeighborsClassifier(9, algorithm="brute")
TREE = DecisionTreeRegressor(max_depth=3, random_state=0)
MIXED = [TREE, NEIGHBOURS, Ridge()]
CLASSIFIERS = [
    DecisionTreeClassifier(max_depth=2, random_state=0),
    NEIGHBOURING,
    LogisticRegression(),
]


# ------------------------------------------------------------------------ routings
def soft(seed, n_experts=K):
    """Return responsibilities times sample weights of every row and expert."""
    return Routing.from_dense(WEIGHT[:, None] * _cases.soft(N, n_experts, seed))


def some_of(n_experts):
    """Return a routing of two experts for each row, some of which lack the second."""
    random = np.random.default_rng(5)
    indices = np.argsort(random.random((N, n_experts)), axis=1)[:, :2]
    indices[::5, 1] = -1
    return Routing(indices, np.where(indices < 0, 0.0, 0.5), n_experts)


# ----------------------------------------------------------------------- the pools
def unfitted(learners, y=ONE):
    """Return the pool that `make_pool` chooses for such learners."""
    options = {"seeds": range(3, 3 + len(learners))}
    if y is LABELS:
        return pool_of(learners, np.arange(3), **options)
    if y is COUNTS:
        options["likelihood"] = Poisson().bound(0.0, 0.0)
    return pool_of(learners, q=y.shape[1], **options)


def trained(pool, seed, y=ONE):
    """Return a pool that is fitted, with its noise scales."""
    routing = soft(seed, pool.n_experts)
    pool.fit(X, y, routing)
    return pool.rescale(y, pool.evaluate(X, y, routing), routing)


def made(learners, seed, y=ONE):
    return trained(unfitted(learners, y), seed, y)


def frozen(seed):
    models = [FrozenEstimator(Ridge().fit(X[i::K], ONE[i::K, 0])) for i in range(K)]
    return made(models, seed)


def old_and_new(seed):
    fixed = made([Ridge()], 0)
    return joined(fixed, made(MIXED[:2], seed))


def shrunk(learners, seed, y=ONE):
    pool = made(learners, seed, y)
    return shrunk_pool(pool, made(learners, 0, y), np.arange(K), 0.3)


def varying(seed):
    noise = DummyRegressor(strategy="constant", constant=0.7).fit(X, ONE[:, 0])
    return VaryingPool(made(RIDGES, seed), [noise, None, noise], np.array([0.5, 1, 2]))


def of_page(page, name):
    """Return a class as the examples of a page of the documentation define it."""
    text = (Path(__file__).parents[1] / "docs" / page).read_text(encoding="utf-8")
    names = {"__name__": __name__}  # where pickle looks for it
    for example in doctest.DocTestParser().get_examples(text):
        exec(example.source, names)
        if name in names:
            return names[name]
    raise AssertionError(f"{page} defines no {name}")


MeanPool = of_page("extending.md", "MeanPool")


class Case(NamedTuple):
    """A pool that can be made of several routings, by their seeds."""

    kind: type[ExpertPool]
    make: Callable[[int], ExpertPool]
    y: np.ndarray = ONE  # what it was fitted on


def of_learners(kind, learners, y=ONE, change=lambda pool: pool):
    return Case(kind, lambda seed: trained(change(unfitted(learners, y)), seed, y), y)


CASES = {
    "ridge": of_learners(LinearPool, RIDGES, BOTH),
    "logistic": of_learners(LogisticPool, [LogisticRegression()] * K, LABELS),
    "log-linear": of_learners(GLMPool, [PoissonRegressor()] * K, COUNTS),
    "regressors": of_learners(EstimatorPool, MIXED, BOTH),
    "classifiers": of_learners(EstimatorPool, CLASSIFIERS, LABELS),
    "frozen": Case(FrozenPool, frozen),
    "leave one out": of_learners(LeaveOneOutPool, RIDGES, BOTH, left_out),
    "left out, regressors": of_learners(
        LeftOutPool,
        [
            RandomForestRegressor(5),
            NEIGHBOURS,
            RandomForestRegressor(4),
        ],
        change=left_out,
    ),
    "left out, classifiers": of_learners(
        LeftOutPool, [NEIGHBOURING] * K, LABELS, left_out
    ),
    "cross-fit": of_learners(
        CrossFitPool, MIXED, change=lambda pool: CrossFitPool(pool, FOLDS)
    ),
    "cross-fit classifiers": of_learners(
        CrossFitPool, CLASSIFIERS, LABELS, lambda pool: CrossFitPool(pool, FOLDS)
    ),
    "averaged": Case(
        AveragedPool,
        lambda seed: averaged([made(MIXED, seed), made(MIXED, seed + 10)]).with_scale(
            np.full((K, 1), 0.1 * seed)
        ),
    ),
    "averaged classifiers": Case(
        AveragedPool,
        lambda seed: averaged([made(CLASSIFIERS, s, LABELS) for s in (seed, 9)]),
        LABELS,
    ),
    "cached": Case(CachedPool, lambda seed: cached(made(RIDGES, seed), X, ONE, WEIGHT)),
    "old and new": Case(JoinedPool, old_and_new),
    "one output": Case(
        OneOutputPool, lambda seed: OneOutputPool(made(RIDGES, seed, BOTH), 1), SECOND
    ),
    "packed": Case(
        PackedPool, lambda seed: PackedPool(made(RIDGES, seed, BOTH), "int8"), BOTH
    ),
    "shrunk": Case(ShrunkPool, lambda seed: shrunk(MIXED, seed)),
    "shrunk classifiers": Case(
        ShrunkPool, lambda seed: shrunk(CLASSIFIERS, seed, LABELS), LABELS
    ),
    "varying noise": Case(VaryingPool, varying),
    "docs/extending.md": Case(
        MeanPool,
        lambda seed: trained(
            MeanPool([DummyRegressor()] * K, **unfitted(RIDGES).options), seed
        ),
    ),
}

EXPERTS_STAY = (FrozenPool, OneOutputPool, PackedPool, VaryingPool)
"""Pools whose experts learn no more, so that no other has new ones."""


def kinds_below(kind):
    for child in kind.__subclasses__():
        yield child
        yield from kinds_below(child)


def test_every_pool_has_a_case():
    for package in (experts, em):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    kinds = {
        kind
        for kind in kinds_below(ExpertPool)
        if kind.__module__.startswith("skmoe.") and not inspect.isabstract(kind)
    }
    assert kinds | {MeanPool} == {case.kind for case in CASES.values()}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def pool(case):
    """Return a pool that all tests read: it is a value."""
    return case.make(1)


@pytest.fixture(scope="module")
def other(case):
    return case.make(2)


@pytest.fixture(scope="module")
def y(case):
    return case.y


@pytest.fixture(scope="module")
def tables(pool, y):
    """Return what the pool says of every row and expert."""
    return said(pool, y)


def asked(call, pool, *args):
    """Return what a pool says, or None of a `CrossFitPool`, which must not be asked."""
    if isinstance(pool, CrossFitPool):
        with pytest.raises(TypeError, match="finished"):
            call(pool, *args)
        return None
    return call(pool, *args)


def said(pool, y, X=X):
    """Return all that a pool says of every row and expert, experts on axis 1."""
    routing = everyone(N, pool.n_experts)
    answers = [
        pool.evaluate(X, y, routing),
        pool.log_likelihood(X, y, routing),
        asked(lambda pool: pool.predict(X, routing), pool),
    ]
    return [answer for answer in answers if answer is not None]


def assert_says(answers, expected, **options):
    for answer, of_expected in zip(answers, expected, strict=True):
        assert_allclose(answer, of_expected, **{"rtol": 1e-10, **options})


# ---------------------------------------------------------------- what a pool says
def test_kinds_and_shapes(pool, case, y, tables):
    assert type(pool) is case.kind
    values, density, *answers = tables
    q = 1 if y is LABELS else y.shape[1]
    assert values.shape == (N, K, q)
    assert density.shape == (N, K)
    for answer in answers:
        assert answer.shape == (N, K, 3 if y is LABELS else q)
    assert pool.n_experts == len(pool.learners) == len(pool.seeds) == K
    for mask in (pool.frozen, pool.streams):
        assert mask.shape == (K,)
    assert pool.rigid == (pool.slack == 0)
    assert (pool.scale is None) == (y is LABELS or y is COUNTS)


def test_sparse_entries_are_the_dense_ones(pool, y, tables):
    routing = some_of(K)
    rows, places = np.nonzero(routing.indices >= 0)
    columns = routing.indices[rows, places]
    entries = [
        pool.evaluate(X, y, routing),
        pool.log_likelihood(X, y, routing),
        asked(lambda pool: pool.predict(X, routing), pool),
    ]
    for entry, table in zip(entries, tables, strict=False):
        assert_allclose(entry[rows, places], table[rows, columns], rtol=1e-9)
    assert (entries[1][routing.indices < 0] == -np.inf).all()


def test_experts_predict_what_the_pool_predicts(pool, y):
    fitted = asked(lambda pool: pool.estimators(), pool)
    if fitted is None:
        return
    table = pool.predict(X, everyone(N, K))
    assert len(fitted) == K
    for k, expert in enumerate(fitted):
        if y is LABELS:
            answer = expert.predict_proba(X)  # not raised to the floor
            assert_allclose(answer, table[:, k], atol=PROBABILITY_FLOOR)
            continue
        answer = expert.predict(X).reshape(N, -1)
        answer = answer[:, -table.shape[2] :]  # experts of one output have them all
        assert_allclose(answer, table[:, k], rtol=1e-10)


def test_a_mixture_is_the_weighted_sum_of_its_experts(pool):
    for routing in (soft(7), some_of(K)):
        mean = asked(lambda pool, routing=routing: pool.mix(X, routing), pool)
        if mean is not None:
            answers = pool.predict(X, routing)
            assert_allclose(mean, routing.combine(answers), rtol=1e-10)


def test_what_it_says_survives_a_pickle(pool, y, tables):
    again = pickle.loads(pickle.dumps(pool))
    own_table = getattr(again, "X", X)
    assert_says(said(again, y, own_table), tables, rtol=0.0)


# --------------------------------------------------------------- a pool is a value
TAKE = np.array([True, False, True])
WIDE = np.full((K, 1), 7.0)
METHODS = {
    "absorb": lambda pool, other, y: pool.recall(X, soft(7), 9.0 * np.ones(K)).absorb(
        X, y, pool.evaluate(X, y, soft(7)), soft(7), np.full(K, 0.5)
    ),
    "averaged": lambda pool, other, y: pool.averaged(),
    "finished": lambda pool, other, y: pool.finished(X, y, soft(1)),
    "of_rows": lambda pool, other, y: pool.of_rows(FOLDS > 0),
    "rescale": lambda pool, other, y: pool.rescale(
        y, pool.evaluate(X, y, soft(7)), soft(7)
    ),
    "select": lambda pool, other, y: pool.select(other, TAKE),
    "shrunk": lambda pool, other, y: pool.shrunk(other, np.arange(K), 0.3),
    "swap": lambda pool, other, y: pool.swap(other, TAKE),
    "take": lambda pool, other, y: pool.take(np.array([2, 0])),
    "unfitted": lambda pool, other, y: pool.unfitted(np.array([2, 0])),
    "update": lambda pool, other, y: pool.update(X, y, soft(7)),
    "update_each": lambda pool, other, y: pool.update_each(X, y, [soft(7), soft(8)]),
    "with_scale": lambda pool, other, y: pool.with_scale(WIDE),
}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_no_method_changes_a_pool(method, pool, other, y, tables):
    before = joblib.hash([vars(pool), vars(other)])
    with suppress(TypeError):  # what a pool cannot do, it says: see below
        method(pool, other, y)
    assert joblib.hash([vars(pool), vars(other)]) == before


def learns(pool):
    """Tell whether a pool can be trained on; raise where it does not say so."""
    kind = type(pool)
    can = kind.update is not ExpertPool.update or kind.fit is not DerivedPool.fit
    if can and kind is not PackedPool:
        return True
    with pytest.raises(TypeError, match=r"fitted already|learn no more"):
        pool.update(X, ONE, soft(7))
    return False


def test_update_is_a_new_pool(pool, y, tables):
    if not learns(pool):
        return
    after = pool.update(X, y, soft(7))
    assert type(after) is type(pool)
    change = np.abs(after.evaluate(X, y, everyone(N, K)) - tables[0])
    assert (change.max() > 1e-3) != isinstance(pool, EXPERTS_STAY)


def test_an_expert_without_rows_keeps_what_it_has(pool, y, tables):
    if not learns(pool) or isinstance(pool, (AveragedPool, ShrunkPool)):
        return  # these change with another model of the expert
    without = np.array([True, False, True])
    after = pool.update(X, y, soft(7).only(without))
    assert_says(
        [answer[:, 1] for answer in said(after, y)],
        [table[:, 1] for table in tables],
        rtol=0.0,
    )


# ----------------------------------------------------------------- some of experts
@pytest.mark.parametrize("which", [[2, 0], [2, 0, 0, 1, 2], [1]])
def test_take_leaves_out_and_repeats(pool, y, tables, which):
    which = np.array(which)
    if type(pool).take is DerivedPool.take:
        with pytest.raises(TypeError, match=f"{type(pool).__name__} cannot take some"):
            pool.take(which)
        return
    some = pool.take(which)
    assert some.learners == [pool.learners[k] for k in which]
    assert some.n_experts == len(some.seeds) == len(which)
    assert (some.scale is None) == (pool.scale is None)
    assert_says(said(some, y), [table[:, which] for table in tables])
    again = some.take(np.zeros(2, dtype=int))
    assert_says(said(again, y), [table[:, which[[0, 0]]] for table in tables])


def test_swap_and_select(pool, other, y, tables):
    new = pool if isinstance(pool, EXPERTS_STAY) else other
    swapped = pool.swap(other, TAKE).evaluate(X, y, everyone(N, K))
    chosen = pool.select(other, TAKE)
    values, of_new = said(chosen, y)[::2], said(new, y)[::2]  # densities have scales
    for answer, old, of_other in zip(values, tables[::2], of_new, strict=True):
        expected = np.where(TAKE[:, None], of_other, old)
        assert_allclose(answer, expected, rtol=1e-12)
    assert_array_equal(swapped, values[0])
    if pool.scale is not None:
        scale = np.where(TAKE[:, None], other.scale, pool.scale)
        assert_array_equal(chosen.scale, scale)
    assert pool.select(other, ~TAKE & TAKE) is pool
    assert pool.select(other, TAKE | True) is other


def test_unfitted_pools_are_as_new(pool, y):
    which = np.array([2, 0])
    new = pool.unfitted(which)
    assert new.scale is None
    assert new.learners == [pool.learners[k] for k in which]
    assert new.seeds == [pool.seeds[k] for k in which]
    assert new.n_experts == 2
    if type(pool).fit is DerivedPool.fit:
        with pytest.raises(TypeError, match="fitted already"):
            new.fit(X, y, soft(1, 2))
        return
    again = pool.unfitted(which)
    assert new.fit(X, y, soft(1, 2)) is new
    assert again.fit(X, y, soft(2, 2)) is again
    change = np.abs(
        new.evaluate(X, y, everyone(N, 2)) - again.evaluate(X, y, everyone(N, 2))
    )
    assert (change.max() > 1e-3) != isinstance(pool, EXPERTS_STAY)


# ---------------------------------------------------------------------- the scales
def test_scales_are_given_to_another_pool(pool, y, tables):
    if y is LABELS or y is COUNTS:
        return
    q = pool.scale.shape[1]
    scale = np.arange(1.0, 1.0 + K * q).reshape(K, q)
    wide = pool.with_scale(scale)
    assert type(wide) is type(pool)
    assert_array_equal(wide.scale, scale)
    assert_array_equal(wide.evaluate(X, y, everyone(N, K)), tables[0])
    assert wide.log_likelihood(X, y, everyone(N, K)).max() < tables[1].max()
    assert wide.with_scale(None).scale is None


def test_rescaled_pools_fit_their_values(pool, y, tables):
    routing = soft(7)
    values = pool.evaluate(X, y, routing)
    after = pool.rescale(y, values, routing)
    if pool.scale is None:
        assert after is pool
        return
    assert type(after) is type(pool)
    assert_array_equal(after.evaluate(X, y, everyone(N, K)), tables[0])
    expected = pool.likelihood.scales(y, values, routing)
    if isinstance(pool, JoinedPool):  # the first experts stay as they are
        young = pool.young.rescale(y, values, pool.parts(routing)[1])
        expected = np.concatenate([pool.fixed.scale, young.scale])
    assert_allclose(after.scale, expected, rtol=1e-12)


# ------------------------------------------------------------------- once EM ended
def test_finished_pools_know_no_rows(pool, y):
    final = pool.finished(X, y, soft(1))
    if pool.scale is None:
        assert final.scale is None
    else:
        assert_array_equal(final.scale, pool.scale)
    answers = final.predict(X, everyone(N, K))
    if isinstance(pool, CrossFitPool):
        plain = pool.pool.unfitted(np.arange(K)).fit(X, y, soft(1))
        assert_allclose(answers, plain.predict(X, everyone(N, K)), rtol=1e-12)
    else:
        assert_allclose(answers, pool.predict(X, everyone(N, K)), rtol=1e-12)
    assert np.isfinite(final.predict(NEW, everyone(7, K))).all()
    if y is not LABELS:
        assert_allclose(final.evaluate(X, y, everyone(N, K)), answers, rtol=1e-12)


def test_only_folds_have_models_to_average(pool):
    mean = pool.averaged()
    if not isinstance(pool, CrossFitPool):
        assert mean is None
        return
    expected = np.mean([each.predict(X, everyone(N, K)) for each in pool.pools], axis=0)
    assert_allclose(mean.predict(X, everyone(N, K)), expected, rtol=1e-10)
    assert mean.scale is pool.scale


def test_pools_of_some_rows(pool, y):
    rows = np.arange(N) % 4 != 1
    few = pool.of_rows(rows)
    if not isinstance(pool, CrossFitPool):
        assert few is pool
        return
    part = soft(1).take(np.flatnonzero(rows))
    few.fit(X[rows], y[rows], part)
    alone = CrossFitPool(pool.pool, FOLDS[rows]).fit(X[rows], y[rows], part)
    assert_array_equal(
        few.evaluate(X[rows], y[rows], part), alone.evaluate(X[rows], y[rows], part)
    )


def test_a_batch_teaches_those_that_stream(pool, y, tables):
    routing = soft(7)
    recalled = pool.recall(X, routing, np.full(K, 50.0))
    values = pool.evaluate(X, y, routing)
    after = recalled.absorb(X, y, values, routing, np.full(K, 0.5))
    assert type(after) is type(pool)
    stay = ~pool.streams
    for answer, before in zip(said(after, y)[::2], tables[::2], strict=True):
        assert_array_equal(answer[:, stay], before[:, stay])
    assert (after.scale is None) == (pool.scale is None)
