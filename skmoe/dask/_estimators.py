"""Estimators whose rows lie in the partitions of a Dask collection."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from typing import Any

from .._sklearn_compat import Interval, StrOptions
from ..estimators import MoEClassifier, MoERegressor, all_or_nothing
from ._fit import fit_on_table
from ._predict import lazy
from ._refused import refuse_groups
from ._score import accuracy_on_table, r2_on_table
from ._table import Table, is_collection

CONSTRAINTS: dict = {
    "sample_rows": [Interval(Integral, 2, None, closed="left"), StrOptions({"auto"})],
    "rows_per_expert": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"auto"}),
    ],
    "checkpoint": [str, PathLike, None],
}

OWN = tuple(CONSTRAINTS)
"""Parameters that the estimators in memory do not have."""

PARAMETERS = """    sample_rows : int or "auto", default="auto"
        Rows of the sample on which all choices are made: starts, the gate's penalty,
        shrinkage, the number of experts. Up to so many rows the answer is that of
        {parent}. "auto" is 50 000, or 200 for each expert if that is more.
    rows_per_expert : int or "auto", default="auto"
        Rows, at most, that a learner is fitted on which is fitted one by one, drawn by
        weight from its share. "auto" is 200 000.
    checkpoint : str or path, default=None
        A file that holds where training stands after each pass. If a fit is cut short,
        the next one with the same parameters and rows goes on from it, with the same
        answer.
"""

ATTRIBUTES = """    sample_size_ : int
        Rows of the sample; all rows if these are no more than ``sample_rows``.
    n_rounds_ : int
        Rounds over all rows after the sample; 0 if the sample is all.
"""

SUMMARY = """{parent} on the partitions of a Dask collection.

    Rows stay where they are. Each pass of training sums over the partitions, on the
    current client, or on the threads of this process if there is none. Whatever workers
    come and go, the answer has the same bits. An X that is no Dask collection is
    treated as {parent} does.
