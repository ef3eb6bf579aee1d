r"""The Gaussian gate: each expert has a density of x, and Bayes' rule gives the gate.

The model
---------
With z the standardised features,

    log p(k | x) = log π_k + γ log N(z; μ_k, Σ_k) - log Σ_j π_j N(z; μ_j, Σ_j)^γ

The closed form
---------------
With w_ik the weight of row i at expert k (responsibility times row weight), the moments
of expert k are

    M_k = (n_k, s_k, Q_k) = Σ_i w_ik (1, z_i, z_i z_iᵀ)

We add one pseudo-row at the pooled mean, and m pseudo-rows that shrink the covariance
towards the one of all experts together. With S_k = Q_k - s_k s_kᵀ / n_k,

    μ_k = s_k / n_k,  Σ_0 = (Σ_k S_k + m I) / (Σ_k n_k + m),
    Σ_k = (S_k + m Σ_0) / (n_k + m)

so an expert without rows has the pooled mean and the shared covariance. This is the
mode of a normal-inverse-Wishart prior up to its count of degrees of freedom.

The climb
---------
These moments maximise the joint density of (k, z) at γ = 1 [1]_, but EM maximises
F = Σ_ik w_ik log p(k | x_i). Its gradient in the natural parameters of the Gaussians
is γ (M(targets) - M'), where M' are the moments under the gate's own answer,
Σ_i s_i p(k | x_i) (1, z_i, z_i z_iᵀ). So we move the moments by

    M ← M + η (M(targets) - M'),    log π_k ← log π_k + log n_k - log n'_k

and mean and covariance follow in closed form. If η is small, F does not fall: this is
mirror ascent, known for hidden Markov models as the extended Baum-Welch algorithm
[2]_. The step of π alone is generalised iterative scaling [3]_, which never lowers F.
We double η after a step that was taken, and halve it after one that would have lowered
F.

References
----------
.. [1] L. Xu, M. I. Jordan and G. E. Hinton, "An alternative model for mixtures of
   experts", NIPS 7 (1995) 633-640.
.. [2] P. S. Gopalakrishnan, D. Kanevsky, A. Nádas and D. Nahamoo, "An inequality for
   rational functions with applications to some statistical estimation problems", IEEE
   Transactions on Information Theory 37 (1991) 107-113. doi:10.1109/18.61108
.. [3] J. N. Darroch and D. Ratcliff, "Generalized iterative scaling for log-linear
   models", Annals of Mathematical Statistics 43 (1972) 1470-1480.
   doi:10.1214/aoms/1177692379
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from numbers import Integral, Real
from typing import Self

import numpy as np
from scipy.special import softmax

from .._sklearn_compat import Interval, StrOptions
from ..backends import Array, like, namespace, select, to_host, total_of
from ..routing import Block, Routing, Table, deviations, gather, reciprocal
from ._base import BaseGate, as_routing
from ._covariance import KINDS, TINY, Densities, Moments
from ._softmax import SoftmaxGate

AUTO = "1/sqrt(d)"
EXPONENTS = (AUTO, "1/d", 1.0)
"""Values that density_exponent="auto" tries; the first serves if nothing is held out.
"""

SHARE_STEPS = 2
"""Number of steps of the mixing weights alone, before the climb."""

SHORTEST_STEP = 2.0**-10
LONGEST_STEP = 2.0**3
"""Bounds of η."""

ONLINE_STEPS = (1.0, 0.25, 0.0625)
"""Values of η for a batch of a stream; we take the first that does not lower its F."""

TOL = 1e-6
"""The climb ends with a step that gains less than this many nats per row."""


class GaussianGate(BaseGate):
    r"""Gate of Gaussian densities: p(k | x) ∝ π_k N(x; μ_k, Σ_k)^γ.

    This is the gate of Xu, Jordan and Hinton [1]_. Means and covariances follow in
    closed form from weighted moments of the rows. Quadrics separate the experts, or
    hyperplanes if the covariance is tied. Far from all data the broadest expert wins.

    Parameters
    ----------
    covariance_type : {"diag", "full", "tied"}, default="diag"
        - "diag" costs as little as a linear gate with twice the features.
        - "full" needs n_features² numbers per expert.
        - "tied" has one full covariance for all experts, which makes the gate linear;
          see `to_softmax`.
    density_exponent : float in (0, 1], "1/d", "1/sqrt(d)" or "auto", default="auto"
        The power γ; d is the number of features that vary. Densities of many features
        differ by so much that the gate would ignore y. At 1 they count in full, at 1/d
        as much as one feature does on average. "auto" takes the best of "1/sqrt(d)",
        "1/d" and 1 on held-out rows, or "1/sqrt(d)" if nothing is held out.
    covariance_prior : float, default=10.0
        Number of pseudo-rows that shrink the covariance of an expert towards that of
        all experts together, and that one towards the features' own variances. They
        keep an expert with few rows from closing in on them.
    max_iter : int, default=20
        Number of steps that raise Σ w log p(k | x) after the closed form, in a fit from
        scratch. Each is a pass over the rows. 0 leaves the closed form of [1]_.
    update_iter : int, default=5
        Number of such steps in an M-step of a mixture, from the last pass's answer.

    Attributes
    ----------
    means_ : ndarray of shape (n_experts, n_features)
        Means.
    covariances_ : ndarray
        Covariances, zero where a feature is constant: (n_experts, n_features),
        (n_experts, n_features, n_features) or (n_features, n_features) for "diag",
        "full" and "tied".
    weights_ : ndarray of shape (n_experts,)
        π, which sum to one. They make the gate's mean answer equal the experts' shares
        of the rows; if γ < 1 they are not these shares themselves.
    density_exponent_ : float
        γ.
    n_experts_ : int
        Number of experts.
    n_features_in_ : int
        Number of features.

    See Also
    --------
    SoftmaxGate : The linear gate, fitted to p(k | x) itself.

    Notes
    -----
    Features are divided by their pooled standard deviations, so units do not matter,
    and constant features are ignored. The closed form maximises the joint density of
    expert and features at γ = 1, while EM maximises Σ w log p(k | x). So the gate moves
    its moments by the difference between those of the targets and those of its own
    answer. This is mirror ascent on that sum [2]_: ``update`` never lowers it.

    References
    ----------
    .. [1] L. Xu, M. I. Jordan and G. E. Hinton, "An alternative model for mixtures of
       experts", NIPS 7 (1995) 633-640.
    .. [2] P. S. Gopalakrishnan, D. Kanevsky, A. Nádas and D. Nahamoo, "An inequality
       for rational functions with applications to some statistical estimation
       problems", IEEE Transactions on Information Theory 37 (1991) 107-113.
       doi:10.1109/18.61108

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe.gates import GaussianGate
    >>> X = np.array([[-2.0], [-0.2], [0.2], [2.0]])
    >>> inner = np.array([0.1, 0.9, 0.9, 0.1])
    >>> gate = GaussianGate(covariance_prior=0.1)
    >>> gate = gate.fit(X, np.column_stack([inner, 1 - inner]))
    >>> gate.route(np.array([[-3.0], [0.0], [3.0]]), top_k=1).indices.ravel()
    array([1, 0, 1])
    """

    streams = True
    choices = {"density_exponent": EXPONENTS}

    _parameter_constraints: dict = {
        "covariance_type": [StrOptions(set(KINDS))],
        "density_exponent": [
            StrOptions({"auto", "1/d", "1/sqrt(d)"}),
            Interval(Real, 0, 1, closed="right"),
        ],
        "covariance_prior": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 0, None, closed="left")],
        "update_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        covariance_type="diag",
        *,
        density_exponent="auto",
        covariance_prior=10.0,
        max_iter=20,
        update_iter=5,
    ):
        self.covariance_type = covariance_type
        self.density_exponent = density_exponent
        self.covariance_prior = covariance_prior
        self.max_iter = max_iter
        self.update_iter = update_iter

    # ------------------------------------------------------------------- learning
    def fit(self, X: Array, routing: Routing) -> Self:
        self._validate_params()
        routing = as_routing(routing)
        moments = select(X).weighted_moments(X, routing.row_sums)
        center, variance = (to_host(a) for a in moments)
        self._scale = deviations(center, variance)
        # The origin only saves digits; without it CSR stays sparse.
        self._center = np.zeros_like(center) if hasattr(X, "tocsr") else center
        self.n_features_in_ = X.shape[1]
        self.n_experts_ = routing.n_experts
        target = self._target(X, routing)
        self._start(X, routing, target, target)
        return self._climb(X, routing, target, self.max_iter)

    def update(self, X: Array, routing: Routing) -> GaussianGate:
        # Take a few steps from here on new targets. If parameters have changed since
        # the last fit or update, start from this gate's moments or from the closed
        # form, whichever is better.
        gate = copy.copy(self)
        target = self._target(X, routing)
        if self._settings != self._learned:
            same = type(self._densities) is self._kind
            starts = [target, self._moments] if same else [target]
            gates = [copy.copy(self)._start(X, routing, m, target) for m in starts]
            gate = max(gates, key=lambda each: each._assess(X, routing)[0])
        return gate._climb(X, routing, target, self.update_iter)

    # ------------------------------------------------------------ sums over rows
    # They go on from a fitted gate, whose units and exponent stay.
    def log_proba_of(self, table: Table, block: Block) -> np.ndarray:
        return self._log_proba(self._standardised(block.X)).T

    def sums(
        self,
        block: Block,
        log_proba: np.ndarray,
        targets: np.ndarray,
        weights: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        # The moments of the targets, and those of the gate's own answer.
        Z = self._standardised(block.X)
        found = []
        for mass in (targets, weights * np.exp(log_proba)):
            moments = self._densities.moments(Z, Routing.from_dense(mass.T))
            found += [moments.mass, moments.sums, moments.squares]
        return tuple(found)

    def step(
        self, table: Table, sums: tuple[np.ndarray, ...], damping: np.ndarray
    ) -> tuple[GaussianGate, np.ndarray]:
        target, answer = Moments(*sums[:3]), Moments(*sums[3:])
        size = float(damping)
        still = np.zeros(())
        if not size:
            return self, still
        gate = self._remembering(target.mass.sum() / self._rows)
        moments = gate._moments.moved(target, answer, size)
        try:
            return gate._set(moments)._meet(target, answer, size), still
        except np.linalg.LinAlgError:  # too far: no covariance is left
            return self, still

    def recall(self, X: Array, routing: Routing, mass: np.ndarray) -> GaussianGate:
        # Scale the moments so that they stand for this many rows.
        rows = float(np.sum(mass))
        return self._remembering(rows / self._rows)

    def absorb(self, X: Array, routing: Routing, keep: float) -> GaussianGate:
        # Take a step of the climb on a batch.
        target = self._target(X, routing)
        value, model = self._assess(X, routing)
        n = target.mass.sum()
        # As if the batch were as the gate expects; the step adds the difference.
        memory = self._remembering(keep + n / self._rows)
        share = n / (keep * self._rows + n)
        for step in ONLINE_STEPS:
            moments = memory._moments.moved(target, model, step)
            gate = copy.copy(self)
            try:
                gate._set(moments)._meet(target, model, step * share)
                if gate._assess(X, routing)[0] >= value:
                    return gate
            except np.linalg.LinAlgError:  # too far: no covariance is left
                continue
        return memory

    @property
    def _rows(self) -> float:
        """How many rows the moments stand for."""
        return max(float(self._moments.mass.sum()), TINY)

    def _remembering(self, factor: float) -> GaussianGate:
        """Return the gate with the weights of its moments times a factor."""
        other = copy.copy(self)
        other._moments = self._moments.times(factor)
        return other

    @property
    def _settings(self) -> tuple:
        """The parameters that the densities depend on, besides the moments."""
        return self.covariance_type, self._exponent(), self.covariance_prior

    def _exponent(self) -> float:
        d = max(1, int(np.count_nonzero(self._scale)))
        named = {"1/d": 1.0 / d, "1/sqrt(d)": d**-0.5}
        named["auto"] = named[AUTO]
        return named.get(self.density_exponent) or float(self.density_exponent)

    def _standardised(self, X: Array) -> Array:
        """Return X in pooled deviations; CSR stays CSR if the gate was fitted on it."""
        inverse = reciprocal(self._scale)  # 0 for constant features
        if hasattr(X, "tocsr"):
            if not self._center.any():
                return X.multiply(inverse).tocsr()
            X = X.toarray()
        return (X - like(self._center, X)) * like(inverse, X)

    def _target(self, X: Array, routing: Routing) -> Moments:
        return self._kind.moments(self._standardised(X), routing)

    def _set(self, moments: Moments) -> Self:
        """Set the moments, and the densities that follow from them."""
        self._learned = self._settings
        self.density_exponent_ = self._exponent()
        constant = np.flatnonzero(self._scale == 0)
        self._densities = self._kind.of(moments, self.covariance_prior, constant)
        self._moments = moments
        return self

    @property
    def _kind(self) -> type[Densities]:
        """The kind of covariance that is to be learned."""
        return KINDS[self.covariance_type]

    def _start(
        self, X: Array, routing: Routing, moments: Moments, target: Moments
    ) -> Self:
        """Set the moments, and mixing weights that fit the experts' shares."""
        self._step = 1.0
        self._set(moments)
        self._log_weights = np.log(_shares(target.mass))
        for _ in range(SHARE_STEPS):
            self._meet(target, self._assess(X, routing)[1])
        return self

    def _climb(self, X: Array, routing: Routing, target: Moments, n_steps: int) -> Self:
        """Take steps that raise Σ w log p(k | x)."""
        if n_steps:
            value, model = self._assess(X, routing)
        for _ in range(n_steps):
            try:
                trial = self._stepped(target, model)
                reached, answer = trial._assess(X, routing)
            except np.linalg.LinAlgError:  # too far: no covariance is left
                reached = -np.inf
            gain = reached - value
            if gain >= 0:
                self.__dict__.update(trial.__dict__)
                value = reached
                model = answer
                self._step = min(2.0 * self._step, LONGEST_STEP)
            else:
                self._step = max(0.5 * self._step, SHORTEST_STEP)
            if 0 <= gain <= TOL * target.mass.sum():
                break
        return self

    def _stepped(self, target: Moments, model: Moments) -> Self:
        """Return the gate after a step from the answer's moments to the target's."""
        moments = self._moments.moved(target, model, self._step)
        return copy.copy(self)._set(moments)._meet(target, model)

    def _meet(self, target: Moments, model: Moments, step: float = 1.0) -> Self:
        """Move the mixing weights, to bring the gate's mean answer to the target's."""
        change = np.log(_shares(target.mass)) - np.log(_shares(model.mass))
        self._log_weights = self._log_weights + step * change
        return self

    def _assess(self, X: Array, routing: Routing) -> tuple[float, Moments]:
        """Return Σ w log p(k | x), and the moments under the gate's own answer."""
        blocks = (self._assess_rows(X, routing, rows) for rows in self._blocks(X))
        value, moments = next(blocks)
        for more, others in blocks:
            value = value + more
            moments = moments.plus(others)
        return value, moments

    def _assess_rows(
        self, X: Array, routing: Routing, rows: slice
    ) -> tuple[float, Moments]:
        Z = self._standardised(select(X).block_of(X, rows))
        at = log_proba = self._log_proba(Z)
        if not routing.dense:
            at = gather(log_proba, routing.indices[rows, :])
        xp = namespace(log_proba)
        value = total_of(routing.weights[rows, :] * at)
        answer = xp.exp(log_proba) * routing.row_sums[rows][:, None]
        return value, self._densities.moments(Z, Routing.from_dense(answer))

    # --------------------------------------------------------------------- answers
    def log_proba(self, X: Array) -> Array:
        ops = select(X)
        parts = []
        for rows in self._blocks(X):
            log_proba = self._log_proba(self._standardised(ops.block_of(X, rows)))
            parts.append(namespace(log_proba).astype(log_proba, X.dtype))
        return namespace(X).concat(parts, axis=0)

    def _blocks(self, X: Array) -> Iterator[slice]:
        return select(X).row_blocks(X.shape[0], max(self.n_experts_, X.shape[1]))

    def _log_proba(self, Z: Array) -> Array:
        """Return log p(k | x) of standardised rows."""
        gamma = self.density_exponent_
        logits = self._densities.logits(Z, gamma, self._log_weights)
        return select(logits).log_softmax(logits)

    def to_softmax(self) -> SoftmaxGate:
        """Return the linear gate with the same probabilities; covariance must be tied.

        If all experts share a covariance, xᵀΣ⁻¹x cancels, and

        log p(k | x) = γ μ_kᵀΣ⁻¹ x + log π_k - γ μ_kᵀΣ⁻¹μ_k / 2 + const(x).

        Returns
        -------
        SoftmaxGate
            A fitted gate; its ``update`` goes on from here.
        """
        densities = self._densities
        if not densities.linear:
            raise ValueError(
                "to_softmax needs covariance_type='tied', which makes log odds linear; "
                f"this gate was fitted with {densities.name!r}."
            )
        gate = SoftmaxGate()
        gamma = self.density_exponent_
        coef, bias = densities.linear_form(gamma, self._log_weights)
        gate.coef_ = coef * reciprocal(self._scale)
        gate.intercept_ = bias - gate.coef_ @ self._center
        gate.n_experts_ = self.n_experts_
        gate.n_features_in_ = self.n_features_in_
        gate.n_iter_ = 0
        gate._center = self._center
        gate._scale = np.where(self._scale > 0, self._scale, 1.0)
        return gate

    def take(self, experts: np.ndarray) -> GaussianGate:
        other = copy.copy(self)
        experts = np.asarray(experts)
        other._moments = self._densities.take_moments(self._moments, experts)
        other._densities = self._densities.take(experts)
        times = np.bincount(experts)[experts]
        other._log_weights = self._log_weights[experts] - np.log(times)
        other.n_experts_ = len(experts)
        return other

    # ------------------------------------------------------------------ attributes
    @property
    def densities(self) -> Densities:
        """Densities of standardised features; their class is the covariance's kind."""
        return self._densities

    @property
    def means_(self) -> np.ndarray:
        """Means of the experts."""
        return self._center + self._densities.means * self._scale

    @property
    def covariances_(self) -> np.ndarray:
        """Covariances of the experts, zero where a feature is constant."""
        return self._densities.in_units(self._densities.covariances, self._scale)

    @property
    def weights_(self) -> np.ndarray:
        """Mixing weights."""
        return softmax(self._log_weights)

    @property
    def n_parameters(self) -> int:
        """Free parameters of p(k | x), which is a softmax of linear functions.

        They are linear in x if tied, in x and its squares if diagonal, and in x and all
        its products if full.
        """
        n_terms = self._densities.n_terms(self.n_features_in_)
        return (self.n_experts_ - 1) * (n_terms + 1)


def _shares(mass: np.ndarray) -> np.ndarray:
    """Return each expert's share of the mass, never zero."""
    return np.maximum(mass, TINY) / max(mass.sum(), TINY)
