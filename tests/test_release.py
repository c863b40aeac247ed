"""What a release consists of: one version everywhere, and workflows that run pinned actions and the Makefile."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import release_notes, version

ROOT = Path(__file__).parents[1]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_the_version_is_the_same_everywhere() -> None:
    assert list(version.outdated()) == [], "run `make version`"
    assert next(iter(release_notes.dates(CHANGELOG))) == version.version()


def test_another_version_reaches_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda: "9.8.7")
    written = version.outdated()
    assert {"vizsage/__init__.py", "CITATION.cff", "k8s/base/kustomization.yaml", "k8s/train-job.yaml"} <= set(written)
    assert '__version__ = "9.8.7"' in written["vizsage/__init__.py"]
    assert 'newTag: "9.8.7"' in written["k8s/base/kustomization.yaml"]
    assert "vizsage:9.8.7" in written["k8s/train-job.yaml"]
    assert not {"CHANGELOG.md", "tests/contract/earlier/run.json"} & set(written)


def test_release_notes_are_the_section_of_the_newest_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "CHANGELOG.md"
    path.write_text(
        "# Changelog\n\n## [Unreleased]\n\n## [2.0.0] - 2030-01-02\n\n- new\n\n## [1.0.0] - 2029-01-02\n\n- old\n"
    )
    monkeypatch.setattr(release_notes, "CHANGELOG", path)
    for tag, unreleased, expected in (
        ("v2.0.0", "", "- new\n"),
        ("v1.0.0", "", "expected v2.0.0"),
        ("v2.0.0", "- later\n", "changes in Unreleased"),
    ):
        path.write_text(path.read_text().replace("## [Unreleased]\n\n", f"## [Unreleased]\n\n{unreleased}"))
        monkeypatch.setattr("sys.argv", ["release_notes.py", tag])
        code = release_notes.main()
        printed = capsys.readouterr()
        assert code == (0 if expected == "- new\n" else 1)
        assert expected in printed.out + printed.err


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_an_end_and_runs_what_is_pinned(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    whole = yaml.safe_load(text)
    assert whole["permissions"] == {"contents": "read"}
    assert "group" in whole["concurrency"]
    for name, job in jobs(path).items():
        assert job["timeout-minutes"] <= 180, name
        writes = {right for right, level in job.get("permissions", {}).items() if level == "write"}
        assert not writes or path.stem == "release"
        checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)
    for used in re.findall(r"uses: (.*)", text):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", used), used


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_of_the_makefile(path: Path) -> None:
    for job in jobs(path).values():
        commands = [str(step.get("run", "")) for step in job["steps"]]
        named = {
            word
            for one in commands
            for words in re.findall(r"\bmake ((?:-s )?[a-z -]+)", one)
            for word in words.split()
        }
        assert named - {"-s"} - TARGETS - {"procps"} == set()


def test_an_action_has_the_same_version_in_all_workflows() -> None:
    used = {
        match for path in WORKFLOWS for match in re.findall(r"uses: (\S+) # (\S+)", path.read_text(encoding="utf-8"))
    }
    assert len({action.partition("@")[0] for action, _ in used}) == len(used)


def test_uninstalling_removes_nothing_that_a_user_made() -> None:
    recipe = subprocess.run(["make", "-n", "uninstall"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    removed = [line for line in recipe.splitlines() if "rm -" in line and not line.lstrip().startswith("echo")]
    assert len(removed) == 2  # those of `make clean`
    assert not re.search(r"\b(data|outputs|wandb|HF_HOME|\.local)\b", " ".join(removed))


def test_the_makefile_names_tests_that_are_there() -> None:
    command = ["make", "--dry-run", "STAMP=", *sorted(name for name in TARGETS if name.startswith("test"))]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"(?<=\s)tests/[\w/.]+", printed))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
