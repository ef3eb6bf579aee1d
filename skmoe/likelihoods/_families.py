"""Families by name."""

from __future__ import annotations

from ._base import Likelihood
from ._counts import NegativeBinomial, Poisson
from ._positive import Beta, Gamma
from ._real import Gaussian, Laplace, StudentT

FAMILIES: dict[str, type[Likelihood]] = {
    "gaussian": Gaussian,
    "student_t": StudentT,
    "laplace": Laplace,
    "poisson": Poisson,
    "negative_binomial": NegativeBinomial,
    "gamma": Gamma,
    "beta": Beta,
}
"""Families that ``likelihood`` may name."""
