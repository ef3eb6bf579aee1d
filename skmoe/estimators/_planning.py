"""How parameters become plans to train by, and a fitted mixture one to go on from."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import check_array

from ..em import (
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
    finish,
    most_experts,
    resume,
    select_number,
)
from ..experts import AveragedPool, ExpertPool, make_pool
from ..routing import Routing
from . import _parts as parts
from ._columns import reader, reads_numbers_only
from ._validation import about, given
from ._watching import Watched


class PlanningMixin:
    """Reads ``init``, ``n_init``, ``shared_expert`` and ``warm_start``.

    And ``n_experts="auto"``.
    """

    # ------------------------------------------------------- how many experts
    def _check_number(self) -> None:
        """Raise if something else fixes the number of experts that fit is to choose."""
        if not self._chooses_number:
            return
        if not self._names_starts:
            raise ValueError(
                f"n_experts={self.n_experts!r} needs init to name starts; got "
                "responsibilities, which fix the number."
            )
        if self._n_fixed:
            raise ValueError(
                f"n_experts={self.n_experts!r} cannot be combined with likelihood="
                f"{self.likelihood!r}, which has a fixed expert. Set a number."
            )

    def _n_at_first(self, n_rows: int, warm: bool) -> int:
        """Return how many experts there are, or at most, if fit is to choose."""
        if self._chooses_number:
            return self.n_experts_ if warm else most_experts(n_rows)
        if n_rows >= self._n_asked or not self._names_starts:
            return self._n_asked
        self._warn_of_few_rows(n_rows)
        return n_rows

    def _selected(
        self, problem: Problem, gate, learners: list, seeds: np.ndarray
    ) -> tuple[Problem, list, np.ndarray, dict[str, np.ndarray]]:
        """Return the problem, learners and seeds of the number chosen, and the path.

        They are those of a fit that is given this number.
        """
        plan = self._plans(problem, gate, learners, seeds, None)[0]
        hold_out = self.cross_fit is not None
        found = select_number(problem, plan, hold_out=hold_out)
        number = found.n_experts
        if self.verbose:
            self._tell_path(found.path)
        seeds = seeds[: number + 1 + self.n_init]
        problem = replace(
            problem,
            n_experts=number,
            width=self._training_width(number),
            seed=int(seeds[number]),
        )
        return problem, learners[:number], seeds, found.path

    def _tell_path(self, path: dict[str, np.ndarray]) -> None:
        for number, held_out, bic, chosen in zip(
            *(path[k] for k in ("n_experts", "held_out", "bic", "chosen")), strict=True
        ):
            print(
                f"[{type(self).__name__}] n_experts {number:3d}  held out "
                f"{held_out: .6f}  BIC {bic: .1f}{'  chosen' if chosen else ''}"
            )

    # ------------------------------------------------------------------ plans
    def _plans(self, problem, gate, learners, seeds, given) -> list[Plan]:
        """Return the ways to train that compete on rows held out.

        Of a panel each way twice: groups share an expert, or each row has its own.
        """
        plans = self._ways(problem, gate, learners, seeds, given)
        if problem.panel is None or plans[0].choice is not None:
            return plans
        return [replace(plan, tied=tied) for tied in (True, False) for plan in plans]

    def _ways(self, problem, gate, learners, seeds, given) -> list[Plan]:
        """Return the ways to train with the groups as they are.

        One, but for shared_expert="auto", and for experts that differ as learners:
        from every start these become another kind of mixture.
        """
        known = problem.y, problem.sample_weight, problem.n_experts
        options = self._pool_options(*known)
        options |= {"n_features": self.n_features_in_, "n_jobs": self.n_jobs}
        # A penalty is the user's, and weighs against the weights that came with it.
        options["weight_unit"] = 1.0 if self.expert is None else self._weight_unit
        own, rest = np.split(seeds, [problem.n_experts])
        gates = self._cross_fitted_gate(gate, problem).variants()
        holds_out = self._holds_out(problem.n_experts)

        # Beside a shared expert the others learn residuals, which are about zero.
        left_over = options | {"likelihood": options["likelihood"].about(0.0)}

        def plan(learners: list, shared: Any) -> Plan:
            chosen = options if shared is None else left_over
            readers = self._readers(learners)
            pool = make_pool(readers, seeds=own.tolist(), **chosen)
            return Plan(
                gates=gates,
                pool=self._cross_fitted(pool, problem),
                starts=self._starts(rest[1:], pool),
                rule=self._rule,
                choice=None if holds_out else Choice(),
                average=self.final == "average",
                resp=given,
                shared=None if shared is None else make_pool([shared], **options),
            )

        shared = self.shared_expert
        if shared is None:
            only = plan(learners, None)
            auto = isinstance(self.init, str) and self.init == "auto"
            if not auto or not holds_out or parts.alike(learners):
                return [only]
            return [replace(only, starts=[start]) for start in only.starts]
        if not isinstance(shared, str):
            parts.check_learner(shared, self._classifies, "shared_expert")
            tamed = self._tamed(clone(shared))
            return [plan(self._beside_shared(learners), tamed)]
        pure = plan(learners, None)
        if not holds_out or pure.pool.rigid or not parts.alike(learners):
            return [pure]
        linear = self._beside_shared([self._default_expert()] * problem.n_experts)
        return [pure, plan(linear, clone(learners[0]))]

    def _tamed(self, learner: Any) -> Any:
        """Return a learner that keeps what varies of y."""
        return learner

    def _readers(self, learners: list) -> list:
        """Return learners that can read X as it reaches them: a data frame, maybe."""
        names = self._reads["categories"]
        plain = list(map(reads_numbers_only, learners))
        if not self._reads["frame"] or not (names or all(plain)):
            return learners
        return [
            reader(learner, names) if is_plain else learner
            for learner, is_plain in zip(learners, plain, strict=True)
        ]

    def _beside_shared(self, learners: list) -> list:
        """Return the experts that a shared one has: one of them corrects nothing."""
        return learners if self._classifies else [*learners[:-1], NO_CORRECTION]

    def _holds_out(self, n_experts: int) -> bool:
        """Whether gate and shrinkage are chosen on rows held out."""
        if self._starts_stream:  # penalties chosen on the first rows do not suit more
            return False
        return self.cross_fit is not None and n_experts > 1

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
        fixed = ("given", "uniform", "single")
        return [s for s in starts if s.number == 0 or s.kind not in fixed]

    def _start_kinds(self, pool: ExpertPool) -> tuple[str, ...]:
        """Return the kinds of starts, to be gone through in turn."""
        if not self._names_starts:
            return ("given",)
        if not isinstance(self.init, str):
            return tuple(self.init)
        if self.init != "auto":
            return (self.init,)
        if pool.frozen.all():  # what they say does not depend on where EM starts
            return ("uniform",)
        if pool.rigid:
            return PORTFOLIO + ("random",) * max(0, self.n_init - len(PORTFOLIO))
        # Linear experts find the regimes; learners that differ sort themselves out.
        alike = parts.alike(pool.learners)
        return ("linear",) if alike else ("linear", "uniform", "single")

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
        with about("init"):
            resp = check_array(
                given(self.init, "init"),
                accept_sparse="csr",
                input_name="init",
                dtype=np.float64,
            )
        resp = resp.toarray() if sparse.issparse(resp) else resp
        used = self._used(sample_weight, weight.shape[0])
        if resp.shape != (len(used), self._n_asked):
            raise ValueError(
                "init must hold a responsibility for each row and expert, shape "
                f"{(len(used), self._n_asked)}; got shape {resp.shape}."
            )
        resp = resp[used]
        total = resp.sum(axis=1, keepdims=True)
        if (resp < 0).any() or (total == 0).any():
            raise ValueError(
                "init holds responsibilities, which must not be negative nor all zero "
                "in a row."
            )
        return Routing.from_dense(resp / total).like(weight)

    def _go_on(self, problem, plan: Plan, gate, runs: Watched) -> Mixture:
        """Train from where the previous fit ended."""
        problem = replace(plan, tied=getattr(self, "tied_", True)).left_over(problem)
        state = self._warm_state(problem, gate, plan)
        result = runs(problem, "warm", lambda: state)
        choice = Choice(
            strength=1.0 - self.shrinkage_,
            to_best=self._to_best,
            temperature=getattr(self, "temperature_", 1.0),
            bias=getattr(self, "class_bias_", 0.0),
        )
        return finish(problem, result, plan, choice)

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

    def _warm_state(self, problem, gate, plan: Plan) -> State:
        scale, y, pool = self._pool.scale, problem.y, plan.pool
        if scale is not None and scale.shape[1] != y.shape[1]:
            raise ValueError(
                f"warm_start=True needs y of {scale.shape[1]} outputs as in the "
                f"previous fit; got {y.shape[1]}. Set warm_start=False to start afresh."
            )
        state = resume(problem, gate, self._warm_pool(pool))
        # What predicted is not what is trained, if that is judged out of fold.
        same = type(state.pool) is type(pool) and type(gate) is type(plan.gates[0])
        return state if same else begin(problem, plan.gates[0], pool, state.resp)

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
        for name in ("learners", "likelihood", "seeds", "n_jobs", "weight_unit"):
            setattr(warm, name, getattr(pool, name))
        return warm
