"""Calibration of class probabilities on held-out rows: a temperature, and biases.

The mixture predicts p(c | x); calibration makes it p(c | x)^(1/T) e^(b_c), renormalised
[1]_. T above 1 makes probabilities less sure. By itself that would pull a rare class
towards one half, so each class has a bias b_c, which brings its mean probability to its
share of the held-out rows, up to a prior. Training rows cannot choose these figures,
since the experts have seen their labels.

References
----------
.. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
   networks", ICML (2017), PMLR 70.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from ..backends import to_host
from ..gates import RoutingRule
from ._gate_step import route
from ._held_out import Choice, HeldOut, Split

RANGE = (0.2, 5.0)
"""Temperatures that are tried."""

PRIOR = 10.0
"""Weight of the prior for a temperature of 1, in held-out rows."""

BIAS_PRIOR = 3.0
"""Weight of the prior against a bias of a class, in held-out rows."""

TINY = np.finfo(np.float64).tiny


def calibration(
    outcomes: Sequence[HeldOut],
    parts: Sequence[Split],
    choice: Choice,
    rule: RoutingRule,
) -> tuple[float, np.ndarray]:
    """Return the temperature and biases with the highest held-out likelihood.

    Parameters
    ----------
    held, parts : sequences of HeldOut and Split
        The held-out trials, and their rows.
    choice : Choice
        The chosen mixture.
    rule : RoutingRule
        Which experts predict asks.
    """
    log_proba = []
    labels = []
    weights = []
    for outcome, part in zip(outcomes, parts, strict=True):
        model = outcome.mixture(choice)
        test = part.test.apart
        routing = route(test, model.gate, rule)
        proba = to_host(model.experts.mix(test.X, routing))
        log_proba.append(np.log(np.maximum(proba, TINY)))
        labels.append(to_host(test.y))
        weights.append(to_host(test.sample_weight).astype(np.float64))
    return calibrated(
        np.concatenate(log_proba), np.concatenate(labels), np.concatenate(weights)
    )


def calibrated(
    log_proba: np.ndarray, label: np.ndarray, weight: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return temperature and biases for log probabilities, (n, n_classes)."""
    n_classes = log_proba.shape[1]
    total = weight.sum()
    there = np.bincount(label, weight, minlength=n_classes)
    of_label = weight @ log_proba[np.arange(len(label)), label]

    def loss(at: np.ndarray) -> tuple[float, np.ndarray]:
        cool, bias = np.exp(-at[0]), at[1:]
        joint = cool * log_proba + bias
        norm = logsumexp(joint, axis=1)
        proba = weight[:, None] * np.exp(joint - norm[:, None])
        likelihood = cool * of_label + there @ bias - weight @ norm
        slopes = [
            cool * (of_label - np.sum(proba * log_proba)),
            *proba.sum(axis=0) - there,
        ]
        value = prior @ at**2 / 2 - likelihood
        return value / total, (prior * at + slopes) / total

    prior = np.array([PRIOR, *[BIAS_PRIOR] * n_classes])
    start = np.zeros(1 + n_classes)
    free = [(None, None)] * n_classes
    bounds = [tuple(np.log(RANGE)), *free]
    precision = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 500}
    options = {"method": "L-BFGS-B", "jac": True, "bounds": bounds}
    best = minimize(loss, start, options=precision, **options).x
    return float(np.exp(best[0])), best[1:]
