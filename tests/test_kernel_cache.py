"""Kernels on disk: whatever the folder holds or refuses, they run."""

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numba
import pytest
from numba import njit
from numba.core import caching

import skmoe
from skmoe.backends._numba import _cache

SORT = """
import numpy as np
from skmoe.backends._numba import _kernels, _operations

order, offsets = _operations.expert_major(np.array([[1, -1], [0, 1]]), 2)
assert order.tolist() == [1, 2, 0, 3]
assert offsets.tolist() == [1, 2, 4]
print(_kernels.__file__, type(_kernels.counting_sort._cache).__name__)
"""


@pytest.mark.parametrize("writable", [True, False])
def test_kernels_run_where_nothing_can_be_cached(tmp_path, writable):
    """Numba tries a named folder, the source's own one and the user's."""
    copy = tmp_path / "skmoe"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(skmoe.__file__).parent, copy, ignore=ignore)
    blocked = copy / "backends" / "_numba" / "__pycache__"
    if not writable:
        # Nobody makes a folder where a file is, the superuser included.
        blocked.touch()
    names = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA")
    environment = os.environ | {name: str(blocked / "below") for name in names}
    severity = "error" if writable else "always"
    command = [sys.executable, "-W", severity, "-c", SORT]
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    found = subprocess.run(command, **run)
    assert found.returncode == 0, found.stderr
    file, cache = found.stdout.rsplit(maxsplit=1)
    assert file == str(copy / "backends" / "_numba" / "_kernels.py")
    assert cache == ("TolerantCache" if writable else "NullCache")
    assert any(tmp_path.rglob("*counting_sort*.nbi")) == writable
    if not writable:
        assert found.stderr.count("RuntimeWarning: Compiled kernels") == 1
        assert str(blocked / "below") in found.stderr


def double(x):
    return 2.0 * x


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(_cache, "_told", [])
    return tmp_path


def kernel():
    """Return the kernel as a new process would have it."""
    return _cache.cached(njit(double))


def stored(folder, ending):
    return next(folder.rglob(f"*double*.{ending}"))


def test_kernels_are_kept_on_disk(folder):
    assert kernel()(1.5) == 3.0
    again = kernel()
    assert again(1.5) == 3.0
    assert sum(again.stats.cache_hits.values()) == 1


def torn(content):
    return content[: len(content) // 2]


def emptied(content):
    return b""


def replaced(content):
    return b"text\n" * 40


def damaged(content):
    """One byte of the machine code is another one."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]


HARMS = [
    (ending, harm) for ending in ("nbi", "nbc") for harm in (torn, emptied, replaced)
]


@pytest.mark.parametrize(("ending", "harm"), [*HARMS, ("nbc", damaged)])
def test_files_that_cannot_be_read_are_written_anew(folder, ending, harm):
    kernel()(1.5)
    file = stored(folder, ending)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.warns(RuntimeWarning, match="in memory") as told:
        assert kernel()(1.5) == 3.0
    assert [str(file.parent) in str(each.message) for each in told] == [True]
    _cache._told.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = kernel()
        assert again(1.5) == 3.0
    assert sum(again.stats.cache_hits.values()) == 1


def test_full_disk_is_told_of_once(folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(caching.os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left") as told:
        assert [kernel()(1.5), kernel()(1.5)] == [3.0, 3.0]
    assert len(told) == 1
    assert str(folder) in str(told[0].message)


def test_folder_that_vanishes_is_told_of(folder):
    late = kernel()
    shutil.rmtree(folder)
    folder.touch()  # nobody makes a folder where a file is
    with pytest.warns(RuntimeWarning, match="NUMBA_CACHE_DIR"):
        assert late(1.5) == 3.0
