"""Mixture-of-experts regression."""

from __future__ import annotations

from numbers import Real
from types import NoneType
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import get_tags

from .._learners import is_frozen, reads_any_units, standardising
from .._sklearn_compat import (
    HasMethods,
    Interval,
    StrOptions,
    _check_y,
    _fit_context,
)
from ..backends import Array, namespace, to_host
from ..em import Mixture, gates_per_output, varying
from ..experts import ExpertPool
from ..likelihoods import (
    FAMILIES,
    BesideFixed,
    Gaussian,
    Likelihood,
    is_extreme,
    origin_of,
)
from . import _gate_and_experts as parts
from ._all_or_nothing import all_or_nothing
from ._base import BaseMoE
from ._distribution import DistributionMixin
from ._rows import listed_experts
from ._task import Settings
from ._validation import check_magnitude


class MoERegressor(RegressorMixin, DistributionMixin, BaseMoE):
    r"""Mixture of experts for regression.

    The density of y given x is a gated sum of experts,

    .. math:: p(y | x) = \sum_k g_k(x) \, N(y; \mu_k(x), \sigma_k^2)

    where the gate g knows where each expert is good and :math:`\mu_k` is any
    scikit-learn regressor. Both are trained by expectation-maximisation
    [1]_ [2]_, and a prediction asks only the ``top_k`` experts that the gate
    prefers for a row.

    Parameters
    ----------
    expert : estimator, list of estimators or None, default=None
        The learner that every expert is a clone of, or one learner an expert. None
        is ``Ridge()``, for counts ``PoissonRegressor()``, for "gamma"
        ``GammaRegressor()``. `Ridge` and `LinearRegression` experts are all trained
        together from grouped Gram matrices, with the answer that clones would give.
        A learner without ``sample_weight`` is fitted on weighted resamples. A
        :class:`sklearn.frozen.FrozenEstimator` serves as it is.
    n_experts : int, "auto" or None, default=None
        Number of experts; None is 8, or the length of a list of experts. "auto" grows
        and prunes a mixture and takes the least number that explains rows held out as
        well as any, which costs about one fit more; with
        ``cross_fit=None`` the Bayesian information criterion chooses. See
        ``selection_path_``.
    gate : str, gate, classifier or Pipeline, default="softmax"
        "softmax" cuts the rows with hyperplanes, "gaussian" into clouds, "tree" into
        boxes; "hierarchical" and "product" find their way among thousands of experts;
        "constant" ignores x. These are the gates of `skmoe.gates` with their defaults;
        a gate object may be any of them, a classifier is wrapped in `EstimatorGate`.
        A Pipeline that ends in a gate lets it see other columns than the experts.
    top_k : int or None, default=2
        Experts that serve a row in predict; training keeps twice as many. 2 costs
        little accuracy on most data; None uses all, the dense mixture.
    top_p : float or None, default=None
        Adaptive compute: a row asks the fewest of its ``top_k`` experts whose gate
        probabilities sum to ``top_p``, so that rows of which the gate is sure ask
        one. None always asks ``top_k``.
    capacity_factor : float or None, default=None
        Rows that an expert serves at most, in units of an even share: a limit on its
        load in training, and on its part of each batch that is predicted. Rows
        beyond it go to their next best expert, so answers depend on the batch. Useful
        where experts run side by side on machines of one size. None has no limit.
    likelihood : str or Likelihood, default="gaussian"
        How y scatters around an expert's mean: "gaussian"; "student_t" and "laplace"
        for outliers; "poisson" and "negative_binomial" for counts; "gamma" for positive
        y, "beta" for rates. An object of `skmoe.likelihoods` sets its parameters, as
        ``StudentT(df=3)``; `ZeroInflated` and `WithOutliers` make the last expert a
        fixed one. Gradient boosting with its default loss gets the family's own.
    scale_prior : float, default=10.0
        Pseudo-rows that pull each expert's noise variance to the pooled one, that of
        what all experts leave of their rows, so that a small expert cannot run away to
        zero noise. 0 is maximum likelihood.
    noise_expert : estimator or None, default=None
        A regressor that learns how the noise of each expert varies with x, from the
        logarithms of squared residuals, which are out of fold where experts are
        cross-fitted; small and smooth is best, such as `Ridge` or boosting of a few
        leaves. An expert keeps its one scale where that is no worse. It changes
        densities, not means. None is one scale an expert.
    gate_per_output : bool, default=False
        Give each of several outputs a gate and noise scales of its own, over experts
        that all outputs share. Where outputs follow different regimes one gate has
        to compromise. False is one gate for all.
    shared_expert : estimator, "auto" or None, default=None
        A learner fitted on all rows, whose out-of-fold residuals the experts learn;
        one of the ``n_experts`` learns nothing, so that rows may keep the shared
        prediction. "auto" lets rows held out choose between the mixture of ``expert``
        and one such learner with linear experts beside it. None has no shared expert.
    cross_fit : "auto", None, int or cross-validation splitter, default="auto"
        How experts are judged in the E-step. None judges them on the rows that they
        were fitted on, which flexible learners memorise; a number of folds or a
        splitter judges each row by models that were blind to its fold. The models of a
        splitter, such as `TimeSeriesSplit`, learn from its training rows. A row in
        several test folds is judged by the first; a row in none by a model that saw it,
        it does not count for noise scales, and a warning says so. "auto" is
        None for ridge and logistic experts that are trained together, out of the bag
        for bags and forests, without the row itself for nearest neighbours, and 3
        folds for all others, 5 for the last ``scale_``. `LeaveOneOut` is the closed
        form for ridge experts. Unless it is None, the gate's
        ``alpha="auto"`` and ``shrinkage_`` are chosen on rows held out.
    final : {"refit", "average"}, default="refit"
        What becomes of cross-fitted experts at the end: each is refitted on all rows,
        or is the mean of its fold models. The mean is steadier where learners are
        flexible, and a prediction asks every fold model (but the mean of ridge models
        is one). "average" needs ``cross_fit``; where "auto" is None it is "refit".
    init : str, list of str or (n_samples, n_experts) array-like, default="auto"
        How starts split the rows: "tree", by the leaves of a small tree; "kmeans", by
        k-means on x and the residual of y; "kmeans_x", by k-means on x; "random", by a
        random smooth function of both; "linear", as the best mixture of linear experts
        does, from those four; for experts that differ as learners "uniform", not at
        all, and "single", all rows to the best of them. A list is gone through in turn.
        "auto" is the first four for ridge and logistic experts that are trained
        together, with further "random" ones; for others it is "linear", and the last
        two if learners differ, of which rows held out choose. An array or sparse
        matrix holds responsibilities of the experts for the rows, to start from.
    n_init : int, default=4
        Starts, at most; the best is kept. "uniform", "single" and given
        responsibilities are one start each.
    max_iter : int, default=100
        Passes of EM a run.
    tol : float, default=1e-4
        A run has converged when a pass raises the bound by less, mean per row.
    balance : float, default=0.0
        Least load of an expert in training, in units of an even share: 0 lets true,
        uneven regimes be, 1 makes all loads equal. It acts on the responsibilities
        alone, and no more in the last passes.
    backend : {"auto", "numpy", "numba", "cupy"}, default="auto"
        What computes: plain NumPy, kernels compiled by Numba the first time they are
        used (some seconds, then kept on disk), or a CUDA device, to which "cupy"
        moves X once a fit or predict. "auto" takes Numba where the rows repay it,
        and leaves CuPy, PyTorch and other array-API arrays where they are: answers
        are in the container of X. Answers of all agree to 1e-10, in float32 to 1e-5.
    warm_start : bool, default=False
        Go on from the previous fit, with a single start.
    n_jobs : int or None, default=None
        Jobs that fit experts, for learners that are fitted one by one, and the most
        threads of everything else; None is one job, and the threads that BLAS has.
        The answer is the same for any number.
    random_state : int, RandomState or None, default=None
        Seeds starts and experts.
    verbose : int, default=0
        1 prints a line for each start, and at the end what the mixture brings over one
        learner; 2 prints a line for each pass too.

    Attributes
    ----------
    experts_ : list of estimators
        The fitted experts, each with its own ``predict``.
    gate_ : gate or Pipeline
        The fitted gate.
    n_experts_ : int
        Number of experts.
    selection_path_ : dict of str to ndarray of shape (n_tried,)
        With ``n_experts="auto"``, what was tried: "n_experts"; "held_out", the mean
        log-likelihood a row of rows held out; "standard_error" of what that lacks
        against the best; "bic" and "icl" of the rows learned from, lower is better;
        "chosen". NaN where nothing was held out or parameters cannot be counted.
    gates_ : list of gates or Pipelines
        The gate of each output, with ``gate_per_output=True``; ``gate_`` is then the
        one that the experts were trained with.
    scale_ : ndarray of shape (n_experts,) or (n_experts, n_outputs)
        Noise scale of each expert: for a Gaussian the standard deviation, in units of
        y; else what the family says. Absent for "poisson".
    noise_experts_ : list of estimators or None
        With a ``noise_expert``: what learned the noise of each expert, None for one
        that keeps its one scale.
    likelihood_ : Likelihood
        The family, bound to the training targets.
    expert_load_ : ndarray of shape (n_experts,)
        Share of the training rows that each expert serves, by routing weight; sums
        to one. With a gate per output (n_outputs, n_experts), a row for each.
    lower_bound_ : float
        Mean per row of the log-likelihood bound where EM ended, over the experts that
        training keeps for a row; out of fold if cross-fitted.
    lower_bounds_ : ndarray of shape (`n_iter_`,)
        The bound after each pass of the run of EM on all rows.
    history_ : list of dict
        Every run of EM, in turn: the kind of its "start" ("chosen" goes on from what
        rows held out chose) and its "n_experts"; for each pass "bounds", means over
        the rows of the run, "experts_accepted", how many experts were renewed, and
        "gate_accepted", whether the gate was.
    routed_bound_ : float
        Mean per row of the log-likelihood of the returned model, over the experts that
        predict asks; out of fold if cross-fitted. In sample it equals the mean of
        ``score_samples`` on the training rows.
    shrinkage_ : float
        How far experts are drawn to a learner fitted on all rows: 0 is not at all, 1
        makes them that learner. It is their own or, where a list has several, the
        best of these, if that does better. Chosen on rows held out; 0 where none were.
    held_out_ : dict of str to float
        Mean log-likelihood of rows held out: of the "mixture" as chosen, of the same
        with a "constant_gate", of the best with ``shrinkage_`` 1 ("pooled"), and of
        the best learner alone ("single"). NaN where none were held out.
    routing_gain_ : float
        What of the "mixture" in ``held_out_`` a constant gate would lose.
    diagnostics_ : dict of str to float
        "routed_bound" beside the "in_sample_bound" of the same rows, which flexible
        experts flatter; "top_k_mass", the gate's mean probability of the experts that
        predict asks, and "top_k_rows", the share of rows of which they have 95 %;
        "experts_per_row", how many predict asks in the mean; with a
        ``capacity_factor`` "rows_moved", how many training rows found an expert full.
    group_ids_ : ndarray of shape (n_ids,)
        Where the gate knows ids that are no numbers: what the codes 0, 1, … stand for
        that it sees in their place, as text. See `GroupGate`.
    tied_ : bool
        After a fit with ``groups``: whether rows of a group share one expert. They do
        unless rows of groups held out are predicted better, one by one, by a mixture
        in which each row has its own; then groups change nothing in ``predict``.
    group_correlation_ : float
        After a fit with ``groups``: how alike the gate speaks of two rows of a group,
        among groups of one expert. With 1 the rows of a new group say no more of its
        expert than one of them, with 0 each is new evidence.
    shared_expert_ : estimator
        The fitted shared expert, if the mixture has one.
    n_iter_ : int
        Passes of the run of EM on all rows: one where rows held out chose the mixture
        that it goes on from, as more would make another one of it.
    converged_ : bool
        Whether EM converged; where rows were held out, in the runs that were judged.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has them.

    See Also
    --------
    MoEClassifier : The same for classification.

    References
    ----------
    .. [1] R. A. Jacobs, M. I. Jordan, S. J. Nowlan and G. E. Hinton, "Adaptive
       mixtures of local experts", Neural Computation 3 (1991) 79-87.
       doi:10.1162/neco.1991.3.1.79
    .. [2] M. I. Jordan and R. A. Jacobs, "Hierarchical mixtures of experts and the
       EM algorithm", Neural Computation 6 (1994) 181-214.
       doi:10.1162/neco.1994.6.2.181

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> y = np.abs(X[:, 0])                      # two straight lines
    >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.99
    True
    >>> model.predict([[-2.0], [2.0]]).round(1)
    array([2., 2.])
    """

    _parameter_constraints: dict = {
        **BaseMoE._parameter_constraints,
        "likelihood": [StrOptions(set(FAMILIES)), Likelihood],
        "scale_prior": [Interval(Real, 0, None, closed="left")],
        "noise_expert": [HasMethods(["fit"]), None],
        "gate_per_output": ["boolean"],
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
        balance=0.0,
        backend="auto",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        super().__init__(
            expert,
            n_experts=n_experts,
            gate=gate,
            top_k=top_k,
            top_p=top_p,
            capacity_factor=capacity_factor,
            shared_expert=shared_expert,
            cross_fit=cross_fit,
            final=final,
            init=init,
            n_init=n_init,
            max_iter=max_iter,
            tol=tol,
            balance=balance,
            backend=backend,
            warm_start=warm_start,
            n_jobs=n_jobs,
            random_state=random_state,
            verbose=verbose,
        )
        self.likelihood = likelihood
        self.scale_prior = scale_prior
        self.noise_expert = noise_expert
        self.gate_per_output = gate_per_output

    def _default_expert(self):
        return self._family.learner()

    def _named(self) -> dict[str, Any]:
        """Return what parameters that are names, or None, stand for."""
        if not isinstance(self.likelihood, str) or self.likelihood not in FAMILIES:
            return super()._named()
        return super()._named() | {"likelihood": self._family}

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return learners with the family's loss, and one beside a fixed expert."""
        family = self._family
        over = family.any_real and family.has_residuals
        if self.shared_expert is not None and not over:
            raise ValueError(
                f"likelihood={self.likelihood!r} cannot have a shared_expert, whose "
                "residuals may be any real numbers. Set shared_expert=None."
            )
        if not isinstance(self.shared_expert, (str, NoneType)):
            frozen = [learner for learner in learners if is_frozen(learner)]
            if frozen:
                raise ValueError(
                    f"expert {frozen[0]!r} is frozen and answers y, but beside "
                    "shared_expert experts learn residuals. Set shared_expert=None, "
                    "and put that learner into the list of experts."
                )
        if self.noise_expert is not None:
            parts.check_learner(self.noise_expert, False, "noise_expert")
            if not family.any_real:
                raise ValueError(
                    f"likelihood={self.likelihood!r} has a variance that follows the "
                    "mean, or none to vary. Set noise_expert=None."
                )
        learners = [self._tamed(family.adapted(learner)) for learner in learners]
        if not isinstance(family, BesideFixed):
            return learners
        if len(learners) < 2:
            raise ValueError(
                f"likelihood={self.likelihood!r} makes one of the experts a fixed one, "
                f"so n_experts must be at least 2; got {len(learners)}."
            )
        return learners

    def _tamed(self, learner: BaseEstimator) -> BaseEstimator:
        """Return a learner that computes with y as it is without losing what varies."""
        if not self._is_extreme or not reads_any_units(learner):
            return learner
        return standardising(learner)

    @property
    def _n_fixed(self) -> int:
        return self._family.n_fixed

    @property
    def _family(self) -> Likelihood:
        """The family that ``likelihood`` asks for."""
        if isinstance(self.likelihood, Likelihood):
            return self.likelihood
        return FAMILIES.get(self.likelihood, FAMILIES["gaussian"])()

    def _check_target(self, y: Any) -> np.ndarray:
        if sparse.issparse(y):
            raise TypeError("y is a sparse matrix; pass it dense, as y.toarray().")
        multi_output = get_tags(self).target_tags.multi_output
        y = _check_y(y, multi_output=multi_output, y_numeric=True, estimator=self)
        y = y if y.dtype.kind == "f" else y.astype(np.float64)
        check_magnitude(y, "y")
        self._family.check(y)
        return y

    def _encode_target(
        self, y: Any, weight: np.ndarray, settings: Settings
    ) -> tuple[Array, np.ndarray]:
        self._single_output = y.ndim == 1
        if self.gate_per_output and self._single_output:
            raise ValueError(
                "gate_per_output=True needs y of several outputs, shape (n_samples, "
                "n_outputs); got one output."
            )
        if self.noise_expert is not None and not self._single_output:
            raise ValueError(
                "noise_expert is for y of one output; got y of shape "
                f"{y.shape}. Set noise_expert=None, or fit a mixture for each output."
            )
        y = y[:, None] if self._single_output else y
        self._n_outputs = y.shape[1]
        same = np.shape(self._origin) in ((), (self._n_outputs,))
        if not (settings.warm and same):  # experts know y from where it was
            self._origin = origin_of(y, weight) if self._family.any_real else 0.0
        self._is_extreme = is_extreme(y, weight)
        return y - self._origin, weight

    def _own_target(self, X, groups=None) -> Array:
        """Return the prediction as a target that the likelihood takes."""
        y = self.predict(X, groups=groups)
        return namespace(y).round(y) if self.likelihood_.discrete else y

    def _read_target(self, y: Any) -> Array:
        y = self._check_target(y)
        y = y[:, None] if y.ndim == 1 else y
        if y.shape[1] != self._n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} outputs, but {type(self).__name__} was fitted "
                f"with {self._n_outputs}."
            )
        return y

    def _parts_of_kind(self, pool: ExpertPool) -> dict[str, Any]:
        """Return the likelihood, which a classifier does not show."""
        return {"likelihood_": pool.likelihood}

    def _additions(self, mixture: Mixture, before) -> dict[str, Any]:
        """Return gates and scales of each output, or noise that varies."""
        if self.noise_expert is not None:
            pool = varying(mixture, self.noise_expert, mixture.problem.seed)
            return {"_pool": pool, "noise_experts_": pool.noise}
        if not self.gate_per_output:
            return {}
        average = self.final == "average"
        gates, pool = gates_per_output(mixture, self._rule, average=average)
        problem = mixture.problem
        loads = []
        for gate in gates:
            routing = self._rule.route(gate, problem.X_gate)
            load = routing.scaled(problem.sample_weight)
            loads.append(load.sum_by_expert(load.weights))
        load = np.stack(loads)
        return {
            "gates_": [parts.fitted_gate(self.gate, before, gate) for gate in gates],
            "expert_load_": load / load.sum(axis=1, keepdims=True),
            **({} if pool.scale is None else {"scale_": pool.scale}),
            "experts_": pool.likelihood.shown(pool.estimators()),
            "_pool": pool,
        }

    def _pool_options(
        self, y: Array, weight: np.ndarray, n_experts: int
    ) -> dict[str, Any]:
        y = to_host(y).astype(np.float64)
        weight = to_host(weight)
        family = self._family.seen(y, weight, self.scale_prior, self._origin)
        if isinstance(family, BesideFixed):
            family = family.of(n_experts)
        return {"likelihood": family}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = all(
            get_tags(expert).target_tags.multi_output for expert in listed_experts(self)
        )
        return tags

    def _check_stream_of_kind(self) -> None:
        if self.gate_per_output:
            raise ValueError("partial_fit cannot learn a gate per output.")
        if self.noise_expert is not None:
            raise ValueError(
                "partial_fit cannot learn noise that varies. Set noise_expert=None."
            )
        likelihood = self.likelihood
        if likelihood != "gaussian" and type(likelihood) is not Gaussian:
            raise ValueError(
                "partial_fit needs likelihood='gaussian', whose noise scales follow "
                f"from sums that batches are added to; got {likelihood!r}."
            )

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, sample_weight=None):
        """Learn from a batch of rows; a stream is learned batch by batch.

        The first call fits a mixture to its rows, by a short fit of the usual kind,
        and calls with few rows repeat that on all rows so far. Later calls take one
        step of stepwise EM, in which old rows count for less. A call after ``fit``
        goes on from there.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            The batch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. The likelihood must be "gaussian".
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights; weight 2 is the row twice.

        Returns
        -------
        self : object
            The mixture. If the call fails or is interrupted, it stays as it was.

        See Also
        --------
        fit : Learn from all rows at once, in many passes.

        Notes
        -----
        ``lower_bound_`` and ``routed_bound_`` become running means of the
        log-likelihood of rows before they were learned, over the experts that training
        keeps for a row and over those that predict asks; ``expert_load_`` is the share
        of each expert in the rows that are remembered. Other records of training are
        those of the last fit or start.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoe import MoERegressor
        >>> rng = np.random.default_rng(0)
        >>> model = MoERegressor(n_experts=2, random_state=0)
        >>> for _ in range(10):
        ...     X = rng.uniform(-3, 3, size=(100, 1))
        ...     model = model.partial_fit(X, np.abs(X[:, 0]))
        >>> model.predict([[-2.0], [2.0]]).round(1)
        array([2., 2.])
        """
        self._learn(X, y, sample_weight)
        return self

    def predict(self, X, return_std=False, groups=None):
        """Predict the mean of y, or a centre that outliers do not move.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        return_std : bool, default=False
            Whether to return the standard deviation of y too: that within the experts
            and that between their means.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, new ones as a rule. Rows of a group then go to the same
            experts, those that they speak for together: the more rows a group has, the
            surer the gate may be. None takes rows one by one, and so does a mixture
            whose ``tied_`` is False.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Gate-weighted mean over the ``top_k`` experts of each row. With
            ``likelihood="student_t"`` or "laplace" it is the median of the mixture,
            that of ``predict_quantiles(X, [0.5])`` before ``conformalize``;
            `WithOutliers` leaves its fixed expert out. The precision is that of X, or
            that of the training targets where these are far from zero beside what they
            vary by.
        std : ndarray of the same shape
            With ``return_std=True``, of all of the distribution, outliers included;
            infinite where the family has no variance.
        """
        mean = self._combine(X, groups)
        mean = mean[:, 0] if self._single_output else mean
        if not return_std:
            return mean
        return mean, self.predict_distribution(X, groups=groups).std()
