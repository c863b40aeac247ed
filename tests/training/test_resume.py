"""Done, continue or begin: each line of the table in vizsage.training.resume."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState

from vizsage.config import Config
from vizsage.contract.run_files import Outcome
from vizsage.errors import CheckpointError, ConfigError
from vizsage.files import write_json
from vizsage.record import RunRecord, write_outcome
from vizsage.training import checkpoints
from vizsage.training.plan import make_plan
from vizsage.training.progress import Progress
from vizsage.training.resume import Begin, Continue, Done, done_without_peers, resumption

MakeConfig = Callable[..., Config]


@pytest.fixture
def world() -> PartialState:
    return PartialState(cpu=True)


def attempted(config: Config, *, exit_code: int | None, step: int = 0, adapter: bool = False) -> None:
    """What an attempt with `config` leaves. No exit code: it was killed. `step`: of its checkpoint, 0 for none."""
    plan = make_plan(config)
    record = RunRecord(config.output_dir)
    record.begin_attempt(plan.facts, 0, resume=config.resume)
    if step:
        with checkpoints.writing(config.output_dir, step, main=True, barrier=lambda: None) as folder:
            write_json(folder / checkpoints.IDENTITY, plan.identity)
            write_json(folder / checkpoints.PROGRESS, Progress().as_dict())
    if adapter:
        config.adapter_dir.mkdir()
        for name in ("adapter_model.safetensors", "adapter_config.json"):
            (config.adapter_dir / name).touch()
    if exit_code is not None:
        record.end_attempt(step=step, exit_code=exit_code, reason="a reason")
        write_outcome(config.output_dir, Outcome(exit_code=exit_code, reason="a reason", step=step, attempt=1))


def test_an_empty_folder_begins(make_config: MakeConfig, world: PartialState) -> None:
    answer = resumption(make_config(), world)
    assert isinstance(answer, Begin)
    assert not answer.record.exists


@pytest.mark.parametrize("exit_code", [None, 0, 1, 75])
def test_a_checkpoint_is_continued_however_the_attempt_ended(
    make_config: MakeConfig, world: PartialState, exit_code: int | None
) -> None:
    config = make_config()
    attempted(config, exit_code=exit_code, step=3)
    answer = resumption(config, world)
    assert isinstance(answer, Continue)
    assert answer.checkpoint == config.output_dir / "checkpoint-3"
    assert answer.record.attempt == 1
    assert not done_without_peers(config)


@pytest.mark.parametrize("exit_code", [None, 1, 2, 3, 4, 75])
def test_without_a_checkpoint_it_begins(make_config: MakeConfig, world: PartialState, exit_code: int | None) -> None:
    config = make_config()
    attempted(config, exit_code=exit_code)
    assert isinstance(resumption(config, world), Begin)
    assert isinstance(resumption(make_config(lora_r=8), world), Begin), "nothing is lost by other settings"


def test_with_its_adapter_it_is_done(make_config: MakeConfig, world: PartialState) -> None:
    config = make_config()
    attempted(config, exit_code=0, step=9, adapter=True)
    assert resumption(config, world) == Done(9)
    assert done_without_peers(config)
    (config.adapter_dir / "adapter_model.safetensors").unlink()
    assert isinstance(resumption(config, world), Continue)
    assert not done_without_peers(config)
    assert resumption(make_config(save_model=False), world) == Done(9)


@pytest.mark.parametrize(("exit_code", "step"), [(0, 9), (75, 3), (0, 0)])
def test_other_settings_are_refused_where_something_would_be_lost(
    make_config: MakeConfig, world: PartialState, exit_code: int, step: int
) -> None:
    attempted(make_config(), exit_code=exit_code, step=step)
    with pytest.raises(ConfigError, match="lora_r was 4, is now 8"):
        resumption(make_config(lora_r=8), world)


@pytest.mark.parametrize(("exit_code", "step"), [(0, 9), (75, 3), (None, 3)])
@pytest.mark.parametrize("change", [{"max_steps": 12}, {"epochs": 2.5}])
def test_more_steps_continue_and_fewer_are_refused(
    make_config: MakeConfig, world: PartialState, exit_code: int | None, step: int, change: dict[str, Any]
) -> None:
    attempted(make_config(), exit_code=exit_code, step=step, adapter=exit_code == 0)
    config = make_config(**change)
    assert not done_without_peers(config)
    answer = resumption(config, world)
    assert isinstance(answer, Continue)
    assert answer.plan.total_steps == 12
    [more] = answer.plan.extensions
    assert (more.at_step, more.from_steps, more.to_steps, more.schedule) == (step, 9, 12, "stretch")
    with pytest.raises(
        ConfigError, match=r"a run of 9 steps, and these settings are for 8 \(max_steps was null"
    ) as told:
        resumption(make_config(max_steps=8), world)
    assert "\n" not in str(told.value)
    with pytest.raises(ConfigError, match=r"other settings \(lora_r was 4, is now 8\)"):
        resumption(make_config(lora_r=8, **change), world)


def test_the_same_number_of_steps_in_other_words_is_done(make_config: MakeConfig, world: PartialState) -> None:
    attempted(make_config(), exit_code=0, step=9, adapter=True)
    assert resumption(make_config(max_steps=9), world) == Done(9)
    assert done_without_peers(make_config(epochs=2.1, max_steps=9))


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
@pytest.mark.parametrize(("adapter", "advice"), [(True, "init_adapter="), (False, "resume=false")])
def test_more_steps_need_the_last_checkpoint(
    make_config: MakeConfig, world: PartialState, harm: str, adapter: bool, advice: str
) -> None:
    """From an earlier one, steps that were trained would be trained again, differently."""
    attempted(make_config(), exit_code=None, step=6)
    attempted(make_config(), exit_code=0, step=9, adapter=adapter)
    last = make_config().output_dir / "checkpoint-9"
    if harm == "deleted":
        shutil.rmtree(last)
    else:
        (last / checkpoints.IDENTITY).write_text("{}")
    with pytest.raises(CheckpointError, match=f"checkpoint-9 is missing or damaged.*{advice}"):
        resumption(make_config(max_steps=12), world)
    if adapter:
        assert resumption(make_config(), world) == Done(9)


def test_resume_false_sets_the_run_aside(make_config: MakeConfig, world: PartialState) -> None:
    attempted(make_config(), exit_code=0, step=9, adapter=True)
    config = make_config(resume=False)
    assert not done_without_peers(config)
    answer = resumption(config, world)
    assert isinstance(answer, Begin)
    assert not answer.record.exists
    assert (config.output_dir / "previous-1" / "checkpoint-9").is_dir()


@pytest.mark.parametrize(
    ("exit_code", "kind"), [(None, Continue), (75, Continue), (1, Continue), (0, Begin), (4, Begin)]
)
def test_a_run_begun_with_resume_false_is_continued_until_it_has_ended(
    make_config: MakeConfig, world: PartialState, exit_code: int | None, kind: type
) -> None:
    config = make_config(resume=False)
    attempted(config, exit_code=exit_code, step=3)
    assert isinstance(resumption(config, world), kind)
    assert (config.output_dir / "previous-1").exists() == (kind is Begin)


def test_a_damaged_checkpoint_leaves_the_one_before_it(make_config: MakeConfig, world: PartialState) -> None:
    config = make_config()
    attempted(config, exit_code=None, step=3)
    newer = Path(config.output_dir / "checkpoint-6")
    newer.mkdir()
    answer = resumption(config, world)
    assert isinstance(answer, Continue)
    assert checkpoints.step_of(answer.checkpoint) == 3


def test_a_record_without_a_seed_is_refused(make_config: MakeConfig, world: PartialState) -> None:
    config = make_config()
    attempted(config, exit_code=75)
    write_json(config.output_dir / "run.json", {"identity": {}, "attempts": [{}]})
    with pytest.raises(CheckpointError, match=r"run\.json: not a record of a run .*seed"):
        resumption(config, world)


def test_a_batch_size_to_be_found_is_the_one_of_the_run(make_config: MakeConfig, world: PartialState) -> None:
    config = make_config(batch_size="auto", grad_accum=1)
    plan = make_plan(config).with_batch_size(4)
    RunRecord(config.output_dir).begin_attempt(plan.facts, 0)
    answer = resumption(config, world)
    assert isinstance(answer, Begin)
    assert answer.plan.config.batch_size == 4
    other = resumption(make_config(batch_size="auto", grad_accum=1, lora_r=8), world)
    assert isinstance(other, Begin)
    assert not other.plan.settled, "it may not fit with other settings"
