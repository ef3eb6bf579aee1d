"""A module imports only from floors below its own, and nothing in a circle."""

import ast
from graphlib import TopologicalSorter
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
    "_bins": 0.5,
    "routing": 1,
    "solvers": 1.25,
    "_axes": 1,
    "likelihoods": 1.5,
    "predictive": 2,
    "gates": 2,
    "experts": 2,
    "em": 3,
    "estimators": 4,
    "pipeline": 4.5,
    "dask": 5,
    "inspection": 5,
    "metrics": 5,
    "onnx": 5,
    "packing": 5,
    "persistence": 5,
    "": 5,  # the face
}
MODULES = sorted(ROOT.rglob("*.py"))


def name_of(module: Path) -> str:
    parts = module.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


NAMES = {name_of(module) for module in MODULES}


def package_of(name: str) -> str:
    """Return the part of skmoe that a module belongs to; "" is the face."""
    first = name.split(".")[1:2]
    return "" if first in ([], ["__main__"]) else first[0]


def imported(module: Path) -> set[str]:
    """Return the modules of skmoe that a module imports, lazily or not."""
    here = ("skmoe", *module.relative_to(ROOT).parts[:-1])
    names = []
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: len(here) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names += [".".join([*base, alias.name]) for alias in node.names]
    modules = {name if name in NAMES else name.rpartition(".")[0] for name in names}
    return modules & NAMES


@pytest.mark.parametrize("module", MODULES, ids=lambda m: str(m.relative_to(ROOT)))
def test_imports_point_down(module):
    package = package_of(name_of(module))
    for other in {package_of(name) for name in imported(module)} - {package}:
        assert FLOORS[other] < FLOORS[package], f"{package or 'the face'} <- {other}"


def test_no_circles():
    graph = {name_of(module): imported(module) for module in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_private_modules_stay_in_their_package():
    for module in MODULES:
        for name in imported(module):
            private = any(part.startswith("_") for part in name.split(".")[2:])
            alien = package_of(name) != package_of(name_of(module))
            assert not (private and alien), f"{name_of(module)} imports {name}"


def test_every_package_has_a_floor():
    assert {package_of(name) for name in NAMES} == set(FLOORS)


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


def test_mixins_of_estimators_borrow_little_from_each_other():
    classes = [
        node
        for module in (ROOT / "estimators").glob("*.py")
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Mixin")
    ]
    methods = {
        mixin.name: {n.name for n in mixin.body if isinstance(n, ast.FunctionDef)}
        for mixin in classes
    }
    borrowed = {
        (mixin.name, lender, node.attr)
        for mixin in classes
        for node in ast.walk(mixin)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"
        for lender in methods
        if node.attr in methods[lender] - methods[mixin.name]
    }
    assert len(methods) > 3
    assert len(borrowed) <= 20


def test_one_function_sets_fitted_attributes():
    modules = [*(ROOT / "estimators").glob("*.py"), ROOT / "packing.py"]
    assigned = {
        node.attr
        for module in modules
        if module.name != "_transformer.py"  # an estimator of its own
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
        if node.attr.endswith("_") and not node.attr.startswith("_")
    }
    assert assigned == {"classes_"}  # which y says, before anything is trained


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, skmoe; "
        "sys.exit(any(m in sys.modules for m in ('numba', 'cupy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
