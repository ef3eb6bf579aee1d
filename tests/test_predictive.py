"""The public distribution object: by hand, against scipy, against the estimator."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.exceptions import NotFittedError

from skmoe import MoERegressor
from skmoe.likelihoods import Beta, Gamma, Gaussian, Poisson, PredictiveMixture
from skmoe.predictive import Calibration, MixtureDistribution


def normals(weights, means, scales, **options):
    """Return the distribution of one output of normal components."""
    weights, means, scales = (np.atleast_2d(a) for a in (weights, means, scales))
    experts = np.zeros(means.shape, dtype=int)
    mixture = PredictiveMixture(
        weights, experts, means, scales, Gaussian(), np.zeros(len(means))
    )
    return MixtureDistribution([[mixture]], **options)


def one_component(family, mean, scale):
    """Return a distribution of one component of a family, on one row."""
    scale = None if scale is None else np.array([[scale]])
    at = np.zeros((1, 1), dtype=int)
    mixture = PredictiveMixture(
        np.ones((1, 1)), at, np.array([[mean]]), scale, family, np.zeros(1)
    )
    return MixtureDistribution([[mixture]])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2))
    y = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 1]) + 0.3 * rng.normal(size=600)
    return X, y


def fitted(X, y, **options):
    options = {"n_experts": 3, "n_init": 1, "tol": 1e-3, "cross_fit": None} | options
    return MoERegressor(random_state=0, **options).fit(X, y)


@pytest.fixture(scope="module")
def model(data):
    return fitted(data[0][:300], data[1][:300])


@pytest.fixture(scope="module")
def conformal(data):
    X, y = data
    return fitted(X[:300], y[:300]).conformalize(X[300:400], y[300:400])


# ---------------------------------------------------------------------- by hand
def test_one_component_is_scipys_normal():
    ours, y = normals([[1.0]] * 3, [[2.0]] * 3, [[0.5]] * 3), [0.5, 1.9, 4.0]
    normal = stats.norm(2.0, 0.5)
    for method in ("pdf", "logpdf", "cdf"):
        answer = getattr(ours, method)(y)
        np.testing.assert_allclose(answer, getattr(normal, method)(y), rtol=1e-12)
    for method in ("mean", "var", "std"):
        np.testing.assert_array_equal(
            getattr(ours, method)(), getattr(normal, method)()
        )
    p = [0.0, 0.01, 0.5, 0.9, 1.0]
    np.testing.assert_allclose(ours.ppf(p)[1], normal.ppf(p), rtol=1e-10)
    np.testing.assert_allclose(ours.ppf(0.3), normal.ppf(0.3), rtol=1e-10)
    np.testing.assert_allclose(ours.interval(0.8)[0], normal.interval(0.8), rtol=1e-9)
    shortest = ours.interval(0.8, kind="highest_density")[0]
    np.testing.assert_allclose(shortest, normal.interval(0.8), atol=1e-3)
    np.testing.assert_allclose(normal.cdf(shortest) @ [-1, 1], 0.8, rtol=1e-9)
    np.testing.assert_allclose(ours.region(0.8)[0][0], normal.interval(0.8), atol=1e-3)
    np.testing.assert_allclose(ours.modes()[0], [2.0], atol=1e-6)
    z = (np.array(y) - 2.0) / 0.5
    crps = z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi)
    np.testing.assert_allclose(ours.crps(y), 0.5 * crps, rtol=1e-10)


def test_two_components_by_hand():
    ours = normals([0.25, 0.75], [0.0, 4.0], [1.0, 2.0])
    assert ours.mean() == [3.0]
    assert ours.var() == [pytest.approx(0.25 * 1 + 0.75 * 4 + 0.25 * 9 + 0.75 * 1)]
    assert ours.std()[0] == pytest.approx(np.sqrt(ours.var()[0]))
    density = 0.25 * stats.norm(0, 1).pdf(1.5) + 0.75 * stats.norm(4, 2).pdf(1.5)
    assert ours.pdf(1.5)[0] == pytest.approx(density, rel=1e-12)
    below = 0.25 * stats.norm(0, 1).cdf(1.5) + 0.75 * stats.norm(4, 2).cdf(1.5)
    assert ours.cdf(1.5)[0] == pytest.approx(below, rel=1e-12)
    assert ours.ppf(below)[0] == pytest.approx(1.5, rel=1e-9)


def test_densities_are_zero_where_the_likelihood_has_no_y():
    shape = 1 / 0.25
    cases = [
        (Poisson(), 3.0, None, [-1.0, 2.0], stats.poisson(3.0).pmf),
        (Gamma(), 2.0, 0.25, [-1.0, 2.0], stats.gamma(shape, scale=2 / shape).pdf),
        (Beta(), 0.3, 0.1, [-0.5, 1.5], lambda y: 0.0),
    ]
    for family, mean, scale, values, known in cases:
        ours = one_component(family, mean, scale)
        for y in values:
            assert ours.pdf(y)[0] == pytest.approx(known(y), rel=1e-9)
    assert np.isneginf(ours.logpdf(-0.5)).all()
    assert np.isnan(ours.pdf(np.nan)).all()


# ------------------------------------------------- as the estimator's own methods
def check_answers(model, X, y, groups=None):
    """Compare all that the object answers with the estimator's methods."""
    same = np.testing.assert_array_equal
    at = {} if groups is None else {"groups": groups}
    ours = model.predict_distribution(X, **at)
    assert len(ours) == len(y)
    same(ours.std(), model.predict(X, return_std=True, **at)[1])
    same(ours.ppf([0.1, 0.5]), model.predict_quantiles(X, [0.1, 0.5], **at))
    same(ours.ppf(0.1), ours.ppf([0.1])[:, 0])
    same(ours.interval(0.8), model.predict_interval(X, 0.8, **at))
    same(ours.cdf(y), model.cdf(X, y, **at))
    same(ours.crps(y), model.crps(X, y, **at))
    same(ours.sample(4, random_state=1), model.sample_y(X, 4, 1, **at))
    same(ours.pdf(y), np.exp(ours.logpdf(y)))
    if np.ndim(y) == 1:
        log_density = model.score_samples(X, y, **at)
        np.testing.assert_allclose(ours.logpdf(y), log_density, rtol=1e-5, atol=1e-5)
        for mine, theirs in (
            (ours.region(0.8), model.predict_region(X, 0.8, **at)),
            (ours.modes(), model.modes(X, **at)),
        ):
            assert len(mine) == len(theirs)
            for a, b in zip(mine, theirs, strict=True):
                same(a, b)
    total = ours.weights.sum(axis=1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-6)
    mean = (ours.weights * ours.means).sum(axis=1)
    np.testing.assert_allclose(ours.mean(), mean, rtol=1e-5, atol=1e-6)
    return ours


