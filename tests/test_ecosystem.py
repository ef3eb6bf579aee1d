"""Life among other tools: scikit-learn's, data frames, sparse rows, callbacks."""

import copy
import functools
import pickle
import re
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from scipy import sparse
from sklearn import config_context, set_config
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import estimator_html_repr
from sklearn.utils.fixes import parse_version

from skmoe import MoEClassifier, MoERegressor
from skmoe.em import _held_out
from skmoe.em._race import ROUNDS
from skmoe.em._train import PASSES_ON_ALL
from skmoe.gates import SoftmaxGate

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
X = random.standard_normal((120, 3))
Y = np.abs(X[:, 0]) + 0.3 * X[:, 1] + 0.1 * random.standard_normal(120)
LABELS = np.where(X[:, 0] * X[:, 1] + 0.2 * random.standard_normal(120) > 0, "a", "b")

MODELS = {
    "linear": (MoERegressor(**QUICK), Y),
    "outputs": (MoERegressor(**QUICK), np.column_stack([Y, X[:, 2] * Y])),
    "sparse": (MoERegressor(**{**QUICK, "n_experts": 4}, top_k=1), Y),
    "tree": (MoERegressor(DecisionTreeRegressor(max_depth=3), **QUICK), Y),
    "pipelines": (
        MoERegressor(
            make_pipeline(StandardScaler(), Ridge()),
            gate=make_pipeline(StandardScaler(), SoftmaxGate()),
            **QUICK,
        ),
        Y,
    ),
    "logistic": (MoEClassifier(**QUICK), LABELS),
    "tree classifier": (
        MoEClassifier(DecisionTreeClassifier(max_depth=3), **QUICK),
        LABELS,
    ),
}
each_model = pytest.mark.parametrize("name", MODELS)


sklearn_version = parse_version(sklearn.__version__)


@functools.cache
def once(name):
    model, y = MODELS[name]
    return clone(model).fit(X, y)


def fitted(name):
    """Return a copy of a fitted model; it is fitted once for all tests."""
    return copy.deepcopy(once(name))


def answers(model, table=X):
    """Return all that a fitted model says of a table."""
    proba = getattr(model, "predict_proba", None)
    last = model.predict(table) if proba is None else proba(table)
    return model.predict(table), last, model.gate_proba(table), model.apply(table)


def assert_same_bits(one, other):
    for a, b in zip(answers(one), answers(other), strict=True):
        np.testing.assert_array_equal(a, b)


# --------------------------------------------------------------- copies, seeds
@each_model
def test_clone_fits_the_same_model(name):
    model = fitted(name)
    other = clone(model)
    assert not hasattr(other, "gate_")
    assert_same_bits(model, other.fit(X, MODELS[name][1]))


@each_model
def test_pickle(name):
    model = fitted(name)
    assert_same_bits(model, pickle.loads(pickle.dumps(model)))


@each_model
def test_joblib(name, tmp_path):
    model = fitted(name)
    joblib.dump(model, tmp_path / "model.joblib")
    assert_same_bits(model, joblib.load(tmp_path / "model.joblib"))


@each_model
def test_an_unfitted_model_survives_pickle(name):
    model, y = MODELS[name]
    other = pickle.loads(pickle.dumps(model))
    assert_same_bits(fitted(name), other.fit(X, y))


@each_model
def test_refit_forgets_the_first_fit(name):
    model, y = MODELS[name]
    model = clone(model).fit(X[::-1] + 1, y)
    assert_same_bits(fitted(name), model.fit(X, y))


def test_seeds():
    def starts(seed):
        model = MoERegressor(**{**QUICK, "random_state": seed}, init="random")
        return model.fit(X, Y)

    assert_same_bits(starts(3), starts(3))
    assert_same_bits(starts(3), starts(np.random.RandomState(3)))
    assert np.any(starts(3).predict(X) != starts(4).predict(X))


@pytest.mark.parametrize("name", ["tree", "tree classifier", "pipelines"])
def test_jobs_do_not_change_the_answer(name):
    model, y = MODELS[name]
    two = clone(model).set_params(n_jobs=2).fit(X, y)
    assert_same_bits(fitted(name).set_params(n_jobs=1).fit(X, y), two)


