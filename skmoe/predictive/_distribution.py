"""The distribution of y that a mixture predicts, as an object of its own."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy import special
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_scalar

from .._axes import axes_of, draw_bands, quantile_levels
from ..backends import like, on_host
from ..likelihoods import PredictiveMixture
from . import _regions as density

KINDS = ("equal_tailed", "highest_density")

MOST_CURVES = 10
"""Most rows that a plot shows by densities; more rows get bands of quantiles."""

BANDS = (0.5, 0.8, 0.95)
"""Probabilities of the bands."""

CURVE = special.ndtr(np.linspace(-3.3, 3.3, 133))
"""Levels of the quantiles of each component at which a curve is drawn."""

MOST_STEMS = 1000
"""Maximum number of counts at which a curve is drawn."""

Ask = Callable[[PredictiveMixture, int], np.ndarray]
"""A question to one output, given its mixture and its position."""


class MixtureDistribution:
    """The predicted distribution of y, one for each row of X.

    Make one with `MoERegressor.predict_distribution`, which routes the rows once. The
    methods have the names of a frozen distribution of `scipy.stats`. They return NumPy
    arrays, or arrays in the container of X. The first axis is the row. With several
    outputs, the last axis is the output, and each output is treated by itself.

    ``len(distribution)`` is the number of rows. ``distribution[rows]`` is the
    distribution of some rows, by a position, a slice, a list of positions or a mask. A
    position gives a distribution of one row.

    If the model was calibrated by ``conformalize``, `ppf`, `interval` and `region` are
    calibrated too. All other methods use the mixture as it was trained.

    Parameters
    ----------
    mixtures : list of list of PredictiveMixture
        For each gate, the distributions of the outputs that it routes.
    calibrations : list of Calibration or None, default=None
        The calibration of each output.
    single_output : bool, default=True
        Whether results have no axis of outputs.
    dtype : dtype, default=float64
        Precision of the results; computations are in float64.
    container : array or None, default=None
        An array whose container and device the results have; None is NumPy.

    Attributes
    ----------
    weights : ndarray of shape (n_samples, width) or (n_samples, width, n_outputs)
        Weight of each component; weights of a row sum to one. ``width`` is the number
        of experts that a row may ask, at most ``top_k``. If a row asks fewer, the other
        weights are zero.
    means : ndarray of the shape of ``weights``
        Mean of each component.
    scales : ndarray of the shape of ``weights``, or None
        Scale of each component: the standard deviation for "gaussian", else what the
        likelihood says (see `skmoe.likelihoods`). None for "poisson", which has none.
    ax_ : matplotlib Axes
        Axes of the last `plot`.
    figure_ : matplotlib Figure
        Their figure.

    See Also
    --------
    skmoe.MoERegressor.predict_distribution : Predict one.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.uniform(1, 3, size=(400, 1))
    >>> y = X[:, 0] * rng.choice([-1, 1], size=400) + 0.1 * rng.normal(size=400)
    >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
    >>> distribution = model.predict_distribution([[1.5], [2.0]])
    >>> distribution
    MixtureDistribution(n_samples=2, width=2, n_outputs=1, likelihood=Gaussian())
    >>> distribution.weights.shape
    (2, 2)
    >>> distribution.cdf(0.0).round(1)                  # y is x or -x
    array([0.5, 0.5])
    >>> np.sort(distribution[1].modes()[0]).round(1)
    array([-2.,  2.])
    """

    def __init__(
        self,
        mixtures,
        *,
        calibrations=None,
        single_output=True,
        dtype=np.float64,
        container=None,
    ):
        self._mixtures = mixtures
        self._calibrations = calibrations
        self._single_output = single_output
        self._dtype = np.dtype(dtype)
        self._container = container

    # ---------------------------------------------------------------------- rows
    def __len__(self) -> int:
        return len(self._mixtures[0][0])

    def __getitem__(self, rows) -> Self:
        positions = np.atleast_1d(np.arange(len(self))[_key(rows)])
        if positions.ndim != 1:
            raise IndexError("A distribution takes one index, of rows.")
        return type(self)(
            [[each.take(positions) for each in of_gate] for of_gate in self._mixtures],
            calibrations=self._calibrations,
            single_output=self._single_output,
            dtype=self._dtype,
            container=self._container,
        )

    def __repr__(self) -> str:
        n_samples, width = self._outputs[0].weights.shape
        shape = f"n_samples={n_samples}, width={width}, n_outputs={len(self._outputs)}"
        conformal = "" if self._calibrations is None else ", conformal=True"
        family = self._outputs[0].family
        return f"{type(self).__name__}({shape}, likelihood={family}{conformal})"

    @property
    def _outputs(self) -> list[PredictiveMixture]:
        """The distribution of each output."""
        return [each for of_gate in self._mixtures for each in of_gate]

    def _ask(self, ask: Ask) -> Any:
        """Ask each output; return the results, along the last axis if several."""
        answers = [ask(mixture, j) for j, mixture in enumerate(self._outputs)]
        return self._answer(
            answers[0] if self._single_output else np.stack(answers, axis=-1)
        )

    def _answer(self, values: np.ndarray) -> Any:
        return like(values.astype(self._dtype, copy=False), self._container)

    def _only_output(self, method: str) -> PredictiveMixture:
        if not self._single_output:
            raise ValueError(
                f"{method} needs a y of one output; got {len(self._outputs)}. Fit one "
                "mixture per output."
            )
        return self._outputs[0]

    def _targets(self, y) -> np.ndarray:
        """Return one number per row and output, (n_samples, n_outputs)."""
        y = np.asarray(on_host(y), dtype=np.float64)
        shape = len(self), len(self._outputs)
        if y.ndim == 0:
            return np.full(shape, y)
        if y.shape != (shape[:1] if self._single_output else shape):
            raise ValueError(
                f"y must be one number, or one per row and output of shape "
                f"{shape[:1] if self._single_output else shape}; got shape {y.shape}."
            )
        return y.reshape(shape)

    # ---------------------------------------------------------------- components
    @property
    def weights(self):
        """Weights of the components; see the attributes of the class."""
        return self._ask(lambda mixture, j: mixture.weights)

    @property
    def means(self):
        """Means of the components; see the attributes of the class."""
        return self._ask(lambda mixture, j: mixture.means + mixture.shift[:, None])

    @property
    def scales(self):
        """Scales of the components; see the attributes of the class."""
        if self._outputs[0].scale is None:
            return None
        return self._ask(lambda mixture, j: mixture.scale)

    # ------------------------------------------------------------------- moments
    def mean(self):
        """Return the mean of y.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The weighted mean of the components, in units of y. ``predict`` returns the
            same, unless its likelihood makes it the median ("student_t", "laplace") or
            leaves outliers out.
        """
        return self._ask(lambda mixture, j: mixture.mean())

    def var(self):
        """Return the variance of y.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The variance within the components plus that between their means; infinite
            where the likelihood has no variance.
        """
        return self._ask(lambda mixture, j: mixture.variance())

    def std(self):
        """Return the standard deviation of y.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The square root of `var`.
        """
        return self._ask(lambda mixture, j: np.sqrt(mixture.variance()))

    # ----------------------------------------------------------------- densities
    def pdf(self, y):
        """Return the density at y; for counts, the probability.

        Parameters
        ----------
        y : float or array-like of shape (n_samples,) or (n_samples, n_outputs)
            One value per row and output; a number stands for all.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Densities p(y | x) in 1 / units of y; zero where the likelihood excludes y.
        """
        targets = self._targets(y)
        return self._ask(
            lambda mixture, j: np.exp(_log_density(mixture, targets[:, j]))
        )

    def logpdf(self, y):
        """Return the logarithm of the density at y.

        Parameters
        ----------
        y : float or array-like of shape (n_samples,) or (n_samples, n_outputs)
            One value per row and output; a number stands for all.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Natural logarithms of `pdf`. With one output, ``score_samples`` returns the
            same; with several, it returns the joint density of all outputs.
        """
        targets = self._targets(y)
        return self._ask(lambda mixture, j: _log_density(mixture, targets[:, j]))

    def cdf(self, y):
        """Return the probability of a target up to y.

        Parameters
        ----------
        y : float or array-like of shape (n_samples,) or (n_samples, n_outputs)
            One value per row and output; a number stands for all.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            P(Y <= y | x) of each output.
        """
        targets = self._targets(y)
        return self._ask(lambda mixture, j: mixture.cdf(targets[:, j : j + 1])[:, 0])

    # ----------------------------------------------------- quantiles and regions
    def ppf(self, p):
        """Return quantiles of y, the inverse of `cdf`.

        Parameters
        ----------
        p : float or array-like of shape (n_quantiles,)
            Probabilities from 0 to 1. The quantiles at 0 and 1 are the smallest and
            the largest y that the likelihood allows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_quantiles)
            Quantiles, in units of y; with several outputs, along one more axis at the
            end. They are exact to 1e-10 of the standard deviation. For counts, a
            quantile is the smallest y with P(Y <= y | x) >= p. After ``conformalize``,
            a new y is at most the quantile with a probability of at least p, for p of
            0.5 or more, and less than it with a probability of at most p, for smaller
            p. A quantile is infinite if calibration rows are too few.

        Raises
        ------
        ValueError
            If a probability is not between 0 and 1.
        """
        levels = np.asarray(p, dtype=np.float64)
        if levels.ndim > 1 or not levels.size:
            raise ValueError(
                f"p must be a number or a list of numbers; got shape {levels.shape}."
            )
        outside = ~((levels >= 0) & (levels <= 1))
        if np.any(outside):
            raise ValueError(
                f"p must lie between 0 and 1; got {levels[outside].ravel()[0]}."
            )

        def ask(mixture: PredictiveMixture, j: int) -> np.ndarray:
            quantiles = self._quantiles(mixture, j, np.atleast_1d(levels))
            return quantiles if levels.ndim else quantiles[:, 0]

        return self._ask(ask)

    def _quantiles(self, mixture: PredictiveMixture, j: int, levels: np.ndarray):
        if self._calibrations is None:
            return density.quantiles(mixture, levels)
        scores = self._calibrations[j].scores(levels)
        return mixture.at_score(np.tile(scores, (len(mixture), 1)))

    def interval(self, coverage=0.9, *, kind="equal_tailed"):
        """Return an interval that holds y with a given probability.

        Parameters
        ----------
        coverage : float, default=0.9
            Probability of the interval, between 0 and 1, both excluded.
        kind : {"equal_tailed", "highest_density"}, default="equal_tailed"
            "equal_tailed" leaves the same probability out on both sides.
            "highest_density" is the shortest interval and takes about ten times as
            long.

        Returns
        -------
        ndarray of shape (n_samples, 2) or (n_samples, 2, n_outputs)
            Ends of the intervals, in units of y. After ``conformalize`` they are
            widened or narrowed to hold for new rows, whatever is wrong with the model.

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or ``kind`` is unknown.
        """
        _check_coverage(coverage)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}; got {kind!r}.")

        def below(mixture: PredictiveMixture) -> np.ndarray:
            if kind == "highest_density":
                return density.shortest(mixture, coverage)
            return np.full(len(mixture), (1.0 - coverage) / 2)

        def ask(mixture: PredictiveMixture, j: int) -> np.ndarray:
            low = below(mixture)
            if self._calibrations is None:
                ends = np.column_stack([low, np.minimum(low + coverage, 1.0)])
                return mixture.quantile(ends)
            calibration = self._calibrations[j]
            low_there = below(calibration.mixture)
            return mixture.at_score(calibration.interval(low, coverage, low_there))

        return self._ask(ask)

    def region(self, coverage=0.9):
        """Return where the density of y is highest, as one or more intervals.

        Parameters
        ----------
        coverage : float, default=0.9
            Probability of the region, between 0 and 1, both excluded.

        Returns
        -------
        list of ndarray of shape (n_intervals, 2)
            For each row, the smallest set of that probability, as intervals in
            increasing order with both ends included, in units of y. After
            ``conformalize`` it holds for new rows, whatever is wrong with the model
            (HPD-split [1]_).

        Raises
        ------
        ValueError
            If ``coverage`` is not between 0 and 1, or y has several outputs.

        References
        ----------
        .. [1] R. Izbicki, G. Shimizu and R. B. Stern, "CD-split and HPD-split:
           efficient conformal regions in high dimensions", JMLR 23 (2022) 1-32.
        """
        _check_coverage(coverage)
        mixture = self._only_output("region")
        if self._calibrations is not None:
            coverage = self._calibrations[0].mass(coverage)
        return [self._answer(each) for each in density.regions(mixture, coverage)]

    def modes(self):
        """Return the peaks of the density of y.

        Returns
        -------
        list of ndarray of shape (n_modes,)
            The modes of each row, highest first, in units of y.

        Raises
        ------
        ValueError
            If y has several outputs.
        """
        mixture = self._only_output("modes")
        return [self._answer(each) for each in density.modes(mixture)]

    # --------------------------------------------------------- draws and scores
    def sample(self, n_samples=1, random_state=None):
        """Draw y.

        Parameters
        ----------
        n_samples : int, default=1
            Number of draws per row.
        random_state : int, RandomState or None, default=None
            Seed of the draws.

        Returns
        -------
        ndarray of shape (len(self), n_samples) or (len(self), n_outputs, n_samples)
            Independent draws. All outputs of a draw come from one expert, unless each
            output has its own gate.
        """
        check_scalar(n_samples, "n_samples", Integral, min_val=1)
        random = check_random_state(random_state)
        draws = []
        for of_gate in self._mixtures:
            components = of_gate[0].choose(n_samples, random)
            draws += [mixture.sample(components, random) for mixture in of_gate]
        return self._answer(draws[0] if self._single_output else np.stack(draws, 1))

    def crps(self, y):
        r"""Return the continuous ranked probability score; lower is better.

        .. math:: \int (P(Y \le z | x) - 1[y \le z])^2 dz

        It is the absolute error if all probability lies at one point, and unlike the
        log-likelihood it is always finite [1]_.

        Parameters
        ----------
        y : float or array-like of shape (n_samples,) or (n_samples, n_outputs)
            What was observed: one value per row and output; a number stands for all.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The scores, in units of y: in closed form for "gaussian", as sums for
            counts, else by quadrature to 1e-5 of the standard deviation.

        References
        ----------
        .. [1] T. Gneiting and A. E. Raftery, "Strictly proper scoring rules,
           prediction, and estimation", JASA 102 (2007) 359-378.
           doi:10.1198/016214506000001437
        """
        targets = self._targets(y)
        return self._ask(lambda mixture, j: mixture.crps(targets[:, j]))

    # ------------------------------------------------------------------- picture
    def plot(self, ax=None, *, output=0, **style):
        """Draw the densities of a few rows, or bands of quantiles of many.

        Up to ten rows are drawn as curves of their densities. More rows are drawn side
        by side: their means, and bands that hold y with probabilities of 50, 80 and
        95 %.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes new ones.
        output : int, default=0
            Which output to draw, if y has several.
        **style : dict
            Passed on to ``ax.plot`` for the curves or the means.

        Returns
        -------
        self : MixtureDistribution
            The distribution, with the plot's ``ax_`` and ``figure_``.
        """
        mixture = self._outputs[output]
        ax = axes_of(self, ax)
        if len(self) > MOST_CURVES:
            self._plot_bands(mixture, range(len(self._outputs))[output], style)
        else:
            for i in range(len(self)):
                y, height = _curve(mixture.take(slice(i, i + 1)))
                marker = "." if mixture.family.discrete else ""
                ax.plot(y, height, **{"label": f"row {i}", "marker": marker, **style})
            word = "probability" if mixture.family.discrete else "density"
            ax.set(xlabel="y", ylabel=f"{word} p(y | x)", ylim=(0.0, None))
        if len(self):
            ax.legend(frameon=False)
        return self

    def _plot_bands(self, mixture: PredictiveMixture, j: int, style: dict) -> None:
        levels = quantile_levels(BANDS)
        rows = np.arange(len(self))
        draw_bands(self.ax_, rows, self._quantiles(mixture, j, levels), levels)
        self.ax_.plot(
            rows, mixture.mean(), **{"color": "black", "label": "mean", **style}
        )
        self.ax_.set(xlabel="row", ylabel="y", xlim=(rows[0], rows[-1]))


def _key(rows: Any) -> Any:
    """Return an index of rows that NumPy takes."""
    if isinstance(rows, (slice, Integral)):
        return rows
    key = np.asarray(on_host(rows))
    return key.astype(np.intp) if key.size == 0 and key.dtype.kind == "f" else key


def _check_coverage(coverage: Any) -> None:
    check_scalar(
        coverage,
        "coverage",
        Real,
        min_val=0,
        max_val=1,
        include_boundaries="neither",
    )
    if np.isnan(coverage):
        raise ValueError("coverage == nan, must be > 0 and < 1.")


def _log_density(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    """Return log p(y) of one y per row; -inf where the family excludes it."""
    if mixture.family.any_real:
        return mixture.log_density(y[:, None])[:, 0]
    low, high = density.quantiles(mixture, [0.0, 1.0]).T
    log_density = mixture.log_density(np.clip(y, low, high)[:, None])[:, 0]
    outside = np.where(np.isnan(y), np.nan, -np.inf)
    return np.where((y >= low) & (y <= high), log_density, outside)


def _curve(row: PredictiveMixture) -> tuple[np.ndarray, np.ndarray]:
    """Return increasing values of y and the density at each, for one row."""
    y = row.component_quantiles(CURVE[None, :])[0] + row.shift
    y = np.unique(y)
    if row.family.discrete:
        counts = np.arange(y[0], y[0] + MOST_STEMS)
        y = counts[counts <= y[-1]] if y[-1] - y[0] < MOST_STEMS else y
    return y, row.density(y[None, :])[0]
