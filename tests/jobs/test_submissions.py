"""The lists of jobs that were sent, and which run is meant."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from jobs.submissions import find, note, of_run, project
from tests.jobs.command import sent
from vizsage.errors import ConfigError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with two runs: `one` with jobs 7 and 8, then `two`, a member of array 9; `one` was sent to first."""
    monkeypatch.chdir(tmp_path)
    for job in (sent(tmp_path / "one", "7"), sent(tmp_path / "one", "8", kind="eval"), sent(tmp_path / "two", "9_0")):
        note(job)
    return tmp_path


@pytest.mark.parametrize(
    ("run", "ids"),
    [
        (None, ["9_0"]),  # the latest
        ("one", ["7", "8"]),  # from here a directory
        ("./one/", ["7", "8"]),
        ("{runs}/one", ["7", "8"]),
        ("7", ["7", "8"]),  # a run, not one job of it
        ("8", ["7", "8"]),
        ("9_0", ["9_0"]),
        ("9", ["9_0"]),
        ("two", ["9_0"]),
    ],
)
def test_a_run_is_found(runs: Path, run: str | None, ids: list[str]) -> None:
    assert [job.job_id for job in find(run and run.format(runs=runs))] == ids


def test_a_run_is_found_by_its_name_from_elsewhere(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (runs / "elsewhere").mkdir()
    monkeypatch.chdir(runs / "elsewhere")
    assert [job.job_id for job in find("one")] == ["7", "8"]


def test_a_run_whose_folder_is_gone_is_found_in_the_list_of_all(runs: Path) -> None:
    (runs / "two" / "jobs" / "submissions.jsonl").unlink()
    assert [job.job_id for job in find("two")] == ["9_0"]


@pytest.mark.parametrize("run", ["three", "70", "on", "/", ""])
def test_a_run_that_is_none(runs: Path, run: str) -> None:
    with pytest.raises(ConfigError, match="no submitted run"):
        find(run)


def test_nothing_was_sent_yet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no run was submitted from .* yet"):
        find(None)
    assert of_run(tmp_path) == []


@pytest.mark.parametrize("text", ["{", '{"job_id": "7"}', "[7]", '"seven"'])
def test_a_damaged_list_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "submissions.jsonl").write_text(text + "\n")
    with pytest.raises(ConfigError, match=r"submissions\.jsonl: not a list"):
        of_run(tmp_path)


@pytest.mark.parametrize("damage", ['{"job_id": "8", "ki', '{"job_id": "8"}\n', '{"job_{"job_id": "9"}\n', "\xff\n"])
def test_a_damaged_line_does_not_hide_the_other_jobs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    note(sent(tmp_path, "7"))
    path = tmp_path / "jobs" / "submissions.jsonl"
    with path.open("ab") as file:
        file.write(damage.encode("latin-1"))
    assert [job.job_id for job in of_run(tmp_path)] == ["7"]
    assert f"{path}: damaged in line 2; a job is missing here" in caplog.text
    note(sent(tmp_path, "10"))
    assert [job.job_id for job in of_run(tmp_path)] == ["7", "10"]


def test_a_list_of_a_later_version_is_read(tmp_path: Path) -> None:
    job = sent(tmp_path)
    note(job)
    path = tmp_path / "jobs" / "submissions.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1}) + "\n")
    assert of_run(tmp_path) == [dataclasses.replace(job, project=str(project()))]
