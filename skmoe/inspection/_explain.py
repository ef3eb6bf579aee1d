"""Why a mixture predicts what it predicts for a row."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.utils.validation import check_array

from ._reading import Reading, names_after, numbered
from ._reasons import Reasons, reasons
from ._routing import learner_name

INTERCEPT = "(intercept)"
TOP_TERMS = 3
"""Number of terms that are printed per expert."""


@dataclass(frozen=True, eq=False, repr=False)
class RowExplanation:
    """The prediction of a mixture for one row, taken apart; see `explain_row`.

    Attributes
    ----------
    experts : ndarray of shape (n_asked,)
        The experts that the row is routed to, best first.
    gate_proba : ndarray of shape (n_asked,)
        Their gate probabilities, before ``top_k`` applies.
    weights : ndarray of shape (n_asked,)
        Their weights in the prediction, which sum to one.
    terms : list of dict or None
        For each of these experts, what each feature adds to its log odds against the
        average expert, log p(k | x) - mean_j log p(j | x), largest first. The values of
        a dict sum to the log odds. None where the gate is not such a sum.
    rules : tuple of str
        Conditions behind the gate's choice: the path in a tree, or the group.
    learners : list of str
        Class of each of the experts.
    answers : list
        Prediction of each of the experts.
    proba : ndarray of shape (n_asked, n_classes) or None
        Their class probabilities, if the mixture is a classifier.
    prediction : float or label
        Prediction of the mixture.
    """

    experts: np.ndarray
    gate_proba: np.ndarray
    weights: np.ndarray
    terms: list[dict[str, float]] | None
    rules: tuple[str, ...]
    learners: list[str]
    answers: list[Any]
    proba: np.ndarray | None
    prediction: Any

    def __repr__(self) -> str:
        head = f"The mixture says {_shown(self.prediction)}."
        if self.rules:
            head += f" The gate: {', '.join(self.rules)}."
        lines = [head]
        for i, expert in enumerate(self.experts):
            sure = "" if self.proba is None else f" ({self.proba[i].max():.0%})"
            lines.append(
                f"  expert {expert}, {self.learners[i]}, weight {self.weights[i]:.3f}: "
                f"says {_shown(self.answers[i])}{sure}"
            )
            lines.append(_filled(f"the gate {self._chosen(i)}"))
        return "\n".join(lines)

    def _chosen(self, i: int) -> str:
        """Say how probable the gate finds an expert, and why."""
        wanted = f"gives it {self.gate_proba[i]:.3f}"
        if self.terms is None:
            return wanted
        return f"{wanted}, log odds of the choice {_sum(self.terms[i])}"


def explain_row(model, x, *, background=None, output=0):
    """Explain the prediction for a row: which experts, why these, what each predicts.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor or Pipeline
        A fitted mixture, or a Pipeline that ends in one.
    x : array-like of shape (n_features,), or a container of one row
        The row.
    background : {array-like, sparse matrix, data frame} or None, default=None
        Rows to compare with. The term of a feature is then its deviation from the mean
        term over these rows, and the intercept takes up the mean. None compares with
        zero, which suits centred features.
    output : int, default=0
        Which output to explain, if y has several.

    Returns
    -------
    RowExplanation
        Its attributes hold all the numbers; it prints as a few lines. For a softmax or
        product gate, ``terms`` are coefficients times features. For a Gaussian gate,
        they are parts of the squared distance from the expert's mean. ``rules`` are the
        path of a tree gate, or the group of a group gate. Other gates give no reasons.

    See Also
    --------
    GateDisplay : The gate's probabilities along a feature.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor
    >>> from skmoe.inspection import explain_row
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> model = MoERegressor(n_experts=2, top_k=1, random_state=0)
    >>> explanation = explain_row(model.fit(X, np.abs(X[:, 0])), [2.0])
    >>> explanation
    The mixture says 1.994.
      expert 0, Ridge, weight 1.000: says 1.994
        the gate gives it 1.000, log odds of the choice +12 = x0 +12, intercept ...
    """
    reading = Reading(model, _one_row(x), output=output)
    routing = reading.routing
    experts = routing.indices[np.argsort(-routing.data, kind="stable")]
    weights = np.sort(routing.data)[::-1]
    answers = [reading.said(k)[0] for k in experts]
    proba = None
    if reading.classifies:
        proba = np.stack([reading.proba(k)[0] for k in experts])
    prediction = np.asarray(reading.mixture.predict(reading.X)).reshape(-1)
    why, names = _why(reading)
    if why.parts is not None and background is not None:
        usual = _usual(Reading(model, background, output=output))
        why = Reasons(why.parts - usual, why.offset + usual.sum(axis=1), why.rules)
    return RowExplanation(
        experts=experts,
        gate_proba=reading.gate_proba[0, experts],
        weights=weights,
        terms=None if why.parts is None else [_terms(why, k, names) for k in experts],
        rules=why.rules,
        learners=[learner_name(reading.mixture.experts_[k]) for k in experts],
        answers=answers,
        proba=proba,
        prediction=prediction[reading.output],
    )


def _one_row(x: Any) -> Any:
    """Return a container of one row."""
    if hasattr(x, "to_frame") and np.ndim(x) == 1:  # a pandas Series
        x = x.to_frame().T.infer_objects()
    elif not hasattr(x, "columns") and not issparse(x):
        x = np.asarray(x)
        x = x[None] if x.ndim == 1 else x
    if len(np.shape(x)) != 2 or np.shape(x)[0] != 1:
        raise ValueError(f"x must be one row; got shape {np.shape(x)}.")
    return x


def _gate_rows(reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """Return rows as the gate reads them, dense, and the names of its features."""
    before, _ = reading.gate
    X = reading.X if before is None else before.transform(reading.X)
    X = check_array(X, accept_sparse="csr", ensure_all_finite=False)
    names = names_after(before, reading.names)
    names = numbered(X.shape[1]) if names is None else names
    return (X.toarray() if issparse(X) else X), names


def _why(reading: Reading) -> tuple[Reasons, np.ndarray]:
    """Return the gate's reasons for the first row, and the names of its features."""
    X, names = _gate_rows(reading)
    return reasons(reading.gate[1], X[0], names), names


