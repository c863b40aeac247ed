"""The content of the Markdown pages, compared with the tree."""

from __future__ import annotations

import pkgutil
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation.report_run import make_row, write_run
from tools import commands_table, metrics_table, models_table, speed_figure
from tools.before_after import main as before_after
from tools.settings_table import settings_table, with_table
from tools.speed_figure import measured
from vizsage import cli
from vizsage.config import Config, load_config
from vizsage.scoring.registry import score_row

ROOT = Path(__file__).parents[1]
DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
OUTSIDE = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "slurm/README.md", "k8s/README.md")
PAGES = (*OUTSIDE, *DOCS)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", page("Makefile"), re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "rewritten"),
    [
        ("settings", with_table),
        ("metrics", metrics_table.with_table),
        ("commands", commands_table.with_commands),
        ("models", models_table.with_table),
    ],
)
def test_generated_tables_are_current(name: str, rewritten: Callable[[str], str]) -> None:
    text = page(f"docs/reference/{name}.md")
    assert rewritten(text) == text, f"run `make {name}-table`"


def test_the_readme_is_short() -> None:
    assert page("README.md").count("\n") <= 150, "an introduction: move details to a page in docs/"


def test_the_settings_in_the_readme_are_a_run(tmp_path: Path) -> None:
    path = tmp_path / "my_config.yaml"
    path.write_text("\n".join(re.findall(r"^    ([a-z_]+: .+)$", page("README.md"), re.MULTILINE)), encoding="utf-8")
    config = load_config(path)
    assert f"{config.dataset}/train.jsonl " in page("README.md")
    assert f"={config.output_dir}/evaluation_results\n" in page("README.md")


def test_the_figure_of_the_readme_shows_what_was_measured() -> None:
    """Texts only: their places depend on the release of matplotlib."""
    texts = [re.findall(r">([^<]+)</text>", svg) for svg in (page("docs/speed.svg"), speed_figure.drawn(measured()))]
    assert texts[0] == texts[1], "run `make training-figures`"
    assert "(docs/speed.svg)" in page("README.md")
    ours, per_row = (measured().per_s[f"vizsage-hf-{way}-16bit"] for way in ("shared", "plain"))
    assert {f"{ours:.1f}", f"{per_row:.1f}", measured().ratios} <= set(texts[0])


def test_the_table_has_a_row_for_every_setting() -> None:
    table = settings_table()
    for name in Config.model_fields:
        assert f"\n| `{name}` | " in table


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("no markers")


@pytest.mark.parametrize("name", PAGES)
def test_pages_leave_no_place_open(name: str) -> None:
    assert not re.findall(r"FIGURE\([^)]*\)|TODO|FIXME|\bTBD\b", page(name))


