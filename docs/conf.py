"""How Sphinx builds these pages: `python3 dev.py docs`. Needs no network."""

import re
from typing import Any

import wdfast

project = "wdfast"
author = "the wdfast authors"
copyright = "the wdfast authors; Apache-2.0"
release = version = wdfast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
suppress_warnings = ["ref.python"]  # there are three classes Optimizer; a type hint takes the first

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # `name` in a docstring: a link where there is such a thing, else code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_mock_imports = ["torch"]  # the same pages with and without it
autosummary_generate = False  # a page per module, not per function
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
add_module_names = False

smartquotes = False  # names of things stand in quotes

html_theme = "furo"
html_title = f"wdfast {release}"
html_static_path = ["_static"]
html_css_files = ["wdfast.css"]
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def keep_bars(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """In a docstring |x| is a magnitude, where reStructuredText would look for a substitution."""
    prompted = False
    for i, line in enumerate(lines):
        prompted = bool(line.strip()) and (prompted or line.lstrip().startswith(">>>"))
        if not prompted:
            lines[i] = re.sub(r"(?<!\\)\|", r"\|", line)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_bars)
