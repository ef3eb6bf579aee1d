"""Plans to train by, from parameters or from a fitted mixture to go on from."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array

from ..backends import one_blas_thread
from ..em import (
    KINDS,
    NO_CORRECTION,
    PORTFOLIO,
    Choice,
    Mixture,
    Plan,
    Start,
    State,
    begin,
    chosen_on,
    count_paths,
    count_stages,
    finish,
    most_experts,
    resume,
    select_number,
)
from ..experts import ExpertPool, make_pool
from ..routing import Routing
from . import _gate_and_experts as parts
from ._callbacks import Watched
from ._columns import reader, reads_numbers_only
from ._folds import cross_fitted_gate, cross_fitted_pool, used_rows
from ._record import warn_of_few_rows
from ._rows import computing, training_width
from ._task import Settings, Task
from ._validation import about, given


# ------------------------------------------------------------- how many experts
def check_number(model, settings: Settings) -> None:
    """Raise if fit is to choose the number of experts and a parameter fixes it."""
    if not settings.chooses_number:
        return
    if not names_starts(model):
        raise ValueError(
            f"n_experts={settings.n_experts!r} needs init to name starts; got "
            "responsibilities, which fix the number."
        )
    if model._n_fixed:
        raise ValueError(
            f"n_experts={settings.n_experts!r} cannot be combined with likelihood="
            f"{model.likelihood!r}, which has a fixed expert. Set a number."
        )


def n_at_first(model, settings: Settings, n_rows: int) -> int:
    """Return the number of experts; the largest, if fit is to choose."""
    if settings.chooses_number:
        return model.n_experts_ if settings.warm else most_experts(n_rows)
    if n_rows >= settings.n_experts or not names_starts(model):
        return settings.n_experts
    warn_of_few_rows(model, n_rows)
    return n_rows


def with_number(model, task: Task, runs: Watched) -> Task:
    """Choose the number of experts, which is open.

    The task is then the same as that of a fit with this number.
    """
    settings = task.settings
    problem = task.problem
    learners = [clone(task.learners[0]) for _ in range(problem.n_experts)]
    task = replace(task, learners=learners)
    if settings.warm:
        return replace(task, path=vars(model).get("selection_path_"))
    with (
        one_blas_thread(),
        computing(model, problem.X_gate, problem.n_experts, settings.backend),
    ):
        plan = plans(model, task)[0]
        hold_out = model.cross_fit is not None
        n_paths = count_paths(problem, plan, hold_out=hold_out)
        runs.announce(n_paths + _most_stages(model, task))
        selection = select_number(problem, plan, runs, hold_out=hold_out)
    if model.verbose:
        _tell_path(model, selection.path)
    return _of_number(model, task, selection.n_experts, selection.path)


def _most_stages(model, task: Task) -> int:
    """Return how many stages training has at most, whatever number the search finds.

    Where rows are held out depends on the number.
    """
    counts = []
    for number in {1, min(2, task.problem.n_experts), task.problem.n_experts}:
        sized = _of_number(model, task, number, {})
        ways = plans(model, sized)
        counts.append(count_stages(ways, chosen_on(sized.problem, ways)))
    return max(counts)


def _of_number(model, task: Task, number: int, path: dict[str, np.ndarray]) -> Task:
    """Return the task with fewer experts."""
    seeds = task.seeds[: number + 1 + model.n_init]
    problem = replace(
        task.problem,
        n_experts=number,
        width=training_width(model, number),
        seed=int(seeds[number]),
    )
    return replace(
        task, problem=problem, learners=task.learners[:number], seeds=seeds, path=path
    )


def _tell_path(model, path: dict[str, np.ndarray]) -> None:
    columns = [path[key] for key in ("n_experts", "held_out", "bic", "chosen")]
    for number, held_out, bic, chosen in zip(*columns, strict=True):
        print(
            f"[{type(model).__name__}] n_experts {number:3d}  held out "
            f"{held_out: .6f}  BIC {bic: .1f}{'  chosen' if chosen else ''}"
        )


# ------------------------------------------------------------------------ plans
def plans(model, task: Task) -> list[Plan]:
    """Return the plans that compete on held-out rows.

    A panel has each plan twice: a group shares one expert, or each row has its own.
    """
    ways = _ways(model, task)
    if task.problem.panel is None or ways[0].choice is not None:
        return ways
    return [replace(plan, tied=tied) for tied in (True, False) for plan in ways]


def _ways(model, task: Task) -> list[Plan]:
    """Return the plans, with the groups as they are.

    There is one plan, except with shared_expert="auto" and with experts that differ as
    learners: there each start leads to another kind of mixture.
    """
    problem = task.problem
    learners = task.learners
    options = model._pool_options(problem.y, problem.sample_weight, problem.n_experts)
    options |= {"n_features": problem.X.shape[1], "n_jobs": model.n_jobs}
    options["before"] = task.before_experts
    # The user chose the penalty for the weights as given.
    options["weight_unit"] = 1.0 if model.expert is None else model._weight_unit
    expert_seeds, rest = np.split(task.seeds, [problem.n_experts])
    gates = cross_fitted_gate(model, task.gate, problem).variants()
    holds_out = _holds_out(model, task)

    # Beside a shared expert, the others learn residuals, whose mean is about zero.
    left_over = options | {"likelihood": options["likelihood"].about(0.0)}

    def plan(learners: list, shared: Any) -> Plan:
        chosen = options if shared is None else left_over
        readers = learners
        if task.before_experts is None:
            readers = _readers(model, learners)
        pool = make_pool(readers, seeds=expert_seeds.tolist(), **chosen)
        return Plan(
            gates=gates,
            pool=cross_fitted_pool(model, pool, problem),
            starts=_starts(model, rest[1:], pool),
            rule=model._rule,
            choice=None if holds_out else Choice(),
            average=model.final == "average",
            resp=task.resp,
            shared=None if shared is None else make_pool([shared], **options),
        )

    shared = model.shared_expert
    if shared is None:
        only = plan(learners, None)
        auto = isinstance(model.init, str) and model.init == "auto"
        if not auto or not holds_out or parts.alike(learners):
            return [only]
        return [replace(only, starts=[start]) for start in only.starts]
    if not isinstance(shared, str):
        parts.check_learner(shared, model._classifies, "shared_expert")
        tamed = model._tamed(clone(shared))
        return [plan(_beside_shared(model, learners), tamed)]
    pure = plan(learners, None)
    if not holds_out or pure.pool.rigid or not parts.alike(learners):
        return [pure]
    linear = _beside_shared(model, [model._default_expert()] * problem.n_experts)
    return [pure, plan(linear, clone(learners[0]))]


def _readers(model, learners: list) -> list:
    """Return learners that can read X as it reaches them, which may be a data frame."""
    names = model._reads["categories"]
    plain = list(map(reads_numbers_only, learners))
    if not model._reads["frame"] or not (names or all(plain)):
        return learners
    return [
        reader(learner, names) if is_plain else learner
        for learner, is_plain in zip(learners, plain, strict=True)
    ]


def _beside_shared(model, learners: list) -> list:
    """Return the experts beside a shared one: one of them corrects nothing."""
    return learners if model._classifies else [*learners[:-1], NO_CORRECTION]


def _holds_out(model, task: Task) -> bool:
    """Whether gate and shrinkage are chosen on held-out rows."""
    if task.settings.starts_stream:
        return False  # penalties chosen on the first rows do not suit later ones
    return model.cross_fit is not None and task.problem.n_experts > 1


def _starts(model, seeds, pool: ExpertPool) -> list[Start]:
    """Return the starts: the kinds in turn, each start with its seed."""
    kinds = _start_kinds(model, pool)
    if isinstance(model.init, str) and model.init == "auto":
        seeds = seeds[: len(kinds)]
    earlier: Counter[str] = Counter()
    starts = []
    for kind, seed in zip(itertools.cycle(kinds), seeds, strict=False):
        starts.append(Start(kind, earlier[kind], int(seed)))
        earlier[kind] += 1
    # These kinds draw nothing, so a second start would repeat the first.
    fixed = ("given", "uniform", "single")
    return [s for s in starts if s.number == 0 or s.kind not in fixed]


def _start_kinds(model, pool: ExpertPool) -> tuple[str, ...]:
    """Return the kinds of starts, in the order in which they take turns."""
    if not names_starts(model):
        return ("given",)
    if not isinstance(model.init, str):
        return tuple(model.init)
    if model.init != "auto":
        return (model.init,)
    if pool.frozen.all():  # their predictions do not depend on the start of EM
        return ("uniform",)
    if pool.rigid:
        return PORTFOLIO + ("random",) * max(0, model.n_init - len(PORTFOLIO))
    # Linear experts find the regimes; learners that differ also divide the rows.
    alike = parts.alike(pool.learners)
    return ("linear",) if alike else ("linear", "uniform", "single")


def names_starts(model) -> bool:
    """Whether init names starts, instead of being responsibilities."""
    if isinstance(model.init, str):
        return True
    return isinstance(model.init, (list, tuple)) and all(
        isinstance(kind, str) for kind in model.init
    )


def responsibilities_of(
    model, settings: Settings, sample_weight, weight
) -> Routing | None:
    """Return the responsibilities in init, for the rows that have weight; else None."""
    if names_starts(model):
        kinds = (model.init,) if isinstance(model.init, str) else tuple(model.init)
        names = {"auto", *KINDS} if isinstance(model.init, str) else KINDS
        if not kinds or any(kind not in names for kind in kinds):
            raise ValueError(
                f"init must be 'auto', one of {sorted(KINDS)}, a list of these, or "
                "responsibilities of shape (n_samples, n_experts); got "
                f"{model.init!r}."
            )
        return None
    with about("init"):
        resp = check_array(
            given(model.init, "init"),
            accept_sparse="csr",
            input_name="init",
            dtype=np.float64,
        )
    resp = resp.toarray() if sparse.issparse(resp) else resp
    used = used_rows(sample_weight, weight.shape[0])
    if resp.shape != (len(used), settings.n_experts):
        raise ValueError(
            "init must hold a responsibility for each row and expert, shape "
            f"{(len(used), settings.n_experts)}; got shape {resp.shape}."
        )
    resp = resp[used]
    total = resp.sum(axis=1, keepdims=True)
    if (resp < 0).any() or (total == 0).any():
        raise ValueError(
            "init must hold responsibilities that are not negative, and not all zero "
            "in any row."
        )
    return Routing.from_dense(resp / total).like(weight)


def go_on(model, task: Task, plan: Plan, runs: Watched) -> Mixture:
    """Train from where the previous fit ended."""
    problem = replace(plan, tied=getattr(model, "tied_", True)).left_over(task.problem)
    state = _warm_state(model, problem, task.gate, plan)
    result = runs(problem, "warm", lambda: state)
    temperature, bias = model._calibration or (1.0, 0.0)
    choice = Choice(
        shrinkage=model.shrinkage_,
        to_best=model._to_best,
        temperature=temperature,
        bias=bias,
    )
    return finish(problem, result, plan, choice, runs)


# -------------------------------------------------------------- warm start
def warm_gate(model, gate):
    """Return the steps before the gate of the previous fit, and that gate."""
    before, old = parts.split_gate(model.gate_)
    if type(old) is not type(gate):
        raise ValueError(
            "warm_start=True needs the kind of gate of the previous fit, "
            f"{old!r}; got {gate!r}. Set warm_start=False to start afresh."
        )
    # What "auto" chose stays chosen.
    params = {
        k: v
        for k, v in gate.get_params().items()
        if not isinstance(v, str) or v != "auto"
    }
    return before, copy.copy(old).set_params(**params)


def warm_steps(model, steps: Pipeline | None) -> Pipeline | None:
    """Return the steps before the experts of the previous fit."""
    old = model._pool.before
    if not parts.alike([steps, old]):
        raise ValueError(
            "warm_start=True needs the steps of the previous fit before the experts, "
            f"{old!r}; got {steps!r}. Set warm_start=False to start afresh."
        )
    return old


def _warm_state(model, problem, gate, plan: Plan) -> State:
    scale = model._pool.scale
    y = problem.y
    pool = plan.pool
    if scale is not None and scale.shape[1] != y.shape[1]:
        raise ValueError(
            f"warm_start=True needs y of {scale.shape[1]} outputs as in the "
            f"previous fit; got {y.shape[1]}. Set warm_start=False to start afresh."
        )
    state = resume(problem, gate, _warm_pool(model, pool))
    # The parts that predict are not those that train, if these are judged out of fold.
    same = type(state.pool) is type(pool) and type(gate) is type(plan.gates[0])
    return state if same else begin(problem, plan.gates[0], pool, state.resp)


def _warm_pool(model, pool: ExpertPool) -> ExpertPool:
    old = model._own_pool
    pool = pool.trained
    same = type(old.trained) is type(pool) and old.n_experts == pool.n_experts
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
