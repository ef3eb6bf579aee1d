"""``python -m skmoe``: versions, and a self-check of a few seconds.

It fits a small regressor and a small classifier, compares compiled kernels with their
specification, and tells whether CuPy can compute. The exit status is 0 if everything
that is installed works. A missing GPU is not an error.
"""

import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable

import numpy as np

from . import MoEClassifier, MoERegressor, __version__

PACKAGES = (
    "scikit-learn",
    "numpy",
    "scipy",
    "numba",
    "joblib",
    "threadpoolctl",
    "cupy-cuda12x",
    "skl2onnx",
    "dask",
    "matplotlib",
)


def versions() -> dict[str, str]:
    """Return the versions of skmoe, Python and what skmoe may use."""
    versions_by_name = {"skmoe": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions_by_name[package] = "not installed"
    return versions_by_name


def two_lines(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of |x|, which two linear experts fit."""
    X = np.random.default_rng(0).uniform(-3, 3, (n, 2))
    return X, np.abs(X[:, 0])


def check_regressor() -> str:
    """Fit and predict two lines; raise unless R² is above 0.98."""
    X, y = two_lines()
    model = MoERegressor(n_experts=2, n_init=2, random_state=0).fit(X, y)
    score = model.score(X, y)
    if not score > 0.98:
        raise AssertionError(f"R² is {score:.3f}, not above 0.98")
    return f"R² {score:.3f}"


def check_classifier() -> str:
    """Fit and predict an exclusive or, which two logistic experts tell apart."""
    X, _ = two_lines()
    labels = np.where((X[:, 0] > 0) == (X[:, 1] > 0), "same", "different")
    model = MoEClassifier(n_experts=2, n_init=2, random_state=0).fit(X, labels)
    score = model.score(X, labels)
    if not score > 0.95:
        raise AssertionError(f"accuracy is {score:.3f}, not above 0.95")
    return f"accuracy {score:.3f}"


def check_numba() -> str:
    """Raise unless kernels and specification predict and route alike."""
    X, y = two_lines()
    model = MoERegressor(n_experts=4, n_init=1, cross_fit=None, max_iter=5, tol=1.0)
    model.set_params(random_state=0, backend="numpy").fit(X, y)
    answers = {}
    for backend in ("numpy", "numba"):
        model.set_params(backend=backend)
        answers[backend] = model.predict(X), model.gate_proba(X)
    apart = max(np.abs(a - b).max() for a, b in zip(*answers.values(), strict=True))
    if not apart < 1e-10:
        raise AssertionError(f"kernels and reference differ by {apart:.1e}")
    return f"kernels and reference differ by {apart:.0e}"


def cupy_state() -> str:
    """Tell whether CuPy is installed, finds a device and computes as NumPy does."""
    try:
        import cupy
    except ImportError:
        return "not installed, CPU only"
    try:
        cupy.zeros(1)
    except Exception as error:  # which one depends on driver and version
        return f"installed, but no device ({type(error).__name__})"
    X, y = two_lines()
    model = MoERegressor(n_experts=2, n_init=1, random_state=0).fit(X, y)
    there = cupy.asnumpy(model.predict(cupy.asarray(X)))
    np.testing.assert_allclose(there, model.predict(X), rtol=1e-8, atol=1e-8)
    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return f"works on {name}"


CHECKS: dict[str, Callable[[], str]] = {
    "regressor": check_regressor,
    "classifier": check_classifier,
    "numba": check_numba,
    "cupy": cupy_state,
}


def main() -> int:
    """Print versions and the outcome of each check; return the exit status."""
    for name, version in versions().items():
        print(f"{name:14}{version}")
    print()
    failed = 0
    for name, check in CHECKS.items():
        started = time.perf_counter()
        try:
            outcome = check()
        except Exception as error:  # a self-check reports whatever is broken
            failed += 1
            outcome = f"FAILED: {type(error).__name__}: {error}"
        print(f"{name:14}{outcome} ({time.perf_counter() - started:.1f} s)", flush=True)
    print(f"\n{failed} of {len(CHECKS)} checks failed" if failed else "\nall is well")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
