"""`Routing`: which experts each row goes to, and with what weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, repeat

import numpy as np
from scipy import sparse

from ..backends import Array, device_of, filled, like, namespace, select, to_host


@dataclass(frozen=True, eq=False)
class Routing:
    """A sparse (n_rows, n_experts) matrix with a fixed number of entries per row.

    The gate's choice, the E-step's responsibilities and an initial clustering are all
    routings. `indices` and `weights` are the row-major view. The expert-major view,
    which lists the rows of each expert, is built once by a counting sort and shared by
    every routing derived with `with_weights`.

    Parameters
    ----------
    indices : (n_rows, width) array of int
        Expert of each entry, -1 where a row has fewer entries. An expert occurs at
        most once per row.
    weights : (n_rows, width) array of float
        Weight of each entry; zero at entries of -1.
    n_experts : int
        Number of experts.
    dense : bool, default=False
        Whether column k is expert k in every row, which needs no sorting.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.routing import Routing
    >>> routing = Routing(np.array([[2, 0], [1, 2]]),
    ...                   np.array([[0.75, 0.25], [0.5, 0.5]]), n_experts=3)
    >>> routing.to_csr().toarray()
    array([[0.25, 0.  , 0.75],
           [0.  , 0.5 , 0.5 ]])
    >>> rows, weights = routing.segment(2)
    >>> rows, weights
    (array([0, 1]), array([0.75, 0.5 ]))
    """

    indices: Array
    weights: Array
    n_experts: int
    dense: bool = False

    # -------------------------------------------------------------- builders
    @classmethod
    def from_dense(cls, weights: Array) -> Routing:
        """Make a routing that sends each row to all experts."""
        xp = namespace(weights)
        n, n_experts = weights.shape
        experts = xp.arange(n_experts, dtype=xp.int64, device=device_of(weights))
        indices = xp.broadcast_to(experts, (n, n_experts))
        return cls(indices, weights, n_experts, dense=True)

    @classmethod
    def from_labels(cls, labels: Array, n_experts: int) -> Routing:
        """Make a routing that sends row i only to expert ``labels[i]``."""
        xp = namespace(labels)
        indices = xp.expand_dims(labels, axis=-1)
        weights = xp.ones_like(indices, dtype=xp.float64)
        return cls(indices, weights, n_experts)

    @classmethod
    def mean(cls, routings: Sequence[Routing]) -> Routing:
        """Return the mean of several routings of the same rows."""
        total = sum(routing.to_csr() for routing in routings) / len(routings)
        size = np.diff(total.indptr)
        there = np.arange(size.max(initial=0)) < size[:, None]
        indices = np.full(there.shape, -1)
        weights = np.zeros(there.shape)
        indices[there] = total.indices
        weights[there] = total.data
        first = routings[0]
        return cls(indices, weights, first.n_experts).like(first.weights)

    # --------------------------------------------------------- derived views
    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and of entries per row."""
        return self.indices.shape

    @cached_property
    def expert_major(self) -> tuple[Array, list[int]]:
        """Entries sorted by expert: (order, bounds of the segments)."""
        order, offsets = select(self.indices).expert_major(self.indices, self.n_experts)
        bounds = to_host(offsets).tolist()
        return order, bounds

    def with_weights(self, weights: Array) -> Routing:
        """Return the same entries with other weights; the sorted view is shared."""
        other = Routing(self.indices, weights, self.n_experts, self.dense)
        if "expert_major" in self.__dict__:
            other.__dict__["expert_major"] = self.expert_major
        return other

    def scaled(self, row_weights: Array) -> Routing:
        """Return the routing with row i's weights multiplied by ``row_weights[i]``."""
        xp = namespace(self.weights)
        return self.with_weights(self.weights * xp.expand_dims(row_weights, axis=-1))

    def only(self, experts: np.ndarray) -> Routing:
        """Return the routing in which the weights of other experts are zero.

        Parameters
        ----------
        experts : (n_experts,) array of bool
        """
        xp = namespace(self.weights)
        counted = self.lookup(like(experts, self.indices))
        zero = xp.zeros_like(self.weights)
        return self.with_weights(xp.where(counted, self.weights, zero))

    def lookup(self, table: Array) -> Array:
        """Return the row of a table for the expert of each entry.

        Parameters
        ----------
        table : (n_experts, ...) array

        Returns
        -------
        (n_rows, width, ...) array
            In the container of the table; entries of -1 get the first expert's row.
        """
        xp = namespace(table)
        flat = xp.reshape(like(filled(self.indices), table), (-1,))
        return xp.reshape(xp.take(table, flat, axis=0), (*self.shape, *table.shape[1:]))

    def take(self, rows: Array) -> Routing:
        """Return the routing of some of the rows."""
        ops = select(self.weights)
        return Routing(
            ops.take_rows(self.indices, rows),
            ops.take_rows(self.weights, rows),
            self.n_experts,
            self.dense,
        )

    def rows(self, rows: slice) -> Routing:
        """Return the routing of a run of rows."""
        own = self.indices[rows, :], self.weights[rows, :]
        return Routing(*own, self.n_experts, self.dense)

    # ------------------------------------------------------- expert by expert
    def segment(self, expert: int) -> tuple[Array | None, Array]:
        """Return (rows, weights) of one expert; rows None means all rows."""
        if self.dense:
            return None, self.weights[:, expert]
        order, bounds = self.expert_major
        entries = order[bounds[expert] : bounds[expert + 1]]
        xp = namespace(order)
        weights = xp.take(xp.reshape(self.weights, (-1,)), entries)
        return entries // self.shape[1], weights

    def segments(self) -> Iterator[tuple[int, Array | None, Array]]:
        """Yield (expert, rows, weights) for each expert, empty ones included."""
        for expert in range(self.n_experts):
            yield expert, *self.segment(expert)

    def dispatch(
        self,
        answer: Callable[[int, Array | None], Array],
        n_outputs: int,
        ask: Callable[..., Iterable[Array]] = map,
    ) -> Array:
        """Ask each expert about its rows; return the answers entry by entry.

        Parameters
        ----------
        answer : callable
            ``answer(expert, rows) -> (n_rows_of_expert, q)``, called once for each
            expert that has rows. ``rows`` None means all rows.
        n_outputs : int
            Number of columns q of an answer.
        ask : callable
            Does as `map` does, maybe in parallel.

        Returns
        -------
        (n_rows, width, q) array
            Zero at entries of -1.
        """
        if self.dense:
            xp = namespace(self.weights)
            n_experts = self.n_experts
            every = ask(answer, range(n_experts), repeat(None, n_experts))
            return xp.stack(list(every), axis=1)
        order, bounds = self.expert_major
        runs = [(k, a, b) for k, (a, b) in enumerate(pairwise(bounds)) if b > a]
        rows = (order[a:b] // self.shape[1] for _, a, b in runs)
        parts = list(ask(answer, [k for k, *_ in runs], rows))
        if bounds[0] or not parts:
            like = parts[0] if parts else self.weights
            blank = namespace(like).zeros(
                (bounds[0], n_outputs), dtype=like.dtype, device=device_of(like)
            )
            parts.insert(0, blank)
        return select(order).spread(parts, order, self.shape)

    def combine(self, values: Array) -> Array:
        """Return the weighted sum of (n_rows, width, q) entry values, (n_rows, q)."""
        return select(values).combine(self.weights, values)

    def sum_by_expert(self, values: Array) -> np.ndarray:
        """Return the (n_experts,) float64 sums of (n_rows, width) entry values."""
        ops = select(values)
        if self.dense:
            return np.asarray(ops.sum_by_expert(values, None, None))
        order, bounds = self.expert_major
        return np.asarray(ops.sum_by_expert(values, order, np.asarray(bounds)))

    def weighted_sums(self, X: Array) -> Array:
        """Return Σ_i w_ik [x_i, 1] for each expert, (n_experts, d + 1), in float64."""
        ops = select(X, self.weights)
        if self.dense:
            return ops.column_sums(X, self.weights)
        order, bounds = self.expert_major
        return ops.segment_sums(X, self.weights, order, np.asarray(bounds))

    def load(self) -> np.ndarray:
        """Return how many rows each expert has, (n_experts,)."""
        xp = namespace(self.weights)
        present = (self.indices >= 0) & (self.weights > 0)
        return self.sum_by_expert(xp.astype(present, xp.float64))

    @cached_property
    def row_sums(self) -> Array:
        """The weight of each row, (n_rows,)."""
        # We use a product: sums along short rows do not run in vector registers.
        w = self.weights
        xp = namespace(self.weights)
        return w @ xp.ones(w.shape[1], dtype=w.dtype, device=device_of(w))

    # ------------------------------------------------------------ conversions
    def like(self, other: Array) -> Routing:
        """Return the routing in the container and on the device of ``other``."""
        return Routing(
            like(self.indices, other),
            like(self.weights, other),
            self.n_experts,
            self.dense,
        )

    def to_csr(self) -> sparse.csr_array:
        """Return the routing as a scipy CSR array on the host; zeros are dropped."""
        indices = to_host(self.indices)
        weights = to_host(self.weights)
        there = (indices >= 0) & (weights != 0)
        indptr = np.concatenate([[0], np.cumsum(there.sum(axis=1))])
        csr = sparse.csr_array(
            (weights[there], indices[there], indptr),
            shape=(indices.shape[0], self.n_experts),
        )
        csr.sort_indices()
        return csr


def gather(values: Array, indices: Array) -> Array:
    """Return ``values[i, indices[i, j]]`` of an (n, n_experts) array."""
    xp = namespace(values)
    return xp.take_along_axis(values, filled(indices), axis=-1)