def test_answers_are_the_estimators(data, model):
    X, y = data[0][400:450], data[1][400:450]
    ours = check_answers(model, X, y)
    np.testing.assert_allclose(ours.mean(), model.predict(X), rtol=1e-12)
    assert ours.weights.shape == ours.means.shape == ours.scales.shape == (50, 2)
    density = ours.weights * stats.norm(ours.means, ours.scales).pdf(y[:, None])
    np.testing.assert_allclose(ours.pdf(y), density.sum(axis=1), rtol=1e-9)
    interval = ours.interval(0.8, kind="highest_density")
    known = model.predict_interval(X, 0.8, kind="highest_density")
    np.testing.assert_array_equal(interval, known)


def test_conformal_answers_are_the_estimators(data, model, conformal):
    X, y = data[0][400:], data[1][400:]
    ours = check_answers(conformal, X, y)
    plain = model.predict_distribution(X)
    assert not np.array_equal(ours.interval(0.8), plain.interval(0.8))
    np.testing.assert_array_equal(ours.cdf(y), plain.cdf(y))
    low, high = ours.interval(0.9).T
    assert 0.8 < np.mean((low <= y) & (y <= high)) < 0.98
    assert "conformal=True" in repr(ours)
    assert "conformal" not in repr(plain)


def test_an_object_outlives_the_calibration_of_its_model(data):
    X, y = data
    model = fitted(X[:300], y[:300]).conformalize(X[300:400], y[300:400])
    ours, interval = (
        model.predict_distribution(X[400:]),
        model.predict_interval(X[400:]),
    )
    model.fit(X[:200], y[:200])
    np.testing.assert_array_equal(ours.interval(), interval)


