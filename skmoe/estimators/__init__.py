"""Floor 4: the estimators, which know scikit-learn and hand EM its problem."""

from ._classifier import MoEClassifier
from ._regressor import MoERegressor
from ._transformer import MoETransformer

__all__ = ["MoEClassifier", "MoERegressor", "MoETransformer"]
