"""Displays and reports: numbers against hand counts, and what stands on the axes."""

import copy

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    BaggingRegressor,
    GradientBoostingRegressor,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.inspection import partial_dependence
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor, inspection
from skmoe.experts import AveragedRegressor
from skmoe.gates import (
    ConstantGate,
    EstimatorGate,
    GaussianGate,
    GroupGate,
    HierarchicalGate,
    KNeighborsGate,
    ProductGate,
    SoftmaxGate,
    TreeGate,
)
from skmoe.inspection import (
    ConvergenceDisplay,
    ExpertSpecializationDisplay,
    ExpertUtilizationDisplay,
    GateDisplay,
    PredictiveDistributionDisplay,
    compute_report,
    explain_row,
    routing_report,
)
from skmoe.inspection._cost import cost
from skmoe.inspection._reasons import reasons

pytestmark = pytest.mark.usefixtures("quick_choices")

plt = pytest.importorskip("matplotlib.pyplot")
plt.switch_backend("agg")

QUICK = {"n_init": 1, "cross_fit": None, "random_state": 0}
random = np.random.default_rng(0)
X = random.uniform(-1, 1, (300, 3))
SLOPES = np.array([[2, 0, 0], [-2, 0, 0], [0, 2, 0], [0, -2, 0]])
QUARTER = 2 * (X[:, 1] > 0) + (X[:, 0] > 0)
Y = np.sum(SLOPES[QUARTER] * X, axis=1) + random.normal(0, 0.1, 300)
COLUMNS = ["width", "height", "noise"]
FRAME = pd.DataFrame(X, columns=COLUMNS)
IRIS, SPECIES = load_iris(return_X_y=True, as_frame=True)
SPECIES = load_iris().target_names[SPECIES]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def regressor():
    return MoERegressor(n_experts=4, **QUICK).fit(FRAME, Y)


@pytest.fixture(scope="module")
def hard():
    """A mixture that asks one expert a row."""
    return MoERegressor(n_experts=3, top_k=1, **QUICK).fit(X, Y)


@pytest.fixture(scope="module")
def classifier():
    return MoEClassifier(n_experts=3, **QUICK).fit(IRIS, SPECIES)


@pytest.fixture(scope="module")
def in_plane():
    return MoERegressor(n_experts=3, **QUICK).fit(X[:, :2], Y)


@pytest.fixture(scope="module")
def piped():
    mixture = MoERegressor(n_experts=3, **QUICK)
    return make_pipeline(StandardScaler(), mixture).fit(FRAME, Y)


@pytest.fixture(scope="module")
def two_gates():
    both = np.column_stack([Y, np.where(X[:, 2] > 0, 1, -1) * X[:, 0]])
    mixture = MoERegressor(n_experts=3, gate_per_output=True, **QUICK)
    return mixture.fit(X, both), both


# ------------------------------------------------------------------- utilization
def test_load_of_single_experts_is_a_count(hard):
    display = ExpertUtilizationDisplay.from_estimator(hard, X)
    counts = np.bincount(hard.apply(X)[:, 0], minlength=3)
    np.testing.assert_allclose(display.load, counts / 300)
    np.testing.assert_allclose(display.gate_mass, hard.gate_proba(X).mean(axis=0))
    heights = [bar.get_height() for bar in display.bars_[0]]
    np.testing.assert_allclose(heights, counts / 300)
    np.testing.assert_allclose(display.mass_.get_ydata(), display.gate_mass)
    assert display.ax_.get_xlabel() == "expert"
    assert display.figure_ is display.ax_.figure


def test_load_by_class(classifier):
    display = ExpertUtilizationDisplay.from_estimator(classifier, IRIS, SPECIES)
    weights = classifier.route(IRIS).toarray()
    expected = [weights[c == SPECIES].sum(axis=0) / 150 for c in classifier.classes_]
    np.testing.assert_allclose(display.load_by_group, expected)
    np.testing.assert_allclose(display.load_by_group.sum(axis=0), display.load)
    assert display.group_names == [
        "class setosa",
        "class versicolor",
        "class virginica",
    ]
    top = [bar.get_y() + bar.get_height() for bar in display.bars_[-1]]
    np.testing.assert_allclose(top, display.load)


def test_load_by_bins_of_the_target(regressor):
    display = ExpertUtilizationDisplay.from_estimator(regressor, FRAME, Y, bins=3)
    # Thirds of the rows.
    np.testing.assert_allclose(display.load_by_group.sum(axis=1), 1 / 3)
    np.testing.assert_allclose(display.load_by_group.sum(axis=0), display.load)
    low, high = np.quantile(Y, [1 / 3, 2 / 3])
    assert display.group_names == [
        f"y < {low:.3g}",
        f"{low:.3g} ≤ y < {high:.3g}",
        f"y ≥ {high:.3g}",
    ]


