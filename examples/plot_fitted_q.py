"""
Fitted Q iteration: a control task with experts by regime
=========================================================

A car in a valley is too weak to drive up the hill on its right: it must first swing
back to the left. Fitted Q iteration learns to drive it from random transitions. In each
iteration a regressor learns the value of each action from the rewards and from its own
values one step later (D. Ernst, P. Geurts and L. Wehenkel, Journal of Machine Learning
Research 6 (2005) 503-556).

The values have regimes. From some states the car reaches the top at once, from others
it must swing first, and the values jump between the two. A single quadratic function
cannot follow that jump. Forests, the usual choice, can, but they are large. Here each
expert of a mixture is a quadratic function.
"""

import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skmoe import MoERegressor

# %%
# The car
# -------
# Position and speed follow the mountain car of Sutton and Barto. A decision (push left,
# not at all, or right) holds for four time steps and costs one. At position 0.5 the car
# is up.

ACTIONS = np.array([-1.0, 0.0, 1.0])


def drive(state, push, steps=4):
    """Return the next states and whether the car is up."""
    x, v = state.T.copy()
    up = x >= 0.5
    for _ in range(steps):
        speed = np.clip(v + 0.001 * push - 0.0025 * np.cos(3 * x), -0.07, 0.07)
        place = np.clip(x + speed, -1.2, 0.6)
        speed = np.where(place <= -1.2, np.maximum(speed, 0), speed)
        x, v = np.where(up, x, place), np.where(up, v, speed)
        up |= x >= 0.5
    return np.column_stack([x, v]), up


rng = np.random.default_rng(0)
states = rng.uniform([-1.2, -0.07], [0.5, 0.07], (4000, 2))
pushes = rng.choice(ACTIONS, len(states))
after, up = drive(states, pushes)

# %%
# Fitted Q iteration
# ------------------
# Values change little from one iteration to the next. So the mixture continues from its
# last fit (``warm_start=True``), and an iteration costs a few passes of EM.


def rows(state, push):
    return np.column_stack([state * [1, 15], np.broadcast_to(push, len(state))])


def values(model, state):
    """Return the value of each action, (n_states, 3)."""
    return np.column_stack([model.predict(rows(state, push)) for push in ACTIONS])


def fitted_q(model, n_iter=25, discount=0.98):
    target = -np.ones(len(states))
    for _ in range(n_iter):
        model.fit(rows(states, pushes), target)
        later = np.minimum(values(model, after).max(axis=1), 0)
        target = -1 + discount * np.where(up, 0, later)
    return model


def decisions_needed(model, n=300, most=100):
    """Return how many decisions the greedy policy takes, from random states."""
    start = np.random.default_rng(1).uniform([-1.2, -0.03], [0.3, 0.03], (n, 2))
    state, taken, arrived = start, np.zeros(n), np.zeros(n, dtype=bool)
    for _ in range(most):
        state, here = drive(state, ACTIONS[values(model, state).argmax(axis=1)])
        taken += ~arrived
        arrived |= here
    return taken, arrived


mixture = MoERegressor(
    Ridge(alpha=0.01),
    n_experts=16,
    cross_fit=None,
    n_init=1,
    tol=0.1,  # a few passes refine the mixture of the fit before
    warm_start=True,
    random_state=0,
)
quadratic = PolynomialFeatures(2, include_bias=False)
models = {
    "one quadratic function": make_pipeline(quadratic, Ridge(alpha=0.01)),
    "30 extra trees": ExtraTreesRegressor(30, min_samples_leaf=5, random_state=0),
    "mixture of 16": make_pipeline(quadratic, StandardScaler(), mixture),
}
print(f"{'':24}{'arrive':>8}{'decisions':>11}{'fit s':>7}{'µs a value':>12}")
for name, model in models.items():
    started = time.perf_counter()
    fitted_q(model)
    seconds = time.perf_counter() - started
    taken, arrived = decisions_needed(model)
    started = time.perf_counter()
    values(model, states)
    cost = 1e6 * (time.perf_counter() - started) / (3 * len(states))
    print(
        f"{name:24}{arrived.mean():8.0%}{taken.mean():11.1f}{seconds:7.1f}{cost:12.2f}"
    )

# %%
# The mixture drives about as well as the trees. They store thousands of leaves; it has
# 16 times ten coefficients and a gate. One quadratic function does not always arrive.
#
# Where the experts are
# ---------------------
# The picture shows the value of the best action over position and speed. White lines
# separate the experts that the gate prefers (when pushing right). The cliff runs along
# the states from which the car just reaches the top. The red line is a drive from the
# bottom of the valley.

side = np.linspace(-1.2, 0.5, 160), np.linspace(-0.07, 0.07, 160)
plane = np.stack(np.meshgrid(*side), axis=-1).reshape(-1, 2)
names = ["30 extra trees", "mixture of 16"]
figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for name, ax in zip(names, axes, strict=True):
    best = values(models[name], plane).max(axis=1).reshape(160, 160)
    image = ax.pcolormesh(*side, best, vmin=-20, vmax=0, rasterized=True)
    path = [np.array([[-0.52, 0.0]])]
    while path[-1][0, 0] < 0.5 and len(path) < 60:
        push = ACTIONS[values(models[name], path[-1]).argmax(axis=1)]
        path.append(drive(path[-1], push)[0])
    ax.plot(*np.concatenate(path).T, ".-", color="tab:red")
    ax.set(title=f"{name}: {len(path) - 1} decisions", xlabel="position")
    ax.set(xlim=(-1.2, 0.5), ylim=(-0.07, 0.07))
features = models["mixture of 16"][:-1].transform(rows(plane, 1.0))
first = mixture.apply(features)[:, 0].reshape(160, 160)
for expert in np.unique(first):
    axes[1].contour(*side, first == expert, [0.5], colors="white", linewidths=0.8)
axes[0].set_ylabel("speed")
figure.colorbar(image, ax=axes, label="value of the best action")
plt.show()
