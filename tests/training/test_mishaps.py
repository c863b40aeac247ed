"""What can go wrong besides interruptions: services that fail, mistakes that are fixed, folders with other content."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_continuation import train_with_signal
from tests.training.test_train import adapter_bytes, outcome
from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, DataError, Interrupted, RepeatingError
from vizsage.json_lines import read_jsonl
from vizsage.tracking.tensorboard_tracker import TensorboardTracker
from vizsage.tracking.wandb_tracker import WandbTracker
from vizsage.training import attempt, checkpoints
from vizsage.training.flow import Flow
from vizsage.training.train import train

MakeConfig = Callable[..., Config]


def test_a_tracker_that_fails_costs_no_checkpoint(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """W&B's process is gone from the first line on, and TensorBoard's disk full."""

    class Dead:
        def __getattr__(self, name: str) -> Any:
            raise ConnectionResetError("gone")

    def begin(self: WandbTracker, *_: object) -> None:
        self._run = Dead()

    def full(self: TensorboardTracker, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(WandbTracker, "begin", begin)
    monkeypatch.setattr(TensorboardTracker, "log", full)
    config = make_config(trackers=["tensorboard", "wandb"])
    train(config)
    assert outcome(config)["exit_code"] == 0
    for said in ("W&B failed (gone)", "TensorBoard failed ([Errno 28] No space left on device)"):
        assert caplog.text.count(f"{said}; nothing more is logged there") == 1


def test_a_malformed_key_means_offline(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "abc")
    config = make_config(max_steps=1, use_wandb=True)
    train(config)
    wandb.teardown()
    assert outcome(config)["exit_code"] == 0
    assert list((config.output_dir / "wandb").glob("offline-run-*"))


def test_an_error_in_validation_saves_the_steps_before_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config(output_dir=str(make_config().output_dir) + "-whole", save_steps=100)
    train(whole)
    config = make_config(save_steps=100)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "validate", lambda *_, **__: (_ for _ in ()).throw(RepeatingError("no memory")))
        with pytest.raises(RepeatingError, match="no memory"):
            train(config)
    assert outcome(config) | {"reason": ""} == {"exit_code": 4, "reason": "", "step": 4, "attempt": 1}
    train(config)
    assert adapter_bytes(config) == adapter_bytes(whole)


def test_a_bad_training_image_can_be_skipped_once_it_is_met(make_config: MakeConfig, data_dir: Path) -> None:
    """No checkpoint is written for it: it would forbid changing on_bad_image."""
    (data_dir / "Images" / "5.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"5\.png"):
        train(make_config(save_steps=100, eval_steps=100))
    config = make_config(on_bad_image="skip")
    assert outcome(config)["step"]
    train(config)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 2}


def test_a_bad_validation_image_stops_the_run_unless_told(make_config: MakeConfig, data_dir: Path) -> None:
    (data_dir / "Images" / "6.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"6\.png"):
        train(make_config())
    skipping = make_config(on_bad_image="skip", output_dir=str(data_dir.parent / "skipping"))
    train(skipping)
    scores = [line for line in read_jsonl(skipping.output_dir / "metrics.jsonl") if "exact_match" in line]
    assert [line["failed"] for line in scores] == [3, 3, 3]


def test_a_mistake_in_the_first_attempt_can_be_fixed(make_config: MakeConfig) -> None:
    """Nothing was trained, so nothing is lost by other settings."""
    with pytest.raises(ConfigError, match="max_seq_length"):
        train(make_config(max_seq_length=20))
    config = make_config()
    train(config)
    assert outcome(config)["attempt"] == 2


def test_checkpoints_without_their_record_are_still_those_of_their_run(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 5, 15)
    (config.output_dir / "run.json").unlink()
    with pytest.raises(ConfigError, match="lr was"):
        train(make_config(lr=1e-3))
    train(config)
    assert outcome(config)["step"] == 9


def test_a_base_that_changed_under_the_run_is_refused(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tiny_mllama: Path, tmp_path: Path
) -> None:
    """The same shapes with other weights: a fine-tune of the base, saved over it."""
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(tiny_mllama, base)
    config = make_config(model_name=str(base))
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 5, 15)
    weights = {name: tensor + 1e-3 for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="base_identity changed"):
        train(config)


@pytest.mark.parametrize("name", ["run.json", "evaluation_results", "checkpoint-3"])
def test_an_adapter_cannot_take_a_name_of_the_run(make_config: MakeConfig, name: str) -> None:
    with pytest.raises(ConfigError, match="name that the run itself uses"):
        make_config(name_trained_model=name)


def test_an_adapter_never_replaces_another_folder(make_config: MakeConfig, data_dir: Path) -> None:
    with pytest.raises(ConfigError, match="is there already and is no adapter"):
        train(make_config(save_path=str(data_dir), name_trained_model="Images"))
    assert len(list((data_dir / "Images").iterdir())) == 8


def test_a_save_path_that_cannot_be_written_is_found_before_training(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="save_path"):
        train(make_config(save_path=str(tmp_path / "file")))


def test_resume_false_moves_only_what_a_run_wrote(make_config: MakeConfig, data_dir: Path) -> None:
    """output_dir is the project's folder, data and notes beside the run."""
    project = data_dir.parent
    (project / "notes.txt").write_text("mine")
    train(make_config(output_dir=str(project), max_steps=1))
    train(make_config(output_dir=str(project), max_steps=1, lr=1e-3, resume=False))
    assert (project / "notes.txt").exists()
    assert (data_dir / "Images").is_dir()
    assert (project / "previous-1" / "run.json").exists()


