"""Data in the form of another tool is called what it is, and what to do is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import build_config
from vizsage.data.field_names import missing_field
from vizsage.data.sources import open_split
from vizsage.errors import DataError
from vizsage.evaluation.score import score_file

VQA_QUESTIONS = {
    "info": {"description": "This is v2.0 of the VQA dataset.", "url": "http://visualqa.org"},
    "task_type": "Open-Ended",
    "license": {"name": "CC"},
    "questions": [{"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}],
}
VQA_ANNOTATIONS = {
    "info": {},
    "annotations": [{"image_id": 1, "multiple_choice_answer": "down", "answers": [{"answer": "down"}]}],
}
LLAVA = [
    {"id": "0", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nwho"}, {"from": "gpt"}]},
]
SHAREGPT = [{"messages": [{"role": "user", "content": "<image>who"}], "images": ["a.png"]}]


def problem(write_data: Callable[..., Path], content: Any) -> str:
    base = write_data(train=json.dumps(content))
    with pytest.raises(DataError) as error:
        open_split(build_config({"base_path": str(base)}), "train").load()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{base}/AQUA/train.json: ")
    return str(error.value).partition("train.json: ")[2]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (VQA_QUESTIONS, ["as VQA's are; join both by question_id into one array of records", "multiple_choice_answer"]),
        (VQA_ANNOTATIONS, ["as VQA's are; join both by question_id"]),
        ({"dataset_name": "docvqa", "data": []}, ["the records under 'data'; write that array alone"]),
        ({"a": 1}, ["expected a JSON array of records, found '{'; a file of one record per line ends in .jsonl"]),
        (LLAVA, ["hold 'conversations', as LLaVA's", 'write {"image": ..., "question": ..., "answer": ...} for each']),
        (SHAREGPT, ["hold 'messages', as LLaVA's and LLaMA-Factory's do"]),
        (
            [{"image": ["a.png", "b.png"], "question": "who", "answer": "he"}],
            ["1 bad record: record 1: image is a list of 2; a record has one image: write its file name below Images/"],
        ),
        (
            [{"images": ["a.png", "b.png"], "question": "who", "answer": "he"}],
            ["image is missing; the record has images, question, answer: is it 'images'? Then call it image, one name"],
        ),
        (
            [{"image": "a.png", "Query": "who", "answer": "he", "split": "x"}],
            ["question is missing; the record has image, Query, answer, split: is it 'Query'? Then call it question"],
        ),
        (
            [{"image": "a.png", "question": "who", "label": "he"}],
            ["answer is missing; the record has image, question, label: is it 'label'? Then call it answer"],
        ),
        (
            [{"file": "a.png", "question": "who", "answer": "he"}],
            ["image is missing; the record has file, question, answer: is it 'file'? Then call it image"],
        ),
        ([{"x": 1}], ["image is missing; the record has x"]),
        ([{"image": None}], ["image is missing: it is null"]),
    ],
)
def test_another_form_is_called_what_it_is(write_data: Callable[..., Path], content: Any, told: list[str]) -> None:
    message = problem(write_data, content)
    assert [part for part in told if part not in message] == [], message


def test_a_prediction_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text('{"question": "who", "answer": "he", "response": "she"}\n')
    told = "line 1: prediction is missing; the record has question, answer, response: is it 'response'?"
    with pytest.raises(DataError, match=told.replace("?", r"\?")):
        score_file(path)


def test_many_and_long_names_are_shortened() -> None:
    message = missing_field("answer", {f"column {i} {'x' * 100}": i for i in range(100)})
    assert len(message) < 700
    assert message.endswith(" and 88 more")
    assert "anwser'?" in missing_field("answer", {"anwser": 1})
