"""Memory of a fit on sparse rows, in multiples of the rows' own."""

import tracemalloc

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from skmoe import MoEClassifier
from skmoe.gates import SoftmaxGate

MOST = 2
"""Bytes that a fit needs beyond the rows for each byte of them."""

MODEL = MoEClassifier(
    LogisticRegression(),
    n_experts=2,
    gate=SoftmaxGate(alpha=0.01),
    init="kmeans_x",
    n_init=1,
    max_iter=1,
    random_state=0,
)


def texts(n, n_words=300, length=20):
    """Return rows of words, and whether they have more of one half of the words."""
    random = np.random.RandomState(0)
    words = random.randint(n_words, size=n * length)
    counts = random.uniform(0.1, 1.0, n * length)
    starts = np.arange(0, n * length + 1, length)
    X = sparse.csr_array((counts, words, starts), shape=(n, n_words))
    X.sum_duplicates()
    half = np.asarray(X[:, : n_words // 2].sum(axis=1)).ravel()
    return X, (half > np.median(half)).astype(int)


def size(X):
    return X.data.nbytes + X.indices.nbytes + X.indptr.nbytes


def peak(X, y):
    tracemalloc.start()
    try:
        MODEL.fit(X, y)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_fit_on_csr_takes_few_times_the_memory_of_its_rows():
    """Coefficients take memory too, but no more of it for more rows."""
    few, many = texts(4_000), texts(8_000)
    MODEL.fit(*few)  # what is loaded on first use does not count
    more = peak(*many) - peak(*few)
    assert more <= MOST * (size(many[0]) - size(few[0]))
