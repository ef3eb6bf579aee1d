"""Families of p(y | x, k): the formulas, the M-step of scales, and whole mixtures."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import integrate, sparse, stats
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import (
    GammaRegressor,
    LinearRegression,
    PoissonRegressor,
    Ridge,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe.experts import EstimatorPool, GLMPool, make_pool
from skmoe.gates import ConstantGate, RoutingRule
from skmoe.likelihoods import (
    FAMILIES,
    Beta,
    Gamma,
    Gaussian,
    Laplace,
    NegativeBinomial,
    Poisson,
    StudentT,
    WithOutliers,
    ZeroInflated,
)
from skmoe.routing import Routing

quick_choices = pytest.mark.usefixtures("quick_choices")

MEAN, SCALE = 0.4, 0.3
CASES = {
    "gaussian": (Gaussian(), stats.norm(MEAN, SCALE)),
    "student_t": (StudentT(3.0), stats.t(3.0, MEAN, SCALE)),
    "laplace": (Laplace(), stats.laplace(MEAN, SCALE)),
    "poisson": (Poisson(), stats.poisson(MEAN)),
    "negative_binomial": (
        NegativeBinomial(),
        stats.nbinom(1 / SCALE, 1 / (1 + SCALE * MEAN)),
    ),
    "gamma": (Gamma(), stats.gamma(1 / SCALE, scale=SCALE * MEAN)),
    "beta": (Beta(), stats.beta(MEAN / SCALE, (1 - MEAN) / SCALE)),
}


@pytest.mark.parametrize("name", CASES)
def test_family_is_that_of_scipy(name):
    family, expected = CASES[name]
    y = np.arange(6.0) if family.discrete else np.array([0.1, 0.3, 0.5, 0.9])
    density = expected.logpmf if family.discrete else expected.logpdf
    given = np.full(len(y), MEAN), np.full(len(y), SCALE)
    np.testing.assert_allclose(family.log_density_of(y, *given), density(y), rtol=1e-9)
    np.testing.assert_allclose(family.cdf(y, *given), expected.cdf(y), rtol=1e-9)
    np.testing.assert_allclose(family.variance(*given), expected.var(), rtol=1e-9)
    p = np.array([0.05, 0.3, 0.6, 0.99])
    found = family.quantile(p, np.full(4, MEAN), np.full(4, SCALE))
    np.testing.assert_allclose(found, expected.ppf(p), rtol=1e-9)
    drawn = family.sample(
        np.full(40_000, MEAN), np.full(40_000, SCALE), np.random.RandomState(0)
    )
    assert abs(drawn.mean() - expected.mean()) < 5 * expected.std() / 200


@pytest.mark.parametrize("name", sorted(set(CASES) - {"poisson"}))
def test_scales_are_maximum_likelihood_of_each_expert(name):
    """Against scipy's fits of the scale alone, expert by expert."""
    rng = np.random.default_rng(0)
    family = CASES[name][0].bound(0.0, 1e-12, 1e-6)
    labels = rng.integers(2, size=500)
    mean = rng.uniform(0.2, 0.8, size=500)
    y = family.sample(mean, np.array([0.2, 0.6])[labels], np.random.RandomState(1))
    y = np.clip(y, 1e-6, 1 - 1e-6) if name == "beta" else y
    routing = Routing.from_labels(labels, 2)
    found = family.scales(y[:, None], mean[:, None, None], routing)[:, 0]
    for k in range(2):
        rows = labels == k

        def loss(scale, rows=rows):
            return -family.log_density_of(y[rows], mean[rows], scale).sum()

        best = loss(found[k])
        assert best <= min(loss(found[k] * 1.01), loss(found[k] / 1.01))


def test_scale_prior_draws_dispersions_together():
    rng = np.random.default_rng(0)
    labels, mean = np.repeat([0, 1], 300), np.full(600, 3.0)
    y = rng.gamma(1 / np.where(labels == 0, 0.1, 1.0), np.where(labels, 3.0, 0.3))
    routing = Routing.from_labels(labels, 2)
    free, tied = (
        Gamma().bound(prior, 0.0).scales(y[:, None], mean[:, None, None], routing)
        for prior in (0.0, 1e6)
    )
    assert free[1, 0] > 5 * free[0, 0]
    np.testing.assert_allclose(tied[0], tied[1], rtol=1e-2)


