"""What tools/site makes of pages: links that are right on the site, and tables of the files' fields."""

from __future__ import annotations

import pytest

from tools.site.file_schemas import schema_page
from tools.site.links import ROOT, SITE_PAGES, site_links
from vizsage.contract.schemas import MODELS

URL = "https://example.org/vizsage/blob/main/"


@pytest.mark.parametrize(
    ("source", "page", "link", "shown", "with_url"),
    [
        # between pages, also from one that is included from the root
        ("docs/how-to/a.md", "how-to/a.md", "[x](../benchmarks.md#b)", "[x](../benchmarks.md#b)", None),
        ("ARCHITECTURE.md", "explanation/architecture.md", "[x](docs/how-to/a.md)", "[x](../how-to/a.md)", None),
        (
            "CONTRIBUTING.md",
            "contributing/index.md",
            "[x](ARCHITECTURE.md#b)",
            "[x](../explanation/architecture.md#b)",
            None,
        ),
        # to a file and a folder of the repository
        ("docs/how-to/a.md", "how-to/a.md", "[x](../../Makefile)", "[x](../../Makefile)", f"[x]({URL}Makefile)"),
        ("docs/how-to/a.md", "how-to/a.md", "[x](../../config)", "x", f"[x]({URL}config)"),
        # not to a file
        (
            "docs/how-to/a.md",
            "how-to/a.md",
            "[x](#b) [y](https://example.org/c)",
            "[x](#b) [y](https://example.org/c)",
            None,
        ),
    ],
)
def test_links_are_right_on_the_site(source: str, page: str, link: str, shown: str, with_url: str | None) -> None:
    assert site_links(link, source, page) == shown
    assert site_links(link, source, page, URL) == (with_url or shown)


def test_pages_outside_docs_exist_on_both_sides() -> None:
    for source, page in SITE_PAGES.items():
        assert (ROOT / source).is_file(), source
        assert (ROOT / "docs" / page).is_file(), page


@pytest.mark.parametrize("name", MODELS)
def test_each_file_has_its_table_on_the_page_of_files(name: str) -> None:
    assert f"\n<!-- schema: {name} -->\n" in (ROOT / "docs/reference/files.md").read_text(encoding="utf-8")
    assert "| field | type | meaning |" in schema_page(name)


def test_required_fields_are_bold() -> None:
    page = schema_page("outcome")
    assert "| **`step`** | integer | Optimizer steps done. |" in page
    assert '"title": "Outcome"' in page
