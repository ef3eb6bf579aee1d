r"""Pools that judge an expert's own rows as if it had not seen them.

An expert remembers the rows that it is fitted on, so its likelihood of these flatters
it. Folds undo that by refitting. Some learners say what they would have said without
a row from the one fit that they have:

* least squares, in closed form from the leverage of the row [1]_;
* bags of learners, by the members whose bag the row was not in [2]_;
* nearest neighbours, by the row's neighbours other than itself.

A row goes with all rows that equal it, or its copies would give it away.

References
----------
.. [1] D. M. Allen, "The relationship between variable selection and data augmentation
   and a method for prediction", Technometrics 16 (1974) 125-127.
   doi:10.1080/00401706.1974.10489157
.. [2] L. Breiman, "Out-of-bag estimation", Technical report, Statistics Department,
   University of California, Berkeley (1996).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Self

import numpy as np
from joblib import Parallel, delayed
from scipy import sparse
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from sklearn.base import BaseEstimator, is_classifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array, get_tags

from .._learners import resample, standardises
from ..backends import (
    Array,
    device_of,
    like,
    namespace,
    one_blas_thread,
    select,
    to_host,
)
from ..routing import Routing
from ..solvers import SINGULAR, equilibrated, singular_root, without_constants
from ._base import ExpertPool, floored, host_rows, take_rows
from ._estimator_pool import EstimatorPool
from ._linear_pool import LinearPool

LONE = 1.0 - 1e-6
"""Leverage from which a row counts as the only one that decides some direction of the
fit: y - ŷ and 1 - h are rounding there, and so is their ratio."""

WIDE = 128
"""Features beyond which blocks of rows, while leverages are computed, are no shorter:
each reads a (d, d) matrix, which a few rows do not repay."""

BLIND = tuple(
    f"sklearn.{name}"
    for name in ("compose", "decomposition", "impute", "pipeline", "preprocessing")
)
"""Where transformers are that learn nothing from y, unless their tags say they do."""


def left_out(pool: ExpertPool) -> ExpertPool | None:
    """Return the pool that trains the same experts and judges each without its row.

    Parameters
    ----------
    pool : ExpertPool
        A pool that is not fitted yet.

    Returns
    -------
    ExpertPool or None
        None if some learner cannot leave out a row without being fitted again.
    """
    judges: dict[type[ExpertPool], type[LeaveOneOutPool] | type[LeftOutPool]]
    judges = {LinearPool: LeaveOneOutPool, EstimatorPool: LeftOutPool}
    judge = judges.get(type(pool))
    if judge is None or not all(judge.leaves_out(each) for each in pool.learners):
        return None
    return judge(pool.learners, **pool.options)


def _forgetful(pool: ExpertPool, kind: type[ExpertPool]) -> ExpertPool:
    """Return the pool as one of its parent class, without the rows of the experts."""
    plain = kind(pool.learners, **pool.options)
    vars(plain).update({k: v for k, v in vars(pool).items() if k != "left"})
    return plain


@dataclass(frozen=True, eq=False)
class OwnRows:
    """What an expert says of rows that it was fitted on, each without itself.

    Attributes
    ----------
    rows : (n_k,) array of int or None
        In ascending order; None stands for all rows.
    values : (n_k, q) array
        In the form of `ExpertPool.evaluate`.
    """

    rows: Array | None
    values: Array

    def at(self, rows: Array | None, n_rows: int) -> Array:
        """Return the values of rows (None: all ``n_rows``), NaN where it has none."""
        if self.rows is None:
            return take_rows(self.values, rows)
        xp, own = namespace(self.values), self.rows
        if rows is None:
            rows = xp.arange(n_rows, dtype=own.dtype, device=device_of(own))
        if not own.shape[0]:
            return xp.full(
                (rows.shape[0], self.values.shape[1]),
                xp.nan,
                dtype=self.values.dtype,
                device=device_of(own),
            )
        place = xp.searchsorted(own, rows)
        place = xp.where(place < own.shape[0], place, own.shape[0] - 1)
        found = xp.take(own, place) == rows
        return xp.where(found[:, None], xp.take(self.values, place, axis=0), xp.nan)


def _swapped(
    old: dict[int, OwnRows], new: dict[int, OwnRows], take: np.ndarray
) -> dict[int, OwnRows]:
    return {k: new[k] if taken else old[k] for k, taken in enumerate(take)}


# ------------------------------------------------------------------ least squares
class LeaveOneOutPool(LinearPool):
    """Ridge and LinearRegression experts, judged by weighted leave-one-out.

    To leave out a row is to give it weight zero: with an integer sample weight all of
    its copies go. The penalty and the other weights stay as they are.

    Notes
    -----
    The M-step maximises the likelihood of rows that are seen, so that of rows left out
    may fall; hence the slack.
    """

    slack = 1.0
    left: dict[int, OwnRows]

    @classmethod
    def leaves_out(cls, learner: BaseEstimator) -> bool:
        """Tell whether the pool can leave out a learner's rows: always."""
        return True

    def fit(self, X: Array, y: Array, routing: Routing) -> Self:
        """Solve every expert's normal equations; an empty share means all rows."""
        self.left = {}
        return super().fit(X, y, routing)

    def _solve(self, X: Array, y: Array, routing: Routing) -> list[int]:
        self.left = dict(self.left)  # what this pool is a copy of keeps its own
        return super()._solve(X, y, routing)

    def _solve_expert(
        self, k: int, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> None:
        learner, origin = self.learners[k], self.likelihood.origin_
        fit = RidgeFit.of(
            learner.fit_intercept, self.penalty(k), X, y, rows, weights, origin
        )
        self.coef[k], self.intercept[k] = fit.coef, fit.intercept
        gone = together(X, y, rows, weights)
        self.left[k] = OwnRows(rows, fit.leave_one_out(X, y, rows, gone))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return the predictions, of an expert's own rows without the row."""
        plain = super().evaluate(X, y, routing)
        xp, (n, _, q) = namespace(plain), plain.shape
        left = routing.dispatch(lambda k, rows: self.left[k].at(rows, n), q)
        return xp.where(xp.isnan(left), plain, left)

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        chosen = super().swap(other, take)
        chosen.left = _swapped(self.left, other.left, take)
        return chosen

    def shrunk(
        self, pooled: ExpertPool, learner_of: np.ndarray, strength: float
    ) -> ExpertPool | None:
        """Return None: what is shrunk are the answers for rows left out."""
        return None

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        return _forgetful(self, LinearPool)


def together(X: Array, y: Array, rows: Array | None, weights: Array) -> Array:
    """Return the weight of each row and of all rows that equal it."""
    if namespace(X, weights) is not np:  # rows of a device are not compared
        return weights
    same = alike(take_rows(X, rows), take_rows(y, rows))
    return np.bincount(same, weights)[same]


def alike(X: Any, target: np.ndarray) -> np.ndarray:
    """Return a number for each row, shared by rows of equal features and target."""
    if sparse.issparse(X):  # sums over a row's entries, in their order
        waves = np.random.RandomState(0).standard_normal((X.shape[1], 2))
        X = X @ waves
    labels = target
    if target.ndim == 1:
        labels = np.unique(target, return_inverse=True)[1][:, None]
    table = np.hstack([np.asarray(X, dtype=np.float64), labels]) + 0.0  # no -0.0
    rows = np.ascontiguousarray(table).view(f"V{table.shape[1] * table.itemsize}")
    return np.unique(rows[:, 0], return_inverse=True)[1]


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """One weighted ridge fit, with what its leverages are made of.

    Attributes
    ----------
    coef : (q, d) array
        β = P⁻¹B, where P = Σ w c cᵀ + αI and c = x - x̄.
    x_mean, y_mean : (d,) and (q,) arrays
        Where x and y are centred: the weighted means, 0 without an intercept.
    root : (d, r) array
        R with R Rᵀ = P⁻¹.
    pull : float
        What the intercept adds to a leverage: 1/Σw, 0 without one.
    """

    coef: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray
    root: np.ndarray
    pull: float

    @classmethod
    def of(
        cls,
        fit_intercept: bool,
        alpha: float,
        X: Array,
        y: Array,
        rows: Array | None,
        weights: Array,
        origin: np.ndarray | float = 0.0,
    ) -> RidgeFit:
        """Return the fit of a Ridge to y + origin, less that.

        With alpha 0 it is that of a LinearRegression.
        """
        A, B, x_mean, y_mean = (to_host(a) for a in select(X).gram(X, y, weights, rows))
        xp = namespace(weights)
        total = float(to_host(xp.sum(weights, dtype=xp.float64)))
        pull = 1.0 / total
        A, B = without_constants(A, B, x_mean, total)
        if not fit_intercept:
            A = A + total * np.outer(x_mean, x_mean)
            B = B + total * np.outer(x_mean, y_mean + origin)
            x_mean, y_mean = np.zeros_like(x_mean), np.zeros_like(y_mean) - origin
            pull = 0.0
        R = inverse_root(A, alpha)
        return cls((R @ (R.T @ B)).T, x_mean, y_mean, R, pull)

    @property
    def intercept(self) -> np.ndarray:
        """The intercept of each output, (q,)."""
        return self.y_mean - self.coef @ self.x_mean

    def leave_one_out(
        self, X: Array, y: Array, rows: Array | None, weights: Array
    ) -> Array:
        r"""Return what the fit would say of each of its rows without it, (n_k, q).

        The weights are what goes with each row: its own and those of its copies. With
        z = Rᵀc and the leverage h = w (1/Σw + \|z\|²), that is

        .. math:: \hat y - \frac{h}{1 - h} (y - \hat y).

        At h = 1 the row alone decides β along v = Rz, of which the other rows see
        nothing, so the minimum-norm fit to these is β - t v with t = vᵀβ / vᵀv. It
        says ŷ - t (1/Σw + \|z\|²). An expert of one row (v = 0) says ŷ.
        """
        xp, r = namespace(X, weights), self.root.shape[1]
        mean, level, R, beta = (
            like(a, weights, xp.float64)
            for a in (self.x_mean, self.y_mean, self.root, self.coef.T)
        )
        both = xp.concat([R, beta], axis=1)
        answers = []
        for x, target, w in _blocks(X, y, rows, weights):
            product = _centred_product(x, mean, both)
            z, fitted = product[:, :r], product[:, r:] + level
            size = self.pull + xp.sum(z * z, axis=1, keepdims=True)
            h = w * size
            lone = h > LONE
            h = xp.where(lone, 0.0, h)
            answer = fitted - h / (1.0 - h) * (target - fitted)
            if bool(to_host(xp.any(lone))):
                v = z @ R.T
                square = xp.sum(v * v, axis=1, keepdims=True)
                t = v @ beta / xp.where(square > 0, square, 1.0)
                answer = xp.where(lone, fitted - t * size, answer)
            answers.append(xp.astype(answer, X.dtype))
        return xp.concat(answers, axis=0)


def inverse_root(A: np.ndarray, alpha: float) -> np.ndarray:
    """Return R with R Rᵀ = (A + αI)⁻¹, the pseudo-inverse where that is singular."""
    S, unit = equilibrated(A, alpha)
    try:
        U = cholesky(S)
        # The smallest pivot tells a singular matrix before rounding hides it.
        if np.min(np.diag(U), initial=1.0) ** 2 > SINGULAR:
            return unit[:, None] * solve_triangular(U, np.eye(len(S)))
    except LinAlgError:
        pass
    return singular_root(S, unit)


def _blocks(
    X: Array, y: Array, rows: Array | None, weights: Array
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield rows of X, of y and of the weights (as a column), block by block."""
    ops, xp = select(X), namespace(weights)
    for block in ops.row_blocks(weights.shape[0], min(X.shape[1], WIDE)):
        x, target = (
            ops.block_of(a, block) if rows is None else ops.take_rows(a, rows[block])
            for a in (X, y)
        )
        w = xp.astype(weights[block], xp.float64)
        yield x, xp.astype(target, xp.float64), xp.expand_dims(w, axis=-1)


def _centred_product(x: Array, mean: Array, M: Array) -> Array:
    """Return (x - mean) M in float64; a CSR matrix is not densified."""
    if hasattr(x, "tocsr"):
        return x @ M - mean @ M
    xp = namespace(x)
    return (xp.astype(x, xp.float64) - mean) @ M


# ----------------------------------------------------------------- any estimator
class LeftOutPool(EstimatorPool):
    """Clones of learners that can judge their own rows without the row.

    These are bags and neighbours, alone or at the end of a Pipeline whose other steps
    do not learn from y (what these learned of the row's features, they keep).

    Notes
    -----
    A row that stands in every bag is judged with itself, as by any other pool. That
    happens if there are few members, and to rows of a weight far above the mean.

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
        """Fit one clone an expert on its share; an empty share means all rows."""
        self.left = {}
        return super().fit(X, y, routing)

    def _fit_experts(self, X: Array, y: Array, routing: Routing) -> None:
        self.left = dict(self.left)  # what this pool is a copy of keeps its own
        super()._fit_experts(X, y, routing)
        none = np.empty(0, dtype=np.intp)
        for k in range(self.n_experts):
            self.left.setdefault(k, OwnRows(none, np.empty((0, self.n_outputs))))

    def _fit_each(
        self, X: Array, target: np.ndarray, shares: dict[int, tuple[Array, Array]]
    ) -> dict[int, Any]:
        """Return the expert of each share, and remember what it says of the share."""
        experts = super()._fit_each(X, target, shares)
        fitted = {k: e for k, e in experts.items() if not isinstance(e, ValueError)}
        answers = Parallel(n_jobs=self.n_jobs)(
            delayed(_judge)(
                expert, host_rows(X, rows), target[rows], weights, self.seeds[k]
            )
            for k, expert in fitted.items()
            for rows, weights in [shares[k]]
        )
        for (k, expert), answer in zip(fitted.items(), answers, strict=True):
            self.left[k] = self._own_rows(expert, shares[k][0], target, answer)
        return experts

    def _own_rows(
        self, expert: Any, rows: np.ndarray, target: np.ndarray, answer: np.ndarray
    ) -> OwnRows:
        """Return what an expert says of those rows that it can leave out."""
        known = np.isfinite(answer).all(axis=1)
        rows, answer = rows[known], answer[known]
        if self.classes is None:
            return OwnRows(rows, answer - self.likelihood.origin_)
        proba = np.zeros((len(rows), len(self.classes)))
        proba[:, np.searchsorted(self.classes, expert.classes_)] = answer
        label = np.searchsorted(self.classes, target[rows])[:, None]
        return OwnRows(rows, np.log(np.take_along_axis(floored(proba), label, axis=1)))

    def evaluate(self, X: Array, y: Array, routing: Routing) -> Array:
        """Return what an expert says of a row, of its own rows without the row."""
        xp, n = namespace(routing.weights), routing.shape[0]

        def recall(k: int, rows: Array | None) -> Array:
            rows = None if rows is None else to_host(rows)
            return like(self.left[k].at(rows, n), routing.weights)

        left = routing.dispatch(recall, self.n_outputs if self.classes is None else 1)
        known = ~xp.isnan(left[:, :, 0])
        others = xp.where(known, -1, routing.indices)
        rest = Routing(others, routing.weights, routing.n_experts)
        return xp.where(known[:, :, None], left, super().evaluate(X, y, rest))

    def swap(self, other: Self, take: np.ndarray) -> Self:
        """Return a pool with the experts of ``other`` where ``take`` is True."""
        chosen = super().swap(other, take)
        chosen.left = _swapped(self.left, other.left, take)
        return chosen

    def finished(self, X: Array, y: Array, routing: Routing) -> ExpertPool:
        """Return the pool that predicts; it has forgotten the rows."""
        return _forgetful(self, EstimatorPool)


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
    """Return what a fitted clone says of its own rows, NaN where it cannot say.

    Runs in a worker process when n_jobs asks for it.
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
    if way is None:  # the constant that stands in for a share of a single class
        return np.full((len(weights), 1), np.nan)
    with one_blas_thread():
        return way(expert, X, target, weights, seed)


# --------------------------------------------------------------------------- bags
def _is_bag(learner: Any) -> bool:
    # Others may draw their bags, or mix their members, in other ways.
    known = type(learner).__module__.startswith("sklearn.ensemble.")
    drawn = learner.get_params(deep=False).get("bootstrap", False)
    return known and bool(drawn) and hasattr(type(learner), "estimators_samples_")


def out_of_bag(
    expert: Any, X: Array, target: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return the mean answer of the members whose bag each row was not in, (n_k, q).

    Nor was a copy of it. NaN where there are none. Without copies it is what
    ``oob_score=True`` would leave on the expert, which not every bag can do: of several
    outputs, or where a bag lacks a class.
    """
    X = check_array(X, accept_sparse="csr", dtype=None, ensure_all_finite=False)
    classify = is_classifier(expert)
    answer = _probabilities if classify else _means
    width = expert.classes_.size if classify else target[0].size
    columns = getattr(expert, "estimators_features_", repeat(slice(None)))
    total, count = np.zeros((len(weights), width)), np.zeros((len(weights), 1))
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
    """Return class probabilities, or votes; members know classes by their numbers."""
    if not hasattr(member, "predict_proba"):
        return np.equal(member.predict(X)[:, None], np.arange(n_classes))
    proba = np.zeros((X.shape[0], n_classes))
    proba[:, np.asarray(member.classes_, dtype=np.intp)] = member.predict_proba(X)
    return proba


# --------------------------------------------------------------------- neighbours
def _is_neighbours(learner: Any) -> bool:
    # A subclass may do anything.
    known = type(learner) in (KNeighborsRegressor, KNeighborsClassifier)
    return known and learner.metric != "precomputed"


def other_neighbours(
    expert: Any, X: Array, target: np.ndarray, weights: np.ndarray, seed: int
) -> np.ndarray:
    """Return what the neighbours of each row say, but for its own copies, (n_k, q).

    Neighbours take no weights: the expert was fitted on rows drawn by `resample`, one
    of weight 2.3 two or three times. NaN for a row of which no copy was drawn, so that
    the expert has not seen it, or that has no other neighbour.
    """
    drawn = resample(weights, seed)
    drawn = np.arange(len(weights)) if drawn is None else drawn
    same = alike(X, target)
    copies = np.bincount(same[drawn], minlength=len(weights))[same]
    if is_classifier(expert):
        target = target[:, None] == expert.classes_
    answers = target[drawn].reshape(len(drawn), -1).astype(np.float64)
    found = np.full((len(weights), answers.shape[1]), np.nan)
    for n_copies in np.unique(copies[copies > 0]):
        k = min(expert.n_neighbors, len(drawn) - n_copies)
        if k > 0:
            rows = np.flatnonzero(copies == n_copies)
            distance, nearest = expert.kneighbors(take_rows(X, rows), k + n_copies)
            own = same[drawn[nearest]] == same[rows][:, None]
            others = np.argsort(own, axis=1, kind="stable")[:, :k]
            distance = np.take_along_axis(distance, others, axis=1)
            nearest = np.take_along_axis(nearest, others, axis=1)
            part = _neighbour_shares(expert.weights, distance)
            found[rows] = sum(part[:, [j]] * answers[nearest[:, j]] for j in range(k))
    return found


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


# ----------------------------------------------------------------------------- ways
WAYS: list[tuple[Callable[[Any], bool], Callable[..., np.ndarray]]] = [
    (_is_bag, out_of_bag),
    (_is_neighbours, other_neighbours),
]
"""Which learners leave a row out, and how."""


def _way_of(learner: Any) -> Callable[..., np.ndarray] | None:
    """Return how a learner, fitted or not, leaves out its own rows; None if not."""
    return next((way for serves, way in WAYS if serves(learner)), None)
