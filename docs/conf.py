"""How Sphinx builds the site: ``make docs``; no page loads anything from the network."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
sys.path.insert(0, str(Path(__file__).parents[1] / "integrations" / "triton"))

project = "mmedge"
author = "mmedge maintainers"
release = version = version_of("mmedge")
root_doc = "index"
# Blocks without a language are commands and what they print.
highlight_language = "text"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "command_line",
    "report_schema",
    "self_contained",
    "short_names",
]

# Headings get anchors to this depth, so that pages can link to each other's sections.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True
napoleon_use_rtype = False
add_module_names = False

html_theme = "furo"
html_title = "mmedge"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
