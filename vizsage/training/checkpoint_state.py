"""Checks of the files that libraries saved in a whole checkpoint, before they load them."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from vizsage.errors import is_out_of_memory, one_line
from vizsage.models.adapters.adapter_config import LOADING_ERRORS
from vizsage.training import checkpoints

_NUMBERS = set(
    "epoch global_step max_steps logging_steps eval_steps save_steps train_batch_size num_train_epochs "
    "num_input_tokens_seen total_flos best_metric best_global_step".split()
)


def check_state(folder: Path) -> None:
    """Raise CheckpointError unless the Trainer can continue from trainer_state.json of the checkpoint `folder`."""
    path = folder / TRAINER_STATE_NAME
    state = checkpoints.read_object(path)
    if unknown := state.keys() - {field.name for field in fields(TrainerState)}:
        raise checkpoints.not_as_written(path, f"unknown: {min(unknown)}")
    if state.get("global_step") != checkpoints.step_of(folder):
        raise checkpoints.not_as_written(path, "global_step is not that of the checkpoint")
    for name in _NUMBERS & state.keys():
        if type(state[name]) not in (int, float, type(None)):
            raise checkpoints.not_as_written(path, f"{name} is no number")
    history, callbacks = state.get("log_history", []), state.get("stateful_callbacks", {})
    if not isinstance(history, list) or not all(isinstance(line, dict) for line in history):
        raise checkpoints.not_as_written(path, "log_history is no list of objects")
    if not isinstance(callbacks, dict) or not all(isinstance(one, dict) for one in callbacks.values()):
        raise checkpoints.not_as_written(path, "stateful_callbacks are no objects")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn a library's error over a file of a checkpoint into CheckpointError with one line."""
    try:
        yield
    except (*LOADING_ERRORS, pickle.UnpicklingError, EOFError) as error:
        if is_out_of_memory(error):
            raise
        raise checkpoints.not_as_written(path, one_line(error)) from error
