"""
Ratings: a mixture that learns which signal to trust for which user
===================================================================

There are several ways to predict a rating: from how kindly the user rates and how good
the item is, from the user's ratings of similar items, from similar users, or from
latent tastes found by matrix factorisation. Which of these signals is best depends on
how many ratings the user and the item have, and on how far the signals agree.

Here the signals are the features. Each expert of the mixture is a ridge regression,
which is one way to weight them, and a softmax gate sends each rating to the experts
that suit it. Every signal of a training row is computed without that row. Otherwise the
signals would look better on training rows than on new ones.

Without ``--data``, ratings are drawn. Users and items have biases, and tastes in twenty
latent dimensions; popular and agreeable items are rated more often; ratings are rounded
to 1..5. With ``--data DIR``, the folds u1.base, u1.test, ..., u5.test of MovieLens-100K
are read from a folder. Get them from GroupLens, whose licence does not let us pass them
on.

The script prints the RMSE of ratings and the NDCG@10 of rankings, beside those of
popularity and of the two means. It also draws what the experts have learned.

::

    python examples/plot_movielens.py [--data DIR | --full] [--save FILE | --no-picture]
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.metrics import ndcg_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skmoe import MoERegressor

BIAS_PRIOR, NEIGHBOUR_PRIOR = 5.0, 30.0
"""Pseudo-ratings that shrink a bias, and a similarity, towards zero."""

FACTORS = ((2, 7.0), (3, 8.0), (5, 11.0), (10, 16.0))
"""Latent dimensions and ridge penalty of each factorisation. More dimensions need a
stronger penalty; the mixture finds out which serve where."""

FARTHEST = 1.0
"""Tastes move a rating by at most this much: a few ratings must not say more."""

SWEEPS, INNER_FOLDS, STARTS = 15, 8, 2

NAMES = [
    "user's mean",
    "item's mean",
    "ratings of user (log)",
    "ratings of item (log)",
    "similar items",
    "items rated together",
    "similar users",
    "fit to what user rates",
    *(f"{k} latent tastes" for k, _ in FACTORS),
]


@dataclass
class Ratings:
    """Who rated what, and how."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    shape: tuple[int, int]

    def __getitem__(self, rows) -> "Ratings":
        return Ratings(self.user[rows], self.item[rows], self.value[rows], self.shape)

    def __len__(self) -> int:
        return len(self.value)

    def table(self, values) -> sparse.csr_array:
        """Return one value for each rating, as a (users, items) table."""
        return sparse.csr_array((values, (self.user, self.item)), shape=self.shape)


# ---------------------------------------------------------------------- ratings
def read(folder: Path, name: str) -> Ratings:
    user, item, value, _ = np.loadtxt(folder / name, dtype=int, unpack=True)
    return Ratings(user - 1, item - 1, value.astype(float), (943, 1682))


def draw(n_users=943, n_items=1682, n_ratings=100_000, seed=0) -> Ratings:
    """Draw ratings: biases, tastes of decaying strength, and noise."""
    rng, n_tastes = np.random.default_rng(seed), 20
    kindness, quality = rng.normal(0, 0.42, n_users), rng.normal(0, 0.55, n_items)
    strength = np.arange(1, n_tastes + 1) ** -0.6
    strength *= 0.5 / np.linalg.norm(strength)
    likes, traits = (rng.normal(size=(n, n_tastes)) for n in (n_users, n_items))
    affinity = (likes * strength) @ traits.T
    popularity = 1.5 * rng.normal(size=n_items) + 1.5 * quality
    activity = np.exp(rng.normal(0, 0.95, n_users))
    counts = np.clip(n_ratings * activity / activity.sum(), 20, 0.42 * n_items)
    counts = np.clip(counts * n_ratings / counts.sum(), 20, 0.42 * n_items).astype(int)
    # The best n of scores with Gumbel noise are n draws without replacement.
    score = popularity + affinity + rng.gumbel(size=affinity.shape)
    items = [np.argsort(-score[u])[:n] for u, n in enumerate(counts)]
    user, item = np.repeat(np.arange(n_users), counts), np.concatenate(items)
    value = kindness[user] + quality[item] + affinity[user, item]
    value += 3.53 - value.mean() + rng.normal(0, 0.85, len(value))
    return Ratings(user, item, np.clip(np.rint(value), 1, 5), (n_users, n_items))


def folds(ratings: Ratings, n_folds: int, seed: int):
    """Yield (training rows, rows held out)."""
    part = np.random.default_rng(seed).permutation(len(ratings)) % n_folds
    for fold in range(n_folds):
        yield np.flatnonzero(part != fold), np.flatnonzero(part == fold)


