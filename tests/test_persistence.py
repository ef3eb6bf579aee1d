"""Fitted mixtures survive storage: the same bits, in other processes too."""

import importlib
import json
import os
import pickle
import pkgutil
import shutil
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

import skmoe
from skmoe import MoEClassifier, MoERegressor, MoETransformer
from skmoe.gates import SoftmaxGate, TreeGate
from skmoe.likelihoods import WithOutliers
from skmoe.packing import pack
from skmoe.persistence import trusted_types

pytestmark = pytest.mark.usefixtures("quick_choices")

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
    "outliers": (MoERegressor(likelihood=WithOutliers("student_t"), **FAST), []),
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
    loaded = skops.load(path, trusted=[*trusted_types(), *others])
    for got, want in zip(answers(loaded), answers(model), strict=True):
        np.testing.assert_array_equal(got, want)


def test_skops_refuses_what_is_not_trusted(fitted, tmp_path):
    skops = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    skops.dump(fitted["ridge"], path)
    with pytest.raises(Exception, match="MoERegressor"):
        skops.load(path)


def test_streams_grown_and_calibrated_mixtures_hold_our_types_only(tmp_path):
    skops = pytest.importorskip("skops.io")
    path = tmp_path / "model.skops"
    models = [
        MoERegressor(**FAST).partial_fit(X, y).partial_fit(X, y),
        MoEClassifier(**FAST).fit(X, LABELS).partial_fit(X, LABELS),
        MoERegressor(**FAST).fit(X, y).add_experts(1, X, y),
        MoERegressor(**FAST).fit(X, y).conformalize(X, y),
        pack(MoEClassifier(**FAST).fit(X, LABELS)),
        MoETransformer(MoERegressor(**FAST)).fit(X, y),
    ]
    for model in models:
        skops.dump(model, path)
        skops.load(path, trusted=trusted_types())


def planted(model, path, name):
    """Write a file that runs a command: a dict whose keys are made by `os.system`.

    ``name`` says where os lies among the attributes of a module of skmoe.
    """
    io = pytest.importorskip("skops.io")
    io.dump(model, path)
    with zipfile.ZipFile(path) as file:
        content = {each: file.read(each) for each in file.namelist()}
    schema = json.loads(content["schema.json"])
    module, attribute = name.rsplit(".", 1)
    where = {"__module__": module, "__class__": attribute}
    builtin = {"__module__": "builtins"}
    os_module = {**where, "__loader__": "FunctionNode", "__id__": 9_001}
    system = {
        **where,
        "__loader__": "MethodNode",
        "__id__": 9_002,
        "content": {"func": "system", "obj": os_module},
    }
    keys = {
        **builtin,
        "__class__": "list",
        "__loader__": "ListNode",
        "content": [system],
        "__id__": 9_003,
    }
    value = {
        **builtin,
        "__class__": "str",
        "__loader__": "JsonNode",
        "content": '"x"',
        "is_json": True,
        "__id__": 9_004,
    }
    attributes = schema["content"]
    attributes["content"]["trap_"] = {
        **builtin,
        "__class__": "dict",
        "__loader__": "DictNode",
        "key_types": keys,
        "content": {f"echo > {path.parent / 'ran'}": value},
        "__id__": 9_005,
    }
    attributes["key_types"]["content"].append(
        {**builtin, "__class__": "str", "__loader__": "TypeNode", "__id__": 9_006}
    )
    content["schema.json"] = json.dumps(schema).encode()
    with zipfile.ZipFile(path, "w") as file:
        for each, data in content.items():
            file.writestr(each, data)


def test_a_file_that_reaches_for_a_module_is_refused(fitted, tmp_path):
    skops = pytest.importorskip("skops.io")
    path, name = tmp_path / "model.skops", "skmoe.backends._threads.os"
    planted(fitted["ridge"], path, name)
    with pytest.raises(Exception, match=f"{name}.*system"):
        skops.load(path, trusted=trusted_types())
    assert not (tmp_path / "ran").exists()


def test_trusted_types_are_classes_of_ours():
    for name in trusted_types():
        module, attribute = name.rsplit(".", 1)
        each = getattr(importlib.import_module(module), attribute)
        assert isinstance(each, type)
        assert f"{each.__module__}.{each.__name__}" == name


def test_a_file_of_another_version_warns(fitted, monkeypatch):
    monkeypatch.setattr(skmoe.estimators._base, "__version__", "0.0.7")
    old = pickle.dumps(fitted["ridge"])
    monkeypatch.undo()
    with pytest.warns(InconsistentVersionWarning, match="from version 0.0.7"):
        loaded = pickle.loads(old)
    np.testing.assert_array_equal(loaded.predict(X), fitted["ridge"].predict(X))


def test_modules_of_ours_hold_none_that_runs_commands_or_loads_pickles():
    """Readers who trust names by their beginning are not handed the shell at least."""
    names = [
        each.name
        for each in pkgutil.walk_packages(skmoe.__path__, "skmoe.")
        if not each.name.startswith(("skmoe.backends._cupy", "skmoe.__main__"))
    ]
    dangerous = [os, sys, subprocess, pickle, joblib, importlib, pkgutil, shutil]
    held = [
        f"{name}.{attribute}"
        for name in names
        for attribute, value in vars(importlib.import_module(name)).items()
        if any(value is each for each in dangerous)
    ]
    assert held == []
