"""The files of a run: what an earlier version wrote is read and written again unchanged; what is damaged is one line.

`earlier/` was written by the release before these readers: a run on the demo's model, and two jobs.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from vizsage import cli
from vizsage.contract import schemas
from vizsage.contract.run_files import SCHEMA_VERSION, last_outcome, read_metrics, read_run
from vizsage.contract.submission_lines import read_submissions
from vizsage.files import write_json
from vizsage.json_lines import write_jsonl

EARLIER = Path(__file__).parent / "earlier"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of the earlier run."""
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


def change(path: Path, **keys: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def rewrite_outcome(run: Path) -> None:
    outcome = last_outcome(run)
    assert outcome is not None
    write_json(run / "outcome.json", outcome.content())


REWRITE: dict[str, Callable[[Path], object]] = {
    "run.json": lambda run: write_json(run / "run.json", read_run(run).content()),
    "outcome.json": rewrite_outcome,
    "metrics.jsonl": lambda run: write_jsonl(run / "metrics.jsonl", [line.content() for line in read_metrics(run)]),
    "submissions.jsonl": lambda run: write_jsonl(
        run / "submissions.jsonl", [dataclasses.asdict(one) for one in read_submissions(run / "submissions.jsonl").jobs]
    ),
}


@pytest.mark.parametrize("name", REWRITE)
def test_what_an_earlier_version_wrote_is_read_and_written_again_byte_for_byte(run: Path, name: str) -> None:
    before = (run / name).read_bytes()
    REWRITE[name](run)
    assert (run / name).read_bytes() == before


@pytest.mark.parametrize("name", ["run.json", "outcome.json"])
def test_keys_of_a_later_version_are_kept(run: Path, name: str) -> None:
    change(run / name, later={"a": [1, None]})
    REWRITE[name](run)
    assert json.loads((run / name).read_text())["later"] == {"a": [1, None]}


def test_whole_numbers_stay_whole(run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2}\n')
    REWRITE["metrics.jsonl"](run)
    assert (run / "metrics.jsonl").read_text() == '{"step": 1, "loss": 2}\n'


def test_a_later_version_is_named(run: Path) -> None:
    change(run / "run.json", schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(ValueError, match=f"schema_version: version {SCHEMA_VERSION + 1} was written by a later"):
        read_run(run)


DAMAGED = (
    ("run.json", "[]", "expected an object"),
    ("run.json", '{"attempts": [3]}', "attempts.0: expected an object"),
    ("run.json", '{"best_step": "3"}', "best_step: "),
    ("run.json", '{"later": NaN}', "JSON compliant"),
    ("run.json", "[" * 100_000, "nested too deep"),
    ("metrics.jsonl", '{"step": 1}\n{"loss": 1}\n', "line 2: step: "),
    ("metrics.jsonl", '{"step": 1, "loss": true}\n', "line 1: loss: "),
    ("metrics.jsonl", '{"step": 1, "loss": NaN}\n', "JSON compliant"),
    ("metrics.jsonl", "[1]\n", "no object"),
)


@pytest.mark.parametrize(("name", "content", "said"), DAMAGED)
def test_what_is_damaged_is_told_in_one_line(run: Path, name: str, content: str, said: str) -> None:
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        REWRITE[name](run)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", '{"exit_code": 0}', '{"exit_code": 0, "reason": 1, "step": 2}', None])
def test_an_outcome_that_says_something_else_is_none(run: Path, content: str | None) -> None:
    (run / "outcome.json").unlink()
    if content is not None:
        (run / "outcome.json").write_text(content)
    assert last_outcome(run) is None


def test_a_later_line_on_a_job_counts_and_damaged_lines_are_numbered(run: Path) -> None:
    path = run / "submissions.jsonl"
    first, second = path.read_text().splitlines()
    again = json.dumps(json.loads(first) | {"given_up": "2026-01-01T00:00:00+00:00", "later": 1})
    untimely = json.dumps(json.loads(second) | {"submitted": "now"})
    path.write_text("\n".join([first, "{", second, '{"job_id": "9"}', untimely, again, ""]))
    found = read_submissions(path)
    assert [(one.job_id, one.kind, bool(one.given_up)) for one in found.jobs] == [
        ("7", "train", True),
        ("8", "eval", False),
    ]
    assert found.damaged == [2, 4, 5]


# --- schemas ---------------------------------------------------------------------------------------------------------

WRITTEN = {"run": "run.json", "outcome": "outcome.json", "metrics": "metrics.jsonl", "submissions": "submissions.jsonl"}


@pytest.mark.parametrize("name", schemas.MODELS)
def test_each_schema_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--schema", name]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(("name", "file"), WRITTEN.items())
def test_a_file_of_a_run_has_the_form_of_its_schema(name: str, file: str) -> None:
    text = (EARLIER / file).read_text()
    values = [json.loads(line) for line in text.splitlines()] if file.endswith(".jsonl") else [json.loads(text)]
    schema = schemas.json_schema(name)
    for value in values:
        jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([], schema)


def test_names_of_schemas_that_do_not_exist_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["config", "--schema", "nothing"])
    assert caught.value.code == 2
    assert "submissions" in capsys.readouterr().err