def test_bins_of_equal_bounds_are_one(regressor):
    few = np.repeat([0.0, 1.0], [280, 20])
    display = ExpertUtilizationDisplay.from_estimator(regressor, FRAME, few)
    assert display.group_names == ["all y"]
    np.testing.assert_allclose(display.load_by_group[0], display.load)


# -------------------------------------------------------------------------- gate
def test_regions_are_the_gates(in_plane):
    display = GateDisplay.from_estimator(in_plane, X[:, :2], grid_resolution=20)
    assert display.gate_proba.shape == (20, 20, 3)
    x, y = display.grid
    assert x[0] == X[:, 0].min()
    assert x[-1] == X[:, 0].max()
    at = in_plane.gate_proba([[x[3], y[11]]])[0]
    np.testing.assert_allclose(display.gate_proba[11, 3], at)
    assert display.ax_.get_xlabel() == "x0"
    assert display.ax_.get_ylabel() == "x1"
    shown = display.surface_.get_array()[11, 3]
    best = at.argmax()
    ink = plt.get_cmap("tab10")(best)[:3]
    np.testing.assert_allclose(shown, 1 - at[best] * (1 - np.array(ink)))
    np.testing.assert_allclose(display.ax_.collections[-1].get_offsets(), X[:, :2])
    n_drawn = len(display.ax_.collections)
    again = display.plot(rows=False)
    assert len(again.ax_.collections) == n_drawn - 1


@pytest.mark.parametrize("feature", [1, "height"])
def test_gate_along_a_feature_is_a_partial_dependence(regressor, feature):
    ax = plt.figure().add_subplot()
    display = GateDisplay.from_estimator(
        regressor, FRAME, feature=feature, grid_resolution=5, ax=ax
    )
    assert display.ax_ is ax

    class Gate(MoERegressor):
        def predict(self, X):
            return self.gate_proba(X)

    gate = Gate()
    vars(gate).update(vars(regressor))
    expected = partial_dependence(
        gate, FRAME, [1], method="brute", custom_values={1: display.grid[0]}
    )
    np.testing.assert_allclose(display.gate_proba.T, expected["average"])
    assert ax.get_xlabel() == "height"
    assert [line.get_label() for line in display.lines_] == ["0", "1", "2", "3"]


def test_the_only_feature_needs_no_name():
    model = MoERegressor(n_experts=2, **QUICK).fit(X[:, :1], Y)
    display = GateDisplay.from_estimator(model, X[:, :1], grid_resolution=7)
    expected = model.gate_proba(display.grid[0][:, None])
    np.testing.assert_allclose(display.gate_proba, expected)


# ------------------------------------------------------------------- convergence
def test_history_tells_of_every_start():
    model = MoERegressor(n_experts=3, cross_fit=None, n_init=3, random_state=0)
    model.fit(X, Y)
    assert [told["start"] for told in model.history_] == ["tree", "kmeans", "random"]
    best = max(model.history_, key=lambda told: told["bounds"].max())
    np.testing.assert_array_equal(best["bounds"], model.lower_bounds_)
    for told in model.history_:
        assert told["n_experts"] == 3
        n_pass = len(told["bounds"])
        assert (
            told["experts_accepted"].shape == told["gate_accepted"].shape == (n_pass,)
        )
        assert (np.diff(told["bounds"]) >= -1e-9).all()  # ridge experts climb
        assert (told["experts_accepted"] <= 3).all()
    display = ConvergenceDisplay.from_estimator(model)
    assert len(display.lines_) == 3
    assert model.history_[display.kept] is best
    for line, told in zip(display.lines_, model.history_, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), told["bounds"])
        assert line.get_xdata()[0] == 1


def test_history_of_rows_held_out_ends_with_the_chosen_run():
    model = MoERegressor(n_experts=2, n_init=2, random_state=0).fit(X, Y)
    assert model.history_[-1]["start"] == "chosen"
    np.testing.assert_array_equal(model.history_[-1]["bounds"], model.lower_bounds_)
    display = ConvergenceDisplay.from_estimator(model)
    assert display.kept == len(model.history_) - 1
    assert display.lines_[-1].get_label() == "chosen (kept)"
    model.set_params(warm_start=True).fit(X, Y)
    assert [told["start"] for told in model.history_] == ["warm"]


def test_rejected_blocks_are_marked():
    told = {
        "start": "tree",
        "n_experts": 2,
        "bounds": np.array([-3.0, -2.0, -1.5, -1.5]),
        "experts_accepted": np.array([2, 1, 2, 2]),
        "gate_accepted": np.array([True, True, True, False]),
    }
    display = ConvergenceDisplay([told]).plot()
    np.testing.assert_array_equal(display.rejected_[0], [2, 4])
    crosses = display.ax_.lines[1]
    np.testing.assert_array_equal(crosses.get_xydata(), [[2, -2.0], [4, -1.5]])
    labels = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert labels == ["tree", "a block was rejected"]


