"""Lazy answers are those in memory of each part, in the container that X came in.

They have the same bits. BLAS may round the rows of a part otherwise than those of the
whole table, so against that they are held to 1e-12.
"""

import itertools
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor, MoETransformer
from skmoe.dask import predict

array = pytest.importorskip("dask.array")
frame = pytest.importorskip("dask.dataframe")
delayed = pytest.importorskip("dask").delayed

N = 120
FAST = {"n_experts": 2, "n_init": 1, "max_iter": 4, "tol": 1.0, "random_state": 0}
FAST["cross_fit"] = None
X = np.random.default_rng(0).normal(size=(N, 3))
Y = np.abs(X[:, 0]) + X[:, 1]
LABELS = np.where(Y > 1.5, "high", np.where(Y > 0.3, "middle", "low"))
INDEX = pd.Index(np.arange(N) * 2 + 5, name="key")
TABLE = pd.DataFrame(X, columns=list("abc"), index=INDEX)
SIZES = (1, 50, 0, 7, 62)

REGRESSOR = MoERegressor(**FAST).fit(X, Y)
CLASSIFIER = MoEClassifier(**FAST).fit(X, LABELS)
TWO_LABELS = MoEClassifier(**FAST).fit(X, LABELS == "low")
OUTPUTS = MoERegressor(**FAST).fit(X, np.c_[Y, -Y, X[:, 2]])
MULTILABEL = MoEClassifier(**FAST).fit(X, np.c_[Y > 0, X[:, 2] > 0].astype(int))
REGIMES = MoETransformer(MoERegressor(**FAST)).fit(X, Y)
PIPELINE = make_pipeline(StandardScaler(), MoERegressor(**FAST)).fit(X, Y)

ASKED = [
    (REGRESSOR, "predict", {}),
    (REGRESSOR, "predict", {"return_std": True}),
    (REGRESSOR, "gate_proba", {}),
    (REGRESSOR, "predict_quantiles", {"quantiles": [0.1, 0.5, 0.9]}),
    (REGRESSOR, "predict_quantiles", {"quantiles": 0.5}),
    (REGRESSOR, "predict_quantiles", {"quantiles": [0.5]}),
    (OUTPUTS, "predict", {}),
    (OUTPUTS, "predict", {"return_std": True}),
    (OUTPUTS, "predict_quantiles", {"quantiles": [0.1, 0.9]}),
    (CLASSIFIER, "predict", {}),
    (CLASSIFIER, "predict_proba", {}),
    (CLASSIFIER, "predict_log_proba", {}),
    (CLASSIFIER, "decision_function", {}),
    (TWO_LABELS, "predict", {}),
    (TWO_LABELS, "decision_function", {}),
    (MULTILABEL, "predict", {}),
    (MULTILABEL, "predict_proba", {}),
    (MULTILABEL, "predict_log_proba", {}),
    (MULTILABEL, "decision_function", {}),
    (REGIMES, "transform", {}),
    (PIPELINE, "predict", {}),
    (PIPELINE, "predict", {"return_std": True}),
]
NAMES = [
    "-".join([type(model).__name__, str(k), method, *options])
    for k, (model, method, options) in enumerate(ASKED)
]
asked = pytest.mark.parametrize(("model", "method", "options"), ASKED, ids=NAMES)


def lying(rows, sizes=SIZES):
    """Return an array whose chunks have these sizes."""
    return array.from_array(rows, chunks=(sizes, *((n,) for n in rows.shape[1:])))


def in_parts(table, sizes=SIZES):
    """Return a frame whose partitions have these sizes."""
    cuts = np.cumsum((0, *sizes))
    parts = [table.iloc[a:b] for a, b in itertools.pairwise(cuts)]
    return frame.from_delayed([delayed(part) for part in parts], meta=table.iloc[:0])


def in_memory(model, method, rows, options=None, sizes=SIZES, y=None):
    """Return what the model answers about each part, put together."""
    options = options or {}
    cuts = np.cumsum((0, *sizes))
    take = rows.iloc.__getitem__ if hasattr(rows, "iloc") else rows.__getitem__
    slices = [slice(a, b) for a, b in itertools.pairwise(cuts) if b > a]
    ask = getattr(model, method)
    told = [
        ask(take(part), **options) if y is None else ask(take(part), y[part], **options)
        for part in slices
    ]
    if isinstance(told[0], tuple):
        return tuple(np.concatenate(each) for each in zip(*told, strict=True))
    whole = ask(rows, **options) if y is None else ask(rows, y, **options)
    together = np.concatenate(told)
    if together.dtype.kind == "f":
        rtol = 1e-12 if together.dtype == np.float64 and X is rows else 1e-4
        np.testing.assert_allclose(together, whole, rtol=rtol, atol=rtol)
    return together