def test_entries_without_an_expert_have_no_density():
    routing = Routing(np.array([[0, -1]]), np.array([[1.0, 0.0]]), 2)
    density = (
        Poisson()
        .bound(0.0, 0.0)
        .log_density(np.ones((1, 1)), np.ones((1, 2, 1)), None, routing)
    )
    np.testing.assert_allclose(density, [[-1.0, -np.inf]])


# ------------------------------------------------------------------- learners
@pytest.mark.parametrize(
    "learner", [PoissonRegressor(alpha=0.1), GammaRegressor(alpha=0.1)]
)
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_glm_pool_gives_the_answer_of_clones(learner, fit_intercept):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = rng.poisson(np.exp(0.5 + X @ [0.3, -0.2, 0.1])) + 1.0
    learner = clone(learner).set_params(
        fit_intercept=fit_intercept, tol=1e-10, max_iter=10_000
    )
    part = rng.uniform(0.15, 0.85, size=300)  # each teaches any learner
    routing = Routing.from_dense(np.column_stack([part, 1.0 - part]))
    options = {"likelihood": Poisson().bound(0.0, 0.0)}
    fused = make_pool([learner] * 2, n_features=3, **options)
    assert type(fused) is GLMPool
    clones = EstimatorPool([learner] * 2, **options).fit(X, y[:, None], routing)
    fused.fit(X, y[:, None], routing)
    np.testing.assert_allclose(
        fused.predict(X, routing), clones.predict(X, routing), rtol=2e-3
    )
    for expert, other in zip(fused.estimators(), clones.estimators(), strict=True):
        np.testing.assert_allclose(expert.predict(X), other.predict(X), rtol=2e-3)


@pytest.mark.parametrize("learner", [PoissonRegressor(), GammaRegressor()])
@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array])
def test_glm_pool_reads_csr_as_it_reads_dense_rows(learner, container):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)) * (rng.random((60, 4)) < 0.5)
    y = rng.poisson(3, size=(60, 1)) + 1.0
    soft = Routing.from_dense(rng.dirichlet(np.ones(2), size=60))
    hard = Routing.from_labels(rng.integers(2, size=60), 2)
    for routing in (soft, hard):
        pools = [
            make_pool([learner] * 2, n_features=4, likelihood=Poisson()).fit(
                rows, y, routing
            )
            for rows in (X, container(X))
        ]
        pools += [pools[0].update(X, y, soft), pools[1].update(container(X), y, soft)]
        assert_allclose(pools[0].coef, pools[1].coef, rtol=1e-9)
        assert_allclose(pools[2].coef, pools[3].coef, rtol=1e-9)
        assert_allclose(
            pools[0].predict(X, routing),
            pools[1].predict(container(X), routing),
            rtol=1e-9,
        )


SPARSE = [*sorted(FAMILIES), ZeroInflated(), ZeroInflated("gamma"), WithOutliers()]


@pytest.mark.parametrize("likelihood", SPARSE, ids=str)
def test_families_read_one_hot_csr_as_they_read_dense_rows(likelihood):
    rng = np.random.default_rng(0)
    levels = rng.integers(5, size=(120, 2))
    X = OneHotEncoder().fit_transform(levels)
    y = rng.poisson(np.where(levels[:, 0] > 2, 2.0, 8.0)) / 1.0
    family = getattr(likelihood, "family", likelihood)
    y = {"beta": (y + 0.5) / (y.max() + 1), "gamma": y + 0.5}.get(family, y)
    if isinstance(likelihood, ZeroInflated):
        y = np.where(levels[:, 1] == 0, 0.0, y)
    quick = {"n_init": 1, "tol": 10.0, "cross_fit": None, "random_state": 0}
    model = MoERegressor(n_experts=2, likelihood=likelihood, **quick)
    dense = clone(model).fit(X.toarray(), y)
    model.fit(X, y)
    assert_allclose(model.predict(X), dense.predict(X.toarray()), rtol=1e-6)
    assert_allclose(
        model.score_samples(X, y), dense.score_samples(X.toarray(), y), atol=1e-6
    )
    assert_allclose(
        model.predict_quantiles(X[:3], [0.1, 0.9]),
        dense.predict_quantiles(X[:3].toarray(), [0.1, 0.9]),
        rtol=1e-5,
    )


def test_boosting_gets_the_loss_of_the_family():
    boosting = HistGradientBoostingRegressor(max_iter=5)
    assert Poisson().adapted(boosting).loss == "poisson"
    assert boosting.loss == "squared_error"
    piped = make_pipeline(StandardScaler(), boosting)
    assert Gamma().adapted(piped)[-1].loss == "gamma"
    chosen = HistGradientBoostingRegressor(loss="absolute_error")
    assert Poisson().adapted(chosen) is chosen
    assert Gaussian().adapted(boosting) is boosting or (
        Gaussian().adapted(boosting).loss == "squared_error"
    )


