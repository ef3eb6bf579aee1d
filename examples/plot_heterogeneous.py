"""
Experts of different kinds, against stacking
============================================

One part of a table may follow a straight line and another part rules of thumb. Stacking
fits every learner on all rows and then weights them, with the same weights everywhere.
A mixture gives each learner the rows that it is good at. Here the list of experts holds
a ridge regression and a decision tree, and the gate learns which rows belong to which.

The first table is drawn with such regimes, and shows how much there can be to gain. The
second, the diabetes study that comes with scikit-learn, has no such regimes.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor


def draw(n, seed):
    """Return eight features, a target and whether rules hold instead of the line."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 8))
    line = X @ [0, 4, -3, 2, 2, -2, 1, 1]
    high = np.where(X[:, 2] > 0.2, 4, 1)
    low = np.where(X[:, 3] > -0.3, -1, -4)
    rules = X[:, 0] + 0.5 * X[:, 5] > 0
    y = np.where(rules, np.where(X[:, 1] > 0, high, low), line)
    return X, y + 0.2 * rng.standard_normal(n), rules


X, y, _ = draw(2000, seed=0)
X_test, y_test, rules = draw(10_000, seed=1)

# %%
# Learners alone, stacked, and gated
# ----------------------------------
# The noise has a standard deviation of 0.2, so no RMSE can be lower. With ``top_k=1`` a
# row asks one learner. A stack asks all of them, and its final learner.

learners = [Ridge(), DecisionTreeRegressor(min_samples_leaf=5, random_state=0)]
named = [("ridge", learners[0]), ("tree", learners[1])]
boosting = HistGradientBoostingRegressor(random_state=0)
models = {
    "ridge regression": learners[0],
    "decision tree": learners[1],
    "random forest": RandomForestRegressor(random_state=0),
    "gradient boosting": boosting,
    "stack, ridge on top": StackingRegressor(named, RidgeCV()),
    "stack, boosting on top": StackingRegressor(named, boosting, passthrough=True),
    "mixture, top_k=1": MoERegressor(learners, n_experts=2, top_k=1, random_state=0),
}


def rmse(model, rows):
    error = model.predict(X_test[rows]) - y_test[rows]
    return float(np.sqrt(np.mean(error**2)))


print(f"{'RMSE':24}{'all rows':>9}{'line':>7}{'rules':>7}{'µs per row':>12}")
errors = {}
for name, model in models.items():
    model.fit(X, y)
    errors[name] = [rmse(model, rows) for rows in (rules >= 0, ~rules, rules)]
    started = time.perf_counter()
    model.predict(X_test)
    cost = 1e6 * (time.perf_counter() - started) / len(X_test)
    a, b, c = errors[name]
    print(f"{name:24}{a:9.3f}{b:7.3f}{c:7.3f}{cost:12.2f}")

# %%
# Which expert serves what? The ridge regression should get the rows of the line.

mixture = models["mixture, top_k=1"]
first = mixture.apply(X_test)[:, 0]
for k, expert in enumerate(mixture.experts_):
    print(
        f"{type(expert).__name__:22} serves {np.mean(first[~rules] == k):6.1%} of the "
        f"line's rows and {np.mean(first[rules] == k):6.1%} of the others"
    )

figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
place = np.arange(len(models))
for shift, column, label in ((-0.2, 1, "rows of the line"), (0.2, 2, "rows of rules")):
    values = [error[column] for error in errors.values()]
    ax.barh(place + shift, values, 0.4, label=label)
ax.axvline(0.2, color="black", linestyle="--", linewidth=1, label="noise")
ax.set_yticks(place, models)
ax.invert_yaxis()
ax.set_xlabel("RMSE")
ax.legend()
plt.show()

# %%
# Where there are no regimes
# --------------------------
# On the diabetes study one ridge regression is as good as anything else. The mixture
# notices that on rows that it holds out while fitting. It comes within a hundredth or
# two of ridge regression, which is much less than folds differ.

X, y = load_diabetes(return_X_y=True)
ridge, tree = (
    Ridge(alpha=0.1),
    DecisionTreeRegressor(min_samples_leaf=20, random_state=0),
)
small = {
    "ridge regression": ridge,
    "decision tree": tree,
    "stack": StackingRegressor([("ridge", ridge), ("tree", tree)], RidgeCV()),
    "mixture": MoERegressor([ridge, tree], random_state=0),
}
for name, model in small.items():
    scores = cross_val_score(model, X, y, cv=5)
    print(f"{name:18} R² {scores.mean():.3f} (folds differ by {scores.std():.3f})")
