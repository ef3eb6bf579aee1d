"""Floor 4: the estimators, which know scikit-learn and hand EM its problem."""

from ._all_or_nothing import all_or_nothing
from ._classifier import MoEClassifier
from ._fitted import parts_of, set_fitted
from ._gate_and_experts import read_gate, split_gate
from ._ids import IdCodes
from ._regressor import MoERegressor
from ._rows import training_width
from ._task import chooses_number, n_asked
from ._transformer import MoETransformer
from ._validation import refuse_lazy

__all__ = [
    "IdCodes",
    "MoEClassifier",
    "MoERegressor",
    "MoETransformer",
    "all_or_nothing",
    "chooses_number",
    "n_asked",
    "parts_of",
    "read_gate",
    "refuse_lazy",
    "set_fitted",
    "split_gate",
    "training_width",
]
