"""Category columns of data frames, and mixtures behind Pipelines."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe._frames import categories
from skmoe.gates import GroupGate
from skmoe.pipeline import final

pytestmark = pytest.mark.usefixtures("quick_choices")

RANDOM = np.random.RandomState(0)
N = 300
CODES = RANDOM.randint(0, 12, N)
SIDE, PRICE = RANDOM.uniform(-1, 1, N), RANDOM.uniform(1, 2, N)
EFFECT = RANDOM.normal(0, 3, 12)
Y = EFFECT[CODES] + np.where(SIDE > 0, 2, -2) * PRICE + 0.1 * RANDOM.normal(size=N)
FEW = {"n_experts": 2, "n_init": 1, "max_iter": 3, "tol": 10.0, "random_state": 0}
BOOST = HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5, random_state=0)


def frame(levels="numbers", container="pandas"):
    """Return rows whose first column holds categories."""
    names = np.array([f"s{code}" for code in CODES])
    column = CODES * 5 % 13 if levels == "numbers" else names
    if container == "polars":
        store = pl.Series(names).cast(pl.Categorical)
        return pl.DataFrame({"store": store, "side": SIDE, "price": PRICE})
    store = column if levels == "strings" else pd.Categorical(column)
    return pd.DataFrame({"store": store, "side": SIDE, "price": PRICE})


class ReadsCategories(HistGradientBoostingRegressor):
    """Boosting that insists on a data frame whose first column is a category."""

    def fit(self, X, y, sample_weight=None):
        assert categories(X) == ["store"]
        return super().fit(X, y, sample_weight)

    def predict(self, X):
        assert categories(X) == ["store"]
        return super().predict(X)


def test_columns_of_categories():
    X = frame().assign(
        word=["a", "b"] * (N // 2),
        flag=True,
        number=pd.Series(range(N), dtype=object),
        nullable=pd.Series(range(N), dtype="Int64"),
    )
    assert categories(X) == ["store", "word"]
    assert categories(frame(container="polars")) == ["store"]
    assert categories(np.zeros((2, 2))) == []


@pytest.mark.parametrize("kind", ["numbers", "names", "polars"])
def test_experts_read_categories_and_the_gate_indicators(kind):
    X = frame(kind, "polars" if kind == "polars" else "pandas")
    expert = ReadsCategories(max_iter=20, min_samples_leaf=5)
    model = MoERegressor(expert, **FEW, cross_fit=None).fit(X, Y)
    assert all(expert.is_categorical_[0] for expert in model.experts_)
    names = model.gate_["encoder"].get_feature_names_out()
    assert sum(name.startswith("categories__store") for name in names) == 12
    assert model.gate_proba(X).shape == (N, 2)
    assert np.isfinite(model.score_samples(X, Y)).all()
    streamed = MoERegressor(expert, **FEW).partial_fit(X, Y).partial_fit(X, Y)
    assert streamed.score(X, Y) > 0.9


def test_levels_that_are_numbers_are_no_quantities():
    """60 shops numbered at random: as numbers they say next to nothing."""
    X = frame()
    alone = BOOST.fit(X[:200], Y[:200]).score(X[200:], Y[200:])
    model = MoERegressor(BOOST, **FEW).fit(X[:200], Y[:200])
    assert model.score(X[200:], Y[200:]) > alone - 0.03


def test_classifiers_read_categories():
    boosting = HistGradientBoostingClassifier(max_iter=5)
    model = MoEClassifier(boosting, cross_fit=None, **FEW)
    assert model.fit(frame("names"), Y > 0).experts_[0].is_categorical_[0]


def test_new_levels_are_served():
    X = frame("names")
    model = MoERegressor(BOOST, **FEW).fit(X, Y)
    new = X[:5].assign(store=pd.Categorical(["elsewhere"] * 5))
    assert np.isfinite(model.predict(new)).all()


@pytest.mark.parametrize("levels", ["names", "strings"])
@pytest.mark.parametrize("expert", [Ridge(), DecisionTreeRegressor(max_depth=2)])
def test_experts_that_read_numbers_only_name_the_column(levels, expert):
    with pytest.raises((ValueError, RuntimeError), match=r"\['store'\].*OneHotEncoder"):
        MoERegressor(expert, **FEW).fit(frame(levels), Y)


def test_linear_experts_in_a_list_see_indicators():
    X = frame("names")
    model = MoERegressor([Ridge(), BOOST], n_init=1, max_iter=3, random_state=0)
    first = model.fit(X, Y).experts_[0]
    assert first[0].get_feature_names_out().size == 14
    assert model.score(X, Y) > 0.8


READ = make_column_transformer(
    (OneHotEncoder(sparse_output=False, handle_unknown="ignore"), ["store"]),
    ("passthrough", ["side", "price"]),
)


@pytest.mark.parametrize(
    ("expert", "shared"),
    [
        (None, BOOST),
        (None, make_pipeline("passthrough", BOOST)),
        (make_pipeline(READ, Ridge()), make_pipeline(READ, Ridge())),
    ],
)
def test_shared_experts_read_frames_by_name(expert, shared):
    X = frame("names")
    model = MoERegressor(expert, shared_expert=shared, **FEW).fit(X, Y)
    assert model.score(X, Y) > 0.8


def test_shared_experts_read_numeric_frames_by_name():
    X = frame().drop(columns="store")
    by_name = make_column_transformer(("passthrough", ["side"]))
    model = MoERegressor(shared_expert=make_pipeline(by_name, Ridge()), **FEW)
    assert model.fit(X, Y).score(X, Y) > 0.1


@pytest.mark.parametrize("expert", [BOOST, make_pipeline(READ, BOOST)])
def test_a_shared_expert_is_tried_on_frames(expert):
    X = frame("names")
    model = MoERegressor(expert, shared_expert="auto", **FEW).fit(X, Y)
    assert model.score(X, Y) > 0.8


# ------------------------------------------------------------ behind Pipelines
def test_final_gives_the_mixture_and_its_rows():
    X = np.column_stack([SIDE, PRICE])
    mixture = MoERegressor(n_experts=2, n_init=1, max_iter=3, random_state=0)
    inner = make_pipeline(StandardScaler(), mixture)
    pipe = make_pipeline(StandardScaler(with_std=False), inner).fit(X, Y)
    last, Z = final(pipe, X)
    assert last is pipe[-1][-1]
    np.testing.assert_array_equal(last.predict(Z), pipe.predict(X))
    search = GridSearchCV(inner, {"moeregressor__top_k": [1]}, cv=2).fit(X, Y)
    last, Z = final(search, X)
    np.testing.assert_array_equal(last.predict(Z), search.predict(X))
    last, Z = final(search.best_estimator_[-1], X)
    assert Z is X


def test_final_refuses_what_is_no_fitted_mixture():
    with pytest.raises(TypeError, match=r"ends in one; got Ridge\(\)"):
        final(Ridge(), SIDE[:, None])
    with pytest.raises(NotFittedError):
        final(make_pipeline(StandardScaler(), MoERegressor()), SIDE[:, None])


def test_a_gate_of_ids_beside_experts_that_read_categories():
    X = frame("names").assign(colour=pd.Categorical(list("rgb") * (N // 3)))
    for column in ("store", "colour"):
        gate = GroupGate(column)
        model = MoERegressor(BOOST, gate=gate, cross_fit=None, **FEW).fit(X, Y)
        assert list(model.group_ids_) == sorted(X[column].unique())
        assert model.experts_[0].is_categorical_.tolist() == [True, False, False, True]
