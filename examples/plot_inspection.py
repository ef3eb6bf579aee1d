"""
Looking into a fitted mixture
=============================

Which expert serves which rows, why, how well, and at what cost? How did training go?
The displays and reports of ``skmoe.inspection`` answer that, here for three small
tables.

    python examples/plot_inspection.py [--save FOLDER]
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine

from skmoe import MoEClassifier, MoERegressor
from skmoe.inspection import (
    ConvergenceDisplay,
    ExpertSpecializationDisplay,
    ExpertUtilizationDisplay,
    GateDisplay,
    PredictiveDistributionDisplay,
    compute_report,
    explain_row,
    routing_report,
)

figures = {}


def panels(name, n=1):
    """Return axes side by side, and remember their figure."""
    figure, axes = plt.subplots(1, n, figsize=(11, 3.8), layout="constrained")
    figures[name] = figure
    return axes


# %%
# A classifier: three cultivars of wine
# -------------------------------------
# There are 13 features, three classes and three logistic experts. The left picture
# shows which experts are asked, by rows of which class. Diamonds show the gate's mean
# probabilities before it is cut to the best two experts. The right picture shows the
# gate along one feature, while all other features stay as they are in the rows.
X, y = load_wine(return_X_y=True, as_frame=True)
wine = MoEClassifier(n_experts=3, random_state=0).fit(X, y)
left, right = panels("wine", 2)
ExpertUtilizationDisplay.from_estimator(wine, X, y, ax=left)
GateDisplay.from_estimator(wine, X, feature="proline", ax=right)

# %%
# What do the rows of an expert have in common? The picture shows the means of their
# features, as deviations from the means of all rows, in standard deviations.
ExpertSpecializationDisplay.from_estimator(wine, X, ax=panels("features"))

# %%
# For one wine: which experts serve it, why the gate chose them, and what they predict.
# Features count by their distance from their usual values.
print(explain_row(wine, X.iloc[[70]], background=X))

# %%
# A regressor: four regimes in the plane
# --------------------------------------
# In each quarter of the plane, y is another linear function. The left picture shows
# which expert serves where; the paler the colour, the less sure the gate. The right one
# shows R² of every expert on the rows of every expert. On its own rows an expert is the
# best; on the rows of others it is worse than their mean.
random = np.random.default_rng(0)
Z = random.uniform(-1, 1, (1000, 2))
slopes = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
quarter = 2 * (Z[:, 1] > 0) + (Z[:, 0] > 0)
target = np.einsum("ij,ij->i", Z, slopes[quarter]) + random.normal(0, 0.2, len(Z))
plane = MoERegressor(n_experts=4, cross_fit=None, random_state=0).fit(Z, target)
left, right = panels("plane", 2)
GateDisplay.from_estimator(plane, Z, ax=left)
ExpertSpecializationDisplay.from_estimator(plane, Z, target, kind="score", ax=right)

# %%
# A report has the same in numbers, and more.
print(routing_report(plane, Z, target).round(3).T.to_string())

# %%
# What does a prediction compute? The energy is the power that you state, times the
# measured time.
print(compute_report(plane, Z, watts=15.0))

# %%
# How did training go? EM ran from four starts, and the best one is kept. A cross marks
# a pass in which the gate or an expert stayed as it was, because the new one would have
# lowered the bound (the log-likelihood per row that EM raises).
ConvergenceDisplay.from_estimator(plane, ax=panels("convergence"))

# %%
# The whole predictive distribution
# ---------------------------------
# Here the noise changes with x, and for positive x the target follows one of two lines,
# which nothing in x can tell apart. The mixture keeps both. Bands between quantiles
# cannot show that hardly any y lies in the middle; the density does.
x = random.uniform(-2, 2, 800)
branch = random.choice([-1.0, 1.0], len(x))
noise = np.where(x > 0, 0.15, 0.1 - 0.25 * x) * random.standard_normal(len(x))
u = np.where(x > 0, branch * 1.5 * x, 0.5 * x) + noise
fork = MoERegressor(n_experts=6, top_k=None, random_state=0).fit(x[:, None], u)
left, right = panels("predictive", 2)
PredictiveDistributionDisplay.from_estimator(fork, x[:, None], u, ax=left)
PredictiveDistributionDisplay.from_estimator(fork, x[:, None], kind="density", ax=right)

# %%
if sys.argv[1:2] == ["--save"]:
    for name, figure in figures.items():
        figure.savefig(Path(sys.argv[2]) / f"inspection_{name}.png", dpi=75)
plt.show()
