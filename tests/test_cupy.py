"""The CuPy backend: its kernels on the host, under nvcc, and on a device.

Where there is no device NumPy stands for CuPy, and the kernels' own text, built as C++,
runs behind the same launch: so all operations are compared with the reference.
"""

import ctypes
import inspect
import re
import shutil
import subprocess
import sys
import time
import types
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skmoe import MoEClassifier, MoERegressor, backends
from skmoe.backends import _cupy, _reference, to_host
from skmoe.backends._cupy import _device, _operations

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
PRELUDE = r"""
#include <cmath>
#include <utility>
using std::exp;
using std::log;
#define __global__ static
#define __device__
static struct { unsigned x; } blockIdx, blockDim, threadIdx;
"""

RUN = r"""
template <typename... P, std::size_t... I>
void run(void (*kernel)(P...), unsigned n_blocks, unsigned n_threads, void **args,
         std::index_sequence<I...>)
{
    blockDim.x = n_threads;
    for (blockIdx.x = 0; blockIdx.x < n_blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < n_threads; ++threadIdx.x)
            kernel(*static_cast<P *>(args[I])...);
}

template <typename... P>
void run(void (*kernel)(P...), unsigned n_blocks, unsigned n_threads, void **args)
{
    run(kernel, n_blocks, n_threads, args, std::index_sequence_for<P...>());
}
"""


def symbol(instance):
    return re.sub(r"\W+", "_", instance)


def kernel_names():
    return _device.instances(_device.SOURCE.read_text())


# ------------------------------------------------------------- NumPy in CuPy's place
@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """Return the kernels, built for the host."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernels")
    exports = [
        f'extern "C" void {symbol(name)}(unsigned n, unsigned size, void **args)\n'
        f"{{ run({name}, n, size, args); }}"
        for name in kernel_names()
    ]
    text = [PRELUDE, f'#include "{_device.SOURCE}"', RUN, *exports]
    source, built = folder / "host.cpp", folder / "host.so"
    source.write_text("\n".join(text))
    flags = ["-std=c++14", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, *flags, str(source), "-o", str(built)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return ctypes.CDLL(str(built))


class HostModule:
    """What `RawModule` offers, as far as the backend goes."""

    def __init__(self, library):
        self.library, self.launched, self.devices = library, [], []

    def get_function(self, name):
        function = getattr(self.library, symbol(name))

        def kernel(grid, block, args):
            self.launched.append(name)
            held = [self.word(value) for value in args]
            pointers = (ctypes.c_void_p * len(held))(
                *(ctypes.cast(ctypes.pointer(word), ctypes.c_void_p) for word in held)
            )
            function(*grid, *block, pointers)

        return kernel

    def current(self, array):
        self.devices.append(array)
        return nullcontext()

    @staticmethod
    def word(value):
        if isinstance(value, int):
            return ctypes.c_longlong(value)
        assert value.flags.c_contiguous
        assert value.dtype.name in _device.C_TYPES
        return ctypes.c_void_p(value.ctypes.data)


@pytest.fixture
def full_size(library, monkeypatch):
    """Put NumPy and the host's kernels behind the operations."""
    module, xp = HostModule(library), types.SimpleNamespace(**vars(np))
    monkeypatch.setattr(_device, "xp", lambda: xp)
    monkeypatch.setattr(_device, "module", lambda: module)
    monkeypatch.setattr(_device, "current", module.current)
    return module


@pytest.fixture
def host(full_size, monkeypatch):
    """Make all blocks small as well, so that there are several."""
    monkeypatch.setattr(_device, "THREADS", 4)
    monkeypatch.setattr(_operations, "BLOCK_ELEMENTS", 30)
    monkeypatch.setattr(_operations, "SUM_ROWS", 2)
    monkeypatch.setattr(_operations, "PARTIAL_SUMS", 50)
    return full_size