# ------------------------------------------------------ parameters and searches
def test_nested_parameters():
    model = MoERegressor(Ridge(), gate=SoftmaxGate(), **QUICK)
    assert model.get_params()["gate__alpha"] == SoftmaxGate().alpha
    model.set_params(gate__alpha=0.5, expert__alpha=7.0)
    assert (model.gate.alpha, model.expert.alpha) == (0.5, 7.0)
    model.fit(X, Y)
    assert model.gate_.alpha == 0.5
    assert [expert.alpha for expert in model.experts_] == [7.0, 7.0]
    loose = clone(model).set_params(gate__alpha=1e-4, expert__alpha=1e-3).fit(X, Y)
    assert np.linalg.norm(model.gate_.coef_) < np.linalg.norm(loose.gate_.coef_)


def test_names_have_the_parameters_of_what_they_stand_for():
    model = MoERegressor(likelihood="student_t")
    params = model.get_params()
    assert (params["gate"], params["expert"]) == ("softmax", None)
    assert (params["gate__alpha"], params["expert__alpha"]) == ("auto", 1.0)
    assert params["likelihood__df"] == 4.0
    assert model.get_params(deep=False).keys() == {k for k in params if "__" not in k}
    assert "gate__alpha" not in estimator_html_repr(model)

    model.set_params(gate__alpha=0.1, expert__alpha=3.0, likelihood__df=3.0)
    for one in (model, clone(model)):
        params = one.get_params(deep=False)
        assert repr(params["gate"]) == "SoftmaxGate(alpha=0.1)"
        assert repr(params["expert"]) == "Ridge(alpha=3.0)"
        assert repr(params["likelihood"]) == "StudentT(df=3.0)"
    other = MoEClassifier().set_params(gate__max_depth=3, gate="tree", expert__C=2.0)
    assert repr(other.gate) == "TreeGate(max_depth=3)"
    assert repr(other.expert) == "LogisticRegression(C=2.0)"


def test_defaults_are_searched_over():
    grid = {"gate__alpha": [0.1, 1.0], "expert__alpha": [1.0, 100.0]}
    search = GridSearchCV(MoERegressor(**QUICK), grid, cv=2).fit(X, Y)
    assert len(search.cv_results_["params"]) == 4
    best = search.best_estimator_
    assert best.gate_.alpha == search.best_params_["gate__alpha"]
    assert best.experts_[0].alpha == search.best_params_["expert__alpha"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gate__depth": 3}, r"'depth' for estimator SoftmaxGate\(\)"),
        ({"shared_expert__alpha": 1}, "shared_expert=None has no parameters"),
        ({"cross_fit__n_splits": 3}, "cross_fit='auto' has no parameters"),
        ({"router__alpha": 1}, "no parameter 'router'; its parameters are"),
    ],
    ids=str,
)
def test_parameters_that_a_name_does_not_have(params, message):
    model = MoERegressor()
    with pytest.raises(ValueError, match=message):
        model.set_params(**params)
    assert (model.gate, model.shared_expert) == ("softmax", None)


def test_parameters_of_pipelines():
    model, _ = MODELS["pipelines"]
    model = clone(model).set_params(
        gate__softmaxgate__alpha=0.5, expert__ridge__alpha=7.0
    )
    model.fit(X, Y)
    assert model.gate_[-1].alpha == 0.5
    assert model.experts_[0][-1].alpha == 7.0


def test_grid_search_in_a_pipeline():
    moe = MoERegressor(Ridge(), gate=SoftmaxGate(), **QUICK)
    grid = {
        "moe__n_experts": [1, 3],
        "moe__top_k": [1, None],
        "moe__gate__alpha": [1e-4, 0.1],
        "moe__expert__alpha": [1e-2, 1e4],
    }
    chain = Pipeline([("scale", StandardScaler()), ("moe", moe)])
    search = GridSearchCV(chain, grid, cv=2, error_score="raise").fit(X, Y)
    assert search.best_params_["moe__n_experts"] == 3
    assert search.best_params_["moe__expert__alpha"] == 1e-2
    assert search.best_estimator_["moe"].n_experts_ == 3
    assert search.score(X, Y) > 0.9