def anchors(path: Path) -> set[str]:
    """What GitHub, and MyST, call the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page(name)):
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_an_anchor_is_that_of_its_heading(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("# A `b.py`, [c](d.md)\n\n```bash\n# no heading\n```\n\n## Same\n\n## Same\n", encoding="utf-8")
    assert anchors(path) == {"a-bpy-c", "same", "same-1"}


@pytest.mark.parametrize("name", PAGES)
def test_make_targets_that_are_named_exist(name: str) -> None:
    named = {target for line in re.findall(r"(?:^    |`)make ((?:[a-z0-9-]+ ?)+)", page(name), re.MULTILINE)
             for target in line.split()}  # fmt: skip
    assert named <= makefile_targets(), named - makefile_targets()


def test_every_command_is_on_its_page_and_the_readme_has_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = set(re.findall(r"^    ([a-z]+)(?: |$)", capsys.readouterr().out, re.MULTILINE))
    assert set(re.findall(r"^\| `vizsage ([a-z]+)", page("docs/reference/commands.md"), re.MULTILINE)) == known
    assert set(re.findall(r"^ *vizsage ([a-z]+) ", page("README.md"), re.MULTILINE)) <= known


def test_files_that_the_architecture_names_exist() -> None:
    packages = page("ARCHITECTURE.md").partition("## Packages")[2].partition("## Rules")[0]
    there = {
        path.name
        for folder in ("vizsage", "jobs", "slurm", "config", "tools", "benchmarks", "docs", "tests")
        for path in (ROOT / folder).rglob("*")
    }
    named = set(re.findall(r"\b([a-z_]+\.(?:py|yaml))\b", packages)) | set(re.findall(r"\b([a-z_]+)/", packages))
    assert (
        named - {"vizsage", "jobs", "slurm", "tools", "benchmarks", "config", "docs", "architecture", "tests"} <= there
    )


def test_modules_are_all_in_the_architecture() -> None:
    packages = page("ARCHITECTURE.md").partition("## Packages")[2].partition("## Rules")[0]
    for path in (*(ROOT / "vizsage").rglob("*.py"), *(ROOT / "jobs").glob("*.py")):
        if path.name not in ("__init__.py", "__main__.py") and not {"tiny", "families"} & set(path.parts):
            assert re.search(rf"\b{path.name}\b", packages), path


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", *DOCS])
def test_names_in_code_on_pages_for_developers_exist(name: str) -> None:
    """Paths, and dotted names of modules or what is in them, between backticks."""
    for code in re.findall(r"`([^`\n]+)`", page(name)):
        if re.fullmatch(r"(?:vizsage|jobs|tests|slurm|k8s|config)/[\w/.-]+", code) and not re.search(
            "NAME|/my[-_]", code
        ):
            assert (ROOT / code).exists(), code
        elif re.fullmatch(r"(?:vizsage|jobs)(?:\.\w+)+", code):
            assert pkgutil.resolve_name(code), code


def test_both_pages_tell_the_same_exit_codes() -> None:
    rows = [
        re.findall(r"^\| (?:\d+|other) \|.*$", page(name), re.MULTILINE)
        for name in ("docs/reference/exit-codes.md", "docs/architecture/contracts.md")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6


def test_make_help_explains_every_target() -> None:
    shown = subprocess.run(["make", "-s", "help"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    explained = set(re.findall(r"^  ([a-z0-9-]+) +\S", shown, re.MULTILINE))
    assert explained == makefile_targets()


def test_the_lock_names_exact_versions_and_no_place() -> None:
    lines = [line for line in page("requirements.lock").splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.match(r"^[a-z0-9][a-z0-9._-]*==[0-9][^ ]*( ; .+)?$", line), line
    for pinned in ("torch==2.12.0", "torchvision==0.27.0", "transformers==5.17.0", "datasets==4.8.5"):
        assert pinned in lines
    assert "trl==1.15.0 ; python_full_version >= '3.11'" in lines
    assert "num2words==" in page("requirements.lock")
    assert not re.search(r"https?:|file:|--|@ ", page("requirements.lock"))


def test_before_and_after_and_what_the_difference_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"output_dir: {tmp_path / 'run'}\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["before_after.py", str(path)])
    assert before_after() == 1
    answers = {  # to questions of which the answer is "red"
        "test-base": ("red", "It is red.", "a cat", "a red cat"),
        "test": ("red", "red", "red", "blue"),
        "test-base-blind": ("blue", "blue", "It is red", "blue"),
        "test-blind": ("blue", "blue", "red", "blue"),
    }
    for name, predictions in answers.items():
        rows = [
            make_row(sample_id=f"test-{i}", answer="red", answers=["red"], prediction=p)
            for i, p in enumerate(predictions)
        ]
        write_run(tmp_path / "run" / "evaluation_results" / name, [{**row, **score_row(row)} for row in rows])
    capsys.readouterr()
    assert before_after() == 0
    assert capsys.readouterr().out.splitlines()[1:8] == [
        "Exact match on test (4 questions): 0.250 before training, 0.750 after",
        "Replies that contain the answer: 0.750 before, 0.750 after",
        "Without the image: exact match 0.000 before, 0.250 after; contained 0.250 before, 0.250 after",
        "Of the 2 questions that became right,",
        "     1 (50%) had the answer in the base model's reply: training taught the form,",
        "     1 (50%) had not: training taught the answer;",
        "     1 (50%) need no image: they are guessed, or read in the description.",
    ]