# ---------------------------------------------------------------------------- inputs
SHAPES = {  # n, d, K, m, q
    "random": (23, 4, 5, 3, 2),
    "one row": (1, 3, 4, 2, 1),
    "one expert": (9, 2, 1, 1, 2),
    "many experts": (11, 2, 40, 4, 3),
    "no rows": (0, 3, 4, 2, 2),
}
SCORES = ("random", "tied", "extreme", "masked", "dead", "nan")


def scores_of(kind, n, m, rng):
    """Return (n, m) logits of a kind."""
    scores = rng.normal(size=(n, m))
    if kind == "tied":
        scores = rng.integers(0, 2, size=(n, m)).astype(float)
    elif kind == "extreme":
        scores = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=(n, m))
    elif kind in ("masked", "dead", "nan"):
        scores[rng.random((n, m)) < 0.6] = -np.inf
        scores[::3] = (
            rng.normal(size=scores[::3].shape) if kind == "masked" else -np.inf
        )
    if kind == "nan":
        scores[rng.random((n, m)) < 0.3] = np.nan
    return scores


def gate_of(kind, n, d, n_experts, rng):
    """Return X, coef and intercept whose logits are of a kind."""
    X, coef = rng.normal(size=(n, d)), rng.normal(size=(n_experts, d))
    intercept = rng.normal(size=n_experts)
    if kind == "tied":  # whole numbers, whose sums are exact in any order
        X, coef = np.rint(3.0 * X), np.rint(3.0 * coef)
        coef[:], intercept[:] = coef[0], 0.5
    elif kind == "extreme":
        X, coef = np.sign(X), np.zeros_like(coef)
        coef[:, 0] = 700.0 * rng.choice([-1.0, 0.0, 1.0], size=n_experts)
    elif kind == "masked":
        intercept[1::2] = -np.inf
    elif kind == "dead":
        intercept[:] = -np.inf
    elif kind == "nan":
        X[::2, 0] = np.nan
    return X, coef, intercept


def entries_of(n, n_experts, m, rng):
    """Return indices with gaps and, where there are enough, empty experts."""
    indices = rng.integers(-1, max(1, n_experts - 1), size=(n, m))
    return indices.astype(np.int64)


class Problem:
    """Inputs of every operation for a shape and a kind, floats in one dtype."""

    def __init__(self, shape, kind, dtype, seed=0):
        rng = np.random.default_rng(seed)
        self.n, self.d, self.n_experts, self.m, self.q = SHAPES[shape]
        self.kind, self.dtype, self.rng = kind, dtype, rng
        self.indices = entries_of(self.n, self.n_experts, self.m, rng)

    def floats(self, *arrays):
        return [np.asarray(array, dtype=self.dtype) for array in arrays]

    def normal(self, *shape):
        return self.rng.normal(size=shape).astype(self.dtype)

    def gate(self):
        X, coef, intercept = gate_of(
            self.kind, self.n, self.d, self.n_experts, self.rng
        )
        return *self.floats(X), coef, intercept

    def pool(self):
        shape = self.n_experts, self.q, self.d
        coef, intercept = self.rng.normal(size=shape), self.rng.normal(size=shape[:2])
        if self.kind == "extreme":
            intercept *= 700.0
        elif self.kind == "masked":
            intercept[:, 1::2] = -np.inf
        X = self.normal(self.n, self.d)
        if self.kind == "nan":
            X[::2, 0] = np.nan
        return X, coef, intercept

    def weights(self, *shape):
        return self.rng.random(shape).astype(self.dtype)

    def order(self):
        return _reference.expert_major(self.indices, self.n_experts)

    def counts(self, most):
        return sorted({k for k in (1, 2, 3, most) if k <= most})


def softmax_route(p):
    return [(*p.gate(), k) for k in p.counts(p.n_experts)]


def softmax_survey(p):
    return [(*p.gate(), p.indices, k) for k in p.counts(p.n_experts)]


def softmax_loss(p):
    X, coef, intercept = p.gate()
    sums = p.rng.random((p.n_experts, p.d + 1))
    if p.kind == "masked":  # -inf times a target is no loss
        intercept = np.where(np.isfinite(intercept), intercept, -700.0)
    return [(X, p.rng.random(p.n), sums, coef, intercept)]


