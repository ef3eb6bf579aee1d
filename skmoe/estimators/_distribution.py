"""What a mixture for regression predicts beyond the mean of y."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_consistent_length

from ..backends import filled, namespace, to_host
from ..likelihoods import PredictiveMixture
from ..predictive import Calibration, MixtureDistribution
from ._all_or_nothing import all_or_nothing
from ._rows import computing
from ._validation import about, given


class DistributionMixin:
    """Methods of `MoERegressor` that predict more than the mean of y given x.

    They route rows as ``predict`` does, so all describe one distribution, that of
    ``score_samples``.
    """

    # ------------------------------------------------------------ distributions
    def _mixtures(self, X, groups=None) -> tuple[list[list[PredictiveMixture]], Any]:
        """Return the distribution of each output, gate by gate, and the dtype.

        The dtype is that of the experts' predictions, or that of y where the former is
        too coarse for the origin of y.
        """
        X_gate, X_expert = self._views(X)
        outputs = []
        with computing(self, X_gate):
            for routing, pool in self._routed(groups, X_gate):
                answers = pool.predict(X_expert, routing)
                means = to_host(pool.likelihood.means(answers, routing))
                whole = PredictiveMixture(
                    weights=to_host(routing.weights).astype(np.float64),
                    expert=to_host(filled(routing.indices)),
                    means=means.astype(np.float64),
                    scale=pool.scale_at(X_expert, routing),
                    family=pool.likelihood,
                    shift=np.zeros(means.shape[::2]),
                )
                outputs.append([whole.output(j) for j in range(means.shape[2])])
            shift = self._said(X_expert, routing.weights[:, 0])
        if not isinstance(shift, float):
            shape = means.shape[0], sum(map(len, outputs))
            columns = iter(np.broadcast_to(to_host(shift), shape).T.astype(np.float64))
            outputs = [
                [replace(each, shift=next(columns)) for each in of_gate]
                for of_gate in outputs
            ]
        return outputs, np.result_type(means.dtype, self._origin)

    @property
    def _calibrations(self) -> list[Calibration] | None:
        """The calibration of each output; None if the model has changed since."""
        gate, pool, calibrations = getattr(self, "_calibrated", (None, None, None))
        return calibrations if (gate, pool) == (self.gate_, self._pool) else None

    def _of_one_output(self, method: str, X, groups) -> MixtureDistribution:
        """Return the distribution for a method that several outputs do not have."""
        distribution = self.predict_distribution(X, groups=groups)
        if not self._single_output:
            raise ValueError(
                f"{method} needs a y of one output, but {type(self).__name__} was "
                f"fitted with {self._n_outputs}. Fit one mixture per output."
            )
        return distribution

    def _targets(self, X, y) -> np.ndarray:
        """Return targets of X on the host, as the distribution takes them."""
        self._views(X)  # raises where not fitted
        y = np.asarray(self._read_target(given(y, "y")), dtype=np.float64)
        check_consistent_length(X, y)
        return y[:, 0] if self._single_output else y

    # ------------------------------------------------------------------- public
    def predict_distribution(self, X, *, groups=None):
        """Predict the distribution of y, as an object.

        `predict_interval`, `predict_quantiles`, `predict_region`, `modes`, `sample_y`,
        `cdf` and `crps` each make such an object and ask it once. To ask several
        things about the same rows, make it once, so that they are routed once.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        MixtureDistribution
            The distribution of each row; see `skmoe.predictive.MixtureDistribution`. It
            does not change when the model is trained again.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoe import MoERegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(-3, 3, size=(400, 1))
        >>> y = np.where(X[:, 0] < 0, 0.1, 1.0) * rng.normal(size=400)
        >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
        >>> distribution = model.predict_distribution([[-2.0], [2.0]])
        >>> distribution.std().round(1)
        array([0.2, 1. ])
        >>> distribution.interval(0.9).shape
        (2, 2)
        """
        mixtures, dtype = self._mixtures(X, groups)
        return MixtureDistribution(
            mixtures,
            calibrations=self._calibrations,
            single_output=self._single_output,
            dtype=dtype,
            container=_empty_like(X),
        )

    def predict_quantiles(self, X, quantiles, *, groups=None):
        """Predict quantiles of y.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        quantiles : array-like of shape (n_quantiles,)
            Probabilities, between 0 and 1, both excluded.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_quantiles) or (n_samples, n_quantiles, n_outputs)
            Quantiles, in units of y; see `skmoe.predictive.MixtureDistribution.ppf`.

        Raises
        ------
        ValueError
            If a quantile is not between 0 and 1.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoe import MoERegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(-3, 3, size=(400, 1))
        >>> y = np.where(X[:, 0] < 0, 0.1, 1.0) * rng.normal(size=400)
        >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
        >>> low, high = model.predict_quantiles([[-2.0], [2.0]], [0.1, 0.9]).T
        >>> bool((high - low)[1] > 5 * (high - low)[0])     # noise grows at 0
        True
        """
        return self.predict_distribution(X, groups=groups).ppf(_levels(quantiles))

    def predict_interval(self, X, coverage=0.9, *, kind="equal_tailed", groups=None):
        """Predict an interval that holds y with a given probability.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Probability of the interval, between 0 and 1, both excluded.
        kind : {"equal_tailed", "highest_density"}, default="equal_tailed"
            "equal_tailed" leaves the same probability out on both sides.
            "highest_density" is the shortest interval and takes about ten times as
            long. Where y has several branches, `predict_region` is shorter still.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Ends of the intervals, in units of y; see
            `skmoe.predictive.MixtureDistribution.interval`.

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or ``kind`` is unknown.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoe import MoERegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(-3, 3, size=(900, 1))
        >>> y = np.abs(X[:, 0]) + rng.standard_t(3, size=900)
        >>> model = MoERegressor(n_experts=2, random_state=0).fit(X[:300], y[:300])
        >>> model = model.conformalize(X[300:600], y[300:600])
        >>> low, high = model.predict_interval(X[600:], coverage=0.9).T
        >>> bool(0.85 < np.mean((low <= y[600:]) & (y[600:] <= high)) < 0.95)
        True
        """
        distribution = self.predict_distribution(X, groups=groups)
        return distribution.interval(coverage, kind=kind)

    def predict_region(self, X, coverage=0.9, *, groups=None):
        """Predict where the density of y is highest, as one or more intervals.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        coverage : float, default=0.9
            Probability of the region, between 0 and 1, both excluded.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        list of ndarray of shape (n_intervals, 2)
            The intervals of each row in increasing order, in units of y; see
            `skmoe.predictive.MixtureDistribution.region`.

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or y has several outputs.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoe import MoERegressor
        >>> rng = np.random.default_rng(0)
        >>> X = rng.uniform(1, 3, size=(400, 1))
        >>> y = X[:, 0] * rng.choice([-1, 1], size=400) + 0.1 * rng.normal(size=400)
        >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
        >>> model.predict_region([[2.0]])[0].round()        # y is x or -x
        array([[-2., -2.],
               [ 2.,  2.]])
        """
        return self._of_one_output("predict_region", X, groups).region(coverage)

    def modes(self, X, *, groups=None):
        """Return the peaks of the density of y.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        list of ndarray of shape (n_modes,)
            The modes of each row, highest first, in units of y. The mean may lie where
            y never is; the first mode does not.

        Raises
        ------
        ValueError
            If y has several outputs.
        """
        return self._of_one_output("modes", X, groups).modes()

    def sample_y(self, X, n_samples=1, random_state=None, *, groups=None):
        """Draw y from the predicted distribution.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples_X, n_features)
            Rows.
        n_samples : int, default=1
            Number of draws per row.
        random_state : int, RandomState or None, default=None
            Seed of the draws.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
            Independent draws, in the shape of `GaussianProcessRegressor.sample_y`; see
            `skmoe.predictive.MixtureDistribution.sample`.
        """
        distribution = self.predict_distribution(X, groups=groups)
        return distribution.sample(n_samples, random_state)

    def cdf(self, X, y, *, groups=None):
        """Return the probability of a target up to y.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            P(Y <= y | x) of each output. If targets follow the predicted distribution
            and are not counts, these probabilities are uniform.
        """
        y = self._targets(X, y)
        return self.predict_distribution(X, groups=groups).cdf(y)

    def crps(self, X, y, *, groups=None):
        """Return the continuous ranked probability score of each row; lower is better.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The scores, in units of y; see `skmoe.predictive.MixtureDistribution.crps`.
        """
        y = self._targets(X, y)
        return self.predict_distribution(X, groups=groups).crps(y)

    @all_or_nothing
    def conformalize(self, X, y, *, groups=None) -> Self:
        """Calibrate intervals, regions and quantiles on rows that fit did not see.

        This is split-conformal prediction. For new rows that are exchangeable with
        these, an interval or region of any coverage holds y with at least that
        probability, whatever is wrong with the model. With n rows, the probability is
        at most 1 / (n + 1) more, unless y is discrete.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows that fit did not see. A coverage c needs at least c / (1 - c) of them
            (9 rows for 0.9). With fewer, intervals are infinite.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        self : object
            The mixture. Until it is trained again, `predict_interval`,
            `predict_region` and `predict_quantiles` are calibrated, and nothing else.

        Notes
        -----
        Coverage holds as a mean over all x, not at each x. Calibration keeps the shape
        of the predicted distribution: it moves the ends of all intervals by the same
        amount of the normal score of P(Y <= y | x). So intervals widen most where the
        mixture is least sure [1]_.

        References
        ----------
        .. [1] V. Chernozhukov, K. Wüthrich and Y. Zhu, "Distributional conformal
           prediction", PNAS 118 (2021). doi:10.1073/pnas.2107794118
        """
        mixtures, _ = self._mixtures(X, groups)
        outputs = itertools.chain.from_iterable(mixtures)
        columns = self._targets(X, y).reshape(-1, self._n_outputs).T
        calibrations = [
            Calibration(mixture, column)
            for mixture, column in zip(outputs, columns, strict=True)
        ]
        self._calibrated = self.gate_, self._pool, calibrations
        return self


def _empty_like(X: Any) -> Any:
    """Return an array of no rows in the container of X; None for NumPy."""
    xp = namespace(X)
    return None if xp is np else xp.zeros_like(X[:0, ...])


def _levels(quantiles: Any) -> np.ndarray:
    """Return a list of probabilities, checked."""
    with about("quantiles"):
        levels = np.atleast_1d(np.asarray(quantiles, dtype=np.float64))
    if quantiles is None or levels.ndim != 1 or not levels.size:
        got = "None" if quantiles is None else f"shape {levels.shape}"
        raise ValueError(f"quantiles must be a list of probabilities; got {got}.")
    outside = ~((levels > 0) & (levels < 1))
    if np.any(outside):
        raise ValueError(
            "quantiles must lie between 0 and 1, both excluded; got "
            f"{levels[outside][0]}."
        )
    return levels
