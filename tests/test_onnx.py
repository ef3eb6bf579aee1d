"""ONNX graphs say what the fitted mixtures say."""

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import (
    GaussianProcessClassifier,
    GaussianProcessRegressor,
)
from sklearn.impute import KNNImputer
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor, MoETransformer
from skmoe.gates import (
    GaussianGate,
    HierarchicalGate,
    KNeighborsGate,
    SoftmaxGate,
    TreeGate,
)

pytestmark = pytest.mark.usefixtures("quick_choices")

onnxruntime = pytest.importorskip("onnxruntime")
skl2onnx = pytest.importorskip("skl2onnx")
to_onnx = pytest.importorskip("skmoe.onnx").to_onnx
check_answers = pytest.importorskip("skmoe.onnx._check").check_answers

FAST = {
    "n_experts": 4,
    "n_init": 1,
    "max_iter": 3,
    "tol": 1.0,
    "cross_fit": None,
    "random_state": 0,
}
RTOL = {np.float32: 1e-5, np.float64: 1e-6}  # trees say float32 in any graph
RANDOM = np.random.RandomState(0)
X = RANDOM.uniform(-1, 1, (240, 4))
y = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 2]) + 0.1 * RANDOM.standard_normal(240)
LABELS = np.array(["low", "mid", "top"])[np.digitize(y, [-0.5, 0.5])]


def run(proto, X, threads=1):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    if isinstance(X, dict):
        return session.run(None, X)
    return session.run(None, {session.get_inputs()[0].name: X})


def check(model, X, proto=None):
    """Compare the graph with the model, on many rows and on one."""
    proto = to_onnx(model, X) if proto is None else proto
    tol = RTOL[X.dtype.type]
    for rows in (X, X[:1]):
        found = run(proto, rows)
        assert found[-1].dtype == X.dtype
        if hasattr(model, "predict_proba"):
            np.testing.assert_array_equal(found[0], model.predict(rows))
            np.testing.assert_allclose(found[1], model.predict_proba(rows), atol=tol)
        else:
            want = model.predict(rows)
            found = found[0].reshape(want.shape)
            np.testing.assert_allclose(found, want, rtol=tol, atol=tol)
    return proto


