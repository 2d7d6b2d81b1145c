"""The documentation's configuration; a public name without a page breaks the build."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_extensions")]

from moopt import __version__  # noqa: E402

project = "moopt"
author = "The moopt developers"
copyright = "2026, the moopt developers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "public_names",
    "registered_methods",
    "one_line_sections",
    "mathml",
]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "moopt"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["diff.css", "formula.css", "methods.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings are read in the terminal first: plain backticks, formulas as code.
default_role = "literal"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_attr_annotations = False
# Their text may start on the line of the name: docs/_extensions/one_line_sections.py.
napoleon_custom_sections = [
    "Numerics",
    "Shape",
    "Signs",
    "Source",
    ("Class attributes", "Attributes"),
    ("Properties", "Attributes"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# Every public name of these modules must be documented, or the build fails.
public_modules = [
    "moopt",
    "moopt.solvers",
    "moopt.weightings",
    "moopt.scalarizations",
    "moopt.aggregators",
    "moopt.losses",
    "moopt.testing",
    "moopt.diagnostics",
    "moopt.kernels",
    "moopt.projection",
]

nitpicky = True
# No network in the build, so names of other libraries cannot be resolved.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|nn|Tensor|numpy|collections|numbers|typing|os)(\..*)?"),
    # Annotations for type checkers alone, spelled out in the docstrings.
    (r"py:class", r"(Losses|GradScaler|Method|Vector|Axes|SummaryWriter|Build)"),
    (r"py:class", r"(Array|State|Preference)"),
    (r"py:class", r"(Gradient|Length|(moopt\.projection\.structure\.)?G)"),
]
