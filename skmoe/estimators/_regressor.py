"""Mixture-of-experts regression."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils import get_tags

from .._sklearn_compat import Interval, _check_y
from ..backends import Array, to_host
from ..em import Mixture, gates_per_output
from ..experts import Gaussian
from . import _parts as parts
from ._base import BaseMoE

SCALE_FLOOR = 1e-3
"""Smallest noise variance, in units of Var(y), where the scales have a prior."""

SCALE_FLOOR_ML = 1e-8
"""The same for plain maximum likelihood (scale_prior=0)."""


class MoERegressor(RegressorMixin, BaseMoE):
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
        is ``Ridge()``. `Ridge` and `LinearRegression` experts are all trained
        together from grouped Gram matrices, with the answer that clones would give.
        A learner without ``sample_weight`` is fitted on weighted resamples.
    n_experts : int, default=8
        Number of experts.
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
    scale_prior : float, default=10.0
        Pseudo-rows that pull each expert's noise variance to the pooled one, so that
        a small expert cannot run away to zero noise. 0 is maximum likelihood.
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
        splitter judges each row by models that were blind to its fold. "auto" is
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
        Passes of EM a start.
    tol : float, default=1e-4
        A start has converged when a pass raises the bound by less, mean a row.
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
        1 prints a line a pass, and at the end what the mixture brings over one
        learner.

    Attributes
    ----------
    experts_ : list of estimators
        The fitted experts, each with its own ``predict``.
    gate_ : gate or Pipeline
        The fitted gate.
    n_experts_ : int
        Number of experts.
    gates_ : list of gates or Pipelines
        The gate of each output, with ``gate_per_output=True``; ``gate_`` is then the
        one that the experts were trained with.
    scale_ : ndarray of shape (n_experts,) or (n_experts, n_outputs)
        Noise standard deviation of each expert, in units of y.
    expert_load_ : ndarray of shape (n_experts,)
        Share of the training rows that each expert serves, by routing weight; sums
        to one. With a gate per output (n_outputs, n_experts), a row for each.
    lower_bound_ : float
        Mean a row of the log-likelihood bound where EM ended, over the experts that
        training keeps for a row; out of fold if cross-fitted.
    lower_bounds_ : ndarray of shape (n_iter_,)
        The bound after each pass of the run of EM that was kept.
    history_ : list of dict
        Every run of EM, in turn: the kind of its "start" ("chosen" goes on from what
        rows held out chose) and its "n_experts"; for each pass "bounds", means over
        the rows of the run, "experts_accepted", how many experts were renewed, and
        "gate_accepted", whether the gate was.
    routed_bound_ : float
        Mean a row of the log-likelihood of the returned model, over the experts that
        predict asks; out of fold if cross-fitted. In sample it equals the mean of
        ``score_samples`` on the training rows.
    shrinkage_ : float
        How far experts are drawn to their learner fitted on all rows: 0 is not at
        all, 1 makes them that learner. Chosen on rows held out; 0 where none were.
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
    shared_expert_ : estimator
        The fitted shared expert, if the mixture has one.
    n_iter_ : int
        Passes of the run of EM that was kept.
    converged_ : bool
        Whether that run converged.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
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
        "scale_prior": [Interval(Real, 0, None, closed="left")],
        "gate_per_output": ["boolean"],
    }

    def __init__(
        self,
        expert=None,
        *,
        n_experts=8,
        gate="softmax",
        top_k=2,
        top_p=None,
        capacity_factor=None,
        scale_prior=10.0,
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
        self.scale_prior = scale_prior
        self.gate_per_output = gate_per_output

    def _default_expert(self):
        return Ridge()

    def _check_target(self, y: Any) -> np.ndarray:
        if sparse.issparse(y):
            raise TypeError("y is a sparse matrix; pass it dense, as y.toarray().")
        multi_output = get_tags(self).target_tags.multi_output
        y = _check_y(y, multi_output=multi_output, y_numeric=True, estimator=self)
        return y if y.dtype.kind == "f" else y.astype(np.float64)

    def _encode_target(self, y: Any, weight: np.ndarray) -> tuple[Array, np.ndarray]:
        self._single_output = y.ndim == 1
        if self.gate_per_output and self._single_output:
            raise ValueError(
                "gate_per_output=True needs y of several outputs, shape (n_samples, "
                "n_outputs); got one output."
            )
        return (y[:, None] if self._single_output else y), weight

    def _read_target(self, y: Any) -> Array:
        y = self._check_target(y)
        y = y[:, None] if y.ndim == 1 else y
        n_outputs = self._pool.scale.shape[1]
        if y.shape[1] != n_outputs:
            raise ValueError(
                f"y has {y.shape[1]} outputs, but {type(self).__name__} was fitted "
                f"with {n_outputs}."
            )
        return y

    def _more_gates(self, mixture: Mixture, before) -> dict[str, Any]:
        """Return the gate, the scales and the loads of each output, if asked for."""
        if not self.gate_per_output:
            return {}
        average = self.final == "average"
        gates, pool = gates_per_output(mixture, self._rule, average=average)
        problem, loads = mixture.problem, []
        for gate in gates:
            routing = self._rule.route(gate, problem.X_gate)
            load = routing.scaled(problem.sample_weight)
            loads.append(load.sum_by_expert(load.weights))
        load = np.stack(loads)
        return {
            "gates_": [parts.fitted_gate(self.gate, before, gate) for gate in gates],
            "expert_load_": load / load.sum(axis=1, keepdims=True),
            "scale_": pool.scale,
            "experts_": pool.estimators(),
            "_pool": pool,
        }

    def _pool_options(self, y: Array, weight: np.ndarray) -> dict[str, Any]:
        y, weight = to_host(y).astype(np.float64), to_host(weight)
        mean = np.average(y, axis=0, weights=weight)
        variance = np.average((y - mean) ** 2, axis=0, weights=weight)
        smallest = np.finfo(np.float64).eps * (1.0 + mean**2)
        share = SCALE_FLOOR if self.scale_prior > 0 else SCALE_FLOOR_ML
        floor = np.maximum(share * variance, smallest)
        return {"likelihood": Gaussian(float(self.scale_prior), floor)}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = all(
            get_tags(expert).target_tags.multi_output for expert in self._listed_experts
        )
        return tags

    def predict(self, X):
        """Predict the mean of y.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Gate-weighted mean over the ``top_k`` experts of each row.
        """
        mean = self._combine(X)
        return mean[:, 0] if self._single_output else mean
