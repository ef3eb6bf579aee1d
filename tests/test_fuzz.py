"""Random mixtures on random tables, held against what must be true of any of them.

A case is drawn from its number: kind, gate, expert, container, precision, weights and
parameters. Some cases run by default, more with ``-m slow``, thousands with
``SKMOE_FUZZ=1000 python -m pytest -n 2 -m slow tests/test_fuzz.py``. One that fails
names its number, and ``case(number)`` draws it again.
"""

import contextlib
import functools
import os
import warnings
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import (
    EstimatorGate,
    GaussianGate,
    HierarchicalGate,
    KNeighborsGate,
    SoftmaxGate,
    TreeGate,
)

pytestmark = pytest.mark.usefixtures("quick_choices")

FEW, MORE = 4, 20
"""Cases of each oracle by default, and with ``-m slow``. ``SKMOE_FUZZ=1000`` in the
environment makes it a thousand."""

MANY = max(int(os.environ.get("SKMOE_FUZZ", MORE)), FEW)

GATES = [
    "softmax",
    "gaussian",
    "constant",
    "tree",
    "hierarchical",
    "product",
    SoftmaxGate(alpha=0.01),
    GaussianGate(covariance_type="full"),
    GaussianGate(covariance_type="tied"),
    KNeighborsGate(n_neighbors=3),
    EstimatorGate(GaussianNB()),
    TreeGate(max_leaf_nodes=4),
    HierarchicalGate(branching=2),
    make_pipeline(MaxAbsScaler(), SoftmaxGate()),
]
REGRESSORS = [
    None,
    Ridge(0.1),
    LinearRegression(),
    DecisionTreeRegressor(max_depth=2, random_state=0),
    KNeighborsRegressor(2),
    make_pipeline(MaxAbsScaler(), Ridge()),
    [Ridge(), DecisionTreeRegressor(max_depth=2), KNeighborsRegressor(2)],
]
CLASSIFIERS = [
    None,
    LogisticRegression(C=10.0),
    DecisionTreeClassifier(max_depth=2, random_state=0),
    GaussianNB(),
    KNeighborsClassifier(3),
    make_pipeline(MaxAbsScaler(), LogisticRegression()),
]
FAMILIES = ["gaussian"] * 3 + ["student_t", "laplace", "poisson", "gamma"]
LINEAR = Ridge, LinearRegression, LogisticRegression, type(None)
READS_CSR = ("softmax", "constant", "hierarchical", "product")
SMOOTH = ("softmax", "gaussian", "constant")


