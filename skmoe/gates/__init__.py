"""Gates: the models of p(k | x) that decide which expert serves a row."""

from ._base import BaseGate
from ._constant import ConstantGate
from ._gaussian import GaussianGate
from ._softmax import SoftmaxGate

__all__ = ["BaseGate", "ConstantGate", "GaussianGate", "SoftmaxGate"]
