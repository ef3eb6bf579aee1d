"""The scikit-learn contract, for estimators times configurations."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from skmoe import MoEClassifier, MoERegressor
from skmoe.gates import (
    EstimatorGate,
    GroupGate,
    KNeighborsGate,
    SoftmaxGate,
    TreeGate,
)

QUICK = {"cross_fit": None, "n_init": 1, "max_iter": 2, "tol": 1.0}

# The choices that are made on rows held out, as by default.
CHOOSY = {"n_init": 1, "max_iter": 2, "tol": 1.0}

# Tables of the checks have 20 rows or so: 2 to 4 experts, and small trees.
TREE = {"max_depth": 3}

# The check of class weights demands leaves of some weight from any tree.
CLASS_TREE = {"max_depth": 3, "min_weight_fraction_leaf": 0.01}

LINEAR = [
    MoERegressor(n_experts=2, **CHOOSY),
    MoERegressor(n_experts=2, cross_fit=None, max_iter=2),
    MoERegressor(n_experts=3, top_k=None, **QUICK),
    MoERegressor(n_experts=4, top_k=1, **QUICK),
    MoERegressor(Ridge(alpha=0.1), n_experts=2, init="random", **QUICK),
    MoERegressor(n_experts=2, gate="constant", **QUICK),
    MoERegressor(n_experts=2, gate=SoftmaxGate(alpha=0.01), **QUICK),
    MoERegressor(
        n_experts=2, gate=make_pipeline(StandardScaler(), SoftmaxGate()), **QUICK
    ),
    MoEClassifier(n_experts=2, **QUICK),
    MoEClassifier(n_experts=2, **CHOOSY),
    MoEClassifier(n_experts=3, top_k=None, **QUICK),
    MoEClassifier(n_experts=4, top_k=1, **QUICK),
    MoEClassifier(n_experts=2, gate="constant", **QUICK),
    MoEClassifier(n_experts=2, gate=SoftmaxGate(alpha=0.01), **QUICK),
    MoEClassifier(
        n_experts=2, gate=make_pipeline(StandardScaler(), SoftmaxGate()), **QUICK
    ),
    MoEClassifier(n_experts=2, class_weight="balanced", **QUICK),
]

# Ids are whole numbers; those of the checks are not.
WHOLE = FunctionTransformer(np.rint, accept_sparse=True)

# A gate of each kind; tables of 20 rows want small leaves and neighbourhoods.
GATES = [
    MoERegressor(n_experts=2, gate="gaussian", **QUICK),
    MoERegressor(n_experts=3, gate="hierarchical", **QUICK),
    MoERegressor(n_experts=4, gate="product", **QUICK),
    MoERegressor(n_experts=2, gate=KNeighborsGate(5), **QUICK),
    MoERegressor(n_experts=2, gate=make_pipeline(WHOLE, GroupGate()), **QUICK),
    MoEClassifier(n_experts=2, gate=KNeighborsGate(5), **QUICK),
    MoEClassifier(n_experts=2, gate=EstimatorGate(GaussianNB()), **QUICK),
]

TREE_GATES = [
    MoERegressor(n_experts=2, gate=TreeGate(5), **QUICK),
    MoEClassifier(n_experts=2, gate=TreeGate(5), **QUICK),
]

TREES = [
    MoERegressor(DecisionTreeRegressor(**TREE), n_experts=2, **CHOOSY),
    MoERegressor(
        DecisionTreeRegressor(**TREE, random_state=0), n_experts=3, top_k=1, **QUICK
    ),
    MoERegressor([Ridge(), DecisionTreeRegressor(**TREE)], n_experts=2, **QUICK),
    MoEClassifier(DecisionTreeClassifier(**CLASS_TREE), n_experts=2, **CHOOSY),
    MoEClassifier(
        DecisionTreeClassifier(**CLASS_TREE, random_state=0),
        n_experts=3,
        top_k=1,
        **QUICK,
    ),
    MoEClassifier(
        [LogisticRegression(max_iter=1000), DecisionTreeClassifier(**CLASS_TREE)],
        n_experts=2,
        **QUICK,
    ),
]

SUPPORT_VECTORS = MoERegressor(SVR(), n_experts=2, **QUICK)

SCALED = [
    MoERegressor(make_pipeline(StandardScaler(), Ridge()), n_experts=2, **QUICK),
    MoERegressor(
        make_pipeline(StandardScaler(), Ridge()),
        n_experts=2,
        gate=make_pipeline(StandardScaler(), SoftmaxGate()),
        **QUICK,
    ),
    MoEClassifier(
        make_pipeline(StandardScaler(), LogisticRegression()), n_experts=2, **QUICK
    ),
]

pytestmark = [
    pytest.mark.usefixtures("quick_choices"),
    pytest.mark.filterwarnings(
        "ignore:EM stopped:sklearn.exceptions.ConvergenceWarning"
    ),
]

WEIGHTS_DENSE = "check_sample_weight_equivalence_on_dense_data"
WEIGHTS_SPARSE = "check_sample_weight_equivalence_on_sparse_data"


def weights_count_inexactly(estimator):
    """Name the checks that no mixture of such experts can pass, and say why."""
    reason = "rounding of soft weights decides between splits of equal gain"
    if estimator is SUPPORT_VECTORS:
        reason = "SVR alone does not pass it: libsvm stops within a tolerance"
    return {WEIGHTS_DENSE: reason, WEIGHTS_SPARSE: reason}


# A few of each kind run by default, all others with `-m slow`: choices on rows held
# out, one expert for each row, weights of classes, gates of two kinds, and Pipelines.
FEW = [LINEAR[0], LINEAR[3], LINEAR[9], LINEAR[15], GATES[3], GATES[6], SCALED[1]]
MORE = [model for model in LINEAR + GATES + SCALED if model not in FEW]


@parametrize_with_checks(FEW)
def test_contract(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(MORE)
def test_contract_of_more(estimator, check):
    check(estimator)


BUT_FOR_WEIGHTS = {
    "expected_failed_checks": weights_count_inexactly,
    "xfail_strict": False,  # rounding differs between machines
}


@parametrize_with_checks([TREES[2]], **BUT_FOR_WEIGHTS)
def test_contract_but_for_weights(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [*TREES[:2], *TREES[3:], *TREE_GATES, SUPPORT_VECTORS],
    **BUT_FOR_WEIGHTS,
)
def test_contract_but_for_weights_of_more(estimator, check):
    check(estimator)