def _usual(reading: Reading) -> np.ndarray:
    """Return what each feature adds on average, (n_experts, d)."""
    X, names = _gate_rows(reading)
    gate = reading.gate[1]
    return np.mean([reasons(gate, x, names).parts for x in X], axis=0)


def _terms(why: Reasons, expert: int, names: np.ndarray) -> dict[str, float]:
    """Return the terms of an expert's log odds against the average, largest first."""
    parts = why.parts[expert] - why.parts.mean(axis=0)
    order = np.argsort(-np.abs(parts), kind="stable")
    terms = {str(names[j]): float(parts[j]) for j in order}
    return {**terms, INTERCEPT: float(why.offset[expert] - why.offset.mean())}


def _sum(terms: dict[str, float]) -> str:
    """Return a sum as text, with its largest terms."""
    total = sum(terms.values())
    features = list(terms.items())[:-1]
    shown = [f"{name} {value:+z.3g}" for name, value in features[:TOP_TERMS]]
    rest = features[TOP_TERMS:]
    if rest:
        shown.append(f"{len(rest)} others {sum(v for _, v in rest):+z.3g}")
    shown.append(f"intercept {terms[INTERCEPT]:+z.3g}")
    return f"{total:+z.3g} = " + ", ".join(shown)


def _filled(text: str) -> str:
    return fill(text, width=88, initial_indent=" " * 4, subsequent_indent=" " * 6)


def _shown(answer: Any) -> str:
    return f"{answer:.4g}" if isinstance(answer, (float, np.floating)) else f"{answer}"
