"""Predictive distributions: moments, quantiles, regions, scores, calibration."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoe import MoERegressor
from skmoe.likelihoods import (
    Beta,
    Gamma,
    Gaussian,
    Laplace,
    NegativeBinomial,
    Poisson,
    PredictiveMixture,
    StudentT,
    WithOutliers,
    ZeroInflated,
)
from skmoe.metrics import crps_scorer, log_likelihood_scorer
from skmoe.predictive import Calibration
from skmoe.predictive import _regions as density

CONTINUOUS = [Gaussian(), StudentT(), StudentT(1.0), Laplace(), Gamma(), Beta()]
COUNTS = [Poisson(), NegativeBinomial()]


def mixture(family, n=40, m=3, seed=0):
    """Return random mixtures of a family, whose last component has weight 0."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(m), size=n)
    weights[:, -1] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    means = rng.normal(scale=3.0, size=(n, m))
    if isinstance(family, Beta):
        means = rng.uniform(0.1, 0.9, size=(n, m))
    elif not family.any_real:
        means = 8.0 * np.exp(means / 3)
    scale = rng.uniform(0.1, 1.0, size=(n, m)) if family.has_scale else None
    if isinstance(family, Beta):  # else some y are 1 to the last digit
        scale = scale / 5
    experts = np.tile(np.arange(m), (n, 1))
    return PredictiveMixture(weights, experts, means, scale, family, np.zeros(n))


def normals(weights, means, scales):
    weights, means, scales = (np.atleast_2d(a) for a in (weights, means, scales))
    experts = np.zeros(means.shape, dtype=int)
    shift = np.zeros(len(means))
    return PredictiveMixture(weights, experts, means, scales, Gaussian(), shift)


def drawn(mix, n=1, seed=1):
    random = np.random.RandomState(seed)
    return mix.sample(mix.choose(n, random), random)


def one(mix, i=0):
    return mix.take(slice(i, i + 1))


# ------------------------------------------------------------------ mathematics
def test_one_normal_is_scipys():
    normal, y = stats.norm(2.0, 0.5), np.array([[0.5, 1.9, 4.0]])
    mix = normals([1.0], [2.0], [0.5])
    np.testing.assert_allclose(mix.cdf(y)[0], normal.cdf(y[0]), rtol=1e-12)
    np.testing.assert_allclose(mix.log_density(y)[0], normal.logpdf(y[0]), rtol=1e-12)
    p = np.array([[1e-4, 0.05, 0.5, 0.95]])
    np.testing.assert_allclose(mix.quantile(p)[0], normal.ppf(p[0]), rtol=1e-9)
    assert (mix.mean()[0], mix.variance()[0]) == (2.0, 0.25)
    for y in (0.5, 1.9, 4.0):
        z = (y - 2.0) / 0.5
        known = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z)
        known = 0.5 * (known - 1 / np.sqrt(np.pi))
        assert mix.crps(np.array([y]))[0] == pytest.approx(known, rel=1e-10)


def test_moments_of_two_normals_by_hand():
    mix = normals([0.25, 0.75], [0.0, 4.0], [1.0, 2.0])
    assert mix.mean()[0] == 3.0
    assert mix.variance()[0] == pytest.approx(0.25 * 1 + 0.75 * 4 + 0.25 * 9 + 0.75 * 1)


@pytest.mark.parametrize("family", CONTINUOUS, ids=str)
def test_density_integrates_to_the_cdf(family):
    mix = mixture(family)
    ends = mix.quantile(np.tile([0.2, 0.45, 0.7], (len(mix), 1)))
    for i in range(5):
        knots = [a for a in mix.means[i] if ends[i, 0] < a < ends[i, 2]]
        mass, _ = integrate.quad(
            lambda y, i=i: np.exp(one(mix, i).log_density(np.array([[y]]))[0, 0]),
            *ends[i, [0, 2]],
            points=knots or None,
            epsabs=1e-11,
            limit=200,
        )
        assert mass == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize("family", CONTINUOUS, ids=str)
