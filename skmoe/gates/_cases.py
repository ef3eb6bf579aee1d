r"""Gates that average the responsibilities of stored cases.

A *case* is a leaf of a tree, a neighbour or a class of a classifier. It sends known
shares of its mass to certain experts. Such a gate answers with

.. math:: p(k | x) \propto \sum_c a_c(x) R_{ck} + b(x) \pi_k

This module and its gates use these names and shapes:

================  ================  ==================================================
name              shape             meaning
================  ================  ==================================================
``weights``, a    (n, n_cases) CSR  how much each case counts for a row
``background``,b  (n,)              how much the population counts
``table_``, R     (n_cases, K) CSR  what each case gives to each expert
``share_``, π     (K,)              the experts' shares of the population, none zero
``local``, aR     (n, K) CSR        what the cases of a row give to each expert
================  ================  ==================================================

Both factors are sparse, so the cost of a row depends on the entries of its cases, not
on the number of experts.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy import sparse

from ..backends import Array, filled, like, namespace, on_host, select, to_host
from ._base import SurveyedGate

SHARE_FLOOR = 1e-6
"""The part of the population's mass that all experts share evenly, so none has 0."""


class CaseGate(SurveyedGate):
    """Base class of gates that average the responsibilities of stored cases.

    A subclass fills ``table_``, ``share_`` and ``n_experts_`` in ``fit``, and writes
    ``_cases``.
    """

    memorises = True
    table_: sparse.csr_array
    share_: np.ndarray
    n_experts_: int

    @abstractmethod
    def _cases(self, X: Array) -> tuple[sparse.csr_array, np.ndarray]:
        """Return (weights, background) of rows that are on the host."""

    def log_proba(self, X: Array) -> Array:
        return like(self._whole(on_host(X)), X, X.dtype)

    def best(self, X: Array, top_k: int) -> tuple[Array, Array]:
        parts = [self._best(*cases, top_k) for _, cases in self._blocks(on_host(X))]
        log_best, best = (np.concatenate(part) for part in zip(*parts, strict=True))
        return like(log_best, X, X.dtype), _indices_like(best, X)

    def survey(
        self, X: Array, indices: Array, top_k: int
    ) -> tuple[Array, Array, Array]:
        wanted = to_host(indices)
        parts = []
        for rows, cases in self._blocks(on_host(X)):
            log_best, best = self._best(*cases, top_k)
            parts.append((self._at(*cases, wanted[rows]), best, log_best))
        log_at, best, log_best = (np.concatenate(p) for p in zip(*parts, strict=True))
        return (
            like(log_at, X, X.dtype),
            _indices_like(best, X),
            like(log_best, X, X.dtype),
        )

    def take(self, experts: np.ndarray) -> Self:
        other = copy.copy(self)
        experts = np.asarray(experts)
        times = np.bincount(experts, minlength=self.n_experts_)[experts]
        other.table_ = sparse.csr_array(self.table_[:, experts] / times)
        other.share_ = self.share_[experts] / times
        other.n_experts_ = len(experts)
        return other

    # ---------------------------------------------------------- rows on the host
    def _whole(self, X: Array) -> np.ndarray:
        """Return log p(k | x) of all experts, (n, K)."""
        weights, background = self._cases(X)
        mass = (weights @ self.table_).toarray()
        mass += background[:, None] * self.share_
        return np.log(mass / mass.sum(axis=1, keepdims=True))

    def _blocks(
        self, X: Array
    ) -> Iterator[tuple[slice, tuple[sparse.csr_array, np.ndarray]]]:
        """Yield (rows, (local, background)), both divided by the row's sum."""
        ops = select(X)
        for rows in ops.row_blocks(X.shape[0], self._entries_a_row()):
            weights, background = self._cases(ops.block_of(X, rows))
            local = weights @ self.table_
            local.sort_indices()
            total = local.sum(axis=1) + background * self.share_.sum()
            local.data /= np.repeat(total, np.diff(local.indptr))
            yield rows, (local, background / total)

    @abstractmethod
    def _entries_a_row(self) -> int:
        """Return about how many entries of the table are read per row."""

    def _at(
        self, local: sparse.csr_array, background: np.ndarray, asked: np.ndarray
    ) -> np.ndarray:
        """Return log p(k | x) of the experts asked, -inf at -1."""
        experts = filled(asked)
        mass = local[np.arange(len(asked))[:, None], experts].toarray()
        log_at = np.log(mass + background[:, None] * self.share_[experts])
        return np.where(asked < 0, -np.inf, log_at)

    def _best(
        self, local: sparse.csr_array, background: np.ndarray, top_k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (log_best, best) of a block.

        Experts that no case of a row knows are ranked by their shares of the
        population, so the ``top_k`` with the largest shares suffice.
        """
        near, mass = padded(local)
        mass = np.where(
            near < 0,
            0.0,
            mass + background[:, None] * self.share_[filled(near)],
        )
        common = np.argsort(-self.share_, stable=True)[:top_k]
        new = ~(near[:, :, None] == common).any(axis=1)
        others = np.where(new, background[:, None] * self.share_[common], 0.0)
        experts = np.hstack([near, np.broadcast_to(common, others.shape)])
        top, places = select(mass).top_k(np.hstack([mass, others]), top_k)
        return np.log(top), np.take_along_axis(experts, places, axis=1)


def _indices_like(experts: np.ndarray, X: Array) -> Array:
    return experts if namespace(X) is np else like(experts, X)


def population(targets: sparse.csr_array) -> np.ndarray:
    """Return each expert's share of the mass, raised so that none is zero."""
    mass = targets.sum(axis=0)
    floor = SHARE_FLOOR * mass.sum() / len(mass)
    return (mass + floor) / (mass + floor).sum()


def padded(rows: sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return the entries of each row as (columns, values), -1 and 0 where it ends."""
    length = np.diff(rows.indptr)
    place = np.arange(length.max(initial=0))
    has = place < length[:, None]
    at = np.where(has, rows.indptr[:-1, None] + place, 0)
    return np.where(has, rows.indices[at], -1), np.where(has, rows.data[at], 0.0)