@pytest.mark.parametrize("options", [{}, {"gate_per_output": True}], ids=str)
def test_several_outputs(data, options):
    X, y = data[0], np.column_stack([data[1], -2 * data[1]])
    model = fitted(X[:300], y[:300], **options)
    ours = check_answers(model, X[400:420], y[400:420])
    assert ours.weights.shape == ours.means.shape == ours.scales.shape == (20, 2, 2)
    assert ours.pdf(y[400:420]).shape == ours.var().shape == (20, 2)
    assert ours.sample(3).shape == (20, 2, 3)
    assert ours.ppf(0.5).shape == (20, 2)
    assert ours.ppf([0.5]).shape == (20, 1, 2)
    density = ours.weights * stats.norm(ours.means, ours.scales).pdf(
        y[400:420, None, :]
    )
    np.testing.assert_allclose(ours.pdf(y[400:420]), density.sum(axis=1), rtol=1e-9)
    for method in ("modes", "region"):
        with pytest.raises(ValueError, match=f"^{method} needs a y of one output"):
            getattr(ours, method)()
    model.conformalize(X[300:400], y[300:400])
    check_answers(model, X[400:420], y[400:420])


def test_counts(data):
    X = data[0]
    y = np.random.default_rng(1).poisson(np.exp(X[:, 0] / 2))
    model = fitted(X[:300], y[:300], likelihood="poisson")
    ours = check_answers(model, X[400:430], y[400:430])
    assert ours.scales is None
    np.testing.assert_allclose(
        ours.pdf(y[400:430]),
        ours.cdf(y[400:430]) - ours.cdf(y[400:430] - 1),
        atol=1e-9,
    )
    assert np.all(ours.ppf(0.0) == 0)


def test_groups(data, quick_choices):
    X, y = data
    groups = np.arange(300) // 5
    model = MoERegressor(n_experts=2, n_init=1, tol=1e-2, random_state=0)
    model.fit(X[:300], y[:300], groups=groups)
    check_answers(model, X[400:450], y[400:450], groups=groups[:50])


def test_kinds_of_rows(data, model):
    X, y = data
    rows = X[400:410]
    ours = model.predict_distribution(rows)
    csr = model.predict_distribution(sparse.csr_array(rows))
    np.testing.assert_allclose(csr.cdf(0.0), ours.cdf(0.0), rtol=1e-12)
    frame = model.predict_distribution(rows.tolist())
    np.testing.assert_array_equal(
        frame.cdf(pd.Series(y[400:410])), ours.cdf(y[400:410])
    )
    small = fitted(X[:300].astype(np.float32), y[:300].astype(np.float32))
    answers = small.predict_distribution(rows.astype(np.float32))
    for answer in (
        answers.mean(),
        answers.weights,
        answers.sample(2),
        answers.ppf(0.3),
    ):
        assert answer.dtype == np.float32


def test_rows_are_routed_once(data, model, monkeypatch):
    calls = []
    route = type(model._rule).route

    def counted(self, *args):
        calls.append(args)
        return route(self, *args)

    monkeypatch.setattr(type(model._rule), "route", counted)
    ours = model.predict_distribution(data[0][:20])
    assert len(calls) == 1
    ours.mean(), ours.interval(), ours.cdf(0.0), ours[:3].modes(), ours.crps(1.0)
    assert len(calls) == 1


