"""A public call that fails, or is interrupted anywhere, changes nothing."""

import copy
import functools
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.linear_model import SGDRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeRegressor

import skmoe
from skmoe import MoEClassifier, MoERegressor, MoETransformer
from skmoe.estimators._all_or_nothing import all_or_nothing

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings("ignore"),
]

SOURCE = str(Path(skmoe.__file__).parent)
random = np.random.default_rng(0)
N = 80
X = random.uniform(-3, 3, (N, 2))
Y = np.abs(X[:, 0]) + 0.1 * random.normal(size=N)
LABELS = np.where(X[:, 0] * X[:, 1] > 0, "up", "down")
FEW = {"n_experts": 3, "random_state": 0, "n_init": 1, "max_iter": 2}
FEW |= {"cross_fit": None}

CALLS = {
    "fit": lambda model, y: model.fit(X[:70], y[:70]),
    "partial_fit": lambda model, y: model.partial_fit(X[:40], y[:40]),
    "add_experts": lambda model, y: model.add_experts(1, X, y),
    "remove_experts": lambda model, y: model.remove_experts(1),
    "prune": lambda model, y: model.prune(X, y, tol=1.0),
    "conformalize": lambda model, y: model.conformalize(X, y),
}
KINDS = {  # the last ones are slow
    "ridge": (lambda: MoERegressor(**FEW), Y),
    "logistic": (lambda: MoEClassifier(**FEW, class_weight="balanced"), LABELS),
    "taught": (lambda: MoERegressor(SGDRegressor(random_state=0), **FEW), Y),
    "tree": (lambda: MoERegressor(DecisionTreeRegressor(max_depth=2), **FEW), Y),
    "gaussian gate": (lambda: MoERegressor(gate="gaussian", **FEW), Y),
    "tree gate": (lambda: MoERegressor(gate="tree", **FEW), Y),
    "bayes": (lambda: MoEClassifier(GaussianNB(), **FEW), LABELS),
}


class Stop(BaseException):
    """What no handler of the library knows."""


def interrupted_at(line, call):
    """Run a call, stopped at the n-th line of the library; tell if it was so long."""
    count = 0

    def of_line(frame, event, arg):
        nonlocal count
        if event == "line":
            count += 1
            if count == line:
                raise Stop
        return of_line

    def of_call(frame, event, arg):
        return of_line if frame.f_code.co_filename.startswith(SOURCE) else None

    before = sys.gettrace()
    sys.settrace(of_call)
    try:
        call()
    except Stop:
        return True, count
    finally:
        sys.settrace(before)
    return False, count


def remembered(model):
    """Return all that a model holds, to compare: pickled, but for caches."""
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


def answers(model):
    said = [model.predict(X), model.gate_proba(X), model.expert_load_]
    if isinstance(model, MoEClassifier):
        return [*said, model.predict_proba(X)]
    return [*said, model.predict_quantiles(X, [0.2, 0.8])]


def holds(model, before, said):
    """Check that a model is what it was."""
    assert vars(model) == before
    for now, then in zip(answers(model), said, strict=True):
        np.testing.assert_array_equal(now, then)


@functools.cache
def once(kind):
    make, y = KINDS[kind]
    return make().fit(X, y).partial_fit(X[:50], y[:50])


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if place > 2 else [])
        for place, kind in enumerate(KINDS)
    ],
)
def test_a_call_that_is_interrupted_anywhere_changes_nothing(kind, name):
    y, model = KINDS[kind][1], copy.deepcopy(once(kind))
    if not hasattr(model, name):
        pytest.skip("regressors alone have it")
    before, said, call = dict(vars(model)), answers(model), CALLS[name]
    _, n_lines = interrupted_at(0, lambda: call(copy.deepcopy(model), y))
    draws = np.random.default_rng(len(kind) + len(name))
    for line in draws.integers(1, n_lines + 1, size=3):
        assert interrupted_at(line, lambda: call(model, y))[0]
        holds(model, before, said)
    call(model, y)


# ---------------------------------------------------------------- learners that fail
class Moody(BaseEstimator):
    """A learner of means whose n-th call raises; all copies count together."""

    countdown = np.inf
    error: type[BaseException] = MemoryError

    def __init__(self, streams=False):
        self.streams = streams

    def _call(self):
        Moody.countdown -= 1
        if Moody.countdown == 0:
            raise Moody.error("enough")

    def fit(self, X, y, sample_weight=None):
        self._call()
        self._learn(y)
        return self


class MoodyRegressor(RegressorMixin, Moody):
    def _learn(self, y):
        self.mean_ = np.mean(y)

    def partial_fit(self, X, y, sample_weight=None):
        self._call()
        self.mean_ += 0.1 * (np.mean(y) - self.mean_)
        self._call()
        return self

    def predict(self, X):
        self._call()
        return np.full(len(X), self.mean_)


