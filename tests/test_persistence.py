"""Fitted mixtures survive storage: the same bits, in other processes too."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import SoftmaxGate, TreeGate

RANDOM = np.random.RandomState(0)
X = RANDOM.uniform(-1, 1, (200, 4))
y = np.where(X[:, 0] > 0, X[:, 1], -2 * X[:, 2])
LABELS = np.array(["low", "mid", "top"])[np.digitize(y, [-0.5, 0.5])]
FAST = {"n_experts": 4, "n_init": 1, "max_iter": 3, "tol": 1.0, "random_state": 0}
FAST["cross_fit"] = None
TREES = ["scipy.sparse._csr.csr_array", "sklearn.tree._tree.Tree"]
"""Types of other packages that trees and forests hold."""

MODELS = {
    "ridge": (MoERegressor(**FAST), []),
    "logistic": (MoEClassifier(**FAST), []),
    "gaussian": (MoERegressor(gate="gaussian", **FAST), []),
    "hierarchical": (MoEClassifier(gate="hierarchical", **FAST), []),
    "product": (MoERegressor(gate="product", **FAST), []),
    "constant": (MoERegressor(gate="constant", **FAST), []),
    "poisson": (MoERegressor(likelihood="poisson", **FAST), []),
    "tree gate": (MoERegressor(gate=TreeGate(), **FAST), TREES),
    "classifier gate": (MoERegressor(gate=LogisticRegression(), **FAST), TREES[:1]),
    "pipelines": (
        MoERegressor(
            make_pipeline(StandardScaler(), DecisionTreeRegressor(max_depth=3)),
            gate=make_pipeline(StandardScaler(), SoftmaxGate()),
            **FAST,
        ),
        TREES[1:],
    ),
    "averages": (
        MoERegressor(
            DecisionTreeRegressor(max_depth=3),
            final="average",
            **(FAST | {"cross_fit": 2}),
        ),
        TREES[1:],
    ),
    "shared": (
        MoEClassifier(shared_expert=RandomForestClassifier(2, max_depth=3), **FAST),
        TREES[1:],
    ),
}


@pytest.fixture(scope="module")
def fitted():
    found = {}
    for name, (model, _) in MODELS.items():
        target = LABELS if isinstance(model, MoEClassifier) else y
        found[name] = model.fit(X, np.abs(np.round(y)) if name == "poisson" else target)
    return found


def answers(model):
    ask = getattr(model, "predict_proba", model.predict)
    return [ask(X), ask(X[:1]), model.route(X).toarray(), model.gate_proba(X)]


LOAD = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    X, models = pickle.load(file)
found = {}
for name, model in models.items():
    ask = getattr(model, "predict_proba", model.predict)
    found[name] = [ask(X), ask(X[:1]), model.route(X).toarray(), model.gate_proba(X)]
with open(sys.argv[1], "wb") as file:
    pickle.dump(found, file)
"""


def test_pickles_give_the_same_bits_in_a_fresh_process(fitted, tmp_path):
    path = tmp_path / "models.pickle"
    path.write_bytes(pickle.dumps((X, fitted)))
    subprocess.run([sys.executable, "-c", LOAD, str(path)], check=True)
    found = pickle.loads(path.read_bytes())
    for name, model in fitted.items():
        for got, want in zip(found[name], answers(model), strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", MODELS)
def test_skops_gives_the_same_bits(fitted, name, tmp_path):
    """By the recipe of docs/deployment.md: our own types, and others by name."""
    skops = pytest.importorskip("skops.io")
    path, model, others = tmp_path / "model.skops", fitted[name], MODELS[name][1]
    skops.dump(model, path)
    own = [
        each
        for each in skops.get_untrusted_types(file=path)
        if each.startswith("skmoe.")
    ]
    loaded = skops.load(path, trusted=own + others)
    for got, want in zip(answers(loaded), answers(model), strict=True):
        np.testing.assert_array_equal(got, want)


def test_skops_refuses_what_is_not_trusted(fitted, tmp_path):
    skops = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    skops.dump(fitted["ridge"], path)
    with pytest.raises(Exception, match="MoERegressor"):
        skops.load(path)
