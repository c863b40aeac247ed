"""Runs to report on, made without a model: rows and results as evaluations write them; and the pages read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from vizsage.config import Config
from vizsage.contract.results_file import SCHEMA_VERSION
from vizsage.data.sources import open_split
from vizsage.evaluation.report.report_file import write_report
from vizsage.files import write_json
from vizsage.json_lines import write_jsonl
from vizsage.scoring.registry import score_row
from vizsage.scoring.summary import summarise

Row = dict[str, Any]
FIELDS = ("sample_id", "question", "answer", "need_external_knowledge", "description")


def make_row(**changes: Any) -> Row:
    """A right answer."""
    row = {
        "sample_id": "test-0",
        "image": "mill.png",
        "question": "what is by the river",
        "answer": "a mill",
        "answers": ["a mill"],
        "need_external_knowledge": False,
        "description": None,
        "tags": {},
        "prediction": "a mill",
        "exact_match": True,
        "scores": {"rigorous_match": 1, "token_f1": 1.0, "vqa_accuracy": 1.0, "anls": 1.0, "relaxed_accuracy": 1},
        "raw_text": "a mill<end>",
        "token_ids": [1, 2],
        "finish_reason": "stop",
        "error": None,
        "key": "0" * 64,
    }
    return row | changes


def failed_row(**changes: Any) -> Row:
    """A record that failed."""
    lost = {"prediction": None, "exact_match": False, "scores": {}, "raw_text": None, "token_ids": []}
    return make_row(**{"error": "it broke"} | changes | lost | {"finish_reason": "failed"})


def make_results(rows: list[Row], config: Config | None = None, **changes: Any) -> dict[str, Any]:
    """results.json for `rows`: their true scores, and a base model's facts."""
    results = {
        "schema_version": SCHEMA_VERSION,
        **summarise(rows),
        "split": "test",
        "limit": None,
        "mode": "squad",
        "knowledge": "oracle",
        "blind": False,
        "left_out": {"need_external_knowledge": 0},
        "missing_descriptions": 0,
        "data": {"path": "data/AQUA/test.json", "sha256": "d" * 64},
        "base_model": "vizsage-tiny",
        "revision": None,
        "adapter": None,
        "adapter_sha256": None,
        "adapter_config_sha256": None,
        "fingerprint": {"template_sha256": "f" * 64},
        "generation": {"max_new_tokens": 16, "num_beams": 1, "do_sample": False},
        "precision": {"dtype": "float32", "load_in_4bit": False},
        "max_seq_length": 256,
        "settings": (config or Config()).model_dump(mode="json"),
        "throughput": {"answers": len(rows), "wall_s": 2.0, "answers_per_s": len(rows) / 2},
        "seed": 3407,
        "versions": {"vizsage": "0.1.0", "python": "3.11.7"},
        "hardware": {"machine": "x86_64", "cpus": 2, "gpus": []},
        "processes": 1,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    return results | changes


def write_run(folder: Path, rows: list[Row], config: Config | None = None, **changes: Any) -> Path:
    """Write the two files that a report needs into `folder`, which is returned."""
    write_jsonl(folder / "predictions.jsonl", rows)
    write_json(folder / "results.json", make_results(rows, config, **changes))
    return folder


def answered(
    config: Config, reply: Callable[[Row], str | None], tags: Callable[[Row], dict[str, str]] = lambda row: {}
) -> list[Row]:
    """Rows for the test split of `config`'s data set, answered by `reply`."""
    rows = []
    for sample in open_split(config, "test").load():
        facts = {name: getattr(sample, name) for name in FIELDS}
        row = make_row(**facts, image=sample.images[0].name, answers=[sample.answer], tags=dict(sample.tags))
        row["prediction"] = reply(row)
        row["tags"] |= tags(row)
        rows.append(
            failed_row(**row | {"error": "it broke"})
            if row["prediction"] is None
            else row | score_row(row, normalise=True)
        )
    return rows


def as_contract(old: Path, folder: Path) -> Path:
    """An evaluation of schema_version 1 in `old` (and the run above it), rewritten as one of today's in `folder`."""
    results = json.loads((old / "results.json").read_text())
    config = Config.model_validate(_settings(old.parents[1]))
    given = {row["sample_id"]: row for row in map(json.loads, (old / "predictions.jsonl").open())}
    rows = answered(config, lambda row: given[row["sample_id"]]["prediction"])
    kept = ("adapter", "adapter_sha256", "fingerprint", "versions", "hardware", "finished", "throughput", "data")
    return write_run(folder, rows, config, **{name: results[name] for name in kept})


def _settings(output_dir: Path) -> dict[str, Any]:
    import yaml

    settings: dict[str, Any] = yaml.safe_load((output_dir / "config.yaml").read_text())
    return settings


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts in script elements by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._open: str | None = None
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = (dict(attrs).get("id") or "code") if tag == "script" else "style" if tag == "style" else None

    def handle_endtag(self, tag: str) -> None:
        self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is None:
            self.text += f" {data} "
        else:
            self.scripts[self._open] = self.scripts.get(self._open, "") + data

    def data(self, name: str) -> Any:
        return json.loads(self.scripts[name])


def made(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))