@each_model
def test_cross_val_score(name):
    model, y = MODELS[name]
    scores = cross_val_score(model, X, y, cv=3, error_score="raise")
    assert scores.min() > 0.3


@each_model
def test_the_configuration_of_outputs_does_not_interfere(name):
    model, y = MODELS[name]
    with config_context(transform_output="pandas"):
        framed = clone(model).fit(X, y)
        assert isinstance(framed.predict(X), np.ndarray)
        assert_same_bits(framed, clone(model).fit(X, y))


def test_html_names_gate_and_expert():
    html = estimator_html_repr(MoERegressor(Ridge(alpha=3), gate=SoftmaxGate()))
    assert "gate: SoftmaxGate" in html
    assert "expert: Ridge" in html


# ------------------------------------------------------------------ data frames
def pandas_frame(**columns):
    return pd.DataFrame(columns)


def polars_frame(**columns):
    if sklearn_version < parse_version("1.9"):
        pytest.skip("scikit-learn 1.8 does not read the names of polars 2 frames")
    return pl.DataFrame(columns)


both_frames = pytest.mark.parametrize("frame", [pandas_frame, polars_frame])


@both_frames
@pytest.mark.parametrize("name", ["linear", "pipelines", "logistic"])
def test_frames(frame, name):
    y = MODELS[name][1]
    table = frame(a=X[:, 0], b=X[:, 1], c=X[:, 2])
    target = frame(y=y)["y"]
    model = clone(MODELS[name][0]).fit(table, target)
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    assert model.n_features_in_ == 3
    # A frame's columns lie apart in memory, so sums round differently.
    for a, b in zip(answers(model, table)[1:], answers(fitted(name))[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame(a=X[:, 0], b=X[:, 1], z=X[:, 2]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_a_frame_after_an_array():
    model = fitted("linear")
    with pytest.warns(UserWarning, match="was fitted without feature names"):
        model.predict(pandas_frame(a=X[:, 0], b=X[:, 1], c=X[:, 2]))


@both_frames
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_gate_and_experts_read_other_columns(frame, kind):
    """Each town has a line of its own; only the gate may see the town's name."""
    towns = np.array(["ayr", "bude", "cork"])[np.arange(120) % 3]
    slope = np.array([-2.0, 0.5, 3.0])[np.arange(120) % 3]
    y = slope * X[:, 0] + 0.01 * X[:, 2]
    table = frame(x=X[:, 0], town=towns, noise=X[:, 1])
    gate = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["town"])), SoftmaxGate()
    )
    numbers = ColumnTransformer([("keep", "passthrough", ["x", "noise"])])
    params = {"gate": gate, **QUICK, "n_experts": 3, "max_iter": 20}
    if kind == "regressor":
        model = MoERegressor(make_pipeline(numbers, Ridge(0.01)), **params)
    else:
        y = np.where(slope * X[:, 0] + 0.1 * X[:, 2] > 0, "up", "down")
        model = MoEClassifier(make_pipeline(numbers, LogisticRegression()), **params)
    weight = np.ones(120)
    weight[::10] = 0.0
    model.fit(table, y, sample_weight=weight)
    assert model.feature_names_in_.tolist() == ["x", "town", "noise"]
    assert model.score(table, y) > 0.95
    best = model.apply(table)[:, 0]
    assert all(len(set(best[towns == town])) == 1 for town in set(towns))
    assert all(expert[-1].n_features_in_ == 2 for expert in model.experts_)


# ---------------------------------------------------------------- sparse, dtypes
@pytest.mark.parametrize(
    ("container", "init"),
    [(sparse.csr_matrix, ["tree", "kmeans"]), (sparse.csr_array, ["random"])],
    ids=["csr_matrix", "csr_array, random start"],
)
@pytest.mark.parametrize("name", ["linear", "sparse", "outputs", "logistic"])
def test_sparse_rows(name, init, container):
    model, y = MODELS[name]
    table = np.where(np.abs(X) < 0.3, 0.0, X)
    model = clone(model).set_params(init=init, n_init=len(init))
    rows = clone(model).fit(container(table), y)
    model.fit(table, y)
    np.testing.assert_allclose(
        rows.gate_proba(container(table)), model.gate_proba(table), atol=1e-6
    )
    np.testing.assert_allclose(
        rows.score_samples(container(table), y), model.score_samples(table, y), 1e-4
    )
    np.testing.assert_array_equal(rows.apply(container(table)), model.apply(table))