def test_quantiles_invert_the_cdf(family):
    mix = mixture(family)
    y = drawn(mix, 20)
    p = mix.cdf(y)
    sure = (p > 1e-4) & (p < 1 - 1e-4)
    assert sure.mean() > 0.9
    np.testing.assert_allclose(mix.quantile(p)[sure], y[sure], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", COUNTS, ids=str)
def test_quantiles_of_counts_are_the_first_that_reach_p(family):
    mix, p = mixture(family), np.linspace(0.01, 0.99, 21)
    q = mix.quantile(np.tile(p, (len(mix), 1)))
    assert np.all(q == np.floor(q))
    assert np.all(mix.cdf(q) >= p)
    assert np.all(mix.cdf(q - 1) < p)


@pytest.mark.parametrize("family", [*CONTINUOUS, *COUNTS], ids=str)
def test_draws_follow_the_distribution(family):
    mix = mixture(family, n=5)
    y = drawn(mix, 4000)
    for i in range(len(mix)):
        u = one(mix, i).cdf(y[i : i + 1])[0]
        if family.discrete:  # spread over the jumps
            below = one(mix, i).cdf(y[i : i + 1] - 1)[0]
            u = below + np.random.default_rng(0).uniform(size=u.shape) * (u - below)
        assert stats.kstest(u, "uniform").pvalue > 1e-4
    variance = mix.variance()
    if np.isfinite(variance).all() and not isinstance(family, StudentT):
        error = np.abs(y.mean(axis=1) - mix.mean()) / np.sqrt(variance / 4000)
        assert error.max() < 4.5
        np.testing.assert_allclose(y.var(axis=1), variance, rtol=0.25)


def test_heavy_tails_have_no_variance():
    assert np.isinf(mixture(StudentT(2.0)).variance()).all()


@pytest.mark.parametrize("family", [*CONTINUOUS, *COUNTS], ids=str)
def test_crps_is_its_integral(family):
    mix = mixture(family, n=6)
    y = drawn(mix)[:, 0]
    found = mix.crps(y)
    grid = np.array([1e-9, 1e-6, 1e-4, 1e-2, 0.1, 0.3, 0.6, 0.9, 0.99, 1 - 1e-4])
    for i in range(len(mix)):
        ends = one(mix, i).quantile(np.array([[*grid, 1 - 1e-6, 1 - 1e-9]]))[0]

        def square(z, after, i=i):
            return np.squeeze(one(mix, i).cdf(np.atleast_2d(z)) - after) ** 2

        if family.discrete:
            z = np.arange(min(ends[0], y[i]), max(ends[-1], y[i]) + 1)
            known = np.sum(square(z, z >= y[i]))
        else:
            knots = np.unique([*ends, y[i], *mix.means[i, :2]])
            known = sum(
                integrate.quad(square, a, b, (a >= y[i],), epsabs=1e-9, limit=200)[0]
                for a, b in itertools.pairwise(knots)
            )
        spread = ends[6] - ends[3]
        assert found[i] == pytest.approx(known, abs=1e-5 * spread)


def test_crps_is_that_of_draws():
    mix = mixture(Gaussian(), n=4)
    y, draws = drawn(mix)[:, 0], np.sort(drawn(mix, 20000, seed=2), axis=1)
    n = draws.shape[1]
    within = (draws * (2 * np.arange(1, n + 1) - n - 1)).sum(axis=1) * 2 / n**2
    energy = np.abs(draws - y[:, None]).mean(axis=1) - within / 2
    np.testing.assert_allclose(mix.crps(y), energy, rtol=0.03)


# ----------------------------------------------------------- regions and modes
def test_region_of_two_peaks_has_two_intervals_and_the_mass():
    mix = normals([0.5, 0.5], [-2.0, 2.0], [0.5, 0.5])
    (region,) = density.regions(mix, 0.9)
    z = stats.norm.ppf(0.95) * 0.5
    known = [[-2 - z, -2 + z], [2 - z, 2 + z]]
    np.testing.assert_allclose(region, known, atol=1e-5)


@pytest.mark.parametrize("family", [Gaussian(), StudentT(), Laplace()], ids=str)
@pytest.mark.parametrize("coverage", [0.5, 0.95])
def test_regions_are_level_sets_of_the_mass(family, coverage):
    mix = mixture(family, n=30)
    for i, region in enumerate(density.regions(mix, coverage)):
        cdf = one(mix, i).cdf(region.reshape(1, -1)).reshape(region.shape)
        assert np.diff(cdf, axis=1).sum() == pytest.approx(coverage, abs=1e-8)
        level = one(mix, i).log_density(region.reshape(1, -1))
        assert np.ptp(level) < 1e-3


def endless(kind, n=40):
    """Return mixtures whose densities are infinite at an end, or have wide tails."""
    rng = np.random.default_rng(0)
    weights, experts = rng.dirichlet(np.ones(2), size=n), np.tile([0, 1], (n, 1))
    scale = np.exp(rng.uniform(0.0, np.log(100.0), size=(n, 2)))
    means = np.exp(rng.normal(size=(n, 2)))
    if kind == "beta":
        means, scale = rng.uniform(0.01, 0.99, size=(n, 2)), scale / 10
    family = {"gamma": Gamma(), "beta": Beta(), "student_t": StudentT(0.5)}[kind]
    return PredictiveMixture(weights, experts, means, scale, family, np.zeros(n))


@pytest.mark.parametrize("kind", ["gamma", "beta", "student_t"])
@pytest.mark.parametrize("coverage", [0.01, 0.3, 0.9, 0.999])
def test_regions_of_infinite_densities_hold_the_coverage(kind, coverage):
    mix = endless(kind)
    for i, region in enumerate(density.regions(mix, coverage)):
        ends = np.column_stack([np.nextafter(region[:, 0], -1e9), region[:, 1]])
        mass = np.diff(one(mix, i).cdf(ends.reshape(1, -1)))[0, ::2].sum()
        assert mass >= coverage - 1e-6


@pytest.mark.parametrize("family", CONTINUOUS, ids=str)
def test_small_regions_hold_new_rows_too(family):
    mix = mixture(family, n=4000, m=2)
    mass = density.mass_above(mix, drawn(mix)[:, 0])
    for coverage in (0.002, 0.01, 0.05):
        error = 4 * np.sqrt(coverage / 4000)
        assert np.mean(mass <= coverage) == pytest.approx(coverage, abs=error)


def test_region_of_one_peak_is_the_shortest_interval():
    mix = normals([1.0, 0.0], [1.0, 9.0], [2.0, 1.0])
    known = stats.norm.interval(0.8, 1.0, 2.0)
    np.testing.assert_allclose(density.regions(mix, 0.8)[0], [known], atol=1e-6)
    assert density.shortest(mix, 0.8)[0] == pytest.approx(0.1, abs=1e-3)


def test_shortest_interval_of_gammas_starts_where_the_density_does():
    family = Gamma()
    one_, half = np.ones((1, 1)), np.full((1, 1), 2.0)  # shape 1/2: infinite at 0
    mix = PredictiveMixture(
        one_, np.zeros((1, 1), int), one_, half, family, np.zeros(1)
    )
    assert density.shortest(mix, 0.9)[0] < 1e-9
    (region,) = density.regions(mix, 0.9)
    known = stats.gamma(0.5, scale=2.0).ppf(0.9)
    np.testing.assert_allclose(region, [[0.0, known]], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", [*CONTINUOUS, *COUNTS], ids=str)
def test_shortest_interval_holds_the_coverage_and_is_no_longer(family):
    mix, coverage = mixture(family), 0.8
    low = density.shortest(mix, coverage)
    ends = mix.quantile(np.column_stack([low, low + coverage]))
    mass = mix.cdf(ends[:, 1:]) - mix.cdf(ends[:, :1] - family.discrete)
    assert mass.min() > coverage - 1e-8
    for a in np.linspace(0.001, 0.199, 23):
        other = mix.quantile(np.tile([a, a + coverage], (len(mix), 1)))
        assert np.all(np.diff(ends) <= np.diff(other) * 1.001 + 1e-9)


@pytest.mark.parametrize("family", COUNTS, ids=str)
def test_regions_of_counts_hold_the_most_probable(family):
    mix = mixture(family)
    for i, region in enumerate(density.regions(mix, 0.8)):
        inside = np.concatenate([np.arange(a, b + 1) for a, b in region])
        mass = np.exp(one(mix, i).log_density(inside[None])[0])
        assert mass.sum() >= 0.8 - 1e-9
        assert mass.sum() - mass.min() < 0.8
        outside = np.setdiff1d(np.arange(inside.max() + 50), inside)
        at = np.exp(one(mix, i).log_density(outside[None])[0])
        assert at.max() <= mass.min() + 1e-12


def test_mass_above_is_uniform_of_draws():
    mix = mixture(Gaussian(), n=2000, m=2)
    mass = density.mass_above(mix, drawn(mix)[:, 0])
    assert stats.kstest(mass, "uniform").pvalue > 1e-3


def test_modes():
    mix = normals(
        [[0.5, 0.5], [0.3, 0.7], [0.5, 0.5]],
        [[-2.0, 2.0], [0.0, 6.0], [1.0, 1.2]],
        [[0.5, 0.5], [1.0, 1.0], [1.0, 1.0]],
    )
    two, uneven, single = density.modes(mix)
    np.testing.assert_allclose(np.sort(two), [-2.0, 2.0], atol=1e-3)
    np.testing.assert_allclose(uneven, [6.0, 0.0], atol=1e-3)
    np.testing.assert_allclose(single, [1.1], atol=1e-6)


def test_modes_of_many_normals_are_no_more_than_components():
    mix = mixture(Gaussian(), n=200, m=5)
    for i, found in enumerate(density.modes(mix)):
        assert 1 <= len(found) <= 4  # one component has weight 0
        step = 1e-4 * mix.scale[i].min()
        around = (
            one(mix, i)
            .log_density(np.concatenate([found - step, found, found + step])[None])[0]
            .reshape(3, -1)
        )
        assert np.all(around[1] >= around[[0, 2]] - 1e-12)


def test_modes_of_counts():
    one_ = np.ones((1, 1))
    mix = PredictiveMixture(
        one_, np.zeros((1, 1), int), 3.5 * one_, None, Poisson(), np.zeros(1)
    )
    np.testing.assert_array_equal(density.modes(mix)[0], [3.0])


def large_counts(family, mean, m=3):
    """Return mixtures of counts from 3 to ten times the mean, with fewer zeros."""
    rng = np.random.default_rng(0)
    means = np.column_stack([np.full(4, 3.0), mean * rng.uniform(0.1, 10, (4, m - 1))])
    scale = rng.uniform(0.01, 3.0, size=(4, m)) if family.has_scale else None
    weights, experts = rng.dirichlet(np.ones(m), size=4), np.tile(np.arange(m), (4, 1))
    return PredictiveMixture(weights, experts, means, scale, family, np.zeros(4))


def one_less(counts):
    return np.minimum(counts - 1.0, np.nextafter(counts, -1.0))


@pytest.mark.parametrize("mean", [1e5, 1e14, 1e17, 1e299])
@pytest.mark.parametrize("family", COUNTS, ids=str)
def test_counts_of_any_size(family, mean):
    mix, p = large_counts(family, mean), np.array([0.01, 0.3, 0.5, 0.9, 0.999])
    p = np.tile(p, (4, 1))
    q = mix.quantile(p)
    assert np.all(mix.cdf(q) >= p)
    assert np.all(mix.cdf(one_less(q)) < p)
    y = drawn(mix)[:, 0]
    for found in (mix.crps(y), density.mass_above(mix, y), *density.modes(mix)):
        assert np.all(found >= 0)
        assert np.isfinite(found).all()
    for coverage in (0.01, 0.999):
        for i, region in enumerate(density.regions(mix, coverage)):
            ends = np.column_stack([one_less(region[:, 0]), region[:, 1]])
            mass = np.diff(one(mix, i).cdf(ends.reshape(1, -1)))[0, ::2].sum()
            assert coverage - 1e-9 <= mass
        low = density.shortest(mix, coverage)
        ends = mix.quantile(np.column_stack([low, np.minimum(low + coverage, 1.0)]))
        mass = mix.cdf(ends[:, 1:]) - mix.cdf(one_less(ends[:, :1]))
        assert np.all(mass >= coverage - 1e-6)


@pytest.mark.parametrize("likelihood", ["poisson", "negative_binomial"])
def test_counts_of_a_row_far_out(likelihood):
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(200, 1))
    y = rng.poisson(np.exp(1 + 2 * X[:, 0]))
    model = MoERegressor(n_experts=2, likelihood=likelihood, cross_fit=None, n_init=1)
    model = model.fit(X, y).conformalize(X, y)
    far = np.array([[1.0], [100.0], [1e4]])  # e to the 10000 is no number
    mean = model.predict(far)
    assert np.isfinite(mean).all()
    for found in (model.predict_interval(far, 0.9), model.predict_quantiles(far, 0.5)):
        assert np.isfinite(found).all()
    assert all(np.isfinite(region).all() for region in model.predict_region(far, 0.9))


def test_student_t_of_infinite_freedom_is_normal():
    y = np.linspace(-4, 4, 9)
    endless, normal, given = StudentT(np.inf), Gaussian(), (y, 0.5, 2.0)
    for ask in ("log_density_of", "cdf", "variance"):
        given = (0.5, 2.0) if ask == "variance" else (y, 0.5, 2.0)
        found, known = (getattr(f, ask)(*given) for f in (endless, normal))
        np.testing.assert_allclose(found, known, rtol=1e-12)
    X = np.linspace(-1, 1, 60)[:, None]
    model = MoERegressor(n_experts=2, likelihood=endless, n_init=1, random_state=0)
    assert np.isfinite(model.fit(X, X[:, 0] ** 2).predict(X)).all()


# ------------------------------------------------------------------ calibration
@pytest.mark.parametrize("family", [Poisson(), NegativeBinomial(), Gaussian()], ids=str)
@pytest.mark.parametrize("mean", [0.05, 0.7, 3.0, 30.0])
def test_calibrated_quantiles_do_not_cross_and_hold(family, mean):
    rng = np.random.default_rng(0)
    n, p = 1000, np.linspace(0.02, 0.98, 49)
    means = mean * np.exp(rng.normal(size=(2 * n, 1)))
    ones, experts = np.ones((2 * n, 1)), np.zeros((2 * n, 1), dtype=int)
    mix = PredictiveMixture(ones, experts, means, ones, family, np.zeros(2 * n))
    y = rng.poisson(1.3 * means[:, 0]).astype(float)
    kept, new = Calibration(mix.take(slice(n)), y[:n]), mix.take(slice(n, None))
    q = new.at_score(np.tile(kept.scores(p), (n, 1)))
    assert np.all(np.diff(q, axis=1) >= 0)
    below = np.mean(y[n:, None] < q, axis=0)
    at_most = np.mean(y[n:, None] <= q, axis=0)
    assert np.all(below[p < 0.5] <= p[p < 0.5] + 0.05)
    assert np.all(at_most[p >= 0.5] >= p[p >= 0.5] - 0.05)


@pytest.mark.parametrize("family", [*CONTINUOUS, *COUNTS], ids=str)
def test_normal_scores_go_on_beyond_what_probabilities_can_say(family):
    mix = mixture(family, n=10)
    z = np.tile([-40.0, -3.0, 0.5, 3.0, 40.0], (10, 1))
    y = mix.at_score(z)
    assert np.isfinite(y).all()
    assert np.all(np.diff(y, axis=1) > -1e-9)
    found = np.column_stack([mix.score(column) for column in y.T])
    if family.discrete:  # the first count that reaches the score
        assert np.all(found[:, 1:] >= z[:, 1:] - 1e-9)
    elif not isinstance(family, Beta):  # whose y are rounded to 1
        np.testing.assert_allclose(found[:, 1:4], z[:, 1:4], rtol=1e-6)
    if family.any_real:
        np.testing.assert_allclose(found, z, rtol=1e-6)
    ends = mix.at_score(np.tile([-np.inf, np.inf], (10, 1)))
    np.testing.assert_array_equal(ends, mix.quantile(np.tile([0.0, 1.0], (10, 1))))


def test_rank_of_calibrated_intervals_by_hand():
    # A model that is sure of N(0, 1), and rows that are not.
    y = np.array([0.1, -0.5, 1.0, -2.0, 3.0, 0.3, -0.7, 0.9, 4.0])
    mix = normals(*(np.full((9, 1), a) for a in (1.0, 0.0, 1.0)))
    kept = Calibration(mix, y)
    ends = kept.interval(np.full(9, 0.1), 0.8, np.full(9, 0.1))
    # 0.8 * 10 = 8th smallest |y| is 3.
    np.testing.assert_allclose(ends, np.tile([-3, 3], (9, 1)), atol=1e-6)
    scores = kept.scores(np.array([0.1, 0.5, 0.85, 0.95, 0.05]))
    # ranks 1, 5, ceil(8.5) = 9, and 10 of 9; below 1 of 9.
    known = [-2.0, 0.3, 4.0, np.inf, -np.inf]
    np.testing.assert_allclose(scores, known, atol=1e-6)


@pytest.mark.parametrize("family", [Gaussian(), StudentT(), Poisson()], ids=str)
def test_calibrated_answers_hold_whatever_is_wrong(family):
    rng = np.random.default_rng(0)
    n, misses = 400, {"equal": [], "shortest": [], "region": []}
    for trial in range(10):
        mix = mixture(family, n=2 * n, m=2, seed=trial)
        y = drawn(mix, seed=trial)[:, 0]
        if not family.discrete:
            y = y + 0.5 * rng.exponential(size=2 * n)
        kept, new = Calibration(mix.take(slice(n)), y[:n]), mix.take(slice(n, None))
        for name in ("equal", "shortest"):
            if name == "equal":
                low, own = np.full(n, 0.1), np.full(n, 0.1)
            else:
                low, own = (density.shortest(a, 0.8) for a in (new, kept.mixture))
            ends = new.at_score(kept.interval(low, 0.8, own))
            assert np.isfinite(ends).all()
            misses[name].append(np.mean((y[n:] < ends[:, 0]) | (y[n:] > ends[:, 1])))
        found = density.regions(new, kept.mass(0.8))
        inside = [
            np.any((a[:, 0] <= v) & (v <= a[:, 1]))
            for a, v in zip(found, y[n:], strict=True)
        ]
        misses["region"].append(1 - np.mean(inside))
    # Each mean has a standard error of 0.009: calibration and test rows, ten times.
    for name, missed in misses.items():
        low = 0.1 if family.discrete else 0.17
        assert low < np.mean(missed) < 0.23, name


# ------------------------------------------------------------------- estimator
@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.uniform(-3, 3, size=(1200, 2))
    noise = np.where(X[:, 1] > 0, 0.5, 0.1) * rng.standard_t(4, size=1200)
    return X, np.abs(X[:, 0]) + noise


@pytest.fixture(scope="module")
def model(data):
    X, y = data
    return fitted(X[:400], y[:400], n_experts=4)


def fitted(X, y, **options):
    options = {"n_experts": 3, "n_init": 1, "cross_fit": None, "tol": 1e-3, **options}
    return MoERegressor(random_state=0, **options).fit(X, y)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": None},
        {"top_p": 0.8},
        {"shared_expert": Ridge()},
        {"likelihood": "student_t"},
        {"likelihood": WithOutliers()},
    ],
    ids=str,
)
def test_all_answers_speak_of_the_distribution_of_score_samples(data, options):
    X, y = data[0][:300], data[1][:300]
    model = fitted(X, y, **options)
    step = 1e-5
    slope = (model.cdf(X, y + step) - model.cdf(X, y - step)) / (2 * step)
    np.testing.assert_allclose(slope, np.exp(model.score_samples(X, y)), atol=1e-4)
    (((mix,),), _) = model._mixtures(X)
    median = model.predict_quantiles(X, [0.5])
    centre = median[:, 0] if mix.family.centred else mix.mean()
    if not isinstance(mix.family, WithOutliers):  # which leaves its fixed expert out
        np.testing.assert_allclose(model.predict(X), centre, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.cdf(X, median[:, 0]), 0.5, atol=1e-8)