def pairs(found, here):
    """Return (lazy, in memory) answers, one or two of them."""
    if isinstance(here, tuple):
        return list(zip(found, here, strict=True))
    return [(found, here)]


@asked
def test_answers_about_arrays(model, method, options):
    here = in_memory(model, method, X, options)
    found = predict(model, lying(X), method, **options)
    for lazy, told in pairs(found, here):
        assert isinstance(lazy, array.Array)
        assert lazy.chunks[0] == SIZES
        assert lazy.dtype == told.dtype
        assert lazy.shape == told.shape
        assert isinstance(lazy._meta, np.ndarray)
        computed = lazy.compute()
        assert computed.dtype == told.dtype
        np.testing.assert_array_equal(computed, told)


@asked
@pytest.mark.filterwarnings("ignore:X has feature names")
def test_answers_about_frames(model, method, options):
    here = in_memory(model, method, TABLE, options, (30,) * 4)
    rows = frame.from_pandas(TABLE, npartitions=4)
    found = predict(model, rows, method, **options)
    for lazy, told in pairs(found, here):
        assert lazy.divisions == rows.divisions
        computed = lazy.compute()
        pd.testing.assert_index_equal(computed.index, TABLE.index)
        flat = told if told.ndim == 1 else told.reshape(N, -1)
        np.testing.assert_array_equal(np.asarray(computed), flat)
        if told.ndim == 1:
            pd.testing.assert_series_equal(lazy._meta, computed.iloc[:0])
        else:
            pd.testing.assert_frame_equal(lazy._meta, computed.iloc[:0])


@asked
@pytest.mark.filterwarnings("ignore:X has feature names")
def test_partitions_without_rows(model, method, options):
    here = in_memory(model, method, TABLE, options)
    found = predict(model, in_parts(TABLE), method, **options)
    for lazy, told in pairs(found, here):
        computed = lazy.compute()
        flat = told if told.ndim == 1 else told.reshape(N, -1)
        np.testing.assert_array_equal(np.asarray(computed), flat)
        pd.testing.assert_index_equal(computed.index, TABLE.index)


def test_the_best_of_a_search():
    search = GridSearchCV(MoERegressor(**FAST), {"top_k": [1, 2]}, cv=2).fit(X, Y)
    found = predict(search, lying(X)).compute()
    np.testing.assert_array_equal(found, in_memory(search, "predict", X))


def test_names_of_series_and_columns():
    rows = frame.from_pandas(TABLE, npartitions=2)
    assert predict(REGRESSOR, rows).name == "prediction"
    proba = predict(CLASSIFIER, rows, "predict_proba")
    assert list(proba.columns) == ["high", "low", "middle"]


def test_names_of_quantiles_of_several_outputs():
    rows = frame.from_pandas(TABLE, npartitions=2)
    found = predict(OUTPUTS, rows, "predict_quantiles", quantiles=[0.1, 0.9])
    assert list(found.columns)[:4] == [
        *(f"prediction{j}_0.1" for j in range(3)),
        "prediction0_0.9",
    ]


@asked
@pytest.mark.parametrize("sizes", [(1,) * N, (N,), (119, 1)])
def test_parts_of_one_row(model, method, options, sizes):
    here = in_memory(model, method, X, options, sizes)
    found = predict(model, lying(X, sizes), method, **options)
    for lazy, told in pairs(found, here):
        np.testing.assert_array_equal(lazy.compute(), told)


def test_chunks_of_rows_that_are_not_known():
    rows = lying(X)
    some = rows[rows[:, 0] > 0]
    assert np.isnan(some.chunks[0]).all()
    found = predict(CLASSIFIER, some, "predict_proba")
    assert np.isnan(found.chunks[0]).all()
    here = CLASSIFIER.predict_proba(X[X[:, 0] > 0])
    np.testing.assert_array_equal(found.compute(), here)


def test_chunks_of_columns():
    found = predict(REGRESSOR, array.from_array(X, chunks=(50, 1)))
    assert found.chunks == ((50, 50, 20),)
    here = in_memory(REGRESSOR, "predict", X, sizes=(50, 50, 20))
    np.testing.assert_array_equal(found.compute(), here)


LEARNERS = [None, DecisionTreeRegressor(max_depth=3), LinearRegression()]
LEARNERS += [make_pipeline(StandardScaler(), LinearRegression())]