@dataclass
class Case:
    """A mixture and a table to fit it on."""

    model: object
    X: object
    y: np.ndarray
    weight: np.ndarray | None

    def fit(self):
        """Return the mixture, fitted."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return clone(self.model).fit(self.X, self.y, sample_weight=self.weight)

    @property
    def classifies(self):
        return isinstance(self.model, MoEClassifier)

    @property
    def linear(self):
        """Whether experts are linear, and the gate follows small changes smoothly."""
        plain = isinstance(self.model.expert, LINEAR)
        return plain and self.model.gate in SMOOTH


def case(number, gates=GATES, linear=False):
    """Draw a case: the same for the same number."""
    random = np.random.RandomState(number)

    def one_of(choices):
        return choices[random.randint(len(choices))]

    classifies = bool(random.randint(2))
    n, d = random.randint(12, 80), random.randint(1, 5)
    X = random.normal(size=(n, d)) * 10.0 ** random.randint(-3, 4, size=d)
    X[:, random.randint(d)] += 10.0 ** random.randint(-2, 3)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    y = np.where(Z[:, 0] > 0, Z[:, -1], -Z[:, -1]) + 0.1 * random.normal(size=n)
    experts = CLASSIFIERS if classifies else REGRESSORS
    expert = one_of(experts[:2] if linear else experts)
    options = {
        "gate": one_of(gates),
        "n_experts": None if isinstance(expert, list) else random.randint(1, 5),
        "top_k": one_of([1, 2, None]),
        "cross_fit": one_of([None, None, 2, "auto"]),
        "n_init": 1,
        "max_iter": random.randint(1, 4),
        "random_state": 0,
    }
    weight = one_of([None, random.randint(1, 4, size=n).astype(float)])
    dtype = one_of([np.float64, np.float64, np.float32])
    if classifies:
        y = np.array(["a", "b", "c"])[np.digitize(y, [-0.3, 0.6])]
        return Case(MoEClassifier(expert, **options), X.astype(dtype), y, weight)
    likelihood = "gaussian" if linear else one_of(FAMILIES)
    if likelihood == "poisson":
        y = np.round(np.exp(y))
    if likelihood == "gamma":
        y = np.exp(y)
    model = MoERegressor(expert, likelihood=likelihood, **options)
    return Case(model, X.astype(dtype), y, weight)


def answers(fitted, X):
    """Return everything that a mixture says of rows, by the name of the method."""
    found = {"predict": fitted.predict(X), "gate_proba": fitted.gate_proba(X)}
    if isinstance(fitted, MoEClassifier):
        return found | {"predict_proba": fitted.predict_proba(X)}
    return found | {
        "std": fitted.predict(X, return_std=True)[1],
        "interval": fitted.predict_interval(X, 0.8),
        "quantiles": fitted.predict_quantiles(X, [0.01, 0.3, 0.5, 0.9]),
    }


@functools.cache
def fitted_case(number):
    """Return a case, its mixture and what that says: oracles that read share it."""
    one = case(number)
    fitted = one.fit()
    return one, fitted, answers(fitted, one.X)


def close(found, expected, rtol, share=1.0):
    """Compare two sets of answers: rows agree to ``rtol`` of the largest, a share may.

    Labels agree in nearly all rows: rounding decides where two classes are even.
    """
    for name, values in expected.items():
        if values.dtype.kind not in "fc":
            assert np.mean(found[name] == values) >= min(share, 0.9), name
            continue
        size = np.max(np.abs(values), initial=1e-300)
        near = np.abs(found[name] - values) <= rtol * size
        rows = near.reshape(len(values), -1).all(axis=1)
        assert rows.mean() >= share, f"{name} differs in {(~rows).sum()} rows"


SAME = {"rtol": 0.02, "share": 0.9}
"""Another order of the sums leaves other roundings, which passes of EM magnify where
regimes are few rows or an unpenalised gate is all but certain."""


def oracle(function):
    """Let an oracle see some cases by default, and many others if asked."""

    @pytest.mark.parametrize(
        "number",
        [
            *range(FEW),
            *(pytest.param(i, marks=pytest.mark.slow) for i in range(FEW, MANY)),
        ],
    )
    def see(number):
        function(number)

    see.__name__, see.__doc__ = function.__name__, function.__doc__
    return see


# --------------------------------------------------------------------- oracles
@oracle
def test_answers_are_whole(number):
    """Finite, of the right shape and dtype, ordered, probabilities that sum to one."""
    one, fitted, found = fitted_case(number)
    n, dtype = one.X.shape[0], one.X.dtype
    for name, values in found.items():
        assert len(values) == n, name
        if values.dtype.kind == "f":
            assert np.isfinite(values).all(), name
    assert found["gate_proba"].dtype == dtype
    np.testing.assert_allclose(found["gate_proba"].sum(axis=1), 1.0, rtol=1e-5)
    resp = fitted.responsibilities(one.X, one.y)
    np.testing.assert_allclose(resp.sum(axis=1), 1.0, rtol=1e-5)
    assert not np.isnan(fitted.score_samples(one.X, one.y)).any()
    if one.classifies:
        assert found["predict_proba"].shape == (n, len(fitted.classes_))
        np.testing.assert_allclose(found["predict_proba"].sum(axis=1), 1.0, rtol=1e-5)
    else:
        assert (np.diff(found["quantiles"], axis=1) >= 0).all()
        assert (np.diff(found["interval"], axis=1) >= 0).all()
        assert (found["std"] > 0).all()


@oracle
def test_inputs_are_not_written_to(number):
    fresh, (used, *_) = case(number), fitted_case(number)
    for name in ("X", "y", "weight"):
        np.testing.assert_array_equal(getattr(used, name), getattr(fresh, name))


@oracle
def test_batches_answer_as_the_whole(number):
    one, fitted, whole = fitted_case(number)
    parts = [answers(fitted, one.X[rows]) for rows in (slice(0, 1), slice(1, None))]
    joined = {name: np.concatenate([each[name] for each in parts]) for name in whole}
    close(joined, whole, 1e-4 if one.X.dtype == np.float32 else 1e-9)


@oracle
def test_containers_agree(number):
    """A frame is its array, in either order; CSR rows are dense ones."""
    one, _, whole = fitted_case(number)
    frame = pd.DataFrame(one.X, columns=[f"x{j}" for j in range(one.X.shape[1])])
    columns = np.asfortranarray(one.X)
    close(answers(replace(one, X=columns).fit(), columns), whole, 0.0)
    # Pipelines read the frame themselves, and sum its columns in their own order.
    alike = SAME if isinstance(one.model.expert, Pipeline) else {"rtol": 0.0}
    close(answers(replace(one, X=frame).fit(), frame), whole, **alike)
    single = one.X.dtype == np.float32
    if one.linear and one.model.gate in READS_CSR and not single:
        rows = sparse.csr_array(one.X)
        close(answers(replace(one, X=rows).fit(), rows), whole, **SAME)


@oracle
def test_order_of_rows_does_not_matter(number):
    one = case(number, SMOOTH, linear=True)
    if one.X.dtype == np.float32:
        one = replace(one, X=one.X.astype(np.float64))
    order = np.random.RandomState(number).permutation(len(one.y))
    weight = None if one.weight is None else one.weight[order]
    other = replace(one, X=one.X[order], y=one.y[order], weight=weight)
    close(answers(other.fit(), one.X), answers(one.fit(), one.X), **SAME)


@oracle
def test_weight_two_is_the_row_twice(number):
    one = case(number, SMOOTH, linear=True)
    random = np.random.RandomState(number)
    times = random.randint(1, 3, size=len(one.y))
    # Turns of rows held out follow the number of rows; nothing is held out here.
    model = clone(one.model).set_params(cross_fit=None)
    X = one.X.astype(np.float64)
    weighted = Case(model, X, one.y, times.astype(float))
    repeated = Case(model, np.repeat(X, times, axis=0), np.repeat(one.y, times), None)
    close(answers(repeated.fit(), X), answers(weighted.fit(), X), **SAME)


@oracle
def test_units_of_columns_change_nothing(number):
    """LinearRegression sees no units; powers of two leave no rounding."""
    one = case(number, (*SMOOTH, "tree"), linear=True)
    if one.classifies:
        return
    model = clone(one.model).set_params(expert=LinearRegression())
    X = one.X.astype(np.float64)
    units = 2.0 ** np.random.RandomState(number).randint(-30, 31, size=X.shape[1])
    found = answers(replace(one, model=model, X=X * units).fit(), X * units)
    close(found, answers(replace(one, model=model, X=X).fit(), X), 1e-4)


@oracle
def test_units_and_origin_of_the_target_go_through(number):
    one = case(2 * number, SMOOTH, linear=True)
    if one.classifies:
        return
    random = np.random.RandomState(number)
    a, b = 2.0 ** random.randint(-30, 31), 2.0 ** random.randint(0, 12)
    X = one.X.astype(np.float64)
    first = replace(one, X=X).fit()
    other = replace(one, X=X, y=a * (one.y + b)).fit()
    spread = np.std(one.y)
    for name, shift in (("predict", b), ("interval", b), ("quantiles", b), ("std", 0)):
        found, expected = answers(other, X)[name] / a, answers(first, X)[name] + shift
        np.testing.assert_allclose(found, expected, atol=1e-4 * spread, err_msg=name)


class Failing(Ridge):
    """A learner that raises when it is fitted for the n-th time."""

    left = 10**9

    def fit(self, X, y, sample_weight=None):
        Failing.left -= 1
        if Failing.left < 0:
            raise KeyboardInterrupt
        return super().fit(X, y, sample_weight)


@oracle
def test_what_fails_changes_nothing(number):
    random = np.random.RandomState(number)
    X = random.normal(size=(40, 2))
    y = np.abs(X[:, 0])
    options = {"n_experts": 2, "n_init": 1, "max_iter": 2, "random_state": 0}
    model = MoERegressor(Failing(), cross_fit=[None, 2][number % 2], **options)
    Failing.left = 10**9
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
        before = dict(vars(model))
        said = answers(model, X)
        call = [
            lambda: model.fit(X, -y),
            lambda: model.partial_fit(X, -y),
            lambda: model.add_experts(1, X, -y),
        ][random.randint(3)]
        Failing.left = random.randint(0, 6)
        with contextlib.suppress(KeyboardInterrupt):
            call()
            return  # it needed fewer fits
        Failing.left = 10**9
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    close(answers(model, X), said, 0.0)


WRONG = [None, np.nan, -1, 0, 1.5, 10**30, "no", [], np.zeros(3), object(), True]
PARAMETERS = sorted(
    set(MoERegressor().get_params(deep=False))
    | {"class_weight"} - {"verbose", "warm_start"}
)


@oracle
def test_wrong_parameters_are_named(number):
    random = np.random.RandomState(number)
    kind = [MoERegressor, MoEClassifier][number % 2]
    names = [name for name in PARAMETERS if name in kind().get_params(deep=False)]
    name = names[random.randint(len(names))]
    value = WRONG[random.randint(len(WRONG))]
    X = random.normal(size=(30, 2))
    y = (X[:, 0] > 0).astype(int)
    options = {"n_experts": 2, "n_init": 1, "max_iter": 1, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kind(**(options | {name: value})).fit(X, y).predict(X)
        except (ValueError, TypeError) as error:
            said = str(error)
        else:
            said = name
    assert name in said, said