@pytest.mark.parametrize("family", ["poisson", "negative_binomial", ZeroInflated()])
def test_counts(data, family):
    X, _ = data
    y = np.random.default_rng(1).poisson(np.exp(X[:, 0] / 2))
    model = fitted(X[:300], y[:300], likelihood=family)
    jump = model.cdf(X, y) - model.cdf(X, np.maximum(y - 1, 0)) * (y > 0)
    np.testing.assert_allclose(jump, np.exp(model.score_samples(X, y)), atol=1e-9)
    draws = model.sample_y(X, 5, random_state=0)
    assert np.all(draws == np.floor(draws))
    assert draws.min() == 0
    model.conformalize(X[300:700], y[300:700])
    low, high = model.predict_interval(X[700:], 0.9).T
    assert np.mean((low <= y[700:]) & (y[700:] <= high)) > 0.87


def test_std_and_samples_agree(data, model):
    X, _ = data
    mean, std = model.predict(X, return_std=True)
    np.testing.assert_array_equal(mean, model.predict(X))
    y = model.sample_y(X, 2000, random_state=0)
    assert y.shape == (len(X), 2000)
    assert np.abs((y.mean(axis=1) - mean) / std).max() < 4.5 / np.sqrt(2000)
    assert np.median(y.std(axis=1) / std) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_array_equal(y, model.sample_y(X, 2000, random_state=0))


