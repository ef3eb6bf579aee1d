"""Bags and neighbours that judge each of their own rows without that row.

A bag of learners asks the members whose bag the row was not in [1]_. Nearest neighbours
ask the row's neighbours other than itself.

References
----------
.. [1] L. Breiman, "Out-of-bag estimation", Technical report, Statistics Department,
   University of California, Berkeley (1996).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Any, Self

import numpy as np
from joblib import delayed
from sklearn.base import BaseEstimator, is_classifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, get_tags

from .._learners import resample, standardises
from ..backends import Array, like, namespace, one_blas_thread, to_host
from ..routing import Routing
from ._base import ExpertPool, floored, host_rows, take_rows
from ._estimator_pool import Asking, EstimatorPool
from ._own_rows import OwnRows, alike, forgetful, swapped, taken

BLIND = tuple(
    f"sklearn.{name}"
    for name in ("compose", "decomposition", "impute", "pipeline", "preprocessing")
)
"""Modules whose transformers learn nothing from y, unless their tags say they do."""


class LeftOutPool(EstimatorPool):
    """Clones of learners that can judge their own rows without the row.

    These are bags and neighbours, alone or at the end of a Pipeline whose other steps
    do not learn from y. These steps are not fitted again without the row.

    Notes
    -----
    A row that is in every bag is judged in sample, as by any other pool. That happens
    if there are few members, and to rows whose weight is far above the mean.

    An expert whose share is empty is fitted on all rows, and remembers all of them.
    """

    left: dict[int, OwnRows]

    @classmethod
    def leaves_out(cls, learner: BaseEstimator) -> bool:
        """Tell whether a learner can judge its own rows without the row."""
        if standardises(learner):
            learner = learner.regressor
        while isinstance(learner, Pipeline):
            if not all(_is_blind(step) for _, step in learner.steps[:-1]):
                return False
            learner = learner.steps[-1][1]
        return _way_of(learner) is not None

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Fit one clone per expert on its share; an empty share means all rows."""
        self.left = {}
        return super().fit(X, y, routing)

    def _fit_experts(self, X: Array, y: Array, routing: Routing) -> Asking:
        self.left = dict(self.left)  # the pool that this is a copy of keeps its own
        yield from super()._fit_experts(X, y, routing)
        none = np.empty(0, dtype=np.intp)
        for k in range(self.n_experts):
            self.left.setdefault(k, OwnRows(none, np.empty((0, self.n_outputs))))

    def _fit_each(
        self, X: Array, target: np.ndarray, shares: dict[int, tuple[Array, Array]]
    ) -> Asking:
        """Return the expert of each share, and remember its answers for the share."""
        experts = yield from super()._fit_each(X, target, shares)
        fitted = {k: e for k, e in experts.items() if not isinstance(e, ValueError)}
        calls = (
            delayed(_judge)(
                expert, host_rows(X, rows), target[rows], weights, self.seeds[k]
            )
            for k, expert in fitted.items()
            for rows, weights in [shares[k]]
        )
        answers = yield len(fitted), calls
        for (k, expert), answer in zip(fitted.items(), answers, strict=True):
            self.left[k] = self._own_rows(expert, shares[k][0], target, answer)
        return experts

    def _follow(self, k: int, leader: int) -> None:
        self.left[k] = self.left[leader]

    def _own_rows(
        self, expert: Any, rows: np.ndarray, target: np.ndarray, answer: np.ndarray
    ) -> OwnRows:
        """Return an expert's answers for the rows that it can leave out."""
        finite = np.isfinite(answer).all(axis=1)
        rows, answer = rows[finite], answer[finite]
        if self.classes is None:
            return OwnRows(rows, answer - self.likelihood.origin_)
        proba = np.zeros((len(rows), len(self.classes)))
        proba[:, np.searchsorted(self.classes, expert.classes_)] = answer
        label = np.searchsorted(self.classes, target[rows])[:, None]
        return OwnRows(rows, np.log(np.take_along_axis(floored(proba), label, axis=1)))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the experts' answers, for an expert's own rows without the row."""
        xp = namespace(routing.weights)
        n = routing.shape[0]

        def recall(k: int, rows: Array | None) -> Array:
            rows = None if rows is None else to_host(rows)
            return like(self.left[k].at(rows, n), routing.weights)

        without_row = routing.dispatch(
            recall, self.n_outputs if self.classes is None else 1
        )
        there = ~xp.isnan(without_row[:, :, 0])
        others = xp.where(there, -1, routing.indices)
        rest = Routing(others, routing.weights, routing.n_experts)
        return xp.where(there[:, :, None], without_row, super().evaluate(X, y, rest))

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        chosen = super().swap(other, take)
        chosen.left = swapped(self.left, other.left, take)
        return chosen

    def take(self, experts: np.ndarray) -> Self:
        """Return a pool of some of the experts."""
        other = super().take(experts)
        other.left = taken(self.left, experts)
        return other

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        return forgetful(self, EstimatorPool)


def _is_blind(step: Any) -> bool:
    """Tell whether all parts of a transformer are known to learn nothing from y.

    One that reads y would give away the label of a row that a later step leaves out.
    """
    parts = [step, *getattr(step, "get_params", dict)().values()]
    return all(
        type(part).__module__.startswith(BLIND)
        and not get_tags(part).target_tags.required
        for part in parts
        if isinstance(part, BaseEstimator)
    )


def _judge(
    expert: Any, X: Array, target: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return a fitted clone's answers for its own rows, NaN where it has none.

    It runs in a worker process if n_jobs asks for that.
    """
    if standardises(expert):
        units = expert.transformer_
        target = units.transform(target.reshape(len(target), -1))
        target = target[:, 0] if target.shape[1] == 1 else target
        answer = _judge(expert.regressor_, X, target, weights, seed)
        return units.inverse_transform(answer)
    while isinstance(expert, Pipeline):
        for _, step in expert.steps[:-1]:
            X = step.transform(X) if hasattr(step, "transform") else X
        expert = expert.steps[-1][1]
    way = _way_of(expert)
    if way is None:  # the constant that replaces the learner of a single class
        return np.full((len(weights), 1), np.nan)
    with one_blas_thread():
        return way(expert, X, target, weights, seed)