@pytest.mark.parametrize("name", ["linear", "sparse", "outputs", "pipelines"])
def test_float32(name):
    single = X.astype(np.float32)
    model = clone(MODELS[name][0]).fit(single, MODELS[name][1])
    assert model.predict(single).dtype == np.float32
    double = fitted(name)
    assert double.predict(X).dtype == np.float64
    assert model.lower_bound_ == pytest.approx(double.lower_bound_, abs=1e-2)
    error = model.predict(single) - double.predict(X)
    assert np.median(np.abs(error)) < 1e-3


def test_float32_classifier():
    single = X.astype(np.float32)
    model = clone(MODELS["logistic"][0]).fit(single, LABELS)
    np.testing.assert_allclose(
        model.predict_proba(single), fitted("logistic").predict_proba(X), atol=1e-3
    )


@pytest.mark.parametrize("name", ["logistic", "tree classifier"])
@pytest.mark.parametrize(
    "convert",
    [np.asarray, lambda y: y.astype(object), lambda y: (y == "b").astype(int), list],
    ids=["str", "object", "int", "list"],
)
def test_class_labels(name, convert):
    labels = convert(LABELS)
    model = clone(MODELS[name][0]).fit(X, labels)
    np.testing.assert_array_equal(model.classes_, np.unique(labels))
    predicted = model.predict(X)
    assert set(predicted) <= set(np.unique(labels))
    as_text = fitted(name)
    np.testing.assert_array_equal(model.predict_proba(X), as_text.predict_proba(X))
    np.testing.assert_array_equal(
        predicted == model.classes_[1], as_text.predict(X) == "b"
    )


# ------------------------------------------------------------- metadata routing
@pytest.fixture
def metadata_routing():
    set_config(enable_metadata_routing=True)
    yield
    set_config(enable_metadata_routing=False)


@pytest.mark.usefixtures("metadata_routing")
@pytest.mark.parametrize("name", ["linear", "tree", "pipelines"])
def test_weights_are_routed_through_a_pipeline(name):
    weight = np.where(X[:, 0] > 0, 1.0, 0.01)
    model = clone(MODELS[name][0]).set_fit_request(sample_weight=True)
    chain = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
    weighted = clone(chain).fit(X, Y, sample_weight=weight).predict(X)
    direct = clone(model).fit(StandardScaler().fit_transform(X), Y, weight)
    np.testing.assert_array_equal(
        weighted, direct.predict(StandardScaler().fit_transform(X))
    )
    assert np.abs(weighted - clone(chain).fit(X, Y).predict(X)).max() > 1e-3


@pytest.mark.usefixtures("metadata_routing")
def test_weights_are_routed_through_a_search():
    weight = np.where(X[:, 0] > 0, 1.0, 0.01)
    model = clone(MODELS["linear"][0]).set_fit_request(sample_weight=True)
    model.set_score_request(sample_weight=True)
    search = GridSearchCV(model, {"n_experts": [2]}, cv=2, error_score="raise")
    weighted = clone(search).fit(X, Y, sample_weight=weight)
    direct = clone(model).fit(X, Y, sample_weight=weight)
    assert_same_bits(weighted.best_estimator_, direct)
    assert np.abs(weighted.predict(X) - search.fit(X, Y).predict(X)).max() > 1e-3


# ------------------------------------------------------------------ warm starts
@pytest.mark.parametrize("name", ["linear", "pipelines", "logistic", "tree"])
def test_warm_start_goes_on(name, capsys):
    model, y = MODELS[name]
    model = clone(model).set_params(warm_start=True, top_k=None, cross_fit=None)
    model.set_params(n_init=3, max_iter=3, tol=0.0).fit(X, y)
    before = model.lower_bound_
    model.set_params(verbose=1).fit(X, y)
    line, last, verdict = capsys.readouterr().out.splitlines()
    assert "No rows were held out" in verdict
    assert "stage 1 of 2 (warm)" in line
    assert f"passes {model.n_iter_}, " in line
    assert "stage 2 of 2 (last passes)" in last
    assert model.n_iter_ <= 3
    if name != "tree":  # trees may lose a little in a pass
        assert model.lower_bound_ >= before - 1e-9
        assert model.lower_bounds_[0] >= before - 1e-9