def test_intervals_are_quantiles(data, model):
    X, _ = data
    interval = model.predict_interval(X, 0.8)
    quantiles = model.predict_quantiles(X, [0.1, 0.9])
    np.testing.assert_allclose(interval, quantiles, atol=1e-9)
    shortest = model.predict_interval(X, 0.8, kind="highest_density")
    assert np.all(np.diff(shortest) <= np.diff(interval) * 1.001)
    total = [np.diff(region).sum() for region in model.predict_region(X, 0.8)]
    assert np.all(total <= np.diff(shortest)[:, 0] * 1.001)


def test_crps_lies_below_the_absolute_error_in_the_mean(data, model):
    X, y = data
    score = model.crps(X[400:], y[400:])
    assert score.min() > 0
    assert score.mean() < np.abs(y[400:] - model.predict(X[400:])).mean()
    assert crps_scorer(model, X[400:], y[400:]) == pytest.approx(-score.mean())


def test_conformalize_holds_and_ends_with_the_model(data):
    X, y = data
    model = fitted(X[:400], y[:400])
    before = model.predict_interval(X, 0.9), model.predict_quantiles(X, [0.3])
    assert model.conformalize(X[400:800], y[400:800]) is model
    for coverage in (0.5, 0.9, 0.95):
        for kind in ("equal_tailed", "highest_density"):
            low, high = model.predict_interval(X[800:], coverage, kind=kind).T
            hit = np.mean((low <= y[800:]) & (y[800:] <= high))
            error = np.sqrt(coverage * (1 - coverage) * (1 / 400 + 1 / 400))
            assert abs(hit - coverage) < 3 * error
    below = y[800:, None] <= model.predict_quantiles(X[800:], [0.1, 0.5, 0.9])
    np.testing.assert_allclose(below.mean(axis=0), [0.1, 0.5, 0.9], atol=0.1)
    model.fit(X[:400], y[:400])
    np.testing.assert_array_equal(model.predict_interval(X, 0.9), before[0])
    np.testing.assert_array_equal(model.predict_quantiles(X, [0.3]), before[1])


