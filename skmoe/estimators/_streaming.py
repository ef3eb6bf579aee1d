"""Learning from a stream of rows that comes in batches."""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from joblib import effective_n_jobs
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_consistent_length

from ..backends import like, on_host, total_of, using
from ..em import Problem, Stream, absorb, open_stream, stacked
from ..experts import take_rows
from . import _gate_and_experts as parts
from ._fitted import parts_of, set_fitted
from ._plans import names_starts
from ._reading import read_task
from ._record import report, warn_of_top_k
from ._task import Settings, chooses_number, n_asked
from ._training import trained
from ._validation import N_EXPERTS, about, given, read_weights, refuse_lazy

FEW = 10
"""Rows per expert below which a single expert learns all rows."""

ENOUGH = 4000
ENOUGH_EACH = 200
"""Rows of the last start, in all and per expert. Until then all rows are kept, and a
fit starts again on them whenever they are `GROWN` times as many, because where EM ends
depends on where it starts. A start on at least half of `ENOUGH` rows is not repeated,
and a start on more than twice as many takes a sample of them. A stream that was shaken
starts anew in the same way."""

GROWN = 4
"""Factor between the rows of two starts; see `ENOUGH`."""

SHORT = 20
"""Most passes of a start; the stream continues from there."""

RUN = 4096
"""Rows, about, that are learned at a time. A larger batch is learned in several runs,
each with its own step."""

NUMBA_ROWS = 1000
"""Rows of a start from which compiled kernels repay their loading in a stream."""


@dataclass(frozen=True, eq=False)
class Early:
    """The rows of a stream that may still start again."""

    X: Any
    y: np.ndarray
    weight: np.ndarray
    started: int = 0

    def __len__(self) -> int:
        return len(self.weight)

    def plus(self, other: Early) -> Early:
        """Return the rows of both."""
        X = stacked(self.X, other.X)
        y = np.concatenate([self.y, other.y])
        weight = np.concatenate([self.weight, other.weight])
        return Early(X, y, weight, self.started)

    def take(self, rows: np.ndarray) -> Early:
        """Return some of the rows."""
        return Early(take_rows(self.X, rows), self.y[rows], self.weight[rows])


