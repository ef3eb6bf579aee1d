"""Multinomial logistic regression on soft targets, by warm-started L-BFGS.

The problem
-----------
Rows x_i of mass m_i carry soft targets t_ik with Σ_k t_ik = m_i. With

    z_ik = w_kᵀ (x_i - μ) / s + b_k

(products and quotients by feature) we minimise

    (1/M) [ Σ_i m_i logsumexp_k z_ik - Σ_ik t_ik z_ik ] + ½ Σ_kj ridge_j w_kj²

where M = Σ_i m_i. The data stay as they are: centring and scaling act on the
coefficients, so CSR input is never densified. Intercepts are not penalised.

We use L-BFGS. If it fails to lower the objective, we take one step of Böhning's bound
[1]_: the Hessian is at most ½ (I - 11ᵀ/K) ⊗ ÃᵀMÃ/M, so

    W ← W - (½ ÃᵀMÃ/M + diag(ridge))⁻¹ ∇

never raises the objective.

References
----------
.. [1] D. Böhning, "Multinomial logistic regression algorithm", Annals of the
   Institute of Statistical Mathematics 44 (1992) 197-200. doi:10.1007/BF00048682
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from ..backends import Array, device_of, like, namespace, select, to_host

BOHNING_MAX_FEATURES = 4096
"""Above this many features the fallback's Cholesky factor costs too much."""


@dataclass(frozen=True)
class SoftmaxFit:
    """Coefficients of a multinomial logistic model on the original features."""

    coef: np.ndarray  # (n_classes, n_features)
    intercept: np.ndarray  # (n_classes,)
    n_iter: int
    converged: bool


def softmax_start(target_sums: Array, n_features: int) -> SoftmaxFit:
    """Return the model that ignores x: zero coefficients, log target shares."""
    mass = to_host(target_sums)[:, n_features]
    share = np.maximum(mass / max(mass.sum(), np.finfo(np.float64).tiny), 1e-12)
    coef = np.zeros((mass.shape[0], n_features))
    return SoftmaxFit(coef, np.log(share) - np.log(share).mean(), 0, False)


def fit_softmax(
    X: Array,
    mass: Array,
    target_sums: Array,
    *,
    ridge: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    start: SoftmaxFit,
    max_iter: int,
    tol: float,
) -> SoftmaxFit:
    """Fit from ``start``; the answer's objective is never above the start's.

    Parameters
    ----------
    X : (n_samples, n_features) array or scipy CSR
    mass : (n_samples,) array
        Total weight of each row.
    target_sums : (n_classes, n_features + 1) array
        Σ_i t_ik [x_i, 1].
    ridge, center, scale : (n_features,) arrays
        Penalty on the scaled coefficients, and the inner standardisation.
    start : SoftmaxFit
    max_iter : int
        Most L-BFGS iterations.
    tol : float
        L-BFGS stops when no entry of the gradient exceeds this.
    """
    ops = select(X)
    sums = to_host(target_sums)
    n_classes, n_features = start.coef.shape
    if not hasattr(X, "tocsr") and _far(center / scale, X.dtype):
        return _fit_moved(
            X, mass, sums, ridge, center, scale, start, max_iter=max_iter, tol=tol
        )
    total = float(sums[:, n_features].sum()) or 1.0

    def unpack(params: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table = params.reshape(n_classes, n_features + 1)
        coef = table[:, :n_features] / scale
        return coef, table[:, n_features] - coef @ center

    def objective(params: np.ndarray) -> tuple[float, np.ndarray]:
        scaled = params.reshape(n_classes, n_features + 1)[:, :n_features]
        coef, intercept = unpack(params)
        loss, g_coef, g_intercept = ops.softmax_loss(X, mass, sums, coef, intercept)
        grad = np.empty((n_classes, n_features + 1))
        g_coef, g_intercept = to_host(g_coef), to_host(g_intercept)
        grad[:, :n_features] = (g_coef - np.outer(g_intercept, center)) / scale
        grad[:, n_features] = g_intercept
        grad /= total
        grad[:, :n_features] += ridge * scaled
        penalty = 0.5 * float(np.sum(ridge * scaled**2))
        return loss / total + penalty, grad.ravel()

    first = np.column_stack(
        [start.coef * scale, start.intercept + start.coef @ center]
    ).ravel()
    value, grad = objective(first)
    if np.max(np.abs(grad), initial=0.0) <= tol:
        return SoftmaxFit(start.coef, start.intercept, 0, True)

    options: dict[str, Any] = {
        "maxiter": max_iter,
        "gtol": tol,
        "ftol": 16 * np.finfo(np.float64).eps,
        "maxls": 30,
    }

    def remembered(params: np.ndarray) -> tuple[float, np.ndarray]:
        is_first = np.array_equal(params, first)
        return (value, grad) if is_first else objective(params)

    solution = minimize(remembered, first, jac=True, method="L-BFGS-B", options=options)
    params = solution.x
    converged = bool(solution.success)
    if not solution.fun < value:  # also if it is NaN
        params, converged = first, True  # nothing better within rounding
        if n_features <= BOHNING_MAX_FEATURES:
            step = _bohning_step(X, mass, grad, total, ridge, center, scale)
            if objective(first + step)[0] < value:
                params = first + step
                converged = False
    coef, intercept = unpack(params)
    return SoftmaxFit(coef, intercept, int(solution.nit), converged)


def _far(offset: np.ndarray, dtype: Any) -> bool:
    """Tell whether columns lie so far from zero that products lose their digits."""
    eps = 1e-7 if "32" in str(dtype) else 1e-16
    return bool(np.max(np.abs(offset), initial=0.0) > eps**-0.25)


def _fit_moved(
    X: Array,
    mass: Array,
    sums: np.ndarray,
    ridge: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
    start: SoftmaxFit,
    **stop: Any,
) -> SoftmaxFit:
    """Fit on a centred copy of X, and fold the shift back into the intercepts."""
    xp = namespace(X)
    near = xp.astype(X - like(center, X), X.dtype)
    moved = sums.copy()
    moved[:, :-1] -= np.outer(sums[:, -1], center)
    first = replace(start, intercept=start.intercept + start.coef @ center)
    origin = np.zeros_like(center)
    solution = fit_softmax(
        near,
        mass,
        moved,
        ridge=ridge,
        center=origin,
        scale=scale,
        start=first,
        **stop,
    )
    return replace(solution, intercept=solution.intercept - solution.coef @ center)


def _bohning_step(
    X: Array,
    mass: Array,
    grad: np.ndarray,
    total: float,
    ridge: np.ndarray,
    center: np.ndarray,
    scale: np.ndarray,
) -> np.ndarray:
    """Return the step of the quadratic bound, for the parameters as one vector."""
    ones = namespace(X).ones((X.shape[0], 1), dtype=X.dtype, device=device_of(X))
    A, _, mean, _ = select(X).gram(X, ones, mass)
    n_features = len(center)
    shift = (to_host(mean) - center) / scale
    bound = np.zeros((n_features + 1, n_features + 1))
    bound[:-1, :-1] = to_host(A) / np.outer(scale, scale) / total
    bound[:-1, :-1] += np.outer(shift, shift)
    bound[-1, :-1] = bound[:-1, -1] = shift
    bound[-1, -1] = 1.0
    bound = 0.5 * bound + np.diag(np.append(ridge, 0.0))
    bound[np.diag_indices_from(bound)] += 1e-12 * max(1.0, np.trace(bound))
    gradient = grad.reshape(-1, n_features + 1)
    return -cho_solve(cho_factor(bound), gradient.T).T.ravel()
