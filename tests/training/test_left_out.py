"""Samples that a run leaves out: none is left, a step has none, many are; and a rate that is reached in few steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.test_continuation import curves, train_with_signal
from tests.training.test_train import outcome
from vizsage.config import Config
from vizsage.errors import DataError, Interrupted
from vizsage.json_lines import read_jsonl
from vizsage.training.plan import make_plan
from vizsage.training.train import train

MakeConfig = Callable[..., Config]
SHORT = 256  # max_seq_length that a question of 500 words exceeds


def lengthen(data_dir: Path, *, but: str | None = None, only: str | None = None) -> None:
    """Make the questions on all training images too long, or on all but one, or on one only."""
    path = data_dir / "Dots" / "train.json"
    records = json.loads(path.read_text())
    for record in records:
        if record["image"] != but and only in (None, record["image"]):
            record["question"] += " what" * 500
    path.write_text(json.dumps(records))


def losses(config: Config) -> list[float | None]:
    return [line["loss"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("num_proc", [0, 1])
@pytest.mark.parametrize("harm", ["too long", "no image"])
def test_a_run_with_no_sample_left_is_refused(
    make_config: MakeConfig, data_dir: Path, harm: str, num_proc: int
) -> None:
    if harm == "too long":
        lengthen(data_dir)
        expected = "all 18 training samples are left out: 18 too long, which a higher max_seq_length fixes; the first: "
    else:
        for number in range(6):
            (data_dir / "Images" / f"{number}.png").write_bytes(b"no image")
        expected = "all 18 training samples are left out: 18 with an image that cannot be used; the first: image "
    config = make_config(max_seq_length=SHORT, on_bad_image="skip", num_proc=num_proc)
    with pytest.raises(DataError, match=expected):
        train(config)
    assert outcome(config) | {"reason": ""} == {"exit_code": 3, "reason": "", "step": 0, "attempt": 1}
    assert not list(config.output_dir.glob("checkpoint-*"))
    assert not config.adapter_dir.exists()


def test_a_run_whose_own_steps_learn_nothing_is_refused_and_saves_nothing(
    make_config: MakeConfig, data_dir: Path
) -> None:
    """There is one image to learn from, the last of the epoch, and the run ends before it."""
    config = make_config(max_seq_length=SHORT, max_steps=1)
    order = make_plan(config).order
    samples = order.from_position(0)
    last = [next(samples) for _ in range(order.total)][-1]
    lengthen(data_dir, but=last.images[0].name)
    with pytest.raises(DataError, match="nothing to learn from: all 4 training samples are left out"):
        train(config)
    assert not list(config.output_dir.glob("checkpoint-*"))
    assert not config.adapter_dir.exists()
    train(make_config(max_seq_length=SHORT, max_steps=9))  # nothing was saved that forbids other settings


def test_steps_without_a_target_have_no_part_in_the_loss(
    make_config: MakeConfig, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sample per step, three in a row left out; a line for two steps is the mean of those that learned.

    Interrupted between the two steps of a line, the lines are the same.
    """
    lengthen(data_dir, only="1.png")
    steps = {"max_seq_length": SHORT, "batch_size": 1, "grad_accum": 1, "epochs": 1, "eval_steps": 100}
    single = make_config(**steps, logging_steps=1, output_dir=str(tmp_path / "single"))
    train(single)
    each = losses(single)
    empty = [number for number, loss in enumerate(each) if loss is None]
    assert empty == list(range(empty[0], empty[0] + 3))
    pairs = [[loss for loss in each[i : i + 2] if loss is not None] for i in range(0, 18, 2)]
    expected = [sum(pair) / len(pair) if pair else None for pair in pairs]
    paired = make_config(**steps, logging_steps=2, output_dir=str(tmp_path / "paired"))
    train(paired)
    assert losses(paired) == [None if loss is None else pytest.approx(loss, abs=1e-5) for loss in expected]
    interrupted = make_config(**steps, logging_steps=2)
    step = next(number for number in (empty[0] + 1, empty[0] + 2) if number % 2)  # steps are counted from 1
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, interrupted, step, 15)
    train(interrupted)
    assert curves(interrupted) == curves(paired)


def test_many_left_out_are_said_with_their_reasons(
    make_config: MakeConfig, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lengthen(data_dir, only="1.png")
    (data_dir / "Images" / "2.png").write_bytes(b"")
    train(make_config(max_seq_length=SHORT, on_bad_image="skip", save_steps=100))
    counts = "3 too long, which a higher max_seq_length fixes, 3 with an image that cannot be used"
    assert caplog.text.count(f"6 of 18 training samples (33.3%) are left out: {counts}; the first: ") == 2


@pytest.mark.parametrize(("max_steps", "warmup", "used"), [(1, 10, 0), (6, 10, 3), (4, 2, 2)])
def test_the_learning_rate_reaches_its_setting(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, max_steps: int, warmup: int, used: int
) -> None:
    config = make_config(
        max_steps=max_steps, warmup_steps=warmup, logging_steps=1, eval_steps=100, scheduler="constant_with_warmup"
    )
    train(config)
    rates = [line["lr"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert rates == pytest.approx(
        [config.lr * min(1, step / max(used, 1)) if used else config.lr for step in range(max_steps)]
    )
    assert (f"warmup_steps: {warmup} replaced by {used}" in caplog.text) == (used < warmup)
