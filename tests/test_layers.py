"""A module imports only from floors below its own."""

import ast
from pathlib import Path

import pytest

import skmoe

ROOT = Path(skmoe.__file__).parent
FLOORS = {
    "_caller": -1,
    "backends": 0,
    "_frames": 0,
    "_learners": 0,
    "_sklearn_compat": 0,
    "_version": 0,
    "routing": 1,
    "solvers": 1,
    "_axes": 1,
    "likelihoods": 1.5,
    "predictive": 2,
    "gates": 2,
    "experts": 2,
    "em": 3,
    "estimators": 4,
    "pipeline": 4.5,
    "inspection": 5,
    "metrics": 5,
    "onnx": 5,
    "packing": 5,
    "persistence": 5,
    "": 5,  # the face
}
MODULES = sorted(ROOT.rglob("*.py"))


def package_of(module: Path) -> str:
    first = module.relative_to(ROOT).parts[0].removesuffix(".py")
    return "" if first in ("__init__", "__main__") else first


def imported(module: Path) -> set[str]:
    """Return the parts of skmoe that a module imports."""
    here = ("skmoe", *module.relative_to(ROOT).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found |= {name[1] for name in names if name[0] == "skmoe" and len(name) > 1}
    return found & set(FLOORS)


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_point_down(module):
    own = package_of(module)
    for other in imported(module) - {own}:
        assert FLOORS[other] < FLOORS[own], f"{own or 'the face'} imports {other}"


def test_every_package_has_a_floor():
    assert {package_of(module) for module in MODULES} == set(FLOORS)


def test_private_scikit_learn_names_stay_in_one_file():
    for module in MODULES:
        if module.name in ("_sklearn_compat.py", "_compat.py"):
            continue
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "sklearn"
            ):
                parts = [*node.module.split("."), *(a.name for a in node.names)]
                private = [p for p in parts if p.startswith("_")]
                assert not private, f"{module.name} imports {private}"


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, skmoe; "
        "sys.exit(any(m in sys.modules for m in ('numba', 'cupy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
