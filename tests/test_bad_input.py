"""Bad input: every mistake has its message, and a failed fit leaves no trace."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, KFold, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import (
    ConstantGate,
    EstimatorGate,
    GroupGate,
    KNeighborsGate,
    SoftmaxGate,
    TreeGate,
)

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

QUICK = {
    "n_experts": 2,
    "cross_fit": None,
    "n_init": 1,
    "max_iter": 5,
    "random_state": 0,
}
random = np.random.RandomState(0)
X = random.standard_normal((40, 3))
Y = np.abs(X[:, 0]) + 0.1 * random.standard_normal(40)
LABELS = np.where(X[:, 0] + X[:, 1] > 0, "high", "low")


def regressor(expert=None, **params):
    return MoERegressor(expert, **{**QUICK, **params})


def classifier(expert=None, **params):
    return MoEClassifier(expert, **{**QUICK, **params})


def either(kind):
    """Return an estimator of a kind and a target for it."""
    return (regressor(), Y) if kind == "regressor" else (classifier(), LABELS)


both_kinds = pytest.mark.parametrize("kind", ["regressor", "classifier"])


def with_first(array, value):
    """Return a copy with another first entry."""
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array.flat[0] = value
    return array


class Faulty(RegressorMixin, BaseEstimator):
    """A mean that raises, or predicts something odd, from the nth fit on."""

    n_fits = 0

    def __init__(self, error=None, after=0, answer=None):
        self.error = error
        self.after = after
        self.answer = answer

    def fit(self, X, y, sample_weight=None):
        Faulty.n_fits += 1
        if self.error is not None and Faulty.n_fits > self.after:
            raise self.error
        self.mean_ = np.average(y, weights=sample_weight)
        return self

    def predict(self, X):
        answer = self.mean_ if self.answer is None else self.answer
        return np.full(len(X), answer)


class DenseGate(SoftmaxGate):
    """A gate that cannot read sparse rows."""

    accepts_sparse = False


# ------------------------------------------------------------------- X and y
@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "contains NaN"), (np.inf, "contains infinity")]
)
@both_kinds
def test_not_finite(kind, value, message):
    model, y = either(kind)
    with pytest.raises(ValueError, match=f"Input X {message}"):
        model.fit(with_first(X, value), y)
    numbers = y if kind == "regressor" else (y == "high").astype(float)
    with pytest.raises(ValueError, match=f"Input y {message}"):
        model.fit(X, with_first(numbers, value))
    model.fit(X, y)
    with pytest.raises(ValueError, match=f"Input X {message}"):
        model.predict(with_first(X, value))


@both_kinds
def test_strings_in_x(kind):
    model, y = either(kind)
    with pytest.raises(ValueError, match="could not convert string to float: 'red'"):
        model.fit(np.array([["red"]] * 40, dtype=object), y)


def test_strings_in_a_regressors_y():
    with pytest.raises(ValueError, match="could not convert string to float"):
        regressor().fit(X, LABELS)


def test_numbers_in_a_classifiers_y():
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier().fit(X, Y)


@both_kinds
def test_y_none(kind):
    model, _ = either(kind)
    message = f"{type(model).__name__} estimator requires y .* target y is None"
    with pytest.raises(ValueError, match=message):
        model.fit(X, None)


@pytest.mark.parametrize("weight", [None, (LABELS == "low").astype(float)])
def test_one_class(weight):
    labels = np.full(40, "low") if weight is None else LABELS
    with pytest.raises(ValueError, match=r"at least 2 classes in y; got 1.*'low'"):
        classifier().fit(X, labels, sample_weight=weight)


@both_kinds
def test_lengths_differ(kind):
    model, y = either(kind)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[40, 3\]"):
        model.fit(X, y[:3])
    model.fit(X, y)
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[40, 3\]"):
        model.score_samples(X, y[:3])


@both_kinds
def test_empty_table(kind):
    model, y = either(kind)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        model.fit(X[:0], y[:0])
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        model.fit(X[:, :0], y)


def test_one_dimensional_x():
    with pytest.raises(ValueError, match="Reshape your data"):
        regressor().fit(X[:, 0], Y)
    scaled = make_pipeline(StandardScaler(), Ridge())
    model = regressor(scaled, gate=make_pipeline(StandardScaler(), SoftmaxGate()))
    with pytest.raises(ValueError, match="got 1D array instead"):
        model.fit(X[:, 0], Y)


def test_outputs():
    two = np.column_stack([Y, -Y])
    with pytest.raises(ValueError, match=r"y should be a 1d array.*\(40, 2\)"):
        regressor(SVR()).fit(X, two)
    with pytest.raises(ValueError, match=r"y has 1 outputs, but .* fitted with 2"):
        regressor().fit(X, two).score_samples(X, Y)
    with pytest.raises(TypeError, match=r"y is a sparse matrix.*y\.toarray\(\)"):
        regressor().fit(X, sparse.csr_array(two))


def test_sparse_x_that_a_part_cannot_take():
    for model in (regressor(GaussianProcessRegressor()), regressor(gate=DenseGate())):
        with pytest.raises(TypeError, match="dense data is required"):
            model.fit(sparse.csr_array(X), Y)


def test_collections_that_are_not_in_memory():
    array = pytest.importorskip("dask.array")
    frame = pytest.importorskip("dask.dataframe")
    model, fitted = regressor(), regressor().fit(X, Y)
    rows = array.from_array(X, chunks=(20, 3))
    table = frame.from_pandas(pd.DataFrame(X, columns=list("abc")), npartitions=2)
    message = (
        r"is a Dask collection .*DaskMoERegressor or DaskMoEClassifier.*dask\.predict"
    )
    for lazy in (rows, table):
        for ask in (
            lambda lazy: model.fit(lazy, Y),
            lambda lazy: model.partial_fit(lazy, Y),
            lambda lazy: fitted.partial_fit(lazy, Y),
            lambda lazy: classifier().fit(lazy, LABELS),
            lambda lazy: fitted.add_experts(1, lazy, Y),
            lambda lazy: fitted.score_samples(lazy, Y),
            fitted.predict,
            fitted.gate_proba,
        ):
            with pytest.raises(TypeError, match=f"X {message}"):
                ask(lazy)
    y = array.from_array(Y)
    with pytest.raises(TypeError, match=f"y {message}"):
        model.fit(X, y)
    with pytest.raises(TypeError, match=f"y {message}"):
        fitted.score_samples(X, y)
    with pytest.raises(TypeError, match=f"sample_weight {message}"):
        model.fit(X, Y, sample_weight=y)
    with pytest.raises(TypeError, match=f"groups {message}"):
        model.fit(X, Y, groups=y)
    with pytest.raises(TypeError, match=f"y {message}"):
        fitted.score(X, y)
    with pytest.raises(TypeError, match=f"sample_weight {message}"):
        fitted.score(X, Y, sample_weight=y)
    with pytest.raises(TypeError, match=r"X is a polars LazyFrame; .*collect\(\)"):
        fitted.predict(pl.DataFrame(X).lazy())


# -------------------------------------------------------------------- columns
@pytest.mark.parametrize("fill", [0.0, 7.0])
@pytest.mark.parametrize("expert", ["linear", "tree"])
@both_kinds
def test_constant_columns(kind, expert, fill):
    trees = {"regressor": DecisionTreeRegressor, "classifier": DecisionTreeClassifier}
    model, y = either(kind)
    if expert == "tree":
        model.set_params(expert=trees[kind](max_depth=2))
    only = np.full((40, 2), fill)
    for table in (only, np.hstack([X, only])):
        model.fit(table, y)
        assert np.isfinite(model.score_samples(table, y)).all()
        assert np.isfinite(model.lower_bounds_).all()


def test_a_column_of_many_equal_values_does_not_change_the_answer():
    plain = regressor(LinearRegression()).fit(X, Y)
    padded = np.hstack([X, np.full((40, 1), 7.0)])
    model = regressor(LinearRegression()).fit(padded, Y)
    # The start's directions are drawn for the columns: compare what the fits reach.
    assert np.isfinite(model.predict(padded)).all()
    assert model.lower_bound_ == pytest.approx(plain.lower_bound_, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 3.5, 1e6])
@pytest.mark.parametrize("expert", [None, DecisionTreeRegressor(max_depth=2)])
def test_constant_y(expert, value):
    model = regressor(expert).fit(X, np.full(40, value))
    np.testing.assert_allclose(model.predict(X), value, rtol=1e-6, atol=1e-6)
    assert (model.scale_ > 0).all()
    assert np.isfinite(model.lower_bound_)


def test_other_columns_at_predict():
    model = regressor().fit(X, Y)
    with pytest.raises(ValueError, match="X has 2 features, but MoERegressor is exp"):
        model.predict(X[:, :2])
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    model.fit(frame, Y)
    with pytest.raises(ValueError, match=r"(?s)unseen at fit time:\n- z\n.*missing"):
        model.predict(frame.rename(columns={"a": "z"}))
    with pytest.raises(ValueError, match="must be in the same order"):
        model.predict(frame[["b", "a", "c"]])


# ----------------------------------------------------------------- parameters
@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"n_experts": 0},
            "'n_experts' ... int in the range [1, inf), ... 'auto' ... or None. Got 0",
        ),
        (
            {"n_experts": 2.5},
            "'n_experts' ... int in the range [1, inf) ... 'auto' ... None. Got 2.5",
        ),
        ({"top_k": 0}, "'top_k' ... int in the range [1, inf) or None. Got 0"),
        ({"tol": -1e-3}, "'tol' ... float in the range [0.0, inf). Got -0.001"),
        ({"n_init": 0}, "'n_init' ... int in the range [1, inf). Got 0"),
        ({"max_iter": 0}, "'max_iter' ... int in the range [1, inf). Got 0"),
        ({"init": "best"}, "init must be 'auto', ... 'uniform' ... got 'best'"),
        ({"init": ["tree", "auto"]}, "init must be ... got ['tree', 'auto']"),
        ({"init": np.ones((40, 3))}, "init must hold ... (40, 2); got shape (40, 3)"),
        ({"init": np.ones((39, 2))}, "init must hold ... (40, 2); got shape (39, 2)"),
        ({"init": np.full((40, 2), np.nan)}, "init contains NaN"),
        (
            {"init": ["tree", "best"]},
            "init must be ... 'kmeans' ... got ['tree', 'best']",
        ),
        ({"init": []}, "init must be 'auto', one of ['kmeans', ... got []"),
        ({"cross_fit": 1}, "'cross_fit' ... int in the range [2, inf) ... Got 1"),
        ({"cross_fit": "all"}, "cross_fit must be 'auto', a number ... got 'all'"),
        ({"gate": "soft"}, "'gate' ... 'softmax' ... or an object ... Got 'soft'"),
        ({"gate": Ridge()}, "gate must be ... which has no log_proba"),
        (
            {"gate": make_pipeline(StandardScaler(), Ridge())},
            "gate must be ... which has no log_proba, route",
        ),
        ({"gate": SoftmaxGate}, "gate must be ... SoftmaxGate'>, which is a class"),
        ({"expert": "ridge"}, "'expert' ... implementing 'fit' ... Got 'ridge'"),
        (
            {"expert": [Ridge()] * 3},
            "expert is a list of 3 learners, but n_experts=2 ... Set n_experts=None",
        ),
        ({"expert": [], "n_experts": None}, "got an empty list"),
        (
            {"expert": [Ridge()] * 3, "n_experts": "auto"},
            "a list of 3 learners, which fixes the number. Set n_experts=None",
        ),
    ],
    ids=str,
)
@both_kinds
def test_parameters(kind, params, message):
    model, y = either(kind)
    with pytest.raises(ValueError) as caught:
        model.set_params(**params).fit(X, y)
    for fragment in message.split(" ... "):
        assert fragment in str(caught.value)


def test_the_number_of_experts_is_that_of_a_list_or_eight():
    assert regressor(n_experts=None).fit(X, Y).n_experts_ == 8
    one = Ridge(), DecisionTreeRegressor(max_depth=2), LinearRegression()
    assert regressor(one, n_experts=None).fit(X, Y).n_experts_ == 3
    trees = [DecisionTreeClassifier(max_depth=d) for d in (1, 2)]
    model = classifier(trees, n_experts=None).fit(X, LABELS)
    assert [expert.max_depth for expert in model.experts_] == [1, 2]
    model.add_experts(1, X, LABELS)
    assert (model.n_experts, model.n_experts_) == (None, 3)
    assert model.predict(X).shape == (40,)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_experts": 10**30}, "n_experts must be at most 1000000; got 10"),
        ({"n_init": 10**30}, "n_init must be at most 1000000; got 10"),
        ({"cross_fit": 10**30}, "cross_fit must be at most 1000000; got 10"),
        ({"cross_fit": b"auto"}, "cross_fit must be 'auto', a number of folds"),
        ({"init": [1.0, 2.0]}, "init: Expected 2D array, got 1D"),
        ({"init": np.full((40, 2), "a")}, "init: could not convert string to float"),
        (
            {"gate": EstimatorGate(True)},
            "gate: The 'estimator' parameter of EstimatorGate must",
        ),
        ({"gate": SoftmaxGate(np.ones(2))}, "'alpha' parameter of SoftmaxGate must be"),
        ({"gate": TreeGate(np.ones(2))}, "'min_samples_leaf' parameter of TreeGate"),
        ({"gate": KNeighborsGate(pd.NA)}, "'n_neighbors' parameter of KNeighborsGate"),
        ({"gate": TreeGate(max_depth=10**30)}, "'max_depth' parameter of TreeGate"),
        (
            {"gate": GroupGate([0], concentration=np.array([1, 2]))},
            "'concentration' parameter of GroupGate must be",
        ),
        ({"n_jobs": 0}, "n_jobs == 0"),
    ],
    ids=lambda value: str(value)[:50],
)
@both_kinds
def test_parameters_of_odd_kinds(kind, params, message):
    model, y = either(kind)
    with pytest.raises((ValueError, TypeError)) as caught:
        model.set_params(**params).fit(X, y)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            X * 1e200,
            r"X must hold numbers between .*e\+200",
        ),
        (sparse.csr_array(X * 1e300), r"X must hold numbers between .*e\+300"),
        (None, "X: Expected 2D array"),
        (np.full((40, 3), object()), r"X: float\(\) argument"),
        (X.astype(complex), "X: Complex data not supported|Complex data .*X"),
        (pd.DataFrame(X, columns=["a", "a", "b"]), "X: .*unique column names"),
    ],
    ids=["1e200", "CSR of 1e300", "None", "objects", "complex", "names twice"],
)
@both_kinds
def test_rows_that_cannot_be_learned_from(kind, rows, message):
    model, y = either(kind)
    with pytest.raises((ValueError, TypeError), match=rf"(?s){message}"):
        model.fit(rows, y)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=str)
@pytest.mark.parametrize("cross_fit", [None, "auto"])
def test_groups_that_are_missing(missing, cross_fit):
    groups = np.array([f"g{i // 4}" for i in range(40)], dtype=object)
    groups[:3] = missing
    model = regressor(cross_fit=cross_fit)
    with pytest.raises(ValueError, match=r"groups holds 3 missing|groups contains NaN"):
        model.fit(X, Y, groups=groups)
    groups[:3] = 7
    with pytest.raises(
        TypeError, match=r"groups must hold labels of one kind.*int, str"
    ):
        model.fit(X, Y, groups=groups)
    with pytest.raises(TypeError, match=r"groups: Input should have at least 1 dim"):
        model.fit(X, Y, groups="g1")


def test_arguments_of_odd_kinds():
    for weight, message in (
        (np.inf, "sample_weight must hold numbers between"),
        (1e308, "sample_weight must hold numbers between"),
        (1e-320, "sample_weight must hold a number of"),
        ("heavy", "sample_weight: could not convert string"),
    ):
        with pytest.raises(ValueError, match=message):
            regressor().fit(X, Y, sample_weight=weight)
    for each in ({"high": np.nan, "low": 1}, {"high": np.inf, "low": 1}):
        with pytest.raises(
            ValueError, match="class_weight must not be infinite or NaN"
        ):
            classifier(class_weight=each).fit(X, LABELS)
    with pytest.raises(ValueError, match=r"classes: Expected array-like"):
        classifier().partial_fit(X, LABELS, classes="high")
    model = regressor().fit(X, Y)
    with pytest.raises(ValueError, match="quantiles: could not convert string"):
        model.predict_quantiles(X, "median")
    with pytest.raises(ValueError, match="n == 1000"):
        model.add_experts(10**30, X, Y)
    message = r"y holds classes that fit did not see: \['0', '1'\]; known are \[0, 1\]"
    numbers = classifier().fit(X, np.arange(40) % 2)
    labels = pd.Series(np.arange(40) % 2).astype(str).astype("string")
    with pytest.raises(ValueError, match=message):
        numbers.score_samples(X, labels)


def test_parameters_of_one_kind():
    with pytest.raises(ValueError, match=r"'scale_prior' .* \[0\.0, inf\)\. Got -1"):
        regressor(scale_prior=-1).fit(X, Y)
    with pytest.raises(ValueError, match=r"'class_weight' .* Got 'even'"):
        classifier(class_weight="even").fit(X, LABELS)
    with pytest.raises(ValueError, match="class_weight must not be negative; got"):
        classifier(class_weight={"high": 1, "low": -1}).fit(X, LABELS)


# ------------------------------------------------------------------ rows and splits
def test_one_row_is_not_enough_for_two_experts():
    alone = np.eye(40)[0]
    with pytest.raises(ValueError, match=r"n_experts=4 needs .* got n_samples=1\."):
        regressor(n_experts=4).fit(X, Y, sample_weight=alone)


class Parts:
    """A splitter of given parts."""

    def __init__(self, *parts):
        self.parts = parts

    def split(self, X, y=None, groups=None):
        return iter(self.parts)

    def __repr__(self):
        return "Parts()"


ROWS = np.arange(40)


@pytest.mark.parametrize(
    ("splitter", "message"),
    [
        (Parts(), "must make at least one fold"),
        (Parts((ROWS[:20], ROWS[20:]), (ROWS, [])), "fold 1 has no test rows"),
        (Parts((ROWS[:0], ROWS)), "fold 0 has no training rows"),
        (Parts((ROWS[:25], ROWS[20:])), "fold 0 has 5 rows in both its training and"),
        (Parts((ROWS[:20], ROWS + 20)), "must split 40 rows, .* out of bounds"),
        (TimeSeriesSplit(50), "cannot split the 40 rows .* folds=51 greater than"),
        (GroupKFold(3), "cannot split the 40 rows .*'groups' parameter"),
    ],
    ids=str,
)
def test_what_a_splitter_cannot_split(splitter, message):
    with pytest.raises(ValueError, match=rf"(?s)^cross_fit={type(splitter).__name__}"):
        regressor(cross_fit=splitter).fit(X, Y)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        regressor(cross_fit=splitter).fit(X, Y)


# -------------------------------------------------------------------- experts
@pytest.mark.parametrize("wrap", [lambda e: e, lambda e: [e, e]], ids=["one", "list"])
def test_experts_of_the_other_kind(wrap):
    with pytest.raises(ValueError, match=r"LogisticRegression\(\) is a classifier"):
        regressor(wrap(LogisticRegression())).fit(X, Y)
    with pytest.raises(ValueError, match=r"Ridge\(\) is a regressor; MoEClassifier"):
        classifier(wrap(Ridge())).fit(X, LABELS)


@pytest.mark.parametrize("expert", [Ridge, [Ridge, Ridge()]], ids=["one", "list"])
def test_expert_class_for_instance(expert):
    with pytest.raises(TypeError, match=r"expert must be an estimator instance.*Ridge"):
        regressor(expert).fit(X, Y)


def test_expert_without_probabilities():
    message = r"expert SVC\(\) has no predict_proba; wrap it.*CalibratedClassifierCV"
    with pytest.raises(ValueError, match=message):
        classifier(SVC()).fit(X, LABELS)


def test_expert_that_raises():
    message = r"Expert 0 \(Faulty\(.*\) failed to fit on its \d+ rows: .*: no luck"
    with pytest.raises(RuntimeError, match=message) as caught:
        regressor(Faulty(ZeroDivisionError("no luck"))).fit(X, Y)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("answer", [np.nan, np.inf])
def test_expert_that_predicts_nonsense(answer):
    message = r"Expert 0 \(Faulty\(.*\)\) predicted NaN or infinity"
    with pytest.raises(ValueError, match=message):
        regressor(Faulty(answer=answer)).fit(X, Y)


# -------------------------------------------------------------------- weights
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-np.ones(40), "Negative values in data passed to `sample_weight`"),
        (np.zeros(40), "Sample weights must contain at least one non-zero"),
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(40,\)"),
        (np.ones((40, 2)), "Sample weights must be 1D array"),
        (np.full(40, np.nan), "Input sample_weight contains NaN"),
    ],
    ids=["negative", "zero", "short", "2d", "nan"],
)
@both_kinds
def test_weights(kind, weight, message):
    model, y = either(kind)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y, sample_weight=weight)


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (regressor(), Y),
        (regressor(DecisionTreeRegressor(max_depth=3)), Y),
        (regressor(SVR()), Y),
        (regressor(n_experts=4, top_k=1), Y),
        (regressor(gate=make_pipeline(StandardScaler(), SoftmaxGate())), Y),
        (classifier(), LABELS),
        (classifier(DecisionTreeClassifier(max_depth=3)), LABELS),
        (classifier(class_weight="balanced"), LABELS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_weight_zero_is_no_row(model, y):
    weight = np.ones(40)
    weight[::3] = 0.0
    answer = "predict" if y is Y else "predict_proba"
    zero = getattr(model.fit(X, y, sample_weight=weight), answer)(X)
    kept = getattr(model.fit(X[weight > 0], y[weight > 0]), answer)(X)
    np.testing.assert_array_equal(zero, kept)


def test_a_class_of_weight_zero_is_never_predicted():
    model = classifier(class_weight={"high": 1.0, "low": 0.0}).fit(X, LABELS)
    assert set(model.classes_) == {"high", "low"}
    assert set(model.predict(X)) == {"high"}


# -------------------------------------------------------------------- classes
def test_unseen_class_in_score_samples():
    model = classifier().fit(X, LABELS)
    labels = LABELS.astype(object)
    labels[0] = "middle"
    message = r"classes that fit did not see: \['middle'\]; known are \['high', 'low'\]"
    with pytest.raises(ValueError, match=message):
        model.score_samples(X, labels)


def test_a_class_that_a_fold_misses():
    labels = np.repeat(["a", "b", "c"], [18, 18, 4])
    scores = cross_val_score(classifier(), X, labels, cv=KFold(5))
    assert np.isfinite(scores).all()


# ---------------------------------------------------------------- before a fit
@pytest.mark.parametrize("name", ["predict", "gate_proba", "route", "apply"])
@both_kinds
def test_unfitted(kind, name):
    model, _ = either(kind)
    with pytest.raises(NotFittedError, match=f"{type(model).__name__} instance is not"):
        getattr(model, name)(X)


@pytest.mark.parametrize("name", ["score_samples", "responsibilities", "aic", "bic"])
@both_kinds
def test_unfitted_with_targets(kind, name):
    model, y = either(kind)
    with pytest.raises(NotFittedError, match=f"{type(model).__name__} instance is not"):
        getattr(model, name)(X, y)


@pytest.mark.parametrize("name", ["predict_proba", "predict_log_proba"])
def test_unfitted_classifier(name):
    with pytest.raises(NotFittedError, match="MoEClassifier instance is not fitted"):
        getattr(classifier(), name)(X)


# ----------------------------------------------------------------- warm starts
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_experts": 3}, "same n_experts, .* had n_experts=2; got n_experts=3"),
        ({"expert": SVR()}, r"kind of expert .* experts SVR\(\)\. Set warm_start=F"),
        ({"gate": "constant"}, r"gate of the previous .* got ConstantGate\(\)"),
    ],
    ids=str,
)
def test_warm_start_from_another_model(params, message):
    model = regressor(warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=f"warm_start=True needs the .*{message}"):
        model.set_params(**params).fit(X, Y)


def test_warm_start_on_another_table():
    model = regressor(warm_start=True).fit(X, Y)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* expecting 3"):
        model.fit(X[:, :2], Y)
    with pytest.raises(ValueError, match=r"needs y of 1 outputs .* got 2"):
        model.fit(X, np.column_stack([Y, Y]))
    model = classifier(warm_start=True).fit(X, LABELS)
    with pytest.raises(ValueError, match="same n_experts, kind of expert and classes"):
        model.fit(X, np.where(LABELS == "low", "under", "over"))


# ------------------------------------------------------------- a fit that fails
at_any_time = pytest.mark.parametrize(
    ("cross_fit", "after"), [(None, 0), (None, 3), ("auto", 8)]
)


@at_any_time
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()], ids=repr)
def test_a_failed_first_fit_leaves_no_trace(error, cross_fit, after):
    Faulty.n_fits = 0
    model = regressor(Faulty(error, after=after), cross_fit=cross_fit)
    before = dict(vars(model))
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        model.fit(X, Y)
    assert Faulty.n_fits == after + 1
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        model.predict(X)


@at_any_time
def test_an_interrupted_refit_keeps_the_old_model(cross_fit, after):
    model = regressor(Faulty(), cross_fit=cross_fit).fit(X, Y)
    answer = model.predict(X)
    Faulty.n_fits = 0
    model.set_params(expert__error=KeyboardInterrupt(), expert__after=after)
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X[:, :2], Y + 1)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(model.predict(X), answer)


@pytest.mark.parametrize("warm_start", [False, True])
@both_kinds
def test_a_refit_on_bad_rows_keeps_the_old_model(kind, warm_start):
    model, y = either(kind)
    model.set_params(warm_start=warm_start).fit(X, y)
    before, answer = dict(vars(model)), model.predict(X)
    labels = y if kind == "regressor" else np.full(40, "low")
    rows = X if kind == "classifier" else with_first(X, np.nan)
    with pytest.raises(ValueError, match=r"NaN|2 classes"):
        model.fit(rows, labels)
    assert vars(model).keys() == before.keys()
    assert all(vars(model)[name] is value for name, value in before.items())
    np.testing.assert_array_equal(model.predict(X), answer)


def test_a_fit_leaves_the_parts_it_was_given_alone():
    expert, gate = Ridge(), ConstantGate()
    regressor(expert, gate=gate).fit(X, Y)
    assert vars(expert) == vars(Ridge())
    assert vars(gate) == {}


# ------------------------------------------------------------- extreme numbers
def table(dtype=np.float64):
    X = np.random.default_rng(0).normal(size=(60, 2)).astype(dtype)
    return X, X[:, 0] + X[:, 1] ** 2


@pytest.mark.parametrize("gate", ["softmax", "gaussian", "tree", "hierarchical"])
@pytest.mark.parametrize("kind", [MoERegressor, MoEClassifier])
def test_nodata_values_are_refused_by_name(kind, gate):
    X, y = table(np.float32)
    y = y if kind is MoERegressor else y > 0
    raster = X.copy()
    raster[5, 1] = np.finfo(np.float32).min
    model = kind(n_experts=2, n_init=1, cross_fit=None, max_iter=3, gate=gate)
    said = r"X must hold numbers between .* got -3.40282e\+38 in row 5, column 1"
    with pytest.raises(ValueError, match=said):
        model.fit(raster, y)
    with pytest.raises(ValueError, match=said):
        model.fit(X, y).predict(raster)
    with pytest.raises(ValueError, match="X must hold"):
        model.predict(sparse.csr_array(raster))


@pytest.mark.parametrize(
    ("dtype", "given", "said"),
    [
        (np.float64, {"y": 1e300}, "y must hold numbers between"),
        (np.float32, {"y": 1e30}, "y must hold numbers between"),
        (np.float64, {"X": 1e200}, "X must hold numbers between"),
        (np.float64, {"weight": 1e200}, "sample_weight must hold numbers between"),
        (np.float64, {"weight": 1e-320}, "sample_weight must hold a number of 1e-100"),
        (np.float32, {"weight": 1e-90}, "sample_weight must hold a number of 1e-15"),
    ],
    ids=str,
)
def test_extreme_numbers_are_refused_by_name(dtype, given, said):
    X, y = table(dtype)
    X, y = X * dtype(given.get("X", 1)), y.astype(float) * given.get("y", 1)
    weight = np.full(60, given.get("weight", 1.0))
    with pytest.raises(ValueError, match=said):
        MoERegressor(n_experts=2).fit(X, y, sample_weight=weight)


def test_a_weight_of_nothing_is_no_row():
    X, y = table()
    weight = np.ones(60)
    weight[0] = 1e-320
    model = MoERegressor(n_experts=2, n_init=1, gate="tree", random_state=0)
    answer = model.fit(X, y, sample_weight=weight).predict(X)
    np.testing.assert_array_equal(model.fit(X[1:], y[1:]).predict(X), answer)
