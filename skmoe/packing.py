"""Mixtures of linear experts in less memory."""

from __future__ import annotations

import copy

from sklearn.utils.validation import check_is_fitted

from .estimators import set_fitted
from .experts import LARGEST, CoefficientPool, PackedPool

__all__ = ["pack"]


def pack(model, dtype="int8"):
    """Return a fitted mixture that holds its linear experts in few bits.

    For mixtures of many wide linear, logistic or log-linear experts, whose
    coefficients are most of the memory: packed they take an eighth or a quarter, and
    are kept once, not once more in ``experts_``. Predictions unpack the experts that
    rows are routed to, so they are a little slower. The gate is left as it is: rows go
    to the same experts.

    Parameters
    ----------
    model : MoEClassifier or MoERegressor
        Fitted, of experts that are trained together: `Ridge`, `LinearRegression`,
        `LogisticRegression`, `PoissonRegressor` or `GammaRegressor`.
    dtype : {"int8", "float16"}, default="int8"
        Coefficients are whole numbers from -127 to 127 times a scale for each feature
        and one for each expert and output, or half precision numbers.

    Returns
    -------
    object
        A copy that predicts, but whose experts learn no more (some can be added or
        removed). Its ``experts_`` are unpacked one by one as they are asked for.

    Raises
    ------
    TypeError
        The experts are not linear, or are drawn to a shared expert that is not.
    ValueError
        ``dtype`` is not one of those above.

    Notes
    -----
    Of 8 bits the error of a coefficient is at most 1/254 of the largest of its expert,
    in units of its feature. Measured losses: docs/deployment.md.

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
