"""Benchmarks stand alone, and the commands that pages name are commands that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "benchmarks").glob("[!_]*.py"))
NAMES = {script.stem for script in SCRIPTS}
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), *SCRIPTS]
COMMAND = re.compile(r"python\s+benchmarks/(\w+)\.py((?:[^`\n]|\\\n)*)")
OPTION = re.compile(r"(?<=\s)\[?--([a-z][\w-]*)")


def imported(path: Path) -> set[str]:
    """Return the first names of the modules that a file imports."""
    return set(
        re.findall(r"^\s*(?:from|import)\s+(\w+)", path.read_text(), re.MULTILINE)
    )


def options_of(script: str) -> set[str]:
    """Return the options that a script takes, those that scripts share among them."""
    files = [ROOT / "benchmarks" / f"{name}.py" for name in (script, "_records")]
    texts = [file.read_text() for file in files]
    return {
        option
        for text in texts
        for option in re.findall(r'add_argument\(\s*"--([\w-]+)"', text)
    }


COMMANDS = [
    (page.relative_to(ROOT).as_posix(), *match)
    for page in PAGES
    for match in COMMAND.findall(page.read_text())
]


def test_a_script_imports_no_script():
    for script in SCRIPTS:
        assert not imported(script) & NAMES, script.name


def test_nothing_else_imports_benchmarks():
    folders = [ROOT / folder for folder in ("skmoe", "tests", "examples", "docs")]
    private = {path.stem for path in (ROOT / "benchmarks").glob("_*.py")}
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        assert not imported(path) & {"benchmarks", *NAMES, *private}, path


def test_commands_name_what_exists():
    assert len(COMMANDS) > 40
    for page, script, arguments in COMMANDS:
        command = f"{page}: {script}.py{arguments}"
        assert script in NAMES, command
        own = arguments.partition(" -- ")[0]  # the rest goes to another script
        assert set(OPTION.findall(own)) <= options_of(script), command
        text = (ROOT / "benchmarks" / f"{script}.py").read_text()
        for parts in re.findall(r"--only ([\w,]+)", own):
            assert all(f'"{part}"' in text for part in parts.split(",")), command


def test_pages_name_scripts_that_exist():
    for page in PAGES:
        assert set(re.findall(r"\b(bench_\w+)\.py\b", page.read_text())) <= NAMES, page


def test_a_script_says_how_to_run_it():
    for script in SCRIPTS:
        doc = ast.get_docstring(ast.parse(script.read_text())) or ""
        assert f"python benchmarks/{script.name}" in doc
