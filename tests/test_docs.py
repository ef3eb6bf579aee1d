"""The pages of the documentation: blocks that run, links that lead somewhere."""

import doctest
import os
import re
from pathlib import Path

import pytest

from skmoe.experts import _registry

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if "_build" not in path.parts
)
TESTED_ELSEWHERE = {"gates.md": "test_custom_gate.py", "README.md": ".ci/run"}
GENERATED = ("docs/api/", "docs/auto_examples/")
"""Folders of the site that are there once it is built; Sphinx checks their links."""


def name_of(path):
    return str(path.relative_to(ROOT))


WITH_BLOCKS = [
    path
    for path in PAGES
    if ">>> " in path.read_text(encoding="utf-8") and path.name not in TESTED_ELSEWHERE
]
LONG = {
    "classification.md",
    "deployment.md",
    "existing_models.md",
    "interoperation.md",
    "many_experts.md",
    "number.md",
    "regression.md",
    "tour.md",
    "uncertainty.md",
}
"""Pages that run as readers run them with ``-m slow`` alone."""


@pytest.mark.parametrize("path", WITH_BLOCKS, ids=name_of)
def test_blocks_run(path, request, tmp_path, monkeypatch):
    if path.name in LONG:
        request.getfixturevalue("quick_choices")
    run_blocks(path, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in WITH_BLOCKS if path.name in LONG], ids=name_of
)
def test_blocks_of_long_pages_run(path, tmp_path, monkeypatch):
    run_blocks(path, tmp_path, monkeypatch)


def run_blocks(path, tmp_path, monkeypatch):
    text = path.read_text(encoding="utf-8")
    if "matplotlib" in text:
        pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.chdir(tmp_path)  # blocks may write files
    monkeypatch.setattr(_registry, "_POOLS", _registry._POOLS.copy())
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    test = doctest.DocTestParser().get_doctest(text, {}, path.name, str(path), 0)
    result = doctest.DocTestRunner(optionflags=options).run(test)
    assert result.attempted > 0
    assert result.failed == 0


def without_code(text):
    """Return a page without its blocks, in which brackets are not links."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path):
    """Return what a link may name after #: headings as GitHub and MyST write them."""
    headings = re.findall(
        r"^#+ +(.*)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE
    )
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_links_lead_somewhere(path):
    text = without_code(path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if os.path.relpath(target, ROOT).startswith(GENERATED):
            continue
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
