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
from ._validation import check_magnitude, refuse_lazy


class MoERegressor(RegressorMixin, DistributionMixin, BaseMoE):
    r"""Mixture of experts for regression.

    The density of y given x is a gated sum of experts,

    .. math:: p(y | x) = \sum_k g_k(x) \, N(y; \mu_k(x), \sigma_k^2)

    where the gate g says which experts are good at x and :math:`\mu_k` is any
    scikit-learn regressor. Gate and experts are trained by expectation-maximisation
    (EM) [1]_ [2]_. A prediction asks only the ``top_k`` experts that the gate
    prefers for the row.

    Parameters
    ----------
    expert : estimator, list of estimators or None, default=None
        What the experts are:

        - an estimator: every expert is a clone of it;
        - a list of estimators: one learner per expert;
        - None: ``Ridge()``, for counts ``PoissonRegressor()``, for "gamma"
          ``GammaRegressor()``.

        `Ridge` and `LinearRegression` experts are trained together from grouped Gram
        matrices, with the same result as clones; at the end of a Pipeline too, whose
        other steps are fitted once for all experts. A learner without ``sample_weight``
        is fitted on weighted resamples. A :class:`sklearn.frozen.FrozenEstimator` is
        used as it is.
    n_experts : int, "auto" or None, default=None
        Number of experts. None is 8, or the length of a list of experts. "auto" grows
        and prunes a mixture and takes the smallest number that explains held-out rows
        (rows that this training leaves out) as well as any other. That costs about one
        more fit. With ``cross_fit=None`` the Bayesian information criterion chooses.
        See ``selection_path_``.
    gate : str, gate, classifier or Pipeline, default="softmax"
        The model that says which experts are good for a row. A name stands for a gate
        of `skmoe.gates` with its defaults:

        - "softmax" separates the experts by hyperplanes;
        - "gaussian" gives each expert a Gaussian cloud of rows;
        - "tree" cuts the rows into boxes;
        - "hierarchical" and "product" scale to thousands of experts;
        - "constant" ignores x.

        A gate object sets its parameters. A classifier is wrapped in `EstimatorGate`.
        A Pipeline that ends in a gate lets it see other columns than the experts.
    top_k : int or None, default=2
        Number of experts per row in predict; training keeps twice as many. 2 costs
        little accuracy on most data. None uses all experts, as a dense mixture.
    top_p : float or None, default=None
        If set, a row asks the fewest of its ``top_k`` experts whose gate probabilities
        sum to ``top_p``: only one where the gate is sure. None always asks ``top_k``.
    capacity_factor : float or None, default=None
        Most rows per expert, in units of an even share. It limits the load of an expert
        in training and in each batch that is predicted. Further rows go to their next
        best expert, so predictions depend on the batch. Useful where experts run side
        by side on machines of one size. None sets no limit.
    likelihood : str or Likelihood, default="gaussian"
        How y scatters around the mean of an expert:

        - "gaussian": noise without outliers;
        - "student_t", "laplace": noise with outliers;
        - "poisson", "negative_binomial": counts;
        - "gamma": positive y;
        - "beta": rates between 0 and 1.

        An object of `skmoe.likelihoods` sets its parameters, as in ``StudentT(df=3)``;
        `ZeroInflated` and `WithOutliers` make the last expert a fixed one. Gradient
        boosting with its default loss gets the loss of the family.
    scale_prior : float, default=10.0
        Pseudo-rows that shrink each expert's noise variance to that of the residuals of
        all experts, so that a small expert cannot reach zero noise. 0 is maximum
        likelihood.
    noise_expert : estimator or None, default=None
        A regressor that learns how the noise of each expert varies with x, from the
        logarithms of squared residuals (out of fold if cross-fitted). Small and smooth
        is best, such as `Ridge` or boosting of a few leaves. An expert keeps its
        constant scale where that is no worse. Densities change, means do not. None is
        one scale per expert.
    gate_per_output : bool, default=False
        Whether each of several outputs has a gate and noise scales of its own, over
        experts that all outputs share. Useful where outputs follow different regimes,
        between which one gate must compromise.
    shared_expert : estimator, "auto" or None, default=None
        A learner that is fitted on all rows; the experts learn its out-of-fold
        residuals. One of the ``n_experts`` learns nothing, so that rows may keep the
        shared prediction. With "auto", held-out rows choose between a mixture of
        ``expert`` and linear experts beside a shared ``expert``. None has no shared
        expert.
    cross_fit : "auto", None, int or cross-validation splitter, default="auto"
        Which models judge a row in the E-step:

        - None: the experts themselves, which memorise rows if they are flexible;
        - int: number of folds; models that did not see the row's fold (out of fold);
        - splitter, such as `TimeSeriesSplit`: the same with its test and training rows;
        - `LeaveOneOut()`: models without the row, in closed form for ridge experts;
        - "auto": None for ridge and logistic experts that are trained together, out of
          the bag for bags and forests, without the row itself for nearest neighbours,
          3 folds for all others (5 for the last ``scale_``).

        If several test folds of a splitter hold a row, the first judges it. If none
        does, a model that saw the row judges it, noise scales leave it out, and a
        warning says so. Unless ``cross_fit`` is None, held-out rows choose
        ``shrinkage_`` and the gate's ``alpha="auto"``.
    final : {"refit", "average"}, default="refit"
        What predicts where experts are cross-fitted:

        - "refit": each expert, refitted on all rows;
        - "average": the mean of each expert's fold models. It is steadier with flexible
          learners, but a prediction asks every fold model (the mean of ridge models is
          one model). It needs ``cross_fit``; where "auto" is None it is "refit".
    init : str, list of str or (n_samples, n_experts) array-like, default="auto"
        How a start splits the rows among the experts:

        - "tree": by the leaves of a small tree;
        - "kmeans": by k-means on x and the residual of y;
        - "kmeans_x": by k-means on x;
        - "random": by a random smooth function of x and the residual of y;
        - "linear": as the best mixture of linear experts from the four above;
        - "uniform": not at all, for experts that differ as learners;
        - "single": all rows to the best expert, for experts that differ as learners;
        - a list of these names: one per start, in turn;
        - an array or sparse matrix: the responsibilities of the experts for the rows;
        - "auto": the first four and further "random" ones for ridge and logistic
          experts that are trained together; else "linear". If learners differ,
          held-out rows choose among "linear", "uniform" and "single".
    n_init : int, default=4
        Maximum number of starts; the best is kept. "uniform", "single" and given
        responsibilities are one start each.
    max_iter : int, default=100
        Maximum number of EM passes per run.
    tol : float, default=1e-4
        A run has converged when a pass raises the bound of the mean log-likelihood by
        less than this, in nats (natural logarithms) per row.
    max_time : float or None, default=None
        Seconds that training may take, counted from its start; None sets no limit. When
        they are over, the pass that runs ends, no start and no split of the rows
        follows, and the best mixture so far gets its last passes: so ``fit`` takes
        somewhat longer, and returns a mixture in any case.
        ``diagnostics_["out_of_time"]`` tells. Answers then depend on the speed of the
        machine. The search of ``n_experts="auto"`` counts: it chooses among the numbers
        that were tried by then.
    balance : float, default=0.0
        Least training load of an expert, in units of an even share: 0 leaves uneven
        regimes as they are, 1 makes all loads equal. It acts on the responsibilities
        only, and not in the last passes.
    backend : {"auto", "numpy", "numba", "cupy"}, default="auto"
        What computes:

        - "numpy": plain NumPy;
        - "numba": kernels that Numba compiles at first use, and keeps on disk;
        - "cupy": a CUDA device, to which X moves once per fit or predict;
        - "auto": Numba where the rows repay it. CuPy, PyTorch and other array-API
          arrays stay where they are.

        Predictions are in the container of X. All backends agree to 1e-10, in float32
        to 1e-5.
    warm_start : bool, default=False
        Whether ``fit`` goes on from the previous fit, with a single start.
    n_jobs : int or None, default=None
        Number of parallel jobs where experts are fitted one by one, and the upper limit
        on threads elsewhere. None is one job, and as many threads as BLAS has. The
        result is the same for any number.
    random_state : int, RandomState or None, default=None
        Seed of starts and experts.
    verbose : int, default=0
        1 prints a line per stage ("stage 3 of 7") with the seconds since training
        began, those left of ``max_time``, and at the end what the mixture gains over
        one learner. Stages are a start of EM, a race of starts, a choice on held-out
        rows, a path of ``n_experts="auto"``, the last passes. 2 also prints a line per
        pass.

    Attributes
    ----------
    experts_ : list of estimators
        The fitted experts, each with its own ``predict``.
    gate_ : gate or Pipeline
        The fitted gate.
    n_experts_ : int
        Number of experts.
    selection_path_ : dict of str to ndarray of shape (n_tried,)
        With ``n_experts="auto"``, one entry per number of experts that was tried:

        - "n_experts": the number;
        - "held_out": mean log-likelihood per held-out row;
        - "standard_error": of the difference to the best;
        - "bic", "icl": information criteria of the training rows, lower is better;
        - "chosen": whether it is the choice.

        NaN where no rows were held out or parameters cannot be counted.
    gates_ : list of gates or Pipelines
        The gate of each output, with ``gate_per_output=True``; ``gate_`` is then the
        one that the experts were trained with.
    scale_ : ndarray of shape (n_experts,) or (n_experts, n_outputs)
        Noise scale of each expert: the standard deviation for "gaussian", in units of
        y; else what the family says. Absent for "poisson".
    noise_experts_ : list of estimators or None
        With a ``noise_expert``: the fitted noise model of each expert, None where an
        expert keeps its constant scale.
    likelihood_ : Likelihood
        The family, bound to the training targets.
    expert_load_ : ndarray of shape (n_experts,)
        Share of the training rows that each expert serves, by routing weight; the
        shares sum to one. With ``gate_per_output=True``, shape (n_outputs, n_experts).
    lower_bound_ : float
        Lower bound of the log-likelihood where EM ended, in nats per row, over the
        experts that training keeps for a row; out of fold if cross-fitted.
    lower_bounds_ : ndarray of shape (`n_iter_`,)
        The bound after each pass of the EM run on all rows.
    history_ : list of dict
        Every run of EM, in order. "start" is the kind of its start ("chosen" goes on
        from what held-out rows chose) and "n_experts" its number of experts. Per pass,
        "bounds" has the mean over the rows of the run, "experts_accepted" how many
        experts were renewed, and "gate_accepted" whether the gate was.
    routed_bound_ : float
        Log-likelihood of the returned model, in nats per row, over the experts that
        predict asks; out of fold if cross-fitted, else the mean of ``score_samples`` on
        the training rows.
    shrinkage_ : float
        How far the experts shrink to a learner that is fitted on all rows: 0 is not at
        all, 1 makes them that learner. The learner is an expert's own or, where a list
        has several and one of them does better, that one. Chosen on held-out rows; 0
        where there are none.
    held_out_ : dict of str to float
        Mean log-likelihood per held-out row of the "mixture" as chosen, of the same
        with a "constant_gate", of the best mixture with ``shrinkage_`` 1 ("pooled"),
        and of the best learner alone ("single"). NaN where no rows were held out.
    routing_gain_ : float
        What the gate adds, in nats per held-out row: "mixture" minus "constant_gate" of
        ``held_out_``.
    diagnostics_ : dict of str to float
        How well the mixture was trained:

        - "routed_bound": ``routed_bound_``;
        - "in_sample_bound": the same in sample, too high where experts are flexible;
        - "top_k_mass": gate probability of the experts that predict asks, mean per row;
        - "top_k_rows": share of rows for which that is at least 95 %;
        - "experts_per_row": number of experts that predict asks, mean per row;
        - "rows_moved": number of training rows that met a full expert, with a
          ``capacity_factor``;
        - "out_of_time": 1 if ``max_time`` cut training short, else 0, with a
          ``max_time``.
    group_ids_ : ndarray of shape (n_ids,)
        Where the gate knows ids that are not numbers: the ids, as text. The gate sees
        their positions 0, 1, … instead. See `GroupGate`.
    tied_ : bool
        After a fit with ``groups``: whether the rows of a group share one expert. They
        do unless a mixture in which each row has its own expert predicts single rows
        of held-out groups better. Then groups change nothing in ``predict``.
    group_correlation_ : float
        After a fit with ``groups``: how alike the evidence of two rows of a group is,
        among groups of one expert. With 1, all rows of a new group tell the gate no
        more than one of them; with 0, each row is new evidence.
    shared_expert_ : estimator
        The fitted shared expert, if the mixture has one.
    n_iter_ : int
        Passes of the EM run on all rows. It is one where held-out rows chose the
        mixture, so that the mixture that predicts is the one that was judged.
    converged_ : bool
        Whether EM converged; where rows were held out, whether the judged runs did.
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
        max_time=None,
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
            max_time=max_time,
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
        """Return what parameters stand for that are a name or None."""
        if not isinstance(self.likelihood, str) or self.likelihood not in FAMILIES:
            return super()._named()
        return super()._named() | {"likelihood": self._family}

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return learners with the loss of the family; check that all suit it."""
        family = self._family
        over = family.any_real and family.has_residuals
        if self.shared_expert is not None and not over:
            raise ValueError(
                f"likelihood={self.likelihood!r} cannot have a shared_expert: its "
                "residuals may be any real number. Set shared_expert=None."
            )
        if not isinstance(self.shared_expert, (str, NoneType)):
            frozen = [learner for learner in learners if is_frozen(learner)]
            if frozen:
                raise ValueError(
                    f"expert {frozen[0]!r} is frozen and predicts y, but beside a "
                    "shared_expert experts learn residuals. Set shared_expert=None, "
                    "and put that learner into the list of experts."
                )
        if self.noise_expert is not None:
            parts.check_learner(self.noise_expert, False, "noise_expert")
            if not family.any_real:
                raise ValueError(
                    f"likelihood={self.likelihood!r} has no noise scale that could "
                    "vary with x. Set noise_expert=None."
                )
        learners = [self._tamed(family.adapted(learner)) for learner in learners]
        if not isinstance(family, BesideFixed):
            return learners
        if len(learners) < 2:
            raise ValueError(
                f"likelihood={self.likelihood!r} makes the last expert a fixed one, so "
                f"n_experts must be at least 2; got {len(learners)}."
            )
        return learners

    def _tamed(self, learner: BaseEstimator) -> BaseEstimator:
        """Return a learner that keeps the variation of y where y is extreme."""
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
                "gate_per_output=True needs a y of several outputs, shape (n_samples, "
                "n_outputs); got one output."
            )
        if self.noise_expert is not None and not self._single_output:
            raise ValueError(
                f"noise_expert needs a y of one output; got shape {y.shape}. Set "
                "noise_expert=None, or fit one mixture per output."
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
        """Return the gates and scales of each output, or the noise that varies."""
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
            raise ValueError(
                "partial_fit cannot learn a gate per output. Set gate_per_output=False."
            )
        if self.noise_expert is not None:
            raise ValueError(
                "partial_fit cannot learn a noise_expert. Set noise_expert=None."
            )
        likelihood = self.likelihood
        if likelihood != "gaussian" and type(likelihood) is not Gaussian:
            raise ValueError(
                "partial_fit needs likelihood='gaussian', whose noise scales follow "
                f"from running sums; got {likelihood!r}."
            )

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, sample_weight=None):
        """Learn from a batch of rows; a stream is learned batch by batch.

        The first call fits a mixture to its rows by a short fit of the usual kind.
        While rows are few, later calls repeat that on all rows so far. Then each call
        takes one step of stepwise EM, in which old rows count for less. A call after
        ``fit`` goes on from there.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            The batch.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. The likelihood must be "gaussian".
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; weight 2 is the row twice.

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
        log-likelihood of each row before it was learned: the former over the experts
        that training keeps for the row, the latter over those that predict asks.
        ``expert_load_`` is the share of each expert in the rows that are remembered.
        Other records of training are those of the last fit or start.

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
            Whether to return the standard deviation of y too, within the experts and
            between their means.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, usually a group that training did not meet. All rows of
            a group go to the same experts, which the gate chooses from all of them
            together: the more rows, the surer the choice. With None, or if ``tied_``
            is False, each row is routed by itself.

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Gate-weighted mean of the ``top_k`` experts of each row. With
            ``likelihood="student_t"`` or "laplace" it is the median of the mixture, as
            ``predict_quantiles(X, [0.5])`` returns it before ``conformalize``.
            `WithOutliers` leaves its fixed expert out. The dtype is that of X, or that
            of the training targets where their distance from zero is large beside
            their variation.
        std : ndarray of the same shape
            With ``return_std=True``, the standard deviation of the whole distribution,
            outliers included; infinite where the family has no variance.
        """
        mean = self._combine(X, groups)
        mean = mean[:, 0] if self._single_output else mean
        if not return_std:
            return mean
        return mean, self.predict_distribution(X, groups=groups).std()

    def score(self, X, y, sample_weight=None):
        """Return the coefficient of determination R² of the predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        Returns
        -------
        float
            Mean over the outputs; 1 is best.
        """
        refuse_lazy(y, "y")
        refuse_lazy(sample_weight, "sample_weight")
        return super().score(X, y, sample_weight)