# ---------------------------------------------------------------- specialization
def test_means_of_features(classifier):
    display = ExpertSpecializationDisplay.from_estimator(classifier, IRIS)
    weights, values = classifier.route(IRIS).toarray(), IRIS.to_numpy()
    for k in range(3):
        mean = np.average(values, axis=0, weights=weights[:, k])
        expected = (mean - values.mean(axis=0)) / values.std(axis=0)
        np.testing.assert_allclose(display.values[k], expected)
    shown = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert shown == list(IRIS.columns) == display.column_names
    np.testing.assert_allclose(display.image_.get_array(), display.values)
    few = ExpertSpecializationDisplay.from_estimator(classifier, IRIS, max_features=1)
    widest = np.ptp(display.values, axis=0).argmax()
    assert few.column_names == [IRIS.columns[widest]]


def test_means_of_sparse_rows_and_of_missing_values(hard):
    dense = ExpertSpecializationDisplay.from_estimator(hard, X)
    rows = ExpertSpecializationDisplay.from_estimator(hard, sparse.csr_array(X))
    np.testing.assert_allclose(rows.values, dense.values)
    holes = X.copy()
    holes[::7, 2] = np.nan
    expert, gate = (
        make_pipeline(SimpleImputer(), last) for last in (Ridge(), SoftmaxGate())
    )
    model = MoERegressor(expert, n_experts=2, gate=gate, top_k=1, **QUICK)
    display = ExpertSpecializationDisplay.from_estimator(model.fit(holes, Y), holes)
    own = holes[model.apply(holes)[:, 0] == 0, 2]
    expected = (np.nanmean(own) - np.nanmean(holes[:, 2])) / np.nanstd(holes[:, 2])
    np.testing.assert_allclose(display.values[0, 2], expected)


def test_shares_of_classes(classifier):
    display = ExpertSpecializationDisplay.from_estimator(
        classifier, IRIS, SPECIES, kind="classes"
    )
    weights = classifier.route(IRIS).toarray()
    expected = weights[SPECIES == "virginica"].sum(axis=0) / weights.sum(axis=0)
    np.testing.assert_allclose(display.values[:, 2], expected)
    np.testing.assert_allclose(display.values.sum(axis=1), 1.0)


def test_scores_of_each_on_the_rows_of_each(hard):
    display = ExpertSpecializationDisplay.from_estimator(hard, X, Y, kind="score")
    best = hard.apply(X)[:, 0]
    for j in range(3):
        for k in range(3):
            said = hard.experts_[k].predict(X[best == j])
            expected = r2_score(Y[best == j], said)
            np.testing.assert_allclose(display.values[j, k], expected)
    assert display.colorbar_.ax.get_ylabel() == "R²"


def test_columns_that_are_no_numbers_are_left_out():
    frame = FRAME.assign(side=np.where(X[:, 0] > 0, "left", "right"))
    gate = make_pipeline(
        make_column_transformer((StandardScaler(), COLUMNS)), SoftmaxGate()
    )
    expert = make_pipeline(make_column_transformer(("passthrough", COLUMNS)), Ridge())
    model = MoERegressor(expert, n_experts=2, gate=gate, **QUICK).fit(frame, Y)
    display = ExpertSpecializationDisplay.from_estimator(model, frame)
    assert display.column_names == COLUMNS
    lines = GateDisplay.from_estimator(model, frame, feature="height").lines_
    assert len(lines) == 2
    assert routing_report(model, frame, Y)["learner"].tolist() == ["Ridge", "Ridge"]
    explanation = explain_row(model, frame.iloc[[4]])
    assert any("height" in name for name in explanation.terms[0])


