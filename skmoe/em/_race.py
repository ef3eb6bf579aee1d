"""A race of starts: held-out rows let the better half go on, round after round.

It matters more which optimum EM finds than how far EM polishes it. So all starts run a
few passes, the half that explains the held-out rows better runs more, and one remains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..gates import RoutingRule
from ._engine import passed
from ._problem import Model, Problem
from ._sweep import log_likelihood

ROUNDS = (4, 8, 16)
"""Passes of the first rounds; later rounds have as many as the last of these."""


def winner(
    learn: Problem, test: Problem, models: Sequence[Model], rule: RoutingRule
) -> Model:
    """Return the model that wins the race.

    Parameters
    ----------
    learn, test : Problem
        Rows that EM runs on, and rows held out.
    models : sequence of Model
        After their first passes.
    rule : RoutingRule
        Which experts predict asks.
    """
    top_k = rule.top_k or learn.n_experts
    models = list(models)
    for turn in range(math.ceil(math.log2(len(models)))):
        n_pass = ROUNDS[min(turn, len(ROUNDS) - 1)]
        models = [passed(learn, model, n_pass) for model in models]
        worth = [log_likelihood(test, model, top_k) for model in models]
        best = np.argsort(-np.asarray(worth), kind="stable")
        models = [models[i] for i in best[: (len(models) + 1) // 2]]
    return models[0]