"""


def documented(own: type) -> type:
    """Write the docstring of a class: that of its parent, and what is new."""
    parent = own.__mro__[2]  # behind OnPartitions
    if parent.__doc__ is None:  # Python was told to drop docstrings
        return own
    name = parent.__name__
    _, rest = parent.__doc__.split("    Parameters\n    ----------\n", 1)
    parameters, rest = rest.split("\n    Attributes\n    ----------\n", 1)
    attributes = rest.split("\n    See Also\n")[0].split("\n    Notes\n")[0]
    attributes = attributes.split("\n    References\n")[0].split("\n    Examples\n")[0]
    own.__doc__ = (
        SUMMARY.format(parent=name)
        + "\n    Parameters\n    ----------\n"
        + parameters
        + PARAMETERS.format(parent=name)
        + "\n    Attributes\n    ----------\n"
        + attributes
        + ATTRIBUTES
        + own.__doc__
    )
    return own


class OnPartitions:
    """Fit on Dask collections, and the way back to an estimator in memory."""

    sample_rows: Any
    rows_per_expert: Any
    checkpoint: Any

    def _fit_on(self, X, y, sample_weight, fit_here) -> None:
        """Fit on the partitions of a collection."""
        self._validate_params()  # type: ignore[attr-defined]
        fit_on_table(self, Table.of(X, y, sample_weight), fit_here)

    def _local(self, kind: type) -> Any:
        params = self.get_params(deep=False)  # type: ignore[attr-defined]
        mine = {name: value for name, value in params.items() if name not in OWN}
        local = kind(**mine)
        fitted = {name: vars(self)[name] for name in vars(self) if name not in params}
        vars(local).update(fitted)
        return local


@documented
class DaskMoERegressor(OnPartitions, MoERegressor):
    """
    See Also
    --------
    DaskMoEClassifier : The same for classification.
    skmoe.dask.predict : Lazy answers of any fitted estimator.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skmoe.dask import DaskMoERegressor
    >>> X = da.from_array(np.linspace(-3, 3, 200).reshape(-1, 1), chunks=(50, 1))
    >>> y = abs(X[:, 0])                         # two straight lines
    >>> model = DaskMoERegressor(n_experts=2, random_state=0).fit(X, y)
    >>> model.predict(X).compute().shape
    (200,)
    >>> model.to_local().predict([[-2.0], [2.0]]).round(1)
    array([2., 2.])
    """

    _parameter_constraints: dict = {
        **MoERegressor._parameter_constraints,
        **CONSTRAINTS,
    }

    def __init__(
        self,
        expert=None,
        *,
        n_experts=None,
        gate="softmax",
        top_k=2,
        top_p=None,
        capacity_factor=None,
        likelihood="gaussian",
        scale_prior=10.0,
        noise_expert=None,
        gate_per_output=False,
        shared_expert=None,
        cross_fit="auto",
        final="refit",
        init="auto",
        n_init=4,
        max_iter=100,
        tol=1e-4,
        max_time=None,
        balance=0.0,
        backend="auto",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
        sample_rows="auto",
        rows_per_expert="auto",
        checkpoint=None,
    ):
        super().__init__(
            expert,
            n_experts=n_experts,
            gate=gate,
            top_k=top_k,
            top_p=top_p,
            capacity_factor=capacity_factor,
            likelihood=likelihood,
            scale_prior=scale_prior,
            noise_expert=noise_expert,
            gate_per_output=gate_per_output,
            shared_expert=shared_expert,
            cross_fit=cross_fit,
            final=final,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            max_time=max_time,
            balance=balance,
            backend=backend,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.sample_rows = sample_rows
        self.rows_per_expert = rows_per_expert
        self.checkpoint = checkpoint

    @all_or_nothing
    def fit(self, X, y, sample_weight=None, groups=None):
        """Fit gate and experts by expectation-maximisation.

        Parameters
        ----------
        X : Dask Array or DataFrame of shape (n_samples, n_features)
            Training rows; or anything that `MoERegressor` takes.
        y : Dask Array, Series or DataFrame, or str
            Targets, in the partitions of X, or the name of a column of X.
        sample_weight : Dask Array or Series, or str, default=None
            Weight of each row, or the name of a column of X.
        groups : array-like of shape (n_samples,), default=None
            Not for a Dask X: the rows of a group may lie in several partitions.

        Returns
        -------
        self : object
            The fitted mixture. If fit fails or is interrupted, the estimator stays
            as it was before.
        """
        if not is_collection(X):
            return super().fit(X, y, sample_weight, groups)
        refuse_groups(groups)
        self._fit_on(X, y, sample_weight, super().fit)
        return self

    predict = lazy(MoERegressor.predict)
    score_samples = lazy(MoERegressor.score_samples)
    predict_quantiles = lazy(MoERegressor.predict_quantiles)
    gate_proba = lazy(MoERegressor.gate_proba)

    def score(self, X, y, sample_weight=None):
        """Return the coefficient of determination R².

        Parameters
        ----------
        X : Dask collection, or anything that `MoERegressor` takes
            Rows.
        y : Dask collection or array-like
            Targets, in the partitions of X.
        sample_weight : Dask collection or array-like, default=None
            Weight of each row.

        Returns
        -------
        float
            The mean over the outputs.
        """
        if not is_collection(X):
            return super().score(X, y, sample_weight)
        return r2_on_table(self.to_local(), Table.of(X, y, sample_weight))

    def to_local(self):
        """Return a `MoERegressor` with the same parameters and fitted attributes.

        Returns
        -------
        MoERegressor
            It shares the fitted attributes, so this costs nothing.
        """
        return self._local(MoERegressor)


@documented
class DaskMoEClassifier(OnPartitions, MoEClassifier):
    """
    See Also
    --------
    DaskMoERegressor : The same for regression.
    skmoe.dask.predict : Lazy answers of any fitted estimator.

    Examples
    --------
    >>> import dask.array as da
    >>> import numpy as np
    >>> from skmoe.dask import DaskMoEClassifier
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> y = (X[:, 0] * X[:, 1] > 0).astype(int)
    >>> rows, labels = da.from_array(X, chunks=(100, 2)), da.from_array(y, chunks=100)
    >>> model = DaskMoEClassifier(n_experts=4, random_state=0).fit(rows, labels)
    >>> model.score(rows, labels) > 0.9
    True
    """

    _parameter_constraints: dict = {
        **MoEClassifier._parameter_constraints,
        **CONSTRAINTS,
    }

    def __init__(
        self,
        expert=None,
        *,
        n_experts=None,
        gate="softmax",
        top_k=2,
        top_p=None,
        capacity_factor=None,
        class_weight=None,
        shared_expert=None,
        cross_fit="auto",
        final="refit",
        init="auto",
        n_init=4,
        max_iter=100,
        tol=1e-4,
        max_time=None,
        balance=0.0,
        backend="auto",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
        sample_rows="auto",
        rows_per_expert="auto",
        checkpoint=None,
    ):
        super().__init__(
            expert,
            n_experts=n_experts,
            gate=gate,
            top_k=top_k,
            top_p=top_p,
            capacity_factor=capacity_factor,
            class_weight=class_weight,
            shared_expert=shared_expert,
            cross_fit=cross_fit,
            final=final,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            max_time=max_time,
            balance=balance,
            backend=backend,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.sample_rows = sample_rows
        self.rows_per_expert = rows_per_expert
        self.checkpoint = checkpoint

    @all_or_nothing
    def fit(self, X, y, sample_weight=None, groups=None):
        """Fit gate and experts by expectation-maximisation.

        Parameters
        ----------
        X : Dask Array or DataFrame of shape (n_samples, n_features)
            Training rows; or anything that `MoEClassifier` takes.
        y : Dask Array or Series, or str
            Class labels, in the partitions of X, or the name of a column of X. A
            partition need not hold all classes.
        sample_weight : Dask Array or Series, or str, default=None
            Weight of each row, or the name of a column of X.
        groups : array-like of shape (n_samples,), default=None
            Not for a Dask X: the rows of a group may lie in several partitions.

        Returns
        -------
        self : object
            The fitted mixture. If fit fails or is interrupted, the estimator stays
            as it was before.
        """
        if not is_collection(X):
            return super().fit(X, y, sample_weight, groups)
        refuse_groups(groups)
        self._fit_on(X, y, sample_weight, super().fit)
        return self

    predict = lazy(MoEClassifier.predict)
    predict_proba = lazy(MoEClassifier.predict_proba)
    predict_log_proba = lazy(MoEClassifier.predict_log_proba)
    decision_function = lazy(MoEClassifier.decision_function)
    score_samples = lazy(MoEClassifier.score_samples)
    gate_proba = lazy(MoEClassifier.gate_proba)

    def score(self, X, y, sample_weight=None):
        """Return the share of rows whose label is predicted.

        Parameters
        ----------
        X : Dask collection, or anything that `MoEClassifier` takes
            Rows.
        y : Dask collection or array-like
            Labels, in the partitions of X.
        sample_weight : Dask collection or array-like, default=None
            Weight of each row.

        Returns
        -------
        float
            Between 0 and 1.
        """
        if not is_collection(X):
            return super().score(X, y, sample_weight)
        return accuracy_on_table(self.to_local(), Table.of(X, y, sample_weight))

    def to_local(self):
        """Return a `MoEClassifier` with the same parameters and fitted attributes.

        Returns
        -------
        MoEClassifier
            It shares the fitted attributes, so this costs nothing.
        """
        return self._local(MoEClassifier)