# ---------------------------------------------------------------------- signals
def biases(train: Ratings) -> tuple[float, np.ndarray, np.ndarray]:
    """Return mean, users' and items' shrunken deviations from it."""
    table = train.table(np.ones(len(train)))
    n_user, n_item = table.sum(axis=1), table.sum(axis=0)
    mean, of_item = train.value.mean(), np.zeros(train.shape[1])
    for _ in range(10):
        left = train.value - mean - of_item[train.item]
        of_user = np.bincount(train.user, left, train.shape[0]) / (n_user + BIAS_PRIOR)
        left = train.value - mean - of_user[train.user]
        of_item = np.bincount(train.item, left, train.shape[1]) / (n_item + BIAS_PRIOR)
    return mean, of_user, of_item


def neighbours(left, rated) -> np.ndarray:
    """Return what columns similar to each column predict for it, as a table.

    The similarity is a shrunken covariance of what the biases leave over.
    """
    similar = (left.T @ left).toarray()
    similar /= (rated.T @ rated).toarray() + NEIGHBOUR_PRIOR
    np.fill_diagonal(similar, 0)
    return (left @ similar) / (rated @ np.abs(similar) + 0.5)


def together(left, rated) -> tuple[np.ndarray, np.ndarray]:
    """Return what columns often rated together say, and how often that is."""
    both = (rated.T @ rated).toarray()
    size = np.sqrt(both.diagonal()) + 1
    both = (both / size / size[:, None]) ** 2
    np.fill_diagonal(both, 0)
    near = rated @ both
    return (left @ both) / (near + 0.05), np.log(near + 0.01)


def factorise(values, rated, n_factors: int, penalty: float, seed: int) -> np.ndarray:
    """Return biases plus a low-rank fit, by alternating ridge regressions.

    The first column of users and items is their bias, the others are their tastes.
    """
    prior = np.diag([BIAS_PRIOR] + [penalty] * n_factors)

    def ridges(values, rated, other):
        known = other.copy()
        known[:, 0] = 1
        outer = (known[:, :, None] * known[:, None, :]).reshape(len(known), -1)
        grams = (rated @ outer).reshape(-1, *prior.shape) + prior
        sums = values @ known - rated @ (other[:, :1] * known)
        return np.linalg.solve(grams, sums[..., None])[..., 0]

    items = np.random.default_rng(seed).normal(0, 0.3, (rated.shape[1], n_factors + 1))
    for _ in range(SWEEPS):
        users = ridges(values, rated, items)
        items = ridges(values.T, rated.T, users)
    return users[:, :1] + items[:, 0] + users[:, 1:] @ items[:, 1:].T


def tastes(values, rated, n_factors: int, penalty: float) -> np.ndarray:
    """Return the mean fit of some starts."""
    starts = range(STARTS)
    fits = [factorise(values, rated, n_factors, penalty, seed) for seed in starts]
    return np.mean(fits, axis=0)


def signals(train: Ratings, asked: Ratings) -> np.ndarray:
    """Return the signals that the training ratings give for those asked about."""
    mean, of_user, of_item = biases(train)
    plain = of_user[:, None] + of_item
    rated = train.table(np.ones(len(train)))
    values = train.table(train.value - mean)
    left = train.table(train.value - mean - plain[train.user, train.item])
    said, near = together(left, rated)
    tables = [
        neighbours(left, rated),
        said,
        neighbours(left.T, rated.T).T,
        near,
        *(
            np.clip(tastes(values, rated, *factors) - plain, -FARTHEST, FARTHEST)
            for factors in FACTORS
        ),
    ]
    columns = [
        of_user[asked.user],
        of_item[asked.item],
        np.log1p(rated.sum(axis=1))[asked.user],
        np.log1p(rated.sum(axis=0))[asked.item],
        *(table[asked.user, asked.item] for table in tables),
    ]
    return np.column_stack(columns)


def out_of_fold(train: Ratings) -> np.ndarray:
    """Return the signals of the training ratings, each without its own fold."""
    found = np.empty((len(train), len(NAMES)))
    for rest, fold in folds(train, INNER_FOLDS, seed=1):
        found[fold] = signals(train[rest], train[fold])
    return found


# ----------------------------------------------------------------------- models
def models() -> dict:
    # Ratings are whole numbers, and a narrow expert could lock on to one of them. A
    # strong prior keeps the noise scales of the experts alike. The gate's smoothness
    # and the shrinkage of the experts are chosen on held-out training rows.
    mixture = MoERegressor(
        Ridge(alpha=10),
        n_experts=4,
        top_k=None,
        scale_prior=1e4,
        n_init=2,
        max_iter=60,
        random_state=0,
    )
    means = ColumnTransformer([("means", StandardScaler(), [0, 1])])
    return {
        "ridge on the two means": make_pipeline(means, Ridge(alpha=10)),
        "ridge on all signals": make_pipeline(StandardScaler(), Ridge(alpha=10)),
        "mixture on all signals": make_pipeline(StandardScaler(), mixture),
    }


