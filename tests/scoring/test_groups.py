"""Which question word a question has, and which tags make groups."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vizsage.scoring.groups import MAX_TAG_VALUES, MAX_TAGS, QUESTION_WORDS, TagColumns, question_word


@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("what is by the river", "what"),
        ("What's by the river?", "what"),
        ("what: a dog or a cat", "what"),
        ("whose boat is it", "who"),
        ("To whom does it belong?", "who"),
        ("In which year was it painted?", "which"),
        ("the man is holding what", "what"),
        ("How many boats are there?", "how many"),
        ("how often does she pray", "how"),
        ("Is there a dog?", "yes/no"),
        ("Isn't it a dog?", "yes/no"),
        ("can you see what she holds", "yes/no"),
        ("where does he look", "where"),
        ("when was it made", "when"),
        ("WHY is she sad", "why"),
        ("somewhat red", "other"),  # a word, not a part of one
        ("name the painter", "other"),
        ("誰が描いたのか", "other"),
        ("", "other"),
    ],
)
def test_question_words(question: str, word: str) -> None:
    assert question_word(question) == word


@given(st.text())
def test_every_question_has_one_of_the_words(question: str) -> None:
    assert question_word(question) in QUESTION_WORDS
    assert question_word(f" {question}?") == question_word(question)


def test_tags_become_columns() -> None:
    tags = TagColumns()
    for row in ({"school": "Dutch"}, {}, {"school": "French", "year": 1650}, {"school": "Dutch", "year": "1650"}, {}):
        tags.add(row)
    found = {tag: (list(numbers), values) for tag, (numbers, values) in tags.columns().items()}
    assert found == {"school": ([1, 0, 2, 1, 0], ["Dutch", "French"]), "year": ([0, 0, 1, 1, 0], ["1650"])}
    assert tags.dropped == set()


@pytest.mark.parametrize("values", [MAX_TAG_VALUES, MAX_TAG_VALUES + 1])
def test_a_tag_of_too_many_values_makes_no_groups(values: int) -> None:
    tags = TagColumns()
    for i in range(3 * values):
        tags.add({"title": f"t{i % values}", "school": "Dutch"})
    assert ("title" in tags.dropped) == (values > MAX_TAG_VALUES)
    assert ("title" in tags.columns()) == (values <= MAX_TAG_VALUES)
    assert len(tags.columns()["school"][0]) == 3 * values


def test_too_many_tags_are_dropped() -> None:
    tags = TagColumns()
    tags.add({f"tag {i:03d}": "x" for i in range(MAX_TAGS + 2)})
    assert len(tags.columns()) == MAX_TAGS
    assert tags.dropped == {f"tag {MAX_TAGS:03d}", f"tag {MAX_TAGS + 1:03d}"}
