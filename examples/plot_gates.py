"""
Which gate? The regions of every gate on one table
==================================================

Rows are points of a plane in four regimes: a box, a cloud, and the two sides of a line
outside both. In each regime y is a different linear function of x. Every gate gets
eight linear experts.

The first panel shows the true regimes and some rows. The other panels repeat the true
borders as dashed lines and show which expert each gate prefers where. An expert has the
colour of the regime that it serves most, and white lines separate experts. Below each
panel are R² and the mean log-likelihood per row on rows that were not trained on. ::

    python examples/plot_gates.py [--save FILE]
"""

import argparse

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skmoe import MoERegressor
from skmoe.gates import (
    GaussianGate,
    GroupGate,
    KNeighborsGate,
)

N_ROWS, N_EXPERTS, NOISE = 2000, 8, 0.3
SLOPES = np.array([[3.0, 1.0], [-2.0, 2.0], [1.0, -3.0], [-1.0, -1.0]])
LEVELS = np.array([0.0, 4.0, -2.0, 1.0])
NAMES = ["in the box", "in the cloud", "below the line", "above the line"]
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
"""Colours of Okabe and Ito's palette, which the colour-blind can tell apart."""

LIMIT = 3.0
EDGES = np.linspace(-LIMIT, LIMIT, 13)


def regime(X: np.ndarray) -> np.ndarray:
    """Return the regime of each row: 0 box, 1 cloud, 2 and 3 the sides of a line."""
    box = (np.abs(X[:, 0] + 1.4) < 0.9) & (np.abs(X[:, 1] - 1.3) < 1.0)
    cloud = np.hypot(X[:, 0] - 1.2, X[:, 1] + 1.2) < 1.1
    right = X[:, 1] > 1.0 - X[:, 0]
    return np.select([box, cloud, right], [0, 1, 3], 2)


def draw(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features and targets of n rows."""
    random = np.random.default_rng(seed)
    X = random.uniform(-LIMIT, LIMIT, (n, 2))
    k = regime(X)
    y = LEVELS[k] + np.einsum("ij,ij->i", X, SLOPES[k])
    return X, y + NOISE * random.standard_normal(n)


def tile(X: np.ndarray) -> np.ndarray:
    """Return the tile of each row, one of 12 by 12: ids for a group gate."""
    column, row = (np.digitize(X[:, j], EDGES[1:-1]) for j in range(2))
    return (12.0 * row + column)[:, None]


def gates() -> dict:
    """Return every kind of gate, by the title of its panel."""
    return {
        "softmax": "softmax",
        "gaussian": GaussianGate("full"),
        "tree": "tree",
        "hierarchical": "hierarchical",
        "product": "product",
        "neighbours": KNeighborsGate(),
        "forest": RandomForestClassifier(10, min_samples_leaf=5),
        "groups": make_pipeline(FunctionTransformer(tile), GroupGate()),
        "constant": "constant",
    }


def truth_score(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return R² and mean log-likelihood of the model that made the data."""
    k = regime(X)
    residual = y - LEVELS[k] - np.einsum("ij,ij->i", X, SLOPES[k])
    log_lik = -0.5 * (residual / NOISE) ** 2 - np.log(NOISE * np.sqrt(2 * np.pi))
    return 1.0 - np.mean(residual**2) / np.var(y), float(log_lik.mean())


def matched(best: np.ndarray, true: np.ndarray, n_experts: int) -> np.ndarray:
    """Return the regime of most rows that each expert is the best for."""
    table = np.zeros((n_experts, len(NAMES)))
    np.add.at(table, (best, true), 1.0)
    return table.argmax(axis=1)


def outline(ax, labels: np.ndarray, side: np.ndarray, **style) -> None:
    """Draw the borders between regions of a square of labels."""
    for label in np.unique(labels)[:-1]:
        ax.contour(side, side, (labels == label).astype(float), [0.5], **style)


def main() -> None:
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    parser = argparse.ArgumentParser(description="The regions of every gate.")
    parser.add_argument("--save", metavar="FILE", help="file of the picture")
    options = parser.parse_args()

    X, y = draw(N_ROWS, seed=0)
    X_test, y_test = draw(5 * N_ROWS, seed=1)
    side = np.linspace(-LIMIT, LIMIT, 301)
    plane = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    true = regime(plane)
    figure, axes = plt.subplots(
        2, 5, figsize=(12.5, 6.2), sharex=True, sharey=True, layout="constrained"
    )
    colours = ListedColormap(COLOURS)

    def panel(ax, title: str, scores: tuple, regimes, experts) -> None:
        r2, log_lik = scores
        print(f"{title:12} R² {r2:.3f}   log-likelihood {log_lik:.3f}", flush=True)
        ax.set_title(title, weight="bold")
        log_lik = f"{log_lik:.2f}".replace("-", "\N{MINUS SIGN}")
        ax.set_xlabel(f"R² {r2:.2f}, log-lik. {log_lik}", fontsize=9)
        square = len(side), len(side)
        ax.imshow(
            regimes.reshape(square),
            cmap=colours,
            vmin=-0.5,
            vmax=len(NAMES) - 0.5,
            extent=(-LIMIT, LIMIT, -LIMIT, LIMIT),
            origin="lower",
            interpolation="nearest",
            alpha=0.8,
        )
        white = {"colors": "white", "linewidths": 0.8}
        outline(ax, experts.reshape(square), side, **white)
        ink = {"colors": "black", "linewidths": 1.0, "linestyles": "dashed"}
        outline(ax, true.reshape(square), side, **ink)
        ax.set(xticks=[], yticks=[])

    panel(axes.flat[0], "the truth", truth_score(X_test, y_test), true, true)
    shown = np.random.default_rng(0).choice(len(X), 400, replace=False)
    axes.flat[0].scatter(*X[shown].T, s=2, color="black", alpha=0.5, linewidths=0)
    for ax, (title, gate) in zip(axes.flat[1:], gates().items(), strict=True):
        model = MoERegressor(n_experts=N_EXPERTS, gate=gate, random_state=0)
        model.fit(X, y)
        scores = model.score(X_test, y_test), model.score_samples(X_test, y_test).mean()
        best = model.apply(plane)[:, 0]
        owner = matched(best, true, N_EXPERTS)
        panel(ax, title, scores, owner[best], best)
    figure.legend(
        handles=[Patch(color=c, label=n) for c, n in zip(COLOURS, NAMES, strict=True)],
        loc="outside lower center",
        ncols=len(NAMES),
        frameon=False,
    )
    if options.save is None:
        plt.show()
    else:
        figure.savefig(options.save, dpi=130)


if __name__ == "__main__":
    main()
