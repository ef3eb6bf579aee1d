"""Mixtures beyond one machine: training on Dask collections, and lazy answers.

Nothing here imports Dask before it is needed, so a pickled estimator opens without it.
"""

from ._estimators import DaskMoEClassifier, DaskMoERegressor
from ._predict import predict

__all__ = ["DaskMoEClassifier", "DaskMoERegressor", "predict"]