def test_too_few_calibration_rows_give_infinite_intervals(data):
    X, y = data
    model = fitted(X[:300], y[:300]).conformalize(X[300:308], y[300:308])
    assert np.isinf(model.predict_interval(X[:5], 0.9)).all()
    assert np.isfinite(model.predict_interval(X[:5], 0.5)).all()
    assert np.isinf(model.predict_region(X[:2], 0.9)[0]).all()


def test_two_branches_are_two_intervals_and_two_modes():
    rng = np.random.default_rng(0)
    X = rng.uniform(1, 3, size=(400, 1))
    y = X[:, 0] * rng.choice([-1, 1], size=400) + 0.1 * rng.normal(size=400)
    model = fitted(X, y, n_experts=2, n_init=4)
    (region,) = model.predict_region([[2.0]], 0.9)
    np.testing.assert_allclose(region.mean(axis=1), [-2, 2], atol=0.1)
    np.testing.assert_allclose(np.sort(model.modes([[2.0]])[0]), [-2, 2], atol=0.1)
    assert abs(model.predict([[2.0]])[0]) < 0.5


@pytest.mark.parametrize("options", [{}, {"gate_per_output": True}], ids=str)
def test_several_outputs(data, options):
    X, y = data
    y = np.column_stack([y, -2 * y])
    model = fitted(X[:300], y[:300], **options)
    assert model.predict_quantiles(X[:7], [0.1, 0.5, 0.9]).shape == (7, 3, 2)
    assert model.predict(X[:7], return_std=True)[1].shape == (7, 2)
    assert model.cdf(X, y).shape == model.crps(X, y).shape == (1200, 2)
    draws = model.sample_y(X[:7], 400, random_state=0)
    assert draws.shape == (7, 2, 400)
    mean = model.predict(X[:7])
    np.testing.assert_allclose(draws.mean(axis=2), mean, atol=0.3)
    model.conformalize(X[300:600], y[300:600])
    interval = model.predict_interval(X[600:])
    assert interval.shape == (600, 2, 2)
    hit = (interval[:, 0] <= y[600:]) & (y[600:] <= interval[:, 1])
    np.testing.assert_allclose(hit.mean(axis=0), 0.9, atol=0.06)
    for method in ("modes", "predict_region"):
        with pytest.raises(ValueError, match=f"{method} needs a y of one output"):
            getattr(model, method)(X[:2])


