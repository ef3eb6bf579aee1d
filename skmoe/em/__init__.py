"""Floor 3: the EM engine. It knows gates, pools and routings by their contracts."""

from ._cross_fit import CrossFitPool, content_folds
from ._engine import begin, expect, resume, run, step
from ._problem import EMResult, PassInfo, Problem, State, Terms
from ._starts import PORTFOLIO, STARTS, initial

__all__ = [
    "PORTFOLIO",
    "STARTS",
    "CrossFitPool",
    "EMResult",
    "PassInfo",
    "Problem",
    "State",
    "Terms",
    "begin",
    "content_folds",
    "expect",
    "initial",
    "resume",
    "run",
    "step",
]