# -------------------------------------------------------------------- predictive
def test_bands_are_the_mixtures_quantiles():
    model = MoERegressor(n_experts=2, top_k=None, **QUICK).fit(X[:, :1], Y)
    display = PredictiveDistributionDisplay.from_estimator(
        model, X[:, :1], Y, coverages=[0.9, 0.5], grid_resolution=21
    )
    np.testing.assert_allclose(display.levels, [0.05, 0.25, 0.5, 0.75, 0.95])
    rows = np.linspace(X[:, 0].min(), X[:, 0].max(), 21)[:, None]
    np.testing.assert_allclose(display.grid, rows[:, 0])
    expected = model.predict_quantiles(rows, display.levels)
    np.testing.assert_allclose(display.quantiles, expected)
    np.testing.assert_allclose(display.line_.get_ydata(), model.predict(rows))
    assert [band.get_label() for band in display.bands_] == ["90% of y", "50% of y"]
    edges = display.bands_[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(edges.min(), expected[:, 0].min())
    dots = display.ax_.collections[-1].get_offsets()
    np.testing.assert_allclose(dots, np.column_stack([X[:, 0], Y]))


def test_density_is_that_of_score_samples(regressor):
    display = PredictiveDistributionDisplay.from_estimator(
        regressor, FRAME, feature="width", kind="density", grid_resolution=150
    )
    middle = FRAME.iloc[[0]].assign(**FRAME.median())
    rows = middle.assign(width=display.grid[7])
    expected = regressor.score_samples(rows, [display.y_grid[40]])
    np.testing.assert_allclose(np.log(display.density[7, 40]), expected)
    area = np.trapezoid(display.density, display.y_grid, axis=1)
    np.testing.assert_allclose(area, 1.0, atol=0.02)
    assert display.quantiles is None
    assert display.ax_.get_xlabel() == "width"


def test_density_and_bands_of_a_pipeline(piped):
    display = PredictiveDistributionDisplay.from_estimator(
        piped, FRAME, feature="height", kind="both", grid_resolution=10
    )
    scaler, mixture = piped[0], piped[-1]
    rows = FRAME.iloc[[0] * 10].assign(**FRAME.median()).assign(height=display.grid)
    expected = mixture.predict_quantiles(scaler.transform(rows), display.levels)
    np.testing.assert_allclose(display.quantiles, expected)
    assert display.density.shape == (10, 10)


def test_counts_have_probabilities_at_whole_numbers():
    counts = np.random.default_rng(0).poisson(np.exp(1 + X[:, 0]))
    model = MoERegressor(n_experts=2, likelihood="poisson", **QUICK)
    display = PredictiveDistributionDisplay.from_estimator(
        model.fit(X[:, :1], counts), X[:, :1], counts, kind="both", grid_resolution=60
    )
    np.testing.assert_array_equal(np.diff(display.y_grid), 1)
    np.testing.assert_allclose(display.density.sum(axis=1), 1.0, atol=5e-3)
    explanation = explain_row(model, X[0, :1])
    mixed = explanation.weights @ explanation.answers
    np.testing.assert_allclose(mixed, model.predict(X[[0], :1])[0])
    assert "scale" not in routing_report(model, X[:, :1], counts)


# ------------------------------------------------------------------------ report
def test_report_by_hand(hard):
    report = routing_report(hard, X, Y)
    best, proba = hard.apply(X)[:, 0], hard.gate_proba(X)
    scores = np.empty((3, 3))
    for k in range(3):
        own = best == k
        line = report.loc[k]
        assert line["learner"] == "Ridge"
        assert line["rows"] == own.sum()
        np.testing.assert_allclose(line["load"], own.mean())
        np.testing.assert_allclose(line["gate_mass"], proba[:, k].mean())
        np.testing.assert_allclose(line["gate_where_serving"], proba[own, k].mean())
        np.testing.assert_allclose(line["scale"], hard.scale_[k])
        np.testing.assert_allclose(line["target_mean"], Y[own].mean())
        scores[k] = [r2_score(Y[own], e.predict(X[own])) for e in hard.experts_]
        np.testing.assert_allclose(line["score"], scores[k, k])
        scores[k, k] = -np.inf
        assert line["best_other"] == scores[k].argmax()
        np.testing.assert_allclose(line["best_other_score"], scores[k].max())
    assert report.index.name == "expert"


def test_report_without_targets_and_of_a_classifier(classifier):
    report = routing_report(classifier, IRIS)
    assert list(report) == [
        "learner",
        "rows",
        "load",
        "gate_mass",
        "gate_where_serving",
    ]
    report = routing_report(classifier, IRIS, SPECIES)
    assert report["classes"].str.contains("%").all()
    weights = classifier.route(IRIS).toarray()[:, 0]
    said = classifier.experts_[0].predict(IRIS.to_numpy())
    expected = np.average(said == SPECIES, weights=weights)
    np.testing.assert_allclose(report.loc[0, "score"], expected)


def test_experts_that_serve_nobody_have_no_score(hard):
    report = routing_report(hard, X[:1], Y[:1])
    assert (report["rows"] > 0).sum() == 1
    assert report["score"].isna().all()
    assert report["best_other"].eq(-1).all()
    assert report["target_mean"].notna().sum() == 1


def test_shared_expert_is_part_of_what_experts_say():
    model = MoERegressor(
        n_experts=2, shared_expert=LinearRegression(), top_k=1, **QUICK
    ).fit(X, Y)
    explanation = explain_row(model, X[3])
    np.testing.assert_allclose(explanation.answers[0], model.predict(X[[3]])[0])
    report = compute_report(model, X)
    assert report.expert_multiply_adds == 3 + 3  # the shared one and one of two
    best = model.apply(X)[:, 0]
    score = routing_report(model, X, Y).loc[0, "score"]
    expected = r2_score(Y[best == 0], model.predict(X[best == 0]))
    np.testing.assert_allclose(score, expected)


def test_gates_of_outputs_are_told_apart(two_gates):
    model, both = two_gates
    for j in range(2):
        report = routing_report(model, X, both, output=j)
        np.testing.assert_allclose(report["load"], model.route(X)[j].mean(axis=0))
        np.testing.assert_allclose(report["scale"], model.scale_[:, j])
        explanation = explain_row(model, X[5], output=j)
        mixed = explanation.weights @ explanation.answers
        np.testing.assert_allclose(mixed, model.predict(X[[5]])[0, j])
    # Two gates, and two experts asked for each of two outputs.
    report = compute_report(model, X)
    assert report.gate_multiply_adds == 2 * 3 * 3
    assert report.expert_multiply_adds == 2 * 2 * 6
    assert report.experts_per_row == 4
    with pytest.raises(ValueError, match="output must be the position of an output"):
        routing_report(model, X, output=2)


def test_outputs_that_share_a_gate():
    both = np.column_stack([Y, -3 * Y + X[:, 2]])
    model = MoERegressor(n_experts=2, top_k=1, **QUICK).fit(X, both)
    report = routing_report(model, X, both, output=1)
    own = model.apply(X)[:, 0] == 0
    np.testing.assert_allclose(report.loc[0, "target_mean"], both[own, 1].mean())
    np.testing.assert_allclose(report.loc[0, "scale"], model.scale_[0, 1])
    said = model.experts_[0].predict(X[own])[:, 1]
    np.testing.assert_allclose(report.loc[0, "score"], r2_score(both[own, 1], said))
    explanation = explain_row(model, X[0], output=1)
    np.testing.assert_allclose(explanation.prediction, model.predict(X[:1])[0, 1])


# ----------------------------------------------------------------------- compute
def test_ridge_mixture_by_hand(regressor):
    report = compute_report(regressor, FRAME, watts=30)
    # Three features, four experts of which a row asks two.
    assert report.gate_multiply_adds == 4 * 3
    assert report.expert_multiply_adds == 2 * 3
    assert report.multiply_adds == 18
    assert report.dense_multiply_adds == 4 * 3 + 4 * 3
    assert report.n_parameters == 4 * (3 + 1) + 4 * (3 + 1)
    assert report.n_parameters_active == 4 * 4 + 2 * 4
    assert report.experts_per_row == 2
    assert report.seconds_per_row > 0
    np.testing.assert_allclose(report.joules_per_row, 30 * report.seconds_per_row)
    assert report.notes == ()
    assert "2 of 4 asked" in repr(report)
    assert "dense         24" in repr(report)
    assert compute_report(regressor, FRAME).joules_per_row is None


def test_fewer_experts_asked_cost_less(regressor):
    sure = MoERegressor(n_experts=4, top_p=0.7, **QUICK).fit(FRAME, Y)
    report = compute_report(sure, FRAME)
    asked = sure.route(FRAME).nnz / 300
    assert 1 <= asked < 2
    np.testing.assert_allclose(report.experts_per_row, asked)
    np.testing.assert_allclose(report.expert_multiply_adds, 3 * asked)


def test_what_learners_cost():
    stump = DecisionTreeRegressor(max_depth=1).fit(X, Y)
    assert cost(stump, X).multiply_adds == 1  # one comparison
    assert cost(stump, X).parameters == 2 + 2  # feature, threshold; two leaves
    lopsided = DecisionTreeRegressor(max_leaf_nodes=3).fit([[0], [1], [2]], [0, 5, 9])
    paths = [1, 2, 2] if lopsided.tree_.threshold[0] < 1 else [2, 2, 1]
    at = np.array([[0.0], [1.0], [2.0]])
    np.testing.assert_allclose(cost(lopsided, at).multiply_adds, np.mean(paths))

    labels = np.digitize(X[:, 0], [-0.3, 0.3])
    linear = LogisticRegression().fit(X, labels)
    assert cost(linear, X).multiply_adds == 9
    assert cost(linear, X).parameters == 12
    scaled = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, labels)
    assert cost(scaled, X) == cost(linear, X)
    leaves = DecisionTreeClassifier(max_depth=1).fit(X, labels)
    assert cost(leaves, X).parameters == 2 + 2 * 3

    net = MLPRegressor((5,), max_iter=1, solver="lbfgs")
    net.n_outputs_ = 1
    net.coefs_ = [np.zeros((3, 5)), np.zeros((5, 1))]
    net.intercepts_ = [np.zeros(5), np.zeros(1)]
    assert cost(net, X).multiply_adds == 20
    assert cost(net, X).parameters == 26

    mean = DummyRegressor().fit(X, Y)
    assert cost(mean, X).multiply_adds == 0
    assert cost(mean, X).parameters == 1


