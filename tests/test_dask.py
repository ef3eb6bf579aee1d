"""Experts are fitted, and rows predicted, on a Dask cluster: nothing else is needed."""

import joblib
import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

X = np.random.RandomState(0).standard_normal((400, 4))
y = np.abs(X[:, 0]) + X[:, 1]
FAST = {"n_experts": 4, "n_init": 1, "max_iter": 2, "tol": 1.0, "random_state": 0}
FAST["cross_fit"] = None


class Located(DecisionTreeRegressor):
    """A tree that knows which worker has fitted it."""

    def fit(self, X, y, sample_weight=None):
        try:
            self.worker_ = distributed.get_worker().address
        except ValueError:
            self.worker_ = "here"
        return super().fit(X, y, sample_weight)


@pytest.fixture(scope="module")
def client():
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def test_joblib_fits_experts_on_the_workers(client):
    model = MoERegressor(Located(max_depth=4), **FAST)
    here = model.fit(X, y).predict(X)
    assert {expert.worker_ for expert in model.experts_} == {"here"}
    with joblib.parallel_config("dask"):
        model.set_params(n_jobs=-1).fit(X, y)
    workers = set(client.scheduler_info()["workers"])
    assert {expert.worker_ for expert in model.experts_} <= workers
    np.testing.assert_array_equal(model.predict(X), here)  # the same bits


def test_blocks_of_a_dask_array_are_predicted_on_the_workers(client):
    array = pytest.importorskip("dask.array")
    model = MoERegressor(**FAST).fit(X, y)
    blocks = array.from_array(X, chunks=(150, 4))
    found = blocks.map_blocks(model.predict, dtype=X.dtype, drop_axis=1)
    assert found.shape == (400,)
    np.testing.assert_allclose(found.compute(), model.predict(X), rtol=1e-12)