class StreamingMixin:
    """What `partial_fit` does in both estimators.

    Private attributes: ``_stream`` is what was learned so far, ``_early`` has the rows
    on which a start may be repeated, ``_rows_learned`` is the weight of all rows.
    """

    _stream: Stream | None = None
    _early: Early | None = None

    def _learn(self, X, y, sample_weight) -> None:
        """Learn from a batch: the first, or a later one."""
        self._check_can_stream()
        if not hasattr(self, "gate_"):
            warn_of_top_k(self)
            self._start(self._rows_as_given(X, y, sample_weight))
            return
        shaken = self._absorb(self._batch(X, y, sample_weight))
        early = self._early
        if early is None and not shaken:
            return
        rows = self._rows_as_given(X, y, sample_weight)
        if early is None:
            self._early = replace(rows, started=self._enough // GROWN**2)
        else:
            self._early = early.plus(rows)
        if self._is_due(self._early):
            self._start(self._early)

    def _check_can_stream(self) -> None:
        """Raise if partial_fit cannot do what a parameter asks."""
        name = type(self).__name__
        if self.shared_expert is not None and not isinstance(self.shared_expert, str):
            raise ValueError(
                f"partial_fit of {name} cannot learn a shared_expert; got "
                f"{self.shared_expert!r}. Set shared_expert=None."
            )
        if self._shared is not None:
            raise ValueError(
                f"{name} was fitted with a shared expert, which partial_fit cannot "
                "learn. Fit it with shared_expert=None."
            )
        self._check_stream_of_kind()
        if not names_starts(self):
            raise ValueError(
                "partial_fit needs init to name starts; got responsibilities, which "
                "belong to the rows of one fit."
            )

    def _check_stream_of_kind(self) -> None:
        """Raise if partial_fit cannot do what a parameter of this kind asks."""

    # ---------------------------------------------------------------- the first rows
    def _rows_as_given(self, X, y, sample_weight) -> Early:
        """Return a batch as given, in containers that can be stacked."""
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} estimator requires y to be passed, but "
                "the target y is None."
            )
        refuse_lazy(X, "X")
        if not hasattr(X, "shape") and not hasattr(X, "__dataframe__"):
            X = np.asarray(X)
        if sparse.issparse(X):
            X = X.tocsr()
        with about("y"):
            y = self._check_target(given(y, "y"))
        weight = read_weights(sample_weight, y)
        return Early(X, y, weight)

    @property
    def _n_wanted(self) -> int:
        """Number of experts that are wanted; a guess where the rows decide."""
        return N_EXPERTS if chooses_number(self) else n_asked(self)

    @property
    def _enough(self) -> int:
        """Number of rows for the last start."""
        return max(ENOUGH, ENOUGH_EACH * self._n_wanted)

    def _is_due(self, early: Early) -> bool:
        """Tell whether to start again, on more rows."""
        if early.started < FEW * self._n_wanted <= len(early):
            return True
        return len(early) >= min(GROWN * early.started, self._enough)

    def _start(self, early: Early) -> None:
        """Fit a mixture to the first rows, by a short fit of the usual kind.

        It replaces the mixture so far unless the latter explains the rows better.
        """
        check_consistent_length(early.X, early.y)
        n_rows = len(early)
        rest = None
        if n_rows > 2 * self._enough:
            random = check_random_state(self.random_state)
            chosen = np.zeros(n_rows, dtype=bool)
            chosen[random.permutation(n_rows)[: 2 * self._enough]] = True
            rest = early.take(np.flatnonzero(~chosen))
            early = early.take(np.flatnonzero(chosen))
        is_better = self._fit_first(early)
        again = 2 * n_rows < self._enough
        self._early = replace(early, started=n_rows) if again else None
        if not is_better:
            return
        self._forget_classes()
        problem = self._batch(early.X, early.y, early.weight)
        with self._streaming(problem), np.errstate(over="ignore", invalid="ignore"):
            self._set_stream(self._opened(problem, None))
        if rest is not None and (rest.weight > 0).any():
            self._absorb(self._batch(rest.X, rest.y, rest.weight))

    def _fit_first(self, early: Early) -> bool:
        """Fit a mixture to the first rows; go back to the old one if that is better."""
        before = dict(vars(self))
        level = _explained(self, early) if hasattr(self, "gate_") else -np.inf
        settings = self._settings_of_start(len(early))
        self._forget_classes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            task = read_task(self, settings, early.X, early.y, early.weight)
            training = trained(self, task)
            set_fitted(self, training.attributes, afresh=True)
            report(self, settings, training)
        is_better = not level > _explained(self, early)
        if not is_better:
            self.__dict__ = before
        return is_better

    def _settings_of_start(self, n_rows: int) -> Settings:
        """Return the settings of a first fit; it has one expert if rows are few."""
        settings = replace(
            Settings.of(self),
            max_iter=min(self.max_iter, SHORT),
            random_state=copy.deepcopy(self.random_state),
            warm=False,
            starts_stream=True,
        )
        if n_rows < FEW * self._n_wanted:
            several = isinstance(self.expert, (list, tuple))
            expert = self.expert[0] if several else self.expert
            settings = replace(settings, n_experts=1, expert=expert)
        if self.backend == "auto" and n_rows >= NUMBA_ROWS:
            settings = replace(settings, backend="numba")
        return settings

    # ------------------------------------------------------------------- the stream
    def _absorb(self, problem: Problem) -> bool:
        """Learn from rows after the start; tell whether they shook the mixture."""
        shaken = False
        with self._streaming(problem), np.errstate(over="ignore", invalid="ignore"):
            stream = self._stream or self._opened(problem, self.expert_load_)
            n_rows = problem.sample_weight.shape[0]
            for rows in np.array_split(np.arange(n_rows), -(-n_rows // RUN)):
                part = problem
                if len(rows) < n_rows:
                    part = problem.take(like(rows, problem.sample_weight))
                stream = absorb(part, stream, self._rule)
                shaken = shaken or stream.shaken
            self._rows_learned += _total(problem)
            self._set_stream(stream)
        return shaken

    def _opened(self, problem: Problem, load: np.ndarray | None) -> Stream:
        """Return the stream that goes on from the fitted mixture."""
        _, gate = parts.split_gate(self.gate_)
        return open_stream(
            problem,
            gate,
            self._pool,
            self._rule,
            self._rows_learned,
            self.routed_bound_,
            load,
        )

    def _set_stream(self, stream: Stream) -> None:
        before, _ = parts.split_gate(self.gate_)
        load = stream.load / stream.load.sum()
        attributes = parts_of(self, before, stream.gate, stream.pool, load)
        attributes |= {
            "_own_pool": getattr(stream.pool, "pool", stream.pool),
            "lower_bound_": stream.level.mean,
            "routed_bound_": stream.routed.mean,
            "_stream": stream,
        }
        set_fitted(self, attributes)

    def _batch(self, X, y, sample_weight) -> Problem:
        """Return a batch as a problem, without rows of weight zero."""
        problem, *_ = self._seen(X, y, sample_weight, self.n_experts_)
        weight = self._class_weighted(problem.y, on_host(problem.sample_weight))
        used = np.flatnonzero(weight > 0)
        if not used.size:
            raise ValueError(
                "Sample weights must contain at least one non-zero number."
            )
        all_used = len(used) == len(weight)
        weight = like(weight, problem.sample_weight, problem.sample_weight.dtype)
        problem = replace(problem, sample_weight=weight)
        return problem if all_used else problem.take(like(used, weight))

    def _class_weighted(self, y, weight: np.ndarray) -> np.ndarray:
        """Return row weights times the weights of their classes."""
        return weight

    def _forget_classes(self) -> None:
        """Forget the number of rows of each class."""

    def _streaming(self, problem: Problem) -> AbstractContextManager:
        """Return the context of a batch: all rows so far say whether kernels repay."""
        n_threads = None if self.n_jobs is None else effective_n_jobs(self.n_jobs)
        n_columns = max(problem.X_gate.shape[1], self.n_experts_)
        n_rows = problem.sample_weight.shape[0]
        return using(
            self.backend, int(n_rows + self._rows_learned) * n_columns, n_threads
        )


def _explained(model: Any, rows: Early) -> float:
    """Return the mean log-likelihood of rows, routed as in predict."""
    score = on_host(model.score_samples(rows.X, rows.y))
    return float(np.average(score, weights=rows.weight))


def _total(problem: Problem) -> float:
    """Return the weight of all rows."""
    weight = problem.sample_weight
    return total_of(weight)
