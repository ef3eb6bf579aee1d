"""Mixtures of linear experts on public data, read from the folder SKMOE_DATA."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoe import MoEClassifier, MoERegressor

FOLDER = Path(os.environ.get("SKMOE_DATA", ""))
pytestmark = [
    pytest.mark.skipif(
        "SKMOE_DATA" not in os.environ, reason="SKMOE_DATA names no folder of data sets"
    ),
    # The folder's loader leaves its files to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]


def halves(name):
    spec = importlib.util.spec_from_file_location("load", FOLDER / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    X, y, _ = module.load(name)
    return train_test_split(X, y, test_size=0.5, random_state=0)


def test_regimes_of_a_robot_arm():
    X, X_test, y, y_test = halves("kin8nm")
    single = make_pipeline(StandardScaler(), Ridge()).fit(X, y)
    mixture = MoERegressor(n_experts=8, n_init=2, random_state=0)
    model = make_pipeline(StandardScaler(), mixture).fit(X, y)
    assert single.score(X_test, y_test) < 0.45
    assert model.score(X_test, y_test) > 0.75
    Z = model[:-1].transform(X_test)
    assert np.mean(mixture.score_samples(Z, y_test)) > 0.5


@pytest.mark.slow
def test_regimes_of_speech():
    X, X_test, y, y_test = halves("phoneme")
    single = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    mixture = MoEClassifier(n_experts=8, n_init=2, random_state=0)
    model = make_pipeline(StandardScaler(), mixture).fit(X, y)
    assert single.score(X_test, y_test) < 0.77
    assert model.score(X_test, y_test) > 0.81
