"""batch_size: auto: what is tried, what it leaves behind, and what a run makes of the number.

A CPU has no limit, so a hook on the real model sets one: more tokens in a forward pass than that in train mode
raise PyTorch's own error. tests/gpu has the same with a real one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.training.test_continuation import train_with_signal
from tests.training.test_train import adapter_bytes, outcome
from vizsage.config import Config
from vizsage.data.collate import TrainCollator
from vizsage.errors import ConfigError, DataError, Interrupted, RepeatingError
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.loading.hf import load_base
from vizsage.models.shared_image.sharing import share_images
from vizsage.training import attempt
from vizsage.training import train as training
from vizsage.training.batch_size import Trial, find_batch_size, largest_that_fits, longest_groups, sizes
from vizsage.training.loader import cut_step
from vizsage.training.plan import make_plan
from vizsage.training.train import train

MakeConfig = Callable[..., Config]


def limited(model: Any, tokens: int) -> Any:
    """`model`, which runs out of memory above so many tokens of a forward pass in train mode."""

    def refuse(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if module.training and kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.get_base_model().register_forward_pre_hook(refuse, with_kwargs=True)
    return model


def recorded(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.output_dir / "run.json").read_text())
    return found


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets the tokens that fit into the runs of this test."""
    monkeypatch.setattr(training, "memory_is_limited", lambda config: True)

    def set_limit(tokens: int) -> None:
        monkeypatch.setattr(attempt, "add_adapter", lambda *args: limited(add_adapter(*args), tokens))

    return set_limit


@pytest.fixture
def tokens_of(make_config: MakeConfig) -> Callable[..., int]:
    """The most tokens of a micro-batch that the trial makes with a batch size."""

    def count(batch_size: int, **changes: Any) -> int:
        trial, _ = trial_of(make_config(batch_size="auto", **changes))
        return max(batch["input_ids"].numel() for batch in trial.batches(batch_size))

    return count


def trial_of(config: Config) -> tuple[Trial, Any]:
    loaded = load_base(config)
    model = add_adapter(loaded, config)
    sharing = share_images(model.get_base_model(), loaded.processor, config)
    collate = TrainCollator(loaded.processor, config, share_images=sharing is not None)
    return Trial(make_plan(config), model, collate, sharing), model


# --- the search ------------------------------------------------------------------------------------------------------


def test_the_first_that_fits_wins_and_smaller_ones_are_not_tried() -> None:
    tried = []

    def take(size: int) -> None:
        tried.append(size)
        if size > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if size > 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    assert largest_that_fits([32, 16, 8, 4, 2, 1], take) == 4
    assert tried == [32, 16, 8, 4]


