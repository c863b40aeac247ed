"""Which samples a validation during training uses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config
from vizsage.data.images import FileImage
from vizsage.data.sample import Sample
from vizsage.models.loaded import Answer
from vizsage.training import validation
from vizsage.training.validation import choose_samples, validate


@dataclass(frozen=True)
class Image:
    """An image in a file of samples."""

    name: str
    data: bytes
    named: bool = True

    def read(self) -> bytes:
        return self.data


def test_questions_on_one_image_are_chosen_together_whether_it_has_a_name_or_not() -> None:
    for named in (True, False):
        samples = [
            Sample(f"val-{i}", (Image(f"{i % 5}.png" if named else f"val-{i}", bytes([i % 5]), named),), "what", "a")
            for i in range(20)
        ]
        chosen = choose_samples(samples, 8)
        assert len(chosen) == 8
        assert (
            len({sample.images[0].read() for sample in chosen})
            == len({sample.images[0].name for sample in chosen})
            == 2
        )
        assert choose_samples(samples, 8) == chosen


def test_a_validation_accepts_what_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """`answer` where `answers` does not hold it; VQA accuracy asks the ten annotators alone, as an evaluation does."""

    class Echo:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def batches(self, samples: list[Sample]) -> list[list[Sample]]:
            return [samples]

        def answer(self, batches: list[list[Sample]]) -> Any:
            yield [Answer(s.sample_id, s.answer) for batch in batches for s in batch]

    monkeypatch.setattr(validation, "Generator", Echo)
    image = FileImage("a.jpg", Path("Images"))
    sample = Sample("1", (image,), "how many", "2", answers=("two",) * 2 + ("three",) * 8)
    found = validate(None, None, [sample], Config())
    assert found is not None
    assert (found["exact_match_score"], found["metrics"]["vqa_accuracy"]) == (1, pytest.approx(0.6))