def test_warm_start_of_an_unfitted_model_is_a_cold_start():
    warm = MoERegressor(**QUICK, warm_start=True).fit(X, Y)
    assert_same_bits(warm, fitted("linear"))


def test_a_converged_model_stays_where_it_is():
    model = MoERegressor(**{**QUICK, "max_iter": 500}, top_k=None, warm_start=True)
    before = model.set_params(tol=1e-8).fit(X, Y).predict(X)
    model.fit(X, Y)
    assert model.converged_
    np.testing.assert_allclose(model.predict(X), before, atol=1e-3)


@pytest.mark.parametrize("container", ["pandas", "polars"])
@pytest.mark.parametrize("method", ["gate_proba", "route", "responsibilities"])
def test_a_column_for_each_expert_in_frames(container, method):
    library = pytest.importorskip(container)
    model = fitted("linear")
    options = {"y": Y[5:20]} if method == "responsibilities" else {}
    plain = getattr(model, method)(X[5:20], **options)
    plain = plain.toarray() if method != "gate_proba" else plain
    framed = copy.deepcopy(model)
    assert framed.set_output(transform=container) is framed
    assert framed.set_output() is framed
    table = getattr(framed, method)(X[5:20], **options)
    assert isinstance(table, library.DataFrame)
    assert list(table.columns) == [f"expert{k}" for k in range(model.n_experts_)]
    np.testing.assert_array_equal(table, plain)
    assert_same_bits(framed, model)
    back = getattr(framed.set_output(transform="default"), method)(X[5:20], **options)
    assert type(back) is type(getattr(model, method)(X[5:20], **options))


def test_frames_keep_the_index_and_clones_the_container():
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame(X, index=np.arange(len(X)) * 2, columns=list("abc"))
    model = MoERegressor(**QUICK).set_output(transform="pandas")
    table = clone(model).fit(rows, Y).route(rows[3:7])
    assert table.index.tolist() == [6, 8, 10, 12]
    with pytest.raises(ValueError, match=r"transform must be one of .* got 'arrow'"):
        model.set_output(transform="arrow")


def test_frames_of_a_gate_for_each_output():
    pytest.importorskip("pandas")
    both = np.stack([Y, -Y], axis=1)
    model = MoERegressor(gate_per_output=True, **QUICK).fit(X, both)
    tables = model.set_output(transform="pandas").route(X)
    assert [table.shape for table in tables] == [(len(X), model.n_experts_)] * 2


# ------------------------------------------------------------------------- HTML
def test_html_shows_the_experts_of_a_list():
    tree = DecisionTreeRegressor()
    shown = estimator_html_repr(MoERegressor([Ridge(), tree], gate=SoftmaxGate()))
    for part in ("expert 0: Ridge", "expert 1: DecisionTreeReg", "gate: SoftmaxGate"):
        assert part in shown
    assert "expert: Ridge" in estimator_html_repr(MoERegressor(Ridge()))
    assert "MoEClassifier" in estimator_html_repr(MoEClassifier())


# ---------------------------------------------------------------------- warnings
def test_top_k_above_the_number_of_experts_is_said_once():
    model = MoERegressor(**{**QUICK, "n_experts": 3, "top_k": 5, "tol": 10.0})
    with pytest.warns(UserWarning, match="top_k=5 is more than n_experts=3") as heard:
        model.fit(X, Y)
    (warning,) = heard
    assert warning.filename == __file__
    MoERegressor(**{**QUICK, "n_experts": 1}).fit(X, Y)  # the default says nothing


def test_a_stream_says_of_top_k_once():
    model = MoERegressor(n_experts=2, top_k=3, n_init=1, random_state=0)
    with pytest.warns(UserWarning, match="top_k=3 is more than n_experts=2"):
        model.partial_fit(X, Y)
    assert model.partial_fit(X, Y).n_experts_ == 2


