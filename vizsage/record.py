"""Writing run.json (what ran, on what, from which data) and outcome.json (how the last attempt ended).

run.json is written when an attempt begins and again when it ends. Its list "attempts" grows by one each time the same
command is given again; what decides the adapter (settings, seed, data) must be the same each time. The content of both
files is described in vizsage.contract.run_files.
"""

from __future__ import annotations

import datetime
import os
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, TypedDict

from vizsage import __version__
from vizsage.config import Config
from vizsage.contract import EXIT_DONE, EXITS_WITH_CAUSE, OUTCOME, RUN
from vizsage.contract.run_files import (
    EXTENSIONS,
    SCHEMA_VERSION,
    Attempt,
    Identity,
    Outcome,
    RunFile,
    last_outcome,
    read_run,
)
from vizsage.errors import CheckpointError, one_line
from vizsage.files import write_json

# Settings that may differ when a run is continued, because none of them changes the weights of a step or which step is
# kept as the best. batch_size and grad_accum may differ if their product with the number of processes is the same.
# What longer_schedule and the file of init_adapter have done is in the identity under other names.
FREE_SETTINGS = frozenset(
    "num_proc logging_steps save_steps n_saves resume eval_batch_size eval_batch_tokens do_sample temperature top_p "
    "top_k num_beams debug_exact_match trackers use_wandb wandb_project wandb_run_name wandb_tags val_at_start "
    "output_dir save_model save_path name_trained_model base_path external_knowledge_path use_val_streaming "
    "max_image_px device batch_size grad_accum share_images torch_compile use_gradient_checkpointing seed "
    "reproducible use_early_stopping early_stopping_patience_ratio early_stopping_threshold longer_schedule "
    "init_adapter".split()
)
GLOBAL_BATCH = "batch_size x grad_accum x processes"
"""The key in an identity for the number of samples per optimizer step."""
INIT_WEIGHTS = "weights of init_adapter"
"""The key in an identity for the SHA-256 sum of the weights that the run began from; absent where they were new."""


class RunFacts(TypedDict):
    """The content of run.json before a run is trained; see vizsage.contract.run_files.RunFile."""

    identity: Identity
    settings: dict[str, Any]
    counts: dict[str, Any]
    splits: dict[str, str]
    total_steps: int | None


class Hardware(TypedDict):
    """Where an attempt ran."""

    host: str
    machine: str
    cpus: int | None
    gpus: list[str]


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that can change a result."""
    found = {"vizsage": __version__, "python": platform.python_version()}
    packages = "torch transformers peft trl accelerate tokenizers pillow bitsandbytes unsloth vllm".split()
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> Hardware:
    """Host, processor and GPUs. Imports torch."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"host": socket.gethostname(), "machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}


def run_identity(
    config: Config, *, global_batch: int | str, seed: int, data: str, init_sha256: str | None = None
) -> Identity:
    """What must be the same when a run is continued: the settings that change the weights, seed and data.

    Args:
        config: the settings.
        global_batch: samples per optimizer step; a text until a batch size has been found.
        seed: the seed in use.
        data: see vizsage.data.sources.data_identity.
        init_sha256: of the weights in init_adapter; None without that setting.
    """
    settings = config.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    init = {} if init_sha256 is None else {INIT_WEIGHTS: init_sha256}
    return settings | {GLOBAL_BATCH: global_batch, "seed": seed, "data": data} | init


def differences(before: Identity, now: Identity) -> list[str]:
    """The names in which two identities differ. Settings that only an earlier version compared do not count.

    How a run was made longer does not count either: its settings do not say at which step.
    """
    keys = (before.keys() | now.keys()) - (FREE_SETTINGS - {"seed"}) - {EXTENSIONS}
    return sorted(key for key in keys if before.get(key) != now.get(key))


class RunRecord:
    """The run.json of one output_dir.

    Raises CheckpointError when an existing file cannot be read.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / RUN
        self.content = RunFile()
        if self.path.exists():
            try:
                self.content = read_run(output_dir)
                _require_start(self.content)
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{self.path}: not a record of a run ({one_line(error)}); move it away or name another output_dir"
                ) from None

    @property
    def exists(self) -> bool:
        """Whether a run began here before."""
        return bool(self.content.attempts)

    @property
    def attempt(self) -> int:
        """Number of the current attempt, from 1."""
        return len(self.content.attempts)

    @property
    def identity(self) -> Identity | None:
        """What the run was when its last attempt began; None where none began."""
        return self.content.identity

    @property
    def seed(self) -> int | None:
        """The seed the run began with."""
        return self.identity["seed"] if self.identity else None

    def is_restart_under_way(self, identity: Identity) -> bool:
        """Whether the last attempt began this run with resume: false and has not ended by itself.

        The same command then continues it. Otherwise a job with resume: false that is interrupted and tried again would
        begin from the start each time, and never end.
        """
        if self.identity is None or differences(self.identity, identity):
            return False
        last = self.content.attempts[-1]
        return last.resume is False and last.exit_code not in (EXIT_DONE, *EXITS_WITH_CAUSE)

    def begin_attempt(self, facts: RunFacts, resumed_step: int, *, resume: bool = True) -> None:
        """Add an attempt and write the file."""
        self.content.schema_version = SCHEMA_VERSION
        self._set(**facts, versions=versions())
        attempt = Attempt(started=now(), resumed_from_step=resumed_step, resume=resume, argv=sys.argv, **hardware())
        self.note(attempts=[*self.content.attempts, attempt])

    def note(self, **fields: Any) -> None:
        """Set fields of RunFile and write the file."""
        self._set(**fields)
        write_json(self.path, self.content.content())

    def end_attempt(self, *, step: int, exit_code: int, reason: str) -> None:
        """Complete the current attempt with how it ended and write the file."""
        attempt = self.content.attempts[-1]
        attempt.ended, attempt.step, attempt.exit_code, attempt.reason = now(), step, exit_code, reason
        self.note()

    def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.content, name, value)


def _require_start(content: RunFile) -> None:
    """Raise ValueError unless `content` has what the first attempt writes and every later one needs."""
    if content.identity is None or type(content.identity.get("seed")) is not int:
        raise ValueError("identity is missing, or its seed")
    if not content.attempts:
        raise ValueError("attempts is missing, or no list of objects")
    _ = content.extensions  # raises for something else


def write_outcome(output_dir: Path, outcome: Outcome) -> None:
    """Write outcome.json, the last file of an attempt."""
    write_json(output_dir / OUTCOME, outcome.content())


def outcome_of(output_dir: Path) -> Outcome | None:
    """vizsage.contract.run_files.last_outcome. Raises CheckpointError where the file cannot be read."""
    try:
        return last_outcome(output_dir)
    except OSError as error:
        raise CheckpointError(f"{output_dir / OUTCOME}: cannot be read: {error.strerror}; move it away") from None
