"""Floor 4: the estimators, which know scikit-learn and hand EM its problem."""

from ._classifier import MoEClassifier
from ._regressor import MoERegressor

__all__ = ["MoEClassifier", "MoERegressor"]
