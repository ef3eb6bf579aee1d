"""Floor 3: the EM engine. It knows gates, pools and routings by their contracts."""

from ._cross_fit import CrossFitPool, judges
from ._cross_fit_gate import CrossFitGate, for_new_rows
from ._engine import Watch, begin, expect, resume, run, step
from ._finite import check_finite
from ._folds import FINAL_FOLDS, content_folds
from ._gate_per_output import gates_per_output
from ._grow import grow, shrink
from ._held_out import Choice
from ._last_passes import count_moved, coverage, routed, settle
from ._noise_expert import varying
from ._number_of_experts import (
    Selection,
    count_paths,
    most_experts,
    select_number,
)
from ._panel import Alone, Panel, Voice
from ._parts import (
    Candidate,
    InParts,
    LastPasses,
    Progress,
    candidates,
    climb,
    rows_of_part,
    service,
)
from ._problem import EMResult, Model, PassInfo, Problem, Record, State, Terms
from ._shared_expert import NO_CORRECTION
from ._shares import Lesson, Shares, alternatives, meet, served, taught, teach
from ._starts import PORTFOLIO, STARTS, initial
from ._stepwise import Pace, Stream, absorb, open_stream
from ._stream_sample import stacked
from ._sweep import Rows, Sums
from ._train import (
    KINDS,
    Mixture,
    Plan,
    Start,
    chosen_on,
    count_stages,
    finish,
    train,
)
from ._trained import fallbacks, finished

__all__ = [
    "FINAL_FOLDS",
    "KINDS",
    "NO_CORRECTION",
    "PORTFOLIO",
    "STARTS",
    "Alone",
    "Candidate",
    "Choice",
    "CrossFitGate",
    "CrossFitPool",
    "EMResult",
    "InParts",
    "LastPasses",
    "Lesson",
    "Mixture",
    "Model",
    "Pace",
    "Panel",
    "PassInfo",
    "Plan",
    "Problem",
    "Progress",
    "Record",
    "Rows",
    "Selection",
    "Shares",
    "Start",
    "State",
    "Stream",
    "Sums",
    "Terms",
    "Voice",
    "Watch",
    "absorb",
    "alternatives",
    "begin",
    "candidates",
    "check_finite",
    "chosen_on",
    "climb",
    "content_folds",
    "count_moved",
    "count_paths",
    "count_stages",
    "coverage",
    "expect",
    "fallbacks",
    "finish",
    "finished",
    "for_new_rows",
    "gates_per_output",
    "grow",
    "initial",
    "judges",
    "meet",
    "most_experts",
    "open_stream",
    "resume",
    "routed",
    "rows_of_part",
    "run",
    "select_number",
    "served",
    "service",
    "settle",
    "shrink",
    "stacked",
    "step",
    "taught",
    "teach",
    "train",
    "varying",
]
