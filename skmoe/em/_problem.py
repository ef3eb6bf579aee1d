"""The input of EM, its state between passes, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..backends import Array, namespace, to_host
from ..experts import ExpertPool, cached, take_rows
from ..gates import BaseGate
from ..routing import Routing
from ._content import Content
from ._panel import Alone, Panel


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that does not change while EM runs.

    Parameters
    ----------
    X_gate, X : (n_samples, ...) containers
        Features of the gate and of the experts; one object if they are the same.
    y : (n_samples, q) float array or (n_samples,) array of class positions
    sample_weight : (n_samples,) array
    n_experts : int
    width : int
        Number of experts per row with responsibilities; ``n_experts`` is dense EM.
    max_iter : int
    tol : float
        EM stops when a pass raises the bound by less than this, per row.
    seed : int
        Seed of the expert pairs that sparse passes explore.
    beta : float
        Power of the likelihood in the responsibilities; below 1 a start is annealed.
    shared : Shared or None
        The shared expert: y is its residuals, or classifiers are shrunk to it.
    groups : (n_samples,) array or None
        Group of each row; rows of a group are held out together.
    tied : bool
        Whether rows of a group share one expert; see `_panel`.
    balance : float
        Least load of an expert in the E-step, in units of an even load; see
        `_load_limits`.
    capacity : float
        Largest load of an expert in the E-step, in the same units.
    budget : float
        Rows on which a run of EM may fit learners that are fitted one by one.
    content : Content or None
        Content of the rows. None creates it; copies with the same rows share it.
    """

    X_gate: Array
    X: Array
    y: Array
    sample_weight: Array
    n_experts: int
    width: int
    max_iter: int
    tol: float
    seed: int = 0
    beta: float = 1.0
    shared: Any = None
    groups: np.ndarray | None = None
    tied: bool = True
    balance: float = 0.0
    capacity: float = np.inf
    budget: float = np.inf
    content: Content = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        rows = self.X_gate, self.X, self.y, self.sample_weight
        if self.content is None or not self.content.is_of(*rows):
            object.__setattr__(self, "content", Content(*rows))

    @cached_property
    def panel(self) -> Panel | None:
        """The groups; None if each row draws its own expert."""
        if self.groups is None or not self.tied:
            return None
        if len(np.unique(self.groups)) == len(self.groups):
            return None
        return Panel.of(self.sample_weight, self.groups)

    @property
    def draws(self) -> Alone:
        """Which rows draw their expert together."""
        return Alone() if self.panel is None else self.panel

    @property
    def apart(self) -> Problem:
        """The problem in which each row draws its own expert, as in predict."""
        return self if self.panel is None else replace(self, tied=False)

    @property
    def draw_weight(self) -> Array:
        """Weight of each row in the draws of experts; a group's rows sum to 1."""
        if self.panel is None:
            return self.sample_weight
        return self.sample_weight / self.panel.weight

    def on_host(self) -> Problem:
        """Return the problem with NumPy arrays, for code that runs on the CPU."""
        if namespace(self.sample_weight) is np:
            return self
        return replace(
            self,
            X_gate=to_host(self.X_gate),
            X=to_host(self.X),
            y=to_host(self.y),
            sample_weight=to_host(self.sample_weight),
        )

    def take(self, rows: Array) -> Problem:
        """Return the problem of some of the rows."""
        X = take_rows(self.X, rows)
        return replace(
            self,
            X_gate=X if self.X_gate is self.X else take_rows(self.X_gate, rows),
            X=X,
            y=take_rows(self.y, rows),
            sample_weight=take_rows(self.sample_weight, rows),
            groups=None if self.groups is None else self.groups[to_host(rows)],
        )

    def remember(self, pool: ExpertPool) -> ExpertPool:
        """Return a fitted pool that has cached its answers for the rows."""
        return cached(pool, self.X, self.y, self.sample_weight)

    @property
    def dense(self) -> bool:
        """Whether every row keeps every expert."""
        return self.width >= self.n_experts


