"""Fits on Dask collections: the same answer wherever the rows lie."""

import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.dask import DaskMoEClassifier, DaskMoERegressor
from skmoe.dask._seen import check_versions
from skmoe.dask._table import VERSIONS
from skmoe.gates import SoftmaxGate

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
dd = pytest.importorskip("dask.dataframe")

N = 3_000
SIZES = [N // 3, 1, 0, N // 2, N - N // 3 - 1 - N // 2]
"""Uneven parts, one of them empty, one of a single row."""


@pytest.fixture(autouse=True)
def threads():
    with dask.config.set(scheduler="threads", num_workers=2):
        yield


@pytest.fixture(scope="module")
def rows():
    random = np.random.RandomState(0)
    X = random.normal(size=(N, 4))
    regime = (X[:, 0] > 0).astype(int) + 2 * (X[:, 1] > 0)
    slopes = random.normal(size=(4, 4)) * 2
    y = np.sum(X * slopes[regime], axis=1) + 0.3 * random.normal(size=N)
    return X, y


@pytest.fixture(scope="module")
def labelled(rows):
    X, _ = rows
    y = np.array(["no", "yes"])[(X[:, 0] * X[:, 1] > 0).astype(int)]
    return X, y


def lying(values, sizes):
    """Return an array in parts of these sizes, some of which may be empty."""
    chunks = (tuple(sizes), *((n,) for n in values.shape[1:]))
    return da.from_array(values, chunks=chunks)


def regressor(**params):
    options = {"n_experts": 4, "random_state": 0, "sample_rows": 800}
    options |= {"max_iter": 8, "tol": 1e-9}
    return DaskMoERegressor(**(options | params))


def classifier(**params):
    options = {"n_experts": 4, "random_state": 0, "sample_rows": 800, "max_iter": 8}
    return DaskMoEClassifier(**(options | params))


PARTS = {"one": [N], "seven": [430] * 6 + [420], "uneven": SIZES}


# ------------------------------------------------------------------ any partitioning
@pytest.fixture(scope="module")
def in_one_part(rows):
    X, y = rows
    return regressor().fit(lying(X, [N]), lying(y, [N]))


@pytest.mark.parametrize("sizes", PARTS.values(), ids=PARTS)
def test_the_bound_of_each_pass_is_that_of_one_part(rows, in_one_part, sizes):
    X, y = rows
    model = regressor().fit(lying(X, sizes), lying(y, sizes))
    bounds = in_one_part.lower_bounds_
    assert len(bounds) == 8
    np.testing.assert_allclose(model.lower_bounds_, bounds, rtol=0, atol=1e-9)
    np.testing.assert_allclose(model.gate_.coef_, in_one_part.gate_.coef_, rtol=1e-6)
    np.testing.assert_allclose(model.predict(X), in_one_part.predict(X), rtol=1e-6)


def test_the_order_of_rows_does_not_matter(rows, in_one_part):
    X, y = rows
    order = np.argsort(y)
    sizes = PARTS["seven"]
    model = regressor().fit(lying(X[order], sizes), lying(y[order], sizes))
    np.testing.assert_allclose(
        model.lower_bounds_, in_one_part.lower_bounds_, rtol=0, atol=1e-9
    )


def test_classes_may_lie_in_parts_of_their_own(labelled):
    X, y = labelled
    mixed = classifier().fit(lying(X, [N]), lying(y, [N]))
    order = np.argsort(y, kind="stable")
    n_no = int(np.sum(y == "no"))
    sizes = [n_no, N - n_no]
    apart = classifier().fit(lying(X[order], sizes), lying(y[order], sizes))
    np.testing.assert_array_equal(apart.classes_, ["no", "yes"])
    np.testing.assert_allclose(
        apart.lower_bounds_, mixed.lower_bounds_, rtol=0, atol=1e-9
    )
    assert apart.score(lying(X, SIZES), lying(y, SIZES)) > 0.9


def test_a_rare_class_is_in_the_sample(labelled):
    X, y = labelled
    y = y.astype("U5")
    y[[17, 1717]] = "maybe"
    model = classifier(sample_rows=100).fit(lying(X, SIZES), lying(y, SIZES))
    np.testing.assert_array_equal(model.classes_, ["maybe", "no", "yes"])


@pytest.mark.parametrize("model", [MoERegressor, MoEClassifier])
def test_up_to_the_sample_the_answer_is_that_of_memory(model, rows, labelled):
    X, y = rows if model is MoERegressor else labelled
    options = {"n_experts": 3, "random_state": 0, "max_iter": 5}
    kind = DaskMoERegressor if model is MoERegressor else DaskMoEClassifier
    there = kind(**options).fit(lying(X, SIZES), lying(y, SIZES))
    here = model(**options).fit(X, y)
    assert there.lower_bound_ == pytest.approx(here.lower_bound_, abs=1e-9)
    np.testing.assert_allclose(
        there.to_local().score_samples(X, y), here.score_samples(X, y), atol=1e-6
    )
    assert there.sample_size_ == N
    assert there.n_rounds_ == 0


@pytest.mark.parametrize("seed", range(4))
def test_one_row_more_than_the_sample_leaves_some_to_hold_out(rows, seed):
    X, y = lying(rows[0], [N]), lying(rows[1], [N])
    model = regressor(sample_rows=N - 1, random_state=seed, n_init=1, max_iter=2)
    model.fit(X, y)
    assert 0.7 * N < model.sample_size_ < 0.9 * N
    assert model.n_rounds_ > 0


def test_rows_that_are_all_equal_are_refused_with_a_remedy():
    X, y = lying(np.ones((N, 2)), [N]), lying(np.ones(N), [N])
    with pytest.raises(ValueError, match="count them in sample_weight"):
        regressor().fit(X, y)


def test_all_rows_teach_more_than_the_sample(rows):
    X, y = rows
    model = regressor(sample_rows=200, max_iter=40).fit(
        lying(X, SIZES), lying(y, SIZES)
    )
    found = model.diagnostics_
    assert found["held_out: passes on all rows"] > found["held_out: sample"] + 0.1
    assert model.shrinkage_ == 0.0
    assert abs(model.expert_load_.sum() - 1) < 1e-9
    share = model.to_local().route(X).sum(axis=0) / N
    np.testing.assert_allclose(model.expert_load_, np.ravel(share), atol=0.03)
    assert model.n_rounds_ > model.n_iter_
    here = MoERegressor(n_experts=4, random_state=0).fit(X, y)
    assert model.to_local().score(X, y) > here.score(X, y) - 0.02


@pytest.mark.parametrize("gate", ["constant", "product", "hierarchical", "gaussian"])
def test_other_gates(rows, gate):
    X, y = rows
    options = {"gate": gate, "top_k": None, "sample_rows": 400}
    one = regressor(**options).fit(lying(X, [N]), lying(y, [N]))
    model = regressor(**options).fit(lying(X, SIZES), lying(y, SIZES))
    np.testing.assert_allclose(model.lower_bounds_, one.lower_bounds_, atol=1e-9)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    assert model.lower_bounds_[-1] > model.lower_bounds_[0]


def test_counts(rows):
    X, _ = rows
    random = np.random.RandomState(1)
    y = random.poisson(np.exp(np.where(X[:, 0] > 0, X[:, 1], 2.0 - X[:, 1])))
    options = {"likelihood": "poisson", "n_experts": 2, "sample_rows": 400}
    one = regressor(**options).fit(lying(X, [N]), lying(y, [N]))
    model = regressor(**options).fit(lying(X, SIZES), lying(y, SIZES))
    np.testing.assert_allclose(model.lower_bounds_, one.lower_bounds_, atol=1e-9)
    assert np.all(np.diff(model.lower_bounds_) >= -1e-12)
    assert len(model.lower_bounds_) == 8  # passes of EM, so experts learn from sums
    here = MoERegressor(likelihood="poisson", n_experts=2, random_state=0).fit(X, y)
    theirs = here.score_samples(X, y).mean()
    assert model.score_samples(X, y).mean() > theirs - 0.02


TREES = {"expert": DecisionTreeRegressor(max_depth=4), "sample_rows": 900}
BOOSTED = {"expert": HistGradientBoostingRegressor(max_iter=10), "sample_rows": 900}


@pytest.mark.parametrize("learner", [TREES, BOOSTED], ids=["trees", "boosted"])
@pytest.mark.parametrize("most", ["auto", 300])
def test_learners_fitted_one_by_one_are_the_same_in_any_parts(rows, learner, most):
    X, y = rows
    options = learner | {"rows_per_expert": most, "n_init": 1}
    one = regressor(**options).fit(lying(X, [N]), lying(y, [N]))
    assert one.n_rounds_ > 1
    order = np.argsort(y)
    for sizes in (SIZES, PARTS["seven"]):
        model = regressor(**options)
        model.fit(lying(X[order], sizes), lying(y[order], sizes))
        np.testing.assert_allclose(
            model.lower_bounds_, one.lower_bounds_, rtol=0, atol=1e-9
        )
        np.testing.assert_allclose(model.to_local().predict(X), one.predict(X))


def test_learners_fitted_one_by_one_gain_by_all_rows(rows):
    X, y = rows
    model = regressor(expert=DecisionTreeRegressor(max_depth=6), sample_rows=300)
    model.fit(lying(X, SIZES), lying(y, SIZES))
    found = model.diagnostics_
    best = max(value for name, value in found.items() if name.startswith("held_out"))
    assert best > found["held_out: sample"] + 0.05
    tree = DecisionTreeRegressor(max_depth=6).fit(X, y)
    assert model.to_local().score(X, y) > tree.score(X, y) - 0.02


def test_classifiers_fitted_one_by_one(labelled):
    X, y = labelled
    model = classifier(expert=DecisionTreeClassifier(max_depth=4), sample_rows=900)
    model.fit(lying(X, SIZES), lying(y, SIZES))
    assert model.score(lying(X, SIZES), lying(y, SIZES)) > 0.9


def test_frames_with_categories_that_trees_read(rows):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcd"))
    table["kind"] = pd.Categorical(np.where(X[:, 0] > 0, "up", "down"))
    learner = HistGradientBoostingRegressor(
        max_iter=10, categorical_features="from_dtype"
    )
    model = regressor(expert=learner, n_experts=2, n_init=1)
    frame = dd.from_pandas(table, npartitions=4)
    model.fit(frame, dd.from_pandas(pd.Series(y), npartitions=4))
    here = model.to_local().predict(table)
    np.testing.assert_array_equal(model.predict(frame).compute(), here)
    assert model.n_rounds_ > 1


def test_noise_is_left_to_the_learner_alone():
    random = np.random.RandomState(0)
    X = random.normal(size=(N, 4))
    y = X[:, 0] + random.normal(size=N)
    model = regressor(sample_rows=300).fit(lying(X, [N]), lying(y, [N]))
    alone = LinearRegression().fit(X, y).predict(X)
    assert np.sqrt(np.mean((model.to_local().predict(X) - alone) ** 2)) < 0.1


# ------------------------------------------------------------------- forms of tables
def test_frames_with_names_and_weights(rows):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcd"))
    table["price"] = y
    table["weight"] = 1.0 + (np.arange(N) % 2)
    frame = dd.from_pandas(table, npartitions=5)
    model = regressor().fit(frame, "price", sample_weight="weight")
    np.testing.assert_array_equal(model.feature_names_in_, list("abcd"))
    few = dd.from_pandas(table[list("abcd")], npartitions=3)
    answer = model.predict(few)
    assert answer.divisions == few.divisions
    found = answer.compute()
    assert found.name == "prediction"
    assert found.index.equals(table.index)
    here = model.to_local().predict(table[list("abcd")])
    np.testing.assert_allclose(found, here, rtol=1e-9)
    plain = regressor().fit(frame.drop(columns="weight"), "price")
    assert not np.allclose(plain.lower_bounds_, model.lower_bounds_)


def test_files_of_parquet(rows, tmp_path):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcd"))
    table["price"] = y
    for i, some in enumerate(np.array_split(np.arange(N), 7)):
        table.iloc[some].to_parquet(tmp_path / f"{i}.parquet")
    frame = dd.read_parquet(tmp_path)
    named = regressor().fit(frame, "price")
    apart = regressor().fit(frame[list("abcd")], frame["price"])
    np.testing.assert_array_equal(named.lower_bounds_, apart.lower_bounds_)
    said = named.predict(frame[list("abcd")]).compute()
    here = named.to_local().predict(table[list("abcd")])
    np.testing.assert_allclose(said, here, rtol=1e-9)


def test_memory_mapped_rows(rows, in_one_part, tmp_path):
    X, y = rows
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = regressor().fit(lying(mapped, SIZES), lying(y, SIZES))
    np.testing.assert_allclose(
        model.lower_bounds_, in_one_part.lower_bounds_, rtol=0, atol=1e-9
    )


def test_categories_go_through_pipelines(rows):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcd"))
    table["kind"] = pd.Categorical(np.where(X[:, 0] > 0, "up", "down"))
    frame = dd.from_pandas(table, npartitions=4)
    steps = ColumnTransformer(
        [("kind", OneHotEncoder(handle_unknown="ignore"), ["kind"])],
        remainder="passthrough",
    )
    model = regressor(expert=make_pipeline(steps, LinearRegression()))
    model.fit(frame, dd.from_pandas(pd.Series(y), npartitions=4))
    assert model.score(frame, dd.from_pandas(pd.Series(y), npartitions=4)) > 0.9
    here = model.to_local().predict(table)
    np.testing.assert_array_equal(model.predict(frame).compute(), here)


def test_pipelines_as_experts_and_before_the_gate(rows):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abcd"))
    table["kind"] = np.where(X[:, 0] > 0, "up", "down")
    steps = ColumnTransformer(
        [
            ("number", StandardScaler(), list("abcd")),
            ("kind", OneHotEncoder(), ["kind"]),
        ]
    )
    model = regressor(
        expert=make_pipeline(steps, LinearRegression()),
        gate=make_pipeline(clone(steps), SoftmaxGate()),
    )
    sizes = dd.from_pandas(table, npartitions=4)
    model.fit(sizes, dd.from_pandas(pd.Series(y), npartitions=4))
    assert model.to_local().score(table, y) > 0.9


def test_sparse_blocks(rows):
    X, y = rows
    X = np.where(np.abs(X) > 0.5, X, 0.0)
    few = lying(X, SIZES).map_blocks(sparse.csr_matrix)
    dense = regressor().fit(lying(X, SIZES), lying(y, SIZES))
    model = regressor().fit(few, lying(y, SIZES))
    np.testing.assert_allclose(model.lower_bounds_, dense.lower_bounds_, atol=1e-9)


def test_float32_and_chunks_of_columns(rows):
    X, y = rows
    chunked = da.from_array(X.astype(np.float32), chunks=(700, 3))
    model = regressor().fit(chunked, da.from_array(y, chunks=(700,)))
    assert model.predict(chunked).compute().shape == (N,)
    unknown = chunked[chunked[:, 0] > -10]  # all rows, in chunks of unknown length
    same = regressor().fit(unknown, da.from_array(y, chunks=(700,)))
    np.testing.assert_array_equal(same.lower_bounds_, model.lower_bounds_)


def test_several_outputs(rows):
    X, y = rows
    Y = np.column_stack([y, -y])
    model = regressor().fit(lying(X, SIZES), lying(Y, SIZES))
    assert model.predict(lying(X, SIZES)).compute().shape == (N, 2)
    assert model.score(lying(X, SIZES), lying(Y, SIZES)) == pytest.approx(
        model.to_local().score(X, Y), abs=1e-9
    )


def test_arrays_in_memory_are_fitted_as_by_the_parent(rows):
    X, y = rows
    there = regressor(sample_rows=10).fit(X, y)
    here = MoERegressor(n_experts=4, random_state=0, max_iter=8, tol=1e-9).fit(X, y)
    np.testing.assert_array_equal(there.predict(X), here.predict(X))


# --------------------------------------------------------------------- going on later
class Interrupted(Exception):
    pass


def test_a_fit_goes_on_from_its_checkpoint_with_the_same_bits(
    rows, in_one_part, tmp_path, monkeypatch
):
    X, y = lying(rows[0], [N]), lying(rows[1], [N])
    path = tmp_path / "fit.checkpoint"

    def fail(model, info):
        if info.n_pass == 3:
            raise Interrupted

    monkeypatch.setattr("skmoe.dask._fit._say", fail)
    model = regressor(checkpoint=path)
    with pytest.raises(Interrupted):
        model.fit(X, y)
    assert not hasattr(model, "gate_")
    monkeypatch.undo()
    monkeypatch.setattr(MoERegressor, "fit", None)  # the sample is not fitted again
    model.fit(X, y)
    np.testing.assert_array_equal(model.lower_bounds_, in_one_part.lower_bounds_)
    np.testing.assert_array_equal(model.gate_.coef_, in_one_part.gate_.coef_)
    np.testing.assert_array_equal(model.predict(rows[0]), in_one_part.predict(rows[0]))


def test_a_checkpoint_of_other_rows_or_parameters_is_refused(rows, tmp_path):
    X, y = lying(rows[0], [N]), lying(rows[1], [N])
    path = tmp_path / "fit.checkpoint"
    regressor(checkpoint=path).fit(X, y)
    for other, target in ((regressor(n_experts=3), y), (regressor(), y + 1)):
        with pytest.raises(ValueError, match="belongs to a fit with other"):
            other.set_params(checkpoint=path).fit(X, target)


def test_a_checkpoint_of_other_weights_is_refused(rows, tmp_path):
    X, y = lying(rows[0], [N]), lying(rows[1], [N])
    model = regressor(checkpoint=tmp_path / "fit.checkpoint")
    model.fit(X, y, sample_weight=lying(np.arange(N) % 3.0, [N]))
    before = model.lower_bounds_
    model.fit(X, y, sample_weight=lying(np.arange(N) % 3.0, [N]))
    np.testing.assert_array_equal(model.lower_bounds_, before)
    for weight in (None, lying(np.arange(N) % 4.0, [N])):
        with pytest.raises(ValueError, match="belongs to a fit with other"):
            model.fit(X, y, sample_weight=weight)


def test_a_checkpoint_that_cannot_serve_is_refused_before_training(
    rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(MoERegressor, "fit", None)
    X, y = lying(rows[0], [N]), lying(rows[1], [N])
    text = tmp_path / "text"
    text.write_text("hello")
    for params, error, message in (
        ({"checkpoint": tmp_path / "no" / "file"}, OSError, "a folder that does not"),
        ({"checkpoint": tmp_path}, ValueError, "it is a folder"),
        ({"checkpoint": text}, ValueError, "is no file of a fit"),
        (
            {"checkpoint": tmp_path / "new", "random_state": None},
            ValueError,
            "checkpoint needs a random_state",
        ),
    ):
        with pytest.raises(error, match=message):
            regressor(**params).fit(X, y)


def test_the_history_of_all_rows_is_like_that_of_others(in_one_part):
    last = in_one_part.history_[-1]
    assert set(last) == set(in_one_part.history_[0])
    np.testing.assert_array_equal(last["bounds"], in_one_part.lower_bounds_)
    assert len(last["gate_accepted"]) == len(last["experts_accepted"]) == 8


def test_no_pass_begins_after_max_time(rows, monkeypatch):
    X, y = rows
    passes = []

    def say(model, info):
        passes.append(info.n_pass)
        monkeypatch.setattr("skmoe.dask._fit.time.monotonic", lambda: np.inf)

    monkeypatch.setattr("skmoe.dask._fit._say", say)
    model = regressor(max_time=1e6).fit(lying(X, [N]), lying(y, [N]))
    assert passes == [1]
    assert model.n_iter_ == 1
    assert model.diagnostics_["out_of_time"] == 1
    assert np.isfinite(model.to_local().predict(X)).all()


# ------------------------------------------------------------------------- bad input
def test_what_is_refused_is_refused_before_a_row_is_read(rows):
    X, y = rows

    def fail(block):
        raise AssertionError("a row was read")

    unread = lying(X, [N]).map_blocks(fail, meta=np.empty((0, 0)))
    y = lying(y, [N])
    for params, message in (
        ({"balance": 0.5}, r"balance=0\.5 is not for rows in partitions"),
        ({"gate": "tree"}, "tree.* does not learn from sums"),
        ({"noise_expert": LinearRegression()}, "noise_expert=LinearRegression"),
        ({"gate_per_output": True}, "gate_per_output=True"),
        ({"shared_expert": "auto"}, "shared_expert='auto'"),
        ({"init": np.ones((N, 4))}, "init must name starts"),
        ({"sample_rows": 0}, "sample_rows"),
        ({"checkpoint": 3}, "checkpoint"),
    ):
        with pytest.raises(ValueError, match=message):
            regressor(**params).fit(unread, y)
    with pytest.raises(ValueError, match="groups are not for rows in partitions"):
        regressor().fit(unread, y, groups=np.arange(N))


def test_parts_that_do_not_fit_together(rows):
    X, y = rows
    with pytest.raises(ValueError, match="y has 1 partitions and X has 2"):
        regressor().fit(lying(X, [N - 9, 9]), lying(y[:-1], [N - 1]))
    odd = lying(X, [1_000, 2_000]).map_blocks(lambda block: block)
    table = dd.from_pandas(pd.Series(y), npartitions=2)
    with pytest.raises(ValueError, match=r"Partition 0 .*\(1000, 1500\) rows"):
        regressor().fit(odd, table)
    with pytest.raises(TypeError, match="y must be a Dask collection"):
        regressor().fit(lying(X, [N]), y)
    with pytest.raises(TypeError, match="names a column, 'price'"):
        regressor().fit(lying(X, [N]), "price")
    frame = dd.from_pandas(pd.DataFrame(X, columns=list("abcd")), npartitions=2)
    with pytest.raises(ValueError, match="no column 'price'"):
        regressor().fit(frame, "price")
    nothing = lying(np.zeros(N), [N])
    with pytest.raises(ValueError, match="no rows of positive weight"):
        regressor().fit(lying(X, [N]), lying(y, [N]), sample_weight=nothing)


def test_workers_of_another_version_are_refused():
    check_versions(VERSIONS | {"numpy": VERSIONS["numpy"] + ".post1"})
    with pytest.raises(ValueError, match=r"skmoe: 0\.0\.1 there, "):
        check_versions(VERSIONS | {"skmoe": "0.0.1"})


@pytest.mark.parametrize("wrong", [np.nan, -1.0, np.inf])
def test_rows_of_no_weight_are_not_left_out_silently(rows, wrong):
    X, y = (lying(each, SIZES) for each in rows)
    weight = np.ones(N)
    weight[7] = wrong
    weight = lying(weight, SIZES)
    with pytest.raises(ValueError, match="finite numbers of 0 or more; 1 of the 1000"):
        regressor().fit(X, y, sample_weight=weight)
    model = regressor(sample_rows=N, n_init=1).fit(X, y)
    with pytest.raises(ValueError, match="finite numbers of 0 or more; 1 of the 1000"):
        model.score(X, y, sample_weight=weight)


def test_weights_that_are_no_numbers_for_each_row(rows):
    X, y = (lying(each, [N]) for each in rows)
    for weight, message in (
        (np.ones((N, 1)), "must have one axis"),
        (np.full(N, "heavy"), "must hold numbers"),
    ):
        with pytest.raises(ValueError, match=f"sample_weight {message}"):
            regressor().fit(X, y, sample_weight=lying(weight, [N]))


def test_an_X_that_is_no_table_of_rows_and_columns(rows):
    X, y = rows
    table = pd.DataFrame(X, columns=list("abab"))
    target = lying(y, [N])
    for wrong in (target, lying(X[:, :, None], [N])):
        with pytest.raises(ValueError, match="X must have two axes"):
            regressor().fit(wrong, target)
    with pytest.raises(ValueError, match=r"of the same name: \['a', 'b'\]"):
        regressor().fit(dd.from_pandas(table, npartitions=1), target)
    with pytest.raises(TypeError, match=r"got Delayed.* dask\.array\.from_delayed"):
        regressor().fit(dask.delayed(X), target)


def test_numbers_that_are_objects(rows, in_one_part):
    X, y = rows
    model = regressor().fit(lying(X.astype(object), [N]), lying(y, [N]))
    assert model.score(lying(X.astype(object), SIZES), lying(y, SIZES)) > 0.9
    with pytest.raises(ValueError, match="Complex data not supported"):
        regressor().fit(lying(X.astype(complex), [N]), lying(y, [N]))


# ---------------------------------------------------------------------------- scores
def test_labels_in_a_column_score_as_those_in_a_row(labelled):
    X, y = labelled
    model = classifier(sample_rows=N, n_init=1).fit(lying(X, SIZES), lying(y, SIZES))
    column = lying(y[:, None], SIZES)
    assert model.score(lying(X, SIZES), column) == model.to_local().score(X, y)


def test_rows_without_weight_do_not_score(rows):
    X, y = rows
    model = regressor(sample_rows=N, n_init=1).fit(lying(X, [N]), lying(y, [N]))
    weight = np.arange(N) % 3.0
    bad = X.copy()
    bad[weight == 0] = np.nan
    score = model.score(lying(bad, SIZES), lying(y, SIZES), lying(weight, SIZES))
    assert score == pytest.approx(model.to_local().score(X, y, weight), abs=1e-9)


@pytest.mark.parametrize("make", [regressor, classifier])
def test_what_cannot_be_scored(rows, labelled, make):
    X, y = rows if make is regressor else labelled
    model = make(sample_rows=N, n_init=1, max_iter=2)
    model.fit(lying(X, [N]), lying(y, [N]))
    nothing = lying(np.zeros(N), [N])
    with pytest.raises(ValueError, match="no rows of positive weight to score"):
        model.score(lying(X, [N]), lying(y, [N]), nothing)
    with pytest.raises(ValueError, match=r"y has 2 columns, .* was fitted on 1"):
        model.score(lying(X, [N]), lying(np.column_stack([y, y]), [N]))
    unknown = lying(X, [N])[lying(X[:, 0], [N]) > 0]
    with pytest.raises(ValueError, match="rows; they must be equal"):
        model.score(unknown, lying(y, [N]))


def test_missing_targets_do_not_score(rows):
    X, y = rows
    model = regressor(sample_rows=N, n_init=1).fit(lying(X, [N]), lying(y, [N]))
    y = y.copy()
    y[9] = np.nan
    with pytest.raises(ValueError, match="y contains NaN"):
        model.score(lying(X, SIZES), lying(y, SIZES))


def test_unknown_categories_are_refused(rows):
    X, y = rows
    table = pd.DataFrame({"a": X[:, 0], "kind": np.where(X[:, 1] > 0, "up", "down")})
    frame = dd.from_pandas(table, npartitions=2)
    unknown = frame.assign(kind=frame["kind"].astype("category"))
    with pytest.raises(ValueError, match=r"'kind' of X has unknown .*X\.categorize"):
        regressor().fit(unknown, dd.from_pandas(pd.Series(y), npartitions=2))


def test_an_error_in_a_part_is_raised_as_it_is_and_loses_nothing(rows):
    X, y = rows

    def fail(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 2:
            raise RuntimeError("the file is gone")
        return block

    broken = lying(X, PARTS["seven"]).map_blocks(fail, meta=np.empty((0, 0)))
    model = regressor().fit(X[:500], y[:500])
    before = model.predict(X)
    with pytest.raises(RuntimeError, match="the file is gone"):
        model.fit(broken, lying(y, PARTS["seven"]))
    np.testing.assert_array_equal(model.predict(X), before)


def test_bad_values_name_their_partition(rows):
    X, y = rows
    X = X.copy()
    X[2_500, 1] = np.nan
    model = regressor(sample_rows=100)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(lying(X, [1_000] * 3), lying(y, [1_000] * 3))


def test_rows_that_change_are_refused(rows, monkeypatch):
    X, y = rows
    monkeypatch.setattr("skmoe.dask._rows.SHARE_OF_MEMORY", 0.0)  # reload each round
    drawn = np.random.RandomState(0)

    def noisy(block):
        return block + drawn.normal(size=block.shape)

    other = lying(X, [1_500] * 2).map_blocks(noisy, meta=np.empty((0, 0)))
    with pytest.raises(ValueError, match="gives other values each time"):
        regressor().fit(other, lying(y, [1_500] * 2))


def test_rows_that_do_not_fit_into_memory_are_read_again(
    rows, in_one_part, monkeypatch
):
    X, y = rows
    monkeypatch.setattr("skmoe.dask._rows.SHARE_OF_MEMORY", 0.0)
    monkeypatch.setattr("skmoe.dask._rows.LEAST_SHARD", 20_000)
    model = regressor().fit(lying(X, PARTS["uneven"]), lying(y, PARTS["uneven"]))
    np.testing.assert_allclose(
        model.lower_bounds_, in_one_part.lower_bounds_, rtol=0, atol=1e-9
    )


# ------------------------------------------------------------------------- estimators
@pytest.mark.parametrize(
    ("own", "parent"),
    [(DaskMoERegressor, MoERegressor), (DaskMoEClassifier, MoEClassifier)],
)
def test_parameters_are_those_of_the_parent_and_three(own, parent):
    ours, theirs = own().get_params(), parent().get_params()
    three = {"sample_rows", "rows_per_expert", "checkpoint"}
    assert set(ours) - set(theirs) == three
    assert {name: ours[name] for name in theirs} == theirs
    local = own(n_experts=3).to_local()
    assert type(local) is parent
    assert local.n_experts == 3


def test_a_fitted_estimator_is_pickled_and_opens_without_dask(in_one_part, rows):
    saved = pickle.dumps(in_one_part)
    code = (
        "import pickle, sys\n"
        "import numpy as np\n"
        "model = pickle.load(sys.stdin.buffer)\n"
        "model.predict(np.zeros((2, 4)))\n"
        "assert 'dask' not in sys.modules, 'dask was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], input=saved, check=True)


def test_logistic_experts_by_default():
    assert type(classifier()._default_expert()) is LogisticRegression
