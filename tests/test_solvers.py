"""The softmax solver against scikit-learn, its own equations and its promises."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import sparse
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression, Ridge

from skmoe.solvers import (
    SoftmaxFit,
    _softmax,
    fit_softmax,
    ridge_by_rows,
    softmax_start,
)
from skmoe.solvers._softmax import _bohning_step


class Task:
    """A weighted soft-target problem, and its objective written out in full."""

    def __init__(self, seed=0, *, n=60, d=3, n_classes=3, hard=False, ridge=0.01):
        rng = np.random.default_rng(seed)
        self.X = rng.normal(size=(n, d)) * (rng.random((n, d)) < 0.8)
        self.mass = rng.random(n) + 0.1
        if hard:
            noisy = self.X @ rng.normal(size=(d, n_classes))
            self.labels = np.argmax(noisy + rng.gumbel(size=noisy.shape), axis=1)
            shares = np.eye(n_classes)[self.labels]
        else:
            shares = rng.dirichlet(np.ones(n_classes), size=n)
        self.targets = shares * self.mass[:, None]
        self.ridge = np.full(d, ridge)
        self.center, self.scale = np.zeros(d), np.ones(d)
        self.shape = n_classes, d

    @property
    def sums(self):
        return np.column_stack([self.targets.T @ self.X, self.targets.sum(axis=0)])

    def point(self, rng, size=1.0):
        coef = size * rng.normal(size=self.shape)
        return SoftmaxFit(coef, size * rng.normal(size=self.shape[0]), 0, False)

    def objective(self, fit):
        log_proba = log_softmax(self.X @ fit.coef.T + fit.intercept, axis=1)
        penalty = 0.5 * np.sum(self.ridge * (fit.coef * self.scale) ** 2)
        return penalty - np.sum(self.targets * log_proba) / self.mass.sum()

    def solve(self, X=None, **options):
        options = {
            "ridge": self.ridge,
            "center": self.center,
            "scale": self.scale,
            "start": softmax_start(self.sums, self.shape[1]),
            "max_iter": 1000,
            "tol": 1e-10,
            **options,
        }
        X = self.X if X is None else X
        return fit_softmax(X, self.mass, self.sums, **options)


def centred(fit):
    """Return the table of parameters with the free constant of softmax removed."""
    table = np.column_stack([fit.coef, fit.intercept])
    return table - table.mean(axis=0)


def test_start_is_the_best_model_that_ignores_x():
    task = Task()
    start = softmax_start(task.sums, 3)
    assert not start.coef.any()
    shares = task.targets.sum(axis=0) / task.mass.sum()
    assert_allclose(softmax(start.intercept), shares)
    best = task.objective(start)
    for step in 1e-3 * np.eye(3):
        moved = SoftmaxFit(start.coef, start.intercept + step, 0, False)
        assert task.objective(moved) > best


def test_start_of_an_absent_class_is_finite():
    start = softmax_start(np.array([[0.0, 0.0], [1.0, 3.0]]), 1)
    assert np.isfinite(start.intercept).all()
    assert softmax(start.intercept)[0] < 1e-10
    assert np.isfinite(softmax_start(np.zeros((2, 2)), 1).intercept).all()


@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
def test_hard_targets_equal_logistic_regression(C):
    task = Task(hard=True)
    reference = LogisticRegression(C=C, tol=1e-12, solver="newton-cholesky")
    reference.fit(task.X, task.labels, task.mass)
    fit = task.solve(ridge=np.full(3, 1 / (C * task.mass.sum())))
    assert fit.converged
    expected = SoftmaxFit(reference.coef_, reference.intercept_, 0, True)
    assert_allclose(centred(fit), centred(expected), atol=1e-5)


def test_unpenalised_fit_solves_the_score_equations():
    task = Task(ridge=0.0)
    fit = task.solve()
    proba = softmax(task.X @ fit.coef.T + fit.intercept, axis=1)
    residual = task.targets - proba * task.mass[:, None]
    assert_allclose(residual.T @ task.X, 0.0, atol=1e-5)
    assert_allclose(residual.sum(axis=0), 0.0, atol=1e-5)


def test_inner_standardisation_does_not_move_an_unpenalised_optimum():
    task = Task(ridge=0.0)
    moved = task.solve(center=np.array([1.0, -2.0, 0.5]), scale=np.array([3, 0.2, 1]))
    assert_allclose(centred(moved), centred(task.solve()), atol=1e-5)


def test_penalty_acts_on_scaled_coefficients():
    task = Task(ridge=0.3)
    task.scale = np.array([3.0, 0.2, 1.0])
    task.center = np.array([1.0, -2.0, 0.5])
    fit, rng = task.solve(), np.random.default_rng(0)
    best = task.objective(fit)
    for _ in range(20):
        step = task.point(rng, 1e-2)
        coef, intercept = fit.coef + step.coef, fit.intercept + step.intercept
        assert task.objective(SoftmaxFit(coef, intercept, 0, False)) > best


@pytest.mark.parametrize("form", [sparse.csr_array, sparse.csr_matrix])
def test_csr_equals_dense(form):
    task = Task()
    dense, csr = task.solve(), task.solve(form(task.X))
    assert_allclose(centred(csr), centred(dense), atol=1e-6)


def test_mass_counts_rows():
    task = Task()
    twice = Task()
    for name in ("X", "mass", "targets"):
        setattr(twice, name, np.concatenate([getattr(task, name)] * 2))
    assert_allclose(centred(twice.solve()), centred(task.solve()), atol=1e-6)


@pytest.mark.parametrize("max_iter", [1, 2, 10])
@pytest.mark.parametrize("size", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("ridge", [0.0, 1e-4, 10.0])
def test_never_above_the_start(max_iter, size, ridge):
    for seed in range(4):
        task, rng = Task(seed, ridge=ridge), np.random.default_rng(seed)
        task.scale = 10.0 ** rng.integers(-3, 4, size=3)
        task.center = rng.normal(size=3)
        start = task.point(rng, size)
        before = task.objective(start)
        fit = task.solve(start=start, max_iter=max_iter)
        after = task.objective(fit)
        assert after <= before + 1e-12 * abs(before)


def test_starting_at_the_optimum_stays_there():
    task = Task()
    fit = task.solve()
    again = task.solve(start=fit, tol=1e-6)
    assert again.converged
    assert again.n_iter == 0
    assert again.coef is fit.coef


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_fallback_when_lbfgs_fails(monkeypatch, value):
    def failing(fun, x0, **options):
        return SimpleNamespace(x=x0 + 100, fun=value, nit=3, success=False)

    monkeypatch.setattr(_softmax, "minimize", failing)
    task = Task()
    start = task.point(np.random.default_rng(0))
    fit = task.solve(start=start)
    assert task.objective(fit) < task.objective(start)
    assert not fit.converged
    monkeypatch.setattr(_softmax, "BOHNING_MAX_FEATURES", 2)
    stuck = task.solve(start=start)
    assert task.objective(stuck) == pytest.approx(task.objective(start))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
@pytest.mark.parametrize("as_csr", [False, True], ids=["dense", "csr"])
def test_bohning_step_keeps_the_promise_of_its_bound(seed, size, ridge, as_csr):
    """The bound is a majoriser: f(p + s) <= f(p) + gᵀs / 2 for its minimiser s."""
    task, rng = Task(seed, ridge=ridge), np.random.default_rng(seed)
    task.center, task.scale = rng.normal(size=3), rng.random(3) + 0.2
    fit = task.point(rng, size)
    total = task.mass.sum()
    standard = (task.X - task.center) / task.scale
    scaled = fit.coef * task.scale
    pull = softmax(task.X @ fit.coef.T + fit.intercept, axis=1) * task.mass[:, None]
    pull = (pull - task.targets) / total
    grad = np.column_stack([pull.T @ standard + ridge * scaled, pull.sum(axis=0)])
    step = _bohning_step(
        sparse.csr_array(task.X) if as_csr else task.X,
        task.mass,
        grad.ravel(),
        total,
        task.ridge,
        task.center,
        task.scale,
    )
    table = np.column_stack([scaled, fit.intercept + fit.coef @ task.center])
    table = table + step.reshape(table.shape)
    coef = table[:, :-1] / task.scale
    moved = SoftmaxFit(coef, table[:, -1] - coef @ task.center, 0, False)
    promised = 0.5 * float(grad.ravel() @ step)
    assert promised < 0
    gain = task.objective(moved) - task.objective(fit)
    assert gain <= promised + 1e-10


# -------------------------------------------------------------------- wide tables
@pytest.mark.parametrize("shape", [(20, 300), (60, 40)])
@pytest.mark.parametrize("change", [np.asarray, sparse.csr_array])
def test_ridge_by_rows_is_ridge_by_columns(shape, change):
    random = np.random.RandomState(0)
    n = shape[0]
    X = random.normal(size=shape) * (random.uniform(size=shape) < 0.3) + 0.5
    Y = random.normal(size=(n, 2))
    weights = random.uniform(0.1, 2.0, size=n)
    x_mean, y_mean = weights @ X / weights.sum(), weights @ Y / weights.sum()
    coef = ridge_by_rows(change(X), Y, weights, 0.7, x_mean, y_mean)
    exact = Ridge(alpha=0.7, solver="cholesky").fit(X, Y, weights)
    np.testing.assert_allclose(coef.T, exact.coef_, rtol=1e-8, atol=1e-12)


def test_columns_of_very_different_units_are_left_to_other_ways():
    X = np.random.RandomState(0).normal(size=(5, 9)) * np.geomspace(1, 1e6, 9)
    y = np.ones((5, 1))
    mean = np.zeros(9), np.zeros(1)
    assert ridge_by_rows(X, y, np.ones(5), 1.0, *mean) is None
