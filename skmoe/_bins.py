"""Bins of boosted trees, found quickly where rows have weights.

`HistGradientBoostingRegressor` and its classifier cut a column of more than
``max_bins`` distinct values at weighted quantiles. They sort the column anew for each
of its 254 quantiles, which takes three times as long as all their trees at 1 000 rows.
`fit_weighted` finds the same cuts by one sort per column, and gives the learner the
numbers of the bins. These are so few values that it looks for no quantiles. Afterwards
the thresholds of the trees, which lie between numbers of bins, become the cuts between
these bins. So the fitted model reads raw columns, and is the one that its own ``fit``
would have made. Only early stopping makes a difference: it would cut at quantiles of
the rows that it does not set aside, and here of all rows.

Cuts depend on X and the weights alone, never on y.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from ._frames import replaced
from ._sklearn_compat import WEIGHTED_BINS, cut_at

MOST_ROWS = 200_000
"""From more rows a learner draws a sample, whose rows have no weights."""

LARGEST = 1e300
"""No cut is above this: an infinite threshold parts missing values from numbers."""


def fit_weighted(learner: Any, X: Any, y: np.ndarray, weighting: dict) -> Any:
    """Fit a learner with weights, and return it; boosted trees are given their bins.

    Parameters
    ----------
    learner : estimator
        Not fitted yet, and the caller's own clone. It may hold boosted trees, as a
        Pipeline does.
    X : array, sparse matrix or data frame
    y : array
    weighting : dict of str to (n_samples,) array
        What ``fit`` calls its weights, and these; empty without weights.

    Returns
    -------
    estimator
        The learner.
    """
    family = _boosters(learner)
    for booster in family:
        booster.__class__ = QUICK[type(booster)]
        booster.family = family
    try:
        return learner.fit(X, y, **weighting)
    finally:
        for booster in family:
            if isinstance(booster, _QuickBins):
                booster.become_plain()


def _boosters(learner: Any) -> list[Any]:
    """Return the boosted trees, not fitted yet, that a learner is or holds.

    A subclass of theirs may do anything, and is none of them.
    """
    parts = {id(part): part for part in (learner, *learner.get_params().values())}
    return [
        part
        for part in parts.values()
        if type(part) in QUICK and not hasattr(part, "n_features_in_")
    ]


class _QuickBins:
    """Boosted trees that find their bins quickly, and are scikit-learn's once fitted.

    So is every clone of them, whoever makes it, when `fit_weighted` has ended.

    Attributes
    ----------
    kind : type
        scikit-learn's class.
    family : list of estimators
        All clones.
    """

    kind: type
    family: list[Any]

    def __sklearn_clone__(self) -> Self:
        other = super().__sklearn_clone__()  # type: ignore[misc]
        other.family = self.family
        self.family.append(other)
        return other

    def become_plain(self: Any) -> None:
        """Become an estimator of scikit-learn's class."""
        del self.family
        self.__class__ = self.kind

    def fit(
        self: Any, X: Any, y: np.ndarray, sample_weight: Any = None, **validation: Any
    ) -> Self:
        """Fit the trees on numbers of bins; let them read the columns of X."""
        self.become_plain()
        columns = _numeric(X)
        cuts: dict[int, np.ndarray] = {}
        if sample_weight is not None and not validation:
            cuts = _cuts(columns, np.asarray(sample_weight), self.max_bins)
        if not cuts:
            return self.fit(X, y, sample_weight, **validation)
        self.fit(_numbered(X, columns, cuts), y, sample_weight)
        is_categorical = self.is_categorical_
        if is_categorical is not None and is_categorical[list(cuts)].any():
            return self.fit(X, y, sample_weight)  # raises: too many categories
        cut_at(self, cuts)
        return self


class _Regressor(_QuickBins, HistGradientBoostingRegressor):
    kind = HistGradientBoostingRegressor


class _Classifier(_QuickBins, HistGradientBoostingClassifier):
    kind = HistGradientBoostingClassifier


QUICK = {quick.kind: quick for quick in (_Regressor, _Classifier)}


def _numeric(X: Any) -> dict[int, np.ndarray]:
    """Return the columns of numbers, in float64 as the learner reads them."""
    if hasattr(X, "columns"):
        columns = [np.asarray(X[name]) for name in X.columns]
    elif isinstance(X, np.ndarray):
        columns = list(X.T)
    else:
        return {}
    return {
        j: x.astype(np.float64)
        for j, x in enumerate(columns)
        if x.dtype.kind in "fiu" and x.ndim == 1  # frames may have a name twice
    }


def _cuts(
    columns: dict[int, np.ndarray], weights: np.ndarray, max_bins: Any
) -> dict[int, np.ndarray]:
    """Return the cuts of each column that has too many values for a bin each."""
    if not WEIGHTED_BINS or len(weights) > MOST_ROWS:
        return {}
    if max_bins not in range(2, 256):  # the learner says better what is wrong
        return {}
    cuts = {j: _cut(x, weights, int(max_bins)) for j, x in columns.items()}
    return {j: cut for j, cut in cuts.items() if cut is not None}


def _cut(x: np.ndarray, weights: np.ndarray, max_bins: int) -> np.ndarray | None:
    """Return the weighted quantiles of a column, as scikit-learn's learner cuts it.

    Bin i holds the values above cut i - 1, up to and with cut i. None for a column of
    at most ``max_bins`` distinct values, which the learner reads as it is.
    """
    counts = (weights != 0) & ~np.isnan(x)
    x = x[counts]
    order = np.argsort(x)
    x = x[order]
    if np.count_nonzero(np.diff(x)) < max_bins or np.isinf(x[[0, -1]]).any():
        return None
    mass = np.cumsum(weights[counts][order])
    rank = np.linspace(0, 100, num=max_bins + 1)[1:-1] / 100 * mass[-1]
    place = np.minimum(np.searchsorted(mass, rank), len(x) - 1)
    after = np.minimum(place + 1, len(x) - 1)
    between = mass[place] - rank <= np.finfo(np.float64).eps
    cuts = np.where(between, (x[place] + x[after]) / 2, x[place])
    return np.minimum(np.unique(cuts), LARGEST)


def _numbered(
    X: Any, columns: dict[int, np.ndarray], cuts: dict[int, np.ndarray]
) -> Any:
    """Return the table with numbers of bins in the columns that are cut; NaN stays."""
    numbers = {}
    for j, cut in cuts.items():
        bins = np.searchsorted(cut, columns[j]).astype(np.float64)
        numbers[j] = np.where(np.isnan(columns[j]), np.nan, bins)
    if hasattr(X, "columns"):
        return replaced(X, {X.columns[j]: bins for j, bins in numbers.items()})
    table = X.astype(np.float64)
    table[:, list(numbers)] = np.stack(list(numbers.values()), axis=1)
    return table
