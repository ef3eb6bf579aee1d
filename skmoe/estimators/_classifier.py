"""Mixture-of-experts classification."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import check_consistent_length

from .._sklearn_compat import StrOptions, _check_y, _fit_context
from ..backends import Array, device_of, like, namespace, on_host, to_host
from ..em import Mixture
from ..experts import indicator
from ..likelihoods import Bernoulli, Categorical
from ._all_or_nothing import all_or_nothing
from ._base import BaseMoE
from ._multilabel import (
    check_same_labels,
    holds_labels,
    label_experts,
    read_labels,
    takes_labels,
)
from ._rows import listed_experts
from ._task import Settings
from ._validation import about, given, refuse_lazy

TINY = float(np.finfo(np.float32).tiny)


class MoEClassifier(ClassifierMixin, BaseMoE):
    r"""Mixture of experts for classification.

    The probability of a class given x is a gated sum of experts,

    .. math:: p(c | x) = \sum_k g_k(x) \, p_k(c | x)

    where the gate g says which experts are good at x and :math:`p_k` is any
    scikit-learn classifier with ``predict_proba``. Gate and experts are trained by
    expectation-maximisation (EM) [1]_ [2]_. A prediction asks only the ``top_k``
    experts that the gate prefers for the row. y may also be an indicator matrix of
    several labels per row.

    Parameters
    ----------
    expert : estimator, list of estimators or None, default=None
        What the experts are:

        - an estimator: every expert is a clone of it;
        - a list of estimators: one learner per expert;
        - None: ``LogisticRegression()``.

        `LogisticRegression` experts are trained together, with the same result as
        clones; for several labels per row each has one model per label, as in
        `sklearn.multioutput.MultiOutputClassifier`. A learner without ``sample_weight``
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
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, which multiply ``sample_weight``. Must be None for
        several labels per row.
    shared_expert : estimator, "auto" or None, default=None
        A learner that is fitted on all rows; the experts shrink to its probabilities as
        far as held-out rows favour it. With "auto", these choose between a mixture of
        ``expert`` and logistic experts beside a shared ``expert``. With None, experts
        shrink to their own learner fitted on all rows. Must be None for several labels
        per row.
    cross_fit : "auto", None, int or cross-validation splitter, default="auto"
        Which models judge a row in the E-step:

        - None: the experts themselves, which memorise rows if they are flexible;
        - int: number of folds; models that did not see the row's fold (out of fold);
        - splitter, such as `TimeSeriesSplit`: the same with its test and training rows;
        - `LeaveOneOut()`: models without the row, in closed form for ridge experts;
        - "auto": None for ridge and logistic experts that are trained together, out of
          the bag for bags and forests, without the row itself for nearest neighbours,
          3 folds for all others.

        If several test folds of a splitter hold a row, the first judges it. If none
        does, a model that saw the row judges it, and a warning says so. Unless
        ``cross_fit`` is None, held-out rows choose ``shrinkage_`` and the gate's
        ``alpha="auto"``.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels; positions of the labels if y is an indicator.
    experts_ : list of estimators
        The fitted experts, each with its own ``predict`` and ``classes_``, the classes
        that it met. An expert that met one class is a `DummyClassifier`. For several
        labels per row, ``predict`` and ``predict_proba`` of an expert return arrays of
        shape (n_samples, n_labels), and its ``estimator_`` is the learner.
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
    expert_load_ : ndarray of shape (n_experts,)
        Share of the training rows that each expert serves, by routing weight; the
        shares sum to one.
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
        predict asks, before calibration; out of fold if cross-fitted. In sample it
        equals the mean of ``score_samples`` on the training rows with a
        ``temperature_`` of 1 and a ``class_bias_`` of 0.
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
    temperature_ : float
        Log class probabilities are divided by it, ``class_bias_`` is added, and the
        probabilities are normalised. Above 1, the experts were too sure. Chosen on
        held-out rows; 1 where there are none. Records of training are from before.
    class_bias_ : ndarray of shape (n_classes,)
        What calibration adds to the log probability of each class, so that a class is
        predicted as often as it occurs among the held-out rows; 0 where there are none.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has them.

    See Also
    --------
    MoERegressor : The same for regression.

    Notes
    -----
    Class probabilities are at least 0.001 / n_classes for experts that are trained as
    clones, and for classes that a logistic expert did not meet.

    Given the expert, the labels of an indicator are independent, with probabilities
    between 0.0005 and 0.9995. An expert whose rows all agree on a label predicts it as
    a constant.

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
    >>> from sklearn.datasets import load_iris
    >>> from skmoe import MoEClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MoEClassifier(n_experts=2, random_state=0).fit(X, y)
    >>> model.score(X, y) > 0.95
    True
    """

    _parameter_constraints: dict = {
        **BaseMoE._parameter_constraints,
        "class_weight": [StrOptions({"balanced"}), dict, None],
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
        self.class_weight = class_weight

    @property
    def _classifies(self) -> bool:
        return True

    def _default_expert(self):
        return LogisticRegression()

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return learners of one class or of several labels per row."""
        if not self._multilabel:
            return learners
        if self.shared_expert is not None:
            raise ValueError(
                "shared_expert must be None for a y of several labels; got "
                f"{self.shared_expert!r}. With None, experts shrink to their own "
                "learner fitted on all rows."
            )
        return label_experts(learners)

    def _check_target(self, y: Any) -> np.ndarray:
        if holds_labels(y):
            return read_labels(y)
        y = _check_y(y, estimator=self)
        check_classification_targets(y)
        return y

    def _encode_target(
        self, y: Any, weight: np.ndarray, settings: Settings
    ) -> tuple[Array, np.ndarray]:
        if settings.starts_stream:  # partial_fit has set the classes
            positions = self._read_target(y)
            return positions, self._class_weighted(positions, weight)
        self._set_multilabel(y, settings.warm)
        if self._multilabel:
            return y, weight
        classes, positions = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least 2 classes in y; got 1 class: "
                f"{classes[0]!r}."
            )
        self.classes_ = classes
        if self.class_weight is not None:
            weight = weight * self._weight_of_each(y, weight)[positions]
        return positions, weight

    def _set_multilabel(self, y: np.ndarray, warm: bool) -> None:
        """Note whether y is an indicator of labels; set its ``classes_`` if so."""
        n_known = len(self.classes_) if warm and self._multilabel else None
        self._multilabel = y.ndim == 2
        if not self._multilabel:
            return
        if n_known is not None:
            check_same_labels(y, n_known, type(self).__name__)
        if self.class_weight is not None:
            raise ValueError(
                "class_weight must be None for a y of several labels; got "
                f"{self.class_weight!r}. Set class_weight of the expert, if it has one."
            )
        self.classes_ = np.arange(y.shape[1])

    def _weight_of_each(self, y: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
        """Return the weight of each class."""
        try:
            each = compute_class_weight(
                self.class_weight, classes=self.classes_, y=y, sample_weight=weight
            )
        except TypeError as error:
            raise TypeError(f"class_weight {self.class_weight!r}: {error}") from error
        if not (np.isfinite(each) & (each >= 0)).all():
            wrong = "negative" if (each < 0).any() else "infinite or NaN"
            raise ValueError(
                f"class_weight must not be {wrong}; got {self.class_weight!r}."
            )
        return each

    def _class_weighted(self, y: Array, weight: np.ndarray) -> np.ndarray:
        """Return the row weights of a batch times the weights of their classes.

        With "balanced", all rows of the stream count.
        """
        if self.class_weight is None:
            return weight
        y = to_host(y)
        classes = self.classes_
        if isinstance(self.class_weight, dict):
            each = self._weight_of_each(classes, None)
        else:
            mass = self._class_mass + np.bincount(y, weight, minlength=len(classes))
            self._class_mass = mass
            met = mass > 0
            each = mass.sum() / (met.sum() * np.where(met, mass, 1.0))
        return weight * each[y]

    def _forget_classes(self) -> None:
        self._class_mass = np.zeros(len(self.classes_))

    _class_mass: Any = 0.0
    _multilabel = False

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=False)
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Learn from a batch of rows; a stream is learned batch by batch.

        The first call fits a mixture to its rows by a short fit of the usual kind.
        While rows are few, later calls repeat that on all rows so far. Then each call
        takes one step of stepwise EM, in which old rows count for less. A call after
        ``fit`` goes on from there.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            The batch.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that the stream may have. The first call needs them, unless
            ``fit`` came before.
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
        >>> from skmoe import MoEClassifier
        >>> rng = np.random.default_rng(0)
        >>> model = MoEClassifier(n_experts=2, n_init=2, random_state=0)
        >>> for _ in range(10):
        ...     X = rng.normal(size=(100, 2))
        ...     y = np.where(X[:, 0] > 0, X[:, 1] > 0, X[:, 1] < 0)
        ...     model = model.partial_fit(X, y, classes=[False, True])
        >>> model.predict([[2.0, 1.0], [-2.0, 1.0]])
        array([ True, False])
        """
        if self._multilabel or holds_labels(given(y, "y")):
            raise ValueError(
                "partial_fit learns one class per row; for several labels use fit."
            )
        self._check_classes(classes)
        self._learn(X, y, sample_weight)
        return self

    def _check_classes(self, classes: Any) -> None:
        """Set the classes of a stream in its first call; others may repeat them."""
        earlier = getattr(self, "classes_", None)
        if classes is None:
            if earlier is None:
                raise ValueError(
                    "classes must be passed on the first call to partial_fit."
                )
            return
        with about("classes"):
            classes = unique_labels(classes)
        if earlier is None:
            if len(classes) < 2:
                raise ValueError(
                    f"classes must name at least 2 classes; got {classes!r}."
                )
            self.classes_ = classes
        elif not np.array_equal(classes, earlier):
            raise ValueError(
                "classes must be those of the first call to partial_fit, or of fit: "
                f"{earlier!r}; got {classes!r}."
            )

    def _read_target(self, y: Any) -> Array:
        y = self._check_target(y)
        if self._multilabel:
            check_same_labels(y, len(self.classes_), type(self).__name__)
            return y
        if y.ndim == 2:
            raise ValueError(
                f"y has {y.shape[1]} labels per row, but {type(self).__name__} was "
                "fitted with one class per row."
            )
        try:
            places = np.searchsorted(self.classes_, y)
        except TypeError:  # labels of another kind
            places = np.zeros(len(y), dtype=np.intp)
        positions = np.minimum(places, len(self.classes_) - 1)
        unseen = np.unique(y[self.classes_[positions] != y])
        if unseen.size:
            raise ValueError(
                f"y holds classes that fit did not see: {unseen.tolist()}; known are "
                f"{self.classes_.tolist()}."
            )
        return positions

    def _pool_options(
        self, y: Array, weight: np.ndarray, n_experts: int
    ) -> dict[str, Any]:
        if self._multilabel:
            return {"likelihood": Bernoulli()}
        return {"likelihood": Categorical(), "classes": self.classes_}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        several = self.class_weight is None and self.shared_expert is None
        tags.classifier_tags.multi_label = several and all(
            map(takes_labels, listed_experts(self))
        )
        return tags

    def _additions(self, mixture: Mixture, before) -> dict[str, Any]:
        """Return the attributes that calibrate the class probabilities."""
        return {
            "temperature_": mixture.choice.temperature,
            "class_bias_": np.zeros(len(self.classes_)) + mixture.choice.bias,
        }

    @property
    def _calibration(self) -> tuple[float, np.ndarray] | None:
        """Temperature and biases; None where they change nothing, as in training."""
        temperature = getattr(self, "temperature_", 1.0)
        bias = getattr(self, "class_bias_", np.zeros(1))
        return (temperature, bias) if temperature != 1.0 or bias.any() else None

    def predict_proba(self, X, groups=None):
        """Return the probability of each class.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Gate-weighted mean of the ``top_k`` experts of each row, calibrated by
            ``temperature_`` and ``class_bias_``. For several labels, the probability
            that each is 1.
        """
        proba = self._combine(X, groups)
        if self._calibration is None:
            return proba
        temperature, bias = self._calibration
        xp = namespace(proba)
        least = xp.asarray(TINY, dtype=proba.dtype, device=device_of(proba))
        joint = xp.log(xp.maximum(proba, least)) / temperature
        joint += like(bias, proba, proba.dtype)
        odds = xp.exp(joint - xp.max(joint, axis=1, keepdims=True))
        return odds / xp.sum(odds, axis=1, keepdims=True)

    def decision_function(self, X, groups=None):
        """Return the log odds of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, the log odds of the second; for more, the log probability
            of each minus their mean. For several labels, the log odds of each.
        """
        proba = self.predict_proba(X, groups)
        xp = namespace(proba)
        logit = _finite_log(proba)
        if self._multilabel:
            return logit - xp.log1p(-proba)
        if len(self.classes_) == 2:
            return logit[:, 1] - logit[:, 0]
        return logit - xp.mean(logit, axis=1, keepdims=True)

    def score_samples(self, X, y=None, groups=None):
        """Return log p(y | x) of each row, routed as in predict.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels. None stands for the mixture's own prediction, so the result says
            how sure it is of each row.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples,)
            Natural logarithms.
        """
        if self._calibration is None:
            return super().score_samples(X, y, groups)
        log_proba = self.predict_log_proba(X, groups)
        xp = namespace(log_proba)
        if y is None:
            return xp.max(log_proba, axis=1)
        label = like(self._read_target(given(y, "y")), log_proba)
        check_consistent_length(log_proba, label)
        return xp.take_along_axis(log_proba, label[:, None], axis=1)[:, 0]

    def predict_log_proba(self, X, groups=None):
        """Return the logarithm of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row; see `predict`.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Natural logarithms.
        """
        proba = self.predict_proba(X, groups)
        return namespace(proba).log(proba)

    def predict(self, X, groups=None):
        """Predict the most probable class.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, usually a group that training did not meet. All rows of
            a group go to the same experts, which the gate chooses from all of them
            together: the more rows, the surer the choice. With None, or if ``tied_``
            is False, each row is routed by itself.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            Labels from ``classes_``. For several labels, 1 where a label is more
            probable than not, else 0.
        """
        proba = self.predict_proba(X, groups)
        if self._multilabel:
            return like(indicator(on_host(proba)), proba)
        labels = self.classes_[np.argmax(on_host(proba), axis=1)]
        return like(labels, proba) if labels.dtype.kind in "biuf" else labels

    def score(self, X, y, sample_weight=None):
        """Return the share of rows whose label, or all labels, are predicted.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row.

        Returns
        -------
        float
            Between 0 and 1.
        """
        refuse_lazy(y, "y")
        refuse_lazy(sample_weight, "sample_weight")
        return super().score(X, y, sample_weight)


def _finite_log(proba: Array) -> Array:
    """Return log probabilities; zero counts as the least positive float32."""
    xp = namespace(proba)
    return xp.log(xp.where(proba > 0, proba, xp.full_like(proba, TINY)))