def test_outputs_of_a_draw_come_from_one_expert():
    rng = np.random.default_rng(0)
    X = rng.uniform(1, 3, size=(300, 1))
    side = rng.choice([-1, 1], size=300)
    y = np.column_stack([side * X[:, 0], side * X[:, 0]])
    y += 0.1 * rng.normal(size=y.shape)
    model = fitted(X, y, n_experts=2, n_init=4, gate="constant")
    draws = model.sample_y(X[:3], 100, random_state=0)
    np.testing.assert_array_equal(np.sign(draws[:, 0]), np.sign(draws[:, 1]))
    assert 0.2 < np.mean(draws[:, 0] > 0) < 0.8


def test_answers_are_in_the_kind_of_x(data):
    X, y = data
    model = fitted(X[:300].astype(np.float32), y[:300])
    small = X[:5].astype(np.float32)
    assert model.predict_quantiles(small, [0.5]).dtype == model.predict(small).dtype
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = fitted(frame[:300], pd.Series(y[:300]))
    model.conformalize(frame[300:600], pd.Series(y[300:600]))
    assert model.predict_interval(frame[:5]).shape == (5, 2)
    assert model.crps(frame[:5], pd.Series(y[:5])).shape == (5,)


def test_one_row(model):
    assert model.predict_interval([[0.0, 0.0]], kind="highest_density").shape == (1, 2)


