"""Handwritten digits: a mixture of logistic experts against one, and against dense.

Three models are trained on half of scikit-learn's digits and tested on the other half:
one logistic regression, the dense mixture, in which every expert answers every row, and
the sparse mixture, which asks the two experts that its gate prefers. Prints the scores
and costs of each, and which share of the rows each expert serves.

    python examples/digits.py
"""

import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skmoe import MoEClassifier
from skmoe.gates import SoftmaxGate

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.5, random_state=0, stratify=y
)
options = {"n_experts": 8, "gate": SoftmaxGate(alpha=0.01), "random_state": 0}
models = {
    "one LogisticRegression": LogisticRegression(max_iter=1000),
    "mixture, dense": MoEClassifier(top_k=None, **options),
    "mixture, top_k=2": MoEClassifier(top_k=2, **options),
}


def microseconds_per_row(model) -> float:
    times = []
    for _ in range(11):
        started = time.perf_counter()
        model.predict(X_test)
        times.append(time.perf_counter() - started)
    return 1e6 * float(np.median(times)) / len(X_test)


print(f"{len(X_train)} training rows, {len(X_test)} test rows, {X.shape[1]} features\n")
print(f"{'':24}{'accuracy':>10}{'log-lik.':>10}{'fit s':>8}{'predict µs/row':>16}")
for name, model in models.items():
    started = time.perf_counter()
    model.fit(X_train, y_train)
    seconds = time.perf_counter() - started
    log_proba = model.predict_log_proba(X_test)
    log_likelihood = log_proba[np.arange(len(y_test)), y_test].mean()
    print(
        f"{name:24}{model.score(X_test, y_test):10.4f}{log_likelihood:10.4f}"
        f"{seconds:8.2f}{microseconds_per_row(model):16.2f}"
    )

mixture = models["mixture, top_k=2"]
first = mixture.apply(X_test)[:, 0]
share = np.asarray(mixture.route(X_test).sum(axis=0)).ravel() / len(X_test)
print("\nWho serves what (top_k=2, test rows):\n")
print(f"{'expert':>6}{'share of rows':>15}   digits that it is the first choice for")
for expert in range(mixture.n_experts_):
    digits, counts = np.unique(y_test[first == expert], return_counts=True)
    most = [str(digits[i]) for i in np.argsort(-counts) if counts[i] >= 5]
    print(f"{expert:6d}{share[expert]:15.1%}   {' '.join(most)}")
