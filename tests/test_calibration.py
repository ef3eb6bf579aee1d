"""Class probabilities: a temperature and a bias for each class, by rows held out."""

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier
from skmoe.em._temperature import calibrated


def said_and_labels(n, temperature, bias, seed=0):
    """Return log probabilities, and labels that follow them once calibrated."""
    random = np.random.RandomState(seed)
    said = log_softmax(3 * random.standard_normal((n, 3)) + [0, -2, -3], axis=1)
    proba = np.exp(log_softmax(said / temperature + bias, axis=1))
    label = (random.uniform(size=(n, 1)) > proba.cumsum(axis=1)).sum(axis=1)
    return said, label


def test_temperature_and_biases_are_found():
    said, label = said_and_labels(20_000, 1.6, [0.0, -0.5, 0.3])
    temperature, bias = calibrated(said, label, np.ones(len(label)))
    assert temperature == pytest.approx(1.6, abs=0.08)
    np.testing.assert_allclose(bias - bias[0], [0, -0.5, 0.3], atol=0.12)


def test_mean_probabilities_are_the_rates_but_for_the_prior():
    said, label = said_and_labels(500, 2.0, [0.0, 0.0, 0.0], seed=1)
    weight = np.random.RandomState(1).randint(1, 4, len(label)).astype(float)
    temperature, bias = calibrated(said, label, weight)
    proba = np.exp(log_softmax(said / temperature + bias, axis=1))
    off = weight @ proba - np.bincount(label, weight)
    np.testing.assert_allclose(off, -3.0 * bias, atol=1e-4)
    twice = np.repeat(np.arange(len(label)), weight.astype(int))
    again, same = calibrated(said[twice], label[twice], np.ones(len(twice)))
    assert again == pytest.approx(temperature, abs=1e-6)
    np.testing.assert_allclose(same, bias, atol=1e-6)


@pytest.fixture(scope="module")
def rare():
    random = np.random.RandomState(0)
    X = random.standard_normal((3000, 4))
    odds = 2 * X[:, 0] + 2 * X[:, 1] * (X[:, 2] > 0) - 4
    y = np.where(random.logistic(size=3000) < odds, "rare", "common")
    tree = DecisionTreeClassifier(max_depth=7)
    model = MoEClassifier(tree, n_experts=2, n_init=1, random_state=0)
    return model.fit(X[:1000], y[:1000]), X[1000:], y[1000:]


def test_a_rare_class_stays_rare(rare):
    model, X, y = rare
    assert model.temperature_ > 1.1
    mean, rate = model.predict_proba(X)[:, 1].mean(), np.mean(y == "rare")
    error = np.sqrt(rate * (1 - rate) * (1 / 1000 + 1 / 2000))
    assert abs(mean - rate) < 2 * error


def test_all_answers_are_calibrated_alike(rare):
    model, X, y = rare
    assert model.class_bias_.shape == (2,)
    proba = model.predict_proba(X)
    scores = model.score_samples(X, y)
    np.testing.assert_allclose(
        scores, np.log(proba[np.arange(2000), (y == "rare") * 1])
    )
    np.testing.assert_allclose(
        model.decision_function(X), np.log(proba[:, 1] / proba[:, 0])
    )
    labels = model.classes_[proba.argmax(axis=1)]
    np.testing.assert_array_equal(model.predict(X), labels)
    raw = model._combine(X) ** (1 / model.temperature_) * np.exp(model.class_bias_)
    np.testing.assert_allclose(proba, raw / raw.sum(axis=1, keepdims=True))


def test_nothing_is_calibrated_where_nothing_is_held_out():
    random = np.random.RandomState(0)
    X, y = random.standard_normal((60, 2)), np.arange(60) % 3
    model = MoEClassifier(n_experts=2, cross_fit=None, random_state=0).fit(X, y)
    assert model.temperature_ == 1.0
    np.testing.assert_array_equal(model.class_bias_, np.zeros(3))
