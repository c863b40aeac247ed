"""The content of run.json, outcome.json and metrics.jsonl, and the one reader of each.

Few keys are required, because files of earlier versions lack some; keys of later versions are kept. A reader raises
OSError where a file cannot be read, and ValueError with one line of text where it contains something else. The caller
decides what follows from that: a training refuses to continue, a table of runs shows "damaged".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from vizsage.contract import ADAPTER_WEIGHTS, METRICS, OUTCOME, RUN
from vizsage.contract.file_model import FileModel, Number, parsed
from vizsage.contract.hashes_file import HashesFacts
from vizsage.files import read_json
from vizsage.json_lines import last_record, read_jsonl

SCHEMA_VERSION = 1
"""The version of run.json that this code writes, and the latest that it reads."""

Identity = dict[str, Any]
"""What decides the weights of a run, by name: settings, seed, sha256 of the data, samples per optimizer step."""

EXTENSIONS = "extensions"
"""The key in an identity for how the run was made longer: a list of `Extension`. Absent where it was not."""

LENGTH_SETTINGS = frozenset(
    "epochs max_steps use_early_stopping early_stopping_patience_ratio early_stopping_threshold".split()
)
"""The settings by which a run that has ended may have steps left to do."""

MACHINE_SETTINGS = frozenset(
    "backend device load_in_4bit use_bf16 optim attn_implementation use_gradient_checkpointing".split()
)
"""The settings that may be others in run.json than in config.yaml, because the machine cannot run them as given."""

TRAINING_SETTINGS = LENGTH_SETTINGS | frozenset(
    "name_trained_model finetune_vision_layers finetune_language_layers finetune_attention_modules "
    "finetune_mlp_modules finetune_norm_layers lora_r lora_alpha lora_dropout bias use_rslora use_dora loftq_config "
    "batch_size grad_accum longer_schedule init_adapter lr warmup_steps weight_decay optim scheduler max_grad_norm "
    "torch_compile use_gradient_checkpointing logging_steps eval_steps save_steps n_saves resume val_at_start "
    "save_model save_path".split()
)
"""The settings that are of no effect on an evaluation of the base model."""


def _readable(version: int) -> int:
    if version > SCHEMA_VERSION:
        raise ValueError(f"version {version} was written by a later release; this one reads up to {SCHEMA_VERSION}")
    return version


def _with_adapter_name(settings: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(settings.get("name_trained_model", ""), str):
        raise ValueError("name_trained_model is no text")
    return settings


class Extension(FileModel):
    """More steps that a run was given, after it had ended or while it was interrupted."""

    at_step: int = Field(ge=0, description="Optimizer steps done before it; the next step is its first.")
    from_steps: int = Field(ge=1, description="Optimizer steps of the whole run before it.")
    to_steps: int = Field(ge=1, description="Optimizer steps of the whole run since.")
    schedule: Literal["stretch", "rewarm", "constant"] = Field(description="The setting longer_schedule.")


class Attempt(FileModel):
    """One call of `vizsage train` on the run. It has no `exit_code` while it runs, and none after a kill."""

    started: str | None = Field(default=None, description="UTC, ISO 8601.")
    resumed_from_step: int | None = Field(
        default=None, description="Step of the checkpoint that it continued; 0: none."
    )
    resume: bool | None = Field(default=None, description="The setting of that name.")
    argv: list[str] | None = Field(default=None, description="The command.")
    host: str | None = None
    machine: str | None = Field(default=None, description="Processor architecture.")
    cpus: int | None = None
    gpus: list[str] | None = Field(default=None, description="Names of the GPUs.")
    ended: str | None = Field(default=None, description="UTC, ISO 8601.")
    step: int | None = Field(default=None, description="Optimizer steps done at its end.")
    exit_code: int | None = None
    reason: str | None = Field(default=None, description="One line: why it ended.")

    @property
    def went_forward(self) -> bool:
        """Whether it did at least one optimizer step. Raises ValueError where the file does not contain it."""
        if self.step is None or self.resumed_from_step is None:
            raise ValueError("the last attempt has no step, or no resumed_from_step")
        return self.step > self.resumed_from_step


class RunFile(FileModel):
    """run.json: what ran, on which data, with which versions, and each attempt."""

    schema_version: Annotated[int, AfterValidator(_readable)] = SCHEMA_VERSION
    identity: Identity | None = Field(
        default=None,
        description="What decides the weights. A continued run must have the same, or more steps: see extensions.",
    )
    settings: Annotated[dict[str, Any], AfterValidator(_with_adapter_name)] | None = Field(
        default=None, description="All settings, as this machine could run them."
    )
    counts: dict[str, Any] | None = Field(default=None, description="Records and samples of the splits train and val.")
    splits: dict[str, str] | None = Field(default=None, description="SHA-256 of the files of each split.")
    sample_hashes: HashesFacts | None = Field(
        default=None, description="Of the training split: the sample_hashes.json beside this file."
    )
    total_steps: int | None = Field(
        default=None, description="Optimizer steps of the run; null until a batch size is found."
    )
    versions: dict[str, str] | None = Field(default=None, description="Versions of Python and of the libraries.")
    attempts: list[Attempt] = Field(default=[], description="In their order.")
    wandb_run_id: str | None = Field(default=None, description="Of earlier versions; now in wandb/vizsage-run-id.")
    left_out: dict[str, str] | None = Field(
        default=None, description="Why a training sample was left out, by sample id."
    )
    best_step: int | None = Field(default=None, description="The step whose weights were saved as the adapter.")

    @property
    def last_attempt(self) -> Attempt:
        """The newest one. Raises ValueError where there is none."""
        if not self.attempts:
            raise ValueError("attempts is missing or empty")
        return self.attempts[-1]

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """How the run was made longer, oldest first. Raises ValueError where the identity contains something else."""
        return extensions_of(self.identity or {})

    def has_length_of(self, settings: dict[str, Any]) -> bool:
        """Whether `settings`, as Config.model_dump(mode="json") writes them, ask for the steps of the last attempt."""
        known = self.settings
        return known is None or all(known.get(name) == settings.get(name) for name in LENGTH_SETTINGS)


class Outcome(FileModel):
    """outcome.json: how the last attempt ended. An attempt deletes it when it begins and writes it as its last file."""

    exit_code: int
    reason: str = Field(description="One line: why it ended.")
    step: int = Field(description="Optimizer steps done.")
    attempt: int = Field(description="Number of the attempt, from 1.")


class MetricsLine(FileModel):
    """A line of metrics.jsonl: the loss every logging_steps, or the scores of a validation.

    The line of a validation at step 0 is that of the model before its first optimizer step.
    """

    step: int = Field(description="Optimizer steps done.")
    epoch: Number | None = None
    loss: Number | None = Field(
        default=None, description="Mean, in nats per answer token; null: all samples were left out."
    )
    grad_norm: Number | None = None
    lr: Number | None = None
    samples_per_s: Number | None = None
    data_wait_share: Number | None = Field(
        default=None, description="Share of the time in which training waited for data."
    )
    exact_match: Number | None = Field(default=None, description="Validation, 0 to 1; null: no sample was scored.")
    exact_match_with_external_knowledge: Number | None = None
    exact_match_without_external_knowledge: Number | None = None
    val_loss: Number | None = Field(
        default=None,
        description="Validation: mean in nats per answer token; null: no sample could be read.",
    )
    val_samples: int | None = None
    failed: int | None = Field(
        default=None, description="Validation samples without a prediction; they count as wrong."
    )
    attempt: int | None = None
    gpu_memory_peak_gib: Number | None = None

    @property
    def is_validation(self) -> bool:
        """Whether it has the scores of a validation, not the training loss."""
        return "exact_match" in self.model_fields_set


def extensions_of(identity: Identity) -> tuple[Extension, ...]:
    """How a run was made longer, oldest first. Raises ValueError where the identity contains something else."""
    found = identity.get(EXTENSIONS, [])
    if not isinstance(found, list):
        raise ValueError(f"{EXTENSIONS} is no list")
    return tuple(parsed(Extension, one) for one in found)


def read_run(output_dir: Path) -> RunFile:
    """run.json of a run directory. Raises OSError, or ValueError."""
    return parsed(RunFile, read_json(output_dir / RUN))


def last_outcome(output_dir: Path) -> Outcome | None:
    """outcome.json of a run directory; None where there is none, or one that contains something else. Raises OSError.

    There is none before the first attempt has ended, while one is running, and after a kill.
    """
    try:
        return parsed(Outcome, read_json(output_dir / OUTCOME))
    except (FileNotFoundError, ValueError):
        return None


def adapter_is_there(folder: Path | None) -> bool:
    """Whether the adapter is in its folder. None: the settings say to save none, so none is missing."""
    return folder is None or (folder / ADAPTER_WEIGHTS).exists()


def read_metrics(output_dir: Path) -> Iterator[MetricsLine]:
    """The lines of metrics.jsonl; a last one that a kill cut off is left out. Raises OSError, or ValueError."""
    for number, line in enumerate(read_jsonl(output_dir / METRICS, rewritable=True), start=1):
        try:
            yield parsed(MetricsLine, line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def last_metrics(output_dir: Path) -> MetricsLine | None:
    """The last line of metrics.jsonl, None where there is none; reads the end only. Raises OSError, or ValueError."""
    line = last_record(output_dir / METRICS)
    return None if line is None else parsed(MetricsLine, line)
