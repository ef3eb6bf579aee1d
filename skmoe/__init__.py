"""Mixtures of experts for scikit-learn.

`MoEClassifier` and `MoERegressor` train gated experts over any scikit-learn learner
by expectation-maximisation, and predict with the few experts that the gate picks.
"""

from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .estimators import MoEClassifier, MoERegressor, MoETransformer

__all__ = ["MoEClassifier", "MoERegressor", "MoETransformer", "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: they need scikit-learn's linear models, trees and
    # clustering, which `import sklearn` does not load either.
    if name in ("MoEClassifier", "MoERegressor", "MoETransformer"):
        from . import estimators

        return getattr(estimators, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
