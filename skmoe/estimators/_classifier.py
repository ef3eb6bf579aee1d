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
from ..backends import Array, like, namespace, select, to_host
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
from ._validation import about, given, on_host

TINY = float(np.finfo(np.float32).tiny)


class MoEClassifier(ClassifierMixin, BaseMoE):
    r"""Mixture of experts for classification.

    The probability of a class given x is a gated sum of experts,

    .. math:: p(c | x) = \sum_k g_k(x) \, p_k(c | x)

    where the gate g knows where each expert is good and :math:`p_k` is any
    scikit-learn classifier with ``predict_proba``. y may be an indicator of several
    labels a row, too. Both are trained by
    expectation-maximisation [1]_ [2]_, and a prediction asks only the ``top_k``
    experts that the gate prefers for a row.

    Parameters
    ----------
    expert : estimator, list of estimators or None, default=None
        The learner that every expert is a clone of, or one learner an expert. None
        is ``LogisticRegression()``, whose experts are trained together, with the
        answer that clones would give. Of several labels a `LogisticRegression` is one
        model a label, as in `sklearn.multioutput.MultiOutputClassifier`. A learner
        without ``sample_weight`` is fitted on weighted resamples. A
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
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes; they multiply ``sample_weight``. None for several
        labels a row.
    shared_expert : estimator, "auto" or None, default=None
        A learner fitted on all rows, to whose probabilities the experts are drawn, as
        far as rows held out say. "auto" lets these choose between the mixture of
        ``expert`` and one such learner with logistic experts beside it. None has no
        shared expert: experts are drawn to their own learner fitted on all rows, as
        they are for several labels a row.
    cross_fit : "auto", None, int or cross-validation splitter, default="auto"
        How experts are judged in the E-step. None judges them on the rows that they
        were fitted on, which flexible learners memorise; a number of folds or a
        splitter judges each row by models that were blind to its fold. The models of a
        splitter, such as `TimeSeriesSplit`, learn from its training rows. A row in
        several test folds is judged by the first; a row in none by a model that saw it,
        it does not count for noise scales, and a warning says so. "auto" is
        None for ridge and logistic experts that are trained together, out of the bag
        for bags and forests, without the row itself for nearest neighbours, and 3
        folds for all others. Unless it is None, the gate's ``alpha="auto"`` and
        ``shrinkage_`` are chosen on rows held out.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels; positions of the labels if y is an indicator.
    experts_ : list of estimators
        The fitted experts, each with its own ``predict`` and ``classes_``: those it
        has met. An expert that met one class is a `DummyClassifier`. Those of several
        labels answer with arrays (n_samples, n_labels), ``predict_proba`` too; the
        learner is their ``estimator_``.
    gate_ : gate or Pipeline
        The fitted gate.
    n_experts_ : int
        Number of experts.
    selection_path_ : dict of str to ndarray of shape (n_tried,)
        With ``n_experts="auto"``, what was tried: "n_experts"; "held_out", the mean
        log-likelihood a row of rows held out; "standard_error" of what that lacks
        against the best; "bic" and "icl" of the rows learned from, lower is better;
        "chosen". NaN where nothing was held out or parameters cannot be counted.
    expert_load_ : ndarray of shape (n_experts,)
        Share of the training rows that each expert serves, by routing weight; sums
        to one.
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
        predict asks, before calibration; out of fold if cross-fitted. In sample it
        equals the mean of ``score_samples`` on the training rows with a
        ``temperature_`` of 1 and a ``class_bias_`` of 0.
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
    temperature_ : float
        Class probabilities are raised to ``1 / temperature_``, times the exponential of
        ``class_bias_``, and renormalised: above 1 the experts were too sure. Chosen on
        rows held out, 1 where none were. Records of training are from before.
    class_bias_ : ndarray of shape (n_classes,)
        What calibration adds to the log probability of each class, so that a rare one
        is said to be as rare as it was among the rows held out; 0 where none were.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has them.

    See Also
    --------
    MoERegressor : The same for regression.

    Notes
    -----
    Experts trained as clones have their class probabilities floored at
    0.001 / n_classes; so have logistic experts for classes that they did not meet.

    Labels of an indicator are independent given the expert, with probabilities between
    0.0005 and 0.9995. One that does not vary among an expert's rows is a constant.

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
        self.class_weight = class_weight

    @property
    def _classifies(self) -> bool:
        return True

    def _default_expert(self):
        return LogisticRegression()

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return learners of a class, or of several labels, a row."""
        if not self._multilabel:
            return learners
        if self.shared_expert is not None:
            raise ValueError(
                "y of several labels cannot have a shared_expert; got "
                f"{self.shared_expert!r}. Set shared_expert=None: experts are drawn to "
                "their own learner fitted on all rows."
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
        if settings.starts_stream:  # whose first call has said which classes there are
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
        """Tell an indicator of labels from classes; the former sets ``classes_``."""
        n_known = len(self.classes_) if warm and self._multilabel else None
        self._multilabel = y.ndim == 2
        if not self._multilabel:
            return
        if n_known is not None:
            check_same_labels(y, n_known, type(self).__name__)
        if self.class_weight is not None:
            raise ValueError(
                "class_weight weighs rows by their class, and y has several labels a "
                f"row; got {self.class_weight!r}. Set it to None, and class_weight of "
                "the expert if it has one."
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
        """Return row weights of a batch times those of the classes.

        Those of "balanced" are of all rows of the stream.
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

        The first call fits a mixture to its rows, by a short fit of the usual kind,
        and calls with few rows repeat that on all rows so far. Later calls take one
        step of stepwise EM, in which old rows count for less. A call after ``fit``
        goes on from there.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            The batch.
        y : array-like of shape (n_samples,)
            Class labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that the stream may have; needed in the first call, unless
            ``fit`` went before.
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
                "partial_fit learns one class a row; of several labels use fit."
            )
        self._check_classes(classes)
        self._learn(X, y, sample_weight)
        return self

    def _check_classes(self, classes: Any) -> None:
        """Read the classes of a stream in its first call; others may repeat them."""
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
                    f"{type(self).__name__} needs at least 2 classes; got classes="
                    f"{classes!r}."
                )
            self.classes_ = classes
        elif not np.array_equal(classes, earlier):
            raise ValueError(
                f"classes={classes!r} are not those of the first call to partial_fit, "
                f"or of fit: {earlier!r}."
            )

    def _read_target(self, y: Any) -> Array:
        y = self._check_target(y)
        if self._multilabel:
            check_same_labels(y, len(self.classes_), type(self).__name__)
            return y
        if y.ndim == 2:
            raise ValueError(
                f"y has {y.shape[1]} labels a row, but {type(self).__name__} was "
                "fitted with one class a row."
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
        """Return what calibrates the class probabilities."""
        return {
            "temperature_": mixture.choice.temperature,
            "class_bias_": np.zeros(len(self.classes_)) + mixture.choice.bias,
        }

    @property
    def _calibration(self) -> tuple[float, np.ndarray] | None:
        """Temperature and biases; None if there are none, as while in training."""
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
            Gate-weighted mean over the ``top_k`` experts of each row, calibrated by
            ``temperature_`` and ``class_bias_``. Of several labels the probability that
            each is 1.
        """
        proba = self._combine(X, groups)
        if self._calibration is None:
            return proba
        temperature, bias = self._calibration
        xp = namespace(proba)
        bias = like(bias, proba, proba.dtype)
        log_proba = xp.log(xp.where(proba > 0, proba, xp.full_like(proba, TINY)))
        return select(proba).softmax(log_proba / temperature + bias)

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
            Of two classes the log odds of the second one; of more the log probability
            of each less their mean. Of several labels the log odds of each.
        """
        proba = self.predict_proba(X, groups)
        xp = namespace(proba)
        logit = xp.log(xp.where(proba > 0, proba, xp.full_like(proba, TINY)))
        if self._multilabel:
            return logit - xp.log1p(-proba)
        if len(self.classes_) == 2:
            return logit[:, 1] - logit[:, 0]
        return logit - xp.mean(logit, axis=1, keepdims=True)

    def score_samples(self, X, y=None, groups=None):
        """Return log p(y | x) of each row, under the routing that predict uses.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels. None stands for the mixture's own prediction, so the answer says
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
            Group of each row, new ones as a rule. Rows of a group then go to the same
            experts, those that they speak for together: the more rows a group has, the
            surer the gate may be. None takes rows one by one, and so does a mixture
            whose ``tied_`` is False.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_labels)
            Labels from ``classes_``. Of several labels 1 where one is more probable
            than not, else 0.
        """
        proba = self.predict_proba(X, groups)
        if self._multilabel:
            return like(indicator(on_host(proba)), proba)
        labels = self.classes_[np.argmax(on_host(proba), axis=1)]
        return like(labels, proba) if labels.dtype.kind in "biuf" else labels
