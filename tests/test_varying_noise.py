"""Noise that varies with x."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor
from skmoe.gates import SoftmaxGate

pytestmark = pytest.mark.usefixtures("quick_choices")

TREE = DecisionTreeRegressor(max_depth=4)


def fan(n=600, seed=0):
    """Return rows of two regimes whose noise grows with the second feature."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, size=(n, 2))
    mean = np.where(X[:, 0] > 0, 3.0, -3.0)
    sd = np.exp(X[:, 1])
    return X, mean + sd * rng.normal(size=n), sd


def test_one_expert_learns_the_noise():
    X, y, sd = fan()
    y = y - np.where(X[:, 0] > 0, 3.0, -3.0)
    model = MoERegressor(n_experts=1, noise_expert=Ridge(), cross_fit=None).fit(X, y)
    said = model.predict(X, return_std=True)[1]
    assert np.corrcoef(np.log(said), X[:, 1])[0, 1] > 0.99
    np.testing.assert_allclose(np.log(said / sd), 0.0, atol=0.35)
    z = (y - model.predict(X)) / said
    assert np.mean(z**2) == pytest.approx(1.0, abs=0.1)


def test_density_is_better_and_means_stay():
    X, y, _ = fan()
    new, target, _ = fan(seed=1)
    # The gate sees where regimes lie and not where noise is high.
    gate = make_pipeline(make_column_transformer(("passthrough", [0])), SoftmaxGate())
    plain = MoERegressor(TREE, n_experts=2, gate=gate, random_state=0).fit(X, y)
    varying = clone(plain).set_params(noise_expert=Ridge()).fit(X, y)
    np.testing.assert_array_equal(plain.predict(new), varying.predict(new))
    np.testing.assert_array_equal(plain.scale_, varying.scale_)
    gain = varying.score_samples(new, target) - plain.score_samples(new, target)
    assert gain.mean() > 0.2
    assert len(varying.noise_experts_) == 2


def test_density_integrates_to_one():
    X, y, _ = fan(300)
    model = MoERegressor(
        n_experts=2, noise_expert=Ridge(), cross_fit=None, random_state=0
    ).fit(X, y)
    grid = np.linspace(-120, 120, 100_001)
    rows = np.tile(X[:1], (len(grid), 1))
    assert np.trapezoid(np.exp(model.score_samples(rows, grid)), grid) == pytest.approx(
        1.0, abs=1e-6
    )


def test_even_noise_keeps_one_scale():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2))
    y = X[:, 0] + rng.normal(size=400)
    boosting = HistGradientBoostingRegressor(max_iter=10)
    model = MoERegressor(n_experts=1, noise_expert=boosting).fit(X, y)
    assert model.noise_experts_ == [None]
    plain = MoERegressor(n_experts=1).fit(X, y)
    np.testing.assert_allclose(model.score_samples(X, y), plain.score_samples(X, y))


@pytest.mark.parametrize("likelihood", ["student_t", "laplace"])
def test_other_families_of_real_targets(likelihood):
    X, y, _ = fan(200)
    options = {"n_experts": 2, "likelihood": likelihood, "random_state": 0, "n_init": 1}
    plain = MoERegressor(**options).fit(X, y).score_samples(X, y).mean()
    model = MoERegressor(**options, noise_expert=Ridge()).fit(X, y)
    assert model.score_samples(X, y).mean() > plain
    assert np.isfinite(model.predict_quantiles(X[:5], [0.1, 0.9])).all()


def test_a_refit_without_it_forgets_it():
    X, y, _ = fan(200)
    model = MoERegressor(n_experts=2, noise_expert=Ridge(), cross_fit=None).fit(X, y)
    model.remove_experts(0)
    assert np.isfinite(model.score_samples(X, y)).all()
    model.set_params(noise_expert=None).fit(X, y)
    assert not hasattr(model, "noise_experts_")


def test_errors():
    X, y, _ = fan(60)
    model = MoERegressor(n_experts=2, noise_expert=Ridge())
    with pytest.raises(ValueError, match="noise_expert needs a y of one output"):
        model.fit(X, np.c_[y, y])
    with pytest.raises(ValueError, match="Set noise_expert=None"):
        clone(model).set_params(likelihood="poisson").fit(X, np.abs(y).round())
    with pytest.raises(ValueError, match=r"noise_expert .* is a classifier"):
        clone(model).set_params(noise_expert=LogisticRegression()).fit(X, y)
    model.fit(X, y)
    with pytest.raises(ValueError, match="noise_expert"):
        model.add_experts(1, X, y)
    with pytest.raises(ValueError, match="noise_expert"):
        clone(model).partial_fit(X, y)
