"""What a mixture for regression predicts: the distribution of y, row by row.

`MoERegressor.predict_distribution` returns a `MixtureDistribution`. It is used like a
frozen distribution of `scipy.stats`, but holds one distribution per row.
"""

from ._calibration import Calibration as Calibration
from ._distribution import MixtureDistribution

__all__ = ["MixtureDistribution"]
