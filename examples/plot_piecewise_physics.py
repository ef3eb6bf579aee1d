"""
Laws that change with the regime: friction in a pipe
====================================================

Water that flows slowly through a pipe moves in layers; beyond a Reynolds number of
about 2300 it swirls, and friction follows another law. In between no single law holds:
the flow jumps from one to the other. In logarithms both laws are straight lines. That
of Hagen and Poiseuille, f = 64 / Re, has slope -1; that of Blasius, f = 0.316
Re^(-1/4), has slope -1/4. We draw measurements that follow them. A mixture of linear
experts then finds the laws and where they hold, without being told either.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor

from skmoe import MoERegressor

# %%
# Measurements
# ------------
# The logarithm of Re is drawn evenly. From 2000 to 4000 the flow is turbulent more and
# more often. Slow flows are hard to measure, so their noise is larger.


def measure(n, seed, low=500.0, high=1e5):
    rng = np.random.default_rng(seed)
    log_re = rng.uniform(np.log10(low), np.log10(high), n)
    share = np.clip((10**log_re - 2000) / 2000, 0, 1)
    turbulent = rng.uniform(size=n) < share
    log_f = np.where(turbulent, np.log10(0.316) - log_re / 4, np.log10(64) - log_re)
    log_f += rng.normal(0, np.where(turbulent, 0.01, 0.03))
    return log_re[:, None], log_f


X, y = measure(1500, seed=0)
X_test, y_test = measure(5000, seed=1)

# %%
# The laws are found
# ------------------
# One law should have slope -1, factor 64 and noise 0.03; the other slope -0.25, factor
# 0.316 and noise 0.01.

mixture = MoERegressor(Ridge(alpha=1e-3), n_experts=2, random_state=0).fit(X, y)
for k, expert in enumerate(mixture.experts_):
    print(
        f"expert {k}: f = {10**expert.intercept_:7.3f} Re^({expert.coef_[0]:.3f}), "
        f"noise {mixture.scale_[k]:.3f}"
    )

# %%
# Against learners that know no laws
# ----------------------------------
# A tree and gradient boosting fit the curve as well where there are measurements. But
# they are made of stairs, without slopes, and beyond the largest Re of their training
# rows they stay constant. A law continues.

models = {
    "one line": Ridge(alpha=1e-3).fit(X, y),
    "tree of 16 leaves": DecisionTreeRegressor(max_leaf_nodes=16).fit(X, y),
    "gradient boosting": HistGradientBoostingRegressor(random_state=0).fit(X, y),
    "mixture": mixture,
}
X_far, y_far = measure(2000, seed=2, low=1e5, high=1e6)
print(f"{'':20}{'RMSE within':>12}{'RMSE beyond':>13}   (log10 f)")
for name, model in models.items():
    within, beyond = (
        np.sqrt(np.mean((model.predict(A) - b) ** 2))
        for A, b in ((X_test, y_test), (X_far, y_far))
    )
    print(f"{name:20}{within:12.4f}{beyond:13.4f}")

# %%
# Between the laws
# ----------------
# In the transition f takes one of two values. Their mean is seldom measured; the
# density of the mixture has both values. The left picture shows measurements and the
# experts, with thick lines where the gate gives them more than 1 %. The right one shows
# the density of f at Re = 3000, where both kinds of flow are equally likely.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
log_re = np.linspace(2.7, 5, 400)[:, None]
gate = mixture.gate_proba(log_re)
left.scatter(10 ** X[:, 0], 10**y, s=4, color="0.6")
slopes = np.array([expert.coef_[0] for expert in mixture.experts_])
for colour, k in enumerate(np.argsort(slopes)):
    law = 10 ** mixture.experts_[k].predict(log_re)
    served = np.where(gate[:, k] > 0.01, law, np.nan)
    style = {"color": f"C{colour}", "label": f"expert {k}: Re^({slopes[k]:.2f})"}
    left.plot(10 ** log_re[:, 0], law, ":", linewidth=1, color=f"C{colour}")
    left.plot(10 ** log_re[:, 0], served, linewidth=3, **style)
left.plot(10 ** log_re[:, 0], 10 ** mixture.predict(log_re), "k--", label="mean")
left.set(xscale="log", yscale="log", xlabel="Reynolds number", ylabel="friction factor")
left.set_ylim(0.01, 0.2)
left.legend()

f = np.linspace(0.015, 0.055, 400)
at = np.full((len(f), 1), np.log10(3000))
right.plot(f, np.exp(mixture.score_samples(at, np.log10(f))), color="black")
mean = 10 ** mixture.predict(at[:1])[0]
right.axvline(mean, linestyle="--", color="black", label="mean")
right.axvline(64 / 3000, color="C0", linestyle=":", label="64 / Re")
right.axvline(0.316 * 3000**-0.25, color="C1", linestyle=":", label="0.316 Re^(-1/4)")
right.set(xlabel="friction factor at Re = 3000", ylabel="density of log10 f")
right.legend()
plt.show()
