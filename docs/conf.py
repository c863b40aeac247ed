"""Sphinx's configuration of the documentation; `make docs` builds it, with warnings as errors and without network."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.site import file_schemas, links
from vizsage import __version__

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that the documentation does not need

project = "VizSage"
author = "The VizSage authors"
version = release = __version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
myst_heading_anchors = 4
# Code without a language is a command line, a folder or a file: there is nothing to highlight.
highlight_language = "none"
nitpicky = True
# Names of other libraries, and private types of this one: no inventory is downloaded to link them.
nitpick_ignore_regex = [("py:.*", r"(Path|Any|Console|pathlib|typing|rich|pydantic|collections|SignalLatch).*")]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
default_role = "literal"  # docstrings have code between single backticks

# The address at which the files of the repository are shown, such as https://example.org/vizsage/blob/main.
source_url = os.environ.get("VIZSAGE_SOURCE_URL", "")

html_theme = "furo"
html_title = f"VizSage {release}"
html_show_copyright = False
html_show_sphinx = False
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = False
# Of `make docs-links` alone: example.com and the like are no addresses.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|[^/]*example\.(com|org))"]


def setup(app: Any) -> None:
    """Connect what this project adds to Sphinx."""
    links.connect(app)
    file_schemas.connect(app)
