"""Several labels a row: a mixture against its own learner alone.

Two regimes, each with its own logistic rules for every label. Prints the mean
log-likelihood of all labels of new rows, probabilities floored alike.

    python benchmarks/bench_multilabel.py
"""

import warnings
from time import perf_counter

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from skmoe import MoEClassifier

N_FEATURES, N_LABELS, FLOOR = 4, 4, 5e-4
LEARNERS = {
    "logistic (None)": None,
    "ClassifierChain": ClassifierChain(LogisticRegression(), random_state=0),
    "DecisionTree": DecisionTreeClassifier(max_depth=4, random_state=0),
    "RandomForest": RandomForestClassifier(20, min_samples_leaf=5, random_state=0),
    "KNeighbors": KNeighborsClassifier(15),
}


def table(n, seed):
    """Return rows and labels of two regimes, one on each side of x0 = 0."""
    rng = np.random.default_rng(seed)
    rules = 3 * np.random.default_rng(1).normal(size=(2, N_FEATURES, N_LABELS))
    X = rng.normal(size=(n, N_FEATURES))
    logit = np.einsum("nd,ndl->nl", X, rules[(X[:, 0] > 0).astype(int)])
    return X, (rng.uniform(size=logit.shape) < 1 / (1 + np.exp(-logit))).astype(int)


def log_likelihood(proba, labels):
    """Return the mean over rows of log p, summed over labels."""
    if isinstance(proba, list):
        proba = np.stack([of_label[:, 1] for of_label in proba], axis=1)
    proba = np.clip(proba, FLOOR, 1 - FLOOR)
    return np.log(np.where(labels == 1, proba, 1 - proba)).sum(axis=1).mean()


def main():
    """Print a line a learner."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, Y = table(1500, 0)
    X_new, Y_new = table(2000, 9)
    print(f"{'learner':20} {'alone':>8} {'mixture':>8} {'fit, s':>8}")
    for name, learner in LEARNERS.items():
        alone = MultiOutputClassifier(LogisticRegression())
        alone = alone if learner is None else clone(learner)
        single = log_likelihood(alone.fit(X, Y).predict_proba(X_new), Y_new)
        start = perf_counter()
        model = MoEClassifier(learner, n_experts=4, random_state=0).fit(X, Y)
        seconds = perf_counter() - start
        mixture = model.score_samples(X_new, Y_new).mean()
        print(f"{name:20} {single:8.3f} {mixture:8.3f} {seconds:8.1f}")


if __name__ == "__main__":
    main()
