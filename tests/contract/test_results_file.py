"""results.json: its description agrees with what is written, and earlier versions are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.evaluation.report_run import make_results, make_row
from vizsage.contract import schemas
from vizsage.contract.results_file import ResultsFile, Scores, evaluation_name, read_conditions, read_results
from vizsage.scoring.summary import summarise

ROWS = [
    make_row(sample_id=f"test-{i}", image=f"{i}.png", tags={"school": "Dutch"}, choices=["a mill", "a river"])
    for i in range(3)
]


def written(folder: Path, content: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_all_that_is_computed_is_described_and_nothing_else() -> None:
    described = set(Scores.model_fields) - {"schema_version"}
    assert set(summarise(ROWS)) == described


def test_the_file_has_the_form_of_its_schema_and_comes_back_as_it_was(tmp_path: Path) -> None:
    content = json.loads(json.dumps(make_results(ROWS)))
    jsonschema.validate(content, schemas.json_schema("results"))
    assert read_results(written(tmp_path, content)).content() == content


def test_version_2_is_read_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    content = make_results(ROWS, schema_version=2, of_a_later_version={"a": 1})
    for missing in ("normalisation", "scored_samples", "blind", "interval"):
        content.pop(missing)
    found = read_results(written(tmp_path, content))
    assert found.schema_version == 2
    assert (found.blind, found.normalisation, found.interval) == (False, None, None)
    assert found.content()["of_a_later_version"] == {"a": 1}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 1}, "expected schema_version 3, found 1"),
        ({"total_samples": "3"}, "total_samples: "),
        ({"exact_match_interval": [0.5]}, "exact_match_interval: "),
        ({"settings": None}, "settings: expected an object"),
    ],
)
def test_another_form_is_one_line(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        read_results(written(tmp_path, make_results(ROWS, **changes)))
    assert "\n" not in str(error.value)


def test_conditions_are_read_of_any_version(tmp_path: Path) -> None:
    conditions = read_conditions(written(tmp_path, {"schema_version": 1, "knowledge": "oracle"}))
    assert (conditions.knowledge, conditions.mode) == ("oracle", None)
    assert conditions.has("knowledge")
    assert not conditions.has("blind")
    with pytest.raises(ValueError, match="expected an object"):
        read_conditions(written(tmp_path, []))


def test_all_samples_are_a_group() -> None:
    results = ResultsFile.model_validate(make_results(ROWS))
    whole = results.whole()
    assert (whole.samples, whole.images, whole.exact_match_score) == (3, 3, 1.0)
    assert whole.exact_match_interval == results.exact_match_interval


def test_names_of_folders() -> None:
    assert evaluation_name("val") == "val"
    assert evaluation_name("test", base=True, blind=True) == "test-base-blind"
