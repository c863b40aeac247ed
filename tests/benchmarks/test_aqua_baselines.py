"""What AQUA gives away without an image: the counting, on records made for it and on the real split; the page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import aqua_baselines
from benchmarks.aqua_baselines import BEGINNING, IN_DESCRIPTION, SAME_QUESTION, guesses, measure, stands_in_description
from tools.aqua_figures import BEGIN, END, RESULT, with_table
from vizsage.data.images import FileImage
from vizsage.data.sample import Sample
from vizsage.errors import DataError

ROOT = Path(__file__).parents[2]
AQUA = ROOT.parent / "shared" / "data" / "aqua"


def sample(image: str, question: str, answer: str, *, description: str | None = None) -> Sample:
    return Sample(
        sample_id=f"{image}-{question}-{answer}",
        images=(FileImage(image, Path("Images")),),
        question=question,
        answer=answer,
        need_external_knowledge=description is not None,
        description=description,
    )


def write(folder: Path, *records: tuple[str, str, str, bool]) -> Path:
    keys = ("image", "question", "answer", "need_external_knowledge")
    split = folder / "AQUA"
    split.mkdir()
    (split / "val.json").write_text(json.dumps([dict(zip(keys, record, strict=True)) for record in records]))
    (folder / "table.csv").write_text("IMAGE_FILE\tDESCRIPTION\na.jpg\tThe mill is by the river.\nb.jpg\tA windmill\n")
    return split


@pytest.mark.parametrize(
    ("answer", "description", "there"),
    [
        ("The Mill", "A mill, by the river", True),
        ("mill by river", "the mill by the river", True),
        ("mill", "a windmill", False),
        ("river mill", "mill by the river", False),
        ("the", "the mill", False),  # nothing is left of it
        ("mill", "", False),
        ("the", "a", False),
    ],
)
def test_an_answer_stands_in_its_description_word_for_word(answer: str, description: str, there: bool) -> None:
    assert stands_in_description(sample("a.jpg", "what", answer, description=description)) is there


def test_the_most_frequent_answer_of_other_paintings_is_guessed() -> None:
    samples = [
        sample("a.jpg", "what is there", "cat"),
        sample("b.jpg", "what is there", "dog"),
        sample("c.jpg", "What is the there?", "a dog"),
        sample("d.jpg", "who is there", "anna"),
    ]
    assert list(guesses(samples, beginnings=False)) == ["dog", "cat", "cat", None]


def test_no_answer_of_the_same_painting_is_used() -> None:
    """AQUA asks the same of a painting more than once; that would give the answer away."""
    samples = [sample("a.jpg", "what is there", "cat"), sample("a.jpg", "what is there", "cat")]
    assert list(guesses(samples, beginnings=False)) == [None, None]
    assert list(guesses(samples, beginnings=True)) == [None, None]


def test_longer_beginnings_come_first() -> None:
    samples = [
        sample("a.jpg", "what is by the river", "mill"),
        sample("b.jpg", "what is by road", "horse"),
        sample("c.jpg", "what is red", "hat"),
        sample("d.jpg", "what is red", "hat"),
        sample("e.jpg", "who", "anna"),
    ]
    assert list(guesses(samples, beginnings=True)) == ["horse", "mill", "hat", "hat", "hat"]


def test_all_figures(tmp_path: Path) -> None:
    split = write(
        tmp_path,
        ("a.jpg", "what is there", "cat", False),
        ("b.jpg", "what is there", "cat", False),
        ("b.jpg", "what is red", "hat", False),
        ("a.jpg", "what is by the river", "mill", True),
        ("b.jpg", "what is tall", "mill", True),
        ("c.jpg", "what is missing", "mill", True),
    )
    found = measure(split, tmp_path / "table.csv")
    assert (found["pairs"], found["paintings"], found["without_description"]) == (6, 3, 1)
    assert found["questions_a_painting"] == {"mean": 2.0, "most": 3}
    rows = {(row["what"], row["questions"]): (row["right"], row["pairs"], row["paintings"]) for row in found["rows"]}
    assert rows == {
        (IN_DESCRIPTION, "knowledge"): (1, 3, 3),
        (SAME_QUESTION, "visual"): (2, 3, 2),
        (SAME_QUESTION, "knowledge"): (0, 3, 3),
        (BEGINNING, "visual"): (2, 3, 2),
        (BEGINNING, "knowledge"): (2, 3, 3),
    }
    for row in found["rows"]:
        low, high = row["interval"]
        assert 0 <= low <= row["share"] <= high <= 1


def test_without_data_one_line_says_where_it_was_sought(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError):
        measure(tmp_path / "AQUA", tmp_path / "table.csv")
    monkeypatch.setattr(sys, "argv", ["aqua_baselines.py", str(tmp_path / "AQUA")])
    assert aqua_baselines.main() == 3
    message = capsys.readouterr().err
    assert message.startswith("aqua_baselines: error: ")
    assert str(tmp_path) in message
    assert message.count("\n") == 1


def test_the_kept_figures_are_those_of_the_real_split() -> None:
    if not AQUA.exists():
        pytest.skip("needs ../shared/data/aqua")
    found = measure(AQUA, AQUA / "semart_val.csv")
    kept: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8"))
    for row, kept_row in zip(found["rows"], kept["rows"], strict=True):
        assert row.pop("interval") == pytest.approx(kept_row.pop("interval"), abs=1e-9)
        assert row == kept_row
    assert found == kept, "run `make benchmark-aqua aqua-figures`"


def test_the_page_shows_what_is_kept() -> None:
    text = (ROOT / "docs/explanation/scores.md").read_text(encoding="utf-8")
    assert with_table(text) == text, "run `make aqua-figures`"


def test_a_row_for_each_share(tmp_path: Path) -> None:
    rows = [{"questions": "visual", "what": "guessed", "pairs": 1500, "share": 0.6151, "interval": [0.588, 0.641]}]
    kept = {
        "pairs": 5124,
        "paintings": 1040,
        "questions_a_painting": {"mean": 4.93, "most": 11},
        "interval": {"confidence": 0.95},
        "rows": rows,
    }
    (tmp_path / "aqua.json").write_text(json.dumps(kept))
    page = with_table(f"before\n{BEGIN}\nold\n{END}\nafter\n", tmp_path / "aqua.json")
    assert "old" not in page
    assert "5,124 questions on 1,040 paintings (4.9 per painting, 11 at most); 95% intervals" in page
    assert "| visual (1,500) | guessed | 61.5% | 58.8% to 64.1% |" in page
    with pytest.raises(ValueError, match="no place for the table"):
        with_table("no markers", tmp_path / "aqua.json")
