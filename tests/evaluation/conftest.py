"""A split and a model that cost nothing, so that evaluation itself can be tested in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from PIL import Image

from vizsage.config import Config
from vizsage.data.sample import Sample
from vizsage.evaluation import evaluate as run
from vizsage.evaluation.answerer import Answerer
from vizsage.json_lines import read_jsonl
from vizsage.models.loaded import Answer


def png(colour: str = "white") -> bytes:
    """The bytes of a small image."""
    file = BytesIO()
    Image.new("RGB", (2, 2), colour).save(file, "PNG")
    return file.getvalue()


WHITE = png()


@dataclass(frozen=True)
class BytesImage:
    """An image reference that holds its bytes."""

    name: str
    data: bytes = WHITE
    named: bool = True

    def read(self) -> bytes:
        return self.data


@dataclass
class Counts:
    records: int
    kept: int
    left_out_knowledge: int = 0
    missing_description: int = 0


class FakeSplit:
    """A split made of a list."""

    def __init__(self, samples: list[Sample], left_out: int = 0) -> None:
        self.samples = samples
        self.path = Path("data/AQUA/test.json")
        self.name = "test"
        self.counts = Counts(len(samples) + left_out, len(samples), left_out)

    def load(self) -> list[Sample]:
        return list(self.samples)

    def scan(self, block_records: int) -> list[int]:
        return [len(self.samples)]

    def stream(self, start_record: int = 0) -> Iterator[Sample]:
        return iter(self.samples[start_record:])


@dataclass
class FakeModel:
    """Answers by `reply`, last sample first and 4 at a time, and remembers what it was asked."""

    reply: Callable[[Sample], str | None] = lambda sample: sample.answer
    finish_reason: Literal["stop", "length"] = "stop"
    asked: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    """Samples that batches were made of, by call."""
    before: Callable[[int], None] = lambda asked: None

    def prompt_ids(self, sample: Sample) -> list[int]:
        return list(map(ord, f"{sample.question}|{sample.description}"))

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        self.calls.append(len(samples))
        backwards = list(reversed(samples))
        return [backwards[i : i + 4] for i in range(0, len(backwards), 4)]

    def answer(self, batches: Sequence[Sequence[Sample]]) -> Iterator[list[Answer]]:
        for batch in batches:
            yield [self.say(sample) for sample in batch]

    def say(self, sample: Sample) -> Answer:
        self.before(len(self.asked))
        self.asked.append(sample.sample_id)
        text = self.reply(sample)
        if text is None:
            return Answer(sample.sample_id, None, [], "failed", "it broke")
        return Answer(sample.sample_id, text, [ord(c) for c in text], self.finish_reason, raw_text=text + "<end>")


@dataclass
class Stage:
    """What a test sets: the split, the model, and what the answers are said to be made by."""

    split: FakeSplit
    model: FakeModel
    made_by: dict[str, Any]


def make_samples(count: int) -> list[Sample]:
    """Two questions per image; every third needs external knowledge."""
    return [
        Sample(
            f"test-{i}",
            (BytesImage(f"{i // 2}.png"),),
            f"what is {i}",
            f"answer {i}",
            need_external_knowledge=i % 3 == 0,
        )
        for i in range(count)
    ]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """12 samples, a model that is always right; data and model are replaced in `vizsage.evaluation.evaluate`."""
    stage = Stage(FakeSplit(make_samples(12)), FakeModel(), {"adapter_sha256": "aa", "generation": {"num_beams": 1}})
    monkeypatch.setattr(run, "open_split", lambda config, split: stage.split)
    monkeypatch.setattr(run, "find_adapter", lambda config, *, base, adapter: None if base else Path("adapter"))
    monkeypatch.setattr(
        run, "load_answerer", lambda config, adapter: Answerer(stage.model, config, adapter, stage.made_by)
    )
    return stage


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """Answers instead of a model, to a split on disk."""
    model = FakeModel()
    made_by = {"adapter_sha256": "aa", "fingerprint": {"base_identity": "content:aa"}}
    monkeypatch.setattr(run, "find_adapter", lambda config, *, base, adapter: None if base else Path("adapter"))
    monkeypatch.setattr(run, "load_answerer", lambda config, adapter: Answerer(model, config, adapter, made_by))
    return model


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(output_dir=tmp_path / "out", stream_buffer_size=5, load_in_4bit=False)


def rows(config: Config, folder: str = "test") -> list[dict[str, Any]]:
    return list(read_jsonl(config.output_dir / "evaluation_results" / folder / "predictions.jsonl"))


def content(config: Config) -> bytes:
    return (config.output_dir / "evaluation_results/test/predictions.jsonl").read_bytes()


def set_aside(config: Config) -> list[Path]:
    return sorted((config.output_dir / "evaluation_results/test").glob("earlier-*"))


def kept(config: Config) -> list[dict[str, Any]]:
    """All answers on disk."""
    files = sorted((config.output_dir / "evaluation_results/test/answers").glob("*.jsonl"))
    return [row for file in files for row in read_jsonl(file)]
