"""
Text: experts on sparse rows
============================

Rows of words are sparse, and stay so: gate and experts read CSR as it is. A word can
mean different things in different kinds of text: "unpredictable" praises a plot, but
not a car. One linear classifier cannot know that. This page compares a mixture of
logistic regressions with one of the same penalty, and measures the memory that fit and
predict take beyond the data.

If the environment variable ``SKMOE_DATA`` names a folder of data, the texts are UCI's
SMS spam collection and 20 Newsgroups (1000 words, published split). Otherwise reviews
are drawn.
"""

import os
import sys
import time
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from skmoe import MoEClassifier
from skmoe.gates import SoftmaxGate

# %%
# Texts
# -----
# Each drawn review is about one of three things and has words of that thing. Some words
# praise one thing and blame another.


def draw_reviews(n=4000, length=25, seed=0):
    rng = np.random.default_rng(seed)
    topic, praise = rng.integers(0, 3, n), rng.integers(0, 2, n)
    said = rng.integers(0, 40, (n, length))
    kind = rng.choice(3, (n, length), p=[0.5, 0.2, 0.3])  # filler, topic, judgement
    # Of 40 judgements each topic takes half as praise: overlapping halves.
    good = (np.arange(40) + 13 * topic[:, None]) % 40
    judged = np.take_along_axis(good, said % 20 + 20 * (1 - praise[:, None]), axis=1)
    filler = 1000 + rng.zipf(1.4, (n, length)) % 400
    words = np.choose(kind, [filler, 100 + 40 * topic[:, None] + said, judged])
    return [" ".join(f"w{word}" for word in row) for row in words], praise, topic


def tables():
    """Yield name, experts, training and test rows in tf-idf, classes, test kinds."""
    words = TfidfVectorizer(min_df=2, sublinear_tf=True)
    split = {"test_size": 0.5, "random_state": 0}
    if not (folder := os.environ.get("SKMOE_DATA")):
        texts, y, topic = draw_reviews()
        *parts, _, kinds = train_test_split(
            words.fit_transform(texts), y, topic, **split
        )
        yield "reviews", 3, *parts, kinds
        return
    sys.path.insert(0, folder)
    from load import load

    X, y, _ = load("sms_spam")
    X = words.fit_transform(X["text"])
    parts = train_test_split(X, y, stratify=y, **split)
    yield "SMS spam", 2, *parts, parts[-1]
    X, y, about = load("newsgroups_w1000")
    X = TfidfTransformer(sublinear_tf=True).fit_transform(X).tocsr()
    train, test = about["splits"]["official"][0]
    yield "newsgroups", 4, X[train], X[test], y[train], y[test], y[test]


# %%
# One logistic regression and a mixture of them
# ---------------------------------------------
# There are many columns and few rows per expert. So the gate needs a strong penalty,
# and k-means on the words is a good first partition. "Peak" is the memory that Python's
# ``tracemalloc`` sees beyond the rows themselves, as a multiple of their CSR arrays.


def megabytes(X):
    return (X.data.nbytes + X.indices.nbytes + X.indptr.nbytes) / 1e6


def peak(call, X):
    tracemalloc.start()
    answer = call()
    most = tracemalloc.get_traced_memory()[1] / 1e6 / megabytes(X)
    tracemalloc.stop()
    return answer, most


header = "accuracy", "log-loss", "fit s", "peak fit", "peak predict"
for name, n_experts, X_train, X_test, y_train, y_test, kinds in tables():  # noqa: B007
    print(f"\n{name}: {X_train.shape[0]} + {X_test.shape[0]} texts, ", end="")
    print(f"{X_train.shape[1]} words, {megabytes(X_train):.1f} MB of CSR to train")
    print(" " * 22 + "".join(f"{title:>14}" for title in header))
    learner = LogisticRegression(C=10 if name == "SMS spam" else 1, max_iter=1000)
    mixture = MoEClassifier(
        learner,
        n_experts=n_experts,
        gate=SoftmaxGate(alpha=0.01),
        init="kmeans_x",
        n_init=1,
        max_iter=15,
        random_state=0,
    )
    # What is loaded on first use is not counted.
    clone(mixture).set_params(max_iter=1, tol=1.0, cross_fit=None).fit(X_train, y_train)
    for label, model in ("logistic regression", learner), ("mixture", mixture):
        started = time.perf_counter()
        _, in_fit = peak(lambda: model.fit(X_train, y_train), X_train)  # noqa: B023
        seconds = time.perf_counter() - started
        proba, in_predict = peak(lambda: model.predict_proba(X_test), X_test)  # noqa: B023
        accuracy = np.mean(model.classes_[proba.argmax(axis=1)] == y_test)
        loss = log_loss(y_test, proba)
        print(
            f"{label:22}{accuracy:14.4f}{loss:14.4f}{seconds:14.1f}"
            f"{in_fit:13.1f}x{in_predict:13.1f}x"
        )

# %%
# The mixture is no less accurate, and its probabilities are better. Fit takes many
# times the memory of such a small table, because coefficients and responsibilities do
# not shrink with it. Predict adds almost nothing beyond the probabilities.
#
# Which kinds of text does each expert serve?

weights = mixture.route(X_test).toarray()
labels = np.unique(kinds)
shares = np.array([weights[kinds == label].mean(axis=0) for label in labels])
figure, ax = plt.subplots(figsize=(7, 1.2 + 0.2 * len(labels)), layout="constrained")
for k in range(mixture.n_experts_):
    before = shares[:, :k].sum(axis=1)
    ax.barh(labels.astype(str), shares[:, k], left=before, label=f"expert {k}")
ax.invert_yaxis()
ax.set(xlabel="mean weight of each expert", xlim=(0, 1))
ax.set_ylabel("kind of text")
figure.legend(loc="outside upper center", ncols=4, frameon=False)
plt.show()
