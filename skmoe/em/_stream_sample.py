"""Rows of a stream, for gates and experts that have to see rows again.

A row that came stays with the probability that stepwise EM keeps of what it remembers,
so the ages of the rows in the sample are those of the rows that are remembered [1]_;
and with a smaller one, the same for all, where the sample would become too large.

A row keeps the responsibilities that it had when it came. They are of a model that had
not seen it: an expert that has would claim it for having memorised it.

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
"""Rows of a sample, about, at most."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of a stream with their responsibilities.

    Attributes
    ----------
    X_gate, X, y : containers
        The same object for gate and experts if they see the same.
    mass : Routing
        Responsibilities times sample weights.
    population : float
        Number of the rows that it stands for.
    rate : float
        Share of these that it has, in the mean.
    fresh : int
        Rows that came since the sample was last learned.
    seed : int
        Of the next draw.
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
        """Return the sample that has all rows of a problem."""
        mass = resp.scaled(problem.sample_weight)
        sample = cls(problem.X_gate, problem.X, problem.y, mass, float(mass.shape[0]))
        rate = min(1.0, LARGEST / len(sample))
        return sample if rate == 1.0 else sample._thinned(rate)

    def emptied(self, population: float) -> Sample:
        """Return the sample that has none of the rows that it should have."""
        none = self._take(np.zeros(len(self), dtype=bool))
        return replace(none, population=population, rate=min(1.0, LARGEST / population))

    def __len__(self) -> int:
        return self.mass.shape[0]

    def plus(self, problem: Problem, resp: Routing, keep: float) -> Sample:
        """Return the sample after a batch, of whose past so much is kept."""
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
        """Return the sample that has some rows of a problem."""
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

    Arrays and CSR matrices go together; data frames only with their like.
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