def linear_at(p):
    X, coef, intercept = p.pool()
    return [(X, indices, coef, intercept) for indices in (p.indices, None)]


def linear_mix(p):
    X, coef, intercept = p.pool()
    some, every = p.weights(p.n, p.m), p.weights(p.n, p.n_experts)
    return [(X, p.indices, some, coef, intercept), (X, None, every, coef, intercept)]


def softmax_at(p):
    X, coef, intercept = p.pool()
    labels = p.rng.integers(0, p.q, size=p.n)
    return [(X, labels, indices, coef, intercept) for indices in (p.indices, None)]


def normal_log_density(p):
    y, scale = p.normal(p.n, p.q), 0.1 + p.rng.random((p.n_experts, p.q))
    if p.kind == "nan":
        y[::2] = np.nan
    some, every = p.normal(p.n, p.m, p.q), p.normal(p.n, p.n_experts, p.q)
    return [(y, some, scale, p.indices), (y, every, scale, None)]


def truncate(p):
    (scores,) = p.floats(scores_of(p.kind, p.n, p.n_experts, p.rng))
    return [(scores, k) for k in p.counts(p.n_experts)]


def novel(p):
    more = p.rng.integers(-1, p.n_experts, size=(p.n, 4))
    return [(p.indices, more), (p.indices.astype(np.int32), more.astype(np.int32))]


def sum_by_expert(p):
    some = p.weights(p.n, p.m)
    return [(some, *p.order()), (p.weights(p.n, p.n_experts), None, None)]


def segment_sums(p):
    return [(p.normal(p.n, p.d), p.weights(p.n, p.m), *p.order())]


def gram(p):
    X, Y, rows = p.normal(p.n, p.d), p.normal(p.n, p.q), np.arange(0, p.n, 2)
    return [
        (X, Y, p.weights(p.n)),
        (X, Y, p.weights(len(rows)), rows),
        (X, Y, np.zeros(p.n)),
    ]


CASES = {
    "gram": gram,
    "linear_at": linear_at,
    "linear_mix": linear_mix,
    "normal_log_density": normal_log_density,
    "novel": novel,
    "segment_sums": segment_sums,
    "softmax_at": softmax_at,
    "softmax_loss": softmax_loss,
    "softmax_mix": linear_mix,
    "softmax_route": softmax_route,
    "softmax_survey": softmax_survey,
    "sum_by_expert": sum_by_expert,
    "top_k": truncate,
    "truncate": truncate,
}


def assert_same(found, expected, tolerance):
    """Compare answers of an operation: tuples, arrays or lists of floats."""
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, tolerance)
        return
    found, expected = to_host(found), to_host(expected)
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
    if np.asarray(expected).dtype.kind == "i":
        assert_array_equal(found, expected)
    else:
        scale = np.max(np.abs(expected), initial=1.0, where=np.isfinite(expected))
        assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def expected_of(name, args):
    with np.errstate(all="ignore"):  # the reference warns of what the tests ask
        return getattr(_reference, name)(*args)


# ------------------------------------------------------------------- the host's tests
def overridden():
    return [
        name
        for name in _cupy.__all__
        if getattr(_cupy, name) is not getattr(_reference, name)
    ]


def test_all_of_the_contract_is_there():
    functions = [n for n in _reference.__all__ if callable(getattr(_reference, n))]
    assert _cupy.__all__ == functions
    for name in functions:
        own, plain = getattr(_cupy, name), getattr(_reference, name)
        assert inspect.signature(own) == inspect.signature(plain)