def test_warnings_point_to_the_line_of_the_caller():
    model = MoERegressor(**QUICK, tol=0.0)
    search = GridSearchCV(model, {"n_experts": [2]}, cv=2)
    for one in (model, search, make_pipeline(StandardScaler(), model)):
        with pytest.warns(ConvergenceWarning) as heard:
            one.fit(X, Y)
        assert {warning.filename for warning in heard} == {__file__}


@pytest.mark.parametrize("moe", [MoERegressor, MoEClassifier])
def test_max_iter_is_no_fault_where_rows_held_out_decide(moe):
    model = moe(n_experts=2, n_init=1, max_iter=1, tol=0.0, random_state=0)
    y = Y if moe is MoERegressor else np.where(np.median(Y) < Y, "a", "b")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not model.fit(X, y).converged_
    with pytest.warns(ConvergenceWarning, match="stopped after max_iter=1 passes"):
        model.set_params(cross_fit=None).fit(X, y)


# ---------------------------------------------------------------------- verbose
HELD_OUT = {**QUICK, "cross_fit": "auto"}
WATCHED = {
    "race": MoERegressor(**HELD_OUT),
    "in sample": MoERegressor(**QUICK),
    "tree": MoERegressor(DecisionTreeRegressor(max_depth=2), **HELD_OUT),
    "that differ": MoERegressor(
        [DecisionTreeRegressor(max_depth=2), Ridge()], **HELD_OUT
    ),
    "shared": MoERegressor(
        DecisionTreeRegressor(max_depth=2), shared_expert="auto", **HELD_OUT
    ),
    "auto": MoERegressor(**HELD_OUT | {"n_experts": "auto"}),
    "auto in sample": MoERegressor(**QUICK | {"n_experts": "auto"}),
    "auto, tree": MoERegressor(
        DecisionTreeRegressor(max_depth=2), **HELD_OUT | {"n_experts": "auto"}
    ),
    "auto in sample, tree": MoERegressor(
        DecisionTreeRegressor(max_depth=2), **QUICK | {"n_experts": "auto"}
    ),
}


def test_verbose_prints_a_line_a_stage(capsys):
    model = MoERegressor(**{**QUICK, "n_init": 2}, init=["tree", "random"])
    quiet = clone(model).fit(X, Y)
    assert capsys.readouterr().out == ""
    loud = model.set_params(verbose=1).fit(X, Y)
    first, second, last, verdict = capsys.readouterr().out.splitlines()
    assert first.startswith("[MoERegressor] stage 1 of 3 (tree): bound ")
    assert second.startswith("[MoERegressor] stage 2 of 3 (random): bound ")
    assert last.startswith("[MoERegressor] stage 3 of 3 (last passes): ")
    assert f"bound {loud.lower_bound_:.6f}, passes {loud.n_iter_}" in first + second
    assert "No rows were held out" in verdict
    assert_same_bits(quiet, loud)


def test_verbose_prints_a_line_a_pass(capsys):
    model = MoERegressor(**{**QUICK, "n_init": 2}, init=["tree", "random"], verbose=2)
    loud = model.fit(X, Y)
    *lines, _, _ = capsys.readouterr().out.splitlines()
    for number, kind in enumerate(["tree", "random"], start=1):
        start = f"stage {number} of 3 ({kind})"
        *own, last = [line for line in lines if start in line]
        assert last.startswith(f"[MoERegressor] {start}: bound ")
        passes = [int(line.split("pass")[1].split()[0]) for line in own]
        assert len(own) in range(1, 6)
        assert passes == list(range(passes[0], passes[0] + len(own)))
    assert f"bound {loud.lower_bounds_[-1]: .6f}" in "\n".join(lines)


@pytest.mark.parametrize("name", WATCHED)
def test_verbose_counts_the_stages_and_the_seconds(name, capsys):
    model = clone(WATCHED[name]).set_params(verbose=1, max_time=1e4).fit(X, Y)
    told = capsys.readouterr().out.splitlines()
    stages = [line for line in told if "] stage" in line]
    pattern = r"\[MoERegressor\] stage (\d+) of (\d+) \(.*[:,] (\S+) s, (\S+) s left"
    rows = [re.fullmatch(pattern, line).groups() for line in stages]
    numbers, announced, seconds, left = np.array(rows, dtype=float).T
    np.testing.assert_array_equal(numbers, np.arange(len(stages)) + 1)
    assert (announced >= numbers).all()
    assert announced[-1] == len(stages)
    assert (np.diff(seconds) >= 0).all()
    np.testing.assert_allclose(seconds + left, 1e4, atol=0.11)  # rounded to 0.1 s
    assert model.diagnostics_["out_of_time"] == 0.0


