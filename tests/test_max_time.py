"""``max_time`` ends training in order, wherever the clock runs out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.estimators import _callbacks

random = np.random.RandomState(0)
X = random.standard_normal((200, 3))
Y = np.where(X[:, 0] > 0, X[:, 1], -X[:, 1]) + 0.1 * random.standard_normal(200)
QUICK = {"n_experts": 2, "n_init": 2, "max_iter": 20, "tol": 0.01, "random_state": 0}

MODELS = {
    "linear": (MoERegressor(Ridge(), **QUICK), Y),
    "in sample": (MoERegressor(Ridge(), cross_fit=None, **QUICK), Y),
    "tree": (MoERegressor(DecisionTreeRegressor(max_depth=2), **QUICK), Y),
    "list": (
        MoERegressor([Ridge(), DecisionTreeRegressor(max_depth=2)], **QUICK),
        Y,
    ),
    "logistic": (MoEClassifier(LogisticRegression(), **QUICK), (Y > 0).astype(int)),
}


FOUR = np.where(X[:, 1] > 0, Y, Y + 3.0 * np.sign(X[:, 2]))
SEARCHES = {
    "linear": MoERegressor(Ridge()),
    "in sample": MoERegressor(Ridge(), cross_fit=None),
    "tree": MoERegressor(DecisionTreeRegressor(max_depth=2)),
}


@pytest.fixture
def clock(monkeypatch):
    """Count the looks at the clock: each takes a second."""

    class Clock:
        looks = 0

        def __call__(self):
            self.looks += 1
            return float(self.looks)

    clock = Clock()
    monkeypatch.setattr(_callbacks, "now", clock)
    return clock


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seconds", [0.5, 2, 5])
def test_a_fit_that_is_cut_short_predicts(name, seconds, clock):
    model, y = MODELS[name]
    model.set_params(max_time=seconds).fit(X, y)
    assert model.diagnostics_["out_of_time"] == 1.0
    assert np.isfinite(model.predict(X)).all()
    assert np.isfinite(model.score_samples(X, y)).all()
    assert clock.looks - 1 <= seconds + 2  # a pass each, and one on all rows


@pytest.mark.parametrize("name", MODELS)
def test_time_that_is_left_changes_nothing(name):
    model, y = MODELS[name]
    timed = model.set_params(max_time=1e6).fit(X, y)
    predicted = timed.predict(X)
    assert timed.diagnostics_["out_of_time"] == 0.0
    free = model.set_params(max_time=None).fit(X, y)
    np.testing.assert_array_equal(free.predict(X), predicted)
    assert "out_of_time" not in free.diagnostics_


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("seconds", [0.5, 9, 60])
def test_a_search_that_is_cut_short_predicts(name, seconds, clock):
    model = SEARCHES[name].set_params(**QUICK | {"n_experts": "auto"})
    model.set_params(max_time=seconds).fit(X, FOUR)
    tried = model.selection_path_["n_experts"]
    assert model.diagnostics_["out_of_time"] == 1.0
    assert clock.looks - 1 <= seconds + 2
    assert model.n_experts_ in tried
    assert np.isfinite(model.predict(X)).all()
    if seconds == 0.5:
        assert tried.max() <= 2


def test_a_search_that_is_cut_later_knows_more_numbers(clock):
    model = MoERegressor(**QUICK | {"n_experts": "auto"})
    tried = []
    for seconds in (0.5, 9, 60):
        clock.looks = 0
        model.set_params(max_time=seconds).fit(X, FOUR)
        tried.append(len(model.selection_path_["n_experts"]))
    assert tried[0] < tried[1] < tried[2]


def test_a_search_with_time_left_finds_the_same():
    model = MoERegressor(**QUICK | {"n_experts": "auto"})
    free = model.fit(X[:80], FOUR[:80]).predict(X)
    timed = model.set_params(max_time=1e6).fit(X[:80], FOUR[:80])
    np.testing.assert_array_equal(timed.predict(X), free)
    assert timed.diagnostics_["out_of_time"] == 0.0


@pytest.mark.parametrize("seconds", [0, -1.0, np.nan, "1"])
def test_other_times_are_refused(seconds):
    with pytest.raises(ValueError, match="max_time"):
        MoERegressor(max_time=seconds).fit(X, Y)
