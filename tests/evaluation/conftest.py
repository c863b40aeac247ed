"""A split and a model that cost nothing, so that evaluation itself can be tested in milliseconds."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vizsage.config import Config
from vizsage.data.sample import Sample
from vizsage.evaluation import run
from vizsage.evaluation.run import Answerer


def png(colour: str = "white") -> bytes:
    """The bytes of a small picture."""
    file = BytesIO()
    Image.new("RGB", (2, 2), colour).save(file, "PNG")
    return file.getvalue()


WHITE = png()


@dataclass(frozen=True)
class BytesImage:
    """An image reference that holds its bytes."""

    name: str
    data: bytes = WHITE

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
class FakeAnswer:
    sample_id: str
    text: str | None
    token_ids: list[int]
    finish_reason: str
    error: str | None = None


@dataclass
class FakeModel:
    """Answers by `reply`, last sample first, and remembers what it was asked and in calls of how many."""

    reply: Callable[[Sample], str | None] = lambda sample: sample.answer
    finish_reason: str = "stop"
    asked: list[str] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    before: Callable[[int], None] = lambda asked: None

    def generate(
        self, model: Any, processor: Any, samples: Sequence[Sample], config: Config, *, batch_size: int
    ) -> Iterator[FakeAnswer]:
        self.calls.append(len(samples))
        for sample in (sample for batch in answer_batches(samples, batch_size) for sample in batch):
            self.before(len(self.asked))
            self.asked.append(sample.sample_id)
            text = self.reply(sample)
            if text is None:
                yield FakeAnswer(sample.sample_id, None, [], "failed", "it broke")
            else:
                yield FakeAnswer(sample.sample_id, text, [ord(c) for c in text], self.finish_reason)


def answer_batches(samples: Sequence[Sample], batch_size: int) -> list[list[Sample]]:
    backwards = list(reversed(samples))
    return [backwards[i : i + batch_size] for i in range(0, len(backwards), batch_size)]


class FakeTokenizer:
    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(map(chr, ids)) + "<end>"


@dataclass
class Stage:
    """What a test sets: the split, the model, and what the answers are said to be made by."""

    split: FakeSplit
    model: FakeModel
    made_by: dict[str, Any]


def make_samples(count: int) -> list[Sample]:
    """Two questions an image; every third needs external knowledge."""
    return [
        Sample(
            f"test-{i}", BytesImage(f"{i // 2}.png"), f"what is {i}", f"answer {i}", need_external_knowledge=i % 3 == 0
        )
        for i in range(count)
    ]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """12 samples, a model that is always right; data and model are replaced in `vizsage.evaluation.run`."""
    stage = Stage(FakeSplit(make_samples(12)), FakeModel(), {"adapter_sha256": "aa", "generation": {"num_beams": 1}})
    processor = types.SimpleNamespace(tokenizer=FakeTokenizer())
    monkeypatch.setattr(run, "open_split", lambda config, split: stage.split)
    monkeypatch.setattr(run, "find_adapter", lambda config, *, base, adapter: None if base else Path("adapter"))
    monkeypatch.setattr(
        run, "load_answerer", lambda config, adapter: Answerer(None, processor, config, adapter, stage.made_by)
    )
    generation = types.ModuleType("vizsage.backends.generation")
    generation.answer_batches = answer_batches  # type: ignore[attr-defined]
    generation.generate_answers = lambda *args, **kwargs: stage.model.generate(*args, **kwargs)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vizsage.backends.generation", generation)
    return stage


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(output_dir=tmp_path / "out", stream_buffer_size=5, eval_batch_size=4, load_in_4bit=False)
