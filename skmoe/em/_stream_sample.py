"""A sample of a stream's rows, for gates and experts that have to see rows again.

When a batch comes, each earlier row stays with a probability equal to the share of its
memory that stepwise EM keeps, so the rows of the sample have the ages of the rows that
are remembered [1]_. If the sample would become too large, all probabilities are lowered
alike.

A row keeps the responsibilities that it had when it came. They come from a model that
had not seen the row: an expert that has seen it would claim it, having memorised it.

References
----------
.. [1] C. C. Aggarwal, "On biased reservoir sampling in the presence of stream
   evolution", VLDB 32 (2006) 607-618.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from sys import modules
from typing import Any

import numpy as np
from scipy import sparse

from ..backends import Array, like, namespace
from ..experts import take_rows
from ..routing import Routing
from ._problem import Problem

LARGEST = 20_000
"""Largest number of rows in a sample, about."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a stream with their responsibilities.

    Attributes
    ----------
    X_gate, X, y : containers
        X is the same object for gate and experts if they see the same.
    mass : Routing
        Responsibilities times sample weights.
    population : float
        Number of rows that the sample stands for.
    rate : float
        Mean share of these rows that are in the sample.
    fresh : int
        Number of rows that came since the sample was last learned.
    seed : int
        Seed of the next draw.
    """

    X_gate: Any
    X: Any
    y: Array
    mass: Routing
    population: float
    rate: float = 1.0
    fresh: int = 0
    seed: int = 0

    @classmethod
    def of(cls, problem: Problem, resp: Routing) -> Sample:
        """Return the sample of all rows of a problem."""
        mass = resp.scaled(problem.sample_weight)
        sample = cls(problem.X_gate, problem.X, problem.y, mass, float(mass.shape[0]))
        rate = min(1.0, LARGEST / len(sample))
        return sample if rate == 1.0 else sample._thinned(rate)

    def emptied(self, population: float) -> Sample:
        """Return a sample without rows that stands for this many."""
        none = self._take(np.zeros(len(self), dtype=bool))
        return replace(none, population=population, rate=min(1.0, LARGEST / population))

    def __len__(self) -> int:
        return self.mass.shape[0]

    def plus(self, problem: Problem, resp: Routing, keep: float) -> Sample:
        """Return the sample after a batch; ``keep`` is the share of its past that
        stays.
        """
        n = resp.shape[0]
        population = keep * self.population + n
        rate = min(1.0, LARGEST / population)
        random = np.random.RandomState(self.seed)
        stay = random.uniform(size=len(self)) < keep * rate / self.rate
        come = random.uniform(size=n) < rate
        old, new = self._take(stay), Sample.of_rows(problem, resp, come)
        one_view = self.X_gate is self.X
        X = stacked(old.X, new.X)
        return Sample(
            X_gate=X if one_view else stacked(old.X_gate, new.X_gate),
            X=X,
            y=stacked(old.y, new.y),
            mass=_joined(old.mass, new.mass),
            population=population,
            rate=rate,
            fresh=self.fresh + int(come.sum()),
            seed=self.seed + 1,
        )

    @classmethod
    def of_rows(cls, problem: Problem, resp: Routing, chosen: np.ndarray) -> Sample:
        """Return the sample of some rows of a problem."""
        mass = resp.scaled(problem.sample_weight)
        whole = cls(problem.X_gate, problem.X, problem.y, mass, float(len(chosen)))
        return whole._take(chosen)

    def _thinned(self, rate: float) -> Sample:
        random = np.random.RandomState(self.seed)
        few = self._take(random.uniform(size=len(self)) < rate)
        return Sample(
            few.X_gate,
            few.X,
            few.y,
            few.mass,
            self.population,
            rate,
            seed=self.seed + 1,
        )

    def _take(self, chosen: np.ndarray) -> Sample:
        """Return some of the rows."""
        rows = like(np.flatnonzero(chosen), self.mass.indices)
        X = take_rows(self.X, rows)
        return Sample(
            X_gate=X if self.X_gate is self.X else take_rows(self.X_gate, rows),
            X=X,
            y=take_rows(self.y, rows),
            mass=self.mass.take(rows),
            population=self.population,
            rate=self.rate,
            fresh=self.fresh,
            seed=self.seed,
        )


def stacked(a: Any, b: Any) -> Any:
    """Return the rows of two tables, in the container of the first.

    Arrays and CSR matrices can be mixed; data frames only with their own kind.
    """
    if hasattr(a, "columns") or hasattr(b, "columns"):
        if type(a) is not type(b):
            raise ValueError(
                f"X was a {type(a).__name__} in the first calls and is a "
                f"{type(b).__name__} now. A stream of data frames needs X of one kind."
            )
        return modules[type(a).__module__.partition(".")[0]].concat([a, b])
    if sparse.issparse(a):
        return sparse.vstack([a, sparse.csr_array(b)], format="csr")
    b = b.toarray() if sparse.issparse(b) else b
    return namespace(a).concat([a, b])


def _joined(a: Routing, b: Routing) -> Routing:
    """Return the rows of two routings; the narrower one has entries of -1."""
    xp = namespace(a.weights)
    width = max(a.shape[1], b.shape[1])
    indices = []
    weights = []
    for each in (a, b):
        size = each.shape[0], width - each.shape[1]
        nothing = like(np.full(size, -1), each.indices, each.indices.dtype)
        indices.append(xp.concat([each.indices, nothing], axis=1))
        nothing = like(np.zeros(size), each.weights, each.weights.dtype)
        weights.append(xp.concat([each.weights, nothing], axis=1))
    dense = a.dense and b.dense
    return Routing(xp.concat(indices), xp.concat(weights), a.n_experts, dense)
