"""How sure class probabilities may be: a temperature, chosen on rows held out.

The mixture says p(c | x); calibrated it says p(c | x)^(1/T), renormalised [1]_. T above
1 takes sureness back. Like the gate's smoothness and the strength of experts it is not
for the training rows to say, which the experts have seen.

References
----------
.. [1] C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On calibration of modern neural
   networks", ICML (2017), PMLR 70.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from ..backends import to_host
from ..gates import RoutingRule
from ._choose import Choice, HeldOut, Split
from ._gating import route

RANGE = (0.2, 5.0)
"""Temperatures that are tried."""

PRIOR = 10.0
"""Rows held out that speak for a temperature of 1."""

TINY = np.finfo(np.float64).tiny


def temperature(
    held: Sequence[HeldOut], parts: Sequence[Split], choice: Choice, rule: RoutingRule
) -> float:
    """Return the temperature of the chosen mixture with the best held-out likelihood.

    Parameters
    ----------
    held, parts : sequences of HeldOut and Split
        Where rows were held out.
    choice : Choice
        Which mixture.
    rule : RoutingRule
        Which experts predict asks.
    """
    log_proba, labels, weights = [], [], []
    for found, part in zip(held, parts, strict=True):
        gate, pool = found.mixture(choice)
        proba = to_host(pool.mix(part.test.X, route(part.test.apart, gate, rule)))
        log_proba.append(np.log(np.maximum(proba, TINY)))
        labels.append(to_host(part.test.y))
        weights.append(to_host(part.test.sample_weight))
    said, label = np.concatenate(log_proba), np.concatenate(labels)
    weight = np.concatenate(weights)
    of_label = np.take_along_axis(said, label[:, None], axis=1)[:, 0]

    def loss(log_t: float) -> float:
        cool = np.exp(-log_t)
        likelihood = cool * of_label - logsumexp(cool * said, axis=1)
        return PRIOR / 2 * log_t**2 - float(weight @ likelihood)

    return float(np.exp(minimize_scalar(loss, bounds=np.log(RANGE)).x))
