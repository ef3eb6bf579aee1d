"""``python -m skmoe`` and the files of a release."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import skmoe
from skmoe import __main__ as self_check

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_self_check_of_this_machine():
    done = subprocess.run(
        [sys.executable, "-W", "error::FutureWarning", "-m", "skmoe"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line}
    assert lines["skmoe"].split()[1] == skmoe.__version__
    assert "R²" in lines["regressor"]
    assert "accuracy" in lines["classifier"]
    assert "kernels and reference differ by" in lines["numba"]
    assert "FAILED" not in done.stdout


def test_a_broken_part_is_told(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(self_check, "CHECKS", {"numba": broken, "cupy": lambda: "idle"})
    assert self_check.main() == 1
    out = capsys.readouterr().out
    assert "FAILED: RuntimeError: no such kernel" in out
    assert "1 of 2 checks failed" in out


def test_kernels_that_differ_fail(monkeypatch):
    # Were the two backends not both asked, or not compared, this would not raise.
    true = skmoe.MoERegressor.predict
    monkeypatch.setattr(
        skmoe.MoERegressor,
        "predict",
        lambda self, X: true(self, X) + (self.backend == "numba"),
    )
    with pytest.raises(AssertionError, match="differ by 1"):
        self_check.check_numba()


def test_package_is_typed_and_versions_agree():
    assert Path(skmoe.__file__).with_name("py.typed").exists()
    citation = ROOT / "CITATION.cff"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    text = citation.read_text("utf-8")
    assert f"version: {skmoe.__version__}\n" in text
    assert f"license: {project['license']}\n" in text
