"""The base of both estimators: parameters, validation and fit."""

from __future__ import annotations

import warnings
from abc import ABCMeta, abstractmethod
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping

from .._caller import level_of_caller
from .._sklearn_compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    html_block,
)
from .._version import __version__
from ..backends import BACKENDS, Array
from ..em import Mixture
from ..experts import ExpertPool
from . import _gate_and_experts as parts
from ._all_or_nothing import all_or_nothing
from ._fitted import set_fitted
from ._folds import is_splitter
from ._growth import GrowthMixin
from ._ids import IdCodes
from ._inference import RoutedMixin
from ._naming import NamedPartsMixin
from ._reading import read_task
from ._record import report
from ._rows import listed_experts
from ._streaming import StreamingMixin
from ._task import Settings
from ._training import trained


class BaseMoE(
    NamedPartsMixin,
    GrowthMixin,
    StreamingMixin,
    RoutedMixin,
    CallbackSupportMixin,
    BaseEstimator,
    metaclass=ABCMeta,
):
    """Base class of `MoEClassifier` and `MoERegressor`.

    Private attributes of a fitted mixture:

    - ``_pool`` and ``_own_pool``: the experts that predict and those that were trained;
    - ``_shared``: the pool of the shared expert;
    - ``_calibration``: temperature and biases of class probabilities;
    - ``_reads``: how X reaches the parts;
    - ``_id_codes``: codes of ids that are not numbers;
    - ``_weight_unit``: the sample weight that counts as one row.
    """

    _calibration: tuple[float, np.ndarray] | None = None
    _id_codes: IdCodes | None = None
    _shared: ExpertPool | None = None
    _weight_unit = 1.0

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
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
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
        max_time=None,
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
        self.max_time = max_time
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
        """Return what HTML shows: the learners and gates among the parameters."""
        return html_block(self, parts.named_parts(self.get_params(deep=False)))

    # ------------------------------------------------------- hooks of the kinds
    @property
    def _classifies(self) -> bool:
        """Whether y holds classes or labels."""
        return False

    @abstractmethod
    def _default_expert(self) -> BaseEstimator:
        """Return the learner that expert=None stands for."""

    def _named(self) -> dict[str, Any]:
        """Return what parameters stand for that are a name or None."""
        named: dict[str, Any] = {}
        if isinstance(self.gate, str) and self.gate in parts.GATES:
            named["gate"] = parts.GATES[self.gate]()
        if self.expert is None:
            named["expert"] = self._default_expert()
        return named

    def _adapted(self, learners: list[BaseEstimator]) -> list[BaseEstimator]:
        """Return the learners as they are to be trained."""
        return learners

    def _tamed(self, learner: BaseEstimator) -> BaseEstimator:
        """Return a learner that keeps the variation of y."""
        return learner

    @abstractmethod
    def _encode_target(
        self, y: Any, weight: np.ndarray, settings: Settings
    ) -> tuple[Array, np.ndarray]:
        """Set what is known of y; return it in the engine's form, and row weights."""

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
    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, groups=None):
        """Fit gate and experts by expectation-maximisation.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Training rows. A sparse X needs a gate and experts that take it. Pipelines
            as gate and experts get X as it is, so it may hold any columns that their
            first steps read.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. A regressor takes several outputs if its experts do. A classifier
            takes class labels, or a dense or sparse indicator of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; weight 2 is the row twice, weight 0 is no row.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, such as a person measured many times. All rows of a
            group come from one expert, unless held-out rows say otherwise (``tied_``).
            All rows of a group are in one fold, and are held out together but judged
            one by one. A splitter is given the groups. To keep rows in one fold without
            tying them to one expert, let ``cross_fit`` be a `PredefinedSplit`.

        Returns
        -------
        self : object
            The fitted mixture. If fit fails or is interrupted, the estimator stays
            as it was before.
        """
        settings = Settings.of(self)
        task = read_task(self, settings, X, y, sample_weight, groups)
        training = trained(self, task)
        set_fitted(self, training.attributes, afresh=True)
        report(self, settings, training)
        return self

    def _additions(self, mixture: Mixture, before) -> dict[str, Any]:
        """Return the attributes that are made after EM."""
        return {}

    def _parts_of_kind(self, pool: ExpertPool) -> dict[str, Any]:
        """Return the attributes that only one kind of mixture has."""
        return {}

    def get_metadata_routing(self):
        """Return how metadata reaches fit and the splitter of ``cross_fit``.

        Returns
        -------
        MetadataRouter
            See scikit-learn's guide to metadata routing.
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        if is_splitter(self.cross_fit):
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(splitter=self.cross_fit, method_mapping=mapping)
        return router

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        gate = (
            parts.GATES[self.gate]() if self.gate in tuple(parts.GATES) else self.gate
        )
        experts = listed_experts(self)
        reads = [get_tags(part).input_tags for part in (gate, *experts)]
        tags.input_tags.sparse = all(read.sparse for read in reads)
        # A gate that takes no NaN sees means and indicators instead.
        tags.input_tags.allow_nan = all(map(parts.takes_nan, experts))
        return tags
