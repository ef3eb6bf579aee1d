"""What both estimators share: parameters, validation, fit, routing."""

from __future__ import annotations

import copy
import functools
import sys
import warnings
from abc import ABCMeta, abstractmethod
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import get_config  # type: ignore[attr-defined]
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.model_selection import LeaveOneOut
from sklearn.utils import check_array, check_random_state
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)

from .._sklearn_compat import (
    CallbackSupportMixin,
    HasMethods,
    Interval,
    StrOptions,
    _fit_context,
    with_callbacks,
)
from ..backends import BACKENDS, Array, namespace
from ..em import (
    FINAL_FOLDS,
    KINDS,
    NO_CORRECTION,
    PORTFOLIO,
    Choice,
    CrossFitPool,
    Mixture,
    Plan,
    Problem,
    Start,
    State,
    begin,
    content_folds,
    count_runs,
    fallbacks,
    finish,
    finished,
    kept,
    resume,
    routed,
    train,
)
from ..experts import ExpertPool, left_out, make_pool
from ..experts._averaged import AveragedPool
from ..gates import BaseGate
from ..routing import Routing
from . import _parts as parts
from ._inference import RoutedMixin
from ._validation import CheckedMixin, on_host
from ._watching import Watched

AUTO_FOLDS = 3
"""Folds of cross_fit="auto": more cost more and change little."""