# ------------------------------------------------------------------------- rows
def test_rows_by_position_slice_and_mask(data, model, conformal):
    X = data[0][400:410]
    mask = np.arange(10) % 3 == 0
    for fitted_model in (model, conformal):
        ours = fitted_model.predict_distribution(X)
        whole = ours.interval(0.7)
        for rows in (3, -1, np.int64(2), slice(2, 5), [4, 4, 1], mask, list(mask)):
            part = ours[rows]
            known = np.atleast_2d(whole[rows])
            assert isinstance(part, MixtureDistribution)
            assert len(part) == len(known)
            np.testing.assert_array_equal(part.interval(0.7), known)
        assert len(ours[pd.Series(mask)]) == mask.sum()
        assert len(ours[[]]) == len(ours[5:5]) == 0
        assert [len(each) for each in ours] == [1] * 10
    for rows in (10, mask[:5], "a", 0.5, np.zeros((2, 2), int)):
        with pytest.raises(IndexError):
            ours[rows]


def test_no_rows(model, data):
    ours = model.predict_distribution(data[0][:5])[:0]
    assert ours.mean().shape == ours.cdf(0.0).shape == ours.crps([]).shape == (0,)
    assert ours.interval().shape == ours.ppf([0.1, 0.2]).shape == (0, 2)
    assert ours.region() == ours.modes() == []
    assert ours.sample(3).shape == (0, 3)


def test_repr_and_pickle(conformal, data):
    ours = conformal.predict_distribution(data[0][:5])
    assert repr(ours) == (
        "MixtureDistribution(n_samples=5, width=2, n_outputs=1, "
        "likelihood=Gaussian(), conformal=True)"
    )
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.interval(), ours.interval())


# ---------------------------------------------------------------------- pictures
def test_plot(model, conformal, data):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    few = model.predict_distribution(data[0][:3])
    assert few.plot(ax=ax) is few
    assert few.ax_ is ax
    assert few.figure_ is ax.figure
    assert len(ax.lines) == 3
    y, height = ax.lines[0].get_data()
    assert np.trapezoid(height, y) == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(height[50], few[0].pdf(y[50])[0], rtol=1e-9)
    many = conformal.predict_distribution(data[0][:30])
    many.plot(color="red")
    assert len(many.ax_.collections) == 3
    assert many.ax_.lines[0].get_color() == "red"
    np.testing.assert_allclose(many.ax_.lines[0].get_ydata(), many.mean())
    counts = one_component(Poisson(), 3.0, None).plot()
    y, height = counts.ax_.lines[0].get_data()
    np.testing.assert_allclose(height, stats.poisson(3.0).pmf(y), rtol=1e-9)
    np.testing.assert_array_equal(np.diff(y), 1.0)
    two = model.predict_distribution(data[0][:1])
    with pytest.raises(IndexError):
        two.plot(output=1)
    plt.close("all")


# ------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda d: d.ppf(1.5), "p must lie between 0 and 1; got 1.5"),
        (lambda d: d.ppf([0.5, np.nan]), "p must lie between 0 and 1; got nan"),
        (lambda d: d.ppf([[0.5]]), "p must be a number or a list"),
        (lambda d: d.ppf([]), "p must be a number or a list"),
        (lambda d: d.interval(1.0), "coverage == 1.0, must be < 1"),
        (lambda d: d.interval(np.nan), "coverage == nan"),
        (lambda d: d.interval(kind="hdi"), "kind must be one of"),
        (lambda d: d.region(0), "coverage == 0, must be > 0"),
        (lambda d: d.sample(0), "n_samples == 0, must be >= 1"),
        (lambda d: d.cdf([0.0, 1.0]), r"of shape \(3,\); got shape \(2,\)"),
        (lambda d: d.pdf(np.zeros((3, 2))), r"of shape \(3,\); got shape \(3, 2\)"),
    ],
)
def test_bad_requests(model, data, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(model.predict_distribution(data[0][:3]))


def test_not_fitted():
    with pytest.raises(NotFittedError):
        MoERegressor().predict_distribution(np.ones((3, 2)))


def test_calibration_knows_no_rows_of_the_object(conformal, data):
    ours = conformal.predict_distribution(data[0][:4])
    (calibration,) = ours._calibrations
    assert isinstance(calibration, Calibration)
    assert len(calibration.y) == 100
