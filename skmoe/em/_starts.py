"""The starts of EM: initial responsibilities as functions of (x, y).

No start depends on a row's place in the table: a permuted table gets the permuted
start, and a row of weight two the start of two equal rows. So a mixture fitted with
integer weights equals one fitted on repeated rows. Only directions and thresholds of
columns are random.

- ``tree``: leaves of a small regression tree of y on x.
- ``kmeans``: k-means on [x, residual of y].
- ``kmeans_x``: k-means on x.
- ``random``: a random smooth function of [x, residual].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.tree import DecisionTreeRegressor

from ..backends import select
from ..routing import Routing, TreeView
from ._content import deviation, numeric, ranks, standard
from ._problem import Problem

TREE_MAX_FEATURES = 64

SMOOTHING = 0.1
"""Share of a row's weight that a start from labels gives to other experts."""


def initial(problem: Problem, kind: str, number: int, seed: int) -> Routing:
    """Return the initial responsibilities of start ``number``.

    Parameters
    ----------
    problem : Problem
    kind : {"tree", "kmeans", "kmeans_x", "random"}
    number : int
        Number of earlier starts of this kind; the first one is the plainest.
    seed : int

    Returns
    -------
    Routing
        One entry per row, or ``problem.width`` for the smooth ``random`` start.
    """
    host = problem.on_host()
    random = np.random.RandomState(seed)
    if problem.n_experts == 1:
        start = Routing.from_labels(np.zeros(len(host.y), dtype=np.intp), 1)
    else:
        features = numeric(problem.content.X)
        residual = problem.content.residual
        start = STARTS[kind](host, features, residual, number, random)
    return start.like(problem.sample_weight)


# -------------------------------------------------------------------- kinds
def _tree(problem, features, targets, number, random) -> Routing:
    """Start from leaves of a tree; later starts draw the thresholds at random."""
    X = standard(features, problem.sample_weight)
    columns = min(features.shape[1], TREE_MAX_FEATURES)
    if features.shape[1] > columns:
        features = X @ random.standard_normal((features.shape[1], columns))
    elif sparse.issparse(features):
        features = features.toarray()
    view = TreeView.of(features).rows(features)
    y = targets
    if problem.y.ndim == 2:  # divide by its deviation: trees ignore tiny gains
        scale = deviation(problem.y, problem.sample_weight)
        # A power of two rounds nothing: equal gains of grades or counts stay equal.
        power = np.rint(np.log2(np.where(scale > 0, scale, 1.0)))
        y = problem.y / np.exp2(power)
    tree = DecisionTreeRegressor(
        max_leaf_nodes=problem.n_experts,
        splitter="best" if number == 0 else "random",
        random_state=random.randint(2**31 - 1),
    )
    tree.fit(view, y, sample_weight=problem.sample_weight)
    _, labels = np.unique(tree.apply(view), return_inverse=True)
    return _from_labels(labels, X, problem)


def _kmeans(problem, features, targets, number, random) -> Routing:
    """Run k-means on [x, residual]; the residual counts as much as all of x."""
    X = standard(features, problem.sample_weight)
    block = targets * np.sqrt(max(1, X.shape[1]) / targets.shape[1])
    joint = sparse.hstack([X, block], "csr") if sparse.issparse(X) else None
    if joint is None:
        joint = np.hstack([X, block])
    return _cluster(problem, joint, random)


def _kmeans_x(problem, features, targets, number, random) -> Routing:
    return _cluster(problem, standard(features, problem.sample_weight), random)