def test_other_errors_are_not_taken_for_a_batch_that_is_too_large() -> None:
    def fail(size: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        largest_that_fits([2, 1], fail)


@pytest.mark.parametrize(
    ("grad_accum", "processes", "expected"),
    [(1, 1, [16, 8, 4, 2, 1]), (2, 1, [8, 4, 2, 1]), (2, 2, [4, 2, 1]), (20, 1, [1])],
)
def test_a_step_is_not_longer_than_an_epoch(
    make_config: MakeConfig, grad_accum: int, processes: int, expected: list[int]
) -> None:
    """18 samples."""
    assert sizes(make_plan(make_config(grad_accum=grad_accum, batch_size="auto"), 0, processes)) == expected


@pytest.mark.parametrize("share", [True, False])
def test_the_longest_samples_are_tried(make_config: MakeConfig, data_dir: Path, share: bool) -> None:
    path = data_dir / "Dots" / "train.json"
    records = json.loads(path.read_text())
    records[10]["question"] = "which " * 40  # on image 3
    records[4]["answer"] = "square " * 20  # on image 1
    records[15]["question"] = "what " * 800  # on image 5: too long for max_seq_length
    path.write_text(json.dumps(records))
    config = make_config(batch_size="auto", share_images=share, max_seq_length=512)
    trial, _ = trial_of(config)
    assert [group[0].images[0].name for group in trial.groups[:2]] == ["3.png", "1.png"]
    first = trial.groups[0]
    assert len(first) == (3 if share else 1)
    assert "train-10" in [sample.sample_id for sample in first]
    assert share or "train-15" not in [s.sample_id for group in trial.groups for s in group]
    [batch] = trial.batches(2)
    alone = trial.collate(first)
    assert batch["input_ids"].numel() > alone["input_ids"].numel()


@pytest.mark.parametrize(
    ("images", "questions", "streaming"), [(6, 20, False), (6, 20, True), (64, 2, True), (64, 2, False)]
)
@pytest.mark.parametrize("share", [True, False])
def test_images_do_not_stand_in_twice(
    make_config: MakeConfig, data_dir: Path, share: bool, images: int, questions: int, streaming: bool
) -> None:
    """No step has more tokens than what is tried, where there are few images, or a stream reads each again."""
    words = {"answer": "red", "need_external_knowledge": False}
    records = [
        {"image": f"{image}.png", "question": f"question {number} of {image} is this one?"} | words
        for number in range(questions)
        for image in range(images)
    ]
    for image in range(images):
        Image.new("RGB", (40, 30), "red").save(data_dir / "Images" / f"{image}.png")
    (data_dir / "Dots" / "train.json").write_text(json.dumps(records))
    config = make_config(
        batch_size="auto", grad_accum=1, max_seq_length=512, share_images=share, use_streaming=streaming,
        stream_buffer_size=64,
    )  # fmt: skip
    trial, _ = trial_of(config)
    order = make_plan(config).order
    for size in (16, 64):
        tried = max(batch["input_ids"].numel() for batch in trial.batches(size))
        steps = [list(islice(order.from_position(step * size), size)) for step in range(order.total // size)]
        batches = [batch for step in steps for batch in cut_step(step, trial.collate, size)]
        assert tried >= max(batch["input_ids"].numel() for batch in batches)


def test_large_images_count_where_they_make_tokens(make_config: MakeConfig, data_dir: Path) -> None:
    """One of six images is larger and has a short answer; one candidate of each kind is looked at."""
    from tests.families import model_folder

    Image.new("RGB", (300, 200), "red").save(data_dir / "Images" / "0.png")
    config = make_config(model_name=str(model_folder("qwen2_vl")), batch_size="auto")
    trial, _ = trial_of(config)
    [longest] = longest_groups(make_plan(config), trial.collate, limit=1)
    assert longest[0].images[0].name == "0.png"


def test_a_bad_image_among_the_longest_stops_the_run(make_config: MakeConfig, data_dir: Path) -> None:
    (data_dir / "Images" / "1.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png"):
        trial_of(make_config(batch_size="auto"))
    trial, _ = trial_of(make_config(batch_size="auto", on_bad_image="skip"))
    assert "1.png" not in {group[0].images[0].name for group in trial.groups}


@pytest.mark.parametrize("share", [True, False])
def test_a_trial_leaves_no_trace(make_config: MakeConfig, share: bool) -> None:
    config = make_config(batch_size="auto", share_images=share)
    trial, model = trial_of(config)
    limited(model, 150)
    model.eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state, python_state = torch.get_rng_state(), random.getstate()
    found = find_batch_size(make_plan(config), model, trial.collate, trial.sharing)
    assert 1 <= found < sizes(make_plan(config))[0]
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python_state
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_a_trial_goes_forward_and_backward_in_train_mode(make_config: MakeConfig) -> None:
    trial, model = trial_of(make_config(batch_size="auto"))
    seen = []

    def note(module: Any, *_: Any) -> None:
        seen.append(module.training)

    model.get_base_model().register_forward_hook(note)
    weight = next(parameter for name, parameter in model.named_parameters() if "lora_B" in name)
    weight.register_hook(lambda gradient: seen.append(bool(gradient.abs().sum() > 0)))
    trial(2)
    assert seen == [True, True]


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_takes_the_number_and_equals_one_that_was_told_it(
    make_config: MakeConfig, limit: Callable[[int], None], tokens_of: Callable[..., int]
) -> None:
    told = make_config(batch_size=4, output_dir=str(make_config().output_dir) + "-told")
    train(told)
    limit(tokens_of(4))
    config = make_config(batch_size="auto")
    train(config)
    content = recorded(config)
    assert content["identity"]["batch_size x grad_accum x processes"] == 8
    assert content["settings"]["batch_size"] == 4
    assert content["total_steps"] == recorded(told)["total_steps"] == 5
    assert adapter_bytes(config) == adapter_bytes(told)
    assert "batch_size: auto" in (config.output_dir / "config.yaml").read_text()


def never(*_: Any) -> int:
    raise AssertionError("the number was to be taken from the record")


@pytest.fixture
def interrupted(
    make_config: MakeConfig,
    limit: Callable[[int], None],
    tokens_of: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Config]:
    """A run whose batch size 2 was found, stopped after step 5 of 9; from then on no number is looked for."""
    limit(tokens_of(2))
    config = make_config(batch_size="auto")
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 5, 15)
    limit(10**6)
    monkeypatch.setattr(attempt, "find_batch_size", never)
    return config


def test_a_continued_run_takes_the_recorded_number(interrupted: Config, make_config: MakeConfig) -> None:
    """On a GPU with more memory, too."""
    train(interrupted)
    assert outcome(interrupted) == {"exit_code": 0, "reason": "done", "step": 9, "attempt": 2}
    told = make_config(batch_size=2, output_dir=str(interrupted.output_dir) + "-told")
    train(told)
    assert adapter_bytes(interrupted) == adapter_bytes(told)


def test_a_continued_run_finds_its_number_without_run_json(interrupted: Config) -> None:
    (interrupted.output_dir / "run.json").unlink()
    train(interrupted)
    assert outcome(interrupted)["step"] == 9
    assert recorded(interrupted)["settings"]["batch_size"] == 2


@pytest.mark.parametrize(("grad_accum", "batch_size"), [(1, 4), (4, 1)])
def test_another_cut_of_the_same_step_continues(
    interrupted: Config, make_config: MakeConfig, grad_accum: int, batch_size: int
) -> None:
    train(make_config(batch_size="auto", grad_accum=grad_accum))
    assert recorded(interrupted)["settings"]["batch_size"] == batch_size
    assert outcome(interrupted)["step"] == 9


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"grad_accum": 3}, r"\(batch_size x grad_accum x processes was 4, is now 'auto x 3 x 1'\)"),
        ({"lr": 1e-3}, r"\(lr was 0.01, is now 0.001\)"),
    ],
)
@pytest.mark.parametrize("without_record", [False, True])
def test_another_run_is_refused_by_the_setting_that_differs(
    interrupted: Config, make_config: MakeConfig, changes: dict[str, Any], named: str, without_record: bool
) -> None:
    if without_record:
        (interrupted.output_dir / "run.json").unlink()
    with pytest.raises(ConfigError, match=named):
        train(make_config(batch_size="auto", **changes))