@pytest.mark.parametrize(
    ("forest", "n_trees"),
    [
        (RandomForestClassifier(3, max_depth=1, random_state=0), 3),
        (GradientBoostingRegressor(n_estimators=4, max_depth=1), 4),
        (HistGradientBoostingRegressor(max_iter=5, max_leaf_nodes=2), 5),
        (BaggingRegressor(DecisionTreeRegressor(max_depth=1), 6, max_features=2), 6),
    ],
)
def test_what_forests_cost(forest, n_trees):
    y = Y > 0 if isinstance(forest, RandomForestClassifier) else Y
    found = cost(forest.fit(X, y), X)
    width = 2 if isinstance(forest, RandomForestClassifier) else 1
    np.testing.assert_allclose(found.multiply_adds, n_trees)
    assert found.parameters == n_trees * (2 + 2 * width)


def test_unknown_learners_are_noted():
    model = MoERegressor(
        [Ridge(), KNeighborsRegressor()], n_experts=2, top_k=1, **QUICK
    ).fit(X, Y)
    report = compute_report(model, X)
    assert np.isnan(report.expert_multiply_adds)
    assert np.isnan(report.n_parameters)
    assert report.gate_multiply_adds == 6
    assert report.notes == ("KNeighborsRegressor cannot be counted",)
    assert "unknown" in repr(report)


