"""Every public docstring follows numpydoc, without exceptions by name."""

import importlib
import inspect

import pytest
from numpydoc.validate import validate

PUBLIC = [
    "skmoe",
    "skmoe.dask",
    "skmoe.gates",
    "skmoe.inspection",
    "skmoe.metrics",
    "skmoe.onnx",
    "skmoe.packing",
    "skmoe.persistence",
    "skmoe.pipeline",
    "skmoe.predictive",
]
LEFT_OUT = {
    "GL01",  # the summary may start on the opening line, as in scikit-learn
    "ES01",  # an extended summary, a See Also or an example in every method
    "SA01",
    "SA04",
    "EX01",
    "RT02",  # "self : object" is scikit-learn's form
    "RT04",  # a description may begin with mathematics
}


def public_names():
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            item = getattr(module, name)
            if name.startswith("_") or not callable(item):
                continue
            yield f"{module_name}.{name}"
            if not inspect.isclass(item):
                continue
            for member, value in inspect.getmembers(item):
                own = getattr(value, "__module__", None) or ""
                if not member.startswith("_") and own.startswith("skmoe"):
                    yield documented(item, member, f"{module_name}.{name}.{member}")


def documented(cls, member, name):
    """Return the full name of a method, or of the one whose docstring it inherits."""
    if getattr(cls, member).__doc__:
        return name
    above = [c for c in cls.__mro__ if getattr(vars(c).get(member), "__doc__", None)]
    assert above, f"{name} has no docstring"
    return f"{above[0].__module__}.{above[0].__qualname__}.{member}"


@pytest.mark.parametrize("name", sorted(set(public_names())))
def test_docstring(name):
    errors = [e for e in validate(name)["errors"] if e[0] not in LEFT_OUT]
    assert not errors


@pytest.mark.parametrize("name", ["MoEClassifier", "MoERegressor"])
def test_every_parameter_and_attribute_is_documented(name):
    from numpydoc.docscrape import ClassDoc
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression, Ridge

    estimator = getattr(importlib.import_module("skmoe"), name)
    doc = ClassDoc(estimator)
    assert [p.name for p in doc["Parameters"]] == list(
        inspect.signature(estimator).parameters
    )
    X, y = load_iris(return_X_y=True, as_frame=True)
    model = estimator(n_experts=2, n_init=1, cross_fit=None, random_state=0)
    documented = {a.name for a in doc["Attributes"]} - {"gates_"}  # of several y

    def public():
        return {a for a in vars(model) if a.endswith("_") and not a.startswith("_")}

    asked = {"shared_expert_", "noise_experts_", "selection_path_"}  # on request only
    asked |= {"tied_", "group_correlation_", "group_ids_"}
    model.fit(X, y)
    assert public() == documented - asked
    learner = LogisticRegression(max_iter=1000) if name == "MoEClassifier" else Ridge()
    model.set_params(shared_expert=learner).fit(X, y)
    assert public() == documented - asked | {"shared_expert_"}
    model.set_params(shared_expert=None, n_experts="auto").fit(X, y)
    assert public() == documented - asked | {"selection_path_"}
    if name == "MoERegressor":
        model.set_params(n_experts=2, noise_expert=Ridge()).fit(X, y)
        assert public() == documented - asked | {"noise_experts_"}
