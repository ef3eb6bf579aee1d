"""Mixtures of linear experts in less memory."""

from __future__ import annotations

import copy

from sklearn.utils.validation import check_is_fitted

from .estimators import set_fitted
from .experts import LARGEST, CoefficientPool, PackedPool

__all__ = ["pack"]


def pack(model, dtype="int8"):
    """Return a fitted mixture that holds its linear experts in few bits.

    Use it for mixtures of many wide linear, logistic or log-linear experts, whose
    coefficients take most of the memory. Packed coefficients take an eighth or a
    quarter, and ``experts_`` holds no second copy. Predictions unpack the experts that
    rows are routed to, so they are a little slower. The gate does not change: rows go
    to the same experts.

    Parameters
    ----------
    model : MoEClassifier or MoERegressor
        A fitted mixture of experts that are trained together: `Ridge`,
        `LinearRegression`, `LogisticRegression`, `PoissonRegressor` or
        `GammaRegressor`.
    dtype : {"int8", "float16"}, default="int8"
        "int8" stores whole numbers from -127 to 127, with a scale per feature and one
        per expert and output. "float16" stores half-precision numbers.

    Returns
    -------
    object
        A copy that predicts, but whose experts cannot be trained further. Experts can
        be added or removed. Its ``experts_`` are unpacked one by one, when they are
        read.

    Raises
    ------
    TypeError
        The experts are not linear, or shrink to a learner that is not.
    ValueError
        ``dtype`` is not one of those above.

    Notes
    -----
    With "int8" the error of a coefficient is at most 1/254 of the expert's largest one,
    in units of its feature. docs/deployment.md has measured losses of accuracy.

    Examples
    --------
    >>> import pickle
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.packing import pack
    >>> X = np.random.default_rng(0).standard_normal((1000, 50))
    >>> y = np.abs(X[:, 0]) + X[:, 1]
    >>> model = MoERegressor(n_experts=16, n_init=1, random_state=0).fit(X, y)
    >>> small = pack(model)
    >>> len(pickle.dumps(small)) < 0.6 * len(pickle.dumps(model))
    True
    >>> bool(abs(small.score(X, y) - model.score(X, y)) < 0.001)
    True
    """
    check_is_fitted(model)
    if dtype not in LARGEST:
        raise ValueError(f"dtype must be one of {sorted(LARGEST)}; got {dtype!r}.")
    if not isinstance(model._pool, CoefficientPool):
        raise TypeError(
            "pack needs linear, logistic or log-linear experts that are trained "
            f"together; got experts_ of {type(model.experts_[0]).__name__}."
        )
    pool = PackedPool(model._pool, dtype)
    small = copy.copy(model)
    set_fitted(small, {"_pool": pool, "_own_pool": pool, "experts_": pool.estimators()})
    return small