def learning_mass(
    problem: Problem, pool: ExpertPool, mass: Routing, values: Array | None = None
) -> Routing:
    """Return the weights that experts are fitted with, robust if the likelihood is.

    ``values`` are the pool's answers for the entries, if they are known.
    """
    if not pool.likelihood.robust or pool.scale is None:
        return mass
    if values is None:
        values = pool.evaluate(problem.X, problem.y, mass)
    return pool.emphasised(problem.y, values, mass)


@dataclass(frozen=True, eq=False)
class Terms:
    """The answers of gate and experts at each entry of a routing.

    Attributes
    ----------
    log_gate : (n, m) array
        log p(k | x).
    values : (n, m, q) array
        The experts' answers, as the likelihood reads them.
    log_lik : (n, m) array
        log p(y | x, k).
    """

    log_gate: Array
    values: Array
    log_lik: Array

    def join(self, other: Terms) -> Terms:
        """Return the terms of both entry sets, side by side."""
        concat = namespace(self.log_gate).concat
        return Terms(
            concat([self.log_gate, other.log_gate], axis=1),
            concat([self.values, other.values], axis=1),
            concat([self.log_lik, other.log_lik], axis=1),
        )

    @classmethod
    def stack(cls, parts: Sequence[Terms]) -> Terms:
        """Return the terms of blocks of rows, one below the other."""
        concat = namespace(parts[0].log_gate).concat
        return cls(
            concat([part.log_gate for part in parts]),
            concat([part.values for part in parts]),
            concat([part.log_lik for part in parts]),
        )

    def rows(self, rows: slice) -> Terms:
        """Return the terms of a run of rows."""
        return Terms(
            self.log_gate[rows, :], self.values[rows, :, :], self.log_lik[rows, :]
        )

    def take(self, kept: Array) -> Terms:
        """Return the terms of some entries of each row, ``kept`` (n, width)."""
        xp = namespace(self.log_gate)
        return Terms(
            xp.take_along_axis(self.log_gate, kept, axis=1),
            xp.take_along_axis(self.values, kept[:, :, None], axis=1),
            xp.take_along_axis(self.log_lik, kept, axis=1),
        )


@dataclass(frozen=True, eq=False)
class Model:
    """A gate, and the experts that it asks."""

    gate: BaseGate
    experts: ExpertPool


@dataclass(frozen=True, eq=False)
class State:
    """A model and its E-step: all that one pass hands to the next.

    Attributes
    ----------
    gate, pool : BaseGate, ExpertPool
    resp : Routing
        The support of each row with its responsibilities; rows sum to one.
    terms : Terms
        Answers of gate and experts at the support.
    bound : float
        Mean per row of log Σ_k p(k | x) p(y | x, k) over the support.
    n_pass : int
    offsets : (n_experts,) array or None
        Offsets of the experts' log joint densities under limits on the load, or None.
    """

    gate: BaseGate
    pool: ExpertPool
    resp: Routing
    terms: Terms
    bound: float
    n_pass: int = 0
    offsets: np.ndarray | None = None


@dataclass(frozen=True)
class PassInfo:
    """What happened in one pass."""

    n_pass: int
    bound: float
    gain: float
    gate_accepted: bool
    experts_accepted: int


@dataclass(frozen=True, eq=False)
class Record:
    """What happened in one run of EM.

    Attributes
    ----------
    bound : float
        The bound of the model that is returned, measured after its M-step.
    converged : bool
    passes : list of PassInfo
    """

    bound: float
    converged: bool
    passes: list[PassInfo] = field(default_factory=list)

    @property
    def n_iter(self) -> int:
        """Number of passes."""
        return len(self.passes)


@dataclass(frozen=True, eq=False, kw_only=True)
class EMResult(Record):
    """The best pass of one run of EM.

    Attributes
    ----------
    gate, pool, resp
        The model that is returned, and its responsibilities.
    """

    gate: BaseGate
    pool: ExpertPool
    resp: Routing

    def without_model(self) -> Record:
        """Return what happened, without what came of it."""
        return Record(self.bound, self.converged, self.passes)