def ndcg(test: Ratings, score: np.ndarray) -> float:
    """Return how well a score ranks a user's held-out items: NDCG@10, mean over users.

    The gain of an item is its rating; users with one such item are left out.
    """
    order = np.argsort(test.user, kind="stable")
    users = np.split(order, np.flatnonzero(np.diff(test.user[order])) + 1)
    ranks = [
        ndcg_score([test.value[rows]], [score[rows]], k=10)
        for rows in users
        if len(rows) > 1
    ]
    return float(np.mean(ranks))


def evaluate(train: Ratings, test: Ratings):
    """Return RMSE and NDCG@10 of each model, the mixture, its features of test."""
    features, asked = out_of_fold(train), signals(train, test)
    popularity = asked[:, NAMES.index("ratings of item (log)")]
    biases = asked[:, 0] + asked[:, 1]
    scores = {
        "most rated first": (np.nan, ndcg(test, popularity)),
        "user's and item's mean": (
            root_mean_square(train.value.mean() + biases - test.value),
            ndcg(test, biases),
        ),
    }
    for name, model in models().items():
        predicted = model.fit(features, train.value).predict(asked)
        error = root_mean_square(np.clip(predicted, 1, 5) - test.value)
        scores[name] = error, ndcg(test, predicted)
    return scores, model, asked


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(error**2)))


def draw_experts(model, asked: np.ndarray, file: str | None) -> None:
    """Draw what each expert believes, and which ratings it serves."""
    import matplotlib.pyplot as plt

    scaler, moe = model.named_steps.values()
    coef = np.array([expert.coef_ for expert in moe.experts_])
    shares = moe.gate_proba(scaler.transform(asked))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")

    limit = np.abs(coef).max()
    image = left.imshow(coef.T, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    left.set_yticks(range(len(NAMES)), NAMES)
    left.set_xticks(range(len(coef)), [f"expert {k}" for k in range(len(coef))])
    left.set_title("What each expert believes (coefficients)")
    figure.colorbar(image, ax=left)

    rated = np.expm1(asked[:, NAMES.index("ratings of user (log)")])
    parts = np.array_split(np.argsort(rated, kind="stable"), 12)
    middle = [np.median(rated[part]) for part in parts]
    right.stackplot(
        middle,
        np.array([shares[part].mean(axis=0) for part in parts]).T,
        labels=[f"expert {k}" for k in range(len(coef))],
    )
    right.set(
        xscale="log",
        xlabel="ratings of the user",
        xticks=[20, 50, 100, 200, 400],
        xticklabels=[20, 50, 100, 200, 400],
        ylabel="mean share of the gate",
        title="Which experts serve which users",
    )
    right.minorticks_off()
    right.legend(loc="lower left")
    if file is None:
        plt.show()
    else:
        figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ratings by a mixture.")
    parser.add_argument("--data", type=Path, help="folder of MovieLens-100K")
    parser.add_argument("--full", action="store_true", help="draw 100,000 ratings")
    parser.add_argument("--save", metavar="FILE", help="file of the picture")
    parser.add_argument("--no-picture", action="store_true")
    options = parser.parse_args()
    if options.data:
        names = [(f"u{fold}.base", f"u{fold}.test") for fold in range(1, 6)]
        pairs = [tuple(read(options.data, name) for name in pair) for pair in names]
    else:
        few = {"n_users": 600, "n_items": 1000, "n_ratings": 60_000}
        ratings = draw() if options.full else draw(**few)
        pairs = [(ratings[a], ratings[b]) for a, b in folds(ratings, 5, seed=0)]
        pairs = pairs if options.full else pairs[:1]

    found = []
    for number, (train, test) in enumerate(pairs, 1):
        started = time.perf_counter()
        scores, model, asked = evaluate(train, test)
        found.append(list(scores.values()))
        print(
            f"fold {number}: {len(train)} ratings, {len(test)} held out, "
            f"{time.perf_counter() - started:.0f} s",
            *(f"{name:26}{a:.4f}{b:9.4f}" for name, (a, b) in scores.items()),
            sep="\n  ",
            flush=True,
        )
    print(f"\nmean of {len(pairs)} folds{'RMSE':>16}{'NDCG@10':>9}")
    for name, (error, rank) in zip(scores, np.mean(found, axis=0), strict=True):
        print(f"  {name:26}{error:.4f}{rank:9.4f}")
    if not options.no_picture:
        draw_experts(model, asked, options.save)


if __name__ == "__main__":
    main()
