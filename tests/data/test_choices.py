"""Multiple-choice questions: options read from any format, listed in the prompt, refused where no answer fits."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_sources import config_for, problem, record, split_of
from tests.families.data import image
from vizsage.data.prompts import messages
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split

CHOICES = ["a cat", " a dog ", 3]


@pytest.mark.parametrize("answer", ["a dog", "B", " a dog"])
def test_choices_are_read_as_texts(tmp_path: Path, answer: str) -> None:
    (sample,) = split_of(tmp_path, [record(choices=CHOICES, answer=answer)]).load()
    assert (sample.choices, sample.answer, sample.tags) == (("a cat", "a dog", "3"), answer.strip(), {})
    assert split_of(tmp_path, [record(choices=None)]).load()[0].choices == ()


def test_choices_of_a_parquet_file(tmp_path: Path) -> None:
    config = config_for(tmp_path)
    rows = [record(choices=["a cat", "a dog"]), record(choices=None)]
    pq.write_table(pa.Table.from_pylist(rows), config.split_dir / "train.parquet")
    assert [sample.choices for sample in open_split(config, "train").load()] == [("a cat", "a dog"), ()]


@pytest.mark.parametrize(
    ("choices", "match"),
    [
        ("a dog", "choices is 'a dog'; write a list of 2 to 26 texts"),
        (["a dog"], "choices is a list of 1; write 2 to 26 texts"),
        ([*map(str, range(26)), "a dog"], "choices is a list of 27"),
        (["a dog", "a cat", "a dog "], "choices contains 'a dog' more than once"),
        (["a dog", ""], "choices[1] is empty"),
        (["a dog", None], "choices[1] is missing"),
        (
            ["a cat", "a cow"],
            "answer is 'a dog', which is none of the 2 choices; write one of them or its letter (A to B)",
        ),
    ],
)
def test_bad_choices_are_named(tmp_path: Path, choices: Any, match: str) -> None:
    assert f"record 2 (image 'a.jpg'): {match}" in problem(tmp_path, [record(), record(choices=choices)])


@pytest.mark.parametrize("answer", ["C", "AB", "b", "1"])
def test_a_letter_is_one_of_the_question(tmp_path: Path, answer: str) -> None:
    assert f"answer is '{answer}'" in problem(tmp_path, [record(choices=["a cat", "a dog"], answer=answer)])


def test_a_prompt_lists_choices_below_the_question() -> None:
    """And without any it is what adapters were trained on."""
    plain = Sample("1", (image("red"),), "what is it?", "B")
    (turn,) = messages(plain, "", None)
    assert turn["content"][1]["text"] == "Question: what is it?"
    sample = Sample("1", (image("red"),), "what is it?", "B", choices=("a <image> cat", *string.ascii_lowercase[1:]))
    (turn,) = messages(sample, "", "a painting", reserved=["<image>"])
    lines = turn["content"][1]["text"].split("\n")
    assert lines[:5] == ["Description: a painting", "", "Question: what is it?", "A. a < image> cat", "B. b"]
    assert lines[-1] == "Z. z"
