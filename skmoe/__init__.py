"""Mixtures of experts for scikit-learn.

`MoEClassifier` and `MoERegressor` train gated experts over any scikit-learn learner
by expectation-maximisation, and predict with the few experts that the gate picks.
"""

from .estimators import MoEClassifier, MoERegressor

__all__ = ["MoEClassifier", "MoERegressor", "__version__"]

__version__ = "0.1.0.dev0"