def test_all_that_is_overridden_is_compared():
    assert overridden() == sorted(CASES)
    made = {name.split("<")[0] for name in kernel_names()}
    assert made < set(overridden())


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CASES)
def test_operation_is_the_references(host, name, shape, kind, dtype):
    for args in CASES[name](Problem(shape, kind, dtype)):
        with np.errstate(all="ignore"):
            found = getattr(_cupy, name)(*args)
        assert_same(found, expected_of(name, args), TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
def test_operation_uses_its_kernel(host, name):
    for args in CASES[name](Problem("random", "random", "float32")):
        getattr(_cupy, name)(*args)
        assert host.devices[0] is args[0]
        host.devices.clear()
    assert name == "gram" or any(name in launched for launched in host.launched)


@pytest.mark.parametrize("name", CASES)
def test_operation_on_blocks_of_a_devices_size(full_size, monkeypatch, name):
    monkeypatch.setitem(SHAPES, "long", (3001, 5, 6, 2, 3))
    for args in CASES[name](Problem("long", "random", "float32")):
        found = getattr(_cupy, name)(*args)
        assert_same(found, expected_of(name, args), TOLERANCE["float32"])


@pytest.mark.parametrize("name", CASES)
def test_operation_takes_any_strides(host, name):
    def strided(value):
        if not isinstance(value, np.ndarray) or value.ndim < 2:
            return value
        return np.repeat(np.asfortranarray(value), 2, axis=0)[::2]

    for args in CASES[name](Problem("random", "random", "float64")):
        found = getattr(_cupy, name)(*map(strided, args))
        assert_same(found, expected_of(name, args), 1e-10)


@pytest.mark.parametrize("name", sorted(set(CASES) - {"novel"}))
def test_other_dtypes_go_to_the_reference(host, name):
    args = CASES[name](Problem("random", "random", "float64"))[0]
    args = (args[0].astype(np.float16), *args[1:])
    assert_same(getattr(_cupy, name)(*args), expected_of(name, args), 1e-10)
    assert host.launched == []


def test_csr_goes_to_the_reference(host):
    X, *rest = softmax_route(Problem("random", "random", "float64"))[0]
    found = _cupy.softmax_route(sparse.csr_array(X), *rest)
    assert_same(found, _reference.softmax_route(X, *rest), 1e-10)
    assert host.launched == []


class Other(np.ndarray):
    """An array of another library."""


def test_arrays_on_the_host_are_not_moved(host, monkeypatch):
    X, indices, *rest = linear_at(Problem("random", "random", "float64"))[0]
    monkeypatch.setattr(_device.xp(), "ndarray", Other)
    with pytest.raises(TypeError, match="beside an array on the device"):
        _cupy.linear_at(X.view(Other), indices, *rest)
    assert host.launched == []


def test_counts_may_be_numpys(host):
    X, coef, intercept, k = softmax_route(Problem("random", "tied", "float32"))[1]
    found = _cupy.softmax_route(X, coef, intercept, np.int32(k))
    assert_same(found, _reference.softmax_route(X, coef, intercept, k), 1e-5)


def test_arrays_of_another_library_go_to_the_reference(host, monkeypatch):
    monkeypatch.setattr(_device.xp(), "ndarray", Other)
    args = truncate(Problem("random", "random", "float64"))[0]
    assert_same(_cupy.truncate(*args), _reference.truncate(*args), 0.0)
    assert host.launched == []


def test_sums_are_in_float64(host):
    values = np.ones((3, 1), dtype=np.float32)
    values[0] = 2.0**24  # float32 cannot hold 2**24 + 1
    indices = np.zeros((3, 1), dtype=np.int64)
    order = _reference.expert_major(indices, 1)
    assert _cupy.sum_by_expert(values, *order) == [2.0**24 + 2]
    assert _cupy.segment_sums(values, np.ones((3, 1)), *order)[0, 0] == 2.0**24 + 2


# ------------------------------------------------------------------------------- nvcc
@pytest.mark.parametrize("arch", [70, 80, 90])
def test_kernels_compile_for_a_device(arch, tmp_path):
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    if f"compute_{arch}" not in listed.stdout.split():
        pytest.skip(f"nvcc does not list compute_{arch}")
    # Taking a kernel's address makes its instance.
    table = ", ".join(f"(void *){name}" for name in kernel_names())
    source, built = tmp_path / "all.cu", tmp_path / "all.cubin"
    source.write_text(f'#include "{_device.SOURCE}"\nvoid *kernels[] = {{{table}}};\n')
    command = [nvcc, "-std=c++14", f"-arch=sm_{arch}", "-Werror", "all-warnings"]
    command += ["-cubin", str(source), "-o", str(built)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    text = built.read_bytes()
    assert all(name.split("<")[0].encode() in text for name in kernel_names())


# ---------------------------------------------------------------------------- require
class DriverError(RuntimeError):
    pass


def fake_cupy(count):
    runtime = types.SimpleNamespace(getDeviceCount=count, CUDARuntimeError=DriverError)
    fake = types.ModuleType("cupy")
    fake.cuda = types.SimpleNamespace(runtime=runtime)
    return fake


def test_require_without_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"not installed.*pip install skmoe\[gpu\]"):
        _device.require()


def test_require_without_driver(monkeypatch):
    def count():
        raise DriverError("cudaErrorInsufficientDriver: too old")

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(count))
    with pytest.raises(RuntimeError, match=r"too old\. Install .*backend='numba'"):
        _device.require()