def test_own_loss_is_not_weighed_down_twice():
    rng = np.random.default_rng(0)
    routing = Routing.from_dense(np.full((20, 2), 0.5))
    learners = [DecisionTreeRegressor(criterion="absolute_error"), Ridge()]
    pool = EstimatorPool(learners, likelihood=Laplace().bound(0.0, 1e-9))
    pool.scale = np.ones((2, 1))
    values = np.zeros((20, 2, 1))
    found = pool.emphasised(rng.normal(size=(20, 1)) + 5.0, values, routing)
    np.testing.assert_allclose(found.weights[:, 0], 0.5)
    assert (found.weights[:, 1] < 0.5).all()


# ------------------------------------------------------------------- mixtures
def two_regimes(n=400, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 2))
    return X, np.where(X[:, 0] > 0, 2.0 + X[:, 1], -2.0 - X[:, 1]), rng


def targets(name, mean, rng):
    if name in ("gaussian", "student_t", "laplace"):
        return mean + 0.2 * rng.standard_t(3, size=len(mean))
    if name == "beta":
        return rng.beta(8 / (1 + np.exp(-mean)), 8 / (1 + np.exp(mean)))
    if name == "gamma":
        return rng.gamma(3.0, np.exp(mean) / 3.0)
    return rng.poisson(np.exp(mean)).astype(float)


@pytest.mark.parametrize("name", FAMILIES)
def test_mixture_of_linear_experts_climbs_and_beats_one(name):
    X, mean, rng = two_regimes()
    y = targets(name, mean, rng)
    options = {"likelihood": name, "cross_fit": None, "random_state": 0}
    model = MoERegressor(n_experts=2, **options).fit(X, y)
    single = MoERegressor(n_experts=1, **options).fit(X, y)
    assert model.score_samples(X, y).mean() > single.score_samples(X, y).mean() + 0.1
    assert np.diff(model.lower_bounds_).min(initial=0.0) > -1e-9
    assert hasattr(model, "scale_") == (name != "poisson")
    np.testing.assert_allclose(model.routed_bound_, model.score_samples(X, y).mean())


@pytest.mark.parametrize("name", FAMILIES)
def test_density_of_a_mixture_integrates_to_one(name):
    X, mean, rng = two_regimes(200)
    y = targets(name, mean, rng)
    model = MoERegressor(
        n_experts=2, likelihood=name, cross_fit=None, n_init=1, random_state=0
    ).fit(X, y)

    def density(values):
        rows = np.repeat(X[:1], len(values), axis=0)
        return np.exp(model.score_samples(rows, values))

    if model.likelihood_.discrete:
        assert density(np.arange(500.0)).sum() == pytest.approx(1.0, abs=1e-6)
        return
    low, high = (1e-9, 1 - 1e-9) if name == "beta" else (1e-9, 200.0)
    low = -200.0 if model.likelihood_.any_real else low
    grid = np.linspace(low, high, 400_001)
    assert integrate.simpson(density(grid), x=grid) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.slow
def test_student_t_is_not_pulled_by_outliers():
    X, mean, rng = two_regimes()
    y = mean + 0.1 * rng.normal(size=len(mean))
    y[::12] = rng.uniform(-60, 60, size=len(y[::12]))
    errors = {}
    for name in ("gaussian", "student_t"):
        model = MoERegressor(
            LinearRegression(), n_experts=2, likelihood=name, random_state=0
        )
        errors[name] = np.median(np.abs(model.fit(X, y).predict(X) - mean))
    assert 3 * errors["student_t"] < errors["gaussian"]


