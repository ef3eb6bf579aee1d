"""The gate of one's own in docs/gates.md, as it stands there."""

import doctest
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skmoe import MoEClassifier
from skmoe.routing import Routing

PAGE = Path(__file__).parents[1] / "docs" / "gates.md"


@pytest.fixture(scope="module")
def page():
    """Return what the examples of the page define, once they have passed."""
    test = doctest.DocTestParser().get_doctest(
        PAGE.read_text(encoding="utf-8"), {}, PAGE.name, str(PAGE), 0
    )
    result = doctest.DocTestRunner().run(test, clear_globs=False)
    assert result.attempted > 5
    assert result.failed == 0
    return test.globs


def test_examples_of_the_page(page):
    assert "CentreGate" in page


def test_the_contract_gives_the_rest(page):
    random = np.random.RandomState(0)
    X = random.standard_normal((80, 3)).astype(np.float32)
    resp = random.dirichlet(np.ones(3), size=80)
    gate = page["CentreGate"]().fit(X, Routing.from_dense(resp))
    log_proba = gate.log_proba(X)
    assert log_proba.dtype == np.float32
    assert_allclose(np.exp(log_proba).sum(axis=1), 1.0, rtol=1e-5)
    routing = gate.route(X, top_k=2)
    assert_allclose(routing.indices[:, 0], log_proba.argmax(axis=1))
    assert gate.update(X, Routing.from_dense(resp[:, :2])).n_experts_ == 2


@pytest.mark.filterwarnings("ignore:EM stopped")
def test_it_serves_classifiers_too(page):
    random = np.random.RandomState(0)
    X = random.standard_normal((200, 2))
    labels = np.where(X[:, 0] > 0, X[:, 1] > 0, X[:, 1] < 0)
    model = MoEClassifier(
        n_experts=2, gate=page["CentreGate"](0.5), max_iter=20, random_state=0
    )
    assert model.fit(X, labels).score(X, labels) > 0.9