def _is_bag(learner: Any) -> bool:
    # Subclasses may draw their bags, or mix their members, in other ways.
    ours = type(learner).__module__.startswith("sklearn.ensemble.")
    drawn = learner.get_params(deep=False).get("bootstrap", False)
    return ours and bool(drawn) and hasattr(type(learner), "estimators_samples_")


def out_of_bag(
    expert: Any, X: Array, target: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return the mean answer of the members whose bag has no copy of the row, (n_k, q).

    It is NaN if there are none. Without copies it equals the answers of
    ``oob_score=True``, which some bags cannot give: those of several outputs, and those
    that lack a class.
    """
    X = check_array(X, accept_sparse="csr", dtype=None, ensure_all_finite=False)
    classify = is_classifier(expert)
    answer = _probabilities if classify else _means
    width = expert.classes_.size if classify else target[0].size
    columns = getattr(expert, "estimators_features_", repeat(slice(None)))
    total = np.zeros((len(weights), width))
    count = np.zeros((len(weights), 1))
    same = alike(X, target)
    for member, bag, features in zip(
        expert.estimators_, expert.estimators_samples_, columns, strict=False
    ):
        met = np.bincount(same[bag], minlength=len(weights)) > 0
        out = np.flatnonzero(~met[same])
        if out.size:
            total[out] += answer(member, X[out][:, features], width)
            count[out] += 1
    return total / np.where(count > 0, count, np.nan)


def _means(member: Any, X: Array, n_outputs: int) -> np.ndarray:
    return member.predict(X).reshape(-1, n_outputs)


def _probabilities(member: Any, X: Array, n_classes: int) -> np.ndarray:
    """Return class probabilities, or votes; members predict the numbers of classes."""
    if not hasattr(member, "predict_proba"):
        return np.equal(member.predict(X)[:, None], np.arange(n_classes))
    proba = np.zeros((X.shape[0], n_classes))
    proba[:, np.asarray(member.classes_, dtype=np.intp)] = member.predict_proba(X)
    return proba


def _is_neighbours(learner: Any) -> bool:
    # A subclass may do anything.
    plain = type(learner) in (KNeighborsRegressor, KNeighborsClassifier)
    return plain and learner.metric != "precomputed"


def other_neighbours(
    expert: Any, X: Array, target: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return the answer for each row of its neighbours other than its copies, (n_k, q).

    Neighbours take no weights: the expert was fitted on rows drawn by `resample`, which
    draws a row of weight 2.3 two or three times. The answer is NaN if no copy of the
    row was drawn, so that the expert has not seen it, or if it has no other neighbour.
    """
    drawn = resample(weights, seed)
    drawn = np.arange(len(weights)) if drawn is None else drawn
    same = alike(X, target)
    copies = np.bincount(same[drawn], minlength=len(weights))[same]
    if is_classifier(expert):
        target = target[:, None] == expert.classes_
    answers = target[drawn].reshape(len(drawn), -1).astype(np.float64)
    values = np.full((len(weights), answers.shape[1]), np.nan)
    for n_copies in np.unique(copies[copies > 0]):
        k = min(expert.n_neighbors, len(drawn) - n_copies)
        if k > 0:
            rows = np.flatnonzero(copies == n_copies)
            distance, nearest = expert.kneighbors(take_rows(X, rows), k + n_copies)
            is_copy = same[drawn[nearest]] == same[rows][:, None]
            others = np.argsort(is_copy, axis=1, kind="stable")[:, :k]
            distance = np.take_along_axis(distance, others, axis=1)
            nearest = np.take_along_axis(nearest, others, axis=1)
            part = _neighbour_shares(expert.weights, distance)
            values[rows] = sum(part[:, [j]] * answers[nearest[:, j]] for j in range(k))
    return values


def _neighbour_shares(rule: Any, distance: np.ndarray) -> np.ndarray:
    """Return the share of each neighbour in the answer; rows sum to one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if callable(rule):
            weights = rule(distance)
        elif rule == "distance":
            weights = 1.0 / distance
            same = np.isinf(weights)
            weights = np.where(same.any(axis=1, keepdims=True), same, weights)
        else:
            weights = np.ones_like(distance)
        return weights / weights.sum(axis=1, keepdims=True)


WAYS: list[tuple[Callable[[Any], bool], Callable[..., np.ndarray]]] = [
    (_is_bag, out_of_bag),
    (_is_neighbours, other_neighbours),
]
"""Learners that can leave out a row, and the functions that do so."""


def _way_of(learner: Any) -> Callable[..., np.ndarray] | None:
    """Return how a learner leaves out its own rows; None if it cannot."""
    return next((way for serves, way in WAYS if serves(learner)), None)
