"""The documentation site.

    python -m sphinx -W --keep-going -b html docs docs/_build/html

`api/` is written from the ``__all__`` of the modules below before Sphinx reads
anything, so a public name is on the site by being public. `auto_examples/` is written
by sphinx-gallery from ``examples/plot_*.py``.
"""

import importlib
import inspect
import os
import pkgutil
import shutil
import warnings
from pathlib import Path

import matplotlib
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

# Set before skmoe and its learners are loaded: pictures without a screen, and kernels
# that do not fight over the cores.
matplotlib.use("Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import skmoe

HERE = Path(__file__).parent

project = "skmoe"
author = "skmoe developers"
copyright = "skmoe developers, BSD-3-Clause"
version = release = skmoe.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "**/GALLERY_HEADER.rst"]
nitpicky = True
nitpick_ignore_regex = [
    # Types in numpydoc's "name : type" are prose, and learners are scikit-learn's,
    # whose index a build without network cannot read.
    ("py:(class|obj|meth|func|attr|mod|data|exc)", r"(?!skmoe\.).*"),
]
suppress_warnings = ["config.cache"]  # functions in sphinx_gallery_conf

# ------------------------------------------------------------------------ Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

# ---------------------------------------------------------------------- API pages
INNER = {"backends", "em", "estimators", "solvers"}
"""Packages that are not for users; every other one is in the reference."""

FOR_EXTENSIONS = ("experts", "routing")
"""What only those who write gates and pools need comes last."""

autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False


def public(name: str) -> list[str]:
    """Return the classes and functions that a module exports."""
    module = importlib.import_module(name)
    named = [n for n in module.__all__ if callable(getattr(module, n, None))]
    return sorted(named, key=str.lower)


def write_api() -> None:
    """Write the pages of the reference: one of all modules, with a table each."""
    lines = ["API reference", "=============", ""]
    lines += ["What is here is public, see :doc:`/stability`.", ""]
    found = [m.name for m in pkgutil.iter_modules(skmoe.__path__)]
    inner = [n for n in found if n not in INNER and not n.startswith("_")]
    inner.sort(key=lambda n: (n in FOR_EXTENSIONS, n))
    for name in ["skmoe", *(f"skmoe.{n}" for n in inner)]:
        try:
            module = importlib.import_module(name)
        except ImportError:  # its optional library is not here
            continue
        lines += [f"``{name}``", "-" * (len(name) + 4), ""]
        lines += [inspect.getdoc(module).partition("\n\n")[0], ""]
        lines += [f".. currentmodule:: {name}", "", ".. autosummary::"]
        lines += ["   :toctree: generated", "", *(f"   {n}" for n in public(name)), ""]
    folder = HERE / "api"
    shutil.rmtree(folder, ignore_errors=True)  # pages of names that are gone
    folder.mkdir()
    (folder / "index.rst").write_text("\n".join(lines), encoding="utf-8")


def own_members(app, what, name, obj, skip, options) -> bool | None:
    """Leave out what scikit-learn and Python give: their documentation has it."""
    if what != "class" or skip:
        return None
    function = inspect.unwrap(getattr(obj, "fget", None) or obj)
    home = getattr(function, "__module__", None) or ""
    return None if home.startswith("skmoe") else True


write_api()

# ------------------------------------------------------------------------ gallery
for category in (UserWarning, RuntimeWarning, FutureWarning):
    warnings.simplefilter("error", category)  # an example warns of nothing
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_)",  # the others are programs, not pages
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib",),
    "show_memory": False,
    "show_signature": False,
}

# --------------------------------------------------------------------------- look
html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "skmoe"
html_static_path = ["_static"]
html_css_files = ["skmoe.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skmoe"},
    "navbar_align": "left",
    "header_links_before_dropdown": 5,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"install": [], "tour": [], "changelog": []}


def trim_blocks(app, doctree) -> None:
    """Drop the empty line that ends a doctest from the block that shows it."""
    for block in doctree.findall(nodes.literal_block):
        if block.rawsource == block.astext():
            block.rawsource = block.astext().rstrip("\n")
            block[:] = [nodes.Text(block.rawsource)]


def write_math(translator, node) -> None:
    """Write a formula as MathML, which browsers draw by themselves, also offline."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    if block:
        formula = f'<div class="formula">{formula}</div>'
    translator.body.append(formula)
    raise nodes.SkipNode


def setup(app) -> None:
    app.connect("autodoc-skip-member", own_members)
    app.connect("doctree-read", trim_blocks)
    app.add_html_math_renderer("mathml", (write_math, None), (write_math, None))
