"""
Quick start
===========

A mixture of experts has several simple models, the experts, and a *gate*, which learns
from the features where each expert is good. This page fits one to a curve that no
single line follows, and one to handwritten digits.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split

from skmoe import MoEClassifier, MoERegressor

# %%
# A curve of three pieces
# -----------------------
# The target rises, falls steeply, and then stays flat with more noise. We ask for three
# ridge regressions. ``fit`` finds them, and the regions in which they hold.

rng = np.random.default_rng(0)
x = np.sort(rng.uniform(0, 10, 600))
pieces = [x < 4, x < 6]
y = np.select(pieces, [1.5 * x, 6 - 3 * (x - 4)], 0.0)
y += rng.normal(0, np.select(pieces, [0.3, 0.3], 0.8))
X = x[:, None]

model = MoERegressor(Ridge(), n_experts=3, random_state=0).fit(X, y)
print(f"R² of one ridge regression {Ridge().fit(X, y).score(X, y):.2f}")
print(f"R² of the mixture          {model.score(X, y):.2f}")
for k, expert in enumerate(model.experts_):
    print(
        f"expert {k}: slope {expert.coef_[0]:5.2f}, noise {model.scale_[k]:.2f}, "
        f"serves {model.expert_load_[k]:.0%} of the rows"
    )

# %%
# The upper picture shows the mixture's prediction (black) and its experts, each where
# the gate prefers it. The lower one shows the gate. The mixture finds the bend at 4 and
# the change at 6, and each expert has its own noise.

figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(7, 5), sharex=True, height_ratios=[3, 1], layout="constrained"
)
grid = np.linspace(0, 10, 500)[:, None]
gate, first = model.gate_proba(grid), model.apply(grid)[:, 0]
top.scatter(x, y, s=6, color="0.7")
for k, expert in enumerate(model.experts_):
    line = np.where(first == k, expert.predict(grid), np.nan)
    top.plot(grid, line, linewidth=5, alpha=0.6, label=f"expert {k}")
    bottom.plot(grid, gate[:, k])
top.plot(grid, model.predict(grid), color="black", linewidth=1.2, label="mixture")
top.set_ylabel("y")
top.legend()
bottom.set(xlabel="x", ylabel="gate")
plt.show()

# %%
# Classification is the same
# --------------------------
# Any classifier can be the expert; logistic regression is the default. A row asks two
# of the four experts, those that the gate prefers.

images, digits = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    images / 16, digits, test_size=0.5, random_state=0, stratify=digits
)
single = LogisticRegression(max_iter=1000).fit(X_train, y_train)
mixture = MoEClassifier(
    LogisticRegression(max_iter=1000), n_experts=4, top_k=2, random_state=0
).fit(X_train, y_train)
print(f"accuracy of one logistic regression {single.score(X_test, y_test):.3f}")
print(f"accuracy of the mixture             {mixture.score(X_test, y_test):.3f}")
print("experts of the first three images, best first:", *mixture.apply(X_test[:3]))

# %%
# Is it worth it?
# ---------------
# While fitting, some rows were held out: neither experts nor gate learned from them.
# They say what the mixture adds to a single learner, in log-likelihood per row, and how
# much of that is due to the gate.

for name, value in mixture.held_out_.items():
    print(f"{name:14}{value:8.3f}")
print(f"what the gate brings {mixture.routing_gain_:.3f}")
