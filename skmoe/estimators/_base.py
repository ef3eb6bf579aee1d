"""What both estimators share: parameters, validation, fit, routing."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import check_random_state

from .._caller import level_of_caller
from .._sklearn_compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    html_block,
    with_callbacks,
)
from .._version import __version__
from ..backends import BACKENDS, Array, namespace, one_blas_thread, to_host
from ..em import (
    Mixture,
    Problem,
    Voice,
    chosen_on,
    count_runs,
    fallbacks,
    finished,
    for_new_rows,
    train,
)
from ..experts import ExpertPool
from ..gates import BaseGate
from . import _parts as parts
from ._all_or_nothing import all_or_nothing
from ._folds import FoldsMixin
from ._growth import GrowthMixin
from ._inference import RoutedMixin
from ._naming import NamedPartsMixin
from ._planning import PlanningMixin
from ._reporting import ReportingMixin
from ._streaming import StreamingMixin
from ._validation import CheckedMixin
from ._watching import Watched

ON_REQUEST = (
    "gates_",
    "noise_experts_",
    "scale_",
    "selection_path_",
    "shared_expert_",
    "_stream",
    "_early",
    "group_ids_",
    "tied_",
    "group_correlation_",
    "_voice",
)
"""Attributes that not every fit sets: none may be left of an earlier fit."""


class BaseMoE(
    NamedPartsMixin,
    CheckedMixin,
    FoldsMixin,
    PlanningMixin,
    GrowthMixin,
    StreamingMixin,
    ReportingMixin,
    RoutedMixin,
    CallbackSupportMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Base class of `MoEClassifier` and `MoERegressor`."""

    _parameter_constraints: dict = {
        "expert": [HasMethods(["fit"]), list, tuple, None],
        "n_experts": [
            Interval(Integral, 1, None, closed="left"),
            StrOptions({"auto"}),
            None,
        ],
        "gate": [StrOptions(set(parts.GATES)), HasMethods(["fit"])],
        "top_k": [Interval(Integral, 1, None, closed="left"), None],
        "top_p": [Interval(Real, 0, 1, closed="right"), None],
        "capacity_factor": [Interval(Real, 1, None, closed="left"), None],
        "shared_expert": [StrOptions({"auto"}), HasMethods(["fit"]), None],
        "cross_fit": [
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
            HasMethods(["split"]),
            None,
        ],
        "final": [StrOptions({"refit", "average"})],
        "init": [str, list, tuple, "array-like", "sparse matrix"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "balance": [Interval(Real, 0, 1, closed="both")],
        "warm_start": ["boolean"],
        "backend": [StrOptions(set(BACKENDS))],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # A splitter requests groups too.
    __metadata_request__fit = {"groups": True}

    @abstractmethod
    def __init__(
        self,
        expert=None,
        *,
        n_experts=None,
        gate="softmax",
        top_k=2,
        top_p=None,
        capacity_factor=None,
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
        self.expert = expert
        self.n_experts = n_experts
        self.gate = gate
        self.top_k = top_k
        self.top_p = top_p
        self.capacity_factor = capacity_factor
        self.shared_expert = shared_expert
        self.cross_fit = cross_fit
        self.final = final
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.balance = balance
        self.backend = backend
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # --------------------------------------------------------------- persistence
    def __getstate__(self):
        return super().__getstate__() | {"_skmoe_version": __version__}

    def __setstate__(self, state):
        state = dict(state)
        version = state.pop("_skmoe_version", "unknown")
        if version != __version__:
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=__version__,
                    original_sklearn_version=version,
                ),
                stacklevel=level_of_caller(),
            )
        super().__setstate__(state)

    def _sk_visual_block_(self):
        """Return what HTML shows: the learners and gates that the parameters hold."""
        return html_block(self, parts.named_parts(self.get_params(deep=False)))

    # ------------------------------------------------------- hooks of the kinds
    @abstractmethod
    def _default_expert(self) -> BaseEstimator:
        """Return the learner that expert=None stands for."""

    def _named(self) -> dict[str, Any]:
        """Return what parameters that are names, or None, stand for."""
        named: dict[str, Any] = {}
        if isinstance(self.gate, str) and self.gate in parts.GATES:
            named["gate"] = parts.GATES[self.gate]()
        if self.expert is None:
            named["expert"] = self._default_expert()
        return named

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return the learners as they are to be trained."""
        return learners

    @abstractmethod
    def _encode_target(self, y: Any, weight: np.ndarray) -> tuple[Array, np.ndarray]:
        """Check y and set what is known of it; return (engine's y, row weights)."""

    @abstractmethod
    def _read_target(self, y: Any) -> Array:
        """Return the engine's form of a y given after fit."""

    @abstractmethod
    def _pool_options(
        self, y: Array, weight: np.ndarray, n_experts: int
    ) -> dict[str, Any]:
        """Return likelihood and classes for `make_pool`."""

    @abstractmethod
    def _check_target(self, y: Any) -> np.ndarray:
        """Return y as an array of a valid kind and shape."""

    # --------------------------------------------------------------------- fit
    @all_or_nothing
    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, groups=None):
        """Fit gate and experts by expectation-maximisation.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Training rows. Sparse input needs a gate and experts that take it. If
            gate and experts are Pipelines, X reaches them as it is, so it may hold
            any columns that their first steps read.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; several outputs for a regressor whose expert takes them, or an
            indicator of labels, dense or sparse, for a classifier.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights; weight 2 is the row twice, weight 0 is no row.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, such as a person measured many times. All rows of a
            group come from one expert (unless rows held out say otherwise, see
            ``tied_``), of which the gate learns what a row says. Groups are held out
            whole, their rows judged one by one, and share a fold; a splitter is given
            the groups. To keep rows in one fold without this, let ``cross_fit`` be a
            `PredefinedSplit`.

        Returns
        -------
        self : object
            The fitted mixture. If fit fails or is interrupted, the estimator stays
            as it was before.
        """
        self._check_counts()
        learners = parts.read_experts(
            self.expert, self._n_asked, self._default_expert(), self._classifies
        )
        self._check_number()
        if not self._starts_stream:
            self._warn_of_top_k()
        before, gate = parts.read_gate(self.gate)
        self._check_cross_fit()
        raw, X, y, weight = self._check_training(X, y, sample_weight)
        learners = self._adapted(learners)
        names = getattr(self, "feature_names_in_", None) if before is None else None
        gate = gate.placed(names)
        before = before or self._before_gate(X, gate)
        groups = self._check_groups(groups, sample_weight, weight.shape[0])
        given = self._given(sample_weight, weight)
        warm = self.warm_start and hasattr(self, "gate_")
        random = check_random_state(self.random_state)
        n_experts = self._n_at_first(weight.shape[0], warm)
        learners = learners[:n_experts]
        seeds = random.randint(2**31 - 1, size=n_experts + 1 + self.n_init)

        if warm:
            before, gate = self._warm_gate(gate)
        elif before is not None:
            before = before.fit(raw, y)
        X_gate = parts.gate_input(before, X, raw)
        if before is not None:
            parts.check_made(X_gate, gate)
        problem = Problem(
            X_gate=X_gate,
            X=raw if self._experts_read_raw else X,
            y=y,
            sample_weight=weight,
            n_experts=n_experts,
            width=self._training_width(n_experts),
            max_iter=self.max_iter,
            tol=self.tol,
            seed=int(seeds[n_experts]),
            groups=groups,
            balance=self.balance,
            capacity=float(self.capacity_factor or np.inf),
        )
        path = vars(self).get("selection_path_") if warm else None
        if self._chooses_number:
            learners = [clone(learners[0]) for _ in range(n_experts)]
        if self._chooses_number and not warm:
            with one_blas_thread(), self._computing(problem.X_gate, n_experts):
                problem, learners, seeds, path = self._selected(
                    problem, gate, learners, seeds
                )
        # Small products too: the threads of BLAS would spin between them.
        with one_blas_thread(), self._computing(problem.X_gate, problem.n_experts):
            plans = self._plans(problem, gate, learners, seeds, given)
            splits = [] if warm else chosen_on(problem, plans)
            runs = Watched(
                self,
                problem,
                1 if warm else count_runs(plans, splits),
                lambda part, state: self._attributes(
                    for_new_rows(part, state.gate, state.resp),
                    finished(part, state),
                    part,
                    before,
                ),
            )
            if warm:
                mixture = self._go_on(problem, plans[0], gate, runs)
            else:
                mixture = train(problem, plans, splits, runs)
            runs.close()
            models = fallbacks(mixture.run, mixture.own)
            attributes = self._attributes(
                mixture.gate, mixture.pool, mixture.problem, before
            )
            attributes |= self._diagnosis(mixture)
            attributes |= self._of_panel(problem, mixture)
            if self._id_codes is not None:
                attributes["group_ids_"] = self._id_codes.ids
            attributes |= self._additions(mixture, before)

        if path is not None:
            attributes["selection_path_"] = path
        for name in ON_REQUEST:
            vars(self).pop(name, None)
        vars(self).update(attributes)
        self.history_ = runs.history
        self._set_record(mixture)
        self._warn_of(mixture)
        self._warn_of_rows_in_no_fold(mixture)
        self._warn_of_fallbacks(models)
        return self

    def _of_panel(self, problem: Problem, mixture: Mixture) -> dict[str, Any]:
        """Return the attributes of groups, if fit was given any."""
        if problem.panel is None:
            return {}
        view = problem.X_gate, mixture.resp
        voice = Voice.of(problem.panel, mixture.gate, *view)
        return {
            "tied_": mixture.problem.panel is not None,
            "group_correlation_": voice.correlation,
            "_voice": voice,
        }

    def _additions(self, mixture: Mixture, before) -> dict[str, Any]:
        """Return the attributes that are made once EM has ended."""
        return {}

    def _attributes(
        self, gate: BaseGate, pool: ExpertPool, problem: Problem, before
    ) -> dict[str, Any]:
        """Return the fitted attributes that predict needs."""
        routing = self._rule.route(gate, problem.X_gate)
        weights = problem.sample_weight
        load = routing.scaled(weights / namespace(weights).sum(weights))
        attributes = {
            "gate_": parts.fitted_gate(self.gate, before, gate),
            "experts_": pool.likelihood.shown(pool.estimators()),
            "n_experts_": problem.n_experts,
            "expert_load_": load.sum_by_expert(load.weights),
            "_rows_learned": float(to_host(namespace(weights).sum(weights))),
            "_pool": pool,
            "_shared": None if problem.shared is None else problem.shared.pool,
        }
        if problem.shared is not None:
            attributes["shared_expert_"] = problem.shared.pool.estimators()[0]
        if pool.scale is not None:
            scale = pool.scale
            attributes["scale_"] = scale[:, 0] if self._single_output else scale
        return attributes
