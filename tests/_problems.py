"""Inputs of the operations of a backend, and how two answers are compared.

What an operation answers is proved once, on the reference in NumPy. A backend, or the
reference in another array library, is held against that on the problems made here.
"""

from itertools import cycle, product

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmoe.backends import _reference, to_host
from skmoe.gates._layout import tree_of

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
KINDS = ("random", "tied", "extreme", "masked", "dead", "nan", "nan expert")
SHAPES = {
    "some rows": {"n": 23, "d": 4, "K": 5, "m": 3, "q": 2},
    "one row": {"n": 1, "d": 3, "K": 4, "m": 2, "q": 1},
    "one expert": {"n": 9, "d": 2, "K": 1, "m": 1, "q": 2},
    "many experts": {"n": 11, "d": 2, "K": 40, "m": 4, "q": 3},
    "no rows": {"n": 0, "d": 3, "K": 4, "m": 2, "q": 2},
}


class Problem:
    """Inputs of every operation: their shape, the kind of their scores, a dtype.

    ``form`` is "dense" or the dtype of the indices of a CSR matrix.
    """

    def __init__(
        self, n=23, d=4, K=6, m=3, q=2, kind="random", dtype="float64", form="dense",
        seed=0, k=None,
    ):  # fmt: skip
        self.n, self.d, self.K, self.m, self.q = n, d, K, m, q
        self.kind, self.dtype, self.form = kind, np.dtype(dtype), form
        self.rng = np.random.default_rng(seed)
        self.indices = self.rng.integers(-1, max(1, K - 1), size=(n, m))
        self.k = min(k or K, K)

    def __repr__(self):
        names = ("n", "d", "K", "m", "q", "kind", "dtype", "form", "k")
        return f"Problem({', '.join(f'{a}={getattr(self, a)!s}' for a in names)})"

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def weights(self, *shape):
        """Return weights, some of which are 0."""
        weights = self.rng.random(shape)
        weights[self.rng.random(shape) < 0.1] = 0.0
        return weights.astype(self.dtype)

    def put(self, X):
        """Return X in the form; what CSR leaves out are zeros."""
        X = X.astype(self.dtype)
        if self.form == "dense":
            return X
        X[self.rng.random(X.shape) < 0.4] = 0.0
        X = sparse.csr_array(X)
        X.indices, X.indptr = X.indices.astype(self.form), X.indptr.astype(self.form)
        return X

    def features(self):
        return self.put(self.normal(self.n, self.d))

    def gate(self):
        """Return X, coef and intercept whose logits are of the kind."""
        rng, K, d = self.rng, self.K, self.d
        X, coef = rng.normal(size=(self.n, d)), rng.normal(size=(K, d))
        intercept = rng.normal(size=K)
        # Sums of whole numbers are exact in any order.
        if self.kind == "tied":
            X, coef = rng.integers(-1, 2, size=X.shape), rng.integers(-1, 2, (K, d))
            intercept = rng.integers(0, 2, size=K)
        elif self.kind == "extreme":
            X, coef, intercept = np.sign(X), np.zeros((K, d)), np.rint(intercept)
            coef[:, 0] = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=K)
        elif self.kind == "masked":
            intercept[1::2] = -np.inf
        elif self.kind == "dead":
            intercept[:] = -np.inf
        elif self.kind == "nan":
            X[::2, 0] = np.nan
        elif self.kind == "nan expert":
            intercept[0], intercept[1::2] = np.nan, -np.inf
        return self.put(X), coef.astype(float), intercept.astype(float)

    def pool(self, infinite=False):
        coef = self.rng.normal(size=(self.K, self.q, self.d))
        intercept = self.rng.normal(size=(self.K, self.q))
        X = self.normal(self.n, self.d)
        if self.kind == "extreme":
            X, coef, intercept = np.rint(X), np.rint(coef), 700.0 * np.rint(intercept)
        elif self.kind == "masked":
            intercept[:, 1::2] = -np.inf
        elif self.kind == "dead":
            intercept[::2] = -np.inf
        elif self.kind == "nan":
            X[::2, 0] = np.nan
            X[1::4, -1] = np.inf if infinite else np.nan
        elif self.kind == "nan expert":
            intercept[::2, 0], intercept[1::2, -1] = np.nan, -np.inf
        return self.put(X), coef, intercept

    def scores(self):
        rng, shape = self.rng, (self.n, self.K)
        scores = rng.normal(size=shape)
        if self.kind == "tied":
            scores = rng.integers(0, 2, size=shape).astype(float)
        elif self.kind == "extreme":
            scores = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=shape)
        elif self.kind != "random":
            scores[rng.random(shape) < 0.6] = -np.inf
            scores[::3] = 0.5 if self.kind == "masked" else -np.inf
        if self.kind in ("nan", "nan expert"):
            scores[rng.random(shape) < 0.3] = np.nan
        return scores.astype(self.dtype)

    def order(self):
        return _reference.expert_major(self.indices, self.K)

    def some_of(self, n_experts):
        return self.rng.integers(-1, n_experts, size=(self.n, self.m))


