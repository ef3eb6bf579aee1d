"""Maximum likelihood against R's flexmix, on two generated data sets of our own.

The numbers in data/flexmix.json come from flexmix 2.3-18,

    library(flexmix)
    initFlexmix(y ~ x1 + x2, data = synth1, k = 2, nrep = 10,
                concomitant = FLXPmultinom(~ x1 + x2))

and likewise with x1..x10 and k = 4 for synth3; ``exact_ml_loglik`` is the maximum that
L-BFGS on the observed likelihood reached from there.
"""

import gzip
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_squared_error
from sklearn.pipeline import make_pipeline

from skmoe import MoERegressor
from skmoe.gates import SoftmaxGate

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "flexmix.json").read_text())


def table(case):
    with gzip.open(DATA / f"{case['csv']}.gz", "rt") as file:
        names = file.readline().strip().split(",")
        rows = np.loadtxt(file, delimiter=",")
    assert names == ["y", *case["expert_features"]]
    return rows[:, 1:], rows[:, 0]


def plain(case, **options):
    """Return an unpenalised dense mixture."""
    return MoERegressor(
        LinearRegression(),
        n_experts=case["k"],
        gate=SoftmaxGate(alpha=0),
        top_k=None,
        cross_fit=None,
        scale_prior=0,
        max_iter=2000,
        tol=1e-10,
        random_state=0,
        **options,
    )


@pytest.mark.parametrize("name", sorted(CASES))
def test_reaches_the_exact_maximum(name):
    case = CASES[name]
    X, y = table(case)
    model = plain(case, n_init=2).fit(X, y)
    reached = model.score_samples(X, y).sum()
    assert reached >= case["flexmix_loglik"] - 1e-3
    assert reached == pytest.approx(case["exact_ml_loglik"], abs=0.01)
    assert model.lower_bound_ == pytest.approx(reached / len(y), abs=1e-12)
    assert np.diff(model.lower_bounds_).min() >= -1e-12
    assert (model.bic(X, y) - case["bic"]) == pytest.approx(
        -2 * (reached - case["flexmix_loglik"]), abs=1e-6
    )


def test_reaches_the_same_maximum_behind_a_choice_of_columns():
    case = CASES["synth1_k2"]
    X, y = table(case)
    columns = make_column_transformer(("passthrough", list(range(X.shape[1]))))
    model = plain(case, n_init=1, init="kmeans")
    piped = clone(model).set_params(
        expert=make_pipeline(columns, model.expert),
        gate=make_pipeline(columns, model.gate),
    )
    expected = model.fit(X, y).score_samples(X, y)
    reached = piped.fit(X, y).score_samples(X, y)
    np.testing.assert_allclose(reached.sum(), expected.sum(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", sorted(CASES))
def test_finds_the_parameters_of_flexmix(name):
    case = CASES[name]
    X, y = table(case)
    model = plain(case, n_init=1, init="kmeans").fit(X, y)
    ours = np.array([[e.intercept_, *e.coef_] for e in model.experts_])
    theirs = np.array([list(e["coef"].values()) for e in case["experts"]])
    order = min(
        permutations(range(case["k"])),
        key=lambda p: mean_squared_error(ours[list(p)], theirs),
    )
    order = list(order)
    np.testing.assert_allclose(ours[order], theirs, atol=0.01)

    gate = np.column_stack([model.gate_.intercept_, model.gate_.coef_])[order]
    # flexmix's gate is relative to its first component; it stops at a tolerance.
    reference = np.array(case["gate_coef"]["coef"])
    np.testing.assert_allclose(gate - gate[0], reference, atol=0.02, rtol=0.01)

    # flexmix divides by n - p where maximum likelihood divides by n.
    sigma = np.array([e["sigma"] for e in case["experts"]])
    np.testing.assert_allclose(model.scale_[order], sigma, rtol=0.01)