@pytest.mark.parametrize("expert", LEARNERS, ids=str)
@pytest.mark.parametrize("method", ["predict", "gate_proba", "score_samples"])
@pytest.mark.parametrize("kind", ["f4", "f2", "i2", "table"])
def test_dtypes_are_those_in_memory(expert, method, kind):
    model = MoERegressor(expert, **FAST).fit(X, Y)
    single = X.astype("f4")
    sizes = (40, 40, 40)
    if kind == "table":
        here = pd.DataFrame(single, columns=list("abc"))
        here["c"] = (here["c"] * 10).astype("i2")
        model = MoERegressor(expert, **FAST).fit(here, Y)
        rows = frame.from_pandas(here, npartitions=3)
    else:
        here = (single * 10).astype(kind)
        rows = lying(here, sizes)
    told = in_memory(model, method, here, None, sizes)
    found = predict(model, rows, method)
    computed = np.asarray(found.compute())
    assert np.asarray(found._meta).dtype == computed.dtype == told.dtype
    np.testing.assert_array_equal(computed, told)


def test_rows_of_float32_lose_nothing_in_a_pipeline():
    single = X.astype("f4")
    model = make_pipeline(StandardScaler(), MoERegressor(**FAST)).fit(single, Y)
    found = predict(model, lying(single)).compute()
    np.testing.assert_array_equal(found, in_memory(model, "predict", single))


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_sparse_blocks(kind):
    thin = np.where(np.abs(X) > 0.7, X, 0.0)
    model = MoERegressor(**FAST).fit(kind(thin), Y)
    rows = lying(thin, (50, 70)).map_blocks(kind, dtype=float, meta=kind((0, 0)))
    found = predict(model, rows)
    assert found.chunks == ((50, 70),)
    np.testing.assert_array_equal(found.compute(), model.predict(kind(thin)))


# -------------------------------------------------------------------- columns
WORDS = pd.Series(np.where(X[:, 0] > 0, "right", "left"))
KINDS = {
    "object": WORDS.astype(object),
    "string": WORDS.astype("string"),
    "arrow": WORDS.astype("string[pyarrow]"),
    "category": WORDS.astype("category"),
}


def encoded():
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["side"]), remainder="passthrough"
    )
    return make_pipeline(encode, MoERegressor(**FAST))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("convert", [True, False])
def test_words_go_through_a_pipeline(kind, convert):
    import dask

    table = pd.DataFrame(X, columns=list("abc")).assign(side=KINDS[kind])
    model = encoded().fit(table, Y)
    with dask.config.set({"dataframe.convert-string": convert}):
        found = predict(model, frame.from_pandas(table, npartitions=3)).compute()
    np.testing.assert_array_equal(found, model.predict(table))


def test_categories_that_partitions_do_not_all_hold():
    table = pd.DataFrame(X, columns=list("abc")).assign(side=KINDS["category"])
    table = table.sort_values("side", ignore_index=True)
    model = encoded().fit(table, Y)
    rows = frame.from_pandas(table, npartitions=4)
    np.testing.assert_array_equal(predict(model, rows).compute(), model.predict(table))


def test_unknown_categories_are_refused():
    table = pd.DataFrame(X, columns=list("abc")).assign(side=KINDS["category"])
    model = encoded().fit(table, Y)
    rows = frame.from_pandas(table, npartitions=3)
    rows["side"] = rows["side"].cat.as_unknown()
    with pytest.raises(ValueError, match=r"'side'.*unknown categories.*categorize\(\)"):
        predict(model, rows)
    found = predict(model, rows.categorize())
    np.testing.assert_array_equal(found.compute(), model.predict(table))


def test_whole_numbers_with_missing_values():
    whole = pd.array(np.arange(N), dtype="Int64")
    whole[::7] = pd.NA
    table = pd.DataFrame({"a": X[:, 0], "b": whole})
    model = MoERegressor(DecisionTreeRegressor(max_depth=3), gate="constant", **FAST)
    model.fit(table, Y)
    found = predict(model, in_parts(table)).compute()
    np.testing.assert_array_equal(found, model.predict(table))


def test_labels_of_words_in_frames():
    model = MoEClassifier(**FAST).fit(TABLE, pd.Series(LABELS, index=INDEX))
    found = predict(model, in_parts(TABLE))
    assert found.compute().tolist() == model.predict(TABLE).tolist()


# -------------------------------------------------------------------- targets
def test_score_samples_about_targets():
    here = in_memory(REGRESSOR, "score_samples", X, y=Y)
    rows, y = lying(X), lying(Y)
    for targets in (y, array.from_array(Y, chunks=13)):
        found = predict(REGRESSOR, rows, "score_samples", y=targets)
        assert found.chunks == (SIZES,)
        np.testing.assert_array_equal(found.compute(), here)
    keep = rows[:, 0] > 0
    found = predict(REGRESSOR, rows[keep], "score_samples", y=y[keep])
    np.testing.assert_array_equal(found.compute(), here[X[:, 0] > 0])
    table = in_parts(TABLE.assign(y=Y))
    model = MoERegressor(**FAST).fit(TABLE, Y)
    found = predict(model, table[list("abc")], "score_samples", y=table["y"])
    np.testing.assert_array_equal(found.compute(), model.score_samples(TABLE, Y))


