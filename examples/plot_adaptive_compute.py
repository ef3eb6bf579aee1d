"""
Adaptive compute: easy rows ask one expert
==========================================

With ``top_k=4`` every row asks four experts, even if the gate is sure of one. With
``top_p`` a row asks its best experts only until their gate probabilities sum to
``top_p``. So easy rows ask one expert and doubtful rows ask more, but never more than
``top_k``. Routing takes place in predict, so you can change ``top_p`` of a fitted
mixture without training again.

The data are scikit-learn's handwritten digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skmoe import MoEClassifier
from skmoe.gates import SoftmaxGate

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.5, random_state=0, stratify=y
)
model = MoEClassifier(
    LogisticRegression(max_iter=1000),
    n_experts=8,
    gate=SoftmaxGate(alpha=0.01),
    top_k=4,
    n_init=2,
    random_state=0,
).fit(X_train, y_train)

# %%
# From always four to mostly one
# ------------------------------
# The table shows how many experts a row asks, and what accuracy and log-loss that
# costs. ``route`` has one entry for each expert that a row asks.

print(f"{'top_p':>6}{'experts per row':>17}{'rows that ask one':>19}", end="")
print(f"{'accuracy':>10}{'log-loss':>10}")
found = []
for top_p in (None, 0.999, 0.99, 0.95, 0.9, 0.8, 0.6):
    model.set_params(top_p=top_p)
    asked = np.diff(model.route(X_test).indptr)
    proba = model.predict_proba(X_test)
    accuracy = np.mean(model.classes_[proba.argmax(axis=1)] == y_test)
    loss = log_loss(y_test, proba)
    found.append((asked.mean(), accuracy, loss))
    print(
        f"{top_p!s:>6}{asked.mean():17.2f}{np.mean(asked == 1):19.1%}"
        f"{accuracy:10.4f}{loss:10.4f}"
    )

# %%
# Easy and doubtful images
# ------------------------
# With ``top_p=0.9``, the mixture is right more often on rows that ask one expert than
# on the others.

model.set_params(top_p=0.9)
asked = np.diff(model.route(X_test).indptr)
right = model.predict(X_test) == y_test
for number in np.unique(asked):
    rows = asked == number
    print(f"{number} experts: {rows.sum():4d} rows, accuracy {right[rows].mean():.3f}")

most = asked.max()
order = np.argsort(-model.gate_proba(X_test).max(axis=1), kind="stable")
figure = plt.figure(figsize=(9, 5.6), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.2])
axes = upper.subplots(2, 10)
for images, row, name in zip(
    (order[:10], order[-10:]), axes, ("one", most), strict=True
):
    for image, ax in zip(images, row, strict=True):
        ax.imshow(X_test[image].reshape(8, 8), cmap="gray_r")
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"ask {name}", rotation=0, ha="right", va="center")
left, right = lower.subplots(1, 2)
experts, accuracy, loss = np.array(found).T
left.plot(experts, accuracy, "o-")
right.plot(experts, loss, "o-")
left.set(xlabel="experts asked per row", ylabel="accuracy")
right.set(xlabel="experts asked per row", ylabel="log-loss")
plt.show()
