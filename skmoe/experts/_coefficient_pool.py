"""The base class of pools of linear models, which hold tables of coefficients."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Self

import numpy as np

from ..backends import Array
from ..routing import Routing
from ._base import ExpertPool


class CoefficientPool(ExpertPool):
    """Base class of pools whose experts are rows of tables.

    To add one, write `ExpertPool`'s ``supports``, ``fit``, ``evaluate``, ``predict``
    and ``estimators``, and ``_improve``. If it has more tables than these two, name
    them all in ``tables``; if coefficients may be missing, write ``complete``.

    Attributes
    ----------
    coef : (n_experts, q, n_features) array
    intercept : (n_experts, q) array
    """

    tables: tuple[str, ...] = ("coef", "intercept")
    coef: np.ndarray
    intercept: np.ndarray

    @property
    def changed_by_step(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the arrays that `step` changes."""
        return self.tables if self.scale is None else (*self.tables, "scale")

    @abstractmethod
    def _improve(self, X: Array, y: Array, routing: Routing) -> None:
        """Train in place, starting from the tables."""

    def copied(self) -> Self:
        """Return a pool with copies of the tables, which may be written to."""
        other = copy.copy(self)
        for name in self.tables:
            setattr(other, name, getattr(self, name).copy())
        return other

    def complete(self) -> Self:
        """Return a pool in which no coefficient is missing."""
        return self

    def without_stream(self) -> Self:
        """Return a pool that has forgotten the rows of a stream."""
        other = copy.copy(self)
        other.seen = None
        return other

    def update(self, X: Array, y: Array, routing: Routing) -> Self:
        """Return a new pool; an expert whose share is empty stays as it is."""
        other = self.copied()
        other._improve(X, y, routing)
        return other

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the coefficients of ``other`` where ``take`` is True."""
        chosen = copy.copy(self)
        for name in self.tables:
            old, new = getattr(self, name), getattr(other, name)
            mask = take.reshape(-1, *[1] * (old.ndim - 1))
            setattr(chosen, name, np.where(mask, new, old))
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        for name in self.tables:
            setattr(other, name, getattr(self, name)[experts])
        return other

    def shrunk(
        self, pooled: ExpertPool, learner_of: np.ndarray, shrinkage: float
    ) -> ExpertPool | None:
        r"""Return the pool with shrunk coefficients.

        Where the mean or the probability is an exponential, they give the geometric
        mean :math:`b^s h^{1-s}` of the answers.
        """
        if not isinstance(pooled, type(self)):
            return None
        base = pooled.complete()
        expert = self.complete()
        s = shrinkage
        other = copy.copy(expert)
        other.coef = s * base.coef[learner_of] + (1.0 - s) * expert.coef
        other.intercept = s * base.intercept[learner_of] + (1.0 - s) * expert.intercept
        return other
