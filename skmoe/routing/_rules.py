"""Rules that cut a gate's choice down to the experts that are asked.

References
----------
.. [1] A. Holtzman, J. Buys, L. Du, M. Forbes and Y. Choi, "The curious case of neural
   text degeneration", ICLR 2020. arXiv:1904.09751
.. [2] Q. Huang et al., "Harder tasks need more experts: dynamic routing in MoE
   models", ACL 2024. arXiv:2403.07652
"""

from __future__ import annotations

from ..backends import Array, namespace, select
from ._routing import Routing


def nucleus(log_best: Array, best: Array, n_experts: int, top_p: float) -> Routing:
    """Keep the fewest experts of a row whose probabilities sum to ``top_p``.

    Sampling from such a set is known as nucleus sampling [1]_; as a rule for mixtures
    of experts it spends more of them on the rows that need more [2]_.

    Parameters
    ----------
    log_best : (n_rows, top_k) array
        Log probabilities over all experts, best first.
    best : (n_rows, top_k) array of int
        Their experts, -1 where a row has fewer.
    n_experts : int
    top_p : float
        In (0, 1]. Rows that do not reach it keep all of ``best``.

    Returns
    -------
    Routing
        Its weights are renormalised over what is kept; dropped entries are -1.
    """
    xp = namespace(log_best)
    proba = xp.exp(log_best)
    before = xp.cumulative_sum(proba, axis=1) - proba
    kept = (before < top_p) & (best >= 0)
    weights = select(log_best).normalise(
        xp.where(kept, log_best, xp.full_like(log_best, -xp.inf))
    )[0]
    indices = xp.where(kept, best, xp.full_like(best, -1))
    return Routing(indices, weights, n_experts)
