"""A run from its settings to its adapter: its files, its refusals, its continuation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from tests.training.test_card import filled_in
from vizsage.config import Config
from vizsage.data import collate
from vizsage.data.images_once import ImagesOnce
from vizsage.errors import ConfigError, FolderInUse, RepeatingError
from vizsage.evaluation.predict import predict
from vizsage.files import sha256_file
from vizsage.json_lines import read_jsonl
from vizsage.training import attempt, checkpoints, loader
from vizsage.training.train import train

MakeConfig = Callable[..., Config]


def outcome(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.output_dir / "outcome.json").read_text())
    return found


def adapter_bytes(config: Config) -> dict[str, bytes]:
    return {
        name: (config.adapter_dir / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")
    }


def said_by_the_card(card: str, config: Config, image: Path, folder: Path) -> str:
    """What the code in a model card prints, in a process that may import transformers and peft only.

    Merged as the card says, the model gives the same tokens.
    """
    code, merge, _ = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    code = filled_in(code, BASE=config.model_name, IMAGE=image, QUESTION="what colour is it")
    merged = f"""
import sys
{merge}
merged = AutoModelForImageTextToText.from_pretrained("merged", dtype="auto")
merged.generation_config = base.generation_config
with torch.no_grad():
    again = merged.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
assert again.tolist() == tokens.tolist(), (again, tokens)
assert "vizsage" not in sys.modules
"""
    (folder / "card.py").write_text(code + merged)
    command = [sys.executable, str(folder / "card.py")]
    done = subprocess.run(command, cwd=config.adapter_dir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_run_leaves_the_promised_files(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(val_at_start=True)
    result = train(config)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 1}
    for name in ("run.json", "config.yaml", "loss.png"):
        assert (config.output_dir / name).stat().st_size > 0
    lines = list(read_jsonl(config.output_dir / "metrics.jsonl"))
    assert [line["step"] for line in lines if "loss" in line] == [2, 4, 6, 8]
    validations = [line for line in lines if "exact_match" in line]
    assert [line["step"] for line in validations] == [0, 4, 8, 9]
    assert all(line["val_samples"] == 6 for line in validations)
    assert all(0 < line["val_loss"] < 20 for line in validations)
    assert validations[-1]["val_loss"] < validations[0]["val_loss"]  # it has learned
    at_start, best = result.validation_at_start, result.validation
    assert at_start is not None
    assert best is not None
    assert (at_start.step, at_start.val_loss) == (0, validations[0]["val_loss"])
    assert best.step == result.best_step > 0
    with Image.open(config.output_dir / "loss.png") as drawn:
        assert drawn.width == 1000
    assert (config.adapter_dir / "fingerprint.json").exists()
    saved = checkpoints.checkpoints(config.output_dir)
    assert saved
    for folder in (config.adapter_dir, *saved):
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] is None
    assert not any((folder / "README.md").exists() for folder in saved)  # PEFT's contains the path of the base
    card = (config.adapter_dir / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: peft")  # the base is a folder that names no repository
    assert str(tmp_path) not in card
    assert config.model_name not in card
    assert "before training" in card
    image = config.images_dir / "0.png"
    assert said_by_the_card(card, config, image, tmp_path) == predict(config, image, "what colour is it").text
    record = json.loads((config.output_dir / "run.json").read_text())
    assert record["counts"]["train"]["kept"] == 18
    assert record["attempts"][0]["exit_code"] == 0
    assert record["sample_hashes"]["sha256"] == sha256_file(config.output_dir / "sample_hashes.json")
    assert record["sample_hashes"]["images_by"] == "content"


@pytest.mark.parametrize("mask", [0o002, 0o027, 0o077])
def test_every_file_has_the_mode_of_the_umask(make_config: MakeConfig, umask: Callable[[int], None], mask: int) -> None:
    """Weights too, which safetensors makes readable for their owner only: colleagues and pods have other ids."""
    umask(mask)
    config = make_config(max_steps=1)
    train(config)
    there = [path for path in config.output_dir.rglob("*") if not path.is_symlink()]
    assert len(there) > 20
    wrong = [path for path in there if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~mask]
    assert wrong == []


def test_training_lowers_the_loss(make_config: MakeConfig) -> None:
    """A random output head bounds how far it can fall; without learning it stays within 2%."""
    config = make_config(epochs=8, eval_steps=1000, save_steps=1000, lora_dropout=0)
    train(config)
    losses = [line["loss"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_the_wait_for_data_is_measured(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps per line, each of which takes half a second to be read."""
    cut_step = loader.cut_step

    def slow(*args: Any) -> Any:
        time.sleep(0.5)
        return cut_step(*args)

    monkeypatch.setattr(loader, "cut_step", slow)
    config = make_config(max_steps=4, eval_steps=1000)
    train(config)
    lines = [line for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    for line in lines:
        seconds = 2 * 4 / line["samples_per_s"]
        assert 0.99 <= line["data_wait_share"] * seconds < seconds
    assert len(lines) == 2


def test_batches_are_made_for_the_model_that_takes_them(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels in its precision, and rows that are short where its masks are dense."""
    made: list[dict[str, Any]] = []

    class Noted(collate.TrainCollator):
        def __init__(self, *args: Any, **how: Any) -> None:
            made.append(how)
            super().__init__(*args, **how)

    monkeypatch.setattr(attempt, "TrainCollator", Noted)
    for share in (True, False):
        train(make_config(max_steps=1, share_images=share, output_dir=str(make_config().output_dir) + str(share)))
    assert made == [
        {"share_images": True, "pixels": torch.float32, "row_tokens": 1024},
        {"share_images": False, "pixels": torch.float32, "row_tokens": None},
    ]


def test_sharing_images_changes_no_loss(make_config: MakeConfig, tmp_path: Path) -> None:
    """The same samples in the same steps: 2 x 2 questions of up to 3 on an image, validated on the way."""
    found = {}
    for share in (True, False):
        config = make_config(
            lora_dropout=0, logging_steps=1, share_images=share, output_dir=str(tmp_path / f"shared-{share}")
        )
        train(config)
        found[share] = [line["loss"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert found[True] == pytest.approx(found[False], abs=1e-4)
    assert len(found[True]) == 9


@pytest.mark.parametrize(("asked", "batch_size", "found"), [(1, 2, "1.0"), (3, 1, "1.5"), (3, 2, None)])
def test_few_questions_of_a_image_in_a_step_are_not_shared_on_a_cpu(
    make_config: MakeConfig,
    data_dir: Path,
    caplog: pytest.LogCaptureFixture,
    asked: int,
    batch_size: int,
    found: str | None,
) -> None:
    """Few are asked of it, or a step takes few of them: 2 x batch_size."""
    path = data_dir / "Dots" / "train.json"
    path.write_text(json.dumps([record for n, record in enumerate(json.loads(path.read_text())) if n % 3 < asked]))
    with caplog.at_level("INFO"):
        train(make_config(max_steps=1, share_images="auto", batch_size=batch_size))
    assert (f"off; a step asks {found} questions of an image" in caplog.text) == (found is not None)
    assert ("share_images: auto" in caplog.text) == (found is not None)


@pytest.mark.parametrize("num_proc", [0, 1])
def test_a_transformers_that_prepares_images_in_another_way_is_noticed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, num_proc: int
) -> None:
    """Copies of the images would each be encoded, and trees see the wrong ones."""
    once = ImagesOnce.__call__

    def copying(self: Any, images: Any, **kwargs: Any) -> Any:
        return once(self, [[one.copy() for one in image] for image in images], **kwargs)

    monkeypatch.setattr(ImagesOnce, "__call__", copying)
    config = make_config(num_proc=num_proc)
    with pytest.raises(ConfigError, match="share_images: found the pixels of 4 images where there are 2"):
        train(config)
    assert outcome(config)["exit_code"] == 2


def test_a_finished_run_is_not_run_again(make_config: MakeConfig) -> None:
    config = make_config()
    train(config)
    before = (config.output_dir / "run.json").read_bytes()
    train(config)
    assert (config.output_dir / "run.json").read_bytes() == before


def test_a_deleted_adapter_is_delivered_again_from_the_checkpoint(make_config: MakeConfig) -> None:
    import shutil

    config = make_config()
    train(config)
    before = adapter_bytes(config)
    shutil.rmtree(config.adapter_dir)
    train(config)
    assert adapter_bytes(config) == before
    assert outcome(config)["attempt"] == 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora_r": 8}, "lora_r was 4, is now 8"),
        ({"seed": 1}, "seed was 3407"),
        ({"batch_size": 4}, "x processes was 4"),
    ],
)
def test_other_settings_on_the_same_output_dir_are_refused(
    make_config: MakeConfig, changes: dict[str, Any], named: str
) -> None:
    train(make_config(max_steps=2))
    with pytest.raises(ConfigError, match=named):
        train(make_config(max_steps=2, **changes))


def test_other_data_is_refused(make_config: MakeConfig, data_dir: Path) -> None:
    train(make_config(max_steps=2))
    path = data_dir / "Dots" / "train.json"
    path.write_text(path.read_text().replace("what shape", "which shape", 1))
    with pytest.raises(ConfigError, match="data was"):
        train(make_config(max_steps=2))


def test_the_same_step_cut_otherwise_continues(make_config: MakeConfig) -> None:
    train(make_config(max_steps=2, batch_size=2, grad_accum=2))
    train(make_config(max_steps=2, batch_size=4, grad_accum=1))


def test_resume_false_sets_the_earlier_run_aside(make_config: MakeConfig) -> None:
    train(make_config(max_steps=2))
    config = make_config(max_steps=2, lora_r=8, resume=False)
    train(config)
    earlier = config.output_dir / "previous-1"
    assert (earlier / "run.json").exists()
    assert (earlier / config.name_trained_model / "adapter_model.safetensors").exists()
    assert outcome(config)["attempt"] == 1


def test_a_fresh_seed_is_drawn_recorded_and_kept(make_config: MakeConfig) -> None:
    config = make_config(max_steps=2, reproducible=False)
    train(config)
    drawn = json.loads((config.output_dir / "run.json").read_text())["identity"]["seed"]
    assert drawn != config.seed
    train(config)  # the same command continues with the recorded seed
    repeated = make_config(max_steps=2, seed=drawn, output_dir=str(config.output_dir) + "-again")
    train(repeated)
    assert adapter_bytes(repeated) == adapter_bytes(config)


def test_half_of_a_group_is_refused_at_once(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for five minutes for a process that was never started."""
    config = make_config()
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="RANK=0 WORLD_SIZE=2 LOCAL_RANK=0: MASTER_ADDR, MASTER_PORT missing"):
        train(config)
    assert not config.output_dir.exists()


def test_a_second_process_on_the_directory_is_refused(make_config: MakeConfig) -> None:
    config = make_config(max_steps=2)
    config.output_dir.mkdir()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(config.output_dir / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(FolderInUse, match="another process is working"):
            train(config)
        holder.kill()
    assert not (config.output_dir / "run.json").exists()


def test_an_output_dir_below_a_file_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="output_dir"):
        train(make_config(output_dir=str(tmp_path / "file" / "run")))


def test_a_loss_that_is_not_finite_ends_the_run_before_the_weights_are_harmed(
    make_config: MakeConfig, tiny_mllama: Path, tmp_path: Path
) -> None:
    """A base model with a NaN in its head."""
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_mllama, broken)
    weights = load_file(broken / "model.safetensors")
    weights[next(name for name in weights if name.endswith("lm_head.weight"))][0, 0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    config = make_config(model_name=str(broken))
    with pytest.raises(RepeatingError, match="not finite at step 1"):
        train(config)
    assert outcome(config)["exit_code"] == 4
    assert not config.adapter_dir.exists()


def test_without_a_validation_split_the_last_weights_are_saved(
    make_config: MakeConfig, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (data_dir / "Dots" / "val.json").unlink()
    config = make_config(max_steps=2, use_early_stopping=True)
    train(config)
    assert (config.adapter_dir / "adapter_model.safetensors").exists()
    assert "no validation split: no score during training, use_early_stopping: true cannot act" in caplog.text


def test_samples_that_do_not_fit_are_left_out_and_counted(make_config: MakeConfig, data_dir: Path) -> None:
    path = data_dir / "Dots" / "train.json"
    records = json.loads(path.read_text())
    records[0]["question"] = "what " * 500
    path.write_text(json.dumps(records))
    config = make_config(max_seq_length=256)
    train(config)
    left_out = json.loads((config.output_dir / "run.json").read_text())["left_out"]
    assert list(left_out) == ["train-0"]


def test_a_bad_image_is_skipped_when_told_so(make_config: MakeConfig, data_dir: Path) -> None:
    (data_dir / "Images" / "1.png").write_bytes(b"")
    config = make_config(on_bad_image="skip")
    train(config)
    left_out = json.loads((config.output_dir / "run.json").read_text())["left_out"]
    assert sorted(left_out) == ["train-3", "train-4", "train-5"]


@pytest.mark.parametrize("num_proc", [0, 2])
def test_a_bad_image_stops_the_run_by_default(make_config: MakeConfig, data_dir: Path, num_proc: int) -> None:
    from vizsage.errors import DataError

    (data_dir / "Images" / "1.png").write_bytes(b"")
    config = make_config(num_proc=num_proc)
    with pytest.raises(DataError, match=r"1\.png") as caught:
        train(config)
    assert "\n" not in str(caught.value)


def test_the_best_weights_are_delivered_and_kept(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Scores 0.5 at step 4, 0.2 at 8, 0.4 at 9, one checkpoint kept: the adapter is that of step 4.

    That of step 0 was higher, which is said: there is no adapter of it.
    """
    from safetensors.torch import load_file

    scores = iter((0.9, 0.5, 0.2, 0.4))
    validate = attempt.validate

    def scored(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**(validate(*args, **kwargs) or {}), "exact_match_score": next(scores)}

    monkeypatch.setattr(attempt, "validate", scored)
    config = make_config(n_saves=1, val_at_start=True)
    train(config)
    assert "0.900 before the first step and never as high since; the adapter has 0.500 (step 4)" in caplog.text
    kept = sorted(p.name for p in config.output_dir.glob("checkpoint-*"))
    assert kept == ["checkpoint-4", "checkpoint-9"]
    best, last, delivered = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (config.output_dir / "checkpoint-4", config.output_dir / "checkpoint-9", config.adapter_dir)
    )
    assert all(delivered[name].equal(best[name]) for name in best)
    assert not all(delivered[name].equal(last[name]) for name in last)
    assert json.loads((config.output_dir / "run.json").read_text())["best_step"] == 4


def test_early_stopping_ends_the_run_and_delivers_the_best(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validated at every step of 9; no rise after step 2; patience is a third of all steps, 3. Step 0 counts not."""
    scores = iter((0.9, 0.1, 0.6, 0.5, 0.5, 0.5, 0.5))
    validate = attempt.validate

    def scored(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**(validate(*args, **kwargs) or {}), "exact_match_score": next(scores)}

    monkeypatch.setattr(attempt, "validate", scored)
    config = make_config(eval_steps=1, use_early_stopping=True, early_stopping_patience_ratio=0.33, val_at_start=True)
    train(config)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": 5, "attempt": 1}
    assert json.loads((config.output_dir / "run.json").read_text())["best_step"] == 2


def test_a_full_disk_ends_the_run_and_loses_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    """A real file system that fills up: the checkpoint of step 3 is whole, and with free space the run continues."""
    import os

    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        config = make_config(output_dir=str(disk / "run"), eval_steps=1000)
        train(config)
        whole = adapter_bytes(config)
        used = sum(p.stat().st_size for p in (config.output_dir / "checkpoint-3").iterdir())
        small = make_config(output_dir=str(disk / "small"), eval_steps=1000)
        with (disk / "filler").open("wb") as filler:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            filler.write(b"x" * (free - int(1.6 * used)))
        with pytest.raises((OSError, SafetensorError), match="No space left"):  # whichever file finds no room
            train(small)
        newest = checkpoints.newest_whole(small.output_dir)
        assert newest is not None
        assert checkpoints.step_of(newest) == 3
        (disk / "filler").unlink()
        train(small)
        assert adapter_bytes(small) == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_several_visible_gpus_without_torchrun_use_one(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The Trainer counts the GPUs it sees; here it sees two."""
    from trl import SFTConfig

    from vizsage.training.trainer_arguments import trainer_arguments

    monkeypatch.setattr(SFTConfig, "n_gpu", 2)
    arguments = trainer_arguments(make_config(), total_steps=1, seed=0)
    assert arguments.n_gpu == 1
    assert "2 GPUs are visible" in caplog.text
