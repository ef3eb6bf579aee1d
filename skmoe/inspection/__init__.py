"""Pictures of fitted mixtures and reports on them.

Displays follow scikit-learn's: ``from_estimator`` computes, ``plot`` draws. Displays
need matplotlib, `routing_report` needs pandas: ``pip install "skmoe[plot]"``.
"""

from ._compute import compute_report
from ._convergence import ConvergenceDisplay
from ._explain import explain_row
from ._gate import GateDisplay
from ._predictive import PredictiveDistributionDisplay
from ._routing import routing_report
from ._specialization import ExpertSpecializationDisplay
from ._utilization import ExpertUtilizationDisplay

__all__ = [
    "ConvergenceDisplay",
    "ExpertSpecializationDisplay",
    "ExpertUtilizationDisplay",
    "GateDisplay",
    "PredictiveDistributionDisplay",
    "compute_report",
    "explain_row",
    "routing_report",
]