def test_a_number_instead_of_auto_continues(interrupted: Config, make_config: MakeConfig) -> None:
    """What to do where the number that was found does not fit into another GPU."""
    train(make_config(batch_size=1, grad_accum=4))
    assert outcome(interrupted)["step"] == 9


def test_auto_continues_a_run_that_was_told_a_number(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, make_config(), 5, 15)
    monkeypatch.setattr(attempt, "find_batch_size", never)
    train(make_config(batch_size="auto"))
    assert outcome(make_config())["step"] == 9


def test_checkpointing_of_activations_may_be_switched_on_after_a_failure(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes no weight, and the message on a lack of memory advises it."""
    whole = make_config(output_dir=str(make_config().output_dir) + "-whole")
    train(whole)
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, make_config(), 5, 15)
    train(make_config(use_gradient_checkpointing=True))
    assert adapter_bytes(make_config()) == adapter_bytes(whole)


def test_a_done_run_is_recognised_without_a_model(
    interrupted: Config, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(interrupted)
    before = (interrupted.output_dir / "run.json").read_bytes()
    monkeypatch.setattr(attempt, "load_base", never)
    caplog.set_level("INFO", logger="vizsage")
    train(interrupted)
    assert "already done after 9 steps" in caplog.text
    assert (interrupted.output_dir / "run.json").read_bytes() == before
    with pytest.raises(ConfigError, match=r"\(lr was"):
        train(make_config(batch_size="auto", lr=1e-3))


def test_a_kill_in_the_search_leaves_a_run_that_searches_again(
    make_config: MakeConfig, limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(10**6)
    config = make_config(batch_size="auto", resume=False, max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "find_batch_size", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert recorded(config)["total_steps"] is None
    train(config)
    assert outcome(config) == {"exit_code": 0, "reason": "done", "step": 2, "attempt": 2}
    assert recorded(config)["settings"]["batch_size"] == 8


def test_resume_false_interrupted_goes_on_with_the_number(
    make_config: MakeConfig,
    limit: Callable[[int], None],
    tokens_of: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(tokens_of(2))
    config = make_config(batch_size="auto", resume=False)
    with pytest.raises(Interrupted):
        train_with_signal(monkeypatch, config, 5, 15)
    monkeypatch.setattr(attempt, "find_batch_size", never)
    train(config)
    assert [attempt["resumed_from_step"] for attempt in recorded(config)["attempts"]] == [0, 5]


def test_where_other_settings_fix_a_failure_the_search_is_repeated(
    make_config: MakeConfig,
    limit: Callable[[int], None],
    tokens_of: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limit(tokens_of(2))
    monkeypatch.setattr(
        attempt, "trainer_arguments", lambda *_, **__: (_ for _ in ()).throw(RepeatingError("diverged"))
    )
    with pytest.raises(RepeatingError, match="diverged"):
        train(make_config(batch_size="auto", max_steps=2))
    assert recorded(make_config())["settings"]["batch_size"] == 2
    monkeypatch.undo()
    monkeypatch.setattr(training, "memory_is_limited", lambda config: True)
    train(make_config(batch_size="auto", max_steps=2, lr=1e-3))
    assert recorded(make_config())["settings"]["batch_size"] == 8


def test_where_one_question_does_not_fit_the_run_ends_with_the_numbers(
    make_config: MakeConfig, limit: Callable[[int], None]
) -> None:
    limit(5)
    config = make_config(batch_size="auto")
    with pytest.raises(RepeatingError, match="batch_size 1, ") as caught:
        train(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "set use_gradient_checkpointing: true" in message
    assert "lower batch_size" not in message
    assert outcome(config) == {"exit_code": 4, "reason": message, "step": 0, "attempt": 1}


def test_a_cpu_has_no_limit(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config(batch_size="auto", max_steps=2)
    train(config)
    assert caplog.text.count("batch_size: auto replaced by 2") == 1
    assert recorded(config)["settings"]["batch_size"] == 2
    train(config)
    assert caplog.text.count("batch_size: auto replaced by 2") == 1