def test_a_learner_that_experts_are_drawn_to_is_asked_once(hard):
    stump = DecisionTreeRegressor(max_depth=1)
    base, *own = (clone(stump).fit(X, Y) for _ in range(4))
    model = copy.copy(hard)
    model.experts_ = [AveragedRegressor([base, each], [0.5, 0.5]) for each in own]
    report = compute_report(model, X)
    assert report.expert_multiply_adds == 2
    assert report.dense_multiply_adds == report.gate_multiply_adds + 4
    assert report.n_parameters == 3 * 4 + 4 * 4
    assert report.n_parameters_active == 3 * 4 + 2 * 4
    assert routing_report(model, X)["learner"].eq("DecisionTreeRegressor").all()


def soft_targets(n_experts):
    resp = np.exp(3 * X @ random.normal(size=(3, n_experts)))
    return resp / resp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("gate", "multiply_adds"),
    [
        (SoftmaxGate(), 6 * 3),
        (ProductGate(shape=(3, 2)), 5 * 3),
        (HierarchicalGate(branching=(2, 3)), 8 * 3),
        (GaussianGate(), 2 * 6 * 3),
        (GaussianGate("full"), 6 * 3 * 4),
        (GaussianGate("tied"), 6 * 3),
        (TreeGate(max_depth=1, min_samples_leaf=5), 1),
        (TreeGate(max_depth=1, min_samples_leaf=5, n_estimators=2), 2),
        (EstimatorGate(LogisticRegression()), 6 * 3),
        (ConstantGate(), 0),
        (GroupGate(), 0),
        (KNeighborsGate(), np.nan),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_gates_cost(gate, multiply_adds):
    Z = np.rint(X) if isinstance(gate, GroupGate) else X
    found = cost(gate.fit(Z, soft_targets(6)), Z)
    np.testing.assert_equal(found.multiply_adds, float(multiply_adds))


# ----------------------------------------------------------------------- explain
@pytest.mark.parametrize(
    "gate",
    [
        SoftmaxGate(),
        ProductGate(shape=(3, 2)),
        GaussianGate(),
        GaussianGate("full"),
        GaussianGate("tied"),
    ],
    ids=str,
)
@pytest.mark.parametrize("constant", [False, True])
def test_reasons_add_up(gate, constant):
    Z = np.column_stack([X, np.full(300, 7.0)]) if constant else X
    gate.fit(Z, soft_targets(6))
    for x in Z[:4]:
        why = reasons(gate, x, COLUMNS)
        logits = why.parts.sum(axis=1) + why.offset
        expected = gate.log_proba(x[None])[0]
        np.testing.assert_allclose(
            logits - logits.mean(), expected - expected.mean(), atol=1e-8
        )


def test_explanation_of_a_row(regressor):
    row = FRAME.iloc[[17]]
    explanation = explain_row(regressor, row)
    proba = regressor.gate_proba(row)[0]
    experts = regressor.apply(row)[0]
    np.testing.assert_array_equal(explanation.experts, experts)
    np.testing.assert_allclose(explanation.gate_proba, proba[experts])
    np.testing.assert_allclose(
        explanation.weights, proba[experts] / proba[experts].sum()
    )
    said = [regressor.experts_[k].predict(row.to_numpy())[0] for k in experts]
    np.testing.assert_allclose(explanation.answers, said)
    np.testing.assert_allclose(explanation.prediction, regressor.predict(row)[0])
    mixed = explanation.weights @ explanation.answers
    np.testing.assert_allclose(mixed, explanation.prediction)
    coef = regressor.gate_.coef_ - regressor.gate_.coef_.mean(axis=0)
    for k, terms in zip(experts, explanation.terms, strict=True):
        log_odds = np.log(proba[k]) - np.log(proba).mean()
        np.testing.assert_allclose(sum(terms.values()), log_odds)
        assert set(terms) == {*COLUMNS, "(intercept)"}
        height = coef[k, 1] * row["height"].iloc[0]
        np.testing.assert_allclose(terms["height"], height)
        size = np.abs(list(terms.values()))[:-1]
        assert (np.diff(size) <= 0).all()
    text = repr(explanation)
    assert f"expert {experts[0]}, Ridge, weight {explanation.weights[0]:.3f}" in text
    chosen = f"the gate gives it {proba[experts[0]]:.3f}, log odds of the choice "
    assert chosen in text
    assert "intercept" in text
    assert max(map(len, text.splitlines())) <= 88


def test_tables_of_many_columns_stay_readable():
    names = [f"a_column_of_a_long_name_{j}" for j in range(20)]
    display = ExpertSpecializationDisplay(
        np.ones((8, 20)), column_names=names, kind="features"
    )
    wide = display.plot().ax_
    assert len(wide.texts) == 160
    assert display.figure_.get_figwidth() > 10
    labels = [label.get_text() for label in wide.get_xticklabels()]
    assert labels[-1] == "a_column_of_…ong_name_19"
    assert len(set(labels)) == 20
    _, (left, _) = plt.subplots(1, 2)
    narrow = display.plot(ax=left).ax_
    assert not narrow.texts  # numbers would lie on one another
    plt.close("all")


def test_background_moves_to_the_intercept(regressor):
    row = FRAME.iloc[[17]]
    alone, beside = (
        explain_row(regressor, row, background=rows) for rows in (None, FRAME + 5)
    )
    for before, after in zip(alone.terms, beside.terms, strict=True):
        np.testing.assert_allclose(sum(before.values()), sum(after.values()))
    k = alone.experts[0]
    coef = regressor.gate_.coef_[k] - regressor.gate_.coef_.mean(axis=0)
    apart = row["width"].iloc[0] - 5 - FRAME["width"].mean()
    np.testing.assert_allclose(beside.terms[0]["width"], coef[0] * apart)


def test_explanation_of_a_classification(classifier):
    explanation = explain_row(classifier, IRIS.iloc[70])
    row = IRIS.iloc[[70]]
    mixed = explanation.weights @ explanation.proba
    np.testing.assert_allclose(mixed, classifier.predict_proba(row)[0], atol=1e-3)
    assert explanation.prediction == classifier.predict(row)[0]
    assert explanation.prediction in repr(explanation)


def test_forms_of_a_row(hard, piped):
    forms = X[9], X[9].tolist(), X[[9]], sparse.csr_array(X[[9]])
    found = [explain_row(hard, form) for form in forms]
    assert len({repr(each) for each in found}) == 1
    explanation = explain_row(piped, FRAME.iloc[[9]])
    assert set(explanation.terms[0]) == {*COLUMNS, "(intercept)"}
    scaled = piped[0].transform(FRAME.iloc[[9]])
    proba = piped[-1].gate_proba(scaled)[0]
    log_odds = np.log(proba[explanation.experts[0]]) - np.log(proba).mean()
    np.testing.assert_allclose(sum(explanation.terms[0].values()), log_odds)


def test_rules_of_gates_that_have_some():
    model = MoERegressor(n_experts=2, gate=TreeGate(max_depth=2), top_k=1, **QUICK).fit(
        FRAME, Y
    )
    explanation = explain_row(model, FRAME.iloc[[3]])
    assert explanation.terms is None
    assert 1 <= len(explanation.rules) <= 2
    for rule in explanation.rules:
        name, sign, threshold = rule.split()
        value = FRAME[name].iloc[3]
        assert (value <= float(threshold)) == (sign == "≤")
    assert explanation.rules[0] in repr(explanation)

    ids = np.rint(3 * X[:, :1])
    group = GroupGate().fit(ids, soft_targets(2))
    assert reasons(group, np.array([2.0]), ["shop"]).rules == ("shop = 2",)
    new = reasons(group, np.array([9.0]), ["shop"]).rules
    assert new == ("shop = 9 was not there in fit",)
    assert reasons(ConstantGate(), X[0], COLUMNS).rules == ("the gate ignores x",)
    nothing = reasons(KNeighborsGate(), X[0], COLUMNS)
    assert nothing.parts is None
    assert nothing.rules == ()


# ------------------------------------------------------------------------ errors
ASKED = {
    "utilization": lambda model: ExpertUtilizationDisplay.from_estimator(model, X),
    "gate": lambda model: GateDisplay.from_estimator(model, X, feature=0),
    "convergence": ConvergenceDisplay.from_estimator,
    "specialization": lambda model: ExpertSpecializationDisplay.from_estimator(
        model, X
    ),
    "predictive": lambda model: PredictiveDistributionDisplay.from_estimator(
        model, X, feature=0
    ),
    "routing_report": lambda model: routing_report(model, X),
    "compute_report": lambda model: compute_report(model, X),
    "explain_row": lambda model: explain_row(model, X[0]),
}


@pytest.mark.parametrize("name", ASKED)
def test_models_that_will_not_do(name):
    with pytest.raises(NotFittedError):
        ASKED[name](MoERegressor())
    with pytest.raises(TypeError, match="must be a fitted MoEClassifier or MoERegr"):
        ASKED[name](Ridge().fit(X, Y))
    with pytest.raises(TypeError, match="or fitted search that ends in one"):
        ASKED[name](GridSearchCV(MoERegressor(), {"top_k": [1]}))


def test_wrong_arguments(regressor, classifier, two_gates):
    for feature in (3, -1, "depth", 1.5):
        with pytest.raises(ValueError, match="feature must be a name or a position"):
            GateDisplay.from_estimator(regressor, FRAME, feature=feature)
    with pytest.raises(ValueError, match="feature must name one of the 3 features"):
        GateDisplay.from_estimator(regressor, FRAME)
    with pytest.raises(ValueError, match="feature must name one of the 3 features"):
        PredictiveDistributionDisplay.from_estimator(regressor, FRAME)
    with pytest.raises(TypeError, match="got a sparse matrix"):
        GateDisplay.from_estimator(regressor, sparse.csr_array(X), feature=0)
    with pytest.raises(ValueError, match="grid_resolution must be at least 2"):
        GateDisplay.from_estimator(regressor, FRAME, feature=0, grid_resolution=1)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        ExpertUtilizationDisplay.from_estimator(regressor, FRAME, Y, bins=0)
    with pytest.raises(ValueError, match="kind must be one of"):
        ExpertSpecializationDisplay.from_estimator(regressor, FRAME, kind="rows")
    with pytest.raises(ValueError, match="kind='score' needs y"):
        ExpertSpecializationDisplay.from_estimator(regressor, FRAME, kind="score")
    with pytest.raises(ValueError, match="kind='classes' needs a MoEClassifier"):
        ExpertSpecializationDisplay.from_estimator(regressor, FRAME, Y, kind="classes")
    with pytest.raises(TypeError, match="needs a MoERegressor"):
        PredictiveDistributionDisplay.from_estimator(classifier, IRIS, feature=0)
    with pytest.raises(ValueError, match="needs a mixture of one output"):
        PredictiveDistributionDisplay.from_estimator(two_gates[0], X, feature=0)
    with pytest.raises(ValueError, match="coverages must lie between 0 and 1"):
        PredictiveDistributionDisplay.from_estimator(
            regressor, FRAME, feature=0, coverages=[1.0]
        )
    with pytest.raises(ValueError, match="classes that fit did not see: \\['rose'\\]"):
        routing_report(classifier, IRIS, np.repeat("rose", 150))
    with pytest.raises(ValueError, match="y has 3 outputs"):
        routing_report(regressor, FRAME, np.zeros((300, 3)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        routing_report(regressor, FRAME, Y[:-1])
    with pytest.raises(ValueError, match="watts must be a positive number"):
        compute_report(regressor, FRAME, watts=-1)
    with pytest.raises(ValueError, match=r"x must be one row; got .* \(2, 3\)"):
        explain_row(regressor, X[:2])
    with pytest.raises(
        ValueError, match=r"X must be a table with 2 axes; got .* \(3,\)"
    ):
        routing_report(regressor, X[0])


def test_public_names():
    assert sorted(inspection.__all__) == sorted(
        [
            "ConvergenceDisplay",
            "ExpertSpecializationDisplay",
            "ExpertUtilizationDisplay",
            "GateDisplay",
            "PredictiveDistributionDisplay",
            "compute_report",
            "explain_row",
            "routing_report",
        ]
    )


def test_missing_libraries_are_named(regressor, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ImportError, match="requires matplotlib"):
        ExpertUtilizationDisplay.from_estimator(regressor, FRAME)
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="requires pandas"):
        routing_report(regressor, X)