def test_scorers(data):
    X, y = data[0][:300], data[1][:300]
    base = MoERegressor(n_init=1, cross_fit=None, random_state=0)
    search = GridSearchCV(base, {"n_experts": [1, 2]}, scoring=crps_scorer, cv=2)
    search.fit(X, y)
    assert search.best_params_ == {"n_experts": 2}
    assert crps_scorer(search, X, y) == crps_scorer(search.best_estimator_, X, y)
    pipe = make_pipeline(StandardScaler(), base)
    found = cross_val_score(pipe, X, y, scoring=log_likelihood_scorer, cv=2)
    assert np.isfinite(found).all()
    pipe.fit(X, y)
    direct = pipe[-1].score_samples(pipe[:-1].transform(X), y)
    weights = np.arange(300.0)
    known = np.average(direct, weights=weights)
    assert log_likelihood_scorer(pipe, X, y, weights) == pytest.approx(known)
    with pytest.raises(TypeError, match=r"a method crps\(X, y\); Ridge has none"):
        crps_scorer(Ridge().fit(X, y), X, y)


# ---------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda m, X: m.predict_quantiles(X, [0.5, 1.0]), "quantiles must lie between"),
        (lambda m, X: m.predict_quantiles(X, [-0.1]), "excluded; got -0.1"),
        (lambda m, X: m.predict_quantiles(X, [np.nan]), "quantiles must lie between"),
        (lambda m, X: m.predict_quantiles(X, [[0.5]]), "must be a list"),
        (lambda m, X: m.predict_quantiles(X, []), "must be a list"),
        (lambda m, X: m.predict_interval(X, 1.0), "coverage == 1.0, must be < 1"),
        (lambda m, X: m.predict_interval(X, 0), "coverage == 0, must be > 0"),
        (lambda m, X: m.predict_region(X, 2.0), "coverage == 2.0"),
        (lambda m, X: m.predict_region(X, np.nan), "coverage == nan"),
        (lambda m, X: m.predict_interval(X, np.nan), "coverage == nan"),
        (lambda m, X: m.predict_interval(X, kind="hdi"), "kind must be one of"),
        (lambda m, X: m.sample_y(X, 0), "n_samples == 0, must be >= 1"),
        (lambda m, X: m.cdf(X, [1.0, 2.0]), "inconsistent numbers of samples"),
        (lambda m, X: m.crps(X, [np.nan] * 3), "contains NaN"),
        (lambda m, X: m.crps(X, np.ones((3, 2))), "y has 2 outputs"),
        (lambda m, X: m.conformalize(X, [1.0]), "inconsistent numbers of samples"),
        (lambda m, X: m.predict_interval(X[:, :1]), "1 features"),
    ],
)
def test_bad_requests(data, model, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(model, data[0][:3])


@pytest.mark.parametrize(
    "ask",
    [
        lambda m, X: m.predict_interval(X),
        lambda m, X: m.predict_quantiles(X, [0.5]),
        lambda m, X: m.predict_region(X),
        lambda m, X: m.modes(X),
        lambda m, X: m.sample_y(X),
        lambda m, X: m.cdf(X, X[:, 0]),
        lambda m, X: m.crps(X, X[:, 0]),
        lambda m, X: m.conformalize(X, X[:, 0]),
    ],
)
def test_not_fitted(ask):
    with pytest.raises(NotFittedError):
        ask(MoERegressor(), np.ones((3, 2)))
