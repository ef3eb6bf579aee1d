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
from _problems import CASES, TOLERANCE, Problem, assert_same, edges, quiet
from numpy.testing import assert_allclose
from scipy import sparse

from skmoe import MoEClassifier, MoERegressor, backends
from skmoe.backends import _cupy, _reference
from skmoe.backends._cupy import _device, _operations

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


# ------------------------------------------------------------------- the host's tests
OVERRIDDEN = [
    name
    for name in _cupy.__all__
    if getattr(_cupy, name) is not getattr(_reference, name)
]


def expected_of(name, args):
    return quiet(getattr(_reference, name), *args)


def test_all_of_the_contract_is_there():
    functions = [n for n in _reference.__all__ if callable(getattr(_reference, n))]
    assert _cupy.__all__ == functions
    for name in functions:
        own, plain = getattr(_cupy, name), getattr(_reference, name)
        assert inspect.signature(own) == inspect.signature(plain)


def test_all_that_is_overridden_is_compared():
    assert len(OVERRIDDEN) == 14
    assert set(OVERRIDDEN) < set(CASES)
    made = {name.split("<")[0] for name in kernel_names()}
    assert made < set(OVERRIDDEN)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_is_the_references(host, name, dtype):
    for p in edges(dtype):
        for args in CASES[name](p):
            answer = quiet(getattr(_cupy, name), *args)
            assert_same(name, p, answer, expected_of(name, args))


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_uses_its_kernel(host, name):
    for args in CASES[name](Problem(dtype="float32")):
        getattr(_cupy, name)(*args)
        assert host.devices[0] is args[0]
        host.devices.clear()
    assert name == "gram" or any(name in launched for launched in host.launched)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_on_blocks_of_a_devices_size(full_size, name):
    p = Problem(n=3001, d=5, K=6, m=2, q=3, dtype="float32")
    for args in CASES[name](p):
        answer = getattr(_cupy, name)(*args)
        assert_same(name, p, answer, expected_of(name, args))


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_takes_any_strides(host, name):
    def strided(value):
        if not isinstance(value, np.ndarray) or value.ndim < 2:
            return value
        return np.repeat(np.asfortranarray(value), 2, axis=0)[::2]

    p = Problem()
    for args in CASES[name](p):
        answer = getattr(_cupy, name)(*map(strided, args))
        assert_same(name, p, answer, expected_of(name, args))


@pytest.mark.parametrize("name", sorted(set(OVERRIDDEN) - {"novel"}))
def test_other_dtypes_go_to_the_reference(host, name):
    p = Problem()
    first, *rest = CASES[name](p)[0]
    args = first.astype(np.float16), *rest
    assert_same(name, p, getattr(_cupy, name)(*args), expected_of(name, args))
    assert host.launched == []


def test_csr_goes_to_the_reference(host):
    name, p = "softmax_route", Problem()
    X, *rest = CASES[name](p)[0]
    answer = _cupy.softmax_route(sparse.csr_array(X), *rest)
    assert_same(name, p, answer, expected_of(name, (X, *rest)))
    assert host.launched == []


class Other(np.ndarray):
    """An array of another library."""


def test_arrays_on_the_host_are_not_moved(host, monkeypatch):
    X, indices, *rest = CASES["linear_at"](Problem())[0]
    monkeypatch.setattr(_device.xp(), "ndarray", Other)
    with pytest.raises(TypeError, match="beside an array on the device"):
        _cupy.linear_at(X.view(Other), indices, *rest)
    assert host.launched == []


def test_counts_may_be_numpys(host):
    name, p = "softmax_route", Problem(kind="tied", dtype="float32", k=2)
    *gate, k = CASES[name](p)[0]
    answer = _cupy.softmax_route(*gate, np.int32(k))
    assert_same(name, p, answer, expected_of(name, (*gate, k)))


def test_arrays_of_another_library_go_to_the_reference(host, monkeypatch):
    monkeypatch.setattr(_device.xp(), "ndarray", Other)
    name, p = "truncate", Problem()
    args = CASES[name](p)[0]
    assert_same(name, p, _cupy.truncate(*args), expected_of(name, args), factor=0.0)
    assert host.launched == []


def test_sums_are_in_float64(host):
    values = np.ones((3, 1), dtype=np.float32)
    values[0] = 2.0**24  # float32 cannot hold 2**24 + 1
    indices = np.zeros((3, 1), dtype=np.int64)
    order = _reference.expert_major(indices, 1)
    assert _cupy.sum_by_expert(values, *order) == [2.0**24 + 2]
    assert _cupy.segment_sums(values, np.ones((3, 1)), *order)[0, 0] == 2.0**24 + 2


# ------------------------------------------------------------------------------- nvcc
def test_kernels_compile_for_the_oldest_device(tmp_path):
    """Nothing in their text asks for the architecture, so newer ones take it too."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True)
    listed = map(int, re.findall(r"compute_(\d+)\b", listed.stdout))
    arch = min(number for number in listed if number >= 70)
    assert "__CUDA_ARCH__" not in _device.SOURCE.read_text()
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
@pytest.mark.parametrize("name", OVERRIDDEN)
def test_operation_on_the_device(cupy, name, dtype):
    for p in edges(dtype):
        for args in CASES[name](p):
            answer = getattr(_cupy, name)(*put(cupy, args))
            assert_same(name, p, answer, expected_of(name, args))


@pytest.mark.gpu
@pytest.mark.parametrize("name", OVERRIDDEN)
def test_speed_on_the_device(cupy, name, capsys):
    """Print how many times faster than the reference an operation is."""
    p = Problem(n=200_000, d=32, K=64, m=2, q=4, dtype="float32")
    args = put(cupy, CASES[name](p)[0])

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
@pytest.mark.parametrize(
    ("kind", "top_k"),
    [
        (MoERegressor, None),
        (MoERegressor, 1),
        (MoEClassifier, 2),
    ],
)
def test_a_mixture_is_trained_by_the_kernels(host, monkeypatch, kind, top_k):
    monkeypatch.setattr(backends, "_load_numba", lambda: _cupy)
    monkeypatch.setattr(_device, "THREADS", 256)
    monkeypatch.setattr(_operations, "BLOCK_ELEMENTS", 1 << 12)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 3))
    y = np.where(X[:, 0] > 0, X[:, 1], -X[:, 2]) + 0.1 * rng.normal(size=200)
    y = y > 0 if kind is MoEClassifier else y
    options = {"n_experts": 4, "top_k": top_k, "n_init": 2, "max_iter": 4}
    options |= {"cross_fit": None, "random_state": 0}
    plain = kind(backend="numpy", **options).fit(X, y)
    assert not host.launched
    ours = kind(backend="numba", **options).fit(X, y)
    assert host.launched
    assert_allclose(ours.lower_bounds_, plain.lower_bounds_, atol=1e-6)
    assert_allclose(ours.score_samples(X, y), plain.score_samples(X, y), atol=1e-3)