# -------------------------------------------------------------------- callbacks
class Recorder:
    """Hears every task; asks to stop at the end of some."""

    def __init__(self, stop=None):
        self.stop = stop
        self.heard = []
        self.answers = []

    def setup(self, estimator, context):
        self.heard.append(("setup", context.task_name))

    def teardown(self, estimator, context):
        self.heard.append(("teardown", context.task_name))

    def on_fit_task_begin(self, estimator, context, *, X=None):
        self.heard.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        self.heard.append(("end", context.task_name, context.task_id))
        if fitted_estimator is not None:
            self.answers.append(fitted_estimator.predict(X))
        return (context.task_name, context.task_id) == self.stop

    def ended(self, task):
        return [event[2] for event in self.heard if event[:2] == ("end", task)]


def test_a_callback_hears_starts_and_passes():
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    model = MoERegressor(**{**QUICK, "n_init": 2, "max_iter": 3}, tol=0.0)
    model.set_callbacks(recorder).fit(X, Y)
    a_pass = [[("begin", "pass", i), ("end", "pass", i)] for i in range(3)]
    starts = [
        [("begin", "start", i), *(e for p in a_pass for e in p), ("end", "start", i)]
        for i in range(2)
    ]
    last = [("begin", "last passes", 2), ("end", "last passes", 2)]
    within = [event for start in starts for event in start] + last
    assert recorder.heard[2:-2] == within
    assert [event[0] for event in recorder.heard[:2]] == ["setup", "begin"]
    assert [event[0] for event in recorder.heard[-2:]] == ["end", "teardown"]


@pytest.mark.parametrize("name", ["linear", "tree", "logistic", "sparse"])
def test_a_callback_gets_a_model_that_predicts(name):
    pytest.importorskip("sklearn.callback")
    model, y = MODELS[name]
    recorder = Recorder()
    model = clone(model).set_params(cross_fit=None).set_callbacks(recorder).fit(X, y)
    assert len(recorder.answers) == model.n_iter_
    best = recorder.answers[int(np.argmax(model.lower_bounds_))]
    if name in ("linear", "logistic"):
        np.testing.assert_array_equal(best, model.predict(X))
    else:  # the last passes follow EM
        assert np.median(np.abs(best - model.predict(X))) < 0.1


@pytest.fixture
def two_parts(monkeypatch):
    """Hold out two parts of the rows, one after the other."""
    for table in ("SPLITS", "SPLITS_FLEXIBLE"):
        monkeypatch.setattr(_held_out, table, ((1_000, 2),))


@pytest.mark.parametrize("kind", ["linear", "tree"])
def test_a_callback_hears_of_held_out_rows(kind, capsys, two_parts):
    """Every start on each part of the rows, or a race; then a pass on all."""
    pytest.importorskip("sklearn.callback")
    recorder = Recorder()
    params = {**QUICK, "cross_fit": "auto", "n_init": 2, "max_iter": 2}
    expert = Ridge() if kind == "linear" else DecisionTreeRegressor(max_depth=2)
    init = ["kmeans", "random"]
    model = MoERegressor(expert, init=init, **params, tol=0.0, verbose=2)
    model.set_callbacks(recorder).fit(X, Y)
    runs, passes = init * 2, [2] * 4
    if kind == "linear":
        runs, passes = ["race"], [ROUNDS[0] + 2]
    passes.append(PASSES_ON_ALL)
    assert len(recorder.ended("start")) == len(passes)
    assert len(recorder.ended("choice")) == (1 if kind == "linear" else 2)
    assert len(recorder.ended("last passes")) == 1
    assert recorder.ended("pass") == [i for n_pass in passes for i in range(n_pass)]
    assert [event[0] for event in recorder.heard[:2]] == ["setup", "begin"]
    assert [event[0] for event in recorder.heard[-2:]] == ["end", "teardown"]
    rows = [len(answer) for answer in recorder.answers]
    n_rows = 120 if kind == "linear" else 90
    assert rows == [n_rows] * sum(passes[:-1]) + [120] * PASSES_ON_ALL
    *lines, verdict = capsys.readouterr().out.splitlines()
    kinds = [line.split("(")[1].split(")")[0] for line in lines if "pass   1 " in line]
    assert kinds == [*runs, "chosen"]
    assert "held-out rows" in verdict