def test_resume_false_interrupted_goes_on_with_the_same_command(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that runs it again after 75 must not begin for ever."""
    config = make_config(resume=False)
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 5, 15)
    train(config)
    attempts = json.loads((config.output_dir / "run.json").read_text())["attempts"]
    assert [a["resumed_from_step"] for a in attempts] == [0, 5]
    train(config)  # it ended: now the command means a new run
    assert (config.output_dir / "previous-1" / "run.json").exists()


def test_throughput_is_counted_at_steps_that_validate(make_config: MakeConfig) -> None:
    config = make_config(logging_steps=4, eval_steps=4)
    train(config)
    speeds = [line["samples_per_s"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert speeds
    assert all(speed > 0 for speed in speeds)


def test_fractions_of_epochs_make_no_step_too_many(make_config: MakeConfig, data_dir: Path) -> None:
    """25 samples x 2.2 epochs are 55 steps of 1; in floating point 25 * 2.2 is a little more than 55."""
    from vizsage.training.plan import make_plan

    path = data_dir / "Dots" / "train.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps((records * 2)[:25]))
    assert make_plan(make_config(epochs=2.2, batch_size=1, grad_accum=1)).total_steps == 55


def test_a_changed_logging_interval_acts_on_continuation(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, make_config(), 4, 15)
    config = make_config(logging_steps=1)
    train(config)
    steps = [line["step"] for line in read_jsonl(config.output_dir / "metrics.jsonl") if "loss" in line]
    assert steps == [2, 4, 5, 6, 7, 8, 9]


def test_a_damaged_best_checkpoint_is_not_claimed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scores = iter((0.9, 0.2, 0.4))
    validate = attempt.validate

    def scored(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**(validate(*args, **kwargs) or {}), "exact_match_score": next(scores)}

    monkeypatch.setattr(attempt, "validate", scored)
    damage = checkpoints.damage
    monkeypatch.setattr(checkpoints, "damage", lambda f: "harmed" if f.name == "checkpoint-4" else damage(f))
    config = make_config()
    train(config)
    assert "has the best weights but harmed" in caplog.text
    assert json.loads((config.output_dir / "run.json").read_text())["best_step"] == 9
    assert "0.9" not in (config.adapter_dir / "README.md").read_text().split("## Settings")[0]


def test_a_run_is_not_set_aside_while_it_is_evaluated(make_config: MakeConfig) -> None:
    """The evaluation would go on writing into a folder that is no longer there."""
    import subprocess
    import sys

    from vizsage.errors import FolderInUse
    from vizsage.record import RunRecord
    from vizsage.training.directory import set_aside

    config = make_config(resume=False)
    results = config.output_dir / "evaluation_results" / "test"
    results.mkdir(parents=True)
    (config.output_dir / "metrics.jsonl").write_text("{}\n")
    hold = "import sys; from pathlib import Path; from vizsage.lock import only_one\n"
    hold += "with only_one(Path(sys.argv[1]), 'evaluating'): print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(results)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as evaluation:
        assert evaluation.stdout is not None
        evaluation.stdout.readline()
        with pytest.raises(FolderInUse, match=f"process {evaluation.pid} on host .* has been evaluating since"):
            set_aside(config, RunRecord(config.output_dir))
        evaluation.kill()
    assert sorted(path.name for path in config.output_dir.iterdir()) == ["evaluation_results", "metrics.jsonl"]
    set_aside(config, RunRecord(config.output_dir))
    assert [path.name for path in config.output_dir.iterdir()] == ["previous-1"]


def test_workers_do_not_hold_the_directory(make_config: MakeConfig) -> None:
    """A forked child that outlives its parent's file must not keep a second start out."""
    from accelerate import PartialState

    from vizsage.training.directory import only_one_run

    config = make_config()
    world = PartialState(cpu=True)
    with only_one_run(config, world):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.read(reader, 1)
            os._exit(0)
    try:
        with only_one_run(config, world):
            pass
    finally:
        os.write(writer, b"x")
        os.waitpid(child, 0)


def test_what_a_killed_run_left_is_deleted_by_who_holds_the_directory(make_config: MakeConfig) -> None:
    """Never while another process holds it: these files may be the ones it is writing."""
    config = make_config(max_steps=1)
    left = [
        ".run.json.0123abcd.tmp",
        ".metrics.jsonl.0123abcd.tmp",
        ".checkpoint-3.partial",
        ".vizsage-adapter.0123abcd.tmp",
    ]
    for name in left:
        (config.output_dir / name).mkdir(parents=True)
        (config.output_dir / name / "half").touch()
    hold = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    command = [sys.executable, "-c", hold, str(config.output_dir / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="another process is working"):
            train(config)
        holder.kill()
    assert {path.name for path in config.output_dir.glob(".*")} == {*left, ".lock"}
    train(config)
    assert [path.name for path in config.output_dir.glob(".*")] == [".lock"]


@pytest.mark.parametrize("then", ["nothing", "another run"])
@pytest.mark.parametrize("when", ["before a checkpoint", "before the adapter"])
def test_a_directory_deleted_under_the_run_ends_it(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, when: str, then: str
) -> None:
    """It writes nothing more there: a folder that is not the run's, or a run without its settings."""
    config = make_config(save_steps=3, eval_steps=100, logging_steps=100)

    def delete(self: object, *_: object) -> None:
        shutil.rmtree(config.output_dir)
        if then == "another run":
            config.output_dir.mkdir()
            (config.output_dir / ".lock").touch()

    if when == "before a checkpoint":
        monkeypatch.setattr(
            Flow,
            "on_step_begin",
            lambda self, args, state, control, **_: delete(self) if state.global_step == 1 else None,
            raising=False,
        )
    else:
        monkeypatch.setattr(attempt.TrainingAttempt, "_take_best", delete)
    with pytest.raises(RepeatingError, match="was deleted or replaced while this process was writing into it"):
        train(config)
    there = list(config.output_dir.iterdir()) if config.output_dir.exists() else []
    assert [path.name for path in there] == ([".lock"] if then == "another run" else [])