def edges(*dtypes):
    """Yield every shape with every kind; in turn 1, 2, 3 and all experts are asked."""
    asked = cycle([1, 2, 3, None])
    for dtype, shape, kind in product(dtypes, SHAPES, KINDS):
        yield Problem(**SHAPES[shape], kind=kind, dtype=dtype, k=next(asked))


# What each operation is asked: a list of its arguments.
def rows(p):
    return [(X, chosen) for X in [p.features()] for chosen in (None, some_rows(p))]


def some_rows(p):
    """Return half as many rows, some of them twice."""
    return p.rng.integers(0, max(p.n, 1), size=p.n // 2)


def block(p):
    return [(p.features(), slice(0, p.n)), (p.features(), slice(p.n // 3, p.n))]


def gate(p):
    return [p.gate()]


def softmax_route(p):
    return [(*p.gate(), p.k)]


def softmax_survey(p):
    return [(*p.gate(), p.indices, p.k)]


def softmax_loss(p):
    X, coef, intercept = p.gate()
    sums = p.rng.random((p.K, p.d + 1))
    if p.kind == "masked":  # -inf times a target is no loss
        intercept = np.maximum(intercept, -700.0)
    mass = p.rng.random(p.n)
    mass[::5] = 0.0
    return [(X, mass, sums, coef, intercept)]


def finite_gate(p):
    """Return a gate whose logits are finite: of others a search promises nothing."""
    X, coef, intercept = p.gate()
    if p.form == "dense":
        X = np.nan_to_num(X)
    else:
        X.data = np.nan_to_num(X.data)
    return X, coef, np.maximum(np.nan_to_num(intercept), -700.0)


def grid_gate(p):
    p.K = max(p.K, 2)
    n_rows = -(-p.K // 2)
    cells = np.divmod(p.rng.permutation(n_rows * (p.K - n_rows)), p.K - n_rows)
    return *finite_gate(p), np.stack(cells, axis=1)


def tree_gate(p):
    """Return a gate of K edges: three at the root, two of which lead to inner nodes."""
    half, rest = (p.K - 3) // 2, list(range(p.K - 2))
    nested = [rest[:half], rest[half:-1], rest[-1]] if p.K > 4 else list(range(p.K))
    return *finite_gate(p), tree_of(nested)


def product_log_proba(p):
    return [grid_gate(p)]


def product_route(p):
    gate = grid_gate(p)
    return [(*gate, min(p.k, len(gate[-1])))]


def product_survey(p):
    gate = grid_gate(p)
    n_experts = len(gate[-1])
    return [(*gate, p.some_of(n_experts), min(p.k, n_experts))]


def tree_log_proba(p):
    return [tree_gate(p)]


def tree_survey(p):
    gate = tree_gate(p)
    n_experts = len(gate[-1].paths)
    return [(*gate, p.some_of(n_experts), min(p.k, n_experts), 2)]


def linear_at(p):
    X, coef, intercept = p.pool(infinite=True)
    return [(X, indices, coef, intercept) for indices in (p.indices, None)]


def mix(p, infinite):
    X, coef, intercept = p.pool(infinite)
    some, every = p.weights(p.n, p.m), p.weights(p.n, p.K)
    return [(X, p.indices, some, coef, intercept), (X, None, every, coef, intercept)]


def linear_mix(p):
    return mix(p, infinite=True)


def softmax_mix(p):
    return mix(p, infinite=False)


def softmax_at(p):
    X, coef, intercept = p.pool()
    labels = p.rng.integers(0, p.q, size=p.n)
    return [(X, labels, indices, coef, intercept) for indices in (p.indices, None)]


def normal_log_density(p):
    y, scale = p.normal(p.n, p.q), 0.1 + p.rng.random((p.K, p.q))
    if p.kind == "nan":
        y[::2] = np.nan
    some, every = p.normal(p.n, p.m, p.q), p.normal(p.n, p.K, p.q)
    return [(y, some, scale, p.indices), (y, every, scale, None)]


def scores(p):
    return [(p.scores(),)]


def best(p):
    return [(p.scores(), k) for k in sorted({p.k, 1, p.K})]


def novel(p):
    more = p.rng.integers(-1, p.K, size=(p.n, 4))
    return [(p.indices, more), (p.indices.astype(np.int32), more.astype(np.int32))]


def nobody(p):
    """Return entries none of which has an expert."""
    return np.full_like(p.indices, -1)


def expert_major(p):
    return [(p.indices, p.K), (nobody(p), p.K)]


def spread(p):
    order, offsets = p.order()
    values = p.normal(p.n * p.m, p.q)[order]
    return [(np.split(values, offsets[:-1]), order, (p.n, p.m))]


def combine(p):
    return [(p.weights(p.n, p.m), p.normal(p.n, p.m, p.q))]


def sum_by_expert(p):
    some, every = p.weights(p.n, p.m), p.weights(p.n, p.K)
    nobodys = _reference.expert_major(nobody(p), p.K)
    return [(some, *p.order()), (some, *nobodys), (every, None, None)]


def segment_sums(p):
    X, weights = p.features(), p.weights(p.n, p.m)
    nobodys = _reference.expert_major(nobody(p), p.K)
    return [(X, weights, *p.order()), (X, weights, *nobodys)]


def column_sums(p):
    return [(p.features(), p.weights(p.n, p.q))]


def weighted_moments(p):
    return [(p.features(), p.weights(p.n) + p.dtype.type(0.1))]


def gram(p):
    X, Y, rows = p.features(), p.normal(p.n, p.q), some_rows(p)
    return [
        (X, Y, p.weights(p.n)),
        (X, Y, p.weights(len(rows)), rows),
        (X, Y, np.zeros(p.n)),
    ]


CASES = {
    "block_of": block,
    "column_sums": column_sums,
    "combine": combine,
    "expert_major": expert_major,
    "gram": gram,
    "linear_at": linear_at,
    "linear_mix": linear_mix,
    "log_softmax": scores,
    "logsumexp": scores,
    "normal_log_density": normal_log_density,
    "normalise": scores,
    "novel": novel,
    "product_log_proba": product_log_proba,
    "product_route": product_route,
    "product_survey": product_survey,
    "segment_sums": segment_sums,
    "softmax": scores,
    "softmax_at": softmax_at,
    "softmax_log_proba": gate,
    "softmax_loss": softmax_loss,
    "softmax_mix": softmax_mix,
    "softmax_route": softmax_route,
    "softmax_survey": softmax_survey,
    "spread": spread,
    "sum_by_expert": sum_by_expert,
    "take_rows": rows,
    "top_k": best,
    "tree_log_proba": tree_log_proba,
    "tree_survey": tree_survey,
    "truncate": best,
    "weighted_moments": weighted_moments,
}
"""Every operation of the reference but `row_blocks`, which takes no array."""


def quiet(operation, *args):
    """Call an operation; the reference warns of what the tests ask."""
    with np.errstate(all="ignore"):
        return operation(*args)


IN_FLOAT64 = {"column_sums", "gram", "segment_sums", "sum_by_expert"}
IN_FLOAT64 |= {"weighted_moments"}
"""Sums that are taken in float64 whatever the dtype."""

SUMS = IN_FLOAT64 | {"combine", "linear_at", "linear_mix", "softmax_loss"}
"""Answers whose rounding is that of the largest; that of the others is of size 1."""


def assert_same(name, p, answer, expected, factor=1.0):
    """Compare an operation's answers: tuples, arrays, floats or lists of floats."""
    if isinstance(expected, tuple):
        assert isinstance(answer, tuple)
        for one, other in zip(answer, expected, strict=True):
            assert_same(name, p, one, other, factor)
        return
    if isinstance(expected, np.ndarray):
        answer = to_host(answer)
    assert type(answer) is type(expected)
    answer, expected = np.asarray(answer), np.asarray(expected)
    assert answer.dtype == expected.dtype
    assert answer.shape == expected.shape
    if expected.dtype.kind == "i":
        assert_array_equal(answer, expected, err_msg=str(p))
        return
    rtol = 1e-11 if name in IN_FLOAT64 else factor * TOLERANCE[p.dtype.name]
    size = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected))
    atol = rtol * size if name in SUMS else rtol
    assert_allclose(answer, expected, rtol=rtol, atol=atol, err_msg=str(p))