def test_score_samples_about_several_targets():
    y = np.c_[Y, -Y, X[:, 2]]
    targets = array.from_array(y, chunks=(40, 1))
    found = predict(OUTPUTS, lying(X), "score_samples", y=targets)
    here = in_memory(OUTPUTS, "score_samples", X, y=y)
    np.testing.assert_array_equal(found.compute(), here)
    found = predict(CLASSIFIER, lying(X), "score_samples", y=lying(LABELS))
    np.testing.assert_array_equal(found.compute(), CLASSIFIER.score_samples(X, LABELS))


def test_targets_in_other_partitions_are_refused():
    table = frame.from_pandas(TABLE, npartitions=3)
    other = frame.from_pandas(pd.Series(Y, index=INDEX), npartitions=2)
    with pytest.raises(ValueError, match="y and X must have the same partitions"):
        predict(REGRESSOR, table, "score_samples", y=other)
    with pytest.raises(ValueError, match="y and X must have the same partitions"):
        predict(REGRESSOR, lying(X), "score_samples", y=array.from_array(Y[:9]))
    with pytest.raises(TypeError, match=r"y must be a Dask Array.*got ndarray"):
        predict(REGRESSOR, lying(X), "score_samples", y=Y)
    with pytest.raises(TypeError, match="y must be a Dask Series or DataFrame"):
        predict(REGRESSOR, table, "score_samples", y=lying(Y))


# -------------------------------------------------------------------- the graph
class Heavy(LinearRegression):
    """A learner of a known weight that must not be asked while the graph is built."""

    asked = 0

    def predict(self, X):
        Heavy.asked += 1
        return super().predict(X)


def test_the_model_is_in_the_graph_once_and_is_not_asked_to_build_it():
    model = MoERegressor(Heavy(), **FAST).fit(X, Y)
    model.experts_[0].ballast = np.random.default_rng(0).bytes(5_000_000)
    weight = len(pickle.dumps(model))
    assert weight > 5_000_000
    rows = array.zeros((5_000, 3), chunks=(10, 3))
    table = frame.from_pandas(
        pd.DataFrame(np.zeros((5_000, 3)), columns=list("abc")), npartitions=500
    )
    named = MoERegressor(Heavy(), **FAST).fit(TABLE, Y)
    named.experts_[0].ballast = model.experts_[0].ballast
    Heavy.asked = 0
    for fitted, lazy in ((model, rows), (named, table)):
        found = predict(fitted, lazy)
        graph = dict(found.__dask_graph__())
        assert len(pickle.dumps(graph)) <= weight + 500 * 10_000
        own = len(pickle.dumps(dict(lazy.__dask_graph__())))
        assert len(pickle.dumps(graph)) - own < 1.02 * weight + 500 * 1_000
    assert Heavy.asked == 0


def test_import_is_light():
    code = (
        "import sys; sys.modules['dask'] = None; sys.modules['distributed'] = None\n"
        "import numpy as np, skmoe.dask\n"
        "try: skmoe.dask.predict(None, np.zeros((2, 2)))\n"
        "except TypeError as error: assert 'got ndarray' in str(error)\n"
        "else: sys.exit(1)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# -------------------------------------------------------------------- what is refused
def test_what_is_refused():
    from sklearn.exceptions import NotFittedError

    rows = lying(X)
    with pytest.raises(TypeError, match=r"got ndarray.*model\.predict\(X\)"):
        predict(REGRESSOR, X)
    with pytest.raises(ValueError, match=r"X must have two axes.*got 1"):
        predict(REGRESSOR, frame.from_pandas(TABLE, npartitions=2)["a"])
    with pytest.raises(ValueError, match=r"X must have two axes.*got 1"):
        predict(REGRESSOR, rows[:, 0])
    with pytest.raises(ValueError, match=r"one of \['gate_proba', 'predict',"):
        predict(REGRESSOR, rows, "predict_proba")
    with pytest.raises(ValueError, match=r"one of \['transform'\]"):
        predict(REGIMES, rows)
    with pytest.raises(TypeError, match=r"model must be a .* got LinearRegression"):
        predict(LinearRegression().fit(X, Y), rows)
    with pytest.raises(NotFittedError):
        predict(MoERegressor(), rows)
    with pytest.raises(ValueError, match="groups are not for rows in partitions"):
        predict(REGRESSOR, rows, groups=rows[:, 0])
    with pytest.raises(ValueError, match="3 features"):
        predict(REGRESSOR, rows[:, :2]).compute()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_on_two_processes():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster),
    ):
        rows = lying(X).persist()
        for model, method, options in ASKED:
            found = predict(model, rows, method, **options)
            told = in_memory(model, method, X, options)
            for lazy, here in pairs(found, told):
                np.testing.assert_array_equal(lazy.persist().compute(), here)
