"""Floor 3: the EM engine. It knows gates, pools and routings by their contracts."""

from ._engine import begin, expect, resume, run, step
from ._problem import EMResult, PassInfo, Problem, State, Terms
from ._starts import PORTFOLIO, STARTS, initial

__all__ = [
    "PORTFOLIO",
    "STARTS",
    "EMResult",
    "PassInfo",
    "Problem",
    "State",
    "Terms",
    "begin",
    "expect",
    "initial",
    "resume",
    "run",
    "step",
]
