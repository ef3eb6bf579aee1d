"""Noise scales of experts that learned from fewer rows than those that predict.

The judge of a split learned from half of the rows or so, and errs more than experts of
all rows. Its noise scales are therefore too large for these. Held-out rows, which are
asked of experts of more rows, tell by how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..backends import to_host
from ..experts import ExpertPool
from ..gates import RoutingRule
from ._held_out import Choice, HeldOut, Split
from ._last_passes import routed

FACTORS = np.linspace(0.6, 1.0, 17)
"""Factors that are tried."""

PRIOR = 30.0
"""Weight of the prior for a factor of 1, in held-out rows."""


def narrowing(
    outcomes: Sequence[HeldOut],
    parts: Sequence[Split],
    choice: Choice,
    rule: RoutingRule,
) -> float:
    """Return the factor of noise scales with the highest held-out likelihood."""
    worth = -PRIOR * np.log(FACTORS) ** 2
    for outcome, part in zip(outcomes, parts, strict=True):
        model = outcome.mixture(choice)
        if model.experts.scale is None:
            return 1.0
        test = part.test.apart
        n_rows = float(to_host(test.sample_weight).sum())
        for i, factor in enumerate(FACTORS):
            pool = narrowed(model.experts, factor)
            worth[i] += n_rows * routed(test, model.gate, pool, rule).bound
    return float(FACTORS[np.argmax(worth)])


def narrowed(pool: ExpertPool, factor: float) -> ExpertPool:
    """Return a pool with smaller noise scales, but for those of fixed experts."""
    if pool.scale is None or factor == 1.0:
        return pool
    fixed = pool.likelihood.fixed(pool.n_experts)[:, None]
    return pool.with_scale(np.where(fixed, 1.0, factor) * pool.scale)