def typed_wrong(n=400):
    """Return rows of a line, of which one in twenty is some hundred too high."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, 2))
    y = 3 * X[:, 1] + 0.2 * rng.normal(size=n)
    wrong = rng.choice(n, n // 20, replace=False)
    y[wrong] = rng.uniform(100, 200, size=len(wrong))
    return X, y


@quick_choices
@pytest.mark.parametrize(
    ("likelihood", "code"),
    [
        ("student_t", False),
        ("student_t", True),
        ("laplace", True),
        (WithOutliers(), False),
        (WithOutliers(), True),
        (WithOutliers("student_t"), True),
    ],
    ids=str,
)
def test_predict_leaves_out_what_is_plainly_wrong(likelihood, code):
    X, y = typed_wrong()
    y = np.where((y > 50) & code, 999.0, y)  # or one number stands for all of them
    model = MoERegressor(n_experts=3, likelihood=likelihood, n_init=1, random_state=0)
    model = model.fit(X[:200], y[:200])
    assert np.abs(model.predict(X) - 3 * X[:, 1]).max() < 1.0
    mean, std = model.predict(X, return_std=True)  # of which the deviation is told
    np.testing.assert_array_equal(mean, model.predict(X))
    assert np.all(std > 0)


@quick_choices
@pytest.mark.parametrize("likelihood", ["student_t", "laplace"])
@pytest.mark.parametrize("several", [False, True])
def test_robust_predict_is_the_median(likelihood, several):
    X, mean, rng = two_regimes(200)
    y = mean + rng.standard_t(3, size=len(mean))
    y = np.column_stack([y, -y]) if several else y
    model = MoERegressor(
        n_experts=3, top_k=None, likelihood=likelihood, n_init=1, random_state=0
    ).fit(X, y)
    median = model.predict_quantiles(X, [0.5])[:, 0]
    np.testing.assert_allclose(model.predict(X), median, atol=1e-8)


@pytest.mark.parametrize("family", ["gaussian", "poisson"])
def test_with_outliers_predict_is_of_those_that_learn(family):
    X, y = typed_wrong()
    y = y if family == "gaussian" else np.floor(np.abs(y))
    likelihood = WithOutliers(family)
    options = {"n_init": 1, "cross_fit": None, "random_state": 0}
    model = MoERegressor(n_experts=3, likelihood=likelihood, **options).fit(X, y)
    weights = model.route(X).toarray()[:, :2]
    weights /= weights.sum(axis=1, keepdims=True)
    answers = np.column_stack([expert.predict(X) for expert in model.experts_[:2]])
    if family == "poisson":  # their mean
        mean = np.sum(weights * answers, axis=1)
        np.testing.assert_allclose(model.predict(X), mean)
        return
    z = (model.predict(X)[:, None] - answers) / model.scale_[:2]
    np.testing.assert_allclose(np.sum(weights * stats.norm.cdf(z), axis=1), 0.5)


@pytest.mark.parametrize("asked", [{"top_k": 1}, {"top_k": 2, "top_p": 0.5}])
def test_every_row_asks_an_expert_that_learns(asked):
    X = np.zeros((3, 1))
    shares = Routing.from_dense(np.tile([0.1, 0.2, 0.05, 0.65], (3, 1)))
    gate = ConstantGate().fit(X, shares)  # the fixed expert is the best one
    found = RoutingRule(**asked, ask_last=True).route(gate, X).to_csr().toarray()
    np.testing.assert_allclose(found, np.tile([0, 4, 0, 13], (3, 1)) / 17)


@pytest.mark.slow
def test_uniform_expert_takes_outliers():
    X, mean, rng = two_regimes(600)
    y = mean + 0.1 * rng.normal(size=len(mean))
    wrong = rng.uniform(size=len(y)) < 0.2
    y[wrong] = rng.uniform(-50, 50, size=wrong.sum())
    model = MoERegressor(
        n_experts=3, top_k=1, likelihood=WithOutliers(), random_state=0
    ).fit(X, y)
    assert model.gate_proba(X)[:, -1].mean() == pytest.approx(0.2, abs=0.05)
    assert (np.sort(model.scale_[:2]) < 0.3).all()
    assert model.experts_[-1].predict(X[:2]) == pytest.approx([0.0, 0.0], abs=1.0)
    # Whatever top_k is, the fixed expert is asked.
    assert (model.route(X).toarray()[:, -1] > 0).all()
    ours = model.responsibilities(X, y).toarray()[:, -1] > 0.5
    assert ours[np.abs(y - mean) > 5].all()
    assert ours[~wrong].mean() < 0.05


def test_zeros_of_a_fixed_expert():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(800, 1))
    absent = rng.uniform(size=800) < np.where(X[:, 0] > 0, 0.6, 0.1)
    y = np.where(absent, 0.0, rng.poisson(8.0, size=800))
    options = {"n_experts": 2, "random_state": 0, "cross_fit": None}
    model = MoERegressor(likelihood=ZeroInflated(), **options).fit(X, y)
    gate = model.gate_proba(np.array([[-0.5], [0.5]]))[:, -1]
    np.testing.assert_allclose(gate, [0.1, 0.6], atol=0.12)
    expert = model.experts_[0].predict([[0.0]])
    np.testing.assert_allclose(expert, 8.0, rtol=0.05)
    assert model.experts_[-1].predict([[0.0]]) == [0.0]
    counts = np.arange(60.0)
    mass = np.exp(model.score_samples(np.zeros((60, 1)), counts))
    assert mass.sum() == pytest.approx(1.0, abs=1e-9)
    own = model.score_samples(X, np.round(model.predict(X)))
    np.testing.assert_array_equal(model.score_samples(X), own)


def test_weight_two_is_the_row_twice():
    X, mean, rng = two_regimes(150)
    y = mean + 0.3 * rng.standard_t(3, size=150)
    weight = rng.integers(1, 3, size=150)
    twice = np.repeat(np.arange(150), weight)
    options = {"n_experts": 2, "likelihood": "student_t", "cross_fit": None}
    options |= {"init": "kmeans_x", "n_init": 1, "random_state": 0, "max_iter": 15}
    once = MoERegressor(**options).fit(X, y, sample_weight=weight)
    copies = MoERegressor(**options).fit(X[twice], y[twice])
    np.testing.assert_allclose(once.predict(X), copies.predict(X), atol=1e-6)


def test_negative_answers_are_raised_to_positive_means():
    X = np.linspace(-1, 1, 60).reshape(-1, 1)
    y = np.where(X[:, 0] > 0.5, 5.0, 0.0)
    model = MoERegressor(Ridge(), n_experts=1, likelihood="poisson").fit(X, y)
    assert model.experts_[0].predict(X).min() < 0 < model.predict(X).min()
    assert np.isfinite(model.score_samples(X, y)).all()


def test_parameters_of_a_family_can_be_searched():
    X, mean, rng = two_regimes(120)
    search = GridSearchCV(
        MoERegressor(n_experts=2, likelihood=StudentT(), cross_fit=None, n_init=1),
        {"likelihood__df": [2.0, 10.0], "likelihood": [StudentT()]},
        cv=2,
    )
    assert search.fit(X, mean + rng.normal(size=120)).best_params_


@pytest.mark.parametrize(
    ("likelihood", "y", "message"),
    [
        ("poisson", [-1.0, 1.0, 2.0, 3.0], "counts or rates; got -1.0"),
        ("negative_binomial", [-0.5, 1.0, 2.0, 3.0], "counts or rates; got -0.5"),
        ("gamma", [0.0, 1.0, 2.0, 3.0], "above 0"),
        ("beta", [0.0, 0.1, 0.2, 0.3], "between 0 and 1"),
        (StudentT(df=0), [0.0, 0.1, 0.2, 0.3], "df of StudentT"),
        (ZeroInflated("zipf"), [0.0, 1.0, 2.0, 3.0], "family of ZeroInflated"),
        ("cauchy", [0.0, 1.0, 2.0, 3.0], "'likelihood' parameter"),
    ],
)
def test_what_a_family_cannot_have_is_said(likelihood, y, message):
    X = np.arange(4.0).reshape(-1, 1)
    with pytest.raises(ValueError, match=message):
        MoERegressor(n_experts=2, likelihood=likelihood).fit(X, y)


class Positive(DecisionTreeRegressor):
    """A learner of positive targets alone; no ValueError, which might be caught."""

    def fit(self, X, y, sample_weight=None):
        assert (y > 0).all(), "a zero reached the learner"
        return super().fit(X, y, sample_weight)


class PositiveMean(DummyRegressor):
    """The same without weights: rows are drawn."""

    def fit(self, X, y):
        assert (y > 0).all(), "a zero reached the learner"
        return super().fit(X, y)


def amounts(n=120):
    """Return X, amounts that are zero half of the time, and where that is so."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-2, 2, (n, 2))
    y = np.exp(1 + 0.5 * X[:, 1]) * rng.gamma(3, 1 / 3, n)
    dry = rng.random(n) < np.where(X[:, 0] > 0, 0.9, 0.1)
    return X, np.where(dry, 0.0, y)