def test_require_without_device(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 0))
    with pytest.raises(RuntimeError, match=r"lists none\. Install .*backend='numba'"):
        _device.require()


def test_require_returns_cupy(monkeypatch):
    fake = fake_cupy(lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    assert _device.require() is fake


def test_import_takes_no_cupy():
    code = (
        "import sys, skmoe.backends._cupy; "
        "sys.exit('cupy' in sys.modules or 'numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ------------------------------------------------------------------------- the device
@pytest.fixture
def cupy():
    """Return CuPy where there is a device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CuPy warns where it finds no CUDA folder
        try:
            return _device.require()
        except (ImportError, RuntimeError) as error:
            pytest.skip(str(error))


def put(cupy, args):
    return [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("name", CASES)
def test_operation_on_the_device(cupy, name, kind, dtype):
    for shape in SHAPES:
        for args in CASES[name](Problem(shape, kind, dtype)):
            found = getattr(_cupy, name)(*put(cupy, args))
            assert_same(found, expected_of(name, args), TOLERANCE[dtype])


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_speed_on_the_device(cupy, name, monkeypatch, capsys):
    """Print how many times faster than the reference an operation is."""
    monkeypatch.setitem(SHAPES, "large", (200_000, 32, 64, 2, 4))
    args = put(cupy, CASES[name](Problem("large", "random", "float32"))[0])

    def seconds(operation):
        operation(*args)
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        operation(*args)
        cupy.cuda.Device().synchronize()
        return time.perf_counter() - start

    fused, plain = (seconds(getattr(ops, name)) for ops in (_cupy, _reference))
    with capsys.disabled():
        print(f"\n{name}: {1e3 * fused:.2f} ms, {plain / fused:.1f} times faster")


# ------------------------------------------------------------------- whole mixtures
@pytest.mark.filterwarnings("ignore:EM stopped")
@pytest.mark.parametrize("classify", [False, True], ids=["regressor", "classifier"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_a_mixture_is_trained_by_the_kernels(host, monkeypatch, classify, top_k):
    monkeypatch.setattr(backends, "_load_numba", lambda: _cupy)
    monkeypatch.setattr(_device, "THREADS", 256)
    monkeypatch.setattr(_operations, "BLOCK_ELEMENTS", 1 << 12)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = np.where(X[:, 0] > 0, X[:, 1], -X[:, 2]) + 0.1 * rng.normal(size=200)
    kind, y = (MoEClassifier, y > 0) if classify else (MoERegressor, y)
    options = {"n_experts": 4, "top_k": top_k, "n_init": 2, "max_iter": 4}
    options |= {"cross_fit": None, "random_state": 0}
    plain = kind(backend="numpy", **options).fit(X, y)
    assert not host.launched
    ours = kind(backend="numba", **options).fit(X, y)
    assert host.launched
    assert_allclose(ours.lower_bounds_, plain.lower_bounds_, atol=1e-6)
    assert_allclose(ours.score_samples(X, y), plain.score_samples(X, y), atol=1e-3)
