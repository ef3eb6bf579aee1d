"""What a mixture for regression says of y beyond its mean."""

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
    """Methods of `MoERegressor` that ask for more than the mean of y given x.

    Their rows are routed as in ``predict``, so all of them speak of one distribution:
    that of ``score_samples``.
    """

    # ------------------------------------------------------------ distributions
    def _mixtures(self, X, groups=None) -> tuple[list[list[PredictiveMixture]], Any]:
        """Return the distribution of each output, gate by gate, and the dtype.

        That is the dtype of the experts' answers, or of y where these are too coarse
        for its origin.
        """
        X_gate, X_expert = self._views(X)
        outputs = []
        with computing(self, X_gate):
            draws = self._draws(groups, X_gate)
            for gate, pool in zip(self._gates, self._pools, strict=True):
                routing = draws.route(self._rule, gate, X_gate)
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
        """The calibration of each output; None if the model changed since."""
        gate, pool, calibrations = getattr(self, "_calibrated", (None, None, None))
        return calibrations if (gate, pool) == (self.gate_, self._pool) else None

    def _of_one_output(self, method: str, X, groups) -> MixtureDistribution:
        """Return the distribution for a method that several outputs do not have."""
        distribution = self.predict_distribution(X, groups=groups)
        if not self._single_output:
            raise ValueError(
                f"{method} is for one output, but {type(self).__name__} was fitted "
                f"with {self._n_outputs}: sets of each row differ in number. Fit one "
                "mixture for each output."
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
        """Predict the distribution of y, as an object to ask.

        All other methods of this kind (`predict_interval`, `predict_quantiles`,
        `predict_region`, `modes`, `sample_y`, `cdf`, `crps`) ask such an object once.
        To ask several things of the same rows, keep it: rows are routed once.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        MixtureDistribution
            The distribution of each row, with the methods of a frozen distribution of
            `scipy.stats`; see `skmoe.predictive.MixtureDistribution`. It keeps what it
            knows when the model is trained again.

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
            The y below which the mixture has such a probability, found to 1e-10 of
            the spread; for counts the smallest y of at least that probability, of
            those that floats hold. After ``conformalize`` y of new rows is at most the
            quantile with a probability of at least p, for p of 0.5 and more, and less
            than it with a probability of at most p, for smaller ones; infinite where
            the calibration rows are too few to say.

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
            "equal_tailed" leaves the same probability out on both sides;
            "highest_density" is the shortest interval, which takes some ten times as
            long. Where y has several branches, `predict_region` is shorter still.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Ends of the intervals, of each output by itself. After ``conformalize``
            they are widened or narrowed to hold for new rows, whatever is wrong with
            the model.

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or ``kind`` unknown.

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
        """Predict where the density of y is highest: one or several intervals.

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
            For each row the smallest set of the probability, as intervals in
            increasing order, both ends included. After ``conformalize`` it holds for
            new rows, whatever is wrong with the model (HPD-split [1]_).

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or y has several outputs.

        References
        ----------
        .. [1] R. Izbicki, G. Shimizu and R. B. Stern, "CD-split and HPD-split:
           efficient conformal regions in high dimensions", JMLR 23 (2022) 1-32.

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
            For each row the modes, highest first. The mean of y may lie where y never
            is; the first mode does not.

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
            Draws of each row.
        random_state : int, RandomState or None, default=None
            Seeds the draws.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples_X, n_samples) or (n_samples_X, n_outputs, n_samples)
            Independent draws, as `GaussianProcessRegressor.sample_y` has them. Outputs
            of a draw come from one expert, but for ``gate_per_output=True``.
        """
        distribution = self.predict_distribution(X, groups=groups)
        return distribution.sample(n_samples, random_state)

    def cdf(self, X, y, *, groups=None):
        """Return the probability that y is at most as large as given.

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
            P(Y <= y | x), of each output by itself. Of targets that follow the
            predicted distribution these are uniform (unless they are counts).
        """
        y = self._targets(X, y)
        return self.predict_distribution(X, groups=groups).cdf(y)

    def crps(self, X, y, *, groups=None):
        r"""Return the continuous ranked probability score of each row; lower is better.

        .. math:: \int (P(Y \le z | x) - 1[y \le z])^2 dz

        It is in units of y, and the absolute error where all the probability lies at
        one point; unlike the log-likelihood it stays finite [1]_.

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
            The scores: in closed form for "gaussian", summed for counts, else by
            quadrature, to 1e-5 of the spread.

        References
        ----------
        .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules,
           prediction, and estimation", JASA 102 (2007) 359-378.
           doi:10.1198/016214506000001437
        """
        y = self._targets(X, y)
        return self.predict_distribution(X, groups=groups).crps(y)

    @all_or_nothing
    def conformalize(self, X, y, *, groups=None) -> Self:
        """Calibrate intervals, regions and quantiles on rows that fit did not see.

        Split-conformal prediction: for new rows that are exchangeable with these, an
        interval or region holds y with at least the probability asked for, whatever
        is wrong with the model, and any may be asked for later. With n rows it is at
        most 1 / (n + 1) more, unless y is discrete.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows that fit did not see. A coverage c needs at least c / (1 - c) of them,
            9 for 0.9; with fewer, intervals are infinite.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        self : object
            The mixture with what was learned from the rows: it acts on
            `predict_interval`, `predict_region` and `predict_quantiles`, on nothing
            else, until the mixture is trained again.

        Notes
        -----
        Coverage is the mean over all x, not at each x. Calibration keeps the shape of
        the predicted distribution: intervals widen by the same amount of the normal
        score of P(Y <= y | x), so most where the mixture is least sure [1]_.

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
    """Return no rows in the container and on the device of X; None for NumPy."""
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
