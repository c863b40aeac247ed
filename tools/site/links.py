"""Links of Markdown pages that are read in two places: in the repository, and as pages of the site.

A link of a page names a file of the repository, relative to the page. On the site some files outside docs/ are a page
(SITE_PAGES), and a link to one of them has to name that page. Links to other files outside docs/ begin with
`source_url` if the site is built for a public repository. Without it MyST offers a file as a download, and a folder is
named without a link. A file that does not exist is a warning of MyST, which ends the build.
"""

from __future__ import annotations

import os.path
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
DOCS = "docs"
# Files outside docs/ that are a page of the site, by their path.
SITE_PAGES = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "explanation/architecture.md",
    "CONTRIBUTING.md": "contributing/index.md",
    "CHANGELOG.md": "changelog.md",
    "slurm/README.md": "how-to/slurm.md",
    "k8s/README.md": "how-to/kubernetes.md",
}
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?!\w+:|#|<)(?P<file>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def connect(app: Sphinx) -> None:
    """Rewrite the links of every page, and of every file that a page includes, before they are parsed."""
    app.add_config_value("source_url", "", "env")
    app.connect("source-read", _read_page)
    app.connect("include-read", _read_included)


def site_links(text: str, source: str, page: str, source_url: str = "") -> str:
    """`text`, Markdown from the file `source`, with links that are right on `page` of the site.

    Args:
        text: Markdown.
        source: path of the file with the text, from the root of the repository.
        page: path of the page that shows it, from docs/.
        source_url: where the files of the repository are shown; empty: nowhere.
    """
    return _LINK.sub(partial(_moved, source=source, page=page, source_url=source_url), text)


def _moved(link: re.Match[str], source: str, page: str, source_url: str) -> str:
    target = os.path.normpath(Path(source).parent / link["file"])
    if target in SITE_PAGES:
        target = f"{DOCS}/{SITE_PAGES[target]}"
    elif source_url and not target.startswith(f"{DOCS}/") and (ROOT / target).exists():
        return f"[{link['text']}]({source_url.rstrip('/')}/{target})"
    if (ROOT / target).is_dir():
        return link["text"]
    return f"[{link['text']}]({os.path.relpath(target, Path(DOCS, page).parent)}{link['anchor'] or ''})"


def _read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    page = f"{docname}.md"
    content[0] = site_links(content[0], f"{DOCS}/{page}", page, app.config.source_url)


def _read_included(app: Sphinx, path: Path, _page: str, content: list[str]) -> None:
    source = os.path.normpath(f"{DOCS}/{path}")
    if source in SITE_PAGES:
        content[0] = site_links(content[0], source, SITE_PAGES[source], app.config.source_url)
