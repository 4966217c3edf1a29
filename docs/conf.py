"""Sphinx's settings. The sources are laid out by docs/build.py; nothing is executed and nothing is fetched."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import hatlab  # noqa: E402

project = "hatlab"
author = "hatlab contributors"
version = release = hatlab.__version__
language = "en"

extensions = [
    "docs.accessible",
    "docs.docstrings",
    "docs.mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_files", "_parts", "package.md"]  # package.md is what a package index shows

# Notebooks
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
# An output of several kinds is shown as the picture that was committed, never as a script or a widget.
nb_mime_priority_overrides = [
    ("html", "image/png", 5),
    ("html", "application/vnd.jupyter.widget-view+json", None),
    ("html", "application/javascript", None),
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header", "mystnb.mime_priority"]

# Reference
default_role = "literal"  # docstrings put code between single backticks
highlight_language = "none"  # what stands indented in a docstring is a formula or a listing, not Python
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

# Pages
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "hatlab"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = [("scrolling.js", {"defer": "defer"})]
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
pygments_style = "github-light-high-contrast"
pygments_dark_style = "github-dark-high-contrast"
