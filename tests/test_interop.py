"""Other libraries around a mixture, and scikit-learn's tools on top of it."""

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import partial_dependence, permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoe import MoEClassifier, MoERegressor, MoETransformer
from skmoe.gates import SoftmaxGate

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

QUICK = {"cross_fit": None, "n_init": 1, "max_iter": 20, "random_state": 0}
random = np.random.RandomState(0)
X = random.uniform(-1, 1, (240, 3))
Y = 3 * np.abs(X[:, 0]) + 0.5 * X[:, 1] + 0.05 * random.standard_normal(240)
LABELS = np.where(np.where(X[:, 0] > 0, X[:, 1], -X[:, 1]) > 0, "up", "down")
NAMES = ["a", "b", "c"]
"""y is a V of the first column; the second adds a little, the third nothing."""


def regressor(**options):
    return MoERegressor(Ridge(alpha=0.01), n_experts=2, **{**QUICK, **options})


def classifier(**options):
    return MoEClassifier(n_experts=2, **{**QUICK, **options})


# ------------------------------------------------- gate probabilities as features
@parametrize_with_checks(
    [MoETransformer(MoERegressor(n_experts=2, **{**QUICK, "max_iter": 2}))]
)
def test_transformer_contract(estimator, check):
    check(estimator)


def test_transform_is_the_gate():
    moe = MoETransformer(regressor())
    Z = moe.fit_transform(X, Y)
    np.testing.assert_array_equal(Z, regressor().fit(X, Y).gate_proba(X))
    np.testing.assert_allclose(Z.sum(axis=1), 1)
    assert not hasattr(moe.estimator, "gate_")


def test_regimes_make_a_linear_problem():
    """Which side of the V a row is on, times its place, is what a line lacks."""
    line = Ridge().fit(X, Y).score(X, Y)
    Z = MoETransformer(regressor()).fit_transform(X, Y)
    sides = np.column_stack([X, Z, Z * X[:, :1]])
    assert line < 0.3
    assert Ridge(alpha=0.01).fit(sides, Y).score(sides, Y) > 0.95


def test_transformer_names_and_frames():
    table = pd.DataFrame(X, columns=NAMES)
    moe = MoETransformer(classifier()).set_output(transform="pandas")
    framed = moe.fit_transform(table, LABELS)
    assert framed.columns.tolist() == ["expert0", "expert1"]
    assert framed.index.equals(table.index)
    assert moe.feature_names_in_.tolist() == NAMES
    outputs = MoETransformer(regressor(gate_per_output=True))
    two = outputs.fit_transform(X, np.column_stack([Y, -Y]))
    names = outputs.get_feature_names_out().tolist()
    assert names == [f"output{j}_expert{k}" for j in range(2) for k in range(2)]
    assert two.shape == (240, 4)


def test_transformer_keeps_a_frozen_mixture():
    fitted = regressor().fit(X, Y)
    moe = MoETransformer(FrozenEstimator(fitted)).fit(X)
    np.testing.assert_array_equal(moe.transform(X), fitted.gate_proba(X))
    with pytest.raises(NotFittedError):
        MoETransformer(FrozenEstimator(regressor())).fit(X)


def test_transformer_wants_a_mixture():
    with pytest.raises(TypeError, match="estimator must be a MoERegressor or"):
        MoETransformer(Ridge()).fit(X, Y)


def test_transformer_hands_weights_on():
    weight = np.where(X[:, 0] > 0, 1.0, 0.01)
    direct = regressor().fit(X, Y, sample_weight=weight).gate_proba(X)
    given = MoETransformer(regressor()).fit(X, Y, sample_weight=weight)
    np.testing.assert_array_equal(given.transform(X), direct)
    with config_context(enable_metadata_routing=True):
        asks = regressor().set_fit_request(sample_weight=True)
        last = Ridge().set_fit_request(sample_weight=False)
        chain = make_pipeline(MoETransformer(asks), last)
        chain.fit(X, Y, sample_weight=weight)
        np.testing.assert_array_equal(chain[0].transform(X), direct)


# ------------------------------------------------------------------------- arrow
def test_polars_and_pyarrow_columns_make_the_same_model():
    """test_ecosystem has frames as X; here targets, and Arrow through both."""
    pyarrow = pytest.importorskip("pyarrow")
    polars = pytest.importorskip("polars")
    columns = {name: X[:, j] for j, name in enumerate(NAMES)}
    arrow = pyarrow.table({**columns, "y": Y})
    plain = regressor().fit(X, Y).predict(X)
    from_arrow = polars.from_arrow(arrow)
    frames = [
        (from_arrow.select(NAMES), from_arrow["y"]),
        (arrow.select(NAMES).to_pandas(), arrow["y"].to_pandas()),
        (pd.DataFrame(columns, dtype="float64[pyarrow]"), pd.Series(Y)),
    ]
    for table, target in frames:
        model = regressor().fit(table, target)
        assert model.feature_names_in_.tolist() == NAMES
        np.testing.assert_allclose(model.predict(table), plain, rtol=1e-6)


def test_a_pyarrow_table_itself():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({name: X[:, j] for j, name in enumerate(NAMES)})
    model = regressor().fit(table, Y)
    np.testing.assert_allclose(
        model.predict(table), regressor().fit(X, Y).predict(X), rtol=1e-6
    )


