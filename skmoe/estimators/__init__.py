"""Floor 4: the estimators, which know scikit-learn and hand EM its problem."""

from ._classifier import MoEClassifier
from ._fitted import set_fitted
from ._ids import IdCodes
from ._regressor import MoERegressor
from ._transformer import MoETransformer
from ._validation import refuse_lazy

__all__ = [
    "IdCodes",
    "MoEClassifier",
    "MoERegressor",
    "MoETransformer",
    "refuse_lazy",
    "set_fitted",
]