def nodes_of(graph):
    """Return the nodes of a graph and of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from nodes_of(attribute.g)


REGRESSORS = {
    "ridge": Ridge(),
    "tree": DecisionTreeRegressor(max_depth=4),
    "forest": RandomForestRegressor(3, max_depth=4),
    "boosting": HistGradientBoostingRegressor(max_iter=3),
    "mixed": [
        Ridge(),
        Ridge(),
        DecisionTreeRegressor(max_depth=3),
        make_pipeline(StandardScaler(), Ridge()),
    ],
}
CLASSIFIERS = {
    "logistic": LogisticRegression(),
    "floored logistic": LogisticRegression(class_weight="balanced"),
    "tree": DecisionTreeClassifier(max_depth=4),
    "forest": RandomForestClassifier(3, max_depth=4),
    "boosting": HistGradientBoostingClassifier(max_iter=2),
    "mixed": [
        LogisticRegression(),
        GaussianNB(),
        DecisionTreeClassifier(max_depth=3),
        make_pipeline(StandardScaler(), LogisticRegression()),
    ],
}


def test_models_that_existed_already():
    tree = FrozenEstimator(DecisionTreeRegressor(max_depth=3).fit(X, y))
    piped = make_pipeline(StandardScaler(), Ridge()).fit(X, y)
    sides = FrozenEstimator(LogisticRegression().fit(X, X[:, 0] > 0))
    experts = [tree, FrozenEstimator(piped)]
    first = MoERegressor(experts, gate=sides, **{**FAST, "n_experts": 2}).fit(X, y)
    check(first, X)
    piped = make_pipeline(StandardScaler(), FrozenEstimator(Ridge().fit(X, y)))
    gate = MoERegressor(**{**FAST, "n_experts": 2}).fit(X, y).gate_
    options = {**FAST, "n_experts": 2, "gate": FrozenEstimator(gate)}
    check(MoERegressor([piped, Ridge()], **options).fit(X, y), X)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors(name, dtype):
    rows = X.astype(dtype)
    check(MoERegressor(REGRESSORS[name], **FAST).fit(rows, y), rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name, dtype):
    rows = X.astype(dtype)
    check(MoEClassifier(CLASSIFIERS[name], **FAST).fit(rows, LABELS), rows)


GATES = {
    "softmax": "softmax",
    "diag": GaussianGate("diag"),
    "full": GaussianGate("full"),
    "tied": GaussianGate("tied"),
    "hierarchical": HierarchicalGate(tree=[3, [[1, 0], 2]]),
    "product": "product",
    "tree": TreeGate(min_samples_leaf=5),
    "trees": TreeGate(n_estimators=3),
    "constant": "constant",
    "logistic": LogisticRegression(),
    "forest": RandomForestClassifier(3, max_depth=4),
    "pipeline": make_pipeline(StandardScaler(), SoftmaxGate()),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", GATES)
def test_gates(name, dtype):
    rows = np.c_[X, np.ones(len(X))].astype(dtype)  # a constant feature says nothing
    check(MoERegressor(gate=GATES[name], **FAST).fit(rows, y), rows)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tree", "trees"])
def test_tree_gates_of_small_units_far_from_zero(name, dtype):
    rows = (1e-9 * (X + 50.0)).astype(dtype)
    check(MoERegressor(gate=GATES[name], **FAST).fit(rows, y), rows)


@pytest.mark.parametrize(
    "rule",
    [
        {"top_k": None},
        {"top_k": 1},
        {"top_k": 3, "top_p": 0.7},
        {"top_k": None, "top_p": 0.9},
    ],
    ids=str,
)
def test_routing_rules(rule):
    check(MoERegressor(**FAST, **rule).fit(X, y), X)
    learner = DecisionTreeClassifier(max_depth=3)
    check(MoEClassifier(learner, **FAST, **rule).fit(X, LABELS), X)


def test_experts_drawn_to_a_shared_fit():
    options = FAST | {"cross_fit": 2, "n_experts": 2}
    rows, target, labels = X[:100], y[:100], LABELS[:100]
    tree = DecisionTreeRegressor(max_depth=4)
    for model in (
        MoERegressor(tree, final="average", **options),
        MoERegressor(shared_expert=tree, **options),
        MoERegressor(tree, shared_expert=Ridge(), **options),
    ):
        check(model.fit(rows, target), rows)
    learner = DecisionTreeClassifier(max_depth=4)
    model = MoEClassifier(shared_expert=learner, **options).fit(rows, labels)
    assert 0 < model.shrinkage_ < 1
    kinds = [node.op_type for node in nodes_of(check(model, rows).graph)]
    # The shared tree is written once, not once an expert.
    assert kinds.count("TreeEnsembleClassifier") == 1


@pytest.mark.parametrize("learner", [Ridge(), DecisionTreeRegressor(max_depth=4)])
@pytest.mark.parametrize("gate_per_output", [False, True])
def test_several_outputs(learner, gate_per_output):
    targets = np.c_[y, X[:, 3] - y, np.abs(X[:, 1])]
    model = MoERegressor(learner, gate_per_output=gate_per_output, **FAST)
    check(model.fit(X, targets), X)


@pytest.mark.parametrize("learner", [None, GaussianNB()])
def test_classes_that_an_expert_did_not_meet(learner):
    """Each expert met some of four classes, one of them only one."""
    centers = np.array([[-4.0, -4.0], [-4.0, 4.0], [4.0, -4.0], [4.0, 4.0]])
    label = np.repeat([0, 1, 2, 3], 30)
    rows = centers[label] + np.random.RandomState(0).standard_normal((120, 2))
    start = np.zeros((120, 3))
    start[np.arange(120), np.array([0, 1, 2, 2])[label]] = 1.0
    options = FAST | {"n_experts": 3}
    model = MoEClassifier(learner, init=start, gate="gaussian", **options)
    model.fit(rows, label)
    assert min(len(expert.classes_) for expert in model.experts_) == 1
    found = run(check(model, rows), rows)[0]
    assert found.dtype == np.int64


def test_positive_means_are_cut_off_as_predict_does():
    counts = np.random.RandomState(0).poisson(np.exp(2 * X[:, 0]))
    model = MoERegressor(likelihood="poisson", **FAST).fit(X, counts)
    check(model, X)
    tree = DecisionTreeRegressor(criterion="poisson", max_depth=6)
    model = MoERegressor(
        tree, likelihood="poisson", **(FAST | {"cross_fit": 2}), final="average"
    )
    check(model.fit(X, counts), X)
    model = MoERegressor(likelihood="beta", **FAST).fit(X, 1 / (1 + np.exp(5 * y)))
    answers = [expert.predict(X).min() for expert in model.experts_]
    assert min(answers) < 0 < model.predict(X).min()
    check(model, X)


@pytest.mark.parametrize("likelihood", ["student_t", "laplace"])
def test_a_centre_that_is_no_mean_is_refused(likelihood):
    model = MoERegressor(likelihood=likelihood, **FAST).fit(X, y)
    with pytest.raises(TypeError, match=likelihood):
        to_onnx(model, X)
    check(model.set_params(top_k=1), X)


def test_calibrated_probabilities():
    model = MoEClassifier(**FAST).fit(X, LABELS)
    bias = np.linspace(-0.5, 0.5, len(model.classes_))
    model.temperature_, model.class_bias_ = 1.0, 0.0 * bias
    proba = run(to_onnx(model, X), X)[1]
    model.temperature_, model.class_bias_ = 1.7, bias
    cooler = proba ** (1 / 1.7) * np.exp(bias)
    want = cooler / cooler.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(run(to_onnx(model, X), X)[1], want, rtol=1e-9)


# ---------------------------------------------------------------------- sparsity
def test_an_expert_reads_its_own_rows_only():
    """Leaves that no row of the expert reaches may hold NaN."""
    model = MoERegressor(DecisionTreeRegressor(max_depth=6), top_k=1, **FAST).fit(X, y)
    own = model.apply(X)[:, 0]
    want, poisoned = model.predict(X), 0
    for k, expert in enumerate(model.experts_):
        value, leaves = expert.tree_.value, np.arange(expert.tree_.node_count)
        unused = np.setdiff1d(leaves, expert.apply(X[own == k].astype(np.float32)))
        value[unused] = np.nan
        poisoned += np.isnan(expert.predict(X)).sum()
    assert poisoned > 0
    np.testing.assert_allclose(run(to_onnx(model, X), X)[0][:, 0], want, rtol=1e-6)


def test_threads_do_not_lose_sums():
    rows = np.tile(X, (50, 1)).astype(np.float32)
    model = MoERegressor(DecisionTreeRegressor(max_depth=3), **FAST | {"top_k": 3})
    proto = to_onnx(model.fit(X, y), rows)
    want = model.predict(rows)
    for _ in range(3):
        found = run(proto, rows, threads=4)[0][:, 0]
        np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


# ------------------------------------------------------------- boosted trees
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boosted_trees_with_missing_values_and_rows_on_thresholds(dtype):
    rows = (np.round(X * 4) / 4).astype(dtype)
    rows[::7, 1] = np.nan
    target = np.nan_to_num(rows[:, 1], nan=3.0) + rows[:, 0]
    learner = HistGradientBoostingRegressor(max_iter=20, min_samples_leaf=5)
    model = MoERegressor(learner, gate="tree", init="kmeans_x", **FAST)
    proto = check(model.fit(np.nan_to_num(rows), target), rows)
    trees = [expert._predictors[0][0].nodes for expert in model.experts_]
    nodes = np.concatenate(trees)
    at = nodes["num_threshold"][~nodes["is_leaf"].astype(bool)]
    on = np.repeat(at[np.isfinite(at)][:, None], 4, axis=1).astype(dtype)
    assert len(on) > 4
    assert np.all(on[:, 0] == at[np.isfinite(at)])  # half way between rows: exact
    check(model, on, proto)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gates_see_means_and_indicators_of_missing_values(dtype):
    rows = X.astype(dtype)
    rows[::7, 1] = rows[::5, 3] = np.nan
    learner = HistGradientBoostingRegressor(max_iter=3)
    model = MoERegressor(learner, **FAST).fit(rows, y)
    assert model.gate_[-1].n_features_in_ == 6
    check(model, rows)


@pytest.mark.parametrize("loss", ["poisson", "gamma"])
def test_boosted_trees_with_a_log_link(loss):
    target = np.exp(X[:, 0]) + 0.1
    learner = HistGradientBoostingRegressor(loss=loss, max_iter=5)
    check(MoERegressor(learner, **FAST).fit(X, target), X)


def test_thresholds_are_rounded_down():
    from skmoe.onnx._trees import at_most

    thresholds = np.random.RandomState(0).standard_normal(1000)
    found = at_most(thresholds, np.float32)
    assert found.dtype == np.float32
    assert np.all(found.astype(float) <= thresholds)
    above = np.nextafter(found, np.float32(np.inf)).astype(float)
    assert np.all(above > thresholds)


# ------------------------------------------------------------------ pipelines
def test_a_mixture_at_the_end_of_a_pipeline():
    rows = X.astype(np.float32)
    learner = DecisionTreeRegressor(max_depth=3)
    regressor = make_pipeline(StandardScaler(), MoERegressor(learner, **FAST))
    regressor.fit(rows, y)
    check(regressor, rows)
    check(regressor, rows, skl2onnx.to_onnx(regressor, rows[:1]))
    learner = DecisionTreeClassifier(max_depth=3)
    classifier = make_pipeline(StandardScaler(), MoEClassifier(learner, **FAST))
    check(classifier.fit(rows, LABELS), rows)
    labels, proba = run(skl2onnx.to_onnx(classifier, rows[:1]), rows[:5])
    assert labels.tolist() == classifier.predict(rows[:5]).tolist()
    assert set(proba[0]) == {"low", "mid", "top"}  # skl2onnx's own default


@pytest.mark.parametrize("gate_per_output", [False, True])
def test_gate_probabilities_as_features(gate_per_output):
    targets = np.c_[y, X[:, 3] - y]
    mixture = MoERegressor(gate_per_output=gate_per_output, **FAST)
    transformer = MoETransformer(mixture).fit(X, targets)
    (found,) = run(to_onnx(transformer, X), X)
    np.testing.assert_allclose(found, transformer.transform(X), rtol=1e-9, atol=1e-9)
    model = make_pipeline(MoETransformer(mixture), Ridge()).fit(X, targets)
    check(model, X)


def test_data_frames_have_an_input_a_column():
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).astype(np.float32)
    frame["kind"] = np.where(X[:, 0] > 0, "up", "down")
    columns = ColumnTransformer(
        [
            ("kind", OneHotEncoder(handle_unknown="ignore"), ["kind"]),
            ("rest", StandardScaler(), ["a", "b"]),
        ]
    )
    learner = make_pipeline(columns, DecisionTreeRegressor(max_depth=3))
    gate = make_pipeline(columns, SoftmaxGate())
    model = MoERegressor(learner, gate=gate, **FAST).fit(frame, y)
    feed = {name: frame[[name]].to_numpy() for name in frame}
    found = run(to_onnx(model, frame), feed)[0][:, 0]
    np.testing.assert_allclose(found, model.predict(frame), rtol=1e-5, atol=1e-5)


def test_a_mixture_of_mixtures():
    inner = MoERegressor(DecisionTreeRegressor(max_depth=2), **FAST | {"n_experts": 2})
    model = MoERegressor(inner, **FAST | {"n_experts": 2, "top_k": 1}).fit(X, y)
    check(model, X)


# --------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (MoERegressor(gate=KNeighborsGate(), **FAST), "KNeighborsGate.*SoftmaxGate"),
        (MoERegressor(KernelRidge(), **FAST), "KernelRidge.*converter"),
        (MoERegressor(capacity_factor=1.5, **FAST), "capacity_factor=1.5.*batch"),
        (
            MoERegressor(
                HistGradientBoostingRegressor(categorical_features=[0], max_iter=2),
                **FAST,
            ),
            "categorical_features",
        ),
    ],
)
def test_what_cannot_be_exported_is_named(model, message):
    rows = np.round(X[:, :1] * 3) + 3
    with pytest.raises((TypeError, ValueError), match=message):
        to_onnx(model.fit(rows, y), rows)


def test_labels_and_opsets_that_onnx_does_not_have():
    model = MoEClassifier(**FAST).fit(X, np.digitize(y, [0.0]) * 1.0)
    with pytest.raises(TypeError, match="dtype float64"):
        to_onnx(model, X)
    model = MoERegressor(**FAST).fit(X, y)
    with pytest.raises(ValueError, match="target_opset must be at least 18; got 15"):
        to_onnx(model, X, target_opset=15)
    check(model, X, to_onnx(model, X, target_opset=18))


def test_booleans_are_integers():
    rows = X.astype(np.float32)
    model = MoEClassifier(**FAST).fit(rows, y > 0)
    assert set(run(to_onnx(model, rows), rows)[0]) == {0, 1}


SEVERAL = {
    "neighbours": (KNeighborsRegressor(3), KNeighborsClassifier(3)),
    "Gaussian processes": (GaussianProcessRegressor(alpha=0.1), None),
    "support vectors": (SVR(), None),
    "boosting of trees": (
        AdaBoostRegressor(n_estimators=3),
        AdaBoostClassifier(n_estimators=3),
    ),
    "votes": (
        VotingRegressor([("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=2))]),
        None,
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", SEVERAL)
def test_learners_with_loops_or_in_float32_only(name, dtype):
    """Bodies of loops stand in branches; a float64 graph holds float32 parts."""
    rows = X[:80].astype(dtype)
    for learner, kind, target in zip(
        SEVERAL[name], (MoERegressor, MoEClassifier), (y, LABELS), strict=True
    ):
        if learner is not None:
            model = kind(learner, **FAST | {"n_experts": 2}).fit(rows, target[:80])
            found = run(to_onnx(model, rows), rows)[-1]
            ask = model.predict if target is y else model.predict_proba
            want = ask(rows).reshape(found.shape)
            np.testing.assert_allclose(found, want, atol=1e-4)


def test_neighbours_as_a_gate():
    model = MoERegressor(gate=KNeighborsClassifier(9), **FAST).fit(X, y)
    check(model, X)


@pytest.mark.parametrize(
    "learner",
    [
        VotingClassifier([("a", LogisticRegression())], voting="soft"),
        GaussianProcessClassifier(),
        make_pipeline(KNNImputer(), LogisticRegression()),
    ],
)
def test_learners_that_cannot_be_written_are_refused_by_name(learner):
    model = MoEClassifier(learner, **FAST | {"n_experts": 2}).fit(X, LABELS)
    name = type(learner).__name__
    with pytest.raises(TypeError, match=f"(?s){name}.*cannot be exported to ONNX"):
        to_onnx(model, X)


def test_a_graph_that_answers_otherwise_is_refused():
    """skl2onnx takes rounding for the distance of a row from itself."""
    learner = KNeighborsRegressor(3, weights="distance")
    model = MoERegressor(learner, **FAST | {"n_experts": 2, "max_iter": 20}).fit(X, y)
    with pytest.raises(TypeError, match=r"differs from MoERegressor on \d+ of the 240"):
        to_onnx(model, X)


def test_a_few_rows_that_differ_are_told_of():
    model = MoERegressor(DecisionTreeRegressor(max_depth=3), **FAST).fit(X, y)
    graph = to_onnx(model, X)
    moved = model.predict(X)
    moved[:5] += 1.0
    model.predict = lambda rows: moved
    with pytest.warns(UserWarning, match="on 5 of the 240 rows of X, by up to 1"):
        check_answers(graph, model, X)