# -------------------------------------------------------------- groups, routed
def test_groups_are_routed_to_splitter_and_fit():
    groups = np.empty(240, dtype=int)
    groups[np.argsort(X[:, 1])] = np.arange(240) // 10  # of both sides of the V each
    with config_context(enable_metadata_routing=True):
        model = regressor().set_fit_request(groups=True)
        found = cross_validate(
            model,
            X,
            Y,
            cv=GroupKFold(n_splits=3),
            params={"groups": groups},
            return_estimator=True,
            return_indices=True,
            error_score="raise",
        )
    for train, test, fitted in zip(
        found["indices"]["train"],
        found["indices"]["test"],
        found["estimator"],
        strict=True,
    ):
        assert not set(groups[train]) & set(groups[test])
        direct = regressor().fit(X[train], Y[train], groups=groups[train])
        np.testing.assert_array_equal(fitted.predict(X), direct.predict(X))
        without = regressor().fit(X[train], Y[train])
        assert np.abs(without.predict(X) - direct.predict(X)).max() > 1e-3


# ------------------------------------------------------------------- inspection
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_permutation_importance_finds_the_columns(kind):
    model, y = (regressor(), Y) if kind == "regressor" else (classifier(), LABELS)
    model.fit(X, y)
    importance = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    a, b, c = importance.importances_mean
    assert a > 0.2
    assert b > 0.01
    assert abs(c) < 0.01


def test_partial_dependence_draws_the_v():
    model = regressor().fit(X, Y)
    grid = np.linspace(-0.9, 0.9, 7)
    found = partial_dependence(model, X, [0], custom_values={0: grid})
    v = found["average"][0] - found["average"][0].min()
    far = np.abs(grid) > 0.2  # at the bend the gate blends
    np.testing.assert_allclose(v[far], 3 * np.abs(grid[far]), atol=0.3)


def test_shap_explains_gate_and_experts():
    """The recipe of the page on interoperation: linear parts have exact values."""
    shap = pytest.importorskip("shap")
    model = regressor(gate=SoftmaxGate(alpha=0.01)).fit(X, Y)
    for expert in model.experts_:
        values = shap.LinearExplainer(expert, X)(X[:20])
        total = values.values.sum(axis=1) + values.base_values
        np.testing.assert_allclose(total, expert.predict(X[:20]), atol=1e-6)
    explainer = shap.Explainer(model.gate_proba, shap.maskers.Independent(X[:40]))
    values = explainer(X[:5])
    total = values.values.sum(axis=1) + values.base_values
    np.testing.assert_allclose(total, model.gate_proba(X[:5]), atol=1e-4)
    strength = np.abs(values.values).mean(axis=(0, 2))
    assert strength.argmax() == 0
    assert strength[0] > 5 * strength[2]


# --------------------------------------------------------------- other learners
def boosted(name, kind):
    module = pytest.importorskip(name)
    options = {"n_estimators": 20, "n_jobs": 1, "random_state": 0}
    if name == "lightgbm":
        learner = {
            "regressor": module.LGBMRegressor,
            "classifier": module.LGBMClassifier,
        }
        return learner[kind](**options, min_child_samples=5, verbosity=-1)
    learner = {"regressor": module.XGBRegressor, "classifier": module.XGBClassifier}
    return learner[kind](**options, max_depth=3)


@pytest.mark.parametrize("name", ["lightgbm", "xgboost"])
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_boosted_experts(name, kind):
    expert = boosted(name, kind)
    options = {"n_experts": 2, "n_init": 1, "max_iter": 3, "random_state": 0}
    if kind == "regressor":
        model, y = MoERegressor(expert, **options), Y
    else:
        # XGBoost wants classes 0, 1, ... from whoever calls it.
        y = LABELS if name == "lightgbm" else (LABELS == "up").astype(int)
        model = MoEClassifier(expert, **options)
    model.fit(X[:160], y[:160])
    assert model.score(X[160:], y[160:]) > 0.8
    again = type(model)(expert, **options).fit(X[:160], y[:160])
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_optuna_tunes_by_name():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    chain = make_pipeline(StandardScaler(), regressor(gate=SoftmaxGate(alpha=1e-4)))

    def objective(trial):
        chain.set_params(
            moeregressor__n_experts=trial.suggest_int("n_experts", 1, 3),
            moeregressor__expert__alpha=trial.suggest_float("a", 1e-3, 1e4, log=True),
        )
        return cross_val_score(chain, X, Y, cv=2, error_score="raise").mean()

    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=8)
    assert study.best_params["n_experts"] > 1
    assert study.best_value > 0.9


# -------------------------------------------------------- callbacks, of 1.9 on
def test_score_monitor_records_every_pass():
    callback = pytest.importorskip("sklearn.callback")
    monitor = callback.ScoringMonitor(scoring="r2")
    model = regressor().set_callbacks(monitor).fit(X, Y)
    scores = monitor.get_logs().data_as_pandas["r2"]
    assert len(scores) == model.n_iter_
    # EM's answer is the pass of the best bound, which passes on predict's rows follow.
    best = scores.iloc[int(np.argmax(model.lower_bounds_))]
    assert best == pytest.approx(model.score(X, Y), abs=1e-3)


class StopWhenFlat:
    """Stop a start once a pass gains less than ``least`` in the score of new rows."""

    def __init__(self, X, y, least=1e-3):
        self.X, self.y, self.least = X, y, least

    def setup(self, estimator, context):
        self.scores = []

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name != "pass":
            return False
        self.scores.append(fitted_estimator.score(self.X, self.y))
        before = self.scores[-2] if len(self.scores) > 1 else -np.inf
        return self.scores[-1] - before < self.least


def test_early_stop_on_new_rows():
    pytest.importorskip("sklearn.callback")
    stop = StopWhenFlat(X[160:], Y[160:])
    model = regressor(max_iter=100, tol=0.0).set_callbacks(stop)
    model.fit(X[:160], Y[:160])
    assert model.n_iter_ == len(stop.scores) < 100
    gains = np.diff(stop.scores)
    assert gains[-1] < 1e-3
    assert (gains[:-1] >= 1e-3).all()
    assert model.score(X[160:], Y[160:]) > 0.9
