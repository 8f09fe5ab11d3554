"""The site: Sphinx with myst-nb, every block of every page run while it is built (`make docs`)."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))

project = "cellalign"
author = "The cellalign developers"
release = version = version_of("cellalign")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "site_pages",
    "site_execution",
    "site_links",
    "site_math",
]
html_math_renderer = "mathml"
html_theme = "sphinx_book_theme"
html_title = "cellalign"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True}
exclude_patterns = ["_ext", "methods/*.md"]  # what methods/ holds is included by the pages that are generated
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 4
highlight_language = "text"

nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = False  # a warning, which names block and message, and fails the build
nb_execution_show_tb = True
nb_merge_streams = True

autodoc_typehints = "none"  # they are in the docstrings, in words
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_rtype = False
