"""Real lacks of memory: PyTorch is given a small share of the GPU."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_train import outcome
from vizsage.config import Config
from vizsage.errors import RepeatingError

pytestmark = pytest.mark.gpu
MIB = 2**20
MakeConfig = Callable[..., Config]
Leave = Callable[[int], None]


@pytest.fixture
def long_texts(data_dir: Path) -> None:
    """128 images with one question each, of 560 to 690 tokens: MiB of activations each, even here.

    No two are of one length: without padding attention takes no mask, and then a kernel that needs more memory.
    """
    import shutil

    records = []
    for number in range(128):
        name = f"long-{number}.png"
        shutil.copy(data_dir / "Images" / "0.png", data_dir / "Images" / name)
        question = "what colour is it " * 90 + "it " * number
        record = {"image": name, "question": question, "answer": "red", "need_external_knowledge": False}
        records.append(record)
    (data_dir / "Dots" / "train.json").write_text(json.dumps(records))


@pytest.fixture
def auto(make_config: MakeConfig, long_texts: None) -> Callable[..., Config]:
    """The run on the GPU in float32, with batch_size: auto."""

    def make(**changes: Any) -> Config:
        settings = {"device": "cuda", "batch_size": "auto", "grad_accum": 1, "max_steps": 2, "eval_batch_size": 6}
        return make_config(**(settings | changes))

    return make


@pytest.mark.parametrize("share", [True, False])
def test_the_largest_batch_that_fits_is_found(auto: Callable[..., Config], leave: Leave, share: bool) -> None:
    """Room for 12 of the longest questions: 8 fit, 16 do not; all is as before."""
    import torch

    from tests.training.test_batch_size import trial_of
    from vizsage.training.batch_size import find_batch_size
    from vizsage.training.plan import make_plan

    config = auto(share_images=share)
    trial, model = trial_of(config)
    leave(16 * 1024 * MIB)
    trial(8)  # compiles what is compiled, and opens cuBLAS
    held = torch.cuda.memory_allocated()
    peaks = []
    for size in (8, 16):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vizsage.training.batch_size._HEAD_ROOM", 0.0)
            trial(size)
        peaks.append(torch.cuda.max_memory_allocated() - held)
    assert peaks[0] < 0.8 * peaks[1]
    leave(sum(peaks) // 2)
    found = find_batch_size(make_plan(config), model, trial.collate, trial.sharing)
    assert found == 8
    assert torch.cuda.memory_allocated() <= held + MIB
    with pytest.raises(torch.OutOfMemoryError):
        trial(16)
    trial(8)


def test_a_run_finds_its_batch_and_trains_with_it(auto: Callable[..., Config], leave: Leave) -> None:
    from vizsage.training.train import train

    leave(400 * MIB)
    config = auto()
    train(config)
    size = json.loads((config.output_dir / "run.json").read_text())["settings"]["batch_size"]
    assert 1 <= size <= 64
    assert outcome(config)["exit_code"] == 0


def test_a_batch_that_does_not_fit_ends_the_run_with_the_numbers(auto: Callable[..., Config], leave: Leave) -> None:
    from vizsage.training.train import train

    leave(150 * MIB)
    config = auto(batch_size=64, share_images=False)
    with pytest.raises(
        RepeatingError, match=r"during training: peak 0\.\d of 0\.\d GiB.* with .*batch_size 64"
    ) as caught:
        train(config)
    assert "lower batch_size to 32 with grad_accum 2 (the same step)" in str(caught.value)
    assert outcome(config)["reason"] == str(caught.value)
    assert outcome(config)["exit_code"] == 4


def test_no_room_for_the_base_model(make_config: MakeConfig, leave: Leave) -> None:
    from vizsage.training.train import train

    leave(0)
    config = make_config(device="cuda")
    with pytest.raises(RepeatingError, match="during loading the base model"):
        train(config)
    assert outcome(config)["exit_code"] == 4


def test_no_room_in_a_validation(make_config: MakeConfig, leave: Leave, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before it are saved, with the memory that it has given back."""
    from vizsage.training import attempt
    from vizsage.training.train import train

    validate = attempt.validate

    def without_room(*args: Any, **kwargs: Any) -> Any:
        leave(0)
        try:
            return validate(*args, **kwargs)
        finally:
            leave(1024 * MIB)

    monkeypatch.setattr(attempt, "validate", without_room)
    config = make_config(device="cuda", num_proc=0)
    with pytest.raises(RepeatingError, match=r"during a validation.*lower max_seq_length"):
        train(config)
    assert outcome(config)["exit_code"] == 4
    assert outcome(config)["step"] == 4
    assert (config.output_dir / "checkpoint-4").is_dir()


def test_no_room_in_an_evaluation(
    make_config: MakeConfig, data_dir: Path, leave: Leave, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vizsage.evaluation import evaluate as run

    load_answerer = run.load_answerer

    def without_room(*args: Any) -> Any:
        answerer = load_answerer(*args)
        leave(0)
        return answerer

    monkeypatch.setattr(run, "load_answerer", without_room)
    with pytest.raises(RepeatingError, match=r"during answering.*max_new_tokens.*lower max_seq_length"):
        run.evaluate(make_config(device="cuda"), split="val", base=True)