HALF = np.full((120, 3), 1 / 3)


@quick_choices
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_fit": None},
        {"cross_fit": None, "n_experts": 7},
        {"cross_fit": 2, "final": "average"},
        {"cross_fit": None, "init": HALF},
        {"cross_fit": None, "init": "uniform"},
        {"init": "single"},
        {"cross_fit": None, "balance": 1.0},
        {"cross_fit": None, "gate": "tree"},
        {"expert": PositiveMean()},
        {"expert": make_pipeline(StandardScaler(), Positive(max_depth=2))},
        {"expert": [PositiveMean(), GammaRegressor(), Positive(max_depth=2)]},
    ],
    ids=str,
)
def test_zeros_never_reach_learners_of_positive_amounts(options):
    X, y = amounts()
    quick = {"n_experts": 3, "n_init": 1, "tol": 10.0, "random_state": 0}
    expert = Positive(max_depth=2, random_state=0)
    model = MoERegressor(**{"expert": expert, **quick, **options})
    model.set_params(likelihood=ZeroInflated("gamma")).fit(X, y)
    assert np.isfinite(model.score_samples(X, y)).all()
    share = model.gate_proba(X)[:, -1]
    assert share[X[:, 0] > 0].mean() > share[X[:, 0] < 0].mean()


def test_fixed_expert_takes_nothing_from_those_that_learn():
    X, y = amounts()
    options = {"cross_fit": None, "n_init": 1, "random_state": 0}
    model = MoERegressor(n_experts=2, likelihood=ZeroInflated("gamma"), **options)
    model.fit(X, y)
    wet = y > 0
    alone = GammaRegressor(tol=1e-9).fit(X[wet], y[wet])
    assert_allclose(model.experts_[0].predict(X), alone.predict(X), rtol=1e-3)