def _cluster(problem: Problem, points, random: np.random.RandomState) -> Routing:
    """Run k-means from the means of equal slices along a random direction."""
    weight = problem.sample_weight
    k = problem.n_experts
    labels = _slices(points @ random.standard_normal(points.shape[1]), weight, k)
    mass = np.bincount(labels, weight, minlength=k)
    onehot = sparse.csr_array(
        (weight, (labels, np.arange(len(labels)))), shape=(k, len(labels))
    )
    total = onehot @ points
    total = total.toarray() if sparse.issparse(total) else total
    centres = total / np.maximum(mass, 1e-300)[:, None]
    present = centres[mass > 0]
    model = KMeans(len(present), init=present, n_init=1, max_iter=30, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = model.fit(points, sample_weight=weight).labels_
    return _from_labels(labels, points, problem)


def _random(problem, features, targets, number, random) -> Routing:
    """Start from a softmax of random waves over [x, residual], of random frequency.

    Frequency 0 is a slope. A wave of high frequency tells close rows apart, as an
    independent draw for each row would.
    """
    X = standard(features, problem.sample_weight)
    k = problem.n_experts
    d = X.shape[1]
    directions = random.standard_normal((d, k)) / np.sqrt(max(1, d))
    along = random.standard_normal((targets.shape[1], k))
    frequency = random.choice(FREQUENCIES)
    shift = random.uniform(0, 2 * np.pi, size=k)
    weight = problem.sample_weight / problem.sample_weight.sum()
    centre = (X.T @ weight) @ directions + (weight @ targets) @ along

    ops = select(targets)
    indices = []
    weights = []
    for rows in ops.row_blocks(len(targets), k):
        phase = ops.block_of(X, rows) @ directions + targets[rows] @ along - centre
        wave = STEEPNESS * np.sin(frequency * phase + shift)
        logits = wave if frequency > 0 else phase
        if not problem.dense:
            logits, best = ops.top_k(logits, problem.width)
            indices.append(best)
        weights.append(ops.normalise(logits)[0])
    if problem.dense:
        return Routing.from_dense(np.concatenate(weights))
    return Routing(np.concatenate(indices), np.concatenate(weights), k)


STARTS: dict[str, Callable[..., Routing]] = {
    "tree": _tree,
    "kmeans": _kmeans,
    "kmeans_x": _kmeans_x,
    "random": _random,
}
PORTFOLIO = ("tree", "kmeans", "random", "kmeans_x")
"""The first starts of ``init="auto"``; all later ones are random, so they differ."""

FREQUENCIES = (0.0, 1.0, 3.0, 30.0)
STEEPNESS = 3.0


# ------------------------------------------------------------------ helpers
def _slices(score: np.ndarray, weight: np.ndarray, k: int) -> np.ndarray:
    """Cut rows into k slices of about equal weight along a score."""
    where = ranks(score)
    mass = np.bincount(where, weight)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum((middle * k).astype(np.intp), k - 1)[where]


def _from_labels(labels: np.ndarray, points, problem: Problem) -> Routing:
    """Return a routing of labels; the largest cells are halved until none is empty."""
    labels = labels.astype(np.intp)
    k = problem.n_experts
    weight = problem.sample_weight
    score = None
    for _ in range(k):
        mass = np.bincount(labels, weight, minlength=k)
        empty = np.flatnonzero(mass == 0)
        if not empty.size:
            break
        if score is None:
            score = points @ np.cos(np.arange(points.shape[1]))
        largest = np.flatnonzero(labels == np.argmax(mass))
        upper = _slices(score[largest], weight[largest], 2) == 1
        if not upper.any() or upper.all():
            break  # all rows of the cell are equal
        labels[largest[upper]] = empty[0]
    return smoothed(labels, problem)


def smoothed(labels: np.ndarray, problem: Problem) -> Routing:
    """Give each row's label most of its weight, and the next experts the rest.

    A gate fitted to hard labels may separate them, and would then never let them go.
    """
    n_experts = problem.n_experts
    width = problem.width
    if width == 1:
        return Routing.from_labels(labels, n_experts)
    weights = np.full((len(labels), width), SMOOTHING / (width - 1))
    if problem.dense:
        weights[np.arange(len(labels)), labels] = 1.0 - SMOOTHING
        return Routing.from_dense(weights)
    weights[:, 0] = 1.0 - SMOOTHING
    indices = (labels[:, None] + np.arange(width)) % n_experts
    return Routing(indices, weights, n_experts)


__all__ = ["PORTFOLIO", "STARTS", "initial"]
