"""
Three ways to pay less: mixtures, pruning, quantisation
=======================================================

There are two usual ways to make a trained network cheaper. *Pruning* sets its smallest
weights to zero and skips them. *Quantisation* stores and multiplies its weights in
eight bits. A mixture of experts is cheap in a third way: it keeps all weights and uses
few of them per row. This page compares the three by accuracy against cost per row.

If the environment variable ``SKMOE_DATA`` names a folder of data, the images are UCI's
optical digits (3823 to train, 1797 by other writers to test). Otherwise they are the
digits of scikit-learn.
"""

import copy
import os
import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from skmoe import MoEClassifier
from skmoe.gates import SoftmaxGate


def digits():
    if folder := os.environ.get("SKMOE_DATA"):
        sys.path.insert(0, folder)
        from load import load

        X, y, about = load("optdigits")
        train, test = about["splits"]["official"][0]
        X = np.asarray(X, dtype=float) / 16
        return X[train], X[test], y[train], y[test]
    X, y = load_digits(return_X_y=True)
    return train_test_split(X / 16, y, test_size=0.5, random_state=0, stratify=y)


X_train, X_test, y_train, y_test = digits()
print(f"{len(X_train)} + {len(X_test)} images")

# %%
# The dense networks
# ------------------
# Networks with one hidden layer of different widths are the curve to beat, since
# anybody can save cost by taking a smaller network.

dense = {
    width: MLPClassifier((width,), max_iter=2000, random_state=0).fit(X_train, y_train)
    for width in (8, 16, 32, 64, 128, 256)
}

# %%
# Pruning and quantisation
# ------------------------
# Pruning keeps the largest weights of each layer and trains them for ten more passes
# over the data. Each network is pruned from the one before. Quantisation rounds the
# weights of each layer to 255 even steps. Activations stay as they are, which flatters
# it a little.


def pruned(model, shares, passes=10):
    """Yield networks that keep fewer and fewer of the weights."""
    for kept in shares:
        model = copy.deepcopy(model)
        least = [np.quantile(np.abs(layer), 1 - kept) for layer in model.coefs_]
        masks = [np.abs(a) >= b for a, b in zip(model.coefs_, least, strict=True)]
        for turn in range(passes + 1):
            if turn:
                model.partial_fit(X_train, y_train)
            model.coefs_ = [a * b for a, b in zip(model.coefs_, masks, strict=True)]
        yield model


def quantised(model):
    model = copy.deepcopy(model)
    for layer in model.coefs_:
        step = np.abs(layer).max() / 127
        layer[:] = step * np.rint(layer / step)
    return model


def mixture(n_experts, top_k):
    return MoEClassifier(
        LogisticRegression(max_iter=1000),
        n_experts=n_experts,
        gate=SoftmaxGate(alpha=0.01),
        top_k=top_k,
        n_init=1,
        max_iter=30,
        random_state=0,
    ).fit(X_train, y_train)


# %%
# What a row costs, and what has to be stored
# -------------------------------------------
# We count multiply-adds of weights that are not zero, and the kilobytes of these
# weights: 32 bits each, 8 bits if quantised. Pruned networks need two more bytes for
# the place of each weight.


def cost_of_network(model, bytes_per_weight=4):
    used = sum(np.count_nonzero(layer) for layer in model.coefs_)
    return used, used * bytes_per_weight / 1000


def cost_of_mixture(model):
    expert, gate = len(model.classes_) * X_test.shape[1], model.gate_.coef_.size
    asked = model.route(X_test).nnz / len(X_test)
    return gate + asked * expert, (gate + model.n_experts_ * expert) * 4 / 1000


shares = (0.5, 0.2, 0.1, 0.05, 0.02)
curves = {
    "dense": [(m, *cost_of_network(m)) for m in dense.values()],
    "pruned from 256": [
        (m, *cost_of_network(m, 6)) for m in pruned(dense[256], shares)
    ],
    "quantised": [
        (m, *cost_of_network(m, 1)) for m in (quantised(net) for net in dense.values())
    ],
    "mixture": [
        (m, *cost_of_mixture(m)) for m in (mixture(4, 1), mixture(8, 2), mixture(16, 4))
    ],
}
print(f"{'':18}{'accuracy':>9}{'multiply-adds':>15}{'kilobytes':>11}")
points = {}
for name, models in curves.items():
    points[name] = [(m.score(X_test, y_test), macs, kb) for m, macs, kb in models]
    for accuracy, macs, kb in points[name]:
        print(f"{name:18}{accuracy:9.4f}{macs:15.0f}{kb:11.1f}")

# %%
# The left picture has the cost in multiply-adds. The mixture that asks four of sixteen
# experts is as accurate as the largest network, with a fifth of its operations. A
# network pruned to a fifth is hardly worse. Pruned further, its accuracy falls, where
# that of a mixture that asks one of four experts does not. Eight bits change neither
# the accuracy nor the number of operations.
#
# The right picture has the memory. There a mixture has no advantage, since all its
# experts must be at hand, and quantisation needs by far the least. So the three answer
# different questions: few operations, few weights, cheap weights. Accuracies have a
# standard error of 0.005.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for (name, found), mark in zip(points.items(), "osx^", strict=True):
    accuracy, macs, kb = np.array(found).T
    for ax, cost in zip(axes, (macs, kb), strict=True):
        ax.plot(cost, accuracy, marker=mark, label=name)
axes[0].set(xscale="log", xlabel="multiply-adds per row", ylabel="accuracy")
axes[0].set_ylim(0.85, 1)
axes[1].set(xscale="log", xlabel="kilobytes of weights")
axes[0].legend()
plt.show()
