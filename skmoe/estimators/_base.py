"""What both estimators share: parameters, validation, fit, routing."""

from __future__ import annotations

import copy
import functools
import warnings
from abc import ABCMeta, abstractmethod
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

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
    PORTFOLIO,
    STARTS,
    CrossFitPool,
    Problem,
    State,
    begin,
    content_folds,
    initial,
    resume,
    run,
)
from ..experts import ExpertPool, make_pool
from . import _parts as parts
from ._inference import RoutedMixin
from ._validation import CheckedMixin

AUTO_FOLDS = 3
"""Folds of cross_fit="auto": more cost more and change little."""


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
        "cross_fit": [
            StrOptions({"auto"}),
            Interval(Integral, 2, None, closed="left"),
            HasMethods(["split"]),
            None,
        ],
        "init": [StrOptions({"auto", *STARTS}), list, tuple],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "backend": [StrOptions(set(BACKENDS))],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    @abstractmethod
    def __init__(
        self,
        expert=None,
        *,
        n_experts=8,
        gate="softmax",
        top_k=2,
        cross_fit="auto",
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
        self.cross_fit = cross_fit
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
    def fit(self, X, y, sample_weight=None):
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
        raw, X, y, weight = self._check_training(X, y, sample_weight)
        warm = self.warm_start and hasattr(self, "gate_")
        random = check_random_state(self.random_state)
        seeds = random.randint(2**31 - 1, size=self.n_experts + 1 + self.n_init)

        if warm:
            before, gate = self._warm_gate(gate)
        elif before is not None:
            before = before.fit(raw, y)
        X_expert = raw if self._experts_read_raw else X
        pool = make_pool(
            learners,
            n_features=self.n_features_in_,
            seeds=[int(seed) for seed in seeds[: self.n_experts]],
            n_jobs=self.n_jobs,
            **self._pool_options(y, weight),
        )
        problem = Problem(
            X_gate=parts.gate_input(before, X, raw),
            X=X_expert,
            y=y,
            sample_weight=weight,
            n_experts=self.n_experts,
            width=self._training_width(),
            max_iter=self.max_iter,
            tol=self.tol,
            seed=int(seeds[self.n_experts]),
        )
        with self._computing(problem.X_gate):
            pool = self._cross_fitted(pool, problem)
            seeds = seeds[self.n_experts + 1 :]
            starts = self._starts(problem, gate, pool, seeds, warm)
            results = self._run_all(problem, starts, before)
            best = max(results, key=lambda result: result.lower_bound)
            attributes = self._attributes(best, problem, before)

        for name, value in attributes.items():
            setattr(self, name, value)
        self.lower_bound_ = best.lower_bound
        self.lower_bounds_ = np.array([info.bound for info in best.passes])
        self.n_iter_ = best.n_iter
        self.converged_ = best.converged
        self._warn_of(best)
        return self

    def _run_all(self, problem, starts, before) -> list:
        """Run EM from every start, under the callbacks."""
        root = self._init_callback_context(max_subtasks=len(starts))
        root.call_on_fit_task_begin(estimator=self, X=problem.X, y=problem.y)
        results = []
        for number, (kind, make_state) in enumerate(starts):
            context = root.subcontext(task_name="start", max_subtasks=self.max_iter)
            context.call_on_fit_task_begin(estimator=self, X=problem.X, y=problem.y)
            watch = self._watch(context, problem, before, number, kind)
            results.append(run(problem, make_state(), watch))
            if context.call_on_fit_task_end(estimator=self, X=problem.X, y=problem.y):
                break
        root.call_on_fit_task_end(estimator=self, X=problem.X, y=problem.y)
        return results

    def _watch(self, context, problem, before, number, kind):
        """Return what opens and closes a pass: callbacks and the verbose line."""

        def open_pass():
            task = context.subcontext(task_name="pass")
            task.call_on_fit_task_begin(estimator=self, X=problem.X, y=problem.y)

            def close_pass(info, state) -> bool:
                if self.verbose:
                    print(
                        f"[{type(self).__name__}] start {number + 1} ({kind}) "
                        f"pass {info.n_pass:3d}  bound {info.bound: .6f}  "
                        f"gain {info.gain:.1e}  experts updated "
                        f"{info.experts_accepted}/{problem.n_experts}"
                    )
                return task.call_on_fit_task_end(
                    estimator=self,
                    X=problem.X,
                    y=problem.y,
                    reconstruction_attributes=lambda: self._attributes(
                        state, problem, before
                    ),
                )

            return close_pass

        return open_pass

    def _starts(self, problem, gate, pool, seeds, warm) -> list:
        """Return (name, maker of the first state) of each start."""
        if warm:
            return [("warm", functools.partial(self._warm_state, problem, gate, pool))]
        kinds = self._start_kinds()

        def cold(kind: str, number: int, seed: int):
            return begin(problem, gate, pool, initial(problem, kind, number, seed))

        return [
            (
                kinds[i % len(kinds)],
                functools.partial(cold, kinds[i % len(kinds)], i // len(kinds), seed),
            )
            for i, seed in enumerate(int(s) for s in seeds)
        ]

    def _cross_fitted(self, pool: ExpertPool, problem: Problem) -> ExpertPool:
        """Return the pool, wrapped if its experts are to be judged out of fold."""
        folds = self.cross_fit
        if isinstance(folds, str):
            if folds != "auto":  # a str has a split method too
                raise ValueError(
                    "cross_fit must be 'auto', a number of folds, a splitter or None; "
                    f"got {folds!r}."
                )
            # Rigid experts do not memorise rows.
            folds = None if pool.slack == 0 else AUTO_FOLDS
        if folds is None:
            return pool
        if hasattr(folds, "split"):
            host = problem.on_host()
            which = np.full(len(host.y), -1)
            for fold, (_, rows) in enumerate(folds.split(host.X_gate, host.y)):
                which[rows] = fold
            if (which < 0).any():
                raise ValueError(
                    f"cross_fit={self.cross_fit!r} leaves {(which < 0).sum()} rows in "
                    "no test fold; every row must be in one."
                )
        else:
            which = content_folds(problem, folds, problem.seed)
        return CrossFitPool(pool, which) if which.max() > 0 else pool

    def _start_kinds(self) -> tuple[str, ...]:
        if isinstance(self.init, str) and self.init == "auto":
            return PORTFOLIO + ("random",) * max(0, self.n_init - len(PORTFOLIO))
        kinds = (self.init,) if isinstance(self.init, str) else tuple(self.init)
        if not kinds or any(kind not in STARTS for kind in kinds):
            raise ValueError(
                f"init must be 'auto', one of {sorted(STARTS)}, or a list of these; "
                f"got {self.init!r}."
            )
        return kinds

    def _attributes(self, model, problem: Problem, before) -> dict[str, Any]:
        """Return the fitted attributes that predict needs, from a state or result."""
        routing = model.gate.route(problem.X_gate, self.top_k)
        weights = problem.sample_weight
        pool = model.pool.finished(problem.X, problem.y, model.resp.scaled(weights))
        load = routing.scaled(weights / namespace(weights).sum(weights))
        attributes = {
            "gate_": parts.fitted_gate(self.gate, before, model.gate),
            "experts_": pool.estimators(),
            "n_experts_": problem.n_experts,
            "expert_load_": load.sum_by_expert(load.weights),
            "_pool": pool,
        }
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

    # -------------------------------------------------------------- warm start
    def _warm_gate(self, gate):
        before, old = parts.split_gate(self.gate_)
        if type(old) is not type(gate):
            raise ValueError(
                f"warm_start=True needs the gate of the previous fit, {old!r}; got "
                f"{gate!r}. Set warm_start=False to start afresh."
            )
        return before, copy.copy(old).set_params(**gate.get_params())

    def _warm_state(self, problem, gate, pool) -> State:
        scale, y = self._pool.scale, problem.y
        if scale is not None and scale.shape[1] != y.shape[1]:
            raise ValueError(
                f"warm_start=True needs y of {scale.shape[1]} outputs as in the "
                f"previous fit; got {y.shape[1]}. Set warm_start=False to start afresh."
            )
        state = resume(problem, gate, self._warm_pool(pool))
        if isinstance(pool, CrossFitPool):
            return begin(problem, gate, pool, state.resp)
        return state

    def _warm_pool(self, pool: ExpertPool) -> ExpertPool:
        old = self._pool
        pool = pool.pool if isinstance(pool, CrossFitPool) else pool
        same = type(old) is type(pool) and old.n_experts == pool.n_experts
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