def test_a_callback_that_stops_starts_is_heeded_in_every_part(two_parts):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder(stop=("start", 0))
    params = {**QUICK, "cross_fit": "auto", "n_init": 3, "init": "kmeans"}
    expert = DecisionTreeRegressor(max_depth=2)
    MoERegressor(expert, **params).set_callbacks(recorder).fit(X, Y)
    assert recorder.ended("start") == [0, 2, 4]  # two choices between


def test_a_callback_stops_a_race_at_a_pass(two_parts):
    pytest.importorskip("sklearn.callback")
    recorder = Recorder(stop=("pass", 1))
    params = {**QUICK, "cross_fit": "auto", "n_init": 4, "init": "auto"}
    model = MoERegressor(**params).set_callbacks(recorder).fit(X, Y)
    assert recorder.ended("pass")[:2] == [0, 1]
    assert np.isfinite(model.predict(X)).all()


def test_a_callback_stops_a_start_at_a_pass():
    pytest.importorskip("sklearn.callback")
    recorder = Recorder(stop=("pass", 1))
    model = MoERegressor(**{**QUICK, "n_init": 2}, tol=0.0)
    model.set_callbacks(recorder).fit(X, Y)
    assert recorder.ended("pass") == [0, 1, 0, 1]
    assert model.n_iter_ == len(model.lower_bounds_) == 2
    assert not model.converged_


def test_a_stopped_fit_does_not_warn_of_max_iter():
    pytest.importorskip("sklearn.callback")
    model = MoERegressor(**QUICK, tol=0.0).set_callbacks(Recorder(stop=("pass", 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.fit(X, Y).n_iter_ == 1
    with pytest.warns(ConvergenceWarning, match="stopped after max_iter=5 passes"):
        MoERegressor(**QUICK, tol=0.0).fit(X, Y)


def test_a_callback_stops_the_fit_at_a_start():
    pytest.importorskip("sklearn.callback")
    recorder = Recorder(stop=("start", 0))
    model = MoERegressor(**{**QUICK, "n_init": 3})
    model.set_callbacks(recorder).fit(X, Y)
    assert recorder.ended("start") == [0]


def test_callbacks_do_not_change_the_answer():
    pytest.importorskip("sklearn.callback")
    model = clone(MODELS["tree"][0]).set_callbacks(Recorder()).fit(X, Y)
    assert_same_bits(model, fitted("tree"))


class Announced:
    """Notes how many subtasks each task announced, and how many it had."""

    def setup(self, estimator, context):
        self.tasks = []

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.tasks.append([context, context.max_subtasks, 0])
        for task in self.tasks:
            task[2] += task[0] is context.parent

    def on_fit_task_end(self, estimator, context):
        pass


@pytest.mark.parametrize("name", WATCHED)
def test_no_task_has_more_subtasks_than_it_announced(name, two_parts):
    """A progress bar would pass its end otherwise, and stand still."""
    pytest.importorskip("sklearn.callback")
    callback = Announced()
    clone(WATCHED[name]).set_callbacks(callback).fit(X, Y)
    root = callback.tasks[0]
    if "auto" not in name:  # the stages depend on the number that is found
        assert root[1] == root[2]
    assert all(had <= announced for _, announced, had in callback.tasks)
    searches = [task for task in callback.tasks if task[0].task_name == "search"]
    assert bool(searches) == ("auto" in name)
    assert all(had > 2 for _, _, had in searches)


def test_progress_bar(capsys):
    callback = pytest.importorskip("sklearn.callback")
    pytest.importorskip("rich")
    model = MoERegressor(**QUICK).set_callbacks(callback.ProgressBar())
    assert_same_bits(model.fit(X, Y), fitted("linear"))
    assert "MoERegressor" in capsys.readouterr().out