def test_zeros_alone_teach_nothing():
    X, y = amounts()
    model = MoERegressor(n_experts=2, likelihood=ZeroInflated("gamma"))
    with pytest.raises(ValueError, match="needs rows of y above 0"):
        model.fit(X, 0 * y)
    model.set_params(likelihood=ZeroInflated("gaussian"), shared_expert=Ridge())
    with pytest.raises(ValueError, match="cannot have a shared_expert"):
        model.fit(X, y)


def rates(n=1500):
    """Return X, events, time at risk and the true rate: two regimes."""
    rng = np.random.default_rng(0)
    X, years = rng.uniform(-1, 1, (n, 2)), rng.uniform(0.05, 1, n)
    rate = np.exp(np.where(X[:, 0] > 0, 1 + X[:, 1], 1 - X[:, 1]))
    return X, rng.poisson(rate * years), years, rate


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_one_expert_of_rates_is_fitted_as_poisson_regression_fits_them(likelihood):
    X, events, years, _ = rates(300)
    learner = PoissonRegressor(alpha=1e-3, tol=1e-9)
    alone = clone(learner).fit(X, events / years, sample_weight=years)
    model = MoERegressor(learner, n_experts=1, likelihood=likelihood, random_state=0)
    model.fit(X, events / years, sample_weight=years)
    assert_allclose(model.predict(X), alone.predict(X), rtol=1e-4)
    assert np.isfinite(model.score_samples(X, events / years)).all()


def test_mixture_of_rates_finds_regimes_that_one_learner_cannot():
    X, events, years, rate = rates()
    learner = PoissonRegressor(alpha=1e-3)
    model = MoERegressor(
        learner, n_experts=2, likelihood="poisson", n_init=1, random_state=0
    )
    model.fit(X, events / years, sample_weight=years)
    assert np.corrcoef(model.predict(X), rate)[0, 1] > 0.8


def test_families_that_cannot_be_combined_say_so():
    X, y = np.arange(40.0).reshape(-1, 1), np.arange(40.0)
    with pytest.raises(ValueError, match="shared_expert"):
        MoERegressor(n_experts=2, likelihood="poisson", shared_expert=Ridge()).fit(X, y)
    with pytest.raises(ValueError, match="n_experts must be at least 2"):
        MoERegressor(n_experts=1, likelihood=WithOutliers()).fit(X, y)
    with pytest.raises(ValueError, match="1d array"):
        MoERegressor(n_experts=2, likelihood="poisson").fit(X, np.c_[y, y])
    model = MoERegressor(n_experts=2, likelihood=WithOutliers(), cross_fit=None)
    with pytest.raises(ValueError, match="fixed expert"):
        model.fit(X, y).add_experts(1, X, y)


def test_a_refit_without_scales_forgets_them():
    X, y = np.arange(40.0).reshape(-1, 1), np.arange(40.0) % 5
    model = MoERegressor(n_experts=2, cross_fit=None, random_state=0).fit(X, y)
    assert model.scale_.shape == (2,)
    model.set_params(likelihood="poisson").fit(X, y)
    assert not hasattr(model, "scale_")
