"""Likelihoods: how the prediction of an expert becomes a density of y.

A family is a small object; see `Likelihood` for its contract. Name one in
``MoERegressor(likelihood="student_t")``, or give an object to set its parameters:
``MoERegressor(likelihood=StudentT(df=3))``.
"""

from ._base import Likelihood, is_extreme, origin_of
from ._categorical import PROBABILITY_FLOOR, Categorical
from ._counts import NegativeBinomial, Poisson
from ._families import FAMILIES
from ._fixed import BesideFixed as BesideFixed
from ._fixed import WithOutliers, ZeroInflated
from ._labels import Bernoulli
from ._mixture import PredictiveMixture
from ._positive import Beta, Gamma
from ._real import Gaussian, Laplace, StudentT

__all__ = [
    "FAMILIES",
    "PROBABILITY_FLOOR",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Gamma",
    "Gaussian",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "Poisson",
    "PredictiveMixture",
    "StudentT",
    "WithOutliers",
    "ZeroInflated",
    "is_extreme",
    "origin_of",
]
