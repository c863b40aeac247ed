"""Which samples a validation in training takes."""

from __future__ import annotations

from dataclasses import dataclass

from vizsage.data.sample import Sample
from vizsage.training.validation import choose_samples


@dataclass(frozen=True)
class Picture:
    """A picture in a file of samples."""

    name: str
    data: bytes
    named: bool = True

    def read(self) -> bytes:
        return self.data


def test_questions_on_one_picture_are_chosen_together_whether_it_has_a_name_or_not() -> None:
    for named in (True, False):
        samples = [
            Sample(f"val-{i}", Picture(f"{i % 5}.png" if named else f"val-{i}", bytes([i % 5]), named), "what", "a")
            for i in range(20)
        ]
        chosen = choose_samples(samples, 8)
        assert len(chosen) == 8
        assert len({sample.image.read() for sample in chosen}) == len({sample.image.name for sample in chosen}) == 2
        assert choose_samples(samples, 8) == chosen
