"""Whatever takes rows refuses a Dask collection, rather than load it whole."""

import inspect

import numpy as np
import pytest

from skmoe import MoEClassifier, MoERegressor, MoETransformer

array = pytest.importorskip("dask.array")

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.abs(X[:, 0]) + X[:, 1]
GIVEN = {
    "X": X,
    "y": Y,
    "labels": (Y > 1).astype(int),
    "sample_weight": np.ones(60),
    "groups": np.repeat(np.arange(20), 3),
    "n": 1,
    "quantiles": [0.5],
}
ROWS = ("X", "y", "sample_weight", "groups")
CLASSES = (MoERegressor, MoEClassifier, MoETransformer)


def cases():
    """Yield each class, public method and argument of it that holds rows."""
    for kind in CLASSES:
        for name in dir(kind):
            method = getattr(kind, name)
            if name.startswith(("_", "set_", "get_")) or not callable(method):
                continue
            taken = inspect.signature(method).parameters
            yield from (
                pytest.param(kind, name, which, id=f"{kind.__name__}-{name}-{which}")
                for which in ROWS
                if which in taken
            )


@pytest.fixture(scope="module")
def fitted():
    options = {"n_experts": 2, "n_init": 1, "max_iter": 3, "random_state": 0}
    return {
        MoERegressor: MoERegressor(**options).fit(X, Y),
        MoEClassifier: MoEClassifier(**options).fit(X, GIVEN["labels"]),
        MoETransformer: MoETransformer(MoERegressor(**options)).fit(X, Y),
    }


@pytest.mark.parametrize(("kind", "name", "which"), list(cases()))
def test_every_method_refuses_a_dask_collection(fitted, kind, name, which):
    model = fitted[kind]
    method = getattr(model, name)
    given = dict(GIVEN, y=GIVEN["labels"]) if kind is MoEClassifier else dict(GIVEN)
    given[which] = array.from_array(given[which], chunks=20)
    taken = inspect.signature(method).parameters
    wanted = {
        key: given[key]
        for key, parameter in taken.items()
        if key in (which, "y")
        or (key in given and parameter.default is parameter.empty)
    }
    message = (
        rf"^{which} is a Dask collection \(Array\).*DaskMoERegressor or "
        rf"DaskMoEClassifier.*skmoe\.dask\.predict.*{which}\.compute\(\)"
    )
    with pytest.raises(TypeError, match=message):
        method(**wanted)


def test_many_methods_are_asked():
    asked = {(case.values[0], case.values[1]) for case in cases()}
    assert len(asked) > 35
