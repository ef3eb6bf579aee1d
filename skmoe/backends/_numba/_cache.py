"""Compiled kernels on disk, which may be full, read-only, or hold torn files.

If Numba fails there, kernels are compiled in memory, and one warning says so.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from os.path import dirname, join
from pickle import Unpickler
from typing import Any

from numba import config
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.serialize import dumps

from ..._caller import level_of_caller

_told: list[str] = []
"""The folder of the warning, which is given once per process."""


class Sealed(CompileResultCacheImpl):
    """A stored kernel with a digest, since damaged machine code may crash."""

    def reduce(self, data: Any) -> tuple[bytes, bytes]:
        """Return the digest and the bytes of a compiled kernel."""
        stored = dumps(super().reduce(data))
        return sha256(stored).digest(), stored

    def rebuild(self, target_context: Any, reduced_data: tuple[bytes, bytes]) -> Any:
        """Return the kernel; raise ValueError if its bytes have changed."""
        digest, stored = reduced_data
        if sha256(stored).digest() != digest:
            raise ValueError("the stored kernel is damaged")
        return super().rebuild(target_context, Unpickler(BytesIO(stored)).load())


class TolerantCache(FunctionCache):
    """Numba's cache of one function; a folder that fails counts as empty."""

    _impl_class = Sealed

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the stored kernel, None if none can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:
            tell(self.cache_path, error)
            with suppress(OSError):
                self.flush()  # so that the kernel is stored anew
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store a kernel if the folder takes it."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            tell(self.cache_path, error)


def cached(kernel: Any) -> Any:
    """Return a Numba kernel that is kept on disk wherever that is possible."""
    try:
        kernel._cache = TolerantCache(kernel.py_func)
    except RuntimeError as error:  # Numba finds no folder that it can write to
        beside = join(dirname(__file__), "__pycache__")
        tell(config.CACHE_DIR or beside, error)  # type: ignore[attr-defined]
    return kernel


def tell(folder: str, error: Exception) -> None:
    """Warn that the kernels of this process are neither kept on disk nor read."""
    if _told:
        return
    _told.append(folder)
    warnings.warn(
        f"Compiled kernels cannot be kept in the folder {folder!r}: "
        f"{type(error).__name__}: {error}. They are compiled in memory instead, which "
        "takes some seconds in each process. Make room in the folder or empty it, or "
        "let the environment variable NUMBA_CACHE_DIR name one that can be written.",
        RuntimeWarning,
        stacklevel=level_of_caller(),
    )