def level_of_caller() -> int:
    """Return the stack level of the line that called fit, for `warnings.warn`."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
        ("skmoe.", "sklearn.")
    ):
        level, frame = level + 1, frame.f_back
    return level


WORTH = 1e-3
"""Nats a row from which a mixture is said to gain over one learner."""

IDLE = 0.01
"""Share of an even load below which an expert is said to serve next to no rows."""


def all_or_nothing(fit):
    """Leave the estimator as it was if its fit fails or is interrupted."""

    @functools.wraps(fit)
    def fit_or_restore(self, *args, **kwargs):
        before = dict(vars(self))
        try:
            return fit(self, *args, **kwargs)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return fit_or_restore


class BaseMoE(
    CheckedMixin, RoutedMixin, CallbackSupportMixin, BaseEstimator, metaclass=ABCMeta
):
    """Base class of `MoEClassifier` and `MoERegressor`."""

    _parameter_constraints: dict = {
        "expert": [HasMethods(["fit"]), list, tuple, None],
        "n_experts": [Interval(Integral, 1, None, closed="left")],
        "gate": [StrOptions(set(parts.GATES)), HasMethods(["fit"])],
        "top_k": [Interval(Integral, 1, None, closed="left"), None],
        "shared_expert": [StrOptions({"auto"}), HasMethods(["fit", "predict"]), None],
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
        "warm_start": ["boolean"],
        "backend": [StrOptions(set(BACKENDS))],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Folds are all that groups are for, as in a splitter, which requests them too.
    __metadata_request__fit = {"groups": True}

    @abstractmethod
    def __init__(
        self,
        expert=None,
        *,
        n_experts=8,
        gate="softmax",
        top_k=2,
        shared_expert=None,
        cross_fit="auto",
        final="refit",
        init="auto",
        n_init=4,
        max_iter=100,
        tol=1e-4,
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
        self.shared_expert = shared_expert
        self.cross_fit = cross_fit
        self.final = final
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.backend = backend
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    # ------------------------------------------------------- hooks of the kinds
    @abstractmethod
    def _default_expert(self) -> BaseEstimator:
        """Return the learner that expert=None stands for."""

    @abstractmethod
    def _encode_target(self, y: Any, weight: np.ndarray) -> tuple[Array, np.ndarray]:
        """Check y and set what is known of it; return (engine's y, row weights)."""

    @abstractmethod
    def _read_target(self, y: Any) -> Array:
        """Return the engine's form of a y given after fit."""

    @abstractmethod
    def _pool_options(self, y: Array, weight: np.ndarray) -> dict[str, Any]:
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
            Targets; several outputs for a regressor whose expert takes them.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights; weight 2 is the row twice, weight 0 is no row.
        groups : array-like of shape (n_samples,), default=None
            Group of each row, for ``cross_fit``: a splitter is given the groups, and
            else rows of a group share a fold. They are held out together, too.

        Returns
        -------
        self : object
            The fitted mixture. If fit fails or is interrupted, the estimator stays
            as it was before.
        """
        learners = parts.read_experts(
            self.expert, self.n_experts, self._default_expert(), self._classifies
        )
        before, gate = parts.read_gate(self.gate)
        self._check_cross_fit(groups)
        raw, X, y, weight = self._check_training(X, y, sample_weight)
        groups = self._check_groups(groups, sample_weight, weight.shape[0])
        given = self._given(sample_weight, weight)
        warm = self.warm_start and hasattr(self, "gate_")
        random = check_random_state(self.random_state)
        seeds = random.randint(2**31 - 1, size=self.n_experts + 1 + self.n_init)

        if warm:
            before, gate = self._warm_gate(gate)
        elif before is not None:
            before = before.fit(raw, y)
        problem = Problem(
            X_gate=parts.gate_input(before, X, raw),
            X=raw if self._experts_read_raw else X,
            y=y,
            sample_weight=weight,
            n_experts=self.n_experts,
            width=self._training_width(),
            max_iter=self.max_iter,
            tol=self.tol,
            seed=int(seeds[self.n_experts]),
        )
        with self._computing(problem.X_gate):
            plans = self._plans(problem, gate, learners, seeds, groups, given)
            runs = Watched(
                self,
                problem,
                count_runs(problem, plans),
                lambda part, state: self._attributes(
                    state.gate, finished(part, state), part, before
                ),
            )
            if warm:
                mixture = self._go_on(problem, plans[0], gate, runs)
            else:
                mixture = train(problem, plans, runs)
            runs.close()
            models = fallbacks(mixture.run, mixture.own)
            attributes = self._attributes(
                mixture.gate, mixture.pool, mixture.problem, before
            )
            attributes |= self._diagnosis(mixture)

        for name, value in attributes.items():
            setattr(self, name, value)
        self._set_record(mixture)
        self._warn_of(mixture.run)
        self._warn_of_fallbacks(models)
        return self

    def _plans(self, problem, gate, learners, seeds, groups, given) -> list[Plan]:
        """Return the ways to train that compete on rows held out.

        One, but for shared_expert="auto", and for experts that differ as learners:
        from every start these become another kind of mixture.
        """
        options = self._pool_options(problem.y, problem.sample_weight)
        options |= {"n_features": self.n_features_in_, "n_jobs": self.n_jobs}
        own, rest = np.split(seeds, [self.n_experts])

        def plan(learners: list, shared: Any) -> Plan:
            pool = make_pool(learners, seeds=own.tolist(), **options)
            return Plan(
                gates=gate.variants(),
                pool=self._cross_fitted(pool, problem, groups),
                starts=self._starts(rest[1:], pool),
                top_k=self.top_k,
                choice=None if self._holds_out else Choice(),
                average=self.final == "average",
                groups=groups,
                resp=given,
                shared=None if shared is None else make_pool([shared], **options),
            )

        shared = self.shared_expert
        if shared is None:
            only = plan(learners, None)
            auto = isinstance(self.init, str) and self.init == "auto"
            if not auto or not self._holds_out or parts.alike(learners):
                return [only]
            return [replace(only, starts=[start]) for start in only.starts]
        if not isinstance(shared, str):
            parts.check_learner(shared, self._classifies, "shared_expert")
            return [plan(self._beside_shared(learners), clone(shared))]
        pure = plan(learners, None)
        if not self._holds_out or pure.pool.slack == 0 or not parts.alike(learners):
            return [pure]
        linear = self._beside_shared([self._default_expert()] * self.n_experts)
        return [pure, plan(linear, clone(learners[0]))]

    def _beside_shared(self, learners: list) -> list:
        """Return the experts that a shared one has: one of them corrects nothing."""
        return learners if self._classifies else [*learners[:-1], NO_CORRECTION]

    def _go_on(self, problem, plan: Plan, gate, runs: Watched) -> Mixture:
        """Train from where the previous fit ended."""
        problem = plan.left_over(problem)
        state = self._warm_state(problem, gate, plan.pool)
        result = runs(problem, "warm", lambda: state)
        choice = Choice(strength=1.0 - self.shrinkage_)
        return finish(problem, result, plan, choice)

    def _diagnosis(self, mixture: Mixture) -> dict[str, Any]:
        """Return the attribute that sets bounds side by side."""
        problem, model = mixture.problem, (mixture.gate, mixture.pool)
        mass, rows = kept(problem, mixture.gate, self.top_k)
        diagnostics = {
            "routed_bound": mixture.bound,
            "in_sample_bound": routed(problem, *model, self.top_k).bound,
            "top_k_mass": mass,
            "top_k_rows": rows,
        }
        return {"diagnostics_": diagnostics}

    def _set_record(self, mixture: Mixture) -> None:
        """Set the attributes that tell how training went."""
        result, choice = mixture.run, mixture.choice
        self.lower_bound_ = result.lower_bound
        self.lower_bounds_ = np.array([info.bound for info in result.passes])
        self.n_iter_ = result.n_iter
        self.converged_ = result.converged
        self.routed_bound_ = mixture.bound
        self.shrinkage_ = 1.0 - choice.strength
        self.held_out_ = {
            "mixture": choice.mixture,
            "constant_gate": choice.blind,
            "pooled": choice.pooled,
            "single": choice.single,
        }
        self.routing_gain_ = choice.mixture - choice.blind
        if self.verbose:
            print(f"[{type(self).__name__}] {self._verdict()}")
        self._own_pool = mixture.own

    def _verdict(self) -> str:
        """Say what the mixture is worth, from the rows held out."""
        held, name = self.held_out_, type(self).__name__
        if not np.isfinite(held["mixture"]):
            return (
                f"No rows were held out, so nothing says whether {name} is better than "
                "one of its learners (cross_fit='auto' would)."
            )
        gain = held["mixture"] - held["single"]
        worth = (
            f"It gains {gain:.3f} nats a row over one learner"
            if gain > WORTH
            else "It brings nothing over one learner"
        )
        return (
            f"{worth} on rows held out, of which {self.routing_gain_:.3f} come from "
            f"the gate. Experts keep {1.0 - self.shrinkage_:.0%} of their own answers; "
            f"{int(np.sum(self.expert_load_ < IDLE / self.n_experts))} of "
            f"{self.n_experts} experts serve next to no rows."
        )

    @property
    def _holds_out(self) -> bool:
        """Whether gate and shrinkage are chosen on rows held out."""
        return self.cross_fit is not None and self.n_experts > 1

    def _starts(self, seeds, pool: ExpertPool) -> list[Start]:
        """Return the starts: the kinds in turn, each with its seed."""
        kinds = self._start_kinds(pool)
        if isinstance(self.init, str) and self.init == "auto":
            seeds = seeds[: len(kinds)]
        starts = [
            Start(kinds[i % len(kinds)], i // len(kinds), int(seed))
            for i, seed in enumerate(seeds)
        ]
        # These draw nothing, so a second one would be the first again.
        fixed = ("given", "uniform", "best")
        return [s for s in starts if s.number == 0 or s.kind not in fixed]

    def _start_kinds(self, pool: ExpertPool) -> tuple[str, ...]:
        """Return the kinds of starts, to be gone through in turn."""
        if not self._names_starts:
            return ("given",)
        if not isinstance(self.init, str):
            return tuple(self.init)
        if self.init != "auto":
            return (self.init,)
        if pool.slack == 0:
            return PORTFOLIO + ("random",) * max(0, self.n_init - len(PORTFOLIO))
        # Linear experts find the regimes; learners that differ sort themselves out.
        alike = parts.alike(pool.learners)
        return ("linear",) if alike else ("linear", "uniform", "best")

    @property
    def _names_starts(self) -> bool:
        """Whether init names starts, instead of being responsibilities."""
        if isinstance(self.init, str):
            return True
        return isinstance(self.init, (list, tuple)) and all(
            isinstance(kind, str) for kind in self.init
        )

    def _given(self, sample_weight, weight) -> Routing | None:
        """Return the responsibilities that init gives, of rows that have weight."""
        if self._names_starts:
            kinds = (self.init,) if isinstance(self.init, str) else tuple(self.init)
            known = {"auto", *KINDS} if isinstance(self.init, str) else KINDS
            if not kinds or any(kind not in known for kind in kinds):
                raise ValueError(
                    f"init must be 'auto', one of {sorted(KINDS)}, a list of these, or "
                    "responsibilities of shape (n_samples, n_experts); got "
                    f"{self.init!r}."
                )
            return None
        resp = check_array(
            on_host(self.init), accept_sparse="csr", input_name="init", dtype=np.float64
        )
        resp = resp.toarray() if sparse.issparse(resp) else resp
        used = self._used(sample_weight, weight.shape[0])
        if resp.shape != (len(used), self.n_experts):
            raise ValueError(
                "init must hold a responsibility for each row and expert, shape "
                f"{(len(used), self.n_experts)}; got shape {resp.shape}."
            )
        resp = resp[used]
        total = resp.sum(axis=1, keepdims=True)
        if (resp < 0).any() or (total == 0).any():
            raise ValueError(
                "init holds responsibilities, which must not be negative nor all zero "
                "in a row."
            )
        return Routing.from_dense(resp / total).like(weight)

    def _attributes(
        self, gate: BaseGate, pool: ExpertPool, problem: Problem, before
    ) -> dict[str, Any]:
        """Return the fitted attributes that predict needs."""
        routing = gate.route(problem.X_gate, self.top_k)
        weights = problem.sample_weight
        load = routing.scaled(weights / namespace(weights).sum(weights))
        attributes = {
            "gate_": parts.fitted_gate(self.gate, before, gate),
            "experts_": pool.estimators(),
            "n_experts_": problem.n_experts,
            "expert_load_": load.sum_by_expert(load.weights),
            "_pool": pool,
            "_shared": None if problem.shared is None else problem.shared.pool,
        }
        if problem.shared is not None:
            attributes["shared_expert_"] = problem.shared.pool.estimators()[0]
        if pool.scale is not None:
            scale = pool.scale
            attributes["scale_"] = scale[:, 0] if self._single_output else scale
        return attributes

    def _warn_of(self, result) -> None:
        if result.converged or result.n_iter < self.max_iter:  # a callback stopped it
            return
        gain = result.passes[-1].gain
        warnings.warn(
            f"EM stopped after max_iter={self.max_iter} passes while a pass still "
            f"raised the mean log-likelihood bound by {gain:.1e}, more than tol="
            f"{self.tol}. Increase max_iter or tol, or use fewer experts.",
            ConvergenceWarning,
            stacklevel=4,
        )

    def _warn_of_fallbacks(self, models: list[str | None]) -> None:
        reasons = [why for why in models if why is not None]
        if reasons:
            warnings.warn(
                f"{len(reasons)} of the {len(models)} models that judged the experts "
                "or became them could not be fitted on the rows of their expert, and "
                f"stand on the rows of others. The first: {reasons[0]} Use fewer "
                "experts or folds, or a learner that needs fewer rows.",
                FitFailedWarning,
                stacklevel=level_of_caller(),
            )

    # ----------------------------------------------------------- cross-fitting
    @property
    def _splits(self) -> bool:
        """Whether cross_fit is a splitter; a str has a split method too."""
        return hasattr(self.cross_fit, "split") and not isinstance(self.cross_fit, str)

    def get_metadata_routing(self):
        """Return how metadata reaches fit and the splitter of ``cross_fit``.

        Returns
        -------
        MetadataRouter
            See scikit-learn's guide to metadata routing.
        """
        router = MetadataRouter(owner=self).add_self_request(self)
        if self._splits:
            mapping = MethodMapping().add(caller="fit", callee="split")
            router.add(splitter=self.cross_fit, method_mapping=mapping)
        return router

    def _check_cross_fit(self, groups) -> None:
        if isinstance(self.cross_fit, str) and self.cross_fit != "auto":
            raise ValueError(
                "cross_fit must be 'auto', a number of folds, a splitter or None; got "
                f"{self.cross_fit!r}."
            )
        if self.cross_fit is not None:
            return
        remedy = "Set cross_fit to 'auto', a number of folds or a splitter, or"
        if self.final == "average":
            raise ValueError(
                "final='average' averages the models of the folds, but cross_fit=None "
                f"makes no folds. {remedy} final='refit'."
            )
        if groups is not None:
            raise ValueError(
                "groups say which rows share a fold, but cross_fit=None makes no "
                f"folds. {remedy} leave groups out (under metadata routing: "
                "set_fit_request(groups=False))."
            )

    def _check_groups(self, groups, sample_weight, n_used: int) -> np.ndarray | None:
        """Return the group of each row that has weight."""
        if groups is None:
            return None
        used = self._used(sample_weight, n_used)
        groups = check_array(
            on_host(groups), ensure_2d=False, dtype=None, input_name="groups"
        )
        if groups.shape != used.shape:
            raise ValueError(
                f"groups must have one entry a row, shape {used.shape}; got shape "
                f"{groups.shape}."
            )
        return groups[used]

    @staticmethod
    def _used(sample_weight, n_used: int) -> np.ndarray:
        """Tell which of the rows given to fit have weight."""
        weight = np.asarray(on_host(sample_weight))
        return weight > 0 if weight.ndim else np.ones(n_used, dtype=bool)

    def _cross_fitted(
        self, pool: ExpertPool, problem: Problem, groups: np.ndarray | None
    ) -> ExpertPool:
        """Return the pool, wrapped if its experts are to be judged out of fold."""
        auto = isinstance(self.cross_fit, str)
        # Rigid experts do not memorise rows.
        if self.cross_fit is None or (auto and pool.slack == 0):
            return pool
        if (auto and groups is None) or isinstance(self.cross_fit, LeaveOneOut):
            free = left_out(pool)
            if free is not None:
                return free
        final_folds = None
        if self._splits:
            folds = self._split(problem, groups)
        else:
            n_folds = AUTO_FOLDS if auto else self.cross_fit
            n_groups = None if groups is None else len(np.unique(groups))
            if n_groups is not None and n_groups < (2 if auto else n_folds):
                raise ValueError(
                    f"cross_fit={self.cross_fit!r} needs at least "
                    f"{2 if auto else n_folds} groups, since rows of a group share a "
                    f"fold; groups has {n_groups}."
                )
            folds = content_folds(problem, n_folds, problem.seed, groups)
            if auto:
                final_folds = content_folds(problem, FINAL_FOLDS, problem.seed, groups)
        if folds.max() == 0:
            return pool
        if pool.classes is not None:
            self._warn_of_rare_classes(pool.classes, problem.on_host().y, folds)
        part_rows = groups is None and not self._splits
        return CrossFitPool(pool, folds, final_folds, part_rows)

    def _split(self, problem: Problem, groups: np.ndarray | None) -> np.ndarray:
        """Return the fold that the splitter puts each row in."""
        host, params = problem.on_host(), {} if groups is None else {"groups": groups}
        if get_config()["enable_metadata_routing"]:
            params = process_routing(self, "fit", **params).splitter.split
        folds = np.full(len(host.y), -1)
        for fold, (_, rows) in enumerate(
            self.cross_fit.split(host.X_gate, host.y, **params)
        ):
            folds[rows] = fold
        if (folds < 0).any():
            raise ValueError(
                f"cross_fit={self.cross_fit!r} leaves {(folds < 0).sum()} rows in no "
                "test fold; every row must be in one."
            )
        return folds

    def _warn_of_rare_classes(
        self, classes: np.ndarray, y: np.ndarray, folds: np.ndarray
    ) -> None:
        """Warn of classes that models may have to judge without having seen them."""
        n_folds = int(folds.max()) + 1
        count = np.zeros((len(classes), n_folds), dtype=np.intp)
        np.add.at(count, (y, folds), 1)
        n_rows, n_met = count.sum(axis=1), (count > 0).sum(axis=1)
        rare = np.flatnonzero((n_rows < n_folds) | (n_met < 2))
        if rare.size:
            first, others = rare[0], len(rare) - 1
            also = f" (and {others} more classes)" if others else ""
            warnings.warn(
                f"Class {classes[first].item()!r}{also} has {n_rows[first]} rows, in "
                f"{n_met[first]} of the {n_folds} folds of cross_fit="
                f"{self.cross_fit!r}: its rows are judged by models that saw few or "
                "none of them. Use fewer folds, merge rare classes, or set "
                "cross_fit=None.",
                UserWarning,
                stacklevel=level_of_caller(),
            )

    # -------------------------------------------------------------- warm start
    def _warm_gate(self, gate):
        before, old = parts.split_gate(self.gate_)
        if type(old) is not type(gate):
            raise ValueError(
                f"warm_start=True needs the gate of the previous fit, {old!r}; got "
                f"{gate!r}. Set warm_start=False to start afresh."
            )
        # What "auto" chose stays chosen.
        params = {
            k: v
            for k, v in gate.get_params().items()
            if not isinstance(v, str) or v != "auto"
        }
        return before, copy.copy(old).set_params(**params)

    def _warm_state(self, problem, gate, pool) -> State:
        scale, y = self._pool.scale, problem.y
        if scale is not None and scale.shape[1] != y.shape[1]:
            raise ValueError(
                f"warm_start=True needs y of {scale.shape[1]} outputs as in the "
                f"previous fit; got {y.shape[1]}. Set warm_start=False to start afresh."
            )
        state = resume(problem, gate, self._warm_pool(pool))
        if type(state.pool) is not type(pool):  # what predicted is not what is trained
            return begin(problem, gate, pool, state.resp)
        return state

    def _warm_pool(self, pool: ExpertPool) -> ExpertPool:
        old = self._own_pool
        pool = pool.pool if isinstance(pool, CrossFitPool) else pool
        fitted = old.pools[0] if isinstance(old, AveragedPool) else old
        same = type(fitted) is type(pool) and old.n_experts == pool.n_experts
        if not same or not np.array_equal(old.classes, pool.classes):
            raise ValueError(
                "warm_start=True needs the same n_experts, kind of expert and classes "
                f"as the previous fit, which had n_experts={old.n_experts}; got "
                f"n_experts={pool.n_experts}, experts {pool.learners[0]!r}. Set "
                "warm_start=False to start afresh."
            )
        warm = copy.copy(old)
        for name in ("learners", "likelihood", "seeds", "n_jobs"):
            setattr(warm, name, getattr(pool, name))
        return warm
