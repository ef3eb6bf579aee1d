"""The plain backend: the specification of each operation, in the array API.

Shapes and names, used throughout the library
---------------------------------------------
``n`` rows, ``d`` features, ``K`` experts, ``m`` entries per row, ``q`` outputs.

=============  ==========  =====================================================
name           shape       meaning
=============  ==========  =====================================================
``X``          (n, d)      features, dense or (where said) scipy CSR
``indices``    (n, m)      expert of each entry, -1 where a row has no entry
``weights``    (n, m)      weight of each entry: gate mass or responsibility
``order``      (n·m,)      entries (flat positions) sorted by expert, stable
``offsets``    (K+1,)      expert k owns ``order[offsets[k]:offsets[k+1]]``
``coef``       (K, d)      coefficients of each expert; (K, q, d) for q outputs
``intercept``  (K,)        intercept of each expert; (K, q) for q outputs
=============  ==========  =====================================================

Only functions of the array API standard are used, so the same text runs on NumPy,
``array_api_strict``, PyTorch and CuPy. Sums that a caller compares (the bound, Gram
matrices, gradients) are accumulated in float64 for any input.
"""

from ._entries import combine, expert_major, novel, spread, sum_by_expert
from ._experts import (
    linear_at,
    linear_mix,
    normal_log_density,
    softmax_at,
    softmax_mix,
)
from ._gate import softmax_log_proba, softmax_loss, softmax_route, softmax_survey
from ._moments import column_sums, gram, segment_sums, weighted_moments
from ._product import product_log_proba, product_route, product_survey
from ._rows import block_of, row_blocks, take_rows
from ._softmax import log_softmax, logsumexp, normalise, softmax, top_k, truncate
from ._tree import tree_log_proba, tree_survey

__all__ = [
    "block_of",
    "column_sums",
    "combine",
    "expert_major",
    "gram",
    "linear_at",
    "linear_mix",
    "log_softmax",
    "logsumexp",
    "normal_log_density",
    "normalise",
    "novel",
    "product_log_proba",
    "product_route",
    "product_survey",
    "row_blocks",
    "segment_sums",
    "softmax",
    "softmax_at",
    "softmax_log_proba",
    "softmax_loss",
    "softmax_mix",
    "softmax_route",
    "softmax_survey",
    "spread",
    "sum_by_expert",
    "take_rows",
    "top_k",
    "tree_log_proba",
    "tree_survey",
    "truncate",
    "weighted_moments",
]