class MoodyClassifier(ClassifierMixin, Moody):
    def _learn(self, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.share_ = counts / counts.sum()

    def predict_proba(self, X):
        self._call()
        return np.tile(self.share_, (len(X), 1))

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture(autouse=True)
def in_good_mood():
    yield
    Moody.countdown = np.inf


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("classifies", "error"), [(False, KeyboardInterrupt), (True, MemoryError)]
)
def test_a_learner_that_raises_at_any_call_changes_nothing(classifies, error, name):
    make = MoEClassifier if classifies else MoERegressor
    y = LABELS if classifies else Y
    model = make(MoodyClassifier() if classifies else MoodyRegressor(), **FEW)
    model.fit(X, y).partial_fit(X[:50], y[:50])
    if not hasattr(model, name):
        pytest.skip("regressors alone have it")
    before, said, call = dict(vars(model)), answers(model), CALLS[name]
    held = remembered(model)
    Moody.countdown, Moody.error = 10**6, error
    call(copy.deepcopy(model), y)
    n_calls = 10**6 - Moody.countdown
    for k in np.unique(np.linspace(1, n_calls, 4).astype(int)):
        Moody.countdown = k if n_calls else np.inf
        if n_calls:
            with pytest.raises((error, RuntimeError)):
                call(model, y)
        Moody.countdown = np.inf
        holds(model, before, said)
        assert remembered(model) == held


# ------------------------------------------------------------- Ctrl-C while training
HELD_OUT = FEW | {"cross_fit": "auto", "init": "auto"}
STAGES = {
    "race": MoERegressor(**HELD_OUT),
    "fits": MoERegressor(DecisionTreeRegressor(max_depth=2), **HELD_OUT),
    "in sample": MoERegressor(**FEW),
    "search": MoERegressor(**HELD_OUT | {"n_experts": "auto"}),
    "search, fits": MoERegressor(
        DecisionTreeRegressor(max_depth=2), **HELD_OUT | {"n_experts": "auto"}
    ),
    "warm": MoERegressor(**FEW, warm_start=True),
}


IN_STAGES = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "search, fits" else [])
    for name in STAGES
]


class CtrlC:
    """A callback that interrupts the end of the first task of a name."""

    def __init__(self):
        self.at = None
        self.heard = []

    def setup(self, estimator, context):
        self.heard = []

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        self.heard.append(context.task_name)
        if context.task_name == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", IN_STAGES)
def test_an_interrupt_in_any_stage_changes_nothing(name):
    pytest.importorskip("sklearn.callback")
    stop = CtrlC()
    model = clone(STAGES[name]).set_callbacks(stop).fit(X, Y)
    before, said = dict(vars(model)), answers(model)
    for task in dict.fromkeys(stop.heard):
        stop.at = task
        with pytest.raises(KeyboardInterrupt):
            model.fit(X[:60], Y[:60])
        holds(model, before, said)
    stop.at = None
    model.fit(X[:60], Y[:60])
    assert not np.array_equal(model.predict(X), said[0])


@pytest.mark.parametrize("name", IN_STAGES)
def test_an_interrupt_while_a_line_is_printed_changes_nothing(name, monkeypatch):
    model = clone(STAGES[name]).set_params(verbose=2).fit(X, Y)
    before, said = dict(vars(model)), answers(model)
    held = remembered(model)
    countdown = np.inf
    printed = []

    def interrupted(line):
        nonlocal countdown
        printed.append(line)
        countdown -= 1
        if countdown == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    copy.deepcopy(model).fit(X[::-1], Y[::-1])
    for line in np.unique(np.linspace(1, len(printed), 6).astype(int)):
        countdown = line
        with pytest.raises(KeyboardInterrupt):
            model.fit(X[::-1], Y[::-1])
        holds(model, before, said)
        assert remembered(model) == held


def test_a_generator_of_the_user_is_set_back():
    given = np.random.RandomState(0)
    model = MoERegressor(**FEW | {"random_state": given})
    then = given.get_state()[1].copy()
    with pytest.raises(ValueError, match="y"):
        model.fit(X, np.full(N, np.nan))
    assert interrupted_at(2000, lambda: model.fit(X, Y))[0]
    np.testing.assert_array_equal(given.get_state()[1], then)


def test_a_transformer_is_whole_too():
    model = MoETransformer(MoERegressor(**FEW)).fit(X, Y)
    before = dict(vars(model))
    with pytest.raises(ValueError, match="y"):
        model.fit(X[:, :1], np.full(N, np.nan))
    assert vars(model) == before


def test_every_public_method_that_sets_attributes_is_whole():
    """A method that sets attributes of a fitted mixture restores them, or is read."""
    for made in (MoERegressor, MoEClassifier, MoETransformer):
        for name in (*CALLS, "fit"):
            method = getattr(made, name, None)
            if method is not None:
                assert method.__code__ is all_or_nothing(method).__code__, name
