"""run.json: what ran, on what, from which data; and outcome.json: how the last attempt ended.

run.json is written when an attempt begins and again when it ends. Its "attempts" list grows by one each time the
same command is given again; the facts that decide the adapter (settings, seed, data) must stay what they were.
"""

from __future__ import annotations

import datetime
import logging
import os
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from vizsage import __version__
from vizsage.config import Config
from vizsage.errors import CheckpointError, ConfigError, one_line
from vizsage.files import read_json, write_json

log = logging.getLogger(__name__)

SCHEMA_VERSION = 1

# Settings that may differ when a run is continued: none of them changes the weights that come out, or which of them
# are kept as the best. batch_size and grad_accum may differ while their product with the processes stays.
FREE_SETTINGS = frozenset(
    "num_proc logging_steps save_steps n_saves resume eval_batch_size eval_batch_tokens do_sample temperature top_p "
    "top_k num_beams debug_exact_match use_wandb wandb_project wandb_run_name wandb_tags output_dir save_model "
    "save_path name_trained_model base_path external_knowledge_path use_val_streaming max_image_px device batch_size "
    "grad_accum share_images torch_compile use_gradient_checkpointing seed reproducible".split()
)
GLOBAL_BATCH = "batch_size x grad_accum x processes"
"""Name in an identity of the samples of one optimizer step."""


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"vizsage": __version__, "python": platform.python_version()}
    packages = "torch transformers peft trl accelerate tokenizers pillow bitsandbytes unsloth vllm".split()
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Host, processor and GPUs. Imports torch."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"host": socket.gethostname(), "machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}


def run_identity(config: Config, *, global_batch: int | str, seed: int, data: str) -> dict[str, Any]:
    """What a continued run must share with its beginning: the settings that change the weights, seed and data.

    `global_batch` is a text as long as a batch size is still to be found.
    """
    settings = config.model_dump(mode="json", exclude=set(FREE_SETTINGS))
    return settings | {GLOBAL_BATCH: global_batch, "seed": seed, "data": data}


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What two identities differ in. An older one may name a setting that has become free since; that is none."""
    keys = (before.keys() | now.keys()) - (FREE_SETTINGS - {"seed"})
    return sorted(key for key in keys if before.get(key) != now.get(key))


def check_same_run(output_dir: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise ConfigError naming every setting that differs from how the run in `output_dir` began."""
    if keys := differences(before, now):
        changes = "; ".join(f"{k} was {before.get(k)!r}, is now {now.get(k)!r}" for k in keys)
        raise ConfigError(
            f"{output_dir}: holds a run with other settings ({changes}); give it the same settings to continue, "
            "another output_dir for a new run, or resume=false to set this one aside and start anew"
        )


class RunRecord:
    """The run.json of one output_dir.

    Raises CheckpointError when an existing file cannot be read.
    """

    def __init__(self, output_dir: Path) -> None:
        self.path = output_dir / "run.json"
        self.content: dict[str, Any] = {}
        if self.path.exists():
            try:
                self.content = read_json(self.path)
                _require_record(self.content)
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{self.path}: not a record of a run ({one_line(error)}); move it away or name another output_dir"
                ) from None

    @property
    def exists(self) -> bool:
        """Whether a run began here before."""
        return bool(self.content)

    @property
    def attempt(self) -> int:
        """Number of the current attempt, from 1."""
        return len(self.content.get("attempts", ()))

    def recorded_seed(self) -> int | None:
        """The seed the run began with."""
        return self.content["identity"]["seed"] if self.exists else None

    def goes_on_anew(self, identity: dict[str, Any]) -> bool:
        """Whether this very run was begun with resume: false and has not ended: the same command then continues it."""
        if not self.exists or differences(self.content["identity"], identity):
            return False
        last = self.content["attempts"][-1]
        return last.get("resume") is False and last.get("exit_code") not in (0, 2, 3, 4)

    def begin_attempt(self, facts: dict[str, Any], resumed_step: int, *, resume: bool = True) -> None:
        """Add an attempt and write the file."""
        self.content = {
            "schema_version": SCHEMA_VERSION,
            **self.content,
            **facts,
            "attempts": [
                *self.content.get("attempts", []),
                {"started": now(), "resumed_from_step": resumed_step, "resume": resume, "argv": sys.argv, **hardware()},
            ],
        }
        write_json(self.path, self.content)

    def note(self, facts: dict[str, Any]) -> None:
        """Add facts about the run and write the file."""
        self.content |= facts
        write_json(self.path, self.content)

    def end_attempt(self, facts: dict[str, Any]) -> None:
        """Complete the current attempt with how it ended and write the file."""
        self.content["attempts"][-1] |= {"ended": now(), **facts}
        write_json(self.path, self.content)


def _require_record(content: Any) -> None:
    """Raise ValueError unless `content` has what is read of a run.json."""
    if not isinstance(content, dict):
        raise ValueError("expected an object")
    identity, attempts, settings = (content.get(name) for name in ("identity", "attempts", "settings"))
    if not isinstance(identity, dict) or type(identity.get("seed")) is not int:
        raise ValueError("identity is missing, or its seed")
    if not isinstance(attempts, list) or not attempts or not all(isinstance(one, dict) for one in attempts):
        raise ValueError("attempts is missing, or no list of objects")
    if settings is not None and not (
        isinstance(settings, dict) and isinstance(settings.get("name_trained_model", ""), str)
    ):
        raise ValueError("settings is no object, or its name_trained_model no text")


def write_outcome(output_dir: Path, *, exit_code: int, reason: str, step: int, attempt: int) -> None:
    """Write outcome.json, the last file of an attempt."""
    write_json(
        output_dir / "outcome.json", {"exit_code": exit_code, "reason": reason, "step": step, "attempt": attempt}
    )


def read_outcome(output_dir: Path) -> dict[str, Any] | None:
    """How the last attempt ended, or None where none ended, or the file tells something else.

    Raises CheckpointError where it cannot be read.
    """
    path = output_dir / "outcome.json"
    try:
        outcome = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; move it away") from None
    told = isinstance(outcome, dict) and all(type(outcome.get(name)) is int for name in ("exit_code", "step"))
    return outcome if told and isinstance(outcome.get("reason"), str) else None
