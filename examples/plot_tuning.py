"""
Tuning a mixture
================

The parameters of the mixture, its gate and its experts have names, as in any
scikit-learn estimator: ``n_experts``, ``gate__alpha``, ``expert__alpha``. So
``GridSearchCV`` can tune them all, and so can other tools for scikit-learn. Optuna is
shown below.

The data are Friedman's first function. Five columns matter: two of them act through a
sine of their product, and one through its square. Five more columns do not matter.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import make_friedman1
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoe import MoERegressor
from skmoe.gates import GaussianGate, SoftmaxGate

X, y = make_friedman1(800, noise=1.0, random_state=0)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)

# %%
# A grid
# ------
# The number of experts and the kind of gate matter most. A gate is a parameter like any
# other, so the grid can hold whole gates. One start and fifteen passes of EM are enough
# for a comparison; the best mixture can be fitted with more.

mixture = MoERegressor(Ridge(), n_init=1, max_iter=15, random_state=0)
search = GridSearchCV(
    make_pipeline(StandardScaler(), mixture),
    {
        "moeregressor__n_experts": [1, 2, 4, 8],
        "moeregressor__gate": [SoftmaxGate(), GaussianGate()],
    },
    cv=3,
)
search.fit(X_train, y_train)
best = {name.split("__", 1)[1]: value for name, value in search.best_params_.items()}
print(f"best of {len(search.cv_results_['params'])}: {best}")
print(
    f"R² of ridge regression  {Ridge().fit(X_train, y_train).score(X_test, y_test):.3f}"
)
print(f"R² of the best mixture  {search.score(X_test, y_test):.3f}")

# %%
# As a curve the grid shows that too few experts cannot bend, and too many have too few
# rows each.

table = pd.DataFrame(search.cv_results_["params"])
table.columns = [name.split("__", 1)[1] for name in table.columns]
table["gate"] = table["gate"].map(lambda gate: type(gate).__name__)
table["R²"], table["error"] = (
    search.cv_results_[name] for name in ("mean_test_score", "std_test_score")
)
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for gate, part in table.groupby("gate"):
    part = part.sort_values("n_experts")
    ax.errorbar(part["n_experts"], part["R²"], part["error"], capsize=3, label=gate)
ax.set_xscale("log", base=2)
ax.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
ax.set(xlabel="n_experts", ylabel="R² of the folds left out")
ax.legend()
plt.show()

# %%
# Optuna
# ------
# Where parameters are many or continuous, a sampler finds good ones in fewer fits than
# a grid. It needs nothing but ``set_params``. By default ``fit`` chooses ``alpha`` of
# the gate on held-out rows; here the search does. This part runs if ``optuna`` is
# installed.

try:
    import optuna
except ImportError:
    optuna = None


def objective(trial):
    model = make_pipeline(StandardScaler(), MoERegressor(Ridge(), gate=SoftmaxGate()))
    model.set_params(
        moeregressor__n_experts=trial.suggest_int("n_experts", 2, 12),
        moeregressor__gate__alpha=trial.suggest_float("gate", 1e-4, 0.1, log=True),
        moeregressor__expert__alpha=trial.suggest_float("expert", 0.01, 10, log=True),
        moeregressor__n_init=1,
        moeregressor__max_iter=15,
        moeregressor__random_state=0,
    )
    return cross_val_score(model, X_train, y_train, cv=3).mean()


if optuna is not None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=5)
    found = {name: round(value, 4) for name, value in study.best_params.items()}
    print(f"Optuna, {len(study.trials)} trials: R² {study.best_value:.3f} with {found}")
print(f"GridSearchCV, {len(table)} points: R² {search.best_score_:.3f}")
