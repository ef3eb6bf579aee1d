"""The link to CuPy: its module, its arrays, and launches of our kernels.

The kernels are CUDA C in one file, which NVRTC compiles at first use; CuPy keeps the
result on disk. CuPy compiles its own operations with NVRTC too, so nothing more has to
be installed, while numba.cuda would be a second toolchain. And the text is plain enough
to build as C++ for the host, so that the kernels themselves are tested without a
device. The first call that needs CuPy imports it.
"""

from __future__ import annotations

import functools
import re
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

from .._compat import Array

SOURCE = Path(__file__).with_name("kernels.cu")

THREADS = 256
"""Threads of a CUDA block."""

C_TYPES = {"float32": "float", "float64": "double", "int64": "long long"}

INSTANCES = {"T": ("float", "double"), "I": ("long long",)}
"""C types for which a template is compiled, by the letter of its parameter."""

INSTALL = "Install it with `pip install skmoe[gpu]` or choose backend='numba'."
DRIVER = "Install an NVIDIA driver that fits CuPy, or choose backend='numba'."


def require() -> ModuleType:
    """Return CuPy, or raise an error that names what is missing and the remedy."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        message = f"backend='cupy' needs CuPy, which is not installed. {INSTALL}"
        raise ImportError(message) from error
    runtime = cupy.cuda.runtime
    try:
        if runtime.getDeviceCount() > 0:
            return cupy
        problem = "the driver lists none"
    except runtime.CUDARuntimeError as error:
        problem = str(error)
    message = f"backend='cupy' needs a CUDA device, and there is none: {problem}. "
    raise RuntimeError(message + DRIVER)


@functools.cache
def xp() -> ModuleType:
    """Return the array library of the device."""
    return require()


def serves(array: Array, dtypes: tuple[str, ...]) -> bool:
    """Tell whether an array is on a device and has one of the dtypes."""
    return isinstance(array, xp().ndarray) and array.dtype.name in dtypes


def current(array: Array) -> AbstractContextManager:
    """Return a context in which new arrays and launches go to the array's device."""
    return array.device


def instances(source: str) -> list[str]:
    """Return the kernels of a text, with the types to compile them for."""
    kernels = re.findall(r"template <typename (\w)>\s+__global__ void (\w+)", source)
    return [f"{name}<{c}>" for letter, name in kernels for c in INSTANCES[letter]]


@functools.cache
def module() -> Any:
    """Return the compiled kernels."""
    source = SOURCE.read_text()
    names = tuple(instances(source))
    return xp().RawModule(code=source, options=("-std=c++14",), name_expressions=names)


def launch(name: str, n_threads: int, *args: Any) -> None:
    """Run the kernel for the dtype of its first argument.

    Parameters
    ----------
    name : str
        The kernel, without its type.
    n_threads : int
        Number of threads, which is also the kernel's first argument.
    *args : contiguous device arrays, int or None
        The other arguments. None becomes a null pointer.
    """
    if n_threads == 0:
        return
    kernel = module().get_function(f"{name}<{C_TYPES[args[0].dtype.name]}>")
    # CuPy passes a Python int as 64 bits, but a NumPy int by its dtype.
    words = (a if isinstance(a, xp().ndarray) else int(a or 0) for a in args)
    kernel((-(-n_threads // THREADS),), (THREADS,), (n_threads, *words))
