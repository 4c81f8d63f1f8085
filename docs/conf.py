"""The site of the documentation: `uvx nox -s docs` builds and checks it."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from hatch_build import BRANCH, repository

project = "aioapiqueue"
author = "The aioapiqueue developers"
copyright = author  # noqa: A001 - Sphinx's own name for it
release = version = installed("aioapiqueue")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

myst_heading_anchors = 4  # links to sections are written as other readers of Markdown know them
default_role = "code"  # docstrings put code into single backquotes

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_preprocess_types = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

copybutton_exclude = ".linenos, .gp, .go"  # what is copied is what is typed

html_theme = "furo"
html_title = f"aioapiqueue {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False

if (address := repository()) is not None:
    html_theme_options = {
        "source_edit_link": f"{address}/edit/{BRANCH}/docs/{{filename}}",
        "source_view_link": f"{address}/blob/{BRANCH}/docs/{{filename}}",
        "footer_icons": [
            {"name": "Repository", "url": address, "html": "Repository", "class": ""},
            {"name": "Issues", "url": f"{address}/issues", "html": "Report a problem", "class": ""},
        ],
    }
