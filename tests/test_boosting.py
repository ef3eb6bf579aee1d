"""Boosted trees whose bins are found here are those that scikit-learn would fit."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingRegressor,
)
from sklearn.ensemble._hist_gradient_boosting import binning
from sklearn.frozen import FrozenEstimator
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from skmoe import MoEClassifier, MoERegressor, _bins
from skmoe._bins import fit_weighted
from skmoe._learners import weight_parameter
from skmoe._sklearn_compat import WEIGHTED_BINS
from skmoe.gates import EstimatorGate

if not WEIGHTED_BINS:
    pytest.skip("no weighted quantiles to save", allow_module_level=True)

RANDOM = np.random.RandomState(0)
N = 600
X = RANDOM.normal(size=(N, 4))
X[:, 2] = RANDOM.randint(0, 9, N)  # few values
NEW = RANDOM.normal(size=(300, 4))
WEIGHT = RANDOM.uniform(0.1, 2.0, N)
Y = np.sin(3 * X[:, 0]) + X[:, 1] * X[:, 3] + 0.1 * RANDOM.normal(size=N)
LABELS = np.digitize(Y, [-0.5, 0.5])
REGRESSOR = HistGradientBoostingRegressor(max_iter=10, random_state=0)
CLASSIFIER = HistGradientBoostingClassifier(max_iter=10, random_state=0)
FEW = {"n_experts": 2, "max_iter": 2, "tol": 10.0, "cross_fit": None}
FEW |= {"n_init": 1, "random_state": 0}


@pytest.fixture
def no_quantiles(monkeypatch):
    """Let boosting fail that looks for weighted quantiles of a column."""

    def refuse(*args, **kwargs):
        raise AssertionError("weighted quantiles of a column")

    monkeypatch.setattr(binning, "_weighted_percentile", refuse)


def binned(learner, table=X, y=Y, weight=WEIGHT):
    return fit_weighted(clone(learner), table, y, {"sample_weight": weight})


def plain(learner, table=X, y=Y, weight=WEIGHT):
    return clone(learner).fit(table, y, sample_weight=weight)


def with_gaps(table):
    return np.where(np.arange(len(table))[:, None] % 7 == np.arange(4), np.nan, table)


def as_frame(table, library):
    """Return the rows as a data frame, with a column of categories."""
    stores = [f"s{code}" for code in np.round(np.abs(table[:, 2])).astype(int)]
    columns = {name: table[:, j] for j, name in enumerate("abd")}
    if library == "polars":
        kind = pl.Categorical
        return pl.DataFrame(columns | {"store": pl.Series(stores).cast(kind)})
    frame = pd.DataFrame(columns | {"store": pd.Categorical(stores)})
    return frame[["a", "store", "b", "d"]]  # trees see categories first


# --------------------------------------------------------- the same as the plain fit
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_bins": 20},
        {"loss": "absolute_error"},
        {"max_features": 0.5},
        {"monotonic_cst": [1, 0, 0, -1]},
        {"interaction_cst": [[0, 1], [2, 3]]},
        {"categorical_features": [2]},
    ],
    ids=str,
)
def test_regressors_are_the_plain_ones(options):
    learner = clone(REGRESSOR).set_params(**options)
    ours, theirs = binned(learner), plain(learner)
    assert type(ours) is HistGradientBoostingRegressor
    assert_array_equal(ours.predict(X), theirs.predict(X))
    assert_array_equal(ours.predict(NEW), theirs.predict(NEW))


@pytest.mark.parametrize("labels", [LABELS, LABELS > 0, np.array([*"abc"])[LABELS]])
def test_classifiers_are_the_plain_ones(labels):
    ours, theirs = binned(CLASSIFIER, y=labels), plain(CLASSIFIER, y=labels)
    assert_array_equal(ours.predict_proba(NEW), theirs.predict_proba(NEW))


@pytest.mark.parametrize("weight", [WEIGHT, np.ones(N), np.arange(N) % 3.0])
def test_missing_values_float32_and_weights_of_zero(weight):
    table, new = with_gaps(X).astype(np.float32), with_gaps(NEW).astype(np.float32)
    ours = binned(REGRESSOR, table, weight=weight)
    theirs = plain(REGRESSOR, table, weight=weight)
    assert_array_equal(ours.predict(new), theirs.predict(new))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_with_categories(library):
    table, new = as_frame(X, library), as_frame(NEW, library)
    before = table.to_dict()
    ours, theirs = binned(REGRESSOR, table), plain(REGRESSOR, table)
    assert ours.is_categorical_.sum() == 1
    assert_array_equal(ours.feature_names_in_, table.columns)
    assert_array_equal(ours.predict(new), theirs.predict(new))
    assert str(table.to_dict()) == str(before)


def test_learners_that_hold_boosting():
    both = np.column_stack([Y, Y**2])
    log = FunctionTransformer(np.arcsinh, np.sinh, check_inverse=False)
    for learner, y in [
        (MultiOutputRegressor(REGRESSOR), both),
        (TransformedTargetRegressor(REGRESSOR, transformer=log), Y),
        (TransformedTargetRegressor(MultiOutputRegressor(REGRESSOR)), both),
        (MultiOutputClassifier(CLASSIFIER), both > 0),
        (make_pipeline(Normalizer(), REGRESSOR), Y),
        (VotingRegressor([("one", REGRESSOR), ("same", REGRESSOR)]), Y),
    ]:
        name = weight_parameter(learner) or "sample_weight"
        ours = fit_weighted(clone(learner), X, y, {name: WEIGHT})
        theirs = clone(learner).fit(X, y, **{name: WEIGHT})
        assert_array_equal(ours.predict(NEW), theirs.predict(NEW))
        assert str(vars(ours)) == str(vars(theirs))


def test_frozen_models_stay():
    model = plain(REGRESSOR)
    frozen = FrozenEstimator(model)
    assert fit_weighted(frozen, X, Y, {"sample_weight": WEIGHT}) is frozen
    assert type(model) is HistGradientBoostingRegressor


def test_a_fit_that_fails_leaves_the_class():
    held = MultiOutputRegressor(clone(REGRESSOR))
    with pytest.raises(ValueError, match="NaN"):
        fit_weighted(held, X, np.full((N, 2), np.nan), {"sample_weight": WEIGHT})
    assert type(held.estimator) is HistGradientBoostingRegressor


def test_thresholds_of_the_bins_are_raw_too():
    ours, theirs = (fit(REGRESSOR)._bin_mapper for fit in (binned, plain))
    for j in range(X.shape[1]):
        assert_array_equal(ours.bin_thresholds_[j], theirs.bin_thresholds_[j])


# ------------------------------------------------------------- raw rows and binned rows
@pytest.mark.parametrize(
    "column",
    [
        RANDOM.normal(size=N),
        np.round(RANDOM.normal(size=N), 2) * (RANDOM.uniform(size=N) > 0.3),
        np.minimum(RANDOM.exponential(size=N), 0.7),  # ends in ties
        RANDOM.normal(size=N) * 10.0 ** RANDOM.randint(-300, 300, N),
        np.nextafter(1, 2) + np.arange(N) * np.finfo(float).eps,  # no room between
    ],
    ids=["normal", "ties", "top", "wide", "dense"],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_raw_rows_go_where_their_bins_go(column, early_stopping):
    table = with_gaps(np.column_stack([column, X[:, 1:]]))
    learner = clone(REGRESSOR).set_params(early_stopping=early_stopping, max_bins=40)
    part = RANDOM.uniform(size=N) < 0.9
    weighting = {"sample_weight": WEIGHT[part]}
    model = fit_weighted(clone(learner), table[part], Y[part], weighting)
    columns = _bins._numeric(table)
    few = {j: x[part] for j, x in columns.items()}
    cuts = _bins._cuts(few, WEIGHT[part], 40)
    assert 0 in cuts
    numbers = _bins._numbered(table, columns, cuts)
    of_bins = clone(learner).fit(numbers[part], Y[part], **weighting)
    assert_array_equal(model.predict(table), of_bins.predict(numbers))


def test_cuts_do_not_depend_on_the_order_of_rows_nor_on_repeats():
    weight = RANDOM.randint(1, 4, N).astype(float)
    shuffled = RANDOM.permutation(np.repeat(np.arange(N), weight.astype(int)))
    once = _bins._cut(X[:, 0], weight, 255)
    repeated = _bins._cut(X[shuffled, 0], np.ones(len(shuffled)), 255)
    assert_array_equal(once, repeated)


# --------------------------------------------------- what is not binned is left alone
def test_no_quantiles_are_looked_for(no_quantiles):
    with pytest.raises(AssertionError, match="weighted quantiles"):
        plain(REGRESSOR)
    binned(REGRESSOR)
    binned(CLASSIFIER, y=LABELS)


def test_subclasses_fit_as_they_do():
    class Own(HistGradientBoostingRegressor):
        def fit(self, table, y, sample_weight=None):
            assert table is X
            return super().fit(table, y, sample_weight)

    assert_array_equal(binned(Own(max_iter=5)).predict(NEW).shape, 300)


def test_errors_are_the_learner_s():
    many = clone(REGRESSOR).set_params(categorical_features=[0])
    with pytest.raises(ValueError, match="cardinality <= 255"):
        binned(many)
    for wrong in [1, 300, 20.0, "many"]:
        with pytest.raises(ValueError, match="'max_bins' parameter"):
            binned(clone(REGRESSOR).set_params(max_bins=wrong))


# --------------------------------------------------------------------------- mixtures
def answers(kind):
    """Return what a mixture of boosted trees says of new rows."""
    if kind is MoERegressor:
        model = kind(clone(REGRESSOR).set_params(max_iter=3), **FEW)
        return model.fit(X, Y).predict(NEW)
    model = kind(clone(CLASSIFIER).set_params(max_iter=3), **FEW)
    return model.fit(X, LABELS > 0).predict_proba(NEW)


@pytest.mark.parametrize("kind", [MoERegressor, MoEClassifier])
def test_mixtures_of_boosting_are_the_plain_ones(kind, monkeypatch):
    ours = answers(kind)
    monkeypatch.setattr(_bins, "QUICK", {})
    assert_array_equal(ours, answers(kind))


@pytest.mark.usefixtures("no_quantiles")
def test_no_part_of_a_mixture_looks_for_quantiles():
    boosting = clone(REGRESSOR).set_params(max_iter=3)
    gate = EstimatorGate(clone(CLASSIFIER).set_params(max_iter=3))
    MoERegressor(boosting, gate=gate, noise_expert=boosting, **FEW).fit(X, Y)
    outputs = np.column_stack([Y, Y**2])
    MoERegressor(MultiOutputRegressor(boosting), **FEW).fit(X, outputs)
    labels = MultiOutputClassifier(gate.estimator)
    MoEClassifier(labels, **FEW).fit(X, outputs > 0.5)
